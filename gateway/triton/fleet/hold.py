"""One session's hold on a model: leased, on one server, on one version for each request; moved when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.telemetry.context import asking, spot
from gateway.triton.codec import Array
from gateway.triton.errors import ModelNotLoaded, TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.fleet.seat import HeldSequence, Seat, leave_if_taken
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.manager.types import LoadFailed, NoRoom, NotNow
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.choose import Candidate, Choice, Want, eased, rank
from gateway.triton.routing.languages import voice_of
from gateway.triton.routing.session_rule import Pinned

if TYPE_CHECKING:
    from gateway.triton.fleet.fleet import Calls, Fleet
    from gateway.triton.routing.server import Server

_TRIES = 4
"""Models, or servers, that may slip away between the choice and the lease."""
_NOT_LOADED = (LoadFailed, ModelNotLoaded, NoRoom, NotNow, TritonTimeout)
"""The server is there, and the model cannot be had."""


class Hold:
    """Made by `Fleet.hold`. On the event loop; `release()` once.

    `take()` before each request; between two of them the model stays what it is.
    """

    def __init__(
        self, fleet: Fleet, want: Want, policy: str, notify: Callable[[str, str], None] | None
    ) -> None:
        """policy: by name. notify: told "voice_loading", "voice_ready", "voice_failed" or "voice_moved", and a sentence.
        None: nobody can be told, so no other model stands in while the wanted one is loaded."""
        self._fleet, self._want, self._policy = fleet, want, policy
        self._notify = notify or (lambda code, message: None)
        self._stands_in = fleet.uses_stand_ins and notify is not None
        self._pinned = self._unpinned()
        self._seat: Seat | None = None
        self._next: Seat | None = None
        """The wanted model, loaded meanwhile; the next `take()` moves to it."""
        self._coming: asyncio.Task[None] | None = None
        """Loads the wanted model while another one serves."""
        self._getting: asyncio.Task[Seat] | None = None
        self._turn = 0
        """Changes of mind so far: a seat that was asked for before the last one is not taken."""
        self._taking = asyncio.Lock()
        self._released = False

    @property
    def want(self) -> Want:
        return self._want

    @property
    def released(self) -> bool:
        """Nobody asks it for anything any more."""
        return self._released

    @property
    def info(self) -> ModelInfo | None:
        """The model that serves now; None before `take()`."""
        return self._seat.info if self._seat is not None else None

    @property
    def wanted(self) -> str:
        """The model that it waits for, where another serves meanwhile; else the one that serves."""
        return self._pinned.model

    @property
    def offered(self) -> ModelInfo:
        """The model that `take()` gave, with the voices that packs give it."""
        seat = self._taken()
        return self._fleet.offered(seat.server.address, seat.info)

    @property
    def version(self) -> str:
        """That the next request gets."""
        seat = self._seat
        return seat.manager.version(seat.info.name) if seat is not None else ""

    async def take(self, *, deadline_s: float | None = None) -> ModelInfo:
        """The model for the next request, leased; loads it where nothing else serves meanwhile.

        Raises: NothingFits, NotNow, NoRoom, LoadFailed, TritonUnavailable, TritonTimeout, TritonError.
        """
        seat = self._here()
        if seat is None:
            async with self._taking:
                seat = self._here() or await self._take(deadline_s)
        return seat.info

    def change(self, want: Want, policy: str | None = None, *, switch: bool) -> None:
        """For the requests to come. Raises: SwitchRefused, NothingFits, PolicyError; then nothing changes."""
        name = self._policy if policy is None else policy
        chosen = self._fleet.policy(name, want)
        choice = self._pinned.look(self._fleet.candidates(), want, chosen, switch=switch)
        self._want, self._policy = want, name
        self._think_again()
        if switch and choice.wanted.info.name != self._pinned.model:
            self._pinned = self._unpinned()
            self._stop_bringing()
            self._let_go()

    def release(self, *, linger_s: float = 0.0) -> None:
        """linger_s: the model stays held for so long: its session is likely to come again."""
        self._released = True
        self._think_again()
        self._stop_bringing()
        if linger_s > 0 and self._seat is not None:
            asyncio.get_running_loop().call_later(linger_s, self._let_go)
        else:
            self._let_go()

    def yield_lease(self, server: Server[Calls]) -> None:
        """Its server is about to end: what is under way there has leases of its own, and the next `take()` moves."""
        for seat in (self._seat, self._next):
            if seat is not None and seat.server is server:
                seat.lease.release()

    async def recover(self, error: TritonError) -> None:
        """A request failed because the model or its server is not there any more: the next `take()` has another."""
        seat, self._seat = self._seat, None
        if seat is not None:
            await seat.doubt(error)

    # ---- requests --------------------------------------------------------------------------------

    def inputs_of(self, voice: str) -> dict[str, Array]:
        """The tensors that the model takes for a voice, its own or a pack's."""
        seat = self._taken()
        return self._fleet.voice_inputs(seat.server.address, seat.info.name, voice)

    def voice_inputs(self) -> dict[str, Array]:
        """The wanted voice, as the tensors that the model takes for it: its own name for it, or a pack's."""
        want = self._want
        voice = voice_of(self.offered, want.voice, want.language, other_regions=True)
        return self.inputs_of(voice) if voice else {}

    async def sequence(self) -> HeldSequence:
        """A fresh sequence on the model that `take()` gave. Raises: ModelFull, TritonUnavailable."""
        seat, fleet = self._taken(), self._fleet
        info = seat.info
        with ExitStack() as held, ExitStack() as asked:
            lease = held.enter_context(await seat.request())
            held.enter_context(fleet.admission.admit(seat.server.address, info))
            request = fleet.servers.figures.of(seat.server.address, info.name).request()
            asked.enter_context(request)
            connection = asked.enter_context(seat.server.line.use())
            call = SequenceCall(
                connection.stubs.inference,
                info.name,
                drains=fleet.drains,
                decoupled=info.decoupled,
                batched=info.max_batch_size > 0,
                version=lease.version,
                # Not before the model has had its END.
                on_over=held.pop_all().close,
            )
            here = spot.get()
            span = here.start("triton", model=info.name, version=lease.version) if here is not None else None
            if span is not None:
                call.carrier = span.carrier
            return HeldSequence(call, asked.pop_all(), connection, request, span)
        raise AssertionError("neither of them swallows an error")

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
                asking("triton", model=info.name, version=lease.version),
            ):
                responses = stream_decoupled(
                    connection.stubs.inference,
                    info.name,
                    inputs,
                    drains=fleet.drains,
                    first_deadline_s=first_deadline_s,
                    next_deadline_s=next_deadline_s,
                    version=lease.version,
                    # Not before the model has had a CANCEL, if it gets one.
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

    def _unpinned(self) -> Pinned:
        return Pinned(use_stand_in=self._stands_in)

    def _taken(self) -> Seat:
        if self._seat is None:
            raise TritonUnavailable("no model is held: the hold was released, or its model is gone")
        return self._seat

    def _here(self) -> Seat | None:
        """The seat, as long as its server takes calls; on one that is drained also while there is no other."""
        if self._next is not None:
            seat, self._seat, self._next = self._seat, self._next, None
            if seat is not None:
                seat.leave()
        seat = self._seat
        if seat is None or seat.server.takes_calls:
            return seat
        return seat if seat.server.still_serves and not self._fleet.servers.available() else None

    def _let_go(self) -> None:
        seats, self._seat, self._next = (self._seat, self._next), None, None
        for seat in seats:
            if seat is not None:
                seat.leave()

    def _think_again(self) -> None:
        """What is under way was for a wish that is not there any more."""
        self._turn += 1
        if self._getting is not None:
            self._getting.cancel()

    def _stop_bringing(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()

    async def _take(self, deadline_s: float | None) -> Seat:
        now = asyncio.get_running_loop().time
        end = now() + deadline_s if deadline_s is not None else None
        self._let_go()
        slipped: set[tuple[str, str]] = set()
        failure: TritonError | None = None
        while failure is None or (len(slipped) < _TRIES and (end is None or now() < end)):
            if self._released:
                raise TritonUnavailable("the session has ended")
            turn = self._turn
            choice = self._choose(slipped, failure)
            try:
                seat = await self._get(choice.serves, None if end is None else end - now())
            except (TritonUnavailable, LoadFailed) as error:
                slipped.add(choice.serves.key)
                failure = error
                continue
            if turn != self._turn:
                slipped.clear()
                failure = None
                if seat is not None:
                    seat.leave()
            elif seat is None:
                raise TritonUnavailable("no model is held any more: this process is about to end")
            else:
                self._seat = seat
                self._settle(choice.wanted)
                self._tell(choice)
                return seat
        raise failure

    def _choose(self, slipped: set[tuple[str, str]], failure: TritonError | None) -> Choice:
        candidates = [each for each in self._fleet.candidates() if each.key not in slipped]
        policy = self._fleet.policy(self._policy, self._want)
        try:
            choice = self._pinned.look(candidates, self._want, policy)
        except TritonError as error:
            raise failure or error from None
        if isinstance(failure, _NOT_LOADED) and choice.moved and choice.wanted.info.name != self.wanted:
            if not self._stands_in:
                raise failure
            choice = replace(choice, note=f"{failure}; {choice.serves.info.name} takes its place")
        return choice

    async def _get(self, candidate: Candidate, within_s: float | None) -> Seat | None:
        """None: it was called off."""
        task = self._getting = self._fleet.run(Seat.take(self._fleet, candidate, within_s))
        self._fleet.held[candidate.key] += 1
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            task.add_done_callback(leave_if_taken)
            raise
        finally:
            self._fleet.held[candidate.key] -= 1
            self._getting = None
        return None if task.cancelled() else task.result()

    def _settle(self, candidate: Candidate) -> None:
        """The session has this model from now on, also where it is less than what was asked for."""
        self._pinned.settle(candidate)
        if not rank([candidate], self._want, self._fleet.policy(self._policy, self._want)):
            self._want = eased(self._want)

    def _tell(self, choice: Choice) -> None:
        waits = self._coming is not None and not self._coming.done()
        if choice.note and (choice.moved or not waits):
            self._notify("voice_moved" if choice.moved else "voice_loading", choice.note)
        if choice.meanwhile is not None and not waits:
            self._coming = self._fleet.run(self._bring(choice))

    async def _bring(self, choice: Choice) -> None:
        """The wanted model, for the next request once it is loaded; the stand-in stays where it cannot be."""
        name, stand_in = choice.wanted.info.name, choice.serves.info.name
        try:
            seat = await Seat.take(self._fleet, choice.wanted, None)
        except TritonError as error:
            self._settle(choice.serves)  # not tried again with every sentence
            self._notify("voice_failed", f"{error}; {stand_in} goes on")
            return
        before, self._next = self._next, seat
        if before is not None:
            before.leave()
        self._notify("voice_ready", f"{name} is loaded and serves from now on")
