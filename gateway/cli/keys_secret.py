"""`parley keys secret`: the keys of an installation, as two Secrets, from inside the cluster.

One has the keys themselves, for people and for the parts that call each other; the other has the key file, with
hashes, for the parts that are called. What is there is never changed, so that an upgrade keeps all keys, and the
service account needs no more than `create` for Secrets and `get` for these two. The keys are made first: a pair of
which only they exist is made whole from them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import secrets
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from gateway.cli.common import OK, Fault
from gateway.identity import ADMIN, AUDIO, METRICS, SPEECH, VOICE
from gateway.identity.keys import KeyRecord, digest, new_key, read_keys, write_keys

FILE = "keys.yaml"
SEALING = "sealing-key"
KEYS: Mapping[str, tuple[str, ...]] = {
    "api-key": (VOICE, AUDIO),
    "metrics-key": (METRICS,),
    "admin-key": (ADMIN,),
    "internal-key": (SPEECH,),
}
"""By entry of the Secret: what the key may do. internal-key: of the gateway, towards the speech service."""
_REQUEST_S, _TRIES, _AGAIN_S = 10.0, 5, 1.0
_CREATED_BY = {"app.kubernetes.io/managed-by": "parley-keys"}


async def make_secrets(plain: str, hashes: str, namespace: str | None, account: Path) -> int:
    """Raises Fault."""
    async with _Secrets(account, namespace) as api:
        keys = await api.get(plain)
        found = await api.get(hashes)
        if keys is None and found is not None:
            raise Fault(
                f"the Secret {hashes} is there, but {plain}, whose keys it belongs to, is not: "
                f"bring {plain} back, or delete {hashes} as well and run this again for new keys"
            )
        if keys is None:
            made = {entry: new_key() for entry in KEYS} | {SEALING: secrets.token_urlsafe(32)}
            keys = await api.create(plain, made)
        print(f"Secret {plain} has {', '.join(sorted(keys))}")
        missing = sorted((KEYS.keys() | {SEALING}) - keys.keys())
        if missing:
            print(f"it lacks {', '.join(missing)}, which the parts that need them will miss")
        if found is None:
            found = await api.create(hashes, {FILE: write_keys(_records(keys))})
        _check(plain, keys, hashes, found)
        print(f"Secret {hashes} has their hashes")
    return OK


def _records(keys: Mapping[str, str]) -> list[KeyRecord]:
    """Parley's own calls have no limits: they stand for those of all callers."""
    now = datetime.now(UTC).replace(microsecond=0)
    return [
        KeyRecord(
            entry.removesuffix("-key"),
            digest(keys[entry].strip()),
            scopes,
            created=now,
            max_sessions=0 if entry == "internal-key" else None,
            per_minute=0 if entry == "internal-key" else None,
        )
        for entry, scopes in KEYS.items()
        if keys.get(entry, "").strip()
    ]


def _check(plain: str, keys: Mapping[str, str], hashes: str, found: Mapping[str, str]) -> None:
    """Raises Fault where a key would be refused."""
    try:
        known = read_keys(found.get(FILE, ""))
    except Exception as error:
        raise Fault(f"the Secret {hashes} holds no key file that can be used: {error}") from None
    strange = [
        entry for entry in KEYS if keys.get(entry, "").strip() and known.find(keys[entry].strip()) is None
    ]
    if strange:
        raise Fault(
            f"the Secret {hashes} does not know {', '.join(strange)} of {plain}: "
            f"add the SHA-256 to it, or delete {hashes} and run this again"
        )


class _Secrets:
    """Those of a namespace, over the API server's HTTPS, as the pod's service account."""

    def __init__(self, account: Path, namespace: str | None) -> None:
        """Raises Fault outside of a pod."""
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise Fault("this is no pod of Kubernetes: KUBERNETES_SERVICE_HOST is not set")
        try:
            token = (account / "token").read_text().strip()
            authorities = ssl.create_default_context(cafile=str(account / "ca.crt"))
            namespace = namespace or os.environ.get("POD_NAMESPACE") or (account / "namespace").read_text()
        except (OSError, ssl.SSLError) as error:
            raise Fault(
                f"the service account in {account} cannot be used ({error}); mount its token into the pod"
            ) from None
        host = f"[{host}]" if ":" in host else host
        self._namespace = namespace.strip()
        self._url = f"https://{host}:{port}/api/v1/namespaces/{self._namespace}/secrets"
        self._http = aiohttp.ClientSession(
            headers={"authorization": f"Bearer {token}"},
            connector=aiohttp.TCPConnector(ssl=authorities),
            timeout=aiohttp.ClientTimeout(total=_REQUEST_S),
        )

    async def __aenter__(self) -> _Secrets:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def get(self, name: str) -> dict[str, str] | None:
        """Its entries; None when there is none. Raises Fault."""
        status, body = await self._request("GET", f"{self._url}/{name}", None)
        if status == 404:
            return None
        if status != 200:
            raise self._refused("get", name, status, body)
        return _entries(name, body)

    async def create(self, name: str, entries: Mapping[str, str]) -> dict[str, str]:
        """Its entries: those of another who was faster, where there was one. Raises Fault."""
        wanted = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": name, "labels": _CREATED_BY},
            "stringData": dict(entries),
        }
        status, body = await self._request("POST", self._url, wanted)
        if status == 409 and (found := await self.get(name)) is not None:
            return found
        if status != 201:
            raise self._refused("create", name, status, body)
        return dict(entries)

    async def _request(self, method: str, url: str, body: object) -> tuple[int, dict[str, Any]]:
        """Tried again while the API server cannot be reached or is overloaded. Raises Fault."""
        why = ""
        for left in reversed(range(_TRIES)):
            try:
                async with self._http.request(method, url, json=body) as answer:
                    if answer.status < 500 and answer.status != 429:
                        return answer.status, await answer.json()
                    why = f"status {answer.status}"
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                why = f"{type(error).__name__}: {error}"
            if left:
                await asyncio.sleep(_AGAIN_S)
        raise Fault(f"the API server at {self._url} does not answer ({why})")

    def _refused(self, verb: str, name: str, status: int, body: Mapping[str, Any]) -> Fault:
        return Fault(
            f"the API server does not let this service account {verb} the Secret {name} in {self._namespace} "
            f"({status}: {body.get('message', 'no reason given')})"
        )


def _entries(name: str, body: Mapping[str, Any]) -> dict[str, str]:
    try:
        return {
            entry: base64.b64decode(value, validate=True).decode()
            for entry, value in (body.get("data") or {}).items()
        }
    except (binascii.Error, UnicodeDecodeError):
        raise Fault(f"the Secret {name} holds what is no text") from None
