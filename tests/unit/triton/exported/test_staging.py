"""Model folders that appear whole, and what is left where their writer was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gateway.triton.exported.staging import LOCK, put, staging

NAMES = ["graph_a", "graph_b", "front"]
KILLED = """
import os, signal, sys
from pathlib import Path
from gateway.triton.exported import staging as one

repository, moves = Path(sys.argv[1]), int(sys.argv[2])
rename, moved = os.rename, 0

def dies(source, target):
    global moved
    if moved == moves:
        os.kill(os.getpid(), signal.SIGKILL)
    moved += 1
    rename(source, target)

os.rename = dies
with one.staging(repository, ".export-") as work:
    for name in ["graph_a", "graph_b", "front"]:
        (work / name).mkdir()
        (work / name / "is").write_text("new")
    one.put(work, repository, ["graph_a", "graph_b", "front"])
    os.kill(os.getpid(), signal.SIGKILL)
"""
HOLDS = """
import sys
from pathlib import Path
from gateway.triton.exported.staging import staging

with staging(Path(sys.argv[1]), ".export-") as work:
    print(work, flush=True)
    sys.stdin.read()
"""


def told(repository: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in repository.glob("*/is")}


def write(repository: Path, text: str, names: list[str]) -> None:
    with staging(repository, ".export-") as work:
        for name in names:
            (work / name).mkdir()
            (work / name / "is").write_text(text)
        put(work, repository, names)


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[4],
    )  # fmt: skip


@pytest.mark.parametrize("moves", range(7))
def test_killed_between_any_two_moves_the_next_writer_finds_the_old_or_the_new(
    moves: int, tmp_path: Path
) -> None:
    write(tmp_path, "old", NAMES)
    with run(KILLED, str(tmp_path), str(moves)) as killed:
        assert killed.wait(60) == -signal.SIGKILL
    assert list(tmp_path.glob(".export-*")), "it left something"
    write(tmp_path, "other", ["elsewhere"])
    found = told(tmp_path)
    assert found.pop("elsewhere") == "other"
    assert found == dict.fromkeys(NAMES, "new" if moves == 6 else "old")
    assert not list(tmp_path.glob(".export-*"))


def test_killed_before_there_was_an_older_one_nothing_of_it_stays(tmp_path: Path) -> None:
    with run(KILLED, str(tmp_path), "2") as killed:
        assert killed.wait(60) == -signal.SIGKILL
    assert told(tmp_path) == dict.fromkeys(NAMES[:2], "new")
    write(tmp_path, "other", ["elsewhere"])
    assert told(tmp_path) == {"elsewhere": "other"}


def test_what_a_live_process_writes_is_left_alone_until_it_is_gone(tmp_path: Path) -> None:
    with run(HOLDS, str(tmp_path)) as alive:
        assert alive.stdout is not None
        work = Path(alive.stdout.readline().strip())
        write(tmp_path, "old", NAMES)
        assert work.exists()
        alive.kill()
        alive.wait(60)
        assert work.exists()
        write(tmp_path, "new", NAMES)
    assert not work.exists()
    assert told(tmp_path) == dict.fromkeys(NAMES, "new")


def test_a_folder_without_a_lock_goes_only_when_it_is_old(tmp_path: Path) -> None:
    young, old = tmp_path / ".export-young", tmp_path / ".export-old"
    for folder in (young, old, tmp_path / ".pulling-other"):
        folder.mkdir()
    os.utime(old, (time.time() - 7_200,) * 2)
    write(tmp_path, "old", ["one"])
    assert young.exists()
    assert not old.exists()
    assert (tmp_path / ".pulling-other").exists(), "another's"
    assert LOCK not in {path.name for path in (tmp_path / "one").iterdir()}
