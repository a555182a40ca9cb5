"""A rolling update under 32 live calls, in short: both gateways and one of two speech services are replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from load.soak.__main__ import main
from tests.support.stack import skip_without_triton


@pytest.mark.timeout(240)
def test_no_call_and_no_reply_is_lost(tmp_path: Path) -> None:
    skip_without_triton()
    code = main(["rolling", "--short", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "rolling.json").read_text())
    assert code == 0, found["findings"]
    assert found["callers"] == 32
    assert found["replies"] > 100
    assert len(found["gaps_s"]) >= 32
    assert max(found["gaps_s"]) < 2.0
    assert not found["cut"] + found["failed"] + found["forgotten"]
    assert found["fresh"] == 0
