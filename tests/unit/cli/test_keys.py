"""`parley keys`, as a person runs it."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.identity import AUDIO, SPEECH, VOICE, Denied, Identity
from gateway.identity.keys import Keys, digest, read_keys
from gateway.settings import AuthSettings


def parley(*arguments: str) -> int:
    return main(["keys", *arguments])


def keys_in(file: Path) -> Keys:
    return read_keys(file.read_text())


def test_a_key_is_printed_once_and_kept_as_a_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.yaml"
    options = ("--scopes", "voice,speech", "--expires", "90d", "--max-sessions", "3", "--per-minute", "0")
    assert parley("new", "app", *options, "--file", str(file)) == 0
    key = capsys.readouterr().out.strip()
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (record,) = keys_in(file).records
    assert (record.sha256, record.scopes) == (digest(key), ("voice", "speech"))
    assert (record.max_sessions, record.per_minute) == (3, 0)
    assert record.expires is not None
    assert abs(record.expires - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=1)
    assert parley("list", "--file", str(file)) == 0
    shown = capsys.readouterr().out
    assert "voice,speech" in shown
    assert key not in shown


async def test_new_rotate_and_revoke_as_a_running_parley_sees_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.yaml"

    async def command(*arguments: str) -> str:
        assert await asyncio.to_thread(parley, *arguments, "--file", str(file)) == 0
        return capsys.readouterr().out.strip()

    old = await command("new", "app")
    identity = Identity(AuthSettings(keys=file))
    assert (await identity.caller(old, VOICE)).name == "app"
    new = await command("rotate", "app", "--grace", "1h")
    for key in (old, new):
        assert (await identity.caller(key, AUDIO)).name == "app"
    later = Identity(
        AuthSettings(keys=file), wall=lambda: (datetime.now(UTC) + timedelta(hours=2)).timestamp()
    )
    with pytest.raises(Denied, match="expired"):
        await later.caller(old, VOICE)
    assert await later.caller(new, VOICE)
    await command("revoke", "app")
    for key in (old, new):
        with pytest.raises(Denied, match="revoked"):
            await identity.caller(key, VOICE)
    with pytest.raises(Denied):
        await identity.caller(await command("new", "other"), SPEECH)


@pytest.mark.shows_secrets
def test_the_file_of_the_settings_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parley("list") == 2
    assert "no key file is named" in capsys.readouterr().err
    monkeypatch.setenv("PARLEY_AUTH__KEYS", str(tmp_path / "k.yaml"))
    assert parley("new", "app") == 0
    assert len(keys_in(tmp_path / "k.yaml").records) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("new", "a b"), 2, "'a b' is no name"),
        (("new", "a", "--scopes", "voise"), 2, "'voise' is no scope: choose from voice"),
        (("new", "app"), 1, "there is a key app"),
        (("revoke", "nobody"), 1, "there is no key nobody"),
        (("rotate", "nobody"), 1, "there is no key nobody"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: tuple[str, ...], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.yaml"
    parley("new", "app", "--file", str(file))
    before = file.read_text()
    assert parley(*arguments, "--file", str(file)) == code
    assert says in capsys.readouterr().err
    assert file.read_text() == before


def test_a_broken_file_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("keys: [{name: x}]")
    assert parley("new", "app", "--file", str(file)) == 1
    assert "entry 1: its sha256 must be" in capsys.readouterr().err
    assert file.read_text() == "keys: [{name: x}]"
    assert parley("new", "app", "--file", str(tmp_path / "none" / "keys.yaml")) == 1
    assert "cannot be opened" in capsys.readouterr().err


def test_two_at_once_take_turns(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    code = "import sys; from gateway.cli import main; sys.exit(main(sys.argv[1:]))"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, "keys", "new", f"k{n}", "--file", str(file)],
            stdout=subprocess.DEVNULL,
        )
        for n in range(6)
    ]
    assert [process.wait(30) for process in running] == [0] * 6
    assert {record.name for record in keys_in(file).records} == {f"k{n}" for n in range(6)}


@pytest.mark.parametrize("time", ["90", "0d", "d", "-1d", "1y", "1.5h"])
def test_times_that_are_none(time: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parley("new", "app", "--expires=" + time, "--file", str(tmp_path / "k"))
    assert ended.value.code == 2
    assert "write for example 90d" in capsys.readouterr().err
