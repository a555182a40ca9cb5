"""Tokens and stored histories that are not what this replica wrote: no call fails, and nobody reads another's words."""

from __future__ import annotations

import json

from gateway.app.memory import make_memory
from gateway.session.sealing import Seal
from gateway.settings import Settings
from tests.unit.session.harness import ev, virtual
from tests.unit.session.test_resume import KEEPS, KEY, Replica, Shelf, finish, resumed, token_of


@virtual
async def test_what_is_put_in_its_place_in_the_store_is_no_history_of_it() -> None:
    shelf = Shelf()
    here = Replica(shelf)
    one = await here.connect(ev.Hello(resume=b"", session_id="one"))
    await here.type(one, "words of one")
    two = await here.connect(ev.Hello(resume=b"", session_id="two"))
    await here.type(two, "words of two")
    await here.sessions.drain(0.0)
    good, other = shelf.kept["", "two"][1], shelf.kept["", "one"][1]
    assert good
    assert other
    for put in (other, b"nonsense", good[:-1], token_of(one)):
        there = Replica(shelf)
        shelf.kept["", "two"] = 1, put
        again = await resumed(there, token_of(two))
        assert "is not kept any more" in again.of(ev.Warning)[0].message
        await there.type(again, "who is there?")
        assert there.prompt() == [("user", "who is there?")]
        await finish(there)
    await finish(here)


@virtual
async def test_what_a_later_version_has_sealed_fails_no_call() -> None:
    seal = Seal(KEY, b"parley session token")
    good = {"id": "s", "who": "", "until": 2e9, "epoch": 1, "serial": 1, "turns": []}
    bodies: tuple[object, ...] = (
        [], 7, {}, good | {"until": "tomorrow"}, good | {"chosen": {"tools": [{"title": "clock"}]}},
        good | {"chosen": []}, good | {"turns": [[{"role": "user", "parts": []}]]}, good | {"turns": 3},
    )  # fmt: skip
    for body in bodies:
        there = Replica()
        again = await resumed(there, seal.seal(json.dumps(body).encode()))
        assert "of a version" in again.of(ev.Warning)[0].message, body
        await there.type(again, "hello")
        assert there.outcomes == {"refused": 1}
        await finish(there)
    there = Replica()
    known = good | {"new": 1, "chosen": {"mood": "glad"}}
    assert (await resumed(there, seal.seal(json.dumps(known).encode()))).of(ev.Ready)[0].resumed
    await finish(there)


@virtual
async def test_an_older_token_takes_nothing_back_while_its_session_lives() -> None:
    """Shown again later, it opens what it holds: whose words those are, nobody knows better than who kept it."""
    shelf = Shelf()
    here, there = Replica(shelf), Replica(shelf)
    shelf.down = True
    client = await here.connect(KEEPS)
    await here.type(client, "first")
    old = token_of(client)  # the history itself
    shelf.down = False
    await here.type(client, "second")
    again = await resumed(there, old)
    await there.type(again, "third")
    assert [text for role, text in there.prompt() if role == "user"] == ["first", "second", "third"]
    await finish(here, there)


@virtual
async def test_no_token_is_too_long_to_be_sent_back() -> None:
    settings = Settings(resume={"max_bytes": 10**9}, session={"max_message_bytes": 20_000})
    memory, _ = make_memory(settings, lambda outcome: None)
    assert memory is not None
    assert memory.settings.max_bytes == 10_000
    small, _ = make_memory(Settings(resume={"max_bytes": 5_000}), lambda outcome: None)
    assert small is not None
    assert small.settings.max_bytes == 5_000
