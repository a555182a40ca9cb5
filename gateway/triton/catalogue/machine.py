"""What Triton has to run models on: GPUs, backends, and the libraries that engines need."""

from __future__ import annotations

import ctypes.util
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gateway.triton.host import find_wheel
from gateway.triton.process import OUR_BACKENDS

_DEVICE = re.compile(r"nvidia\d+")


@dataclass(frozen=True, slots=True)
class Machine:
    """None: not known, as of a Triton elsewhere; then nothing is held against a model."""

    gpus: int | None = None
    backends: frozenset[str] | None = None
    has: Callable[[str], bool] | None = None
    """Whether something is installed that a model `needs`: "lib:flite", "python:pocketsphinx"."""


def this_machine() -> Machine:
    """What the embedded server would have here. Takes some 0.1 ms; the first `has` of a library some 50."""
    wheel = find_wheel()
    if wheel is None:
        return Machine(_gpus(), None, installed)
    folders = [wheel.python_backend.parent, OUR_BACKENDS]
    names = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}
    return Machine(_gpus(), frozenset(names), installed)


def installed(need: str) -> bool:
    """Found, never loaded or imported. What is written in an unknown way counts as installed."""
    kind, _, name = need.partition(":")
    if kind == "lib":
        return _library(name)
    if kind == "python":
        try:
            return importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            return False
    return True


@cache
def _library(name: str) -> bool:
    return ctypes.util.find_library(name) is not None


def _gpus() -> int:
    try:
        return sum(bool(_DEVICE.fullmatch(path.name)) for path in Path("/dev").iterdir())
    except OSError:
        return 0
