"""Voices of a fleet for the TTS API: routed by policy, held for the session, moved when what was wanted is loaded and
when what spoke is gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

from gateway.riva.errors import Refused
from gateway.riva.tts_api.ports import Held, Want
from gateway.riva.tts_api.voices import TTS, is_named
from gateway.triton.codec import Array
from gateway.triton.errors import TritonError
from gateway.triton.fleet.looks import take_after_a_look
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing import choose
from gateway.triton.routing.languages import voice_of
from gateway.triton.routing.policy import PolicyError


class Hold(Protocol):
    """The part of `gateway.triton.fleet.hold.Hold` that is needed here."""

    @property
    def offered(self) -> ModelInfo: ...
    @property
    def wanted(self) -> str: ...
    @property
    def version(self) -> str: ...
    async def take(self, *, deadline_s: float | None = None) -> ModelInfo: ...
    async def recover(self, error: TritonError) -> None: ...
    def inputs_of(self, voice: str) -> dict[str, Array]: ...
    def stream(
        self, inputs: Mapping[str, Array], *, first_deadline_s: float, next_deadline_s: float
    ) -> AsyncGenerator[dict[str, Array], None]: ...
    def release(self) -> None: ...


class Fleet(Protocol):
    """The part of `gateway.triton.fleet.fleet.Fleet` that is needed here."""

    def candidates(self) -> Sequence[choose.Candidate]: ...
    def hold(
        self, want: choose.Want, *, policy: str = "", notify: Callable[[str, str], None] | None = None
    ) -> Any: ...
    async def refresh(self, *, max_age_s: float = 0.0) -> None: ...


class FleetVoices:
    """`Voices` over all Tritons of a process."""

    def __init__(self, fleet: Fleet, *, chunk_s: float) -> None:
        """chunk_s: longest wait for each chunk of a synthesis."""
        self._fleet, self._chunk_s = fleet, chunk_s

    async def hold(self, want: Want, *, deadline_s: float | None = None) -> Held:
        asked = choose.Want(
            TTS, language=want.language, voice=want.voice, model=self._named(want.model), strict=True
        )
        try:
            # The client is told by `instead_of`.
            hold = self._fleet.hold(asked, policy=want.policy, notify=lambda code, message: None)
        except PolicyError as error:
            raise Refused(str(error)) from None
        try:
            return await _Source(hold, self._fleet, want, self._chunk_s).renew(deadline_s=deadline_s)
        except choose.NothingFits as error:
            hold.release()
            raise Refused(str(error)) from None
        except BaseException:
            hold.release()
            raise

    def _named(self, model: str) -> str:
        """ "flite" as "tts_flite"."""
        names = (each.info for each in self._fleet.candidates() if each.info.name != model)
        return next((info.name for info in names if model and is_named(info, model)), model)


class _Source:
    def __init__(self, hold: Hold, fleet: Fleet, want: Want, chunk_s: float) -> None:
        self._hold, self._fleet, self._want, self._chunk_s = hold, fleet, want, chunk_s

    @property
    def version(self) -> str:
        return self._hold.version

    async def renew(self, *, deadline_s: float | None = None) -> Held:
        hold, want = self._hold, self._want
        await take_after_a_look(hold, self._fleet, deadline_s=deadline_s)
        info, wanted = hold.offered, hold.wanted
        voice = voice_of(info, want.voice, want.language) or ""
        return Held(info, voice, want.language, self, "" if wanted == info.name else wanted)

    def speak(self, inputs: Mapping[str, Array], /) -> AsyncGenerator[dict[str, Array], None]:
        tensors = dict(inputs)
        if (voice := tensors.pop("VOICE", None)) is not None:
            tensors |= self._hold.inputs_of(str(voice.reshape(-1)[0]))
        return self._hold.stream(tensors, first_deadline_s=self._chunk_s, next_deadline_s=self._chunk_s)

    async def recover(self, error: TritonError) -> None:
        await self._hold.recover(error)

    def release(self) -> None:
        self._hold.release()
