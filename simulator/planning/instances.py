"""Seeded instances on which plans are judged: batches, consolidation, purchase, and "Priority Matters".

The generator of :func:`priority_instance` re-implements, bit for bit, the published one of "Priority Matters"
(arXiv 2511.08373), so that its seeds give its pods; the golden instance is in the tests. The other
generators are ours: plain, committed, and a pure function of their seed.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass, replace

import numpy as np

from placement.planning.batch import Batch, ZoneSpread
from placement.planning.company import PARTS
from placement.planning.fleet import Fleet
from placement.planning.nearness import Nearness
from placement.planning.purchase import Demand, Shape
from placement.rates import RATES
from placement.resources import BoolArray, IntArray
from placement.soft import INTER_POD_WEIGHT, MAX_SCORE

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


NODE_SHAPES = ((8_000, 32), (16_000, 64), (16_000, 128), (32_000, 64), (32_000, 128), (48_000, 192), (64_000, 256))
"""(millicores, GiB) of the nodes in generated clusters."""
POD_MILLICORES = (100, 250, 500, 1000, 2000, 4000, 8000)
POD_GIB_PER_CORE = (1.0, 2.0, 4.0, 8.0)
GIB = 2**30


def batch_instance(seed: int, *, num_pods: int, num_nodes: int, with_rules: bool = False) -> Batch:
    """Pending pods in ``num_pods / 5`` classes, nodes of seven shapes about 80 % full, three resources.

    ``with_rules`` adds a node selector on about a third of the classes, at most one pod per node on a fifth
    (anti-affinity), zone spread with skew 1 on a fifth, and gangs of two classes on a fifth. Classes of one pod per node
    have the selectors of the first fifth in place of their own; published figures stand on that.
    """
    random_ = np.random.default_rng(seed)
    num_classes = max(1, num_pods // 5)
    request, count = _pod_classes(random_, num_classes, num_pods)
    shape = np.array(NODE_SHAPES)[random_.integers(len(NODE_SHAPES), size=num_nodes)]
    allocatable = np.stack([shape[:, 0], shape[:, 1] * GIB, np.full(num_nodes, 110)]).astype(np.int64)
    taken = np.clip(random_.normal(0.8, 0.08, num_nodes), 0.4, 0.98) + random_.normal(0, 0.07, (3, num_nodes))
    taken[2] *= 0.6
    free = (allocatable * (1 - np.clip(taken, 0.2, 1.0))).astype(np.int64)
    most = np.repeat(count[:, None], num_nodes, axis=1)
    gang = np.full(num_classes, -1, np.int64)
    zone_of = random_.integers(3, size=num_nodes)
    spreads: tuple[ZoneSpread, ...] = ()
    if with_rules:
        for c in random_.permutation(num_classes)[: num_classes // 3]:
            most[c] *= random_.random(num_nodes) < 0.3
        most[random_.permutation(num_classes)[: num_classes // 5]] = np.minimum(1, most[: num_classes // 5])
        spread = random_.permutation(num_classes)[: num_classes // 5]
        spreads = tuple(ZoneSpread(int(c), 1, np.zeros(3, np.int64)) for c in spread)
        gangs = random_.permutation(num_classes)[: num_classes // 5 // 2 * 2]
        gang[gangs] = np.arange(len(gangs)) // 2
    return Batch(request, count, free, allocatable, most, gang, zone_of, spreads)


def with_wishes(batch: Batch, seed: int) -> Batch:
    """A batch with wishes in kube-scheduler's points, about nodes that are scarce.

    One node in five has a PreferNoSchedule taint that half of the classes do not tolerate (300 points); half of the classes
    prefer a label on one node in fifty (200); a third have pods of theirs in zones that they like or shun (0 to 200).
    """
    random_ = labelled_random(seed, "wishes")
    num_classes, num_nodes = batch.most.shape
    tainted = np.array([random_.random() < 0.2 for _ in range(num_nodes)])
    labelled = np.array([random_.random() < 0.02 for _ in range(num_nodes)])
    wish = np.zeros((num_classes, num_nodes), np.int64)
    for c in range(num_classes):
        wish[c] += np.where(tainted, 0, 300) if random_.random() < 0.5 else 0
        wish[c] += np.where(labelled, 200, 0) if random_.random() < 0.5 else 0
        if random_.random() < 1 / 3:
            wish[c] += np.array([random_.randint(0, 200) for _ in range(int(batch.zone_of.max()) + 1)])[batch.zone_of]
    fits = batch.fitting() > 0
    least = np.where(fits, wish, wish.max()).min(axis=1, keepdims=True)
    return replace(batch, wish=np.where(fits, wish - least, 0))


def with_priorities(batch: Batch, seed: int) -> Batch:
    """A batch whose classes have one of four priorities each."""
    random_ = labelled_random(seed, "priorities")
    return replace(batch, priority=np.array([random_.randint(0, 3) for _ in batch.count], np.int64))


def with_company(batch: Batch, seed: int) -> Batch:
    """A batch with :func:`with_wishes`, and with wishes among its pods, each worth up to 200 points a pod.

    Half of the classes would rather not share a node with their own kind (preferred anti-affinity), half of those that may
    go to any zone anyway are spread over zones softly (``ScheduleAnyway``), one in ten would be in the zone of another
    class, and one in ten on the node of another one (preferred affinity). All is scaled as for pods of a cluster
    (:mod:`placement.planning.company`): to the most that a pod of the class can gain or lose.
    """
    batch = with_wishes(batch, seed)
    random_ = labelled_random(seed, "company")
    num_classes, num_nodes = batch.most.shape
    assert batch.wish is not None, "wishes were just added"
    host, zones = np.arange(num_nodes), int(batch.zone_of.max()) + 1
    fits = batch.fitting() > 0
    spread = {s.pod_class for s in batch.spreads}
    wish = batch.wish * PARTS
    near = []
    for c in range(num_classes):
        others = [k for k in range(num_classes) if k != c]
        wanted: list[tuple[int, int, IntArray, int]] = []
        if random_.random() < 0.5:
            wanted.append((c, -1, host, num_nodes))
        if random_.random() < 0.5 and c not in spread:
            wanted.append((c, -1, batch.zone_of, zones))
        if random_.random() < 0.1:
            wanted.append((random_.choice(others), 1, batch.zone_of, zones))
        if random_.random() < 0.1:
            wanted.append((random_.choice(others), 1, host, num_nodes))
        for other, sign, place, number in wanted:
            pods = int(batch.count[other]) - int(other == c)
            if pods == 0:
                continue
            gains = np.zeros(num_classes, np.int64)
            gains[other] = sign * (INTER_POD_WEIGHT * MAX_SCORE * PARTS // pods)
            near.append(Nearness(c, gains, place, place, number))
            wish[c] += np.where(fits[c] & (sign < 0), -gains[other] * pods, 0)
    return replace(batch, wish=wish, near=tuple(near), parts=PARTS)


def _pod_classes(random_: np.random.Generator, num_classes: int, num_pods: int) -> tuple[IntArray, IntArray]:
    """``(3, C)`` requests and ``(C,)`` counts that sum to ``num_pods``, each class at least one pod."""
    cpu = np.array(POD_MILLICORES)[random_.integers(len(POD_MILLICORES), size=num_classes)]
    ratio = np.array(POD_GIB_PER_CORE)[random_.integers(len(POD_GIB_PER_CORE), size=num_classes)]
    memory = (cpu / 1000 * ratio * random_.uniform(0.7, 1.3, num_classes) * GIB).astype(np.int64)
    count = 1 + random_.multinomial(num_pods - num_classes, np.full(num_classes, 1 / num_classes))
    return np.stack([cpu, memory, np.ones(num_classes, np.int64)]).astype(np.int64), count.astype(np.int64)


SPOT_SHARE = 0.3
SPOT_DISCOUNT = 0.4


def fleet_instance(seed: int, *, num_nodes: int) -> Fleet:
    """Half-empty nodes of seven shapes, 30 % of them spot at 0.4 × the price; half of the classes tolerate spot.

    Every pod went to a random node that had room, as the spreading default scheduler and later departures leave it.
    """
    random_ = np.random.default_rng(seed)
    num_pods = 10 * num_nodes
    num_classes = min(100, num_pods)
    request, count = _pod_classes(random_, num_classes, num_pods)
    request[:2] = request[:2] // 2
    shape = np.array(NODE_SHAPES)[random_.integers(2, len(NODE_SHAPES), size=num_nodes)]
    allocatable = np.stack([shape[:, 0], shape[:, 1] * GIB, np.full(num_nodes, 110)]).astype(np.int64)
    spot = random_.random(num_nodes) < SPOT_SHARE
    price = shape[:, 0] / 1000 * RATES.cpu + shape[:, 1] * RATES.memory_gib
    allowed = np.ones((num_classes, num_nodes), np.bool_)
    allowed[random_.random(num_classes) < 0.5] = ~spot
    on_node = np.zeros((num_classes, num_nodes), np.int64)
    free = allocatable.copy()
    for c in random_.permutation(np.repeat(np.arange(num_classes), count)):
        for n in random_.integers(num_nodes, size=40):
            if allowed[c, n] and (free[:, n] >= request[:, c]).all():
                on_node[c, n] += 1
                free[:, n] -= request[:, c]
                break
    deletable = random_.random(num_nodes) > 0.03
    return Fleet(request, on_node, free, allowed, deletable, np.where(spot, SPOT_DISCOUNT, 1.0) * price)


def spot_nodes(seed: int, *, num_nodes: int) -> BoolArray:
    """``(N,)`` which nodes of :func:`fleet_instance` are spot: those at the discount."""
    fleet = fleet_instance(seed, num_nodes=num_nodes)
    shapes = np.array(NODE_SHAPES)
    full = shapes[:, 0] / 1000 * RATES.cpu + shapes[:, 1] * RATES.memory_gib
    return np.asarray(~np.isclose(fleet.usd_per_hour[:, None], full).any(axis=1), np.bool_)


SHAPES_FOR_SALE = (
    *((f"c{n}", n, 2 * n, 0.0425 * n) for n in (4, 8, 16, 32)),
    *((f"m{n}", n, 4 * n, 0.048 * n) for n in (4, 8, 16, 32)),
    *((f"r{n}", n, 8 * n, 0.063 * n) for n in (4, 8, 16, 32)),
)
"""(name, cores, GiB, USD per hour): compute-, general- and memory-heavy, priced as public lists are."""
RESERVED_MILLICORES = 300
RESERVED_BYTES = 3 * GIB // 2
"""System reserve and DaemonSets per node."""


def purchase_instance(seed: int, *, num_pods: int) -> tuple[Demand, list[Shape]]:
    """Pending pods in 18–60 classes, and twelve shapes with list-like prices."""
    random_ = np.random.default_rng(seed)
    num_classes = min(int(random_.integers(18, 61)), num_pods)
    request, count = _pod_classes(random_, num_classes, num_pods)
    request[0] = np.minimum(request[0], 4000)
    request[1] = np.minimum(request[1], 24 * GIB)
    shapes = [
        Shape(
            name,
            np.array([1000 * cores - RESERVED_MILLICORES, gib * GIB - RESERVED_BYTES, 110], np.int64),
            round(usd, 4),
        )
        for name, cores, gib, usd in SHAPES_FOR_SALE
    ]
    return Demand(request, count, np.ones((num_classes, len(shapes)), np.bool_)), shapes
