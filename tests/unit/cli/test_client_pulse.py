"""Network: the client answers pings, sends its own, and notices a server that is gone without a word."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from gateway.cli.client import CallFailed, VoiceClient
from gateway.protocol import voice_pb2 as pb
from gateway.session import events as ev
from gateway.settings import SessionSettings
from gateway.transports.voice_grpc import SERVICE, VoiceServer
from tests.unit.cli.test_client import Sessions


async def test_an_idle_client_that_answers_pings_is_not_lost() -> None:
    async def until_the_end_of_input(connection: ev.Connection) -> None:
        async for _ in connection.events():
            pass

    settings = SessionSettings(ping_s=0.1, lost_s=0.3)
    server = VoiceServer(Sessions(until_the_end_of_input), settings, "127.0.0.1:0")
    address = await server.start()
    try:
        async with VoiceClient(address, ping_s=0.3) as client:

            async def end_later() -> None:
                await asyncio.sleep(0.9)
                await client.end_input()

            ending = asyncio.create_task(end_later())
            assert [type(arrival.event) async for arrival in client] == [ev.Closed]
            await ending
            assert client.round_trip_s is not None
            assert 0 < client.round_trip_s < 1
    finally:
        await server.stop(0)


@pytest.mark.parametrize("answers", [1, 0])
async def test_a_server_that_falls_silent_is_noticed_if_it_ever_answered_a_ping(answers: int) -> None:
    pings = asyncio.Event()

    async def converse(_requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        left, seen = answers, 0
        while True:
            raw: object = await context.read()
            if not isinstance(raw, bytes):
                return  # the end of the stream
            message = pb.ClientMessage.FromString(raw)
            if message.HasField("start"):
                await context.write(pb.ServerMessage(ready=pb.Ready()).SerializeToString())
            elif left:
                left -= 1
                await context.write(
                    pb.ServerMessage(pong=pb.Pong(nonce=message.ping.nonce)).SerializeToString()
                )
            seen += 1
            if seen > 12:
                pings.set()

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(converse)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Converse": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with VoiceClient(f"127.0.0.1:{port}", ping_s=0.05, lost_s=0.2) as client:

            async def read_on() -> None:
                async for _ in client:
                    pass

            reading = asyncio.create_task(read_on())
            asking = asyncio.create_task(pings.wait())
            await asyncio.wait({reading, asking}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            if answers:
                with pytest.raises(CallFailed, match=r"fell silent: nothing came for 0\.2 s") as failed:
                    await reading
                assert failed.value.status is grpc.StatusCode.UNAVAILABLE
                asking.cancel()
            else:
                assert not reading.done()  # an old server is left in peace
                reading.cancel()
            await asyncio.wait({reading, asking})
    finally:
        await server.stop(0)
