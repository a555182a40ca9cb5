"""One pod: its volumes, init containers, containers, probes, restarts, end, and what the API server is told of them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.support.kube_api import Api, Object
from tests.support.kubelet import container as containers
from tests.support.kubelet.container import Container, Plan
from tests.support.kubelet.environment import environment, expand
from tests.support.kubelet.images import Images
from tests.support.kubelet.network import GATEWAY, Network
from tests.support.kubelet.probes import ask
from tests.support.kubelet.services import SUFFIX, Services
from tests.support.kubelet.volumes import NotYet, Volumes

_RETRY_S = 0.5
_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_LAST_S = 2.0
"""What is left for SIGTERM when a hook took all of the grace; as Kubernetes has it."""
API_SERVER = ("198.18.0.1", 443)


@dataclass
class One:
    """A container of the pod, over all of its restarts."""

    spec: Object
    sidecar: bool = False
    restarts: int = 0
    ready: bool = False
    started: bool = False
    stopping: bool = False
    running: Container | None = None
    state: Object = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last: Object = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    up: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return str(self.spec["name"])


@dataclass
class Host:
    """What a node lends to its pods."""

    api: Api
    network: Network
    services: Services
    images: Images
    folder: Path
    tell: Callable[[str], None]
    """For people: what happens, one line each."""


class Pod:
    def __init__(self, host: Host, pod: Object) -> None:
        self.object = pod
        meta = pod["metadata"]
        self.path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self.name, self.key, self.ip = str(meta["name"]), f"{meta['namespace']}/{meta['name']}", ""
        self._host, self._folder = host, host.folder / "pods" / str(meta["uid"])
        spec = pod["spec"]
        self._policy = spec.get("restartPolicy", "Always")
        self.inits = [
            One(one, one.get("restartPolicy") == "Always") for one in spec.get("initContainers") or ()
        ]
        self.mains = [One(one) for one in spec["containers"]]
        self._began = _now()
        self._initialized = False
        self._reason = ""
        self.ending = False
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._network = Path()
        self.volumes = Volumes(host.api, pod, self._folder / "volumes", host.folder / "claims")

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._report()), asyncio.create_task(self._run())]

    def log(self, name: str) -> str:
        """All that a container wrote in all of its lives."""
        path = self._folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def container(self, name: str) -> One:
        return next(one for one in (*self.inits, *self.mains) if one.name == name)

    async def end(self, grace_s: float) -> None:
        """Hooks, SIGTERM, SIGKILL at the grace; then nothing of the pod is left here."""
        await asyncio.gather(*(self._stop(one, grace_s, "pod ends") for one in self.mains))
        for one in reversed(self.inits):
            await self._stop(one, grace_s, "pod ends")
        await self.kill()

    async def kill(self) -> None:
        for one in (*self.inits, *self.mains):
            one.stopping = True
            if one.running is not None:
                one.running.signal(signal.SIGKILL)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in (*self.inits, *self.mains):
            if one.running is not None:
                await one.running.wait()
        await self._host.network.remove(self.key)

    async def _run(self) -> None:
        self.ip, self._network = await self._host.network.add(self.key)
        self.object.setdefault("status", {})["podIP"] = self.ip
        self.object["status"]["hostIP"] = GATEWAY
        deadline = self.object["spec"].get("activeDeadlineSeconds")
        try:
            async with asyncio.timeout(deadline):
                await self._make_volumes()
                if await self._initialize():
                    await self._all(self.mains)
        except TimeoutError:
            self._reason = "DeadlineExceeded"
            await asyncio.gather(*(self._stop(one, 1.0, "deadline") for one in (*self.inits, *self.mains)))
        self._changed.set()

    async def _make_volumes(self) -> None:
        while True:
            try:
                return await self.volumes.make()
            except NotYet as missing:
                self._say(f"cannot mount: {missing}")
                await asyncio.sleep(_RETRY_S)

    async def _initialize(self) -> bool:
        """Whether the containers may start."""
        for one in self.inits:
            task = asyncio.create_task(self._live(one))
            self._tasks.append(task)
            await (one.up if one.sidecar else one.done).wait()
            if not one.sidecar and one.state.get("terminated", {}).get("exitCode", 1):
                return False
        self._initialized = True
        self._changed.set()
        return True

    async def _all(self, ones: list[One]) -> None:
        tasks = [asyncio.create_task(self._live(one)) for one in ones]
        self._tasks += tasks
        await asyncio.gather(*tasks)

    async def _live(self, one: One) -> None:
        """All lives of one container."""
        policy = "Always" if one.sidecar else self._policy
        if one in self.inits and not one.sidecar and policy == "Always":
            policy = "OnFailure"
        while not one.stopping:
            code = await self._life(one)
            if policy == "Never" or (policy == "OnFailure" and code == 0) or one.stopping:
                break
            one.last = {"terminated": one.state["terminated"]}
            one.state = {"waiting": {"reason": "CrashLoopBackOff"}}
            self._changed.set()
            await asyncio.sleep(_BACKOFF_S[min(one.restarts, len(_BACKOFF_S) - 1)])
            one.restarts += 1
        one.done.set()

    async def _life(self, one: One) -> int:
        began = _now()
        try:
            one.running = await containers.start(await self._plan(one))
        except (NotYet, KeyError) as missing:
            self._say(f"{one.name} cannot start: {missing}")
            await asyncio.sleep(_RETRY_S)
            one.state = {"terminated": _terminated(128, began, "ContainerCannotRun")}
            self._changed.set()
            return 128
        one.state = {"running": {"startedAt": began}}
        self._changed.set()
        probing = asyncio.create_task(self._probe(one, one.running))
        try:
            code = await one.running.wait()
        finally:
            probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        self._say(f"{one.name} ended with {code}")
        one.running, one.ready, one.started = None, False, False
        one.up.clear()
        one.state = {"terminated": _terminated(code, began, "Completed" if code == 0 else "Error")}
        self._changed.set()
        return code

    async def _plan(self, one: One) -> Plan:
        """Raises: NotYet, KeyError."""
        spec, pod_spec = one.spec, self.object["spec"]
        image = self._host.images.find(spec["image"])
        namespace = self.object["metadata"]["namespace"]
        services = self._host.services.of_namespace(namespace)
        variables = await environment(
            self._host.api, self.object, spec, image.environment, services, API_SERVER
        )
        command, arguments = spec.get("command"), spec.get("args")
        argv = list(command or image.entrypoint) + list(arguments or (() if command else image.command))
        security = {**pod_spec.get("securityContext", {}), **spec.get("securityContext", {})}
        user = int(security.get("runAsUser", image.user))
        if user == 0 and security.get("runAsNonRoot"):
            raise NotYet("it has runAsNonRoot, and its image runs as root")
        groups = [*security.get("supplementalGroups", ())]
        groups += [] if self.volumes.group is None else [self.volumes.group]
        return Plan(
            name=f"{self.key}/{one.name}",
            image=image,
            argv=[expand(word, variables) for word in argv],
            environment=variables,
            network=self._network,
            host_name=self.name[:63],
            mounts=self.volumes.mounts(spec),
            etc=self._etc(user),
            user=user,
            group=int(security.get("runAsGroup", user)),
            groups=groups,
            read_only=bool(security.get("readOnlyRootFilesystem")),
            capabilities="ALL" not in security.get("capabilities", {}).get("drop", ()),
            new_privileges=bool(security.get("allowPrivilegeEscalation", True)),
            folder=spec.get("workingDir", image.folder),
            log=self._folder / f"{one.name}.log",
            root=self._folder / "roots" / one.name,
        )

    def _etc(self, user: int) -> Path:
        folder: Path = self._folder / f"etc-{user}"
        folder.mkdir(parents=True, exist_ok=True)
        domain = f"{self.object['metadata']['namespace']}{SUFFIX}"
        search = f"{domain} svc.cluster.local cluster.local"
        for name, text in {
            "hosts": f"127.0.0.1 localhost\n{self.ip} {self.name}\n",
            "resolv.conf": f"search {search}\nnameserver {GATEWAY}\noptions ndots:5 timeout:2\n",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
            "passwd": f"root:x:0:0::/root:/bin/sh\nparley:x:{user}:{user}::/tmp:/bin/sh\n" if user else "root:x:0:0::/root:/bin/sh\n",
            "group": f"root:x:0:\nparley:x:{user}:\n",
            "hostname": f"{self.name}\n",
        }.items():  # fmt: skip
            (folder / name).write_text(text)
        return folder

    async def _probe(self, one: One, running: Container) -> None:
        startup = one.spec.get("startupProbe")
        if startup is not None and not await self._watch(one, running, startup, "startup", once=True):
            return
        one.started = True
        one.up.set()
        tasks = []
        if "livenessProbe" in one.spec:
            tasks.append(self._watch(one, running, one.spec["livenessProbe"], "liveness"))
        if "readinessProbe" in one.spec:
            tasks.append(self._watch(one, running, one.spec["readinessProbe"], "readiness"))
        else:
            one.ready = True
        self._changed.set()
        await asyncio.gather(*tasks)

    async def _watch(
        self, one: One, running: Container, probe: Object, kind: str, *, once: bool = False
    ) -> bool:
        """Asks until told otherwise; False when the container is to be killed for it."""
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        failures = successes = 0
        while True:
            wrong = await ask(probe, one.spec, running, self._host.network, self.ip)
            failures, successes = (failures + 1, 0) if wrong else (0, successes + 1)
            if not wrong and once:
                return True
            if kind == "readiness":
                ready = one.ready
                if successes >= probe.get("successThreshold", 1):
                    ready = True
                elif failures >= probe.get("failureThreshold", 3):
                    ready = False
                if ready != one.ready:
                    one.ready = ready
                    self._say(f"{one.name} is {'ready' if ready else f'not ready: {wrong}'}")
                    self._changed.set()
            elif failures >= probe.get("failureThreshold", 3):
                self._say(f"{one.name} fails its {kind} probe: {wrong}")
                grace = self.object["spec"].get("terminationGracePeriodSeconds", 30)
                self._tasks.append(
                    asyncio.create_task(
                        self._finish(one, running, probe.get("terminationGracePeriodSeconds", grace))
                    )
                )
                return False
            await asyncio.sleep(probe.get("periodSeconds", 10))

    async def _stop(self, one: One, grace_s: float, why: str) -> None:
        one.stopping = True
        if one.running is not None:
            self._say(f"{one.name} is stopped: {why}")
            await self._finish(one, one.running, grace_s)
            await one.done.wait()

    async def _finish(self, one: One, running: Container, grace_s: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        hook = one.spec.get("lifecycle", {}).get("preStop")
        if hook is not None and grace_s > 0:
            wrong = await ask(
                {**hook, "timeoutSeconds": grace_s}, one.spec, running, self._host.network, self.ip
            )
            if wrong:
                self._say(f"preStop of {one.name}: {wrong}")
        running.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(end - loop.time(), _LAST_S if grace_s else 0.0)):
                await running.gone()
                return
        self._say(f"{one.name} is killed: its grace of {grace_s:g} s is over")
        running.signal(signal.SIGKILL)
        await running.gone()

    async def _report(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            with contextlib.suppress(Exception):  # the pod may be gone; the next change says it again
                await self._host.api.patch(f"{self.path}/status", {"status": self._status()}, strategic=True)

    def _status(self) -> Object:
        ready = self._initialized and all(one.ready for one in self.mains) and bool(self.mains)
        made: Object = {
            "phase": self._phase(),
            "hostIP": GATEWAY,
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "startTime": self._began,
            "conditions": [
                _condition("Initialized", self._initialized),
                _condition("ContainersReady", ready),
                _condition("Ready", ready),
            ],
            "initContainerStatuses": [_status_of(one) for one in self.inits],
            "containerStatuses": [_status_of(one) for one in self.mains],
        }
        if self._reason:
            made["reason"] = self._reason
        return made

    def _phase(self) -> str:
        if self._reason:
            return "Failed"
        if any(one.done.is_set() and _code(one) for one in self.inits if not one.sidecar):
            return "Failed"
        if not self._initialized:
            return "Pending"
        if all(one.done.is_set() for one in self.mains):
            return "Failed" if any(map(_code, self.mains)) else "Succeeded"
        return "Running"

    def _say(self, what: str) -> None:
        self._host.tell(f"{self.key}: {what}")


def _code(one: One) -> int:
    return int(one.state.get("terminated", {}).get("exitCode", 0))


def _status_of(one: One) -> Object:
    return {
        "name": one.name,
        "image": one.spec["image"],
        "imageID": one.spec["image"],
        "ready": one.ready or (_code(one) == 0 and "terminated" in one.state and one.done.is_set()),
        "started": one.started,
        "restartCount": one.restarts,
        "state": one.state,
        "lastState": one.last,
    }


def _terminated(code: int, began: str, reason: str) -> Object:
    return {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": _now()}


def _condition(kind: str, holds: bool) -> Object:
    return {"type": kind, "status": str(holds), "lastTransitionTime": _now()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
