"""The demo behind `scripts/demo`: a spoken conversation of several turns with the stack on this machine.

The user is a second synthetic voice. One turn interrupts the assistant in the middle of a long story.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.audio.pcm import Int16, to_int16
from gateway.audio.resample import resample
from gateway.cli import endpoints
from gateway.cli.cast import Line, user_speech
from gateway.cli.client import Arrival, CallFailed, VoiceClient
from gateway.cli.common import (
    FAILED,
    INTERRUPTED,
    OK,
    Fault,
    api_key,
    complain,
    load_settings,
    stop_event,
    unless,
)
from gateway.cli.conversation import Conversation, ReplyRecord
from gateway.cli.microphone import SteadyMicrophone
from gateway.cli.stack import Stack
from gateway.cli.view import STAGES, HumanView, beginning, ending, stages
from gateway.cli.wav import write_wav
from gateway.session import events as ev
from gateway.speak.tts import TtsError

_IN_RATE, _OUT_RATE = 16_000, 24_000
_STORY_S = 4.0
"""How much of the story is heard before it is interrupted."""
_PAUSE_S = 0.7
_COLUMNS = (
    "end of\nturn", "final\ntext", "LLM\ntoken", "sen-\ntence", "TTS\nchunk", "first\nframe", "voice to\nvoice",
    "at the\nclient",
)  # fmt: skip
"""Headings: the stages of `view.stages`, and from the user's last sound to the reply's first, at the client."""
RECORDING = Path("conversation.wav")


@dataclass(slots=True)
class Turn:
    """One line and what came of it. Times are the loop's, s."""

    line: Line
    onset: float = 0.0
    """The user's first sample left."""
    end: float = 0.0
    """The user's last sample left."""
    reply: ReplyRecord | None = None
    cut: ReplyRecord | None = None
    """The reply that this line interrupted."""
    stale_at: float | None = None
    """When the last frame of the interrupted reply arrived."""


@dataclass(slots=True)
class Demo:
    client: VoiceClient
    talk: Conversation
    microphone: SteadyMicrophone
    view: HumanView
    turns: list[Turn] = field(default_factory=list)

    async def hold(self, lines: Sequence[tuple[Line, bytes]]) -> None:
        """Say every line, each when the last reply was heard or, if it interrupts, in the middle of it."""
        for number, (line, speech) in enumerate(lines):
            follows = lines[number + 1][0] if number + 1 < len(lines) else None
            await self._turn(line, speech, interrupted_next=follows is not None and follows.interrupts)

    async def _turn(self, line: Line, speech: bytes, *, interrupted_next: bool) -> None:
        turn = Turn(line)
        self.turns.append(turn)
        if line.interrupts and self.talk.replies:
            turn.cut = self.talk.replies[-1]
        known = len(self.talk.replies)
        self.view.note(f"{'':11}the user says: {line.words}")
        turn.onset, turn.end = await self.microphone.say(speech)
        if interrupted_next:
            await self._heard_enough(known)
        else:
            await self.talk.settled(quiet_s=_PAUSE_S, at_least_s=3.0)
        turn.reply = next((r for r in self.talk.replies[known:] if r.first_audio_at is not None), None)
        if turn.cut is not None:
            turn.stale_at = turn.cut.last_audio_at

    async def _heard_enough(self, known: int) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            while not any(r.first_audio_at for r in self.talk.replies[known:]):
                await self.talk.changed()
        await asyncio.sleep(max(0.0, (self.talk.replies[-1].first_audio_at or 0.0) + _STORY_S - loop.time()))

    def recording(self) -> Int16:
        """Stereo at 24 kHz, as heard: user left, assistant right."""
        assert self.microphone.sent is not None
        user = resample(to_int16(bytes(self.microphone.sent)), _IN_RATE, _OUT_RATE)
        assistant = self.client.player.mix(self.microphone.began, len(user) / _OUT_RATE)
        length = min(len(user), len(assistant))
        return np.stack([user[:length], assistant[:length]], axis=1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Start the stack, hold a spoken conversation with it, stay up."
    )
    parser.add_argument("--once", action="store_true", help="end after the conversation")
    parser.add_argument(
        "--models", metavar="PAIR", default="",
        help="a pair of real models in place of the built-in ones, pulled on first use: small; "
        "`parley models catalogue` lists what there is",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        return asyncio.run(_run(once=options.once, pair=options.models))
    except (Fault, CallFailed, TtsError) as error:
        complain(str(error))
        return FAILED
    except asyncio.CancelledError:
        return INTERRUPTED  # a second Ctrl-C


async def _run(*, once: bool, pair: str = "") -> int:
    console = Console(highlight=False, soft_wrap=True)

    def say(sentence: str) -> None:
        console.print(f"[dim]{time.strftime('%H:%M:%S')}[/]  {escape(sentence)}")

    stopping = stop_event()
    chosen = None
    if pair:
        from gateway.cli.demo_models import choose  # imported when it is used

        choosing = asyncio.create_task(choose(pair, say))
        if not await unless(stopping, choosing):
            return INTERRUPTED
        chosen = choosing.result()
        os.environ.update(chosen.environment)  # the stack's processes read it too
    stack = Stack(load_settings(), say)
    path = endpoints.default_path()
    began = time.monotonic()
    say("starting Triton, the Riva front, the stand-in LLM and the gateway")
    try:
        if not await unless(stopping, asyncio.create_task(stack.start())):
            return INTERRUPTED
        found = stack.endpoints
        endpoints.write(path, found)
        say(
            f"ready after {time.monotonic() - began:.1f} s: {', '.join(f'{k} {v}' for k, v in found.items())}"
        )
        watching = asyncio.create_task(stack.watch())
        try:
            talking = asyncio.create_task(_converse(found, console, chosen.tts if chosen else ""))
            if not await unless(stopping, talking):
                return INTERRUPTED
            if once or not talking.result():
                return OK if talking.result() else FAILED
            say(f"the stack stays up; logs are in {stack.log_dir}. In another terminal:")
            console.print("            .venv/bin/parley talk --mic      [dim](Ctrl-C here ends it)[/]")
            await unless(stopping, watching)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        endpoints.remove(path, stack.endpoints)
        await stack.stop()
    return OK


async def _converse(found: dict[str, str], console: Console, assistant: str) -> bool:
    """The conversation, its table and its recording; True when every turn got its reply."""
    cast, speech = await user_speech(found["triton_grpc"], assistant)
    console.print(f"            {cast.remark}\n")
    hello = ev.Hello(input_rate=_IN_RATE, output_rate=_OUT_RATE, configure=ev.Configure(voice=cast.assistant))
    async with VoiceClient(found["grpc"], hello, api_key=api_key(None)) as client:
        microphone = SteadyMicrophone(client, record=True)
        microphone.start()
        view = HumanView(microphone.began, user="heard", assistant="parley")
        demo = Demo(client, Conversation(client.player), microphone, view)
        listening = asyncio.create_task(_listen(client, demo))
        try:
            await demo.hold(list(zip(cast.lines, speech, strict=True)))
        finally:
            await microphone.stop()
            view.close()
        await client.hang_up("the demo is over")
        async with asyncio.timeout(5):
            await listening
    recording = await asyncio.to_thread(demo.recording)
    where = await asyncio.to_thread(RECORDING.absolute)
    await asyncio.to_thread(write_wav, where, recording, _OUT_RATE)
    _report(demo, console)
    seconds = len(recording) / _OUT_RATE
    console.print(f"\nwrote {where}: {seconds:.0f} s, user left, assistant right")
    silent = [turn.line.words for turn in demo.turns if turn.reply is None]
    for words in silent:
        complain(f"no reply came to: {words}")
    return not silent


async def _listen(client: VoiceClient, demo: Demo) -> None:
    assert client.ready is not None
    demo.view.show(Arrival(demo.microphone.began, client.ready))
    try:
        async for arrival in client:
            demo.talk.on(arrival)
            demo.view.show(arrival)
    finally:
        demo.talk.over()


def _report(demo: Demo, console: Console) -> None:
    """Every turn: what was understood, and how long each stage took."""
    table = Table(
        title="\nlatencies, ms", title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("the user said", no_wrap=True, max_width=20)
    for title in _COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for turn in demo.turns:
        done = turn.reply.done if turn.reply is not None else None
        known = stages(done.timings if done is not None else {})
        cells = [f"{known[title]:.0f}" if title in known else "" for title in STAGES]
        first = turn.reply.first_audio_at if turn.reply is not None else None
        here = f"{(first - turn.end) * 1000:.0f}" if first is not None else "none"
        table.add_row(turn.line.words, *cells, here)
    console.print(table)
    for turn in demo.turns:
        cut = turn.cut.done if turn.cut is not None else None
        if cut is None or cut.outcome is not ev.Outcome.INTERRUPTED or turn.stale_at is None:
            continue
        console.print(
            f"\nthe interruption: {(turn.stale_at - turn.onset) * 1000:.0f} ms from the user's first sound to the last "
            f"frame of the story; {cut.heard_ms / 1000:.1f} s of it were heard\n"
            f"  heard: {escape(ending(cut.text))}\n  cut:   [dim]{escape(beginning(cut.unheard))}[/]"
        )


if __name__ == "__main__":
    sys.exit(main())
