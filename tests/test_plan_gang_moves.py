"""A gang that runs is moved as one step: in the order of steps, in the plans, and for the checker."""

from __future__ import annotations

import random
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from placement.planning.make import Request, plan_for
from placement.planning.plans import Action, Deadline, Plan, WorkClock, together
from placement.planning.repair import Packing
from placement.planning.steps import ordered_steps
from tests.plan_objects import budget, member, node, pod, taken
from tests.plan_referee import Referee


def planned(kind: str, *objects: dict[str, Any]) -> Plan:
    for one in objects:
        one["metadata"].setdefault("namespace", "default")
        one.setdefault("spec", {})
    plan = plan_for(Request(kind, taken(*objects), 1.0), Deadline(0.02, WorkClock()))
    assert Referee(list(objects)).judge(plan) == []
    return plan


def test_a_consolidation_moves_a_gang_at_once_from_nodes_that_are_closed_by_then() -> None:
    gang = [member("g", i, f"n{i % 3}", "1") for i in range(3)]
    single = [pod(f"x{i}-1", "1", f"n{i}") for i in range(2)]
    plan = planned("consolidate", *(node(f"n{i}", 8) for i in range(3)), node("big", 16), *gang, *single)
    words = [f"{step.action} {step.source}" if not step.pod else str(step.action) for step in plan.steps]
    assert plan.count(Action.DELETE) >= 2
    moves = [number for number, step in enumerate(plan.steps) if step.gang]
    assert len(moves) >= 2
    assert moves == list(range(moves[0], moves[-1] + 1)), words
    assert {step.gang for step in plan.steps if step.gang} == {"default/g"}
    closed = {step.source for step in plan.steps[: moves[0]] if step.action == Action.CORDON}
    assert {plan.steps[number].source for number in moves} <= closed


def test_a_gang_that_a_budget_does_not_let_down_at_once_is_not_moved() -> None:
    gang = [member("g", i, f"n{i}", "1") for i in range(2)]
    nodes = [node(f"n{i}", 8) for i in range(3)]
    assert planned("consolidate", *nodes, *gang, budget(2, "g")).count(Action.MOVE) == 1, "one stays, one comes to it"
    stays = planned("consolidate", *nodes, *gang, budget(1, "g"))
    assert stays.count(Action.MOVE) == 0
    assert any("its gang moves at once, and disruption budget default/g allows less" in why for why in stays.reasons)


def test_a_rescue_moves_a_gang_at_once() -> None:
    gang = [member("g", i, f"n{i}", "2", priority=5) for i in range(2)]
    nodes = [node("n0", 4), node("n1", 4), node("n2", 4)]
    plan = planned("rescue", *nodes, *gang, *(pod(f"w{i}-1", "4", priority=9) for i in range(2)))
    assert [str(step.action) for step in plan.steps].count("place") == 2
    moved = [number for number, step in enumerate(plan.steps) if step.gang == "default/g"]
    assert moved == list(range(moved[0], moved[-1] + 1))


@pytest.mark.parametrize("seed", range(40))
def test_in_any_order_of_steps_gangs_move_whole_and_every_step_fits(seed: int) -> None:
    """Random placements, before and after, of pods of which some are of gangs; circles are frequent."""
    rng = random.Random(seed)
    num_nodes, num_pods = 4, 14
    size = np.array([rng.choice([1, 2, 3]) for _ in range(num_pods)], np.int64)

    def placement() -> np.ndarray[Any, np.dtype[np.int64]]:
        while True:
            node_of = np.array([rng.randrange(num_nodes) for _ in size], np.int64)
            if (np.bincount(node_of, size, num_nodes) <= size.sum() // 4 + 2).all():
                return node_of

    before, after = placement(), placement()
    before[rng.sample(range(num_pods), 3)] = -1
    free = np.full((1, num_nodes), int(size.sum()) // 4 + 2, np.int64)
    classes = np.arange(num_pods)
    packing = Packing(
        size[None, :], classes, np.zeros(num_pods, np.int64), free, np.ones((num_pods, num_nodes), np.bool_), before,
        np.ones(num_pods, np.bool_),
    )  # fmt: skip
    gangs = np.array([rng.choice([-1, -1, 0, 1]) for _ in size], np.int64)
    steps = ordered_steps(packing, after, gangs=gangs)
    room, where = (
        free[0] - np.bincount(before[before >= 0], size[before >= 0], num_nodes).astype(np.int64),
        before.copy(),
    )

    def unit(step: tuple[Action, int, int, int]) -> tuple[int, int]:
        p = step[1]
        return (int(gangs[p]), -1) if gangs[p] >= 0 else (-1, p)

    left_in_one: list[int] = []
    for (gang, _), run in groupby((s for s in steps), unit):
        some = list(run)
        for _, p, source, _ in some:
            assert source == where[p]
            if source >= 0:
                room[source] += size[p]
        left_in_one += [gang] if gang >= 0 and any(source >= 0 for _, _, source, _ in some) else []
        for _, p, _, target in some:
            where[p] = target
            if target >= 0:
                room[target] -= size[p]
        assert (room >= 0).all()
    assert (where == after).all()
    assert len(left_in_one) == len(set(left_in_one)), "no gang leaves twice"


def test_a_circle_is_broken_by_its_smallest_pod_and_not_by_a_gang_or_those_of_last_if_there_is_another() -> None:
    """Two full nodes change their pods; who waits meanwhile is evicted first and placed last."""

    def waits(sizes: list[int], *, gang: list[int] | None = None, last: list[bool] | None = None) -> set[int]:
        size = np.array(sizes, np.int64)
        before = np.array([0] * (len(sizes) - 1) + [1], np.int64)  # all but the last pod on the first node
        free = np.array([[int(size[:-1].sum()), int(size[-1])]], np.int64)
        most = np.full_like(free, free.max())
        num = len(sizes)
        packing = Packing(
            size[None, :], np.arange(num), np.zeros(num, np.int64), most, np.ones((num, 2), np.bool_), before,
            np.ones(num, np.bool_),
        )  # fmt: skip
        steps = ordered_steps(
            packing,
            1 - before,
            None if last is None else np.array(last),
            None if gang is None else np.array(gang, np.int64),
        )
        evicted = {p for action, p, *_ in steps if action == Action.EVICT}
        assert evicted == {p for action, p, *_ in steps if action == Action.PLACE}
        return evicted

    assert waits([3, 3]) == {0}, "of two alike the first"
    assert waits([3, 3], last=[True, False]) == {1}
    assert waits([3, 3], last=[True, True]) == {0}, "there is no other"
    assert waits([3, 1]) == {1}, "the smaller one"
    assert waits([1, 2, 3], last=[True, False, False]) == {1, 2}
    assert waits([1, 1, 3], gang=[0, 0, -1]) == {2}, "smaller, but a gang"
    assert waits([1, 1, 3], gang=[0, 0, -1], last=[False, False, True]) == {2}, "a gang is the last resort"
    assert waits([1, 1, 1, 1], gang=[0, 0, 0, 1]) == {3}, "a gang of which one pod moves is that pod"


def test_what_is_done_together() -> None:
    gang = [member("g", i, f"n{i}", "1", priority=0) for i in range(2)]
    plan = planned("rescue", node("n0", 1), node("n1", 1), *gang, *(pod(f"w{i}-1", "1", priority=9) for i in range(2)))
    assert [[str(plan.steps[i].action) for i in some] for some in together(plan.steps)] == [
        ["evict"] * 2,
        ["place"] * 2,
    ]
