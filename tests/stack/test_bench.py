"""The benchmark runs against the real stack, and its figures are sane. How good they are is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stack import CHECKOUT, skip_without_triton


@pytest.mark.stack
def test_quick_latency(tmp_path: Path) -> None:
    skip_without_triton()
    where = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "latency", "--quick", "--json", str(where)],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "true end of speech → first reply audio at the client" in done.stdout
    found = json.loads(where.read_text())
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["versions"]["parley"]
    assert found["machine"]["command"].startswith("scripts/bench latency --quick")
    latency = found["parts"]["latency"]["data"]["1"]
    samples = latency["end_to_audio"]
    assert len(samples) == latency["turns"] == 3
    answered = [sample for sample in samples if sample is not None]
    assert answered, "no turn got a reply"
    assert all(-1_000 < sample < 6_500 for sample in answered)
    stages = latency["stages"]
    assert all(0 < hangover < 3_000 for hangover in stages["end_of_turn"])
    assert all(ms >= 0 for ms in stages["final_to_first_audio"] if ms is not None)
