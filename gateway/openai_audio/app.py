"""The ASGI app of /v1/models, /v1/audio/speech and /v1/audio/transcriptions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.audio.encoders import MEDIA_TYPES
from gateway.listen.transcriber import Transcriber
from gateway.openai_audio import speech as speaking
from gateway.openai_audio.answers import Gone, ahead, events, send_stream, unless_gone
from gateway.openai_audio.body import drain, form, json_object
from gateway.openai_audio.errors import ERRORS, SERVER, ApiError
from gateway.openai_audio.gate import Door, Gate
from gateway.openai_audio.names import Names
from gateway.openai_audio.transcription import Transcribing
from gateway.openai_audio.transcription_request import transcription
from gateway.openai_audio.upload import Recording
from gateway.settings import Settings
from gateway.speak.tts import Synthesizer

log = logging.getLogger(__name__)

PATHS = ("/v1/models", "/v1/models/{rest:path}", "/v1/audio/{rest:path}")
"""What is served here, as Starlette's routes write it."""
ROUTES = ("/v1/models", "/v1/audio/speech", "/v1/audio/transcriptions")
"""Those of them that are one thing each."""
_LONGEST_JSON = 1 << 20
_AHEAD_BYTES = 1 << 20
"""Of an answer, made before the client takes it."""

Serve = Callable[[Request, Receive, Send], Awaitable[None]]


async def _always() -> bool:
    return True


class OpenAiAudio:
    """One per process; an ASGI app. The synthesiser and the transcriber stay their owner's."""

    def __init__(
        self,
        settings: Settings,
        synthesizer: Synthesizer,
        transcriber: Transcriber,
        *,
        admitting: Callable[[], Awaitable[bool]] = _always,
    ) -> None:
        """admitting: whether new work is taken now; conversations go first."""
        ours = settings.openai_audio
        self._settings, self._ours = settings, ours
        self._synthesizer, self._transcriber = synthesizer, transcriber
        self._door = Door(admitting)
        self._speech = Gate(ours.max_speech, "speech requests")
        self._transcriptions = Gate(ours.max_transcriptions, "transcriptions")
        self._names = Names(ours, synthesizer, transcriber, int(time.time()))
        self._app = Starlette(
            routes=[
                Route("/v1/models", self._list_models, methods=["GET"]),
                Route("/v1/models/{name:path}", self._show_model, methods=["GET"]),
                Route("/v1/audio/speech", _Endpoint(self, self._speech, self._speak), methods=["POST"]),
                Route(
                    "/v1/audio/transcriptions",
                    _Endpoint(self, self._transcriptions, self._transcribe),
                    methods=["POST"],
                ),
            ],
            exception_handlers=ERRORS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @property
    def open(self) -> int:
        """Requests inside."""
        return self._speech.inside + self._transcriptions.inside

    async def drain(self, within_s: float) -> None:
        """Takes nothing new, and returns when everything is done, or after that long."""
        self._door.closing = True
        try:
            async with asyncio.timeout(within_s):
                await self._speech.empty()
                await self._transcriptions.empty()
        except TimeoutError:
            log.warning(
                "%d speech requests and %d transcriptions are cut short by the shutdown",
                self._speech.inside,
                self._transcriptions.inside,
            )

    async def serve(self, request: Request, gate: Gate, work: Serve, send: Send) -> None:
        """One request through the door and the gate, within its deadline. Raises ApiError."""
        await self._door.check_admission()
        with gate.enter():
            try:
                async with asyncio.timeout(self._ours.request_s):
                    await work(request, request.receive, send)
            except TimeoutError:
                raise ApiError(
                    504,
                    f"The request took longer than {self._ours.request_s:g} seconds: send less at once.",
                    kind=SERVER,
                    code="timeout",
                ) from None

    # ---- models ----------------------------------------------------------------------------------

    async def _list_models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": await self._names.listing()})

    async def _show_model(self, request: Request) -> Response:
        return JSONResponse(await self._names.model(request.path_params["name"]))

    # ---- audio -----------------------------------------------------------------------------------

    async def _speak(self, request: Request, receive: Receive, send: Send) -> None:
        body = await json_object(request, most=_LONGEST_JSON, stall_s=self._ours.stall_s)
        asked = speaking.speech(body, most_chars=self._ours.max_input_chars)
        voice = await self._names.voice(asked.model, asked.voice, asked.language)
        given = asked, voice, self._synthesizer, self._settings.playout
        if asked.sse:
            made = events(speaking.audio_events(*given), speaking.explain)
        else:
            made = speaking.audio(*given)
        media_type = "text/event-stream" if asked.sse else MEDIA_TYPES[asked.form]
        await self._stream(receive, send, media_type, ahead(made, _AHEAD_BYTES))

    async def _transcribe(self, request: Request, receive: Receive, send: Send) -> None:
        most = int(self._ours.max_upload_mb * 2**20)
        fields = await form(request, most=most, stall_s=self._ours.stall_s)
        try:
            asked = transcription(fields)
            model = await self._names.recogniser(asked.model)
            recording = Recording(asked.file.file, longest_s=self._ours.max_audio_s)
            try:
                await recording.open()
                work = Transcribing(
                    asked,
                    model,
                    recording,
                    self._transcriber,
                    usual_language=self._settings.asr.language,
                )
                if asked.stream:
                    told = events(work.events(), speaking.explain)
                    await self._stream(receive, send, "text/event-stream", told)
                else:
                    answer = await unless_gone(receive, work.answer())
                    await answer(request.scope, receive, send)
            finally:
                await recording.close()
        finally:
            await fields.close()

    async def _stream(
        self, receive: Receive, send: Send, media_type: str, body: AsyncGenerator[bytes, None]
    ) -> None:
        await unless_gone(receive, send_stream(send, media_type, body, stall_s=self._ours.stall_s))


class _Endpoint:
    """An ASGI app, so that a request stays inside the gate until its last byte has left."""

    def __init__(self, app: OpenAiAudio, gate: Gate, work: Serve) -> None:
        self._app, self._gate, self._work = app, gate, work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        begun = False

        async def sending(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app.serve(request, self._gate, self._work, sending)
        except Gone:
            log.info("a client hung up on %s", request.url.path)
        except ApiError as error:
            if begun:
                log.warning("an answer was cut short: %s", error)
                return
            if error.status >= 500:
                log.warning("%s: %s", request.url.path, error)
            if error.status != 408:
                await drain(request)
            raise
