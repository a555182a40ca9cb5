"""VITS in three graphs and its front say what transformers' VitsModel says as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import VitsConfig, VitsModel, VitsTokenizer
from transformers.models.vits import modeling_vits

from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import LocalGraph
from gateway.triton.models.tts.vits import Vits, load
from gateway.triton.models.tts.windows import Windowing, Windows, through
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.exported import GraphExport
from parley_export.families import vits as family
from parley_export.families import vits_graphs, vits_reference
from parley_export.families.vits_text import VOCABULARY, text_of
from parley_export.onnx_graph import write_graph
from tests.export.loudness import apart_db, clicks
from tests.support.exported import exported

NAME = "tts_vits_small"
OPTIONS = {"seed": "0", "speakers": "2"}
UNWANTED = {"NonZero", "CumSum", "GatherND", "ScatterND", "ScatterElements", "If", "Loop"}
"""Operators that TensorRT refuses or whose shapes depend on data."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def repository() -> Path:
    return exported("vits", *(f"{key}={value}" for key, value in OPTIONS.items()))


@pytest.fixture(scope="module")
def engine(repository: Path) -> Vits:
    return load(Folder(repository / NAME / "1"))


@pytest.fixture(scope="module")
def trained() -> Any:
    """The model that was exported, made of the same seed."""
    with torch.no_grad():
        return family.model_of(open_checkpoint("vits", "random:small"), OPTIONS)


@pytest.fixture(scope="module")
def decoder(repository: Path) -> LocalGraph:
    return LocalGraph(repository / f"graph_{NAME}_decoder")


def small(**changed: Any) -> Any:
    """A VitsModel of some other shape, with nothing scaled but the durations' zeros."""
    torch.manual_seed(1)
    model = VitsModel(VitsConfig(**{**family.SMALL, **changed})).eval()
    for parameter in model.duration_predictor.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"num_speakers": 3, "speaker_embedding_size": 16},
        {"use_stochastic_duration_prediction": False},
        {"use_stochastic_duration_prediction": False, "num_speakers": 3, "speaker_embedding_size": 16},
        {"prior_encoder_num_flows": 3, "window_size": 2, "wavenet_dilation_rate": 2},
    ],
    ids=["stochastic", "speakers", "plain", "plain speakers", "odd flows"],
)
def test_the_parts_are_the_whole_on_rows_of_unequal_length(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(**changed)
    drawn: list[Any] = []
    randn, randn_like = torch.randn, torch.randn_like

    def kept(made: Any) -> Any:
        drawn.append(made)
        return made

    ids = torch.randint(0, len(VOCABULARY), (3, 17), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([17, 9, 1])
    padding = (torch.arange(17) < lengths[:, None]).long()
    several = model.config.num_speakers > 1
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn", lambda *size, **_: kept(randn(*size)))
        patched.setattr(torch, "randn_like", lambda other, **_: kept(randn_like(other)))
        whole = model(ids, attention_mask=padding, speaker_id=2 if several else None)
    speaker = [model.embed_speaker.weight[2:3].expand(3, -1)] if several else []
    stochastic = model.config.use_stochastic_duration_prediction
    noise = [drawn[0] * model.config.noise_scale_duration] if stochastic else []
    vits_graphs.without_weight_norm(model)

    logs, mean, deviation = vits_graphs.Text(model)(ids, lengths, *noise, *speaker)
    counts = (torch.exp(logs) * padding).ceil().long()
    frames = counts.sum(1)
    prior = torch.zeros(3, model.config.flow_size, int(frames.max()))
    for row, size in enumerate(frames):
        stretched, spread = (values[row].repeat_interleave(counts[row], 1) for values in (mean, deviation))
        own = drawn[-1][row, :, :size] * model.config.noise_scale
        prior[row, :, :size] = stretched + own * spread.exp()
    latents = vits_graphs.Flow(model)(prior, frames, *speaker)
    audio = vits_graphs.Decoder(model)(latents, *speaker)

    assert (frames * 256).tolist() == whole.sequence_lengths.tolist()
    assert len(set(frames.tolist())) == 3
    torch.testing.assert_close(latents, whole.spectrogram, rtol=0, atol=1e-4)
    assert apart_db(audio.numpy(), whole.waveform.numpy()) < -80


def test_the_spline_is_the_originals_at_its_bounds_and_beyond() -> None:
    """Against modeling_vits.py's, backwards."""
    bins, bound = 10, 5.0
    torch.manual_seed(3)
    y = torch.cat([torch.tensor([-9.0, -5.0, -4.9999, 0.0, 4.9999, 5.0, 7.5]), 4 * torch.randn(400)])
    told = 2 * torch.randn(1, 1, len(y), 3 * bins - 1)
    wanted, _ = modeling_vits._unconstrained_rational_quadratic_spline(
        y[None, None],
        told[..., :bins],
        told[..., bins : 2 * bins],
        told[..., 2 * bins :].clone(),
        reverse=True,
    )
    spline = vits_graphs._Spline(small().duration_predictor.flows[1])
    assert (spline.bins, spline.bound) == (bins, bound)
    made = spline.backwards(
        y[None, :, None], told[0, :, :, :bins], told[0, :, :, bins : 2 * bins], told[0, :, :, 2 * bins :]
    )
    torch.testing.assert_close(made[0, :, 0], wanted[0, 0], rtol=0, atol=2e-4)
    assert float((made[0, :, 0] - y).abs().max()) > 0.5


@pytest.mark.parametrize(
    ("voice", "seed", "speed"), [("speaker-1", 1, 1.0), ("speaker-2", 2, 1.0), ("speaker-1", 3, 1.5)]
)
def test_the_front_says_what_the_whole_model_says(
    engine: Vits, trained: Any, voice: str, seed: int, speed: float
) -> None:
    speaker = int(voice[-1]) - 1
    ids = engine._say("Where is the old harbour, please?")
    wanted = vits_reference.said(trained, ids, seed, speaker, speed)
    heard = engine.audio(ids, seed, voice, speed)
    assert len(heard) == len(wanted)
    assert apart_db(heard, wanted) < -80
    assert np.abs(heard - wanted).max() < 1e-4


def test_speakers_and_seeds_are_heard(engine: Vits) -> None:
    ids = engine._say("Good morning.")
    said = [
        engine.audio(ids, seed, voice)
        for seed, voice in ((1, "speaker-1"), (1, "speaker-2"), (2, "speaker-1"))
    ]
    for one, other in ((0, 1), (0, 2)):
        size = min(len(said[one]), len(said[other]))
        assert apart_db(said[one][:size], said[other][:size]) > -20


def test_the_recorded_reference_is_this(engine: Vits, repository: Path) -> None:
    with np.load(repository / NAME / "reference" / "front.npz") as told:
        for number in range(2):
            ids, seed, voice, audio = (told[f"{key}_{number}"] for key in ("ids", "seed", "voice", "audio"))
            assert apart_db(engine.audio(ids, int(seed), str(voice)), audio) < -80


def test_a_random_voice_is_heard_at_the_usual_level_and_varies(engine: Vits) -> None:
    for voice in engine.voices:
        audio = engine.audio("Two boats came home this morning.", 4, voice.name)
        level = 20 * np.log10(vits_reference.voiced_level(audio, engine.rate))
        assert -24 < level < -16
        assert abs(level + 20 * np.log10(voice.gain) + 20) < 1.5, "its gain brings it to -20 dBFS"
        parts = audio[: len(audio) // 320 * 320].reshape(-1, 320)
        assert np.std(20 * np.log10(parts.std(1) + 1e-6)) > 1.0, "louder here and softer there"
        assert abs(audio.mean()) < 0.01


@pytest.mark.parametrize(("first", "later"), [(1, 1), (3, 9), (40, 40)])
def test_streamed_is_whole_without_clicks(
    decoder: LocalGraph, repository: Path, first: int, later: int
) -> None:
    settings = json.loads((repository / NAME / "1" / "front.json").read_text())["decoder_windows"]
    rng = np.random.default_rng(5)
    latents = rng.standard_normal((32, 90), np.float32)
    condition = {"speaker": rng.standard_normal((1, 16), np.float32)}
    whole = decoder.run({"latents": latents[None], **condition})["audio"][0]
    run = through(decoder, "latents", "audio", condition)
    parts = list(Windows(run, Windowing.of({**settings, "first": first, "later": later})).stream(latents))
    assert len(parts) > 2
    assert apart_db(np.concatenate(parts), whole) < -60
    assert clicks(parts, whole) < 1e-3


def test_too_small_an_overlap_is_caught(decoder: LocalGraph, repository: Path) -> None:
    settings = json.loads((repository / NAME / "1" / "front.json").read_text())["decoder_windows"]
    latents = np.random.default_rng(5).standard_normal((32, 90), np.float32)
    condition = {"speaker": np.zeros((1, 16), np.float32)}
    whole = decoder.run({"latents": latents[None], **condition})["audio"][0]
    short = Windowing.of({**settings, "left": settings["left"] - 4, "right": settings["right"] - 4})
    parts = list(Windows(through(decoder, "latents", "audio", condition), short).stream(latents))
    assert apart_db(np.concatenate(parts), whole) > -60


def test_nothing_is_in_the_graphs_that_tensorrt_refuses(repository: Path) -> None:
    for path in repository.glob(f"graph_{NAME}_*/1/model.onnx"):
        operators = {node.op_type for node in onnx.load(str(path)).graph.node}
        assert not operators & UNWANTED, path
        assert not [name for name in operators if name.startswith("Random")]


def test_plain_durations_are_exported_too(tmp_path: Path) -> None:
    model = family.model_of(open_checkpoint("vits", "random:small"), {"durations": "plain"})
    text = family._graphs(model, *family.windowings(model, 256, {}))[0]
    assert "noise" not in text.graph.input_names
    _, rows = write_graph(text, tmp_path)
    assert rows
    assert all(row.ok for row in rows)


def test_a_weight_that_differs_is_caught(tmp_path: Path, repository: Path) -> None:
    """The exported decoder held against a model of another seed."""
    other = family.model_of(open_checkpoint("vits", "random:small", seed=1), OPTIONS)
    graph = LocalGraph(repository / f"graph_{NAME}_decoder").spec
    ready = repository / f"graph_{NAME}_decoder" / "1" / "model.onnx"
    with pytest.raises(ExportError, match="graph decoder: ONNX Runtime and torch differ"):
        write_graph(GraphExport(graph, vits_graphs.Decoder(other).eval(), path=ready), tmp_path)


def test_text_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    vocabulary = {"k": 0, "'": 1, "z": 2, " ": 3} | {
        letter: 4 + n for n, letter in enumerate("abcdefghijlmnopqrstuvwxy-")
    }
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    told = {"add_blank": True, "normalize": True, "phonemize": False, "is_uroman": False, "language": "eng"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    checkpoint = open_checkpoint("vits", str(tmp_path))
    text = text_of(checkpoint, VitsConfig(vocab_size=30), "en-US")
    tokenizer = VitsTokenizer(str(tmp_path / "vocab.json"), phonemize=False, language="eng")
    for sentence in ("Good morning", "it's a well-known Fact", "what now ?"):
        assert text.ids(sentence).tolist() == tokenizer(sentence)["input_ids"], sentence


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ({"phonemize": True}, "espeak's phonemes"),
        ({"phonemize": False, "is_uroman": True}, "uroman's letters"),
    ],
)
def test_a_voice_that_reads_something_else_is_refused(
    tmp_path: Path, told: dict[str, Any], what: str
) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(VOCABULARY))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    with pytest.raises(ExportError, match=what):
        text_of(open_checkpoint("vits", str(tmp_path)), VitsConfig(), "en-US")


def test_a_checkpoint_in_a_folder_is_exported(tmp_path: Path) -> None:
    """As save_pretrained writes one, weight norm and all; in a language of its own letters."""
    model = small()
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(
        json.dumps({chr(0x0561 + n): n for n in range(30)}, ensure_ascii=False)
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"phonemize": False, "language": "hye"}))
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    made = family.export(open_checkpoint("vits", str(tmp_path)), {})
    assert made.license == "CC-BY-NC-4.0"
    assert made.parameters["voice_languages"] == "hye"
    told: dict[str, Any] = made.front_reference
    audio = vits_reference.said(model, told["ids_0"], int(told["seed_0"]))
    np.testing.assert_allclose(told["audio_0"], audio, atol=1e-4)
