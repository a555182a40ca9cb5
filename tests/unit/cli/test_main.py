"""Usage, exit codes and the texts of ordinary mistakes."""

from __future__ import annotations

import builtins
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.cli.common import Fault, load_settings


@pytest.fixture(autouse=True)
def no_running_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture
def dead_address() -> Iterator[str]:
    """Bound, so that nobody else takes it, but nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    caught = capsys.readouterr()
    assert "Traceback" not in caught.out + caught.err
    return code, caught.out, caught.err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ((), "examples:"),
        (("up",), "--endpoints FILE"),
        (("serve",), "gateway"),
        (("serve", "gateway"), "--grpc ADDR"),
        (("serve", "speech"), "--triton ADDR"),
        (("serve", "llm"), "--listen ADDR"),
        (("talk",), "--wav IN"),
        (("models",), "unload"),
        (("models", "load"), "MODEL"),
        (("doctor",), "exit codes"),
    ],
)
def test_every_command_explains_itself(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], says: str
) -> None:
    code, out, _ = outcome(capsys, *command, "--help")
    assert code == 0
    assert says in out
    assert "supervisor" not in out, "inner options are not for people"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("sing",),
        ("talk",),
        ("talk", "--mic", "--text", "hello"),
        ("talk", "--text", "hello", "--server", "localhost:many"),
        ("talk", "--text", "hello", "--server", "localhost:70000"),
        ("talk", "--text", "hello", "--server", "http://localhost:1"),
        ("talk", "--mic", "--out", "x.wav"),
        ("talk", "--wav", "not-there.wav"),
        ("models", "load"),
        ("serve", "gateway", "--grpc", "nowhere"),
        ("up", "--grpc", "1:2:3:4:5"),
    ],
)
def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, err = outcome(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str], dead_address: str) -> None:
    code, _, err = outcome(capsys, "talk", "--text", "hello", "--server", dead_address)
    assert code == 1
    assert err == f"parley: nobody answers at {dead_address}; start Parley with `parley up`\n"


def test_a_triton_that_is_not_there(capsys: pytest.CaptureFixture[str], dead_address: str) -> None:
    code, _, err = outcome(capsys, "models", "list", "--triton", dead_address)
    assert code == 1
    assert f"no Triton answers at {dead_address}" in err
    assert "--triton" in err


def test_a_file_that_is_no_audio(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "noise.wav"
    path.write_bytes(b"these are words, not audio")
    code, _, err = outcome(capsys, "talk", "--wav", str(path))
    assert code == 2
    assert "no audio file" in err
    assert "WAV, FLAC or Ogg" in err


def test_an_out_file_in_no_folder_is_said_before_the_call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, dead_address: str
) -> None:
    out = str(tmp_path / "nowhere" / "reply.wav")
    code, _, err = outcome(capsys, "talk", "--text", "hi", "--out", out, "--server", dead_address)
    assert code == 2
    assert "there is no folder" in err


def test_the_microphone_names_the_extra_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_sound(name: str, *rest: Any, **more: Any) -> Any:
        if name == "sounddevice":
            raise ImportError("No module named 'sounddevice'", name="sounddevice")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_sound)
    code, _, err = outcome(capsys, "talk", "--mic")
    assert code == 1
    assert "pip install 'parley[mic]'" in err


def test_the_microphone_names_the_library_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_portaudio(name: str, *rest: Any, **more: Any) -> Any:
        if name == "sounddevice":
            raise OSError("PortAudio library not found")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_portaudio)
    code, _, err = outcome(capsys, "talk", "--mic")
    assert code == 1
    assert "apt-get install libportaudio2" in err


def test_a_wrong_setting_is_named_without_its_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_LLM__MAX_TOKENS", "sk-very-secret")
    code, out, err = outcome(capsys, "serve", "llm", "--listen", "0")
    assert code == 2
    assert "PARLEY_LLM__MAX_TOKENS" in err
    assert "sk-very-secret" not in out + err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "which is no file"),
        ("llm:\n  api_key: [sk-very-secret", "line 2 is no YAML"),
        ("- sk-very-secret", "settings"),
    ],
)
def test_a_config_file_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, says: str
) -> None:
    config = tmp_path / "parley.yaml"
    if text is not None:
        config.write_text(text)
    monkeypatch.setenv("PARLEY_CONFIG", str(config))
    with pytest.raises(Fault, match=says) as fault:
        load_settings()
    assert fault.value.code == 2
    assert "sk-very-secret" not in str(fault.value)


def test_options_win_over_the_environment_and_leave_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_LISTEN__GRPC", "127.0.0.1:1")
    monkeypatch.setenv("PARLEY_LISTEN__HTTP", "127.0.0.1:2")
    settings = load_settings(listen={"grpc": "127.0.0.1:3"})
    assert (settings.listen.grpc, settings.listen.http) == ("127.0.0.1:3", "127.0.0.1:2")


def test_doctor_finds_a_port_that_is_taken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr("gateway.cli.doctor.default_listen", lambda: {"grpc": where})
        code, out, _ = outcome(capsys, "doctor", "--json")
    assert code in (0, 1)
    assert f"{where} is taken: another port will be used" in out
    assert "parley up" in out
