"""Running services: keys revoked under open calls, client secrets from browsers, our own keys on the way, logs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_asr_pb2_grpc

from gateway.app import Gateway, Speech, StandInLlm
from gateway.cli import main
from gateway.cli.client import CallFailed, VoiceClient
from gateway.identity.keys import KeyRecord, digest, new_key, write_keys
from gateway.session import events as ev
from gateway.settings import Settings
from gateway.settings_secrets import secrets_of
from gateway.telemetry.logs import setup_logging
from tests.unit.identity.places import Places, places


def revoke(here: Places, name: str) -> None:
    here.records = [
        replace(one, revoked=datetime.now(UTC)) if one.name == name else one for one in here.records
    ]
    here.write()


async def test_a_revoked_key_loses_its_sessions_within_two_seconds_and_others_keep_theirs(
    tmp_path: Path,
) -> None:
    async with places(tmp_path) as here:
        grpc_address = here.gateway.grpc
        async with (
            VoiceClient(grpc_address, api_key=here.keys["voice"]) as client,
            VoiceClient(grpc_address, api_key=here.keys["all"]) as other,
        ):
            began = time.monotonic()
            revoke(here, "voice")
            assert await here.voice(here.keys["voice"]) == "UNAUTHENTICATED"  # at once for new ones
            with pytest.raises(CallFailed, match="was revoked") as caught:
                async for _ in client:
                    pass
            assert time.monotonic() - began < 2
            assert caught.value.status is grpc.StatusCode.UNAUTHENTICATED
            await other.send(ev.TextIn("Hello."))
            async for arrival in other:
                if isinstance(arrival.event, ev.ReplyStarted):
                    break
            assert len(await here.gateway.shown.sessions()) == 1


async def test_a_revoked_key_loses_its_streams_of_speech(tmp_path: Path) -> None:
    async with places(tmp_path) as here, grpc.aio.insecure_channel(here.speech["riva"]) as channel:
        stub: Any = riva_asr_pb2_grpc.RivaSpeechRecognitionStub(channel)
        metadata = (("authorization", f"Bearer {here.keys['speech']}"),)

        async def nothing_yet() -> AsyncIterator[rasr.StreamingRecognizeRequest]:
            await asyncio.Event().wait()
            yield rasr.StreamingRecognizeRequest()

        call = stub.StreamingRecognize(nothing_yet(), metadata=metadata)
        reading = asyncio.ensure_future(call.code())
        await asyncio.wait({reading}, timeout=0.2)
        assert not reading.done()
        revoke(here, "speech")
        async with asyncio.timeout(3):
            assert await reading is grpc.StatusCode.UNAUTHENTICATED
        assert "was revoked" in await call.details()


async def test_a_revoked_key_loses_its_requests(tmp_path: Path) -> None:
    async with places(tmp_path) as here:
        port = int(here.gateway.http.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n"
            b"content-type: multipart/form-data; boundary=b\r\n"
            + f"authorization: Bearer {here.keys['audio']}\r\n\r\n".encode()
        )
        heard = asyncio.create_task(reader.readuntil(b"}"))
        await asyncio.wait({heard}, timeout=0.2)
        assert not heard.done()
        revoke(here, "audio")
        async with asyncio.timeout(3):
            answer = await heard
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"was revoked" in answer
        writer.close()


async def test_two_sessions_at_the_limits_edge_admit_one(tmp_path: Path) -> None:
    async with places(tmp_path, max_sessions=1) as here:
        opened: list[VoiceClient] = []

        async def start() -> str:
            client = VoiceClient(here.gateway.grpc, api_key=here.keys["voice"])
            try:
                await client.connect()
            except CallFailed as failed:
                await client.close()
                return f"{failed.status.name if failed.status else ''}: {failed}"
            opened.append(client)
            return "in"

        answers = sorted(await asyncio.gather(start(), start()))
        assert answers[1] == "in"
        assert answers[0].startswith("RESOURCE_EXHAUSTED: voice has 1 calls open")
        await opened[0].close()
        async with asyncio.timeout(5):
            while await start() != "in":  # once the server has seen the first one go
                pass
        await opened[1].close()


async def test_a_browser_talks_with_a_client_secret(tmp_path: Path) -> None:
    async with places(tmp_path) as here:
        client = here.openai(here.keys["voice"], f"{here.gateway.http}/v1")
        made = await client.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 120},
            session={
                "type": "realtime",
                "instructions": "Be kind.",
                "audio": {"input": {"transcription": {"language": "de-DE"}}},
            },
        )
        assert abs(made.expires_at - time.time() - 120) < 5
        assert made.session.type == "realtime"
        assert made.session.instructions == "Be kind."
        async with VoiceClient(here.gateway.grpc, api_key=made.value) as talking:
            assert talking.ready is not None
            assert talking.ready.language == "de-DE"
        hello = ev.Hello(configure=ev.Configure(language="fr-FR"))
        async with VoiceClient(here.gateway.grpc, hello, api_key=made.value) as talking:
            assert talking.ready is not None
            assert talking.ready.language == "fr-FR"  # what the client asks for itself goes first
        assert await here.client_secrets(made.value) == "403"
        assert await here.audio(made.value) == "403"
        assert await here.sessions(made.value) == "403"
        revoke(here, "voice")
        assert await here.voice(made.value) == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"expires_after": {"seconds": 9}}, "from 10 to 7200"),
        ({"expires_after": {"seconds": 7_201}}, "from 10 to 7200"),
        ({"expires_after": {"anchor": "now", "seconds": 60}}, "must be an object"),
        ({"expires_after": 60}, "must be an object"),
        ({"session": {"type": "transcription"}}, "must be realtime"),
        ({"session": "x"}, "must be an object"),
        ({"session": {"instructions": "x" * 9_000}}, "more than 6144 bytes"),
        ({"voice": "ann"}, "Unknown parameter: 'voice'"),
    ],
)
async def test_what_a_client_secret_cannot_be(body: dict[str, Any], says: str, tmp_path: Path) -> None:
    import openai

    async with places(tmp_path) as here:
        client = here.openai(here.keys["voice"], f"{here.gateway.http}/v1")
        with pytest.raises(openai.BadRequestError, match=says):
            await client.post("/realtime/client_secrets", body=body, cast_to=object)


async def test_our_own_keys_arrive(tmp_path: Path) -> None:
    """The gateway's key at our speech front and at the LLM: with it they answer, with another they do not."""
    key, file = new_key(), tmp_path / "keys.yaml"
    file.write_text(write_keys([KeyRecord("internal", digest(key), ("speech",))]))
    anywhere = dict.fromkeys(("grpc", "http", "admin", "riva", "speech_http", "llm"), "127.0.0.1:0")
    sections: dict[str, Any] = {
        "listen": anywhere, "auth": {"keys": file}, "triton": {"uri": "127.0.0.1:1"},
        "stand_in": {"api_key": key}, "session": {"drain_s": 0.0},
    }  # fmt: skip
    speech, llm = Speech(Settings(**sections)), StandInLlm(Settings(**sections))
    await speech.start()
    await llm.start()
    try:
        for given, refused in ((key, False), ("wrong", True)):
            riva = {"uri": speech.endpoints()["riva"], "api_key": given}
            gateway = Gateway(
                Settings(
                    **sections
                    | {
                        "asr": riva,
                        "tts": riva | {"kind": "riva"},
                        "llm": {"base_url": llm.endpoints()["llm"], "api_key": given},
                    }
                )
            )
            await gateway.start()
            try:
                parts = await gateway.shown.parts()
            finally:
                await gateway.stop()
            assert parts["llm"]["ok"] is not refused
            for part in ("asr", "tts"):  # no Triton is there: who is let in hears of that
                assert ("refused the credentials" in parts[part]["error"]) is refused, parts
    finally:
        await speech.stop()
        await llm.stop()


async def test_talk_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with places(tmp_path) as here:
        command = ["talk", "--text", "Hello.", "--server", here.gateway.grpc]

        async def talk(*more: str) -> tuple[int, str]:
            code = await asyncio.to_thread(main, [*command, *more])
            return code, capsys.readouterr().err

        code, said = await talk()
        assert code == 3
        assert "asks for an API key: give it with --api-key or PARLEY_API_KEY" in said
        code, said = await talk("--api-key", "wrong")
        assert code == 3
        assert "this API key is not known here" in said
        code, said = await talk("--api-key", here.keys["audio"])
        assert code == 3
        assert "it takes the scope voice" in said
        monkeypatch.setenv("PARLEY_API_KEY", here.keys["voice"])
        assert (await talk())[0] == 0


async def test_no_credential_is_logged(tmp_path: Path) -> None:
    """Whatever callers show, and whatever the settings hold, at the most talkative level."""
    log = tmp_path / "log"
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with log.open("w") as stream:
        try:
            async with places(tmp_path) as here:
                settings = Settings(auth={"sealing_key": "planted-" * 8}, stand_in={"api_key": "planted-too"})
                assert {"planted-" * 8, "planted-too"} <= set(secrets_of(settings))
                setup_logging("debug", secrets=secrets_of(settings), stream=stream)
                token = here.issuer.token(scope="other", aud="x")
                for place in ("voice", "audio", "riva_asr", "metrics", "client_secrets"):
                    for given in (*here.keys.values(), token, new_key()):
                        await getattr(here, place)(given)
                logging.getLogger("test").error("a request came: authorization: Bearer abc.def %s", token)
                logging.getLogger("test").error("key %s", here.keys["voice"])
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
    text = log.read_text()
    assert "***" in text
    for planted in (*here.keys.values(), token, "abc.def", "planted"):
        assert planted not in text
