"""Callers without locust: the Go program behind asyncio, one task's worth of code per caller."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from load.priority import put_first
from load.run.child import Failed, prepared

_QUIT_S = 8.0
_LINE_BYTES = 1 << 20

Sample = dict[str, Any]
"""{"id", "t" (UNIX s), "turn", "name", "ms", "ok", "why"}"""


class Fleet:
    """`async with Fleet(program, log) as fleet:`; starts callers by their plans and says when they are done."""

    def __init__(
        self,
        program: Path,
        log: Path,
        cores: Collection[int] = (),
        on_sample: Callable[[Sample], None] | None = None,
    ) -> None:
        self._program, self._log, self._cores = program, log, set(cores)
        self._on_sample = on_sample or (lambda _: None)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[tuple[bool, str]]] = {}
        self._next = 1
        self.callers = 0
        self.send_late_p99_ms: float | None = None
        """Of the last second."""

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def __aenter__(self) -> Fleet:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(self._program),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_LINE_BYTES,
                start_new_session=True,
                env={**os.environ, "GOMAXPROCS": str(max(1, len(self._cores)))},
                preexec_fn=prepared(self._cores),
            )
        put_first(self._process.pid)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()  # end of input: everybody hangs up
        try:
            async with asyncio.timeout(_QUIT_S):
                await process.wait()
        except (TimeoutError, asyncio.CancelledError):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
        if self._reader is not None:
            await asyncio.wait({self._reader})

    def number(self) -> int:
        """One for a caller to come: the `id` of their samples."""
        number, self._next = self._next, self._next + 1
        return number

    def hang_up(self, number: int) -> None:
        """The turn that is open is cut. Nothing when the call is over already."""
        if number in self._waiting and self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps({"cmd": "stop", "id": number}).encode() + b"\n")

    async def call(self, plan: dict[str, Any], within_s: float, number: int = 0) -> tuple[bool, str]:
        """One caller from dialling to hanging up. Returns (fine, why). Raises Failed when the program is gone
        or says nothing of this caller in time."""
        assert self._process is not None
        assert self._process.stdin is not None
        number = number or self.number()
        done: asyncio.Future[tuple[bool, str]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = done
        line = json.dumps({"cmd": "start", "id": number, "plan": plan}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            async with asyncio.timeout(within_s):
                await self._process.stdin.drain()
                return await done
        except TimeoutError:
            raise Failed(f"a caller was not done within {within_s:.0f} s") from None
        except ConnectionError:
            raise Failed(self._gone()) from None
        finally:
            self._waiting.pop(number, None)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            event = json.loads(line)
            kind = event.get("e")
            if kind == "sample":
                self._on_sample(event)
            elif kind == "ended":
                waiting = self._waiting.get(event["id"])
                if waiting is not None and not waiting.done():
                    waiting.set_result((bool(event["ok"]), str(event["why"])))
            elif kind == "self":
                self.callers = event["callers"]
                self.send_late_p99_ms = event["send_late_p99_ms"]
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Failed(self._gone()))

    def _gone(self) -> str:
        return f"the callers' program ended too early; see {self._log.name}"
