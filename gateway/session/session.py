"""One conversation, from `Ready` to `Closed`.

Everything happens on the event loop: client events, detector verdicts and the ends of tasks call
plain methods that decide; slow work (recognition, replies) runs in tasks of the session's own group.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context

from gateway.listen.echo import EchoGuard
from gateway.session import events as ev
from gateway.session.answering import Answering
from gateway.session.core import INTERNAL, Core, Parts
from gateway.session.hearing import Hearing
from gateway.session.memory import Keeper, Memory, Predecessor
from gateway.session.remembered import Remembered, Unusable

log = logging.getLogger(__name__)

_AHEAD_OF_REAL_TIME_S = 2.0
"""A client may send audio this far ahead of the clock; then its stream is read more slowly."""
_HELD_UP_S = 30.0
"""Audio that comes late, since the line stood still or we did, is not ahead of anything: so much of it is read
as fast as it comes. Were it not, whatever is late once would stay late for the rest of the call."""
_GAP_S = 10.0
"""A client that had no line for a while may send so much of what its user said meanwhile, s."""
_EVENT_S, _ASKED_S = 0.02, 0.2
"""What any other event counts for, on a clock of its own: a hundred at once, then fifty a second. Words
to answer or to speak make work elsewhere: ten at once, then five a second."""


class Session:
    """Make it on the running loop; run it with `run()`, once."""

    def __init__(
        self,
        session_id: str,
        connection: ev.Connection,
        parts: Parts,
        *,
        memory: Memory | None = None,
        token: Remembered | Unusable | None = None,
        predecessor: Predecessor | None = None,
    ) -> None:
        """memory: None remembers nothing. token: what the client wants resumed. predecessor: the live session of this
        id that was told to end."""
        self.session_id = session_id
        self._connection, self._settings = connection, parts.settings
        self._core = core = Core(session_id, connection, parts)
        echo = parts.settings.echo
        guard = EchoGuard(echo, connection.hello.output_rate) if echo.enabled else None
        self._hearing = Hearing(core, guard)
        self._answering = Answering(
            core, guard, user_is_speaking=lambda: self._hearing.user_is_speaking, on_over=self._reply_over
        )
        self._hearing.answering = self._answering
        self._keeper: Keeper | None = None
        if memory is not None and connection.hello.resume is not None:
            self._keeper = Keeper(memory, core, self._dump)
            self._answering.on_history = self._keeper.changed
        self._token, self._predecessor = token, predecessor
        self._hung_up = False
        self.over = asyncio.Event()
        """Set once nothing of it changes any more."""
        self._hearing.on_quiet = self._look_at_drain
        core.on_state = self._on_state
        self._idle: asyncio.TimerHandle | None = None
        self._draining: ev.Closed | None = None
        self._started_s = core.now()
        self._bytes_per_s = 2 * connection.hello.input_rate
        self._too_early_s = 0.0
        """How long not to read on, where that is positive."""
        self._hear = core.guarded(self._on_audio)
        self._audio_clock = _Clock(core, _HELD_UP_S)
        self._event_clock = _Clock(core)

    @property
    def context(self) -> Context:
        """What `run()` is to run in."""
        return self._core.context

    async def run(self) -> ev.Closed:
        """The whole conversation; returns why it ended. One clean-up path, whatever ended it."""
        core, closed = self._core, INTERNAL
        limit = core.later(self._settings.session.max_duration_s, self._duration_over)
        try:
            self._begin(resumed=await self._resume())
            async with asyncio.TaskGroup() as group:
                core.group = group
                core.spawn(self._read())
                core.spawn(core.speech.prepare())
                closed = await core.ended
                for task in list(core.tasks):
                    task.cancel()
        except Exception:
            log.exception("session %s failed", self.session_id)
        finally:
            limit.cancel()
            core.end(closed)
            self._let_go()
            if core.trace is not None:
                core.trace.end(closed.reason)
            if self._keeper is not None:
                await self._keeper.close(closed, wanted=self._hung_up)
            core.send(closed)
        return closed

    def end(self, closed: ev.Closed) -> None:
        """Stop now. The first reason stays."""
        self._core.end(closed)

    def drain(self, closed: ev.Closed) -> None:
        """Stop as soon as no reply is being prepared or spoken."""
        self._draining = self._draining or closed
        self._end_if_drained()

    def describe(self) -> dict[str, object]:
        """For /v1/sessions: nothing that was said."""
        return {
            "session_id": self.session_id,
            "state": str(self._core.state),
            "turns": self._answering.replies,
            "age_s": round(self._core.now() - self._started_s, 1),
        }

    def remember(self) -> Remembered:
        """What another session needs to go on with this one."""
        return self._keeper.now() if self._keeper is not None else self._dump(1, 0)

    def _dump(self, epoch: int, serial: int) -> Remembered:
        chosen, caller = self._core.chosen, self._connection.hello.caller
        return Remembered(self.session_id, caller, epoch, serial, chosen, self._answering.history.dump())

    async def _resume(self) -> bool:
        """Whether the history of an earlier session is there now."""
        token, predecessor = self._token, self._predecessor
        self._token = self._predecessor = None
        if self._keeper is None or (found := await self._keeper.recall(token, predecessor)) is None:
            return False
        self._core.restore(found.chosen)
        self._answering.set_instructions()
        self._answering.history.restore(found.turns)
        self._audio_clock.forgive(_GAP_S)
        return True

    def _begin(self, *, resumed: bool) -> None:
        core, hello = self._core, self._connection.hello
        core.send(
            ev.Ready(
                self.session_id, hello.input_rate, hello.output_rate, core.asr_language, core.voice, resumed
            )
        )
        if self._keeper is not None:
            self._keeper.begin()
        core.enter(ev.State.LISTENING)
        self._answering.warm_up()
        self._touch()

    def _let_go(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._answering.cancel(ev.Outcome.CANCELLED)
        self._hearing.close()
        self._core.speech.release()
        if self._core.state is not ev.State.TERMINATED:
            self._core.enter(ev.State.TERMINATED)
        self.over.set()

    # ---- what ends it ----------------------------------------------------------------------------

    def _touch(self) -> None:
        """Something happened: the idle clock starts again."""
        if self._idle is not None:
            self._idle.cancel()
        if not self._core.ended.done():  # else the timer would keep everything of the session for minutes
            self._idle = self._core.later(self._settings.session.idle_s, self._idle_over)

    def _idle_over(self) -> None:
        if self._answering.busy or self._hearing.user_is_speaking:
            self._touch()  # not while a reply is prepared
        else:
            self.end(ev.Closed("idle", "nothing was said for the idle timeout"))

    def _duration_over(self) -> None:
        self.drain(ev.Closed("duration", "the session reached its longest duration"))

    def _end_if_drained(self) -> None:
        if self._draining is None:
            return
        if not self._answering.busy and not self._hearing.user_is_speaking:
            self.end(self._draining)

    def _on_state(self, state: ev.State) -> None:
        self._hearing.set_gate(state)
        self._touch()
        if state is ev.State.SPEAKING:
            self._hearing.close_turn()
        elif state is ev.State.WAITING_FOR_INPUT:
            self._look_at_drain()

    def _look_at_drain(self) -> None:
        """Asked again once everything that this step is part of has happened."""
        if self._draining is not None:
            asyncio.get_running_loop().call_soon(self._end_if_drained)

    def _reply_over(self, outcome: ev.Outcome) -> None:
        core = self._core
        if core.ended.done():
            return
        if outcome is not ev.Outcome.INTERRUPTED:
            self._hearing.close_turn()
        if core.state in (ev.State.SPEAKING, ev.State.BARGED_IN):
            speaking_on = core.state is ev.State.BARGED_IN and self._hearing.speech_is_open
            core.enter(ev.State.LISTENING if speaking_on else ev.State.WAITING_FOR_INPUT)
        self._touch()
        if self._answering.replies >= self._settings.session.max_turns:
            self.drain(ev.Closed("turns", "the session reached its largest number of turns"))
        if outcome is not ev.Outcome.INTERRUPTED:  # the interruption comes first
            self._answering.go_on()
        self._end_if_drained()

    # ---- what the client sends -------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            if isinstance(self._connection, ev.PushesAudio):
                self._connection.on_audio = self._on_pushed
            async for event in self._connection.events():
                if self._too_early_s > 0:
                    await asyncio.sleep(self._too_early_s)
                if isinstance(event, ev.AudioIn):
                    self._on_audio(event.pcm)
                else:
                    self._on_client_event(event)
                    asks = isinstance(event, ev.TextIn | ev.Say)
                    self._too_early_s = self._event_clock.spend(_ASKED_S if asks else _EVENT_S)
                if self._too_early_s > 0:
                    await asyncio.sleep(self._too_early_s)
                    self._too_early_s = 0.0
        except ConnectionError as error:
            self.end(ev.Closed("client", str(error) or "the connection was lost"))
        else:
            self._hung_up = True
            await self._hearing.judged()  # the last words may be on their way through the detector
            self._hearing.commit()
            self.drain(ev.Closed("client", "the client ended its side"))

    def _on_audio(self, pcm: bytes) -> None:
        self._hearing.hear(pcm)
        self._too_early_s = self._audio_clock.spend(len(pcm) / self._bytes_per_s)

    def _on_pushed(self, pcm: bytes) -> bool:
        """See `ev.PushesAudio`."""
        if self._too_early_s > 0 or self._core.ended.done():
            return False  # whoever is early has to wait
        self._hear(pcm)
        return True

    def _on_client_event(self, event: ev.ClientEvent) -> None:
        core = self._core
        self._touch()
        match event:
            case ev.TextIn(text):
                if text.strip():
                    self._hearing.type(text)
                else:
                    core.refuse("text is empty: send what the user typed")
            case ev.Say():
                self._answering.say(event)
            case ev.Configure():
                core.configure(event)
                self._answering.set_instructions()
                if self._keeper is not None:
                    self._keeper.changed()
            case ev.Commit():
                if not self._hearing.commit():
                    core.send(ev.Warning("nothing_to_commit", "no speech was heard since the last turn"))
            case ev.Cancel():
                self._answering.cancel(ev.Outcome.CANCELLED)
            case ev.Truncate(reply_id, heard_ms):
                self._answering.truncate(reply_id, heard_ms)
            case ev.ToolResult(call_id, output):
                self._answering.tool_result(call_id, output)
            case ev.Close(reason):
                self._hung_up = True
                self.end(ev.Closed("client", reason))
            case ev.AudioIn():
                pass  # handled where it is read


class _Clock:
    """Slows the reading of a client that floods: it costs itself, and nothing is lost."""

    def __init__(self, core: Core, held_up_s: float = 0.0) -> None:
        """held_up_s: how much of the time in which nothing came may be made up for later."""
        self._core, self._held_up_s = core, held_up_s
        self._at_s = core.now()

    def forgive(self, seconds: float) -> None:
        """So much may come at once."""
        self._at_s = self._core.now() - min(seconds, self._held_up_s)

    def spend(self, seconds: float) -> float:
        """Something worth so much time was read; returns how long (s) not to read on, if that is positive."""
        now = self._core.now()
        self._at_s = max(self._at_s, now - self._held_up_s) + seconds
        return self._at_s - now - _AHEAD_OF_REAL_TIME_S
