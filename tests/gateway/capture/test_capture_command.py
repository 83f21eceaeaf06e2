"""`gapless capture` as a process: killed, stopped, misused."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from gapless_tools.capture_messages import CapturedRecord
from gapless_tools.capture_progress import CaptureProgress
from gapless_tools.capture_store import Damaged, read_capture
from gapless_tools.local_brokers import LocalBroker
from gapless_tools.pki import make_authority
from tests.support.mqtt import DEADLINE_S, client, make_broker, until
from tests.support.published import GATEWAY, STATUS_TOPIC, STREAM, record, status, topic

KILLS = 8


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with make_broker("embedded", tmp_path / "broker") as started:
        yield started


def arguments(broker: LocalBroker, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "gapless_tools.cli", "capture", "--host", broker.host,
        "--port", str(broker.port), "--ca-file", str(broker.ca_file),
        "--gateway", GATEWAY, "--out", str(out), *more,
    ]  # fmt: skip


@contextmanager
def started(command: list[str], **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone at the end, whatever became of the test."""
    process = subprocess.Popen(command, **{"stderr": subprocess.DEVNULL, **streams})
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def covered(out: Path) -> int:
    """What the file alone, read as the audit would, lets a receipt say."""
    progress = CaptureProgress()
    for item in read_capture(out):
        if not isinstance(item, Damaged):
            progress.note(item)
    receipt = progress.receipt(STREAM)
    return -1 if receipt is None else receipt[1]


async def test_no_receipt_is_ever_beyond_the_file_whenever_it_is_killed(
    broker: LocalBroker, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    out = tmp_path / "capture"
    receipts: list[int] = []
    done = asyncio.Event()

    async def listen(peer: aiomqtt.Client) -> None:
        async for message in peer.messages:
            receipts.append(json.loads(message.payload)["through"])

    async def publish(peer: aiomqtt.Client) -> None:
        """A gateway in receipt mode: what was not receipted is sent again, again and again."""
        while not done.is_set():  # a cancellation may be swallowed by asyncio.wait_for of 3.11
            first = max(receipts, default=0) + 1
            for seq in range(first, first + 50):
                payload = record(seq, redelivery=True)
                await peer.publish(topic("data"), payload, qos=1)

    async with client(broker) as peer, client(broker) as listener:
        await listener.subscribe(f"gapless/{GATEWAY}/receipt/+", qos=1)
        await peer.publish(STATUS_TOPIC, status(), qos=1, retain=True)
        listening = asyncio.create_task(listen(listener))
        publishing = asyncio.create_task(publish(peer))
        for _ in range(KILLS):
            heard = len(receipts)
            with started(arguments(broker, out)):
                await until(lambda n=heard: len(receipts) > n + 1, "a receipt of this run")
                await asyncio.sleep(rng.random() * 0.3)
            await asyncio.sleep(0.2)  # let the last receipt arrive
            assert max(receipts) <= covered(out)
        done.set()
        await publishing
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert max(receipts) > 0
    assert all(item.torn for item in read_capture(out) if isinstance(item, Damaged)), (
        "a line other than the last is damaged"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stopped_by_a_signal_it_ends_with_status_0_and_all_receipted(
    broker: LocalBroker, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "capture"
    async with client(broker) as peer:
        await peer.publish(STATUS_TOPIC, status(), qos=1, retain=True)
        process = subprocess.Popen(
            arguments(broker, out, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            await until((out / "capture.jsonl").exists, "the file is made")
            await until(lambda: (out / "capture.jsonl").stat().st_size, "the status is captured")
            for seq in range(1, 101):
                await peer.publish(topic("data"), record(seq), qos=1)
            await until(lambda: covered(out) == 100, "all is captured")
            process.send_signal(number)
            stdout, stderr = await asyncio.to_thread(process.communicate, None, DEADLINE_S)
        finally:
            process.kill()
            process.wait()
        last = json.loads(stdout.splitlines()[-1])
        assert (process.returncode, stderr) == (0, b"")
        assert last["streams"][0]["through"] == 100
        await peer.subscribe(f"gapless/{GATEWAY}/receipt/+", qos=1)
        async with asyncio.timeout(DEADLINE_S):
            message = await anext(peer.messages)
        assert json.loads(message.payload)["through"] == 100
        assert message.retain


async def test_it_waits_for_a_broker_that_is_not_there_yet(
    broker: LocalBroker, tmp_path: Path
) -> None:
    broker.kill()
    out = tmp_path / "capture"
    log = tmp_path / "capture.log"
    with log.open("wb") as sink, started(arguments(broker, out), stderr=sink) as process:
        await until(lambda: "nothing listens on" in log.read_text(), "it says what it waits for")
        await broker.start()
        await until(lambda: "connected to" in log.read_text(), "it is connected")
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


def refused(command: list[str]) -> str:
    """Run to the end; the one sentence it ends with."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1 or "Usage" in ended.stderr
    return ended.stderr


async def test_what_waiting_cannot_heal_ends_with_one_sentence(
    broker: LocalBroker, tmp_path: Path
) -> None:
    out = tmp_path / "capture"
    stranger = make_authority(tmp_path / "stranger").ca_file
    password = tmp_path / "password"
    cases = {
        "cannot be trusted": ["--ca-file", str(stranger)],
        "cannot be used as PEM certificates": ["--ca-file", str(tmp_path / "missing")],
        "belong together": ["--cert-file", str(stranger)],
        "as a certificate and its unencrypted key": [
            "--cert-file", str(stranger), "--key-file", str(broker.certificates.key_file)
        ],
        "--no-tls contradicts": ["--no-tls"],
        "--password-file needs --username": ["--password-file", str(password)],
        "cannot be read": ["--username", "x", "--password-file", str(password)],
        "cannot be the name of a gateway": ["--gateway", "a/b"],
        "cannot be used:": ["--out", str(broker.ca_file / "x")],
        "not in the range": ["--port", "0"],
    }  # fmt: skip
    for words, more in cases.items():
        assert words in await asyncio.to_thread(refused, arguments(broker, out, *more)), words


async def test_wrong_credentials_are_named(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("wrong\n")
    users = {"reader": "right"}
    more = ["--username", "reader", "--password-file", str(password)]
    async with make_broker("mosquitto", tmp_path / "broker", users=users) as broker:
        command = arguments(broker, tmp_path / "out", *more)
        assert "refuses us" in await asyncio.to_thread(refused, command)
        password.write_text("right\n")
        with started(command, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            line = await asyncio.to_thread(process.stderr.readline)
            assert b"connected" in line


async def test_a_second_capture_on_the_same_directory_is_refused(
    broker: LocalBroker, tmp_path: Path
) -> None:
    out = tmp_path / "capture"
    with started(arguments(broker, out)):
        await until((out / "capture.jsonl").exists, "the first is at work")
        words = await asyncio.to_thread(refused, arguments(broker, out))
    assert "another capture is writing" in words


async def test_it_speaks_mqtt_3_1_1_too(broker: LocalBroker, tmp_path: Path) -> None:
    out = tmp_path / "capture"
    port = ["--port", str(broker.port_v311), "--mqtt-version", "3.1.1"]
    with started(arguments(broker, out, *port)):
        async with client(broker) as peer:
            await peer.publish(STATUS_TOPIC, status(), qos=1, retain=True)
            await peer.publish(topic("data"), record(1), qos=1, retain=True)
            await until(
                lambda: (
                    (out / "capture.jsonl").exists()
                    and any(isinstance(item, CapturedRecord) for item in read_capture(out))
                ),
                "it is captured",
            )
