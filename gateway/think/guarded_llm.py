"""A language model behind a breaker: while it is left alone, a reply fails at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from gateway.breaker import Breaker, LeftAlone
from gateway.think.llm import LanguageModel, LlmError, Message, ToolOffer, ToolRequest
from gateway.think.llm_errors import RefusedRequest, is_retryable

_BUSY = (408, 429)


class GuardedLlm:
    """A `LanguageModel`."""

    def __init__(self, llm: LanguageModel, breaker: Breaker) -> None:
        self._llm, self._breaker = llm, breaker

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolOffer] = ()
    ) -> AsyncGenerator[str | ToolRequest, None]:
        """See `LanguageModel.stream`; a reply counts once, with all its tries."""
        try:
            with self._breaker.call(_unwell) as call:
                async with aclosing(self._llm.stream(messages, tools)) as parts:
                    async for part in parts:
                        call.answered()
                        yield part
        except LeftAlone as refused:
            raise LlmError(str(refused)) from None

    def warm_up(self, messages: Sequence[Message] = (), tools: Sequence[ToolOffer] = ()) -> None:
        """See `LanguageModel.warm_up`; not while the model is left alone."""
        if not self._breaker.refusal:
            self._llm.warm_up(messages, tools)

    async def check(self) -> None:
        """Raises LlmError also while the model is left alone."""
        if refusal := self._breaker.refusal:
            raise LlmError(refusal)
        await self._llm.check()

    async def close(self) -> None:
        await self._llm.close()


def _unwell(error: BaseException) -> bool:
    """A request that is refused for what it is (bad, unknown model, wrong key) says nothing of the model's health."""
    if not isinstance(error, LlmError):
        return False
    cause = error.__cause__
    if isinstance(cause, RefusedRequest):
        return cause.status >= 500 or cause.status in _BUSY
    return not isinstance(cause, Exception) or is_retryable(cause)
