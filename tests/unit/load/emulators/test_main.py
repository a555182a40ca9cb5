"""The program: one line when it is ready, a clean end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from load.emulators.__main__ import main

CHECKOUT = Path(__file__).parents[4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_ends_when_it_is_told(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "load.emulators", "--profile", "blueprint-1", "--set", "tts.rtf=0"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        ready = json.loads(running.stdout.readline())
        running.send_signal(number)
        rest, complaints = running.stdout.read(), running.stderr.read()
        assert running.wait(20) == 0
    assert set(ready) == {"asr", "llm", "triton", "control"}
    assert ready["llm"].startswith("http://127.0.0.1:")
    assert ready["llm"].endswith("/v1")
    assert rest == ""
    assert complaints == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--profile", "nobody"], "ours are blueprint-1"),
        (["--set", "asr.final=1"], "no field"),
        (["--asr", "TAKEN"], "cannot listen on"),
        (["--llm", "TAKEN"], "cannot listen on"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        assert main([taken if a == "TAKEN" else a for a in arguments]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert words in said.err
    assert "Traceback" not in said.err
