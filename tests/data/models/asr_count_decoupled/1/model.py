"""A stateful recogniser for tests that keeps the ASR contract: its transcript counts what it heard.

"LANGUAGE HINT… SAMPLES": the sum of the samples' number since START. WORDS holds one word a chunk.
The same model, decoupled: one FINAL response a chunk.
"""

import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.states = {}
        batching = json.loads(args["model_config"])["sequence_batching"]
        self.idle_s = int(batching["max_sequence_idle_microseconds"]) / 1e6 + 0.5
        self.sweeper = None

    def finalize(self):
        if self.sweeper is not None:
            self.sweeper.cancel()

    def sweep(self):
        """Triton frees the slot of an idle sequence and tells the model nothing."""
        idle_since = time.monotonic() - self.idle_s
        for key, state in list(self.states.items()):
            if state["at"] <= idle_since:
                self.states.pop(key, None)
        self.watch()

    def watch(self):
        self.sweeper = None
        if self.states:
            self.sweeper = threading.Timer(self.idle_s, self.sweep)
            self.sweeper.daemon = True
            self.sweeper.start()

    def execute(self, requests):
        for request in requests:
            request.get_response_sender().send(
                self.step(request), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            )

    def step(self, request):
        key = request.correlation_id()
        start, end = self.flag(request, "START"), self.flag(request, "END")
        if start:
            self.states[key] = {
                "at": time.monotonic(),
                "said": self.strings(request, "LANGUAGE") + self.strings(request, "HINTS"),
                "n": [],
            }
            if self.sweeper is None:
                self.watch()
        state = self.states[key]
        state["at"] = time.monotonic()
        state["n"].append(pb_utils.get_input_tensor_by_name(request, "AUDIO").as_numpy().size)
        if end:
            del self.states[key]
        transcript = " ".join([*state["said"], str(sum(state["n"]))])
        words = [str(n) for n in state["n"]]
        times = [[i * 160, i * 160 + 160] for i in range(len(words))]
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("TRANSCRIPT", np.array([[transcript.encode()]], dtype=object)),
                pb_utils.Tensor("STABLE", np.array([[len(transcript)]], dtype=np.int32)),
                pb_utils.Tensor("IS_FINAL", np.array([[end]])),
                pb_utils.Tensor("WORDS", np.array([[w.encode() for w in words]], dtype=object)),
                pb_utils.Tensor("WORD_TIMES", np.array([times], dtype=np.int32)),
            ]
        )

    def flag(self, request, name):
        return bool(pb_utils.get_input_tensor_by_name(request, name).as_numpy().ravel()[0])

    def strings(self, request, name):
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        return [] if tensor is None else [value.decode() for value in tensor.as_numpy().ravel()]
