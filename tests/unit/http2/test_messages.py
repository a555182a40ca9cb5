"""From bytes to messages, however they are cut and packed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http2.messages import BadStream, Messages, Packed, TooBig
from tests.support.h2_peer import prefixed

LIMIT = 1_000


def fed(raw: bytes, cuts: list[int], *, compressed: bool = False) -> tuple[list[bytes], Messages]:
    messages = Messages(LIMIT, compressed=compressed)
    found: list[bytes] = []
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    for begin, end in pairwise(edges):
        found += messages.feed(raw[begin:end])
    return [messages.unpacked(m) if isinstance(m, Packed) else m for m in found], messages


@given(st.lists(st.binary(max_size=LIMIT), max_size=8), st.lists(st.integers(0, 10_000), max_size=20))
def test_messages_cut_anywhere_are_the_same_messages(sent: list[bytes], cuts: list[int]) -> None:
    found, messages = fed(b"".join(map(prefixed, sent)), cuts)
    assert found == sent
    assert not messages.partial


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.sampled_from(["plain", "gzip", "deflate"])), max_size=6),
    st.lists(st.integers(0, 3_000), max_size=20),
)
def test_packed_messages_come_among_plain_ones(sent: list[tuple[bytes, str]], cuts: list[int]) -> None:
    pack: dict[str, Callable[[bytes], bytes]] = {
        "plain": bytes,
        "gzip": gzip.compress,
        "deflate": zlib.compress,
    }
    raw = b"".join(prefixed(pack[how](message), flag=int(how != "plain")) for message, how in sent)
    found, _ = fed(raw, cuts, compressed=True)
    assert found == [message for message, _ in sent]


@given(st.binary(min_size=1, max_size=LIMIT), st.integers(0, 2_000))
def test_input_that_ends_inside_a_message_is_partial(message: bytes, kept: int) -> None:
    raw = prefixed(message)
    found, messages = fed(raw[: 1 + kept % (len(raw) - 1)], [])
    assert not found
    assert messages.partial


@pytest.mark.parametrize("flag", [2, 3, 127, 255])
def test_another_flag_is_no_grpc(flag: int) -> None:
    with pytest.raises(BadStream, match="neither 0 nor 1"):
        fed(prefixed(b"abc", flag), [])


def test_packed_without_an_encoding_is_refused() -> None:
    with pytest.raises(BadStream, match="grpc-encoding"):
        fed(prefixed(gzip.compress(b"abc"), 1), [])


@pytest.mark.parametrize("begin", [prefixed(bytes(LIMIT + 1)), b"\0" + (2**32 - 1).to_bytes(4, "big")])
def test_too_big_is_refused_at_its_prefix(begin: bytes) -> None:
    with pytest.raises(TooBig, match="1000 are allowed"):
        fed(begin[:5], [])
    with pytest.raises(TooBig, match="1000 are allowed"):
        fed(begin, [])


def test_a_bomb_unpacks_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self, bits: int) -> None:
            self._real = real(bits)

        def decompress(self, raw: bytes, most: int) -> bytes:
            asked.append(most)
            return self._real.decompress(raw, most)

    bomb = gzip.compress(bytes(900_000))
    assert len(bomb) <= LIMIT
    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(TooBig, match="more than 1000"):
        fed(prefixed(bomb, 1), [], compressed=True)
    assert asked == [LIMIT + 1]


@pytest.mark.parametrize(
    "packed", [b"", b"no zlib", gzip.compress(b"abc")[:-3], zlib.compress(b"abc") + b"x"]
)
def test_what_cannot_be_unpacked_whole_is_refused(packed: bytes) -> None:
    with pytest.raises(BadStream, match="compressed message"):
        fed(prefixed(packed, 1), [], compressed=True)
