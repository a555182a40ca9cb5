"""compose.yaml and compose.cpu.yaml: as Docker's loader reads them, and the second one held a conversation with."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gateway import __version__
from gateway.cli import main
from gateway.identity.keys import KeyRecord, digest, new_key, write_keys
from gateway.settings import Settings
from tests.support.compose import Host, can_isolate, load
from tests.support.image_trees import ROOT, Tree

GPU, CPU = ROOT / "compose.yaml", ROOT / "compose.cpu.yaml"
WHOLE = {"COMPOSE_PROFILES": "gpu2,nim"}


@pytest.fixture(scope="module")
def gpu() -> dict[str, Any]:
    return load(GPU, **WHOLE)


@pytest.fixture(scope="module")
def cpu() -> dict[str, Any]:
    return load(CPU)


def _variables() -> set[str]:
    found = {"PARLEY_SECRETS", "PARLEY_CONFIG"}
    for name, field in Settings.model_fields.items():
        part = field.default
        keys = type(part).model_fields if isinstance(part, BaseModel) else None
        found |= {f"PARLEY_{name}__{key}".upper() for key in keys} if keys else {f"PARLEY_{name}".upper()}
    return found


def _ours(project: dict[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in project["services"].items() if one["image"].startswith("parley")}


@pytest.mark.parametrize("project", ["gpu", "cpu"])
def test_every_setting_exists_and_is_accepted(
    project: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = _variables()
    loaded = request.getfixturevalue(project)
    for name, service in _ours(loaded).items():
        asked = {key: str(value) for key, value in (service.get("environment") or {}).items()}
        assert set(asked) <= known, f"{name}: {set(asked) - known} is no setting"
        secrets = {
            (one.get("target") or one["source"]).rpartition("/")[2] for one in service.get("secrets") or []
        }
        assert {secret for secret in secrets if secret.startswith("PARLEY_")} <= known
        with monkeypatch.context() as patch:
            for key, value in asked.items():
                if key != "PARLEY_SECRETS":
                    patch.setenv(key, value)
            Settings()


def test_every_command_is_understood(gpu: dict[str, Any], cpu: dict[str, Any]) -> None:
    services = [*_ours(gpu).values(), *_ours(cpu).values()]
    commands = {tuple(one["command"]) for one in services if "triton" not in one["image"]}
    assert len(commands) == 3
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", *words, "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"


@pytest.mark.parametrize("project", ["gpu", "cpu"])
def test_services_are_hardened_and_end_in_time(project: str, request: pytest.FixtureRequest) -> None:
    loaded = request.getfixturevalue(project)
    for name, service in _ours(loaded).items():
        assert service["read_only"] is True, name
        assert service["user"] == "1000:1000", name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "healthcheck" in service, name
        assert service["image"].endswith((f":{__version__}", f":{__version__}-cpu")), name
        drain = float(service.get("environment", {}).get("PARLEY_SESSION__DRAIN_S", 30))
        minutes, rest = re.fullmatch(r"(?:(\d+)m)?(\d+)s", service["stop_grace_period"]).groups()  # type: ignore[union-attr]
        assert int(minutes or 0) * 60 + int(rest) > drain, name


@pytest.mark.parametrize("project", ["gpu", "cpu"])
def test_only_what_callers_use_is_published_and_on_loopback(
    project: str, request: pytest.FixtureRequest
) -> None:
    loaded = request.getfixturevalue(project)
    published = {
        (name, port["target"], port["host_ip"])
        for name, service in loaded["services"].items()
        for port in service.get("ports") or []
    }
    assert published == {("gateway", 50050, "127.0.0.1"), ("gateway", 8080, "127.0.0.1")}


def test_no_value_of_a_secret_is_in_the_files(gpu: dict[str, Any], cpu: dict[str, Any]) -> None:
    for project in (gpu, cpu):
        for service in _ours(project).values():
            for key in service.get("environment") or {}:
                assert not key.endswith(("API_KEY", "SEALING_KEY", "REPOSITORY_KEY")), key
        assert all(set(one) <= {"file", "name"} for one in project["secrets"].values())


def test_each_triton_has_its_own_gpu_and_each_front_its_own_triton(gpu: dict[str, Any]) -> None:
    services = gpu["services"]

    def pinned(name: str) -> list[str]:
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        return list(device["device_ids"])

    assert pinned("triton-0") == ["0"]
    assert pinned("triton-1") == ["1"]
    for number in "01":
        front = services[f"speech-{number}"]
        assert front["environment"]["PARLEY_TRITON__URI"] == f"triton-{number}:8001"
        assert front["networks"]["default"]["aliases"] == ["speech"]
        assert services[f"triton-{number}"]["networks"]["default"]["aliases"] == ["triton"]
        assert f"triton-{number}" in front["depends_on"]


def test_profiles_add_a_gpu_and_a_nim() -> None:
    def running(**variables: str) -> set[str]:
        asked = set(filter(None, variables.get("COMPOSE_PROFILES", "").split(",")))
        loaded = load(GPU, **variables)["services"]
        return {n for n, s in loaded.items() if not s.get("profiles") or asked & set(s["profiles"])}

    one = {"gateway", "speech-0", "triton-0"}
    assert running() == one
    assert running(COMPOSE_PROFILES="gpu2") == one | {"speech-1", "triton-1"}
    assert running(COMPOSE_PROFILES="nim") == one | {"nim"}


def test_the_guides_way_to_tls_is_read_over_the_file(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "guides" / "single-host.md").read_text()
    (text,) = re.findall(r"^```yaml\n(# compose\.override\.yaml\n[\s\S]*?)^```$", guide, re.M)
    more = tmp_path / "compose.override.yaml"
    more.write_text(text)
    plain, gateway = load(GPU)["services"]["gateway"], load(GPU, more)["services"]["gateway"]
    added = dict(one.split("=", 1) for one in gateway["environment"])
    assert added.items() - plain["environment"].items() == {
        ("PARLEY_TLS__CERT", "/run/parley/tls/tls.crt"),
        ("PARLEY_TLS__KEY", "/run/parley/tls/tls.key"),
    }
    assert set(added) <= _variables()
    (tls,) = [one for one in gateway["volumes"] if one not in plain["volumes"]]
    assert (tls["target"], tls["read_only"]) == ("/run/parley/tls", True)


def test_keys_are_mounted_as_a_folder(gpu: dict[str, Any], cpu: dict[str, Any]) -> None:
    for project in (gpu, cpu):
        for name, service in _ours(project).items():
            asked = (service.get("environment") or {}).get("PARLEY_AUTH__KEYS")
            folders = [
                one["target"]
                for one in service.get("volumes") or []
                if one["source"].endswith("/secrets/keys")
            ]
            assert folders == ([str(Path(asked).parent)] if asked else []), name


def test_what_is_wrong_is_refused_by_the_loader(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(CPU.read_text().replace("read_only: true", "readonly: true"))
    with pytest.raises(AssertionError, match="readonly"):
        load(wrong)


@pytest.mark.timeout(300)  # two trees are built before it
@pytest.mark.stack
@pytest.mark.flite
def test_a_conversation_through_the_cpu_file(
    cpu: dict[str, Any], gateway: Tree, triton: Tree, tmp_path: Path
) -> None:
    if not can_isolate():
        pytest.skip("namespaces of a network and of mounts need root, and iproute2")
    caller, internal = new_key(), new_key()
    keys = write_keys(
        [
            KeyRecord(name="caller", sha256=digest(caller), scopes=("voice", "audio")),
            KeyRecord(name="internal", sha256=digest(internal), scopes=("speech",)),
        ]
    )
    secrets = {"PARLEY_AUTH__SEALING_KEY": new_key() + new_key(), "PARLEY_ASR__API_KEY": internal}
    assert set(secrets) == set(cpu["secrets"])
    (tmp_path / "keys").mkdir()
    file = tmp_path / "keys" / "keys.yaml"
    file.write_text(keys)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    volumes = {"/run/parley/keys": tmp_path / "keys"}
    talk = ("gateway", "parley", "talk", "--text", "What time is it?", "--server", "127.0.0.1:50050")
    with Host(cpu, {"parley": gateway, "parley-triton": triton}, secrets, volumes, tmp_path) as host:
        done = host.run(*talk, "--out", "/tmp/compose-answer.wav", PARLEY_API_KEY=caller)
        assert done.returncode == 0, done.stdout + done.stderr + host.log("gateway")[-2000:]
        answer = Path("/tmp/compose-answer.wav")
        try:
            assert answer.stat().st_size > 40_000, "a second of speech at least"
            assert answer.stat().st_uid == 1000
        finally:
            answer.unlink(missing_ok=True)
        assert main(["keys", "revoke", "caller", "--file", str(file)]) == 0
        refused = host.run(*talk, PARLEY_API_KEY=caller)
        assert refused.returncode != 0, "a file that replaced the mounted one is seen"
        assert "revoked" in refused.stderr, refused.stdout + refused.stderr
        statuses = host.stop()
    assert statuses == dict.fromkeys(statuses, 0), {name: host.log(name)[-500:] for name in statuses}
    logs = "".join(host.log(name) for name in cpu["services"])
    assert not any(secret in logs for secret in (caller, internal, secrets["PARLEY_AUTH__SEALING_KEY"]))
