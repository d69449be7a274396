"""Reclaimed capacity in a replay: each node offers what is asked for and not used, and takes it back when use rises.

Offers are sized, and pods chosen to leave, by the very code of the live controller (:mod:`placement.learning.reclaim`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from placement.learning.reclaim import (
    MIB,
    RECLAIMED_CPU,
    RECLAIMED_MEMORY,
    Load,
    Offer,
    ReclaimedPod,
    ReclaimPolicy,
    expected,
    offer,
    to_evict,
)
from placement.learning.usage import STEP_S
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, BoolArray, FloatArray, IntArray
from placement.state import CPU_ROW, MEMORY_ROW
from simulator.usage.usage_truth import RESTART_S, Here, UsageTruth

if TYPE_CHECKING:
    from simulator.replay import Replay
    from simulator.traces.trace import Trace


@dataclass
class Reclaiming:
    """Offer on each node what others asked for and will not use; take it back when use rises."""

    truth: UsageTruth
    policy: ReclaimPolicy = field(default_factory=ReclaimPolicy)
    kept_namespaces: frozenset[str] = frozenset()
    """Their pods count with their requests."""
    every_s: int = STEP_S
    evictions: int = 0
    offers: dict[str, Offer] = field(default_factory=dict)

    def act(self, replay: Replay) -> None:
        """Size every node's offer, then evict who no longer fits."""
        state, truth = replay.state, self.truth
        use = dict(zip(truth.here.uids, truth.latest.T.tolist(), strict=True))
        here = Here.of(replay)
        own = ~here.sold
        expects = self._expected(replay, here)
        measured = np.array([use.get(uid, (-1.0, -1.0)) for uid in here.uids]).reshape(-1, 2).T
        fresh = measured[0] < 0
        num = state.num_rows

        def by_node(values: FloatArray, who: BoolArray) -> IntArray:
            """(2, N) sums over some pods."""
            return np.stack([np.bincount(here.row[who], weights=v[who], minlength=num) for v in values]).astype(
                np.int64
            )

        sums = np.concatenate([by_node(expects, own), by_node(measured, own & ~fresh), by_node(expects, own & fresh)])
        occupied = np.bincount(here.row[own], minlength=num) > 0
        sold: dict[int, list[ReclaimedPod]] = defaultdict(list)
        for i in np.flatnonzero(here.sold).tolist():
            r = state.residents[here.uids[i]]
            sold[r.row].append(
                ReclaimedPod(r.uid, r.spec.amount(RECLAIMED_CPU), r.spec.amount(RECLAIMED_MEMORY), r.since_s)
            )
        for row, node in enumerate(list(state.nodes)):
            if node is None:
                continue
            before = self.offers.get(node.name, Offer())
            load = Load(int(state.offered[CPU_ROW, row]), int(state.offered[MEMORY_ROW, row]), *sums[:, row].tolist())
            new = offer(load, before, self.policy) if occupied[row] else Offer()
            if new != before:
                self.offers[node.name] = new
                extended = {**node.amounts, RECLAIMED_CPU: new.cpu_milli, RECLAIMED_MEMORY: new.memory_mib}
                state.update_node(replace(node, allocatable=tuple(sorted(extended.items()))), time_s=replay.time_s)
                replay.wake()
            for uid in to_evict(sold[row], new):
                self.evictions += replay.evict(uid, restart_s=RESTART_S, checkpoint_s=0)

    def _expected(self, replay: Replay, here: Here) -> FloatArray:
        """``(2, P)``: what each pod is expected to use at most."""
        forecasts = replay.state.knowledge.forecasts
        known: dict[PodSpec, tuple[int, int]] = {}
        found = []
        for uid in here.uids:
            spec = replay.state.residents[uid].spec
            if spec not in known:
                known[spec] = expected(spec, forecasts, keeps=spec.namespace in self.kept_namespaces)
            found.append(known[spec])
        return np.array(found, np.float64).reshape(-1, 2).T


def batch_on_reclaimed(trace: Trace, seed: int, kept_namespaces: frozenset[str] = frozenset()) -> Trace:
    """A third of the workloads, drawn with the seed, asks for reclaimed capacity; Guaranteed pods and those of kept
    namespaces do not.
    """
    owners = sorted({s.owner for s in trace.specs})
    batch = {o for o, x in zip(owners, np.random.default_rng([seed, 3]).random(len(owners)), strict=True) if x < 1 / 3}

    def moves(spec: PodSpec) -> bool:
        return spec.owner in batch and not spec.guaranteed and spec.namespace not in kept_namespaces

    return trace.but(specs=tuple(on_reclaimed(s) if moves(s) else s for s in trace.specs))


def on_reclaimed(spec: PodSpec) -> PodSpec:
    """The same pod, asking for reclaimed capacity instead of its own."""
    others = {r: a for r, a in spec.request if r not in (CPU, MEMORY)}
    amounts = {**others, RECLAIMED_CPU: spec.amount(CPU), RECLAIMED_MEMORY: -(-spec.amount(MEMORY) // MIB)}
    return replace(spec, request=tuple(sorted(amounts.items())), priority=-1)
