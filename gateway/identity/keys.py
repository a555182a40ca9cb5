"""API keys: made, hashed, kept in a YAML file.

A key is 256 random bits, so what is kept of it can be a plain SHA-256: nobody guesses such a key, and a slow
hash, which passwords need, would only make every call dear (docs/decisions/api-keys.md).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import yaml

from gateway.identity.caller import SCOPES, Caller, Denied

PREFIX = "pk_"
DEFAULT_SCOPES = ("voice", "audio")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"name", "sha256", "scopes", "created", "expires", "revoked", "max_sessions", "per_minute"}
_HEAD = """\
# API keys of Parley: what is kept of each is its SHA-256, never the key itself.
# Made and changed with `parley keys`; a running Parley reads changes within a second.
"""
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadKeys(Exception):
    """A key file cannot be used; `str()` says what is wrong with it, and holds nothing secret."""


def new_key() -> str:
    """256 bits from the system's generator, with a prefix that scanners for leaked secrets can look for."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """SHA-256 in hexadecimal: what is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of one key."""

    name: str
    """1 to 64 letters, digits and . _ @ -; two keys have the same name while one replaces the other."""
    sha256: str
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    created: datetime | None = None
    expires: datetime | None = None
    """From then on it opens nothing; what it has opened goes on."""
    revoked: datetime | None = None
    """Since then it opens nothing, and what it had opened was ended."""
    max_sessions: int | None = None
    """Calls at a time; None: as `auth.max_sessions` says; 0: no limit."""
    per_minute: int | None = None
    """Calls begun per minute; None: as `auth.requests_per_min` says; 0: no limit."""

    @property
    def id(self) -> str:
        return f"key:{self.sha256[:24]}"

    def caller(self, max_sessions: int = 0, per_minute: int = 0) -> Caller:
        """max_sessions, per_minute: where the record says nothing."""
        return Caller(
            self.name,
            self.id,
            frozenset(self.scopes),
            max_sessions if self.max_sessions is None else self.max_sessions,
            per_minute if self.per_minute is None else self.per_minute,
        )

    def check(self, now: datetime) -> None:
        """Raises Denied."""
        if self.revoked is not None:
            raise Denied("revoked", f"the API key {self.name} was revoked: ask its maker for a new one")
        if self.expires is not None and now >= self.expires:
            raise Denied(
                "expired",
                f"the API key {self.name} expired at {_written(self.expires)}: ask its maker for a new one",
            )


class Keys:
    """Records, found by key."""

    def __init__(self, records: Iterable[KeyRecord] = ()) -> None:
        self.records = tuple(records)
        self._by_digest = {record.sha256: record for record in self.records}
        self.by_id = {record.id: record for record in self.records}

    def find(self, key: str) -> KeyRecord | None:
        """The look-up is by the SHA-256 of what came, so its time tells nothing of keys that were near."""
        found = self._by_digest.get(wanted := digest(key))
        return found if found is not None and hmac.compare_digest(found.sha256, wanted) else None


# ---- the file ---------------------------------------------------------------------------------------


def read_keys(text: str) -> Keys:
    """Of a key file's text. Raises BadKeys."""
    try:
        found = yaml.load(text, _Loader)  # a safe loader
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise BadKeys(f"it is no YAML{where}") from None
    if found is None:
        return Keys()
    if not isinstance(found, dict) or found.keys() != {"keys"} or not isinstance(found["keys"], list | None):
        raise BadKeys("it must hold a list under `keys:`, and nothing else")
    records = [_record(entry, number) for number, entry in enumerate(found["keys"] or (), 1)]
    if len({record.sha256 for record in records}) < len(records):
        raise BadKeys("two entries have the same sha256: every key may stand there once")
    return Keys(records)


def write_keys(records: Sequence[KeyRecord]) -> str:
    """The text of a key file."""
    return _HEAD + yaml.safe_dump({"keys": [_entry(one) for one in records]}, sort_keys=False)


def valid_name(name: str) -> str:
    """Raises BadKeys."""
    if not _NAME.fullmatch(name):
        raise BadKeys(f"{name[:80]!r} is no name: write 1 to 64 letters, digits and . _ @ -")
    return name


def valid_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Raises BadKeys."""
    given = tuple(dict.fromkeys(scopes))
    if not given or (unknown := [scope for scope in given if scope not in SCOPES]):
        what = f"{unknown[0][:40]!r} is no scope" if given else "no scope is named"
        raise BadKeys(f"{what}: choose from {', '.join(SCOPES)}")
    return given


def _record(entry: object, number: int) -> KeyRecord:
    try:
        if not isinstance(entry, dict):
            raise BadKeys("it must have a name and a sha256")
        if extra := entry.keys() - _FIELDS:
            raise BadKeys(f"{str(min(extra, key=str))[:40]!r} is not known there")
        sha256 = entry.get("sha256")
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise BadKeys("its sha256 must be 64 hexadecimal digits, in quotes")
        scopes = entry.get("scopes", list(DEFAULT_SCOPES))
        if not isinstance(scopes, list):
            raise BadKeys("its scopes must be a list")
        return KeyRecord(
            valid_name(str(entry.get("name", ""))),
            sha256,
            valid_scopes(map(str, scopes)),
            created=_time(entry, "created"),
            expires=_time(entry, "expires"),
            revoked=_time(entry, "revoked"),
            max_sessions=_number(entry, "max_sessions"),
            per_minute=_number(entry, "per_minute"),
        )
    except BadKeys as error:
        raise BadKeys(f"entry {number}: {error}") from None


def _time(entry: dict[str, Any], field: str) -> datetime | None:
    value = entry.get(field)
    if value is None:
        return None
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise BadKeys(f"its {field} is no time: write it as in 2030-01-31T00:00:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _number(entry: dict[str, Any], field: str) -> int | None:
    value = entry.get(field)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise BadKeys(f"its {field} must be a whole number, 0 for no limit")
    return value


def _entry(record: KeyRecord) -> dict[str, Any]:
    found: dict[str, Any] = {"name": record.name, "sha256": record.sha256, "scopes": list(record.scopes)}
    for field in ("created", "expires", "revoked"):
        if (at := getattr(record, field)) is not None:
            found[field] = _written(at)
    for field in ("max_sessions", "per_minute"):
        if (number := getattr(record, field)) is not None:
            found[field] = number
    return found


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# ---- changes ----------------------------------------------------------------------------------------


def added(keys: Keys, record: KeyRecord) -> list[KeyRecord]:
    """Raises BadKeys when a key of that name is in use."""
    if any(one.name == record.name and one.revoked is None for one in keys.records):
        raise BadKeys(f"there is a key {record.name}: choose another name, rotate it or revoke it")
    return [*(one for one in keys.records if one.name != record.name), record]


def revoked(keys: Keys, name: str, now: datetime) -> list[KeyRecord]:
    """All keys of the name. Raises BadKeys when there is none in use."""
    _of_name(keys, name)
    return [
        replace(one, revoked=now) if one.name == name and one.revoked is None else one for one in keys.records
    ]


def rotated(keys: Keys, name: str, sha256: str, now: datetime, old_until: datetime) -> list[KeyRecord]:
    """A new key beside the old ones, which expire then. Raises BadKeys when there is none in use."""
    last = _of_name(keys, name)[-1]
    new = replace(last, sha256=sha256, created=now, expires=None)
    if last.expires is not None and last.created is not None:  # it lives as long as the old one was meant to
        new = replace(new, expires=now + (last.expires - last.created))

    def aged(one: KeyRecord) -> KeyRecord:
        if one.name != name or one.revoked is not None:
            return one
        return replace(one, expires=min(one.expires or old_until, old_until))

    return [*map(aged, keys.records), new]


def _of_name(keys: Keys, name: str) -> list[KeyRecord]:
    found = [one for one in keys.records if one.name == name and one.revoked is None]
    if not found:
        raise BadKeys(f"there is no key {name[:80]}: see `parley keys list`")
    return found
