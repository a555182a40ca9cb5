"""The first sentence goes to the voice without waiting for the token behind it; later text is never torn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from gateway.session.reply import Reply
from gateway.settings import PlayoutSettings
from gateway.speak.hold import Wish, hold_voice
from gateway.speak.playout import Playout
from gateway.speak.ticker import Ticker
from gateway.speak.tts import Chunk, VoiceModel
from tests.support.virtual_time import run_virtual


class Voice:
    """Notes what it is given, and when (ms)."""

    def __init__(self) -> None:
        self.said: list[tuple[int, str]] = []

    async def models(self) -> list[VoiceModel]:
        return []

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        self.said.append((round(asyncio.get_running_loop().time() * 1000), text.strip()))
        yield Chunk(bytes(3_200), 16_000)

    async def check(self) -> None: ...

    async def close(self) -> None: ...


async def _reply(*tokens: tuple[int, str]) -> list[tuple[int, str]]:
    async def stream() -> AsyncGenerator[str, None]:
        for wait_ms, text in tokens:
            await asyncio.sleep(wait_ms / 1000)
            yield text

    playout = Playout(
        Ticker(), rate=16_000, lead_ms=60, buffer_s=30, loudness_dbfs=-20.0, send=lambda *frame: None,
        on_mark=lambda number: None, on_heard=lambda: None,
    )  # fmt: skip
    reply = Reply("r", "t", "q", playout.start(), on_failure=lambda part, why: None)
    reply.is_wanted.set()
    voice = Voice()
    begin = round(asyncio.get_running_loop().time() * 1000)
    await reply.run(stream(), hold_voice(voice, Wish(), lambda code, why: None), PlayoutSettings())
    return [(at - begin, text) for at, text in voice.said]


def say(*tokens: tuple[int, str]) -> list[tuple[int, str]]:
    return run_virtual(_reply(*tokens))


def test_a_slow_model_does_not_hold_the_first_sentence_back() -> None:
    said = say((100, "That is"), (20, " a sentence."), (20, " And"), (20, " another one."))
    assert said == [(124, "That is a sentence."), (160, "And another one.")]


def test_the_token_that_comes_at_once_is_waited_for() -> None:
    said = say((100, "The page is"), (20, " example."), (2, "com"), (20, " as you know."))
    assert [text for _, text in said] == ["The page is example.com as you know."]


def test_the_end_of_the_reply_is_no_reason_to_wait() -> None:
    assert say((100, "That is a sentence.")) == [(100, "That is a sentence.")]
