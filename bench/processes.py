"""What the parts of a running stack cost, from /proc: CPU seconds and memory by role."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
ROLES = ("gateway", "speech", "llm", "triton", "up")


def by_pid(root: int) -> dict[int, tuple[str, float]]:
    """(role, CPU seconds) of every process under `parley up` of pid `root`. Triton's tree holds its models'."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (parent := _parent(int(entry.name))):
            children.setdefault(parent, []).append(int(entry.name))
    found: dict[int, tuple[str, float]] = {}

    def visit(pid: int, role: str) -> None:
        role = _role(pid) or role
        found[pid] = (role, _cpu_s(pid))
        for child in children.get(pid, ()):
            visit(child, "triton" if role == "up" else role)

    visit(root, "up")
    return found


class Meter:
    """CPU seconds by role from its making on. Look often: what a process that ended used after the last
    look is lost."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._first = {pid: cpu_s for pid, (_, cpu_s) in by_pid(root).items()}
        self._last: dict[int, tuple[str, float]] = {}

    def look(self) -> dict[str, float]:
        self._last |= by_pid(self._root)
        used = dict.fromkeys(ROLES, 0.0)
        for pid, (role, cpu_s) in self._last.items():
            used[role] += cpu_s - self._first.get(pid, 0.0)
        return used


def memory_by_role(root: int) -> dict[str, float]:
    """MiB, proportional set size: pages shared with others count by their share."""
    used = dict.fromkeys(ROLES, 0.0)
    for pid, (role, _) in by_pid(root).items():
        used[role] += _memory_mib(pid)
    return used


def pid_of(root: int, role: str) -> int:
    """The process of that role right under `root`; 0 when there is none."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _parent(int(entry.name)) == root and _role(int(entry.name)) == role:
            return int(entry.name)
    return 0


def _role(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    if b"serve" in words:
        return words[words.index(b"serve") + 1].decode()
    return "up" if b"up" in words and b"gateway.cli" in words else ""


def _fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the state (the third) on; empty when the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    fields = _fields(pid)
    return int(fields[1]) if fields else 0


def _cpu_s(pid: int) -> float:
    """Its own and that of the children it has waited for."""
    fields = _fields(pid)
    return sum(map(int, fields[11:15])) / _TICKS if fields else 0.0


def _memory_mib(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
