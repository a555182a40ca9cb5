"""The steps of the Dockerfiles make trees that run by themselves, as another user, and say what is in them."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.image_trees import ROOT, Tree, interpreter, is_other_user, step


def _plain(name: str) -> str:
    """PEP 503: "ml_dtypes" and "ml-dtypes" are one package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _locked(*locks: str) -> dict[str, str]:
    """Name and version of what these locks bring to the image's interpreter."""
    version = subprocess.run(
        [interpreter(), "-c", "import platform; print(platform.python_version())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    here = {"python_version": ".".join(version.split(".")[:2]), "python_full_version": version}
    found = {}
    for lock in locks:
        text = (ROOT / "requirements" / f"{lock}.lock").read_text()
        for line in re.findall(r"^([a-zA-Z0-9].*?) \\$", text, re.M):
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate(here):
                found[_plain(wanted.name)] = str(wanted.specifier).removeprefix("==")
    return found


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _answers(url: str, process: subprocess.Popen[bytes], log: Path, within_s: float = 40.0) -> None:
    """Waits for 200: a server of another process can only be asked."""
    end = time.monotonic() + within_s
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, f"{url} never answered 200: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.05)


@contextmanager
def _running(command: list[str], log: Path, cwd: str = "/") -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_the_tree_has_no_pip_and_nothing_that_others_may_write(gateway: Tree) -> None:
    names = {path.name for path in (gateway.prefix / "bin").iterdir()}
    assert "parley" in names
    assert not names & {"pip", "pip3", "uv", "gcc", "cc"}
    site = next((gateway.prefix / "lib").glob("python3*")) / "site-packages"
    assert not (site / "pip").exists()
    assert not list(site.glob("__editable__*")), (
        "Parley is installed as a package, not as a link to a checkout"
    )
    writable = [
        path
        for path in gateway.prefix.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & stat.S_IWOTH
    ]
    assert not writable
    assert list((site / "gateway" / "__pycache__").glob("settings.*.pyc")), (
        "compiled ahead: the root is read-only"
    )


def test_the_bill_of_materials_and_the_licences_hold_every_locked_package(gateway: Tree) -> None:
    locked = _locked("gateway", "cloud")
    assert len(locked) > 50
    bill = json.loads((gateway.prefix / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    listed = {_plain(part["name"]): part["version"] for part in bill["components"]}
    assert {name: listed.get(name) for name in locked} == locked
    table = (gateway.prefix / "licenses" / "README.md").read_text()
    rows = {
        _plain(cells[1].strip()): cells
        for cells in (row.split("|") for row in table.splitlines())
        if len(cells) > 6
    }
    for name, version in locked.items():
        assert rows[name][2].strip() == version
        assert rows[name][3].strip(), f"{name}: no word on its licence"
    assert "Apache License" in (gateway.prefix / "licenses" / "parley.txt").read_text()
    assert (gateway.prefix / "licenses" / "python" / f"numpy-{locked['numpy']}").is_dir()


def test_what_is_under_the_gpl_is_said_in_the_guide(gateway: Tree) -> None:
    lines = (gateway.prefix / "licenses" / "copyleft.txt").read_text().splitlines()
    strong = {re.split(r"[ -]", line.split(", ")[1])[0] for line in lines if re.search(r": GPL", line)}
    assert strong == {"libx264", "libx265"}
    guide = (ROOT / "docs" / "guides" / "images.md").read_text()
    assert all(name in guide for name in strong)


def test_a_gateway_serves_from_the_tree_alone(gateway: Tree, tmp_path: Path) -> None:
    admin, log = _free_port(), tmp_path / "log"
    command = gateway.command(
        "parley", "serve", "gateway", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0",
        PARLEY_LISTEN__ADMIN=f"127.0.0.1:{admin}",
    )  # fmt: skip
    with _running(command, log) as process:
        _answers(f"http://127.0.0.1:{admin}/healthz", process, log)
        if is_other_user(gateway.prefix):
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert re.search(r"^Uid:\t1000\t1000\t1000\t1000$", status, re.M)
    assert process.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_parleys_commands_run_from_the_tree_alone(gateway: Tree) -> None:
    for words in (["--version"], ["serve", "speech", "--help"], ["talk", "--help"], ["models", "--help"]):
        done = subprocess.run(
            gateway.command("parley", *words), cwd="/", capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.stack
@pytest.mark.flite
def test_a_triton_from_the_tree_alone_serves_its_models(gateway: Tree, triton: Tree, tmp_path: Path) -> None:
    http, grpc, metrics = _free_port(), _free_port(), _free_port()
    log = tmp_path / "log"
    command = triton.command(
        "tritonserver", f"--model-repository={triton.prefix}/model_repository", "--model-control-mode=explicit",
        "--load-model=tts_flite", "--load-model=asr_pocketsphinx", "--exit-timeout-secs=3",
        f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}", "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1",
    )  # fmt: skip
    with _running(command, log) as process:
        _answers(f"http://127.0.0.1:{http}/v2/health/ready", process, log)
        done = subprocess.run(
            gateway.command("parley", "models", "verify", "tts_flite", "--triton", f"127.0.0.1:{grpc}"),
            cwd="/", capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "a sentence came in" in done.stdout
    assert process.returncode == 0, log.read_text()[-2000:]


def test_models_are_chosen_by_name(tmp_path: Path) -> None:
    done = step("models.sh", prefix=tmp_path, MODELS="tts_espeak")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "model_repository").iterdir()} == {
        "catalogue.yaml",
        "tts_espeak",
    }


def test_a_container_of_nvidias_keeps_its_own_backends(gateway: Tree, tmp_path: Path) -> None:
    """The step for the GPU image, with a server that says how it was called."""
    server = tmp_path / "tritonserver"
    (server / "bin").mkdir(parents=True)
    (server / "bin" / "tritonserver").write_text(
        '#!/bin/sh\necho "$@"; echo "$LD_LIBRARY_PATH"; pwd; command -v python3\n'
    )
    (server / "bin" / "tritonserver").chmod(0o755)
    prefix = tmp_path / "parley"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python3").symlink_to(interpreter())
    done = step("triton.sh", "container", prefix=prefix, SERVER=str(server))
    assert done.returncode == 0, done.stderr
    said = subprocess.run(
        [prefix / "bin" / "tritonserver", "--load-model=tts_espeak"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said == [
        f"--backend-directory={server}/backends --load-model=tts_espeak",
        f"{server}/lib",
        f"{prefix}/empty",
        f"{prefix}/bin/python3",
    ]
