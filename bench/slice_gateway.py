"""A gateway of which only a slice is there: `python -m bench.slice_gateway SLICE`.

Each slice holds the ones before it. Up to `unary` sessions are bare; from `session` on they are the
gateway's own, over parts that answer within the process until their slice puts the real one there.
Prints one JSON line with its address, serves until it is told to end, and then prints another one: how many
windows its detector left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence

from bench.slice_parts import (
    BareSessions,
    OwnLlm,
    OwnRecognizer,
    OwnVoice,
    Unshaped,
    Upstream,
)
from gateway.app import Gateway, run_loop, serve_forever
from gateway.listen.silero import SileroVad
from gateway.settings import Settings

PROTOTYPE = "prototype"
SLICES = (PROTOTYPE, "transport", "vad", "unary", "session", "shaping", "riva", "llm", "whole")
OUTPUT_RATE, VOICE_RATE = 48_000, 22_050


class SliceGateway:
    """A service, as `gateway.app.Service` has it."""

    def __init__(self, name: str, settings: Settings, upstream: str = "") -> None:
        """name: one of SLICES but the prototype. settings: with the real parts' addresses. upstream: of the unary calls."""
        self._at = SLICES.index(name)
        self._settings, self._upstream = settings, upstream
        self._whole: Gateway | None = None
        self._grpc = ""
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._vad: SileroVad | None = None
        self.failed = asyncio.Event()
        """The slice does not do its work."""

    def has(self, name: str) -> bool:
        return self._at >= SLICES.index(name)

    async def start(self) -> None:
        if self.has("whole"):
            self._whole = Gateway(self._settings)
            await self._whole.start()
            self._grpc = self._whole.grpc
            self._vad = self._whole.sessions._vad  # type: ignore[assignment]  # it made this one itself
        elif self.has("session"):
            await self._start_sessions()
        else:
            await self._start_bare()

    async def _start_bare(self) -> None:
        from gateway.transports.voice_grpc import VoiceServer

        _leave_shaping_out()
        vad = self._vad = SileroVad() if self.has("vad") else None
        if vad is not None:
            self._closers.append(vad.close)
        upstream = Upstream(self._upstream, self.failed) if self.has("unary") else None
        if upstream is not None:
            self._closers.append(upstream.close)
        sessions = BareSessions(self._settings, vad, upstream)
        voice = VoiceServer(sessions, self._settings.session, self._settings.listen.grpc)
        self._grpc = await voice.start()
        self._closers.append(lambda: voice.stop(0.0))

    async def _start_sessions(self) -> None:
        """As the gateway does, with the parts that this slice has."""
        from prometheus_client import CollectorRegistry

        from gateway.listen.riva_asr import RivaRecognizer
        from gateway.session.admission import BEAT_S
        from gateway.session.manager import Sessions
        from gateway.telemetry.loop_watch import LoopWatch
        from gateway.telemetry.metrics import Metrics
        from gateway.think.openai_llm import OpenAiLlm
        from gateway.transports.voice_grpc import VoiceServer

        settings = self._settings
        shaped = self.has("shaping")
        if not shaped:
            _leave_shaping_out()
        recognizer = RivaRecognizer(settings.asr) if self.has("riva") else OwnRecognizer()
        llm = OpenAiLlm(settings.llm) if self.has("llm") else OwnLlm()
        voice_model = OwnVoice(VOICE_RATE if shaped else OUTPUT_RATE)
        vad = self._vad = SileroVad()
        metrics = Metrics(CollectorRegistry())
        sessions = Sessions(settings, recognizer, llm, voice_model, vad, metrics)
        voice = VoiceServer(sessions, settings.session, settings.listen.grpc, metrics.dropped)
        self._grpc = await voice.start()
        watch = LoopWatch(BEAT_S, sessions.beat)
        watch.start()

        async def stop() -> None:
            watch.stop()
            await sessions.drain(settings.session.drain_s)
            await voice.stop(1.0)

        self._closers += [recognizer.close, llm.close, vad.close, stop]

    def left_out(self) -> int:
        """Windows that the detector was too far behind to look at."""
        return 0 if self._vad is None else self._vad.dropped

    def endpoints(self) -> dict[str, str]:
        return {"grpc": self._grpc}

    async def stop(self) -> None:
        if self._whole is not None:
            await self._whole.stop()
        while self._closers:
            await self._closers.pop()()


def _leave_shaping_out() -> None:
    """For the process: nothing in the gateway asks for that, only a measurement does."""
    from gateway.speak import reel

    setattr(reel, "Shaper", Unshaped)  # noqa: B010  (a class, as far as mypy is concerned)


def main(arguments: Sequence[str] | None = None) -> int:
    """Settings come from the environment, as the gateway's do."""
    parser = argparse.ArgumentParser(prog="python -m bench.slice_gateway", description=__doc__)
    parser.add_argument("slice", choices=SLICES[1:])
    parser.add_argument("--upstream", default="", metavar="HOST:PORT", help="takes the unary calls")
    chosen = parser.parse_args(arguments)
    return run_loop(_serve(chosen.slice, chosen.upstream))


async def _serve(name: str, upstream: str) -> int:
    gateway = SliceGateway(name, Settings(), upstream)
    await serve_forever(gateway, lambda found: print(json.dumps(found), flush=True), gateway.failed)
    print(json.dumps({"left_out": gateway.left_out()}), flush=True)
    return int(gateway.failed.is_set())


if __name__ == "__main__":
    sys.exit(main())
