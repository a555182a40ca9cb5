"""The receptive field that is measured is the one that the layers' sizes add up to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from parley_export.receptive_field import receptive_field


def test_of_one_convolution() -> None:
    conv = nn.Conv1d(3, 2, kernel_size=7, dilation=2, padding=6)
    assert receptive_field(conv, (3,), 1) == (6, 6)


def test_of_a_causal_convolution() -> None:
    conv = nn.Conv1d(3, 2, kernel_size=5)
    assert receptive_field(lambda x: conv(nn.functional.pad(x, (4, 0))), (3,), 1) == (4, 0)


def test_weights_that_are_zero_count() -> None:
    conv = nn.Conv1d(1, 1, kernel_size=9, padding=4)
    nn.init.zeros_(conv.weight)
    assert receptive_field(conv, (1,), 1) == (4, 4)


def test_of_an_upsampler_in_frames() -> None:
    layers = nn.Sequential(
        nn.Conv1d(4, 4, 7, padding=3),
        nn.LeakyReLU(),
        nn.ConvTranspose1d(4, 2, 16, stride=8, padding=4),
        nn.Tanh(),
        nn.Conv1d(2, 1, 11, dilation=5, padding=25),
    )
    # Transposed: kernel 16 at stride 8 reaches one frame to each side. 25 samples more are 4 frames at most.
    assert receptive_field(layers, (4,), 8) == (3 + 4, 3 + 4)


def test_of_a_field_larger_than_the_first_look() -> None:
    conv = nn.Conv1d(1, 1, kernel_size=701, padding=350)
    assert receptive_field(conv, (1,), 1) == (350, 350)


def test_what_sees_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 128 frames"):
        receptive_field(lambda x: torch.softmax(x, dim=-1), (1,), 1, most=128)


def test_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="512 frames became 510 samples"):
        receptive_field(nn.Conv1d(1, 1, 3), (1,), 1)
