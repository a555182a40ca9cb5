"""Tokens (JWT, RFC 7519) of one issuer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import jwt

from gateway.identity.caller import SCOPES, Caller, Denied
from gateway.identity.key_set import ALGORITHMS, KeySet

DEFAULT_AUDIENCE = "parley"
_LONGEST = 12 * 1024
_LONGEST_SUBJECT = 128
_WHOSE = ("sub", "client_id", "azp")
"""The first of these claims that is there names the caller."""


class Tokens:
    """Checks them; belongs to one event loop."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        key_source: str,
        scope_claim: str,
        leeway_s: float,
        clock: Callable[[], float],
    ) -> None:
        """As `AuthSettings` has them. clock: the loop's, for the fetching of keys; a token's times are the system's."""
        self._issuer, self._audience = issuer, audience or DEFAULT_AUDIENCE
        self._scope_claim, self._leeway_s = scope_claim, leeway_s
        self._keys = KeySet(issuer, key_source, clock)

    async def caller(self, token: str) -> Caller:
        """Raises Denied."""
        algorithm, kid = self._header(token)
        key = await self._keys.key(kid, algorithm)
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise _denied(error, self._audience) from None
        claim = next((name for name in _WHOSE if claims.get(name)), None)
        if claim is None:
            raise Denied("token", "the token has no `sub`, which it must have: it says whose it is")
        subject = str(claims[claim])
        name = "".join(letter if letter.isprintable() else "?" for letter in subject[:_LONGEST_SUBJECT])
        # Two subjects never have one id: by it limits count, and sessions are told apart.
        unmistakable = claim == "sub" and name == subject
        own = subject if unmistakable else hashlib.sha256(f"{claim}\0{subject}".encode()).hexdigest()
        return Caller(name, f"jwt:{own}", self._scopes(claims))

    async def close(self) -> None:
        await self._keys.close()

    def _header(self, token: str) -> tuple[str, str | None]:
        """Algorithm and key id. What needs no signature to be refused never makes us ask the issuer."""
        if len(token) > _LONGEST:
            raise Denied("token", f"the token has more than {_LONGEST} characters: ask for a smaller one")
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            raise Denied("token", "the token is no JWT: send it as its issuer gave it out") from None
        if claims.get("iss") != self._issuer:
            raise Denied(
                "issuer", f"the token is of another issuer: this server takes those of {self._issuer}"
            )
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise Denied("token", f"the token's algorithm is not taken: sign it with {', '.join(ALGORITHMS)}")
        return str(algorithm), None if kid is None else str(kid)

    def _scopes(self, claims: dict[str, Any]) -> frozenset[str]:
        """A list, or one text with spaces; `parley:voice` means `voice`, for issuers that serve others as well."""
        given = claims.get(self._scope_claim, "")
        words = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
        return frozenset(str(word).removeprefix("parley:") for word in words) & frozenset(SCOPES)


def _denied(error: jwt.PyJWTError, audience: str) -> Denied:
    match error:
        case jwt.ExpiredSignatureError():
            return Denied("expired", "the token has expired: get a new one from its issuer")
        case jwt.ImmatureSignatureError():
            return Denied(
                "token", "the token is not good yet: check the clocks of its issuer and of this server"
            )
        case jwt.InvalidAudienceError():
            return Denied("audience", f"the token is for others: its `aud` must hold {audience}")
        case jwt.MissingRequiredClaimError(claim=claim):
            return Denied(
                "audience" if claim == "aud" else "token", f"the token has no `{claim}`, which it must have"
            )
        case jwt.InvalidSignatureError():
            return Denied("token", "the token's signature is wrong: send it as its issuer gave it out")
        case _:
            return Denied("token", "the token cannot be used: send it as its issuer gave it out")
