"""An event loop whose clock moves only when nothing else is left to do.

`loop.time()`, `asyncio.sleep`, timeouts and `call_at` all follow it, so a session of five minutes
runs in milliseconds and cannot race. Anything that waits for another thread or a socket does not
belong in such a test: the loop fails loudly when it has nothing to wait for.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(RuntimeError):
    """Nothing is scheduled and nothing is ready: the test would wait for ever."""


class _JumpingSelector(selectors.DefaultSelector):
    """Polls; where the loop would sleep, it moves the loop's clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Stuck("every task waits for something that nobody will do")
        if timeout > 0:
            self.now += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in virtual time; fails when it leaves a task behind."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:

        async def checked() -> T:
            result = await main
            await settle()
            left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            assert not left, f"tasks left behind: {left}"
            return result

        return runner.run(checked())


async def settle(rounds: int = 50) -> None:
    """Let everything that is ready run, without moving the clock."""
    for _ in range(rounds):
        await asyncio.sleep(0)
