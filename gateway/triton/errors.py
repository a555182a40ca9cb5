"""What can go wrong with Triton, as one clear sentence each."""

from __future__ import annotations

import re

import grpc
import grpc.aio

from gateway.telemetry.redaction import redacted

_PREAMBLE = re.compile(
    r"^(load failed for model '[^']*': )?(version \d+ is at UNAVAILABLE state: )?(Internal: |Invalid argument: )?"
)
_CUT = ("Internal error from Core", "Stream removed", "Socket closed", "GOAWAY")
"""What gRPC says, under various codes, when the connection ends in the middle of a call."""
_MISSING = ("unknown model", "no available versions", "not at ready state")
_RESTRICTED = "protocol is restricted"
_LOST = "must specify the START flag"
_FULL = re.compile(r"too many|try again")
"""How a model that has no room says so: an error on a stream carries no status code."""


class TritonError(Exception):
    """Triton refused or failed. `str()` is one sentence, fit for a person; no traceback, no secret."""


class TritonUnavailable(TritonError):
    """No answer from Triton, or the model is not loaded: the same request may succeed later."""


class TritonTimeout(TritonUnavailable):
    """Triton said nothing within the deadline."""


class ProcessDied(TritonUnavailable):
    """The model's Python process is dead; the server still counts the model as ready until it is loaded again."""


class ModelNotLoaded(TritonUnavailable):
    """The server answers, and does not have this model."""


class Restricted(TritonUnavailable):
    """The server lets only those load and unload who send its key."""


class ModelFull(TritonError):
    """The model has as much in hand as it takes at a time: the same request may succeed when one has ended."""


class SequenceLost(TritonError):
    """The model no longer knows this sequence (idle, re-loaded or restarted): start again and replay."""


def from_status(what: str, code: grpc.StatusCode | None, details: str) -> TritonError:
    """The error for an RPC that ended with `code`; `what` says what was asked ("load asr_x")."""
    text = first_line(details)
    if _LOST in details:
        return SequenceLost(f"{what}: the sequence is gone, start it again")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TritonTimeout(f"{what}: no answer from Triton within the deadline")
    if code is grpc.StatusCode.NOT_FOUND or any(missing in details for missing in _MISSING):
        return ModelNotLoaded(f"{what}: {text}")
    if _RESTRICTED in details:
        return Restricted(
            f"{what}: the model repository API is restricted: set PARLEY_TRITON__REPOSITORY_KEY to the key=value "
            "that Triton was started with, or have the gateway use PARLEY_TTS__KIND=riva"
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return TritonUnavailable(f"{what}: {text or 'Triton cannot be reached'}")
    if any(cut in details for cut in _CUT):
        return TritonUnavailable(f"{what}: the connection to Triton was cut")
    if "Stub process" in details and "not healthy" in details:
        return ProcessDied(f"{what}: the model's process died")
    if _FULL.search(text):
        return ModelFull(f"{what}: {text}")
    return TritonError(f"{what}: {text or 'failed'}")


def from_rpc(what: str, error: grpc.aio.AioRpcError) -> TritonError:
    return from_status(what, error.code(), error.details() or "")


def from_message(what: str, message: str) -> TritonError:
    """The error for an `error_message` on a stream, which carries no status code."""
    return from_status(what, None, message)


def first_line(text: str) -> str:
    """The message without Triton's preamble, and without the Python stack that it appends."""
    return redacted(_PREAMBLE.sub("", text.split("\n\nAt:", 1)[0].strip().replace("\n", " ")))
