"""A Hugging Face hub on this machine, as far as pulling a model needs one, and a host that holds its large files.

async with Hub() as hub:
    hub.add("owner/name", {"config.json": b"{}", "model.safetensors": weights}, licence="mit")
    hub.faults["model.safetensors"] = ["cut", "503"]   # the next two requests for its bytes; then all is well

As the real one: small files come from the hub itself with git's blob id as their entity tag, large ones (`LARGE`) by a
redirect to another host, which must see no token. Its API is checked with huggingface_hub's own client.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from aiohttp import web

Answer = TypeVar("Answer", bound=web.StreamResponse)

LARGE = (".safetensors", ".bin", ".onnx", ".gz", ".zip")
CUT_AT = 100_000
"""Bytes that come before a fault in the middle of a body."""
TOKEN = "hf_secret-of-the-test"


@dataclass
class Repository:
    files: dict[str, bytes]
    card: dict[str, Any] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    revisions: tuple[str, ...] = ("main",)
    told_sizes: dict[str, int] = field(default_factory=dict)
    """What the API says of a file's size, where that is not so."""
    told_sha256: dict[str, str] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + b"\0" + content)
        return digest.hexdigest()


@dataclass(frozen=True)
class Seen:
    """A request."""

    host: str
    """hub, or cdn."""
    method: str
    path: str
    range: str
    if_range: str
    authorization: str
    status: int


class Hub:
    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.plain: dict[str, bytes] = {}
        """By path: files that the other host serves to anybody who asks for /plain/PATH."""
        self.faults: dict[str, list[str]] = {}
        """By the end of a path, one for each request to come: a status, "cut", "hang", "wrong", "whole" (no ranges), "new" (another version by now), "html",
        "elsewhere" (a redirect to a name), "loop"."""
        self.seen: list[Seen] = []
        self.hanging = asyncio.Event()
        """Set when a body stands still in its middle."""
        self.etags = True
        self.url = self.cdn = ""
        self._runners: list[web.AppRunner] = []
        self._end = asyncio.Event()

    def add(self, name: str, files: dict[str, bytes], *, licence: str = "mit", **more: Any) -> Repository:
        card = {"license": licence} if licence else {}
        self.repositories[name] = Repository(files, {**card, **more.pop("card", {})}, **more)
        return self.repositories[name]

    async def __aenter__(self) -> Hub:
        hub = web.Application()
        hub.router.add_get("/api/models/{owner}/{name}", self._info)
        hub.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._info)
        hub.router.add_get("/api/models/{owner}/{name}/tree/{revision}", self._tree)
        hub.router.add_get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        cdn = web.Application()
        cdn.router.add_get("/lfs/{sha256}", self._large)
        cdn.router.add_get("/plain/{path:.+}", self._plain)
        self.url, self.cdn = await self._start(hub), await self._start(cdn)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        for runner in self._runners:
            await runner.cleanup()

    async def _start(self, app: web.Application) -> str:
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    def asked_for(self, end: str, *, method: str = "GET") -> list[Seen]:
        return [one for one in self.seen if one.path.endswith(end) and one.method == method]

    # The hub

    async def _info(self, request: web.Request) -> web.StreamResponse:
        found = self._repository(request, "hub")
        if isinstance(found, web.Response):
            return found
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        blobs = request.query.get("blobs", "").lower() in ("1", "true")
        told = {
            "id": name, "modelId": name, "sha": found.commit, "private": found.private, "gated": "manual" if found.gated else False,
            "cardData": found.card, "tags": [f"license:{found.card['license']}"] if "license" in found.card else [], "downloads": 0, "likes": 0,
            "siblings": [self._sibling(found, path, content) if blobs else {"rfilename": path} for path, content in found.files.items()],
        }  # fmt: skip
        return web.json_response(told)

    def _sibling(self, found: Repository, path: str, content: bytes) -> dict[str, Any]:
        size = found.told_sizes.get(path, len(content))
        told: dict[str, Any] = {"rfilename": path, "size": size, "blobId": git_sha1(content)}
        if path.endswith(LARGE):
            sha256 = found.told_sha256.get(path, hashlib.sha256(content).hexdigest())
            told |= {
                "blobId": git_sha1(_pointer(content)),
                "lfs": {"sha256": sha256, "size": size, "pointerSize": len(_pointer(content))},
            }
        return told

    async def _tree(self, request: web.Request) -> web.StreamResponse:
        found = self._repository(request, "hub")
        if isinstance(found, web.Response):
            return found
        told = []
        for path, content in found.files.items():
            one = self._sibling(found, path, content)
            entry = {"type": "file", "path": path, "oid": one["blobId"], "size": one["size"]}
            if lfs := one.get("lfs"):
                entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
            told.append(entry)
        return web.json_response(told)

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        large = path.endswith(LARGE)
        fault = self._fault(path) if request.method == "GET" and not large else ""
        if fault == "loop":
            return self._note(
                request, "hub", web.Response(status=302, headers={"Location": str(request.url)})
            )
        if fault.isdecimal():
            return self._note(request, "hub", _failed(int(fault)))
        found = self._repository(request, "hub", note=False)
        if isinstance(found, web.Response):
            return self._note(request, "hub", found)
        commit = {"X-Repo-Commit": found.commit}
        if path not in found.files:
            answer = web.Response(status=404, headers={**commit, "X-Error-Code": "EntryNotFound"})
            return self._note(request, "hub", answer)
        content = found.files[path]
        if not large:
            return await self._send(request, "hub", content, git_sha1(content), fault, commit)
        sha256 = hashlib.sha256(content).hexdigest()
        headers = {
            **commit, "X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{sha256}"', "Location": f"{self.cdn}/lfs/{sha256}?X-Signature=secret&path={path}",
        }  # fmt: skip
        return self._note(request, "hub", web.Response(status=302, headers=headers))

    def _repository(self, request: web.Request, host: str, *, note: bool = True) -> Repository | web.Response:
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        found, answer = self.repositories.get(name), None
        known = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        fault = self._fault(f"{name}/api") if "/api/" in request.path else ""
        if fault:
            answer = _failed(int(fault))
        elif found is None or (found.private and not known):
            answer = web.Response(
                status=401 if not known else 404,
                headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"},
            )
        elif found.gated and not known and "/resolve/" in request.path:
            answer = web.Response(
                status=401,
                headers={
                    "X-Error-Code": "GatedRepo",
                    "X-Error-Message": f"Access to model {name} is restricted.",
                },
            )
        elif unquote(request.match_info.get("revision", "main")) not in (*found.revisions, found.commit):
            answer = web.Response(
                status=404, headers={"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}
            )
        if note:
            self._note(request, host, answer or web.Response())
        if answer is not None:
            return answer
        assert found is not None
        return found

    # The host of large files

    async def _large(self, request: web.Request) -> web.StreamResponse:
        if "Authorization" in request.headers:
            return self._note(request, "cdn", _failed(400))  # as S3 does: signature and header at once
        wanted, path = request.match_info["sha256"], request.query["path"]
        for found in self.repositories.values():
            for content in found.files.values():
                if hashlib.sha256(content).hexdigest() == wanted:
                    return await self._send(request, "cdn", content, wanted, self._fault(path), {})
        return self._note(request, "cdn", web.Response(status=404))

    async def _plain(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        if path not in self.plain:
            return self._note(request, "cdn", web.Response(status=404))
        content = self.plain[path]
        return await self._send(request, "cdn", content, git_sha1(content), self._fault(path), {})

    # Bodies

    def _fault(self, path: str) -> str:
        for end, waiting in self.faults.items():
            if path.endswith(end) and waiting:
                return waiting.pop(0)
        return ""

    async def _send(
        self, request: web.Request, host: str, content: bytes, etag: str, fault: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        if fault.isdecimal():
            return self._note(request, host, _failed(int(fault)))
        if fault == "elsewhere":
            return self._note(
                request, host, web.Response(status=302, headers={"Location": "http://nowhere.invalid/x"})
            )
        if fault == "html":
            return self._note(
                request, host, web.Response(text="<html>Please log in</html>", content_type="text/html")
            )
        etag = hashlib.sha1(b"new" + content, usedforsecurity=False).hexdigest() if fault == "new" else etag
        if fault in ("new", "wrong"):
            content = bytes(byte ^ 0x55 for byte in content)
        start, status = _asked_range(request, etag, len(content)), 200
        headers = {**headers, "Accept-Ranges": "bytes", **({"ETag": f'"{etag}"'} if self.etags else {})}
        if start is not None and start >= len(content):
            return self._note(
                request, host, web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
            )
        if start is not None and fault != "whole":
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content = content[start:]
        answer = web.StreamResponse(status=status, headers=headers)
        answer.content_type = "application/octet-stream"
        answer.content_length = len(content)
        self._note(request, host, answer)
        await answer.prepare(request)
        if request.method == "HEAD":
            return answer
        if fault in ("cut", "hang"):
            await answer.write(content[:CUT_AT])
            if fault == "hang":
                self.hanging.set()
                await self._end.wait()
            if request.transport is not None:
                request.transport.abort()
            return answer
        await answer.write(content)
        return answer

    def _note(self, request: web.Request, host: str, answer: Answer) -> Answer:
        headers = request.headers
        self.seen.append(
            Seen(host, request.method, request.path if host == "hub" or "path" not in request.query else request.query["path"],
                 headers.get("Range", ""), headers.get("If-Range", ""), headers.get("Authorization", ""), answer.status)
        )  # fmt: skip
        return answer


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _pointer(content: bytes) -> bytes:
    """What git keeps in place of a large file."""
    sha256 = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()


def _asked_range(request: web.Request, etag: str, size: int) -> int | None:
    """The first byte; None for all of it."""
    asked = request.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
    if not asked.isdecimal() or request.headers.get("If-Range", f'"{etag}"') != f'"{etag}"':
        return None
    return int(asked)


def _failed(status: int) -> web.Response:
    return web.Response(status=status, headers={"Retry-After": "3"} if status == 429 else {})
