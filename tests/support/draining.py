"""A drain of nothing, for pages that need one."""

from __future__ import annotations

from gateway.telemetry.draining import Drain


def no_drain() -> Drain:
    async def nothing() -> None: ...

    return Drain(0.0, nothing, lambda: 0)
