"""A session goes on where it was: with the token that its client kept, or with what a store has."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from gateway.session.memory import Memory, StoreError
from gateway.session.remembered import Remembered, Unusable, opened, sealed
from gateway.session.sealing import Seal
from gateway.settings import ResumeSettings
from gateway.think.llm import ToolRequest
from tests.support.fakes import FakeConnection
from tests.support.virtual_time import settle
from tests.unit.session.harness import World, ev, virtual

KEY = "a secret of all replicas, 32 characters"
KEEPS = ev.Hello(resume=b"")


class Shelf:
    """A store in memory, which can be told to fail. The real one is tested with a real Redis."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], tuple[int, bytes | None]] = {}
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise StoreError("the shelf fell down")

    async def claim(self, caller: str, session_id: str, above: int) -> tuple[int, bytes | None]:
        self._check()
        epoch, found = self.kept.get((caller, session_id), (0, None))
        epoch = max(epoch, above) + 1
        self.kept[caller, session_id] = epoch, found
        return epoch, found

    async def write(self, caller: str, session_id: str, epoch: int, sealed: bytes, ttl_s: float) -> bool:
        self._check()
        if self.kept.get((caller, session_id), (0, None))[0] > epoch:
            return False
        self.kept[caller, session_id] = epoch, sealed
        return True

    async def forget(self, caller: str, session_id: str, epoch: int) -> None:
        self._check()
        if self.kept.get((caller, session_id), (0, None))[0] <= epoch:
            self.kept.pop((caller, session_id), None)


class Replica(World):
    """One of several gateways that share a sealing key, and perhaps a store."""

    def __init__(
        self, store: Shelf | None = None, *, key: str = KEY, wall_s: float = 1e9, **resume: object
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        loop = asyncio.get_running_loop()
        memory = Memory(
            ResumeSettings.model_validate(resume),
            key,
            longest_s=3600.0,
            store=store,
            count=lambda outcome: self.outcomes.update([outcome]),
            wall=lambda: wall_s + loop.time(),
        )
        super().__init__(memory=memory)

    async def type(self, connection: FakeConnection, text: str) -> None:
        """And hear the reply to its end."""
        done = len(connection.of(ev.ReplyDone))
        connection.put(ev.TextIn(text))
        await connection.until(ev.ReplyDone, count=done + 1)
        await asyncio.sleep(0.1)

    def prompt(self) -> list[tuple[str, str]]:
        return [(message.role, message.content) for message in self.llm.prompts[-1][1:]]


async def finish(*replicas: Replica) -> None:
    for one in replicas:
        await one.sessions.drain(0.0)
    for one in replicas:
        await one.finish()


def token_of(connection: FakeConnection) -> bytes:
    return connection.of(ev.ResumeToken)[-1].token


async def resumed(replica: Replica, token: bytes, **hello: object) -> FakeConnection:
    return await replica.connect(ev.Hello(resume=token, **hello))  # type: ignore[arg-type]


@virtual
async def test_another_replica_goes_on_with_the_history_as_it_was_heard() -> None:
    here, there = Replica(), Replica()
    client = await here.connect(ev.Hello(resume=b"", configure=ev.Configure(instructions="Be brief.")))
    assert client.of(ev.Ready)[0].resumed is False
    here.llm.replies = [["Nice to meet you."], ["One. ", "Two. " * 30]]
    await here.type(client, "I am Ada")
    client.put(ev.TextIn("count"))
    reply = await client.until(ev.ReplyStarted, count=2)
    await asyncio.sleep(1.0)
    await here.sessions.drain(0.0)  # the grace is over in the middle of a reply
    assert (await client.closed()).reason == "shutdown"
    cut = client.of(ev.ReplyDone)[-1]
    assert cut.reply_id == reply.reply_id
    assert cut.unheard
    assert isinstance(client.sent[-2].event, ev.ResumeToken), "the last token comes before `closed`"

    again = await resumed(there, token_of(client))
    ready = again.of(ev.Ready)[0]
    assert ready.resumed
    assert ready.session_id == client.of(ev.Ready)[0].session_id
    assert again.states == [ev.State.LISTENING]
    await there.type(again, "go on")
    assert there.llm.prompts[-1][0].content == "Be brief."
    assert there.prompt()[:3] == [("user", "I am Ada"), ("assistant", "Nice to meet you."), ("user", "count")]
    assert there.prompt()[3] == ("assistant", f"{cut.text}…")
    assert there.prompt()[4][1].startswith("[The user interrupted")
    assert there.outcomes == {"resumed": 1}
    await finish(here, there)


@virtual
async def test_a_line_that_is_lost_in_a_reply_keeps_the_question() -> None:
    here, there = Replica(), Replica()
    client = await here.connect(KEEPS)
    here.llm.replies = [["It is long. " * 20]]
    client.put(ev.TextIn("tell me a story"))
    await client.until(ev.ReplyAudio)
    await asyncio.sleep(0.2)
    token = token_of(client)  # then the process is killed: nothing more comes of it
    again = await resumed(there, token)
    await there.type(again, "are you there?")
    assert there.prompt() == [("user", "tell me a story\nare you there?")]
    await finish(here, there)


@virtual
async def test_tool_results_and_choices_are_remembered_and_the_client_s_own_win() -> None:
    here, there = Replica(), Replica()
    tools = (ev.Tool("clock", "Tells the time"),)
    client = await here.connect(
        ev.Hello(resume=b"", configure=ev.Configure(voice="bob", language="de-DE", tools=tools))
    )
    here.llm.replies = [[ToolRequest("c1", "clock", "{}")], ["It is noon."]]
    client.put(ev.TextIn("what time is it?"))
    call = await client.until(ev.ToolCall)
    client.put(ev.ToolResult(call.call_id, "12:00"))
    await client.until(ev.ReplyDone)
    await here.sessions.drain(0.0)
    again = await resumed(there, token_of(client), configure=ev.Configure(voice="ann"))
    ready = again.of(ev.Ready)[0]
    assert (ready.voice, ready.language) == ("ann", "de-DE")
    await there.type(again, "and in words?")
    prompt = there.llm.prompts[-1][1:]
    assert [m.role for m in prompt] == ["user", "assistant", "tool", "assistant", "user"]
    assert prompt[1].tool_calls == (ToolRequest("c1", "clock", "{}"),)
    assert (prompt[2].content, prompt[2].tool_call_id) == ("12:00", "c1")
    assert there.llm.tools[-1] == ["clock"]
    await finish(here, there)


@virtual
async def test_tokens_go_only_to_clients_that_keep_them() -> None:
    here = Replica()
    client = await here.connect()
    await here.type(client, "hello")
    assert not client.of(ev.ResumeToken)
    keeps = await here.connect(KEEPS)
    await here.type(keeps, "hello")
    assert len(keeps.of(ev.ResumeToken)) == 3, "one for `ready`, one for the question, one for the reply"
    assert all(t.good_for_s == 600 for t in keeps.of(ev.ResumeToken))
    await here.hang_up(keeps)
    assert len(keeps.of(ev.ResumeToken)) == 3, "who hangs up needs none"
    await finish(here)


@virtual
async def test_a_token_that_opens_nothing_gives_a_warning_and_a_fresh_session() -> None:
    here = Replica()
    client = await here.connect(ev.Hello(resume=b"", caller="ada"))
    await here.type(client, "hello")
    token = token_of(client)
    changed = token[:-1] + bytes([token[-1] ^ 1])
    cases = {
        b"nonsense": ("refused", "does not open"),
        changed: ("refused", "sealed with another key, or changed"),
        token: ("refused", "another caller's"),
    }
    for given, (outcome, words) in cases.items():
        there = Replica()
        fresh = await there.connect(ev.Hello(resume=given, caller="eve", session_id="mine"))
        (warning,) = fresh.of(ev.Warning)
        assert warning.code == "not_resumed"
        assert isinstance(fresh.sent[0].event, ev.Ready), "`ready` comes first, whatever is to be said"
        assert words in warning.message
        assert fresh.of(ev.Ready)[0] == ev.Ready("mine", 16_000, 24_000, "en-US", "")
        await there.type(fresh, "hi")
        assert there.prompt() == [("user", "hi")]
        assert there.outcomes == {outcome: 1}
        await there.sessions.drain(0.0)
    late = Replica(wall_s=1e9 + 601)
    fresh = await late.connect(ev.Hello(resume=token, caller="ada"))
    assert "has expired" in fresh.of(ev.Warning)[0].message
    assert late.outcomes == {"expired": 1}
    other = Replica(key="another key that others have, 32 characters")
    assert (await other.connect(ev.Hello(resume=token, caller="ada"))).of(ev.Warning)
    await finish(here, late, other)


@virtual
async def test_a_live_session_hands_over_what_it_knows_more_than_the_token() -> None:
    here = Replica()
    client = await here.connect(KEEPS)
    await here.type(client, "first")
    old = token_of(client)
    await here.type(client, "second")
    again = await resumed(here, old)  # its line was lost before the newer token came
    assert (await client.closed()).reason == "replaced"
    await here.type(again, "third")
    assert [text for role, text in here.prompt() if role == "user"] == ["first", "second", "third"]
    await finish(here)


@virtual
async def test_a_live_session_of_another_caller_hands_over_nothing() -> None:
    here, there = Replica(), Replica()
    mine = await there.connect(ev.Hello(session_id="desk", caller="eve", resume=b""))
    await there.type(mine, "eve's words")
    token = token_of(mine)
    ada = await here.connect(ev.Hello(session_id="desk", caller="ada", resume=b""))
    await here.type(ada, "ada's secret")
    again = await here.connect(ev.Hello(resume=token, caller="eve"))
    await here.type(again, "what was said?")
    assert "ada's secret" not in str(here.prompt())
    await finish(here, there)


@virtual
async def test_the_oldest_turns_make_room_and_no_token_is_longer_than_allowed() -> None:
    here, there = Replica(max_bytes=2_000), Replica()
    long = ev.Configure(instructions="x" * 1_500)
    client = await here.connect(ev.Hello(resume=b"", configure=long))
    for number in range(20):
        await here.type(client, f"question {number:02} " + "y" * 90)
    tokens = [t.token for t in client.of(ev.ResumeToken)]
    assert max(map(len, tokens)) <= 2_000
    again = await resumed(there, tokens[-1], configure=long)
    await there.type(again, "last")
    users = [text for role, text in there.prompt() if role == "user"]
    assert users[-2].startswith("question 19")
    assert 3 < len(users) < 15
    assert there.llm.prompts[-1][0].content == long.instructions
    await finish(here, there)


@virtual
async def test_with_a_store_the_token_is_short_and_the_history_is_there() -> None:
    shelf = Shelf()
    here, there = Replica(shelf), Replica(shelf)
    client = await here.connect(KEEPS)
    await here.type(client, "remember the number 41 " + "and this " * 50)
    assert len(client.of(ev.ResumeToken)) == 1, "one ticket is good for all turns"
    assert len(token_of(client)) < 300
    assert all(b"41" not in (found or b"") for _, found in shelf.kept.values()), "the store cannot read it"
    await here.sessions.drain(0.0)
    again = await resumed(there, token_of(client))
    assert again.of(ev.Ready)[0].resumed
    await there.type(again, "which one?")
    assert there.prompt()[0][1].startswith("remember the number 41")
    await there.hang_up(again)
    assert not shelf.kept, "who hangs up leaves nothing behind"
    lost = await resumed(there, token_of(client))
    assert "is not kept any more" in lost.of(ev.Warning)[0].message
    assert there.outcomes["lost"] == 1
    await finish(here, there)


@virtual
async def test_the_session_left_behind_elsewhere_ends_at_its_next_turn() -> None:
    shelf = Shelf()
    here, there = Replica(shelf), Replica(shelf)
    client = await here.connect(KEEPS)
    await here.type(client, "first")
    again = await resumed(there, token_of(client))
    await there.type(again, "second")
    client.put(ev.TextIn("late words"))
    assert (await client.closed()).reason == "replaced"
    await there.type(again, "third")
    users = [text for role, text in there.prompt() if role == "user"]
    assert users == ["first", "second", "third"], "the last who took it up is the one"
    await finish(here, there)


@virtual
async def test_a_store_that_fails_harms_no_session_and_the_client_keeps_its_history() -> None:
    shelf = Shelf()
    here, there = Replica(shelf), Replica(shelf)
    shelf.down = True
    client = await here.connect(KEEPS)
    await here.type(client, "while it was down")
    assert [w.code for w in client.of(ev.Warning)] == ["history_with_client"], "said once"
    again = await resumed(there, token_of(client))  # and still down
    assert again.of(ev.Ready)[0].resumed
    await there.type(again, "more")
    assert there.prompt()[0] == ("user", "while it was down")
    before = len(again.of(ev.ResumeToken))
    shelf.down = False
    await there.type(again, "it is back")
    assert len(again.of(ev.ResumeToken)) == before + 1, "a ticket again"
    shelf.down = True
    third = Replica(shelf)
    lost = await resumed(third, token_of(again))
    assert not lost.of(ev.Ready)[0].resumed
    assert "does not answer" in " ".join(w.message for w in lost.of(ev.Warning))
    assert here.outcomes["store_failed"] >= 2
    shelf.down = False
    await finish(here, there, third)


@virtual
async def test_speech_of_the_gap_is_taken_faster_than_it_was_spoken() -> None:
    here, there = Replica(), Replica()
    client = await here.connect(KEEPS)
    await here.sessions.drain(0.0)
    again = await resumed(there, token_of(client))
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(400):  # 8 s
        again.put(ev.AudioIn(bytes(640)))
    again.put(ev.Commit())
    await again.until(ev.Warning)
    assert loop.time() - began < 0.5
    await settle()
    await finish(here, there)


def test_what_is_sealed_opens_as_it_was() -> None:
    seal = Seal(KEY, b"test")
    what = Remembered(
        "s", "ada", 3, 7, ev.Configure(voice="ann", tools=(ev.Tool("t", "d", "{}"),)), [[{"role": "user", "text": "\ud83d half"}]]
    )  # fmt: skip
    token = sealed(what, seal, until=100.0, max_bytes=4_096)
    back = opened(token, seal, caller="ada", now=99.0)
    assert back == replace(what, turns=[[{"role": "user", "text": "? half"}]])
    assert sealed(what, seal, until=100.0, max_bytes=4_096) != token, "the nonce is random"
    with pytest.raises(Unusable, match="expired"):
        opened(token, seal, caller="ada", now=100.5)
    with pytest.raises(Unusable, match="does not open"):
        opened(token, Seal(KEY, b"another purpose"), caller="ada", now=0.0)
    with pytest.raises(Unusable, match="does not open"):
        opened(token, Seal("", b"test"), caller="ada", now=0.0)
