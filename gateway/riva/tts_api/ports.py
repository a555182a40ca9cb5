"""What the TTS API asks of the rest: a voice to hold, a model that speaks, and what machine this is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.triton.codec import Array
from gateway.triton.errors import TritonError
from gateway.triton.model_info import ModelInfo


class Source(Protocol):
    """The model behind a voice that is held, and after it the next that this session has."""

    @property
    def version(self) -> str:
        """Of the model, that its next request gets; "" while it is gone."""
        ...

    async def renew(self, *, deadline_s: float | None = None) -> Held:
        """Before an utterance: as a rule the voice that is held already; the wanted one, once it is loaded; another
        where the one that spoke is gone. One that has to be loaded first is waited for.

        Raises: LoadFailed, NotNow, NoRoom, TritonError.
        """
        ...

    def speak(self, inputs: Mapping[str, Array], /) -> AsyncGenerator[dict[str, Array], None]:
        """Starts one request; `aclose()` cancels it in-band and returns at once."""
        ...

    async def recover(self, error: TritonError) -> None:
        """A request failed because the model or its server is gone; `renew()` has another."""
        ...

    def release(self) -> None:
        """No request follows; may be called again."""
        ...


@dataclass(frozen=True, slots=True)
class Want:
    """What a session asks for; "" leaves it open."""

    model: str = ""
    voice: str = ""
    language: str = ""
    """BCP-47."""
    policy: str = ""
    """A routing policy by name."""


@dataclass(frozen=True, slots=True)
class Held:
    """A model that stays loaded until `source.release()`, and the voice of it that speaks."""

    model: ModelInfo
    voice: str
    """As the model knows it; "" is its default."""
    language: str
    source: Source
    instead_of: str = ""
    """The model that was wanted and is being loaded meanwhile."""


class Voices(Protocol):
    async def hold(self, want: Want, *, deadline_s: float | None = None) -> Held:
        """Loads the model first where it is absent.

        Raises: Refused when there is no such voice; NoSuchModel, LoadFailed, NotNow, NoRoom, TritonError.
        """
        ...


@dataclass(frozen=True, slots=True)
class GpuMemory:
    name: str
    memory_mb: int
    used_mb: int


Gpus = Callable[[], Awaitable[list[GpuMemory]]]
"""Of Triton; empty where it has none or does not tell."""
