"""Triton's model repository API: what is there, what is loaded, load, unload."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.channel import GRPCInferenceServiceStub
from gateway.triton.errors import ModelNotLoaded, TritonError, TritonTimeout, first_line, from_rpc
from gateway.triton.model_info import ModelInfo, model_info

_CALL_S = 5.0
"""Deadline of the calls that Triton answers from memory."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """One version of a model in the index."""

    name: str
    version: str
    """"" while it was never loaded."""
    state: str
    """READY, LOADING, UNLOADING, UNAVAILABLE, or "" when it was never loaded."""
    reason: str
    """Why it is UNAVAILABLE: "unloaded", or the first line of what went wrong."""


class Repository:
    """The models behind one channel. Every method has a deadline and raises TritonError.

    key: "key=value" of a repository API that is restricted (`--grpc-restricted-protocol`), or "".
    """

    def __init__(self, channel: grpc.aio.Channel, key: str = "") -> None:
        self._stub = GRPCInferenceServiceStub(channel)
        name, _, value = key.partition("=")
        self._permit = ((f"triton-grpc-protocol-{name.lower()}", value),) if name else None

    async def is_live(self, *, deadline_s: float = _CALL_S, wait: bool = False) -> bool:
        """Whether the server answers. wait: keep dialling until the deadline."""
        request = pb.ServerLiveRequest()
        try:
            return bool((await self._stub.ServerLive(request, timeout=deadline_s, wait_for_ready=wait)).live)
        except grpc.aio.AioRpcError:
            return False

    async def index(self, *, ready: bool = False, deadline_s: float = _CALL_S) -> list[ModelState]:
        """Every model of the repositories, loaded or not; ready: only those that are."""
        reply = await self._call(
            "model index",
            self._stub.RepositoryIndex,
            pb.RepositoryIndexRequest(ready=ready),
            deadline_s,
            self._permit,
        )
        return [ModelState(m.name, m.version, m.state, first_line(m.reason)) for m in reply.models]

    async def load(
        self,
        name: str,
        config: Mapping[str, Any] | ModelConfig | None = None,
        *,
        files: Mapping[str, bytes] | None = None,
        deadline_s: float = 60.0,
    ) -> None:
        """Load (or re-load) a model and wait until it is ready; nothing happens when it is unchanged.

        config: replaces the model's whole config.pbtxt until it is unloaded.
        files: by path ("1/model.py"), in place of the model's folder, which need not exist; with a config.
        Raises: TritonError with the model's own reason; TritonTimeout (the load itself goes on).
        """
        request = pb.RepositoryModelLoadRequest(model_name=name)
        if config is not None:
            text = (
                json_format.MessageToJson(config, preserving_proto_field_name=True)
                if isinstance(config, ModelConfig)
                else json.dumps(dict(config))
            )
            request.parameters["config"].string_param = text
        for path, content in (files or {}).items():
            request.parameters[f"file:{path}"].bytes_param = content
        try:
            await self._call(
                f"load {name}", self._stub.RepositoryModelLoad, request, deadline_s, self._permit
            )
        except TritonError as error:
            if "failed to poll from model repository" not in str(error):
                raise
            raise TritonError(
                f"load {name}: no such model in the repository, or its config.pbtxt is refused (Triton's log says why)"
            ) from None

    async def unload(self, name: str, *, deadline_s: float = 30.0, dependents: bool = False) -> None:
        """Unload a model and wait until it is really gone: requests in flight are let through first.

        dependents: unload the models an ensemble is made of as well.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        request = pb.RepositoryModelUnloadRequest(model_name=name)
        request.parameters["unload_dependents"].bool_param = dependents
        await self._call(
            f"unload {name}", self._stub.RepositoryModelUnload, request, deadline_s, self._permit
        )
        # Triton answers before the model is gone, and has no call that waits for it.
        pause = 0.02
        while any(m.name == name and m.state in ("READY", "UNLOADING") for m in await self.index()):
            if loop.time() + pause > end:
                raise TritonTimeout(f"unload {name}: still in use after {deadline_s:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    async def is_ready(self, name: str, *, deadline_s: float = _CALL_S) -> bool:
        """Whether Triton would take a request for it. A dead model process still counts as ready."""
        request = pb.ModelReadyRequest(name=name)
        try:
            reply = await self._call(f"model {name}", self._stub.ModelReady, request, deadline_s)
        except ModelNotLoaded:
            return False
        return bool(reply.ready)

    async def config(self, name: str, *, deadline_s: float = _CALL_S) -> ModelConfig:
        """The config of a loaded model, as completed by the server."""
        request = pb.ModelConfigRequest(name=name)
        reply = await self._call(f"model {name}", self._stub.ModelConfig, request, deadline_s)
        config: ModelConfig = reply.config
        return config

    async def describe(self, name: str, *, deadline_s: float = _CALL_S) -> ModelInfo:
        """What a loaded model says about itself."""
        return model_info(await self.config(name, deadline_s=deadline_s))

    async def _call(
        self,
        what: str,
        method: Callable[..., Awaitable[Any]],
        request: object,
        deadline_s: float,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Any:
        try:
            return await method(request, timeout=deadline_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(what, error) from None
