"""The gateway as a process: killed, stopped, started again."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from gapless_gateway.wal.entries import Record, Run, Stopped
from gapless_gateway.wal.log import Log
from gapless_tools import cli
from tests.support.gateway_process import GatewayProcess
from tests.support.running_gateway import RunningGateway, eventually


@pytest.fixture
async def process(tmp_path, boards):
    setting = RunningGateway(tmp_path)
    setting.write_config([tmp_path / "tty-pump-1", tmp_path / "tty-pump-2"])
    running = GatewayProcess(setting.config_file, setting.state_dir)
    yield running
    await running.kill()


def entries(state_dir):
    log = Log.open(state_dir)
    try:
        return [entry for _, entry in log.read(1, 100_000)], log.account
    finally:
        log.close()


async def test_a_gateway_that_is_killed_again_and_again_misses_nothing_that_it_acked(
    process, boards, tmp_path
):
    first, second = boards("pump-1"), boards("pump-2")
    for turn in range(4):
        await process.start()
        first.sender.restart()  # or it would wait out its back-off
        second.sender.restart()
        before = first.acked_through, second.acked_through
        for _ in range(30):
            first.sample(3)
            second.sample(2)
        # Killed with some acked and some on their way.
        await eventually(
            lambda before=before: (
                first.acked_through > before[0] and second.acked_through > before[1]
            )
        )
        await process.kill()
        stored, account = entries(tmp_path / "state")
        for board in (first, second):
            stream = account.by_device(board.identity.device_id)
            assert stream.durable >= board.acked_through, f"turn {turn}: acked and not on disk"
            assert stream.unexplained.count() == 0
        seqs = [one.seq for one in stored if isinstance(one, Record)]
        assert len(seqs) >= first.acked_through + second.acked_through
    await process.start()
    first.sender.restart()
    second.sender.restart()
    await eventually(lambda: first.acked_through == 360 and second.acked_through == 240)
    assert await process.stop() == 0
    stored, account = entries(tmp_path / "state")
    assert account.balance().holds
    assert account.order_violations == account.conflicts == 0
    assert [one.run for one in stored if isinstance(one, Run)] == [1, 2, 3, 4, 5]
    assert account.recoveries_total == 4
    for board, count in ((first, 360), (second, 240)):
        stream = account.by_device(board.identity.device_id)
        seqs = [
            one.seq for one in stored if isinstance(one, Record) and one.stream == stream.stream
        ]
        assert seqs == list(range(1, count + 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_finishes_cleanly_with_status_0(process, boards, tmp_path, number):
    board = boards("pump-1")
    await process.start()
    facts = process.runtime()
    assert facts["web"].startswith("http://127.0.0.1:")
    board.sample(10)
    await eventually(lambda: board.acked_through == 10)
    assert await process.stop(number) == 0
    assert process.runtime() is None
    stored, account = entries(tmp_path / "state")
    assert isinstance(stored[-1], Stopped)
    assert not account.running
    assert account.by_device("pump-1").durable == 10


async def test_logs_are_json_lines_with_their_facts(process, boards, tmp_path):
    board = boards("pump-1")
    await process.start()
    board.sample()
    await eventually(lambda: board.acked_through == 1)
    await process.stop()
    lines = [json.loads(line) for line in (await process.stderr).decode().splitlines()]
    started = next(one for one in lines if one["message"] == "session started")
    assert started["device"] == "pump-1"
    assert started["level"] == "INFO"
    assert started["logger"] == "gapless.session"
    assert "at" in started
    missing = next(one for one in lines if one.get("fault") == "missing")
    assert missing["port"].endswith("tty-pump-2")


async def test_a_second_gateway_on_the_same_state_is_refused_in_one_sentence(
    process, boards, tmp_path, capsys
):
    boards("pump-1")
    await process.start()
    other = tmp_path / "other.toml"
    other.write_text((tmp_path / "gateway.toml").read_text())
    with pytest.raises(SystemExit) as left:
        await asyncio.to_thread(cli.main, ["run", "--config", str(other)])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("gapless: ")
    assert "Traceback" not in said
