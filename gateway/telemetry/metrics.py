"""Every metric of the gateway, fed by the session, served at `/metrics`. Tables: docs/reference/metrics.md."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.telemetry.model_metrics import MODEL_PEAKS
from gateway.telemetry.process_metrics import PROCESS_PEAKS

STAGES: dict[str, str] = {
    "end_of_turn": "End of the user's speech to the decision that the turn is over: the hangover",
    "speech_end_to_final": "End of the user's speech to the final transcript",
    "final_to_first_token": "Final transcript to the first token of the LLM",
    "first_token_to_first_sentence": "First token to the first piece that can be spoken",
    "sentence_to_first_chunk": "A piece handed to synthesis to its first audio chunk",
    "first_chunk_to_first_audio": "First audio chunk to the first reply audio on its way to the client",
    "final_to_first_audio": "Final transcript to the first reply audio on its way to the client",
    "voice_to_voice": "End of the user's speech to the first reply audio on its way to the client",
    "barge_in_detect_to_flush": "Arrival of the audio that held the onset of speech over a reply to the flush",
}
"""Stages of a turn that are timed, each a histogram `parley_<stage>_seconds`; a reply's timings have the same names."""

OF_SYNTHESIS = frozenset({"sentence_to_first_chunk", "first_chunk_to_first_audio"})
"""The stages that words spoken as they are have, too."""

BUCKETS_S = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0,
)  # fmt: skip
"""Upper bounds: fine where a conversation still feels immediate."""

PEAKS = (
    MODEL_PEAKS
    | PROCESS_PEAKS
    | {
        "parley_vad_backlog_seconds",
        "parley_vad_backlog_sustained_seconds",
        "parley_breaker_state",
    }
)
"""Gauges of which a whole deployment's is the largest of its processes'; of every other it is the sum."""


class Metrics:
    """One per process and registry. Label values are the caller's; keep them few and never a client's text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        """What `/metrics` serves."""
        self._stages = {
            stage: Histogram(f"parley_{stage}_seconds", help_text, buckets=BUCKETS_S, registry=registry)
            for stage, help_text in STAGES.items()
        }
        self._turns = Counter(
            "parley_turns",
            "Replies by how they ended: completed, interrupted, cancelled, failed",
            ["outcome"],
            registry=registry,
        )
        self._slow_turns = Counter(
            "parley_slow_turns",
            "Turns whose first audio took longer than telemetry.slow_turn_ms",
            registry=registry,
        )
        self._barge_ins = Counter(
            "parley_barge_ins",
            "Speech over a reply: true ones cut it, false ones let it go on",
            ["kind"],
            registry=registry,
        )
        self._holds = Counter(
            "parley_holds",
            "Times a loud sound held a reply back: confirmed by the detector, released unheard, or heard",
            ["kind"],
            registry=registry,
        )
        self._drops = Counter(
            "parley_dropped", "Audio frames and events that were given up", ["reason"], registry=registry
        )
        self._errors = Counter(
            "parley_part_errors",
            "Failures of the parts behind the gateway: asr, llm, tts",
            ["part", "code"],
            registry=registry,
        )
        self._thrown_away = Counter(
            "parley_replies_thrown_away",
            "Replies begun for a question that was then not it: eager guesses, turns that went on",
            registry=registry,
        )
        self._thrown_away_s = Counter(
            "parley_speech_thrown_away_seconds",
            "Synthesised speech of those replies",
            registry=registry,
        )
        self._llm_chunks = Counter(
            "parley_llm_chunks",
            "Pieces of text received from the LLM (server-sent events, about a token each)",
            registry=registry,
        )
        self._sessions = Counter(
            "parley_sessions", "Sessions ended, by close reason", ["reason"], registry=registry
        )
        self._active = Gauge("parley_sessions_active", "Sessions open now", registry=registry)
        self._capacity = Gauge(
            "parley_sessions_capacity", "Sessions that are taken at a time, at most", registry=registry
        )
        Gauge("parley_workers", "Gateway processes that serve", registry=registry).set(1)
        self._vad_backlog = Gauge(
            "parley_vad_backlog_seconds",
            "Age of the oldest audio the detector has not answered: the first sign of overload",
            registry=registry,
        )
        self._vad_sustained = Gauge(
            "parley_vad_backlog_sustained_seconds",
            "The same as it has lasted for a moment: what admission looks at",
            registry=registry,
        )
        self._breakers = Gauge(
            "parley_breaker_state",
            "0: every call goes through, 1: one call tries a part that failed, 2: the part is left alone",
            ["part"],
            registry=registry,
        )
        self._admitting = Gauge(
            "parley_admitting",
            "1 while a new session would be taken (of workers: how many)",
            registry=registry,
        )
        self._refused = Counter(
            "parley_refused", "Sessions not started, by reason", ["reason"], registry=registry
        )
        self._resumes = Counter(
            "parley_resumes",
            "Sessions opened with the token of an earlier one, by what came of it",
            ["outcome"],
            registry=registry,
        )
        self._store_failures = Counter(
            "parley_history_store_failures",
            "Times that the store of histories did not answer, and the client kept its history",
            registry=registry,
        )
        for outcome in ("resumed", "expired", "refused", "lost"):
            self._resumes.labels(outcome)
        # there from the start, so that a rate over them needs no first event
        for reason in ("full", "overloaded", "shutting_down"):
            self._refused.labels(reason)
        for outcome in ("completed", "interrupted", "cancelled", "failed"):
            self._turns.labels(outcome)
        for kind in ("true", "false"):
            self._barge_ins.labels(kind)
        for kind in ("confirmed", "released", "heard"):
            self._holds.labels(kind)
        for reason in ("slow_client", "flushed"):
            self._drops.labels(reason)
        for part in ("asr", "llm", "tts"):
            self._errors.labels(part, f"{part}_failed")

    def observe(self, stage: str, seconds: float, trace_id: str = "") -> None:
        """Times one stage. stage: a key of STAGES, else KeyError. Negative times count as 0.

        trace_id: of the trace that shows it, as an exemplar.
        """
        exemplar = {"trace_id": trace_id} if trace_id else None
        self._stages[stage].observe(max(0.0, seconds), exemplar)

    def slow_turn(self) -> None:
        """Counts a turn that took longer than telemetry.slow_turn_ms."""
        self._slow_turns.inc()

    def turn_ended(self, outcome: str) -> None:
        """Counts a reply, once. outcome: completed, interrupted, cancelled or failed."""
        self._turns.labels(outcome).inc()

    def barge_in(self, *, real: bool) -> None:
        """Counts speech over a reply when it is decided: real ones cut the reply."""
        self._barge_ins.labels("true" if real else "false").inc()

    def held_back(self, kind: str) -> None:
        """Counts a hold of a reply's audio when it ends. kind: confirmed, released or heard."""
        self._holds.labels(kind).inc()

    def dropped(self, reason: str, count: int = 1) -> None:
        """Counts frames or events given up. reason: a short stable word."""
        self._drops.labels(reason).inc(count)

    def part_failed(self, part: str, code: str) -> None:
        """Counts a failure. part: asr, llm or tts; code: the event's."""
        self._errors.labels(part, code).inc()

    def reply_thrown_away(self, speech_s: float) -> None:
        """Counts a prepared reply that nobody will hear, and the speech made for it."""
        self._thrown_away.inc()
        self._thrown_away_s.inc(speech_s)

    def llm_chunk(self) -> None:
        """Counts a piece of reply text."""
        self._llm_chunks.inc()

    def session_started(self) -> None:
        """One more session is open."""
        self._active.inc()

    def session_ended(self, reason: str) -> None:
        """Counts a session, once. reason: that of the `Closed` event."""
        self._active.dec()
        self._sessions.labels(reason).inc()

    def session_refused(self, reason: str) -> None:
        """Counts a session that was not started. reason: full, overloaded or shutting_down."""
        self._refused.labels(reason).inc()

    def resume(self, outcome: str) -> None:
        """Counts a session opened with a token. outcome: resumed, expired, refused or lost; `store_failed` counts
        a failure of the store instead."""
        if outcome == "store_failed":
            self._store_failures.inc()
        else:
            self._resumes.labels(outcome).inc()

    def watch_breaker(self, part: str, state: Callable[[], float]) -> None:
        """Has a breaker's state read whenever the metrics are. part: asr, llm or tts."""
        self._breakers.labels(part).set_function(state)

    def watch_vad(self, backlog_ms: Callable[[], float]) -> None:
        """Has the detector's backlog read whenever the metrics are."""
        self._vad_backlog.set_function(lambda: backlog_ms() / 1000)

    def watch_admission(
        self, admitting: Callable[[], bool], backlog_ms: Callable[[], float], *, max_sessions: int
    ) -> None:
        """Has both read whenever the metrics are. backlog_ms: as it has lasted. max_sessions: of this process."""
        self._capacity.set(max_sessions)
        self._admitting.set_function(lambda: float(admitting()))
        self._vad_sustained.set_function(lambda: backlog_ms() / 1000)


class WorkerMetrics:
    """What only the parent of several gateway processes knows; merged with what they count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._restarts = Counter(
            "parley_worker_restarts",
            "Gateway processes started in place of one that ended",
            registry=registry,
        )
        self._by_worker = Gauge(
            "parley_worker_sessions_active", "Sessions open now, by worker", ["worker"], registry=registry
        )
        self._lost = Counter(
            "parley_sessions", "Sessions ended, by close reason", ["reason"], registry=registry
        ).labels("worker_died")

    def worker_restarted(self) -> None:
        """Counts a process that takes another's place."""
        self._restarts.inc()

    def session_lost(self) -> None:
        """Counts a session that ended with its process."""
        self._lost.inc()

    def show(self, sessions: dict[int, int]) -> None:
        """sessions: open ones by the worker's number."""
        for number, count in sessions.items():
            self._by_worker.labels(str(number)).set(count)
