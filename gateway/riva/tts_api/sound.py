"""From a model's audio to frames: one loudness, no peak above the ceiling, 48 kHz, 20 ms each.

Everything happens as the audio comes from the model, not as it leaves: so what a frame sounds like depends on
what was said alone, and neither a pause nor a slow client changes a sample.
"""

from __future__ import annotations

import numpy as np

from gateway.audio.limiter import Limiter
from gateway.audio.lufs import LoudnessMeter
from gateway.audio.pcm import Float, frame_bytes, to_pcm
from gateway.audio.resample import Resampler, borrow, give_back
from gateway.riva.tts_api.levels import VoiceLevel

RATE = 48_000
FRAME_MS = 20
FRAME_BYTES = frame_bytes(RATE, FRAME_MS)
"""1,920."""
HOLD_S = 1.5
"""Speech of a voice never heard before that is looked at before its first frame leaves; see `thaw`."""

_CEILING_DBTP = -1.4
"""Promised is −1: resampling at the client, and what PCM16 rounds, take their part."""
_MAX_GAIN_DB = 24.0
_RISE_DB_S = 3.0
_FALL_DB_S = 6.0
"""Slow enough not to be heard as pumping, fast enough that three seconds come out at the target."""
_MOST_LOSS_DB = 3.0
_PRIOR_S = 2.0
"""A voice that is known is believed as much as so much speech of this utterance."""
_WRONG_LU = 0.5
"""The gain stays where it is until it is as wrong as this."""
_MAKE_UP_S = 1.0
_MOST_MADE_UP_DB = 1.5
"""What was said too softly or too loudly so far is made up for within about so long, by no more than this."""
_EARLY_S, _LONG_S = 0.5, 6.0
"""So little is no measure yet; what lies further back than the other weighs no more."""
_FULL_SCALE = np.float32(32768)


class Sound:
    """One utterance, whatever number of texts it has. `close` it."""

    def __init__(self, target_lufs: float, *, makes_up: bool = True) -> None:
        """makes_up: for what was too soft or too loud so far. Not where a level is measured: it would hide what is."""
        self._target = target_lufs
        self._makes_up = makes_up
        self._limiter = Limiter(RATE, _CEILING_DBTP)
        self._level = VoiceLevel()
        self._meter: LoudnessMeter | None = None
        """Of what the voice says ..."""
        self._told = LoudnessMeter(RATE)
        """... and of what leaves."""
        self._resampler: Resampler | None = None
        self._held: list[Float] = []
        self._held_s = 0.0
        self._cold = False
        self._gain_db: float | None = None
        self._moving = False
        self._partial = b""
        self._owed = 0.0
        """Samples at 48 kHz that the audio so far lasts, less those in frames already."""

    @property
    def gain_db(self) -> float | None:
        """In force; None before any is known."""
        return self._gain_db

    @property
    def cold(self) -> bool:
        """Audio is held back because nobody knows yet how loud it is."""
        return self._cold and bool(self._held)

    def voice(self, rate: int, level: VoiceLevel) -> list[bytes]:
        """What comes next has this rate (Hz) and is of this voice. Returns frames that this completes."""
        if self._resampler is not None and self._resampler.in_rate == rate and level is self._level:
            return []
        frames = self._cut(self._end_voice())
        self._resampler = borrow(rate, RATE)
        self._meter = LoudnessMeter(rate)
        self._level = level
        self._cold = level.lufs is None
        self._gain_db = None
        return frames

    def push(self, samples: Float) -> list[bytes]:
        """float32 [n], −1…1 → the frames that it completes."""
        samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
        if self._cold:
            assert self._resampler is not None
            self._held.append(samples)
            self._held_s += len(samples) / self._resampler.in_rate
            return self.thaw() if self._held_s >= HOLD_S else []
        return self._cut(self._work(samples))

    def thaw(self) -> list[bytes]:
        """Waiting for more would be heard as a delay: go on with what is known."""
        self._cold, self._held_s = False, 0.0
        held, self._held = self._held, []
        return self._cut(self._work(np.concatenate(held))) if held else []

    def finish(self) -> list[bytes]:
        """The last frames, the very last filled up with silence."""
        pcm = self._partial + self._end_voice() + to_pcm(self._limiter.flush())
        self._partial = b""
        # The resampler's tail may be longer than the audio: no frame is made for it alone.
        pcm = pcm[: 2 * max(0, round(self._owed))]
        return self._cut(pcm + bytes(-len(pcm) % FRAME_BYTES))

    def close(self) -> None:
        """No more is pushed; what was learned is kept."""
        if self._meter is not None and (lufs := self._meter.lufs) is not None:
            self._level.learn(lufs - self._loss_db, self._meter.voiced_s)
        if self._resampler is not None:
            give_back(self._resampler)
        self._meter = self._resampler = None
        self._held = []

    @property
    def _loss_db(self) -> float:
        # Bounded, or a gain that was too high for a moment would see its own limiting as a reason to stay.
        return min(self._limiter.loss_db, _MOST_LOSS_DB)

    def _end_voice(self) -> bytes:
        """What the resampler still holds of the voice so far."""
        if self._resampler is None:
            return b""
        held, self._held, self._cold = self._held, [], False
        pcm = self._work(np.concatenate(held)) if held else b""
        rest = self._level_out(self._resampler.drain().astype(np.float32) / _FULL_SCALE, 0.0)
        self.close()
        return pcm + rest

    def _work(self, samples: Float) -> bytes:
        assert self._meter is not None
        assert self._resampler is not None
        self._meter.push(samples)
        self._owed += len(samples) * RATE / self._resampler.in_rate
        louder = self._resampler.push(samples * _FULL_SCALE).astype(np.float32) / _FULL_SCALE
        return self._level_out(louder, len(samples) / self._resampler.in_rate)

    def _level_out(self, samples: Float, seconds: float) -> bytes:
        """Gain and limiter; `seconds` of audio were heard since the last call."""
        wanted = self._wanted_db()
        if self._gain_db is None:
            # The first that is heard of the voice sets the gain at once: there is nothing yet to differ from.
            before = after = wanted if wanted is not None else 0.0
            self._gain_db = wanted
        else:
            before = after = self._gain_db
            if wanted is not None:
                after += max(-_FALL_DB_S * seconds, min(_RISE_DB_S * seconds, wanted - before))
                self._gain_db = after
        if before == after:
            samples = samples * np.float32(10 ** (before / 20))
        else:
            ramp = np.linspace(before, after, len(samples), endpoint=False, dtype=np.float32)
            samples = samples * np.float32(10) ** (ramp / np.float32(20))
        samples = self._limiter.push(samples)
        self._told.push(samples)
        return to_pcm(samples)

    def _wanted_db(self) -> float | None:
        """None: as it is."""
        assert self._meter is not None
        heard, prior = self._meter.lufs, self._level.lufs
        if prior is not None and (heard is None or self._gain_db is None):
            lufs = prior
        elif heard is None:
            return None
        else:
            # What the limiter takes away has to be made up for.
            heard -= self._loss_db
            voiced_s = self._meter.voiced_s
            known_s = min(_PRIOR_S, self._level.weight_s) if prior is not None else 0.0
            lufs = (heard * voiced_s + (prior or 0.0) * known_s) / (voiced_s + known_s)
        wanted = self._target - lufs + self._made_up_db()
        wanted = max(-_MAX_GAIN_DB, min(_MAX_GAIN_DB, wanted))
        if self._gain_db is not None:
            off = abs(wanted - self._gain_db)
            self._moving = off > (0.1 if self._moving else _WRONG_LU)
            if not self._moving:
                return None
        return wanted

    def _made_up_db(self) -> float:
        """What the utterance so far calls for: people hear its loudness as a whole."""
        if not self._makes_up or self._gain_db is None:
            return 0.0
        told, told_s = self._told.lufs, self._told.voiced_s
        if told is None or told_s < _EARLY_S:
            return 0.0
        owed = (self._target - told) * min(told_s, _LONG_S) / _MAKE_UP_S
        return max(-_MOST_MADE_UP_DB, min(_MOST_MADE_UP_DB, owed))

    def _cut(self, pcm: bytes) -> list[bytes]:
        pcm = self._partial + pcm
        whole = len(pcm) // FRAME_BYTES * FRAME_BYTES
        self._partial = pcm[whole:]
        self._owed -= whole // 2
        return [pcm[at : at + FRAME_BYTES] for at in range(0, whole, FRAME_BYTES)]
