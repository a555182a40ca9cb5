"""What the parts of one session share: its state, its settings, its tasks and timers, its way out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

from gateway.listen.asr import Recognizer
from gateway.listen.vad import Vad
from gateway.session import events as ev
from gateway.session.states import step
from gateway.settings import Settings
from gateway.speak.hold import VoiceHold, Wish, hold_voice
from gateway.speak.ticker import Ticker
from gateway.speak.tts import Synthesizer, TtsError
from gateway.telemetry.context import Passed, context_of, spot, turn_id
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.slow_turns import SlowTurns
from gateway.think.llm import LanguageModel

if TYPE_CHECKING:
    from gateway.telemetry.spans import Span
    from gateway.telemetry.tracing import Tracing

log = logging.getLogger(__name__)
P = ParamSpec("P")

INTERNAL = ev.Closed("internal", "the session failed; connect again", retryable=True)
REPLACED = ev.Closed("replaced", "the session was opened again elsewhere")


@dataclass(frozen=True, slots=True)
class Parts:
    """What every session of the process shares."""

    settings: Settings
    recognizer: Recognizer
    llm: LanguageModel
    synthesizer: Synthesizer
    vad: Vad
    metrics: Metrics
    ticker: Ticker
    slow_turns: SlowTurns
    tracing: Tracing | None = None


class Core:
    """One per session; made by it, used by its hearing and its answering."""

    def __init__(self, session_id: str, connection: ev.Connection, parts: Parts) -> None:
        self.session_id, self.connection, self.parts = session_id, connection, parts
        self.settings = parts.settings
        self.hello = connection.hello
        self.chosen = connection.hello.configure
        self.state = ev.State.IDLE
        loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = loop.time
        """The event loop's time, s."""
        self.ended: asyncio.Future[ev.Closed] = loop.create_future()
        self.group: asyncio.TaskGroup | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.context = context_of(session_id)
        """What the session's tasks and timers run in: much is called here by what serves all sessions."""
        self.trace = parts.tracing.session(session_id, self.hello.trace) if parts.tracing else None
        here = self.trace.span if self.trace else Passed(self.hello.trace) if self.hello.trace else None
        self.context.run(spot.set, here)
        self.on_state: Callable[[ev.State], None] = lambda state: None
        self.speech: VoiceHold = hold_voice(parts.synthesizer, self._wish(), self._warn)
        """The session's voice; released when it ends."""

    # ---- out ----

    def send(self, event: ev.ServerEvent) -> None:
        self.connection.send(event)

    def refuse(self, message: str) -> None:
        """A request that makes no sense; the session lives on."""
        self.send(ev.Error("bad_request", message))

    def enter(self, state: ev.State) -> None:
        """Raises IllegalTransition; entering the state one is in does nothing."""
        if state is not self.state:
            self.state = step(self.state, state)
            self.on_state(state)
            self.send(ev.StateChanged(state))

    def end(self, closed: ev.Closed) -> None:
        """Stop now. The first reason stays."""
        if not self.ended.done():
            self.ended.set_result(closed)

    # ---- time and tasks ----

    def spawn(self, work: Coroutine[Any, Any, None], context: Context | None = None) -> asyncio.Task[None]:
        """A task that ends with the session; an exception in it ends the session."""
        assert self.group is not None
        task = self.group.create_task(work, context=context or self.context.copy())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay_s, self.guarded(callback), context=self.context)

    def turn_context(self, turn: str, span: Span | None) -> Context:
        """What works for one turn runs in it. span: the place of its calls in a trace."""
        context = self.context.copy()
        context.run(turn_id.set, turn)
        if span is not None:
            context.run(spot.set, span)
        return context

    def guarded(self, callback: Callable[P, None]) -> Callable[P, None]:
        """A timer's or detector's call has nobody to raise to: a bug ends this session, not the timer."""

        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            if self.ended.done():
                return
            try:
                callback(*args, **kwargs)
            except Exception:
                self.context.copy().run(log.exception, "session %s failed", self.session_id)
                self.end(INTERNAL)

        return call

    # ---- settings, as the client changed them ----

    def configure(self, change: ev.Configure) -> None:
        """All of it, or, where it asks for another model without asking to switch, nothing but a refusal."""
        merged = {
            name: getattr(self.chosen, name) if getattr(change, name) is None else getattr(change, name)
            for name in ev.Configure.__slots__
        }
        before, wished = self.chosen, self._wish()
        self.chosen = ev.Configure(**merged | {"switch_model": None})
        if self._wish() == wished:
            return
        try:
            self.speech.change(self._wish(), switch=bool(change.switch_model))
        except TtsError as error:
            self.chosen = before
            self.refuse(str(error))

    def restore(self, before: ev.Configure) -> None:
        """The choices of an earlier session, where this client's `Hello` makes none of its own."""
        wished = self._wish()
        mine = self.hello.configure
        self.chosen = ev.Configure(
            **{
                name: getattr(before, name) if getattr(mine, name) is None else getattr(mine, name)
                for name in ev.Configure.__slots__
            }
        )
        if self._wish() != wished:
            with contextlib.suppress(TtsError):  # nothing is held yet; the first sentence says what is wrong
                self.speech.change(self._wish(), switch=True)

    def _wish(self) -> Wish:
        chosen = self.chosen
        return Wish(self.voice, self.tts_language, chosen.model or "", chosen.policy or "")

    def _warn(self, code: str, message: str) -> None:
        if not self.ended.done():
            self.send(ev.Warning(code, message))

    @property
    def instructions(self) -> str:
        return self.chosen.instructions or self.settings.llm.system_prompt

    @property
    def asr_language(self) -> str:
        return self.chosen.language or self.settings.asr.language

    @property
    def tts_language(self) -> str:
        return self.chosen.language or self.settings.tts.language

    @property
    def voice(self) -> str:
        return self.chosen.voice or self.settings.tts.voice

    @property
    def hangover_ms(self) -> int:
        return self.chosen.hangover_ms or self.settings.turn.hangover_ms

    @property
    def hangover_long_ms(self) -> int:
        return max(self.chosen.hangover_long_ms or self.settings.turn.hangover_long_ms, self.hangover_ms)

    @property
    def automatic_turns(self) -> bool:
        chosen = self.chosen.automatic_turns
        return self.settings.turn.automatic if chosen is None else chosen

    @property
    def barge_in(self) -> bool:
        chosen = self.chosen.barge_in
        return self.settings.barge_in.enabled if chosen is None else chosen

    @property
    def eager(self) -> bool:
        chosen = self.chosen.eager
        return self.settings.turn.eager if chosen is None else chosen
