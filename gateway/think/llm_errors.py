"""What went wrong with a language model, in one sentence that says what to do."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

import openai

_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
_MAX_QUOTE = 200


class EndedEarly(Exception):
    """The stream ended cleanly, the reply did not. `str()` completes "The LLM …"."""


def shown_url(url: str) -> str:
    """The URL as it may be shown: without user, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def is_retryable(error: Exception) -> bool:
    """Whether another try, before any token came, can end differently."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code >= 500 or error.status_code in _RETRYABLE_STATUS
    return True


def retry_after_s(error: Exception) -> float:
    """Seconds the server asked to wait; 0 when it did not say."""
    if isinstance(error, openai.APIStatusError):
        try:
            return max(0.0, float(error.response.headers.get("retry-after", 0)))
        except ValueError:
            pass  # a date; our own backoff does
    return 0.0


def describe(error: Exception, *, url: str, model: str, secret: str, started: bool) -> str:
    """Fit for the client: no secret, no traceback. `started`: part of the reply came."""
    llm = f"The LLM at {url}"
    if isinstance(error, EndedEarly):
        return f"{llm} {error}."
    if isinstance(error, openai.APIStatusError):
        return f"{llm} {_describe_status(error, model, secret)}"
    if started:
        if isinstance(error, openai.APIConnectionError | OSError):
            return f"{llm} broke off in the middle of a reply."
        return f"{llm} failed in the middle of a reply: {_kind(error, secret)}"
    if isinstance(error, openai.APIConnectionError | OSError):
        return f"{llm} cannot be reached; check that it runs and that PARLEY_LLM__BASE_URL is right."
    return f"{llm} failed: {_kind(error, secret)}"


def _describe_status(error: openai.APIStatusError, model: str, secret: str) -> str:
    status = error.status_code
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
    return f"refused the request ({status}): {_quote(error.message, secret)}"


def _kind(error: Exception, secret: str) -> str:
    if isinstance(error, openai.APIError):
        return _quote(error.message, secret)
    return "it sent something that is not the OpenAI chat API."


def _quote(text: str, secret: str) -> str:
    text = " ".join(text.split())
    if secret:
        text = text.replace(secret, "…")
    return text[:_MAX_QUOTE].rstrip(".") + "."
