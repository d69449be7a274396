"""FGD's measure of fragmentation (Weng et al., USENIX ATC'23): free GPU that pods as they usually come could not use."""

from __future__ import annotations

import numpy as np

from placement.columns import Columns
from placement.resources import FloatArray, IntArray

FRAGMENT_CAUSES = (
    "too little CPU and GPU",
    "devices with too little left",
    "too little CPU",
    "pods that want no GPU",
    "pods that want no GPU, and too little CPU for them",
    "device models that pods do not accept",
)
"""Why free GPU is a fragment, in the order of :func:`fragments`' rows (the artifact's q1, q2, q4, xl, xr, na)."""


def fragments(columns: Columns, cpu: IntArray, free: IntArray, models: IntArray) -> FloatArray:
    """FGD's expected fragment of nodes by cause, in milli-GPU: ``(6, n)`` float64.

    Parameters
    ----------
    cpu : ``(n,)`` free millicores. free : ``(n, G)`` free shares. models : ``(n,)`` device model ids.
    """
    labels = np.zeros((6, len(cpu)))
    total = free.sum(axis=1)
    shares: dict[int, tuple[IntArray, IntArray]] = {}
    """Share → devices with at least that much free, and what the others have free."""
    for (need_cpu, milli, count), p, allowed_models in zip(
        columns.kinds.tolist(), columns.probability.tolist(), columns.kind_allowed, strict=False
    ):
        has_cpu = cpu >= need_cpu
        expected = p * total
        if count == 0:
            labels[3] += np.where(has_cpu, expected, 0.0)
            labels[4] += np.where(has_cpu, 0.0, expected)
            continue
        if milli not in shares:
            enough = free >= milli
            shares[milli] = enough.sum(axis=1), np.where(enough, 0, free).sum(axis=1)
        num_enough, below = shares[milli]
        has_gpu = num_enough >= count
        allowed = allowed_models[models]
        if not allowed.all():
            labels[5] += np.where(allowed, 0.0, expected)
            expected = np.where(allowed, expected, 0.0)
            below = np.where(allowed, below, 0)
        labels[0] += np.where(has_cpu | has_gpu, 0.0, expected)
        labels[2] += np.where(has_gpu & ~has_cpu, expected, 0.0)
        labels[1] += np.where(has_cpu, np.where(has_gpu, p * below, expected), 0.0)
    return labels


def fragmentation(columns: Columns, cpu: IntArray, free: IntArray, models: IntArray) -> FloatArray:
    """FGD's expected fragment F_n(M) of nodes, in milli-GPU: ``(n,)`` float64. Parameters as of :func:`fragments`.

    Notes
    -----
    ATC'23, section 4. Summed per label in the artifact's order q1, q2, q4, xl, xr, na, which decides last bits.
    """
    labels = fragments(columns, cpu, free, models)
    result: FloatArray = labels[0] + labels[1] + labels[2] + labels[3] + labels[4] + labels[5]
    return result
