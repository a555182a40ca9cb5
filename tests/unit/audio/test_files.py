"""Decoders: every format against libsndfile, every chunking, and malformed input by name."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audio.encoders import OggOpusEncoder
from gateway.audio.files import AudioDecoder, BadAudio, Encoding, decode_file
from gateway.audio.pcm import Int16

DATA = Path(__file__).parents[2] / "data" / "audio"
RATE = 16_000


def tone(seconds: float = 1.0, rate: int = RATE, hz: float = 440.0) -> Int16:
    wave: Int16 = (np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * hz / rate) * 9_000).astype(np.int16)
    return wave


def written(samples: npt.NDArray[Any], rate: int, kind: str, subtype: str) -> bytes:
    file = io.BytesIO()
    if subtype in ("FLOAT", "DOUBLE"):
        samples = samples / 32768.0  # libsndfile scales floats to integers, not the other way
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def decoded(decoder: AudioDecoder, pieces: list[bytes]) -> Int16:
    out = [samples for piece in pieces for samples in decoder.feed(piece)]
    out += list(decoder.flush())
    return np.concatenate(out) if out else np.zeros(0, np.int16)


def similarity(a: Int16, b: Int16) -> float:
    n = min(len(a), len(b))
    x, y = a[:n].astype(float), b[:n].astype(float)
    return float(np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y)))


@pytest.mark.parametrize(
    ("kind", "subtype", "error"),
    [
        ("WAV", "PCM_16", 0),
        ("WAV", "PCM_24", 1),
        ("WAV", "PCM_32", 1),
        ("WAV", "FLOAT", 1),
        ("WAV", "DOUBLE", 1),
        ("WAV", "PCM_U8", 257),
        ("WAV", "ULAW", 300),
        ("WAV", "ALAW", 300),
        ("WAVEX", "PCM_16", 0),
        ("WAVEX", "PCM_24", 1),
        ("FLAC", "PCM_16", 0),
        ("FLAC", "PCM_24", 1),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1_000, 1 << 20])
def test_container_in_pieces_is_the_recording(kind: str, subtype: str, error: int, size: int) -> None:
    samples = tone(0.3)
    decoder = AudioDecoder()
    out = decoded(decoder, pieces_of(written(samples, RATE, kind, subtype), size))
    assert decoder.rate == RATE
    assert len(out) == len(samples)
    assert int(np.abs(out.astype(int) - samples).max()) <= error


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
def test_g711_tables_agree_with_libsndfile_on_every_code(subtype: str) -> None:
    codes = bytes(range(256))
    reference, _ = soundfile.read(
        io.BytesIO(codes), format="RAW", subtype=subtype, samplerate=8_000, channels=1, dtype="int16"
    )
    encoding = Encoding.MULAW if subtype == "ULAW" else Encoding.ALAW
    out = decoded(AudioDecoder(encoding, 8_000), [codes])
    np.testing.assert_array_equal(out, reference)


@pytest.mark.parametrize("size", [1, 33, 4_096])
def test_ogg_opus_in_pieces(size: int) -> None:
    samples = tone(0.6, 48_000)
    decoder = AudioDecoder(Encoding.OGG_OPUS, RATE)
    out = decoded(decoder, pieces_of(written(samples, 48_000, "OGG", "OPUS"), size))
    assert decoder.rate == 48_000, "Opus decodes at 48 kHz whatever was declared"
    assert abs(len(out) - len(samples)) <= 48
    assert similarity(out[4_800:], samples[4_800:]) > 0.98


def test_flac_frames_come_out_one_frame_late() -> None:
    noise = np.random.default_rng(7).integers(-9_000, 9_000, (RATE * 2, 2)).astype(np.int16)
    decoder = AudioDecoder()
    heard = fed = 0
    data = written(noise, RATE, "FLAC", "PCM_16")
    for piece in pieces_of(data, 640):
        heard += sum(samples.size for samples in decoder.feed(piece))
        fed += len(piece)
        assert heard >= fed / len(data) * len(noise) - 2 * 4_096 - 640
    assert heard + sum(samples.size for samples in decoder.flush()) == len(noise)


def test_ogg_streams_in_a_chain_are_played_one_after_another() -> None:
    one = written(tone(0.2, 48_000), 48_000, "OGG", "OPUS")
    out = decoded(AudioDecoder(), [one + one])
    assert abs(len(out) - 2 * 9_600) <= 96


@pytest.mark.parametrize("rate", OggOpusEncoder.RATES)
def test_ogg_opus_written_in_pieces_is_read_by_libsndfile(rate: int) -> None:
    samples = tone(0.5, rate)
    encoder = OggOpusEncoder(rate)
    parts = [encoder.encode(samples[i : i + 333]) for i in range(0, len(samples), 333)]
    assert any(parts[2:]), "pages come before the end"
    file = b"".join(parts) + encoder.close()
    out, at = soundfile.read(io.BytesIO(file), dtype="int16")
    assert similarity(out[at // 10 :], tone(0.5, at)[at // 10 :]) > 0.97
    assert abs(len(out) / at - 0.5) < 0.03
    assert encoder.close() == b""


def test_ogg_opus_encoder_refuses_other_rates() -> None:
    with pytest.raises(ValueError, match="44100"):
        OggOpusEncoder(44_100)


@pytest.mark.parametrize("size", [1, 3, 5, 640, 100_000])
def test_odd_length_pcm_carries_the_odd_byte_over(size: int) -> None:
    samples = tone(0.1)
    out = decoded(AudioDecoder(Encoding.LINEAR_PCM, RATE), pieces_of(samples.tobytes(), size))
    np.testing.assert_array_equal(out, samples)


def test_half_a_sample_at_the_end_is_dropped() -> None:
    out = decoded(AudioDecoder(Encoding.LINEAR_PCM, RATE), [tone(0.01).tobytes() + b"\x01"])
    assert len(out) == 160


def test_first_channel_of_stereo() -> None:
    left, right = tone(0.1), tone(0.1, hz=900)
    both = np.stack((left, right), axis=1).copy()
    raw = decoded(AudioDecoder(Encoding.LINEAR_PCM, RATE, 2), pieces_of(both.tobytes(), 31))
    np.testing.assert_array_equal(raw, left)
    for kind in ("WAV", "FLAC"):
        np.testing.assert_array_equal(decode_file(written(both, RATE, kind, "PCM_16"))[0], left)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_header_wins_over_what_was_declared(encoding: Encoding) -> None:
    samples, rate = decode_file(written(tone(0.1, 22_050), 22_050, "WAV", "PCM_16"), encoding, 8_000, 2)
    assert rate == 22_050
    assert len(samples) == 2_205


def test_wav_of_unknown_length_is_read_to_its_end() -> None:
    data = bytearray(written(tone(0.1), RATE, "WAV", "PCM_16"))
    for unknown in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        data[40:44] = unknown
        assert len(decode_file(bytes(data))[0]) == 1_600


def test_chunks_after_the_audio_are_no_audio() -> None:
    data = written(tone(0.1), RATE, "WAV", "PCM_16")
    assert len(decode_file(data + b"LIST\x04\0\0\0abcd")[0]) == 1_600


def test_audio_that_only_begins_like_a_container_is_raw() -> None:
    for first in (b"R", b"RI", b"fLa", b"Og"):
        out = decoded(AudioDecoder(Encoding.LINEAR_PCM, RATE), [first, b"abcdefgh"])
        assert out.tobytes() == (first + b"abcdefgh")[: len(out) * 2]
        assert len(out) == (len(first) + 8) // 2


def test_nothing_is_no_audio() -> None:
    assert decode_file(b"", Encoding.LINEAR_PCM, RATE)[0].size == 0


@pytest.mark.parametrize("rate", [0, 2, 7_999, 48_001, -16_000])
def test_raw_audio_needs_a_rate(rate: int) -> None:
    with pytest.raises(BadAudio, match=f"Invalid sample rate {rate} Hz: use 8000 to 48000"):
        decode_file(b"\0\0" * 100, Encoding.LINEAR_PCM, rate)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wav_cut_in_header.wav", "ends inside its header"),
        ("wav_format_chunk_of_2_gib.wav", "claims 2147483648 bytes"),
        ("wav_data_before_format.wav", "data comes before the format"),
        ("wav_adpcm.wav", "format 2 of 4 bits is not supported"),
        ("wav_zero_channels.wav", "0 channels"),
        ("wav_rate_zero.wav", "at 0 Hz"),
        ("wav_rate_2_hz.wav", "Invalid sample rate 2 Hz"),
        ("riff_but_avi.avi", "not a WAVE file"),
        ("flac_cut_in_header.flac", "ends inside its header"),
        ("flac_first_block_no_streaminfo.flac", "must begin with the stream info"),
        ("flac_frames_are_noise.flac", "FLAC"),
        ("flac_cut_in_the_middle.flac", "send the whole file"),
        ("ogg_cut_in_tags.ogg", "before any Opus audio"),
        ("ogg_pages_out_of_step.ogg", "does not begin where the last one ended"),
        ("ogg_opus_six_channels.ogg", "6 channels is not supported"),
        ("ogg_vorbis.ogg", "holds no Opus"),
        ("ogg_packet_is_noise.ogg", "cannot be decoded"),
    ],
)
def test_malformed_file_is_refused(name: str, says: str) -> None:
    data = (DATA / name).read_bytes()
    with pytest.raises(BadAudio, match=says):
        decode_file(data)
    with pytest.raises(BadAudio):
        decoded(AudioDecoder(whole=True), pieces_of(data, 13))


def test_declared_flac_without_a_header_is_refused() -> None:
    with pytest.raises(BadAudio, match="does not begin with a FLAC header"):
        decode_file(b"\0" * 100, Encoding.FLAC, RATE)
    with pytest.raises(BadAudio, match="does not begin with an Ogg page"):
        decode_file(b"\0" * 100, Encoding.OGG_OPUS, RATE)


def test_silence_that_unpacks_to_hours_is_refused_before_memory_is() -> None:
    bomb = written(np.zeros(RATE * 600, np.int16), RATE, "FLAC", "PCM_16")
    assert len(bomb) < 100_000
    with pytest.raises(BadAudio, match="longer than 30 seconds"):
        decode_file(bomb, max_s=30)
    first = next(iter(AudioDecoder().feed(bomb)))
    assert first.size < RATE * 30, "a message is unpacked as it is consumed"


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0", b"fLaC", b"OggS\0\x02"]),
    st.lists(st.binary(max_size=80), max_size=12),
    st.sampled_from(list(Encoding)),
)
def test_any_bytes_give_audio_or_a_clear_refusal(
    magic: bytes, pieces: list[bytes], encoding: Encoding
) -> None:
    with contextlib.suppress(BadAudio):
        assert decoded(AudioDecoder(encoding, RATE), [magic, *pieces]).dtype == np.int16


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["WAV", "FLAC", "OGG"]), st.data())
def test_a_damaged_recording_gives_audio_or_a_clear_refusal(kind: str, data: st.DataObject) -> None:
    subtype = "OPUS" if kind == "OGG" else "PCM_16"
    file = bytearray(written(tone(0.2, 48_000), 48_000, kind, subtype))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(4, len(file) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadAudio):
        assert decode_file(bytes(file))[0].dtype == np.int16
