"""How long after the user's last sound the reply begins, and where the time goes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.caller import Caller
from bench.noise import room
from bench.speech import Clip
from bench.stats import FAILED
from gateway.session import events as ev

_REPLY_S = 6.0
_LISTEN_S = 0.4
_PAUSE_S = 0.8
STAGES = (
    "end_of_turn",
    "speech_end_to_final",
    "final_to_first_token",
    "first_token_to_first_sentence",
    "sentence_to_first_chunk",
    "first_chunk_to_first_audio",
    "final_to_first_audio",
    "voice_to_voice",
)


@dataclass(slots=True)
class Latency:
    """Samples in ms; FAILED where nothing came."""

    sessions: int
    turns: int = 0
    end_to_audio: list[float] = field(default_factory=list)
    """True end of speech → first reply audio at the client."""
    end_to_audible: list[float] = field(default_factory=list)
    """True end of speech → the reply's first sample above −45 dBFS plays."""
    end_of_turn_to_final: list[float] = field(default_factory=list)
    """Decision that the turn is over → final transcript, at the gateway."""
    detector: list[float] = field(default_factory=list)
    """True end of speech → end of speech as the detector saw it; negative when it fell silent early."""
    stages: dict[str, list[float]] = field(default_factory=dict)
    cut_short: int = 0
    """Turns in which a reply began before the speech had ended."""
    by_clip: dict[str, list[float]] = field(default_factory=dict)
    """`end_to_audio` once more."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """Every turn: clip, what was recognised, the gateway's timings."""
    late_ms: float = 0.0


async def measure(address: str, clips: Sequence[Clip], sessions: int, repeats: int, seed: int = 1) -> Latency:
    """Every session says every clip `repeats` times, in an order of its own. Raises CallFailed."""
    result = Latency(sessions, stages={stage: [] for stage in STAGES})
    await asyncio.gather(
        *(_session(address, clips, repeats, result, random.Random(seed + n), n) for n in range(sessions))
    )
    return result


async def _session(
    address: str, clips: Sequence[Clip], repeats: int, result: Latency, order: random.Random, number: int
) -> None:
    lines = [clip for _ in range(repeats) for clip in order.sample(clips, len(clips))]
    async with Caller(address, sources=(room(order.randrange(1 << 30)),)) as caller:
        await asyncio.sleep(0.5 + 0.37 * number)  # sessions do not march in step
        for clip in lines:
            await _turn(caller, clip, result)
            await asyncio.sleep(_PAUSE_S * (0.75 + 0.5 * order.random()))
        result.late_ms = max(result.late_ms, caller.microphone.late_s * 1000)


async def _turn(caller: Caller, clip: Clip, result: Latency) -> None:
    said = await caller.microphone.say(clip)
    reply = await caller.until(
        lambda: caller.reply_after(said.end), said.end + _REPLY_S - asyncio.get_running_loop().time()
    )
    result.turns += 1
    early = [r for r in caller.replies if r.first_at is not None and said.onset <= r.first_at < said.end]
    result.cut_short += bool(early)
    if reply is None and early and (early[-1].done is None or early[-1].done.outcome is ev.Outcome.COMPLETED):
        reply = early[-1]  # it began too soon, and answered: nothing else was to come
    result.log.append(
        {"clip": clip.name, "heard": [t.text for _, t in caller.of(ev.Transcript, said.began) if t.final]}
    )
    if reply is None or reply.first_at is None:
        result.end_to_audio.append(FAILED)
        result.end_to_audible.append(FAILED)
        result.stages["final_to_first_audio"].append(FAILED)
        result.by_clip.setdefault(clip.name, []).append(FAILED)
        await caller.quiet()
        return
    await caller.until(lambda: reply.audible_at, _LISTEN_S)
    result.end_to_audio.append((reply.first_at - said.end) * 1000)
    result.by_clip.setdefault(clip.name, []).append(result.end_to_audio[-1])
    result.end_to_audible.append(
        (reply.audible_at - said.end) * 1000 if reply.audible_at is not None else FAILED
    )
    await asyncio.sleep(_LISTEN_S)
    await caller.quiet()
    if reply.done is None:
        return
    timings = reply.done.timings
    result.log[-1] |= {"end_to_audio": result.end_to_audio[-1], "timings": timings}
    for stage in STAGES:
        if stage in timings:
            result.stages[stage].append(timings[stage])
    if "end_of_turn" in timings:
        result.end_of_turn_to_final.append(timings["speech_end_to_final"] - timings["end_of_turn"])
        # The gateway's own share ends with the frame's departure; what is left lies before its end of speech.
        result.detector.append(result.end_to_audio[-1] - timings["voice_to_voice"])
