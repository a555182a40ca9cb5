"""A thousand malformed conversations over real gRPC into real sessions: each refused, none leaves a trace."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gateway.protocol import voice_pb2 as pb
from gateway.session.manager import Sessions
from gateway.settings import SessionSettings, Settings
from gateway.telemetry.metrics import Metrics
from gateway.transports.voice_grpc import VoiceServer
from gateway.transports.voice_wire import OPUS_RATES, PCM_RATES
from tests.support.fakes import FakeLlm, FakeRecognizer, FakeTts, FakeVad

T = TypeVar("T")
PER_EXAMPLE, EXAMPLES = 25, 40
HANG_UP = pb.ClientMessage(hang_up=pb.HangUp()).SerializeToString()
REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


class Gateway:
    """The servicer and its sessions on a loop in a thread: hypothesis calls from another one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.vad, self.recognizer, self.llm, self.tts = FakeVad(), FakeRecognizer(), FakeLlm(), FakeTts()
        self.run(self._start())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    async def _start(self) -> None:
        limits = SessionSettings(max_text_chars=200, max_message_bytes=20_000)
        self.sessions = Sessions(
            Settings(session=limits),
            self.recognizer,
            self.llm,
            self.tts,
            self.vad,
            Metrics(CollectorRegistry()),
        )
        self._server = VoiceServer(self.sessions, limits, "127.0.0.1:0")
        address = await self._server.start()
        self.channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])

    async def outcomes(self, conversations: list[list[bytes]]) -> list[tuple[grpc.StatusCode, str]]:
        async with asyncio.timeout(30):
            return await asyncio.gather(*map(self._outcome, conversations))

    async def _outcome(self, messages: list[bytes]) -> tuple[grpc.StatusCode, str]:
        call: grpc.aio.StreamStreamCall[bytes, bytes] = self.channel.stream_stream(
            "/parley.v1.Voice/Converse"
        )()
        try:
            await call.wait_for_connection()
            for message in messages:
                # Not `write`: into a call that was refused meanwhile it replaces the status by one of its own.
                await call._cython_call.send_serialized_message(message)  # type: ignore[attr-defined]
            await call.done_writing()
        except (grpc.RpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            pass  # refused already
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.RpcError:
            pass
        return await call.code(), await call.details() or ""

    async def settled(self) -> None:
        """Every session is gone, and every task of theirs."""
        async with asyncio.timeout(10):
            while left := [task for task in asyncio.all_tasks() if "/gateway/" in source(task)]:
                await asyncio.wait(left)
        assert not self.sessions.snapshot()

    def stop(self) -> None:
        async def stop() -> None:
            await self.channel.close()
            await self._server.stop(0)

        self.run(stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    running = Gateway()
    yield running
    running.stop()


def source(task: asyncio.Task[Any]) -> str:
    """The file of the task's coroutine; gRPC's own are not Python."""
    code = getattr(task.get_coro(), "cr_code", None)
    return str(getattr(code, "co_filename", ""))


def message(**field: Any) -> st.SearchStrategy[bytes]:
    return st.just(pb.ClientMessage(**field).SerializeToString())


def formats(rates: tuple[int, ...], encoding: pb.Encoding.ValueType) -> st.SearchStrategy[pb.AudioFormat]:
    return st.sampled_from(rates).map(lambda rate: pb.AudioFormat(encoding=encoding, sample_rate=rate))


good_format = st.one_of(formats(PCM_RATES, pb.PCM16), formats(OPUS_RATES, pb.OPUS), st.just(pb.AudioFormat()))
good_start = st.builds(
    lambda out, lead: pb.ClientMessage(start=pb.Start(output=out, lead_ms=lead)).SerializeToString(),
    good_format,
    st.integers(0, 1_000),
)
good_later = st.one_of(
    st.binary(max_size=3_000).map(lambda pcm: pb.ClientMessage(audio=pcm).SerializeToString()),
    st.text(min_size=1, max_size=100).filter(str.strip).map(
        lambda text: pb.ClientMessage(text=pb.Text(text=text)).SerializeToString()
    ),
    message(say=pb.Say(text="welcome")),
    message(configure=pb.Settings()),
    message(commit=pb.Commit()),
    message(cancel=pb.Cancel()),
    message(truncate=pb.Truncate(reply_id="unknown", heard_ms=7)),
    message(tool_result=pb.ToolResult(call_id="unknown")),
)  # fmt: skip
bad_anywhere = st.one_of(
    st.binary(min_size=1, max_size=60).filter(lambda raw: not parses(raw)),
    st.just(b""),
    message(text=pb.Text(text=" ")),
    message(text=pb.Text(text="x" * 201)),
    message(say=pb.Say(text="")),
    message(truncate=pb.Truncate(heard_ms=-1, reply_id="r")),
    message(truncate=pb.Truncate()),
    message(tool_result=pb.ToolResult(output="x")),
    message(configure=pb.Settings(turn=pb.TurnSettings(hangover_ms=-5))),
    message(configure=pb.Settings(instructions="x" * 201)),
    message(audio=bytes(20_001)),
    st.integers(16, 2_000).map(lambda number: bytes([(number << 3 | 0) & 0x7F | 0x80, number >> 4, 1])),
)
bad_start = st.one_of(
    bad_anywhere,
    good_later,
    st.integers(-(2**31), 2**31 - 1).filter(lambda rate: rate and rate not in PCM_RATES).map(
        lambda rate: pb.ClientMessage(start=pb.Start(input=pb.AudioFormat(sample_rate=rate))).SerializeToString()
    ),
    st.integers(3, 2**31 - 1).map(
        lambda number: pb.ClientMessage(
            start=pb.Start(output=pb.AudioFormat(encoding=number))  # type: ignore[arg-type]
        ).SerializeToString()
    ),
    st.integers(1_001, 2**31 - 1).map(
        lambda lead: pb.ClientMessage(start=pb.Start(lead_ms=lead)).SerializeToString()
    ),
    message(start=pb.Start(session_id="no spaces allowed")),
)  # fmt: skip
malformed = st.one_of(
    bad_start.map(lambda first: [first]),
    st.tuples(bad_start, good_start).map(list),
    st.builds(
        lambda start, good, bad, more: [start, *good, bad, *more],
        good_start,
        st.lists(good_later, max_size=4),
        st.one_of(bad_anywhere, good_start),
        st.lists(st.one_of(good_later, bad_anywhere), max_size=2),
    ),
)
well_formed = st.builds(
    lambda start, good: [start, *good, HANG_UP], good_start, st.lists(good_later, max_size=5)
)


def parses(raw: bytes) -> bool:
    try:
        return pb.ClientMessage.FromString(raw).WhichOneof("message") is not None
    except Exception:
        return False


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(conversations=st.lists(malformed, min_size=PER_EXAMPLE, max_size=PER_EXAMPLE))
def test_malformed_conversations_are_refused_with_a_clear_status(
    gateway: Gateway, conversations: list[list[bytes]]
) -> None:
    for messages, (code, details) in zip(
        conversations, gateway.run(gateway.outcomes(conversations)), strict=True
    ):
        assert code in REFUSALS, (code, details, messages)
        assert len(details) > 20, details
        assert "Traceback" not in details
    gateway.run(gateway.settled())


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(conversations=st.lists(well_formed, min_size=PER_EXAMPLE, max_size=PER_EXAMPLE))
def test_odd_but_well_formed_conversations_are_served(
    gateway: Gateway, conversations: list[list[bytes]]
) -> None:
    """Also after all that was refused before: nothing of it stuck."""
    for messages, (code, details) in zip(
        conversations, gateway.run(gateway.outcomes(conversations)), strict=True
    ):
        assert code == grpc.StatusCode.OK, (code, details, messages)
    gateway.run(gateway.settled())
    assert not gateway.vad.open_streams
    assert gateway.recognizer.streams == gateway.recognizer.released
    assert gateway.llm.streams == gateway.llm.closed
    assert gateway.tts.streams == gateway.tts.released
