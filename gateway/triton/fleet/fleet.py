"""The Tritons that a process uses, a model manager for each, and how a session gets a model of one of them."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio

from gateway.settings import ModelsSettings
from gateway.tls.client import ClientSecurity
from gateway.triton.admission import Admission
from gateway.triton.catalogue.catalogue import Catalogue
from gateway.triton.channel import GRPCInferenceServiceStub, open_stream_channel
from gateway.triton.codec import Array, text
from gateway.triton.errors import TritonUnavailable
from gateway.triton.fleet.hold import Hold
from gateway.triton.fleet.looks import Looks
from gateway.triton.leases.client import open_leases
from gateway.triton.manager.events import Event
from gateway.triton.manager.manager import ModelManager
from gateway.triton.manager.warm_up import WarmUp
from gateway.triton.model_info import ModelInfo
from gateway.triton.repository import Repository
from gateway.triton.routing.choose import Candidate, Want, rank
from gateway.triton.routing.languages import Fit, family_of
from gateway.triton.routing.policy import Policies, Policy, read_policies
from gateway.triton.routing.server import Server
from gateway.triton.routing.servers import Servers
from gateway.triton.steady_channel import open_steady_channel
from gateway.triton.stream import Drains

log = logging.getLogger(__name__)

T = TypeVar("T")
Notify = Callable[[str, str], None]
"""Told a code and a sentence for the session."""


class Calls:
    """What is called on a channel for speech."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.inference = GRPCInferenceServiceStub(channel)
        self.repository = Repository(channel)


class Fleet:
    """`await start()`, `hold()` for each session, `await close()`."""

    def __init__(
        self,
        addresses: str,
        *,
        models: ModelsSettings,
        repositories: Sequence[str | Path] = (),
        security: ClientSecurity | None = None,
        key: str = "",
        keeper: bool = False,
        label: str = "",
        drain_s: float = 5.0,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """addresses: see `Servers`. repositories: what the Tritons serve from, where this process can read it.

        security: TLS towards them. key: key=value of a restricted model repository API. keeper: loads the default and preloaded models, and
        unloads what nobody uses; others load on first use alone. label: of this process, for people who look at
        leases. drain_s: longest that a given-up stream is read on.
        Raises: TritonError for addresses and policies that are none.
        """
        self._models, self._security, self._key = models, security, key
        self._repositories, self._keeper, self._label = tuple(repositories), keeper, label
        self._on_event = on_event
        self._policies = read_policies(models.policy)
        self._checked = models.policy is None
        """The names in the policy file are those of models."""
        self._defaults = {"asr": models.asr, "tts": models.tts}
        self._catalogues: dict[str, Catalogue] = {}
        """By server address."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._holds: weakref.WeakSet[Hold] = weakref.WeakSet()
        self.held: Counter[tuple[str, str]] = Counter()
        """Sessions by model and server, those too that have chosen one and do not have it yet: of many that begin at once,
        each sees the others."""
        self._drains_end: dict[str, asyncio.TimerHandle] = {}
        """By server address."""
        self._looks = Looks(self.look, self.run)
        self.drains = Drains(deadline_s=drain_s)
        self.admission = Admission()
        self.servers: Servers[Calls] = Servers(
            addresses,
            lambda address, name: open_stream_channel(address, security=security, name=name),
            Calls,
            probe=self._probe,
            attend=self._attend,
            version=None if security is None else security.version,
        )

    @property
    def policies(self) -> Policies:
        return self._policies

    @property
    def uses_stand_ins(self) -> bool:
        return self._models.fallback

    async def start(self) -> None:
        """Raises: TritonError where no Triton answers, or the first does not have what must be there; PolicyError
        where the policy file names a model that none of them has."""
        await self.servers.start()
        if not self._checked and all(server.attended for server in self.servers.listed):
            known = [info for one in self.managers().values() for info in one.known()]
            for doubt in self._policies.check(known):
                log.warning("%s", doubt)
            self._checked = True

    async def close(self) -> None:
        """Streams that were given up are read to their end first."""
        for timer in self._drains_end.values():
            timer.cancel()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(set(self._tasks))
        await self.drains.close()
        await self.servers.close()

    def hold(self, want: Want, *, policy: str = "", notify: Notify | None = None) -> Hold:
        """For one session; nothing is leased before `take()`. Raises: PolicyError."""
        self._policies.get(policy)
        hold = Hold(self, want, policy, notify)
        self._holds.add(hold)
        return hold

    def policy(self, name: str, want: Want) -> Policy:
        """By name. Without a policy file a default model is taken before all others that do as well what is wanted.
        Raises: PolicyError."""
        policy = self._policies.get(name)
        if self._models.policy is not None:
            return policy
        ranked = rank(self.candidates(), want, policy)
        best = min(map(_suits, ranked), default=())
        names = {each.info.name for each in ranked if _suits(each) == best and self._is_default(each)}
        return replace(policy, models={"*": tuple(sorted(names))}) if names else policy

    def _is_default(self, each: Candidate) -> bool:
        named = self._defaults.get(family_of(each.info), "")
        return each.info.name == named if named else each.info.default and each.resident

    def candidates(self) -> list[Candidate]:
        """Every model of every server that takes calls; not those that would have to be loaded where that is not done."""
        on_demand = self._models.on_demand
        loads = {
            address for address, manager in self.managers().items() if on_demand and not manager.read_only
        }
        return [
            replace(
                each,
                info=self.offered(each.server, each.info),
                held=self.held[each.key],
            )
            for each in self.servers.candidates()
            if each.resident or each.server in loads
        ]

    def offered(self, server: str, info: ModelInfo) -> ModelInfo:
        """The model with the voices that packs give it."""
        catalogue = self._catalogues.get(server)
        packs = catalogue.packs(info.name) if catalogue is not None and self._models.voice_packs else {}
        if not packs:
            return info
        languages = info.voice_languages
        if len(languages) == len(info.voices):
            languages += tuple(pack.language for pack in packs.values())
        return replace(info, voices=(*info.voices, *packs), voice_languages=languages)

    def voice_inputs(self, server: str, model: str, voice: str) -> dict[str, Array]:
        """What is sent to a model for a voice of its own or of a pack."""
        catalogue = self._catalogues.get(server)
        if catalogue is not None:
            return catalogue.voice_inputs(model, voice)
        return {"VOICE": text(voice)} if voice else {}

    async def look(self) -> None:
        """What each Triton has now, whoever changed it. Raises: TritonError when none of them answers."""
        resting = [one.models for one in self.servers.listed if one.resting and one.attended]
        aside = [self.run(one.look()) for one in resting if isinstance(one, ModelManager)]
        for task in aside:  # whether they are to be used again; nobody needs to wait for that
            task.add_done_callback(_seen)
        found = await asyncio.gather(
            *(one.look() for one in self.managers().values()), return_exceptions=True
        )
        failures = [one for one in found if isinstance(one, BaseException)]
        if len(failures) == len(found):
            raise failures[0] if failures else TritonUnavailable("no Triton takes calls")

    async def refresh(self, *, max_age_s: float = 0.0) -> None:
        """As `look`, unless there was one within max_age_s; those who wait share one. Raises: TritonError."""
        await self._looks.refresh(max_age_s=max_age_s)

    def models(self) -> list[ModelInfo]:
        """Each model once, those that are resident somewhere first."""
        found: dict[str, ModelInfo] = {}
        for each in sorted(self.candidates(), key=lambda each: not each.resident):
            found.setdefault(each.info.name, each.info)
        return list(found.values())

    def managers(self) -> dict[str, ModelManager]:
        """By server address, of those that take calls."""
        return {
            server.address: server.models
            for server in self.servers.available()
            if isinstance(server.models, ModelManager)
        }

    def run(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that ends with the fleet at the latest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _note_draining(self, server: Server[Calls], left_s: float) -> None:
        """Somebody drains it: sessions let go of it, and their next requests go elsewhere; those under way end there.
        Where there is no other, they stay: whoever drains it waits for them, or for its deadline."""
        timer = self._drains_end.pop(server.address, None)
        if timer is not None:
            timer.cancel()
        self.servers.rest(server, left_s > 0)
        if left_s > 0:
            elsewhere = bool(self.servers.available())
            for hold in list(self._holds):
                if elsewhere or hold.released:
                    hold.yield_lease(server)
            loop = asyncio.get_running_loop()  # nothing may be said by then that tells of the end
            self._drains_end[server.address] = loop.call_later(left_s, self._note_draining, server, 0.0)

    async def _probe(self, server: Server[Calls]) -> bool:
        with server.line.use() as connection:
            since = asyncio.get_running_loop().time()
            live = await connection.stubs.repository.is_live(deadline_s=0.9)
            if not live:
                connection.silent_since(since)
            return live

    @asynccontextmanager
    async def _attend(self, server: Server[Calls]) -> AsyncIterator[ModelManager]:
        """A channel of its own: loads take minutes, and calls must not wait behind anything."""
        channel = open_steady_channel(server.address, security=self._security, name=server.name)
        try:
            repository = Repository(channel, self._key)
            leases = await open_leases(
                channel,
                key=self._key,
                label=self._label,
                lease_s=self._models.lease_s,
                on_draining=lambda left_s: self._note_draining(server, left_s),
            )
            try:
                catalogue = Catalogue(self._repositories, repository, packs=self._models.voice_packs)
                manager = ModelManager(
                    repository,
                    leases,
                    catalogue,
                    self._models,
                    warm_up=WarmUp(channel),
                    keeper=self._keeper,
                    server=server.address,
                    on_event=self._on_event,
                )
                try:
                    await manager.start()
                    self._catalogues[server.address] = catalogue
                    yield manager
                finally:
                    self._catalogues.pop(server.address, None)
                    await manager.close()
            finally:
                await leases.close()
        finally:
            await channel.close()


def _seen(looking: asyncio.Task[None]) -> None:
    if not looking.cancelled():
        looking.exception()


def _suits(each: Candidate) -> tuple[bool, Fit]:
    """How well a ranked candidate does what is wanted; smaller is better."""
    assert each.standing is not None
    return not each.standing.named, max(each.standing.fit, Fit.SAME)
