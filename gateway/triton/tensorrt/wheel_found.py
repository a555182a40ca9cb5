"""Whether a Python has the `tensorrt` wheel: found out by a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.triton.tensorrt.process import BuildFailed, reason, run_program

WORKER = Path(__file__).with_name("wheel_worker.py")
_ASK_S = 60.0


async def wheel_version(python: str, deadline_s: float = _ASK_S) -> tuple[str, str]:
    """Version of the wheel, or nothing and why there is none."""
    try:
        code, said = await run_program([python, str(WORKER), "version"], deadline_s)
    except BuildFailed as error:
        return "", str(error)
    except OSError as error:
        return "", f"{python} does not start: {(error.strerror or str(error)).lower()}"
    if code:
        return "", reason(said).removeprefix("[E] ")
    for line in reversed(said.splitlines()):  # what it warns of comes before
        try:
            return str(json.loads(line)["tensorrt"]), ""
        except (ValueError, KeyError, TypeError):
            continue
    return "", f"{python} does not say its TensorRT's version"
