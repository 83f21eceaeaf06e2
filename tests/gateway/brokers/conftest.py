"""One adapter and one broker at a time: every contract test runs over both times both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gapless_gateway.brokers.settings import BrokerSettings, TlsSettings
from gapless_tools.local_brokers import LocalBroker
from tests.support.mqtt import BROKER_KINDS, make_broker

ADAPTERS = ("mqtt5", "aiomqtt", "aiomqtt-3.1.1")


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=BROKER_KINDS)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalBroker]:
    made = make_broker(str(request.param), tmp_path / "broker")
    async with made:
        yield made


def settings_for(broker: LocalBroker, adapter: str, **changes: Any) -> BrokerSettings:
    v311 = adapter.endswith("3.1.1")
    values: dict[str, Any] = {
        "host": broker.host,
        "port": broker.port_v311 if v311 else broker.port,
        "adapter": adapter.split("-", maxsplit=1)[0],
        "protocol": "3.1.1" if v311 else "5",
        "client_id": "gapless-test",
        "tls": TlsSettings(ca_file=broker.ca_file),
    }
    return BrokerSettings(**(values | changes))
