"""The recogniser's processes: a script that loads the engine once and forks a worker per utterance in hand.

pocketsphinx holds Python's interpreter lock while it decodes and cannot share a loaded model within
a process, so each stream has a process. Forked after the load they share the model's pages.

Started with the number of an inherited socket. Over it, a byte with a socket attached asks for a
worker on that socket; its end ends this process. A worker lives until its own socket ends.

A worker first sends an answer {"pid"}. Then, for each request it reads (one byte of flags, length of
the audio, float32 audio at 16 kHz) it sends one answer: a length, then JSON {"words", "stable", "final"}
or {"error"}.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import sys
import traceback
from typing import Any

START, END = 1, 2
REQUEST = struct.Struct("<BI")
ANSWER = struct.Struct("<I")


def answer(message: dict[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return ANSWER.pack(len(body)) + body


def main(control: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # this process ends with its socket
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended workers leave no zombies
    try:
        from utterance import load_decoder

        decoder = load_decoder()
    except Exception as error:
        control.sendall(answer({"error": f"{type(error).__name__}: {error}"}))
        return
    gc.freeze()  # a collection in a worker would otherwise touch, and so copy, every shared page
    control.sendall(answer({"ready": True}))
    while True:
        asked, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not asked:
            return
        try:
            child = os.fork()
        except OSError as error:
            print(f"asr_pocketsphinx: cannot start a worker: {error}", file=sys.stderr, flush=True)
            child = -1
        if child == 0:
            status = 1
            try:
                control.close()
                serve(socket.socket(fileno=fds[0]), decoder)
                status = 0
            except (ConnectionError, EOFError):
                status = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(status)
        for fd in fds:
            os.close(fd)


def serve(stream: socket.socket, decoder: Any) -> None:
    """Answers requests until the other side closes."""
    import numpy as np
    from utterance import Utterance

    stream.sendall(answer({"pid": os.getpid()}))
    current: Utterance | None = None
    while True:
        flags, length = REQUEST.unpack(_read(stream, REQUEST.size))
        audio = np.frombuffer(_read(stream, length), dtype="<f4")
        try:
            if flags & START:
                current = Utterance(decoder)
            assert current is not None
            current.feed(audio)
            if flags & END:
                words, final = current.finish(), True
                stable, current = len(words), None
            else:
                (words, stable), final = current.partial(), False
            stream.sendall(answer({"words": words, "stable": stable, "final": final}))
        except RuntimeError as error:  # the engine's own; its state is unknown, so the process ends
            stream.sendall(answer({"error": f"pocketsphinx: {error}"}))
            return


def _read(stream: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = stream.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
