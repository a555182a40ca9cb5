"""What an engine is good for: one graph, one TensorRT, one kind of GPU, one precision, one set of profiles."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.triton.tensorrt.profiles import Profile, spelled

PRECISIONS = ("fp32", "fp16")
TOLERANCE = {"fp32": 10.0, "fp16": 200.0}
"""Times the tolerance of the description: other kernels, other sums; half precision has 11 bits."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    onnx_sha256: str
    tensorrt: str
    """Version, as 10.13.3.9: a plan is tied to it."""
    compute_capability: str
    """As 9.0; a plan runs on no other."""
    precision: str
    profiles_sha256: str

    def folder(self) -> str:
        """A name for the cache, readable, and different whenever anything of it is."""
        digest = hashlib.sha256("\n".join((self.onnx_sha256, self.profiles_sha256)).encode()).hexdigest()
        return (
            f"{digest[:24]}-trt{self.tensorrt}-sm{self.compute_capability.replace('.', '')}-{self.precision}"
        )


def engine_key(
    onnx: Path, tensorrt: str, compute_capability: str, precision: str, profiles: Sequence[Profile]
) -> EngineKey:
    """onnx: the graph that is built from. Raises: OSError, ValueError."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision} is not one of {', '.join(PRECISIONS)}")
    told = "\n".join(spelled(profile.column(which)) for profile in profiles for which in range(3))
    return EngineKey(
        _sha256(onnx), tensorrt, compute_capability, precision, hashlib.sha256(told.encode()).hexdigest()
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
