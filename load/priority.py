"""Callers run ahead of what shares their cores: a caller that has to wait for the emulated parts or for locust
sends late, and the run is void."""

from __future__ import annotations

import contextlib
import os

_NICE = -10


def put_first(group: int) -> None:
    """All threads of a process group, where the system lets us (it lets root); else nothing changes."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, group, _NICE)
