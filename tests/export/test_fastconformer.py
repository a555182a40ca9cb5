"""The streaming FastConformer: transformers' own streaming, the step graph and the front say the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from gateway.triton.exported.reference import compare, load
from gateway.triton.models.asr import streaming
from gateway.triton.models.exported import Folder
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.exported import Exported
from parley_export.families import fastconformer
from parley_export.greedy_rnnt import default_steps
from parley_export.onnx_graph import ort_run, torch_run
from parley_export.sounds import bursts
from parley_export.write import write
from tests.support.streaming import transcripts

ROWS = 3
CHUNKS = 7


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small() -> Any:
    return fastconformer._model(open_checkpoint("fastconformer", "random:small"), {})[0]


@pytest.fixture(scope="module")
def made() -> Exported:
    return fastconformer.export(open_checkpoint("fastconformer", "random:small"), {})


@pytest.fixture(scope="module")
def repository(made: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("fastconformer")
    write(made, open_checkpoint("fastconformer", "random:small"), repository, say=lambda _: None)
    return repository


def heard(model: Any, count: int, frames: int) -> torch.Tensor:
    """Features of made-up sounds [count, frames, mels]."""
    extractor = fastconformer._extractor(None, model.config)
    audio = [torch.from_numpy(bursts(frames / 100 + 0.1, 40 + row)) for row in range(count)]
    features = extractor([a.numpy() for a in audio], sampling_rate=16_000, return_tensors="pt")[
        "input_features"
    ]
    return features[:, :frames]


def cut(features: torch.Tensor, lookahead: int) -> list[torch.Tensor]:
    """As transformers' streaming wants it: a shorter first chunk."""
    return [features[:, : 1 + 8 * lookahead], *features[:, 1 + 8 * lookahead :].split(8 * (lookahead + 1), 1)]


@torch.no_grad()
def streamed(model: Any, chunks: list[torch.Tensor], lookahead: int, **prompt: Any) -> list[torch.Tensor]:
    """transformers' own projected encoder output of each chunk."""
    caches: dict[str, Any] = {}
    told = []
    for chunk in chunks:
        made = model.get_audio_features(
            chunk,
            num_lookahead_tokens=lookahead,
            use_cache=True,
            output_attention_mask=False,
            **caches,
            **prompt,
        )
        caches = {"past_key_values": made.past_key_values, "padding_cache": made.padding_cache}
        told.append(made.pooler_output)
    return told


def said(model: Any, chunks: list[torch.Tensor], lookahead: int, **prompt: Any) -> list[int]:
    """transformers' own generate over a stream of chunks of one utterance."""
    made = model.generate(
        input_features=(chunk for chunk in chunks), num_lookahead_tokens=lookahead, **prompt
    ).sequences[0]
    return [token for token in made.tolist() if token != model.config.blank_token_id]


def stepped(
    model: Any, features: torch.Tensor, lookahead: int, begins: list[int], prompt: int | None = None
) -> tuple[list[list[torch.Tensor]], list[list[int]], list[list[int]]]:
    """The step module over a batch of which row r starts at step begins[r], garbage in its states until then and in
    the features before a first chunk -> encoder output of each chunk, tokens and their frames, of each row."""
    steps = model.config.max_symbols_per_step * (lookahead + 1)
    graph, module = fastconformer.step_graph(model, lookahead, steps, 8)
    run = torch_run(graph, module)
    rng = np.random.default_rng(0)
    rows, size = len(features), 8 * (lookahead + 1)
    chunks = cut(features, lookahead)
    states = {s.input: 1e4 * rng.standard_normal((rows, *s.dims)).astype(np.float32) for s in graph.states}
    encoded: list[list[torch.Tensor]] = [[] for _ in range(rows)]
    tokens: list[list[int]] = [[] for _ in range(rows)]
    frames: list[list[int]] = [[] for _ in range(rows)]
    for step in range(len(chunks) + max(begins)):
        feeds = {
            "FEATURES": 9.0 * rng.standard_normal((rows, size, features.shape[2])).astype(np.float32),
            "LENGTH": np.full((rows, 1), size),
            "START": np.array([[float(step <= begin)] for begin in begins], np.float32),
        }
        if prompt is not None:
            feeds["PROMPT"] = np.full((rows, 1), prompt)
        running = [row for row in range(rows) if 0 <= step - begins[row] < len(chunks)]
        for row in running:
            chunk = chunks[step - begins[row]][row].numpy()
            feeds["FEATURES"][row, size - len(chunk) :] = chunk
        told = run({**feeds, **states})
        states = {s.input: told[s.output] for s in graph.states}
        for row in running:
            count = int(told["COUNT"][row, 0])
            assert (told["TOKENS"][row, count:] == -1).all()
            encoded[row].append(torch.from_numpy(told["ENCODED"][row]))
            tokens[row] += told["TOKENS"][row, :count].tolist()
            frames[row] += (
                told["TOKEN_FRAMES"][row, :count] + (lookahead + 1) * len(encoded[row][:-1])
            ).tolist()
            assert told["LEFT"][row, 0] == 0
    return encoded, tokens, frames


@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_the_step_says_what_transformers_streaming_says(small: Any, lookahead: int) -> None:
    features = heard(small, ROWS, 1 + 8 * lookahead + CHUNKS * 8 * (lookahead + 1))
    encoded, tokens, frames = stepped(small, features, lookahead, begins=[0, 3, 1])
    wanted = streamed(small, cut(features, lookahead), lookahead)
    for row in range(ROWS):
        assert len(encoded[row]) == CHUNKS + 1
        for mine, theirs in zip(encoded[row], wanted, strict=True):
            torch.testing.assert_close(mine, theirs[row], atol=2e-5, rtol=1e-4)
        assert tokens[row] == said(small, cut(features[row : row + 1], lookahead), lookahead)
        assert frames[row] == sorted(frames[row])
    assert len({token for row in tokens for token in row}) > 3  # neither blanks alone nor one token for ever
    assert any(later - at > 1 for row in frames for at, later in itertools.pairwise(row))


def test_a_language_prompt_conditions_every_frame() -> None:
    checkpoint = open_checkpoint("fastconformer", "random:small")
    model, _ = fastconformer._model(checkpoint, {"multilingual": "true"})
    features = heard(model, 1, 1 + 8 + CHUNKS * 16)
    told = {}
    for prompt in (0, 5):
        encoded, tokens, _ = stepped(model, features, 1, [0], prompt)
        ids = torch.tensor([prompt])
        wanted = streamed(model, cut(features, 1), 1, prompt_ids=ids)
        torch.testing.assert_close(torch.cat(encoded[0]), torch.cat(wanted, 1)[0], atol=2e-5, rtol=1e-4)
        assert tokens[0] == said(model, cut(features, 1), 1, prompt_ids=ids)
        told[prompt] = torch.cat(encoded[0])
    assert (told[0] - told[5]).abs().max() > 0.1


def test_too_few_steps_leave_frames_unread_and_say_so(small: Any) -> None:
    features = heard(small, 1, 1 + 8 * 3)
    graph, module = fastconformer.step_graph(small, 3, 5, 8)
    feeds = {s.input: np.zeros((1, *s.dims), np.float32) for s in graph.states}
    feeds["FEATURES"] = np.zeros((1, 32, 80), np.float32)
    feeds["FEATURES"][0, 7:] = features[0].numpy()
    told = torch_run(graph, module)(
        {**feeds, "LENGTH": np.array([[32]]), "START": np.ones((1, 1), np.float32)}
    )
    assert told["COUNT"][0, 0] + 4 - told["LEFT"][0, 0] >= 5  # every step wrote a symbol or went on
    assert told["LEFT"][0, 0] > 0


def test_steps_are_enough_for_short_chunks_and_bounded_for_long_ones() -> None:
    assert default_steps(1, 10) == 10
    assert default_steps(14, 10) == 38


def test_the_graph_has_no_loop_and_no_branch(repository: Path) -> None:
    model = onnx.load(str(next(repository.glob("graph_*_step/1/model.onnx"))))
    assert not {node.op_type for node in model.graph.node} & {"Loop", "Scan", "If", "LSTM", "NonZero"}
    batch = {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input}
    assert "" not in batch
    for value in model.graph.input:
        assert all(dim.HasField("dim_value") for dim in list(value.type.tensor_type.shape.dim)[1:]), (
            value.name
        )


@pytest.mark.parametrize("chunk", ["whole", "small", "usual", "three times", "random"])
def test_the_front_says_what_transformers_says_to_the_whole_audio(
    repository: Path, made: Exported, chunk: str
) -> None:
    front = streaming.load(Folder(repository / "asr_fastconformer_small" / "1"))
    audios: list[Any] = [made.front_reference[f"audio_{at}"] for at in range(3)]
    wanted = [
        front._pieces.text(made.front_reference[f"tokens_{at}"].tolist()).split() for at in range(len(audios))
    ]
    assert all(wanted)
    sizes = {"whole": 1 << 20, "small": 160, "usual": 2_560, "three times": 7_680, "random": 0}
    assert transcripts(front, audios, sizes[chunk], starts=[0, 2, 1]) == wanted


@pytest.mark.parametrize("what", ["state", "mask"])
def test_a_broken_step_is_caught(repository: Path, made: Exported, what: str) -> None:
    graph = made.graphs[0].graph
    path = next(repository.glob("graph_*_step/1/model.onnx"))
    cases = load(path.parent.parent / "reference.npz")
    run = ort_run(graph, path)
    assert all(row.ok for row in compare(graph, cases, run))

    def broken(feeds: Any) -> Any:
        name = "state_00_keys" if what == "state" else "state_03_heard"
        return run({**feeds, name: np.zeros_like(feeds[name])})

    assert not all(row.ok for row in compare(graph, cases, broken))


@pytest.mark.parametrize(
    "options", [{"lookahead": "x"}, {"lookahead": "40"}, {"steps": "1"}, {"max_batch": "0"}]
)
def test_options_that_cannot_be_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ExportError, match=next(iter(options))):
        fastconformer.export(open_checkpoint("fastconformer", "random:small"), options)
