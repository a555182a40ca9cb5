"""Events: one line each, in both forms of the log; causes that can be counted."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from gateway.telemetry.logs import setup_logging
from gateway.triton.errors import TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.manager.events import Cause, Event, Kind, cause_of, log_event, to_line


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)


def test_a_line_holds_what_applies_and_nothing_else() -> None:
    event = Event(Kind.LOADED, "tts_x", "2", why="session", seconds=1.23456, leases=0)
    assert to_line(event) == "loaded model=tts_x version=2 why=session seconds=1.235 leases=0"


def test_a_value_with_spaces_or_line_ends_stays_one_field_of_one_line() -> None:
    line = to_line(
        Event(Kind.LOAD_FAILED, "asr_x", cause="code", reason='no "x"\nat all\n\nAt:\n  /m.py(3): load')
    )
    assert line == 'load_failed model=asr_x cause=code reason="no \\"x\\" at all"'


def test_in_json_the_fields_are_members() -> None:
    out = io.StringIO()
    setup_logging("info", form="json", stream=out)
    log_event(Event(Kind.EVICTED, "tts_x", because="ttl", memory_mb=40))
    (line,) = out.getvalue().splitlines()
    told = json.loads(line)
    assert told["level"] == "info"
    assert told["logger"] == "parley.models"
    assert {k: told[k] for k in ("message", "event", "model", "because", "memory_mb")} == {
        "message": "model evicted", "event": "evicted", "model": "tts_x", "because": "ttl", "memory_mb": 40,
    }  # fmt: skip
    assert "version" not in told
    assert "seconds" not in told


def test_in_text_a_failure_is_one_warning_line() -> None:
    out = io.StringIO()
    setup_logging("info", stream=out)
    log_event(Event(Kind.LOAD_FAILED, "tts_x", cause="died", reason="it ended\nat once"))
    (line,) = out.getvalue().splitlines()
    assert line.endswith(
        "warning parley.models model load failed event=load_failed model=tts_x cause=died reason=it ended at once"
    )


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_can_be_logged(kind: Kind) -> None:
    out = io.StringIO()
    setup_logging("info", form="json", stream=out)
    every = Event(
        kind, model="m", version="1", server="h:1", why="w", because="b", cause="c", victim_of="v", seconds=1.0,
        leases=1, memory_mb=1, reason="r",
    )  # fmt: skip
    log_event(every)
    assert set(json.loads(out.getvalue())) >= {"event", "model", "version", "server", "seconds", "reason"}


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TritonTimeout("load x: no answer from Triton within the deadline"), Cause.TIMEOUT),
        (TritonUnavailable("load x: the connection to Triton was cut"), Cause.UNAVAILABLE),
        (TritonError("load x: no such model in the repository"), Cause.MISSING),
        (TritonError("load x: unable to find 'model.py': no such file or directory"), Cause.MISSING),
        (TritonError("load x: SyntaxError: invalid syntax (model.py, line 3)"), Cause.CODE),
        (TritonError("load x: ValueError: nothing fits"), Cause.CODE),
        (TritonError("load x: Stub process 'x_0_0' is not healthy."), Cause.DIED),
        (TritonError("load x: unexpected datatype TYPE_FP64 for inference output 'AUDIO'"), Cause.CONFIG),
        (TritonError("load x: its warm-up request failed: nothing came"), Cause.WARM_UP),
        (TritonError("load x: who knows"), Cause.OTHER),
    ],
)
def test_the_cause_of_a_failure(error: TritonError, cause: Cause) -> None:
    assert cause_of(error) is cause
