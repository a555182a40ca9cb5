"""Logging: one line per event, as text or JSON, with session and turn, without secrets."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, TextIO

from gateway.telemetry import redaction
from gateway.telemetry.context import client_address, session_id, trace_id_of_now, turn_id

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def setup_logging(
    level: str = "info",
    *,
    form: Literal["text", "json"] = "text",
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    worker: str = "",
) -> None:
    """Sets up the root logger of this process, replacing what was there.

    level: debug, info, warning or error. secrets: values masked wherever they appear.
    stream: where lines go; default stderr. worker: this process among several, named in every line.
    """
    secrets = tuple(secrets)
    redaction.keep(secrets)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_LineFormatter(form == "json", secrets, worker))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "asyncio", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


@contextmanager
def log_context(*, session: str | None = None, turn: str | None = None) -> Iterator[None]:
    """Names the session or turn in every line logged inside, also by tasks started inside."""
    tokens = [
        (variable, variable.set(value))
        for variable, value in ((session_id, session), (turn_id, turn))
        if value is not None
    ]
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


class _LineFormatter(logging.Formatter):
    """Fields given as `extra=` follow the message: `key=value` in text, members in JSON."""

    def __init__(self, as_json: bool, secrets: Iterable[str], worker: str) -> None:
        super().__init__()
        self._worker = worker
        self._as_json = as_json
        self._redactor = redaction.Redactor(secrets)

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker:
            fields["worker"] = self._worker
        if session := session_id.get():
            fields["session"] = session
        if turn := turn_id.get():
            fields["turn"] = turn
        if client := client_address.get():
            fields["client"] = client
        if trace := trace_id_of_now():
            fields["trace"] = trace
        fields |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            fields["error"] = "".join(traceback.format_exception(*record.exc_info)).strip()
        # masked before JSON escapes could hide a secret, and one line whatever the text holds
        masked = {key: self._mask(value) for key, value in fields.items()}
        return json.dumps(masked, ensure_ascii=False) if self._as_json else _as_text(masked)

    def _mask(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._redactor.redacted(str(value))


def _as_text(fields: dict[str, object]) -> str:
    head = " ".join(_one_line(fields.pop(key)) for key in ("time", "level", "logger", "message"))
    return head + "".join(f" {key}={_one_line(value)}" for key, value in fields.items())


def _one_line(value: object) -> str:
    """Nothing that others wrote ends the line, or tells the terminal that shows it to do something."""
    text = str(value).replace("\\", "\\\\")
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
