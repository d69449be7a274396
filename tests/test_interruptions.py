"""Consolidation that counts interruptions, against trying everything; and without them as it was."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.errors import ConfigError
from placement.planning.consolidation import consolidate
from placement.planning.fleet import Fleet
from placement.planning.interruptions import Risk, consolidate_with_risk, violations
from placement.planning.plans import Deadline, Ending, WorkClock
from simulator.cli.plan import plan as plan_group
from simulator.planning.bench import bench
from simulator.planning.instances import fleet_instance, spot_nodes
from simulator.planning.snapshots import write_snapshot
from tests.plan_objects import node, pod, taken
from tests.test_plan_models import fleets, seconds


@st.composite
def risks(draw: st.DrawFn, fleet: Fleet) -> Risk:
    per_hour = [draw(st.sampled_from([0.0, 0.0, 0.25, 0.5])) for _ in fleet.usd_per_hour]
    per_pod = [draw(st.integers(0, 4)) / 2 for _ in fleet.count]
    return Risk(np.array(per_hour), draw(st.integers(0, 4)) / 2, np.array(per_pod))


def most_saved(fleet: Fleet, risk: Risk, budget: int) -> float:
    """By trying all sets of nodes and all places of their pods; the saving is the difference of the bills."""

    def bill(count: np.ndarray, stays: np.ndarray) -> float:
        hit = risk.usd_per_node + risk.usd_per_pod @ count
        return float(((fleet.usd_per_hour + risk.per_hour * hit) * stays).sum())

    num_nodes, best = len(fleet.usd_per_hour), 0.0
    before = bill(fleet.count, np.ones(num_nodes))
    for choice in itertools.product([False, True], repeat=num_nodes):
        deleted = np.array(choice)
        if (deleted & ~fleet.deletable).any() or fleet.pods[deleted].sum() > budget:
            continue
        pods = [c for c in range(len(fleet.count)) for _ in range(int(fleet.count[c, deleted].sum()))]
        for places in itertools.product(np.flatnonzero(~deleted), repeat=len(pods)):
            arrivals = np.zeros_like(fleet.count)
            for c, n in zip(pods, places, strict=True):
                arrivals[c, n] += 1
            if (arrivals[~fleet.allowed] > 0).any() or (fleet.request @ arrivals > fleet.free).any():
                continue
            best = max(best, before - bill(fleet.count + arrivals, ~deleted))
    return best


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_with_interruptions_a_consolidation_saves_what_brute_force_would(data: st.DataObject) -> None:
    fleet = data.draw(fleets())
    risk, budget = data.draw(risks(fleet)), data.draw(st.integers(0, 5))
    best = most_saved(fleet, risk, budget)
    result = consolidate_with_risk(fleet, risk, seconds(0.5), max_moves=budget)
    assert violations(fleet, risk, result, budget) == []
    assert result.usd_per_hour <= best + 1e-9 <= result.bound + 1e-6
    if result.ending == Ending.OPTIMAL:
        assert result.usd_per_hour == pytest.approx(best, abs=1e-6)
    blind = consolidate(fleet, seconds(0.5), max_moves=budget)
    assert result.usd_per_hour >= -1e-12
    if result.ending == Ending.OPTIMAL:
        assert result.usd_per_hour >= risk.saved(fleet, blind.deleted, blind.arrivals) - 1e-6


@settings(max_examples=40, deadline=None)
@given(fleets(), st.integers(0, 5))
def test_without_interruptions_it_is_the_plan_it_was(fleet: Fleet, budget: int) -> None:
    plain = consolidate(fleet, Deadline(0.2, WorkClock()), max_moves=budget)
    for risk in (
        Risk(np.zeros(len(fleet.usd_per_hour)), 3.0, np.full(len(fleet.count), 2.0)),
        Risk(np.ones(len(fleet.usd_per_hour)), 0.0, np.zeros(len(fleet.count))),
    ):
        found = consolidate_with_risk(fleet, risk, Deadline(0.2, WorkClock()), max_moves=budget)
        assert (found.deleted == plain.deleted).all()
        assert (found.arrivals == plain.arrivals).all()
        assert (found.usd_per_hour, found.bound, found.ending) == (plain.usd_per_hour, plain.bound, plain.ending)


def test_two_hundred_nodes_are_consolidated_for_more_than_without_a_look_at_interruptions() -> None:
    fleet, spot = fleet_instance(1, num_nodes=200), spot_nodes(1, num_nodes=200)
    risk = Risk(np.where(spot, 0.05, 0.0), 0.2, np.full(len(fleet.count), 0.5))
    budget = int(fleet.pods.sum()) // 10
    found = consolidate_with_risk(fleet, risk, Deadline(2.0, WorkClock()), max_moves=budget)
    blind = consolidate(fleet, Deadline(2.0, WorkClock()), max_moves=budget)
    assert violations(fleet, risk, found, budget) == []
    assert found.usd_per_hour > risk.saved(fleet, blind.deleted, blind.arrivals)
    assert found.gap_share < 0.05
    assert 0.2 < spot.mean() < 0.4


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf")])
def test_a_risk_that_is_no_number_is_refused(amount: float) -> None:
    good = Risk(np.zeros(1), 0.0, np.zeros(1))
    for wrong in ({"per_hour": np.array([amount])}, {"usd_per_node": amount}, {"usd_per_pod": np.array([amount])}):
        with pytest.raises(ConfigError, match="finite numbers"):
            replace(good, **wrong)
    for dear in (Risk, lambda rate, _node, pods: Risk(rate, 0.0, pods)):
        with pytest.raises(ConfigError, match=r"1e\+09 interruptions an hour at 1e\+09 USD are 1e\+18 USD an hour"):
            dear(np.array([1e9]), 1e9, np.array([1e9]))


def test_the_checker_finds_a_saving_that_forgets_interruptions() -> None:
    """One pod on a node that may go, beside an empty spot node that must stay."""
    deletable = np.array([True, False])
    room = np.array([[0, 2]])
    fleet = Fleet(np.array([[1]]), np.array([[1, 0]]), room, np.ones((1, 2), bool), deletable, np.ones(2))
    risk = Risk(np.array([0.0, 0.5]), 0.0, np.array([1.0]))
    blind = consolidate(fleet, seconds(1))
    assert blind.usd_per_hour == 1.0
    assert any("bills differ by 0.5" in problem for problem in violations(fleet, risk, blind, None))
    assert consolidate_with_risk(fleet, risk, seconds(1)).usd_per_hour == pytest.approx(0.5)
    dear = replace(risk, usd_per_pod=np.array([3.0]))
    kept = consolidate_with_risk(fleet, dear, seconds(1))
    assert (kept.usd_per_hour, kept.moves) == (0.0, 0), "to be interrupted would cost more than the node does"


def test_the_command_counts_interruptions_and_says_how_much_of_the_saving_they_are(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    spot = {"labels": {"karpenter.sh/capacity-type": "spot"}}
    nodes = [node("a", 4), node("b", 4), node("s", 4, **spot)]
    write_snapshot(taken(*nodes, pod("x-1", "1", "a"), pod("y-1", "3", "b"), pod("z-1", "1", "s")), path)

    def plan(*words: str) -> dict[str, dict[str, float]]:
        words = ("consolidate", "--snapshot", str(path), "--time", "1", "--max-moves", "1", "-o", "json", *words)
        made: dict[str, dict[str, float]] = json.loads(
            CliRunner().invoke(plan_group, words, catch_exceptions=False).stdout
        )
        return made

    assert "moved_to_spot" not in plan()["details"]
    aware = plan("--interruptions", "0.1", "--usd-per-interruption", "50", "--usd-per-pod-interrupted", "9")["details"]
    assert aware["moved_to_spot"] == 0
    assert aware["interruptions_usd_per_hour"] == pytest.approx(0.1 * 59), "the spot node goes"


def test_the_bench_with_interruptions_is_checked() -> None:
    row = bench("consolidate-spot", 1, 1.0, clock="cpu")[0]
    assert row["moved_to_spot"] is not None
    assert float(row["usd_per_hour"] or 0) > 0
