"""Brokers of our own on 127.0.0.1, for the demo and the tests: rumqttd and Mosquitto, over TLS.

Both have one interface: `await start()`, `kill()`, `pause()`, `resume()`, `await stop()`, and
the facts a client needs (`host`, `port`, `ca_file`). A broker keeps its port across restarts,
dies with the process (more exactly the thread) that started it, is out of reach of a terminal's
Ctrl-C, and logs to `log_file` in its directory. The system's own broker is never touched.
"""

from __future__ import annotations

import asyncio
import base64
import getpass
import hashlib
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from gapless_gateway.errors import UserError
from gapless_tools import embedded_broker
from gapless_tools.die_with_parent import command_line
from gapless_tools.pki import CA_KEY_NAME, CertificateFiles, load_authority, make_authority

HOST = "127.0.0.1"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.02
PORT_ATTEMPTS = 5
LOWEST_PORT = 10_000
LOG_TAIL_BYTES = 2_000


class BrokerStartError(UserError):
    """A local broker ended, or never answered, while it was started."""


def free_port() -> int:
    """Return a free port of 127.0.0.1 below the range of outgoing connections.

    A client that keeps trying a dead port within that range can be given that very port as its
    own and connect to itself; the broker could then not come back.
    """
    port_range = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    below = int(port_range.split()[0])
    candidates = range(LOWEST_PORT, below) if below > LOWEST_PORT + 1000 else range(1024, 65536)
    for port in random.sample(candidates, min(len(candidates), 200)):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise UserError(f"no free port found on {HOST}")


class LocalBroker(ABC):
    """A broker process on 127.0.0.1 with TLS; see the subclasses for what it runs."""

    kind: str

    def __init__(
        self,
        directory: Path,
        *,
        certificates: CertificateFiles | None = None,
        port: int = 0,
        users: Mapping[str, str] | None = None,
        inflight_max: int = 100,
    ) -> None:
        """Prepare a broker whose files live in `directory`; nothing runs yet.

        Without `certificates` an authority of its own is made in `directory`/pki. `port` 0 takes
        a free one at the first start. `users` (name: password) closes it to everybody else.
        `inflight_max` is the window of unacknowledged messages that it allows.
        """
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.host = HOST
        self.port = port
        self.users = dict(users or {})
        self.inflight_max = inflight_max
        self.certificates = certificates or _own_certificates(self.directory / "pki")
        self.log_file = self.directory / f"{self.kind}.log"
        self._port_is_given = port != 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def ca_file(self) -> Path:
        """The PEM file a client verifies this broker with."""
        return self.certificates.ca_file

    @property
    def pid(self) -> int | None:
        """The process id while it runs (or is paused)."""
        return self._process.pid if self.is_running and self._process else None

    @property
    def is_running(self) -> bool:
        """Whether the process lives; a paused one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def port_v311(self) -> int:
        """The port for MQTT 3.1.1 clients; the same as `port` where one listener serves both."""
        return self.port

    async def start(self) -> None:
        """Start, and return when a verified TLS connection succeeds on each port.

        Raises BrokerStartError with the end of the log otherwise.
        """
        if self.is_running:
            return
        for attempt in range(PORT_ATTEMPTS):
            if not self._port_is_given:
                self._choose_ports()
            try:
                await self._start_once()
            except BrokerStartError:
                # Another process may have taken a port between our choice and the bind.
                if self._port_is_given or attempt == PORT_ATTEMPTS - 1:
                    raise
            else:
                self._port_is_given = True
                return

    def kill(self) -> None:
        """End it at once with SIGKILL, as a power cut would, and reap it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing is answered from here on."""
        self._signal(signal.SIGSTOP)
        if self._process is not None:
            # A process on another core runs on for a moment; WNOWAIT leaves its end to be reaped.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused broker go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    async def stop(self) -> None:
        """End it in order (SIGTERM), by force after a while. Safe to call twice."""
        if self._process is None:
            return
        if self.is_running:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while self.is_running:  # noqa: ASYNC110 - a process's end sets no event
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            pass
        finally:
            self.kill()

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it."""
        await self.stop()

    @abstractmethod
    def _choose_ports(self) -> None:
        """Take free ports for this broker's listeners."""

    @abstractmethod
    def _prepare(self) -> list[str]:
        """Write the configuration and return the command that runs the broker."""

    async def _start_once(self) -> None:
        command = command_line(self._prepare())
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - no shell; takes a few ms
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                for port in sorted({self.port, self.port_v311}):
                    await self._wait_until_ready(port)
        except TimeoutError:
            self.kill()
            raise BrokerStartError(self._why("does not answer over TLS")) from None
        except BaseException:
            self.kill()
            raise

    async def _wait_until_ready(self, port: int) -> None:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        while True:
            if not self.is_running:
                raise BrokerStartError(self._why("ended while it started"))
            try:
                _, writer = await asyncio.open_connection(self.host, port, ssl=context)
            except OSError:  # refused, or somebody else's broker (the certificate tells)
                await asyncio.sleep(POLL_S)
                continue
            writer.transport.abort()
            return

    def _why(self, what: str) -> str:
        lines = self.log_file.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").splitlines()
        last = lines[-1] if lines else "its log is empty"
        return f"the {self.kind} broker {what} (log {self.log_file}): {last}"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError(f"the {self.kind} broker is not running")
        self._process.send_signal(number)


class EmbeddedBroker(LocalBroker):
    """rumqttd from the `iotcore` wheel: MQTT 5 on `port`, MQTT 3.1.1 on `port_v311`."""

    kind = "embedded"
    _port_v311 = 0

    @property
    def port_v311(self) -> int:
        """The port of the MQTT 3.1.1 listener: rumqttd speaks one version per listener."""
        return self._port_v311

    def _choose_ports(self) -> None:
        self.port = free_port()
        self._port_v311 = free_port()

    def _prepare(self) -> list[str]:
        while self._port_v311 in (0, self.port):
            self._port_v311 = free_port()
        config = self.directory / "rumqttd.toml"
        config.touch(mode=0o600)
        config.write_text(
            embedded_broker.render_config(
                self.certificates,
                host=self.host,
                port=self.port,
                port_v311=self._port_v311,
                users=self.users,
                inflight_max=self.inflight_max,
            ),
            encoding="utf-8",
        )
        module = "gapless_tools.embedded_broker"
        return [sys.executable, "-P", "-m", module, "--config", str(config)]


class MosquittoBroker(LocalBroker):
    """Mosquitto with a configuration of its own; MQTT 3.1.1 and 5 on one port."""

    kind = "mosquitto"

    @staticmethod
    def find_program() -> str | None:
        """Return Mosquitto's path, None where it is not installed."""
        # Debian installs it where a user's PATH does not look.
        return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/sbin")

    def _choose_ports(self) -> None:
        self.port = free_port()

    def _prepare(self) -> list[str]:
        program = self.find_program()
        if program is None:
            raise UserError("Mosquitto is not installed: sudo apt install mosquitto")
        config = self.directory / "mosquitto.conf"
        config.write_text("\n".join(self._config_lines()) + "\n", encoding="utf-8")
        return [program, "-c", str(config)]

    def _config_lines(self) -> list[str]:
        lines = [
            f"listener {self.port} {self.host}",
            f"cafile {self.certificates.ca_file}",
            f"certfile {self.certificates.cert_file}",
            f"keyfile {self.certificates.key_file}",
            "tls_version tlsv1.2",
            # Started by root it would become the user `mosquitto`, who may not read our keys.
            f"user {getpass.getuser()}",
            "persistence false",
            # 0 is "no limit": nothing may be dropped for a slow subscriber.
            "max_queued_messages 0",
            "max_queued_bytes 0",
            f"max_inflight_messages {self.inflight_max}",
            "set_tcp_nodelay true",
            "sys_interval 0",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type information",
        ]
        if not self.users:
            return [*lines, "allow_anonymous true"]
        passwords = self.directory / "mosquitto.passwords"
        passwords.touch(mode=0o600)
        passwords.write_text(
            "".join(f"{name}:{_hashed(password)}\n" for name, password in self.users.items()),
            encoding="utf-8",
        )
        return [*lines, "allow_anonymous false", f"password_file {passwords}"]


def _own_certificates(directory: Path) -> CertificateFiles:
    if (directory / CA_KEY_NAME).exists():
        authority = load_authority(directory)
    else:
        authority = make_authority(directory, "Gapless local broker authority")
    return authority.issue("broker", dns_names=["localhost"], ip_addresses=[HOST])


def _hashed(password: str) -> str:
    """Hash as mosquitto_passwd of Mosquitto 2 does: PBKDF2 with SHA-512, format `$7$`."""
    iterations = 101
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    encoded = (base64.b64encode(part).decode("ascii") for part in (salt, digest))
    return f"$7${iterations}$" + "$".join(encoded)
