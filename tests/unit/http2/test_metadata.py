"""gRPC's words in headers."""

from __future__ import annotations

from urllib.parse import unquote

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http2.metadata import status_headers, timeout_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1H", 3600), ("2M", 120), ("20S", 20), ("500m", 0.5), ("7u", 7e-6), ("9n", 9e-9), ("0S", 0), ("99999999H", 99999999 * 3600)],
)  # fmt: skip
def test_timeouts(value: str, seconds: float) -> None:
    assert timeout_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "5", "S", "5s", "-1S", "1.5S", "123456789S", "1S ", " 1S", "1S\n", "٣S"]
)
def test_what_is_no_timeout(value: str) -> None:
    with pytest.raises(ValueError, match="grpc-timeout"):
        timeout_s(value)


@given(st.text())
def test_details_are_plain_ascii_and_come_back(details: str) -> None:
    headers = dict(status_headers(grpc.StatusCode.INTERNAL, details))
    assert headers["grpc-status"] == "13"
    message = headers.get("grpc-message", "")
    assert all(" " <= char <= "~" for char in message)
    assert unquote(message) == details


def test_details_that_are_no_unicode_are_sent_all_the_same() -> None:
    assert dict(status_headers(grpc.StatusCode.UNKNOWN, "a\ud800b"))["grpc-message"] == "a?b"
