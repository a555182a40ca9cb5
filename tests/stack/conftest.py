"""Shared by the tests of faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

from tests.stack.whole import Table
from tests.support.stack import skip_without_triton


@pytest.fixture(scope="session")
def runnable() -> None:
    skip_without_triton()


@pytest.fixture(scope="session")
def table() -> Iterator[Table]:
    """What each fault cost; `pytest -s` shows it."""
    table = Table()
    yield table
    if table.rows:
        print(f"\n\n{table}")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Faults meet the loop of production."""
    if item.path.name.startswith("test_fault"):
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
