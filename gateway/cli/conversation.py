"""A client's record of its conversation: turns, replies, and when nothing more is to be waited for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gateway.cli.client import Arrival, CallFailed
from gateway.cli.player import Player
from gateway.session import events as ev


@dataclass(slots=True)
class ReplyRecord:
    reply_id: str
    turn_id: str
    """Empty for words spoken as given, and for what answers typed text before it is known."""
    text: str = ""
    """As spoken so far."""
    first_audio_at: float | None = None
    """Loop time (s) at which the first frame arrived."""
    last_audio_at: float | None = None
    done: ev.ReplyDone | None = None


@dataclass(slots=True)
class Conversation:
    """Feed it every arrival, in order."""

    player: Player
    state: ev.State = ev.State.IDLE
    replies: list[ReplyRecord] = field(default_factory=list)
    heard_user: list[ev.Transcript] = field(default_factory=list)
    """Final transcripts."""
    errors: list[ev.Error] = field(default_factory=list)
    closed: ev.Closed | None = None
    pending: bool = False
    """The user said or typed something that no reply has answered yet."""
    last_event_at: float = 0.0
    """Loop time of the last arrival that was no audio."""
    _speaking: int = 0
    _finals_awaited: int = 0
    _over: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def asked(self, now: float) -> None:
        """Something was typed: a reply is due."""
        self.pending, self.last_event_at = True, now
        self._changed.set()

    def on(self, arrival: Arrival) -> None:
        event = arrival.event
        if isinstance(event, ev.ReplyAudio):
            reply = self.reply(event.reply_id)
            if reply.first_audio_at is None:
                reply.first_audio_at = arrival.at
            reply.last_audio_at = arrival.at
            return
        self.last_event_at = arrival.at
        match event:
            case ev.Ready():  # on another line: what was open on the one before is over
                self._speaking = self._finals_awaited = 0
            case ev.StateChanged(state):
                self.state = state
            case ev.SpeechStarted():
                self._speaking += 1
            case ev.SpeechStopped():
                self._speaking = max(0, self._speaking - 1)
                self._finals_awaited += 1
            case ev.Transcript(final=True):
                self._finals_awaited = max(0, self._finals_awaited - 1)
                if event.text.strip():
                    self.heard_user.append(event)
                    self.pending = True
            case ev.ReplyStarted():
                self.reply(event.reply_id).turn_id = event.turn_id
                self.pending = False
            case ev.ReplyText():
                self.reply(event.reply_id).text += event.text
            case ev.ReplyDone():
                self.reply(event.reply_id).done = event
                if event.outcome is not ev.Outcome.INTERRUPTED:
                    self.pending = False
            case ev.Error():
                self.errors.append(event)
                if event.code == "asr_failed":
                    self._finals_awaited = max(0, self._finals_awaited - 1)
            case ev.Closed():
                self.closed = event
        self._changed.set()

    def over(self) -> None:
        """The stream has ended: nothing more will come."""
        self._over = True
        self._changed.set()

    async def changed(self) -> None:
        """Returns after the next arrival that is no audio; raises CallFailed when none can come."""
        if self._over:
            raise CallFailed("the session ended before the conversation did")
        self._changed.clear()
        await self._changed.wait()

    def reply(self, reply_id: str) -> ReplyRecord:
        for known in reversed(self.replies):
            if known.reply_id == reply_id:
                return known
        self.replies.append(ReplyRecord(reply_id, ""))
        return self.replies[-1]

    @property
    def answered(self) -> bool:
        """A reply was heard."""
        return any(reply.first_audio_at is not None for reply in self.replies)

    @property
    def busy(self) -> bool:
        """Somebody speaks, or an answer is due."""
        return bool(
            self._speaking
            or self._finals_awaited
            or self.pending
            or self.state in (ev.State.SPEAKING, ev.State.BARGED_IN)
        )

    async def settled(
        self, *, quiet_s: float = 0.8, patience_s: float = 30.0, at_least_s: float = 0.0
    ) -> bool:
        """Wait until the last reply was heard and nothing is due any more for `quiet_s`.

        At least `at_least_s` is waited for something to begin. False when nothing has happened for
        `patience_s` although something was due.
        """
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while not self._over:
            last = max(begin, self.last_event_at, self.player.ends_at)
            until = last + patience_s if self.busy else max(begin + at_least_s, last + quiet_s)
            if loop.time() >= until:
                return not self.busy
            self._changed.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return not self.pending
