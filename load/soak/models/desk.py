"""An operator's way to the models: a manager of its own that shares the leases of all who use the Triton."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.settings import ModelsSettings
from gateway.triton.fleet.fleet import Fleet
from gateway.triton.manager.manager import ModelManager
from load.soak.models.house import House


@asynccontextmanager
async def manager_of(house: House) -> AsyncIterator[ModelManager]:
    """It neither loads nor unloads by itself."""
    fleet = Fleet(
        house.triton.grpc,
        models=ModelsSettings(min_residency_s=0.0),
        repositories=[house.repository],
        label="operator",
    )
    try:
        await fleet.start()
        yield next(iter(fleet.managers().values()))
    finally:
        await fleet.close()
