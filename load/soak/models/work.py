"""What an operator does meanwhile: one model comes and goes, new versions of the others are rolled in and back."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np

from gateway.triton.channel import GRPCInferenceServiceStub, open_channel
from gateway.triton.codec import text
from gateway.triton.errors import TritonError
from gateway.triton.infer import SequenceCall, stream_decoupled
from gateway.triton.manager.manager import ModelManager
from gateway.triton.manager.types import Lease
from gateway.triton.stream import Drains
from load.soak.models.house import House

_LOAD_S = 60.0
_ANSWER_S = 20.0
_CHUNK = 2_560
_UTTERANCE_CHUNKS = 12
_CHUNK_S = 0.16
_KEPT_VERSIONS = 2
_TELL_S = 30.0


@dataclass(slots=True)
class Done:
    cycles: int = 0
    rolls: Counter[str] = field(default_factory=Counter)
    """By model."""
    failures: Counter[str] = field(default_factory=Counter)
    """Of the operator's requests, by sentence."""
    sequences: int = 0
    """Probes: utterances and sentences that an observer ran all the time, each pinned to the version it began on."""
    spanned: int = 0
    """Of these, how many had a newer version come while they ran."""
    broken: Counter[str] = field(default_factory=Counter)
    """Of these, those that failed or changed their version."""


class Operator:
    """Changes models through a manager of its own, as `parley models` does; `probe()` watches from outside."""

    def __init__(self, house: House, manager: ModelManager, done: Done) -> None:
        self._house, self._manager, self._done = house, manager, done
        self._channel = open_channel(house.triton.grpc)
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._drains = Drains(deadline_s=_ANSWER_S)

    async def close(self) -> None:
        await self._drains.close()
        await self._channel.close()

    async def cycle(self, count: int) -> None:
        """Load a further model, let it speak, unload it; `count` times in all."""
        left = iter(range(count))

        async def one(model: str) -> None:
            for _ in left:
                try:
                    await self._manager.load(model, deadline_s=_LOAD_S)
                    with await self._manager.lease(model, deadline_s=_LOAD_S) as lease:
                        await self._speak(lease, "It works.")
                    await self._manager.unload(model, deadline_s=_LOAD_S)
                    self._done.cycles += 1
                except TritonError as error:
                    self._done.failures[str(error)] += 1
                    await asyncio.sleep(1.0)

        await asyncio.gather(*map(one, self._house.kind.third))

    async def roll(self, model: str, count: int, pause_s: float) -> None:
        """A new version of a model that the calls use, and another; every fourth time back to the one before."""
        for number in range(count):
            await asyncio.sleep(pause_s)
            try:
                status = next(one for one in await self._manager.status() if one.info.name == model)
                to = await asyncio.to_thread(
                    self._prepare, model, int(status.version), status.versions, back=number % 4 == 3
                )
                await self._manager.load(model, version=to, deadline_s=_LOAD_S)
                self._done.rolls[model] += 1
            except TritonError as error:
                self._done.failures[str(error)] += 1

    def _prepare(self, model: str, serving: int, there: Sequence[str], *, back: bool) -> str:
        """The version to roll to: a new one, or the one before. Folders of versions that are gone are removed."""
        folder = self._house.repository / model
        versions = sorted(int(one.name) for one in folder.iterdir() if one.name.isdecimal())
        for old in versions[:-_KEPT_VERSIONS]:
            if str(old) not in there:
                shutil.rmtree(folder / str(old))
        before = [version for version in versions if version < serving and (folder / str(version)).is_dir()]
        if back and before:
            return str(before[-1])
        coming = folder / f".{versions[-1] + 1}"
        shutil.copytree(folder / str(versions[-1]), coming)
        coming.rename(folder / str(versions[-1] + 1))
        return str(versions[-1] + 1)

    async def say_how_far(self, cycles: int, rolls: int) -> None:
        """Until cancelled."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(_TELL_S)
            done = self._done
            print(
                f"  {self._house.kind.name}: {done.cycles}/{cycles} cycles, {sum(done.rolls.values())}/{rolls} rolls, "
                f"{done.sequences} probes, {sum(done.failures.values()) + sum(done.broken.values())} failures, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )

    async def probe(self) -> None:
        """Until cancelled: an utterance and a sentence after the other, each on the version that its lease names."""
        asr, tts = self._house.kind.models
        while True:
            for model, work in ((asr, self._utterance), (tts, self._sentence)):
                try:
                    with await self._manager.lease(model, deadline_s=_LOAD_S) as lease:
                        await work(lease)
                        self._done.spanned += await self._newest(model) != lease.version
                    self._done.sequences += 1
                except TritonError as error:
                    self._done.broken[str(error)] += 1
                    await asyncio.sleep(0.5)

    async def _newest(self, model: str) -> str:
        status = await self._manager.status()
        return next((one.version for one in status if one.info.name == model), "")

    async def _utterance(self, lease: Lease) -> None:
        info = lease.info
        call = SequenceCall(
            self._stub, info.name, drains=self._drains, decoupled=info.decoupled,
            batched=info.max_batch_size > 0, version=lease.version,
        )  # fmt: skip
        chunk = (np.sin(np.arange(_CHUNK) * 0.05) * 0.1).astype(np.float32)
        said = set()
        began = time.monotonic()
        for number in range(_UTTERANCE_CHUNKS):
            answer = await call.infer(
                chunk, start=number == 0, end=number == _UTTERANCE_CHUNKS - 1, deadline_s=_ANSWER_S
            )
            said |= _versions(answer)
            await asyncio.sleep(max(0.0, began + _CHUNK_S * (number + 1) - time.monotonic()))
        self._check(lease, said)

    async def _sentence(self, lease: Lease) -> None:
        self._check(lease, await self._speak(lease, "The quick brown fox jumps over the lazy dog. " * 3))

    async def _speak(self, lease: Lease, words: str) -> set[str]:
        answers = stream_decoupled(
            self._stub, lease.info.name, {"TEXT": text(words)}, drains=self._drains,
            first_deadline_s=_ANSWER_S, next_deadline_s=_ANSWER_S, version=lease.version,
        )  # fmt: skip
        said = set()
        async with aclosing(answers):
            async for answer in answers:
                said |= _versions(answer)
        return said

    def _check(self, lease: Lease, said: set[str]) -> None:
        if said and said != {lease.version}:
            self._done.broken[f"{lease.info.name} began on {lease.version} and was answered by {said}"] += 1


def _versions(answer: dict[str, np.ndarray]) -> set[str]:  # type: ignore[type-arg]
    """What a light model says of its version; the real ones do not."""
    return {str(int(answer["VERSION"].reshape(-1)[0]))} if "VERSION" in answer else set()
