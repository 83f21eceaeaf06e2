"""How a gateway loses its broker, and gets it back."""

from __future__ import annotations

from typing import Protocol

from gapless_tools.local_brokers import LocalBroker
from tests.support.cable import Cable


class Outages(Protocol):
    """What a test may do to the way to the broker. Every call may be made twice."""

    async def go_away(self) -> None:
        """Nothing answers there any more."""

    def fall_silent(self) -> None:
        """Connections stay open, and nothing is answered."""

    async def come_back(self) -> None:
        """All is well again."""


class CableOutages:
    """The broker stays up and forgets nothing; the gateway cannot reach it."""

    def __init__(self, cable: Cable, broker: LocalBroker) -> None:
        self._cable = cable
        self._broker = broker

    async def go_away(self) -> None:
        """Cut the cable."""
        await self._cable.cut()

    def fall_silent(self) -> None:
        """Freeze the broker."""
        self._broker.pause()

    async def come_back(self) -> None:
        """Thaw the broker, join the cable."""
        self._broker.resume()
        await self._cable.join()


class BrokerOutages:
    """The broker is killed, and forgets everything: also what it acknowledged."""

    def __init__(self, broker: LocalBroker) -> None:
        self._broker = broker

    async def go_away(self) -> None:
        """Kill it."""
        self._broker.kill()

    def fall_silent(self) -> None:
        """Freeze it."""
        self._broker.pause()

    async def come_back(self) -> None:
        """Thaw it, or start it anew."""
        if self._broker.is_running:
            self._broker.resume()
        await self._broker.start()
