"""torch's own way through each family: the model that was exported, in one process and one thread.

`python -m bench.export_torch FAMILY CHECKPOINT WORK.npz REPEATS FOUND.json`, in the exporter's environment: transformers'
generation or forward pass over the whole utterance, with what WORK.npz says. The weights are those of the export: same
configuration, same seed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.export_plan import SEED, SIZES
from load.run.usage import rss_mb
from parley_export.checkpoint import Checkpoint, open_checkpoint

Array = NDArray[Any]
Say = Callable[[Array], Array | list[int]]
"""Audio [n] at 16 kHz -> tokens; or ids -> samples."""
Made = tuple[Any, Say, int]
"""The model, what it says, and the rate of its sound (0: of a recogniser)."""


def whisper(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    from parley_export.families import whisper as family

    config = checkpoint.config(WhisperConfig, family.small_config())
    model = checkpoint.model(WhisperForConditionalGeneration, config, enliven=family._enliven)
    family._make_generation(model, False)
    extractor = WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, chunk_length=config.max_source_positions // 50
    )
    limit = family.decoding_of(model, options).limit
    return model, lambda audio: family.generate(model, extractor, audio, "", limit(len(audio))), 0


def moonshine(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from transformers import MoonshineConfig, MoonshineForConditionalGeneration

    from parley_export.families import moonshine as family

    config = checkpoint.config(MoonshineConfig, family.SMALL)
    model = checkpoint.model(MoonshineForConditionalGeneration, config, enliven=family._enliven)
    limit = family.decoding_of(model, options).limit
    return model, lambda audio: family.generate(model, audio, limit(len(audio))), 0


def parakeet_ctc(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from transformers import ParakeetCTCConfig, ParakeetForCTC

    from gateway.triton.models.asr.ctc import collapse
    from parley_export import parakeet
    from parley_export.families import parakeet_ctc as family

    config = checkpoint.config(ParakeetCTCConfig, family.SMALL)
    extractor = parakeet.extractor_of(checkpoint, config)
    model = checkpoint.model(ParakeetForCTC, config, enliven=lambda made: family.enliven(made, extractor))

    def say(audio: Array) -> list[int]:
        path = model.generate(**parakeet.extracted(extractor, audio))[0].numpy()
        return list(collapse(path, config.pad_token_id).tokens)

    return model, say, 0


def parakeet_rnnt(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from parley_export import parakeet
    from parley_export.families import parakeet_rnnt as family

    model, config, extractor = family._model(checkpoint, options)

    def say(audio: Array) -> list[int]:
        found = model.generate(**parakeet.extracted(extractor, audio)).sequences[0].tolist()
        return [token for token in found if token != config.blank_token_id]

    return model, say, 0


def fastconformer(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from parley_export.families import fastconformer as family

    model, config = family._model(checkpoint, options)
    extractor = family._extractor(checkpoint, config)
    lookahead = config.encoder_config.default_num_lookahead_tokens
    return model, lambda audio: family.offline_tokens(model, extractor, audio, lookahead), 0


def zipformer(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    """Chunk by chunk, frame by frame, as the exporter's reference does it with the files."""
    from gateway.triton.models.features_fbank import Fbank
    from parley_export import zipformer_small as family
    from parley_export.families.zipformer import SILENT, TAIL_S

    small = family.build(checkpoint.seed)
    fbank, window = Fbank({"kind": "kaldi", "mels": 80}), family.CHUNK + family.PAD
    tail = np.zeros(int(max(TAIL_S, 0.01 * window) * 16_000), np.float32)

    def say(audio: Array) -> list[int]:
        heard = torch.from_numpy(fbank.whole(np.concatenate([audio, tail])))
        states, tokens = family.empty(small.sizes, 1), [0] * family.CONTEXT
        with torch.no_grad():
            for first in range(0, len(heard) - window + 1, family.CHUNK):
                frames, *states = small.encoder(heard[None, first : first + window], *states)
                for frame in frames[0]:
                    predicted = small.decoder(torch.tensor([tokens[-family.CONTEXT :]]))
                    token = int(small.joiner(frame[None], predicted)[0].argmax())
                    if token >= len(SILENT):
                        tokens.append(token)
        return tokens[family.CONTEXT :]

    return torch.nn.ModuleList([small.encoder, small.decoder, small.joiner]), say, 0


def vits(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from parley_export.families import vits as family
    from parley_export.families.vits_reference import said

    model = family.model_of(checkpoint, options)
    return model, lambda ids: said(model, ids, SEED), model.config.sampling_rate


def piper(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from transformers import VitsConfig, VitsModel

    from parley_export.families import vits, vits_graphs
    from parley_export.families.piper_random import SOUNDS
    from parley_export.families.vits_reference import said

    config = checkpoint.config(VitsConfig, {**vits.SMALL, "vocab_size": 3 + len(SOUNDS)})
    model = checkpoint.model(VitsModel, config, enliven=vits.enliven)
    vits_graphs.without_weight_norm(model)
    return model, lambda ids: said(model, ids, SEED), config.sampling_rate


def kokoro(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from parley_export.families.kokoro_random import RATE, STYLE, StandIn

    torch.manual_seed(checkpoint.seed)
    model, style, speed = StandIn().eval(), torch.zeros(1, STYLE), torch.ones(1)

    def say(ids: Array) -> Array:
        with torch.no_grad():
            audio: Array = model(torch.from_numpy(ids[None]), style, speed).numpy().reshape(-1)
        return audio

    return model, say, RATE


def speecht5(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from parley_export.families import speecht5 as family
    from parley_export.voices import embeddings_of

    model, hifigan = family._models(checkpoint, options, family._text(checkpoint).size)
    embedding = embeddings_of("", model.config.speaker_embedding_dim, seed=checkpoint.seed)[0]
    lengths: dict[str, Any] = {name: float(value) for name, value in family.SMALL_LENGTHS.items()}

    def say(ids: Array) -> Array:
        return family.spoken(model, hifigan, ids, embedding, seed=SEED, threshold=0.5, **lengths)

    return torch.nn.ModuleList([model, hifigan]), say, family.RATE


def fastspeech2(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from parley_export.families import fastspeech2 as family

    model, hifigan = family._models(checkpoint, options, family._text(checkpoint).size)
    voice = {"speaker": 0, "language_id": 0}
    return (
        torch.nn.ModuleList([model, hifigan]),
        lambda ids: family.spoken(model, hifigan, ids, voice),
        family.RATE,
    )


def mimi(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from transformers import MimiConfig, MimiModel

    from parley_export.families import mimi as family

    config = checkpoint.config(MimiConfig, family.SMALL)
    model = checkpoint.model(MimiModel, config, enliven=lambda made: family.enliven(made, checkpoint.seed))
    parts = [model.quantizer, model.upsample, model.decoder_transformer, model.decoder]

    def say(codes: Array) -> Array:
        with torch.no_grad():
            audio: Array = model.decode(torch.from_numpy(codes[None])).audio_values[0, 0].numpy()
        return audio

    return torch.nn.ModuleList(parts), say, config.sampling_rate


def snac(checkpoint: Checkpoint, options: Mapping[str, str]) -> Made:
    from parley_export import snac_model
    from parley_export.families import snac as family

    model = snac_model.plain(family._model(checkpoint))
    rows = sum(model.config.noise_values)

    def say(codes: Array) -> Array:
        noise = torch.from_numpy(
            np.random.default_rng(SEED).standard_normal((1, rows, codes.shape[1]), np.float32)
        )
        with torch.no_grad():
            audio: Array = model(torch.from_numpy(codes[None]), noise)[0].numpy()
        return audio.reshape(-1)

    return model, say, model.config.sampling_rate


def measure(family: str, source: str, work: Path, repeats: int, options: Mapping[str, str]) -> dict[str, Any]:
    torch.set_num_threads(1)
    make = globals()[family.replace("-", "_")]
    model, say, rate = make(open_checkpoint(family, source), options)
    with np.load(work, allow_pickle=False) as told:
        asked = told["ids"] if rate else told["audio"][0]
    said = say(asked)  # not counted: what is made once for every size
    costs = []
    for _ in range(repeats):
        began = time.process_time()
        said = say(asked)
        costs.append(time.process_time() - began)
    return {
        "cpu_s": min(costs),
        "audio_s": len(said) / rate if rate else len(asked) / 16_000,
        "said": 0 if rate else len(said),
        "parameters": _parameters(model),
        "rss_mb": rss_mb([os.getpid()]),
    }


def _parameters(model: Any) -> int:
    """Weights that were made plain, and codebooks, are buffers; what is tied counts once."""
    weights = [one for one in model.state_dict().values() if one.is_floating_point()]
    return sum({one.data_ptr(): one.numel() for one in weights}.values())


def main() -> int:
    family, source, work, repeats, found, *more = sys.argv[1:]
    assert family in SIZES
    options = dict(one.split("=", 1) for one in more)
    Path(found).write_text(json.dumps(measure(family, source, Path(work), int(repeats), options)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
