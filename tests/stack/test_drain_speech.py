"""A speech service that drains, as a process: calls of the official Riva client in flight end, new ones find another."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import riva.client
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.protocol import tts_pb2, tts_pb2_grpc
from load.clips import ensure_clips
from tests.support.raw_http import request
from tests.support.stack import CHECKOUT, TEST_MODELS, Stack, shared_stack, skip_without_triton

pytestmark = pytest.mark.stack
triton_stack = shared_stack("asr_light", "tts_light", repository=TEST_MODELS, scope="module")

RATE, STEP_S = 16_000, 0.1
SPOKEN_S = 20
RIVA = ("nvidia.riva.asr.RivaSpeechRecognition", "nvidia.riva.tts.RivaSpeechSynthesis", "")
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Process:
    running: asyncio.subprocess.Process
    riva: str
    http: str

    async def get(self, path: str) -> tuple[int, Any]:
        status, _, text = await request(int(self.http.rpartition(":")[2]), "GET", path)
        return status, json.loads(text)

    async def ended(self, within_s: float = 10.0) -> int:
        async with asyncio.timeout(within_s):
            return await self.running.wait()


@asynccontextmanager
async def speech(stack: Stack, drain_s: float) -> AsyncIterator[Process]:
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "serve", "speech", "--riva", "127.0.0.1:0", "--http", "127.0.0.1:0",
        "--triton", stack.triton.grpc, stdout=asyncio.subprocess.PIPE, cwd=CHECKOUT,
        env=os.environ | {"PARLEY_SESSION__DRAIN_S": f"{drain_s:g}", "PARLEY_MODELS__ASR": "asr_light",
                          "PARLEY_MODELS__TTS": "tts_light", "PARLEY_TRITON__REPOSITORIES": str(TEST_MODELS)},
    )  # fmt: skip
    try:
        assert running.stdout is not None
        async with asyncio.timeout(30):
            words = (await running.stdout.readline()).decode().split()
        yield Process(running, words[words.index("riva") + 1], words[words.index("speech_http") + 1])
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


class Client(threading.Thread):
    """The official client in a thread, as its users run it."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.auth = riva.client.Auth(uri=address)
        self.begun, self.enough = threading.Event(), threading.Event()
        self.failed: grpc.RpcError | None = None

    def run(self) -> None:
        try:
            self.work()
        except grpc.RpcError as error:
            self.failed = error
        finally:
            self.begun.set()

    def work(self) -> None:
        raise NotImplementedError


class Speaker(Client):
    """Speaks at real time until it is enough."""

    sent, heard_s = 0, 0.0
    ended = False
    sentences = 0

    def __init__(self, address: str, clip: bytes) -> None:
        """clip: said again and again."""
        super().__init__(address)
        self.clip = clip

    def work(self) -> None:
        settings = riva.client.StreamingRecognitionConfig(
            config=riva.client.RecognitionConfig(
                encoding=riva.client.AudioEncoding.LINEAR_PCM, sample_rate_hertz=RATE, language_code="en-US"
            ),
            interim_results=True,
        )
        for response in riva.client.ASRService(self.auth).streaming_response_generator(
            self.audio(), settings
        ):
            for result in response.results:
                self.begun.set()
                self.heard_s = result.audio_processed
                self.ended = result.is_final and bool(result.alternatives[0].transcript)
                self.sentences += self.ended

    def audio(self) -> Iterator[bytes]:
        step = 2 * int(RATE * STEP_S)
        while not self.enough.wait(STEP_S):
            at = self.sent * step % len(self.clip)
            yield self.clip[at : at + step].ljust(step, b"\0")
            self.sent += 1


class Listener(Client):
    """Takes a long sentence as slowly as it likes."""

    heard_s = 0.0

    def work(self) -> None:
        service = riva.client.SpeechSynthesisService(self.auth)
        text = f"Tone 440 for {SPOKEN_S * 1000}"
        for response in service.synthesize_online(text, sample_rate_hz=RATE):
            self.heard_s += len(response.audio) / 2 / RATE
            self.begun.set()
            self.enough.wait()


class Api(Client):
    """Speaks through parley.v1.Tts, as long as text may come."""

    frames = 0

    def work(self) -> None:
        stub: Any = tts_pb2_grpc.TtsStub(self.auth.channel)  # type: ignore[no-untyped-call]
        session = stub.StartSession(tts_pb2.StartSessionRequest()).session_id

        def asked() -> Iterator[Any]:
            yield tts_pb2.SynthesizeRequest(session_id=session, text="Tone 440 for 200. ", flush=True)
            self.enough.wait()

        for response in stub.Synthesize(asked()):
            self.frames += response.HasField("frame")
            self.begun.set()


async def until(happened: Callable[[], bool], within_s: float = 20.0) -> None:
    """Of a client, whose thread tells nobody."""
    async with asyncio.timeout(within_s):
        while True:
            if happened():
                return
            await asyncio.sleep(0.05)


def clip() -> bytes:
    """The shortest there is of those that load's callers say."""
    manifest = ensure_clips()
    shortest: dict[str, Any] = min(json.loads(manifest.read_text()), key=lambda one: int(one["duration_ms"]))
    return (manifest.parent / str(shortest["file"])).read_bytes()


def refused(address: str, channel: grpc.Channel | None = None) -> grpc.StatusCode:
    """The status of a new call, over a connection that is there or over a new one."""
    auth = riva.client.Auth(uri=address)
    if channel is not None:
        auth.channel = channel
    service = riva.client.SpeechSynthesisService(auth)
    with pytest.raises(grpc.RpcError) as told:
        service.synthesize("hello", sample_rate_hz=RATE)
    code: grpc.StatusCode = told.value.code()
    return code


async def test_calls_in_flight_end_and_new_ones_are_sent_elsewhere(triton_stack: Stack) -> None:
    async with speech(triton_stack, 15.0) as process, grpc.aio.insecure_channel(process.riva) as channel:
        clients: list[Client] = [
            Speaker(process.riva, clip()),
            Speaker(process.riva, clip()),
            Listener(process.riva),
        ]
        for client in clients:
            client.start()
        for client in clients:
            assert await asyncio.to_thread(client.begun.wait, 10)
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in RIVA]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        status, body = await process.get("/drain")
        assert (status, body) == (200, {"status": "serving", "left": 3})
        hook = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", "drain", "--admin", process.http, "--timeout", "14",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=CHECKOUT,
        )  # fmt: skip
        for watch in watches:
            async with asyncio.timeout(10):
                assert (await watch.read()).status == NOT_SERVING
        status, body = await process.get("/readyz")
        assert (status, body["status"]) == (503, "draining")
        status, body = await process.get("/healthz")
        assert (status, body) == (200, {"status": "ok"})
        assert (await process.get("/drain"))[1]["left"] == 3
        for known in (None, clients[0].auth.channel):
            code = await asyncio.to_thread(refused, process.riva, known)
            assert code is grpc.StatusCode.UNAVAILABLE, known
        assert hook.returncode is None
        one, other, listener = clients
        assert isinstance(one, Speaker)
        assert isinstance(other, Speaker)
        assert isinstance(listener, Listener)
        before_s = [one.heard_s, other.heard_s]
        await until(lambda: one.heard_s > before_s[0] + 0.5 and other.heard_s > before_s[1] + 0.5)
        for client in clients:
            client.enough.set()
            await asyncio.to_thread(client.join, 10)
            assert client.failed is None
        assert one.ended
        assert other.ended
        assert listener.heard_s == pytest.approx(SPOKEN_S, abs=0.1)
        out, _ = await asyncio.wait_for(hook.communicate(), 10)
        assert hook.returncode == 0
        assert out.startswith(b"drained in "), out
        process.running.send_signal(signal.SIGTERM)
        assert await process.ended(5.0) == 0


async def test_at_the_end_of_the_grace_those_who_still_speak_are_told_to_connect_again(
    triton_stack: Stack,
) -> None:
    async with speech(triton_stack, 1.5) as process:
        speaker, api = Speaker(process.riva, clip()), Api(process.riva)
        for client in (speaker, api):
            client.start()
        assert await asyncio.to_thread(speaker.begun.wait, 10)
        loop = asyncio.get_running_loop()
        began = loop.time()
        process.running.send_signal(signal.SIGTERM)
        for client in (speaker, api):
            await asyncio.to_thread(client.join, 10)
            assert client.failed is not None
            assert client.failed.code() is grpc.StatusCode.UNAVAILABLE, client.failed
        assert 1.0 < loop.time() - began < 3.0
        assert await process.ended() == 0


async def test_a_stream_of_several_sentences_outlives_the_drain_of_its_own_triton() -> None:
    """As in a pod: the hooks of both containers are run at once, and there is no other Triton."""
    skip_without_triton()
    with Stack(("asr_light", "tts_light"), repositories=(TEST_MODELS,)) as own:
        async with speech(own, 25.0) as process:
            speaker = Speaker(process.riva, clip() + bytes(2 * int(1.5 * RATE)))
            speaker.start()
            assert await asyncio.to_thread(speaker.begun.wait, 10)
            hooks = [
                await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "gateway.cli", "drain", *options, "--timeout", "24",
                    stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=CHECKOUT,
                ) for options in (("--admin", process.http), ("triton", "--triton", own.triton.grpc))
            ]  # fmt: skip
            stdout = hooks[1].stdout
            assert stdout is not None
            assert b"asr_light" in await asyncio.wait_for(stdout.readline(), 10)
            before = speaker.sentences
            await until(lambda: speaker.failed is not None or speaker.sentences >= before + 2)
            assert speaker.failed is None
            assert [hook.returncode for hook in hooks] == [None, None], "there is somebody left"
            speaker.enough.set()
            await asyncio.to_thread(speaker.join, 10)
            assert speaker.failed is None
            for hook in hooks:
                out, _ = await asyncio.wait_for(hook.communicate(), 10)
                assert hook.returncode == 0, out
            process.running.send_signal(signal.SIGTERM)
            assert await process.ended(5.0) == 0
