"""What is measured of a model on a server, with a clock in the test's hand."""

from __future__ import annotations

import asyncio

import pytest

from gateway.triton.routing.figures import IDLE, Figures, Load
from tests.support.virtual_time import run_virtual


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def answer(figures: Figures, clock: Clock, after_s: float, server: str = "a", model: str = "m") -> None:
    with figures.of(server, model).request() as request:
        clock.s += after_s
        request.answered()


def test_requests_are_in_flight_as_long_as_they_last() -> None:
    figures = Figures(Clock())
    assert figures.load("a", "m") is IDLE
    with figures.of("a", "m").request(), figures.of("a", "m").request():
        assert figures.load("a", "m").queue == 2
        assert figures.load("b", "m").queue == 0
    assert figures.load("a", "m") == Load(0, None, None, 0, False)


def test_what_the_model_says_waits_counts_where_it_is_more() -> None:
    figures = Figures(Clock())
    figures.of("a", "m").told = 3
    with figures.of("a", "m").request():
        assert figures.load("a", "m").queue == 3


def test_percentiles_are_of_first_chunks_and_of_the_last_200() -> None:
    clock = Clock()
    figures = Figures(clock)
    for number in range(300):
        with figures.of("a", "m").request() as request:
            clock.s += number / 1000
            request.answered()
            clock.s += 0.001
            request.answered()
    load = figures.load("a", "m")
    assert load.p50_s == pytest.approx(0.199)
    assert load.p95_s == pytest.approx(0.289)
    answer(figures, clock, 0.2, "b")
    assert figures.load("b", "m").p50_s == figures.load("b", "m").p95_s == pytest.approx(0.2)


def test_what_is_ten_minutes_old_is_forgotten() -> None:
    clock = Clock()
    figures = Figures(clock)
    answer(figures, clock, 0.5)
    clock.s += 300
    answer(figures, clock, 0.1)
    assert figures.load("a", "m").p95_s == pytest.approx(0.5)
    clock.s += 300
    assert figures.load("a", "m").p95_s == pytest.approx(0.1)
    clock.s += 300
    assert figures.load("a", "m").p50_s is None


def test_models_that_nobody_asks_any_more_are_dropped() -> None:
    clock = Clock()
    figures = Figures(clock)
    long = figures.of("a", "long").request()
    with long:
        answer(figures, clock, 0.1)
        for number in range(50):
            clock.s += 601
            answer(figures, clock, 0.1, model=f"m{number}")
        assert len(figures) <= 3
        assert figures.load("a", "long").queue == 1


def test_errors_are_failures_and_cancellations_are_none() -> None:
    clock = Clock()
    figures = Figures(clock)
    for error in (RuntimeError(), asyncio.CancelledError(), GeneratorExit()):
        with pytest.raises(type(error)), figures.of("a", "m").request():
            raise error
    load = figures.load("a", "m")
    assert (load.failures, load.unwell, load.queue) == (1, True, 0)
    clock.s += 4.9
    assert figures.load("a", "m").unwell
    clock.s += 0.1
    assert not figures.load("a", "m").unwell
    clock.s += 600
    assert figures.load("a", "m").failures == 0


def test_an_answer_makes_a_model_well_again() -> None:
    clock = Clock()
    figures = Figures(clock)
    with pytest.raises(RuntimeError), figures.of("a", "m").request():
        raise RuntimeError
    answer(figures, clock, 0.1)
    assert not figures.load("a", "m").unwell
    assert figures.load("a", "m").failures == 1


def test_a_server_that_is_lost_takes_its_figures_along() -> None:
    clock = Clock()
    figures = Figures(clock)
    answer(figures, clock, 0.1, "a")
    answer(figures, clock, 0.1, "b")
    figures.forget_server("a")
    assert figures.load("a", "m") is IDLE
    assert figures.load("b", "m").p50_s is not None


def test_the_clock_is_the_loops() -> None:
    async def main() -> None:
        figures = Figures()
        with figures.of("a", "m").request() as request:
            await asyncio.sleep(7)
            request.answered()
        assert figures.load("a", "m").p50_s == 7

    run_virtual(main())
