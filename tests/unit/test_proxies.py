"""The client's address and scheme behind proxies: believed from those configured, and from nobody else."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc.aio
import pytest

from gateway.app.proxied import Proxied
from gateway.proxies import FORWARDED, X_FORWARDED, BadProxies, Client, TrustedProxies
from gateway.session.events import Connection
from gateway.settings import SessionSettings
from gateway.telemetry.context import client_address
from gateway.telemetry.http_server import serve_http
from gateway.transports.voice_grpc import VoiceServer

NET = ("10.0.0.0/8", "2001:db8::/32", "127.0.0.1")


def seen(peer: str, header: str = X_FORWARDED, **headers: str) -> Client:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return TrustedProxies(NET, header).client(peer, "http", given)


@pytest.mark.parametrize(
    ("peer", "told", "address"),
    [
        ("10.1.1.1", "192.0.2.7", "192.0.2.7"),
        ("10.1.1.1", "192.0.2.7, 10.2.2.2", "192.0.2.7"),
        (
            "10.1.1.1",
            "6.6.6.6, 192.0.2.7, 10.2.2.2",
            "192.0.2.7",
        ),  # what the client wrote itself stands before
        ("10.1.1.1", "10.9.9.9, 10.2.2.2", "10.9.9.9"),
        ("10.1.1.1", "192.0.2.7:4711", "192.0.2.7"),
        ("10.1.1.1", "[2001:dead::7]:4711", "2001:dead::7"),
        ("2001:db8::1", "2001:dead::7", "2001:dead::7"),
        ("::ffff:10.1.1.1", "192.0.2.7", "192.0.2.7"),
        ("10.1.1.1", "unknown", "10.1.1.1"),
        ("10.1.1.1", "192.0.2.7, unknown, 10.2.2.2", "10.2.2.2"),
        ("10.1.1.1", "fe80::1%level=error 6.6.6.6", "fe80::1"),
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", ",,;\x00,", "10.1.1.1"),
        ("10.1.1.1", ", ".join(["10.0.0.1"] * 5_000), "10.0.0.1"),
        ("192.0.2.9", "6.6.6.6", "192.0.2.9"),  # no proxy of ours: nothing it says counts
        ("not an address", "6.6.6.6", "not an address"),
    ],
)
def test_x_forwarded_for(peer: str, told: str, address: str) -> None:
    assert seen(peer, x_forwarded_for=told).address == address


def test_the_scheme_is_the_nearest_proxy_s() -> None:
    assert seen("10.1.1.1", x_forwarded_for="192.0.2.7", x_forwarded_proto="https") == Client(
        "192.0.2.7", "https"
    )
    assert seen("10.1.1.1", x_forwarded_for="192.0.2.7", x_forwarded_proto="http, HTTPS").scheme == "https"
    assert seen("10.1.1.1", x_forwarded_for="192.0.2.7", x_forwarded_proto="gopher").scheme == "http"
    assert seen("192.0.2.9", x_forwarded_for="6.6.6.6", x_forwarded_proto="https") == Client(
        "192.0.2.9", "http"
    )


def test_forwarded_where_it_is_configured_and_only_there() -> None:
    told = 'for=6.6.6.6, for="[2001:dead::7]:4711";proto=https;by=10.1.1.1, For=10.2.2.2;proto=http'
    assert seen("10.1.1.1", FORWARDED, forwarded=told) == Client("2001:dead::7", "https")
    assert seen("10.1.1.1", FORWARDED, forwarded="for=_hidden").address == "10.1.1.1"
    assert seen("10.1.1.1", X_FORWARDED, forwarded=told).address == "10.1.1.1"
    assert seen("10.1.1.1", FORWARDED, x_forwarded_for="6.6.6.6").address == "10.1.1.1"


def test_what_is_no_network_is_said() -> None:
    with pytest.raises(BadProxies, match="has 'the proxy', which is no address and no network: write 10"):
        TrustedProxies(["10.0.0.0/8", "the proxy"])


async def ask(app: Proxied, *headers: str) -> None:
    server = serve_http(app, "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", await server.start())
        writer.write(
            "\r\n".join(["GET / HTTP/1.1", "Host: x", *headers, "Connection: close", "", ""]).encode()
        )
        await reader.read()
        writer.close()
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (("127.0.0.0/8",), ("192.0.2.7", "https")),
        ((), ("127.0.0.1", "http")),
        (("10.0.0.0/8",), ("127.0.0.1", "http")),
    ],
)
async def test_http_apps_see_the_client(networks: tuple[str, ...], expected: tuple[str, str]) -> None:
    found: list[tuple[str, str]] = []

    async def app(scope: object, receive: object, send: object) -> None:
        assert isinstance(scope, dict)
        assert client_address.get() == scope["client"][0]
        found.append((scope["client"][0], scope["scheme"]))

    proxied = Proxied(app, TrustedProxies(networks))
    await ask(proxied, "X-Forwarded-For: 6.6.6.6", "x-forwarded-for: 192.0.2.7", "X-Forwarded-Proto: https")
    assert found == [expected]


@pytest.mark.parametrize(("networks", "expected"), [(("127.0.0.1",), "192.0.2.7"), ((), "127.0.0.1")])
async def test_the_log_of_a_call_names_the_client(networks: tuple[str, ...], expected: str) -> None:
    found: list[str] = []

    class Sessions:
        async def serve(self, connection: Connection) -> None:
            found.append(client_address.get())

    server = VoiceServer(Sessions(), SessionSettings(), "127.0.0.1:0", proxies=TrustedProxies(networks))
    from gateway.cli.client import CallFailed, VoiceClient

    address = await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = channel.stream_stream("/parley.v1.Voice/Converse")(
                metadata=(("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7"))
            )
            await call.write(VoiceClient(address)._start().SerializeToString())
            await call.done_writing()
            await call.read()
    except (grpc.aio.AioRpcError, CallFailed) as error:
        logging.getLogger(__name__).info("%s", error)
    finally:
        await server.stop(0)
    assert found == [expected]
