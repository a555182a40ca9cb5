"""Certificates and their authority are replaced under open calls, at every listener and towards every part."""

from __future__ import annotations

import asyncio
import http.client
import logging
import shutil
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import ClientTls, TlsSettings
from gateway.tls.client import HTTP1, ClientSecurity
from gateway.tls.server import H2
from load.emulators.app import Emulators
from load.emulators.profile import LlmProfile, Profile
from tests.support.caller import Caller
from tests.support.certificates import Folder, client_leaf, s_client, serial_of, server_leaf
from tests.support.terminator import terminator
from tests.unit.tls.parts import LISTENERS, everything

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
PAGES = {"http": "/healthz", "admin": "/healthz", "speech_http": "/healthz", "llm": "/v1/models"}


class Kept:
    """One HTTP connection that stays open."""

    def __init__(self, address: str, path: str, context: ssl.SSLContext) -> None:
        host, _, port = address.rpartition(":")
        self._path = path
        self._connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
        self._socket: object = None

    def get(self) -> int:
        self._connection.request("GET", self._path)
        answer = self._connection.getresponse()
        answer.read()
        if self._socket is None:
            self._socket = self._connection.sock
        assert self._connection.sock is self._socket, "the connection was closed"
        return answer.status

    def close(self) -> None:
        self._connection.close()


async def test_nothing_open_drops_and_new_handshakes_use_the_new_certificates(tmp_path: Path) -> None:
    old, new = trustme.CA(), trustme.CA()
    servers, ours, callers = (Folder(tmp_path / name) for name in ("servers", "ours", "callers"))
    first, second, own = server_leaf(old), server_leaf(new), client_leaf(new)
    servers.put(first, old)
    ours.put(client_leaf(old), old)
    callers.put(client_leaf(old), old, new)
    caller_tls = ClientSecurity(callers.client_tls(), "the gateway")
    parts = Emulators(Profile(llm=LlmProfile(replies=("One.",))))
    async with AsyncExitStack() as stack:
        at = await parts.open()
        stack.push_async_callback(parts.close)
        demanding = TlsSettings(**servers.server())
        asr = await stack.enter_async_context(terminator(at.asr, demanding, H2))
        tts = await stack.enter_async_context(terminator(at.triton, demanding, H2))
        plain_llm = at.llm.removeprefix("http://").removesuffix("/v1")
        llm = await stack.enter_async_context(terminator(plain_llm, demanding, HTTP1))
        stand = await stack.enter_async_context(
            everything(
                servers.server(),
                asr={"uri": asr.address, "ssl": True, "tls": ours.client()},
                tts={"uri": tts.address, "ssl": True, "tls": ours.client()},
                llm={"base_url": f"https://{llm.address}/v1", "tls": ours.client()},
            )
        )
        call = await stack.enter_async_context(Caller(stand.address("grpc"), security=caller_tls))
        riva = grpc.aio.secure_channel(stand.address("riva"), caller_tls.credentials())
        stack.push_async_callback(riva.close)
        watching = health_pb2_grpc.HealthStub(riva).Watch(health_pb2.HealthCheckRequest(service=""))
        await watching.read()
        context = caller_tls.context(HTTP1)
        kept = {key: Kept(stand.address(key), path, context) for key, path in PAGES.items()}

        async def all_answer() -> None:
            for connection in kept.values():
                assert await asyncio.to_thread(connection.get) == 200
            answer = await call.ask("Go on.")
            assert (answer.done.outcome, answer.errors) == ("completed", [])
            assert answer.frames
            assert not watching.done()

        async def shown() -> set[str]:
            mine = ("-cert", str(callers.cert), "-key", str(callers.key))
            return {
                (await asyncio.to_thread(s_client, stand.address(key), *mine)).serial for key in LISTENERS
            }

        try:
            await all_answer()
            assert await shown() == {serial_of(first)}

            servers.put(second, old, new)
            ours.put(own, old, new)
            await all_answer()
            assert await shown() == {serial_of(second)}
            ready = Kept(stand.address("admin"), "/readyz", context)
            assert await asyncio.to_thread(ready.get) == 200  # the recogniser was asked
            ready.close()
            llm.cut()
            await all_answer()
            assert {part.seen[-1] for part in (asr, tts, llm)} == {serial_of(own)}

            servers.put(
                second, new
            )  # the old authority is gone: whom it vouched for stays, and does not come back
            await all_answer()
            with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
                await asyncio.to_thread(Kept(stand.address("http"), "/healthz", context).get)
            callers.put(client_leaf(new), new)
            assert await shown() == {serial_of(second)}
            await all_answer()
        finally:
            for connection in kept.values():
                connection.close()


async def test_broken_files_leave_what_there_was_and_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = trustme.CA()
    folder = Folder(tmp_path / "tls")
    leaf, other = server_leaf(ca), server_leaf(ca)
    folder.put(leaf, ca)
    async with everything(folder.server(client_auth="off")) as stand:
        folder.key.unlink()
        folder.key.write_text("no key")
        with caplog.at_level(logging.INFO):
            for _ in range(2):
                for key in LISTENERS:
                    answer = await asyncio.to_thread(s_client, stand.address(key))
                    assert answer.serial == serial_of(leaf)
        said = [r.getMessage() for r in caplog.records if "not used" in r.getMessage()]
        assert len(said) == len(LISTENERS)
        assert all("holds no private key in PEM" in line and "no key" not in line for line in said)

        folder.key.write_bytes(other.private_key_pem.bytes())  # of a certificate that is not there yet
        folder.cert.unlink()
        assert (await asyncio.to_thread(s_client, stand.address("http"))).serial == serial_of(leaf)
        folder.cert.write_bytes(other.cert_chain_pems[0].bytes())
        for key in LISTENERS:
            assert (await asyncio.to_thread(s_client, stand.address(key))).serial == serial_of(other)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"cert": "tls.crt"}, "tls.cert is set and tls.key is not"),
        ({"key": "tls.key"}, "tls.key and tls.client_auth need tls.cert"),
        ({"cert": "tls.crt", "key": "tls.key", "client_auth": "required"}, "tls.client_ca is not set"),
        ({"cert": "nowhere.crt", "key": "tls.key"}, r"nowhere\.crt cannot be read: No such file"),
        ({"cert": "tls.key", "key": "tls.key"}, r"tls\.key holds no certificate in PEM"),
        ({"cert": "tls.crt", "key": "tls.crt"}, r"tls\.crt holds no private key in PEM"),
        ({"cert": "tls.crt", "key": "other.key"}, r"other\.key is not that of the certificate in .*tls\.crt"),
        ({"cert": "tls.crt", "key": "sealed.key"}, r"sealed\.key has a password"),
    ],
)
async def test_what_cannot_be_used_is_said_at_the_start(
    section: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    ca = trustme.CA()
    folder = Folder(tmp_path / "tls")
    folder.put(server_leaf(ca), ca)
    other = server_leaf(ca).private_key_pem.bytes()
    (folder.path / "other.key").write_bytes(other)
    sealed = pem.load_pem_private_key(other, None).private_bytes(
        pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"word")
    )
    (folder.path / "sealed.key").write_bytes(sealed)
    tls = {k: v if k == "client_auth" else str(folder.path / v) for k, v in section.items()}
    with pytest.raises(OSError, match=sentence):
        async with everything(tls):
            pass


def test_settings_of_tls_that_is_off_are_a_mistake(tmp_path: Path) -> None:
    from gateway.tls.client import client_security

    with pytest.raises(OSError, match="Triton has tls settings, but TLS towards it is off: set ssl"):
        client_security(ClientTls(name="triton"), "Triton", on=False)
    with pytest.raises(OSError, match=r"Triton: tls\.cert and tls\.key go together"):
        client_security(ClientTls(cert=tmp_path / "tls.crt"), "Triton", on=True)
    assert client_security(ClientTls(), "Triton", on=False) is None
