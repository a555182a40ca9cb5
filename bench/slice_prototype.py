"""The bare prototype, beside which the gateway's own slices are measured: `python -m bench.slice_prototype`.

What was built to learn what gRPC in Python can reach: grpc.aio on uvloop, one 5 ms tick for all paced
sends, Silero batched every 32 ms in one worker thread, a unary call for each 160 ms, and nothing else: no
session, no bounds, no errors. Measured live, since machines differ: the first one had 0.375 CPU s a
session-minute at 64 sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import numpy as np

from bench.slice_parts import CALL_BYTES, EVERY_S, SPURT_S, Upstream
from gateway.listen.silero import _load, _lower_priority
from gateway.protocol import voice_pb2 as pb

_TICK_S, _SLOTS = 0.005, 4
_BATCH_S, _WINDOW, _CONTEXT = 0.032, 512, 64
_GOLDEN = 0.618
_PCM = bytes(1_920)


class _Session:
    def __init__(self, begin_s: float) -> None:
        self.begin_s = begin_s
        self.due = self.sent = self.spurts = 0
        self.over = False
        self.wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.buffer = bytearray()
        self.piece = bytearray()
        self.windows: list[bytes] = []
        self.context = np.zeros(_CONTEXT, np.float32)
        self.state = np.zeros((2, 128), np.float32)


class Prototype:
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._slots: list[list[_Session]] = [[] for _ in range(_SLOTS)]
        self._slot = self._count = 0
        self._silero = _load()
        self._worker = ThreadPoolExecutor(1, "vad", initializer=_lower_priority)
        self._rate = np.array(16_000, np.int64)
        self._busy = False

    async def converse(self, _: object, context: Any) -> None:
        loop = asyncio.get_running_loop()
        await context.read()
        await context.write(pb.ServerMessage(ready=pb.Ready(session_id="bare")).SerializeToString())
        self._count += 1
        session = _Session(loop.time() + self._count * _GOLDEN % 1.0 * EVERY_S)
        slot = min(self._slots, key=len)
        slot.append(session)
        reading = asyncio.create_task(self._read(session, context))
        try:
            while not reading.done():
                await session.wake
                session.wake = loop.create_future()
                while session.sent < session.due:
                    audio = pb.ReplyAudio(
                        reply_id=f"{session.spurts:032}", generation=1, sequence=session.sent,
                        offset_ms=session.sent * 20, audio=_PCM,
                    )  # fmt: skip
                    await context.write(pb.ServerMessage(reply_audio=audio).SerializeToString())
                    session.sent += 1
                if session.over:
                    done = pb.ReplyDone(reply_id=f"{session.spurts:032}", outcome=pb.COMPLETED)
                    await context.write(pb.ServerMessage(reply_done=done).SerializeToString())
                    session.spurts += 1
                    session.due = session.sent = 0
                    session.over = False
        finally:
            slot.remove(session)
            reading.cancel()

    async def _read(self, session: _Session, context: Any) -> None:
        while (raw := await context.read()) is not grpc.aio.EOF:
            message = pb.ClientMessage.FromString(raw)
            session.buffer += message.audio
            session.piece += message.audio
            if len(session.buffer) >= 2 * _WINDOW:
                session.windows.append(bytes(session.buffer[: 2 * _WINDOW]))
                del session.buffer[: 2 * _WINDOW]
            if len(session.piece) >= CALL_BYTES:
                self._upstream.send(bytes(session.piece))
                session.piece.clear()

    def tick(self, due_s: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._slot = (self._slot + 1) % _SLOTS
        for session in self._slots[self._slot]:
            if (now - session.begin_s) % EVERY_S < SPURT_S:
                session.due += 1
            elif session.due and not session.over:
                session.over = True
            else:
                continue
            if not session.wake.done():
                session.wake.set_result(None)
        due_s = max(due_s + _TICK_S, now + _TICK_S / 2)
        loop.call_at(due_s, self.tick, due_s)

    def detect(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(_BATCH_S, self.detect)
        batch = [s for slot in self._slots for s in slot if s.windows]
        if not batch or self._busy:
            return
        inputs = np.empty((len(batch), _CONTEXT + _WINDOW), np.float32)
        for row, session in enumerate(batch):
            inputs[row, :_CONTEXT] = session.context
            inputs[row, _CONTEXT:] = np.frombuffer(session.windows.pop(0), "<i2")
            inputs[row, _CONTEXT:] /= 32_768
            session.context = inputs[row, -_CONTEXT:].copy()
        states = np.stack([session.state for session in batch], axis=1)
        self._busy = True
        loop.run_in_executor(self._worker, self._infer, inputs, states).add_done_callback(
            lambda done: self._heard(batch, done.result())
        )

    def _infer(self, inputs: Any, states: Any) -> Any:
        return self._silero.run(None, {"input": inputs, "state": states, "sr": self._rate})[1]

    def _heard(self, batch: list[_Session], states: Any) -> None:
        self._busy = False
        for row, session in enumerate(batch):
            session.state = states[:, row]


async def _serve(upstream_address: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    upstream = Upstream(upstream_address, stop)
    prototype = Prototype(upstream)
    server = grpc.aio.server(options=[("grpc.http2.bdp_probe", 0)])
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(prototype.converse)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("parley.v1.Voice", {"Converse": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    prototype.tick(loop.time())
    prototype.detect()
    gc.collect()
    gc.freeze()
    print(json.dumps({"grpc": f"127.0.0.1:{port}"}), flush=True)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)
    await upstream.close()
    print(json.dumps({"left_out": 0}), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    import uvloop

    parser = argparse.ArgumentParser(prog="python -m bench.slice_prototype", description=__doc__)
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT", help="takes the unary calls")
    uvloop.run(_serve(parser.parse_args(arguments).upstream))
    return 0


if __name__ == "__main__":
    sys.exit(main())
