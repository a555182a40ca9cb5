"""End of turn as a part of the report: each way to a sooner reply, what it gains and what it costs."""

from __future__ import annotations

import asyncio
import random
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from bench import virtual
from bench.pauses import LONGEST_S, SHORTEST_S, Line, lines, paused
from bench.rehearsal import MANY, ONE, Delays, Rehearsal
from bench.report import Part, Table, number, verdict
from bench.stats import percentile
from bench.turns import Turns, converse
from gateway.session import events as ev

if TYPE_CHECKING:
    from bench.parts import Bench

FAST = {"eager": True, "hangover_ms": 160, "hangover_long_ms": 704}
"""The preset of docs/guides/latency.md."""
_SESSION = 15
"""Turns of one session."""
_AT_ONCE = 3
"""Sessions over the wire."""
_WAYS: dict[str, dict[str, Any]] = {
    "silence alone: 640 ms": {"hangover_ms": 640, "patient": False},
    "silence alone: 224 ms": {"hangover_ms": 224, "hangover_long_ms": 224, "patient": False},
    "224 ms when the words look whole, 640 when not": {"patient": False},
    "… and patient: the defaults": {},
    "defaults, eager": {"eager": True},
    "fast: eager, 160 and 704 ms": FAST,
    "fast, guesses 32 ms later": {**FAST, "eager_ms": 64},
    "fast, not eager": {**FAST, "eager": False},
    "fast, not patient": {**FAST, "patient": False},
}
_COLUMNS = (
    "turns", "p50 as recorded", "p95", "p50 with pauses", "p95", "ended early, as recorded", "with pauses", "all",
    "merged unheard", "LLM requests thrown away per turn", "s of speech thrown away per turn",
)  # fmt: skip


@dataclass(slots=True)
class Found:
    """One setting over both kinds of speech."""

    recorded: Turns
    paused: Turns
    thrown_away: float = 0.0
    thrown_away_s: float = 0.0

    @property
    def turns(self) -> int:
        return self.recorded.turns + self.paused.turns

    @property
    def early_share(self) -> float:
        return (self.recorded.early + self.paused.early) / self.turns


async def turns_part(bench: Bench) -> Part:
    clips = sorted(bench.clips, key=lambda clip: clip.seconds)[:2] if bench.quick else bench.clips
    recorded = await asyncio.to_thread(lines, clips)
    with_pauses = await asyncio.to_thread(paused, clips, 1 if bench.quick else 2)
    part = Part(
        "turns",
        "End of turn: how soon, and how often too soon",
        f"{bench.speech}{' (two of them)' if bench.quick else ''}, each as it was recorded, with the pauses that are in it, "
        f"and {len(with_pauses)} turns made of the same: cut between words at a quiet "
        f"point and joined again with a pause of {SHORTEST_S * 1000:.0f} to {LONGEST_S * 1000:.0f} ms (random, "
        f"evenly spread). Sessions of {_SESSION} turns. True end of speech → first reply audio at the client, ms. "
        "Ended early: reply audio came before the true end of speech. Merged unheard: the turn was taken for "
        "over, the speech that followed put that right, and nothing was heard.",
    )
    for title, delays in (("one stream", ONE), ("64 streams", MANY)):
        ways = _WAYS if delays is ONE and not bench.quick else {k: _WAYS[k] for k in list(_WAYS)[3:6:2]}
        found = {
            name: await asyncio.to_thread(_rehearsed, recorded, with_pauses, delays, turn)
            for name, turn in ways.items()
        }
        part.tables.append(
            _table(f"virtual time, parts as slow as published for {title} ({_delays(delays)})", found)
        )
        part.data[f"virtual, {title}"] = {name: asdict(one) for name, one in found.items()}
        if delays is ONE and not bench.quick:
            part.findings += _goals(title, found["… and patient: the defaults"], 660, None)
            part.findings += _goals(title, found["fast: eager, 160 and 704 ms"], 400, 0.03)
        elif not bench.quick:
            part.findings += _goals(title, found["… and patient: the defaults"], 970, None)
            part.findings += _goals(title, found["fast: eager, 160 and 704 ms"], 700, 0.03)
    real = {}
    for name, turn in (("defaults", {}), ("fast", FAST)):
        real[name] = await _through_triton(bench, recorded, with_pauses, turn)
    part.tables.append(_table("real time, pocketsphinx through Triton, stand-in LLM without delay", real))
    part.data["real recogniser"] = {name: asdict(one) for name, one in real.items()}
    if not bench.quick:
        part.findings += _goals("real recogniser", real["fast"], None, 0.03)
        for profile in ("blueprint-1", "blueprint-64"):
            emulated = await _through_emulators(profile, recorded)
            part.tables.append(_table(f"real time, emulated parts, profile {profile}", emulated))
            part.data[profile] = {name: asdict(one) for name, one in emulated.items()}
    early = sorted({str(turn["clip"]) for turn in real["defaults"].recorded.log if turn["early"]})
    if early:
        part.findings.append(f"ended early as recorded, real recogniser, defaults: {', '.join(early)}")
    part.findings.append(
        "in virtual time the recogniser makes no mistakes and tells a word as long after its end as it "
        "tells the final after the audio's; the microphone, the detector and the session are the real ones"
    )
    return part


def _goals(title: str, found: Found, p50: float | None, early: float | None) -> list[str]:
    goals = []
    if p50 is not None:
        value = percentile(found.recorded.voice_to_voice, 0.5)
        goals.append(f"p50 as recorded {number(value)}: {verdict(f'≤ {p50:g}', value <= p50)}")
    if early is not None:
        share = found.paused.early_share
        goals.append(f"ended early with pauses {100 * share:.1f} %: {verdict('≤ 3 %', share <= early)}")
    return [f"{title}: {', '.join(goals)}"] if goals else []


def _delays(delays: Delays) -> str:
    return (
        f"final {delays.final:g}, first token {delays.first_token:g}, first sentence {delays.first_sentence:g}, "
        f"first chunk {delays.first_chunk:g} ms"
    )


def _table(title: str, found: dict[str, Found]) -> Table:
    return Table((title, *_COLUMNS), [[name, *_cells(one)] for name, one in found.items()])


def _cells(found: Found) -> list[str]:
    latencies = [
        number(percentile(turns.voice_to_voice, share))
        for turns in (found.recorded, found.paused)
        for share in (0.5, 0.95)
    ]
    early = [
        f"{turns.early} of {turns.turns} ({100 * turns.early_share:.1f} %)" if turns.turns else "–"
        for turns in (found.recorded, found.paused)
    ]
    return [
        str(found.turns),
        *latencies,
        *early,
        f"{100 * found.early_share:.1f} %",
        str(found.recorded.merged + found.paused.merged),
        number(found.thrown_away / found.turns, 2),
        number(found.thrown_away_s / found.turns, 2),
    ]


def _sessions(said: Sequence[Line], repeats: int = 1, seed: int = 1) -> list[list[Line]]:
    """All of it, in sessions of about `_SESSION` turns, in random order."""
    order = list(said) * repeats
    random.Random(seed).shuffle(order)
    count = max(1, len(order) // _SESSION)
    return [order[number::count] for number in range(count)]


def _rehearsed(
    recorded: Sequence[Line], with_pauses: Sequence[Line], delays: Delays, turn: dict[str, Any]
) -> Found:
    async def main() -> Found:
        found = Found(Turns(), Turns())
        async with Rehearsal(delays, turn=turn) as gateway:
            for said, repeats, turns in ((recorded, 4, found.recorded), (with_pauses, 1, found.paused)):
                for number_, session in enumerate(_sessions(said, repeats)):
                    await converse(
                        gateway.call, session, turns, seed=number_, about_to_say=gateway.script.say
                    )
            found.thrown_away = gateway.count("parley_replies_thrown_away_total")
            found.thrown_away_s = gateway.count("parley_speech_thrown_away_seconds_total")
        return found

    return virtual.run(main())


async def _through_triton(
    bench: Bench, recorded: Sequence[Line], with_pauses: Sequence[Line], turn: dict[str, Any]
) -> Found:
    endpoints = bench.stack.endpoints
    return await _spoken(endpoints["grpc"], endpoints["admin"], recorded, with_pauses, turn)


async def _through_emulators(profile: str, recorded: Sequence[Line]) -> dict[str, Found]:
    from load.run.stage import gateway_up, parts_up

    found = {}
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        async with (
            parts_up(Path(folder), profile, (), None, 1, ()) as parts,
            gateway_up(Path(folder), parts, (), 1, ()) as gateway,
        ):
            for name, turn in (("defaults", {}), ("fast", FAST)):
                found[name] = await _spoken(gateway.grpc, gateway.admin, list(recorded) * 2, (), turn)
    return found


async def _spoken(
    grpc: str, admin: str, recorded: Sequence[Line], with_pauses: Sequence[Line], turn: dict[str, Any]
) -> Found:
    """Over the wire, a few sessions side by side: the recogniser's engine wants much of a core for each."""
    configure = ev.Configure(**turn)
    found = Found(Turns(), Turns())
    before = await asyncio.to_thread(_counted, admin)
    places = asyncio.Semaphore(_AT_ONCE)

    async def run(session: list[Line], turns: Turns, seed: int) -> None:
        async with places:
            await converse(grpc, session, turns, configure=configure, seed=seed)

    for said, turns in ((recorded, found.recorded), (with_pauses, found.paused)):
        sessions = _sessions(said) if said else []
        await asyncio.gather(*(run(session, turns, n) for n, session in enumerate(sessions)))
    after = await asyncio.to_thread(_counted, admin)
    found.thrown_away, found.thrown_away_s = after[0] - before[0], after[1] - before[1]
    return found


def _counted(admin: str) -> tuple[float, float]:
    """(replies, s of speech) thrown away so far."""
    with urllib.request.urlopen(f"{admin}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    return samples["parley_replies_thrown_away_total"], samples["parley_speech_thrown_away_seconds_total"]
