"""Purchase: which node shapes to add, and how many, so that given demand runs at the least cost per hour.

Column generation over ways to fill one node of a shape (Gilmore & Gomory 1961): the master chooses patterns that
cover the demand, pricing finds the filling that is worth most at the master's prices. Farley's bound (1990) turns the
prices of any round into a lower bound on the cost of every fleet, so the plan is certified even when stopped early.
The integer plan comes from diving, from ruin and recreate (:mod:`placement.planning.refit`), and from a mixed-integer program
over all patterns seen. The rival, :func:`first_fit_decreasing`, is what Karpenter's provisioner does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from placement.errors import ConfigError
from placement.planning.partitions import MOST_STATES, VISIT_S, Few, cheapest
from placement.planning.patterns import CHEAPER, Pattern, best_pattern, full_fillings
from placement.planning.plans import ROUNDING, Deadline, Ending
from placement.planning.refit import Market, recreate, refit
from placement.planning.solver import INFINITY, SMOOTHING, Limits, Master, Model, Status, solve_linear
from placement.resources import BoolArray, FloatArray, IntArray

PRICING_SHARE, HOPE_SHARE = 0.4, 0.4
"""Share of the time for generating patterns, and how much of that passes before their bound must be worth it: for many
pods it never beats the fluid bound, and refitting gains more. The rest is for integers."""
DIVING_SHARE, BRIEF_SHARE, PARTED_SHARE, LISTED_SHARE, REFIT_SHARE = 0.2, 0.03, 0.6, 0.8, 0.9
"""Shares of what is then left: to dive, to refit briefly, to prove the best fleet where pods are few, or of all fillings
where these can be listed, and to refit; the program over the patterns seen gets the last of it."""
PRICING_LIMITS = (2_000, 20_000, 200_000, 2_000_000, 20_000_000)
"""Search nodes per filling, from quick to thorough, as the bound tightens."""
LOOSE = 2e-4
MOST_LISTED, MOST_VISITS = 8_000, 2_000_000
"""Fillings of all shapes that are listed, and search nodes for that."""
LEAST_USD = 1e-12
"""An hour: whatever costs less is free."""
LEAST_PRICE = 1e-6
"""Of a pod, as a share of the dearest: a class that costs nothing has to be covered, too."""
PROVED = 1e-8
"""A bound this near is the cost: fillings are priced with a slack of a billionth, once per limit."""
MOST_SHARE = 1e6
"""Of a resource's demand that one node counts for: GLOP goes round without end where it is 10^14 times the demand."""
PRICING_S, ROUND_S = 2e-4, 1e-4
"""On a clock of work, for each shape a filling that is priced, and a round of ruin and recreate; measured, and rough."""
START_SHARE, STARTS, START_NOISE = 0.5, 300, 1.0
"""Of the time, for a first fleet where shapes run out; how often that is tried, and how much prices vary."""


@dataclass(frozen=True)
class Shape:
    """A node for sale. ``capacity`` ``(R,)`` is what pods get: system reserve and DaemonSets already taken off.

    ``interruption_usd_per_hour`` is what interruptions of a spot node are expected to cost per hour; it counts in the
    choice, not on the bill. ``limit`` None = any number; shapes of the same ``pool`` share one limit (no name = a pool of
    its own).
    """

    name: str
    capacity: IntArray
    usd_per_hour: float
    limit: int | None = None
    spot: bool = False
    interruption_usd_per_hour: float = 0.0
    pool: str = ""

    def __post_init__(self) -> None:
        for price in (self.usd_per_hour, self.interruption_usd_per_hour):
            if not (np.isfinite(price) and price >= 0):
                raise ConfigError(f"shape {self.name}: price {price} USD/h is not usable; give a number >= 0")

    @property
    def cost(self) -> float:
        """USD per hour, with the expected cost of interruptions."""
        return self.usd_per_hour + self.interruption_usd_per_hour


@dataclass(frozen=True)
class Demand:
    """Pods to run: ``request`` ``(R, C)``, ``count`` ``(C,)``; ``allowed`` ``(C, S)``, shapes that a class accepts."""

    request: IntArray
    count: IntArray
    allowed: BoolArray


@dataclass(frozen=True)
class Filling:
    """``nodes`` nodes of shape number ``shape``, each filled with ``counts`` ``(C,)`` pods at most."""

    shape: int
    counts: IntArray
    nodes: int


@dataclass(frozen=True)
class Bought:
    """What to buy; ``cost`` in USD per hour with interruption risk, and the least that any fleet can cost."""

    fillings: tuple[Filling, ...]
    cost: float
    bound: float
    ending: Ending

    @property
    def gap_share(self) -> float:
        """Certified distance from the cheapest fleet, as a share of the bound."""
        return (self.cost - self.bound) / self.bound if self.bound > 0 else 0.0

    def nodes(self, num_shapes: int) -> IntArray:
        """``(S,)`` nodes per shape."""
        result = np.zeros(num_shapes, np.int64)
        for filling in self.fillings:
            result[filling.shape] += filling.nodes
        return result


def pools(shapes: list[Shape]) -> tuple[IntArray, FloatArray]:
    """``(S,)`` number of each shape's pool, and ``(Q,)`` nodes of a pool at most (infinite for any number)."""
    number: dict[tuple[str, int], int] = {}
    pool_of = [
        number.setdefault((shape.pool, -1) if shape.pool else ("", s), len(number)) for s, shape in enumerate(shapes)
    ]
    most = np.full(len(number), np.inf)
    for q, shape in zip(pool_of, shapes, strict=True):
        most[q] = min(most[q], np.inf if shape.limit is None else shape.limit)
    return np.array(pool_of, np.int64), most


def unplaceable(demand: Demand, shapes: list[Shape]) -> list[int]:
    """Classes that fit on no shape they accept, with nothing else on the node."""
    wrong = []
    for c in np.flatnonzero(demand.count > 0):
        fits = [
            demand.allowed[c, s] and (demand.request[:, c] <= shape.capacity).all() for s, shape in enumerate(shapes)
        ]
        if not any(fits):
            wrong.append(int(c))
    return wrong


def violations(demand: Demand, shapes: list[Shape], plan: Bought) -> list[str]:
    """What an independent look finds wrong with a plan; empty when it is valid."""
    wrong = []
    covered = np.zeros(len(demand.count), np.int64)
    for filling in plan.fillings:
        shape = shapes[filling.shape]
        if (demand.request @ filling.counts > shape.capacity).any():
            wrong.append(f"a node of shape {shape.name} is overfull")
        if (filling.counts[~demand.allowed[:, filling.shape]] > 0).any():
            wrong.append(f"a pod is on shape {shape.name}, which its rules exclude")
        covered += filling.nodes * filling.counts
    wrong += [f"class {c} lacks {demand.count[c] - covered[c]} pods" for c in np.flatnonzero(covered < demand.count)]
    keys = [shape.pool or (number,) for number, shape in enumerate(shapes)]
    for key, shape in zip(keys, shapes, strict=True):
        number = sum(filling.nodes for filling in plan.fillings if keys[filling.shape] == key)
        if shape.limit is not None and number > shape.limit:
            wrong.append(f"{number} nodes of shape {shape.name}, limit {shape.limit}")
    cost = sum(
        f.nodes * (shapes[f.shape].usd_per_hour + shapes[f.shape].interruption_usd_per_hour) for f in plan.fillings
    )
    if abs(cost - plan.cost) > 1e-9 * cost:
        wrong.append(f"the plan says it costs {plan.cost:g} USD/h, its nodes cost {cost:g}")
    if plan.bound > plan.cost * (1 + 1e-9) + 1e-12:
        wrong.append(f"the bound {plan.bound:g} is above the cost {plan.cost:g}")
    return wrong


class _Columns:
    """The restricted master: minimise cost over the patterns known so far (as a maximisation of minus cost)."""

    def __init__(self, demand: Demand, shapes: list[Shape]) -> None:
        self.demand, self.shapes = demand, shapes
        num_classes = len(demand.count)
        self.pool_of, self.most = pools(shapes)
        low = np.concatenate([demand.count, np.full(len(self.most), -INFINITY)]).astype(np.float64)
        most = np.where(np.isfinite(self.most), self.most, INFINITY)
        self._master = Master(low, np.concatenate([np.full(num_classes, INFINITY), most]))
        self.patterns: list[tuple[int, IntArray]] = []
        self._known: set[tuple[int, bytes]] = set()

    def restrict(self, count: IntArray) -> None:
        """From now on only ``count`` ``(C,)`` pods are to be covered."""
        self.demand = Demand(self.demand.request, count, self.demand.allowed)
        for c, pods in enumerate(count):
            self._master.require(c, float(pods))

    def price(self, shape: int, price: FloatArray, limit: int) -> Pattern:
        """The filling of one node of a shape that is worth most."""
        demand = self.demand
        value = np.where(demand.allowed[:, shape], price, 0.0)
        return best_pattern(value, demand.request, demand.count, self.shapes[shape].capacity, limit=limit)

    def add(self, shape: int, counts: IntArray) -> bool:
        """True when the pattern is new."""
        key = (shape, counts.tobytes())
        if key in self._known or not counts.any():
            return False
        self._known.add(key)
        rows = np.flatnonzero(counts)
        values = np.append(counts[rows], 1).astype(np.float64)
        pool = len(self.demand.count) + self.pool_of[shape]
        self._master.add(np.append(rows, pool), values, objective=-self.shapes[shape].cost)
        self.patterns.append((shape, counts))
        return True

    def solve(self) -> tuple[FloatArray, FloatArray, FloatArray] | None:
        """Class prices ``(C,)`` and rents of shapes' pools ``(S,)``, both >= 0, and how often each pattern is used."""
        answer = self._master.solve()
        if answer.status != Status.OPTIMAL:
            return None
        size = len(self.demand.count)
        return np.maximum(0.0, -answer.duals[:size]), np.maximum(0.0, answer.duals[size:])[self.pool_of], answer.x

    def bound(self, price: FloatArray, uppers: list[float]) -> float:
        """Least cost of any fleet, proved by these prices: Lagrangian with limits, Farley's scaling without."""
        worth = float(price @ self.demand.count)
        excess = 1.0
        upper = np.array(uppers) * (1 + 1e-9)
        cost = np.array([shape.cost for shape in self.shapes])
        over = upper - cost
        for q, most in enumerate(self.most.tolist()):
            mine = (self.pool_of == q) & (over > 0)
            if not mine.any():
                continue
            most_over, most_share = float(over[mine].max()), float((1 - cost[mine] / upper[mine]).max())
            if np.isfinite(most) and most * most_over < worth * most_share:
                worth -= most * most_over
            else:
                scale = upper[mine] / np.maximum(cost[mine], 1e-300)
                excess = max(excess, min(float(scale.max()), INFINITY))
        return worth / excess if worth > 0 else 0.0


def buy(demand: Demand, shapes: list[Shape], deadline: Deadline, *, seed: int = 0) -> Bought:
    """Cheapest fleet for the demand that the deadline allows, with a proved lower bound on every fleet's cost.

    Without fillings none was found: that there is none is proved only where the ending is ``INFEASIBLE``.
    """
    if not shapes:
        raise ConfigError("there is nothing to buy: the price book lists no shape; add at least one")
    if not demand.count.any():
        return Bought((), 0.0, 0.0, Ending.OPTIMAL)
    unit = _unit(demand, shapes)

    def note(cost: float, bound: float | None) -> None:
        deadline.note(cost * unit, None if bound is None else bound * unit)

    scaled = [
        replace(s, usd_per_hour=s.usd_per_hour / unit, interruption_usd_per_hour=s.interruption_usd_per_hour / unit)
        for s in shapes
    ]
    found = _bought(demand, scaled, replace(deadline, note=note), seed)
    return replace(found, cost=found.cost * unit, bound=found.bound * unit)


def _unit(demand: Demand, shapes: list[Shape]) -> float:
    """USD per hour, a power of two, of about the least that a fleet can cost: rounding is to be small beside it."""
    capacity, cost = np.array([shape.capacity for shape in shapes]), np.array([shape.cost for shape in shapes])
    some = np.flatnonzero(demand.count > 0)
    fits = demand.allowed[some] & (demand.request[:, some].T[:, None, :] <= capacity).all(axis=2)
    dearest = float(np.where(fits.any(axis=1), np.where(fits, cost, np.inf).min(axis=1), 0.0).max())
    return math.ldexp(1.0, math.frexp(dearest)[1]) if dearest > LEAST_USD else 1.0


def _bought(demand: Demand, shapes: list[Shape], deadline: Deadline, seed: int) -> Bought:
    """As :func:`buy`, where what cannot be avoided costs about 1."""
    start = _start(demand, shapes, deadline.part(START_SHARE), seed)
    if start is None:
        is_proved = bool(unplaceable(demand, shapes)) or is_beyond_limits(demand, shapes)
        return Bought((), 0.0, 0.0, Ending.INFEASIBLE if is_proved else deadline.ending)
    columns = _Columns(demand, shapes)
    for filling in start.fillings:
        columns.add(filling.shape, filling.counts)
    pricing, fluid = deadline.part(PRICING_SHARE), fluid_bound(demand, shapes)
    bound, used = _generate(columns, pricing.part(HOPE_SHARE))
    if bound > fluid * (1 + 1e-9) and not pricing.is_over:
        further, used = _generate(columns, pricing)
        bound = max(bound, further)
    best = start
    deadline.note(best.cost, min(bound, best.cost))
    dived = _dive(columns, used, deadline.part(DIVING_SHARE))
    best = dived if dived is not None and dived.cost < best.cost else best
    deadline.note(best.cost, min(bound, best.cost))
    stages = (
        (_refitted, BRIEF_SHARE),
        (_parted, PARTED_SHARE),
        (_listed_only, LISTED_SHARE),
        (_refitted, REFIT_SHARE),
        (_integers, 1.0),
    )
    for improve, share in stages:
        if deadline.is_over or best.cost <= bound * (1 + PROVED):
            break
        best, bound = improve(columns, best, bound, deadline.part(share), seed)
        deadline.note(best.cost, min(bound, best.cost))
    bound = min(bound, best.cost)
    done = best.cost <= bound * (1 + PROVED)
    return Bought(best.fillings, best.cost, bound, Ending.OPTIMAL if done else deadline.ending)


def _start(demand: Demand, shapes: list[Shape], deadline: Deadline, seed: int) -> Bought | None:
    """A first fleet: first-fit decreasing, or, where that runs into a limit, node by node what is worth most per USD.

    Where that runs into a limit, too, it is tried again at disturbed prices.
    """
    start = first_fit_decreasing(demand, shapes)
    if start is not None or unplaceable(demand, shapes):
        return start
    size = (demand.request / np.maximum(np.array([s.capacity for s in shapes]).max(axis=0), 1)[:, None]).max(axis=0)
    market, random = market_of(demand, shapes, size), np.random.default_rng(seed)
    nodes = recreate(market, demand.count, market.price, market.cost, market.limit, np.inf)
    for _ in range(STARTS):
        if nodes is not None or deadline.is_over:
            break
        worth = market.price * np.exp(random.normal(0.0, START_NOISE, len(market.price)))
        cost = market.cost * np.exp(random.normal(0.0, START_NOISE, len(market.cost)))
        nodes = recreate(market, demand.count, worth, cost, market.limit, np.inf)
    if nodes is None:
        return None
    fillings = [Filling(s, counts, 1) for s, counts in nodes]
    return Bought(tuple(fillings), _cost(shapes, fillings), 0.0, Ending.DEADLINE)


def _generate(columns: _Columns, deadline: Deadline, *, levels: int = len(PRICING_LIMITS)) -> tuple[float, FloatArray]:
    """Patterns until nothing improves or time is over; the best bound, and the master's last solution.

    Pricing starts quick everywhere; a shape is priced more thoroughly only when it is what holds the bound down.
    """
    shapes = columns.shapes
    fluid = _fluid(columns.demand, shapes)
    best_price, bound = (None, 0.0) if fluid is None else fluid
    level = [0] * len(shapes)
    while True:
        solved = columns.solve()
        if solved is None:
            return bound, np.zeros(len(columns.patterns))
        price, rent, used = solved
        if deadline.is_over:
            return bound, used
        found, uppers = False, [0.0] * len(shapes)
        smooth = price if best_price is None else SMOOTHING * best_price + (1 - SMOOTHING) * price
        for point in (smooth, price):
            patterns = [columns.price(s, point, PRICING_LIMITS[level[s]]) for s in range(len(shapes))]
            deadline.spend(PRICING_S * len(shapes))
            uppers = [pattern.upper for pattern in patterns]
            for s, pattern in enumerate(patterns):
                if float(price @ pattern.counts) > shapes[s].cost + rent[s] + 1e-9:
                    found |= columns.add(s, pattern.counts)
            proved = columns.bound(point, uppers)
            if proved > bound:
                bound, best_price = proved, point
            if found:
                break
        if not found:
            loose = [
                s
                for s, shape in enumerate(shapes)
                if level[s] + 1 < levels and uppers[s] > (shape.cost + rent[s]) * (1 + LOOSE)
            ]
            for s in loose:
                level[s] += 1
            if not loose:
                return bound, used


def fluid_prices(demand: Demand, shapes: list[Shape]) -> FloatArray | None:
    """``(C,)`` class prices when pods could be cut at will; no filling is worth more than its node, and the rent of its
    pool, at these prices.

    They bound every fleet from the start, and are where the prices of the master are drawn to (stabilisation).
    """
    fluid = _fluid(demand, shapes)
    return None if fluid is None else fluid[0]


def fluid_bound(demand: Demand, shapes: list[Shape]) -> float:
    """USD per hour that any fleet costs at least, if pods could be cut at will: quick, and valid for every demand."""
    fluid = _fluid(demand, shapes)
    return 0.0 if fluid is None else fluid[1]


def is_beyond_limits(demand: Demand, shapes: list[Shape]) -> bool:
    """Whether all nodes that may be bought hold less than the pods ask for, even if pods could be cut at will."""
    need = (demand.request @ demand.count).astype(np.float64)
    lanes = need > 0
    return bool(lanes.any()) and _fluid_master(need, lanes, shapes).solve().status == Status.INFEASIBLE


def _fluid(demand: Demand, shapes: list[Shape]) -> tuple[FloatArray, float] | None:
    need = (demand.request @ demand.count).astype(np.float64)
    lanes = need > 0
    if not lanes.any():
        return None
    pool_of, most = pools(shapes)
    num_lanes, limited = int(lanes.sum()), np.flatnonzero(np.isfinite(most))
    share = _shares(need, lanes, shapes)
    answer = _fluid_master(need, lanes, shapes).solve()
    if answer.status != Status.OPTIMAL:
        return None
    worth = np.maximum(0.0, -answer.duals[:num_lanes])
    rent = np.zeros(len(most))
    rent[limited] = np.maximum(0.0, answer.duals[num_lanes:])
    paid = np.array([shape.cost for shape in shapes]) + rent[pool_of]
    over = float(
        (share @ worth / np.maximum(paid, 1e-12)).max(initial=1.0)
    )  # rounding must not make the bound too good
    price = np.asarray((worth / need[lanes]) @ demand.request[lanes] / max(over, 1.0), np.float64)
    return price, max(0.0, float(price @ demand.count) - float(rent[limited] @ most[limited]))


def _shares(need: FloatArray, lanes: BoolArray, shapes: list[Shape]) -> FloatArray:
    """``(S, lanes)`` what a node holds of ``need``, capped far above all of it: whole nodes hold enough all the same."""
    return np.minimum(np.stack([shape.capacity[lanes] / need[lanes] for shape in shapes]), MOST_SHARE)


def _fluid_master(need: FloatArray, lanes: BoolArray, shapes: list[Shape]) -> Master:
    """How many nodes of each shape hold ``need`` at the least cost: first the rows of the resources, then of limits."""
    pool_of, most = pools(shapes)
    num_lanes, limited = int(lanes.sum()), np.flatnonzero(np.isfinite(most))
    low = np.concatenate([np.ones(num_lanes), np.full(len(limited), -INFINITY)])
    master = Master(low, np.concatenate([np.full(num_lanes, INFINITY), most[limited]]))
    share = _shares(need, lanes, shapes)
    for values, shape, pool in zip(share, shapes, pool_of, strict=True):
        rows = np.concatenate([np.flatnonzero(values), num_lanes + np.flatnonzero(limited == pool)])
        master.add(
            rows, np.append(values[values != 0], np.ones(len(rows) - np.count_nonzero(values))), objective=-shape.cost
        )
    return master


def _dive(columns: _Columns, used: FloatArray, deadline: Deadline) -> Bought | None:
    """Fix whole parts of the master's solution, or its largest part, generate for what is left, until nothing is."""
    shapes, whole = columns.shapes, columns.demand
    left = whole.count.copy()
    fixed: list[Filling] = []
    while left.any() and not deadline.is_over:
        chosen = np.floor(used + ROUNDING).astype(np.int64)
        if not chosen.any():
            chosen[int(np.argmax(used))] = 1
        for i in np.flatnonzero(chosen):
            shape, counts = columns.patterns[i]
            fixed.append(Filling(shape, counts, int(chosen[i])))
            left = np.maximum(left - chosen[i] * counts, 0)
        columns.restrict(left)
        if left.any():
            _, used = _generate(columns, deadline.part(0.1), levels=1)
            if not used.any():
                break
    columns.restrict(whole.count)
    rest = first_fit_decreasing(Demand(whole.request, left, whole.allowed), shapes)
    if rest is None:
        return None
    fixed += rest.fillings
    return Bought(tuple(fixed), _cost(shapes, fixed), 0.0, Ending.DEADLINE) if _within_limits(shapes, fixed) else None


def _cost(shapes: list[Shape], fillings: list[Filling]) -> float:
    return float(sum(f.nodes * shapes[f.shape].cost for f in fillings))


def _within_limits(shapes: list[Shape], fillings: list[Filling]) -> bool:
    bought = Bought(tuple(fillings), 0.0, 0.0, Ending.DEADLINE).nodes(len(shapes))
    pool_of, most = pools(shapes)
    return bool((np.bincount(pool_of, bought, len(most)) <= most).all())


def market_of(demand: Demand, shapes: list[Shape], price: FloatArray) -> Market:
    """What ruin and recreate works on: the demand, the shapes for sale, and a price of each class ``(C,)``."""
    pool_of, most = pools(shapes)
    return Market(
        demand.request,
        demand.allowed,
        np.array([shape.capacity for shape in shapes]),
        np.array([shape.cost for shape in shapes]),
        pool_of,
        most,
        price,
    )


def _refitted(columns: _Columns, best: Bought, bound: float, deadline: Deadline, seed: int) -> tuple[Bought, float]:
    """The plan after ruin and recreate; its patterns join the others."""
    demand, shapes = columns.demand, columns.shapes
    solved = columns.solve()
    if solved is None:
        return best, bound

    def is_over() -> bool:
        deadline.spend(ROUND_S * len(shapes))
        return deadline.is_over

    nodes = refit(market_of(demand, shapes, solved[0]), _exactly(demand, best), is_over, seed=seed)
    number: dict[tuple[int, bytes], int] = {}
    counts_of = {counts.tobytes(): counts for _, counts in nodes}
    for s, counts in nodes:
        columns.add(s, counts)
        number[s, counts.tobytes()] = number.get((s, counts.tobytes()), 0) + 1
    fillings = tuple(Filling(s, counts_of[key], n) for (s, key), n in number.items())
    plan = Bought(fillings, _cost(shapes, list(fillings)), 0.0, Ending.DEADLINE)
    return (plan if plan.cost < best.cost and not violations(demand, shapes, plan) else best), bound


def _exactly(demand: Demand, plan: Bought) -> list[tuple[int, IntArray]]:
    """One entry per node, without the pods that patterns cover beyond the demand; nodes left empty go."""
    over = sum((f.nodes * f.counts for f in plan.fillings), np.zeros_like(demand.count)) - demand.count
    nodes = []
    for filling in plan.fillings:
        for _ in range(filling.nodes):
            spare = np.minimum(over, filling.counts)
            over = over - spare
            if (filling.counts > spare).any():
                nodes.append((filling.shape, filling.counts - spare))
    return nodes


def _listed_only(columns: _Columns, best: Bought, bound: float, deadline: Deadline, seed: int) -> tuple[Bought, float]:
    """The program over all fillings that matter, where these can be listed: small purchases end here."""
    listed = _listed(columns, best, deadline)
    if listed is None:
        return best, bound
    best, proved = _chosen(columns, listed, best, deadline, seed)
    return best, max(bound, proved)


def _integers(columns: _Columns, best: Bought, bound: float, deadline: Deadline, seed: int) -> tuple[Bought, float]:
    """The program over the patterns seen so far."""
    return _chosen(columns, columns.patterns, best, deadline, seed)[0], bound


def _parted(columns: _Columns, best: Bought, bound: float, deadline: Deadline, _seed: int) -> tuple[Bought, float]:
    """The cheapest of all fleets, where pods are so few that what may be left of them can be listed, and no limit counts."""
    demand, shapes = columns.demand, columns.shapes
    some = np.flatnonzero(demand.count > 0)
    is_few = float(np.prod(demand.count[some] + 1.0)) <= MOST_STATES and (columns.most >= demand.count.sum()).all()
    proved = _proved_prices(columns) if is_few else None
    if proved is None or proved[1].any():
        return best, bound
    capacity, cost = np.array([shape.capacity for shape in shapes]), np.array([shape.cost for shape in shapes])
    few = Few(demand.request[:, some], demand.count[some], demand.allowed[some], capacity, cost, proved[0][some])
    nodes, is_proved = cheapest(few, best.cost, deadline)
    if nodes is not None:
        fillings = []
        for s, counts in nodes:
            whole = np.zeros_like(demand.count)
            whole[some] = counts
            fillings.append(Filling(s, whole, 1))
        best = Bought(tuple(fillings), _cost(shapes, fillings), 0.0, Ending.DEADLINE)
    return best, max(bound, best.cost * (1 - CHEAPER)) if is_proved else bound


def _proved_prices(columns: _Columns) -> tuple[FloatArray, FloatArray] | None:
    """Prices ``(C,)`` at which no filling is worth more than its node and the rent of its pool, and rents by shape ``(S,)``;
    None where there are none above 0."""
    demand, shapes = columns.demand, columns.shapes
    solved = columns.solve()
    if solved is None:
        return None
    price, rent, _ = solved
    price = np.where(demand.count > 0, np.maximum(price, LEAST_PRICE * price.max()), 0.0)
    paid = np.array([shape.cost for shape in shapes]) + rent
    uppers = np.array([columns.price(s, price, PRICING_LIMITS[0]).upper for s in range(len(shapes))])
    price /= max(1.0, float((uppers / np.maximum(paid, 1e-12)).max())) * (1 + 1e-9)
    return None if (price[demand.count > 0] <= LEAST_PRICE**2).any() else (price, rent)


def _listed(columns: _Columns, best: Bought, deadline: Deadline) -> list[tuple[int, IntArray]] | None:
    """All fillings that a fleet cheaper than ``best`` is made of, made full; None where that is not known or too many.

    At :func:`_proved_prices` a fleet costs the worth of the demand, less all rents, and what its fillings lack of theirs. So
    none of them lacks more than ``best`` is above that.
    """
    demand, shapes = columns.demand, columns.shapes
    proved = _proved_prices(columns)
    if proved is None:
        return None
    price, rent = proved
    rents = rent[np.unique(columns.pool_of, return_index=True)[1]]
    worth = float(price @ demand.count) - float(rents[rents > 0] @ columns.most[rents > 0])
    limit, listed = MOST_VISITS, list[tuple[int, IntArray]]()
    for s, shape in enumerate(shapes):
        least = shape.cost + float(rent[s]) - (best.cost - worth) * (1 + 1e-6) - 1e-9
        value = np.where(demand.allowed[:, s], price, 0.0)
        room = MOST_LISTED - len(listed)
        found, limit = full_fillings(
            value, demand.request, demand.count, shape.capacity, least=least, most=room, limit=limit
        )
        if found is None:
            break
        listed += [(s, counts) for counts in found]
    deadline.spend(VISIT_S * (MOST_VISITS - limit))
    return listed if limit > 0 else None


def _chosen(
    columns: _Columns, patterns: list[tuple[int, IntArray]], best: Bought, deadline: Deadline, seed: int
) -> tuple[Bought, float]:
    """The best fleet of given patterns, by a mixed-integer program, or ``best``; and what none of them is cheaper than."""
    demand, shapes = columns.demand, columns.shapes
    model = Model()
    shape_of, counts_of = np.array([s for s, _ in patterns], np.int64), np.array([counts for _, counts in patterns])
    most = np.ceil(demand.count / np.maximum(counts_of, 1)).max(axis=1, where=counts_of > 0, initial=1)
    n = model.add_columns(most, objective=-np.array([shape.cost for shape in shapes])[shape_of])
    for c in np.flatnonzero(demand.count > 0):
        uses = np.flatnonzero(counts_of[:, c])
        model.add_row(n[uses], counts_of[uses, c], lower=float(demand.count[c]))
    pool_of = columns.pool_of[shape_of]
    for q in np.flatnonzero(np.isfinite(columns.most)):
        model.add_row(n[pool_of == q], 1.0, upper=float(columns.most[q]))
    limits = Limits(max(deadline.left_s, 1e-3), seed, gap_share=PROVED, work=deadline.work)
    answer = solve_linear(model, limits, hint=_hint(patterns, best))
    bound = min(best.cost, -answer.bound)
    if not answer.has_solution or -answer.value >= best.cost - 1e-9:
        return best, bound
    whole = np.round(answer.x).astype(np.int64)
    fillings = [Filling(s, a, int(k)) for (s, a), k in zip(patterns, whole, strict=True) if k > 0]
    plan = Bought(tuple(fillings), _cost(shapes, fillings), 0.0, Ending.DEADLINE)
    return (best if violations(demand, shapes, plan) else plan), bound


def _hint(patterns: list[tuple[int, IntArray]], best: Bought) -> FloatArray | None:
    """The plan at hand in terms of the patterns, when all of its fillings are among them."""
    index = {(s, a.tobytes()): i for i, (s, a) in enumerate(patterns)}
    x = np.zeros(len(patterns))
    for filling in best.fillings:
        i = index.get((filling.shape, filling.counts.tobytes()))
        if i is None:
            return None
        x[i] += filling.nodes
    return x


def first_fit_decreasing(demand: Demand, shapes: list[Shape]) -> Bought | None:
    """The rival: largest pod first, into the first open node that some shape could still hold; then the cheapest shape.

    As in Karpenter's provisioner, an open node keeps all shapes that still hold what is on it, and becomes the cheapest
    of them in the end. None when a class fits on no shape.
    """
    if unplaceable(demand, shapes):
        return None
    capacity = np.array([shape.capacity for shape in shapes])
    total = np.maximum(capacity.max(axis=0), 1)
    order = np.argsort(-(demand.request / total[:, None]).max(axis=0), kind="stable")
    opened = _Opened(capacity, len(demand.count))
    for c in order:
        opened.put(int(c), demand.request[:, c], int(demand.count[c]), demand.allowed[c])
    options, contents = opened.options, opened.contents
    cost = np.array([shape.cost for shape in shapes])
    fillings: dict[tuple[int, bytes], int] = {}
    arrays: dict[bytes, IntArray] = {}
    pool_of, most = pools(shapes)
    for option, content in zip(options, contents, strict=True):
        usable = option & (most[pool_of] > 0)
        if not usable.any():
            return None
        s = int(np.argmin(np.where(usable, cost, np.inf)))
        most[pool_of[s]] -= 1
        arrays[content.tobytes()] = content
        fillings[s, content.tobytes()] = fillings.get((s, content.tobytes()), 0) + 1
    result = [Filling(s, arrays[key], n) for (s, key), n in fillings.items()]
    return Bought(tuple(result), _cost(shapes, result), 0.0, Ending.DEADLINE)


class _Opened:
    """Open nodes: ``loads`` ``(n, R)``, ``options`` ``(n, S)`` shapes that still hold them, ``contents`` ``(n, C)``."""

    def __init__(self, capacity: IntArray, num_classes: int) -> None:
        self._capacity = capacity
        self.loads = np.zeros((0, capacity.shape[1]), np.int64)
        self.options = np.zeros((0, len(capacity)), np.bool_)
        self.contents = np.zeros((0, num_classes), np.int64)

    def put(self, c: int, request: IntArray, count: int, allowed: BoolArray) -> None:
        """``count`` pods of one class, each into the first node that takes it: replicas are alike, so at once."""
        need = request > 0
        left = self._capacity[None, :, need] - self.loads[:, None, need]
        room = np.where(self.options & allowed, (left // request[need]).min(axis=2, initial=count), -1)
        take = np.maximum(room.max(axis=1, initial=0), 0)
        take = np.minimum(take, np.maximum(count - (np.cumsum(take) - take), 0))
        self._add(c, request, take, allowed)
        count -= int(take.sum())
        if count:
            empty = (self._capacity[:, need] // request[need]).min(axis=1, initial=count)
            most = int(np.where(allowed, empty, 0).max())
            new = -(-count // most)
            self._open(new)
            take = np.append(np.zeros(len(take), np.int64), np.full(new, most))
            take[-1] = count - most * (new - 1)
            self._add(c, request, take, allowed)

    def _open(self, number: int) -> None:
        self.loads = np.concatenate([self.loads, np.zeros((number, self.loads.shape[1]), np.int64)])
        self.options = np.concatenate([self.options, np.ones((number, self.options.shape[1]), np.bool_)])
        self.contents = np.concatenate([self.contents, np.zeros((number, self.contents.shape[1]), np.int64)])

    def _add(self, c: int, request: IntArray, take: IntArray, allowed: BoolArray) -> None:
        self.contents[:, c] += take
        self.loads += np.outer(take, request)
        fits = (self.loads[:, None, :] <= self._capacity[None, :, :]).all(axis=2) & allowed
        self.options = np.where((take > 0)[:, None], self.options & fits, self.options)
