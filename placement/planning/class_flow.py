"""Consolidation of small fleets exactly: CP-SAT on nodes that go, and on pods of each class that nodes receive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from placement.planning.fleet import CENT, Emptied, Fleet, violations
from placement.planning.plans import Deadline
from placement.planning.solver import Limits, Model, solve_integer
from placement.resources import FloatArray

EXACT_CELLS = 12_000
"""Classes × nodes up to which the exact model goes to CP-SAT."""


def exactly(
    fleet: Fleet,
    best: Emptied,
    max_moves: int | None,
    deadline: Deadline,
    seed: int,
    *,
    usd_per_arrival: FloatArray | None = None,
) -> tuple[Emptied, float]:
    """A plan no worse than ``best``, and the most that any saves with prices rounded to millionths.

    That is infinite where nothing is proved. ``usd_per_arrival`` ``(C, N)`` is what a pod costs an hour where it arrives.
    """
    classes = np.flatnonzero(fleet.count.sum(axis=1) > 0)
    count, num_nodes = fleet.count[classes], fleet.free.shape[1]
    model = Model()
    y = model.add_columns(fleet.deletable.astype(np.int64), objective=np.round(fleet.usd_per_hour * CENT))
    upper = np.where(fleet.allowed[classes], count.sum(axis=1)[:, None], 0)
    cost = np.zeros(fleet.count.shape) if usd_per_arrival is None else usd_per_arrival
    costs = np.round(cost[classes] * CENT)
    x = model.add_columns(upper.ravel(), objective=-costs.ravel()).reshape(upper.shape)
    for i in range(len(classes)):
        model.add_row(np.append(x[i], y), np.append(np.ones(num_nodes), -count[i]), lower=0, upper=0)
    most = int(count.sum())
    for n in range(num_nodes):
        for r, free in enumerate(fleet.free[:, n]):
            model.add_row(np.append(x[:, n], y[n]), np.append(fleet.request[r, classes], free), upper=float(free))
        model.add_row(np.append(x[:, n], y[n]), np.append(np.ones(len(classes)), most), upper=float(most))
    if max_moves is not None:
        model.add_row(y, fleet.pods, upper=float(max_moves))
    hint = np.concatenate([best.deleted.astype(np.int64), best.arrivals[classes].ravel()])
    limits = Limits(max(deadline.left_s, 1e-3), seed, work=deadline.work, stop=deadline.cancelled)
    answer = solve_integer(model, limits, hint=hint)
    if not answer.has_solution:
        return best, answer.bound / CENT
    deleted, arrivals = answer.x[y] > 0.5, np.zeros_like(fleet.count)
    arrivals[classes] = np.round(answer.x[x]).astype(np.int64)
    usd = float(fleet.usd_per_hour[deleted].sum() - (cost * arrivals).sum())
    found = replace(best, deleted=deleted, arrivals=arrivals, usd_per_hour=usd, moves=int(arrivals.sum()))
    if usd > best.usd_per_hour + 1e-9 and not violations(fleet, found, max_moves):
        best = found
    return best, answer.bound / CENT
