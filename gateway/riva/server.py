"""The speech service: Riva's ASR and TTS gRPC APIs over the models of one Triton."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping

import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from riva.client.proto import riva_asr_pb2_grpc, riva_tts_pb2_grpc

from gateway.listen.silero import SileroVad
from gateway.riva.asr import SpeechRecognition
from gateway.riva.catalog import Catalog
from gateway.riva.health import SERVICES, Health
from gateway.riva.malformed import RefuseMalformed
from gateway.riva.tts import SpeechSynthesis
from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import Array
from gateway.triton.errors import TritonUnavailable
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.model_info import ModelInfo
from gateway.triton.repository import Repository
from gateway.triton.stream import Drains

_REFRESH_S = 5.0
_MAX_MESSAGE = 64 << 20
GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    # What a stream may hold here unread: 8 s of PCM16 at 16 kHz. Left to itself the window grows to megabytes.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 << 10),
    ("grpc.so_reuseport", 0),  # a taken port is an error, not a second listener
    # A client that vanished without a word is noticed, and its model released.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class SpeechServer:
    """`start()`, then `stop()` once. Triton may come and go meanwhile: requests say so, health follows."""

    def __init__(
        self,
        triton_address: str,
        listen_address: str,
        *,
        ssl: bool = False,
        request_s: float = 5.0,
        max_streams: int = 1_000,
    ) -> None:
        """triton_address: host:port of Triton's gRPC. listen_address: host:port, port 0 takes any.

        ssl: TLS towards Triton. request_s: longest wait for the answer to a chunk of audio, and for
        each chunk of a synthesis. max_streams: RPCs at a time; more are refused.
        """
        self._triton_address = triton_address
        self._listen_address = listen_address
        self._ssl = ssl
        self._request_s = request_s
        self._max_streams = max_streams
        self._server: grpc.aio.Server | None = None
        self._channel: grpc.aio.Channel | None = None
        self._vad: SileroVad | None = None
        self._drains = Drains(deadline_s=request_s)
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Returns the bound host:port. Raises OSError when the address cannot be bound."""
        channel = self._channel = open_channel(self._triton_address, ssl=self._ssl)
        stub = GRPCInferenceServiceStub(channel)
        catalog = Catalog(Repository(channel))
        # No waiting for company here: audio also comes faster than it was spoken.
        vad = self._vad = SileroVad(tick_ms=0)

        def open_call(model: ModelInfo) -> SequenceCall:
            return SequenceCall(
                stub,
                model.name,
                drains=self._drains,
                decoupled=model.decoupled,
                batched=model.max_batch_size > 0,
            )

        def synthesize(
            model: ModelInfo, inputs: Mapping[str, Array]
        ) -> AsyncGenerator[dict[str, Array], None]:
            return stream_decoupled(
                stub,
                model.name,
                inputs,
                drains=self._drains,
                first_deadline_s=self._request_s,
                next_deadline_s=self._request_s,
            )

        server = self._server = grpc.aio.server(
            options=GRPC_OPTIONS, interceptors=[RefuseMalformed()], maximum_concurrent_rpcs=self._max_streams
        )
        recognition = SpeechRecognition(catalog, open_call, vad, chunk_deadline_s=self._request_s)
        riva_asr_pb2_grpc.add_RivaSpeechRecognitionServicer_to_server(recognition, server)
        riva_tts_pb2_grpc.add_RivaSpeechSynthesisServicer_to_server(
            SpeechSynthesis(catalog, synthesize), server
        )
        checks = Health(catalog)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        host, _, port = self._listen_address.rpartition(":")
        try:
            bound = server.add_insecure_port(self._listen_address)
        except RuntimeError:
            bound = 0
        if bound == 0:
            await self.stop(0)
            raise OSError(
                f"cannot listen on {self._listen_address}: port {port} is taken, or the host is not ours"
            )
        await server.start()
        await checks.update()
        self._watch = asyncio.create_task(_follow(checks), name="speech models")
        return f"{host}:{bound}"

    async def check(self) -> None:
        """Whether the speech service can be used. Raises TritonError with a sentence when it cannot."""
        channel = self._channel
        if channel is None or not await Repository(channel).is_live(deadline_s=1.0):
            raise TritonUnavailable(f"Triton does not answer at {self._triton_address}.")

    async def settled(self) -> None:
        """Returns once no model works for a client that went away."""
        await self._drains.close()

    async def stop(self, grace_s: float) -> None:
        """No new calls; those that run get `grace_s`. May be called twice."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_s)
        await self._drains.close()
        vad, self._vad = self._vad, None
        if vad is not None:
            await vad.close()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


async def _follow(checks: Health) -> None:
    """Models come and go without telling: look now and then, for watchers and for the next request."""
    while True:
        await asyncio.sleep(_REFRESH_S)
        await checks.update()
