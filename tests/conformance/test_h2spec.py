"""h2spec, the conformance tests of HTTP/2, against our server."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from gateway.triton.exported.environment import cache_folder
from load.caller_build import BuildError, find_go
from tests.support.h2_peer import serving

VERSION = "v2.2.1+incompatible"
_BUILD_S = 100.0
_RUN_S = 60.0


def h2spec() -> Path:
    """The built program. Skips the test where it cannot be had."""
    cache = cache_folder()
    target = cache / f"h2spec-{VERSION}"
    if target.exists():
        return target
    try:
        go = find_go()
    except BuildError as error:
        pytest.skip(f"h2spec is a Go program: {error}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="h2spec-", dir=cache) as folder:
        command = [str(go), "install", f"github.com/summerwind/h2spec/cmd/h2spec@{VERSION}"]
        env = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOBIN": folder, "GOFLAGS": ""}
        try:
            subprocess.run(command, env=env, capture_output=True, text=True, timeout=_BUILD_S, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or error
            pytest.skip(f"h2spec cannot be built, which needs Go modules from a network or a cache: {said}")
        (Path(folder) / "h2spec").replace(target)
    return target


async def test_every_case_of_h2spec_passes() -> None:
    program = await asyncio.to_thread(h2spec)
    async with serving() as (_, port):
        process = await asyncio.create_subprocess_exec(
            program, "-h", "127.0.0.1", "-p", str(port), "-o", "5", stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(_RUN_S):
                raw, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    said = raw.decode()
    found = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", said)
    assert found, said[-2_000:]
    assert found.groups() == ("145", "145", "0", "0"), said[-4_000:]
    assert process.returncode == 0
