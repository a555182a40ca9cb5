"""The bench of exported models on a small voice behind an LLM: torch, the front in a process of its own, and the real Triton."""

from __future__ import annotations

import pytest

from bench import export_part
from bench.report import part_text
from tests.support.exported import exported
from tests.support.stack import skip_without_triton

pytestmark = pytest.mark.stack


@pytest.mark.timeout(600)
def test_a_small_voice_is_measured_in_all_three() -> None:
    skip_without_triton()
    exported("snac")
    part = export_part.main(["snac"], quick=True, again=True)
    assert not part.failed
    found = part.data["snac"]
    assert found["front"]["audio_s"] == pytest.approx(found["torch"]["audio_s"])
    for told in (found["front"], found["torch"], found["triton"]):
        assert 0 < told["cpu_s"] / told["audio_s"] < 1
    assert found["front"]["graphs"].keys() == {"decoder"}
    assert sum(graph["cpu_s"] for graph in found["front"]["graphs"].values()) <= found["front"]["cpu_s"]
    assert set(found["front"]["batch"]) == {"1", "4"}
    assert len(found["triton"]["alone_ms"]) == 2
    assert len(found["triton"]["crowds_ms"]["4"]) == 4
    assert max(found["triton"]["crowds_ms"]["4"]) < 10_000
    assert 20 < found["triton"]["rss_mb"] < 1_000
    assert "| snac " in part_text(part)
