"""How a process reaches the lease table: as a model of a Triton, which it installs where it is missing."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.channel import GRPCInferenceServiceStub
from gateway.triton.errors import ModelNotLoaded, ProcessDied, TritonError, TritonUnavailable, from_rpc
from gateway.triton.leases.triton_model import HERE_ALREADY
from gateway.triton.repository import Repository

_LOG = logging.getLogger(__name__)

MODEL = "parley_leases"
"""The table's name in Triton."""
ASK_S = 2.0
"""Deadline of one word with the table."""
_INSTALL_S = 15.0
"""Deadline of its installation; a server that asks models for their inputs first needs 1.5 s."""
_INSTALL_TRIES = 12
_NO_BACKEND = "unable to find backend library"
_NO_CONTROL = "explicit model load"

_NO_METHOD = "Method not implemented"

_HERE = Path(__file__).parent
_FILES = {
    "1/model.py": (_HERE / "triton_model.py").read_bytes(),
    "1/table.py": (_HERE / "table.py").read_bytes(),
}


class LeasesUnsupported(TritonError):
    """This server cannot keep the table: no Python backend, or its models cannot be loaded by request."""


class NoControl(LeasesUnsupported):
    """Its models cannot be loaded by request."""


class Wire(Protocol):
    """To one table, wherever it is. Asked once at a time."""

    async def ask(self, message: dict[str, Any], *, last: bool = False) -> dict[str, Any]:
        """The table's answer to `message` (see table.py), within seconds. Raises: TritonError.

        last: nothing depends on it any more; a table that is missing stays so.
        """
        ...


class TritonWire:
    """To the table in the Triton behind `channel`, which keeps to its owner. grace_s: of a table in place of a lost one."""

    def __init__(self, channel: grpc.aio.Channel, *, key: str = "", grace_s: float) -> None:
        self._stub = GRPCInferenceServiceStub(channel)
        self._repository = Repository(channel, key)
        self._grace_s = grace_s
        self._seen = False
        """This server, or one before it, has answered with a table: there may be leases that it does not know."""
        self._installed = 0
        """The installation that we know; 0: none."""

    async def ask(self, message: dict[str, Any], *, last: bool = False) -> dict[str, Any]:
        text = json.dumps(message).encode()
        try:
            reply = await self._ask(text)
        except (ModelNotLoaded, ProcessDied) as error:
            if last:
                raise
            reply = await self._install(text, error)
        if not self._seen:
            self._seen = True
            with suppress(TritonError):
                self._installed = await self._installation()
        if "error" in reply:
            raise TritonError(f"the lease table refuses: {reply['error']}")
        return reply

    async def _ask(self, text: bytes) -> dict[str, Any]:
        request = pb.ModelInferRequest(model_name=MODEL)
        request.inputs.add(name="REQUEST", datatype="BYTES", shape=(1,))
        request.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
        try:
            response = await self._stub.ModelInfer(request, timeout=ASK_S)
            reply: dict[str, Any] = json.loads(response.raw_output_contents[0][4:])
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED or _NO_METHOD in (error.details() or ""):
                raise LeasesUnsupported("this server speaks a part of Triton's API alone") from None
            raise from_rpc("the lease table", error) from None
        except (ValueError, IndexError):
            raise TritonError(f"{MODEL} in Triton is no lease table; unload it") from None
        return reply

    async def _install(self, text: bytes, missed: TritonError) -> dict[str, Any]:
        """Bring a table in, or find the one that somebody else brought in, and ask it.

        Whoever is second asks for the same installation, which changes nothing for Triton. Were it another one, the
        new copy itself would refuse (see triton_model.py) and the first go on, but Triton would count the refused
        one among its live models for ever: it would end with an error, after its whole exit timeout.
        """
        grace_s = await self._grace(missed)
        try:
            async with asyncio.timeout(_INSTALL_S):
                for attempt in range(_INSTALL_TRIES):
                    found = await self._installation()
                    ours = False
                    if found == self._installed:
                        ours = await self._load(found + 1, grace_s)
                        found += 1
                    self._installed = found  # where it is another's, it may well live
                    try:
                        reply = await self._ask(text)
                    except (ModelNotLoaded, ProcessDied) as error:
                        missed = error
                        # Loaded by another and not quite there yet, or the last one on its way out.
                        await asyncio.sleep(min(0.05 * 2**attempt, 1.0))
                    else:
                        if ours:
                            _LOG.info(
                                "lease table installed in Triton (nothing is unloaded for %g s)", grace_s
                            )
                        return reply
        except TimeoutError:
            pass
        raise TritonUnavailable(f"the lease table cannot be installed: {missed}")

    async def _grace(self, missed: TritonError) -> float:
        """No unload for so long: others may hold what the new table does not know yet.

        Nobody can where no model is loaded and no table was known here before. Processes that held models
        of a server that ended have lost them with it: they load again, and tell the new table with that.
        """
        if self._seen or isinstance(missed, ProcessDied):
            return self._grace_s
        index = await self._repository.index()
        loaded = {m.name for m in index if m.state in ("READY", "LOADING", "UNLOADING")} - {MODEL}
        return self._grace_s if loaded else 0.0

    async def _installation(self) -> int:
        """Which one Triton has, alive or dead; 0: none."""
        try:
            config = await self._repository.config(MODEL, deadline_s=ASK_S)
            return int(config.parameters["installation"].string_value, 16)
        except (ModelNotLoaded, ValueError):
            return 0

    async def _load(self, installation: int, grace_s: float) -> bool:
        """False: there is one already."""
        # A number of its own: files and config of one whose process died would do nothing, Triton has them loaded.
        parameters = {"grace_s": f"{grace_s:g}", "installation": f"{installation:x}"}
        config = {
            "name": MODEL,
            "backend": "python",
            "max_batch_size": 0,
            "input": [{"name": "REQUEST", "data_type": "TYPE_STRING", "dims": [1]}],
            "output": [{"name": "REPLY", "data_type": "TYPE_STRING", "dims": [1]}],
            # More than one instance would be more than one table.
            "instance_group": [{"kind": "KIND_CPU", "count": 1}],
            "parameters": {name: {"string_value": value} for name, value in parameters.items()},
        }
        try:
            await self._repository.load(MODEL, config, files=_FILES, deadline_s=_INSTALL_S)
        except TritonError as error:
            if _NO_CONTROL in str(error):
                raise NoControl(
                    "this Triton neither loads nor unloads by request; start it with --model-control-mode=explicit"
                ) from None
            if _NO_BACKEND in str(error):
                raise LeasesUnsupported(f"this Triton cannot keep leases: {error}") from None
            if HERE_ALREADY not in str(error):
                raise
            return False
        return True
