"""pocketsphinx under the contract of a Parley recogniser."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

sys.dont_write_bytecode = True  # a new file in the version folder would make Triton load the model again

try:
    from gateway.triton.models.asr.engine import EngineError
    from gateway.triton.models.process import parameter
    from gateway.triton.models.recognition import RecogniserModel
except ImportError as error:
    raise ImportError(
        "asr_pocketsphinx needs Parley in the Python environment of Triton's Python backend: "
        "pip install 'parley[embedded]'"
    ) from error
from pool import LOAD_S, Pool  # noqa: E402


def load(config: Mapping[str, Any]) -> Pool:
    ready = int(parameter(config, "workers", "0")) or len(os.sched_getaffinity(0))
    return Pool(max(1, ready), max(1, int(parameter(config, "max_streams", "64"))))


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        try:
            self._recogniser = RecogniserModel(args, load, load_s=LOAD_S * 2)
        except (EngineError, TimeoutError) as error:
            raise RuntimeError(
                f"asr_pocketsphinx cannot load its engine: {error}. "
                "Install it for Triton's Python backend: pip install 'parley[embedded]'"
            ) from None

    def execute(self, requests: list[Any]) -> None:
        self._recogniser.execute(requests)

    def finalize(self) -> None:
        self._recogniser.finalize()
