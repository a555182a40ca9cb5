"""catalogue.yaml: ours, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.triton.catalogue.catalogue import Catalogue
from gateway.triton.exported.families import ASR_FAMILIES, CODEC_FAMILIES, FAMILIES
from gateway.triton.pulling.entries import FILE, OTHERS, load_entries, load_shelf
from gateway.triton.pulling.errors import CatalogueError, PullError
from gateway.triton.pulling.licences import Licence, licence_of_card, licence_of_text
from gateway.triton.pulling.sources import HubSource, of_entry

OURS = Path(__file__).parents[4] / "model_repository" / FILE
GOOD = """
models:
  a: {family: whisper, kind: asr, source: "hf:o/a", licence: MIT, languages: [en, "no"]}
  b: {family: vits, kind: tts, source: "hf:o/b", licence: CC-BY-NC-4.0}
pairs:
  small: {asr: a, tts: b}
"""


def test_ours_has_every_family_and_a_small_pair() -> None:
    ours = load_entries(OURS)
    assert {entry.family for entry in ours.models.values()} == {*FAMILIES, *OTHERS}
    for name, entry in ours.models.items():
        asr, codec = entry.family in ASR_FAMILIES, entry.family in CODEC_FAMILIES
        assert entry.kind == ("asr" if asr else "codec" if codec else "tts"), name
        assert of_entry(name, entry).licence == entry.licence_of()
    tested = {name for name, entry in ours.models.items() if entry.tested}
    assert tested == {"moonshine-tiny-en"}  # tests/stack/exported/test_published_weights.py hears with it
    assert ours.pairs["moonshine"].tts is None  # the built-in voice
    pair = ours.pairs["small"]
    assert pair.tts is not None
    for name in (pair.asr, pair.tts):
        entry = ours.models[name]
        assert not entry.gpu
        assert not entry.gated
        assert not entry.licence_of().noncommercial


async def test_the_model_catalogue_and_its_repository_are_not_confused_by_the_file() -> None:
    catalogue = Catalogue([OURS.parent])
    await catalogue.refresh()
    names = {info.name for info in catalogue.all()} | set(catalogue.problems())
    assert FILE in {path.name for path in OURS.parent.iterdir()}
    assert not any("catalogue" in name for name in names)
    assert catalogue.unread == {}


def test_what_is_not_known_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(GOOD)
    found = load_entries(tmp_path / FILE)
    assert found.models["a"].languages == ("en", "no")
    assert (found.models["a"].size_mb, found.models["a"].files, found.models["a"].tested) == (None, (), False)
    (tmp_path / FILE).write_text("")
    assert load_entries(tmp_path / FILE).models == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("kind: asr", "kind: ears"), r"models\.a\.kind: input should be 'asr', 'tts' or 'codec'"),
        (("licence: MIT, ", ""), r"models\.a\.licence: field required"),
        (("family: whisper", "family: wisper"), r"models\.a\.family: wisper is no family; known: whisper, "),
        (('"no"', "no"), r"models\.a\.languages\.1: input should be a valid string"),
        (("source:", "sauce:"), r"models\.a\.source: field required; models\.a\.sauce: extra inputs"),
        (("tts: b}", "tts: c}"), r"pairs\.small\.tts: there is no model c"),
        (("tts: b}", "tts: a}"), r"pairs\.small\.tts: a is of kind asr"),
        (("  b: {", "  a: {"), r":4: a is there twice"),
        (("pairs:", "pairs"), r":\d+: "),
        (("  a: {family", "  A B: {family"), r"models\.A B: string should match"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    assert change[0] in GOOD
    (tmp_path / FILE).write_text(GOOD.replace(*change))
    with pytest.raises(CatalogueError, match=says) as refused:
        load_entries(tmp_path / FILE)
    assert str(refused.value).startswith(str(tmp_path / FILE))
    assert "\n" not in str(refused.value)


def test_no_text_at_all(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="cannot be read: no such file"):
        load_entries(tmp_path / FILE)
    (tmp_path / FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogueError, match="not UTF-8"):
        load_entries(tmp_path / FILE)


def test_the_first_of_two_files_counts(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text(GOOD.replace("o/a", "mine/a"))
    (tmp_path / "theirs").write_text(GOOD)
    shelf = load_shelf([tmp_path / "mine", tmp_path / "theirs"])
    assert of_entry("a", shelf.entry("a")).source == HubSource("mine/a")
    with pytest.raises(PullError, match="no catalogue names x"):
        shelf.entry("x")
    with pytest.raises(PullError, match="no catalogue has a pair of models called big; there is: small"):
        shelf.pair("big")


class TestLicences:
    @pytest.mark.parametrize(
        ("card", "name", "barred"),
        [
            ({"license": "mit"}, "MIT", False),
            ({"license": "cc-by-nc-4.0"}, "CC-BY-NC-4.0", True),
            ({"license": "cc-by-4.0"}, "CC-BY-4.0", False),
            ({"license": "other", "license_name": "coqui-public-model-license"}, "LicenseRef-CPML", True),
            ({"license": "other", "license_name": "moonshine-community-license"}, "LicenseRef-Moonshine-Community", True),
            ({"license": "other"}, "LicenseRef-other", False),
            ({"license": ["mit", "cc-by-nc-sa-4.0"]}, "MIT AND CC-BY-NC-SA-4.0", True),
            ({"license": "openrail"}, "openrail", False),
            ({}, "", False),
        ],
    )  # fmt: skip
    def test_of_a_card(self, card: dict[str, object], name: str, barred: bool) -> None:
        found = licence_of_card(card, [], "page")
        assert (found.id, found.noncommercial) == (name, barred)

    def test_of_a_tag(self) -> None:
        assert licence_of_card({}, ["x", "license:apache-2.0"], "page").id == "Apache-2.0"

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("                  Apache License\n            Version 2.0, January 2004", "Apache-2.0"),
            (
                "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy of",
                "MIT",
            ),
            ("Attribution-NonCommercial 4.0 International", "CC-BY-NC-4.0"),
            ("Attribution-NonCommercial-ShareAlike 4.0 International", "CC-BY-NC-SA-4.0"),
            ("Attribution 4.0 International", "CC-BY-4.0"),
            ("Coqui Public Model License 1.0.0", "LicenseRef-CPML"),
        ],
    )
    def test_of_a_text(self, text: str, name: str) -> None:
        found = licence_of_text(text, "LICENSE")
        assert found is not None
        assert found.id == name

    def test_an_unknown_text_is_no_licence_and_says_so(self) -> None:
        assert licence_of_text("All yours.", "LICENSE") is None
        assert str(Licence()) == "not named by its source"
        assert Licence("LicenseRef-CPML").is_called("cpml")
        assert not Licence("").is_called("")
