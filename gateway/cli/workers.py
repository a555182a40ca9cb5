"""`parley serve gateway --workers N`: several gateway processes that look like one.

The parent holds no call but those of `/v1/audio`, which it serves itself. It reserves the gRPC port,
starts the workers, which all listen on it (the system spreads connections over them), starts again what
dies, and serves one set of HTTP pages over all of them. Why it is done this way: docs/decisions/workers.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette.types import ASGIApp

from gateway.app import OpenAiAudioService, identity_of, listen_http, split_address, warn_exposure
from gateway.app.telemetry import open_tracing, tell_of
from gateway.cli.common import Fault
from gateway.cli.link import Message
from gateway.cli.worker_limits import SharedLimits
from gateway.cli.worker_process import WorkerProcess
from gateway.identity import Identity
from gateway.identity.asgi_guard import RequireIdentity, admin_scope, public_scope
from gateway.openai_audio.client_secrets import PATH as CLIENT_SECRETS
from gateway.openai_audio.client_secrets import ClientSecrets
from gateway.openai_audio.openapi import SCHEMAS, paths
from gateway.settings import Settings
from gateway.telemetry.draining import Drain
from gateway.telemetry.exposition import page
from gateway.telemetry.http_server import HttpServer
from gateway.telemetry.merge import Dump, DumpCollector, dump, merge, totals
from gateway.telemetry.metrics import PEAKS, WorkerMetrics
from gateway.telemetry.process_metrics import ProcessMetrics
from gateway.transports.http import build_admin, build_public

if TYPE_CHECKING:
    from gateway.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 30.0
"""A worker that ran this long starts over with the shortest pause."""
_MISSING_S = 30.0
"""Readiness bears a worker that is down, or none of the others would take its calls, but not for longer."""
_ASK_S = 1.0
_PARTS_S = 3.0
_PING_S, _SILENT_S = 5.0, 20.0
"""A worker is asked for a sign of life, and killed when none came for so long."""
_STOP_EXTRA_S = 5.0
"""What workers get beyond their own grace before they are killed."""


class Workers:
    """A service, as `Gateway` is one: `start()`, `endpoints()`, `stop()`."""

    def __init__(self, settings: Settings, overrides: Mapping[str, Any], *, log_json: bool = False) -> None:
        """overrides: what the settings have beyond environment and file; the workers get them too."""
        self._settings, self._overrides, self._log_json = settings, overrides, log_json
        self._port: socket.socket | None = None
        self._grpc = ""
        self._servers: list[HttpServer] = []
        self._http = self._admin = ""
        self._audio: OpenAiAudioService | None = None
        self._workers: list[WorkerProcess] = []
        self._keeping: list[asyncio.Task[None]] = []
        self._stopping = False
        self._drain = Drain(settings.session.drain_s, self._drain_all, self._left)
        self._sessions: dict[str, tuple[WorkerProcess, int]] = {}
        self._own = CollectorRegistry()
        self._metrics = WorkerMetrics(self._own)
        self._process = ProcessMetrics(self._own)
        self._tracing: Tracing | None = None
        self._left_behind: Dump = []
        """What processes that are gone had counted."""
        self._limits = SharedLimits()
        self._identity: Identity | None = None

    def endpoints(self) -> dict[str, str]:
        return {"grpc": self._grpc, "http": self._http, "admin": self._admin}

    async def start(self) -> None:
        """Returns once every worker serves. Raises OSError or Fault; nothing is left behind then."""
        await warn_exposure(self._settings, ("grpc", "http", "admin"))
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise

    async def _start(self) -> None:
        listen = self._settings.listen
        auth = self._settings.auth
        if not auth.sealing_key.get_secret_value():  # one for all: what the parent seals the workers open
            auth = auth.model_copy(update={"sealing_key": SecretStr(secrets.token_urlsafe(32))})
        identity = self._identity = identity_of(auth, self._limits.limits)
        tell_of(self._settings, self._own, self._process, identity, self._drain)
        self._port, self._grpc = reserve(listen.grpc)
        beside: dict[str, ASGIApp] = {CLIENT_SECRETS: ClientSecrets(identity, auth)}
        if self._settings.openai_audio.enabled:
            # Workers are started by fork and exec: gRPC's own handlers of forks would only complain.
            os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
            self._tracing = open_tracing(self._settings.telemetry, "gateway", self._process)
            self._audio = OpenAiAudioService(self._settings, None, self.admitting, self._tracing)
            beside |= self._audio.beside
        admin, self._admin = await listen_http(
            RequireIdentity(
                build_admin(self, self._drain, guarded=identity.configured),
                identity,
                admin_scope(auth.open_metrics),
            ),
            listen.admin,
            self._settings,
            "the admin address",
            of_operators=True,
        )
        self._servers.append(admin)
        public, self._http = await listen_http(
            RequireIdentity(
                build_public(
                    beside, paths(self._settings.openai_audio), SCHEMAS, guarded=identity.configured
                ),
                identity,
                public_scope,
            ),
            listen.http,
            self._settings,
            "the HTTP address",
        )
        self._servers.append(public)
        told = dict(self._overrides)
        told["listen"] = dict(told.get("listen", {})) | {"grpc": self._grpc}
        told["auth"] = dict(told.get("auth", {})) | {"sealing_key": auth.sealing_key.get_secret_value()}
        options = ["--log-json"] if self._log_json else []
        self._workers = [
            WorkerProcess(number, told, options, self._on_message) for number in range(listen.workers)
        ]
        starting = [asyncio.create_task(worker.start()) for worker in self._workers]
        try:
            await asyncio.gather(*starting)
        finally:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
        for worker in self._workers:
            self._keeping += [
                asyncio.create_task(self._keep(worker)),
                asyncio.create_task(self._watch(worker)),
            ]

    async def stop(self) -> None:
        """Let every worker drain; cancelled, or after their grace, end them at once."""
        self._stopping = True
        try:
            self._drain.begin()
            for worker in self._workers:
                worker.terminate()
            async with asyncio.timeout(self._settings.session.drain_s + _STOP_EXTRA_S):
                ending = [worker.ended() for worker in self._workers if worker.pid]
                await asyncio.gather(*ending, self._drain.done())
        except TimeoutError:
            log.warning("workers did not end in time: ending them")
        finally:
            await self._end()

    async def _end(self) -> None:
        self._stopping = True
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        for worker in self._workers:
            worker.kill()
        await asyncio.gather(*(worker.ended() for worker in self._workers if worker.started))
        for server in self._servers:
            await server.stop()
        if self._audio is not None:
            await self._audio.close()
            self._audio = None
        if self._identity is not None:
            await self._identity.close()
        if self._tracing is not None:
            await self._tracing.close()
            self._tracing = None
        if self._port is not None:
            self._port.close()

    async def _drain_all(self) -> None:
        """Every worker at once, and what is served here."""
        self._stopping = True
        within_s = self._settings.session.drain_s + _STOP_EXTRA_S
        requests = [] if self._audio is None else [self._audio.drain()]
        await asyncio.gather(self._ask_all("drain", within_s), *requests)

    def _left(self) -> int:
        return len(self._sessions) + (self._audio.open if self._audio is not None else 0)

    # ---- keeping them alive ----------------------------------------------------------------------

    async def _keep(self, worker: WorkerProcess) -> None:
        """Start it again whenever it ends."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            code = await worker.ended()
            if self._stopping:
                return
            lost = self._forget(worker)
            failures = 0 if loop.time() - began > _STEADY_S else failures + 1
            pause_s = _BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1] if failures else 0.0
            log.warning(
                "worker %d ended (%s) and with it %d sessions: starting it again in %.1f s",
                worker.number, f"signal {-code}" if code < 0 else f"exit code {code}", lost, pause_s,
            )  # fmt: skip
            await asyncio.sleep(pause_s)
            if self._stopping:
                return
            self._metrics.worker_restarted()
            try:
                await worker.start()
                log.warning("worker %d is back", worker.number)
            except Fault as fault:
                log.error("%s", fault)
                worker.kill()

    async def _watch(self, worker: WorkerProcess) -> None:
        """A process that hangs is as good as dead, but keeps its share of the port."""
        while True:
            await asyncio.sleep(_PING_S)
            if worker.serving and await worker.ask("ping", _SILENT_S) is None and worker.pid:
                log.error("worker %d has not answered for %.0f s: ending it", worker.number, _SILENT_S)
                worker.kill()

    def _forget(self, worker: WorkerProcess) -> int:
        """Its process is gone: what it had counted stays, its sessions do not. Returns how many."""
        self._left_behind = merge([self._left_behind, totals(worker.last_dump)])
        worker.last_dump = []
        self._limits.forget(worker)
        lost = [session_id for session_id, (owner, _) in self._sessions.items() if owner is worker]
        for session_id in lost:
            del self._sessions[session_id]
            self._metrics.session_lost()
        return len(lost)

    def _on_message(self, worker: WorkerProcess, message: Message) -> None:
        """In the order in which workers' news arrive here: of two that opened one id, the later one wins."""
        if "opened" in message:
            session_id = message["opened"]
            before = self._sessions.get(session_id)
            self._sessions[session_id] = worker, message["serial"]
            if before is not None and before[0] is not worker:
                before[0].tell({"replace": session_id, "serial": before[1]})
        elif "closed" in message and self._sessions.get(message["closed"]) == (worker, message["serial"]):
            del self._sessions[message["closed"]]
        else:
            self._limits.on_message(worker, message)

    # ---- what HTTP shows -------------------------------------------------------------------------

    async def parts(self) -> dict[str, dict[str, Any]]:
        """A part is usable when it is for every worker; the workers are a part themselves."""
        shown: dict[str, dict[str, Any]] = {}
        answers = await self._ask_all("parts", _PARTS_S)
        for worker, parts in answers:
            for name, part in (parts or {}).items():
                if name not in shown or (shown[name]["ok"] and not part["ok"]):
                    shown[name] = part if part["ok"] else part | {"worker": worker.number}
        shown["workers"] = self._health([worker for worker, parts in answers if parts is not None])
        return shown

    def _health(self, answering: list[WorkerProcess]) -> dict[str, Any]:
        now = asyncio.get_running_loop().time()
        if self._stopping:
            return {"ok": False, "error": "The server is shutting down."}
        if not answering:
            return {"ok": False, "error": "No worker answers."}
        for worker in self._workers:
            if worker.missing_since is not None and now - worker.missing_since > _MISSING_S:
                down_s = now - worker.missing_since
                return {"ok": False, "error": f"Worker {worker.number} is down since {down_s:.0f} s."}
        return {"ok": True}

    async def admitting(self) -> bool:
        return not self._stopping and any(
            admitting for _, admitting in await self._ask_all("admitting", _ASK_S)
        )

    async def sessions(self) -> list[dict[str, Any]]:
        return [
            {**session, "worker": worker.number}
            for worker, sessions in await self._ask_all("sessions", _ASK_S)
            for session in sessions or ()
        ]

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        for worker, found in await self._ask_all("metrics", _ASK_S):
            if found is not None:  # else what it said last: sums must not dip because one is slow
                worker.last_dump = found
        self._metrics.show(self._sessions_by_worker())
        dumps = [dump(self._own), self._left_behind, *(worker.last_dump for worker in self._workers)]
        whole = CollectorRegistry()
        whole.register(DumpCollector(merge(dumps, PEAKS)))
        return page(whole, accept)

    def _sessions_by_worker(self) -> dict[int, int]:
        counts = {worker.number: 0 for worker in self._workers}
        for worker, _ in self._sessions.values():
            counts[worker.number] += 1
        return counts

    async def _ask_all(self, what: str, within_s: float) -> list[tuple[WorkerProcess, Any]]:
        serving = [worker for worker in self._workers if worker.serving]
        answers = await asyncio.gather(*(worker.ask(what, within_s) for worker in serving))
        return list(zip(serving, answers, strict=True))


def reserve(address: str) -> tuple[socket.socket, str]:
    """A socket that holds the port for workers to share, and host:port. It takes no connections itself.

    Raises OSError when the address cannot be had, which it also cannot when others share it already.
    """
    host, port = split_address(address)
    if not hasattr(socket, "SO_REUSEPORT"):
        raise OSError("this system cannot share a port between processes; set listen.workers to 1")
    family, kind, protocol, _, where = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    if port:
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(alone, where, address)
    shared = socket.socket(family, kind, protocol)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        _bind(shared, where, address)
    except OSError:
        shared.close()
        raise
    return shared, f"{host}:{shared.getsockname()[1]}"


def _bind(one: socket.socket, where: Any, address: str) -> None:
    try:
        one.bind(where)
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error.strerror}") from None
