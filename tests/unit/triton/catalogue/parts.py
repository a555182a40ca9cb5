"""Small repositories on the disk for the catalogue's tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.triton.catalogue.findings import Finding, Level
from gateway.triton.catalogue.folder import read_local
from gateway.triton.catalogue.machine import Machine
from gateway.triton.catalogue.validate import validate

MODEL = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
PARAMETERS = {"languages": "en-US", "sample_rate": "16000", "memory_mb": "50", "license": "Apache-2.0"}

_ASR = """
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  oldest { max_candidate_sequences: 64 }
}
input [
  { name: "AUDIO" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "LANGUAGE" data_type: TYPE_STRING dims: [ 1 ] optional: true },
  { name: "HINTS" data_type: TYPE_STRING dims: [ -1 ] optional: true }
]
output [
  { name: "TRANSCRIPT" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "STABLE" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "IS_FINAL" data_type: TYPE_BOOL dims: [ 1 ] },
  { name: "WORDS" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "WORD_TIMES" data_type: TYPE_INT32 dims: [ -1, 2 ] }
]
"""
_TTS = """
model_transaction_policy { decoupled: true }
input [
  { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] optional: true },
  { name: "VOICE" data_type: TYPE_STRING dims: [ 1 ] optional: true },
  { name: "LANGUAGE" data_type: TYPE_STRING dims: [ 1 ] optional: true },
  { name: "STYLE" data_type: TYPE_STRING dims: [ 1 ] optional: true },
  { name: "SPEED" data_type: TYPE_FP32 dims: [ 1 ] optional: true },
  { name: "REFERENCE_AUDIO" data_type: TYPE_FP32 dims: [ -1 ] optional: true },
  { name: "CANCEL" data_type: TYPE_BOOL dims: [ 1 ] optional: true }
]
output [ { name: "AUDIO" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""


def parameters(values: Mapping[str, str]) -> str:
    return "".join(
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
        for key, value in values.items()
    )


def asr(name: str = "asr_x", **changed: str) -> str:
    """The config of a recogniser that keeps its contract; a parameter of "" is left out."""
    return _config(name, "max_batch_size: 8" + _ASR, {"family": "asr"} | PARAMETERS | changed)


def tts(name: str = "tts_x", **changed: str) -> str:
    """The same of a voice."""
    voices = {"voices": "ann,bob", "voice_languages": "en-US,en-US"}
    return _config(name, "max_batch_size: 0" + _TTS, {"family": "tts"} | PARAMETERS | voices | changed)


def _config(name: str, body: str, values: Mapping[str, str]) -> str:
    said = {key: value for key, value in values.items() if value}
    group = "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
    return f'name: "{name}"\nbackend: "python"\n{body}{group}{parameters(said)}'


def write(repository: Path, name: str, config: str | None, files: Mapping[str, str] | None = None) -> Path:
    """A model folder. files: by relative path; a model.py of its own when left out."""
    folder = repository / name
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    for path, content in ({"1/model.py": MODEL} if files is None else files).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            (folder / path).write_text(content)
        else:
            (folder / path).mkdir(exist_ok=True)
    return folder


def findings(repository: Path, machine: Machine | None = None) -> list[Finding]:
    """Of the only model of a repository."""
    folders = read_local(repository)
    assert len(folders) == 1
    return validate(folders[0], machine=machine, siblings=[folders[0].name])


def sentences(found: list[Finding], level: Level = Level.ERROR) -> list[str]:
    return [str(one) for one in found if one.level is level]
