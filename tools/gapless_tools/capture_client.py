"""The capture at work: messages in, synced to the file, receipts out; across broker outages.

    aiomqtt --pump--> incoming --write (append, sync)--> progress --send--> receipts

A receipt is made from `CaptureProgress` only, and that learns of a message only after the batch
it came in is synced. That is the one place which keeps "synced before receipted".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any, Protocol

import aiomqtt

from gapless_tools.capture_broker import BrokerOptions, CaptureBrokerError, explain
from gapless_tools.capture_messages import is_receipt, parse_line, render_line
from gapless_tools.capture_progress import CaptureProgress

BATCH_LINGER_S = 0.1
BATCH_MESSAGES_MAX = 500
BACK_OFF_FIRST_S = 0.05
BACK_OFF_MAX_S = 0.5
STOP_TIMEOUT_S = 3.0
IDLE_POLL_S = 0.01
CANCEL_AGAIN_S = 0.1


class LineStore(Protocol):
    """Where lines go; CaptureStore keeps this."""

    def append(self, lines: list[bytes]) -> None:
        """Return when the lines are on the disk."""


class Capture:
    """One gateway's messages, kept and receipted. `run` once."""

    def __init__(
        self,
        gateway: str,
        options: BrokerOptions,
        store: LineStore,
        progress: CaptureProgress,
        *,
        jitter: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        """`progress` holds what is in the store already. `jitter` gives numbers in [0, 1).

        `tell` is called with a sentence when the connection comes or goes.
        """
        self.progress = progress
        self.connected = False
        self.connections = 0
        self._gateway = gateway
        self._filter = f"gapless/{gateway}/#"
        self._pumping = False  # a message is between aiomqtt's queue and ours
        self._options = options
        self._store = store
        self._jitter = jitter
        self._tell = tell
        self._incoming: asyncio.Queue[bytes] = asyncio.Queue(BATCH_MESSAGES_MAX)
        self._due: set[bytes] = set()  # streams whose receipt the broker has not got from us
        self._is_due = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Capture until `stop` is set; then sync, receipt and disconnect.

        Raises UserError when the disk fails, or when the broker refuses the first connection.
        """
        writing = asyncio.create_task(self._write(), name="capture write")
        connecting = asyncio.create_task(self._stay_connected(stop), name="capture connect")
        stopping = asyncio.create_task(stop.wait(), name="capture stop")
        syncing = None
        try:
            await _first_of(writing, connecting, stopping)
            if self.connected:  # the session sees to its own end
                await _first_of(writing, connecting)
            await _cancel(connecting, stopping)
            syncing = asyncio.create_task(self._incoming.join(), name="capture last sync")
            await _first_of(writing, syncing)
        finally:
            await _cancel(writing, connecting, stopping, *([syncing] if syncing else []))

    async def _write(self) -> None:
        while True:
            lines = [await self._incoming.get()]
            try:
                async with asyncio.timeout(BATCH_LINGER_S):
                    while len(lines) < BATCH_MESSAGES_MAX:
                        lines.append(await self._incoming.get())
            except TimeoutError:
                pass
            await asyncio.to_thread(self._store.append, lines)
            for line in lines:
                self._due |= self.progress.note(parse_line(0, line))
                self._incoming.task_done()
            self._is_due.set()

    async def _stay_connected(self, stop: asyncio.Event) -> None:
        delay_s = BACK_OFF_FIRST_S
        while not stop.is_set():
            before, why = self.connections, "the connection was closed"
            try:
                await self._session(stop)
            except aiomqtt.MqttError as error:
                fault = explain(error, self._options)
                if isinstance(fault, CaptureBrokerError) and self.connections == 0:
                    raise fault from error
                why = str(fault)
            finally:
                self.connected = False
            if stop.is_set():
                return
            if self.connections > before:
                self._tell("disconnected, trying again")
                delay_s = BACK_OFF_FIRST_S
            elif delay_s == BACK_OFF_FIRST_S:
                self._tell(f"{why}; trying again")
            await _sleep_unless(stop, delay_s * (0.5 + self._jitter() / 2))
            delay_s = min(delay_s * 2, BACK_OFF_MAX_S)

    async def _session(self, stop: asyncio.Event) -> None:
        """Hold one connection until it breaks (MqttError) or `stop` is set."""
        async with self._options.make_client() as client:
            # One filter, so that the broker keeps the order among data, events and LOST.
            await client.subscribe(self._filter, qos=1)
            self.connected = True
            self.connections += 1
            self._tell(f"connected to {self._options.address}")
            self._due |= set(self.progress.streams)
            self._is_due.set()
            pumping = asyncio.create_task(self._pump(client), name="capture pump")
            sending = asyncio.create_task(self._send(client), name="capture receipts")
            stopping = asyncio.create_task(stop.wait(), name="capture session stop")
            try:
                await _first_of(pumping, sending, stopping)
                with contextlib.suppress(TimeoutError):  # what is late comes at the next start
                    async with asyncio.timeout(STOP_TIMEOUT_S):
                        await self._take_the_rest(client)
                        await _cancel(pumping, sending)
                        await self._send_due(client)
            finally:
                await _cancel(pumping, sending, stopping)

    async def _take_the_rest(self, client: aiomqtt.Client) -> None:
        """End the subscription, and wait until what came before its end is synced."""
        await client.unsubscribe(self._filter)
        idle = 0
        while idle < 2:
            idle = 0 if len(client.messages) or self._pumping else idle + 1
            await asyncio.sleep(IDLE_POLL_S)
        await self._incoming.join()

    async def _pump(self, client: aiomqtt.Client) -> None:
        self._pumping = False
        async for message in client.messages:
            topic = str(message.topic)
            if is_receipt(topic):  # our own, coming back
                continue
            payload = message.payload if isinstance(message.payload, bytes) else b""
            rx_ms = time.time_ns() // 1_000_000
            self._pumping = True
            await self._incoming.put(
                render_line(rx_ms, topic, payload, retain=bool(message.retain))
            )
            self._pumping = False

    async def _send(self, client: aiomqtt.Client) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            await self._send_due(client)

    async def _send_due(self, client: aiomqtt.Client) -> None:
        due, self._due = sorted(self._due), set()
        try:
            results = await asyncio.gather(
                *(self._send_receipt(client, stream) for stream in due), return_exceptions=True
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        except BaseException:
            self._due |= set(due)
            raise

    async def _send_receipt(self, client: aiomqtt.Client, stream: bytes) -> None:
        receipt = self.progress.receipt(stream)
        if receipt is None:
            return
        device, through = receipt
        fields = {"device": device, "stream": stream.hex(), "through": through}
        await client.publish(
            f"gapless/{self._gateway}/receipt/{device}",
            json.dumps(fields, separators=(",", ":")),
            qos=1,
            retain=True,
        )


async def _sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


async def _first_of(*tasks: asyncio.Task[Any]) -> None:
    """Wait until one task is done; raises what a done one raised."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel until they are done: aiomqtt waits by asyncio.wait_for, and that of Python 3.11
    swallows a cancellation which meets the very moment its answer comes.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)  # an error of theirs is seen, and dropped
