"""What others went on to need after they had looked alike: a histogram by owner (or host) and look, drawn to all.

A pair is what a workload looked like in its first minutes and what it needed in the hours after. Pairs of all names
and starts are counted in cells of their look; a workload is given the counts of its owner's *other* workloads in its own
cell and the cells around, and some pairs' worth of what the whole population does there, as quantiles. Looks and counts are
those of :mod:`placement.learning.siblings`, which tells newcomers by one look, live; here are three, for many at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from placement.learning.siblings import (
    LEVELS,
    NOISE,
    PEAKS,
    STEADINESS,
    Look,
    bins_of,
    column,
    drawn,
    looks_of,
    quantile,
)
from placement.learning.usage import DAY, HOUR, SingleArray
from placement.resources import BoolArray, FloatArray, IntArray

QUANTILES = (50, 80, 95)
LOOKS = {
    "peak": PEAKS,
    "mean": Look("mean", 16, "deviation", STEADINESS, (1.0, 0.7)),
    "growth": Look("mean", 11, "max", (0.35, 0.65, 1.05), (1.0, 0.7), relative=True),
}
RATIOS = np.concatenate([[-5.3], np.linspace(-2, 2.5, 46), [5.3]])
"""Limits of the bins of ratios of outcomes to the maximum so far, as logarithms."""


@dataclass(frozen=True)
class Pairs:
    """Looks (P, 3) and logarithms of outcomes (P,) of the workloads ``name`` (P,) begun at sample ``begin`` (P,)."""

    name: IntArray
    begin: IntArray
    looks: FloatArray
    outcome: FloatArray
    weight: FloatArray

    def __len__(self) -> int:
        return len(self.name)

    def pick(self, mask: BoolArray) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.name[mask], self.begin[mask], self.looks[mask], self.outcome[mask], self.weight[mask])


def pairs_of(share: SingleArray, name: IntArray, length: int, horizon: int) -> Pairs:
    """Pairs of every whole hour of a day, from (n, 288) shares of the workloads ``name`` (n,)."""
    parts = []
    for begin in range(0, DAY - horizon - length + 1, HOUR):
        now = begin + length
        outcome = np.percentile(share[:, now : now + horizon], 95, axis=1)
        looks = looks_of(share[:, begin:now])
        parts.append(Pairs(name, np.full(len(name), begin), looks, np.log(outcome + NOISE), np.ones(len(name))))
    return together(parts)


def together(parts: Sequence[Pairs]) -> Pairs:
    """Pairs of several starts or days, at least one."""
    fields = ("name", "begin", "looks", "outcome", "weight")
    return Pairs(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


def outcomes_of_others(pairs: Pairs, name: IntArray, looks: FloatArray, owners: IntArray) -> dict[str, FloatArray]:
    """(n,) quantiles of what the owner's others came to need, of the workloads ``name`` (n,) that look like ``looks``.

    Keys are ``outcome_LOOK_qQQ``, and ``outcome``: the mean of the looks' highest quantiles. All NaN without pairs.
    ``owners``, a number for each name (or host, or any other kinship), is indexed by ``name`` and the pairs' names.
    """
    found = {f"outcome_{look}_q{q}": np.full(len(name), np.nan) for look in LOOKS for q in QUANTILES}
    if len(pairs):
        for key, look in LOOKS.items():
            edges = RATIOS if look.relative else LEVELS
            base = column(looks, "max") if look.relative else 0.0
            counts = counts_of_others(look, pairs, name, looks, owners, edges)
            for q in QUANTILES:
                value = np.exp(quantile(counts, edges, q / 100) + base) - NOISE
                found[f"outcome_{key}_q{q}"] = np.clip(value, 0, 1)
    found["outcome"] = np.mean([found[f"outcome_{look}_q{QUANTILES[-1]}"] for look in LOOKS], axis=0)
    return found


def counts_of_others(
    look: Look, pairs: Pairs, name: IntArray, looks: FloatArray, owners: IntArray, edges: FloatArray
) -> FloatArray:
    """(n, bins) outcomes of pairs that look alike, of the owner's others and the population."""
    then, now, kernel = look.cells(pairs.looks), look.cells(looks), look.kernel
    outcome = pairs.outcome - column(pairs.looks, "max") if look.relative else pairs.outcome
    bins, cells = len(edges) - 1, len(kernel)
    bin_of = bins_of(outcome, edges)
    keys, owner = np.unique(owners, return_inverse=True)
    table = np.bincount((owner[pairs.name] * cells + then) * bins + bin_of, pairs.weight, len(keys) * cells * bins)
    by_owner = np.einsum("st,uty->usy", kernel, table.reshape(len(keys), cells, bins), optimize=True)
    row = np.full(len(owners), -1)
    row[name] = np.arange(len(name))
    mine = row[pairs.name]
    its = mine >= 0
    weight = pairs.weight[its] * kernel[now[mine[its]], then[its]]
    own = np.bincount(mine[its] * bins + bin_of[its], weight, len(name) * bins).reshape(len(name), bins)
    others = np.maximum(by_owner[owner[name], now] - own, 0)
    return drawn(others, np.maximum(by_owner.sum(axis=0)[now] - own, 0))
