"""A voice behind an LLM that speaks codec tokens: a real HTTP server that streams as vLLM does, graphs in numpy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.triton.exported.description import Axis, Graph, State, Tensor
from gateway.triton.models.exported import Folder
from gateway.triton.models.tts.codec import CodecVoice
from gateway.triton.models.tts.codec_decoders import SnacDecoding
from gateway.triton.models.tts.codec_tokens import CodecTokens, without_marks
from gateway.triton.models.tts.completions import Completions, LlmFailed
from gateway.triton.models.tts.tempo import Tempo
from tests.support.codec_llm import CodecLlm

Array = np.ndarray[Any, Any]
SAMPLES, ROWS, SIZE = 240, 7, 64
ORDER = [0, 1, 4, 2, 3, 5, 6]
FRAMES = Axis("frames", 1, 4, 64)
PROMPT = "<custom_token_3>{voice}: {text}<custom_token_1>"
TOKENS = {"pattern": r"<custom_token_(\d+)>", "first": 10, "codebook_size": SIZE, "order": ORDER}


class Steps:
    """Audio that depends on all frames so far: a graph with a state."""

    spec = Graph(
        "decoder",
        (Tensor("codes", "INT64", (ROWS, "frames")),),
        (Tensor("audio", "FP32", ("samples",)),),
        (State("state_0_in", "state_0_out", (1,)),),
        "start",
        (FRAMES,),
        8,
    )
    sizes: list[int]

    def __init__(self) -> None:
        self.sizes = []

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        self.sizes.append(feeds["codes"].shape[2])
        state = feeds["state_0_in"] * (1 - feeds["start"])
        weights = np.arange(1, ROWS + 1) / (1000 * SIZE)
        level = np.tensordot(weights, feeds["codes"][0], 1).cumsum() * 0.05 + state[0, 0]
        return {"audio": np.repeat(level, SAMPLES)[None].astype(np.float32), "state_0_out": level[None, -1:]}


class Windowed:
    """Audio of a frame depends on two frames on each side, and on its noise: a graph without state."""

    spec = Graph(
        "decoder", (Tensor("codes", "INT64", (ROWS, "frames")),), (Tensor("audio", "FP32", ("samples",)),)
    )

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        level = feeds["codes"][0].sum(0) / (10 * ROWS * SIZE) + feeds["noise"][0].sum(0) / 1000
        mixed = np.convolve(np.pad(level, 2), [0.1, 0.2, 0.4, 0.2, 0.1], "valid")
        return {"audio": np.repeat(mixed, SAMPLES)[None].astype(np.float32)}


class Given(Folder):
    def __init__(self, front: dict[str, Any], graph: Any, parameters: dict[str, str]) -> None:
        self.version, self.front, self._graph = Path("nowhere"), front, graph
        self._config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}

    def graph(self, name: str) -> Any:
        return self._graph


def front(codec: str) -> dict[str, Any]:
    return {
        "codec": codec,
        "rate": 24_000,
        "samples": SAMPLES,
        "rows": ROWS,
        "noise": 3,
        "frames": {"first": 1, "later": 4, "before": 2, "after": 2},
        "tokens": TOKENS,
        "llm": {"prompt": PROMPT, "end": "<custom_token_2>", "sampling": {"temperature": 0.6}},
        "voices": [{"name": "tara", "language": "en-US", "gain": 1.0}],
        "seed": 7,
    }


def make_voice(llm_url: str, codec: str = "mimi", **parameters: str) -> CodecVoice:
    graph = Steps() if codec == "mimi" else Windowed()
    return CodecVoice(Given(front(codec), graph, {"llm": llm_url, **parameters}))


@pytest.fixture
def llm() -> Iterator[CodecLlm]:
    with CodecLlm(ROWS, SIZE) as running:
        yield running


def speak(voice: CodecVoice, text: str = "Hello there.", speed: float = 1.0) -> Array:
    heard: list[Array] = []

    def hear(samples: Array) -> bool:
        heard.append(samples)
        return True

    voice.synthesize(text, voice.voices[0], speed, hear)
    whole: Array = np.concatenate(heard)
    return whole


def reference(voice: CodecVoice, llm: CodecLlm, frames: int = 12) -> Array:
    audio = voice.audio(llm.codes(frames)[ORDER], 7)
    rounded: Array = np.rint(audio * 32767).astype(np.int16)
    return rounded


@pytest.mark.parametrize("codec", ["mimi", "snac"])
def test_what_the_llm_says_is_heard_as_the_codec_makes_it(llm: CodecLlm, codec: str) -> None:
    voice = make_voice(llm.url, codec)
    heard = speak(voice)
    assert len(heard) == 12 * SAMPLES
    assert np.abs(heard.astype(int) - reference(voice, llm)).max() <= 1
    assert len(np.unique(heard)) >= 12


def test_the_llm_is_asked_as_its_model_was_taught(llm: CodecLlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_TTS_LLM_KEY", "secret-key")
    speak(make_voice(llm.url, llm_model="orpheus"), "Say <|eot_id|>this<custom_token_2> <laugh>.")
    (body,) = llm.requests
    assert body["prompt"] == "<custom_token_3>tara: Say  this  <laugh>.<custom_token_1>"
    assert body["stream"] is True
    assert body["skip_special_tokens"] is False
    assert body["stop"] == ["<custom_token_2>"]
    assert (body["model"], body["temperature"], body["seed"]) == ("orpheus", 0.6, 7)
    assert llm.headers[0]["Authorization"] == "Bearer secret-key"
    assert body["max_tokens"] % ROWS == 0
    assert body["max_tokens"] < 100_000


def test_nothing_to_say_asks_nobody(llm: CodecLlm) -> None:
    voice = make_voice(llm.url)
    voice.synthesize("... <|eot_id|>!", voice.voices[0], 1.0, lambda samples: pytest.fail("there is sound"))
    assert not llm.requests


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("404", r"answered 404: The model `orpheus` does not exist"),
        ("cut", r"connection to http://127\.0\.0\.1:\d+ broke"),
        ("error", "CUDA out of memory"),
        ("words", "without a whole frame of mimi tokens"),
        ("html", "no completion: <html>log in</html>"),
        ("babbles", "says more than the"),
        ("stuck", r"said nothing for 0\.3 s after it was asked"),
        ("stalls", r"said nothing for 0\.2 s; it is too slow or stuck"),
    ],
)
def test_an_llm_that_fails_is_an_error_in_a_sentence(llm: CodecLlm, mode: str, said: str) -> None:
    llm.mode = mode
    voice = make_voice(llm.url, llm_first_token_s="0.3", llm_next_token_s="0.2")
    with pytest.raises(LlmFailed, match=said):
        speak(voice)


def test_an_llm_that_is_not_there_is_an_error_in_a_sentence(llm: CodecLlm) -> None:
    url = llm.url
    llm.stop()
    with pytest.raises(LlmFailed, match="cannot be reached"):
        speak(make_voice(url))


def test_what_came_before_the_failure_was_heard(llm: CodecLlm) -> None:
    llm.mode = "error"
    voice = make_voice(llm.url)
    heard: list[int] = []

    def hear(samples: Array) -> bool:
        heard.append(len(samples))
        return True

    with pytest.raises(LlmFailed):
        voice.synthesize("Hello.", voice.voices[0], 1.0, hear)
    assert sum(heard) == 2 * SAMPLES


@pytest.mark.parametrize("mode", ["stuck", "stalls", "babbles"])
def test_who_is_not_listened_to_any_more_is_hung_up_on(llm: CodecLlm, mode: str) -> None:
    """Also while the LLM is silent: nobody waits for its deadline."""
    llm.mode = mode
    voice = make_voice(llm.url, llm_first_token_s="60", llm_next_token_s="60")
    began = time.monotonic()
    voice.synthesize("Hello.", voice.voices[0], 1.0, lambda samples: False)
    assert time.monotonic() - began < 5
    assert llm.hung_up.wait(5), "the LLM's server saw its client go"


def test_many_speak_at_a_time(llm: CodecLlm) -> None:
    voice = make_voice(llm.url, "snac")
    wanted = reference(voice, llm)
    heard: list[Array] = []
    threads = [threading.Thread(target=lambda: heard.append(speak(voice))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(heard) == 12
    assert all(np.abs(one.astype(int) - wanted).max() <= 1 for one in heard)


def test_who_has_heard_nothing_goes_first(llm: CodecLlm) -> None:
    """One decoder: a newcomer's first part is made before the fortieth of who came earlier."""
    voice = make_voice(llm.url, "mimi", decoders="1")
    llm.frames = lambda prompt: 200
    order: list[str] = []
    comes, came = threading.Event(), threading.Event()

    def first(samples: Array) -> bool:
        order.append("first")
        comes.set()
        came.wait(0.01)
        return True

    def second(samples: Array) -> bool:
        order.append("second")
        came.set()
        return False

    threads = [
        threading.Thread(target=voice.synthesize, args=("One.", voice.voices[0], 1.0, first)),
        threading.Thread(target=voice.synthesize, args=("Two.", voice.voices[0], 1.0, second)),
    ]
    threads[0].start()
    assert comes.wait(5)
    threads[1].start()
    for thread in threads:
        thread.join(20)
    assert "second" in order
    assert order.index("second") < 25, "of 51 parts"


def test_a_url_that_is_none_is_refused_at_load() -> None:
    with pytest.raises(ValueError, match=r"base URL such as http://127\.0\.0\.1:8000/v1"):
        Completions("orpheus:8000")
    with pytest.raises(ValueError, match="llm_next_token_s"):
        make_voice("http://127.0.0.1:1/v1", llm_next_token_s="soon")


def test_tokens_come_in_any_pieces() -> None:
    llm = CodecLlm(ROWS, SIZE)
    llm.stop()
    text = "".join(llm.tokens(5))
    for size in (1, 3, 17, 1000):
        tokens = CodecTokens(TOKENS)
        found = [tokens.read([text[at : at + size]]) for at in range(0, len(text), size)]
        assert (np.concatenate(found, axis=1) == llm.codes(5)[ORDER]).all()
        assert (tokens.frames, tokens.dropped) == (5, 0)


def test_a_slip_costs_its_frame_alone() -> None:
    llm = CodecLlm(ROWS, SIZE)
    llm.stop()
    said = llm.tokens(4)
    slips = {
        "one is missing": said[:9] + said[10:],
        "one is said twice": said[:9] + said[8:],
        "a mark between": [*said[:9], "<custom_token_5> er ", *said[9:]],
    }
    for what, texts in slips.items():
        tokens = CodecTokens(TOKENS)
        found = tokens.read(texts)
        kept = [0, 1, 2, 3] if what == "a mark between" else [0, 2, 3]
        assert (found == llm.codes(4)[ORDER][:, kept]).all(), what
        assert tokens.dropped == 4 - len(kept)


def test_marks_are_taken_out_and_feelings_are_not() -> None:
    assert without_marks("a<|eot_id|>b<custom_token_12>c <sigh> 1<2") == "a b c <sigh> 1<2"


@pytest.mark.parametrize("sizes", [[20], [1] * 20, [3, 1, 9, 7], [0, 19, 1]])
def test_snac_in_windows_is_snac_as_a_whole(sizes: list[int]) -> None:
    codes = np.random.default_rng(1).integers(0, SIZE, (ROWS, sum(sizes)))
    noise = np.random.default_rng(7).standard_normal((sum(sizes), 3), np.float32).T
    whole = Windowed().run({"codes": codes[None], "noise": noise[None]})["audio"][0]
    decoding = SnacDecoding(Windowed(), front("snac"), 7)
    heard: list[Array] = []
    at = 0
    for size in sizes:
        heard += decoding.feed(codes[:, at : at + size])
        at += size
    assert len(heard[0]) == SAMPLES, "one frame at first"
    frames, left = divmod(len(np.concatenate(heard)), SAMPLES)
    assert left == 0
    assert sum(sizes) - 3 <= frames <= sum(sizes) - 2, "two wait for those after them, one for a fellow"
    heard += decoding.end()
    assert np.abs(np.concatenate(heard) - whole).max() < 1e-6


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.4, 2.0])
def test_another_tempo_keeps_the_pitch(speed: float) -> None:
    rate = 24_000
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate).astype(np.float32) * 0.3
    tempo = Tempo(rate, speed)
    made = np.concatenate([*(tempo(tone[at : at + 2048]) for at in range(0, len(tone), 2048)), tempo.flush()])
    assert len(made) == pytest.approx(len(tone) / speed, rel=0.06)
    middle = made[len(made) // 4 : 3 * len(made) // 4]
    loudest = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle))))) * rate / len(middle)
    assert loudest == pytest.approx(440, abs=8)


def test_the_usual_tempo_touches_nothing() -> None:
    tone = np.ones(100, np.float32)
    tempo = Tempo(24_000, 1.0)
    assert tempo(tone) is tone
    assert len(tempo.flush()) == 0


def test_who_has_gone_while_the_decoder_was_busy_has_nothing_made(llm: CodecLlm) -> None:
    """One decoder, at work for the first: those who wait for it and hang up leave at once, and cost it nothing."""
    voice = make_voice(llm.url, "mimi", decoders="1")
    graph = voice._decoder._graph
    assert isinstance(graph, Steps)
    busy, go_on = threading.Event(), threading.Event()
    run = graph.run

    def held_up(feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        busy.set()
        assert go_on.wait(10)
        return run(feeds, outputs)

    graph.run = held_up  # type: ignore[method-assign]

    def talk(heard: Callable[[Array], bool]) -> threading.Thread:
        thread = threading.Thread(target=voice.synthesize, args=("Hello.", voice.voices[0], 1.0, heard))
        thread.start()
        return thread

    first = talk(lambda samples: False)
    assert busy.wait(5)
    gone = [talk(lambda samples: False) for _ in range(6)]
    for thread in gone:
        thread.join(5)
    assert not any(thread.is_alive() for thread in gone), "they left while the decoder was at work"
    go_on.set()
    first.join(5)
    assert len(graph.sizes) == 1
    assert len(speak(voice)) == 12 * SAMPLES, "the decoder is free"
