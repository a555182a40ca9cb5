"""Configs of graphs and fronts, read with Triton's own schema."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelSequenceBatching

from gateway.triton.exported.description import Axis, Graph, State, Tensor, check, from_json, to_json
from gateway.triton.exported.pbtxt import explicit_config, front_config, implicit_config

STEP = Graph(
    name="step",
    inputs=(Tensor("features", "FP32", (80, "frames")), Tensor("length", "INT64", (), "length:frames")),
    outputs=(Tensor("tokens", "INT64", ("count",)),),
    states=(State("state_00_key", "state_00_key_new", (2, 7)), State("state_01_key", "state_01_key_new", (3,))),
    start="start",
    axes=(Axis("frames", 1, 40, 400),),
    max_batch=16,
    exact=("tokens",),
)  # fmt: skip
PLAIN = Graph(
    "plain", (Tensor("x", "FP16", ("n", 3)),), (Tensor("y", "BOOL", ()),), axes=(Axis("n", 1, 2, 3),)
)
NASTY = {"tags": 'a "quoted" \\ one', "note": "two\nlines"}


def parsed(text: str) -> ModelConfig:
    config = ModelConfig()
    text_format.Parse(text, config)
    return config


def test_explicit_states_are_inputs_and_outputs() -> None:
    config = parsed(explicit_config("graph_x_step", STEP, NASTY))
    assert (config.name, config.backend, config.max_batch_size) == ("graph_x_step", "onnxruntime", 16)
    assert [one.name for one in config.input] == STEP.input_names
    assert [one.name for one in config.output] == STEP.output_names
    dims = {one.name: list(one.dims) for one in config.input}
    assert dims["features"] == [80, -1]
    assert dims["state_00_key"] == [2, 7]
    assert dims["start"] == [1]
    assert config.HasField("dynamic_batching")
    assert not config.HasField("sequence_batching")
    types = {one.name: one.data_type for one in config.input}
    assert types["length"] == DataType.Value("TYPE_INT64")
    assert config.parameters["tags"].string_value == 'a "quoted" \\ one'
    assert "\n" not in config.parameters["note"].string_value


def test_a_number_a_row_has_no_dimension_in_the_graph() -> None:
    (_, length) = parsed(explicit_config("g", STEP, {})).input[:2]
    assert list(length.dims) == [1]
    assert length.HasField("reshape")
    assert list(length.reshape.shape) == []


def test_implicit_states_are_tritons_own() -> None:
    config = parsed(implicit_config("graph_x_step", STEP, {}))
    assert [one.name for one in config.input] == ["features", "length"]
    assert [one.name for one in config.output] == ["tokens"]
    batching = config.sequence_batching
    assert batching.HasField("oldest")
    told = [(s.input_name, s.output_name, list(s.dims)) for s in batching.state]
    assert told == [(s.input, s.output, list(s.dims)) for s in STEP.states]
    for state in batching.state:
        (initial,) = state.initial_state
        assert initial.zero_data
        assert list(initial.dims) == list(state.dims)
    (control,) = batching.control_input
    assert control.name == "start"
    assert control.control[0].kind == ModelSequenceBatching.Control.CONTROL_SEQUENCE_START


def test_without_a_batch_there_is_none() -> None:
    config = parsed(explicit_config("g", PLAIN, {}))
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")


@pytest.mark.parametrize(("kind", "inputs"), [("asr", "AUDIO"), ("tts", "TEXT")])
def test_fronts_keep_the_contract(kind: str, inputs: str) -> None:
    config = parsed(front_config(kind, f"{kind}_x", "some/model", NASTY))
    assert config.backend == "python"
    assert config.model_transaction_policy.decoupled
    assert config.input[0].name == inputs
    assert config.HasField("sequence_batching") is (kind == "asr")


def test_a_description_is_read_as_it_was_written() -> None:
    assert from_json(to_json(STEP)) == STEP
    assert from_json(to_json(PLAIN)) == PLAIN


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1}', to_json(STEP).replace('"dims"', '"dim"')])
def test_what_is_no_description(text: str) -> None:
    with pytest.raises(ValueError, match="it describes no graph"):
        from_json(text)


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        (Graph("g", (Tensor("x", "FP32", (1,)),), (Tensor("x", "FP32", (1,)),)), "there twice: x"),
        (Graph("g", (Tensor("x", "FP32", ("n",)),), ()), "axis n of x has no range"),
        (Graph("g", (Tensor("x", "FP32", ("n",)),), (), axes=(Axis("n", 3, 2, 4),)), "axis n has no range"),
        (Graph("g", (Tensor("x", "FP64", (1,)),), ()), "x has no known type: FP64"),
        (Graph("g", (Tensor("x", "FP32", (1,), "length:n"),), ()), "filled in no known way: length:n"),
        (Graph("g", (), (), (State("a", "b", (1,)),)), "needs a START input and a batch"),
        (Graph("g", (), (), (State("s_1", "o_1_", (1,)), State("s_10", "o_10", (1,))), "start", (), 1),
         "state s_1 is a prefix of s_10"),
        (Graph("g", (), (), (State("s_1_", "o_1", (1,)), State("s_10", "o_10", (1,))), "start", (), 1),
         "state o_1 is a prefix of o_10"),
    ],
)  # fmt: skip
def test_rules_of_a_description(graph: Graph, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check(graph)
