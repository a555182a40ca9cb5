"""A fleet in virtual time: the real routing, managers and leases over fake Tritons that also answer requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from gateway.settings import ModelsSettings
from gateway.triton.codec import Array, text
from gateway.triton.errors import TritonError, TritonUnavailable
from gateway.triton.fleet import fleet as module
from gateway.triton.fleet.fleet import Fleet
from gateway.triton.fleet.hold import Hold
from gateway.triton.leases.local import LocalLeases, LocalWire
from gateway.triton.manager.events import Event
from gateway.triton.routing.choose import Want
from tests.support.virtual_time import settle
from tests.unit.triton.manager.fake_triton import Catalogue, Disk, FakeTriton, info_of
from tests.unit.triton.manager.parts import virtual

CHUNK_S = 0.1
SPEECH = Want("tts", language="en-US")


class Folders(Catalogue):
    """With the voices that the fleet asks for."""

    def packs(self, model: str) -> dict[str, Any]:
        return {}

    def voice_inputs(self, model: str, voice: str) -> dict[str, Array]:
        return {"VOICE": text(voice)} if voice else {}


class Machine:
    """One Triton at one address. A text "5" is spoken in five chunks of CHUNK_S."""

    def __init__(self, disks: list[Disk]) -> None:
        self.catalogue = Folders(disks)
        self.triton = FakeTriton(self.catalogue)
        self.wire = LocalWire()
        self.asked: list[str] = []
        """Requests, as model@version."""
        self.opened: Counter[str] = Counter()
        self.speaking: dict[str, tuple[asyncio.Task[None], Stream]] = {}
        """By request id, with the call that hears it: a CANCEL may come on another."""
        """Requests and sequences that run, as model@version."""
        self.sequences: dict[int, tuple[str, int, int]] = {}
        """By id: model, the copy of the version that it began on, and chunks heard."""
        self.dropped_under: list[str] = []
        """Versions that ended while something ran on them."""
        self.triton.on_drop = self._dropped

    def _dropped(self, name: str, version: int) -> None:
        if self.opened[f"{name}@{version}"]:
            self.dropped_under.append(f"{name}@{version}")

    def holders(self, model: str) -> int:
        """Sessions that the lease table knows of."""
        table = self.wire._table
        if table is None:
            return 0
        record = table.records(asyncio.get_running_loop().time()).get(model)
        return int(record["sessions"]) if record is not None else 0

    def version_for(self, message: pb.ModelInferRequest) -> int:
        """Raises: what a server says that does not have it."""
        if not self.triton.up:
            raise _rpc_error(grpc.StatusCode.UNAVAILABLE, "failed to connect")
        name, ready = message.model_name, self.triton.ready(message.model_name)
        version = int(message.model_version or max(ready, default=0))
        if version not in ready:
            raise _rpc_error(grpc.StatusCode.UNAVAILABLE, f"Request for unknown model: '{name}' is not found")
        if (name, version) in self.triton.dead:
            raise _rpc_error(grpc.StatusCode.INTERNAL, f"Stub process '{name}_0' is not healthy.")
        return version

    async def ModelInfer(self, message: pb.ModelInferRequest, timeout: float) -> pb.ModelInferResponse:
        await asyncio.sleep(0.01)
        version, parameters = self.version_for(message), message.parameters
        name, number = message.model_name, parameters["sequence_id"].int64_param
        copy = self.triton.copy_of(name, version)
        if parameters["sequence_start"].bool_param:
            self.asked.append(f"{name}@{version}")
            self.opened[f"{name}@{version}"] += 1
            self.sequences[number] = (name, copy, 0)
        if self.sequences.get(number, ("", 0, 0))[:2] != (name, copy):
            raise _rpc_error(grpc.StatusCode.INVALID_ARGUMENT, "must specify the START flag")
        heard = self.sequences[number][2] + 1
        self.sequences[number] = (name, copy, heard)
        if parameters["sequence_end"].bool_param:
            self.opened[f"{name}@{version}"] -= 1
            del self.sequences[number]
        response = pb.ModelInferResponse(model_name=name)
        word = str(heard).encode()
        _add(response, "TRANSCRIPT", "BYTES", len(word).to_bytes(4, "little") + word, (1,))
        _add(response, "VERSION", "INT32", np.array([version], "<i4").tobytes(), (1,))
        return response

    def ModelStreamInfer(self) -> Stream:
        return Stream(self)


class Stream:
    """One call: as much of grpc.aio's as is used."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._replies: asyncio.Queue[Any] = asyncio.Queue()
        self._speaking = machine.speaking

    async def write(self, message: pb.ModelInferRequest) -> None:
        names = [tensor.name for tensor in message.inputs]
        if "CANCEL" in names:
            speaking, heard_by = self._speaking.pop(message.id, (None, self))
            if speaking is not None:
                speaking.cancel()
                await asyncio.wait({speaking})
                heard_by._final(message)
            self._final(message)
            return
        said = message.raw_input_contents[names.index("TEXT")][4:].decode()
        task = asyncio.create_task(self._speak(message, int(said)))
        self._speaking[message.id] = task, self

    async def _speak(self, message: pb.ModelInferRequest, chunks: int) -> None:
        machine = self._machine
        await asyncio.sleep(0.01)
        try:
            version = machine.version_for(message)
            key = f"{message.model_name}@{version}"
            machine.asked.append(key)
            machine.opened[key] += 1
            try:
                for number in range(chunks):
                    await asyncio.sleep(CHUNK_S)
                    if number:
                        machine.version_for(message)
                    response = pb.ModelInferResponse(model_name=message.model_name)
                    _add(response, "AUDIO", "FP32", np.zeros(160, "<f4").tobytes())
                    _add(response, "VERSION", "INT32", np.array([version], "<i4").tobytes())
                    self._replies.put_nowait(pb.ModelStreamInferResponse(infer_response=response))
                self._final(message)
            finally:
                machine.opened[key] -= 1
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and not machine.triton.up:
                self._replies.put_nowait(error)
            else:
                self._replies.put_nowait(pb.ModelStreamInferResponse(error_message=error.details() or ""))
        finally:
            self._speaking.pop(message.id, None)

    def _final(self, message: pb.ModelInferRequest) -> None:
        response = pb.ModelInferResponse(model_name=message.model_name)
        response.parameters["triton_final_response"].bool_param = True
        self._replies.put_nowait(pb.ModelStreamInferResponse(infer_response=response))

    async def read(self) -> Any:
        reply = await self._replies.get()
        if isinstance(reply, grpc.aio.AioRpcError):
            raise reply
        return reply

    async def done_writing(self) -> None:
        self._replies.put_nowait(grpc.aio.EOF)

    def cancel(self) -> None:
        for task, heard_by in self._speaking.values():
            if heard_by is self:
                task.cancel()
        self._replies.put_nowait(grpc.aio.EOF)


class Channel:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    async def close(self) -> None: ...


class Town:
    """Any number of machines, and fleets over them as if each were a process's."""

    def __init__(self, *disks: Disk, addresses: str = "127.0.0.1:1") -> None:
        self.machines = {
            address: Machine(list(disks) if not n else [Disk(disk.info) for disk in disks])
            for n, address in enumerate(addresses.split(","))
        }
        self.addresses = addresses
        self.events: list[Event] = []
        self._fleets: list[Fleet] = []

    @property
    def only(self) -> Machine:
        (machine,) = self.machines.values()
        return machine

    async def fleet(self, *loaded: str, keeper: bool = False, **settings: Any) -> Fleet:
        """loaded: models that are there before it starts, on every machine."""
        for machine in self.machines.values():
            for name in loaded:
                await machine.triton.load(name)
        defaults = (
            {"min_residency_s": 0.0, "asr": "none", "tts": "none"} if keeper else {"min_residency_s": 0.0}
        )
        fleet = Fleet(
            self.addresses, models=ModelsSettings(**(defaults | settings)), keeper=keeper,
            label=f"process {len(self._fleets)}", on_event=self.events.append,
        )  # fmt: skip
        self._fleets.append(fleet)
        await fleet.start()
        return fleet

    async def close(self) -> None:
        for fleet in self._fleets:
            await fleet.close()
        for machine in self.machines.values():
            await machine.triton.close()


@asynccontextmanager
async def town(*disks: Disk, addresses: str = "127.0.0.1:1") -> AsyncIterator[Town]:
    """Everything that a fleet reaches outside itself is the town's meanwhile."""
    its = Town(*disks, addresses=addresses)

    def dial(address: str, **options: Any) -> Channel:
        return Channel(its.machines[address])

    async def open_leases(
        channel: Channel, *, key: str, label: str, lease_s: float, on_draining: Callable[[float], None]
    ) -> LocalLeases:
        leases = LocalLeases(channel.machine.wire, label=label, lease_s=lease_s, on_draining=on_draining)
        if not channel.machine.triton.up:
            raise TritonUnavailable("the lease table: connection refused")
        await leases.start()
        return leases

    fakes: dict[str, Callable[..., Any]] = {
        "open_steady_channel": dial,
        "open_stream_channel": dial,
        "GRPCInferenceServiceStub": lambda channel: channel.machine,
        "Repository": lambda channel, key="": channel.machine.triton,
        "open_leases": open_leases,
        "Catalogue": lambda repositories, triton, packs: triton.catalogue,
        "WarmUp": lambda channel: channel.machine.triton,
    }
    real = {name: getattr(module, name) for name in fakes}
    try:
        for name, fake in fakes.items():
            setattr(module, name, fake)
        yield its
    finally:
        await its.close()
        for name, own in real.items():
            setattr(module, name, own)


class Ears:
    """A session's notices."""

    def __init__(self) -> None:
        self.notices: list[tuple[str, str]] = []

    def __call__(self, code: str, message: str) -> None:
        self.notices.append((code, message))

    @property
    def codes(self) -> list[str]:
        return [code for code, _ in self.notices]


async def say(hold: Hold, chunks: int = 2) -> set[int]:
    """A sentence as a session speaks it: a model that is gone is replaced, once. The versions that spoke."""
    for last_try in (False, True):
        await hold.take()
        try:
            parts = hold.stream({"TEXT": text(str(chunks))}, first_deadline_s=2.0, next_deadline_s=2.0)
            return {int(part["VERSION"][0]) async for part in parts}
        except TritonUnavailable as error:
            await hold.recover(error)
            if last_try:
                raise
    raise AssertionError


async def given_back(machine: Machine, *models: str) -> None:
    """Nobody holds them: the table is told within a second or two."""
    await asyncio.sleep(2.5)
    await settle()
    assert [machine.holders(name) for name in models] == [0] * len(models)


def voice(name: str, **fields: Any) -> Disk:
    return Disk(info_of(name, decoupled=True, sample_rate=16_000, **fields))


def recogniser(name: str, **fields: Any) -> Disk:
    return Disk(info_of(name, **fields))


def _rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, nothing, nothing, details)


def _add(
    response: pb.ModelInferResponse, name: str, kind: str, raw: bytes, batch: tuple[int, ...] = ()
) -> None:
    size = 1 if kind == "BYTES" else len(raw) // 4
    response.outputs.add(name=name, datatype=kind, shape=[*batch, size])
    response.raw_output_contents.append(raw)


__all__ = [
    "SPEECH",
    "Ears",
    "Town",
    "TritonError",
    "given_back",
    "recogniser",
    "say",
    "town",
    "virtual",
    "voice",
]
