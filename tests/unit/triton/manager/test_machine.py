"""Two managers of one Triton under anything that people and servers do to them, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.settings import ModelsSettings
from gateway.triton.errors import ProcessDied, TritonError, TritonUnavailable
from gateway.triton.leases.local import LocalLeases, LocalWire
from gateway.triton.manager.manager import ModelManager
from gateway.triton.manager.types import Lease, State
from tests.support.virtual_time import VirtualTimeLoop
from tests.unit.triton.manager.fake_triton import Catalogue, Disk, FakeTriton, info_of

_SETTINGS = ModelsSettings(
    ttl_s=100, min_residency_s=30, max_resident=3, max_memory_mb=1_000, max_loads=2,
    load_s=20, drain_s=10, backoff_s=5, lease_s=15,
)  # fmt: skip
_NAMES = ("asr_a", "tts_a", "tts_b", "tts_c", "tts_d")
_names = st.sampled_from(_NAMES)
_which = st.integers(0, 1)
_SAME_TIME_S = 0.01


class Models(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.catalogue = Catalogue(
            Disk(info_of(name, memory_mb=200 + 150 * number, default=number < 2), load_s=0.5 + number)
            for number, name in enumerate(_NAMES)
        )
        self.triton = FakeTriton(self.catalogue)
        self.triton.on_drop = self._dropped
        self.triton.on_start = self._started
        self.wire = LocalWire()
        self.leases: list[tuple[int, Lease]] = []
        self.stale: list[Lease] = []
        """Of versions that were not there, or not as they were: the server restarted, or its manager had not looked
        since somebody else unloaded it. The first request finds out."""
        self.tasks: list[asyncio.Task[Any]] = []
        self.forced: Counter[str] = Counter()
        """While they are unloaded by force: leases do not count."""
        self.foreign: set[str] = set()
        """Somebody else loads and unloads them as well, and asks nobody."""
        self.hung: set[str] = set()
        """Their loads were given up, and never end: whether they take room nobody knows."""
        self.wrong: list[str] = []
        self.answers: list[str] = []
        self.managers: list[ModelManager] = []
        self.holders: list[LocalLeases] = []
        for number in range(2):
            holder = LocalLeases(self.wire, label=str(number), lease_s=_SETTINGS.lease_s)
            manager = ModelManager(
                self.triton, holder, self.catalogue, _SETTINGS,
                warm_up=self.triton, keeper=number == 0, on_event=lambda event: None,
            )  # fmt: skip
            self.holders.append(holder)
            self.managers.append(manager)
            self._run(manager.start())

    # ---- what the server is told -----------------------------------------------------------------

    def _dropped(self, name: str, version: int) -> None:
        disk = self.catalogue.disks[name]
        broken = disk.mute or disk.broken or disk.hangs or name in self.triton.silent  # mended or not since
        if self.forced[name] or name in self.foreign or broken:
            return
        held = [lease for _, lease in self.leases if lease.info.name == name]
        its = self.triton.loaded[name]
        last = self.triton.ready(name) == [version]
        # A restart took the version from under those who had it; the model is theirs all the same.
        if any(lease.version == str(version) and lease not in self.stale for lease in held) or (
            held and last
        ):
            self.wrong.append(f"{name}@{version} was unloaded under a lease")
        age = self.loop.time() - its.ready_at
        if last and age < _SETTINGS.min_residency_s and (name, version) not in self.triton.dead:
            self.wrong.append(f"{name} was unloaded {age} s after its load")

    def _started(self, name: str) -> None:
        if name in self.foreign or self.triton.ready(name):
            return
        there = {one for one in self.triton.resident() if one != name and one not in self.hung}
        if there & self.foreign:
            return
        if len(there) + 1 > _SETTINGS.max_resident:
            self.wrong.append(f"{name} is loaded beside {sorted(there)}")
        memory = sum(self.catalogue.disks[one].info.memory_mb for one in (*there, name))
        if memory > _SETTINGS.max_memory_mb:
            self.wrong.append(f"{name} is loaded beside {sorted(there)}: {memory} MB")

    # ---- what people do --------------------------------------------------------------------------

    @rule(name=_names, which=_which, deadline=st.sampled_from([0.5, 5.0, 60.0]))
    def lease(self, name: str, which: int, deadline: float) -> None:
        async def take() -> None:
            lease = await self.managers[which].lease(name, deadline_s=deadline)
            self.leases.append((which, lease))
            if not self.triton.up or int(lease.version) not in self.triton.ready(name):
                self.stale.append(lease)

        self._spawn(take())

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 1_000))
    def release(self, number: int) -> None:
        _, lease = self.leases.pop(number % len(self.leases))
        self.loop.call_soon(lease.release)
        self._run(asyncio.sleep(0))

    @rule(name=_names, which=_which)
    def load(self, name: str, which: int) -> None:
        self._spawn(self.managers[which].load(name))

    @rule(name=_names, which=_which)
    def unload(self, name: str, which: int) -> None:
        self._spawn(self.managers[which].unload(name, deadline_s=60.0))

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 1_000), which=_which, rolls=st.booleans())
    def change_what_is_held(self, number: int, which: int, rolls: bool) -> None:
        """Old enough to go, and rolled or unloaded for as long as anybody waits: left to chance it hardly happens."""
        name = self.leases[number % len(self.leases)][1].info.name
        self._run(asyncio.sleep(_SETTINGS.min_residency_s))
        there = self.catalogue.disks[name].there
        if rolls and len(there) < 4:
            there.append(there[-1] + 1)
        manager = self.managers[which]
        self._spawn(manager.load(name) if rolls else manager.unload(name, deadline_s=60.0))
        self._run(asyncio.sleep(12.0))

    @rule(name=_names, which=_which)
    def force(self, name: str, which: int) -> None:
        self.forced[name] += 1

        async def forced() -> None:
            try:
                await self.managers[which].unload(name, force=True, deadline_s=60.0)
            finally:
                self._forget_leases(name)
                self.forced[name] -= 1

        self._spawn(forced())

    @rule(name=_names, newer=st.booleans())
    def roll(self, name: str, newer: bool) -> None:
        there = self.catalogue.disks[name].there
        if newer and len(there) < 4:
            there.append(there[-1] + 1)
        version = "" if newer else str(there[0])
        self._spawn(self.managers[0].load(name, version=version))

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 3.0, 11.0, 31.0, 101.0]))
    def advance(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))

    @rule(name=_names, how=st.sampled_from(["", "broken", "hangs", "mute"]))
    def break_or_mend(self, name: str, how: str) -> None:
        disk = self.catalogue.disks[name]
        disk.broken = dict.fromkeys(disk.there, "RuntimeError: no") if how == "broken" else {}
        disk.hangs = set(disk.there) if how == "hangs" else set()
        if how == "hangs":
            self.hung.add(name)
        disk.mute = how == "mute"

    @rule(name=_names, which=_which)
    def kill(self, name: str, which: int) -> None:
        self.triton.kill(name)
        self._spawn(self.managers[which].suspect(name, ProcessDied("its process died")))

    @rule(seconds=st.sampled_from([0.1, 5.0]), told=st.booleans())
    def restart(self, seconds: float, told: bool) -> None:
        self.triton.stop()
        self.wire._table = None
        self.wire._grace_s = _SETTINGS.lease_s
        self.foreign.clear()
        self.stale = [lease for _, lease in self.leases]
        if told:
            for manager in self.managers:
                self._spawn(manager.suspect("tts_a", TritonUnavailable("the connection was cut")))
        self._run(asyncio.sleep(seconds))
        self.triton.start()

    @rule(name=st.sampled_from(_NAMES[-2:]), loads=st.booleans())
    def somebody_else(self, name: str, loads: bool) -> None:
        self.foreign.add(name)

        async def change() -> None:
            await (self.triton.load(name) if loads else self.triton.unload(name))
            if not loads:
                self._forget_leases(name)

        self._spawn(change())

    # ---- what must hold --------------------------------------------------------------------------

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert not self.wrong, self.wrong
        assert self.triton.most_starting <= _SETTINGS.max_loads + len(self.foreign) or self._was_foreign

    @invariant()
    def counts_are_right(self) -> None:
        for number, manager in enumerate(self.managers):
            for name in _NAMES:
                model = manager._core.model(name)
                mine = sum(1 for which, lease in self.leases if which == number and lease.info.name == name)
                assert model.leases >= mine >= 0
                assert (model.state is State.READY) <= bool(model.serving)

    def teardown(self) -> None:
        try:
            if not self.triton.up:
                self.triton.start()
            self._run(asyncio.sleep(200.0))
            waiting = [task for task in self.tasks if not task.done()]
            assert not waiting, f"without an answer: {waiting}"
            self._run(self._release_all())
            self._run(asyncio.sleep(10.0))
            for manager in self.managers:
                assert not any(model.leases for model in manager._core.models.values())
            self.nothing_went_wrong()
        finally:
            self._run(self._close())
            self.loop.close()

    async def _release_all(self) -> None:
        while self.leases:
            self.leases.pop()[1].release()

    async def _close(self) -> None:
        for manager in self.managers:
            await manager.close()
        for holder in self.holders:
            await holder.close()
        await self.triton.close()
        await asyncio.sleep(_SAME_TIME_S)
        left = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
        assert not left, f"tasks left behind: {left}"

    # ---- how -------------------------------------------------------------------------------------

    _was_foreign = False

    def _forget_leases(self, name: str) -> None:
        """They were taken from under their holders."""
        for one in [one for one in self.leases if one[1].info.name == name]:
            self.leases.remove(one)
            one[1].release()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        async def guarded() -> None:
            try:
                await work
            except TritonError as error:
                self.answers.append(str(error))

        async def begin() -> None:
            self.tasks.append(asyncio.create_task(guarded()))
            await asyncio.sleep(_SAME_TIME_S)

        self._run(begin())
        for task in self.tasks:
            if task.done():
                task.result()

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        self._was_foreign = self._was_foreign or bool(self.foreign)
        self.loop.run_until_complete(work)


Models.TestCase.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
TestModels = Models.TestCase


def _ended(machine: Models) -> None:
    machine.counts_are_right()
    machine.teardown()


def test_a_repair_keeps_the_version_that_another_process_has_just_brought() -> None:
    machine = Models()
    machine.lease(name="tts_a", which=0, deadline=0.5)
    machine.change_what_is_held(number=0, which=0, rolls=True)
    machine.lease(name="tts_a", which=0, deadline=0.5)
    assert {lease.version for _, lease in machine.leases} == {"1", "2"}
    assert machine.managers[1]._core.model("tts_a").versions == ("1",), "the other one has not looked since"

    machine.kill(name="tts_a", which=1)
    machine.advance(seconds=3.0)

    assert not machine.wrong
    assert machine.triton.ready("tts_a") == [1, 2]
    assert machine.triton.loads[-2:] == ["tts_a@1", "tts_a@2"], "both were started again"
    _ended(machine)


def test_a_lease_of_a_process_that_has_not_seen_the_model_go_holds_no_version() -> None:
    machine = Models()
    machine.force(name="asr_a", which=0)
    machine.advance(seconds=1.0)
    machine.load(name="asr_a", which=0)
    machine.roll(name="asr_a", newer=True)
    machine.lease(name="asr_a", which=1, deadline=0.5)
    assert machine.stale == [lease for _, lease in machine.leases]
    machine.advance(seconds=1.0)
    assert machine.triton.ready("asr_a") == [2], "the newer one came while it was loaded"
    _ended(machine)


def test_a_model_that_did_not_answer_its_load_goes_though_it_would_answer_now() -> None:
    machine = Models()
    machine.break_or_mend(name="asr_a", how="mute")
    machine.force(name="asr_a", which=0)
    machine.load(name="asr_a", which=0)
    machine.advance(seconds=3.0)
    machine.break_or_mend(name="asr_a", how="")
    machine.advance(seconds=31.0)
    assert any("asr_a does not load" in answer and "warm-up" in answer for answer in machine.answers)
    _ended(machine)
