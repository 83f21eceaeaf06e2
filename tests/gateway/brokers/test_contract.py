"""What every adapter promises, against every broker, over TLS."""

from __future__ import annotations

import asyncio
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gapless_gateway.brokers.base import (
    BrokerConnection,
    BrokerRefused,
    BrokerUnreachable,
    CertificateFault,
    IncomingMessage,
    OutgoingMessage,
    PublishOutcome,
    PublishResult,
)
from gapless_gateway.brokers.connect import connect
from gapless_gateway.brokers.settings import TlsSettings
from gapless_tools.local_brokers import LocalBroker, free_port
from gapless_tools.pki import make_authority
from tests.support.mqtt import BROKER_KINDS, client, make_broker, take, until

from .conftest import settings_for

DEADLINE_S = 30.0


def one_sentence(message: str) -> bool:
    """A sentence: an upper-case letter, one full stop at the end, one line."""
    return (
        re.match(r'[A-Z"]', message) is not None
        and message.endswith(".")
        and "\n" not in message
        and ". " not in message
    )


async def publish_all(
    connection: BrokerConnection, messages: list[OutgoingMessage]
) -> list[PublishResult]:
    results: list[PublishResult] = []
    for message in messages:
        connection.publish(message, results.append)
    await until(lambda: len(results) == len(messages), "every message acknowledged")
    return results


async def test_what_was_acknowledged_reached_the_subscriber_in_order(
    broker: LocalBroker, adapter: str
) -> None:
    count = 500
    async with client(broker) as subscriber:
        await subscriber.subscribe("gapless/#", qos=1)
        async with connect(settings_for(broker, adapter)) as connection:
            messages = [OutgoingMessage("gapless/g/d/data", b"%d" % i) for i in range(count)]
            results = await publish_all(connection, messages)
        assert {result.outcome for result in results} == {PublishOutcome.DELIVERED}
        taken = await take(subscriber, count)
    assert [int(message.payload) for message in taken] == list(range(count))  # type: ignore[arg-type]


async def test_user_properties_travel_in_mqtt_5(broker: LocalBroker, adapter: str) -> None:
    properties = (("device", "pump-1"), ("seq", "7"))
    async with client(broker) as subscriber:
        await subscriber.subscribe("gapless/#", qos=1)
        async with connect(settings_for(broker, adapter)) as connection:
            message = OutgoingMessage("gapless/g/d/data", b"x", properties=properties)
            await publish_all(connection, [message])
        [taken] = await take(subscriber, 1)
    carried = getattr(taken.properties, "UserProperty", [])
    assert carried == ([] if adapter.endswith("3.1.1") else list(properties))


async def test_a_killed_broker_ends_the_connection(broker: LocalBroker, adapter: str) -> None:
    async with connect(settings_for(broker, adapter)) as connection:
        late: list[PublishResult] = []
        broker.kill()
        connection.publish(OutgoingMessage("gapless/g/d/data", b"x"), late.append)
        async with asyncio.timeout(DEADLINE_S):
            closed = await connection.wait_closed()
            assert closed.reason
            assert not closed.intruder
            assert await connection.wait_closed() == closed
        connection.publish(OutgoingMessage("gapless/g/d/data", b"y"), late.append)
    assert late == []


async def test_a_subscription_brings_retained_and_new_messages(
    broker: LocalBroker, adapter: str
) -> None:
    heard: list[IncomingMessage] = []
    async with connect(settings_for(broker, adapter)) as connection:
        kept = OutgoingMessage("gapless/g/receipt/a", b"kept", retain=True)
        await publish_all(connection, [kept])
        await connection.subscribe("gapless/g/receipt/+", heard.append)
        await until(lambda: len(heard) == 1, "the retained message")
        await publish_all(connection, [OutgoingMessage("gapless/g/receipt/b", b"new")])
        await until(lambda: len(heard) == 2, "the new message")
    assert [(one.topic, one.payload) for one in heard] == [
        ("gapless/g/receipt/a", b"kept"),
        ("gapless/g/receipt/b", b"new"),
    ]
    assert heard[0].retain


async def test_the_last_will_is_published_when_we_vanish_and_not_when_we_leave(
    broker: LocalBroker, adapter: str
) -> None:
    will = OutgoingMessage("gapless/g/status", b"gone", retain=True)
    settings = settings_for(broker, adapter)
    async with client(broker) as subscriber:
        await subscriber.subscribe("gapless/g/#", qos=1)
        async with connect(settings, will) as connection:
            await publish_all(connection, [OutgoingMessage("gapless/g/note", b"left")])
        async with connect(settings, will) as connection:
            await publish_all(connection, [OutgoingMessage("gapless/g/note", b"vanishing")])
            _cut(connection)
            taken = await take(subscriber, 3)
    assert [message.payload for message in taken] == [b"left", b"vanishing", b"gone"]


def _cut(connection: BrokerConnection) -> None:
    """End the TCP connection without a DISCONNECT, as a power cut of ours would."""
    transport = getattr(connection, "_transport", None)
    if transport is not None:
        transport.abort()
    else:
        paho = connection._client._client  # type: ignore[attr-defined]
        paho.socket().shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("kind", BROKER_KINDS)
async def test_a_broker_certificate_for_another_name_is_refused(
    tmp_path: Path, kind: str, adapter: str
) -> None:
    certificates = make_authority(tmp_path / "pki").issue("broker", ip_addresses=["127.0.0.1"])
    async with make_broker(kind, tmp_path / "broker", certificates=certificates) as broker:
        settings = settings_for(broker, adapter, host="localhost")
        with pytest.raises(CertificateFault, match='not made out to "localhost"') as caught:
            await _enter(settings)
    assert one_sentence(str(caught.value))


async def test_an_unknown_authority_is_refused(
    broker: LocalBroker, adapter: str, tmp_path: Path
) -> None:
    other = make_authority(tmp_path / "other")
    settings = settings_for(broker, adapter, tls=TlsSettings(ca_file=other.ca_file))
    with pytest.raises(
        CertificateFault, match=r"not issued by an authority in .*ca\.pem"
    ) as caught:
        await _enter(settings)
    assert one_sentence(str(caught.value))


async def test_a_certificate_of_the_future_names_the_clock(tmp_path: Path, adapter: str) -> None:
    future = datetime.now(UTC) + timedelta(days=30)
    certificates = make_authority(tmp_path / "pki").issue(
        "broker", ip_addresses=["127.0.0.1"], not_before=future
    )
    async with await _tls_listener(certificates.cert_file, certificates.key_file) as port:
        broker = _address(port, certificates.ca_file)
        with pytest.raises(CertificateFault, match="not yet valid; this machine's clock") as caught:
            await _enter(settings_for(broker, adapter))
    assert one_sentence(str(caught.value))


async def test_a_port_that_does_not_speak_tls_is_named(tmp_path: Path, adapter: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        broker = _address(
            server.sockets[0].getsockname()[1], make_authority(tmp_path / "pki").ca_file
        )
        with pytest.raises(BrokerUnreachable, match="does not speak TLS") as caught:
            await _enter(settings_for(broker, adapter))
    assert one_sentence(str(caught.value))


async def test_what_hangs_up_in_the_handshake_does_not_speak_tls(
    tmp_path: Path, adapter: str
) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        broker = _address(
            server.sockets[0].getsockname()[1], make_authority(tmp_path / "pki").ca_file
        )
        with pytest.raises(BrokerUnreachable, match="does not speak TLS") as caught:
            await _enter(settings_for(broker, adapter))
    assert one_sentence(str(caught.value))


async def test_tls_that_is_no_mqtt_is_named(tmp_path: Path, adapter: str) -> None:
    certificates = make_authority(tmp_path / "pki").issue("x", ip_addresses=["127.0.0.1"])
    async with await _tls_listener(certificates.cert_file, certificates.key_file) as port:
        broker = _address(port, certificates.ca_file)
        with pytest.raises(BrokerUnreachable, match="did not accept an MQTT") as caught:
            await _enter(settings_for(broker, adapter))
    assert one_sentence(str(caught.value))


async def test_a_closed_port_is_named(tmp_path: Path, adapter: str) -> None:
    broker = _address(free_port(), make_authority(tmp_path / "pki").ca_file)
    with pytest.raises(BrokerUnreachable, match="Nothing listens on") as caught:
        await _enter(settings_for(broker, adapter))
    assert one_sentence(str(caught.value))
    assert f"127.0.0.1:{broker.port};" in str(caught.value)


async def test_a_name_without_an_address_is_named(tmp_path: Path, adapter: str) -> None:
    broker = _address(1, make_authority(tmp_path / "pki").ca_file)
    with pytest.raises(BrokerUnreachable, match=r'"broker\.invalid" is not known') as caught:
        await _enter(settings_for(broker, adapter, host="broker.invalid"))
    assert one_sentence(str(caught.value))


async def test_a_broker_that_never_answers_is_given_up(broker: LocalBroker, adapter: str) -> None:
    broker.pause()
    try:
        with pytest.raises(BrokerUnreachable, match=r"did not answer within 0\.5 s") as caught:
            await _enter(settings_for(broker, adapter, connect_timeout_s=0.5))
    finally:
        broker.resume()
    assert one_sentence(str(caught.value))


@pytest.mark.parametrize("kind", BROKER_KINDS)
async def test_bad_credentials_are_refused_and_good_ones_taken(
    tmp_path: Path, kind: str, adapter: str
) -> None:
    async with make_broker(kind, tmp_path / "broker", users={"hall": "secret"}) as broker:
        good = settings_for(broker, adapter, username="hall", password=b"secret")
        async with connect(good) as connection:
            await publish_all(connection, [OutgoingMessage("gapless/g/d/data", b"x")])
        bad = settings_for(broker, adapter, username="hall", password=b"wrong")
        with pytest.raises((BrokerRefused, BrokerUnreachable)) as caught:
            await _enter(bad)
    assert one_sentence(str(caught.value))
    assert "secret" not in repr(good)
    assert "wrong" not in str(caught.value)
    if kind == "mosquitto":  # rumqttd hangs up instead of saying why
        assert isinstance(caught.value, BrokerRefused)
    assert "username and password_file" in str(caught.value)


async def test_more_than_the_receive_maximum_waits_its_turn(tmp_path: Path, adapter: str) -> None:
    count = 200
    async with make_broker("mosquitto", tmp_path / "broker", inflight_max=5) as broker:
        async with client(broker) as subscriber:
            await subscriber.subscribe("gapless/#", qos=1)
            async with connect(settings_for(broker, adapter)) as connection:
                if not adapter.endswith("3.1.1"):
                    assert connection.receive_maximum == 5
                await publish_all(
                    connection,
                    [OutgoingMessage("gapless/g/d/data", b"%d" % i) for i in range(count)],
                )
            taken = await take(subscriber, count)
    assert [int(message.payload) for message in taken] == list(range(count))  # type: ignore[arg-type]


@pytest.mark.parametrize("topic", ["gapless/g/#/data", "gapless/\0/data"])
async def test_a_topic_that_mqtt_cannot_carry_is_refused_for_good_and_nothing_else(
    broker: LocalBroker, adapter: str, topic: str
) -> None:
    async with connect(settings_for(broker, adapter)) as connection:
        bad, good = OutgoingMessage(topic, b"x"), OutgoingMessage("gapless/g/d/data", b"x")
        results: dict[str, PublishResult] = {}
        connection.publish(bad, lambda result: results.__setitem__("bad", result))
        connection.publish(good, lambda result: results.__setitem__("good", result))
        await until(lambda: len(results) == 2, "both answered")
    assert results["bad"].outcome is PublishOutcome.REFUSED_FOR_GOOD
    assert results["good"].outcome in {PublishOutcome.DELIVERED, PublishOutcome.NO_SUBSCRIBERS}


# Helpers


class _Address:
    """Where something listens that is no broker."""

    kind = "nobody"

    def __init__(self, port: int, ca_file: Path) -> None:
        self.host, self.port, self.port_v311, self.ca_file = "127.0.0.1", port, port, ca_file


def _address(port: int, ca_file: Path) -> LocalBroker:
    return _Address(port, ca_file)  # type: ignore[return-value]


async def _enter(settings: object) -> None:
    async with connect(settings):  # type: ignore[arg-type]
        pass


class _Listener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    async def __aenter__(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


async def _tls_listener(cert_file: Path, key_file: Path) -> _Listener:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    return _Listener(await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context))
