"""Scorers: how good a node is for a pod, as integers, higher is better.

A scorer is a frozen dataclass with one method, ``score(columns, demand, rows)``, which returns int64 for the
given node rows *as if the pod were not yet there*. It also names the opcode of its compiled twin in
:mod:`placement.kernels` and the integers that parametrise it; both back ends agree to the last bit, so floating
point appears only where a published definition demands it, in one fixed order of operations.

``kind`` is ``"absolute"`` when a node's score does not depend on who else is a candidate, else ``"relative"``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, ClassVar

import numpy as np

from placement.columns import Columns, Demand
from placement.fragments import fragmentation
from placement.outlook import (
    FIRST_STAY,
    FIRST_WINDOW,
    LIFE,
    MEAN_CPU,
    MEAN_MEMORY,
    STAY_UNIT,
    UNKNOWN_CPU,
    UNKNOWN_MEMORY,
    UPPER_CPU,
    UPPER_MEMORY,
)
from placement.resources import DEVICE_MILLI, NOT_FEASIBLE, FloatArray, IntArray
from placement.state import (
    CPU_ROW,
    GPU_CLASSES,
    GPU_ROW,
    MEMORY_ROW,
    NUM_GPU_CLASSES,
    PODS_ROW,
    SCORED_CPU,
    SCORED_MEMORY,
)

SHARE = 1 << 20
"""Fixed-point one for shares of a resource."""
COST_UNIT = 1 << 20
"""Fixed-point one for costs in milli-GPU."""
MIB = 20
"""Memory enters fixed-point products in MiB, so that they stay inside int64."""
NO_DEVICE = -(2**61)
"""Score of a device that a pod does not fit on, below that of any other."""
NUM_PARAMS = 8
MAX_WEIGHT_MILLI = 0xFFF
"""Of a term of :class:`Stranded`, which shares an integer with another number."""


@dataclass(frozen=True, slots=True)
class Scorer(ABC):
    """What a strategy adds up."""

    kind: ClassVar[str] = "absolute"
    opcode: ClassVar[int]

    def params(self) -> tuple[int, ...]:
        """At most :data:`NUM_PARAMS` − 2 integers for the compiled twin: the scorer's own parameters, in order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def _need(self, **least: int) -> None:
        """Refuse parameters below what they must be at least."""
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {low}")

    @abstractmethod
    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        """``(n,)`` int64 for node rows ``(n,)``."""


def _free(columns: Columns, rows: IntArray, lane: int) -> IntArray:
    """What is free of one quantity on each node."""
    return columns.state.offered[lane, rows] - columns.state.taken[lane, rows]


_BASE_SHIFT = np.array([[0], [MIB], [0], [0]], np.int64)
_BASE_SHARE = np.array([[SHARE], [SHARE], [0], [SHARE]], np.int64)
"""Over the base resources (CPU, memory, pods, GPU): what brings amounts into fixed-point products; pods count nothing."""


@cache
def _base_references(cpu: int, memory_mib: int, gpu_milli: int) -> IntArray:
    """``(4, 1)`` int64: the reference machine over the base resources."""
    return np.array([[cpu], [memory_mib], [1], [gpu_milli]], np.int64)


# ── classics ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class FirstFit(Scorer):
    """Every node alike: the first that fits wins."""

    opcode: ClassVar[int] = 0

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        return np.zeros(len(rows), np.int64)


@dataclass(frozen=True, slots=True)
class Leftover(Scorer):
    """What stays free after placement, in shares of a reference machine, summed over CPU, memory and GPUs.

    With weight −1 this is best fit (least left over), with weight 1 worst fit.
    """

    reference_cpu: int = 128_000
    """Millicores of the reference machine."""
    reference_memory_mib: int = 1 << 20
    reference_gpu_milli: int = 8_000
    opcode: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self._need(reference_cpu=1, reference_memory_mib=1, reference_gpu_milli=1)

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        base = slice(CPU_ROW, GPU_ROW + 1)
        left: IntArray = columns.free(rows).T[base].copy()  # one quantity side by side: loops over nodes are long
        left -= demand.delta[base, None]
        left >>= _BASE_SHIFT
        left *= _BASE_SHARE
        left //= _base_references(self.reference_cpu, self.reference_memory_mib, self.reference_gpu_milli)
        total: IntArray = np.add.reduce(left)
        return total


@dataclass(frozen=True, slots=True)
class Alignment(Scorer):
    """Dot product of what is free and what is asked (Tetris; Grandl et al., SIGCOMM'14), in reference shares."""

    reference_cpu: int = 128_000
    reference_memory_mib: int = 1 << 20
    reference_gpu_milli: int = 8_000
    opcode: ClassVar[int] = 2

    def __post_init__(self) -> None:
        self._need(reference_cpu=1, reference_memory_mib=1, reference_gpu_milli=1)

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        delta = demand.delta
        cpu = _free(columns, rows, CPU_ROW) * SHARE // self.reference_cpu
        memory = (_free(columns, rows, MEMORY_ROW) >> MIB) * SHARE
        gpu = _free(columns, rows, GPU_ROW) * SHARE // self.reference_gpu_milli
        asked_cpu = delta[CPU_ROW] * SHARE // self.reference_cpu
        asked_memory = (delta[MEMORY_ROW] >> MIB) * SHARE // self.reference_memory_mib
        asked_gpu = demand.milli * demand.count * SHARE // self.reference_gpu_milli
        total = cpu * asked_cpu + memory // self.reference_memory_mib * asked_memory + gpu * asked_gpu
        return total >> 20


# ── kube-scheduler ────────────────────────────────────────────────────────────────────────────

MAX_NODE_SCORE = 100


def _kube_mean(columns: Columns, demand: Demand, rows: IntArray, *, most: bool) -> IntArray:
    total = np.zeros(len(rows), np.int64)
    weight = np.zeros(len(rows), np.int64)
    for scored, lane in ((SCORED_CPU, CPU_ROW), (SCORED_MEMORY, MEMORY_ROW)):
        used = columns.state.taken[scored, rows] + demand.delta[scored]
        offered = columns.state.offered[lane, rows]
        capacity = np.maximum(offered, 1)
        clipped = np.minimum(used, capacity)
        share = clipped if most else capacity - clipped
        total += np.where(offered > 0, share * MAX_NODE_SCORE // capacity, 0)
        weight += offered > 0
    return total // np.maximum(weight, 1)


@dataclass(frozen=True, slots=True)
class LeastAllocated(Scorer):
    """NodeResourcesFit's default (``noderesources/least_allocated.go``), CPU and memory weighted alike."""

    opcode: ClassVar[int] = 3

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        return _kube_mean(columns, demand, rows, most=False)


@dataclass(frozen=True, slots=True)
class MostAllocated(Scorer):
    """NodeResourcesFit's bin packing (``noderesources/most_allocated.go``)."""

    opcode: ClassVar[int] = 4

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        return _kube_mean(columns, demand, rows, most=True)


@dataclass(frozen=True, slots=True)
class RequestedToCapacity(Scorer):
    """NodeResourcesFit's RequestedToCapacityRatio with a two-point shape (``requested_to_capacity_ratio.go``).

    Scores are 0–10 at the two utilisations, as in the configuration API.
    """

    low_percent: int = 0
    low_score: int = 0
    high_percent: int = 100
    high_score: int = 10
    opcode: ClassVar[int] = 5

    def __post_init__(self) -> None:
        if self.high_percent <= self.low_percent:
            raise ValueError(
                f"high_percent is {self.high_percent}, must be above low_percent, which is {self.low_percent}"
            )

    def params(self) -> tuple[int, ...]:
        return (self.low_percent, self.low_score * 10, self.high_percent, self.high_score * 10)

    def _shape(self, percent: IntArray) -> IntArray:
        x0, y0, x1, y1 = self.params()
        product = (y1 - y0) * (percent - x0)
        middle = y0 + np.sign(product) * (np.abs(product) // (x1 - x0))  # Go truncates towards zero
        return np.where(percent < x0, y0, np.where(percent >= x1, y1, middle))

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        total = np.zeros(len(rows), np.int64)
        weight = np.zeros(len(rows), np.int64)
        for scored, lane in ((SCORED_CPU, CPU_ROW), (SCORED_MEMORY, MEMORY_ROW)):
            used = columns.state.taken[scored, rows] + demand.delta[scored]
            offered = columns.state.offered[lane, rows]
            percent = np.where(used > offered, MAX_NODE_SCORE, used * MAX_NODE_SCORE // np.maximum(offered, 1))
            score = np.where(offered > 0, self._shape(percent), 0)
            total += np.maximum(score, 0)
            weight += score > 0
        doubled = np.maximum(weight, 1)
        return np.where(weight > 0, (2 * total + doubled) // (2 * doubled), 0)


def _balance(columns: Columns, rows: IntArray, cpu: int = 0, memory: int = 0) -> IntArray:
    """50 to 100: a hundred less half the distance between the shares of CPU and memory that are taken, with so much more."""
    state = columns.state
    cpu_offered, memory_offered = state.offered[CPU_ROW, rows], state.offered[MEMORY_ROW, rows]
    share_cpu = np.minimum((state.taken[CPU_ROW, rows] + cpu) / np.maximum(cpu_offered, 1), 1.0)
    share_memory = np.minimum((state.taken[MEMORY_ROW, rows] + memory) / np.maximum(memory_offered, 1), 1.0)
    spread = np.abs((share_cpu - share_memory) / 2)
    spread = np.where((cpu_offered > 0) & (memory_offered > 0), spread, 0.0)
    return ((1 - spread) * float(MAX_NODE_SCORE)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class BalancedAllocation(Scorer):
    """NodeResourcesBalancedAllocation from 1.36 on (``balanced_allocation.go``): 75 = the pod changes nothing.

    Zero everywhere for a pod that asks for neither CPU nor memory, as the plug-in skips those.
    """

    opcode: ClassVar[int] = 6

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        cpu, memory = int(demand.delta[CPU_ROW]), int(demand.delta[MEMORY_ROW])
        if not cpu and not memory:
            return np.zeros(len(rows), np.int64)
        half = MAX_NODE_SCORE // 2
        return half + (half + _balance(columns, rows, cpu, memory) - _balance(columns, rows)) // 2


@dataclass(frozen=True, slots=True)
class BalancedAfter(Scorer):
    """NodeResourcesBalancedAllocation up to 1.35: how balanced the node is with the pod, however it was before."""

    opcode: ClassVar[int] = 7

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        cpu, memory = int(demand.delta[CPU_ROW]), int(demand.delta[MEMORY_ROW])
        return _balance(columns, rows, cpu, memory) if cpu or memory else np.zeros(len(rows), np.int64)


# ── the FGD paper's policies (Weng et al., USENIX ATC'23), as its artifact computes them ──────


@dataclass(frozen=True, slots=True)
class AtcDotProduct(Scorer):
    """Small dot product of free and asked preferred, GPUs merged, "max" norm."""

    opcode: ClassVar[int] = 10

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        cpu = _free(columns, rows, CPU_ROW) / 128000.0
        gpu = _free(columns, rows, GPU_ROW) / 8000.0
        asked_cpu, asked_gpu = int(demand.delta[CPU_ROW]) / 128000.0, demand.milli * demand.count / 8000.0
        return (100.0 * (1.0 - (cpu * asked_cpu + gpu * asked_gpu) / 2.0)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class AtcBestFit(Scorer):
    """Least left over, CPU and GPU weighted alike; the artifact then normalises over the candidates."""

    kind: ClassVar[str] = "relative"
    opcode: ClassVar[int] = 11

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        cpu = _free(columns, rows, CPU_ROW) - demand.delta[CPU_ROW]
        gpu = _free(columns, rows, GPU_ROW) - demand.milli * demand.count
        return (100.0 * (1.0 - 0.5 * (cpu / 128000.0) - 0.5 * (gpu / 8000.0))).astype(np.int64)


@dataclass(frozen=True, slots=True)
class AtcPacking(Scorer):
    """GPU packing: partly used devices first, then partly used nodes, then empty nodes with few devices."""

    opcode: ClassVar[int] = 12

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        if not demand.count:
            return np.zeros(len(rows), np.int64)
        state = columns.state
        free, num = state.gpu_free[rows], state.gpu_count[rows]
        whole = (free == DEVICE_MILLI).sum(axis=1)
        if demand.is_shared:
            tightest = np.where(free >= demand.milli, free, DEVICE_MILLI + 1).min(axis=1)
            opened = (tightest == DEVICE_MILLI).astype(np.int64)
            partly = np.maximum(100 - tightest // 10 // 10, 50)
        else:
            opened = np.full(len(rows), demand.count, np.int64)
            partly = np.zeros(len(rows), np.int64)
        score = np.where(opened > 0, np.maximum(50 - opened, 33), partly)
        return np.where(whole == num, np.maximum(33 - num, num), score)


@dataclass(frozen=True, slots=True)
class AtcClustering(Scorer):
    """Pods of one GPU class together, on the fullest node."""

    opcode: ClassVar[int] = 13

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        if not demand.count:
            return np.zeros(len(rows), np.int64)
        hosted = columns.state.taken[GPU_CLASSES : GPU_CLASSES + NUM_GPU_CLASSES][:, rows] > 0
        num_classes = hosted.sum(axis=0)
        own = hosted[demand.gpu_class]
        bonus = np.where(own & (num_classes == 1), 75, np.where(own, 50, np.where(num_classes == 0, 25, 0)))
        return 25 * (8000 - _free(columns, rows, GPU_ROW)) // 8000 + bonus


@cache
def sigmoid_thresholds() -> FloatArray:
    """``(100,)`` float64: smallest D for which ``trunc(100 / (1 + exp(-D / 1000)))`` is at least 1…100.

    Found by bisection between neighbouring floats, so that counting thresholds gives exactly what the
    formula gives, without ``exp`` in a kernel.
    """

    def score(gain: float) -> int:
        return int(100 / (1 + math.exp(-gain / 1000)))

    thresholds = []
    for target in range(1, 101):
        low, high = -60_000.0, 60_000.0
        if score(high) < target:
            thresholds.append(math.inf)
            continue
        while math.nextafter(low, math.inf) < high:
            middle = (low + high) / 2
            if middle in (low, high):
                break
            low, high = (low, middle) if score(middle) >= target else (middle, high)
        thresholds.append(high)
    return np.array(thresholds)


def _free_shares(columns: Columns, rows: IntArray) -> IntArray:
    """``(n, G)`` what each device has free for certain; 0 for those that a node no longer has, whoever is still on them."""
    state = columns.state
    free = state.gpu_free[rows]
    there = np.arange(free.shape[1]) < state.gpu_count[rows, None]
    return np.where(there, free, 0)


@dataclass(frozen=True, slots=True)
class AtcFgd(Scorer):
    """Fragmentation gradient descent: how much expected fragment the placement removes, squashed to 0–100.

    For a shared pod, the best device counts.
    """

    opcode: ClassVar[int] = 14

    def device_scores(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        """``(n, G)`` int64: score of each device for a shared pod, −1 where it does not fit."""
        cpu = _free(columns, rows, CPU_ROW)
        free, models = _free_shares(columns, rows), columns.state.gpu_model[rows]
        before = fragmentation(columns, cpu, free, models)
        scores = np.full(free.shape, -1, np.int64)
        for device in range(free.shape[1]):
            fits = free[:, device] >= demand.milli
            if not fits.any():
                continue
            after = free.copy()
            after[:, device] -= demand.milli
            gain = before - fragmentation(columns, cpu - demand.delta[CPU_ROW], after, models)
            scores[fits, device] = np.searchsorted(sigmoid_thresholds(), gain[fits], side="right")
        return scores

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        if demand.is_shared:
            return self.device_scores(columns, demand, rows).max(axis=1)
        cpu = _free(columns, rows, CPU_ROW)
        free, models = _free_shares(columns, rows), columns.state.gpu_model[rows]
        before = fragmentation(columns, cpu, free, models)
        whole = free == DEVICE_MILLI
        taken = whole & (np.cumsum(whole, axis=1) <= demand.count)
        after = np.where(taken, 0, free)
        gain = before - fragmentation(columns, cpu - demand.delta[CPU_ROW], after, models)
        return np.searchsorted(sigmoid_thresholds(), gain, side="right").astype(np.int64)


# ── ours ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Stranded(Scorer):
    """Free GPU that no CPU is left for: the growth of Σ w·max(0, R − C/k), in milli-GPU, as a cost.

    One term assumes that every GPU needs k cores; a few of them span the cores per GPU that pods ask for
    (P10, P20, P50 and P85 of one-GPU pods in the openb trace). Weights are thousandths.
    """

    millicores_per_gpu: tuple[int, ...] = (3200, 8000, 11400, 14000)
    weights_milli: tuple[int, ...] = (80, 30, 50, 10)
    opcode: ClassVar[int] = 20

    def __post_init__(self) -> None:
        if len(self.millicores_per_gpu) != 4 or len(self.weights_milli) != 4:
            raise ValueError("four cores-per-GPU terms and four weights; use weight 0 to drop one")
        if min(self.millicores_per_gpu) < 1:
            raise ValueError(f"millicores_per_gpu is {self.millicores_per_gpu}, each must be at least 1")
        if min(self.weights_milli) < 0 or max(self.weights_milli) > MAX_WEIGHT_MILLI:
            raise ValueError(f"weights_milli is {self.weights_milli}, each must be 0 to {MAX_WEIGHT_MILLI}")

    def params(self) -> tuple[int, ...]:
        """Per term, COST_UNIT·1000/k and the weight, packed as ``inverse << 12 | weight``."""
        return tuple(
            (COST_UNIT * 1000 // k) << 12 | w for k, w in zip(self.millicores_per_gpu, self.weights_milli, strict=True)
        )

    def _stranded(self, cpu: IntArray, gpu: IntArray) -> IntArray:
        total = np.zeros(len(cpu), np.int64)
        for packed in self.params():
            total += (packed & MAX_WEIGHT_MILLI) * np.maximum(gpu * COST_UNIT - cpu * (packed >> 12), 0)
        return total

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        cpu = _free(columns, rows, CPU_ROW)
        gpu = _free(columns, rows, GPU_ROW)
        before = self._stranded(cpu, gpu)
        after = self._stranded(cpu - demand.delta[CPU_ROW], gpu - demand.milli * demand.count)
        return (before - after) // 1000


@dataclass(frozen=True, slots=True)
class DeviceWorth(Scorer):
    """What the shares taken were worth, at LP prices, as a cost; the cheapest sufficient device counts.

    ``open_milli`` is added when a shared pod breaks a whole device. ``whole_milli`` is what a node loses per device when
    its last of eight whole devices goes, and ever more for those before: w² grows fastest on empty nodes, so pods gather
    where little is whole, and nodes become whole again for pods of many devices when others leave.
    """

    open_milli: int = 5
    factor: int = 2
    whole_milli: int = 0
    opcode: ClassVar[int] = 21

    def _broken(self, whole: IntArray, count: int) -> IntArray:
        """The cost of ``count`` fewer whole devices on nodes that have ``whole``."""
        return self.whole_milli * COST_UNIT * (whole * whole - (whole - count) * (whole - count)) // 8

    def device_scores(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        """``(n, G)`` int64: minus the cost of each device for a shared pod, :data:`NO_DEVICE` where it does not fit."""
        free = np.maximum(columns.state.gpu_free[rows], 0)  # below where somebody was seen on a device that is taken
        fits = free >= demand.milli
        worth = columns.worth[columns.group[rows]]
        at = np.take_along_axis
        cost = at(worth, free, axis=1) - at(worth, np.where(fits, free - demand.milli, 0), axis=1)
        is_whole = free == DEVICE_MILLI
        opening = self.open_milli * COST_UNIT + self._broken(is_whole.sum(axis=1, keepdims=True), 1)
        cost = self.factor * cost + np.where(is_whole, opening, 0)
        return np.where(fits, -cost, NO_DEVICE)

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        if not demand.count:
            return np.zeros(len(rows), np.int64)
        if demand.is_shared:
            return self.device_scores(columns, demand, rows).max(axis=1)
        whole = (columns.state.gpu_free[rows] == DEVICE_MILLI).sum(axis=1)
        worth = columns.worth[columns.group[rows], DEVICE_MILLI]
        return -self.factor * demand.count * worth - self._broken(whole, demand.count)


@dataclass(frozen=True, slots=True)
class Rank(Scorer):
    """Explicit first fit: a cost that grows along an order of nodes, ``span_milli`` from first to last.

    The order is drawn from the nodes' names (:func:`placement.state.place_of`): kinds of nodes are well mixed in it, and
    it is the same wherever and however nodes are listed. First fit along the list itself loses up to 5.7 points of GPUs
    where the list is sorted by cores per GPU (docs/results.md).
    """

    span_milli: int = 800
    opcode: ClassVar[int] = 22

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        return -(self.span_milli * columns.state.place[rows])  # places are 2^20, as is COST_UNIT


# ── by predicted use and lifetime ─────────────────────────────────────────────────────────────

FIRST_OUTLOOK = 30
"""Scorers from this opcode on read :attr:`placement.columns.Columns.outlook`."""


@dataclass(frozen=True, slots=True)
class LoadAware(Scorer):
    """Koordinator's load-aware score: mean over CPU and memory of the share that use leaves free, 0–100.

    A node's use is what its pods are known to use on average; the pod itself is estimated at a share of its request
    (``loadaware/estimator/default_estimator.go``: 85 % of CPU, 70 % of memory).
    """

    cpu_percent: int = 85
    memory_percent: int = 70
    opcode: ClassVar[int] = 30

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        columns.follow()
        total = np.zeros(len(rows), np.int64)
        for lane, entry, percent in (
            (CPU_ROW, MEAN_CPU, self.cpu_percent),
            (MEMORY_ROW, MEAN_MEMORY, self.memory_percent),
        ):
            offered = np.maximum(columns.state.offered[lane, rows], 1)
            after = columns.outlook[rows, entry] + demand.delta[lane] * percent // 100
            total += np.maximum(offered - after, 0) * MAX_NODE_SCORE // offered
        return total // 2


@dataclass(frozen=True, slots=True)
class UsageThresholds(Scorer):
    """Koordinator's load-aware filter: 0, or :data:`NOT_FEASIBLE` where a node's pods use more than a share of it.

    Use is what pods that were measured use on average, the pod itself left out, in whole per cent; pods without a
    forecast count nothing, as in a node's metrics before they have run (``loadaware/load_aware.go``, its default
    ``usageThresholds``).
    """

    cpu_percent: int = 65
    memory_percent: int = 95
    opcode: ClassVar[int] = 35

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        columns.follow()
        busy = np.zeros(len(rows), np.bool_)
        for lane, mean, unknown, percent in (
            (CPU_ROW, MEAN_CPU, UNKNOWN_CPU, self.cpu_percent),
            (MEMORY_ROW, MEAN_MEMORY, UNKNOWN_MEMORY, self.memory_percent),
        ):
            offered = np.maximum(columns.state.offered[lane, rows], 1)
            used = columns.outlook[rows, mean] - columns.outlook[rows, unknown]
            busy |= (200 * used + offered) // (2 * offered) > percent
        return np.where(busy, NOT_FEASIBLE, 0)


@dataclass(frozen=True, slots=True)
class Hot(Scorer):
    """How far predicted use would exceed a safe part of the node: 0 below, else minus thousandths of allocatable.

    Use is the sum of upper quantiles of the pods on the node and of the pod itself, compared with ``safe_percent`` of
    what pods without a forecast leave of the node: requests already keep those within it, and nothing more is known.
    Memory counts ``memory_factor`` times, because too little of it kills.
    """

    safe_percent: int = 100
    memory_factor: int = 4
    opcode: ClassVar[int] = 31

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        columns.follow()
        after = columns.outlook[rows] + columns.outlook_of(demand.spec)
        total = np.zeros(len(rows), np.int64)
        for lane, upper, unknown, factor in (
            (CPU_ROW, UPPER_CPU, UNKNOWN_CPU, 1),
            (MEMORY_ROW, UPPER_MEMORY, UNKNOWN_MEMORY, self.memory_factor),
        ):
            offered = np.maximum(columns.state.offered[lane, rows], 1)
            room = np.maximum(offered - after[:, unknown], 0) // 100 * self.safe_percent
            beyond = np.maximum(after[:, upper] - room, 0)
            total += np.minimum(beyond, offered) * 1000 // offered * factor
        return -total


def log_minutes(seconds: IntArray) -> IntArray:
    """Sixteenths of the binary logarithm of one plus the minutes, linear between powers of two; seconds < 2^44."""
    value = (np.maximum(seconds, 0) + 60) * 16 // 60
    exponent = np.frexp(value.astype(np.float64))[1].astype(np.int64) - 5
    return 16 * exponent + (value >> exponent) - 16


@dataclass(frozen=True, slots=True)
class ExitTime(Scorer):
    """By how much the pod would prolong the node's occupation, and by how much it would leave before it is over.

    A node is occupied until the last of its pods is expected to be gone (LAVA, MLSys'25, whose NILAS takes the first
    part alone). Both parts count with the logarithm of their length, in ``step`` sixteenths of a doubling rounded down,
    and ``growth`` or ``early`` thousandths: long occupations gather on few nodes, and a short pod goes where others
    leave soon as well, so that the room which is free for long stays free for who needs it long.

    A node's end is as of when lifetimes were learned, the pod's as of now: beside each other the pod's is too soon by the
    time between. Scores are kept until a node or knowledge changes, so they cannot follow the clock.
    """

    growth: int = 1000
    early: int = 0
    step: int = 1
    opcode: ClassVar[int] = 32

    def __post_init__(self) -> None:
        self._need(step=1)

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        columns.follow()
        longer = columns.outlook_of(demand.spec)[LIFE] - columns.outlook[rows, LIFE]
        growth, early = log_minutes(longer) // self.step, log_minutes(-longer) // self.step
        return -((self.growth * growth + self.early * early) // 1000)


@cache
def chances() -> IntArray:
    """``(S,)`` int64: fixed-point chance of each stay, 0 from 20 halvings on."""
    table = np.rint(SHARE * 2.0 ** (-np.arange(20 * STAY_UNIT + 1) / STAY_UNIT)).astype(np.int64)
    table[-1] = 0
    table.flags.writeable = False
    return table


@dataclass(frozen=True, slots=True)
class Emptying(Scorer):
    """The chance that the node would be empty soon; a cost, whatever the pod.

    A node is empty within a horizon if all of its pods are gone by then. Pods of one workload came together and go together
    (a batch, a roll-out), so of each workload the chance of its likeliest to stay counts, as if the others followed it;
    workloads are independent of each other: the product of those. Summed over :data:`placement.knowledge.HORIZONS_S`,
    in :data:`SHARE`, four for an empty node: it is opened when no other has room.

    To a pod that lives for sure until t, this is the occupation of the node that it adds up to t. Weighing the horizons by
    the chance that the pod itself lives so long is the expected prolongation in full. That is better where lifetimes
    are certain, and no better where they are learned: who is said to be short-lived is long-lived too often, and then
    the node that was about to empty is occupied for days (``docs/results-learning.md``, section 6). Compare NILAS
    (LAVA, MLSys'25), which takes one expected exit time for certain: :class:`ExitTime`.
    """

    opcode: ClassVar[int] = 34

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        columns.follow()
        table = chances()
        stays = columns.outlook[rows, FIRST_STAY:FIRST_WINDOW]
        total: IntArray = -table[np.minimum(stays, len(table) - 1)].sum(axis=1)
        return total


@dataclass(frozen=True, slots=True)
class FitsWindows(Scorer):
    """Admission by part of the day (Coach, ASPLOS'25): in each, predicted use of all pods must fit into the node.

    0 where it does, else :data:`NOT_FEASIBLE`. Pods without a forecast count with their request, and an empty node
    takes any pod that it offers enough for.
    """

    percent: int = 100
    opcode: ClassVar[int] = 33

    def score(self, columns: Columns, demand: Demand, rows: IntArray) -> IntArray:
        columns.follow()
        before = columns.outlook[rows]
        after = before + columns.outlook_of(demand.spec)
        fits = np.ones(len(rows), np.bool_)
        for i, (lane, unknown) in enumerate(((CPU_ROW, UNKNOWN_CPU), (MEMORY_ROW, UNKNOWN_MEMORY))):
            worst = after[:, FIRST_WINDOW + i :: 2].max(axis=1) + after[:, unknown]
            fits &= worst <= columns.state.offered[lane, rows] // 100 * self.percent
        fits |= columns.state.taken[PODS_ROW, rows] == 0
        return np.where(fits, 0, NOT_FEASIBLE)


ADMITTING = FitsWindows | UsageThresholds
"""Scorers that only exclude nodes."""

SCORERS: dict[str, type[Scorer]] = {
    "first-fit": FirstFit,
    "leftover": Leftover,
    "alignment": Alignment,
    "least-allocated": LeastAllocated,
    "most-allocated": MostAllocated,
    "requested-to-capacity": RequestedToCapacity,
    "balanced-allocation": BalancedAllocation,
    "balanced-after": BalancedAfter,
    "atc23-dotprod": AtcDotProduct,
    "atc23-bestfit": AtcBestFit,
    "atc23-packing": AtcPacking,
    "atc23-clustering": AtcClustering,
    "atc23-fgd": AtcFgd,
    "stranded": Stranded,
    "device-worth": DeviceWorth,
    "rank": Rank,
    "load-aware": LoadAware,
    "usage-thresholds": UsageThresholds,
    "hot": Hot,
    "exit-time": ExitTime,
    "emptying": Emptying,
    "fits-windows": FitsWindows,
}
"""Every scorer by the name that a TOML uses."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """A scorer and how loud it is; negative turns it round."""

    scorer: Scorer
    weight: int = 1

    @property
    def name(self) -> str:
        """The scorer as a TOML calls it."""
        return next((name for name, kind in SCORERS.items() if kind is type(self.scorer)), type(self.scorer).__name__)

    @property
    def parameters(self) -> dict[str, Any]:
        """The scorer's parameters by name."""
        return asdict(self.scorer)

    def __str__(self) -> str:
        return f"{self.name}*{self.weight}{sorted(self.parameters.items())}"
