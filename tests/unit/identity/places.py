"""Every listener of Parley with credentials configured, and the real clients that call it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import httpx2
import openai
import riva.client
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.app import Gateway, Speech, StandInLlm
from gateway.identity.keys import KeyRecord, digest, new_key, write_keys
from gateway.protocol import tts_pb2, tts_pb2_grpc
from gateway.protocol import voice_pb2 as pb
from gateway.settings import Settings
from load.emulators import Emulators, Profile
from load.emulators.profile import LlmProfile
from tests.support.issuer import Issuer

DAY = timedelta(days=1)


@dataclass
class Places:
    gateway: Gateway
    speech: dict[str, str]
    llm: str
    keys: dict[str, str]
    """By name: the keys themselves."""
    file: Path
    records: list[KeyRecord]
    issuer: Issuer
    clients: list[openai.AsyncOpenAI] = field(default_factory=list)

    def write(self) -> None:
        self.file.write_text(write_keys(self.records))

    def openai(self, key: str, base: str) -> openai.AsyncOpenAI:
        """Without a key the official client sends none: its header is left out."""
        made = openai.AsyncOpenAI(
            base_url=base,
            api_key=key or "none",
            default_headers={} if key else {"Authorization": openai.Omit()},
            max_retries=0,
            timeout=10,
            http_client=httpx2.AsyncClient(verify=False),
        )
        self.clients.append(made)
        return made

    # Each returns "ok", or the protocol's own status.

    async def voice(self, key: str) -> str:
        async def call(channel: grpc.aio.Channel, metadata: Any) -> None:
            stream = channel.stream_stream("/parley.v1.Voice/Converse")(metadata=metadata)
            await stream.write(pb.ClientMessage(start=pb.Start()).SerializeToString())
            first = await stream.read()
            if first is grpc.aio.EOF:
                await stream.code()
                raise _Status(await stream.code(), await stream.trailing_metadata())
            stream.cancel()

        return await _grpc(self.gateway.grpc, key, call)

    async def reflection(self, key: str) -> str:
        return await _grpc(self.gateway.grpc, key, _reflect)

    async def speech_reflection(self, key: str) -> str:
        return await _grpc(self.speech["riva"], key, _reflect)

    async def audio(self, key: str) -> str:
        return await _openai(self.openai(key, f"{self.gateway.http}/v1").models.list())

    async def say(self, key: str) -> str:
        client = self.openai(key, f"{self.gateway.http}/v1")
        return await _openai(
            client.audio.speech.create(model="tts-1", voice="default", input="Yes.", response_format="pcm")
        )

    async def client_secrets(self, key: str) -> str:
        return await _openai(self.openai(key, f"{self.gateway.http}/v1").realtime.client_secrets.create())

    async def metrics(self, key: str) -> str:
        return await _http(f"{self.gateway.admin}/metrics", key)

    async def sessions(self, key: str) -> str:
        return await _http(f"{self.gateway.admin}/v1/sessions", key)

    async def speech_metrics(self, key: str) -> str:
        return await _http(f"{self.speech['speech_http']}/metrics", key)

    async def riva_asr(self, key: str) -> str:
        def call() -> object:
            service = riva.client.ASRService(self._riva_auth(key))
            config = riva.client.RecognitionConfig(
                language_code="en-US", sample_rate_hertz=16_000, encoding=1
            )
            return service.offline_recognize(bytes(3_200), config)

        return await _riva(call)

    async def riva_stream(self, key: str) -> str:
        def call() -> object:
            service = riva.client.ASRService(self._riva_auth(key))
            config = riva.client.StreamingRecognitionConfig(
                config=riva.client.RecognitionConfig(
                    language_code="en-US", sample_rate_hertz=16_000, encoding=1
                )
            )
            return list(service.streaming_response_generator([bytes(3_200)], config))

        return await _riva(call)

    async def riva_tts(self, key: str) -> str:
        def call() -> object:
            service = riva.client.SpeechSynthesisService(self._riva_auth(key))
            return service.synthesize("Yes.", language_code="en-US")

        return await _riva(call)

    async def tts_api(self, key: str) -> str:
        async def call(channel: grpc.aio.Channel, metadata: Any) -> None:
            await tts_pb2_grpc.TtsStub(channel).ListVoices(tts_pb2.ListVoicesRequest(), metadata=metadata)

        return await _grpc(self.speech["riva"], key, call)

    def _riva_auth(self, key: str) -> riva.client.Auth:
        given = [["authorization", f"Bearer {key}"]] if key else []
        return riva.client.Auth(uri=self.speech["riva"], metadata_args=given)


class _Status(Exception):
    def __init__(self, code: grpc.StatusCode, trailing: Any) -> None:
        super().__init__(code.name)
        self.code, self.trailing = code, trailing


async def _reflect(channel: grpc.aio.Channel, metadata: Any) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for _ in stub.ServerReflectionInfo(iter([request]), metadata=metadata):
        return


async def _grpc(address: str, key: str, call: Callable[[grpc.aio.Channel, Any], Awaitable[None]]) -> str:
    metadata = (("authorization", f"Bearer {key}"),) if key else None
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            async with asyncio.timeout(10):
                await call(channel, metadata)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        except _Status as status:
            return str(status.code.name)
    return "ok"


async def _riva(call: Callable[[], object]) -> str:
    try:
        await asyncio.to_thread(call)
    except grpc.RpcError as error:
        return str(error.code().name)  # type: ignore[attr-defined]
    return "ok"


async def _openai(call: Awaitable[object]) -> str:
    try:
        await call
    except openai.APIStatusError as error:
        assert isinstance(error.body, dict)
        assert {"message", "type", "param", "code"} <= error.body.keys()  # OpenAI's shape
        return str(error.status_code)
    return "ok"


async def _http(url: str, key: str) -> str:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        if answer.status != 200:
            assert (await answer.json())["error"]["message"]
        return "ok" if answer.status == 200 else str(answer.status)


@asynccontextmanager
async def places(folder: Path, **auth: Any) -> AsyncIterator[Places]:
    """Keys by what they are: the names of scopes, "expired", "revoked", "all"; auth: over the section's settings."""
    now = datetime.now(UTC)
    keys = {
        name: new_key()
        for name in ("voice", "audio", "speech", "metrics", "admin", "all", "expired", "revoked", "spare")
    }
    every = ("voice", "audio", "speech", "metrics", "admin")
    records = [
        KeyRecord(
            name,
            digest(key),
            (name,) if name in every else every,
            expires=now - DAY if name == "expired" else None,
            revoked=now if name == "revoked" else None,
        )
        for name, key in keys.items()
    ]
    file = folder / "keys.yaml"
    file.write_text(write_keys(records))
    parts = Emulators(Profile(llm=LlmProfile(replies=("Yes.",))))
    addresses = await parts.open()
    async with Issuer() as issuer:
        section = {"keys": file, "jwt_issuer": issuer.url, "sealing_key": "s" * 40, **auth}
        anywhere = "127.0.0.1:0"
        settings = Settings(
            **{
                "asr": {"uri": addresses.asr},
                "llm": {"base_url": addresses.llm, "retries": 0},
                "tts": {"uri": addresses.triton, "chunk_ms": 200},
                "triton": {"uri": "127.0.0.1:1"},  # nobody there: whoever is let in learns that
                "listen": dict.fromkeys(("grpc", "http", "admin", "riva", "speech_http", "llm"), anywhere),
                "session": {"drain_s": 0.0},
                "auth": section,
                "stand_in": {"api_key": keys["all"]},
            }
        )
        gateway, speech, llm = Gateway(settings), Speech(settings), StandInLlm(settings)
        await gateway.start()
        await speech.start()
        await llm.start()
        made = Places(gateway, speech.endpoints(), llm.endpoints()["llm"], keys, file, records, issuer)
        try:
            yield made
        finally:
            for client in made.clients:
                await client.close()
            for service in (gateway, speech, llm):
                await service.stop()
            await parts.close()
