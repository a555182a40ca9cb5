"""What lies between the graphs of a voice: durations, the past of a decoder, frames made faster or slower."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.exported.description import Axis, Graph, Tensor
from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import GraphError
from gateway.triton.models.tts.acoustic import Acoustic, frame_counts
from gateway.triton.models.tts.acoustic import load as load_acoustic
from gateway.triton.models.tts.autoregressive import Autoregressive, Paced
from gateway.triton.models.tts.stepping import Past
from gateway.triton.models.voices import Refused

Arrays = dict[str, NDArray[Any]]
BINS, UNITS, HOP = 3, 4, 5


def test_durations_are_rounded_as_the_reference_rounds_them() -> None:
    durations = np.array([0.4, 1.5, 2.5, 7.2], np.float32)
    assert frame_counts(durations, 1.0).tolist() == [0, 2, 2, 7]
    assert frame_counts(durations, 0.5).tolist() == [0, 1, 1, 4]  # of whole frames: 3.5 becomes 4
    assert frame_counts(np.zeros(3, np.float32), 1.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.0, 1.37, 2.0])
@pytest.mark.parametrize("portion", [1, 2, 7, 100])
def test_pacing_piece_by_piece_is_pacing_the_whole(speed: float, portion: int) -> None:
    frames = np.random.default_rng(1).normal(size=(BINS, 60)).astype(np.float32)
    paced = Paced(speed)
    parts = [paced(frames[:, at : at + portion]) for at in range(0, 60, portion)]
    made = np.concatenate(parts, axis=1)
    places = np.arange(0, 59 + 1e-9, speed)
    expected = np.stack([np.interp(places, np.arange(60), row) for row in frames])
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, atol=1e-5)


class FakeGraph:
    """A described graph whose run is a function."""

    def __init__(self, spec: Graph, run: Any) -> None:
        self.spec, self._run = spec, run
        self.fed: list[Arrays] = []

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] = ()) -> Arrays:
        self.fed.append({name: np.array(value) for name, value in feeds.items()})
        made: Arrays = self._run(self.fed[-1])
        return made


def step_graph(stop_at: int) -> FakeGraph:
    """Its key is its position and its frames count steps: what is in the past tells whether all of it is there."""
    cache = (2, 1, "past", 2)
    spec = Graph(
        "step",
        inputs=(
            Tensor("frame", "FP32", (BINS,)),
            Tensor("noise", "FP32", (2, UNITS)),
            Tensor("position", "INT64", (1,)),
            Tensor("past_keys", "FP32", cache),
            Tensor("past_values", "FP32", cache),
        ),
        outputs=(
            Tensor("frames", "FP32", (2, BINS)),
            Tensor("stop", "FP32", (1,)),
            Tensor("key", "FP32", (2, 1, 2)),
            Tensor("value", "FP32", (2, 1, 2)),
        ),
        axes=(Axis("past", 1, 64, 200),),
        max_batch=4,
    )

    def run(feeds: Arrays) -> Arrays:
        position = int(feeds["position"][0, 0])
        past = feeds["past_keys"][0, 0, 0, :, 0]
        assert past[:position].tolist() == list(range(1, position + 1))
        assert not past[position:].any()
        assert (feeds["frame"] == 2 * position).all()
        return {
            "frames": np.stack([np.full(BINS, 2 * position + 1), np.full(BINS, 2 * position + 2)])[
                None
            ].astype(np.float32),
            "stop": np.array([[float(position + 1 >= stop_at)]], np.float32),
            "key": np.full((1, 2, 1, 2), position + 1, np.float32),
            "value": np.full((1, 2, 1, 2), -position - 1, np.float32),
        }

    return FakeGraph(spec, run)


class FakeFolder(Folder):
    def __init__(self, version: Path, graphs: Mapping[str, FakeGraph], front: dict[str, Any]) -> None:
        symbols = {letter: number for number, letter in enumerate("abcdefgh ")}
        (version / "symbols.json").write_text(json.dumps(symbols))
        np.save(version / "embeddings.npy", np.eye(2, 4, dtype=np.float32))
        text = {"kind": "characters", "symbols": "symbols.json"}
        voices = [
            {"name": f"v{number}", "language": "en-US", "speaker": number, "gain": 1.0} for number in range(2)
        ]
        common = {"rate": 16_000, "text": text, "voices": voices, "most_ids": 40}
        windows = {"hop": HOP, "left": 0, "right": 0, "first": 4, "later": 20}
        (version / "front.json").write_text(json.dumps({**common, "windows": windows, **front}))
        super().__init__(version)
        self._fakes = graphs

    def graph(self, name: str) -> Any:
        return self._fakes[name]


def vocoder() -> FakeGraph:
    spec = Graph(
        "vocoder", (Tensor("mel", "FP32", (BINS, "frames")),), (Tensor("audio", "FP32", ("samples",)),)
    )
    return FakeGraph(spec, lambda feeds: {"audio": np.repeat(feeds["mel"][:, 0], HOP, axis=-1) / 1000})


def autoregressive(folder: Path, stop_at: int, **front: Any) -> tuple[Autoregressive, FakeGraph]:
    step = step_graph(stop_at)
    text = FakeGraph(
        Graph("encoder", (), ()),
        lambda feeds: {
            name: np.zeros((1, 2, 1, feeds["ids"].shape[1], 2), np.float32) for name in ("keys", "values")
        },
    )
    told = {"threshold": 0.5, "shortest": 0, "longest": 20, "most_steps": 200, "seed": None, **front}
    graphs = {"encoder": text, "step": step, "vocoder": vocoder()}
    return Autoregressive(FakeFolder(folder, graphs, told)), step


def test_steps_go_on_until_the_model_ends_them(tmp_path: Path) -> None:
    for stop_at in (1, 63, 64, 65, 130):
        engine, step = autoregressive(tmp_path, stop_at)
        made = engine.audio("abcdefgh abcdefgh abc", seed=3)
        np.testing.assert_allclose(made, np.repeat(np.arange(1, 2 * stop_at + 1), HOP) / 1000, atol=1e-6)
        assert len(step.fed) == stop_at


def test_the_past_has_few_sizes(tmp_path: Path) -> None:
    engine, step = autoregressive(tmp_path, 1000)
    made = engine.audio("abcdefgh abcdefgh abc")
    assert len(made) == 2 * HOP * 200, "the model never ends: it is ended after most_steps"
    assert sorted({feeds["past_keys"].shape[3] for feeds in step.fed}) == [64, 128, 200]


def test_a_sentence_has_its_shortest_and_its_longest(tmp_path: Path) -> None:
    engine, _ = autoregressive(tmp_path, 1, shortest=4)
    assert len(engine.audio("abcdefgh")) == 2 * HOP * 16
    engine, _ = autoregressive(tmp_path, 1000, longest=5)
    assert len(engine.audio("abcdefgh")) == 2 * HOP * 20


def test_noise_comes_from_the_seed(tmp_path: Path) -> None:
    drawn = []
    for seed in (7, 7, 8):
        engine, step = autoregressive(tmp_path, 5)
        engine.audio("abc", seed=seed)
        drawn.append(np.stack([feeds["noise"][0] for feeds in step.fed]))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).mean() > 0.9
    assert 0.3 < drawn[0].mean() < 0.7
    assert (drawn[0][0] != drawn[0][1]).mean() > 0.9


def test_the_first_sound_leaves_before_the_last_step(tmp_path: Path) -> None:
    engine, step = autoregressive(tmp_path, 100)
    heard: list[int] = []
    asked: list[int] = []

    def hear(samples: NDArray[Any]) -> bool:
        assert samples.dtype == np.int16
        asked.append(len(step.fed))
        if len(samples):
            heard.append(len(step.fed))
        return len(heard) < 3

    engine.synthesize("abcdefgh abcdefgh abc", engine.voices[0], 1.0, hear)
    assert heard[0] == 2
    assert len(step.fed) == heard[2], "who does not listen any more is not spoken for any longer"
    assert len(heard) == 3
    assert set(asked) == set(range(1, heard[2] + 1)), "after each step somebody else may go first"


def test_faster_and_slower(tmp_path: Path) -> None:
    lengths = [
        len(autoregressive(tmp_path, 50)[0].audio("abcdefgh", speed=speed)) for speed in (0.5, 1.0, 2.0)
    ]
    assert lengths[0] == pytest.approx(2 * lengths[1], rel=0.03)
    assert lengths[2] == pytest.approx(lengths[1] / 2, rel=0.03)


def test_a_piece_that_is_too_long_is_refused_in_words(tmp_path: Path) -> None:
    engine, _ = autoregressive(tmp_path, 5)
    with pytest.raises(Refused, match="at most 40"):
        engine.audio("abcdefgh " * 10)


def test_what_has_no_room_is_not_kept() -> None:
    past = Past(step_graph(1))
    for position in range(230):
        past.add(np.full((1, 2, 1, 2), position + 1, np.float32), np.zeros((1, 2, 1, 2), np.float32))
    assert past.keys.shape[3] == 200
    assert past.keys[0, 0, 0, :, 0].tolist() == list(range(1, 201))


def acoustic(folder: Path, *conditions: str) -> tuple[Acoustic, FakeGraph, FakeGraph]:
    """Each letter has as many frames as its number, and frames of that number."""
    told = [Tensor(name, "INT64", (1,)) for name in conditions]
    encoder = FakeGraph(
        Graph("encoder", (Tensor("ids", "INT64", ("ids",)), *told), ()),
        lambda feeds: {
            "hidden": np.repeat(feeds["ids"][..., None], 2, axis=2).astype(np.float32),
            "durations": feeds["ids"] + np.float32(0.2),
        },
    )
    decoder = FakeGraph(
        Graph("decoder", (), ()),
        lambda feeds: {"mel": np.repeat(feeds["hidden"][..., :1], BINS, 2).transpose(0, 2, 1)},
    )
    graphs = {"encoder": encoder, "decoder": decoder, "vocoder": vocoder()}
    front = {"slowness": 1.0, "most_frames": 100}
    return Acoustic(FakeFolder(folder, graphs, front)), encoder, decoder


def test_each_sound_has_its_frames(tmp_path: Path) -> None:
    engine, _, decoder = acoustic(tmp_path)
    made = engine.audio("bdh")
    np.testing.assert_allclose(made, np.repeat([1, 3, 7], np.array([1, 3, 7]) * HOP) / 1000, atol=1e-6)
    assert decoder.fed[0]["length"].tolist() == [[11]]
    assert len(engine.audio("bdh", speed=0.5)) == 22 * HOP


def test_a_voice_is_told_to_the_graph_as_it_takes_it(tmp_path: Path) -> None:
    engine, encoder, _ = acoustic(tmp_path, "speaker", "embedding")
    engine.audio("bdh", voice="v1")
    assert encoder.fed[0]["speaker"].tolist() == [[1]]
    assert encoder.fed[0]["embedding"].tolist() == [[0, 1, 0, 0]]
    assert "language" not in encoder.fed[0]


def test_too_many_frames_are_refused_in_words(tmp_path: Path) -> None:
    engine, _, _ = acoustic(tmp_path)
    with pytest.raises(Refused, match="105 frames; at most 100"):
        engine.audio("h" * 15)


def test_signs_alone_are_no_error_and_no_sound(tmp_path: Path) -> None:
    engine, _, _ = acoustic(tmp_path)
    engine.synthesize(" ?! ", engine.voices[0], 1.0, lambda samples: pytest.fail("something was said"))


def test_a_front_that_lacks_something_does_not_load(tmp_path: Path) -> None:
    folder = FakeFolder(tmp_path, {}, {})
    del folder.front["windows"]
    folder._fakes = {name: vocoder() for name in ("encoder", "decoder", "vocoder")}
    with pytest.raises(GraphError, match="windows"):
        load_acoustic(folder)
