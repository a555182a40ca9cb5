"""Soaks: found by their names, and honest about what grows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from load.run.soaking import markdown, write
from load.soak._command import main, names
from load.soak.sessions import _Found, _outcome, _short_clips

MACHINE = {"cpu": "c", "cores": 2, "system": "s", "date": "d", "command": "scripts/soak sessions"}


def found(*, kb_per_session: float = 0.0, tasks_per_round: float = 0.0, failed: int = 0) -> _Found:
    dice = np.random.default_rng(4)
    sessions = [400 * (k + 1) for k in range(25)]
    return _Found(
        sessions=sessions,
        rss_mb=[150 + kb_per_session * n / 1000 + float(dice.uniform(0, 20)) for n in sessions],
        # teeth of Python's collector: 50 kB a session, given back every 375 of them
        track=[
            (n, 150 + kb_per_session * n / 1000 + 0.05 * (n % 375) + float(dice.normal(0, 0.3)))
            for n in range(0, 10_000, 4)
        ],
        tasks=[7 + tasks_per_round * k for k in range(25)],
        ends=Counter({"fine": 10_000 - failed, "refused:UNAVAILABLE": failed}),
        turns=[300.0, 310.0],
        connects=[5.0, 6.0],
        seconds=600.0,
    )


def test_every_soak_is_found_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "sessions" in names()
    assert all(module.ABOUT and module.run for module in names().values())
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "10,000 short sessions" in capsys.readouterr().out


def test_what_does_not_grow_is_fine() -> None:
    outcome = _outcome(found(), 10_000)
    assert outcome.ok
    assert "0 within noise" in outcome.findings[1]
    assert outcome.data["tasks_per_session"]["slope"] == 0


@pytest.mark.parametrize(
    "what", [{"kb_per_session": 1.0}, {"tasks_per_round": 0.2}, {"failed": 200}], ids=["memory", "tasks", "failures"]
)  # fmt: skip
def test_what_grows_or_fails_is_not_fine(what: dict[str, float]) -> None:
    assert not _outcome(found(**what), 10_000).ok  # type: ignore[arg-type]


def test_results_are_written_for_people_and_for_programs(tmp_path: Path) -> None:
    outcome = _outcome(found(kb_per_session=1.0), 10_000)
    write(outcome, MACHINE, tmp_path, "sessions")
    assert "NOT FINE" in (tmp_path / "sessions.md").read_text()
    written = json.loads((tmp_path / "sessions.json").read_text())
    assert 0.9 < written["rss_kb_per_session"]["slope"] < 1.1
    assert written["ok"] is False
    assert "| 400 |" in markdown(outcome, MACHINE)


def test_short_clips_are_taken_where_there_are_any(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    clips = [{"file": "a.pcm", "duration_ms": 5_000}, {"file": "b.pcm", "duration_ms": 1_100}]
    manifest.write_text(json.dumps(clips))
    chosen = json.loads(_short_clips(manifest, tmp_path).read_text())
    assert [clip["file"] for clip in chosen] == [str(tmp_path / "b.pcm")]
    manifest.write_text(json.dumps(clips[:1]))
    assert len(json.loads(_short_clips(manifest, tmp_path).read_text())) == 1
