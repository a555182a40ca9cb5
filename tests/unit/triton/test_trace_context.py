"""What Triton is told of who asks: the turn in a request's id, the place in the trace in the call's metadata."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import copy_context
from typing import Any

import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from gateway.telemetry.context import Passed, read_trace, spot, turn_id
from gateway.triton.channel import GRPCInferenceServiceStub, open_stream_channel
from gateway.triton.codec import request, text
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.stream import Drains

CARRIER = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "a=1"))


class Listening(GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.heard: list[tuple[str, tuple[tuple[str, str], ...]]] = []

    def note(self, asked: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        self.heard.append((asked.id, read_trace(context.invocation_metadata())))
        made = request(asked.model_name, {"AUDIO": np.zeros(4, np.float32)})
        response = pb.ModelInferResponse(model_name=asked.model_name, id=asked.id)
        response.outputs.add(name="AUDIO", datatype="FP32", shape=made.inputs[0].shape)
        response.raw_output_contents.append(made.raw_input_contents[0])
        return response

    async def ModelInfer(self, asked: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        return self.note(asked, context)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async for asked in requests:
            response = self.note(asked, context)
            response.parameters["triton_final_response"].bool_param = True
            yield pb.ModelStreamInferResponse(infer_response=response)


@pytest.mark.parametrize("traced", [True, False])
async def test_both_kinds_of_calls_say_whose_they_are(traced: bool) -> None:
    listening = Listening()
    server = grpc.aio.server()
    add_GRPCInferenceServiceServicer_to_server(listening, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel, drains = open_stream_channel(f"127.0.0.1:{port}"), Drains()
    stub = GRPCInferenceServiceStub(channel)

    async def ask() -> None:
        if traced:
            turn_id.set("turn-1")
            spot.set(Passed(CARRIER))
        answers = stream_decoupled(
            stub, "tts", {"TEXT": text("hi")}, drains=drains, first_deadline_s=5, next_deadline_s=5
        )
        assert len([one async for one in answers]) == 1
        for decoupled in (False, True):
            call = SequenceCall(stub, "asr", drains=drains, decoupled=decoupled, batched=False)
            for first in (True, False):
                await call.infer(np.zeros(16, np.float32), start=first, end=not first, deadline_s=5)

    try:
        await asyncio.get_running_loop().create_task(ask(), context=copy_context())
        await drains.close()
    finally:
        await channel.close()
        await server.stop(0)
    assert len(listening.heard) == 5
    assert {carrier for _, carrier in listening.heard} == {CARRIER if traced else ()}
    ids = [asked for asked, _ in listening.heard]
    assert all(one.startswith("turn-1-") == traced and len(one) >= 16 for one in ids)
    assert len(set(ids)) == 3  # one for each utterance, and one for the text
