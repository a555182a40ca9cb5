"""`parley drain` against a gateway that runs: what it prints, and with which code it ends."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
import trustme

from gateway.session import events as ev
from load.emulators import Profile
from load.emulators.profile import LlmProfile
from tests.support.caller import Caller
from tests.unit.test_gateway_resilience import standing

KEY = "a-sealing-key-of-at-least-32-characters"


async def drain(*options: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "drain", *options,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if not k.startswith("PARLEY_")} | environment,
    )  # fmt: skip
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_it_waits_until_nothing_is_left() -> None:
    async with standing(session={"drain_s": 20.0}) as (gateway, _), Caller(gateway.grpc) as caller:
        code, out, err = await drain("--admin", gateway.admin)
        assert (code, err) == (0, "")
        assert out.startswith("drained in ")
        assert (await caller.until(ev.Closed)).reason == "shutdown"
        again, out, _ = await drain("--admin", gateway.admin, "--timeout", "1")
        assert (again, out.split(" in ")[0]) == (0, "drained"), "asked twice, it is so twice"


async def test_when_the_time_is_over_it_says_what_is_left_and_lets_the_signal_come() -> None:
    profile = Profile(llm=LlmProfile(replies=("On and on it goes, and never comes to its end. " * 20,)))
    async with standing(profile, session={"drain_s": 8.0}) as (gateway, _), Caller(gateway.grpc) as caller:
        await caller.client.send(ev.TextIn("tell me"))
        await caller.until(ev.ReplyStarted)
        code, out, _ = await drain("--admin", gateway.admin, "--timeout", "0.2")
        assert code == 0
        assert "not drained within 0.2 s: 1 left" in out
        await caller.client.hang_up()


async def test_where_nobody_answers_nothing_is_left() -> None:
    code, out, err = await drain("--admin", "http://127.0.0.1:1")
    assert (code, err) == (0, "")
    assert "nothing is left to drain" in out


async def test_a_proxy_for_the_way_out_is_not_asked() -> None:
    async with standing() as (gateway, _):
        nowhere = "http://127.0.0.1:1"
        code, out, err = await drain("--admin", gateway.admin, http_proxy=nowhere, HTTPS_PROXY=nowhere)
        assert (code, err) == (0, "")
        assert out.startswith("drained in ")
        assert gateway.drain.over


@pytest.mark.parametrize("answer", ["<p>It works!</p>", "[]", "{}", '{"status": "drained", "left": null}'])
async def test_what_is_no_parley_is_not_taken_for_drained(answer: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(answer)}\r\n\r\n{answer}".encode())
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as other:
        code, out, err = await drain("--admin", f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}")
    assert (code, out) == (1, "")
    assert "makes no sense" in err
    code, out, err = await drain("--admin", "http://no-such-host.invalid:8081")
    assert (code, out) == (1, "")
    assert "no-such-host.invalid has no address" in err


async def test_a_process_that_ends_in_the_middle_of_its_answer_has_ended() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n{"status": ')
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as other:
        code, out, err = await drain("--admin", f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}")
    assert (code, err) == (0, "")
    assert "ended while it drained" in out


@pytest.mark.parametrize("options", [("--admin", "gateway:8081"), ("--timeout", "soon"), ("--timeout", "-1")])
async def test_wrong_usage_says_what_to_write(options: tuple[str, ...]) -> None:
    code, out, err = await drain(*options)
    assert (code, out) == (2, "")
    assert "http://127.0.0.1:8081" in err or "seconds" in err


async def test_where_keys_are_asked_for_a_token_of_the_deployment_is_enough_and_none_is_refused() -> None:
    auth = {"api_keys": ("a-key-of-somebody-who-only-talks-0123456789",), "sealing_key": KEY}
    async with standing(auth=auth) as (gateway, _):
        code, _, err = await drain("--admin", gateway.admin)
        assert code == 1
        assert "refused to drain: No API key came" in err
        code, _, err = await drain("--admin", gateway.admin, PARLEY_API_KEY=auth["api_keys"][0])
        assert code == 1
        assert "scope admin" in err
        code, _, err = await drain(
            "--admin", gateway.admin, PARLEY_AUTH__SEALING_KEY=KEY.replace("sealing", "another")
        )
        assert code == 1
        assert not gateway.drain.begun
        code, out, _ = await drain("--admin", gateway.admin, PARLEY_AUTH__SEALING_KEY=KEY)
        assert code == 0, out
        assert gateway.drain.begun


async def test_over_tls_it_trusts_what_its_own_deployment_shows(tmp_path: Path) -> None:
    cert, key = f"{tmp_path}/tls.crt", f"{tmp_path}/tls.key"
    made = trustme.CA().issue_cert("parley.example.org")
    made.cert_chain_pems[0].write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    async with standing(tls={"cert": cert, "key": key, "admin": True}) as (gateway, _):
        where = ("--admin", gateway.admin)
        code, out, err = await drain(*where, PARLEY_TLS__CERT=cert, PARLEY_TLS__KEY=key)
        assert code == 0, err
        assert out.startswith("drained")
        code, _, err = await drain(*where)
        assert code == 1
        assert "no TLS connection" in err


NOBODY = "http://127.0.0.1:1"


async def test_what_a_gateway_needs_goes_after_it() -> None:
    profile = Profile(llm=LlmProfile(replies=("On and on it goes, and never comes to its end. " * 20,)))
    async with standing(profile, session={"drain_s": 8.0}) as (gateway, _), Caller(gateway.grpc) as caller:
        await caller.client.send(ev.TextIn("tell me"))
        await caller.until(ev.ReplyStarted)
        after = asyncio.create_task(drain("--admin", NOBODY, "--after", gateway.admin, "--timeout", "25"))
        code, out, _ = await drain("--admin", gateway.admin, "--timeout", "4")
        assert (code, "1 left" in out) == (0, True)
        assert not after.done(), "a reply is being spoken still"
        await caller.client.hang_up()
    code, out, err = await after
    assert (code, err) == (0, "")
    assert out.startswith("waited ")
    assert f"for {gateway.admin}\n" in out
    assert out.endswith("nothing is left to drain\n")


async def test_a_gateway_that_does_not_end_is_not_waited_for_and_one_that_is_gone_neither() -> None:
    async with standing() as (gateway, _):
        code, out, err = await drain("--admin", NOBODY, "--after", gateway.admin)
        assert (code, err) == (0, "")
        assert out.startswith(f"{gateway.admin} does not drain: it is not waited for\n")
        assert not gateway.drain.begun
    for what in (("--admin", NOBODY), ("triton", "--triton", "127.0.0.1:1")):
        code, out, err = await drain(*what, "--after", NOBODY)
        assert (code, err, out.count("\n")) == (0, "", 1)
    code, _, err = await drain("--admin", NOBODY, "--after", "gateway")
    assert (code, "write http://127.0.0.1:8081" in err) == (2, True)
