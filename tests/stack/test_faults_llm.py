"""A language model that hangs, refuses, dies or talks nonsense: the user is told and can go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.session import events as ev
from tests.stack.whole import Bystander, Table, Whole, whole
from tests.support.caller import Caller
from tests.support.stack import TEST_MODELS, Stack, shared_stack

pytestmark = [pytest.mark.stack]

stack = shared_stack("tts_tone", repository=TEST_MODELS, scope="module")

SAYS = {
    "hang": "did not answer within 0.5 s",
    "500": "failed by itself (500)",
    "die": "broke off in the middle",
    "die_at_once": "cannot be reached",
    "stall": "stalled: no token for 0.5 s",
    "garbage": "not the OpenAI chat API",
    "garbage_late": "in the middle of a reply",
}
"""By fault of tests/support/faulty_llm.py: part of what the user is told."""
BEGINS = ("die", "stall", "garbage_late")
"""Faults that come after two words."""


@pytest.fixture
async def parley(stack: Stack) -> AsyncIterator[Whole]:
    llm = {"first_token_ms": 500, "token_ms": 500, "retries": 1}
    async with whole(stack.triton.grpc, llm=llm) as parley:
        yield parley


async def test_a_faulty_llm_is_said_and_forgotten(parley: Whole, table: Table) -> None:
    """One session through all of them, and another one that speaks all the while."""
    async with parley.call() as caller, parley.call() as other:
        for number, (mode, says) in enumerate(SAYS.items()):
            bystander = Bystander(other, "tone 500 for 800", hz=500)
            await bystander.begin()
            broken, whole_again = 700 + 200 * number, 800 + 200 * number
            await meets(parley, caller, mode, says, broken, whole_again, table)
            table.rows[-1] = (*table.rows[-1][:3], await bystander.finish())


async def meets(
    parley: Whole, caller: Caller, mode: str, says: str, broken: int, next_tone: int, table: Table
) -> None:
    loop = asyncio.get_running_loop()
    parley.llm.mode = mode
    asked = loop.time()
    mark = await caller.typed(f"tone {broken} for 300")
    told = await caller.until(ev.Error, mark)
    assert told.code == "llm_failed"
    assert says in told.message, told.message
    done = await caller.done(mark)
    assert done.outcome == "failed"
    # What it said before it broke off is heard: its first two words.
    assert caller.tones(broken, since=mark) == ([broken] if mode in BEGINS else [])
    assert done.text == (f"tone {broken}" if mode in BEGINS else "")

    parley.llm.mode = "ok"
    back = loop.time()
    answer = await caller.ask(f"tone {next_tone} for 200")
    assert answer.done.outcome == "completed", answer.errors
    assert answer.tones(broken, next_tone) == [next_tone]
    assert answer.first_at is not None
    table.add(f"LLM: {mode}", told=caller.at(told) - asked, works=answer.first_at - back)


async def test_a_question_during_a_hang_is_answered_when_the_llm_is_back(parley: Whole) -> None:
    """The hanging request is given up for the new question; nothing of the first is heard later."""
    async with parley.call() as caller:
        parley.llm.mode = "hang"
        parley.llm.asked.clear()
        await caller.typed("tone 700 for 300")
        await asyncio.wait_for(parley.llm.asked.wait(), 5)
        parley.llm.mode = "ok"
        answer = await caller.ask("tone 900 for 300")
        await asyncio.wait_for(parley.llm.hung_up.wait(), 5)
        assert answer.tones(700, 900) == [900]
        assert not caller.since(ev.Error)


async def test_an_llm_that_recovers_within_its_budget_is_no_fault(parley: Whole) -> None:
    async with parley.call() as caller:
        parley.llm._modes = ["500", "ok"]
        answer = await caller.ask("tone 700 for 200")
        assert answer.done.outcome == "completed", answer.errors
        assert answer.tones(700) == [700]
        assert not caller.since(ev.Error)
