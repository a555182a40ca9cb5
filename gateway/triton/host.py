"""Where the `nvidia-pytriton` wheel keeps its parts, and which libpython its stubs need."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

STUB = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class Wheel:
    """The server inside site-packages; nothing is ever written there."""

    server: Path
    """The `tritonserver` executable."""
    python_backend: Path
    """Folder of the Python backend (library and utilities; the stub is elsewhere)."""
    stub: Path
    """The Python backend's stub for this interpreter's version."""
    libraries: Path
    """Folder of the wheel's shared libraries."""


def find_wheel() -> Wheel | None:
    """None when `nvidia-pytriton` is not installed for this interpreter."""
    try:
        spec = importlib.util.find_spec("pytriton")  # found, not imported: the import is slow
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    wheel = Wheel(
        server=root / "tritonserver" / "bin" / "tritonserver",
        python_backend=root / "tritonserver" / "backends" / "python",
        stub=root / "tritonserver" / "python_backend_stubs" / python_version() / STUB,
        libraries=root.parent / "nvidia_pytriton.libs",
    )
    return wheel if wheel.server.is_file() else None


def libpython_name() -> str:
    return f"libpython{python_version()}.so.1.0"


def python_version() -> str:
    """ "3.11"."""
    return ".".join(str(number) for number in sys.version_info[:2])


def libpython_folder() -> Path | None:
    """The folder of the libpython that belongs to this interpreter's standard library, or None.

    The stub embeds libpython and loads this interpreter's C modules: those of another patch level
    fail on their first symbol, and without any libpython the load never ends.
    """
    base = Path(sys.base_prefix)
    folders = [base / "lib"]
    if base == Path("/usr"):  # a distribution's own Python
        machine = platform.machine()
        folders += [Path(f"/usr/lib/{machine}-linux-gnu"), Path("/usr/lib64"), Path("/lib64")]
    name = libpython_name()
    return next((folder for folder in folders if (folder / name).exists()), None)


def server_environment(wheel: Wheel, scratch: Path, *, cloud: bool = False) -> dict[str, str]:
    """The environment `tritonserver` and its stubs run in.

    cloud: a model repository lies in an object store: what it is fetched with and where to is kept.

    The stub takes the first `python3` on PATH as its interpreter and ignores PYTHON* variables.
    """
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("PYTHON") and not key.endswith(("API_KEY", "_TOKEN", "_SECRET", "_PASSWORD"))
    }
    if cloud:
        environment |= {key: os.environ[key] for key in ("AWS_SESSION_TOKEN",) if key in os.environ}
        environment.setdefault("TRITON_AWS_MOUNT_DIRECTORY", str(scratch))
    libpython = libpython_folder()
    libraries = [str(wheel.libraries)]
    if libpython is not None and libpython.is_relative_to(sys.base_prefix) and sys.base_prefix != "/usr":
        libraries.insert(0, str(libpython))
    if environment.get("LD_LIBRARY_PATH"):
        libraries.append(environment["LD_LIBRARY_PATH"])
    environment["LD_LIBRARY_PATH"] = ":".join(libraries)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
    environment["TMPDIR"] = str(scratch)
    return environment


def listening_ports(pid: int) -> set[int]:
    """TCP ports that this process listens on; empty when it is gone."""
    inodes, rows = set(), []
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                inodes.add(os.readlink(entry.path).removeprefix("socket:[").removesuffix("]"))
            except FileNotFoundError:
                continue  # closed meanwhile
        for table in ("tcp", "tcp6"):  # gRPC listens on an IPv4 address through an IPv6 socket
            with open(f"/proc/{pid}/net/{table}") as file:
                rows += [line.split() for line in file]
    except OSError:
        pass
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in inodes}
