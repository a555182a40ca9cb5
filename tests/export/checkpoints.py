"""Tiny checkpoints as people publish them, written by transformers' own save_pretrained; random weights.

`python -m tests.export.checkpoints FAMILY FOLDER` writes one from a process of its own.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    FastSpeech2ConformerWithHifiGan,
    FastSpeech2ConformerWithHifiGanConfig,
    ParakeetCTCConfig,
    ParakeetForCTC,
    PreTrainedTokenizerFast,
    VitsConfig,
    VitsModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from parley_export import parakeet
from parley_export.checkpoint import open_checkpoint
from parley_export.families import fastspeech2, parakeet_ctc, speecht5, vits, vits_text, whisper
from parley_export.tokens import made_vocabulary
from parley_export.voices import SAID

SEED = 5
LENGTHS = {"shortest": "4.8", "longest": "5.2"}
"""Of a SpeechT5 with random weights, whose sentences would end anywhere."""


def write_whisper(folder: Path) -> Any:
    """Four languages. Returns (model, extractor)."""
    checkpoint = open_checkpoint("whisper", "random:small", seed=SEED)
    config = checkpoint.config(WhisperConfig, whisper.small_config())
    model = checkpoint.model(WhisperForConditionalGeneration, config, enliven=whisper._enliven)
    whisper._make_generation(model, True)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=6)
    made = Tokenizer(
        models.BPE({piece: at for at, piece in enumerate(made_vocabulary(220, kind="bytelevel"))}, [])
    )
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    names = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{name}|>" for name in whisper.SMALL_LANGUAGES)]
    made.add_special_tokens([*names, *(f"<|{at}|>" for at in range(20 - len(names)))])
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>").save_pretrained(folder)
    return model, extractor


def write_parakeet_ctc(folder: Path) -> Any:
    """Returns (model, extractor)."""
    checkpoint = open_checkpoint("parakeet-ctc", "random:small", seed=SEED)
    config = checkpoint.config(ParakeetCTCConfig, parakeet_ctc.SMALL)
    extractor = parakeet.extractor_of(checkpoint, config)
    model = checkpoint.model(
        ParakeetForCTC, config, enliven=lambda made: parakeet_ctc.enliven(made, extractor)
    )
    pieces = made_vocabulary(config.pad_token_id)
    made = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens(["<pad>"])
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>").save_pretrained(folder)
    return model, extractor


def write_vits(folder: Path) -> Any:
    """As published ones, with weight norm. Returns the model."""
    checkpoint = open_checkpoint("vits", "random:small", seed=SEED)
    config = VitsConfig(**{**vits.SMALL, "use_stochastic_duration_prediction": False})
    model = checkpoint.model(VitsModel, config, enliven=vits.enliven)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vits_text.VOCABULARY), "utf-8")
    told = {"phonemize": False, "language": "eng", "add_blank": True, "tokenizer_class": "VitsTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), "utf-8")
    return model


def write_speecht5(folder: Path) -> Any:
    """With its vocoder in `vocoder` and two speakers in embeddings.npy. Returns (model, vocoder)."""
    letters = sentences()
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(letters), model_writer=written, model_type="char", character_coverage=1.0,
        vocab_size=len(set("".join(letters))) + 4, bos_id=0, pad_id=1, eos_id=2, unk_id=3, minloglevel=2,
    )  # fmt: skip
    size = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue()).get_piece_size()
    model, vocoder = speecht5._models(open_checkpoint("speecht5", "random:small", seed=SEED), {}, size)
    model.save_pretrained(folder)
    vocoder.save_pretrained(folder / "vocoder")
    (folder / "spm_char.model").write_bytes(written.getvalue())
    speakers = np.random.default_rng(SEED).standard_normal((2, model.config.speaker_embedding_dim))
    np.save(folder / "embeddings.npy", speakers.astype(np.float32), allow_pickle=False)
    return model, vocoder


def write_fastspeech2(folder: Path) -> Any:
    """Model and vocoder in one, as espnet/fastspeech2_conformer_with_hifigan has them. Returns (model, vocoder)."""
    model, vocoder = fastspeech2._models(
        open_checkpoint("fastspeech2", "random:small", seed=SEED), {}, len(fastspeech2.PHONES)
    )
    both = FastSpeech2ConformerWithHifiGan(
        FastSpeech2ConformerWithHifiGanConfig(
            model_config=model.config.to_dict(), vocoder_config=vocoder.config.to_dict()
        )
    )
    both.model.load_state_dict(model.state_dict())
    both.vocoder.load_state_dict(vocoder.state_dict())
    both.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(fastspeech2.PHONES), "utf-8")
    return model, vocoder


def sentences() -> list[str]:
    """With every letter, as a tokenizer of characters is trained on."""
    return [
        *SAID,
        "jackdaws love my big sphinx of quartz!",
        "vexed nymphs - go for quick waltz job.",
    ]


WRITERS: dict[str, Callable[[Path], Any]] = {
    "whisper": write_whisper,
    "parakeet-ctc": write_parakeet_ctc,
    "vits": write_vits,
    "speecht5": write_speecht5,
    "fastspeech2": write_fastspeech2,
}


def quiet() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()


if __name__ == "__main__":
    quiet()
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    WRITERS[sys.argv[1]](Path(sys.argv[2]))
