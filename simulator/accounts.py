"""A ledger against its residents: columns are sums of what runs, and no node or device is given twice."""

from __future__ import annotations

import numpy as np

from placement.state import NUM_DERIVED, ClusterState


def check_ledger(state: ClusterState) -> None:
    """Assert that nothing is lost, and nothing counted twice."""
    taken = np.zeros_like(state.taken)
    gpu_free = np.zeros_like(state.gpu_free)
    for row, node in enumerate(state.nodes):
        if node is not None:
            gpu_free[row, : node.num_gpus] = 1000
    for resident in state.residents.values():
        taken[:, resident.row] += state.delta(resident.spec)
        for g in range(resident.devices.bit_length()):
            if resident.devices >> g & 1 and resident.spec.gpu is not None:
                gpu_free[resident.row, g] -= resident.spec.gpu.milli
    assert (taken == state.taken).all(), "the ledger's columns are not the sum of its residents"
    assert (gpu_free == state.gpu_free).all(), "device shares are not what residents left"
    assert (gpu_free >= 0).all(), "a device is given twice"
    lanes = slice(NUM_DERIVED, None)
    over = (state.taken[lanes] > state.offered[lanes]) & state.is_alive
    assert not over.any(), "a node is over its allocatable"
