"""Whole recordings through any Riva-compatible gRPC endpoint: ours, NVIDIA Riva, a Riva NIM.

StreamingRecognize, not Recognize: its results come while the recording still goes in, the service takes
no more than it can work off, and hanging up frees it at once. Where passages end is the service's decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import grpc.aio
from riva.client.proto import riva_asr_pb2, riva_audio_pb2

from gateway.listen.asr import RATE, AsrError, HeardWord
from gateway.listen.cuts import Cuts
from gateway.listen.riva_asr import asr_fronts, streaming_models, writer_of
from gateway.listen.transcriber import AsrModel, Passage, Wanted
from gateway.settings import AsrSettings, call_metadata
from gateway.triton.errors import TritonUnavailable
from gateway.triton.fronts import status_of
from gateway.triton.line import Connection
from gateway.triton.routing.addresses import Resolve, resolve_host

_STABLE = 0.8
_HINT_BOOST = 10.0
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
)
"""The request is wrong, the service is not."""


class RivaTranscriber:
    """A `Transcriber`; one channel for each address of the service, for all recordings of the process."""

    def __init__(self, settings: AsrSettings, *, stall_s: float, resolve: Resolve = resolve_host) -> None:
        """stall_s: the service took nothing and said nothing for this long: it is given up."""
        self._settings, self._stall_s = settings, stall_s
        self._fronts = asr_fronts(settings, resolve)
        self._metadata = call_metadata(settings)

    async def transcribe(self, audio: AsyncIterator[bytes], wanted: Wanted) -> AsyncGenerator[Passage, None]:
        """See `Transcriber.transcribe`."""
        try:
            async with self._fronts.call() as connection:
                call = connection.stubs.StreamingRecognize(metadata=self._metadata)
                watched = _Watched(call, connection, self._stall_s)
                writer = asyncio.create_task(watched.write(self._config(wanted), audio))
                try:
                    while (response := await watched.answer()) is not None:
                        for passage in _passages(response):
                            if passage.final:
                                watched.cuts.ended(passage.processed_s)
                            if passage.final or wanted.partials:
                                yield passage
                    if not watched.half_closed:
                        raise AsrError("the speech recogniser ended the stream before the recording did")
                finally:
                    call.cancel()
                    writer.cancel()
                    await asyncio.wait([writer])
        except (grpc.aio.AioRpcError, TritonUnavailable) as error:
            raise self._error(error) from error

    async def models(self) -> list[AsrModel]:
        """See `Transcriber.models`."""
        try:
            models = await streaming_models(self._fronts, self._settings, self._metadata)
        except (grpc.aio.AioRpcError, TritonUnavailable) as error:
            raise self._error(error) from error
        found: dict[str, list[str]] = {}
        for model in models:
            tags = model.parameters.get("language_code", "").split(",")
            found.setdefault(model.model_name, []).extend(tag.strip() for tag in tags if tag.strip())
        return [AsrModel(name, tuple(dict.fromkeys(tags))) for name, tags in found.items()]

    async def close(self) -> None:
        """Cancels what still runs."""
        await self._fronts.close()

    def _config(self, wanted: Wanted) -> Any:
        settings = self._settings
        config = riva_asr_pb2.RecognitionConfig(
            encoding=riva_audio_pb2.AudioEncoding.LINEAR_PCM,
            sample_rate_hertz=RATE,
            language_code=_language(wanted.language, settings.language),
            max_alternatives=1,
            audio_channel_count=1,
            enable_word_time_offsets=True,
            enable_automatic_punctuation=True,
            model=wanted.model or settings.model,
        )
        if wanted.pause_ms:
            config.endpointing_config.stop_history = wanted.pause_ms
        if wanted.hints:
            config.speech_contexts.add(phrases=list(wanted.hints), boost=_HINT_BOOST)
        streaming = riva_asr_pb2.StreamingRecognitionConfig(config=config, interim_results=wanted.partials)
        return riva_asr_pb2.StreamingRecognizeRequest(streaming_config=streaming)

    def _error(self, error: grpc.aio.AioRpcError | TritonUnavailable) -> AsrError:
        code, details = status_of(error)
        uri = self._settings.uri
        if code is grpc.StatusCode.UNAVAILABLE:
            return AsrError(f"no speech recogniser answers at {uri}: start it, or set PARLEY_ASR__URI")
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return AsrError(
                f"the speech recogniser at {uri} refused the credentials: set PARLEY_ASR__API_KEY",
                retryable=False,
                unwell=True,
            )
        refused = code in _REFUSALS or "Unavailable model requested" in details
        details = details.removeprefix("Error: ")
        return AsrError(
            f"the speech recogniser failed: {details or code.name}", retryable=not refused, unwell=not refused
        )


class _Watched:
    """One call, and a clock that starts anew whenever something moves in it."""

    def __init__(self, call: Any, connection: Connection[Any], stall_s: float) -> None:
        self._call, self._connection, self._stall_s = call, connection, stall_s
        self._now = asyncio.get_running_loop().time
        self._deadline: asyncio.Timeout | None = None
        self._moved_s = self._now()
        self._failure: BaseException | None = None
        self.half_closed = False
        self.cuts = Cuts()

    async def write(self, config: Any, audio: AsyncIterator[bytes]) -> None:
        """The writer's task: ends with the audio, or with the call, whose status the reader reports."""
        try:
            await self._call.wait_for_connection()
            send = writer_of(self._call)
            await send(config)
            async for chunk in audio:
                last, rest = self.cuts.split(chunk)
                if last:
                    end = riva_asr_pb2.StreamingRecognizeRequest(audio_content=last)
                    end.runtime_config["force_eou"] = "true"
                    await send(end)
                await send(riva_asr_pb2.StreamingRecognizeRequest(audio_content=rest))
                self._moves()
            await self._call.done_writing()
            self.half_closed = True
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            pass
        except Exception as error:
            self._failure = error
            self._call.cancel()

    async def answer(self) -> Any:
        """The next response; None at the end of the stream. Raises AioRpcError, AsrError, what `audio` raised."""
        self._moved_s = self._now()
        try:
            async with asyncio.timeout(self._stall_s) as self._deadline:
                response = await self._call.read()
        except TimeoutError:
            self._connection.silent_since(self._moved_s)
            raise AsrError(
                f"the speech recogniser fell silent: nothing moved for {self._stall_s:g} s"
            ) from None
        except asyncio.CancelledError:
            reader = asyncio.current_task()
            if self._failure is None or (reader is not None and reader.cancelling()):
                raise
            raise self._failure from None
        finally:
            self._deadline = None
        if response is grpc.aio.EOF:
            return None
        self._connection.heard()
        if response is None:  # gRPC's word for bytes that it cannot parse
            raise AsrError("what the speech recogniser sent is not the Riva ASR API")
        return response

    def _moves(self) -> None:
        self._moved_s = self._now()
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(self._moved_s + self._stall_s)


def _passages(response: Any) -> list[Passage]:
    """The finals of a response, and what its partials make together."""
    found: list[Passage] = []
    interim = stable = ""
    partial, processed_s = False, 0.0
    for result in response.results:
        if not result.alternatives:
            continue
        best = result.alternatives[0]
        processed_s = result.audio_processed
        if result.is_final:
            words = tuple(HeardWord(w.word, w.start_time, w.end_time) for w in best.words)
            confidence = max(0.0, min(best.confidence, 1.0))
            found.append(Passage(best.transcript.strip(), True, 0, words, confidence, processed_s))
        else:
            partial = True
            if result.stability >= _STABLE and stable == interim:
                stable += best.transcript
            interim += best.transcript
    if partial:
        text = interim.strip()
        found.append(Passage(text, False, min(len(stable.strip()), len(text)), processed_s=processed_s))
    return found


def _language(wanted: str, usual: str) -> str:
    """BCP-47: a bare language takes the usual region where that is the same language."""
    if not wanted:
        return usual
    return usual if "-" not in wanted and usual.lower().split("-")[0] == wanted.lower() else wanted
