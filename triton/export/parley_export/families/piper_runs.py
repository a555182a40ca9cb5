"""Ready-made graphs at work: run as they are, and held against what they become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from parley_export.checkpoint import ExportError
from parley_export.families.noise import Noise, exposing

Feeds = dict[str, NDArray[Any]]


def run_of(model: Any, *, optimised: bool = True) -> Callable[[Feeds], Feeds]:
    """An onnx.ModelProto in ONNX Runtime: feeds -> all outputs by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:  # fused nodes round in another way
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    known = {tensor.name for tensor in session.get_inputs()}

    def run(feeds: Feeds) -> Feeds:
        made = session.run(names, {name: value for name, value in feeds.items() if name in known})
        return dict(zip(names, made, strict=True))

    return run


def proved(original: Any, drawn: Any, noises: list[Noise], feeds: Feeds) -> tuple[Feeds, Feeds]:
    """Feeds with the noise that the original drew itself, and its outputs; `drawn` says the same, bit for bit
    (where a node scales its noise: but for the rounding of scaling it back).

    Raises: ExportError where it does not.
    """
    wanted = run_of(exposing(original, [noise.drawn for noise in noises]), optimised=False)(feeds)
    given, exact = dict(feeds), True
    for noise in noises:
        values = wanted.pop(noise.drawn).astype(np.float32).reshape(-1)
        scaled = (noise.first, noise.scale) != (0.0, 1.0)
        given[noise.name] = (values - noise.first) / np.float32(noise.scale) if scaled else values
        exact = exact and not scaled
    made = run_of(drawn, optimised=False)(given)
    for name, value in wanted.items():
        same = np.array_equal(value, made[name]) if exact else _close(value, made[name])
        if not same:
            raise ExportError(f"with its noise as an input the graph does not say the same: {name} differs")
    sizes = {noise.size: np.array([len(given[noise.name])], np.int64) for noise in noises}
    for noise in noises:
        if int(made[noise.size][0]) != len(given[noise.name]):
            raise ExportError(
                f"{noise.name} took {int(made[noise.size][0])} values of {len(given[noise.name])}"
            )
    return given, {**wanted, **sizes}


def _close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=0, atol=1e-4))
