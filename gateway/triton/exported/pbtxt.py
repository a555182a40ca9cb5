"""From a graph's description to the config.pbtxt of its model folder: explicit states, or Triton's own.

Both go with the same model.onnx. The implicit one lies in configs/implicit.pbtxt, where Triton looks when it
is started with --model-config-name=implicit (model_configuration.md, "Custom model configuration").
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.triton.exported.description import Graph, Tensor

IMPLICIT = "configs/implicit.pbtxt"
IDLE_US = 5_000_000
"""How long a sequence may say nothing."""
MAX_SEQUENCES = 1024
QUEUE_DELAY_US = 1_000
"""What a step waits for others to share its batch: a streaming step comes every 80 ms or more."""


def explicit_config(name: str, graph: Graph, parameters: Mapping[str, str]) -> str:
    """Every state is an input and an output: loads wherever ONNX Runtime does."""
    lines = _head(name, graph)
    lines += _tensors("input", list(graph.all_inputs()))
    lines += _tensors("output", list(graph.all_outputs()))
    if graph.max_batch:
        lines.append("dynamic_batching { }")
    return "\n".join([*lines, *_parameters(parameters), ""])


def implicit_config(name: str, graph: Graph, parameters: Mapping[str, str]) -> str:
    """Triton keeps the states: NVIDIA's own onnxruntime and tensorrt backends alone."""
    lines = [
        "# States are Triton's own (implicit): for NVIDIA's onnxruntime and tensorrt backends. Parsed and replayed",
        "# in ONNX Runtime by Parley's tests; not loaded by the real backend by them.",
        *_head(name, graph),
    ]
    lines += _tensors("input", list(graph.inputs))
    lines += _tensors("output", list(graph.outputs))
    lines += [
        "sequence_batching {",
        f"  max_sequence_idle_microseconds: {IDLE_US}",
        f"  oldest {{ max_candidate_sequences: {MAX_SEQUENCES}, "
        f"max_queue_delay_microseconds: {QUEUE_DELAY_US} }}",
        "  control_input [",
        f'    {{ name: "{graph.start}", control [ '
        "{ kind: CONTROL_SEQUENCE_START, fp32_false_true: [ 0, 1 ] } ] }",
        "  ]",
        "  state [",
    ]
    states = []
    for state in graph.states:
        dims = ", ".join(map(str, state.dims))
        states.append(
            f'    {{ input_name: "{state.input}", output_name: "{state.output}", data_type: TYPE_FP32, '
            f"dims: [ {dims} ],\n"
            f'      initial_state {{ name: "zeros", data_type: TYPE_FP32, dims: [ {dims} ], zero_data: true }} }}'
        )
    lines += [",\n".join(states), "  ]", "}"]
    return "\n".join([*lines, *_parameters(parameters), ""])


def _head(name: str, graph: Graph) -> list[str]:
    return [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {graph.max_batch}",
        "instance_group [ { kind: KIND_CPU, count: 1 } ]",
    ]


def _tensors(kind: str, tensors: list[Tensor]) -> list[str]:
    lines = [f"{kind} ["]
    for number, tensor in enumerate(tensors):
        dims = ", ".join("-1" if isinstance(dim, str) else str(dim) for dim in tensor.dims)
        shape = "" if tensor.dims else ", reshape: { shape: [ ] }"
        comma = "," if number + 1 < len(tensors) else ""
        lines.append(
            f'  {{ name: "{tensor.name}", data_type: TYPE_{tensor.dtype}, dims: [ {dims or 1} ]{shape} }}{comma}'
        )
    return [*lines, "]"]


def _parameters(parameters: Mapping[str, str]) -> list[str]:
    entries = [
        f'  {{ key: "{key}", value: {{ string_value: "{_quoted(value)}" }} }}'
        for key, value in parameters.items()
    ]
    return ["parameters [", ",\n".join(entries), "]"] if entries else []


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


_ASR = """\
# Made by `parley models export`: {source}
name: "{name}"
backend: "python"
max_batch_size: {max_batch}
# One response to each chunk, sent with FINAL. START, END and the correlation id are read from the request.
model_transaction_policy {{ decoupled: true }}
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
sequence_batching {{
  max_sequence_idle_microseconds: {idle}
  oldest {{ max_candidate_sequences: {sequences} }}
}}
input [
  {{ name: "AUDIO", data_type: TYPE_FP32, dims: [ -1 ], allow_ragged_batch: true }},
  {{ name: "LANGUAGE", data_type: TYPE_STRING, dims: [ 1 ], optional: true }},
  {{ name: "HINTS", data_type: TYPE_STRING, dims: [ -1 ], optional: true, allow_ragged_batch: true }}
]
output [
  {{ name: "TRANSCRIPT", data_type: TYPE_STRING, dims: [ 1 ] }},
  {{ name: "STABLE", data_type: TYPE_INT32, dims: [ 1 ] }},
  {{ name: "IS_FINAL", data_type: TYPE_BOOL, dims: [ 1 ] }},
  {{ name: "WORDS", data_type: TYPE_STRING, dims: [ -1 ] }},
  {{ name: "WORD_TIMES", data_type: TYPE_INT32, dims: [ -1, 2 ] }}
]
"""
_TTS = """\
# Made by `parley models export`: {source}
name: "{name}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
input [
  {{ name: "TEXT", data_type: TYPE_STRING, dims: [ 1 ], optional: true }},
  {{ name: "VOICE", data_type: TYPE_STRING, dims: [ 1 ], optional: true }},
  {{ name: "LANGUAGE", data_type: TYPE_STRING, dims: [ 1 ], optional: true }},
  {{ name: "STYLE", data_type: TYPE_STRING, dims: [ 1 ], optional: true }},
  {{ name: "SPEED", data_type: TYPE_FP32, dims: [ 1 ], optional: true }},
  {{ name: "REFERENCE_AUDIO", data_type: TYPE_FP32, dims: [ -1 ], optional: true }},
  {{ name: "CANCEL", data_type: TYPE_BOOL, dims: [ 1 ], optional: true }}
]
output [ {{ name: "AUDIO", data_type: TYPE_FP32, dims: [ -1 ] }} ]
"""


def front_config(kind: str, name: str, source: str, parameters: Mapping[str, str]) -> str:
    """Of a front: the contract of DESIGN's recognisers (kind "asr") or voices ("tts")."""
    text = {"asr": _ASR, "tts": _TTS}[kind]
    head = text.format(name=name, source=source, max_batch=64, idle=IDLE_US, sequences=MAX_SEQUENCES)
    return "\n".join([head, *_parameters(parameters), ""])
