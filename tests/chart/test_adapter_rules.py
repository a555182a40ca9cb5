"""The autoscalers' metrics: Prometheus itself works the rules out over series like those of running pods."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
RULES = REPOSITORY / "helm" / "parley" / "files" / "prometheus-adapter-rules.yaml"
TRITON = {
    "nv_inference_queue_duration_us",
    "nv_inference_request_success",
    "nv_inference_pending_request_count",
    "nv_inference_first_response_histogram_ms",
}
"""Series of Triton's own page that the rules use."""
GATEWAY, SPEECH = 'namespace="voice",pod="gateway-0"', 'namespace="voice",pod="speech-0"'


def rules() -> dict[str, dict[str, Any]]:
    """By the name that an autoscaler asks for."""
    found = yaml.safe_load(RULES.read_text(encoding="utf-8"))["rules"]
    return {rule["name"]["as"]: rule for rule in found}


def query(rule: dict[str, Any], pod: str) -> str:
    """What the adapter makes of a rule for one pod (its docs/config.md: Series, LabelMatchers, GroupBy)."""
    series = re.match(r"\w+", rule["seriesQuery"])
    assert series is not None
    text = rule["metricsQuery"].replace("<<.Series>>", series.group())
    text = text.replace("<<.LabelMatchers>>", f'pod=~"{pod}",namespace="voice"')
    text = text.replace("<<.GroupBy>>", "pod")
    assert "<<" not in text
    return str(text)


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not there: install Debian's package prometheus")
        pytest.skip("promtool is not there")
    return found


def worked_out(tmp_path: Path, series: dict[str, str], expected: Mapping[str, tuple[str, float]]) -> None:
    """series: values as promtool's tests write them. expected: by metric, the pod and its value at 5 minutes."""
    tests = []
    for name, (pod, value) in expected.items():
        samples = [{"labels": f'{{pod="{pod}"}}', "value": value}]
        expr = f"round({query(rules()[name], pod)}, 0.001)"
        tests.append({"expr": expr, "eval_time": "5m", "exp_samples": samples})
    suite = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": tests,
            }
        ],
    }
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    done = subprocess.run(
        [promtool(), "test", "rules", str(path)], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_series_of_the_rules_is_one_that_exists() -> None:
    table = (REPOSITORY / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `(parley_\w+)`", table, re.MULTILINE)) | TRITON
    for name, rule in rules().items():
        matched = re.fullmatch(rule["name"]["matches"], re.match(r"\w+", rule["seriesQuery"]).group())  # type: ignore[union-attr]
        assert matched, f"{name} would be found under no name"
        for series in re.findall(r"\b(?:parley|nv)_\w+", f"{rule['seriesQuery']} {query(rule, 'x')}"):
            assert series.removesuffix("_bucket") in known, f"{name} asks for {series}"


def test_the_guide_has_every_metric_of_the_rules() -> None:
    guide = (REPOSITORY / "docs" / "guides" / "autoscaling.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)`", guide, re.MULTILINE)) == set(rules())


@pytest.mark.parametrize(
    ("active", "capacity", "busy_per_s", "load"), [(30, 120, 0.1, 0.25), (30, 120, 0.6, 0.6), (0, 120, 0, 0)]
)
def test_a_gateway_is_as_full_as_its_fuller_half(
    tmp_path: Path, active: int, capacity: int, busy_per_s: float, load: float
) -> None:
    series = {
        f"parley_sessions_active{{{GATEWAY}}}": f"{active}x40",
        f"parley_sessions_capacity{{{GATEWAY}}}": f"{capacity}x40",
        f"parley_loop_busy_seconds_total{{{GATEWAY}}}": f"0+{2 * busy_per_s * 15}x40",
        f"parley_workers{{{GATEWAY}}}": "2x40",
        'parley_sessions_active{namespace="other",pod="gateway-0"}': "100x40",
    }
    worked_out(tmp_path, series, {"parley_session_load": ("gateway-0", load)})


def test_speech_that_waits_shows(tmp_path: Path) -> None:
    model, bucket = f'{SPEECH},model="tts_x",version="1"', f'{SPEECH},model="tts_x"'
    series = {
        f'parley_speech_streams_active{{{SPEECH},kind="asr"}}': "20x40",
        f'parley_speech_streams_active{{{SPEECH},kind="tts"}}': "4x40",
        f"nv_inference_queue_duration_us{{{model}}}": "0+3000000x40",
        f"nv_inference_request_success{{{model}}}": "0+30x40",
        f'nv_inference_queue_duration_us{{{SPEECH},model="parley_leases",version="1"}}': "0+9000000x40",
        f"nv_inference_pending_request_count{{{model}}}": "3x40",
        f'parley_model_first_chunk_seconds_bucket{{{bucket},le="0.1"}}': "0+0x40",
        f'parley_model_first_chunk_seconds_bucket{{{bucket},le="0.2"}}': "0+10x40",
        f'parley_model_first_chunk_seconds_bucket{{{bucket},le="+Inf"}}': "0+10x40",
        f'nv_inference_first_response_histogram_ms_bucket{{{bucket},le="500"}}': "0+0x40",
        f'nv_inference_first_response_histogram_ms_bucket{{{bucket},le="1000"}}': "0+10x40",
        f'nv_inference_first_response_histogram_ms_bucket{{{bucket},le="+Inf"}}': "0+10x40",
    }
    expected = {
        "parley_speech_streams_active": ("speech-0", 24.0),
        "parley_speech_queue_seconds": ("speech-0", 0.1),
        "parley_speech_first_chunk_p95_seconds": ("speech-0", 0.975),
    }
    worked_out(tmp_path, series, expected)


def test_without_traffic_everything_is_zero_and_never_nan(tmp_path: Path) -> None:
    model = f'{SPEECH},model="tts_x",version="1"'
    series = {
        f"nv_inference_queue_duration_us{{{model}}}": "5x40",
        f"nv_inference_request_success{{{model}}}": "7x40",
        f"nv_inference_pending_request_count{{{model}}}": "0x40",
        f'parley_model_first_chunk_seconds_bucket{{{SPEECH},model="tts_x",le="0.1"}}': "3x40",
        f'parley_model_first_chunk_seconds_bucket{{{SPEECH},model="tts_x",le="+Inf"}}': "3x40",
        f'parley_speech_streams_active{{{SPEECH},kind="asr"}}': "0x40",
    }
    names = (
        "parley_speech_streams_active",
        "parley_speech_queue_seconds",
        "parley_speech_first_chunk_p95_seconds",
    )
    worked_out(tmp_path, series, dict.fromkeys(names, ("speech-0", 0.0)))
