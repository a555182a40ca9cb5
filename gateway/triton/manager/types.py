"""The words of the model manager: what a model's state is, what a lease is, why something is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Protocol

from gateway.triton.errors import TritonError, TritonUnavailable
from gateway.triton.model_info import ModelInfo


class State(StrEnum):
    """Of one model on one Triton."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    """To be unloaded; new leases are refused, old ones run out."""
    UNLOADING = "unloading"
    FAILED = "failed"
    """The last load failed; the next try waits for the back-off."""


class Why(StrEnum):
    """Why a model is resident."""

    DEFAULT = "default"
    PRELOAD = "preload"
    SESSION = "session"
    """Loaded on first use."""
    OPERATOR = "operator"
    NEEDED = "needed"
    """Another model runs it: a graph that a front asks its server for."""
    FOUND = "found"
    """It was there when the manager first looked: loaded by somebody else."""


class NoSuchModel(TritonError):
    """The repositories do not have it."""


class InUse(TritonError):
    """Not unloaded: it is leased, or not resident for long enough. `force` unloads it all the same."""

    def __init__(self, message: str, *, leases: int = 0, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.leases = leases
        """Sessions that hold it, as far as all who share this Triton have told."""
        self.wait_s = wait_s
        """Seconds of minimum residency that are left."""


class NotNow(TritonUnavailable):
    """The model is being unloaded or rolled, or failed a moment ago: try again after `wait_s`."""

    def __init__(self, message: str, *, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class NoRoom(TritonUnavailable):
    """A cap is reached and every resident model is leased, pinned or too young to go."""


class LoadFailed(TritonError):
    """The model does not load. `str()` says why in a sentence."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Of one load, for people who wait for it."""

    model: str
    state: State
    elapsed_s: float
    expected_s: float
    """What its last load took, 0 when never seen."""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model as the manager sees it."""

    info: ModelInfo
    state: State
    version: str = ""
    """The version that new leases get; "" when none is ready."""
    why: Why | None = None
    since_s: float = 0.0
    """Seconds it has been resident; 0 when it is not."""
    idle_s: float = 0.0
    """Seconds since its last lease ended; 0 while leased."""
    leases: int = 0
    """Of all who share this Triton: processes elsewhere count as one each."""
    pinned: bool = False
    """The default or a preload: neither TTL nor caps unload it."""
    reason: str = ""
    """Why it failed, or why it is draining."""
    load_s: float = 0.0
    """What its last load took."""
    evict_in_s: float | None = None
    """When its TTL ends; None: never, or not now."""
    versions: tuple[str, ...] = field(default=())
    """Every version that still answers."""


class Lease:
    """A hold on one version of one model. `release()` once, or `with`; releasing again does nothing."""

    __slots__ = ("_release", "info", "version")

    def __init__(self, info: ModelInfo, version: str, release: Callable[[], None]) -> None:
        self.info = info
        self.version = version
        """Requests of a sequence name it, so that it ends on the version it began on; "" is the newest."""
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Synchronous, never fails."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Manager(Protocol):
    """What the speech services and the command line ask of `manager.ModelManager`."""

    async def lease(
        self, name: str, *, deadline_s: float | None = None, on_progress: OnProgress | None = None
    ) -> Lease:
        """A hold on a model, loaded first where it is absent (many waiters, one load).

        Raises: NoSuchModel, LoadFailed, NotNow, NoRoom, TritonTimeout, TritonUnavailable.
        """
        ...

    async def load(
        self,
        name: str,
        *,
        why: Why = Why.OPERATOR,
        deadline_s: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Load it, or roll its newest version in where it is resident. Raises as `lease`."""
        ...

    async def unload(self, name: str, *, force: bool = False, deadline_s: float | None = None) -> None:
        """Drain and unload, until it is really gone. Raises: InUse, NoSuchModel, TritonError."""
        ...

    def resident(self) -> list[ModelInfo]:
        """Models that take new leases at once; from memory."""
        ...

    def known(self) -> list[ModelInfo]:
        """Every model of the repositories that could be served here, resident or not; from memory."""
        ...

    async def status(self) -> list[ModelStatus]:
        """Every model of the repositories, after a look at Triton and at the leases."""
        ...
