"""Takes secrets out of text before it is shown: in logs, and in what other services say when they refuse.

Servers like to repeat in an error what they were sent. Our own words never hold a secret; what others say passes
through `redacted` before it goes into an error, a page or an event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = "***"
_MIN_SECRET = 4
"""Shorter values are no secrets worth the name, and masking them would garble every line."""
_CREDENTIAL = re.compile(
    r"\b(?:pk|ek|pi)_[\w-]{20,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|(?<=[Bb]earer )[^\s'\",]+"
)
"""What callers show: API keys, client secrets, tokens. They are nowhere in our settings, so their form tells."""


class Redactor:
    """Knows some secrets."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms: list[str] = []
        self.keep(secrets)

    def keep(self, secrets: Iterable[str]) -> None:
        """These too, from now on."""
        forms = {form for secret in secrets if len(secret) >= _MIN_SECRET for form in _forms(secret)}
        # longest first: a secret may contain another
        self._forms = sorted(forms.union(self._forms), key=len, reverse=True)

    def redacted(self, text: str) -> str:
        """The text with every secret, and everything that looks like a credential, masked."""
        for form in self._forms:
            text = text.replace(form, MASK)
        return _CREDENTIAL.sub(MASK, text)


_OURS = Redactor()
"""The secrets of this process' settings: whoever builds its services tells."""
keep = _OURS.keep
redacted = _OURS.redacted


def _forms(secret: str) -> set[str]:
    """The secret as it stands in text, in the `repr` of a list, in JSON and in a URL."""
    return {
        secret,
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret),
        quote(secret, safe=""),
    }
