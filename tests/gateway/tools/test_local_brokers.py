"""What the local brokers promise, each of them on the real program."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest

from gapless_gateway.errors import UserError
from gapless_tools.local_brokers import LocalBroker, free_port
from tests.support.mqtt import BROKER_KINDS, client, make_broker, take, until
from tests.support.requirements import require_module, require_program


@pytest.fixture(params=BROKER_KINDS)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with make_broker(request.param, tmp_path / "broker") as started:
        yield started


@pytest.mark.parametrize("v311", [False, True], ids=["mqtt5", "mqtt311"])
async def test_publish_and_subscribe_over_tls(broker: LocalBroker, v311: bool) -> None:
    async with client(broker, v311=v311) as subscriber, client(broker, v311=v311) as publisher:
        await subscriber.subscribe("gapless/#", qos=1)
        for number in range(300):
            await publisher.publish("gapless/a", str(number), qos=1)
        messages = await take(subscriber, 300)
    assert [int(message.payload) for message in messages] == list(range(300))
    assert {message.qos for message in messages} == {1}


async def test_payloads_of_a_megabyte_pass(broker: LocalBroker) -> None:
    payload = os.urandom(1_000_000)
    async with client(broker) as subscriber, client(broker) as publisher:
        await subscriber.subscribe("big", qos=1)
        await publisher.publish("big", payload, qos=1)
        assert (await take(subscriber, 1))[0].payload == payload


async def test_killed_it_is_gone_and_comes_back_on_the_same_port(broker: LocalBroker) -> None:
    port, pid = broker.port, broker.pid
    broker.kill()
    assert not broker.is_running
    with pytest.raises(aiomqtt.MqttError):
        async with client(broker):
            pass
    await broker.start()
    assert (broker.port, broker.is_running) == (port, True)
    assert broker.pid != pid
    async with client(broker) as publisher:
        await publisher.publish("gapless/a", b"after", qos=1)


async def test_paused_it_answers_nothing_and_resumed_it_goes_on(broker: LocalBroker) -> None:
    async with client(broker) as publisher:
        broker.pause()
        publishing = asyncio.create_task(publisher.publish("gapless/a", b"x", qos=1))
        done, _ = await asyncio.wait([publishing], timeout=0.3)
        assert not done
        broker.resume()
        await publishing


async def test_a_paused_broker_can_be_stopped_and_killed(broker: LocalBroker) -> None:
    broker.pause()
    await broker.stop()
    await broker.stop()
    assert not broker.is_running
    await broker.start()
    broker.pause()
    broker.kill()
    assert not broker.is_running


@pytest.mark.parametrize("kind", BROKER_KINDS)
@pytest.mark.parametrize("v311", [False, True], ids=["mqtt5", "mqtt311"])
async def test_with_users_strangers_are_refused(tmp_path: Path, kind: str, v311: bool) -> None:
    async with make_broker(kind, tmp_path, users={"gw": 'se"cret'}) as broker:
        async with client(broker, v311=v311, username="gw", password='se"cret') as known:
            await known.publish("a", b"x", qos=1)
        for name, password in (("gw", "wrong"), ("other", 'se"cret'), (None, None)):
            # rumqttd hangs up without a CONNACK, which aiomqtt only sees as silence.
            options = {"username": name, "password": password, "timeout": 1}
            with pytest.raises(aiomqtt.MqttError):
                async with client(broker, v311=v311, **options):
                    pass


@pytest.mark.parametrize("kind", BROKER_KINDS)
async def test_a_taken_port_is_an_error_that_shows_the_log(tmp_path: Path, kind: str) -> None:
    async with make_broker(kind, tmp_path / "one") as first:
        second = make_broker(kind, tmp_path / "two", port=first.port)
        with pytest.raises(UserError, match=f"the {kind} broker"):
            await second.start()
        assert not second.is_running


PARENT = """
import asyncio, sys
from pathlib import Path
from gapless_tools.local_brokers import EmbeddedBroker, MosquittoBroker
async def main():
    kind = EmbeddedBroker if sys.argv[1] == "embedded" else MosquittoBroker
    broker = kind(Path(sys.argv[2]))
    await broker.start()
    print(broker.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("kind", BROKER_KINDS)
async def test_it_dies_with_its_parent_even_by_sigkill(tmp_path: Path, kind: str) -> None:
    require_module("iotcore") if kind == "embedded" else require_program("mosquitto")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, kind, str(tmp_path)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
        parent.wait()
        await until(lambda: not process_lives(pid), f"the end of broker {pid}")


def process_lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_free_ports_are_outside_the_range_of_outgoing_connections() -> None:
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    low, high = map(int, text.split())
    if low <= 11_000:
        pytest.skip("this kernel's range of outgoing ports leaves none below it")
    assert all(not low <= free_port() <= high for _ in range(20))


@pytest.mark.parametrize(
    ("content", "words"), [(None, "there is no configuration"), ("id = [", "does not start")]
)
def test_the_embedded_broker_names_a_bad_configuration(
    tmp_path: Path, content: str | None, words: str
) -> None:
    require_module("iotcore")
    config = tmp_path / "rumqttd.toml"
    if content is not None:
        config.write_text(content)
    module = "gapless_tools.embedded_broker"
    ended = subprocess.run(
        [sys.executable, "-m", module, "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
