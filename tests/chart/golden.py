"""What each profile makes, in short, to be read in a review: `python -m tests.chart.golden` writes it anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.chart import PROFILES, Object, containers, render

GOLDEN = Path(__file__).with_name("golden")


def summary(objects: list[Object]) -> str:
    """Of each object its kind and name, of pods what runs in them with what, of the rest what they let through."""
    lines: list[str] = []
    for one in sorted(objects, key=lambda one: (one["kind"], one["metadata"]["name"])):
        hook = one["metadata"].get("annotations", {}).get("helm.sh/hook")
        lines.append(f"{one['kind']} {one['metadata']['name']}" + (f"  (hook {hook})" if hook else ""))
        lines += [f"  {line}" for line in _told(one)]
    return "\n".join(lines) + "\n"


def _told(one: Object) -> list[str]:
    spec = one.get("spec", {})
    match one["kind"]:
        case "Deployment" | "StatefulSet" | "Job":
            replicas = [f"replicas {spec['replicas']}"] if "replicas" in spec else []
            return replicas + _pod(spec["template"]["spec"])
        case "Pod":
            return _pod(spec)
        case "Service":
            ports = ", ".join(f"{port['name']} {port['port']}" for port in spec["ports"])
            return [f"{spec.get('type', 'headless')}: {ports}"]
        case "ConfigMap":
            settings = one["data"].get("config.yaml", "") if "rules" not in one["metadata"]["name"] else ""
            return ["keys " + ", ".join(one["data"]), *settings.splitlines()]
        case "ServiceAccount":
            return []
        case "Role":
            return [_flat(rule) for rule in one["rules"]]
        case "NetworkPolicy":
            return [
                f"{way} {_flat(rule)}"
                for way in ("ingress", "egress")
                for rule in spec.get(way, ()) or ["none"]
            ]
        case "PrometheusRule":
            return [f"group {group['name']}" for group in spec["groups"]]
    return [f"{key} {_flat(value)}" for key, value in spec.items()]


def _pod(spec: Object) -> list[str]:
    lines = []
    for container in containers(spec):
        lines.append(f"{container['name']}: {container['image']}")
        lines.append(f"  runs {_flat([*container.get('command', ()), *container.get('args', ())])}")
        lines.append(f"  resources {_flat(container.get('resources'))}")
        lines += [
            f"  {one['name']} = {_flat(one.get('value', one.get('valueFrom')))}"
            for one in container.get("env", ())
        ]
        lines += [f"  {one['mountPath']} is {one['name']}" for one in container.get("volumeMounts", ())]
        stop = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        if stop:
            lines.append(f"  before its end {_flat(stop)}")
    lines += [f"volume {_flat(volume)}" for volume in spec.get("volumes", ())]
    if "terminationGracePeriodSeconds" in spec:
        lines.append(f"grace {spec['terminationGracePeriodSeconds']} s")
    return lines


def _flat(value: Any) -> str:
    """On one line, without quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flat(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flat(one) for one in value) + "]"
    return str(value)


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for profile in PROFILES:
        (GOLDEN / f"{profile}.txt").write_text(summary(render(profile)))


if __name__ == "__main__":
    main()
