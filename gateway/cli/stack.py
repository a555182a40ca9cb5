"""The whole stack of `parley up`: embedded Triton, Riva front, stand-in LLM, gateway.

The gateway, the Riva front and the LLM are processes of their own: what each costs can be seen, and
what breaks in one harms no other. They import while Triton starts and learn their addresses then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gateway.app import check_exposure, split_address
from gateway.app.exposure import is_loopback
from gateway.cli.child import READY_S, Child
from gateway.cli.common import Fault
from gateway.cli.stack_keys import StackKeys
from gateway.settings import ListenSettings, Settings
from gateway.triton.catalogue.repositories import is_url
from gateway.triton.errors import TritonError
from gateway.triton.manager.start import NONE
from gateway.triton.server import EmbeddedTriton, default_log_dir

_READY_S = 20.0
_DRAIN_S = 3.0
"""Grace for replies when a person ends the stack; `session.drain_s` is for rolling updates."""
_NAMES = {
    "grpc": "parley.v1",
    "riva": "Riva",
    "http": "HTTP",
    "admin": "the gateway's operators",
    "speech_http": "the speech process' HTTP",
    "llm": "LLM",
}


class Stack:
    """`await start()`, then `watch()` until cancelled, then `await stop()`."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        """`say` gets one sentence for a person whenever something happens."""
        self._settings = settings
        self._say = say
        self.log_dir = settings.triton.log_dir or default_log_dir()
        self.repositories = [_repository(one) for one in settings.triton.repositories]
        self.triton: EmbeddedTriton | None = None
        self.children: list[Child] = []
        self.endpoints: dict[str, str] = {}
        self._keys = StackKeys(settings)
        self.own_llm = "base_url" not in settings.llm.model_fields_set

    async def start(self) -> dict[str, str]:
        """Everything, until it is ready; returns the endpoints. Raises Fault; call `stop` in any case."""
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Fault(f"cannot write logs to {self.log_dir}: {error.strerror}") from None
        parts_listen = [key for key in _NAMES if key != "llm" or self.own_llm]
        try:
            for sentence in await check_exposure(self._settings, parts_listen):
                self._say(sentence)
        except OSError as error:
            raise Fault(str(error)) from None
        await self._refuse_half_tls(parts_listen)
        listen = self._free_addresses()
        parts = ["gateway", "speech", *(["llm"] if self.own_llm else [])]
        self.children = [
            Child(part, self.log_dir / f"{part}.log", self._say, ready_s=self._patience_s(part))
            for part in parts
        ]
        await asyncio.gather(*(child.spawn() for child in self.children))
        triton = self.triton = EmbeddedTriton(
            self.repositories, log_dir=self.log_dir, on_event=self._say, exit_s=2,
            load_s=self._settings.models.load_s,
        )  # fmt: skip
        try:
            await triton.start()
        except TritonError as error:
            raise Fault(f"Triton did not start: {error}; `parley doctor` says what is missing") from None
        told = self._child_settings(listen, triton)
        found = await asyncio.gather(*(child.ready(told[child.part]) for child in self.children))
        self.endpoints = {
            "triton_grpc": triton.grpc,
            "triton_http": triton.http,
            "triton_metrics": triton.metrics,
            "triton_log": str(triton.log or ""),
            "llm": self._settings.llm.base_url,
        }
        for part in found:
            self.endpoints |= part
        await self._until_ready(self.endpoints["admin"])
        return self.endpoints

    async def watch(self) -> None:
        """Start again what dies, until cancelled. Triton watches over itself."""
        async with asyncio.TaskGroup() as group:
            for child in self.children:
                group.create_task(child.watch())

    async def stop(self) -> None:
        """The gateway first, so that nothing it needs goes before it."""
        for child in self.children:
            await child.stop()
        if self.triton is not None:
            await self.triton.stop()

    async def sessions(self) -> int | None:
        """How many sessions are open; None when the gateway does not say."""
        try:
            _, body = await asyncio.to_thread(
                _get, self.endpoints["admin"] + "/v1/sessions", 1.0, self._keys.headers()
            )
            return len(json.loads(body)["sessions"])
        except (OSError, ValueError, KeyError):
            return None

    def _patience_s(self, part: str) -> float:
        """The speech process listens once the default models are loaded, and then those loaded ahead."""
        return READY_S + (2 * self._settings.models.load_s if part == "speech" else 0.0)

    async def _refuse_half_tls(self, listeners: Sequence[str]) -> None:
        """With certificates, callers' own addresses speak TLS; the rest is for this machine. Raises Fault."""
        if self._settings.tls.cert is None:
            return
        for key in set(listeners) - {"grpc", "http"}:
            address = str(getattr(self._settings.listen, key))
            if not await is_loopback(address):
                raise Fault(
                    f"listen.{key} is {address}: `parley up` speaks TLS to callers alone, on listen.grpc and "
                    "listen.http; keep it on 127.0.0.1, or run the parts with `parley serve`"
                )

    def _free_addresses(self) -> dict[str, str]:
        """Each default port, or a free one in its place, which is said."""
        chosen: dict[str, str] = {}
        listen = self._settings.listen
        for key, name in _NAMES.items():
            if key == "llm" and not self.own_llm:
                continue
            wanted = str(getattr(listen, key))
            chosen[key] = free_address(wanted)
            if chosen[key] != wanted and not wanted.endswith(":0"):
                self._say(f"{wanted} is taken: {name} listens on {chosen[key]}")
        return chosen

    def _child_settings(self, listen: dict[str, str], triton: EmbeddedTriton) -> dict[str, dict[str, Any]]:
        """What each child is told; an address that the person set stays theirs."""
        given = self._settings
        repositories = [str(one) for one in self.repositories]
        gateway: dict[str, Any] = {
            "listen": {key: listen[key] for key in ("grpc", "http", "admin")},
            "triton": {"repositories": repositories},
        }
        models: dict[str, Any] = {
            family: NONE
            for family, part in (("asr", given.asr), ("tts", given.tts))
            if "uri" in part.model_fields_set and family not in given.models.model_fields_set
        }
        if given.models.preload:
            models["preload"] = list(given.models.preload)
        if "uri" not in given.asr.model_fields_set:
            gateway["asr"] = {"uri": listen["riva"]}
        if "uri" not in given.tts.model_fields_set:
            gateway["tts"] = {"uri": triton.grpc if given.tts.kind == "triton" else listen["riva"]}
        if self.own_llm:
            gateway["llm"] = {"base_url": f"http://{listen['llm']}/v1"}
        if "drain_s" not in given.session.model_fields_set:
            gateway["session"] = {"drain_s": _DRAIN_S}
        told: dict[str, dict[str, Any]] = {
            "gateway": gateway,
            "speech": {"listen": {"riva": listen["riva"], "speech_http": listen["speech_http"]}, "triton": {"uri": triton.grpc, "repositories": repositories}, "models": models, "session": {"drain_s": 1.0}},
            "llm": {"listen": {"llm": listen.get("llm", "")}},
        }  # fmt: skip
        if given.tls.cert is not None:  # between our own parts, on this machine, nothing is gained by it
            told["gateway"]["tls"] = {"admin": False}
            for plain in ("speech", "llm"):
                told[plain]["tls"] = {"cert": None, "key": None, "client_ca": None, "client_auth": "off"}
        if given.auth.insecure:
            for part in told.values():
                part["auth"] = {"insecure": True}
        self._keys.tell(told, own_llm=self.own_llm)
        return told

    async def _until_ready(self, admin: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _READY_S
        while True:
            why = "it does not answer"
            with contextlib.suppress(OSError, ValueError):
                status, body = await asyncio.to_thread(_get, admin + "/readyz", 5.0)
                if status == 200:
                    return
                parts = json.loads(body)["parts"]
                why = "; ".join(f"{name}: {part['error']}" for name, part in parts.items() if not part["ok"])
            if loop.time() >= deadline:
                raise Fault(f"the gateway is not ready after {_READY_S:g} s: {why}")
            await asyncio.sleep(0.1)


def free_address(wanted: str) -> str:
    """`wanted` if it can be listened on, else the same host with a free port. Raises Fault."""
    try:
        host, port = split_address(wanted)
        with _listener(host, port):
            if port:
                return wanted
    except OSError as error:
        host = wanted.rpartition(":")[0]
        if not host:
            raise Fault(str(error)) from None
    try:
        with _listener(host, 0) as one:
            return f"{host}:{one.getsockname()[1]}"
    except OSError as error:
        raise Fault(f"cannot listen on {wanted}: {error.strerror}") from None


def default_listen() -> dict[str, str]:
    """The addresses that are tried first, by endpoint key."""
    return {key: str(ListenSettings.model_fields[key].default) for key in _NAMES}


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = socket.socket(family)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host.strip("[]"), port))
        one.listen(1)
    except OSError:
        one.close()
        raise
    return one


def _repository(chosen: str) -> str | Path:
    """The repository named, or the checkout's own where the name is a relative one that is not here."""
    if is_url(chosen):
        return chosen
    path = Path(chosen).expanduser()
    ours = Path(__file__).parents[2] / path
    return path if path.is_absolute() or path.is_dir() or not ours.is_dir() else ours


def _get(url: str, timeout_s: float, headers: Mapping[str, str] = MappingProxyType({})) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=dict(headers)), timeout=timeout_s
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
