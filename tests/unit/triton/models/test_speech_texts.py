"""What texts a voice under the contract takes, and which piece of one it leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gateway.triton.models.tts.common import can_be_said, to_int16
from gateway.triton.models.tts.kokoro import Kokoro
from gateway.triton.models.voices import NothingToSay, Voice
from tests.support import fake_pb

fake_pb.install()

from gateway.triton.models import speech  # noqa: E402

Array = np.ndarray[Any, Any]
Model = speech.SpeechModel
SECOND = np.full(16_000, 0.2, np.float32)


class Latin:
    """Says nothing but Latin letters, fails at the word crash, and makes no numbers of the word overflow."""

    rate = 16_000
    threads = 2
    rests = True
    piece_chars = 40
    imitates = True
    voices: tuple[Voice, ...] = (Voice("one", "en-US", "one", 1.0),)

    def __init__(self) -> None:
        self.said: list[str] = []
        self.references: list[Array] = []

    def synthesize(self, text: str, voice: Voice, speed: float, heard: Callable[[Array], bool]) -> None:
        if not can_be_said(text):
            return
        if not any("a" <= letter <= "z" for letter in text.lower()):
            raise NothingToSay(f"nothing of the text {text!r} can be spoken by this voice")
        if "crash" in text:
            raise RuntimeError("graph decoder failed")
        self.said.append(text)
        heard(to_int16(SECOND * (np.float32(np.nan) if "overflow" in text else np.float32(1))))

    def imitate(
        self, text: str, voice: Voice, speed: float, heard: Callable[[Array], bool], reference: Array | None
    ) -> None:
        assert reference is not None
        self.references.append(reference)
        self.synthesize(text, voice, speed, heard)


@pytest.fixture
def mouth() -> Latin:
    return Latin()


@pytest.fixture
def model(mouth: Latin, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setattr(speech, "exit_with_parent", lambda: None)
    config = fake_pb.config("tts_latin", max_streams="4", sample_rate="16000", pace="1000")
    made = Model({"model_config": json.dumps(config)}, lambda: mouth)
    yield made
    made.finalize()


def say(model: Model, text: str | bytes, **inputs: Any) -> Array:
    told = text.encode() if isinstance(text, str) else text
    request = fake_pb.Request({"TEXT": np.array([told], np.object_), **inputs})
    model.execute([request])
    request.answer()
    return np.concatenate([one.outputs["AUDIO"] for one in request.responses])


@pytest.mark.parametrize("text", ["", "   ", "... !? --", "😀 👨‍👩‍👧 🎉", "\x00", "\n\t"])
def test_signs_alone_are_no_sound_and_no_error(model: Model, text: str) -> None:
    assert not len(say(model, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Привет, как у вас дела сегодня? A sentence in its own letters. 你好。",
            "A sentence in its own letters.",
        ),
        (
            "First comes this sentence. 你好你好你好你好你好你好你好你好。 Then the other.",
            "First comes this sentence.",
        ),
    ],
)
def test_a_piece_in_another_script_is_left_out_of_a_text(
    model: Model, mouth: Latin, text: str, said: str
) -> None:
    assert len(say(model, text))
    assert said in " ".join(mouth.said)


def test_a_text_in_another_script_is_refused_in_a_sentence(model: Model) -> None:
    with pytest.raises(fake_pb.TritonError, match=r"nothing of the text .* can be spoken") as refused:
        say(model, "Привет, как у вас дела сегодня? И у вас тоже, скажите?")
    assert refused.value.code == fake_pb.TritonError.INVALID_ARG


@pytest.mark.parametrize(
    ("text", "said"),
    [("This will crash.", "graph decoder failed"), ("An overflow.", "audio that is no finite numbers")],
)
def test_an_engine_that_fails_is_an_error_and_the_next_is_heard(model: Model, text: str, said: str) -> None:
    with pytest.raises(fake_pb.TritonError, match=said) as failed:
        say(model, text)
    assert failed.value.code == fake_pb.TritonError.INTERNAL
    assert len(say(model, "Hello."))


def test_bytes_that_are_no_text_and_signs_that_end_strings_are_read_over(model: Model, mouth: Latin) -> None:
    assert len(say(model, b"one \xed\xa0\x80 \xff two\x00three"))
    (said,) = mouth.said
    assert said.startswith("one ")
    assert said.endswith("three")


def test_twenty_thousand_characters_are_said_and_one_more_is_not(model: Model, mouth: Latin) -> None:
    assert len(say(model, "a" * 20_000)) > 15_000 * len(mouth.said)
    assert "".join(mouth.said) == "a" * 20_000
    with pytest.raises(fake_pb.TritonError, match="TEXT has 20001 characters; at most 20000"):
        say(model, "a" * 20_001)


@pytest.mark.parametrize("speed", [0.0, -1.0, 0.49, 2.01, np.nan, np.inf])
def test_a_speed_that_is_none_is_refused(model: Model, speed: float) -> None:
    with pytest.raises(fake_pb.TritonError, match=r"SPEED is .*; 0.5 to 2 are possible"):
        say(model, "Hello.", SPEED=np.array([speed], np.float32))


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_the_outermost_speeds_are_taken(model: Model, speed: float) -> None:
    assert len(say(model, "Hello.", SPEED=np.array([speed], np.float32)))


def test_a_reference_is_heard_within_full_scale_and_must_be_numbers(model: Model, mouth: Latin) -> None:
    loud = SECOND.copy()
    loud[3] = 1e30
    say(model, "Hello.", REFERENCE_AUDIO=loud)
    assert np.abs(mouth.references[0]).max() == 1.0
    loud[3] = np.nan
    with pytest.raises(fake_pb.TritonError, match="REFERENCE_AUDIO holds values that are no finite numbers"):
        say(model, "Hello.", REFERENCE_AUDIO=loud)
    assert len(mouth.references) == 1


def test_kokoro_leaves_out_a_clause_in_another_script(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(text: str) -> Array:
        if not text.isascii():
            raise NothingToSay(text)
        return np.array([0, len(text), 0], np.int64)

    engine = Kokoro.__new__(Kokoro)
    engine._say, engine._seed = {"en-US": read}, 1
    monkeypatch.setattr(engine, "_stream", lambda ids, *_: iter([SECOND]))
    heard: list[int] = []

    def hear(samples: Array) -> bool:
        heard.append(len(samples))
        return True

    voice = Voice("af", "en-US", "af", 1.0)
    engine.synthesize(
        "Привет! " + "A sentence that is long enough to stand by itself, that is. " * 2, voice, 1.0, hear
    )
    assert heard == [16_000]
    with pytest.raises(NothingToSay):
        engine.synthesize("Привет!", voice, 1.0, hear)
