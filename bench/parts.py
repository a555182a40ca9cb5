"""Each measurement as a part of the report: how much of it is run, what is shown, which goals it has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

from bench import cost, disturbance, echo, latency, words
from bench.bargein_part import bargein_part, steadiness_part
from bench.report import SAMPLE_COLUMNS, Part, Table, number, row, verdict
from bench.speech import Clip
from bench.stack import Up
from bench.stats import percentile, summarise
from bench.tts_control import tts_control_part
from bench.turns_part import turns_part

_EDGE = "the end of the last 50 ms in which every 10 ms frame lies within 25 dB of the clip's loudest"
_MIC = "The microphone hands over 20 ms when they are over, with room noise of −70 dBFS under everything."


@dataclass(frozen=True, slots=True)
class Bench:
    """What every part gets."""

    clips: list[Clip]
    speech: str
    """What the clips are."""
    quick: bool
    up: Up | None
    """The shared stack; None for parts that start their own."""

    @property
    def stack(self) -> Up:
        assert self.up is not None
        return self.up


Measure = Callable[[Bench], Awaitable[Part]]


async def latency_part(bench: Bench) -> Part:
    part = Part(
        "latency",
        "Latency of a turn",
        f"Real speech ({bench.speech}) at real time, stand-in LLM without delay; ms. True end of speech: {_EDGE}. "
        f"{_MIC} A reply that does not come within 6 s counts as failed and as infinitely late. "
        "`voice to voice` and the stages are the gateway's own clock; its end of speech is the end of the last "
        "window (32 ms) that the detector took for voice.",
    )
    plan = {1: 1} if bench.quick else {1: 3, 2: 2, 4: 1}
    clips = _short(bench.clips)[:3] if bench.quick else bench.clips
    for sessions, repeats in plan.items():
        found = await latency.measure(bench.stack.endpoints["grpc"], clips, sessions, repeats)
        goal = 450 if sessions == 1 else None
        rows = [
            row("true end of speech → first reply audio at the client", found.end_to_audio, p50=goal),
            row("true end of speech → first audible sample of the reply", found.end_to_audible),
            row("final transcript → first audio leaves", found.stages["final_to_first_audio"], p50=60),
            row("true end of speech → the gateway's end of speech", found.detector),
            row("gateway's end of speech → end of turn (hangover)", found.stages["end_of_turn"]),
            row("end of turn → final transcript", found.end_of_turn_to_final),
            row("final transcript → first token of the LLM", found.stages["final_to_first_token"]),
            row("first token → first piece to speak", found.stages["first_token_to_first_sentence"]),
            row("first piece → first chunk of audio", found.stages["sentence_to_first_chunk"]),
            row("first chunk → first frame leaves", found.stages["first_chunk_to_first_audio"]),
            row("voice to voice", found.stages["voice_to_voice"]),
        ]
        title = f"{sessions} session{'s' if sessions > 1 else ''}"
        part.tables.append(Table((title, *SAMPLE_COLUMNS[1:]), rows))
        part.findings.append(_latency_finding(found))
        part.data[str(sessions)] = asdict(found)
    return part


def _latency_finding(found: latency.Latency) -> str:
    hangover = percentile(found.stages["end_of_turn"], 0.5)
    total = percentile(found.end_to_audio, 0.5)
    runs = [percentile(run, 0.5) for run in _rounds(found)]
    spread = f"p50 of each round {', '.join(map(number, runs))}; " if len(runs) > 1 else ""
    return (
        f"{found.sessions} session{'s' if found.sessions > 1 else ''}, {found.turns} turns: {spread}"
        f"the hangover's p50 is {number(hangover)} of {number(total)} ms ({number(100 * hangover / total)} %); "
        f"in {found.cut_short} turns a pause inside the speech was taken for its end and a reply began; "
        f"the client's own worst lateness was {number(found.late_ms)} ms."
    )


def _rounds(found: latency.Latency) -> list[list[float]]:
    """Samples of the first saying of every clip, of the second, …"""
    longest = max((len(samples) for samples in found.by_clip.values()), default=0)
    return [[s[k] for s in found.by_clip.values() if k < len(s)] for k in range(longest)]


async def echo_part(bench: Bench) -> Part:
    seconds, sessions, cuts = (10.0, 2, 2) if bench.quick else (300.0, 3, 12)
    found = await echo.measure(
        bench.stack.endpoints["grpc"], bench.clips, seconds=seconds, sessions=sessions, interruptions=cuts
    )
    done = [s for s in found.interruptions.onset_to_stale if s != float("inf")]
    part = Part(
        "echo",
        "Echo of our own playout",
        f"What the client plays comes back through its microphone, 8 dB weaker and 40 ms later, for "
        f"{seconds:.0f} s of playout in {sessions} parallel sessions while nobody speaks; then real speech over it. {_MIC}",
    )
    part.tables.append(
        Table(
            ("measured", "goal", "result"),
            [
                ["replies cut by their own echo", verdict("0", found.cancelled == 0), str(found.cancelled)],
                ["replies paused by their own echo", "", str(found.pauses)],
                ["words recognised that nobody said", "", str(found.phantom_turns)],
                ["playout echoed, s", f"{seconds:.0f}", f"{found.played_s:.0f}"],
                [
                    "real speech over the echo interrupts",
                    verdict(f"{cuts} of {cuts}", len(done) == cuts),
                    f"{len(done)} of {cuts}",
                ],
            ],
        )
    )
    part.tables.append(
        Table(
            SAMPLE_COLUMNS,
            [
                row(
                    "user's onset over echo → last stale frame arrives, ms",
                    found.interruptions.onset_to_stale,
                )
            ],
        )
    )
    part.findings = list(found.interruptions.misses)
    part.data = asdict(found)
    return part


async def noise_part(bench: Bench) -> Part:
    wanted = disturbance.sounds(bench.clips)
    seconds, trials, parallel = 20.0, 6, 4
    if bench.quick:
        chosen = (("babble of 8", -40.0), ("distant television", -52.0))
        wanted = {key: wanted[key] for key in chosen}
        seconds, trials, parallel = 4.0, 2, 2
    bare = await disturbance.measure(
        disturbance.BARE, wanted, seconds=seconds, trials=trials, parallel=parallel
    )
    ours = await disturbance.measure({}, wanted, seconds=seconds, trials=trials, parallel=parallel)
    part = Part(
        "noise",
        "False barge-ins in noise",
        f"The assistant speaks for {seconds:.0f} s under each noise (or until it was cut {trials} times), {parallel} sessions at a "
        "time; the noise begins 3.5 s before. Where it keeps the assistant from beginning at all (`held back`) it falls "
        "silent until the first sound of the reply. Without: noise gate off, "
        "the detector's threshold 0.5 also while the assistant speaks. With: the defaults (gate, margin "
        "times 2 while speaking, threshold 0.6). A pause is a reply that stops and, if the noise is no "
        "interruption, goes on; a cancel is a reply that was cut. Levels are dBFS RMS; clicks: their loudest 10 ms.",
    )
    rows = [
        [
            before.sound,
            number(before.dbfs),
            *map(
                str,
                (
                    before.pauses,
                    after.pauses,
                    before.cancels,
                    after.cancels,
                    before.held_back,
                    after.held_back,
                ),
            ),
            *(number(spoken) for spoken in (before.spoken_s, after.spoken_s)),
        ]
        for before, after in zip(bare, ours, strict=True)
    ]
    rates = [_rates(bare), _rates(ours)]
    rows.append(
        ["all, per minute", "", *(number(rate[k], 1) for k in (0, 1) for rate in rates), "", "", "", ""]
    )
    part.tables.append(
        Table(
            (
                "noise", "dBFS", "pauses without", "with", "cancels without", "with", "held back without", "with",
                "s of speech without", "with",
            ),
            rows,
        )
    )  # fmt: skip
    part.findings = [
        f"{name} per minute of speech: {_fewer(rates[0][k], rates[1][k])} "
        f"({verdict('≥ 70 % fewer', rates[1][k] <= 0.3 * rates[0][k])})"
        for k, name in enumerate(("pauses", "cancels"))
    ]
    part.data = {"without": [asdict(d) for d in bare], "with": [asdict(d) for d in ours]}
    return part


def _rates(found: list[disturbance.Disturbed]) -> tuple[float, float]:
    """(pauses, cancels) per minute of the assistant's speech."""
    minutes = sum(d.spoken_s for d in found) / 60
    return sum(d.pauses for d in found) / minutes, sum(d.cancels for d in found) / minutes


def _fewer(before: float, after: float) -> str:
    return f"{100 * (before - after) / before:.0f} % fewer" if before else "none without either"


async def wer_part(bench: Bench) -> Part:
    clips, runs = (_short(bench.clips)[:2], 1) if bench.quick else (bench.clips, 3)
    found = await words.measure(bench.stack.endpoints["grpc"], clips, runs)
    part = Part(
        "wer",
        "Word errors: the gateway beside its engine alone",
        f"{bench.speech} ({sum(found.reference.values())} words in the clips used). Engine alone: pocketsphinx with "
        "the model's settings and dither, fresh state, each clip streamed as one utterance. Gateway: each clip in "
        "a session of its own at real time with normal turn taking, the transcripts of all its turns joined; "
        f"{runs} runs, in parallel. Normalisation: {words.NORMALISATION}.",
    )
    columns = ("clip", "words", "engine alone", *(f"gateway, run {n + 1}" for n in range(runs)))
    rows = [
        [
            name,
            str(found.reference[name]),
            str(found.engine[name]),
            *(str(run[name]) for run in found.gateway),
        ]
        for name in found.reference
    ]
    total, engine = sum(found.reference.values()), sum(found.engine.values())
    sums = [sum(run.values()) for run in found.gateway]
    rows.append(["all", str(total), *(f"{count} ({100 * count / total:.1f} %)" for count in (engine, *sums))])
    part.tables.append(Table(columns, rows))
    more = [count - engine for count in sums]
    part.findings = [
        f"more wrong words than the engine alone: {', '.join(f'{m:+d}' for m in more)} "
        f"({verdict('at most 5', max(more) <= 5)})"
    ]
    part.data = asdict(found)
    return part


async def start_part(bench: Bench) -> Part:
    runs = 1 if bench.quick else 5
    if not bench.quick:
        async with Up():
            pass  # what was read once is in the system's cache: the runs that count are warm
    samples = []
    for _ in range(runs):
        async with Up() as up:
            samples.append(up.ready_s)
    found = summarise(samples)
    part = Part(
        "start",
        "Start of the stack",
        "`parley up`, from the start of the process until everything is ready (Triton with its models, the Riva front, "
        "the LLM, the gateway: all answer) and the endpoints file is written; warm, one uncounted start before.",
    )
    part.tables.append(
        Table(
            ("measured", "goal", "runs", "min", "median", "max"),
            [
                [
                    "start → ready, s",
                    verdict("≤ 5", found.most <= 5),
                    str(runs),
                    *(number(v, 2) for v in (found.least, found.p50, found.most)),
                ]
            ],
        )
    )
    part.data = {"seconds": samples}
    return part


async def cost_part(bench: Bench) -> Part:
    talking, listening, seconds = ((1,), 8, 3.0) if bench.quick else ((1, 2, 4), 32, 30.0)
    clips = _short(bench.clips)
    async with Up() as up:
        loads = await cost.measure(up, clips, talking=talking, listening=listening, seconds=seconds)
    part = Part(
        "cost",
        "What a session costs",
        f"CPU seconds (user and system, from /proc) over {seconds:.0f} s, and memory (proportional set size) at the end. "
        "In conversation: a clip is spoken, up to 4 s of the reply heard, and so on without a rest. Triton: the server "
        "and its models' processes.",
    )
    rest = loads[0]
    rows = []
    for load in loads:
        shared = [number(load.memory_mib[role]) for role in ("gateway", "speech", "triton")]
        each = "–"
        if load.sessions:
            each = number((load.memory_mib["gateway"] - rest.memory_mib["gateway"]) / load.sessions, 2)
        rows.append(
            [
                f"{load.sessions} {load.what}" if load.sessions else load.what,
                *(
                    number(load.cpu_per_session_minute(role), 2)
                    for role in ("gateway", "speech", "triton", "llm")
                ),
                number(100 * load.cpu_s["gateway"] / load.seconds, 1),
                *shared,
                each,
            ]
        )
    part.tables.append(
        Table(
            (
                "sessions",
                *(f"{role}: CPU s per session-minute" for role in ("gateway", "speech", "Triton", "LLM")),
                "gateway: % of a core",
                *(f"{role} MiB" for role in ("gateway", "speech", "Triton")),
                "gateway MiB more per session",
            ),
            rows,
        )
    )
    part.data = {"loads": [asdict(load) for load in loads]}
    return part


async def tts_part(bench: Bench) -> Part:
    return await tts_control_part(bench.stack.endpoints["riva"], quick=bench.quick)


def _short(clips: list[Clip]) -> list[Clip]:
    """The shortest half, at least four; whole sentences all the same."""
    return sorted(clips, key=lambda clip: clip.seconds)[: max(4, len(clips) // 2)]


PARTS: dict[str, Measure] = {
    "latency": latency_part,
    "turns": turns_part,
    "bargein": bargein_part,
    "echo": echo_part,
    "wer": wer_part,
    "noise": noise_part,
    "steadiness": steadiness_part,
    "tts-control": tts_part,
    "start": start_part,
    "cost": cost_part,
}
OWN_STACK = frozenset(("noise", "steadiness", "start", "cost"))
"""Parts that start their own, or none."""
