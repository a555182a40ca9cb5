"""The gateway's own clients over emulated parts, with short deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from gateway.listen.asr import AsrError
from gateway.listen.riva_asr import RivaRecognizer
from gateway.settings import AsrSettings, LlmSettings, TtsSettings
from gateway.speak.triton_tts import TritonSynthesizer
from gateway.speak.tts import TtsError
from gateway.think.llm import LlmError, Message
from gateway.think.openai_llm import OpenAiLlm
from load.emulators import Addresses, Emulators, Profile, read_profile
from load.emulators.voice import cut

SPEECH = (cut(16_000, 0, 16_000) * 32_767).astype("<i2").tobytes() + bytes(6_400)
"""A second, and 200 ms of silence."""
SENTENCE = "The boats come home."
WAIT_MS = 250
"""Every deadline of the clients, where a test needs no longer one."""
ERRORS = (AsrError, LlmError, TtsError)
"""What the clients raise: one sentence each."""


class Rig:
    """Emulators, a client of each part, and the control."""

    def __init__(
        self, parts: Emulators, addresses: Addresses, http: aiohttp.ClientSession, retries: int, wait_ms: int
    ) -> None:
        self.parts = parts
        self.at = addresses
        self._http = http
        wait = {"deadline_ms": wait_ms, "silence_ms": wait_ms}
        self.asr = RivaRecognizer(AsrSettings.model_validate({"uri": addresses.asr} | wait))
        self.llm = OpenAiLlm(
            LlmSettings(base_url=addresses.llm, first_token_ms=2 * wait_ms, token_ms=wait_ms, retries=retries)
        )
        self.tts = TritonSynthesizer(
            TtsSettings(uri=addresses.triton, first_chunk_ms=wait_ms, chunk_ms=wait_ms)
        )

    async def ask(self, part: str, answered: asyncio.Event | None = None) -> int:
        """One good request; returns the number of answers, the first of which sets `answered`.

        Raises what the client raises.
        """
        answers: AsyncIterator[object] = self.asr.recognize(_audio(), language="en-US")
        if part == "llm":
            answers = self.llm.stream([Message("user", "Hello.")])
        elif part == "tts":
            answers = self.tts.synthesize(SENTENCE)
        count = 0
        async for _ in answers:
            count += 1
            if answered is not None:
                answered.set()
        return count

    async def transcript(self) -> str:
        """What the recogniser makes of SPEECH."""
        return [heard async for heard in self.asr.recognize(_audio(), language="en-US")][-1].text

    async def works_again(self, part: str) -> None:
        """Asks until it is answered: gRPC dials again after a while."""
        for _ in range(100):
            try:
                await self.ask(part)
                return
            except ERRORS:
                await asyncio.sleep(0.05)
        raise AssertionError(f"{part} does not come back")

    async def is_idle(self) -> None:
        """Until no part works on anything any more; the page is the only witness."""
        for _ in range(250):
            stats = await self.stats()
            if not any(counted["open"] for counted in stats.values()):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"still open: {stats}")

    async def order(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with self._http.post(f"{self.at.control}/{path}", json=body) as reply:
            answer: dict[str, Any] = await reply.json()
            return answer | {"status": reply.status}

    async def fault(self, part: str, kind: str, **more: object) -> None:
        assert (await self.order("fault", {"part": part, "kind": kind} | more))["status"] == 200

    async def spare(self) -> None:
        async with self._http.delete(f"{self.at.control}/fault") as reply:
            assert reply.status == 200

    async def stats(self) -> dict[str, dict[str, Any]]:
        async with self._http.get(f"{self.at.control}/stats") as reply:
            found: dict[str, dict[str, Any]] = await reply.json()
            return found

    async def page(self) -> str:
        async with self._http.get(f"{self.at.control}/metrics") as reply:
            return await reply.text()

    async def close(self) -> None:
        """The clients."""
        await self.asr.close()
        await self.llm.close()
        await self.tts.close()


async def _audio() -> AsyncIterator[bytes]:
    for at in range(0, len(SPEECH), 3_072):
        yield SPEECH[at : at + 3_072]


@asynccontextmanager
async def rig(
    profile: Profile | None = None, *, retries: int = 0, seed: int = 1, wait_ms: int = WAIT_MS
) -> AsyncIterator[Rig]:
    parts = Emulators(profile or read_profile("zero"), seed=seed)
    addresses = await parts.open()
    try:
        async with aiohttp.ClientSession() as http:
            made = Rig(parts, addresses, http, retries, wait_ms)
            try:
                yield made
            finally:
                await made.close()
    finally:
        await parts.close()
