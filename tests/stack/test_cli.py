"""The `parley` command against the stack that `parley up` starts."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import soundfile

from gateway.cli import endpoints
from gateway.triton.preflight import check_host

pytestmark = pytest.mark.stack

CHECKOUT = Path(__file__).parents[2]
SPEECH = CHECKOUT.parent / "shared" / "audio" / "riva-sample.wav"
PARLEY = [sys.executable, "-m", "gateway.cli"]


class Lines:
    """What a process prints, line by line, as it comes."""

    def __init__(self, pipe: IO[str]) -> None:
        self.all: list[str] = []
        self._new: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._reader.start()

    def wait_for(self, part: str, timeout_s: float = 60.0) -> None:
        """Until a line with `part` comes; AssertionError when the process ends or is silent before."""
        try:
            while (line := self._new.get(timeout=timeout_s)) is not None:
                if part in line:
                    return
        except queue.Empty:
            pass
        raise AssertionError(f"no {part!r} in: {self.text}")

    @property
    def text(self) -> str:
        return "".join(self.all)

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            self.all.append(line)
            self._new.put(line)
        self._new.put(None)


@dataclass
class Running:
    endpoints: dict[str, str]
    environment: dict[str, str]
    output: Lines
    process: subprocess.Popen[str]
    taken: str
    """An address that was taken before the start."""

    def parley(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PARLEY, *arguments],
            cwd=CHECKOUT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def start(folder: Path, taken: str) -> Running:
    environment = os.environ | {
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    file = folder / "endpoints.json"
    any_port = [
        word
        for option in ("--riva", "--http", "--admin", "--speech-http", "--llm")
        for word in (option, "127.0.0.1:0")
    ]
    process = subprocess.Popen(
        [*PARLEY, "up", "--endpoints", str(file), "--grpc", taken, *any_port],
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = Lines(process.stdout)
    try:
        output.wait_for("ready after")
    except AssertionError:
        process.kill()
        raise
    return Running(json.loads(file.read_text()), environment, output, process, taken)


def stop(running: Running) -> int:
    running.process.send_signal(signal.SIGINT)
    try:
        return running.process.wait(30)
    finally:
        running.process.kill()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    problems = [problem for problem in check_host() if problem.fatal]
    if problems:
        pytest.skip("; ".join(f"{p.detail} ({p.fix})" for p in problems))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        running = start(tmp_path_factory.mktemp("up"), f"127.0.0.1:{taken.getsockname()[1]}")
        try:
            yield running
        finally:
            assert stop(running) == 0


def test_the_endpoints_file_names_every_part_in_its_form(stack: Running) -> None:
    found = stack.endpoints
    for key in ("grpc", "riva", "triton_grpc"):
        host, _, port = found[key].rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
    for key in ("http", "admin", "speech_http", "triton_http", "triton_metrics", "llm"):
        assert found[key].startswith("http://127.0.0.1:")
    assert found["llm"].endswith("/v1")
    assert Path(found["triton_log"]).is_file()
    assert len(found) == 10
    default = Path(stack.environment["XDG_RUNTIME_DIR"]) / "parley" / "endpoints.json"
    assert json.loads(default.read_text()) == found


def test_a_taken_port_was_replaced_and_that_was_said(stack: Running) -> None:
    assert stack.endpoints["grpc"] != stack.taken
    assert f"{stack.taken} is taken: parley.v1 listens on {stack.endpoints['grpc']}" in stack.output.text


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("http", "/healthz"),
        ("admin", "/readyz"),
        ("admin", "/metrics"),
        ("speech_http", "/healthz"),
        ("speech_http", "/readyz"),
        ("speech_http", "/metrics"),
        ("triton_http", "/v2/health/live"),
        ("triton_metrics", "/metrics"),
        ("llm", "/models"),
    ],
)
def test_every_http_part_answers(stack: Running, key: str, path: str) -> None:
    with urllib.request.urlopen(stack.endpoints[key] + path, timeout=5) as answer:
        assert answer.status == 200


def test_talk_text(stack: Running, tmp_path: Path) -> None:
    out = tmp_path / "reply.wav"
    done = stack.parley("talk", "--text", "Please count from one to five.", "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["type"] == "ready"
    assert lines[-1]["type"] == "closed"
    assert "four" in "".join(line["text"] for line in lines if line["type"] == "reply_text")
    assert [line["outcome"] for line in lines if line["type"] == "reply_done"] == ["completed"]
    samples, rate = soundfile.read(out, dtype="float32", always_2d=True)
    assert samples.shape[1] == 1
    assert np.count_nonzero(np.abs(samples) > 0.01) > rate / 2, "half a second of it is loud"


@pytest.mark.skipif(not SPEECH.exists(), reason="no recorded speech here")
def test_talk_wav_goes_on_until_the_last_reply_was_heard(stack: Running, tmp_path: Path) -> None:
    out = tmp_path / "reply.wav"
    done = stack.parley("talk", "--wav", str(SPEECH), "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    finals = [line["text"] for line in lines if line["type"] == "transcript" and line["final"]]
    assert "natural language processing" in " ".join(finals).lower()
    assert any(not line["final"] for line in lines if line["type"] == "transcript"), "it grew"
    reply = next(line for line in lines if line["type"] == "reply_done")
    assert reply["outcome"] == "completed"
    assert lines[-1]["t_ms"] >= reply["t_ms"]
    samples, rate = soundfile.read(out, dtype="float32")
    first = next(line["t_ms"] for line in lines if line["type"] == "reply_audio") / 1000
    assert not np.any(samples[: int((first - 0.05) * rate)]), "the user is not in it"
    assert np.count_nonzero(samples) > rate * reply["heard_ms"] / 1000 * 0.5


def test_talk_wav_without_speech_is_exit_code_1(stack: Running, tmp_path: Path) -> None:
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(8_000, "int16"), 16_000)
    done = stack.parley("talk", "--wav", str(silence))
    assert done.returncode == 1
    assert "no reply was heard" in done.stdout
    assert "Traceback" not in done.stderr


def test_models_of_the_running_stack_are_found_without_an_address(stack: Running) -> None:
    def states() -> dict[str, str]:
        listed = stack.parley("models", "list", "--json")
        assert listed.returncode == 0, listed.stderr
        return {model["name"]: model["state"] for model in json.loads(listed.stdout)["models"]}

    name = next(name for name in ("tts_espeak", "tts_flite") if states().get(name) == "ready")
    unloaded = stack.parley("models", "unload", "--force", name)
    assert unloaded.returncode == 0, unloaded.stdout
    assert states()[name] == "absent"
    loaded = stack.parley("models", "load", name)
    assert loaded.returncode == 0, loaded.stdout
    assert states()[name] == "ready"
    log = stack.parley("models", "logs", name)
    assert f"successfully loaded '{name}'" in log.stdout


def test_doctor_finds_the_running_stack(stack: Running) -> None:
    done = stack.parley("doctor", "--json")
    assert done.returncode == 0, done.stdout
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert all(findings[key]["state"] == "ok" for key in endpoints.KEYS)


def test_a_part_that_dies_comes_back_and_nothing_is_left_after_the_end(tmp_path: Path) -> None:
    if any(problem.fatal for problem in check_host()):
        pytest.skip("no embedded Triton here")
    running = start(tmp_path, "127.0.0.1:0")
    try:
        children = _children(running.process.pid)
        gateway = next(pid for pid, command in children.items() if "serve gateway" in command)
        os.kill(gateway, signal.SIGKILL)
        running.output.wait_for("gateway is back")
        done = running.parley("talk", "--text", "what time is it")
        assert done.returncode == 0, done.stderr
        children |= _children(running.process.pid)
    finally:
        code = stop(running)
    assert code == 0, running.output.text
    assert not [pid for pid in children if _alive(pid)]
    assert not list(tmp_path.glob("**/endpoints.json"))


def _children(parent: int) -> dict[int, str]:
    """pid -> command line of everything below `parent`."""
    found: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            above = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, IndexError):
            continue
        if above == parent:
            found |= {int(folder.name): command} | _children(int(folder.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
