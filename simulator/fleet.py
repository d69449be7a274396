"""Fleets that grow and shrink: shapes with prices, boot delay, idle timeout and limits.

The autoscaler is the same for every strategy, so that differences in USD come from placement alone. It answers
pods that fit nowhere: what is already booting is filled first (first fit), the rest gets new nodes of the shape
that is cheapest per offered core; of those that hold the pod when empty, every hard rule included (as
cluster-autoscaler simulates a template of each node group; it has no label but its host name). Pods of one class that
keep apart node by node are counted so there, too; spreading, and rules between classes, are not: who shares a node in
thought and must not is bought for when that has come, a boot later. For a pod that no shape holds, nothing is bought. A
node that stays empty for the idle timeout goes. Every shape's ``allocatable`` has system reserve and DaemonSet requests
taken off already.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from placement.errors import ConfigError
from placement.nodes import NodeSpec
from placement.owners import HOSTNAME
from placement.pods import PodSpec
from placement.rates import MOST_USD
from placement.resources import CPU, NOT_FEASIBLE, PODS
from placement.rules import Match
from placement.state import ClusterState

PURCHASES = ("default", "ffd", "planned", "foreseen")


@dataclass(frozen=True)
class Shape:
    """A node type that can be bought by the second."""

    name: str
    allocatable: tuple[tuple[str, int], ...]
    """After system reserve and DaemonSets; sorted by resource name."""
    usd_per_hour: float
    spot_usd_per_hour: float = 0.0
    """0 = not sold as spot."""
    num_gpus: int = 0
    gpu_model: str = ""
    boot_s: int = 60
    limit: int = 0
    """Most nodes of this shape at once; 0 = no limit."""

    def __post_init__(self) -> None:
        for what, price in (("usd_per_hour", self.usd_per_hour), ("spot_usd_per_hour", self.spot_usd_per_hour)):
            if not 0 <= price < MOST_USD:  # also false for NaN
                raise ConfigError(f"shape {self.name}: {what} is {price}; prices are finite and >= 0")

    def node(self, name: str, *, spot: bool = False) -> NodeSpec:
        """A node of this shape."""
        return NodeSpec(
            name,
            self.allocatable,
            labels=((HOSTNAME, name),),
            num_gpus=self.num_gpus,
            gpu_model=self.gpu_model,
            shape=self.name,
            spot=spot,
        )

    def price(self, *, spot: bool) -> float:
        """USD per hour."""
        return self.spot_usd_per_hour if spot and self.spot_usd_per_hour else self.usd_per_hour


@dataclass(frozen=True)
class Elastic:
    """The autoscaler's settings."""

    shapes: tuple[Shape, ...]
    spot_share: float = 0.0
    """Every so many new nodes are spot, evenly spread: 0.3 = three of ten."""
    scan_s: int = 10
    """How often pending pods are looked at (cluster-autoscaler's ``--scan-interval``)."""
    idle_s: int = 600
    """How long a node stays empty before it goes (``--scale-down-unneeded-time``)."""
    buys: str = "default"
    """One of :data:`PURCHASES`: the cheapest shape per core, or a plan for all pending pods
    (:mod:`simulator.planning.buying`)."""
    foresees_s: int = 300
    """Of ``foreseen``: as many pods as came in the last so many seconds are expected to come again."""

    def __post_init__(self) -> None:
        if not self.shapes:
            raise ConfigError("an elastic fleet needs at least one shape; give a catalogue")
        if self.buys not in PURCHASES:
            raise ConfigError(f"nobody buys by {self.buys!r}; there are {', '.join(PURCHASES)}")
        if not 0 <= self.spot_share <= 1:
            raise ConfigError(f"spot_share is {self.spot_share}, must be between 0 and 1")


@dataclass
class _Booting:
    """Room on a node that was ordered and is not there yet."""

    shape: str
    ready_s: int
    offered: dict[str, int]
    free: dict[str, int]

    def take(self, amounts: dict[str, int]) -> bool:
        if any(self.free.get(name, 0) < amount for name, amount in amounts.items() if amount):
            return False
        for name, amount in amounts.items():
            self.free[name] -= amount
        return True


@dataclass
class Autoscaler:
    """Orders nodes; the replay makes them appear."""

    settings: Elastic
    ordered: int = 0
    alive: dict[str, int] = field(default_factory=dict)
    _booting: list[_Booting] = field(default_factory=list)
    _fits: dict[PodSpec, list[Shape]] = field(default_factory=dict)
    _templates: ClusterState = field(default_factory=ClusterState)

    def __post_init__(self) -> None:
        for shape in self.settings.shapes:
            self._templates.add_node(shape.node(shape.name))

    def order(
        self, pending: Iterable[tuple[PodSpec, int]], time_s: int, came: Iterable[tuple[PodSpec, int]] = ()
    ) -> list[tuple[NodeSpec, int]]:
        """New nodes for (class, how many) pending, with the second each is ready; ``came`` is for who looks ahead."""
        self._clear_booting(time_s)
        orders: list[tuple[NodeSpec, int]] = []
        for spec, num in pending:
            waiting = num - self._fill_booting(spec, num)
            while waiting and (shape := self._cheapest(spec)) is not None:
                orders.append(self._buy(shape, time_s))
                waiting -= max(1, self._fill_booting(spec, waiting, self._booting[-1:]))
        return orders

    def _clear_booting(self, time_s: int) -> None:
        """Whoever a booting node was bought for still waits, and is here again."""
        self._booting = [b for b in self._booting if b.ready_s > time_s]
        for booting in self._booting:
            booting.free = dict(booting.offered)

    def _fill_booting(self, spec: PodSpec, num: int, booting: list[_Booting] | None = None) -> int:
        """How many of ``num`` pods of a class find room on what is booting, first fit."""
        amounts = {**spec.amounts, PODS: 1}
        shapes = {shape.name for shape in self._holding(spec)}
        most = self._most_per_node(spec) or num
        found = 0
        for node in self._booting if booting is None else booting:
            end = min(found + most, num)
            while found < end and node.shape in shapes and node.take(amounts):
                found += 1
        return found

    def _most_per_node(self, spec: PodSpec) -> int:
        """Pods of a class that their own rules let share a node; 0 = any number."""
        own, namespaces = spec.pod_rules, self._templates.rules.namespaces
        apart = (term for term in own.anti_affinity if term.topology_key == HOSTNAME)
        is_alone = any(Match.of(term, spec.namespace).covers(spec, namespaces) for term in apart)
        return 1 if is_alone or own.host_ports else own.max_per_node

    def _buy(self, shape: Shape, time_s: int) -> tuple[NodeSpec, int]:
        before = int(self.ordered * self.settings.spot_share)
        self.ordered += 1
        spot = shape.spot_usd_per_hour > 0 and int(self.ordered * self.settings.spot_share) > before
        node = shape.node(f"{shape.name}-{self.ordered:06d}", spot=spot)
        self.alive[shape.name] = self.alive.get(shape.name, 0) + 1
        self._booting.append(_Booting(shape.name, time_s + shape.boot_s, node.amounts, dict(node.amounts)))
        return node, time_s + shape.boot_s

    def _cheapest(self, spec: PodSpec) -> Shape | None:
        shapes = self._holding(spec)
        return next((s for s in shapes if not s.limit or self.alive.get(s.name, 0) < s.limit), None)

    def _holding(self, spec: PodSpec) -> list[Shape]:
        """Shapes that hold a pod when empty, cheapest per core first."""
        shapes = self._fits.get(spec)
        if shapes is None:
            from placement.strategies import STRATEGIES  # compiled code: a trace's shapes are read without it

            scores = STRATEGIES["first-fit"].scores(self._templates.snapshot(), spec)
            holding = {self._templates.names[row] for row in np.flatnonzero(scores > NOT_FEASIBLE).tolist()}
            shapes = sorted((s for s in self.settings.shapes if s.name in holding), key=_price_per_core)
            self._fits[spec] = shapes
        return shapes

    def refusal(self, spec: PodSpec) -> str:
        """Why no shape holds a pod, even when empty; nothing where one does."""
        if self._holding(spec):
            return ""
        from placement.rejections import main_reason
        from placement.strategies import STRATEGIES

        return f"no shape: {main_reason(self._templates.snapshot(), STRATEGIES['first-fit'], spec)}"

    def gone(self, shape: str) -> None:
        """A node of this shape left."""
        self.alive[shape] -= 1


def _price_per_core(shape: Shape) -> tuple[float, str]:
    return shape.usd_per_hour / max(dict(shape.allocatable).get(CPU, 0), 1), shape.name
