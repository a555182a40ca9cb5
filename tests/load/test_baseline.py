"""`scripts/load` end to end: the real gateway, emulated parts, locust and its callers, in its shortest form."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from load.caller_build import BuildError, ensure_caller
from load.clips import NoSpeech, ensure_clips
from load.run.child import ROOT

ANYWHERE = ["--gateway-core", "", "--callers-core", "", "--allow-void"]
"""A test does not claim cores of a machine that runs others beside it."""


@pytest.fixture(scope="module", autouse=True)
def _callers() -> None:
    try:
        ensure_caller()
        ensure_clips()
    except (BuildError, NoSpeech) as error:
        pytest.skip(str(error))


def run(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "load", arguments[0], *ANYWHERE, *arguments[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_of(folder: Path) -> list[str]:
    """Command lines of what still runs for this run folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                about = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if str(folder).encode() in about:
                    found.append(about.replace(b"\0", b" ").decode(errors="replace")[:200])
        except OSError:
            continue
    return found


def test_a_baseline_leaves_a_folder_with_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    clips = json.loads(ensure_clips().read_text())
    for clip in clips:
        clip["file"] = str(ensure_clips().parent / clip["file"])
    short = tmp_path / "clips.json"
    short.write_text(json.dumps([min(clips, key=lambda clip: float(clip["duration_ms"]))]))
    process = run(
        "baseline", "--out", str(folder), "--duration", "9", "--profile", "zero", "--part", "llm.replies=['Fine.']",
        "--", "--clips", str(short),
    )  # fmt: skip
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Voice to voice" in said
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["turns"]["n"] >= 1, said
    assert summary["samples"]["connect"]["n"] == 1
    assert 0 < summary["samples"]["voice_to_voice"]["p50"] < 5_000
    assert summary["frames"]["n"] > 5
    assert summary["gateway"]["cpu_s_per_session_minute"] > 0
    assert summary["gateway"]["rss_mb"] > 20
    assert summary["gateway"]["tasks"] > 0
    assert summary["generator"]["send_late_p99_ms"] >= 0
    assert summary["parts"]["llm"]["requests"] >= 1
    page = (folder / "report.html").read_text()
    assert page.count("<svg") > 8
    for name in ("samples.csv", "frames.csv", "timeline.csv"):
        assert len((folder / name).read_text().splitlines()) > 2, name
    assert left_of(folder) == []


def test_ctrl_c_stops_everything_that_was_started(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = run("steady", "--out", str(folder), "--sessions", "2", "--profile", "zero")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("steady: up to 2 at once, gateway 127.0.0.1:"), line
    assert left_of(folder)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert left_of(folder) == []
