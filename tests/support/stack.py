"""The embedded Triton for tests: real server, real models.

The server runs in a thread with an event loop of its own, so that it can be shared by tests whose
loops come and go with each of them (pytest-asyncio makes one per function), and by plain scripts:

    with Stack(["tts_espeak"]) as stack:
        channel = open_channel(stack.triton.grpc)      # any loop, any thread

    triton_stack = shared_stack("tts_espeak", "asr_pocketsphinx")     # a session-scoped fixture

    @pytest.mark.stack
    async def test_something(triton_stack: Stack) -> None: ...

A test that kills or restarts its server takes an `EmbeddedTriton` of its own, in its own loop.
"""

from __future__ import annotations

import asyncio
import os
import queue
import select
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import pytest

from gateway.triton.preflight import check_host
from gateway.triton.server import EmbeddedTriton

T = TypeVar("T")
Scope = Literal["session", "module"]

CHECKOUT = Path(__file__).parents[2]
MODELS = CHECKOUT / "model_repository"
TEST_MODELS = CHECKOUT / "tests" / "data" / "models"


class Stack:
    """An EmbeddedTriton in a thread; `with`, or `start()` and `stop()`."""

    def __init__(
        self, models: Sequence[str], *, repositories: Sequence[Path | str] = (MODELS,), exit_s: int = 2
    ) -> None:
        self.events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._logs = tempfile.TemporaryDirectory(prefix="parley-test-")
        self.triton = EmbeddedTriton(
            repositories,
            models=models,
            log_dir=Path(self._logs.name),
            on_event=self.events.put,
            exit_s=exit_s,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="triton stack", daemon=True)

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = 60.0) -> T:
        """Run a coroutine in the server's loop, from any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def wait_event(self, part: str, timeout_s: float = 20.0) -> str:
        """The next event that contains `part`; blocks. Raises: queue.Empty."""
        while True:
            event = self.events.get(timeout=timeout_s)
            if part in event:
                return event

    def start(self) -> Stack:
        """Raises: TritonError; AssertionError when one of the models does not load."""
        self._thread.start()
        try:
            self.run(self.triton.start())
            assert not self.triton.failed, self.triton.failed
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        self.run(self.triton.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._logs.cleanup()

    def __enter__(self) -> Stack:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def shared_stack(*models: str, repository: Path = MODELS, scope: Scope = "session") -> Any:
    """A fixture: one server with `models` for all tests of the scope; skips where it cannot run."""

    @pytest.fixture(scope=scope)
    def stack() -> Iterator[Stack]:
        skip_without_triton()
        with Stack(models, repositories=(repository,)) as running:
            yield running

    return stack


def skip_without_triton() -> None:
    problems = [p.detail for p in check_host() if p.fatal]
    if problems:
        pytest.skip("; ".join(problems))


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def wait_dead(pid: int, timeout_s: float = 15.0) -> bool:
    """Whether the process ends (or has ended) within the time; need not be our child. Blocks, no polling."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        return bool(waiting.poll(timeout_s * 1000))
    finally:
        os.close(fd)


def shared_memory_of(*pids: int) -> set[Path]:
    """The `/dev/shm/triton_*` files that these living processes have mapped."""
    found = set()
    for pid in pids:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            at = line.find("/dev/shm/triton_")
            if at >= 0:
                found.add(Path(line[at:]))
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
