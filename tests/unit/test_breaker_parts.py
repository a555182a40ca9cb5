"""Resilience: which failures of the real clients count for a breaker, and a key that is refused in mid-session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from gateway.breaker import Breaker, State
from gateway.listen.asr import AsrError
from gateway.listen.guarded_asr import GuardedRecognizer
from gateway.speak.guarded_tts import GuardedSynthesizer
from gateway.speak.hold import Wish, hold_voice
from gateway.speak.tts import Chunk, TtsError
from gateway.telemetry.http_server import serve_http
from gateway.think.guarded_llm import GuardedLlm
from gateway.think.llm import LlmError
from gateway.think.openai_llm import OpenAiLlm
from gateway.transports.http import Own, build_admin
from tests.support.draining import no_drain
from tests.support.faulty_llm import FaultyLlm
from tests.support.raw_http import request
from tests.unit.listen import test_riva_asr as riva_asr
from tests.unit.speak import test_riva_tts as riva_tts
from tests.unit.speak import test_triton_tts as triton_tts
from tests.unit.think.test_openai_llm import ASK, settings

Code = grpc.StatusCode


def breaker() -> Breaker:
    """Opens at the first failure that counts."""
    return Breaker("the part", failures=1, open_s=60.0)


def opened(guard: Breaker) -> bool:
    return guard.state is State.OPEN


# ---- the LLM -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "counts"),
    [
        *[(fault, True) for fault in ("500", "503", "429", "die_at_once", "die", "cut", "garbage", "stall", "hang")],
        *[(fault, False) for fault in ("400", "401", "404", "ok")],
    ],
)  # fmt: skip
async def test_which_llm_failures_count(fault: str, counts: bool) -> None:
    async with FaultyLlm(fault) as server:
        guard = breaker()
        llm = GuardedLlm(
            OpenAiLlm(settings(server.base_url, retries=0, first_token_ms=200, token_ms=200)), guard
        )
        try:
            parts = [part async for part in llm.stream(ASK)]
        except LlmError:
            parts = []
        assert bool(parts) is (fault == "ok")
        assert opened(guard) is counts
        await llm.close()


async def test_all_tries_of_one_reply_count_once_and_a_try_that_helped_is_no_failure() -> None:
    async with FaultyLlm("500", "500", "ok") as server:
        guard = breaker()
        llm = GuardedLlm(OpenAiLlm(settings(server.base_url, retries=2)), guard)
        assert [part async for part in llm.stream(ASK)] == ["One", " two", " three."]
        assert not opened(guard)
        await llm.close()
        server.mode = "500"
        guard = Breaker("the LLM", failures=2, open_s=60)
        llm = GuardedLlm(OpenAiLlm(settings(server.base_url, retries=2)), guard)
        with pytest.raises(LlmError):
            await anext(llm.stream(ASK))
        assert not opened(guard)
        await llm.close()


async def test_an_llm_key_refused_in_mid_session_is_said_each_time_and_works_again_at_once() -> None:
    async with FaultyLlm("ok") as server:
        guard = breaker()
        llm = GuardedLlm(OpenAiLlm(settings(server.base_url, api_key=SecretStr("sk-gone"))), guard)
        assert [part async for part in llm.stream(ASK)]
        server.mode = "401"
        for _ in range(6):
            with pytest.raises(LlmError, match="refused the API key") as refused:
                await anext(llm.stream(ASK))
            assert "sk-gone" not in str(refused.value)
        server.mode = "ok"
        assert [part async for part in llm.stream(ASK)]
        await llm.close()


# ---- the recogniser ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "details", "counts"),
    [
        (Code.UNAVAILABLE, "going away", True),
        (Code.INTERNAL, "boom", True),
        (Code.RESOURCE_EXHAUSTED, "too many streams", True),
        (Code.DEADLINE_EXCEEDED, "late", True),
        (Code.INVALID_ARGUMENT, "no such rate", False),
        (Code.INVALID_ARGUMENT, "unknown key in custom_configuration", False),
        (Code.UNKNOWN, "Error: Unavailable model requested. Lang: ru-RU", False),
        (Code.UNAUTHENTICATED, "bad key", False),
        (Code.PERMISSION_DENIED, "bad key", False),
    ],
)
async def test_which_recogniser_failures_count(code: grpc.StatusCode, details: str, counts: bool) -> None:
    async def script(service: Any, requests: AsyncIterator[Any], context: Any) -> None:
        await context.abort(code, details)

    async with riva_asr.served(script) as (_, recognizer):
        guard = breaker()
        with pytest.raises(AsrError):
            await riva_asr.all_of(
                GuardedRecognizer(recognizer, guard),  # type: ignore[arg-type]
                riva_asr.chunks(riva_asr.LOUD),
            )
        assert opened(guard) is counts


async def test_a_recogniser_that_falls_silent_counts_and_one_that_answered_before_it_broke_too() -> None:
    async def deaf(service: Any, requests: AsyncIterator[Any], context: Any) -> None:
        await asyncio.Event().wait()

    async def breaks(service: Any, requests: AsyncIterator[Any], context: Any) -> None:
        await context.write(riva_asr.said(("hello", False, 0.9)))
        await context.abort(Code.UNAVAILABLE, "gone")

    for script in (deaf, breaks):
        async with riva_asr.served(script, deadline_ms=100) as (_, recognizer):
            guard = breaker()
            with pytest.raises(AsrError):
                await riva_asr.all_of(
                    GuardedRecognizer(recognizer, guard),  # type: ignore[arg-type]
                    riva_asr.chunks(riva_asr.LOUD),
                )
            assert opened(guard)


# ---- the synthesisers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "details", "counts"),
    [
        (Code.UNAVAILABLE, "gone", True),
        (Code.INTERNAL, "boom", True),
        (Code.RESOURCE_EXHAUSTED, "busy", True),
        (Code.INVALID_ARGUMENT, "bad text", False),
        (Code.UNKNOWN, "Model is not available on server: Voice foo", False),
        (Code.UNAUTHENTICATED, "key", False),
    ],
)
async def test_which_riva_synthesis_failures_count(code: grpc.StatusCode, details: str, counts: bool) -> None:
    async def script(context: Any) -> None:
        await context.abort(code, details)

    async with riva_tts.served(script) as (_, synthesizer):
        guard = breaker()
        with pytest.raises(TtsError):
            await anext(GuardedSynthesizer(synthesizer, guard).synthesize("Hello."))
        assert opened(guard) is counts


async def test_which_triton_synthesis_failures_count() -> None:
    async with triton_tts.served(triton_tts.three_chunks, triton_tts.model("tts_a", voices="slt")) as (
        triton,
        synthesizer,
    ):
        guard = breaker()
        guarded = GuardedSynthesizer(synthesizer, guard)
        wrongs: list[dict[str, Any]] = [{"voice": "nobody"}, {"language": "xx", "voice": "nobody"}]
        for wrong in wrongs:
            with pytest.raises(TtsError, match="no voice"):
                await anext(guarded.synthesize("Hello.", **wrong))
        assert [chunk async for chunk in guarded.synthesize(" … ")] == []
        assert len([chunk async for chunk in guarded.synthesize("Hello.")]) == 3
        assert not opened(guard)
        triton.speak = triton_tts.no_audio
        with pytest.raises(TtsError, match="made no audio"):
            await anext(guarded.synthesize("Hello."))
        assert not opened(guard)
    async with triton_tts.served(triton_tts.one_and_hang, chunk_ms=100) as (_, synthesizer):
        guard = breaker()
        with pytest.raises(TtsError, match="no answer within"):
            async for _chunk in GuardedSynthesizer(synthesizer, guard).synthesize("Hello."):
                pass
        assert opened(guard)


async def test_a_session_s_hold_on_its_voice_goes_through_the_breaker_sentence_by_sentence() -> None:
    told: list[str] = []
    async with triton_tts.served(triton_tts.three_chunks, triton_tts.model("tts_a", voices="slt")) as (
        triton,
        synthesizer,
    ):
        guard = breaker()
        held = hold_voice(
            GuardedSynthesizer(synthesizer, guard), Wish(voice="slt"), lambda code, message: told.append(code)
        )
        chunks, _ = await asyncio.gather(_all(held.synthesize("Hello.")), held.prepare())
        assert len(chunks) == 3
        await synthesizer.fleet.drains.close()  # a sentence holds its version until its call is over
        (lease,) = [status.leases for one in synthesizer.fleet.managers().values() for status in one.seen()]
        assert lease == 1, "the sentence and the preparation share one hold"
        with pytest.raises(TtsError, match="no voice nobody"):
            held.change(Wish(voice="nobody"), switch=False)
        triton.speak = triton_tts.one_and_hang
        with pytest.raises(TtsError, match="no answer within"):
            await _all(held.synthesize("Hello."))
        assert opened(guard)
        with pytest.raises(TtsError, match="left alone") as refused:
            await _all(held.synthesize("Hello."))
        assert refused.value.later
        held.release()


async def _all(chunks: AsyncGenerator[Chunk, None]) -> list[Chunk]:
    return [chunk async for chunk in chunks]


# ---- readiness ---------------------------------------------------------------------------------


async def test_readiness_shows_a_part_that_is_left_alone_and_liveness_does_not() -> None:
    async with FaultyLlm("500") as server:
        guard = breaker()
        llm = GuardedLlm(OpenAiLlm(settings(server.base_url, retries=0)), guard)
        with pytest.raises(LlmError):
            await anext(llm.stream(ASK))
        server.mode = "ok"  # it could answer again: whether it does is not tried before the time
        pages = Own({"llm": llm.check}, CollectorRegistry(), list)
        http = serve_http(build_admin(pages, no_drain()), "127.0.0.1", 0)
        port = await http.start()
        try:
            status, _, text = await request(port, "GET", "/readyz")
            assert status == 503
            assert "failed just now and is left alone" in text
            assert (await request(port, "GET", "/healthz"))[0] == 200
        finally:
            await http.stop()
            await llm.close()
