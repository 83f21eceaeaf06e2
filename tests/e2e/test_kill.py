"""SIGKILL to the gateway at random moments, under load: nothing that was acked is ever missing.

Boards that never stop sampling, a gateway process, a broker process and a consumer process. The
moments come from a seed; `tox run -e soak` runs the same with many more kills. See
tests/support/soak.py for the settings.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.arrivals import Arrivals
from tests.support.books_check import audit, check_arrivals, check_complete, check_whole
from tests.support.cable import Cable
from tests.support.consumer_process import ConsumerProcess
from tests.support.draining import drain_and_stop
from tests.support.gateway_config import GATEWAY_NAME, write_gateway_config
from tests.support.gateway_process import GatewayProcess
from tests.support.kill_plan import plan_kills
from tests.support.kill_run import KillRun
from tests.support.load import Load
from tests.support.mqtt import make_broker
from tests.support.outages import BrokerOutages, CableOutages, Outages
from tests.support.processes import wait_until_none_names
from tests.support.running_gateway import DEADLINE_S, RunningGateway
from tests.support.soak import Soak, soak_settings

RECORDS_PER_S = 250  # of each board


async def kill_again_and_again(soak: Soak, kills: int, run: KillRun, load: Load) -> None:
    print(f"{kills} kills, {len(load.boards)} boards", flush=True)
    await run.first_start()
    for number, kill in enumerate(plan_kills(kills, soak.rng()), 1):
        print(f"kill {number}: {kill}", flush=True)
        try:
            await run.carry_out(kill)
        except BaseException as error:
            error.add_note(f"at kill {number}, {kill}; acked before it: {run.acked}")
            raise


async def start_once_more(load: Load, outages: Outages, gateway: GatewayProcess) -> None:
    await outages.come_back()
    await gateway.start()
    await load.wait_for_acks(50)


async def judge(
    state_dir: Path, consumer: ConsumerProcess, arrivals: Arrivals, load: Load, run: KillRun
) -> None:
    """The audit's words beside the test's own, and the figures for whoever reads the output."""
    await check_whole(state_dir)
    status, evidence = await audit(state_dir, consumer.directory, "--require-complete")
    check_complete(status, evidence, load.boards)
    devices = arrivals.devices.values()
    print(
        f"{run.killed} kills, "
        f"{sum(board.produced for board in load.boards)} records, "
        f"{sum(one.flagged() for one in devices)} sent again and flagged, "
        f"{sum(one.brokers_own_duplicates() for one in devices)} duplicates of the broker's, "
        f"{len(evidence['outages'])} outages",
        flush=True,
    )


@pytest.mark.parametrize("changes", [1, 2, 3, 5, 7, 9])
async def test_a_first_start_that_is_killed_leaves_what_the_next_one_opens(
    tmp_path: Path, changes: int
) -> None:
    state_dir = tmp_path / "state"
    setting = RunningGateway(tmp_path)
    setting.write_config([tmp_path / "tty-none"])
    gateway = GatewayProcess(setting.config_file, state_dir)
    try:
        await gateway.spawn()
        await until_changed(state_dir, changes)
        await gateway.kill()
        print(f"left behind: {sorted(path.name for path in state_dir.rglob('*'))}")
        await gateway.start()
        assert await gateway.stop() == 0
    finally:
        await gateway.kill()
    await check_whole(state_dir)


async def until_changed(state_dir: Path, times: int) -> None:
    """Wait until the files of a log that is being made have changed so often, or there is one."""
    seen = files_in(state_dir)
    async with asyncio.timeout(DEADLINE_S):
        while times and not (state_dir / "runtime.json").exists():
            await asyncio.sleep(0)
            if (files := files_in(state_dir)) != seen:
                seen, times = files, times - 1


def files_in(state_dir: Path) -> list[tuple[str, int]]:
    """Name and size of all there is; nothing while one of them vanishes."""
    try:
        return sorted((str(path), path.stat().st_size) for path in state_dir.rglob("*"))
    except FileNotFoundError:
        return []


async def test_nothing_acked_is_missing_over_kills_while_the_broker_keeps_what_it_has(
    tmp_path: Path,
) -> None:
    state_dir = tmp_path / "state"
    with soak_settings() as soak:
        broker = make_broker("embedded", tmp_path / "broker")
        async with (
            broker,
            Cable(broker.port) as cable,
            ConsumerProcess(broker, GATEWAY_NAME, tmp_path / "capture") as consumer,
            Load(tmp_path, soak.seed, boards=soak.boards, records_per_s=RECORDS_PER_S) as load,
        ):
            config = write_gateway_config(
                tmp_path / "gateway.toml",
                state_dir=state_dir,
                ports=[board.path for board in load.boards],
                broker=broker,
                broker_port=cable.port,
            )
            gateway, outages = GatewayProcess(config, state_dir), CableOutages(cable, broker)
            run = KillRun(gateway, state_dir, load, outages, consumer.file, life_s=soak.life_s)
            try:
                await kill_again_and_again(soak, soak.kills, run, load)
                await start_once_more(load, outages, gateway)
                arrivals = await drain_and_stop(load, gateway, consumer)
            finally:
                await gateway.kill()
            check_arrivals(arrivals, load.boards)
            await judge(state_dir, consumer, arrivals, load, run)
    assert wait_until_none_names(tmp_path) == []


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
async def test_nothing_acked_is_missing_over_kills_of_the_gateway_and_of_a_forgetful_broker(
    tmp_path: Path, kind: str
) -> None:
    state_dir = tmp_path / "state"
    with soak_settings() as soak:
        broker = make_broker(kind, tmp_path / "broker")
        async with (
            broker,
            ConsumerProcess(broker, GATEWAY_NAME, tmp_path / "capture") as consumer,
            Load(
                tmp_path, soak.seed, boards=-(-soak.boards // 2), records_per_s=RECORDS_PER_S
            ) as load,
        ):
            config = write_gateway_config(
                tmp_path / "gateway.toml",
                state_dir=state_dir,
                ports=[board.path for board in load.boards],
                broker=broker,
                delivery={"delivered_when": "receipt", "receipt_timeout_s": 1.0},
            )
            gateway, outages = GatewayProcess(config, state_dir), BrokerOutages(broker)
            run = KillRun(gateway, state_dir, load, outages, consumer.file, life_s=soak.life_s)
            try:
                await kill_again_and_again(soak, -(-soak.kills // 3), run, load)
                await outages.come_back()
                await gateway.start()
                await load.wait_for_acks()
                await outages.go_away()  # once at the least, whatever the plan said
                await load.wait_for_acks()
                await gateway.kill()
                await start_once_more(load, outages, gateway)
                arrivals = await drain_and_stop(load, gateway, consumer)
            finally:
                await gateway.kill()
            check_arrivals(arrivals, load.boards, forgetful_broker=True)
            await judge(state_dir, consumer, arrivals, load, run)
    assert wait_until_none_names(tmp_path) == []
