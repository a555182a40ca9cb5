"""Strategies for what a broken client sends: bytes, and structures that are valid but wrong."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import soundfile
from google.protobuf.message import Message
from hypothesis import strategies as st
from riva.client.proto import riva_asr_pb2 as rasr
from riva.client.proto import riva_tts_pb2 as rtts

from gateway.audio.encoders import OggOpusEncoder
from gateway.protocol import voice_pb2 as pb
from tests.conformance.hosts import MESSAGE_BYTES, TEXT_CHARS

Raw = st.SearchStrategy[bytes]
FILES = Path(__file__).parents[1] / "data" / "audio"

numbers = st.sampled_from([0, 1, -1, 2, 19, 20, 7_999, 8_000, 16_000, 48_000, 2**31 - 1, -(2**31)])
texts = st.sampled_from(
    [
        "",
        " ",
        "hello there.",
        "\0",
        "é\u2028\u202e",
        "🙂" * 60,
        "x" * (TEXT_CHARS + 1),
        "one. " * 30,
        "<speak>",
    ]
)
noise = st.binary(max_size=120)


def _sound() -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    sound: np.ndarray[tuple[int], np.dtype[np.int16]]
    sound = (np.sin(np.arange(4_000) * 0.2) * 9_000).astype(np.int16)
    return sound


def _wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", ""))
        writer.writeframes(_sound().tobytes())
    return file.getvalue()


def _flac() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, _sound(), 16_000, format="FLAC")
    return file.getvalue()


def _ogg() -> bytes:
    encoder = OggOpusEncoder(16_000)
    return encoder.encode(_sound()) + encoder.close()


def damaged(data: bytes) -> Raw:
    """The same bytes cut short, with some replaced, or with others in front or behind."""
    at = st.integers(0, max(0, len(data) - 1))
    return st.one_of(
        at.map(lambda n: data[:n]),
        st.tuples(at, st.binary(min_size=1, max_size=8)).map(
            lambda hit: data[: hit[0]] + hit[1] + data[hit[0] + len(hit[1]) :]
        ),
        noise.map(lambda more: data + more),
        noise.map(lambda more: more + data),
    )


def serialized(messages: st.SearchStrategy[Message]) -> Raw:
    return messages.map(lambda message: message.SerializeToString())


def one_in(share: int, usual: Raw, otherwise: Raw) -> Raw:
    return st.one_of(*[usual] * (share - 1), otherwise)


files = st.one_of(
    st.sampled_from([path.read_bytes()[:8_192] for path in sorted(FILES.iterdir())]),
    *(damaged(sound) for sound in (_wav(), _flac(), _ogg())),
)
audio = st.one_of(noise, files, st.sampled_from([b"", b"\0", _sound().tobytes(), _sound().tobytes()[:-1]]))


# --- parley.v1

_ids = st.sampled_from(["", "a", "the-same", "x" * 129, "white space", "é", "\0"])
_formats = st.builds(pb.AudioFormat, encoding=st.sampled_from([0, 1, 2, 3, 99, -1]), sample_rate=numbers)
_turns = st.builds(
    pb.TurnSettings,
    hangover_ms=st.none() | numbers,
    hangover_long_ms=st.none() | numbers,
    barge_in=st.booleans(),
)
_tools = st.builds(
    pb.Tools,
    tools=st.lists(
        st.builds(
            pb.Tool,
            name=_ids,
            description=texts,
            parameters=st.sampled_from(["", "{}", "[]", "{", "{" * 150]),
        ),
        max_size=3,
    ),
)
_settings = st.builds(
    pb.Settings,
    instructions=st.none() | texts,
    language=st.none() | texts,
    voice=st.none() | texts,
    turn=st.none() | _turns,
    tools=st.none() | _tools,
)
_starts = st.builds(
    pb.Start,
    session_id=_ids,
    input=st.none() | _formats,
    output=st.none() | _formats,
    settings=st.none() | _settings,
    lead_ms=st.none() | numbers,
)
START = pb.ClientMessage(start=pb.Start()).SerializeToString()
OPUS_START = pb.ClientMessage(
    start=pb.Start(input=pb.AudioFormat(encoding=pb.OPUS), output=pb.AudioFormat(encoding=pb.OPUS))
).SerializeToString()
GOOD_STARTS = (START, START, OPUS_START)


def _client(field: str, messages: st.SearchStrategy[object]) -> Raw:
    def build(message: object) -> bytes:
        return pb.ClientMessage(**{field: message}).SerializeToString()  # type: ignore[arg-type]

    return messages.map(build)


starts = _client("start", _starts)
laters = st.one_of(
    _client("audio", audio.map(lambda data: data[: MESSAGE_BYTES - 16])),
    _client("text", st.builds(pb.Text, text=texts)),
    _client("say", st.builds(pb.Say, text=texts, uninterruptible=st.booleans())),
    _client("configure", _settings),
    _client("truncate", st.builds(pb.Truncate, reply_id=_ids, heard_ms=numbers)),
    _client("tool_result", st.builds(pb.ToolResult, call_id=_ids, output=texts)),
    _client("hang_up", st.builds(pb.HangUp, reason=texts)),
    st.sampled_from([pb.ClientMessage(commit=pb.Commit()), pb.ClientMessage(cancel=pb.Cancel())]).map(
        lambda message: message.SerializeToString()
    ),
)
harmless = st.sampled_from(
    [
        pb.ClientMessage(audio=bytes(640)),
        pb.ClientMessage(audio=bytes(641)),
        pb.ClientMessage(commit=pb.Commit()),
        pb.ClientMessage(cancel=pb.Cancel()),
        pb.ClientMessage(tool_result=pb.ToolResult(call_id="nobody", output="")),
        pb.ClientMessage(truncate=pb.Truncate(reply_id="nobody", heard_ms=5)),
        pb.ClientMessage(configure=pb.Settings()),
    ]
).map(lambda message: message.SerializeToString())
"""Answered, or of no effect; none of them ends a session."""

_UNREADABLE = (
    b"\xff",
    b"\x0a\xff",
    b"\x0a\x03\x0a\x01\xff",
    b"\x1a\x04\x0a\x02\xff\xfe",
    b"\x00\x01",
    b"\x12\x7f",
)
NOT_ALLOWED = st.one_of(
    st.sampled_from([*_UNREADABLE, b"", START, b"\xa2\x1f\x01x"]),  # the last: a field of a later version
    st.sampled_from(
        [
            pb.ClientMessage(text=pb.Text()),
            pb.ClientMessage(say=pb.Say(text=" ")),
            pb.ClientMessage(text=pb.Text(text="x" * (TEXT_CHARS + 1))),
            pb.ClientMessage(truncate=pb.Truncate(heard_ms=1)),
            pb.ClientMessage(truncate=pb.Truncate(reply_id="a", heard_ms=-1)),
            pb.ClientMessage(tool_result=pb.ToolResult(output="a")),
            pb.ClientMessage(configure=pb.Settings(language="x" * 129)),
            pb.ClientMessage(configure=pb.Settings(turn=pb.TurnSettings(hangover_ms=-5))),
            pb.ClientMessage(audio=bytes(MESSAGE_BYTES + 1)),
            pb.ClientMessage(audio=bytes(MESSAGE_BYTES + 400_000)),
        ]
    ).map(lambda message: message.SerializeToString()),
)
"""Each ends its session with a refusal."""
NO_START = st.one_of(
    NOT_ALLOWED.filter(lambda raw: raw != START),
    harmless,
    st.sampled_from(
        [
            pb.Start(session_id="white space"),
            pb.Start(input=pb.AudioFormat(sample_rate=1)),
            pb.Start(input=pb.AudioFormat(encoding=99)),  # type: ignore[arg-type]
            pb.Start(output=pb.AudioFormat(encoding=pb.OPUS, sample_rate=44_100)),
            pb.Start(output=pb.AudioFormat(sample_rate=-16_000)),
            pb.Start(lead_ms=1_001),
            pb.Start(lead_ms=-1),
            pb.Start(settings=pb.Settings(instructions="x" * (TEXT_CHARS + 1))),
        ]
    ).map(lambda start: pb.ClientMessage(start=start).SerializeToString()),
)
"""Each is refused as a first message."""
voice_streams = st.one_of(
    st.lists(st.one_of(starts, laters, noise), max_size=6),
    st.builds(
        lambda head, rest: [head, *rest],
        st.one_of(st.sampled_from(GOOD_STARTS), starts),
        st.lists(st.one_of(laters, laters, laters, noise), max_size=8),
    ),
    st.builds(
        lambda head, rest: [head, *rest],
        st.sampled_from(GOOD_STARTS),
        st.lists(laters.flatmap(damaged), max_size=4),
    ),
)


# --- Riva

_codes = st.sampled_from(["en-US", "en-US", "", "ru-RU", "x" * 300, "\0"])
_configs = st.builds(
    rasr.RecognitionConfig,
    encoding=st.sampled_from([0, 1, 2, 3, 4, 20, 99, -1]),
    sample_rate_hertz=numbers,
    language_code=_codes,
    max_alternatives=numbers,
    audio_channel_count=numbers,
    model=st.sampled_from(["", "asr_a", "nobody"]),
    speech_contexts=st.lists(st.builds(rasr.SpeechContext, phrases=st.lists(texts, max_size=2)), max_size=2),
    custom_configuration=st.dictionaries(texts, texts, max_size=2),
    endpointing_config=st.none()
    | st.builds(rasr.EndpointingConfig, stop_history=numbers, start_history=numbers),
)
_plain = st.builds(
    rasr.RecognitionConfig,
    encoding=st.sampled_from([0, 1, 2, 3, 4, 20]),
    sample_rate_hertz=st.just(16_000),
    language_code=st.just("en-US"),
)


def _opening(config: rasr.RecognitionConfig) -> bytes:
    streaming = rasr.StreamingRecognitionConfig(config=config, interim_results=True)
    message: bytes = rasr.StreamingRecognizeRequest(streaming_config=streaming).SerializeToString()
    return message


asr_starts = st.one_of(_configs, _plain, _plain).map(_opening)
asr_audio = serialized(
    st.builds(
        rasr.StreamingRecognizeRequest,
        audio_content=audio,
        runtime_config=st.dictionaries(st.sampled_from(["force_eou", "x"]), texts, max_size=1),
    )
)
asr_streams = st.one_of(
    st.lists(st.one_of(asr_starts, asr_audio, asr_audio, noise), max_size=5),
    st.builds(
        lambda head, rest: [head, *rest], asr_starts, st.lists(one_in(6, asr_audio, noise), max_size=5)
    ),
    st.builds(
        lambda head, rest: [head, *rest],
        _plain.map(_opening),
        st.lists(asr_audio.flatmap(damaged), max_size=3),
    ),
)
ASR_PLAIN = _opening(rasr.RecognitionConfig(encoding=1, sample_rate_hertz=16_000, language_code="en-US"))
ASR_AUDIO = rasr.StreamingRecognizeRequest(audio_content=_sound().tobytes()).SerializeToString()
asr_not_allowed = st.one_of(st.sampled_from([*_UNREADABLE, ASR_PLAIN]))
recognitions = one_in(
    5, serialized(st.builds(rasr.RecognizeRequest, config=_configs | _plain, audio=audio)), noise
)

_syntheses = st.builds(
    rtts.SynthesizeSpeechRequest,
    text=texts,
    language_code=_codes,
    encoding=st.sampled_from([0, 1, 2, 4, 99]),
    sample_rate_hz=numbers,
    voice_name=st.sampled_from(["", "ann", "a.bob", "nobody", "\0"]),
    custom_dictionary=st.sampled_from(["", "word  phoneme", "word"]),
    custom_configuration=st.dictionaries(st.sampled_from(["speed", "style", "x"]), texts, max_size=2),
    zero_shot_data=st.none() | st.builds(rtts.ZeroShotData, audio_prompt=audio, sample_rate_hz=numbers),
)
syntheses = one_in(5, serialized(_syntheses), noise | serialized(_syntheses).flatmap(damaged))
