"""An LLM that speaks codec tokens, over /v1/completions as vLLM streams it: for voices that ask one.

with CodecLlm(order_size=7, codebook_size=64) as llm:
    ... llm.url, llm.requests, llm.hung_up ...

`frames` says how much is spoken for a prompt; `mode` what goes wrong.
"""

from __future__ import annotations

import json
import select
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np

MODES = (
    "ok",
    "stuck",  # takes the request, never answers
    "stalls",  # two frames, then silence
    "cut",  # two frames, then the connection is closed
    "error",  # two frames, then an error event
    "404",
    "words",  # text that holds no token
    "babbles",  # never ends
    "html",
)
FIRST = 10


class CodecLlm:
    """A real HTTP server in threads; every token is an event of its own."""

    def __init__(
        self,
        places: int = 7,
        codebook_size: int = 64,
        frames: Callable[[str], int] = lambda prompt: 12,
        mode: str = "ok",
        seed: int = 0,
        by_prompt: bool = False,
    ) -> None:
        """by_prompt: every prompt is answered with codes of its own."""
        self.places, self.size, self.frames, self.mode, self.seed = places, codebook_size, frames, mode, seed
        self._by_prompt = by_prompt
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.asked, self.hung_up, self.release = threading.Event(), threading.Event(), threading.Event()
        self.idle = threading.Event()
        """No request is being answered."""
        self.idle.set()
        self._open = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def codes(self, count: int, prompt: str = "") -> np.ndarray[Any, np.dtype[np.int64]]:
        """[places, count]: what is said, token by token."""
        seed = zlib.crc32(prompt.encode()) if self._by_prompt else self.seed
        return np.random.default_rng(seed).integers(0, self.size, (self.places, count))

    def tokens(self, count: int, prompt: str = "") -> list[str]:
        codes = self.codes(count, prompt)
        return [
            f"<custom_token_{FIRST + place * self.size + int(codes[place, frame])}>"
            for frame in range(count)
            for place in range(self.places)
        ]

    def answer(
        self,
        body: dict[str, Any],
        send: Callable[[str | None], None],
        end: Callable[[], None],
        wait: Callable[[], None],
    ) -> None:
        """send: a piece of text, None at the end; end: the connection is cut; wait: until the client has gone."""
        if self.mode == "stuck":
            wait()
            return None
        if self.mode == "words":
            for word in ["I", "cannot", "sing", "that", "song", "."]:
                send(word)
            return send(None)
        count = 100_000 if self.mode == "babbles" else self.frames(body["prompt"])
        partial = self.mode in ("stalls", "cut", "error")
        for token in self.tokens(2 if partial else min(count, 4000), body["prompt"]):
            send(token)
        if self.mode == "stalls":
            wait()
        elif self.mode == "cut":
            end()
        elif self.mode == "error":
            send("!error")
        return send(None)

    def __enter__(self) -> CodecLlm:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Nobody answers any more; harmless when called again."""
        self.release.set()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._thread = None

    def count(self, change: int) -> None:
        with self._lock:
            self._open += change
            (self.idle.clear if self._open else self.idle.set)()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes is no news."""


def _handler(llm: CodecLlm) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            llm.requests.append(body)
            llm.headers.append(dict(self.headers.items()))
            llm.asked.set()
            llm.count(1)
            try:
                self._answer(body)
            except OSError:
                llm.hung_up.set()
                self.close_connection = True
            finally:
                llm.count(-1)

        def _answer(self, body: dict[str, Any]) -> None:
            if llm.mode == "404":
                text = json.dumps({"error": {"message": "The model `orpheus` does not exist."}}).encode()
                self.send_response(404)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                return None
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if llm.mode == "html" else "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if llm.mode == "html":
                self._chunk(b"data: <html>log in</html>\n\n")
                return self._chunk(b"")
            return llm.answer(body, self._send, self._cut, self._wait)

        def _send(self, text: str | None) -> None:
            if text is None:
                event: dict[str, Any] = {"choices": [{"text": "", "finish_reason": "stop"}]}
                self._chunk(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode())
                self._chunk(b"")
            elif text == "!error":
                self._chunk(b'data: {"error": {"message": "CUDA out of memory"}}\n\n')
            else:
                event = {"choices": [{"index": 0, "text": text, "finish_reason": None}]}
                self._chunk(f"data: {json.dumps(event)}\n\n".encode())

        def _cut(self) -> None:
            self.close_connection = True
            self.connection.close()
            raise OSError("cut")

        def _wait(self) -> None:
            while not llm.release.is_set():
                if select.select([self.connection], [], [], 0.05)[0]:
                    raise OSError("the client has gone")

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

    return Handler
