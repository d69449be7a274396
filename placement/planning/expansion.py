"""Which node group an autoscaler should grow: the one with which everybody who waits is housed at the least cost per hour.

An autoscaler grows one group at a time, by as many nodes as it says, for all the pods that it has found to fit there; how many
is not ours to change. So a group costs what those nodes cost, and then the cheapest purchase, of nodes of the other groups,
for the pods that they leave waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from placement.planning.plans import ROUNDING, Deadline
from placement.planning.purchase import Demand, Shape, buy, fluid_bound, fluid_prices
from placement.resources import MAX_AMOUNT, PODS, FloatArray

PART = 0.5
"""Of the time that is left, for each further group that is looked at."""
Request = tuple[tuple[str, int], ...]
"""What a pod asks for, by name of resource."""


@dataclass(frozen=True)
class Offer:
    """``nodes`` nodes that may be added to a group; one offers ``amounts`` and costs ``usd_per_hour``."""

    group: str
    nodes: int
    usd_per_hour: float
    amounts: Mapping[str, int]

    @property
    def cost(self) -> float:
        """USD per hour of all of them."""
        return self.nodes * self.usd_per_hour


@dataclass(frozen=True)
class Costs:
    """USD per hour by number of the offer: at least, and with the purchase that follows, of those that may be the best."""

    least: tuple[float, ...]
    found: Mapping[int, float]

    @property
    def best(self) -> tuple[int, ...]:
        """The cheapest, all where several are equal."""
        top = min(self.found.values())
        return tuple(sorted(n for n, cost in self.found.items() if cost <= top + ROUNDING * max(1.0, top)))


def costs_of(offers: list[Offer], waiting: Mapping[tuple[Request, frozenset[int]], int], deadline: Deadline) -> Costs:
    """What it costs to take up each offer first. ``waiting`` counts pods by what they ask for and by the offers, at least one,
    whose nodes would run them.

    A resource counts only where all who would run have room for it on an empty node: what an autoscaler knows better (devices
    that are given out otherwise) is left to it.
    """
    demand, shapes = _demand(offers, waiting)
    waits = [demand.allowed[:, n].tobytes() for n in range(len(offers))]  # groups that run the same pods leave the same
    least = (np.array([offer.cost for offer in offers]) + _floor(demand, shapes)).tolist()
    bounds: dict[bytes, float] = {}
    after: dict[bytes, float] = {}
    found: dict[int, float] = {}
    bounding = deadline.part(PART)
    queue = [(cost, n) for n, cost in enumerate(least)]
    heapify(queue)
    while queue:
        cost, n = heappop(queue)
        key = waits[n]
        if found and (cost > min(found.values()) or (key not in after and deadline.is_over)):
            break
        if key not in bounds and not bounding.is_over:
            bounds[key] = fluid_bound(_left(demand, n), shapes)
        if offers[n].cost + bounds.get(key, 0.0) > cost:  # dearer than it seemed: others come first
            least[n] = offers[n].cost + bounds[key]
            heappush(queue, (least[n], n))
            continue
        if key not in after:
            after[key] = buy(_left(demand, n), shapes, deadline.part(PART)).cost
        found[n] = offers[n].cost + after[key]
    return Costs(tuple(least), found)


def _floor(demand: Demand, shapes: list[Shape]) -> FloatArray:
    """``(S,)`` USD per hour that it costs at least to house whom each offer leaves waiting, by prices that hold for all who wait:
    what a pod is worth among them a node holds no more of than it costs, whoever else is there."""
    price = fluid_prices(demand, shapes)
    return np.zeros(len(shapes)) if price is None else (price * demand.count) @ ~demand.allowed


def _demand(offers: list[Offer], waiting: Mapping[tuple[Request, frozenset[int]], int]) -> tuple[Demand, list[Shape]]:
    requests = [{PODS: 1, **dict(request)} for request, _ in waiting]
    lanes = sorted(set().union(*requests))
    request = np.array([[r.get(lane, 0) for r in requests] for lane in lanes], np.int64)
    capacity = np.array([[o.amounts.get(lane, 0) for o in offers] for lane in lanes], np.int64)
    capacity[lanes.index(PODS)] = np.maximum(capacity[lanes.index(PODS)], 1)
    runs = np.array([[n in those for n in range(len(offers))] for _, those in waiting], np.bool_)
    count = np.array(list(waiting.values()), np.int64)
    has_room = (request[:, :, None] <= capacity[:, None, :]) | ~runs
    counts = has_room.all(axis=(1, 2)) & (request.astype(np.float64) @ count < MAX_AMOUNT)
    shapes = [Shape(o.group, capacity[counts, n], o.usd_per_hour) for n, o in enumerate(offers)]
    return Demand(request[counts], count, runs), shapes


def _left(demand: Demand, n: int) -> Demand:
    """Whom offer ``n`` leaves waiting. It is none for them: who would run there does already."""
    waits = ~demand.allowed[:, n]
    return Demand(demand.request[:, waits], demand.count[waits], demand.allowed[waits])
