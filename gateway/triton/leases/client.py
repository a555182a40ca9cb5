"""Leases of the models of one Triton, seen by every process that uses it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import grpc.aio

from gateway.triton.leases.holder import Holder
from gateway.triton.leases.local import LocalLeases
from gateway.triton.leases.types import Change, Leases, Record
from gateway.triton.leases.wire import LeasesUnsupported, NoControl, TritonWire

__all__ = ["Change", "Leases", "LeasesUnsupported", "Record", "TritonLeases", "open_leases"]

_LOG = logging.getLogger(__name__)


class TritonLeases(Holder):
    """`Leases` in the Triton behind a channel, which stays its owner's.

    key: of a restricted repository API; without it a table that is there can be used, but not brought in.
    label: what others call this process in refusals and lists.
    lease_s: after so long without a word the table takes this process for dead.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        key: str = "",
        label: str = "",
        lease_s: float = 15.0,
        on_draining: Callable[[float], None] = lambda left_s: None,
    ) -> None:
        """on_draining: see `Holder`."""
        wire = TritonWire(channel, key=key, grace_s=lease_s)
        super().__init__(wire, label=label, lease_s=lease_s, on_draining=on_draining)


async def open_leases(
    channel: grpc.aio.Channel,
    *,
    key: str = "",
    label: str = "",
    lease_s: float = 15.0,
    to_change: bool = False,
    on_draining: Callable[[float], None] = lambda left_s: None,
) -> Leases:
    """Started leases: shared where this Triton can keep the table, else of this process alone.

    on_draining: see `Holder`. to_change: a Triton whose models cannot be changed is an error, too.
    Raises: TritonError when the table is neither there nor can be brought in just now.
    """
    shared = TritonLeases(channel, key=key, label=label, lease_s=lease_s, on_draining=on_draining)
    try:
        await shared.start()
    except LeasesUnsupported as error:
        await shared.close()
        if to_change and isinstance(error, NoControl):
            raise
        _LOG.warning("leases are not shared with other processes: %s", error)
        return LocalLeases(label=label, lease_s=lease_s)
    except BaseException:
        await shared.close()
        raise
    return shared
