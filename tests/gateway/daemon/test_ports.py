"""Ports come and go, are missing, busy, or no serial lines; the others do not notice."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket

import pytest

from gapless_gateway import serial_line
from gapless_gateway.back_off import BackOff
from gapless_gateway.errors import PortIsNoSerialLine
from tests.support.running_gateway import eventually


async def test_a_missing_port_is_retried_in_metrics_and_log_until_it_appears(
    gateway, boards, tmp_path, caplog
):
    board = boards("pump-1")
    board.unplug()
    other = boards("pump-2")
    await gateway.start([board.path, other.path])
    labels = {"port": str(board.path)}
    await gateway.metric_reaches(2, "gapless_port_open_failures_total", reason="missing", **labels)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_port_retry_seconds", **labels) > 0
    assert metrics.value("gapless_port_open", **labels) == 0
    assert metrics.value("gapless_port_open", port=str(other.path)) == 1
    lines = [one for one in caplog.records if getattr(one, "port", "") == str(board.path)]
    assert "is not there" in lines[0].getMessage()
    assert lines[0].retry_in_s > 0
    other.sample(4)
    await eventually(lambda: other.acked_through == 4)
    board.plug_in()
    board.sample(2)
    await eventually(lambda: board.acked_through == 2)


async def test_an_unplugged_board_comes_back_and_nothing_is_missing_or_doubled(gateway, boards):
    board, other = boards("pump-1"), boards("pump-2")
    await gateway.start([board.path, other.path])
    labels = {"port": str(board.path)}
    for turn in range(1, 4):
        board.sample(10)
        other.sample(10)
        await eventually(lambda turn=turn: board.acked_through == 15 * turn - 5)
        board.sample(3)  # may be on the way, may be lost
        board.unplug()
        board.sample(2)
        await gateway.metric_reaches(turn, "gapless_port_lost_total", **labels)
        board.sender.restart()
        board.plug_in()
        await eventually(lambda turn=turn: board.acked_through == 15 * turn)
    await eventually(lambda: other.acked_through == 30)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_produced_seqs", device="pump-1") == 45
    assert metrics.value("gapless_link_sessions_ended_total", port=str(other.path)) == 0
    metrics.assert_balanced()


async def test_a_busy_port_is_retried_until_the_other_program_lets_go(gateway, boards):
    board = boards("pump-1")
    holder = os.open(board.path, os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    await gateway.start([board.path])
    await gateway.metric_reaches(1, "gapless_port_open_failures_total", reason="busy")
    os.close(holder)
    board.sample()
    await eventually(lambda: board.acked_through == 1)


async def test_while_the_gateway_has_a_port_no_second_program_gets_it(gateway, boards):
    board = boards("pump-1")
    await gateway.start([board.path])
    await eventually(lambda: board.linked)
    second = os.open(board.path, os.O_RDWR | os.O_NOCTTY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(second)


async def test_a_board_that_moves_to_another_port_ends_its_old_session(gateway, boards):
    board = boards("pump-1", b"uid-1")
    moved = boards("pump-1", b"uid-1", port="other")
    moved.unplug()
    await gateway.start([board.path, moved.path])
    board.sample(5)
    await eventually(lambda: board.acked_through == 5)
    # The same board, as it shows up on another port while nobody has noticed that it left this one.
    moved.outbox, moved.identity = board.outbox, board.identity
    moved.boot()
    moved.identity.boot = 2
    moved.plug_in()
    moved.sample(5)
    await eventually(lambda: moved.acked_through == 10)
    metrics = await gateway.metrics()
    assert metrics.value("gapless_link_sessions_moved_total", port=str(board.path)) == 1
    assert metrics.value("gapless_produced_seqs") == 10
    account = (await gateway.get("/account"))[1]
    assert [one["port"] for one in account["streams"]] == [str(moved.path)]
    metrics.assert_balanced()


async def test_a_board_behind_a_serial_server_is_reached_by_socket(gateway, boards):
    board = boards("pump-1")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    url = f"socket://127.0.0.1:{listener.getsockname()[1]}"
    await gateway.start([url])
    loop = asyncio.get_running_loop()
    connection, _ = await loop.sock_accept(listener)
    connection.setblocking(False)
    bridge = os.open(board.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    loop.add_reader(bridge, lambda: connection.send(os.read(bridge, 4096)))
    loop.add_reader(connection, lambda: os.write(bridge, connection.recv(4096)))
    try:
        board.sample(7)
        await eventually(lambda: board.acked_through == 7)
    finally:
        loop.remove_reader(bridge)
        loop.remove_reader(connection)
        os.close(bridge)
        connection.close()
        listener.close()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path.write_text("data"), "a regular file"),
        (lambda path: path.mkdir(), "a folder"),
        (os.mkfifo, "a pipe"),
        (lambda path: path.symlink_to("/dev/null"), "a device of another kind"),
    ],
)
def test_what_is_no_serial_line_is_told_at_start(tmp_path, make, what):
    path = tmp_path / "port"
    make(path)
    with pytest.raises(PortIsNoSerialLine, match=f"{path} is {what}.*set path"):
        serial_line.check_is_serial(str(path))


def test_a_port_without_permission_names_the_group_that_has_it(tmp_path, monkeypatch):
    path = tmp_path / "tty"
    path.touch()
    group = serial_line.grp.getgrgid(path.stat().st_gid).gr_name
    fault = serial_line._fault(str(path), PermissionError(13, "Permission denied"))
    assert fault.code == "permission"
    assert f"group {group} only" in str(fault)
    assert f"usermod -aG {group}" in str(fault)


def test_the_back_off_doubles_up_to_its_cap_with_jitter_and_logs_ever_more_rarely():
    back_off = BackOff(1.0, 8.0)
    delays = [back_off.next_delay_s() for _ in range(6)]
    for delay, full in zip(delays, [1, 2, 4, 8, 8, 8], strict=True):
        assert full / 2 <= delay <= full
    back_off.reset()
    logged = 0
    for _ in range(1000):
        back_off.next_delay_s()
        logged += back_off.worth_a_line()
    assert logged == 10


async def test_an_error_of_ours_on_one_port_costs_that_port_its_session_and_nothing_else(
    gateway, boards, monkeypatch
):
    board, other = boards("pump-1"), boards("pump-2")
    await gateway.start([board.path, other.path])
    await eventually(lambda: board.linked and other.linked)
    session = gateway.daemon._sessions[0]
    take, failed = session._receiver.receive, []

    def fail_once(data, now_ms):
        if not failed:
            failed.append(data)
            raise RuntimeError("a bug")
        take(data, now_ms)

    monkeypatch.setattr(session._receiver, "receive", fail_once)
    board.sample(3)
    await gateway.metric_reaches(1, "gapless_port_lost_total", port=str(board.path))
    await eventually(lambda: board.acked_through == 3)
    other.sample(3)
    await eventually(lambda: other.acked_through == 3)
    (await gateway.metrics()).assert_balanced()
