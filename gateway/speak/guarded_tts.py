"""A synthesiser behind a breaker: while it is left alone, a reply fails at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.breaker import Breaker, LeftAlone
from gateway.speak.hold import Notify, VoiceHold, Wish, hold_voice
from gateway.speak.tts import Chunk, Synthesizer, TtsError, VoiceModel


class GuardedSynthesizer:
    """A `Synthesizer` that `HoldsVoices`."""

    def __init__(self, synthesizer: Synthesizer, breaker: Breaker) -> None:
        self._synthesizer, self._breaker = synthesizer, breaker

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        """See `Synthesizer.synthesize`; each sentence counts by itself."""
        spoken = self._synthesizer.synthesize(text, voice=voice, language=language, speed=speed, model=model)
        async with aclosing(_guarded(self._breaker, spoken)) as chunks:
            async for chunk in chunks:
                yield chunk

    def hold(self, wish: Wish, notify: Notify) -> VoiceHold:
        return _GuardedVoice(hold_voice(self._synthesizer, wish, notify), self._breaker)

    async def models(self) -> list[VoiceModel]:
        return await self._synthesizer.models()

    async def check(self) -> None:
        """Raises TtsError also while the synthesiser is left alone."""
        if refusal := self._breaker.refusal:
            raise TtsError(refusal)
        await self._synthesizer.check()

    async def close(self) -> None:
        await self._synthesizer.close()


class _GuardedVoice:
    """A `VoiceHold` whose sentences count; to take hold ahead, and to let go, needs nobody's leave."""

    def __init__(self, held: VoiceHold, breaker: Breaker) -> None:
        self._held, self._breaker = held, breaker

    async def prepare(self) -> None:
        if not self._breaker.refusal:
            await self._held.prepare()

    def change(self, wish: Wish, *, switch: bool) -> None:
        self._held.change(wish, switch=switch)

    def synthesize(self, text: str) -> AsyncGenerator[Chunk, None]:
        return _guarded(self._breaker, self._held.synthesize(text))

    def release(self) -> None:
        self._held.release()


async def _guarded(breaker: Breaker, spoken: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
    try:
        with breaker.call(_unwell) as call:
            async with aclosing(spoken) as chunks:
                async for chunk in chunks:
                    call.answered()
                    yield chunk
    except LeftAlone as refused:
        raise TtsError(str(refused), unwell=False, later=True) from None


def _unwell(error: BaseException) -> bool:
    return isinstance(error, TtsError) and error.unwell
