"""FGD's fragmentation along a finished replay: the cluster's expected fragment after every placement.

Only the node that a pod lands on changes, so the sum is kept and one node's part replaced (Weng et al., USENIX
ATC'23, section 4). It is a metric computed from the event log, after the fact; no decision reads it.
"""

from __future__ import annotations

import numpy as np

from placement.knowledge import Knowledge
from placement.log import NODE_ADDED, POD_BOUND, POD_RELEASED, EventLog
from placement.program import has_compiled
from placement.resources import FloatArray
from placement.scorers import AtcFgd, Columns, fragmentation
from placement.state import CPU_ROW, ClusterState, device_indices
from placement.strategies import STRATEGIES

assert AtcFgd in {type(w.scorer) for w in STRATEGIES["atc23-fgd"].scorers}


def fragmentation_along(log: EventLog, knowledge: Knowledge, backend: str = "auto") -> FloatArray:
    """``(changes + 1,)`` float64, milli-GPU: before the first placement, then after each bind or release.

    ``knowledge.workload`` is the target workload; events that are neither node nor pod changes are passed over.
    """
    state = ClusterState(knowledge=knowledge, backend=backend)
    changes = [e for e in log if e.kind in (NODE_ADDED, POD_BOUND, POD_RELEASED)]
    for event in changes:
        if event.kind == NODE_ADDED and event.subject not in state.row_of:
            state.add_node(event.detail)
    measure = _meter(state)
    parts = measure(np.arange(state.num_rows))
    total = float(parts.sum())
    series = [total]
    where: dict[str, tuple[int, int, int, int]] = {}
    one = np.zeros(1, np.int64)
    taken, gpu_free = state.taken, state.gpu_free
    for event in changes:
        if event.kind == NODE_ADDED:
            continue
        if event.kind == POD_BOUND:
            spec = event.detail
            if spec is None:
                continue
            row = state.row_of[event.node]
            where[event.subject] = row, event.devices, spec.amounts.get("cpu", 0), spec.gpu.milli if spec.gpu else 0
            sign = 1
        else:
            sign = -1
        row, devices, cpu, milli = where[event.subject]
        taken[CPU_ROW, row] += sign * cpu
        for index in device_indices(devices):
            gpu_free[row, index] -= sign * milli
            taken[CPU_ROW + 3, row] += sign * milli
        state.last_touch[row] += 1 << 32
        one[0] = row
        part = float(measure(one)[0])
        total += part - float(parts[row])
        parts[row] = part
        series.append(total)
    return np.array(series)


def _meter(state: ClusterState):  # type: ignore[no-untyped-def]  # a function (n,) rows → (n,) milli-GPU
    if has_compiled() and state.backend != "numpy":
        from placement import kernels  # noqa: PLC0415 -- only where numba is installed

        handle = STRATEGIES["atc23-fgd"].program(state).handle
        return lambda rows: kernels.survey_all(rows, handle)
    columns = Columns(state)

    def measure(rows):  # type: ignore[no-untyped-def]  # as above
        cpu = state.offered[CPU_ROW, rows] - state.taken[CPU_ROW, rows]
        return fragmentation(columns, cpu, state.gpu_free[rows], state.gpu_model[rows])

    return measure
