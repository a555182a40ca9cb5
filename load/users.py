"""Locust's side of the callers: one user, one caller after the other; what they measured, in locust's words."""

from __future__ import annotations

import argparse
import logging
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from locust import User, events, tag, task
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from load.caller_build import BuildError, ensure_caller
from load.fleet import Fleet, FleetGone, Recorder, Sample
from load.objective import WATCHED, Seen
from load.plans import SCENARIOS, BadTarget, Target, behaviour, split_host
from load.shapes import Scenario

log = logging.getLogger(__name__)

_events: Any = events  # locust's own types end here
ROOT = Path(__file__).parents[1]
COUNTS = ("frames", "frames_late", "stale_frames", "early_end", "early_stop")
"""Samples that are no times."""
_AGAIN_S = (0.5, 1.5)
"""Pause after a call that failed, drawn from here."""
_CLIPS_S = 120.0
_OWN_FAULTS = ("bad_command", "no_clips")
"""Beginnings of the reasons that are nobody's but this program's."""


class SampleFailed(Exception):
    """A measured thing that went wrong; `str()` is the reason."""


class Desk:
    """One per locust process that has users: the callers' program, and where its samples go."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.scenario = "steady"
        self.target = Target("", "")
        self.chance = random.Random()
        self._unsent: list[Seen] = []
        self.late_s = 0.0
        self.fleet: Fleet | None = None
        """None while no test runs, or when it could not begin."""
        self._recorder: Recorder | None = None
        self._preparing = BoundedSemaphore()
        self._program: Path | None = None
        self._own_clips = ""

    def prepare(self) -> tuple[Path, str]:
        """The callers' program and the clips, made once. Raises BuildError."""
        with self._preparing:
            self._program = self._program or ensure_caller()
            chosen = str(self.environment.parsed_options.clips)
            if not chosen:
                self._own_clips = self._own_clips or _make_clips()
            return self._program, chosen or self._own_clips

    @property
    def worker(self) -> int:
        runner = self.environment.runner
        return max(0, runner.worker_index) if isinstance(runner, WorkerRunner) else 0

    def begin(self) -> None:
        """A test begins. Raises BadTarget, BuildError, OSError."""
        options = self.environment.parsed_options
        self.close()
        self.late_s = 0.0
        program, clips = self.prepare()
        self.scenario = scenario_of(options)
        self.chance = random.Random(f"{options.seed} {self.worker}")
        host, tls = split_host(self.environment.host or "")
        folder = os.environ.get("PARLEY_LOAD_OUT", "")
        if folder:
            self._recorder = Recorder(Path(folder), self.worker)
        fields = _plan_options(options)
        if self._recorder is not None:
            fields["frames_csv"] = str(self._recorder.frames.resolve())
        self.target = Target(host, clips, tls or options.tls, options.ca, options.key, tuple(fields.items()))
        self.fleet = Fleet(program, worker=self.worker, on_sample=self._take, on_self=self._take_self)

    def close(self) -> None:
        if self.fleet is not None:
            self.fleet.close()
            self.fleet = None
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None

    def plan(self) -> dict[str, Any]:
        """Of the next call; what the user asked for on the command line goes before the scenario."""
        return {**behaviour(self.scenario, self.chance), **self.target.plan()}

    def take_unsent(self) -> list[list[Any]]:
        """Raw samples that a shape at the master may judge; each is given once."""
        unsent, self._unsent = self._unsent, []
        return [list(sample) for sample in unsent]

    def _take(self, sample: Sample) -> None:
        if self._recorder is not None:
            self._recorder.sample(sample)
        name, ms = sample["name"], sample["ms"]
        if name in WATCHED:
            self._watch(Seen(sample["t"], name, ms, sample["ok"]))
        kind, fine = "parley", sample["ok"]
        if name == "send_late":
            kind, fine = "caller", True  # this program's own fault, never the gateway's
        elif name in COUNTS:
            kind = "count"
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=max(0.0, ms),
            response_length=0,
            exception=None if fine else SampleFailed(sample["why"]),
            context={"caller": sample["id"], "turn": sample["turn"]},
        )

    def _take_self(self, said: dict[str, Any]) -> None:
        if self._recorder is not None:
            self._recorder.self(said)
        if said["send_late_p99_ms"] > 5.0:
            self.late_s += 1.0

    def _watch(self, sample: Seen) -> None:
        if isinstance(self.environment.runner, WorkerRunner):
            self._unsent.append(sample)
        else:
            _show(self.environment, [sample])


class Caller(User):
    """One person who calls, again and again; the calls are made by the callers' program."""

    @tag(*SCENARIOS)
    @task
    def call(self) -> None:
        desk = _desk_of(self.environment)
        fleet = desk.fleet
        if fleet is None:
            raise StopUser
        try:
            call = fleet.call(desk.plan())
        except FleetGone as error:
            if desk.fleet is fleet:  # not that of another test meanwhile
                _give_up(self.environment, str(error))
            raise StopUser from None
        try:
            fine, why = call.wait()
        except FleetGone:
            return  # the next call says so
        finally:
            fleet.hang_up(call)  # the user was stopped
        if why.startswith(_OWN_FAULTS):
            _give_up(self.environment, why)
            raise StopUser
        if not fine:
            gevent.sleep(desk.chance.uniform(*_AGAIN_S))


def scenario_of(options: argparse.Namespace) -> str:
    """By `--scenario`, else the first tag that names one, else steady."""
    tags = [name for name in (options.tags or ()) if name in SCENARIOS]
    return str(options.scenario or (tags[0] if tags else "steady"))


def _plan_options(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of the plan that were asked for on the command line."""
    given: dict[str, Any] = {
        "output_rate": options.output_rate,
        "seed": options.seed,
        "reply_timeout_ms": options.reply_timeout_ms,
        "reply_share": options.reply_share,
        "turns": options.turns,
        "hangover_ms": options.hangover_ms,
        "hangover_long_ms": options.hangover_long_ms,
        "eager": True if options.eager else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _show(environment: Any, samples: list[Seen]) -> None:
    """To a shape that judges raw samples."""
    if isinstance(environment.shape_class, Scenario):
        environment.shape_class.saw(samples)


def _make_clips() -> str:
    """In a process of its own: audio and gevent need not know each other. Raises BuildError."""
    done = subprocess.run(
        [sys.executable, "-m", "load.clips"], cwd=ROOT, capture_output=True, text=True, timeout=_CLIPS_S
    )
    if done.returncode:
        raise BuildError(done.stderr.strip()[-800:] or "the clips could not be made")
    return done.stdout.strip()


def _desk_of(environment: Any) -> Desk:
    """That of the process. A worker may have to begin before locust has told it that it is set up."""
    desk: Desk | None = getattr(environment, "parley", None)
    if desk is None:
        desk = environment.parley = Desk(environment)
    return desk


def _give_up(environment: Any, why: str) -> None:
    """There is nothing to measure: end, or leave the web UI to its user."""
    log.error("%s", why)
    environment.process_exit_code = 1
    runner, options = environment.runner, environment.parsed_options
    over = runner.quit if options.headless or isinstance(runner, WorkerRunner) else runner.stop
    gevent.spawn_later(0.1, over)  # not amid locust's own start


# ---- locust's events ------------------------------------------------------------------------------


def add_arguments(parser: Any) -> None:
    about = "; ".join(f"{name}: {what}" for name, what in SCENARIOS.items())
    parser.add_argument(
        "--scenario",
        choices=["", *SCENARIOS],
        default="",
        env_var="PARLEY_LOAD_SCENARIO",
        help=f"{about}. Given on the command line, it also shapes the load.",
    )
    parser.add_argument(
        "--key", default="", env_var="PARLEY_LOAD_KEY", include_in_web_ui=False, help="API key"
    )
    parser.add_argument("--tls", action="store_true", help="Speak TLS; so does --host https://…")
    parser.add_argument("--ca", default="", help="PEM file to trust instead of the system's certificates")
    parser.add_argument("--clips", default="", help="Manifest of what to say (python -m load.clips)")
    parser.add_argument("--output-rate", type=int, default=48_000, help="Hz of the reply audio")
    parser.add_argument("--turns", type=int, help="Turns a call; 0: until stopped")
    parser.add_argument("--reply-share", type=float, help="Share of time with reply audio, such as 0.4")
    parser.add_argument("--reply-timeout-ms", type=float, default=10_000, help="A turn without a reply fails")
    parser.add_argument("--hangover-ms", type=int, help="Silence that ends a finished-looking turn")
    parser.add_argument("--hangover-long-ms", type=int, help="Silence that ends any other turn")
    parser.add_argument("--eager", action="store_true", help="The gateway may answer a stable partial")
    parser.add_argument("--seed", type=int, default=1, help="Of everything that is drawn")


def set_up(environment: Any, **_: Any) -> None:
    """Build what is needed before anybody waits for it."""
    if isinstance(environment.runner, MasterRunner):
        environment.events.worker_report.add_listener(
            lambda client_id, data: _show(environment, [Seen(*v) for v in data.get("parley", ())])
        )
        return
    desk = _desk_of(environment)
    environment.events.report_to_master.add_listener(
        lambda client_id, data: data.update(parley=desk.take_unsent())
    )
    try:
        desk.prepare()
    except BuildError as error:
        sys.exit(f"parley: {error}")


def start(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        return
    try:
        _desk_of(environment).begin()
    except (BadTarget, BuildError, OSError) as error:
        _give_up(environment, str(error))


def stop(environment: Any, **_: Any) -> None:
    desk: Desk | None = getattr(environment, "parley", None)
    if desk is None:
        return
    desk.close()
    if desk.late_s:
        log.warning(
            "the callers themselves sent late (p99 above 5 ms) in %.0f s of this test: its figures say more "
            "about this machine than about the gateway; give the callers a core of their own",
            desk.late_s,
        )


def leave(environment: Any, **_: Any) -> None:
    desk: Desk | None = getattr(environment, "parley", None)
    if desk is not None:
        desk.close()


_events.init_command_line_parser.add_listener(add_arguments)
_events.init.add_listener(set_up)
_events.test_start.add_listener(start)
_events.test_stop.add_listener(stop)
_events.quitting.add_listener(leave)
