"""How a decision reaches the cluster, and what it loses on the way.

``decide`` delivers the strategy's choice exactly. ``stock`` is kube-scheduler alone: it samples nodes and breaks
ties at random. ``score`` is stock plus our rounded marks 0–10, times 10, times the extender's weight. Each loss
can be switched on by itself, so that a report can say what sampling, rounding and ties cost apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placement.errors import ConfigError, nearest
from placement.planning.gathering import Terms
from placement.pods import PodSpec
from placement.resources import NOT_FEASIBLE, BoolArray, IntArray
from placement.state import Snapshot
from placement.strategies import STRATEGIES
from placement.strategy import Decision, Strategy

MIN_SAMPLED_NODES = 100
"""Below this many nodes kube-scheduler looks at all of them (``minFeasibleNodesToFind``)."""
EXTENDER_SCALE = 10
"""MaxNodeScore / MaxExtenderPriority: what kube-scheduler multiplies an extender's mark with."""
EXTENDER_WEIGHT = 5
"""In kube-scheduler's configuration, as our manifests set it."""


@dataclass(frozen=True)
class Delivery:
    """One way, and which of its losses apply."""

    name: str
    samples: bool = False
    """Look only at kube-scheduler's rotating sample of feasible nodes."""
    rounds: bool = False
    """Pass scores through marks 0–10."""
    in_tree: bool = False
    """Add the default profile's own scores."""
    random_ties: bool = False
    gate: Terms | None = None
    """Pods gather behind a gate, and are planned together and nominated; None = one by one."""

    @property
    def is_exact(self) -> bool:
        """Nothing is lost: the strategy decides alone."""
        return not (self.samples or self.rounds or self.in_tree or self.random_ties)


DELIVERIES: dict[str, Delivery] = {
    d.name: d
    for d in (
        Delivery("decide"),
        Delivery("stock", samples=True, random_ties=True),
        Delivery("score", samples=True, rounds=True, in_tree=True, random_ties=True),
        Delivery("nominate", gate=Terms()),
        Delivery("decide+sampling", samples=True),
        Delivery("decide+rounding", rounds=True),
        Delivery("decide+ties", random_ties=True),
        Delivery("decide+rounding+ties", rounds=True, random_ties=True),
        Delivery("decide+in-tree", rounds=True, in_tree=True),
    )
}


def delivery_named(name: str) -> Delivery:
    """A delivery by name, or a :class:`ConfigError` that names the nearest."""
    try:
        return DELIVERIES[name]
    except KeyError:
        raise ConfigError(f"unknown delivery {name!r}; {nearest(name, list(DELIVERIES))}") from None


def delivery_of(strategy: str, delivery: str) -> str:
    """Strategy ``planned`` plans its windows together and nominates, unless told otherwise."""
    return "nominate" if strategy == "planned" and delivery == "decide" else delivery


def num_sampled(num_nodes: int) -> int:
    """How many feasible nodes kube-scheduler looks for (``numFeasibleNodesToFind``, adaptive percentage)."""
    if num_nodes < MIN_SAMPLED_NODES:
        return num_nodes
    percentage = max(50 - num_nodes // 125, 5)
    return max(num_nodes * percentage // 100, MIN_SAMPLED_NODES)


class Courier:
    """A delivery that loses something, at work: remembers where kube-scheduler's rotation stands."""

    def __init__(self, delivery: Delivery, strategy: Strategy) -> None:
        self.delivery = delivery
        self.strategy = strategy
        self.profile = STRATEGIES["kube-default"]
        self._start = 0

    def choose(self, snapshot: Snapshot, spec: PodSpec, draw: int) -> Decision:
        """What the cluster ends up doing with this pod."""
        strategy, delivery = self.strategy, self.delivery
        candidates = self._sample(snapshot, spec) if delivery.samples else None
        scores = strategy.scores(snapshot, spec, candidates)
        feasible = scores > NOT_FEASIBLE
        state = snapshot.state
        if not feasible.any():
            return Decision(-1, "", 0, NOT_FEASIBLE, state.version, strategy.digest, state.knowledge.digest)
        if delivery.rounds:
            scores = np.where(feasible, strategy.priorities(snapshot, spec, candidates), NOT_FEASIBLE)
        if delivery.in_tree:
            in_tree = self.profile.scores(snapshot, spec, candidates)
            scores = np.where(feasible, in_tree + EXTENDER_SCALE * EXTENDER_WEIGHT * scores, NOT_FEASIBLE)
        row = self._pick(scores, draw)
        devices = strategy.program(state).devices(spec, row, draw >> 20)
        return Decision(
            row, state.names[row], devices, int(scores[row]), state.version, strategy.digest, state.knowledge.digest
        )

    def _pick(self, scores: IntArray, draw: int) -> int:
        if not self.delivery.random_ties and self.strategy.ties == "first":
            return int(scores.argmax())
        equal = np.flatnonzero(scores == scores.max())
        return int(equal[draw % len(equal)])

    def _sample(self, snapshot: Snapshot, spec: PodSpec) -> BoolArray:
        """The first feasible nodes from where the last search stopped (``findNodesThatPassFilters``)."""
        scores = self.strategy.scores(snapshot, spec)
        alive = snapshot.is_alive
        order = np.flatnonzero(alive)
        wanted = max(num_sampled(len(order)), 1)  # one at least, where an elastic fleet has bought none yet
        turned = np.roll(order, -(self._start % max(len(order), 1)))
        found = np.flatnonzero(scores[turned] > NOT_FEASIBLE)[:wanted]
        processed = len(order) if len(found) < wanted else int(found[-1]) + 1
        self._start = (self._start + processed) % max(len(order), 1)
        candidates = np.zeros(len(scores), np.bool_)
        candidates[turned[found]] = True
        return candidates
