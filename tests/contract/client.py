"""A plain Triton client for the contract checks: raw tensors, nothing of Parley's own clients."""

from __future__ import annotations

import asyncio
import secrets
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import Array, outputs, request, text

CHUNK = 2_560
ANSWER_S = 20.0
"""Deadline of every single answer."""


class Recording(NamedTuple):
    """Speech whose words are known."""

    pcm: Array
    """float32 [n] at 16 kHz."""
    text: str


class Refusal(Exception):
    """The model's error message."""


@dataclass(slots=True)
class Heard:
    """One answer of a recogniser."""

    text: str
    stable: int
    final: bool
    words: list[str]
    times: list[tuple[int, int]]
    took_ms: float


@dataclass(slots=True)
class Spoken:
    """One response of a voice."""

    audio: np.ndarray[Any, Any]
    final: bool
    at_ms: float
    """Since the request was sent."""
    parameters: dict[str, Any] = field(default_factory=dict)


class Client:
    """One server. Close it with `close()`."""

    def __init__(self, address: str, metrics: str) -> None:
        self.address = address
        self._metrics = metrics
        self._channel = open_channel(address)
        self.stub = GRPCInferenceServiceStub(self._channel)

    async def config(self, model: str) -> ModelConfig:
        reply = await self.stub.ModelConfig(pb.ModelConfigRequest(name=model), timeout=ANSWER_S)
        config: ModelConfig = reply.config
        return config

    async def close(self) -> None:
        await self._channel.close()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum over all series of that name that carry these labels. Raises: KeyError, there is none."""
        with await asyncio.to_thread(urllib.request.urlopen, self._metrics, timeout=5) as reply:
            page = reply.read().decode()
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in page.splitlines()
            if line.startswith(name + "{") and all(label in line for label in wanted)
        ]
        if not values:
            raise KeyError(name)
        return sum(values)

    @asynccontextmanager
    async def utterance(
        self, config: ModelConfig, sequence: int | str | None = None
    ) -> AsyncIterator[Utterance]:
        """A sequence on a stream of its own (decoupled) or over unary calls (otherwise)."""
        made = Utterance(self.stub, config, secrets.randbits(63) + 1 if sequence is None else sequence)
        try:
            yield made
        finally:
            await made.close()

    async def recognize(self, config: ModelConfig, pcm: Array, **start: Any) -> list[Heard]:
        """Every answer to one utterance, its chunks sent as fast as they are answered."""
        async with self.utterance(config) as utterance:
            return [
                await utterance.send(chunk, start=first, end=last, **(start if first else {}))
                for chunk, first, last in chunks_of(pcm)
            ]

    def speak(self, config: ModelConfig, text: str | None, **inputs: Any) -> Speech:
        """One synthesis on a stream of its own."""
        return Speech(self.stub, config, text, inputs)


class Utterance:
    """A sequence of a recogniser, one chunk in flight."""

    def __init__(self, stub: GRPCInferenceServiceStub, config: ModelConfig, sequence: int | str) -> None:
        self._stub = stub
        self._config = config
        self.sequence = sequence
        self._stream = stub.ModelStreamInfer() if config.model_transaction_policy.decoupled else None

    async def send(
        self,
        audio: Array,
        *,
        start: bool = False,
        end: bool = False,
        language: str = "",
        hints: Sequence[str] = (),
    ) -> Heard:
        """audio: float32 [n]. Raises: Refusal, TimeoutError."""
        inputs = {"AUDIO": np.asarray(audio, dtype=np.float32)}
        if language:
            inputs["LANGUAGE"] = text(language)
        if hints:
            inputs["HINTS"] = text(*hints)
        message = request(
            self._config.name,
            inputs,
            request_id=secrets.token_hex(4),
            batched=self._config.max_batch_size > 0,
        )
        if isinstance(self.sequence, str):
            message.parameters["sequence_id"].string_param = self.sequence
        else:
            message.parameters["sequence_id"].int64_param = self.sequence
        message.parameters["sequence_start"].bool_param = start
        message.parameters["sequence_end"].bool_param = end
        began = time.perf_counter()
        answer = await self._ask(message)
        took_ms = (time.perf_counter() - began) * 1000
        found = outputs(answer, batched=self._config.max_batch_size > 0)
        return Heard(
            text=str(found["TRANSCRIPT"][0]),
            stable=int(found["STABLE"][0]),
            final=bool(found["IS_FINAL"][0]),
            words=[str(word) for word in found["WORDS"]],
            times=[(int(a), int(b)) for a, b in found["WORD_TIMES"]],
            took_ms=took_ms,
        )

    async def _ask(self, message: pb.ModelInferRequest) -> pb.ModelInferResponse:
        if self._stream is None:
            return await self._stub.ModelInfer(message, timeout=ANSWER_S)
        async with asyncio.timeout(ANSWER_S):
            await self._stream.write(message)
            reply = await self._stream.read()
        if reply.error_message:
            raise Refusal(reply.error_message)
        assert reply.infer_response.parameters["triton_final_response"].bool_param, (
            "a chunk has one FINAL answer"
        )
        return reply.infer_response

    async def close(self) -> None:
        """Half-closed and read to its end: cancelled right behind an answer, a stream whose sequence is
        open can keep the model from ever being unloaded."""
        if self._stream is not None:
            await _read_to_end(self._stream)


class Speech:
    """One synthesis: iterate over it for its responses up to FINAL."""

    def __init__(
        self, stub: GRPCInferenceServiceStub, config: ModelConfig, words: str | None, inputs: dict[str, Any]
    ) -> None:
        self._config = config
        self._id = secrets.token_hex(6)
        self._stream = stub.ModelStreamInfer()
        self._message = self._build(({} if words is None else {"TEXT": words}) | inputs)
        self._began = 0.0
        self._gone = False

    async def __aenter__(self) -> Speech:
        self._began = time.perf_counter()
        await self._stream.write(self._message)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None and not self._gone:
            await _read_to_end(self._stream)
        self._stream.cancel()

    async def again(self) -> None:
        """The same request once more, with the same id."""
        await self._stream.write(self._message)

    async def cancel(self) -> None:
        """In-band, as the contract says."""
        await self._stream.write(self._build({"CANCEL": np.array([True])}))
        await self._stream.done_writing()

    async def vanish(self) -> None:
        """The client is gone without a word."""
        self._gone = True
        self._stream.cancel()

    async def __aiter__(self) -> AsyncIterator[Spoken]:
        """Responses until the stream ends (after `cancel` or `finish`) or FINAL. Raises: Refusal, TimeoutError."""
        while True:
            response = await self.next()
            if response is None:
                return
            yield response
            if response.final:
                return

    async def next(self) -> Spoken | None:
        """The next response; None at the end of the stream."""
        async with asyncio.timeout(ANSWER_S):
            reply = await self._stream.read()
        if not isinstance(reply, pb.ModelStreamInferResponse):
            return None
        if reply.error_message:
            raise Refusal(reply.error_message)
        answer = reply.infer_response
        found = outputs(answer, batched=self._config.max_batch_size > 0)
        values = {
            key: getattr(v, v.WhichOneof("parameter_choice") or "", None)
            for key, v in answer.parameters.items()
        }
        return Spoken(
            audio=found.get("AUDIO", np.zeros(0, dtype=np.float32)),
            final=bool(values.pop("triton_final_response", False)),
            at_ms=(time.perf_counter() - self._began) * 1000,
            parameters=values,
        )

    def _build(self, inputs: dict[str, Any]) -> pb.ModelInferRequest:
        arrays: dict[str, Array] = {}
        for name, value in inputs.items():
            if isinstance(value, str):
                arrays[name] = text(value)
            elif isinstance(value, float):
                arrays[name] = np.array([value], dtype=np.float32)
            else:
                arrays[name] = value
        message = request(
            self._config.name, arrays, request_id=self._id, batched=self._config.max_batch_size > 0
        )
        message.parameters["triton_enable_empty_final_response"].bool_param = True
        return message


async def _read_to_end(stream: Any) -> None:
    async with asyncio.timeout(ANSWER_S):
        await stream.done_writing()
        while isinstance(await stream.read(), pb.ModelStreamInferResponse):
            pass


def chunks_of(pcm: Array, size: int = CHUNK) -> Iterator[tuple[Array, bool, bool]]:
    """Chunk, is it the first, is it the last; one empty chunk for no audio."""
    starts = range(0, max(1, len(pcm)), size)
    for start in starts:
        yield pcm[start : start + size], start == 0, start == starts[-1]


def voiced_rms_dbfs(pcm: Array, rate: int) -> float:
    """RMS of the 20 ms frames that are within 25 dB of the loud ones (95th percentile)."""
    size = rate // 50
    frames = pcm[: len(pcm) // size * size].reshape(-1, size).astype(np.float64)
    power = (frames**2).mean(axis=1) + 1e-12
    loud = np.percentile(power, 95)
    return float(10 * np.log10(power[power > loud * 10**-2.5].mean()))


def word_errors(reference: str, hypothesis: str) -> int:
    """Word edits from `reference` to `hypothesis`."""
    said, heard = reference.split(), hypothesis.split()
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        above, row[0] = row[:], i
        for j, other in enumerate(heard, 1):
            row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other))
    return row[-1]
