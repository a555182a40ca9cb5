from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.hub import Hub
from tests.unit.triton.pulling.pulling import Puller


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as one:
        yield one


@pytest.fixture
def puller(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Puller:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return Puller(hub, tmp_path / "cache")
