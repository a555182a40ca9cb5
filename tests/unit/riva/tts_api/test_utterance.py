"""One utterance in virtual time: when frames leave, and that no pause ever changes a sample."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable

import numpy as np
import pytest

from gateway.riva.tts_api.levels import VoiceLevel
from gateway.riva.tts_api.sound import FRAME_BYTES, Sound
from gateway.riva.tts_api.utterance import Chunk, Outcome, Utterance
from gateway.speak.ticker import Ticker
from tests.support.virtual_time import run_virtual, settle

RATE = 16_000
LEAD_S = 0.2
SLACK_S = 0.003
CHUNK = 640


class Rig:
    """An utterance of `seconds` of noise; `frames` holds (time, bytes)."""

    def __init__(self, seconds: float, *, lead_s: float | None = LEAD_S, hot_s: float = 5.0) -> None:
        rng = np.random.default_rng(7)
        self.samples = (rng.standard_normal(round(seconds * RATE)) * 0.05).astype(np.float32)
        self.level = VoiceLevel()
        self.level.know(-22.0, 20.0)
        self.frames: list[tuple[float, bytes]] = []
        self.chunk_s = 0.0
        """What the model takes for a chunk of 40 ms."""
        self.made = 0
        self.closed = False
        self.on_frame: Callable[[int], None] = lambda number: None
        self.utterance = Utterance(1, Sound(-16.0), Ticker(), lead_s=lead_s, hot_s=hot_s)

    async def run(self, send: Callable[[bytes, int], Awaitable[None]] | None = None) -> Outcome:
        self.utterance.start(self._pieces(), self._say)
        try:
            return await self.utterance.send_all(send or self._send, unread_s=5.0)
        finally:
            maker = self.utterance.close()
            if maker is not None:
                await asyncio.wait({maker})

    @property
    def pcm(self) -> bytes:
        return b"".join(frame for _, frame in self.frames)

    async def _send(self, frame: bytes, number: int) -> None:
        assert not self.utterance.paused
        assert number == len(self.frames)
        self.frames.append((asyncio.get_running_loop().time(), frame))
        self.on_frame(number)

    async def _pieces(self) -> AsyncGenerator[str, None]:
        yield "noise"

    async def _say(self, piece: str) -> AsyncGenerator[Chunk, None]:
        try:
            for at in range(0, len(self.samples), CHUNK):
                await asyncio.sleep(self.chunk_s)
                self.made += 1
                yield Chunk(self.samples[at : at + CHUNK], RATE, self.level)
        finally:
            self.closed = True


def test_a_hundred_pauses_at_random_points_change_no_sample() -> None:
    async def spoken(pauses: int) -> tuple[bytes, int]:
        rig = Rig(20.0)
        rng = random.Random(pauses)
        done = 0

        async def disturb() -> None:
            nonlocal done
            loop = asyncio.get_running_loop()
            for _ in range(pauses):
                await asyncio.sleep(rng.uniform(0.0, 0.19))
                rig.utterance.pause()
                before = len(rig.frames)
                paused = loop.time()
                await asyncio.sleep(rng.choice((0.0, 0.001, 0.02, rng.uniform(0, 0.5), 3.0)))
                assert len(rig.frames) == before, f"a frame left {loop.time() - paused} s after PAUSE"
                rig.utterance.resume()
                done += 1

        task = asyncio.create_task(disturb())
        assert await rig.run() is Outcome.COMPLETED
        await task
        assert all(len(frame) == FRAME_BYTES for _, frame in rig.frames)
        return rig.pcm, done

    reference, _ = run_virtual(spoken(0))
    assert len(reference) == 20 * 96_000
    assert len({reference[at : at + FRAME_BYTES] for at in range(0, len(reference), FRAME_BYTES)}) == 1_000
    disturbed, done = run_virtual(spoken(100))
    assert done == 100
    assert disturbed == reference


def test_frames_leave_in_real_time_with_no_more_than_the_lead() -> None:
    async def main() -> None:
        rig = Rig(4.0)
        begun = asyncio.get_running_loop().time()
        await rig.run()
        for number, (at, _) in enumerate(rig.frames):
            due = begun + number * 0.02 - LEAD_S
            assert at >= due - SLACK_S, f"frame {number} left {due - at:.3f} s too early"
            assert at <= max(begun, due) + 0.02 + SLACK_S
        assert sum(at - begun < 0.001 for at, _ in rig.frames) in (10, 11), "the lead leaves at once"

    run_virtual(main())


@pytest.mark.parametrize("pause_s", [0.05, 0.15, 1.0])
def test_after_a_pause_nothing_is_caught_up_with(pause_s: float) -> None:
    async def main() -> None:
        rig = Rig(4.0)
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(rig.run())
        await asyncio.sleep(1.0)
        rig.utterance.pause()
        sent = len(rig.frames)
        await asyncio.sleep(pause_s)
        resumed = loop.time()
        rig.utterance.resume()
        await settle()
        at_once = len(rig.frames) - sent
        # What the client had left was played during the pause; no more than that is given again.
        assert abs(at_once - min(pause_s, LEAD_S) / 0.02) <= 1
        await task
        for number, (at, _) in enumerate(rig.frames[sent:]):
            assert number * 0.02 <= at - resumed + LEAD_S + SLACK_S

    run_virtual(main())


def test_as_fast_as_possible_waits_for_nothing() -> None:
    async def main() -> None:
        rig = Rig(10.0, lead_s=None)
        await rig.run()
        assert asyncio.get_running_loop().time() == 0.0
        assert len(rig.frames) == 500

    run_virtual(main())


def test_a_model_that_is_slow_for_a_moment_does_not_bring_a_burst() -> None:
    async def main() -> None:
        rig = Rig(2.0)
        rig.chunk_s = 0.08
        await rig.run()
        times = [at for at, _ in rig.frames]
        assert times[-1] >= 50 * 0.08 - 0.04

    run_virtual(main())


def test_while_paused_audio_is_made_up_to_the_bound_and_held_there() -> None:
    async def main() -> None:
        rig = Rig(10.0, hot_s=2.0)
        rig.utterance.pause()
        task = asyncio.create_task(rig.run())
        await asyncio.sleep(100.0)
        assert rig.frames == []
        assert 2.0 <= rig.made * 0.04 <= 2.0 + 0.08
        assert not rig.closed, "its model is kept"
        rig.utterance.resume()
        assert await task is Outcome.COMPLETED
        assert len(rig.frames) == 500

    run_virtual(main())


@pytest.mark.parametrize("paused", [False, True])
def test_stop_silences_the_model_and_ends_at_once(paused: bool) -> None:
    async def main() -> None:
        rig = Rig(10.0)
        task = asyncio.create_task(rig.run())
        await asyncio.sleep(1.0)
        if paused:
            rig.utterance.pause()
        sent = len(rig.frames)
        rig.utterance.stop()
        rig.utterance.stop()
        assert await task is Outcome.STOPPED
        assert asyncio.get_running_loop().time() == pytest.approx(1.0)
        assert len(rig.frames) == sent
        assert rig.closed

    run_virtual(main())


def test_a_client_that_reads_nothing_after_stop_is_cut() -> None:
    async def main() -> None:
        rig = Rig(10.0)

        async def stuck(frame: bytes, number: int) -> None:
            await asyncio.Event().wait()

        task = asyncio.create_task(rig.run(stuck))
        await asyncio.sleep(1.0)
        rig.utterance.stop()
        await asyncio.wait({task})
        assert task.cancelled()
        assert asyncio.get_running_loop().time() == pytest.approx(6.0)

    run_virtual(main())


def test_pausing_within_a_frame_stops_the_very_next_one() -> None:
    async def main() -> None:
        rig = Rig(2.0, lead_s=None)

        def pause_now(number: int) -> None:
            if number == 10:
                rig.utterance.pause()

        rig.on_frame = pause_now
        task = asyncio.create_task(rig.run())
        await asyncio.sleep(1.0)
        assert len(rig.frames) == 11
        rig.utterance.resume()
        await task
        assert len(rig.frames) == 100

    run_virtual(main())
