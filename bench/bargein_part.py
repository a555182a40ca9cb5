"""Barge-in as parts of the report: how fast, and how steady in noise."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench import bargein, steadiness, virtual
from bench.bargein import BargeIns
from bench.report import SAMPLE_COLUMNS, Part, Table, number, row, verdict
from bench.stats import percentile

if TYPE_CHECKING:
    from bench.parts import Bench

_INFINITE = float("inf")


async def bargein_part(bench: Bench) -> Part:
    moments, listening = (2, 2) if bench.quick else (44, 16)
    sessions, crowd, many = (1, 2, 8) if bench.quick else (4, 2, 192)
    endpoints = bench.stack.endpoints
    part = Part(
        "bargein",
        "Barge-in",
        f"The stand-in's long story is interrupted with real speech at {moments} random moments (seeded) in "
        f"{sessions} session{'s' if sessions > 1 else ''} one after the other; ms. Onset: the first 50 ms in "
        "which every 10 ms frame lies within 25 dB of the clip's loudest, as it sounds; a voice that is heard "
        "before has a negative time. The microphone hands over 20 ms when they are over, with room noise of −70 "
        "dBFS under everything. A reply that is not cut within 4 s counts as failed. The detector's share: from "
        "the onset to the moment at which the client sent the audio that completed the window it was sure of. "
        "What the client plays ends when it is told to drop its buffer, or when a hold has let it run dry. In "
        "virtual time: the same client and gateway in one process, where only the detector's batches take time.",
    )
    for title, found, goals in (
        (
            "1 session",
            await bargein.measure(endpoints["grpc"], endpoints["admin"], bench.clips, moments, sessions),
            (130.0, 220.0),
        ),
        (
            f"1 session beside {listening} that listen",
            await bargein.measure(
                endpoints["grpc"], endpoints["admin"], bench.clips, moments // 2, crowd, listening=listening
            ),
            (130.0, 240.0),
        ),
    ):
        _show(part, title, found, goals)
        part.findings += _findings(title, found)
    for sessions, fast in ((8, True),) if bench.quick else ((1, True), (1, False), (64, True), (64, False)):
        found, holds = await asyncio.to_thread(_virtually, bench, many, sessions, fast)
        title = f"virtual time, {sessions} interrupting at once, {'' if fast else 'no '}first detector"
        _show(part, title, found, (130.0, 220.0 if sessions == 1 else 240.0))
        if fast:
            part.findings.append(f"{title}: {holds}")
    return part


def _show(part: Part, title: str, found: BargeIns, goals: tuple[float, float]) -> None:
    part.tables.append(
        Table(
            (title, *SAMPLE_COLUMNS[1:]),
            [
                row("onset → last stale frame arrives", found.onset_to_stale, p50=goals[0], p95=goals[1]),
                row("onset → the client plays nothing more", found.onset_to_silence),
                row("onset → window of the detection sent: its share", found.detector),
                row("onset → flush arrives", found.onset_to_flush),
                row("detection → last stale frame arrives", found.detection_to_stale, p95=20),
            ],
        )
    )
    part.data[title] = asdict(found)


def _findings(title: str, found: BargeIns) -> list[str]:
    total = found.server.get(_INFINITE, 0)
    within = next((count for bound, count in sorted(found.server.items()) if bound >= 20), 0)
    ahead = [flush - stale for flush, stale in zip(found.onset_to_flush, found.onset_to_stale, strict=True)]
    return [
        f"{title}: the last frame came {number(percentile(ahead, 0.5))} ms before the flush (median); "
        f"{within} of {total} pauses within 20 ms by the gateway's own histogram; "
        f"{found.stale_after_flush} frames of a flushed generation came after their flush; "
        f"{found.false_starts} interruptions were first paused for, taken for false, and then recognised; "
        f"the client's own worst lateness was {number(found.late_ms)} ms",
        *found.misses,
    ]


def _virtually(bench: Bench, moments: int, sessions: int, fast: bool) -> tuple[BargeIns, str]:
    async def main() -> tuple[BargeIns, str]:
        async with virtual.Gateway(steadiness.voice(bench.clips), barge_in={"fast": fast}) as gateway:
            found = await bargein.measure(
                gateway.call, "", bench.clips, max(moments, sessions), sessions, at_once=sessions > 1
            )
            confirmed, released, heard = (
                gateway.count("parley_holds_total", kind=kind) for kind in ("confirmed", "released", "heard")
            )
        return found, f"{confirmed} holds confirmed, {released} let go unheard, {heard} let go as a gap"

    return virtual.run(main())


async def steadiness_part(bench: Bench) -> Part:
    seconds = 10.0 if bench.quick else steadiness.SECONDS
    part = Part(
        "steadiness",
        "False alarms of barge-in",
        f"The assistant speaks for {seconds / 60:.2g} min on end under each noise, in virtual time with the real detector. A "
        "pause is a reply that stops and tells its client so. A hold only stops sending: not heard while the client "
        "has audio buffered (the pacing lead), a gap of at most `barge_in.fast_hold_ms` less the lead when longer. "
        "Key strokes: 6 a second; doors and cups: one in 3 s, their loudest 10 ms at −12 dBFS. Echo: the "
        "assistant's own voice at the microphone.",
    )
    found = await asyncio.to_thread(steadiness.measure, bench.clips, seconds=seconds)
    for gain_db, delay_s in ((-8.0, 0.04), (-20.0, 0.1)):
        found.append(
            await asyncio.to_thread(
                steadiness.echo, bench.clips, seconds=seconds, gain_db=gain_db, delay_s=delay_s
            )
        )
    part.tables.append(
        Table(
            ("noise", "dB", "minutes", "pauses", "replies cut", "holds not heard", "holds heard", "goal"),
            [
                [
                    alarms.disturbed.sound,
                    number(alarms.disturbed.dbfs),
                    number(alarms.disturbed.spoken_s / 60, 1),
                    str(alarms.disturbed.pauses),
                    str(alarms.disturbed.cancels),
                    str(alarms.released),
                    str(alarms.heard),
                    verdict("≤ 1 pause", alarms.disturbed.pauses <= 1),
                ]
                for alarms in found
            ],
        )
    )
    part.data = {"alarms": [asdict(alarms) for alarms in found]}
    return part
