"""The recogniser behind any Riva-compatible gRPC endpoint: ours, NVIDIA Riva, a Riva NIM.

One StreamingRecognize call per utterance. Where the service ends utterances on its own, its finals
are joined, since the end of a turn is the session's decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import numpy as np
from riva.client.proto import riva_asr_pb2, riva_asr_pb2_grpc, riva_audio_pb2

from gateway.http2.client_call import StreamCall
from gateway.listen.asr import RATE, AsrError, HeardWord, Hypothesis
from gateway.settings import AsrSettings, call_metadata
from gateway.telemetry.context import call_context
from gateway.tls.client import client_security
from gateway.triton.channel import open_stream_channel
from gateway.triton.errors import TritonUnavailable
from gateway.triton.fronts import Fronts, status_of
from gateway.triton.line import Connection
from gateway.triton.routing.addresses import Resolve, resolve_host

_CHECK_S = 2.0
_LOUD_SQUARE = (10 ** (-45.0 / 20) * 32768) ** 2
"""Audio with a mean square above this (−45 dBFS) may be speech and deserves an answer."""
_NEVER = float("inf")
_STABLE = 0.8
"""Riva marks the part of a partial that will not change with a stability near 1."""
_HINT_BOOST = 10.0
_WHOLE_STREAM = ("parley.endpointing", "off")
"""Asks Parley's own server to leave the end of the utterance to us; others pass over it."""
_HOPELESS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
)


class RivaRecognizer:
    """One channel for each address of the service, for all sessions of the process."""

    def __init__(self, settings: AsrSettings, *, resolve: Resolve = resolve_host) -> None:
        """Raises: TritonError for addresses that are none."""
        self._settings = settings
        self._fronts = asr_fronts(settings, resolve)
        self._metadata = call_metadata(settings)
        self._knows_keys = True

    async def recognize(
        self, audio: AsyncIterator[bytes], *, language: str, hints: Sequence[str] = ()
    ) -> AsyncGenerator[Hypothesis, None]:
        """See `Recognizer.recognize`; `language` empty means the one in the settings."""
        heard = _Heard()
        try:
            async with self._fronts.call() as connection:
                call = connection.stubs.StreamingRecognize(metadata=[*self._metadata, *call_context()])
                feed = _Feed(call, connection, self._settings)
                config = riva_asr_pb2.StreamingRecognizeRequest(
                    streaming_config=self._config(language or self._settings.language, hints)
                )
                writer = asyncio.create_task(feed.run(config, audio))
                try:
                    while (response := await feed.answer()) is not None:
                        partial = heard.add(response)
                        # After the end of audio a complete text is the final, which follows at once.
                        if partial is not None and not (
                            feed.half_closed and partial.stable == len(partial.text)
                        ):
                            yield partial
                    if not feed.half_closed:
                        raise AsrError("the speech recogniser ended the stream before the audio did")
                finally:
                    feed.close()
                    call.cancel()
                    writer.cancel()
                    await asyncio.wait([writer])
        except (grpc.aio.AioRpcError, TritonUnavailable) as error:
            raise self._error(error) from error
        yield heard.final()

    async def check(self) -> None:
        """Raises AsrError when no streaming recogniser answers within 2 s."""
        try:
            found = await streaming_models(self._fronts, self._settings, self._metadata)
        except (grpc.aio.AioRpcError, TritonUnavailable) as error:
            raise self._error(error) from error
        if not found:
            raise AsrError(f"the speech service at {self._settings.uri} has no streaming recogniser loaded")

    async def close(self) -> None:
        """Cancels what still runs."""
        await self._fronts.close()

    def _config(self, language: str, hints: Sequence[str]) -> riva_asr_pb2.StreamingRecognitionConfig:
        config = riva_asr_pb2.RecognitionConfig(
            encoding=riva_audio_pb2.AudioEncoding.LINEAR_PCM,
            sample_rate_hertz=RATE,
            language_code=language,
            max_alternatives=1,
            audio_channel_count=1,
            enable_word_time_offsets=True,
            enable_automatic_punctuation=True,
            model=self._settings.model,
        )
        # The gateway ends turns itself. Our server then leaves its own detector out; others ignore the key.
        if self._knows_keys:
            config.custom_configuration[_WHOLE_STREAM[0]] = _WHOLE_STREAM[1]
        if hints:
            config.speech_contexts.add(phrases=list(hints), boost=_HINT_BOOST)
        return riva_asr_pb2.StreamingRecognitionConfig(config=config, interim_results=True)

    def _error(self, error: grpc.aio.AioRpcError | TritonUnavailable) -> AsrError:
        uri = self._settings.uri
        code, details = status_of(error)
        if code is grpc.StatusCode.INVALID_ARGUMENT and self._knows_keys and "custom" in details.lower():
            self._knows_keys = False
            return AsrError(
                f"the speech recogniser at {uri} is asked again without custom_configuration", unwell=False
            )
        if "Unavailable model requested" in details:
            return AsrError(f"the speech service at {uri} has no such recogniser: {details}", retryable=False)
        if code is grpc.StatusCode.UNAVAILABLE:
            return AsrError(
                f"no speech recogniser answers at {uri}: start it, or set PARLEY_ASR__URI ({details})"
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return AsrError(f"the speech recogniser at {uri} did not answer in time")
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return AsrError(
                f"the speech recogniser at {uri} refused the credentials: set PARLEY_ASR__API_KEY",
                retryable=False,
            )
        return AsrError(
            f"the speech recogniser at {uri} failed: {details or code.name}", retryable=code not in _HOPELESS
        )


def asr_fronts(settings: AsrSettings, resolve: Resolve) -> Fronts[Any]:
    """The services that recognise, at the addresses of the settings. Raises: TritonError for addresses that are none."""
    security = client_security(settings.tls, "the Riva ASR", on=settings.ssl)
    return Fronts(
        settings.uri,
        riva_asr_pb2_grpc.RivaSpeechRecognitionStub,
        service=riva_asr_pb2.DESCRIPTOR.services_by_name["RivaSpeechRecognition"].full_name,
        dial=lambda address, name: open_stream_channel(address, security=security, name=name),
        resolve=resolve,
        version=None if security is None else security.version,
    )


async def streaming_models(
    fronts: Fronts[Any], settings: AsrSettings, metadata: Sequence[tuple[str, str]]
) -> list[Any]:
    """The recognisers that one of the services says it has, as Riva tells them, within 2 s.

    Raises: AioRpcError, TritonUnavailable.
    """
    async with fronts.call() as connection:
        response = await connection.stubs.GetRivaSpeechRecognitionConfig(
            riva_asr_pb2.RivaSpeechRecognitionConfigRequest(model_name=settings.model),
            metadata=metadata,
            timeout=_CHECK_S,
        )
    return [model for model in response.model_config if model.parameters.get("type", "online") == "online"]


class _Feed:
    """Audio into one call, and how long its answers may take.

    One timer watches everything that is waited for: one for each message would cost as much as the message."""

    def __init__(self, call: Any, connection: Connection[Any], settings: AsrSettings) -> None:
        self._call, self._connection = call, connection
        self._silence_s = settings.silence_ms / 1000
        self._final_s = settings.deadline_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._timer: asyncio.TimerHandle | None = None
        self._rings = _NEVER
        self._writing_since = _NEVER
        self._answer_due = _NEVER
        self._waited_since = 0.0
        self._unanswered: list[tuple[float, bytes]] = []
        """(loop time, audio) since the last answer, as long as that is little."""
        self._unanswered_s = 0.0
        self._loud_since = _NEVER
        self._loud_s = 0.0
        self._failure: BaseException | None = None
        self.half_closed = False

    async def run(self, config: riva_asr_pb2.StreamingRecognizeRequest, audio: AsyncIterator[bytes]) -> None:
        """The writer's task: ends with the audio, or with the call, whose status the reader reports."""
        try:
            self._writes()
            await self._call.wait_for_connection()
            send = writer_of(self._call)
            await send(config)
            self._writing_since = _NEVER
            async for chunk in audio:
                if chunk:
                    if self._answer_due == _NEVER:
                        self._note(chunk)
                    message = riva_asr_pb2.StreamingRecognizeRequest(audio_content=chunk)
                    self._writes()
                    await send(message)
                    self._writing_since = _NEVER
            await self._call.done_writing()
            self.half_closed = True
            self._expect_answer(self._now(), self._final_s)
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            pass
        except Exception as error:
            self._fail(error)
        finally:
            self._writing_since = _NEVER

    async def answer(self) -> riva_asr_pb2.StreamingRecognizeResponse | None:
        """The next response; None at the end of the stream. Raises AioRpcError, AsrError."""
        try:
            response = await self._call.read()
        except asyncio.CancelledError:
            reader = asyncio.current_task()
            if self._failure is None or (reader is not None and reader.cancelling()):
                raise
            raise self._failure from None
        if response is grpc.aio.EOF:
            return None
        self._connection.heard()
        if response is None:  # gRPC's word for bytes that it cannot parse
            raise AsrError("what the speech recogniser sent is not the Riva ASR API")
        self._unanswered.clear()
        self._unanswered_s = self._loud_s = 0.0
        self._loud_since = _NEVER
        if not self.half_closed:
            self._answer_due = _NEVER
        return response

    def close(self) -> None:
        """Nobody waits for anything any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _writes(self) -> None:
        self._writing_since = now = self._now()
        if self._rings == _NEVER:
            self._ring_at(now + self._silence_s)

    def _note(self, chunk: bytes) -> None:
        """Noise and pauses need no answer; much loud audio without one for `silence_ms` is a dead service.

        Answers come every few chunks, and then nobody need know how loud those were."""
        self._unanswered.append((self._now(), chunk))
        self._unanswered_s += len(chunk) / (2 * RATE)
        if self._unanswered_s >= self._silence_s / 2:
            for since, unanswered in self._unanswered:
                self._count(since, unanswered)
            self._unanswered.clear()
            if self._loud_s >= self._silence_s / 2:
                self._expect_answer(self._loud_since, self._silence_s)

    def _count(self, since: float, chunk: bytes) -> None:
        samples = np.frombuffer(chunk, "<i2", len(chunk) // 2).astype(np.float32)
        if float(np.dot(samples, samples)) >= _LOUD_SQUARE * samples.size:
            self._loud_since = min(self._loud_since, since)
            self._loud_s += len(chunk) / (2 * RATE)

    def _expect_answer(self, since: float, wait_s: float) -> None:
        self._waited_since, self._answer_due = since, since + wait_s
        if self._answer_due < self._rings:
            self._ring_at(self._answer_due)

    def _ring_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = at
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer, self._rings = None, _NEVER
        now = self._now()
        if now >= self._answer_due:
            late = "no final transcript" if self.half_closed else "nothing"
            self._silent(self._waited_since, f"{late} within the deadline")
        elif now >= self._writing_since + self._silence_s:
            self._silent(self._writing_since, "it takes no more audio")
        elif (due := min(self._answer_due, self._writing_since + self._silence_s)) != _NEVER:
            self._ring_at(due)

    def _silent(self, since: float, what: str) -> None:
        self._connection.silent_since(since)
        self._fail(AsrError(f"the speech recogniser fell silent: {what}"))

    def _fail(self, error: BaseException) -> None:
        """The reader, which alone speaks to the session, raises it."""
        self._failure = error
        self._call.cancel()


def writer_of(call: Any) -> Callable[[Any], Awaitable[None]]:
    """Writes messages into a call; AioRpcError and the like when it has ended."""
    if isinstance(call, StreamCall):
        return call.write

    async def write(message: Any) -> None:
        # Not grpc.aio's `write`: into a call that has just failed it would put "Internal error from Core"
        # in the place of the server's own status, which the reader is about to get.
        await call._cython_call.send_serialized_message(message.SerializeToString())

    return write


class _Heard:
    """Everything one call has recognised."""

    def __init__(self) -> None:
        self._finals: list[str] = []
        self._interim = ""
        self._words: list[HeardWord] = []
        self._last: Hypothesis | None = None

    def add(self, response: riva_asr_pb2.StreamingRecognizeResponse) -> Hypothesis | None:
        """The new partial, if the response changed anything."""
        interim, stable = "", ""
        for result in response.results:
            if not result.alternatives:
                continue
            best = result.alternatives[0]
            if result.is_final:
                interim = stable = ""
                if best.transcript.strip():
                    self._finals.append(best.transcript.strip())
                self._words += [HeardWord(w.word, w.start_time, w.end_time) for w in best.words]
            else:
                if result.stability >= _STABLE and stable == interim:
                    stable += best.transcript
                interim += best.transcript
        if response.results:
            self._interim = interim
        partial = Hypothesis(
            self._joined(self._interim), False, len(self._joined(stable)), tuple(self._words)
        )
        if partial == self._last or (self._last is None and not partial.text):
            return None
        self._last = partial
        return partial

    def final(self) -> Hypothesis:
        """What no final covered is kept as its last partial had it."""
        text = self._joined(self._interim)
        return Hypothesis(text, True, len(text), tuple(self._words))

    def _joined(self, tail: str) -> str:
        tail = tail.strip()
        return " ".join([*self._finals, tail] if tail else self._finals) if self._finals else tail
