"""The event loop's watch: how late it is, and one line when it stood still."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest
from prometheus_client import CollectorRegistry

from gateway.telemetry.loop_watch import LoopWatch
from gateway.telemetry.process_metrics import LoopMetrics
from tests.support.virtual_time import VirtualTimeLoop, run_virtual


def block(seconds: float) -> None:
    """What blocks a loop is that its clock goes on while it does nothing else."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._jumping.now += seconds


def test_lag_is_measured_and_a_stall_is_not_chased() -> None:
    lags: list[float] = []

    async def main() -> None:
        watch = LoopWatch(0.05, lambda lag_s, _: lags.append(lag_s))
        watch.start()
        block(1.0)  # while the process starts: nobody waits
        await asyncio.sleep(1.0)
        usual = len(lags)
        assert 19 <= usual <= 21
        assert max(lags) < 0.001
        block(2.0)
        await asyncio.sleep(0.5)
        assert 10 <= len(lags) - usual <= 11
        assert lags[usual] == pytest.approx(1.95, abs=0.06)
        assert max(lags[usual + 1 :]) < 0.001
        watch.stop()
        await asyncio.sleep(1.0)
        assert len(lags) <= usual + 11

    run_virtual(main())


def test_standing_still_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        watch = LoopWatch(0.05, lambda lag_s, busy_s: None)
        watch.start()
        await asyncio.sleep(0.1)
        block(0.2)
        await asyncio.sleep(0.1)
        assert not caplog.records
        for _ in range(5):
            block(0.5)
            await asyncio.sleep(0.1)
        assert len(caplog.records) == 1
        await asyncio.sleep(10.0)
        assert len(caplog.records) == 2
        assert "(4 stalls" in caplog.records[1].getMessage()
        watch.stop()

    with caplog.at_level(logging.WARNING):
        run_virtual(main())


def test_busy_is_the_time_that_the_thread_worked() -> None:
    readings: list[tuple[float, float]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        watch = LoopWatch(0.02, lambda lag_s, busy_s: readings.append((lag_s, busy_s)))
        watch.start()
        await asyncio.sleep(0.3)
        resting = list(readings)
        until = time.thread_time() + 0.2
        began = loop.time()
        while time.thread_time() < until:
            pass
        await asyncio.sleep(0.05)
        watch.stop()
        assert sum(busy_s for _, busy_s in resting) < 0.15
        working = sum(busy_s for _, busy_s in readings[len(resting) :])
        assert 0.2 <= working <= loop.time() - began + 0.01

    asyncio.run(main())


def stand_still(seconds: float) -> None:
    time.sleep(seconds)


def test_a_stall_is_counted_and_the_line_says_what_the_thread_was_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = CollectorRegistry()
    metrics = LoopMetrics(registry)

    def stalls() -> float | None:
        return registry.get_sample_value("parley_loop_stalls_total")

    async def main() -> None:
        watch = LoopWatch(0.02, lambda lag_s, busy_s: None, stall_s=0.1, on_stall=metrics.stalled)
        watch.start()
        await asyncio.sleep(0.1)
        stand_still(0.05)
        await asyncio.sleep(0.1)
        assert stalls() == 0
        stand_still(0.4)
        await asyncio.sleep(0.1)
        watch.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert stalls() == 1
    (record,) = caplog.records
    innermost, below, *_ = record.__dict__["at"].split(" < ")
    assert innermost.startswith("telemetry/test_loop_watch.py:")
    assert innermost.endswith(" stand_still")
    assert below.endswith(" main")


def test_its_thread_ends_with_it() -> None:
    async def main() -> None:
        watch = LoopWatch(0.02, lambda lag_s, busy_s: None, stall_s=0.05)
        watch.start()
        (thread,) = [one for one in threading.enumerate() if one.name == "lookout"]
        await asyncio.sleep(0.1)
        watch.stop()
        await asyncio.to_thread(thread.join, 5.0)
        assert not thread.is_alive()

    asyncio.run(main())
