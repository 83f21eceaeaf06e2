"""What only a broker that misbehaves on command can show of our MQTT 5 connection."""

from __future__ import annotations

import asyncio

import mqtt5
import pytest

from gapless_gateway.brokers.base import (
    BrokerRefused,
    OutgoingMessage,
    PublishOutcome,
    PublishResult,
)
from gapless_gateway.brokers.connect import connect
from tests.support.mqtt import until
from tests.support.scripted_broker import Code, ScriptedBroker

DEADLINE_S = 30.0
MESSAGE = OutgoingMessage("gapless/g/d/data", b"x")


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (Code.SUCCESS, PublishOutcome.DELIVERED),
        (Code.NO_MATCHING_SUBSCRIBERS, PublishOutcome.NO_SUBSCRIBERS),
        (Code.NOT_AUTHORIZED, PublishOutcome.REFUSED_FOR_GOOD),
        (Code.TOPIC_NAME_INVALID, PublishOutcome.REFUSED_FOR_GOOD),
        (Code.PAYLOAD_FORMAT_INVALID, PublishOutcome.REFUSED_FOR_GOOD),
        (Code.QUOTA_EXCEEDED, PublishOutcome.REFUSED_FOR_NOW),
        (Code.UNSPECIFIED_ERROR, PublishOutcome.REFUSED_FOR_NOW),
        (Code.IMPLEMENTATION_SPECIFIC_ERROR, PublishOutcome.REFUSED_FOR_NOW),
    ],
)
async def test_each_reason_code_of_a_puback_has_its_outcome(
    code: Code, outcome: PublishOutcome
) -> None:
    async with ScriptedBroker() as broker, connect(broker.settings()) as connection:
        broker.answer = lambda _: code
        results: list[PublishResult] = []
        connection.publish(MESSAGE, results.append)
        await until(lambda: results, "an answer")
    assert results[0].outcome is outcome
    assert bool(results[0].reason) is (outcome.name.startswith("REFUSED"))


async def test_acknowledgements_may_come_in_any_order() -> None:
    async with ScriptedBroker() as broker, connect(broker.settings()) as connection:
        broker.answer = lambda _: None
        acknowledged: list[int] = []
        for number in range(5):
            connection.publish(MESSAGE, lambda _, number=number: acknowledged.append(number))
        await until(lambda: len(broker.published) == 5, "all sent")
        for number in (3, 0, 4, 2, 1):
            broker.acknowledge(broker.published[number])
        await until(lambda: len(acknowledged) == 5, "all acknowledged")
    assert acknowledged == [3, 0, 4, 2, 1]


async def test_a_packet_in_single_bytes_is_a_packet() -> None:
    async with ScriptedBroker() as broker, connect(broker.settings()) as connection:
        broker.answer = lambda _: None
        results: list[PublishResult] = []
        connection.publish(MESSAGE, results.append)
        await until(lambda: broker.published, "sent")
        packet_id = broker.published[0].packet_id
        assert packet_id is not None
        puback = mqtt5.PubAckPacket(packet_id, reason_code=Code.QUOTA_EXCEEDED).write()
        for byte in puback:
            broker._writers[-1].write(bytes([byte]))
            await asyncio.sleep(0.01)
        await until(lambda: results, "an answer")
    assert results[0].reason == "quota exceeded"


async def test_a_message_beyond_the_maximum_packet_size_is_not_sent() -> None:
    async with ScriptedBroker(max_packet_size=100) as broker:
        async with connect(broker.settings()) as connection:
            assert connection.maximum_packet_size == 100
            results: list[PublishResult] = []
            connection.publish(OutgoingMessage("gapless/g/d/data", b"x" * 200), results.append)
            connection.publish(MESSAGE, results.append)
            await until(lambda: len(results) == 2, "both answered")
    outcomes = {result.outcome for result in results}
    assert outcomes == {PublishOutcome.REFUSED_FOR_GOOD, PublishOutcome.DELIVERED}
    assert [packet.payload for packet in broker.published] == [b"x"]
    assert "too large" in next(r.reason for r in results if r.reason)


async def test_the_receive_maximum_is_never_exceeded() -> None:
    async with ScriptedBroker(receive_max=3) as broker:
        async with connect(broker.settings()) as connection:
            broker.answer = lambda _: None
            for _ in range(7):
                connection.publish(MESSAGE, lambda _: None)
            await until(lambda: len(broker.published) == 3, "three sent")
            await asyncio.sleep(0.1)  # time enough to send what must not be sent
            assert len(broker.published) == 3
            broker.acknowledge(broker.published[0])
            await until(lambda: len(broker.published) == 4, "one more")


async def test_the_servers_keep_alive_replaces_ours() -> None:
    async with ScriptedBroker(server_keep_alive=1) as broker:
        async with connect(broker.settings(keep_alive_s=3600)) as connection:
            await until(lambda: broker.pings >= 2, "pings")
            assert not connection._closed.done()  # type: ignore[attr-defined]


@pytest.mark.parametrize("sending", [False, True])
async def test_a_broker_that_falls_silent_is_given_up(sending: bool) -> None:
    async with ScriptedBroker() as broker:
        async with connect(broker.settings(keep_alive_s=1)) as connection:
            broker.silent = True
            if sending:
                connection.publish(MESSAGE, lambda _: None)
            async with asyncio.timeout(DEADLINE_S):
                closed = await connection.wait_closed()
    assert "did not answer a ping" in closed.reason


async def test_a_broker_that_answers_pings_is_kept() -> None:
    async with ScriptedBroker() as broker:
        async with connect(broker.settings(keep_alive_s=1)) as connection:
            await until(lambda: broker.pings >= 4, "several pings")
            assert not connection._closed.done()  # type: ignore[attr-defined]


@pytest.mark.parametrize("adapter", ["mqtt5", "aiomqtt"])
async def test_a_client_with_our_id_is_called_an_intruder(adapter: str) -> None:
    async with ScriptedBroker() as broker:
        async with connect(broker.settings(adapter=adapter)) as connection:
            code = mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER
            broker.send(mqtt5.DisconnectPacket(reason_code=code))
            async with asyncio.timeout(DEADLINE_S):
                closed = await connection.wait_closed()
    assert closed.intruder
    assert "same client id" in closed.reason


async def test_what_is_not_mqtt_ends_the_connection() -> None:
    async with ScriptedBroker() as broker:
        async with connect(broker.settings()) as connection:
            broker._writers[-1].write(b"\x00\x00\x00\x00")
            async with asyncio.timeout(DEADLINE_S):
                closed = await connection.wait_closed()
    assert "not MQTT 5" in closed.reason


async def test_an_acknowledgement_of_nothing_ends_the_connection() -> None:
    async with ScriptedBroker() as broker:
        async with connect(broker.settings()) as connection:
            broker.send(mqtt5.PubAckPacket(77))
            async with asyncio.timeout(DEADLINE_S):
                closed = await connection.wait_closed()
    assert "77, which is not in flight" in closed.reason


async def test_a_refused_connack_is_one_sentence_with_the_brokers_reason() -> None:
    code = mqtt5.ConnAckReasonCode.QUOTA_EXCEEDED
    async with ScriptedBroker(reason_code=code, reason_str="ten at most") as broker:
        with pytest.raises(BrokerRefused, match=r"quota exceeded \(ten at most\)"):
            async with connect(broker.settings()):
                pass


async def test_the_session_is_clean_and_leaving_says_so() -> None:
    async with ScriptedBroker() as broker:
        async with connect(broker.settings()):
            pass
        await until(lambda: broker.disconnects == 1, "a DISCONNECT")
    [packet] = broker.connect_packets
    assert packet.clean_start
    assert packet.session_expiry_interval == 0
