"""A real Redis on a free port, which a test may stall and kill."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

_UP_S = 10.0


class RedisServer:
    """`url`, `ca`, and what can happen to it."""

    def __init__(self, folder: Path, *, password: str = "", tls: bool = False) -> None:
        self._folder, self._password, self._tls = folder, password, tls
        self._process: asyncio.subprocess.Process | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.ca: Path | None = None

    @property
    def url(self) -> str:
        user = f":{self._password}@" if self._password else ""
        return f"{'rediss' if self._tls else 'redis'}://{user}127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            if os.environ.get("CI"):
                pytest.fail("there is no redis-server: scripts/test installs it")
            pytest.skip("there is no redis-server: apt-get install redis-server")
        options = ["--save", "", "--appendonly", "no", "--dir", str(self._folder), "--bind", "127.0.0.1"]
        if self._password:
            options += ["--requirepass", self._password]
        if self._tls:
            options += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            options += self._certificate()
        else:
            options += ["--port", str(self.port)]
        self._process = await asyncio.create_subprocess_exec(
            program, *options, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(_UP_S):
            said = b""
            while b"Ready to accept connections" not in said:
                said = await self._process.stdout.readline()
                assert said, "redis-server did not start"

    def _certificate(self) -> list[str]:
        import trustme

        authority = trustme.CA()
        mine = authority.issue_cert("127.0.0.1")
        self.ca = self._folder / "ca.crt"
        authority.cert_pem.write_to_path(str(self.ca))
        mine.private_key_pem.write_to_path(str(self._folder / "tls.key"))
        mine.cert_chain_pems[0].write_to_path(str(self._folder / "tls.crt"))
        return [
            *("--tls-cert-file", str(self._folder / "tls.crt")),
            *("--tls-key-file", str(self._folder / "tls.key")),
        ]

    def stall(self) -> None:
        """It takes connections and says nothing any more."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGKILL)
            await self._process.communicate()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@asynccontextmanager
async def redis_server(folder: Path, *, password: str = "", tls: bool = False) -> AsyncIterator[RedisServer]:
    server = RedisServer(folder, password=password, tls=tls)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
