"""A stand-in for NVIDIA Riva's speech recognition: nvidia.riva.asr.RivaSpeechRecognition.

Messages of the stream are taken as bytes: nearly all of them are one field with audio, which is cut
out without a parser.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_audio_pb2

from gateway.audio.files import AudioDecoder, BadAudio, Encoding
from gateway.riva.recognition_config import ENCODINGS, ENDPOINTING_KEY
from load.emulators.clips import RATE, Clips, read_clips
from load.emulators.distributions import Draws
from load.emulators.faults import Died, Fault, Faults, Strike
from load.emulators.hearing import Cue, Hearing, Samples, Word
from load.emulators.pace import Pace
from load.emulators.profile import AsrProfile
from load.emulators.stats import AsrStats

SERVICE = "nvidia.riva.asr.RivaSpeechRecognition"
GARBAGE = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x0f no message"
"""No protobuf message of any kind."""
DEATH = "Socket closed"
_UNSTABLE = 0.1
_CONFIDENCE = 0.95
_AUDIO_TAG = 0x12
_LINEAR_PCM = riva_audio_pb2.LINEAR_PCM
_FIRST = (
    "Error: the first message of StreamingRecognize must hold streaming_config and nothing else; "
    "audio_content follows in the messages after it"
)
_AGAIN = "Error: the stream is configured already: send audio_content, or open another stream"


class Recognition:
    """The service. `profile` may be replaced at any time; it holds for streams that begin then."""

    def __init__(
        self, profile: AsrProfile, draws: Draws, faults: Faults, stats: AsrStats, pace: Pace
    ) -> None:
        """Raises: BadProfile, for clips that cannot be read."""
        self._draws = draws
        self._faults = faults
        self._stats = stats
        self._pace = pace
        self._said = 0
        self._profile = profile
        self._clips = _clips_of(profile)

    def set_profile(self, profile: AsrProfile) -> None:
        """Raises: BadProfile."""
        if (profile.clips, profile.transcripts) != (self._profile.clips, self._profile.transcripts):
            self._clips = _clips_of(profile)
        self._profile = profile

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        config = rasr.RivaSpeechRecognitionConfigRequest
        return [
            grpc.method_handlers_generic_handler(
                SERVICE,
                {
                    "StreamingRecognize": grpc.stream_stream_rpc_method_handler(self._stream),
                    "Recognize": grpc.unary_unary_rpc_method_handler(
                        self._recognize, request_deserializer=rasr.RecognizeRequest.FromString
                    ),
                    "GetRivaSpeechRecognitionConfig": grpc.unary_unary_rpc_method_handler(
                        self._describe,
                        request_deserializer=config.FromString,
                        response_serializer=rasr.RivaSpeechRecognitionConfigResponse.SerializeToString,
                    ),
                },
            )
        ]

    def script(self) -> str:
        """What the next utterance says."""
        texts = self._profile.transcripts
        self._said += 1
        return texts[(self._said - 1) % len(texts)]

    async def _stream(self, _: object, context: Any) -> None:
        stats = self._stats
        stats.streams += 1
        stats.open += 1
        fault = self._faults.take("asr")
        over = False
        try:
            await _refuse_if(fault, context)
            first = await context.read()
            if first is not grpc.aio.EOF:
                await _Stream(self, context, await self._accepted(first, context), Strike(fault)).run()
            over = True
        except Died:
            over = True
            await context.abort(grpc.StatusCode.UNAVAILABLE, DEATH)
        except grpc.aio.AbortError:
            over = True
            raise
        finally:
            stats.open -= 1
            stats.cancelled += not over

    async def _accepted(self, first: bytes, context: Any) -> rasr.StreamingRecognizeRequest:
        request = await _parsed(first, context)
        if request.WhichOneof("streaming_request") != "streaming_config":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _FIRST)
        await self._check(request.streaming_config.config, "online", context)
        return request

    async def _check(self, config: rasr.RecognitionConfig, kind: str, context: Any) -> None:
        """Aborts what this service does not have, in Riva's words."""
        profile, language = self._profile, config.language_code.strip()
        if (language and language.lower() not in [known.lower() for known in profile.languages]) or (
            config.model and config.model != profile.model
        ):
            asked = f"Lang: {language or profile.languages[0]}, Type: {kind}"
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"Error: Unavailable model requested. {asked}"
            )
        if config.encoding not in ENCODINGS:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"Error: encoding {config.encoding} is unknown"
            )

    async def _recognize(self, request: rasr.RecognizeRequest, context: Any) -> bytes:
        self._stats.streams += 1
        fault = self._faults.take("asr")
        await _refuse_if(fault, context)
        await self._check(request.config, "offline", context)
        came = self._pace.now()
        hearing = Hearing(self._profile, self.script, self._clips)
        try:
            for samples, rate in _decoded(request.config, request.audio):
                for _ in hearing.feed(samples, rate):
                    pass  # neither partials nor ends within a file
        except BadAudio as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Error: {error}")
        self._stats.audio_ms += hearing.at_ms
        text, words = hearing.finish()
        await self._pace.until(came + self._draws.ms("asr.final_ms", self._profile.final_ms) / 1000)
        try:
            if await Strike(fault and Fault(fault.kind, 0, fault.drip_ms)).before():
                return GARBAGE
        except Died:
            await context.abort(grpc.StatusCode.UNAVAILABLE, DEATH)
        response = rasr.RecognizeResponse()
        if text:
            self._stats.finals += 1
            result = response.results.add(channel_tag=1, audio_processed=hearing.at_ms / 1000)
            _fill(result.alternatives.add(), text, words, request.config)
        if request.HasField("id"):
            response.id.CopyFrom(request.id)
        whole: bytes = response.SerializeToString()
        return whole

    async def _describe(
        self, request: rasr.RivaSpeechRecognitionConfigRequest, context: Any
    ) -> rasr.RivaSpeechRecognitionConfigResponse:
        profile = self._profile
        if request.model_name and request.model_name != profile.model:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Error: model {request.model_name} is not available on server",
            )
        response = rasr.RivaSpeechRecognitionConfigResponse()
        for kind in ("online", "offline"):
            config = response.model_config.add(model_name=profile.model)
            config.parameters["type"] = kind
            config.parameters["language_code"] = ",".join(profile.languages)
            config.parameters["sample_rate"] = str(RATE)
            config.parameters["streaming"] = str(kind == "online").lower()
        return response


class _Stream:
    """One StreamingRecognize call after its first message."""

    def __init__(
        self, service: Recognition, context: Any, first: rasr.StreamingRecognizeRequest, strike: Strike
    ) -> None:
        self._service = service
        self._context = context
        self._strike = strike
        self._profile = service._profile
        self._config = first.streaming_config.config
        self._interim = first.streaming_config.interim_results
        self._id = first.id if first.HasField("id") else None
        self._rate = self._config.sample_rate_hertz or RATE
        self._decoder: AudioDecoder | None = None
        self._began = False
        self._carry = b""
        self._hearing = Hearing(
            self._profile,
            service.script,
            service._clips,
            endpoint_ms=_endpoint_ms(self._config, self._profile),
        )
        self._finals: set[asyncio.Task[None]] = set()
        self._serving: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Returns when everything was answered. Raises: Died."""
        self._serving = asyncio.current_task()
        try:
            while (message := await self._context.read()) is not grpc.aio.EOF:
                await self._take(message)
            came = self._service._pace.now()
            if self._decoder is not None:
                await self._hear(b"", flush=True)
            if self._finals:
                await asyncio.wait(self._finals)
            await self._final(came, *self._hearing.finish())
        except asyncio.CancelledError:
            raise self._failure or asyncio.CancelledError from None
        finally:
            self._service._stats.audio_ms += self._hearing.at_ms
            for task in self._finals:
                task.cancel()

    async def _take(self, message: bytes) -> None:
        audio = audio_of(message)
        if audio is not None:
            await self._hear(audio)
            return
        request = await _parsed(message, self._context)
        if request.HasField("streaming_config"):
            await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, _AGAIN)
        if request.HasField("id"):
            self._id = request.id
        await self._hear(request.audio_content)
        if request.runtime_config.get("force_eou", "").lower() == "true":
            self._end()

    async def _hear(self, audio: bytes, *, flush: bool = False) -> None:
        if not self._began and audio:
            self._began = True
            if (
                self._config.encoding != _LINEAR_PCM
                or audio[:4] == b"RIFF"
                or self._config.audio_channel_count > 1
            ):
                self._decoder = _decoder(self._config)
        if self._decoder is None:
            if self._carry or len(audio) % 2:
                audio = self._carry + audio
                self._carry = audio[len(audio) // 2 * 2 :]
                audio = audio[: len(audio) // 2 * 2]
            await self._say(np.frombuffer(audio, "<i2"), self._rate)
            return
        try:
            for samples in self._decoder.flush() if flush else self._decoder.feed(audio):
                await self._say(samples, self._decoder.rate)
        except BadAudio as error:
            await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Error: {error}")

    async def _say(self, samples: Samples, rate: int) -> None:
        for cue in self._hearing.feed(samples, rate):
            if cue is Cue.END:
                self._end()
            elif self._interim:
                text, stable = self._hearing.partial()
                if text:
                    await self._write(self._partial(text, stable))

    def _end(self) -> None:
        """An utterance is over while the stream goes on: its final must not hold up the audio."""
        task = asyncio.create_task(self._final(self._service._pace.now(), *self._hearing.finish()))
        self._finals.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._finals.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = failure
            if self._serving is not None:
                self._serving.cancel()

    async def _final(self, came: float, text: str, words: list[Word]) -> None:
        service = self._service
        await service._pace.until(came + service._draws.ms("asr.final_ms", self._profile.final_ms) / 1000)
        if not text:
            return
        response = self._response()
        result = response.results.add(
            is_final=True, channel_tag=1, audio_processed=self._hearing.at_ms / 1000
        )
        _fill(result.alternatives.add(), text, words, self._config)
        service._stats.finals += 1
        await self._write(response)

    def _partial(self, text: str, stable: int) -> rasr.StreamingRecognizeResponse:
        response = self._response()
        processed_s = self._hearing.at_ms / 1000
        for part, stability in ((text[:stable], self._profile.stability), (text[stable:], _UNSTABLE)):
            if part:
                result = response.results.add(stability=stability, channel_tag=1, audio_processed=processed_s)
                result.alternatives.add(transcript=part)
        return response

    def _response(self) -> rasr.StreamingRecognizeResponse:
        response = rasr.StreamingRecognizeResponse()
        if self._id is not None:
            response.id.CopyFrom(self._id)
        return response

    async def _write(self, response: rasr.StreamingRecognizeResponse) -> None:
        async with self._writing:
            garbage = await self._strike.before() if self._strike.is_set else False
            await self._context.write(GARBAGE if garbage else response.SerializeToString())


def _clips_of(profile: AsrProfile) -> Clips | None:
    return read_clips(profile.clips, profile.transcripts) if profile.clips else None


def audio_of(message: bytes) -> bytes | None:
    """The audio of a StreamingRecognizeRequest that holds nothing else; None: it must be parsed."""
    if not message or message[0] != _AUDIO_TAG:
        return None
    length = shift = 0
    at = 1
    while at < len(message) and at < 6:
        byte = message[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return message[at:] if at + length == len(message) else None
    return None


async def _parsed(message: bytes, context: Any) -> rasr.StreamingRecognizeRequest:
    try:
        return rasr.StreamingRecognizeRequest.FromString(message)
    except Exception:  # protobuf's DecodeError, which has no public home
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Error: the message cannot be read")


async def _refuse_if(fault: Fault | None, context: Any) -> None:
    if fault is not None and fault.refuses:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the emulated recogniser refuses this request")


def _endpoint_ms(config: rasr.RecognitionConfig, profile: AsrProfile) -> float:
    """As long as the client asks for; 0 where it ends its utterances itself."""
    if config.custom_configuration.get(ENDPOINTING_KEY, "").lower() == "off":
        return 0.0
    if profile.endpoint_ms and config.endpointing_config.HasField("stop_history"):
        return float(max(0, config.endpointing_config.stop_history))
    return profile.endpoint_ms


def _decoder(config: rasr.RecognitionConfig) -> AudioDecoder:
    encoding = ENCODINGS[config.encoding]
    rate = config.sample_rate_hertz or (RATE if encoding in (Encoding.AUTO, Encoding.LINEAR_PCM) else 0)
    return AudioDecoder(encoding, rate, config.audio_channel_count or 1)


def _decoded(config: rasr.RecognitionConfig, audio: bytes) -> list[tuple[Samples, int]]:
    """Raises: BadAudio."""
    decoder = _decoder(config)
    pieces = [*decoder.feed(audio), *decoder.flush()]
    return [(piece, decoder.rate) for piece in pieces]


def _fill(
    alternative: rasr.SpeechRecognitionAlternative,
    text: str,
    words: list[Word],
    config: rasr.RecognitionConfig,
) -> None:
    alternative.transcript = f"{text} "
    alternative.confidence = _CONFIDENCE
    if config.language_code:
        alternative.language_code.append(config.language_code)
    if config.enable_word_time_offsets:
        for word in words:
            alternative.words.add(
                word=word.text,
                start_time=word.start_ms,
                end_time=word.end_ms,
                confidence=_CONFIDENCE,
                language_code=config.language_code,
            )
