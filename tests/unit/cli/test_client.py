"""The client, the file microphone and `talk`, against the real servicer with scripted sessions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
import soundfile

from gateway.cli import main
from gateway.cli.client import CallFailed, VoiceClient
from gateway.cli.microphone import SteadyMicrophone
from gateway.session import events as ev
from gateway.settings import SessionSettings
from gateway.transports.voice_grpc import VoiceServer

Script = Callable[[ev.Connection], Awaitable[None]]
TONE = np.full(480, 1_000, "<i2").tobytes()


class Sessions:
    def __init__(self, script: Script) -> None:
        self._script = script

    async def serve(self, connection: ev.Connection) -> None:
        hello = connection.hello
        connection.send(ev.Ready(hello.session_id or "s1", hello.input_rate, hello.output_rate, "en-US", ""))
        await self._script(connection)
        connection.send(ev.Closed("client"))


@asynccontextmanager
async def gateway(script: Script) -> AsyncIterator[str]:
    server = VoiceServer(Sessions(script), SessionSettings(), "127.0.0.1:0")
    address = await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


def reply(number: int, text: str, frames: int = 3) -> list[ev.ServerEvent]:
    name = f"r{number}"
    return [
        ev.ReplyStarted(name, "t1", number),
        ev.StateChanged(ev.State.SPEAKING),
        ev.ReplyText(name, text),
        *[ev.ReplyAudio(name, number, n, n * 20, TONE) for n in range(frames)],
        ev.ReplyDone(name, ev.Outcome.COMPLETED, text, "", frames * 20, {"voice_to_voice": 300.0}),
        ev.StateChanged(ev.State.WAITING_FOR_INPUT),
    ]


async def answers_text(connection: ev.Connection) -> None:
    number = 0
    async for event in connection.events():
        if isinstance(event, ev.Close):
            return
        if isinstance(event, ev.TextIn):
            number += 1
            for out in reply(number, f"You typed {event.text}."):
                connection.send(out)


async def test_events_come_with_their_times_until_the_session_closes() -> None:
    async with gateway(answers_text) as address, VoiceClient(address) as client:
        assert client.ready is not None
        await client.send(ev.TextIn("hello"))
        await client.hang_up()
        arrivals = [arrival async for arrival in client]
    assert [type(a.event) for a in arrivals[:3]] == [ev.ReplyStarted, ev.StateChanged, ev.ReplyText]
    assert arrivals[-1].event == ev.Closed("client")
    assert [a.at for a in arrivals] == sorted(a.at for a in arrivals)


async def test_a_flush_is_answered_with_what_was_heard() -> None:
    heard: list[ev.ClientEvent] = []

    async def flushes(connection: ev.Connection) -> None:
        for out in reply(1, "Once upon a time", frames=50)[:-2]:
            connection.send(out)
        await connection.drained()
        await asyncio.sleep(0.1)
        connection.send(ev.Flushed(1, "r1"))
        async for event in connection.events():
            heard.append(event)
            return

    async with gateway(flushes) as address, VoiceClient(address) as client:
        arrivals = [arrival async for arrival in client]
    frames = sum(isinstance(a.event, ev.ReplyAudio) for a in arrivals)
    assert len(heard) == 1
    truncate = heard[0]
    assert isinstance(truncate, ev.Truncate)
    assert truncate.reply_id == "r1"
    assert 20 <= truncate.heard_ms < frames * 20
    assert client.player.dropped_ms == frames * 20 - truncate.heard_ms


async def test_a_refusal_says_why() -> None:
    async def refuses(connection: ev.Connection) -> None:
        await asyncio.sleep(0)

    async with gateway(refuses) as address:
        with pytest.raises(CallFailed, match=r"input\.sample_rate 1 is not served") as failed:
            async with VoiceClient(address, ev.Hello(input_rate=1)):
                pass
        assert failed.value.status == grpc.StatusCode.INVALID_ARGUMENT


async def test_another_grpc_server_is_no_gateway() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(CallFailed, match="not a Parley gateway"):
            async with VoiceClient(f"127.0.0.1:{port}"):
                pass
    finally:
        await server.stop(0)


async def test_sending_into_a_closed_session_fails_clearly() -> None:
    async def closes(connection: ev.Connection) -> None:
        await asyncio.sleep(0)

    async with gateway(closes) as address, VoiceClient(address) as client:
        assert [type(a.event) async for a in client] == [ev.Closed]
        with pytest.raises(CallFailed, match="ended the session"):
            await client.send(ev.TextIn("anyone?"))


async def test_the_microphone_sends_whole_frames_and_silence_after_the_clip() -> None:
    received = bytearray()

    async def listens(connection: ev.Connection) -> None:
        async for event in connection.events():
            if isinstance(event, ev.AudioIn):
                received.extend(event.pcm)
                assert len(event.pcm) == 640

    speech = np.arange(1, 1_001, dtype="<i2").tobytes()
    async with gateway(listens) as address, VoiceClient(address) as client:
        microphone = SteadyMicrophone(client, record=True)
        microphone.start()
        began, ended = await microphone.say(speech)
        second, _ = await microphone.say(speech[:200])
        await microphone.stop()
        await client.end_input()
        async for _ in client:
            pass
    assert ended - began == pytest.approx(1_000 / 16_000)
    assert second >= began + 0.06, "the schedule is real time"
    assert bytes(received) == bytes(microphone.sent or b"")
    assert bytes(received[:2_000]) == speech
    assert len(received) % 640 == 0


async def run_main(*arguments: str) -> int:
    """`parley` in a thread of its own: it brings its own loop."""
    return await asyncio.to_thread(main, arguments)


async def test_talk_text_shows_json_and_writes_the_reply_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "reply.wav"
    async with gateway(answers_text) as address:
        code = await run_main(
            "talk", "--server", address, "--text", "one", "--text", "two", "--json", "--out", str(out)
        )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [line["text"] for line in lines if line["type"] == "reply_text"] == [
        "You typed one.",
        "You typed two.",
    ]
    assert lines[0]["type"] == "ready"
    assert lines[-1]["type"] == "closed"
    samples, rate = soundfile.read(out, dtype="int16", always_2d=True)
    assert (rate, samples.shape[1]) == (24_000, 1)
    assert np.count_nonzero(samples) == 2 * 3 * 480, "both replies, and nothing else"


async def test_talk_without_an_answer_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    async def says_nothing(connection: ev.Connection) -> None:
        async for event in connection.events():
            if isinstance(event, ev.TextIn):
                connection.send(ev.Error("llm_failed", "no answer came from the language model"))
                return

    async with gateway(says_nothing) as address:
        code = await run_main("talk", "--server", address, "--text", "hello")
    caught = capsys.readouterr()
    assert code == 1
    assert "no answer came from the language model" in caught.out
    assert "Traceback" not in caught.err


async def test_a_server_that_dies_in_mid_call_ends_talk_with_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def breaks(connection: ev.Connection) -> None:
        raise RuntimeError("inner detail")

    async with gateway(breaks) as address:
        code = await run_main("talk", "--server", address, "--text", "hello")
    err = capsys.readouterr().err
    assert code == 1
    assert err.startswith("parley: ")
    assert "inner detail" not in err
    assert "Traceback" not in err
