"""The optional phonemiser espeak-ng: asked over a pipe, so that its licence and its faults stay in its own process."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
import unicodedata
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.triton.models.text.ids import Ids

WORKER = Path(__file__).with_name("espeak_worker.py")
START_S = 20.0
ANSWER_S = 5.0
_CLAUSE = re.compile(r"([.,;:!?…—]+)(?=\s|$)")
_SWITCHED = re.compile(r"\([a-z-]+\)")
"""Where espeak says a word in another language."""


class EspeakFailed(RuntimeError):
    """`str()` is a sentence that says what to do."""


class Espeak:
    """One worker process. Safe in any thread: one text at a time; a dead or stuck worker is replaced once."""

    def __init__(self, voice: str, answer_s: float = ANSWER_S) -> None:
        """Raises: EspeakFailed when the extra is not installed or espeak has no such voice."""
        self._voice, self._answer_s = voice, answer_s
        self._lock = threading.Lock()
        self._worker = _Worker(voice)
        self._worker.read(START_S)
        weakref.finalize(self, _stop_of, self.__dict__)

    @property
    def pid(self) -> int:
        return self._worker.process.pid

    def __call__(self, clauses: list[str]) -> list[str]:
        """The clauses in IPA. Raises: EspeakFailed after a second try."""
        with self._lock:
            try:
                return self._worker.ask(clauses, self._answer_s)
            except _Lost:
                self.stop()
                self._worker = _Worker(self._voice)
            try:
                self._worker.read(START_S)
                return self._worker.ask(clauses, self._answer_s)
            except _Lost as error:
                self.stop()
                raise EspeakFailed(
                    f"espeak failed twice at one text ({error}); try again or another text"
                ) from None

    def stop(self) -> None:
        self._worker.stop()


class _Lost(Exception):
    """The worker died or is too slow."""


class _Worker:
    def __init__(self, voice: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), voice], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._rest = b""

    def ask(self, clauses: list[str], seconds: float) -> list[str]:
        assert self.process.stdin is not None
        try:
            # The worker reads a line before it writes one, so that neither waits for the other's full pipe.
            self.process.stdin.write(json.dumps(clauses).encode() + b"\n")
        except OSError as error:
            raise _Lost(str(error)) from None
        return self.read(seconds)

    def read(self, seconds: float) -> list[str]:
        assert self.process.stdout is not None
        until = time.monotonic() + seconds
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._rest:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
            part = os.read(descriptor, 65536) if ready else b""
            if not part:
                raise _Lost("its process ended" if ready else f"no answer within {seconds:g} s")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise EspeakFailed(answer["error"])
        return [str(sounds) for sounds in answer["sounds"]]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(5.0)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def _stop_of(attributes: Mapping[str, Any]) -> None:
    worker = attributes.get("_worker")
    if worker is not None and worker.process.poll() is None:
        worker.stop()


def espeak(settings: Mapping[str, Any], ids: Ids) -> Callable[[str], NDArray[np.int64]]:
    """settings: `espeak_voice`, `space`, `marks` (as for the lexicon).

    Raises: EspeakFailed when the extra is not installed.
    """
    engine = Espeak(str(settings["espeak_voice"]))
    space = str(settings.get("space", " "))
    marks: Mapping[str, str] = settings.get("marks", {})

    def say(text: str) -> NDArray[np.int64]:
        parts = _CLAUSE.split(text.replace("\0", " "))  # espeak's texts end with it
        sounds = engine([clause.strip() for clause in parts[::2]])
        return ids(_symbols(sounds, parts[1::2], space, marks), text)

    return say


def _symbols(sounds: list[str], ends: list[str], space: str, marks: Mapping[str, str]) -> Iterator[str]:
    for index, clause in enumerate(sounds):
        words = unicodedata.normalize("NFD", _SWITCHED.sub("", clause)).split()
        for word_index, word in enumerate(words):
            if space and (word_index or index):
                yield space
            yield from word
        if index < len(ends):
            said = marks.get(ends[index][0], ends[index][0])
            yield from [said] if said else []
