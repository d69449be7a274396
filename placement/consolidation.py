"""Consolidation: which nodes to empty within a budget of moves, so that the fleet costs least.

A node may go when every pod on it can run elsewhere. The plan deletes nodes and sends their pods to nodes that stay;
pods of nodes that stay are not touched, so every step is feasible by itself in any order: first the pods of one node
move, then the node goes.

Bound and choice come from one relaxation, small enough to be solved to optimality as an integer program: a binary
per node, the move budget, and for each set of nodes that some classes are confined to, the room that the nodes that
stay offer in sum. Whatever really fits satisfies it, so its optimum bounds every plan. The choice is then packed pod by
pod (:mod:`placement.repair`); where it does not pack, the room is scaled down and solved again. On small clusters
CP-SAT closes the last gap on the exact class-flow model.

:func:`prefix_search` is the rival: what Karpenter's multi-node consolidation does (sort by pods, binary search on the
prefix), delete-only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placement.errors import ConfigError
from placement.plans import Deadline, Ending
from placement.repair import Packing, Search, repair
from placement.resources import BoolArray, FloatArray, IntArray
from placement.solver import Answer, Limits, Model, solve_integer, solve_linear

CENT = 1_000_000
"""Prices enter the programs as integers: millionths of a USD per hour."""
MARGINS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6)
"""Shares of room that are held back when a choice does not pack."""
REFINEMENTS = 6
SEARCH_SHARE = 0.15
EXACT_CELLS = 12_000
"""Classes × nodes up to which the exact model goes to CP-SAT."""
PREFIX_CANDIDATES = 100
PREFIX_ROUNDS = 10


@dataclass(frozen=True)
class Fleet:
    """Running pods by class and node.

    Parameters
    ----------
    request : ``(R, C)`` int64. count : ``(C, N)`` int64 pods of a class on a node.
    free : ``(R, N)`` int64, what is left on each node.
    allowed : ``(C, N)`` bool, where hard rules let a class run.
    deletable : ``(N,)`` bool; False where something must not be moved.
    usd_per_hour : ``(N,)`` float64, what a node costs.
    """

    request: IntArray
    count: IntArray
    free: IntArray
    allowed: BoolArray
    deletable: BoolArray
    usd_per_hour: FloatArray

    def __post_init__(self) -> None:
        if self.free.shape[1] == 0:
            raise ConfigError("there are no nodes to consolidate; give a snapshot or trace with at least one node")
        if not np.isfinite(self.usd_per_hour).all():
            node = int(np.flatnonzero(~np.isfinite(self.usd_per_hour))[0])
            raise ConfigError(f"node number {node} has no price; give a price book that lists its shape")
        if (self.free < 0).any():
            node = int(np.flatnonzero((self.free < 0).any(axis=0))[0])
            raise ConfigError(f"node number {node} is overfull before planning; take a fresh snapshot")

    @property
    def pods(self) -> IntArray:
        """``(N,)`` movable pods per node."""
        return np.asarray(self.count.sum(axis=0), np.int64)

    @property
    def load(self) -> IntArray:
        """``(R, N)`` what the movable pods of a node ask for."""
        return np.asarray(self.request @ self.count, np.int64)


@dataclass(frozen=True)
class Consolidated:
    """``deleted`` ``(N,)`` bool; ``arrivals`` ``(C, N)`` pods that nodes receive; USD per hour saved, and at most."""

    deleted: BoolArray
    arrivals: IntArray
    usd_per_hour: float
    bound: float
    moves: int
    ending: Ending

    @property
    def gap_share(self) -> float:
        """Certified distance from the best plan, as a share of the bound."""
        return (self.bound - self.usd_per_hour) / self.bound if self.bound > 0 else 0.0


def violations(fleet: Fleet, plan: Consolidated, max_moves: int | None) -> list[str]:
    """What an independent look finds wrong with a plan; empty when it is valid."""
    gone = plan.deleted
    wrong = [f"node number {n} must stay" for n in np.flatnonzero(gone & ~fleet.deletable)]
    if (plan.arrivals[:, gone] > 0).any():
        wrong.append("a node that goes receives pods")
    over = (fleet.request @ plan.arrivals > fleet.free).any(axis=0) & ~gone
    wrong += [f"node number {n} is overfull" for n in np.flatnonzero(over)]
    if (plan.arrivals[~fleet.allowed] > 0).any():
        wrong.append("a pod arrives where its rules exclude it")
    if (plan.arrivals.sum(axis=1) != fleet.count[:, gone].sum(axis=1)).any():
        wrong.append("pods are lost, or counted twice")
    if max_moves is not None and int(fleet.pods[gone].sum()) > max_moves:
        wrong.append("more moves than the budget allows")
    return wrong


def consolidate(
    fleet: Fleet, deadline: Deadline, *, max_moves: int | None = None, gap_share: float = 0.0, seed: int = 0
) -> Consolidated:
    """Cheapest fleet within ``max_moves`` (None = any number) that the deadline allows; deleting nothing is valid."""
    if max_moves is not None and max_moves < 0:
        raise ConfigError(f"a budget of {max_moves} moves is not possible; give 0 or more, or none for no limit")
    relaxed = _Relaxation(fleet, max_moves)
    best = prefix_search(fleet, max_moves=max_moves)
    bound = float(fleet.usd_per_hour[fleet.deletable].sum())
    failed = 0.0
    for margin in MARGINS:
        answer = relaxed.solve(margin, deadline.part(0.1 if margin else 0.25), seed)
        if margin == 0.0 and np.isfinite(answer.bound):
            bound = min(bound, answer.bound / CENT)
        plan, whole = _packed(fleet, answer, deadline, seed)
        best = plan if plan.usd_per_hour > best.usd_per_hour else best
        deadline.note(best.usd_per_hour, max(bound, best.usd_per_hour))
        if whole or deadline.is_over:
            break
        failed = margin
    if not whole or margin > 0.0:
        best = _refine(fleet, relaxed, (failed, margin), best, deadline, seed)
    best = _add_nodes(fleet, best, max_moves, deadline, seed)
    deadline.note(best.usd_per_hour, max(bound, best.usd_per_hour))
    if fleet.count.size <= EXACT_CELLS and best.usd_per_hour < bound * (1 - 1e-9) and not deadline.is_over:
        best, bound = _exact(fleet, best, bound, max_moves, deadline, seed)
    bound = max(bound, best.usd_per_hour) + 0.0  # no negative zero
    gap = (bound - best.usd_per_hour) / bound if bound > 0 else 0.0
    ending = deadline.ending if gap > max(gap_share, 1e-9) else (Ending.OPTIMAL if gap <= 1e-9 else Ending.GAP_REACHED)
    return Consolidated(best.deleted, best.arrivals, best.usd_per_hour, bound, best.moves, ending)


def _nothing(fleet: Fleet) -> Consolidated:
    none = np.zeros(fleet.free.shape[1], np.bool_)
    return Consolidated(none, np.zeros_like(fleet.count), 0.0, 0.0, 0, Ending.DEADLINE)


class _Relaxation:
    """Binary per node; the room of the nodes that stay, summed over each set of nodes that classes are confined to."""

    def __init__(self, fleet: Fleet, max_moves: int | None) -> None:
        self._fleet = fleet
        self._max_moves = max_moves
        present = fleet.count.sum(axis=1) > 0
        patterns = np.unique(fleet.allowed[present], axis=0)
        everywhere = np.ones((1, fleet.free.shape[1]), np.bool_)
        self._patterns = np.unique(np.concatenate([patterns, everywhere]), axis=0)[:64]

    def solve(self, margin: float, deadline: Deadline, seed: int) -> Answer:
        """Best set of nodes to delete when ``margin`` of the room must stay free."""
        fleet = self._fleet
        model = Model()
        upper = (fleet.deletable & self._each_pod_fits_elsewhere()).astype(np.float64)
        y = model.add_columns(upper, objective=np.round(fleet.usd_per_hour * CENT))
        if self._max_moves is not None:
            model.add_row(y, fleet.pods, upper=float(self._max_moves))
        for pattern in self._patterns:
            confined = ~(fleet.allowed & ~pattern).any(axis=1)
            load = fleet.request[:, confined] @ fleet.count[confined]
            for row, free in zip(load, fleet.free, strict=True):
                room = np.where(pattern, free * (1.0 - margin), 0.0)
                scale = max(float(room.sum()), 1.0)
                model.add_row(y, (row + room) / scale, upper=float(room.sum()) / scale)
        return solve_linear(model, Limits(max(deadline.left_s, 1e-3), 1, seed, gap_share=1e-6))

    def _each_pod_fits_elsewhere(self) -> BoolArray:
        """``(N,)``: every class of the node fits somewhere else, looked at alone."""
        fleet = self._fleet
        num_nodes = fleet.free.shape[1]
        ok = np.ones(num_nodes, np.bool_)
        for c in range(len(fleet.count)):
            fits = (fleet.free >= fleet.request[:, c, None]).all(axis=0) & fleet.allowed[c]
            total = int(fits.sum())
            ok &= (fleet.count[c] == 0) | (total - fits > 0)
        return ok


def _packed(fleet: Fleet, answer: Answer, deadline: Deadline, seed: int) -> tuple[Consolidated, bool]:
    """The chosen nodes as a plan, and whether all of them could go.

    When their pods do not all fit, the cheapest nodes for what is left over come back, until they do.
    """
    if not answer.has_solution:
        return _nothing(fleet), False
    deleted = answer.x > 0.5
    whole = True
    while deleted.any():
        packing, node_of = _pack(fleet, deleted, deadline, seed)
        waiting = packing.class_of[node_of < 0]
        if len(waiting) == 0:
            usd = float(fleet.usd_per_hour[deleted].sum())
            arrivals = packing.per_node(node_of)
            return Consolidated(deleted, arrivals, usd, 0.0, len(node_of), Ending.DEADLINE), whole
        whole = False
        deleted = _bring_back(fleet, deleted, waiting)
    return _nothing(fleet), False


def _bring_back(fleet: Fleet, deleted: BoolArray, waiting: IntArray) -> BoolArray:
    """Fewer nodes deleted: those stay that offer the most room for the waiting classes per USD."""
    need = fleet.request[:, waiting].sum(axis=1)
    room = fleet.free + fleet.load
    useful = deleted & fleet.allowed[waiting].any(axis=0)
    worth = (room / np.maximum(need, 1)[:, None]).min(axis=0) / np.maximum(fleet.usd_per_hour, 1e-9)
    order = np.argsort(np.where(useful, -worth, 1.0), kind="stable")
    got = np.cumsum(fleet.free[:, order], axis=1)
    enough = int(np.argmax((got >= need[:, None]).all(axis=0))) if (got[:, -1] >= need).all() else len(order) - 1
    result = deleted.copy()
    result[order[: enough + 1]] = False
    return result


def _pack(fleet: Fleet, deleted: BoolArray, deadline: Deadline, seed: int) -> tuple[Packing, IntArray]:
    """The pods of ``deleted`` nodes on those that stay, as many as possible; the most confined classes choose first."""
    moved = fleet.count[:, deleted].sum(axis=1)
    class_of = np.repeat(np.arange(len(moved)), moved)
    num_pods = len(class_of)
    packing = Packing(
        fleet.request,
        class_of,
        -(fleet.allowed & ~deleted).sum(axis=1),
        np.where(deleted, 0, fleet.free),
        fleet.allowed & ~deleted,
        np.full(num_pods, -1, np.int64),
        np.ones(num_pods, np.bool_),
    )
    node_of = repair(packing, depth=0, largest_first=True)
    if (node_of < 0).any():
        search = Search(packing, node_of, seed=seed)
        none = np.zeros(len(packing.tiers), np.int64)
        part = deadline.part(SEARCH_SHARE)
        while not part.is_over and not search.run(none, rounds=20):
            pass
        node_of = search.best
    return packing, node_of


def _refine(
    fleet: Fleet, relaxed: _Relaxation, span: tuple[float, float], best: Consolidated, deadline: Deadline, seed: int
) -> Consolidated:
    """Bisect the margin between the last choice that did not pack and the first that did."""
    low, high = span
    for _ in range(REFINEMENTS):
        if deadline.is_over:
            break
        middle = (low + high) / 2
        plan, whole = _packed(fleet, relaxed.solve(middle, deadline.part(0.1), seed), deadline, seed)
        low, high = (low, middle) if whole else (middle, high)
        best = plan if plan.usd_per_hour > best.usd_per_hour else best
    return best


def _add_nodes(fleet: Fleet, best: Consolidated, max_moves: int | None, deadline: Deadline, seed: int) -> Consolidated:
    """Delete further nodes one by one, dearest per pod first, as long as they pack."""
    order = np.argsort(-fleet.usd_per_hour / np.maximum(fleet.pods, 1), kind="stable")
    budget = np.inf if max_moves is None else max_moves
    failures = 0
    for n in order:
        if deadline.is_over or failures >= 20:
            break
        if best.deleted[n] or not fleet.deletable[n] or best.moves + fleet.pods[n] > budget:
            continue
        deleted = best.deleted.copy()
        deleted[n] = True
        packing, node_of = _pack(fleet, deleted, deadline.part(0.05), seed)
        if (node_of < 0).any():
            failures += 1
        else:
            usd = float(fleet.usd_per_hour[deleted].sum())
            best = Consolidated(deleted, packing.per_node(node_of), usd, 0.0, len(node_of), Ending.DEADLINE)
    return best


def _exact(
    fleet: Fleet, best: Consolidated, bound: float, max_moves: int | None, deadline: Deadline, seed: int
) -> tuple[Consolidated, float]:
    """CP-SAT on the class-flow model, from the plan at hand."""
    classes = np.flatnonzero(fleet.count.sum(axis=1) > 0)
    num_nodes = fleet.free.shape[1]
    model = Model()
    y = model.add_columns(fleet.deletable.astype(np.int64), objective=np.round(fleet.usd_per_hour * CENT))
    total = fleet.count[classes].sum(axis=1)
    upper = np.where(fleet.allowed[classes], total[:, None], 0)
    x = model.add_columns(upper.ravel()).reshape(upper.shape)
    for i, c in enumerate(classes):
        columns = np.concatenate([x[i], y])
        model.add_row(columns, np.concatenate([np.ones(num_nodes), -fleet.count[c]]), lower=0, upper=0)
    for n in range(num_nodes):
        for r, free in enumerate(fleet.free[:, n]):
            values = np.append(fleet.request[r, classes], free)
            model.add_row(np.append(x[:, n], y[n]), values, upper=float(free))
        model.add_row(np.append(x[:, n], y[n]), np.append(np.ones(len(classes)), total.sum()), upper=float(total.sum()))
    if max_moves is not None:
        model.add_row(y, fleet.pods, upper=float(max_moves))
    hint = np.concatenate([best.deleted.astype(np.int64), best.arrivals[classes].ravel()])
    limits = Limits(max(deadline.left_s, 1e-3), 1, seed, stop=deadline.cancelled)
    answer = solve_integer(model, limits, hint=hint)
    if np.isfinite(answer.bound):
        bound = min(bound, answer.bound / CENT)
    if answer.has_solution and answer.value / CENT > best.usd_per_hour + 1e-9:
        deleted = answer.x[y] > 0.5
        arrivals = np.zeros_like(fleet.count)
        arrivals[classes] = np.round(answer.x[x]).astype(np.int64)
        moves = int(fleet.pods[deleted].sum())
        plan = Consolidated(deleted, arrivals, float(fleet.usd_per_hour[deleted].sum()), 0.0, moves, Ending.DEADLINE)
        best = plan if not violations(fleet, plan, max_moves) else best
    return best, bound


# ── the rival ─────────────────────────────────────────────────────────────────────────────────────────────────


def prefix_search(fleet: Fleet, *, max_moves: int | None = None) -> Consolidated:
    """Karpenter's multi-node consolidation, delete-only, repeated up to ten times within one move budget.

    Per round: candidates by pod count, the first hundred; binary search for the longest prefix whose pods fit on all
    other nodes, first-fit decreasing.
    """
    budget = int(fleet.pods.sum()) if max_moves is None else max_moves
    deleted = np.zeros(fleet.free.shape[1], np.bool_)
    arrivals = np.zeros_like(fleet.count)
    moves = 0
    for _ in range(PREFIX_ROUNDS):
        count = fleet.count + arrivals
        order = np.argsort(np.where(deleted | ~fleet.deletable, 1 << 40, count.sum(axis=0)), kind="stable")
        candidates = [int(n) for n in order[:PREFIX_CANDIDATES] if fleet.deletable[n] and not deleted[n]]
        found = _longest_prefix(fleet, count, deleted, arrivals, candidates, budget - moves)
        if found is None:
            break
        prefix, moved = found
        gone = list(prefix)
        moves += int(count[:, gone].sum())
        deleted[gone] = True
        arrivals[:, gone] = 0
        arrivals = arrivals + moved
    usd = float(fleet.usd_per_hour[deleted].sum())
    return Consolidated(deleted, arrivals, usd, usd, moves, Ending.DEADLINE)


def _longest_prefix(
    fleet: Fleet, count: IntArray, deleted: BoolArray, arrivals: IntArray, candidates: list[int], budget: int
) -> tuple[list[int], IntArray] | None:
    low, high = 0, len(candidates)
    best: tuple[list[int], IntArray] | None = None
    while low < high:
        middle = (low + high + 1) // 2
        prefix = candidates[:middle]
        moved = None
        if int(count[:, prefix].sum()) <= budget:
            moved = _first_fit(fleet, count[:, prefix].sum(axis=1), deleted, arrivals, prefix)
        if moved is None:
            high = middle - 1
        else:
            low, best = middle, (prefix, moved)
    return best


def _first_fit(
    fleet: Fleet, moved: IntArray, deleted: BoolArray, arrivals: IntArray, prefix: list[int]
) -> IntArray | None:
    """``(C, N)`` where pods go, largest class first, first node that fits; None when one fits nowhere."""
    left = fleet.free - fleet.request @ arrivals
    stays = ~deleted
    stays[prefix] = False
    total = np.maximum(fleet.free.sum(axis=1), 1)
    size = (fleet.request / total[:, None]).sum(axis=0)
    placed = np.zeros_like(fleet.count)
    for c in np.argsort(-size, kind="stable"):
        need = fleet.request[:, c]
        waiting = int(moved[c])
        if not waiting:
            continue
        fitting = np.min([row // q for row, q in zip(left, need, strict=True) if q > 0], axis=0)
        room = np.where(fleet.allowed[c] & stays, np.maximum(fitting, 0), 0)
        take = np.minimum(room, np.maximum(waiting - (np.cumsum(room) - room), 0))
        if take.sum() < waiting:
            return None
        placed[c] = take
        left = left - np.outer(need, take)
    return placed
