"""Voices of a fleet for the TTS API: routed by policy, held for the session, moved when their server is gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from gateway.riva.errors import Refused
from gateway.riva.tts_api.ports import Held, Want
from gateway.riva.tts_api.voices import TTS, is_named, no_voice, voice_in
from gateway.triton.codec import Array
from gateway.triton.errors import TritonError
from gateway.triton.fleet.fleet import Fleet
from gateway.triton.fleet.hold import Hold
from gateway.triton.fleet.looks import take_after_a_look
from gateway.triton.manager.types import Lease
from gateway.triton.routing import choose
from gateway.triton.routing.policy import PolicyError


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
            info = await take_after_a_look(hold, self._fleet, deadline_s=deadline_s)
        except choose.NothingFits:
            hold.release()
            raise Refused(no_voice(want)) from None
        except BaseException:
            hold.release()
            raise
        lease = Lease(info, hold.version, hold.release)
        voice = voice_in(info, want.voice, want.language) or ""
        instead_of = "" if hold.wanted == info.name else hold.wanted
        return Held(lease, voice, want.language, _Source(hold, self._chunk_s), instead_of)

    def _named(self, model: str) -> str:
        """ "flite" as "tts_flite"."""
        names = (each.info for each in self._fleet.candidates() if each.info.name != model)
        return next((info.name for info in names if model and is_named(info, model)), model)


@dataclass(frozen=True, slots=True)
class _Source:
    hold: Hold
    chunk_s: float

    def speak(self, inputs: Mapping[str, Array], /) -> AsyncGenerator[dict[str, Array], None]:
        voice = str(inputs["VOICE"].reshape(-1)[0]) if "VOICE" in inputs else ""
        tensors = {**inputs, **self.hold.inputs_of(voice)} if voice else inputs
        return self.hold.stream(tensors, first_deadline_s=self.chunk_s, next_deadline_s=self.chunk_s)

    async def recover(self, error: TritonError) -> None:
        await self.hold.recover(error)
