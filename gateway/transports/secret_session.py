"""What the maker of a client secret wants of its session, for a client of parley.v1.

The words are those of OpenAI's Realtime API (`session` of POST /v1/realtime/client_secrets). What the client asks
for itself goes before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.transports.voice_wire import Opening


def with_session(opening: Opening, session: Mapping[str, Any]) -> Opening:
    """The opening with the session's instructions, voice and language where the client named none."""
    wanted = {
        "instructions": session.get("instructions"),
        "voice": _at(session, "audio", "output", "voice"),
        "language": _at(session, "audio", "input", "transcription", "language"),
    }
    asked = opening.hello.configure
    missing: dict[str, Any] = {
        field: value
        for field, value in wanted.items()
        if isinstance(value, str) and value and getattr(asked, field) is None
    }
    if not missing:
        return opening
    return replace(opening, hello=replace(opening.hello, configure=replace(asked, **missing)))


def _at(value: object, *path: str) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
