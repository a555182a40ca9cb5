"""`parley keys`: the API keys of a key file, and those of an installation in Kubernetes."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.cli.common import OK, USAGE, Fault, Help, load_settings, run
from gateway.identity import SCOPES, BadKeys
from gateway.identity.keys import (
    DEFAULT_SCOPES,
    KeyRecord,
    Keys,
    added,
    digest,
    new_key,
    read_keys,
    revoked,
    rotated,
    valid_name,
    valid_scopes,
    write_keys,
)

_EPILOG = f"""\
examples:
  parley keys new phone-app --file keys.yaml          prints the key, once
  parley keys new prometheus --scopes metrics --file keys.yaml
  parley keys new trial --expires 30d --max-sessions 2 --per-minute 10 --file keys.yaml
  parley keys list --file keys.yaml
  parley keys rotate phone-app --grace 24h --file keys.yaml
  parley keys revoke phone-app --file keys.yaml       its open sessions end within a second or two

Without --file it is the file that PARLEY_AUTH__KEYS or PARLEY_CONFIG names. A running Parley sees each
change by itself. Scopes: {", ".join(SCOPES)}.
"""
_TIME = re.compile(r"(\d{1,6})([smhdw])")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, summary: str, work: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=summary, description=summary, formatter_class=Help)
        made.set_defaults(run=work)
        return made

    new = verb("new", "make a key and print it, once", _new)
    new.add_argument("name", metavar="NAME", help="for people, logs and limits")
    new.add_argument(
        "--scopes",
        default=",".join(DEFAULT_SCOPES),
        metavar="A,B",
        help=f"of {', '.join(SCOPES)} (voice,audio)",
    )
    new.add_argument("--expires", type=duration, metavar="TIME", help="as in 90d (never)")
    new.add_argument("--max-sessions", type=_count, metavar="N", help="calls at a time (auth.max_sessions)")
    new.add_argument(
        "--per-minute", type=_count, metavar="N", help="calls begun per minute (auth.requests_per_min)"
    )
    listing = verb("list", "list the keys, which are not kept themselves", _list)
    revoke = verb("revoke", "end a key, and what it has open", _revoke)
    revoke.add_argument("name", metavar="NAME")
    rotate = verb("rotate", "make a new key beside the old one, which then expires", _rotate)
    rotate.add_argument("name", metavar="NAME")
    rotate.add_argument(
        "--grace", type=duration, default=timedelta(days=1), metavar="TIME", help="of the old key (24h)"
    )
    for one in (new, listing, revoke, rotate):
        one.add_argument("--file", type=Path, metavar="F", help="the key file")

    secret = verb("secret", "make the keys of an installation in Kubernetes; for the chart's Job", _secret)
    secret.add_argument("--plain", required=True, metavar="NAME", help="Secret of the keys themselves")
    secret.add_argument("--hashes", required=True, metavar="NAME", help="Secret of the key file")
    secret.add_argument("--namespace", metavar="NS", help="(POD_NAMESPACE, else the service account's)")
    secret.add_argument(
        "--service-account",
        type=Path,
        default=Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        metavar="DIR",
        help="folder with token, ca.crt and namespace",
    )


def duration(text: str) -> timedelta:
    """argparse type: 90d, 12h, 30m."""
    found = _TIME.fullmatch(text)
    if found is None or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write for example 90d, 12h or 30m")
    return timedelta(seconds=int(found[1]) * _UNIT_S[found[2]])


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; write 0 for no limit")
    return int(text)


def _new(options: argparse.Namespace) -> int:
    key, now = new_key(), _now()
    try:
        record = KeyRecord(
            valid_name(options.name),
            digest(key),
            valid_scopes(scope.strip() for scope in options.scopes.split(",") if scope.strip()),
            created=now,
            expires=now + options.expires if options.expires else None,
            max_sessions=options.max_sessions,
            per_minute=options.per_minute,
        )
    except BadKeys as error:
        raise Fault(str(error), USAGE) from None
    with _changing(_file(options)) as change:
        change(lambda keys: added(keys, record))
    print(key)
    return OK


def _rotate(options: argparse.Namespace) -> int:
    key, now = new_key(), _now()
    with _changing(_file(options)) as change:
        change(lambda keys: rotated(keys, options.name, digest(key), now, now + options.grace))
    print(key)
    return OK


def _revoke(options: argparse.Namespace) -> int:
    with _changing(_file(options)) as change:
        change(lambda keys: revoked(keys, options.name, _now()))
    return OK


def _list(options: argparse.Namespace) -> int:
    now = _now()
    rows: list[tuple[str, ...]] = [
        ("NAME", "SCOPES", "STATE", "CREATED", "EXPIRES", "SESSIONS", "PER MINUTE", "SHA-256")
    ]
    for one in _read(_file(options)).records:
        expired = one.expires is not None and one.expires <= now
        state = "revoked" if one.revoked is not None else "expired" if expired else "good"
        rows.append(
            (
                one.name,
                ",".join(one.scopes),
                state,
                *(f"{at:%Y-%m-%d %H:%M}" if at is not None else "-" for at in (one.created, one.expires)),
                *("-" if limit is None else str(limit) for limit in (one.max_sessions, one.per_minute)),
                f"{one.sha256[:12]}…",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return OK


def _secret(options: argparse.Namespace) -> int:
    from gateway.cli.keys_secret import make_secrets

    return run(make_secrets(options.plain, options.hashes, options.namespace, options.service_account))


# ---- the file ---------------------------------------------------------------------------------------


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _file(options: argparse.Namespace) -> Path:
    found: Path | None = options.file or load_settings().auth.keys
    if found is None:
        raise Fault("no key file is named: give it with --file or PARLEY_AUTH__KEYS", USAGE)
    return found


def _read(path: Path) -> Keys:
    """Raises Fault."""
    try:
        return read_keys(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Fault(f"the key file {path} cannot be read: {error.strerror}") from None
    except (BadKeys, UnicodeDecodeError) as error:
        raise Fault(f"the key file {path} cannot be used: {error}") from None


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[Callable[[Callable[[Keys], list[KeyRecord]]], None]]:
    """Hands out a function that changes the file; two at once take turns. A reader never sees half of it."""

    def change(to: Callable[[Keys], list[KeyRecord]]) -> None:
        try:
            records = to(_read(path) if path.exists() else Keys())
        except BadKeys as error:
            raise Fault(str(error)) from None
        _replace(path, write_keys(records))

    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Fault(f"the folder of {path} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield change
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, with the mode that it had; a new one is its owner's alone. Raises Fault."""
    name = ""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            if path.exists():
                os.fchmod(file.fileno(), path.stat().st_mode & 0o7777)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise Fault(f"the key file {path} cannot be written: {error.strerror}") from None
