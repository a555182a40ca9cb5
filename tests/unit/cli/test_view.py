from __future__ import annotations

import io
import json

import pytest

from gateway.cli.client import Arrival
from gateway.cli.view import STAGES, HumanView, JsonView, stages
from gateway.session import events as ev

TIMINGS = {
    "end_of_turn": 280.0,
    "speech_end_to_final": 310.0,
    "final_to_first_token": 5.0,
    "first_token_to_first_sentence": 1.0,
    "sentence_to_first_chunk": 20.0,
    "first_chunk_to_first_audio": 4.0,
    "final_to_first_audio": 30.0,
    "voice_to_voice": 340.0,
}
STORY: list[ev.ServerEvent] = [
    ev.Ready("s1", 16_000, 24_000, "en-US", "slt"),
    ev.StateChanged(ev.State.LISTENING),
    ev.SpeechStarted("t1", 100),
    ev.Transcript("t1", "tell me", False, 4),
    ev.Transcript("t1", "tell me a story", True, 15),
    ev.SpeechStopped("t1", 1_500),
    ev.ReplyStarted("r1", "t1", 1),
    ev.ReplyText("r1", "Once upon a time "),
    ev.ReplyAudio("r1", 1, 0, 0, bytes(960)),
    ev.Flushed(1, "r1"),
    ev.ReplyDone("r1", ev.Outcome.INTERRUPTED, "Once upon", "a time", 340, TIMINGS),
    ev.ToolCall("c1", "weather", "{}"),
    ev.Warning("asr_retry", "trying again"),
    ev.Error("llm_failed", "no answer"),
    ev.Closed("idle", "nothing was said"),
]


def test_json_lines_name_events_in_snake_case_with_their_time() -> None:
    out = io.StringIO()
    view = JsonView(10.0, out)
    for number, event in enumerate(STORY):
        view.show(Arrival(10.0 + number / 10, event))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["type"] for line in lines] == [
        "ready", "state", "speech_started", "transcript", "transcript", "speech_stopped", "reply_started",
        "reply_text", "reply_audio", "flushed", "reply_done", "tool_call", "warning", "error", "closed",
    ]  # fmt: skip
    assert [line["t_ms"] for line in lines] == [n * 100 for n in range(len(STORY))]
    assert {type(event) for event in STORY} == set(ev.ServerEvent.__args__) - {ev.ResumeToken}
    by_type = {line["type"]: line for line in lines}
    assert (by_type["transcript"]["final"], by_type["transcript"]["text"]) == (True, "tell me a story")
    assert by_type["state"]["state"] == "LISTENING"
    assert "pcm" not in by_type["reply_audio"]
    assert by_type["reply_audio"]["bytes"] == 960
    assert by_type["reply_done"]["outcome"] == "interrupted"
    assert by_type["reply_done"]["timings_ms"] == TIMINGS


def test_people_see_the_words_grow_the_reply_the_cut_and_the_latencies(
    capsys: pytest.CaptureFixture[str],
) -> None:
    view = HumanView(10.0)
    for event in STORY:
        view.show(Arrival(11.0, event))
    view.close()
    out = capsys.readouterr().out
    for words in (
        "you  tell me …", "you  tell me a story", "parley  Once upon a time", "interrupted after 0.3 s",
        "heard: Once upon", "cut:   a time", "voice to voice 340", "final transcript 30", "no answer (llm_failed)",
        "nothing was said",
    ):  # fmt: skip
        assert words in out, words


def test_the_stages_add_up_to_voice_to_voice() -> None:
    known = stages(TIMINGS)
    assert tuple(known) == STAGES
    assert sum(known.values()) - known["voice to voice"] == known["voice to voice"]


def test_stages_of_a_typed_turn_are_fewer() -> None:
    assert stages({"final_to_first_token": 5.0}) == {"LLM first token": 5.0}
