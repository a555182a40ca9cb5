"""Whatever a client sends is answered, or refused with a status that helps; nothing of it stays behind.

PARLEY_SOAK=1 makes twenty times as many examples, others every time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from riva.client.proto import riva_asr_pb2 as rasr

from gateway.protocol import voice_pb2 as pb
from tests.conformance import messages as m
from tests.conformance.hosts import ASR, TTS, Host

SOAK = os.environ.get("PARLEY_SOAK", "") not in ("", "0")
GROWTH_KB = 8.0
"""Per call, of our process: client, server and fakes; a session that stays behind has some 130."""


@pytest.fixture(scope="module")
def threads() -> int:
    return threading.active_count()


@pytest.fixture(scope="module")
def host(threads: int) -> Iterator[Host]:
    with Host() as started:
        yield started


@pytest.fixture(scope="module")
def at_rest(host: Host) -> int:
    """Tasks once everything has been used."""
    host.converse([m.OPUS_START]).check()
    host.stream(ASR + "StreamingRecognize", [m.ASR_PLAIN, m.ASR_AUDIO]).check()
    host.ask(TTS + "Synthesize", b"").check()
    host.check_nothing_is_held()
    return host.tasks()


def examples(number: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=number * 20 if SOAK else number,
        deadline=None,
        derandomize=not SOAK,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# --- parley.v1


@examples(300)
@given(m.NO_START, st.lists(m.harmless, max_size=2))
def test_a_session_that_does_not_begin_with_a_start_is_refused(
    host: Host, at_rest: int, first: bytes, rest: list[bytes]
) -> None:
    outcome = host.converse([first, *rest]).check()
    assert outcome.code is not grpc.StatusCode.OK
    assert outcome.answers == []
    host.check_nothing_is_held()


@examples(300)
@given(st.sampled_from(m.GOOD_STARTS[:2]), st.lists(m.harmless, max_size=4), m.NOT_ALLOWED)
def test_a_message_that_is_not_allowed_ends_the_session_with_a_reason(
    host: Host, at_rest: int, start: bytes, before: list[bytes], wrong: bytes
) -> None:
    assert host.converse([start, *before, wrong]).check().code is not grpc.StatusCode.OK
    host.check_nothing_is_held()


@examples(700)
@given(m.voice_streams)
def test_any_sequence_to_converse(host: Host, at_rest: int, sent: list[bytes]) -> None:
    outcome = host.converse(sent).check()
    if outcome.code is grpc.StatusCode.OK:
        assert pb.ServerMessage.FromString(outcome.answers[0]).HasField("ready")
        assert pb.ServerMessage.FromString(outcome.answers[-1]).HasField("closed")
    host.check_nothing_is_held()


# --- Riva


@examples(500)
@given(m.asr_streams)
def test_any_sequence_to_streaming_recognize(host: Host, at_rest: int, sent: list[bytes]) -> None:
    host.stream(ASR + "StreamingRecognize", sent).check()
    host.check_nothing_is_held()


@examples(40)
@given(st.lists(st.just(m.ASR_AUDIO), max_size=2), m.asr_not_allowed)
def test_a_second_config_or_no_message_ends_a_recognition(
    host: Host, at_rest: int, before: list[bytes], wrong: bytes
) -> None:
    outcome = host.stream(ASR + "StreamingRecognize", [m.ASR_PLAIN, *before, wrong]).check()
    assert outcome.code is grpc.StatusCode.INVALID_ARGUMENT
    host.check_nothing_is_held()


@examples(250)
@given(m.recognitions)
def test_any_recognize_request(host: Host, at_rest: int, sent: bytes) -> None:
    host.ask(ASR + "Recognize", sent).check()
    host.check_nothing_is_held()


@examples(250)
@given(st.lists(m.syntheses, max_size=4))
def test_any_sequence_to_synthesize_online(host: Host, at_rest: int, sent: list[bytes]) -> None:
    host.stream(TTS + "SynthesizeOnline", sent).check()
    host.check_nothing_is_held()


@examples(250)
@given(m.syntheses)
def test_any_synthesize_request(host: Host, at_rest: int, sent: bytes) -> None:
    host.ask(TTS + "Synthesize", sent).check()
    host.check_nothing_is_held()


@examples(60)
@given(
    st.sampled_from([ASR + "GetRivaSpeechRecognitionConfig", TTS + "GetRivaSynthesisConfig"]),
    m.noise | m.recognitions,
)
def test_any_question_for_a_config(host: Host, at_rest: int, path: str, sent: bytes) -> None:
    host.ask(path, sent).check()


# --- afterwards


def test_after_all_that_everything_works_and_nothing_is_left(host: Host, at_rest: int) -> None:
    text = pb.ClientMessage(text=pb.Text(text="hello")).SerializeToString()
    answers = [pb.ServerMessage.FromString(raw) for raw in host.converse([m.START, text]).check().answers]
    assert any(answer.reply_audio.audio for answer in answers)
    heard = host.stream(ASR + "StreamingRecognize", [m.ASR_PLAIN, *[m.ASR_AUDIO] * 4]).check().answers
    assert rasr.StreamingRecognizeResponse.FromString(heard[-1]).results[0].alternatives[0].transcript
    host.check_nothing_is_held()
    assert host.tasks() <= at_rest + 2, "the two of the call that is just ending"


def test_memory_stays_level(host: Host, at_rest: int) -> None:
    if host.calls < 1_000:
        pytest.skip("too little was sent to say")
    kinds = dict(host.ended)
    calls, grown = host.growth_mb(rounds=20 if SOAK else 3)
    print(f"\n{sum(kinds.values())} sequences: {kinds}; {calls} of them again: {grown:+.2f} MB")
    assert grown * 1024 < GROWTH_KB * calls


def test_its_threads_are_gone(threads: int) -> None:
    with Host() as host:
        host.converse([]).check()
    assert threading.active_count() <= threads + 4  # the first host, its loop's pool, and gRPC's own
