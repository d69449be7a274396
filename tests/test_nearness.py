"""Wishes among the pods of a batch, and devices one by one: brute force, bounds never below, nothing given twice."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.devices import Devices
from placement.planning import near_search
from placement.planning.batch import Batch, ZoneSpread
from placement.planning.batches import as_placed, place_batch
from placement.planning.best_fit import best_fit
from placement.planning.nearness import Counts, Nearness
from placement.planning.plans import Deadline, Ending, WorkClock
from placement.resources import IntArray
from simulator.planning.instances import batch_instance, with_company
from tests.test_plan_models import batches, seconds, valid_placements


@st.composite
def sociable(draw: st.DrawFn) -> Batch:
    """A tiny batch with a few rules of every kind: places of one node or many, nodes without a place, nodes that do not count."""
    batch = draw(batches())
    classes, nodes = batch.most.shape
    rules = []
    for _ in range(draw(st.integers(1, 3))):
        gains = np.array([draw(st.sampled_from((0, -7, -3, 4, 9))) for _ in range(classes)])
        seat = np.array([draw(st.integers(-1, 2)) for _ in range(nodes)])
        look = seat if draw(st.booleans()) else np.where([draw(st.booleans()) for _ in range(nodes)], seat, -1)
        rules.append(Nearness(draw(st.integers(0, classes - 1)), gains, seat, look, 3))
    wish = np.array([[draw(st.sampled_from((0, 1, 30))) for _ in range(nodes)] for _ in range(classes)])
    spreads: tuple[ZoneSpread, ...] = ()
    zone_of = batch.zone_of
    if draw(st.booleans()):
        zone_of = np.arange(nodes) % 2
        present = np.array([draw(st.integers(0, 1)), draw(st.integers(0, 1))])
        spreads = (ZoneSpread(0, draw(st.integers(1, 2)), present),)
    return replace(batch, wish=wish, near=tuple(rules), zone_of=zone_of, spreads=spreads)


def pod_by_pod(batch: Batch, placed: IntArray) -> int:
    """Points, with each pod looked at alone."""
    pods = [
        (c, n)
        for c, row in enumerate(placed.tolist())
        for n, number in enumerate(row)
        for _ in range(number)
    ]  # fmt: skip
    assert batch.wish is not None
    total = sum(int(batch.wish[c, n]) for c, n in pods)
    for rule in batch.near:
        for i, (c, n) in enumerate(pods):
            if c == rule.pod_class and rule.seat[n] >= 0:
                others = pods[:i] + pods[i + 1 :]
                total += sum(int(rule.gains[k]) for k, m in others if rule.look[m] == rule.seat[n])
    return total


@settings(max_examples=300, deadline=None)
@given(sociable())
def test_company_counts_as_brute_force_would(batch: Batch) -> None:
    valid = valid_placements(batch)
    met = [pod_by_pod(batch, x) for x in valid]
    assert met == [batch.wishes_met(x) for x in valid]
    most = max(int(x.sum()) for x in valid)
    best = max(m for m, x in zip(met, valid, strict=True) if int(x.sum()) == most)
    least = min(batch.stranding(x) for m, x in zip(met, valid, strict=True) if int(x.sum()) == most and m == best)
    result = place_batch(batch, seconds(5))
    assert batch.violations(result.placed) == []
    assert (result.count, result.wishes_met, result.wishes_bound) == (most, best, best)
    assert result.stranding_bound - 1e-9 <= least <= result.stranding + 1e-9
    if result.ending == Ending.OPTIMAL:
        assert result.stranding == pytest.approx(least, abs=1e-8)
    for few_places in (64, 0):  # as in large batches: zones, hosts; pairs of class and node enter by their price
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(near_search, "MAX_PAIRS", -1)
            patch.setattr("placement.planning.nearness.FEW_PLACES", few_places)
            for name in ("TOP_NODES", "MAX_NEW_PAIRS", "FIRST_PAIRS"):
                patch.setattr(f"placement.planning.batches.{name}", 1)
            searched = place_batch(batch, seconds(5))
        assert batch.violations(searched.placed) == []
        assert searched.count == most
        assert searched.wishes_met <= best <= searched.wishes_bound
    greedy = as_placed(batch, best_fit(batch), Ending.DEADLINE)
    at_that_count = [m for m, x in zip(met, valid, strict=True) if int(x.sum()) == greedy.count]
    assert greedy.wishes_met <= max(at_that_count) <= greedy.wishes_bound
    assert greedy.count >= best_fit(replace(batch, wish=None, near=())).sum()


@settings(max_examples=300, deadline=None)
@given(sociable())
def test_no_placement_has_more_points_than_counting_allows(batch: Batch) -> None:
    fitting = batch.fitting()
    for placed in valid_placements(batch):
        met = batch.wishes_met(placed)
        assert met <= batch.most_wishes(fitting, batch.counts(placed))
        assert met <= batch.wishes_possible


def test_a_pod_where_nobody_counts_has_all_others_for_company() -> None:
    """The other pod of its class is company, for it stands where pods count."""
    one = np.ones((1, 2), np.int64)
    seat, look = np.array([0, 0]), np.array([-1, 0])
    near = (Nearness(0, np.array([4]), seat, look, 1),)
    batch = Batch(one[:, :1], np.array([2]), one, 4 * one, one, np.array([-1]), np.zeros(2, np.int64), near=near)
    assert batch.wishes_met(one) == 4
    assert place_batch(batch, seconds(1)).wishes_bound == 4


@settings(max_examples=100, deadline=None)
@given(sociable(), st.data())
def test_counts_kept_in_step_are_those_of_the_whole(batch: Batch, data: st.DataObject) -> None:
    """What one more pod gains is the difference of all points."""
    nodes = batch.most.shape[1]
    placed = np.array([[data.draw(st.integers(0, 2)) for _ in range(nodes)] for _ in batch.count])
    counts = Counts(batch.near, np.zeros_like(placed))
    for c, n in np.argwhere(placed):
        counts.change(int(c), int(n), int(placed[c, n]))
    before = pod_by_pod(replace(batch, wish=np.zeros_like(placed)), placed)
    for c in range(len(batch.count)):
        pull = counts.pull(c, slice(None))
        for n in range(nodes):
            more = placed.copy()
            more[c, n] += 1
            assert pull[n] == pod_by_pod(replace(batch, wish=np.zeros_like(placed)), more) - before


def test_a_large_batch_keeps_its_points_while_stranding_falls_and_repeats() -> None:
    batch = with_company(batch_instance(4, num_pods=60, num_nodes=300, with_rules=True), 4)
    first = as_placed(batch, best_fit(batch), Ending.DEADLINE)
    result = place_batch(batch, Deadline(2.0, WorkClock()))
    assert batch.violations(result.placed) == []
    assert first.wishes_met <= result.wishes_met <= result.wishes_bound <= first.wishes_bound
    again = place_batch(batch, Deadline(2.0, WorkClock()))
    assert np.array_equal(result.placed, again.placed)
    layout = near_search.split(batch, result.placed)
    assert np.array_equal(layout.merge(layout.placed), result.placed)
    moved = place_batch(layout.batch, seconds(2), start=layout.placed)
    assert layout.batch.violations(moved.placed) == []
    assert batch.violations(layout.merge(moved.placed)) == []
    assert batch.wishes_met(layout.merge(moved.placed)) >= result.wishes_met


# ── devices ───────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def with_devices(draw: st.DrawFn) -> Batch:
    """A tiny batch that takes whole devices and shares on nodes where some are taken in part."""
    batch = draw(batches())
    classes, nodes = batch.most.shape
    free = np.array([[draw(st.sampled_from((0, 300, 500, 700, 1000))) for _ in range(3)] for _ in range(nodes)])
    kinds = [
        draw(st.sampled_from(((0, 0), (1, 1000), (2, 1000), (1, 300), (1, 400), (1, 600)))) for _ in range(classes)
    ]
    devices = Devices(free, np.array([n for n, _ in kinds]), np.array([milli for _, milli in kinds]))
    total = devices.count * devices.milli
    return replace(
        batch,
        request=np.vstack([batch.request, total]),
        free=np.vstack([batch.free, free.sum(axis=1)]),
        allocatable=np.vstack([batch.allocatable, np.full(nodes, 3000)]),
        devices=devices,
    )


def packs(free: list[int], pods: list[tuple[int, int]]) -> bool:
    """Whether devices can be handed out one pod after the other, all ways tried."""
    if not pods:
        return True
    (number, milli), rest = pods[0], pods[1:]
    enough = [g for g, left in enumerate(free) if left >= milli]
    return any(
        packs([left - milli * (g in chosen) for g, left in enumerate(free)], rest)
        for chosen in itertools.combinations(enough, number)
    )


@settings(max_examples=200, deadline=None)
@given(with_devices())
def test_devices_are_packed_as_brute_force_would(batch: Batch) -> None:
    devices = batch.devices
    assert devices is not None
    spans = (range(int(min(m, n)) + 1) for row, n in zip(batch.most, batch.count, strict=True) for m in row)
    everything = [np.array(x).reshape(batch.most.shape) for x in itertools.product(*spans)]
    kinds = list(zip(devices.count.tolist(), devices.milli.tolist(), strict=True))
    valid = []
    for placed in everything:
        pods = [[kinds[c] for c in np.repeat(np.arange(len(kinds)), column) if kinds[c][0]] for column in placed.T]
        fit = [packs(free, on) for free, on in zip(devices.free.tolist(), pods, strict=True)]
        assert fit == [batch.packs(n, placed[:, n]) for n in range(placed.shape[1])]
        if all(fit) and not replace(batch, devices=None).violations(placed):
            assert batch.violations(placed) == []
            assert (placed <= batch.fitting()).all()
            valid.append(placed)
    most = max(int(x.sum()) for x in valid)
    least = min(batch.stranding(x) for x in valid if int(x.sum()) == most)
    result = place_batch(batch, seconds(5))
    assert batch.violations(result.placed) == []
    assert result.count <= most <= result.most
    if result.count == most:
        assert result.stranding_bound - 1e-9 <= least <= result.stranding + 1e-9
    if result.ending == Ending.OPTIMAL:
        assert result.count == most
        assert result.stranding == pytest.approx(least, abs=1e-8)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_devices_that_are_assigned_are_free_and_never_given_twice(data: st.DataObject) -> None:
    free = np.array([[data.draw(st.sampled_from((0, 250, 500, 1000))) for _ in range(4)]])
    devices = Devices(free, np.array([1, 2, 1, 1, 0]), np.array([1000, 1000, 500, 200, 0]))
    pods = np.array([data.draw(st.integers(0, 3)) for _ in range(5)])
    assigned = devices.assign(0, pods)
    if assigned is None:
        return
    per_class: dict[int, int] = defaultdict(int)
    left = free[0].tolist()
    for c, mask in assigned:
        per_class[c] += 1
        assert mask.bit_count() == devices.count[c]
        for g in range(4):
            left[g] -= int(devices.milli[c]) if mask >> g & 1 else 0
    assert min(left) >= 0
    assert [per_class[c] for c in range(4)] == pods[:4].tolist()
