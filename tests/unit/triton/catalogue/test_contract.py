"""The contracts of recognisers and voices, and their parameters, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.triton.catalogue.findings import Level
from gateway.triton.catalogue.parameters import is_language
from tests.unit.triton.catalogue.parts import asr, findings, sentences, tts, write

ERRORS: list[tuple[str, str, str, str]] = [
    # model, what is replaced, by what, the sentence
    ("asr", "max_batch_size: 8", "max_batch_size: 0", "max_batch_size must be at least 1"),
    ("asr", "oldest { max_candidate_sequences: 64 }", "direct {}", "must be oldest"),
    ("asr", "oldest { max_candidate_sequences: 64 }", "oldest {}", "needs max_candidate_sequences"),
    ("asr", "count: 1", "count: 2", "instance_group makes 2 instances, and must make 1"),
    ("asr", '"TRANSCRIPT"', '"TEXT"', "output TRANSCRIPT (STRING [1]) is missing"),
    ("asr", 'name: "STABLE" data_type: TYPE_INT32', 'name: "STABLE" data_type: TYPE_INT64', "output STABLE is INT64, and must be INT32"),
    ("asr", 'name: "AUDIO" data_type: TYPE_FP32 dims: [ -1 ]', 'name: "AUDIO" data_type: TYPE_FP32 dims: [ 2560 ]', "input AUDIO has dims [2560], and must have [-1]"),
    ("asr", 'dims: [ 1 ] optional: true', 'dims: [ 1 ]', "input LANGUAGE must be optional"),
    ("tts", "decoupled: true", "decoupled: false", "a voice is decoupled"),
    ("tts", "max_batch_size: 0", "max_batch_size: 4", "max_batch_size must be 0"),
    ("tts", "count: 1", "count: 3", "CANCEL must meet the request that it cancels"),
    ("tts", '"CANCEL"', '"STOP"', "input CANCEL (BOOL [1]) is missing"),
    ("tts", '"AUDIO" data_type: TYPE_FP32', '"AUDIO" data_type: TYPE_INT16', "output AUDIO is INT16, and must be FP32"),
    ("tts", 'name: "STYLE" data_type: TYPE_STRING dims: [ 1 ] optional: true', 'name: "MOOD" data_type: TYPE_STRING dims: [ 1 ]', "input MOOD is no part of the contract, so it must be optional"),
]  # fmt: skip
CONFIGS = {"asr": asr, "tts": tts}


@pytest.mark.parametrize(("kind", "old", "new", "sentence"), ERRORS)
def test_what_breaks_the_contract_is_named(
    kind: str, old: str, new: str, sentence: str, tmp_path: Path
) -> None:
    config = CONFIGS[kind]()
    assert old in config
    write(tmp_path, f"{kind}_x", config.replace(old, new, 1))
    assert any(sentence in one for one in sentences(findings(tmp_path)))


def test_a_recogniser_without_sequences(tmp_path: Path) -> None:
    config = asr()
    start, end = config.index("sequence_batching"), config.index("input [")
    write(tmp_path, "asr_x", config[:start] + config[end:])
    [sentence] = sentences(findings(tmp_path))
    assert "keeps its utterances by sequence_batching" in sentence


@pytest.mark.parametrize(
    ("kind", "parameter", "value", "sentence"),
    [
        ("asr", "sample_rate", "8000", "parameter sample_rate: a recogniser hears 16000 Hz, not 8000"),
        ("tts", "sample_rate", "fast", 'parameter sample_rate: "fast" is not a number'),
        ("tts", "sample_rate", "12", "parameter sample_rate: 12 is not within 8000 and 192000"),
        ("tts", "sample_rate", "", "parameter sample_rate is missing"),
        ("tts", "memory_mb", "1.5", 'parameter memory_mb: "1.5" is not a number'),
        ("tts", "max_streams", "many", 'parameter max_streams: "many" is not a number'),
        ("tts", "needs_gpu", "perhaps", 'parameter needs_gpu: "perhaps" is neither true nor false'),
        ("tts", "languages", "en_US", 'parameter languages: "en_US" is no BCP-47 language; write "en-US"'),
        ("tts", "languages", "english", 'parameter languages: "english" is no BCP-47 language'),
        ("tts", "voices", "ann,Ann", 'parameter voices: voice "Ann" is there twice'),
        ("tts", "voice_languages", "en-US", "parameter voice_languages: 1 languages for 2 voices"),
        ("tts", "voice_languages", "en-US,de-DE", '"de-DE" is not among its languages'),
        ("tts", "family", "asr", 'parameter family: "asr" does not fit the name tts_x'),
    ],
)
def test_a_parameter_that_cannot_be(
    kind: str, parameter: str, value: str, sentence: str, tmp_path: Path
) -> None:
    config = CONFIGS[kind](**{parameter: value})
    write(tmp_path, f"{kind}_x", config)
    found = sentences(findings(tmp_path))
    line = next((n for n, text in enumerate(config.splitlines(), 1) if f'"{parameter}"' in text), None)
    said = [one for one in found if sentence in one]
    assert said, found
    assert line is None or f"config.pbtxt:{line}:" in said[0]


@pytest.mark.parametrize(
    ("kind", "old", "new", "sentence"),
    [
        ("asr", "5000000", "1000000", "max_sequence_idle_microseconds is 1 s, not 5"),
        ("asr", '"HINTS"', '"WISHES"', "input HINTS (STRING [-1]) is missing"),
        ("tts", '"license"', '"note"', "parameter license is missing"),
        ("tts", '"memory_mb"', '"note"', "the memory cap cannot count it"),
        ("tts", '"voices"', '"note"', "it has only its default voice"),
        ("tts", '"family"', '"note"', 'parameter family is missing: "tts"'),
        ("asr", "instance_group [ { kind: KIND_CPU count: 1 } ]", "", "instance_group is missing"),
    ],
)
def test_what_is_only_worth_mending_is_a_warning(
    kind: str, old: str, new: str, sentence: str, tmp_path: Path
) -> None:
    config = CONFIGS[kind]()
    assert old in config
    write(tmp_path, f"{kind}_x", config.replace(old, new).replace(', "voice_languages"', ""))
    found = findings(tmp_path)
    assert any(sentence in one for one in sentences(found, Level.WARNING)), found


def test_a_licence_may_be_spelt_either_way(tmp_path: Path) -> None:
    write(tmp_path, "tts_x", tts(license="", licence="MIT"))
    assert findings(tmp_path) == []


def test_other_models_have_no_contract(tmp_path: Path) -> None:
    write(tmp_path, "vad_x", 'backend: "python"')
    assert findings(tmp_path) == []


@pytest.mark.parametrize(
    "tag",
    ["en", "en-US", "EN-us", "zh-Hant-TW", "es-419", "gsw", "sl-rozaj", "de-1996", "en-x-pirate", "x-own"],
)
def test_languages(tag: str) -> None:
    assert is_language(tag)


@pytest.mark.parametrize(
    "tag", ["", "e", "en_US", "english", "en-", "-en", "en--US", "en-US1", "d€", "en US", "1a"]
)
def test_no_languages(tag: str) -> None:
    assert not is_language(tag)


@given(st.from_regex(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-[A-Z]{2})?", fullmatch=True))
def test_language_script_and_region_make_a_language(tag: str) -> None:
    assert is_language(tag)
    assert is_language(tag.upper())
    assert "-" not in tag or not is_language(tag.replace("-", "_"))
