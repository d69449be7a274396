"""A replay's cluster as columns, for what acts on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placement.pods import PodSpec
from placement.resources import DEVICE_MILLI, IntArray
from placement.state import NUM_DERIVED, ClusterState, Snapshot


def is_modelled(state: ClusterState, spec: PodSpec) -> bool:
    """Whether consolidation covers a class: no rules about other pods but a limit per node, and no shares of a device."""
    if spec.unmodelled or (spec.gpu is not None and spec.gpu.milli != DEVICE_MILLI):
        return False
    rules = spec.pod_rules
    limit_only = not (rules.host_ports or rules.affinity or rules.anti_affinity or any(s.hard for s in rules.spread))
    return limit_only and (bool(rules.max_per_node) or not state.rules.is_relational(spec))


@dataclass(frozen=True)
class Nodes:
    """The ledger's living nodes as columns ``N``."""

    rows: IntArray
    free: IntArray

    @classmethod
    def of(cls, view: Snapshot) -> Nodes:
        """As they are now."""
        rows = np.flatnonzero(view.is_alive)
        return cls(rows, np.asarray((view.offered - view.taken)[NUM_DERIVED:, rows], np.int64))


def requests_of(state: ClusterState, specs: list[PodSpec]) -> IntArray:
    """``(R, C)`` over the ledger's resource axis."""
    return np.stack([state.delta(spec)[NUM_DERIVED:] for spec in specs], axis=1)
