"""The quiet end of a run: nothing more is sampled, everything arrives, everyone stops in order."""

from __future__ import annotations

from tests.support.arrivals import Arrivals
from tests.support.consumer_process import ConsumerProcess
from tests.support.gateway_process import GatewayProcess
from tests.support.load import Load
from tests.support.log_lines import grave_lines
from tests.support.patience import as_long_as_it_moves


async def drain_and_stop(
    load: Load, gateway: GatewayProcess, consumer: ConsumerProcess
) -> Arrivals:
    """Stop sampling, wait until nothing is pending anywhere, stop cleanly."""
    arrivals = Arrivals(consumer.file)
    await load.stop_sampling()
    await load.wait_until_all_is_acked()
    wanted = load.acked()
    await as_long_as_it_moves(
        lambda: arrivals.have_through(wanted),
        lambda: {name: device.through for name, device in arrivals.devices.items()},
        f"everything through {wanted} has arrived",
    )
    metrics = await gateway.metrics_when(
        lambda metrics: not metrics.value("gapless_backlog_seqs"),
        "the last acknowledgements have come",
    )
    metrics.assert_balanced()
    assert await gateway.stop() == 0
    assert grave_lines(gateway.stderr.result()) == []
    assert await consumer.stop() == 0, consumer.words
    arrivals.update()
    return arrivals
