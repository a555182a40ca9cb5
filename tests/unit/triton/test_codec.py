from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.codec import Array, outputs, request, text
from gateway.triton.errors import TritonError

_TYPES = ["bool", "uint8", "int16", "int32", "uint64", "int64", "float16", "float32", "float64"]


def echoed(message: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """A response that carries the request's tensors."""
    response = pb.ModelInferResponse(model_name=message.model_name)
    for tensor in message.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    response.raw_output_contents.extend(message.raw_input_contents)
    return response


@given(
    st.sampled_from(_TYPES).flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_side=0))),
    st.booleans(),
)
def test_numbers_survive_the_way_there_and_back(array: Array, batched: bool) -> None:
    message = request("m", {"X": array}, batched=batched)
    assert list(message.inputs[0].shape) == ([1] if batched else []) + list(array.shape)
    back = outputs(echoed(message), batched=batched)["X"]
    assert back.dtype == array.dtype
    assert np.array_equal(back, array, equal_nan=array.dtype.kind == "f")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_strings_survive_the_way_there_and_back(values: list[str]) -> None:
    assert outputs(echoed(request("m", {"X": text(*values)})))["X"].tolist() == values


def test_bytes_go_as_they_are() -> None:
    array = np.array([b"\xff\x00"], dtype=object)
    assert request("m", {"X": array}).raw_input_contents[0] == b"\x02\x00\x00\x00\xff\x00"


def test_an_answer_without_tensors_is_empty() -> None:
    assert outputs(pb.ModelInferResponse()) == {}


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [("FP32", [3], b"\0" * 8), ("BF16", [1], b"\0\0"), ("BYTES", [1], b"\x09\0\0\0abc"), ("BYTES", [2], b"")],
)
def test_a_malformed_answer_names_the_model_and_the_output(
    datatype: str, shape: list[int], raw: bytes
) -> None:
    response = pb.ModelInferResponse(model_name="tts_x", raw_output_contents=[raw])
    response.outputs.add(name="AUDIO", datatype=datatype, shape=shape)
    with pytest.raises(TritonError, match="tts_x: output AUDIO"):
        outputs(response)


def test_a_type_that_triton_lacks_is_refused() -> None:
    with pytest.raises(TritonError, match="input X: Triton has no type for complex64"):
        request("m", {"X": np.zeros(1, np.complex64)})
