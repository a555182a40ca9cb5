"""Recognisers that hear whole utterances only: the audio is gathered and heard again and again.

All utterances that are due share one batch. What two decodes in a row begin with is stable (local agreement);
the decode at END is that of the whole utterance, so what an utterance ends with does not depend on its chunks,
except that a word once told stable stays. An utterance longer than the model hears at once is cut at a word
boundary: what lies before is committed and its audio forgotten.
"""

from __future__ import annotations

import importlib
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gateway.triton.models.asr.agreement import agreed, continued
from gateway.triton.models.asr.engine import Heard, Job, Samples, Word
from gateway.triton.models.exported import Folder

RATE = 16_000
INTERVAL_MS = 480
AGREEMENT = 2
MARGIN_S = 3.0
"""When an utterance is cut, its last words are heard again with what follows them."""
SILENCE = 2.0**-13
"""Four steps of PCM16: a muted microphone, not a quiet speaker."""


class Transcriber(Protocol):
    max_batch: int
    max_s: float
    """The longest audio that the model hears at once."""

    def transcribe(self, audios: Sequence[Samples], languages: Sequence[str]) -> list[list[Word]]:
        """The words of each, at most max_batch, each 1 sample to max_s; languages: BCP-47 or "". Blocks."""
        ...


@dataclass(slots=True, eq=False, weakref_slot=True)
class Utterance:
    language: str
    before: deque[list[str]]
    """What earlier decodes of the audio said, up to one less than must agree."""
    audio: list[Samples] = field(default_factory=list)
    """What has not been committed."""
    held: int = 0
    """Its samples."""
    fresh: int = 0
    """Of them, those that no decode has heard."""
    dropped: int = 0
    """Samples committed and forgotten."""
    sound: int = 0
    """Where sound was last heard, in samples from START."""
    not_before: float = 0.0
    """When the engine has time for the next decode; seconds of the clock."""
    committed: list[Word] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    """Of `audio`."""
    promised: int = 0
    """Leading ones of `words` that were told to be stable."""

    def take(self, audio: Samples) -> None:
        if not len(audio):
            return
        loud = np.flatnonzero(np.abs(audio) > SILENCE)
        if len(loud):
            self.sound = self.dropped + self.held + int(loud[-1]) + 1
        self.audio.append(audio)
        self.held += len(audio)
        self.fresh += len(audio)

    def heard(self, last: bool) -> Heard:
        words = self.committed + self.words
        return Heard(words, len(words) if last else len(self.committed) + self.promised)

    def samples(self, most: int) -> Samples:
        if len(self.audio) > 1:
            self.audio = [np.concatenate(self.audio)]
        return self.audio[0][:most]


class Buffered:
    """`Recogniser` of a Transcriber. Audio that comes at once is decoded at once: in parts it would cost more.

    agreement: decodes in a row that must agree before a word is stable; 0: none is before END, for models whose
    words do not settle.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        *,
        interval_ms: int = INTERVAL_MS,
        agreement: int = AGREEMENT,
        margin_s: float = MARGIN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if interval_ms < 1 or agreement < 0 or agreement == 1:
            raise ValueError(
                "a buffered recogniser needs interval_ms > 0 and an agreement of 0 or at least 2"
            )
        self.max_batch, self.at_once = transcriber.max_batch, 0
        self._transcriber = transcriber
        self._interval = interval_ms * RATE // 1000
        self._agreement = agreement
        self._most = int(transcriber.max_s * RATE)
        self._margin = min(int(margin_s * RATE), self._most // 3)
        self._clock = clock
        self._open: weakref.WeakSet[Utterance] = weakref.WeakSet()

    def begin(self, language: str = "") -> Utterance:
        utterance = Utterance(language, deque(maxlen=max(0, self._agreement - 1)))
        self._open.add(utterance)
        return utterance

    def step(self, jobs: Sequence[Job[Utterance]]) -> list[Heard | Exception]:
        failed: dict[int, Exception] = {}
        for job in jobs:
            job.utterance.take(job.audio)
        while full := [j for j in jobs if j.utterance.held > self._most and id(j.utterance) not in failed]:
            self._decode([job.utterance for job in full], self._commit, failed)
        due = [job for job in jobs if self._due(job) and id(job.utterance) not in failed]
        # Somebody waits for what an utterance ends with; what it says so far can be heard with its next chunk.
        ending = [job for job in due if job.last]
        self._decode([job.utterance for job in ending or due], self._settle, failed)
        return [failed.get(id(job.utterance)) or job.utterance.heard(job.last) for job in jobs]

    def _due(self, job: Job[Utterance]) -> bool:
        one = job.utterance
        if job.last:
            return one.fresh > 0
        heard = one.dropped + one.held - one.fresh
        # One interval of silence behind the last sound is heard, so that its last word is; more says nothing.
        audible = one.sound > max(heard - self._interval, 0)
        return one.fresh >= self._interval and audible and self._clock() >= one.not_before

    def _decode(
        self,
        utterances: list[Utterance],
        then: Callable[[Utterance, list[Word], int], None],
        failed: dict[int, Exception],
    ) -> None:
        for at in range(0, len(utterances), self.max_batch):
            few = utterances[at : at + self.max_batch]
            audios = [one.samples(self._most) for one in few]
            began = self._clock()
            try:
                heard = self._transcriber.transcribe(audios, [one.language for one in few])
            except Exception as error:
                failed |= {id(one): error for one in few}
                continue
            now = self._clock()
            # Decodes of all open utterances take at most half of the engine's time.
            rest = (now - began) * max(1.0, len(self._open) / len(few))
            for one, audio, words in zip(few, audios, heard, strict=True):
                one.not_before = now + rest
                then(one, _placed(words, one.dropped, len(audio)), len(audio))

    def _settle(self, one: Utterance, words: list[Word], heard: int) -> None:
        """`words` are what is heard now in all of the audio."""
        one.fresh = 0
        kept = _kept(one, words)
        texts = [word.text for word in kept]
        if self._agreement and len(one.before) == self._agreement - 1:
            one.promised = max(one.promised, min(agreed(texts, earlier) for earlier in one.before))
        one.words = kept
        one.before.append(texts)

    def _commit(self, one: Utterance, words: list[Word], heard: int) -> None:
        """Of audio that is as long as the model hears at once, all but the margin is committed and forgotten."""
        words = _kept(one, words)
        limit = _ms(one.dropped + heard - self._margin)
        count = sum(word.end_ms <= limit for word in words)
        following = words[count].start_ms if count < len(words) else limit
        # In the middle of the pause; where a word without an end leaves none, at the margin.
        cut = (words[count - 1].end_ms + min(following, limit)) // 2 if count else min(following, limit)
        dropped = cut * RATE // 1000 - one.dropped
        if dropped < self._margin // 2:
            dropped = heard - self._margin
            count = sum(word.start_ms < limit for word in words)
            # The last of them may go on: what is heard of it again begins at the cut.
            words = [word._replace(end_ms=min(word.end_ms, limit)) for word in words[:count]] + words[count:]
        one.committed += words[:count]
        one.audio = [one.samples(one.held)[dropped:].copy()]
        one.dropped += dropped
        one.held -= dropped
        one.fresh = one.held
        one.words = words[count:]
        one.promised = max(0, one.promised - count)
        one.before.clear()


def load(folder: Folder) -> Buffered:
    """front.json: "decoder" names the module that makes the Transcriber; "interval_ms", "agreement"."""
    decoder = importlib.import_module(f"gateway.triton.models.asr.{folder.front['decoder']}")
    return Buffered(
        decoder.transcriber(folder),
        interval_ms=int(folder.parameter("interval_ms", str(INTERVAL_MS))),
        agreement=int(folder.parameter("agreement", str(AGREEMENT))),
    )


def _kept(one: Utterance, words: list[Word]) -> list[Word]:
    """`words`, with those that were promised before them where they say something else there."""
    promised = one.words[: one.promised]
    texts = [word.text for word in promised]
    if texts == [word.text for word in words[: len(promised)]]:
        return words
    following = words[continued(texts, [word.text for word in words]) :]
    limit = following[0].start_ms if following else promised[-1].end_ms
    return [Word(text, min(start, limit), min(end, limit)) for text, start, end in promised] + following


def _placed(words: Sequence[Word], dropped: int, heard: int) -> list[Word]:
    """Times from START on, none behind the audio that was heard."""
    first, last = _ms(dropped), _ms(dropped + heard)
    return [Word(text, min(first + start, last), min(first + end, last)) for text, start, end in words]


def _ms(samples: int) -> int:
    return samples * 1000 // RATE
