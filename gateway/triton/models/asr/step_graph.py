"""A recogniser that is one graph: mel frames in, tokens out, everything between carried as its states."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.asr.rows import Carried, Row
from gateway.triton.models.exported import Folder

log = logging.getLogger(__name__)
WANTED = ("TOKENS", "TOKEN_FRAMES", "COUNT", "LEFT")


class StepGraph:
    """`Stepper` of the graph "step". front.json: chunk_frames, first_lead, prompts (language tag -> number),
    default_prompt. Raises: GraphError, KeyError."""

    def __init__(self, folder: Folder) -> None:
        front = folder.front
        self._graph = folder.graph("step")
        self._carried = Carried(self._graph.spec)
        self.max_batch = self._graph.spec.max_batch
        self.window = self.shift = int(front["chunk_frames"])
        self.lead = int(front["first_lead"])
        self.frames = self.window // (self.lead + 1)
        self.whole_chunks = False
        self._prompts = {tag.lower(): int(at) for tag, at in front.get("prompts", {}).items()}
        self._default = int(front.get("default_prompt", 0))
        self._wanted = [*WANTED, *(state.output for state in self._graph.spec.states)]
        self.unread = 0
        """Encoder frames so far that more symbols than a chunk has room for left unread."""

    def begin(self, language: str) -> int:
        """The language's prompt: of the tag, else of the language without its region, else the model's default."""
        tag = language.replace("_", "-").lower()
        return self._prompts.get(tag, self._prompts.get(tag.split("-")[0], self._default))

    def step(
        self,
        chunks: NDArray[np.float32],
        valid: Sequence[int],
        rows: Sequence[Row],
        kept: Sequence[Any],
    ) -> list[list[tuple[int, int]]]:
        feeds: dict[str, NDArray[Any]] = {
            "FEATURES": chunks,
            "LENGTH": np.array(valid, dtype=np.int64)[:, None],
        }
        if self._prompts:
            feeds["PROMPT"] = np.array(kept, dtype=np.int64)[:, None]
        made = self._graph.run(feeds | self._carried.feeds(rows), self._wanted)
        self._carried.keep(rows, made)
        left = int(made["LEFT"].sum())
        if left and not self.unread:
            log.warning(
                "a chunk has more symbols than steps: export the model with a larger steps= to hear all"
            )
        self.unread += left
        tokens, frames, counts = made["TOKENS"], made["TOKEN_FRAMES"], made["COUNT"][:, 0]
        return [
            list(zip(tokens[at, :count].tolist(), frames[at, :count].tolist(), strict=True))
            for at, count in enumerate(counts)
        ]
