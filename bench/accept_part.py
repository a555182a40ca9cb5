"""New sessions a second: connect, shake hands, hang up, on one core of the gateway."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import grpc
import grpc.aio

from bench.report import Part, Table, number, verdict
from bench.slices import CORE_A, CORE_B, kept_to
from gateway.app import run_loop
from gateway.cli.common import Fault
from gateway.protocol import voice_pb2 as pb
from load.run import usage
from load.run.child import Failed
from load.run.stage import can_pin, gateway_up, parts_up

GOAL = 100.0
_START = pb.ClientMessage(start=pb.Start()).SerializeToString()
_HANG_UP = pb.ClientMessage(hang_up=pb.HangUp()).SerializeToString()
_AT_ONCE = 32
_CONVERSE = "/parley.v1.Voice/Converse"
_OWN = (("grpc.use_local_subchannel_pool", 1),)
_FREE = (
    "session.max_sessions=100000",
    "session.admit_busy=0",
    "session.admit_lag_ms=0",
    "session.admit_backlog_ms=0",
)


def main(*, quick: bool = False) -> Part:
    """Raises Fault."""
    sessions, rounds = (100, 1) if quick else (1_500, 3)
    part = Part(
        "accept",
        "New sessions a second",
        f"{sessions} sessions, {_AT_ONCE} at once, by grpc.aio from the other core: a connection of its own each, start, "
        f"ready, hang up, closed. {rounds} rounds; the middle one, and in brackets the least and the most. A core: as many "
        "as the CPU of the gateway allows that they took.",
    )
    try:
        found = run_loop(_measure(sessions, rounds))
    except Failed as error:
        raise Fault(str(error)) from None
    rows = []
    for title, values in found.items():
        costs = sorted(cost for cost, _ in values)
        rates = sorted(1_000 / cost for cost in costs)
        middle = statistics.median(rates)
        rows.append(
            [
                title,
                f"{number(statistics.median(costs), 2)} ({number(costs[0], 2)} … {number(costs[-1], 2)})",
                f"{number(middle)} ({number(rates[0])} … {number(rates[-1])})",
                verdict(f"≥ {GOAL:g}", middle >= GOAL),
                number(statistics.median(rate for _, rate in values)),
            ]
        )
    part.tables = [
        Table(("sessions", "CPU ms a session", "a second on a core", "", "a second in this run"), rows)
    ]
    part.data = {"rounds": found}
    return part


async def _measure(sessions: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(CPU ms of the gateway a session, sessions a second) of each round."""
    pinned = can_pin({CORE_A}, {CORE_B})
    cores_a, cores_b = ({CORE_A}, {CORE_B}) if pinned else (set[int](), set[int]())
    found: dict[str, list[tuple[float, float]]] = {"a connection each": [], "one connection for all": []}
    with tempfile.TemporaryDirectory(prefix="parley-accept-") as folder, kept_to(cores_b):
        out = Path(folder)
        async with (
            parts_up(out, "zero", (), None, 1, cores_b) as parts,
            gateway_up(out, parts, _FREE, 1, cores_a) as gateway,
        ):
            await come_and_go(gateway.grpc, 50, shared=False)
            for _ in range(rounds):
                for title, shared in (("a connection each", False), ("one connection for all", True)):
                    before, begun = cpu_s(gateway.child.pid), time.monotonic()
                    await come_and_go(gateway.grpc, sessions, shared=shared)
                    passed = time.monotonic() - begun
                    cost_ms = 1_000 * (cpu_s(gateway.child.pid) - before) / sessions
                    found[title].append((cost_ms, sessions / passed))
    return found


async def come_and_go(
    address: str, sessions: int, *, shared: bool, credentials: grpc.ChannelCredentials | None = None
) -> None:
    """credentials: None speaks in the clear. Raises Failed when one is not served."""

    def dial() -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=_OWN)
        return grpc.aio.secure_channel(address, credentials, options=_OWN)

    together = dial() if shared else None
    places = asyncio.Semaphore(_AT_ONCE)

    async def one() -> None:
        async with places:
            channel = together or dial()
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(_CONVERSE)()
            await call.write(_START)
            if await call.read() is grpc.aio.EOF:
                raise Failed(f"a session was refused: {await call.details()}")
            await call.write(_HANG_UP)
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
            if together is None:
                await channel.close()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(sessions):
                group.create_task(one())
    except* grpc.aio.AioRpcError as errors:
        raise Failed(f"a session failed: {errors.exceptions[0]}") from None
    finally:
        if together is not None:
            await together.close()


def cpu_s(pid: int) -> float:
    return usage.CpuMeter().look(usage.trees([pid]).get(pid, ()))
