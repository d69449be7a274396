"""Rescues of a cluster: plans that keep rules of the whole, and gangs that give way whole or not at all.

A packing knows pods. Budgets and gangs that wait are kept by making the plan again without what broke them
(:func:`~placement.planning.rescue_problems.broken_by`). A gang that runs is one thing: evicting some of its pods would waste
the rest, so none of them gives way by itself. Where more important pods still wait, all gangs below them are taken off in
thought, and each is then put back, the most important first, as long as that costs nobody above it a place; what is left off
is evicted, counted as all its pods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from placement.gangs import gang_of
from placement.planning.cluster import Cluster
from placement.planning.gang_program import Shared, Whole, is_small_enough, solve_whole
from placement.planning.plans import FIRST_SHARE, Action, Deadline, Ending, Plan
from placement.planning.rescue import Packed, as_it_is, pack
from placement.planning.rescue_problems import (
    Cuts,
    RescueProblem,
    broken_by,
    gangs_that_may_go,
    needs_of,
    rescue_plan,
    rescue_problem,
)
from placement.planning.steps import over_budget

if TYPE_CHECKING:
    from concurrent.futures import Executor

SEARCH_SHARE = 0.8
"""Of the time, before a program for small clusters."""
MOST_GANGS = 16
"""So many gangs, the least important and smallest, are asked to give way; each is a plan of its own."""
Gang = tuple[str, str]


@dataclass(frozen=True)
class Rescuer:
    """How rescues of one cluster are made: ``problem`` is the one without cuts, ``beside`` a free thread, if there is one."""

    problem: RescueProblem
    deadline: Deadline
    seed: int
    beside: Executor | None

    @property
    def cluster(self) -> Cluster:
        """Who is rescued."""
        return self.problem.cluster

    def _cut(self, cuts: Cuts) -> RescueProblem:
        return self.problem if cuts == Cuts() else rescue_problem(self.cluster, cuts)

    def plan(self) -> Plan | None:
        """The best plan; None where nobody waits who is modelled."""
        gangs = self._below_who_waits()
        is_exact = is_small_enough(self.problem.packing)
        search = replace(self, deadline=self.deadline.part(SEARCH_SHARE)) if is_exact else self
        found = search._search(gangs)
        if found is None or not is_exact or found.ending in (Ending.OPTIMAL, Ending.INFEASIBLE):
            return found
        exact = self._exact(gangs, found.bound)
        if exact is None or self._is_better(found, exact):
            return found
        return exact

    def _search(self, gangs: list[Gang]) -> Plan | None:
        may_break = bool(self.cluster.budgets.of) or any(gang_of(pod.spec) for pod in self.cluster.pending)
        first = self._kept(Cuts(), lambda: self.deadline.part(FIRST_SHARE) if may_break or gangs else self.deadline)
        if first is not None and gangs:  # were one of them to go, fewer others might have to
            first = replace(first, details={**first.details, "displaced_bound": 0.0})
        if first is None or not gangs or first.ending in (Ending.OPTIMAL, Ending.INFEASIBLE):
            return first
        gangs = self._at_once(gangs)[:MOST_GANGS]
        plan = self._without(frozenset(gangs), len(gangs) + 1)
        if plan is None:
            return first
        gone = frozenset(gangs)
        for left, gang in zip(range(len(gangs), 0, -1), reversed(gangs), strict=True):
            trial = self._without(gone - {gang}, left) if len(gone) > 1 else first
            if trial is not None and self._is_better(trial, plan):
                plan, gone = trial, gone - {gang}
        return plan if self._is_better(plan, first) else first

    def _exact(self, gangs: list[Gang], bound: float | None) -> Plan | None:
        """By a program in which gangs are whole, cut where a budget is broken as the search is; None where it ends too late."""
        cuts, may_go, residents = Cuts(), frozenset(gangs), self.cluster.state.residents
        while not self.deadline.is_over:
            problem = self._cut(cuts)
            numbers = {gang: number for number, gang in enumerate(dict.fromkeys(g for g in problem.gangs if g))}
            of_each = np.array([-1 if gang is None else numbers[gang] for gang in problem.gangs], np.int64)
            held = {gang_of(residents[uid].spec) for uid in cuts.kept | cuts.fixed}
            goes = {number: gang in may_go and gang not in held for gang, number in numbers.items()}
            shared = self._shared({gang: number for gang, number in numbers.items() if goes[number]})
            whole = solve_whole(problem.packing, of_each, goes, shared, self.deadline, self.seed)
            if whole is None:
                return None
            plan, told = self._told(problem, whole, cuts)
            more = broken_by(self.cluster, plan, told)
            if more is not None:
                torn = more.gangs - told.gangs  # a pod of theirs is not in the model
                cuts = replace(more, gone=cuts.gone, gangs=cuts.gangs | torn)
                continue
            if whole.is_proved and not cuts.words:
                is_nowhere = plan.ending == Ending.INFEASIBLE
                return replace(plan, bound=plan.value, ending=Ending.INFEASIBLE if is_nowhere else Ending.OPTIMAL)
            known = None if bound is None else max(bound, plan.value)
            return replace(plan, bound=known, ending=self.deadline.ending)
        return None

    def _shared(self, numbers: dict[Gang, int]) -> list[Shared]:
        """The budgets of these gangs, by their numbers."""
        budgets = self.cluster.budgets
        pods: dict[int, Counter[int]] = {}
        for gang, number in numbers.items():
            for budget, needed in needs_of(self.cluster, gang).items():
                pods.setdefault(budget, Counter())[number] += needed
        return [Shared(of, budgets.allowed[budget]) for budget, of in pods.items()]

    def _at_once(self, gangs: list[Gang]) -> list[Gang]:
        """Of these, the first that may all go within their budgets."""
        left, found = Counter(dict(enumerate(self.cluster.budgets.allowed))), []
        for gang in gangs:
            needed = needs_of(self.cluster, gang)
            if needed <= left:
                left -= needed
                found.append(gang)
        return found

    def _told(self, problem: RescueProblem, whole: Whole, cuts: Cuts) -> tuple[Plan, Cuts]:
        """The plan of a placement in which gangs are whole, and ``cuts`` with those that it leaves without a place."""
        node_of, fewest = whole.node_of, 0 if cuts.words else whole.fewest
        without = {gang: p for p, gang in enumerate(problem.gangs) if gang and node_of[p] < 0}
        gone = frozenset(gang for gang, p in without.items() if problem.packing.node_of[p] >= 0)
        cuts = replace(cuts, gone=gone, gangs=cuts.gangs | (without.keys() - gone))
        told = self._cut(cuts)
        place = dict(zip(problem.uids, node_of.tolist(), strict=True))
        places = np.array([place[uid] for uid in told.uids], np.int64)
        counts = told.packing.counts(places)
        packed = Packed(places, counts, counts, (), fewest)
        return rescue_plan(told, packed, self.deadline.ending, time_s=self.deadline.elapsed_s), cuts

    def _below_who_waits(self) -> list[Gang]:
        """Gangs that may go and are all below somebody who waits and may take their place."""
        waiting = [pod.spec.priority for pod in self.cluster.pending if pod.spec.preempts]
        if not waiting or all(gang_of(r.spec) is None for r in self.cluster.state.residents.values()):
            return []
        return gangs_that_may_go(self.cluster, max(waiting))

    def _without(self, gone: frozenset[Gang], num_left: int) -> Plan | None:
        """A plan in which these gangs are evicted, in one of ``num_left`` parts of the time; None where a budget forbids it."""
        quiet = replace(self.deadline, note=lambda _value, _bound: None)
        plan = self._kept(Cuts(gone=gone), lambda: quiet.part(1 / num_left))
        return None if plan is None or over_budget(self.cluster, plan) else plan

    def _kept(self, cuts: Cuts, part: Callable[[], Deadline], bound: float | None = None) -> Plan | None:
        """A plan that keeps budgets and tears no gang that waits: where it would, it is cut there and made again, and a gang
        is tried whole as well. Its bound is the one without cuts."""
        cluster, deadline = self.cluster, self.deadline
        problem = self._cut(cuts)
        packing = problem.packing
        is_anybody_left = bool((packing.node_of < 0).any())
        if not is_anybody_left and bound is None:
            return None
        limit = part()
        if bound is not None:
            limit = replace(limit, note=lambda _value, _bound: None)  # what was told already was better
        packed = pack(packing, limit, seed=self.seed, beside=self.beside) if is_anybody_left else as_it_is(packing)
        if cuts != Cuts():  # without them, fewer might be displaced
            packed = replace(packed, fewest=0)
        plan = rescue_plan(problem, packed, deadline.ending, time_s=deadline.elapsed_s)
        more = broken_by(cluster, plan, cuts)
        if more is None:
            return plan if bound is None else replace(plan, bound=max(bound, plan.value), ending=deadline.ending)
        bound = plan.bound if bound is None else bound
        cut = self._kept(more, part, bound)
        torn = more.gangs - cuts.gangs - cuts.whole
        if not torn or cut is None:
            return cut
        whole = self._kept(replace(cuts, whole=cuts.whole | torn), part, bound)
        return whole if whole is not None and self._is_better(whole, cut) else cut

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
