"""What the TTS API asks of the rest: a voice to hold, a model that speaks, and what machine this is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.triton.codec import Array
from gateway.triton.manager.types import Lease
from gateway.triton.model_info import ModelInfo


class Synthesis(Protocol):
    """Starts one request on a decoupled model; `aclose()` cancels it in-band and returns at once."""

    def __call__(
        self, model: ModelInfo, inputs: Mapping[str, Array], /, *, version: str = ""
    ) -> AsyncGenerator[dict[str, Array], None]: ...


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
    """A model that stays loaded until `lease.release()`, and the voice of it that speaks."""

    lease: Lease
    voice: str
    """As the model knows it; "" is its default."""
    language: str
    instead_of: str = ""
    """The model that was wanted and is being loaded meanwhile."""

    @property
    def model(self) -> ModelInfo:
        return self.lease.info


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
