"""Records on their way from a board to the disk, and the ACK on its way back."""

from __future__ import annotations

from tests.support.running_gateway import eventually


async def test_every_record_of_several_boards_is_durable_and_acked(gateway, boards):
    first, second = boards("pump-1"), boards("pump-2")
    await gateway.start([first.path, second.path])
    for _ in range(20):
        first.sample(5)
        second.sample(3)
    await eventually(lambda: first.acked_through == 100 and second.acked_through == 60)
    metrics = await gateway.metrics()
    metrics.assert_balanced()
    assert metrics.value("gapless_produced_seqs", device="pump-1") == 100
    assert metrics.value("gapless_seqs", device="pump-2", state="pending_gateway") == 60
    assert metrics.value("gapless_link_frame_faults_total") == 0
