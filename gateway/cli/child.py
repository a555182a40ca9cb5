"""A `parley serve` process of `parley up`: started, told its settings, watched, started again.

Parent and child share a socket pair. Down goes one line of JSON, the settings; up comes one, the
endpoints. Either side sees the other's end as the end of the stream, however it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateway.cli.common import Fault

READY_S = 30.0
"""Longest wait for one that has nothing to load."""
_STOP_S = 10.0
_LAST_WORDS_S = 5.0
"""For a child that has hung up to say why and end."""
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 30.0
"""A child that ran this long starts over with the shortest pause."""


class Child:
    """`await spawn()`, `await ready(settings)`, `watch()` in a task of the caller's, `await stop()`."""

    def __init__(
        self, part: str, log: Path, on_event: Callable[[str], None], *, ready_s: float = READY_S
    ) -> None:
        """ready_s: longest wait until it listens."""
        self.part = part
        self.log = log
        self.endpoints: dict[str, str] = {}
        self.restarts = 0
        self._on_event, self._ready_s = on_event, ready_s
        self._settings: Mapping[str, Any] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._stopping = False
        self._log_begins = 0
        """Bytes in the log that are of earlier runs."""

    @property
    def pid(self) -> int:
        """0 while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    async def spawn(self) -> None:
        """Start the process; it imports what it needs and waits for its settings."""
        ours, theirs = socket.socketpair()
        with theirs, self.log.open("ab") as log:
            self._log_begins = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway.cli", "serve", self.part, "--supervisor-fd", str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C is ours to hand on, in order
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)

    async def ready(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Hand over the settings and wait until it listens. Raises Fault with what its log says."""
        assert self._reader is not None
        assert self._writer is not None
        self._settings = settings
        try:
            self._writer.write(json.dumps(settings).encode() + b"\n")
            async with asyncio.timeout(self._ready_s):
                line = await self._reader.readline()
        except TimeoutError:
            raise Fault(f"{self.part} was not ready within {self._ready_s:g} s; see {self.log}") from None
        except ConnectionError:
            line = b""
        if not line:
            raise Fault(f"{self.part} did not start: {await self._last_words()}")
        self.endpoints = json.loads(line)
        return self.endpoints

    async def watch(self) -> None:
        """Until cancelled: start it again, on the same addresses, whenever it dies."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            assert self._process is not None
            code = await self._process.wait()
            if self._stopping:
                return
            self._on_event(f"{self.part} died ({_how(code)}): starting it again; see {self.log}")
            self.restarts += 1
            failures = 0 if loop.time() - began > _STEADY_S else failures + 1
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            self._close_socket()
            try:
                await self.spawn()
                await self.ready(self._settings)
                self._on_event(f"{self.part} is back")
            except (Fault, OSError) as error:
                self._on_event(str(error))
                await self._end()

    async def stop(self) -> None:
        """Ask it to end, wait, kill what does not. May be called twice."""
        self._stopping = True
        await self._end()
        self._close_socket()

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _close_socket(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = self._reader = None

    async def _last_words(self) -> str:
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._process.wait()
        try:
            said = self.log.read_bytes()[self._log_begins :].decode("utf-8", "replace")
            lines = [line for line in said.splitlines() if line.strip()]
        except OSError:
            lines = []
        last = lines[-1].removeprefix("parley: ") if lines else "it said nothing"
        return f"{last} (log: {self.log})"


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
