"""CPU time and memory of programs and cores, from /proc."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
CALLER = "parley-caller"


def trees(roots: Collection[int]) -> dict[int, set[int]]:
    """Of each root that runs: itself and everything under it, down to another root."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and (fields := _fields(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: dict[int, set[int]] = {}
    for root in roots:
        queue, seen = [root], set()
        while queue:
            pid = queue.pop()
            seen.add(pid)
            queue += [child for child in children.get(pid, ()) if child not in roots]
        found[root] = seen
    return found


class CpuMeter:
    """CPU seconds of a growing set of processes. What one used after the last look before it ended is lost,
    unless its parent waited for it."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}
        self._total = 0.0

    def look(self, pids: Iterable[int]) -> float:
        """Seconds used since the meter was made, by all of them, all threads."""
        for pid in pids:
            fields = _fields(pid)
            if fields:
                used = (int(fields[11]) + int(fields[12])) / _TICKS
                self._total += used - self._last.get(pid, 0.0)
                self._last[pid] = used
        return self._total


def rss_mb(pids: Iterable[int]) -> float:
    """Resident memory, MB (10⁶ bytes)."""
    pages = 0
    for pid in pids:
        try:
            pages += int((_PROC / str(pid) / "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return pages * _PAGE / 1e6


def is_caller(pid: int) -> bool:
    try:
        return CALLER in (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return False


def cores_busy_s() -> dict[int, float]:
    """CPU seconds used on each core by everything since the machine started."""
    found = {}
    for line in (_PROC / "stat").read_text().splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:].isdecimal():
            user, nice, system, _idle, _iowait, irq, softirq, *steal = map(int, ticks)
            found[int(name[3:])] = (user + nice + system + irq + softirq + (steal or [0])[0]) / _TICKS
    return found


def _fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the state on; empty when the process has ended."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
