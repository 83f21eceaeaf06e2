"""Durable before ack, and what becomes of everyone when the disk fails."""

from __future__ import annotations

import pytest

from gapless_link import gateway_messages
from tests.support.gated_disk import GatedDisk
from tests.support.running_gateway import eventually


@pytest.fixture
def disk():
    gated = GatedDisk()
    yield gated
    gated.let_go()


async def test_no_record_is_acked_before_its_fdatasync(gateway, boards, disk):
    board = boards("pump-1")
    await gateway.start([board.path], disk=disk)
    board.sample(3)
    await eventually(lambda: board.acked_through == 3)
    disk.hold()
    board.sample(4)
    await eventually(lambda: disk.waiting == 1, "the sync of the four")
    board.sample(5)
    await gateway.metric_reaches(12, "gapless_records_received_total", device="pump-1")
    # The gateway has all twelve in memory and answers the board, but acks none of the nine.
    heard = board.sender.frames_received
    await eventually(lambda: board.sender.frames_received > heard + 2)
    assert board.acked_through == 3
    metrics = await gateway.metrics()
    assert metrics.value("gapless_seqs", device="pump-1", state="pending_gateway") == 3
    disk.let_go()
    await eventually(lambda: board.acked_through == 12)
    (await gateway.metrics()).assert_balanced()


async def test_one_sync_covers_all_that_came_in_during_the_one_before(gateway, boards, disk):
    board = boards("pump-1")
    await gateway.start([board.path], disk=disk)
    board.sample()
    await eventually(lambda: board.acked_through == 1)
    disk.hold()
    board.sample()
    await eventually(lambda: disk.waiting == 1)
    for _ in range(50):
        board.sample()
    await gateway.metric_reaches(52, "gapless_records_received_total")
    before = (await gateway.metrics()).value("gapless_commits_total")
    acks = len(board.durable)
    disk.let_go()
    await eventually(lambda: board.acked_through == 52)
    assert board.durable[acks:][-1] == 52
    assert len(board.durable[acks:]) <= 3  # the held batch, and one or two for all the rest
    assert (await gateway.metrics()).value("gapless_commits_total") > before


async def test_a_failed_sync_stops_the_ingest_for_good_and_the_process_stays_to_say_so(
    gateway, boards, disk
):
    board, late = boards("pump-1"), boards("pump-2")
    await gateway.start([board.path, late.path], disk=disk)
    board.sample(2)
    await eventually(lambda: board.acked_through == 2 and late.linked)
    disk.fail()
    board.sample(3)
    await eventually(lambda: board.rejections and late.rejections, "both are told")
    assert board.rejections[0][0] == gateway_messages.REJECT_INGEST_STOPPED
    assert board.acked_through == 2
    assert set(board.outbox.records) == {3, 4, 5}, "the board must keep what was not acked"

    status, health = await gateway.get("/healthz")
    assert (status, health["status"]) == (503, "failed")
    assert "check the disk" in health["reason"]
    disk.failing = False  # a disk that seems sound again is not believed
    late.sample(2)
    told = len(late.rejections)
    late.sender.restart()
    late.run()
    await eventually(lambda: len(late.rejections) > told, "refused again")
    assert late.acked_through == 0
    metrics = await gateway.metrics()
    assert metrics.value("gapless_ingest_failed") == 1
    assert metrics.value("gapless_link_rejects_total", code="ingest_stopped") >= 2
    metrics.assert_balanced()
    assert (await gateway.get("/account"))[1]["ingest"] == "failed"
