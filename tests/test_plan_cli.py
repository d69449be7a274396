"""`ullage snapshot` and `ullage plan`: from Kubernetes objects to a checked plan, and every refusal in one message."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from placement.errors import ConfigError
from placement.nodes import NodeSpec
from placement.planning.make import PlanningError, SaleShape, plan_document
from placement.planning.plan_check import check_steps
from placement.planning.plans import Action, Ending, Plan, Step
from placement.planning.rescue_problems import rescue_problem
from placement.planning.snapshots import SnapshotError, SnapshotFile, cluster_of, snapshot_of_objects
from placement.pods import PodSpec
from scheduler.cli.plan import apply
from simulator.cli.plan import plan as plan_group
from simulator.cli.plan import snapshot
from simulator.output import progress
from simulator.planning.page import brief, further, headline, page, step_rows
from simulator.planning.snapshots import read_snapshot, write_snapshot
from simulator.planning.trace_snapshot import snapshot_of_trace
from simulator.planning.worker import Planner, Request, make_plan
from simulator.traces.trace import Trace, TraceError
from tests.plan_objects import budget, gpu_pod, node, one_of, pod, taken

FRAGMENTED = (node("a"), node("b"), pod("x-1", "2", "a"), pod("z-1", "1", "a"), pod("y-1", "3", "b"))
"""One core is free on each node; two fit on a once z has moved to b."""


def test_a_rescue_moves_one_pod_to_make_room() -> None:
    plan = make_plan(Request("rescue", taken(*FRAGMENTED, pod("w-1", "2")), 1.0))
    assert [(s.action, s.name, s.target) for s in plan.steps] == [
        (Action.MOVE, "default/z-1", "b"),
        (Action.PLACE, "default/w-1", "a"),
    ]
    assert plan.ending == Ending.OPTIMAL
    assert plan.gap_share == 0
    assert further(plan) == "1 running pod is displaced; with these many pods placed fewer would not do."
    few = replace(plan, details={**plan.details, "moves": 3.0})
    assert further(few) == "3 running pods are displaced; with these many pods placed at least 1 must be."
    unknown = replace(plan, details={**plan.details, "displaced_bound": 0.0})
    assert further(unknown) == "1 running pod is displaced; whether fewer would do is not known."


def test_the_headline_counts_the_pods_that_wait_and_no_other_lines() -> None:
    overfull = node("full", 1), pod("f-1", "3", "full")
    for kind in ("batch", "rescue"):
        plan = make_plan(Request(kind, taken(*FRAGMENTED, *overfull, pod("w-1", "1"), pod("w-2", "9")), 1.0))
        assert headline(plan).startswith(f"{kind}: places 1 of 2 pending pods;")


def test_a_rescue_evicts_only_what_matters_less() -> None:
    full = (node("a", 2), pod("low-1", "2", "a", priority=1))
    equal = make_plan(Request("rescue", taken(*full, pod("w-1", "2", priority=1)), 0.5))
    assert equal.steps == ()
    higher = make_plan(Request("rescue", taken(*full, pod("w-1", "2", priority=2)), 0.5))
    assert [(s.action, s.name) for s in higher.steps] == [
        (Action.EVICT, "default/low-1"),
        (Action.PLACE, "default/w-1"),
    ]
    polite = make_plan(Request("rescue", taken(*full, pod("w-1", "2", priority=2, preemptionPolicy="Never")), 0.5))
    assert polite.steps == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": "true"}}},
        {"metadata": {"annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}}},
        {"owner": "DaemonSet"},
        {"metadata": {"ownerReferences": []}},
        {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]},
    ],
)
def test_what_is_marked_or_not_modelled_is_never_touched(changes: dict[str, Any]) -> None:
    marked = pod("low-1", "2", "a", **changes)
    plan = make_plan(Request("rescue", taken(node("a", 2), marked, pod("w-1", "2", priority=9)), 0.5))
    assert plan.steps == ()


def test_a_disruption_budget_that_allows_none_keeps_its_pods() -> None:
    kept = one_of("db", "low-1", "2", "a")
    plan = make_plan(Request("rescue", taken(node("a", 2), kept, budget(0), pod("w-1", "2", priority=9)), 0.5))
    assert plan.steps == ()


def test_consolidation_empties_a_node_and_says_what_it_saves() -> None:
    file = taken(node("a"), node("b"), pod("x-1", "1", "a"), pod("y-1", "1", "b"))
    request = Request("consolidate", file, 5.0, usd_per_hour={"a": 0.2, "b": 0.5}, usd_per_move=0.01)
    plan = make_plan(request)
    assert [s.action for s in plan.steps] == [Action.CORDON, Action.MOVE, Action.DELETE]
    assert plan.steps[-1].source == "b"
    assert plan.usd_per_hour == pytest.approx(0.5)
    assert plan.payback_s == pytest.approx(0.01 / 0.5 * 3600)
    without = make_plan(Request("consolidate", file, 5.0))
    assert without.usd_per_hour is None
    assert "no prices are known" in without.reasons[0]


@pytest.mark.parametrize(("in_use", "beside_devices"), [("100m", 0), ("5500m", 1), ("7500m", 3)])
def test_pods_that_leave_their_node_take_the_room_beside_devices_last(in_use: str, beside_devices: int) -> None:
    """Three pods of a core move; a node of eight has more or less room, and less would be free on the one with a GPU."""
    gpu = node("gpu")
    gpu["status"]["allocatable"]["nvidia.com/gpu"] = "1"
    running = [pod(f"x{i}-1", "1", "c") for i in range(3)]
    file = taken(gpu, node("b", 8), node("c"), *running, pod("b-1", in_use, "b"))
    plan = make_plan(Request("consolidate", file, 5.0, usd_per_hour={"gpu": 0.0, "b": 0.0, "c": 1.0}))
    assert plan.count(Action.DELETE) == 1
    assert sum(step.target == "gpu" for step in plan.steps) == beside_devices


def test_a_gang_is_placed_whole_or_not_at_all() -> None:
    gang = {"labels": {"pod-group.scheduling.sigs.k8s.io/name": "train"}}
    members = [pod(f"g{i}-0", "3", metadata=gang) for i in range(3)]
    none = make_plan(Request("batch", taken(node("a"), node("b"), *members), 2.0))
    assert none.count(Action.PLACE) == 0
    whole = make_plan(Request("batch", taken(node("a"), node("b"), node("c"), *members), 2.0))
    assert whole.count(Action.PLACE) == 3


def test_consolidation_keeps_the_room_of_pods_that_are_about_to_start() -> None:
    objects = (node("a"), node("b"), pod("q-1", "1", "a"), pod("p-1", "4"))
    plan = make_plan(Request("consolidate", taken(*objects), 1.0, usd_per_hour={"a": 1.0, "b": 1.0}))
    assert plan.steps == ()
    assert "room is kept for 1 pending pod that fits now; its node stays" in plan.reasons
    small = (node("a"), node("b"), pod("q-1", "1", "a"), pod("p-1", "3"))
    plan = make_plan(Request("consolidate", taken(*small), 1.0, usd_per_hour={"a": 1.0, "b": 1.0}))
    assert [s.source for s in plan.steps if s.action == Action.DELETE] == ["b"]
    hopeless = (node("a"), node("b"), pod("q-1", "1", "a"), pod("p-1", "5"))
    plan = make_plan(Request("consolidate", taken(*hopeless), 1.0, usd_per_hour={"a": 1.0, "b": 1.0}))
    assert len([s for s in plan.steps if s.action == Action.DELETE]) == 1


def test_consolidation_keeps_room_for_the_most_important_first() -> None:
    """With room kept for both others, on a and on b, the pods of c would find room where the important one is to go."""
    running = (pod("q-1", "1", "a"), pod("r-1", "1", "b"), pod("x-1", "1", "c"), pod("y-1", "1", "c"))
    waiting = (pod("i-1", "3", priority=9), pod("l-1", "2"), pod("l-2", "2"))
    plan = make_plan(Request("consolidate", taken(node("a"), node("b"), node("c", 2), *running, *waiting), 1.0))
    assert plan.steps == ()
    assert "room is kept for 2 pending pods that fit now; their nodes stay" in plan.reasons


def test_consolidation_keeps_room_on_nodes_that_stay_anyway() -> None:
    fixed = pod("f-1", "1", "a")
    fixed["metadata"]["ownerReferences"] = []
    plan = make_plan(
        Request("consolidate", taken(node("a"), node("b"), fixed, pod("q-1", "2", "b"), pod("p-1", "1")), 1.0)
    )
    assert [s.source for s in plan.steps if s.action == Action.DELETE] == ["b"]


def test_nodes_that_save_most_per_move_go_first() -> None:
    running = (pod("x-1", "1", "a"), pod("y-1", "1", "b"), pod("z-1", "1", "c"), pod("z-2", "1", "c"))
    usd = {"a": 1.0, "b": 3.0, "c": 4.0, "big": 9.0}
    fixed = pod("f-1", "1", "big")
    fixed["metadata"]["ownerReferences"] = []
    file = taken(*(node(name) for name in "abc"), node("big", 16), *running, fixed)
    plan = make_plan(Request("consolidate", file, 5.0, usd_per_hour=usd))
    assert [s.source for s in plan.steps if s.action == Action.CORDON] == ["b", "c", "a"]


def test_a_budget_of_fewer_than_no_moves_is_refused() -> None:
    with pytest.raises(ConfigError, match="a budget of -1 moves is not possible"):
        make_plan(Request("consolidate", taken(node("a")), 1.0, max_moves=-1))


def test_what_cannot_be_used_is_named_with_its_object() -> None:
    with pytest.raises(ConfigError, match=r"pod default/p-1: quantity '-1' of cpu is negative"):
        taken(node("a"), pod("p-1", "-1"))
    broken = node("a")
    broken["status"]["allocatable"]["cpu"] = "-1"
    with pytest.raises(ConfigError, match="node a: quantity '-1' of cpu is negative"):
        taken(broken)


@pytest.mark.parametrize("kind", ["rescue", "batch", "consolidate", "purchase"])
@pytest.mark.parametrize("home", ["", "b"])
def test_a_pod_that_asks_for_nonsense_keeps_nobody_else_from_a_plan(kind: str, home: str) -> None:
    """One tenant's mistake, whoever plans for all."""
    of_devices = pod("y-1", "1", home)
    of_devices["metadata"]["annotations"] = {"ullage.dev/gpu-count": "nonsense"}
    of_devices["spec"]["containers"][0]["resources"]["requests"]["ullage.dev/gpu-milli"] = "1000"
    large, larger = pod("x-1", "9" * 20, home), pod("z-1", "1", home)
    larger["spec"]["containers"][0]["resources"]["requests"]["memory"] = "3Ei"
    other = [pod(f"o{number}-1", "1", "a") for number in range(2)]
    file = taken(node("a"), node("b"), large, of_devices, larger, pod("w-1", "1"), *other)
    shapes = (PLAIN,) if kind == "purchase" else ()
    plan = make_plan(Request(kind, file, 5.0, usd_per_hour={"a": 1.0, "b": 2.0}, shapes=shapes))
    touched = {step.name for step in plan.steps if step.pod}
    assert not touched & {"default/x-1", "default/y-1", "default/z-1"}
    if kind in ("rescue", "batch"):
        assert touched == {"default/w-1"}
    whys = {p.name: p.stays if home else p.waits for p in file.pods}
    assert "of cpu is too large" in whys["default/x-1"]
    assert "does not divide" in whys["default/y-1"]
    assert whys["default/z-1"] == "it asks for 3,221,225,472 GiB of memory"
    assert whys["default/w-1"] == ""


def test_pods_of_an_overfull_node_stay_and_everybody_else_is_planned_for() -> None:
    """A node that was made smaller is overfull until somebody leaves; a fresh snapshot would show the same."""
    nodes = [node("a"), node("b", 2)]
    running = [pod("q-1", "5", "a"), pod("r-1", "1", "a"), pod("s-1", "2", "b")]
    plan = make_plan(Request("rescue", taken(*nodes, *running, pod("p-1", "2", priority=10)), 5.0))
    steps = [(s.action, s.name, s.target) for s in plan.steps]
    assert steps == [(Action.EVICT, "default/s-1", ""), (Action.PLACE, "default/p-1", "b")]
    assert plan.reasons[0] == "node a is overfull, its pods stay: they ask for 2 cores of cpu more"


def test_a_purchase_says_that_shapes_have_no_labels() -> None:
    plan = make_plan(
        Request("purchase", taken(node("a"), pod("p-1", "1", nodeSelector={"d": "x"})), 1.0, shapes=(PLAIN,))
    )
    assert plan.details["housed"] == 0
    assert plan.reasons[0].startswith("1 pods choose nodes by label or name (default/p-1")


GIB = 2**30
PLAIN = SaleShape("plain", {"cpu": 8000, "memory": 64 * GIB, "pods": 110}, 1.0)
T4 = SaleShape("t4", {"cpu": 8000, "memory": 64 * GIB, "pods": 110}, 3.0, num_gpus=2, gpu_model="T4")


def test_a_purchase_buys_devices_for_shares_and_for_whole_ones() -> None:
    pods = (gpu_pod("s-1", 500), gpu_pod("s-2", 500, models="T4"), gpu_pod("w-1", 0, plugin=True))
    plan = make_plan(Request("purchase", taken(node("a"), *pods), 2.0, shapes=(PLAIN, T4)))
    assert [s.name for s in plan.steps] == ["t4"]
    assert (plan.value, plan.ending, plan.reasons) == (3.0, Ending.OPTIMAL, ())
    more = make_plan(Request("purchase", taken(node("a"), *pods, gpu_pod("w-2", 0, plugin=True)), 2.0, shapes=(T4,)))
    assert [s.name for s in more.steps] == ["t4", "t4"]


def test_the_bound_of_a_purchase_is_for_the_shares_as_they_are() -> None:
    """Five shares of .4 are bought as halves; exact ones might need less, so nothing is called optimal."""
    pods = [gpu_pod(f"s-{i}", 400) for i in range(5)]
    plan = make_plan(Request("purchase", taken(node("a"), *pods), 2.0, shapes=(T4,)))
    assert (plan.value, plan.ending) == (6.0, Ending.DEADLINE)
    assert plan.bound is not None
    assert plan.bound <= 3.1


def test_a_purchase_names_pods_whose_device_nobody_sells() -> None:
    pods = (gpu_pod("a-1", 1000, models="A100"), pod("c-1", "5"))
    plan = make_plan(Request("purchase", taken(node("a"), *pods), 2.0, shapes=(PLAIN, T4)))
    assert [s.name for s in plan.steps] == ["plain"]
    assert plan.reasons == ("pod default/a-1 is left out: no shape for sale has GPU devices of model A100",)
    none = make_plan(Request("purchase", taken(node("a"), *pods[:1]), 2.0, shapes=(PLAIN,)))
    assert none.reasons == ("pod default/a-1 is left out: no shape for sale has GPU devices",)
    assert none.ending == Ending.INFEASIBLE


def bought(*objects: dict[str, Any], shapes: tuple[SaleShape, ...] = (), **question: Any) -> Plan:
    """A purchase beside these nodes and pods."""
    return make_plan(Request("purchase", taken(*objects), 1.0, shapes=shapes or (PLAIN, T4), **question))


ROOM = "{} pods find room on the nodes that are there"


def test_a_purchase_is_only_for_pods_that_fit_on_no_node_that_is_there() -> None:
    pods = [pod(f"w-{i}", "3") for i in range(3)]
    plan = bought(node("a"), node("b"), pod("x-1", "3", "b"), *pods)
    assert [s.name for s in plan.steps] == ["plain"], "one fits beside nobody on a, two are bought for"
    assert plan.reasons == (ROOM.format(1),)
    assert plan.details == {"nodes plain": 1.0, "housed": 1.0}
    enough = bought(*(node(name) for name in "abc"), *pods)
    assert (enough.ending, enough.value, enough.steps) == (Ending.OPTIMAL, 0.0, ())
    assert enough.reasons == (ROOM.format(3), "the nodes that are there are enough")
    assert enough.details == {"housed": 3.0}
    closed = bought({**node("a"), "spec": {"unschedulable": True}}, pod("w-1", "3"))
    assert [s.name for s in closed.steps] == ["plain"]
    nobody = bought(node("a"))
    assert (nobody.ending, nobody.reasons) == (Ending.OPTIMAL, ("nothing is pending",))


def test_with_and_without_foresight_a_purchase_places_who_fits_in_the_same_way() -> None:
    objects = (node("a"), gpu_pod("s-1", 500), *(pod(f"w-{i}", str(i)) for i in range(1, 5)))
    plain, ahead = bought(*objects), bought(*objects, foresight=("nothing is expected",))
    assert plain.steps == ahead.steps
    assert plain.details == ahead.details
    assert ahead.reasons == ("nothing is expected", *plain.reasons)


def test_room_of_a_pod_that_is_not_modelled_is_kept_and_the_pod_is_named_all_the_same() -> None:
    claim: dict[str, Any] = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}
    plan = bought(node("a"), pod("v-1", "3", priority=1, **claim), pod("w-1", "3"))
    assert [s.name for s in plan.steps] == ["plain"]
    assert plan.reasons == ("pod default/v-1 is left out: claim data is not modelled",)
    assert plan.details["housed"] == 0


def test_pods_that_fit_on_no_shape_are_left_out_with_what_is_short_and_the_others_bought_for() -> None:
    small = SaleShape("small", {"cpu": 2000, "memory": 64 * GIB, "pods": 110}, 0.1)
    large = [pod(f"x-{i}", "50") for i in range(2)]
    plan = bought(node("a", cpu=1), pod("w-1", "3"), *large, shapes=(small, PLAIN))
    assert ([s.name for s in plan.steps], plan.ending, plan.value) == (["plain"], Ending.OPTIMAL, 1.0)
    why = "is left out: it fits on no shape for sale; the nearest, plain, has 8 cores of cpu (50 cores asked for)"
    assert plan.reasons == (f"pod default/x-0 {why}", f"pod default/x-1 {why}")
    none = bought(node("a", cpu=1), *large, shapes=(small, PLAIN))
    assert (none.ending, none.steps) == (Ending.INFEASIBLE, ())
    assert none.reasons == plan.reasons
    some = bought(node("a", cpu=1), pod("w-1", "1"), large[0], shapes=(small, PLAIN))
    assert (some.ending, some.steps) == (Ending.OPTIMAL, ())
    assert some.reasons == (ROOM.format(1), plan.reasons[0], "the nodes that are there are enough for the others")


def test_the_nearest_shape_is_the_one_whose_scarcest_resource_is_exceeded_least() -> None:
    wide = SaleShape("wide", {"cpu": 64_000, "memory": GIB // 2, "pods": 110}, 1.0)
    asks = pod("x-1", "16")
    asks["spec"]["containers"][0]["resources"]["requests"]["memory"] = "96Gi"
    plan = bought(node("a"), asks, shapes=(wide, PLAIN))
    short = "8 cores of cpu (16 cores asked for) and 64 GiB of memory (96 GiB asked for)"
    assert plan.reasons[0].endswith(f"the nearest, plain, has {short}")
    many = gpu_pod("g-1", 0, plugin=True)
    many["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] = "3"
    assert "t4, has 2 of GPU devices (3 asked for)" in bought(node("a"), many).reasons[0]


def test_a_pod_that_must_not_be_interrupted_is_left_out_where_only_spot_is_for_sale() -> None:
    spot = SaleShape("cheap", {"cpu": 8000, "memory": 64 * GIB, "pods": 110}, 0.1, spot=True)
    marks: dict[str, Any] = {"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": "true"}}}
    plan = bought(node("a", cpu=1), pod("m-1", "5", **marks), pod("w-1", "5"), shapes=(spot,))
    assert [s.name for s in plan.steps] == ["cheap"]
    assert plan.reasons[0].startswith("pod default/m-1 is left out: it must not be interrupted")


def test_the_checker_finds_what_is_wrong_with_a_plan() -> None:
    cluster = cluster_of(taken(*FRAGMENTED, pod("w-1", "3")))
    wrong = Plan("rescue", Ending.DEADLINE, "pods", 1, 2, (Step(Action.PLACE, "uid-w-1", "w-1", "", "a"),))
    assert check_steps(cluster, wrong) == ["step 0: cpu on a is exceeded"]
    lost = Plan("rescue", Ending.DEADLINE, "pods", 1, 2, (Step(Action.MOVE, "uid-x-1", "x-1", "b", "a"),))
    assert "uid-x-1 is not on b" in check_steps(cluster, lost)[0]


def test_what_a_node_has_too_little_of_stops_only_pods_that_ask_for_it() -> None:
    """A device plugin that went away leaves its pods on a node that offers none any more."""
    odd = node("a")
    odd["status"]["allocatable"]["example.com/fpga"] = "0"
    holds = pod("x-1", "1", "a")
    holds["spec"]["containers"][0]["resources"]["requests"]["example.com/fpga"] = "1"
    asks = pod("w-2", "1")
    asks["spec"]["containers"][0]["resources"]["requests"]["example.com/fpga"] = "1"
    cluster = cluster_of(taken(odd, holds, pod("w-1", "1"), asks))

    def wrong(name: str) -> list[str]:
        steps = (Step(Action.PLACE, f"uid-{name}", name, "", "a"),)
        return check_steps(cluster, Plan("rescue", Ending.DEADLINE, "pods", 1, 2, steps))

    assert wrong("w-1") == []
    assert wrong("w-2") == ["step 0: example.com/fpga on a is exceeded"]


def test_the_checker_counts_pods_too() -> None:
    small = node("a")
    small["status"]["allocatable"]["pods"] = "1"
    cluster = cluster_of(taken(small, pod("x-1", "1", "a"), pod("w-1", "1")))
    step = Step(Action.PLACE, "uid-w-1", "w-1", "", "a")
    assert check_steps(cluster, Plan("rescue", Ending.DEADLINE, "pods", 1, 2, (step,))) == [
        "step 0: pods on a is exceeded"
    ]


@pytest.mark.parametrize("item", [b'{"kind":"\xff"}', b'{"kind":"Node","x":' + b"[" * 100_000, b"7"])
def test_what_is_no_list_of_objects_is_said_to_be_none(item: bytes) -> None:
    with pytest.raises(SnapshotError, match="the input is not a list of Kubernetes objects"):
        snapshot_of_objects(b'{"items":[' + item)


def test_a_cluster_without_nodes_is_refused() -> None:
    with pytest.raises(SnapshotError, match="holds no Node"):
        taken(pod("w-1", "1"))
    empty = cluster_of(SnapshotFile("ClusterSnapshot", 1, [], [], []))
    with pytest.raises(ConfigError, match="has no nodes"):
        rescue_problem(empty)
    with pytest.raises(SnapshotError, match="the input is a snapshot already"):
        snapshot_of_objects(msgspec.json.encode(taken(node("a"))))


def test_a_snapshot_file_comes_back_as_it_was(tmp_path: Path) -> None:
    file = taken(*FRAGMENTED)
    write_snapshot(file, tmp_path / "s.json")
    assert read_snapshot(tmp_path / "s.json") == file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind":"ClusterSnapshot","version":99}', "version 99 is not the version 1"),
        ('{"kind":"List"}', "kind is List, not ClusterSnapshot"),
        ('{"kind":"ClusterSnapshot","version":1,"nodes":', "damaged"),
        ('{"kind":"\xff"}', "damaged"),
        ('{"kind":"ClusterSnapshot","version":1,"x":' + "[" * 100_000, "damaged"),
    ],
)
def test_a_foreign_snapshot_says_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SnapshotError, match=message):
        read_snapshot(path)


def test_the_snapshot_command_reads_what_kubectl_prints(tmp_path: Path) -> None:
    objects = tmp_path / "objects.json"
    objects.write_text(json.dumps({"kind": "List", "items": [*FRAGMENTED, {"kind": "Secret"}]}))
    result = CliRunner().invoke(snapshot, [str(objects), "-f", str(tmp_path / "s.json")], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(read_snapshot(tmp_path / "s.json").pods) == 3
    assert "note: the list holds no Namespace, so it may lack disruption budgets as well" in result.stderr
    items = [*FRAGMENTED, {"kind": "Namespace", "metadata": {"name": "default"}}]
    objects.write_text(json.dumps({"kind": "List", "items": items}))
    result = CliRunner().invoke(snapshot, [str(objects), "-f", str(tmp_path / "s.json")], catch_exceptions=False)
    assert "note" not in result.stderr


def test_a_plan_that_can_be_acted_on_says_how(tmp_path: Path) -> None:
    write_snapshot(taken(*FRAGMENTED, pod("w-1", "2")), tmp_path / "s.json")
    words = ["rescue", "--snapshot", str(tmp_path / "s.json"), "--time", "1"]
    told = CliRunner().invoke(plan_group, words, catch_exceptions=False)
    assert "STEP  ACTION  POD" in told.stdout
    assert told.stderr.endswith("to act on it: the same with -o json > plan.json, then ullage plan apply plan.json\n")
    assert "note" not in CliRunner().invoke(plan_group, [*words, "-o", "json"], catch_exceptions=False).stderr


@pytest.mark.parametrize(
    ("waits", "said"),
    [
        (pod("w-1", "4"), "for the rest: ullage plan rescue makes room, ullage plan purchase says what to buy"),
        (pod("w-1", "9"), "for the rest: ullage plan purchase says what to buy"),  # no room here would do
        (pod("w-1", "1", resourceClaims=[{"name": "gpu"}]), ""),
        (pod("w-1", "1"), ""),
    ],
)
def test_a_batch_that_leaves_somebody_out_says_who_helps(waits: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_snapshot(taken(node("n1", cpu=4), pod("x-1", "1", "n1"), waits), tmp_path / "s.json")
    words = ["batch", "--snapshot", str(tmp_path / "s.json"), "--time", "1"]
    told = CliRunner().invoke(plan_group, words, catch_exceptions=False)
    assert next((line for line in told.stderr.splitlines() if "for the rest" in line), "") == said


@pytest.mark.parametrize(("number", "named"), [(1, "default/s-0"), (12, "default/s-9 and 2 more")])
def test_pods_on_nodes_that_are_not_listed_are_counted_and_named(number: int, named: str, tmp_path: Path) -> None:
    strays = [pod(f"s-{i}", "1", "gone") for i in range(number)]
    finished = pod("done-1", "1", "gone") | {"status": {"phase": "Succeeded"}}
    (tmp_path / "o.json").write_text(json.dumps({"items": [*FRAGMENTED, *strays, finished]}))
    words = [str(tmp_path / "o.json"), "-f", str(tmp_path / "s.json")]
    result = CliRunner().invoke(snapshot, words, catch_exceptions=False)
    said = result.stderr.splitlines()
    assert said[0].endswith("2 nodes, 3 pods, 0 of them pending")
    assert said[-1].startswith(f"note: left out: {number} pods on nodes that are not in the list: default/s-0")
    assert said[-1].endswith(named)
    assert read_snapshot(tmp_path / "s.json").left_out == [f"default/s-{i}" for i in range(number)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[a]\nb = 1\n[c.d]\nx = "y"\n', "is neither JSON nor YAML (line 2: expected '<document start>'"),
        ("\x07", "is neither JSON nor YAML (unacceptable character #x0007"),
        ("a: 2026-99-99", "is neither JSON nor YAML (month must be in 1..12)"),
        ("[" * 5000, "is neither JSON nor YAML (maximum recursion depth"),
        ('a = "b"', "is not a plan"),
    ],
)
def test_a_file_that_is_no_plan_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_text(text)
    result = CliRunner().invoke(apply, [str(tmp_path / "p")])
    assert isinstance(result.exception, ConfigError)
    message = str(result.exception)
    assert message.startswith(f"plan {tmp_path / 'p'}: {said}")
    assert message.endswith("; make one with `ullage plan … -o json`")
    assert len(message.splitlines()) == 1


def test_a_plan_needs_one_source_of_its_cluster(tmp_path: Path) -> None:
    write_snapshot(taken(*FRAGMENTED), tmp_path / "s.json")
    for words in ([], ["demo", "--snapshot", str(tmp_path / "s.json")], ["demo", "--live"]):
        with pytest.raises(ConfigError, match="give one of TRACE"):
            CliRunner().invoke(plan_group, ["rescue", *words], catch_exceptions=False)
    with pytest.raises(ConfigError, match="cannot read a cluster"):
        CliRunner().invoke(plan_group, ["rescue", "--live"], obj=None, catch_exceptions=False)
    target = ["-f", str(tmp_path / "t.json")]
    for words in (target, [*target, "--live", "x.json"]):
        with pytest.raises(ConfigError, match=r"either --live or a file of objects .*; -f names the file to write"):
            CliRunner().invoke(snapshot, words, catch_exceptions=False)
    with pytest.raises(ConfigError, match=r"objects none.json: cannot be read .No such file"):
        CliRunner().invoke(snapshot, [*target, "none.json"], catch_exceptions=False)
    assert "Missing option '-f'" in CliRunner().invoke(snapshot, ["--live", "x.json"]).stderr


def test_the_live_cluster_comes_from_whoever_can_read_it(tmp_path: Path) -> None:
    asked = []

    class Cluster:
        def snapshot(self, kubeconfig: str | None, context: str | None) -> SnapshotFile:
            asked.append((kubeconfig, context))
            return taken(*FRAGMENTED, pod("w-1", "2"))

    reader = Cluster()

    words = ["rescue", "--live", "--kubeconfig", "k", "--context", "c", "--time", "1", "-o", "json"]
    result = CliRunner().invoke(plan_group, words, obj=reader, catch_exceptions=False)
    assert json.loads(result.stdout)["steps"][-1]["target"] == "a"
    CliRunner().invoke(snapshot, ["--live", "-f", str(tmp_path / "s.json")], obj=reader, catch_exceptions=False)
    assert asked == [("k", "c"), (None, None)]
    assert read_snapshot(tmp_path / "s.json") == taken(*FRAGMENTED, pod("w-1", "2"))


def test_a_trace_at_one_moment_is_a_cluster() -> None:
    nodes = [NodeSpec("a", (("cpu", 4000), ("memory", 2**34), ("pods", 110)))]
    specs = [PodSpec((("cpu", cpu), ("memory", 2**30))) for cpu in (3000, 2000)]
    trace = Trace.of("t", nodes, [("u0", specs[0], 0, 100), ("u1", specs[1], 10, 50), ("u2", specs[0], 200, 300)])
    then = snapshot_of_trace(trace, strategy="best-fit", at_s=20, seed=0)
    assert [(p.uid, p.node) for p in then.pods] == [("u0", "a"), ("u1", "")]
    assert all(spec.owner for spec in then.specs), "a trace's pods may be moved"
    assert make_plan(Request("rescue", then, 1.0)).steps == ()
    last = snapshot_of_trace(trace, strategy="best-fit", at_s=None, seed=0)
    assert [(p.uid, p.node) for p in last.pods] == [("u2", "a")]
    with pytest.raises(
        TraceError, match="has no pod at second 150; they arrive in seconds 0 to 200, give another --at"
    ):
        snapshot_of_trace(trace, strategy="best-fit", at_s=150, seed=0)
    with pytest.raises(TraceError, match="has no pod"):
        snapshot_of_trace(Trace.of("t", nodes, []), strategy="best-fit", at_s=None, seed=0)


def test_a_worker_process_plans() -> None:
    planner = Planner(Request("rescue", taken(*FRAGMENTED, pod("w-1", "2")), 1.0))
    try:
        ticks: list[float] = []
        plan = planner.result(ticks.append)
        assert ticks[:1] in ([], [0.0]), "what it imports and compiles is no planning"
    finally:
        planner.close()
    assert plan.count(Action.PLACE) == 1


def test_a_seed_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed -1 is below 0"):
        make_plan(Request("rescue", taken(*FRAGMENTED, pod("w-1", "2")), 1.0, -1))


def test_a_planner_that_dies_says_of_what() -> None:
    planner = Planner(Request("rescue", taken(*FRAGMENTED, pod("w-1", "2")), 1.0))
    try:
        multiprocessing.active_children()[-1].kill()
        with pytest.raises(PlanningError, match=r"killed \(exit code -9\); memory may have run out"):
            planner.result()
    finally:
        planner.close()
    assert "please report it" in str(PlanningError.of_death(1))
    assert "memory may have run out" in str(PlanningError.of_death(-signal.SIGKILL))
    assert "told to end" in str(PlanningError.of_death(-signal.SIGTERM)), "with its whole group"


def test_an_unknown_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown plan 'dance'"):
        make_plan(Request("dance", taken(*FRAGMENTED), 1.0))


def test_the_page_is_one_file_and_escapes_names() -> None:
    file = taken(node("a"), node("b"), pod("x-1", "1", "a"), pod("y-1", "1", "b"))
    for p in file.pods:
        p.name = "<script>"
    plan = make_plan(Request("consolidate", file, 5.0, usd_per_hour={"a": 0.2, "b": 0.5}))
    html = page(cluster_of(file), plan)
    assert "<script>" not in html
    assert "<svg" in html
    assert re.search(r">25 → 50 %</text>", html), "what bars show is there to be read"
    assert "http" not in html.replace("http-equiv", "")
    assert "saves 0.50 USD per hour (365 a month)" in headline(plan)
    assert msgspec.json.decode(msgspec.json.encode(plan_document(plan)))["kind"] == "Plan"
    stopped = replace(plan, ending=Ending.DEADLINE, value=1.0, bound=1.0)
    assert "nothing better exists. " in headline(stopped)
    assert "at most 50 % from the best possible (deadline). " in headline(replace(stopped, bound=2.0))


def test_a_consolidation_says_why_nodes_stay() -> None:
    bare = pod("x", "1", "a", metadata={"ownerReferences": []})
    made = make_plan(Request("consolidate", taken(node("a"), bare), 1.0, usd_per_hour={"a": 0.2}))
    assert made.reasons == ("1 of 1 nodes stay: a pod there cannot be moved: nobody would recreate it (no controller)",)
    assert headline(made) == "consolidate: saves nothing; nothing better exists. No steps."


def test_nodes_bought_alike_are_one_row_for_people() -> None:
    shapes = ["a", "a", "a", "b", "a"]
    steps = [Step(Action.BUY, name=shape, target=f"{shape}-{i}") for i, shape in enumerate(shapes)]
    rows = step_rows(Plan("purchase", Ending.OPTIMAL, "USD per hour", 5.0, 5.0, tuple(steps)))
    assert rows == [
        {"step": "1–3", "action": "buy", "shape": "3 × a", "to": "a-0 … a-2"},
        {"step": 4, "action": "buy", "shape": "b", "to": "b-3"},
        {"step": 5, "action": "buy", "shape": "a", "to": "a-4"},
    ]


def test_a_node_that_goes_is_one_row_for_people_unless_pods_leave_it_first() -> None:
    steps = [
        Step(Action.CORDON, source="a"),
        Step(Action.DELETE, source="a"),
        Step(Action.CORDON, source="b"),
        Step(Action.MOVE, "uid", "shop/web", "b", "c"),
        Step(Action.DELETE, source="b"),
        Step(Action.CORDON, source="d"),
    ]
    rows = step_rows(Plan("consolidate", Ending.OPTIMAL, "USD per hour", 5.0, 5.0, tuple(steps)))
    assert [(row["step"], row["action"], row["pod"], row["from"], row["to"]) for row in rows] == [
        ("1–2", "cordon, delete", "", "a", ""),
        (3, "cordon", "", "b", ""),
        (4, "move", "shop/web", "b", "c"),
        (5, "delete", "", "b", ""),
        (6, "cordon", "", "d", ""),
    ]


@pytest.mark.parametrize("is_quiet", [True, False])
def test_what_solvers_print_does_not_reach_standard_output(is_quiet: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Of any command that works long enough to say how far it is."""
    libc = ctypes.CDLL(None)
    with progress("replaying", quiet=is_quiet):
        libc.printf(b"a native library speaks\n")
    os.write(1, b"data\n")
    libc.fflush(None)  # as at the end of a process
    out, err = capfd.readouterr()
    assert (out, err) == ("data\n", "a native library speaks\n")


def test_a_command_whose_standard_output_is_closed_works_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a job that writes a report: `ullage simulate … --report page.html >&-`."""
    monkeypatch.setattr("sys.stdout", None)
    with progress("replaying", quiet=True) as advance:
        advance(1, 1)


@pytest.mark.parametrize("kind", ["rescue", "batch"])
def test_a_pod_whose_rules_exclude_every_node_is_named_with_the_rules(kind: str) -> None:
    """One node lacks the label, the other is too small: no single rule excludes both."""
    fast = node("a", cpu=2, labels={"disk": "fast"})
    made = make_plan(Request(kind, taken(fast, node("b", cpu=8), pod("w-1", "4", nodeSelector={"disk": "fast"})), 1.0))
    (reason,) = made.reasons
    assert reason.startswith("pod default/w-1: no node could take it even if empty: ")
    assert "(1 of 2 nodes)" in reason
    assert "too small: cpu (1 of 2 nodes)" in reason
    assert reason.endswith("; in the way: no disk=fast on 1")
    assert not made.steps


def test_each_taint_and_label_that_keeps_a_pod_from_all_nodes_is_named() -> None:
    taints = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}, {"key": "old", "effect": "NoExecute"}]
    nodes = node("a", labels={"zone": "x", "disk": "ssd"}), node("b", labels={"zone": "y"}), node("c")
    nodes[1]["spec"] = {"taints": taints}
    wants = [{"key": "disk", "operator": "Exists"}, {"key": "zone", "operator": "NotIn", "values": ["x", "w"]}]
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": wants}]}}
    waits = pod("w-1", "1", nodeSelector={"zone": "y"}, affinity={"nodeAffinity": affinity})
    waits["spec"]["tolerations"] = [{"key": "old", "operator": "Exists"}]
    (reason,) = make_plan(Request("rescue", taken(*nodes, waits), 1.0)).reasons
    named = set(reason.partition("; in the way: ")[2].split(", "))
    no_zone = "no zone=y on 2"
    assert named == {"taint gpu=yes:NoSchedule on 1", no_zone, "not disk Exists on 2", "not zone NotIn x w on 1"}


def test_of_several_node_affinity_terms_one_is_enough() -> None:
    def reason(*zones: str) -> str:
        terms = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in zones]
        affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        waits = pod("w-1", "4", affinity={"nodeAffinity": affinity})
        (words,) = make_plan(Request("rescue", taken(node("a", cpu=2, labels={"zone": "b"}), waits), 1.0)).reasons
        return words

    assert reason("a", "b").endswith("too small: cpu (1 of 1 nodes)")
    assert reason("a", "c").endswith("; in the way: none of its 2 node affinity terms on 1")


def test_a_pod_whose_host_port_is_taken_everywhere_is_not_called_impossible() -> None:
    port = {"containers": [{"name": "c", "ports": [{"hostPort": 80, "containerPort": 80}]}]}
    runs = pod("x-1", "1", "a")
    runs["spec"] |= port
    waits = pod("w-1", "1")
    waits["spec"] |= port
    (reason,) = make_plan(Request("batch", taken(node("a"), runs, waits), 1.0)).reasons
    assert reason == (
        "pod default/w-1 fits on no node within this plan: of 1 nodes that could take it if empty, "
        "node(s) didn't have free ports for the requested pod ports (1)"
    )


def test_a_pod_that_only_lacks_room_now_is_not_called_impossible() -> None:
    made = make_plan(Request("batch", taken(node("a"), pod("x-1", "3", "a"), pod("w-1", "2")), 1.0))
    short = "of 1 nodes that could take it if empty, cpu is short on 1"
    assert made.reasons == (f"pod default/w-1 fits on no node within this plan: {short}",)


def test_a_pod_without_a_place_is_told_what_is_short_and_who_goes_where_it_would_fit() -> None:
    """One node is too small for it if empty, one is full, and what another has goes to the more important pod."""
    nodes = (node("a", cpu=1), node("b"), node("c"))
    pods = (pod("x-1", "3", "b"), pod("w-1", "3", priority=5), pod("w-2", "3"))
    (reason,) = (r for r in make_plan(Request("batch", taken(*nodes, *pods), 1.0)).reasons if r.startswith("pod "))
    assert reason == (
        "pod default/w-2 fits on no node within this plan: of 2 nodes that could take it if empty, cpu is short on 1, "
        "1 have room, but others of this plan go there"
    )


def test_a_priority_beyond_32_bits_and_a_uid_used_twice_are_refused_by_name() -> None:
    with pytest.raises(SnapshotError, match="pod default/w-1: priority 100000000000000000000 is out of range"):
        taken(node("a"), pod("w-1", "1", priority=10**20))
    with pytest.raises(SnapshotError, match="pod default/w-1: another pod has the same UID"):
        taken(node("a"), pod("w-1", "1"), pod("w-1", "1"))


def test_priorities_that_contradict_each_other_evict_nobody() -> None:
    """The pending pod is more important, but must not preempt; the one that may is less important than what runs."""
    running = pod("v-1", "3", "a", priority=6)
    meek = pod("w-2", "3", priority=7, preemptionPolicy="Never")
    made = make_plan(Request("rescue", taken(node("a"), running, pod("w-1", "3", priority=5), meek), 1.0))
    assert not made.steps
    assert len(made.reasons) == 2


def test_what_is_said_of_many_pods_is_said_once() -> None:
    lines = brief(
        ["no prices", *(f"pod a/{i} is left to the scheduler: it has volumes" for i in range(9)), "pod b/1 waits"]
    )
    assert lines == [
        "no prices",
        "9 pods, each is left to the scheduler: it has volumes (a/0, a/1, a/2 and 6 more; -o json names all)",
        "pod b/1 waits",
    ]
    assert brief([f"pod a/{i}: too small: cpu" for i in range(4)]) == [
        "4 pods: too small: cpu (a/0, a/1, a/2 and 1 more; -o json names all)"
    ]
    expected = brief([f"pod a/w (expected {i}) is left out" for i in range(4)])
    assert len(expected) == 1
    assert expected[0].startswith("4 pods, each is left out (a/w (expected 0), ")


def test_the_page_of_a_purchase_has_the_price_of_each_shape_and_the_command_that_makes_it_again() -> None:
    file = taken(node("a"), *(pod(f"w-{i}", "30") for i in range(3)))
    small, large = (
        SaleShape(name, {"cpu": cpu, "memory": 64 << 30, "pods": 110}, usd)
        for name, cpu, usd in (("<small>", 4000, 0.11), ("large", 32000, 1.23456))
    )
    spot = msgspec.structs.replace(large, name="large:spot", usd_per_hour=0.4, spot=True, limit=1,
                                   interruption_usd_per_hour=0.05)  # fmt: skip
    kept = msgspec.structs.replace(large, name="kept", usd_per_hour=0.3, term_hours=720.0, limit=1)
    sold = (small, large, spot, kept)
    plan = make_plan(Request("purchase", file, 5.0, shapes=sold))
    assert sorted(step.name for step in plan.steps) == ["kept", "large", "large:spot"]
    html = page(cluster_of(file), plan, sold=sold, command="ullage plan purchase 'a & b'")
    rows = re.findall(r'<tr><th scope="row">(large|large:spot|kept)</th>(.*?)</tr>', html)
    cells = {name: re.findall(r"<td>(.*?)</td>", row) for name, row in rows if "<td>buy" not in row}
    assert cells == {
        "large": ["1", "1.2346", "1.23", "901"],
        "large:spot": ["1", "0.4000", "0.40", "292"],
        "kept": ["1", "0.3000", "0.30", "219"],
    }
    assert (
        "Interruptions of spot nodes are expected to cost 0.05 USD an hour besides. 1 other shape was for sale." in html
    )
    assert "<code>ullage plan purchase &#x27;a &amp; b&#x27;</code>" in html
    assert "What is bought" not in page(cluster_of(file), replace(plan, steps=()), sold=sold)


def test_a_purchase_says_in_table_and_page_who_fits_on_the_nodes_that_are_there(tmp_path: Path) -> None:
    path, report = tmp_path / "c.json", tmp_path / "r.html"
    write_snapshot(taken(node("a"), pod("w-1", "3"), pod("w-2", "3")), path)
    words = ["purchase", "--snapshot", str(path), "--time", "1", "--report", str(report)]
    result = CliRunner().invoke(plan_group, words, catch_exceptions=False)
    assert f"- {ROOM.format(1)}\n" in result.stdout
    assert "Buy 1 × " in result.stdout
    assert "STEP  ACTION  SHAPE" in result.stdout
    assert ROOM.format(1) in report.read_text(encoding="utf-8")


def test_usd_by_prices_that_nobody_told_are_said_to_be_that(tmp_path: Path) -> None:
    path, prices = tmp_path / "c.json", tmp_path / "p.csv"
    write_snapshot(taken(node("n1"), node("n2", labels={"node.kubernetes.io/instance-type": "m"}), pod("w", "9")), path)
    prices.write_text("name,cores,gib,usd_per_hour\nm,16,64,1\n")

    def notes(*words: str) -> str:
        given = [words[0], "--snapshot", str(path), "--time", "1", *words[1:]]
        return CliRunner().invoke(plan_group, given, catch_exceptions=False).stdout

    guessed = "by OpenCost's default rates"
    assert f"- USD of 2 of 2 nodes {guessed}" in notes("consolidate")
    assert f"- USD of 1 of 2 nodes {guessed}" in notes("consolidate", "--prices", str(prices))
    assert guessed not in notes("consolidate", "--no-prices")
    assert f"- USD of the shapes that ship, {guessed}" in notes("purchase")
    assert guessed not in notes("purchase", "--prices", str(prices))
    prices.with_suffix(".json").write_text('{"CPU": "0.03", "RAM": "0.004"}')
    assert guessed not in notes("consolidate", "--prices", str(prices.with_suffix(".json")))


def test_who_reads_only_the_page_or_the_document_is_told_that_prices_are_guessed(tmp_path: Path) -> None:
    path, report = tmp_path / "c.json", tmp_path / "r.html"
    write_snapshot(taken(node("n1"), node("n2"), pod("w", "9")), path)
    words = ["consolidate", "--snapshot", str(path), "--time", "1", "--report", str(report), "-o", "json"]
    made = json.loads(CliRunner().invoke(plan_group, words, catch_exceptions=False).stdout)
    assert any("by OpenCost's default rates" in reason for reason in made["reasons"])
    assert "USD of 2 of 2 nodes by OpenCost" in report.read_text(encoding="utf-8")


def test_machines_bought_alike_are_one_row_for_people_and_one_each_for_programs(tmp_path: Path) -> None:
    path, report = tmp_path / "c.json", tmp_path / "r.html"
    write_snapshot(taken(node("n1", cpu=1), *(pod(f"w-{i}", "15") for i in range(40))), path)
    words = ["purchase", "--snapshot", str(path), "--time", "1", "--prices", str(tmp_path / "p.csv")]
    (tmp_path / "p.csv").write_text("name,cores,gib,usd_per_hour\nm,16,64,1\n")
    made = {
        form: CliRunner().invoke(plan_group, [*words, "-o", form], catch_exceptions=False).stdout
        for form in ("markdown", "csv")
    }
    assert "| step | action | shape | to |" in made["markdown"]
    assert "| 1–40 | buy | 40 × m | m-1 … m-40 |" in made["markdown"]
    assert made["csv"].count(",buy,m,,m-") == 40
    words = ["batch", "--snapshot", str(path), "--time", "1", "--report", str(report)]
    CliRunner().invoke(plan_group, words, catch_exceptions=False)
    assert report.read_text(encoding="utf-8").count("<li>") == 1
    assert "40 pods: no node could take it even if empty" in report.read_text(encoding="utf-8")
    assert "default/w-39</details>" in report.read_text(encoding="utf-8")


def test_what_is_said_of_two_pods_is_said_once_with_both_names() -> None:
    said = [f"pod default/{name}: it is held" for name in "ab"] + ["pod default/c is too big"]
    assert brief(said) == ["2 pods: it is held (default/a, default/b)", "pod default/c is too big"]


def test_a_rescue_counts_those_who_waited_not_those_who_ran() -> None:
    given = taken(node("n1"), pod("a-1", "1", "n1"), pod("w-1", "3"), pod("w-2", "9"))
    made = make_plan(Request("rescue", given, time_s=1))
    assert headline(made).startswith("rescue: places 1 of 2 pending pods; ")


def test_a_page_shows_first_the_nodes_that_change_and_folds_the_others_away() -> None:
    given = taken(
        *(node(f"n{i}") for i in range(4)), pod("a-1", "1", "n0"), pod("b-1", "2", "n1"), pod("c-1", "4", "n2")
    )
    made = make_plan(Request("consolidate", given, time_s=1, usd_per_hour={f"n{i}": 1.0 for i in range(4)}))
    assert made.count(Action.MOVE) == 1
    shown, empty, folded = page(cluster_of(given), made).split("<details><summary>The nodes that ")
    assert "3 nodes of 4 change." in shown
    assert "<title>n3:" not in shown
    assert empty.startswith("go, empty already")
    assert "<title>n3: 0 % before, 0 % after</title>" in empty
    assert "<title>n2:" not in shown
    assert "<title>n2: 100 % before, 100 % after</title>" in folded
    line = 'width="3" height="14"'
    assert shown.count(line) == 4, "CPU and memory of two nodes"
    assert line not in folded


@pytest.mark.parametrize(("usd_per_interruption", "is_spot"), [(0.0, True), (1000.0, False)])
def test_spot_is_bought_where_it_is_cheaper_with_its_interruptions(
    usd_per_interruption: float, is_spot: bool, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    write_snapshot(taken(node("n1", cpu=1), *(pod(f"w-{i}", "3") for i in range(4))), path)
    risk = ["--interruptions", "1", "--usd-per-interruption", str(usd_per_interruption)]
    words = ["purchase", "--snapshot", str(path), "--time", "1", "--spot", *risk, "-o", "json"]
    made = json.loads(CliRunner().invoke(plan_group, words, catch_exceptions=False).stdout)
    bought = [step["name"] for step in made["steps"] if step["action"] == "buy"]
    assert bought
    assert all(("(spot)" in shape) is is_spot for shape in bought)
