"""No series is dead: a real Triton, a speech process, two gateway processes, and everything that can happen to them.

Each step waits until a metrics page shows it. At the end every metric of docs/reference/metrics.md has moved, and so
has every label value that an alert asks for by name.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.cli.client import CallFailed
from gateway.protocol import tts_pb2 as tts
from gateway.protocol.tts_pb2_grpc import TtsStub
from gateway.session import events as ev
from tests.observability.rules import alerts, selectors, table
from tests.stack.every_part import NOBODY, RATE, World, deaf, keeping, quiet, speech, to_int16, world
from tests.support.caller import Caller
from tests.support.processes import children
from tests.unit.listen.sound import hiss

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

STANDING = {
    "parley_build_info", "parley_certificate_expires_timestamp_seconds", "parley_sessions_capacity",
    "parley_speech_streams_capacity", "process_max_fds", "process_start_time_seconds",
}  # fmt: skip
"""Levels that stay what they are."""
OF_OVERLOAD = {"parley_vad_backlog_sustained_seconds"}
"""0 while the detector keeps up, which a handful of callers cannot change: tests/unit/session/test_admission.py does."""


async def spoken_turns(w: World) -> None:
    """One that is answered; one that interrupts; one whose answer was begun too early."""
    words = speech()
    async with w.call() as caller:
        async with asyncio.TaskGroup() as both:
            both.create_task(caller.speak(words))
            for level in ("speech_streams_active", "vad_backlog_seconds"):
                await w.until(f"parley_{level}")
        await caller.done(0)
        for stage in ("end_of_turn", "speech_end_to_final", "voice_to_voice", "final_to_first_audio"):
            await w.until(f"parley_{stage}_seconds")
        await w.until("parley_turns_total", outcome="completed")
        await w.until("parley_slow_turns_total")

        mark = await caller.typed("tone 500 for 9000")
        await caller.heard(mark, 400)
        await caller.speak(words)
        await w.until("parley_turns_total", outcome="interrupted")
        await w.until("parley_barge_ins_total", kind="true")
        await w.until("parley_barge_in_detect_to_flush_seconds")

    async with w.call(configure=ev.Configure(eager=True)) as caller:
        await caller.speak(words[: RATE * 2] + quiet(0.15) + words)
        await w.until("parley_replies_thrown_away_total")
        await w.until("parley_speech_thrown_away_seconds_total")


async def a_loud_sound(w: World) -> None:
    """It holds the reply back, and is nobody's voice."""
    async with w.call() as caller:
        mark = await caller.typed("tone 500 for 5000")
        await caller.heard(mark, 200)
        await caller.speak(quiet(1.0) + to_int16(hiss(RATE // 25, -20)) + quiet(0.5))
        await w.until("parley_holds_total")


async def clients_that_are_not_served(w: World) -> None:
    """One with a wrong key, one whose issuer is not there, one too many, and one that does not read."""
    key = ec.generate_private_key(ec.SECP256R1())
    token = jwt.encode({"iss": f"http://{NOBODY}", "aud": "parley"}, key, "ES256", {"kid": "k"})
    for credential, reason in (("pk_wrong", "unknown"), (token, "unavailable")):
        with pytest.raises(CallFailed) as refused:
            async with Caller(w.grpc, security=w.security, api_key=credential):
                pass
        assert refused.value.status is not None, reason
        await w.until("parley_auth_refused_total", reason=reason)

    async with AsyncExitStack() as open_:
        with suppress(CallFailed):
            for _ in range(9):  # two processes with room for four
                await open_.enter_async_context(w.call())
        await w.until("parley_refused_total", reason="full")

    async with deaf(w):
        await w.until("parley_dropped_total", reason="slow_client")
        await w.until("parley_sessions_total", reason="slow_client")


async def a_session_goes_on_elsewhere(w: World) -> None:
    """No Redis answers, so that the history is the client's to keep."""
    async with keeping(w, b"") as caller:
        await caller.ask("tone 500 for 300")
        await w.until("parley_history_store_failures_total")
        token = caller.client.token
        assert token
    async with keeping(w, token):
        await w.until("parley_resumes_total", outcome="resumed")


async def the_llm_fails(w: World) -> None:
    w.llm.mode = "500"
    async with w.call() as caller:
        for _ in range(3):
            await caller.ask("hello")
        await w.until("parley_part_errors_total", part="llm")
        await w.until("parley_breaker_state", part="llm")
        await w.until("parley_turns_total", outcome="failed")
    w.llm.mode = "ok"


async def models_come_and_go(w: World) -> None:
    """By the speech process: loaded, used, evicted, rolled, broken, killed."""
    async with grpc.aio.insecure_channel(w.riva) as channel:
        stub: Any = TtsStub(channel)  # type: ignore[no-untyped-call]

        async def load(name: str) -> None:
            async for _ in stub.LoadModel(tts.LoadModelRequest(model=name)):
                pass

        await load("tts_spare")
        await w.until("parley_model_loads_total", model="tts_spare", outcome="loaded")
        await w.until("parley_model_load_seconds", model="tts_spare")
        shutil.copytree(w.models / "tts_light" / "1", w.models / "tts_light" / "2")
        await load("tts_light")
        await w.until("parley_model_rolls_total", outcome="rolled")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await load("tts_broken")
        assert "not today" in (failed.value.details() or "")
        await w.until("parley_model_failures_total", model="tts_broken")

        await load("tts_other")  # there is room for one of them
        await w.until("parley_model_evictions_total", model="tts_spare", because="count")
        await stub.UnloadModel(tts.UnloadModelRequest(model="tts_other"))
        await w.until("parley_model_unloads_total", model="tts_other", because="operator")
    for pid in processes_with(f"{w.models}/tts_light/"):
        os.kill(pid, signal.SIGKILL)
    async with w.call() as caller:
        await caller.ask("tone 500 for 300")
        await w.until("parley_model_repairs_total")
    async with w.call() as caller:
        answer = await caller.ask("tone 500 for 300")
        assert answer.done.outcome == "completed", answer.errors


def processes_with(argument: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and argument.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


async def processes_stand_still_and_die(w: World) -> None:
    workers = children(w.parent)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(0.4)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    await w.until("parley_loop_stalls_total")
    async with w.call():
        await w.until("parley_worker_sessions_active")
        for pid in workers:  # whichever has the session
            os.kill(pid, signal.SIGKILL)
        await w.until("parley_sessions_total", reason="worker_died")
    now = w.pages.now
    await w.pages.until(
        "two new workers", lambda: now("parley_worker_restarts_total") == now("parley_workers") == 2
    )


async def nobody_takes_the_traces(w: World) -> None:
    w.collector.status = 400
    async with w.call() as caller:
        await caller.ask("tone 500 for 300")
    await w.until("parley_spans_total", outcome="failed")


async def the_gateway_is_drained(w: World) -> None:
    """With a client on it that does not take its goodbye, so that the drain is late."""
    async with deaf(w):
        before = w.pages.now("parley_dropped_total", reason="slow_client")
        await w.pages.until(
            "more drops", lambda: w.pages.now("parley_dropped_total", reason="slow_client") > before
        )
        os.kill(w.parent, signal.SIGTERM)
        for name in ("parley_draining", "parley_drain_overdue_seconds", "parley_admitting"):
            await w.until(name)


def tritons_log_names_our_turns(w: World) -> None:
    """As docs/guides/observability.md joins the two."""
    turns = set(
        re.findall(
            r"slow turn: .* turn=([0-9a-f]{32}) .* outcome=audible", (w.folder / "gateway.log").read_text()
        )
    )
    assert turns
    log = (w.folder / "triton" / "triton.log").read_text()
    assert {turn for turn in turns if f"request id: {turn}-" not in log} == set()


STEPS = (
    spoken_turns, a_loud_sound, clients_that_are_not_served, a_session_goes_on_elsewhere, the_llm_fails,
    models_come_and_go, nobody_takes_the_traces, processes_stand_still_and_die, the_gateway_is_drained,
)  # fmt: skip


async def test_every_series_moves(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for step in STEPS:
            await step(w)
        tritons_log_names_our_turns(w)
        rows = table()
        for name, labels in w.pages.series():
            for label, value in labels.items():  # nothing that a client makes up is one
                words = (rows.get(name) or rows[f"{name}_count"]).labels[label]
                assert not words or value in words, f"{name}: the table has no {label} {value!r}"
        told = {re.sub(r"_(bucket|sum|count)$", "", name) for name in table()}
        assert told >= STANDING
        dead = {name for name in told - STANDING - OF_OVERLOAD if not w.pages.moved(name)}
        assert not dead, f"nothing feeds {sorted(dead)}"
        assert not {name for name in STANDING if not w.pages.now(name)}
        assert w.pages.names() == told, "what is told, and what the table says"
        for name, rule in alerts().items():
            for metric, matchers in selectors(rule["expr"]):
                assert w.pages.moved(metric, partial(matches, matchers)), (
                    f"{name} asks for what never comes: {metric} {matchers}"
                )


def matches(matchers: list[tuple[str, str, str]], labels: dict[str, str]) -> bool:
    """As Prometheus does, for the operators that our alerts use."""
    return all((labels.get(label) == value) is (operator == "=") for label, operator, value in matchers)
