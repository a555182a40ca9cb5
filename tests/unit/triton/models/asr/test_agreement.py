"""What was promised and what is heard now, word by word."""

from __future__ import annotations

import time

import pytest

from gateway.triton.models.asr.agreement import agreed, continued


def test_agreed_is_what_both_begin_with() -> None:
    assert agreed(["ten", "of"], ["ten", "of", "clubs"]) == 2
    assert agreed(["ten", "of"], ["then", "of"]) == 0
    assert agreed([], ["ten"]) == 0


@pytest.mark.parametrize(
    ("promised", "heard", "rest"),
    [
        ("", "ten of clubs", "ten of clubs"),
        ("ten of", "ten of clubs", "clubs"),
        ("Ten, of", "ten of clubs.", "clubs."),  # marks and case are no other words
        ("I'd less", "Unless to be rather cold", "to be rather cold"),  # two words are one now
        ("fail again. fail", "fail again, fail better.", "better."),
        ("he was not", "he was an ill", "ill"),
        ("he was not an ill", "he was not", ""),
        ("ten", "", ""),
        ("三 四", "三 五 六", "六"),
        ("- oh", "oh my", "my"),
    ],
)
def test_the_rest_goes_on_behind_what_was_promised(promised: str, heard: str, rest: str) -> None:
    words = heard.split()
    assert words[continued(promised.split(), words) :] == rest.split()


def test_a_long_promise_that_is_said_otherwise_costs_little() -> None:
    promised, heard = [f"one{at}" for at in range(400)], [f"two{at}" for at in range(500)]
    began = time.process_time()
    assert 390 <= continued(promised, heard) <= 410
    assert time.process_time() - began < 0.5
