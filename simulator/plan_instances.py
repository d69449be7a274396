"""Seeded instances on which plans are judged: batches, consolidation, purchase, and "Priority Matters".

The generator of :func:`priority_instance` re-implements, bit for bit, the published one of "Priority Matters"
(arXiv 2511.08373), so that its seeds give its pods; the golden instance is in the tests. The other
generators are ours: plain, committed, and a pure function of their seed.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

import numpy as np

from placement.resources import IntArray

CPU_MILLICORES = (100, 1000)
MEMORY_BYTES = (100_000_000, 1_000_000_000)
REPLICAS = (1, 4)


@dataclass(frozen=True)
class PriorityInstance:
    """Replica sets for identical nodes, in submission order.

    ``replicas``, ``priority`` are ``(S,)``; ``request`` is ``(2, S)`` in millicores and bytes; ``allocatable`` is
    ``(2,)``, the same for each of ``num_nodes`` nodes. A higher ``priority`` matters more.
    """

    seed: int
    num_nodes: int
    replicas: IntArray
    request: IntArray
    priority: IntArray
    allocatable: IntArray

    @property
    def num_pods(self) -> int:
        """Pods over all replica sets."""
        return int(self.replicas.sum())


def labelled_random(seed: int, label: str) -> random.Random:
    """The published child generator: Python's Mersenne twister, seeded with BLAKE2b-128 of seed and label."""
    digest = hashlib.blake2b(seed.to_bytes(16, "big") + b"\0" + label.encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big"))


def priority_instance(
    seed: int, *, num_nodes: int, pods_per_node: int, num_priorities: int, util: float
) -> PriorityInstance:
    """Instance of one seed and cell: sizes 1–4, 100–1000 m, 100–1000 MB, node size from the wanted utilisation."""
    sizes = labelled_random(seed, "rs-sizes")
    remaining = num_nodes * pods_per_node
    replicas: list[int] = []
    while remaining:
        replicas.append(min(sizes.randint(*REPLICAS), remaining))
        remaining -= replicas[-1]
    cpu, memory, base = (labelled_random(seed, label) for label in ("rs-cpu", "rs-mem", "base"))
    request = np.array(
        [[cpu.randint(*CPU_MILLICORES) for _ in replicas], [memory.randint(*MEMORY_BYTES) for _ in replicas]], np.int64
    )
    priority = np.array([base.randint(1, num_priorities) for _ in replicas], np.int64)
    count = np.array(replicas, np.int64)
    total = request @ count
    allocatable = [
        max(int(row.max()), math.ceil(math.ceil(int(all_pods) / util) / num_nodes))
        for row, all_pods in zip(request, total, strict=True)
    ]
    return PriorityInstance(seed, num_nodes, count, request, priority, np.array(allocatable, np.int64))
