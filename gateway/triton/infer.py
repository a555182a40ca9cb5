"""Requests to models: stateful sequences chunk by chunk, and decoupled answers as they are made.

Two facts shape this file. A non-decoupled model over ModelStreamInfer crashes the server under load,
so a plain model gets unary calls only. And an RPC cancelled in the middle of a burst of responses
can crash it too, so nothing here lets a task's cancellation reach gRPC: reads live in tasks of their
own, cancelling is a message to the model, and the rest of the stream is drained in the background.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import grpc.aio
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from gateway.telemetry.context import Pairs, trace_carrier
from gateway.triton.channel import GRPCInferenceServiceStub
from gateway.triton.codec import Array, fresh_id, outputs, request, text
from gateway.triton.errors import TritonError, TritonUnavailable, from_rpc
from gateway.triton.stream import Drains, Stream

_END_S = 2.0
"""How long the model has to take note that an utterance was given up."""


async def infer(
    stub: GRPCInferenceServiceStub,
    model: str,
    inputs: Mapping[str, Array],
    *,
    deadline_s: float,
    batched: bool = False,
) -> dict[str, Array]:
    """One request to a model that answers once. batched: the model has a batch dimension; it is added.

    Raises: TritonError.
    """
    message = request(model, inputs, batched=batched)
    return outputs(await _unary(stub, message, deadline_s, trace_carrier()), batched=batched)


async def stream_decoupled(
    stub: GRPCInferenceServiceStub,
    model: str,
    inputs: Mapping[str, Array],
    *,
    drains: Drains,
    first_deadline_s: float,
    next_deadline_s: float,
    version: str = "",
    on_over: Callable[[], None] = lambda: None,
) -> AsyncGenerator[dict[str, Array], None]:
    """One request to a decoupled model (no batch dimension), its responses as they come.

    One ModelStreamInfer call. Empty responses (a FINAL flag alone) are not yielded. `aclose()`, and
    cancellation of the task that reads, send the model `CANCEL` on the same stream and return at
    once; what still comes is thrown away in a task that `drains` keeps.

    first_deadline_s, next_deadline_s: longest wait for the first and for each later response.
    version: of the model; "" takes the newest. on_over: called when nothing more will reach the model, which may be
        after the end of this generator; a version must not go before.
    Raises: TritonTimeout, TritonUnavailable, TritonError; the stream is cancelled and drained then too.
    """
    stream = Stream(stub, model, version)
    stream.on_over = on_over
    try:
        stream.send(request(model, inputs, version=version))
        wait_s = first_deadline_s
        while not stream.finished:
            response = await stream.next(wait_s)
            if response is None:
                raise TritonUnavailable(f"{model}: the stream ended before the answer did")
            wait_s = next_deadline_s
            if response.outputs:
                yield outputs(response)
    finally:
        # Nothing may be awaited here: the reader wants silence now.
        drains.take(stream)


class SequenceCall:
    """One utterance of a stateful ASR model: chunks one after the other, each answered once.

    Make a new one for every utterance; its correlation id is random and never used again. The last
    chunk must carry `end`, also when the utterance is given up (see `give_up`).

    decoupled: the model is decoupled with exactly one FINAL response a chunk, and goes over one
        ModelStreamInfer call per utterance; every other model goes over unary calls.
    batched: the model's max_batch_size is at least 1 (sequence batching demands it).
    version: the model's version that it begins on and ends on; "" takes the newest for every chunk.
    on_over: called when nothing more will reach the model, END included; a version must not go before.
    """

    def __init__(
        self,
        stub: GRPCInferenceServiceStub,
        model: str,
        *,
        drains: Drains,
        decoupled: bool = False,
        batched: bool = True,
        version: str = "",
        on_over: Callable[[], None] = lambda: None,
    ) -> None:
        self._stub = stub
        self._model, self._version = model, version
        self._batched = batched
        self._drains = drains
        self._on_over = on_over
        self._stream = Stream(stub, model, version) if decoupled else None
        if self._stream is not None:
            self._stream.on_over = on_over
        self._sequence = secrets.randbits(62) + 1
        self._id = fresh_id()
        self.carrier: Pairs = trace_carrier()
        """The trace context that its requests carry along."""
        self._open = False
        self._answer: asyncio.Task[pb.ModelInferResponse] | None = None

    async def infer(
        self,
        audio: NDArray[np.float32],
        *,
        start: bool = False,
        end: bool = False,
        language: str = "",
        hints: Sequence[str] = (),
        deadline_s: float,
    ) -> dict[str, Array]:
        """The model's outputs after this chunk, without batch dimension.

        audio: [n] at 16 kHz, -1..1. language, hints: looked at on START only.
        Raises: SequenceLost (start again with a new SequenceCall), TritonTimeout, TritonUnavailable,
            TritonError. After any of them this object is of no more use.
        """
        if self._answer is not None:
            raise TritonError(f"{self._model}: a chunk was sent before the last one was answered")
        message = self._message(audio, start, end, language if start else "", hints if start else ())
        self._open = not end
        # A task of its own: given up, the chunk is still answered, and END goes behind it in order.
        self._answer = asyncio.create_task(self._exchange(message, deadline_s))
        self._answer.add_done_callback(_seen)
        response = await asyncio.shield(self._answer)
        self._answer = None
        if end:
            self._leave(cancel=True)
        return outputs(response, batched=self._batched)

    def give_up(self) -> None:
        """Tell the model that nothing more comes, in the background; harmless after the end.

        A chunk that is still being answered is waited for first: one sequence never has two in flight.
        """
        if self._open:
            self._open = False
            self._drains.run(self._end(self._answer))
        else:
            self._leave()

    def _leave(self, *, cancel: bool = False) -> None:
        if self._stream is not None:
            self._drains.take(self._stream, cancel=cancel)
        else:
            self._on_over()

    async def _end(self, before: asyncio.Task[pb.ModelInferResponse] | None) -> None:
        try:
            if before is not None:
                await asyncio.wait({before})
            await self._exchange(self._message(np.zeros(0, np.float32), False, True, "", ()), _END_S)
        except TritonError:
            pass  # the sequence is gone anyhow, or the model forgets it when it has been idle
        finally:
            self._leave()

    async def _exchange(self, message: pb.ModelInferRequest, deadline_s: float) -> pb.ModelInferResponse:
        if self._stream is None:
            return await _unary(self._stub, message, deadline_s, self.carrier)
        self._stream.carrier = self.carrier
        self._stream.send(message)
        answer: pb.ModelInferResponse | None = None
        while not self._stream.finished:
            response = await self._stream.next(deadline_s)
            if response is not None and response.outputs:
                answer = response
        if answer is None:
            raise TritonUnavailable(f"{self._model}: the chunk was not answered")
        return answer

    def _message(
        self, audio: NDArray[np.float32], start: bool, end: bool, language: str, hints: Sequence[str]
    ) -> pb.ModelInferRequest:
        inputs: dict[str, Array] = {"AUDIO": np.asarray(audio, dtype=np.float32)}
        if language:
            inputs["LANGUAGE"] = text(language)
        if hints:
            inputs["HINTS"] = text(*hints)
        message = request(self._model, inputs, version=self._version, batched=self._batched)
        message.id = self._id
        message.parameters["sequence_id"].int64_param = self._sequence
        message.parameters["sequence_start"].bool_param = start
        message.parameters["sequence_end"].bool_param = end
        return message


async def _unary(
    stub: GRPCInferenceServiceStub, message: pb.ModelInferRequest, deadline_s: float, carrier: Pairs
) -> pb.ModelInferResponse:
    options: dict[str, Any] = {"metadata": carrier} if carrier else {}
    try:
        response: pb.ModelInferResponse = await stub.ModelInfer(message, timeout=deadline_s, **options)
        return response
    except grpc.aio.AioRpcError as error:
        raise from_rpc(message.model_name, error) from None


def _seen(task: asyncio.Task[pb.ModelInferResponse]) -> None:
    if not task.cancelled():
        task.exception()  # a chunk given up may fail unheard
