"""The manager's decisions, without I/O: what goes to make room, what is idle for too long, what comes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.settings import ModelsSettings
from gateway.triton.manager.types import NoRoom
from gateway.triton.model_info import ModelInfo, family_of

_LONGEST_BACKOFF_S = 300.0


@dataclass(frozen=True, slots=True)
class Occupant:
    """A model that takes room on Triton, or is about to."""

    name: str
    memory_mb: int
    idle_s: float
    """Since its last lease ended, or its load; 0 while leased."""
    since_s: float
    """It has been resident."""
    leased: bool = False
    pinned: bool = False
    changing: bool = False
    """It is being loaded, unloaded or repaired, by whomever."""
    foreign: bool = False
    """Loaded by somebody who told nobody: only room for others makes it go."""


def young_s(model: Occupant, settings: ModelsSettings) -> float:
    """Seconds of minimum residency that are left."""
    return max(settings.min_residency_s - model.since_s, 0.0)


def may_go(model: Occupant, settings: ModelsSettings) -> bool:
    return not (model.leased or model.pinned or model.changing or young_s(model, settings))


def victims(
    wanted: str, memory_mb: int, occupants: Sequence[Occupant], settings: ModelsSettings
) -> list[tuple[str, str]]:
    """Models to unload before `wanted` is loaded, with the cap that asks for it ("count", "memory").

    The least recently used go first, and no more than it takes. Raises: NoRoom.
    """
    most, most_mb = settings.max_resident, settings.max_memory_mb
    if most_mb and memory_mb > most_mb:
        raise NoRoom(
            f"no room for {wanted}: it needs {memory_mb} MB, and all models together may have {most_mb} MB"
        )
    staying = [one for one in occupants if one.name != wanted]

    def excess(left: Iterable[Occupant]) -> str:
        left = list(left)
        if most and len(left) + 1 > most:
            return "count"
        if most_mb and memory_mb and sum(one.memory_mb for one in left) + memory_mb > most_mb:
            return "memory"
        return ""

    gone: list[tuple[Occupant, str]] = []
    for one in sorted(staying, key=lambda each: (-each.idle_s, each.name)):
        cap = excess(staying)
        if not cap:
            break
        if may_go(one, settings) and (cap == "count" or one.memory_mb):
            staying.remove(one)
            gone.append((one, cap))
    if cap := excess(staying):
        raise NoRoom(_no_room(wanted, memory_mb, cap, occupants, settings))
    for one, cap in reversed(gone.copy()):
        # A small one that went first may have been of no use.
        if not excess([*staying, one]):
            staying.append(one)
            gone.remove((one, cap))
    return [(one.name, cap) for one, cap in gone]


def _no_room(
    wanted: str, memory_mb: int, cap: str, occupants: Sequence[Occupant], settings: ModelsSettings
) -> str:
    others = [one for one in occupants if one.name != wanted]
    if cap == "count":
        full = f"{len(others)} of {settings.max_resident} models are resident"
    else:
        used = sum(one.memory_mb for one in others)
        full = f"it needs {memory_mb} MB and {used} of {settings.max_memory_mb} MB are in use"
    leased = sum(one.leased for one in others)
    pinned = sum(one.pinned and not one.leased for one in others)
    young = sum(bool(young_s(one, settings)) and not (one.leased or one.pinned) for one in others)
    whys = [f"{leased} in use"] * bool(leased) + [f"{pinned} kept on purpose"] * bool(pinned)
    whys += [f"{young} loaded less than {settings.min_residency_s:g} s ago"] * bool(young)
    return f"no room for {wanted}: {full}" + (f" ({', '.join(whys)})" if whys else "")


def ttl_left_s(model: Occupant, settings: ModelsSettings) -> float | None:
    """Seconds until it is unloaded for being idle; None: it is not, as things are."""
    if not settings.ttl_s or model.leased or model.pinned or model.changing or model.foreign:
        return None
    return max(settings.ttl_s - model.idle_s, young_s(model, settings), 0.0)


def next_by_ttl(occupants: Iterable[Occupant], settings: ModelsSettings) -> tuple[str, float] | None:
    """The model whose time ends first, and in how many seconds."""
    left = [(seconds, one.name) for one in occupants if (seconds := ttl_left_s(one, settings)) is not None]
    seconds, name = min(left, default=(0.0, ""))
    return (name, seconds) if name else None


def backoff_s(failures: int, settings: ModelsSettings) -> float:
    """After so many failed loads in a row."""
    if failures <= 0:
        return 0.0
    return float(min(settings.backoff_s * 2.0 ** min(failures - 1, 20), _LONGEST_BACKOFF_S))


def default_candidates(models: Iterable[ModelInfo], family: str) -> list[ModelInfo]:
    """A family's models, the repository's own default first."""
    its = (one for one in models if family_of(one) == family)
    return sorted(its, key=lambda one: (not one.default, one.needs_gpu, one.name))


def newest(versions: Iterable[str]) -> str:
    return max(versions, key=number, default="")


def ascending(versions: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(versions, key=number))


def number(version: str) -> int:
    return int(version) if version.isdecimal() else 0


def wanted_version(config: ModelConfig, there: Sequence[int]) -> str:
    """The version that its folder asks to be served: the newest, of those that config.pbtxt names if it does."""
    named = config.version_policy.specific.versions
    return newest(str(one) for one in there if not named or one in named)


def with_versions(config: ModelConfig, versions: Iterable[str]) -> ModelConfig:
    """A copy that has Triton serve exactly these."""
    copy = ModelConfig()
    copy.CopyFrom(config)
    copy.ClearField("version_policy")
    copy.version_policy.specific.versions.extend(sorted({number(one) for one in versions}))
    return copy


def with_newest(config: ModelConfig, count: int) -> ModelConfig:
    """A copy that has Triton serve the newest so many."""
    copy = ModelConfig()
    copy.CopyFrom(config)
    copy.ClearField("version_policy")
    copy.version_policy.latest.num_versions = count
    return copy
