"""Who opens an utterance too many is told so at once."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from gateway.riva.errors import status_of
from gateway.triton.admission import Admission
from gateway.triton.errors import ModelFull
from gateway.triton.model_info import ModelInfo, model_info, read_config

_MODEL = 'backend: "python" max_batch_size: 8\n'
_OLDEST = "sequence_batching { oldest { max_candidate_sequences: %d } }\n"
_STREAMS = 'parameters { key: "max_streams" value: { string_value: "%d" } }\n'


def info(folder: Path, *lines: str) -> ModelInfo:
    (folder / "config.pbtxt").write_text(_MODEL + "".join(lines))
    return model_info(read_config(folder))


@pytest.mark.parametrize(
    ("lines", "limit"),
    [
        ([], 0),
        ([_OLDEST % 16], 16),
        ([_OLDEST % 16, _STREAMS % 4], 4),
        ([_OLDEST % 16, _STREAMS % 64], 16),
        ([_STREAMS % 5], 5),
        (["sequence_batching { direct { } }"], 8),
        ([_OLDEST % 16, "instance_group [ { count: 2 } ]"], 32),
        ([_OLDEST % 16, "instance_group [ { count: 2, kind: KIND_GPU, gpus: [ 0, 1 ] } ]"], 64),
    ],
)
def test_how_many_a_model_takes_is_in_its_config(tmp_path: Path, lines: list[str], limit: int) -> None:
    assert info(tmp_path, *lines).max_sequences == limit


def test_one_too_many_is_refused_and_an_ended_one_makes_room(tmp_path: Path) -> None:
    model, admission = info(tmp_path, _OLDEST % 2), Admission()
    with admission.admit("a:1", model):
        with admission.admit("a:1", model):
            with pytest.raises(ModelFull, match=rf"{model.name} has as much as it takes at a time \(2\)"):
                admission.admit("a:1", model).__enter__()
            assert admission.open("a:1", model.name) == 2
            with admission.admit("b:1", model):
                assert admission.open("b:1", model.name) == 1, "another server has room of its own"
        with admission.admit("a:1", model):
            pass
    assert admission.open("a:1", model.name) == 0


def test_a_model_that_says_nothing_takes_all(tmp_path: Path) -> None:
    model, admission = info(tmp_path), Admission()
    held = [admission.admit("a:1", model) for _ in range(500)]
    for one in held:
        one.__enter__()
    assert admission.open("a:1", model.name) == 500


def test_the_place_is_free_again_after_a_failure(tmp_path: Path) -> None:
    model, admission = info(tmp_path, _STREAMS % 1), Admission()
    for _ in range(3):
        with pytest.raises(RuntimeError), admission.admit("a:1", model):
            raise RuntimeError
    assert admission.open("a:1", model.name) == 0


def test_riva_clients_are_told_to_try_again() -> None:
    code, words = status_of(ModelFull("asr_x has as much as it takes at a time (2)"))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "try again" in words
