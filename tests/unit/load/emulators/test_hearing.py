"""What a stand-in recogniser makes of sound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from load.emulators.asr import audio_of
from load.emulators.clips import Clips, read_clips
from load.emulators.distributions import BadProfile
from load.emulators.hearing import Cue, Hearing, Samples
from load.emulators.profile import AsrProfile
from load.emulators.voice import cut

RATE = 16_000
TEXT = "one two three four five six seven eight"
PROFILE = AsrProfile(transcripts=(TEXT,))


def speech(ms: int, start_ms: int = 0) -> Samples:
    return (cut(RATE, start_ms * 16, ms * 16) * 32_767).astype("<i2")


def noise(ms: int, dbfs: float = -60.0) -> Samples:
    source = np.random.default_rng(3)
    return (source.standard_normal(ms * 16) * 32_767 * 10 ** (dbfs / 20)).astype("<i2")


def said(hearing: Hearing, sound: Samples, piece_ms: int = 32) -> list[tuple[float, str]]:
    """(audio heard, text) of every partial."""
    partials = []
    for at in range(0, len(sound), piece_ms * 16):
        for cue in hearing.feed(sound[at : at + piece_ms * 16], RATE):
            assert cue is Cue.PARTIAL
            partials.append((hearing.at_ms, hearing.partial()[0]))
    return partials


def hearing(endpoint_ms: float = 0.0, clips: Clips | None = None) -> Hearing:
    return Hearing(PROFILE, lambda: TEXT, clips, endpoint_ms=endpoint_ms)


def test_words_come_in_proportion_to_the_speech() -> None:
    partials = said(hearing(), speech(2_000))
    counts = [len(text.split()) for _, text in partials]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert 5 <= counts[-1] < 8, "the last word waits for the end"
    assert 10 <= len(partials) <= 13, "one for every 160 ms"


def test_soon_after_the_speech_the_partial_is_the_final() -> None:
    for piece_ms, within_ms in ((20, 100), (32, 100), (96, 170)):
        ear = hearing()
        said(ear, speech(1_000), piece_ms)
        (settled, *more) = said(ear, noise(400), piece_ms)
        assert settled[1] == TEXT
        assert settled[0] <= 1_000 + within_ms
        assert not more, "silence has no partials"
        assert ear.finish()[0] == TEXT


def test_stable_is_all_but_the_last_word_until_it_is_quiet() -> None:
    ear = hearing()
    said(ear, speech(800))
    text, stable = ear.partial()
    assert text[:stable] == text.rsplit(" ", 1)[0]
    said(ear, noise(200))
    assert ear.partial() == (TEXT, len(TEXT))


@pytest.mark.parametrize("sound", [np.zeros(32_000, np.int16), noise(2_000), noise(2_000, -52.0)])
def test_quiet_and_room_noise_are_no_speech(sound: Samples) -> None:
    ear = hearing()
    assert not said(ear, sound)
    assert ear.finish() == ("", [])


def test_a_click_is_no_speech() -> None:
    ear = hearing()
    click = noise(1_000)
    click[8_000:8_100] = 20_000
    assert not said(ear, click)


def test_speech_in_noise_still_ends() -> None:
    ear = hearing()
    said(ear, speech(1_000) + noise(1_000, -50.0))
    assert said(ear, noise(300, -50.0))[-1][1] == TEXT


def test_an_open_stream_ends_its_utterances_itself() -> None:
    ear = hearing(endpoint_ms=800)
    sound = np.concatenate([speech(600), noise(900), speech(600), noise(900)])
    ends = [(ear.at_ms, ear.finish()) for cue in ear.feed(sound, RATE) if cue is Cue.END]
    assert [text for _, (text, _) in ends] == [TEXT, TEXT]
    assert ends[0][0] == pytest.approx(1_400, abs=70)
    words = ends[1][1][1]
    assert words[0].start_ms == pytest.approx(1_500, abs=70)
    assert words[-1].end_ms == pytest.approx(2_100, abs=70)


def test_words_of_the_final_lie_in_order_within_the_speech() -> None:
    ear = hearing()
    said(ear, np.concatenate([noise(300), speech(1_500), noise(300)]))
    _, words = ear.finish()
    edges = [edge for word in words for edge in (word.start_ms, word.end_ms)]
    assert edges == sorted(edges)
    assert edges[0] == pytest.approx(300, abs=40)
    assert edges[-1] == pytest.approx(1_800, abs=40)


# ---- recordings that are known ----------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path: Path) -> Clips:
    """Four words, a pause of 500 ms, four words; and one that is never played."""
    sound = np.concatenate([noise(200), speech(800), noise(500), speech(800, 2_000), noise(200)])
    (tmp_path / "pause.pcm").write_bytes(sound.tobytes())
    (tmp_path / "other.pcm").write_bytes(speech(1_000, 5_000).tobytes())
    entries = [
        {"file": "other.pcm", "onset_ms": 0, "end_ms": 1_000, "duration_ms": 1_000},
        {"file": "pause.pcm", "onset_ms": 200, "end_ms": 2_300, "duration_ms": 2_500, "text": TEXT},
    ]
    (tmp_path / "clips.json").write_text(json.dumps(entries))
    return read_clips(str(tmp_path / "clips.json"), PROFILE.transcripts)


def test_a_known_recording_pauses_where_it_pauses(clips: Clips) -> None:
    ear = hearing(clips=clips)
    sound = np.concatenate([noise(200), speech(800), noise(500), speech(800, 2_000), noise(400)])
    partials = said(ear, sound)
    in_pause = [text for at, text in partials if 1_100 <= at < 1_500]
    assert set(in_pause) <= {"one two three four"}
    assert any(text == "one two three four" for at, text in partials if 1_000 < at < 1_140)
    assert partials[-1][1] == TEXT
    assert partials[-1][0] <= 2_300 + 100
    assert ear.partial() == (TEXT, len(TEXT))


def test_a_turn_that_is_cut_at_the_pause_has_the_words_so_far_and_the_next_one_the_rest(clips: Clips) -> None:
    ear = hearing(clips=clips)
    said(ear, np.concatenate([noise(200), speech(800), noise(250)]))
    text, words = ear.finish()
    assert text == "one two three four"
    assert [word.text for word in words] == text.split()
    ear = hearing(clips=clips)
    said(ear, np.concatenate([noise(250), speech(800, 2_000), noise(200)]))
    assert ear.finish()[0] == "five six seven eight"


def test_words_of_a_manifest_keep_their_times(tmp_path: Path) -> None:
    (tmp_path / "a.pcm").write_bytes(speech(1_000).tobytes())
    words = [["hello", 0, 400], ["there", 400, 1_000]]
    entry = {"file": "a.pcm", "onset_ms": 0, "end_ms": 1_000, "words": words}
    (tmp_path / "clips.json").write_text(json.dumps([entry]))
    ear = hearing(clips=read_clips(str(tmp_path / "clips.json"), PROFILE.transcripts))
    said(ear, np.concatenate([speech(1_000), noise(200)]))
    assert [(word.text, word.end_ms) for word in ear.finish()[1]] == [("hello", 400), ("there", 1_000)]


@pytest.mark.parametrize(
    "content", ["no json", "{}", '[{"file": "nowhere.pcm", "onset_ms": 0, "end_ms": 1}]', "[5]"]
)
def test_a_manifest_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "clips.json").write_text(content)
    with pytest.raises(BadProfile, match=r"asr\.clips"):
        read_clips(str(tmp_path / "clips.json"), PROFILE.transcripts)


# ---- the wire ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 127, 128, 640, 20_000])
def test_audio_is_cut_out_of_its_message(size: int) -> None:
    from riva.client.proto import riva_asr_pb2 as rasr

    request = rasr.StreamingRecognizeRequest(audio_content=bytes(range(256)) * (size // 256 + 1))
    assert audio_of(request.SerializeToString()) == request.audio_content
    request.id.value = "x"
    assert audio_of(request.SerializeToString()) is None, "more than audio: to be parsed"


@pytest.mark.parametrize("message", [b"", b"\x12", b"\x12\x05abc", b"\x12" + b"\xff" * 9, b"\x0a\x00"])
def test_other_messages_are_left_to_the_parser(message: bytes) -> None:
    assert audio_of(message) is None
