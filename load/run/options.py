"""The command line of `scripts/load`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from load.run.scenarios import REPORT, SCENARIOS

_EPILOG = """\
examples:
  scripts/load baseline --out base                one caller, about 40 s
  scripts/load steady --sessions 64 --out after --against before
  scripts/load ramp --sessions 160 --out ramp --set turn.eager=true --profile blueprint-64
  scripts/load steady --host voice.example:443 --tls --key KEY --out cluster
  scripts/load steady --out run -- --reply-share 0.4 --turns 3     what follows -- is locust's
  scripts/load report --out run --against old     makes the page of a finished run anew

The run folder holds report.html, summary.json, the raw samples as CSV, and the logs. Keep the machine
otherwise quiet: whatever else runs on it is in the figures.
"""


@dataclass(slots=True)
class Options:
    scenario: str
    out: Path
    duration_s: float = 0.0
    sessions: int = 0
    """0: the scenario's own."""
    against: Path | None = None
    host: str = ""
    """host:port of a gateway that runs; empty: one of ours is started."""
    key: str = ""
    tls: bool = False
    ca: Path | None = None
    profile: str = "blueprint-1"
    settings: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    gateway_core: str = "0"
    callers_core: str = "1"
    seed: int = 1
    workers: int = 1
    allow_void: bool = False
    locust: list[str] = field(default_factory=list)

    def command(self) -> str:
        """As it can be typed anywhere: files by their names, without the key."""
        words = ["scripts/load", self.scenario, "--out", self.out.name]
        for name, value, usual in (
            ("duration", f"{self.duration_s:g}", "0"),
            ("sessions", str(self.sessions), "0"),
            ("against", self.against.name if self.against else "", ""),
            ("host", self.host, ""),
            ("ca", self.ca.name if self.ca else "", ""),
            ("profile", Path(self.profile).name, "blueprint-1"),
            ("seed", str(self.seed), "1"),
            ("workers", str(self.workers), "1"),
            ("gateway-core", self.gateway_core, "0"),
            ("callers-core", self.callers_core, "1"),
        ):
            if value != usual:
                words += [f"--{name}", value]
        words += ["--tls"] if self.tls else []
        words += [word for pair in self.settings for word in ("--set", masked(pair))]
        words += [word for pair in self.parts for word in ("--part", pair)]
        words += ["--", *self.locust] if self.locust else []
        return shlex.join(words)


def masked(pair: str) -> str:
    """SECTION.KEY=VALUE, without the value where it may be a secret."""
    key, equals, value = pair.partition("=")
    secret = key.endswith(("api_key", "metadata", "keys", "password", "token"))
    return f"{key}{equals}{'***' if secret and value else value}"


def parse(arguments: Sequence[str] | None = None) -> Options:
    about = "\n".join(f"  {s.name:<14}{s.about}" for s in SCENARIOS.values())
    parser = argparse.ArgumentParser(
        prog="scripts/load",
        description=f"Runs a load test and leaves a report folder.\n\nscenarios:\n{about}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", choices=[*SCENARIOS, REPORT], metavar="SCENARIO", help="one of the above")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the run folder; made if need be"
    )
    parser.add_argument("--duration", type=_positive, default=0.0, metavar="S", help="of the load, s")
    parser.add_argument("--sessions", type=_whole, default=0, metavar="N", help="the most at once")
    parser.add_argument("--against", type=Path, metavar="OLD", help="a run folder to compare with")
    parser.add_argument("--host", default="", metavar="ADDR", help="a gateway that runs: host:port")
    parser.add_argument(
        "--api-key",
        "--key",
        dest="key",
        default="",
        help="its API key; PARLEY_API_KEY or PARLEY_LOAD_KEY is safer",
    )
    parser.add_argument("--tls", action="store_true", help="speak TLS to it")
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="certificates to trust instead of the system's"
    )
    parser.add_argument(
        "--profile",
        default="blueprint-1",
        metavar="NAME|FILE",
        help="what the emulated parts do (blueprint-1)",
    )
    parser.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="PART.FIELD=VALUE",
        help="one figure of the profile, changed",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a setting of the gateway"
    )
    parser.add_argument("--workers", type=_whole, default=1, metavar="N", help="processes of the gateway")
    parser.add_argument("--gateway-core", default="0", metavar="CORES", help="0 or 0,2; empty: any (0)")
    parser.add_argument(
        "--callers-core", default="1", metavar="CORES", help="of callers and emulated parts (1)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument(
        "--allow-void", action="store_true", help="exit 0 also when the callers were the bottleneck"
    )
    given = list(sys.argv[1:] if arguments is None else arguments)
    at = given.index("--") if "--" in given else len(given)
    raw = parser.parse_args(given[:at])
    for name in ("set", "part"):
        for pair in getattr(raw, name):
            key, equals, _ = pair.partition("=")
            if not equals or "." not in key:
                parser.error(
                    f"--{name} {key}: write it as in --{name} {'turn.eager=true' if name == 'set' else 'llm.first_token_ms=126'}"
                )
    return Options(
        scenario=raw.scenario, out=raw.out.resolve(), duration_s=raw.duration, sessions=raw.sessions,
        against=raw.against.resolve() if raw.against else None, host=raw.host,
        key=raw.key or os.environ.get("PARLEY_LOAD_KEY", "") or os.environ.get("PARLEY_API_KEY", ""), tls=raw.tls,
        ca=raw.ca.resolve() if raw.ca else None, profile=raw.profile, settings=raw.set, parts=raw.part,
        gateway_core=raw.gateway_core, callers_core=raw.callers_core, seed=raw.seed, workers=raw.workers,
        allow_void=raw.allow_void, locust=given[at + 1 :],
    )  # fmt: skip


def cores(text: str) -> set[int]:
    """{0, 2} of "0,2"; empty of "". Raises ValueError."""
    return {int(part) for part in text.split(",") if part.strip()}


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
