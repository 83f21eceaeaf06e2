"""The way from the gateway to the broker, which can be cut while the broker itself stays up.

A broker that keeps nothing on its disk cannot be killed in a test of delivery by PUBACK: it would
lose what it acknowledged. Cutting the cable shows the gateway the same outage, and tears bytes in
both directions: publishes that never arrive, and acknowledgements that are never heard.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from gapless_tools.local_brokers import HOST, free_port

CHUNK_BYTES = 4096


class Cable:
    """Listens on a port of its own and passes bytes on to `target_port`. Joined within its block.

    TLS goes through it untouched: both ends are on one host.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._carrying: set[asyncio.Task[None]] = set()

    @property
    def is_joined(self) -> bool:
        """Whether bytes can pass."""
        return self._server is not None

    async def join(self) -> None:
        """Let connections through again."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, HOST, self.port)

    async def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def __aenter__(self) -> Self:
        """Join it."""
        await self.join()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cut it."""
        await self.cut()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target_port)
            ends.append(far_writer)
            passing = [
                asyncio.create_task(_pass_on(reader, far_writer)),
                asyncio.create_task(_pass_on(far_reader, writer)),
            ]
            try:
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in passing:
                    task.cancel()
                await asyncio.gather(*passing, return_exceptions=True)
        except OSError:
            pass  # the broker is not there: the gateway sees its connection end
        finally:
            for end in ends:
                end.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
