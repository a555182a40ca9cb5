"""The user's side of a turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from gateway.listen.ear import Window
from gateway.listen.utterance import Utterance
from gateway.session.barge_in import Judge
from gateway.session.reply import Marks, Reply

if TYPE_CHECKING:
    from gateway.telemetry.spans import Span, TurnTrace


@dataclass(slots=True)
class Turn:
    """What the user says until a reply to it is audible; may be several utterances with pauses."""

    turn_id: str = field(default_factory=lambda: uuid4().hex)
    texts: list[str] = field(default_factory=list)
    marks: Marks = field(default_factory=Marks)
    trace: TurnTrace | None = None
    typed: bool = False

    @property
    def question(self) -> str:
        return " ".join(self.texts)


@dataclass(slots=True)
class Speech:
    """One stretch of user speech that is being heard."""

    turn: Turn
    utterance: Utterance
    onset_ms: int
    began_s: float
    """Loop time at which the onset was known."""
    interrupts: Reply | None = None
    """The reply captured at the onset: the only one that this speech can cancel."""
    judge: Judge | None = None
    """Set while it is open whether the interruption is real."""
    silent_ms: int = 0
    """Since the last voiced window."""
    doubt_ms: int = 0
    """Since the detector was last sure of speech."""
    stopped: Window | None = None
    """The last voiced window."""
    partial: str = ""
    partial_s: float = 0.0
    """Loop time of the last change of `partial`."""
    ended_s: float | None = None
    """Loop time of the end of turn; None while it goes on."""
    span: Span | None = None
    """Of its recognition."""

    @property
    def open(self) -> bool:
        return self.ended_s is None
