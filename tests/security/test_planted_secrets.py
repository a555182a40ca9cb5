"""Every secret setting holds something that can be recognised; parts repeat what they were sent in their errors, callers
come with wrong keys: nothing of it stands in a log, in an answer, on a page of the process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import aiohttp
import grpc
import pytest
from pydantic import BaseModel, SecretStr

from gateway.settings import Settings
from tests.security.rude_parts import rude_grpc, rude_http
from tests.support.leaks import PLANTED, find

WITHIN_S = 20.0
URLS = {"redis.url": "redis://user:{secret}@127.0.0.1:1/0"}
"""Secrets that are one part of something."""


def secret_settings(
    model: type[BaseModel] = Settings, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """(dotted name, "one", "many" or "named") of every setting that is a secret."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        here = (*path, name)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from secret_settings(kind, here)
        elif kind is SecretStr:
            yield ".".join(here), "one"
        elif SecretStr in get_args(kind):
            yield ".".join(here), "named" if "dict" in str(kind) else "many"


def planted() -> dict[str, str]:
    """Environment with all of them set, each to a value of its own."""
    environment = {}
    for number, (name, kind) in enumerate(secret_settings()):
        secret = f"pk_{PLANTED}-{number:02d}-" + "x" * 30
        value = URLS.get(name, "{secret}").format(secret=secret)
        if name == "triton.repository_key":
            value = f"triton-key={secret}"
        shape: Any = {"one": value, "many": [value], "named": {"x-extra": value}}[kind]
        environment[f"PARLEY_{name.upper().replace('.', '__')}"] = (
            shape if kind == "one" else json.dumps(shape)
        )
    return environment


class Process:
    """`parley …` with everything it writes."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._arguments, self._environment = arguments, {**os.environ, **environment}
        self.told = ""

    async def __aenter__(self) -> Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", *self._arguments, env=self._environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        self._ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.told += line.decode()
            if "is ready" in self.told:
                self._ready.set()
        self._ready.set()

    async def ready(self) -> dict[str, str]:
        async with asyncio.timeout(WITHIN_S):
            await self._ready.wait()
        assert "is ready: " in self.told, self.told
        words = self.told.split("is ready: ", 1)[1].split("\n", 1)[0].split()
        return dict(zip(words[::2], words[1::2], strict=True))

    async def ended(self) -> int:
        async with asyncio.timeout(WITHIN_S):
            await self._reading
            return await self._process.wait()

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self.ended()


def test_all_kinds_of_secret_settings_are_found() -> None:
    names = dict(secret_settings())
    assert names["asr.api_key"] == "one"
    assert names["auth.api_keys"] == "many"
    assert names["asr.metadata"] == "named"
    assert {"llm.api_key", "redis.url", "telemetry.headers", "auth.sealing_key"} <= names.keys()


@pytest.mark.shows_secrets  # the rude parts do, in this process; what Parley tells is looked at below
@pytest.mark.parametrize(
    ("form", "http_status", "grpc_status"),
    [
        ("text", 401, grpc.StatusCode.UNAUTHENTICATED),
        ("json", 400, grpc.StatusCode.INVALID_ARGUMENT),
        ("json", 500, grpc.StatusCode.INTERNAL),
    ],
)
async def test_no_planted_secret_is_told(
    form: str, http_status: int, grpc_status: grpc.StatusCode, tmp_path: Path
) -> None:
    secrets = planted()
    own_key = json.loads(secrets["PARLEY_AUTH__API_KEYS"])[0]
    wrong_key = f"pk_{PLANTED}-wrong-" + "y" * 30
    texts: dict[str, str] = {}
    async with (
        rude_http(http_status) as (http, http_saw),
        rude_grpc(grpc_status) as (grpc_at, grpc_saw),
        rude_grpc(grpc.StatusCode.UNAVAILABLE) as (triton_at, _),
    ):
        environment = (
            secrets
            | {
                "PARLEY_LOG_LEVEL": "debug",
                "PARLEY_LLM__BASE_URL": f"{http}/v1",
                "PARLEY_TELEMETRY__OTLP": http,
                "PARLEY_ASR__URI": grpc_at,
                "PARLEY_TTS__KIND": "riva",
                "PARLEY_TTS__URI": grpc_at,
                "PARLEY_TRITON__URI": triton_at,
            }
            | {
                f"PARLEY_LISTEN__{name}": "127.0.0.1:0"
                for name in ("GRPC", "HTTP", "ADMIN", "RIVA", "SPEECH_HTTP")
            }
        )
        as_json = ["--log-json"] if form == "json" else []
        async with (
            Process("serve", "gateway", *as_json, **environment) as gateway,
            Process("serve", "speech", *as_json, **environment) as speech,
        ):
            at = await gateway.ready()
            texts["talk"] = await _talk(at["grpc"], own_key)
            texts["talk with a wrong key"] = await _talk(at["grpc"], wrong_key)
            where = at | await speech.ready()
            async with aiohttp.ClientSession() as session:
                for base, paths in {
                    "admin": ("/readyz", "/metrics", "/v1/sessions", "/openapi.json", "/healthz", "/nothing"),
                    "http": ("/v1/models", "/openapi.json", "/v1/realtime/client_secrets", "/nothing"),
                    "speech_http": ("/readyz", "/metrics", "/nothing"),
                }.items():
                    for path in paths:
                        for key in (own_key, wrong_key):
                            headers = {"authorization": f"Bearer {key}"}
                            async with session.get(where[base] + path, headers=headers) as answer:
                                texts[f"{base} {path}"] = await answer.text()
                speak = {"model": "tts-1", "input": "hello", "voice": "alloy"}
                headers = {"authorization": f"Bearer {own_key}"}
                async with session.post(
                    where["http"] + "/v1/audio/speech", json=speak, headers=headers
                ) as answer:
                    texts["speech"] = await answer.text()
        texts["gateway's log"], texts["speech's log"] = gateway.told, speech.told
    assert any(PLANTED in value for value in http_saw), "the LLM was never asked with its key"
    assert any(PLANTED in value for value in grpc_saw), "the recogniser was never asked with its key"
    told = {name: around for name, text in texts.items() if (around := find(text)) is not None}
    assert not told
    assert wrong_key[:12] not in str(texts)


async def _talk(address: str, key: str) -> str:
    arguments = ("talk", "--server", address, "--text", "hello", "--no-reconnect")
    async with Process(*arguments, PARLEY_API_KEY=key) as talk:
        await talk.ended()
    return talk.told
