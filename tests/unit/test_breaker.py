"""Resilience: the breaker by itself, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from gateway.breaker import Breaker, LeftAlone, State
from tests.support.virtual_time import run_virtual, settle


class Unwell(Exception):
    """Counts."""


class Mistake(Exception):
    """Does not."""


def unwell(error: BaseException) -> bool:
    return isinstance(error, Unwell)


def make(failures: int = 5, open_s: float = 2.0) -> Breaker:
    return Breaker("the part", failures=failures, open_s=open_s)


def stands(breaker: Breaker, state: State) -> bool:
    return breaker.state is state


async def use(breaker: Breaker, *outcome: BaseException | str | float) -> None:
    """One call: "answer" is an answer, a number a pause (s), an exception the end."""
    with breaker.call(unwell) as call:
        for step in outcome:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, str):
                call.answered()
            else:
                await asyncio.sleep(step)


async def fail(breaker: Breaker, times: int = 1, after_s: float = 0.01) -> None:
    for _ in range(times):
        with pytest.raises(Unwell):
            await use(breaker, after_s, Unwell("it broke"))


async def reaches_it(breaker: Breaker) -> bool:
    try:
        with breaker.call(unwell):
            return True
    except LeftAlone:
        return False


def test_it_opens_at_the_fifth_failure_in_a_row_and_refuses_at_once_and_clearly() -> None:
    async def main() -> None:
        breaker = make()
        await fail(breaker, 4)
        assert stands(breaker, State.CLOSED)
        await use(breaker, "answer")  # one good call: counted from the start again
        await fail(breaker, 4)
        assert stands(breaker, State.CLOSED)
        assert breaker.refusal == ""
        await fail(breaker)
        assert stands(breaker, State.OPEN)
        before = asyncio.get_running_loop().time()
        with pytest.raises(LeftAlone) as refused:
            await use(breaker, 5.0, "answer")
        assert asyncio.get_running_loop().time() == before
        assert str(refused.value) == breaker.refusal
        assert str(refused.value) == (
            "the part failed 5 times in a row and is left alone for 2.0 s; try again then "
            "(the last failure: it broke)"
        )

    run_virtual(main())


def test_half_open_lets_exactly_one_through_and_success_closes() -> None:
    async def main() -> None:
        breaker = make()
        await fail(breaker, 5)
        await asyncio.sleep(1.99)
        assert not await reaches_it(breaker)
        await asyncio.sleep(0.01)
        assert stands(breaker, State.HALF_OPEN)
        calls = [asyncio.create_task(use(breaker, 0.5, "answer", 0.5)) for _ in range(50)]
        await settle()
        refused = [call for call in calls if call.done()]
        assert len(refused) == 49
        assert all(isinstance(call.exception(), LeftAlone) for call in refused)
        assert stands(breaker, State.HALF_OPEN)
        await asyncio.sleep(0.5)
        assert stands(breaker, State.CLOSED)  # at the first answer: nobody waits for a long reply's end
        await asyncio.gather(*(use(breaker, 0.1, "answer") for _ in range(50)))
        await asyncio.gather(*calls, return_exceptions=True)

    run_virtual(main())


def test_a_failed_probe_leaves_it_alone_again_for_as_long() -> None:
    async def main() -> None:
        breaker = make()
        await fail(breaker, 5)
        for _ in range(3):
            await asyncio.sleep(2.0)
            await fail(breaker)
            assert stands(breaker, State.OPEN)
            assert not await reaches_it(breaker)
        await asyncio.sleep(2.0)
        await use(breaker, "answer")
        assert stands(breaker, State.CLOSED)
        await fail(breaker, 4)
        assert stands(breaker, State.CLOSED)

    run_virtual(main())


def test_a_part_that_answers_and_breaks_off_is_failing() -> None:
    async def main() -> None:
        breaker = make()
        for _ in range(5):
            with pytest.raises(Unwell):
                await use(breaker, "answer", 0.1, "answer", Unwell("cut"))
        assert stands(breaker, State.OPEN)
        await asyncio.sleep(2.0)
        with pytest.raises(Unwell):
            await use(breaker, "answer", 0.1, Unwell("cut"))
        # Its first word let others in; that it broke off shuts them out again.
        assert stands(breaker, State.OPEN)

    run_virtual(main())


def test_mistakes_and_cancellation_count_neither_way() -> None:
    async def main() -> None:
        breaker = make()
        await fail(breaker, 4)
        for _ in range(10):
            with pytest.raises(Mistake):
                await use(breaker, Mistake())
            hung = asyncio.create_task(use(breaker, "answer", 100.0))
            await settle()
            hung.cancel()
            await asyncio.wait({hung})
            assert await reaches_it(breaker)  # ended without an answer: no success either
        assert stands(breaker, State.CLOSED)
        await fail(breaker)
        assert stands(breaker, State.OPEN)

    run_virtual(main())


@pytest.mark.parametrize("how", ["mistake", "cancel"])
def test_a_probe_without_a_verdict_makes_room_for_the_next(how: str) -> None:
    async def main() -> None:
        breaker = make()
        await fail(breaker, 5)
        await asyncio.sleep(2.0)
        if how == "mistake":
            with pytest.raises(Mistake):
                await use(breaker, Mistake())
        else:
            probe = asyncio.create_task(use(breaker, 100.0))
            await settle()
            assert not await reaches_it(breaker)
            probe.cancel()
            await asyncio.wait({probe})
        assert stands(breaker, State.HALF_OPEN)
        await use(breaker, "answer")
        assert stands(breaker, State.CLOSED)

    run_virtual(main())


def test_a_probe_that_hangs_does_not_shut_everybody_out() -> None:
    async def main() -> None:
        breaker = make()
        await fail(breaker, 5)
        await asyncio.sleep(2.0)
        hanging = asyncio.create_task(use(breaker, 100.0, "answer"))
        through = 0
        for _ in range(100):
            await asyncio.sleep(0.1)
            through += await reaches_it(breaker) if breaker.refusal == "" and not through else 0
        assert through == 1
        await use(breaker, "answer")
        assert stands(breaker, State.CLOSED)
        hanging.cancel()
        await asyncio.wait({hanging})

    run_virtual(main())


def test_one_cut_under_many_calls_is_one_failure_and_many_timeouts_are_many() -> None:
    async def main() -> None:
        cut = make()
        streams = [asyncio.create_task(use(cut, "answer", 1.0, Unwell("reset"))) for _ in range(32)]
        await asyncio.wait(streams)
        assert stands(cut, State.CLOSED)
        slow = make()
        for _ in range(5):
            streams.append(asyncio.create_task(use(slow, 8.0, Unwell("timeout"))))
            await asyncio.sleep(0.3)
        await asyncio.wait(streams)
        assert stands(slow, State.OPEN)

    run_virtual(main())


def test_what_began_before_it_opened_says_nothing_about_now() -> None:
    async def main() -> None:
        breaker = make()
        late_good = asyncio.create_task(use(breaker, 1.0, "answer"))
        late_bad = [
            asyncio.create_task(use(breaker, 3.0 + n, Unwell("a timeout of before"))) for n in range(9)
        ]
        await fail(breaker, 5)
        await late_good
        assert stands(breaker, State.OPEN)
        await asyncio.sleep(1.5)
        await use(breaker, "answer")
        await asyncio.wait(late_bad)
        assert stands(breaker, State.CLOSED)

    run_virtual(main())


def test_those_who_wait_are_woken_one_to_try_and_all_when_it_answers() -> None:
    async def main() -> None:
        breaker, loop = make(), asyncio.get_running_loop()
        tries: list[float] = []
        answers_from = 5.0

        async def patient() -> None:
            while True:
                await breaker.free()
                try:
                    with breaker.call(unwell) as call:
                        tries.append(loop.time())
                        await asyncio.sleep(0.1)
                        if loop.time() < answers_from:
                            raise Unwell("still down")
                        call.answered()
                        return
                except (LeftAlone, Unwell):
                    pass

        await fail(breaker, 5)
        begun = loop.time()
        await asyncio.gather(*(patient() for _ in range(20)))
        assert [round(at - begun, 2) for at in tries[:3]] == [2.0, 4.1, 6.2]
        assert len(tries) == 3 + 19
        assert stands(breaker, State.CLOSED)
        assert loop.time() < 6.5

    run_virtual(main())


def test_a_generator_closed_early_counts_neither_way() -> None:
    async def main() -> None:
        breaker = make(failures=1)

        async def guarded() -> AsyncGenerator[int, None]:
            with breaker.call(unwell) as call:
                for number in range(3):
                    call.answered()
                    yield number

        async with aclosing(guarded()) as numbers:
            assert await anext(numbers) == 0
        assert stands(breaker, State.CLOSED)
        await fail(breaker)
        assert stands(breaker, State.OPEN)

    run_virtual(main())
