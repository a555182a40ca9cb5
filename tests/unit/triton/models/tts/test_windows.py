"""Windows over a convolutional graph say what the whole run says, early, and in few shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.triton.models.tts.windows import Windowing, Windows, through

HOP = 6
LEFT, RIGHT = 5, 4


def decoder(frames: NDArray[Any]) -> NDArray[np.float32]:
    """[2, T] -> [T * HOP]: padded convolutions, dilated, before and after repeating each frame; in float64."""
    rng = np.random.default_rng(3)
    hidden = np.stack([convolved(channel, rng.normal(size=4), 2, 1) for channel in frames])  # -2 .. +1 frames
    hidden = np.tanh(hidden).sum(0).repeat(HOP)
    hidden = np.tanh(convolved(hidden, rng.normal(size=7), 3 * 4, 2 * 4, dilation=4))  # -12 .. +8 samples
    return convolved(hidden, rng.normal(size=15), 6, 8).astype(np.float32)


def convolved(
    values: NDArray[Any], kernel: NDArray[Any], before: int, after: int, dilation: int = 1
) -> NDArray[Any]:
    span = (before + after) // dilation + 1
    padded = np.pad(values, (before, after))
    return np.asarray(
        sum(kernel[i] * padded[i * dilation : i * dilation + len(values)] for i in range(span)), np.float64
    )


class Recorder:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        self.sizes.append(frames.shape[-1])
        return decoder(frames)


def noise(frames: int) -> NDArray[np.float64]:
    return np.random.default_rng(frames).normal(size=(2, frames))


def joined(parts: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros(0, np.float32), *parts])


def loudness(samples: NDArray[Any]) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(np.square(samples))) + 1e-12))


@pytest.mark.parametrize("grain", [1, 4, 7])
def test_windows_say_what_the_whole_run_says(grain: int) -> None:
    for total in [*range(1, 70), 200, 333]:
        frames = noise(total)
        whole = decoder(frames)
        made = joined(Windows(decoder, Windowing(HOP, LEFT, RIGHT, 3, 20, grain)).stream(frames))
        assert made.shape == whole.shape
        assert np.abs(made - whole).max() < 1e-6, total


@pytest.mark.parametrize("portion", [1, 2, 5, 31])
def test_frames_that_come_piece_by_piece_make_the_same_audio(portion: int) -> None:
    for total in (1, 9, 30, 121):
        frames = noise(total)
        windows = Windows(decoder, Windowing(HOP, LEFT, RIGHT, 4, 16, 4))
        parts = [
            made
            for start in range(0, total, portion)
            for made in windows.push(frames[:, start : start + portion])
        ]
        parts += windows.end()
        whole = decoder(frames)
        assert np.abs(joined(parts) - whole).max() < 1e-6
        assert all(len(part) for part in parts)


def test_an_overlap_smaller_than_the_receptive_field_is_noticed() -> None:
    """The measure of the other tests can fail, and the field of this decoder is no larger than they say."""
    frames = noise(200)
    whole = decoder(frames)
    for left, right in [(LEFT - 1, RIGHT), (LEFT, RIGHT - 1)]:
        made = joined(Windows(decoder, Windowing(HOP, left, right, 4, 16)).stream(frames))
        assert loudness(made - whole) - loudness(whole) > -60


def test_no_click_at_the_seams() -> None:
    frames = np.repeat(noise(40), 5, axis=1)  # slow
    whole = decoder(frames)
    windows = Windows(decoder, Windowing(HOP, LEFT, RIGHT, 4, 16))
    parts = list(windows.stream(frames))
    seams = np.cumsum([len(part) for part in parts])[:-1]
    assert len(seams) > 8
    made = joined(parts)
    steps = np.abs(np.diff(made))
    np.testing.assert_allclose(steps[seams - 1], np.abs(np.diff(whole))[seams - 1], atol=1e-6)


def test_the_first_window_is_small_and_comes_as_soon_as_its_frames_are_there() -> None:
    run = Recorder()
    windows = Windows(run, Windowing(HOP, LEFT, RIGHT, 4, 40))
    frames = noise(200)
    assert list(windows.push(frames[:, : 4 + RIGHT - 1])) == []
    first = joined(windows.push(frames[:, 4 + RIGHT - 1 : 4 + RIGHT]))
    assert len(first) == 4 * HOP
    assert run.sizes == [4 + RIGHT]
    assert list(windows.push(frames[:, 4 + RIGHT : 4 + RIGHT + 8])) == []
    rest = joined(windows.push(frames[:, 4 + RIGHT + 8 :]))
    assert len(rest) > 150 * HOP
    assert max(run.sizes) == LEFT + 40 + RIGHT


def test_runtimes_meet_few_shapes() -> None:
    run = Recorder()
    windowing = Windowing(HOP, LEFT, RIGHT, 6, 40, 8)
    for total in range(40, 300):
        joined(Windows(run, windowing).stream(noise(total)))
    assert {size % 8 for size in run.sizes if size != windowing.size(0)} == {0}
    assert len(set(run.sizes)) <= windowing.largest // 8 + 1


def test_most_frames_of_later_windows_are_new() -> None:
    run = Recorder()
    joined(Windows(run, Windowing(HOP, LEFT, RIGHT, 4, 40)).stream(noise(1000)))
    assert sum(run.sizes) < 1000 * 1.35


def test_nothing_of_nothing_and_nothing_after_the_end() -> None:
    windows = Windows(decoder, Windowing(HOP, LEFT, RIGHT, 4, 16))
    assert list(windows.stream(noise(0))) == []
    with pytest.raises(RuntimeError, match="has ended"):
        list(windows.push(noise(3)))


def test_only_what_is_needed_is_held() -> None:
    windowing = Windowing(HOP, LEFT, RIGHT, 4, 16)
    windows = Windows(decoder, windowing)
    for _ in range(50):
        joined(windows.push(noise(10)))
        assert windows._held is not None
        assert windows._held.shape[-1] <= windowing.largest + 10


def test_a_graph_that_makes_another_number_of_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="7 frames became 41 samples, not 7"):
        joined(
            Windows(lambda frames: decoder(frames)[:-1], Windowing(HOP, LEFT, RIGHT, 3, 20)).stream(noise(7))
        )


def test_settings_are_checked() -> None:
    settings = {"hop": 6, "left": 5, "right": 4, "first": 4, "later": 16}
    assert Windowing.of(settings) == Windowing(6, 5, 4, 4, 16, 1)
    assert Windowing.of({**settings, "grain": 8}).largest == 32
    with pytest.raises(ValueError, match=r"unknown \['overlap'\], missing \['left'\]"):
        Windowing.of({"hop": 6, "overlap": 5, "right": 4, "first": 4, "later": 16})
    for wrong in ({"first": 0}, {"later": 3}, {"left": -1}, {"grain": 0}):
        with pytest.raises(ValueError, match=r"at least|not smaller"):
            Windowing.of({**settings, **wrong})


def test_conditions_go_with_every_window() -> None:
    seen: list[Mapping[str, NDArray[Any]]] = []

    class Graph:
        def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            seen.append(feeds)
            return {"audio": decoder(feeds["latents"][0])[None] * feeds["gain"][0]}

    frames = noise(40)
    run = through(Graph(), "latents", "audio", {"gain": np.array([2.0], np.float32)})
    made = joined(Windows(run, Windowing(HOP, LEFT, RIGHT, 4, 16)).stream(frames))
    np.testing.assert_allclose(made, 2 * decoder(frames), atol=1e-5)
    assert len(seen) > 2
    assert all(feeds["latents"].shape[:2] == (1, 2) for feeds in seen)
