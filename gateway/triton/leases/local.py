"""Leases of one process alone: the same table, not shared with anybody."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from gateway.triton.errors import TritonError
from gateway.triton.leases.holder import Holder
from gateway.triton.leases.table import Table


class LocalWire:
    """To a table in this process. Its time is the event loop's, from the first word on."""

    def __init__(self, *, grace_s: float = 0.0) -> None:
        self._grace_s = grace_s
        self._table: Table | None = None

    async def ask(self, message: dict[str, Any], *, last: bool = False) -> dict[str, Any]:
        now = asyncio.get_running_loop().time()
        if self._table is None:
            self._table = Table(now, name=secrets.token_hex(8), grace_s=self._grace_s)
        try:
            return self._table.tell(message, now)
        except ValueError as error:
            raise TritonError(f"the lease table refuses: {error}") from None


class LocalLeases(Holder):
    """`Leases` without Triton: for a server that cannot keep the table, and for tests.

    wire: one table for several of them, as if each were a process.
    """

    def __init__(
        self,
        wire: LocalWire | None = None,
        *,
        label: str = "",
        lease_s: float = 15.0,
        on_draining: Callable[[float], None] = lambda left_s: None,
    ) -> None:
        super().__init__(wire or LocalWire(), label=label, lease_s=lease_s, on_draining=on_draining)
