"""How proofs are shown: equal, different, and never compared are three things."""

from __future__ import annotations

import pytest

from gateway.cli.models.proof import print_proofs
from gateway.triton.proof.proved import Proved, failed


def test_what_could_not_be_run_differs_from_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_proofs(
        [
            Proved("asr_a", "Triton", 3, 1e-6, 1e-4),
            Proved("asr_b", "Triton", 3, 1.0, 1e-4, ok=False),
            failed("tts_c", "a session on Triton", "tts_c needs torch: scripts/families tts_c"),
            Proved("tts_d", "a session on Triton", 0, 0, 0, note="loaded"),
        ]
    )
    title, *rows = (line.split() for line in capsys.readouterr().out.splitlines() if line.strip())
    assert title[0] == "model"
    assert [row[0] for row in rows] == ["asr_a", "asr_b", "tts_c", "tts_d"]
    assert rows[0][-1] == "equal"
    assert rows[1][-1] == "differs"
    assert " ".join(rows[2]).endswith("0 - - not proved tts_c needs torch: scripts/families tts_c")
    assert " ".join(rows[3]).endswith("0 - - - loaded")
