"""The exporter's environment, made by a uv that only looks like one."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.triton.exported import environment
from gateway.triton.exported.environment import (
    ExportUnavailable,
    ensure_environment,
    environment_folder,
    is_made,
    main,
    run_export,
    run_python,
)

UV = """\
#!/bin/sh
echo "$*" >> "$UV_TEST/calls"
case "$2" in
venv)
  for last; do :; done
  mkdir -p "$last/bin"
  cp "$UV_TEST/python" "$last/bin/python" ;;
pip)
  echo "$VIRTUAL_ENV" > "$UV_TEST/into"
  if [ -e "$UV_TEST/hang" ]; then
    sleep 600 &
    echo "$$ $!" > "$UV_TEST/hang"   # a pipe: whoever reads it knows that both are there
    wait
  fi
  [ ! -e "$UV_TEST/refuse" ] || { echo "no such package" >&2; exit 7; } ;;
esac
"""
PYTHON = """\
#!/bin/sh
{ echo "$*"; env | grep '^PYTHON\\|^HF_HUB' | sort; } > "$UV_TEST/ran"
exit 3
"""
ENDS_S = 10.0


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in keeps what it was asked; the caches are in a folder of the test's own."""
    place = tmp_path / "uv"
    (place / "bin").mkdir(parents=True)
    script(place / "bin" / "uv", UV)
    script(place / "python", PYTHON)
    lock = tmp_path / "torch.lock"
    lock.write_text("torch==0\n")
    monkeypatch.setattr(environment, "LOCK", lock)
    monkeypatch.setattr(environment, "NEEDED_BYTES", 1)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))  # no uv beside it
    monkeypatch.setenv("PATH", f"{place / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("UV_TEST", str(place))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return place


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def quietly(_: str) -> None:
    pass


def calls(uv: Path) -> list[str]:
    path = uv / "calls"
    return [line.split()[1] for line in path.read_text().splitlines()] if path.exists() else []


async def test_it_is_made_once_and_named_after_its_lock(uv: Path, tmp_path: Path) -> None:
    said: list[str] = []
    python = await ensure_environment(said.append)
    folder = environment_folder()
    assert python == folder / "bin" / "python"
    assert folder.parent == tmp_path / "cache" / "parley"
    assert (uv / "into").read_text().strip() == str(folder)
    assert len(said) == 1
    assert str(folder) in said[0]
    asked = (uv / "calls").read_text().splitlines()
    assert asked[0].endswith(str(folder))
    assert {"--no-config", "--no-deps", "--require-hashes", "--only-binary"} <= set(asked[1].split())
    assert await ensure_environment(said.append) == python
    assert calls(uv) == ["venv", "pip"]
    environment.LOCK.write_text("torch==1\n")
    assert environment_folder() != folder
    assert not is_made()


async def test_two_at_once_make_it_once(uv: Path) -> None:
    said: list[str] = []
    first, second = await asyncio.gather(*(ensure_environment(said.append) for _ in range(2)))
    assert first == second
    assert calls(uv) == ["venv", "pip"]
    assert sum("waiting for it" in line for line in said) == 1


async def test_a_python_that_is_gone_is_made_anew(uv: Path) -> None:
    python = await ensure_environment(quietly)
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    assert not is_made()
    await ensure_environment(quietly)
    assert calls(uv) == ["venv", "pip"] * 2


async def test_no_uv(uv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ExportUnavailable, match=r"uv is missing, .*: pip install 'parley\[export\]'"):
        await ensure_environment(quietly)
    assert not environment_folder().exists()


async def test_an_install_that_fails_leaves_nothing(uv: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (uv / "refuse").touch()
    with pytest.raises(ExportUnavailable, match=r"uv pip ended with 7; its reason is above"):
        await ensure_environment(quietly)
    assert "no such package" in capfd.readouterr().err
    assert not environment_folder().exists()
    (uv / "refuse").unlink()
    assert (await ensure_environment(quietly)).exists()


async def test_no_room_on_the_disk(uv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(ExportUnavailable, match=r"GB free, .* takes \d+ GB to make; free some, or set XDG"):
        await ensure_environment(quietly)
    assert calls(uv) == []


async def test_a_cache_that_cannot_be_written(uv: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        ExportUnavailable, match=r"cannot write to .*/parley \(.*\): make it writable, or set"
    ):
        await ensure_environment(quietly)


async def test_no_lock_is_no_checkout(uv: Path) -> None:
    environment.LOCK.unlink()
    with pytest.raises(ExportUnavailable, match=r"there is no .*torch\.lock: exporting needs a checkout"):
        await ensure_environment(quietly)


async def cancelled(uv: Path) -> list[int]:
    """The processes that were at work when it was cancelled."""
    os.mkfifo(uv / "hang")
    making = asyncio.create_task(ensure_environment(quietly))
    async with asyncio.timeout(ENDS_S):
        pids = [int(pid) for pid in (await asyncio.to_thread((uv / "hang").read_text)).split()]
    making.cancel()
    async with asyncio.timeout(ENDS_S):
        with suppress(asyncio.CancelledError):
            await making
    assert making.cancelled()
    return pids


async def test_cancelled_in_the_middle_leaves_no_process_and_nothing_that_looks_whole(uv: Path) -> None:
    assert all(ends(pid) for pid in await cancelled(uv))
    assert environment_folder().exists()
    assert not is_made()
    (uv / "hang").unlink()
    assert (await ensure_environment(quietly)).exists()
    assert calls(uv) == ["venv", "pip"] * 2


async def test_who_waits_for_another_can_be_cancelled(uv: Path) -> None:
    waits = asyncio.Event()

    def say(text: str) -> None:
        if "waiting for it" in text:
            waits.set()

    os.mkfifo(uv / "hang")
    making = asyncio.create_task(ensure_environment(quietly))
    try:
        async with asyncio.timeout(ENDS_S):
            await asyncio.to_thread((uv / "hang").read_text)
            waiting = asyncio.create_task(ensure_environment(say))
            await waits.wait()
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        assert waiting.cancelled()
        assert not making.done()
    finally:
        making.cancel()
        with suppress(asyncio.CancelledError):
            await making


def ends(pid: int) -> bool:
    """Whether this process has ended, or does at once; it is no child of ours."""
    try:
        file = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([file], [], [], ENDS_S)[0])
    finally:
        os.close(file)


async def test_what_runs_in_it_sees_the_exporter_and_none_of_our_own_settings(
    uv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere/too")
    assert await run_export(["vits", "random:small"], quietly) == 3
    ran = (uv / "ran").read_text().splitlines()
    assert ran[0] == "-m parley_export vits random:small"
    assert set(ran[1:]) == {
        f"PYTHONPATH={environment.SOURCES}:{environment.CHECKOUT}",
        "PYTHONUNBUFFERED=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "HF_HUB_OFFLINE=1",
    }
    assert await run_python(["-V"], quietly) == 3


def test_the_command_says_why_in_one_line(
    uv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["environment"])
    assert main() == 0
    monkeypatch.setenv("PATH", "/nowhere")
    environment.LOCK.write_text("torch==2\n")
    assert main() == 1
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "uv is missing" in one]
    assert line.startswith("parley: ")


def test_ctrl_c_ends_it_at_once(uv: Path) -> None:
    os.mkfifo(uv / "hang")
    code = (
        "import sys; from pathlib import Path; from gateway.triton.exported import environment as e; "
        f"e.LOCK = Path({str(environment.LOCK)!r}); e.NEEDED_BYTES = 1; "
        "sys.argv = ['e']; sys.executable = '/nowhere/bin/python'; sys.exit(e.main())"
    )
    command = [str(Path(sys.prefix) / "bin" / "python"), "-c", code]
    with subprocess.Popen(command, cwd=environment.CHECKOUT, stderr=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in (uv / "hang").read_text().split()]
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=ENDS_S)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert all(ends(pid) for pid in pids)
