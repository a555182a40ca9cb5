"""Streams and drains in virtual time, over a scripted call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.codec import Array, request, text
from gateway.triton.errors import TritonTimeout, TritonUnavailable
from gateway.triton.infer import stream_decoupled
from gateway.triton.stream import Drains, Stream
from tests.support.virtual_time import run_virtual, settle


class Call:
    """A ModelStreamInfer call; `answers` are given out in order, then nothing comes until it is ended."""

    def __init__(self, *answers: pb.ModelStreamInferResponse) -> None:
        self.written: list[pb.ModelInferRequest] = []
        self.half_closed = False
        self.cancelled = False
        self.read_cancelled = False
        self._answers: asyncio.Queue[object] = asyncio.Queue()
        for answer in answers:
            self._answers.put_nowait(answer)

    async def write(self, message: pb.ModelInferRequest) -> None:
        self.written.append(message)
        if self.is_cancel(message) and not self.deaf:
            self.answer(chunk(final=True), chunk(final=True))

    deaf = False

    @staticmethod
    def is_cancel(message: pb.ModelInferRequest) -> bool:
        return [tensor.name for tensor in message.inputs] == ["CANCEL"]

    async def done_writing(self) -> None:
        self.half_closed = True
        self._answers.put_nowait(grpc.aio.EOF)

    async def read(self) -> object:
        try:
            answer = await self._answers.get()
        except asyncio.CancelledError:
            self.read_cancelled = True
            raise
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def answer(self, *answers: object) -> None:
        for answer in answers:
            self._answers.put_nowait(answer)

    def cancel(self) -> None:
        self.cancelled = True
        self._answers.put_nowait(asyncio.CancelledError())


class Stub:
    """Gives out its calls one after the other; the last one again and again."""

    def __init__(self, *calls: Call) -> None:
        self._calls = list(calls)

    def ModelStreamInfer(self) -> Call:
        return self._calls.pop(0) if len(self._calls) > 1 else self._calls[0]


def chunk(value: float | None = None, *, final: bool = False) -> pb.ModelStreamInferResponse:
    reply = pb.ModelStreamInferResponse()
    response = reply.infer_response
    if value is not None:
        response.outputs.add(name="AUDIO", datatype="FP32", shape=[1])
        response.raw_output_contents.append(np.float32(value).tobytes())
    response.parameters["triton_final_response"].bool_param = final
    return reply


def speech(call: Call, drains: Drains, *others: Call) -> AsyncGenerator[dict[str, Array], None]:
    return stream_decoupled(
        Stub(call, *others),
        "tts_x",
        {"TEXT": text("hello")},
        drains=drains,
        first_deadline_s=1,
        next_deadline_s=0.5,
    )


def test_final_on_the_last_audio_and_final_alone_both_end_it() -> None:
    async def main() -> None:
        for answers in ([chunk(1), chunk(2, final=True)], [chunk(1), chunk(2), chunk(final=True)]):
            drains = Drains()
            call = Call(*answers)
            assert [float(out["AUDIO"][0]) async for out in speech(call, drains)] == [1, 2]
            await drains.close()
            assert call.half_closed
            assert len(call.written) == 1
            assert not call.cancelled

    run_virtual(main())


def test_closing_sends_one_cancel_with_the_requests_id_and_drains() -> None:
    async def main() -> None:
        drains = Drains()
        call = Call()
        stream = speech(call, drains)
        first = asyncio.create_task(anext(stream))
        await settle()
        first.cancel()
        await settle()
        await drains.close()
        text_, cancel = call.written
        assert Call.is_cancel(cancel)
        assert cancel.id == text_.id != ""
        assert cancel.raw_input_contents == [b"\x01"]
        assert call.half_closed
        assert not call.cancelled

    run_virtual(main())


def test_a_version_is_held_until_the_model_has_answered_the_cancel() -> None:
    async def main() -> None:
        drains = Drains()
        call, aside = Call(chunk(1), chunk(2)), Call()
        over: list[str] = []
        stream = stream_decoupled(
            Stub(call, aside), "tts_x", {"TEXT": text("hello")}, drains=drains, first_deadline_s=1,
            next_deadline_s=0.5, version="3", on_over=lambda: over.append("over"),
        )  # fmt: skip
        await anext(stream)
        await stream.aclose()
        await settle()
        assert [m.model_version for m in (*call.written, *aside.written)] == ["3", "3"]
        assert not over
        call.answer(chunk(final=True))
        await drains.close()
        assert over

    run_virtual(main())


def test_a_cancel_never_comes_beside_chunks_that_are_being_written() -> None:
    async def main() -> None:
        drains = Drains()
        call, aside = Call(chunk(1), chunk(2), chunk(3)), Call()
        stream = speech(call, drains, aside)
        await anext(stream)
        await stream.aclose()
        await settle()
        (text_,), (cancel,) = call.written, aside.written
        assert Call.is_cancel(cancel)
        assert cancel.id == text_.id != ""
        call.answer(chunk(4, final=True))
        await drains.close()
        assert call.half_closed
        assert aside.half_closed
        assert not call.cancelled
        assert not aside.cancelled

    run_virtual(main())


def test_cancelling_the_reader_never_cancels_the_read() -> None:
    async def main() -> None:
        drains = Drains()
        call = Call()

        async def listen() -> None:
            async for _ in speech(call, drains):
                pass

        listening = asyncio.create_task(listen())
        await settle()
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        await drains.close()
        assert Call.is_cancel(call.written[-1])
        assert not call.read_cancelled
        assert not call.cancelled

    run_virtual(main())


def test_a_dead_model_is_given_up_by_deadline_and_its_call_is_cancelled_last() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        drains = Drains(deadline_s=3.0)
        call = Call(chunk(1))
        call.deaf = True
        stream = speech(call, drains)
        await anext(stream)
        with pytest.raises(TritonTimeout, match=r"tts_x: no answer within 0\.5 s"):
            await anext(stream)
        assert loop.time() == pytest.approx(0.5)
        assert not call.cancelled
        await drains.close()
        assert loop.time() == pytest.approx(3.5)
        assert call.cancelled
        assert len(drains) == 0

    run_virtual(main())


def test_what_is_no_answer_at_all_ends_the_call() -> None:
    async def main() -> None:
        drains = Drains()
        call = Call(chunk(1))
        call.answer(None)  # as gRPC gives out what it cannot parse; the call itself goes on
        stream = speech(call, drains)
        await anext(stream)
        with pytest.raises(TritonUnavailable, match="tts_x: what was sent is not Triton's API"):
            await anext(stream)
        assert call.cancelled
        await drains.close()

    run_virtual(main())


def test_the_first_answer_has_a_deadline_of_its_own() -> None:
    async def main() -> None:
        drains = Drains(deadline_s=1.0)
        with pytest.raises(TritonTimeout):
            await anext(speech(Call(), drains))
        assert asyncio.get_running_loop().time() == pytest.approx(1.0)
        await drains.close()

    run_virtual(main())


def test_nothing_is_sent_for_a_stream_that_was_never_read() -> None:
    async def main() -> None:
        drains = Drains()
        call = Call()
        await speech(call, drains).aclose()
        assert call.written == []
        assert len(drains) == 0

    run_virtual(main())


def test_a_request_asks_for_the_empty_final() -> None:
    async def main() -> None:
        drains = Drains()
        call = Call(chunk(1, final=True))
        _ = [out async for out in speech(call, drains)]
        assert call.written[0].parameters["triton_enable_empty_final_response"].bool_param
        assert request("m", {}).id == ""
        await drains.close()

    run_virtual(main())


def test_a_stream_handed_over_twice_is_drained_once_and_at_once() -> None:
    async def scene() -> None:
        drains = Drains(deadline_s=5.0)
        call = Call(chunk(0.5, final=True))
        stream = Stream(Stub(call), "tts_x")
        stream.send(request("tts_x", {"TEXT": text("hello")}))
        assert await stream.next(1.0) is not None
        drains.take(stream)
        drains.take(stream, cancel=False)
        assert len(drains) == 1
        began = asyncio.get_running_loop().time()
        await drains.close()
        assert asyncio.get_running_loop().time() == began
        assert call.half_closed
        assert not call.cancelled

    run_virtual(scene())
