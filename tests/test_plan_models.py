"""Batches, consolidation and purchase: valid, within their bounds, optimal by brute force where they say so."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.devices import Devices
from placement.errors import ConfigError
from placement.planning import partitions, purchase
from placement.planning.batch import Batch, ZoneSpread
from placement.planning.batch_program import BatchModel, Goal, Pairs
from placement.planning.batches import as_placed, at_once, place_batch
from placement.planning.best_fit import best_fit
from placement.planning.class_flow import EXACT_CELLS
from placement.planning.consolidation import consolidate
from placement.planning.displaced import kept_off
from placement.planning.fleet import CENT, Fleet
from placement.planning.fleet import violations as fleet_violations
from placement.planning.partitions import Few
from placement.planning.patterns import best_pattern, full_fillings, most_per_cost
from placement.planning.plans import Deadline, Ending, WorkClock
from placement.planning.prefix_search import prefix_search
from placement.planning.purchase import Bought, Demand, Filling, Shape, buy, first_fit_decreasing, unplaceable
from placement.planning.refit import recreate, refit
from placement.planning.relaxation import Relaxation
from placement.planning.repacking import Repacking
from placement.planning.solver import Answer, Limits, Model, Status, solve_integer, solve_linear
from placement.resources import FloatArray, IntArray
from simulator.planning.instances import batch_instance, fleet_instance, purchase_instance


def seconds(limit: float) -> Deadline:
    """A deadline of CPU seconds, so that a busy machine does not make plans worse."""
    return Deadline(limit, time.process_time)


# ── patterns ──────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_best_pattern_is_the_best_by_brute_force(data: st.DataObject) -> None:
    num_classes, num_resources = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    value = np.array([data.draw(st.integers(0, 20)) for _ in range(num_classes)]) / 7.0
    request = np.array([[data.draw(st.integers(0, 9)) for _ in range(num_classes)] for _ in range(num_resources)])
    count = np.array([data.draw(st.integers(0, 3)) for _ in range(num_classes)])
    capacity = np.array([data.draw(st.integers(0, 25)) for _ in range(num_resources)])
    best = max(
        float(value @ np.array(a))
        for a in itertools.product(*(range(n + 1) for n in count))
        if (request @ np.array(a) <= capacity).all()
    )
    pattern = best_pattern(value, request, count, capacity)
    assert (request @ pattern.counts <= capacity).all()
    assert (pattern.counts <= count).all()
    assert pattern.value == pytest.approx(best, abs=1e-6)
    short = best_pattern(value, request, count, capacity, limit=1)
    assert short.upper >= best - 1e-6


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_shape_that_is_worth_most_for_its_cost_is_found_without_filling_all(data: st.DataObject) -> None:
    num_classes, num_shapes = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    value = np.array([data.draw(st.integers(0, 20)) for _ in range(num_classes)]) / 7.0
    request = np.array([[data.draw(st.integers(0, 9)) for _ in range(num_classes)] for _ in range(2)])
    count = np.array([data.draw(st.integers(0, 3)) for _ in range(num_classes)])
    capacity = np.array([[data.draw(st.integers(0, 25)) for _ in range(2)] for _ in range(num_shapes)])
    cost = np.array([data.draw(st.sampled_from([0.5, 1.0, 2.0, np.inf])) for _ in range(num_shapes)])
    allowed = np.array([[data.draw(st.booleans()) for _ in range(num_shapes)] for _ in range(num_classes)])
    worth = [
        best_pattern(np.where(allowed[:, s], value, 0.0), request, count, capacity[s]).value / cost[s]
        for s in range(num_shapes)
    ]
    s, counts = most_per_cost(value, request, count, allowed, capacity, cost, limit=10_000)
    assert (s < 0) == (max(worth) == 0.0)
    if s >= 0:
        assert float(value @ counts) / cost[s] == pytest.approx(max(worth))
        assert (request @ counts <= capacity[s]).all()
        assert (counts <= np.where(allowed[:, s], count, 0)).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_all_full_fillings_that_are_worth_enough_are_listed(data: st.DataObject) -> None:
    num_classes = data.draw(st.integers(1, 4))
    value = np.array([data.draw(st.integers(1, 9)) for _ in range(num_classes)]) / 3.0
    request = np.array([[data.draw(st.integers(0, 9)) for _ in range(num_classes)] for _ in range(2)])
    count = np.array([data.draw(st.integers(0, 3)) for _ in range(num_classes)])
    capacity, least = np.array([data.draw(st.integers(0, 25)) for _ in range(2)]), data.draw(st.integers(0, 8)) - 0.1
    fits = {a for a in itertools.product(*(range(n + 1) for n in count)) if (request @ np.array(a) <= capacity).all()}
    more = np.eye(num_classes, dtype=np.int64)
    full = {a for a in fits if value @ a >= least and not any(tuple(np.array(a) + one) in fits for one in more)}
    found, _ = full_fillings(value, request, count, capacity, least=least, most=len(full), limit=10_000)
    assert found is not None
    assert sorted(map(tuple, found.tolist())) == sorted(full)
    assert full_fillings(value, request, count, capacity, least=least, most=99, limit=0) == (None, 0)
    if full:
        few, _ = full_fillings(value, request, count, capacity, least=least, most=len(full) - 1, limit=10_000)
        assert few is None


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """At most five pods of at most two classes on at most three nodes."""
    num_classes, num_nodes = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    request = np.array([[draw(st.integers(1, 5)) for _ in range(num_classes)] for _ in range(2)])
    count = np.array([draw(st.integers(1, 3)) for _ in range(num_classes)])
    allocatable = np.array([[draw(st.integers(4, 12)) for _ in range(num_nodes)] for _ in range(2)])
    free = np.minimum(allocatable, np.array([[draw(st.integers(0, 12)) for _ in range(num_nodes)] for _ in range(2)]))
    most = np.array([[draw(st.integers(0, 3)) for _ in range(num_nodes)] for _ in range(num_classes)])
    gang = np.full(num_classes, draw(st.integers(-1, 0)))
    return Batch(request, count, free, allocatable, most, gang, np.zeros(num_nodes, np.int64))


def valid_placements(batch: Batch) -> list[IntArray]:
    """All of them."""
    spans = (range(int(min(m, n)) + 1) for row, n in zip(batch.most, batch.count, strict=True) for m in row)
    placements = (np.array(x).reshape(batch.most.shape) for x in itertools.product(*spans))
    return [x for x in placements if not batch.violations(x)]


@st.composite
def wishful_batches(draw: st.DrawFn) -> Batch:
    """The same with wishes, few different ones, so that many placements tie."""
    batch = draw(batches())
    classes, nodes = batch.most.shape
    wish = np.array([[draw(st.sampled_from((0, 0, 1, 60, 200))) for _ in range(nodes)] for _ in range(classes)])
    return replace(batch, wish=wish)


@settings(max_examples=150, deadline=None)
@given(wishful_batches())
def test_wishes_are_met_as_brute_force_would_between_count_and_stranding(batch: Batch) -> None:
    valid = valid_placements(batch)
    most = max(int(x.sum()) for x in valid)
    full = [x for x in valid if int(x.sum()) == most]
    best = max(batch.wishes_met(x) for x in full)
    least = min(batch.stranding(x) for x in full if batch.wishes_met(x) == best)
    for narrow in (False, True):  # narrow: pairs of class and node enter the programs one by one, by their price
        with pytest.MonkeyPatch.context() as patch:
            for name in ("TOP_NODES", "MAX_NEW_PAIRS", "FIRST_PAIRS") if narrow else ():
                patch.setattr(f"placement.planning.batches.{name}", 1)
            result = place_batch(batch, seconds(5))
        assert batch.violations(result.placed) == []
        assert (result.count, result.wishes_met, result.wishes_bound) == (most, best, best)
        assert result.stranding_bound <= least + 1e-9
        assert result.stranding >= least - 1e-9
        if result.ending == Ending.OPTIMAL:
            assert result.stranding == pytest.approx(least, abs=1e-8)
    filled = place_batch(replace(batch, fills=True), seconds(5))
    assert (filled.count, filled.wishes_met, filled.wishes_bound, filled.ending) == (most, best, best, Ending.OPTIMAL)
    assert filled.stranding_bound <= least + 1e-9
    greedy = as_placed(batch, best_fit(batch), Ending.DEADLINE)
    at_that_count = [x for x in valid if int(x.sum()) == greedy.count]
    assert greedy.wishes_bound >= max(batch.wishes_met(x) for x in at_that_count) >= greedy.wishes_met
    assert greedy.stranding_bound <= greedy.stranding + 1e-12
    plain = best_fit(replace(batch, wish=None))
    assert greedy.count >= plain.sum()


@pytest.mark.parametrize("seed", range(6))
def test_few_pairs_at_a_time_come_to_the_same_bound(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The price of a wish is in the price of a pair: stranding is bounded as with all pairs in one program."""
    rng = np.random.default_rng(seed)
    batch = batch_instance(seed, num_pods=40, num_nodes=30)
    batch = replace(batch, wish=np.where(rng.random(batch.most.shape) < 0.5, 9, 0))
    whole = place_batch(batch, seconds(20))
    assert whole.ending == Ending.OPTIMAL
    for name in ("TOP_NODES", "MAX_NEW_PAIRS"):
        monkeypatch.setattr(f"placement.planning.batches.{name}", 1)
    monkeypatch.setattr("placement.planning.batches.MAX_PRICING_ROUNDS", 400)
    few = place_batch(batch, seconds(20))
    assert (few.wishes_met, few.wishes_bound) == (whole.wishes_met, whole.wishes_bound)
    assert few.stranding_bound <= whole.stranding + 1e-9
    assert few.stranding == pytest.approx(whole.stranding, abs=1e-8)


def test_wishes_that_are_all_the_same_change_nothing() -> None:
    batch = batch_instance(3, num_pods=60, num_nodes=100, with_rules=True)
    plain = place_batch(batch, Deadline(0.6, WorkClock()))
    same = place_batch(replace(batch, wish=np.zeros_like(batch.most)), Deadline(0.6, WorkClock()))
    assert np.array_equal(same.placed, plain.placed)
    assert (same.stranding, same.stranding_bound, same.wishes_met) == (plain.stranding, plain.stranding_bound, 0)


@pytest.mark.parametrize("with_rules", [False, True])
def test_many_wishes_for_few_nodes_are_met_as_a_whole_program_would(with_rules: bool) -> None:
    """Pairs are priced over all nodes; one program over all pairs has the same optimum."""
    batch = batch_instance(5, num_pods=60, num_nodes=60, with_rules=with_rules)
    rng = np.random.default_rng(5)
    liked = rng.random(60) < 0.1
    wish = np.where(liked, 100 * rng.integers(1, 4, batch.most.shape), rng.integers(0, 3, batch.most.shape))
    batch = replace(batch, wish=wish)
    result = place_batch(batch, seconds(60))
    assert batch.violations(result.placed) == []
    assert result.wishes_met <= result.wishes_bound < batch.most_wishes(batch.fitting(), result.counts)
    assert result.wishes_met >= 0.999 * result.wishes_bound
    assert result.wishes_met > batch.wishes_met(best_fit(batch))
    fitting = batch.fitting()
    goal = Goal.wishes(batch, fitting, result.counts)
    classes, nodes = np.nonzero(fitting)
    whole = BatchModel(batch, Pairs(classes, nodes, fitting > 0), fitting, goal)
    answer = solve_linear(whole.model, Limits(60.0, gap_share=1e-9))
    assert answer.has_solution
    assert round(answer.value) <= result.wishes_bound
    assert result.wishes_met <= answer.bound + 1e-6


@settings(max_examples=60, deadline=None)
@given(batches())
def test_a_batch_is_placed_as_brute_force_would(batch: Batch) -> None:
    valid = valid_placements(batch)
    most = max(int(x.sum()) for x in valid)
    least = min(batch.stranding(x) for x in valid if int(x.sum()) == most)
    result = place_batch(batch, seconds(5))
    assert batch.violations(result.placed) == []
    assert result.count == most
    assert result.stranding_bound <= least + 1e-9
    assert result.stranding >= least - 1e-9
    if result.ending == Ending.OPTIMAL:
        assert result.stranding == pytest.approx(least, abs=1e-8)


def test_a_batch_that_fills_leaves_an_empty_node_empty_and_ends_at_once() -> None:
    """The second node is half full, in proportion, so that neither strands anything."""
    free, two = np.array([[8, 4, 8], [8, 4, 8]]), np.full((2, 3), 2)
    batch = Batch(
        np.ones((2, 1), np.int64), np.array([2]), free, 4 * two, two[:1], np.array([-1]), np.zeros(3, np.int64)
    )
    assert at_once(batch).placed.tolist() == [[2, 0, 0]]
    filled = at_once(replace(batch, fills=True))
    assert filled.placed.tolist() == [[0, 2, 0]]
    assert filled.is_final
    apart = at_once(replace(batch, fills=True, most=np.ones((1, 3), np.int64)))
    assert apart.placed.tolist() == [[1, 1, 0]]
    strands = replace(batch, fills=True, request=np.array([[2], [1]]))
    assert at_once(strands).stranding > at_once(strands).stranding_bound
    assert at_once(strands).is_final


def test_a_hundred_pods_on_three_hundred_nodes_are_placed_with_a_small_certified_gap() -> None:
    batch = batch_instance(1, num_pods=100, num_nodes=300)
    result = place_batch(batch, seconds(10))
    assert batch.violations(result.placed) == []
    assert result.count == result.most == 100
    assert result.gap_share < 0.01
    assert result.stranding <= batch.stranding(best_fit(batch)) + 1e-12


def test_rules_gangs_and_spreads_hold() -> None:
    batch = batch_instance(2, num_pods=60, num_nodes=80, with_rules=True)
    result = place_batch(batch, seconds(1))
    assert batch.violations(result.placed) == []
    assert result.stranding_bound <= result.stranding


def test_a_small_batch_that_is_cancelled_at_once_is_placed_all_the_same() -> None:
    amounts, none = np.array([[9, 9]]), np.zeros(2, np.int64)
    for devices in (None, Devices(np.array([[600, 1000], [1000, 0]]), np.array([1]), np.array([600]))):
        batch = Batch(
            np.array([[1]]), np.array([3]), amounts, amounts, np.full((1, 2), 3), np.array([-1]), none, devices=devices
        )
        result = place_batch(batch, Deadline(5.0, WorkClock(), cancelled=lambda: True))
        assert result.count == 3
        assert batch.violations(result.placed) == []


def test_a_gang_that_does_not_fit_is_not_placed_at_all() -> None:
    one = np.ones((1, 1), np.int64)
    batch = Batch(one * 5, np.array([3]), one * 12, one * 12, one * 3, np.array([0]), np.zeros(1, np.int64))
    assert place_batch(batch, seconds(1)).count == 0


def test_the_checker_sees_a_skewed_spread() -> None:
    nodes = np.full((1, 2), 10)
    batch = Batch(
        np.array([[1]]),
        np.array([4]),
        nodes,
        nodes,
        np.full((1, 2), 4),
        np.array([-1]),
        np.array([0, 1]),
        (ZoneSpread(0, 1, np.zeros(2, np.int64)),),
    )
    assert batch.violations(np.array([[4, 0]])) == ["class 0 is spread with skew 4"]
    assert place_batch(batch, seconds(1)).placed.tolist() == [[2, 2]]


def test_a_node_with_room_without_measure_is_bought_like_another() -> None:
    """A resource of which it offers 2^50 and pods ask for eleven units kept GLOP going round without end."""
    capacities, costs = ([2**50, 4], [1, 6], [7, 12]), (1599.82291795847, 7118.882760526465, 6842.485027992515)
    shapes = [Shape(f"s{i}", np.array(c), usd) for i, (c, usd) in enumerate(zip(capacities, costs, strict=True))]
    shapes[0] = replace(shapes[0], limit=1)
    allowed = np.array([[True, False, True], [True, False, True]])
    demand = Demand(np.array([[3, 2], [0, 3]]), np.array([3, 1]), allowed)
    bought = buy(demand, shapes, Deadline(5.0, WorkClock()))
    assert (bought.cost, bought.ending) == (costs[0], Ending.OPTIMAL)


def test_a_batch_without_nodes_is_refused() -> None:
    none = np.zeros((1, 0), np.int64)
    with pytest.raises(ConfigError, match="no nodes"):
        Batch(np.array([[1]]), np.array([1]), none, none, none, np.array([-1]), np.zeros(0, np.int64))


# ── consolidation ─────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """At most four nodes with at most two classes."""
    num_classes, num_nodes = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    request = np.array([[draw(st.integers(1, 4)) for _ in range(num_classes)] for _ in range(2)])
    count = np.array([[draw(st.integers(0, 2)) for _ in range(num_nodes)] for _ in range(num_classes)])
    free = np.array([[draw(st.integers(0, 9)) for _ in range(num_nodes)] for _ in range(2)])
    allowed = np.array([[draw(st.integers(0, 4)) > 0 for _ in range(num_nodes)] for _ in range(num_classes)])
    deletable = np.array([draw(st.integers(0, 4)) > 0 for _ in range(num_nodes)])
    usd = np.array([draw(st.integers(1, 9)) for _ in range(num_nodes)]) / 4
    return Fleet(request, count, free, allowed, deletable, usd)


def can_delete(fleet: Fleet, deleted: np.ndarray) -> bool:
    """By trying every assignment of the displaced pods."""
    pods = [c for c in range(len(fleet.count)) for _ in range(int(fleet.count[c, deleted].sum()))]
    stays = np.flatnonzero(~deleted)
    for places in itertools.product(stays, repeat=len(pods)):
        left = fleet.free.copy()
        for c, n in zip(pods, places, strict=True):
            left[:, n] -= fleet.request[:, c]
        if (left[:, stays] >= 0).all() and all(fleet.allowed[c, n] for c, n in zip(pods, places, strict=True)):
            return True
    return False


def most_saved(fleet: Fleet, budget: int | None) -> float:
    """By trying every set of nodes."""
    choices = (np.array(x, bool) for x in itertools.product([False, True], repeat=len(fleet.usd_per_hour)))
    return max(
        float(fleet.usd_per_hour[x].sum())
        for x in choices
        if not (x & ~fleet.deletable).any()
        and (budget is None or fleet.pods[x].sum() <= budget)
        and can_delete(fleet, x)
    )


@settings(max_examples=60, deadline=None)
@given(fleets(), st.one_of(st.none(), st.integers(0, 6)))
def test_consolidation_saves_what_brute_force_would(fleet: Fleet, budget: int | None) -> None:
    best = most_saved(fleet, budget)
    rival = prefix_search(fleet, max_moves=budget)
    assert fleet_violations(fleet, rival, budget) == []
    for exact_cells in (EXACT_CELLS, 0):  # 0: bound and plan of large fleets
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("placement.planning.consolidation.EXACT_CELLS", exact_cells)
            result = consolidate(fleet, seconds(5), max_moves=budget)
        assert fleet_violations(fleet, result, budget) == []
        assert result.usd_per_hour <= best + 1e-9 <= result.bound + 2e-9
        if result.ending == Ending.OPTIMAL or exact_cells:
            assert result.usd_per_hour == pytest.approx(best)
        assert result.ending == Ending.OPTIMAL or not exact_cells
        assert result.usd_per_hour >= rival.usd_per_hour - 1e-9


@settings(max_examples=100, deadline=None)
@given(fleets(), st.sampled_from([1, 2, 2000]))
def test_what_sharpens_the_bound_never_cuts_off_the_best_plan(fleet: Fleet, visits: int) -> None:
    """Also where fillings are cut short: their bounds count then, not what was found."""
    best = most_saved(fleet, None)
    relaxed = Relaxation(fleet, None)
    gone = np.flatnonzero(fleet.deletable)[:1]
    choices = [np.isin(np.arange(len(fleet.usd_per_hour)), nodes) for nodes in (gone, np.flatnonzero(fleet.deletable))]
    cuts = [lambda deadline, choice=choice: relaxed.rows.cut(choice, deadline) for choice in choices]
    sharpenings: list[Callable[[Deadline], object]] = [relaxed.rows.sharpen, relaxed.separate, *cuts]
    for sharpen in sharpenings:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("placement.planning.fleet.FILL_VISITS", visits)
            sharpen(seconds(5))
        answer = relaxed.solve(0.0, seconds(5), 1e-6)
        assert answer.bound / CENT >= best - 1e-6


def test_a_node_stays_whose_pod_fits_on_no_other_though_there_is_room_in_sum() -> None:
    request, count, free = np.array([[2]]), np.array([[1, 0, 0]]), np.array([[5, 1, 1]])
    fleet = Fleet(request, count, free, np.ones((1, 3), bool), np.array([True, False, False]), np.ones(3))
    assert Relaxation(fleet, None).solve(0.0, seconds(5), 1e-6).bound == 0.0
    assert Relaxation(replace(fleet, free=free + 1), None).solve(0.0, seconds(5), 1e-6).bound == CENT


def test_what_was_found_of_a_filling_that_was_cut_short_bounds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Node 0 goes: its pod fits on node 1."""
    filling = Fleet.filling
    monkeypatch.setattr(Fleet, "filling", lambda *words: replace(filling(*words), value=0.0))
    fleet = Fleet(
        np.array([[2], [1]]),
        np.array([[1, 0]]),
        np.array([[0, 3], [0, 1]]),
        np.ones((1, 2), bool),
        np.ones(2, bool),
        np.ones(2),
    )
    rows = Relaxation(replace(fleet, deletable=np.array([True, False])), None).rows
    gone = np.array([True, False])
    assert rows.overfull(gone.astype(float), Limits(5.0)) is None
    assert not rows.cut(gone, seconds(5))
    rows.sharpen(seconds(5))
    assert rows.add(np.ones(1), seconds(5))
    assert rows.spare(gone) >= 0.0


@pytest.mark.parametrize("work_limit", [1e-9, 1e-4, 1e-2])
def test_a_solver_that_had_no_time_proves_nothing(work_limit: float) -> None:
    random = np.random.default_rng(0)
    model, hidden, worth = Model(), random.integers(0, 4, 200), random.integers(1, 1000, 200)
    x = model.add_columns(np.full(200, 3), objective=worth)
    for _ in range(20):
        values = random.integers(1, 100, 200)
        model.add_row(x, values, lower=float(values @ hidden), upper=float(values @ hidden))
    answer = solve_integer(model, Limits(20.0, work_limit=work_limit))
    assert answer.bound >= float(worth @ hidden)


def test_a_choice_that_cannot_be_packed_is_cut_off() -> None:
    """In sum there is room for three pods of 3 on two nodes with 5 left each, but whole pods need another node."""
    request, count = np.array([[3], [1]]), np.array([[0, 0, 3, 0]])
    free = np.array([[5, 5, 0, 1], [9, 9, 9, 9]])
    fleet = Fleet(request, count, free, np.ones((1, 4), bool), np.array([False, False, True, False]), np.ones(4))
    relaxed = Relaxation(fleet, None)
    answer = relaxed.solve(0.0, seconds(5), 1e-6)
    assert answer.value == pytest.approx(CENT)
    assert relaxed.rows.cut(answer.x > 0.5, seconds(5))
    assert relaxed.solve(0.0, seconds(5), 1e-6).value == pytest.approx(0.0)
    assert not relaxed.rows.cut(np.zeros(4, bool), seconds(5)), "who loses nothing is not cut off"
    assert most_saved(fleet, None) == 0.0


@pytest.mark.parametrize("budget", [None, 1])
@pytest.mark.parametrize("usd", [(0.33333345, 0.33333260), (2e-7, 3e-7)])
def test_prices_that_are_no_whole_millionths_keep_the_bound_true(usd: tuple[float, float], budget: int | None) -> None:
    """One of two nodes may go; in whole millionths both are worth the same, or nothing."""
    count, room = np.array([[2, 1]]), np.full((1, 2), 2)
    for order in (usd, usd[::-1]):
        fleet = Fleet(np.array([[1]]), count, room, np.ones((1, 2), bool), np.ones(2, bool), np.array(order))
        best = most_saved(fleet, budget)
        result = consolidate(fleet, seconds(5), max_moves=budget)
        assert result.bound >= best * (1 - 1e-9)
        assert result.ending != Ending.OPTIMAL or result.usd_per_hour >= best * (1 - 1e-5)


def test_where_no_other_place_is_none_is_searched_for() -> None:
    """A plan of a minute that was proved at once took six seconds more."""
    one = np.ones((1, 3), np.bool_)
    deletable = np.array([True, False, False])
    fleet = Fleet(np.array([[1]]), np.array([[5, 5, 5]]), np.array([[0, 3, 6]]), one, deletable, np.ones(3))
    plan, clock = consolidate(fleet, Deadline(1.0, WorkClock()), max_moves=None), WorkClock()
    assert plan.arrivals.sum() == 5
    assert kept_off(fleet, plan, one, Deadline(60.0, clock), 0) is plan
    assert clock.done_s < 1.0


def test_who_saves_nothing_is_never_told_of_a_negative_zero() -> None:
    fleet = Fleet(
        np.array([[0, 5, 2], [3, 3, 0], [0, 0, 3]]),
        np.array([[1, 1, 2], [0, 0, 1], [2, 2, 1]]),
        np.array([[4, 1, 3], [3, 4, 1], [2, 2, 4]]),
        np.array([[False, True, False], [False, True, False], [True, True, True]]),
        np.ones(3, bool),
        np.array([1.0, 0.0, 0.0]),
    )
    told: list[tuple[float, float | None]] = []
    result = consolidate(fleet, Deadline(5.0, WorkClock(), note=lambda *values: told.append(values)), max_moves=5)
    assert told
    assert "-" not in repr([*told, result.bound])


@pytest.mark.parametrize("budget", [None, 300])
def test_the_rival_counts_a_pod_once_whose_new_node_goes_as_well(budget: int | None) -> None:
    fleet = fleet_instance(1, num_nodes=200)
    rival = prefix_search(fleet, max_moves=budget)
    assert fleet_violations(fleet, rival, budget) == []
    assert rival.moves == fleet.pods[rival.deleted].sum() > 0


def test_of_equally_good_choices_the_one_that_leaves_most_room_is_taken() -> None:
    """Nodes 0 and 1 cost the same; node 0 has more room, so node 1 goes."""
    count = np.array([[1, 1, 0]])
    fleet = Fleet(np.array([[2]]), count, np.array([[9, 3, 1]]), np.ones((1, 3), bool), np.ones(3, bool), np.ones(3))
    fleet = replace(fleet, deletable=np.array([True, True, False]))
    relaxed = Relaxation(fleet, None)
    answer = relaxed.solve(0.0, seconds(5), 1e-6)
    assert (answer.x > 0.5).tolist() == [False, True, False]
    assert relaxed.rows.spare(answer.x > 0.5) == pytest.approx((10 - 2) / 13)


@pytest.mark.parametrize(("budget", "gap_share", "time_s"), [(None, 0.015, 1.0), (700, 0.004, 2.0), (400, 1e-6, 1.0)])
def test_a_fleet_that_is_too_large_for_the_exact_model_is_emptied_close_to_its_bound(
    budget: int | None, gap_share: float, time_s: float
) -> None:
    fleet = fleet_instance(7, num_nodes=130)
    assert fleet.count.size > EXACT_CELLS
    result = consolidate(fleet, Deadline(time_s, WorkClock()), max_moves=budget)
    assert fleet_violations(fleet, result, budget) == []
    assert 0 <= result.gap_share <= gap_share
    assert result.ending == (Ending.OPTIMAL if budget == 400 else Ending.DEADLINE)
    assert result.usd_per_hour >= 1.2 * prefix_search(fleet, max_moves=budget).usd_per_hour


def test_a_choice_that_was_not_proved_the_best_claims_no_proof() -> None:
    answer = Relaxation(fleet_instance(7, num_nodes=60), 400).solve(0.0, Deadline(1e-3, WorkClock()), 1e-6)
    assert answer.status == Status.FEASIBLE
    assert answer.bound > answer.value


def test_only_choices_that_may_use_all_room_bound_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[bool, list[float]] = {True: [], False: []}
    solve = Relaxation.solve

    def noted(self: Relaxation, margin: float, deadline: Deadline, gap_share: float) -> Answer:
        answer = solve(self, margin, deadline, gap_share)
        told[margin == 0.0].append(answer.bound / CENT)
        return answer

    monkeypatch.setattr(Relaxation, "solve", noted)
    monkeypatch.setattr("placement.planning.consolidation.EXACT_CELLS", 0)
    result = consolidate(fleet_instance(7, num_nodes=60), Deadline(0.5, WorkClock()), max_moves=400)
    assert min(told[False]) < min(told[True]) == pytest.approx(result.bound)


@pytest.mark.parametrize("budget", [None, 60])
def test_a_consolidation_that_is_cancelled_at_once_is_valid_and_states_no_more_than_it_knows(
    budget: int | None,
) -> None:
    fleet = fleet_instance(4, num_nodes=100)
    result = consolidate(fleet, Deadline(5.0, WorkClock(), cancelled=lambda: True), max_moves=budget)
    assert fleet_violations(fleet, result, budget) == []
    assert result.ending == Ending.CANCELLED
    assert prefix_search(fleet, max_moves=budget).usd_per_hour <= result.usd_per_hour <= result.bound


def test_room_of_one_kind_here_and_of_another_there_is_not_room_for_both() -> None:
    """Node 0 has cores for the class that runs nowhere else, and then none for the other, to which node 1 is too small."""
    request = np.array([[4, 1], [1, 5]])
    fleet = Fleet(
        request,
        np.array([[0, 0, 1], [0, 0, 1]]),
        np.array([[4, 100, 0], [100, 4, 0]]),
        np.array([[True, False, True], [True, True, True]]),
        np.array([False, False, True]),
        np.array([1.0, 1.0, 1.0]),
    )
    relaxed = Relaxation(fleet, None)
    assert relaxed.solve(0.0, seconds(5), 1e-6).value == pytest.approx(CENT)
    relaxed.separate(seconds(5))
    assert relaxed.solve(0.0, seconds(5), 1e-6).value == pytest.approx(0.0)
    assert most_saved(fleet, None) == 0.0
    assert consolidate(fleet, seconds(60)).ending == Ending.OPTIMAL, "compiling counts, where this test is the first"


@settings(max_examples=60, deadline=None)
@given(fleets(), st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=6), st.integers(0, 3))
def test_repacking_loses_no_pod_and_overfills_no_node(fleet: Fleet, steps: list[tuple[bool, int]], seed: int) -> None:
    num_nodes = len(fleet.usd_per_hour)
    gone = np.arange(num_nodes) == 0
    packing = Repacking.of(fleet.request, fleet.count, fleet.free, fleet.allowed, gone, seed=seed)
    for goes, n in steps:
        before = packing.copy()
        if n < num_nodes and packing.gone[n] != goes:
            (packing.empty if goes else packing.keep)(n)
        waited = packing.shortage
        for stays in np.flatnonzero(~packing.gone).tolist():
            packing.top_up(stays)
        packing.run(lambda: False, rounds=20)
        assert packing.shortage <= waited + 1e-9
        assert (packing.arrivals >= 0).all()
        assert (packing.waiting >= 0).all()
        assert (packing.arrivals[~fleet.allowed] == 0).all()
        assert (packing.arrivals[:, packing.gone] == 0).all()
        assert (packing.left == fleet.free - fleet.request @ packing.arrivals).all()
        assert (packing.left >= 0).all()
        moved = fleet.count[:, packing.gone].sum(axis=1)
        assert (packing.arrivals.sum(axis=1) + packing.waiting == moved).all()
        kept = fleet.count[:, before.gone].sum(axis=1)
        assert (before.arrivals.sum(axis=1) + before.waiting == kept).all(), "a copy does not change with it"


def test_repacking_finds_the_perfect_packing() -> None:
    """Three nodes of ten must take 6+4, 7+3 and 5+5."""
    sizes = np.array([[6, 4, 7, 3, 5]])
    count = np.zeros((5, 4), np.int64)
    count[:, 0] = 1, 1, 1, 1, 2
    free = np.array([[0, 10, 10, 10]])
    packing = Repacking.of(sizes, count, free, np.ones((5, 4), bool), np.arange(4) == 0)
    packing.run(lambda: False, rounds=2000)
    assert not packing.waiting.any()
    assert ((sizes @ packing.arrivals)[0] == free[0]).all()


def test_a_hundred_nodes_are_consolidated_far_beyond_the_prefix_search() -> None:
    fleet = fleet_instance(5, num_nodes=100)
    budget = int(fleet.pods.sum()) // 10
    result = consolidate(fleet, seconds(20), max_moves=budget)
    assert fleet_violations(fleet, result, budget) == []
    assert result.usd_per_hour > 1.2 * prefix_search(fleet, max_moves=budget).usd_per_hour
    assert result.gap_share < 0.02


def test_a_prefix_search_that_looks_at_prices_deletes_the_dearest_for_the_same_moves() -> None:
    count = np.eye(1, 4, 0, np.int64) + np.eye(1, 4, 1, np.int64) * 2  # one pod on a cheap node, two on a dear one
    fleet = Fleet(
        request=np.array([[1]]),
        count=count,
        free=np.array([[0, 0, 2, 0]]),
        allowed=np.ones((1, 4), bool),
        deletable=np.array([True, True, False, False]),
        usd_per_hour=np.array([1.0, 5.0, 1.0, 1.0]),
    )
    assert prefix_search(fleet, max_moves=2).usd_per_hour == 1
    by_price = prefix_search(fleet, max_moves=2, per_usd=True)
    assert by_price.usd_per_hour == 5
    assert fleet_violations(fleet, by_price, 2) == []


def test_a_choice_that_was_cut_short_is_made_again_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[bool] = []

    def hasty(model: Model, limits: Limits, *, relax: bool = False, hint: FloatArray | None = None) -> Answer:
        if not relax and not cut:
            cut.append(True)
            limits = replace(limits, gap_share=0.5)
        return solve_linear(model, limits, relax=relax, hint=hint)

    monkeypatch.setattr("placement.planning.relaxation.solve_linear", hasty)
    fleet = fleet_instance(13, num_nodes=200)
    budget = int(fleet.pods.sum()) // 10
    result = consolidate(fleet, Deadline(10, WorkClock()), max_moves=budget)
    assert cut
    assert result.ending == Ending.OPTIMAL


def test_a_node_without_a_price_is_named() -> None:
    fleet = fleet_instance(0, num_nodes=5)
    usd = fleet.usd_per_hour.copy()
    usd[3] = np.nan
    with pytest.raises(ConfigError, match="node number 3 has no price"):
        Fleet(fleet.request, fleet.count, fleet.free, fleet.allowed, fleet.deletable, usd)


# ── purchase ──────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_purchase_covers_the_demand_and_its_bound_holds(data: st.DataObject) -> None:
    num_classes = data.draw(st.integers(1, 3))
    request = np.array([[data.draw(st.integers(1, 5)) for _ in range(num_classes)] for _ in range(2)])
    count = np.array([data.draw(st.integers(0, 3)) for _ in range(num_classes)])
    demand = Demand(request, count, np.ones((num_classes, 2), bool))
    shapes = [
        Shape("small", np.array([6, 6]), 1.0),
        Shape("large", np.array([11, 9]), data.draw(st.integers(1, 4)) / 2),
    ]
    result = buy(demand, shapes, seconds(2))
    assert purchase.violations(demand, shapes, result) == []
    rival = first_fit_decreasing(demand, shapes)
    assert rival is not None
    assert purchase.violations(demand, shapes, rival) == []
    assert result.bound <= result.cost <= rival.cost + 1e-9
    assert result.cost == pytest.approx(cheapest(demand, shapes))
    assert result.ending == Ending.OPTIMAL


def cheapest(demand: Demand, shapes: list[Shape]) -> float:
    """By depth-first search over all ways to put the pods on nodes."""
    pods = [c for c in range(len(demand.count)) for _ in range(int(demand.count[c]))]
    best = [float("inf")]

    def put(i: int, nodes: list[tuple[int, np.ndarray]], cost: float) -> None:
        if cost >= best[0]:
            return
        if i == len(pods):
            best[0] = cost
            return
        need, allowed = demand.request[:, pods[i]], demand.allowed[pods[i]]
        for k, (s, load) in enumerate(nodes):
            if allowed[s] and (load + need <= shapes[s].capacity).all():
                put(i + 1, [*nodes[:k], (s, load + need), *nodes[k + 1 :]], cost)
        for s, shape in enumerate(shapes):
            if allowed[s] and (need <= shape.capacity).all():
                put(i + 1, [*nodes, (s, need)], cost + shape.cost)

    put(0, [], 0.0)
    return best[0] if pods else 0.0


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_is_left_of_a_few_pods_is_looked_at_whole(data: st.DataObject) -> None:
    num_classes, num_shapes = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    request = np.array([[data.draw(st.integers(0, 5)) for _ in range(num_classes)] for _ in range(2)])
    count = np.array([data.draw(st.integers(1, 3)) for _ in range(num_classes)])
    allowed = np.array([[data.draw(st.booleans()) for _ in range(num_shapes)] for _ in range(num_classes)])
    shapes = [
        Shape(f"s{s}", np.array([data.draw(st.integers(3, 12)) for _ in range(2)]), data.draw(st.integers(1, 5)) / 3)
        for s in range(num_shapes)
    ]
    demand = Demand(request, count, allowed)
    least = cheapest(demand, shapes)
    capacity, cost = np.array([shape.capacity for shape in shapes]), np.array([shape.cost for shape in shapes])
    price = np.array([data.draw(st.integers(1, 9)) for _ in range(num_classes)]) / 9.0
    uppers = [best_pattern(price * allowed[:, s], request, count, capacity[s]).upper for s in range(num_shapes)]
    price /= max(1.0, float((uppers / cost).max()) * (1 + 1e-9))
    few = Few(request, count, allowed, capacity, cost, price)
    at_hand = data.draw(st.sampled_from([1e3, min(least, 1e3) + 0.1, min(least, 1e3)]))
    nodes, is_proved = partitions.cheapest(few, at_hand, Deadline(5.0, WorkClock()))
    assert is_proved
    assert (nodes is not None) == (least < at_hand - 1e-9)
    if nodes is not None:
        plan = Bought(tuple(Filling(s, counts, 1) for s, counts in nodes), least, 0.0, Ending.OPTIMAL)
        assert purchase.violations(demand, shapes, plan) == []


def test_looking_at_what_is_left_ends_with_its_time_and_where_a_node_has_too_many_fillings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    demand, shapes = purchase_instance(0, num_pods=12)
    capacity, cost = np.array([shape.capacity for shape in shapes]), np.array([shape.cost for shape in shapes])
    few = Few(demand.request, demand.count, demand.allowed, capacity, cost, np.full(len(demand.count), 1e-3))
    monkeypatch.setattr(partitions, "SLICE", 1)
    assert partitions.cheapest(few, 100.0, Deadline(1e-4, WorkClock())) == (None, False)
    monkeypatch.setattr(partitions, "MOST_FILLINGS", 1)
    assert partitions.cheapest(few, 100.0, Deadline(5.0, WorkClock())) == (None, False)


@pytest.mark.parametrize("factor", [1e-8, 1e5])
def test_what_prices_are_counted_in_does_not_matter(factor: float) -> None:
    told: list[float] = []
    for seed in range(6):
        demand, shapes = purchase_instance(seed, num_pods=10)
        usual = buy(demand, shapes, Deadline(5.0, WorkClock()))
        scaled = [replace(shape, usd_per_hour=factor * shape.usd_per_hour) for shape in shapes]
        result = buy(demand, scaled, Deadline(5.0, WorkClock(), note=lambda cost, _bound: told.append(cost)))
        assert purchase.violations(demand, scaled, result) == []
        assert (result.ending, usual.ending) == (Ending.OPTIMAL, Ending.OPTIMAL)
        assert result.cost == pytest.approx(factor * usual.cost, rel=1e-6)
        assert result.bound == pytest.approx(factor * usual.bound, rel=1e-6)
        assert told[-1] == result.cost


@pytest.mark.parametrize("seed", range(3))
def test_a_purchase_for_sixteen_pods_is_proved_the_cheapest(seed: int) -> None:
    demand, shapes = purchase_instance(seed, num_pods=16)
    result = buy(demand, shapes, Deadline(5.0, WorkClock()))
    assert purchase.violations(demand, shapes, result) == []
    assert result.ending == Ending.OPTIMAL


def test_a_thousand_pods_cost_less_than_first_fit_decreasing() -> None:
    demand, shapes = purchase_instance(1, num_pods=1000)
    buy(demand, shapes, seconds(0.1))  # compiles, where that has not been done
    result = buy(demand, shapes, seconds(3))
    rival = first_fit_decreasing(demand, shapes)
    assert rival is not None
    assert purchase.violations(demand, shapes, result) == []
    assert result.cost < rival.cost
    assert 0 < result.bound <= result.cost


@pytest.mark.parametrize("seed", range(4))
def test_a_purchase_for_a_handful_of_pods_is_proved_the_cheapest(seed: int) -> None:
    demand, shapes = purchase_instance(seed, num_pods=8)
    result = buy(demand, shapes, Deadline(5.0, WorkClock()))
    assert purchase.violations(demand, shapes, result) == []
    assert result.ending == Ending.OPTIMAL
    assert result.bound == pytest.approx(result.cost, rel=1e-8)


def test_a_limit_of_work_ends_a_purchase_after_as_much_work_and_always_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = itertools.count()

    def counted(*words: Any) -> Any:
        next(rounds)
        return recreate(*words)

    monkeypatch.setattr("placement.planning.refit.recreate", counted)
    demand, shapes = purchase_instance(1, num_pods=200)
    one, two = (purchase.buy(demand, shapes, Deadline(0.2, WorkClock())) for _ in range(2))
    assert one.cost == two.cost
    assert [(f.shape, f.nodes, f.counts.tolist()) for f in one.fillings] == [
        (f.shape, f.nodes, f.counts.tolist()) for f in two.fillings
    ]
    assert 0 < next(rounds) / 2 * purchase.ROUND_S * len(shapes) <= 0.2


def test_limits_on_shapes_hold() -> None:
    demand = Demand(np.array([[4]]), np.array([5]), np.ones((1, 2), bool))
    shapes = [Shape("reserved", np.array([4]), 0.1, limit=2), Shape("on-demand", np.array([4]), 1.0)]
    result = buy(demand, shapes, seconds(1))
    assert purchase.violations(demand, shapes, result) == []
    assert result.cost == pytest.approx(3.2)
    assert result.bound <= 3.2 + 1e-6


def test_the_last_node_of_a_shape_goes_to_the_pod_that_takes_no_other() -> None:
    """Greedily the first class gets it; then the second has none, although the first could have a dearer one."""
    demand = Demand(np.full((2, 2), 3), np.array([1, 1]), np.array([[True, True], [True, False]]))
    shapes = [Shape("small", np.array([3, 6]), 0.1, limit=1), Shape("large", np.array([9, 6]), 1.0, limit=2)]
    result = buy(demand, shapes, Deadline(5.0, WorkClock()))
    assert purchase.violations(demand, shapes, result) == []
    assert result.cost == pytest.approx(1.1)
    assert result.ending == Ending.OPTIMAL


@pytest.mark.parametrize(("most", "ending"), [(2, Ending.INFEASIBLE), (3, Ending.DEADLINE), (4, Ending.OPTIMAL)])
def test_a_purchase_beyond_limits_is_infeasible_only_where_that_is_proved(most: int, ending: Ending) -> None:
    """Four pods of 3 on nodes of 4: cut at will they fit on three nodes, whole they need four."""
    demand = Demand(np.array([[3]]), np.array([4]), np.ones((1, 1), bool))
    result = buy(demand, [Shape("only", np.array([4]), 1.0, limit=most)], Deadline(5.0, WorkClock()))
    assert result.ending == ending
    assert bool(result.fillings) == (ending == Ending.OPTIMAL)


def test_a_pod_that_fits_no_shape_is_found() -> None:
    demand = Demand(np.array([[9, 1]]), np.array([1, 1]), np.ones((2, 1), bool))
    assert unplaceable(demand, [Shape("small", np.array([4]), 1.0)]) == [0]


def test_a_price_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="shape x: price nan"):
        Shape("x", np.array([1]), float("nan"))


def test_ruin_and_recreate_keeps_every_pod_and_never_costs_more() -> None:
    demand, shapes = purchase_instance(0, num_pods=200)
    start = first_fit_decreasing(demand, shapes)
    assert start is not None
    market = purchase.market_of(demand, shapes, demand.request[0].astype(np.float64))
    nodes = [(f.shape, f.counts) for f in start.fillings for _ in range(f.nodes)]
    better = refit(market, nodes, lambda: False, rounds=60, seed=1)
    assert np.array_equal(sum(counts for _, counts in better), sum(counts for _, counts in nodes))
    assert all((demand.request @ counts <= shapes[s].capacity).all() for s, counts in better)
    assert sum(shapes[s].cost for s, _ in better) < start.cost


def test_the_fluid_bound_is_below_every_fleet() -> None:
    demand, shapes = purchase_instance(3, num_pods=200)
    rival = first_fit_decreasing(demand, shapes)
    assert rival is not None
    assert 0 < purchase.fluid_bound(demand, shapes) <= rival.cost


def test_a_fleet_without_a_budget_is_consolidated_within_a_percent_of_the_bound() -> None:
    fleet = fleet_instance(1, num_nodes=60)
    result = consolidate(fleet, seconds(2.0))
    assert fleet_violations(fleet, result, None) == []
    assert result.usd_per_hour > prefix_search(fleet).usd_per_hour
    assert result.gap_share < 0.02


def test_with_counted_work_a_plan_takes_no_look_at_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from ortools.math_opt.python import mathopt

    asked = []
    solve = mathopt.solve

    def watched(model: object, engine: object, *, params: mathopt.SolveParameters, **more: object) -> object:
        asked.append(params)
        return solve(model, engine, params=params, **more)

    monkeypatch.setattr(mathopt, "solve", watched)
    fleet = fleet_instance(2, num_nodes=40)
    clocks = [WorkClock(), WorkClock()]
    first, again = (consolidate(fleet, Deadline(0.5, clock)) for clock in clocks)
    assert asked
    assert all(params.time_limit is None for params in asked)
    assert (first.deleted == again.deleted).all()
    assert (first.arrivals == again.arrivals).all()
    assert (first.usd_per_hour, first.bound, first.ending) == (again.usd_per_hour, again.bound, again.ending)
    assert clocks[0].done_s == clocks[1].done_s > 0


def test_less_work_ends_a_plan_earlier() -> None:
    fleet = fleet_instance(2, num_nodes=100)
    short, long = WorkClock(), WorkClock()
    little, much = consolidate(fleet, Deadline(0.01, short)), consolidate(fleet, Deadline(1.0, long))
    assert short.done_s < long.done_s
    assert little.usd_per_hour <= much.usd_per_hour


@pytest.mark.parametrize("usd", [3.8583226, 3.8583224])
def test_a_saving_that_only_rounding_keeps_from_its_bound_is_optimal(usd: float) -> None:
    count, free = np.array([[1, 1, 1, 1]]), np.array([[0, 0, 0, 2]])
    deletable = np.array([True, True, True, False])
    fleet = Fleet(np.array([[1]]), count, free, np.ones((1, 4), bool), deletable, np.full(4, usd))
    result = consolidate(fleet, seconds(5), max_moves=3)
    assert result.usd_per_hour == pytest.approx(2 * usd, rel=1e-12)
    assert result.ending == Ending.OPTIMAL
    assert result.usd_per_hour <= result.bound <= result.usd_per_hour * (1 + 1e-6)


@pytest.mark.parametrize("coefficient", [1e6, 1e15, 2.0**50, 2.0**60])
def test_a_program_with_numbers_that_highs_does_not_take_has_no_answer_and_no_bound(coefficient: float) -> None:
    """As of a pod that was bound by hand and asks for a pebibyte; MathOpt ends with an error of its own."""
    model = Model()
    x = model.add_columns(np.full(3, 5), objective=1.0)
    model.add_row(x, np.array([coefficient, 1.0, 1.0]), upper=2 * coefficient)
    answer = solve_linear(model, Limits(10.0))
    if coefficient < 1e15:
        assert (answer.status, answer.value) == (Status.OPTIMAL, 11.0)
    else:
        assert (answer.status, answer.bound) == (Status.UNKNOWN, math.inf)
