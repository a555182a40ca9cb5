"""The parts of the warden that need no server; the rest is in tests/stack."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the warden is Linux's")


def test_the_log_is_bounded_and_keeps_the_last_error(tmp_path: Path) -> None:
    from gateway.triton.warden import Log

    log = Log(str(tmp_path), limit=1_000, keep=2)
    for number in range(100):
        log.write(f"I0101 line {number:03} {'x' * 80}\n".encode())
    log.write(b"E0101 the disk is on fire\nI0101 more\n")
    files = sorted(path for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert [path.name for path in files] == ["triton.log", "triton.log.1", "triton.log.2"]
    assert all(path.stat().st_size < 1_200 for path in files)
    assert "fire" in files[0].read_text()
    assert log.last_error == "E0101 the disk is on fire"


def test_two_servers_write_two_logs(tmp_path: Path) -> None:
    from gateway.triton.warden import Log

    first, second = Log(str(tmp_path)), Log(str(tmp_path))
    assert Path(first.path).name == "triton.log"
    assert Path(second.path).name == "triton-2.log"


def test_the_process_table_is_read_whatever_a_process_is_called() -> None:
    from gateway.triton.warden import _children, _processes

    pid = os.posix_spawn("/bin/sleep", ["a ) 1 (b", "30"], {})
    try:
        assert pid in _children(os.getpid())
        assert (os.getpid(), os.getppid(), os.getpgrp()) in _processes()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
