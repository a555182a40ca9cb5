"""A rolling update under 32 live calls, in short: both gateways and one of two speech services, with
its Triton, are replaced."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from pathlib import Path

import pytest

from load.run.child import ROOT
from tests.support.stack import skip_without_triton


@pytest.mark.timeout(240)
async def test_no_call_and_no_reply_is_lost(tmp_path: Path) -> None:
    skip_without_triton()
    soak = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "load.soak", "rolling", "--short", "--out", str(tmp_path), cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(200):
            said, _ = await soak.communicate()
    finally:
        if soak.returncode is None:
            soak.terminate()
            await soak.wait()
    assert soak.returncode == 0, said.decode()[-2_000:]
    assert b"fork" not in said, "gRPC has nothing to say of forks"
    found = json.loads((tmp_path / "rolling.json").read_text())
    assert found["callers"] == 32
    assert found["replies"] > 100
    assert found["spoken"] > 15, "a quarter of the callers speak"
    assert len(found["gaps_s"]) >= 32, "everybody was moved at least once"
    assert statistics.median(found["gaps_s"]) < 2.0
    assert max(found["gaps_s"]) < 10.0, "who is told that a process is overloaded comes again"
    assert not found["cut"] + found["failed"] + found["forgotten"]
    assert found["fresh"] == 0
