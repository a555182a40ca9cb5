"""Voices of the real fleet in virtual time: what a session holds while its model is loaded, lost, and found again."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from gateway.riva.errors import Refused
from gateway.riva.tts_api.fleet_voices import FleetVoices
from gateway.riva.tts_api.ports import Held, Want
from gateway.triton.codec import Array, text
from gateway.triton.errors import TritonUnavailable
from gateway.triton.fleet.fleet import Fleet
from tests.unit.triton.fleet.parts import given_back, town, virtual, voice

B = Want(model="b", voice="zoe")


async def say(held: Held, chunks: int = 1) -> None:
    async for _ in held.source.speak({"TEXT": text(str(chunks))}):
        pass


def voices(fleet: Fleet) -> FleetVoices:
    return FleetVoices(fleet, chunk_s=2.0)


@virtual
async def test_a_session_moves_to_the_wanted_model_when_it_asks_again_and_never_before() -> None:
    async with town(voice("tts_a"), voice("tts_b", voices=("ann", "zoe"))) as here:
        fleet = await here.fleet("tts_a")
        held = await voices(fleet).hold(B)
        assert (held.model.name, held.voice, held.instead_of) == ("tts_a", "", "tts_b")
        assert (await held.source.renew()).model.name == "tts_a"
        await asyncio.sleep(3.0)
        await say(held)
        assert here.only.asked == ["tts_a@1"]
        held = await held.source.renew()
        assert (held.model.name, held.voice, held.instead_of) == ("tts_b", "zoe", "")
        assert held.source.version == "1"
        await say(held)
        assert here.only.asked == ["tts_a@1", "tts_b@1"]
        await given_back(here.only, "tts_a")
        held.source.release()
        held.source.release()
        await given_back(here.only, "tts_b")


@virtual
async def test_a_wanted_model_that_does_not_load_is_not_waited_for_any_more() -> None:
    bad = voice("tts_b", voices=("zoe",))
    bad.broken = {1: "a file is missing"}
    async with town(voice("tts_a"), bad) as here:
        held = await voices(await here.fleet("tts_a", backoff_s=1.0)).hold(B)
        assert held.instead_of == "tts_b"
        await asyncio.sleep(5.0)
        held = await held.source.renew()
        assert (held.model.name, held.instead_of) == ("tts_a", "")
        held.source.release()


@virtual
async def test_without_stand_ins_a_session_waits_for_its_model() -> None:
    async with town(voice("tts_a"), voice("tts_b", voices=("zoe",))) as here:
        held = await voices(await here.fleet("tts_a", fallback=False)).hold(B)
        assert (held.model.name, held.voice, held.instead_of) == ("tts_b", "zoe", "")
        held.source.release()


@virtual
async def test_a_lost_server_moves_the_session() -> None:
    async with town(voice("tts_a"), addresses="127.0.0.1:1,127.0.0.2:1") as here:
        held = await voices(await here.fleet("tts_a")).hold(Want())
        (first,) = [machine for machine in here.machines.values() if machine.holders("tts_a")]
        first.triton.up = False
        with pytest.raises(TritonUnavailable) as lost:
            await say(held)
        await held.source.recover(lost.value)
        held = await held.source.renew()
        await say(held)
        assert held.model.name == "tts_a"
        held.source.release()


@virtual
async def test_what_nobody_has_is_refused_with_what_there_is_and_nothing_is_held() -> None:
    async with town(voice("tts_a", voices=("ann",))) as here:
        its = voices(await here.fleet("tts_a"))
        for want, says in (
            (Want(model="c"), "no tts model c: there is tts_a"),
            (Want(voice="zoe"), "no voice zoe for any language: there is ann"),
            (Want(policy="best"), "no routing policy best"),
        ):
            with pytest.raises(Refused, match=says):
                await its.hold(want)
        await given_back(here.only, "tts_a")


@virtual
async def test_a_voice_of_a_pack_is_one_of_the_models() -> None:
    async with town(voice("tts_a", voices=("ann",))) as here:
        recording: dict[str, Array] = {"REFERENCE_AUDIO": np.ones(3, np.float32)}
        pack: Any = type("Pack", (), {"language": "en-US"})()
        here.only.catalogue.packs = lambda model: {"mary": pack}  # type: ignore[method-assign]
        here.only.catalogue.voice_inputs = (  # type: ignore[method-assign]
            lambda model, voice: recording if voice == "mary" else {"VOICE": text(voice)}
        )
        held = await voices(await here.fleet("tts_a", voice_packs="voices")).hold(Want(voice="mary"))
        assert held.voice == "mary"
        assert "mary" in held.model.voices
        sent: list[dict[str, Array]] = []
        source: Any = held.source
        source._hold.stream = lambda inputs, **limits: sent.append(dict(inputs))
        for name in ("mary", "ann"):
            held.source.speak({"TEXT": text("1"), "VOICE": text(name)})
        assert [sorted(each) for each in sent] == [["REFERENCE_AUDIO", "TEXT"], ["TEXT", "VOICE"]]
        held.source.release()
