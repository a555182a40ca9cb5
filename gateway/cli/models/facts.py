"""What is known of every model of one Triton, brought together; and what would be unloaded next."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.settings import ModelsSettings
from gateway.triton.leases.client import Change, Record
from gateway.triton.manager.plan import Occupant, next_by_ttl, ttl_left_s, young_s
from gateway.triton.manager.types import State, Why
from gateway.triton.model_info import ModelInfo, family_of
from gateway.triton.repository import ModelState

_PINNED = (Why.DEFAULT.value, Why.PRELOAD.value)


@dataclass(frozen=True, slots=True)
class Row:
    """One model. Times are seconds; None: it does not apply, or nobody knows."""

    name: str
    state: State
    versions: tuple[str, ...] = ()
    """Those that answer."""
    info: ModelInfo | None = None
    """None: its config.pbtxt can be read neither here nor from Triton."""
    why: str = ""
    """Why it is resident: a `Why`."""
    since_s: float | None = None
    idle_s: float | None = None
    """None while it is leased, too."""
    sessions: int = 0
    """That lease it, as far as their processes have told."""
    holders: tuple[str, ...] = ()
    """The processes that lease it."""
    changing: str = ""
    """"load by speech@host for 3 s", or ""."""
    load_s: float | None = None
    """What its last load took."""
    reason: str = ""
    """Why it is not ready: its last load failed, or it cannot be served here."""
    last_failure: str = ""
    """Of the last load, also of a version that did not take the place of one that answers."""
    evict_in_s: float | None = None
    """When its idle time ends; 0: at the manager's next look."""

    @property
    def resident(self) -> bool:
        return self.state in (State.READY, State.DRAINING, State.UNLOADING)

    @property
    def pinned(self) -> bool:
        return self.why in _PINNED

    @property
    def family(self) -> str:
        return family_of(self.info) if self.info is not None else self.name.partition("_")[0]

    @property
    def memory_mb(self) -> int:
        return self.info.memory_mb if self.info is not None else 0


def rows_of(
    index: Iterable[ModelState],
    infos: Mapping[str, ModelInfo],
    problems: Mapping[str, str],
    records: Mapping[str, Record],
    settings: ModelsSettings,
) -> list[Row]:
    """By family and name. infos: of the models whose config can be read; problems: why others cannot be served."""
    by_name: dict[str, list[ModelState]] = {}
    for one in index:
        by_name.setdefault(one.name, []).append(one)
    names = {*by_name, *infos, *problems}
    rows = [
        _row(name, by_name.get(name, []), infos.get(name), problems.get(name, ""), records.get(name))
        for name in names
    ]
    rows = [replace(row, evict_in_s=evict_in_s(row, settings)) for row in rows]
    return sorted(rows, key=lambda row: (row.family, row.name))


def _row(
    name: str, states: Sequence[ModelState], info: ModelInfo | None, problem: str, record: Record | None
) -> Row:
    ready = tuple(sorted((s.version for s in states if s.state == "READY"), key=_number))
    failure = next((s.reason for s in states if s.state == "UNAVAILABLE" and s.reason != "unloaded"), "")
    if record is not None and record.reason:
        failure = record.reason
    row = Row(
        name,
        _state(states, ready, failure, record),
        ready,
        info,
        reason="" if ready else failure or problem,
        last_failure=failure,
        load_s=record.load_s if record is not None and record.load_s else None,
    )
    if record is None:
        return row
    changing = ""
    if record.changing is not None:
        by = f" by {record.changer}" if record.changer else ""
        changing = f"{record.changing.value}{by} for {record.changing_s:.0f} s"
    return replace(
        row,
        why=record.why or (Why.FOUND.value if ready else ""),
        since_s=record.since_s if ready else None,
        idle_s=record.idle_s if ready and not record.holders else None,
        sessions=record.sessions,
        holders=record.labels,
        changing=changing,
    )


def _state(
    states: Sequence[ModelState], ready: tuple[str, ...], failure: str, record: Record | None
) -> State:
    found = {one.state for one in states}
    if ready:
        return State.DRAINING if record is not None and record.changing is Change.UNLOAD else State.READY
    if "LOADING" in found:
        return State.LOADING
    if "UNLOADING" in found:
        return State.UNLOADING
    return State.FAILED if failure else State.ABSENT


def evict_in_s(row: Row, settings: ModelsSettings) -> float | None:
    """When a manager with these settings would unload it for being idle; None: not as things are."""
    return ttl_left_s(_occupant(row), settings) if row.resident else None


def _occupant(row: Row) -> Occupant:
    return Occupant(
        row.name,
        row.memory_mb,
        idle_s=row.idle_s or 0.0,
        since_s=row.since_s or 0.0,
        leased=bool(row.holders),
        pinned=row.pinned,
        changing=row.state is not State.READY or bool(row.changing),
        foreign=row.since_s is None,
    )


def next_eviction(rows: Sequence[Row], settings: ModelsSettings, *, managed: bool = True) -> str:
    """A sentence without a full stop, for the end of a list. managed: somebody keeps a lease table there."""
    resident = [row for row in rows if row.resident]
    if not resident:
        return "next eviction: nothing is resident"
    if not managed:
        return "next eviction: none: no Parley process manages this Triton"
    occupants = [_occupant(row) for row in resident]
    free = [one for one in occupants if not (one.leased or one.pinned)]
    if not free:
        return "next eviction: nothing: all pinned or leased"
    parts = []
    if first := next_by_ttl(occupants, settings):
        name, seconds = first
        when = f"in {duration(seconds)}" if seconds >= 1 else "at the next look"
        parts.append(f"{name} {when} (TTL {duration(settings.ttl_s)})")
    if cap := _full(resident, settings):
        victim = min(free, key=lambda one: (young_s(one, settings), -one.idle_s, one.name))
        young = young_s(victim, settings)
        wait = f" in {duration(young)}" if young >= 1 else ""
        parts.append(f"{victim.name}{wait} when room is needed ({cap})")
    return "next eviction: " + ("; ".join(parts) or "none: nothing is idle, and no cap is reached")


def _full(resident: Sequence[Row], settings: ModelsSettings) -> str:
    if settings.max_resident and len(resident) >= settings.max_resident:
        return f"{len(resident)} of {settings.max_resident} models"
    memory = sum(row.memory_mb for row in resident)
    if settings.max_memory_mb and memory >= settings.max_memory_mb:
        return f"{memory} of {settings.max_memory_mb} MB"
    return ""


def duration(seconds: float) -> str:
    """ "1.2 s", "45 s", "6 min 10 s", "2 h 5 min", "3 d 4 h": the two largest units."""
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    for (name, size), (smaller, step) in itertools.pairwise(units):
        if whole >= size:
            rest = whole % size // step
            return f"{whole // size} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 0
