"""Profiles: read, put over one another, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from load.emulators.distributions import BadProfile, Distribution
from load.emulators.profile import PROFILES, Profile, assignments, read_profile
from load.emulators.tokens import first_sentence, tokens_of


def test_every_profile_of_ours_can_be_read() -> None:
    names = [path.stem for path in PROFILES.glob("*.yaml")]
    assert {"zero", "blueprint-1", "blueprint-64"} <= set(names)
    for name in names:
        read_profile(name)


def test_the_blueprints_figures() -> None:
    for name, final, token, sentence, chunk in (
        ("blueprint-1", 40, 126, 138, 78),
        ("blueprint-64", 67, 156, 386, 110),
        ("zero", 0, 0, 0, 0),
    ):
        profile = read_profile(name)
        figures = (
            profile.asr.final_ms,
            profile.llm.first_token_ms,
            profile.llm.first_sentence_ms,
            profile.tts.first_chunk_ms,
        )
        assert [figure.constant for figure in figures] == [final, token, sentence, chunk]


def test_replies_are_four_to_eight_seconds_and_two_sentences() -> None:
    profile = Profile()
    for reply in profile.llm.replies:
        assert 4_000 <= len(reply) * profile.tts.ms_per_char <= 8_000
        tokens = tokens_of(reply)
        assert "".join(tokens) == reply
        assert 3 <= first_sentence(tokens) < len(tokens)


def test_a_file_of_ones_own_and_paths_beside_it(tmp_path: Path) -> None:
    (tmp_path / "measured.csv").write_text("ms\n7\n")
    (tmp_path / "mine.yaml").write_text(
        "asr: {final_ms: {csv: measured.csv, column: ms}, transcripts: [one, two]}\ntts: {sample_rate: 16000}\n"
    )
    profile = read_profile(str(tmp_path / "mine.yaml"))
    assert profile.asr.final_ms == Distribution(values=(7.0,))
    assert profile.asr.transcripts == ("one", "two")
    assert profile.tts.sample_rate == 16_000
    assert profile.llm == Profile().llm


def test_settings_of_the_command_line() -> None:
    raw = assignments(
        ["llm.first_token_ms=126", "asr.final_ms={lognormal: {median: 4, p95: 9}}", "tts.rtf=0.2"]
    )
    profile = Profile().changed(raw)
    assert profile.llm.first_token_ms == Distribution(constant=126)
    assert profile.asr.final_ms == Distribution(lognormal=(4, 9))
    assert profile.tts.rtf == 0.2


def test_a_change_leaves_the_rest_as_it_was() -> None:
    before = read_profile("blueprint-1")
    after = before.changed({"asr": {"final_ms": 5}})
    assert after.asr.final_ms.constant == 5
    assert after.asr.transcripts == before.asr.transcripts
    assert (after.llm, after.tts) == (before.llm, before.tts)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"vad": {}}, "asr, llm and tts, and not vad"),
        ({"asr": 5}, "mapping"),
        ({"asr": {"finalms": 5}}, "no field"),
        ({"asr": {"transcripts": []}}, "at least one"),
        ({"asr": {"transcripts": [" "]}}, "empty text"),
        ({"asr": {"stability": 2}}, "between 0 and 1"),
        ({"llm": {"tokens_per_s": {"lognormal": {"median": 1, "p95": 2}}}}, "must be a number"),
        ({"llm": {"model": 5}}, "must be a text"),
        ({"tts": {"chunk_ms": 5}}, "between 20 and 1000"),
        ({"tts": {"voices": ["ada"]}}, "NAME:LANGUAGE"),
    ],
)
def test_what_is_wrong_is_told(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(BadProfile) as caught:
        Profile().changed(raw)
    assert words in str(caught.value)


@pytest.mark.parametrize("pair", ["llm.first_token_ms", "first_token_ms=1", "llm.=1", "llm.x={"])
def test_an_assignment_that_is_none(pair: str) -> None:
    with pytest.raises(BadProfile, match=r"--set"):
        assignments([pair])


def test_a_profile_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(BadProfile, match="blueprint-1"):
        read_profile("nobody")
