"""A ceiling for the state directory: boards are held by credit, or the oldest is given up."""

from __future__ import annotations

import contextlib

import cbor2

from gapless_gateway.intake import CREDIT_WINDOW_SEQS_MIN, RECORD_COST_BYTES
from gapless_gateway.wal.entries import REASON_QUOTA
from tests.support.running_gateway import eventually

QUOTA_BYTES = 4 * 1024 * 1024
WAL = f"[wal]\nsegment_bytes_max = 65536\nfree_bytes_min = 0\nquota_bytes = {QUOTA_BYTES}\n"
SMALLER_THAN_ONE_LOOK = 400  # records sampled at a time
BODY = {"words": "x" * 150}


def sample(board, count: int) -> None:
    for _ in range(count):
        board.outbox.add(cbor2.dumps([board.boots, 0, board.now_ms, 0, BODY]))
    board.run()


def bytes_on_disk(gateway) -> int:
    total = 0
    for path in gateway.state_dir.rglob("*"):
        # The gateway goes on meanwhile: a new file is renamed, a freed one is removed.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() and path.name != "reserve" else 0
    return total


async def fill(gateway, board) -> None:
    """Let the board sample until the gateway takes no more."""
    while (await gateway.get("/healthz"))[1]["ingest"] != "full":
        before = board.acked_through
        sample(board, SMALLER_THAN_ONE_LOOK)
        await eventually(
            lambda n=before: (
                board.acked_through >= n + SMALLER_THAN_ONE_LOOK or gateway.daemon._intake.full
            )
        )


async def test_at_the_ceiling_boards_hold_and_go_on_when_there_is_room(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path], more=WAL)
    await eventually(lambda: board.linked)
    await fill(gateway, board)
    status, health = await gateway.get("/healthz")
    assert (status, health["status"], health["ingest"]) == (200, "ok", "full")
    assert bytes_on_disk(gateway) <= QUOTA_BYTES + 65536
    metrics = await gateway.metrics()
    assert metrics.value("gapless_ingest_full") == 1
    assert metrics.value("gapless_credit_window_seqs") == 0
    assert metrics.value("gapless_wal_room_bytes") < CREDIT_WINDOW_SEQS_MIN * RECORD_COST_BYTES
    sample(board, 50)
    await eventually(lambda: board.sender.credit <= board.sender.durable, "credit 0")
    held, acked = len(board.outbox.records), board.acked_through
    assert held >= 50
    metrics.assert_balanced()
    await gateway.stop()

    # With a higher ceiling it goes on from there; nothing that was acked is missing.
    more = WAL.replace(str(QUOTA_BYTES), str(2 * QUOTA_BYTES))
    await gateway.start([board.path], more=more)
    await eventually(lambda: board.acked_through == board.outbox.next_seq - 1)
    assert not board.outbox.records
    (stream,) = gateway.daemon._wal.account.streams.values()
    assert stream.stored.ranges() == [(1, board.outbox.next_seq - 1)]
    assert stream.durable > acked


async def test_where_it_is_wanted_the_oldest_is_dropped_and_declared(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path], more=WAL + 'on_full = "drop-oldest"\n')
    await eventually(lambda: board.linked)
    while (await gateway.metrics()).value("gapless_seqs", state="lost") < 5000:
        before = board.acked_through
        sample(board, SMALLER_THAN_ONE_LOOK)
        await eventually(lambda n=before: board.acked_through >= n + SMALLER_THAN_ONE_LOOK)
    metrics = await gateway.metrics()
    metrics.assert_balanced()
    assert metrics.value("gapless_segments_dropped_total") > 1
    assert bytes_on_disk(gateway) <= QUOTA_BYTES + 65536
    (stream,) = gateway.daemon._wal.account.streams.values()
    assert {reason for _, _, (reason, _) in stream.lost} == {REASON_QUOTA}
    # What the send mark covers may have been sent, so it is the oldest that is kept.
    assert stream.stored.contains(1)
    assert stream.lost.keys().union(stream.stored).ranges() == [(1, stream.durable)]
    await gateway.stop()
    await gateway.start([board.path], more=WAL)
    (again,) = gateway.daemon._wal.account.streams.values()
    assert again.lost == stream.lost
