"""`triton_python_backend_utils` as far as Parley's models use it, without a server: requests in, responses kept."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

NAME = "triton_python_backend_utils"
FINAL = 1
DEADLINE_S = 10.0


class Tensor:
    def __init__(self, name: str, value: np.ndarray[Any, Any]) -> None:
        self.tensor_name, self.value = name, value

    def name(self) -> str:
        return self.tensor_name

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self.value


class TritonError(Exception):
    INVALID_ARG, UNAVAILABLE, INTERNAL = 3, 4, 13

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        super().__init__(message)
        self.code = code


class Response:
    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self.error = error
        self.outputs = {tensor.name(): tensor.value for tensor in output_tensors}


class Request:
    """Also its own response sender."""

    def __init__(
        self,
        inputs: Mapping[str, Any],
        *,
        sequence: int | str = 1,
        flags: int = 0,
        request_id: str = "",
        outputs: tuple[str, ...] = ("TRANSCRIPT", "STABLE", "IS_FINAL", "WORDS", "WORD_TIMES"),
    ) -> None:
        self.inputs = {name: Tensor(name, np.asarray(value)) for name, value in inputs.items()}
        self._sequence, self._flags, self._id, self._outputs = sequence, flags, request_id, outputs
        self.responses: list[Response] = []
        self.over = threading.Event()

    def get_response_sender(self) -> Request:
        return self

    def flags(self) -> int:
        return self._flags

    def correlation_id(self) -> int | str:
        return self._sequence

    def request_id(self) -> str:
        return self._id

    def requested_output_names(self) -> tuple[str, ...]:
        return self._outputs

    def is_cancelled(self) -> bool:
        return False

    def send(self, response: Response | None = None, flags: int = 0) -> None:
        if response is not None:
            self.responses.append(response)
        if flags & FINAL:
            self.over.set()

    def answer(self) -> Response:
        """The last one. Raises: the error in it; TimeoutError."""
        self.ended()
        found = self.responses[-1]
        if found.error is not None:
            raise found.error
        return found

    def ended(self) -> None:
        """Raises: TimeoutError."""
        if not self.over.wait(DEADLINE_S):
            raise TimeoutError("no final response came")


class _Metric:
    def __init__(self, **_: Any) -> None: ...

    def set(self, value: float) -> None: ...

    def increment(self, value: float) -> None: ...

    def observe(self, value: float) -> None: ...


class _MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = range(3)

    def __init__(self, **_: Any) -> None: ...

    Metric = _Metric


def install() -> None:
    """Before a model's module is imported. Where the real one is there, nothing is done."""
    if NAME in sys.modules:
        return
    made: Any = ModuleType(NAME)
    made.Tensor, made.TritonError, made.InferenceResponse = Tensor, TritonError, Response
    made.TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
    made.MetricFamily = _MetricFamily
    made.get_input_tensor_by_name = lambda request, name: request.inputs.get(name)
    made.Logger = SimpleNamespace(log_verbose=_quiet, log_warn=_quiet, log_info=_quiet)
    sys.modules[NAME] = made


def config(name: str, **parameters: str) -> dict[str, Any]:
    """A model's configuration as Triton hands it on."""
    return {
        "name": name,
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
        "sequence_batching": {"max_sequence_idle_microseconds": 5_000_000},
    }


def _quiet(_: str) -> None: ...
