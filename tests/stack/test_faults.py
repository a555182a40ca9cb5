"""A part of the speech stack dies: it is said, harms nobody else and works again; nothing stale is heard.

Every reply has a tone of its own (see tests/data/models/tts_tone), so what is stale is heard, not read
off a label. The bystander is another session of the same gateway, in the middle of a reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from gateway.session import events as ev
from gateway.triton.server import EmbeddedTriton
from tests.stack.whole import Bystander, Events, Table, tts_metric, user_speech, whole
from tests.support.caller import Answer, Caller
from tests.support.stack import MODELS, TEST_MODELS, is_alive, parent_of, shared_memory_of
from tests.support.tones import tone_of

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("runnable")]

BACK_S = 5.0
"""The same session works again this long after the part's return, at most."""
WORDS = "i want to hear a long story"
STORY = "there was once a ferry that crossed a wide grey river every day of the year"
GREETING = "good morning to you"


class Own:
    """A Triton of the test's own, whose parts can be killed."""

    def __init__(self, triton: EmbeddedTriton, events: Events) -> None:
        self.triton, self.events = triton, events
        self.pids: set[int] = set()
        self.memory: set[Path] = set()
        self.look()

    def look(self) -> None:
        """Take note of its processes and its shared memory."""
        if self.triton.pid:
            stubs = [pid for pids in self.triton.stub_pids().values() for pid in pids]
            self.memory |= shared_memory_of(self.triton.pid, *stubs)
            warden = parent_of(self.triton.pid)
            self.pids |= {warden, *descendants(warden)}

    def kill(self, model: str) -> float:
        """Returns when."""
        (pid,) = self.triton.stub_pids()[model]
        os.kill(pid, signal.SIGKILL)
        return now()


@asynccontextmanager
async def own_triton(tmp_path: Path, *models: str) -> AsyncIterator[Own]:
    """Fails when a task, a process or a shared-memory file is left of it."""
    before, events = asyncio.all_tasks(), Events()
    async with EmbeddedTriton(
        [MODELS, TEST_MODELS], models=models, log_dir=tmp_path, on_event=events, exit_s=1
    ) as triton:
        ready = sorted(set(models) - set(triton.failed))
        await events.until(f"models ready: {', '.join(ready)}")
        own = Own(triton, events)
        yield own
        own.look()
    assert not asyncio.all_tasks() - before
    assert not {pid for pid in own.pids if is_alive(pid)}
    assert not {path for path in own.memory if path.exists()}


def children(pid: int) -> set[int]:
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def descendants(pid: int) -> set[int]:
    return children(pid).union(*(descendants(child) for child in children(pid)))


def send(number: signal.Signals, pids: set[int]) -> None:
    for pid in pids:
        os.kill(pid, number)


def now() -> float:
    return asyncio.get_running_loop().time()


def begin_of(answer: Answer) -> float:
    assert answer.first_at is not None
    return answer.first_at


# --- a voice


async def test_a_killed_voice_process_mid_reply(tmp_path: Path, table: Table) -> None:
    async with (
        own_triton(tmp_path, "tts_tone", "tts_espeak") as own,
        whole(own.triton.grpc, tts={"chunk_ms": 1500}) as parley,
        parley.call() as caller,
        parley.call(voice="en-us") as other,
    ):
        bystander = Bystander(other, STORY)
        await bystander.begin()
        mark = await caller.typed("tone 700 for 60000")
        await caller.heard(mark, 200)
        killed = own.kill("tts_tone")
        await own.events.until_repaired("tts_tone")
        back = now()

        told = await caller.until(ev.Error, mark)
        assert told.code == "tts_failed"
        assert "tts_tone" in told.message
        assert (await caller.done(mark)).outcome == "failed"
        assert caller.tones(700, since=mark) == [700]
        answer = await caller.ask("tone 1100 for 300")
        assert answer.done.outcome == "completed", answer.errors
        assert answer.tones(700, 1100) == [1100]
        assert begin_of(answer) - back < BACK_S
        late = await bystander.finish() if not own.events.server_died else None
        table.add(
            "kill -9 tts_tone mid-reply (deadline 1.5 s)",
            told=caller.at(told) - killed,
            works=begin_of(answer) - caller.at(told),
            late=late,
        )


async def test_killed_voice_processes_that_are_asked_again_at_once(tmp_path: Path, table: Table) -> None:
    """The models that people use, and users who do not wait for a deadline."""
    async with (
        own_triton(tmp_path, "tts_tone", "tts_espeak", "tts_flite") as own,
        whole(own.triton.grpc, tts={"chunk_ms": 1500}) as parley,
        contextlib.AsyncExitStack() as calls,
    ):
        voices = {"tts_espeak": "en-us", "tts_flite": "slt"}
        callers = {
            model: await calls.enter_async_context(parley.call(voice=voice))
            for model, voice in voices.items()
            if model not in own.triton.failed
        }
        bystander = Bystander(await calls.enter_async_context(parley.call()), "tone 500 for 3500", hz=500)
        before = {model: (await caller.ask(GREETING)).pcm for model, caller in callers.items()}
        await bystander.begin()
        for model, caller in callers.items():
            await caller.heard(await caller.typed(STORY), 200)
            own.kill(model)
        for model, caller in callers.items():
            await own.events.until_repaired(model)
            back = now()
            answer = await caller.ask(GREETING)
            assert answer.done.outcome == "completed", answer.errors
            assert likeness(answer.pcm, before[model]) > 0.9, "something else than the greeting was heard"
            assert begin_of(answer) - back < BACK_S
            table.add(f"kill -9 {model} mid-reply, asked again at once", works=begin_of(answer) - back)
        if not own.events.server_died:
            table.add("  the session beside both", late=await bystander.finish())


def likeness(one: bytes, other: bytes) -> float:
    """Correlation of two sounds at their best alignment, 0…1; 0 when one is much longer."""
    a, b = (np.frombuffer(pcm, "<i2").astype(np.float64) for pcm in (one, other))
    if abs(a.size - b.size) > 0.1 * max(a.size, b.size):
        return 0.0
    size = a.size + b.size
    products = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    return float(np.abs(products).max() / np.sqrt((a @ a) * (b @ b)))


# --- a recogniser


async def test_a_recogniser_process_killed_mid_utterance(tmp_path: Path, table: Table) -> None:
    async with (
        own_triton(tmp_path, "asr_pocketsphinx", "tts_espeak", "tts_flite", "tts_tone") as own,
        whole(own.triton.grpc) as parley,
        parley.call() as caller,
        parley.call() as other,
    ):
        speech = await user_speech(parley.triton, WORDS)
        bystander = Bystander(other, "tone 500 for 4000", hz=500)
        await bystander.begin()
        said, speaking = say(caller, speech)
        await caller.until(ev.Transcript, where=lambda heard: bool(heard.text))
        (stub,) = own.triton.stub_pids()["asr_pocketsphinx"]
        (forker,) = children(stub)
        workers = children(forker)
        # A chunk is in its hands when it dies: then Triton says nothing at all.
        send(signal.SIGSTOP, workers)
        await other.until(ev.ReplyAudio, other.mark() + 10)
        send(signal.SIGKILL, {stub})
        killed = now()
        send(signal.SIGCONT, workers)
        await own.events.until_repaired("asr_pocketsphinx")
        back = now()

        final = await understood(caller, within_s=BACK_S + 5)
        works = caller.at(final) - max(back, said)
        assert works < BACK_S
        await speaking
        told = await caller.until(ev.Warning)
        assert told.code == "asr_retry"
        await answers_with_what_it_heard(caller)
        late = await bystander.finish() if not own.events.server_died else None
        table.add(
            "kill -9 asr_pocketsphinx mid-utterance", told=caller.at(told) - killed, works=works, late=late
        )


async def test_recogniser_workers_killed_mid_utterance_cost_nothing(tmp_path: Path, table: Table) -> None:
    """The engine's own processes, and the one that makes them: the front replays, the user notices nothing."""
    async with (
        own_triton(tmp_path, "asr_pocketsphinx", "tts_espeak", "tts_flite", "tts_tone") as own,
        whole(own.triton.grpc) as parley,
        parley.call() as other,
    ):
        speech = await user_speech(parley.triton, WORDS)
        bystander = Bystander(other, "tone 500 for 6000", hz=500)
        await bystander.begin()
        (stub,) = own.triton.stub_pids()["asr_pocketsphinx"]
        for which in ("workers", "parent of the workers"):
            async with parley.call() as caller:
                said, speaking = say(caller, speech)
                await caller.until(ev.Transcript, where=lambda heard: bool(heard.text))
                (parent,) = children(stub)
                send(signal.SIGKILL, children(parent) if which == "workers" else {parent})
                final = await understood(caller, within_s=BACK_S)
                works = caller.at(final) - said
                assert works < 1.5
                await speaking
                assert not caller.since(ev.Warning)
                assert not caller.since(ev.Error)
                await answers_with_what_it_heard(caller)
                table.add(f"kill -9 the {which} of asr_pocketsphinx", works=works)
        if not own.events.server_died:
            table.add("  the session beside both", late=await bystander.finish())


def say(caller: Caller, speech: bytes) -> tuple[float, asyncio.Task[None]]:
    """When the last word will have been said, and the task that says it; silence follows."""
    return now() + len(speech) / 32_000, asyncio.create_task(caller.speak(speech + bytes(32_000)))


async def answers_with_what_it_heard(caller: Caller) -> None:
    reply = await caller.until(ev.ReplyText)
    tone = tone_of(reply.text.strip())
    await caller.heard(0, 100)
    assert caller.tones(tone) == [tone]
    answer = await caller.ask("tone 1100 for 100")
    assert answer.tones(tone, 1100) == [1100]


async def understood(caller: Caller, within_s: float) -> ev.Transcript:
    """The final transcript, with at least half of WORDS in it."""
    final = await caller.until(ev.Transcript, where=lambda heard: heard.final, within_s=within_s)
    wanted = set(WORDS.split())
    assert len(wanted & set(final.text.split())) >= 0.5 * len(wanted), final.text
    return final


# --- the server


async def test_a_killed_server_mid_reply_and_mid_utterance(tmp_path: Path, table: Table) -> None:
    models = ("asr_pocketsphinx", "tts_espeak", "tts_flite", "tts_tone")
    async with (
        own_triton(tmp_path, *models) as own,
        whole(own.triton.grpc) as parley,
        parley.call() as listener,
        parley.call() as talker,
        parley.call() as other,
    ):
        speech = await user_speech(parley.triton, WORDS)
        bystander = Bystander(other, "tone 500 for 5000 at once", hz=500)
        await bystander.begin()
        mark = await listener.typed("tone 700 for 60000")
        said, speaking = say(talker, speech)
        await talker.until(ev.Transcript, where=lambda heard: bool(heard.text))
        await listener.heard(mark, 200)
        ready = f"models ready: {', '.join(sorted(own.triton.ready))}"
        os.kill(own.triton.pid, signal.SIGKILL)
        killed = now()

        told = await listener.until(ev.Error, mark)
        assert told.code == "tts_failed"
        assert (await listener.done(mark)).outcome == "failed"
        assert listener.tones(700, since=mark) == [700]
        down = await listener.ask("tone 900 for 300")
        assert down.done.outcome in ("failed", "completed")  # completed where Triton is back that soon
        await own.events.until(ready, count=2)
        back = now()
        answer = await listener.ask("tone 1100 for 300")
        assert answer.done.outcome == "completed", answer.errors
        assert answer.tones(700, 900, 1100) == [1100]
        assert begin_of(answer) - back < BACK_S

        final = await understood(talker, within_s=BACK_S + 5)
        await speaking
        works = talker.at(final) - max(back, said)
        assert works < BACK_S
        retries = talker.since(ev.Warning)
        assert {warning.code for warning in retries} == {"asr_retry"}
        late = await bystander.finish()
        table.add(
            "kill -9 tritonserver mid-reply",
            told=listener.at(told) - killed,
            works=begin_of(answer) - back,
            late=late,
        )
        table.add(
            "kill -9 tritonserver mid-utterance", told=talker.at(retries[0]) - killed, works=works, late=late
        )
        table.add("  (the server with its models was back)", works=back - killed)


# --- a cancel


async def test_a_cancel_stops_the_models_work(tmp_path: Path) -> None:
    async with (
        own_triton(tmp_path, "tts_tone", "tts_espeak") as own,
        whole(own.triton.grpc) as parley,
        parley.call() as caller,
        parley.call(voice="en-us") as spoken,
    ):
        mark = await caller.typed("tone 700 for 60000")
        await caller.heard(mark, 400)
        await caller.client.send(ev.Cancel())
        done = await caller.done(mark)
        assert done.outcome == "cancelled"
        made = await parley.made() - 1
        # 40 ms each, 32 ms apart: what was made while it was heard, and for 200 ms after the cancel.
        assert made * 32 <= (caller.at(done) - caller.arrivals[mark].at) * 1000 + 200
        await asyncio.sleep(0.3)  # nothing is waited for: this is the time in which nothing may be made
        assert await parley.made() == made + 2, "chunks were made long after the cancel"

        mark = await spoken.typed(STORY)
        await spoken.heard(mark, 200)
        await spoken.client.send(ev.Cancel())
        assert (await spoken.done(mark)).outcome == "cancelled"
        cancelled = 'parley_tts_cancelled_total{how="in-band",model="tts_espeak"}'
        await tts_metric(own.triton.metrics, cancelled, 1)
        late = 'parley_tts_chunks_after_cancel_total{model="tts_espeak"}'
        assert await tts_metric(own.triton.metrics, late) <= 2
