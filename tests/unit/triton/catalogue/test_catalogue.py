"""The catalogue: folders and Triton's word made one, and looks that callers share."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.triton.catalogue.catalogue import Catalogue
from gateway.triton.catalogue.findings import Finding
from gateway.triton.catalogue.folder import ModelFolder
from gateway.triton.catalogue.machine import Machine
from gateway.triton.catalogue.validate import validate
from gateway.triton.errors import TritonUnavailable
from gateway.triton.repository import ModelState
from tests.unit.triton.catalogue.parts import asr, tts, write


class Triton:
    """Says what it was told to."""

    def __init__(self, **states: str) -> None:
        self.states = states
        self.configs: dict[str, str] = {}
        self.looks = 0
        self.looked = asyncio.Event()
        self.down = False
        self.gate: asyncio.Event | None = None

    async def index(self, *, ready: bool = False, deadline_s: float = 5.0) -> list[ModelState]:
        self.looks += 1
        self.looked.set()
        if self.down:
            raise TritonUnavailable("model index: Triton cannot be reached")
        if self.gate is not None:
            await self.gate.wait()
        return [ModelState(name, "1" if state else "", state, "") for name, state in self.states.items()]

    async def config(self, name: str, *, deadline_s: float = 5.0) -> ModelConfig:
        if name not in self.configs:
            raise TritonUnavailable(f"model {name}: unloaded")
        return text_format.Parse(self.configs[name], ModelConfig())


def names(catalogue: Catalogue) -> list[str]:
    return [info.name for info in catalogue.all()]


async def test_before_there_is_a_triton_the_folders_say_it_all(tmp_path: Path) -> None:
    write(tmp_path / "a", "asr_x", asr(engine="ears", streaming="true"))
    write(tmp_path / "a", "tts_x", tts(needs_gpu="true"))
    write(tmp_path / "a", "tts_bad", tts("tts_bad"), {"1/model.py": "def ("})
    write(tmp_path / "b", "tts_two", tts("tts_two"))
    write(tmp_path / "c", "tts_two", tts("tts_two"))
    catalogue = Catalogue([tmp_path / "a", tmp_path / "b", tmp_path / "c"], machine=Machine(gpus=0))
    assert catalogue.all() == []
    await catalogue.refresh()
    assert names(catalogue) == ["asr_x"]
    info = catalogue.get("asr_x")
    assert info is not None
    assert (info.engine, info.streaming, info.license) == ("ears", True, "Apache-2.0")
    assert sorted(catalogue.problems()) == ["tts_bad", "tts_two", "tts_x"]
    assert "needs a GPU" in catalogue.problems()["tts_x"]
    assert "is in 2 repositories" in catalogue.problems()["tts_two"]
    assert catalogue.get("tts_bad") is None
    assert catalogue.get("nowhere") is None
    assert [one.line for one in catalogue.findings("tts_bad")] == [1]


async def test_a_change_on_the_disk_is_seen_at_the_next_look(tmp_path: Path) -> None:
    folder = write(tmp_path, "tts_x", tts(), {"1/model.py": "def ("})
    catalogue = Catalogue([tmp_path])
    await catalogue.refresh()
    assert names(catalogue) == []
    (folder / "1/model.py").write_text("class TritonPythonModel: ...")
    write(tmp_path, "tts_y", tts("tts_y"))
    await catalogue.refresh()
    assert names(catalogue) == ["tts_x", "tts_y"]
    assert catalogue.problems() == {}


async def test_what_only_triton_can_tell_is_taken_from_it(tmp_path: Path) -> None:
    write(tmp_path, "tts_x", tts())
    triton = Triton(tts_x="", tts_far="", asr_far="READY", parley_leases="READY")
    triton.configs["asr_far"] = asr("asr_far", languages="hi-IN")
    catalogue = Catalogue([tmp_path, tmp_path / "far"], triton)
    await catalogue.refresh()
    assert names(catalogue) == ["asr_far", "tts_far", "tts_x"], "models of Parley's own are not offered"
    far = catalogue.get("asr_far")
    assert far is not None
    assert far.languages == ("hi-IN",)
    bare = catalogue.get("tts_far")
    assert bare is not None
    assert bare.languages == (), "of a model that it never loaded Triton knows the name"
    assert list(catalogue.unread) == [str(tmp_path / "far")]

    triton.states["asr_far"] = ""
    await catalogue.refresh()
    assert catalogue.get("asr_far") == far, "what it once said is remembered while it is unloaded"
    del triton.states["asr_far"]
    await catalogue.refresh()
    assert catalogue.get("asr_far") is None


async def test_a_loaded_model_that_breaks_its_contract_is_a_problem_where_no_folder_says_it() -> None:
    triton = Triton(tts_far="READY")
    triton.configs["tts_far"] = tts("tts_far").replace(
        '"AUDIO" data_type: TYPE_FP32', '"AUDIO" data_type: TYPE_FP16'
    )
    catalogue = Catalogue([], triton)
    await catalogue.refresh()
    assert catalogue.problems() == {"tts_far": "tts_far: output AUDIO is FP16, and must be FP32"}
    assert names(catalogue) == ["tts_far"], "it is served on"
    triton.states["tts_far"] = ""
    await catalogue.refresh()
    assert catalogue.problems() == {}, "what its folder has now, nobody knows"


async def test_a_loaded_model_is_what_triton_says_whatever_its_folder_became(tmp_path: Path) -> None:
    folder = write(tmp_path, "tts_x", tts())
    triton = Triton(tts_x="READY")
    triton.configs["tts_x"] = tts(voices="old", voice_languages="en-US")
    catalogue = Catalogue([tmp_path], triton)
    (folder / "config.pbtxt").write_text("backend: python")
    await catalogue.refresh()
    info = catalogue.get("tts_x")
    assert info is not None
    assert info.voices == ("old",)
    assert "cannot be read" in catalogue.problems()["tts_x"]


async def test_a_folder_that_triton_does_not_serve_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, "tts_x", tts())
    catalogue = Catalogue([tmp_path], Triton(asr_y=""))
    await catalogue.refresh()
    assert names(catalogue) == ["asr_y"]
    assert "which this Triton was not started with" in catalogue.problems()["tts_x"]


async def test_a_silent_triton_leaves_what_is_known(tmp_path: Path) -> None:
    write(tmp_path, "tts_x", tts())
    triton = Triton(tts_x="", asr_far="READY")
    triton.configs["asr_far"] = asr("asr_far")
    catalogue = Catalogue([tmp_path], triton)
    await catalogue.refresh()
    triton.down = True
    await catalogue.refresh()
    assert names(catalogue) == ["asr_far", "tts_x"]
    assert "cannot be reached" in catalogue.silent
    triton.down = False
    await catalogue.refresh()
    assert catalogue.silent == ""


async def test_callers_share_a_look_that_began_after_they_asked(tmp_path: Path) -> None:
    triton = Triton(asr_far="")
    triton.gate = asyncio.Event()
    catalogue = Catalogue([], triton)
    first = asyncio.create_task(catalogue.refresh())
    await triton.looked.wait()
    later = [asyncio.create_task(catalogue.refresh()) for _ in range(10)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert triton.looks == 1
    triton.states["tts_new"] = ""
    later[0].cancel()  # one that gives up takes nobody along
    triton.gate.set()
    await first
    await asyncio.gather(*later[1:])
    assert triton.looks == 2
    assert names(catalogue) == ["asr_far", "tts_new"]
    await catalogue.refresh()
    assert triton.looks == 3


async def test_an_ensemble_may_lean_on_models_that_only_triton_has(tmp_path: Path) -> None:
    config = 'platform: "ensemble" ensemble_scheduling { step [ { model_name: "far" model_version: -1 } ] }'
    tensors = 'input [{ name: "A" data_type: TYPE_FP32 dims: [-1] }] output [{ name: "B" data_type: TYPE_FP32 dims: [-1] }]'
    write(tmp_path, "both", config + tensors, {"1/": ""})
    alone = Catalogue([tmp_path])
    await alone.refresh()
    assert "its step far is in none of the repositories" in alone.problems()["both"]
    catalogue = Catalogue([tmp_path], Triton(both="", far=""))
    await catalogue.refresh()
    assert catalogue.problems() == {}


async def test_a_loaded_model_that_triton_does_not_describe_is_what_its_folder_says(tmp_path: Path) -> None:
    write(tmp_path, "tts_x", tts())
    catalogue = Catalogue([tmp_path], Triton(tts_x="READY"))
    await catalogue.refresh()
    info = catalogue.get("tts_x")
    assert info is not None
    assert info.voices == ("ann", "bob")


async def test_only_what_changed_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def counted(folder: ModelFolder, **given: Any) -> list[Finding]:
        seen.append(folder.name)
        return validate(folder, **given)

    monkeypatch.setattr("gateway.triton.catalogue.catalogue.validate", counted)
    folder = write(tmp_path, "tts_x", tts())
    write(tmp_path, "tts_y", tts("tts_y"))
    catalogue = Catalogue([tmp_path])
    await catalogue.refresh()
    await catalogue.refresh()
    assert seen == ["tts_x", "tts_y"]
    (folder / "config.pbtxt").write_text(tts(default="true"))
    await catalogue.refresh()
    assert seen == ["tts_x", "tts_y", "tts_x"]
