"""parley.v1 messages <-> session events, both ways. No I/O, no state.

`hello` and `client_event` are the server's reading of a client; they raise `BadMessage`, whose text
tells the client what to do. `server_message` is what the server writes. `client_message` and
`server_event` are the same two roads seen from a client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.protocol import voice_pb2 as pb
from gateway.session import events as ev
from gateway.transports.pulse import Ping, Pong

PCM_RATES = (8_000, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""Hz; each has a whole number of samples in 20 ms."""
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
MAX_LEAD_MS = 1_000
HANGOVER_MS = (20, 10_000)
MAX_TOOLS = 64
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SESSION_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}")


class BadMessage(Exception):
    """The client sent what the protocol does not allow; `str()` says what to do instead."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A handshake, checked."""

    hello: ev.Hello
    input_opus: bool
    output_opus: bool


def hello(message: pb.ClientMessage, max_text_chars: int) -> Opening:
    """The first message. Raises BadMessage when it is not a `start` that can be served."""
    kind = message.WhichOneof("message")
    if kind != "start":
        raise BadMessage(
            f"the first message must be `start`, this one is {_named(kind)}; send `start` with the audio formats first"
        )
    start = message.start
    if start.session_id and not _SESSION_ID.fullmatch(start.session_id):
        raise BadMessage("session_id takes 1 to 128 letters, digits and . _ : @ -; leave it empty to get one")
    lead = start.lead_ms if start.HasField("lead_ms") else None
    if lead is not None and not 0 <= lead <= MAX_LEAD_MS:
        raise BadMessage(
            f"lead_ms must lie between 0 and {MAX_LEAD_MS}, not {lead}; leave it out for the default"
        )
    input_rate, input_opus = _format("input", start.input, 16_000)
    output_rate, output_opus = _format("output", start.output, 24_000)
    return Opening(
        ev.Hello(
            session_id=start.session_id,
            input_rate=input_rate,
            output_rate=output_rate,
            configure=_configure(start.settings, max_text_chars),
            lead_ms=lead,
            resume=start.resume if start.HasField("resume") else None,
        ),
        input_opus,
        output_opus,
    )


def client_event(message: pb.ClientMessage, max_text_chars: int) -> ev.ClientEvent | Ping | Pong:
    """Any later message; `audio` comes back as it is, decoding is the caller's. Raises BadMessage."""
    kind = message.WhichOneof("message")
    if kind == "audio":
        return ev.AudioIn(message.audio)
    if kind == "text":
        return ev.TextIn(_text("text", message.text.text, max_text_chars))
    if kind == "say":
        text = _text("say.text", message.say.text, max_text_chars)
        return ev.Say(text, interruptible=not message.say.uninterruptible)
    if kind == "configure":
        return _configure(message.configure, max_text_chars)
    if kind == "commit":
        return ev.Commit()
    if kind == "cancel":
        return ev.Cancel()
    if kind == "truncate":
        if not message.truncate.reply_id:
            raise BadMessage("truncate.reply_id is empty; send the id from `reply_started`")
        if message.truncate.heard_ms < 0:
            raise BadMessage("truncate.heard_ms must not be negative; send the ms of the reply played so far")
        return ev.Truncate(message.truncate.reply_id, message.truncate.heard_ms)
    if kind == "tool_result":
        if not message.tool_result.call_id:
            raise BadMessage("tool_result.call_id is empty; send the id from `tool_call`")
        if len(message.tool_result.output) > max_text_chars:
            raise BadMessage(f"tool_result.output has more than {max_text_chars} characters; shorten it")
        return ev.ToolResult(message.tool_result.call_id, message.tool_result.output)
    if kind == "hang_up":
        return ev.Close(message.hang_up.reason[:200] or "client hung up")
    if kind == "ping":
        return Ping(message.ping.nonce)
    if kind == "pong":
        return Pong(message.pong.nonce)
    if kind == "start":
        raise BadMessage("`start` was sent twice; send `configure` for changes, or open another stream")
    raise BadMessage("the message is empty or of a kind this server does not know; set one of its fields")


def server_message(event: ev.ServerEvent | Ping | Pong, audio: bytes | None = None) -> pb.ServerMessage:
    """What goes on the wire; `audio` replaces a frame's PCM where the wire carries another encoding."""
    if isinstance(event, ev.ReplyAudio):
        return pb.ServerMessage(
            reply_audio=pb.ReplyAudio(
                reply_id=event.reply_id,
                generation=event.generation,
                sequence=event.sequence,
                offset_ms=event.offset_ms,
                audio=event.pcm if audio is None else audio,
            )
        )
    return _TO_WIRE[type(event)](event)


def with_encodings(ready: pb.ServerMessage, opening: Opening) -> pb.ServerMessage:
    """Names in `ready` the encodings that the session itself knows nothing of."""
    ready.ready.input.encoding = pb.OPUS if opening.input_opus else pb.PCM16
    ready.ready.output.encoding = pb.OPUS if opening.output_opus else pb.PCM16
    return ready


def client_message(event: ev.ClientEvent | Ping | Pong) -> pb.ClientMessage:
    """A client's event as it goes on the wire."""
    if isinstance(event, ev.AudioIn):
        return pb.ClientMessage(audio=event.pcm)
    if isinstance(event, ev.TextIn):
        return pb.ClientMessage(text=pb.Text(text=event.text))
    if isinstance(event, ev.Say):
        return pb.ClientMessage(say=pb.Say(text=event.text, uninterruptible=not event.interruptible))
    if isinstance(event, ev.Configure):
        return pb.ClientMessage(configure=settings_message(event))
    if isinstance(event, ev.Commit):
        return pb.ClientMessage(commit=pb.Commit())
    if isinstance(event, ev.Cancel):
        return pb.ClientMessage(cancel=pb.Cancel())
    if isinstance(event, ev.Truncate):
        return pb.ClientMessage(truncate=pb.Truncate(reply_id=event.reply_id, heard_ms=event.heard_ms))
    if isinstance(event, ev.ToolResult):
        return pb.ClientMessage(tool_result=pb.ToolResult(call_id=event.call_id, output=event.output))
    if isinstance(event, Ping):
        return pb.ClientMessage(ping=pb.Ping(nonce=event.nonce))
    if isinstance(event, Pong):
        return pb.ClientMessage(pong=pb.Pong(nonce=event.nonce))
    return pb.ClientMessage(hang_up=pb.HangUp(reason=event.reason))


def settings_message(configure: ev.Configure) -> pb.Settings:
    return pb.Settings(
        instructions=configure.instructions,
        language=configure.language,
        voice=configure.voice,
        model=configure.model,
        policy=configure.policy,
        switch_model=bool(configure.switch_model),
        turn=pb.TurnSettings(
            hangover_ms=configure.hangover_ms,
            hangover_long_ms=configure.hangover_long_ms,
            automatic=configure.automatic_turns,
            barge_in=configure.barge_in,
            eager=configure.eager,
        ),
        tools=None
        if configure.tools is None
        else pb.Tools(
            tools=[
                pb.Tool(name=t.name, description=t.description, parameters=t.parameters)
                for t in configure.tools
            ]
        ),
    )


def server_event(message: pb.ServerMessage) -> ev.ServerEvent | Ping | Pong | None:
    """A server's message as a client reads it; None for a kind newer than this client."""
    kind = message.WhichOneof("message")
    read = _FROM_WIRE.get(kind) if kind else None
    return read(getattr(message, kind)) if read is not None and kind else None


# ---- reading a client ------------------------------------------------------------------------------


def _format(which: str, fmt: pb.AudioFormat, default_rate: int) -> tuple[int, bool]:
    if fmt.encoding not in (pb.ENCODING_UNSPECIFIED, pb.PCM16, pb.OPUS):
        raise BadMessage(f"{which}.encoding {fmt.encoding} is unknown; send PCM16 or OPUS")
    opus = fmt.encoding == pb.OPUS
    rate = fmt.sample_rate or default_rate
    rates = OPUS_RATES if opus else PCM_RATES
    if rate not in rates:
        name = "OPUS" if opus else "PCM16"
        raise BadMessage(
            f"{which}.sample_rate {rate} is not served as {name}; send one of {', '.join(map(str, rates))}"
        )
    return rate, opus


def _configure(settings: pb.Settings, max_text_chars: int) -> ev.Configure:
    turn = settings.turn
    instructions = settings.instructions if settings.HasField("instructions") else None
    if instructions is not None and len(instructions) > max_text_chars:
        raise BadMessage(f"settings.instructions has more than {max_text_chars} characters; shorten it")
    names: dict[str, str | None] = {}
    for name in ("language", "voice", "model", "policy"):
        names[name] = value = getattr(settings, name) if settings.HasField(name) else None
        if value is not None and len(value) > 128:
            raise BadMessage(f"settings.{name} has more than 128 characters; send a plain name")
    return ev.Configure(
        instructions=instructions,
        **names,
        switch_model=settings.switch_model or None,
        hangover_ms=_hangover("hangover_ms", turn),
        hangover_long_ms=_hangover("hangover_long_ms", turn),
        automatic_turns=turn.automatic if turn.HasField("automatic") else None,
        barge_in=turn.barge_in if turn.HasField("barge_in") else None,
        eager=turn.eager if turn.HasField("eager") else None,
        tools=_tools(settings.tools, max_text_chars) if settings.HasField("tools") else None,
    )


def _tools(offered: pb.Tools, max_text_chars: int) -> tuple[ev.Tool, ...]:
    if len(offered.tools) > MAX_TOOLS:
        raise BadMessage(f"settings.tools has {len(offered.tools)} tools, {MAX_TOOLS} are allowed")
    for tool in offered.tools:
        if not _TOOL_NAME.fullmatch(tool.name):
            raise BadMessage(
                f"settings.tools: the name {tool.name[:64]!r} is none; "
                "send 1 to 64 letters, digits, underscores or dashes"
            )
        if len(tool.description) + len(tool.parameters) > max_text_chars:
            raise BadMessage(
                f"settings.tools: {tool.name} has more than {max_text_chars} characters; shorten it"
            )
        if tool.parameters and not _is_json_object(tool.parameters):
            raise BadMessage(
                f"settings.tools: the parameters of {tool.name} are no JSON object; send a JSON schema"
            )
    return tuple(ev.Tool(t.name, t.description, t.parameters) for t in offered.tools)


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _hangover(name: str, turn: pb.TurnSettings) -> int | None:
    if name == "hangover_ms":
        value = turn.hangover_ms if turn.HasField("hangover_ms") else None
    else:
        value = turn.hangover_long_ms if turn.HasField("hangover_long_ms") else None
    low, high = HANGOVER_MS
    if value is not None and not low <= value <= high:
        raise BadMessage(f"settings.turn.{name} must lie between {low} and {high}, not {value}")
    return value


def _text(name: str, text: str, limit: int) -> str:
    if not text.strip():
        raise BadMessage(f"{name} is empty; send some words")
    if len(text) > limit:
        raise BadMessage(
            f"{name} has {len(text)} characters, {limit} are allowed; send it in several messages"
        )
    return text


def _named(kind: str | None) -> str:
    return f"`{kind}`" if kind else "empty"


# ---- writing and reading a server's events ---------------------------------------------------------

_OUTCOMES = {
    ev.Outcome.COMPLETED: pb.COMPLETED,
    ev.Outcome.INTERRUPTED: pb.INTERRUPTED,
    ev.Outcome.CANCELLED: pb.CANCELLED,
    ev.Outcome.FAILED: pb.FAILED,
}
_OUTCOMES_BACK = {number: outcome for outcome, number in _OUTCOMES.items()}


def _clean(text: str) -> str:
    """Lone surrogates (half an emoji of a model's token) have no place in protobuf."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _ready(e: ev.Ready) -> pb.ServerMessage:
    return pb.ServerMessage(
        ready=pb.Ready(
            session_id=e.session_id,
            input=pb.AudioFormat(encoding=pb.PCM16, sample_rate=e.input_rate),
            output=pb.AudioFormat(encoding=pb.PCM16, sample_rate=e.output_rate),
            language=e.language,
            voice=e.voice,
            resumed=e.resumed,
        )
    )


def _transcript(e: ev.Transcript) -> pb.ServerMessage:
    words = [pb.Word(text=w.text, start_ms=w.start_ms, end_ms=w.end_ms) for w in e.words]
    return pb.ServerMessage(
        transcript=pb.Transcript(
            turn_id=e.turn_id, text=_clean(e.text), final=e.final, stable=e.stable, words=words
        )
    )


def _reply_done(e: ev.ReplyDone) -> pb.ServerMessage:
    return pb.ServerMessage(
        reply_done=pb.ReplyDone(
            reply_id=e.reply_id,
            outcome=_OUTCOMES[e.outcome],
            text=_clean(e.text),
            unheard=_clean(e.unheard),
            heard_ms=e.heard_ms,
            timings_ms=e.timings,
        )
    )


_TO_WIRE: dict[type[Any], Callable[[Any], pb.ServerMessage]] = {
    ev.Ready: _ready,
    ev.ResumeToken: lambda e: pb.ServerMessage(
        resume_token=pb.ResumeToken(token=e.token, good_for_s=e.good_for_s)
    ),
    ev.StateChanged: lambda e: pb.ServerMessage(
        state=pb.StateChanged(state=pb.State.Value(e.state.value)),
    ),
    ev.SpeechStarted: lambda e: pb.ServerMessage(
        speech_started=pb.SpeechStarted(turn_id=e.turn_id, at_ms=e.at_ms)
    ),
    ev.SpeechStopped: lambda e: pb.ServerMessage(
        speech_stopped=pb.SpeechStopped(turn_id=e.turn_id, at_ms=e.at_ms)
    ),
    ev.Transcript: _transcript,
    ev.ReplyStarted: lambda e: pb.ServerMessage(
        reply_started=pb.ReplyStarted(reply_id=e.reply_id, turn_id=e.turn_id, generation=e.generation)
    ),
    ev.ReplyText: lambda e: pb.ServerMessage(
        reply_text=pb.ReplyText(reply_id=e.reply_id, text=_clean(e.text))
    ),
    ev.ReplyDone: _reply_done,
    ev.Flushed: lambda e: pb.ServerMessage(flushed=pb.Flushed(generation=e.generation, reply_id=e.reply_id)),
    ev.ToolCall: lambda e: pb.ServerMessage(
        tool_call=pb.ToolCall(call_id=_clean(e.call_id), name=_clean(e.name), arguments=_clean(e.arguments))
    ),
    ev.Warning: lambda e: pb.ServerMessage(warning=pb.Notice(code=e.code, message=_clean(e.message))),
    ev.Error: lambda e: pb.ServerMessage(error=pb.Notice(code=e.code, message=_clean(e.message))),
    ev.Closed: lambda e: pb.ServerMessage(
        closed=pb.Closed(reason=e.reason, message=e.message, retryable=e.retryable)
    ),
    Ping: lambda e: pb.ServerMessage(ping=pb.Ping(nonce=e.nonce)),
    Pong: lambda e: pb.ServerMessage(pong=pb.Pong(nonce=e.nonce)),
}

_FROM_WIRE: dict[str, Callable[[Any], ev.ServerEvent | Ping | Pong]] = {
    "ready": lambda m: ev.Ready(
        m.session_id, m.input.sample_rate, m.output.sample_rate, m.language, m.voice, m.resumed
    ),
    "resume_token": lambda m: ev.ResumeToken(m.token, m.good_for_s),
    "state": lambda m: ev.StateChanged(ev.State(pb.State.Name(m.state))),
    "speech_started": lambda m: ev.SpeechStarted(m.turn_id, m.at_ms),
    "speech_stopped": lambda m: ev.SpeechStopped(m.turn_id, m.at_ms),
    "transcript": lambda m: ev.Transcript(
        m.turn_id, m.text, m.final, m.stable, tuple(ev.Word(w.text, w.start_ms, w.end_ms) for w in m.words)
    ),
    "reply_started": lambda m: ev.ReplyStarted(m.reply_id, m.turn_id, m.generation),
    "reply_text": lambda m: ev.ReplyText(m.reply_id, m.text),
    "reply_audio": lambda m: ev.ReplyAudio(m.reply_id, m.generation, m.sequence, m.offset_ms, m.audio),
    "reply_done": lambda m: ev.ReplyDone(
        m.reply_id, _OUTCOMES_BACK[m.outcome], m.text, m.unheard, m.heard_ms, dict(m.timings_ms)
    ),
    "flushed": lambda m: ev.Flushed(m.generation, m.reply_id),
    "tool_call": lambda m: ev.ToolCall(m.call_id, m.name, m.arguments),
    "warning": lambda m: ev.Warning(m.code, m.message),
    "error": lambda m: ev.Error(m.code, m.message),
    "closed": lambda m: ev.Closed(m.reason, m.message, m.retryable),
    "ping": lambda m: Ping(m.nonce),
    "pong": lambda m: Pong(m.nonce),
}
