"""Rescues and gangs that run: whole or not at all, only for somebody more important, and no more of them than it takes."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from typing import Any

import pytest

from placement.planning.make import Request, plan_for
from placement.planning.plan_check import check_steps
from placement.planning.plans import Action, Deadline, Ending, Plan, Step, WorkClock
from placement.planning.snapshots import cluster_of, snapshot_of_objects
from tests.cluster_objects import cluster
from tests.plan_objects import budget, member, node, pod, taken
from tests.plan_referee import Referee


def rescued(*objects: dict[str, Any]) -> Plan:
    return plan_for(Request("rescue", taken(*objects), 1.0), Deadline(0.003, WorkClock()))


def evicted(plan: Plan) -> list[str]:
    return sorted(s.name.removeprefix("default/") for s in plan.steps if s.action == Action.EVICT)


def test_a_gang_below_gives_way_whole_and_counts_as_all_its_pods() -> None:
    gang = [member("g", i, f"n{i}") for i in range(3)]
    nodes = [node(f"n{i}", 2) for i in range(3)]
    plan = rescued(*nodes, *gang, pod("w-1", "2", priority=9))
    assert evicted(plan) == ["g0-1", "g1-1", "g2-1"]
    assert [s.name for s in plan.steps if s.action == Action.PLACE] == ["default/w-1"]
    assert plan.details["evictions"] == 3
    assert "gang default/g gives way, all 3 pods of it" in plan.reasons
    assert (plan.ending, plan.value, plan.bound) == (Ending.OPTIMAL, 1, 1), "the important one has its place"


@pytest.mark.parametrize(
    ("gang", "more"),
    [
        ([member("g", 0, "n0", priority=9), member("g", 1, "n1", priority=1)], []),
        ([member("g", 0, "n0"), member("g", 1, "n1", metadata={"annotations": {"karpenter.sh/do-not-disrupt": "true"}})], []),
        ([member("g", 0, "n0"), member("g", 1, "n1"), member("g", 2, "")], []),
        ([member("g", 0, "n0"), member("g", 1, "n1")], [budget(1, "g")]),
    ],
    ids=["one is as important", "one is marked", "one waits", "a budget allows one"],
)  # fmt: skip
def test_a_gang_stays_whole_where_one_of_it_must(gang: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    for one in gang:
        one["metadata"].setdefault("labels", {})["scheduling.x-k8s.io/pod-group"] = "g"
    plan = rescued(node("n0", 2), node("n1", 2), *gang, *more, pod("w-1", "2", priority=9))
    assert evicted(plan) == []
    assert plan.ending == Ending.OPTIMAL


def test_nobody_who_must_not_preempt_and_no_equal_sends_a_gang_away() -> None:
    for waiting in (pod("w-1", "2", priority=9, preemptionPolicy="Never"), pod("w-1", "2", priority=1)):
        assert rescued(node("n0", 2), member("g", 0, "n0"), waiting).steps == ()


def test_a_gang_that_waits_and_does_not_fit_whole_is_named_and_bounded() -> None:
    waiting = [member("w", i, "", priority=9) for i in range(2)]
    plan = rescued(node("n0", 3), pod("x-1", "1", "n0", priority=9), *waiting)
    assert plan.steps == ()
    assert sum("its gang is placed whole or not at all" in reason for reason in plan.reasons) == 2
    assert "nothing is pending" not in plan.reasons
    assert (plan.ending, plan.value, plan.bound) == (Ending.OPTIMAL, 1, 1), (
        "one of the gang would fit, and does not count"
    )


def test_a_gang_that_waits_takes_the_place_of_one_that_runs() -> None:
    running = [member("g", i, "n0", "1") for i in range(2)]
    waiting = [member("w", i, "", priority=9) for i in range(2)]
    plan = rescued(node("n0", 4), *running, *waiting)
    assert evicted(plan) == ["g0-1", "g1-1"]
    assert sorted(s.name for s in plan.steps if s.action == Action.PLACE) == ["default/w0-1", "default/w1-1"]


def test_pods_of_no_gang_and_moves_come_first() -> None:
    """One pod of their priority is less than the two of a gang."""
    single = [pod("x-1", "2", "n2", priority=0)]
    nodes = [node(f"n{i}", 2) for i in range(3)]
    gang = [member("g", i, f"n{i}", priority=0) for i in range(2)]
    plan = rescued(*nodes, *gang, *single, pod("w-1", "2", priority=9))
    assert evicted(plan) == ["x-1"]
    room = rescued(*nodes, node("n3", 4), *gang, *single, pod("w-1", "4", priority=9), pod("v-1", "2", priority=9))
    assert evicted(room) == ["x-1"]
    above = [pod("x-1", "2", "n2", priority=1)]
    assert evicted(rescued(*nodes, *gang, *above, pod("w-1", "2", priority=9))) == ["g0-1", "g1-1"], "less important"


@pytest.mark.parametrize("seed", range(8))
def test_as_many_are_placed_as_by_trying_all_sets_of_gangs_and_no_gang_goes_for_nothing(seed: int) -> None:
    rng = random.Random(seed)
    nodes = [node(f"n{i}", 4) | {"spec": {}} for i in range(3)]
    gangs = {f"g{k}": rng.choice([0, 1]) for k in range(3)}
    running = [
        member(gang, i, f"n{(k + i) % 3}", rng.choice(["1", "2"]), priority)
        for k, (gang, priority) in enumerate(gangs.items())
        for i in range(rng.choice([1, 2]))
    ]
    used: dict[str, int] = {}
    kept = []
    for one in running:
        cpu, home = int(one["spec"]["containers"][0]["resources"]["requests"]["cpu"]), one["spec"]["nodeName"]
        if used.get(home, 0) + cpu <= 4:
            used[home] = used.get(home, 0) + cpu
            kept.append(one)
    waiting = [pod(f"w{i}-1", rng.choice(["2", "3", "4"]), priority=5) for i in range(rng.choice([1, 2, 3]))]
    plan = rescued(*nodes, *kept, *waiting)
    for one in (*kept, *waiting):
        one["metadata"]["namespace"] = "default"
    assert Referee([*nodes, *kept, *waiting]).judge(plan) == []
    names = {g: {p["metadata"]["name"] for p in kept if p["metadata"]["labels"].get("app") == g} for g in gangs}
    gone = {g for g in gangs if names[g] & set(evicted(plan))}
    assert set(evicted(plan)) == {name for g in gone for name in names[g]}

    def placed(without: set[str]) -> int:
        rest = [p for p in kept if p["metadata"]["labels"]["app"] not in without]
        stays = [{**p, "spec": {**p["spec"], "priority": 100}} for p in rest]
        return sum(
            s.name.startswith("default/w") for s in rescued(*nodes, *stays, *waiting).steps if s.action == Action.PLACE
        )

    here = sum(s.name.startswith("default/w") for s in plan.steps if s.action == Action.PLACE)
    sets = [set(some) for n in range(4) for some in itertools.combinations(gangs, n)]
    assert here == max(placed(some) for some in sets)
    assert all(placed(gone - {g}) < here for g in gone), "each of them is needed"


def test_the_checker_sees_a_gang_that_is_evicted_in_part() -> None:
    given = cluster_of(taken(node("n0", 4), node("n1"), member("g", 0, "n0"), member("g", 1, "n0")))

    def wrong(*steps: Step) -> list[str]:
        return check_steps(given, Plan("rescue", Ending.DEADLINE, "pods placed", 1, 2, steps))

    one = Step(Action.EVICT, "uid-g0-1", "g0-1", "n0", gang="default/g")
    assert wrong(one) == ["gang default/g is evicted in part"]
    other = replace(one, pod="uid-g1-1", name="g1-1")
    assert wrong(one, other) == []
    assert wrong(one, Step(Action.CORDON, source="n0"), other) == ["gang default/g is moved in pieces"]
    assert wrong(one, replace(other, gang="")) == ["step 1: pod uid-g1-1 is of gang default/g, and the step of none"]


@pytest.mark.parametrize("first", range(100, 130, 10))
def test_rescues_of_random_clusters_tear_no_gang(first: int) -> None:
    for seed in range(first, first + 10):
        objects = cluster(seed, full=0.95)
        for thing in objects:
            if thing["kind"] == "Pod" and not thing["spec"].get("nodeName"):
                thing["spec"]["priority"] = 1000
        plan = plan_for(
            Request("rescue", snapshot_of_objects(json.dumps({"items": objects}).encode()), 1.0),
            Deadline(0.003, WorkClock()),
        )
        assert Referee(objects).judge(plan) == [], f"seed {seed}"
