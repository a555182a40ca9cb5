"""A bad line, between callers and gateway and between gateway and each part: everybody who keeps the connection
hears replies again, everybody else gets a new one, nothing stale is heard, and nothing is left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from load.caller_build import BuildError
from load.clips import NoSpeech
from load.emulators.proxied import Weather
from load.emulators.proxy import Proxy
from tests.chaos.scene import PLACES, Scene, scene

pytestmark = pytest.mark.asyncio(loop_scope="module")

STALL_S = 1.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    try:
        async with scene(tmp_path_factory.mktemp("chaos")) as found:
            yield found
    except (BuildError, NoSpeech) as error:
        pytest.skip(str(error))


@dataclass(frozen=True)
class Bad:
    strike: Callable[[Proxy], object]
    lasts_s: float = 0.0
    """0: until everybody has talked under it."""
    cuts: bool = False
    """The connection does not live on."""


def weather(**what: float) -> Callable[[Proxy], object]:
    return lambda line: line.set_weather(Weather(**what))  # type: ignore[arg-type]


LINES = {
    "latency": Bad(weather(latency_ms=120)),
    "jitter": Bad(weather(latency_ms=60, jitter_ms=60)),
    "bandwidth": Bad(weather(kbps=600)),  # a reply has 768
    "half-open": Bad(weather(standstill=True), STALL_S),
    "reset": Bad(lambda line: line.reset(), cuts=True),
    "slow close": Bad(lambda line: line.slow_close(0.3), 0.3, cuts=True),
}


@pytest.mark.parametrize("kind", LINES)
async def test_everybody_hears_replies_again(stage: Scene, kind: str) -> None:
    bad, begin = LINES[kind], time.time()
    every = [line for lines in stage.lines.values() for line in lines]
    before = {line: line.accepted for line in every}
    delayed = {line: line.delayed for line in every}
    for line in every:
        assert line.connections, "there is nothing to be struck"
        bad.strike(line)
    if bad.lasts_s:
        passed = {line: line.passed for line in every}
        await asyncio.sleep(bad.lasts_s)
        assert bad.cuts or {line: line.passed for line in every} == passed
    elif not bad.cuts:
        await stage.spoken(begin)
        if any(line.delayed == delayed[line] for line in every):
            await stage.spoken(time.time())  # a whole turn of everybody's
        assert all(line.delayed > delayed[line] for line in every)
    for line in every:
        line.clear()
    await stage.spoken(time.time())
    for place in PLACES:
        ended = stage.since(begin, stage.callers(place), "session")
        if place == "client" and bad.cuts:
            assert {event.why.partition(":")[0] for event in ended} == {"disconnected"}, ended
            assert len(ended) == len(stage.callers(place))
        else:
            assert not ended, f"a bad line of {place} ended a call"
        if bad.cuts:
            assert all(line.accepted > before[line] for line in stage.lines[place]), place
    assert not [event for event in stage.since(begin, range(100), "stale_frames") if event.ms]


async def test_a_part_that_cannot_be_reached_is_told_and_comes_back(stage: Scene) -> None:
    begin = time.time()
    told = {"asr": ("warning", "asr_retry"), "llm": ("error", "llm_failed"), "tts": ("error", "tts_failed")}
    for place in told:
        await stage.lines[place][0].down(60)
    for place, (name, code) in told.items():
        for caller in stage.callers(place):
            await stage.until(lambda c=caller, n=name: stage.since(begin, [c], n), f"{name} of {place}")  # type: ignore[misc]
        assert {event.why for event in stage.since(begin, stage.callers(place), name)} == {code}
        await stage.lines[place][0].up()
    await stage.spoken(time.time())
    assert not stage.since(begin, stage.callers("client"), "error")
    assert not stage.since(begin, range(100), "session")


async def test_a_part_that_vanishes_without_a_word_is_dialled_anew(stage: Scene) -> None:
    """Nothing tells: not the connection, which takes what it is given, and gRPC's keepalive only after a minute."""
    begin = time.time()
    lines = [stage.lines[place][0] for place in ("asr", "llm", "tts")]
    before = [line.accepted for line in lines]
    for line in lines:
        assert line.vanish()
    await asyncio.sleep(STALL_S)
    await stage.spoken(time.time())
    for line, accepted in zip(lines, before, strict=True):
        assert line.accepted > accepted
    assert not stage.since(begin, range(100), "session")


async def test_nothing_is_left_behind(stage: Scene) -> None:
    """The last one: everybody leaves."""
    await stage.people.leave()
    assert stage.people.present == set()
    for line in (line for lines in stage.lines.values() for line in lines):
        line.reset()  # a call on a line that has vanished ends only with the line
    assert not await stage.tasks_left()
    stats = stage.parts.stats
    assert (stats.asr.open, stats.llm.open, stats.tts.open) == (0, 0, 0)
    stale = [event for event in stage.people.events if event.name == "stale_frames"]
    assert len([event for event in stage.people.events if event.name == "turn" and event.ok]) > 8
    assert stale, "nobody interrupted anybody"
    assert not [event for event in stale if event.ms]
