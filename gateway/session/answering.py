"""The assistant's side of a session: replies from the question to the last frame heard."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from uuid import uuid4

from gateway.listen.ear import Guard
from gateway.session import events as ev
from gateway.session.core import Core
from gateway.session.reply import Marks, Reply
from gateway.session.traced import begin_turn, heard_first, reply_over
from gateway.session.turn import Turn
from gateway.speak.playout import Playout
from gateway.telemetry.context import asking
from gateway.telemetry.metrics import OF_SYNTHESIS
from gateway.think.history import History
from gateway.think.llm import LlmError, ToolOffer, ToolRequest

log = logging.getLogger(__name__)

_SAYS_WAITING = 8
_TOOL_RESULT_S = 30.0


class Answering:
    """At most one reply at a time: prepared, then audible, then over."""

    def __init__(
        self,
        core: Core,
        guard: Guard | None,
        *,
        user_is_speaking: Callable[[], bool],
        on_over: Callable[[ev.Outcome], None],
    ) -> None:
        """on_over: a reply ended; called after everything about it was sent."""
        self.reply: Reply | None = None
        self.replies = 0
        self._core, self._guard = core, guard
        self._user_is_speaking, self._on_over = user_is_speaking, on_over
        self.history = History(core.instructions, max_turns=core.settings.llm.history_turns)
        """What was said, as it was heard."""
        self.on_history: Callable[[bool], None] = lambda at_once: None
        """The history is another. At once: no reply waits to be heard meanwhile."""
        self._says: deque[ev.Say] = deque()
        self._questions: deque[Turn] = deque(maxlen=_SAYS_WAITING)
        self._tools: dict[str, asyncio.Future[str]] = {}
        settings = core.settings.playout
        self.playout = Playout(
            core.parts.ticker,
            rate=core.hello.output_rate,
            lead_ms=settings.lead_ms if core.hello.lead_ms is None else core.hello.lead_ms,
            buffer_s=settings.buffer_s,
            loudness_dbfs=settings.loudness_dbfs,
            send=core.guarded(self._send_frame),
            on_mark=core.guarded(self._on_mark),
            on_heard=core.guarded(self.heard_out),
        )

    @property
    def audible(self) -> Reply | None:
        """The reply of which something was sent and which is not over."""
        return self.reply if self.reply is not None and self.reply.announced else None

    @property
    def prepared(self) -> Reply | None:
        """The reply nobody has heard anything of."""
        return self.reply if self.reply is not None and not self.reply.announced else None

    @property
    def busy(self) -> bool:
        return self.reply is not None or bool(self._says) or bool(self._questions)

    def set_instructions(self) -> None:
        self.history.set_system(self._core.instructions)

    def warm_up(self) -> None:
        """The session begins: its first prompt should find everything ready."""
        core = self._core
        prefix = self.history.messages() if core.settings.llm.warm_prefix else ()
        core.parts.llm.warm_up(prefix, self._offers())

    # ---- starting -----------------------------------------------------------------------------

    def answer(self, turn: Turn, *, guessed: bool = False) -> None:
        """Prepare a reply; it stays unheard while the user speaks. guessed: until it is `wanted`, it goes no
        further than its first piece and calls no tool."""
        marks = Marks()
        marks.ask(turn.marks)
        reply = self._new_reply(turn, marks)
        reply.typed = turn.typed and len(turn.texts) == 1
        if guessed:
            reply.is_wanted.clear()
        if self._core.state is ev.State.LISTENING and not self._user_is_speaking():
            self._core.enter(ev.State.WAITING_FOR_INPUT)
        self._run(reply, self._think(reply, turn.question))

    def answer_later(self, turn: Turn) -> None:
        """When the reply in the air is over."""
        self._questions.append(turn)

    def say(self, say: ev.Say) -> None:
        if not say.text.strip():
            self._core.refuse("text is empty: send the words to speak")
        elif len(self._says) >= _SAYS_WAITING:
            self._core.refuse(f"{_SAYS_WAITING} texts wait to be spoken already: wait for a reply to be done")
        else:
            self._says.append(say)
            self.go_on()

    def go_on(self) -> None:
        """Nobody is in the way (or so the caller thinks): what was held back may be heard."""
        if self._user_is_speaking():
            return
        if self.prepared is not None:
            self.playout.resume()
        elif self.reply is None and self._questions:
            self.answer(self._questions.popleft())
        elif self.reply is None and self._says:
            say = self._says.popleft()
            turn, now = Turn(""), self._core.now()
            begin_turn(self._core, turn, now, "say")
            reply = self._new_reply(turn, Marks(final=now))
            reply.interruptible = say.interruptible
            self._run(reply, _as_given(say.text))

    def _new_reply(self, turn: Turn, marks: Marks) -> Reply:
        assert self.reply is None, "one reply at a time"
        track = self.playout.start()
        if self._user_is_speaking():
            self.playout.hold()
        self.reply = Reply(
            uuid4().hex,
            turn.turn_id,
            turn.question,
            track,
            on_failure=self._on_failure,
            marks=marks,
            trace=turn.trace,
        )
        self.reply.is_wanted.set()
        return self.reply

    def _run(self, reply: Reply, tokens: AsyncGenerator[str, None]) -> None:
        core = self._core
        reply.task = core.spawn(
            reply.run(tokens, core.speech, core.settings.playout),
            core.turn_context(reply.turn_id, reply.trace),
        )

    async def _think(self, reply: Reply, question: str) -> AsyncGenerator[str, None]:
        """LLM text; tool calls are put to the client and their results back to the LLM."""
        messages = self.history.messages(pending_user=question)
        offers = self._offers()
        while True:
            requests: list[ToolRequest] = []
            with asking("llm", messages=len(messages)):
                async with aclosing(self._core.parts.llm.stream(messages, offers)) as stream:
                    async for item in stream:
                        if isinstance(item, str):
                            self._core.parts.metrics.llm_chunk()
                            yield item
                        else:
                            requests.append(item)
            if not requests:
                return
            await reply.is_wanted.wait()
            exchange = History("", 1)
            for request in requests:
                with asking("tool", tool=request.name):
                    output = await self._call_tool(request)
                exchange.tool(request, output)
                reply.consulted.append((request, output))
            messages = [*messages, *exchange.messages()]

    def _offers(self) -> list[ToolOffer]:
        return [ToolOffer(t.name, t.description, t.parameters) for t in self._core.chosen.tools or ()]

    async def _call_tool(self, request: ToolRequest) -> str:
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tools[request.call_id] = waiting
        self._core.send(ev.ToolCall(request.call_id, request.name, request.arguments))
        try:
            async with asyncio.timeout(_TOOL_RESULT_S):
                return await waiting
        except TimeoutError:
            raise LlmError(f"no result for tool call {request.name} within {_TOOL_RESULT_S:.0f} s") from None
        finally:
            self._tools.pop(request.call_id, None)

    def tool_result(self, call_id: str, output: str) -> None:
        waiting = self._tools.get(call_id)
        if waiting is None or waiting.done():
            self._core.refuse(f"no tool call {call_id!r} is waiting for a result")
        else:
            waiting.set_result(output)

    # ---- being heard --------------------------------------------------------------------------

    def _send_frame(self, generation: int, sequence: int, offset_ms: int, pcm: bytes) -> None:
        reply = self.reply
        if reply is None:
            return
        if not reply.announced:
            self._announce(reply)
        if self._guard is not None:
            self._guard.played(pcm)
        self._core.send(ev.ReplyAudio(reply.reply_id, generation, sequence, offset_ms, pcm))

    def _announce(self, reply: Reply) -> None:
        """The first frame is about to leave: from here on the reply can be interrupted."""
        reply.announced = True
        reply.marks.first_audio = self._core.now()
        self.history.user(reply.question)
        self.on_history(False)
        self._core.send(ev.ReplyStarted(reply.reply_id, reply.turn_id, self.playout.generation))
        self._core.enter(ev.State.SPEAKING)
        trace_id = reply.trace.trace_id if reply.trace is not None else ""
        for stage, ms in reply.marks.timings_ms().items():
            if reply.question or stage in OF_SYNTHESIS:  # words to say as they are had no LLM
                self._core.parts.metrics.observe(stage, ms / 1000, trace_id)
        heard_first(self._core, reply)

    def _on_mark(self, number: int) -> None:
        reply = self.reply
        if reply is not None:
            if not reply.announced:
                self._announce(reply)
            self._on_piece(reply, reply.pieces[number].text)

    def _on_piece(self, reply: Reply, text: str) -> None:
        reply.texts_sent += 1
        self._core.send(ev.ReplyText(reply.reply_id, text))

    def _on_failure(self, part: str, message: str) -> None:
        """Said at once, while what was made before is still heard."""
        self._core.send(ev.Error(f"{part}_failed", message))
        log.warning("%s failed: %s", part, message)
        self._core.parts.metrics.part_failed(part, f"{part}_failed")

    def truncate(self, reply_id: str, heard_ms: int) -> None:
        reply = self.reply
        if reply is None or reply.reply_id != reply_id:
            return  # of a reply that ended meanwhile: its history is written
        if not self.playout.report(heard_ms):
            self._core.refuse(f"heard_ms={heard_ms} lies beyond the audio sent for reply {reply_id}")

    # ---- ending -------------------------------------------------------------------------------

    def pause(self) -> None:
        """Silence within a frame; the client is told to drop what it buffers."""
        if self.reply is not None:
            self._core.send(ev.Flushed(self.playout.pause(), self.reply.reply_id))

    def resume(self) -> None:
        """On from the first frame not heard; with nothing left to say the reply is over."""
        if self.playout.left:
            self._core.enter(ev.State.SPEAKING)
            self.playout.resume()
        else:
            self.heard_out()

    def heard_out(self) -> None:
        """The reply was heard to its end, or had no audio at all."""
        reply = self.reply
        if reply is None:
            return
        for piece in reply.pieces[reply.texts_sent :] if reply.announced else []:
            self._on_piece(reply, piece.text)
        outcome = ev.Outcome.FAILED if reply.failed else ev.Outcome.COMPLETED
        self._finish(reply, outcome, self.playout.total_ms)

    def cancel(self, outcome: ev.Outcome) -> None:
        """Whatever it is at: nothing more of it will be heard."""
        reply = self.reply
        if reply is None:
            return
        if self._core.state is ev.State.SPEAKING:
            self.pause()
        self._finish(reply, outcome, self.playout.heard_ms())

    def throw_away(self) -> None:
        """A prepared reply, if there is one, answered what was not said, or not all of it."""
        if self.prepared is not None:
            self._core.parts.metrics.reply_thrown_away(self.playout.total_ms / 1000)
            self.discard()

    def discard(self) -> None:
        """Nobody hears any more of the reply; the turn goes on without it."""
        if self.reply is not None and self.reply.task is not None:
            self.reply.task.cancel()
        self.playout.drop()
        self.reply = None

    def _finish(self, reply: Reply, outcome: ev.Outcome, heard_ms: int) -> None:
        heard, unheard = reply.split_heard(heard_ms)
        asked_again = reply.typed and not reply.announced and self._core.ended.done()
        if not reply.announced and not asked_again:
            self.history.user(reply.question)
            if outcome in (ev.Outcome.COMPLETED, ev.Outcome.FAILED):
                self._core.send(ev.ReplyStarted(reply.reply_id, reply.turn_id, self.playout.generation))
        apology = self._core.settings.llm.apology
        if outcome is ev.Outcome.FAILED and not reply.announced and reply.question and apology:
            self._says.appendleft(ev.Say(apology))
        self.discard()
        for request, output in reply.consulted if not asked_again else ():
            self.history.tool(request, output)
        self.history.assistant(heard, interrupted=outcome in (ev.Outcome.INTERRUPTED, ev.Outcome.CANCELLED))
        self.on_history(True)
        if reply.announced or outcome in (ev.Outcome.COMPLETED, ev.Outcome.FAILED):
            timings = reply.marks.timings_ms()
            self._core.send(ev.ReplyDone(reply.reply_id, outcome, heard, unheard, heard_ms, timings))
        self._core.parts.metrics.turn_ended(str(outcome))
        reply_over(self._core, reply, str(outcome), heard_ms)
        self.replies += 1
        self._on_over(outcome)


async def _as_given(text: str) -> AsyncGenerator[str, None]:
    yield text
