"""A worker as its parent knows it: started, asked, watched, ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.cli.common import Fault
from gateway.cli.link import Link, Message, open_link
from gateway.telemetry.merge import Dump

_READY_S = 60.0


class WorkerProcess:
    """`await start()`, then `await ended()`; `start()` again makes another process of the same number."""

    def __init__(
        self,
        number: int,
        settings: Mapping[str, Any],
        options: Sequence[str],
        on_message: Callable[[WorkerProcess, Message], None],
    ) -> None:
        """settings: overrides, as `load_settings` takes them. options: of the command line.
        on_message: gets what the worker says by itself."""
        self.number = number
        self.serving = False
        self.missing_since: float | None = None
        """Loop time since which it has not served; None while it does."""
        self.last_dump: Dump = []
        """Of its metrics, from when it was last asked."""
        self._settings, self._options = settings, options
        self._on_message = on_message
        self._process: asyncio.subprocess.Process | None = None
        self._link: Link | None = None
        self._reading: asyncio.Task[None] | None = None
        self._asks = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    @property
    def pid(self) -> int:
        """0 while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    @property
    def started(self) -> bool:
        """There is a process of it, or there was."""
        return self._process is not None

    async def start(self) -> str:
        """Returns the gRPC address once it serves. Raises Fault with the reason when it does not."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "gateway.cli", "serve", "gateway", *self._options,
                    "--worker", str(self.number), "--supervisor-fd", str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # a terminal's Ctrl-C is the parent's to hand on
                    env=os.environ | {"PYTHONUNBUFFERED": "1"},
                )  # fmt: skip
            except OSError as error:
                ours.close()
                raise Fault(f"worker {self.number} cannot be started: {error.strerror}") from None
        link = self._link = await open_link(ours)
        link.send({"settings": self._settings})
        try:
            async with asyncio.timeout(_READY_S):
                first = await link.receive()
                while first is not None and not first.keys() & {"ready", "failed"}:
                    self._on_message(self, first)  # it is called already
                    first = await link.receive()
        except TimeoutError:
            self.kill()
            raise Fault(f"worker {self.number} was not ready within {_READY_S:g} s") from None
        if first is None or "ready" not in first:
            why = (first or {}).get("failed", "it ended without a word; its log says why")
            raise Fault(f"worker {self.number} did not start: {why}")
        self.serving, self.missing_since = True, None
        self._reading = asyncio.create_task(self._read(link))
        return str(first["ready"]["grpc"])

    async def ended(self) -> int:
        """Returns the exit code of the process, once everything that it said is heard."""
        assert self._process is not None
        code = await self._process.wait()
        self.serving = False
        if self.missing_since is None:
            self.missing_since = asyncio.get_running_loop().time()
        if self._reading is not None:
            await asyncio.wait({self._reading})
        if self._link is not None:
            self._link.close()
        return code

    def tell(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)

    async def ask(self, what: str, within_s: float) -> Any:
        """What the worker answers; None when it does not."""
        if not self.serving or self._link is None:
            return None
        number = next(self._asks)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._link.send({"ask": number, "what": what})
        try:
            async with asyncio.timeout(within_s):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._waiting[number]

    def terminate(self) -> None:
        """Ask it to drain and end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _read(self, link: Link) -> None:
        while (message := await link.receive()) is not None:
            if "answer" in message:
                waiting = self._waiting.get(message["answer"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(message["value"])
            elif "metrics" in message:
                self.last_dump = message["metrics"]
            else:
                self._on_message(self, message)
        self.serving = False
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)
