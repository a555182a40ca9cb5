"""Tokenizers become tokens.json (gateway.triton.models.pieces): what decoding needs and nothing else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from gateway.triton.models.pieces import Pieces, spaced
from parley_export.checkpoint import ExportError

BLOCK = "\u2581"


def tokens_file(
    tokenizer: Any, *, kind: str = "", special: Collection[int] = (), space: str = "", size: int = 0
) -> bytes:
    """tokens.json of a transformers tokenizer, a SentencePieceProcessor, or a plain vocabulary (pieces in order of
    their ids, or piece -> id) of `kind`.

    special: further ids that are never text. space: the piece for a space, of characters. size: ids that there must
    be at least; those without a piece are special.
    Raises: ExportError for a tokenizer that decodes in a way that Parley does not.
    """
    if hasattr(tokenizer, "backend_tokenizer"):
        told = _of_transformers(tokenizer)
    elif hasattr(tokenizer, "id_to_piece"):
        told = _of_sentencepiece(tokenizer)
    elif isinstance(tokenizer, (Mapping, Sequence)) and not isinstance(tokenizer, str):
        pieces = list(tokenizer) if isinstance(tokenizer, Sequence) else _in_order(tokenizer)
        told = {"kind": kind or "sentencepiece", "pieces": pieces, "special": []}
    else:
        raise ExportError(f"{type(tokenizer).__name__} is no tokenizer whose tokens can be written down")
    pieces = told["pieces"]
    pieces += [""] * (size - len(pieces))
    told["special"] = sorted(
        {*told["special"], *special, *(at for at, piece in enumerate(pieces) if not piece)}
    )
    if space:
        told["space"] = space
    _check(tokenizer, told)
    return json.dumps(told, ensure_ascii=False).encode()


def made_vocabulary(size: int, *, kind: str = "sentencepiece", first: Sequence[str] = ()) -> list[str]:
    """`size` different pieces for a model with random weights: `first`, then syllables, half of which begin words."""
    mark = {"sentencepiece": BLOCK, "bytelevel": "\u0120"}.get(kind)
    made: Iterator[str] = iter("abcdefghijklmnopqrstuvwxyz'")
    if mark is not None:
        made = (piece for syllable in _syllables() for piece in (mark + syllable, syllable))
    else:
        made = itertools.chain(["|"], made, map(chr, range(0xE0, 0x2000)))
    return [*first, *itertools.islice((piece for piece in made if piece not in first), size - len(first))]


def _syllables() -> Iterator[str]:
    for length in itertools.count(1):
        for parts in itertools.product("tnsrlkmdpbfgvh", "aeiou", repeat=length):
            yield "".join(parts)


def _of_transformers(tokenizer: Any) -> dict[str, Any]:
    decoder = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder") or {}
    steps = {step["type"]: step for step in _steps(decoder)}
    pieces = _in_order(tokenizer.get_vocab())
    added = {at for at, token in tokenizer.added_tokens_decoder.items() if token.special}
    told: dict[str, Any] = {"pieces": pieces, "special": [*added, *tokenizer.all_special_ids]}
    replaced = steps.get("Replace", {}).get("pattern", {}).get("String")
    if "ByteLevel" in steps:
        return told | {"kind": "bytelevel"}
    if steps.get("Metaspace", {}).get("replacement") == BLOCK or replaced == BLOCK:
        return told | {"kind": "sentencepiece", "bytes": "ByteFallback" in steps}
    if "CTC" in steps:
        return told | {"kind": "characters", "space": steps["CTC"]["word_delimiter_token"]}
    raise ExportError(f"tokens decoded by {', '.join(steps) or 'no decoder'} cannot be written down")


def _steps(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if decoder.get("type") == "Sequence":
        for one in decoder["decoders"]:
            yield from _steps(one)
    elif decoder:
        yield decoder


def _of_sentencepiece(model: Any) -> dict[str, Any]:
    ids = range(model.get_piece_size())
    return {
        "kind": "sentencepiece",
        "pieces": [model.id_to_piece(at) for at in ids],
        "special": [at for at in ids if model.is_control(at) or model.is_unknown(at)],
        "bytes": any(model.is_byte(at) for at in ids),
    }


def _in_order(vocabulary: Mapping[str, int]) -> list[str]:
    pieces = [""] * (max(vocabulary.values(), default=-1) + 1)
    for piece, at in vocabulary.items():
        pieces[at] = piece
    return pieces


def _check(tokenizer: Any, told: Mapping[str, Any]) -> None:
    """Every piece once, as the tokenizer's own decode has it."""
    pieces = Pieces(told)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or told["kind"] == "characters":
        return  # the decoder of characters also merges repetitions, which is done before tokens get here
    plain = [at for at in range(len(pieces)) if at not in pieces.special]
    for at in range(0, len(plain), 7):
        few = plain[at : at + 7]
        theirs, mine = spaced(backend.decode(few, skip_special_tokens=False)), pieces.text(few)
        if mine != theirs and "\ufffd" not in mine + theirs:  # of broken UTF-8 each makes its own
            raise ExportError(f"tokens {few} are {theirs!r} to the tokenizer and {mine!r} to Parley")
