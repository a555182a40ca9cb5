"""How a conversation looks: JSON lines for programs, a live transcript for people."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from gateway.cli.client import Arrival
from gateway.session import events as ev

_TYPES: dict[type[Any], str] = {
    ev.Ready: "ready",
    ev.StateChanged: "state",
    ev.SpeechStarted: "speech_started",
    ev.SpeechStopped: "speech_stopped",
    ev.Transcript: "transcript",
    ev.ReplyStarted: "reply_started",
    ev.ReplyText: "reply_text",
    ev.ReplyAudio: "reply_audio",
    ev.ReplyDone: "reply_done",
    ev.Flushed: "flushed",
    ev.ToolCall: "tool_call",
    ev.Warning: "warning",
    ev.Error: "error",
    ev.Closed: "closed",
}

STAGES = (
    "end of turn",
    "final transcript",
    "LLM first token",
    "first sentence",
    "first sound",
    "first frame",
    "voice to voice",
)
"""What `stages` names, in order; all but the last add up to the last."""


class View(Protocol):
    def show(self, arrival: Arrival) -> None: ...

    def note(self, text: str) -> None:
        """A remark of the program itself."""
        ...

    def close(self) -> None: ...


def as_json(event: ev.ServerEvent, t_ms: int) -> dict[str, Any]:
    """One event as a JSON object: `t_ms` since the session began, `type`, the event's own fields."""
    line: dict[str, Any] = {"t_ms": t_ms, "type": _TYPES[type(event)]}
    fields = asdict(event)
    if isinstance(event, ev.ReplyAudio):
        fields["bytes"] = len(fields.pop("pcm"))
    if isinstance(event, ev.ReplyDone):
        fields["timings_ms"] = fields.pop("timings")
    return line | fields


class JsonView:
    """One line per event on stdout, remarks on stderr."""

    def __init__(self, began: float, out: TextIO | None = None) -> None:
        self._began = began
        self._out = out or sys.stdout

    def show(self, arrival: Arrival) -> None:
        line = as_json(arrival.event, round((arrival.at - self._began) * 1000))
        print(json.dumps(line, ensure_ascii=False), file=self._out, flush=True)

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class HumanView:
    """The user's words growing, the reply's as they are spoken, latencies, what an interruption cut.

    On a terminal the lines grow in place; elsewhere every change that a reader needs is a line.
    """

    def __init__(self, began: float, *, user: str = "you", assistant: str = "parley") -> None:
        self._began = began
        self._names = user, assistant
        self.console = Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=12, transient=True)
            self._live.start()
        self._user = Text()
        self._speaking = ""
        self._last_partial = ""

    def show(self, arrival: Arrival) -> None:
        event = arrival.event
        match event:
            case ev.SpeechStarted():
                self._user, self._last_partial = Text("…", "dim"), ""
            case ev.Transcript():
                self._on_transcript(event, arrival.at)
            case ev.ReplyStarted():
                self._speaking = ""
            case ev.ReplyText():
                self._speaking += event.text
                if self._live is None:
                    self._line(arrival.at, self._names[1], Text(event.text.strip()))
            case ev.ReplyDone():
                self._on_done(event, arrival.at)
            case ev.Warning():
                self._line(arrival.at, "warning", Text(f"{event.message} ({event.code})", "yellow"))
            case ev.Error():
                self._line(arrival.at, "error", Text(f"{event.message} ({event.code})", "red"))
            case ev.ToolCall():
                self._line(arrival.at, "tool", Text(f"{event.name}({event.arguments})"))
            case ev.Closed() if event.reason != "client":
                self._line(arrival.at, "closed", Text(event.message or event.reason, "yellow"))
            case _:
                return
        self._refresh()

    def note(self, text: str) -> None:
        self.console.print(Text(text, "dim"))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _on_transcript(self, event: ev.Transcript, at: float) -> None:
        if event.final:
            self._user = Text()
            if event.text.strip():
                self._line(at, self._names[0], Text(event.text, "bold"))
            return
        self._user = Text(event.text[: event.stable], "bold") + Text(event.text[event.stable :], "dim")
        if self._live is None and event.text.strip() and event.text != self._last_partial:
            self._line(at, self._names[0], Text(f"{event.text} …", "dim"))
        self._last_partial = event.text

    def _on_done(self, event: ev.ReplyDone, at: float) -> None:
        if self._live is not None and self._speaking.strip():
            self._line(at, self._names[1], Text(self._speaking.strip(), "cyan"))
        self._speaking = ""
        if event.outcome is not ev.Outcome.COMPLETED:
            what = f"{event.outcome.value} after {event.heard_ms / 1000:.1f} s"
            self._line(at, "", Text(what, "yellow"))
            if event.outcome is ev.Outcome.INTERRUPTED:
                self._line(at, "", Text(f"heard: {ending(event.text)}", "dim"))
                self._line(at, "", Text(f"cut:   {beginning(event.unheard)}", "dim"))
        if event.timings:
            self._line(at, "", Text(latencies(event.timings), "dim"))

    def _line(self, at: float, who: str, what: Text) -> None:
        head = Text(f"{at - self._began:7.2f} s  ", "dim") + Text(f"{who:>9}  ", "bold green")
        self.console.print(head + what)

    def _refresh(self) -> None:
        if self._live is None:
            return
        rows: list[RenderableType] = []
        for name, words in ((self._names[0], self._user), (self._names[1], Text(self._speaking, "cyan"))):
            if words.plain.strip():
                rows.append(Text(f"{'':11}{name:>9}  ", "bold green") + words)
        self._live.update(Group(*rows))


def stages(timings: dict[str, float]) -> dict[str, float]:
    """A reply's latencies by stage, ms; only those that are known."""
    after_turn = None
    if "speech_end_to_final" in timings and "end_of_turn" in timings:
        after_turn = timings["speech_end_to_final"] - timings["end_of_turn"]
    known = (
        timings.get("end_of_turn"),
        after_turn,
        timings.get("final_to_first_token"),
        timings.get("first_token_to_first_sentence"),
        timings.get("sentence_to_first_chunk"),
        timings.get("first_chunk_to_first_audio"),
        timings.get("voice_to_voice"),
    )
    return {title: ms for title, ms in zip(STAGES, known, strict=True) if ms is not None}


def latencies(timings: dict[str, float]) -> str:
    """One line: every stage's latency in ms."""
    return "ms: " + " · ".join(f"{title} {ms:.0f}" for title, ms in stages(timings).items())


def beginning(text: str, limit: int = 90) -> str:
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " …"


def ending(text: str, limit: int = 90) -> str:
    return text if len(text) <= limit else "… " + text[-limit:].split(" ", 1)[-1]
