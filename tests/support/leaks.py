"""Looks for secrets in whatever a test run leaves in writing: captured output, log records, files, errors sent to peers.

What counts as a secret: anything that looks like a credential of Parley (API keys, client secrets), a signed token
(JWT), and `PLANTED`, which tests put into the values of settings that are nobody's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PLANTED = "plantedsecret"
"""Part of every secret that a test makes up. No test writes it anywhere but into settings, headers and key files."""

SECRET = re.compile(
    PLANTED
    + r"|\bpk_[A-Za-z0-9_-]{43}\b"  # an API key
    + r"|\b(?:ek|pi)_[A-Za-z0-9_-]{60,}"  # a client secret
    + r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"  # a signed token
)
_TOLD = 60
"""Characters around a find that are shown, without the secret itself."""
_LOGS = ("*.log", "*.log.*", "stdout", "stderr", "*.out", "*.err", "*.jsonl")
_MOST_BYTES = 64 << 20


def find(text: str) -> str | None:
    """The surroundings of the first secret in a text, with the secret left out; None when there is none."""
    found = SECRET.search(text)
    if found is None:
        return None
    before, after = (
        text[max(0, found.start() - _TOLD) : found.start()],
        text[found.end() : found.end() + _TOLD],
    )
    return f"{before}<a secret: {found[0][:3]}…>{after}"


def logs_below(folder: Path) -> Iterator[Path]:
    """Files that look like logs or captured output."""
    for pattern in _LOGS:
        for path in folder.rglob(pattern):
            inner = any(
                part.startswith("runpytest-") for part in path.relative_to(folder).parts
            )  # a test run inside a test
            if not inner and path.is_file() and path.stat().st_size <= _MOST_BYTES:
                yield path


class Watch:
    """Collects what is found; one per test run."""

    def __init__(self) -> None:
        self.finds: list[str] = []
        self._sizes: dict[Path, int] = {}

    def text(self, where: str, text: str) -> None:
        if (around := find(text)) is not None:
            self.finds.append(f"{where}: {around}")

    def files(self, folder: Path) -> None:
        """Those that are new or have changed since they were last looked at."""
        for path in logs_below(folder):
            size = path.stat().st_size
            if self._sizes.get(path) != size:
                self._sizes[path] = size
                self.text(str(path.relative_to(folder)), path.read_text(errors="replace"))

    def taken(self) -> list[str]:
        """What was found since the last call."""
        finds, self.finds = self.finds, []
        return finds
