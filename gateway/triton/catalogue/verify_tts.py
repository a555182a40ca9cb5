"""A loaded voice against its contract: chunks, FINAL, CANCEL, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.triton.catalogue.findings import Finding, error, ok, warning
from gateway.triton.channel import GRPCInferenceServiceStub
from gateway.triton.codec import Array, outputs, request, text
from gateway.triton.errors import TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.model_info import ModelInfo
from gateway.triton.stream import Drains, Stream

SENTENCE = "The train to the coast leaves at nine in the morning."
LONG = " ".join(["The old harbour lies quiet in the morning, and the boats come home one by one."] * 6)
CHUNK_MS = (39.0, 161.0)
FIRST_MS = 161.0
"""The first chunk is a small one; how small is the model's affair."""
SPOKEN_S = (1.0, 10.0)
"""Of SENTENCE, by anybody's pace; beyond it, the sample rate is not what the config says."""
LATE_MS = 1_000.0
"""Audio that may still come after a CANCEL: what was on its way."""
NOBODY = "nobody-has-this-name"


@dataclass(slots=True)
class _Heard:
    chunks: list[NDArray[np.float32]] = field(default_factory=list)
    finals: int = 0
    after_final: int = 0
    """Chunks behind the first FINAL."""
    bad: str = ""


class _Voice:
    def __init__(
        self, stub: GRPCInferenceServiceStub, info: ModelInfo, drains: Drains, answer_s: float
    ) -> None:
        self.info = info
        self._stub, self._drains, self._answer_s = stub, drains, answer_s

    async def speak(
        self, said: str | None, inputs: Mapping[str, Array] | None = None, *, cancel_after: int = 0
    ) -> _Heard:
        """Everything that comes. cancel_after: CANCEL behind so many chunks; what comes later is kept alone.

        Raises: TritonError.
        """
        name = self.info.name
        heard = _Heard()
        stream = Stream(self._stub, name)
        cancelled = False
        try:
            stream.send(request(name, ({} if said is None else {"TEXT": text(said)}) | dict(inputs or {})))
            while not stream.finished:
                response = await stream.next(self._answer_s)
                if response is None:
                    raise TritonUnavailable(f"{name}: the stream ended before FINAL")
                self._take(heard, outputs(response), response.parameters["triton_final_response"].bool_param)
                if cancel_after and not cancelled and len(heard.chunks) >= cancel_after and not heard.finals:
                    stream.send(request(name, {"CANCEL": np.array([True])}))
                    cancelled, heard = True, _Heard(bad=heard.bad)
        finally:
            self._drains.take(stream)
        if cancel_after and not cancelled:
            heard.bad = heard.bad or f"a long text ended after {len(heard.chunks)} chunks"
        return heard

    def ms(self, chunk: NDArray[np.float32]) -> float:
        return len(chunk) * 1000 / (self.info.sample_rate or 16_000)

    def _take(self, heard: _Heard, tensors: dict[str, Array], final: bool) -> None:
        audio = tensors.get("AUDIO")
        if audio is not None and audio.size:
            if audio.dtype != np.float32 or audio.ndim != 1:
                heard.bad = (
                    heard.bad or f"AUDIO came as {audio.dtype} {list(audio.shape)}, and must be FP32 [-1]"
                )
            elif not np.isfinite(audio).all() or np.abs(audio).max() > 1.0:
                heard.bad = heard.bad or "AUDIO is not within -1 and 1"
            heard.chunks.append(audio)
            heard.after_final += heard.finals > 0
        heard.finals += final


async def verify_tts(
    stub: GRPCInferenceServiceStub, info: ModelInfo, drains: Drains, answer_s: float
) -> list[Finding]:
    """Raises: TritonError where the model says nothing at all."""
    voice = _Voice(stub, info, drains, answer_s)
    found = _spoken(voice, await voice.speak(SENTENCE))
    found.append(await _nothing(voice))
    found.append(await _cancel(voice))
    found += await _voices(voice)
    found += await _refusals(voice)
    return found


def _spoken(voice: _Voice, heard: _Heard) -> list[Finding]:
    if heard.bad:
        return [error(heard.bad)]
    if not heard.chunks:
        return [error("a sentence gave no audio")]
    found = []
    lengths = [voice.ms(chunk) for chunk in heard.chunks]
    seconds = sum(lengths) / 1000
    if not SPOKEN_S[0] <= seconds <= SPOKEN_S[1]:
        found.append(
            error(f"a sentence lasts {seconds:.1f} s at {voice.info.sample_rate} Hz: is sample_rate right?")
        )
    if lengths[0] > FIRST_MS:
        found.append(warning(f"the first chunk is {lengths[0]:.0f} ms long: a small one is heard sooner"))
    wrong = [ms for ms in lengths[1:-1] if not CHUNK_MS[0] <= ms <= CHUNK_MS[1]]
    if wrong:
        found.append(
            warning(
                f"{len(wrong)} of {len(lengths)} chunks are not 40 to 160 ms long, such as {wrong[0]:.0f} ms"
            )
        )
    return found or [ok(f"a sentence came in {len(lengths)} chunks of 40 to 160 ms, and then FINAL")]


async def _nothing(voice: _Voice) -> Finding:
    try:
        heard = await voice.speak("   ")
    except TritonTimeout:
        return error("an empty text is never answered: it needs a FINAL too")
    except TritonError as failure:
        return warning(f"an empty text is refused, and should be FINAL without audio: {failure}")
    if heard.chunks:
        return warning("an empty text gave audio")
    return ok("an empty text is FINAL without audio")


async def _cancel(voice: _Voice) -> Finding:
    try:
        heard = await voice.speak(LONG, cancel_after=3)
    except TritonTimeout:
        return error("after CANCEL, a FINAL is missing: the request and its CANCEL get one each")
    except TritonError as failure:
        return error(f"CANCEL fails: {failure}")
    if heard.bad:
        return error(heard.bad)
    late_ms = sum(voice.ms(chunk) for chunk in heard.chunks)
    if heard.after_final > 1 or late_ms > LATE_MS:
        return error(f"CANCEL does not stop it: {late_ms:.0f} ms of audio came after it")
    return ok("CANCEL stops it within a chunk, and both requests get their FINAL")


async def _voices(voice: _Voice) -> list[Finding]:
    info = voice.info
    found = []
    spoken: tuple[str, ...] = info.voice_languages
    if len(spoken) != len(info.voices):
        spoken = ("",) * len(info.voices)
    for name, language in zip(info.voices, spoken, strict=True):
        inputs = {"VOICE": text(name), **({"LANGUAGE": text(language)} if language else {})}
        try:
            if not (await voice.speak("Yes.", _known(info, inputs))).chunks:
                found.append(error(f"voice {name} says nothing"))
        except TritonError as failure:
            found.append(error(f"voice {name} does not speak: {failure}"))
    return found or ([ok(f"all of its {len(info.voices)} voices speak")] if info.voices else [])


async def _refusals(voice: _Voice) -> list[Finding]:
    wrong: dict[str, tuple[str | None, dict[str, Array]]] = {
        "a request without TEXT": (None, {}),
        "an unknown VOICE": (SENTENCE, {"VOICE": text(NOBODY)}),
        "an unknown LANGUAGE": (SENTENCE, {"LANGUAGE": text("tlh-KX")}),
        "a SPEED of -1": (SENTENCE, {"SPEED": np.array([-1.0], np.float32)}),
    }
    found = []
    for what, (said, inputs) in wrong.items():
        known = _known(voice.info, inputs)
        if len(known) != len(inputs):
            continue  # it has no such input
        try:
            await voice.speak(said, known)
            found.append(warning(f"{what} is taken: it should be refused by name"))
        except TritonTimeout:
            found.append(error(f"{what} is never answered"))
        except TritonUnavailable as gone:
            found.append(error(f"{what} ends it: {gone}"))
        except TritonError:
            pass
    return found or [ok("what it cannot do is refused")]


def _known(info: ModelInfo, inputs: dict[str, Array]) -> dict[str, Array]:
    return {name: value for name, value in inputs.items() if name in info.inputs}
