"""Riva fronts for tests of several of them: real gRPC servers with health, on 127.0.0.1, 127.0.0.2, …, one port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_asr_pb2_grpc, riva_tts_pb2_grpc
from riva.client.proto import riva_tts_pb2 as rtts

from gateway.triton.fronts import Fronts

ASR = "nvidia.riva.asr.RivaSpeechRecognition"
TTS = "nvidia.riva.tts.RivaSpeechSynthesis"


class Front(
    riva_asr_pb2_grpc.RivaSpeechRecognitionServicer,  # type: ignore[misc]
    riva_tts_pb2_grpc.RivaSpeechSynthesisServicer,  # type: ignore[misc]
):
    """Hears one word, "w", in every 3,200 bytes; says who spoke and how much it got."""

    def __init__(self, host: str, port: int, *, with_health: bool = True) -> None:
        self.host, self.port, self._with_health = host, port, with_health
        self.open = self.most = self.taken = self.sentences = 0
        self.heard = asyncio.Condition()
        self.refuses = False
        self.health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> Front:
        server = self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        riva_asr_pb2_grpc.add_RivaSpeechRecognitionServicer_to_server(self, server)
        riva_tts_pb2_grpc.add_RivaSpeechSynthesisServicer_to_server(self, server)
        if self._with_health:
            health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
            await self.says(serving=True)
        assert server.add_insecure_port(self.address) == self.port
        await server.start()
        return self

    async def says(self, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in (ASR, TTS, ""):
            await self.health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def kill(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def StreamingRecognize(
        self, requests: AsyncIterator[rasr.StreamingRecognizeRequest], context: Any
    ) -> None:
        if self.refuses:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Error: draining, try again")
        self.open += 1
        self.taken += 1
        self.most = max(self.most, self.open)
        size = 0
        try:
            async for request in requests:
                size += len(request.audio_content)
                if request.audio_content:
                    await context.write(_heard("w " * (size // 3_200), final=False))
            await context.write(_heard("w " * (size // 3_200), final=True))
        finally:
            self.open -= 1

    async def GetRivaSpeechRecognitionConfig(self, request: Any, context: Any) -> Any:
        response = rasr.RivaSpeechRecognitionConfigResponse()
        response.model_config.add(model_name="m").parameters["type"] = "online"
        return response

    async def SynthesizeOnline(
        self, requests: AsyncIterator[rtts.SynthesizeSpeechRequest], context: Any
    ) -> None:
        if self.refuses:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Error: draining, try again")
        async for _ in requests:
            self.sentences += 1
            await context.write(rtts.SynthesizeSpeechResponse(audio=b"\1\0" * 100))


async def until(fronts: Fronts[Any], condition: Callable[[], bool], within_s: float = 15.0) -> None:
    """Returns when a change among the services has made the condition true."""
    servers = fronts._servers
    async with asyncio.timeout(within_s):
        while not condition():
            if servers._changed is None:
                servers._changed = asyncio.get_running_loop().create_future()
            await asyncio.shield(servers._changed)


def port_of_all(hosts: int) -> int:
    """One that is free on 127.0.0.1 … 127.0.0.`hosts`."""
    for _ in range(50):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                for n in range(2, hosts + 1):
                    with socket.socket() as other:
                        other.bind((f"127.0.0.{n}", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free on all of them")


def _heard(text: str, *, final: bool) -> rasr.StreamingRecognizeResponse:
    response = rasr.StreamingRecognizeResponse()
    response.results.add(is_final=final, stability=0.9).alternatives.add(transcript=text)
    return response
