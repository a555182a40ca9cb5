"""HTTP as a pull needs it: redirects by hand, a token for one host only, failures as sentences.

Proxies come from HTTP_PROXY, HTTPS_PROXY and NO_PROXY (aiohttp's `trust_env`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from gateway import __version__
from gateway.triton.pulling.errors import PullError, Unreachable
from gateway.triton.pulling.plan import without_secrets
from gateway.triton.pulling.retry import Again, Retry, Sleep

HUB = "https://huggingface.co"
CONNECT_S = 15.0
READ_S = 30.0
"""Longest silence in the middle of a transfer."""
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 10
_MAX_JSON = 32 << 20
_MAX_TEXT = 256 << 10
_LATER = (408, 425, 429, 500, 502, 503, 504)


class Web:
    """`async with Web.from_environment() as web: …`"""

    def __init__(
        self,
        *,
        endpoint: str = HUB,
        token: str = "",
        offline: bool = False,
        sleep: Sleep = asyncio.sleep,
        read_s: float = READ_S,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """endpoint: of the hub, the only place that ever sees `token`. Raises: PullError."""
        split = urlsplit(endpoint)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise PullError(f"HF_ENDPOINT is {without_secrets(endpoint)!r}, which is no http(s) address")
        self.endpoint = endpoint.rstrip("/")
        self.offline = offline
        self._token, self._sleep, self._read_s, self.say = token, sleep, read_s, say
        self._session: aiohttp.ClientSession | None = None
        self._answered: set[tuple[str, str, int]] = set()

    @classmethod
    def from_environment(cls, *, say: Callable[[str], None] | None = None) -> Web:
        """HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, as huggingface_hub reads them."""
        return cls(
            endpoint=os.environ.get("HF_ENDPOINT") or HUB,
            token=os.environ.get("HF_TOKEN", "").strip(),
            offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
            say=say,
        )

    @property
    def has_token(self) -> bool:
        return bool(self._token)

    async def __aenter__(self) -> Web:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._read_s)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            trust_env=True,
            auto_decompress=False,
            headers={"User-Agent": f"parley/{__version__}"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def retry(self) -> Retry:
        return Retry(self._sleep, say=self.say)

    def answered(self, url: str) -> bool:
        """Whether the host of `url` has answered anything yet."""
        return _origin(url) in self._answered

    @asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One try: the answer after all redirects, 200 or 206, its body still to come; also 416 to a Range.

        Raises: Again where another try may help; PullError.
        """
        assert self._session is not None
        if self.offline:
            raise Unreachable(f"{_host(url)} was not asked: HF_HUB_OFFLINE is set")
        try:
            for _ in range(_MAX_REDIRECTS):
                given = {"Accept-Encoding": "identity", **(headers or {})}
                if self._token and _origin(url) == _origin(self.endpoint):
                    given["Authorization"] = f"Bearer {self._token}"
                async with self._session.get(url, headers=given, allow_redirects=False) as answer:
                    self._answered.add(_origin(url))
                    if answer.status not in _REDIRECTS or "Location" not in answer.headers:
                        self._check(url, answer, ranged="Range" in given)
                        yield answer
                        return
                    url = _next(url, answer.headers["Location"])
            raise PullError(f"{_host(url)} redirects without end")
        except aiohttp.InvalidURL:
            raise PullError(f"{without_secrets(url)} is no address") from None
        except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as error:
            raise PullError(f"{_host(url)} has no certificate that is trusted here ({_why(error)})") from None
        except aiohttp.ClientHttpProxyError as error:
            raise PullError(
                f"the proxy refused {_host(url)} ({error.status} {error.message}); see HTTPS_PROXY"
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise Again(Unreachable(_offline(url, _why(error), self.endpoint))) from None
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            why = "nothing came for a while" if isinstance(error, TimeoutError) else "the connection was cut"
            raise Again(Unreachable(f"{_host(url)}: {why}")) from None

    async def json(self, url: str) -> Any:
        """Raises: PullError."""
        body = await self.body(url, _MAX_JSON)
        try:
            return json.loads(body)
        except ValueError:
            raise PullError(f"{_host(url)} did not answer with JSON: is it a Hugging Face hub?") from None

    async def text(self, url: str) -> str:
        """The beginning of a text file. Raises: PullError."""
        return (await self.body(url, _MAX_TEXT, cut=True)).decode("utf-8", "replace")

    async def body(self, url: str, most: int, *, cut: bool = False) -> bytes:
        """With retries. cut: of a longer one the beginning. Raises: PullError."""
        retry = self.retry()
        while True:
            try:
                async with self.get(url) as answer:
                    got = bytearray()
                    async for piece in answer.content.iter_chunked(1 << 16):
                        got += piece
                        if len(got) > most:
                            if cut:
                                return bytes(got[:most])
                            raise PullError(f"the answer of {_host(url)} is longer than any such answer is")
                    return bytes(got)
            except Again as failed:
                await retry.after(failed, answered=self.answered(url))

    def _check(self, url: str, answer: aiohttp.ClientResponse, *, ranged: bool) -> None:
        """Raises: Again, PullError."""
        status, code = answer.status, answer.headers.get("X-Error-Code", "")
        if status in (200, 206) or (status == 416 and ranged):
            return
        if status in _LATER:
            raise Again(
                PullError(f"{_host(url)} answered {status} {answer.reason}"),
                _seconds(answer.headers.get("Retry-After")),
            )
        name = without_secrets(url)
        hint = "the HF_TOKEN that is set does not help" if self._token else "set HF_TOKEN"
        at_hub = _origin(url) == _origin(self.endpoint)
        if code == "GatedRepo":
            raise PullError(
                f"{_page(url, self.endpoint)} is gated: accept its terms there with an account, and {hint}"
            )
        if code == "RevisionNotFound":
            raise PullError(f"there is no such revision: {name}")
        if at_hub and (code == "RepoNotFound" or status == 401):
            raise PullError(f"there is no {_page(url, self.endpoint)}, or it is private: {hint}")
        if status in (401, 403):
            raise PullError(
                f"{_host(url)} does not allow {name} ({status})" + (f": {hint}" if at_hub else "")
            )
        if status in (404, 410):
            raise PullError(f"{name} does not exist ({status})")
        raise PullError(f"{name}: the server answered {status} {answer.reason}")


def _next(url: str, location: str) -> str:
    """Raises: PullError."""
    target = urljoin(url, location)
    split = urlsplit(target)
    if split.scheme not in ("http", "https"):
        raise PullError(f"{_host(url)} redirects to {split.scheme}:, which is no http(s) address")
    if urlsplit(url).scheme == "https" and split.scheme == "http":
        raise PullError(
            f"{_host(url)} redirects from https to http ({split.hostname}), which anybody could have changed"
        )
    return target


def _origin(url: str) -> tuple[str, str, int]:
    split = urlsplit(url)
    return (
        split.scheme,
        (split.hostname or "").lower(),
        split.port or (443 if split.scheme == "https" else 80),
    )


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2] or url


def _page(url: str, endpoint: str) -> str:
    """The repository's page, of any address in it."""
    parts = urlsplit(url).path.removeprefix(urlsplit(endpoint).path).strip("/").split("/")
    parts = parts[2:] if parts[:2] == ["api", "models"] else parts
    return f"{without_secrets(endpoint)}/{'/'.join(parts[:2])}"


def _offline(url: str, why: str, endpoint: str) -> str:
    where = " or HF_ENDPOINT" if _origin(url) == _origin(endpoint) else ""
    return f"{_host(url)} cannot be reached ({why}): check the network, HTTPS_PROXY{where}"


def _why(error: BaseException) -> str:
    """The system's words, without addresses and numbers."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known here"
    inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    said = getattr(inner, "strerror", None) or str(inner)
    if isinstance(inner, OSError) and inner.errno and "Connect call failed" in said:
        said = os.strerror(inner.errno)
    return said.splitlines()[0].strip().lower()[:120] if said else type(inner).__name__


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; its form as a date is not used here."""
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None
