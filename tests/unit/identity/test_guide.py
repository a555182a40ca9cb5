"""The commands and settings of docs/guides/security.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from gateway.cli import main
from gateway.identity import SCOPES
from gateway.identity.keys import read_keys
from gateway.settings import Settings

GUIDE = (Path(__file__).parents[3] / "docs/guides/security.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.shows_secrets
def test_the_commands_of_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("parley keys")]
    assert len(lines) == 6
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0, line
    records = read_keys((tmp_path / "keys.yaml").read_text()).records
    assert sorted(one.name for one in records) == ["phone-app", "phone-app", "prometheus", "trial"]


def test_the_settings_are_settings() -> None:
    (text,) = [block for block in blocks("yaml") if "jwt_issuer" in block]
    assert Settings(**yaml.safe_load(text)).auth.jwt_issuer == "https://accounts.example.com"
    for name in re.findall(r"`auth\.(\w+)`", GUIDE):
        assert name in type(Settings().auth).model_fields, name
    assert [scope for scope in SCOPES if f"| `{scope}` |" not in GUIDE] == []
