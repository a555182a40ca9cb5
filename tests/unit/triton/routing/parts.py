"""Models and candidates for routing tests."""

from __future__ import annotations

from typing import Any

from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.choose import Candidate
from gateway.triton.routing.figures import Load


def model(name: str, **changed: Any) -> ModelInfo:
    """A voice that speaks American English, unless told otherwise."""
    fields: dict[str, Any] = {
        "backend": "python",
        "decoupled": True,
        "max_batch_size": 0,
        "sequence": False,
        "inputs": (),
        "outputs": (),
        "family": name[:3],
        "languages": ("en-US",),
        "voices": (),
        "voice_languages": (),
        "sample_rate": 16_000,
        "tags": (),
        "needs_gpu": False,
        "memory_mb": 0,
        "license": "",
        "default": False,
    }
    return ModelInfo(name=name, **fields | changed)


def candidate(
    name: str,
    server: str = "",
    *,
    resident: bool = True,
    queue: int = 0,
    p50_s: float | None = None,
    unwell: bool = False,
    **changed: Any,
) -> Candidate:
    return Candidate(model(name, **changed), server, resident, Load(queue, p50_s, unwell=unwell))


def names(candidates: list[Candidate]) -> list[str]:
    return [each.info.name for each in candidates]
