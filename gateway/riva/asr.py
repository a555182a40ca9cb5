"""nvidia.riva.asr.RivaSpeechRecognition over Triton's `asr_*` models."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

import grpc
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_asr_pb2_grpc

from gateway.audio.files import AudioDecoder
from gateway.listen.vad import Vad
from gateway.riva.endpointing import Detector
from gateway.riva.errors import Context, Refused, statuses
from gateway.riva.listening import Listening, Result
from gateway.riva.models import ASR, Recogniser, SpeechModels
from gateway.riva.recognition_config import Recognition, recognition
from gateway.riva.utterance import Utterance

_FIRST = (
    "Error: the first message of StreamingRecognize must hold streaming_config and nothing else; "
    "audio_content follows in the messages after it"
)
_AGAIN = "Error: the stream is configured already: send audio_content, or open another stream"
_IDLE_S = 300.0
"""A stream that says nothing for this long is closed."""
_DRAIN_S = 0.1
_STABLE, _UNSTABLE, _ENDING = 0.9, 0.1, 1.0
"""Riva's own marks: a part that will not change, one that may, and the first pass of an end."""


class SpeechRecognition(riva_asr_pb2_grpc.RivaSpeechRecognitionServicer):  # type: ignore[misc]
    """One per server."""

    def __init__(
        self, models: SpeechModels, vad: Vad, *, chunk_deadline_s: float, linger_s: float = 0.0
    ) -> None:
        """vad: finds the ends of utterances. linger_s: a model stays held so long after its stream: callers pause."""
        self._models = models
        self._vad = vad
        self._chunk_deadline_s, self._linger_s = chunk_deadline_s, linger_s

    async def StreamingRecognize(
        self, requests: AsyncIterator[rasr.StreamingRecognizeRequest], context: Context
    ) -> None:
        reader = _Reader(requests)
        async with statuses(context, reader.drain):
            first = await reader.next()
            if first is None:
                return
            if first.WhichOneof("streaming_request") != "streaming_config":
                raise Refused(_FIRST)
            asked = recognition(first.streaming_config.config)
            model = await self._models.recogniser(asked.model, asked.language, "online")
            listening = self._listening(asked, model)
            try:
                answer = _Answers(context, asked, interim=first.streaming_config.interim_results)
                await self._converse(reader, first, listening, asked, answer)
            finally:
                listening.close()
                model.release(linger_s=self._linger_s)

    async def Recognize(self, request: rasr.RecognizeRequest, context: Context) -> rasr.RecognizeResponse:
        response = rasr.RecognizeResponse()
        async with statuses(context):
            asked = recognition(request.config)
            model = await self._models.recogniser(asked.model, asked.language, "offline")
            listening = self._listening(asked, model)
            try:
                results = [result async for result in _finals(listening, request.audio, asked)]
            finally:
                listening.close()
                model.release()
            for result in results:
                wire = response.results.add(channel_tag=1, audio_processed=result.processed_s)
                _fill(wire.alternatives.add(), result, asked)
            if request.HasField("id"):
                response.id.CopyFrom(request.id)
        return response

    async def GetRivaSpeechRecognitionConfig(
        self, request: rasr.RivaSpeechRecognitionConfigRequest, context: Context
    ) -> rasr.RivaSpeechRecognitionConfigResponse:
        response = rasr.RivaSpeechRecognitionConfigResponse()
        async with statuses(context):
            await self._models.refresh(max_age_s=1.0)
            for model in self._models.ready(ASR):
                if request.model_name and request.model_name != model.name:
                    continue
                for kind in ("online", "offline"):
                    config = response.model_config.add(model_name=model.name)
                    config.parameters["type"] = kind
                    config.parameters["language_code"] = ",".join(model.languages)
                    config.parameters["sample_rate"] = str(model.sample_rate or 16_000)
                    config.parameters["streaming"] = str(kind == "online").lower()
                    config.parameters["tags"] = ",".join(model.tags)
            if request.model_name and not response.model_config:
                raise Refused(f"Error: model {request.model_name} is not available on server")
        return response

    def _listening(self, asked: Recognition, model: Recogniser) -> Listening:
        def open_utterance(offset: int) -> Utterance:
            return Utterance(
                model.open,
                model.recover,
                offset=offset,
                language=asked.language,
                hints=asked.hints,
                deadline_s=self._chunk_deadline_s,
            )

        detector = Detector(self._vad) if asked.endpointing else None
        return Listening(open_utterance, endpointing=asked.endpointing, detector=detector)

    async def _converse(
        self,
        reader: _Reader,
        first: rasr.StreamingRecognizeRequest,
        listening: Listening,
        asked: Recognition,
        answer: _Answers,
    ) -> None:
        """Reads no further than it recognises: what the model cannot keep up with waits in the client."""
        decoder = AudioDecoder(asked.encoding, asked.rate, asked.channels)
        answer.note_id(first)
        while (request := await reader.next()) is not None:
            answer.note_id(request)
            if request.HasField("streaming_config"):
                raise Refused(_AGAIN)
            for samples in decoder.feed(request.audio_content):
                await answer.send(listening.feed(samples, decoder.rate))
            if request.runtime_config.get("force_eou", "").lower() == "true":
                await answer.send(listening.end_utterance())
        for samples in decoder.flush():
            await answer.send(listening.feed(samples, decoder.rate))
        await answer.send(listening.finish())


class _Reader:
    """The client's messages, with a limit on its silence."""

    def __init__(self, requests: AsyncIterator[rasr.StreamingRecognizeRequest]) -> None:
        self._requests = aiter(requests)

    async def next(self) -> rasr.StreamingRecognizeRequest | None:
        """None at the end of the stream. Raises Refused after five minutes of nothing."""
        try:
            async with asyncio.timeout(_IDLE_S):
                return await anext(self._requests, None)
        except TimeoutError:
            raise Refused(
                f"Error: no message for {_IDLE_S:.0f} seconds: send audio, or close the stream",
                grpc.StatusCode.DEADLINE_EXCEEDED,
            ) from None

    async def drain(self) -> None:
        """Read what the client is about to write: grpc.aio's client reports a status that arrives during
        its write as an internal error of its own."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_DRAIN_S):
                while await anext(self._requests, None) is not None:
                    pass


class _Answers:
    """Results as responses of one stream."""

    def __init__(self, context: Context, asked: Recognition, *, interim: bool) -> None:
        self._context = context
        self._asked = asked
        self._interim = interim
        self._id = rasr.StreamingRecognizeRequest()

    def note_id(self, request: rasr.StreamingRecognizeRequest) -> None:
        """Responses carry the id of the latest message that had one."""
        if request.HasField("id"):
            self._id = request

    async def send(self, results: AsyncIterator[Result]) -> None:
        async for result in results:
            if result.final or self._interim:
                await self._context.write(self._response(result))

    def _response(self, result: Result) -> rasr.StreamingRecognizeResponse:
        response = rasr.StreamingRecognizeResponse()
        if self._id.HasField("id"):
            response.id.CopyFrom(self._id.id)
        if result.final:
            wire = response.results.add(is_final=True, channel_tag=1, audio_processed=result.processed_s)
            _fill(wire.alternatives.add(), result, self._asked)
            return response
        for part, stability in _parts(result):
            wire = response.results.add(stability=stability, channel_tag=1)
            wire.audio_processed = result.processed_s
            if part:
                wire.alternatives.add(transcript=part)
        return response


def _parts(result: Result) -> Iterable[tuple[str, float]]:
    """A partial as Riva cuts it: clients join the transcripts of one response."""
    text, stable = result.heard.text, result.heard.stable
    if result.ending:
        return [(text, _ENDING)]
    if 0 < stable < len(text):
        return [(text[:stable], _STABLE), (text[stable:], _UNSTABLE)]
    return [(text, _STABLE if stable else _UNSTABLE)]


def _fill(alternative: rasr.SpeechRecognitionAlternative, result: Result, asked: Recognition) -> None:
    heard = result.heard
    # As Riva does: clients join the transcripts of several finals without a space of their own.
    alternative.transcript = f"{heard.text} " if heard.text else ""
    alternative.confidence = heard.confidence
    if asked.language:
        alternative.language_code.append(asked.language)
    if asked.word_times:
        for word in heard.words:
            alternative.words.add(
                word=word.text,
                start_time=word.start_ms,
                end_time=word.end_ms,
                language_code=asked.language,
            )


async def _finals(listening: Listening, audio: bytes, asked: Recognition) -> AsyncIterator[Result]:
    """Decoded as it is recognised, so that a well-packed file never lies in memory unpacked."""
    decoder = AudioDecoder(asked.encoding, asked.rate, asked.channels, whole=True)
    for source in (decoder.feed(audio), decoder.flush()):
        for samples in source:
            async for result in listening.feed(samples, decoder.rate):
                if result.final:
                    yield result
    async for result in listening.finish():
        yield result
