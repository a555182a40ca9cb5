"""A session and its voice: held while it lasts, changed or refused whole, told of what happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.session.manager import Sessions
from gateway.speak.hold import Notify, Wish
from gateway.speak.tts import Chunk, TtsError
from tests.support.fakes import FakeConnection, FakeTts
from tests.support.virtual_time import settle
from tests.unit.session.harness import World, ev, say, virtual, world


class Voice:
    """A hold that takes another model only with the switch."""

    def __init__(self, tts: HoldingTts, wish: Wish, notify: Notify) -> None:
        self._tts, self.wish, self.notify = tts, wish, notify
        self.prepared = 0
        self.released = 0

    async def prepare(self) -> None:
        self.prepared += 1
        await self._tts.prepare_gate.wait()

    def change(self, wish: Wish, *, switch: bool) -> None:
        if wish.model != self.wish.model and not switch:
            raise TtsError("this session has another model: ask for the switch of models", unwell=False)
        self.wish = wish

    def synthesize(self, text: str) -> AsyncGenerator[Chunk, None]:
        wish = self.wish
        return self._tts.synthesize(text, voice=wish.voice, language=wish.language, model=wish.model)

    def release(self) -> None:
        self.released += 1


class HoldingTts(FakeTts):
    def __init__(self) -> None:
        super().__init__()
        self.voices: list[Voice] = []
        self.prepare_gate = asyncio.Event()
        self.prepare_gate.set()

    def hold(self, wish: Wish, notify: Notify) -> Voice:
        self.voices.append(Voice(self, wish, notify))
        return self.voices[-1]


def holding(it: World) -> HoldingTts:
    """The world's synthesiser, from now on."""
    it.tts = tts = HoldingTts()
    it.sessions = Sessions(it.settings, it.asr, it.llm, tts, it.vad, it.metrics)
    return tts


def hello(**configure: object) -> ev.Hello:
    return ev.Hello(configure=ev.Configure(**configure))  # type: ignore[arg-type]


async def speak(it: World, client: FakeConnection) -> None:
    client.put(ev.TextIn("Hello?"))
    await client.until(ev.ReplyDone)


@virtual
async def test_a_session_holds_its_voice_from_its_start_to_its_end() -> None:
    async with world() as it:
        tts = holding(it)
        client = await it.connect(hello(model="tts_b", policy="fast", voice="ann", language="en-GB"))
        (voice,) = tts.voices
        assert (voice.wish, voice.prepared) == (Wish("ann", "en-GB", "tts_b", "fast"), 1)
        await say(client)
        assert voice.released == 0
        await it.hang_up(client)
        assert voice.released == 1


@pytest.mark.parametrize("ending", ["close", "drain", "idle", "duration", "lost", "bug", "cancelled"])
def test_whatever_ends_a_session_its_voice_is_let_go_once(ending: str) -> None:
    @virtual
    async def test() -> None:
        async with world(
            session={"idle_s": 5.0, "max_duration_s": 8.0 if ending == "duration" else 60.0}
        ) as it:
            tts = holding(it)
            tts.prepare_gate.clear()
            client = FakeConnection()
            serving = asyncio.create_task(it.sessions.serve(client))
            await settle()
            (voice,) = tts.voices
            assert voice.prepared == 1
            match ending:
                case "close":
                    client.put(ev.Close())
                case "drain":
                    await it.sessions.drain(0.0)
                case "bug":
                    client.put("no event")  # type: ignore[arg-type]
                case "cancelled" | "lost":
                    serving.cancel()
                case "duration":
                    for _ in range(9):
                        client.put(ev.Configure(voice="ann"))
                        await asyncio.sleep(1.0)
                case _:
                    pass
            await asyncio.wait({serving}, timeout=70)
            await settle()
            assert serving.done()
            assert voice.released == 1

    test()


@virtual
async def test_another_model_without_the_switch_changes_nothing_at_all() -> None:
    async with world() as it:
        tts = holding(it)
        client = await it.connect(hello(model="tts_a", voice="ann"))
        client.put(ev.Configure(model="tts_b", voice="bob", instructions="Be brief.", hangover_ms=900))
        await settle()
        (refused,) = client.of(ev.Error)
        assert refused.code == "bad_request"
        assert "ask for the switch" in refused.message
        await speak(it, client)
        (voice,) = tts.voices
        assert voice.wish == Wish("ann", it.settings.tts.language, "tts_a", "")
        assert tts.asked[-1][0] == "ann"
        assert "Be brief." not in str(it.llm.prompts[-1])
        client.put(ev.Configure(voice="amy"))  # what was refused is not asked for again
        await settle()
        assert len(client.of(ev.Error)) == 1
        assert (voice.wish.voice, voice.wish.model) == ("amy", "tts_a")


@virtual
async def test_with_the_switch_the_whole_of_it_applies_and_the_switch_is_for_once() -> None:
    async with world() as it:
        tts = holding(it)
        client = await it.connect(hello(model="tts_a"))
        client.put(ev.Configure(model="tts_b", voice="bob", instructions="Be brief.", switch_model=True))
        await speak(it, client)
        assert tts.asked[-1] == ("bob", it.settings.tts.language, 1.0, "tts_b")
        assert "Be brief." in str(it.llm.prompts[-1])
        client.put(ev.Configure(model="tts_a"))
        await settle()
        assert len(client.of(ev.Error)) == 1
        assert tts.voices[0].wish.model == "tts_b"


@virtual
async def test_what_happens_to_the_voice_is_told_until_the_session_ends() -> None:
    async with world() as it:
        tts = holding(it)
        client = await it.connect()
        (voice,) = tts.voices
        voice.notify("voice_loading", "tts_b is being loaded")
        assert client.of(ev.Warning) == [ev.Warning("voice_loading", "tts_b is being loaded")]
        await it.hang_up(client)
        voice.notify("voice_ready", "tts_b serves")
        assert len(client.of(ev.Warning)) == 1
