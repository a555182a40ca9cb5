"""FastSpeech2Conformer and its vocoder: what leaves the graphs and the front is what transformers says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import LocalGraph
from gateway.triton.models.tts.acoustic import Acoustic, frame_counts, load
from gateway.triton.models.tts.windows import Windowing, Windows, through
from parley_export.checkpoint import open_checkpoint
from parley_export.families import fastspeech2 as family
from parley_export.families.fastspeech2_graphs import MelDecoder, TextEncoder, maskings
from tests.export.loudness import apart_db, clicks
from tests.support.exported import exported

NAME = "tts_fastspeech2_small"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def repository() -> Path:
    return exported("fastspeech2")


@pytest.fixture(scope="module")
def engine(repository: Path) -> Acoustic:
    return load(Folder(repository / NAME / "1"))


@pytest.fixture(scope="module")
def torch_models() -> tuple[Any, Any]:
    """Model and vocoder, as the exporter makes them of the same seed."""
    model, hifigan = family._models(open_checkpoint("fastspeech2", "random:small"), {}, len(family.PHONES))
    return model, hifigan


def sounds(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(count).integers(2, len(family.PHONES), count)


def test_the_front_says_what_transformers_says(engine: Acoustic, repository: Path) -> None:
    with np.load(repository / NAME / "reference" / "front.npz") as told:
        reference = dict(told)
    count = sum(name.startswith("audio_") for name in reference)
    assert count == 3
    for number in range(count):
        wanted = reference[f"audio_{number}"]
        made = engine.audio(reference[f"ids_{number}"], voice=str(reference[f"voice_{number}"]))
        assert made.shape == wanted.shape
        assert apart_db(made, wanted) < -60
        assert 0.02 < wanted.std() < 0.5


def test_a_voice_is_another_voice(engine: Acoustic) -> None:
    one, other = (engine.audio("hello there", voice=voice.name) for voice in engine.voices)
    size = min(len(one), len(other))
    assert apart_db(one[:size], other[:size]) > -10


def test_speed_is_transformers_speaking_speed(engine: Acoustic, torch_models: tuple[Any, Any]) -> None:
    model, hifigan = torch_models
    ids = sounds(17)
    for speed in (0.7, 1.6):
        model.config.speaking_speed = 1 / speed
        try:
            wanted = family.spoken(model, hifigan, ids, {"speaker": 0})
        finally:
            model.config.speaking_speed = 1.0
        made = engine.audio(ids, speed=speed)
        assert made.shape == wanted.shape
        assert apart_db(made, wanted) < -60


def test_windows_say_what_the_vocoder_says_in_one_go(repository: Path) -> None:
    graph = LocalGraph(repository / f"graph_{NAME}_vocoder")
    windowing = Windowing.of(Folder(repository / NAME / "1").front["windows"])
    mel = np.random.default_rng(2).standard_normal((40, 500)).astype(np.float32)
    run = through(graph, "mel", "audio")
    whole = run(mel)
    parts = list(Windows(run, windowing).stream(mel))
    assert len(parts) > 5
    assert len(parts[0]) < 0.15 * 22_050
    assert apart_db(np.concatenate(parts), whole) < -60
    assert clicks(parts, whole) < 1e-4
    deaf = Windowing(windowing.hop, windowing.left - 2, windowing.right, windowing.first, windowing.later)
    assert apart_db(np.concatenate(list(Windows(run, deaf).stream(mel))), whole) > -60, (
        "this would be noticed"
    )


def test_a_row_of_a_batch_says_what_it_says_alone(repository: Path, torch_models: tuple[Any, Any]) -> None:
    """Of transformers this cannot be said: there a row sees the padding behind it."""
    model, _ = torch_models
    encoder = LocalGraph(repository / f"graph_{NAME}_encoder")
    decoder = LocalGraph(repository / f"graph_{NAME}_decoder")
    rows = [sounds(25), sounds(5), sounds(9)]
    longest = max(len(row) for row in rows)
    ids = np.stack([np.pad(row, (0, longest - len(row)), constant_values=7) for row in rows])
    lengths = np.array([[len(row)] for row in rows], np.int64)
    speakers = np.array([[0], [1], [1]], np.int64)
    made = encoder.run({"ids": ids, "length": lengths, "speaker": speakers})
    frames = [
        np.repeat(hidden, frame_counts(durations, 1.0), axis=0)
        for hidden, durations in zip(made["hidden"], made["durations"], strict=True)
    ]
    most = max(len(row) for row in frames)
    hidden = np.stack([np.pad(row, ((0, most - len(row)), (0, 0)), constant_values=3.0) for row in frames])
    counts = np.array([[len(row)] for row in frames], np.int64)
    mel = decoder.run({"hidden": hidden, "length": counts})["mel"]
    for number, row in enumerate(rows):
        alone = model(
            torch.from_numpy(row)[None],
            speaker_ids=torch.from_numpy(speakers[number : number + 1]),
            return_dict=True,
        )
        assert (
            alone.duration_outputs[0].tolist()
            == frame_counts(made["durations"][number], 1.0)[: len(row)].tolist()
        )
        wanted = alone.spectrogram[0].numpy().T
        assert np.abs(mel[number, :, : wanted.shape[1]] - wanted).max() < 1e-4
        assert not mel[number, :, wanted.shape[1] :].any()


def test_languages_speaker_embeddings_and_several_frames_a_step() -> None:
    """What no small export has, in torch alone."""
    from transformers import FastSpeech2ConformerConfig, FastSpeech2ConformerModel

    small = {
        **family.SMALL,
        "num_speakers": 3,
        "num_languages": 2,
        "speaker_embed_dim": 8,
        "reduction_factor": 2,
    }
    torch.manual_seed(3)
    model = FastSpeech2ConformerModel(FastSpeech2ConformerConfig(**small)).eval()
    family._enliven(model)
    ids, length = torch.arange(5, 25)[None], torch.tensor([[20]])
    speaker, language, embedding = torch.tensor([[2]]), torch.tensor([[1]]), torch.randn(1, 8)
    wanted = model(ids, speaker_ids=speaker, lang_ids=language, speaker_embedding=embedding, return_dict=True)
    text_masking, frame_masking = maskings(model)
    encoder, decoder = TextEncoder(model, text_masking, 64), MelDecoder(model, frame_masking, 512)
    assert encoder.names == ["speaker", "language", "embedding"]
    hidden, durations = encoder(ids, length, speaker, language, embedding)
    counts = frame_counts(durations[0].numpy(), 1.0)
    assert counts.tolist() == wanted.duration_outputs[0].tolist()
    frames = torch.repeat_interleave(hidden, torch.from_numpy(counts), dim=1)
    mel = decoder(frames, torch.tensor([[frames.shape[1]]]))
    assert torch.allclose(mel.transpose(1, 2), wanted.spectrogram, atol=1e-4)
    assert mel.shape[2] == 2 * counts.sum()
