"""Looks at Triton: shared, rationed, and the last thing that a request tries before nothing fits."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.triton.errors import TritonUnavailable
from gateway.triton.fleet.looks import MISS_S, Looks, take_after_a_look
from gateway.triton.routing.choose import NothingFits
from tests.support.virtual_time import settle
from tests.unit.triton.fleet.parts import SPEECH, given_back, town, virtual, voice

LOOK_S = 0.2


class Watch:
    """Looks of LOOK_S each."""

    def __init__(self) -> None:
        self.count = 0
        self.failure: Exception | None = None

    async def look(self) -> None:
        self.count += 1
        await asyncio.sleep(LOOK_S)
        if self.failure is not None:
            raise self.failure


@virtual
async def test_who_comes_while_one_is_under_way_waits_for_that_one() -> None:
    watch = Watch()
    looks = Looks(watch.look)
    await asyncio.gather(*(looks.refresh() for _ in range(20)))
    assert watch.count == 1
    await looks.refresh()
    assert watch.count == 2


@virtual
async def test_a_look_is_good_for_a_while_and_a_failed_one_for_nobody() -> None:
    watch = Watch()
    looks = Looks(watch.look)
    watch.failure = TritonUnavailable("down")
    for _ in range(2):
        with pytest.raises(TritonUnavailable, match="down"):
            await looks.refresh(max_age_s=60.0)
    watch.failure = None
    for _ in range(3):
        await looks.refresh(max_age_s=60.0)
    assert watch.count == 3
    await asyncio.sleep(60.0)
    await looks.refresh(max_age_s=60.0)
    assert watch.count == 4


@virtual
async def test_one_who_gives_up_takes_the_look_from_nobody() -> None:
    watch = Watch()
    looks = Looks(watch.look)
    waits, hurries = (asyncio.create_task(looks.refresh()) for _ in range(2))
    await settle()
    hurries.cancel()
    await waits
    assert hurries.cancelled()
    assert watch.count == 1


@virtual
async def test_a_look_that_ends_with_its_fleet_is_a_failure_and_no_cancellation() -> None:
    watch = Watch()
    tasks: list[asyncio.Task[None]] = []

    def run(look: object) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(look))  # type: ignore[arg-type]
        return tasks[-1]

    waits = asyncio.create_task(Looks(watch.look, run).refresh())
    await settle()
    tasks[0].cancel()
    with pytest.raises(TritonUnavailable, match="about to end"):
        await waits


@virtual
async def test_what_came_to_the_repository_since_is_found_and_misses_share_a_look() -> None:
    async with town(voice("tts_a"), voice("tts_b")) as here:
        fleet = await here.fleet("tts_a", on_demand=False)
        want = replace(SPEECH, model="tts_b")
        looked: list[float] = []
        manager = next(iter(fleet.managers().values()))
        real = manager.look

        async def look() -> None:
            looked.append(asyncio.get_running_loop().time())
            await real()

        manager.look = look  # type: ignore[method-assign]
        for _ in range(10):
            hold = fleet.hold(want)
            with pytest.raises(NothingFits):
                await take_after_a_look(hold, fleet)
            hold.release()
        assert len(looked) == 1
        await here.only.triton.load("tts_b")
        await asyncio.sleep(MISS_S)
        hold = fleet.hold(want)
        assert (await take_after_a_look(hold, fleet)).name == "tts_b"
        assert len(looked) == 2
        hold.release()
        await given_back(here.only, "tts_a", "tts_b")


@virtual
async def test_the_look_and_what_follows_share_a_deadline() -> None:
    watch = Watch()
    deadlines: list[float | None] = []

    class Misses:
        async def take(self, *, deadline_s: float | None = None) -> None:
            deadlines.append(deadline_s)
            raise NothingFits("nothing")

    with pytest.raises(NothingFits):
        await take_after_a_look(Misses(), Looks(watch.look), deadline_s=1.0)  # type: ignore[arg-type]
    assert deadlines == [1.0, pytest.approx(1.0 - LOOK_S)]
