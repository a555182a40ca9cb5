"""Parley's decoding of tokens beside the tokenizers library's own, and what is written down for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch")
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gateway.triton.models.pieces import Pieces, spaced
from parley_export.checkpoint import ExportError
from parley_export.tokens import made_vocabulary, tokens_file

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "Überraschung: größer, süßer, Ölöfen!",
    "日本語のテキスト と 空白",
    "emoji 👩‍🚀🚀 and ½ ¼ signs",
    "it's 3.14 o'clock — twice",
] * 3


def bytelevel() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens(["<|0.02|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def metaspace() -> PreTrainedTokenizerFast:
    """As ParakeetTokenizer's: unigrams that begin words with a mark."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=["<unk>", "<pad>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")


def fallback() -> PreTrainedTokenizerFast:
    """As Llama's: a mark for spaces, single bytes for characters that are not in the vocabulary."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*made_vocabulary(100), "▁", "▁caf", "é"]
    tokenizer = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


TOKENIZERS = {"bytelevel": bytelevel, "metaspace": metaspace, "fallback": fallback}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_decodes_like_the_library(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    pieces = Pieces(json.loads(tokens_file(tokenizer)))
    assert len(pieces) == len(tokenizer)
    chance = np.random.default_rng(3)
    sequences = [tokenizer(text)["input_ids"] for text in TEXTS]
    sequences += [chance.integers(0, len(pieces), chance.integers(1, 12)).tolist() for _ in range(300)]
    for ids in sequences:
        theirs = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if name == "fallback" and "\ufffd" in theirs + pieces.text(ids):
            # Bytes that are no UTF-8: the library gives one U+FFFD a byte, and spoils what is whole beside them.
            continue
        assert pieces.text(ids) == spaced(theirs), ids
        assert " ".join(span.text for span in pieces.spans(ids)) == spaced(theirs), ids


def test_whole_characters_of_single_bytes() -> None:
    tokenizer = fallback()
    pieces = Pieces(json.loads(tokens_file(tokenizer)))
    ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "naïve 日本 🚀".encode()]
    assert pieces.text(ids) == tokenizer.decode(ids) == "naïve 日本 🚀"


def test_special_tokens_are_no_text() -> None:
    tokenizer = bytelevel()
    told = json.loads(tokens_file(tokenizer, special=[5], size=400))
    pieces = Pieces(told)
    assert len(pieces) == 400
    assert {tokenizer.eos_token_id, 5, 399} <= set(told["special"])
    assert pieces.text([tokenizer.eos_token_id, 5, 399, 100_000]) == ""


def test_a_sentencepiece_model(tmp_path: Any) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("\n".join(TEXTS), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "m"), vocab_size=340, byte_fallback=True,
        model_type="bpe", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    pieces = Pieces(json.loads(tokens_file(model)))
    for text in [*TEXTS, "never seen: ζ and Ж"]:
        ids = model.encode(text)
        assert pieces.text(ids) == model.decode(ids)
        assert [span.text for span in pieces.spans(ids)] == model.decode(ids).split(" ")


@pytest.mark.parametrize("kind", ["sentencepiece", "bytelevel", "characters"])
def test_made_vocabularies(kind: str) -> None:
    made = made_vocabulary(700, kind=kind, first=["<pad>"])
    assert len(made) == len(set(made)) == 700
    assert made[0] == "<pad>"
    pieces = Pieces(json.loads(tokens_file(made, kind=kind, special=[0])))
    assert len(pieces.spans(range(700))) > (100 if kind != "characters" else 0)


def test_a_decoder_that_is_not_known_is_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(ExportError, match="WordPiece"):
        tokens_file(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"))
    with pytest.raises(ExportError, match="no tokenizer"):
        tokens_file(object())
