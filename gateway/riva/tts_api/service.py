"""The RPCs of parley.v1.Tts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from gateway.protocol import tts_pb2 as pb
from gateway.protocol import tts_pb2_grpc, voice_pb2
from gateway.riva.errors import Context
from gateway.riva.tts_api.capabilities import About, capabilities
from gateway.riva.tts_api.errors import CODE, Refused, statuses
from gateway.riva.tts_api.models import list_models, load_model, unload_model
from gateway.riva.tts_api.ports import Held, Voices, Want
from gateway.riva.tts_api.sessions import Manner, Session, Sessions, Style
from gateway.riva.tts_api.sound import FRAME_BYTES, RATE, Sound
from gateway.riva.tts_api.speaking import Speaking, check_rate, checked_style
from gateway.riva.tts_api.text import TextFeed
from gateway.riva.tts_api.utterance import Outcome, Utterance
from gateway.riva.tts_api.voices import is_named, no_voice
from gateway.settings import TtsApiSettings
from gateway.speak.ticker import Ticker
from gateway.triton.errors import TritonError
from gateway.triton.manager.types import Manager
from gateway.triton.model_info import ModelInfo
from gateway.triton.routing.languages import voice_of

NAME = "parley.v1.Tts"
_MOST_LEAD_MS = 2_000
_CALIBRATION_S = 1.0
"""A session's start waits no longer for the level of a voice that nobody used before."""
_UNREAD_S = 5.0
"""A call that is over and whose client does not read on is cut after this."""
_LOAD_S = 600.0
"""A RELOAD whose call has no deadline of its own waits no longer than this."""


class TtsService(tts_pb2_grpc.TtsServicer):
    """One per server. `close()` ends every session and waits until no model works for one."""

    def __init__(
        self,
        manager: Manager,
        voices: Voices,
        settings: TtsApiSettings,
        about: About,
    ) -> None:
        self._manager = manager
        self._voices = voices
        self._speaking = Speaking(settings.loudness_lufs)
        self._settings = settings
        self._about = about
        self._sessions = Sessions(limit=settings.max_sessions, idle_s=settings.idle_s)
        self._ticker = Ticker()
        self._feeds: set[TextFeed] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        self._sessions.close()
        await self._speaking.close()
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    # ---- sessions ---------------------------------------------------------------------------------

    async def StartSession(
        self, request: pb.StartSessionRequest, context: Context
    ) -> pb.StartSessionResponse:
        response = pb.StartSessionResponse()
        async with statuses(context):
            lead_s = self._lead_s(request)
            want = Want(
                request.model.strip(), request.voice.strip(), request.language.strip(), request.policy.strip()
            )

            async def make(session_id: str) -> Session:
                held = await self._voices.hold(want, deadline_s=context.time_remaining())
                try:
                    check_rate(held)
                    style = checked_style(request.style.style, request.style.speed, held)
                    if self._settings.calibrate:
                        await self._speaking.know(held, style, wait_s=_CALIBRATION_S)
                except BaseException:
                    held.source.release()
                    raise
                return Session(session_id, want, held, style, lead_s)

            session = await self._sessions.start(request.session_id, make)
            response.MergeFrom(_started(session))
        return response

    async def EndSession(self, request: pb.EndSessionRequest, context: Context) -> pb.EndSessionResponse:
        response = pb.EndSessionResponse()
        async with statuses(context):
            response.utterances = self._sessions.end(request.session_id).utterances
        return response

    async def Control(self, request: pb.ControlRequest, context: Context) -> pb.ControlResponse:
        response = pb.ControlResponse()
        async with statuses(context):
            session = self._sessions.get(request.session_id)
            session.touch()
            if request.command == pb.RELOAD:
                await self._reload(session, context)
                response.applied = True
            elif request.command in (pb.PAUSE, pb.RESUME, pb.STOP):
                response.note = _command(session, request.command)
                response.applied = not response.note
            else:
                raise Refused("the command is not set: send PAUSE, RESUME, STOP or RELOAD")
            _describe(session, response)
        return response

    # ---- speech -----------------------------------------------------------------------------------

    async def Synthesize(self, requests: AsyncIterator[pb.SynthesizeRequest], context: Context) -> None:
        feed = TextFeed(requests, self._settings.first_chars)
        try:
            async with statuses(context, feed.drain):
                first = await feed.first(self._settings.idle_s)
                session = self._sessions.get(first.session_id)
                await self._speak(session, first, feed, context)
        finally:
            feed.close()

    async def _speak(
        self, session: Session, first: pb.SynthesizeRequest, feed: TextFeed, context: Context
    ) -> None:
        utterance = await session.begin(lambda number: self._utterance(number, session))
        self._feeds.add(feed)
        try:
            manner = await utterance.prepare(self._manner(session, first.utterance, context))
            if manner is not None:
                say = partial(self._speaking.say, session, manner=manner)
                feed.start(first, session.touch)
                utterance.start(feed.pieces(), say)

            async def send(frame: bytes, sequence: int) -> None:
                message = pb.SynthesizeResponse(session_id=session.id, utterance=utterance.number)
                message.frame.sequence, message.frame.audio = sequence, frame
                await context.write(message)

            outcome = await utterance.send_all(send, unread_s=_UNREAD_S)
            # Before the client learns of it: the next utterance may be on its way at once.
            session.end_utterance(utterance)
            await context.write(_done(session, utterance, feed, outcome))
            await feed.drain()
        finally:
            self._feeds.discard(feed)
            session.end_utterance(utterance)
            self._keep(utterance.close())

    def _utterance(self, number: int, session: Session) -> Utterance:
        settings = self._settings
        return Utterance(
            number, Sound(settings.loudness_lufs), self._ticker, lead_s=session.lead_s, hot_s=settings.hot_s
        )

    async def _manner(self, session: Session, asked: pb.Utterance, context: Context) -> Manner:
        """Raises: Refused, TritonError."""
        want = Want(asked.model.strip(), asked.voice.strip(), asked.language.strip(), session.want.policy)
        held = await self._renewed(session, context, may_fail=asked.switch_model)
        if not _fits(session, want):
            if not asked.switch_model:
                raise Refused(_keeps(session, want), CODE.FAILED_PRECONDITION)
            held = await self._voices.hold(want, deadline_s=context.time_remaining())
            session.want = want
            session.exchange(held)
        check_rate(held)
        voice: str | None = held.voice
        if not _is_its_own(session, want):
            voice = voice_of(held.model, want.voice or held.voice, want.language)
        style = session.style
        if asked.HasField("style"):
            style = Style(asked.style.style, asked.style.speed)
        style = checked_style(style.name, style.speed, held)
        return Manner(held.model.name, voice or "", want.language or held.language, style)

    async def _renewed(self, session: Session, context: Context, *, may_fail: bool) -> Held:
        """What the session has from this utterance on. Raises TritonError, unless it may fail."""
        before = session.held.model.name
        try:
            held = await session.renew(deadline_s=context.time_remaining())
        except TritonError:
            if may_fail:
                return session.held
            raise
        if held.model.name != before and self._settings.calibrate:
            await self._speaking.know(held, session.style, wait_s=_CALIBRATION_S)
        return held

    async def _reload(self, session: Session, context: Context) -> None:
        """Every request from now on gets the model's newest version."""
        deadline_s = context.time_remaining() or _LOAD_S
        await self._manager.load(session.held.model.name, deadline_s=deadline_s)

    def _lead_s(self, request: pb.StartSessionRequest) -> float | None:
        delivery = request.delivery
        if delivery.as_fast_as_possible:
            return None
        lead_ms = delivery.lead_ms if delivery.HasField("lead_ms") else self._settings.lead_ms
        if not 0 <= lead_ms <= _MOST_LEAD_MS:
            raise Refused(f"lead_ms is {lead_ms}: use 0 to {_MOST_LEAD_MS}")
        return lead_ms / 1000

    def _keep(self, task: asyncio.Task[None] | None) -> None:
        if task is not None and not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # ---- models -----------------------------------------------------------------------------------

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        response = pb.ListModelsResponse()
        async with statuses(context):
            response.MergeFrom(await list_models(self._manager, request))
        return response

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> None:
        async with statuses(context):
            await load_model(self._manager, request, context)

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        async with statuses(context):
            await unload_model(self._manager, request, context)
        return pb.UnloadModelResponse()

    async def GetCapabilities(self, request: pb.GetCapabilitiesRequest, context: Context) -> pb.Capabilities:
        response = pb.Capabilities()
        async with statuses(context):
            figures = self._speaking.figures
            told = await capabilities(
                self._manager,
                self._about,
                rtf=figures.rtf,
                queue_depth=figures.speaking + sum(feed.depth for feed in self._feeds),
                sessions=len(self._sessions),
                max_sessions=self._sessions.limit,
            )
            response.MergeFrom(told)
        return response


def _started(session: Session) -> pb.StartSessionResponse:
    held = session.held
    return pb.StartSessionResponse(
        session_id=session.id,
        model=held.model.name,
        version=held.source.version,
        voice=held.voice,
        language=held.language,
        audio=voice_pb2.AudioFormat(encoding=voice_pb2.PCM16, sample_rate=RATE),
        frame_bytes=FRAME_BYTES,
        instead_of=held.instead_of,
    )


def _command(session: Session, command: Any) -> str:
    """Does it; what to say when there was nothing to do."""
    utterance = session.current
    if utterance is None:
        return "nothing is being spoken, and the next utterance is not affected"
    if command == pb.STOP:
        utterance.stop()
        session.end_utterance(utterance)
        return ""
    wanted = command == pb.PAUSE
    if utterance.paused == wanted:
        return "it is paused already" if wanted else "it is not paused"
    utterance.pause() if wanted else utterance.resume()
    return ""


def _describe(session: Session, response: pb.ControlResponse) -> None:
    response.version = session.held.source.version
    response.state = pb.TTS_IDLE
    if session.current is not None:
        response.state = pb.TTS_PAUSED if session.current.paused else pb.TTS_SPEAKING
    if session.last is not None:
        response.utterance, response.frames = session.last.number, session.last.sent


def _done(session: Session, utterance: Utterance, feed: TextFeed, outcome: Outcome) -> pb.SynthesizeResponse:
    first = utterance.first_sent
    done = pb.UtteranceDone(
        outcome=voice_pb2.COMPLETED if outcome is Outcome.COMPLETED else voice_pb2.CANCELLED,
        frames=utterance.sent,
        text=utterance.text,
        first_audio_ms=-1 if first is None or feed.began is None else round((first - feed.began) * 1000),
        model=session.held.model.name,
        instead_of=session.held.instead_of,
    )
    return pb.SynthesizeResponse(session_id=session.id, utterance=utterance.number, done=done)


def _is_its_own(session: Session, want: Want) -> bool:
    """Nothing is asked for that the session did not ask for."""
    own = session.want
    pairs = ((want.model, own.model), (want.voice, own.voice), (want.language, own.language))
    return all(asked in ("", had) for asked, had in pairs)


def _fits(session: Session, want: Want) -> bool:
    """The session's model can do it; what the session itself asked for is never refused, whoever speaks meanwhile."""
    model = session.held.model
    if _is_its_own(session, want):
        return True
    return not _is_other(model, want) and voice_of(model, want.voice, want.language) is not None


def _is_other(model: ModelInfo, want: Want) -> bool:
    return bool(want.model) and not is_named(model, want.model)


def _keeps(session: Session, want: Want) -> str:
    model = session.held.model
    if _is_other(model, want):
        return (
            f"session {session.id!r} speaks with {model.name}: set switch_model to go on with {want.model!r}"
        )
    return f"{no_voice(model.name, want)}; set switch_model to go on with another model"
