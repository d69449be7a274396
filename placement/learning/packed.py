"""Requests sized for the node, not for the pod: what pods ask for so that they *together* keep within the budget.

Most pods' peaks do not coincide, so the 95th percentile of CPU times one number per cluster suffices. The number is the
least with which the pods that are here, packed at random by such requests, would have kept nodes within the budget over
the past days (the reverse of the usual order: first the share of overloaded nodes that is allowed, then the request).
Memory keeps its largest sample, because too little memory kills. Pure; a replay and ``ullage rightsize`` size with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from placement.knowledge import Forecast, Forecasts
from placement.learning.prediction import LEAST, percentiles
from placement.learning.usage import MOST_USED, SingleArray
from placement.resources import MEMORY, FloatArray, IntArray

SCALES = tuple(float(x) for x in np.round(np.geomspace(0.3, 4.0, 20), 3))
AIM = 0.4
"""Of the budget that is aimed at on past days: those to come are worse."""
ORDERS = 4
"""Packings that are tried."""
DAYS = 7
"""Of the past that are packed."""


@dataclass(frozen=True)
class Sizes:
    """Of each workload ``(W,)``: what CPU is scaled from, the least of it, and memory; millicores and bytes.

    Memory that was measured for less than a day is more than any request, which therefore stays.
    """

    cpu: FloatArray
    least_cpu: FloatArray
    memory: FloatArray

    @classmethod
    def of(cls, pasts: SingleArray, *, percentile: float, memory_margin: float) -> Sizes:
        """From ``(W, 2, T)`` samples with at least one of CPU in every row."""
        least: FloatArray = np.asarray(np.nanmean(pasts[:, 0], axis=1, dtype=np.float64))
        largest = np.nan_to_num(pasts[:, 1]).max(axis=1).astype(np.float64)
        is_known = np.isfinite(pasts[:, 1]).sum(axis=1) >= LEAST
        memory = np.where(is_known, memory_margin * largest, MOST_USED[MEMORY])
        return cls(percentiles(pasts[:, 0], percentile), least, memory)

    def scaled(self, scale: float) -> tuple[IntArray, IntArray]:
        """CPU and memory of each workload's pods, rounded up."""
        cpu = np.ceil(np.maximum(self.cpu * scale, self.least_cpu)).astype(np.int64)
        return cpu, np.ceil(self.memory).astype(np.int64)

    def forecasts(self, names: Sequence[str], scale: float, target: str) -> Forecasts:
        """For :func:`placement.learning.rightsize.recommend`, without a margin of its own."""
        cpu, memory = self.scaled(scale)
        rows = zip(names, cpu.tolist(), memory.tolist(), strict=True)
        return Forecasts({n: Forecast(c, m, c, m, rung="history") for n, c, m in rows}, target)


def least_scale(
    pasts: SingleArray,
    sizes: Sizes,
    of_pod: IntArray,
    asked: FloatArray,
    node: tuple[int, int],
    budget: float,
    seed: int,
) -> float:
    """Least scale of CPU with which the pods here would have kept :data:`AIM` of the budget, packed at random.

    Parameters
    ----------
    pasts : ``(W, 2, T)`` samples of the workloads.
    of_pod : ``(P,)`` workload of each pod.
    asked : ``(2, P)`` requests; no pod is made to ask for more.
    node : millicores and bytes of a node.
    """
    if not len(of_pod):
        return SCALES[-1]
    use = np.nan_to_num(pasts[:, 0, ::2])[of_pod]
    rng = np.random.default_rng([seed, 0xAC])
    orders = [rng.permutation(len(of_pod)) for _ in range(ORDERS)]
    best = SCALES[-1]
    for scale in reversed(SCALES):
        cpu, memory = sizes.scaled(scale)
        wants = np.stack([np.minimum(cpu[of_pod], asked[0]) / node[0], np.minimum(memory[of_pod], asked[1]) / node[1]])
        if np.mean([share_over(use[o], wants[:, o], node[0]) for o in orders]) > AIM * budget:
            break
        best = scale
    return best


def share_over(use: SingleArray, shares: FloatArray, capacity: int) -> float:
    """Share of (node, step) over ``capacity`` when pods fill one node after the other.

    ``use`` is ``(P, T)`` millicores, ``shares`` is ``(2, P)`` of a node's CPU and memory that each pod asks for.
    """
    first, cpu, memory = [0], 0.0, 0.0
    for i, (c, m) in enumerate(shares.T.tolist()):
        if i and (cpu + c > 1 or memory + m > 1):
            first.append(i)
            cpu = memory = 0.0
        cpu, memory = cpu + c, memory + m
    return float((np.add.reduceat(use, first, axis=0) > capacity).mean())


CALM = 0.8
"""Of a node's CPU: who was lowered leaves until the rest use no more than this."""


def to_restore(use: Mapping[str, float], lowered: Sequence[str], offered_cpu: float) -> list[str]:
    """Which lowered pods of a crowded node restart at their request: those that use most, until the node is calm.

    ``use`` is millicores by pod of the node. VPA's updater evicts likewise.
    """
    spare = sum(use.values()) - CALM * offered_cpu
    gone = []
    for uid in sorted(lowered, key=lambda u: (-use.get(u, 0.0), u)):
        if spare <= 0:
            break
        gone.append(uid)
        spare -= use.get(uid, 0.0)
    return gone
