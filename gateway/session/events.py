"""The only vocabulary between a transport and a session.

A transport turns its wire into the events of the first half and the events of the second half into
its wire; nothing else crosses. Audio is PCM16, little-endian, mono, at the rate the connection
declares; compressed wires are decoded and encoded by the transport.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable


class State(StrEnum):
    IDLE = "IDLE"
    LISTENING = "LISTENING"
    WAITING_FOR_INPUT = "WAITING_FOR_INPUT"
    SPEAKING = "SPEAKING"
    BARGED_IN = "BARGED_IN"
    TERMINATED = "TERMINATED"


# ---- from the client ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AudioIn:
    """Microphone audio; any length, also odd: half a sample is carried over."""

    pcm: bytes
    """PCM16 at the connection's input rate."""


@dataclass(frozen=True, slots=True)
class TextIn:
    """What the user typed; makes a turn of its own, interrupting a reply."""

    text: str
    """UTF-8, at most `session.max_text_chars` characters."""


@dataclass(frozen=True, slots=True)
class Say:
    """Words for the assistant to speak as they are, without the LLM."""

    text: str
    """UTF-8, at most `session.max_text_chars` characters."""
    interruptible: bool = True
    """False: speech over it does not stop it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask the client to call."""

    name: str
    """As in `ToolCall.name`."""
    description: str = ""
    """For the model."""
    parameters: str = ""
    """JSON schema of the arguments; empty: none."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Changes for the turns to come; None leaves a value as it is."""

    instructions: str | None = None
    """System prompt of this session."""
    language: str | None = None
    """BCP-47, for recognition and synthesis."""
    voice: str | None = None
    """Voice name of the TTS model."""
    model: str | None = None
    """The TTS model by name; empty: the policy chooses."""
    policy: str | None = None
    """Name of a routing policy."""
    switch_model: bool | None = None
    """True: this change may take another model than the session has; else that is refused."""
    hangover_ms: int | None = None
    """Silence (ms) that ends a turn whose transcript looks finished."""
    hangover_long_ms: int | None = None
    """Silence (ms) that ends any other turn."""
    automatic_turns: bool | None = None
    """False: a turn ends only on `Commit` (push to talk)."""
    barge_in: bool | None = None
    """False: speech does not interrupt a reply."""
    eager: bool | None = None
    """True: the LLM may start on a stable partial transcript."""
    tools: tuple[Tool, ...] | None = None
    """Replaces all tools offered before."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The user's turn ends now."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the reply that is prepared or spoken; history keeps what was heard."""


@dataclass(frozen=True, slots=True)
class Truncate:
    """The client's report of how much of a reply it has played; corrects the pacing clock."""

    reply_id: str
    """The reply meant; unknown ids are refused with an error."""
    heard_ms: int
    """Played so far, in ms of that reply's audio."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The answer to a `ToolCall`."""

    call_id: str
    """The call answered; unknown ids are refused with an error."""
    output: str
    """JSON or plain text."""


@dataclass(frozen=True, slots=True)
class Close:
    """The client hangs up."""

    reason: str = "client hung up"
    """For the log."""


ClientEvent = AudioIn | TextIn | Say | Configure | Commit | Cancel | Truncate | ToolResult | Close


# ---- to the client -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """First event of every session."""

    session_id: str
    """The client's own id if it gave one, else a random one."""
    input_rate: int
    """Hz of the audio expected."""
    output_rate: int
    """Hz of the audio sent."""
    language: str
    """BCP-47 in force."""
    voice: str
    """Voice in force; empty is the model's default."""
    resumed: bool = False
    """The history of an earlier session is there."""


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """Goes on with this conversation on another connection (`Hello.resume`); each takes the place of the one before."""

    token: bytes
    """Opaque and sealed; at most `resume.max_bytes`."""
    good_for_s: int
    """From now on, s."""


@dataclass(frozen=True, slots=True)
class StateChanged:
    state: State
    """The state entered."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    turn_id: str
    """The turn that this speech belongs to."""
    at_ms: int
    """Onset, ms of input audio since the session began."""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    turn_id: str
    """The turn that this speech belongs to."""
    at_ms: int
    """End of speech (before the hangover), ms of input audio."""


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    """As recognised."""
    start_ms: int
    """From the start of the utterance's audio."""
    end_ms: int
    """From the start of the utterance's audio."""


@dataclass(frozen=True, slots=True)
class Transcript:
    turn_id: str
    """The turn recognised."""
    text: str
    """The whole utterance so far."""
    final: bool
    """True once per utterance; it will not change."""
    stable: int = 0
    """Leading characters that will not change."""
    words: tuple[Word, ...] = ()
    """With times, where the recogniser gives them."""


@dataclass(frozen=True, slots=True)
class ReplyStarted:
    reply_id: str
    """Names this reply in every later event."""
    turn_id: str
    """The turn answered; empty for `Say`."""
    generation: int
    """Of the audio that follows."""


@dataclass(frozen=True, slots=True)
class ReplyText:
    """A piece of text, sent when its audio starts to be sent."""

    reply_id: str
    """The reply it belongs to."""
    text: str
    """The piece, with its spacing: all pieces joined are the reply."""


@dataclass(frozen=True, slots=True)
class ReplyAudio:
    """20 ms of reply audio."""

    reply_id: str
    """The reply it belongs to."""
    generation: int
    """Never at or below a generation that was flushed."""
    sequence: int
    """Counts a generation's frames from 0."""
    offset_ms: int
    """Where this frame lies in the reply's audio, ms."""
    pcm: bytes
    """PCM16, 20 ms at the connection's output rate."""


class Outcome(StrEnum):
    """How a reply ended."""

    COMPLETED = "completed"
    """Heard to its end."""
    INTERRUPTED = "interrupted"
    """Cut by the user's speech, text or truncation."""
    CANCELLED = "cancelled"
    """Stopped by `Cancel`, by the hang-up or by shutdown."""
    FAILED = "failed"
    """A part failed; history keeps what was heard."""


@dataclass(frozen=True, slots=True)
class ReplyDone:
    reply_id: str
    """The reply that ended."""
    outcome: Outcome
    """How it ended."""
    text: str
    """What was heard of it, and went into history."""
    unheard: str = ""
    """What an interruption cut."""
    heard_ms: int = 0
    """Audio heard, ms."""
    timings: dict[str, float] = field(default_factory=dict)
    """Stage latencies, ms: keys and meaning in docs/reference/metrics.md."""


@dataclass(frozen=True, slots=True)
class Flushed:
    """Drop every buffered frame of this generation and below; none will follow."""

    generation: int
    """The newest generation given up."""
    reply_id: str = ""
    """The reply it belonged to."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    call_id: str
    """Echoed by `ToolResult`."""
    name: str
    """The function's name."""
    arguments: str
    """JSON."""


@dataclass(frozen=True, slots=True)
class Warning:
    code: str
    """Stable, for programs: `asr_retry`, `audio_dropped`, …"""
    message: str
    """For people."""


@dataclass(frozen=True, slots=True)
class Error:
    """Something failed; the session lives on unless `Closed` follows."""

    code: str
    """Stable, for programs: `asr_failed`, `llm_failed`, `tts_failed`, `bad_request`, …"""
    message: str
    """What happened and what to do; never a secret, never a traceback."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Last event of every session."""

    reason: str
    """Stable: `client`, `idle`, `duration`, `turns`, `shutdown`, `replaced`, `slow_client`, `lost`, `internal`."""
    message: str = ""
    """For people."""
    retryable: bool = False
    """True: connect again (elsewhere)."""


ServerEvent = (
    Ready
    | ResumeToken
    | StateChanged
    | SpeechStarted
    | SpeechStopped
    | Transcript
    | ReplyStarted
    | ReplyText
    | ReplyAudio
    | ReplyDone
    | Flushed
    | ToolCall
    | Warning
    | Error
    | Closed
)


@dataclass(frozen=True, slots=True)
class Hello:
    """What a client asks for in its handshake, already validated by the transport."""

    session_id: str = ""
    """Empty: the server makes one. A live session of the same id is replaced."""
    input_rate: int = 16_000
    """Hz, 8,000 to 48,000."""
    output_rate: int = 24_000
    """Hz, 8,000 to 48,000."""
    configure: Configure = Configure()
    """Instructions, language, voice, turn settings."""
    lead_ms: int | None = None
    """Playout lead (ms) a transport asks for; None is the setting."""
    caller: str = ""
    """Who calls, where credentials are asked for; only they can resume the session."""
    resume: bytes | None = None
    """The newest `ResumeToken` of an earlier session; empty: none yet, but send some; None: the client keeps none."""
    trace: tuple[tuple[str, str], ...] = ()
    """The client's W3C trace context: `traceparent`, `tracestate`; empty: none."""


class Connection(Protocol):
    """What a transport hands to a session. A test's connection is a list."""

    @property
    def hello(self) -> Hello:
        """The handshake; read once, before the first event."""
        ...

    def events(self) -> AsyncIterator[ClientEvent]:
        """Incoming events; ends on a clean end of input, raises `ConnectionError` when the peer is gone."""
        ...

    def send(self, event: ServerEvent) -> None:
        """Queue an event; never blocks, never raises. On `Flushed(g)` unsent frames of generation ≤ g are dropped."""
        ...

    def backlog_ms(self) -> int:
        """Reply audio queued here and not yet taken by the wire, ms."""
        ...

    async def drained(self) -> None:
        """Returns when everything queued was handed to the wire or the peer is gone."""
        ...


@runtime_checkable
class PushesAudio(Protocol):
    """A connection that can hand audio over as it comes in, without waking the task that reads its events."""

    on_audio: Callable[[bytes], bool] | None
    """Called with PCM16 at the input rate, in order with the events, while one is waited for. Does not raise;
    False leaves the audio to come as an event."""
