"""A Piper voice's graph in one piece, or in two: up to the latents, and the generator that streams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from gateway.triton.exported.description import Axis, Graph, Tensor
from gateway.triton.exported.reference import Case
from gateway.triton.models.tts.piper import NoiseInput
from gateway.triton.models.tts.windows import Windowing, Windows
from parley_export.exported import GraphExport
from parley_export.families import generator, vits
from parley_export.families.noise import exposing
from parley_export.families.noise_ranges import audio_axis, noise_axes
from parley_export.families.piper_runs import Feeds, run_of
from parley_export.receptive_field import receptive_field

USUAL_TOKENS, MOST_TOKENS = 120, 1000
SEAM_DB = -60.0
MAX_BATCH = 8


class Parts:
    """The graph in one piece, or in two where its generator was found and windows over it say the same."""

    def __init__(
        self,
        drawn: Any,
        noises: list[NoiseInput],
        cases: list[tuple[Feeds, Feeds]],
        rate: int,
        options: Mapping[str, str],
    ) -> None:
        self._drawn, self._noises, self._cases = drawn, noises, cases
        self._rate = rate
        self._cut = generator.find_cut(drawn, "output")
        self._windows = self._windowing(rate, options) if self._cut else None
        self.front: dict[str, Any] = {}
        if self._cut and self._windows:
            conditions = [f"condition_{n}" for n in range(len(self._cut.conditions))]
            self.front = {"windows": vits.told(self._windows), "conditions": conditions}

    def graphs(self, work: Path) -> list[GraphExport]:
        sizes = [noise.size for noise in self._noises]
        if self._cut is None or self._windows is None:
            path = work / "whole.onnx"
            onnx.save(self._drawn, str(path))
            outputs = (Tensor("output", "FP32", (1, 1, 1, "samples")),)
            samples = audio_axis("samples", self._cases[-1][1]["output"].size, self._rate)
            return [self._voice(path, ["output"], outputs, sizes, samples)]
        cut, windows = self._cut, self._windows
        names = {cut.latents: "latents"} | {name: f"condition_{n}" for n, name in enumerate(cut.conditions)}
        first = generator.renamed(generator.first_part(self._drawn, cut, sizes), names)
        second = generator.renamed(
            generator.second_part(self._drawn, cut, ["output"]), names | {"output": "audio"}
        )
        paths = work / "voice_part.onnx", work / "generator.onnx"
        for made, path in zip((first, second), paths, strict=True):
            onnx.save(made, str(path))
        run = run_of(generator.renamed(exposing(self._drawn, [cut.latents, *cut.conditions]), names))
        inner = [run(feeds) for feeds, _ in self._cases]
        for (_, expected), found in zip(self._cases, inner, strict=True):
            expected |= {name: found[name] for name in names.values()}
        widths = {name: inner[0][name].shape[1] for name in names.values()}
        crossing = (
            Tensor("latents", "FP32", (1, cut.channels, "frames")),
            *(Tensor(name, "FP32", (1, widths[name], 1)) for name in names.values() if name != "latents"),
        )
        graph = Graph(
            "generator",
            inputs=tuple(Tensor(one.name, one.dtype, one.dims[1:]) for one in crossing),
            outputs=(Tensor("audio", "FP32", (1, 1, "samples")),),
            axes=(Axis("frames", 1, windows.size(1), windows.largest),),
            max_batch=MAX_BATCH,
        )
        # A front gives it windows: what is longer is beyond the graph's range.
        cases = {}
        for found in inner:
            feeds = {one.name: found[one.name] for one in crossing}
            feeds["latents"] = feeds["latents"][:, :, : windows.largest]
            name = f"{feeds['latents'].shape[2]} frames"
            cases[name] = Case(name, [feeds], [{"audio": run_of(second)(feeds)["audio"]}])
        frames = audio_axis("frames", inner[-1]["latents"].shape[2], self._rate / windows.hop)
        return [
            self._voice(paths[0], list(names.values()), crossing, sizes, frames),
            GraphExport(graph, path=paths[1], cases=list(cases.values())),
        ]

    def _voice(
        self,
        path: Path,
        names: list[str],
        outputs: tuple[Tensor, ...],
        sizes: list[str],
        long: Axis,
    ) -> GraphExport:
        several = "sid" in self._cases[0][0]
        usual = USUAL_TOKENS
        graph = Graph(
            "voice",
            inputs=(
                Tensor("input", "INT64", (1, "tokens"), "integers", 0, 1),
                Tensor("input_lengths", "INT64", (1,), "length:tokens"),
                Tensor("scales", "FP32", (3,), "uniform", 0.5, 1.0),
                *((Tensor("sid", "INT64", (1,), "integers", 0, 1),) if several else ()),
                *(Tensor(n.name, "FP32", (f"{n.name}_values",), "uniform" if n.uniform else "normal") for n in self._noises),
            ),
            outputs=(*outputs, *(Tensor(name, "INT64", (1,)) for name in sizes)),
            axes=(
                Axis("tokens", 1, usual, MOST_TOKENS),
                *noise_axes(self._noises, usual),
            ),
            derived=(long,),
        )  # fmt: skip
        cases = [
            Case(
                f"{feeds['input'].shape[1]} tokens",
                [feeds],
                [{name: expected[name] for name in (*names, *sizes)}],
            )
            for feeds, expected in self._cases
        ]
        return GraphExport(graph, path=path, cases=cases)

    def _windowing(self, rate: int, options: Mapping[str, str]) -> Windowing | None:
        """None: what the generator makes of a frame depends on all, or its windows differ from the whole."""
        cut = self._cut
        assert cut is not None
        found = run_of(exposing(self._drawn, [cut.latents, *cut.conditions]))(self._cases[-1][0])
        conditions = {name: found[name] for name in cut.conditions}
        latents = found[cut.latents]
        if any(value.ndim != 3 or value.shape[2] != 1 for value in conditions.values()):
            return None
        hop = found["output"].size // latents.shape[2]
        before_tanh = run_of(generator.second_part(self._drawn, cut, [cut.bent]))
        whole = run_of(generator.second_part(self._drawn, cut, ["output"]))
        try:
            left, right = receptive_field(
                lambda frames: torch.from_numpy(before_tanh({cut.latents: frames.numpy(), **conditions})[cut.bent]),
                (cut.channels,), hop,
            )  # fmt: skip
            windows = vits.decoder_windows(hop, left, right, rate, options)
        except ValueError:
            return None

        def run(window: NDArray[Any]) -> NDArray[np.float32]:
            return whole({cut.latents: window[None], **conditions})["output"].reshape(-1)

        streamed = np.concatenate(list(Windows(run, windows).stream(latents[0])))
        apart = _power(streamed - found["output"].reshape(-1)) / _power(found["output"])
        return windows if 10 * np.log10(apart + 1e-30) <= SEAM_DB else None


def _power(audio: NDArray[Any]) -> float:
    return float(np.mean(np.square(audio.astype(np.float64))))
