"""The bench of exported models on a small voice: torch, the front in a process of its own, and the real Triton."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import export_part
from bench.report import part_text
from tests.support.exported import exported
from tests.support.stack import skip_without_triton

pytestmark = pytest.mark.stack


def test_a_small_voice_is_measured_in_all_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_triton()
    exported("vits")
    part = export_part.main(["vits"], quick=True, again=True)
    assert not part.failed
    found = part.data["vits"]
    assert found["front"]["audio_s"] == pytest.approx(
        found["torch"]["audio_s"]
    )  # the same noise, the same sound
    for told in (found["front"], found["torch"], found["triton"]):
        assert 0 < told["cpu_s"] / told["audio_s"] < 1
    assert found["front"]["graphs"].keys() == {"text", "flow", "decoder"}
    assert sum(graph["cpu_s"] for graph in found["front"]["graphs"].values()) <= found["front"]["cpu_s"]
    assert set(found["front"]["batch"]) == {"1", "4"}
    assert len(found["triton"]["alone_ms"]) == 2
    assert len(found["triton"]["crowds_ms"]["4"]) == 4
    assert max(found["triton"]["crowds_ms"]["4"]) < 10_000
    assert 20 < found["triton"]["rss_mb"] < 1_000
    assert "| vits " in part_text(part)
