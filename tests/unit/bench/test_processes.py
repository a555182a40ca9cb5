"""CPU and memory by role, from a real process tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.processes import Meter, by_pid, memory_by_role, pid_of

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
            memory = memory_by_role(parent.pid)
            assert memory["gateway"] > 1
            assert memory["up"] > 1
            assert memory["triton"] == 0
            assert by_pid(parent.pid)[child][0] == "gateway"
        finally:
            parent.stdin.close()


def test_what_a_process_used_is_not_forgotten_when_it_ends() -> None:
    work = "import time\nwhile time.process_time() < 0.2: pass\nprint('x', flush=True)\ninput()"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}])\nprint('y', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", f"input()\n{parent}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        meter = Meter(process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "x\n"
        seen = meter.look()["triton"] + meter.look()["up"]
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "y\n"
        after = meter.look()
        process.stdin.close()
    assert seen >= 0.2
    assert sum(after.values()) >= seen
