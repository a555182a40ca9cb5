"""Files that are written as they are made, and speech made faster or slower."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from gateway.audio.encoders import MEDIA_TYPES, make_encoder
from gateway.audio.pcm import Int16
from gateway.audio.stretch import Stretcher

RATE = 24_000
TONE: Int16 = (8_000 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.int16)
CHUNK = RATE // 25


def pitch(samples: Int16, rate: int) -> float:
    """Hz of the strongest tone."""
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate / samples.size)


@pytest.mark.parametrize("form", set(MEDIA_TYPES) - {"pcm"})
def test_a_file_comes_in_pieces_and_holds_everything(form: str) -> None:
    encoder = make_encoder(form, RATE)
    pieces = [encoder.encode(TONE[at : at + CHUNK]) for at in range(0, TONE.size, CHUNK)]
    assert sum(bool(piece) for piece in pieces[:25]) >= 8, "half of the audio came in few pieces"
    with av.open(io.BytesIO(b"".join([*pieces, encoder.close()])), "r") as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=stream.rate)
        frames = [f for frame in container.decode(stream) for f in resampler.resample(frame)]
        samples = np.concatenate([frame.to_ndarray().ravel() for frame in frames])
        assert samples.size / stream.rate == pytest.approx(2, abs=0.07)
        assert pitch(samples, stream.rate) == pytest.approx(440, abs=1)
        assert np.abs(samples).max() == pytest.approx(8_000, rel=0.1)


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_a_file_of_nothing_can_be_closed(form: str) -> None:
    encoder = make_encoder(form, RATE)
    assert encoder.encode(TONE[:0]) is not None
    encoder.close()


def test_other_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="mp3, opus"):
        make_encoder("mid", RATE)


@pytest.mark.parametrize("speed", [0.25, 0.4, 0.8, 1.3, 2.0, 4.0])
def test_speed_changes_the_length_and_not_the_pitch(speed: float) -> None:
    stretcher = Stretcher(RATE, speed)
    pieces = [stretcher.push(TONE[at : at + CHUNK]) for at in range(0, TONE.size, CHUNK)]
    assert sum(piece.size for piece in pieces) > 0.6 * TONE.size / speed, "it holds too much back"
    samples = np.concatenate([*pieces, stretcher.flush()])
    assert samples.size / RATE == pytest.approx(2 / speed, abs=0.06)
    assert pitch(samples, RATE) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("speed", [0.05, 11.0])
def test_speeds_beyond_reach_are_refused(speed: float) -> None:
    with pytest.raises(ValueError, match=r"0\.1 to 10"):
        Stretcher(RATE, speed)
