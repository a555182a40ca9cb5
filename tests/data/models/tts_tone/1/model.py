"""A decoupled voice for tests that keeps the TTS contract and counts its work.

TEXT is the number of 40 ms chunks to make; STYLE "fast" makes them as fast as it can, else at real
time; "mute" never answers; "fail" fails after the first chunk. MADE is the number of chunks made by
this process so far, so a test can see what was made after a cancel.
"""

import os
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


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
            chunks = int(self.string(request, "TEXT"))
            style = self.string(request, "STYLE")
            threading.Thread(target=self.speak, args=(sender, key, event, chunks, style), daemon=True).start()

    def string(self, request, name):
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        return tensor.as_numpy().ravel()[0].decode() if tensor is not None else ""

    def speak(self, sender, key, event, chunks, style):
        if style == "mute":
            event.wait(60)
        last = None
        for index in range(chunks):
            if style not in ("fast", "mute"):
                event.wait(0.04)
            if event.is_set():
                break
            if style == "fail" and index == 1:
                last = pb_utils.InferenceResponse(error=pb_utils.TritonError("the voice is hoarse"))
                break
            self.made += 1
            tone = np.sin(np.arange(640, dtype=np.float32) * 0.2) * 0.3
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
