"""The chart as it renders: every profile valid, restricted, pinned, and without a secret where none belongs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import gateway
from gateway.settings import Settings
from gateway.triton.tensorrt.configs import ENGINES
from tests.chart.golden import GOLDEN, summary
from tests.support.chart import CHART, PROFILES, Object, Refused, containers, one_of, pods, render, template
from tests.support.cluster import need_tools, tool

pytestmark = pytest.mark.usefixtures("_tools")


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    need_tools()


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# What turns on all that is optional, so that no corner goes unseen.
EVERYTHING: Object = {
    "auth": {"jwt": {"issuer": "https://issuer.example.com"}},
    "tls": {"enabled": True, "existingSecret": "own-tls", "clientAuth": "required", "triton": True},
    "gateway": {
        "replicas": 3,
        "policies": {"default": {}},
        "autoscaling": {"enabled": True},
        "service": {"type": "LoadBalancer"},
    },
    "speech": {
        "tts": "riva",
        "autoscaling": {"enabled": True},
        "voicePacks": {"morgan": "name: morgan"},
        "modelRepository": {"kind": "sync", "source": "s3://bucket/models", "credentialsSecret": "store"},
        "engineCache": {"enabled": True},
        "triton": {"gpu": {"count": 1, "mig": "1g.10gb"}, "repositoryKeySecret": "repository"},
    },
    "redis": {"existingSecret": "own-redis", "caSecret": "redis-ca"},
    "telemetry": {"otlp": "http://otel:4318", "headersSecret": "otel"},
    "monitoring": {
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
        "adapterRules": {"enabled": True},
    },
    "ingress": {
        "http": {"enabled": True, "host": "voice.example.com", "tlsSecret": "front"},
        "grpc": {"enabled": True, "host": "grpc.example.com", "tlsSecret": "front"},
    },
    "gatewayApi": {
        "http": {"enabled": True, "parentRefs": [{"name": "edge"}], "hostnames": ["voice.example.com"]},
        "grpc": {"enabled": True, "parentRefs": [{"name": "edge"}], "hostnames": ["grpc.example.com"]},
    },
}


def merged(*several: Object) -> Object:
    result: Object = {}
    for one in several:
        for key, value in one.items():
            ours = result.get(key)
            result[key] = merged(ours, value) if isinstance(ours, dict) and isinstance(value, dict) else value
    return result


VARIANTS: dict[str, tuple[str, Object]] = {
    "default": ("", {}),
    **{name: (name, {}) for name in PROFILES},
    "everything": ("", EVERYTHING),
    "shared": ("", merged(EVERYTHING, {"speech": {"topology": "shared", "triton": {"replicas": 2}}})),
    "sidecar": ("gpu", {"speech": {"topology": "sidecar"}}),
    "open": ("cpu", {"auth": {"enabled": False}}),
    "nim as a Deployment": ("nim", {"llm": {"mode": "nim"}}),
    "models in a volume": ("gpu", {"speech": {"modelRepository": {"kind": "pvc"}}}),
    "models in a bucket": (
        "gpu",
        {"speech": {"modelRepository": {"kind": "objectStore", "source": "s3://b/m", "region": "eu-1"}}},
    ),
    "half Riva": ("riva", {"riva": {"tts": False}}),
    "Riva elsewhere": (
        "cpu",
        {
            "riva": {
                "mode": "external",
                "external": {
                    "asrUri": "riva.example.com:443",
                    "ttsUri": "riva.example.com:443",
                    "ssl": True,
                    "existingSecret": "riva-key",
                    "metadataSecret": "riva-metadata",
                },
            }
        },
    ),
}


@pytest.fixture(params=VARIANTS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(*VARIANTS[request.param])


def test_lint_has_nothing_to_say(profile: str) -> None:
    done = subprocess.run(
        [tool("helm"), "lint", "--strict", str(CHART), "-f", str(CHART / f"values-{profile}.yaml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout


def test_the_profiles_are_those_that_are_documented() -> None:
    assert set(PROFILES) == {"cpu", "gpu", "riva", "nim", "production"}


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == gateway.__version__
    assert chart["kubeVersion"].startswith(">=1.28")


def test_kubernetes_own_schemas_take_every_object() -> None:
    text = "\n---\n".join(template(name, json.dumps(values)) for name, values in VARIANTS.values())
    schemas = need_tools() / "schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json"
    foreign = "ServiceMonitor,PodMonitor,PrometheusRule,NIMService,NIMCache,GRPCRoute,HTTPRoute,Certificate"
    done = subprocess.run(
        [tool("kubeconform"), "-strict", "-summary", "-skip", foreign, "-schema-location", str(schemas), "-"],
        input=text,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "Errors: 0" in done.stdout
    assert int(re.findall(r"Valid: (\d+)", done.stdout)[0]) > 150


def test_golden(profile: str) -> None:
    """After a change that is meant: `python -m tests.chart.golden`, and read the difference."""
    assert (GOLDEN / f"{profile}.txt").read_text() == summary(render(profile))


def test_in_one_pod_speech_ends_after_the_gateway() -> None:
    long = {"drainSeconds": 300, "terminationGracePeriodSeconds": 301}
    values: Object = {"speech": {"topology": "sidecar"}, "gateway": long}
    pod = one_of(render("gpu", values), "Deployment", "parley-gateway")["spec"]["template"]["spec"]
    hooks = {one["name"]: one["lifecycle"]["preStop"]["exec"]["command"] for one in pod["containers"]}
    after = ["--after", "http://127.0.0.1:8081", "--timeout", "305"]
    assert hooks["gateway"][-4:] == ["--admin", "http://127.0.0.1:8081", "--timeout", "300"]
    assert hooks["speech"][-4:] == hooks["triton"][-4:] == after
    assert pod["terminationGracePeriodSeconds"] == 300 + 15 + 15, (
        "and Triton has its --exit-timeout-secs still"
    )


def test_a_sidecar_goes_where_speech_can_run() -> None:
    values: Object = {
        "speech": {"topology": "sidecar", "nodeSelector": {"gpu": "yes"}},
        "gateway": {"nodeSelector": {"zone": "a"}},
    }
    deployment = one_of(render("gpu", values), "Deployment", "parley-gateway")
    spec = deployment["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["containers"]] == ["gateway", "speech", "triton"]
    assert spec["nodeSelector"] == {"gpu": "yes", "zone": "a"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["terminationGracePeriodSeconds"] == 120
    settings = _config_maps(render("gpu", values))
    assert settings["parley-gateway"]["asr"]["uri"] == "127.0.0.1:50051"
    assert settings["parley-speech"]["listen"]["riva"] == "127.0.0.1:50051"


def test_names_are_unique_and_of_this_namespace(objects: list[Object]) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    assert {one["metadata"].get("namespace") for one in objects} == {"voice"}
    assert all(len(name) <= 63 for _, name in names)


def test_long_names_stay_legal() -> None:
    values: Object = {"speech": {"topology": "shared"}, "fullnameOverride": "x" * 60}
    for one in render("", values):
        longest = 52 if one["kind"] == "StatefulSet" else 63  # its pods carry a label of the name and a hash
        assert len(one["metadata"]["name"]) <= longest, one["metadata"]["name"]


def test_pod_security_restricted(objects: list[Object]) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, rule by rule."""
    seen = 0
    for name, spec in pods(objects):
        seen += 1
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] != 0, name
        assert security["seccompProfile"]["type"] == "RuntimeDefault", name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        allowed = {
            "configMap",
            "emptyDir",
            "persistentVolumeClaim",
            "projected",
            "secret",
            "csi",
            "ephemeral",
        }
        for volume in spec.get("volumes", ()):
            assert volume.keys() - {"name"} <= allowed, (name, volume)
        for container in containers(spec):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, (name, container["name"])
            assert own["capabilities"]["drop"] == ["ALL"], (name, container["name"])
            assert "privileged" not in own
            assert all("hostPort" not in port for port in container.get("ports", ()))
    assert seen >= 2


def test_ours_have_a_root_that_is_read_only_and_somewhere_to_write(objects: list[Object]) -> None:
    for name, spec in pods(objects):
        for container in containers(spec):
            if not container["image"].startswith("parley"):
                continue
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, name


def test_only_the_key_job_has_a_token(objects: list[Object]) -> None:
    for name, spec in pods(objects):
        assert spec["automountServiceAccountToken"] is (name == "Job/parley-keys"), name
        assert spec.get("enableServiceLinks") is False, f"{name}: Services would become PARLEY_… variables"
    for one in objects:
        if one["kind"] == "ServiceAccount":
            assert one["automountServiceAccountToken"] is False


def test_images_are_pinned(objects: list[Object]) -> None:
    for name, spec in pods(objects):
        for container in containers(spec):
            image = container["image"]
            assert "@sha256:" in image or re.search(r":[\w.-]*\d[\w.-]*$", image), (name, image)


def test_a_digest_wins_over_the_tag() -> None:
    digest = "sha256:" + "ab" * 32
    values = {"image": {"registry": "r.example.com/v", "tag": "9", "digest": digest}}
    gateway_pod = one_of(render("cpu", values), "Deployment", "parley-gateway")["spec"]["template"]["spec"]
    assert gateway_pod["containers"][0]["image"] == f"r.example.com/v/parley@{digest}"


def test_every_mount_has_its_volume_and_every_volume_a_use(objects: list[Object]) -> None:
    for name, spec in pods(objects):
        mounted = {mount["name"] for one in containers(spec) for mount in one.get("volumeMounts", ())}
        volumes = [volume["name"] for volume in spec.get("volumes", ())]
        assert len(set(volumes)) == len(volumes), name
        assert mounted == set(volumes), (name, mounted ^ set(volumes))


def test_config_maps_and_claims_that_are_named_are_made(objects: list[Object]) -> None:
    made = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for name, spec in pods(objects):
        for volume in spec.get("volumes", ()):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made, name
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", "")
            if claim.startswith("parley-"):
                assert ("PersistentVolumeClaim", claim) in made, name


def test_services_find_their_pods_and_ports(objects: list[Object]) -> None:
    for service in (one for one in objects if one["kind"] == "Service"):
        wanted = service["spec"]["selector"].items()
        behind = [
            one["spec"]["template"]["spec"]
            for one in objects
            if one["kind"] in ("Deployment", "StatefulSet")
            and wanted <= one["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert len(behind) == 1, service["metadata"]["name"]
        ports = {port["name"] for one in behind[0]["containers"] for port in one.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_probes_differ_as_they_should(objects: list[Object]) -> None:
    for name, spec in pods(objects):
        if name.split("/")[0] in ("Job", "Pod"):
            continue
        for container in spec["containers"]:
            live = container["livenessProbe"].get("httpGet", {}).get("path")
            ready = container["readinessProbe"].get("httpGet", {}).get("path")
            where = (name, container["name"])
            # Liveness asks the process alone: a part that is down must not have its neighbours restarted.
            assert live in ("/healthz", "/v2/health/live", "/v1/health/live"), where
            assert ready in ("/readyz", "/healthz", "/v2/health/ready", "/v1/health/ready"), where
            start, alive = container["startupProbe"], container["livenessProbe"]
            assert start["failureThreshold"] * start["periodSeconds"] >= 60, where
            assert alive.get("failureThreshold", 3) * alive["periodSeconds"] >= 30, where


def test_pods_wait_for_their_calls(objects: list[Object]) -> None:
    for name, spec in pods(objects):
        grace = spec.get("terminationGracePeriodSeconds", 30)
        for container in spec["containers"]:
            command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
            if command:
                assert command[:2] == ["parley", "drain"], name
                assert grace > int(command[command.index("--timeout") + 1]), name


def _config_maps(objects: list[Object]) -> dict[str, Object]:
    return {
        one["metadata"]["name"]: yaml.safe_load(one["data"]["config.yaml"])
        for one in objects
        if one["kind"] == "ConfigMap"
        and "config.yaml" in one["data"]
        and "rules" not in one["metadata"]["name"]
    }


def test_parley_takes_its_settings(
    objects: list[Object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = _config_maps(objects)
    assert "parley-gateway" in maps
    file = tmp_path / "config.yaml"
    monkeypatch.setenv("PARLEY_CONFIG", str(file))
    for settings in maps.values():
        file.write_text(yaml.safe_dump(settings))
        Settings()


def test_every_variable_is_a_setting(objects: list[Object]) -> None:
    for name, spec in pods(objects):
        for container in containers(spec):
            for variable in container.get("env", ()):
                parts = variable["name"].removeprefix("PARLEY_").lower().split("__")
                if not variable["name"].startswith("PARLEY_") or variable["name"] in (
                    "PARLEY_CONFIG",
                    "PARLEY_API_KEY",
                ):
                    continue
                section = Settings.model_fields[parts[0]].default
                assert len(parts) == 1 or parts[1] in type(section).model_fields, (name, variable["name"])


_SECRET = re.compile(r"(api_key|api_keys|sealing_key|repository_key|password|token|secret)$")


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, one in value.items() for leaf in _leaves(one, str(key))]
    return [(path, value)]


def test_no_secret_is_in_a_config_map(objects: list[Object]) -> None:
    for name, settings in _config_maps(objects).items():
        assert not [key for key, value in _leaves(settings) if _SECRET.search(key) and value], name
    assert not [one for one in objects if one["kind"] == "Secret"], "helm keeps what it makes in its history"
    for name, spec in pods(objects):
        for container in containers(spec):
            for variable in container.get("env", ()):
                secret = re.search(r"(_KEY|__URL|HEADERS|METADATA)$", variable["name"])
                assert not secret or "secretKeyRef" in variable["valueFrom"], (name, variable["name"])


def test_the_engine_volume_is_where_models_compile_into() -> None:
    values = {"speech": {"engineCache": {"enabled": True}, "triton": {"gpu": {"count": 1, "mig": "2g.20gb"}}}}
    for _, spec in pods(render("gpu", values)):
        for container in containers(spec):
            if container["name"] == "triton":
                mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
                assert mounts[ENGINES]["subPath"] == "2g.20gb", (
                    "slices of another size build engines of their own"
                )
                assert "--model-config-name=tensorrt" in container["args"]
                assert container["resources"]["limits"]["nvidia.com/mig-2g.20gb"] == 1
                assert "nvidia.com/gpu" not in container["resources"]["limits"]
                return
    raise AssertionError("no Triton")


def test_engines_of_a_gpu_that_is_chosen_by_its_label_have_a_folder_of_their_own() -> None:
    folders: dict[str, str] = {}
    for product in ("NVIDIA-L4", "NVIDIA-A10", ""):
        chosen = {"nvidia.com/gpu.product": product} if product else {"zone": "a"}
        values = {"speech": {"engineCache": {"enabled": True}, "nodeSelector": chosen}}
        for _, spec in pods(render("gpu", values)):
            for container in containers(spec):
                folders |= {
                    one["subPath"]: product
                    for one in container["volumeMounts"]
                    if one["mountPath"] == ENGINES
                }
    assert folders == {"nvidia-l4-whole": "NVIDIA-L4", "nvidia-a10-whole": "NVIDIA-A10", "whole": ""}


def test_budgets_only_where_a_pod_can_be_spared(objects: list[Object]) -> None:
    least = {}
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet"):
            least[one["metadata"]["name"]] = one["spec"].get("replicas", 0)
    for one in objects:
        if one["kind"] == "HorizontalPodAutoscaler":
            least[one["spec"]["scaleTargetRef"]["name"]] = one["spec"]["minReplicas"]
    for one in objects:
        if one["kind"] == "PodDisruptionBudget":
            assert least[one["metadata"]["name"]] >= 2
            assert "minAvailable" not in one["spec"], (
                "with one replica left it would keep nodes from draining"
            )
            assert one["spec"]["maxUnavailable"]


def test_autoscalers_look_at_metrics_that_their_pods_have() -> None:
    def scalers(values: Object) -> dict[str, list[str]]:
        return {
            one["metadata"]["name"]: [metric["pods"]["metric"]["name"] for metric in one["spec"]["metrics"]]
            for one in render("production", values)
            if one["kind"] == "HorizontalPodAutoscaler"
        }

    rules = yaml.safe_load((CHART / "files/prometheus-adapter-rules.yaml").read_text())
    served = {rule["name"]["as"] for rule in rules["rules"]}
    together = scalers({})
    assert {name for names in together.values() for name in names} == served
    assert together["parley-gateway"] == ["parley_session_load"]
    apart = scalers({"speech": {"topology": "shared"}})
    assert apart["parley-speech"] == ["parley_speech_streams_active"], "of the front"
    assert set(apart["parley-triton"]) == set(together["parley-speech"]) - {"parley_speech_streams_active"}


def test_scaling_down_is_slow() -> None:
    for one in render("production"):
        if one["kind"] == "HorizontalPodAutoscaler":
            down = one["spec"]["behavior"]["scaleDown"]
            assert down["stabilizationWindowSeconds"] >= 600
            assert down["policies"] == [
                {"type": "Pods", "value": 1, "periodSeconds": down["policies"][0]["periodSeconds"]}
            ]


def test_the_default_has_no_budget_and_production_has() -> None:
    assert not [one for one in render("cpu") if one["kind"] == "PodDisruptionBudget"]
    budgets = [one for one in render("production") if one["kind"] == "PodDisruptionBudget"]
    assert {one["metadata"]["name"] for one in budgets} == {"parley-gateway", "parley-speech"}


def test_a_changed_setting_rolls_its_pods_and_no_others() -> None:
    def checksums(values: Object) -> dict[str, Any]:
        return {
            one["metadata"]["name"]: one["spec"]["template"]["metadata"].get("annotations")
            for one in render("cpu", values)
            if one["kind"] == "Deployment"
        }

    before = checksums({})
    changed = checksums({"gateway": {"config": {"session": {"max_sessions": 7}}}})
    assert {name for name in before if before[name] != changed[name]} == {"parley-gateway"}
    changed = checksums({"speech": {"config": {"models": {"ttl_s": 7}}}})
    assert {name for name in before if before[name] != changed[name]} == {"parley-speech"}
    changed = checksums({"speech": {"voicePacks": {"morgan": "name: morgan"}}})
    again = checksums({"speech": {"voicePacks": {"morgan": "name: morgana"}}})
    assert changed == again, "voice packs are read live"


def test_further_settings_win_also_when_they_are_false_or_nought() -> None:
    config = {"asr": {"language": "de-DE"}, "vad": {"threshold": 0.0}, "barge_in": {"enabled": False}}
    settings = _config_maps(render("cpu", {"gateway": {"config": config}}))["parley-gateway"]
    assert settings["asr"]["language"] == "de-DE"
    assert settings["asr"]["uri"].startswith("dns:///parley-speech-headless.")
    assert settings["barge_in"] == {"enabled": False}
    assert settings["vad"] == {"threshold": 0}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"gatway": {}}, "gatway"),
        ({"gateway": {"replcas": 2}}, "replcas"),
        ({"gateway": {"replicas": "two"}}, "replicas"),
        ({"gateway": {"config": {"asrr": {}}}}, "asrr"),
        ({"gateway": {"config": {"llm": {"api_key": "sk-planted"}}}}, "api_key"),
        ({"gateway": {"config": {"listen": {"grpc": "0.0.0.0:1"}}}}, "listen"),
        ({"gateway": {"terminationGracePeriodSeconds": 10}}, "drainSeconds"),
        ({"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}}}, "maxReplicas"),
        ({"speech": {"topology": "mesh"}}, "topology"),
        ({"speech": {"terminationGracePeriodSeconds": 70}}, "exitSeconds"),
        ({"speech": {"triton": {"shm": {"size": "2Gi"}}}}, "/dev/shm"),
        ({"speech": {"triton": {"gpu": {"mig": "big"}}}}, "mig"),
        ({"speech": {"triton": {"image": {"tag": "latest"}}}}, "tag"),
        ({"speech": {"modelRepository": {"kind": "objectStore"}}}, "source"),
        ({"speech": {"topology": "sidecar", "autoscaling": {"enabled": True}}}, "sidecar"),
        ({"image": {"digest": "sha256:123"}}, "digest"),
        ({"llm": {"mode": "external"}}, "baseUrl"),
        ({"llm": {"mode": "external", "external": {"baseUrl": "https://x.example.com/v1"}}}, "llm.model"),
        ({"llm": {"mode": "external", "model": "m", "external": {"baseUrl": "https://u:pw@x/v1"}}}, "baseUrl"),
        ({"riva": {"mode": "external"}}, "asrUri"),
        ({"redis": {"url": "redis://:planted@redis:6379/0"}}, "url"),
        ({"redis": {"url": "redis://redis:6379/0", "existingSecret": "x"}}, "exclude"),
        ({"redis": {"url": "redis://redis:6380/0"}}, "redis.port"),
        ({"nameOverride": "my.voice"}, "nameOverride"),
        ({"tls": {"enabled": True}}, "tls.existingSecret"),
        ({"tls": {"certManager": {"enabled": True}}}, "issuerRef"),
        ({"tls": {"enabled": True, "existingSecret": "a", "admin": True, "clientAuth": "required"}}, "kubelet"),
        ({"tls": {"existingSecret": "a", "enabled": True, "certManager": {"enabled": True, "issuerRef": {"name": "i"}}}}, "exclude"),
        ({"auth": {"existingSecret": "a"}}, "existingHashesSecret"),
        ({"auth": {"trustedProxies": ["proxy"]}}, "trustedProxies"),
        ({"ingress": {"http": {"enabled": True}}}, "host"),
        ({"gatewayApi": {"grpc": {"enabled": True}}}, "parentRefs"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_their_name(values: Object, told: str) -> None:
    with pytest.raises(Refused) as refused:
        render("cpu", values)
    assert told in str(refused.value), str(refused.value)
    assert "planted" not in str(refused.value)


def test_a_gateway_that_drains_is_scraped_to_its_end() -> None:
    """The Prometheus operator looks at Endpoints, where a pod that terminates is only with this."""
    objects = render("production")
    services = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "Service"}
    assert {name for name, spec in services.items() if spec.get("publishNotReadyAddresses")} == {
        "parley-gateway-admin"
    }
