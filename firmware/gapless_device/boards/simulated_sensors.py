"""Readings for a board without sensors: integer waves with a whole unit, made from the ticks."""


def triangle(now_ms, period_ms, low, high):
    """Return a value that goes from `low` to `high` and back once in `period_ms`."""
    place = now_ms % period_ms * 2
    if place > period_ms:
        place = 2 * period_ms - place
    return low + (high - low) * place // period_ms


def temperature_mdegc(now_ms):
    """Return thousandths of a degree Celsius."""
    return triangle(now_ms, 20000, 18500, 23750) + triangle(now_ms, 1700, 0, 90)


def supply_mv(now_ms):
    """Return millivolts."""
    return triangle(now_ms, 7000, 3284, 3311)


def flow_ml_per_min(now_ms):
    """Return millilitres per minute: a pump that stands still for half of the time."""
    return max(0, triangle(now_ms, 9000, -1200, 1200))


SENSORS = {
    "temperature_mdegC": temperature_mdegc,
    "supply_mV": supply_mv,
    "flow_ml_per_min": flow_ml_per_min,
}
