"""The runner: its command line, the programs it starts and always stops, what it reads of them."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from load.report.data import TIMELINE
from load.run import usage
from load.run.callers import Callers, locust_up
from load.run.child import ROOT, Child, Failed
from load.run.gauges import parse as parse_gauges
from load.run.main import main
from load.run.options import cores, parse
from load.run.scenarios import SCENARIOS
from load.run.stage import can_pin, environment, profile_facts
from load.run.watch import Row, Watch
from tests.support.virtual_time import run_virtual


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- the command line -----------------------------------------------------------------------------


def test_the_command_line_can_be_told_again_without_its_secrets(tmp_path: Path) -> None:
    options = parse(
        ["steady", "--out", str(tmp_path / "run"), "--sessions", "64", "--set", "turn.eager=true", "--set",
         "llm.api_key=hush", "--part", "asr.final_ms=67", "--key", "hush", "--host", "a:1", "--tls", "--", "--turns", "2"]
    )  # fmt: skip
    assert options.command() == (
        "scripts/load steady --out run --sessions 64 --host a:1 --tls --set turn.eager=true "
        "--set 'llm.api_key=***' --part asr.final_ms=67 -- --turns 2"
    )
    assert options.locust == ["--turns", "2"]


def test_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_LOAD_KEY", "k")
    assert parse(["baseline", "--out", "x"]).key == "k"


@pytest.mark.parametrize(
    "wrong", [["--set", "eager"], ["--set", "eager=1"], ["--sessions", "0"], ["--duration", "-1"]]
)
def test_what_cannot_be_is_said_at_once(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["steady", "--out", "x", *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_what_locust_is_told(tmp_path: Path) -> None:
    options = parse(["steady", "--out", str(tmp_path), "--sessions", "64", "--", "--reply-share", "0.4"])
    command = locust_up(options, "h:1", Path("clips.json"), ())._command
    assert command[command.index("-u") + 1] == "64"
    assert command[command.index("-r") + 1] == "8"
    assert command[command.index("-t") + 1] == "60s"
    assert command[-2:] == ["--reply-share", "0.4"]


def test_scenarios_are_those_of_locusts_shapes_with_their_defaults() -> None:
    code = (
        "import json\nfrom load.shapes import SHAPES\n"
        "print(json.dumps({n: [s.most, s.seconds] for n, s in SHAPES.items()}))"
    )
    done = subprocess.run(python(code), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == {n: [s.sessions, s.duration_s] for n, s in SCENARIOS.items()}


def test_cores_are_numbers() -> None:
    assert cores("0,2") == {0, 2}
    assert cores("") == set()
    with pytest.raises(ValueError, match="x"):
        cores("x")
    assert can_pin(os.sched_getaffinity(0))
    assert not can_pin({10_000})
    assert not can_pin(set())


def test_settings_become_the_gateways_environment() -> None:
    assert environment(["turn.eager=true", "llm.base_url=http://x/v1?a=b"]) == {
        "PARLEY_TURN__EAGER": "true",
        "PARLEY_LLM__BASE_URL": "http://x/v1?a=b",
    }


def test_the_profile_is_told_as_plain_figures() -> None:
    facts = profile_facts("blueprint-1", ["asr.final_ms={lognormal: {median: 40, p95: 90}}"])
    assert facts["llm"]["first_sentence_ms"] == 138
    assert facts["asr"]["final_ms"] == {"median": 40, "p95": 90}
    with pytest.raises(Failed, match="nothing-like-it"):
        profile_facts("nothing-like-it", [])


def test_a_run_that_cannot_start_says_why_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["baseline", "--out", str(tmp_path / "run"), "--profile", "nothing-like-it"]) == 1
    assert main(["baseline", "--out", str(tmp_path / "run"), "--against", str(tmp_path)]) == 1
    assert main(["baseline", "--out", str(tmp_path / "run"), "--gateway-core", "x"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert ["nothing-like-it" in said[0], "no run.json" in said[1], "cores are numbers" in said[2]] == [
        True
    ] * 3


# ---- programs -------------------------------------------------------------------------------------


async def test_a_child_ends_with_its_block_and_so_does_what_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(p.pid, flush=True)\ntime.sleep(60)"
    )
    async with Child("it", python(code), log=tmp_path / "log", talks=True) as child:
        grandchild = int(await child.line(10))
        assert alive(child.pid)
        assert alive(grandchild)
    assert not alive(child.pid)
    deadline = time.monotonic() + 5
    while alive(grandchild) and time.monotonic() < deadline:
        os.sched_yield()
    assert not alive(grandchild)


async def test_a_child_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    code = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
    async with Child("it", python(code), log=tmp_path / "log", talks=True, stop_s=0.2) as child:
        assert await child.line(10) == "up"
    assert child.code == -signal.SIGKILL


async def test_a_child_that_does_not_come_up_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="it did not start: no such luck"):
        async with Child(
            "it", python("raise SystemExit('no such luck')"), log=tmp_path / "log", talks=True
        ) as child:
            await child.line(10)
    with pytest.raises(Failed, match="it was not ready within 0 s"):
        async with Child(
            "it", python("import time; time.sleep(60)"), log=tmp_path / "log", talks=True
        ) as child:
            await child.line(0.05)
    assert not alive(child.pid)


async def test_a_child_ends_when_the_run_is_cancelled(tmp_path: Path) -> None:
    up: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def hold() -> None:
        code = "import time; print('up', flush=True); time.sleep(60)"
        async with Child("it", python(code), log=tmp_path / "log", talks=True) as child:
            await child.line(10)
            up.set_result(child.pid)
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    pid = await up
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pid)


async def test_a_child_inherits_no_settings_of_the_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_TURN__EAGER", "true")
    code = "import os; print(sorted(k for k in os.environ if k.startswith('PARLEY_')), flush=True)"
    async with Child("it", python(code), log=tmp_path / "log", talks=True, env={"PARLEY_X": "1"}) as child:
        assert await child.line(10) == "['PARLEY_X']"


async def test_cpu_and_memory_of_a_tree(tmp_path: Path) -> None:
    code = (
        "import time\nprint('up', flush=True)\nhold = b'x' * 30_000_000\n"
        "end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint('done', flush=True)\ntime.sleep(60)"
    )
    async with Child("it", python(code), log=tmp_path / "log", talks=True) as child:
        await child.line(10)
        meter = usage.CpuMeter()
        await child.line(20)
        pids = usage.trees([child.pid, os.getpid()])
        assert child.pid in pids[child.pid]
        assert child.pid not in pids[os.getpid()]  # a tree ends where another begins
        assert 0.25 < meter.look(pids[child.pid]) < 5
        assert 30 < usage.rss_mb(pids[child.pid]) < 200
    assert set(usage.cores_busy_s()) >= os.sched_getaffinity(0)


# ---- levels ---------------------------------------------------------------------------------------


def test_the_metrics_page_is_read_by_our_names() -> None:
    page = "# HELP parley_tasks x\nparley_tasks 12.0\nparley_vad_backlog_seconds 0.25\nparley_sessions_active 3.0\nother 1\n"
    assert parse_gauges(page) == {"tasks": 12, "vad_backlog_ms": 250, "sessions": 3}


def test_the_callers_words_are_followed_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "self.csv"
    callers = Callers(path)
    assert callers.now() == (None, None)
    path.write_text("t_s,worker,callers,cpu_s,send_late_p99_ms\n1,0,5,0.1,0.5\n1,1,6,0.1,0.7\n2,0,7,0.2,")
    assert callers.now() == (11, 0.7)
    with path.open("a") as file:
        file.write("0.9\n")
    assert callers.now() == (13, 0.9)


def test_a_line_of_levels_every_second(tmp_path: Path) -> None:
    seen: list[Row] = []

    async def watch() -> None:
        async with Watch(
            tmp_path / "t.csv", gateway=os.getpid(), callers=lambda: (4, 0.5), on_row=seen.append
        ):
            await asyncio.sleep(3.5)

    run_virtual(watch())
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(TIMELINE)
    assert len(rows) == len(seen) == 3
    assert all(row["sessions"] == "4" and row["send_late_p99_ms"] == "0.5" for row in rows)
    assert all(float(row["gateway_rss_mb"]) > 10 and row["emulators_cpu"] == "" for row in rows)
