"""Which model and voice a session gets, where no routing policy says otherwise."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.riva.errors import Refused
from gateway.riva.tts_api.ports import Held, Want
from gateway.triton.codec import Array
from gateway.triton.errors import TritonError
from gateway.triton.manager.types import Lease, Manager
from gateway.triton.model_info import ModelInfo, family_of
from gateway.triton.routing.languages import voice_base, voice_of

TTS = "tts"


class Speak(Protocol):
    """Starts one request on a decoupled model; `aclose()` cancels it in-band and returns at once."""

    def __call__(
        self, model: ModelInfo, inputs: Mapping[str, Array], /, *, version: str = ""
    ) -> AsyncGenerator[dict[str, Array], None]: ...


@dataclass(frozen=True, slots=True)
class _Leased:
    lease: Lease
    start: Speak

    def speak(self, inputs: Mapping[str, Array], /) -> AsyncGenerator[dict[str, Array], None]:
        return self.start(self.lease.info, inputs, version=self.lease.version)

    async def recover(self, error: TritonError) -> None:
        pass  # the next lease finds out


class ManagedVoices:
    """`Voices` over one manager: the named model; else a resident one that fits, the default first; else one that
    can be loaded."""

    def __init__(self, manager: Manager, speak: Speak) -> None:
        self._manager, self._speak = manager, speak

    async def hold(self, want: Want, *, deadline_s: float | None = None) -> Held:
        if want.policy:
            raise Refused(f"there is no routing policy {want.policy!r}: leave policy empty")
        model, voice = self._choose(want)
        lease = await self._manager.lease(model.name, deadline_s=deadline_s)
        return Held(lease, voice, want.language, _Leased(lease, self._speak))

    def _choose(self, want: Want) -> tuple[ModelInfo, str]:
        resident = {model.name for model in self._manager.resident()}
        known = [model for model in self._manager.known() if family_of(model) == TTS]
        known.sort(key=lambda m: (m.name not in resident, not m.default, m.needs_gpu, m.name))
        if want.model:
            known = [m for m in known if is_named(m, want.model)]
            if not known:
                raise Refused(
                    f"there is no voice model {want.model!r}: ListModels names those that there are"
                )
        for model in known:
            voice = voice_in(model, want.voice, want.language)
            if voice is not None:
                return model, voice
        raise Refused(no_voice(want))


def is_named(model: ModelInfo, name: str) -> bool:
    """ "tts_flite" and "flite" both name it."""
    return name in (model.name, voice_base(model))


def voice_in(model: ModelInfo, voice: str, language: str) -> str | None:
    """The model's own name for a voice ("slt", "flite.slt", "tts_flite.slt"); "" for its default; None when the
    model has no such voice, or none for the language."""
    return voice_of(model, voice, language)


def no_voice(want: Want) -> str:
    """The sentence for it."""
    parts = [
        f"{word} {value!r}" for word, value in (("voice", want.voice), ("language", want.language)) if value
    ]
    where = f" of model {want.model!r}" if want.model else ""
    if not parts:
        return "no voice model is there: add a tts_* model to the repository"
    return f"no {' for '.join(parts)}{where}: ListModels says what there is"
