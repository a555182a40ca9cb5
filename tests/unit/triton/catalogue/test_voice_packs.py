"""Voice packs: what they are, which models can speak them, and what is wrong with the bad ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gateway.triton.catalogue.catalogue import Catalogue
from gateway.triton.catalogue.voice_packs import BadPack, Shelf, read_pack
from tests.support.stack import CHECKOUT, MODELS
from tests.unit.triton.catalogue.parts import asr, tts, write

GOOD = "name: anna\nlanguage: en-GB\nlicence: CC0-1.0\n"


def pack(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    (path / "voice.yaml").write_text(text)
    return path


def sound(
    path: Path, *, seconds: float = 2.0, rate: int = 24_000, level: float = 0.2, hz: float = 200.0
) -> None:
    at = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, (np.sin(2 * np.pi * hz * at) * level).astype(np.float32), rate, subtype="PCM_16")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: [", r"voice\.yaml:\d: it is no YAML"),
        ("- a\n- b\n", "must hold keys and values"),
        ("language: en\nlicence: MIT\nspeaker: a\n", "name is missing"),
        ("name: a\nlicence: MIT\nspeaker: a\n", "language is missing"),
        ("name: a\nlanguage: en\nspeaker: a\n", "licence is missing"),
        ("name: a\nlanguage: english\nlicence: MIT\nspeaker: a\n", r'voice\.yaml:2: language "english" is no BCP-47'),
        (GOOD + "speeker: a\n", r"voice\.yaml:4: speeker is not known; there are name, "),
        (GOOD, "one of speaker, speakers and reference is needed"),
        (GOOD + "speaker: [a]\n", r"voice\.yaml:4: speaker must be a text"),
        (GOOD + "speakers: a\n", r"voice\.yaml:4: speakers must name a speaker for each engine"),
        (GOOD + "speaker: a\ntags: calm\n", r"voice\.yaml:5: tags must be a list of words"),
        (GOOD + "reference: ../other.wav\n", r"reference \.\./other\.wav lies outside of the pack"),
        (GOOD + "reference: gone.wav\n", r"gone\.wav: it is missing"),
        (GOOD + "reference: voice.yaml\n", r"voice\.yaml:4: reference voice\.yaml cannot be used"),
    ],
)  # fmt: skip
def test_a_bad_pack_says_what_and_where(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BadPack, match=sentence):
        read_pack(pack(tmp_path, "p", text))


def test_a_pack_without_its_file(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    with pytest.raises(BadPack, match=r"p/voice\.yaml: it is missing"):
        read_pack(tmp_path / "p")


@pytest.mark.parametrize(
    ("seconds", "level", "sentence"),
    [(0.5, 0.2, r"0\.5 s long"), (31.5, 0.2, "longer than"), (2.0, 0.0005, r"all but silent \(-69 dBFS\)")],
)
def test_a_reference_must_be_speech_of_some_length(
    seconds: float, level: float, sentence: str, tmp_path: Path
) -> None:
    path = pack(tmp_path, "p", GOOD + "reference: a.wav\n")
    sound(path / "a.wav", seconds=seconds, level=level, rate=8_000)
    with pytest.raises(BadPack, match=sentence):
        read_pack(path)


def test_a_reference_is_brought_to_16_khz(tmp_path: Path) -> None:
    path = pack(tmp_path, "p", GOOD + "reference: a.flac\n")
    sound(path / "a.flac", seconds=2.0, rate=44_100)
    audio = read_pack(path).reference
    assert audio is not None
    assert audio.dtype == np.float32
    assert len(audio) == pytest.approx(32_000, abs=200)
    peak = np.argmax(np.abs(np.fft.rfft(audio[:16_000])))
    assert peak == pytest.approx(200, abs=2)


def test_a_shelf_reads_again_only_what_changed(tmp_path: Path) -> None:
    path = pack(tmp_path, "p", GOOD + "reference: a.wav\n")
    pack(tmp_path, "q", GOOD.replace("anna", "Anna") + "speaker: a\n")
    sound(path / "a.wav")
    shelf = Shelf([tmp_path, tmp_path / "nowhere"])
    [first], problems = shelf.read()
    assert problems[str(tmp_path / "q")].endswith(f"there is a voice Anna already, in {path}")
    assert "cannot be read: No such file" in problems[str(tmp_path / "nowhere")]
    [again], _ = shelf.read()
    assert again is first
    sound(path / "a.wav", hz=300)
    os.utime(path / "a.wav", ns=(1, 1))
    [changed], _ = shelf.read()
    assert changed is not first


async def test_the_models_that_can_are_offered_a_packs_voice(tmp_path: Path) -> None:
    models, packs = tmp_path / "models", tmp_path / "packs"
    write(models, "asr_x", asr())
    write(models, "tts_x", tts(engine="one"))
    write(models, "tts_y", tts("tts_y", engine="two"))
    write(models, "tts_z", tts("tts_z", engine="three", tags="cpu,zero-shot", voices="", voice_languages=""))
    write(models, "tts_de", tts("tts_de", engine="one", languages="de-DE", voice_languages="de-DE,de-DE"))
    pack(packs, "a", GOOD + "speakers: {one: Bob, two: nobody}\n")
    pack(packs, "b", GOOD.replace("anna", "ann") + "speaker: bob\n")
    pack(packs, "c", GOOD.replace("anna", "eve") + "engine: two\nspeaker: ann\n")
    path = pack(packs, "d", GOOD.replace("anna", "joe") + "reference: a.wav\n")
    pack(packs, "e", GOOD.replace("anna", "ida") + "engine: four\nspeaker: ann\n")
    sound(path / "a.wav")
    catalogue = Catalogue([models], packs=[packs])
    await catalogue.refresh()
    offered = {info.name: list(catalogue.packs(info.name)) for info in catalogue.all()}
    assert offered == {
        "asr_x": [],
        "tts_de": [],
        "tts_x": ["anna"],  # ann is a voice of its own
        "tts_y": ["eve"],
        "tts_z": ["joe"],
    }
    inputs = catalogue.voice_inputs("tts_x", "Anna")
    assert {name: list(value) for name, value in inputs.items()} == {"VOICE": ["bob"], "LANGUAGE": ["en-GB"]}
    assert list(catalogue.voice_inputs("tts_x", "ann")["VOICE"]) == ["ann"]
    assert list(catalogue.voice_inputs("nowhere", "ann")["VOICE"]) == ["ann"]
    assert catalogue.voice_inputs("tts_x", "") == {}
    joe = catalogue.voice_inputs("tts_z", "joe")
    assert sorted(joe) == ["LANGUAGE", "REFERENCE_AUDIO"]
    assert len(joe["REFERENCE_AUDIO"]) == pytest.approx(32_000, abs=200)
    assert catalogue.pack_problems() == {str(packs / "e"): f"{packs / 'e'}: no model here can speak as ida"}


async def test_the_shipped_packs_are_voices_of_every_shipped_engine() -> None:
    catalogue = Catalogue([MODELS], packs=[CHECKOUT / "voices"])
    await catalogue.refresh()
    assert catalogue.pack_problems() == {}
    for model in ("tts_flite", "tts_espeak"):
        assert list(catalogue.packs(model)) == ["clara", "ewan"]


async def test_a_pack_that_is_left_out_is_told_once_and_again_when_its_reason_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "models", "tts_x", tts())
    path = pack(tmp_path / "packs", "a", GOOD) / "voice.yaml"
    catalogue = Catalogue([tmp_path / "models"], packs=[tmp_path / "packs"])
    for text in (GOOD, GOOD, GOOD + "speaker: nobody\n", GOOD + "speaker: ann\n"):
        path.write_text(text)
        await catalogue.refresh()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"voice pack left out: {path}: one of speaker, speakers and reference is needed",
        f"voice pack left out: {path.parent}: no model here can speak as anna",
    ]
