"""The web server: health, metrics and the live account, on 127.0.0.1 unless configured otherwise.

GET /healthz    {"status": "ok" | "failed", ...}, 200 or 503
GET /metrics    Prometheus text format
GET /account    the account of every stream, as JSON
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from gapless_gateway.errors import AddressInUse
from gapless_gateway.metrics import CONTENT_TYPE

View = Callable[[], dict[str, Any]]


class WebServer:
    """Serves what its callables return at the moment of the request."""

    def __init__(self, host: str, port: int, *, health: View, account: View,
                 metrics: Callable[[], bytes]) -> None:  # fmt: skip
        self._host = host
        self._port = port
        self._health = health
        self._account = account
        self._metrics = metrics

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve within the block; yields the base URL. Raises AddressInUse."""
        application = web.Application()
        application.router.add_get("/healthz", self._get_health)
        application.router.add_get("/metrics", self._get_metrics)
        application.router.add_get("/account", self._get_account)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            try:
                await site.start()
            except OSError as error:
                reason = error.strerror or str(error)
                raise AddressInUse(
                    f"the web server cannot listen on {self._host}:{self._port} ({reason}); "
                    "set another host or port in [web], or port = 0 for any free one"
                ) from None
            host, port = runner.addresses[0][:2]
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            await runner.cleanup()

    async def _get_health(self, _: web.Request) -> web.Response:
        health = self._health()
        return web.json_response(health, status=200 if health["status"] == "ok" else 503)

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def _get_account(self, _: web.Request) -> web.Response:
        return web.json_response(self._account())
