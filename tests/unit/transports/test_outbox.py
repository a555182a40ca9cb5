"""The outgoing queue, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.session.events import Flushed, ReplyAudio, State, StateChanged, Warning
from gateway.transports.outbox import Outbox, Outgoing
from tests.support.virtual_time import run_virtual, settle

RATE = 24_000
FRAME = bytes(960)


def audio(generation: int, sequence: int) -> ReplyAudio:
    return ReplyAudio("r1", generation, sequence, sequence * 20, FRAME)


class Drops:
    def __init__(self) -> None:
        self.by_reason: dict[str, int] = {}

    def __call__(self, reason: str, frames: int) -> None:
        self.by_reason[reason] = self.by_reason.get(reason, 0) + frames


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtual(test())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


async def take(outbox: Outbox, count: int) -> list[Outgoing]:
    events = [await outbox.next() for _ in range(count)]
    assert all(e is not None for e in events)
    return [e for e in events if e is not None]


@virtual
async def test_events_come_out_in_order() -> None:
    outbox = Outbox(rate=RATE)
    sent: list[Outgoing] = [StateChanged(State.SPEAKING), audio(1, 0), audio(1, 1), Flushed(0)]
    for event in sent:
        outbox.put(event)
    assert await take(outbox, 4) == sent
    outbox.dispose()


@virtual
async def test_after_a_flush_no_frame_of_its_generation_or_below_leaves() -> None:
    drops = Drops()
    outbox = Outbox(rate=RATE, on_drop=drops)
    for event in (audio(1, 0), audio(2, 0), StateChanged(State.SPEAKING), audio(3, 0)):
        outbox.put(event)
    outbox.put(Flushed(2))
    assert await take(outbox, 3) == [StateChanged(State.SPEAKING), audio(3, 0), Flushed(2)]
    assert drops.by_reason == {"flushed": 2}
    outbox.dispose()


@virtual
async def test_backlog_counts_queued_audio_and_the_frame_the_wire_holds() -> None:
    outbox = Outbox(rate=RATE)
    for n in range(5):
        outbox.put(audio(1, n))
    assert outbox.backlog_ms() == 100
    await take(outbox, 1)
    assert outbox.backlog_ms() == 100
    await take(outbox, 1)
    assert outbox.backlog_ms() == 80
    outbox.put(Flushed(1))
    assert outbox.backlog_ms() == 20
    await take(outbox, 1)
    assert outbox.backlog_ms() == 0
    outbox.dispose()


@virtual
async def test_slow_client_loses_its_oldest_audio_counted_and_is_told_once() -> None:
    drops = Drops()
    outbox = Outbox(rate=RATE, limit_ms=100, on_drop=drops)
    outbox.put(StateChanged(State.SPEAKING))
    for n in range(1_000):
        outbox.put(audio(1, n))
    assert outbox.backlog_ms() == 100
    assert drops.by_reason == {"slow_client": 995}
    outbox.close()
    left: list[Outgoing] = []
    while (event := await outbox.next()) is not None:
        left.append(event)
    assert [e.sequence for e in left if isinstance(e, ReplyAudio)] == [995, 996, 997, 998, 999]
    assert StateChanged(State.SPEAKING) in left
    assert [e.code for e in left if isinstance(e, Warning)] == ["audio_dropped"]
    outbox.dispose()


@virtual
async def test_too_many_events_fail_the_queue_in_bounded_memory() -> None:
    failed: list[str] = []
    outbox = Outbox(rate=RATE, limit_events=10, on_failed=lambda: failed.append("now"))
    for _ in range(1_000):
        outbox.put(StateChanged(State.LISTENING))
    assert failed == ["now"]
    assert "10 events" in outbox.failure
    assert await outbox.next() is None
    assert outbox.backlog_ms() == 0


@virtual
async def test_an_event_that_the_wire_does_not_take_fails_the_queue_after_the_stall_limit() -> None:
    failed: list[float] = []
    loop = asyncio.get_running_loop()
    outbox = Outbox(rate=RATE, stall_s=30.0, on_failed=lambda: failed.append(loop.time()))
    outbox.put(audio(1, 0))
    await take(outbox, 1)
    await asyncio.sleep(29.9)
    assert not outbox.failure
    await asyncio.sleep(0.2)
    assert failed == [pytest.approx(30.0)]
    assert "30 s" in outbox.failure


@virtual
async def test_a_wire_that_keeps_taking_is_never_stalled() -> None:
    outbox = Outbox(rate=RATE, stall_s=5.0)
    for n in range(100):
        outbox.put(audio(1, n))
        await take(outbox, 1)
        await asyncio.sleep(1.0)
    assert not outbox.failure
    outbox.dispose()


@virtual
async def test_an_idle_queue_is_no_stall() -> None:
    outbox = Outbox(rate=RATE, stall_s=5.0)
    outbox.put(audio(1, 0))
    await take(outbox, 1)
    waiting = asyncio.create_task(outbox.next())
    await asyncio.sleep(1_000)
    assert not outbox.failure
    outbox.close()
    assert await waiting is None
    outbox.dispose()


@virtual
async def test_drained_waits_until_the_wire_took_the_last_event() -> None:
    outbox = Outbox(rate=RATE)
    await outbox.drained()
    outbox.put(audio(1, 0))
    drained = asyncio.create_task(outbox.drained())
    await settle()
    assert not drained.done()
    await take(outbox, 1)
    await settle()
    assert not drained.done(), "the wire still holds the frame"
    consumer = asyncio.create_task(outbox.next())
    await drained
    outbox.close()
    assert await consumer is None
    outbox.dispose()


@virtual
async def test_failure_releases_everybody_and_the_first_reason_stays() -> None:
    outbox = Outbox(rate=RATE)
    consumer = asyncio.create_task(outbox.next())
    await settle()
    outbox.put(audio(1, 0))
    outbox.put(audio(1, 1))
    await settle()
    assert consumer.done()
    drained = asyncio.create_task(outbox.drained())
    await settle()
    outbox.fail("first")
    outbox.fail("second")
    await drained
    assert outbox.failure == "first"
    outbox.put(audio(1, 2))
    assert outbox.backlog_ms() == 0
    assert await outbox.next() is None


@virtual
async def test_close_lets_what_is_queued_go_out() -> None:
    outbox = Outbox(rate=RATE)
    outbox.put(audio(1, 0))
    outbox.close()
    outbox.put(audio(1, 1))
    assert await take(outbox, 1) == [audio(1, 0)]
    assert await outbox.next() is None
    outbox.dispose()
