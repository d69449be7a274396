"""Batches of several priorities: the highest first, priority by priority, as brute force would; and gangs among them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.devices import Devices
from placement.planning.batch import Batch, ZoneSpread
from placement.planning.batches import as_placed, place_batch
from placement.planning.best_fit import best_fit
from placement.planning.plans import Deadline, Ending, Plan, WorkClock
from placement.resources import IntArray
from simulator.planning.bench import bench
from simulator.planning.instances import batch_instance
from simulator.planning.worker import Request, make_plan
from tests.plan_objects import node, pod, taken
from tests.test_plan_models import seconds, valid_placements


@st.composite
def ranked(draw: st.DrawFn) -> Batch:
    """At most six pods of at most three classes and priorities on at most three nodes; gangs within and across priorities,
    wishes, devices, zones now and then."""
    classes, nodes = draw(st.integers(2, 3)), draw(st.integers(1, 3))
    request = np.array([[draw(st.integers(1, 5)) for _ in range(classes)] for _ in range(2)])
    count = np.array([draw(st.integers(1, 2)) for _ in range(classes)])
    allocatable = np.array([[draw(st.integers(4, 10)) for _ in range(nodes)] for _ in range(2)])
    free = np.minimum(allocatable, np.array([[draw(st.integers(0, 8)) for _ in range(nodes)] for _ in range(2)]))
    most = np.array([[draw(st.integers(0, 2)) for _ in range(nodes)] for _ in range(classes)])
    gang = np.array([draw(st.sampled_from((-1, -1, 0, 1))) for _ in range(classes)])
    priority = np.array([draw(st.sampled_from((-5, 0, 10, 2**31 - 1))) for _ in range(classes)])
    batch = Batch(request, count, free, allocatable, most, gang, np.arange(nodes) % 2, priority=priority)
    if draw(st.booleans()):
        wish = np.array([[draw(st.sampled_from((0, 0, 1, 60))) for _ in range(nodes)] for _ in range(classes)])
        batch = replace(batch, wish=wish)
    if draw(st.integers(0, 3)) == 0:
        batch = replace(batch, spreads=(ZoneSpread(0, draw(st.integers(1, 2)), np.zeros(2, np.int64)),))
    if draw(st.integers(0, 3)) == 0:
        shares = np.array([draw(st.sampled_from((0, 400, 700))) for _ in range(classes)])
        left = np.array([[draw(st.sampled_from((0, 500, 1000))) for _ in range(2)] for _ in range(nodes)])
        batch = replace(batch, devices=Devices(left, np.minimum(shares, 1), shares))
    return batch


def could_take(batch: Batch, placed: IntArray) -> list[tuple[int, int]]:
    """(class, node) where one more pod that is no gang's would fit, with those of lower priority on that node gone."""
    priority = [0] * len(batch.count) if batch.priority is None else batch.priority.tolist()
    found = []
    for c in np.flatnonzero((placed.sum(axis=1) < batch.count) & (batch.gang < 0)).tolist():
        for n in range(placed.shape[1]):
            after = placed.copy()
            for k in range(len(batch.count)):
                if priority[k] < priority[c] and batch.gang[k] < 0:
                    after[k, n] = 0
            after[c, n] += 1
            if not batch.violations(after):
                found.append((c, n))
    return found


@settings(max_examples=400, deadline=None)
@given(ranked(), st.booleans())
def test_counts_are_those_of_brute_force_priority_by_priority(batch: Batch, is_narrow: bool) -> None:
    valid = valid_placements(batch)
    best = max(batch.counts(x) for x in valid)
    met = max(batch.wishes_met(x) for x in valid if batch.counts(x) == best)
    least = min(batch.stranding(x) for x in valid if (batch.counts(x), batch.wishes_met(x)) == (best, met))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TOP_NODES", "MAX_NEW_PAIRS", "FIRST_PAIRS") if is_narrow else ():
            patch.setattr(
                f"placement.planning.batches.{name}", 1
            )  # pairs of class and node enter the programs by their price
        result = place_batch(batch, seconds(5))
    assert batch.violations(result.placed) == []
    assert batch.counts(result.placed) == result.counts
    for rank, most in enumerate(result.most_of_each):
        above = result.counts[:rank]
        assert most >= max(
            batch.counts(x)[rank]
            for x in valid
            if batch.counts(x)[:rank] >= above and all(a >= b for a, b in zip(batch.counts(x), above, strict=False))
        )
    if batch.devices is None:  # whose program is a relaxation
        assert result.counts == result.most_of_each == best
        assert (result.wishes_met, result.wishes_bound) == (met, met)
        assert result.stranding_bound - 1e-9 <= least <= result.stranding + 1e-9
    assert result.counts <= best
    if result.counts == result.most_of_each:
        assert result.counts == best
    if result.ending == Ending.OPTIMAL:
        assert (result.counts, result.wishes_met) == (best, met)
        assert result.stranding == pytest.approx(least, abs=1e-8)


@settings(max_examples=400, deadline=None)
@given(ranked(), st.sampled_from((1e-6, 1e-3, 0.02)), st.booleans())
def test_nobody_keeps_a_place_that_somebody_more_important_could_have(
    batch: Batch, time_s: float, is_cancelled: bool
) -> None:
    """However little was searched: in the first placement, and when time ran out anywhere behind it."""
    quick = best_fit(batch, is_quick=True)
    assert batch.violations(quick) == []
    first = as_placed(batch, best_fit(batch), Ending.DEADLINE)
    assert first.counts >= batch.counts(quick)
    valid = valid_placements(batch)
    best = max(batch.counts(x) for x in valid)
    assert batch.violations(first.placed) == []
    assert first.counts[0] <= best[0] <= first.most_of_each[0]
    assert could_take(batch, first.placed) == []
    same = [batch.wishes_met(x) for x in valid if batch.counts(x) == first.counts]
    assert first.wishes_met <= max(same) <= first.wishes_bound
    result = place_batch(batch, Deadline(time_s, WorkClock(), cancelled=lambda: is_cancelled))
    assert batch.violations(result.placed) == []
    assert batch.counts(quick) <= result.counts <= best
    assert could_take(batch, result.placed) == []


def test_room_that_later_stages_make_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no program counts, stranding may be cut by a placement that has room for one more."""
    monkeypatch.setattr("placement.planning.batches.MAX_COUNT_PAIRS", -1)
    batch = batch_instance(2, num_pods=200, num_nodes=40)
    rng = np.random.default_rng(0)
    batch = replace(batch, priority=rng.integers(0, 3, len(batch.count)))
    result = place_batch(batch, seconds(1.0))
    assert result.counts >= batch.counts(best_fit(batch))
    assert could_take(batch, result.placed) == []
    assert any(a < b for a, b in zip(result.counts, result.most_of_each, strict=True)), "nothing is proved here"


def test_hundreds_of_priorities_are_planned_like_few() -> None:
    """Each class with its own; nothing is done for each that costs as much as a placement."""
    batch = batch_instance(3, num_pods=400, num_nodes=60)
    ranks = np.random.default_rng(3).permutation(len(batch.count))
    batch = replace(batch, priority=ranks - 40)
    clock = WorkClock()
    result = place_batch(batch, Deadline(0.5, clock))
    assert batch.violations(result.placed) == []
    assert result.counts >= batch.counts(best_fit(batch, is_quick=True))
    assert could_take(batch, result.placed) == []
    assert len(result.counts) == len(batch.count) == 80
    assert clock.done_s < 1.0


def test_one_priority_is_planned_as_none_is() -> None:
    batch = batch_instance(4, num_pods=60, num_nodes=30, with_rules=True)
    plain = place_batch(batch, Deadline(0.3, WorkClock()))
    same = place_batch(replace(batch, priority=np.full(len(batch.count), 7)), Deadline(0.3, WorkClock()))
    assert np.array_equal(same.placed, plain.placed)
    assert (same.count, same.most, same.stranding, same.stranding_bound) == (
        plain.count,
        plain.most,
        plain.stranding,
        plain.stranding_bound,
    )


def test_short_room_goes_to_the_highest_priorities_and_blind_plans_place_more_pods() -> None:
    batch = batch_instance(2, num_pods=200, num_nodes=40)
    rng = np.random.default_rng(1)
    batch = replace(batch, priority=rng.integers(0, 4, len(batch.count)))
    result, blind = place_batch(batch, seconds(2.0)), place_batch(replace(batch, priority=None), seconds(2.0))
    assert batch.violations(result.placed) == []
    assert result.counts[:2] == result.most_of_each[:2]
    assert result.counts > batch.counts(blind.placed)
    assert result.count <= blind.most


def test_the_bench_says_what_is_proved_and_what_blind_plans_place() -> None:
    row = bench("batch-priorities", 1, 0.3, clock="cpu")[0]
    placed, most, blind, best_fit_placed = (
        [int(number) for number in str(row[key]).split("+")]
        for key in ("placed", "most", "blind_placed", "best_fit_placed")
    )
    assert placed >= best_fit_placed
    assert placed >= blind
    assert row["proved"] == next((k for k in range(4) if placed[k] < most[k]), 4)


# ── plans of snapshots ────────────────────────────────────────────────────────────────────────────────────────


def planned(*objects: dict[str, Any]) -> Plan:
    return make_plan(Request("batch", taken(*objects), 2.0))


def names(plan: Plan) -> list[str]:
    return sorted(step.name.removeprefix("default/") for step in plan.steps)


def gang(name: str, priorities: dict[str, int], cpu: str = "1") -> list[dict[str, Any]]:
    labels = {"labels": {"scheduling.x-k8s.io/pod-group": name}}
    return [pod(f"{who}-1", cpu, metadata=labels, priority=priority) for who, priority in priorities.items()]


def test_an_important_pod_is_placed_where_two_others_would_fit() -> None:
    plan = planned(node("a", 4), pod("big-1", "4", priority=5), pod("x-1", "2"), pod("y-1", "2"))
    assert names(plan) == ["big-1"]
    assert plan.ending == Ending.OPTIMAL
    assert (plan.value, plan.bound) == (1, 1)
    details = plan.details
    assert (details["placed_priority_5"], details["most_priority_5"]) == (1, 1)
    assert (details["placed_priority_0"], details["most_priority_0"]) == (0, 0)
    assert plan.reasons[0] == "priority 0: 0 of 2 pods are placed, no more can be with as many of those above"
    alone = planned(node("a", 4), pod("big-1", "4"), pod("x-1", "2"), pod("y-1", "2"))
    assert names(alone) == ["x-1", "y-1"], "among equals the most pods are placed"
    assert not [key for key in alone.details if "priority" in key]


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 5, 6])
def test_who_wins_between_gangs_and_others(cores: int) -> None:
    """A gang counts with each pod at that pod's priority: its one pod of 9 goes before any number of others, and brings the
    others of its gang; two pods of 9 go before it."""
    few = gang("g", {"lead": 9, "hand": 0, "foot": 0})
    single = [pod(f"s{i}-1", "1", priority=5) for i in range(3)]
    plan = planned(node("a", cores), *few, *single)
    expected = ["foot-1", "hand-1", "lead-1"] if cores >= 3 else []
    room = cores - len(expected)
    assert plan.value == min(cores, 6)
    assert names(plan) == sorted([*expected, *(f"s{i}-1" for i in range(min(room, 3)))])
    both = planned(node("a", 3), *few, *(pod(f"t{i}-1", "1", priority=9) for i in range(2)))
    assert names(both) == ["t0-1", "t1-1"], "two of 9 and none of the gang, for one of 9 and two of 0 leave no room"


def test_a_gang_of_low_priority_waits_for_single_pods_above_it() -> None:
    low = gang("g", {f"g{i}": 1 for i in range(4)})
    plan = planned(node("a", 4), *low, pod("s-1", "1", priority=2))
    assert names(plan) == ["s-1"]
    assert "priority 1: 0 of 4 pods are placed, no more can be with as many of those above" in plan.reasons
    assert names(planned(node("a", 5), *low, pod("s-1", "1", priority=2))) == ["g0-1", "g1-1", "g2-1", "g3-1", "s-1"]


def test_the_largest_and_smallest_priorities_of_kubernetes_are_told_apart() -> None:
    ends = {"top": 2**31 - 1, "system": 2 * 10**9, "none": 0, "low": -(2**31)}
    for room in range(1, 5):
        made = [pod(f"{name}-1", "1", priority=value) for name, value in ends.items()]
        assert names(planned(node("a", room), *made)) == sorted(f"{name}-1" for name in list(ends)[:room])
