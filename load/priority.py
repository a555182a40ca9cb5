"""Callers run ahead of what shares their cores: a caller that has to wait for the emulated parts or for locust
sends late, and the run is void."""

from __future__ import annotations

import contextlib
import os
import sys

_NICE = -10


def put_first(pid: int) -> None:
    """A process that has just begun, and the threads that it will have: at real-time priority where the system
    lets us (it lets root), else as it is."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                os.sched_setscheduler(int(thread), os.SCHED_RR, os.sched_param(1))
            except PermissionError:
                os.setpriority(os.PRIO_PROCESS, int(thread), _NICE)
