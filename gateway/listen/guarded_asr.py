"""A recogniser behind a breaker: while it is left alone, an utterance waits with its audio kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, cast

from gateway.breaker import Breaker, LeftAlone
from gateway.listen.asr import AsrError, Hypothesis, Recognizer


class GuardedRecognizer:
    """A `Recognizer`; refusals are retryable AsrErrors that say when to come `again`."""

    def __init__(self, recognizer: Recognizer, breaker: Breaker) -> None:
        self._recognizer, self._breaker = recognizer, breaker

    async def recognize(
        self, audio: AsyncIterator[bytes], *, language: str, hints: Sequence[str] = ()
    ) -> AsyncGenerator[Hypothesis, None]:
        """See `Recognizer.recognize`."""
        try:
            with self._breaker.call(_unwell) as call:
                # Recognizer.recognize is an async generator; the protocol promises only an iterator.
                stream = cast(Any, self._recognizer.recognize(audio, language=language, hints=hints))
                async with aclosing(stream):
                    async for heard in stream:
                        if heard.final:
                            call.done()
                        else:
                            call.answered()
                        yield heard
        except LeftAlone as refused:
            raise AsrError(str(refused), unwell=False, again=self._breaker.free) from None

    async def check(self) -> None:
        """Raises AsrError also while the recogniser is left alone."""
        if refusal := self._breaker.refusal:
            raise AsrError(refusal)
        await self._recognizer.check()

    async def close(self) -> None:
        await self._recognizer.close()


def _unwell(error: BaseException) -> bool:
    return isinstance(error, AsrError) and error.unwell
