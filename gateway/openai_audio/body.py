"""Request bodies: read as they come, no more than may come, and not for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from gateway.openai_audio.answers import Gone
from gateway.openai_audio.errors import SERVER, ApiError, bad

_MOST_FIELDS = 64
_LONGEST_FIELD = 256 * 1024
_AROUND_FILE = 512 * 1024
"""Bytes of an upload that are not its file."""
_DRAIN_S, _DRAIN_BYTES = 5.0, 256 * 2**20


async def json_object(request: Request, *, most: int, stall_s: float) -> dict[str, Any]:
    """Raises ApiError, Gone."""
    _need(request, "application/json")
    parts = [part async for part in _read(request, most, stall_s)]
    try:
        body = json.loads(b"".join(parts))
        # Half of a surrogate pair is valid JSON, and no text: it could be neither spoken nor answered.
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise bad(
            "We could not parse the JSON body of your request: send a JSON object, such as "
            '{"model": "tts-1", "voice": "default", "input": "Hello."}.'
        ) from None
    if not isinstance(body, dict):
        raise bad("The body of the request must be a JSON object.")
    return body


async def form(request: Request, *, most: int, stall_s: float) -> FormData:
    """A multipart form with one file; `close()` it. most: bytes of the file. Raises ApiError, Gone."""
    _need(request, "multipart/form-data")
    parser = MultiPartParser(
        request.headers,
        _read(request, most, stall_s, around=_AROUND_FILE),
        max_files=1,
        max_fields=_MOST_FIELDS,
        max_part_size=_LONGEST_FIELD,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise bad(f"The multipart form cannot be read: {error.message.rstrip('.')}.") from None


async def drain(request: Request) -> None:
    """Takes what a client is still sending, so that it then reads our answer; for a while."""
    left = _DRAIN_BYTES
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for part in request.stream():
                left -= len(part)
                if left < 0:
                    return
    except (TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: somebody has read it all
        pass


async def _read(
    request: Request, most: int, stall_s: float, *, around: int = 0
) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most + around:
        raise _too_large(most, int(declared))
    count = 0
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(stall_s):
                part = await anext(stream, None)
        except TimeoutError:
            raise ApiError(
                408, f"The request did not arrive: nothing came for {stall_s:g} s.", code="timeout"
            ) from None
        except ClientDisconnect:
            raise Gone from None
        if part is None:
            return
        count += len(part)
        if count > most + around:
            raise _too_large(most, count)
        if part:
            yield part


def _need(request: Request, media_type: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != media_type:
        raise ApiError(
            415,
            f"Unsupported content type '{given[:100]}': send the request as {media_type}.",
            code="unsupported_content_type",
        )


def _too_large(most: int, count: int) -> ApiError:
    return ApiError(413, f"Maximum content size limit ({most}) exceeded ({count} bytes read)", kind=SERVER)
