"""How many callers there are at a time. `-u`, `-r` and `-t` keep their meaning: most, per second, how long."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from locust import LoadTestShape

from load.objective import Objective, Ramp, Seen

log = logging.getLogger(__name__)

Tick = tuple[int, float] | None
_SPIKE_S = 5.0
_BEFORE_SPIKE_S = 10.0


class Scenario(LoadTestShape):
    """A shape that reads the common options, with its own defaults."""

    abstract = True
    use_common_options = True
    most, seconds, rate = 16, 60.0, 4.0

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.start_time = clock()

    def reset_time(self) -> None:
        """A test begins."""
        self.start_time = self._clock()

    def get_run_time(self) -> float:
        """Seconds since then."""
        return self._clock() - self.start_time

    def asked(self, name: str, default: float) -> float:
        options = getattr(getattr(self.runner, "environment", None), "parsed_options", None)
        return float(getattr(options, name, None) or default)

    @property
    def users(self) -> int:
        return int(self.asked("num_users", self.most))

    def tick(self) -> Tick:
        """(callers, change per second) now; None when it is over."""
        now = self.get_run_time()
        return None if now >= self.asked("run_time", self.seconds) else self.at(now)

    def at(self, now: float) -> Tick:
        """What is wanted `now` s after the start."""
        return self.users, self.asked("spawn_rate", self.rate)

    def saw(self, samples: Iterable[Seen]) -> None:
        """Raw samples, from this process or from the workers."""


class BaselineShape(Scenario):
    """One caller."""

    most, seconds = 1, 25.0


class SteadyShape(Scenario):
    """So many, all the time."""


class SpikeShape(Scenario):
    """One caller for 10 s, then all of them within 5 s."""

    most, seconds = 64, 60.0

    def at(self, now: float) -> Tick:
        return (1, 1.0) if now < _BEFORE_SPIKE_S else (self.users, max(1.0, self.users / _SPIKE_S))


class RampShape(Scenario):
    """More and more until the objective breaks, at most `-u` callers and `-t` long."""

    most, seconds, rate = 200, 900.0, 8.0

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(clock)
        self.ramp = Ramp(Objective())

    def reset_time(self) -> None:
        """A test begins."""
        super().reset_time()
        self.ramp = Ramp(Objective())

    def saw(self, samples: Iterable[Seen]) -> None:
        for sample in samples:
            self.ramp.objective.take(sample)

    def tick(self) -> Tick:
        now = self.get_run_time()
        wanted = None if now >= self.asked("run_time", self.seconds) else self.ramp.users(now, self.users)
        if wanted is None:
            self._tell(self.ramp.verdict())
            return None
        return wanted, self.asked("spawn_rate", self.rate)

    def _tell(self, verdict: dict[str, Any]) -> None:
        log.info("%s", verdict["text"])
        if folder := os.environ.get("PARLEY_LOAD_OUT"):
            (Path(folder) / "ramp.json").write_text(json.dumps(verdict, indent=1) + "\n")


class BargeInShape(SteadyShape):
    """Everybody interrupts."""


class SlowReadersShape(SteadyShape):
    """Some do not read as fast as they are spoken to."""


class ReconnectShape(SteadyShape):
    """A storm of calls that begin and end."""

    most, rate = 32, 32.0


class MixedShape(SteadyShape):
    """All kinds of callers."""

    most = 32


class EnduranceShape(SteadyShape):
    """For hours."""

    most, seconds = 32, 4 * 3600.0


SHAPES: dict[str, type[Scenario]] = {
    "baseline": BaselineShape,
    "steady": SteadyShape,
    "ramp": RampShape,
    "spike": SpikeShape,
    "barge_in": BargeInShape,
    "slow_readers": SlowReadersShape,
    "reconnect": ReconnectShape,
    "mixed": MixedShape,
    "endurance": EnduranceShape,
}
