"""Greedy RNN-T as straight-line operations: no loop in the graph, so TensorRT and CUDA graphs take it.

Each step looks, for every row, at one encoder frame: a blank moves the row to its next frame, a symbol is
written down and runs the LSTM; rows that are through stand still. That is transformers' own greedy loop
(ParakeetRNNTGenerationMixin, transformers 5.23) with as many steps as were agreed on before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def default_steps(frames: int, max_symbols: int) -> int:
    """Steps for a chunk of `frames` encoder frames.

    frames x max_symbols are never too few. Long chunks need fewer: one step a frame to move on, one symbol a
    frame throughout (12.5 a second at 80 ms, above what word pieces need of the fastest speech), and
    max_symbols more, since the pieces of a late or rare word come out in one frame.
    """
    return min(frames * max_symbols, 2 * frames + max_symbols)


class GreedyRnnt(nn.Module):
    """Around decoder and joint of a NemotronAsrStreamingForRNNT. State: the decoder's output and the LSTM's
    hidden and cell state after the last symbol; what they are before the first one is set where `fresh`."""

    def __init__(self, model: Any, frames: int, steps: int) -> None:
        super().__init__()
        self.embedding = model.decoder.embedding
        self.lstm = model.decoder.lstm
        self.projector = model.decoder.decoder_projector
        self.joint = model.joint
        self.frames, self.steps = frames, steps
        self.blank = int(model.config.blank_token_id)
        self.max_symbols = int(model.config.max_symbols_per_step)
        self.layers, self.width = int(self.lstm.num_layers), int(self.lstm.hidden_size)
        zeros = torch.zeros(1, self.layers, self.width)
        with torch.no_grad():
            told, hidden, cell = self._predict(torch.tensor([self.blank]), zeros, zeros)
        for name, value in (("first_told", told), ("first_hidden", hidden), ("first_cell", cell)):
            self.register_buffer(name, value, persistent=False)

    def state_dims(self) -> dict[str, tuple[int, ...]]:
        return {
            "predicted": (self.width,),
            "hidden": (self.layers, self.width),
            "cell": (self.layers, self.width),
        }

    def forward(
        self, encoded: Tensor, valid: Tensor, fresh: Tensor, states: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
        """encoded [B, frames, width], valid [B, 1] of them, fresh [B, 1] bool -> tokens [B, steps] and the frame
        of each, both padded with -1; count [B, 1]; frames left unread for want of steps [B, 1]; new states."""
        predicted = torch.where(fresh, self.first_told, states[0])
        hidden = torch.where(fresh[..., None], self.first_hidden, states[1])
        cell = torch.where(fresh[..., None], self.first_cell, states[2])
        at = torch.zeros_like(valid)
        symbols, count = torch.zeros_like(valid), torch.zeros_like(valid)
        tokens, frames, slots = [], [], []
        for _ in range(self.steps):
            where = torch.clamp(at, max=self.frames - 1)
            frame = torch.gather(encoded, 1, where[..., None].expand(-1, 1, self.width))[:, 0]
            token = self.joint(predicted, frame).argmax(-1, keepdim=True)
            live, blank = at < valid, token == self.blank
            emit = live & ~blank
            symbols = torch.where(blank, 0, symbols + 1)
            advance = live & (blank | (symbols >= self.max_symbols))
            tokens.append(token)
            frames.append(at)
            slots.append(torch.where(emit, count, -1))
            count = count + emit.to(count.dtype)
            symbols = torch.where(advance, 0, symbols)
            at = at + advance.to(at.dtype)
            after = self._predict(token[:, 0], hidden, cell)
            predicted = torch.where(emit, after[0], predicted)
            hidden = torch.where(emit[..., None], after[1], hidden)
            cell = torch.where(emit[..., None], after[2], cell)
        slot = torch.cat(slots, 1)[:, None] == torch.arange(self.steps)[None, :, None]
        said = [
            torch.where(slot, torch.cat(values, 1)[:, None] + 1, 0).sum(2) - 1 for values in (tokens, frames)
        ]
        return said[0], said[1], count, valid - at, [predicted, hidden, cell]

    def _predict(self, token: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One symbol [B] through the LSTM, whose operator would be a loop in TensorRT -> output, states [B, L, W]."""
        told, hiddens, cells = self.embedding(token), [], []
        for layer in range(self.layers):
            gates = nn.functional.linear(
                told, getattr(self.lstm, f"weight_ih_l{layer}"), getattr(self.lstm, f"bias_ih_l{layer}")
            ) + nn.functional.linear(
                hidden[:, layer],
                getattr(self.lstm, f"weight_hh_l{layer}"),
                getattr(self.lstm, f"bias_hh_l{layer}"),
            )
            enter, forget, fresh, leave = gates.chunk(4, -1)
            kept = torch.sigmoid(forget) * cell[:, layer] + torch.sigmoid(enter) * torch.tanh(fresh)
            told = torch.sigmoid(leave) * torch.tanh(kept)
            hiddens.append(told)
            cells.append(kept)
        return self.projector(told), torch.stack(hiddens, 1), torch.stack(cells, 1)
