"""What TLS costs the gateway: a connection's handshake, and a minute of conversation."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import grpc.aio
import trustme

from bench.accept_part import come_and_go, cpu_s
from bench.report import Part, Table, number
from bench.slices import CORE_A, CORE_B, kept_to
from gateway.app import run_loop
from gateway.cli.common import Fault
from load.caller_build import BuildError, ensure_caller
from load.clips import ensure_clips
from load.run.child import Failed
from load.run.fleet import Fleet
from load.run.stage import GatewayUp, Parts, can_pin, gateway_up, parts_up

_FREE = (
    "session.max_sessions=100000",
    "session.admit_busy=0",
    "session.admit_lag_ms=0",
    "session.admit_backlog_ms=0",
)
_SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Cost:
    connection_ms: float
    """CPU of one session that comes and goes, on a connection of its own."""
    minute_ms: float
    """CPU of one minute of one conversation."""


def main(*, quick: bool = False) -> Part:
    """Raises Fault."""
    connections, callers, seconds = (100, 5, 5.0) if quick else (600, 20, 40.0)
    part = Part(
        "tls",
        "TLS",
        f"CPU of the gateway's process, over its own HTTP/2 in the clear and with TLS 1.3 (ECDSA P-256, AES-GCM). "
        f"{connections} sessions on a connection each: start, ready, hang up. {callers} callers of the load test in "
        f"conversation for {seconds:g} s, 16 kHz up and 24 kHz down as PCM.",
    )
    try:
        plain, secure = run_loop(_measure(connections, callers, seconds))
    except (Failed, BuildError) as error:
        raise Fault(str(error)) from None
    rows = [
        [what, number(before, digits), number(after, digits), f"{after / before:.2f}"]
        for what, before, after, digits in (
            ("a connection with a session, CPU ms", plain.connection_ms, secure.connection_ms, 2),
            ("a minute of conversation, CPU ms", plain.minute_ms, secure.minute_ms, 0),
        )
    ]
    part.tables = [Table(("", "in the clear", "TLS", "ratio"), rows)]
    part.data = {"in the clear": asdict(plain), "tls": asdict(secure)}
    return part


async def _measure(connections: int, callers: int, seconds: float) -> tuple[Cost, Cost]:
    program, clips = await asyncio.to_thread(ensure_caller), await asyncio.to_thread(ensure_clips)
    cores_a, cores_b = ({CORE_A}, {CORE_B}) if can_pin({CORE_A}, {CORE_B}) else (set[int](), set[int]())
    with tempfile.TemporaryDirectory(prefix="parley-tls-") as folder, kept_to(cores_b):
        out = Path(folder)
        ca = trustme.CA()
        leaf = ca.issue_cert("127.0.0.1", "localhost")
        (out / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        (out / "tls.key").write_bytes(leaf.private_key_pem.bytes())
        ca.cert_pem.write_to_path(str(out / "ca.crt"))
        found = []
        async with parts_up(out, "blueprint-1", (), clips, 1, cores_b) as parts:
            for secured in (False, True):
                async with _gateway(out, parts, secured, cores_a) as gateway:
                    credentials = (
                        grpc.ssl_channel_credentials((out / "ca.crt").read_bytes()) if secured else None
                    )
                    await come_and_go(gateway.grpc, 50, shared=False, credentials=credentials)
                    before = cpu_s(gateway.child.pid)
                    await come_and_go(gateway.grpc, connections, shared=False, credentials=credentials)
                    connection_ms = 1_000 * (cpu_s(gateway.child.pid) - before) / connections
                    plan = {
                        "host": gateway.grpc, "clips": str(clips), "turns": 1_000, "think_ms": [200, 500],
                        "reply_timeout_ms": 15_000, "tls": secured, "ca": str(out / "ca.crt") if secured else "",
                    }  # fmt: skip
                    used_s = await _converse(program, out, plan, callers, seconds, gateway, cores_b)
                    found.append(Cost(connection_ms, 1_000 * used_s / (callers * seconds / 60)))
    return found[0], found[1]


@asynccontextmanager
async def _gateway(out: Path, parts: Parts, secured: bool, cores: set[int]) -> AsyncIterator[GatewayUp]:
    files = (f"tls.cert={out / 'tls.crt'}", f"tls.key={out / 'tls.key'}") if secured else ()
    async with gateway_up(out, parts, (*_FREE, *files), 1, cores) as gateway:
        yield gateway


async def _converse(
    program: Path,
    out: Path,
    plan: dict[str, object],
    callers: int,
    seconds: float,
    gateway: GatewayUp,
    cores: set[int],
) -> float:
    """CPU s of the gateway while all of them talk. Raises Failed when one of them breaks off."""
    turns = 0

    def heard(sample: dict[str, object]) -> None:
        nonlocal turns
        turns += sample["name"] == "voice_to_voice" and bool(sample["ok"])

    async with Fleet(program, out / "callers.log", cores, heard) as fleet:
        numbers = [fleet.number() for _ in range(callers)]
        calls = [asyncio.create_task(fleet.call({**plan, "seed": one}, seconds + 60, one)) for one in numbers]
        await asyncio.sleep(_SETTLE_S)
        before = cpu_s(gateway.child.pid)
        await asyncio.sleep(seconds)
        used_s = cpu_s(gateway.child.pid) - before
        if broken := [call for call in calls if call.done()]:
            raise Failed(f"{len(broken)} of {callers} calls broke off: {broken[0].result()[1]}")
        for one in numbers:
            fleet.hang_up(one)
        await asyncio.gather(*calls)
    if not turns:
        raise Failed("nobody was answered")
    return used_s
