"""The front of voices that stay programs: licences, missing libraries, references, and being stopped."""

from __future__ import annotations

import json
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.triton.exported.environment import CHECKOUT, ExportUnavailable
from gateway.triton.exported.family_environment import family_folder, family_names, family_of, use_environment
from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.generated import (
    GeneratedVoice,
    check_license,
    is_non_commercial,
    reference_file,
)

FAMILIES = CHECKOUT / "triton" / "families"
Array = np.ndarray[Any, Any]


def folder_of(place: Path, code: str, **parameters: str) -> Folder:
    version = place / "tts_mine" / "1"
    version.mkdir(parents=True, exist_ok=True)
    front = {
        "kind": "generated",
        "generator": "xtts",
        "stand_in_rate": 24_000,
        "voices": [{"name": name, "language": "en-US", "gain": 1.0} for name in ("ann", "bob")],
    }
    (version / "front.json").write_text(json.dumps(front))
    (version / "generator.py").write_text(code)
    given = {key: {"string_value": value} for key, value in parameters.items()}
    return Folder(version, {"parameters": given})


@pytest.fixture
def voice(tmp_path: Path) -> Iterator[GeneratedVoice]:
    yield GeneratedVoice(folder_of(tmp_path, (FAMILIES / "stand_in.py").read_text()))
    sys.path.remove(str(tmp_path / "tts_mine" / "1"))


def speak(voice: GeneratedVoice, text: str = "Good morning.", speed: float = 1.0, **more: Any) -> Array:
    heard: list[Array] = []

    def hear(samples: Array) -> bool:
        heard.append(samples)
        return True

    voice.imitate(text, more.get("who", voice.voices[0]), speed, hear, more.get("reference"))
    assert all(len(one) <= voice.rate // 5 for one in heard)
    whole: Array = np.concatenate(heard)
    return whole


def test_it_speaks_at_its_rate_in_its_voices(voice: GeneratedVoice) -> None:
    first, second = (speak(voice, who=who) for who in voice.voices)
    assert first.dtype == np.int16
    assert len(first) == len(second) == 6 * round(0.12 * voice.rate)
    assert np.abs(first.astype(int) - second).max() > 1000


def test_a_reference_is_imitated(voice: GeneratedVoice) -> None:
    tone = np.sin(2 * np.pi * 333 * np.arange(16_000) / 16_000).astype(np.float32)
    assert np.abs(speak(voice).astype(int) - speak(voice, reference=tone)).max() > 1000


def test_speed_changes_the_length(voice: GeneratedVoice) -> None:
    text = "The train to the coast leaves at nine."
    slow, usual, fast = (len(speak(voice, text, speed)) for speed in (0.8, 1.0, 1.4))
    assert slow > 1.15 * usual > 1.3 * fast


def test_who_listens_no_more_stops_the_generator(tmp_path: Path) -> None:
    code = """
import numpy as np
closed = []
class Endless:
    rate, imitates = 24000, False
    def speak(self, text, voice, reference):
        try:
            while True:
                yield np.full(2400, 0.1, np.float32)
        finally:
            closed.append(text)
def load(folder):
    made = Endless()
    made.closed = closed
    return made
"""
    voice = GeneratedVoice(folder_of(tmp_path, code))
    heard: list[int] = []

    def hear(samples: Array) -> bool:
        heard.append(len(samples))
        return len(heard) < 3

    voice.synthesize("For ever.", voice.voices[0], 1.0, hear)
    assert heard == [2400] * 3
    made: Any = voice._generator
    assert made.closed == ["For ever."]
    voice.synthesize("...", voice.voices[0], 1.0, lambda samples: pytest.fail("there is sound"))


@pytest.mark.parametrize(
    ("license", "non_commercial"),
    [
        ("CC-BY-NC-SA-4.0", True),
        ("LicenseRef-CPML-1.0", True),
        ("CC-BY-NC-4.0", True),
        ("Coqui non-commercial", True),
        ("Apache-2.0", False),
        ("MIT", False),
        ("CC-BY-4.0", False),
        ("LicenseRef-NCSA", False),
    ],
)
def test_non_commercial_licences_are_known(license: str, non_commercial: bool) -> None:
    assert is_non_commercial(license) == non_commercial


def test_a_non_commercial_licence_is_said_and_must_be_accepted(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(RuntimeError, match=r'tts_mine: .*CC-BY-NC-4\.0.*accept_license to "true"'):
        check_license(folder_of(tmp_path, "", license="CC-BY-NC-4.0"), said.append)
    check_license(folder_of(tmp_path, "", license="CC-BY-NC-4.0", accept_license="true"), said.append)
    assert len(said) == 2
    assert "non-commercial use alone" in said[1]
    check_license(folder_of(tmp_path, "", license="MIT"), said.append)
    assert len(said) == 2


@pytest.mark.parametrize("family", sorted({"csm", "cosyvoice2", "xtts", "parler", "melo", "spark"}))
def test_without_its_library_a_family_says_the_one_command(family: str, tmp_path: Path) -> None:
    """None of them is in the gateway's environment."""
    folder = folder_of(tmp_path, (FAMILIES / family / "generator.py").read_text())
    with pytest.raises(RuntimeError, match=rf"tts_mine needs .*: scripts/families {tmp_path}/tts_mine \("):
        GeneratedVoice(folder)
    assert family in family_names()
    assert family_folder(family).name.startswith(f"family-{family}-")


def test_a_reference_file_holds_the_speech(tmp_path: Path) -> None:
    tone = (np.sin(np.arange(800) / 10) / 2).astype(np.float32)
    with reference_file(tone) as path, wave.open(path) as file:
        assert file.getframerate() == 16_000
        read = np.frombuffer(file.readframes(800), "<i2") / 32767
    assert np.abs(read - tone).max() < 1e-4
    assert not Path(path).exists()


def test_an_environment_is_written_into_the_config_once(tmp_path: Path) -> None:
    folder_of(tmp_path, "")
    model = tmp_path / "tts_mine"
    config = model / "config.pbtxt"
    config.write_text(
        'name: "tts_mine"\nparameters [\n  { key: "family", value: { string_value: "tts" } }\n]\n'
    )
    for name in ("one", "two"):
        use_environment(model, Path(f"/env/{name}"))
    text = config.read_text()
    assert text.count("EXECUTION_ENV_PATH") == 1
    assert 'string_value: "/env/two"' in text
    assert '"family"' in text
    assert family_of(model) == "xtts"
    with pytest.raises(ExportUnavailable, match="no exported model"):
        family_of(tmp_path)
    with pytest.raises(ExportUnavailable, match="known: cosyvoice2, csm"):
        family_folder("riva")
