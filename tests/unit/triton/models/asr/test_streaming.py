"""Streaming recognisers around small made-up graphs: what is batched, carried, said and settled."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.exported.description import Graph, State, Tensor
from gateway.triton.models.asr import streaming
from gateway.triton.models.asr.engine import Heard, Job
from gateway.triton.models.asr.rows import Carried, Row
from gateway.triton.models.asr.step_graph import StepGraph
from gateway.triton.models.asr.streaming import StreamingRecogniser
from gateway.triton.models.asr.streaming_transducer import StreamingTransducer
from gateway.triton.models.exported import Folder
from gateway.triton.models.features import LogMel
from gateway.triton.models.features_fbank import Fbank
from gateway.triton.models.graphs import GraphError
from gateway.triton.models.pieces import Pieces
from tests.support.streaming import transcripts

Array = NDArray[Any]
PIECES = ["▁a", "b", "▁c", "d", "▁e", "f"]
FRAMES, LEAD = 4, 1
"""Mel frames of a chunk of the step graph, and the lead of a first one: two encoder frames a chunk."""
STEP = Graph(
    "step",
    inputs=(Tensor("FEATURES", "FP32", (FRAMES, 8)), Tensor("LENGTH", "INT64", (1,))),
    outputs=(
        Tensor("TOKENS", "INT64", (3,)),
        Tensor("TOKEN_FRAMES", "INT64", (3,)),
        Tensor("COUNT", "INT64", (1,)),
        Tensor("LEFT", "INT64", (1,)),
    ),
    states=(State("state_00_chunks", "new_00_chunks", (1,)), State("state_01_wide", "new_01_wide", (2, 3))),
    start="START",
    max_batch=3,
)


class StepRun:
    """Says token n % 6 in chunk n of a sequence, and in every third chunk two tokens; notes what it was given."""

    spec = STEP

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.starts: list[list[float]] = []
        self.lengths: list[list[int]] = []
        self.prompts: list[list[int]] = []
        self.given: list[Mapping[str, Array]] = []
        self.left = 0

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        fresh = feeds["START"] > 0.5
        count = len(fresh)
        self.batches.append(count)
        self.starts.append(feeds["START"][:, 0].tolist())
        self.lengths.append(feeds["LENGTH"][:, 0].tolist())
        if "PROMPT" in feeds:
            self.prompts.append(feeds["PROMPT"][:, 0].tolist())
        self.given.append(feeds)
        chunks = np.where(fresh, 0.0, feeds["state_00_chunks"])
        first = chunks.astype(np.int64) % len(PIECES)
        double = (chunks.astype(np.int64) % 3) == 2
        tokens = np.concatenate([first, np.where(double, 1, -1), -np.ones_like(first)], 1)
        return {
            "TOKENS": tokens,
            "TOKEN_FRAMES": np.where(tokens >= 0, [[0, 1, 0]], -1),
            "COUNT": 1 + double.astype(np.int64),
            "LEFT": np.full((count, 1), self.left),
            "new_00_chunks": (chunks + 1).astype(np.float32),
            "new_01_wide": np.broadcast_to(chunks[:, :, None], (count, 2, 3)).astype(np.float32),
        }


def folder(to: Path, front: dict[str, Any], graphs: Mapping[str, Any]) -> Folder:
    (to / "front.json").write_text(json.dumps({"graphs": {}, **front}))
    (to / "tokens.json").write_text(json.dumps({"kind": "sentencepiece", "pieces": PIECES}))
    made = Folder(to)
    made.graph = lambda name: graphs[name]  # type: ignore[method-assign]
    return made


def recogniser(to: Path, graph: StepRun, **front: Any) -> StreamingRecogniser:
    told = {
        "kind": "streaming", "decoder": "rnnt_step", "features": {"kind": "nemo", "mels": 8}, "chunk_frames": FRAMES,
        "first_lead": LEAD, "encoder_frame_ms": 20.0,
    }  # fmt: skip
    return streaming.load(folder(to, told | front, {"step": graph}))


def sound(frames: float, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(frames * 160))).astype(np.float32)


def said(result: Heard | Exception) -> str:
    assert isinstance(result, Heard), result
    return " ".join(word.text for word in result.words)


def test_chunks_are_cut_and_their_valid_frames_told(tmp_path: Path) -> None:
    graph = StepRun()
    made = recogniser(tmp_path, graph)
    (heard,) = made.step([Job(made.begin(), sound(3 + 4 + 2), True)])
    assert graph.lengths == [[4], [4], [2]]  # the lead counts in the first one, the last one is cut short
    assert graph.starts == [[1.0], [0.0], [0.0]]
    assert [len(one["FEATURES"]) for one in graph.given] == [1, 1, 1]
    assert not graph.given[2]["FEATURES"][0, 2:].any()
    assert said(heard) == "ab cb"


def test_features_are_those_of_the_whole_utterance(tmp_path: Path) -> None:
    graph = StepRun()
    made = recogniser(tmp_path, graph)
    audio, one = sound(19), made.begin()
    for at in range(0, len(audio), 333):
        made.step([Job(one, audio[at : at + 333], at + 333 >= len(audio))])
    given = np.concatenate([feeds["FEATURES"][0] for feeds in graph.given])[LEAD:]
    np.testing.assert_allclose(given[:19], LogMel({"kind": "nemo", "mels": 8}).whole(audio), atol=1e-6)
    assert not given[19:].any()


def test_new_and_running_utterances_share_a_batch(tmp_path: Path) -> None:
    graph = StepRun()
    made = recogniser(tmp_path, graph)
    one, other, late = made.begin(), made.begin(), made.begin()
    made.step([Job(one, sound(6), False), Job(other, sound(6), False)])
    made.step([Job(one, sound(4), False), Job(late, sound(6), False)])
    heard = made.step([Job(other, sound(4), True), Job(one, sound(4), True), Job(late, sound(1), True)])
    assert graph.batches[:2] == [2, 2]
    assert graph.starts[:2] == [[1.0, 1.0], [0.0, 1.0]]
    assert [said(result) for result in heard] == ["ab cb", "ab cbd", "ab"]
    assert made.step([]) == []


def test_more_utterances_than_a_batch_holds_are_split(tmp_path: Path) -> None:
    graph = StepRun()
    made = recogniser(tmp_path, graph)
    heard = made.step([Job(made.begin(), sound(3 + 4), True) for _ in range(7)])
    assert graph.batches == [3, 3, 1, 3, 3, 1]
    assert {said(result) for result in heard} == {"ab"}


def test_the_last_word_is_not_stable_until_the_end(tmp_path: Path) -> None:
    made = recogniser(tmp_path, StepRun())
    one = made.begin()
    told = []
    for at in range(9):
        (heard,) = made.step([Job(one, sound(4), at == 8)])
        assert isinstance(heard, Heard)
        told.append((said(heard), heard.stable))
    assert told[:3] == [("a", 0), ("ab", 0), ("ab cb", 1)]
    assert told[-1][1] == len(told[-1][0].split())


def test_words_say_when_they_were_spoken(tmp_path: Path) -> None:
    made = recogniser(tmp_path, StepRun())
    (heard,) = made.step([Job(made.begin(), sound(3 + 4 + 4), True)])
    assert isinstance(heard, Heard)
    # Two encoder frames of 20 ms a chunk; c and its b are frames 0 and 1 of the third, in the midst of which it ends.
    assert heard.words == [("ab", 0, 60), ("cb", 80, 110)]


@pytest.mark.parametrize("chunk", [1 << 20, 100, 640, 0])
def test_however_the_audio_comes_the_words_are_the_same(tmp_path: Path, chunk: int) -> None:
    audios = [sound(61, 1), sound(33, 2), sound(5, 3), sound(0)]
    alone = []
    for audio in audios:
        made = recogniser(tmp_path, StepRun())
        alone.append(said(made.step([Job(made.begin(), audio, True)])[0]).split())
    assert transcripts(recogniser(tmp_path, StepRun()), audios, chunk, [0, 2, 1, 3]) == alone


def test_an_utterance_without_audio_has_no_words(tmp_path: Path) -> None:
    graph = StepRun()
    made = recogniser(tmp_path, graph)
    (heard,) = made.step([Job(made.begin(), sound(0), True)])
    assert heard == Heard([], 0)
    assert not graph.batches


def test_what_is_wrong_with_one_does_not_end_the_others(tmp_path: Path) -> None:
    made = recogniser(tmp_path, StepRun())
    over = made.begin()
    made.step([Job(over, sound(9), True)])
    results = made.step([Job(over, sound(1), False), Job(made.begin(), sound(3), True)])
    assert isinstance(results[0], ValueError)
    assert "ended" in str(results[0])
    assert said(results[1]) == "a"


def test_a_language_has_its_prompt(tmp_path: Path) -> None:
    graph = StepRun()
    made = recogniser(tmp_path, graph, prompts={"de-DE": 5, "de": 4, "en": 1, "auto": 7}, default_prompt=7)
    spoken = ["de-DE", "de_AT", "en", "fr-FR", ""]
    for language in spoken:
        made.step([Job(made.begin(language), sound(3), True)])
    assert graph.prompts == [[5], [4], [1], [7], [7]]


def test_frames_that_were_left_unread_are_counted_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = StepRun()
    graph.left = 2
    made = recogniser(tmp_path, graph)
    made.step([Job(made.begin(), sound(3 + 4), True)])
    assert isinstance(made._stepper, StepGraph)
    assert made._stepper.unread == 4
    assert len([one for one in caplog.records if "steps=" in one.message]) == 1


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ({"decoder": "beam"}, "beam"),
        ({"features": {"kind": "mfcc"}}, "mfcc"),
        ({"chunk_frames": None}, "front.json"),
    ],
)
def test_a_front_that_cannot_be_is_refused(tmp_path: Path, front: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        recogniser(tmp_path, StepRun(), **front)


class TestRows:
    def made(self, feeds: Mapping[str, Array], add: float) -> dict[str, Array]:
        return {"new_00_chunks": feeds["state_00_chunks"] + add, "new_01_wide": feeds["state_01_wide"] + add}

    def test_the_same_sequences_again_are_not_copied(self) -> None:
        carried, rows = Carried(STEP), [Row(), Row()]
        made = self.made(carried.feeds(rows), 1.0)
        carried.keep(rows, made)
        feeds = carried.feeds(rows)
        assert feeds["state_01_wide"] is made["new_01_wide"]
        assert feeds["START"].tolist() == [[0.0], [0.0]]

    def test_each_sequence_keeps_its_own_state_however_batches_mix(self) -> None:
        carried, rng = Carried(STEP), np.random.default_rng(0)
        rows = [Row() for _ in range(6)]
        wanted = [0.0] * 6
        for step in range(1, 60):
            some = rng.permutation(6)[: rng.integers(1, 7)].tolist()
            chosen = [rows[at] for at in some]
            feeds = carried.feeds(chosen)
            assert feeds["state_01_wide"][:, 1, 2].tolist() == [wanted[at] for at in some]
            carried.keep(chosen, self.made(feeds, float(step)))
            for at in some:
                wanted[at] += step

    def test_a_quiet_sequence_does_not_hold_the_batch_it_was_in(self) -> None:
        carried, rows = Carried(STEP), [Row() for _ in range(3)]
        carried.keep(rows, self.made(carried.feeds(rows), 1.0))
        carried.keep(rows[:1], self.made(carried.feeds(rows[:1]), 1.0))
        for row in rows[1:]:
            assert row.block is not None
            assert row.block.arrays["state_01_wide"].base is None
            assert len(row.block.arrays["state_01_wide"]) == 1

    def test_a_sequence_that_is_gone_is_not_copied(self) -> None:
        carried, rows = Carried(STEP), [Row() for _ in range(3)]
        carried.keep(rows, self.made(carried.feeds(rows), 1.0))
        block = rows[0].block
        del rows[2]
        gc.collect()
        carried.keep(rows[:1], self.made(carried.feeds(rows[:1]), 1.0))
        assert block is not None
        assert [ref() is None for ref in block.rows] == [False, False, True]


class Spoken:
    """Encoder, decoder and joiner of a transducer over 5 tokens (0 blank): the encoder's frames say which token
    wins, unless it is the last one that was said."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.calls: list[int] = []
        tensors = {
            "encoder": ((Tensor("FEATURES", "FP32", (6, 8)),), (Tensor("ENCODED", "FP32", (3, 5)),), 4),
            "decoder": ((Tensor("CONTEXT", "INT64", (2,)),), (Tensor("PREDICTED", "FP32", (5,)),), 2),
            "joiner": (
                (Tensor("ENCODED", "FP32", (5,)), Tensor("PREDICTED", "FP32", (5,))),
                (Tensor("LOGITS", "FP32", (5,)),),
                4,
            ),
        }[kind]
        states = (State("state_000_count", "new_000_count", (1,)),) if kind == "encoder" else ()
        start = "START" if states else ""
        self.spec = Graph(kind, *tensors[:2], states=states, start=start, max_batch=tensors[2])

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        count = len(next(iter(feeds.values())))
        assert count <= self.spec.max_batch
        self.calls.append(count)
        if self.kind == "encoder":
            before = np.where(feeds["START"] > 0.5, 0.0, feeds["state_000_count"])
            frames = (before.astype(np.int64) + np.arange(3)[None]) // 2 % 5  # 0 0 1 | 1 2 2 | 3 3 4 | …
            return {
                "ENCODED": np.eye(5, dtype=np.float32)[frames],
                "new_000_count": (before + 3).astype(np.float32),
            }
        if self.kind == "decoder":
            return {"PREDICTED": -9.0 * np.eye(5, dtype=np.float32)[feeds["CONTEXT"][:, -1]]}
        return {"LOGITS": feeds["ENCODED"] + feeds["PREDICTED"] * np.array([0, 1, 1, 1, 1], np.float32)}


def transducer(to: Path, **front: Any) -> tuple[StreamingRecogniser, dict[str, Spoken]]:
    graphs = {kind: Spoken(kind) for kind in ("encoder", "decoder", "joiner")}
    told = {"window": 6, "shift": 4, "context_size": 2, "blank": 0, "silent": [0]} | front
    stepper = StreamingTransducer(folder(to, told, graphs))
    pieces = Pieces(
        {"kind": "sentencepiece", "pieces": ["", "▁one", "▁two", "▁three", "▁four"], "special": [0]}
    )
    return StreamingRecogniser(stepper, Fbank({"mels": 8}), pieces, frame_ms=20.0, tail_s=0.02), graphs


def test_a_transducer_says_each_token_once(tmp_path: Path) -> None:
    made, _ = transducer(tmp_path)
    (heard,) = made.step([Job(made.begin(), sound(6 + 2 * 4), True)])
    assert said(heard) == "one two three four"
    assert isinstance(heard, Heard)
    # Frames 2, 4, 6 and 8, which lies in the silence behind the 140 ms that were sent; the second "one" of frame 3 was
    # the same token with the same decoder: blank.
    assert [word.start_ms for word in heard.words] == [40, 80, 120, 140]


def test_silent_tokens_are_not_said_and_do_not_move_the_decoder(tmp_path: Path) -> None:
    made, graphs = transducer(tmp_path, silent=[0, 2])
    (heard,) = made.step([Job(made.begin(), sound(6 + 2 * 4), True)])
    assert said(heard) == "one three four"
    assert sum(graphs["decoder"].calls) == 4  # before the first token, and after each


def test_a_transducers_batches_keep_to_each_graphs_size(tmp_path: Path) -> None:
    made, graphs = transducer(tmp_path)
    heard = made.step([Job(made.begin(), sound(6), True) for _ in range(6)])
    assert {said(result) for result in heard} == {"one"}
    assert max(graphs["encoder"].calls) == 4
    assert max(graphs["decoder"].calls) == 2


def test_what_is_less_than_a_chunk_at_the_end_is_not_heard_by_a_transducer(tmp_path: Path) -> None:
    made, graphs = transducer(tmp_path)
    made.step([Job(made.begin(), sound(3), True)])
    assert graphs["encoder"].calls == []
