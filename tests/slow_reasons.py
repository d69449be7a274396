"""Why each node was turned away once more, written plainly, one node at a time: the referee of the masks."""

from __future__ import annotations

import numpy as np

from placement.pods import PodSpec
from placement.rejections import NO_DEVICE, NOT_OFFERED, PREDICTED_FULL, UNRECORDED
from placement.resources import BoolArray
from placement.state import NUM_DERIVED, ClusterState
from placement.strategy import Strategy


def reasons(
    state: ClusterState, strategy: Strategy, spec: PodSpec, candidates: BoolArray | None = None
) -> dict[str, set[str]]:
    """Names of rejected nodes by the first rule that rejects them, in kube-scheduler's order and words."""
    grouped: dict[str, set[str]] = {}
    program = strategy.program(state)
    program.row(spec)  # so that the program knows the class
    demand = next(d for d in program.demands if d.spec == spec)
    lanes = [lane for lane in range(NUM_DERIVED, len(demand.delta)) if demand.delta[lane] > 0]
    rules = state.rules.permissions(spec, np.arange(state.num_rows))
    hides = state.hides_devices(spec)
    for row, node in enumerate(state.nodes):
        if node is None:
            continue
        broken = [text for text, holds in rules if not holds[row]]
        short = [
            state.resources[lane - NUM_DERIVED]
            for lane in lanes
            if state.taken[lane, row] + demand.delta[lane] > state.offered[lane, row]
        ]
        if candidates is not None and not candidates[row]:
            reason = NOT_OFFERED
        elif broken:
            reason = broken[0]
        elif short:
            reason = "Too many pods" if short == ["pods"] else f"Insufficient {', '.join(short)}"
        elif not program.fits(demand, np.array([row]))[0]:
            reason = UNRECORDED if hides[row] else NO_DEVICE
        elif not program.admitted(demand, np.array([row]))[0]:
            reason = PREDICTED_FULL
        else:
            continue
        grouped.setdefault(reason, set()).add(node.name)
    return grouped
