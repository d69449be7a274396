"""Ruin and recreate for purchases: take some nodes away, buy for their pods again, keep what is cheaper.

Column generation leaves a fleet that is right in the large and wasteful in its last nodes, and a small fleet consists of
little else. Each round (Schrimpf et al. 2000) empties a few nodes, wasteful ones more often, and refills them greedily:
the shape and filling that give most worth per USD, at slightly disturbed class prices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from placement.planning.patterns import most_per_cost
from placement.resources import BoolArray, FloatArray, IntArray

PRICE_NOISE, COST_NOISE = 0.08, 0.02
FEWEST_NODES, MOST_NODES = 2, 7
VISITS = 300
"""Search nodes per filling: many quick tries beat a few thorough ones."""

Node = tuple[int, IntArray]
"""A shape's number, and the pods per class ``(C,)`` that its node holds."""


@dataclass(frozen=True)
class Market:
    """Pods and shapes as columns.

    ``request`` ``(R, C)``, ``allowed`` ``(C, S)``, ``capacity`` ``(S, R)``, ``cost`` ``(S,)`` USD per hour, ``pool``
    ``(S,)`` the number of each shape's pool, ``limit`` ``(Q,)`` nodes of a pool at most (infinite for any number),
    ``price`` ``(C,)`` what a pod is worth.
    """

    request: IntArray
    allowed: BoolArray
    capacity: IntArray
    cost: FloatArray
    pool: IntArray
    limit: FloatArray
    price: FloatArray


def refit(
    market: Market, nodes: list[Node], is_over: Callable[[], bool], *, rounds: int = 1_000_000, seed: int = 0
) -> list[Node]:
    """The nodes after ruin and recreate: the same pods, never at a higher cost."""
    random = np.random.default_rng(seed)
    nodes = list(nodes)
    price = np.maximum(market.price, 1e-9 * float(market.price.max(initial=0.0)) + 1e-12)
    wasted = [market.cost[s] - price @ counts for s, counts in nodes]
    for _ in range(rounds):
        if is_over() or not nodes:
            break
        size = int(random.integers(min(FEWEST_NODES, len(nodes)), min(MOST_NODES, len(nodes)) + 1))
        weight = np.maximum(wasted, 0.0) + 0.02 * market.cost.mean() + 1e-12
        gone = random.choice(len(nodes), size, replace=False, p=weight / weight.sum())
        bought = np.bincount(market.pool[[s for s, _ in nodes]], minlength=len(market.limit))
        before = float(sum(market.cost[nodes[i][0]] for i in gone))
        pods = np.sum([nodes[i][1] for i in gone], axis=0)
        bought -= np.bincount(market.pool[[nodes[i][0] for i in gone]], minlength=len(market.limit))
        worth = price * np.exp(random.normal(0.0, PRICE_NOISE, len(price)))
        cost = market.cost * np.exp(random.normal(0.0, COST_NOISE, len(market.cost)))
        fresh = recreate(market, pods, worth, cost, market.limit - bought, before)
        if fresh is not None:
            out = set(gone.tolist())
            kept = [i for i in range(len(nodes)) if i not in out]
            wasted = [wasted[i] for i in kept] + [market.cost[s] - price @ counts for s, counts in fresh]
            nodes = [nodes[i] for i in kept] + fresh
    return nodes


def recreate(
    market: Market, pods: IntArray, worth: FloatArray, cost: FloatArray, limit: FloatArray, budget: float
) -> list[Node] | None:
    """Nodes for ``pods`` ``(C,)`` that cost no more than ``budget``, one by one what is worth most per USD; or None.

    ``worth`` ``(C,)`` and ``cost`` ``(S,)`` decide, the market's own cost is counted; ``limit`` ``(Q,)`` is what is left.
    """
    left, limit, nodes = pods.copy(), limit.copy(), list[Node]()
    while left.any():
        rated = np.where(limit[market.pool] > 0, np.maximum(cost, 1e-12), np.inf)
        s, counts = most_per_cost(worth, market.request, left, market.allowed, market.capacity, rated, limit=VISITS)
        if s < 0:
            return None
        budget -= float(market.cost[s])
        if budget < -1e-9:
            return None
        nodes.append((s, counts))
        left -= counts
        limit[market.pool[s]] -= 1
    return nodes
