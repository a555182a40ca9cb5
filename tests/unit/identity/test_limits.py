"""How many calls one key may have open, and begin in a minute."""

from __future__ import annotations

import pytest

from gateway.identity.caller import Caller, Denied
from gateway.identity.limits import Limits


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def caller(name: str = "app", *, most: int = 0, per_minute: int = 0) -> Caller:
    return Caller(name, f"key:{name}", frozenset({"voice"}), most, per_minute)


def test_calls_at_a_time_per_key() -> None:
    limits = Limits(Clock())
    two, other = caller(most=2), caller("other", most=2)
    limits.enter_now(two)
    limits.enter_now(two)
    with pytest.raises(Denied, match="app has 2 calls open") as caught:
        limits.enter_now(two)
    assert caught.value.reason == "limit"
    assert caught.value.retry_after_s == 1
    limits.enter_now(other)  # another key's are its own
    limits.leave(two)
    limits.enter_now(two)


def test_calls_begun_per_minute_and_when_to_come_again() -> None:
    clock = Clock()
    limits = Limits(clock)
    two = caller(per_minute=2)
    limits.enter_now(two)
    clock.now += 20
    limits.enter_now(two)
    clock.now += 10
    with pytest.raises(Denied, match=r"app may begin 2 calls a minute: try again in 30 s") as caught:
        limits.enter_now(two)
    wait_s = caught.value.retry_after_s
    assert wait_s == 30
    clock.now += 29.9
    with pytest.raises(Denied):
        limits.enter_now(two)
    clock.now += 0.1
    limits.enter_now(two)  # as told
    with pytest.raises(Denied):
        limits.enter_now(two)


def test_a_refused_call_counts_for_nothing() -> None:
    clock = Clock()
    limits = Limits(clock)
    both = caller(most=1, per_minute=2)
    limits.enter_now(both)
    for _ in range(5):
        with pytest.raises(Denied, match="open"):
            limits.enter_now(both)
    limits.leave(both)
    limits.enter_now(both)
    limits.leave(both)
    with pytest.raises(Denied, match="a minute"):
        limits.enter_now(both)
    clock.now += 60
    limits.enter_now(both)


def test_a_limit_that_was_lowered() -> None:
    clock = Clock()
    limits = Limits(clock)
    for _ in range(4):
        limits.enter_now(caller(per_minute=4))
        clock.now += 5
    with pytest.raises(Denied) as caught:
        limits.enter_now(caller(per_minute=1))
    assert caught.value.retry_after_s == 55  # the last one began 5 s ago


def test_keys_that_are_gone_are_forgotten() -> None:
    clock = Clock()
    limits = Limits(clock)
    for number in range(5_000):
        limits.enter_now(caller(str(number), most=1, per_minute=1))
        limits.leave(caller(str(number), most=1))
        clock.now += 1
    assert len(limits._begun) <= 1_100
    assert not limits._open
