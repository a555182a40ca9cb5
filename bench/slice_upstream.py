"""A server of unary calls that answers after 20 ms: `python -m bench.slice_upstream`. Prints its address."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import grpc
import grpc.aio

from bench.slice_parts import METHOD
from gateway.app import run_loop

_DELAY_S = 0.020


async def hear(_: bytes, __: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    await asyncio.sleep(_DELAY_S)
    return b"heard"


async def start() -> tuple[grpc.aio.Server, str]:
    """The server, and host:port."""
    server = grpc.aio.server()
    service, _, method = METHOD.strip("/").rpartition("/")
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(hear)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


async def _serve() -> int:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    server, address = await start()
    print(address, flush=True)
    gc.freeze()
    await told.wait()
    await server.stop(0.0)
    return 0


if __name__ == "__main__":
    sys.exit(run_loop(_serve()))
