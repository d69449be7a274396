"""Rescues of a cluster: plans that keep rules of the whole, and gangs that give way whole or not at all.

A packing knows pods. Budgets and gangs that wait are kept by making the plan again without what broke them
(:func:`placement.planning.problems.broken_by`). A gang that runs is one thing: evicting some of its pods would waste the rest,
so none of them gives way by itself. Where more important pods still wait, all gangs below them are taken off in thought, and
each is then put back, the most important first, as long as that costs nobody above it a place; what is left off is evicted,
counted as all its pods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from placement.gangs import gang_of
from placement.planning.plans import Action, Deadline, Ending, Plan
from placement.planning.problems import (
    Cluster,
    Cuts,
    broken_by,
    gangs_that_may_go,
    over_budget,
    rescue_plan,
    rescue_problem,
)
from placement.planning.rescue import as_it_is, pack

if TYPE_CHECKING:
    from concurrent.futures import Executor

FIRST_SHARE = 0.7
"""Of the time for a rescue that may have to be made again."""
MOST_GANGS = 16
"""So many gangs, the least important and smallest, are asked to give way; each is a plan of its own."""
Gang = tuple[str, str]


@dataclass(frozen=True)
class Rescuer:
    """How rescues of one cluster are made; ``beside`` is a free thread, if there is one."""

    cluster: Cluster
    deadline: Deadline
    seed: int
    beside: Executor | None

    def plan(self) -> Plan | None:
        """The best plan; None where nobody waits who is modelled."""
        gangs = self._below_who_waits()
        may_break = bool(self.cluster.budgets.of) or any(gang_of(pod.spec) for pod in self.cluster.pending)
        first = self._kept(Cuts(), lambda: self.deadline.part(FIRST_SHARE) if may_break or gangs else self.deadline)
        if first is None or not gangs or first.ending in (Ending.OPTIMAL, Ending.INFEASIBLE):
            return first
        plan = self._without(frozenset(gangs), len(gangs) + 1)
        if plan is None:
            return first
        gone = frozenset(gangs)
        for left, gang in zip(range(len(gangs), 0, -1), reversed(gangs), strict=True):
            trial = self._without(gone - {gang}, left) if len(gone) > 1 else first
            if trial is not None and self._is_better(trial, plan):
                plan, gone = trial, gone - {gang}
        return plan if self._is_better(plan, first) else first

    def _below_who_waits(self) -> list[Gang]:
        """Gangs that may go and are all below somebody who waits and may take their place."""
        waiting = [pod.spec.priority for pod in self.cluster.pending if pod.spec.preempts]
        if not waiting or all(gang_of(r.spec) is None for r in self.cluster.state.residents.values()):
            return []
        return gangs_that_may_go(self.cluster, max(waiting))[:MOST_GANGS]

    def _without(self, gone: frozenset[Gang], num_left: int) -> Plan | None:
        """A plan in which these gangs are evicted, in one of ``num_left`` parts of the time; None where a budget forbids it."""
        quiet = replace(self.deadline, note=lambda _value, _bound: None)
        plan = self._kept(Cuts(gone=gone), lambda: quiet.part(1 / num_left))
        return None if plan is None or over_budget(self.cluster, plan) else plan

    def _kept(self, cuts: Cuts, part: Callable[[], Deadline]) -> Plan | None:
        """A plan that keeps budgets and tears no gang that waits: where it would, it is cut there and made again. Its bound is
        the one without cuts."""
        cluster, deadline, bound = self.cluster, self.deadline, None
        while True:
            problem = rescue_problem(cluster, cuts)
            packing = problem.packing
            is_anybody_left = bool((packing.node_of < 0).any())
            if not is_anybody_left and bound is None:
                return None
            limit = part()
            if bound is not None:
                limit = replace(limit, note=lambda _value, _bound: None)  # what was told already was better
            packed = pack(packing, limit, seed=self.seed, beside=self.beside) if is_anybody_left else as_it_is(packing)
            plan = rescue_plan(problem, packed, deadline.ending, time_s=deadline.elapsed_s)
            more = broken_by(cluster, plan, cuts)
            if more is None and bound is not None:
                return replace(plan, bound=max(bound, plan.value), ending=deadline.ending)
            if more is None:
                return plan
            cuts, bound = more, bound or plan.bound

    def _is_better(self, one: Plan, other: Plan) -> bool:
        """More pods placed, tier by tier, the highest first; else fewer displaced."""
        a, b = self._gains(one), self._gains(other)
        for tier in sorted({*a, *b}, reverse=True):
            if a[tier] != b[tier]:
                return a[tier] > b[tier]
        return _displaced(one) < _displaced(other)

    def _gains(self, plan: Plan) -> Counter[int]:
        """Tier → pods that get a place less those that lose theirs; whoever runs is half a tier above who waits, and who must
        not preempt is below everybody who runs."""
        residents = self.cluster.state.residents
        lowest = min((2 * resident.spec.priority for resident in residents.values()), default=0)
        waiting = {pod.uid: pod.spec for pod in self.cluster.pending}
        placed = {step.pod for step in plan.steps if step.action == Action.PLACE}
        gains: Counter[int] = Counter()
        for uid in placed & waiting.keys():
            rank = 2 * waiting[uid].priority
            gains[rank if waiting[uid].preempts else min(rank, lowest)] += 1
        for uid in {step.pod for step in plan.steps if step.action == Action.EVICT} - placed:
            gains[2 * residents[uid].spec.priority + 1] -= 1
        return gains


def _displaced(plan: Plan) -> float:
    return plan.details["moves"] + plan.details["evictions"]
