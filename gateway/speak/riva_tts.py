"""Synthesis by any Riva-compatible TTS endpoint: ours, NVIDIA Riva, a Riva NIM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from riva.client.proto import riva_audio_pb2, riva_tts_pb2, riva_tts_pb2_grpc

from gateway.audio.pcm import SampleCarry
from gateway.settings import TtsSettings, call_metadata
from gateway.speak.tts import Chunk, TtsError, VoiceModel
from gateway.telemetry.context import call_context
from gateway.tls.client import client_security
from gateway.triton.channel import open_channel
from gateway.triton.errors import TritonUnavailable
from gateway.triton.fronts import Fronts, status_of
from gateway.triton.line import Connection
from gateway.triton.routing.addresses import Resolve, resolve_host

log = logging.getLogger(__name__)

_CHECK_S = 2.0
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)
"""The request is wrong, the service is not."""
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""The second is what a grpc.aio server says to a call that comes in the moment in which it is stopped."""
_OWN_WORDS = "Error: "
"""So begins what Riva's services say themselves."""
_CUT = "Internal error from Core"
"""What grpc.aio says, as INTERNAL, of a write into a call that ended before it."""
_TRIES, _PAUSE_S = 3, 0.2
"""For a sentence of which nothing was heard. The second try may go over the connection that is being closed."""
_NO_SUCH_VOICE = ("not available on server", "Unavailable model requested")
"""What Riva says of a voice or language it has not, under a code that would mean a fault."""


class RivaSynthesizer:
    """One channel for each address of the service, for all sessions; one SynthesizeOnline call per sentence."""

    def __init__(self, settings: TtsSettings, *, resolve: Resolve = resolve_host) -> None:
        """Raises: TritonError for addresses that are none."""
        self._settings = settings
        security = client_security(settings.tls, "the Riva TTS", on=settings.ssl)
        self._fronts: Fronts[Any] = Fronts(
            settings.uri,
            riva_tts_pb2_grpc.RivaSpeechSynthesisStub,
            service=riva_tts_pb2.DESCRIPTOR.services_by_name["RivaSpeechSynthesis"].full_name,
            dial=lambda address, name: open_channel(address, security=security, name=name),
            resolve=resolve,
            version=None if security is None else security.version,
        )
        self._metadata = call_metadata(settings)

    async def synthesize(
        self, text: str, *, voice: str = "", language: str = "", speed: float = 1.0, model: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        """See `Synthesizer.synthesize`; empty `voice` and `language` mean those of the settings.

        `speed` is 1: Riva has no word for it. A model is chosen by its voice.
        """
        if not any(character.isalnum() for character in text):
            return
        settings = self._settings
        language = language or settings.language
        if model and not voice:
            voice = await self._voice_of(model, language)
        request = riva_tts_pb2.SynthesizeSpeechRequest(
            text=text,
            language_code=language,
            encoding=riva_audio_pb2.AudioEncoding.LINEAR_PCM,
            sample_rate_hz=settings.sample_rate,
            voice_name=voice or settings.voice,
        )
        carry = SampleCarry()
        empty = True
        tries = 0
        while True:
            tries += 1
            try:
                async with (
                    self._fronts.call() as connection,
                    aclosing(self._audio(connection, request)) as audio,
                ):
                    async for piece in audio:
                        pcm = carry.feed(piece)
                        if pcm:
                            empty = False
                            yield Chunk(pcm, settings.sample_rate)
                break
            except (grpc.aio.AioRpcError, TritonUnavailable) as error:
                # Of several services another takes a sentence of which nothing has been heard; also where they share
                # one address, behind which one that is being stopped may have been the first.
                lost = isinstance(error, grpc.aio.AioRpcError) and _is_lost(error)
                if not (lost and empty and tries < max(_TRIES, len(self._fronts.servers))):
                    raise self._error(error) from error
                code, details = status_of(error)
                log.info(
                    "a sentence is asked for again, as %s ended with %s", settings.uri, details or code.name
                )
            if tries > 1:
                await asyncio.sleep(_PAUSE_S)
        if empty:
            raise TtsError(
                f"the speech synthesiser at {settings.uri} made no audio: try another voice or language",
                unwell=False,
            )

    async def _audio(
        self, connection: Connection[Any], request: riva_tts_pb2.SynthesizeSpeechRequest
    ) -> AsyncGenerator[bytes, None]:
        """What one call makes of a sentence. Raises AioRpcError, TtsError."""
        wait_ms = self._settings.first_chunk_ms
        loop = asyncio.get_running_loop()
        since = loop.time()
        # A stream of one request: older services take a single one, which looks the same on the wire.
        call = connection.stubs.SynthesizeOnline([request], metadata=[*self._metadata, *call_context()])
        try:
            while True:
                async with asyncio.timeout(wait_ms / 1000):
                    response = await call.read()
                if response is grpc.aio.EOF:
                    return
                connection.heard()
                since = loop.time()
                if response is None:  # gRPC's word for bytes that it cannot parse
                    raise TtsError(f"what {self._settings.uri} sent is not the Riva TTS API")
                if response.audio:
                    wait_ms = self._settings.chunk_ms
                    yield response.audio
        except TimeoutError:
            connection.silent_since(since)
            raise TtsError(
                f"the speech synthesiser at {self._settings.uri} fell silent: no audio for {wait_ms} ms"
            ) from None
        finally:
            call.cancel()

    async def check(self) -> None:
        """Raises TtsError when no voice answers within 2 s."""
        if not await self._configs():
            raise TtsError(f"the speech service at {self._settings.uri} has no voice loaded")

    async def models(self) -> list[VoiceModel]:
        """Of what the service lists: a voice is called "model.voice", as Riva does."""
        found: dict[str, list[tuple[str, str]]] = {}
        for config in await self._configs():
            base, language = config.parameters["voice_name"], config.parameters["language_code"]
            names = [part.partition(":")[0].strip() for part in config.parameters["subvoices"].split(",")]
            voices = found.setdefault(config.model_name, [])
            voices += [(f"{base}.{name}" if name else base, language) for name in names]
        return [
            VoiceModel(
                name,
                tuple(dict.fromkeys(language for _, language in voices if language)),
                tuple(dict(voices)),
                tuple(dict(reversed(voices))[voice] for voice in dict(voices)),
            )
            for name, voices in found.items()
        ]

    async def _voice_of(self, model: str, language: str) -> str:
        """Its first voice of the language, else its first."""
        for known in await self.models():
            if known.name == model:
                pairs = zip(known.voices, known.voice_languages, strict=True)
                of_language = [voice for voice, spoken in pairs if spoken == language]
                return (of_language or list(known.voices))[0]
        raise TtsError(f"the speech service at {self._settings.uri} has no model {model}", unwell=False)

    async def _configs(self) -> list[Any]:
        try:
            async with self._fronts.call() as connection:
                response = await connection.stubs.GetRivaSynthesisConfig(
                    riva_tts_pb2.RivaSynthesisConfigRequest(model_name=self._settings.model),
                    metadata=self._metadata,
                    timeout=_CHECK_S,
                )
        except (grpc.aio.AioRpcError, TritonUnavailable) as error:
            raise self._error(error) from error
        return list(response.model_config)

    async def close(self) -> None:
        """Cancels what still runs."""
        await self._fronts.close()

    def _error(self, error: grpc.aio.AioRpcError | TritonUnavailable) -> TtsError:
        code, details = status_of(error)
        uri = self._settings.uri
        if code is grpc.StatusCode.UNAVAILABLE and details.startswith(_OWN_WORDS):
            return TtsError(f"the speech synthesiser at {uri} does not serve now: {details}")
        if code is grpc.StatusCode.UNAVAILABLE:
            return TtsError(f"no speech synthesiser answers at {uri}: start it, or set PARLEY_TTS__URI")
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return TtsError(
                f"the speech synthesiser at {uri} refused the credentials: set PARLEY_TTS__API_KEY",
                unwell=False,
            )
        refused = code in _REFUSALS or any(words in details for words in _NO_SUCH_VOICE)
        return TtsError(f"the speech synthesiser at {uri} failed: {details or code.name}", unwell=not refused)


def _is_lost(error: grpc.aio.AioRpcError) -> bool:
    return error.code() in _LOST or (error.code() is grpc.StatusCode.INTERNAL and error.details() == _CUT)
