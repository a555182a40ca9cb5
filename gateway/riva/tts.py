"""nvidia.riva.tts.RivaSpeechSynthesis over Triton's `tts_*` models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from riva.client.proto import riva_tts_pb2 as rtts
from riva.client.proto import riva_tts_pb2_grpc

from gateway.audio.encoders import OggOpusEncoder
from gateway.audio.pcm import Int16, to_int16, to_pcm
from gateway.audio.resample import Resampler
from gateway.riva.errors import Context, Refused, statuses
from gateway.riva.models import TTS, SpeechModels
from gateway.riva.synthesis_config import Output, inputs, output, spoken_text
from gateway.triton.codec import Array
from gateway.triton.errors import TritonError, TritonTimeout, TritonUnavailable
from gateway.triton.routing.languages import voice_base, voices_of

_OPUS_RATE = 48_000


@dataclass(slots=True)
class _Piece:
    pcm: Int16
    words: list[tuple[str, int, int]]
    """Word, start and end in ms from the start of this text."""


class SpeechSynthesis(riva_tts_pb2_grpc.RivaSpeechSynthesisServicer):  # type: ignore[misc]
    """One per server."""

    def __init__(self, models: SpeechModels, *, linger_s: float = 0.0) -> None:
        """linger_s: a model stays held so long after its text: more will follow."""
        self._models, self._linger_s = models, linger_s

    async def Synthesize(
        self, request: rtts.SynthesizeSpeechRequest, context: Context
    ) -> rtts.SynthesizeSpeechResponse:
        response = rtts.SynthesizeSpeechResponse()
        async with statuses(context):
            sound = _Sound(output(request))
            audio = bytearray()
            async with aclosing(self._speak(request, sound)) as pieces:
                async for piece in pieces:
                    audio += sound.encode(piece.pcm)
                    _add_words(response, piece)
            audio += sound.close()
            response.audio = bytes(audio)
            _describe(response, request)
        return response

    async def SynthesizeOnline(
        self, requests: AsyncIterator[rtts.SynthesizeSpeechRequest], context: Context
    ) -> None:
        """Text after text, each spoken when the one before is; the audio of all makes one stream."""
        async with statuses(context):
            sound: _Sound | None = None
            async for request in requests:
                wanted = output(request)
                if sound is None or sound.wanted != wanted:
                    if sound is not None and (rest := sound.close()):
                        await context.write(rtts.SynthesizeSpeechResponse(audio=rest))
                    sound = _Sound(wanted)
                await self._speak_online(request, sound, context)
            if sound is not None and (rest := sound.close()):
                await context.write(rtts.SynthesizeSpeechResponse(audio=rest))

    async def GetRivaSynthesisConfig(
        self, request: rtts.RivaSynthesisConfigRequest, context: Context
    ) -> rtts.RivaSynthesisConfigResponse:
        response = rtts.RivaSynthesisConfigResponse()
        async with statuses(context):
            await self._models.refresh(max_age_s=1.0)
            for model in self._models.ready(TTS):
                if request.model_name and request.model_name != model.name:
                    continue
                for language in model.languages or ("",):
                    config = response.model_config.add(model_name=model.name)
                    config.parameters["language_code"] = language
                    config.parameters["voice_name"] = voice_base(model)
                    config.parameters["subvoices"] = ",".join(
                        f"{voice}:{i}" for i, voice in enumerate(voices_of(model, language))
                    )
                    config.parameters["sample_rate"] = str(model.sample_rate)
                    config.parameters["tags"] = ",".join(model.tags)
            if request.model_name and not response.model_config:
                raise Refused(f"Error: model {request.model_name} is not available on server")
        return response

    async def _speak_online(
        self, request: rtts.SynthesizeSpeechRequest, sound: _Sound, context: Context
    ) -> None:
        first = True
        async with aclosing(self._speak(request, sound)) as pieces:
            async for piece in pieces:
                response = rtts.SynthesizeSpeechResponse(audio=sound.encode(piece.pcm))
                _add_words(response, piece)
                if not response.audio and not response.meta.words:
                    continue
                if first:
                    _describe(response, request)
                    first = False
                elif request.HasField("id"):
                    response.id.CopyFrom(request.id)
                await context.write(response)

    async def _speak(
        self, request: rtts.SynthesizeSpeechRequest, sound: _Sound
    ) -> AsyncGenerator[_Piece, None]:
        """The text's audio at the client's rate, as it is made.

        A model that went away before its first audio is looked for again, once.
        """
        said = spoken_text(request)
        heard = False
        voice = await self._models.voice(request.voice_name.strip(), request.language_code.strip())
        try:
            for last_try in (False, True):
                tensors = inputs(request, said, voice.info)
                try:
                    async with aclosing(voice.speak(tensors)) as parts:
                        async for part in parts:
                            samples = _samples(part)
                            heard = heard or samples.size > 0
                            words = _words(part) if sound.wanted.word_times else []
                            yield _Piece(sound.resample(samples, voice.info.sample_rate), words)
                    break
                except TritonUnavailable as error:
                    await voice.recover(error)
                    if heard or last_try or isinstance(error, TritonTimeout):
                        raise
                    await voice.take()
            if not heard:
                raise TritonError(f"{voice.info.name} made no audio of the text")
            yield _Piece(sound.flush(), [])
        finally:
            voice.release(linger_s=self._linger_s)


class _Sound:
    """One client's audio: resampled once, then PCM16 or one Ogg Opus stream."""

    def __init__(self, wanted: Output) -> None:
        self.wanted = wanted
        self._resampler: Resampler | None = None
        self._opus: OggOpusEncoder | None = None

    def resample(self, samples: Int16, model_rate: int) -> Int16:
        """int16 [n] at the model's rate to the client's."""
        if self._resampler is None:
            self._resampler = Resampler(model_rate, self._rate(model_rate))
        return self._resampler.push(samples)

    def flush(self) -> Int16:
        """What is held back of the text that ends."""
        resampler, self._resampler = self._resampler, None
        return resampler.flush() if resampler else np.zeros(0, np.int16)

    def encode(self, samples: Int16) -> bytes:
        if not self.wanted.opus:
            return to_pcm(samples)
        if self._opus is None:
            self._opus = OggOpusEncoder(self._rate(_OPUS_RATE))
        return self._opus.encode(samples)

    def close(self) -> bytes:
        """The end of an Ogg stream; nothing for PCM."""
        return self._opus.close() if self._opus else b""

    def _rate(self, model_rate: int) -> int:
        if self.wanted.opus:
            return self.wanted.rate if self.wanted.rate in OggOpusEncoder.RATES else _OPUS_RATE
        return self.wanted.rate or model_rate


def _samples(part: dict[str, Array]) -> Int16:
    audio = part.get("AUDIO")
    return to_int16(to_pcm(audio.ravel())) if audio is not None else np.zeros(0, np.int16)


def _words(part: dict[str, Array]) -> list[tuple[str, int, int]]:
    if "WORDS" not in part or "WORD_TIMES" not in part:
        return []
    times = part["WORD_TIMES"].reshape(-1, 2)
    return [
        (str(word), int(start), int(end))
        for word, (start, end) in zip(part["WORDS"].reshape(-1), times, strict=False)
    ]


def _add_words(response: rtts.SynthesizeSpeechResponse, piece: _Piece) -> None:
    for word, start, end in piece.words:
        response.meta.words.add(word=word, start_time=start, end_time=end)


def _describe(response: rtts.SynthesizeSpeechResponse, request: rtts.SynthesizeSpeechRequest) -> None:
    response.meta.text = request.text
    response.meta.processed_text = spoken_text(request)
    if request.HasField("id"):
        response.id.CopyFrom(request.id)
