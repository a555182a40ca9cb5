"""Chunks become frames when they are due: none lost, none early, in few strokes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audio.pcm import to_int16
from gateway.speak import reel as module
from gateway.speak.reel import FRAME_MS, Reel
from gateway.speak.shaping import Shaper
from gateway.speak.tts import Chunk


def chunk(ms: float, rate: int = 22_050) -> Chunk:
    n = round(rate * ms / 1000)
    return Chunk(np.asarray(np.sin(np.arange(n) / 9) * 4_000, "<i2").tobytes(), rate)


def frames(reel: Reel) -> Iterator[bytes]:
    number = 0
    while reel.has(number):
        yield reel.frame(number)
        number += 1


@pytest.fixture
def strokes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes given to the shaper, one entry a call."""
    seen: list[int] = []

    class Counted(Shaper):
        def push(self, chunk: Chunk) -> bytes:
            seen.append(len(chunk.pcm))
            return super().push(chunk)

    monkeypatch.setattr(module, "Shaper", Counted)
    return seen


def test_what_waits_is_made_in_few_strokes_and_nothing_before_it_is_due(strokes: list[int]) -> None:
    reel = Reel(48_000, -20.0)
    for _ in range(10):
        reel.add(chunk(80))
    assert not strokes
    assert reel.total_ms == 800
    assert reel.has(0)
    assert len(strokes) == 1
    assert reel.has(14)
    assert len(strokes) == 1
    assert reel.has(20)
    assert len(strokes) == 2


def test_a_reply_cut_short_is_never_worked_on(strokes: list[int]) -> None:
    reel = Reel(48_000, -20.0)
    for _ in range(50):
        reel.add(chunk(80))
    assert reel.has(3)
    reel.close()
    assert len(strokes) == 1
    assert not reel.has(30)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.floats(0, 400), max_size=12),
    rate=st.sampled_from([8_000, 16_000, 22_050, 24_000, 48_000]),
    out=st.sampled_from([8_000, 16_000, 24_000, 48_000]),
    looks=st.lists(st.integers(0, 12), max_size=6),
)
def test_the_frames_are_as_long_as_the_chunks(
    sizes: list[float], rate: int, out: int, looks: list[int]
) -> None:
    reel = Reel(out, -20.0)
    given_ms = 0.0
    for number, ms in enumerate(sizes):
        piece = chunk(ms, rate)
        given_ms += len(piece.pcm) * 500 / rate
        reel.add(piece)
        if number in looks:
            while reel.has(reel.end):
                pass
        assert abs(reel.total_ms - given_ms) <= FRAME_MS
    reel.finished = True
    made = list(frames(reel))
    assert len(made) == -(-round(given_ms, 3) // FRAME_MS)
    assert all(len(frame) == out // 50 * 2 for frame in made)
    assert reel.total_ms == len(made) * FRAME_MS
    assert not reel.has(len(made))


def test_the_last_word_is_in_the_last_frame() -> None:
    reel = Reel(48_000, -20.0)
    click = np.zeros(441 * 3, "<i2")
    click[-2] = 12_000
    reel.add(Chunk(click.tobytes(), 22_050))
    reel.finished = True
    made = [np.abs(to_int16(frame).astype(int)).max() for frame in frames(reel)]
    assert len(made) == 3
    assert made[0] == 0
    assert made[2] > 2_000


def test_forgotten_frames_keep_the_numbers_of_the_others() -> None:
    reel = Reel(16_000, -20.0)
    reel.add(Chunk(np.arange(3_200, dtype="<i2").tobytes(), 16_000))
    reel.finished = True
    tenth = list(frames(reel))[9]
    reel.forget(7)
    assert (reel.base, reel.end, reel.total_ms) == (7, 10, 200)
    assert reel.frame(9) == tenth


def test_audio_that_is_none_is_refused() -> None:
    reel = Reel(16_000, -20.0)
    with pytest.raises(ValueError, match="whole samples"):
        reel.add(Chunk(b"abc", 16_000))
    with pytest.raises(ValueError, match="96000 Hz"):
        reel.add(Chunk(b"ab", 96_000))
    assert reel.total_ms == 0


def test_frames_can_be_had_until_they_are_forgotten() -> None:
    reel, whole = Reel(48_000, -20.0), Reel(48_000, -20.0)
    for one in (reel, whole):
        for _ in range(10):
            one.add(chunk(100))
        one.finished = True
    expected = list(frames(whole))
    assert reel.has(49)
    assert [reel.frame(number) for number in range(50)] == expected
    reel.forget(20)
    assert [reel.frame(number) for number in range(20, 50)] == expected[20:]
    assert reel.base == 20
