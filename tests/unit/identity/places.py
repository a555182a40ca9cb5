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
from gateway.cli.client import CallFailed, VoiceClient
from gateway.identity.keys import KeyRecord, digest, new_key, write_keys
from gateway.protocol import tts_pb2, tts_pb2_grpc
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
        """Without a key the official client refuses to call: then its header is taken out."""

        async def take_out(request: httpx2.Request) -> None:
            if not key:
                del request.headers["authorization"]

        made = openai.AsyncOpenAI(
            base_url=base,
            api_key=key or "none",
            max_retries=0,
            timeout=10,
            http_client=httpx2.AsyncClient(verify=False, event_hooks={"request": [take_out]}),
        )
        self.clients.append(made)
        return made

    # Each returns "ok", or the protocol's own status.

    async def voice(self, key: str) -> str:
        try:
            async with VoiceClient(self.gateway.grpc, api_key=key):
                return "ok"
        except CallFailed as failed:
            return failed.status.name if failed.status else str(failed)

    async def reflection(self, key: str) -> str:
        return await _reflection(self.gateway.grpc, key)

    async def speech_reflection(self, key: str) -> str:
        return await _reflection(self.speech["riva"], key)

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

        return await _blocking(call)

    async def riva_stream(self, key: str) -> str:
        def call() -> object:
            service = riva.client.ASRService(self._riva_auth(key))
            config = riva.client.StreamingRecognitionConfig(
                config=riva.client.RecognitionConfig(
                    language_code="en-US", sample_rate_hertz=16_000, encoding=1
                )
            )
            return list(service.streaming_response_generator([bytes(3_200)], config))

        return await _blocking(call)

    async def riva_tts(self, key: str) -> str:
        def call() -> object:
            service = riva.client.SpeechSynthesisService(self._riva_auth(key))
            return service.synthesize("Yes.", language_code="en-US")

        return await _blocking(call)

    async def tts_api(self, key: str) -> str:
        async def call(channel: grpc.aio.Channel, metadata: Any) -> None:
            stub: Any = tts_pb2_grpc.TtsStub(channel)  # type: ignore[no-untyped-call]
            await stub.ListModels(tts_pb2.ListModelsRequest(), metadata=metadata)

        return await _grpc(self.speech["riva"], key, call)

    def _riva_auth(self, key: str) -> riva.client.Auth:
        given = [["authorization", f"Bearer {key}"]] if key else []
        return riva.client.Auth(uri=self.speech["riva"], metadata_args=given)


async def _reflection(address: str, key: str) -> str:
    def call() -> object:
        metadata = (("authorization", f"Bearer {key}"),) if key else None
        with grpc.insecure_channel(address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            return next(stub.ServerReflectionInfo(iter([request]), metadata=metadata))

    return await _blocking(call)


async def _grpc(address: str, key: str, call: Callable[[grpc.aio.Channel, Any], Awaitable[None]]) -> str:
    metadata = (("authorization", f"Bearer {key}"),) if key else None
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            async with asyncio.timeout(10):
                await call(channel, metadata)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
    return "ok"


async def _blocking(call: Callable[[], object]) -> str:
    try:
        await asyncio.to_thread(call)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "ok"


async def _openai(call: Awaitable[object]) -> str:
    try:
        await call
    except openai.APIStatusError as error:
        shaped = isinstance(error.body, dict) and {"message", "type", "param", "code"} <= error.body.keys()
        return str(error.status_code) if shaped else f"{error.status_code} not in OpenAI's shape"
    return "ok"


async def _http(url: str, key: str) -> str:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
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
        section: dict[str, Any] = {"keys": file, "jwt_issuer": issuer.url, "sealing_key": "s" * 40, **auth}
        anywhere = "127.0.0.1:0"
        sections: dict[str, Any] = {
            "asr": {"uri": addresses.asr},
            "llm": {"base_url": addresses.llm, "retries": 0},
            "tts": {"uri": addresses.triton, "chunk_ms": 200},
            "triton": {"uri": "127.0.0.1:1"},  # nobody there: whoever is let in learns that
            "listen": dict.fromkeys(("grpc", "http", "admin", "riva", "speech_http", "llm"), anywhere),
            "session": {"drain_s": 0.0},
            "auth": section,
            "stand_in": {"api_key": keys["all"]},
        }
        settings = Settings(**sections)
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
