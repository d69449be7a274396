"""Consolidation: which nodes to empty within a budget of moves, so that the fleet costs least.

A node may go when every pod on it can run elsewhere. The plan deletes nodes and sends their pods to nodes that stay;
pods of nodes that stay are not touched, so every step is feasible by itself in any order: first the pods of one node
move, then the node goes.

Bound and choice come from one relaxation, small enough to be solved to optimality as an integer program: a binary
per node, the move budget, and for each set of nodes that some classes are confined to, the room that the nodes that
stay offer in sum. Whatever really fits satisfies it, so its optimum bounds every plan. The choice is then packed: node by
node with the filling that is worth most (:func:`placement.planning.patterns.best_pattern`), dearer what was short before, and
the last pods by ejection. Where that fails, the room of each node is first cut down to what whole pods can use of it.
With a budget, room is then held back and the relaxation solved again. Without one, rows are added for prices at which
the choice is too dear, and what is left waiting is repacked (:mod:`placement.planning.repacking`); nodes come back for the last
pods, and are exchanged. On small clusters CP-SAT closes the last gap on the exact class-flow model.

:func:`prefix_search` is the rival: what Karpenter's multi-node consolidation does (sort by pods, binary search on the
prefix), delete-only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from placement.errors import ConfigError
from placement.planning.patterns import best_pattern
from placement.planning.plans import Deadline, Ending
from placement.planning.repacking import Repacking, scarcity_of
from placement.planning.repair import Packing, Search
from placement.planning.solver import INFINITY, Answer, Limits, Master, Model, Status, solve_integer, solve_linear
from placement.resources import BoolArray, FloatArray, IntArray

CENT = 1_000_000
"""Prices enter the programs as integers: millionths of a USD per hour."""
MARGINS = (0.0, 0.01, 0.03, 0.08, 0.2, 0.6)
"""Shares of room that are held back when a choice does not pack."""
REFINEMENTS = 6
MIN_SOLVE_S = 0.05
PROOF_GAP, CHOICE_GAP = 1e-6, 1e-4
"""How exactly the relaxation is solved, for the bound and for a choice that may not pack anyway."""
MOST_ROUNDING = 1e-3
"""Share of the bound that prices may lose to rounding before nothing counts as proved."""
COUNTED_SHARE, EASIEST_SHARE, EASIEST_GAP = 0.5, 0.3, 0.02
"""Of a relaxation's time, for the numbers of nodes and for the easiest choice, and how exactly the latter is solved."""
FIRST_SHARE, SHARPEN_SHARE, CHOICE_SHARE = 0.05, 0.3, 0.05
ADD_FAILURES = 100
FILL_ROUNDS = 12
FILL_EXPONENT, FILL_PULL, FILL_NOISE = 1.05, 0.1, 0.3
"""Large pods are worth a little more than their size; what was short becomes dearer; the order of nodes varies."""
FILL_VISITS = 2_000
FILLING_S, SEARCH_ROUND_S = 2e-4, 5e-4
"""What a filling and a round of the search count for on a clock of work."""
SEARCH_SHARE, SEARCH_ROUNDS = 0.1, 5
SEARCH_PODS = 40
"""More pods than this without a place are not worth a search."""
CUTS, MOST_POOLS = 6, 16
"""Rows that are added to the relaxation, and sets of nodes up to which that is tried."""
ROUNDING, FITS = 1e-6, 1e-4
"""Pods and room below which there is none; an overfull share that counts as none."""
FIRST_PACK_SHARE, FIRST_CHOICE_SHARE, FIRST_CHOICE_GAP = 0.2, 0.15, 5e-4
"""Without a budget all depends on the choice after the rows are sharpened, hardly anything on that before."""
ATTEMPTS, ATTEMPT_MARGIN = 12, 0.006
"""Choices that are repacked, and the share of room that the second holds back."""
REPACK_SHARE, REPACK_ROUNDS = 0.2, 2000
TRIALS, TRIAL_ROUNDS, TRIAL_NOISE = 20, 60, 0.3
"""Exchanges that may fail in a row, and repacking steps for each node that goes or comes back; how much their order varies."""
LEAST_LOST, LOST_SHARE = 1e-3, 0.9
"""Largest pods that a choice must lose to be cut off, and the share of what it seems to lose that is proof enough."""
CUT_CELLS, CUT_SHARE = 25_000, 0.25
"""Classes × nodes up to which choices that do not pack are cut off, and the share of the time that each may take."""
MOST_BACK, MOST_LOOKED_AT = 2, 40
"""Nodes that come back for one that goes, and of how many it is tried what they take."""
REFILL_S = 1.2e-4
"""What a refilled node counts for on a clock of work."""
BEFORE_EXACT_SHARE = 0.9
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
    answer = relaxed.solve(0.0, deadline.part(FIRST_SHARE), seed, PROOF_GAP)
    bound = min(bound, answer.bound / CENT)
    pack = deadline if max_moves is not None else deadline.part(FIRST_PACK_SHARE)
    first, whole = _packed(fleet, answer, pack, seed, give_back=False)
    best = first if first.usd_per_hour > best.usd_per_hour else best
    failed = margin = 0.0
    if not whole and max_moves is None:
        if not deadline.is_late:
            relaxed.sharpen(deadline.part(SHARPEN_SHARE))
            relaxed.separate(deadline.part(SHARPEN_SHARE), seed)
            answer = relaxed.solve(0.0, deadline.part(FIRST_CHOICE_SHARE), seed, FIRST_CHOICE_GAP)
            bound = min(bound, answer.bound / CENT)
        if answer.has_solution:
            best, bound = _repacked(fleet, relaxed, answer.x > 0.5, best, bound, deadline, seed)
    elif not whole:
        relaxed.sharpen(deadline.part(SHARPEN_SHARE))
        for margin in MARGINS:
            answer = relaxed.solve(margin, deadline.part(CHOICE_SHARE), seed, CHOICE_GAP)
            bound = min(bound, answer.bound / CENT) if margin == 0.0 else bound
            plan, whole = _packed(fleet, answer, deadline, seed)
            best = plan if plan.usd_per_hour > best.usd_per_hour else best
            deadline.note(best.usd_per_hour, max(bound, best.usd_per_hour))
            if whole or deadline.is_over:
                break
            failed = margin
    if margin > 0.0:
        best = _refine(fleet, relaxed, (failed, margin), best, deadline, seed)
    if whole or max_moves is not None:
        best = _add_nodes(fleet, best, max_moves, deadline, seed)
    deadline.note(best.usd_per_hour, max(bound, best.usd_per_hour))
    proved = PROOF_GAP if max_moves is None or _is_best_in_whole_prices(fleet, best, bound) else 1e-9
    if fleet.count.size <= EXACT_CELLS and best.usd_per_hour < bound * (1 - proved) and not deadline.is_over:
        best, most = exactly(fleet, best, max_moves, deadline, seed)
        bound = min(bound, most)
        proved = max(proved, PROOF_GAP if _is_best_in_whole_prices(fleet, best, bound) else 0.0)
    bound = max(bound, best.usd_per_hour) + 0.0  # no negative zero
    gap = (bound - best.usd_per_hour) / bound if bound > 0 else 0.0
    most = _with_small_change(fleet, bound)
    if most > bound * (1 + MOST_ROUNDING):
        gap, proved = 1.0, 0.0
    ending = (
        deadline.ending if gap > max(gap_share, proved) else (Ending.OPTIMAL if gap <= proved else Ending.GAP_REACHED)
    )
    return Consolidated(
        best.deleted, best.arrivals, best.usd_per_hour, max(most, best.usd_per_hour), best.moves, ending
    )


def _is_best_in_whole_prices(fleet: Fleet, best: Consolidated, bound: float) -> bool:
    """Whether a plan reaches a bound at the prices of the programs: what is left between them is rounding then."""
    return float(np.round(fleet.usd_per_hour[best.deleted] * CENT).sum()) / CENT >= bound * (1 - 1e-9)


def _with_small_change(fleet: Fleet, bound: float) -> float:
    """The most USD an hour that plans save which save no more than ``bound`` at prices in whole millionths."""
    usd = fleet.usd_per_hour[fleet.deletable]
    whole = np.round(usd * CENT) / CENT
    lost = np.where(usd - whole > ROUNDING / CENT, usd - whole, 0.0)
    if (lost[whole == 0.0] > 0.0).any():
        most = bound + float(lost.sum())
    else:
        most = bound * (1.0 + float((lost / np.maximum(whole, 1 / CENT)).max(initial=0.0)))
    return min(most, float(usd.sum()))


def nothing(fleet: Fleet) -> Consolidated:
    """The plan that deletes nothing."""
    none = np.zeros(fleet.free.shape[1], np.bool_)
    return Consolidated(none, np.zeros_like(fleet.count), 0.0, 0.0, 0, Ending.DEADLINE)


class _Relaxation:
    """Binary per node; what displaced pods are worth is no more than what nodes that stay can take, at several prices.

    The prices are at first the resources, one by one, of the classes that are confined to a set of nodes: room summed over
    that set.
    """

    def __init__(self, fleet: Fleet, max_moves: int | None) -> None:
        self._fleet = fleet
        self._max_moves = max_moves
        present = fleet.count.sum(axis=1) > 0
        patterns = np.unique(fleet.allowed[present], axis=0)
        everywhere = np.ones((1, fleet.free.shape[1]), np.bool_)
        self.price: FloatArray | None = None
        """``(C,)`` mean of the prices that were added, the dearest class at 1."""
        self._added: list[FloatArray] = []
        self._prices: list[FloatArray] = []
        self._rooms: list[FloatArray] = []
        for pattern in np.unique(np.concatenate([patterns, everywhere]), axis=0)[:64]:
            confined = ~(fleet.allowed & ~pattern).any(axis=1)
            for request, free in zip(fleet.request, fleet.free, strict=True):
                self._prices.append(np.where(confined, request, 0).astype(np.float64))
                self._rooms.append(np.where(pattern, free, 0).astype(np.float64))
        self._usable = fleet.free.astype(np.float64)
        self._usd = np.round(fleet.usd_per_hour * CENT)
        self._price_of = np.unique(self._usd, return_inverse=True)[1].ravel()
        self._displaced = np.asarray(fleet.count[:, fleet.deletable].sum(axis=1), np.int64)

    def sharpen(self, deadline: Deadline) -> None:
        """Count as room only what whole pods can use: a node with memory and no cores to go with it offers little."""
        for price, room in zip(self._prices, self._rooms, strict=True):
            if price.any():
                self._take(price, room, deadline)
        for usable, request in zip(self._usable, self._fleet.request, strict=True):
            for price, room in zip(self._prices, self._rooms, strict=True):
                if (price == request).all():
                    np.minimum(usable, room, out=usable)

    def _take(self, price: FloatArray, room: FloatArray, deadline: Deadline) -> None:
        """Lower ``room`` ``(N,)`` to the most that pods on a node are worth: a knapsack, whose bound holds if cut short."""
        fleet = self._fleet
        for n in np.flatnonzero(room > 0):
            if deadline.is_over:
                return
            deadline.spend(FILLING_S)
            value = np.where(fleet.allowed[:, n], price, 0.0)
            filling = best_pattern(value, fleet.request, self._displaced, fleet.free[:, n], limit=FILL_VISITS)
            room[n] = min(room[n], filling.upper * (1 + 1e-9))

    def separate(self, deadline: Deadline, seed: int) -> None:
        """Add prices at which the choice of the relaxation is too dear for the nodes that would stay.

        Room of one kind may be short where some classes run and another kind elsewhere, and still all is enough in sum.
        A linear program deals the displaced pods, in fractions, out to sets of nodes that accept the same classes; where
        that overfills them, its duals are such prices (Benders 1962).
        """
        fleet = self._fleet
        pools, pool_of = np.unique(fleet.allowed, axis=1, return_inverse=True)
        if pools.shape[1] > MOST_POOLS:
            return
        for _ in range(CUTS):
            answer = solve_linear(self._model(0.0), self._limits(deadline, seed, PROOF_GAP), relax=True)
            if answer.status != Status.OPTIMAL or deadline.is_over:
                return
            price = self._overfull(answer.x, pools, pool_of.ravel(), self._limits(deadline, seed, PROOF_GAP))
            if price is None:
                return
            self._add(price, deadline)

    def _add(self, price: FloatArray, deadline: Deadline) -> bool:
        """A row for these prices, unless time is over first."""
        room = np.where(self._fleet.allowed.any(axis=0), np.inf, 0.0)
        self._take(price, room, deadline)
        if not np.isfinite(room).all():
            return False
        self._prices.append(price)
        self._rooms.append(room)
        self._added.append(price / price.max())
        self.price = np.mean(self._added, axis=0)
        return True

    def cut(self, gone: BoolArray, deadline: Deadline) -> bool:
        """Add prices at which the pods of ``gone`` are worth more than what the nodes that stay can hold; False if none.

        Column generation over fillings of single nodes (Gilmore & Gomory 1961), drawn towards the best prices so far
        (Wentges 1997). At any prices, what the pods are worth less the best filling of each node is lost at least.
        """
        fleet, stay = self._fleet, np.flatnonzero(~gone)
        moved = np.asarray(fleet.count[:, gone].sum(axis=1), np.int64)
        size, waits = scarcity_of(fleet.request, moved, fleet.free[:, stay]) @ fleet.request, np.flatnonzero(moved)
        low = np.append(moved[waits].astype(np.float64), np.full(len(stay), -INFINITY))
        master = Master(low, np.append(np.full(len(waits), INFINITY), np.ones(len(stay))))
        for i, c in enumerate(waits):
            master.add(np.array([i]), np.ones(1), objective=-float(size[c]))
        best, best_price = 0.0, None
        while not deadline.is_over:
            answer = master.solve()
            if answer.status != Status.OPTIMAL or -answer.value < LEAST_LOST:
                return False
            price = np.zeros(len(moved))
            price[waits] = np.clip(-answer.duals[: len(waits)], 0.0, size[waits])
            point = price if best_price is None else (best_price + price) / 2
            lost = float(point @ moved)
            is_better = False
            for i, n in enumerate(stay):
                worth = np.where(fleet.allowed[:, n], point, 0.0)
                filling = best_pattern(worth, fleet.request, self._displaced, fleet.free[:, n], limit=FILL_VISITS)
                deadline.spend(FILLING_S)
                lost -= filling.upper
                if price @ filling.counts > answer.duals[len(waits) + i] + ROUNDING:
                    rows = np.flatnonzero(filling.counts[waits])
                    values = np.append(filling.counts[waits[rows]], 1)
                    master.add(np.append(rows, len(waits) + i), values, objective=0.0)
                    is_better = True
            if lost > best:
                best, best_price, is_better = lost, point, True
            if not is_better or best > -answer.value * LOST_SHARE:
                break
        if best_price is None or best < LEAST_LOST:
            return False
        return self._add(best_price / best_price.max() * CENT, deadline)

    def _overfull(self, gone: FloatArray, pools: BoolArray, pool_of: IntArray, limits: Limits) -> FloatArray | None:
        """``(C,)`` prices at which pods of ``gone`` are worth more than the room of the rest; None when they fit."""
        fleet, model = self._fleet, Model()
        moved = fleet.count @ gone
        slack = model.add_columns(np.array([1e3]), objective=1.0, lower=-1e3, integer=False)
        columns = np.full(pools.shape, -1)
        for g in range(pools.shape[1]):
            takes = np.flatnonzero(pools[:, g] & (moved > ROUNDING))
            columns[takes, g] = model.add_columns(moved[takes], integer=False)
        for c in np.flatnonzero(moved > ROUNDING):
            if not (columns[c] >= 0).any():
                return None
            model.add_row(columns[c][columns[c] >= 0], 1.0, lower=float(moved[c]), upper=float(moved[c]))
        rows: dict[int, tuple[int, int, float]] = {}
        for g in range(pools.shape[1]):
            takes = np.flatnonzero(columns[:, g] >= 0)
            for r, usable in enumerate(self._usable):
                room = max(float(usable[pool_of == g] @ (1.0 - gone[pool_of == g])), ROUNDING)
                values = np.append(fleet.request[r, takes] / room, 1.0)
                rows[model.add_row(np.append(columns[takes, g], slack), values, upper=1.0)] = g, r, room
        answer = solve_linear(model, limits, relax=True)
        if answer.status != Status.OPTIMAL or answer.value > -FITS:
            return None
        dual = np.zeros((pools.shape[1], len(fleet.request)))
        for row, (g, r, room) in rows.items():
            dual[g, r] = max(0.0, float(answer.duals[row])) / room
        price = np.where(pools, (dual @ fleet.request).T, np.inf).min(axis=1, initial=np.inf)
        price = np.where(np.isfinite(price), price, 0.0)
        return np.asarray(price / price.max() * CENT, np.float64) if price.any() else None

    def _model(self, margin: float, *, counted: bool = False, numbers: IntArray | None = None) -> Model:
        """The nodes that go are the first columns; ``margin`` of the room must stay free.

        With ``counted``, parts of nodes may go, but whole numbers of those of each price. With ``numbers`` so many of each
        price go, and the objective is the room that is left in the row that has least.
        """
        fleet, model = self._fleet, Model()
        upper = (fleet.deletable & self._each_pod_fits_elsewhere()).astype(np.float64)
        y = model.add_columns(upper, objective=self._usd if numbers is None else 0.0, integer=not counted)
        spare = np.zeros(0, np.int64)
        if numbers is not None:
            spare = model.add_columns(np.ones(1), objective=1.0, integer=False)
        if self._max_moves is not None:
            model.add_row(y, fleet.pods, upper=float(self._max_moves))
        for price, whole in zip(self._prices, self._rooms, strict=True):
            room = whole * (1.0 - margin)
            scale = max(float(room.sum()), 1.0)
            values = np.append((price @ fleet.count + room) / scale, np.ones(len(spare)))
            model.add_row(np.append(y, spare), values, upper=float(room.sum()) / scale)
        for k in range(int(self._price_of.max()) + 1):
            same = y[self._price_of == k]
            if numbers is not None:
                model.add_row(same, 1.0, lower=float(numbers[k]), upper=float(numbers[k]))
            elif counted:
                columns = np.append(same, model.add_columns(np.array([len(same)])))
                model.add_row(columns, np.append(np.ones(len(same)), -1.0), lower=0.0, upper=0.0)
        return model

    def _limits(self, deadline: Deadline, seed: int, gap_share: float) -> Limits:
        time_s = 0.0 if deadline.cancelled() else deadline.left_s
        return Limits(max(time_s, MIN_SOLVE_S), 1, seed, gap_share=gap_share, work=deadline.work)

    def solve(self, margin: float, deadline: Deadline, seed: int, gap_share: float) -> Answer:
        """Best set of nodes to delete when ``margin`` of the room must stay free; of those equally good an easy one to pack.

        What is saved depends on the numbers of nodes of each price alone. The program of these numbers is solved in a tenth
        of a second, and loses little, where that of whole nodes takes longer than there is; its bound is a row of the latter.
        """
        model, limits = self._model(margin), self._limits(deadline, seed, gap_share)
        relaxed = solve_linear(model, limits, relax=True)
        if relaxed.status != Status.OPTIMAL:
            return relaxed
        best, bound = self._choice(np.floor(relaxed.x + 1e-9)), relaxed.value  # deleting fewer nodes never breaks a row
        if self._max_moves is None:
            counted_limits = self._limits(deadline.part(COUNTED_SHARE), seed, PROOF_GAP)
            counted = solve_linear(self._model(margin, counted=True), counted_limits)
            bound = min(bound, counted.bound)
            best = self._easiest(counted, margin, deadline, seed, best)
            if best.value >= bound * (1 - gap_share):
                return replace(best, bound=max(bound, best.value))
            model.add_row(np.arange(len(best.x)), self._usd / CENT, upper=bound / CENT * (1 + 1e-9))
            limits = self._limits(deadline, seed, gap_share)
        answer = solve_linear(model, limits, hint=best.x)
        if answer.has_solution and answer.value >= best.value:
            best = answer if self._max_moves is not None else self._easiest(answer, margin, deadline, seed, best)
        return replace(best, bound=max(min(bound, answer.bound), best.value))

    def _choice(self, gone: FloatArray) -> Answer:
        return Answer(Status.FEASIBLE, gone, float(self._usd @ gone), INFINITY)

    def _easiest(self, like: Answer, margin: float, deadline: Deadline, seed: int, least: Answer) -> Answer:
        """As many nodes of each price as in ``like``, with most room left; ``least`` where no whole nodes do better than it."""
        if not like.has_solution:
            return least
        nodes = np.arange(len(self._usd))
        numbers = np.round(np.bincount(self._price_of, like.x[nodes])).astype(np.int64)
        limits = self._limits(deadline.part(EASIEST_SHARE), seed, EASIEST_GAP)
        answer = solve_linear(self._model(margin, numbers=numbers), limits)
        found = self._choice(np.round(answer.x[nodes])) if answer.has_solution else least
        return found if found.value >= least.value else least

    def spare(self, gone: BoolArray) -> float:
        """Share of the room that stays free when ``gone`` goes, where least does; below 0 where it is too little."""
        left = []
        for price, room in zip(self._prices, self._rooms, strict=True):
            total = max(float(room.sum()), 1.0)
            left.append(float(room.sum() - (price @ self._fleet.count + room) @ gone) / total)
        return min(left)

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


def _packed(
    fleet: Fleet, answer: Answer, deadline: Deadline, seed: int, *, give_back: bool = True
) -> tuple[Consolidated, bool]:
    """The chosen nodes as a plan, and whether all of them could go.

    When their pods do not all fit, the cheapest nodes for what is left over come back, until they do.
    """
    if not answer.has_solution:
        return nothing(fleet), False
    deleted = answer.x > 0.5
    whole = True
    while deleted.any():
        arrivals, waiting = _pack(fleet, deleted, deadline, seed)
        if not waiting.any():
            usd = float(fleet.usd_per_hour[deleted].sum())
            return Consolidated(deleted, arrivals, usd, 0.0, int(arrivals.sum()), Ending.DEADLINE), whole
        whole = False
        if not give_back:
            break
        deleted = _bring_back(fleet, deleted, waiting)
    return nothing(fleet), False


def _bring_back(fleet: Fleet, deleted: BoolArray, waiting: IntArray) -> BoolArray:
    """Fewer nodes deleted: those stay that offer the most room for the waiting classes per USD."""
    need = fleet.request @ waiting
    room = fleet.free + fleet.load
    useful = deleted & fleet.allowed[waiting > 0].any(axis=0)
    worth = (room / np.maximum(need, 1)[:, None]).min(axis=0) / np.maximum(fleet.usd_per_hour, 1e-9)
    order = np.argsort(np.where(useful, -worth, 1.0), kind="stable")
    got = np.cumsum(fleet.free[:, order], axis=1)
    enough = int(np.argmax((got >= need[:, None]).all(axis=0))) if (got[:, -1] >= need).all() else len(order) - 1
    result = deleted.copy()
    result[order[: enough + 1]] = False
    return result


def _pack(fleet: Fleet, deleted: BoolArray, deadline: Deadline, seed: int) -> tuple[IntArray, IntArray]:
    """``(C, N)`` where the pods of ``deleted`` nodes arrive on those that stay, and ``(C,)`` those that do not fit."""
    arrivals, waiting = _fill(fleet, deleted, deadline, seed)
    if not 0 < waiting.sum() <= SEARCH_PODS:
        return arrivals, waiting
    class_of = np.repeat(np.arange(len(waiting)), fleet.count[:, deleted].sum(axis=1))
    places = np.append(np.arange(len(deleted)), -1)
    node_of = np.concatenate([np.repeat(places, np.append(arrivals[c], waiting[c])) for c in range(len(waiting))])
    free, allowed = np.where(deleted, 0, fleet.free), fleet.allowed & ~deleted
    tier, movable = np.zeros(len(waiting), np.int64), np.ones(len(node_of), np.bool_)
    packing = Packing(fleet.request, class_of, tier, free, allowed, node_of, movable)
    search, none = Search(packing, packing.node_of, seed=seed), np.zeros(1, np.int64)
    part = deadline.part(SEARCH_SHARE)
    while not part.is_over and not search.run(none, rounds=SEARCH_ROUNDS):
        part.spend(SEARCH_ROUNDS * SEARCH_ROUND_S)
    arrivals = packing.per_node(search.best)
    return arrivals, np.asarray(fleet.count[:, deleted].sum(axis=1) - arrivals.sum(axis=1), np.int64)


def _fill(fleet: Fleet, deleted: BoolArray, deadline: Deadline, seed: int) -> tuple[IntArray, IntArray]:
    """Node after node takes the filling that is worth most to it; the best of some rounds.

    Nodes that fewest classes accept come first, then small ones. A class is worth what it takes of scarce room; what a
    round could not place is dearer in the next (sequential value correction, Mukhacheva et al. 2000).
    """
    random = np.random.default_rng(seed)
    stay = np.flatnonzero(~deleted)
    moved = np.asarray(fleet.count[:, deleted].sum(axis=1), np.int64)
    scarcity = scarcity_of(fleet.request, moved, fleet.free[:, stay])
    size = scarcity @ fleet.request
    value = size**FILL_EXPONENT
    accepts, offers = fleet.allowed[:, stay].sum(axis=0), scarcity @ fleet.free[:, stay]
    best, best_waiting, noise = np.zeros_like(fleet.count), moved, np.zeros(len(stay))
    for attempt in range(FILL_ROUNDS):
        arrivals, waiting = np.zeros_like(fleet.count), moved.copy()
        for n in stay[np.lexsort((offers * np.exp(noise), accepts))]:
            worth = np.where(fleet.allowed[:, n], value, 0.0)
            if deadline.is_late if attempt else deadline.cancelled():
                break
            filling = best_pattern(worth, fleet.request, waiting, fleet.free[:, n], limit=FILL_VISITS)
            deadline.spend(FILLING_S)
            arrivals[:, n] = filling.counts
            waiting -= filling.counts
            if not waiting.any():
                return arrivals, waiting
        if size @ waiting < size @ best_waiting:
            best, best_waiting = arrivals, waiting
        if deadline.is_over:
            break
        value = value * (1 + FILL_PULL * np.minimum(1.0, 5 * waiting / np.maximum(moved, 1)))
        noise = random.normal(0, FILL_NOISE, len(stay))
    return best, best_waiting


def _repacked(
    fleet: Fleet,
    relaxed: _Relaxation,
    gone: BoolArray,
    best: Consolidated,
    bound: float,
    deadline: Deadline,
    seed: int,
) -> tuple[Consolidated, float]:
    """Without a budget all room counts: a choice of the relaxation, repacked until its pods fit, then better nodes.

    When exchanges of nodes no longer gain, another choice is tried. Where a node had to come back, the last one is cut off,
    if it can be proved on a small cluster that its pods do not fit, and the bound may fall; else more room is held back.
    Where none had, less is. Returns the plan and the bound.
    """
    if fleet.count.size <= EXACT_CELLS:
        deadline = deadline.part(BEFORE_EXACT_SHARE)
    low, high, margin = 0.0, 2 * ATTEMPT_MARGIN, 0.0
    for attempt in range(ATTEMPTS):
        now = _whole(fleet, gone, relaxed.price, deadline, seed + attempt, must=attempt == 0)
        packed_whole = now is not None and bool((now.gone == gone).all())
        failures = 0
        while now is not None:
            usd = float(fleet.usd_per_hour[now.gone].sum())
            if usd > best.usd_per_hour:
                best = Consolidated(now.gone, now.arrivals, usd, 0.0, int(now.arrivals.sum()), Ending.DEADLINE)
                deadline.note(usd, max(bound, usd))
            if deadline.is_over or failures >= TRIALS:
                break
            trial = _exchanged(fleet, now, deadline)
            now, failures = (now, failures + 1) if trial is None else (trial, 0)
        if deadline.is_over or best.usd_per_hour >= bound * (1 - PROOF_GAP):
            break
        is_cut = False
        if packed_whole:
            high = margin
        elif margin == 0.0 and fleet.count.size <= CUT_CELLS and relaxed.cut(gone, deadline.part(CUT_SHARE)):
            is_cut = True
        else:
            low = max(margin, relaxed.spare(gone))
        margin = margin if is_cut else (low + high) / 2
        answer = relaxed.solve(margin, deadline.part(FIRST_CHOICE_SHARE), seed, FIRST_CHOICE_GAP)
        if not answer.has_solution:
            break
        bound = min(bound, answer.bound / CENT) if margin == 0.0 else bound
        gone = answer.x > 0.5
    return best, bound


def _whole(
    fleet: Fleet, gone: BoolArray, price: FloatArray | None, deadline: Deadline, seed: int, *, must: bool
) -> Repacking | None:
    """The pods of ``gone`` repacked; a node comes back for pods that find no place.

    None when no node helps, when cancelled, or when time is over first, unless there ``must`` be a plan: then nodes come
    back without another look, a third of a millisecond each.
    """
    now = Repacking.of(fleet.request, fleet.count, fleet.free, fleet.allowed, gone, price=price, seed=seed)
    now.place(_fill(fleet, gone, deadline, seed)[0])
    _run(now, deadline.part(REPACK_SHARE), rounds=REPACK_ROUNDS)
    while now.waiting.any():
        is_over = deadline.is_over
        if deadline.cancelled() or (is_over and not must):
            return None
        back = _node_back(fleet, now, np.inf, most=0 if is_over else MOST_LOOKED_AT)
        if back is None:
            return None
        now.keep(back)
        if is_over:
            now.top_up(back)
        else:
            _run(now, deadline, rounds=TRIAL_ROUNDS)
    return now


def _run(packing: Repacking, deadline: Deadline, *, rounds: int) -> None:
    packing.run(lambda: deadline.is_over, rounds=rounds, spend=lambda nodes: deadline.spend(nodes * REFILL_S))


def _exchanged(fleet: Fleet, now: Repacking, deadline: Deadline) -> Repacking | None:
    """One more node deleted, cheaper ones back where that is needed; None when that gains nothing."""
    usd = fleet.usd_per_hour
    stays = np.flatnonzero(~now.gone & fleet.deletable)
    if not len(stays):
        return None
    need = now.worth @ (fleet.count + now.arrivals)[:, stays]
    worth = usd[stays] / (need + 1e-9) * np.exp(now.chance.normal(0.0, TRIAL_NOISE, len(stays)))
    trial = now.copy()
    out = stays[int(np.argmax(worth))]
    trial.empty(out)
    left = float(usd[out])
    for _ in range(MOST_BACK + 1):
        _run(trial, deadline, rounds=TRIAL_ROUNDS)
        if not trial.waiting.any():
            return trial
        back = _node_back(fleet, trial, left - 1e-9, but=out)
        if back is None or deadline.is_over:
            return None
        trial.keep(back)
        left -= float(usd[back])
    return None


def _node_back(fleet: Fleet, now: Repacking, below: float, *, but: int = -1, most: int = MOST_LOOKED_AT) -> int | None:
    """A node to come back, cheaper than ``below``: the first, by price, with room for all that waits.

    Where none of the first ``most`` has, the one of them that takes most per USD; where that is nothing, the one whose own pods
    leave most room per USD elsewhere.
    """
    usd = fleet.usd_per_hour
    useful = now.gone & (usd < below) & fleet.allowed[now.waiting > 0].any(axis=0)
    useful &= np.arange(len(usd)) != but
    nodes = np.flatnonzero(useful)
    if not len(nodes):
        return None
    disturbed = usd[nodes] * np.exp(now.chance.normal(0.0, TRIAL_NOISE, len(nodes)))
    best, highest = -1, 0.0
    for n in nodes[np.argsort(disturbed, kind="stable")][:most]:
        worth = np.where(fleet.allowed[:, n], now.worth, 0.0)
        taken = best_pattern(worth, fleet.request, now.waiting, fleet.free[:, n], limit=FILL_VISITS).value
        if taken >= now.shortage - ROUNDING:
            return int(n)
        if taken / max(usd[n], 1e-9) > highest:
            best, highest = int(n), taken / max(usd[n], 1e-9)
    if best >= 0:
        return best
    room = now.scarcity @ (fleet.free + fleet.load)[:, nodes]
    return int(nodes[np.argmax(room / np.maximum(usd[nodes], 1e-9))])


def _refine(
    fleet: Fleet, relaxed: _Relaxation, span: tuple[float, float], best: Consolidated, deadline: Deadline, seed: int
) -> Consolidated:
    """Bisect the margin between the last choice that did not pack and the first that did."""
    low, high = span
    for _ in range(REFINEMENTS):
        if deadline.is_over:
            break
        middle = (low + high) / 2
        plan, whole = _packed(fleet, relaxed.solve(middle, deadline.part(0.1), seed, CHOICE_GAP), deadline, seed)
        low, high = (low, middle) if whole else (middle, high)
        best = plan if plan.usd_per_hour > best.usd_per_hour else best
    return best


def _add_nodes(fleet: Fleet, best: Consolidated, max_moves: int | None, deadline: Deadline, seed: int) -> Consolidated:
    """Delete further nodes one by one, dearest per pod first, as long as they pack."""
    order = np.argsort(-fleet.usd_per_hour / np.maximum(fleet.pods, 1), kind="stable")
    budget = np.inf if max_moves is None else max_moves
    failures = 0
    for n in order:
        if deadline.is_over or failures >= ADD_FAILURES:
            break
        if best.deleted[n] or not fleet.deletable[n] or best.moves + fleet.pods[n] > budget:
            continue
        deleted = best.deleted.copy()
        deleted[n] = True
        arrivals, waiting = _pack(fleet, deleted, deadline.part(0.05), seed)
        if waiting.any():
            failures += 1
        else:
            usd = float(fleet.usd_per_hour[deleted].sum())
            best = Consolidated(deleted, arrivals, usd, 0.0, int(arrivals.sum()), Ending.DEADLINE)
    return best


def exactly(
    fleet: Fleet,
    best: Consolidated,
    max_moves: int | None,
    deadline: Deadline,
    seed: int,
    *,
    usd_per_arrival: FloatArray | None = None,
) -> tuple[Consolidated, float]:
    """CP-SAT on nodes that go and pods of each class that nodes receive, from the plan at hand.

    ``usd_per_arrival`` ``(C, N)`` is what a pod costs an hour where it arrives. Returns the better plan, and the most that
    any plan saves with prices rounded to millionths (infinite where nothing is proved).
    """
    classes = np.flatnonzero(fleet.count.sum(axis=1) > 0)
    count, num_nodes = fleet.count[classes], fleet.free.shape[1]
    model = Model()
    y = model.add_columns(fleet.deletable.astype(np.int64), objective=np.round(fleet.usd_per_hour * CENT))
    upper = np.where(fleet.allowed[classes], count.sum(axis=1)[:, None], 0)
    cost = np.zeros(fleet.count.shape) if usd_per_arrival is None else usd_per_arrival
    costs = np.round(cost[classes] * CENT)
    x = model.add_columns(upper.ravel(), objective=-costs.ravel()).reshape(upper.shape)
    for i in range(len(classes)):
        model.add_row(np.append(x[i], y), np.append(np.ones(num_nodes), -count[i]), lower=0, upper=0)
    most = int(count.sum())
    for n in range(num_nodes):
        for r, free in enumerate(fleet.free[:, n]):
            model.add_row(np.append(x[:, n], y[n]), np.append(fleet.request[r, classes], free), upper=float(free))
        model.add_row(np.append(x[:, n], y[n]), np.append(np.ones(len(classes)), most), upper=float(most))
    if max_moves is not None:
        model.add_row(y, fleet.pods, upper=float(max_moves))
    hint = np.concatenate([best.deleted.astype(np.int64), best.arrivals[classes].ravel()])
    limits = Limits(max(deadline.left_s, 1e-3), 1, seed, work=deadline.work, stop=deadline.cancelled)
    answer = solve_integer(model, limits, hint=hint)
    if not answer.has_solution:
        return best, answer.bound / CENT
    deleted, arrivals = answer.x[y] > 0.5, np.zeros_like(fleet.count)
    arrivals[classes] = np.round(answer.x[x]).astype(np.int64)
    usd = float(fleet.usd_per_hour[deleted].sum() - (cost * arrivals).sum())
    found = replace(best, deleted=deleted, arrivals=arrivals, usd_per_hour=usd, moves=int(arrivals.sum()))
    if usd > best.usd_per_hour + 1e-9 and not violations(fleet, found, max_moves):
        best = found
    return best, answer.bound / CENT


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
