"""Fails any test in whose output, log records, log files or errors to peers a secret stands; see tests/support/leaks.py.

A test whose subject is a secret that is shown on purpose has the mark `shows_secrets`.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from starlette.responses import Response

from tests.support.leaks import Watch

WATCH = Watch()


class _Records(logging.Handler):
    """Every record of this process, before any formatter could mask it: masking is the second line, not the first."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("gateway"):
            WATCH.text(f"log record of {record.name}", record.getMessage())


def pytest_configure(config: pytest.Config) -> None:
    ours = logging.getLogger("gateway")
    ours.setLevel(logging.DEBUG)  # what only a debug log would tell is told all the same
    ours.addHandler(_Records(level=logging.DEBUG))
    _watch_errors()


def _watch_errors() -> None:
    """What peers are told: gRPC statuses, and HTTP answers that are errors."""
    status, body = grpc.aio.AioRpcError.__init__, Response.__init__

    def rpc_error(self: Any, *args: Any, **kwargs: Any) -> None:
        status(self, *args, **kwargs)
        WATCH.text("gRPC status", str(self.details()))

    def response(self: Any, content: Any = None, status_code: int = 200, *args: Any, **kwargs: Any) -> None:
        body(self, content, status_code, *args, **kwargs)
        if status_code >= 400:
            WATCH.text(f"HTTP {status_code}", bytes(self.body).decode(errors="replace"))

    grpc.aio.AioRpcError.__init__ = rpc_error  # type: ignore[method-assign]
    Response.__init__ = response  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "teardown":
        for name, text in report.sections:
            WATCH.text(name, text)
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        if isinstance(folder, Path):
            WATCH.files(folder)
        finds = WATCH.taken()
        if finds and item.get_closest_marker("shows_secrets") is None:
            report.outcome = "failed"
            report.longrepr = "a secret was told:\n" + "\n".join(f"  {find}" for find in finds)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Logs that outlive a test, of servers that many tests share."""
    factory: pytest.TempPathFactory | None = getattr(session.config, "_tmp_path_factory", None)
    if factory is not None and factory._basetemp is not None:
        WATCH.files(factory.getbasetemp())


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    finds = WATCH.taken()
    if finds:
        terminalreporter.section("secrets were told", red=True)
        for find in finds:
            terminalreporter.write_line(find)
        raise pytest.exit.Exception("secrets were told in logs of the run", returncode=1)
