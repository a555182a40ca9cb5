"""Supervision of `parley serve` processes, with the lightest of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from gateway.cli.child import Child
from gateway.cli.common import Fault
from gateway.cli.stack import free_address

ANY = {"listen": {"llm": "127.0.0.1:0"}}


def models(base_url: str) -> int:
    with urllib.request.urlopen(f"{base_url}/models", timeout=5) as answer:
        return int(answer.status)


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(0.02)


async def test_a_child_is_told_its_settings_serves_and_ends(tmp_path: Path) -> None:
    child = Child("llm", tmp_path / "llm.log", print)
    await child.spawn()
    endpoints = await child.ready(ANY)
    assert await asyncio.to_thread(models, endpoints["llm"]) == 200
    pid = child.pid
    await child.stop()
    assert child.pid == 0
    await gone(pid)


async def test_a_child_gets_as_long_as_its_part_needs(tmp_path: Path) -> None:
    child = Child("llm", tmp_path / "llm.log", print, ready_s=0.01)
    await child.spawn()
    with pytest.raises(Fault, match=r"llm was not ready within 0.01 s; see .*llm\.log"):
        await child.ready(ANY)
    await child.stop()


async def test_a_child_that_dies_is_started_again_on_its_address(tmp_path: Path) -> None:
    said: list[str] = []
    back = asyncio.Event()

    def hear(sentence: str) -> None:
        said.append(sentence)
        if "is back" in sentence:
            back.set()

    child = Child("llm", tmp_path / "llm.log", hear)
    await child.spawn()
    address = free_address("127.0.0.1:0")
    endpoints = await child.ready({"listen": {"llm": address}})
    watching = asyncio.create_task(child.watch())
    try:
        os.kill(child.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            await back.wait()
        assert child.endpoints == endpoints
        assert await asyncio.to_thread(models, endpoints["llm"]) == 200
        assert child.restarts == 1
        assert "signal 9" in said[0]
    finally:
        await child.stop()
        async with asyncio.timeout(5):
            await watching


async def test_a_child_whose_parent_vanishes_ends_by_itself(tmp_path: Path) -> None:
    child = Child("llm", tmp_path / "llm.log", print)
    await child.spawn()
    await child.ready(ANY)
    pid = child.pid
    child._close_socket()  # what the kernel does when the parent is killed
    try:
        await asyncio.wait_for(child._process.wait(), 10)  # type: ignore[union-attr]
    finally:
        await child.stop()
    await gone(pid)


async def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        child = Child("llm", tmp_path / "llm.log", print)
        await child.spawn()
        try:
            with pytest.raises(Fault, match=r"llm did not start: .*llm\.log"):
                await child.ready({"listen": {"llm": where}})
        finally:
            await child.stop()
    assert "Traceback" not in (tmp_path / "llm.log").read_text()


async def test_what_an_earlier_run_said_is_no_reason(tmp_path: Path) -> None:
    log, policy = tmp_path / "speech.log", tmp_path / "routing.yaml"
    log.write_text("parley: the reason of yesterday\n")
    policy.write_text("default:\n  prefer_tag: [x]\n")
    child = Child("speech", log, print)
    await child.spawn()
    try:
        with pytest.raises(
            Fault, match=r"speech did not start: \S+routing\.yaml: default\.prefer_tag is not known"
        ):
            await child.ready({"models": {"policy": str(policy)}, "triton": {"uri": "127.0.0.1:1"}})
    finally:
        await child.stop()
    assert "Traceback" not in log.read_text()


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = f"127.0.0.1:{taken.getsockname()[1]}"
        assert free_address(wanted) != wanted
        assert free_address(wanted).startswith("127.0.0.1:")
    assert free_address(wanted) == wanted


def test_a_host_that_is_not_ours_is_a_fault() -> None:
    with pytest.raises(Fault, match="cannot listen on 203"):
        free_address("203.0.113.1:0")
