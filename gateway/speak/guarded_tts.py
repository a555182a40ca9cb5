"""A synthesiser behind a breaker: while it is left alone, a reply fails at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.breaker import Breaker, LeftAlone
from gateway.speak.tts import Chunk, Synthesizer, TtsError, VoiceModel


class GuardedSynthesizer:
    """A `Synthesizer`."""

    def __init__(self, synthesizer: Synthesizer, breaker: Breaker) -> None:
        self._synthesizer, self._breaker = synthesizer, breaker

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        """See `Synthesizer.synthesize`; each sentence counts by itself."""
        try:
            with self._breaker.call(_unwell) as call:
                async with aclosing(
                    self._synthesizer.synthesize(
                        text, voice=voice, language=language, speed=speed, model=model
                    )
                ) as chunks:
                    async for chunk in chunks:
                        call.answered()
                        yield chunk
        except LeftAlone as refused:
            raise TtsError(str(refused), unwell=False, later=True) from None

    async def models(self) -> list[VoiceModel]:
        return await self._synthesizer.models()

    async def check(self) -> None:
        """Raises TtsError also while the synthesiser is left alone."""
        if refusal := self._breaker.refusal:
            raise TtsError(refusal)
        await self._synthesizer.check()

    async def close(self) -> None:
        await self._synthesizer.close()


def _unwell(error: BaseException) -> bool:
    return isinstance(error, TtsError) and error.unwell
