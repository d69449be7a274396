"""Live equals simulated: the same pods through a real kube-scheduler and through the simulator, node and device.

Pods of a recorded GPU cluster on its 1,213 nodes at more than 90 % of the GPUs, while others leave. One pod at a time
through kube-scheduler with ``ullage serve`` deciding; then the service's own log is replayed. ``ULLAGE_E2E_PODS`` sets
the number of pods; ``make evidence`` takes 2,000.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from placement import log
from placement.knowledge import Knowledge, Workload
from placement.log_lines import read_log
from placement.playback import verify
from placement.pods import PodSpec
from placement.prices import device_prices
from placement.resources import GPU_SHARE, parse_quantity
from placement.strategies import STRATEGIES
from scheduler.cli.bundle import strategies_of
from simulator.replay import Replay, ReplayOptions
from simulator.traces.openb import read_openb
from simulator.traces.trace import NEVER, Trace
from tests.e2e.control_plane import REPO, ControlPlane, Ullage
from tests.e2e.drive import PODS, Cluster, cluster_of, devices_of, pod_json

NUM_PODS = int(os.environ.get("ULLAGE_E2E_PODS", "500"))
FULL_SHARE = 0.92
"""Of the GPUs, asked for by the residents that fill the cluster before the first pod arrives."""
SMALL_FULL_SHARE = 1.0
"""The same on a small cluster, where more of the residents find no place."""
LEAVE_SHARE = 0.6
"""Chance that some pod leaves just before the next one arrives."""


@dataclass(frozen=True)
class Story:
    """Who arrives and leaves when, one event a second; ``start`` is the first pod after the residents."""

    trace: Trace
    workload: Workload
    start: int

    def pods(self) -> Iterator[tuple[str, PodSpec, int]]:
        """(name, class, arrival) in order."""
        columns = self.trace.pods
        for name, kind, arrival in zip(columns.name, columns.spec.tolist(), columns.arrival_s.tolist(), strict=True):
            yield str(name), self.trace.specs[kind], arrival

    def departures(self) -> dict[int, list[str]]:
        """Names by the second before whose arrival they leave."""
        leaving: dict[int, list[str]] = defaultdict(list)
        for name, second in zip(self.trace.pods.name, self.trace.pods.departure_s.tolist(), strict=True):
            if second >= 0:
                leaving[second].append(str(name))
        return leaving


@pytest.fixture
def recorded() -> Trace:
    """The recorded GPU cluster where its trace is at hand, else the bundled trace: CI never skips this."""
    folder = Path(os.environ.get("ULLAGE_TRACES", REPO.parent / "shared" / "traces")) / "openb"
    if folder.is_dir():
        return read_openb(folder, departures=False)
    print(f"no {folder}: the bundled trace instead")
    demo = Trace.load(REPO / "simulator" / "samples" / "demo.ullage")
    # `pod_json` and `node_json` write no rules
    specs = tuple(PodSpec(spec.request, gpu=spec.gpu) for spec in demo.specs)
    return replace(demo, specs=specs, nodes=tuple(replace(node, taints=()) for node in demo.nodes))


def story(recorded: Trace, num_pods: int, seed: int) -> Story:
    """Residents drawn without replacement until the cluster is full, then a stream."""
    rng = random.Random(seed)
    specs = [recorded.specs[kind] for kind in recorded.pods.spec]
    order = rng.sample(specs, len(specs))
    share = FULL_SHARE if len(recorded.nodes) > 1000 else SMALL_FULL_SHARE
    room = share * sum(node.num_gpus for node in recorded.nodes) * 1000
    start = 0
    while room > 0:
        room -= order[start].gpu.total_milli if order[start].gpu else 0  # type: ignore[union-attr]  # checked here
        start += 1
    stream = (order[start:] + rng.choices(specs, k=num_pods))[:num_pods]
    alive = [f"r{i:05d}" for i in range(start)]
    leaves: dict[str, int] = {}
    for i in range(num_pods):
        if rng.random() < LEAVE_SHARE:
            chosen = rng.randrange(len(alive))
            leaves[alive[chosen]] = start + i
            alive[chosen] = alive[-1]
            alive.pop()
        alive.append(f"s{i:05d}")
    rows = [(f"r{i:05d}", spec, i) for i, spec in enumerate(order[:start])]
    rows += [(f"s{i:05d}", spec, start + i) for i, spec in enumerate(stream)]
    trace = Trace.of("lockstep", recorded.nodes, [(n, s, at, leaves.get(n, NEVER)) for n, s, at in rows])
    counts = np.bincount(recorded.pods.spec, minlength=len(recorded.specs))
    return Story(trace, Workload.of(recorded.specs, counts.tolist()), start)


def simulate(told: Story, strategy: str) -> dict[str, tuple[str, int]]:
    """Pod → (node, devices), by the simulator."""
    prices = device_prices(told.workload, told.trace.nodes)
    options = ReplayOptions(
        knowledge=Knowledge(0, told.workload, prices),
        retries=False,
        preemption=False,
        end_s=int(told.trace.pods.arrival_s.max()),
    )
    outcome = Replay(told.trace, STRATEGIES[strategy], options).run()
    return {e.subject: (e.node, e.devices) for e in outcome.log if e.kind == log.POD_BOUND}


async def replay_live(cluster: Cluster, ullage: Ullage, told: Story, homes: dict[str, tuple[str, int]]) -> list[str]:
    """Drive the stream one by one; what came out otherwise than in ``homes``."""
    differences = []
    leaving = told.departures()
    for name, spec, arrival in told.pods():
        if arrival < told.start:
            continue
        for leaver in leaving.get(arrival, ()):
            if leaver in cluster.pods:
                uid = cluster.pods[leaver]["metadata"]["uid"]
                await cluster.delete(leaver)
                await unseen(cluster, ullage, uid)
        await cluster.create(name, spec)
        await cluster.until(lambda name=name: bool(cluster.node_of(name)) or cluster.is_rejected(name), 30, name)
        node = cluster.node_of(name)
        got = (node, devices_of(cluster.pods[name])) if node else None
        if got != homes.get(name):
            differences.append(f"{name}: live {got}, simulated {homes.get(name)}")
            assert len(differences) < 10, differences
        if not node:
            await cluster.delete(name)
    return differences


def gpu_allocation(cluster: Cluster, told: Story) -> float:
    """Share of the GPUs that bound pods hold, by the API."""
    held = 0
    for pod in cluster.pods.values():
        if pod["spec"].get("nodeName"):
            asks = pod["spec"]["containers"][0]["resources"]["requests"]
            held += parse_quantity(asks.get(GPU_SHARE, "0"), GPU_SHARE)
    return held / (1000 * sum(node.num_gpus for node in told.trace.nodes))


async def unseen(cluster: Cluster, ullage: Ullage, uid: str) -> None:
    """Until the ledger has let the pod go; then a moment for kube-scheduler's own watch."""
    while True:
        async with cluster.session.get(f"http://127.0.0.1:{ullage.admin_port}/pod/{uid}") as response:
            if response.status == 404:
                break
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.005)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", ["best-fit", "priced", "atc23-fgd"])
async def test_every_pod_goes_where_the_simulator_put_it(
    plane: ControlPlane, recorded: Trace, tmp_path: Path, strategy: str
) -> None:
    told = story(recorded, NUM_PODS, seed=1)
    homes = simulate(told, strategy)
    workload = tmp_path / "workload.json"
    workload.write_bytes(msgspec.json.encode(told.workload))
    folder = tmp_path / "log"
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(told.trace.nodes)
        residents = [(n, s) for n, s, arrival in told.pods() if arrival < told.start and n in homes]
        await cluster.many(("POST", PODS, pod_json(n, s, *homes[n])) for n, s in residents)
        ullage = Ullage(plane, strategy=strategy, knowledge=str(workload), learn_every_s=0, log={"folder": str(folder)})
        await asyncio.to_thread(ullage.start)
        plane.start_scheduler(ullage.stanzas())
        await cluster.ledger_agrees(ullage)
        assert gpu_allocation(cluster, told) >= 0.9
        differences = await replay_live(cluster, ullage, told, homes)
        allocation = gpu_allocation(cluster, told)
        leavers = sum(len(v) for at, v in told.departures().items() if at >= told.start)
        print(
            f"{strategy}, seed 1: {NUM_PODS} pods after {len(residents)} residents, {leavers} departures, "
            f"{allocation:.1%} of GPUs allocated at the end, {len(differences)} differences"
        )
        assert leavers >= 0.3 * NUM_PODS
        assert allocation >= 0.9
        assert differences == []
        await cluster.ledger_agrees(ullage)
    await asyncio.to_thread(ullage.end)
    assert_the_log_repeats(folder)


@pytest.mark.timeout(1800)
async def test_a_burst_replays_from_its_own_log(plane: ControlPlane, recorded: Trace, tmp_path: Path) -> None:
    told = story(recorded, 600, seed=2)
    workload = tmp_path / "workload.json"
    workload.write_bytes(msgspec.json.encode(told.workload))
    folder = tmp_path / "log"
    ullage = Ullage(plane, strategy="priced", knowledge=str(workload), learn_every_s=0, log={"folder": str(folder)})
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(told.trace.nodes[::10])
        await asyncio.to_thread(ullage.start)
        plane.start_scheduler(ullage.stanzas())
        stream = [(n, s) for n, s, arrival in told.pods() if arrival >= told.start]
        await cluster.many(("POST", PODS, pod_json(n, s)) for n, s in stream)
        await cluster.until(
            lambda: all(cluster.node_of(n) or cluster.is_rejected(n) for n, _ in stream), 120, "everybody answered"
        )
        assert cluster.wrongs == []
        await cluster.ledger_agrees(ullage)
    await asyncio.to_thread(ullage.end)
    assert_the_log_repeats(folder)


def assert_the_log_repeats(folder: Path) -> None:
    """Every decision in the service's log is made again by a rebuilt ledger, node and device."""
    header, events, lost = read_log(folder)
    assert lost == 0
    assert sum(e.kind == log.DECISION for e in events) > 0
    assert list(verify(events, strategies_of(header))) == []
