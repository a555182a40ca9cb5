"""One reply: LLM ▸ pieces ▸ synthesis ▸ playout, each working while the next one does.

A reply may be begun on a guess at the question: then no more than its first piece is synthesised, and
nobody hears of it, not even of its failure, until it is `wanted`. Whatever ends it, `split_heard()` says
which words reached the user.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.settings import PlayoutSettings
from gateway.speak.hold import VoiceHold
from gateway.speak.playout import Track
from gateway.speak.tts import Chunk, TtsError
from gateway.telemetry.context import asking
from gateway.think.llm import LlmError, ToolRequest
from gateway.think.sentences import SentenceSplitter, spoken

if TYPE_CHECKING:
    from gateway.telemetry.spans import TurnTrace

_PIECES_AHEAD = 8
"""Pieces of text the LLM may be ahead of synthesis; then its stream is not read."""
_RIPE_S = 0.004
"""How long the first sentence waits for the token behind it, which could show that it goes on."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

Tokens = AsyncGenerator[str, None]


@dataclass(slots=True)
class Piece:
    """A stretch of reply text and where its audio lies."""

    text: str
    start_ms: int = -1
    """In the reply's audio; −1: not synthesised yet."""
    end_ms: int = -1
    """−1: not synthesised to its end yet."""


@dataclass(slots=True)
class Marks:
    """Loop times (s) at which a reply's stages were reached; None: not reached."""

    speech_end: float | None = None
    turn_end: float | None = None
    final: float | None = None
    first_token: float | None = None
    first_piece: float | None = None
    first_chunk: float | None = None
    first_audio: float | None = None

    def ask(self, turn: Marks) -> None:
        """Take over what the user's side of the turn knows."""
        self.speech_end, self.turn_end, self.final = turn.speech_end, turn.turn_end, turn.final

    def timings_ms(self) -> dict[str, float]:
        """Stage latencies; the keys are those of telemetry.metrics.STAGES."""
        stages = {
            "end_of_turn": (self.speech_end, self.turn_end),
            "speech_end_to_final": (self.speech_end, self.final),
            "final_to_first_token": (self.final, self.first_token),
            "first_token_to_first_sentence": (self.first_token, self.first_piece),
            "sentence_to_first_chunk": (self.first_piece, self.first_chunk),
            "first_chunk_to_first_audio": (self.first_chunk, self.first_audio),
            "final_to_first_audio": (self.final, self.first_audio),
            "voice_to_voice": (self.speech_end, self.first_audio),
        }
        return {
            name: round(max(0.0, b - a) * 1000, 1)
            for name, (a, b) in stages.items()
            if a is not None and b is not None
        }


@dataclass(slots=True)
class Reply:
    """State of one reply. `run()` is a task of the session's."""

    reply_id: str
    turn_id: str
    question: str
    """The user's words answered; empty for words spoken as given."""
    track: Track
    on_failure: Callable[[str, str], None]
    """(part, message for people): `llm` or `tts` failed."""
    interruptible: bool = True
    typed: bool = False
    """The question is no more than what a client typed, which asks again where no reply began."""
    marks: Marks = field(default_factory=Marks)
    trace: TurnTrace | None = None
    pieces: list[Piece] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    failed: bool = False
    """A part failed; what it had made before is still heard."""
    texts_sent: int = 0
    """Pieces whose audio started to be sent."""
    announced: bool = False
    """`ReplyStarted` was sent."""
    consulted: list[tuple[ToolRequest, str]] = field(default_factory=list)
    """The tools that the model has called for it, and what they answered."""
    is_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set unless it answers a guess."""

    def answers(self, question: str) -> bool:
        """Whether it was asked the same, in words if not in letters: finals have the punctuation that partials lack."""
        return not self.failed and same_words(self.question, question)

    def wanted(self, question: str, turn: Marks) -> None:
        """The guess was right, and this is the question in full."""
        self.question = question
        self.marks.ask(turn)
        self.is_wanted.set()

    def fail(self, part: str, message: str) -> None:
        if not self.track.open:
            return  # given up already: nobody asks any more
        self.failed = True
        if self.is_wanted.is_set():
            self.on_failure(part, message)

    def split_heard(self, heard_ms: int) -> tuple[str, str]:
        """(heard, unheard) text at `heard_ms`: a piece cut in the middle is cut between words, by its share."""
        heard: list[str] = []
        for number, piece in enumerate(self.pieces):
            if piece.start_ms < 0 or (piece.start_ms >= heard_ms and piece.end_ms != piece.start_ms):
                break
            if 0 <= piece.end_ms <= heard_ms:
                heard.append(piece.text)
                continue
            length = (piece.end_ms if piece.end_ms >= 0 else self.track.total_ms) - piece.start_ms
            share = (heard_ms - piece.start_ms) / length if length > 0 else 0.0
            words = piece.text.split(" ")
            keep = int(len(words) * min(share, 1.0))
            rest = [" ".join(words[keep:])] + [p.text for p in self.pieces[number + 1 :]]
            if keep:
                heard.append(" ".join(words[:keep]))
            return "".join(heard).strip(), "".join(rest).strip()
        return "".join(heard).strip(), "".join(p.text for p in self.pieces[len(heard) :]).strip()

    async def run(self, tokens: Tokens, speech: VoiceHold, settings: PlayoutSettings) -> None:
        """Returns when all audio is in playout or a part failed; the rest is playout's."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(_PIECES_AHEAD)
        speaker = _Speaker(self, speech)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._think(tokens, queue, settings.first_sentence_chars))
                group.create_task(speaker.run(queue))
        except* _SynthesisFailed:
            await self.is_wanted.wait()
            self.track.finish()

    async def _think(self, tokens: Tokens, queue: asyncio.Queue[str | None], first_chars: int) -> None:
        loop = asyncio.get_running_loop()
        splitter = SentenceSplitter(first_chars)
        ripening: asyncio.TimerHandle | None = None

        def pluck() -> None:
            self._note_piece()
            queue.put_nowait(splitter.take())  # the first: there is room

        try:
            async with aclosing(tokens):
                async for token in tokens:
                    if ripening is not None:
                        ripening.cancel()
                        ripening = None
                    if self.marks.first_token is None:
                        self.marks.first_token = loop.time()
                    for piece in splitter.feed(token):
                        self._note_piece()
                        await queue.put(piece)
                    if splitter.ripe:
                        ripening = loop.call_later(_RIPE_S, pluck)
        except LlmError as error:
            self.fail("llm", str(error))  # what it said before is still spoken
        finally:
            if ripening is not None:
                ripening.cancel()
        for piece in splitter.flush():
            self._note_piece()
            await queue.put(piece)
        await queue.put(None)

    def _note_piece(self) -> None:
        if self.marks.first_piece is None:
            self.marks.first_piece = asyncio.get_running_loop().time()


@dataclass(slots=True)
class _Speaker:
    reply: Reply
    speech: VoiceHold

    async def run(self, queue: asyncio.Queue[str | None]) -> None:
        while (text := await queue.get()) is not None:
            await self._say(text)
            await self.reply.is_wanted.wait()
        await self.reply.is_wanted.wait()
        self.reply.track.finish()

    async def _say(self, text: str) -> None:
        piece = Piece(text)
        self.reply.pieces.append(piece)
        piece.start_ms = self.reply.track.total_ms
        self.reply.track.mark(len(self.reply.pieces) - 1)
        words = spoken(text)
        if words:
            try:
                await self._speak(words)
            except TtsError as error:
                self.reply.fail("tts", str(error))
                raise _SynthesisFailed from error
        piece.end_ms = self.reply.track.total_ms

    async def _speak(self, words: str) -> None:
        chunks = self.speech.synthesize(words)
        with asking("tts", characters=len(words)):
            await self._write(chunks)

    async def _write(self, chunks: AsyncGenerator[Chunk, None]) -> None:
        async with aclosing(chunks):
            async for chunk in chunks:
                if self.reply.marks.first_chunk is None:
                    self.reply.marks.first_chunk = asyncio.get_running_loop().time()
                await self.reply.track.write(chunk)


class _SynthesisFailed(Exception):
    """Ends the reply's task group, and with it the LLM's stream."""


def same_words(one: str, other: str) -> bool:
    """Letters' case and punctuation do not count."""
    return _WORD.findall(one.casefold()) == _WORD.findall(other.casefold())
