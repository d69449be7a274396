"""Plans on committed instances: value, certified gap and rival, one row per instance.

The instances come from :mod:`simulator.planning.instances` and are a function of their seed, so every figure in the
documentation can be made again with one command.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from placement.errors import ConfigError
from placement.planning import patterns, purchase
from placement.planning.batch import Batch, Batched
from placement.planning.batches import place_batch
from placement.planning.best_fit import best_fit
from placement.planning.consolidation import consolidate
from placement.planning.fleet import violations as fleet_violations
from placement.planning.interruptions import Risk, consolidate_with_risk
from placement.planning.interruptions import violations as risk_violations
from placement.planning.plans import Deadline
from placement.planning.prefix_search import prefix_search
from placement.resources import IntArray
from simulator.output import Progress, untold
from simulator.planning.instances import (
    batch_instance,
    fleet_instance,
    purchase_instance,
    spot_nodes,
    with_company,
    with_priorities,
    with_wishes,
)

Row = dict[str, float | int | str | None]
Clock = Callable[[], float]
BATCH_SIZES = ((200, 5000), (500, 15000), (200, 1000))
SHORT_SIZES = ((50, 6), (200, 40), (500, 100))
"""Pods, and nodes that take about four in five of them."""
FLEET_SIZES = (100, 200, 400, 1000)
PURCHASE_SIZES = (200, 1000, 5000)
INTERRUPTIONS_PER_HOUR, USD_PER_INTERRUPTION, USD_PER_POD_INTERRUPTED = 0.05, 0.2, 0.5
"""Of ``consolidate-spot``: a spot node lives for twenty hours; what its end costs, and costs for each pod on it."""
MOVES_SHARE = 0.1
"""Move budget of consolidation, as a share of all pods."""


def batch_row(
    seed: int,
    time_s: float,
    clock: Clock,
    *,
    with_rules: bool = False,
    change: Callable[[Batch, int], Batch] | None = None,
) -> Row:
    """Pending batches of two hundred and five hundred pods, against best fit; ``change`` adds wishes or devices."""
    num_pods, num_nodes = BATCH_SIZES[seed % len(BATCH_SIZES)]
    batch = batch_instance(seed, num_pods=num_pods, num_nodes=num_nodes, with_rules=with_rules)
    batch = change(batch, seed) if change is not None else batch
    greedy = best_fit(batch)
    start = clock()
    result = place_batch(batch, Deadline(time_s, clock))
    spent = clock() - start
    _valid(batch.violations(result.placed))
    return {
        "seed": seed,
        "pods": num_pods,
        "nodes": num_nodes,
        "placed": result.count,
        "most": result.most,
        "best_fit_placed": int(greedy.sum()),
        "stranded_share": result.stranding,
        "best_fit_stranded_share": batch.stranding(greedy),
        "gap_percent": 100 * result.gap_share,
        **(_wishes(batch, greedy, result) if batch.has_wishes else {}),
        "ending": str(result.ending),
        "time_s": round(spent, 2),
    }


def _wishes(batch: Batch, greedy: IntArray, result: Batched) -> Row:
    possible = batch.wishes_possible
    alone = {}
    if batch.near:  # as if pods did not know of each other
        apart = best_fit(replace(batch, near=()))
        alone = {"alone_wishes_percent": 100 * batch.wishes_met(apart) / possible}
    return {
        **alone,
        "best_fit_wishes_percent": 100 * batch.wishes_met(greedy) / possible,
        "wishes_percent": 100 * result.wishes_met / possible,
        "wishes_bound_percent": 100 * result.wishes_bound / possible,
    }


def priorities_row(seed: int, time_s: float, clock: Clock) -> Row:
    """Pods of four priorities where room is short: placed, and at most, of each; and by a plan blind to priorities."""
    num_pods, num_nodes = SHORT_SIZES[seed % len(SHORT_SIZES)]
    batch = with_priorities(batch_instance(seed, num_pods=num_pods, num_nodes=num_nodes), seed)
    blind = place_batch(replace(batch, priority=None), Deadline(time_s, clock))
    start = clock()
    result = place_batch(batch, Deadline(time_s, clock))
    spent = clock() - start
    _valid(batch.violations(result.placed))
    proved = [most == count for most, count in zip(result.most_of_each, result.counts, strict=True)]

    def words(counts: tuple[int, ...]) -> str:
        return "+".join(str(count) for count in counts)

    return {
        "seed": seed,
        "pods": words(batch.by_rank(batch.count)),
        "nodes": num_nodes,
        "placed": words(result.counts),
        "most": words(result.most_of_each),
        "proved": (proved.index(False) if False in proved else len(proved)),
        "blind_placed": words(batch.counts(blind.placed)),
        "best_fit_placed": words(batch.counts(best_fit(batch))),
        "gap_percent": 100 * result.gap_share,
        "ending": str(result.ending),
        "time_s": round(spent, 2),
    }


def consolidation_row(seed: int, time_s: float, clock: Clock, *, unlimited: bool = False) -> Row:
    """Fleets of 100 to 1,000 nodes, 30 % spot, against Karpenter's prefix search with the same budget of moves, and
    against the same search where it sorts by pods per USD."""
    fleet = fleet_instance(seed, num_nodes=FLEET_SIZES[seed % len(FLEET_SIZES)])
    budget = None if unlimited else int(MOVES_SHARE * fleet.pods.sum())
    rival = prefix_search(fleet, max_moves=budget)
    by_price = prefix_search(fleet, max_moves=budget, per_usd=True)
    start = clock()
    result = consolidate(fleet, Deadline(time_s, clock), max_moves=budget)
    spent = clock() - start
    _valid(fleet_violations(fleet, result, budget))
    return {
        "seed": seed,
        "nodes": len(fleet.usd_per_hour),
        "pods": int(fleet.pods.sum()),
        "max_moves": budget,
        "usd_per_hour": result.usd_per_hour,
        "prefix_usd_per_hour": rival.usd_per_hour,
        "prefix_per_usd_usd_per_hour": by_price.usd_per_hour,
        "ratio": _ratio(result.usd_per_hour, rival.usd_per_hour),
        "ratio_per_usd": _ratio(result.usd_per_hour, by_price.usd_per_hour),
        "gap_percent": 100 * result.gap_share,
        "ending": str(result.ending),
        "time_s": round(spent, 2),
    }


def _ratio(value: float, rival: float) -> float | None:
    return value / rival if rival > 0 else None


def risk_row(seed: int, time_s: float, clock: Clock) -> Row:
    """The same fleets when spot nodes are interrupted: the plan that counts it, beside the one that does not."""
    fleet = fleet_instance(seed, num_nodes=FLEET_SIZES[seed % len(FLEET_SIZES)])
    spot = spot_nodes(seed, num_nodes=len(fleet.usd_per_hour))
    budget = int(MOVES_SHARE * fleet.pods.sum())
    risk = Risk(
        np.where(spot, INTERRUPTIONS_PER_HOUR, 0.0),
        USD_PER_INTERRUPTION,
        np.full(len(fleet.count), USD_PER_POD_INTERRUPTED),
    )
    blind = consolidate(fleet, Deadline(time_s, clock), max_moves=budget)
    start = clock()
    result = consolidate_with_risk(fleet, risk, Deadline(time_s, clock), max_moves=budget)
    spent = clock() - start
    _valid(risk_violations(fleet, risk, result, budget))
    unaware = risk.saved(fleet, blind.deleted, blind.arrivals)
    return {
        "seed": seed,
        "nodes": len(fleet.usd_per_hour),
        "usd_per_hour": result.usd_per_hour,
        "blind_usd_per_hour": unaware,
        "ratio": _ratio(result.usd_per_hour, unaware),
        "spot_deleted": int((result.deleted & spot).sum()),
        "blind_spot_deleted": int((blind.deleted & spot).sum()),
        "moved_to_spot": int(result.arrivals[:, spot].sum()),
        "blind_moved_to_spot": int(blind.arrivals[:, spot].sum()),
        "gap_percent": 100 * result.gap_share,
        "ending": str(result.ending),
        "time_s": round(spent, 2),
    }


def purchase_row(seed: int, time_s: float, clock: Clock) -> Row:
    """Pending pods bought for from twelve shapes, against multi-type first-fit decreasing."""
    num_pods = PURCHASE_SIZES[seed % len(PURCHASE_SIZES)]
    demand, shapes = purchase_instance(seed, num_pods=num_pods)
    rival = purchase.first_fit_decreasing(demand, shapes)
    assert rival is not None, "every generated class fits on some shape"
    start = clock()
    result = purchase.buy(demand, shapes, Deadline(time_s, clock))
    spent = clock() - start
    _valid(purchase.violations(demand, shapes, result))
    return {
        "seed": seed,
        "pods": num_pods,
        "usd_per_hour": result.cost,
        "ffd_usd_per_hour": rival.cost,
        "saving_percent": 100 * (1 - result.cost / rival.cost),
        "gap_percent": 100 * result.gap_share,
        "ending": str(result.ending),
        "time_s": round(spent, 2),
    }


def _valid(wrong: list[str]) -> None:
    assert not wrong, f"the plan failed its check: {wrong[0]}"


BENCHES: dict[str, Callable[[int, float, Clock], Row]] = {
    "batch": batch_row,
    "batch-rules": partial(batch_row, with_rules=True),
    "batch-wishes": partial(batch_row, with_rules=True, change=with_wishes),
    "batch-company": partial(batch_row, with_rules=True, change=with_company),
    "batch-priorities": priorities_row,
    "consolidate": consolidation_row,
    "consolidate-unlimited": partial(consolidation_row, unlimited=True),
    "consolidate-spot": risk_row,
    "purchase": purchase_row,
}
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""``cpu`` counts the planner's own seconds, for machines that have other work to do."""


def bench(
    what: str,
    instances: int,
    time_s: float,
    progress: Progress = untold,
    *,
    clock: str = "wall",
    first_seed: int = 0,
) -> list[Row]:
    """One row per instance, of seeds from ``first_seed`` on; times are of ``clock``."""
    if what not in BENCHES:
        raise ConfigError(f"unknown bench {what!r}; there are {', '.join(BENCHES)}")
    row = BENCHES[what]
    patterns.warm_up()
    row(0, 0.5, CLOCKS[clock])  # compile and import before anything is timed
    rows = []
    for done, seed in enumerate(range(first_seed, first_seed + instances), 1):
        rows.append(row(seed, time_s, CLOCKS[clock]))
        progress(done, instances)
    return rows
