"""The guard that searches the whole run for secrets can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.identity.keys import new_key
from tests.support.leaks import PLANTED, find

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(
    "secret",
    [
        new_key(),
        PLANTED,
        "ek_" + "x" * 80,
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwOi8v.c2lnbmF0dXJlLW9mLWl0LWFsbA",
    ],
)
def test_a_secret_is_found_and_not_repeated(secret: str) -> None:
    told = find(f"refused the key {secret} of somebody")
    assert told is not None
    assert secret not in told
    assert "refused the key" in told


def test_what_is_no_secret_is_left_alone() -> None:
    assert find("authorization: Bearer *** pk_short eyJ.not.a.token sk-…") is None


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


LEAKS = {
    "output": "print(SECRET)",
    "log": "import logging; logging.getLogger('gateway.x').info('got %s', SECRET)",
    "file": "(tmp_path / 'gateway.log').write_text(SECRET)",
    "child": "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import sys; sys.stderr.write(sys.argv[1])', SECRET])",
    "answer": "from starlette.responses import JSONResponse; JSONResponse({'error': SECRET}, 400)",
}


@pytest.mark.parametrize("way", LEAKS)
def test_a_test_that_tells_one_fails(way: str, pytester: pytest.Pytester) -> None:
    body = f"SECRET = 'planted' + 'secret'\n\ndef test_it(tmp_path):\n    {LEAKS[way]}\n"
    pytester.makepyfile(body)
    result = pytester.runpytest_subprocess(
        "-p", "tests.support.leak_plugin", "-p", "no:cacheprovider", "--show-capture=no"
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*a secret was told*"])


def test_one_that_shows_it_on_purpose_passes(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = shows_secrets: x\n")
    pytester.makepyfile(
        "import pytest\n\n@pytest.mark.shows_secrets\ndef test_it():\n    print('planted' + 'secret')\n"
    )
    pytester.runpytest_subprocess(
        "-p", "tests.support.leak_plugin", "-p", "no:cacheprovider"
    ).assert_outcomes(passed=1)


def test_a_log_of_a_server_that_outlives_its_tests_is_looked_at(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "def test_it(tmp_path_factory):\n"
        "    (tmp_path_factory.mktemp('server') / 'server.log').write_text('planted' + 'secret')\n"
    )
    result = pytester.runpytest_subprocess(
        "-p", "tests.support.leak_plugin", "-p", "no:cacheprovider", "--show-capture=no"
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*secrets were told*"])


def test_the_checkout_holds_none() -> None:
    root = Path(__file__).parents[3]
    for folder in ("docs", "helm", "k8s", "scripts"):
        for path in (root / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".png", ".wav"):
                assert find(path.read_text(errors="replace")) is None, path
