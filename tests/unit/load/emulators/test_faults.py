"""Every fault of every part as the gateway's own clients see it: one clear error, or no harm at all."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import cast

import pytest

from load.emulators.faults import Part
from tests.unit.load.emulators.parts import ERRORS, Rig, rig

LATE = "no answer within|did not answer within|stalled|fell silent"
CUT = "no speech recogniser answers|broke off|cannot be reached|Socket closed|connection|reset|Triton cannot"


async def failure(parts: Rig, part: str) -> str:
    with pytest.raises(ERRORS) as caught:
        await parts.ask(part)
    return str(caught.value)


@pytest.mark.parametrize("part", ["asr", "llm", "tts"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("stall", LATE),
        ("refuse", r"refuses this request|failed by itself \(503\)"),
        ("die", CUT),
        ("garbage", "not the OpenAI chat API|not the Riva ASR API|not Triton's API"),
    ],
)
async def test_a_fault_in_the_middle_is_told_and_the_next_request_is_spared(
    part: str, kind: str, words: str
) -> None:
    async with rig() as parts:
        await parts.fault(part, kind)
        text = await failure(parts, part)
        assert re.search(words, text), text
        assert await parts.ask(part) > 1
        assert (await parts.stats())[part]["faults"] == 1


@pytest.mark.parametrize("part", ["asr", "llm", "tts"])
@pytest.mark.parametrize("kind", ["stall", "refuse", "die", "garbage"])
async def test_a_fault_before_the_first_answer(part: str, kind: str) -> None:
    """A client may try again by itself, as long as nothing has been said."""
    async with rig() as parts:
        await parts.fault(part, kind, after=0)
        with contextlib.suppress(*ERRORS):
            await parts.ask(part)
        assert await parts.ask(part) > 1


@pytest.mark.parametrize("part", ["asr", "llm", "tts"])
async def test_a_slow_drip_is_slow_and_whole(part: str) -> None:
    async with rig() as parts:
        whole = await parts.ask(part)
        await parts.fault(part, "drip", drip_ms=20, after=0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await parts.ask(part) >= min(whole, 3)
        assert loop.time() - began >= 0.04


@pytest.mark.parametrize("part", ["asr", "llm", "tts"])
async def test_a_drip_slower_than_a_deadline_is_an_error(part: str) -> None:
    async with rig() as parts:
        await parts.fault(part, "drip", drip_ms=2_000)
        assert re.search(LATE, await failure(parts, part))


async def test_a_retry_before_the_first_token_finds_a_model_that_works() -> None:
    async with rig(retries=2) as parts:
        await parts.fault("llm", "refuse", count=2)
        assert await parts.ask("llm") > 1
        assert (await parts.stats())["llm"]["requests"] == 3


async def test_so_many_faults_and_no_more_in_the_order_they_were_given() -> None:
    async with rig() as parts:
        await parts.fault("tts", "refuse", count=2)
        await parts.fault("tts", "stall", after=0)
        assert "refuses" in await failure(parts, "tts")
        assert "refuses" in await failure(parts, "tts")
        assert "no answer within" in await failure(parts, "tts")
        assert await parts.ask("tts") > 1


async def test_faults_for_a_while_and_mercy() -> None:
    async with rig() as parts:
        await parts.fault("llm", "refuse", for_s=600)
        await failure(parts, "llm")
        await failure(parts, "llm")
        assert await parts.ask("asr") > 1, "the others are spared"
        await parts.spare()
        assert await parts.ask("llm") > 1
        await parts.fault("llm", "refuse", for_s=0)
        assert await parts.ask("llm") > 1, "the time is over"


async def test_a_stalled_part_lets_go_of_a_client_that_leaves() -> None:
    async with rig() as parts:
        for part in ("asr", "llm", "tts"):
            await parts.fault(part, "stall")
            await failure(parts, part)
        await parts.is_idle()


# ---- connections ------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["asr", "llm", "tts"])
async def test_a_cut_resets_what_is_open_and_the_next_request_goes_through(part: str) -> None:
    async with rig() as parts:
        await parts.fault(part, "stall")
        answered = asyncio.Event()
        running = asyncio.create_task(parts.ask(part, answered))
        await answered.wait()
        assert (await parts.order("cut", {"part": part}))["cut"] >= 1
        with pytest.raises(ERRORS) as caught:
            await running
        assert re.search(CUT, str(caught.value))
        assert await parts.ask(part) > 1
        assert (await parts.stats())[part]["listening"]


@pytest.mark.parametrize("part", ["asr", "llm", "tts"])
async def test_a_part_goes_down_and_comes_back_under_the_same_address(part: str) -> None:
    async with rig() as parts:
        assert await parts.ask(part) > 1
        assert (await parts.order("restart", {"part": part, "down_s": 0.3}))["status"] == 200
        assert not (await parts.stats())[part]["listening"]
        await failure(parts, part)
        await parts.parts.ports[cast(Part, part)].reopened()
        assert (await parts.stats())[part]["listening"]
        await parts.works_again(part)
