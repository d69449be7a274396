"""Consolidation that counts interruptions of spot nodes: of the nodes that go, and of the pods that move to those that stay.

A spot node costs its price and what its interruptions are expected to cost, as in a purchase
(:class:`placement.planning.purchase.Shape`); deleting it saves both. An interruption may also cost something for
every pod that it hits; that goes with the pod: it ends when the pod leaves a spot node, and begins when it moves to
one. The plan is the best of several: the usual one at these worths, the same with spot nodes closed to pods that
would cost something there, and on small clusters the exact program; each sends its pods to safe nodes while there is
room, and keeps nodes whose pods would cost more elsewhere. The bound is a linear program in which every pod may be
cut at will.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from placement.errors import ConfigError
from placement.planning.class_flow import EXACT_CELLS, exactly
from placement.planning.consolidation import consolidate
from placement.planning.fleet import CENT, Consolidated, Emptied, Fleet
from placement.planning.fleet import violations as fleet_violations
from placement.planning.patterns import best_pattern
from placement.planning.plans import Deadline, Ending
from placement.planning.prefix_search import prefix_search
from placement.planning.relaxation import MIN_SOLVE_S
from placement.planning.solver import INFINITY, Limits, Model, Status, solve_linear
from placement.rates import MOST_USD
from placement.resources import BoolArray, FloatArray, IntArray

USUAL_SHARE, SAFE_SHARE, BOUND_SHARE = 0.4, 0.6, 0.5
"""Shares of the time that is left, in this order, for the usual plan, for that with safe receivers, and for the bound."""
SHELTER_VISITS = 2_000


def usd_at_risk(per_hour: float, usd: float) -> float:
    """USD an hour that ``per_hour`` interruptions are expected to cost.

    Raises
    ------
    ConfigError : it is more than anybody pays.
    """
    found = per_hour * usd
    if not 0 <= found <= MOST_USD:
        raise ConfigError(
            f"{per_hour:g} interruptions an hour at {usd:g} USD are {found:g} USD an hour; "
            f"give a rate and a cost whose product is 0 to {MOST_USD:,.0f}"
        )
    return found


@dataclass(frozen=True)
class Risk:
    """``per_hour`` ``(N,)`` interruptions expected of a node, 0 = safe; what one costs, and costs per pod ``(C,)``, USD."""

    per_hour: FloatArray
    usd_per_node: float
    usd_per_pod: FloatArray

    def __post_init__(self) -> None:
        for amount in (self.per_hour, np.array([self.usd_per_node]), self.usd_per_pod):
            if not (np.isfinite(amount).all() and (amount >= 0).all()):
                raise ConfigError("interruptions and what they cost must be finite numbers >= 0")
        for usd in (self.usd_per_node, float(self.usd_per_pod.max(initial=0.0))):
            usd_at_risk(float(self.per_hour.max(initial=0.0)), usd)

    @property
    def exposure(self) -> FloatArray:
        """``(C, N)`` USD an hour that a pod of a class costs on a node, for interruptions."""
        return np.asarray(self.usd_per_pod[:, None] * self.per_hour[None, :], np.float64)

    def weighed(self, fleet: Fleet) -> Fleet:
        """The fleet at what the end of a node saves, if its pods went to safe nodes."""
        ends = self.per_hour * self.usd_per_node + (self.exposure * fleet.count).sum(axis=0)
        return replace(fleet, usd_per_hour=fleet.usd_per_hour + ends)

    def saved(self, fleet: Fleet, deleted: BoolArray, arrivals: IntArray) -> float:
        """USD an hour less than before, interruptions included; below 0 where a plan costs more than it saves."""
        return float(self.weighed(fleet).usd_per_hour[deleted].sum() - (self.exposure * arrivals).sum())


def violations(fleet: Fleet, risk: Risk, plan: Consolidated, max_moves: int | None) -> list[str]:
    """What an independent look finds wrong with a plan; empty when it is valid. The saving is counted from both bills."""
    wrong = fleet_violations(fleet, plan, max_moves)
    bills = []
    for count, stays in ((fleet.count, np.ones_like(plan.deleted)), (fleet.count + plan.arrivals, ~plan.deleted)):
        bill = 0.0
        for n in np.flatnonzero(stays):
            hit = risk.usd_per_node + float(risk.usd_per_pod @ count[:, n])
            bill += float(fleet.usd_per_hour[n]) + float(risk.per_hour[n]) * hit
        bills.append(bill)
    if abs(bills[0] - bills[1] - plan.usd_per_hour) > 1e-6 * max(1.0, bills[0]):
        wrong.append(f"the plan says it saves {plan.usd_per_hour:g} USD/h, the bills differ by {bills[0] - bills[1]:g}")
    if plan.bound < plan.usd_per_hour - 1e-6:
        wrong.append(f"the bound {plan.bound:g} is below the saving {plan.usd_per_hour:g}")
    return wrong


def consolidate_with_risk(
    fleet: Fleet, risk: Risk, deadline: Deadline, *, max_moves: int | None = None, seed: int = 0
) -> Consolidated:
    """Cheapest fleet, interruptions counted, within ``max_moves``; without risk that of :func:`consolidate`."""
    if not (risk.per_hour.any() and (risk.usd_per_node or risk.usd_per_pod.any())):
        return consolidate(fleet, deadline, max_moves=max_moves, seed=seed)
    weighed = risk.weighed(fleet)
    if not (risk.exposure * fleet.count.sum(axis=1, keepdims=True)).any():
        return consolidate(weighed, deadline, max_moves=max_moves, seed=seed)
    usual = consolidate(weighed, deadline.part(USUAL_SHARE), max_moves=max_moves, seed=seed)
    closed = replace(weighed, allowed=weighed.allowed & (risk.exposure == 0.0))
    safe = consolidate(closed, deadline.part(SAFE_SHARE), max_moves=max_moves, seed=seed)
    best = Emptied.nothing(fleet)
    for plan in (usual, safe, prefix_search(weighed, max_moves=max_moves)):
        kept = _kept(fleet, risk, _sheltered(fleet, risk, plan))
        best = kept if kept.usd_per_hour > best.usd_per_hour else best
    bound = min(usual.bound, _bound(fleet, risk, max_moves, deadline.part(BOUND_SHARE), seed))
    deadline.note(best.usd_per_hour, max(bound, best.usd_per_hour))
    if fleet.count.size <= EXACT_CELLS and best.usd_per_hour < bound * (1 - 1e-9) and not deadline.is_over:
        best, proved = exactly(weighed, best, max_moves, deadline, seed, usd_per_arrival=risk.exposure)
        bound = min(bound, proved + _rounding(fleet, risk))
    bound = max(bound, best.usd_per_hour) + 0.0  # no negative zero
    done = bound - best.usd_per_hour <= max(1e-9 * max(bound, 1e-9), _rounding(fleet, risk))
    return Consolidated.proved(best, bound, Ending.OPTIMAL if done else deadline.ending)


def _sheltered(fleet: Fleet, risk: Risk, plan: Emptied) -> Emptied:
    """The plan with pods sent on from spot nodes to nodes where they cost less, while there is room; safest nodes first."""
    exposure, arrivals = risk.exposure, plan.arrivals.copy()
    free = fleet.free - fleet.request @ arrivals
    for target in np.argsort(risk.per_hour, kind="stable"):
        riskier = np.flatnonzero(risk.per_hour > risk.per_hour[target])
        there = arrivals[:, riskier]
        if plan.deleted[target] or not there.any():
            continue
        gain = np.where(fleet.allowed[:, target], exposure[:, riskier].max(axis=1) - exposure[:, target], 0.0)
        filling = best_pattern(gain, fleet.request, there.sum(axis=1), free[:, target], limit=SHELTER_VISITS).counts
        for c in np.flatnonzero(filling):
            for n in riskier[np.argsort(-risk.per_hour[riskier], kind="stable")]:
                moved = min(int(filling[c]), int(arrivals[c, n]))
                arrivals[c, n] -= moved
                arrivals[c, target] += moved
                filling[c] -= moved
        free = fleet.free - fleet.request @ arrivals
    return replace(plan, arrivals=arrivals, usd_per_hour=risk.saved(fleet, plan.deleted, arrivals))


def _kept(fleet: Fleet, risk: Risk, plan: Emptied) -> Emptied:
    """The plan without the deletions that cost more than they save: their pods stay, those that cost most elsewhere first."""
    worth, exposure = risk.weighed(fleet).usd_per_hour, risk.exposure
    deleted, arrivals = plan.deleted.copy(), plan.arrivals.copy()
    for n in sorted(np.flatnonzero(deleted), key=lambda n: (worth[n], n)):
        fewer = arrivals.copy()
        for c in np.flatnonzero(fleet.count[:, n]):
            home = int(fleet.count[c, n])
            for m in np.argsort(-exposure[c], kind="stable"):
                back = min(home, int(fewer[c, m]))
                fewer[c, m] -= back
                home -= back
        if float((exposure * (arrivals - fewer)).sum()) > worth[n]:
            deleted[n], arrivals = False, fewer
    usd = risk.saved(fleet, deleted, arrivals)
    return replace(plan, deleted=deleted, arrivals=arrivals, usd_per_hour=usd, moves=int(arrivals.sum()))


def _bound(fleet: Fleet, risk: Risk, max_moves: int | None, deadline: Deadline, seed: int) -> float:
    """Most that any plan saves: a share of every node may go, and pods may be cut to fill what is safe."""
    safe = risk.per_hour == 0.0
    least = float(risk.per_hour[~safe].min())
    model = Model()
    y = model.add_columns(fleet.deletable.astype(np.float64), objective=risk.weighed(fleet).usd_per_hour, integer=False)
    here = fleet.count.sum(axis=1).astype(np.float64)
    exposed = model.add_columns(here, objective=-least * risk.usd_per_pod, integer=False)
    if max_moves is not None:
        model.add_row(y, fleet.pods, upper=float(max_moves))
    none = np.zeros(fleet.free.shape[1], np.int64)
    for load, need, free in zip(fleet.load, fleet.request, fleet.free, strict=True):
        total, sheltered = max(float(free.sum()), 1.0), np.where(safe, free, none)
        model.add_row(y, (load + free) / total, upper=float(free.sum()) / total)
        columns, values = np.append(y, exposed), np.append(load + sheltered, -need)
        model.add_row(columns, values / total, upper=float(sheltered.sum()) / total)
    limits = Limits(max(deadline.left_s, MIN_SOLVE_S), seed, work=deadline.work)
    answer = solve_linear(model, limits, relax=True)
    return answer.value * (1 + 1e-9) if answer.status == Status.OPTIMAL else INFINITY


def _rounding(fleet: Fleet, risk: Risk) -> float:
    """USD an hour by which prices in whole millionths can be off in sum."""
    worth, exposure = risk.weighed(fleet).usd_per_hour * CENT, risk.exposure * CENT
    pods = fleet.count.sum(axis=1) * np.abs(exposure - np.round(exposure)).max(axis=1, initial=0.0)
    return float(np.abs(worth - np.round(worth)).sum() + pods.sum()) / CENT
