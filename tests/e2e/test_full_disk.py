"""A small file system that is really full: ENOSPC from the kernel, under a gateway at work.

The state directory lies on a volume of its own that a foreign file shares with it. The broker is
away, boards go on, and the gateway holds them or drops its oldest records, as it was told to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.arrivals import Arrivals
from tests.support.books_check import (
    audit,
    check_arrivals,
    check_complete,
    check_stored,
    check_whole,
)
from tests.support.cable import Cable
from tests.support.consumer_process import ConsumerProcess
from tests.support.draining import drain_and_stop
from tests.support.drop_check import check_dropped
from tests.support.gapless_command import gapless
from tests.support.gateway_config import GATEWAY_NAME, write_gateway_config
from tests.support.gateway_process import GatewayProcess
from tests.support.load import Load
from tests.support.load_board import HELD_MAX
from tests.support.log_lines import grave_lines
from tests.support.mqtt import make_broker
from tests.support.patience import as_long_as_it_moves
from tests.support.processes import wait_until_none_names
from tests.support.running_gateway import Metrics
from tests.support.small_volume import MIB, SmallVolume
from tests.support.soak import Soak, soak_settings

VOLUME_MIB = 12
FREE_BYTES_MIN = MIB // 2
BOARDS = 3
RECORDS_PER_S = 400  # of each board
PADDING_BYTES = 300  # near the longest record there is, so that a volume fills in seconds
KILLS_WHILE_FULL = 3
PERIODS_S = 2.5  # in which the gateway wants to write its books at least twice
LOST_MIN = 1000
HELD_S_MAX = 10.0  # dropping takes a moment; a board that is held waits for the broker's return


@dataclass
class Scene:
    """Everything that a test on a small volume moves."""

    soak: Soak
    volume: SmallVolume
    state_dir: Path
    cable: Cable
    consumer: ConsumerProcess
    load: Load
    gateway: GatewayProcess

    async def stop_the_outage(self) -> None:
        await self.cable.join()

    async def is_full(self) -> Metrics:
        """Wait until the gateway says so itself; check what it says beside it."""
        metrics = await self.gateway.metrics_when(
            lambda metrics: (
                metrics.value("gapless_ingest_full") == 1
                and metrics.value("gapless_link_up") == BOARDS
            ),
            "the log is full and every board is linked",
        )
        assert metrics.value("gapless_wal_bytes") > 0
        await self.check_healthy(ingest="full")
        return metrics

    async def check_healthy(self, *, ingest: str) -> None:
        """A full log is no fault: what is in it is passed on."""
        status, health = await self.gateway.health()
        assert (status, health["status"], health["ingest"]) == (200, "ok", ingest), health
        metrics = await self.gateway.metrics()
        assert metrics.value("gapless_ingest_failed") == 0
        metrics.assert_balanced()

    async def every_board_is_stopped(self) -> None:
        await as_long_as_it_moves(
            lambda: all(board.is_stopped for board in self.load.boards),
            self.load.acked,
            "every board holds what it has",
        )


@asynccontextmanager
async def small_volume(tmp_path: Path, *, on_full: str, leaving: int) -> AsyncIterator[Scene]:
    """All parts, linked and delivering; and then the broker goes away.

    `leaving`: bytes that a foreign file leaves to the gateway.
    """
    with soak_settings() as soak, SmallVolume(tmp_path, VOLUME_MIB) as volume:
        volume.occupy(leaving=leaving)
        state_dir = volume.path / "state"
        broker = make_broker("embedded", tmp_path / "broker")
        async with (
            broker,
            Cable(broker.port) as cable,
            ConsumerProcess(broker, GATEWAY_NAME, tmp_path / "capture") as consumer,
            Load(
                tmp_path,
                soak.seed,
                boards=BOARDS,
                records_per_s=RECORDS_PER_S,
                padding=PADDING_BYTES,
            ) as load,
        ):
            config = write_gateway_config(
                tmp_path / "gateway.toml",
                state_dir=state_dir,
                ports=[board.path for board in load.boards],
                broker=broker,
                broker_port=cable.port,
                wal={"free_bytes_min": FREE_BYTES_MIN, "on_full": on_full},
            )
            gateway = GatewayProcess(config, state_dir)
            scene = Scene(soak, volume, state_dir, cable, consumer, load, gateway)
            try:
                await gateway.start()
                await load.wait_for_acks(HELD_MAX)
                await cable.cut()
                yield scene
            finally:
                await gateway.kill()
    assert wait_until_none_names(tmp_path) == []


async def kill_while_full(scene: Scene) -> None:
    """What was acked is on the disk each time, and a full log opens again and is full again."""
    rng = scene.soak.rng()
    for _ in range(KILLS_WHILE_FULL):
        await asyncio.sleep(rng.random())
        acked = scene.load.acked()
        await scene.gateway.kill()
        assert grave_lines(scene.gateway.stderr.result()) == []
        await asyncio.to_thread(check_stored, scene.state_dir, acked)
        await scene.gateway.start()
        await scene.is_full()
        await scene.every_board_is_stopped()


async def resume(scene: Scene) -> None:
    """Boards get room by themselves: more is acked than they held when they were stopped."""
    await scene.load.wait_for_acks(2 * HELD_MAX)
    await scene.gateway.metrics_when(
        lambda metrics: metrics.value("gapless_ingest_full") == 0, "the log is not full any more"
    )
    status, health = await scene.gateway.health()
    assert (status, health["status"]) == (200, "ok")
    assert health["ingest"] != "full"


@pytest.mark.parametrize("foreign_file", ["removed", "stays"])
async def test_a_full_disk_holds_the_boards_and_lets_them_go_on_by_itself(
    tmp_path: Path, foreign_file: str
) -> None:
    async with small_volume(tmp_path, on_full="hold", leaving=5 * MIB) as scene:
        await scene.every_board_is_stopped()
        await scene.is_full()
        await kill_while_full(scene)
        scene.volume.fill()
        acked, pid = scene.load.acked(), scene.gateway.pid
        await asyncio.sleep(PERIODS_S)
        await scene.check_healthy(ingest="full")
        assert scene.load.acked() == acked, "a board was acked with no byte left on the disk"
        await scene.stop_the_outage()
        if foreign_file == "removed":
            scene.volume.remove_foreign_file()
        await resume(scene)
        arrivals = await finish(scene, pid)
        check_arrivals(arrivals, scene.load.boards)
        await check_whole(scene.state_dir)
        status, evidence = await audit(
            scene.state_dir, scene.consumer.directory, "--require-complete"
        )
        check_complete(status, evidence, scene.load.boards)
        print(f"{sum(board.produced for board in scene.load.boards)} records, none lost")


async def test_a_full_disk_drops_the_oldest_where_that_is_wanted_and_says_exactly_which(
    tmp_path: Path,
) -> None:
    async with small_volume(tmp_path, on_full="drop-oldest", leaving=8 * MIB) as scene:
        pid = scene.gateway.pid
        for board in scene.load.boards:
            board.watch_waits()
        await until_lost(scene, LOST_MIN)
        await scene.load.wait_for_acks(2 * HELD_MAX)
        scene.volume.fill()
        lost = (await scene.gateway.metrics()).value("gapless_seqs", state="lost")
        await scene.load.wait_for_acks(2 * HELD_MAX)
        await until_lost(scene, lost + 1)
        longest_s = max(board.longest_wait_s for board in scene.load.boards)
        assert longest_s < HELD_S_MAX, f"a board was held for {longest_s:.1f} s"
        metrics = await scene.gateway.metrics()
        metrics.assert_balanced()
        assert metrics.value("gapless_ingest_failed") == 0
        await scene.stop_the_outage()
        await scene.load.wait_for_acks(2 * HELD_MAX)
        arrivals = await finish(scene, pid)
        await check_whole(scene.state_dir)
        status, evidence = await audit(scene.state_dir, scene.consumer.directory)
        assert (status, evidence["verdict"], evidence["complete"]) == (0, "PASS", False), evidence
        count = check_dropped(arrivals, evidence, scene.load.boards)
        assert count >= LOST_MIN
        words = await gapless("audit", scene.state_dir, "--capture", scene.consumer.directory)
        assert f"PASS, {count} declared lost (at most 0 more)" in words.output
        print(f"{sum(board.produced for board in scene.load.boards)} records, {count} dropped")


async def until_lost(scene: Scene, count: float) -> None:
    """Wait until so many numbers are declared lost, as long as boards are still acked."""
    lost = 0.0

    async def look() -> None:
        nonlocal lost
        while lost < count:
            lost = (await scene.gateway.metrics()).value("gapless_seqs", state="lost")
            await asyncio.sleep(0.1)

    looking = asyncio.create_task(look())
    try:
        await as_long_as_it_moves(
            looking.done, scene.load.acked, f"{count:.0f} numbers are declared lost"
        )
        looking.result()
    finally:
        looking.cancel()


async def finish(scene: Scene, pid: int | None) -> Arrivals:
    """All drains, and it is the same process that was full."""
    assert scene.gateway.pid == pid
    return await drain_and_stop(scene.load, scene.gateway, scene.consumer)
