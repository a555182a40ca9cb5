"""The last moments of a connection: nothing is said any more, and what was said arrives.

A socket closed while bytes lie unread in it, or come later, answers them with a reset, and a reset takes from the
peer what it has not read yet. So ours is closed for writing alone, and read until the peer closes its end too.
"""

from __future__ import annotations

import asyncio

LINGER_S = 1.0
"""What the peer gets for that once all we wrote has left: a round trip, and time to notice."""
_MOST_UNHEARD_BYTES = 2 * 1024 * 1024
"""Twice what a peer that keeps the rules can have on its way."""


class Parting:
    """Belongs to the event loop's thread. The transport is its own from now on."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._unheard = 0
        self._timer: asyncio.TimerHandle | None = None
        if transport.is_closing():
            return
        if not transport.can_write_eof():  # TLS, which says goodbye itself
            transport.close()
            return
        try:
            transport.write_eof()
        except OSError:  # the peer has reset the connection
            transport.abort()
            return
        transport.set_write_buffer_limits(high=0)  # to be told when all has left
        if not transport.get_write_buffer_size():
            self.sent()

    def sent(self) -> None:
        """All that was written has left; how long that takes is for the server's sweeps to bound."""
        if self._timer is None and not self._transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.cut)

    def unheard(self, size: int) -> None:
        """Bytes that came and that nobody reads."""
        self._unheard += size
        if self._unheard > _MOST_UNHEARD_BYTES:
            self.cut()

    def cut(self) -> None:
        """At once."""
        self._transport.abort()

    def over(self) -> None:
        """The connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
