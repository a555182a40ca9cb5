"""Whether processes that a test started, or made others start, are still there."""

from __future__ import annotations

import asyncio
from pathlib import Path


def alive(pid: int) -> bool:
    """Neither gone nor a zombie that nobody waits for."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children(parent: int) -> list[int]:
    """Of one process, not of its children."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                above = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            if above == parent:
                found.append(int(folder.name))
    return found


async def gone(pid: int, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while True:  # only a process' parent is told of its end
            if not alive(pid):
                return
            await asyncio.sleep(0.02)
