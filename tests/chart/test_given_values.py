"""What people give the chart besides its own keys' values: nulls, names, quantities, some metrics of several."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.chart import CHART, Object, Refused, one_of, render
from tests.support.cluster import need_tools, tool


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    need_tools()


def test_null_takes_back_what_another_file_gave(tmp_path: Path) -> None:
    given: Object = {
        "commonLabels": {"team": "voice"},
        "gateway": {"nodeSelector": {"pool": "a"}, "podAnnotations": {"mesh": "off"}, "config": {"vad": {"threshold": 0.4}}},
        "speech": {"resources": {"limits": {"ephemeral-storage": "1Gi"}}, "voicePacks": {"morgan": "name: morgan"}},
    }  # fmt: skip
    nulls = json.loads(re.sub(r': ("[^"]*"|0\.4)', ": null", json.dumps(given)))
    nulls["gateway"]["config"]["session"] = {"max_sessions": None}  # of the profile
    file = tmp_path / "given.json"
    file.write_text(json.dumps(given))
    done = subprocess.run(
        [tool("helm"), "template", "parley", str(CHART), "-n", "voice", "-f", str(CHART / "values-production.yaml"),
         "-f", str(file), "-f", "-"],
        input=json.dumps(nulls), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    objects = [one for one in yaml.safe_load_all(done.stdout) if one]
    deployment = one_of(objects, "Deployment", "parley-gateway")["spec"]["template"]
    assert "team" not in deployment["metadata"]["labels"]
    assert "mesh" not in deployment["metadata"]["annotations"]
    assert not deployment["spec"].get("nodeSelector")
    settings = yaml.safe_load(one_of(objects, "ConfigMap", "parley-gateway")["data"]["config.yaml"])
    assert settings["vad"] == {}
    assert "max_sessions" not in settings["session"]
    assert settings["session"]["drain_s"] == 300, "of the chart's own"


@pytest.mark.parametrize(("left", "scaled"), [("streams_active", "speech"), ("queue_seconds", "triton")])
def test_fronts_or_tritons_that_nothing_scales_keep_their_number(left: str, scaled: str) -> None:
    values: Object = {
        "speech": {"topology": "shared", "replicas": 3, "triton": {"replicas": 4}, "autoscaling": {
            "enabled": True,
            "metrics": {
                f"parley_speech_{one}": None
                for one in ("streams_active", "queue_seconds", "first_chunk_p95_seconds")
                if one != left
            },
        }},
    }  # fmt: skip
    objects = render("", values)
    assert [one["metadata"]["name"] for one in objects if one["kind"] == "HorizontalPodAutoscaler"] == [
        f"parley-{scaled}"
    ]
    replicas = {
        name: one_of(objects, kind, f"parley-{name}")["spec"].get("replicas")
        for name, kind in (("speech", "Deployment"), ("triton", "StatefulSet"))
    }
    assert replicas == {**{"speech": 3, "triton": 4}, scaled: None}


@pytest.mark.parametrize(
    "memory", ["4Gi", "4096Mi", "4194304Ki", "4G", "4000000k", "4294967296", "1T", "1Ti", "1P", 4294967296]
)
def test_memory_is_counted_in_every_unit(memory: str | int) -> None:
    limits = {"speech": {"triton": {"resources": {"limits": {"memory": memory}}, "shm": {"size": "3Gi"}}}}
    assert render("", limits)
    with pytest.raises(Refused, match="/dev/shm"):
        render(
            "", {"speech": {"triton": {"resources": {"limits": {"memory": "3400M"}}, "shm": {"size": "3Gi"}}}}
        )


@pytest.mark.parametrize("release", ["voice.eu", "1st"])
def test_a_name_that_no_service_can_have_is_refused(release: str) -> None:
    with pytest.raises(Refused, match="fullnameOverride"):
        render("cpu", release=release)
    assert render("cpu", {"fullnameOverride": "voice"}, release=release)
