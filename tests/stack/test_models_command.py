"""`parley models` against the embedded server, and against a `tritonserver` that somebody started by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import endpoints, main
from gateway.triton.channel import open_channel
from gateway.triton.leases.client import TritonLeases
from tests.stack.test_cli import Lines
from tests.support.plain_triton import plain_triton
from tests.support.stack import TEST_MODELS, Stack, skip_without_triton

pytestmark = pytest.mark.stack

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def row(self, name: str) -> dict[str, Any]:
        """Of `list --json`."""
        return next(model for model in self.json["models"] if model["name"] == name)


Parley = Callable[..., Result]


@pytest.fixture(scope="module", params=["embedded", "plain"])
def triton(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of either kind, with asr_count loaded by whoever started it."""
    skip_without_triton()
    if request.param == "embedded":
        with Stack(["asr_count"], repositories=(TEST_MODELS,)) as stack:
            yield stack.triton.grpc
    else:
        with plain_triton(tmp_path_factory.mktemp("plain"), TEST_MODELS, load=["asr_count"]) as address:
            yield address


@pytest.fixture(autouse=True)
def _on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PARLEY_MODELS__LEASE_S", "1")  # a lease table that is new refuses unloads for so long


@pytest.fixture
def parley(triton: str, capsys: pytest.CaptureFixture[str]) -> Parley:
    """`parley models …`, in this process."""

    def run(*words: str) -> Result:
        code = main(["models", *words, "--triton", triton])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
async def speech(triton: str) -> AsyncIterator[TritonLeases]:
    """The leases of another process."""
    channel = open_channel(triton)
    leases = TritonLeases(channel, label="speech@elsewhere")
    yield leases
    await leases.close()
    await channel.close()


def test_list_names_every_model_and_what_goes_next(parley: Parley) -> None:
    listed = parley("list")
    assert listed.code == 0
    lines = listed.out.splitlines()
    assert lines[0].split()[:3] == ["model", "version", "state"]
    assert [line.split()[1:3] for line in lines if line.startswith("asr_count ")] == [["1", "ready"]]
    assert "not loaded" in next(line for line in lines if line.startswith("tts_tone "))
    assert lines[-1].startswith("next eviction: ")
    assert "parley_" not in listed.out
    assert "\x1b" not in listed.out


def test_a_model_comes_and_goes(parley: Parley, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = parley("load", "tts_tone")
    assert loaded.code == 0, loaded.out
    assert loaded.out.splitlines()[-1].startswith("tts_tone: loaded in ")
    row = parley("list", "--json").row("tts_tone")
    assert (row["state"], row["why"], row["versions"]) == ("ready", "operator", ["1"])
    assert row["since_s"] < 30
    assert row["load_s"] > 0
    assert row["evict_in_s"] > 500
    assert "(TTL 10 min)" in parley("list").out.splitlines()[-1]

    young = parley("unload", "tts_tone")
    assert young.code == 1
    assert "it may go in 1" in young.out
    assert parley("load", "tts_tone").out.splitlines()[-1] == "tts_tone: loaded already"

    monkeypatch.setenv("PARLEY_MODELS__MIN_RESIDENCY_S", "0")
    unloaded = parley("unload", "tts_tone", "--json", "--deadline", "30")
    assert unloaded.code == 0, unloaded.out
    assert [(one["name"], one["ok"]) for one in unloaded.json] == [("tts_tone", True)]
    assert parley("list", "--json").row("tts_tone")["state"] == "absent"
    assert parley("unload", "tts_tone").out == "tts_tone: unloading\ntts_tone: not loaded\n"


def test_a_recogniser_whose_folder_is_elsewhere_loads_as_what_it_is(parley: Parley) -> None:
    loaded = parley("load", "asr_light")
    assert loaded.code == 0, loaded.out
    assert parley("status", "asr_light").code == 0
    assert parley("unload", "asr_light", "--force").code == 0


def test_one_that_fails_does_not_keep_the_others_back(parley: Parley) -> None:
    loaded = parley("load", "asr_broken", "tts_tone", "asr_of_tomorrow")
    assert loaded.code == 1
    assert "asr_broken: failed: " in loaded.out
    assert "the dictionary is missing" in loaded.out
    assert "tts_tone: loaded" in loaded.out
    assert "asr_of_tomorrow: failed: there is no model asr_of_tomorrow" in loaded.out
    status = parley("status", "asr_broken", "tts_tone", "--json")
    assert status.code == 1
    broken, tone = status.json
    assert (broken["state"], broken["ready"]) == ("failed", False)
    assert "the dictionary is missing" in broken["reason"]
    assert (tone["state"], tone["ready"]) == ("ready", True)
    words = parley("status", "asr_broken")
    assert words.code == 1
    assert words.out.startswith("asr_broken  failed\n  reason        ")
    assert parley("unload", "tts_tone", "--force").code == 0


def test_a_load_that_hangs_is_given_up_and_a_broken_contract_seen_where_no_folder_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_triton()
    for name in ("tts_dtype", "tts_hang"):
        shutil.copytree(TEST_MODELS / "tts_light", tmp_path / "models" / name)
        config = tmp_path / "models" / name / "config.pbtxt"
        config.write_text(config.read_text().replace('"tts_light"', f'"{name}"'))
    dtype = tmp_path / "models" / "tts_dtype" / "config.pbtxt"
    dtype.write_text(
        dtype.read_text().replace('"AUDIO", data_type: TYPE_FP32', '"AUDIO", data_type: TYPE_FP16')
    )
    code = "class TritonPythonModel:\n    def initialize(self, args):\n        __import__('time').sleep(9)\n"
    (tmp_path / "models" / "tts_hang" / "1" / "model.py").write_text(code)
    monkeypatch.setenv("PARLEY_MODELS__LOAD_S", "5")
    (tmp_path / "server").mkdir()
    with plain_triton(tmp_path / "server", tmp_path / "models") as address:
        assert main(["models", "load", "tts_dtype", "tts_hang", "--triton", address]) == 1
        said = capsys.readouterr().out
        assert "tts_dtype: failed: does not load: output AUDIO is FP16, and must be FP32" in said
        assert "tts_hang: failed: did not load within 5 s" in said


def test_status_has_the_facts_of_a_model(parley: Parley) -> None:
    status = parley("status", "asr_count")
    assert status.code == 0
    assert status.out.startswith("asr_count  ready\n")
    assert "  family        asr\n" in status.out
    assert parley("status", "asr_of_tomorrow").code == 1


async def test_a_model_in_use_stays_unless_forced(parley: Parley, speech: TritonLeases) -> None:
    assert (await asyncio.to_thread(parley, "load", "tts_tone")).code == 0
    await speech.hold("tts_tone")
    row = (await asyncio.to_thread(parley, "list", "--json")).row("tts_tone")
    assert (row["sessions"], row["holders"], row["evict_in_s"]) == (1, ["speech@elsewhere"], None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARLEY_MODELS__MIN_RESIDENCY_S", "0")
        refused = await asyncio.to_thread(parley, "unload", "tts_tone")
    assert refused.code == 1
    assert "in use by 1 session (speech@elsewhere)" in refused.out
    assert (await asyncio.to_thread(parley, "status", "tts_tone")).code == 0
    forced = await asyncio.to_thread(parley, "unload", "tts_tone", "--force")
    assert forced.code == 0, forced.out
    speech.drop("tts_tone")


def test_verify_looks_at_what_triton_has_loaded(parley: Parley) -> None:
    found = parley("verify", "asr_count", "--json")
    (told,) = found.json["models"]
    assert told["name"] == "asr_count"
    assert any(finding["level"] == "ok" for finding in told["findings"])
    assert found.code == (1 if told["level"] == "error" else 0)
    missing = parley("verify", "asr_of_tomorrow")
    assert missing.code == 1
    assert "asr_of_tomorrow  error" in missing.out


def test_a_restricted_repository_needs_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_triton()
    folder = tmp_path / "restricted"
    folder.mkdir()
    with plain_triton(
        folder, TEST_MODELS, "--grpc-restricted-protocol=model-repository:admin=s3cret"
    ) as address:
        assert main(["models", "list", "--triton", address]) == 1
        assert "PARLEY_TRITON__REPOSITORY_KEY" in capsys.readouterr().err
        assert main(["models", "list", "--triton", address, "--key", "admin=s3cret"]) == 0
        monkeypatch.setenv("PARLEY_TRITON__REPOSITORY_KEY", "admin=s3cret")
        assert main(["models", "load", "tts_tone", "--triton", address]) == 0
        assert "s3cret" not in "".join(capsys.readouterr())


def test_a_triton_that_keeps_its_models_says_how_to_start_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    skip_without_triton()
    shutil.copytree(TEST_MODELS / "tts_tone", tmp_path / "models" / "tts_tone")
    folder = tmp_path / "none"
    folder.mkdir()
    with plain_triton(folder, tmp_path / "models", "--model-control-mode=none") as address:
        for verb in ("load", "unload"):
            assert main(["models", verb, "tts_tone", "--triton", address]) == 1
            said = capsys.readouterr()
            assert said.out == ""
            assert said.err == (
                "parley: this Triton neither loads nor unloads by request; "
                "start it with --model-control-mode=explicit\n"
            )
        loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert not loud, "one sentence is enough"
        assert main(["models", "list", "--triton", address]) == 0


def test_logs_of_one_model_and_what_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skip_without_triton()
    with Stack(["asr_count"], repositories=(TEST_MODELS,)) as stack:
        where = {"triton_grpc": stack.triton.grpc, "triton_log": str(stack.triton.log)}
        endpoints.write(endpoints.default_path(), where)
        assert main(["models", "logs", "asr_count"]) == 0
        assert "successfully loaded 'asr_count'" in capsys.readouterr().out
        assert main(["models", "logs", "tts_tone"]) == 1
        assert "no line about tts_tone" in capsys.readouterr().err
        follow = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "models", "logs", "-f", "-n", "1", "asr_count"],
            cwd=CHECKOUT, env=os.environ, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert follow.stdout is not None
        lines = Lines(follow.stdout)
        try:
            lines.wait_for("asr_count")
            assert main(["models", "load", "tts_tone"]) == 0
            assert main(["models", "unload", "--force", "asr_count"]) == 0
            lines.wait_for("successfully unloaded 'asr_count'")
            assert "tts_tone" not in lines.text
            follow.send_signal(signal.SIGINT)
            assert follow.wait(10) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                follow.kill()
            follow.wait()
