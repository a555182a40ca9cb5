"""What Triton has to run models on: GPUs and backends."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gateway.triton.host import find_wheel
from gateway.triton.process import OUR_BACKENDS

_DEVICE = re.compile(r"nvidia\d+")


@dataclass(frozen=True, slots=True)
class Machine:
    """None: not known, as of a Triton elsewhere; then nothing is held against a model."""

    gpus: int | None = None
    backends: frozenset[str] | None = None


def this_machine() -> Machine:
    """What the embedded server would have here. Takes some 0.1 ms."""
    wheel = find_wheel()
    if wheel is None:
        return Machine(_gpus())
    folders = [wheel.python_backend.parent, OUR_BACKENDS]
    names = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}
    return Machine(_gpus(), frozenset(names))


def _gpus() -> int:
    try:
        return sum(bool(_DEVICE.fullmatch(path.name)) for path in Path("/dev").iterdir())
    except OSError:
        return 0
