"""Who gets what on a node that is asked for more than it has: one five-minute step, vectorised over all nodes.

CPU is compressible: the kernel's scheduler divides it by weights (requests), and what a pod wanted and did not get is
throttled. Memory is not: a node over its memory kills, in the order in which kubelet ranks pods under memory pressure
(``pkg/kubelet/eviction/helpers.go``, ``rankMemoryPressureFunc``): who exceeds his request, then low priority, then
who exceeds it by most. Pure functions of arrays; who restarts is the replay's business.
"""

from __future__ import annotations

import numpy as np

from placement.resources import BoolArray, FloatArray, IntArray

LEAST_WEIGHT = 2.0
"""cgroup ``cpu.shares`` of a pod without a CPU request; about two millicores' worth."""


def share_cpu(node: IntArray, weight: FloatArray, want: FloatArray, capacity: FloatArray) -> FloatArray:
    """Weighted max-min division of each node's CPU: ``(P,)`` millicores that each pod gets.

    Nobody gets more than he wants, nothing is idle while somebody wants more, and two pods that both get less than
    they want get it in proportion to their weights.

    Parameters
    ----------
    node : ``(P,)`` index into ``capacity``.
    weight, want : ``(P,)``, weight > 0 and want >= 0, millicores.
    capacity : ``(N,)`` millicores.
    """
    got = want.astype(np.float64)
    demand = np.bincount(node, weights=want, minlength=len(capacity))
    tight = np.flatnonzero((demand > capacity)[node])
    if not len(tight):
        return got
    tight = tight[np.lexsort((want[tight] / weight[tight], node[tight]))]
    n, w, d = node[tight], weight[tight], want[tight]
    first = np.flatnonzero(np.r_[True, n[1:] != n[:-1]])
    segment = np.cumsum(np.r_[False, n[1:] != n[:-1]])
    served = _before(d, first, segment)
    weights = np.add.reduceat(w, first)[segment] - _before(w, first, segment)
    level = (
        capacity[n] - served
    ) / weights  # if all before k are served in full, and k and those after divide the rest
    short = d / w > level
    position = np.where(short, np.arange(len(d)), len(d))
    cut = np.minimum.reduceat(position, first)
    lambdas = level[np.minimum(cut, len(d) - 1)][segment]
    got[tight] = np.where(np.arange(len(d)) >= cut[segment], np.minimum(np.maximum(lambdas * w, 0.0), d), d)
    return got


def _before(values: FloatArray, first: IntArray, segment: IntArray) -> FloatArray:
    """Sum of the values before each, within its segment."""
    total = np.cumsum(values) - values
    result: FloatArray = total - total[first][segment]
    return result


def to_kill(
    node: IntArray, used: FloatArray, request: FloatArray, priority: IntArray, capacity: FloatArray
) -> BoolArray:
    """``(P,)`` bool: the pods that die so that each node's memory suffices again, in kubelet's order.

    Parameters
    ----------
    node : ``(P,)`` index into ``capacity``.
    used, request : ``(P,)`` bytes.
    priority : ``(P,)`` pod priority.
    capacity : ``(N,)`` bytes.
    """
    killed = np.zeros(len(node), np.bool_)
    excess = np.bincount(node, weights=used, minlength=len(capacity)) - capacity
    over = np.flatnonzero((excess > 0)[node])
    if not len(over):
        return killed
    beyond = used[over] - request[over]
    over = over[np.lexsort((-beyond, priority[over], beyond <= 0, node[over]))]
    n = node[over]
    first = np.flatnonzero(np.r_[True, n[1:] != n[:-1]])
    freed = _before(used[over], first, np.cumsum(np.r_[False, n[1:] != n[:-1]]))
    killed[over] = (freed < excess[n]) & (used[over] > 0)
    return killed
