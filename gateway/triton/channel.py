"""The one way to open a channel to Triton, embedded or NVIDIA's."""

from __future__ import annotations

import grpc.aio
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from gateway.http2.client import StreamChannel, directly, speaks_plainly
from gateway.tls.client import H2, ClientSecurity

__all__ = ["GRPCInferenceServiceStub", "open_channel", "open_stream_channel"]

_OPTIONS: list[tuple[str, int]] = [
    # A restarted server must be found again at once: the default backoff grows to two minutes, and
    # the process-wide subchannel pool hands an old backoff even to a new channel.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # By its name a pause; in gRPC's core it is how long one attempt to connect may take. TLS to a far-away or busy
    # machine takes four round trips; an attempt cut short is begun anew, and cut short again.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Only while a call is open: a stock Triton counts a ping without data more often than every
    # 300 s as abuse, and closes the connection after the second.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 2),
]


def open_channel(address: str, *, security: ClientSecurity | None = None, name: str = "") -> grpc.aio.Channel:
    """A channel to `address` ("host:port") for any number of concurrent calls; nothing is dialled yet.

    security: TLS, with the certificates of now. name: host that the certificate is for, where `address` has
    another and the settings name none.
    """
    options: list[tuple[str, int | str]] = [*_OPTIONS, *directly(address)]
    if security is None:
        return grpc.aio.insecure_channel(address, options=options)
    name = security.name or name
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.aio.secure_channel(address, security.credentials(), options=options)


def open_stream_channel(
    address: str, *, security: ClientSecurity | None = None, name: str = ""
) -> grpc.aio.Channel | StreamChannel:
    """As `open_channel`, for many streams of small messages: without proxies they go over our own HTTP/2."""
    others = open_channel(address, security=security, name=name)
    if not speaks_plainly(address):
        return others
    if security is None:
        return StreamChannel(address, others)
    return StreamChannel(address, others, tls=security.context(H2), name=security.name or name)
