"""Can this machine run the embedded Triton? Each thing that is missing, with the command that fixes it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from gateway.triton.host import (
    find_wheel,
    libpython_folder,
    libpython_name,
    python_version,
    server_environment,
)

_GLIBC = (2, 35)
_PYTHONS = ((3, 11), (3, 12))
_SHM = Path("/dev/shm")
_SHM_BYTES = 64 << 20
"""Room for a dozen models: each instance starts with 4 MiB."""


@dataclass(frozen=True, slots=True)
class Problem:
    what: str
    """A word or two: "glibc"."""
    detail: str
    """What is wrong, with what was found."""
    fix: str
    """What to do, a command where there is one."""
    fatal: bool = True
    """False: the stack runs, with a limit."""


def check_host() -> list[Problem]:
    """Everything that keeps the embedded stack from running here; empty when it will run. Takes some 20 ms."""
    problem = _platform() or _python()
    if problem is not None:
        return [problem]  # the rest would only confuse
    return [
        p for p in (_glibc(), _wheel() or _libpython() or _libraries(), *_shared_memory()) if p is not None
    ]


def _platform() -> Problem | None:
    found = f"{platform.system()} {platform.machine()}"
    if sys.platform == "linux" and platform.machine() == "x86_64":
        return None
    return Problem(
        "platform",
        f"the embedded Triton needs Linux on x86-64, this is {found}",
        "run it in a Linux x86-64 machine or container, and point PARLEY_TRITON__URI at it",
    )


def _python() -> Problem | None:
    version = sys.version_info[:2]
    if version in _PYTHONS and platform.python_implementation() == "CPython":
        return None
    return Problem(
        "python",
        "the embedded Triton needs CPython 3.11 or 3.12, "
        f"this is {platform.python_implementation()} {python_version()}",
        "make the environment again with PARLEY_PYTHON=python3.12 (apt-get install python3.12-venv)",
    )


def _glibc() -> Problem | None:
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        text = ""
    numbers = tuple(int(part) for part in text.rpartition(" ")[2].split(".")[:2] if part.isdigit())
    if text.startswith("glibc") and numbers >= _GLIBC:
        return None
    return Problem(
        "glibc",
        f"tritonserver needs glibc 2.35 or newer, this system has {text or 'another C library'}",
        "use Debian 12, Ubuntu 22.04 or newer, or a container of one of them",
    )


def _wheel() -> Problem | None:
    wheel = find_wheel()
    install = f"{sys.executable} -m pip install nvidia-pytriton==0.7.0"
    if wheel is None:
        return Problem("triton", "the package nvidia-pytriton is not installed", install)
    if not wheel.stub.is_file():
        return Problem("triton", f"nvidia-pytriton has no {wheel.stub}", install + " --force-reinstall")
    if not os.access(wheel.server, os.X_OK):
        return Problem("triton", f"{wheel.server} is not executable", f"chmod +x {wheel.server}")
    return None


def _libpython() -> Problem | None:
    # Must be found before a start: with none, loading a Python model never ends.
    if libpython_folder() is not None:
        return None
    base = sys.base_prefix
    if base == "/usr":
        fix = f"apt-get install libpython{python_version()}"
    elif "pyenv" in base:
        fix = f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {platform.python_version()}"
    else:
        fix = "make the environment again with a Python that has a shared libpython (the system's, or uv's)"
    return Problem("libpython", f"{libpython_name()} is not in {base}/lib", fix)


def _libraries() -> Problem | None:
    wheel = find_wheel()
    ldd = shutil.which("ldd")
    if wheel is None or ldd is None:
        return None
    missing = set()
    for program in (wheel.server, wheel.stub):
        try:
            out = subprocess.run(
                [ldd, str(program)],
                env=server_environment(wheel, Path("/tmp")),
                capture_output=True,
                text=True,
                timeout=10,
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            return None
        missing |= {line.split("=>")[0].strip() for line in out.splitlines() if "not found" in line}
    if not missing:
        return None
    return Problem(
        "libraries",
        f"tritonserver needs {', '.join(sorted(missing))}",
        "install the package that holds it (apt-file search NAME), or nvidia-pytriton again",
    )


def _shared_memory() -> list[Problem]:
    remount = "mount -o remount,size=1G /dev/shm (docker run --shm-size=1g)"
    if not _SHM.is_dir():
        return [Problem("/dev/shm", "there is no /dev/shm", "mount -t tmpfs -o size=1G tmpfs /dev/shm")]
    if not os.access(_SHM, os.W_OK | os.X_OK):
        return [Problem("/dev/shm", "/dev/shm is not writable for this user", "chmod 1777 /dev/shm")]
    room = os.statvfs(_SHM)
    free = room.f_bavail * room.f_frsize
    if free >= _SHM_BYTES:
        return []
    text = f"/dev/shm has {free >> 20} MiB free; each model's process takes 4 MiB or more"
    return [Problem("/dev/shm", text, remount, fatal=free < 8 << 20)]
