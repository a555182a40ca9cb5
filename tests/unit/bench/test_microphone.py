from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np

from bench.microphone import Microphone
from bench.speech import RATE, clip
from gateway.cli.client import VoiceClient
from tests.support.virtual_time import run_virtual


class Wire:
    """Takes frames and remembers when."""

    def __init__(self) -> None:
        self.frames: list[tuple[float, bytes]] = []

    async def send_audio(self, pcm: bytes) -> None:
        self.frames.append((asyncio.get_running_loop().time(), pcm))


def test_sound_is_sent_when_it_is_over_and_ends_are_true() -> None:
    async def main() -> None:
        wire = Wire()
        microphone = Microphone(cast(VoiceClient, cast(Any, wire)))
        await asyncio.sleep(1.0)
        microphone.start()
        await asyncio.sleep(0.1)
        samples = np.zeros(RATE // 2, np.int16)
        samples[1_600:6_400] = 8_000  # 0.1 to 0.4 s
        said = await microphone.say(clip("c", samples))
        await microphone.stop()
        assert abs(said.onset - said.began - 0.1) < 1e-9
        assert abs(said.end - said.began - 0.4) < 1e-9
        loud = [at for at, pcm in wire.frames if np.frombuffer(pcm, "<i2").max() > 1_000]
        # The frame that holds the first loud sample leaves within 20 ms of it, never before it.
        assert 0 <= loud[0] - said.onset <= 0.020 + 1e-9
        assert abs(loud[-1] - said.end) < 1e-9
        assert {len(pcm) for _, pcm in wire.frames} == {640}
        gaps = np.diff([at for at, _ in wire.frames])
        assert np.allclose(gaps, 0.02)
        # The frame that completed 30 ms of input is the second.
        assert microphone.wire_time(30) == wire.frames[1][0]

    run_virtual(main())
