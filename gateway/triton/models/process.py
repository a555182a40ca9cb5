"""A model's process: its event loop, its parameters, and its end when Triton ends."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def exit_with_parent() -> None:
    """Ends this process once its parent is gone, even if a thread hangs inside a call to the parent.

    A model process whose server was killed can otherwise live for ever, holding the model's memory.
    """
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    try:
        ended = os.pidfd_open(parent)
    except (AttributeError, OSError):  # not Linux, an old kernel, a strict sandbox, or already gone
        pause = threading.Event()
        while os.getppid() == parent:
            pause.wait(1.0)
    else:
        if os.getppid() == parent:
            poller = select.poll()
            poller.register(ended, select.POLLIN)
            poller.poll()
    os._exit(1)


class LoopThread:
    """An asyncio loop in a daemon thread: Triton's own threads hand work to it and return at once."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Runs `work` on the loop and waits for its result. Raises: TimeoutError, or what `work` raised."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def post(self, call: Callable[..., object], *args: object) -> None:
        """Schedules `call(*args)` on the loop; returns at once."""
        self.loop.call_soon_threadsafe(call, *args)

    def stop(self, timeout_s: float = 2.0) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout_s)


def parameter(config: Mapping[str, Any], name: str, default: str = "") -> str:
    """A `parameters` entry of a model's configuration; `default` when it is absent."""
    entry = config.get("parameters", {}).get(name)
    return str(entry["string_value"]) if entry else default
