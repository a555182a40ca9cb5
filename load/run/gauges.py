"""The levels a gateway shows on its metrics page."""

from __future__ import annotations

import aiohttp

_ASK_S = 2.0
_NAMES = {
    "parley_sessions_active": ("sessions", 1.0),
    "parley_vad_backlog_seconds": ("vad_backlog_ms", 1000.0),
    "parley_tasks": ("tasks", 1.0),
}


async def gauges(
    url: str, session: aiohttp.ClientSession | None = None, within_s: float = _ASK_S
) -> dict[str, float]:
    """By our names; empty when the page does not come in time: an overloaded gateway answers late."""
    if session is None:
        async with aiohttp.ClientSession() as own:
            return await gauges(url, own, within_s)
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=within_s)) as response:
            return parse(await response.text())
    except (aiohttp.ClientError, TimeoutError):
        return {}


def parse(page: str) -> dict[str, float]:
    found = {}
    for line in page.splitlines():
        name, _, value = line.partition(" ")
        if name in _NAMES:
            ours, factor = _NAMES[name]
            found[ours] = float(value) * factor
    return found
