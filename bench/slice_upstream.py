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


class Answers:
    """The server, once it is started."""

    def __init__(self) -> None:
        self.address = ""
        """host:port."""
        self.heard = asyncio.Event()
        """A call was answered."""
        self._server = grpc.aio.server()
        service, _, method = METHOD.strip("/").rpartition("/")
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._hear)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )

    async def start(self) -> None:
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0.0)

    async def _hear(self, _: bytes, __: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await asyncio.sleep(_DELAY_S)
        self.heard.set()
        return b"heard"


async def _serve() -> int:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    answers = Answers()
    await answers.start()
    print(answers.address, flush=True)
    gc.freeze()
    await told.wait()
    await answers.stop()
    return 0


if __name__ == "__main__":
    sys.exit(run_loop(_serve()))
