from __future__ import annotations

import grpc
import pytest

from gateway.triton.errors import (
    ModelFull,
    ModelNotLoaded,
    ProcessDied,
    Restricted,
    SequenceLost,
    TritonError,
    TritonTimeout,
    TritonUnavailable,
    first_line,
    from_message,
    from_status,
)

_START = (
    "inference request for sequence 5 to model 'asr_x' must specify the START flag on the first "
    "request of the sequence"
)


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, _START, SequenceLost),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", TritonTimeout),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses", TritonUnavailable),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model", ModelNotLoaded),
        (grpc.StatusCode.INTERNAL, "Stub process 'asr_x_0_0' is not healthy.", ProcessDied),
        (grpc.StatusCode.INTERNAL, "Internal error from Core", TritonUnavailable),
        (grpc.StatusCode.UNKNOWN, "Stream removed (Socket closed)", TritonUnavailable),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", TritonError),
    ],
)
def test_each_status_has_its_error(code: grpc.StatusCode, details: str, kind: type[TritonError]) -> None:
    error = from_status("asr_x", code, details)
    assert type(error) is kind
    assert str(error).startswith("asr_x: ")
    assert "\n" not in str(error)


def test_a_stream_says_the_same_without_a_code() -> None:
    assert type(from_message("asr_x", _START)) is SequenceLost
    assert type(from_message("x", "Request for unknown model: 'x' is not found")) is ModelNotLoaded
    assert type(from_message("x", "x is speaking 128 texts already; try again")) is ModelFull
    assert type(from_message("x", "too many concurrent utterances: 8 are being recognised")) is ModelFull


def test_only_the_models_own_words_are_kept() -> None:
    text = (
        "load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: RuntimeError: no\n"
        "dictionary\n\nAt:\n  /models/m/1/model.py(3): initialize\n;"
    )
    assert first_line(text) == "RuntimeError: no dictionary"


def test_a_restricted_repository_says_what_to_do() -> None:
    details = "This protocol is restricted, expecting header 'triton-grpc-protocol-admin'"
    error = from_status("load asr_x", grpc.StatusCode.UNAVAILABLE, details)
    assert type(error) is Restricted
    assert "set PARLEY_TRITON__REPOSITORY_KEY" in str(error)
    assert "PARLEY_TTS__KIND=riva" in str(error)
