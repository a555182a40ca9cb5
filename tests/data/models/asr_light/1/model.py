"""A light recogniser: voiced audio becomes words, a fixed CPU time a chunk, under the real queue.

For every `word_ms` of voiced audio (20 ms frames above -50 dBFS) one word of NUMBERS, which never changes any more;
an utterance with less than that is still one word, at its end. Another version: a copy of this folder.
"""

import asyncio
import hashlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

sys.dont_write_bytecode = True

from gateway.triton.models.asr.engine import END, START, EngineError  # noqa: E402
from gateway.triton.models.process import parameter  # noqa: E402
from gateway.triton.models.recognition import RATE, RecogniserModel  # noqa: E402

FRAME, FRAME_MS, VOICED = 320, 20, 0.003
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORK = bytes(4096)
"""Hashing it takes some microseconds, and lets go of the interpreter, as real engines do."""


class Light:
    """The engine: any number of utterances, one at work."""

    places, spare = 1, 0

    def __init__(self, config):
        self.cpu_s = float(parameter(config, "cpu_ms", "0.2")) / 1000
        self.word_ms = float(parameter(config, "word_ms", "320"))
        self.limit = int(parameter(config, "max_streams", "128"))
        self.used = 0
        self.threads = ThreadPoolExecutor(self.places, thread_name_prefix="engine")

    async def start(self):
        pass

    async def acquire(self, language):
        if self.used >= self.limit:
            raise EngineError(f"too many concurrent utterances: {self.limit}; try again")
        self.used += 1
        return Utterance(self)

    def release(self, worker):
        self.used -= 1

    discard = release

    async def close(self):
        self.threads.shutdown(wait=True, cancel_futures=True)


class Utterance:
    def __init__(self, engine):
        self.engine = engine

    async def ask(self, flags, audio, deadline_s):
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(deadline_s):
            return await loop.run_in_executor(self.engine.threads, self.hear, flags, audio)

    def hear(self, flags, audio):
        if flags & START:
            self.ms = self.voiced_ms = 0.0
            self.words = []
        pcm = np.nan_to_num(np.frombuffer(audio, "<f4"), nan=0.0, posinf=1.0, neginf=-1.0)
        burn(self.engine.cpu_s * len(pcm) / (0.16 * RATE))
        for frame in np.split(pcm, range(FRAME, len(pcm), FRAME)) if len(pcm) else ():
            self.ms += len(frame) * 1000 / RATE
            if np.sqrt(np.mean(np.square(np.clip(frame, -1, 1)))) > VOICED:
                self.voiced_ms += FRAME_MS
            if self.voiced_ms >= self.engine.word_ms * (len(self.words) + 1):
                self.add()
        if flags & END and self.voiced_ms and not self.words:
            self.add()
        return {"words": self.words, "stable": len(self.words), "final": bool(flags & END)}

    def add(self):
        start = self.words[-1][2] if self.words else 0
        self.words.append([NUMBERS[len(self.words) % len(NUMBERS)], start, int(self.ms)])


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha256(WORK)


class TritonPythonModel:
    def initialize(self, args):
        version = np.array([[int(args["model_version"])]], np.int32)
        self.recogniser = RecogniserModel(args, Light, load_s=5.0, beside={"VERSION": version})

    def execute(self, requests):
        self.recogniser.execute(requests)

    def finalize(self):
        self.recogniser.finalize()
