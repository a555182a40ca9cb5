"""A client of the Kubernetes API, as small as tests need it: objects are the dictionaries of their JSON.

Paths are those of the REST API ("/api/v1/namespaces/x/pods/y"); `path_of` finds an object's own.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp

Object = dict[str, Any]

_DEADLINE_S = 20.0
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    """The API server refused; `reason` is its word for it ("NotFound", "Forbidden", "AlreadyExists" …)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


class Api:
    """Of one identity. Belongs to the loop that made it."""

    def __init__(
        self, url: str, ca: str, token: str, *, user: str = "", groups: tuple[str, ...] = ()
    ) -> None:
        """url: of the server. ca: PEM. user, groups: whom to impersonate; empty: nobody."""
        self.url, self._ca, self._token = url, ca, token
        headers = [("Authorization", f"Bearer {token}")]
        if user:
            headers += [("Impersonate-User", user), *(("Impersonate-Group", group) for group in groups)]
        self._http = aiohttp.ClientSession(
            base_url=url,
            headers=headers,
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=ca), limit=0),
        )
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}

    def impersonate(self, user: str, *groups: str) -> Api:
        """The same as somebody else; to be closed by itself."""
        return Api(self.url, self._ca, self._token, user=user, groups=groups)

    def as_service_account(self, namespace: str, name: str) -> Api:
        return self.impersonate(
            f"system:serviceaccount:{namespace}:{name}",
            "system:serviceaccounts",
            f"system:serviceaccounts:{namespace}",
            "system:authenticated",
        )

    async def close(self) -> None:
        await self._http.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        content: str = "application/json",
        within_s: float = _DEADLINE_S,
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """Raises: ApiError, OSError, TimeoutError."""
        timeout = aiohttp.ClientTimeout(total=within_s)
        data = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": content}
        async with self._http.request(
            method, path, data=data, headers=headers, params=query or {}, timeout=timeout
        ) as answer:
            text = await answer.text()
        try:
            found: Object = json.loads(text)
        except ValueError:
            found = {"message": text}
        if answer.status >= 400:
            raise ApiError(answer.status, found.get("reason", ""), found.get("message", text))
        return found

    async def get(self, path: str) -> Object:
        return await self.request("GET", path)

    async def find(self, path: str) -> Object | None:
        """None when there is no such object."""
        try:
            return await self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, path: str, **query: str) -> list[Object]:
        found = await self.request("GET", path, query=query)
        return list(found["items"] or ())

    async def create(self, object: Object, **query: str) -> Object:
        path = (await self.path_of(object)).rpartition("/")[0]
        return await self.request("POST", path, object, query=query)

    async def apply(self, object: Object, **query: str) -> Object:
        """Server-side apply; `dryRun="All"` validates alone."""
        path = await self.path_of(object)
        options = {"fieldManager": "parley-tests", "force": "true", "fieldValidation": "Strict", **query}
        return await self.request("PATCH", path, object, content=_APPLY, query=options)

    async def patch(self, path: str, change: Object, *, strategic: bool = False) -> Object:
        return await self.request("PATCH", path, change, content=_STRATEGIC if strategic else _MERGE)

    async def delete(self, path: str, **query: str) -> None:
        """Is done when there is no such object."""
        try:
            await self.request("DELETE", path, query=query)
        except ApiError as error:
            if error.status != 404:
                raise

    async def watch(self, path: str, *, since: str = "", **query: str) -> AsyncIterator[tuple[str, Object]]:
        """("ADDED" | "MODIFIED" | "DELETED", object) without end; what exists comes first unless `since`."""
        options = {"watch": "1", "allowWatchBookmarks": "false", **query}
        if since:
            options["resourceVersion"] = since
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_DEADLINE_S)
        async with self._http.get(f"{path}?{urlencode(options)}", timeout=timeout) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, "", await answer.text())
            rest = b""
            async for chunk in answer.content.iter_any():  # objects may be longer than any line buffer
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), "", event["object"]["message"])
                    yield event["type"], event["object"]

    async def until(
        self, path: str, holds: Callable[[dict[str, Object]], bool], *, within_s: float = 20.0, **query: str
    ) -> dict[str, Object]:
        """The objects of a collection by name, once `holds` is true of them. Raises: AssertionError."""
        found: dict[str, Object] = {}
        first = await self.request("GET", path, query=query)
        for one in first["items"] or ():
            found[one["metadata"]["name"]] = one
        if holds(found):
            return found
        try:
            async with asyncio.timeout(within_s):
                since = first["metadata"]["resourceVersion"]
                async for event, one in self.watch(path, since=since, **query):
                    if event == "DELETED":
                        found.pop(one["metadata"]["name"], None)
                    else:
                        found[one["metadata"]["name"]] = one
                    if holds(found):
                        return found
        except TimeoutError:
            pass
        now = {name: one.get("status") for name, one in found.items()}
        raise AssertionError(f"it was not so within {within_s:g} s: {json.dumps(now)[:4_000]}")

    async def path_of(self, object: Mapping[str, Any]) -> str:
        """Where an object lies. Raises: KeyError for a kind that the server does not know."""
        version, kind = object["apiVersion"], object["kind"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (version, kind) not in self._kinds:
            for one in (await self.get(base))["resources"]:
                if "/" not in one["name"]:
                    self._kinds[version, one["kind"]] = (one["name"], one["namespaced"])
        plural, namespaced = self._kinds[version, kind]
        meta = object["metadata"]
        within = f"/namespaces/{meta.get('namespace') or 'default'}" if namespaced else ""
        return f"{base}{within}/{plural}/{meta['name']}"
