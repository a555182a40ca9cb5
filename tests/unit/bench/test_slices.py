"""The slices: their arithmetic, and that each slice's gateway comes up, hears and speaks."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench import slices_part
from bench.slice_gateway import OUTPUT_RATE, SLICES, SliceGateway
from bench.slice_parts import audio
from bench.slice_points import TITLES, Point, added, heard, ratio
from bench.slice_upstream import Answers
from bench.slices import Plan, measure
from bench.threads import ThreadMeter
from gateway.audio.pcm import frame_bytes, rms_dbfs, to_float
from gateway.cli.client import VoiceClient
from gateway.listen.asr import RATE
from gateway.session import events as ev
from gateway.settings import Settings
from gateway.speak.shaping import Shaper
from load.emulators.app import Emulators
from load.emulators.profile import read_profile

BARE = ("transport", "vad", "unary")


def point(name: str = "unary", cost: float = 0.375, **changed: object) -> Point:
    """64 sessions for 20 s."""
    cpu_s = cost * 64 * 20 / 60
    values: dict[str, object] = {
        "sessions": 64, "seconds": 20.0, "loop_s": 0.6 * cpu_s, "detector_s": 0.3 * cpu_s,
        "others_s": 0.1 * cpu_s, "frames": 25_600, "jitter_p99_ms": 2.0, "send_late_ms": 1.0, "core_b": 0.4,
    }  # fmt: skip
    return Point(name, **(values | changed))  # type: ignore[arg-type]


def test_what_a_session_costs() -> None:
    found = point()
    assert found.cost == pytest.approx(0.375)
    assert found.core == pytest.approx(0.40)  # the prototype's 40 % of a core are the same figure
    assert found.reply_share == pytest.approx(0.40)
    assert ratio([point("prototype", 0.75), found], 64) == pytest.approx(0.5)
    assert math.isnan(ratio([found], 64))
    assert math.isnan(ratio([point("prototype"), found], 1))


def test_what_a_slice_adds() -> None:
    costs = dict(zip(SLICES, (0.40, 0.17, 0.27, 0.36, 0.31, 0.33, 0.38, 0.41, 0.45), strict=True))
    more = added([point(name, cost) for name, cost in costs.items()])
    # The real session makes no unary calls: it follows the detector's slice.
    assert more == pytest.approx([0.40, 0.17, 0.10, 0.09, 0.04, 0.02, 0.05, 0.03, 0.04])
    assert math.isnan(added([point("llm")])[0])


def test_frames_are_counted_with_the_replies_that_ended() -> None:
    def reply(begin: int, frames: int) -> list[tuple[float, float]]:
        return [(begin + 0.020 * n, float(n)) for n in range(frames)]

    late, frames = heard([reply(9, 100), reply(12, 50), reply(19, 100)], 10.0, 20.0)
    assert frames == 150
    assert len(late) == 50 + 50 + 51


def test_which_figures_are_not_to_be_believed() -> None:
    assert not point().void()
    assert not point(others_a=math.nan).disturbed()
    assert point(send_late_ms=6.0, core_b=0.9, left_out=0.02).void() == [
        "the callers sent up to 6.0 ms late",
        "callers and emulated parts used 90% of their core",
        "the detector was so far behind that it left out 2.0% of its windows",
    ]
    assert point(others_a=0.3, others_b=0.05).disturbed() == "other programs used 30% of the gateway's core"


@pytest.mark.parametrize(("cost", "verdict"), [(0.41, "met"), (0.42, "MISSED")])
def test_a_tenth_over_the_prototype_is_the_limit(cost: float, verdict: str) -> None:
    part = slices_part.report([point("prototype"), point(cost=cost, others_a=0.5)], Plan())
    assert verdict in part.findings[0]
    assert part.findings[1].startswith("disturbed: unary, 64 sessions")
    (table,) = part.tables
    assert [row[1] for row in table.rows] == ["0.375", f"{cost:.3f}"]
    assert all(len(line) == len(table.columns) for line in table.rows)


def test_too_little_work_is_no_success() -> None:
    idle = point(cost=0.1, frames=5_000)
    assert idle.void() == ["replies took 8% of the time, 40% are meant"]
    assert "≤ 1.10: void" in slices_part.report([point("prototype"), idle], Plan()).findings[0]
    assert not point(sessions=1, frames=0).void()  # one caller's turns are as they fall


def test_every_slice_has_a_title() -> None:
    assert tuple(TITLES) == SLICES


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_threads_are_told_apart() -> None:
    work = (
        "import os, threading, time\n"
        "def spin(s):\n"
        "    end = time.thread_time() + s\n"
        "    while time.thread_time() < end: pass\n"
        "def nice():\n"
        "    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + 3)\n"
        "    ready.set(); go.wait(); spin(0.2); done.set(); go.clear(); go.wait()\n"
        "ready, go, done = threading.Event(), threading.Event(), threading.Event()\n"
        "threading.Thread(target=nice, daemon=True).start(); ready.wait(); print('x', flush=True); input()\n"
        "go.set(); done.wait(); spin(0.1); print('y', flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "x\n"
        meter = ThreadMeter(process.pid)
        meter.begin()
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "y\n"
        loop_s, detector_s, others_s = meter.look()
        process.stdin.close()
    assert 0.1 <= loop_s < 0.2
    assert 0.2 <= detector_s < 0.3
    assert others_s == 0


def test_canned_audio_is_loud_and_long_enough() -> None:
    pcm = audio(OUTPUT_RATE, "spurt", 1.0)
    assert len(pcm) == 50 * frame_bytes(OUTPUT_RATE)
    assert -24 < rms_dbfs(to_float(pcm)) < -16


@pytest.fixture
async def parts(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Emulators, Settings]]:
    monkeypatch.setattr("gateway.speak.reel.Shaper", Shaper)  # some slices leave it out; put back afterwards
    emulators = Emulators(read_profile("zero"))
    addresses = await emulators.open()
    try:
        yield emulators, Settings.model_validate({
            "asr": {"uri": addresses.asr}, "llm": {"base_url": addresses.llm}, "tts": {"uri": addresses.triton},
            "listen": {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "admin": "127.0.0.1:0"}, "session": {"drain_s": 0},
        })  # fmt: skip
    finally:
        await emulators.close()


@pytest.mark.parametrize("name", SLICES[1:])
async def test_each_slice_comes_up_and_carries_a_caller(name: str, parts: tuple[Emulators, Settings]) -> None:
    emulators, settings = parts
    answers = Answers()
    await answers.start()
    gateway = SliceGateway(name, settings, answers.address)
    await gateway.start()
    try:
        async with asyncio.timeout(20):
            client = VoiceClient(gateway.endpoints()["grpc"], ev.Hello(output_rate=OUTPUT_RATE))
            await client.connect()
            speaking = asyncio.create_task(_speak(client, commit=name not in BARE))
            frames = await _frames(client, 10)
            await speaking
            if name == "unary":
                await answers.heard.wait()
            await client.close()
    finally:
        await gateway.stop()
        await answers.stop()
    assert all(len(frame.pcm) == frame_bytes(OUTPUT_RATE) for frame in frames)
    assert not gateway.failed.is_set()
    assert gateway.left_out() == 0
    counted = emulators.stats
    assert (counted.asr.streams > 0) == gateway.has("riva")
    assert (counted.llm.requests > 0) == gateway.has("llm")
    assert (counted.tts.requests > 0) == gateway.has("whole")


async def _speak(client: VoiceClient, *, commit: bool) -> None:
    """A second of what the detector takes for speech."""
    pcm = audio(RATE, "hello", 0.7)
    for at in range(0, len(pcm), 640):
        await client.send_audio(pcm[at : at + 640])
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.1)
    if commit:
        await client.send(ev.Commit())


async def _frames(client: VoiceClient, count: int) -> list[ev.ReplyAudio]:
    found: list[ev.ReplyAudio] = []
    async for arrival in client:
        if isinstance(arrival.event, ev.ReplyAudio):
            found.append(arrival.event)
            if len(found) == count:
                break
    return found


async def test_a_unary_call_that_fails_ends_the_slice(parts: tuple[Emulators, Settings]) -> None:
    gateway = SliceGateway("unary", parts[1], "127.0.0.1:1")
    await gateway.start()
    try:
        client = VoiceClient(gateway.endpoints()["grpc"], ev.Hello(output_rate=OUTPUT_RATE))
        await client.connect()
        await client.send_audio(bytes(2 * RATE // 5))
        async with asyncio.timeout(10):
            await gateway.failed.wait()
        await client.close()
    finally:
        await gateway.stop()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux's /proc")
async def test_a_slice_is_measured_under_callers() -> None:
    cores = os.sched_getaffinity(0)
    plan = Plan(sessions=3, come_s=0.1, bare_s=2.6, settle_bare_s=0.2, alone=("unary",), alone_s=0.4)
    alone, all_of_them = await measure(plan, ["unary"])
    assert os.sched_getaffinity(0) == cores
    assert (alone.name, alone.sessions, all_of_them.sessions) == ("unary", 1, 3)
    assert alone.cpu_s > 0
    used = (all_of_them.loop_s, all_of_them.detector_s, all_of_them.others_s)
    assert min(used[:2]) > 0, used
    assert used[2] >= 0, "other threads may have had nothing to do"
    assert all_of_them.core_b > 0
    assert all_of_them.frames > 0
    assert all_of_them.jitter_p99_ms >= 0


async def test_the_prototype_serves_callers() -> None:
    answers = Answers()
    await answers.start()
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.slice_prototype", "--upstream", answers.address,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert program.stdout is not None
    try:
        async with asyncio.timeout(30):
            address = json.loads(await program.stdout.readline())["grpc"]
            client = VoiceClient(address, ev.Hello(output_rate=OUTPUT_RATE))
            await client.connect()
            speaking = asyncio.create_task(_speak(client, commit=False))
            await _frames(client, 10)
            await speaking
            await answers.heard.wait()
            await client.close()
    finally:
        program.terminate()
        await program.wait()
        await answers.stop()
