"""The chart, run: installed by helm on a real API server, its containers processes of this machine.

Config, Secrets, Services, probes, hooks and graces are those of the chart's own profile for CPUs; nothing is set
beside it but how long graces are. tests/support/kubelet says how far its node goes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import pytest

from gateway.cli.client import CallFailed, VoiceClient
from gateway.cli.steady import SteadyClient
from gateway.cli.wav import read_speech
from gateway.session import events as ev
from tests.support.caller import Caller
from tests.support.cluster import CHECKOUT, Cluster
from tests.support.kube_api import Object
from tests.support.kubelet import Kubelet, joined
from tests.support.stack import skip_without_triton

pytestmark = [pytest.mark.cluster, pytest.mark.stack, pytest.mark.timeout(150)]

CHART = CHECKOUT / "helm" / "parley"
SPEECH = CHECKOUT.parent / "shared" / "audio" / "goforward.wav"
_GRACES = {
    "gateway.drainSeconds": 12,
    "gateway.terminationGracePeriodSeconds": 20,
    "speech.drainSeconds": 12,
    "speech.terminationGracePeriodSeconds": 40,
}


@dataclass
class Release:
    """An installed chart."""

    cluster: Cluster
    kubelet: Kubelet
    namespace: str
    address: str = ""
    """Of the gateway's Service, forwarded to this machine."""

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def helm(self, verb: str, *more: str) -> str:
        settings = [word for key, value in _GRACES.items() for word in ("--set", f"{key}={value}")]
        profile = [str(CHART), "-f", str(CHART / "values-cpu.yaml"), *settings]
        chart = profile if verb in ("install", "upgrade") else []
        return self.cluster.helm(verb, "parley", *chart, "-n", self.namespace, *more)

    def secret(self, key: str) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/secrets/parley-api-keys"
        return base64.b64decode(self.cluster.run(self.cluster.api.get(path))["data"][key]).decode()

    def pods(self, component: str) -> list[Object]:
        """Those that do not end."""
        label = f"app.kubernetes.io/component={component}"
        found = self.cluster.run(self.cluster.api.list(self.path, labelSelector=label))
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def talk(self, *words: str, key: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PARLEY_API_KEY": key, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, "-m", "gateway.cli", "talk", "--server", self.address, *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd="/")

    def caller(self) -> Caller:
        return Caller(self.address, api_key=self.secret("api-key"))

    def steady(self) -> SteadyClient:
        """As `parley talk` is."""
        key = self.secret("api-key")

        def make(hello: ev.Hello, connect_s: float) -> VoiceClient:
            return VoiceClient(self.address, hello, connect_s=connect_s, api_key=key, keep_audio=False)

        return SteadyClient(make, ev.Hello(), give_up_s=60.0)

    def why(self) -> str:
        """For a failed install: what happened, and the ends of all logs."""
        logs = "\n".join(f"=== {name}\n{text[-1_500:]}" for name, text in self.kubelet.logs().items())
        return "\n".join([*self.kubelet.told, logs])


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    skip_without_triton()
    with cluster.namespace() as namespace, joined(cluster) as kubelet:
        release = Release(cluster, kubelet, namespace)
        try:
            release.helm("install", "--wait", "--timeout", "80s")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{release.why()}") from None
        release.address = cluster.run(kubelet.forward(namespace, "parley-gateway", 50050))
        yield release


def test_every_pod_is_ready_and_nothing_was_started_twice(release: Release) -> None:
    for component in ("gateway", "speech", "llm"):
        (pod,) = release.pods(component)
        for status in pod["status"]["containerStatuses"]:
            assert (status["ready"], status["restartCount"]) == (True, 0), release.why()
    assert not [line for line in release.kubelet.told if "fails its" in line or "cannot" in line]


def test_helm_test_holds_a_conversation(release: Release) -> None:
    release.helm("test", "--timeout", "40s")
    events = _events(release.kubelet.log(release.namespace, "parley-test", "conversation"))
    (done,) = [event for event in events if event["type"] == "reply_done"]
    assert done["outcome"] == "completed"
    heard_ms = 20 * sum(event["type"] == "reply_audio" for event in events)
    assert heard_ms >= 1_000, "a whole sentence was heard"
    assert heard_ms >= done["heard_ms"] - 40


def test_callers_outside_need_the_key_that_the_job_made(release: Release) -> None:
    talked = release.talk("--text", "What time is it?", "--json", key=release.secret("api-key"))
    assert talked.returncode == 0, talked.stderr
    refused = release.talk("--text", "What time is it?", key="pk-somebody-elses")
    assert refused.returncode != 0
    assert "api-key" in refused.stderr.lower() or "key" in refused.stderr, refused.stderr


@pytest.mark.skipif(not SPEECH.exists(), reason="no recorded speech beside the checkout")
def test_speech_is_recognised_and_answered(release: Release, tmp_path: Path) -> None:
    out = tmp_path / "answer.wav"
    talked = release.talk(
        "--wav", str(SPEECH), "--out", str(out), "--json", key=release.secret("api-key")
    )  # fmt: skip
    assert talked.returncode == 0, talked.stderr
    finals = [e["text"] for e in _events(talked.stdout) if e["type"] == "transcript" and e.get("final")]
    assert "forward" in " ".join(finals), finals
    assert out.stat().st_size > 24_000, "half a second of answer at least"


def test_an_upgrade_keeps_the_keys_and_rolls_what_its_settings_concern(release: Release) -> None:
    before = {key: release.secret(key) for key in ("api-key", "internal-key", "sealing-key")}
    names = {part: _names(release.pods(part)) for part in ("gateway", "speech", "llm")}
    release.helm("upgrade", "--set", "gateway.config.session.idle_s=222", "--wait", "--timeout", "60s")
    assert {key: release.secret(key) for key in before} == before
    after = {part: _names(release.pods(part)) for part in names}
    assert after["gateway"] != names["gateway"], "another ConfigMap is another pod"
    assert (after["speech"], after["llm"]) == (names["speech"], names["llm"])
    (gateway,) = release.kubelet.pods(release.namespace, after["gateway"].pop())
    config = release.cluster.run(
        release.kubelet.run(release.namespace, gateway.name, "gateway", "cat", "/etc/parley/config.yaml")
    )
    assert "idle_s: 222" in config[1]


async def test_a_gateway_that_goes_lets_its_reply_end_and_takes_no_new_calls(release: Release) -> None:
    run, api = release.cluster.run, release.cluster.api
    (gateway,) = await asyncio.to_thread(release.pods, "gateway")
    name, told = gateway["metadata"]["name"], len(release.kubelet.told)
    stays, asked = release.steady(), asyncio.Event()
    back = asyncio.create_task(_ask_and_stay(stays, asked))
    async with release.caller() as caller:
        await asyncio.wait_for(asked.wait(), 20)
        mark = await caller.say(
            "One. Two. Three. Four. Five. Six. This is a reply of some length, said to its end."
        )
        await caller.heard(mark, 200, within_s=15)
        await asyncio.to_thread(run, api.delete(f"{release.path}/{name}"))
        done = await caller.done(mark, within_s=15)
        assert done.outcome == "completed", "a reply that ends within the grace is heard"
        closed = await caller.until(ev.Closed, mark, within_s=15)
        assert (closed.reason, closed.retryable) == ("shutdown", True)
        await caller.until_over()

    def ready(pods: dict[str, Object]) -> bool:
        return name not in pods and len(pods) == 1 and all(map(_is_ready, pods.values()))

    label = "app.kubernetes.io/component=gateway"
    await asyncio.to_thread(run, api.until(release.path, ready, within_s=60, labelSelector=label))
    said = "\n".join(release.kubelet.told[told:])
    assert f"{name}: gateway is killed" not in said, "SIGTERM after the drain ends it at once"
    assert f"{name}: gateway ended with 0" in said
    assert "preStop of gateway" not in said, said
    await asyncio.to_thread(run, release.kubelet.services.until(lambda: _leads_on(release), within_s=20))
    async with release.caller() as caller:
        answer = await caller.ask("What time is it?", within_s=20)
        assert answer.done.outcome == "completed"
    again = await asyncio.wait_for(back, 20)
    assert again.resumed, "the chart's sealing key is that of all its gateways"


async def test_a_call_outlives_a_rolling_update_of_speech(release: Release) -> None:
    (before,) = await asyncio.to_thread(release.pods, "speech")
    async with release.caller() as caller:
        assert (await caller.ask("What time is it?", within_s=20)).done.outcome == "completed"
        rolling = asyncio.create_task(asyncio.to_thread(_roll_speech, release))
        speaking = asyncio.create_task(_speak_until(release, rolling))
        replies = []
        while not rolling.done():
            replies.append(await caller.ask("What time is it?", within_s=20))
        await rolling
        understood = await speaking
        assert all("forward" in words for words in understood), f"{understood}\n{release.why()}"
        assert len(understood) >= 2 or not SPEECH.exists()
        replies.append(await caller.ask("What time is it?", within_s=20))
        wrong = [(reply.done, reply.errors) for reply in replies if reply.done.outcome != "completed"]
        assert not wrong, f"{wrong}\n{release.why()}"
        assert len(replies) >= 3
    name = before["metadata"]["name"]
    assert name not in _names(await asyncio.to_thread(release.pods, "speech"))
    assert not [line for line in release.kubelet.told if name in line and "is killed" in line]


async def test_metrics_and_admin_are_not_on_the_public_port(release: Release) -> None:
    forward = release.kubelet.forward
    public = await asyncio.to_thread(release.cluster.run, forward(release.namespace, "parley-gateway", 8080))
    admin = await asyncio.to_thread(
        release.cluster.run, forward(release.namespace, "parley-gateway-admin", 8081)
    )
    scrape, call = release.secret("metrics-key"), release.secret("api-key")
    for path in ("/metrics", "/v1/sessions", "/drain"):
        assert (await _get(f"http://{public}{path}", call))[0] == 404, path
    assert (await _get(f"http://{public}/v1/models", ""))[0] == 401
    status, models = await _get(f"http://{public}/v1/models", call)
    assert (status, "tts_flite" in models) == (200, True), models
    assert (await _get(f"http://{admin}/readyz", ""))[0] == 200, "a kubelet has no key"
    assert [(await _get(f"http://{admin}/metrics", key))[0] for key in ("", call, scrape)] == [401, 403, 200]


async def test_a_key_that_is_revoked_in_its_secret_is_refused_without_a_restart(
    release: Release, tmp_path: Path
) -> None:
    key, before = release.secret("api-key"), _names(await asyncio.to_thread(release.pods, "gateway"))
    path = f"/api/v1/namespaces/{release.namespace}/secrets/parley-key-hashes"
    kept = release.cluster.run(release.cluster.api.get(path))["data"]["keys.yaml"]
    file = tmp_path / "keys.yaml"
    file.write_bytes(base64.b64decode(kept))
    await asyncio.to_thread(_revoke, file, "api")
    async with release.caller() as caller:
        await asyncio.to_thread(_put_keys, release, path, base64.b64encode(file.read_bytes()).decode())
        refused = await caller.until_over(within_s=15)
        assert refused is not None or caller.since(ev.Closed), "an open call of a revoked key is ended"
    with pytest.raises(CallFailed) as told:
        async with Caller(release.address, api_key=key):
            pass
    assert told.value.status is grpc.StatusCode.UNAUTHENTICATED
    await asyncio.to_thread(_put_keys, release, path, kept)
    await asyncio.to_thread(_until_taken, release, key)
    assert _names(await asyncio.to_thread(release.pods, "gateway")) == before


def test_no_log_and_no_object_in_the_clear_holds_a_key(release: Release) -> None:
    keys = [
        release.secret(key) for key in ("api-key", "admin-key", "metrics-key", "internal-key", "sealing-key")
    ]
    assert all(len(key) >= 32 for key in keys)
    for name, text in release.kubelet.logs().items():
        assert not [key for key in keys if key in text], f"the log of {name} holds a key"
    everything = release.cluster.kubectl(
        "get", "configmaps,deployments,pods,jobs,services,events", "-n", release.namespace, "-o", "json"
    )
    assert not [key for key in keys if key in everything]


def test_uninstall_leaves_the_keys_alone(release: Release) -> None:
    release.helm("uninstall", "--wait", "--timeout", "60s")
    path = f"/api/v1/namespaces/{release.namespace}/secrets"
    left = {one["metadata"]["name"] for one in release.cluster.run(release.cluster.api.list(path))}
    assert left == {"parley-api-keys", "parley-key-hashes"}


def _revoke(file: Path, name: str) -> None:
    command = [sys.executable, "-m", "gateway.cli", "keys", "revoke", name, "--file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, timeout=30)
    assert done.returncode == 0, done.stderr


def _until_taken(release: Release, key: str) -> None:
    """A file that is read live tells nobody when it was."""
    limit = time.monotonic() + 15
    while release.talk("--text", "Hello", key=key).returncode:
        assert time.monotonic() < limit, "a key that is back in its file is taken again"
        time.sleep(0.3)


def _put_keys(release: Release, path: str, data: str) -> None:
    """Into the Secret, and from it into the pods, as kubelets do about every minute."""
    release.cluster.run(release.cluster.api.patch(path, {"data": {"keys.yaml": data}}))
    for pod in release.kubelet.pods(release.namespace):
        release.cluster.run(pod.volumes.refresh())


async def _get(url: str, key: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(url) as answer:
        return answer.status, await answer.text()


def _roll_speech(release: Release) -> None:
    release.cluster.kubectl("rollout", "restart", "deployment/parley-speech", "-n", release.namespace)
    release.cluster.run(release.cluster.api.until(release.path, _one_speech, within_s=90, labelSelector="app.kubernetes.io/component=speech"), within_s=100)  # fmt: skip


async def _ask_and_stay(client: SteadyClient, asked: asyncio.Event) -> ev.Ready:
    """Sets `asked` when the answer was heard; returns when it is connected again."""
    async with client:
        await client.send(ev.TextIn("My name is Ada"))
        async for arrival in client:
            if isinstance(arrival.event, ev.ReplyDone):
                asked.set()
            elif isinstance(arrival.event, ev.Ready):
                await client.hang_up()
                return arrival.event
    raise AssertionError("the call ended")


async def _speak_until(release: Release, rolling: asyncio.Task[None]) -> list[str]:
    """One call, in which the same is said again and again; what was understood, each time that a whole reply came."""
    understood: list[str] = []
    if not SPEECH.exists():
        return understood
    said = read_speech(SPEECH, 16_000).astype("<i2").tobytes() + bytes(16_000 * 2 * 3 // 2)
    async with release.caller() as caller:
        last = False
        while not last:
            last = rolling.done()  # and once more with the new one alone
            mark = caller.mark()
            await caller.speak(said)
            done = await caller.done(mark, within_s=20)
            assert done.outcome == "completed", (done, caller.since(ev.Error, mark), release.why())
            finals = [heard.text for heard in caller.since(ev.Transcript, mark) if heard.final]
            understood.append(" ".join(finals))
    return understood


def _one_speech(pods: dict[str, Object]) -> bool:
    """The new one alone: the old one is gone."""
    annotated = [
        "kubectl.kubernetes.io/restartedAt" in pod["metadata"].get("annotations", {}) for pod in pods.values()
    ]
    return annotated == [True] and all(map(_is_ready, pods.values()))


def _leads_on(release: Release) -> bool:
    return len(release.kubelet.services.endpoints(f"{release.namespace}/parley-gateway").hosts) == 1


def _events(text: str) -> list[Object]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def _names(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
