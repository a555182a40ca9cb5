"""When the emulated parts answer, and that a seed repeats it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from gateway.think.llm import Message
from load.emulators import Profile, assignments, read_profile
from load.emulators.distributions import Draws
from load.emulators.llm import timetable
from load.emulators.pace import TICK_S, Pace
from load.emulators.profile import LlmProfile
from load.emulators.tokens import first_sentence, tokens_of
from tests.support.virtual_time import run_virtual
from tests.unit.load.emulators.parts import rig

TOKENS = tokens_of("The next one leaves at ten. It stops twice on the way.")
EARLY_S = 0.003
"""Loops and clocks round to the millisecond."""


def llm(**fields: object) -> LlmProfile:
    return Profile().changed({"llm": fields}).llm


def test_the_first_sentence_is_spread_and_the_rest_has_its_pace() -> None:
    profile = llm(first_token_ms=100, first_sentence_ms=160, tokens_per_s=50)
    due = timetable(TOKENS, 10.0, profile, Draws(1))
    length = first_sentence(TOKENS)
    assert TOKENS[length - 1] == "."
    assert due[0] == pytest.approx(10.1)
    assert due[length - 1] == pytest.approx(10.16)
    gaps = [b - a for a, b in pairwise(due)]
    assert gaps[: length - 1] == pytest.approx([0.06 / (length - 1)] * (length - 1))
    assert gaps[length - 1 :] == pytest.approx([0.02] * (len(TOKENS) - length))


def test_without_a_first_sentence_every_token_has_the_same_pace() -> None:
    due = timetable(TOKENS, 0.0, llm(first_token_ms=100, tokens_per_s=50), Draws(1))
    assert due == pytest.approx([0.1 + number / 50 for number in range(len(TOKENS))])


def test_a_model_without_a_pace_says_all_at_once() -> None:
    assert set(timetable(TOKENS, 1.0, llm(first_token_ms=5), Draws(1))) == {1.005}


def test_the_same_seed_gives_the_same_timetables() -> None:
    profile = llm(
        first_token_ms={"lognormal": {"median": 100, "p95": 300}},
        first_sentence_ms={"lognormal": {"median": 200, "p95": 500}},
    )

    def many(seed: int) -> list[list[float]]:
        draws = Draws(seed)
        return [timetable(TOKENS, 0.0, profile, draws) for _ in range(20)]

    assert many(7) == many(7)
    assert many(7) != many(8)


def test_waits_are_exact_or_end_with_the_tick() -> None:
    async def main() -> None:
        pace, loop = Pace(), asyncio.get_running_loop()
        await pace.until(1.2345)
        assert loop.time() == pytest.approx(1.2345)
        await pace.until(1.0)
        assert loop.time() == pytest.approx(1.2345), "what has passed is not waited for"
        woken: list[float] = []

        async def wait(due: float) -> None:
            await pace.tick(due)
            woken.append(loop.time())

        await asyncio.gather(*(wait(2.0 + number / 1_000) for number in range(1, 11)))
        assert woken == pytest.approx([2.005] * 5 + [2.010] * 5)
        assert TICK_S == 0.005

    run_virtual(main())


def test_one_that_is_cancelled_does_not_hold_up_its_tick() -> None:
    async def main() -> None:
        pace = Pace()
        first, second = pace.tick(1.0), pace.tick(1.0)
        first.cancel()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first

    run_virtual(main())


async def test_no_answer_comes_early() -> None:
    figures = [
        "asr.final_ms=60",
        "llm.first_token_ms=50",
        "llm.first_sentence_ms=90",
        "tts.first_chunk_ms=40",
    ]
    loop = asyncio.get_running_loop()
    async with rig(read_profile("zero").changed(assignments(figures))) as parts:
        began = loop.time()
        await parts.ask("asr")
        assert loop.time() - began >= 0.06 - EARLY_S
        began = loop.time()
        text, times = "", []
        async for token in parts.llm.stream([Message("user", "Hello.")]):
            text += str(token)
            times.append((loop.time() - began, text))
        assert times[0][0] >= 0.05 - EARLY_S
        assert next(at for at, said in times if said.endswith(".")) >= 0.09 - EARLY_S
        began = loop.time()
        await parts.ask("tts")
        assert loop.time() - began >= 0.04 - EARLY_S
