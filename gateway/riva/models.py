"""Which models the speech services have, and which of them a request means; held while it is served."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

import grpc

from gateway.riva.errors import Refused
from gateway.riva.utterance import Call
from gateway.triton.codec import Array
from gateway.triton.errors import TritonError
from gateway.triton.fleet.looks import take_after_a_look
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.choose import Candidate, NothingFits, Want
from gateway.triton.routing.languages import family_of

ASR, TTS = "asr", "tts"
_NONE_READY = {
    ASR: "no speech recogniser is ready in Triton: load one (parley models load asr_...)",
    TTS: "no voice is ready in Triton: load one (parley models load tts_...)",
}
Notify = Callable[[str, str], None]


class Held(Protocol):
    """The part of `gateway.triton.fleet.hold.Hold` that is needed here."""

    async def take(self, *, deadline_s: float | None = None) -> ModelInfo: ...
    async def recover(self, error: TritonError) -> None: ...
    async def sequence(self) -> Call: ...
    def stream(
        self, inputs: Mapping[str, Array], *, first_deadline_s: float, next_deadline_s: float
    ) -> AsyncGenerator[dict[str, Array], None]: ...
    def voice_inputs(self) -> dict[str, Array]: ...
    def release(self, *, linger_s: float = 0.0) -> None: ...


class Fleet(Protocol):
    """The part of `gateway.triton.fleet.fleet.Fleet` that is needed here."""

    def candidates(self) -> Sequence[Candidate]: ...
    def hold(self, want: Want, *, policy: str = "", notify: Notify | None = None) -> Any: ...
    async def refresh(self, *, max_age_s: float = 0.0) -> None: ...


class Recogniser:
    """A model that recognises, for one stream. `release()` once."""

    def __init__(self, held: Held, info: ModelInfo) -> None:
        self._held = held
        self.info = info

    async def open(self) -> Call:
        """A fresh sequence, on the newest version. Raises TritonError."""
        self.info = await self._held.take()
        return await self._held.sequence()

    async def recover(self, error: TritonError) -> None:
        """The sequence is lost with its model or its server; `open()` has another."""
        await self._held.recover(error)

    def release(self, *, linger_s: float = 0.0) -> None:
        self._held.release(linger_s=linger_s)


class Speaker:
    """A model that speaks, for one request or one session. `release()` once."""

    def __init__(self, held: Held, info: ModelInfo, chunk_s: float) -> None:
        self._held, self._chunk_s = held, chunk_s
        self.info = info

    async def speak(self, inputs: Mapping[str, Array]) -> AsyncGenerator[dict[str, Array], None]:
        """One text; `aclose()` cancels it in-band. inputs: without the voice. Raises TritonError."""
        responses = self._held.stream(
            {**inputs, **self._held.voice_inputs()},
            first_deadline_s=self._chunk_s,
            next_deadline_s=self._chunk_s,
        )
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    async def take(self) -> ModelInfo:
        """Again, after `recover`. Raises TritonError."""
        self.info = await self._held.take()
        return self.info

    async def recover(self, error: TritonError) -> None:
        """A text failed because the model or its server is gone."""
        await self._held.recover(error)

    def release(self, *, linger_s: float = 0.0) -> None:
        self._held.release(linger_s=linger_s)


class SpeechModels:
    """One per server."""

    def __init__(self, fleet: Fleet, *, chunk_s: float = 5.0) -> None:
        """chunk_s: longest wait for each chunk of a synthesis."""
        self._fleet, self._chunk_s = fleet, chunk_s

    def ready(self, family: str) -> list[ModelInfo]:
        """Models of a family that would serve, loaded or loaded on first use; the preferred first."""
        found = {each.info.name: each for each in self._fleet.candidates() if family_of(each.info) == family}
        ranked = sorted(
            found.values(),
            key=lambda c: (not c.info.default, not c.resident, not c.info.needs_gpu, c.info.name),
        )
        return [each.info for each in ranked]

    async def refresh(self, *, max_age_s: float = 0.0) -> None:
        """Look at Triton, unless the last look is younger. Waiters share one look. Raises TritonError."""
        await self._fleet.refresh(max_age_s=max_age_s)

    async def recogniser(self, model: str, language: str, kind: str) -> Recogniser:
        """kind: "online" or "offline", for the text. Raises: Refused, TritonError."""
        want = Want(ASR, language=language, model=model, strict=True)
        refusal = f"Error: Unavailable model requested. Lang: {language}, Type: {kind}"
        held, info = await self._held(want, "", None, refusal)
        return Recogniser(held, info)

    async def voice(
        self,
        voice: str,
        language: str,
        *,
        model: str = "",
        policy: str = "",
        notify: Notify | None = None,
        deadline_s: float | None = None,
    ) -> Speaker:
        """The voice that a synthesis request means. Raises: Refused, TritonError."""
        want = Want(TTS, language=language, voice=voice, model=model, strict=True)
        refusal = (
            f"Model is not available on server: Voice {voice} for language {language} not found. "
            "Please specify the voice name in your SynthesizeSpeechRequest."
        )
        held, info = await self._held(want, policy, notify, refusal, deadline_s)
        return Speaker(held, info, self._chunk_s)

    async def _held(
        self, want: Want, policy: str, notify: Notify | None, refusal: str, deadline_s: float | None = None
    ) -> tuple[Held, ModelInfo]:
        held: Held = self._fleet.hold(want, policy=policy, notify=notify)
        try:
            return held, await take_after_a_look(held, self._fleet, deadline_s=deadline_s)
        except NothingFits:
            held.release()
            if not self.ready(want.family):
                raise Refused(f"Error: {_NONE_READY[want.family]}", grpc.StatusCode.UNAVAILABLE) from None
            raise Refused(refusal) from None
        except BaseException:
            held.release()
            raise
