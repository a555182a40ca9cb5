"""SpeechT5 (transformers, text to speech) in graphs: the text once, then one step of the decoder at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


class TextEncoder(nn.Module):
    """ids [B, T], length [B, 1] -> keys, values of every decoder layer's look at the text, [B, L, heads, T, d]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        wrapped = model.speecht5.encoder
        self.prenet, self.encoder = wrapped.prenet, wrapped.wrapped_encoder
        self.looks = nn.ModuleList(
            layer.encoder_attn for layer in model.speecht5.decoder.wrapped_decoder.layers
        )

    def forward(self, ids: Any, length: Any) -> Any:
        batch, count = ids.shape
        inside = torch.arange(count, device=ids.device)[None] < length
        mask = torch.zeros(batch, 1, count, count).masked_fill(
            ~inside[:, None, None], torch.finfo(torch.float32).min
        )
        hidden = self.encoder.layer_norm(self.prenet(ids))
        positions = self.encoder.embed_positions(hidden)
        for layer in self.encoder.layers:
            hidden = layer(hidden, attention_mask=mask, position_bias=positions)[0]
        keys = [_heads(look, look.k_proj(hidden)) for look in self.looks]
        values = [_heads(look, look.v_proj(hidden)) for look in self.looks]
        return torch.stack(keys, 1), torch.stack(values, 1)


class Step(nn.Module):
    """One step of the decoder, the first like all others.

    frame [B, bins]: the last one made, zeros at first; noise [B, layers, units], uniform: which units of the prenet
    stay; embedding [B, D]: the speaker; position [B, 1]: steps made before; length [B, 1], keys, values: the text;
    past_keys, past_values [B, L, heads, P, d]: of the steps before, whatever behind them
    -> frames [B, reduction, bins], stop [B, 1]: the chance that this was the last step, key, value [B, L, heads, d].
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        decoder = model.speecht5.decoder
        self.prenet, self.layers = decoder.prenet, decoder.wrapped_decoder.layers
        self.out = model.speech_decoder_postnet
        self.keep, self.bins = model.config.speech_decoder_prenet_dropout, model.config.num_mel_bins

    def forward(
        self, frame: Any, noise: Any, embedding: Any, position: Any, length: Any,
        keys: Any, values: Any, past_keys: Any, past_values: Any,
    ) -> Any:  # fmt: skip
        before = torch.arange(past_keys.shape[3], device=frame.device)[None, None] < position[:, :, None]
        inside = torch.arange(keys.shape[3], device=frame.device)[None, None] < length[:, :, None]
        hidden = self._prenet(frame, noise, embedding, position)
        made_keys, made_values = [], []
        for number, layer in enumerate(self.layers):
            own = layer.self_attn
            key, value = _one(own, own.k_proj(hidden)), _one(own, own.v_proj(hidden))
            query = _one(own, own.q_proj(hidden) * own.scaling)
            heard = _with_new(query, past_keys[:, number], past_values[:, number], before, key, value)
            hidden = layer.self_attn_layer_norm(hidden + own.out_proj(heard))
            look = layer.encoder_attn
            query = _one(look, look.q_proj(hidden) * look.scaling)
            seen = _attended(query, keys[:, number], values[:, number], inside)
            hidden = layer.encoder_attn_layer_norm(hidden + look.out_proj(seen))
            hidden = layer.final_layer_norm(hidden + layer.feed_forward(hidden))
            made_keys.append(key)
            made_values.append(value)
        frames = self.out.feat_out(hidden).reshape(hidden.shape[0], -1, self.bins)
        stop = torch.sigmoid(self.out.prob_out(hidden)).sum(dim=-1, keepdim=True)
        return frames, stop, torch.stack(made_keys, 1), torch.stack(made_values, 1)

    def _prenet(self, frame: Any, noise: Any, embedding: Any, position: Any) -> Any:
        """Its dropout is on when it speaks, too; a unit stays with the probability `p`, as transformers has it."""
        prenet, hidden = self.prenet, frame
        for number, layer in enumerate(prenet.layers):
            hidden = torch.relu(layer(hidden))
            hidden = torch.where(noise[:, number] < self.keep, hidden, 0.0) / (1 - self.keep)
        positions = prenet.encode_positions
        hidden = prenet.final_layer(hidden) + positions.alpha * positions.pe[0][position[:, 0]]
        speaker = nn.functional.normalize(embedding)
        return torch.relu(prenet.speaker_embeds_layer(torch.cat([hidden, speaker], dim=-1)))


class Postnet(nn.Module):
    """[B, T, bins] -> the same: what is added to all frames once they are there."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.net = model.speech_decoder_postnet

    def forward(self, frames: Any) -> Any:
        return self.net.postnet(frames)


def _heads(attention: Any, hidden: Any) -> Any:
    """[B, T, H] -> [B, heads, T, d]"""
    batch, count = hidden.shape[:2]
    return hidden.view(batch, count, attention.num_heads, attention.head_dim).transpose(1, 2)


def _one(attention: Any, hidden: Any) -> Any:
    """[B, H] -> [B, heads, d]"""
    return hidden.view(hidden.shape[0], attention.num_heads, attention.head_dim)


def _attended(query: Any, keys: Any, values: Any, inside: Any) -> Any:
    """query [B, heads, d], keys and values [B, heads, T, d], inside [B, 1, T] -> [B, H]"""
    scores = torch.matmul(keys, query[..., None])[..., 0].masked_fill(~inside, -math.inf)
    weights = torch.softmax(scores, dim=-1)
    return torch.matmul(weights[:, :, None], values)[:, :, 0].flatten(1)


def _with_new(query: Any, keys: Any, values: Any, inside: Any, key: Any, value: Any) -> Any:
    """The same with one more key and value, which are not copied to the others."""
    scores = torch.matmul(keys, query[..., None])[..., 0].masked_fill(~inside, -math.inf)
    newest = (query * key).sum(dim=-1, keepdim=True)
    weights = torch.softmax(torch.cat([scores, newest], dim=-1), dim=-1)
    old, new = weights[..., :-1], weights[..., -1:]
    return (torch.matmul(old[:, :, None], values)[:, :, 0] + new * value).flatten(1)
