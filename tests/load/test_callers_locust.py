"""Locust as its users run it: headless, with workers, with the wrong address."""

from __future__ import annotations

import asyncio
import csv
import os
import socket
import sys
from collections import Counter
from pathlib import Path

from tests.load.gateway import make_clips, talking

ROOT = Path(__file__).parents[2]
LOCUST = [sys.executable, "-m", "locust", "-f", "load/locustfile.py"]


async def locust(*arguments: str, out: Path) -> tuple[int, str]:
    """(exit code, all that it said)."""
    process = await asyncio.create_subprocess_exec(
        *LOCUST,
        *arguments,
        cwd=ROOT,
        env={**os.environ, "PARLEY_LOAD_OUT": str(out)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
    except BaseException:
        process.terminate()
        raise
    assert process.returncode is not None
    return process.returncode, said.decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


async def test_headless_with_users_rate_and_time(tmp_path: Path) -> None:
    clips = str(make_clips(tmp_path))
    async with talking() as (host, _):
        code, said = await locust(
            "--host", host, "--headless", "-u", "3", "-r", "3", "-t", "6s", "--clips", clips,
            "--only-summary", out=tmp_path,
        )  # fmt: skip
    assert code == 0, said
    samples = Counter(row["name"] for row in rows(tmp_path / "samples.csv"))
    assert samples["connect"] == samples["session"] == 3
    assert samples["turn"] == samples["voice_to_voice"] >= 3
    for name in ("voice_to_voice", "frame_jitter", "speech_end_to_final", "turn"):
        assert f"parley   {name}" in said, f"{name} is not in locust's own table"
    assert rows(tmp_path / "frames.csv")
    assert rows(tmp_path / "self.csv")[0]["callers"] == "3"


async def test_a_master_with_workers_and_a_shape(tmp_path: Path) -> None:
    clips, port = str(make_clips(tmp_path)), str(free_port())
    async with talking() as (host, _):
        master = locust(
            "--host", host, "--headless", "--master", "--master-bind-port", port, "--expect-workers", "2",
            "--scenario", "steady", "-u", "4", "-r", "4", "-t", "3", "--clips", clips, "--only-summary",
            out=tmp_path,
        )  # fmt: skip
        worker = ("--worker", "--master-port", port, "--clips", clips)
        ended = await asyncio.gather(master, locust(*worker, out=tmp_path), locust(*worker, out=tmp_path))
    assert [code for code, _ in ended] == [0, 0, 0], ended
    callers = {int(row["caller"]) for row in rows(tmp_path / "samples.csv") if row["name"] == "connect"}
    assert len(callers) == 4
    assert len({number // 1_000_000 for number in callers}) == 2, "both workers carry callers"
    assert "parley   connect" in ended[0][1]


async def test_a_gateway_that_is_not_there_fails_the_run_and_says_why(tmp_path: Path) -> None:
    code, said = await locust(
        "--host", f"127.0.0.1:{free_port()}", "--headless", "-u", "1", "-t", "1s",
        "--clips", str(make_clips(tmp_path)), "--only-summary", out=tmp_path,
    )  # fmt: skip
    assert code == 1
    assert "refused:UNAVAILABLE" in said
    code, said = await locust(
        "--host", "nowhere", "--headless", "-u", "1", "-t", "9s", "--clips", "none", out=tmp_path
    )
    assert code == 1
    assert "give host:port" in said
