"""Settings: the page about them is true, and every variable on it changes something."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from gateway.cli.common import Fault, load_settings
from gateway.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/settings.md"


def test_the_page_is_current() -> None:
    printed = subprocess.run(
        [sys.executable, str(ROOT / "scripts/settings_doc.py")], capture_output=True, text=True, check=True
    ).stdout
    assert PAGE.read_text() == printed, "run scripts/settings_doc.py > docs/reference/settings.md"


_OTHERS = {"otlp": "http://other:4318"}
"""Where not any text will do."""


def _other(value: object) -> str:
    match value:
        case bool():
            return "false" if value else "true"
        case int():
            return str(value + 1)
        case float():
            return str(value / 2 + 0.01)
        case dict():
            return '{"other": "x"}'
        case tuple():
            return '["other"]'
        case None:
            return "other"
        case "triton":
            return "riva"
        case "info":
            return "debug"
        case "x-forwarded-for":
            return "forwarded"
        case "off":
            return "required"
        case "auto":
            return "client"
        case _:
            return "other"


def _variables(part: type[BaseModel] = Settings, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The names that lead to each setting."""
    found: list[tuple[str, ...]] = []
    for name, field in part.model_fields.items():
        if isinstance(field.default, BaseModel):
            found += _variables(type(field.default), (*above, name))
        else:
            found.append((*above, name))
    return found


@pytest.mark.parametrize("names", _variables(), ids=".".join)
def test_every_documented_variable_is_read(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "PARLEY_" + "__".join(names).upper()
    assert f"`{variable}`" in PAGE.read_text()

    def value(settings: Settings) -> object:
        return functools.reduce(getattr, names, settings)

    before = value(Settings())
    monkeypatch.setenv(variable, _OTHERS.get(names[-1]) or _other(before))
    assert value(Settings()) != before


def test_every_setting_is_consumed_by_the_code() -> None:
    code = "\n".join(
        p.read_text()
        for p in (ROOT / "gateway").rglob("*.py")
        if not p.name.startswith("settings") and "protocol" not in p.parts
    )
    unused = [".".join(names) for names in _variables() if not re.search(rf"\b{names[-1]}\b", code)]
    assert not unused, f"documented but never read: {unused}"


def test_a_yaml_file_and_the_environment_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "parley.yaml"
    config.write_text("asr: {uri: 'riva:50051', language: de-DE}\n")
    monkeypatch.setenv("PARLEY_CONFIG", str(config))
    monkeypatch.setenv("PARLEY_ASR__LANGUAGE", "fr-FR")
    assert (Settings().asr.uri, Settings().asr.language) == ("riva:50051", "fr-FR")


def test_an_unknown_key_in_a_section_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_ASR__URL", "x")
    with pytest.raises(ValidationError, match="asr"):
        Settings()


def test_secrets_do_not_print() -> None:
    settings = Settings(llm={"api_key": SecretStr("sk-planted")})
    assert "sk-planted" not in repr(settings) + str(settings.model_dump())


def test_around_a_secret_stands_no_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `kubectl create secret --from-file` makes it of a file that an editor wrote."""
    for name, value in {
        "LLM__API_KEY": "sk-1\n",
        "AUTH__API_KEYS": '["one\\r\\n", " two"]',
        "AUTH__SEALING_KEY": "s" * 40 + "\n",
        "ASR__METADATA": '{"x-key": "three\\n"}',
        "STAND_IN__API_KEY": "\n",
    }.items():
        monkeypatch.setenv(f"PARLEY_{name}", value)
    settings = Settings()
    assert settings.llm.api_key.get_secret_value() == "sk-1"
    assert [key.get_secret_value() for key in settings.auth.api_keys] == ["one", "two"]
    assert settings.auth.sealing_key.get_secret_value() == "s" * 40
    assert settings.asr.metadata["x-key"].get_secret_value() == "three"
    assert not settings.stand_in.api_key.get_secret_value()


def test_an_empty_path_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTH__KEYS", "TLS__CERT", "LLM__TLS__CA", "REDIS__CA"):
        monkeypatch.setenv(f"PARLEY_{name}", "")
    settings = Settings()
    assert settings.auth.keys is settings.tls.cert is settings.llm.tls.ca is settings.redis.ca is None


def test_secrets_may_be_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "PARLEY_LLM__API_KEY").write_text("of-a-file\n")
    (tmp_path / "PARLEY_ASR__API_KEY").write_text("\n")
    (tmp_path / "PARLEY_TTS__METADATA").write_text('{"function-id": "f"}')
    (tmp_path / "somebody-elses").write_text("x")
    config = tmp_path / "config.yaml"
    config.write_text("asr: {api_key: of-the-config}\nllm: {api_key: of-the-config}\n")
    monkeypatch.setenv("PARLEY_CONFIG", str(config))
    monkeypatch.setenv("PARLEY_SECRETS", str(tmp_path))
    settings = Settings()
    assert settings.llm.api_key.get_secret_value() == "of-a-file"
    assert settings.asr.api_key.get_secret_value() == "of-the-config", "an empty file says nothing"
    assert settings.tts.metadata["function-id"].get_secret_value() == "f"
    monkeypatch.setenv("PARLEY_LLM__API_KEY", "of-the-environment")
    assert Settings().llm.api_key.get_secret_value() == "of-the-environment"


@pytest.mark.parametrize("name", ["nosuch", "PARLEY_LLM__API_KEY"])
def test_a_folder_of_secrets_that_is_none_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PARLEY_LLM__API_KEY").write_bytes(b"key")
    monkeypatch.setenv("PARLEY_SECRETS", str(tmp_path / name))
    with pytest.raises(Fault, match="which is no folder"):
        load_settings()


def test_a_secret_that_fits_no_setting_is_refused_without_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PARLEY_LLM__API_KEYS").write_text("hidden-text")
    monkeypatch.setenv("PARLEY_SECRETS", str(tmp_path))
    with pytest.raises(Fault, match="PARLEY_LLM__API_KEYS") as refused:
        load_settings()
    assert "hidden-text" not in str(refused.value)
