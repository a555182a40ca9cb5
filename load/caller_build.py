"""Builds the callers' Go program, once per state of its sources."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gateway.triton.exported.environment import cache_folder

SOURCES = Path(__file__).parent / "caller"
_OLDEST_GO = (1, 24)
_BUILD_S = 300.0
_VERSION_S = 20.0


class BuildError(RuntimeError):
    """The callers cannot be built; `str()` says what to do."""


def ensure_caller() -> Path:
    """The built program; builds it when the sources changed. Blocks. Raises BuildError."""
    go = find_go()
    target = cache_folder() / f"parley-caller-{_state(go)}"
    if not target.exists():
        _build(go, target)
    return target


def find_go() -> Path:
    """A Go toolchain that is new enough: the one on PATH, else that of this environment.

    Raises BuildError.
    """
    on_path, own = shutil.which("go"), Path(sys.executable).parent / "go"
    for found in ([Path(on_path)] if on_path else []) + ([own] if own.exists() else []):
        if _version(found) >= _OLDEST_GO:
            return found
    oldest = ".".join(map(str, _OLDEST_GO))
    raise BuildError(
        f"the callers are a Go program and need Go {oldest} or newer: install Parley with the extra `load`, "
        "or put a newer go on PATH"
    )


def _version(go: Path) -> tuple[int, ...]:
    try:
        done = subprocess.run(
            [go, "version"], env=_env(), capture_output=True, text=True, timeout=_VERSION_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(r"go(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else ()


def _build(go: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="parley-caller-", dir=target.parent) as folder:
        made = Path(folder) / "parley-caller"
        command = [str(go), "build", "-trimpath", "-o", str(made), "."]
        try:
            done = subprocess.run(
                command, cwd=SOURCES, env=_env(), capture_output=True, text=True, timeout=_BUILD_S
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"the callers were not built within {_BUILD_S:g} s; try again") from None
        except OSError as error:
            raise BuildError(f"the callers cannot be built: {go} does not run ({error.strerror})") from error
        if done.returncode:
            raise BuildError(
                "the callers cannot be built (Go modules are fetched the first time, which needs a network or "
                f"a filled module cache): {done.stderr.strip()[-800:]}"
            )
        made.replace(target)  # at once, so that two builders never see half a program


def _state(go: Path) -> str:
    digest = hashlib.sha256(repr(_version(go)).encode())
    for path in sorted(SOURCES.rglob("*")):
        if path.suffix in (".go", ".mod", ".sum") and not path.name.endswith("_test.go"):
            digest.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _env() -> dict[str, str]:
    """Only the toolchain that is here: none is fetched behind the user's back."""
    return {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
