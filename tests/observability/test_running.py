"""A running stack as an operator sees it: real processes, emulated parts, a collector, and Prometheus itself.

Two gateway processes speak through our own speech process to an emulated Triton. Prometheus scrapes both,
works out the rules, and tells an Alertmanager, which is this test.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from aiohttp import web

from gateway.session import events as ev
from load.emulators import emulators, read_profile
from tests.observability.rules import ALERTS, ROOT, table, tool
from tests.observability.test_dashboard import expressions
from tests.support.caller import Caller
from tests.support.collector import Collector, collecting

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Alertmanager:
    """Keeps which alerts fire; `until` waits for one."""

    port: int = 0
    firing: dict[str, dict[str, Any]] = field(default_factory=dict)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, request: web.Request) -> web.Response:
        async with self.news:
            for alert in await request.json():
                self.firing[alert["labels"]["alertname"]] = alert
            self.news.notify_all()
        return web.Response()

    async def until(self, name: str, within_s: float = 40.0) -> dict[str, Any]:
        async with asyncio.timeout(within_s), self.news:
            await self.news.wait_for(lambda: name in self.firing)
        return self.firing[name]


@dataclass
class Stack:
    grpc: str
    admin: str
    speech_http: str
    control: str
    collector: Collector
    logs: Path
    prometheus: str
    alertmanager: Alertmanager

    def log(self, name: str) -> list[dict[str, Any]]:
        lines = (self.logs / f"{name}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    async def ask(self, path: str, **query: str) -> Any:
        """Prometheus' API."""
        return await asyncio.to_thread(_get, f"{self.prometheus}/api/v1/{path}", query)


def _get(url: str, query: dict[str, str]) -> Any:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
        return json.load(answer)["data"]


@asynccontextmanager
async def process(*command: str, logs: Path, ready: str, **environment: str) -> AsyncIterator[dict[str, str]]:
    """A process of ours; its endpoints."""
    with logs.open("wb") as log:
        one = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", "serve", *command, "--log-json",
            stdout=asyncio.subprocess.PIPE, stderr=log, env=os.environ | environment,
        )  # fmt: skip
    try:
        assert one.stdout is not None
        async with asyncio.timeout(40):
            line = (await one.stdout.readline()).decode()
        assert ready in line, f"{line}{await asyncio.to_thread(logs.read_text)}"
        yield dict(re.findall(r"(\w+) (\S+:\d+)", line.partition("is ready:")[2]))
    finally:
        if one.returncode is None:
            one.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await one.wait()


def impatient_rules(path: Path) -> None:
    """As they are, but for their patience: seconds for minutes."""
    rules = yaml.safe_load(ALERTS.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\[\d+m\]", "[12s]", rule["expr"])
            rule["for"] = "0s"
    path.write_text(yaml.safe_dump(rules))


@asynccontextmanager
async def prometheus(folder: Path, targets: dict[str, str], alerting: int) -> AsyncIterator[str]:
    """Its address; it scrapes each second."""
    impatient_rules(folder / "rules.yaml")
    scrapes = [
        {
            "job_name": pod,
            "static_configs": [{"targets": [target], "labels": {"namespace": "voice", "pod": pod}}],
        }
        for pod, target in targets.items()
    ]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": scrapes,
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alerting}"]}]}]},
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    one = await asyncio.create_subprocess_exec(
        tool("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--web.listen-address=127.0.0.1:0",
        "--enable-feature=exemplar-storage",
        "--log.level=info",
        stderr=asyncio.subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert one.stderr is not None
    try:
        address = ""
        async with asyncio.timeout(20):
            async for raw in one.stderr:
                line = raw.decode()
                if found := re.search(r"address=(127\.0\.0\.1:\d+)", line):
                    address = found[1]
                if "Server is ready" in line:
                    break
        assert address
        rest = asyncio.create_task(one.stderr.read())
        yield f"http://{address}"
        one.terminate()
        await rest
    finally:
        if one.returncode is None:
            one.kill()
        await one.wait()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    tool("prometheus")
    folder = tmp_path_factory.mktemp("observability")
    async with AsyncExitStack() as open_:
        collector = open_.enter_context(collecting())
        parts = await open_.enter_async_context(emulators(read_profile("zero")))
        shared = {"PARLEY_TELEMETRY__OTLP": collector.url, "PARLEY_SESSION__DRAIN_S": "1"}
        speech = await open_.enter_async_context(
            process(
                "speech",
                logs=folder / "speech.log",
                ready="riva",
                PARLEY_TRITON__URI=parts.triton,
                PARLEY_TRITON__REPOSITORIES="[]",
                PARLEY_LISTEN__RIVA="127.0.0.1:0",
                PARLEY_LISTEN__SPEECH_HTTP="127.0.0.1:0",
                **shared,
            )
        )
        gateway = await open_.enter_async_context(
            process(
                "gateway", "--workers", "2",
                logs=folder / "gateway.log",
                ready="grpc",
                PARLEY_ASR__URI=parts.asr,
                PARLEY_LLM__BASE_URL=parts.llm,
                PARLEY_LLM__RETRIES="0",
                PARLEY_TTS__KIND="riva",
                PARLEY_TTS__URI=speech["riva"],
                PARLEY_LISTEN__GRPC="127.0.0.1:0",
                PARLEY_LISTEN__HTTP="127.0.0.1:0",
                PARLEY_LISTEN__ADMIN="127.0.0.1:0",
                PARLEY_TELEMETRY__SLOW_TURN_MS="1",
                **shared,
            )
        )  # fmt: skip
        alertmanager = Alertmanager()
        app = web.Application()
        app.router.add_post("/api/v2/alerts", alertmanager.take)
        runner = web.AppRunner(app)
        await runner.setup()
        open_.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        alertmanager.port = runner.addresses[0][1]
        admin, speech_http = (
            urllib.parse.urlsplit(url).netloc or url for url in (gateway["admin"], speech["speech_http"])
        )
        address = await open_.enter_async_context(
            prometheus(folder, {"gateway-0": admin, "speech-0": speech_http}, alertmanager.port)
        )
        yield Stack(
            gateway["grpc"], admin, speech_http, parts.control, collector, folder, address, alertmanager
        )


async def talk(stack: Stack, session_id: str, turns: int = 1) -> list[ev.ReplyDone]:
    async with Caller(stack.grpc, session_id=session_id) as caller:
        for _ in range(turns):
            at = caller.mark()
            await caller.client.send(ev.TextIn("how are you today"))
            await caller.until(ev.ReplyDone, at)
        await caller.client.hang_up()
    return [arrival.event for arrival in caller.arrivals if isinstance(arrival.event, ev.ReplyDone)]


async def wait_for(stack: Stack, until: Callable[[list[Any]], bool]) -> list[Any]:
    return await asyncio.to_thread(stack.collector.wait, until, 15.0)


async def test_a_turn_is_one_trace_through_both_processes_and_one_name_in_both_logs(stack: Stack) -> None:
    (done,) = await talk(stack, "call-1")
    assert done.outcome is ev.Outcome.COMPLETED
    spans = await wait_for(
        stack,
        lambda found: (
            {"turn", "session"} <= {span.name for span in found}
            and any(span.service == "parley-speech" and span.name == "triton" for span in found)
        ),
    )
    turn = next(s for s in spans if s.name == "turn" and s.about["parley.session_id"] == "call-1")
    mine = [span for span in spans if span.trace == turn.trace]
    assert {span.service for span in mine} == {"parley-gateway", "parley-speech"}
    by_id = {span.id: span for span in mine}
    triton = next(span for span in mine if span.name == "triton")
    rpc = by_id[triton.parent]
    assert rpc.name == "nvidia.riva.tts.RivaSpeechSynthesis/SynthesizeOnline"
    assert rpc.service == "parley-speech"
    assert rpc.about["parley.turn_id"] == turn.about["parley.turn_id"]
    asked = by_id[rpc.parent]
    assert (asked.name, asked.service, asked.parent) == ("tts", "parley-gateway", turn.id)
    assert asked.wire.start_time_unix_nano <= rpc.wire.start_time_unix_nano
    slow = next(line for line in stack.log("gateway") if line["message"].startswith("slow turn"))
    assert (slow["session"], slow["turn"]) == ("call-1", turn.about["parley.turn_id"])
    assert slow["trace"] == turn.trace
    assert slow["worker"] in {"0", "1"}


async def test_one_call_is_read_from_the_log_as_the_guide_says(stack: Stack) -> None:
    await talk(stack, "call-1")
    guide = (ROOT / "docs" / "guides" / "observability.md").read_text()
    (command,) = re.findall(r"^parley serve gateway --log-json 2>&1 \| (jq .*)$", guide, re.M)
    both = "parley gateway is ready: grpc 127.0.0.1:1\n" + (stack.logs / "gateway.log").read_text()
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", command], input=both, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    read = [json.loads(one) for one in re.findall(r"^\{$[\s\S]*?^\}$", done.stdout, re.M)]
    assert read
    assert {line["session"] for line in read} == {"call-1"}


async def test_prometheus_scrapes_both_with_exemplars_and_works_out_every_panel(stack: Stack) -> None:
    await talk(stack, "call-2", turns=3)
    async with asyncio.timeout(20):
        while True:  # it scrapes when it likes
            found = await stack.ask(
                "query_exemplars",
                query="parley_final_to_first_audio_seconds_bucket",
                start="0",
                end="9999999999",
            )
            if found:
                break
            await asyncio.sleep(0.5)
    shown = {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}
    assert shown
    await wait_for(stack, lambda spans: shown <= {span.trace for span in spans if span.name == "turn"})
    up = await stack.ask("query", query="up")
    assert {sample["metric"]["pod"]: sample["value"][1] for sample in up["result"]} == {
        "gateway-0": "1",
        "speech-0": "1",
    }
    for expression in expressions():
        await stack.ask("query", query=expression)  # an error is an HTTP error
    there = await stack.ask("query", query='count by (__name__, pod) ({__name__=~"parley_.*|process_.*"})')
    by_pod: dict[str, set[str]] = {}
    for sample in there["result"]:
        by_pod.setdefault(sample["metric"]["pod"], set()).add(sample["metric"]["__name__"])
    known = set(table())
    for pod, names in by_pod.items():
        extra = {name for name in names - known if not name.endswith("_created")}
        assert not extra, f"{pod} tells of what no table has: {extra}"
    for both in ("parley_build_info", "parley_loop_lag_seconds_count", "process_cpu_seconds_total"):
        assert all(both in names for names in by_pod.values())
    assert "parley_workers" in by_pod["gateway-0"]
    assert "parley_speech_streams_capacity" in by_pod["speech-0"]


async def test_a_part_that_fails_raises_its_alerts(stack: Stack) -> None:
    order = json.dumps({"part": "llm", "kind": "refuse", "for_s": 25}).encode()
    request = urllib.request.Request(
        f"{stack.control}/fault", order, {"content-type": "application/json"}, method="POST"
    )
    await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=5).close())

    async def keep_failing() -> None:
        while True:
            await talk(stack, "", turns=8)

    failing = asyncio.create_task(keep_failing())
    try:
        breaker = await stack.alertmanager.until("ParleyBreakerOpen")
        part = await stack.alertmanager.until("ParleyPartFailing")
        await stack.alertmanager.until("ParleyTurnsFailing")
    finally:
        failing.cancel()
        await asyncio.wait([failing])
    assert breaker["labels"]["part"] == part["labels"]["part"] == "llm"
    assert breaker["labels"]["namespace"] == "voice"
    assert breaker["annotations"]["summary"] == "The llm is left alone in voice"
    assert re.fullmatch(r"[\d.]+k? failures of the llm in five minutes\.", part["annotations"]["description"])
    failed = [line for line in stack.log("gateway") if line["message"].startswith("llm failed")]
    assert failed
    assert all(line["session"] and len(line["turn"]) == 32 for line in failed)


async def test_what_nobody_has_induced_does_not_fire(stack: Stack) -> None:
    calm = {
        "ParleyGatewayDown",
        "ParleySpeechDown",
        "ParleyDrainStuck",
        "ParleyTracesLost",
        "ParleyFilesRunOut",
    }
    assert not calm & stack.alertmanager.firing.keys()
