"""Official clients over mTLS, with their own options for it, and `parley talk`."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import openai
import pytest
import pytest_asyncio
import riva.client
import tritonclient.grpc.aio as triton
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from riva.client.proto import riva_asr_pb2

from gateway.settings import TlsSettings
from gateway.tls.server import H2
from load.emulators.app import Emulators
from tests.support.certificates import Folder, client_leaf, server_leaf
from tests.support.terminator import terminator
from tests.unit.tls.parts import Everything, everything

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Scene:
    at: Everything
    mine: Folder
    servers: Folder


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    path, ca = tmp_path_factory.mktemp("clients"), trustme.CA()
    servers, mine = Folder(path / "servers"), Folder(path / "mine")
    servers.put(server_leaf(ca), ca)
    mine.put(client_leaf(ca), ca)
    async with everything(servers.server()) as at:
        yield Scene(at, mine, servers)


async def test_openai_s(scene: Scene) -> None:
    context = ssl.create_default_context(cafile=scene.mine.ca)
    context.load_cert_chain(scene.mine.cert, scene.mine.key)
    async with openai.AsyncOpenAI(
        base_url=f"{scene.at.endpoints['http']}/v1",
        api_key="none",
        http_client=openai.DefaultAsyncHttpxClient(verify=context),
    ) as client:
        assert "tts-1" in {model.id async for model in client.models.list()}
    async with openai.AsyncOpenAI(
        base_url=f"{scene.at.endpoints['http']}/v1",
        api_key="none",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(verify=ssl.create_default_context(cafile=scene.mine.ca)),
    ) as stranger:
        with pytest.raises(openai.APIConnectionError):
            await stranger.models.list()


async def test_riva_s(scene: Scene) -> None:
    def ask(ssl_client_cert: str | None, ssl_client_key: str | None) -> grpc.RpcError:
        auth = riva.client.Auth(
            ssl_root_cert=str(scene.mine.ca),
            ssl_client_cert=ssl_client_cert,
            ssl_client_key=ssl_client_key,
            use_ssl=True,
            uri=scene.at.address("riva"),
        )
        service = riva.client.ASRService(auth)
        with pytest.raises(grpc.RpcError) as caught:
            service.stub.Recognize(riva_asr_pb2.RecognizeRequest(), timeout=5)
        auth.channel.close()
        return caught.value

    heard = await asyncio.to_thread(ask, str(scene.mine.cert), str(scene.mine.key))
    assert "Triton" in str(heard.details())  # the front has none, and says so itself
    refused = await asyncio.to_thread(ask, None, None)
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    assert "Triton" not in str(refused.details())


async def test_grpc_s_own(scene: Scene) -> None:
    credentials = grpc.ssl_channel_credentials(
        scene.mine.ca.read_bytes(), scene.mine.key.read_bytes(), scene.mine.cert.read_bytes()
    )
    for key in ("grpc", "riva"):
        async with grpc.aio.secure_channel(scene.at.address(key), credentials) as channel:
            reply = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=5
            )
        assert reply.status in (1, 2)  # the front says NOT_SERVING: it has no Triton


async def test_triton_s_reaches_what_we_reach(scene: Scene) -> None:
    parts = Emulators()
    at = await parts.open()
    try:
        async with terminator(at.triton, TlsSettings(**scene.servers.server()), H2) as part:
            client = triton.InferenceServerClient(
                part.address,
                ssl=True,
                root_certificates=str(scene.mine.ca),
                private_key=str(scene.mine.key),
                certificate_chain=str(scene.mine.cert),
            )
            assert await client.is_server_live()
            await client.close()
    finally:
        await parts.close()


async def parley(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT, env=os.environ.copy(),
    )  # fmt: skip
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_parley_talk(scene: Scene) -> None:
    server = ("talk", "--text", "Hello", "--json", "--server", scene.at.address("grpc"))
    mine = ("--cert", str(scene.mine.cert), "--key", str(scene.mine.key))
    code, out, err = await parley(*server, "--ca", str(scene.mine.ca), *mine)
    assert code == 0, err
    assert any(json.loads(line)["type"] == "reply_done" for line in out.splitlines())
    for arguments in (("--ca", str(scene.mine.ca)), ("--tls", *mine), ()):
        code, _, err = await parley(*server, *arguments)
        assert code == 1
        assert err.splitlines()[-1].startswith("parley: "), err  # above it, gRPC's own log
        assert "Traceback" not in err
    code, _, err = await parley(*server, *mine[:2])
    assert (code, err) == (2, "parley: --cert and --key go together: give both, or neither\n")
