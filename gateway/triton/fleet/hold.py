"""One session's hold on a model: leased, on one server, on one version for each sequence; moved when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING

from gateway.triton.codec import Array
from gateway.triton.errors import TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.manager.manager import ModelManager
from gateway.triton.manager.types import Lease
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.choose import Candidate, Choice, Want
from gateway.triton.routing.languages import voice_of
from gateway.triton.routing.policy import Policy
from gateway.triton.routing.server import Server
from gateway.triton.routing.servers import Use
from gateway.triton.routing.session_rule import Pinned

if TYPE_CHECKING:
    from gateway.triton.fleet.fleet import Calls, Fleet

_TRIES = 4
"""Models, or servers, that may slip away between the choice and the lease."""


class Seat:
    """A lease on one server."""

    __slots__ = ("_fleet", "_use", "lease", "manager", "server")

    def __init__(
        self, fleet: Fleet, use: Use[Calls], server: Server[Calls], manager: ModelManager, lease: Lease
    ) -> None:
        self._fleet, self._use, self.server = fleet, use, server
        self.manager, self.lease = manager, lease

    @property
    def info(self) -> ModelInfo:
        return self.lease.info

    @classmethod
    async def take(cls, fleet: Fleet, candidate: Candidate, deadline_s: float | None) -> Seat:
        """Loads the model where it is not resident. Raises: see `Manager.lease`."""
        use = fleet.servers.use(candidate.server)
        server = await use.__aenter__()
        manager = server.models
        assert isinstance(manager, ModelManager)
        try:
            lease = await manager.lease(candidate.info.name, any_version=True, deadline_s=deadline_s)
        except BaseException as error:
            await use.__aexit__(type(error), error, None)
            raise
        return cls(fleet, use, server, manager, lease)

    async def request(self) -> Lease:
        """For one request: the newest version, which stays until it is released. Raises: TritonUnavailable."""
        return await self.manager.request(self.info.name)

    def leave(self) -> None:
        self.lease.release()
        self._fleet.run(self._use.__aexit__(None, None, None))

    async def doubt(self, error: TritonError) -> None:
        """A request failed: whoever looks after the server, and after the model, finds out why. Leaves."""
        self.lease.release()
        await self._use.__aexit__(type(error), error, None)
        if not isinstance(error, TritonTimeout):
            await self.manager.suspect(self.info.name, error)
        else:
            self._fleet.run(self.manager.suspect(self.info.name, error))


class Hold:
    """Made by `Fleet.hold`. On the event loop; `release()` once."""

    def __init__(self, fleet: Fleet, want: Want, policy: Policy, notify: Callable[[str, str], None]) -> None:
        self._fleet, self._want, self._policy, self._notify = fleet, want, policy, notify
        self._pinned = Pinned(use_stand_in=fleet.uses_stand_ins)
        self._seat: Seat | None = None
        self._coming: asyncio.Task[None] | None = None
        self._taking = asyncio.Lock()
        self._released = False

    @property
    def want(self) -> Want:
        return self._want

    @property
    def info(self) -> ModelInfo | None:
        """The model that serves now; None before `take()`."""
        return self._seat.info if self._seat is not None else None

    async def take(self, *, deadline_s: float | None = None) -> ModelInfo:
        """The model for the next request, leased; loads it where nothing else serves meanwhile.

        Raises: NothingFits, NotNow, NoRoom, LoadFailed, TritonUnavailable, TritonTimeout, TritonError.
        """
        seat = self._seat
        if seat is not None and seat.server.takes_calls:
            return seat.info
        async with self._taking:
            if self._seat is None or not self._seat.server.takes_calls:
                await self._take(deadline_s)
            assert self._seat is not None
            return self._seat.info

    def change(self, want: Want, policy: str | None = None, *, switch: bool) -> None:
        """For the requests to come. Raises: SwitchRefused, NothingFits, PolicyError; then nothing changes."""
        chosen = self._policy if policy is None else self._fleet.policies.get(policy)
        choice = self._pinned.look(self._fleet.candidates(), want, chosen, switch=switch)
        if switch and choice.serves.info.name != self._pinned.model:
            self._pinned = Pinned(use_stand_in=self._fleet.uses_stand_ins)
            self._let_go()
        self._want, self._policy = want, chosen

    @property
    def wanted(self) -> str:
        """The model that it waits for, where another serves meanwhile; else the one that serves."""
        return self._pinned.model

    @property
    def version(self) -> str:
        """That the next request gets."""
        seat = self._seat
        return seat.manager.version(seat.info.name) if seat is not None else ""

    def inputs_of(self, voice: str) -> dict[str, Array]:
        """The tensors that the model takes for a voice, its own or a pack's."""
        seat = self._taken()
        return self._fleet.voice_inputs(seat.server.address, seat.info.name, voice)

    def voice_inputs(self) -> dict[str, Array]:
        """The wanted voice, as the tensors that the model takes for it: its own name for it, or a pack's."""
        seat, want = self._taken(), self._want
        voice = voice_of(
            self._fleet.offered(seat.server.address, seat.info), want.voice, want.language, other_regions=True
        )
        return self.inputs_of(voice) if voice else {}

    def release(self, *, linger_s: float = 0.0) -> None:
        """linger_s: the model stays held for so long: its session is likely to come again."""
        self._released = True
        if self._coming is not None:
            self._coming.cancel()
        if linger_s > 0:
            asyncio.get_running_loop().call_later(linger_s, self._let_go)
        else:
            self._let_go()

    async def recover(self, error: TritonError) -> None:
        """A request failed because the model or its server is not there any more: the next `take()` has another."""
        seat, self._seat = self._seat, None
        if seat is not None:
            await seat.doubt(error)

    # ---- requests --------------------------------------------------------------------------------

    async def sequence(self) -> SequenceCall:
        """A fresh sequence on the model that `take()` gave: its version stays until the model has had its END, and it
        counts as open as long. Raises: ModelFull, TritonUnavailable."""
        seat, fleet = self._taken(), self._fleet
        info = seat.info
        with ExitStack() as stack:
            lease = stack.enter_context(await seat.request())
            stack.enter_context(fleet.admission.admit(seat.server.address, info))
            stack.enter_context(fleet.servers.figures.of(seat.server.address, info.name).request())
            connection = stack.enter_context(seat.server.line.use())
            return SequenceCall(
                connection.stubs.inference,
                info.name,
                drains=fleet.drains,
                decoupled=info.decoupled,
                batched=info.max_batch_size > 0,
                version=lease.version,
                on_over=stack.pop_all().close,
            )

    async def stream(
        self, inputs: Mapping[str, Array], *, first_deadline_s: float, next_deadline_s: float
    ) -> AsyncGenerator[dict[str, Array], None]:
        """One request on the decoupled model that `take()` gave. See `stream_decoupled`; also raises ModelFull."""
        seat, fleet = self._taken(), self._fleet
        server, info = seat.server, seat.info
        now = asyncio.get_running_loop().time
        lease, begun = await seat.request(), False
        try:
            with (
                fleet.admission.admit(server.address, info),
                fleet.servers.figures.of(server.address, info.name).request() as request,
                server.line.use() as connection,
            ):
                responses = stream_decoupled(
                    connection.stubs.inference,
                    info.name,
                    inputs,
                    drains=fleet.drains,
                    first_deadline_s=first_deadline_s,
                    next_deadline_s=next_deadline_s,
                    version=lease.version,
                    on_over=lease.release,
                )
                since = now()
                try:
                    async with aclosing(responses):
                        begun = True
                        async for response in responses:
                            connection.heard()
                            request.answered()
                            yield response
                            since = now()
                except TritonTimeout:
                    connection.silent_since(since)
                    raise
        finally:
            if not begun:
                lease.release()

    # ---- the seat --------------------------------------------------------------------------------

    def _taken(self) -> Seat:
        if self._seat is None:
            raise TritonUnavailable("no model is held: the hold was released, or its model is gone")
        return self._seat

    def _let_go(self) -> None:
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.leave()

    async def _take(self, deadline_s: float | None) -> None:
        self._let_go()
        slipped: set[tuple[str, str]] = set()
        failure: TritonError | None = None
        for _ in range(_TRIES):
            candidates = [each for each in self._fleet.candidates() if each.key not in slipped]
            try:
                choice = self._pinned.choose(candidates, self._want, self._policy)
            except TritonError as error:
                raise failure or error from None
            try:
                seat = await Seat.take(self._fleet, choice.serves, deadline_s)
            except TritonUnavailable as error:
                slipped.add(choice.serves.key)
                failure = error
                continue
            if self._released:
                seat.leave()
                raise TritonUnavailable("the session has ended")
            self._seat = seat
            self._tell(choice)
            return
        assert failure is not None
        raise failure

    def _tell(self, choice: Choice) -> None:
        if choice.note:
            self._notify("voice_moved" if choice.moved else "voice_loading", choice.note)
        if choice.meanwhile is not None and (self._coming is None or self._coming.done()):
            self._coming = self._fleet.run(self._bring(choice))

    async def _bring(self, choice: Choice) -> None:
        """The wanted model, for the next request once it is loaded; the stand-in stays where it cannot be."""
        name, stand_in = choice.wanted.info.name, choice.serves.info.name
        try:
            seat = await Seat.take(self._fleet, choice.wanted, None)
        except TritonError as error:
            self._notify("voice_failed", f"{error}; {stand_in} goes on")
            return
        self._let_go()
        if self._released:
            seat.leave()
            return
        self._seat = seat
        self._notify("voice_ready", f"{name} is loaded and serves from now on")
