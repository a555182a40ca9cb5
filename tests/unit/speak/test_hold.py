"""A session's voice over models that come and go: what it says, when it fails, and what is left afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import ModelsSettings, TtsSettings
from gateway.speak.hold import HoldsVoices, VoiceHold, Wish, hold_voice
from gateway.speak.triton_tts import TritonSynthesizer
from gateway.speak.tts import TtsError
from tests.support.fakes import FakeTts
from tests.unit.triton.fleet.parts import Ears, Town, given_back, town, virtual, voice
from tests.unit.triton.manager.fake_triton import Disk


@asynccontextmanager
async def voices(
    *disks: Disk, loaded: tuple[str, ...] = ("tts_a",), tts: dict[str, Any] | None = None, **models: Any
) -> AsyncIterator[tuple[Town, TritonSynthesizer]]:
    async with town(*disks) as here:
        for name in loaded:
            await here.only.triton.load(name)
        synthesizer = TritonSynthesizer(
            TtsSettings(uri=here.addresses, **(tts or {})), ModelsSettings(min_residency_s=0.0, **models)
        )
        try:
            yield here, synthesizer
        finally:
            await synthesizer.close()


async def said(voice: VoiceHold, chunks: int = 2) -> int:
    return len([chunk async for chunk in voice.synthesize(str(chunks))])


@virtual
async def test_preparing_and_speaking_at_once_take_one_hold_and_give_it_back() -> None:
    async with voices(voice("tts_a")) as (here, synthesizer):
        held = hold_voice(synthesizer, Wish(), Ears())
        assert isinstance(synthesizer, HoldsVoices)
        _, chunks = await asyncio.gather(held.prepare(), said(held))
        assert chunks == 2
        assert here.only.holders("tts_a") == 1
        held.release()
        await given_back(here.only, "tts_a", "tts_a@1")


@virtual
async def test_a_voice_that_was_released_takes_nothing_any_more() -> None:
    async with voices(voice("tts_a"), loaded=()) as (here, synthesizer):
        early, waiting = (synthesizer.hold(Wish(), Ears()) for _ in range(2))
        early.release()
        await early.prepare()
        with pytest.raises(TtsError, match="the session has ended"):
            await said(early)
        loading = asyncio.create_task(waiting.prepare())
        await asyncio.sleep(0.3)
        waiting.release()
        await loading
        await asyncio.sleep(3.0)
        await given_back(here.only, "tts_a")


@virtual
async def test_a_session_that_is_cancelled_in_the_middle_of_a_sentence_holds_nothing() -> None:
    async with voices(voice("tts_a")) as (here, synthesizer):
        for after_s in (0.0, 0.0005, 0.001, 0.005, 0.05, 0.5):
            held = synthesizer.hold(Wish(), Ears())
            speaking = asyncio.create_task(said(held, 20))
            await asyncio.sleep(after_s)
            speaking.cancel()
            await asyncio.wait({speaking})
            held.release()
            await given_back(here.only, "tts_a", "tts_a@1")
            assert here.only.opened.total() == 0


@virtual
async def test_another_voice_of_the_model_is_a_change_and_another_model_a_switch() -> None:
    disks = (
        voice("tts_a", voices=("ann", "amy"), default=True),
        voice("tts_b", voices=("bob",)),
    )
    async with voices(*disks, loaded=("tts_a", "tts_b")) as (here, synthesizer):
        ears = Ears()
        held = synthesizer.hold(Wish(voice="ann"), ears)
        await said(held)
        held.change(Wish(voice="amy"), switch=False)
        await said(held)
        with pytest.raises(TtsError, match=r"this session has tts_a.*ask for the switch"):
            held.change(Wish(voice="bob"), switch=False)
        with pytest.raises(TtsError, match="no routing policy fast"):
            held.change(Wish(policy="fast"), switch=True)
        with pytest.raises(TtsError):
            held.change(Wish(model="tts_c"), switch=True)
        await said(held)
        held.change(Wish(voice="bob"), switch=True)
        await said(held)
        assert here.only.asked == ["tts_a@1"] * 3 + ["tts_b@1"]
        assert ears.notices == []
        held.release()
        await given_back(here.only, "tts_a", "tts_b")


@virtual
async def test_a_model_that_dies_is_replaced_before_its_first_audio_and_else_with_the_next_sentence() -> None:
    async with voices(voice("tts_a")) as (here, synthesizer):
        held = synthesizer.hold(Wish(), Ears())
        here.only.triton.kill("tts_a")
        assert await said(held) == 2
        speaking = asyncio.create_task(said(held, 10))
        await asyncio.sleep(0.35)
        here.only.triton.kill("tts_a")
        with pytest.raises(TtsError, match="the speech synthesiser failed") as failure:
            await speaking
        assert failure.value.unwell
        assert await said(held) == 2
        held.release()
        await given_back(here.only, "tts_a", "tts_a@1")


@virtual
async def test_a_model_that_is_full_is_no_reason_to_doubt_the_service() -> None:
    async with voices(voice("tts_a", max_sequences=1)) as (_, synthesizer):
        one, other = (synthesizer.hold(Wish(), Ears()) for _ in range(2))
        speaking = asyncio.create_task(said(one, 5))
        await asyncio.sleep(0.2)
        with pytest.raises(TtsError, match="as much as it takes at a time") as failure:
            await said(other)
        assert (failure.value.unwell, failure.value.later) == (False, True)
        await speaking
        for held in (one, other):
            held.release()


@virtual
async def test_a_load_that_fails_is_told_as_a_sentence() -> None:
    bad = voice("tts_a")
    bad.broken = {1: "a file is missing"}
    async with voices(bad, loaded=()) as (_, synthesizer):
        held = synthesizer.hold(Wish(), Ears())
        await held.prepare()
        with pytest.raises(TtsError, match=r"cannot be used now: .*a file is missing") as failure:
            await said(held)
        assert (failure.value.unwell, failure.value.later) == (False, True), "the text is not to blame"
        held.release()


def test_a_policy_that_names_no_model_is_said_when_the_service_is_checked(tmp_path: Path) -> None:
    @virtual
    async def test() -> None:
        file = tmp_path / "routing.yaml"
        file.write_text("default: {fallbacks: [tts_gone]}\n")
        async with voices(voice("tts_a"), policy=file) as (_, synthesizer):
            with pytest.raises(TtsError, match=r"routing.yaml: default.fallbacks: tts_gone"):
                await synthesizer.check()

    test()


@virtual
async def test_where_nothing_can_be_held_each_sentence_asks_for_itself() -> None:
    remote = FakeTts()
    held = hold_voice(remote, Wish(voice="ann", language="en-US"), Ears())
    await held.prepare()
    assert await said(held) == 1
    held.change(Wish(voice="bob", language="de-DE"), switch=False)
    await said(held)
    held.release()
    assert [asked[:2] for asked in remote.asked] == [("ann", "en-US"), ("bob", "de-DE")]
