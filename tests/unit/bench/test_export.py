"""What the bench of exported models makes of its findings, and that it keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import export_part, export_triton, exports
from bench.export_plan import CONFIGS, FAMILIES, SIZES, Plan
from bench.report import markdown, part_text
from gateway.cli.common import Fault

RECOGNISER = {
    "front": {
        "kind": "asr", "cpu_s": 0.6, "audio_s": 6.0, "graphs": {"step": {"cpu_s": 0.45, "calls": 38}}, "words": 9,
        "batch": {"1": 0.6, "4": 0.3}, "batch_of": "utterances",
    },
    "torch": {"cpu_s": 1.2, "audio_s": 6.0, "said": 20, "parameters": 29_000_000, "rss_mb": 700.0},
    "triton": {
        "levels": [
            {"sessions": 1, "cpu_s": 1.8, "audio_s": 6.0, "partial_ms": [5.0, 7.0, 90.0], "final_ms": [8.0]},
            {"sessions": 8, "cpu_s": 9.6, "audio_s": 48.0, "partial_ms": [9.0] * 8, "final_ms": [8.0, 40.0]},
        ],
        "rss_mb": 150.0,
    },
    "export": {"cpu_s": 30.0, "wall_s": 40.0}, "disk_mb": 120.0, "at": "2026-01-01 00:00 UTC",
}  # fmt: skip
VOICE = {
    "front": {
        "kind": "tts", "cpu_s": 1.0, "audio_s": 4.0, "graphs": {"decoder": {"cpu_s": 1.0, "calls": 5}},
        "batch": {}, "batch_of": "",
    },
    "torch": {"cpu_s": 2.0, "audio_s": 5.0, "said": 0, "parameters": 36_000_000, "rss_mb": 700.0},
    "triton": {
        "cpu_s": 4.0, "audio_s": 12.0, "alone_ms": [50.0, 40.0, 60.0], "rss_mb": 250.0,
        "crowds_ms": {"16": [100.0] * 16, "64": [200.0] * 63 + [900.0]},
    },
    "export": {"cpu_s": 30.0, "wall_s": 40.0}, "disk_mb": 120.0, "at": "2026-01-01 00:00 UTC",
}  # fmt: skip


def test_every_family_has_a_stated_size_and_its_configuration_is_there() -> None:
    assert set(SIZES) == set(FAMILIES)
    assert len(FAMILIES) == 13
    for size in SIZES.values():
        if size.config:
            json.loads((CONFIGS / f"{size.config}.json").read_text("utf-8"))
    assert {size.config for size in SIZES.values()} - {""} == {path.stem for path in CONFIGS.iterdir()}


def test_costs_are_of_one_second_of_audio_and_streams_of_the_most_sessions() -> None:
    part = export_part.report({"fastconformer": RECOGNISER, "vits": VOICE}, Plan())
    costs, batching, answers, chunks, memory = [markdown(table).splitlines() for table in part.tables]
    assert [cell.strip() for cell in costs[2].split("|")[3:-1]] == [
        "29.0", "0.2000", "0.1000", "2.00", "25", "0.2000", "5.0",
    ]  # fmt: skip
    assert [cell.strip() for cell in costs[3].split("|")[3:-1]] == [
        "36.0", "0.4000", "0.2500", "1.60", "0", "0.3333", "3.0",
    ]  # fmt: skip
    assert "300.0 ms (0.50)" in batching[2]
    assert [cell.strip() for cell in answers[2].split("|")[2:-1]] == [
        "1",
        "7.0",
        "90.0",
        "8.0",
        "8.0",
        "0.3000",
    ]
    assert [cell.strip() for cell in chunks[2].split("|")[2:-1]] == [
        "50.0", "100.0", "100.0", "2.0", "200.0", "900.0", "4.0",
    ]  # fmt: skip
    assert len(memory) == 4
    told = part_text(part)
    assert "20 tokens in 6 s" in told
    assert "vits: torch spoke for 5.0 s, the front for 4.0 s" in told


def test_what_was_measured_is_kept_and_another_code_measures_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "vits-0123456789abcdef" / "models"
    (models / "tts_vits_small").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(export_part, "kept", lambda *args, **more: exports.Kept(models, 1.0, 2.0))
    asked: list[str] = []

    def ran(command: list[str], told: Path) -> dict[str, Any]:
        asked.append(command[2])
        return {}

    async def served(*args: object) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(export_part, "_run", ran)
    monkeypatch.setattr(export_triton, "measure", served)
    first = export_part.measured("vits", Plan(), Path("python"))
    again = export_part.measured("vits", Plan(), Path("python"))
    assert asked == ["bench.export_front", "bench.export_torch"]
    assert again == first | {"kept": True}
    export_part.measured("vits", Plan(), Path("python"), again=True)
    export_part.measured("vits", Plan(repeats=5), Path("python"))
    assert len(asked) == 6


def test_a_family_that_fails_leaves_the_others_their_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(family: str, *args: object, **more: object) -> dict[str, Any]:
        if family == "mimi":
            raise export_part.NotMeasured("it is broken")
        return RECOGNISER

    async def environment(say: object) -> Path:
        return tmp_path

    monkeypatch.setattr(export_part, "ensure_environment", environment)
    monkeypatch.setattr(export_part, "measured", measured)
    part = export_part.main(["mimi", "fastconformer"])
    assert part.failed == ["mimi (it is broken)"]
    assert list(part.data) == ["fastconformer"]
    with pytest.raises(Fault, match="it is broken"):
        export_part.main(["mimi"])
    with pytest.raises(Fault, match="no family siri"):
        export_part.main(["siri"])


def test_an_export_is_made_once_for_each_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = tmp_path / "size.json"
    config.write_text("{}")
    made: list[list[str]] = []

    def export(arguments: list[str], place: Path) -> None:
        made.append(arguments)
        (place / "models").mkdir(parents=True)
        (place / "done").write_text('{"cpu_s": 3.5, "wall_s": 4.0}')

    monkeypatch.setattr(exports, "_export", export)
    one = exports.kept("snac", f"random:{config}", alone=True)
    assert exports.kept("snac", f"random:{config}", alone=True) == one
    assert one.cpu_s == 3.5
    assert len(made) == 1
    config.write_text('{"decoder_dim": 512}')
    other = exports.kept("snac", f"random:{config}", alone=True)
    assert other.models != one.models
    assert not one.models.exists()
    assert other.models.exists()
