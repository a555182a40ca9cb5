"""The public keys of a tokens' issuer (RFC 7517): from a URL, a file, or what the issuer's discovery document names.

What is fetched is kept, and kept on while the issuer is away. It is fetched again when it is old, in the
background, and when a token names a key that is not in it, but never often: a caller who invents key ids must not
make us ask the issuer for each.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import jwt

from gateway.identity.caller import Denied

log = logging.getLogger(__name__)

FETCH_S = 4.0
"""Deadline of a fetch, discovery included."""
AGAIN_S = 10.0
"""Between a fetch and the next one for an unknown key id."""
FAILED_S = 2.0
"""Between a fetch that failed and the next one, while there are no keys at all."""
OLD_S = 300.0
_MOST_BYTES = 256 * 1024
ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Asymmetric ones only: what verifies a token must not be able to make one."""
_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


class KeySet:
    """Belongs to one event loop."""

    def __init__(self, issuer: str, source: str, clock: Callable[[], float]) -> None:
        """source: URL or path; "" asks `issuer`/.well-known/openid-configuration. clock: the loop's."""
        self._issuer, self._source, self._clock = issuer, source, clock
        self._found: list[dict[str, Any]] | None = None
        self._made: dict[tuple[int, str], jwt.PyJWK] = {}
        self._tried_at = self._fetched_at = float("-inf")
        self._problem = ""
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        """The key that a token's header names. Raises Denied: `token` for an unknown one, `unavailable`."""
        now = self._clock()
        if self._found is None:
            if now - self._tried_at >= FAILED_S or self._fetching is not None:
                await self._fetch()
            if self._found is None:
                raise Denied(
                    "unavailable",
                    f"the token cannot be checked, since its issuer's keys cannot be had: {self._problem}; "
                    "try again shortly, or use an API key",
                    retry_after_s=FAILED_S,
                )
        elif now - self._fetched_at >= OLD_S and now - self._tried_at >= AGAIN_S:
            self._begin()  # nobody waits for it
        found = self._named(kid, algorithm)
        if found is None and (now - self._tried_at >= AGAIN_S or self._fetching is not None):
            await self._fetch()
            found = self._named(kid, algorithm)
        if found is None:
            raise Denied("token", "the token is signed with a key that its issuer does not publish")
        return found

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    def _named(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        fit = [
            (at, one)
            for at, one in enumerate(self._found or ())
            if one.get("kty") == _KINDS[algorithm[:2]]
            and one.get("use", "sig") == "sig"
            and one.get("alg", algorithm) == algorithm
            and (kid is None or one.get("kid") == kid)
        ]
        if len(fit) != 1:  # a token that names none is clear only where there is but one
            return None
        at, one = fit[0]
        try:
            if (at, algorithm) not in self._made:
                self._made[at, algorithm] = jwt.PyJWK(one, algorithm)
            return self._made[at, algorithm]
        except jwt.PyJWTError:
            return None

    # ---- fetching ---------------------------------------------------------------------------------

    def _begin(self) -> asyncio.Task[None]:
        """One at a time, for any number of callers."""
        if self._fetching is None:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch_now())
            self._fetching.add_done_callback(self._fetch_is_over)
        return self._fetching

    async def _fetch(self) -> None:
        await asyncio.wait({self._begin()})

    def _fetch_is_over(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._problem = f"it failed ({type(error).__name__})"
            log.error("fetching the keys of %s failed", self._issuer, exc_info=error)

    async def _fetch_now(self) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                found = _keys_of(await self._load())
        except TimeoutError:
            self._problem = f"it did not answer within {FETCH_S:g} s"
        except (aiohttp.ClientError, OSError) as error:
            self._problem = f"it cannot be reached ({type(error).__name__})"
        except ValueError as error:
            self._problem = str(error)
        else:
            self._found, self._made, self._problem = found, {}, ""
            self._fetched_at = self._clock()
            return
        log.warning("no keys of the issuer %s: %s", self._issuer, self._problem)

    async def _load(self) -> object:
        source = self._source
        if source and "://" not in source:
            return _parsed(await asyncio.to_thread(_bytes_of, Path(source)))
        async with aiohttp.ClientSession() as http:
            if not source:
                found = await _get(http, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
                if not isinstance(found, dict) or found.get("issuer") != self._issuer:
                    raise ValueError("its openid-configuration is of another issuer; check auth.jwt_issuer")
                source = str(found.get("jwks_uri", ""))
                if "://" not in source:
                    raise ValueError("its openid-configuration names no jwks_uri; set auth.jwks")
            return await _get(http, source)


async def _get(http: aiohttp.ClientSession, url: str) -> object:
    async with http.get(url, allow_redirects=False, headers={"accept": "application/json"}) as answer:
        if answer.status != 200:
            raise ValueError(f"it answered with status {answer.status}")
        body = b""
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > _MOST_BYTES:
                raise ValueError(f"its answer has more than {_MOST_BYTES >> 10} KiB")
    return _parsed(body)


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES)


def _parsed(raw: bytes) -> object:
    try:
        found: object = json.loads(raw)
    except ValueError:
        raise ValueError("its answer is no JSON") from None
    return found


def _keys_of(document: object) -> list[dict[str, Any]]:
    """Raises ValueError."""
    found = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise ValueError("its answer is no JSON Web Key Set")
    return [one for one in found if isinstance(one, dict)]
