"""A service as a process: uvloop, signals, a clean end."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Service(Protocol):
    async def start(self) -> None:
        """Returns once it listens. Raises OSError when an address cannot be had."""
        ...

    def endpoints(self) -> dict[str, str]:
        """Where it listens, by the keys of the endpoints file."""
        ...

    async def stop(self) -> None: ...


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on uvloop where there is one."""
    try:
        from gateway.loop import GatewayLoop
    except ImportError:  # uvloop is not there
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=GatewayLoop) as runner:
        return runner.run(main)


async def serve_forever(
    service: Service, on_ready: Callable[[dict[str, str]], None], stop: asyncio.Event | None = None
) -> None:
    """Start, report, run until SIGINT, SIGTERM or `stop`, then stop; a second signal stops at once."""
    stopping = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    current = asyncio.current_task()
    assert current is not None

    def on_signal() -> None:
        if stopping.is_set():
            current.cancel()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        await service.start()
        # What lives now lives for ever: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        # An ended session is some 200 objects in cycles (its parts know each other, h2's too), 50 kB with what
        # they hold: all are looked through after every 500 sessions or so, which takes a few milliseconds. At the
        # default of 700 the collector would look through the young ones some fifty times a second.
        gc.set_threshold(5_000, 5, 4)
        on_ready(service.endpoints())
        await stopping.wait()
    finally:
        await service.stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
