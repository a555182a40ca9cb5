"""What callers are told: targets, behaviours, the manifest of clips; and what becomes of their samples."""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import speech
from load import clips
from load.fleet import Recorder
from load.plans import SCENARIOS, BadTarget, Target, behaviour, split_host
from tests.unit.load.unpatched import users


@pytest.mark.parametrize(
    ("typed", "host", "tls"),
    [
        ("127.0.0.1:50061", "127.0.0.1:50061", False),
        ("voice.example:443", "voice.example:443", False),
        ("https://voice.example", "voice.example:443", True),
        ("grpcs://voice.example:7000/", "voice.example:7000", True),
        ("http://localhost:50061", "localhost:50061", False),
        ("[::1]:50061", "[::1]:50061", False),
    ],
)
def test_hosts_are_taken_as_locust_users_type_them(typed: str, host: str, tls: bool) -> None:
    assert split_host(typed) == (host, tls)


@pytest.mark.parametrize("typed", ["", "voice.example", "host:port", "grpc://voice.example"])
def test_what_is_no_host_is_said_so(typed: str) -> None:
    with pytest.raises(BadTarget, match="give host:port"):
        split_host(typed)


def many(scenario: str) -> list[dict[str, Any]]:
    chance = random.Random(1)
    return [behaviour(scenario, chance) for _ in range(2_000)]


def test_who_calls_in_which_scenario() -> None:
    assert all(plan["interrupt"] == 1 for plan in many("barge_in"))
    reads = Counter(plan["read"] for plan in many("slow_readers"))
    assert 0.6 < reads["normal"] / 2_000 < 0.73
    assert reads["slow"] > 300
    assert reads["stall"] > 200
    storm = many("reconnect")
    assert all(plan["life_ms"][1] <= 1_500 for plan in storm)
    assert 0.45 < sum(plan["hang_up"] == "rude" for plan in storm) / 2_000 < 0.55
    assert 0.08 < sum(plan["hang_up"] == "rude" for plan in many("endurance")) / 2_000 < 0.12
    mixed = many("mixed")
    assert sum("interrupt" in plan for plan in mixed) > 300
    assert {plan.get("read", "normal") for plan in mixed} == {"normal", "slow", "stall"}


def test_all_callers_of_a_scenario_can_be_had_again() -> None:
    for scenario in SCENARIOS:
        one, other = random.Random(7), random.Random(7)
        assert [behaviour(scenario, one) for _ in range(50)] == [
            behaviour(scenario, other) for _ in range(50)
        ]


def test_a_target_is_the_rest_of_the_plan() -> None:
    plan = Target("h:1", "clips.json", tls=True, key="k", options=(("turns", 3),)).plan()
    assert plan == {"host": "h:1", "clips": "clips.json", "tls": True, "ca": "", "key": "k", "turns": 3}


@pytest.mark.parametrize(
    ("scenario", "tags", "chosen"),
    [
        ("", None, "steady"),
        ("spike", None, "spike"),
        ("", ["barge_in"], "barge_in"),
        ("", ["nightly", "mixed"], "mixed"),
        ("ramp", ["mixed"], "ramp"),
    ],
)
def test_a_scenario_is_chosen_by_its_option_or_a_tag(
    scenario: str, tags: list[str] | None, chosen: str
) -> None:
    assert users.scenario_of(argparse.Namespace(scenario=scenario, tags=tags)) == chosen


def spoken(*parts: tuple[float, float]) -> speech.Clip:
    """A clip of (seconds, level) stretches."""
    random_numbers = np.random.default_rng(1)
    samples = np.concatenate(
        [level * 12_000 * random_numbers.uniform(-1, 1, int(s * clips.RATE)) for s, level in parts]
    )
    return speech.clip("talk.wav", samples.astype(np.int16), "words")


def test_silence_around_a_recording_is_cut_off() -> None:
    (piece,) = clips.pieces(spoken((1.0, 0), (2.0, 1), (1.5, 0)))
    assert [piece.onset_s, piece.end_s] == pytest.approx([0.1, 2.1])
    assert piece.seconds == pytest.approx(2.2)
    assert piece.text == "words"


def test_the_noise_of_a_recording_does_not_set_in_at_once() -> None:
    (piece,) = clips.pieces(spoken((1.0, 0.03), (2.0, 1), (1.5, 0.03)))
    levels = speech.levels_db(piece.samples)
    assert levels[0] < levels[8] - 20
    assert levels[-1] < levels[-9] - 20


def test_a_long_recording_is_cut_in_its_longest_pauses() -> None:
    talk = spoken((0.5, 0), (3, 1), (0.25, 0), (2, 1), (0.6, 0), (4, 1), (0.3, 0))
    pieces = clips.pieces(talk)
    assert [round(piece.end_s - piece.onset_s, 2) for piece in pieces] == [5.25, 4.0]
    assert [piece.name for piece in pieces] == ["talk-1", "talk-2"]
    assert len(clips.pieces(spoken((7, 1)))) == 1, "there is no pause to cut it in"


def test_a_manifest_says_where_speech_lies(tmp_path: Path) -> None:
    manifest = clips.write(clips.pieces(spoken((0.5, 0), (1, 1), (0.5, 0))), tmp_path / "made")
    (entry,) = json.loads(manifest.read_text())
    assert entry == {
        "file": "talk.pcm",
        "onset_ms": 100,
        "end_ms": 1100,
        "duration_ms": 1200,
        "text": "words",
    }
    assert (manifest.parent / "talk.pcm").stat().st_size == 2 * 1200 * 16
    assert clips.write([], tmp_path / "made") == manifest, "another process was faster, and its work stays"
    assert json.loads(manifest.read_text())


def test_without_recordings_and_voices_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(clips, "_MODELS", tmp_path)
    for name in ("tts_flite/1/flite.py", "tts_espeak/1/espeak.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("def Flite(): raise RuntimeError('no voice')\nEspeak = Flite\n")
    with pytest.raises(clips.NoSpeech, match="put recordings"):
        clips.ensure_clips(tmp_path / "nothing")


def test_samples_of_several_workers_share_a_file(tmp_path: Path) -> None:
    recorders = [Recorder(tmp_path / "run", worker) for worker in (0, 1)]
    for number, recorder in enumerate(recorders):
        for turn in range(3):
            sample = {"t": 1.5, "id": number, "turn": turn, "name": "turn", "ms": 2.25, "ok": turn > 0}
            recorder.sample({**sample, "why": "" if turn else 'it said "no", twice'})
        said = {"t": 2.0, "callers": 4, "cpu_s": 0.5, "send_late_p99_ms": 1.25, "send_late_max_ms": 3.0}
        recorder.self({**said, "frames_sent": 200, "held_back": 0})
        recorder.close()
    with (tmp_path / "run" / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[0] == {
        "t_s": "1.5000", "caller": "0", "turn": "0", "name": "turn", "ms": "2.250", "ok": "0",
        "why": "it said 'no', twice",
    }  # fmt: skip
    with (tmp_path / "run" / "self.csv").open(newline="") as file:
        assert [(row["worker"], row["callers"], row["send_late_p99_ms"]) for row in csv.DictReader(file)] == [
            ("0", "4", "1.250"),
            ("1", "4", "1.250"),
        ]
