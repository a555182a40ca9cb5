"""A line that is dialled anew, in virtual time, over channels that only know whether they were closed."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc.aio
import pytest

from gateway.triton.line import Line
from tests.support.virtual_time import run_virtual, settle


class Channel:
    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


def line() -> tuple[Line[Any], list[Channel]]:
    dialled: list[Channel] = []

    def dial() -> grpc.aio.Channel:
        dialled.append(Channel())
        return cast(grpc.aio.Channel, dialled[-1])

    return Line("nowhere:1", dial, lambda channel: ("stub", channel)), dialled


def now() -> float:
    return asyncio.get_running_loop().time()


def test_calls_share_a_connection_as_long_as_anybody_hears_something() -> None:
    async def main() -> None:
        calls, dialled = line()
        with calls.use() as one, calls.use() as other:
            assert one is other
            assert one.stubs == ("stub", dialled[0])
            since = now()
            await asyncio.sleep(1)
            other.heard()
            await asyncio.sleep(1)
            one.silent_since(since)
        with calls.use() as again:
            assert again is one
        assert len(dialled) == 1
        await calls.close()
        assert dialled[0].closed

    run_virtual(main())


def test_who_waits_in_vain_gets_the_next_calls_a_new_one_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        calls, dialled = line()
        with calls.use() as one:
            one.heard()
            await asyncio.sleep(1)
            since = now()
            await asyncio.sleep(1)
            with calls.use() as other:
                one.silent_since(since)
                other.silent_since(since)
                with calls.use() as new:
                    assert new is not one
                    assert len(dialled) == 2
                await settle()
                assert not dialled[1].closed
            await settle()
            assert not dialled[0].closed, "a call still uses it"
        await settle()
        assert dialled[0].closed
        await calls.close()
        assert dialled[1].closed

    run_virtual(main())
    assert caplog.messages == ["nothing comes from nowhere:1 any more: the next calls get a new connection"]


def test_closing_ends_calls_over_old_connections_too() -> None:
    async def main() -> None:
        calls, dialled = line()
        with calls.use() as one:
            one.silent_since(now())
            await calls.close()
            assert [channel.closed for channel in dialled] == [True, True]

    run_virtual(main())
