"""A fleet of running pods, and what a consolidation makes of it: nodes that go, and where their pods arrive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placement.errors import ConfigError
from placement.planning.patterns import Pattern, best_pattern
from placement.planning.plans import Ending
from placement.resources import BoolArray, FloatArray, IntArray

CENT = 1_000_000
"""Prices enter the programs as integers: millionths of a USD per hour."""
FILL_VISITS = 2_000
"""Search nodes per filling of a node."""
FILLING_S = 2e-4
"""What a filling counts for on a clock of work."""


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

    def filling(self, n: int, worth: FloatArray, pods: IntArray) -> Pattern:
        """What node ``n`` takes of ``pods`` ``(C,)`` beside its own, so that it is ``worth`` ``(C,)`` most."""
        allowed = np.where(self.allowed[:, n], worth, 0.0)
        return best_pattern(allowed, self.request, pods, self.free[:, n], limit=FILL_VISITS)


@dataclass(frozen=True)
class Emptied:
    """A plan about which nothing is proved.

    ``deleted`` ``(N,)`` bool; ``arrivals`` ``(C, N)`` pods that nodes receive; USD per hour saved; pods that move.
    """

    deleted: BoolArray
    arrivals: IntArray
    usd_per_hour: float
    moves: int

    @staticmethod
    def of(fleet: Fleet, deleted: BoolArray, arrivals: IntArray) -> Emptied:
        """The plan at the fleet's prices."""
        return Emptied(deleted, arrivals, float(fleet.usd_per_hour[deleted].sum()), int(arrivals.sum()))

    @staticmethod
    def nothing(fleet: Fleet) -> Emptied:
        """The plan that deletes nothing."""
        return Emptied.of(fleet, np.zeros(fleet.free.shape[1], np.bool_), np.zeros_like(fleet.count))


@dataclass(frozen=True)
class Consolidated(Emptied):
    """A plan with the most USD per hour that any plan saves, and how planning ended."""

    bound: float
    ending: Ending

    @staticmethod
    def proved(plan: Emptied, bound: float, ending: Ending) -> Consolidated:
        """A plan, and what is known of it."""
        return Consolidated(plan.deleted, plan.arrivals, plan.usd_per_hour, plan.moves, bound, ending)

    @property
    def gap_share(self) -> float:
        """Certified distance from the best plan, as a share of the bound."""
        return (self.bound - self.usd_per_hour) / self.bound if self.bound > 0 else 0.0


def violations(fleet: Fleet, plan: Emptied, max_moves: int | None) -> list[str]:
    """What an independent look finds wrong with a plan; empty when it is valid."""
    gone = plan.deleted
    wrong = [f"node number {n} must stay" for n in np.flatnonzero(gone & ~fleet.deletable)]
    if (plan.arrivals < 0).any():
        wrong.append("fewer pods than none arrive")
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
