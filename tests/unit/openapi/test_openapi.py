"""`/openapi.json` of both addresses: true, whole, and what it says survives a fuzzer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.routing import Route

from gateway.app import Gateway
from gateway.openai_audio.app import _Endpoint
from gateway.settings import Settings
from load.emulators.app import Emulators
from load.emulators.profile import read_profile
from tests.support.raw_http import request

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEY = "a-key-for-the-fuzzer-and-nobody-else"
ADDRESSES = ("http", "admin")


@asynccontextmanager
async def running(**more: Any) -> AsyncIterator[Gateway]:
    """more: sections of the settings."""
    parts = Emulators(read_profile("zero"))
    at = await parts.open()
    sections: dict[str, Any] = {
        "listen": dict.fromkeys(("grpc", "http", "admin"), "127.0.0.1:0"),
        "asr": {"uri": at.asr},
        "llm": {"base_url": at.llm},
        "tts": {"uri": at.triton},
        "openai_audio": {"max_input_chars": 60},  # the longest is tried, and spoken
        "session": {"drain_s": 0.0, "admit_busy": 0, "admit_lag_ms": 0, "admit_backlog_ms": 0},
    }
    gateway = Gateway(Settings(**(sections | more)))
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()
        await parts.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    async with running() as made:
        yield made


def port(gateway: Gateway, key: str) -> int:
    return int(gateway.endpoints()[key].rpartition(":")[2])


async def document(gateway: Gateway, key: str) -> dict[str, Any]:
    status, headers, text = await request(port(gateway, key), "GET", "/openapi.json")
    assert (status, headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = json.loads(text)
    return found


def unwrapped(app: Any) -> Any:
    """What is inside of apps around apps."""
    while not isinstance(app, Starlette | _Endpoint) and hasattr(app, "_app"):
        app = app._app
    return app


def served(app: Any) -> Iterable[tuple[str, str]]:
    """(path, method) of every route, in apps inside of apps too."""
    for route in app.routes:
        assert isinstance(route, Route)
        inner = unwrapped(route.app)
        if isinstance(inner, Starlette):
            yield from served(inner)
        else:
            yield from ((route.path, method) for method in route.methods or {"GET"} if method != "HEAD")


def apps(gateway: Gateway) -> dict[str, Any]:
    """What listens, as its servers have it."""
    found: dict[str, Any] = {}
    for close in gateway._closers:
        server: Any = getattr(close, "__self__", None)
        if type(server).__name__ == "HttpServer":
            inner = unwrapped(server._server.config.app)
            found["admin" if any(r.path == "/readyz" for r in inner.routes) else "http"] = inner
    return found


@pytest.mark.parametrize("key", ADDRESSES)
async def test_it_has_every_route_and_no_other(gateway: Gateway, key: str) -> None:
    told = {
        (path, method.upper())
        for path, methods in (await document(gateway, key))["paths"].items()
        for method in methods
    }
    routes = {(path.replace("{name:path}", "{model}"), method) for path, method in served(apps(gateway)[key])}
    assert told == routes


@pytest.mark.parametrize("key", ADDRESSES)
async def test_every_path_of_it_answers_and_every_other_method_is_refused(gateway: Gateway, key: str) -> None:
    for path, methods in (await document(gateway, key))["paths"].items():
        concrete = path.replace("{model}", "tts-1")
        for method in ("GET", "DELETE") if path == "/drain" else ("GET", "POST", "DELETE"):
            status, _, _ = await request(port(gateway, key), method, concrete)
            if method.lower() in methods:
                assert str(status) in methods[method.lower()]["responses"], (path, status)
            else:
                assert status == 405, (path, method)


async def fuzz(url: str, folder: Path, *options: str, examples: int = 8) -> tuple[int, str]:
    """schemathesis with its checks; what it cannot know is left out: whether a text can be spoken (positive data),
    and that unknown fields of a body are passed over, as OpenAI's API does (negative data)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color", "--seed", "1",
        "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples), "--workers", "1", "--warnings", "off",
        "--exclude-checks", "positive_data_acceptance,negative_data_rejection",
        "--request-timeout", "10", "--suppress-health-check", "all", "--generation-database", "none", *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=folder,
        env=os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(folder)},
    )  # fmt: skip
    async with asyncio.timeout(100):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


@pytest.mark.parametrize("key", ADDRESSES)
async def test_a_fuzzer_finds_nothing(gateway: Gateway, key: str, tmp_path: Path) -> None:
    code, said = await fuzz(gateway.endpoints()[key], tmp_path, "--exclude-path", "/drain")
    assert code == 0, said[-6_000:]
    assert " passed" in said


@pytest.mark.parametrize("known", [True, False], ids=["a key", "any other credential"])
@pytest.mark.parametrize("key", ADDRESSES)
async def test_nor_does_one_where_credentials_are_asked_for(key: str, known: bool, tmp_path: Path) -> None:
    """schemathesis tries each path also without, and with made-up credentials: what answers then is a finding."""
    async with running(auth={"api_keys": [KEY]}) as guarded:
        secured = (await document(guarded, key))["security"]
        assert secured == [{"bearer": []}, {"header": []}]
        header = ["-H", f"Authorization: Bearer {KEY}"] if known else []
        code, said = await fuzz(
            guarded.endpoints()[key], tmp_path, "--exclude-path", "/drain", *header, examples=1
        )
    assert code == 0, said[-6_000:]


async def test_nor_does_one_that_drains_it(tmp_path: Path) -> None:
    async with running() as draining:
        code, said = await fuzz(draining.endpoints()["admin"], tmp_path, "--include-path", "/drain")
        status, _, text = await request(port(draining, "admin"), "GET", "/drain")
    assert code == 0, said[-6_000:]
    assert (status, json.loads(text)["status"]) == (200, "drained")
