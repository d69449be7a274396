"""What is deployed is what is simulated: equal arrivals give equal batches, plans and fates of gated pods, live and replayed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from placement.nodes import NodeSpec
from placement.planning.batch import Batch, Batched
from placement.planning.batches import at_once, place_batch
from placement.planning.gathering import Terms
from placement.planning.plans import Deadline, WorkClock
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, MEMORY, PODS
from placement.state import devices_mask
from placement.strategies import strategy_named
from scheduler.gates import GATE, NODE_ANNOTATION, PLANNED_DEVICES_ANNOTATION
from scheduler.ledger import Seen
from scheduler.planning.nominator import Nominator
from scheduler.settings import PlanSettings
from simulator.delivery import Delivery
from simulator.replay import Replay, ReplayOptions
from simulator.traces.trace import NodeEvent, Trace
from tests.live_engine import Live

GIB = 2**30
TERMS = Terms(window_s=10, max_pods=6, gate_deadline_s=60, gang_deadline_s=150)
END_S = 900
STRATEGY = strategy_named("best-fit")


@dataclass
class Told:
    """What happened to gated pods, by second."""

    batches: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    let_go: list[tuple[int, str]] = field(default_factory=list)
    placed: list[tuple[int, str, str, int]] = field(default_factory=list)
    """Second, pod, node, devices."""

    def that_changed_something(self) -> list[tuple[int, tuple[str, ...]]]:
        """Batches of which a pod was placed or let go. Live ones are tried again every window; a replay, whose room is known,
        leaves out tries that find it as it was."""
        changed = {entry[:2] for entry in (*self.placed, *self.let_go)}
        return [(at_s, pods) for at_s, pods in self.batches if any((at_s, pod) in changed for pod in pods)]


@dataclass(frozen=True)
class Came:
    """A pod: when it comes, how long it runs, its gang, −1 = alone."""

    name: str
    spec: PodSpec
    at_s: int
    runs_s: int
    gang: int = -1


def nodes() -> list[NodeSpec]:
    offered = ((CPU, 8_100), (MEMORY, 64 * GIB), (PODS, 110))
    return [NodeSpec(f"n{i}", offered, num_gpus=3 * (i < 2)) for i in range(4)]


def arrivals(seed: int) -> list[Came]:
    """Bursts that fill the nodes twice over: priorities, gangs (one of them never whole), shares, rules, what fits nowhere."""
    rng = np.random.default_rng(seed)
    found: list[Came] = []

    def come(spec: PodSpec, at_s: int, gang: int = -1, runs_s: int = 0) -> None:
        found.append(Came(f"p{len(found):03d}", spec, at_s, runs_s or int(rng.integers(25, 90)), gang))

    for burst in range(7):
        at_s = 5 + 70 * burst
        for _ in range(int(rng.integers(4, 12))):
            cpu = int(rng.choice([500, 1000, 2000, 4000]))
            share = GpuRequest(1, int(rng.choice([250, 500, 1000]))) if rng.random() < 0.3 else None
            priority = int(rng.choice([0, 0, 100]))
            spec = PodSpec(((CPU, cpu), (MEMORY, GIB)), owner="ReplicaSet/default/a", gpu=share, priority=priority)
            come(spec, at_s + int(rng.integers(0, 25)))
        for _ in range(3):
            come(PodSpec(((CPU, 1500), (MEMORY, GIB))), at_s + int(rng.integers(0, 25)), burst)
        if burst % 3 == 0:
            come(PodSpec(((CPU, 100_000),)), at_s)
        if burst % 3 == 1:
            for after_s in (3, 9, 15):
                come(PodSpec(((CPU, 10),), gpu=GpuRequest(1, 600), unmodelled=("a volume",)), at_s + after_s)
    come(PodSpec(((CPU, 100), (MEMORY, GIB))), 40, 99)
    come(PodSpec(((CPU, 100), (MEMORY, GIB))), END_S + 100, 99)
    return sorted(found, key=lambda one: one.at_s)


class Watched(Replay):
    """A replay that tells what becomes of gated pods."""

    told: Told

    def _plan_together(self, pods: list[int]) -> None:
        self.told.batches.append((self.time_s, tuple(self.uids[pod] for pod in pods)))
        super()._plan_together(pods)

    def _let_go(self, pod: int) -> None:
        self.told.let_go.append((self.time_s, self.uids[pod]))
        super()._let_go(pod)


def simulated(came: list[Came]) -> Told:
    trace = Trace.of("t", nodes(), [(c.name, c.spec, c.at_s, c.at_s + c.runs_s) for c in came])
    gangs = np.array([c.gang for c in came], np.int64)
    trace = trace.but(pods=replace(trace.pods, gang=gangs))
    replay = Watched(trace, STRATEGY, ReplayOptions(delivery=Delivery("nominate", gate=TERMS), end_s=END_S))
    replay.told = Told()
    outcome = replay.run()
    replay.told.placed = [
        (event.time_s, event.subject, event.node, event.devices) for event in outcome.log if event.kind == "pod_bound"
    ]
    return replay.told


class Cluster:
    """An API whose pods reach nodes as stock kube-scheduler takes them there, at the second they are let go."""

    def __init__(self, folder: Path, came: list[Came]) -> None:
        live = Live(folder / "records.db")
        self.ledger = live.ledger
        for row in list(live.state.row_of):
            live.ledger.lose_node(row)
        for node in nodes():
            live.ledger.see_node(node)
        self.now_s = 0
        self.ledger.clock = lambda: self.now_s
        self.came = came
        self.told = Told()
        self.ends: dict[int, list[str]] = defaultdict(list)
        self.runs_s = {c.name: c.runs_s for c in came}
        settings = PlanSettings(
            enabled=True,
            window_s=TERMS.window_s,
            max_pods=TERMS.max_pods,
            gate_deadline_s=TERMS.gate_deadline_s,
            gang_deadline_s=TERMS.gang_deadline_s,
        )
        self.nominator = Nominator(live.engine, self, settings)
        self.nominator.solver = self  # type: ignore[assignment]  # the same steps, by counted work

    async def solve(self, batch: Batch, time_s: float, seed: int) -> Batched:
        found = at_once(batch)
        return (
            found
            if found.is_final
            else place_batch(batch, Deadline(time_s, WorkClock()), seed=seed, start=found.placed)
        )

    def arrive(self, one: Came) -> None:
        spec = one.spec
        if one.gang >= 0:
            size = sum(other.gang == one.gang for other in self.came)
            spec = replace(spec, gang=f"trace/{one.gang}", gang_size=size)
        self.ledger.see(Seen(one.name, one.name, spec.namespace, 1, spec, is_gated=True))

    async def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = "", timeout_s: float = 0
    ) -> bytes:
        del method, content_type, timeout_s
        name = path.partition("/pods/")[2].partition("?")[0].partition("/")[0]
        seen = self.ledger.pods[name]
        if "status" in body:
            marks = body["metadata"]["annotations"]
            node, devices = marks[NODE_ANNOTATION], devices_mask(marks[PLANNED_DEVICES_ANNOTATION] or "")
            self.show(seen, planned=node, nominated=node, planned_devices=devices)
            return b""
        assert body["spec"]["schedulingGates"][0]["name"] == GATE
        if not seen.planned:
            self.told.let_go.append((self.now_s, name))
        self.show(seen, is_gated=False)
        self.schedule(self.ledger.pods[name])
        return b""

    def show(self, seen: Seen, **changes: Any) -> None:
        """The watch shows a pod."""
        fields = {name: getattr(seen, name) for name in seen.__struct_fields__}
        self.ledger.see(Seen(**(fields | changes | {"version": seen.version + 1})))

    def schedule(self, seen: Seen) -> None:
        node, devices = seen.planned, seen.planned_devices
        if not node:
            decision = STRATEGY.decide(self.ledger.state.snapshot(), seen.spec, None, 0)
            if not decision.is_placed:
                return
            node, devices = decision.node, decision.devices
        self.show(seen, node=node, devices=devices, nominated="")
        self.told.placed.append((self.now_s, seen.name, node, devices))
        self.ends[self.now_s + self.runs_s[seen.name]].append(seen.uid)

    async def live(self) -> Told:
        """Second by second, in the order in which a replay has them: who ends, the planner, who comes."""
        for self.now_s in range(END_S + 1):
            for uid in self.ends.pop(self.now_s, ()):
                self.ledger.lose(uid)
            await self.nominator.settle()
            while ready := self.nominator.ready():
                self.told.batches.append((self.now_s, tuple(seen.uid for seen in ready)))
                await self.nominator.plan(ready)
                await asyncio.gather(*self.nominator._deliveries)
            for one in self.came:
                if one.at_s == self.now_s:
                    self.arrive(one)
            self.nominator.ready()  # sees them
        return self.told


@pytest.mark.parametrize("seed", range(6))
async def test_equal_arrivals_give_equal_batches_plans_and_fates(seed: int, tmp_path: Path) -> None:
    came = arrivals(seed)
    deployed, replayed = await Cluster(tmp_path, came).live(), simulated(came)
    assert deployed.that_changed_something() == replayed.that_changed_something()
    assert deployed.let_go == replayed.let_go
    assert sorted(deployed.placed) == sorted(replayed.placed)
    outcomes = {name for _, name, *_ in deployed.placed}, {name for _, name in deployed.let_go}
    assert all(len(pods) > 5 for pods in outcomes), "there is something to compare"


def test_a_device_that_went_to_a_pod_without_a_plan_goes_to_none_of_the_plan() -> None:
    """The first is let go and takes what the plan, begun before, has for the second; which is tried again, with other devices."""
    share = PodSpec(((CPU, 1000), (MEMORY, GIB)), gpu=GpuRequest(1, 600))
    pods = [("first", replace(share, unmodelled=("a volume",)), 10, 100), ("second", share, 10, 100)]
    trace = Trace.of("t", nodes()[:1], pods)
    outcome = Replay(trace, STRATEGY, ReplayOptions(delivery=Delivery("nominate", gate=TERMS))).run()
    bound = {event.subject: (event.time_s, event.devices) for event in outcome.log if event.kind == "pod_bound"}
    assert bound == {"first": (15, 0b01), "second": (25, 0b10)}


def test_room_that_comes_before_the_first_batch_is_solved_changes_nothing() -> None:
    spec = PodSpec(((CPU, 1000), (MEMORY, GIB)))
    trace = Trace.of("t", nodes(), [("first", spec, 10, 100), ("second", spec, 11, 100)])
    trace = trace.but(failures=(NodeEvent(5, "fail", "n3"), NodeEvent(11, "repair", "n3")))
    outcome = Replay(trace, STRATEGY, ReplayOptions(delivery=Delivery("nominate", gate=TERMS))).run()
    assert [event.time_s for event in outcome.log if event.kind == "pod_bound"] == [16, 16]
