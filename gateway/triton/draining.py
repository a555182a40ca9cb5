"""A Triton that is about to end: it gets no new work, and what it has is waited for.

At SIGTERM Triton refuses every further message on open streams (its grpc_server.cc), so that utterances in progress
are lost; this is done before. Who uses it is seen in the lease table that Parley's processes share; the requests of
others, in Triton's own counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc.aio
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.channel import GRPCInferenceServiceStub
from gateway.triton.errors import TritonError, from_rpc
from gateway.triton.leases.client import TritonLeases
from gateway.triton.leases.wire import MODEL as LEASE_TABLE
from gateway.triton.model_info import SYSTEM_PREFIX
from gateway.triton.repository import Repository

_LOOK_S = 0.25
"""Neither the table nor Triton's counts tell of a change by themselves."""
_QUIET_S = 1.0
"""Counts that stand still for so long: nobody's sequence or stream is under way. Chunks come every 160 ms."""
_CALL_S = 2.0


@dataclass(frozen=True, slots=True)
class Left:
    """What kept a Triton from being drained."""

    leases: dict[str, int]
    """Sessions by model."""
    labels: tuple[str, ...]
    """Of the processes that hold them."""
    moving: bool
    """Requests were still being answered."""

    @property
    def nothing(self) -> bool:
        return not self.leases and not self.moving

    def __str__(self) -> str:
        parts = [f"{name}: {count} in use" for name, count in sorted(self.leases.items())]
        if self.labels:
            parts.append(f"by {', '.join(self.labels)}")
        if self.moving:
            parts.append("requests are being answered")
        return "; ".join(parts) or "nothing"


class Drain:
    """`async with Drain(…) as drain: await drain.wait(…)`. Left in place at the end: the Triton is to be stopped."""

    def __init__(self, channel: grpc.aio.Channel, *, key: str = "", label: str, mark_s: float) -> None:
        """channel: the caller's. key: of a restricted repository API. label: for people who look at leases.

        mark_s: how long nobody brings new work, if Triton lives that long.
        """
        self._stub = GRPCInferenceServiceStub(channel)
        self._repository = Repository(channel, key)
        self._leases = TritonLeases(channel, key=key, label=label)
        self._mark_s = mark_s
        self._shared = False
        self._counted = -1
        self._moved_s = float("-inf")

    async def __aenter__(self) -> Drain:
        """Raises: TritonError when Triton does not answer."""
        # A table is not brought in: where there is none, nobody of Parley holds anything.
        self._shared = await self._repository.is_ready(LEASE_TABLE)
        if self._shared:
            await self._leases.drain(self._mark_s)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None and self._shared:  # called off: it goes on
                await self._leases.drain(0.0)
        except TritonError:
            pass  # the mark runs out by itself
        finally:
            await self._leases.close()

    async def wait(self, timeout_s: float, on_look: Callable[[Left], None] = lambda left: None) -> Left:
        """Until nothing is left, or the time is over. on_look: told what is left whenever that changes.

        Raises: TritonError when Triton does not answer any more.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        self._moved_s = loop.time()
        told = None
        while True:
            left = await self._look()
            if left.nothing or loop.time() >= end:
                return left
            if left != told:
                told = left
                on_look(left)
            await asyncio.sleep(min(_LOOK_S, max(0.0, end - loop.time())))

    async def _look(self) -> Left:
        leases: dict[str, int] = {}
        labels: set[str] = set()
        if self._shared:
            for name, record in (await self._leases.records()).items():
                if record.sessions:
                    leases[name] = record.sessions
                    labels.update(record.labels)
        counted, now = await self._count(), asyncio.get_running_loop().time()
        if counted != self._counted:
            first = self._counted < 0
            self._counted = counted
            self._moved_s = self._moved_s if first else now
        return Left(leases, tuple(sorted(labels)), now - self._moved_s < _QUIET_S)

    async def _count(self) -> int:
        """Requests and responses so far, of all models but our own helpers."""
        try:
            reply = await self._stub.ModelStatistics(pb.ModelStatisticsRequest(), timeout=_CALL_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc("the counts of requests", error) from None
        total = 0
        for model in reply.model_stats:
            if not model.name.startswith(SYSTEM_PREFIX):
                stats = model.inference_stats
                total += model.execution_count + stats.success.count + stats.fail.count
                for one in model.response_stats.values():
                    total += one.success.count + one.fail.count + one.empty_response.count
        return total
