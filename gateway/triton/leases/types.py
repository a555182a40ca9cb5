"""The words of leases: what is held, what changes, and the port that hides where the table lives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Change(StrEnum):
    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True)
class Record:
    """One model in the lease table; ages in seconds."""

    model: str
    holders: int
    """Processes that hold it."""
    labels: tuple[str, ...]
    """Theirs."""
    sessions: int
    """Of all of them, at their last word (a third of the lease time ago, at most)."""
    changing: Change | None
    """What somebody does to it now."""
    changer: str
    """Label of the process that does."""
    changing_s: float
    since_s: float | None
    """Since its last load that was told to this table; None: none was, or it has been unloaded since."""
    idle_s: float
    """Since nobody holds it, or since its load; 0 while it is held."""
    why: str
    """What its load was for, as told."""
    reason: str
    """Of the last change, where that failed."""
    failures: int
    """Loads that failed in a row."""
    failed_s: float | None
    """Since the last of them; None: the last load did not fail."""
    load_s: float
    """What its last load took; kept while it is not loaded, 0 when never seen."""


class Leases(Protocol):
    """Who holds which model of one Triton. A process counts once a model, however many sessions it has."""

    async def hold(self, model: str) -> None:
        """One more session uses the model. Free of cost while another one does, or did a second ago.

        Raises: NotNow while it is being unloaded; TritonUnavailable without word from the table.
        """
        ...

    def drop(self, model: str) -> None:
        """One session less. Never fails; one that was never held is not counted."""
        ...

    async def begin(self, model: str, change: Change, *, force: bool = False, max_loads: int = 0) -> None:
        """Take the right to load or unload a model; nobody else has it until `end`.

        force: unload it all the same, though somebody holds it (or may: the table is new). From here on
            nobody takes a new hold on it.
        max_loads: most models being loaded at a time, by all; 0: any number.
        Raises: InUse; NotNow when somebody changes it already, for too many loads and while the table
            is new; TritonUnavailable.
        """
        ...

    async def end(
        self,
        model: str,
        change: Change,
        *,
        ok: bool,
        why: str = "",
        reason: str = "",
        load_s: float = 0.0,
    ) -> None:
        """What `begin` began is over. Never fails: what the table does not hear now it is told later."""
        ...

    async def records(self) -> dict[str, Record]:
        """Every model that was ever held or changed. Raises: TritonUnavailable."""
        ...

    async def start(self) -> None:
        """Look whether the table answers; bring it in if need be. Raises: LeasesUnsupported, TritonError."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...
