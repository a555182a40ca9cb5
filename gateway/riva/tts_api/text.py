"""An utterance's text on its way in: deltas of a language model, cut into what is spoken at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from gateway.protocol import tts_pb2 as pb
from gateway.riva.tts_api.errors import CODE, Refused
from gateway.think.sentences import SentenceSplitter

_WAITING_CHARS = 4_000
"""Text that may wait to be spoken; beyond it nothing is read, and HTTP/2 holds the client back."""
_MESSAGE_CHARS = 20_000
_RIPE_S = 0.02
"""A first sentence that looks whole is spoken when so long nothing follows it."""
_DRAIN_S = 0.1


class TextFeed:
    """The client's side of one call. `first()`, then `start()`; `close()` at the end, also after a failure."""

    def __init__(self, requests: AsyncIterator[pb.SynthesizeRequest], first_chars: int) -> None:
        """first_chars: the first piece has at least so many, unless the text is shorter."""
        self._requests = aiter(requests)
        self._splitter = SentenceSplitter(first_chars)
        self._pieces: deque[str] = deque()
        self._waiting = 0
        self._ended = False
        self._discards = False
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._ripening: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.began: float | None = None
        """Loop time of the first text."""
        self._touch: Callable[[], None] = lambda: None

    async def first(self, idle_s: float) -> pb.SynthesizeRequest:
        """Raises Refused when none comes."""
        try:
            async with asyncio.timeout(idle_s):
                message = await anext(self._requests, None)
        except TimeoutError:
            raise Refused(f"no message for {idle_s:.0f} seconds: send text", CODE.DEADLINE_EXCEEDED) from None
        if message is None:
            raise Refused("the call ended before its first message: name the session and send text")
        return message

    def start(self, first: pb.SynthesizeRequest, touch: Callable[[], None]) -> None:
        """touch: called with every message."""
        self._touch = touch
        self._task = asyncio.create_task(self._read(first), name="text to speak")

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Sentence by sentence, as they are complete. Raises what reading raised."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._waiting -= len(piece)
                self._room.set()
                if any(map(str.isalnum, piece)):
                    yield piece
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return
            self._changed.clear()
            await self._changed.wait()

    @property
    def depth(self) -> int:
        """Pieces that wait."""
        return len(self._pieces)

    async def drain(self) -> None:
        """Read what the client is about to write: grpc.aio's client reports a status that arrives during its
        write as an internal error of its own."""
        self._discards = True
        self._room.set()
        if self._task is None:
            self._task = asyncio.create_task(self._discard(), name="text to drop")
        await asyncio.wait({self._task}, timeout=_DRAIN_S)

    def close(self) -> None:
        self._cool()
        if self._task is not None:
            self._task.cancel()

    async def _read(self, first: pb.SynthesizeRequest) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._take(first, loop)
            async for message in self._requests:
                if self._discards:
                    continue
                if message.session_id and message.session_id != first.session_id:
                    raise Refused("a later message names another session: open a call for each session")
                if message.HasField("utterance"):
                    raise Refused("`utterance` belongs into the first message of a call")
                self._take(message, loop)
                while self._waiting > _WAITING_CHARS and not self._discards:
                    self._room.clear()
                    await self._room.wait()
            self._add(self._splitter.flush())
        except Exception as error:
            self._failure = error
        finally:
            self._cool()
            self._ended = True
            self._changed.set()

    def _take(self, message: pb.SynthesizeRequest, loop: asyncio.AbstractEventLoop) -> None:
        if len(message.text) > _MESSAGE_CHARS:
            raise Refused(
                f"a text of {len(message.text)} characters is too long for one message: "
                f"send it in pieces of at most {_MESSAGE_CHARS}"
            )
        self._touch()
        if message.text:
            self._cool()
            if self.began is None:
                self.began = loop.time()
            self._add(self._splitter.feed(message.text))
        if message.flush:
            self._add(self._splitter.flush())
        elif message.text and self._splitter.ripe:
            self._ripening = loop.call_later(_RIPE_S, self._pluck)

    def _pluck(self) -> None:
        self._ripening = None
        self._add([self._splitter.take()])

    def _cool(self) -> None:
        if self._ripening is not None:
            self._ripening.cancel()
            self._ripening = None

    def _add(self, pieces: list[str]) -> None:
        if pieces:
            self._pieces.extend(pieces)
            self._waiting += sum(map(len, pieces))
            self._changed.set()

    async def _discard(self) -> None:
        with contextlib.suppress(Exception):
            async for _ in self._requests:
                pass
