from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.triton import host, preflight


@pytest.fixture
def fine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> host.Wheel:
    """A host where everything is in place, whatever this one has."""
    server = tmp_path / "tritonserver"
    stub = tmp_path / host.STUB
    for file in (server, stub):
        file.write_text("")
        file.chmod(0o755)
    wheel = host.Wheel(server=server, python_backend=tmp_path, stub=stub, libraries=tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "version_info", (3, 11, 7, "final", 0))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(os, "confstr", lambda _: "glibc 2.36", raising=False)
    monkeypatch.setattr(preflight, "find_wheel", lambda: wheel)
    monkeypatch.setattr(preflight, "libpython_folder", lambda: tmp_path)
    monkeypatch.setattr(preflight, "_libraries", lambda: None)
    monkeypatch.setattr(preflight, "_SHM", tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1 << 20, f_frsize=4096))
    return wheel


def found() -> dict[str, preflight.Problem]:
    return {problem.what: problem for problem in preflight.check_host()}


def test_a_good_host_has_no_problem(fine: host.Wheel) -> None:
    assert found() == {}


def test_each_thing_that_is_missing_is_named_with_its_fix(
    fine: host.Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "confstr", lambda _: "glibc 2.31", raising=False)
    monkeypatch.setattr(preflight, "find_wheel", lambda: None)
    problems = found()
    assert set(problems) == {"glibc", "triton"}
    assert "glibc 2.31" in problems["glibc"].detail
    assert "pip install nvidia-pytriton" in problems["triton"].fix
    assert all(problem.fatal for problem in problems.values())


def test_another_system_is_told_so_alone(fine: host.Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(preflight, "find_wheel", lambda: None)
    assert list(found()) == ["platform"]


def test_another_python_is_told_so_alone(fine: host.Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 1, "final", 0))
    problems = found()
    assert list(problems) == ["python"]
    assert "PARLEY_PYTHON" in problems["python"].fix


@pytest.mark.parametrize(
    ("prefix", "fix"),
    [("/usr", "apt-get install libpython3.11"), ("/home/me/.pyenv/versions/3.11.7", "--enable-shared")],
)
def test_a_missing_libpython_has_a_fix_for_each_kind_of_python(
    fine: host.Wheel, monkeypatch: pytest.MonkeyPatch, prefix: str, fix: str
) -> None:
    monkeypatch.setattr(preflight, "libpython_folder", lambda: None)
    monkeypatch.setattr(sys, "base_prefix", prefix)
    assert fix in found()["libpython"].fix


def test_little_shared_memory_is_a_warning_and_none_is_fatal(
    fine: host.Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=32 << 8, f_frsize=4096))
    assert not found()["/dev/shm"].fatal
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1 << 8, f_frsize=4096))
    assert found()["/dev/shm"].fatal


def test_a_library_that_the_loader_does_not_find_is_named(
    fine: host.Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(preflight, "find_wheel", lambda: fine)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/ldd")
    answer = subprocess.CompletedProcess([], 0, stdout="\tlibb64.so.0d => not found\n\tlibc.so.6 => /lib\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    problem = preflight._libraries()
    assert problem is not None
    assert problem.detail == "tritonserver needs libb64.so.0d"


def test_the_server_gets_this_environment_first_and_no_secret(
    fine: host.Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_LLM__API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = host.server_environment(fine, Path("/scratch"))
    assert environment["PATH"].startswith(str(Path(sys.executable).parent) + ":")
    assert str(fine.libraries) in environment["LD_LIBRARY_PATH"].split(":")
    assert environment["TMPDIR"] == "/scratch"
    assert "PARLEY_LLM__API_KEY" not in environment
    assert "PYTHONPATH" not in environment
