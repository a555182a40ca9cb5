"""A stand-in for a Triton with one decoupled voice: inference.GRPCInferenceService."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb

from gateway.triton.leases.wire import MODEL as LEASES
from gateway.triton.models.voices import Refused, Voice, choose_voice
from load.emulators.asr import DEATH, GARBAGE
from load.emulators.distributions import Draws
from load.emulators.faults import Died, Faults, Strike
from load.emulators.lease_table import LeaseTable
from load.emulators.pace import Pace
from load.emulators.profile import TtsProfile
from load.emulators.stats import TtsStats
from load.emulators.triton_wire import (
    Chunks,
    Responses,
    inputs_of,
    model_config,
    model_metadata,
    server_metadata,
)

SERVICE = "inference.GRPCInferenceService"
MAX_CHARS = 20_000
SPEEDS = (0.5, 2.0)


class Speech:
    """The service. `profile` may be replaced at any time; it holds for requests that come then."""

    def __init__(
        self, profile: TtsProfile, draws: Draws, faults: Faults, stats: TtsStats, pace: Pace
    ) -> None:
        self.draws = draws
        self.faults = faults
        self.stats = stats
        self.pace = pace
        self.jobs: dict[str, Job] = {}
        """By request id, those that a CANCEL can stop."""
        self._loaded = True
        self._leases = LeaseTable()
        self.set_profile(profile)

    def set_profile(self, profile: TtsProfile) -> None:
        self.profile = profile
        self.chunks = Chunks(profile)
        self.voices = tuple(
            Voice(name, language, name, 1.0)
            for name, _, language in (v.partition(":") for v in profile.voices)
        )

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        unary = {
            "ServerLive": (self._live, pb.ServerLiveRequest, pb.ServerLiveResponse),
            "ServerReady": (self._ready, pb.ServerReadyRequest, pb.ServerReadyResponse),
            "ServerMetadata": (self._server, pb.ServerMetadataRequest, pb.ServerMetadataResponse),
            "ModelReady": (self._model_ready, pb.ModelReadyRequest, pb.ModelReadyResponse),
            "ModelMetadata": (self._metadata, pb.ModelMetadataRequest, pb.ModelMetadataResponse),
            "ModelConfig": (self._config, pb.ModelConfigRequest, pb.ModelConfigResponse),
            "ModelInfer": (self._infer, pb.ModelInferRequest, pb.ModelInferResponse),
            "RepositoryIndex": (self._index, pb.RepositoryIndexRequest, pb.RepositoryIndexResponse),
            "RepositoryModelLoad": (
                self._load,
                pb.RepositoryModelLoadRequest,
                pb.RepositoryModelLoadResponse,
            ),
            "RepositoryModelUnload": (
                self._unload,
                pb.RepositoryModelUnloadRequest,
                pb.RepositoryModelUnloadResponse,
            ),
        }
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for name, (method, request, response) in unary.items()
        }
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, request_deserializer=pb.ModelInferRequest.FromString
        )
        return [grpc.method_handlers_generic_handler(SERVICE, methods)]

    def refusal(self, model: str) -> str:
        """Why a request to this model is refused; empty: it is not."""
        if model != self.profile.model:
            return f"Request for unknown model: '{model}' is not found"
        return "" if self._loaded else f"Request for unknown model: '{model}' has no available versions"

    async def _stream(self, _: object, context: Any) -> None:
        await _Stream(self, context).run()

    async def _live(self, _: object, __: Any) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, _: object, __: Any) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=True)

    async def _server(self, _: object, __: Any) -> pb.ServerMetadataResponse:
        return server_metadata()

    async def _model_ready(self, request: pb.ModelReadyRequest, _: Any) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=not self.refusal(request.name))

    async def _metadata(self, request: pb.ModelMetadataRequest, context: Any) -> pb.ModelMetadataResponse:
        await self._check(request.name, context)
        return model_metadata(self.profile)

    async def _config(self, request: pb.ModelConfigRequest, context: Any) -> pb.ModelConfigResponse:
        await self._check(request.name, context)
        return pb.ModelConfigResponse(config=model_config(self.profile))

    async def _infer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        if request.model_name == LEASES:
            return await self._leases.infer(request, context)
        await self._check(request.model_name, context)
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "ModelInfer RPC doesn't support models with decoupled transaction policy",
        )
        raise AssertionError("abort raises")

    async def _index(self, request: pb.RepositoryIndexRequest, _: Any) -> pb.RepositoryIndexResponse:
        reply = pb.RepositoryIndexResponse()
        if self._loaded:
            reply.models.add(name=self.profile.model, version="1", state="READY")
        elif not request.ready:
            reply.models.add(name=self.profile.model, version="1", state="UNAVAILABLE", reason="unloaded")
        return reply

    async def _load(
        self, request: pb.RepositoryModelLoadRequest, context: Any
    ) -> pb.RepositoryModelLoadResponse:
        if request.model_name == LEASES and "config" in request.parameters:
            self._leases.load(request)
            return pb.RepositoryModelLoadResponse()
        if request.model_name != self.profile.model:
            name = request.model_name
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"failed to load '{name}', failed to poll from model repository",
            )
        self._loaded = True
        return pb.RepositoryModelLoadResponse()

    async def _unload(
        self, request: pb.RepositoryModelUnloadRequest, _: Any
    ) -> pb.RepositoryModelUnloadResponse:
        if request.model_name == self.profile.model:
            self._loaded = False
        return pb.RepositoryModelUnloadResponse()

    async def _check(self, model: str, context: Any) -> None:
        refusal = self.refusal(model)
        if refusal:
            await context.abort(grpc.StatusCode.NOT_FOUND, refusal)


class _Stream:
    """One ModelStreamInfer call: any number of requests, each answered up to its FINAL."""

    def __init__(self, service: Speech, context: Any) -> None:
        self._service = service
        self._context = context
        self._writing = asyncio.Lock()
        self._speaking: dict[asyncio.Task[None], Job] = {}
        self._serving: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    async def run(self) -> None:
        self._serving = asyncio.current_task()
        try:
            while (request := await self._context.read()) is not grpc.aio.EOF:
                await self._take(request)
            if self._speaking:
                await asyncio.wait(self._speaking)
        except asyncio.CancelledError:
            if self._failure is None:
                raise
        finally:
            for task, job in list(self._speaking.items()):
                job.vanish()
                task.cancel()
        if isinstance(self._failure, Died):
            await self._context.abort(grpc.StatusCode.UNAVAILABLE, DEATH)
        elif self._failure is not None:
            raise self._failure

    async def write(self, message: bytes) -> None:
        async with self._writing:
            await self._context.write(message)

    async def _take(self, request: pb.ModelInferRequest) -> None:
        service = self._service
        responses = Responses(request.model_name, request.id)
        wants_end = request.parameters["triton_enable_empty_final_response"].bool_param
        refusal = service.refusal(request.model_name)
        if refusal:
            await self.write(responses.error(refusal))
            return
        try:
            inputs = inputs_of(request)
            if inputs.get("CANCEL"):
                job = service.jobs.get(request.id)
                if job is not None:
                    job.cancel()
                if wants_end:
                    await self.write(responses.message(b"", final=True))
                return
            job = Job(service, self, request.id, inputs, responses, wants_end=wants_end)
        except (Refused, ValueError) as error:
            await self.write(responses.error(str(error)))
            return
        if job.fault is not None and job.fault.refuses:
            await self.write(responses.error(f"{request.model_name} refuses this request; try again"))
            return
        task = asyncio.create_task(job.run())
        self._speaking[task] = job
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._speaking.pop(task, None)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = failure
            if self._serving is not None:
                self._serving.cancel()


class Job:
    """One synthesis."""

    def __init__(
        self, service: Speech, stream: _Stream, request_id: str, inputs: Any, responses: Responses,
        *, wants_end: bool,
    ) -> None:  # fmt: skip
        """Raises: Refused, fit for the client."""
        profile = service.profile
        text, speed = inputs.get("TEXT"), float(inputs.get("SPEED", 1.0))
        if text is None:
            raise Refused("TEXT is missing; send TEXT, or CANCEL with the id of the request to stop")
        if len(text) > MAX_CHARS:
            raise Refused(f"TEXT has {len(text)} characters; at most {MAX_CHARS} are spoken at once")
        if not SPEEDS[0] <= speed <= SPEEDS[1]:
            raise Refused(f"SPEED is {speed:g}; {SPEEDS[0]:g} to {SPEEDS[1]:g} are possible")
        if "REFERENCE_AUDIO" in inputs:
            raise Refused(f"{profile.model} cannot imitate a voice; leave REFERENCE_AUDIO out")
        if request_id in service.jobs:
            raise Refused(f"a request with id {request_id} is being spoken; each needs an id of its own")
        choose_voice(service.voices, inputs.get("VOICE", ""), inputs.get("LANGUAGE", ""))
        self._service = service
        self._stream = stream
        self._id = request_id
        self._profile = profile
        self._chunks = service.chunks
        self._text = text if any(character.isalnum() for character in text) else ""
        self._speed = speed
        self._responses = responses
        self._wants_end = wants_end
        self._came = service.pace.now()
        self._cancel_seen = False
        self._cancel_from = float("inf")
        """Loop time from which the CANCEL is heeded."""
        self._waiting: asyncio.Future[None] | None = None
        self._over = False
        self.fault = service.faults.take("tts")

    def cancel(self) -> None:
        """A CANCEL came in."""
        if self._cancel_seen:
            return
        self._cancel_seen = True
        self._service.stats.cancelled += 1
        pace = self._service.pace
        delay_ms = self._service.draws.ms("tts.cancel_ms", self._profile.cancel_ms)
        self._cancel_from = pace.now() + delay_ms / 1000
        if not delay_ms and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def vanish(self) -> None:
        """The client has left."""
        if not self._over and not self._cancel_seen:
            self._service.stats.cancelled += 1
            self._service.stats.vanished += 1
        self._over = True

    async def run(self) -> None:
        stats = self._service.stats
        stats.requests += 1
        stats.open += 1
        if self._id:
            self._service.jobs[self._id] = self
        try:
            await self._speak()
            self._over = True
        finally:
            stats.open -= 1
            if self._service.jobs.get(self._id) is self:
                del self._service.jobs[self._id]

    async def _speak(self) -> None:
        pace, profile, stats = self._service.pace, self._profile, self._service.stats
        strike = Strike(self.fault)
        chunks = self._chunks.of(self._text, self._speed) if self._text else []
        due = self._came + self._service.draws.ms("tts.first_chunk_ms", profile.first_chunk_ms) / 1000
        for number, (at, size) in enumerate(chunks):
            if number:
                due += size / self._chunks.rate * profile.rtf
            await self._until(due, exact=number == 0)
            if pace.now() >= self._cancel_from:
                break
            garbage = await strike.before() if strike.is_set else False
            message = self._responses.message(self._chunks.tail(at, size), final=number == len(chunks) - 1)
            stats.chunks += 1
            stats.chunks_after_cancel += self._cancel_seen
            await self._stream.write(GARBAGE if garbage else message)
        else:
            if chunks:
                return
        if self._wants_end:
            await self._stream.write(self._responses.message(b"", final=True))

    async def _until(self, due: float, *, exact: bool) -> None:
        """Until `due`, or until a CANCEL that is heeded at once."""
        pace = self._service.pace
        if due <= pace.now() or self._cancel_from <= pace.now():
            return
        self._waiting = pace.at(due) if exact else pace.tick(due)
        await self._waiting
        self._waiting = None
