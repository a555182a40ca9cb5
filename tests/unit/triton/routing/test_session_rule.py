"""A session's model stays, whatever else would be better by now."""

from __future__ import annotations

import pytest

from gateway.triton.routing.choose import NothingFits, Want
from gateway.triton.routing.policy import Policy
from gateway.triton.routing.session_rule import Pinned, SwitchRefused
from tests.unit.triton.routing.parts import candidate

ANY = Policy()
EN = Want("tts", "en-US")


def test_the_first_choice_stays_though_another_would_be_better_now() -> None:
    session = Pinned()
    assert session.model == ""
    first = session.choose([candidate("tts_a"), candidate("tts_b", queue=1)], EN, ANY)
    assert (first.serves.info.name, first.moved) == ("tts_a", False)
    later = session.choose([candidate("tts_a", queue=9, unwell=True), candidate("tts_b")], EN, ANY)
    assert (later.serves.info.name, later.note, later.moved) == ("tts_a", "", False)


def test_another_model_is_refused_unless_the_request_asks_to_switch() -> None:
    session = Pinned()
    models = [candidate("tts_a"), candidate("tts_b", queue=1, tags=("lora",))]
    session.choose(models, EN, ANY)
    other = Want("tts", "en-US", model="tts_b")
    refused = r"^this session has tts_a, and that would take tts_b: ask for the switch of models$"
    with pytest.raises(SwitchRefused, match=refused):
        session.choose(models, other, ANY)
    with pytest.raises(SwitchRefused, match=refused):
        session.choose(models, EN, Policy("lora", require=("lora",)))
    assert session.model == "tts_a"
    assert session.choose(models, other, ANY, switch=True).serves.info.name == "tts_b"
    assert session.model == "tts_b"
    assert session.choose(models, EN, ANY).serves.info.name == "tts_b"


def test_another_language_is_no_switch_where_the_model_speaks_it() -> None:
    session = Pinned()
    espeak = candidate("tts_espeak", languages=("en-US", "de-DE"))
    german = candidate("tts_german", languages=("de-DE",), default=True)
    session.choose([espeak, german], EN, ANY)
    assert session.choose([espeak, german], Want("tts", "de-DE"), ANY).serves.info.name == "tts_espeak"


def test_what_no_model_does_is_refused_with_what_there_is() -> None:
    session = Pinned()
    models = [candidate("tts_a")]
    session.choose(models, EN, ANY)
    with pytest.raises(
        SwitchRefused, match="this session has tts_a, and no tts model speaks ja: there is en-US"
    ):
        session.choose(models, Want("tts", "ja"), ANY)


def test_a_look_changes_nothing() -> None:
    session = Pinned()
    models = [candidate("tts_a"), candidate("tts_b", queue=1)]
    session.choose(models, EN, ANY)
    switched = session.look(models, Want("tts", model="tts_b"), ANY, switch=True)
    assert switched.serves.info.name == "tts_b"
    assert session.model == "tts_a"


def test_a_stand_in_serves_until_the_wanted_model_is_loaded() -> None:
    session = Pinned()
    wanted, other = Want("tts", "en-US", model="tts_big"), candidate("tts_a")
    choice = session.choose([candidate("tts_big", resident=False), other], wanted, ANY)
    assert (choice.wanted.info.name, choice.serves.info.name) == ("tts_big", "tts_a")
    assert session.model == "tts_big"
    loaded = session.choose([candidate("tts_big"), other], wanted, ANY)
    assert (loaded.serves.info.name, loaded.note) == ("tts_big", "")
    assert (
        Pinned(use_stand_in=False).choose([candidate("tts_big", resident=False), other], wanted, ANY).note
        == ""
    )


def test_a_session_whose_server_is_lost_goes_on_with_the_same_model_elsewhere() -> None:
    session = Pinned()
    here, there = candidate("tts_a", "a:1"), candidate("tts_a", "b:1", queue=3)
    better = candidate("tts_0", "b:1")
    session.choose([here, there], EN, ANY)
    assert session.server == "a:1"
    choice = session.choose([there, better], EN, ANY)
    assert (choice.serves.key, choice.moved) == (("tts_a", "b:1"), True)
    assert choice.note == "a:1 is gone: tts_a goes on at b:1"
    back = session.choose([here, there, better], EN, ANY)
    assert (back.serves.server, back.moved) == ("b:1", False)


def test_a_model_that_is_unloaded_here_and_resident_there_is_taken_there() -> None:
    session = Pinned()
    session.choose([candidate("tts_a", "a:1"), candidate("tts_a", "b:1", queue=3)], EN, ANY)
    choice = session.choose(
        [candidate("tts_a", "a:1", resident=False), candidate("tts_a", "b:1", queue=3)], EN, ANY
    )
    assert (choice.serves.server, choice.note) == ("b:1", "a:1 has lost it: tts_a goes on at b:1")


def test_a_session_whose_model_is_gone_moves_to_the_next_in_rank_and_says_so() -> None:
    session = Pinned()
    asked = Want("tts", "en-US", voice="ann", model="tts_a")
    session.choose([candidate("tts_a", "a:1", voices=("ann",))], asked, ANY)
    rest = [candidate("tts_b", "b:1", queue=1, voices=("bob",)), candidate("tts_c", "b:1", voices=("eve",))]
    choice = session.choose(rest, asked, ANY)
    assert (choice.serves.info.name, choice.moved) == ("tts_c", True)
    assert choice.note == "tts_a is gone: tts_c takes its place"
    assert session.model == "tts_c"


def test_a_session_with_nothing_left_is_told() -> None:
    session = Pinned()
    session.choose([candidate("tts_a")], EN, ANY)
    with pytest.raises(NothingFits, match="tts_a is gone, and no tts model speaks en-US: there is de"):
        session.choose([candidate("tts_d", languages=("de",))], EN, ANY)
    assert session.model == "tts_a"
