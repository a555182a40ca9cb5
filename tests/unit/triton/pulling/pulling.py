"""A pull with everything around it counted, and no pause ever waited for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np

from gateway.triton.pulling.entries import Shelf
from gateway.triton.pulling.licences import Licence
from gateway.triton.pulling.pull import Pulled, pull
from gateway.triton.pulling.sources import wanted
from gateway.triton.pulling.web import Web
from tests.support.hub import Hub

WEIGHTS = np.random.default_rng(1).bytes(300_000)
FILES = {
    "config.json": b'{"model_type": "whisper"}',
    "model.safetensors": WEIGHTS,
    "README.md": b"# A model\n",
}
NAME = "someone/whisper-mini"


class Counts:
    """A `Watch`."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.size: int | None = None
        self.done = 0
        self._changed = asyncio.Event()

    async def reached(self, size: int) -> None:
        async with asyncio.timeout(10):
            while self.done < size:
                self._changed.clear()
                await self._changed.wait()

    def say(self, text: str) -> None:
        self.said.append(text)

    def begin(self, size: int | None) -> None:
        self.size, self.done = size, 0

    def advance(self, size: int) -> None:
        self.done += size
        self._changed.set()


class Puller:
    def __init__(self, hub: Hub, cache: Path) -> None:
        self.hub, self.cache = hub, cache
        self.watch = Counts()
        self.pauses: list[float] = []
        self.asked: list[Licence] = []

    async def __call__(
        self, source: str, *, token: str = "", files: tuple[str, ...] = (), shelf: Shelf | None = None,
        endpoint: str = "", offline: bool = False, read_s: float = 30.0,
    ) -> Pulled:  # fmt: skip
        async def sleep(pause: float) -> None:
            self.pauses.append(pause)

        async def consent(name: str, licence: Licence, size: int | None) -> str:
            self.asked.append(licence)
            return "by the test"

        endpoint = endpoint or self.hub.url
        what = wanted(source, shelf or Shelf(), endpoint=endpoint, files=files)
        web = Web(
            endpoint=endpoint, token=token, offline=offline, sleep=sleep, read_s=read_s, say=self.watch.say
        )
        async with web:
            return await pull(what, web, self.watch, consent, into=self.cache)

    def left_over(self) -> list[str]:
        """Files of pulls that did not end."""
        return sorted(
            path.name for path in self.cache.rglob("*") if path.is_file() and ".partial" in str(path.parent)
        )


def content_of(folder: Path) -> dict[str, bytes]:
    """Without Parley's own record."""
    return {
        os.path.relpath(path, folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".pulled.json"
    }
