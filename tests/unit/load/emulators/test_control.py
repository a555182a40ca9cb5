"""The control: what it shows, what it changes, what it refuses."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.unit.load.emulators.parts import rig


async def test_everything_is_counted() -> None:
    async with rig() as parts:
        for part in ("asr", "llm", "tts"):
            assert await parts.ask(part) > 1
        await parts.is_idle()
        stats = await parts.stats()
    asr, llm, tts = stats["asr"], stats["llm"], stats["tts"]
    assert (asr["streams"], asr["finals"], asr["cancelled"]) == (1, 1, 0)
    assert asr["audio_ms"] == pytest.approx(1_200)
    assert (llm["requests"], llm["cancelled"]) == (1, 0)
    assert llm["tokens"] > 10
    assert (tts["requests"], tts["cancelled"], tts["chunks_after_cancel"]) == (1, 0, 0)
    assert tts["chunks"] > 5
    assert all(counted["listening"] and not counted["faults"] for counted in stats.values())


async def test_scripts_are_said_in_turn() -> None:
    async with rig() as parts:
        await parts.order("profile", {"asr": {"transcripts": ["one two", "three four"]}})
        said = [await parts.transcript() for _ in range(3)]
    assert said == ["one two", "three four", "one two"]


async def test_a_new_profile_holds_for_what_comes_then() -> None:
    async with rig() as parts:
        before = await parts.ask("tts")
        assert (await parts.order("profile", {"tts": {"ms_per_char": 120}}))["status"] == 200
        assert await parts.ask("tts") > 1.5 * before
        assert (await parts.order("profile", {"llm": {"replies": ["Yes."]}}))["status"] == 200
        assert await parts.ask("llm") == 2


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("profile", {"asr": {"final_ms": -1}}, "asr.final_ms is -1"),
        ("profile", {"ear": {}}, "asr, llm and tts"),
        ("profile", {"asr": {"clips": "nowhere.json"}}, "cannot be read"),
        ("fault", {"kind": "stall"}, "part is None"),
        ("fault", {"part": "asr", "kind": "sulk"}, "kind is 'sulk'"),
        ("fault", {"part": "asr", "kind": "die", "count": "many"}, "count is 'many'"),
        ("fault", {"part": "asr", "kind": "die", "count": 1, "for_s": 1}, "not both"),
        ("fault", {"part": "asr", "kind": "die", "when": 1}, "no when"),
        ("cut", {"part": "all"}, "part is 'all'"),
        ("restart", {"part": "asr", "down_s": -1}, "down_s is -1"),
    ],
)
async def test_an_order_that_cannot_be_carried_out_says_why_and_changes_nothing(
    path: str, body: dict[str, Any], words: str
) -> None:
    async with rig() as parts:
        answer = await parts.order(path, body)
        assert answer["status"] == 400
        assert words in answer["error"]
        assert await parts.ask("asr") > 1


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"'])
async def test_a_body_that_is_no_object(body: bytes) -> None:
    async with rig() as parts, aiohttp.ClientSession() as http:
        for path in ("profile", "fault", "cut", "restart"):
            async with http.post(f"{parts.at.control}/{path}", data=body) as reply:
                assert reply.status == 400
                assert "JSON" in (await reply.json())["error"]
