"""Rescues with gangs of mixed priorities against all ways to keep and place pods, gangs whole."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest

from placement.gangs import gang_of
from placement.planning import gang_program
from placement.planning.cluster import Cluster
from placement.planning.make import Request, plan_for
from placement.planning.plans import Action, Deadline, Ending, Plan, WorkClock
from placement.planning.snapshots import cluster_of
from tests.plan_objects import budget, member, node, one_of, pod, taken
from tests.plan_referee import Referee

Gains = tuple[int, ...]


def instance(seed: int) -> list[dict[str, Any]]:
    """Two or three nodes, up to five pods that run and four that wait, most of them of gangs, of priorities 0 to 3."""
    rng = random.Random(seed)
    nodes = [node(f"n{i}", rng.choice([3, 4])) for i in range(rng.choice([2, 3]))]
    room = {one["metadata"]["name"]: int(one["status"]["allocatable"]["cpu"]) for one in nodes}
    pods = []
    for k in range(rng.choice([2, 3, 4, 5])):
        cpu, gang, priority = rng.choice([1, 2]), rng.choice(["", "", "g0", "g1"]), rng.choice([0, 1, 2])
        homes = [name for name, left in room.items() if left >= cpu]
        if homes:
            home = rng.choice(homes)
            room[home] -= cpu
            one = (
                member(gang, k, home, str(cpu), priority) if gang else pod(f"r{k}-1", str(cpu), home, priority=priority)
            )
            pods.append(one)
    for k in range(rng.choice([1, 2, 3, 4])):
        cpu, gang, priority = rng.choice([1, 2, 3]), rng.choice(["", "w0", "w0", "w1"]), rng.choice([1, 2, 3])
        pods.append(
            member(gang, 10 + k, "", str(cpu), priority) if gang else pod(f"w{k}-1", str(cpu), priority=priority)
        )
    for one in (*nodes, *pods):
        one["metadata"].setdefault("namespace", "default")
        one.setdefault("spec", {})
    return [*nodes, *pods]


def gains(cluster: Cluster, placed: set[str], gone: set[str]) -> Gains:
    """Pods that get a place less those that lose theirs, by priority, the highest first; whoever runs is half a step above."""
    residents, waiting = cluster.state.residents, {pod.uid: pod.spec for pod in cluster.pending}
    found: Counter[int] = Counter(2 * waiting[uid].priority for uid in placed)
    found.subtract(Counter(2 * residents[uid].spec.priority + 1 for uid in gone))
    return tuple(found[rank] for rank in range(10, -1, -1))


def best(cluster: Cluster) -> Gains:
    """Of all ways, gangs whole; a gang that runs goes only where all of it is below somebody who waits, and none of it waits."""
    specs = {uid: resident.spec for uid, resident in cluster.state.residents.items()}
    running = set(specs)
    specs |= {pod.uid: pod.spec for pod in cluster.pending}
    units: dict[object, list[str]] = {}
    for uid, spec in specs.items():
        units.setdefault((gang_of(spec), uid in running) if gang_of(spec) else uid, []).append(uid)
    highest = max(spec.priority for uid, spec in specs.items() if uid not in running)
    nodes = [cluster.state.nodes[row] for row in cluster.rows]
    room = [one.amounts["cpu"] for one in nodes if one is not None]

    def must_stay(unit: list[str]) -> bool:
        gang = gang_of(specs[unit[0]])
        is_above = max(specs[uid].priority for uid in unit) >= highest
        return unit[0] in running and gang is not None and (is_above or (gang, False) in units)

    def packs(sizes: list[int], left: list[int]) -> bool:
        if not sizes:
            return True
        fits = {amount: n for n, amount in enumerate(left) if amount >= sizes[0]}
        return any(packs(sizes[1:], [*left[:n], amount - sizes[0], *left[n + 1 :]]) for amount, n in fits.items())

    ways: list[tuple[Gains, list[int]]] = []
    for have in itertools.product((True, False), repeat=len(units)):
        chosen = dict(zip(map(tuple, units.values()), have, strict=True))
        if any(not is_in and must_stay(list(unit)) for unit, is_in in chosen.items()):
            continue
        there = {uid for unit, is_in in chosen.items() if is_in for uid in unit}
        sizes = sorted((specs[uid].amount("cpu") for uid in there), reverse=True)
        ways.append((gains(cluster, there - running, running - there), sizes))
    return next(found for found, sizes in sorted(ways, reverse=True) if packs(sizes, room))


def rescued(objects: list[dict[str, Any]]) -> tuple[Plan, Gains, Gains]:
    """The plan, what it gains, and what is possible."""
    plan = plan_for(Request("rescue", taken(*objects), 1.0), Deadline(0.02, WorkClock()))
    assert Referee(objects).judge(plan) == []
    placed = {step.pod for step in plan.steps if step.action == Action.PLACE}
    gone = {step.pod for step in plan.steps if step.action == Action.EVICT} - placed
    cluster = cluster_of(taken(*objects))
    return plan, gains(cluster, placed - set(cluster.state.residents), gone), best(cluster)


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_rescues_with_gangs_are_as_good_as_any_and_proved(first: int) -> None:
    ended = Counter[Ending]()
    for seed in range(first, first + 10):
        plan, found, possible = rescued(instance(seed))
        assert found == possible, f"seed {seed}"
        assert plan.bound is not None
        assert plan.bound >= plan.value
        ended[plan.ending] += 1
    assert ended[Ending.OPTIMAL] >= 9


def test_without_the_program_gangs_are_tried_whole_and_never_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang_program, "MOST_PAIRS", 0)
    for seed, is_best in ((4, True), (24, True), (34, True), (20, False)):
        plan, found, possible = rescued(instance(seed))
        assert plan.ending == Ending.DEADLINE
        assert found == possible if is_best else found < possible, f"seed {seed}"


def test_a_budget_is_kept_by_the_program_too() -> None:
    low = [one_of("db", f"low-{i}", "2", f"n{i}", priority=0) for i in range(3)]
    gang = [member("w", i, "", "2", priority=9 - i) for i in range(3)]
    for allowed in (1, 2, 3):
        objects = [*(node(f"n{i}", 2) for i in range(3)), *low, *gang, budget(allowed)]
        plan = plan_for(Request("rescue", taken(*objects), 1.0), Deadline(0.05, WorkClock()))
        assert plan.count(Action.EVICT) == (3 if allowed == 3 else 0), "the gang is whole, or nobody goes for it"
        assert plan.count(Action.PLACE) == plan.count(Action.EVICT)


@pytest.mark.parametrize("is_small", [True, False])
def test_gangs_of_which_a_part_shares_a_budget_do_not_all_give_way(
    monkeypatch: pytest.MonkeyPatch, *, is_small: bool
) -> None:
    gangs = [member(f"g{k}", i, f"n{2 * k + i}") for k in range(2) for i in range(2)]
    for first in (gangs[0], gangs[2]):
        first["metadata"]["labels"]["app"] = "db"
    waiting = [pod(f"w{i}-1", "2", priority=9) for i in range(4)]
    objects = [*(node(f"n{i}", 2) for i in range(4)), *gangs, *waiting, budget(1)]
    for one in objects:
        one["metadata"].setdefault("namespace", "default")
        one.setdefault("spec", {})
    if not is_small:
        monkeypatch.setattr(gang_program, "MOST_PAIRS", 0)
    plan = plan_for(Request("rescue", taken(*objects), 1.0), Deadline(0.05, WorkClock()))
    assert Referee(objects).judge(plan) == []
    assert (plan.count(Action.EVICT), plan.count(Action.PLACE)) == (2, 2), "one of them goes, whole"
