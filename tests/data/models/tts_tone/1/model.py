"""A decoupled voice for tests that keeps the TTS contract and counts its work.

What a text sounds like:

- "12" alone: 12 chunks of 40 ms, of one fixed pitch.
- "tone 700 for 3000": the first number is the pitch in Hz, the second the length in ms.
- Any other: a pitch that the text's checksum chooses, 60 ms for each character.

So what is heard tells which text it was. It comes a little faster than real time; "at once" in the text, or STYLE
"fast", makes it come as fast as it can. STYLE "mute" never answers; "fail" fails after the first chunk.

MADE is the number of chunks made by this process so far, so a test can see what was made after a cancel.
"""

import os
import re
import threading
import time
import zlib

import numpy as np
import triton_python_backend_utils as pb_utils

RATE, CHUNK = 16000, 640


class TritonPythonModel:
    def initialize(self, args):
        self.made = 0
        self.cancelled = {}
        self.parent = os.getppid()
        threading.Thread(target=self.watch_parent, daemon=True).start()

    def watch_parent(self):
        while os.getppid() == self.parent:
            time.sleep(0.5)
        os._exit(0)

    def execute(self, requests):
        for request in requests:
            key = request.request_id()
            sender = request.get_response_sender()
            if pb_utils.get_input_tensor_by_name(request, "CANCEL") is not None:
                self.cancelled.setdefault(key, threading.Event()).set()
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            event = self.cancelled.setdefault(key, threading.Event())
            text, style = self.string(request, "TEXT"), self.string(request, "STYLE")
            arguments = (sender, key, event, text, style)
            threading.Thread(target=self.speak, args=arguments, daemon=True).start()

    def string(self, request, name):
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        return tensor.as_numpy().ravel()[0].decode() if tensor is not None else ""

    def speak(self, sender, key, event, text, style):
        hz, chunks = sound_of(text)
        if style == "mute":
            event.wait(60)
        fast = style in ("fast", "mute") or "at once" in text
        begun = time.monotonic()
        last = None
        for index in range(chunks):
            if not fast:
                event.wait(max(0.0, begun + 0.032 * (index + 1) - time.monotonic()))
            if event.is_set():
                break
            if style == "fail" and index == 1:
                last = pb_utils.InferenceResponse(error=pb_utils.TritonError("the voice is hoarse"))
                break
            self.made += 1
            at = np.arange(index * CHUNK, (index + 1) * CHUNK)
            tone = (np.sin(at * (2 * np.pi * hz / RATE)) * 0.3).astype(np.float32)
            made = np.array([self.made], np.int32)
            last = pb_utils.InferenceResponse([pb_utils.Tensor("AUDIO", tone), pb_utils.Tensor("MADE", made)])
            if index + 1 < chunks:
                sender.send(last)
                last = None
        self.cancelled.pop(key, None)
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if last is None:
            sender.send(flags=final)
        else:
            sender.send(last, flags=final)


def sound_of(text):
    """(Hz, chunks) of a text; tests/support/tones.py knows it too."""
    numbers = [int(word) for word in re.findall(r"\d+", text)]
    if text.isdecimal():
        return 509, numbers[0]
    hz = numbers[0] if numbers else 400 + 50 * (zlib.crc32(text.encode()) % 40)
    ms = numbers[1] if len(numbers) > 1 else 60 * len(text)
    return hz, max(1, ms // 40)
