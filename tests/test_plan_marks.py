"""What plans must obey beyond room: budgets, gangs, gates, deletion costs, devices in use; and random clusters, judged again."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from placement.errors import ConfigError
from placement.planning.make import Request, SaleShape, plan_for
from placement.planning.plan_check import check_steps
from placement.planning.plans import Action, Deadline, Ending, Plan, Step
from placement.planning.snapshots import SnapshotError, SnapshotFile, SnapshotPod, cluster_of, snapshot_of_objects
from placement.specs import UNOFFERED
from simulator.cli.plan import plan as plan_group
from simulator.planning.page import headline
from simulator.planning.snapshots import write_snapshot
from tests.cluster_objects import cluster
from tests.plan_objects import budget, gpu_pod, node, one_of, pod, taken
from tests.plan_referee import Referee

GIB = 2**30


def planned(kind: str, file: SnapshotFile, **question: Any) -> Plan:
    return plan_for(Request(kind, file, 1.0, **question), Deadline(0.1, time.perf_counter))


def evicted(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps if step.action == Action.EVICT]


@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_a_rescue_evicts_no_more_of_a_budget_than_it_allows(allowed: int) -> None:
    low = [one_of("db", f"low-{i}", "2", f"n{i}") for i in range(3)]
    nodes = [node(f"n{i}", 2) for i in range(3)]
    waiting = [pod(f"w-{i}", "2", priority=9) for i in range(3)]
    plan = planned("rescue", taken(*nodes, *low, *waiting, budget(allowed)))
    assert len(evicted(plan)) <= allowed
    if allowed == 3:
        assert (len(evicted(plan)), plan.ending) == (3, Ending.OPTIMAL)
    else:
        assert "disruption budget default/db allows" in plan.reasons[0]
        assert plan.ending == Ending.DEADLINE, "what the budget forbids was not searched for to the end"
        assert plan.bound == 3.0


def test_what_two_budgets_cover_stays_for_the_api_would_not_evict_it() -> None:
    low = [one_of("db", f"low-{i}", "2", f"n{i}") for i in range(3)]
    nodes = [node(f"n{i}", 2) for i in range(3)]
    both = budget(3), budget(3) | {"metadata": {"name": "other", "namespace": "default"}}
    plan = planned("rescue", taken(*nodes, *low, pod("w-1", "2", priority=9), *both))
    assert plan.steps == ()
    file = taken(*nodes, *low, *both)
    assert {p.stays for p in file.pods} == {
        "disruption budgets db and other both cover it, and the API evicts no pod with more than one"
    }


def test_moves_of_a_budget_go_one_at_a_time_and_are_no_evictions() -> None:
    """Each replacement runs before the next pod goes, so a budget of one is enough for any number of moves."""
    running = [one_of("db", f"x-{i}", "1", f"n{i}") for i in range(3)]
    nodes = [node(f"n{i}", 2) for i in range(3)]
    plan = planned("rescue", taken(*nodes, *running, pod("w-1", "2"), budget(1)))
    assert [s.action for s in plan.steps] == [Action.MOVE, Action.PLACE]
    assert plan.ending == Ending.OPTIMAL


def test_the_checker_counts_who_is_down_at_a_time() -> None:
    running = [one_of("db", f"x-{i}", "1", "n0") for i in range(2)]
    given = cluster_of(taken(node("n0"), *running, budget(1)))
    gone = [Step(Action.EVICT, f"uid-x-{i}", f"default/x-{i}", "n0") for i in range(2)]
    back = Step(Action.PLACE, "uid-x-0", "default/x-0", "", "n0")
    wrong = check_steps(given, Plan("rescue", Ending.DEADLINE, "pods placed", 0, 0, tuple(gone)))
    assert wrong == ["step 1: disruption budget default/db is exceeded"]
    assert not check_steps(given, Plan("rescue", Ending.DEADLINE, "pods placed", 0, 0, (gone[0], back, gone[1])))


def test_among_pods_that_are_alike_the_one_whose_deletion_costs_least_goes() -> None:
    def low(i: int, cost: str) -> dict[str, Any]:
        marks = {"annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}
        return pod(f"low-{i}", "1", "a", metadata=marks)

    running = [low(i, cost) for i, cost in enumerate(["5", "-7", "2147483647", "x"])]
    plan = planned("rescue", taken(node("a", 4), *running, pod("w-1", "2", priority=9)))
    assert evicted(plan) == ["default/low-1", "default/low-3"]


def test_pods_that_ask_for_thousands_of_resources_give_a_snapshot_no_column_for_each() -> None:
    """Some tenant's would take the memory of whoever plans."""
    asking = pod("w-1", "1")
    asking["spec"]["containers"][0]["resources"]["requests"] |= {f"example.com/{i}": "1" for i in range(1000)}
    file = taken(node("a"), asking, pod("w-2", "1"))
    assert len(file.specs[0].amounts) < 200
    plan = planned("batch", file)
    assert plan.reasons == (f"pod default/w-1 is left to the scheduler: {UNOFFERED} is not modelled",)
    assert plan.value == 1


@pytest.mark.parametrize("kind", ["rescue", "batch", "purchase"])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schedulingGates": [{"name": "example.com/quota"}]}, "it waits behind the gate example.com/quota"),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, "it is being deleted"),
        (
            {
                "metadata": {
                    "labels": {"volcano.sh/group-name": "train"},
                    "annotations": {"ullage.dev/gang-size": "3"},
                }
            },
            "its gang has 1 of 3 pods (annotation ullage.dev/gang-size)",
        ),
    ],
)
def test_a_pod_that_waits_for_somebody_else_is_not_planned_for(kind: str, changes: dict[str, Any], why: str) -> None:
    shapes = (SaleShape("plain", {"cpu": 8000, "memory": 64 * GIB, "pods": 110}, 1.0),) if kind == "purchase" else ()
    file = taken(node("a", 2), pod("low-1", "2", "a"), pod("w-1", "2", priority=9, **changes))
    plan = planned(kind, file, shapes=shapes)
    assert plan.steps == ()
    assert f"pod default/w-1 is not to be placed now: {why}" in plan.reasons


@pytest.mark.parametrize(("leaving", "priority", "waits"), [(True, 0, True), (False, 0, False), (True, 9, False)])
def test_nobody_is_evicted_for_a_pod_that_kube_scheduler_makes_room_for(
    leaving: bool, priority: int, waits: bool
) -> None:
    """It preempts for no pod whose victims are still on their way out; a plan evicted others for it, elsewhere."""
    ends: dict[str, Any] = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}} if leaving else {}
    victim = pod("victim", "2", "a", priority=priority, **ends)
    preemptor = pod("w-1", "2", priority=9) | {"status": {"phase": "Pending", "nominatedNodeName": "a"}}
    plan = planned("rescue", taken(node("a", 2), node("b", 2), victim, pod("low-1", "2", "b"), preemptor))
    why = "pod default/w-1 is not to be placed now: it is nominated to node a, which pods leave for it"
    assert (plan.steps == (), why in plan.reasons) == (waits, waits)


def test_a_pod_behind_our_own_gate_is_planned_for() -> None:
    plan = planned("batch", taken(node("a"), pod("w-1", "2", schedulingGates=[{"name": "ullage.dev/plan"}])))
    assert [s.name for s in plan.steps] == ["default/w-1"]


def test_a_gang_of_which_one_pod_cannot_be_planned_is_left_out_whole() -> None:
    labels = {"labels": {"scheduling.x-k8s.io/pod-group": "train"}}
    claim: dict[str, Any] = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}
    members = [pod("g-1", "1", metadata=labels), pod("h-1", "1", metadata=labels, **claim)]
    for kind in ("batch", "rescue"):
        plan = planned(kind, taken(node("a"), *members, pod("w-1", "1")))
        assert [s.name for s in plan.steps] == ["default/w-1"]
        assert len(plan.reasons) >= 2
    gated = pod("h-1", "1", metadata=labels, schedulingGates=[{"name": "example.com/quota"}])
    assert planned("batch", taken(node("a"), members[0], gated)).steps == ()


def test_a_rescue_places_gangs_whole_and_takes_none_apart() -> None:
    labels = {"labels": {"scheduling.x-k8s.io/pod-group": "train"}}
    waiting = [pod(f"g{i}-1", "3", metadata=labels, priority=5) for i in range(2)]
    plan = planned("rescue", taken(node("a"), *waiting, pod("w-1", "3")))
    assert [s.name for s in plan.steps] == ["default/w-1"]
    assert any("its gang is placed whole or not at all" in reason for reason in plan.reasons)
    both = planned("rescue", taken(node("a"), node("b"), *waiting, pod("w-1", "3")))
    assert sorted(s.name for s in both.steps) == ["default/g0-1", "default/g1-1"]
    running = [pod(f"r{i}-1", "2", "a", metadata=labels) for i in range(2)]
    gone = planned("rescue", taken(node("a"), *running, pod("w-1", "2", priority=9)))
    assert sorted(evicted(gone)) == ["default/r0-1", "default/r1-1"]


def test_devices_that_are_in_use_are_not_given_again() -> None:
    def share(name: str, device: str, milli: int = 600) -> dict[str, Any]:
        one = gpu_pod(name, milli)
        one["spec"]["nodeName"], one["status"]["phase"] = "g", "Running"
        one["metadata"]["annotations"] = {"ullage.dev/devices": device}
        return one

    home = node("g", 8)
    home["status"]["allocatable"]["ullage.dev/gpu-milli"] = "2000"
    full = planned("batch", taken(home, share("a-1", "0"), share("b-1", "1"), gpu_pod("w-1", 600)))
    assert full.steps == ()
    room = planned("batch", taken(home, share("a-1", "0"), gpu_pod("w-1", 600)))
    assert [s.devices for s in room.steps] == ["1"]
    foreign = planned("batch", taken(home, share("a-1", "7"), gpu_pod("w-1", 600)))
    assert foreign.steps == (), "a device that the node does not have says nothing of where the pod is"
    small = planned("batch", taken(home, share("a-1", "7"), gpu_pod("w-1", 400)))
    assert len(small.steps) == 1
    home["status"]["allocatable"]["ullage.dev/gpu-milli"] = "4000"
    for said in ("0", "0,7"):
        half = planned("batch", taken(home, share("a-1", said, 2000), gpu_pod("w-1", 1000)))
        assert half.steps == (), "nor do devices that are not as many as the pod asks for, or not all there"


def test_a_resource_that_no_node_offers_is_short_and_nothing_breaks() -> None:
    odd = pod("odd-1", "1")
    odd["spec"]["containers"][0]["resources"]["requests"]["example.com/port"] = "1"
    for kind in ("rescue", "batch", "consolidate"):
        plan = planned(kind, taken(node("a"), pod("w-1", "1"), odd))
        assert "uid-odd-1" not in [step.pod for step in plan.steps]
        if kind != "consolidate":
            assert any("example.com/port" in reason for reason in plan.reasons)


def test_a_snapshot_whose_budgets_do_not_match_is_refused() -> None:
    file = taken(node("a"), pod("w-1", "1"))
    file.pods[0] = SnapshotPod("u", "default/u", 0, budgets=(3,))
    with pytest.raises(SnapshotError, match="a budget of it is not in the snapshot"):
        cluster_of(file)


@pytest.mark.parametrize("kind", ["rescue", "batch", "consolidate", "purchase"])
@pytest.mark.parametrize("first", range(0, 40, 10))
def test_every_step_of_a_plan_for_a_random_cluster_holds_when_it_is_taken(kind: str, first: int) -> None:
    shapes = (
        SaleShape("plain", {"cpu": 4000, "memory": 16 * GIB, "pods": 20}, 1.0),
        SaleShape("device", {"cpu": 8000, "memory": 32 * GIB, "pods": 20}, 3.0, num_gpus=2),
    )
    for seed in range(first, first + 10):
        objects = cluster(seed)
        usd = {o["metadata"]["name"]: 1.0 + i for i, o in enumerate(objects) if o["kind"] == "Node"}
        budget = seed % 6 if seed % 2 else None
        plan = planned(
            kind,
            snapshot_of_objects(json.dumps({"items": objects}).encode()),
            seed=seed,
            max_moves=budget if kind == "consolidate" else None,
            usd_per_hour=usd if kind == "consolidate" else None,
            shapes=shapes if kind == "purchase" else (),
        )
        assert Referee(objects).judge(plan, budget if kind == "consolidate" else None) == [], f"seed {seed}"


def spoiled(plan: Plan, nodes: list[str], chance: random.Random) -> Plan:
    """The plan with one step sent elsewhere, left out, done twice, out of turn, or with other devices."""
    steps, at, other = list(plan.steps), chance.randrange(len(plan.steps)), chance.randrange(len(plan.steps))
    step = steps[at]
    roll = chance.randrange(5)
    if roll == 0 and step.target:
        steps[at] = replace(step, target=chance.choice(nodes))
    elif roll == 0:
        steps[at] = replace(step, source=chance.choice(nodes))
    elif roll == 1:
        del steps[at]
    elif roll == 2:
        steps.insert(other, step)
    elif roll == 3:
        steps[at], steps[other] = steps[other], steps[at]
    elif step.action == Action.PLACE:
        steps[at] = replace(step, devices=chance.choice(["", "0", "1", "0,1", "5"]))
    return replace(plan, steps=tuple(steps))


@pytest.mark.parametrize("kind", ["rescue", "batch", "consolidate"])
def test_what_the_referee_finds_wrong_in_a_spoiled_plan_the_checker_finds_wrong_too(kind: str) -> None:
    """Whether an eviction was worth it is the planner's to say, not the checker's."""
    found: Counter[bool] = Counter()
    for seed in range(40):
        objects = cluster(seed)
        file = snapshot_of_objects(json.dumps({"items": objects}).encode())
        usd = {o["metadata"]["name"]: 1.0 + i for i, o in enumerate(objects) if o["kind"] == "Node"}
        plan = planned(kind, file, seed=seed, usd_per_hour=usd if kind == "consolidate" else None)
        given, chance = cluster_of(file), random.Random(seed)
        for _ in range(20 if plan.steps else 0):
            other = spoiled(plan, sorted(usd), chance)
            says = [word for word in Referee(objects).judge(other) if "to nobody more important" not in word]
            checked = check_steps(given, other)
            assert bool(checked) == bool(says), (seed, other.steps, says, checked)
            found[bool(says)] += 1
    assert min(found[True], found[False]) >= 10


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda n: n.update(spec={"unschedulable": True}), "it is cordoned"),
        (
            lambda n: n.update(spec={"taints": [{"key": "k", "value": "", "effect": "NoExecute"}]}),
            "it has a taint that the pod does not tolerate",
        ),
        (lambda n: n["metadata"]["labels"].update(pool="b"), "the pod's node selector asks for another"),
        (lambda n: n["metadata"]["labels"].update(disk="9"), "the pod's node affinity asks for another"),
        (lambda n: n["metadata"]["labels"].update(harmless="yes"), ""),
    ],
)
def test_the_checker_sees_that_a_node_has_changed_since_the_plan(
    change: Callable[[dict[str, Any]], None], why: str
) -> None:
    """Or pods would be evicted to make room for one that may not come."""
    home = node("a", 2)
    home["metadata"]["labels"] = {"pool": "a", "disk": "3"}
    small = [{"matchExpressions": [{"key": "disk", "operator": "Lt", "values": ["5"]}]}]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": small}}}
    waits = pod("w-1", "2", priority=9, nodeSelector={"pool": "a"}, affinity=affinity)
    things = [home, pod("low-1", "2", "a"), waits]
    plan = planned("rescue", taken(*things))
    assert evicted(plan) == ["default/low-1"]
    change(home)
    assert check_steps(cluster_of(taken(*things)), plan) == ([f"step 1: a takes no such pod: {why}"] if why else [])


def test_the_checker_sees_that_a_node_has_been_marked_since_the_plan() -> None:
    things = [node("a"), node("b"), pod("x-1", "1", "a"), pod("y-1", "1", "b")]
    plan = planned("consolidate", taken(*things), usd_per_hour={"a": 2.0, "b": 1.0})
    assert plan.count(Action.DELETE) == 1
    things[0]["metadata"]["annotations"] = {"karpenter.sh/do-not-disrupt": "true"}
    assert any("a must not be deleted" in word for word in check_steps(cluster_of(taken(*things)), plan))


@pytest.mark.parametrize(
    ("kind", "question", "says"),
    [
        ("consolidate", {"usd_per_hour": {"a": -1.0}}, "price of node a, USD/h, of -1 is not usable"),
        ("consolidate", {"usd_per_hour": {"a": 1e300}}, "price of node a"),
        ("consolidate", {"usd_per_move": float("nan")}, "USD per move of nan"),
        ("consolidate", {"interruptions_per_hour": float("inf")}, "interruptions per hour of inf"),
        ("purchase", {"shapes": (SaleShape("s", {"cpu": -5}, 1.0),)}, "shape s: cpu=-5 is out of range"),
        ("purchase", {"shapes": (SaleShape("s", {"cpu": 5}, 1.0, num_gpus=-1),)}, "shape s: devices=-1"),
        ("purchase", {"shapes": (SaleShape("s", {"cpu": 5}, 1.0, limit=-2),)}, "a limit of -2 is not possible"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(kind: str, question: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        planned(kind, taken(node("a"), pod("w-1", "1")), **question)


@pytest.mark.parametrize("kind", ["rescue", "consolidate", "purchase"])
def test_quantities_that_no_sum_holds_are_refused_before_anybody_adds_them_up(kind: str) -> None:
    nodes = [node(name) for name in "abc"]
    for one in nodes:
        one["status"]["allocatable"]["memory"] = "3Ei"
    with pytest.raises(ConfigError, match=r"nodes offer .* of memory in all, too much to add up"):
        planned(kind, taken(*nodes, pod("w-1", "1")))
    file = taken(node("a"), *(pod(f"w-{i}", "1") for i in range(2)))
    file.specs = [replace(spec, request=(("cpu", 1000), ("memory", 2**61))) for spec in file.specs]
    with pytest.raises(ConfigError, match=r"pending pods ask for .* of memory in all"):
        planned(kind, file)


def test_a_node_that_costs_nothing_is_not_emptied() -> None:
    file = taken(node("a"), node("b"), pod("x-1", "1", "a"), pod("y-1", "1", "b"))
    plan = planned("consolidate", file, usd_per_hour={"a": 0.0, "b": 0.0})
    assert (plan.steps, plan.value, plan.ending) == ((), 0.0, Ending.OPTIMAL)


def test_pods_whose_node_is_gone_are_left_out() -> None:
    """The API lists them until somebody collects them, or for ever if they have finalizers."""
    file = taken(node("a"), pod("x-1", "1", "gone"), pod("y-1", "1", "a"))
    assert list(cluster_of(file).state.residents) == [file.pods[0].uid]
    assert file.pods[0].name == "default/y-1"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: f.nodes.append(f.nodes[0]), "node a is in the snapshot twice"),
        (
            lambda f: setattr(f.pods[0], "node", "ghost"),
            "pod default/x-1 is on node ghost, which is not in the snapshot",
        ),
        (lambda f: setattr(f.pods[0], "devices", 4), "holds devices that it did not ask for"),
        (lambda f: f.pods.append(f.pods[0]), "another pod has the same UID"),
        (lambda f: f.specs.__setitem__(0, replace(f.specs[0], priority=2**40)), "Kubernetes has 32-bit priorities"),
    ],
)
def test_a_snapshot_that_contradicts_itself_is_refused_by_name(
    damage: Callable[[SnapshotFile], Any], says: str
) -> None:
    file = taken(node("a"), pod("x-1", "1", "a"))
    damage(file)
    with pytest.raises(SnapshotError, match=says):
        cluster_of(file)


TAINT = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}


@pytest.mark.parametrize("role", ["control-plane", "master", "etcd"])
def test_a_consolidation_leaves_the_control_plane_alone(role: str) -> None:
    """Its pods go with their node, and so keep none; CoreDNS would find room elsewhere."""
    control = node("a", 8, labels={f"node-role.kubernetes.io/{role}": ""}) | {"spec": {"taints": [TAINT]}}
    static = pod("etcd-a", "1", "a", owner="Node")
    dns = pod("dns-1", "1", "a", tolerations=[{"key": TAINT["key"], "operator": "Exists"}])
    plan = planned("consolidate", taken(control, node("b"), node("c"), static, dns, pod("x-1", "1", "b")))
    assert [step.source for step in plan.steps if step.action == Action.DELETE] == ["c"]
    assert f"1 of 3 nodes stay: label node-role.kubernetes.io/{role}" in plan.reasons


@pytest.mark.parametrize(
    "usd", [{"a": 2.0, "b": 1.0, "c": 1.0, "t": 3.0}, {"a": 1.0, "b": 1.0, "c": 1.0, "t": 1.0}, None]
)
@pytest.mark.parametrize("risk", [0.0, 0.1])
def test_one_open_node_stays_for_pods_that_come_next(usd: dict[str, float] | None, risk: float) -> None:
    """The cheapest, and of those the largest; a node with a taint, and one that is cordoned, are none."""
    nodes = [node("a", 8), node("b", 4), node("c", 6), node("t", 9) | {"spec": {"taints": [TAINT]}}]
    tolerant = pod("x-1", "1", "t", tolerations=[{"key": TAINT["key"], "operator": "Exists"}])
    stays = "c" if usd and usd["a"] > 1 else "a"
    for more in ((), (tolerant,), (pod("x-1", "1", "b"),)):
        plan = planned(
            "consolidate",
            taken(*nodes, *more),
            usd_per_hour=usd,
            interruptions_per_hour=risk,
            usd_per_interruption=1.0,
        )
        gone = {step.source for step in plan.steps if step.action == Action.DELETE}
        assert len(gone) == 3, f"{more}"
        assert plan.ending == Ending.OPTIMAL
        if more[:1] == (tolerant,) or not more:
            assert gone == set("abct") - {stays}
    cordoned = [one | {"spec": {"unschedulable": one["metadata"]["name"] in "ab"}} for one in nodes[:3]]
    plan = planned("consolidate", taken(*cordoned), usd_per_hour=usd, max_nodes=3)
    assert {step.source for step in plan.steps} == {"a", "b"}
    assert sum("stays for pods that come next" in reason for reason in plan.reasons) == 1
    plan = planned("consolidate", taken(*cordoned, node("d")), usd_per_hour=usd and {**usd, "d": 1.0}, max_nodes=1)
    assert plan.count(Action.DELETE) == 1
    assert not any("stays for pods that come next" in reason for reason in plan.reasons), "others stay as well"


@pytest.mark.parametrize(("most", "saved"), [(0, 0.0), (1, 4.0), (2, 7.0), (3, 9.0), (None, 9.0)])
def test_no_more_nodes_are_emptied_than_allowed_and_the_dearest_go(most: int | None, saved: float) -> None:
    nodes = [node(name) for name in "abcd"]
    running = [pod(f"x{name}-1", "1", name) for name in "abcd"]
    usd = {"a": 2.0, "b": 4.0, "c": 3.0, "d": 1.0}
    plan = planned("consolidate", taken(*nodes, *running), max_nodes=most, usd_per_hour=usd)
    assert (plan.value, plan.bound, plan.ending) == (saved, saved, Ending.OPTIMAL)
    assert plan.count(Action.DELETE) == (3 if most is None else most)
    with_risk = planned(
        "consolidate",
        taken(*nodes, *running),
        max_nodes=most,
        usd_per_hour=usd,
        interruptions_per_hour=0.1,
        usd_per_interruption=1.0,
    )
    assert with_risk.value == pytest.approx(saved)


def test_a_budget_of_nodes_keeps_the_bound_true_where_other_nodes_than_the_dearest_were_better() -> None:
    """Without the budget c and d go, which is more than b; with it c alone goes, which is less."""
    nodes = [node("b", 6), node("c"), node("d"), node("t", 7)]
    fixed = pod("f-1", "1", "t")
    fixed["metadata"]["ownerReferences"] = []
    running = [fixed, pod("b-1", "6", "b"), pod("c-1", "3", "c"), pod("d-1", "3", "d")]
    usd = {"b": 3.9, "c": 3.0, "d": 1.0, "t": 9.0}
    assert planned("consolidate", taken(*nodes, *running), usd_per_hour=usd).value == 4.0
    plan = planned("consolidate", taken(*nodes, *running), max_nodes=1, usd_per_hour=usd)
    assert plan.bound is not None
    assert plan.value <= 3.9 <= plan.bound + 1e-9
    assert plan.value >= 3.9 - 1e-9 or plan.ending != Ending.OPTIMAL


def test_a_budget_of_fewer_than_no_nodes_is_refused() -> None:
    with pytest.raises(ConfigError, match="a budget of -1 nodes is not possible"):
        planned("consolidate", taken(node("a")), max_nodes=-1)


def test_a_table_for_machines_has_its_header_and_no_words_of_people(tmp_path: Path) -> None:
    write_snapshot(taken(node("a"), pod("w-1", "1"), pod("x-1", "9")), tmp_path / "some.json")
    write_snapshot(taken(node("a")), tmp_path / "none.json")
    for name, rows in (("some", ["1,place,default/w-1,,a"]), ("none", [])):
        words = ["batch", "--snapshot", str(tmp_path / f"{name}.json"), "--time", "0.2", "-o", "csv"]
        done = CliRunner().invoke(plan_group, words)
        assert done.stdout.splitlines() == ["step,action,pod,from,to", *rows]
        assert ("default/x-1" if rows else "nothing is pending") in done.stderr


CLAIM = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]


@pytest.mark.parametrize("kind", ["rescue", "batch"])
def test_where_the_model_covers_nobody_who_waits_nothing_is_called_infeasible(kind: str) -> None:
    waits = [gpu_pod(f"g{i}-1", 500) if kind == "rescue" else pod(f"v{i}-1", "1", volumes=CLAIM) for i in range(2)]
    plan = planned(kind, taken(node("a"), *waits))
    assert (plan.ending, plan.steps, plan.gap_share) == (Ending.OPTIMAL, (), 0.0)
    assert plan.reasons[0].startswith("nobody is planned for: 2 pods wait, and all are left to the scheduler. ")
    why = "it asks for GPU devices" if kind == "rescue" else "claim data is not modelled"
    assert [reason.endswith(f"is left to the scheduler: {why}") for reason in plan.reasons[1:]] == [True, True]
    assert "the model does not cover who waits" in headline(plan)
    beside = planned(kind, taken(node("a"), *waits, pod("w-1", "50")))
    assert (beside.value, beside.bound, beside.steps) == (0, 0, ())
    assert beside.ending != Ending.INFEASIBLE, "one can be placed nowhere; of the others nothing is known"
    assert "nothing better exists" in headline(beside)


def test_a_purchase_for_pods_that_are_not_modelled_is_not_called_infeasible() -> None:
    shape = SaleShape("m", {"cpu": 8000, "memory": 64 * 2**30, "pods": 110}, 1.0)
    waits = pod("v-1", "9", volumes=CLAIM)
    plan = planned("purchase", taken(node("a"), waits), shapes=(shape,))
    assert (plan.ending, plan.steps) == (Ending.OPTIMAL, ())
    assert "nothing is bought: whether a new node would help who is not modelled is not known" in plan.reasons
    both = planned("purchase", taken(node("a"), waits, pod("w-1", "50")), shapes=(shape,))
    assert both.ending == Ending.OPTIMAL
    assert planned("purchase", taken(node("a"), pod("w-1", "50")), shapes=(shape,)).ending == Ending.INFEASIBLE


@pytest.mark.parametrize("kind", ["rescue", "batch"])
def test_what_no_node_could_take_is_infeasible_with_the_rules_that_conflict(kind: str) -> None:
    far = pod("w-1", "1", nodeSelector={"disk": "ssd"})
    plan = planned(kind, taken(node("a"), pod("x-1", "2", "a"), pod("w-2", "50"), far))
    assert (plan.ending, plan.steps) == (Ending.INFEASIBLE, ())
    assert any("default/w-2: no node could take it even if empty: too small: cpu" in reason for reason in plan.reasons)
    assert any("default/w-1: no node could take it even if empty: node(s) didn't match" in why for why in plan.reasons)
    some = planned(kind, taken(node("a"), pod("w-2", "50"), pod("w-3", "1")))
    assert (some.ending, len(some.steps)) == (Ending.OPTIMAL, 1)
