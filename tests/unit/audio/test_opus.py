"""Raw Opus packets, at every rate a client may ask for."""

from __future__ import annotations

import os

import numpy as np
import pytest

from gateway.audio.opus import OpusDecoder, OpusEncoder
from gateway.audio.pcm import frame_bytes, to_int16, to_pcm

RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000]


def tone_frames(rate: int, seconds: float = 1.0) -> list[bytes]:
    n = frame_bytes(rate) // 2
    frames = int(seconds * 50)
    x = 0.25 * np.sin(2 * np.pi * 440 * np.arange(n * frames) / rate)
    return [to_pcm(x[k * n : (k + 1) * n].astype(np.float32)) for k in range(frames)]


def spectrum_peak_hz(pcm: bytes, rate: int) -> float:
    x = to_int16(pcm).astype(float)
    return float(np.argmax(np.abs(np.fft.rfft(x * np.hanning(len(x))))) * rate / len(x))


@pytest.mark.parametrize("rate", RATES)
def test_there_and_back(rate: int) -> None:
    encoder, decoder = OpusEncoder(rate), OpusDecoder(rate)
    out = b""
    for frame in tone_frames(rate):
        packet = encoder.encode(frame)
        assert 0 < len(packet) < 300
        out += decoder.decode(packet)
    heard = to_int16(out)
    assert abs(len(heard) / rate - 1.0) < 0.03
    assert spectrum_peak_hz(out, rate) == pytest.approx(440, abs=3)
    assert np.sqrt(np.mean((heard[rate // 2 :] / 32768) ** 2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.2)


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_encoder_at_one_rate_decoder_at_another(rate: int) -> None:
    encoder, decoder = OpusEncoder(48_000), OpusDecoder(rate)
    out = b"".join(decoder.decode(encoder.encode(frame)) for frame in tone_frames(48_000))
    assert spectrum_peak_hz(out, rate) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 10, b"\x03\x00", b"\x00" * 9_000])
def test_garbage_is_refused_and_the_decoder_stays_usable(garbage: bytes) -> None:
    encoder, decoder = OpusEncoder(16_000), OpusDecoder(16_000)
    frames = tone_frames(16_000, 0.2)
    decoder.decode(encoder.encode(frames[0]))
    with pytest.raises(ValueError, match="Opus packet"):
        decoder.decode(garbage)
    assert len(decoder.decode(encoder.encode(frames[1]))) == 640


def test_random_bytes_never_crash() -> None:
    decoder = OpusDecoder(16_000)
    for size in range(1, 200):
        try:
            decoder.decode(os.urandom(size))
        except ValueError:
            pass
    good = OpusEncoder(16_000).encode(bytes(640))
    assert len(decoder.decode(good)) == 640


def test_wrong_frame_length_is_refused() -> None:
    with pytest.raises(ValueError, match="640 bytes"):
        OpusEncoder(16_000).encode(bytes(638))
