"""The chart with gateway, front and Triton in one pod, run: talked to, and ended while somebody speaks."""

from __future__ import annotations

import asyncio
import base64
import wave
from collections.abc import Iterator

import pytest

from gateway.session import events as ev
from tests.support.caller import Caller
from tests.support.cluster import CHECKOUT, Cluster
from tests.support.kube_api import Object
from tests.support.kubelet import Kubelet, joined
from tests.support.stack import skip_without_triton

pytestmark = [pytest.mark.cluster, pytest.mark.stack, pytest.mark.timeout(170)]

CHART = CHECKOUT / "helm" / "parley"
SPEECH = CHECKOUT.parent / "shared" / "audio" / "goforward.wav"
_SET = {
    "speech.topology": "sidecar",
    "gateway.drainSeconds": 20,
    "gateway.terminationGracePeriodSeconds": 30,
    "speech.drainSeconds": 20,
    "speech.terminationGracePeriodSeconds": 50,
}


@pytest.fixture
def installed(cluster: Cluster) -> Iterator[tuple[str, Kubelet]]:
    skip_without_triton()
    settings = [word for key, value in _SET.items() for word in ("--set", f"{key}={value}")]
    profile = [str(CHART), "-f", str(CHART / "values-cpu.yaml"), *settings]
    with cluster.namespace() as namespace, joined(cluster) as kubelet:
        try:
            cluster.helm("install", "parley", *profile, "-n", namespace, "--wait", "--timeout", "100s")
        except AssertionError as error:
            logs = "\n".join(f"=== {name}\n{text[-1_500:]}" for name, text in kubelet.logs().items())
            raise AssertionError("\n".join([str(error), *kubelet.told, logs])) from None
        yield namespace, kubelet


@pytest.mark.skipif(not SPEECH.exists(), reason="no recorded speech beside the checkout")
async def test_whoever_speaks_while_the_pod_ends_is_heard_out_and_answered(
    cluster: Cluster, installed: tuple[str, Kubelet]
) -> None:
    namespace, kubelet = installed
    run, api, pods = cluster.run, cluster.api, f"/api/v1/namespaces/{namespace}/pods"
    await asyncio.to_thread(cluster.helm, "test", "parley", "-n", namespace, "--timeout", "40s")
    label = "app.kubernetes.io/component=gateway"
    (pod,) = await asyncio.to_thread(run, api.list(pods, labelSelector=label))
    assert [one["name"] for one in pod["spec"]["containers"]] == ["gateway", "speech", "triton"]
    secret = await asyncio.to_thread(run, api.get(f"/api/v1/namespaces/{namespace}/secrets/parley-api-keys"))
    address = await asyncio.to_thread(run, kubelet.forward(namespace, "parley-gateway", 50050))
    told = len(kubelet.told)
    async with Caller(address, api_key=base64.b64decode(secret["data"]["api-key"]).decode()) as caller:
        mark = await caller.say("One. Two. Three. Four. Five. Six. This is a reply of some length.")
        await caller.heard(mark, 200, within_s=15)
        await asyncio.to_thread(run, api.delete(f"{pods}/{pod['metadata']['name']}"))
        await asyncio.sleep(1.0)  # the hooks have begun; the reply lasts longer
        interrupted = caller.mark()
        with wave.open(str(SPEECH)) as file:
            await caller.speak(file.readframes(file.getnframes()) + bytes(32_000))
        done = await caller.done(mark, within_s=15)
        assert done.outcome == "interrupted"
        answered = await caller.until(
            ev.ReplyDone, mark, where=lambda one: one.reply_id != done.reply_id, within_s=20
        )
        said = "\n".join(kubelet.told[told:])
        assert answered.outcome == "completed", said
        finals = [one.text for one in caller.since(ev.Transcript, interrupted) if one.final]
        assert "forward" in " ".join(finals), finals
        closed = await caller.until(ev.Closed, mark, within_s=15)
        assert (closed.reason, closed.retryable) == ("shutdown", True)
        await caller.until_over()

    def ended(left: dict[str, Object]) -> bool:
        return pod["metadata"]["name"] not in left

    await asyncio.to_thread(run, api.until(pods, ended, within_s=60, labelSelector=label))
    said = "\n".join(kubelet.told[told:])
    order = [
        said.index(f"{pod['metadata']['name']}: {one} ended with 0")
        for one in ("gateway", "speech", "triton")
    ]
    assert order[0] < min(order[1:]), said
    assert "is killed" not in said, said
    assert "preStop of" not in said, said
