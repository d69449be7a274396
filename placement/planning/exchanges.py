"""Exchanges of nodes that go: all pods of a choice repacked, and one more node for others that come back.

Where no budget limits the moves all room counts, so that the pods of a choice seldom fit at once:
:mod:`placement.planning.repacking` deals them out anew until nobody waits.
"""

from __future__ import annotations

import numpy as np

from placement.planning.displaced import fill
from placement.planning.fleet import Fleet
from placement.planning.plans import ROUNDING, Deadline
from placement.planning.repacking import Repacking
from placement.resources import BoolArray, FloatArray

REPACK_SHARE, REPACK_ROUNDS = 0.2, 2000
TRIAL_ROUNDS, TRIAL_NOISE = 60, 0.3
"""Repacking steps for each node that goes or comes back; how much the order of nodes varies."""
MOST_BACK, MOST_LOOKED_AT = 2, 40
"""Nodes that come back for one that goes, and of how many it is tried what they take."""
REFILL_S = 1.2e-4
"""What a refilled node counts for on a clock of work."""


def repacked(
    fleet: Fleet, gone: BoolArray, price: FloatArray | None, deadline: Deadline, seed: int, *, must: bool
) -> Repacking | None:
    """The pods of ``gone`` repacked; a node comes back for pods that find no place.

    None when no node helps, when cancelled, or when time is over first, unless there ``must`` be a plan: then nodes come
    back without another look, a third of a millisecond each.
    """
    now = Repacking.of(fleet.request, fleet.count, fleet.free, fleet.allowed, gone, price=price, seed=seed)
    now.place(fill(fleet, gone, deadline, seed)[0])
    _run(now, deadline.part(REPACK_SHARE), rounds=REPACK_ROUNDS)
    while now.waiting.any():
        is_over = deadline.is_over
        if deadline.cancelled() or (is_over and not must):
            return None
        back = _node_back(fleet, now, np.inf, most=0 if is_over else MOST_LOOKED_AT)
        if back is None:
            return None
        now.keep(back)
        if is_over:
            now.top_up(back)
        else:
            _run(now, deadline, rounds=TRIAL_ROUNDS)
    return now


def _run(packing: Repacking, deadline: Deadline, *, rounds: int) -> None:
    packing.run(lambda: deadline.is_over, rounds=rounds, spend=lambda nodes: deadline.spend(nodes * REFILL_S))


def exchanged(fleet: Fleet, now: Repacking, deadline: Deadline) -> Repacking | None:
    """One more node deleted, cheaper ones back where that is needed; None when that gains nothing."""
    usd = fleet.usd_per_hour
    stays = np.flatnonzero(~now.gone & fleet.deletable)
    if not len(stays):
        return None
    need = now.worth @ (fleet.count + now.arrivals)[:, stays]
    worth = usd[stays] / (need + 1e-9) * np.exp(now.chance.normal(0.0, TRIAL_NOISE, len(stays)))
    trial = now.copy()
    out = stays[int(np.argmax(worth))]
    trial.empty(out)
    left = float(usd[out])
    for _ in range(MOST_BACK + 1):
        _run(trial, deadline, rounds=TRIAL_ROUNDS)
        if not trial.waiting.any():
            return trial
        back = _node_back(fleet, trial, left - 1e-9, but=out)
        if back is None or deadline.is_over:
            return None
        trial.keep(back)
        left -= float(usd[back])
    return None


def _node_back(fleet: Fleet, now: Repacking, below: float, *, but: int = -1, most: int = MOST_LOOKED_AT) -> int | None:
    """A node to come back, cheaper than ``below``: the first, by price, with room for all that waits.

    Where none of the first ``most`` has, the one of them that takes most per USD; where that is nothing, the one whose own pods
    leave most room per USD elsewhere.
    """
    usd = fleet.usd_per_hour
    useful = now.gone & (usd < below) & fleet.allowed[now.waiting > 0].any(axis=0)
    useful &= np.arange(len(usd)) != but
    nodes = np.flatnonzero(useful)
    if not len(nodes):
        return None
    disturbed = usd[nodes] * np.exp(now.chance.normal(0.0, TRIAL_NOISE, len(nodes)))
    best, highest = -1, 0.0
    for n in nodes[np.argsort(disturbed, kind="stable")][:most]:
        taken = fleet.filling(n, now.worth, now.waiting).value
        if taken >= now.shortage - ROUNDING:
            return int(n)
        if taken / max(usd[n], 1e-9) > highest:
            best, highest = int(n), taken / max(usd[n], 1e-9)
    if best >= 0:
        return best
    room = now.scarcity @ (fleet.free + fleet.load)[:, nodes]
    return int(nodes[np.argmax(room / np.maximum(usd[nodes], 1e-9))])
