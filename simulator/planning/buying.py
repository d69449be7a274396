"""An autoscaler that buys for all pending pods together, instead of one shape after the other.

``ffd`` is what Karpenter's provisioner does (:func:`placement.planning.purchase.first_fit_decreasing`: open nodes
keep every shape that still holds them, and become the cheapest in the end); ``planned`` improves that by ruin and
recreate (:func:`placement.planning.refit.refit`) for a fixed number of rounds, so that replays repeat. ``foreseen``
chooses node by node, with an eye on who is to come.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from placement.devices import DEVICE_UNITS, device_units
from placement.nodes import NodeSpec
from placement.planning import purchase
from placement.planning.patterns import best_pattern
from placement.planning.refit import VISITS, Market, Node, refit
from placement.pods import PodSpec
from placement.resources import PODS, IntArray
from simulator.fleet import Autoscaler, Elastic, Shape

ROUNDS = 60
"""Of ruin and recreate per purchase."""


def autoscaler(settings: Elastic) -> Autoscaler:
    """Who buys, by :attr:`Elastic.buys`."""
    kinds: dict[str, type[Autoscaler]] = {"default": Autoscaler, "foreseen": Foreseer}
    return kinds.get(settings.buys, Buyer)(settings)


def _sells_to(shape: Shape, spec: PodSpec) -> bool:
    """Nodes with devices are bought only for pods that ask for one, as their taints have it."""
    return shape.num_gpus == 0 or spec.gpu is not None


class Buyer(Autoscaler):
    """Orders what a purchase plan for the pending pods says."""

    def order(
        self, pending: Iterable[tuple[PodSpec, int]], time_s: int, came: Iterable[tuple[PodSpec, int]] = ()
    ) -> list[tuple[NodeSpec, int]]:
        """New nodes for (class, how many) pending, with the second each is ready; ``came`` is for who looks ahead."""
        left = self._without_place(pending, time_s)
        return [self._buy(shape, time_s) for shape in self._shapes_for(left, came)] if left else []

    def _without_place(self, pending: Iterable[tuple[PodSpec, int]], time_s: int) -> list[tuple[PodSpec, int]]:
        """Who finds no room on what is booting, and fits on some shape."""
        self._clear_booting(time_s)
        left = []
        for spec, num in pending:
            waiting = num - self._fill_booting(spec, num)
            if waiting and self._holding(spec):
                left.append((spec, waiting))
        return left

    def _shapes_for(self, pending: list[tuple[PodSpec, int]], came: Iterable[tuple[PodSpec, int]]) -> list[Shape]:
        """The shapes to buy; as the plain autoscaler would where limits leave no plan."""
        demand, for_sale = self._demand(pending)
        nodes = self._nodes(demand, for_sale)
        if nodes is None:
            return [shape for spec, _ in pending if (shape := self._cheapest(spec)) is not None][:1]
        return [self.settings.shapes[s] for s, _ in nodes]

    def _nodes(self, demand: purchase.Demand, for_sale: list[purchase.Shape]) -> list[Node] | None:
        bought = purchase.first_fit_decreasing(demand, for_sale)
        if bought is None:
            return None
        nodes: list[Node] = [(f.shape, f.counts) for f in bought.fillings for _ in range(f.nodes)]
        price = purchase.fluid_prices(demand, for_sale) if self.settings.buys != "ffd" else None
        if price is not None:
            market = purchase.market_of(demand, for_sale, price)
            nodes = refit(market, nodes, lambda: False, rounds=ROUNDS, seed=self.ordered)
        return nodes

    def _demand(
        self, pending: list[tuple[PodSpec, int]], *, keep_apart: bool = True
    ) -> tuple[purchase.Demand, list[purchase.Shape]]:
        """Who waits, and what is for sale; with ``keep_apart`` a node holds of a class no more than its own rules let it."""
        shapes = self.settings.shapes
        names = sorted({name for shape in shapes for name, _ in shape.allocatable} - {PODS})
        specs = [spec for spec, _ in pending]
        request = [[spec.amount(name) for spec in specs] for name in names]
        request += [[1] * len(specs), [device_units(spec.gpu) for spec in specs]]
        apart = {i: most for i, spec in enumerate(specs) if keep_apart and (most := self._most_per_node(spec))}
        request += [[int(i == c) for c in range(len(specs))] for i in apart]  # a resource of which a node has so many
        for_sale = [self._on_offer(shape, names, list(apart.values())) for shape in shapes]
        allowed = np.array(
            [[_sells_to(shape, spec) and shape in self._holding(spec) for shape in shapes] for spec in specs]
        )
        count = np.array([num for _, num in pending], np.int64)
        return purchase.Demand(np.array(request, np.int64), count, allowed), for_sale

    def _on_offer(self, shape: Shape, names: list[str], apart: list[int]) -> purchase.Shape:
        amounts = dict(shape.allocatable)
        capacity: IntArray = np.array(
            [*(amounts.get(name, 0) for name in (*names, PODS)), DEVICE_UNITS * shape.num_gpus, *apart], np.int64
        )
        limit = max(shape.limit - self.alive.get(shape.name, 0), 0) if shape.limit else None
        return purchase.Shape(shape.name, capacity, shape.usd_per_hour, limit)


class Foreseer(Buyer):
    """Buys for those who wait, node by node what is worth most per USD, counting what those to come make of the rest.

    As many are expected as came of late; room that they would fill is worth as much as what those who wait fill. So is
    room for more of a class that keeps apart: others come in time, and small nodes for each would cost more.
    """

    def _shapes_for(self, pending: list[tuple[PodSpec, int]], came: Iterable[tuple[PodSpec, int]]) -> list[Shape]:
        wanted, coming = dict(pending), {spec: num for spec, num in came if self._holding(spec)}
        wanted |= {spec: 0 for spec in coming if spec not in wanted}
        both = [(spec, num + coming.get(spec, 0)) for spec, num in wanted.items()]
        demand, for_sale = self._demand(both, keep_apart=False)
        most = np.array([self._most_per_node(spec) or num for spec, num in both], np.int64)
        worth = purchase.fluid_prices(demand, for_sale)
        if worth is None:
            return super()._shapes_for(pending, ())
        waiting = np.array(list(wanted.values()), np.int64)
        chosen = _node_by_node(purchase.market_of(demand, for_sale, worth), waiting, demand.count - waiting, most)
        return [self.settings.shapes[s] for s in chosen] if chosen else super()._shapes_for(pending, ())


def _node_by_node(market: Market, waiting: IntArray, coming: IntArray, most: IntArray) -> list[int]:
    """Shapes that hold ``waiting`` ``(C,)`` in sum, of a class ``most`` ``(C,)`` each; empty where limits do not allow that."""
    price = market.price + 1e-12
    limit, chosen = market.limit.copy(), list[int]()
    while waiting.any():
        best: tuple[float, int, IntArray, IntArray] | None = None
        for s in np.flatnonzero(limit[market.pool] > 0).tolist():
            worth = np.where(market.allowed[:, s], price, 0.0)
            now = best_pattern(worth, market.request, waiting, market.capacity[s], limit=VISITS)
            if not now.counts.any():
                continue
            room = market.capacity[s] - market.request @ now.counts
            later = best_pattern(worth, market.request, coming, room, limit=VISITS)
            value = (now.value + later.value) / max(float(market.cost[s]), 1e-12)
            if best is None or value > best[0]:
                best = value, s, now.counts, later.counts
        if best is None:
            return []
        _, s, now_counts, later_counts = best
        chosen.append(s)
        limit[market.pool[s]] -= 1
        waiting, coming = waiting - np.minimum(now_counts, most), coming - later_counts
    return chosen
