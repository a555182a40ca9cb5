"""A real Triton that speaks TLS and demands certificates, as its own flags have it: reached by both of our clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest
import trustme

from gateway.http2.client import StreamChannel
from gateway.settings import ClientTls
from gateway.tls.client import ClientSecurity
from gateway.triton.channel import GRPCInferenceServiceStub, open_channel, open_stream_channel
from gateway.triton.preflight import check_host
from gateway.triton.repository import Repository
from tests.support.certificates import Folder, client_leaf, server_leaf
from tests.support.plain_triton import plain_triton

pytestmark = pytest.mark.stack


@dataclass(frozen=True)
class Scene:
    address: str
    mine: Folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if problems := [problem for problem in check_host() if problem.fatal]:
        pytest.skip("; ".join(problem.detail for problem in problems))
    path, ca = tmp_path_factory.mktemp("triton-tls"), trustme.CA()
    servers, mine = Folder(path / "servers"), Folder(path / "mine")
    servers.put(server_leaf(ca), ca)
    mine.put(client_leaf(ca), ca)
    flags = (
        "--grpc-use-ssl-mutual=true", f"--grpc-server-cert={servers.cert}", f"--grpc-server-key={servers.key}",
        f"--grpc-root-cert={servers.ca}",
    )  # fmt: skip
    credentials = grpc.ssl_channel_credentials(
        mine.ca.read_bytes(), mine.key.read_bytes(), mine.cert.read_bytes()
    )
    (path / "models").mkdir()
    (path / "triton").mkdir()
    with plain_triton(path / "triton", path / "models", *flags, credentials=credentials) as address:
        yield Scene(address, mine)


async def test_single_questions_and_streams_reach_it(scene: Scene) -> None:
    security = ClientSecurity(scene.mine.client_tls(), "Triton")
    channel = open_channel(scene.address, security=security)
    assert await Repository(channel).is_live(deadline_s=5.0)
    await channel.close()

    streams = open_stream_channel(scene.address, security=security)
    assert isinstance(streams, StreamChannel)  # our own HTTP/2, over TLS too
    call = GRPCInferenceServiceStub(streams).ModelStreamInfer()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    await streams.close()


async def test_who_shows_no_certificate_is_told_why(scene: Scene) -> None:
    stranger = ClientSecurity(ClientTls(ca=scene.mine.ca), "Triton")
    channel = open_channel(scene.address, security=stranger)
    assert not await Repository(channel).is_live(deadline_s=2.0)
    await channel.close()
    streams = open_stream_channel(scene.address, security=stranger)
    call = GRPCInferenceServiceStub(streams).ModelStreamInfer()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert scene.address in str(caught.value.details())
    await streams.close()
