"""Between the graphs of VITS and of Piper voices: durations, speakers, windows, noise and its lack."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.exported.description import Axis, Graph, Tensor
from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import GraphError
from gateway.triton.models.tts.common import to_int16
from gateway.triton.models.tts.piper import NoiseInput, Piper, enough
from gateway.triton.models.tts.vits import MOST_FRAMES, Vits, frame_counts, stretched
from gateway.triton.models.voices import Refused

Arrays = dict[str, NDArray[Any]]
CHANNELS, HOP, MOST_TOKENS = 2, 8, 50
SYMBOLS = {letter: number for number, letter in enumerate("_abcdefghijklmnopqrstuvwxyz ")}
WINDOWS = {"left": 1, "right": 1, "first": 3, "later": 12, "grain": 1}
VOICES = [
    {"name": "ada", "language": "en-US", "speaker": 0, "gain": 0.5},
    {"name": "bob", "language": "en-GB", "speaker": 1, "gain": 2.0},
]


class FakeGraph:
    def __init__(self, inputs: Sequence[str], run: Callable[[Arrays], Arrays]) -> None:
        tensors = tuple(Tensor(name, "FP32", ()) for name in inputs)
        self.spec = Graph("fake", tensors, (), axes=(Axis("tokens", 1, 10, MOST_TOKENS),))
        self._run = run
        self.fed: list[Arrays] = []

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] = ()) -> Arrays:
        self.fed.append(dict(feeds))
        return self._run(dict(feeds))


class FakeFolder(Folder):
    def __init__(self, version: Path, front: Mapping[str, Any], graphs: Mapping[str, FakeGraph]) -> None:
        (version / "front.json").write_text(json.dumps(front))
        (version / "symbols.json").write_text(json.dumps(SYMBOLS))
        np.save(version / "speakers.npy", np.array([[1.0], [3.0]], np.float32))
        super().__init__(version)
        self._graphs = graphs

    def graph(self, name: str) -> FakeGraph:
        return self._graphs[name]


def text_graph(feeds: Arrays) -> Arrays:
    """Three frames a token, and the token's own number as its mean."""
    ids = feeds["ids"][0]
    return {
        "log_durations": np.full((1, len(ids)), np.log(2.5), np.float32),
        "mean": np.stack([ids, -ids]).astype(np.float32)[None],
        "log_deviation": np.zeros((1, CHANNELS, len(ids)), np.float32),
    }


def decoder_graph(feeds: Arrays) -> Arrays:
    """Each frame's first channel, `speaker` times, said HOP times."""
    speaker = float(feeds["speaker"][0, 0]) if "speaker" in feeds else 1.0
    return {"audio": (speaker * feeds["latents"][:, 0]).repeat(HOP, axis=1) / 1000}


def vits(tmp_path: Path, *, speakers: bool = True, **changed: Any) -> tuple[Vits, dict[str, FakeGraph]]:
    condition = ["speaker"] if speakers else []
    graphs = {
        "text": FakeGraph(["ids", "length", "noise", *condition], text_graph),
        "flow": FakeGraph(["prior", "length", *condition], lambda feeds: {"latents": feeds["prior"]}),
        "decoder": FakeGraph(["latents", *condition], decoder_graph),
    }
    front = {
        "kind": "vits", "graphs": {}, "text": {"kind": "characters", "symbols": "symbols.json"}, "sample_rate": 16_000,
        "speaking_rate": 1.0, "noise_scale": 0.0, "noise_scale_duration": 1.0,
        "flow_windows": {"hop": 1, **WINDOWS}, "decoder_windows": {"hop": HOP, **WINDOWS}, "voices": VOICES, **changed,
    }  # fmt: skip
    return Vits(FakeFolder(tmp_path, front, graphs)), graphs


def test_durations_are_rounded_up_at_any_speed() -> None:
    logs = np.log(np.array([0.2, 1.0, 1.5, 4.0], np.float32))
    assert frame_counts(logs, 1.0).tolist() == [1, 1, 2, 4]
    assert frame_counts(logs, 2.0).tolist() == [1, 1, 1, 2]
    assert frame_counts(logs, 0.5).tolist() == [1, 2, 3, 8]


def test_a_token_is_neither_lost_nor_endless() -> None:
    assert frame_counts(np.array([-np.inf, -40, 40, 4_000], np.float32), 1.0).tolist() == [
        1,
        1,
        MOST_FRAMES,
        MOST_FRAMES,
    ]


def test_tokens_are_stretched_to_their_frames() -> None:
    values = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert stretched(values, np.array([2, 1, 3])).tolist() == [[1, 1, 2, 3, 3, 3], [4, 4, 5, 6, 6, 6]]


def test_samples_become_whole_numbers_without_turning_over() -> None:
    assert to_int16(np.array([0, 0.5, 1.0, 1.5, -1.5], np.float32)).tolist() == [
        0,
        16384,
        32767,
        32767,
        -32768,
    ]


def test_a_voice_is_its_speaker(tmp_path: Path) -> None:
    engine, graphs = vits(tmp_path)
    assert [(v.name, v.language, v.gain) for v in engine.voices] == [
        ("ada", "en-US", 0.5),
        ("bob", "en-GB", 2.0),
    ]
    ids = np.array([3, 5], np.int64)
    assert engine.audio(ids, 0).tolist() == pytest.approx([0.003] * 3 * HOP + [0.005] * 3 * HOP)
    assert engine.audio(ids, 0, "bob").tolist() == pytest.approx([0.009] * 3 * HOP + [0.015] * 3 * HOP)
    assert {float(fed["speaker"][0, 0]) for graph in graphs.values() for fed in graph.fed} == {1.0, 3.0}


def test_one_speaker_needs_no_embedding(tmp_path: Path) -> None:
    engine, graphs = vits(tmp_path, speakers=False, voices=VOICES[:1])
    assert len(engine.audio("ab", 0)) == 2 * 3 * HOP
    assert not any("speaker" in fed for graph in graphs.values() for fed in graph.fed)


def test_audio_is_the_same_in_any_windows(tmp_path: Path) -> None:
    ids = np.arange(1, 20, dtype=np.int64)
    whole = np.repeat(ids, 3 * HOP) / 1000
    for first, later in ((1, 1), (2, 7), (100, 100)):
        windows = {**WINDOWS, "first": first, "later": later}
        engine, _ = vits(
            tmp_path, flow_windows={"hop": 1, **windows}, decoder_windows={"hop": HOP, **windows}
        )
        np.testing.assert_allclose(engine.audio(ids, 0), whole, rtol=1e-5)


def test_the_first_sound_needs_little_of_a_long_text(tmp_path: Path) -> None:
    engine, graphs = vits(tmp_path)
    heard: list[int] = []

    def first_only(samples: NDArray[Any]) -> bool:
        heard.append(len(samples))
        return False

    engine.synthesize("abcdefghij klmnop", engine.voices[0], 1.0, first_only)
    assert heard == [3 * HOP]
    assert [
        graph.fed[0][name].shape[2]
        for graph, name in ((graphs["flow"], "prior"), (graphs["decoder"], "latents"))
    ] == [4, 4]
    assert len(graphs["decoder"].fed) == 1, "stopped where nobody wants more"
    assert len(graphs["flow"].fed) <= 2


def test_faster_speech_is_shorter(tmp_path: Path) -> None:
    engine, _ = vits(tmp_path)
    ids = np.arange(1, 11, dtype=np.int64)
    assert [len(engine.audio(ids, 0, speed=speed)) // HOP for speed in (0.55, 1.0, 1.3, 2.6)] == [
        50,
        30,
        20,
        10,
    ]


def test_noise_is_the_seeds(tmp_path: Path) -> None:
    engine, graphs = vits(tmp_path, noise_scale=0.7)
    ids = np.array([3, 5, 8], np.int64)
    one, same, other = engine.audio(ids, 1), engine.audio(ids, 1), engine.audio(ids, 2)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(graphs["text"].fed[0]["noise"], rng.standard_normal((1, 2, 3), np.float32))
    prior = np.stack([[3, 3, 3, 5, 5, 5, 8, 8, 8]]) + 0.7 * rng.standard_normal((2, 9), np.float32)[:1]
    np.testing.assert_allclose(one[::HOP], prior[0] / 1000, rtol=1e-5)


def test_requests_differ_unless_the_model_says_otherwise(tmp_path: Path) -> None:
    def said(engine: Vits) -> NDArray[Any]:
        parts: list[NDArray[Any]] = []

        def heard(part: NDArray[Any]) -> bool:
            parts.append(part)
            return True

        engine.synthesize("abcdef", engine.voices[0], 1.0, heard)
        return np.concatenate(parts)

    engine, _ = vits(tmp_path, noise_scale=40.0)
    assert not np.array_equal(said(engine), said(engine))
    engine, _ = vits(tmp_path, noise_scale=40.0, seed=7)
    assert np.array_equal(said(engine), said(engine))


def test_more_tokens_than_the_graph_takes_are_said_in_parts(tmp_path: Path) -> None:
    engine, graphs = vits(tmp_path)
    ids = np.tile(np.arange(1, 11, dtype=np.int64), 12)
    np.testing.assert_allclose(engine.audio(ids, 0), np.repeat(ids, 3 * HOP) / 1000, rtol=1e-5)
    assert [len(fed["ids"][0]) for fed in graphs["text"].fed] == [50, 50, 20]


def test_signs_alone_are_silence_and_foreign_words_are_refused(tmp_path: Path) -> None:
    engine, _ = vits(tmp_path)

    def heard(_: NDArray[Any]) -> bool:
        pytest.fail("nothing was to be heard")

    engine.synthesize("?! …", engine.voices[0], 1.0, heard)
    with pytest.raises(Refused, match="nothing of the text"):
        engine.synthesize("日本語", engine.voices[0], 1.0, heard)


def piper(tmp_path: Path, needs: Callable[[int], int], *, cut: bool = False) -> tuple[Piper, FakeGraph]:
    """A voice that takes `needs(tokens)` values of noise and says them; so many samples a frame."""

    def run(feeds: Arrays) -> Arrays:
        count = needs(feeds["input"].shape[1])
        taken = np.zeros(count, np.float32)
        given = feeds["noise_0"][:count]
        taken[: len(given)] = given
        size = {"noise_0_size": np.array([count], np.int64)}
        return size | ({"latents": taken[None, None]} if cut else {"output": taken[None, None, None]})

    inputs = ["input", "input_lengths", "scales", "sid", "noise_0"]
    graphs = {"voice": FakeGraph(inputs, run)}
    graphs["generator"] = FakeGraph(["latents"], lambda feeds: {"audio": feeds["latents"].repeat(HOP, 2)})
    front: dict[str, Any] = {
        "kind": "piper", "text": {"kind": "characters", "symbols": "symbols.json"}, "sample_rate": 22_050,
        "noise_scale": 0.6, "length_scale": 1.1, "noise_w": 0.8, "voices": VOICES,
        "noise": [{"name": "noise_0", "size": "noise_0_size", "uniform": False, "a_token": 10.0}],
        "graphs": {"voice": "v"} | ({"generator": "g"} if cut else {}),
    }  # fmt: skip
    if cut:
        front["windows"] = {"hop": HOP, **WINDOWS}
    return Piper(FakeFolder(tmp_path, front, graphs)), graphs["voice"]


def noise(count: int, seed: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng([seed, 0]).standard_normal(count, np.float32)


def test_a_piper_voice_is_given_more_noise_than_it_takes(tmp_path: Path) -> None:
    engine, graph = piper(tmp_path, lambda tokens: 10 * tokens)
    assert np.array_equal(engine.audio(np.array([1, 2, 3], np.int64), 5, "bob"), noise(30))
    assert len(graph.fed) == 1
    assert len(graph.fed[0]["noise_0"]) > 30
    assert graph.fed[0]["sid"].tolist() == [1]
    assert graph.fed[0]["scales"].tolist() == pytest.approx([0.6, 1.1, 0.8])


def test_a_piper_voice_that_lacked_noise_is_asked_again_and_begins_the_same(tmp_path: Path) -> None:
    engine, graph = piper(tmp_path, lambda tokens: 1000 * tokens)
    assert np.array_equal(engine.audio(np.array([1, 2], np.int64), 5), noise(2000))
    assert [len(fed["noise_0"]) for fed in graph.fed] == [31, 2000]


def test_a_piper_voice_that_is_never_content_is_an_error() -> None:
    with pytest.raises(GraphError, match="asks for 33554433 values of noise"):
        enough([10, 10], [4, (1 << 25) + 1], [NoiseInput("a", "b", False, 1.0)] * 2)


def test_a_piper_voice_says_in_halves_what_is_more_than_its_graph_takes(tmp_path: Path) -> None:
    engine, graph = piper(tmp_path, lambda tokens: 10 * tokens)
    engine._noise = [engine._noise[0]._replace(most=120, a_token=2.0)]
    engine.synthesize("abc def, ghij klm", engine.voices[0], 1.0, lambda _: True)
    assert max(len(fed["noise_0"]) for fed in graph.fed) <= 120
    said = [fed["input"].shape[1] for fed in graph.fed if len(fed["noise_0"]) >= 10 * fed["input"].shape[1]]
    assert len(said) > 1
    assert sum(said) >= len("abcdefghijklm")
    engine._noise = [engine._noise[0]._replace(most=9)]
    with pytest.raises(GraphError, match="at most 9 are given: send less text"):
        engine.synthesize("abcdef", engine.voices[0], 1.0, lambda _: True)


def test_a_piper_voice_never_gives_its_graph_more_tokens_than_it_takes(tmp_path: Path) -> None:
    engine, graph = piper(tmp_path, lambda tokens: 10 * tokens)
    engine._most = 8
    engine.synthesize("abc def ghi jkl abc def", engine.voices[0], 1.0, lambda _: True)
    assert len(graph.fed) > 1
    assert max(fed["input"].shape[1] for fed in graph.fed) <= 8


def test_a_piper_voice_that_always_wants_more_is_an_error(tmp_path: Path) -> None:
    wishes = iter(range(1000, 10_000, 1000))
    engine, _ = piper(tmp_path, lambda _: next(wishes))
    with pytest.raises(GraphError, match="asked for more noise 3 times"):
        engine.audio(np.array([1, 2], np.int64), 5)


def test_a_cut_piper_voice_streams_in_windows(tmp_path: Path) -> None:
    engine, _ = piper(tmp_path, lambda tokens: 10 * tokens, cut=True)
    parts: list[NDArray[Any]] = []

    def heard(part: NDArray[Any]) -> bool:
        parts.append(part)
        return True

    engine.synthesize("abcdefgh", engine.voices[0], 1.0, heard)
    assert len(parts) > 3
    assert len(parts[0]) == 3 * HOP
    assert np.array_equal(engine.audio("abcdefgh", 5), noise(80).repeat(HOP))


def test_speed_of_a_piper_voice_is_its_length_scale(tmp_path: Path) -> None:
    engine, graph = piper(tmp_path, lambda tokens: 10 * tokens)
    engine.audio(np.array([1, 2, 3], np.int64), 5, speed=0.5)
    assert graph.fed[0]["scales"][1] == pytest.approx(2.2)
    assert len(graph.fed[0]["noise_0"]) >= 2 * 30, "slower speech takes more of it"
