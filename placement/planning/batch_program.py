"""The mixed-integer program of a batch over some (class, node) pairs, and what is priced over all of them.

One program for each stage: most pods of a priority, most points, least stranding; the latter two at fixed counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from placement.devices import UNLIMITED
from placement.planning.batch import Batch
from placement.planning.nearness import Nearness, sums
from placement.planning.solver import INFINITY, Answer, Model
from placement.resources import BoolArray, FloatArray, IntArray

TIGHT = 1e-9
"""A bound as near, relative, is reached."""
POINTS_SLACK = 1e-6
"""What a solver's bound on points, which are whole numbers, may be wrong by, relative."""
GOAL = 1e9
"""Stranding in the program is in parts per thousand million, so that solver tolerances are far below a pod."""


@dataclass
class Pairs:
    """The (class, node) pairs that are in the model."""

    classes: IntArray
    nodes: IntArray
    known: BoolArray = field(repr=False)

    def add(self, classes: IntArray, nodes: IntArray) -> None:
        """Those of the pairs ``(n,)`` that are not in yet."""
        fresh = ~self.known[classes, nodes]
        self.known[classes[fresh], nodes[fresh]] = True
        self.classes = np.append(self.classes, classes[fresh])
        self.nodes = np.append(self.nodes, nodes[fresh])


def slopes_of(batch: Batch) -> FloatArray:
    """``(C, N)`` a subgradient of stranding at the present load, along one pod of each class."""
    tightest = (batch.free / batch.offered).argmin(axis=0)
    rate = batch.worth / np.take_along_axis(batch.offered, tightest[None, :], axis=0)[0]
    return np.asarray(batch.request[tightest].T * rate - (batch.weights @ batch.request)[:, None], np.float64)


@dataclass(frozen=True)
class Goal:
    """What a program minimises at fixed ``counts``: points given up (negative points), or stranding.

    ``slopes`` ``(C, N)`` is a subgradient at the present load, infinite where a class does not fit. Stranding is minimised
    over placements with at least ``points``.
    """

    batch: Batch
    slopes: FloatArray
    counts: tuple[int, ...]
    is_wishes: bool = False
    points: int = 0

    @classmethod
    def wishes(cls, batch: Batch, fitting: IntArray, counts: tuple[int, ...]) -> Goal:
        """As many points as possible."""
        assert batch.wish is not None, "only a batch with wishes has this stage"
        return cls(batch, np.where(fitting > 0, -batch.wish.astype(np.float64), INFINITY), counts, is_wishes=True)

    def cost(self, placed: IntArray) -> float:
        """What ``placed`` costs."""
        return -float(self.batch.wishes_met(placed)) if self.is_wishes else self.batch.stranding(placed)

    def first_bound(self, fitting: IntArray) -> float:
        """A bound without any program: convexity for stranding, each class alone for wishes."""
        if self.is_wishes:
            return -float(self.batch.most_wishes(fitting, self.counts))
        present = float(self.batch.stranding_per_node(self.batch.free).sum())
        return present + cheapest(self.batch, self.slopes, self.counts)

    def is_better(self, placed: IntArray, value: float) -> bool:
        """``placed`` costs less than ``value`` and gives up no point of an earlier stage."""
        return self.cost(placed) < value and (self.is_wishes or self.batch.wishes_met(placed) >= self.points)

    def is_reached(self, value: float, bound: float) -> bool:
        """Nothing is left to look for."""
        if self.is_wishes:
            return value - bound < 1 - POINTS_SLACK * max(1.0, -bound)
        return value - bound <= TIGHT * value


@dataclass(frozen=True)
class Most:
    """What a program maximises first: pods of priority ``rank``, with at least ``above`` of those above, the highest first."""

    rank: int
    above: tuple[int, ...]


class BatchModel:
    """The mixed-integer program over some pairs: most pods, most points, or least stranding of the nodes in it."""

    def __init__(self, batch: Batch, pairs: Pairs, fitting: IntArray, goal: Goal | Most) -> None:
        self.model = Model()
        self.batch = batch
        self.pairs = pairs
        self.nodes, self.position = np.unique(pairs.nodes, return_inverse=True)
        self.is_wishes = isinstance(goal, Goal) and goal.is_wishes
        self.scale = 1.0 if self.is_wishes else GOAL
        wish = np.zeros(len(pairs.classes), np.int64)
        if batch.wish is not None:
            wish = batch.wish[pairs.classes, pairs.nodes]
        rank = batch.rank[pairs.classes]
        if isinstance(goal, Most):
            objective = (rank == goal.rank).astype(np.float64)
        elif goal.is_wishes:
            objective = wish.astype(np.float64)
        else:
            objective = GOAL * (batch.weights @ batch.request)[pairs.classes]
        upper = np.minimum(fitting[pairs.classes, pairs.nodes], batch.count[pairs.classes])
        self.x = self.model.add_columns(upper, objective=objective)
        self.usable = np.zeros(0, np.int64)
        shape = (len(self.nodes), len(batch.request))
        self.capacity_rows, self.usable_rows = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        self.supply_rows = np.full(len(batch.count), -1, np.int64)
        self.gang_rows = self.supply_rows.copy()
        num_zones = max(int(batch.zone_of.max()) + 1, *(len(spread.present) for spread in batch.spreads), 0)
        self.zone_rows = np.full((len(batch.count), num_zones), -1, np.int64)
        self.count_rows = np.full(batch.num_ranks, -1, np.int64)
        self.wish_row = -1
        self.device_rows: list[tuple[int, int, IntArray]] = []
        """(position of the node, row, devices that a pod of each class counts for)."""
        self._add_supply()
        self._add_capacity()
        self._add_devices()
        self._add_gangs()
        self._add_spreads()
        self.company: list[_Company | _Pull] = []
        for rule in batch.near if self.is_wishes else ():
            if not rule.has_many_places:
                self.company += [_Company(self, rule, place) for place in range(rule.num_places)]
            else:
                self.company += [_Pull(self, rule, k, fitting) for k in np.flatnonzero(rule.gains > 0).tolist()]
        if isinstance(goal, Most):
            for one, columns in self._columns_by(rank):
                if one < goal.rank:
                    self.model.add_row(columns, 1.0, lower=goal.above[one])
            return
        for one, columns in self._columns_by(rank):
            count = goal.counts[one]
            self.count_rows[one] = self.model.add_row(columns, 1.0, lower=count, upper=count)
        if not self.is_wishes:
            if goal.points:
                self.wish_row = self.model.add_row(self.x[wish > 0], wish[wish > 0], lower=goal.points)
            self._add_stranding()

    def _columns_by(self, key: IntArray) -> list[tuple[int, IntArray]]:
        order = np.argsort(key, kind="stable")
        values, starts = np.unique(key[order], return_index=True)
        parts = np.split(order, starts[1:])
        return [(int(v), self.x[part]) for v, part in zip(values, parts, strict=True)]

    def _add_supply(self) -> None:
        for c, columns in self._columns_by(self.pairs.classes):
            self.supply_rows[c] = self.model.add_row(columns, 1.0, upper=float(self.batch.count[c]))

    def _add_capacity(self) -> None:
        for i, columns in self._columns_by(self.position):
            request = self.batch.request[:, self.pairs.classes[columns]]
            for r, need in enumerate(request):
                room = max(float(self.batch.free[r, self.nodes[i]]), 1.0)
                self.capacity_rows[i, r] = self.model.add_row(columns[need > 0], need[need > 0] / room, upper=1.0)

    def _add_devices(self) -> None:
        """What any packing of devices keeps; whether a placement packs in fact is for a look at it."""
        devices = self.batch.devices
        if devices is None:
            return
        taking = np.flatnonzero(devices.count)
        for i, columns in self._columns_by(self.position):
            classes = self.pairs.classes[columns]
            if not devices.count[classes].any():
                continue
            for weight, most in devices.limits(int(self.nodes[i]), taking):
                of_class = np.zeros(len(devices.count), np.int64)
                of_class[taking] = weight
                mine = of_class[classes] > 0
                row = self.model.add_row(columns[mine], of_class[classes[mine]], upper=float(most))
                self.device_rows.append((i, row, of_class))

    def _add_gangs(self) -> None:
        for gang in np.unique(self.batch.gang[self.batch.gang >= 0]):
            whole = self.model.add_columns(np.ones(1))
            for c in np.flatnonzero(self.batch.gang == gang):
                columns = self.x[self.pairs.classes == c]
                values = np.append(np.ones(len(columns)), -float(self.batch.count[c]))
                self.gang_rows[c] = self.model.add_row(np.append(columns, whole), values, lower=0.0, upper=0.0)

    def _add_spreads(self) -> None:
        for spread in self.batch.spreads:
            c = spread.pod_class
            most = int(spread.present.max(initial=0) + self.batch.count[c])
            least = self.model.add_columns(np.array([most]))
            for z, present in enumerate(spread.present):
                columns = self.x[(self.pairs.classes == c) & (self.batch.zone_of[self.pairs.nodes] == z)]
                values = np.append(np.ones(len(columns)), -1.0)
                self.zone_rows[c, z] = self.model.add_row(
                    np.append(columns, least), values, lower=-float(present), upper=float(spread.max_skew - present)
                )

    def _add_stranding(self) -> None:
        """Minus stranding: the usable share of each node, bounded by each of its resources."""
        batch, nodes = self.batch, self.nodes
        worth = (batch.allocatable[:, nodes] * batch.weights[:, None]).sum(axis=0)
        self.usable = self.model.add_columns(np.ones(len(nodes)), objective=GOAL * worth, integer=False)
        for i, columns in self._columns_by(self.position):
            request = batch.request[:, self.pairs.classes[columns]]
            for r in range(len(request)):
                offered = max(int(batch.allocatable[r, nodes[i]]), 1)
                need = request[r] > 0
                values = np.append(request[r][need] / offered, 1.0)
                columns_of_row = np.append(columns[need], self.usable[i])
                upper = float(batch.free[r, nodes[i]] / offered)
                self.usable_rows[i, r] = self.model.add_row(columns_of_row, values, upper=upper)

    def cost(self, value: float) -> float:
        """What the goal counts, of the whole cluster, when the program's objective is ``value``."""
        if self.is_wishes:
            return -value
        batch = self.batch
        outside = np.ones(batch.free.shape[1], np.bool_)
        outside[self.nodes] = False
        free = float((batch.weights @ batch.free[:, self.nodes]).sum())
        return float(batch.stranding_per_node(batch.free)[outside].sum()) + free - value / GOAL

    def profits(self, answer: Answer, slopes: FloatArray) -> FloatArray:
        """``(C, N)`` reduced profit of each pair, in the model or not; -inf where the pod does not fit."""
        batch = self.batch
        duals = np.append(answer.duals, 0.0) / self.scale  # row -1 = no such row
        price = duals[self.supply_rows] + duals[self.gang_rows] + duals[self.count_rows[batch.rank]]
        profit = -slopes - price[:, None] - duals[self.zone_rows][:, batch.zone_of]
        offered = np.maximum(batch.allocatable[:, self.nodes], 1)
        room = np.maximum(batch.free[:, self.nodes], 1)
        rate = duals[self.capacity_rows].T / room + duals[self.usable_rows].T / offered
        if not self.is_wishes:
            rate = rate - batch.weights[:, None]
        inside = -(batch.request.T @ rate) - price[:, None] - duals[self.zone_rows][:, batch.zone_of[self.nodes]]
        if self.is_wishes:
            inside -= slopes[:, self.nodes]
        for i, row, of_class in self.device_rows:
            inside[:, i] -= duals[row] * of_class
        profit[:, self.nodes] = np.where(np.isfinite(slopes[:, self.nodes]), inside, -INFINITY)
        if batch.wish is not None and self.wish_row >= 0:
            profit -= duals[self.wish_row] * batch.wish
        for company in self.company:
            company.price(duals, profit)
        return np.asarray(profit, np.float64)

    def placed(self, x: FloatArray) -> IntArray:
        """``(C, N)`` pods that a solution has."""
        placed = np.zeros(self.batch.most.shape, np.int64)
        placed[self.pairs.classes, self.pairs.nodes] = np.round(x[self.x]).astype(np.int64)
        return placed

    def hint(self, placed: IntArray) -> FloatArray:
        """What the columns are for ``placed`` ``(C, N)``, as far as that is easily said."""
        x = np.zeros(self.model.num_columns)
        x[self.x] = placed[self.pairs.classes, self.pairs.nodes]
        left = self.batch.free - self.batch.request @ placed
        if len(self.usable):
            x[self.usable] = (left[:, self.nodes] / np.maximum(self.batch.allocatable[:, self.nodes], 1)).min(axis=0)
        for company in self.company:
            company.fill(x, placed)
        return x


class _Pull:
    """What pods of one class gain by those of class ``k`` in all places of a rule with many, at most.

    A judged pod has no more company than fits beside it, and a pod that counts is company of no more pods than fit beside it.
    """

    def __init__(self, program: BatchModel, rule: Nearness, k: int, fitting: IntArray) -> None:
        batch, model, pairs, c = program.batch, program.model, program.pairs, rule.pod_class
        self.rule, self.k = rule, k
        self.beside = self._room(batch, rule, c, k, fitting)
        self.company_of = self._room(batch, rule, k, c, fitting, turned=True)
        most, gain = np.array([batch.count[c] * batch.count[k]]), float(rule.gains[k])
        self.total = int(model.add_columns(most, objective=gain, integer=False)[0])
        self.rows = []
        for one, room in ((c, self.beside), (k, self.company_of)):
            mine = (pairs.classes == one) & (room[pairs.nodes] > 0)
            values = np.append(-room[pairs.nodes[mine]].astype(np.float64), 1.0)
            self.rows.append(model.add_row(np.append(program.x[mine], self.total), values, upper=0.0))

    @staticmethod
    def _room(batch: Batch, rule: Nearness, c: int, k: int, fitting: IntArray, *, turned: bool = False) -> IntArray:
        """``(N,)`` pods of class ``k`` that may be in the place of a pod of class ``c`` on each node, itself not."""
        itself = int(c == k)
        of, to = (rule.look, rule.seat) if turned else (rule.seat, rule.look)
        room = sums(fitting[k], to, rule.num_places)[of] - (of == to) * itself
        asked = batch.request[:, k] > 0
        left = batch.free[asked] - batch.request[asked][:, [c]]
        beside = np.min(left // batch.request[asked, k][:, None], axis=0, initial=UNLIMITED)
        alone = (np.bincount(to[to >= 0], minlength=rule.num_places)[of] == 1) & (of == to)
        room = np.where(alone, np.minimum(room, beside), room)
        return np.asarray(np.where(of >= 0, np.clip(room, 0, int(batch.count[k])), 0), np.int64)

    def price(self, duals: FloatArray, profit: FloatArray) -> None:
        """Take the prices of company off ``profit`` ``(C, N)``."""
        profit[self.rule.pod_class] += duals[self.rows[0]] * self.beside
        profit[self.k] += duals[self.rows[1]] * self.company_of

    def fill(self, x: FloatArray, placed: IntArray) -> None:
        """What the column is for ``placed`` ``(C, N)``."""
        rule, own = self.rule, placed[self.rule.pod_class]
        near = sums(placed[self.k], rule.look, rule.num_places)
        itself = (rule.seat == rule.look) * int(self.k == rule.pod_class)
        x[self.total] = float((own * np.where(rule.seat >= 0, near[rule.seat] - itself, 0)).sum())


class _Company:
    """Gains of one rule in one place, as a concave function above the true one: pods that are judged times pods that count.

    Exact at whole numbers where a class repels itself alone (``x (x - 1)`` is convex); else McCormick's bounds on a product.
    """

    def __init__(self, program: BatchModel, rule: Nearness, place: int) -> None:
        self.rule = rule
        self.judged_nodes, self.counted_nodes = rule.seat == place, rule.look == place
        self.parts: list[tuple[int, IntArray, IntArray]] = []
        """Per gain: it, the classes that have it, and the columns of pods that count and of the product."""
        model, pairs, c = program.model, program.pairs, rule.pod_class
        pods = int(program.batch.count[c])
        mine = program.x[(pairs.classes == c) & self.judged_nodes[pairs.nodes]]
        self.judged, self.judged_row = self._sum(model, mine, pods)
        self.rows: list[int] = []
        for gain in np.unique(rule.gains[rule.gains != 0]).tolist():
            members = np.flatnonzero(rule.gains == gain)
            itself = int(rule.gains[c] == gain)
            others = int(program.batch.count[members].sum())
            columns = program.x[np.isin(pairs.classes, members) & self.counted_nodes[pairs.nodes]]
            counted, row = self._sum(model, columns, others)
            self.rows.append(row)
            product = int(model.add_columns(np.array([pods * others]), objective=float(gain), integer=False)[0])
            self.parts.append((gain, members, np.array([counted, product], np.int64)))
            if gain > 0:
                model.add_row(np.array([product, self.judged]), np.array([1.0, float(itself - others)]), upper=0.0)
                model.add_row(np.array([product, counted]), np.array([1.0, -float(pods)]), upper=0.0)
                continue
            least = float(-pods * others)
            values = np.array([1.0, float(itself - others), -float(pods)])
            model.add_row(np.array([product, self.judged, counted]), values, lower=least)
            if itself and np.array_equal(self.judged_nodes, self.counted_nodes):
                for j in range(1, pods):
                    columns = np.array([product, self.judged])
                    model.add_row(columns, np.array([1.0, -2.0 * j]), lower=-float(j * (j + 1)))

    @staticmethod
    def _sum(model: Model, columns: IntArray, most: int) -> tuple[int, int]:
        """A column that is the sum of others, and its row."""
        total = int(model.add_columns(np.array([most]), integer=False)[0])
        row = model.add_row(np.append(columns, total), np.append(np.ones(len(columns)), -1.0), lower=0.0, upper=0.0)
        return total, row

    def price(self, duals: FloatArray, profit: FloatArray) -> None:
        """Take the prices of being judged and of counting here off ``profit`` ``(C, N)``."""
        profit[self.rule.pod_class, self.judged_nodes] -= duals[self.judged_row]
        for (_, members, _), row in zip(self.parts, self.rows, strict=True):
            profit[np.ix_(members, self.counted_nodes)] -= duals[row]

    def fill(self, x: FloatArray, placed: IntArray) -> None:
        """What the columns are for ``placed`` ``(C, N)``."""
        own = placed[self.rule.pod_class]
        x[self.judged] = own[self.judged_nodes].sum()
        for gain, members, (counted, product) in self.parts:
            x[counted] = placed[np.ix_(members, self.counted_nodes)].sum()
            itself = (
                own[self.judged_nodes & self.counted_nodes].sum() if self.rule.gains[self.rule.pod_class] == gain else 0
            )
            x[product] = x[self.judged] * x[counted] - itself


def cheapest(batch: Batch, slopes: FloatArray, counts: tuple[int, ...]) -> float:
    """Least growth of stranding that so many pods of each priority can cause, each looked at alone."""
    least = slopes.min(axis=1)
    total = 0.0
    for rank, count in enumerate(counts):
        mine = np.isfinite(least) & (batch.rank == rank)
        total += float(np.sort(np.repeat(least[mine], batch.count[mine]))[:count].sum())
    return total
