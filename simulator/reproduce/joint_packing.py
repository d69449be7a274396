"""Packing by replay of the co-located set: nodes are filled so that their members' joint past stays low.

Summing each workload's own quantile forgets that peaks do not coincide; first-fit by size forgets that some do.
:func:`balanced` spreads workloads over a given number of nodes so that the fourth power of the nodes' replayed loads
is least (peaks count, and count where they meet), and :func:`joint_need` says how much of a node its set will need:
the geometric mean of several percentiles of the replayed load, each sample weighted by its age at several half-lives.

Which half-life or percentile is best cannot be told from a few weeks of past, so none is chosen: needs are averaged
over them, and over the assignments that :data:`PLACE_HALF_LIVES_H` lead to, of which the flattest one is used.

A weekend's need is told by weekends and a working day's by working days: where the calendar is known, samples of the
same kind of day as the one to come count :data:`SAME_KIND` times in the need (not in the placement). Spans in which
nobody used anything are outages of the recorder: they count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from placement.learning.usage import DAY, HOUR, SingleArray
from placement.resources import FloatArray, IntArray

HALF_LIVES_H = (24.0, 48.0, 96.0)
PERCENTS = (90.0, 95.0, 98.0)
NEED_DAYS = 14
PLACE_HALF_LIVES_H = (48.0, 200.0, 800.0)
PLACE_DAYS = 28
"""Levels are told by the last days, who bursts with whom by the last weeks."""
POWER = 4
SAME_KIND = 8.0
"""Chosen on Bitbrains' days 28–61, like everything here."""
WEEKEND = (5, 6)
OUTAGE = 1e-9
"""Not 0, so that a past without any use has weights as well."""
STEP = HOUR // 2
"""Needs are taken from half-hourly maxima, summed: a little above the five-minute sum, and six times fewer."""


@dataclass(frozen=True)
class Replay:
    """The recent past of ``N`` workloads in shares of a node, as maxima of short spans.

    ``hourly`` (N, R·H) of :data:`PLACE_DAYS`; ``hour_age_h`` (R·H,) ages of its columns; ``fine`` (N, R, M) half-hourly
    of :data:`NEED_DAYS`; ``fine_age_h`` (M,) and ``fine_weight`` (M,), what a sample counts beside its age.
    """

    hourly: SingleArray = field(repr=False)
    hour_age_h: FloatArray = field(repr=False)
    fine: SingleArray = field(repr=False)
    fine_age_h: FloatArray = field(repr=False)
    fine_weight: FloatArray = field(repr=False)

    @classmethod
    def of(cls, history: SingleArray, weekday: int | None = None) -> Replay:
        """From (R, N, T) samples in shares of a node, the newest last.

        ``weekday`` (0 = Monday) is the day to come, where the history ends at its midnight.
        """
        hours = min(history.shape[2], PLACE_DAYS * DAY) // HOUR
        kept = history[:, :, history.shape[2] - hours * HOUR :]
        resources, num, _ = kept.shape
        recent = kept[:, :, -NEED_DAYS * DAY :]
        fine = recent.reshape(resources, num, -1, STEP).max(axis=3).transpose(1, 0, 2)
        hourly = kept.reshape(resources, num, hours, HOUR).max(axis=3).transpose(1, 0, 2).reshape(num, -1)
        ages = np.arange(hours)[::-1] + 0.5
        fine_ages = (np.arange(fine.shape[2])[::-1] + 0.5) * STEP / HOUR
        weight = np.where((fine > 0).any(axis=(0, 1)), 1.0, OUTAGE)
        if weekday is not None:
            weight *= kind_weight(fine_ages, weekday)
        return cls(
            np.ascontiguousarray(hourly), np.tile(ages, resources), np.ascontiguousarray(fine), fine_ages, weight
        )

    def __len__(self) -> int:
        return len(self.hourly)


def decay(age_h: FloatArray, half_life_h: float) -> FloatArray:
    """Weights that halve every ``half_life_h`` hours and sum to 1."""
    weight = np.exp2(-age_h / half_life_h)
    return np.asarray(weight / weight.sum())


def kind_weight(age_h: FloatArray, weekday: int) -> FloatArray:
    """:data:`SAME_KIND` for samples of days of the same kind (weekend or not) as the coming ``weekday``, else 1.

    ``age_h`` (M,) hours before that day's midnight.
    """
    day = (weekday - 1 - np.floor(age_h / 24).astype(int)) % 7
    return np.where(np.isin(day, WEEKEND) == (weekday in WEEKEND), SAME_KIND, 1.0)


def balanced(replay: Replay, nodes: int, half_life_h: float) -> IntArray:
    """(N,) node of each workload: greedily the one whose load to the fourth power grows least, the largest first."""
    weight = decay(replay.hour_age_h, half_life_h)
    series = (replay.hourly * weight ** (1 / POWER)).astype(np.float32)
    size = (np.square(replay.hourly, dtype=float) * weight).sum(axis=1)
    load = np.zeros((nodes, series.shape[1]), np.float32)
    cost = np.zeros(nodes)
    node_of = np.zeros(len(series), np.int64)
    for workload in np.argsort(-size, kind="stable"):
        squared = np.square(load + series[workload])
        new = np.einsum("nt,nt->n", squared, squared)
        best = int(np.argmin(new - cost))
        load[best] += series[workload]
        cost[best] = new[best]
        node_of[workload] = best
    return node_of


def peakedness(replay: Replay, node_of: IntArray, nodes: int) -> float:
    """Mean eighth power of the nodes' replayed loads: how near to their highest the assignment lets them come."""
    load = np.zeros((nodes, replay.hourly.shape[1]), np.float32)
    np.add.at(load, node_of, replay.hourly)
    return float(np.mean(load**8))


def joint_need(replay: Replay, node_of: IntArray, nodes: int) -> FloatArray:
    """(nodes, R) share of a node that each set needs of each resource, up to a factor; see the module."""
    load = np.zeros((nodes, *replay.fine.shape[1:]), np.float32)
    np.add.at(load, node_of, replay.fine)
    order = np.argsort(load, axis=2)
    ranked = np.take_along_axis(load, order, axis=2)
    total = np.zeros(load.shape[:2])
    for half_life in HALF_LIVES_H:
        weight = decay(replay.fine_age_h, half_life) * replay.fine_weight
        running = np.cumsum((weight / weight.sum())[order], axis=2)
        for percent in PERCENTS:
            at = np.minimum((running < percent / 100 - 1e-9).sum(axis=2), ranked.shape[2] - 1)
            value = np.take_along_axis(ranked, at[:, :, None], axis=2)[:, :, 0]
            total += np.log(np.maximum(value, 1e-3))
    need: FloatArray = np.exp(total / (len(HALF_LIVES_H) * len(PERCENTS)))
    return need


@dataclass(frozen=True)
class Plan:
    """An assignment to ``nodes`` nodes, and what the fullest node needs (as a share of it) in such assignments."""

    nodes: int
    need: float
    node_of: IntArray = field(repr=False)


def plans(replay: Replay, *, fewest: float, most: float) -> list[Plan]:
    """Balanced assignments to growing numbers of nodes, until the fullest needs no more than ``fewest`` of its node.

    Begins at the first number at which the whole set's need, spread evenly, could be below ``most``.
    """
    everyone = joint_need(replay, np.zeros(len(replay), np.int64), 1)
    nodes = max(1, int(np.ceil(float(everyone.max()) / most)))
    found: list[Plan] = []
    while not found or (found[-1].need > fewest and nodes <= len(replay)):
        options = [balanced(replay, nodes, half_life) for half_life in PLACE_HALF_LIVES_H]
        need = np.exp(np.mean([np.log(joint_need(replay, o, nodes).max()) for o in options]))
        flattest = min(options, key=lambda o: peakedness(replay, o, nodes))
        found.append(Plan(nodes, float(need), flattest))
        nodes += 1
    return found
