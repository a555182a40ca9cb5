"""Blocking work that is never left behind: a cancelled task waits for its thread before it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(
    work: Callable[..., T], *arguments: Any, on_cancel: Callable[[], None] | None = None, **named: Any
) -> T:
    """on_cancel: tells the work to end early. What it would have returned or raised then is lost."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **named))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # seen
        raise
