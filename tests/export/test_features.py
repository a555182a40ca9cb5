"""Parley's log-mel features beside transformers' own extractors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch")
from transformers import (
    NemotronAsrStreamingFeatureExtractor,
    ParakeetFeatureExtractor,
    WhisperFeatureExtractor,
)

from gateway.triton.models.features import NEMO_EPSILON, NEMO_GUARD, LogMel, mel_bank
from parley_export.features import feature_settings

RATE = 16_000
TOLERANCE = 1e-4
EXTRACTORS = {
    "whisper-80": lambda: WhisperFeatureExtractor(),
    "whisper-128": lambda: WhisperFeatureExtractor(feature_size=128),
    "whisper-5s": lambda: WhisperFeatureExtractor(chunk_length=5),
    "parakeet-80": lambda: ParakeetFeatureExtractor(),
    "parakeet-128": lambda: ParakeetFeatureExtractor(feature_size=128),
    "nemotron-80": lambda: NemotronAsrStreamingFeatureExtractor(),
    "nemotron-128": lambda: NemotronAsrStreamingFeatureExtractor(feature_size=128),
}


Floats = npt.NDArray[np.float32]


def speechlike(samples: int) -> Floats:
    """Bursts of harmonics in a little noise: what speech spectra look like, made from a seed."""
    chance = np.random.default_rng(7)
    t = np.arange(samples) / RATE
    voiced = sum(np.sin(2 * np.pi * 120 * k * t + k) / k for k in range(1, 40))
    return (
        0.1 * voiced * (np.sin(2 * np.pi * 3 * t) > -0.3) + 0.01 * chance.standard_normal(samples)
    ).astype("f4")


AUDIO = {
    "short": speechlike(1234),
    "second": speechlike(RATE),
    "odd": speechlike(3 * RATE + 77),
    "long": speechlike(33 * RATE),
    "nearly-30s": speechlike(30 * RATE - 100),
    "full-scale": speechlike(2 * RATE) / np.abs(speechlike(2 * RATE)).max(),
    "silence": np.zeros(RATE, dtype="f4"),
    "half-silent": np.concatenate([speechlike(RATE), np.zeros(RATE, dtype="f4")]),
    "one-sample": np.array([0.5], dtype="f4"),
}


def reference(extractor: Any, audio: Floats) -> Floats:
    """What transformers' extractor makes of it, valid frames only -> [t, mels]."""
    if isinstance(extractor, WhisperFeatureExtractor):
        padded = extractor(audio, sampling_rate=RATE, return_tensors="np")
        return np.array(padded["input_features"][0].T, dtype=np.float32)
    made = extractor([audio], sampling_rate=RATE, return_tensors="np")
    valid = np.asarray(made["attention_mask"])[0].astype(bool)
    return np.array(made["input_features"][0][valid], dtype=np.float32)


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize("audio", AUDIO)
def test_equals_transformers(name: str, audio: str) -> None:
    extractor = EXTRACTORS[name]()
    mine = LogMel(feature_settings(extractor)).whole(AUDIO[audio])
    theirs = reference(extractor, AUDIO[audio])
    assert mine.shape == theirs.shape
    assert mine.dtype == np.float32
    assert np.isfinite(mine).all()
    if name.startswith("parakeet") and audio == "silence":
        # A constant less its mean is 0. transformers' mean is off by float32's rounding, divided by 1e-5.
        assert np.abs(mine).max() <= TOLERANCE
        assert np.abs(theirs).max() * NEMO_EPSILON <= 2 * np.spacing(np.float32(-np.log(NEMO_GUARD)))
    elif name.startswith("nemotron") and audio == "full-scale":
        # Bands 60 dB and more below a frame's loudest are off by the rounding of transformers' float32 transform.
        below = np.exp((theirs - theirs.max(axis=1, keepdims=True)) / 2)
        assert (np.abs(mine - theirs) <= np.maximum(TOLERANCE, 3e-7 / below)).all()
    elif len(theirs):
        assert np.abs(mine - theirs).max() <= TOLERANCE


@pytest.mark.parametrize("name", EXTRACTORS)
def test_nothing_heard(name: str) -> None:
    """Of no audio at all transformers makes an error or silence; Parley makes no frames or silence."""
    extractor = EXTRACTORS[name]()
    mel = LogMel(feature_settings(extractor))
    mine = mel.whole(np.zeros(0, dtype="f4"))
    if mel.settings.kind == "whisper":
        assert np.abs(mine - reference(extractor, np.zeros(1, dtype="f4"))).max() <= TOLERANCE
    else:
        assert mine.shape == (0, mel.settings.mels)


def test_the_filter_bank() -> None:
    extractor = WhisperFeatureExtractor(feature_size=128)
    assert np.abs(mel_bank(128, 400, RATE) - extractor.mel_filters).max() < 1e-12


@pytest.mark.parametrize("name", ["nemotron-80", "nemotron-128"])
def test_a_stream_equals_transformers(name: str) -> None:
    extractor = EXTRACTORS[name]()
    stream = LogMel(feature_settings(extractor)).stream()
    audio = AUDIO["odd"]
    parts = [stream.push(audio[at : at + 1280]) for at in range(0, len(audio), 1280)] + [stream.end()]
    assert np.abs(np.concatenate(parts) - reference(extractor, audio)).max() <= TOLERANCE


def test_a_changed_setting_is_seen() -> None:
    """The comparison has teeth: another pre-emphasis, window or hop is far outside the tolerance."""
    extractor = NemotronAsrStreamingFeatureExtractor()
    theirs = reference(extractor, AUDIO["second"])
    for change in ({"preemphasis": 0.96}, {"window": 398}, {"n_fft": 514}):
        mine = LogMel(feature_settings(extractor) | change).whole(AUDIO["second"])
        assert mine.shape != theirs.shape or np.abs(mine - theirs).max() > 10 * TOLERANCE
