"""Batches and gangs: place a group of pending pods at once: as many as possible of each priority, the highest first, then
as they wish, then with least stranding.

**Priorities** are stages, too: most pods of the highest, then most of the next among the placements with as many of those
above, and so on. A gang is all or none, and counts with each of its pods at that pod's priority. The bound of each priority
holds for placements with as many pods of those above. Pods of one priority are one such stage.

**Stranding** of a node is what is free there but cannot be used in the node's own proportions: with
``u = min_r free_r / allocatable_r``, resource ``r`` strands ``free_r − u · allocatable_r``. A cluster's stranding is
the mean over resources of what all nodes strand, as a share of what all nodes offer. It is convex in the load of a
node, so its linear program is exact, and a subgradient at the present load proves that a node need not be looked at.

The model has integers per class and node, never a boolean per pod. It starts from the best nodes of each class and
generates further (class, node) pairs by reduced cost over *all* nodes, so the bound is one for the whole cluster
although only a small part of it is ever in the model. A batch that ``fills`` has no such stage: best fit decides.

**Wishes** are points per class and node, those of kube-scheduler's soft rules that do not depend on where the rest of the
batch goes, and points that pods have for each other (:mod:`placement.planning.nearness`). They are a stage of their own, between
count and stranding, of the same program with another objective; stranding is then minimised over the placements that give
up no point. A batch without wishes has no such stage.

**Devices** are packed exactly: the program has what any packing keeps, per node and size of share; a placement whose shares
do not pack in fact is repaired or dropped.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from placement.planning import near_search
from placement.planning.batch import Batch, Batched
from placement.planning.batch_program import (
    POINTS_SLACK,
    TIGHT,
    BatchModel,
    Goal,
    Most,
    Pairs,
    slopes_of,
)
from placement.planning.best_fit import best_fit, claimed, one_by_one, repacked
from placement.planning.nearness import least_crowding
from placement.planning.plans import ROUNDING, Deadline, Ending
from placement.planning.solver import INFINITY, Limits, Status, solve_linear
from placement.resources import FloatArray, IntArray

TOP_NODES = 32
MAX_NEW_PAIRS = 4000
MAX_PRICING_ROUNDS = 40
FIRST_PAIRS, MORE_PAIRS = 3000, 4
"""Pairs in the first integer program, and how much larger each further one is."""
MAX_COUNT_PAIRS = 200_000
"""More pairs than this make no program of their own for the count."""
COUNT_SHARE = 0.5
"""What a priority of which not all are placed gets of the time that is left."""
SOLVE_SHARE = 0.85
"""What a solver gets of the time that is left: it looks at its clock between steps only."""
BUILDS = 3.0
"""A program is begun only with so many times left what the last one took to build."""
WISHES_SHARE = 0.5
"""What wishes get of the time that is left after counting."""
SEARCH_SHARE, EXACT_SHARE, BOUND_SHARE = 0.4, 0.5, 0.8
"""Where pods wish things of each other: what the first search gets of that, CP-SAT of the rest, and programs of what is left."""
LEAST_SHARE = 0.25
"""A further stage is begun only with so much of the time left: the first program of one is built before a clock is looked at."""
GLANCES = 16.0
"""How much longer than a bound by counting the program with everybody's domain fixed takes to begin, measured."""


def place_batch(
    batch: Batch,
    deadline: Deadline,
    *,
    seed: int = 0,
    start: IntArray | None = None,
) -> Batched:
    """Best placement of the batch within the deadline: most pods of each priority, the highest first, then most wishes, then
    least stranding.

    ``start`` ``(C, N)`` is a valid placement to improve on; None = best fit.
    """
    best = best_fit(batch, deadline) if start is None else start
    found = _in_stages(batch, best, deadline, seed)
    if found.counts == found.most_of_each:
        return found
    # where nothing is proved, later stages may have made room for more
    placed = claimed(batch, found.placed)
    if batch.counts(placed) <= found.counts:
        return found
    more = as_placed(batch, placed, deadline.ending)
    most = (max(pair) for pair in zip(more.counts, found.most_of_each, strict=True))
    return replace(more, most_of_each=tuple(most))


def _in_stages(batch: Batch, best: IntArray, deadline: Deadline, seed: int) -> Batched:
    """Counts, wishes, stranding, one after the other."""
    fitting = batch.fitting()
    best, most = _place_more(batch, best, fitting, deadline, seed)
    counts = batch.counts(best)
    total = batch.by_rank(batch.count)
    assert all(a <= b <= c for a, b, c in zip(counts, most, total, strict=True)), (
        "more pods placed than the bound allows"
    )
    if not any(counts):
        return _ended(batch, best, (most, 0, batch.stranding(best)), deadline)
    wishes_bound = 0
    if batch.near:
        return _place_near(batch, best, fitting, most, deadline, seed)
    if batch.wish is not None:
        goal = Goal.wishes(batch, fitting, counts)
        best, bound = _improve(goal, best, fitting, deadline.part(WISHES_SHARE), seed)
        wishes_bound = int(np.floor(POINTS_SLACK * max(1.0, -bound) - bound))
    wishes_met = batch.wishes_met(best)
    slopes = np.where(fitting > 0, slopes_of(batch), INFINITY)
    goal = Goal(batch, slopes, counts, points=wishes_met)
    if batch.fills:
        bound = goal.first_bound(fitting)
    else:
        best, bound = _improve(goal, best, fitting, deadline, seed)
    return _ended(batch, best, (most, wishes_bound, bound), deadline)


def _ended(batch: Batch, best: IntArray, bounds: tuple[tuple[int, ...], int, float], deadline: Deadline) -> Batched:
    """The result, with ``bounds`` on counts, wishes and stranding."""
    most, wishes_bound, bound = bounds
    counts, value, wishes_met = batch.counts(best), batch.stranding(best), batch.wishes_met(best)
    bound = max(0.0, min(bound, value))
    ending = deadline.ending
    missed = 0.0 if batch.fills else value - bound
    if missed <= TIGHT * value and wishes_met >= wishes_bound and counts == most:
        ending = Ending.OPTIMAL
    return Batched(best, counts, most, value, bound, ending, wishes_met, max(wishes_bound, wishes_met))


def _place_near(
    batch: Batch,
    best: IntArray,
    fitting: IntArray,
    most: tuple[int, ...],
    deadline: Deadline,
    seed: int,
) -> Batched:
    """Wishes, then stranding, of a batch whose pods wish things of each other, at the counts of ``best``.

    Points: search; CP-SAT where that is small; where that proves nothing, programs with what pods have for each other in
    zones, which give a bound and another start for the search. Stranding: the same programs as ever, once everybody's place
    is fixed; its bound is without wishes.
    """
    counts, begun_s = batch.counts(best), deadline.elapsed_s
    most_points = batch.most_wishes(fitting, counts)
    split_s = GLANCES * (deadline.elapsed_s - begun_s)
    for_wishes = deadline.part(WISHES_SHARE)
    best = near_search.improve(batch, best, fitting, for_wishes.part(SEARCH_SHARE), seed=seed)
    if near_search.is_small(batch, fitting):
        limits = Limits(max(EXACT_SHARE * for_wishes.left_s, 1e-3), seed, work=deadline.work)
        best, proved = near_search.exact(batch, best, fitting, limits)
        most_points = min(most_points, proved)
    if batch.wishes_met(best) < most_points and not for_wishes.is_over:
        many = tuple(rule for rule in batch.near if rule.has_many_places)
        goal = Goal.wishes(batch, fitting, counts)
        found, cost = _improve(goal, best, fitting, for_wishes.part(BOUND_SHARE), seed)
        proved = int(np.floor(POINTS_SLACK * max(1.0, -cost) - cost))
        most_points = min(most_points, proved - least_crowding(many, batch.surely(counts), fitting))
        if not for_wishes.is_over:
            found = near_search.improve(batch, found, fitting, for_wishes, seed=seed + 1)
        best = max((best, found), key=batch.wishes_met)
    if not batch.fills and deadline.left_s > max(LEAST_SHARE * deadline.time_s, split_s) and not deadline.is_over:
        layout = near_search.split(batch, best)
        room = layout.batch.fitting()
        slopes = np.where(room > 0, slopes_of(layout.batch), INFINITY)
        kept = layout.batch.counts(layout.placed)
        fixed = Goal(layout.batch, slopes, kept, points=layout.batch.wishes_met(layout.placed))
        best = layout.merge(_improve(fixed, layout.placed, room, deadline.part(0.5), seed)[0])
    plain = replace(batch, wish=None, near=())
    goal = Goal(plain, np.where(fitting > 0, slopes_of(plain), INFINITY), counts)
    bound = goal.first_bound(fitting)
    if not batch.fills and deadline.left_s > LEAST_SHARE * deadline.time_s and not deadline.is_over:
        found, bound = _improve(goal, best, fitting, deadline, seed)
        if batch.wishes_met(found) >= batch.wishes_met(best):
            best = found
    return _ended(batch, best, (most, most_points, bound), deadline)


def at_once(batch: Batch) -> Batched:
    """Best fit, with the bounds that cost nothing: what live batches and those of replays begin with."""
    return as_placed(batch, best_fit(batch), Ending.DEADLINE)


def as_placed(batch: Batch, placed: IntArray, ending: Ending) -> Batched:
    """A valid placement ``(C, N)`` as it is, with the bounds that cost nothing: what fits alone, and convexity."""
    fitting = batch.fitting()
    most = _most_alone(batch, fitting)
    counts, value = batch.counts(placed), batch.stranding(placed)
    goal = Goal(batch, np.where(fitting > 0, slopes_of(batch), INFINITY), counts)
    bound = max(0.0, min(goal.first_bound(fitting), value)) if any(counts) else value
    wishes_met, wishes_bound = batch.wishes_met(placed), batch.most_wishes(fitting, counts)
    missed = 0.0 if batch.fills else value - bound
    if counts == most and missed <= TIGHT * value and wishes_met == wishes_bound:
        ending = Ending.OPTIMAL
    return Batched(placed, counts, most, value, bound, ending, wishes_met, wishes_bound)


def _most_alone(batch: Batch, fitting: IntArray) -> tuple[int, ...]:
    """Pods of each priority at most, each class looked at alone."""
    return batch.by_rank(np.minimum(fitting.sum(axis=1), batch.count))


def _place_more(
    batch: Batch, best: IntArray, fitting: IntArray, deadline: Deadline, seed: int
) -> tuple[IntArray, tuple[int, ...]]:
    """A placement with better counts, and bounds: priority by priority, as far as they are not what fits alone. Each gets
    :data:`COUNT_SHARE` of the time that is left."""
    most = list(_most_alone(batch, fitting))
    first, counts = _first_rank(batch), batch.counts(best)
    for rank in range(batch.num_ranks):
        if counts[rank] == most[rank]:
            continue
        inside = first <= rank
        if np.count_nonzero(fitting[inside]) > MAX_COUNT_PAIRS or deadline.is_over:
            break
        room = np.where(inside[:, None], fitting, 0)
        best, most[rank] = _most_of(batch, rank, best, room, most[rank], deadline, seed)
        counts = batch.counts(best)
    return best, tuple(max(pair) for pair in zip(most, batch.counts(best), strict=True))


def _first_rank(batch: Batch) -> IntArray:
    """``(C,)`` the highest priority that a class has a part in: its own, or that of a class of its gang."""
    first = batch.rank.copy()
    for gang in np.unique(batch.gang[batch.gang >= 0]).tolist():
        first[batch.gang == gang] = batch.rank[batch.gang == gang].min()
    return first


def _most_of(
    batch: Batch, rank: int, best: IntArray, fitting: IntArray, most: int, deadline: Deadline, seed: int
) -> tuple[IntArray, int]:
    """Most pods of one priority over all pairs that fit; HiGHS on the pure form, so bound and placement are exact. Where it has
    no bound in time, the linear program has one.

    Only classes with a part in this priority or one above take part; the others get what is left.
    """
    classes, nodes = np.nonzero(fitting)
    pairs = Pairs(classes, nodes, fitting > 0)
    program = BatchModel(batch, pairs, fitting, Most(rank, batch.counts(best)[:rank]))

    def limits(part: Deadline) -> Limits:
        return Limits(max(SOLVE_SHARE * part.left_s, 1e-3), seed, work=deadline.work)

    answer = solve_linear(program.model, limits(deadline.part(COUNT_SHARE)), hint=program.hint(best))
    if answer.has_solution:
        placed = repacked(batch, program.placed(answer.x), deadline)
        if rank + 1 < batch.num_ranks:
            placed = one_by_one(batch, deadline, placed)
        if batch.counts(placed) > batch.counts(best) and not batch.violations(placed):
            best = placed
    bound = answer.bound
    if bound >= most and batch.counts(best)[rank] < most and not deadline.is_over:
        relaxed = solve_linear(program.model, limits(deadline), relax=True)
        bound = relaxed.value if relaxed.status == Status.OPTIMAL else bound
    if np.isfinite(bound):
        most = min(most, int(np.floor(bound + ROUNDING)))
    return best, max(most, batch.counts(best)[rank])


def _improve(goal: Goal, best: IntArray, fitting: IntArray, deadline: Deadline, seed: int) -> tuple[IntArray, float]:
    """A placement that costs less at the counts of ``best``, and a bound: price pairs over all nodes, then the integers."""
    batch, slopes = goal.batch, goal.slopes
    pairs = _first_pairs(best, slopes)
    bound = goal.first_bound(fitting)
    if goal.is_wishes and goal.is_reached(goal.cost(best), bound):
        return best, bound
    # where no points are at stake the weaker bound stays, and with it each plan of earlier versions
    counted = pairs.known if goal.is_wishes or goal.points else np.zeros_like(pairs.known)
    profit, priced = np.zeros(0), bound
    built_s = 0.0
    for _ in range(MAX_PRICING_ROUNDS):
        if deadline.is_over or deadline.left_s < BUILDS * built_s:
            break
        begun_s = deadline.elapsed_s
        program = BatchModel(batch, pairs, fitting, goal)
        built_s = deadline.elapsed_s - begun_s
        limits = Limits(max(SOLVE_SHARE * deadline.left_s, 1e-3), seed, work=deadline.work)
        answer = solve_linear(program.model, limits, relax=True)
        if answer.status != Status.OPTIMAL:
            break
        profit = program.profits(answer, slopes)
        # raising the price of each class by its best profit makes the duals feasible: a bound in every round; the
        # program's value has in it what pairs that are at their upper limit gain
        missed = float(batch.count @ np.maximum(0.0, np.where(counted, -INFINITY, profit).max(axis=1)))
        priced = program.cost(answer.value) - missed
        bound = max(bound, priced)
        _note(goal, deadline, best, bound)
        wanted = np.flatnonzero((profit > (POINTS_SLACK if goal.is_wishes else 1e-13)) & ~pairs.known)
        if len(wanted) == 0 or deadline.is_over:
            break
        chosen = wanted[np.argsort(-profit.ravel()[wanted], kind="stable")[:MAX_NEW_PAIRS]]
        pairs.add(*np.divmod(chosen, fitting.shape[1]))
    if len(profit):
        best, bound = _round(goal, best, profit, (priced, bound), deadline, fitting, seed)
    return best, bound


def _note(goal: Goal, deadline: Deadline, best: IntArray, bound: float) -> None:
    """Progress is told of stranding alone, the last stage: one number that gets better."""
    if not goal.is_wishes:
        deadline.note(goal.cost(best), bound)


def _first_pairs(best: IntArray, slopes: FloatArray) -> Pairs:
    """What the greedy placement uses, and the nodes of each class where stranding grows least."""
    pairs = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(best.shape, np.bool_))
    pairs.add(*np.nonzero(best))
    top = np.argsort(slopes, axis=1, kind="stable")[:, :TOP_NODES]
    classes = np.repeat(np.arange(len(top)), top.shape[1])
    useful = np.isfinite(slopes[classes, top.ravel()])
    pairs.add(classes[useful], top.ravel()[useful])
    return pairs


def _round(
    goal: Goal,
    best: IntArray,
    profit: FloatArray,
    bounds: tuple[float, float],
    deadline: Deadline,
    fitting: IntArray,
    seed: int,
) -> tuple[IntArray, float]:
    """Integers over the pairs that matter: a better placement, and a better bound.

    ``bounds`` are that of the prices behind ``profit``, and the best known, which may come from elsewhere. A placement that
    uses a pair costs at least the former less its profit, so pairs that would exceed the placement at hand
    are left out without loss (reduced-cost fixing). The rest enter by profit, more in each program, and the bound is
    never above what a pair that is still outside could reach.
    """
    batch, value = goal.batch, goal.cost(best)
    priced, bound = bounds
    matter = np.flatnonzero((profit >= priced - value).ravel() & (fitting > 0).ravel())
    matter = matter[np.argsort(-profit.ravel()[matter], kind="stable")]
    limit, built_s = FIRST_PAIRS, 0.0
    while deadline.left_s > BUILDS * built_s and not deadline.is_over and not goal.is_reached(value, bound):
        begun_s = deadline.elapsed_s
        left_out = priced - float(profit.ravel()[matter[limit]]) if len(matter) > limit else INFINITY
        pairs = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(best.shape, np.bool_))
        pairs.add(*np.nonzero(best))
        pairs.add(*np.divmod(matter[:limit], best.shape[1]))
        program = BatchModel(batch, pairs, fitting, goal)
        built_s = MORE_PAIRS * (deadline.elapsed_s - begun_s)
        time_s = max(SOLVE_SHARE * deadline.left_s, 1e-3)
        limits = Limits(time_s, seed, gap_share=TIGHT, work=deadline.work)
        answer = solve_linear(program.model, limits, hint=program.hint(best))
        if answer.has_solution:
            placed = repacked(batch, program.placed(answer.x), deadline)
            if batch.counts(placed) == goal.counts and not batch.violations(placed) and goal.is_better(placed, value):
                best, value = placed, goal.cost(placed)
                _note(goal, deadline, best, bound)
        if np.isfinite(answer.bound):
            bound = max(bound, min(program.cost(answer.bound), left_out))
        if not np.isfinite(left_out):
            break
        limit *= MORE_PAIRS
    return best, bound
