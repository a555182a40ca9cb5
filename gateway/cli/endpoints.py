"""The file that says where a running stack listens, for scripts and for `talk` and `models`.

Keys: `grpc`, `riva`, `triton_grpc` as host:port; `http`, `admin`, `speech_http`, `triton_http`, `triton_metrics` as http://
URLs; `llm` as a base URL ending in /v1; `triton_log`, the path of a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gateway.cli.common import Fault

KEYS = ("grpc", "http", "admin", "riva", "speech_http", "triton_grpc", "triton_http", "triton_metrics", "llm")


def default_path() -> Path:
    """`$XDG_RUNTIME_DIR/parley/endpoints.json`, else `~/.cache/parley/endpoints.json`."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path.home() / ".cache"
    return folder / "parley" / "endpoints.json"


def write(path: Path, endpoints: Mapping[str, str]) -> None:
    """Whole or not at all: a reader never sees half a file. Raises Fault."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise Fault(f"cannot write the endpoints file {path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(dict(endpoints), file, indent=2)
            file.write("\n")
        os.replace(name, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise Fault(f"cannot write the endpoints file {path}: {error.strerror}") from None


def remove(path: Path, endpoints: Mapping[str, str]) -> None:
    """Remove the file if it is still ours: another stack may have replaced it meanwhile."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text(encoding="utf-8")) == dict(endpoints):
            path.unlink()


def read(path: Path | None = None) -> dict[str, str] | None:
    """The running stack's endpoints; None when there is no file. Raises Fault when it is damaged."""
    path = path or default_path()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Fault(f"the endpoints file {path} cannot be read ({error}); start `parley up` again") from None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise Fault(f"the endpoints file {path} is damaged; start `parley up` again")
    return {str(key): value for key, value in found.items()}


def find(key: str, *, default: str) -> str:
    """The running stack's `key`, else `default`."""
    found = read()
    return found.get(key, default) if found is not None else default
