"""A log that was damaged, set back, deleted: none stalls, none is silent, each has its reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gapless_gateway.wal.entries import (
    REASON_CORRUPTION,
    REASON_GATEWAY_ROLLBACK,
    Lost,
    Record,
)
from gapless_gateway.wal.reader import Entry, read_directory
from tests.support.running_gateway import eventually


def stored(state_dir: Path) -> list[Entry]:
    return [item for item in read_directory(state_dir) if isinstance(item, Entry)]


def spoil_records(state_dir: Path, *seqs: int) -> None:
    """Flip a bit in the log's copy of each of these records."""
    (path,) = (state_dir / "wal").glob("*.wal")
    data = bytearray(path.read_bytes())
    for item in stored(state_dir):
        if isinstance(item.entry, Record) and item.entry.seq in seqs:
            data[item.offset + 40] ^= 0x08
    path.write_bytes(data)


def lost(gateway) -> list[tuple[int, int, int]]:
    """(first, last, reason) of every LOST in the log of the running gateway."""
    return [
        (entry.first, entry.last, entry.reason)
        for _, entry in gateway.daemon._wal.read(1, 10_000)
        if isinstance(entry, Lost)
    ]


async def started_with(gateway, board, count: int) -> None:
    """A gateway that has taken `count` records of a board in, one commit each, and stopped."""
    await gateway.start([board.path])
    await eventually(lambda: board.linked)
    for number in range(count):
        board.sample()
        await eventually(lambda n=number: board.outbox_is_durable_through(gateway, n + 1))
    await gateway.stop()


@pytest.fixture
async def board(boards):
    made = boards("pump-1")

    def is_durable_through(gateway, seq: int) -> bool:
        streams = gateway.daemon._wal.account.streams.values()
        return any(one.durable >= seq for one in streams)

    made.outbox_is_durable_through = is_durable_through
    return made


async def test_what_went_bad_in_the_log_and_is_still_at_the_board_is_asked_for_again(
    gateway, board
):
    await gateway.start([board.path])
    await eventually(lambda: board.linked)
    board.sample(2)
    await eventually(lambda: board.acked_through == 2)
    board.deaf = True  # from here on no acknowledgement gets through
    for seq in range(3, 9):
        board.sample()
        await eventually(lambda n=seq: board.outbox_is_durable_through(gateway, n))
    await gateway.stop()
    assert board.acked_through == 2
    sent = dict(board.outbox.records)
    spoil_records(gateway.state_dir, 4, 5)
    board.deaf = False

    await gateway.start([board.path])
    await eventually(lambda: board.linked)
    await eventually(lambda: board.acked_through == 8)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_seqs", state="quarantined") == 0
    assert metrics.value("gapless_seqs", state="pending_gateway") == 8
    assert metrics.value("gapless_conflicts") == 0
    metrics.assert_balanced()
    assert lost(gateway) == []
    await gateway.stop()
    found = {
        item.entry.seq: item.entry.data
        for item in stored(gateway.state_dir)
        if isinstance(item.entry, Record)
    }
    assert {seq: found[seq] for seq in sent} == sent, "byte for byte"


async def test_nothing_is_acked_beyond_what_is_asked_for_again_before_that_is_durable(
    gateway, board
):
    await gateway.start([board.path])
    await eventually(lambda: board.linked)
    board.deaf = True
    for seq in range(1, 7):
        board.sample()
        await eventually(lambda n=seq: board.outbox_is_durable_through(gateway, n))
    await gateway.stop()
    spoil_records(gateway.state_dir, 3)
    board.deaf = False
    told = len(board.durable)
    await gateway.start([board.path])
    await eventually(lambda: board.acked_through == 6)
    acks = board.durable[told:]
    assert acks[0] <= 2, "what WELCOME says is durable ends before what has to come again"
    assert acks == sorted(acks)


async def test_what_went_bad_and_nobody_has_any_more_is_lost_and_said_so(gateway, board):
    await started_with(gateway, board, 8)
    await eventually(lambda: board.acked_through == 8)
    spoil_records(gateway.state_dir, 4, 5)
    await gateway.start([board.path])
    metrics = await gateway.metrics()
    assert (
        metrics.value("gapless_seqs", state="quarantined")
        + metrics.value("gapless_seqs", state="lost")
        == 2
    ), "known from the first moment on"
    await eventually(lambda: (4, 5, REASON_CORRUPTION) in lost(gateway))
    board.sample(2)
    await eventually(lambda: board.acked_through == 10)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_seqs", state="quarantined") == 0
    assert metrics.value("gapless_seqs", state="lost") == 2
    metrics.assert_balanced()


async def test_a_log_restored_from_an_old_copy_says_what_it_lost_and_goes_on(
    gateway, board, tmp_path
):
    await started_with(gateway, board, 5)
    shutil.copytree(gateway.state_dir, tmp_path / "copy")
    await gateway.start([board.path])
    await eventually(lambda: board.linked)
    board.sample(7)
    await eventually(lambda: board.acked_through == 12)
    await gateway.stop()
    shutil.rmtree(gateway.state_dir)
    shutil.move(tmp_path / "copy", gateway.state_dir)
    board.sample(2)
    await gateway.start([board.path])
    await eventually(lambda: board.acked_through == 14)
    assert lost(gateway) == [(6, 12, REASON_GATEWAY_ROLLBACK)]
    wal = gateway.daemon._wal
    assert wal.recovered.copied
    assert wal.account.run > 1000, "no transmission of the lost future has its number"
    assert gateway.daemon._publisher._delivery.resend_through >= 5, "flagged when sent again"
    metrics = await gateway.metrics()
    assert metrics.value("gapless_seqs", state="lost") == 7
    assert metrics.value("gapless_seqs", state="pending_gateway") == 7
    metrics.assert_balanced()


async def test_a_log_that_was_deleted_is_followed_by_one_whose_account_begins_after_it(
    gateway, board
):
    await started_with(gateway, board, 5)
    former_log_id = board.sender.log_id
    shutil.rmtree(gateway.state_dir)
    await gateway.start([board.path])
    board.sample(3)
    await eventually(lambda: board.acked_through == 8)
    assert board.sender.log_id != former_log_id
    (stream,) = gateway.daemon._wal.account.streams.values()
    assert (stream.base, stream.durable) == (5, 8)
    assert lost(gateway) == []
    (await gateway.metrics()).assert_balanced()


async def test_a_log_whose_segments_alone_were_deleted_goes_on_and_says_what_it_lost(
    gateway, board
):
    await started_with(gateway, board, 5)
    log_id = board.sender.log_id
    for path in (gateway.state_dir / "wal").iterdir():
        path.unlink()
    await gateway.start([board.path])
    board.sample(1)
    await eventually(lambda: board.acked_through == 6)
    assert lost(gateway) == [(1, 5, REASON_GATEWAY_ROLLBACK)], "once acked, and gone"
    assert board.sender.log_id == log_id
    (await gateway.metrics()).assert_balanced()
