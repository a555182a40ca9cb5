"""No more utterances and texts for a model than it takes: Triton would let the next ones wait in silence.

Beyond `max_candidate_sequences` a new sequence is neither refused nor answered until another one ends, and
its caller learns nothing but a deadline. So who opens one asks here first, and is told at once. This counts
what this process has open; where several share a server, `max_streams` in the model's own parameters bounds
all of them together, since the model refuses beyond it, as long as it is below `max_candidate_sequences`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.triton.errors import ModelFull
from gateway.triton.model_info import ModelInfo


class Admission:
    """One for all of a process. On one event loop; nothing here waits."""

    def __init__(self) -> None:
        self._open: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def admit(self, server: str, model: ModelInfo) -> Iterator[None]:
        """Around one utterance (SequenceCall) or one text (stream_decoupled).

        server: its address. Raises: ModelFull where the model has all it takes.
        """
        key = (server, model.name)
        if 0 < model.max_sequences <= self._open[key]:
            raise ModelFull(
                f"{model.name} has as much as it takes at a time ({model.max_sequences}): try again when one has ended, "
                "or raise max_candidate_sequences and max_streams in its config.pbtxt"
            )
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    def open(self, server: str, model: str) -> int:
        """What is admitted and has not ended."""
        return self._open.get((server, model), 0)
