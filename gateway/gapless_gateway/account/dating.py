"""When a record was made, as a bound: from pairs of a board's uptime and the gateway's UTC.

A board has no clock, only milliseconds since its boot. Every exchange on the link yields a pair:
at this uptime it was between these two moments here. A pair bounds every other moment of the same
boot, wider the further away it is, since the two clocks drift: by at most `drift_ppm_max`. All
pairs of a boot bound a moment at once, those before it and those after it; the bound is where they
overlap, so a record between two pairs has the better of both sides.

Pairs of another boot say nothing: nobody knows how long a board was off. What cannot be dated has
no lower bound, and as upper bound the moment it was received, or the start of the next boot that
is known, whichever is earlier.

Not modelled is a gateway clock that is stepped while it reports to be synchronised. Two pairs that
contradict each other show it; then the older ones are forgotten, and `contradictions` counts it.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable
from typing import Any, NamedTuple

from gapless_gateway.wal.entries import (
    T_SOURCE_LINK,
    T_SOURCE_NONE,
    T_SOURCE_UNSYNCED,
    TIME_UNKNOWN,
    TimePair,
)

TICKS_PERIOD_MS = 1 << 30
DRIFT_PPM_MAX = 100
PAIRS_MAX = 16  # per boot
BOOTS_MAX = 8  # per stream, the newest
# A pair is kept when it narrows the bound by this much: at 100 ppm about every twenty seconds.
GAIN_MS_MIN = 4


class Pair(NamedTuple):
    """At `uptime_ms` of the board it was in [utc_lo_ms, utc_hi_ms]."""

    uptime_ms: int
    utc_lo_ms: int
    utc_hi_ms: int

    @property
    def width_ms(self) -> int:
        """How unsure the pair is."""
        return self.utc_hi_ms - self.utc_lo_ms


class Stretch(NamedTuple):
    """Uptimes first_ms..last_ms, whose bounds are [uptime + lo_ms, uptime + hi_ms] in UTC."""

    first_ms: float
    last_ms: float
    lo_ms: int
    hi_ms: int


NO_STRETCH = Stretch(1, 0, 0, 0)  # no moment lies in it


class Dated(NamedTuple):
    """The three time fields of a Record entry, ready to be stored."""

    t_lo_ms: int
    t_hi_ms: int
    t_source: int


def uptime_ms(wraps: int, ticks_ms: int) -> int:
    """Milliseconds since boot, from a board's ticks (modulo 2^30) and the wraps it counted."""
    return wraps * TICKS_PERIOD_MS + ticks_ms


class ClockModel:
    """The pairs of one boot of one board, at most 16, and the bounds that follow from them."""

    def __init__(self, drift_ppm_max: int = DRIFT_PPM_MAX) -> None:
        self.drift_ppm_max = drift_ppm_max
        self.pairs: list[Pair] = []  # by uptime
        self.synced = False  # what the kernel said when the pairs were taken
        self.contradictions = 0
        self._stretch = NO_STRETCH  # the one found last; it holds while the pairs stay the same

    def add(self, uptime_ms: int, utc_lo_ms: int, utc_hi_ms: int, *, synced: bool = True) -> bool:
        """Take a pair in. True when it told something new, so that it is worth a log entry.

        Pairs of a synchronised clock replace all of an unsynchronised one, and are never joined
        by such.
        """
        if self.synced and not synced:
            return False
        pair = Pair(uptime_ms, utc_lo_ms, max(utc_lo_ms, utc_hi_ms))
        known = self.date(uptime_ms)
        if known is None or synced != self.synced:
            self.pairs, self.synced, self._stretch = [pair], synced, NO_STRETCH
            return True
        lo, hi = max(known[0], pair.utc_lo_ms), min(known[1], pair.utc_hi_ms)
        if lo > hi:
            self.contradictions += 1
            self.pairs, self._stretch = [pair], NO_STRETCH
            return True
        if (known[1] - known[0]) - (hi - lo) < max(GAIN_MS_MIN, (hi - lo) // 4):
            return False
        self._stretch = NO_STRETCH
        insort(self.pairs, pair)
        if len(self.pairs) > PAIRS_MAX:
            self._drop_one()
        return True

    def date(self, uptime_ms: int) -> tuple[int, int] | None:
        """The bound [lo, hi] in UTC ms of a moment of this boot; None without a pair."""
        if not self.pairs:
            return None
        first_ms, last_ms, lo_ms, hi_ms = self._stretch
        if not first_ms <= uptime_ms <= last_ms:
            return self._bound(self.pairs, uptime_ms)
        return uptime_ms + lo_ms, uptime_ms + hi_ms

    def stretch(self, uptime_ms: int) -> Stretch:
        """Find the stretch that a moment of this boot lies in. There must be a pair.

        The bounds of all moments of a stretch follow by one addition: records come in runs, and
        sixteen pairs for each of them would be dear.
        """
        first_ms, last_ms, _, _ = self._stretch
        if not first_ms <= uptime_ms <= last_ms:
            lo, hi = self._bound(self.pairs, uptime_ms)
            sames = [self._same_drift(pair, uptime_ms) for pair in self.pairs]
            self._stretch = Stretch(
                max(first for first, _ in sames),
                min(last for _, last in sames),
                lo - uptime_ms,
                hi - uptime_ms,
            )
        return self._stretch

    def _bound(self, pairs: Iterable[Pair], uptime_ms: int) -> tuple[int, int]:
        """What these pairs say of a moment: where the bounds of each overlap."""
        ppm, parts = self.drift_ppm_max, 1_000_000 - self.drift_ppm_max
        los, his = [], []
        for at_ms, utc_lo_ms, utc_hi_ms in pairs:
            away = uptime_ms - at_ms
            # A board that runs fast by ppm measures more than passed: hence 1e6 - ppm. Rounded up.
            drift = -(-abs(away) * ppm // parts)
            los.append(utc_lo_ms + away - drift)
            his.append(utc_hi_ms + away + drift)
        return max(los), min(his)

    def _same_drift(self, pair: Pair, uptime_ms: int) -> tuple[float, float]:
        """First and last moment for which the drift to this pair, in whole ms, is the same."""
        away, ppm = uptime_ms - pair.uptime_ms, self.drift_ppm_max
        if not ppm:
            return -math.inf, math.inf
        parts = 1_000_000 - ppm
        drift = -(-abs(away) * ppm // parts)
        nearest = (drift - 1) * parts // ppm + 1 if drift else 0
        farthest = drift * parts // ppm
        if away < 0:
            return pair.uptime_ms - farthest, pair.uptime_ms - nearest
        return pair.uptime_ms + nearest, pair.uptime_ms + farthest

    def _drop_one(self) -> None:
        """Forget the pair that is missed least: never the first, the last or the tightest."""
        tightest = min(self.pairs, key=lambda pair: pair.width_ms)
        candidates = [pair for pair in self.pairs[1:-1] if pair is not tightest]
        self.pairs.remove(min(candidates, key=self._worth_ms))

    def _worth_ms(self, pair: Pair) -> int:
        """By how much the bound at this pair's own moment would widen without it."""
        others = [one for one in self.pairs if one is not pair]
        lo, hi = self._bound(others, pair.uptime_ms)
        return hi - lo - pair.width_ms


class Dating:
    """The clock models of all streams: the newest 8 boots of each."""

    def __init__(self, drift_ppm_max: int = DRIFT_PPM_MAX) -> None:
        self.drift_ppm_max = drift_ppm_max
        self._boots: dict[bytes, dict[int, ClockModel]] = {}

    def add(self, pair: TimePair) -> bool:
        """Take a pair in. True when it told something new, so that it is worth a log entry."""
        bound = pair.utc_lo_ms, pair.utc_hi_ms
        return self.learn(pair.stream, pair.boot, pair.uptime_ms, bound, synced=pair.synced)

    def learn(
        self, stream: bytes, boot: int, uptime_ms: int, utc_ms: tuple[int, int], *, synced: bool
    ) -> bool:
        """As `add`, of a pair that is no entry yet, and mostly will be none."""
        boots = self._boots.setdefault(stream, {})
        model = boots.get(boot)
        if model is None:
            model = boots[boot] = ClockModel(self.drift_ppm_max)
            if len(boots) > BOOTS_MAX:
                del boots[min(boots)]
        return model.add(uptime_ms, *utc_ms, synced=synced)

    def date(self, stream: bytes, boot: int, uptime_ms: int, rx_ms: int) -> Dated:
        """Date a record that was received at `rx_ms`: bounds in UTC ms, and their source."""
        lo, hi = self.bounds(stream, boot, uptime_ms, rx_ms)
        if lo is None:
            return Dated(TIME_UNKNOWN, hi, T_SOURCE_NONE)
        synced = self._boots[stream][boot].synced
        return Dated(lo, hi, T_SOURCE_LINK if synced else T_SOURCE_UNSYNCED)

    def bounds(
        self, stream: bytes, boot: int, uptime_ms: int, rx_ms: int
    ) -> tuple[int | None, int]:
        """[lo, hi] in UTC ms; lo is None for a moment that cannot be dated."""
        boots = self._boots.get(stream, {})
        model = boots.get(boot)
        known = model.date(uptime_ms) if model is not None else None
        if known is None:
            return None, min([rx_ms, *self._starts_after(boots, boot)])
        lo, hi = known
        # Received before it can have been made: the clock was set back, and rx says nothing.
        return lo, min(hi, rx_ms) if rx_ms >= lo else hi

    def model(self, stream: bytes, boot: int) -> ClockModel | None:
        """The clock model of one boot, or None."""
        return self._boots.get(stream, {}).get(boot)

    @staticmethod
    def _starts_after(boots: dict[int, ClockModel], boot: int) -> list[int]:
        """The latest moments at which later boots began; all of this boot was before them."""
        starts = [model.date(0) for later, model in boots.items() if later > boot]
        return [start[1] for start in starts if start is not None]

    def snapshot(self) -> list[Any]:
        """All models as an object for CBOR."""
        return [
            [
                stream,
                [
                    [boot, model.synced, model.contradictions, [list(pair) for pair in model.pairs]]
                    for boot, model in sorted(boots.items())
                ],
            ]
            for stream, boots in self._boots.items()
        ]

    @classmethod
    def restore(cls, state: list[Any], drift_ppm_max: int = DRIFT_PPM_MAX) -> Dating:
        """The models that `snapshot` wrote."""
        dating = cls(drift_ppm_max)
        for stream, boots in state:
            models = dating._boots[stream] = {}
            for boot, synced, contradictions, pairs in boots:
                model = models[boot] = ClockModel(drift_ppm_max)
                model.synced, model.contradictions = synced, contradictions
                model.pairs = [Pair(*pair) for pair in pairs]
        return dating
