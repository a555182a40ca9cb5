"""Whisper's graphs and the front's decoding, held against transformers' own generate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor
from transformers import WhisperForConditionalGeneration as Whisper
from transformers.cache_utils import EncoderDecoderCache

from gateway.triton.exported.reference import compare, load
from gateway.triton.models.asr.seq2seq import Seq2Seq, transcriber
from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import LocalGraph
from parley_export.__main__ import export
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.families import whisper
from parley_export.sounds import bursts
from parley_export.tokens import made_vocabulary

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
SECONDS = (1.7, 3.1, 4.4, 5.6, 0.4)


def build(seed: int, *, multilingual: bool) -> tuple[Any, Any]:
    checkpoint = open_checkpoint("whisper", "random:small", seed=seed)
    config = checkpoint.config(WhisperConfig, whisper.small_config())
    model = checkpoint.model(Whisper, config, enliven=whisper._enliven)
    whisper._make_generation(model, multilingual)
    return model, WhisperFeatureExtractor(feature_size=80, chunk_length=6)


class Made:
    """A checkpoint, its export, and the front over it."""

    def __init__(self, model: Any, extractor: Any, folder: Path) -> None:
        self.model, self.extractor, self.folder = model, extractor, folder
        self.front: Seq2Seq = self.with_beam(1)
        self.audios = [bursts(seconds, 40 + at) for at, seconds in enumerate(SECONDS)]

    def with_beam(self, beam: int) -> Seq2Seq:
        folder = Folder(self.folder / "1")
        folder.front["beam"] = beam
        return transcriber(folder)

    def says(self, audio: Any, language: str, *, beams: int = 1) -> list[int]:
        limit = self.front._decoding.limit(len(audio))
        return whisper.generate(self.model, self.extractor, audio, language, limit, beams)


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("models")
    model, extractor = build(0, multilingual=False)
    return Made(model, extractor, export("whisper", "random:small", out)[0])


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """From a folder, as a real checkpoint is."""
    out = tmp_path_factory.mktemp("models")
    model, extractor = build(1, multilingual=True)
    folder = out / "whisper-tiny-many"
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en, de]\n---\n", "utf-8")
    return Made(model, extractor, export("whisper", str(folder), out)[0])


def tokenizer() -> Any:
    """Byte-level, with the special tokens where the generation config has them."""
    pieces = made_vocabulary(220, kind="bytelevel")
    made = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    names = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{name}|>" for name in whisper.SMALL_LANGUAGES)]
    names += [f"<|{at}|>" for at in range(240 - 220 - len(names))]
    made.add_special_tokens(names)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>")


def test_what_the_small_model_says_varies_and_ends(english: Made, multilingual: Made) -> None:
    """Or a broken graph would say the same."""
    for made, language in ((english, ""), (multilingual, "de")):
        said = [made.says(audio, language) for audio in made.audios]
        limits = [made.front._decoding.limit(len(audio)) for audio in made.audios]
        assert len({tuple(one[:4]) for one in said}) >= 3
        assert max(len(set(one)) for one in said) >= 10
        assert any(len(one) < limit for one, limit in zip(said, limits, strict=True)), "none ended by itself"


def test_every_step_says_what_torch_says_with_its_own_cache(english: Made) -> None:
    model, audio = english.model, english.audios[1]
    prompt = english.front._decoding.prompts[""]
    steps = english.front._listener.listen([audio]).steps()
    with torch.no_grad():
        features = english.extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features
        encoded = model.model.encoder(features)
        cache: EncoderDecoderCache | None = None
        ids = prompt
        for step in range(12):
            wanted = model(
                encoder_outputs=encoded,
                decoder_input_ids=torch.tensor([ids]),
                past_key_values=cache,
                use_cache=True,
            )
            cache = wanted.past_key_values
            logits, _ = steps.step(np.array([ids]))
            assert np.abs(logits - wanted.logits[:, -1].numpy()).max() < 1e-3, step
            ids = [int(logits[0].argmax())]


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_tokens_are_those_of_generate_alone_and_among_others(multilingual: Made, language: str) -> None:
    together = multilingual.front.texts(multilingual.audios, [language] * len(SECONDS))
    for text, audio in zip(together, multilingual.audios, strict=True):
        assert text.tokens == multilingual.says(audio, language)
    alone = multilingual.front.texts(multilingual.audios[2:3], [language])
    assert alone[0] == together[2]


def test_languages_share_a_batch(multilingual: Made) -> None:
    asked = ["en", "de-DE", "es_MX", "fr", "de"]
    texts = multilingual.front.texts(multilingual.audios, asked)
    for text, audio, language in zip(texts, multilingual.audios, asked, strict=True):
        assert text.tokens == multilingual.says(audio, language[:2])
    assert (
        len({tuple(multilingual.says(multilingual.audios[3], name)) for name in ("en", "de", "es", "fr")}) > 1
    )


def test_without_a_language_it_is_detected_as_transformers_does(multilingual: Made) -> None:
    texts = multilingual.front.texts(multilingual.audios, [""] * len(SECONDS))
    names = {at: name.strip("<|>") for name, at in multilingual.model.generation_config.lang_to_id.items()}
    for text, audio in zip(texts, multilingual.audios, strict=True):
        features = multilingual.extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features
        told = names[int(multilingual.model.detect_language(features)[0])]
        assert text.tokens == multilingual.says(audio, told)


@pytest.mark.parametrize("beams", [2, 4])
def test_beams_are_those_of_generate(english: Made, beams: int) -> None:
    texts = english.with_beam(beams).texts(english.audios, [""] * len(SECONDS))
    said = [english.says(audio, "", beams=beams) for audio in english.audios]
    assert [text.tokens for text in texts] == said
    assert said != [english.says(audio, "") for audio in english.audios], (
        "greedy says the same: nothing is tested"
    )


def test_token_times_are_those_of_transformers_a_row_earlier(
    english: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers leaves out the last row of the prompt, which is the first token's, and looks at no sound."""
    monkeypatch.setattr("gateway.triton.models.asr.seq2seq.without_pauses", lambda times, _: times)
    model, heads = english.model, whisper.alignment_heads(english.model)
    theirs_of = model._extract_token_timestamps

    def a_row_earlier(*args: Any, num_input_ids: int, **named: Any) -> Any:
        return theirs_of(*args, num_input_ids=num_input_ids - 1, **named)

    monkeypatch.setattr(model, "_extract_token_timestamps", a_row_earlier)
    before = len(english.front._decoding.prompts[""])
    model.generation_config.alignment_heads = [list(head) for head in heads]
    moments = 0
    for audio in english.audios:
        text = english.front.texts([audio], [""])[0]
        features = english.extractor(
            audio, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True
        )
        made = model.generate(
            features.input_features, attention_mask=features.attention_mask, do_sample=False,
            max_new_tokens=english.front._decoding.limit(len(audio)), return_token_timestamps=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        theirs = made["token_timestamps"][0].numpy()[before - 1 : before - 1 + len(text.tokens)]
        starts = np.array([start for start, _ in text.times]) / 1000
        assert np.abs(starts - theirs).max() < 1e-3
        moments += len(set(starts))
    del model.generation_config.alignment_heads
    assert moments > 15, "hardly any token has a time of its own: nothing is tested"


def test_a_folder_is_written_down_whole(multilingual: Made) -> None:
    front = json.loads((multilingual.folder / "1" / "front.json").read_text("utf-8"))
    assert front["decoding"]["prompts"]["de"] == [221, 223, 227, 231]
    assert front["features"]["pad_s"] == 6.0
    assert "agreement" not in front
    config = (multilingual.folder / "config.pbtxt").read_text("utf-8")
    assert '"en,de,es,fr"' in config
    assert '"Apache-2.0"' in config
    told = np.load(multilingual.folder / "reference" / "front.npz")
    words = multilingual.front.transcribe([told["audio_1"]], [str(told["language_1"])])[0]
    assert " ".join(word.text for word in words) == str(told["text_1"])


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_one_wrong_weight_is_caught(english: Made, graph: str, tmp_path: Path) -> None:
    folder = Path(
        shutil.copytree(english.folder.parent / f"graph_{english.folder.name}_{graph}", tmp_path / "graph")
    )
    cases = load(folder / "reference.npz")
    assert all(row.ok for row in compare(LocalGraph(folder).spec, cases, LocalGraph(folder).run))
    model = onnx.load(folder / "1" / "model.onnx")
    weight = max(model.graph.initializer, key=lambda one: int(np.prod(one.dims)))
    values = numpy_helper.to_array(weight).copy()
    values.reshape(-1)[values.size // 2] += 0.5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, folder / "1" / "model.onnx")
    assert not all(row.ok for row in compare(LocalGraph(folder).spec, cases, LocalGraph(folder).run))


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"tokens_per_s=many must be a number from 0\.1 to 200"):
        export("whisper", "random:small", tmp_path, chosen={"tokens_per_s": "many"})
