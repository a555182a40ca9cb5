"""The Triton that a command is about: found, dialled, and what is known of its models."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname

import grpc.aio

from gateway.cli import endpoints
from gateway.cli.common import Fault, load_settings
from gateway.cli.models.facts import Row, rows_of
from gateway.settings import Settings
from gateway.tls.client import client_security
from gateway.triton.catalogue.catalogue import Catalogue
from gateway.triton.catalogue.machine import this_machine
from gateway.triton.catalogue.repositories import is_url
from gateway.triton.channel import open_channel
from gateway.triton.errors import TritonError
from gateway.triton.leases.client import Leases, Record, TritonLeases, open_leases
from gateway.triton.leases.wire import MODEL as LEASE_TABLE
from gateway.triton.model_info import SYSTEM_PREFIX
from gateway.triton.repository import Repository

_LIVE_S = 3.0


@dataclass(frozen=True, slots=True)
class Connected:
    where: str
    """host:port"""
    settings: Settings
    repository: Repository
    catalogue: Catalogue
    channel: grpc.aio.Channel
    key: str
    is_stack: bool
    """It is the server of the stack that runs on this machine."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a Triton."""

    rows: list[Row]
    managed: bool
    """Some Parley process keeps a lease table there."""
    notes: list[str]
    """What could not be looked at, a sentence each."""


def where_of(options: argparse.Namespace, settings: Settings) -> str:
    """--triton, else PARLEY_TRITON__URI, else the running stack's server, else the default address."""
    if options.triton is not None:
        return str(options.triton)
    if "uri" in settings.triton.model_fields_set:
        return settings.triton.uri
    return endpoints.find("triton_grpc", default=settings.triton.uri)


def is_stack(where: str) -> bool:
    """Whether this is the server of the stack that runs on this machine."""
    return endpoints.find("triton_grpc", default="") == where


def repositories_of(options: argparse.Namespace, settings: Settings, *, stack: bool) -> Sequence[str | Path]:
    """The repositories that can be read beside asking Triton.

    Only those that were named, or that the running stack has: of a Triton elsewhere the folders here
    say nothing.
    """
    named: Sequence[str] = getattr(options, "repository", None) or ()
    if not named and (stack or "repositories" in settings.triton.model_fields_set):
        named = settings.triton.repositories
    return [one if is_url(one) else _found(Path(one)) for one in named]


def _found(chosen: Path) -> Path:
    """The folder, or the checkout's own where the name is a relative one that is not here."""
    ours = Path(__file__).parents[3] / chosen
    return chosen if chosen.is_absolute() or chosen.is_dir() or not ours.is_dir() else ours


@asynccontextmanager
async def connect(options: argparse.Namespace) -> AsyncIterator[Connected]:
    """Raises Fault when nothing answers there, and for every TritonError inside."""
    settings = load_settings()
    where = where_of(options, settings)
    key = options.key or settings.triton.repository_key.get_secret_value()
    if key and "=" not in key:
        raise Fault("the key of the model repository API is written key=value, as Triton was started with")
    try:
        security = client_security(settings.triton.tls, "Triton", on=settings.triton.ssl)
    except OSError as error:
        raise Fault(str(error)) from None
    channel = open_channel(where, security=security)
    stack = is_stack(where)
    repository = Repository(channel, key)
    try:
        if not await repository.is_live(deadline_s=_LIVE_S):
            raise Fault(
                f"no Triton answers at {where}; start one with `parley up`, or name another with --triton"
            )
        catalogue = Catalogue(
            repositories_of(options, settings, stack=stack),
            repository,
            machine=this_machine() if stack else None,
        )
        yield Connected(where, settings, repository, catalogue, channel, key, stack)
    except TritonError as error:
        raise Fault(str(error)) from None
    finally:
        await channel.close()


async def look(to: Connected) -> Seen:
    """Every model that the Triton, or a repository that can be read, has; Parley's own helpers left out."""
    index = await to.repository.index()
    # A look brings no table in: without one, nobody holds anything.
    managed = await is_managed(to)
    records = await _records(to) if managed else {}
    await to.catalogue.refresh()
    rows = rows_of(
        [one for one in index if not one.name.startswith(SYSTEM_PREFIX)],
        {info.name: info for info in to.catalogue.all()},
        to.catalogue.problems(),
        records,
        to.settings.models,
    )
    return Seen(rows, managed, list(to.catalogue.unread.values()))


async def is_managed(to: Connected) -> bool:
    """Whether some Parley process keeps leases there. (The index shows no model that came in a request.)"""
    return await to.repository.is_ready(LEASE_TABLE)


async def _records(to: Connected) -> dict[str, Record]:
    leases = TritonLeases(to.channel, key=to.key, label=label())
    try:
        return await leases.records()
    finally:
        await leases.close()


@asynccontextmanager
async def changing(to: Connected) -> AsyncIterator[Leases]:
    """The right to change models, as all who share this Triton know it. Raises: TritonError."""
    lease_s = to.settings.models.lease_s
    leases = await open_leases(to.channel, key=to.key, label=label(), lease_s=lease_s, to_change=True)
    try:
        yield leases
    finally:
        await leases.close()


def label() -> str:
    """What others call this process."""
    return f"parley models@{gethostname()}"
