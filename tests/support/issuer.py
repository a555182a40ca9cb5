"""An issuer of tokens on this machine: it signs with real keys and publishes them as OpenID Connect has it.

async with Issuer() as issuer:
    token = issuer.token(scope="voice")
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm


class Issuer:
    def __init__(self) -> None:
        self.private: dict[str, tuple[str, Any]] = {}
        """By key id: algorithm and key."""
        self.published: list[dict[str, Any]] = []
        self.fetched: list[str] = []
        """Paths asked for."""
        self.status = 200
        self.hang = False
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._end = asyncio.Event()
        self.add("rsa-1", "RS256")

    def add(self, kid: str, algorithm: str, *, publish: bool = True) -> dict[str, Any]:
        """A new key; returns its public half as a JWK."""
        key: Any
        if algorithm.startswith(("RS", "PS")):
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        elif algorithm == "EdDSA":
            key = ed25519.Ed25519PrivateKey.generate()
            public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        self.private[kid] = algorithm, key
        made = {**public, "kid": kid, "use": "sig"}
        if publish:
            self.published.append(made)
        return made

    def token(
        self, kid: str = "rsa-1", *, in_s: float = 300, headers: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """in_s: until it expires. A claim of None is left out."""
        algorithm, key = self.private[kid]
        now = time.time()
        said = {
            "iss": self.url,
            "aud": "parley",
            "sub": "ann",
            "iat": int(now),
            "exp": int(now + in_s),
            **claims,
        }
        return jwt.encode(
            {name: value for name, value in said.items() if value is not None},
            key,
            algorithm,
            headers={"kid": kid, **(headers or {})},
        )

    async def __aenter__(self) -> Issuer:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/keys", self._keys)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        assert self._runner is not None
        await self._runner.cleanup()

    async def _discovery(self, request: web.Request) -> web.Response:
        self.fetched.append(request.path)
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})

    async def _keys(self, request: web.Request) -> web.Response:
        self.fetched.append(request.path)
        if self.hang:
            await self._end.wait()
        return web.Response(status=self.status, text=json.dumps({"keys": self.published}))
