"""What every family's export writes beside its graphs: configs by Triton's schema, descriptions, origin, licence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.catalogue.folder import read_local
from gateway.triton.catalogue.validate import problem, validate
from gateway.triton.exported.description import from_json
from gateway.triton.exported.families import ASR_FAMILIES, CODEC_FAMILIES, TTS_FAMILIES
from gateway.triton.exported.pbtxt import IMPLICIT
from gateway.triton.exported.ranges import MOST_VALUES, most_values
from gateway.triton.exported.reference import load, outside
from gateway.triton.proof.prove import graphs_of
from tests.stack.exported.test_proofs import front_of
from tests.support.exported import exported

pytestmark = pytest.mark.stack


def parsed(path: Path) -> ModelConfig:
    config = ModelConfig()
    text_format.Parse(path.read_text("utf-8"), config)
    return config


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", [*ASR_FAMILIES, *TTS_FAMILIES, *CODEC_FAMILIES])
def test_folders_are_complete(family: str) -> None:
    repository = exported(family)
    front = front_of(repository)
    for folder in read_local(repository):
        assert not problem(validate(folder)), folder.name
    for graph in graphs_of(front):
        spec, config = from_json((graph / "graph.json").read_text("utf-8")), parsed(graph / "config.pbtxt")
        assert config.name == graph.name
        assert [one.name for one in config.input] == spec.input_names
        assert [one.name for one in config.output] == spec.output_names
        assert (graph / IMPLICIT).exists() is bool(spec.states)
        if spec.states:
            batching = parsed(graph / IMPLICIT).sequence_batching
            assert [(s.input_name, s.output_name) for s in batching.state] == [
                (s.input, s.output) for s in spec.states
            ]
        cases = load(graph / "reference.npz")
        assert cases
        assert {name for case in cases for step in case.steps for name in step} == {
            *(tensor.name for tensor in spec.inputs),
            *filter(None, [spec.start]),
        }
        for tensor in (*spec.all_inputs(), *spec.all_outputs()):
            # Every axis has a range, and no profile over it takes a tensor of more values than TensorRT can set aside.
            assert most_values(spec, tensor) <= MOST_VALUES < 1 << 27, tensor.name
        for case in cases:
            for tensors, steps in ((spec.inputs, case.steps), (spec.outputs, case.expected)):
                assert not [
                    why for step in steps for one in tensors if (why := outside(spec, one, step[one.name]))
                ]
    told = json.loads((front / "provenance.json").read_text("utf-8"))
    assert (told["family"], told["source"], told["seed"]) == (family, "random:small", 0)
    for path, digest in told["sha256"].items():
        assert hashlib.sha256((repository / path).read_bytes()).hexdigest() == digest, path
    assert all(
        one["compared"] > 0 and one["worst_difference"] <= one["tolerance"] for one in told["parity"].values()
    )
    assert (front / "LICENSE").read_text("utf-8").strip()
    for path in repository.rglob("*"):
        if path.suffix in (".pbtxt", ".json", ".py"):
            assert str(Path.home()) not in path.read_text("utf-8"), path
