"""Reserved machines: paid for a term, used or not; what is cheapest is checked against trying everything."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.errors import ConfigError
from placement.planning import commitments, purchase
from placement.planning.plans import Deadline, Ending
from placement.planning.purchase import Bought, Demand, Filling, Shape, buy
from placement.resources import FloatArray


def soon() -> Deadline:
    """A little of the CPU's time, so that a busy machine does not make plans worse."""
    return Deadline(0.15, time.process_time)


def least_total(demand: Demand, shapes: list[Shape], term_hours: FloatArray, hours: FloatArray) -> float:
    """USD in all, by depth-first search over all ways to put the pods on nodes; infinite when there is none."""
    pods = [c for c in range(len(demand.count)) for _ in range(int(demand.count[c]))]
    best = float("inf")

    def total(nodes: list[tuple[int, list[int]]]) -> float:
        used = [max(hours[c] for c in content) for _, content in nodes]
        return sum(
            shapes[s].usd_per_hour * max(term_hours[s], u) + shapes[s].interruption_usd_per_hour * u
            for (s, _), u in zip(nodes, used, strict=True)
        )

    def has_room(s: int, nodes: list[tuple[int, list[int]]]) -> bool:
        alike = [t for t, other in enumerate(shapes) if t == s or (other.pool and other.pool == shapes[s].pool)]
        limits = [limit for t in alike if (limit := shapes[t].limit) is not None]
        return sum(t in alike for t, _ in nodes) < min(limits, default=len(pods))

    def put(i: int, nodes: list[tuple[int, list[int]]]) -> None:
        nonlocal best
        if total(nodes) >= best:
            return
        if i == len(pods):
            best = total(nodes)
            return
        c = pods[i]
        for k, (s, content) in enumerate(nodes):
            load = demand.request[:, [*content, c]].sum(axis=1)
            if demand.allowed[c, s] and (load <= shapes[s].capacity).all():
                put(i + 1, [*nodes[:k], (s, [*content, c]), *nodes[k + 1 :]])
        for s, shape in enumerate(shapes):
            if has_room(s, nodes) and demand.allowed[c, s] and (demand.request[:, c] <= shape.capacity).all():
                put(i + 1, [*nodes, (s, [c])])

    put(0, [])
    return best if pods else 0.0


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_fleet_with_commitments_is_cheaper_and_the_bound_holds(data: st.DataObject) -> None:
    num_classes = data.draw(st.integers(1, 3))
    request = np.array([[data.draw(st.integers(1, 4)) for _ in range(num_classes)] for _ in range(2)])
    count = np.array([data.draw(st.integers(0, 2)) for _ in range(num_classes)])
    hours = np.array([data.draw(st.sampled_from([10.0, 50.0, 100.0, 150.0])) for _ in range(num_classes)])
    rate, limit, owned = data.draw(st.tuples(st.integers(1, 9), st.integers(0, 2), st.integers(0, 1)))
    pool, spots, hourly = data.draw(
        st.tuples(st.sampled_from(["", "zone"]), st.integers(0, 2), st.sampled_from([1, 2, 4, None]))
    )
    risk = data.draw(st.integers(0, 8)) / 10
    shapes = [
        Shape("hourly", np.array([6, 6]), 1.0, limit=hourly, pool=pool),
        Shape("spot", np.array([6, 6]), 0.4, limit=spots, spot=True, interruption_usd_per_hour=risk, pool=pool),
        Shape(
            "reserved", np.array([6, 6]), rate / 10, limit=limit, pool=data.draw(st.sampled_from(["", "zone", "own"]))
        ),
        Shape("owned", np.array([5, 5]), 0.0, limit=owned, pool=data.draw(st.sampled_from(["", "own"]))),
    ]
    terms = np.array([0.0, 0.0, 100.0, 0.0])
    allowed = np.array([[True, data.draw(st.booleans()), True, True] for _ in range(num_classes)])
    demand = Demand(request, count, allowed)
    found = commitments.offers(demand, shapes, terms, hours)
    bought = buy(found.demand, found.shapes, soon())
    longest = float(hours[count > 0].max(initial=0.0))
    least = least_total(demand, shapes, terms, hours)
    if least == np.inf:
        assert not bought.fillings
        return
    assert purchase.violations(found.demand, found.shapes, bought) == []
    plan = commitments.of_shapes(found, bought)
    assert commitments.violations(demand, shapes, terms, hours, plan) == []
    assert plan.bound * longest <= least + 1e-6
    assert plan.cost * longest >= least - 1e-6
    if bought.ending == Ending.OPTIMAL:
        assert plan.cost * longest == pytest.approx(least)


def one_class(hours: float, pods: int = 4) -> tuple[Demand, FloatArray]:
    return Demand(np.array([[4]]), np.array([pods]), np.ones((1, 3), bool)), np.array([hours])


YEAR = 8760.0
OFFERED = [
    Shape("hourly", np.array([4]), 1.0),
    Shape("reserved", np.array([4]), 0.6, limit=3),
    Shape("owned", np.array([4]), 0.0, limit=1),
]
TERMS = np.array([0.0, YEAR, 0.0])


@pytest.mark.parametrize(("hours", "reserved"), [(0.59 * YEAR, 0), (0.61 * YEAR, 3), (YEAR, 3), (3 * YEAR, 3)])
def test_a_reservation_pays_from_its_break_even_on_and_what_is_owned_is_used_first(hours: float, reserved: int) -> None:
    demand, used = one_class(hours, pods=5)
    found = commitments.offers(demand, OFFERED, TERMS, used)
    plan = commitments.of_shapes(found, buy(found.demand, found.shapes, soon()))
    assert plan.nodes(3).tolist() == [4 - reserved, reserved, 1]


def test_who_runs_briefly_uses_the_room_beside_who_runs_long() -> None:
    demand = Demand(np.array([[2, 2]]), np.array([1, 1]), np.ones((2, 2), bool))
    shapes, hours = OFFERED[:2], np.array([YEAR, 10.0])
    found = commitments.offers(demand, shapes, TERMS[:2], hours)
    plan = commitments.of_shapes(found, buy(found.demand, found.shapes, soon()))
    assert plan.nodes(2).tolist() == [0, 1]
    assert plan.cost == pytest.approx(0.6)


def test_without_terms_and_with_equal_hours_it_is_the_plain_purchase() -> None:
    demand, used = one_class(7.0)
    plain = [OFFERED[0], replace(OFFERED[0], name="other", usd_per_hour=2.0)]
    demand = replace(demand, allowed=np.ones((1, 2), bool))
    found = commitments.offers(demand, plain, np.zeros(2), used)
    assert [s.cost for s in found.shapes] == [1.0, 2.0]
    assert buy(found.demand, found.shapes, soon()).cost == buy(demand, plain, soon()).cost == 4.0


def test_the_checker_finds_a_bill_that_is_too_small_and_a_limit_that_is_exceeded() -> None:
    demand, used = one_class(0.1 * YEAR)
    cheap = Bought((Filling(1, np.array([1]), 4),), 4 * 0.6, 0.0, Ending.DEADLINE)
    wrong = commitments.violations(demand, OFFERED, TERMS, used, cheap)
    assert any("limit 3" in problem for problem in wrong)
    assert any("cost" in problem for problem in wrong), "a reservation costs its whole term"


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf")])
def test_hours_that_are_no_hours_are_refused(hours: float) -> None:
    demand, used = one_class(hours)
    with pytest.raises(ConfigError, match="hours"):
        commitments.offers(demand, OFFERED, TERMS, used)
    with pytest.raises(ConfigError, match="term"):
        commitments.offers(demand, OFFERED, np.array([0.0, -1.0, 0.0]), np.ones(1))


def test_a_limit_that_stops_first_fit_does_not_stop_the_purchase() -> None:
    """First fit opens nodes as large as the one large machine; there is only one."""
    demand = Demand(np.array([[1]]), np.array([12]), np.ones((1, 2), bool))
    shapes = [Shape("large", np.array([8]), 1.0, limit=1), Shape("small", np.array([2]), 1.0)]
    assert purchase.first_fit_decreasing(demand, shapes) is None
    bought = buy(demand, shapes, soon())
    assert purchase.violations(demand, shapes, bought) == []
    assert bought.cost == pytest.approx(3.0)
    assert bought.bound <= 3.0 + 1e-9


def test_shapes_of_one_pool_share_their_limit() -> None:
    demand = Demand(np.array([[4]]), np.array([3]), np.ones((1, 3), bool))
    pooled = [replace(s, pool="p", limit=2, usd_per_hour=u) for s, u in zip(OFFERED[:2], (0.1, 0.2), strict=True)]
    shapes = [*pooled, replace(OFFERED[0], usd_per_hour=1.0)]
    bought = buy(demand, shapes, soon())
    assert purchase.violations(demand, shapes, bought) == []
    assert bought.cost == pytest.approx(1.2)
    three = replace(bought, fillings=(Filling(0, np.array([1]), 2), Filling(1, np.array([1]), 1)), cost=0.4, bound=0.0)
    assert purchase.violations(demand, shapes, three) == [
        "3 nodes of shape hourly, limit 2",
        "3 nodes of shape reserved, limit 2",
    ]
