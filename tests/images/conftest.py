"""The trees of the images, built once for all tests here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.image_trees import Tree, build, step
from tests.support.stack import skip_without_triton

_MODELS = "asr_pocketsphinx tts_flite"


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What images are built with, of requirements/image.lock alone."""
    folder = tmp_path_factory.mktemp("image-tools")
    done = step("tools.sh", prefix=folder / "none", TOOLS=str(folder / "tools"))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "tools"


@pytest.fixture(scope="session")
def gateway(tools: Path) -> Iterator[Tree]:
    """Of the image `parley`."""
    with tempfile.TemporaryDirectory(prefix="parley-image-") as folder:
        more = (("bytecode.sh",), ("models.sh",), ("papers.sh",))
        yield build(Path(folder), tools, "gateway cloud", *more, models=_MODELS)


@pytest.fixture(scope="session")
def triton(tools: Path) -> Iterator[Tree]:
    """Of the image `parley-triton` without a GPU."""
    skip_without_triton()
    with tempfile.TemporaryDirectory(prefix="parley-image-") as folder:
        yield build(
            Path(folder), tools, "embedded cloud", ("triton.sh", "wheel"), ("models.sh",), models=_MODELS
        )
