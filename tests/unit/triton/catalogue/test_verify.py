"""What is said of loaded models that do not keep their contract, over a scripted model, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.catalogue.findings import Finding, Level
from gateway.triton.catalogue.verify_asr import verify_asr
from gateway.triton.catalogue.verify_tts import verify_tts
from gateway.triton.codec import Array, outputs, text
from gateway.triton.errors import TritonTimeout
from gateway.triton.model_info import ModelInfo
from gateway.triton.stream import Drains
from tests.support.virtual_time import run_virtual

LOST = "sequence 7 must specify the START flag on the first request of the sequence"
START, END = "sequence_start", "sequence_end"


def info(**changed: Any) -> ModelInfo:
    said: dict[str, Any] = {
        "name": "tts_x", "backend": "python", "decoupled": True, "max_batch_size": 0, "sequence": False,
        "inputs": ("TEXT", "VOICE", "LANGUAGE", "SPEED", "REFERENCE_AUDIO", "CANCEL"), "outputs": ("AUDIO",),
        "family": "tts", "languages": ("en-US",), "voices": ("ann", "bob"), "voice_languages": ("en-US", "en-US"),
        "sample_rate": 16_000, "tags": (), "needs_gpu": False, "memory_mb": 1, "license": "MIT", "default": False,
    }  # fmt: skip
    return ModelInfo(**(said | changed))


def recogniser() -> ModelInfo:
    return info(
        name="asr_x", family="asr", sequence=True, inputs=("AUDIO", "LANGUAGE", "HINTS"), voices=(), voice_languages=()
    )  # fmt: skip


def response(final: bool, **tensors: Array) -> pb.ModelStreamInferResponse:
    reply = pb.ModelStreamInferResponse()
    for name, array in tensors.items():
        kind = {"f": "FP32", "i": "INT32", "b": "BOOL", "O": "BYTES"}[array.dtype.kind]
        reply.infer_response.outputs.add(name=name, datatype=kind, shape=array.shape)
        raw = array.tobytes()
        if kind == "BYTES":
            raw = b"".join(len(one.encode()).to_bytes(4, "little") + one.encode() for one in array)
        reply.infer_response.raw_output_contents.append(raw)
    reply.infer_response.parameters["triton_final_response"].bool_param = final
    return reply


def refusal(why: str) -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse(error_message=why)


class Call:
    """One ModelStreamInfer call; `model` writes the answers to each request."""

    def __init__(self, model: Callable[[Call, pb.ModelInferRequest], None]) -> None:
        self.state: dict[str, Any] = {}
        self._model = model
        self._answers: asyncio.Queue[object] = asyncio.Queue()

    def say(self, *answers: object) -> None:
        for answer in answers:
            self._answers.put_nowait(answer)

    async def write(self, message: pb.ModelInferRequest) -> None:
        self._model(self, message)

    async def done_writing(self) -> None:
        self.say(grpc.aio.EOF)

    async def read(self) -> object:
        return await self._answers.get()

    def cancel(self) -> None:
        self.say(grpc.aio.EOF)


class Stub:
    def __init__(self, model: Callable[[Call, pb.ModelInferRequest], None]) -> None:
        self._model = model

    def ModelStreamInfer(self) -> Call:
        return Call(self._model)


def given(message: pb.ModelInferRequest) -> dict[str, Array]:
    """The inputs of a request."""
    as_answer = pb.ModelInferResponse(raw_output_contents=message.raw_input_contents)
    for tensor in message.inputs:
        as_answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return outputs(as_answer)


CHUNK = np.full(1_280, 0.1, np.float32)


class Voice:
    """A voice that keeps its contract, and can be told not to."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def __call__(self, call: Call, message: pb.ModelInferRequest) -> None:
        inputs = given(message)
        if "CANCEL" in inputs:
            call.state["cancelled"] = True
            if self.fault != "no final for cancel":
                call.say(response(True))
            if self.fault == "cancel is ignored":
                call.say(*[response(False, AUDIO=CHUNK)] * 50)
            if "rest" in call.state:
                call.say(response(True))
            return
        said = str(inputs["TEXT"][0]) if "TEXT" in inputs else None
        why = self._why(said, inputs)
        if why and self.fault != "takes everything":
            call.say(refusal(why))
        elif not (said or "").strip() and said is not None:
            call.say(*([] if self.fault == "mute on nothing" else [response(True)]))
        else:
            self._speak(call, said or "")

    def _why(self, said: str | None, inputs: dict[str, Array]) -> str:
        if said is None:
            return "TEXT is missing"
        if "VOICE" in inputs and inputs["VOICE"][0] not in ("ann", "bob"):
            return "no such voice"
        if self.fault == "bob is hoarse" and "VOICE" in inputs and inputs["VOICE"][0] == "bob":
            return "bob is hoarse"
        if "LANGUAGE" in inputs and inputs["LANGUAGE"][0] != "en-US":
            return "no such language"
        return "SPEED" if "SPEED" in inputs and not inputs["SPEED"][0] > 0 else ""

    def _speak(self, call: Call, said: str) -> None:
        chunk = CHUNK
        if self.fault == "too loud":
            chunk = CHUNK * 20
        if self.fault == "long chunks":
            chunk = np.tile(CHUNK, 4)
        if self.fault == "no audio":
            call.say(response(True))
            return
        count = 2 if self.fault == "wrong rate" else 30
        if len(said) > 100:  # what is to be cancelled
            call.state["rest"] = True
            call.say(*[response(False, AUDIO=chunk)] * 5)
            return
        call.say(*[response(False, AUDIO=chunk)] * count, response(True, AUDIO=chunk))


class Ears:
    """A recogniser that keeps its contract, and can be told not to."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def __call__(self, call: Call, message: pb.ModelInferRequest) -> None:
        inputs = given(message)
        start, end = (message.parameters[key].bool_param for key in (START, END))
        if not start and "n" not in call.state:
            if self.fault == "any chunk will do":
                call.state["n"] = 0
            elif self.fault != "deaf to strangers":
                call.say(refusal("lost" if self.fault == "odd words" else LOST))
                return
            else:
                return
        if "LANGUAGE" in inputs and inputs["LANGUAGE"][0] != "en-US" and self.fault != "any language":
            call.say(refusal(f"language {inputs['LANGUAGE'][0]} is not spoken here"))
            return
        call.state["n"] = 0 if start else call.state["n"] + 1
        call.say(self._answer(call.state["n"], end))
        if end:
            del call.state["n"]

    def _answer(self, n: int, end: bool) -> pb.ModelStreamInferResponse:
        said = " ".join(["word"] * n)
        stable = len(said) if end or self.fault == "too stable" else 0
        if self.fault == "beyond":
            stable = len(said) + 1
        if self.fault == "too stable":
            said = said.replace("word", f"word{n}")
            stable = len(said)
        times = np.array([[i * 160, i * 160 + 160] for i in range(n)], np.int32).reshape(-1, 2)
        if self.fault == "out of time":
            times = times[::-1]
        tensors = {
            "TRANSCRIPT": text(said),
            "STABLE": np.array([stable], np.float32 if self.fault == "wrong type" else np.int32),
            "IS_FINAL": np.array([end and self.fault != "never final"]),
            "WORDS": text(*["word"] * (n + (self.fault == "a word too many"))),
            "WORD_TIMES": times.reshape(-1, 1, 2) if self.fault == "wrong shape" else times,
        }
        if self.fault == "no words":
            del tensors["WORDS"]
        return response(True, **tensors)


async def check(
    verify: Callable[..., Awaitable[list[Finding]]],
    model: Callable[[Call, pb.ModelInferRequest], None],
    about: ModelInfo,
) -> list[Finding]:
    drains = Drains(deadline_s=1.0)
    try:
        return await verify(Stub(model), about, drains, 2.0)
    finally:
        await drains.close()


def test_models_that_keep_their_contract_have_nothing_but_ok() -> None:
    for verify, model, about in ((verify_tts, Voice(), info()), (verify_asr, Ears(), recogniser())):
        found = run_virtual(check(verify, model, about))
        assert {one.level for one in found} == {Level.OK}, found
        assert len(found) == 5


@pytest.mark.parametrize(
    ("fault", "level", "sentence"),
    [
        ("cancel is ignored", Level.ERROR, "CANCEL does not stop it: 4"),
        ("no final for cancel", Level.ERROR, "after CANCEL, a FINAL is missing"),
        ("too loud", Level.ERROR, "AUDIO is not within -1 and 1"),
        ("no audio", Level.ERROR, "a sentence gave no audio"),
        ("wrong rate", Level.ERROR, "a sentence lasts 0.2 s at 16000 Hz: is sample_rate right?"),
        ("long chunks", Level.WARNING, "the first chunk is 320 ms long"),
        ("mute on nothing", Level.ERROR, "an empty text is never answered"),
        ("bob is hoarse", Level.ERROR, "voice bob does not speak: tts_x: bob is hoarse"),
        ("takes everything", Level.WARNING, "an unknown VOICE is taken"),
    ],
)
def test_a_voice_that_breaks_its_contract(fault: str, level: Level, sentence: str) -> None:
    found = run_virtual(check(verify_tts, Voice(fault), info()))
    assert any(one.level is level and sentence in one.text for one in found), found


@pytest.mark.parametrize(
    ("fault", "level", "sentence"),
    [
        ("no words", Level.ERROR, "the answer to chunk 1 has no WORDS"),
        ("wrong type", Level.ERROR, "STABLE came as float32, and must be INT32"),
        ("wrong shape", Level.ERROR, "WORD_TIMES came with shape [0, 1, 2], and must have [-1, 2]"),
        ("beyond", Level.ERROR, "chunk 1: STABLE is 1, and TRANSCRIPT has 0 characters"),
        ("too stable", Level.ERROR, 'chunk 3: "word1" was stable, and then changed to "word2 word2"'),
        ("never final", Level.ERROR, "END did not make it final"),
        ("a word too many", Level.ERROR, "chunk 1: 1 WORDS and 0 WORD_TIMES"),
        ("out of time", Level.ERROR, "WORD_TIMES [160, 320, 0, 160] are not in order"),
        ("any chunk will do", Level.ERROR, "a chunk without START is taken"),
        ("deaf to strangers", Level.ERROR, "a chunk without START is not refused"),
        ("odd words", Level.ERROR, 'but not with "must specify the START flag"'),
        ("any language", Level.WARNING, "LANGUAGE tlh-KX is taken"),
    ],
)
def test_a_recogniser_that_breaks_its_contract(fault: str, level: Level, sentence: str) -> None:
    found = run_virtual(check(verify_asr, Ears(fault), recogniser()))
    assert any(one.level is level and sentence in one.text for one in found), found


def test_a_model_that_says_nothing_is_given_up() -> None:
    with pytest.raises(TritonTimeout, match="no answer within 2 s"):
        run_virtual(check(verify_tts, lambda call, message: None, info()))
