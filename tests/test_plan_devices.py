"""GPU pods in batches: which devices each gets, checked, kept in the ledger, promised and bound."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs

from placement.devices import Devices
from placement.nodes import NodeSpec
from placement.planning.batch import Batch
from placement.planning.batch_problems import batch_plan, batch_problem
from placement.planning.best_fit import best_fit, repacked
from placement.planning.cluster import Cluster
from placement.planning.make import plan_document, plan_of_document
from placement.planning.plan_check import check_steps
from placement.planning.plans import Action, Deadline, Ending, Plan, Step
from placement.pods import GpuRequest, Pod, PodSpec
from placement.resources import DEVICES_ANNOTATION
from placement.state import ClusterState, device_indices
from scheduler.api import Who
from scheduler.gates import GATE, NODE_ANNOTATION, PLANNED_DEVICES_ANNOTATION
from scheduler.ledger import Ledger, Seen
from scheduler.metrics import Metrics
from scheduler.planning.planner import say_promised
from scheduler.planning.planner_process import Message, PlannerProcess
from scheduler.planning.service import plan_message
from scheduler.planning.solver import Sent, first
from scheduler.settings import KubeSettings
from scheduler.view import Reader
from tests.api_server import ApiServer, node_object, pod_object
from tests.live_engine import Live
from tests.test_nominator import PLAN, is_free, nominated, planning
from tests.waiting import until
from tests.whole_app import cluster, running

GIB = 2**30


def pod(number: int, count: int, milli: int, *, models: tuple[str, ...] = (), cpu: int = 100) -> Pod:
    gpu = GpuRequest(count, milli, models) if count else None
    return Pod(f"u{number}", f"default/p-{number}", PodSpec((("cpu", cpu), ("memory", GIB)), gpu))


def ledger_of(*nodes: tuple[int, str]) -> ClusterState:
    """Nodes of so many devices of a model."""
    state = ClusterState()
    for i, (gpus, model) in enumerate(nodes):
        amounts = (("cpu", 16_000), ("memory", 64 * GIB))
        state.add_node(NodeSpec(f"n{i}", amounts, num_gpus=gpus, gpu_model=model))
    return state


def planned(state: ClusterState, *pods: Pod) -> Plan:
    """A batch plan as the live planner's first worker makes it, checked."""
    given = Cluster(state, pods)
    problem = batch_problem(given)
    result, placed = first(Sent.of(problem.batch))
    plan = batch_plan(problem, replace(result, placed=placed.unpack()), time_s=0.0)
    assert check_steps(given, plan) == []
    return plan


def where(plan: Plan) -> dict[str, tuple[str, str]]:
    return {step.pod: (step.target, step.devices) for step in plan.steps}


def test_pods_on_devices_that_nobody_recorded_may_be_on_any() -> None:
    state = ledger_of((2, "T4"), (2, "T4"))
    state.bind("known", pod(0, 1, 300).spec, "n0", 1)
    state.bind("hidden", pod(0, 1, 600).spec, "n0")
    assert Cluster(state).device_free().tolist() == [[100, 400], [1000, 1000]]
    plan = planned(state, *(pod(i, 1, 400) for i in range(1, 7)))
    found = where(plan)
    assert sorted(place for place in found.values() if place[0] == "n0") == [("n0", "1")]
    assert len(found) == 5
    assert "1 running pods have GPU devices of which it is not recorded which" in plan.reasons[0]
    state.bind("another", pod(0, 1, 600).spec, "n0")
    assert Cluster(state).device_free().tolist()[0] == [100, 400], "no device holds both"
    state.bind("small", pod(0, 1, 350).spec, "n0")
    assert Cluster(state).device_free().tolist()[0] == [50 + 50, 50]
    state.bind("whole", pod(0, 2, 1000).spec, "n1")
    assert Cluster(state).device_free().tolist()[1] == [0, 0]


def test_the_checker_sees_a_device_that_may_be_somebody_elses() -> None:
    state = ledger_of((2, "T4"))
    state.bind("hidden", pod(0, 1, 600).spec, "n0")
    given = Cluster(state, (pod(1, 1, 500),))
    step = Step(Action.PLACE, "u1", "default/p-1", "", "n0", "1")
    plan = Plan("batch", Ending.DEADLINE, "pods placed", 1, 1, (step,))
    assert check_steps(given, plan) == ["step 0: device 1 of n0 is exceeded"]


@pytest.mark.parametrize("seed", range(20))
def test_no_device_is_given_that_a_hidden_pod_may_fill(seed: int) -> None:
    """Wherever the hidden pods are, as many as fit together, nobody has too little."""
    rng = np.random.default_rng(seed)
    state = ledger_of((3, "T4"))
    known = [int(rng.choice([0, 200, 500])) for _ in range(3)]
    for device, milli in enumerate(known):
        if milli:
            state.bind(f"k{device}", pod(0, 1, milli).spec, "n0", 1 << device)
    hidden = [int(rng.choice([100, 300, 450])) for _ in range(int(rng.integers(0, 4)))]
    for i, milli in enumerate(hidden):
        state.bind(f"h{i}", pod(0, 1, milli).spec, "n0")
    pods = {f"u{i}": pod(i, 1, int(rng.choice([100, 250, 400]))) for i in range(6)}
    given = Counter(dict(enumerate(known)))
    for uid, (_, devices) in where(planned(state, *pods.values())).items():
        gpu = pods[uid].spec.gpu
        assert gpu is not None
        given[int(devices)] += gpu.milli
    for places in itertools.product(range(3), repeat=len(hidden)):
        load = Counter(dict(enumerate(known)))
        for milli, device in zip(hidden, places, strict=True):
            load[device] += milli
        if max(load.values()) <= 1000:
            assert all(given[d] - known[d] + load[d] <= 1000 for d in range(3))


def test_shares_go_where_a_device_has_room_for_them_not_where_the_sum_has() -> None:
    state = ledger_of((2, "T4"), (2, "A100"))
    for device in range(2):  # 800 are free on the first node, 400 on each device
        state.bind(f"r{device}", pod(0, 1, 600).spec, "n0", 1 << device)
    plan = planned(state, pod(1, 1, 500), pod(2, 1, 400), pod(3, 1, 400), pod(4, 1, 1000))
    found = where(plan)
    assert found["u1"][0] == found["u4"][0] == "n1"
    assert found["u1"][1] != found["u4"][1]
    assert len(found) == 4
    assert plan_of_document(plan_document(plan)) == plan
    message = asyncio.run(plan_message("p", plan))
    assert [step.devices for step in message.steps] == [step.devices for step in plan.steps]
    only = planned(state, pod(1, 1, 500, models=("T4",)))
    assert only.steps == ()
    (reason,) = only.reasons
    assert reason.startswith("pod default/p-1 fits on no node within this plan: ")
    assert reason.endswith("1 have room, but what is free is split over devices")
    assert planned(state, pod(5, 3, 1000)).steps == ()
    assert where(planned(state, pod(5, 2, 1000)))["u5"] == ("n1", "0,1")


def test_a_batch_without_devices_is_not_changed_by_those_of_others() -> None:
    state = ledger_of((2, "T4"))
    state.bind("r", pod(0, 1, 600).spec, "n0", 1)
    problem = batch_problem(Cluster(state, (pod(1, 0, 0),)))
    assert problem.batch.devices is None
    assert problem.devices is None


def test_the_checker_counts_devices_for_itself() -> None:
    state = ledger_of((2, ""))
    state.bind("r", pod(0, 1, 600).spec, "n0", 0b01)
    pods = (pod(1, 1, 500), pod(2, 0, 0))
    given, plan = Cluster(state, pods), planned(state, *pods)

    def wrong(devices: tuple[str, str]) -> list[str]:
        steps = [replace(s, devices=devices[s.pod == "u2"]) for s in plan.steps]
        return check_steps(given, replace(plan, steps=tuple(steps)))

    assert wrong(("1", "")) == []
    assert any("device 0 of n0 is exceeded" in line for line in wrong(("0", "")))
    assert any("device 2 of n0 is exceeded" in line for line in wrong(("2", "")))
    for false in (("", ""), ("0,1", ""), ("1", "1")):
        assert any("asks for other" in line for line in wrong(false))


@pytest.mark.parametrize("seed", range(8))
def test_random_batches_never_exceed_a_device(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = ledger_of(*[(int(rng.integers(0, 5)), "") for _ in range(6)])
    for i in range(12):
        row, milli = int(rng.integers(6)), int(rng.choice((200, 300, 500)))
        open_ = np.flatnonzero(state.gpu_free[row, : state.gpu_count[row]] >= milli)
        if len(open_):
            state.bind(f"r{i}", pod(0, 1, milli).spec, f"n{row}", 1 << int(rng.choice(open_)))
    kinds = ((1, 1000), (2, 1000), (1, 250), (1, 400), (1, 600), (0, 0))
    pods = [pod(i, *kinds[int(rng.integers(len(kinds)))]) for i in range(16)]
    left: dict[tuple[str, int], int] = {}
    for row in range(6):
        left |= {(f"n{row}", g): int(free) for g, free in enumerate(state.gpu_free[row, : state.gpu_count[row]])}
    specs = {p.uid: p.spec for p in pods}
    for step in planned(state, *pods).steps:
        gpu = specs[step.pod].gpu
        for index in step.devices.split(",") if gpu else ():
            assert gpu is not None
            left[step.target, int(index)] -= gpu.milli
    assert min(left.values(), default=0) >= 0


def test_devices_are_packed_until_the_time_is_over_and_no_longer() -> None:
    devices = Devices(np.full((50, 4), 1000), np.array([1]), np.array([300]))
    room, one = np.full((1, 50), 100), np.array([1])
    batch = Batch(one[:, None], 100 * one, room, room, room, -one, np.zeros(50, np.int64), devices=devices)
    ticks = itertools.count()
    placed = best_fit(batch, Deadline(20.0, lambda: float(next(ticks))))
    assert 0 < placed.sum() < 100
    assert batch.violations(placed) == []
    assert best_fit(batch).sum() == 100
    crowded = np.zeros((1, 50), np.int64)
    crowded[0, 0] = 13  # twelve fit
    assert repacked(batch, crowded, Deadline(1.0, lambda: 0.0)).sum() == 13
    assert repacked(batch, crowded, Deadline(1.0, lambda: 0.0, cancelled=lambda: True)).sum() == 0


def test_the_ledger_gives_no_device_twice() -> None:
    ledger = Ledger(ledger_of((2, "")), lambda: 0.0, Metrics())
    half, whole = pod(0, 1, 600).spec, pod(0, 1, 1000).spec
    assert not ledger.assume(Who("a", "x", "a"), half, "n0", 0)
    assert not ledger.assume(Who("a", "x", "a"), half, "n0", 0b11)
    assert not ledger.assume(Who("a", "x", "a"), half, "n0", 0b100)
    assert ledger.assume(Who("a", "x", "a"), half, "n0", 0b01)
    assert not ledger.assume(Who("b", "x", "b"), half, "n0", 0b01)
    assert not ledger.assume(Who("b", "x", "b"), whole, "n0", 0b01)
    assert ledger.assume(Who("b", "x", "b"), whole, "n0", 0b10)
    seen = Seen("c", "c", "x", 1, half, planned="n0", nominated="n0", planned_devices=0b10)
    ledger.see(seen)  # a nomination whose device somebody else has by now keeps its room, and no device
    assert ledger.reservations["c"].devices == 0
    assert ledger.state.gpu_free[0].tolist()[:2] == [400, 0]
    ledger.forget("b", "test")
    ledger.see(structs.replace(seen, version=2))
    assert ledger.reservations["c"].devices == 0b10


def gated_gpu(name: str, milli: int) -> dict[str, Any]:
    body = pod_object(name, cpu="100m", milli=milli)
    body["spec"]["schedulingGates"] = [{"name": GATE}]
    return body


async def test_gpu_pods_are_nominated_with_their_devices(tmp_path: Path) -> None:
    async with cluster(gpus=2, nodes=3) as api, planning(api, tmp_path) as planner:
        for i in range(7):  # six devices, so one pod stays behind
            api.put("pods", gated_gpu(f"p{i}", 600))
        await until(lambda: sum(is_free(api, f"p{i}") for i in range(7)) == 6)
        await asyncio.sleep(0.2)
        taken = Counter(promise(api, f"p{i}") for i in range(7) if nominated(api, f"p{i}"))
        assert len(taken) == 6
        assert set(taken.values()) == {1}
        held = planner.engine.ledger.reservations.values()
        assert {(r.node, str(*device_indices(r.devices))) for r in held} == set(taken)
        text = planner.metrics.expose().decode()
        assert 'ullage_plan_batch_pods_total{outcome="placed"} 6.0' in text
        assert 'ullage_plan_wishes_met_ratio{kind="batch"} 1.0' in text


def promise(api: ApiServer, name: str) -> tuple[str, str]:
    marks = api.pod(name)["metadata"]["annotations"]
    assert marks[NODE_ANNOTATION] == nominated(api, name)
    return marks[NODE_ANNOTATION], marks[PLANNED_DEVICES_ANNOTATION]


async def test_devices_that_no_plan_gave_a_pod_are_taken_off_when_it_is_nominated(tmp_path: Path) -> None:
    async with cluster(gpus=2, nodes=1) as api, planning(api, tmp_path):
        body = gated_gpu("p", 0)
        body["metadata"]["annotations"] = {PLANNED_DEVICES_ANNOTATION: "0"}
        api.put("pods", body)
        await until(lambda: is_free(api, "p"))
        marks = api.pod("p")["metadata"]["annotations"]
        assert marks[NODE_ANNOTATION] == nominated(api, "p")
        assert PLANNED_DEVICES_ANNOTATION not in marks


async def test_a_planned_gpu_pod_is_bound_with_the_devices_that_were_kept(tmp_path: Path) -> None:
    """The answering process keeps them from others, and its binding names them."""
    async with cluster(gpus=1, nodes=2) as api, running(api, tmp_path, plan=PLAN) as scheduler:
        api.put("pods", gated_gpu("p", 600))
        await until(lambda: is_free(api, "p") and "uid-p" in scheduler.app.ledger.reservations)
        node, devices = promise(api, "p")
        other = api.put("pods", pod_object("other", cpu="100m", milli=600))
        assert (await scheduler.filter(other, [node], gpu=True))["NodeNames"] == []
        assert (await scheduler.filter(api.pod("p"), [node], gpu=True))["NodeNames"] == [node]
        assert await scheduler.bind(api.pod("p"), node) == ""
        assert api.pod("p")["metadata"]["annotations"][DEVICES_ANNOTATION] == devices == "0"


async def test_a_nominated_pod_whose_devices_are_taken_is_given_others_or_refused(tmp_path: Path) -> None:
    """Never bound without devices: the room that is kept for it on its node is no answer."""
    async with cluster(gpus=2, nodes=1) as api, running(api, tmp_path) as scheduler:
        (node,) = scheduler.app.engine.state.row_of
        api.put("pods", foreign(node, 0))
        await until(lambda: not scheduler.app.engine.state.gpu_free[0, 0])
        ledger = scheduler.app.ledger
        for name, given in (("p", [node]), ("q", [])):
            body = pod_object(name, milli=600)
            body["metadata"]["annotations"] |= {NODE_ANNOTATION: node, PLANNED_DEVICES_ANNOTATION: "0"}
            body["status"]["nominatedNodeName"] = node
            api.put("pods", body)
            await until(lambda uid=f"uid-{name}": uid in ledger.reservations)
            assert ledger.reservations[f"uid-{name}"].devices == 0
            assert (await scheduler.filter(api.pod(name), [node], gpu=True))["NodeNames"] == given
        assert ledger.reservations["uid-p"].devices == 0b10
        assert "no longer free" in await scheduler.bind(api.pod("q"), node)
        assert await scheduler.bind(api.pod("p"), node) == ""
        assert api.pod("p")["metadata"]["annotations"][DEVICES_ANNOTATION] == "1"


async def test_a_kept_device_that_somebody_else_was_seen_on_is_not_bound_as_well(tmp_path: Path) -> None:
    async with cluster(gpus=2, nodes=1) as api, running(api, tmp_path) as scheduler:
        (node,) = scheduler.app.engine.state.row_of
        for name in ("p", "late"):
            assert (await scheduler.filter(api.put("pods", pod_object(name, milli=600)), [node], gpu=True))["NodeNames"]
        held = scheduler.app.ledger.reservations["uid-p"]
        (kept,) = device_indices(held.devices)
        api.put("pods", foreign(node, kept))
        await until(lambda: scheduler.app.engine.state.gpu_free[0, kept] < 0)
        assert "no longer free" in await scheduler.bind(api.pod("p"), node), "the other device is taken, too"
        scheduler.app.ledger.lose("uid-late")
        assert (await scheduler.filter(api.pod("p"), [node], gpu=True))["NodeNames"] == [node]
        assert await scheduler.bind(api.pod("p"), node) == ""
        assert api.pod("p")["metadata"]["annotations"][DEVICES_ANNOTATION] == str(1 - kept)


def foreign(node: str, device: int) -> dict[str, Any]:
    """A pod that somebody else bound to a device."""
    body = pod_object("foreign", milli=1000)
    body["metadata"]["annotations"][DEVICES_ANNOTATION] = str(device)
    body["spec"]["nodeName"] = node
    return body


async def test_a_device_that_its_node_lost_is_not_bound(tmp_path: Path) -> None:
    async with cluster(gpus=2, nodes=1) as api, running(api, tmp_path) as scheduler:
        (node,) = scheduler.app.engine.state.row_of
        for name in ("p", "q"):
            await scheduler.filter(api.put("pods", pod_object(name, milli=600)), [node], gpu=True)
        ledger = scheduler.app.ledger
        lost = next(name for name in ("p", "q") if ledger.reservations[f"uid-{name}"].devices == 0b10)
        api.put("nodes", node_object(node, gpus=1))
        await until(lambda: scheduler.app.engine.state.gpu_count[0] == 1)
        assert "no longer free" in await scheduler.bind(api.pod(lost), node)
        assert await scheduler.bind(api.pod("q" if lost == "p" else "p"), node) == ""


@pytest.mark.parametrize("said", ["0", "0,1", "99999", "-1", "a,b", ""])
def test_devices_noted_on_a_pod_that_asks_for_none_do_not_cost_it_its_nomination(said: str) -> None:
    ledger = Ledger(ledger_of((2, "")), lambda: 0.0, Metrics())
    body = pod_object("p", cpu="100m")
    body["metadata"]["annotations"] = {NODE_ANNOTATION: "n0", PLANNED_DEVICES_ANNOTATION: said}
    body["status"]["nominatedNodeName"] = "n0"
    ledger.see(Reader().pod(msgspec.json.encode(body)))
    assert ledger.reservations["uid-p"].node == "n0"
    assert ledger.state.gpu_free[0].tolist()[:2] == [1000, 1000]


def test_a_gang_of_any_size_is_promised_in_lines_that_can_be_read() -> None:
    reads, writes = os.pipe()
    promised = [(f"{i:036}", "n" * 100, 0) for i in range(420)]
    say_promised(writes, promised)
    os.close(writes)
    with os.fdopen(reads, "rb") as said:
        lines = said.read().splitlines()
    assert len(lines) == 3
    assert [one for line in lines for one in msgspec.json.decode(line, type=Message).promised] == promised


def test_a_promise_that_cannot_be_kept_is_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    live = Live(tmp_path / "records.db")
    share = PodSpec((("cpu", 100),), GpuRequest(1, 600, ()))
    for name in "abcd":
        live.ledger.see(Seen(f"uid-{name}", name, "default", 1, share))
    promised = [("uid-a", "n1", 1), ("uid-b", "n1", 1), ("uid-c", "gone", 1), ("uid-d", "n2", 0), ("uid-e", "n2", 2)]
    PlannerProcess(live.engine, KubeSettings())._take(Message(promised=promised))
    assert {(r.uid, r.node) for r in live.ledger.reservations.values()} == {("uid-a", "n1")}
    void = live.metrics.registry.get_sample_value("ullage_ledger_conflicts_total", {"what": "promise void"})
    assert void == 3, "device 0 is given already, a node is gone, a share without a device; e is not known"
    said = [record for record in caplog.records if record.message.startswith("room that was planned is not there")]
    assert [vars(record)["pod"] for record in said] == ["default/b", "default/c", "default/d"]
    assert (vars(said[0])["node"], vars(said[0])["devices"]) == ("n1", "0")
    live.recorder.close()


def test_the_devices_of_a_placement_add_up() -> None:
    """Ten pods of three kinds on one node, every device used to the last thousandth."""
    state = ledger_of((4, ""))
    pods = [pod(i, 1, 250) for i in range(4)] + [pod(i + 4, 1, 500) for i in range(4)] + [pod(8, 1, 1000)]
    used: dict[str, int] = defaultdict(int)
    specs = {p.uid: p.spec for p in pods}
    for step in planned(state, *pods).steps:
        gpu = specs[step.pod].gpu
        assert gpu is not None
        used[step.devices] += gpu.milli
    assert dict(used) == {"0": 1000, "1": 1000, "2": 1000, "3": 1000}


@pytest.mark.parametrize(
    ("free", "sizes", "fits"),
    [
        ((500, 600), (300, 300, 250, 250), True),
        ((500, 600), (350, 350, 200, 200), False),
        ((700, 700, 600), (400, 400, 300, 300, 300, 300), True),
        ((700, 700, 500), (400, 400, 400, 400), False),
    ],
)
def test_shares_that_best_fit_cannot_pack_are_packed_if_there_is_a_way(
    free: tuple[int, ...], sizes: tuple[int, ...], fits: bool
) -> None:
    kinds = sorted(set(sizes))
    pods = np.array([sizes.count(kind) for kind in kinds])
    devices = Devices(np.array([free]), np.ones(len(kinds), np.int64), np.array(kinds))
    given = devices.assign(0, pods)
    assert (given is not None) == fits
    left = dict(enumerate(free))
    for kind, mask in given or ():
        left[mask.bit_length() - 1] -= kinds[kind]
    assert min(left.values()) >= 0
    assert len(given or ()) == (len(sizes) if fits else 0)
