"""SpeechT5 and its vocoder: steps, windows and the front say what transformers' own generation says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gateway.triton.models.exported import Folder
from gateway.triton.models.graphs import LocalGraph
from gateway.triton.models.tts.autoregressive import Autoregressive, load
from gateway.triton.models.tts.windows import Windowing, Windows, through
from parley_export.checkpoint import ExportError, open_checkpoint
from parley_export.families import speecht5 as family
from parley_export.families.speecht5_graphs import Postnet
from parley_export.lookahead import shortened, worst_db
from parley_export.vocoders import Vocoder, hop_of, windows_of
from parley_export.voices import embeddings_of, npy, voice_table
from tests.export.loudness import apart_db, clicks
from tests.support.exported import exported

NAME = "tts_speecht5_small"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def repository() -> Path:
    return exported("speecht5")


@pytest.fixture(scope="module")
def engine(repository: Path) -> Autoregressive:
    return load(Folder(repository / NAME / "1"))


@pytest.fixture(scope="module")
def torch_models() -> tuple[Any, Any]:
    """Model and vocoder, as the exporter makes them of the same seed."""
    model, hifigan = family._models(open_checkpoint("speecht5", "random:small"), {}, len(family.PIECES))
    return model, hifigan


@pytest.fixture(scope="module")
def step(repository: Path) -> LocalGraph:
    return LocalGraph(repository / f"graph_{NAME}_step")


def signs(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(count).integers(4, len(family.PIECES), count)


def test_the_front_says_what_transformers_says(engine: Autoregressive, repository: Path) -> None:
    with np.load(repository / NAME / "reference" / "front.npz") as told:
        reference = dict(told)
    count = sum(name.startswith("audio_") for name in reference)
    assert count == 3
    for number in range(count):
        wanted = reference[f"audio_{number}"]
        made = engine.audio(
            reference[f"ids_{number}"], int(reference[f"seed_{number}"]), str(reference[f"voice_{number}"])
        )
        assert made.shape == wanted.shape
        assert apart_db(made, wanted) < -60
        assert 0.02 < wanted.std() < 0.5


@pytest.mark.parametrize(
    ("threshold", "shortest", "longest"),
    [(0.5, 0.0, 20.0), (0.15, 0.0, 20.0), (0.5, 3.0, 5.0), (2.1, 0.0, 13.0)],
)
def test_it_ends_where_transformers_ends(
    repository: Path, torch_models: tuple[Any, Any], threshold: float, shortest: float, longest: float
) -> None:
    folder = Folder(repository / NAME / "1")
    lengths: dict[str, Any] = {"threshold": threshold, "shortest": shortest, "longest": longest}
    folder.front |= lengths
    engine, ids = load(folder), signs(21)
    embeddings = np.load(folder.path("embeddings.npy"))
    for seed in (1, 2):
        wanted = family.spoken(*torch_models, ids, embeddings[1], seed=seed, **lengths)
        made = engine.audio(ids, seed, engine.voices[1].name)
        assert made.shape == wanted.shape
        assert apart_db(made, wanted) < -60


def test_other_noise_and_other_voices_say_it_otherwise(engine: Autoregressive) -> None:
    ids = signs(12)
    first, again = engine.audio(ids, 1), engine.audio(ids, 1)
    np.testing.assert_array_equal(first, again)
    for other in (engine.audio(ids, 2), engine.audio(ids, 1, engine.voices[1].name)):
        size = min(len(first), len(other))
        assert apart_db(first[:size], other[:size]) > -30


def test_the_audio_of_a_stream_does_not_depend_on_its_company(
    engine: Autoregressive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of unlike lengths, joined at random steps; one is given up in the middle."""
    rng = np.random.default_rng(8)
    said = {number: signs(size) for number, size in enumerate((30, 9, 52, 21))}
    rows: list[int] = []
    run = engine._step.run

    def counted(feeds: Any, outputs: Any = ()) -> Any:
        rows.append(len(feeds["position"]))
        return run(feeds, outputs)

    monkeypatch.setattr(engine._step, "run", counted)
    for crowd in (2, 3, 4):
        rows.clear()
        joins = {number: int(rng.integers(0, 40)) for number in range(crowd)}
        going: dict[int, Any] = {}
        made: dict[int, list[NDArray[np.float32]]] = {number: [] for number in joins}
        for turn in range(2000):
            for number in [one for one, at in joins.items() if at <= turn]:
                noise = np.random.default_rng(number)
                voice = engine.voices[number % len(engine.voices)]
                going[number] = engine.stream(said[number], voice, 1.0, noise)
                del joins[number]
            for number in rng.permutation(list(going)).tolist():
                audio = next(going[number], None)
                if audio is None or (number == 2 and turn > 60):
                    going.pop(number).close()
                else:
                    made[number].append(audio)
        assert not going
        assert not joins
        assert max(rows) == crowd
        for number, parts in made.items():
            alone = engine.audio(said[number], number, engine.voices[number % len(engine.voices)].name)
            heard = np.concatenate(parts)
            assert len(heard) == len(alone) or (number == 2 and 0 < len(heard) < len(alone))
            assert apart_db(heard, alone[: len(heard)]) < -60


def test_postnet_and_vocoder_in_windows_say_what_they_say_in_one_go(
    repository: Path, torch_models: tuple[Any, Any]
) -> None:
    model, hifigan = torch_models
    windowing = Windowing.of(Folder(repository / NAME / "1").front["windows"])
    run = through(LocalGraph(repository / f"graph_{NAME}_vocoder"), "mel", "audio")
    mel = np.random.default_rng(2).standard_normal((40, 400)).astype(np.float32)
    whole = run(mel)
    frames = model.speech_decoder_postnet.postnet(torch.from_numpy(mel.T)[None])
    assert apart_db(whole, hifigan(frames)[0].numpy()) < -90
    windows = Windows(run, windowing)
    parts = [part for at in range(0, 400, 2) for part in windows.push(mel[:, at : at + 2])]
    parts += windows.end()
    assert len(parts) > 4
    assert len(parts[0]) < 0.2 * 16_000
    assert apart_db(np.concatenate(parts), whole) < -60
    assert clicks(parts, whole) < 1e-4
    deaf = Windowing(windowing.hop, windowing.left, windowing.right - 14, windowing.first, windowing.later)
    assert apart_db(np.concatenate(list(Windows(run, deaf).stream(mel))), whole) > -60, (
        "this would be noticed"
    )


def test_it_waits_for_fewer_frames_where_that_is_hardly_heard(torch_models: tuple[Any, Any]) -> None:
    model, hifigan = torch_models
    vocoder = Vocoder(hifigan, Postnet(model))
    exact = windows_of(vocoder, 40, hop_of(hifigan.config), 16_000)
    frames: list[NDArray[np.float32]] = []
    lengths = {"threshold": 2.1, "shortest": 0.0, "longest": 8.0}
    whole = family.spoken(*torch_models, signs(30), np.ones(32, np.float32), seed=4, frames=frames, **lengths)
    assert frames[0].shape == (40, len(whole) // exact["hop"])
    np.testing.assert_allclose(vocoder(torch.from_numpy(frames[0])[None])[0].numpy(), whole, atol=1e-5)
    fewest = exact["right"]
    for bound in (-110.0, -70.0):
        windows, difference = shortened(vocoder, exact, frames, bound)
        assert windows["right"] < fewest
        assert difference <= bound
        fewest = windows["right"]

        def run(mel: NDArray[Any]) -> NDArray[np.float32]:
            made: NDArray[np.float32] = vocoder(torch.from_numpy(mel)[None])[0].numpy()
            return made

        parts = list(Windows(run, Windowing.of(windows)).stream(frames[0]))
        assert len(parts) > 2
        assert apart_db(np.concatenate(parts), whole) < bound
        fewer = Windowing.of({**windows, "right": windows["right"] - 1})
        made = np.concatenate(list(Windows(run, fewer).stream(frames[0])))
        assert worst_db(made, whole, exact["hop"]) > bound, "one less is too few"


def test_rows_of_a_batch_are_at_steps_of_their_own(step: LocalGraph) -> None:
    """One at its first step, whose past holds rubbish; one with little text; one in the middle."""
    rng = np.random.default_rng(5)
    shapes = {tensor.name: tensor.dims for tensor in step.spec.inputs}
    sizes: dict[Any, int] = {"ids": 30, "past": 64}
    feeds = {
        name: rng.standard_normal((3, *(int(sizes.get(dim, dim)) for dim in dims))).astype(np.float32)
        for name, dims in shapes.items()
    }
    feeds["noise"] = rng.random(feeds["noise"].shape, np.float32)
    feeds["position"] = np.array([[0], [63], [20]], np.int64)
    feeds["length"] = np.array([[30], [4], [30]], np.int64)
    together = step.run(feeds)
    for row, (position, length) in enumerate(zip((0, 63, 20), (30, 4, 30), strict=True)):
        alone = {name: value[row : row + 1] for name, value in feeds.items()}
        for name, used in (
            ("keys", length),
            ("values", length),
            ("past_keys", position),
            ("past_values", position),
        ):
            alone[name] = alone[name].copy()
            alone[name][:, :, :, used:] = 1e3 * rng.standard_normal()
        made = step.run(alone)
        for name in step.spec.output_names:
            np.testing.assert_allclose(together[name][row], made[name][0], atol=2e-5)


def test_speaker_embeddings_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "voices.npy"
    path.write_bytes(npy(np.ones((3, 32))))
    assert embeddings_of(str(path), 32, seed=None).shape == (3, 32)
    with pytest.raises(ExportError, match=r"are \[n, 512\]"):
        embeddings_of(str(path), 512, seed=None)
    with pytest.raises(ExportError, match="give --option embeddings"):
        embeddings_of("", 512, seed=None)
    with pytest.raises(ExportError, match="holds no speaker embeddings"):
        embeddings_of(str(tmp_path / "none.npy"), 32, seed=None)


def test_voices_are_named() -> None:
    assert [voice["name"] for voice in voice_table(2, "", "en-US")] == ["speaker-1", "speaker-2"]
    both = voice_table(2, "ann,ben", "en-US,de-DE", by_language=True)
    assert [(one["name"], one["language"], one["speaker"], one["language_id"]) for one in both] == [
        ("ann", "en-US", 0, 0), ("ann-de-DE", "de-DE", 0, 1), ("ben", "en-US", 1, 0), ("ben-de-DE", "de-DE", 1, 1),
    ]  # fmt: skip
    with pytest.raises(ExportError, match="names 1 voices, the model has 2"):
        voice_table(2, "ann", "en-US")
    with pytest.raises(ExportError, match="give one, or one for each of 3"):
        voice_table(3, "", "en-US,de-DE")


def test_a_checkpoint_without_its_vocoder_is_refused(tmp_path: Path) -> None:
    from transformers import SpeechT5Config

    SpeechT5Config(**family.SMALL).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="--option vocoder=FOLDER"):
        family._models(open_checkpoint("speecht5", str(tmp_path)), {}, 81)
