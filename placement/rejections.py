"""Why nodes were turned away, as masks: the columnar form of an explanation.

:func:`placement.strategy.reasons` names nodes and is made for people; this is made for recorders, which want the
same grouping in about a hundred microseconds at 5,000 nodes and without a Python loop over nodes.
"""

from __future__ import annotations

import numpy as np

from placement.pods import PodSpec
from placement.program import NOT_FEASIBLE
from placement.resources import BoolArray
from placement.state import NUM_DERIVED, ClusterState, Snapshot
from placement.strategy import PREDICTED_FULL, Strategy

NOT_OFFERED = "not offered by the caller"
NO_DEVICE = "no device with enough free share"


def rejections(
    strategy: Strategy, snapshot: Snapshot, spec: PodSpec, candidates: BoolArray | None = None
) -> dict[str, BoolArray]:
    """Reason → ``(N,)`` bool: every live node that the pod may not use, under the first rule that it breaks.

    The masks are disjoint; rows of removed nodes are in none.
    """
    state = snapshot.state
    rows = state.num_rows
    left: BoolArray = state.is_alive[:rows].copy()
    grouped: dict[str, BoolArray] = {}
    for reason, broken in _broken(strategy, state, spec, candidates):
        hit = left & broken
        if hit.any():
            grouped[reason] = grouped[reason] | hit if reason in grouped else hit
            left = left & ~hit
    program = strategy.program(state)
    left &= ~(program.row(spec) > NOT_FEASIBLE)
    if program.admits and left.any():
        demand, where = program.demands[program._class(spec)], np.flatnonzero(left)
        full = np.zeros_like(left)
        full[where] = program.fits(demand, where) & ~program.admitted(demand, where)
        if full.any():
            grouped[PREDICTED_FULL] = full
            left &= ~full
    if left.any():
        grouped[NO_DEVICE] = left
    return grouped


def _broken(
    strategy: Strategy, state: ClusterState, spec: PodSpec, candidates: BoolArray | None
) -> list[tuple[str, BoolArray]]:
    """Reasons in kube-scheduler's order, each with the ``(N,)`` nodes that break the rule."""
    broken = [] if candidates is None else [(NOT_OFFERED, ~candidates)]
    broken += [(text, ~holds) for text, holds in state.rules.permissions(spec)]
    program = strategy.program(state)
    delta = program.demands[program._class(spec)].delta
    rows = state.num_rows
    short = {
        state.resources[lane - NUM_DERIVED]: state.taken[lane, :rows] + delta[lane] > state.offered[lane, :rows]
        for lane in (np.flatnonzero(delta[NUM_DERIVED:] > 0) + NUM_DERIVED).tolist()
    }
    lacks = [name for name in short if short[name].any()]
    for number in range(2 ** len(lacks) - 1, 0, -1) if len(lacks) <= 4 else ():
        names = [name for bit, name in enumerate(lacks) if number >> bit & 1]
        together = np.logical_and.reduce([short[name] for name in names])
        broken.append(("Too many pods" if names == ["pods"] else f"Insufficient {', '.join(names)}", together))
    return broken + [(f"Insufficient {name}", short[name]) for name in lacks if len(lacks) > 4]
