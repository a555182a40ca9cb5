"""Lists and names of servers, as they are written and as they are resolved."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.triton.errors import TritonError
from gateway.triton.routing.addresses import Place, find_places, parse_targets, resolve_host
from tests.support.virtual_time import run_virtual


class Names:
    def __init__(self, **known: list[str]) -> None:
        self.known = known

    async def __call__(self, host: str, port: int) -> list[str]:
        found = self.known.get(host)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if found == ["never"]:
            await asyncio.sleep(3600)
        return found


async def places(text: str, names: Names, before: list[Place] | None = None) -> list[str]:
    targets = parse_targets(text)
    known = {} if before is None else dict.fromkeys(targets, before)
    found = await find_places(targets, names, known)
    return [f"{place.address} {place.name}".strip() for each in found.values() for place in each]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:8001", ["127.0.0.1:8001"]),
        ("localhost:8001", ["localhost:8001"]),
        ("[::1]:8001", ["[::1]:8001"]),
        ("dns:///10.0.0.1:8001", ["10.0.0.1:8001"]),
        ("unix:/run/triton.sock", ["unix:/run/triton.sock"]),
        ("one:8001", ["one:8001"]),
        ("one:8001, one:8001,", ["one:8001"]),
        ("one:8001,10.0.0.9:8001", ["one:8001", "10.0.0.9:8001"]),
        ("dns:///one:8001", ["10.0.0.1:8001 one"]),
        ("three:8001", ["10.0.0.1:8001 three", "10.0.0.2:8001 three", "10.0.0.3:8001 three"]),
        ("both:8001", ["10.0.0.1:8001 both", "10.0.0.2:8001 both"]),
        ("new:8001", ["[fd00::1]:8001 new", "[fd00::2]:8001 new"]),
        ("unknown:8001", ["unknown:8001"]),
        ("dns:///unknown:8001", []),
        ("slow:8001", ["slow:8001"]),
    ],
)
def test_which_servers_an_address_means(text: str, found: list[str]) -> None:
    names = Names(
        one=["10.0.0.1"],
        three=["10.0.0.3", "10.0.0.1", "10.0.0.2", "10.0.0.1"],
        both=["fd00::1", "10.0.0.2", "fd00::2", "10.0.0.1"],
        new=["fd00::2", "fd00::1"],
        slow=["never"],
    )
    assert run_virtual(places(text, names)) == found


def test_a_name_that_is_not_resolved_any_more_keeps_its_servers() -> None:
    before = [Place("10.0.0.1:8001", "gone"), Place("10.0.0.2:8001", "gone")]
    assert run_virtual(places("gone:8001", Names(), before)) == ["10.0.0.1:8001 gone", "10.0.0.2:8001 gone"]


@pytest.mark.parametrize("text", ["", " , ", "triton", "triton:", ":8001", "a:8001,b", "dns:///a", "a:99999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(TritonError, match=r"address of a Triton.*: write host:port"):
        parse_targets(text)


async def test_the_systems_resolver() -> None:
    assert "127.0.0.1" in await resolve_host("127.0.0.1", 8001)
