"""The shared detector: batched equals one by one, in order, bounded, safe to open and close."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import numpy as np
import numpy.typing as npt
import pytest

from gateway.listen.silero import SileroVad
from gateway.listen.vad import WINDOW

Float = npt.NDArray[np.float32]


@contextlib.asynccontextmanager
async def detector(**options: int) -> AsyncIterator[SileroVad]:
    vad = SileroVad(**options)
    try:
        yield vad
    finally:
        await vad.close()


def windows(seed: int, count: int) -> Float:
    """Bursts of harmonics in noise: enough to move the recurrent state. [count, 512]."""
    rng = np.random.default_rng(seed)
    t = np.arange(count * WINDOW) / 16_000
    f0 = 110 + 20 * seed + 10 * np.sin(2 * np.pi * 3 * t)
    voice = sum(np.sin(2 * np.pi * h * np.cumsum(f0) / 16_000) / h for h in range(1, 12))
    x = 0.1 * voice * (np.sin(2 * np.pi * 2 * t + seed) > 0) + 0.01 * rng.standard_normal(len(t))
    return np.asarray(x, np.float32).reshape(count, WINDOW)


class Answers(list[float]):
    """Collects probabilities; `await until(n)` returns when n have come."""

    def __init__(self) -> None:
        self._came = asyncio.Event()

    def __call__(self, probability: float) -> None:
        self.append(probability)
        self._came.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self) < count:
                self._came.clear()
                await self._came.wait()


async def alone(x: Float) -> list[float]:
    async with detector() as vad:
        answers = Answers()
        stream = vad.open(answers)
        for window in x:
            stream.push(window)
            await answers.until(len(answers) + 1)
        return list(answers)


async def test_batched_equals_one_by_one() -> None:
    count, crowd = 20, 9
    inputs = [windows(seed, count) for seed in range(crowd)]
    expected = [await alone(x) for x in inputs]
    assert max(map(max, expected)) > 0.3, "the test signal must move the detector"
    async with detector() as vad:
        answers = [Answers() for _ in inputs]
        streams = [vad.open(answer) for answer in answers]
        for k in range(count):
            for stream, x in zip(streams, inputs, strict=True):
                stream.push(x[k])
        for answer in answers:
            await answer.until(count)
    for got, want in zip(answers, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("shape", [(0,), (511,), (513,), (1, 512), (512, 1)])
async def test_wrong_frame_length_is_refused_no_crash(shape: tuple[int, ...]) -> None:
    async with detector() as vad:
        answers = Answers()
        stream = vad.open(answers)
        with pytest.raises(ValueError, match=r"\[512\]"):
            stream.push(np.zeros(shape, np.float32))
        stream.push(np.zeros(WINDOW, np.float32))
        await answers.until(1)


async def test_nan_counts_as_silence_and_harms_nobody() -> None:
    x = windows(3, 12)
    expected = await alone(x)
    async with detector() as vad:
        sick, well = Answers(), Answers()
        a, b = vad.open(sick), vad.open(well)
        for window in x:
            a.push(np.full(WINDOW, np.nan, np.float32))
            b.push(window)
        await sick.until(12)
        await well.until(12)
    assert all(0 <= p < 0.3 for p in sick)
    np.testing.assert_allclose(well, expected, atol=1e-5)


async def test_open_and_close_while_a_batch_runs() -> None:
    x = windows(4, 10)
    expected = await alone(x)
    async with detector() as vad:
        kept = Answers()
        stream = vad.open(kept)
        for k, window in enumerate(x):
            gone = Answers()
            other = vad.open(gone)
            other.push(window)
            stream.push(window)
            other.close()
            other.push(window)
            await kept.until(k + 1)
            assert not gone
    np.testing.assert_allclose(kept, expected, atol=1e-5)


async def test_a_stream_far_behind_loses_its_oldest_windows_and_keeps_the_count() -> None:
    async with detector(behind_ms=160) as vad:
        answers = Answers()
        stream = vad.open(answers)
        for window in windows(5, 40):
            stream.push(window)
        await answers.until(40)
        assert vad.dropped == 40 - 1 - 5
        assert vad.backlog_ms == 0


async def test_callbacks_may_push_and_close() -> None:
    async with detector() as vad:
        done = asyncio.Event()
        seen: list[float] = []

        def on_probability(probability: float) -> None:
            seen.append(probability)
            if len(seen) == 3:
                stream.close()
                done.set()
            else:
                stream.push(np.zeros(WINDOW, np.float32))

        stream = vad.open(on_probability)
        stream.push(np.zeros(WINDOW, np.float32))
        stream.push(np.zeros(WINDOW, np.float32))
        await asyncio.wait_for(done.wait(), 5)
        other = Answers()
        vad.open(other).push(np.zeros(WINDOW, np.float32))
        await other.until(1)
        assert len(seen) == 3


async def test_backlog_is_the_age_of_the_oldest_window() -> None:
    async with detector(small=0, tick_ms=1_000) as vad:
        loop = asyncio.get_running_loop()
        answers = Answers()
        streams = [vad.open(answers) for _ in range(50)]
        streams[0].push(np.zeros(WINDOW, np.float32))
        await answers.until(1)
        streams[1].push(np.zeros(WINDOW, np.float32))
        pushed = loop.time()
        woken = asyncio.Event()
        loop.call_later(0.02, woken.set)
        await woken.wait()
        if len(answers) == 1:
            assert vad.backlog_ms == pytest.approx((loop.time() - pushed) * 1000, abs=5)
        await answers.until(2)
        assert vad.backlog_ms == 0


async def test_nothing_opens_after_close() -> None:
    vad = SileroVad()
    await vad.close()
    ignore: Callable[[float], None] = lambda p: None  # noqa: E731
    with pytest.raises(RuntimeError, match="closed"):
        vad.open(ignore)


async def test_a_listener_that_fails_costs_nobody_else() -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    async with detector() as vad:

        def broken(probability: float) -> None:
            raise RuntimeError("broken listener")

        well = Answers()
        a, b = vad.open(broken), vad.open(well)
        for _ in range(5):
            a.push(np.zeros(WINDOW, np.float32))
            b.push(np.zeros(WINDOW, np.float32))
        await well.until(5)
    assert reported


class _Counting:
    """An onnxruntime session that says how many windows it ran."""

    def __init__(self, session: object) -> None:
        self._session, self.windows = session, 0

    def run(self, outputs: object, inputs: dict[str, Float]) -> object:
        self.windows += len(inputs["input"])
        return self._session.run(outputs, inputs)  # type: ignore[attr-defined]


async def test_a_stream_in_digital_silence_rests_and_wakes_as_if_it_had_heard_little_of_it() -> None:
    quiet = np.zeros(WINDOW, np.float32)
    voice = windows(1, 60)
    async with detector() as vad:
        counting = vad._session = _Counting(vad._session)
        answers = Answers()
        stream = vad.open(answers)
        for window in [*voice, *[quiet] * 100, *voice]:
            stream.push(window)
            await answers.until(len(answers) + 1)
        assert counting.windows == 60 + 2 + 60
    assert len(answers) == 220
    assert answers[62:160] == [0.0] * 98
    expected = await alone(np.concatenate([voice, np.zeros((2, WINDOW), np.float32), voice]))
    assert np.allclose(answers[160:], expected[62:], atol=1e-4)


async def test_rest_keeps_the_order_of_answers() -> None:
    quiet = np.zeros(WINDOW, np.float32)
    voice = windows(2, 20)
    async with detector() as vad:
        answers = Answers()
        stream = vad.open(answers)
        for _ in range(5):
            stream.push(quiet)
            await answers.until(len(answers) + 1)
        stream.push(quiet)
        for window in voice:
            stream.push(window)
        await answers.until(26)
    assert answers[5] == 0.0
    assert max(answers[6:]) > 0.5


async def test_more_streams_than_rows_and_rows_are_used_again() -> None:
    voice = windows(3, 6)
    expected = await alone(voice)
    async with detector() as vad:
        for _ in range(3):
            heard = [Answers() for _ in range(70)]
            streams = [vad.open(answers) for answers in heard]
            for window in voice:
                for stream in streams:
                    stream.push(window)
            for answers in heard:
                await answers.until(6)
                assert np.allclose(answers, expected, atol=1e-4)
            for stream in streams:
                stream.close()
                stream.close()
        assert len(vad._free_rows) == len(set(vad._free_rows)) == len(vad._contexts) == 128


async def test_a_row_is_free_only_when_its_window_has_run() -> None:
    async with detector() as vad:
        first = Answers()
        stream = vad.open(first)
        stream.push(windows(1, 1)[0])  # runs at once
        stream.close()
        other = vad.open(Answers())
        assert other.row != stream.row
        answers = Answers()
        last = vad.open(answers)
        last.push(windows(2, 1)[0])
        await answers.until(1)
        assert stream.row in vad._free_rows
        assert not first


async def test_a_stream_that_comes_in_a_burst_catches_up() -> None:
    """Windows are as long as the tick: with one window a batch and a batch a tick it never would."""
    loop = asyncio.get_running_loop()
    voice = windows(4, 16)
    async with detector(small=0) as vad:
        vad._awake = 1e6  # a crowd: batches are 32 ms apart
        vad._last_run = loop.time()
        heard = [Answers() for _ in range(8)]
        streams = [vad.open(answers) for answers in heard]
        began = loop.time()
        for window in voice:
            streams[0].push(window)
        await heard[0].until(len(voice))
        assert loop.time() - began < len(voice) * 0.032 / 2


def as_pcm(x: Float) -> npt.NDArray[np.int16]:
    return np.asarray(np.rint(x * 20_000), np.int16)


async def test_int16_windows_are_judged_as_float_windows_are() -> None:
    samples = as_pcm(windows(1, 20))
    expected = await alone(samples.astype(np.float32) / 32768)
    async with detector() as vad:
        answers, mixed = Answers(), Answers()
        stream, other = vad.open(answers), vad.open(mixed)
        for k, window in enumerate(samples):
            stream.push_pcm(window)
            if k % 2:
                other.push_pcm(window)
            else:
                other.push(window.astype(np.float32) / 32768)
            await answers.until(k + 1)
            await mixed.until(k + 1)
        with pytest.raises(ValueError, match=r"\[512\]"):
            stream.push_pcm(samples[0, 1:])
    np.testing.assert_allclose(answers, expected, atol=1e-6)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)


async def test_silence_is_answered_at_once_when_the_stream_rests() -> None:
    async with detector() as vad:
        answers = Answers()
        stream = vad.open(answers)
        stream.push_pcm(as_pcm(windows(1, 1))[0])
        told = [stream.push_silence() for _ in range(4)]
        assert told == [False] * 4, "what was pushed before is not judged yet"
        await answers.until(5)
        assert stream.push_silence()
        stream.push_pcm(as_pcm(windows(1, 1))[0])
        await answers.until(6)
        stream.close()
        assert not stream.push_silence()
        stream.push_pcm(as_pcm(windows(1, 1))[0])
    assert len(answers) == 6
