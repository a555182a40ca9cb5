"""Who is taken when the process cannot keep up: what lasts counts, and the door opens again slowly."""

from __future__ import annotations

import asyncio

import pytest

from gateway.session import events as ev
from gateway.session.admission import BEAT_S, FEW, Admission
from gateway.session.manager import Refused
from gateway.telemetry.loop_watch import LoopWatch
from tests.unit.session.harness import virtual, world


def make(backlog_ms: float = 150, lag_ms: float = 150, busy: float = 0.95) -> Admission:
    return Admission(backlog_ms=backlog_ms, lag_ms=lag_ms, busy=busy)


def beats(admission: Admission, *backlogs: float, lag_ms: float = 0, busy: float = 0.5) -> None:
    for backlog_ms in backlogs:
        admission.beat(backlog_ms=backlog_ms, lag_ms=lag_ms, busy=busy)


def seconds(admission: Admission, s: float, backlog_ms: float = 20) -> None:
    beats(admission, *[backlog_ms] * round(s / BEAT_S))


def taken(admission: Admission, s: float, asking: int = 20, backlog_ms: float = 20) -> int:
    """How many get in within `s` seconds when `asking` ask between every two readings."""
    count = 0
    for _ in range(round(s / BEAT_S)):
        beats(admission, backlog_ms)
        count += sum(not admission.admit() for _ in range(asking))
    return count


def test_spikes_are_no_overload() -> None:
    admission = make()
    for _ in range(100):  # three in seven are far beyond the limit
        beats(admission, 20, 900, 20, 900, 20, 20, 900)
        assert admission.open
        assert not admission.admit()


def test_readings_of_a_healthy_load_never_close_it() -> None:
    admission = make()
    beats(admission, *[88, 144, 60, 132, 88, 144, 144] * 50)
    assert admission.open


def test_what_lasts_closes_it_within_a_fifth_of_a_second() -> None:
    admission = make()
    beats(admission, 200, 250, 300)
    assert admission.open
    beats(admission, 350)
    assert not admission.open
    assert "its detector is 275 ms behind" not in (why := admission.admit())
    assert "overloaded (its detector is 200 ms behind)" in why


def test_a_late_event_loop_closes_it_too() -> None:
    admission = make()
    beats(admission, *[0] * 4, lag_ms=400)
    assert "event loop is 400 ms behind" in admission.admit()


def test_a_thread_that_never_rests_closes_it_although_nothing_seems_late() -> None:
    admission = make()
    beats(admission, *[20] * 60, busy=0.8)
    beats(admission, *[20] * 10, busy=1.0)  # half a second, as any burst of replies makes
    beats(admission, *[20] * 10, busy=0.8)
    assert admission.open
    beats(admission, *[20] * 20, busy=1.0)
    assert "event loop is busy 100% of the time" in admission.admit()
    beats(admission, *[20] * 200, busy=0.9)
    assert not admission.open  # below the limit, but not calm
    beats(admission, *[20] * 80, busy=0.8)
    assert admission.open


def test_a_busy_limit_of_0_ignores_it() -> None:
    admission = make(busy=0)
    beats(admission, *[20] * 100, busy=1.0)
    assert admission.open


@pytest.mark.parametrize(("backlog_ms", "lag_ms"), [(0, 150), (150, 0)])
def test_a_limit_of_0_ignores_the_signal(backlog_ms: float, lag_ms: float) -> None:
    admission = make(backlog_ms, lag_ms)
    beats(admission, *[0 if backlog_ms else 5_000] * 20, lag_ms=0 if lag_ms else 5_000)
    assert admission.open
    beats(admission, *[5_000 if backlog_ms else 0] * 20, lag_ms=5_000 if lag_ms else 0)
    assert not admission.open


def test_it_opens_only_after_two_calm_seconds() -> None:
    admission = make()
    seconds(admission, 1, 300)
    seconds(admission, 10, 100)  # below the limit, but not calm
    assert not admission.open
    seconds(admission, 1.9)
    beats(admission, *[100] * 7)  # a relapse: the two seconds begin again
    seconds(admission, 1.9)
    assert not admission.open
    seconds(admission, 0.4)
    assert admission.open


def test_it_opens_slowly_and_then_wide() -> None:
    admission = make()
    seconds(admission, 1, 300)
    while not admission.open:
        beats(admission, 20)
    assert 4 <= taken(admission, 1) <= 8
    assert 8 <= taken(admission, 1) <= 14
    seconds(admission, 5)
    assert taken(admission, 1) == 400


def test_those_who_come_back_together_close_it_again_before_they_are_many() -> None:
    admission = make()
    seconds(admission, 1, 300)
    while not admission.open:
        beats(admission, 20)
    assert taken(admission, 0.5) < 5
    beats(admission, *[300] * 4)
    assert taken(admission, 5, backlog_ms=300) == 0


def test_while_it_is_not_calm_the_rate_does_not_grow() -> None:
    admission = make()
    seconds(admission, 1, 300)
    while not admission.open:
        beats(admission, 20)
    assert taken(admission, 10, backlog_ms=120) <= 50


@virtual
async def test_an_overloaded_process_refuses_newcomers_and_keeps_its_sessions() -> None:
    async with world() as w:
        first = await w.connect(ev.Hello(session_id="first"))
        others = [await w.connect() for _ in range(FEW - 1)]
        watch = LoopWatch(BEAT_S, w.sessions.beat, busy_s=lambda: 0.0)
        watch.start()
        try:
            w.vad.backlog_ms = 1_000.0
            await asyncio.sleep(1)
            assert not w.sessions.admitting
            with pytest.raises(Refused, match="its detector is 1000 ms behind") as refused:
                await w.connect()
            assert (refused.value.code, refused.value.retryable) == ("overloaded", True)
            assert w.count("parley_refused_total", reason="overloaded") == 1
            assert w.count("parley_admitting") == 0
            assert w.count("parley_vad_backlog_sustained_seconds") == 1
            assert not first.of(ev.Closed)
            # who comes back to a session of theirs adds nothing to the load
            again = await w.connect(ev.Hello(session_id="first"))
            assert (await first.closed()).reason == "replaced"
            w.vad.backlog_ms = 0.0
            await asyncio.sleep(3)
            assert w.sessions.admitting
            late = await w.connect()
            for connection in (again, late, *others):
                await w.hang_up(connection)
        finally:
            watch.stop()


@virtual
async def test_a_few_sessions_are_always_taken() -> None:
    async with world() as w:
        w.vad.backlog_ms = 1_000.0
        for _ in range(20):
            w.sessions.beat(0, 0)
        assert w.sessions.admitting
        few = [await w.connect() for _ in range(FEW)]
        assert not w.sessions.admitting
        with pytest.raises(Refused):
            await w.connect()
        for one in few:
            await w.hang_up(one)


@virtual
async def test_a_session_opened_elsewhere_ends_here_but_not_one_that_came_after_it() -> None:
    async with world() as w:
        told: list[tuple[str, str, int]] = []

        class Others:
            def opened(self, session_id: str, serial: int) -> None:
                told.append(("opened", session_id, serial))

            def closed(self, session_id: str, serial: int) -> None:
                told.append(("closed", session_id, serial))

        w.sessions._registry = Others()
        old = await w.connect(ev.Hello(session_id="a"))
        new = await w.connect(ev.Hello(session_id="a"))
        assert (await old.closed()).reason == "replaced"
        serials = [serial for what, _, serial in told if what == "opened"]
        w.sessions.replace("a", serials[0])  # news of what has happened already
        w.sessions.replace("b", 1)
        await asyncio.sleep(1)
        assert not new.of(ev.Closed)
        w.sessions.replace("a", serials[1])
        assert (await new.closed()).reason == "replaced"
        assert {(what, serial) for what, _, serial in told} == {
            (what, serial) for what in ("opened", "closed") for serial in serials
        }
