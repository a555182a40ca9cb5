"""Network: application-level pings both ways, and a peer that is gone without a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from gateway.protocol import voice_pb2 as pb
from gateway.session import events as ev
from gateway.settings import SessionSettings
from gateway.transports import voice_wire as wire
from gateway.transports.pulse import Ping, Pong, Pulse
from tests.support.virtual_time import run_virtual
from tests.unit.transports.test_voice_grpc import START, converse, echo_events, hear, recorder, say, serving


class Wire:
    """One stream as the pulse sees it; `answering` clients take a second for each pong."""

    def __init__(self, *, answering: bool) -> None:
        self.heard = self.spoken = self.answers = False
        self.pings: list[float] = []
        self.gone_at: float | None = None
        self.answering = answering

    def ping(self, ping: Ping) -> None:
        loop = asyncio.get_running_loop()
        self.pings.append(loop.time())
        if self.answering:
            loop.call_later(1.0, self._pong)

    def _pong(self) -> None:
        self.heard = self.answers = True

    def give_up(self, why: str) -> None:
        assert "answer to a ping" in why
        self.gone_at = asyncio.get_running_loop().time()


def longest_pause(times: list[float], until: float) -> float:
    return max(b - a for a, b in zip([0.0, *times], [*times, until], strict=True))


def test_an_idle_client_is_pinged_more_often_than_once_a_minute() -> None:
    async def main() -> None:
        settings = SessionSettings()
        pulse = Pulse(ping_s=settings.ping_s, lost_s=settings.lost_s)
        stream = Wire(answering=True)
        pulse.add(stream)
        await asyncio.sleep(600)
        pulse.discard(stream)
        assert longest_pause(stream.pings, 600) <= 25.0 < 60.0
        assert len(stream.pings) <= 600 / settings.ping_s
        assert stream.gone_at is None

    run_virtual(main())


def test_a_busy_stream_is_left_alone() -> None:
    async def main() -> None:
        pulse, stream = Pulse(ping_s=20, lost_s=50), Wire(answering=True)
        pulse.add(stream)
        for _ in range(60):
            stream.heard = stream.spoken = True
            await asyncio.sleep(10)
        pulse.discard(stream)
        assert stream.pings == []

    run_virtual(main())


def test_a_client_that_only_listens_is_asked_whether_it_is_there() -> None:
    async def main() -> None:
        pulse, stream = Pulse(ping_s=20, lost_s=50), Wire(answering=True)
        pulse.add(stream)
        for _ in range(200):
            stream.spoken = True  # a long reply
            await asyncio.sleep(1)
        assert longest_pause(stream.pings, 200) <= 30
        stream.answering = False
        silent_since = asyncio.get_running_loop().time()
        for _ in range(100):
            stream.spoken = True
            await asyncio.sleep(1)
        assert stream.gone_at is not None
        assert 50 <= stream.gone_at - silent_since + 5 <= 65

    run_virtual(main())


def test_a_client_that_answered_once_and_fell_silent_is_lost_and_an_old_one_is_not() -> None:
    async def main() -> None:
        pulse = Pulse(ping_s=20, lost_s=50)
        new, old = Wire(answering=True), Wire(answering=False)
        pulse.add(new)
        pulse.add(old)
        await asyncio.sleep(100)
        new.answering = False
        await asyncio.sleep(500)
        assert new.gone_at is not None
        assert 130 <= new.gone_at <= 180
        assert [at for at in new.pings if at > new.gone_at] == []
        assert old.gone_at is None
        assert longest_pause(old.pings, 600) <= 25.0  # it still holds the way open for it
        pulse.discard(old)

    run_virtual(main())  # fails too when the timer outlives the last stream


def test_all_streams_share_one_timer_and_it_ends_with_the_last() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pulse, streams = Pulse(ping_s=20, lost_s=50), [Wire(answering=True) for _ in range(100)]
        for stream in streams:
            pulse.add(stream)
        assert len([t for t in loop._scheduled if not t.cancelled()]) == 1  # type: ignore[attr-defined]
        for stream in streams:
            pulse.discard(stream)
            pulse.discard(stream)
        assert not [t for t in loop._scheduled if not t.cancelled()]  # type: ignore[attr-defined]

    run_virtual(main())


@pytest.mark.parametrize("event", [Ping(0), Ping(2**64 - 1), Pong(7)])
def test_pings_survive_the_wire_both_ways(event: Ping | Pong) -> None:
    up = pb.ClientMessage.FromString(wire.client_message(event).SerializeToString())
    assert wire.client_event(up, 100) == event
    down = pb.ServerMessage.FromString(wire.server_message(event).SerializeToString())
    assert wire.server_event(down) == event


# ---- on a real stream --------------------------------------------------------------------------

QUICK = SessionSettings(ping_s=0.1, lost_s=0.3)


async def messages(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> AsyncIterator[pb.ServerMessage]:
    while (raw := await call.read()) is not grpc.aio.EOF:
        assert isinstance(raw, bytes)
        yield pb.ServerMessage.FromString(raw)


async def all_messages(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> list[pb.ServerMessage]:
    return [message async for message in messages(call)]


async def test_a_client_gets_its_nonce_back_and_the_session_sees_nothing_of_it() -> None:
    seen: list[ev.ClientEvent] = []
    async with serving(recorder(seen)) as (channel, _sessions):
        call = converse(channel)
        await say(call, START, pb.ClientMessage(ping=pb.Ping(nonce=41)))
        assert (await hear(call)).pong.nonce == 41
        await say(call, pb.ClientMessage(pong=pb.Pong(nonce=9)), pb.ClientMessage(text=pb.Text(text="x")))
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert seen == [ev.TextIn("x")]


async def test_an_idle_stream_is_pinged_and_one_that_answers_stays() -> None:
    async with serving(echo_events, QUICK) as (channel, sessions):
        call = converse(channel)
        await say(call, START)
        assert (await hear(call)).HasField("ready")
        nonces = []
        async with asyncio.timeout(10):
            async for message in messages(call):
                nonces.append(message.ping.nonce)
                await say(call, pb.ClientMessage(pong=pb.Pong(nonce=message.ping.nonce)))
                if len(nonces) == 6:  # well past lost_s
                    break
        assert nonces == [1, 2, 3, 4, 5, 6]
        assert not sessions.ended
        call.cancel()


async def test_a_stream_on_which_both_talk_is_not_pinged() -> None:
    async def answers(connection: ev.Connection) -> None:
        async for _ in connection.events():
            connection.send(ev.StateChanged(ev.State.LISTENING))

    async with serving(answers, SessionSettings(ping_s=0.8, lost_s=2.0)) as (channel, _sessions):
        call = converse(channel)
        await say(call, START)
        for _ in range(30):
            await say(call, pb.ClientMessage(text=pb.Text(text="x")))
            assert (await hear(call)).HasField("state")
            await asyncio.sleep(0.04)
        call.cancel()


async def test_a_client_that_stops_answering_is_closed_as_lost_with_a_status_to_retry_on() -> None:
    async with serving(echo_events, QUICK) as (channel, sessions):
        call = converse(channel)
        await say(call, START, pb.ClientMessage(pong=pb.Pong()))
        with pytest.raises(grpc.RpcError):
            await asyncio.wait_for(all_messages(call), 10)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert (await call.details()).startswith("closed as lost: nothing came from the client")
        await sessions.over.wait()
        assert sessions.ended == ["peer gone"]


async def test_a_client_that_knows_no_pings_is_left_in_peace() -> None:
    async with serving(echo_events, QUICK) as (channel, sessions):
        call = converse(channel)
        await say(call, START)
        pings = 0
        async with asyncio.timeout(10):
            async for message in messages(call):
                pings += message.HasField("ping")
                if pings == 8:
                    break
        assert not sessions.ended
        call.cancel()


async def test_a_client_that_ended_its_side_cannot_answer_and_is_not_lost() -> None:
    go_on = asyncio.Event()

    async def long_reply(connection: ev.Connection) -> None:
        async for _ in connection.events():
            pass
        await go_on.wait()
        connection.send(ev.Closed("client"))

    async with serving(long_reply, QUICK) as (channel, _sessions):
        call = converse(channel)
        await say(call, START, pb.ClientMessage(pong=pb.Pong()))
        await call.done_writing()
        kinds = []
        async with asyncio.timeout(10):
            async for message in messages(call):
                kinds.append(message.WhichOneof("message"))
                if kinds.count("ping") == 6:
                    go_on.set()
        assert kinds[-1] == "closed"
        assert await call.code() is grpc.StatusCode.OK
