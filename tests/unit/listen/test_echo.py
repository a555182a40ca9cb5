"""The echo guard: our own voice is silenced, another's passes, whatever the way back is like."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from gateway.audio.pcm import to_pcm
from gateway.listen.echo import EchoGuard
from gateway.listen.vad import WINDOW
from gateway.settings import EchoSettings
from tests.unit.listen.sound import RATE, Float, confirmed, hiss, probabilities, recorded, room, voice

FRAME = 320
LEAD = 960
START = RATE // 2


def conversation(
    reply: Float, microphone: Float, guard: EchoGuard | None = None, *, start: int = START
) -> tuple[Float, EchoGuard]:
    """`reply` goes out from sample `start` on in 20 ms frames with 60 ms of lead; the guard's output. [n]"""
    guard = guard or EchoGuard(EchoSettings())
    out = np.zeros(len(microphone) // WINDOW * WINDOW, np.float32)
    sent = 0
    for k in range(len(out) // WINDOW):
        now = (k + 1) * WINDOW
        while (sent + 1) * FRAME <= len(reply) and start + max(0, sent * FRAME - LEAD) <= now:
            guard.played(to_pcm(reply[sent * FRAME : (sent + 1) * FRAME]))
            sent += 1
        window = microphone[k * WINDOW : now]
        out[k * WINDOW : now] = guard.suppress(window)
    return out, guard


def loudspeaker(reply: Float, tail_s: float = 0.5) -> Float:
    """The reply on the client's time, with silence around it. [n]"""
    return np.concatenate([np.zeros(START, np.float32), reply, np.zeros(int(tail_s * RATE), np.float32)])


def power_db(x: Float) -> float:
    return float(10 * np.log10(np.mean(x**2) + 1e-12))


def kept(out: Float, of: Float) -> float:
    """Share of the loud windows of `of` that came out at more than a tenth of their power."""
    a = np.mean(out.reshape(-1, WINDOW) ** 2, axis=1)
    b = np.mean(of[: out.size].reshape(-1, WINDOW) ** 2, axis=1)
    loud = b > 0.1 * b.max()
    return float(np.mean(a[loud] > 0.1 * b[loud]))


@pytest.mark.parametrize("gain_db", [-8.0, 0.0, -20.0, -30.0])
@pytest.mark.parametrize("delay_ms", [0, 40, 250, 500])
def test_our_own_playout_coming_back_is_silenced(gain_db: float, delay_ms: float) -> None:
    reply = voice(1, 4)
    mic = room(loudspeaker(reply), delay_ms, gain_db) + hiss(len(loudspeaker(reply)), -80)
    out, guard = conversation(reply, mic)
    assert kept(out, mic) < 0.03
    assert guard.delay_ms is not None
    assert abs(guard.delay_ms - delay_ms) < 45  # windows and frames add their own


@pytest.mark.parametrize("tail_s", [0.1, 0.3])
def test_reverberation_is_echo_too(tail_s: float) -> None:
    reply = voice(2, 5)
    mic = room(loudspeaker(reply), 40, -8, tail_s) + hiss(len(loudspeaker(reply)), -80)
    out, _ = conversation(reply, mic)
    assert kept(out, mic) < 0.06


def test_noise_in_the_room_does_not_hide_the_echo() -> None:
    reply = voice(3, 5)
    mic = room(loudspeaker(reply), 60, -8, 0.1) + hiss(len(loudspeaker(reply)), -50)
    out, _ = conversation(reply, mic)
    assert kept(out, mic) < 0.1


def test_another_voice_over_the_echo_passes() -> None:
    reply, user = voice(4, 6), np.zeros(START + 6 * RATE + RATE // 2, np.float32)
    echo = room(loudspeaker(reply), 40, -8, 0.1)
    user[4 * RATE : 6 * RATE] = voice(5, 2, dbfs=power_db(echo[START : START + 6 * RATE]))
    out, _ = conversation(reply, echo + user)
    assert kept(out, user) > 0.5
    before = 4 * RATE // WINDOW * WINDOW
    assert kept(out[:before], echo[:before]) < 0.06


def test_without_an_echo_another_voice_passes_whole() -> None:
    """Headphones: the guard must not find an echo in somebody else's words."""
    reply = voice(6, 6)
    user = np.zeros(START + 6 * RATE, np.float32)
    user[2 * RATE : 6 * RATE] = voice(7, 4)
    out, _ = conversation(reply, user + hiss(len(user), -80))
    assert kept(out, user) > 0.9


def test_a_delay_that_changes_is_followed() -> None:
    """A client that stalls plays the rest later."""
    reply = voice(8, 8)
    speaker = loudspeaker(reply)
    late = np.zeros_like(speaker)
    half = START + 4 * RATE
    late[:half] = speaker[:half]
    shift = int(0.2 * RATE)
    late[half + shift :] = speaker[half:-shift]
    mic = room(late, 40, -8, 0.1) + hiss(len(late), -80)
    out, guard = conversation(reply, mic)
    assert kept(out, mic) < 0.08
    assert guard.delay_ms is not None
    assert abs(guard.delay_ms - 240) < 45


def test_a_second_reply_is_silenced_from_its_first_word() -> None:
    first, second = voice(9, 4), voice(9, 4)
    guard = EchoGuard(EchoSettings())
    speaker = loudspeaker(first)
    conversation(first, room(speaker, 40, -8, 0.1) + hiss(len(speaker), -80), guard)
    begin = START + 157  # anywhere within a window
    speaker = np.concatenate([np.zeros(begin, np.float32), second, np.zeros(RATE // 2, np.float32)])
    mic = room(speaker, 40, -8, 0.1) + hiss(len(speaker), -80)
    out, _ = conversation(second, mic, guard, start=begin)
    assert kept(out, mic) < 0.03


def test_lost_input_is_noticed() -> None:
    """The client's microphone was muted: input missing from the stream, playout going on."""
    reply = voice(10, 8)
    speaker = loudspeaker(reply)
    mic = room(speaker, 40, -8) + hiss(len(speaker), -80)
    guard = EchoGuard(EchoSettings())
    lost = range(100, 125)  # 0.8 s
    sent, loud, left = 0, 0, 0
    for k in range(len(mic) // WINDOW):
        now = (k + 1) * WINDOW
        while (sent + 1) * FRAME <= len(reply) and START + max(0, sent * FRAME - LEAD) <= now:
            guard.played(to_pcm(reply[sent * FRAME : (sent + 1) * FRAME]))
            sent += 1
        if k not in lost:
            window = mic[k * WINDOW : now]
            out = guard.suppress(window)
            if k > 140 and power_db(window) > -40:
                loud += 1
                left += power_db(out) > -50
    assert loud > 50
    assert left <= 0.05 * loud


def test_a_muted_microphone_stays_silent() -> None:
    """The path is known, nothing comes back: the filter must not invent the echo it expects."""
    reply = voice(16, 6)
    speaker = loudspeaker(reply)
    mic = room(speaker, 40, -8) + hiss(len(speaker), -80)
    mute = slice(3 * RATE // WINDOW * WINDOW, 4 * RATE // WINDOW * WINDOW)
    soft = slice(5 * RATE // WINDOW * WINDOW, 6 * RATE // WINDOW * WINDOW)
    mic[mute] = 0
    mic[soft] = hiss(mic[soft].size, -60)
    out, _ = conversation(reply, mic)
    assert not out[mute].any()
    assert power_db(out[soft]) < -59


def test_nothing_played_nothing_touched() -> None:
    guard = EchoGuard(EchoSettings())
    x = voice(11, 2)
    out, _ = conversation(np.zeros(0, np.float32), x, guard)
    np.testing.assert_array_equal(out, x[: out.size])


def test_long_after_a_reply_nothing_is_touched() -> None:
    reply = voice(12, 1)
    speaker = loudspeaker(reply, tail_s=3)
    mic = room(speaker, 40, -8)
    user = voice(13, 1)
    mic[-RATE:] += user
    out, _ = conversation(reply, mic)
    whole = (len(out) - RATE) // WINDOW * WINDOW + WINDOW
    np.testing.assert_array_equal(out[whole:], mic[whole : out.size])


def test_disabled_touches_nothing() -> None:
    reply = voice(14, 2)
    mic = room(loudspeaker(reply), 40, -8)
    out, guard = conversation(reply, mic, EchoGuard(EchoSettings(enabled=False)))
    np.testing.assert_array_equal(out, mic[: out.size])
    assert guard.delay_ms is None


def test_any_order_and_amount_of_calls_is_safe() -> None:
    guard = EchoGuard(EchoSettings())
    rng = np.random.default_rng(15)
    for _ in range(300):
        if rng.random() < 0.5:
            guard.played(to_pcm(hiss(int(rng.integers(0, 20_000)), -20)))
        else:
            window = hiss(WINDOW, float(rng.choice([-200, -60, 0])))
            out = guard.suppress(window)
            assert out.shape == (WINDOW,)
            assert np.isfinite(out).all()


REPLIES = ("beckett.wav", "riva-sample-de.wav", "austen-0920.wav")


@pytest.mark.parametrize(("delay_ms", "tail_s"), [(40, 0.0), (40, 0.2), (300, 0.1)])
def test_no_reply_is_cancelled_by_its_own_echo(delay_ms: float, tail_s: float) -> None:
    reply = np.concatenate([recorded(name, -20) for name in REPLIES])
    speaker = loudspeaker(reply)
    mic = room(speaker, delay_ms, -8, tail_s) + hiss(len(speaker), -80)
    assert confirmed(probabilities(mic) > 0.6) > 5, "without the guard the echo must be heard as speech"
    out, _ = conversation(reply, mic)
    voiced = probabilities(out) > 0.6
    assert confirmed(voiced) == 0
    assert voiced.sum() <= 3


def first_voiced(verdicts: npt.NDArray[np.float64], begin: int, end: int) -> int:
    found = np.flatnonzero(verdicts[begin:end] > 0.6)
    assert found.size, "the voice was not heard at all"
    return int(found[0])


def test_real_speech_over_the_echo_is_heard_nearly_as_soon_as_without() -> None:
    reply = np.concatenate([recorded(name, -20) for name in REPLIES])
    speaker = loudspeaker(reply)
    echo = room(speaker, 40, -8, 0.1)
    user, spans, at = np.zeros_like(echo), [], 3 * RATE
    for name in ("riva-sample.wav", "austen-0880.wav", "goforward.wav", "cards-002.wav"):
        words = recorded(name, -28)  # the echo's own level
        user[at : at + len(words)] += words
        spans.append((at // WINDOW, (at + len(words)) // WINDOW))
        at += len(words) + RATE
    noise = hiss(len(echo), -80)
    alone = probabilities(user + noise)
    over = probabilities(conversation(reply, echo + user + noise)[0])
    late = [32 * (first_voiced(over, a, b) - first_voiced(alone, a, b)) for a, b in spans]
    assert float(np.median(late)) <= 64
    assert max(late) <= 192
