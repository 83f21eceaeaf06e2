"""A broker that does what a test tells it: refuses, answers out of order, falls silent.

MQTT 5 over plain TCP on 127.0.0.1, spoken with the same codec as the adapter (its contract with
real brokers is tested elsewhere). It keeps what was published and acknowledges it as `answer` says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import mqtt5

from gapless_gateway.brokers.settings import BrokerSettings

Code = mqtt5.PubAckReasonCode


class ScriptedBroker:
    """Use as `async with`; `published` has every message in order of arrival."""

    def __init__(self, **connack: Any) -> None:
        self.published: list[mqtt5.PublishPacket] = []
        self.pings = 0
        self.connections = 0
        self.connect_packets: list[mqtt5.ConnectPacket] = []
        self.disconnects = 0
        # What to answer a publish with; None: nothing (yet).
        self.answer: Callable[[mqtt5.PublishPacket], Code | None] = lambda _: Code.SUCCESS
        self.silent = False  # reads on, and never answers anything
        self._connack = connack
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> ScriptedBroker:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def settings(self, **changes: Any) -> BrokerSettings:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        values: dict[str, Any] = {"host": "127.0.0.1", "port": port, "tls": None, "client_id": "x"}
        return BrokerSettings(**(values | changes))

    def send(self, packet: mqtt5.Packet) -> None:
        """Send a packet to the latest client."""
        self._writers[-1].write(packet.write())

    def acknowledge(self, packet: mqtt5.PublishPacket, code: Code = Code.SUCCESS) -> None:
        assert packet.packet_id is not None
        self.send(mqtt5.PubAckPacket(packet.packet_id, reason_code=code))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        buffer = b""
        while data := await reader.read(65536):
            buffer += data
            while True:
                try:
                    packet, length = mqtt5.read(memoryview(buffer))
                except IndexError:
                    break
                buffer = buffer[length:]
                self._handle(packet, writer)

    def _handle(self, packet: mqtt5.Packet, writer: asyncio.StreamWriter) -> None:
        if isinstance(packet, mqtt5.DisconnectPacket):
            self.disconnects += 1
        if self.silent:
            return
        if isinstance(packet, mqtt5.ConnectPacket):
            self.connections += 1
            self.connect_packets.append(packet)
            writer.write(mqtt5.ConnAckPacket(**self._connack).write())
        elif isinstance(packet, mqtt5.PingReqPacket):
            self.pings += 1
            writer.write(mqtt5.PingRespPacket().write())
        elif isinstance(packet, mqtt5.SubscribePacket):
            code = mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE
            writer.write(mqtt5.SubAckPacket(packet.packet_id, [code]).write())
        elif isinstance(packet, mqtt5.PublishPacket):
            self.published.append(packet)
            code_or_none = self.answer(packet)
            if code_or_none is not None and packet.packet_id is not None:
                puback = mqtt5.PubAckPacket(packet.packet_id, reason_code=code_or_none)
                writer.write(puback.write())
