"""The embedded server: NVIDIA's real `tritonserver` from the nvidia-pytriton wheel, supervised.

A crashed server is started again on the same ports and gets its models back; a model whose process
died is loaded again. See warden.py for how nothing is left behind, whichever side dies first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from grpc.aio import Channel

from gateway.triton.catalogue.repositories import is_url, read_repositories
from gateway.triton.channel import open_channel
from gateway.triton.errors import TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.host import Wheel, find_wheel, listening_ports
from gateway.triton.hung import Overdue
from gateway.triton.preflight import check_host
from gateway.triton.process import Ports, ServerProcess, Stub, free_ports, needs_auto_complete
from gateway.triton.repository import Repository

_LOG = logging.getLogger(__name__)

_START_S = 20.0
"""Longest wait for a started server to answer."""
_START_TRIES = 4
"""A free port can be taken by another before the server has it."""
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Pauses before the restarts of a server, and the repairs of a model, that fails again and again."""
_HEALTHY_S = 60.0
"""After this long without trouble the pauses start over."""
_SETTLE_S = 0.05
"""Stubs come and go in bursts: look at the index once, after it."""
_RETRY_S = 0.5
"""Pause before a server that did not answer is asked again what it has."""


class EmbeddedTriton:
    """One supervised server on 127.0.0.1. `async with`, or `start()` and `stop()`.

    repositories: model repositories, each a folder of model folders, or an object store's URL.
    models: loaded at start, side by side. One that fails is reported, kept in `failed`, and harms
        nothing else.
    log_dir: holds `triton.log` and a few older ones, each of at most 8 MiB.
    on_event: one sentence for a person whenever something happens (started, died, repaired, …).
    exit_s: grace that requests in flight get at `stop()`.
    restricted_key: "key=value" that everybody who asks for the index, a load or an unload must send.
    load_s: a model whose process has not started by then has it ended, and does not load.
    """

    def __init__(
        self,
        repositories: Sequence[Path | str],
        *,
        models: Sequence[str] = (),
        log_dir: Path | None = None,
        on_event: Callable[[str], None] = _LOG.info,
        exit_s: int = 10,
        restricted_key: str = "",
        load_s: float = 120.0,
    ) -> None:
        self._repositories = list(repositories)
        self._log_dir = log_dir or default_log_dir()
        self._on_event = on_event
        self._exit_s = exit_s
        name, _, value = restricted_key.partition("=")
        self._restricted_key = f"{name.lower()}={value}" if name else ""
        self._wanted: set[str] = set(models)
        self._auto_complete = False
        self._ports = Ports(0, 0, 0)
        self._process: ServerProcess | None = None
        self._channel: Channel | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._lost: set[Stub] = set()
        self._repairs: dict[str, tuple[int, float]] = {}
        self._overdue = Overdue(load_s)
        self._steady = False
        self.restarts = 0
        """How often a dead server was started again."""
        self.ready: set[str] = set()
        """Models that take requests, whoever loaded them; follows the server within some 0.1 s."""
        self.failed: dict[str, str] = {}
        """Models that could not be loaded, with the reason."""

    @property
    def grpc(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self._ports.grpc}"

    @property
    def http(self) -> str:
        """URL"""
        return f"http://127.0.0.1:{self._ports.http}"

    @property
    def metrics(self) -> str:
        """URL; Prometheus text lies under /metrics"""
        return f"http://127.0.0.1:{self._ports.metrics}"

    @property
    def pid(self) -> int:
        """Of tritonserver; 0 while none runs."""
        running = self._process is not None and not self._process.ended.done()
        return self._process.pid if self._process is not None and running else 0

    @property
    def log(self) -> Path | None:
        """The file with the server's and the models' output."""
        return self._process.log if self._process is not None else None

    def stub_pids(self) -> dict[str, list[int]]:
        """Living Python processes by model."""
        found: dict[str, list[int]] = {}
        for pid, stub in self._process.stubs.items() if self._process is not None else ():
            found.setdefault(stub.model, []).append(pid)
        return found

    async def start(self) -> None:
        """Start, wait until the server answers, load the models.

        Raises: TritonError when this machine cannot run it, or the server does not come up.
        """
        if self._process is not None:
            raise TritonError("the embedded Triton was started already")
        problems = [p for p in await asyncio.to_thread(check_host) if p.fatal]
        wheel = find_wheel()
        if problems or wheel is None:
            raise TritonError("; ".join(f"{p.detail} ({p.fix})" for p in problems) or "no Triton here")
        if not self._repositories:
            raise TritonError("no model repository: name one")
        reading = await read_repositories(self._repositories)
        for repository, why in reading.unread.items():
            if not is_url(repository):
                raise TritonError(why)
            self._on_event(why)  # Triton may have credentials that we know nothing of
        for name, why in reading.doubled.items():
            self._on_event(why)
            if name in self._wanted:
                self._wanted.discard(name)
                self.failed[name] = why
        self._auto_complete = needs_auto_complete(reading)
        if self._auto_complete:
            self._on_event("a model's config.pbtxt is incomplete: every load asks its graph (1.3 s each)")
        try:
            await self._start_somewhere(wheel)
            await self._load_wanted()
            await self._reconcile()
        except BaseException:
            await self.stop(at_once=True)
            raise
        self._tasks = [
            asyncio.create_task(self._supervise(wheel), name="triton supervisor"),
            asyncio.create_task(self._watch_stubs(), name="triton stubs"),
        ]

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop the server and everything it started; may be called twice.

        Requests in flight get `exit_s`. at_once: none, everything is killed.
        """
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        process = self._process
        try:
            if process is not None and not process.ended.done():
                # tritonserver looks once a second whether its models are gone: faster before it. Where a
                # model's process died under its requests, they never end: then there is nothing to wait for.
                at_once = at_once or not await self._unload_all()
                await self._close_channel()
                process.end(at_once=at_once)
                done, _ = await asyncio.wait({process.ended}, timeout=self._exit_s + 8.0)
                if not done:
                    process.abandon()
                    await asyncio.wait({process.ended}, timeout=5.0)
        finally:
            if process is not None and not process.ended.done():
                process.end(at_once=True)
            self._process = None
            await self._close_channel()

    async def __aenter__(self) -> EmbeddedTriton:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start_somewhere(self, wheel: Wheel) -> None:
        for attempt in range(1, _START_TRIES + 1):
            self._ports = free_ports()
            try:
                await self._start_once(wheel)
                return
            except TritonUnavailable as error:
                # Another port helps against a port that was taken, not against a server that is mute.
                if attempt == _START_TRIES or isinstance(error, TritonTimeout):
                    raise TritonError(f"Triton does not start: {error}") from None

    async def _start_once(self, wheel: Wheel) -> None:
        """Raises: TritonUnavailable when the server ended or does not answer; nothing is left of it."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._lost.clear()
        self.ready = set()
        try:
            process = self._process = await ServerProcess.spawn(
                wheel,
                repositories=self._repositories,
                ports=self._ports,
                log_dir=self._log_dir,
                exit_s=self._exit_s,
                auto_complete=self._auto_complete,
                restricted_key=self._restricted_key,
                on_stubs=self._stubs_changed,
            )
        except OSError as error:
            raise TritonUnavailable(f"its process cannot be made: {error}") from None
        await self._close_channel()
        channel = self._channel = open_channel(self.grpc)
        up = asyncio.create_task(self._answers(process, channel))
        try:
            await asyncio.wait({up, process.ended}, return_when=asyncio.FIRST_COMPLETED)
            if process.ended.done():
                raise TritonUnavailable(f"{process.ended.result()}{_see(process)}")
            if not up.result():
                raise TritonTimeout(f"no answer within {_START_S:g} s{_see(process)}")
        except BaseException:
            up.cancel()
            process.end(at_once=True)
            await asyncio.wait({process.ended}, timeout=10.0)
            raise
        self._on_event(f"Triton answers on {self.grpc} after {loop.time() - begun:.2f} s")

    async def _answers(self, process: ServerProcess, channel: Channel) -> bool:
        """True once this very process, and no other, serves all of its ports."""
        wanted = {self._ports.grpc, self._ports.http, self._ports.metrics}
        try:
            async with asyncio.timeout(_START_S):
                # Nothing tells; dialling early would cost gRPC's backoff, and a port that another
                # process holds would answer as well.
                while not wanted <= await asyncio.to_thread(listening_ports, process.pid):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return False
        return await Repository(channel).is_live(deadline_s=_START_S, wait=True)

    async def _load_wanted(self) -> None:
        """Load what should be there, side by side; a failure stays with its model."""
        self._steady = False
        try:
            await asyncio.gather(*(self._load(name) for name in sorted(self._wanted)))
        finally:
            self._steady = True
            self._changed.set()

    async def _load(self, name: str) -> None:
        try:
            await self._repository().load(name)
            self.failed.pop(name, None)
        except TritonError as error:
            if isinstance(error, TritonUnavailable) and not isinstance(error, TritonTimeout):
                raise  # the server went away: not this model's fault
            self.failed[name] = str(error)  # a slow one is taken off the list when it gets ready
            self._on_event(str(error))

    async def _unload_all(self) -> bool:
        """False: some request is still in flight after `exit_s`, or the server does not answer."""
        try:
            async with asyncio.timeout(self._exit_s):
                repository = self._repository()
                names = {m.name for m in await repository.index() if m.state == "READY"}
                names |= set(self.stub_pids())  # the index has no models that came as files in a request
                await asyncio.gather(*(repository.unload(name, deadline_s=self._exit_s) for name in names))
                return True
        except (TritonError, TimeoutError):
            return False

    async def _supervise(self, wheel: Wheel) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            process = self._process
            assert process is not None
            begun = loop.time()
            ended = await asyncio.shield(process.ended)
            failures = 0 if loop.time() - begun > _HEALTHY_S else failures
            self._on_event(f"Triton ended ({ended}); starting it again")
            while True:
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
                try:
                    await self._start_once(wheel)
                    self.restarts += 1
                    await self._load_wanted()
                    break
                except TritonError as error:
                    self._on_event(f"Triton does not come back yet: {error}")
                    if self.pid:
                        break  # it runs, a model did not answer in time; its end is waited for as ever

    def _stubs_changed(self, gone: Stub | None) -> None:
        if gone is not None and gone.instance != gone.model:
            self._lost.add(gone)
        self._changed.set()

    async def _watch_stubs(self) -> None:
        pause: float | None = None
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
                pause = None
            except TimeoutError:
                pass
            await asyncio.sleep(_SETTLE_S)
            self._changed.clear()
            if not self._steady:
                continue  # _load_wanted() sets the event when it is done
            try:
                settled = await self._reconcile()
                # Nothing tells when a load or an unload is over: look again while one goes on.
                pause = None if settled else min((pause or 0.05) * 1.5, 1.0)
            except TritonError as error:
                _LOG.debug("reconcile: %s", error)
                # A dead server is the supervisor's business; one that lives is asked again.
                pause = _RETRY_S if self.pid else None

    async def _reconcile(self) -> bool:
        """Remember what is loaded, by whomever, and repair the models whose process died.

        False: some model is on its way in or out.
        """
        process = self._process
        stubs = dict(process.stubs) if process is not None else {}
        index = await self._repository().index()
        if process is None or process is not self._process or not self._steady:
            return True
        loading = {m.name for m in index if m.state == "LOADING"}
        for pid in self._overdue.look(stubs, loading, asyncio.get_running_loop().time()):
            if process.end_stub(pid):
                self._on_event(f"the process of {stubs[pid].model} does not start: it is ended")
        ready = {m.name for m in index if m.state == "READY"}
        self._wanted = ready | loading | set(self.failed)
        for name in ready:
            self.failed.pop(name, None)
        if ready != self.ready:
            self.ready = ready
            self._on_event(f"models ready: {', '.join(sorted(ready)) or 'none'}")
        lost = self._lost - set(process.stubs.values())
        self._lost = {stub for stub in lost if stub.model in ready}
        for name in sorted({stub.model for stub in self._lost}):
            its = {stub for stub in self._lost if stub.model == name}
            self._lost -= its  # before the repair: what it loads may die as well
            try:
                await self._repair(name)
            except TritonError:
                if process is self._process:
                    self._lost |= its
                raise
        return not any(m.state in ("LOADING", "UNLOADING") for m in index)

    async def _repair(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        count, last = self._repairs.get(name, (0, 0.0))
        count = 0 if loop.time() - last > _HEALTHY_S else count
        self._on_event(f"the process of {name} died; loading it again")
        if count:
            await asyncio.sleep(_BACKOFF_S[min(count, len(_BACKOFF_S) - 1)])
        self._repairs[name] = (count + 1, loop.time())
        try:
            # A plain load of unchanged files does nothing, whatever became of the process. A changed
            # config makes Triton load a new copy beside the dead one, which keeps an override that
            # somebody loaded it with. It holds until the model is unloaded.
            config = await self._repository().config(name)
            config.parameters["parley_repair"].string_value = secrets.token_hex(4)
            await self._repository().load(name, config)
        except TritonUnavailable as error:
            self._on_event(f"{name} is not back yet: {error}")
            raise
        except TritonError as error:
            self.failed[name] = str(error)
            self._on_event(str(error))
        else:
            self._on_event(f"{name} is back")

    def _repository(self) -> Repository:
        if self._channel is None:
            raise TritonUnavailable("the embedded Triton is not running")
        return Repository(self._channel, self._restricted_key)

    async def _close_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


def default_log_dir() -> Path:
    """`$XDG_STATE_HOME/parley`, else `~/.local/state/parley`."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "parley"


def _see(process: ServerProcess) -> str:
    return f" (log: {process.log})" if process.log is not None else ""
