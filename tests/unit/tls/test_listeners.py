"""TLS and mTLS of every listener, as OpenSSL's own client sees them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from tests.support.certificates import Answer, Folder, client_leaf, s_client, serial_of, server_leaf
from tests.unit.tls.parts import LISTENERS, Everything, everything

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command"),
]
GRPC = ("grpc", "riva")


class Scene:
    def __init__(self, path: Path) -> None:
        self.ca, self.other = trustme.CA(), trustme.CA()
        self.servers, self.good = Folder(path / "server"), Folder(path / "good")
        self.expired, self.stranger = Folder(path / "expired"), Folder(path / "stranger")
        self.leaf = server_leaf(self.ca)
        self.servers.put(self.leaf, self.ca)
        self.good.put(client_leaf(self.ca), self.ca)
        self.expired.put(client_leaf(self.ca, expired=True), self.ca)
        self.stranger.put(client_leaf(self.other), self.ca)
        self.at: Everything

    async def ask(self, key: str, client: Folder | None, *options: str, wait: bool = False) -> Answer:
        mine = ("-cert", str(client.cert), "-key", str(client.key)) if client is not None else ()
        trusting = ("-CAfile", str(self.good.ca), "-verify_return_error")
        alpn = ("-alpn", "h2" if key in GRPC else "http/1.1")
        return await asyncio.to_thread(
            s_client, self.at.address(key), *trusting, *mine, *alpn, *options, wait=wait
        )


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("tls"))
    async with everything(made.servers.server()) as made.at:
        yield made


@pytest.mark.parametrize("key", LISTENERS)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_a_client_of_ours_is_let_in(scene: Scene, key: str, version: str) -> None:
    answer = await scene.ask(key, scene.good, version)
    assert answer.code == 0, answer.text
    assert "Verify return code: 0 (ok)" in answer.text
    assert answer.serial == serial_of(scene.leaf)
    assert f"ALPN protocol: {'h2' if key in GRPC else 'http/1.1'}" in answer.text


@pytest.mark.parametrize("key", LISTENERS)
@pytest.mark.parametrize(
    ("who", "alerts"),
    [
        (None, ("certificate required", "handshake failure", "peer did not return a certificate")),
        ("expired", ("certificate expired",)),
        ("stranger", ("unknown ca",)),
    ],
)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_others_get_tls_s_own_alert(
    scene: Scene, key: str, who: str | None, alerts: tuple[str, ...], version: str
) -> None:
    client = getattr(scene, who) if who else None
    answer = await scene.ask(key, client, version, wait=True)
    assert answer.code != 0, answer.text
    expected = (
        ["unexpected eof"] if key == "riva" else [f"alert {alert}" for alert in alerts]
    )  # gRPC's own: mute
    assert any(one in answer.text for one in expected), answer.text


@pytest.mark.parametrize("key", LISTENERS)
async def test_old_versions_of_tls_are_not_spoken(scene: Scene, key: str) -> None:
    answer = await scene.ask(key, scene.good, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    assert answer.code != 0
    assert ("unexpected eof" if key == "riva" else "alert protocol version") in answer.text, answer.text


@pytest.mark.parametrize("key", LISTENERS)
async def test_who_speaks_in_the_clear_gets_no_answer(scene: Scene, key: str) -> None:
    host, _, port = scene.at.address(key).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(5):
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
    writer.close()
    assert b"HTTP" not in answer
    assert b"ok" not in answer


async def test_the_pages_answer_over_tls_and_say_https(scene: Scene) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    for key in ("http", "admin", "speech_http"):
        assert scene.at.endpoints[key].startswith("https://127.0.0.1:")
        options = ("-CAfile", str(scene.good.ca), "-cert", str(scene.good.cert), "-key", str(scene.good.key))
        answer = await asyncio.to_thread(
            s_client, scene.at.address(key), *options, "-quiet", sent=request, wait=True
        )
        assert '{"status":"ok"}' in answer.text
