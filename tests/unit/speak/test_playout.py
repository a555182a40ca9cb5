"""Pacing and what was heard, in virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import NamedTuple

import pytest

from gateway.speak.playout import Playout
from gateway.speak.ticker import Ticker
from gateway.speak.tts import Chunk
from tests.support.virtual_time import run_virtual

RATE = 16_000


class Frame(NamedTuple):
    generation: int
    sequence: int
    offset_ms: int
    pcm: bytes


class Listener:
    def __init__(self, lead_ms: int = 60, buffer_s: float = 30.0, ticker: Ticker | None = None) -> None:
        self.ticker = ticker or Ticker(5)
        self.sent: list[tuple[float, Frame]] = []
        self.marks: list[tuple[float, int]] = []
        self.heard_at: float | None = None
        self.playout = Playout(
            self.ticker,
            rate=RATE,
            lead_ms=lead_ms,
            buffer_s=buffer_s,
            loudness_dbfs=-20.0,
            send=lambda *frame: self.sent.append((self.now(), Frame(*frame))),
            on_mark=lambda n: self.marks.append((self.now(), n)),
            on_heard=self._on_heard,
        )

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()

    def _on_heard(self) -> None:
        self.heard_at = self.now()


def audio(ms: int) -> Chunk:
    return Chunk(bytes(RATE * ms // 1000 * 2), RATE)


@pytest.mark.parametrize("lead_ms", [0, 60, 200])
def test_frames_leave_at_real_time_with_the_lead(lead_ms: int) -> None:
    async def main() -> None:
        it = Listener(lead_ms)
        track = it.playout.start()
        await track.write(audio(2000))
        track.finish()
        await asyncio.sleep(5)
        start = it.sent[0][0]
        assert len(it.sent) == 100
        for n, (at, frame) in enumerate(it.sent):
            assert frame.offset_ms == n * 20
            assert -lead_ms / 1000 - 1e-6 <= at - start - n * 0.020 <= 0.021
        assert it.heard_at is not None
        assert it.heard_at - start == pytest.approx(2.0, abs=0.021), "heard when it was played, not when sent"

    run_virtual(main())


def test_the_first_frames_do_not_wait_for_a_tick() -> None:
    async def main() -> None:
        it = Listener()
        track = it.playout.start()
        await track.write(audio(100))
        assert len(it.sent) == 4, "the lead and the frame that is due"
        it.playout.drop()

    run_virtual(main())


def test_an_underrun_shifts_what_follows_and_is_not_chased() -> None:
    async def main() -> None:
        it = Listener()
        track = it.playout.start()
        await track.write(audio(200))
        await asyncio.sleep(1.0)
        assert it.playout.heard_ms() == 200
        await track.write(audio(200))
        await asyncio.sleep(0.1)
        assert 280 <= it.playout.heard_ms() <= 300
        track.finish()
        await asyncio.sleep(1)
        late = [at for at, f in it.sent if f.offset_ms >= 200]
        assert late[-1] - late[0] >= 0.2 - 0.08 - 0.0025  # half a tick
        assert it.heard_at is not None

    run_virtual(main())


def test_pause_stops_at_once_and_resume_sends_the_unheard_again() -> None:
    async def main() -> None:
        it = Listener()
        track, generation = it.playout.start(), 1
        await track.write(audio(1000))
        await asyncio.sleep(0.5)
        assert it.playout.pause() == generation
        frames = len(it.sent)
        await asyncio.sleep(1)
        assert len(it.sent) == frames
        heard = it.playout.heard_ms()
        assert 480 <= heard <= 500
        assert it.playout.resume() == generation + 1
        resumed = it.sent[frames][1]
        assert (resumed.generation, resumed.sequence) == (generation + 1, 0)
        assert resumed.offset_ms == heard // 20 * 20
        track.finish()
        await asyncio.sleep(2)
        assert it.heard_at is not None
        assert it.sent[-1][1].offset_ms == 980

    run_virtual(main())


def test_the_clients_report_corrects_the_clock() -> None:
    async def main() -> None:
        it = Listener()
        track = it.playout.start()
        await track.write(audio(2000))
        await asyncio.sleep(1.0)
        assert it.playout.report(700)  # the client is 300 ms behind
        assert it.playout.heard_ms() == 700
        await asyncio.sleep(0.1)
        assert it.playout.heard_ms() == pytest.approx(800, abs=2)
        assert not it.playout.report(60_000)
        assert not it.playout.report(-1)
        it.playout.pause()
        assert it.playout.report(640)
        it.playout.resume()
        assert it.sent[-1][1].offset_ms >= 640
        assert next(f.offset_ms for _, f in it.sent if f.generation == 2) == 640
        it.playout.drop()

    run_virtual(main())


def test_write_waits_when_the_buffer_is_full_and_drop_lets_it_go() -> None:
    async def main() -> None:
        it = Listener(buffer_s=1.0)
        track = it.playout.start()
        writes = 0

        async def write() -> None:
            nonlocal writes
            for _ in range(100):
                await track.write(audio(100))
                writes += 1

        task = asyncio.create_task(write())
        await asyncio.sleep(0.5)
        assert writes <= 17
        await asyncio.sleep(2)
        assert 25 <= writes <= 37
        task.cancel()
        it.playout.drop()
        await asyncio.gather(task, return_exceptions=True)

    run_virtual(main())


def test_marks_come_with_their_audio() -> None:
    async def main() -> None:
        it = Listener()
        track = it.playout.start()
        track.mark(0)
        await track.write(audio(500))
        track.mark(1)
        await track.write(audio(500))
        track.finish()
        await asyncio.sleep(2)
        (first, _), (second, _) = it.marks
        assert second - first == pytest.approx(0.5 - 0.06, abs=0.021)

    run_virtual(main())


def test_a_held_reply_is_silent_until_resumed_and_keeps_its_generation() -> None:
    async def main() -> None:
        it = Listener()
        track, generation = it.playout.start(), 1
        it.playout.hold()
        await track.write(audio(300))
        await asyncio.sleep(1)
        assert not it.sent
        assert it.playout.resume() == generation
        await asyncio.sleep(0.01)
        assert it.sent[0][1].generation == generation
        it.playout.drop()

    run_virtual(main())


def test_a_hundred_sessions_share_one_timer_and_are_called_when_their_frames_are_due() -> None:
    async def main() -> None:
        ticker = Ticker(5)
        calls: dict[int, list[float]] = {n: [] for n in range(100)}
        due = {n: n * 0.0037 for n in calls}
        members = [calls[n].append for n in range(100)]
        for n, member in enumerate(members):
            ticker.join(member, due[n])
            ticker.join(member, due[n] + 0.2)  # joining twice changes nothing
        await asyncio.sleep(1.0)
        for n, times in calls.items():
            assert len(times) in (49, 50)
            assert all(b - a == pytest.approx(0.020) for a, b in pairwise(times))
            off = (times[0] - due[n]) % 0.020
            assert min(off, 0.020 - off) <= ticker.slack_s + 1e-9
        assert len({round(t[0], 4) for t in calls.values()}) == 4
        for member in members:
            ticker.leave(member)
        await asyncio.sleep(0.1)
        assert asyncio.get_running_loop().time() == pytest.approx(1.1)

    run_virtual(main())


@pytest.mark.parametrize("begin_ms", [0, 1, 2, 3, 4, 7, 13])
def test_frames_keep_to_the_time_of_the_first(begin_ms: int) -> None:
    """Whenever a reply begins between two ticks: no frame comes over half a tick after its time."""

    async def main() -> None:
        other = Listener()  # keeps the ticker going
        it = Listener(ticker=other.ticker)
        kept = other.playout.start()
        await kept.write(audio(2_000))
        await asyncio.sleep(0.1 + begin_ms / 1000)
        begin = it.now()
        track = it.playout.start()
        await track.write(audio(1_000))
        track.finish()
        await asyncio.sleep(1.5)
        late = [at - begin - max(0, number * 0.020 - 0.060) for number, (at, _) in enumerate(it.sent)]
        assert len(late) == 50
        assert max(late) <= 0.0025 + 1e-9
        assert min(late) >= -0.0025 - 1e-9
        other.playout.drop()

    run_virtual(main())


def test_a_reply_that_was_dropped_fills_nobody_elses_track() -> None:
    async def main() -> None:
        it = Listener(buffer_s=0.5)
        old = it.playout.start()
        await old.write(audio(600))
        waiting = asyncio.create_task(old.write(audio(100)))
        await asyncio.sleep(0)
        it.playout.drop()
        new = it.playout.start()
        old.mark(7)
        await waiting
        await old.write(audio(300))
        old.finish()
        assert (it.playout.total_ms, new.total_ms, it.playout.left) == (0, 0, True)
        await new.write(audio(100))
        new.finish()
        await asyncio.sleep(1)
        assert [f.offset_ms for _, f in it.sent if f.generation == 2] == [0, 20, 40, 60, 80]
        assert not it.marks

    run_virtual(main())
