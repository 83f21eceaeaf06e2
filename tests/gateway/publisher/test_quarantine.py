"""What is gone from the log, and what comes out of quarantine: told in its place, and delivered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cbor2
from click.testing import CliRunner

from gapless_gateway.publisher.publisher import utc_ms
from gapless_gateway.wal.entries import REASON_CORRUPTION, REASON_DISCARDED, Lost, Record
from gapless_gateway.wal.reader import Entry as Found
from gapless_gateway.wal.reader import read_directory
from gapless_tools.wal_command import command
from tests.support.mqtt import until
from tests.support.publishing import Ingest
from tests.support.running_gateway import closed_tcp_port
from tests.support.scripted_broker import Code, ScriptedBroker

PUMP = b"\x0a\x1b\x2c\x3d"


def messages(broker: ScriptedBroker, kind: str) -> list[dict[str, Any]]:
    return [json.loads(p.payload) for p in broker.published if p.topic.endswith("/" + kind)]


def refuse(*seqs: int) -> Any:
    def answer(packet: Any) -> Code:
        if packet.topic.endswith("/data") and json.loads(packet.payload)["seq"] in seqs:
            return Code.PAYLOAD_FORMAT_INVALID
        return Code.SUCCESS

    return answer


def repair(state_dir: Path, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(command, ["repair", str(state_dir), "--json", *arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.output)


def spoil_record(state_dir: Path, seq: int) -> None:
    for path in (state_dir / "wal").glob("*.wal"):
        for item in list(read_directory(state_dir)):
            if isinstance(item, Found) and isinstance(item.entry, Record) and item.entry.seq == seq:
                data = bytearray(path.read_bytes())
                data[item.offset + 40] ^= 1
                path.write_bytes(data)
                return


async def one_by_one(gateway: Ingest, first: int, last: int) -> None:
    """Each record in a batch of its own, so that damage to it is corruption and no torn tail."""
    for seq in range(first, last + 1):
        gateway.add(PUMP, seq, seq)
        await until(lambda n=seq: durable(gateway) >= n, "durable")


def durable(gateway: Ingest) -> int:
    stream = gateway.log.account.streams.get(PUMP)
    return stream.durable if stream is not None else 0


async def test_what_cannot_be_read_is_announced_in_its_place_and_stalls_nobody(
    tmp_path: Path,
) -> None:
    state_dir = tmp_path / "state"
    async with ScriptedBroker() as broker:
        gateway = Ingest(state_dir, broker.settings(port=closed_tcp_port()))
        gateway.open_stream(PUMP, "pump-1")
        await one_by_one(gateway, 1, 8)
        await gateway.stop()
        spoil_record(state_dir, 4)
        gateway = Ingest(state_dir, broker.settings())
        await gateway.delivered(PUMP, 8)
        stream = gateway.log.account.streams[PUMP]
        assert list(stream.quarantined) == [(4, 4)]
        assert stream.balance().delivered == 7
        assert gateway.log.account.order_violations == 0, stream.findings
        # The board comes, and does not have it any more.
        gateway.append(Lost(PUMP, 4, 4, REASON_CORRUPTION, False, True, utc_ms(), 0))
        await until(lambda: len(messages(broker, "lost")) == 2, "the final word")
        assert stream.balance().lost == 1
        await gateway.stop()
    quarantined, lost = messages(broker, "lost")
    assert (quarantined["first"], quarantined["reason"]) == (4, "quarantined")
    assert (lost["first"], lost["reason"], lost["redelivery"]) == (4, "corruption", True)
    order = [
        json.loads(p.payload).get("seq", json.loads(p.payload).get("first"))
        for p in broker.published
        if p.topic.endswith(("/data", "/lost"))
    ]
    assert order[:8] == list(range(1, 9)), "told in its place"


async def test_what_comes_again_from_the_board_is_delivered_flagged(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    async with ScriptedBroker() as broker:
        gateway = Ingest(state_dir, broker.settings(port=closed_tcp_port()))
        gateway.open_stream(PUMP, "pump-1")
        await one_by_one(gateway, 1, 6)
        await gateway.stop()
        spoil_record(state_dir, 3)
        gateway = Ingest(state_dir, broker.settings())
        await gateway.delivered(PUMP, 6)
        stream = gateway.log.account.streams[PUMP]
        gateway.add(PUMP, 3, 3, value=7.5)
        await until(lambda: stream.balance().delivered == 6, "delivered out of its turn")
        assert not stream.requeued
        assert stream.balance().holds
        await gateway.stop()
        # Once the log says so it is not sent again.
        again = Ingest(state_dir, broker.settings())
        again.add(PUMP, 7, 7)
        await again.delivered(PUMP, 7)
        assert again.log.account.streams[PUMP].balance().delivered == 7
        assert again.log.account.order_violations == 0
        await again.stop()
    third = [m for m in messages(broker, "data") if m["seq"] == 3]
    assert [(m["redelivery"], m["values"]["value"]) for m in third] == [(True, 7.5)]


async def test_a_crash_between_the_puback_and_the_log_sends_it_again_flagged(
    tmp_path: Path,
) -> None:
    state_dir = tmp_path / "state"
    async with ScriptedBroker() as broker:
        gateway = Ingest(state_dir, broker.settings(port=closed_tcp_port()))
        gateway.open_stream(PUMP, "pump-1")
        await one_by_one(gateway, 1, 6)
        await gateway.stop()
        spoil_record(state_dir, 3)
        broker.answer = lambda p: (
            None
            if p.topic.endswith("/data") and json.loads(p.payload)["seq"] == 3
            else Code.SUCCESS
        )
        gateway = Ingest(state_dir, broker.settings())
        await gateway.delivered(PUMP, 6)
        gateway.add(PUMP, 3, 3)
        await until(lambda: any(m["seq"] == 3 for m in messages(broker, "data")), "it left")
        assert gateway.log.account.streams[PUMP].requeued.contains(3)
        await gateway.crash()
        broker.answer = lambda _: Code.SUCCESS
        again = Ingest(state_dir, broker.settings())
        stream = again.log.account.streams[PUMP]
        await until(lambda: stream.balance().delivered == 6, "delivered")
        await again.stop()
    assert [m["redelivery"] for m in messages(broker, "data") if m["seq"] == 3] == [True, True]


async def test_the_owner_requeues_what_the_broker_refused_even_after_its_segment_was_freed(
    tmp_path: Path,
) -> None:
    state_dir = tmp_path / "state"
    async with ScriptedBroker() as broker:
        broker.answer = refuse(5, 6, 7)
        gateway = Ingest(state_dir, broker.settings(), segment_bytes_max=65536)
        gateway.open_stream(PUMP, "pump-1")
        gateway.add(PUMP, 1, 20)
        await gateway.delivered(PUMP, 20)
        assert list(gateway.log.account.streams[PUMP].quarantined) == [(5, 7)]
        for first in range(21, 2021, 500):
            gateway.add(PUMP, first, first + 499)
            await gateway.delivered(PUMP, first + 499)
        await until(lambda: gateway.log.first_lsn > 10, "the segment is freed")
        await gateway.stop()

        listed = repair(state_dir)["quarantined"]
        assert [(one["device"], one["first"], one["last"], one["cause"]) for one in listed] == [
            ("pump-1", 5, 7, "refused")
        ]
        done = repair(state_dir, "--requeue", "pump-1:5-6", "--discard", "pump-1:7")
        assert (done["requeued"], done["discarded"], done["quarantined"]) == (2, 1, [])
        assert repair(state_dir)["quarantined"] == []

        broker.answer = lambda _: Code.SUCCESS
        before = len(broker.published)
        gateway = Ingest(state_dir, broker.settings())
        stream = gateway.log.account.streams[PUMP]
        await until(lambda: stream.balance().delivered == 2019, "requeued and delivered")
        assert stream.lost.items() == [(7, 7, (REASON_DISCARDED, False))]
        assert gateway.log.account.order_violations == 0, gateway.log.account.findings
        assert stream.balance().holds
        await gateway.stop()
    later = [json.loads(p.payload) for p in broker.published[before:]]
    assert [(m["seq"], m["redelivery"]) for m in later if "seq" in m] == [(5, True), (6, True)]
    assert [(m["first"], m["reason"]) for m in later if "reason" in m] == [(7, "discarded")]


async def test_what_is_refused_again_goes_back_into_quarantine(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    async with ScriptedBroker() as broker:
        broker.answer = refuse(2)
        gateway = Ingest(state_dir, broker.settings())
        gateway.open_stream(PUMP, "pump-1")
        gateway.add(PUMP, 1, 4)
        await gateway.delivered(PUMP, 4)
        await gateway.stop()
        repair(state_dir, "--requeue", "all")
        gateway = Ingest(state_dir, broker.settings())
        stream = gateway.log.account.streams[PUMP]
        assert list(stream.requeued) == [(2, 2)]
        await until(lambda: list(stream.quarantined) == [(2, 2)], "refused again")
        await until(lambda: gateway.publisher._delivery.flights == 0, "announced again")
        assert gateway.log.account.order_violations == 0, stream.findings
        await gateway.stop()


async def test_an_unreadable_record_is_requeued_from_an_intact_copy_of_its_segment(
    tmp_path: Path,
) -> None:
    state_dir = tmp_path / "state"
    async with ScriptedBroker() as broker:
        gateway = Ingest(state_dir, broker.settings(port=closed_tcp_port()))
        gateway.open_stream(PUMP, "pump-1")
        await one_by_one(gateway, 1, 6)
        await gateway.stop()
        (path,) = (state_dir / "wal").glob("*.wal")
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        spoil_record(state_dir, 3)
        found = CliRunner().invoke(command, ["repair", str(state_dir), "--requeue", "pump-1:3"])
        assert found.exit_code == 1, "no file has its bytes"
        assert "NOT THERE pump-1:3" in found.output
        done = repair(state_dir, "--requeue", "pump-1:3", "--from", str(copy))
        assert (done["requeued"], done["quarantined"]) == (1, [])
        gateway = Ingest(state_dir, broker.settings())
        stream = gateway.log.account.streams[PUMP]
        await until(lambda: stream.balance().delivered == 6, "all delivered")
        await gateway.stop()
    data = {m["seq"]: m["values"] for m in messages(broker, "data")}
    assert data[3] == {"value": 1.5}


def test_names_that_mean_nothing_are_one_sentence_and_leave_a_clean_log(tmp_path: Path) -> None:
    from gapless_gateway.errors import UserError
    from gapless_gateway.wal.log import Log
    from tests.support.wal_history import History, record, run, session

    state_dir = tmp_path / "state"
    log, history = Log.open(state_dir), History()
    history.commit(log, run(log, 1), session(1))
    history.commit(log, record(1, data=cbor2.dumps([1, 0, 1, 0, {}])))
    log.close()
    for name in ("pump-1", "pump-9:4", "pump-1:4-x", "pump-1:1"):
        result = CliRunner().invoke(command, ["repair", str(state_dir), "--requeue", name])
        assert isinstance(result.exception, UserError), name
        assert "\n" not in str(result.exception)
    assert Log.open(state_dir).recovered.previous_clean


def test_repair_beside_a_running_gateway_is_refused_and_a_whole_log_is_left_alone(
    tmp_path: Path,
) -> None:
    from gapless_gateway.wal.errors import WalInUse
    from gapless_gateway.wal.log import Log
    from tests.support.wal_history import History, run

    state_dir = tmp_path / "state"
    log = Log.open(state_dir)
    History().commit(log, run(log, 1))
    result = CliRunner().invoke(command, ["repair", str(state_dir)])
    assert isinstance(result.exception, WalInUse)
    next_lsn = log.next_lsn
    log.close()
    assert repair(state_dir)["repairs"] == []
    log = Log.open(state_dir)
    assert log.next_lsn == next_lsn
    log.close()


async def test_no_receipt_counts_for_what_is_told_out_of_its_turn(tmp_path: Path) -> None:
    """A receipt names the highest number that the consumer has; the requeued one is below it."""
    state_dir = tmp_path / "state"
    async with ScriptedBroker() as broker:
        gateway = Ingest(state_dir, broker.settings(port=closed_tcp_port()))
        gateway.open_stream(PUMP, "pump-1")
        await one_by_one(gateway, 1, 6)
        await gateway.stop()
        spoil_record(state_dir, 3)
        gateway = Ingest(state_dir, broker.settings())
        await gateway.delivered(PUMP, 6)
        answer = refuse(3)
        broker.answer = lambda p: None if answer(p) is not Code.SUCCESS else Code.SUCCESS
        gateway.add(PUMP, 3, 3)
        await until(lambda: any(m["seq"] == 3 for m in messages(broker, "data")), "it left")
        delivery = gateway.publisher._delivery
        resume_lsn = delivery.resume_lsn
        delivery.deliver_through(PUMP, 6)
        assert delivery.resume_lsn == resume_lsn
        assert gateway.log.account.streams[PUMP].requeued.contains(3)
        assert gateway.metrics.redelivered == 1
        await gateway.crash()
