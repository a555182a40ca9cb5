"""Encoders with an autoregressive decoder, Whisper and Moonshine: utterances to words, many at once.

front.json: "graphs" encoder and decoder, "features" of models that hear log-mel features, "beam", and "decoding":
  prompts          tokens to begin with, by language; "" of a model that is not told one
  detect           the languages' tokens, of a model that can tell which it hears; used where none is asked for
  eos, suppress, begin_suppress, length_penalty
  most_positions   tokens of prompt and text together
  tokens_per_s, spare_tokens   what a text may have: who repeats himself is stopped there
  max_s, least_samples, frame_s (of the encoder), median (of the alignment)
  interface        "parley" or "merged" (seq2seq_graphs.py)
A GPU hears more at once than a CPU: parameter encoder_scores (seq2seq_graphs.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gateway.triton.models.asr.alignment import (
    audible_ms,
    spread_times,
    token_frames,
    token_times,
    without_pauses,
)
from gateway.triton.models.asr.engine import Samples, Word
from gateway.triton.models.asr.search import Floats, Ints, Rules, Steps, Written, beam_search, greedy
from gateway.triton.models.asr.seq2seq_graphs import SCORES, Listener, MergedGraphs, OwnGraphs
from gateway.triton.models.exported import Folder
from gateway.triton.models.features import LogMel
from gateway.triton.models.graphs import GraphError
from gateway.triton.models.pieces import Pieces

RATE = 16_000
MOST_BEAMS = 8


class Text(NamedTuple):
    """Of one utterance."""

    tokens: list[int]
    times: list[tuple[int, int]]
    """(start ms, end ms) of each token."""


class Decoding:
    """front.json's "decoding". Raises: GraphError for one that contradicts itself."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.prompts: dict[str, list[int]] = {key: list(map(int, p)) for key, p in told["prompts"].items()}
        lengths = set(map(len, self.prompts.values()))
        if len(lengths) != 1 or 0 in lengths:
            raise GraphError("front.json: prompts of all languages must be there and of one length")
        self.prompt_length = lengths.pop()
        self.detect: dict[str, int] = {key: int(token) for key, token in told.get("detect", {}).items()}
        self.rules = Rules(
            frozenset(map(int, told["eos"])),
            np.array(told.get("suppress", []), np.int64),
            np.array(told.get("begin_suppress", []), np.int64),
            float(told.get("length_penalty", 1.0)),
        )
        self.most_positions = int(told["most_positions"])
        self.tokens_per_s = float(told["tokens_per_s"])
        self.spare_tokens = int(told.get("spare_tokens", 8))
        self.max_s = float(told["max_s"])
        self.least_samples = int(told.get("least_samples", 1))
        self.frame_s = float(told["frame_s"])
        self.median = int(told.get("median", 7))
        self.interface = str(told.get("interface", "parley"))

    def limit(self, samples: int) -> int:
        """Most tokens of the text of so much audio."""
        room = self.most_positions - self.prompt_length
        return max(0, min(room, int(samples / RATE * self.tokens_per_s) + self.spare_tokens))

    def language(self, asked: str) -> str | None:
        """The prompt's language; None: it is for the model to tell."""
        spoken = asked.replace("_", "-").split("-")[0].lower()
        if spoken in self.prompts:
            return spoken
        return None if self.detect else next(iter(self.prompts))


class Seq2Seq:
    """`Transcriber`."""

    def __init__(self, listener: Listener, pieces: Pieces, decoding: Decoding, beam: int = 1) -> None:
        """Raises: GraphError for a beam that is no number of beams or wider than the decoder's batch."""
        if not 1 <= beam <= min(MOST_BEAMS, listener.rows):
            raise GraphError(
                f"beam is {beam}; it may be 1 to {min(MOST_BEAMS, listener.rows)} with this decoder"
            )
        self._listener, self._pieces, self._decoding, self._beam = listener, pieces, decoding, beam
        self.max_batch = max(1, min(listener.utterances, listener.rows // beam))
        self.max_s = decoding.max_s

    def transcribe(self, audios: Sequence[Samples], languages: Sequence[str]) -> list[list[Word]]:
        return [self._pieces.words(text.tokens, text.times) for text in self.texts(audios, languages)]

    def texts(self, audios: Sequence[Samples], languages: Sequence[str]) -> list[Text]:
        """Tokens and their times; nothing of what is too short for any. Raises: GraphError."""
        most = int(self.max_s * RATE)
        audios = [np.ascontiguousarray(audio[:most], np.float32) for audio in audios]
        texts = [Text([], []) for _ in audios]
        long = [at for at, audio in enumerate(audios) if len(audio) >= self._decoding.least_samples]
        for first in range(0, len(long), self.max_batch):
            some = long[first : first + self.max_batch]
            made = self._written([audios[at] for at in some], [languages[at] for at in some])
            for at, text in zip(some, made, strict=True):
                texts[at] = text
        return texts

    def _written(self, audios: Sequence[Samples], languages: Sequence[str]) -> list[Text]:
        heard = self._listener.listen(audios)
        chosen = [self._decoding.language(language) for language in languages]
        if None in chosen:
            told = self._told(heard.steps(), len(audios))
            chosen = [mine or theirs for mine, theirs in zip(chosen, told, strict=True)]
        prompts: Ints = np.array([self._decoding.prompts[one or ""] for one in chosen], np.int64)
        limits = [self._decoding.limit(len(audio)) for audio in audios]
        rules = self._decoding.rules
        if self._beam == 1:
            written = greedy(heard.steps(), prompts, limits, rules)
        else:
            written = beam_search(heard.steps(), prompts, limits, rules, self._beam)
        return [
            Text(one.tokens, self._times(one, audio, frames))
            for one, audio, frames in zip(written, audios, heard.frames, strict=True)
        ]

    def _told(self, steps: Steps, count: int) -> list[str]:
        """The language that each utterance is in: its token is the likeliest after the prompt's first."""
        first = next(iter(self._decoding.prompts.values()))[0]
        logits, _ = steps.step(np.full((count, 1), first, np.int64))
        names = list(self._decoding.detect)
        likely: Floats = logits[:, [self._decoding.detect[name] for name in names]]
        return [names[at] for at in likely.argmax(axis=1).tolist()]

    def _times(self, written: Written, audio: Samples, frames: int) -> list[tuple[int, int]]:
        if not written.tokens:
            return []
        begin_ms, end_ms = audible_ms(audio)
        if not written.attention:
            sizes = [len(self._pieces.text([token])) for token in written.tokens]
            return spread_times(sizes, begin_ms, end_ms)
        attention = np.stack(written.attention, axis=1)[:, :, :frames]
        first = token_frames(attention, self._decoding.median)
        times = token_times(first, len(written.tokens), self._decoding.frame_s, end_ms)
        return without_pauses(times, audio)


def transcriber(folder: Folder) -> Seq2Seq:
    """Raises: GraphError when the folder lacks something or its parts do not fit."""
    try:
        decoding = Decoding(folder.front["decoding"])
        pieces = Pieces(folder.read_json("tokens.json"))
        mel = LogMel(folder.front["features"]) if "features" in folder.front else None
    except (KeyError, ValueError) as error:
        raise GraphError(f"{folder.version} does not fit a decoder: {error}") from None
    encoder, decoder = folder.graph("encoder"), folder.graph("decoder")
    listener: Listener
    if decoding.interface == "merged":
        listener = MergedGraphs(encoder, decoder)
    elif decoding.interface == "parley":
        scores = int(folder.parameter("encoder_scores", str(SCORES)))
        listener = OwnGraphs(encoder, decoder, mel, decoding.frame_s, scores=scores)
    else:
        raise GraphError(f'front.json: interface "{decoding.interface}" is unknown: parley or merged')
    return Seq2Seq(listener, pieces, decoding, int(folder.parameter("beam", "1")))
