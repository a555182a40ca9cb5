"""Several Tritons, or speech services: who takes a call, who is shunned, and where the list of them comes from."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from types import TracebackType
from typing import Any, Generic, TypeVar

from gateway.triton.errors import TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.line import Channel, Line
from gateway.triton.routing.addresses import Place, Resolve, Target, find_places, parse_targets, resolve_host
from gateway.triton.routing.choose import Candidate
from gateway.triton.routing.figures import Figures
from gateway.triton.routing.server import Health, Models, Server

log = logging.getLogger(__name__)
T = TypeVar("T")
Pick = Callable[[Sequence[Server[T]]], Server[T] | None]
Attend = Callable[[Server[T]], AbstractAsyncContextManager[Models | None]]

_AGAIN_S = 30.0
"""Names are resolved anew this often, and when a server is lost."""
_NONE_YET_S = 2.0
"""The same while they stand for nobody: the pods behind a headless name are listed once they are ready."""
_NOT_SOONER_S = 1.0
_PROBE_S = 1.0
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0


class Servers(Generic[T]):
    """`async with servers.use() as server: …`, and in it `with server.line.use() as connection: …`.

    One `use` is one call, stream or sequence: it stays on its server. Where that is lost the call raises
    TritonUnavailable, and whoever asks again gets another one. With one address nothing is shunned: every call
    tries it.
    """

    def __init__(
        self,
        addresses: str,
        dial: Callable[[str, str], Channel],
        stubs: Callable[[Any], T],
        *,
        probe: Callable[[Server[T]], Awaitable[bool]],
        attend: Attend[T] | None = None,
        resolve: Resolve = resolve_host,
        what: str = "Triton",
        version: Callable[[], int] | None = None,
    ) -> None:
        """addresses: "a:8001,b:8001", "dns:///triton.default.svc:8001", or a name that stands for several.

        dial: a channel to host:port; the second argument is the host name that its certificate is for, where that
            is not in the first, else "".
        stubs: what is called on a channel.
        probe: whether a server takes calls; has 1 s.
        attend: entered for each server before it is used, left when it is no longer listed and nobody uses it: a
            model manager. One that raises is entered again after a pause.
        version: see `Line`.
        Raises: TritonError for addresses that are none.
        """
        self._targets = parse_targets(addresses, what)
        self._dial, self._stubs, self._probe = dial, stubs, probe
        self._version = version
        self._attend, self._resolve, self._what = attend, resolve, what
        self.figures = Figures()
        """Of what goes to these servers."""
        self._places: dict[Target, list[Place]] = {}
        self._servers: dict[str, Server[T]] = {}
        """By address: those that are listed, and those that are not and still in use."""
        self._trying: dict[Server[T], asyncio.Task[None]] = {}
        self._attending: dict[Server[T], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._changed: asyncio.Future[None] | None = None
        self._starting = asyncio.Lock()
        self._names = any(target.host for target in self._targets)
        self._started = not self._names and attend is None
        self._turn = random.randrange(1 << 16)  # processes that start together begin with different ones
        if self._started:
            self._take({target: [Place(target.text, "")] for target in self._targets})

    @property
    def listed(self) -> list[Server[T]]:
        """Every server there is, well or not."""
        return [server for server in self._servers.values() if not server.removed]

    def available(self) -> list[Server[T]]:
        """Those that take new calls."""
        return [server for server in self._servers.values() if server.takes_calls]

    def candidates(self) -> list[Candidate]:
        """Every model of every server that takes calls, with what was measured of it."""
        found = []
        for server in self.available():
            if server.models is not None:
                there = {info.name for info in server.models.resident()}
                for info in server.models.known():
                    load = self.figures.load(server.address, info.name)
                    found.append(Candidate(info, server.address, info.name in there, load))
        return found

    def use(self, wanted: str | Pick[T] = "", *, wait_s: float = 1.0) -> Use[T]:
        """For one call, stream or sequence.

        wanted: host:port; or a function that picks one of those that take calls, None where none will do; "" is
            whichever has the fewest users.
        wait_s: longest wait for one that may come back.
        Raises on entry: TritonUnavailable.
        """
        return Use(self, wanted, wait_s)

    def doubt(self, server: Server[T]) -> None:
        """A call to it has failed: whether it is lost is being found out, and new calls go to others meanwhile."""
        if server.removed:
            return
        if len(self.listed) > 1:
            self._doubt(server)
        elif self._names:
            self._lost.set()

    def rest(self, server: Server[T], resting: bool) -> None:
        """It has said that it takes no new calls, or that it does again."""
        if server.resting == resting:
            return
        server.resting = resting
        log.info(
            "the %s at %s %s",
            self._what,
            server.address,
            "takes no new calls" if resting else "takes calls again",
        )
        if resting and self._names:
            self._lost.set()  # another has come in its place, or is about to
        self._tell()

    async def failed(self, server: Server[T], error: BaseException) -> None:
        """A call to it has ended so; returns when it is known whether it is lost. `use` says it by itself."""
        if type(error) not in (TritonUnavailable, TritonTimeout) or server.removed:
            return  # others are what a model or its manager says of itself
        self.doubt(server)
        await server.verdict()

    async def start(self) -> None:
        """Find the servers and attend to them; `use` does it where nobody has.

        Raises: TritonError when none of them can be attended to: why the first cannot.
        """
        async with self._starting:
            if self._started:
                return
            self._take(await find_places(self._targets, self._resolve, self._places, self._what))
            for server in self.listed:
                await server.verdict()
            problems = [server.problem for server in self.listed if server.problem is not None]
            if problems and len(problems) == len(self.listed):
                raise problems[0]
            self._started = True
            if self._names and self._following is None:
                self._following = asyncio.create_task(self._follow_names(), context=Context())

    async def close(self) -> None:
        """Calls in progress are cancelled."""
        following = [] if self._following is None else [self._following]
        ending = [*following, *self._trying.values(), *self._attending.values()]
        for server in list(self._trying):
            self._stop_trying(server)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, *self._tasks, return_exceptions=True)
        for server in self._servers.values():
            await server.line.close()
        self._servers.clear()

    async def _acquire(self, wanted: str | Pick[T], wait_s: float) -> Server[T]:
        if not self._started:
            await self.start()
        server = self._picked(wanted)
        if server is None:
            server = await self._await_one(wanted, wait_s)
        server.users += 1
        return server

    def _picked(self, wanted: str | Pick[T]) -> Server[T] | None:
        if not isinstance(wanted, str):
            ready = self._ready()
            return wanted(ready) if ready else None
        if wanted:
            named = self._servers.get(wanted)
            return named if named is not None and named.takes_calls and named.health is Health.UP else None
        ready = self._ready()
        if len(ready) < 2:
            return ready[0] if ready else None
        self._turn += 1
        return min((ready[(self._turn + n) % len(ready)] for n in range(len(ready))), key=lambda s: s.users)

    def _ready(self) -> list[Server[T]]:
        return [
            server for server in self._servers.values() if server.takes_calls and server.health is Health.UP
        ]

    async def _await_one(self, wanted: str | Pick[T], wait_s: float) -> Server[T]:
        if self._names and not self.available():
            self._lost.set()
        try:
            async with asyncio.timeout(wait_s):
                while self._may_come(wanted):
                    if self._changed is None:
                        self._changed = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._changed)
                    server = self._picked(wanted)
                    if server is not None:
                        return server
        except TimeoutError:
            pass
        if isinstance(wanted, str) and wanted:
            raise TritonUnavailable(f"the {self._what} at {wanted} cannot be reached")
        there = ", ".join(server.address for server in self.listed)
        if not there and self._names:
            there = ", ".join(target.text for target in self._targets) + ", whose name leads nowhere"
        raise TritonUnavailable(f"no {self._what} takes the call, of {there}")

    def _may_come(self, wanted: str | Pick[T]) -> bool:
        if isinstance(wanted, str) and wanted:  # nobody waits for one that is lost: others are asked for
            server = self._servers.get(wanted)
            return server is not None and not server.removed and server.health is Health.SUSPECT
        listed = self.listed
        waits = any(not server.attended or server.health is not Health.UP for server in listed)
        return waits or (self._names and not self.available())

    async def _leave(self, server: Server[T], error: BaseException | None) -> None:
        server.users -= 1
        if server.removed:
            self._let_go(server)
        elif error is None:
            server.losses = 0
        elif type(error) in (
            TritonUnavailable,
            TritonTimeout,
        ):  # not what a model or its manager says of itself
            self.doubt(server)
            await server.verdict()

    def _doubt(self, server: Server[T]) -> None:
        """Find out whether it is lost. One task for each server, however many calls have failed."""
        if server not in self._trying:
            server.suspect()
            self._trying[server] = asyncio.create_task(self._try(server))

    async def _try(self, server: Server[T]) -> None:
        try:
            if await self._answers(server):
                return  # it was the call, or the model
            log.warning("the %s at %s is lost: calls go to the others", self._what, server.address)
            server.losses += 1
            server.judge(Health.LOST)
            self.figures.forget_server(server.address)
            self._lost.set()
            self._tell()
            pause_s = _PAUSE_S * 2 ** min(server.losses - 1, 4)
            while True:
                await asyncio.sleep(min(pause_s, _LONGEST_PAUSE_S))
                if await self._answers(server):
                    log.info("the %s at %s is back", self._what, server.address)
                    return
                pause_s *= 2
        finally:
            if server in self._trying:
                del self._trying[server]
                server.judge(Health.UP)
                self._tell()

    def _stop_trying(self, server: Server[T]) -> None:
        task = self._trying.pop(server, None)
        if task is not None:
            task.cancel()
            server.judge(Health.UP)

    async def _answers(self, server: Server[T]) -> bool:
        try:
            async with asyncio.timeout(_PROBE_S):
                return await self._probe(server)
        except (TritonError, TimeoutError):
            return False

    async def _follow_names(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_AGAIN_S if self.available() else _NONE_YET_S):
                    await self._lost.wait()
            except TimeoutError:
                pass
            self._lost.clear()
            self._take(await find_places(self._targets, self._resolve, self._places, self._what))
            await asyncio.sleep(_NOT_SOONER_S)

    def _take(self, found: dict[Target, list[Place]]) -> None:
        """The list as it is now: new ones are taken in, those that are not on it any more are let go."""
        self._places = found
        places = {place.address: place for each in found.values() for place in each}
        for place in places.values():
            known = self._servers.get(place.address)
            if known is None:
                self._add(place)
            else:
                known.removed = False
        for server in list(self._servers.values()):
            if server.address not in places and not server.removed:
                log.info("the %s at %s is not listed any more: no new calls", self._what, server.address)
                server.removed = True
                self._stop_trying(server)
                self._let_go(server)
        self._tell()

    def _add(self, place: Place) -> None:
        line = Line(
            place.address,
            lambda: self._dial(place.address, place.name),
            self._stubs,
            on_silent=lambda: self.doubt(server),
            version=self._version,
        )
        server = self._servers[place.address] = Server(place.address, place.name, line)
        if self._started:
            log.info("calls go to the %s at %s too", self._what, place.address)
        if self._attend is not None:
            server.attended = False
            server.suspect()
            self._attending[server] = asyncio.create_task(
                self._attend_to(server, self._attend), context=Context()
            )

    async def _attend_to(self, server: Server[T], attend: Attend[T]) -> None:
        pause_s = _PAUSE_S
        while True:
            try:
                async with attend(server) as models:
                    server.models, server.problem, server.attended = models, None, True
                    server.judge(Health.UP)
                    self._tell()
                    await asyncio.Event().wait()  # until cancelled
            except Exception as error:
                server.problem, server.attended = error, False
                server.judge(Health.UP)
                log.warning("the %s at %s cannot be used: %s", self._what, server.address, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _let_go(self, server: Server[T]) -> None:
        """Closed once nobody uses it; listed again before, it stays."""
        if not server.users:
            del self._servers[server.address]
            task = asyncio.create_task(self._finish(server))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _finish(self, server: Server[T]) -> None:
        attending = self._attending.pop(server, None)
        if attending is not None:
            attending.cancel()
            await asyncio.wait({attending})
        await server.line.close()

    def _tell(self) -> None:
        """Whoever waits for a server looks again."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set_result(None)


class Use(Generic[T]):
    """See `Servers.use`. On its way out, an error waits until it is known whether the server is lost (1 s at most)."""

    __slots__ = ("_server", "_servers", "_wait_s", "_wanted")

    def __init__(self, servers: Servers[T], wanted: str | Pick[T], wait_s: float) -> None:
        self._servers, self._wanted, self._wait_s = servers, wanted, wait_s
        self._server: Server[T] | None = None

    async def __aenter__(self) -> Server[T]:
        self._server = await self._servers._acquire(self._wanted, self._wait_s)
        return self._server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        server, self._server = self._server, None
        if server is not None:
            await self._servers._leave(server, error)
