"""The callers' program has tests of its own, in Go: schedule, lateness, turns, interruptions, TLS."""

from __future__ import annotations

import os
import subprocess

import pytest

from load.caller_build import SOURCES, BuildError, find_go

_ENV = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}


def go(*arguments: str) -> str:
    try:
        tool = find_go()
    except BuildError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [tool, *arguments], cwd=SOURCES, env=_ENV, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_go_tests_pass() -> None:
    assert "ok" in go("test", "-count=1", ".")
