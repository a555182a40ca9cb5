"""Without credentials, only this machine can reach a listener."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.app import Gateway, Speech, StandInLlm
from gateway.app.exposure import Exposed, check_exposure, guarded, is_loopback
from gateway.cli.stack import Stack
from gateway.cli.workers import Workers
from gateway.settings import Settings
from tests.unit.tls.parts import LISTENERS, any_port

WIDE = "0.0.0.0:0"
OWNERS: dict[str, Any] = {
    "grpc": Gateway, "http": Gateway, "admin": Gateway,
    "riva": Speech, "speech_http": Speech,
    "llm": StandInLlm,
}  # fmt: skip


def settings(key: str, address: str = WIDE, **sections: Any) -> Settings:
    return Settings(**({"listen": any_port() | {key: address}, "triton": {"uri": "127.0.0.1:1"}} | sections))


@pytest.mark.parametrize("key", LISTENERS)
async def test_every_listener_refuses_to_be_open_to_others(key: str) -> None:
    service = OWNERS[key](settings(key))
    with pytest.raises(OSError, match=rf"listen\.{key} is 0\.0\.0\.0:0, which others can reach, and no cred"):
        await service.start()


async def test_workers_refuse_too() -> None:
    given = settings("http", listen=any_port() | {"http": WIDE, "workers": 2})
    with pytest.raises(Exposed, match=r"listen\.http is 0\.0\.0\.0:0"):
        await Workers(given, {}).start()


@pytest.mark.parametrize("key", LISTENERS)
async def test_the_whole_stack_refuses_before_anything_starts(key: str, tmp_path: Path) -> None:
    stack = Stack(settings(key, triton={"log_dir": tmp_path}), lambda sentence: None)
    with pytest.raises(Exception, match=rf"listen\.{key} is 0\.0\.0\.0:0, which others can reach"):
        await stack.start()
    assert stack.children == []


@pytest.mark.parametrize("key", ["llm", "riva"])
async def test_insecure_opens_it_and_says_so_at_each_start(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        caplog.clear()
        service = OWNERS[key](settings(key, auth={"insecure": True}))
        with caplog.at_level(logging.WARNING):
            await service.start()
        await service.stop()
        said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("INSECURE")]
        assert said == [
            f"INSECURE: listen.{key} is open on 0.0.0.0:0 to anybody who can reach it, without any credentials"
        ]


@pytest.mark.parametrize(
    "auth",
    [{"keys": "keys.yaml"}, {"api_keys": ["k" * 40]}, {"jwt_issuer": "https://issuer.example"}],
    ids=["keys", "api_keys", "jwt"],
)
async def test_credentials_open_it_without_a_word(auth: dict[str, Any]) -> None:
    for key in LISTENERS:
        if key != "llm":
            assert await check_exposure(settings(key, auth=auth), [key]) == []


async def test_the_stand_in_has_a_key_of_its_own() -> None:
    with pytest.raises(Exposed, match=r"set stand_in\.api_key, or"):
        await check_exposure(settings("llm", auth={"api_keys": ["k" * 40]}), ["llm"])
    assert await check_exposure(settings("llm", stand_in={"api_key": "k" * 40}), ["llm"]) == []


async def test_an_empty_key_is_none() -> None:
    with pytest.raises(Exposed):
        await check_exposure(settings("grpc", auth={"api_keys": [""]}), ["grpc"])


def test_client_certificates_guard_what_speaks_tls() -> None:
    required = {"cert": "tls.crt", "key": "tls.key", "client_ca": "ca.crt", "client_auth": "required"}
    assert [k for k in LISTENERS if guarded(settings(k, tls=required), k)] == ["grpc", "http", "riva", "llm"]
    assert all(guarded(settings(k, tls=required | {"admin": True}), k) for k in LISTENERS)
    assert not guarded(settings("grpc", tls=required | {"client_auth": "optional"}), "grpc")


@pytest.mark.parametrize(
    ("address", "loops"),
    [
        ("127.0.0.1:1", True), ("127.8.9.1:1", True), ("[::1]:1", True), ("::1:1", True), ("localhost:1", True),
        ("[::ffff:127.0.0.1]:1", True), ("0.0.0.0:1", False), ("[::]:1", False), ("192.0.2.7:1", False),
    ],
)  # fmt: skip
async def test_what_loops_back(address: str, loops: bool) -> None:
    assert await is_loopback(address) is loops


async def test_a_name_is_what_it_resolves_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(ips: list[str]) -> None:
        infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 1)) for ip in ips]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)

    resolve(["127.0.0.1", "127.0.1.1"])
    assert await is_loopback("me:1")
    resolve(["127.0.0.1", "192.0.2.7"])
    assert not await is_loopback("me:1")


async def test_a_name_that_is_none_is_said() -> None:
    with pytest.raises(OSError, match=r"cannot listen on no\.such\.invalid:1: no\.such\.invalid is no name"):
        await is_loopback("no.such.invalid:1")


async def test_parley_up_speaks_tls_to_callers_alone(tmp_path: Path) -> None:
    tls = {"cert": "tls.crt", "key": "tls.key", "admin": True}
    given = settings("riva", auth={"insecure": True}, tls=tls, triton={"log_dir": tmp_path})
    with pytest.raises(
        Exception, match=r"listen\.riva is 0\.0\.0\.0:0: `parley up` speaks TLS to callers alone"
    ):
        await Stack(given, lambda sentence: None).start()
    stack = Stack(settings("grpc", "127.0.0.1:0", tls=tls), lambda sentence: None)
    told = stack._child_settings(any_port(), SimpleNamespace(grpc="127.0.0.1:1"))  # type: ignore[arg-type]
    assert Settings(**told["gateway"]).tls.admin is False
    assert Settings(**({"tls": tls} | told["speech"])).tls.cert is None
    assert Settings(**({"tls": tls} | told["llm"])).tls.cert is None
