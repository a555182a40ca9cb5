"""POST /v1/audio/transcriptions: a recording to text, whole or as it is recognised."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from gateway.listen.asr import AsrError
from gateway.listen.transcriber import AsrModel, Passage, Transcriber, Wanted
from gateway.openai_audio import transcripts
from gateway.openai_audio.errors import of_recognition
from gateway.openai_audio.transcription_request import Transcription
from gateway.openai_audio.upload import Recording

_TOKENS_PER_S = 10
"""Of a recording, in `usage`: one for every 100 ms."""
_TEXT_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


class Transcribing:
    """One request, with what is used of the settings."""

    def __init__(
        self,
        asked: Transcription,
        model: AsrModel | None,
        recording: Recording,
        transcriber: Transcriber,
        *,
        usual_language: str,
    ) -> None:
        """model: None for the configured one. recording: open."""
        self._asked, self._recording, self._transcriber = asked, recording, transcriber
        self._language = asked.language or usual_language
        if not asked.language and model and model.languages and usual_language not in model.languages:
            self._language = model.languages[0]
        self._wanted = Wanted(
            language=self._language,
            model=model.name if model else "",
            hints=asked.hints,
            partials=asked.stream,
            pause_ms=asked.pause_ms,
        )

    async def answer(self) -> Response:
        """Raises ApiError."""
        async with aclosing(self._passages()) as passages:
            finals = [passage async for passage in passages if passage.final]
        asked, seconds = self._asked, self._recording.seconds
        match asked.form:
            case "json":
                return JSONResponse(
                    {"text": transcripts.whole_text(finals), "usage": transcripts.usage(seconds)}
                )
            case "verbose_json":
                body = transcripts.verbose(
                    finals,
                    language=self._language,
                    seconds=seconds,
                    temperature=asked.temperature,
                    with_words=asked.words,
                    with_segments=asked.segments,
                )
                return JSONResponse(body)
            case "srt":
                text = transcripts.srt(finals)
            case "vtt":
                text = transcripts.vtt(finals)
            case _:
                text = transcripts.whole_text(finals) + "\n"
        return PlainTextResponse(text, media_type=_TEXT_TYPES[asked.form])

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Deltas of what will not change, then the whole text. `usage` counts words, and sound by the 100 ms.

        Raises ApiError.
        """
        finals: list[Passage] = []
        told = _Told()
        async with aclosing(self._passages()) as passages:
            async for passage in passages:
                if passage.final:
                    finals.append(passage)
                if delta := told.add(passage):
                    yield {"type": "transcript.text.delta", "delta": delta}
        text = transcripts.whole_text(finals)
        sounds, words = math.ceil(self._recording.seconds * _TOKENS_PER_S), len(text.split())
        usage = {
            "type": "tokens",
            "input_tokens": sounds,
            "input_token_details": {"audio_tokens": sounds, "text_tokens": 0},
            "output_tokens": words,
            "total_tokens": sounds + words,
        }
        yield {"type": "transcript.text.done", "text": text, "usage": usage}

    async def _passages(self) -> AsyncGenerator[Passage, None]:
        try:
            async with aclosing(
                self._transcriber.transcribe(self._recording.pieces(), self._wanted)
            ) as passages:
                async for passage in passages:
                    yield passage
        except AsrError as error:
            raise of_recognition(error) from error


class _Told:
    """What a client has been told: deltas that make the whole text when they are joined."""

    def __init__(self) -> None:
        self._any = False
        self._passage = ""
        """Of the passage that goes on."""

    def add(self, passage: Passage) -> str:
        """What is new and certain, in whole words; often nothing."""
        before = self._passage
        if passage.final:
            self._passage = ""
            rest = passage.text.removeprefix(before)
            if (
                rest == passage.text and before
            ):  # the final has other words: those told stay, the later ones come
                rest = "".join(f" {word}" for word in passage.text.split()[len(before.split()) :])
        else:
            certain = passage.text[: passage.stable]
            if passage.stable < len(passage.text) and not passage.text[passage.stable].isspace():
                certain = certain.rpartition(" ")[0]
            certain = certain.rstrip()
            if not certain.startswith(before) or certain == before:
                return ""
            rest, self._passage = certain[len(before) :], certain
        if rest and not before and self._any:
            rest = f" {rest}"
        self._any = self._any or bool(rest)
        return rest
