"""API keys and the file that holds them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.identity.caller import Denied
from gateway.identity.key_file import KeyFile
from gateway.identity.keys import (
    BadKeys,
    KeyRecord,
    Keys,
    added,
    digest,
    new_key,
    read_keys,
    revoked,
    rotated,
    valid_scopes,
    write_keys,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def test_keys_are_long_random_and_recognisable() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(key.startswith("pk_") and len(key) == 46 for key in made)


def test_a_file_is_read_as_it_was_written_and_holds_no_key() -> None:
    key = new_key()
    records = [
        KeyRecord("app", digest(key), ("voice",), NOW, NOW + DAY, None, 3, 0),
        KeyRecord("old", digest(new_key()), ("audio", "admin"), revoked=NOW),
    ]
    text = write_keys(records)
    assert key not in text
    read = read_keys(text)
    assert list(read.records) == records
    assert read.find(key) == records[0]
    assert read.find(key[:-1]) is None
    assert read_keys("").records == ()
    assert read_keys("keys:\n").records == ()


GOOD = f"name: a, sha256: '{'a' * 64}'"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keys: [", "no YAML at line"),
        ("a: b", "a list under `keys:`"),
        ("keys: {a: b}", "a list under `keys:`"),
        ("[]", "a list under `keys:`"),
        ("keys: [x]", "entry 1: it must have a name and a sha256"),
        (f"keys: [{{{GOOD}}}, {{name: b}}]", "entry 2: its sha256 must be 64"),
        (f"keys: [{{{GOOD}}}, {{{GOOD}}}]", "same sha256"),
        (f"keys: [{{{GOOD}, scope: voice}}]", "'scope' is not known"),
        (f"keys: [{{{GOOD}, scopes: [voise]}}]", "'voise' is no scope: choose from voice"),
        (f"keys: [{{{GOOD}, scopes: []}}]", "no scope is named"),
        (f"keys: [{{{GOOD}, scopes: voice}}]", "must be a list"),
        (f"keys: [{{{GOOD}, expires: soon}}]", "its expires is no time"),
        (f"keys: [{{{GOOD}, max_sessions: -1}}]", "its max_sessions must be a whole number"),
        (f"keys: [{{{GOOD}, per_minute: true}}]", "its per_minute must be a whole number"),
        (f"keys: [{{name: 'a b', sha256: '{'a' * 64}'}}]", "'a b' is no name"),
        ("keys: [{name: !!python/object/apply:os.system [id]}]", "no YAML"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(text: str, says: str) -> None:
    with pytest.raises(BadKeys, match=says.replace("[", r"\[")):
        read_keys(text)


def test_a_time_without_a_zone_is_utc() -> None:
    assert read_keys(f"keys: [{{{GOOD}, expires: 2030-01-01}}]").records[0].expires == NOW


def test_expired_and_revoked_keys_open_nothing() -> None:
    record = KeyRecord("app", "0" * 64, expires=NOW)
    record.check(NOW - timedelta(seconds=1))
    with pytest.raises(Denied, match="app expired at 2030-01-01T00:00:00Z") as caught:
        record.check(NOW)
    assert caught.value.reason == "expired"
    with pytest.raises(Denied, match="app was revoked") as caught:
        KeyRecord("app", "0" * 64, revoked=NOW).check(NOW)
    assert caught.value.reason == "revoked"


def test_adding_revoking_rotating() -> None:
    first, second = digest("a"), digest("b")
    records = added(Keys(), KeyRecord("app", first, created=NOW - DAY, expires=NOW + DAY, max_sessions=2))
    with pytest.raises(BadKeys, match="there is a key app"):
        added(Keys(records), KeyRecord("app", second))
    records = rotated(Keys(records), "app", second, NOW, NOW + timedelta(hours=1))
    assert [(one.sha256, one.expires) for one in records] == [
        (first, NOW + timedelta(hours=1)),
        (second, NOW + 2 * DAY),  # it lives as long as the first was meant to
    ]
    assert records[1].max_sessions == 2
    records = revoked(Keys(records), "app", NOW)
    assert [one.revoked for one in records] == [NOW, NOW]
    for change in (revoked, lambda keys, name, at: rotated(keys, name, "", at, at)):
        with pytest.raises(BadKeys, match="there is no key app"):
            change(Keys(records), "app", NOW)
    assert [one.sha256 for one in added(Keys(records), KeyRecord("app", digest("c")))] == [digest("c")]
    with pytest.raises(BadKeys):
        valid_scopes([])


# ---- the file, live ---------------------------------------------------------------------------------


def replace_by_rename(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def like_kubernetes(path: Path, text: str) -> None:
    """A Secret in a pod: the file is a link into a folder that is a link, which is exchanged."""
    number = len(list(path.parent.glob("..v*")))
    folder = path.parent / f"..v{number}"
    folder.mkdir()
    (folder / path.name).write_text(text)
    link = path.parent / "..new"
    link.symlink_to(folder.name)
    os.replace(link, path.parent / "..data")
    if not path.is_symlink():
        path.unlink(missing_ok=True)
        path.symlink_to(f"..data/{path.name}")


@pytest.mark.parametrize("write", [Path.write_text, replace_by_rename, like_kubernetes])
async def test_a_change_is_seen_at_the_next_use(write: Callable[[Path, str], None], tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    one, two = KeyRecord("one", digest("1")), KeyRecord("two", digest("2"))
    write(path, write_keys([one]))
    file = KeyFile(path)
    assert (await file.fresh()).find("2") is None
    write(path, write_keys([one, two]))
    assert (await file.fresh()).find("2") == two
    before = file.keys
    assert await file.fresh() is before  # not read again


async def test_a_broken_file_leaves_the_last_good_one_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.yaml"
    one = KeyRecord("one", digest("1"))
    path.write_text(write_keys([one]))
    file = KeyFile(path)
    for broken in ("keys: [", None, "keys: [{name: x}]"):
        caplog.clear()
        if broken is None:
            path.unlink()
        else:
            path.write_text(broken)
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                assert (await file.fresh()).find("1") == one
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "the keys read before stay" in caplog.text
    path.write_text("keys: []")
    assert (await file.fresh()).find("1") is None


def test_a_start_without_a_usable_file_fails(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match=r"keys\.yaml cannot be used: No such file"):
        KeyFile(tmp_path / "keys.yaml")
    (tmp_path / "keys.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadKeys, match="no UTF-8"):
        KeyFile(tmp_path / "keys.yaml")
    with pytest.raises(BadKeys, match="Is a directory"):
        KeyFile(tmp_path)
