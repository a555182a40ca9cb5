"""Locust as a run needs it: headless, on the callers' core, its samples into the run folder."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from load.run.child import ROOT, Child
from load.run.options import Options
from load.run.scenarios import SCENARIOS

_COME_S, _SLOWEST_RATE = 8.0, 4.0
_STOP_S = 20.0
"""Everybody hangs up first."""


def locust_up(options: Options, host: str, clips: Path, cores: Collection[int]) -> Child:
    """Not started yet."""
    scenario = SCENARIOS[options.scenario]
    command = [
        sys.executable, "-m", "locust", "-f", str(ROOT / "load" / "locustfile.py"),
        "--headless", "--only-summary", "--exit-code-on-error", "0", "--scenario", scenario.name,
        "--host", host, "--clips", str(clips), "--seed", str(options.seed),
        "-u", str(options.sessions or scenario.sessions), "-t", f"{options.duration_s or scenario.duration_s:g}s",
    ]  # fmt: skip
    # Everybody is there after 8 s: what is measured is the load, not the coming.
    command += ["-r", f"{max(_SLOWEST_RATE, (options.sessions or scenario.sessions) / _COME_S):g}"]
    command += ["--tls"] if options.tls else []
    command += ["--ca", str(options.ca)] if options.ca else []
    command += options.locust
    env = {"PARLEY_LOAD_OUT": str(options.out), "PARLEY_LOAD_KEY": options.key}
    return Child("locust", command, log=options.out / "locust.log", env=env, cores=cores, stop_s=_STOP_S)


class Callers:
    """What the callers' programs say of themselves each second, out of self.csv as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._columns: list[str] = []
        self._latest: dict[str, dict[str, float]] = {}

    def now(self) -> tuple[float | None, float | None]:
        """(callers, p99 of how late they sent in the last second, ms); None before the first word."""
        try:
            with self._path.open() as file:
                file.seek(self._at)
                text = file.read()
        except OSError:
            return None, None
        whole = text[: text.rfind("\n") + 1]
        self._at += len(whole.encode())
        for line in whole.splitlines():
            fields = line.split(",")
            if not self._columns:
                self._columns = fields
                continue
            row = dict(zip(self._columns, map(float, fields), strict=True))
            self._latest[f"{row['worker']:g}"] = row
        if not self._latest:
            return None, None
        rows = self._latest.values()
        return sum(row["callers"] for row in rows), max(row["send_late_p99_ms"] for row in rows)
