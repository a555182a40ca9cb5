"""Ready-made Kokoro voices: phonemes, a style and a speed become the audio of a whole piece of text, in one graph.

What is said is cut so that the first piece is short; a piece is never longer than the graph takes. The graph drew
its noise itself; its exporter has made inputs of that (as with Piper's voices).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import GraphError
from gateway.triton.models.segments import segments
from gateway.triton.models.text import load_text
from gateway.triton.models.tts.common import (
    Heard,
    Ids,
    Samples,
    can_be_said,
    fixed_seed,
    hand_on,
    read_voices,
    seed_or_new,
)
from gateway.triton.models.tts.piper import TRIES, NoiseInput, TooLong, at_first, enough
from gateway.triton.models.tts.tempo import Tempo
from gateway.triton.models.voices import NothingToSay, Voice

PIECE_CHARS = 150
"""About 10 s."""
FIRST_CHARS = 60
"""Where a sentence or a clause ends within so many characters, a piece's first sound waits for no more than that."""
ENDS = ".!?…,;:–—"


class Kokoro:
    """`Engine` of an imported Kokoro."""

    threads = len(os.sched_getaffinity(0))
    rests = True
    piece_chars = PIECE_CHARS

    def __init__(self, folder: Folder) -> None:
        """Raises: GraphError."""
        front = folder.front
        self.rate = int(front["sample_rate"])
        self.voices = read_voices(front["voices"])
        # A text is read by its voice's language, each with its own lexicon.
        self._say = {language: load_text(folder, key) for language, key in front["texts"].items()}
        with np.load(folder.path("styles.npz")) as styles:
            self._styles = {voice.name: styles[voice.name] for voice in self.voices}
        self._graph = folder.graph("voice")
        self._most = int(front["most_tokens"])
        self._breaks = [frozenset(ids) for ids in front["breaks"]]
        self._whole_speeds = bool(front["whole_speeds"])
        self._noise = [NoiseInput(**one) for one in front["noise"]]
        self._seed = fixed_seed(folder)

    def synthesize(self, text: str, voice: Voice, speed: float, heard: Heard) -> None:
        unsaid: NothingToSay | None = None
        said = False
        for piece in pieces(text):
            if not can_be_said(piece):
                continue
            try:
                ids = self._say[voice.language](piece)
            except NothingToSay as error:  # in another script: the rest may be in this voice's
                unsaid = error
                continue
            said = True
            if not hand_on(self._stream(ids, voice.name, speed, seed_or_new(self._seed)), heard):
                return
        if unsaid is not None and not said:
            raise unsaid

    def audio(self, said: str | Ids, seed: int, voice: str = "", speed: float = 1.0) -> Samples:
        """All of a text or of its tokens, as the graph makes it: no level set, nothing trimmed."""
        chosen = next(one for one in self.voices if voice in ("", one.name))
        ids = self._say[chosen.language](said) if isinstance(said, str) else said
        return np.concatenate(list(self._stream(ids, chosen.name, speed, seed)))

    def _stream(self, ids: Ids, voice: str, speed: float, seed: int) -> Iterator[Samples]:
        tempo = Tempo(self.rate, speed if self._whole_speeds else 1.0)
        waiting = deque(parts(ids, self._most, self._breaks))
        while waiting:
            part = waiting.popleft()
            try:
                made = self._part(part, voice, speed, seed)
            except TooLong:
                inner = len(part) - 2
                if inner < 2:
                    raise
                waiting.extendleft(reversed(list(parts(part, (inner + 1) // 2 + 2, self._breaks))))
            else:
                yield tempo(made)
        yield tempo.flush()

    def _part(self, ids: Ids, voice: str, speed: float, seed: int) -> Samples:
        """ids: with the pad at both ends. Raises: GraphError."""
        styles = self._styles[voice]
        feeds: dict[str, NDArray[Any]] = {
            "ids": ids[None],
            # Kokoro has a style for each count of tokens between the pads.
            "style": styles[min(max(len(ids) - 3, 0), len(styles) - 1)].reshape(1, -1),
            "speed": np.array([1], np.int32) if self._whole_speeds else np.array([speed], np.float32),
        }
        tokens = len(ids) * max(1.0, 1.0 / speed)
        given = at_first(self._noise, tokens)
        for _ in range(TRIES):
            drawn = {
                one.name: one.draw(seed, index, count)
                for index, (one, count) in enumerate(zip(self._noise, given, strict=True))
            }
            made = self._graph.run({**feeds, **drawn})
            taken = [int(made[one.size].reshape(-1)[0]) for one in self._noise]
            if all(need <= count for need, count in zip(taken, given, strict=True)):
                return made["audio"].reshape(-1)
            given = enough(given, taken, self._noise)
        raise GraphError(f"the voice asked for more noise {TRIES} times, at last for {max(taken)} values")


def load(folder: Folder) -> Kokoro:
    """Raises: GraphError."""
    return Kokoro(folder)


def pieces(text: str) -> Iterator[str]:
    """The first clause or sentence by itself where it is short, then the rest."""
    first = next(segments(text, FIRST_CHARS, FIRST_CHARS), "")
    rest = text.strip()[len(first) :].strip()
    if rest and first[-1:] in ENDS:
        yield first
    else:
        rest = text.strip()
    if rest:
        yield rest


def parts(ids: Ids, most: int, breaks: list[frozenset[int]]) -> Iterator[Ids]:
    """`ids` with its pads, in parts of at most `most` with pads of their own, cut after the best of `breaks`
    (ends of sentences first, …, spaces last) that lies in a part's second half."""
    pad, inner = ids[:1], ids[1:-1]
    while len(inner) > most - 2:
        places = ([at for at in range(most // 2, most - 2) if int(inner[at]) in marks] for marks in breaks)
        cut = next((found[-1] + 1 for found in places if found), most - 2)
        yield np.concatenate([pad, inner[:cut], pad])
        inner = inner[cut:]
    yield np.concatenate([pad, inner, pad])
