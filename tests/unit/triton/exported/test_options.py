"""The table of export options, against the exporter's sources, the reference and the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.triton.exported.families import FAMILIES
from gateway.triton.exported.options import OPTIONS, check_options, help_text, options_of, reference_table
from gateway.triton.pulling.entries import load_shelf

ROOT = Path(__file__).parents[4]
EXPORTER = ROOT / "triton" / "export" / "parley_export"
ASKED = re.compile(r'options(?:\.get\(|\[|, )\s*"([a-z_]+)"|"([a-z_]+)" (?:not )?in options')


def test_every_family_has_its_options() -> None:
    assert set(OPTIONS) == set(FAMILIES)


def test_what_an_exporter_asks_for_is_in_the_table() -> None:
    known = {name for family in FAMILIES for name in options_of(family)}
    asked = {
        name for path in EXPORTER.rglob("*.py") for found in ASKED.findall(path.read_text("utf-8")) for name in found
    }  # fmt: skip
    assert {"max_s", "vocoder", "first_token", "seed"} <= asked
    assert not asked - known - {""}
    for family in FAMILIES:
        own = (EXPORTER / "families" / f"{family.replace('-', '_')}.py").read_text("utf-8")
        its = {name for found in ASKED.findall(own) for name in found} - {""}
        assert its <= set(options_of(family)), family


def test_the_reference_and_the_help_list_them() -> None:
    assert reference_table() in (ROOT / "docs" / "reference" / "exported-models.md").read_text("utf-8")
    for family in FAMILIES:
        for name in options_of(family):
            assert re.search(rf"^  {name} ", help_text(), re.MULTILINE)


def test_the_catalogue_gives_none_that_its_family_lacks() -> None:
    shelf = load_shelf([ROOT / "model_repository" / "catalogue.yaml"])
    for entry in shelf.models.values():
        if entry.family in FAMILIES:
            check_options(entry.family, {**entry.options, **dict.fromkeys(entry.parts, "folder")})


def test_an_unknown_option_is_told_the_known_ones_and_what_they_mean() -> None:
    with pytest.raises(ValueError, match="vits has no option langauge; it has voices") as refused:
        check_options("vits", {"langauge": "de", "seed": "1"})
    for name, option in options_of("vits").items():
        assert f"{name} ({option.meaning}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("family", "name", "value", "allowed"),
    [
        ("whisper", "beam", "wide", "a whole number from 1 to 8"),
        ("whisper", "beam", "0", "a whole number from 1 to 8"),
        ("whisper", "tokens_per_s", "nan", "a number from 0.1 to 200"),
        ("whisper", "multilingual", "yes", "true or false"),
        ("moonshine", "agreement", "1", "0, 2, 3, 4, 5, 6, 7, 8 or 9"),
        ("parakeet-ctc", "max_batch", "2.5", "a whole number from 1 to 1024"),
        ("zipformer", "max_batch", "many", "a whole number from 1 to 1024"),
        ("vits", "seed", "-1", "a whole number from 0 to 2147483647"),
        ("speecht5", "threshold", "half", "a number from 0 to 100"),
        ("speecht5", "sample_rate", "16k", "a whole number from 4000 to 192000"),
        ("mimi", "front", "radio", "llm or none"),
        ("xtts", "device", " ", "text"),
        ("snac", "threads", "0", "a whole number from 1 to 256"),
    ],
)
def test_a_value_that_cannot_be_is_told_the_range(family: str, name: str, value: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^option {name}=.* must be {allowed} \\(.*\\)$"):
        check_options(family, {name: value})


def test_what_can_be_is_not_refused() -> None:
    check_options("whisper", {"beam": "8", "tokens_per_s": "4", "multilingual": "true", "agreement": "0"})
    check_options("speecht5", {"threshold": "2.1", "longest": "6", "vocoder": "/a", "max_streams": "1"})
