"""Packing by replay of the co-located set: nodes are filled so that their members' joint past stays low.

Summing each workload's own quantile forgets that peaks do not coincide; first-fit by size forgets that some do.
:func:`balanced` spreads workloads over a given number of nodes so that the fourth power of the nodes' replayed loads
is least (peaks count, and count where they meet), and :func:`joint_need` says how much of a node its set will need:
the geometric mean of several percentiles of the replayed load, each sample weighted by its age at several half-lives.
Averaging over half-lives and percentiles replaces the choice of one, for which a few weeks of past say too little.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from placement.resources import FloatArray, IntArray
from placement.usage import HOUR, SingleArray

HALF_LIVES_H = (24.0, 48.0, 96.0)
PERCENTS = (90.0, 95.0, 98.0)
PLACE_HALF_LIFE_H = 48.0
POWER = 4
WINDOW_DAYS = 14
STEP = HOUR // 2
"""Needs are taken from half-hourly maxima, summed: a little above the five-minute sum, and six times fewer."""


@dataclass(frozen=True)
class Replay:
    """The recent past of ``N`` workloads in shares of a node, blocks of maxima, one column block per resource.

    ``coarse`` (N, R·H) hourly maxima weighted for :func:`balanced`; ``fine`` (N, R, M) half-hourly maxima;
    ``age_h`` (M,) age of each fine column; ``order`` (N,) workloads, the largest first.
    """

    coarse: SingleArray = field(repr=False)
    fine: SingleArray = field(repr=False)
    age_h: FloatArray = field(repr=False)
    order: IntArray = field(repr=False)

    @classmethod
    def of(cls, history: SingleArray) -> Replay:
        """From (R, N, T) samples in shares of a node, the newest last; whole hours are used."""
        hours = history.shape[2] // HOUR
        kept = history[:, :, history.shape[2] - hours * HOUR :]
        resources, num, _ = kept.shape
        fine = kept.reshape(resources, num, -1, STEP).max(axis=3)
        hourly = kept.reshape(resources, num, hours, HOUR).max(axis=3)
        weight = decay((np.arange(hours)[::-1] + 0.5), PLACE_HALF_LIFE_H)
        size = np.sqrt((np.square(hourly, dtype=float) * weight).sum(axis=2)).max(axis=0)
        coarse = (hourly * weight ** (1 / POWER)).transpose(1, 0, 2).reshape(num, -1)
        age_h = (np.arange(fine.shape[2])[::-1] + 0.5) * STEP / HOUR
        return cls(
            coarse.astype(np.float32), np.ascontiguousarray(fine.transpose(1, 0, 2)), age_h,
            np.argsort(-size, kind="stable"),
        )  # fmt: skip


def decay(age_h: FloatArray, half_life_h: float) -> FloatArray:
    """Weights that halve every ``half_life_h`` hours and sum to 1."""
    weight = np.exp2(-age_h / half_life_h)
    return np.asarray(weight / weight.sum())


def balanced(replay: Replay, nodes: int) -> IntArray:
    """(N,) node of each workload: greedily the one whose load to the fourth power grows least, the largest first."""
    load = np.zeros((nodes, replay.coarse.shape[1]), np.float32)
    cost = np.zeros(nodes)
    node_of = np.zeros(len(replay.order), np.int64)
    for workload in replay.order:
        grown = load + replay.coarse[workload]
        squared = grown * grown
        new = np.einsum("nt,nt->n", squared, squared)
        best = int(np.argmin(new - cost))
        load[best], cost[best] = grown[best], new[best]
        node_of[workload] = best
    return node_of


def joint_need(replay: Replay, node_of: IntArray, nodes: int) -> FloatArray:
    """(nodes, R) share of a node that each set needs of each resource, up to a factor; see the module."""
    load = np.zeros((nodes, *replay.fine.shape[1:]), np.float32)
    np.add.at(load, node_of, replay.fine)
    order = np.argsort(load, axis=2)
    ranked = np.take_along_axis(load, order, axis=2)
    total = np.zeros(load.shape[:2])
    for half_life in HALF_LIVES_H:
        running = np.cumsum(decay(replay.age_h, half_life)[order], axis=2)
        for percent in PERCENTS:
            at = np.minimum((running < percent / 100 - 1e-9).sum(axis=2), ranked.shape[2] - 1)
            value = np.take_along_axis(ranked, at[:, :, None], axis=2)[:, :, 0]
            total += np.log(np.maximum(value, 1e-3))
    need: FloatArray = np.exp(total / (len(HALF_LIVES_H) * len(PERCENTS)))
    return need


@dataclass(frozen=True)
class Plan:
    """An assignment to ``nodes`` nodes and what its fullest node needs, as a share of it."""

    nodes: int
    need: float
    node_of: IntArray = field(repr=False)


def plans(replay: Replay, *, fewest: float, most: float) -> list[Plan]:
    """Balanced assignments to growing numbers of nodes, until the fullest needs no more than ``fewest`` of its node.

    Begins at the first number at which the whole set's need, spread evenly, could be below ``most``.
    """
    everyone = joint_need(replay, np.zeros(len(replay.order), np.int64), 1)
    nodes = max(1, int(np.ceil(float(everyone.max()) / most)))
    found: list[Plan] = []
    while not found or (found[-1].need > fewest and nodes <= len(replay.order)):
        node_of = balanced(replay, nodes)
        found.append(Plan(nodes, float(joint_need(replay, node_of, nodes).max()), node_of))
        nodes += 1
    return found
