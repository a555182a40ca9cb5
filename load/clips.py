"""What the callers say: recordings of people where they are at hand, else a synthetic voice.

    python -m load.clips        prints the manifest that the callers read

The manifest is a list of {"file", "onset_ms", "end_ms", "duration_ms", "text"}; files are raw PCM16 at
16 kHz beside it. Onset and end follow the rule of ends of `bench.speech`. Long recordings are cut at
their pauses, and what no caller needs to wait for, the silence around the speech, is cut off.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gateway.triton.exported.environment import cache_folder

if TYPE_CHECKING:
    from bench.speech import Clip
    from gateway.audio.pcm import Int16
    from gateway.triton.models.voices import Engine

RATE = 16_000
LONGEST_S = 6.0
BEFORE_S, AFTER_S, FADE_S = 0.1, 0.1, 0.06
"""Kept around the speech, faded in and out: where a recording's own noise sets in, nobody has spoken yet."""
_PAUSE_DB, _PAUSE_FRAMES = 30.0, 20
"""A pause: at least 200 ms this far below the loudest 10 ms."""
_MODELS = Path(__file__).parents[1] / "model_repository"
_SYNTHETIC = (
    "hello there. what can you do for me?",
    "my name is mary, and i live in a small town by the sea",
    "what time is it?",
    "i want to hear a long story",
    "well, let me think. yes, please do that",
    "do you remember my name?",
)
_VERSION = "2"
"""Changes when the same sources shall give other clips."""


class NoSpeech(RuntimeError):
    """There is nothing to say; `str()` says what to do."""


def ensure_clips(folder: Path | None = None) -> Path:
    """The manifest; makes it the first time. Raises NoSpeech."""
    from bench import speech

    recorded = folder or speech.FOLDER
    cache = cache_folder() / f"clips-{_state(recorded)}"
    manifest = cache / "manifest.json"
    if not manifest.exists():
        whole = speech.recordings(folder=recorded) or synthetic()
        write(_unique(cut for clip in whole for cut in pieces(clip)), cache)
    return manifest


def pieces(clip: Clip) -> list[Clip]:
    """The clip without the silence around it; one of more than 6 s of speech is cut in its longest pauses."""
    from bench import speech

    if clip.end_s - clip.onset_s > LONGEST_S and (at := _longest_pause(clip)):
        halves = (clip.samples[:at], clip.samples[at:])
        named = [
            speech.clip(f"{Path(clip.name).stem}-{number}", half)
            for number, half in enumerate(halves, start=1)
        ]
        return [piece for half in named for piece in pieces(half)]
    begin = max(0, round((clip.onset_s - BEFORE_S) * RATE))
    end = round((clip.end_s + AFTER_S) * RATE)
    return [speech.clip(clip.name, _faded(clip.samples[begin:end]), clip.text)]


def _faded(samples: Int16) -> Int16:
    import numpy as np

    length = min(round(FADE_S * RATE), len(samples) // 2)
    ramp = np.sin(np.linspace(0, np.pi / 2, length)) ** 2
    faded = samples.astype(np.float64)
    faded[:length] *= ramp
    faded[len(faded) - length :] *= ramp[::-1]
    return faded.round().astype(np.int16)


def _longest_pause(clip: Clip) -> int | None:
    """Its middle, in samples; None when there is no pause within the speech."""
    from bench import speech

    levels = speech.levels_db(clip.samples)
    begin, end = round(clip.onset_s * 100), round(clip.end_s * 100)
    quiet = levels < levels.max() - _PAUSE_DB
    best, at, run = 0, None, 0
    for frame in range(begin, end):
        run = run + 1 if quiet[frame] else 0
        if run > best:
            best, at = run, frame - run // 2
    return at * RATE // 100 if at is not None and best >= _PAUSE_FRAMES else None


def write(clips: Iterable[Clip], folder: Path) -> Path:
    """Files and manifest, all of it or nothing. Returns the manifest."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="clips-", dir=folder.parent) as made:
        whole = Path(made) / "clips"
        whole.mkdir()
        entries = []
        for clip in clips:
            name = Path(clip.name).with_suffix(".pcm").name
            (whole / name).write_bytes(clip.samples.astype("<i2").tobytes())
            entries.append(
                {
                    "file": name,
                    "onset_ms": round(clip.onset_s * 1000),
                    "end_ms": round(clip.end_s * 1000),
                    "duration_ms": round(clip.seconds * 1000),
                    "text": clip.text,
                }
            )
        (whole / "manifest.json").write_text(json.dumps(entries, indent=1))
        try:
            whole.rename(folder)
        except OSError:
            if not (folder / "manifest.json").exists():
                raise
    return folder / "manifest.json"


def synthetic() -> list[Clip]:
    """Lines of a synthetic voice: flite where it is installed, else espeak-ng. Raises NoSpeech."""
    from bench import speech
    from gateway.audio.resample import resample

    engine = _engine()
    return [
        speech.clip(f"synthetic-{number}", resample(_speak(engine, text), engine.rate, RATE), text)
        for number, text in enumerate(_SYNTHETIC, start=1)
    ]


def _speak(engine: Engine, text: str) -> Int16:
    import numpy as np

    made: list[Any] = []

    def heard(samples: Any) -> bool:
        made.append(samples)
        return True

    engine.synthesize(text, engine.voices[0], 1.0, heard)
    return cast("Int16", np.concatenate(made))


def _engine() -> Engine:
    reasons = []
    for model, module, name in (("tts_flite", "flite", "Flite"), ("tts_espeak", "espeak", "Espeak")):
        try:
            return cast("Engine", getattr(_load(_MODELS / model / "1" / f"{module}.py"), name)())
        except RuntimeError as error:
            reasons.append(str(error))
    raise NoSpeech(
        "there is no speech for the callers: put recordings with a transcripts.json into shared/audio beside "
        f"the checkout, or install a voice ({'; '.join(reasons)})"
    )


def _load(path: Path) -> Any:
    """A model's module: they lie outside every package."""
    spec = importlib.util.spec_from_file_location(f"parley_load_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _unique(clips: Iterable[Clip]) -> list[Clip]:
    return list({clip.name: clip for clip in clips}.values())


def _state(folder: Path) -> str:
    digest = hashlib.sha256(_VERSION.encode())
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        about = path.stat()
        digest.update(f"{path.name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def main() -> int:
    """The command `python -m load.clips`."""
    parser = argparse.ArgumentParser(prog="python -m load.clips", description=__doc__)
    parser.add_argument("--folder", type=Path, help="recordings with a transcripts.json")
    try:
        print(ensure_clips(parser.parse_args().folder))
    except NoSpeech as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
