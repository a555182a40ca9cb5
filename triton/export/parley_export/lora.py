"""LoRA adapters in PEFT's layout, added to the weights they were trained for.

adapter_config.json and adapter_model.safetensors as huggingface/peft writes them (names and formula from its
documentation): W + B·A·alpha / r, or alpha / √r with rank-stabilised adapters.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from parley_export.checkpoint import ExportError

PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
UNKNOWN = ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")
"""Settings that change the formula, or bring other weights: refused, not ignored."""


def merge(model: Any, folder: Path) -> int:
    """Changes `model`; how many matrices were changed.

    Raises: ExportError when the adapter is none, is for another model, or is more than plain LoRA.
    """
    try:
        told = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        from safetensors.torch import load_file

        weights = load_file(folder / "adapter_model.safetensors")
    except (OSError, json.JSONDecodeError) as error:
        raise ExportError(f"{folder} holds no LoRA adapter: {error}") from None
    more = [name for name in UNKNOWN if told.get(name)]
    if told.get("peft_type", "LORA") != "LORA" or told.get("bias", "none") != "none" or more:
        raise ExportError(
            f"{folder} is more than a plain LoRA ({', '.join(more) or told.get('peft_type')}): merge it with peft first"
        )
    rank, alpha = int(told["r"]), float(told["lora_alpha"])
    scale = alpha / (math.sqrt(rank) if told.get("use_rslora") else rank)
    modules = dict(model.named_modules())
    names = sorted({key.removesuffix(A).removesuffix(B) for key in weights})
    for name in names:
        module = modules.get(name.removeprefix(PREFIX))
        down, up = weights.get(name + A), weights.get(name + B)
        if module is None or down is None or up is None or not hasattr(module, "weight"):
            raise ExportError(f"{folder}: the adapter's {name} has no counterpart in this model")
        if module.weight.shape != (up.shape[0], down.shape[1]):
            raise ExportError(
                f"{folder}: the adapter's {name} is {tuple(up.shape)}·{tuple(down.shape)}, the model's matrix "
                f"{tuple(module.weight.shape)}"
            )
        with torch.no_grad():
            module.weight += (up.float() @ down.float()) * scale
    return len(names)
