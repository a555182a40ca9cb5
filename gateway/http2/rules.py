"""h2's connection, as this room uses it."""

from __future__ import annotations

from h2.connection import H2Connection


class Rules(H2Connection):
    """Remembers how its last thousand streams ended, where h2 keeps 65,536: a connection that lives long
    grew by a stream's name with each call."""

    MAX_CLOSED_STREAMS = 1_000
