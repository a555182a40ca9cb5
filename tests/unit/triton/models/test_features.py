"""Log-mel features chunk by chunk, and what their settings refuse."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.triton.models.features import Floats, LogMel

RATE = 16_000


def noise(samples: int, seed: int = 0) -> Floats:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.one_of(st.integers(0, 700), st.integers(0, 9000)), max_size=12),
    mels=st.sampled_from([20, 80]),
    preemphasis=st.sampled_from([0.0, 0.97]),
)
def test_a_stream_equals_the_whole(chunks: list[int], mels: int, preemphasis: float) -> None:
    mel = LogMel({"kind": "nemo", "mels": mels, "preemphasis": preemphasis})
    audio = noise(sum(chunks))
    stream = mel.stream()
    ends = itertools.accumulate(chunks)
    parts = [stream.push(audio[end - size : end]) for size, end in zip(chunks, ends, strict=True)]
    made = np.concatenate([*parts, stream.end()])
    whole = mel.whole(audio)
    assert made.shape == whole.shape == (mel.frames(len(audio)), mels)
    assert np.abs(made - whole).max(initial=0.0) < 1e-5


def test_frames_leave_as_soon_as_their_samples_are_there() -> None:
    """A frame waits for half an n_fft behind its middle, no longer."""
    stream = LogMel({"kind": "nemo"}).stream()
    assert len(stream.push(noise(255))) == 0
    assert len(stream.push(noise(1))) == 1
    assert len(stream.push(noise(160))) == 1
    assert len(stream.push(noise(1600))) == 10


def test_an_ended_stream_takes_no_more() -> None:
    stream = LogMel({"kind": "nemo"}).stream()
    stream.end()
    with pytest.raises(ValueError, match="begin another stream"):
        stream.push(noise(10))


@pytest.mark.parametrize("name", ["whisper", "parakeet"])
def test_what_needs_the_whole_utterance_does_not_stream(name: str) -> None:
    mel = LogMel({"kind": "whisper"} if name == "whisper" else {"kind": "nemo", "normalize": "per_feature"})
    assert not mel.streams
    with pytest.raises(ValueError, match="whole utterance"):
        mel.stream()


def test_per_feature_is_of_mean_0_and_deviation_1() -> None:
    made = LogMel({"kind": "nemo", "normalize": "per_feature"}).whole(noise(RATE))
    assert np.abs(made.mean(axis=0)).max() < 1e-4
    assert np.abs(made.std(axis=0, ddof=1) - 1).max() < 1e-3


@pytest.mark.parametrize("samples", [160, 319, 320])
def test_one_or_two_frames_stay_finite(samples: int) -> None:
    made = LogMel({"kind": "nemo", "normalize": "per_feature"}).whole(noise(samples))
    assert made.shape == (samples // 160, 80)
    assert np.isfinite(made).all()


@pytest.mark.parametrize("samples", [0, 1, 399, 401, 16_000])
def test_whisper_unpadded(samples: int) -> None:
    mel = LogMel({"kind": "whisper", "pad_s": 0})
    made = mel.whole(noise(samples))
    assert made.shape == (mel.frames(samples), 80)
    assert made.max() - made.min() <= 2.0 + 1e-6


def test_audio_longer_than_the_padding_is_cut() -> None:
    mel = LogMel({"kind": "whisper", "pad_s": 1})
    audio = noise(2 * RATE)
    assert mel.whole(audio).shape == (100, 80)
    assert np.array_equal(mel.whole(audio), mel.whole(audio[:RATE]))


def test_blocks_leave_no_seam() -> None:
    """Longer than one block of the transform: every frame is the one its own samples make."""
    mel = LogMel({"kind": "nemo", "preemphasis": 0.0})
    audio = noise(12 * RATE)
    made = mel.whole(audio)
    assert len(made) == 1200
    for frame in (1023, 1024, 1025):
        alone = mel.whole(audio[frame * 160 - 480 : frame * 160 + 480])[3]
        assert np.abs(made[frame] - alone).max() < 1e-5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "mfcc"}, "unknown"),
        ({"kind": "nemo", "nfft": 512}, "nfft"),
        ({"kind": "nemo", "normalize": "utterance"}, "none or per_feature"),
        ({"kind": "whisper", "normalize": "none"}, "utterance"),
        ({"kind": "nemo", "window": 1024}, "window"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LogMel(given)
