"""Programs that a run starts, pins to cores, and always stops."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1
_LAST_WORDS_BYTES = 4_096


class Failed(Exception):
    """Ends the run: `str()` is one sentence for a person."""


class Child:
    """`async with Child("gateway", [...], log=FILE) as child:`, in a session of its own: what it starts itself
    ends with it, and Ctrl-C reaches us alone."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cores: Collection[int] = (),
        stop_s: float = 10.0,
        talks: bool = False,
    ) -> None:
        """cores: empty lets it run anywhere. stop_s: what it gets between SIGTERM and SIGKILL.
        talks: its stdout is read with `line`, and does not go into the log."""
        self.name = name
        self._command = command
        self._log = log
        self._env = dict(env or {})
        self._cores = set(cores)
        self._stop_s = stop_s
        self._talks = talks
        self._process: asyncio.subprocess.Process | None = None
        self._stdout: asyncio.StreamReader
        self._pipe: asyncio.ReadTransport | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        assert self._process is not None
        return self._process.returncode

    async def __aenter__(self) -> Child:
        # A pipe of our own: asyncio's would have `wait` wait for whoever inherited its other end.
        read, write = os.pipe() if self._talks else (-1, -1)
        try:
            with self._log.open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=write if self._talks else log,
                    stderr=log,
                    env={**_inherited(), **self._env},
                    cwd=ROOT,
                    start_new_session=True,
                    preexec_fn=prepared(self._cores),
                )
        except BaseException:
            if self._talks:
                os.close(read)
            raise
        finally:
            if self._talks:
                os.close(write)
        if self._talks:
            self._stdout = asyncio.StreamReader()
            self._pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(self._stdout), os.fdopen(read, "rb", 0)
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def line(self, within_s: float) -> str:
        """The next line of its stdout. Raises Failed when it ends, or says nothing in time."""
        try:
            async with asyncio.timeout(within_s):
                line = await self._stdout.readline()
        except TimeoutError:
            raise Failed(f"{self.name} was not ready within {within_s:.0f} s; see {self._log.name}") from None
        if not line:
            raise Failed(f"{self.name} did not start: {self.last_words()}")
        return line.decode().strip()

    async def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(self._stop_s):
                    await process.wait()
            except (TimeoutError, asyncio.CancelledError):
                self._kill_all()
                await process.wait()
                raise_if_cancelled()
        self._kill_all()
        if self._pipe is not None:
            self._pipe.close()

    def _kill_all(self) -> None:
        """What it started and left behind is in its group."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def last_words(self) -> str:
        try:
            text = self._log.read_bytes()[-_LAST_WORDS_BYTES:].decode(errors="replace")
        except OSError:
            return "it said nothing"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def raise_if_cancelled() -> None:
    """After a cancellation was caught to end something first."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _inherited() -> dict[str, str]:
    """Nothing of the caller's own Parley settings: a run is what its command line says."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PARLEY_")} | {
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
    }


def prepared(cores: set[int]) -> Callable[[], None]:
    """In the child: on its cores, and however this program ends, it ends too (Linux)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if cores:
                os.sched_setaffinity(0, cores)

    return prepare
