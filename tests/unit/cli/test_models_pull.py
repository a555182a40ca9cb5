"""`parley models pull` and `catalogue`, and `scripts/demo --models`, against a hub on this machine."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gateway.cli import demo, main
from gateway.cli.common import Fault
from gateway.cli.demo_models import choose
from gateway.cli.models.pull import run_pull_verb
from gateway.cli.models.pull_arguments import configure_pull
from gateway.cli.models.pull_shown import Lines
from gateway.triton.catalogue.folder import read_local
from gateway.triton.catalogue.validate import validate
from gateway.triton.exported.staging import LOCK
from tests.support.hub import Hub

BUILT_IN = Path(__file__).parents[3] / "model_repository"
WEIGHTS = os.urandom(50_000)
CATALOGUE = """
models:
  ears: {family: whisper, kind: asr, source: "hf:some/whisper-mini", licence: MIT, size_mb: 0.1}
  mouth: {family: speecht5, kind: tts, source: "hf:some/speecht5-mini", licence: MIT, parts: {vocoder: "hf:some/hifigan"}}
  dear: {family: vits, kind: tts, source: "hf:some/mms", licence: CC-BY-NC-4.0}
pairs:
  small: {asr: ears, tts: mouth}
  ears-alone: {asr: ears}
"""


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Hub]:
    for name in [
        name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("PARLEY_")
    ]:
        monkeypatch.delenv(name)
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "catalogue.yaml").write_text(CATALOGUE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PARLEY_TRITON__REPOSITORIES", str(tmp_path / "repository"))
    async with Hub() as one:
        monkeypatch.setenv("HF_ENDPOINT", one.url)
        one.add(
            "some/whisper-mini", {"config.json": b'{"model_type": "whisper"}', "model.safetensors": WEIGHTS}
        )
        one.add("some/speecht5-mini", {"config.json": b"{}", "model.safetensors": WEIGHTS[::-1]})
        one.add("some/hifigan", {"config.json": b'{"hop": 1}', "model.safetensors": WEIGHTS[:9]})
        one.add("some/mms", {"config.json": b'{"model_type": "vits"}'}, licence="cc-by-nc-4.0")
        yield one


class Exports:
    """Stands in for torch: a folder like an export's, and what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.code = 0

    async def __call__(self, arguments: Sequence[str]) -> int:
        self.asked.append(list(arguments))
        out, name = arguments[arguments.index("--out") + 1], arguments[arguments.index("--name") + 1]
        if not self.code:
            (Path(out) / name).mkdir(exist_ok=True)
            (Path(out) / name / "provenance.json").write_text('{"family": "x"}')
        return self.code


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> Exports:
    one = Exports()
    monkeypatch.setattr("gateway.cli.models.bring.bring.__kwdefaults__", {**_defaults(), "exporter": one})
    return one


def _defaults() -> dict[str, object]:
    from gateway.cli.models.bring import bring

    return dict(bring.__kwdefaults__ or {})


def record_in(folder: Path) -> dict[str, object]:
    told = json.loads((folder / ".pulled.json").read_text())
    assert isinstance(told, dict)
    return told


async def pull(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    configure_pull(parser)
    return await run_pull_verb(parser.parse_args(arguments))


async def test_a_checkpoint_is_exported_under_the_name_of_its_entry(
    hub: Hub, exports: Exports, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await pull("mouth") == 0
    commit = hub.repositories["some/speecht5-mini"].commit
    (asked,) = exports.asked
    folder = Path(asked[1])
    assert asked == [
        "speecht5", str(folder), "--out", str(tmp_path / "repository"), "--name", "tts_mouth", "--called",
        "some/speecht5-mini", "--revision", commit, "--license", "MIT", "--option", f"vocoder={folder / 'vocoder'}",
    ]  # fmt: skip
    assert (folder / "vocoder" / "config.json").read_bytes() == b'{"hop": 1}'
    told = json.loads((tmp_path / "repository" / "tts_mouth" / "provenance.json").read_text())
    assert told["family"] == "x"
    assert (told["pulled"]["source"], told["pulled"]["licence"]) == ("some/speecht5-mini", "MIT")
    caught = capsys.readouterr()
    assert "ready for `parley models load tts_mouth`" in caught.out
    assert caught.err.index("licence MIT") < caught.err.index("pulling") < caught.err.index("is complete in")
    assert await pull("mouth") == 0
    assert len(exports.asked) == 1  # nothing is new: nothing is made again


async def test_a_family_is_told_by_its_config(hub: Hub, exports: Exports) -> None:
    await pull("some/whisper-mini", "--name", "asr_mine")
    assert exports.asked[0][0] == "whisper"
    hub.add("some/thing", {"config.json": b"{}", "w.bin": b"1"})
    assert await pull("some/thing") == 0
    assert await pull("some/thing", "--family", "mimi") == 0
    assert [asked[0] for asked in exports.asked] == ["whisper", "mimi"]
    assert "codec_thing" in exports.asked[1]


async def test_a_voice_some_folders_deep_is_found(hub: Hub, exports: Exports) -> None:
    deep = "en/en_US/x/medium"
    hub.add(
        "some/voices",
        {f"{deep}/v.onnx": WEIGHTS, f"{deep}/v.onnx.json": b"{}", "fr/y.onnx": WEIGHTS, "README.md": b""},
    )
    assert await pull("some/voices", "--file", f"{deep}/*", "--name", "tts_v") == 0
    assert exports.asked[0][0] == "piper"
    assert exports.asked[0][1].endswith(f"/{deep}")


async def test_a_failed_export_says_where_the_checkpoint_is(hub: Hub, exports: Exports) -> None:
    exports.code = 1
    with pytest.raises(Fault, match=r"ears was pulled to .*, but its export failed"):
        await pull("ears")
    exports.code = 0
    assert await pull("ears") == 0


class TestLicences:
    async def test_a_non_commercial_one_must_be_accepted_by_its_name(
        self, hub: Hub, exports: Exports
    ) -> None:
        for arguments in (("dear",), ("dear", "--yes"), ("dear", "--accept-license", "MIT")):
            with pytest.raises(
                Fault, match=r"non-commercial use only: pull it with --accept-license CC-BY-NC-4\.0"
            ):
                await pull(*arguments)
        assert hub.asked_for("config.json") == []
        assert await pull("dear", "--accept-license", "cc-by-nc-4.0") == 0
        assert record_in(Path(exports.asked[0][1]))["licence_accepted"] == "by --accept-license"

    async def test_one_that_nobody_names(self, hub: Hub, exports: Exports) -> None:
        hub.add("some/foundling", {"config.json": b"{}"}, licence="")
        with pytest.raises(Fault, match="no licence that its source names: pull it with --yes"):
            await pull("some/foundling")
        assert await pull("some/foundling", "--yes") == 0

    @pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("no\n", 1), ("\n", 1)])
    async def test_on_a_terminal_it_is_asked_for(
        self, hub: Hub, exports: Exports, monkeypatch: pytest.MonkeyPatch, answer: str, code: int,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        ours, theirs = os.openpty()
        with os.fdopen(theirs) as terminal:
            monkeypatch.setattr(sys, "stdin", terminal)
            monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
            os.write(ours, answer.encode())
            if code:
                with pytest.raises(Fault, match="was not accepted"):
                    await pull("dear")
            else:
                assert await pull("dear") == 0
        os.close(ours)
        assert "not commercially? [y/N]" in capsys.readouterr().err


def named(model: Path, name: str) -> None:
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace('"tts_flite"', f'"{name}"', 1))


class TestModelFolders:
    def archive(self, hub: Hub, tmp_path: Path, model: str = "tts_flite") -> str:
        made = shutil.make_archive(str(tmp_path / model), "gztar", BUILT_IN, model)
        hub.plain[f"{model}.tar.gz"] = Path(made).read_bytes()
        return f"{hub.cdn}/plain/{model}.tar.gz"

    async def test_go_into_the_repository(
        self, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        url, repository = self.archive(hub, tmp_path), tmp_path / "repository"
        assert await pull(url, "--yes", "--name", "tts_other") == 0
        (folder,) = read_local(repository)
        assert (folder.name, validate(folder)) == ("tts_other", [])
        told = json.loads((repository / "tts_other" / "provenance.json").read_text())
        assert told["pulled"]["source"] == url
        caught = capsys.readouterr()
        assert "parley models load tts_other" in caught.out
        assert "brings code that Triton will run" in caught.err
        assert await pull(url, "--yes", "--name", "tts_other") == 0  # it is there already, and is that one
        (repository / "tts_flite").mkdir()
        with pytest.raises(Fault, match="tts_flite is there already: remove it, or"):
            await pull(url, "--yes")

    async def test_a_folder_of_several_all_or_none(self, hub: Hub, tmp_path: Path) -> None:
        both = tmp_path / "both"
        for name in ("tts_flite", "graph_x"):
            shutil.copytree(BUILT_IN / "tts_flite", both / name)
        with pytest.raises(Fault, match="two models called tts_flite"):
            await pull(str(both), "--yes")
        text = (both / "graph_x" / "config.pbtxt").read_text()
        (both / "graph_x" / "config.pbtxt").write_text(
            text.replace('"tts_flite"', '"graph_x"', 1) + "rubbish {"
        )
        with pytest.raises(Fault, match=r"no model that Triton could load: graph_x/config\.pbtxt"):
            await pull(str(both), "--yes")
        assert read_local(tmp_path / "repository") == []
        assert sorted(path.name for path in (tmp_path / "repository").iterdir()) == ["catalogue.yaml"]
        with pytest.raises(Fault, match="it holds 2 models, so one name will not do"):
            await pull(str(both), "--yes", "--name", "x")

    async def test_a_front_without_its_graphs_is_not_ready(
        self, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        both, repository = tmp_path / "both", tmp_path / "repository"
        graph = both / "graph_tts_mine_vocoder"
        front = shutil.copytree(BUILT_IN / "tts_flite", both / "tts_mine")
        named(front, "tts_mine")
        graphs = {"encoder": "graph_tts_mine_encoder", "vocoder": graph.name}
        (front / "1" / "front.json").write_text(json.dumps({"kind": "acoustic", "graphs": graphs}))
        named(shutil.copytree(BUILT_IN / "tts_flite", graph), graph.name)
        (graph / "graph.json").write_text("{}")
        lacking = (
            "tts_mine is not whole: it lacks graph_tts_mine_encoder, which it runs and which is not beside it"
        )
        with pytest.raises(Fault, match=lacking):
            await pull(str(both), "--yes")
        with pytest.raises(
            Fault, match="it lacks graph_tts_mine_encoder, graph_tts_mine_vocoder, which it runs"
        ):
            await pull(str(front), "--yes")
        assert read_local(repository) == []
        other = shutil.copytree(BUILT_IN / "tts_flite", both / "graph_tts_mine_encoder")
        (other / "graph.json").write_text("{}")
        named(other, other.name)
        assert await pull(str(both), "--yes") == 0
        assert "parley models load tts_mine" in capsys.readouterr().out
        # Pulled before, and a graph is gone since.
        (repository / other.name / "graph.json").unlink()
        with pytest.raises(Fault, match=lacking):
            await pull(str(both), "--yes")

    async def test_leftovers_of_a_pull_that_was_killed_go_with_the_next(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        left = tmp_path / "repository" / ".pulling-dead"
        left.mkdir()
        (left / LOCK).touch()
        assert await pull(self.archive(hub, tmp_path), "--yes") == 0
        assert not left.exists()

    async def test_no_repository(self, hub: Hub, tmp_path: Path) -> None:
        url = self.archive(hub, tmp_path)
        with pytest.raises(Fault, match="does not exist: create it, or name another with --to"):
            await pull(url, "--yes", "--to", str(tmp_path / "nowhere"))
        with pytest.raises(Fault, match="is an object store"):
            await pull(url, "--to", "s3://bucket/models")


class TestDemo:
    async def test_the_pair_is_pulled_exported_and_named_in_the_settings(
        self, hub: Hub, exports: Exports, tmp_path: Path
    ) -> None:
        said: list[str] = []
        chosen = await choose("small", said.append, exporter=exports)
        repository = tmp_path / "cache" / "parley" / "models"
        assert (chosen.asr, chosen.tts, chosen.repository) == ("asr_ears", "tts_mouth", repository)
        assert chosen.environment == {
            "PARLEY_TRITON__REPOSITORIES": f"{tmp_path / 'repository'},{repository}",
            "PARLEY_MODELS__ASR": "asr_ears", "PARLEY_ASR__MODEL": "asr_ears",
            "PARLEY_MODELS__TTS": "tts_mouth", "PARLEY_TTS__MODEL": "tts_mouth",
        }  # fmt: skip
        assert "untested" in said[0]
        seen = len(hub.seen)
        assert await choose("small", said.append, exporter=exports) == chosen
        assert len(exports.asked) == 2
        assert not [one for one in hub.seen[seen:] if one.host == "cdn"]

    async def test_once_pulled_it_needs_no_network(
        self, hub: Hub, exports: Exports, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chosen = await choose("small", lambda _: None, exporter=exports)
        # The same hub, as it is told from another by nothing but its address.
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert await choose("small", lambda _: None, exporter=exports) == chosen
        assert len(exports.asked) == 2

    async def test_a_recogniser_alone_leaves_the_voice_that_is_set(
        self, hub: Hub, exports: Exports, tmp_path: Path
    ) -> None:
        said: list[str] = []
        chosen = await choose("ears-alone", said.append, exporter=exports)
        assert (chosen.asr, chosen.tts) == ("asr_ears", "")
        assert chosen.environment == {
            "PARLEY_TRITON__REPOSITORIES": f"{tmp_path / 'repository'},{chosen.repository}",
            "PARLEY_MODELS__ASR": "asr_ears", "PARLEY_ASR__MODEL": "asr_ears",
        }  # fmt: skip
        assert said[0].startswith("ears hears and the built-in voice speaks")

    async def test_no_such_pair(self, hub: Hub) -> None:
        with pytest.raises(
            Fault, match="called big; there is: ears-alone, small; `scripts/demo` without --models"
        ):
            await choose("big", lambda _: None)


def test_offline_the_demo_says_in_one_sentence_what_works_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("gateway.triton.pulling.retry.PAUSES_S", (0.0, 0.0, 0.0))
    assert demo.main(["--models", "small"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "parley: 127.0.0.1:9 cannot be reached (connection refused): check the network, HTTPS_PROXY or HF_ENDPOINT; "
        "`scripts/demo` without --models needs no download"
    )


class TestCatalogue:
    def test_the_table_says_what_is_untested(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models", "catalogue"]) == 0
        out = capsys.readouterr().out
        lines = out.splitlines()
        assert lines[0].split() == ["name", "family", "kind", "size", "licence", "languages", "tested"]
        kokoro = next(line for line in lines if line.startswith("kokoro "))
        assert kokoro.split()[:3] == ["kokoro", "kokoro", "tts"]
        assert kokoro.endswith("untested")
        assert "scripts/demo --models small: moonshine-tiny and kokoro (both untested)" in lines

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models", "catalogue", "xtts-v2", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert list(told["models"]) == ["xtts-v2"]
        assert told["models"]["xtts-v2"]["tested"] is False

    def test_what_is_not_in_it(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert main(["models", "catalogue", "nothing"]) == 1
        assert "no catalogue names nothing" in capsys.readouterr().err
        assert main(["models", "catalogue", "--catalogue", str(tmp_path / "no.yaml")]) == 1
        assert "cannot be read" in capsys.readouterr().err


def test_lines_of_a_pull() -> None:
    lines: list[str] = []
    shown = Lines("x", lines.append)
    shown.begin(2_000_000)
    for _ in range(100):
        shown.advance(20_000)
    assert len(lines) == 11
    assert lines[1] == "x: 0.2 MB (10 %)"
    assert lines[-1] == "x: 2.0 MB (100 %)"
