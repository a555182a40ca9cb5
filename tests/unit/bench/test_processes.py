"""CPU and memory by role, from a real process tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.processes import by_role, pid_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")

_CHILD = "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"
_PARENT = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {_CHILD!r}, "serve", "gateway"], stdin=subprocess.PIPE)
x = b"." * 30_000_000
sum(range(3_000_000))
sys.stdin.read()
"""


def test_costs_are_attributed_to_the_part_that_has_them() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, "gateway.cli", "up"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        parent.stdout.read(1)  # the child runs
        try:
            child = pid_of(parent.pid, "gateway")
            assert child
            costs = by_role(parent.pid)
            assert costs["gateway"].memory_mib > 1
            assert costs["gateway"].cpu_s < 5
            assert costs["triton"].memory_mib == 0
            assert costs["up"].memory_mib > 1
        finally:
            parent.stdin.close()


def test_a_process_that_is_gone_costs_nothing() -> None:
    assert all(cost.cpu_s == 0 for cost in by_role(2**22 + 1).values())
