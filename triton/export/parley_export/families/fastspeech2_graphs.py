"""FastSpeech2Conformer (transformers) in two graphs; frames are repeated between them, outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Masking:
    """Zeroes what lies behind a row's end before every convolution that looks around.

    transformers lets a convolution see a batch's padding, so a row there depends on the length of others;
    with this a row of a batch says what it says alone.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._mask: Any = None
        for module in modules:
            for layer in module.modules():
                if isinstance(layer, nn.Conv1d) and layer.kernel_size[0] > 1:
                    layer.register_forward_pre_hook(self._before)

    @contextmanager
    def by(self, mask: Any) -> Iterator[None]:
        """mask: [B, 1, T], 1.0 where a row has something."""
        self._mask = mask
        try:
            yield
        finally:
            self._mask = None

    def _before(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return arguments if self._mask is None else (arguments[0] * self._mask, *arguments[1:])


class Conformer(nn.Module):
    """The layers of encoder and decoder. `FastSpeech2ConformerEncoder` itself stores its positions while it runs."""

    def __init__(self, encoder: Any, most: int) -> None:
        """most: the longest input; the table that transformers keeps is made for 5,000."""
        super().__init__()
        self.encoder = encoder
        table = encoder.pos_enc.pos_enc
        middle = table.shape[1] // 2
        self.positions = nn.Buffer(table[:, middle - most + 1 : middle + most].clone(), persistent=False)

    def forward(self, inputs: Any, mask: Any) -> Any:
        """inputs: ids [B, T] or hidden [B, T, H]; mask: [B, 1, T] -> [B, T, H]."""
        encoder = self.encoder
        hidden = inputs if encoder.embed is None else encoder.embed(inputs)
        length, middle = hidden.shape[1], self.positions.shape[1] // 2
        around = self.positions[:, middle - length + 1 : middle + length]
        hidden = hidden * encoder.pos_enc.input_scale
        for layer in encoder.conformer_layers:
            hidden = layer(hidden, around, mask)[0]
        return hidden


class TextEncoder(nn.Module):
    """ids [B, T], length [B, 1], then of speaker [B, 1], language [B, 1], embedding [B, D] what the model has
    -> hidden [B, T, H] with pitch and energy in it, durations [B, T] in frames, not rounded."""

    def __init__(self, model: Any, masking: Masking, most: int) -> None:
        super().__init__()
        self.model, self.conformer, self._masking = model, Conformer(model.encoder, most), masking
        self.names = [name for name, there in conditions(model) if there]

    def forward(self, ids: Any, length: Any, first: Any = None, second: Any = None, third: Any = None) -> Any:
        model, given = self.model, (first, second, third)[: len(self.names)]
        inside = torch.arange(ids.shape[1], device=ids.device)[None] < length
        mask = inside[:, None].to(torch.float32)
        with self._masking.by(mask):
            hidden = self.conformer(ids, mask)
            hidden = self._conditioned(hidden, dict(zip(self.names, given, strict=True)))
            outside = ~inside[..., None]
            pitch = model.pitch_predictor(hidden, outside)
            energy = model.energy_predictor(hidden, outside)
            lengths = hidden.transpose(1, 2)
            for layer in model.duration_predictor.conv_layers:
                lengths = layer(lengths)
            lengths = model.duration_predictor.linear(lengths.transpose(1, 2))[..., 0]
            hidden = hidden + model.energy_embed(energy) + model.pitch_embed(pitch)
        durations = torch.clamp(lengths.exp() - model.duration_predictor.log_domain_offset, min=0.0)
        return hidden, durations * inside

    def _conditioned(self, hidden: Any, given: dict[str, Any]) -> Any:
        model = self.model
        if "speaker" in given:
            hidden = hidden + model.speaker_id_embedding(given["speaker"][:, 0])[:, None]
        if "language" in given:
            hidden = hidden + model.language_id_embedding(given["language"][:, 0])[:, None]
        if "embedding" in given:
            embedding = nn.functional.normalize(given["embedding"])[:, None].expand(-1, hidden.shape[1], -1)
            hidden = model.projection(torch.cat([hidden, embedding], dim=-1))
        return hidden


class MelDecoder(nn.Module):
    """hidden [B, F, H], each token's as often as it has frames, length [B, 1] -> mel [B, bins, F * reduction]."""

    def __init__(self, model: Any, masking: Masking, most: int) -> None:
        super().__init__()
        self.model, self.conformer, self._masking = model, Conformer(model.decoder, most), masking

    def forward(self, hidden: Any, length: Any) -> Any:
        model = self.model
        inside = torch.arange(hidden.shape[1], device=hidden.device)[None] < length
        mask = inside[:, None].to(torch.float32)
        with self._masking.by(mask):
            hidden = self.conformer(hidden, mask)
        if model.reduction_factor > 1:
            mask = mask.repeat_interleave(model.reduction_factor, dim=2)
        with self._masking.by(mask):
            mel = model.speech_decoder_postnet(hidden)[1]
        return mel.transpose(1, 2) * mask


def conditions(model: Any) -> list[tuple[str, bool]]:
    """What a model may be told besides the text, and whether this one can."""
    return [
        ("speaker", bool(model.multispeaker_model)),
        ("language", bool(model.multilingual_model)),
        ("embedding", bool(model.speaker_embed_dim)),
    ]


def maskings(model: Any) -> tuple[Masking, Masking]:
    """Of the text's side and of the frames' side."""
    text = [model.encoder, model.duration_predictor, model.pitch_predictor, model.pitch_embed]
    return (
        Masking([*text, model.energy_predictor, model.energy_embed]),
        Masking([model.decoder, model.speech_decoder_postnet]),
    )
