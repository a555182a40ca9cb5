"""The mapping between parley.v1 and session events."""

from __future__ import annotations

import dataclasses

import pytest

from gateway.protocol import voice_pb2 as pb
from gateway.session import events as ev
from gateway.transports import voice_wire as wire

LIMIT = 100

SERVER_EVENTS: list[ev.ServerEvent] = [
    ev.ResumeToken(b"sealed", 600),
    ev.Ready("s1", 16_000, 24_000, "en-US", "slt"),
    *[ev.StateChanged(state) for state in ev.State],
    ev.SpeechStarted("t1", 120),
    ev.SpeechStopped("t1", 3_120),
    ev.Transcript("t1", "hello there", False, 5),
    ev.Transcript("t1", "hello", True, 5, (ev.Word("hello", 10, 400),)),
    ev.ReplyStarted("r1", "t1", 7),
    ev.ReplyText("r1", "Once upon a time "),
    ev.ReplyAudio("r1", 7, 3, 60, b"\x01\x02" * 480),
    *[ev.ReplyDone("r1", outcome, "heard", "cut", 340, {"asr_final": 12.5}) for outcome in ev.Outcome],
    ev.Flushed(7, "r1"),
    ev.ToolCall("c1", "weather", "{}"),
    ev.Warning("asr_retry", "trying again"),
    ev.Error("llm_failed", "no answer"),
    ev.Closed("idle", "nothing was said", True),
]

CLIENT_EVENTS: list[ev.ClientEvent] = [
    ev.AudioIn(b"\x00\x01"),
    ev.TextIn("hello"),
    ev.Say("welcome"),
    ev.Say("welcome", interruptible=False),
    ev.Configure(),
    ev.Configure("be kind", "de-DE", "slt", "tts_flite", "edge", True, 300, 900, False, False, True),
    ev.Commit(),
    ev.Cancel(),
    ev.Truncate("r1", 340),
    ev.ToolResult("c1", "sunny"),
    ev.Close("bye"),
]


def test_every_server_event_survives_the_wire() -> None:
    assert {type(e) for e in SERVER_EVENTS} == set(ev.ServerEvent.__args__)
    for event in SERVER_EVENTS:
        raw = wire.server_message(event).SerializeToString()
        assert wire.server_event(pb.ServerMessage.FromString(raw)) == event


def test_every_client_event_survives_the_wire() -> None:
    assert {type(e) for e in CLIENT_EVENTS} == set(ev.ClientEvent.__args__)
    for event in CLIENT_EVENTS:
        raw = wire.client_message(event).SerializeToString()
        assert wire.client_event(pb.ClientMessage.FromString(raw), LIMIT) == event


def test_encoded_audio_replaces_the_pcm() -> None:
    message = wire.server_message(ev.ReplyAudio("r", 1, 0, 0, b"pcm!"), b"packet")
    assert message.reply_audio.audio == b"packet"


def test_text_that_is_no_unicode_does_not_break_the_wire() -> None:
    message = wire.server_message(ev.ReplyText("r1", "half \ud83d of it"))
    assert wire.server_event(message) == ev.ReplyText("r1", "half ? of it")


def test_a_server_message_of_the_future_is_ignored() -> None:
    assert wire.server_event(pb.ServerMessage()) is None


def test_the_formats_default_to_pcm16_at_16_and_24_khz() -> None:
    opening = wire.hello(pb.ClientMessage(start=pb.Start()), LIMIT)
    assert opening == wire.Opening(ev.Hello("", 16_000, 24_000, ev.Configure(), None), False, False)


def test_a_full_handshake_is_understood() -> None:
    start = pb.Start(
        session_id="room-7",
        input=pb.AudioFormat(encoding=pb.OPUS, sample_rate=48_000),
        output=pb.AudioFormat(encoding=pb.PCM16, sample_rate=8_000),
        settings=wire.settings_message(ev.Configure(instructions="be brief", hangover_ms=200)),
        lead_ms=0,
    )
    opening = wire.hello(pb.ClientMessage(start=start), LIMIT)
    assert opening.input_opus
    assert not opening.output_opus
    assert opening.hello == ev.Hello(
        "room-7", 48_000, 8_000, ev.Configure(instructions="be brief", hangover_ms=200), 0
    )


BAD_STARTS = {
    "audio first": (pb.ClientMessage(audio=b"\0\0"), "must be `start`, this one is `audio`"),
    "empty first": (pb.ClientMessage(), "must be `start`, this one is empty"),
    "input rate": (pb.ClientMessage(start=pb.Start(input=pb.AudioFormat(sample_rate=12_345))), "input.sample_rate 12345"),
    "output rate": (pb.ClientMessage(start=pb.Start(output=pb.AudioFormat(sample_rate=96_000))), "output.sample_rate 96000"),
    "negative rate": (pb.ClientMessage(start=pb.Start(input=pb.AudioFormat(sample_rate=-1))), "input.sample_rate -1"),
    "opus rate": (pb.ClientMessage(start=pb.Start(input=pb.AudioFormat(encoding=pb.OPUS, sample_rate=44_100))), "as OPUS"),
    "encoding": (pb.ClientMessage(start=pb.Start(input=pb.AudioFormat(encoding=9))), "input.encoding 9"),  # type: ignore[arg-type]
    "lead": (pb.ClientMessage(start=pb.Start(lead_ms=1_001)), "lead_ms"),
    "negative lead": (pb.ClientMessage(start=pb.Start(lead_ms=-1)), "lead_ms"),
    "session id": (pb.ClientMessage(start=pb.Start(session_id="two words")), "session_id"),
    "long instructions": (
        pb.ClientMessage(start=pb.Start(settings=pb.Settings(instructions="x" * 101))),
        "settings.instructions",
    ),
    "hangover": (
        pb.ClientMessage(start=pb.Start(settings=pb.Settings(turn=pb.TurnSettings(hangover_ms=0)))),
        "hangover_ms",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_STARTS)
def test_bad_first_message_is_refused_with_what_to_do(name: str) -> None:
    message, says = BAD_STARTS[name]
    with pytest.raises(wire.BadMessage, match=says):
        wire.hello(message, LIMIT)


BAD_MESSAGES = {
    "second start": (pb.ClientMessage(start=pb.Start()), "sent twice"),
    "empty oneof": (pb.ClientMessage(), "empty or of a kind"),
    "empty text": (pb.ClientMessage(text=pb.Text(text="  ")), "text is empty"),
    "long text": (pb.ClientMessage(text=pb.Text(text="x" * 101)), "101 characters, 100 are allowed"),
    "long say": (pb.ClientMessage(say=pb.Say(text="x" * 101)), "say.text"),
    "truncate without id": (pb.ClientMessage(truncate=pb.Truncate(heard_ms=5)), "reply_id"),
    "negative truncate": (pb.ClientMessage(truncate=pb.Truncate(reply_id="r", heard_ms=-5)), "negative"),
    "tool result without id": (pb.ClientMessage(tool_result=pb.ToolResult(output="x")), "call_id"),
    "long tool result": (
        pb.ClientMessage(tool_result=pb.ToolResult(call_id="c", output="x" * 101)),
        "tool_result.output",
    ),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_bad_later_message_is_refused_with_what_to_do(name: str) -> None:
    message, says = BAD_MESSAGES[name]
    with pytest.raises(wire.BadMessage, match=says):
        wire.client_event(message, LIMIT)


def test_every_field_of_configure_has_a_place_on_the_wire() -> None:
    names = {f.name for f in dataclasses.fields(ev.Configure)}
    on_wire = {f.name for f in pb.Settings.DESCRIPTOR.fields} - {"turn"}
    on_wire |= {f.name for f in pb.TurnSettings.DESCRIPTOR.fields} - {"automatic"} | {"automatic_turns"}
    assert names == on_wire
