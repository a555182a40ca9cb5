"""The front of encoders with a decoder, over graphs that are tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gateway.triton.exported.description import Axis, Graph, Tensor
from gateway.triton.models.asr.seq2seq import Decoding, Seq2Seq
from gateway.triton.models.asr.seq2seq_graphs import MergedGraphs, OwnGraphs
from gateway.triton.models.graphs import Array, GraphError
from gateway.triton.models.pieces import Pieces

END, START, ENGLISH, GERMAN = 0, 1, 2, 3
WORDS = ["", "", "", "", "\u2581one", "\u2581two", "\u2581three", "\u2581drei"]
PIECES = Pieces({"kind": "sentencepiece", "pieces": WORDS, "special": [0, 1, 2, 3]})
TOLD: dict[str, Any] = {
    "prompts": {"en": [START, ENGLISH], "de": [START, GERMAN]},
    "detect": {"en": ENGLISH, "de": GERMAN},
    "eos": [END],
    "most_positions": 32,
    "tokens_per_s": 4.0,
    "spare_tokens": 1,
    "max_s": 2.0,
    "least_samples": 320,
    "frame_s": 0.02,
}


class Encoder:
    """A row's audio tells what will be written: its mean is kept in the cross attention's keys."""

    spec = Graph(
        "encoder",
        (Tensor("audio", "FP32", ("length",)), Tensor("samples", "INT64", (1,))),
        (Tensor("frames", "INT64", (1,)), Tensor("cross_00_key", "FP32", (1, "heard", 1))),
        axes=(Axis("length", 1, 9, 99_999),),
        max_batch=3,
    )

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        self.sizes.append(len(feeds["audio"]))
        frames = feeds["samples"] // 320
        kept = np.zeros((len(frames), 1, feeds["audio"].shape[1] // 320, 1), np.float32)
        for row, audio, samples in zip(kept, feeds["audio"], feeds["samples"][:, 0], strict=True):
            assert not audio[samples:].any()
            row[:] = audio[:samples].mean()
        return {"frames": frames, "cross_00_key": kept}


class Decoder:
    """Counts from one to three, or says drei for ever; German where the audio's mean is below 0."""

    spec = Graph(
        "decoder",
        (Tensor("ids", "INT64", ("steps",)), Tensor("past_00_key", "FP32", (1, "past", 1))),
        (
            Tensor("logits", "FP32", (8,)),
            Tensor("attention", "FP32", (1, "steps", "heard")),
            Tensor("present_00_key", "FP32", (1, "more", 1)),
        ),
        axes=(Axis("steps", 1, 1, 8), Axis("past", 0, 8, 32)),
        max_batch=6,
    )

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        ids, past, cross = feeds["ids"], feeds["past_00_key"], feeds["cross_00_key"]
        assert len(ids) == len(past) == len(cross)
        present = np.concatenate([past, ids[:, None, :, None].astype(np.float32)], axis=2)
        logits = np.zeros((len(ids), 8), np.float32)
        for row, history, heard in zip(logits, present[:, 0, :, 0].astype(int), cross, strict=True):
            row[GERMAN if heard.mean() < 0 else ENGLISH] = 1.0  # which the prompt's first token is asked for
            if len(history) == 1:
                continue
            if history[1] == GERMAN:
                row[7] = 9.0
            else:
                row[{6: END}.get(history[-1], max(4, history[-1] + 1))] = 9.0
        seen = np.full((len(ids), 1, ids.shape[1], cross.shape[2]), 0.01, np.float32)
        return {"logits": logits, "attention": seen, "present_00_key": present}


def front(beam: int = 1, **changes: Any) -> Seq2Seq:
    return Seq2Seq(OwnGraphs(Encoder(), Decoder(), None, 0.02), PIECES, Decoding({**TOLD, **changes}), beam)


def tone(seconds: float, mean: float = 0.1) -> Array:
    return np.full(round(seconds * 16_000), mean, np.float32)


def said(ours: Seq2Seq, audios: Sequence[Array], languages: Sequence[str]) -> list[str]:
    return [" ".join(word.text for word in words) for words in ours.transcribe(audios, languages)]


@pytest.mark.parametrize("beam", [1, 2])
def test_each_utterance_has_its_own_language_and_bound(beam: int) -> None:
    ours = front(beam)
    told = said(ours, [tone(1.0), tone(1.0), tone(0.5)], ["en-GB", "DE_at", "de"])
    assert told == ["one two three", "drei drei drei drei drei", "drei drei drei"]


def test_more_than_fit_are_heard_in_turns_and_what_is_too_short_not_at_all() -> None:
    encoder = Encoder()
    ours = Seq2Seq(OwnGraphs(encoder, Decoder(), None, 0.02), PIECES, Decoding(TOLD))
    audios = [tone(1.0), tone(0.01), tone(0.6), tone(0.7), tone(1.9), np.zeros(0, np.float32)]
    assert said(ours, audios, ["en"] * 6) == ["one two three", "", *["one two three"] * 3, ""]
    assert encoder.sizes == [3, 1]


def test_long_audio_is_encoded_row_by_row_and_says_the_same() -> None:
    encoder = Encoder()
    graphs = OwnGraphs(encoder, Decoder(), None, 0.02, scores=2 * 30**2)  # two rows of 0.6 s, one of more
    ours = Seq2Seq(graphs, PIECES, Decoding(TOLD))
    languages = ["de", "en", "de"]
    told = said(ours, [tone(0.6), tone(0.5), tone(0.5)], languages)
    assert encoder.sizes == [2, 1]
    assert told == said(front(), [tone(0.6), tone(0.5), tone(0.5)], languages)
    said(ours, [tone(1.2), tone(0.5)], languages[:2])
    assert encoder.sizes == [2, 1, 1, 1]


def test_a_language_that_is_not_told_is_the_one_that_is_heard() -> None:
    ours = front()
    told = said(ours, [tone(1.0, -0.1), tone(1.0, 0.1), tone(1.0, 0.1)], ["", "fr", "de"])
    assert [one.split()[0] for one in told] == ["drei", "one", "drei"]
    assert said(front(detect={}), [tone(1.0, -0.1)], [""]) == ["one two three"]


def test_audio_beyond_what_the_model_hears_is_cut() -> None:
    assert said(front(), [tone(9.0)], ["de"]) == [" ".join(["drei"] * 9)]


def test_prompts_of_unequal_length_and_beams_beyond_the_batch_are_refused() -> None:
    with pytest.raises(GraphError, match="one length"):
        Decoding({**TOLD, "prompts": {"en": [1, 2], "de": [1]}})
    with pytest.raises(GraphError, match="beam is 7; it may be 1 to 6"):
        front(7)


class MergedDecoder:
    """The first branch gives the encoder's keys; the later one gives nonsense for them, and needs the first's."""

    spec = Graph(
        "decoder",
        (
            Tensor("input_ids", "INT64", (1, "steps")),
            Tensor("encoder_hidden_states", "FP32", (1, "frames", 4)),
            Tensor("encoder_attention_mask", "INT64", (1, "frames")),
            Tensor("past_key_values.0.decoder.key", "FP32", (1, 1, "past", 1)),
            Tensor("past_key_values.0.encoder.key", "FP32", (1, 1, "heard", 1)),
            Tensor("use_cache_branch", "BOOL", (1,)),
        ),
        (Tensor("logits", "FP32", (1, "steps", 8)),),
        axes=(
            Axis("steps", 1, 1, 1),
            Axis("frames", 1, 9, 99),
            Axis("past", 1, 9, 99),
            Axis("heard", 1, 9, 99),
        ),
    )

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        (token,) = feeds["input_ids"][0].tolist()
        later = bool(feeds["use_cache_branch"][0])
        hidden, past = feeds["encoder_hidden_states"], feeds["past_key_values.0.decoder.key"]
        assert feeds["encoder_attention_mask"].shape == hidden.shape[:2]
        if later:
            assert feeds["past_key_values.0.encoder.key"].tolist() == hidden[:, None, :, :1].tolist()
        else:
            assert past.shape[2] == 1
            past = past[:, :, :0]
        logits = np.zeros((1, 1, 8), np.float32)
        logits[0, 0, {1: 4, 6: END}.get(token, token + 1)] = 1.0
        return {
            "logits": logits,
            "present.0.decoder.key": np.concatenate([past, np.full((1, 1, 1, 1), token, np.float32)], axis=2),
            "present.0.encoder.key": np.zeros((0, 1, 1, 1), np.float32) if later else hidden[:, None, :, :1],
        }


class AudioMasked(MergedDecoder):
    """It thins out the audio's mask itself, as Moonshine's published one does."""

    spec = replace(
        MergedDecoder.spec,
        inputs=tuple(
            replace(one, dims=(1, "samples")) if one.name == "encoder_attention_mask" else one
            for one in MergedDecoder.spec.inputs
        ),
        axes=(*MergedDecoder.spec.axes, Axis("samples", 1, 9, 99_999)),
    )

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        assert feeds["encoder_attention_mask"].shape == (1, 9_600)
        frames = feeds["encoder_hidden_states"].shape[:2]
        return super().run({**feeds, "encoder_attention_mask": np.ones(frames, np.int64)}, outputs)


class MergedEncoder:
    spec = Graph(
        "encoder",
        (Tensor("input_values", "FP32", (1, "samples")), Tensor("attention_mask", "INT64", (1, "samples"))),
        (Tensor("last_hidden_state", "FP32", (1, "frames", 4)),),
        axes=(Axis("samples", 1, 9, 99_999),),
    )

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        assert feeds["attention_mask"].shape == feeds["input_values"].shape
        return {"last_hidden_state": np.random.default_rng(0).normal(size=(1, 12, 4)).astype(np.float32)}


def test_merged_graphs_are_given_the_first_steps_keys_again_and_again() -> None:
    told = {**TOLD, "prompts": {"": [START]}, "detect": {}}
    ours = Seq2Seq(MergedGraphs(MergedEncoder(), MergedDecoder()), PIECES, Decoding(told))
    words = ours.transcribe([tone(1.0), tone(0.5)], ["", "en"])
    assert [[word.text for word in one] for one in words] == [["one", "two", "three"]] * 2
    assert words[0][0].start_ms == 0
    assert words[0][-1].end_ms == 1000
    masked = Seq2Seq(MergedGraphs(MergedEncoder(), AudioMasked()), PIECES, Decoding(told))
    assert [word.text for word in masked.transcribe([tone(0.6)], [""])[0]] == ["one", "two", "three"]
    with pytest.raises(GraphError, match="no merged decoder: it has no encoder_hidden"):
        MergedGraphs(MergedEncoder(), MergedEncoder())
