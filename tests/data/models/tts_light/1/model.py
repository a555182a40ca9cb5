"""A light voice: one tone a text, made in steps of 20 ms that each cost a fixed CPU time, under the real queue.

The pitch is the first number of the text, in Hz, or chosen by its checksum, as in tts_tone (tests/support/tones.py);
a second number is the length in ms, else it is 60 ms a character. Another version: a copy of this folder.
"""

import hashlib
import json
import re
import sys
import time
import zlib

import numpy as np

sys.dont_write_bytecode = True

from gateway.triton.models.process import parameter  # noqa: E402
from gateway.triton.models.speech import SpeechModel  # noqa: E402
from gateway.triton.models.voices import Voice  # noqa: E402

RATE, STEP_MS = 16_000, 20
STEP = RATE * STEP_MS // 1000
LEVEL = 0.141 * 32767
"""-20 dBFS RMS."""
WORK = bytes(4096)
"""Hashing it takes some microseconds, and lets go of the interpreter, as real engines do."""


class Light:
    rate = RATE
    threads = 1
    rests = True
    piece_chars = 1_000
    voices = (Voice("tone", "en-US", "tone", 1.0), Voice("ton", "de-DE", "ton", 1.0))

    def __init__(self, cpu_ms):
        self.step_s = cpu_ms / 1000 * STEP_MS / 160

    def synthesize(self, text, voice, speed, heard):
        if not any(sign.isalnum() for sign in text):
            return
        hz, ms = sound_of(text)
        for index in range(max(1, round(ms / speed / STEP_MS))):
            end = time.thread_time() + self.step_s
            at = np.arange(index * STEP, (index + 1) * STEP)
            swell = 1.0 - 0.2 * np.cos(at * (2 * np.pi * 3 / RATE))
            samples = (np.cos(at * (2 * np.pi * hz / RATE)) * swell * LEVEL).astype(np.int16)
            while time.thread_time() < end:
                hashlib.sha256(WORK)
            if not heard(samples):
                return


def sound_of(text):
    """(Hz, ms) of a text."""
    numbers = [int(word) for word in re.findall(r"\d+", text)]
    hz = numbers[0] if numbers else 400 + 50 * (zlib.crc32(text.encode()) % 40)
    return hz, numbers[1] if len(numbers) > 1 else 60 * len(text)


class TritonPythonModel:
    def initialize(self, args):
        cpu_ms = float(parameter(json.loads(args["model_config"]), "cpu_ms", "0.2"))
        version = np.array([int(args["model_version"])], np.int32)
        self.speech = SpeechModel(args, lambda: Light(cpu_ms), {"VERSION": version})

    def execute(self, requests):
        self.speech.execute(requests)

    def finalize(self):
        self.speech.finalize()
