"""Graphs and fronts on a running Triton, against what torch said; over the official client."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as client
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from gateway.triton.exported.reference import Feeds, compare, load
from gateway.triton.models.graphs import GraphError, read_spec
from gateway.triton.proof.proved import Proved, failed, of_rows

TRITON = "Triton"
CALL_S = 60.0


def prove_served(folder: Path, address: str, *, tolerance: float | None = None, how: str = TRITON) -> Proved:
    """A loaded graph model against the reference in its folder. Blocks.

    tolerance: instead of the description's, where something else than FP32 on a CPU runs it.
    """
    try:
        cases = load(folder / "reference.npz")
        run = ServedRun(folder, address)
    except (GraphError, ValueError, OSError) as error:
        return failed(folder.name, how, str(error))
    try:
        return of_rows(folder.name, how, compare(run.spec, cases, run, tolerance=tolerance))
    finally:
        run.close()


class ServedRun:
    """`run` of a reference's cases: one ModelInfer a step, states as ordinary tensors."""

    def __init__(self, folder: Path, address: str) -> None:
        self.spec = read_spec(folder)
        self._model = folder.name
        self._client = client.InferenceServerClient(address)
        self._types = {tensor.name: tensor for tensor in self.spec.all_inputs()}
        self._scalars = {tensor.name for tensor in self.spec.all_outputs() if not tensor.dims}

    def __call__(self, feeds: Feeds) -> Mapping[str, NDArray[Any]]:
        inputs = []
        for name in self.spec.input_names:
            tensor = self._types[name]
            value = np.ascontiguousarray(feeds[name] if tensor.dims else feeds[name].reshape(-1, 1))
            one = client.InferInput(name, list(value.shape), tensor.dtype)
            one.set_data_from_numpy(value)
            inputs.append(one)
        outputs = [client.InferRequestedOutput(name) for name in self.spec.output_names]
        try:
            made = self._client.infer(self._model, inputs, outputs=outputs, client_timeout=CALL_S)
        except InferenceServerException as error:
            raise GraphError(str(error.message())) from None
        found = {name: made.as_numpy(name) for name in self.spec.output_names}
        return {name: a.reshape(-1) if name in self._scalars else a for name, a in found.items()}

    def close(self) -> None:
        self._client.close()
