"""`parley models`, the parts that need no Triton: facts, sentences, tables, logs, verify."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from gateway.cli import main
from gateway.cli.models.facts import Row, duration, evict_in_s, next_eviction, rows_of
from gateway.cli.models.listing import as_json, table_of
from gateway.cli.models.logs import About, last_lines
from gateway.cli.models.progress import show
from gateway.cli.models.status import facts_of
from gateway.settings import ModelsSettings
from gateway.triton.leases.client import Change, Record
from gateway.triton.manager.types import State
from gateway.triton.model_info import ModelInfo, model_info, read_config
from gateway.triton.repository import ModelState

CHECKOUT = Path(__file__).parents[3]
SETTINGS = ModelsSettings(ttl_s=600, min_residency_s=120)
RECORD = Record(
    model="tts_x", holders=0, labels=(), sessions=0, changing=None, changer="", changing_s=0.0, since_s=300.0,
    idle_s=230.0, why="session", reason="", failures=0, failed_s=None, load_s=1.5,
)  # fmt: skip


def info(name: str) -> ModelInfo:
    return replace(model_info(read_config(CHECKOUT / "model_repository" / "tts_espeak")), name=name)


def ready(name: str, version: str = "1") -> ModelState:
    return ModelState(name, version, "READY", "")


def row(record: Record | None = RECORD, *states: ModelState, problem: str = "") -> Row:
    records = {} if record is None else {"tts_x": record}
    problems = {"tts_x": problem} if problem else {}
    (only,) = rows_of(states or [ready("tts_x")], {"tts_x": info("tts_x")}, problems, records, SETTINGS)
    return only


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.94, "0.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (370, "6 min 10 s"),
        (3_600, "1 h"),
        (7_500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_are_said_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class TestRows:
    def test_an_idle_model_goes_when_its_time_is_up(self) -> None:
        found = row()
        assert (found.state, found.why, found.since_s, found.idle_s) == (State.READY, "session", 300, 230)
        assert found.evict_in_s == 370

    def test_minimum_residency_comes_before_idle_time(self) -> None:
        young = row(replace(RECORD, since_s=10.0, idle_s=10.0))
        assert evict_in_s(young, ModelsSettings(ttl_s=5, min_residency_s=120)) == 110

    @pytest.mark.parametrize("why", ["default", "preload"])
    def test_a_pinned_model_never_goes(self, why: str) -> None:
        found = row(replace(RECORD, why=why))
        assert found.pinned
        assert found.evict_in_s is None

    def test_a_leased_model_is_not_idle(self) -> None:
        held = replace(RECORD, holders=2, labels=("gateway@a", "speech@b"), sessions=5, idle_s=0.0)
        found = row(held)
        assert found.evict_in_s is None
        assert found.idle_s is None
        assert (found.sessions, found.holders) == (5, ("gateway@a", "speech@b"))

    def test_a_failed_load_keeps_its_sentence_though_triton_only_says_unloaded(self) -> None:
        record = replace(RECORD, since_s=None, reason="no voice was found", failures=1, failed_s=3.0)
        found = row(record, ModelState("tts_x", "1", "UNAVAILABLE", "unloaded"))
        assert (found.state, found.reason) == (State.FAILED, "no voice was found")

    def test_states_follow_triton(self) -> None:
        assert row(None, ModelState("tts_x", "", "", "")).state is State.ABSENT
        assert row(None, ModelState("tts_x", "1", "UNAVAILABLE", "unloaded")).state is State.ABSENT
        assert row(None, ModelState("tts_x", "1", "LOADING", "")).state is State.LOADING
        assert row(None, ModelState("tts_x", "1", "UNLOADING", "")).state is State.UNLOADING
        assert row(None, ModelState("tts_x", "1", "UNAVAILABLE", "it broke")).reason == "it broke"
        unloading = replace(RECORD, changing=Change.UNLOAD, changer="speech@b", changing_s=3.2)
        assert row(unloading).state is State.DRAINING
        assert row(unloading).changing == "unload by speech@b for 3 s"

    def test_a_newer_version_that_failed_leaves_the_old_one_ready(self) -> None:
        found = row(RECORD, ready("tts_x"), ModelState("tts_x", "2", "UNAVAILABLE", "it broke"))
        assert (found.state, found.versions, found.reason) == (State.READY, ("1",), "")
        assert ("last failure", "it broke") in facts_of(found)

    def test_versions_are_sorted_as_numbers(self) -> None:
        assert row(None, ready("tts_x", "10"), ready("tts_x", "9")).versions == ("9", "10")

    def test_a_model_that_cannot_be_served_is_listed_with_the_reason(self) -> None:
        found = row(None, ModelState("tts_x", "", "", ""), problem="config.pbtxt:3: what is this?")
        assert found.reason == "config.pbtxt:3: what is this?"


class TestNextEviction:
    def test_the_one_whose_time_is_up_first(self) -> None:
        later = replace(row(), name="tts_y", idle_s=10.0, evict_in_s=590.0)
        assert next_eviction([later, row()], SETTINGS) == "next eviction: tts_x in 6 min 10 s (TTL 10 min)"

    def test_nothing_when_all_are_pinned_or_leased(self) -> None:
        pinned = row(replace(RECORD, why="default"))
        leased = row(replace(RECORD, holders=1, labels=("a",), sessions=1, idle_s=0.0))
        assert next_eviction([pinned, leased], SETTINGS) == "next eviction: nothing: all pinned or leased"

    def test_above_a_cap_the_longest_idle(self) -> None:
        caps = ModelsSettings(ttl_s=0, max_resident=2, min_residency_s=0)
        other = replace(row(), name="tts_y", idle_s=400.0)
        assert next_eviction([row(), other], caps) == (
            "next eviction: tts_y when room is needed (2 of 2 models)"
        )
        memory = ModelsSettings(ttl_s=0, max_memory_mb=100, min_residency_s=330)
        assert next_eviction([row(), other], memory) == (
            "next eviction: tts_y in 30 s when room is needed (120 of 100 MB)"
        )

    def test_where_nobody_manages_nothing_goes(self) -> None:
        assert "no Parley process" in next_eviction([row(None)], SETTINGS, managed=False)
        assert next_eviction([], SETTINGS) == "next eviction: nothing is resident"
        assert next_eviction([row()], ModelsSettings(ttl_s=0)) == (
            "next eviction: none: nothing is idle, and no cap is reached"
        )


class TestTables:
    def render(self, rows: list[Row], width: int) -> list[str]:
        console = Console(width=width, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
        console.print(table_of(rows, width=width))
        return console.export_text().splitlines()

    @pytest.mark.parametrize("width", [80, 120, 200])
    def test_a_line_for_each_model_and_no_fact_cut(self, width: int) -> None:
        held = replace(RECORD, holders=2, labels=("gateway@a", "speech@b"), sessions=12, since_s=90_000.0)
        rows = [
            replace(row(held), name="asr_parakeet_streaming"),
            row(),
            row(None, ModelState("tts_x", "", "", "")),
        ]
        lines = self.render(rows, width)
        assert len(lines) == 4
        assert all(len(line) <= width for line in lines)
        assert "asr_parakeet_streaming" in lines[1]
        assert "1d1h" in lines[1]
        assert "12 by 2" in lines[1]
        assert "3m50s" in lines[2]
        assert "not loaded" in lines[3]
        assert ("GPL-3.0-or-later" in lines[2]) == (width >= 110)

    def test_json_has_every_fact(self) -> None:
        told = json.loads(json.dumps(as_json(row())))
        assert (told["name"], told["state"], told["family"], told["resident"]) == (
            "tts_x",
            "ready",
            "tts",
            True,
        )
        assert told["versions"] == ["1"]
        assert told["license"] == "GPL-3.0-or-later"
        assert told["evict_in_s"] == 370

    def test_status_says_who_holds_it_and_why_it_is_there(self) -> None:
        held = replace(RECORD, holders=1, labels=("speech@b",), sessions=1, why="default")
        facts = dict(facts_of(row(held)))
        assert facts["leases"] == "1 session of speech@b"
        assert facts["resident"] == "for 5 min, as the default of its family"
        assert facts["last load"] == "took 1.5 s"
        assert "idle" not in facts


LOG = """\
I1121 20:43:49.833822 27429 model_lifecycle.cc:472] "loading: tts_x:1"
I1121 20:43:49.833999 27429 model_lifecycle.cc:472] "loading: tts_xy:1"
E1121 20:43:49.834599 27429 model_lifecycle.cc:642] "failed to load 'tts_x' version 1: Internal: no voice
At:
  /models/1/model.py(3): initialize
I1121 20:43:49.900000 27429 python_be.cc:2249] "TRITONBACKEND_ModelInstanceInitialize: tts_x_0_0 (CPU device 0)"
I1121 20:43:50.000000 27429 grpc_server.cc:2558] "Started"
"""


class TestLogs:
    def test_lines_about_one_model_and_what_belongs_to_them(self, tmp_path: Path) -> None:
        path = tmp_path / "triton.log"
        path.write_text(LOG)
        all_lines = LOG.splitlines()
        assert last_lines(path, "", 0) == all_lines
        assert last_lines(path, "tts_x", 0) == [all_lines[0], *all_lines[2:6]]
        assert last_lines(path, "tts_x", 1) == [all_lines[5]]
        assert last_lines(path, "tts_nothing", 0) == []

    def test_a_longer_name_is_another_model(self) -> None:
        assert not About("tts").wants('I1121 20:43:49.833822 1 a.cc:1] "loading: tts_x:1"')
        assert About("tts_x").wants('I1121 20:43:49.833822 1 a.cc:1] "loading: tts_x:1"')

    def test_only_the_end_of_a_long_log_is_looked_at(self, tmp_path: Path) -> None:
        path = tmp_path / "triton.log"
        path.write_text("x" * 100 + "\n" + ("y" * 99 + "\n") * 20_000)
        lines = last_lines(path, "", 0)
        assert 10_000 < len(lines) < 20_000
        assert set(lines) == {"y" * 99}

    def test_of_a_triton_elsewhere_it_says_where_its_log_is(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        assert main(["models", "logs", "--triton", "10.0.0.7:8001"]) == 1
        assert "10.0.0.7:8001 was not started by `parley up` on this machine" in capsys.readouterr().err

    def test_without_a_stack_it_is_the_last_ones_and_that_is_said(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        monkeypatch.setattr("gateway.cli.models.logs.where_of", lambda *_: "127.0.0.1:1")
        (tmp_path / "parley").mkdir()
        (tmp_path / "parley" / "triton.log").write_text(LOG)
        assert main(["models", "logs", "tts_xy"]) == 0
        told = capsys.readouterr()
        assert told.out.splitlines() == [LOG.splitlines()[1]]
        assert "no stack runs here" in told.err


class TestVerifyFolders:
    def test_the_shipped_repository_is_fine(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models", "verify", "--repository", str(CHECKOUT / "model_repository")]) == 0
        assert "its folder: structure, parameters, tensors" in capsys.readouterr().out

    def test_an_error_is_exit_code_1_and_names_file_and_line(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        folder = tmp_path / "tts_bad"
        folder.mkdir()
        (folder / "config.pbtxt").write_text('name: "tts_bad"\nbackend: "python"\nnonsense: 1\n')
        assert main(["models", "verify", "--repository", str(tmp_path), "--json"]) == 1
        (told,) = json.loads(capsys.readouterr().out)["models"]
        assert (told["name"], told["level"]) == ("tts_bad", "error")
        assert told["findings"][0]["line"] == 3
        assert main(["models", "verify", "--repository", str(tmp_path), "tts_nothing"]) == 1

    def test_a_folder_that_is_not_there_is_said(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert main(["models", "verify", "--repository", str(tmp_path / "nowhere")]) == 1
        assert "does not exist" in capsys.readouterr().out


def test_steps_are_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show(["tts_x"], "load", quiet=False) as shown:
        shown["tts_x"].begin(1.5)
        shown["tts_x"].say("waits: 2 models being loaded already")
        shown["tts_x"].say("waits: 2 models being loaded already")
        shown["tts_x"].end(False, "no voice was found")
    assert capsys.readouterr().out.splitlines() == [
        "tts_x: loading (took 1.5 s last time)",
        "tts_x: waits: 2 models being loaded already",
        "tts_x: failed: no voice was found",
    ]


@pytest.mark.parametrize(
    "words", [["load"], ["unload"], ["load", "x", "--deadline", "soon"], ["logs", "-n", "x"], ["explode"]]
)
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["models", *words])
    assert ended.value.code == 2


def test_no_triton_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert main(["models", "list", "--triton", "127.0.0.1:1"]) == 1
    assert "no Triton answers at 127.0.0.1:1" in capsys.readouterr().err
    assert main(["models", "list", "--triton", "127.0.0.1:1", "--key", "secret"]) == 1
    assert "key=value" in capsys.readouterr().err
