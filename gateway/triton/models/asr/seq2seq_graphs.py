"""The graphs of an encoder with an autoregressive decoder: Parley's own, and the merged ones that others export.

Parley's: the encoder puts out the cross attention's keys and values (cross_NN_key, …); the decoder takes them and
what was written so far (past_NN_key, …: empty at first) and puts that out one longer (present_NN_key, …).
Merged: one decoder with two branches, chosen by use_cache_branch; past_key_values.N.{decoder,encoder}.{key,value} go
in, present.N.… come out, the encoder's on the first step only. They take one utterance at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.asr.engine import Samples
from gateway.triton.models.asr.search import Floats, Ints, Steps
from gateway.triton.models.features import LogMel
from gateway.triton.models.graphs import Array, GraphError, LoadedGraph

PAST, PRESENT, CROSS = "past_", "present_", "cross_"
MERGED_PAST, MERGED_PRESENT = "past_key_values.", "present."
BRANCH, MASK = "use_cache_branch", "encoder_attention_mask"
SAMPLES = "samples"
"""The mask's axis where it is that of the audio."""
SCORES = 3_000_000
"""Of attention, each head's in one run of the encoder: 1 row of 30 s, 40 of 5 s. On a CPU more rows of long audio take
gigabytes and save nothing."""


class Listener(Protocol):
    """Encoder and decoder."""

    rows: int
    """Rows that the decoder takes at once."""
    utterances: int
    """That the encoder takes at once."""

    def listen(self, audios: Sequence[Samples]) -> Heard:
        """What the decoder needs of each; at most `utterances`."""
        ...


class Heard(Protocol):
    frames: Sequence[int]
    """Of the encoder, in each utterance."""

    def steps(self) -> Steps:
        """A decoder that has written nothing yet, a row an utterance."""
        ...


class OwnGraphs:
    """Parley's. mel: of models that hear features; None: raw audio."""

    def __init__(
        self,
        encoder: LoadedGraph,
        decoder: LoadedGraph,
        mel: LogMel | None,
        frame_s: float,
        *,
        attention: bool = True,
        scores: int = SCORES,
    ) -> None:
        """frame_s: of the encoder. attention: whether it is asked for, which word times need. scores: most of one run
        of the encoder, squares of its rows' frames."""
        self._encoder, self._decoder, self._mel = encoder, decoder, mel
        self._frame_s, self._scores = frame_s, scores
        self._attention = attention
        self.utterances, self.rows = encoder.spec.max_batch, decoder.spec.max_batch

    def listen(self, audios: Sequence[Samples]) -> OwnHeard:
        if self._mel is None:
            samples = np.array([[len(audio)] for audio in audios], np.int64)
            padded = np.zeros((len(audios), int(samples.max())), np.float32)
            for row, audio in zip(padded, audios, strict=True):
                row[: len(audio)] = audio
            feeds: dict[str, Array] = {"audio": padded, "samples": samples}
        else:
            feeds = {"features": np.stack([self._mel.whole(audio).T for audio in audios])}
        wanted = [name for name in self._encoder.spec.output_names if name.startswith((CROSS, "frames"))]
        made = self._encoded(feeds, wanted, self._rows_at_once(audios))
        if "frames" in made:
            frames = made["frames"][:, 0].tolist()
        else:  # features of a fixed length: what lies behind the audio is silence
            most = made[f"{CROSS}00_key"].shape[2]
            frames = [min(most, max(1, self._mel_frames(len(audio)) // 2)) for audio in audios]
        return OwnHeard(self._decoder, made, frames, self._attention)

    def _rows_at_once(self, audios: Sequence[Samples]) -> int:
        seconds = self._mel.settings.pad_s if self._mel else max(map(len, audios)) / 16_000
        return max(1, int(self._scores / max(seconds / self._frame_s, 1.0) ** 2))

    def _encoded(self, feeds: dict[str, Array], wanted: list[str], rows: int) -> dict[str, Array]:
        count = len(next(iter(feeds.values())))
        if count <= rows:
            return self._encoder.run(feeds, wanted)
        parts = [
            self._encoder.run({name: value[at : at + rows] for name, value in feeds.items()}, wanted)
            for at in range(0, count, rows)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in wanted}

    def _mel_frames(self, samples: int) -> int:
        """Of audio alone, without the silence behind it; the encoder halves them."""
        assert self._mel is not None
        return -(-samples // self._mel.settings.hop)


class OwnHeard:
    def __init__(
        self, decoder: LoadedGraph, cross: dict[str, Array], frames: Sequence[int], attention: bool
    ) -> None:
        self._decoder, self._cross, self.frames, self._attention = decoder, cross, frames, attention

    def steps(self) -> OwnSteps:
        return OwnSteps(self._decoder, self._cross, max(self.frames), self._attention)


class OwnSteps:
    """`Steps` with Parley's decoder. frames: the attention beyond them is not kept."""

    def __init__(
        self, decoder: LoadedGraph, cross: Mapping[str, Array], frames: int, attention: bool
    ) -> None:
        self._decoder, self._frames = decoder, frames
        self._cross = dict(cross)
        rows = len(next(iter(cross.values())))
        self._past: dict[str, Array] = {}
        for tensor in decoder.spec.inputs:
            if tensor.name.startswith(PAST):
                heads, _, size = tensor.dims
                self._past[tensor.name] = np.zeros((rows, int(heads), 0, int(size)), np.float32)
        self._wanted = [
            name for name in decoder.spec.output_names if attention or not name.startswith("attention")
        ]

    def step(self, ids: Ints) -> tuple[Floats, Floats | None]:
        made = self._decoder.run({"ids": ids, **self._cross, **self._past}, self._wanted)
        self._past = {
            PAST + name.removeprefix(PRESENT): value
            for name, value in made.items()
            if name.startswith(PRESENT)
        }
        seen = made.get("attention")
        # A copy, so that what lies behind the audio is not held.
        return made["logits"], None if seen is None else seen[:, :, -1:, : self._frames].copy()

    def keep(self, rows: Ints) -> None:
        same = len(rows) == len(next(iter(self._past.values()))) and bool(
            (rows == np.arange(len(rows))).all()
        )
        if same:
            return
        self._past = {name: value[rows] for name, value in self._past.items()}
        self._cross = {name: value[rows] for name, value in self._cross.items()}


class MergedGraphs:
    """Ready-made ones, one utterance at a time."""

    utterances, rows = 1, 1

    def __init__(self, encoder: LoadedGraph, decoder: LoadedGraph) -> None:
        """Raises: GraphError for a decoder with another interface."""
        names = set(decoder.spec.input_names)
        missing = {"input_ids", "encoder_hidden_states", BRANCH} - names
        if missing:
            raise GraphError(
                f"graph {decoder.spec.name} is no merged decoder: it has no {', '.join(sorted(missing))}"
            )
        self._encoder, self._decoder = encoder, decoder

    def listen(self, audios: Sequence[Samples]) -> MergedHeard:
        if len(audios) != 1:
            raise ValueError("merged graphs hear one utterance at a time")
        audio, *mask = self._encoder.spec.inputs
        feeds: dict[str, Array] = {audio.name: audios[0][None]}
        feeds |= {one.name: _ones(one.dtype, (1, len(audios[0]))) for one in mask}
        (hidden,) = self._encoder.run(feeds).values()
        return MergedHeard(self._decoder, hidden, len(audios[0]))


class MergedHeard:
    def __init__(self, decoder: LoadedGraph, hidden: NDArray[np.float32], samples: int) -> None:
        self._decoder, self._hidden, self._samples = decoder, hidden, samples
        self.frames: Sequence[int] = [hidden.shape[1]]

    def steps(self) -> MergedSteps:
        return MergedSteps(self._decoder, self._hidden, self._samples)


class MergedSteps:
    """`Steps` with a merged decoder: one row."""

    def __init__(self, decoder: LoadedGraph, hidden: NDArray[np.float32], samples: int) -> None:
        self._decoder = decoder
        self._feeds: dict[str, Array] = {"encoder_hidden_states": hidden}
        for tensor in decoder.spec.inputs:
            if tensor.name == MASK:
                # Moonshine's decoder takes the mask of the audio and thins it out itself; others that of the frames.
                masked = samples if tensor.dims[1] == SAMPLES else hidden.shape[1]
                self._feeds[MASK] = _ones(tensor.dtype, (1, masked))
            elif tensor.name.startswith(MERGED_PAST):
                # The first branch ignores the past; ONNX Runtime wants one all the same.
                _, heads, _, size = tensor.dims
                self._feeds[tensor.name] = np.zeros((1, int(heads), 1, int(size)), np.float32)
        self._later = False

    def step(self, ids: Ints) -> tuple[Floats, Floats | None]:
        for at in range(ids.shape[1]):
            self._feeds["input_ids"] = ids[:, at : at + 1]
            self._feeds[BRANCH] = np.array([self._later])
            made = self._decoder.run(self._feeds)
            for name, value in made.items():
                # The later branch gives back nothing of use for the encoder's.
                if name.startswith(MERGED_PRESENT) and not (self._later and ".encoder." in name):
                    self._feeds[MERGED_PAST + name.removeprefix(MERGED_PRESENT)] = value
            self._later = True
        return made["logits"][:, -1], None

    def keep(self, rows: Ints) -> None:
        if rows.tolist() != [0]:
            raise ValueError("merged graphs have one row: beam must be 1")


def _ones(dtype: str, shape: tuple[int, ...]) -> Array:
    return np.ones(shape, np.int32 if dtype == "INT32" else np.int64)
