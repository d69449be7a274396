"""FGD's fragmentation along a finished replay: the cluster's expected fragment after every placement.

Only the node that a pod lands on changes, so the sum is kept and one node's part replaced (Weng et al., USENIX
ATC'23, section 4). It is a metric computed from the event log, after the fact; no decision reads it.
"""

from __future__ import annotations

import numpy as np

from placement.columns import Columns
from placement.fragments import fragmentation
from placement.knowledge import Knowledge
from placement.log import (
    NODE_ADDED,
    POD_ASSUMED,
    POD_BOUND,
    POD_FORGOTTEN,
    POD_FOUND,
    POD_RELEASED,
    POD_STRANDED,
    EventLog,
)
from placement.program import has_compiled
from placement.resources import CPU, FloatArray, IntArray
from placement.state import CPU_ROW, ClusterState, device_indices
from placement.strategies import STRATEGIES


def fragmentation_along(log: EventLog, knowledge: Knowledge) -> FloatArray:
    """``(changes + 1,)`` float64, milli-GPU: before the first placement, then after each bind or release.

    ``knowledge.workload`` is the target workload; events that are neither node nor pod changes are passed over.
    """
    state = ClusterState(knowledge=knowledge)
    changes: list[tuple[int, int, int, int, int]] = []
    where: dict[str, tuple[int, int, int, int]] = {}
    for event in log:
        kind, subject, detail = event.kind, event.subject, event.detail
        if kind == NODE_ADDED:
            if subject not in state.row_of:
                state.add_node(detail)
            continue
        if kind in (POD_BOUND, POD_FOUND, POD_ASSUMED) and detail is not None:
            where[subject] = (
                state.row_of[event.node],
                detail.amounts.get(CPU, 0),
                0 if detail.gpu is None else detail.gpu.milli,
                event.devices,
            )
            sign = 1
        elif kind in (POD_RELEASED, POD_STRANDED, POD_FORGOTTEN):
            sign = -1
        else:
            continue
        row, cpu, milli, mask = where[subject]
        changes.append((row, sign, cpu, milli, mask))
    table = np.array(changes, np.int64).reshape(-1, 5)
    rows, signs, cpus, millis, masks = (np.ascontiguousarray(column) for column in table.T)
    series = np.zeros(len(rows) + 1)
    if has_compiled():
        from placement import kernels

        kernels.fragments_along(rows, signs, cpus, millis, masks, series, STRATEGIES["atc23-fgd"].program(state).handle)
    else:
        _along_in_numpy(state, rows, signs, cpus, millis, masks, series)
    return series


def _along_in_numpy(
    state: ClusterState,
    rows: IntArray,
    signs: IntArray,
    cpus: IntArray,
    millis: IntArray,
    masks: IntArray,
    series: FloatArray,
) -> None:
    columns = Columns(state)
    free = (state.offered[CPU_ROW] - state.taken[CPU_ROW])[: state.num_rows]
    gpu_free, models = state.gpu_free[: state.num_rows].copy(), state.gpu_model[: state.num_rows]
    parts = fragmentation(columns, free, gpu_free, models)
    series[0] = parts.sum()
    for i, row in enumerate(rows.tolist()):
        free[row] -= signs[i] * cpus[i]
        for index in device_indices(int(masks[i])):
            gpu_free[row, index] -= signs[i] * millis[i]
        one = slice(row, row + 1)
        part = fragmentation(columns, free[one], gpu_free[one], models[one])[0]
        series[i + 1] = series[i] + part - parts[row]
        parts[row] = part
