"""One utterance on its way through the recogniser, whatever happens to the recogniser.

Audio is kept while it is recognised. When the service fails or falls silent, the utterance is tried
again with backoff and the kept audio replayed, until the retry budget is spent. A service that is left
alone (gateway/breaker.py) is not tried but waited for, within the same budget.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast

from gateway.listen.asr import RATE, AsrError, HeardWord, Hypothesis, Recognizer
from gateway.settings import AsrSettings

_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 1.0


class Utterance:
    """Feed it from the session; run `run()` as a task of the session's own."""

    def __init__(
        self,
        recognizer: Recognizer,
        settings: AsrSettings,
        *,
        language: str,
        on_partial: Callable[[Hypothesis], None],
        on_retry: Callable[[str], None],
    ) -> None:
        """on_partial: each partial, also after a replay. on_retry: why another try is made."""
        self._recognizer, self._settings, self._language = recognizer, settings, language
        self._on_partial, self._on_retry = on_partial, on_retry
        self._blocks: deque[bytes] = deque()
        self._first = 0  # index of _blocks[0] among all blocks ever fed
        self._kept_bytes = 0
        self._dropped_bytes = 0
        self._fed_bytes = 0
        self._wanted = 0  # who waits for audio waits until so much was fed
        self._fed = asyncio.Event()
        self._ended = False
        self._last: Hypothesis | None = None
        self._prefix = ""
        self._result: asyncio.Future[Hypothesis] = asyncio.get_running_loop().create_future()

    def feed(self, pcm: bytes) -> None:
        """PCM16 at 16 kHz. Audio older than `replay_s` is dropped once the recogniser took it."""
        if self._ended:
            return
        self._blocks.append(pcm)
        self._kept_bytes += len(pcm)
        self._fed_bytes += len(pcm)
        if self._fed_bytes >= self._wanted:
            self._fed.set()

    def end(self) -> None:
        """The user has finished."""
        self._ended = True
        self._fed.set()

    async def final(self) -> Hypothesis:
        """The final transcript. Raises AsrError when the retry budget is spent."""
        return await asyncio.shield(self._result)

    async def run(self) -> None:
        """Returns when the final is there or the utterance was given up; never raises AsrError."""
        try:
            self._settle(await self._recognise_with_retries())
        except AsrError as error:
            if not self._result.done():
                self._result.set_exception(error)
                self._result.exception()  # nobody may be waiting: that is no crash
        finally:
            if not self._result.done():
                self._result.cancel()

    def _settle(self, hypothesis: Hypothesis) -> None:
        if not self._result.done():
            self._result.set_result(hypothesis)

    async def _recognise_with_retries(self) -> Hypothesis:
        loop = asyncio.get_running_loop()
        failing_since: float | None = None
        backoff = _FIRST_BACKOFF_S
        waiting = False
        while True:
            progress = self._last
            try:
                return await self._recognise_once()
            except AsrError as error:
                if self._last is not progress:  # it worked for a while: a new failure, a new budget
                    failing_since, backoff = None, _FIRST_BACKOFF_S
                failing_since = loop.time() if failing_since is None else failing_since
                give_up_at = failing_since + self._settings.retry_budget_ms / 1000
                may_try_at = loop.time() + (backoff if error.again is None else 0.0)
                if not error.retryable or may_try_at > give_up_at:
                    raise
                if not waiting or error.again is None:  # several refusals on end are one wait
                    self._on_retry(str(error))
                waiting = error.again is not None
                if error.again is not None:
                    await self._wait(error, error.again, give_up_at)
                    continue
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _LAST_BACKOFF_S)

    @staticmethod
    async def _wait(error: AsrError, again: Callable[[], Awaitable[None]], give_up_at: float) -> None:
        try:
            async with asyncio.timeout_at(give_up_at):
                await again()
        except TimeoutError:
            raise error from None

    async def _recognise_once(self) -> Hypothesis:
        self._prefix = self._text_of_dropped_audio()
        offset_ms = self._dropped_bytes * 1000 // (2 * RATE)
        # Recognizer.recognize is an async generator; the protocol promises only an iterator.
        stream = cast(Any, self._recognizer.recognize(self._audio(), language=self._language))
        async with aclosing(stream):
            async for heard in stream:
                whole = self._with_prefix(heard, offset_ms)
                self._last = whole
                if whole.final:
                    return whole
                self._on_partial(whole)
        raise AsrError("the recogniser ended the stream without a final transcript")

    async def _audio(self) -> AsyncIterator[bytes]:
        """What is fed, in messages of `chunk_ms`, or more where more has waited; the last may be shorter."""
        at = self._first
        while True:
            blocks: list[bytes] = []
            while at < self._first + len(self._blocks):
                blocks.append(self._blocks[at - self._first])
                at += 1
                self._forget_before(at)
            if blocks:
                yield b"".join(blocks)
            if self._ended and at == self._first + len(self._blocks):
                return
            await self._more(self._settings.chunk_ms * 2 * RATE // 1000)

    async def _more(self, size: int) -> None:
        """Waits for so many more bytes, or the end."""
        self._wanted = self._fed_bytes + size
        while not self._ended and self._fed_bytes < self._wanted:
            self._fed.clear()
            await self._fed.wait()

    def _forget_before(self, at: int) -> None:
        limit = int(self._settings.replay_s * RATE) * 2
        while self._kept_bytes > limit and self._first < at - 1:
            gone = len(self._blocks.popleft())
            self._first += 1
            self._kept_bytes -= gone
            self._dropped_bytes += gone

    def _text_of_dropped_audio(self) -> str:
        """Words of the last hypothesis that lie in audio which can no longer be replayed."""
        if not self._dropped_bytes or self._last is None:
            return ""
        dropped_ms = self._dropped_bytes * 1000 / (2 * RATE)
        if self._last.words:
            return " ".join(w.text for w in self._last.words if w.end_ms <= dropped_ms)
        total_ms = dropped_ms + self._kept_bytes * 1000 / (2 * RATE)
        words = self._last.text.split()
        return " ".join(words[: int(len(words) * dropped_ms / total_ms)])

    def _with_prefix(self, heard: Hypothesis, offset_ms: int) -> Hypothesis:
        if not self._prefix and not offset_ms:
            return heard
        text = f"{self._prefix} {heard.text}".strip()
        words = tuple(HeardWord(w.text, w.start_ms + offset_ms, w.end_ms + offset_ms) for w in heard.words)
        return Hypothesis(text, heard.final, heard.stable + len(text) - len(heard.text), words)
