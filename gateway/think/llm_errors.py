"""What went wrong with a language model, in one sentence that says what to do."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

import aiohttp

from gateway.telemetry.redaction import MASK, redacted

_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
_MAX_QUOTE = 200


class EndedEarly(Exception):
    """The stream ended cleanly, the reply did not. `str()` completes "The LLM …"."""


class FailedInStream(Exception):
    """The server said so in the middle of a stream; `str()` is its own message."""


class RefusedRequest(Exception):
    """An answer with an HTTP error status; `str()` is the server's own message."""

    def __init__(self, status: int, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.retry_after_s = status, retry_after_s


def shown_url(url: str) -> str:
    """The URL as it may be shown: without user, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def is_retryable(error: Exception) -> bool:
    """Whether another try, before any token came, can end differently."""
    if isinstance(error, RefusedRequest):
        return error.status >= 500 or error.status in _RETRYABLE_STATUS
    return not isinstance(error, aiohttp.InvalidURL)


def retry_after_s(error: Exception) -> float:
    """Seconds the server asked to wait; 0 when it did not say."""
    return error.retry_after_s if isinstance(error, RefusedRequest) else 0.0


def is_lost_connection(error: Exception) -> bool:
    """The connection was there and is gone: as a rule one that the server had grown tired of keeping."""
    return isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError | BrokenPipeError) or (
        isinstance(error, aiohttp.ClientOSError) and not isinstance(error, aiohttp.ClientConnectorError)
    )


def describe(error: Exception, *, url: str, model: str, secret: str, started: bool) -> str:
    """Fit for the client: no secret, no traceback. `started`: part of the reply came."""
    llm = f"The LLM at {url}"
    if isinstance(error, EndedEarly):
        return f"{llm} {error}."
    if isinstance(error, RefusedRequest):
        return f"{llm} {_describe_status(error, model, secret)}"
    is_connection = isinstance(error, OSError | aiohttp.ClientConnectionError | aiohttp.InvalidURL)
    if started:
        if is_connection or isinstance(error, aiohttp.ClientPayloadError):
            return f"{llm} broke off in the middle of a reply."
        return f"{llm} failed in the middle of a reply: {_kind(error, secret)}"
    if is_connection:
        return f"{llm} cannot be reached; check that it runs and that PARLEY_LLM__BASE_URL is right."
    return f"{llm} failed: {_kind(error, secret)}"


def _describe_status(error: RefusedRequest, model: str, secret: str) -> str:
    status = error.status
    if status in (401, 403):
        return f"refused the API key ({status}); set PARLEY_LLM__API_KEY."
    if status == 404:
        return (
            f"does not know the model {model!r} or the path (404); "
            "check PARLEY_LLM__MODEL and that PARLEY_LLM__BASE_URL ends in /v1."
        )
    if status == 429:
        return "is over its rate limit or quota (429); try again later."
    if status >= 500:
        return f"failed by itself ({status}); see its log."
    return f"refused the request ({status}): {_quote(str(error), secret)}"


def _kind(error: Exception, secret: str) -> str:
    if isinstance(error, FailedInStream):
        return _quote(str(error), secret)
    if isinstance(error, aiohttp.ClientPayloadError):
        return "it broke off before a word."
    return "it sent something that is not the OpenAI chat API."


def _quote(text: str, secret: str) -> str:
    text = redacted(" ".join(text.split()) or "it did not say why")
    if secret:
        text = text.replace(secret, MASK)
    return text[:_MAX_QUOTE].rstrip(".") + "."
