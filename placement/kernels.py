"""The compiled twin of :mod:`placement.scorers`.

Importing this module needs numba; :mod:`placement.program` does so only if it is there, and answers with NumPy
otherwise. Every function mirrors a scorer operation for operation; a property test holds the two equal to the
last bit. No ``fastmath``: it would reorder floating-point sums that the ATC'23 definitions fix.

Shape of the work, found by profiling: first a tight loop that keeps the touched nodes that fit, then one tight
loop per score term. One function that evaluates a whole node costs five times as much. Arguments travel in
named tuples; those that a strategy does not need are None and compile to nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.experimental import structref

from placement import scorers
from placement.devices import DEVICE_RULES
from placement.machine_code import HAS_NUMBA, compiled
from placement.outlook import (
    FIRST_STAY,
    FIRST_WINDOW,
    LIFE,
    MEAN_CPU,
    MEAN_MEMORY,
    UNKNOWN_CPU,
    UNKNOWN_MEMORY,
    UPPER_CPU,
    UPPER_MEMORY,
    Entries,
    Slots,
    add_up,
    add_up_lives,
    add_up_use,
    come,
    go,
)
from placement.resources import DEVICE_MILLI, NOT_FEASIBLE, NOT_OFFERED, BoolArray, FloatArray, IntArray
from placement.scorers import COST_UNIT, FIRST_OUTLOOK, MAX_WEIGHT_MILLI, MIB, NO_DEVICE, SHARE
from placement.state import (
    CPU_ROW,
    GPU_CLASSES,
    GPU_ROW,
    MEMORY_ROW,
    NUM_DERIVED,
    NUM_GPU_CLASSES,
    PODS_ROW,
    SCORED_CPU,
    SCORED_MEMORY,
)

if not HAS_NUMBA:
    raise ImportError("numba is told not to compile")

# Opcodes by name: compiled code reads no attributes of classes. Families lie side by side.
LEFTOVER = scorers.Leftover.opcode
ALIGNMENT = scorers.Alignment.opcode
LEAST_ALLOCATED = scorers.LeastAllocated.opcode
MOST_ALLOCATED = scorers.MostAllocated.opcode
REQUESTED_TO_CAPACITY = scorers.RequestedToCapacity.opcode
BALANCED_ALLOCATION = scorers.BalancedAllocation.opcode
BALANCED_AFTER = scorers.BalancedAfter.opcode
ATC_DOT_PRODUCT = scorers.AtcDotProduct.opcode
ATC_BEST_FIT = scorers.AtcBestFit.opcode
ATC_PACKING = scorers.AtcPacking.opcode
ATC_CLUSTERING = scorers.AtcClustering.opcode
ATC_FGD = scorers.AtcFgd.opcode
STRANDED = scorers.Stranded.opcode
DEVICE_WORTH = scorers.DeviceWorth.opcode
RANK = scorers.Rank.opcode
LOAD_AWARE = scorers.LoadAware.opcode
HOT = scorers.Hot.opcode
EXIT_TIME = scorers.ExitTime.opcode
FITS_WINDOWS = scorers.FitsWindows.opcode
EMPTYING = scorers.Emptying.opcode
USAGE_THRESHOLDS = scorers.UsageThresholds.opcode

DEVICES_RANDOM, DEVICES_SCORED = DEVICE_RULES["random"], DEVICE_RULES["scored"]
BLOCK = 64

_jit = partial(compiled, error_model="numpy")
_inline = partial(compiled, error_model="numpy", forceinline=True)


class Ledger(NamedTuple):
    """The ledger's arrays, as laid out in :class:`placement.state.ClusterState`."""

    offered: IntArray
    taken: IntArray
    gpu_free: IntArray
    gpu_count: IntArray
    touched: IntArray
    last_touch: IntArray
    place: IntArray


class Cache(NamedTuple):
    """A program's arrays: per class ``(C, …)``, the terms, and room for a list of rows.

    ``best (C,)`` is each class's best row when it was last asked, −1 where that is not known.
    """

    scores: IntArray
    permitted: BoolArray
    deltas: IntArray
    gpus: IntArray
    terms: IntArray
    rows: IntArray
    best: IntArray


class Prices(NamedTuple):
    """``worth (groups, 1001)`` and each node's ``group (N,)``."""

    worth: IntArray
    group: IntArray


class Fragments(NamedTuple):
    """FGD's target workload, and what is known of each node until it is touched again.

    ``kinds (M, 4)``: millicores, share, devices, index into ``millis (D,)`` (the distinct shares).
    ``enough (N, D)`` devices with at least that share free; ``below (N, D)`` the sum of lesser shares.
    """

    kinds: IntArray
    probability: FloatArray
    allowed: BoolArray
    model: IntArray
    thresholds: FloatArray
    millis: IntArray
    enough: IntArray
    below: IntArray
    fragment: FloatArray
    stamp: IntArray
    scratch: IntArray


class Outlook(NamedTuple):
    """What is expected of nodes ``(N, NUM_OUTLOOK)`` and of one pod of each class ``(C, NUM_OUTLOOK)``.

    ``chances`` is the table of :func:`placement.scorers.chances`.
    """

    nodes: IntArray
    own: IntArray
    chances: IntArray


class _Record(types.StructRef):
    def preprocess_fields(self, fields):
        return tuple((name, types.unliteral(kind)) for name, kind in fields)


@structref.register
class HandleType(_Record):
    """Everything that a kernel reads, as one argument: unpacking 20 arrays on each call costs 4 µs, this 0.4."""


class Handle(structref.StructRefProxy):
    """``cache``, ``ledger``, ``prices``, ``fgd`` and ``outlook``; of one type whatever a strategy reads of it, so that
    kernels are compiled once."""

    def __new__(cls, cache, ledger, prices, fgd, outlook):
        return make_handle(cache, ledger, prices, fgd, outlook)


structref.define_boxing(HandleType, Handle)
structref.define_constructor(Handle, HandleType, ["cache", "ledger", "prices", "fgd", "outlook"])


@structref.register
class SlotsType(_Record):
    """:class:`placement.outlook.Slots` as one argument, for the same reason."""


class SlotsHandle(structref.StructRefProxy):
    """``slots``."""

    def __new__(cls, slots):
        return make_slots(slots)


structref.define_boxing(SlotsType, SlotsHandle)
structref.define_constructor(SlotsHandle, SlotsType, ["slots"])


@_jit
def make_slots(slots):
    return SlotsHandle(slots)


@_jit
def make_handle(cache, ledger, prices, fgd, outlook):
    return Handle(cache, ledger, prices, fgd, outlook)


# ── which nodes fit ───────────────────────────────────────────────────────────────────────────


@_jit
def keep_feasible(num, row, delta, gpu, permitted, rows, ledger):
    """Move the rows that fit to the front, mark the rest; returns how many fit."""
    milli, count = gpu[0], gpu[1]
    offered, taken, gpu_free = ledger.offered, ledger.taken, ledger.gpu_free
    kept = 0
    for i in range(num):
        n = rows[i]
        fits = permitted[n]
        for lane in range(NUM_DERIVED, delta.shape[0]):
            if delta[lane] > 0 and taken[lane, n] + delta[lane] > offered[lane, n]:
                fits = False
        if fits and count > 0:
            # Leaving early keeps the loop scalar: nodes have a handful of devices, vector code costs more.
            missing = count
            for g in range(ledger.gpu_count[n]):
                if gpu_free[n, g] >= milli:
                    missing -= 1
                    if missing == 0:
                        break
            fits = missing <= 0
        if fits:
            rows[kept] = n
            kept += 1
            row[n] = 0
        else:
            row[n] = NOT_FEASIBLE
    return kept


# ── classics and kube-scheduler ───────────────────────────────────────────────────────────────


@_jit
def add_leftover(rows, num, row, terms, t, delta, ask, ledger):
    offered, taken = ledger.offered, ledger.taken
    for i in range(num):
        n = rows[i]
        cpu = offered[CPU_ROW, n] - taken[CPU_ROW, n] - delta[CPU_ROW]
        memory = offered[MEMORY_ROW, n] - taken[MEMORY_ROW, n] - delta[MEMORY_ROW]
        gpu = offered[GPU_ROW, n] - taken[GPU_ROW, n] - ask
        row[n] += terms[t, 1] * (
            cpu * SHARE // terms[t, 2] + (memory >> MIB) * SHARE // terms[t, 3] + gpu * SHARE // terms[t, 4]
        )


@_jit
def add_alignment(rows, num, row, terms, t, delta, ask, ledger):
    offered, taken = ledger.offered, ledger.taken
    asked_cpu = delta[CPU_ROW] * SHARE // terms[t, 2]
    asked_memory = (delta[MEMORY_ROW] >> MIB) * SHARE // terms[t, 3]
    asked_gpu = ask * SHARE // terms[t, 4]
    for i in range(num):
        n = rows[i]
        cpu = (offered[CPU_ROW, n] - taken[CPU_ROW, n]) * SHARE // terms[t, 2]
        memory = ((offered[MEMORY_ROW, n] - taken[MEMORY_ROW, n]) >> MIB) * SHARE // terms[t, 3]
        gpu = (offered[GPU_ROW, n] - taken[GPU_ROW, n]) * SHARE // terms[t, 4]
        row[n] += terms[t, 1] * ((cpu * asked_cpu + memory * asked_memory + gpu * asked_gpu) >> 20)


@_inline
def _kube_share(used, offered, most):
    clipped = min(used, offered)
    return (clipped if most else offered - clipped) * 100 // offered


@_inline
def _kube_mean(n, delta, offered, taken, most):
    total, weight = 0, 0
    cpu, memory = offered[CPU_ROW, n], offered[MEMORY_ROW, n]
    if cpu > 0:
        total += _kube_share(taken[SCORED_CPU, n] + delta[SCORED_CPU], cpu, most)
        weight += 1
    if memory > 0:
        total += _kube_share(taken[SCORED_MEMORY, n] + delta[SCORED_MEMORY], memory, most)
        weight += 1
    return total // weight if weight else 0


@_inline
def _shape(percent, terms, t):
    x0, y0, x1, y1 = terms[t, 2], terms[t, 3], terms[t, 4], terms[t, 5]
    if percent < x0:
        return y0
    if percent >= x1:
        return y1
    product = (y1 - y0) * (percent - x0)
    return y0 + (product // (x1 - x0) if product >= 0 else -((-product) // (x1 - x0)))


@_inline
def _requested_to_capacity(n, delta, offered, taken, terms, t):
    total, weight = 0, 0
    for i in range(2):
        scored = SCORED_CPU if i == 0 else SCORED_MEMORY
        capacity = offered[CPU_ROW if i == 0 else MEMORY_ROW, n]
        if capacity == 0:
            continue
        used = taken[scored, n] + delta[scored]
        score = _shape(100 if used > capacity else used * 100 // capacity, terms, t)
        if score > 0:
            total += score
            weight += 1
    return (2 * total + weight) // (2 * weight) if weight else 0


@_inline
def _balance(cpu, cpu_offered, memory, memory_offered):
    if cpu_offered == 0 or memory_offered == 0:
        return 100
    share_cpu = min(cpu / cpu_offered, 1.0)
    share_memory = min(memory / memory_offered, 1.0)
    return np.int64((1.0 - abs((share_cpu - share_memory) / 2.0)) * 100.0)


@_inline
def _balanced(n, delta, offered, taken, is_change):
    if delta[CPU_ROW] == 0 and delta[MEMORY_ROW] == 0:
        return 0
    cpu, memory = taken[CPU_ROW, n], taken[MEMORY_ROW, n]
    after = _balance(cpu + delta[CPU_ROW], offered[CPU_ROW, n], memory + delta[MEMORY_ROW], offered[MEMORY_ROW, n])
    if not is_change:
        return after
    before = _balance(cpu, offered[CPU_ROW, n], memory, offered[MEMORY_ROW, n])
    return 50 + (50 + after - before) // 2


@_jit
def add_kube(rows, num, row, terms, t, delta, ledger):
    op, weight = terms[t, 0], terms[t, 1]
    offered, taken = ledger.offered, ledger.taken
    for i in range(num):
        n = rows[i]
        if op >= BALANCED_ALLOCATION:
            row[n] += weight * _balanced(n, delta, offered, taken, op == BALANCED_ALLOCATION)
        elif op == REQUESTED_TO_CAPACITY:
            row[n] += weight * _requested_to_capacity(n, delta, offered, taken, terms, t)
        else:
            row[n] += weight * _kube_mean(n, delta, offered, taken, op == MOST_ALLOCATED)


# ── the FGD paper's policies ──────────────────────────────────────────────────────────────────


@_inline
def _packing(n, milli, count, gpu_free, num):
    if count == 0:
        return 0
    whole = 0
    tightest = DEVICE_MILLI + 1
    for g in range(num):
        share = gpu_free[n, g]
        if share == DEVICE_MILLI:
            whole += 1
        if milli <= share < tightest:
            tightest = share
    if whole == num:
        return max(33 - num, num)
    if milli == DEVICE_MILLI:
        return max(50 - count, 33)
    return 49 if tightest == DEVICE_MILLI else max(100 - tightest // 10 // 10, 50)


@_inline
def _clustering(n, kind, gpu, taken):
    if kind < 0:
        return 0
    classes = 0
    for k in range(NUM_GPU_CLASSES):
        if taken[GPU_CLASSES + k, n] > 0:
            classes += 1
    bonus = 0
    if taken[GPU_CLASSES + kind, n] > 0:
        bonus = 75 if classes == 1 else 50
    elif classes == 0:
        bonus = 25
    return 25 * (8000 - gpu) // 8000 + bonus


@_jit
def add_atc(rows, num, row, terms, t, delta, gpu, ledger):
    op, weight = terms[t, 0], terms[t, 1]
    offered, taken = ledger.offered, ledger.taken
    ask = gpu[0] * gpu[1]
    asked_cpu, asked_gpu = delta[CPU_ROW] / 128000.0, ask / 8000.0
    for i in range(num):
        n = rows[i]
        cpu = offered[CPU_ROW, n] - taken[CPU_ROW, n]
        free = offered[GPU_ROW, n] - taken[GPU_ROW, n]
        score = np.int64(0)
        if op == ATC_DOT_PRODUCT:
            score = np.int64(100.0 * (1.0 - (cpu / 128000.0 * asked_cpu + free / 8000.0 * asked_gpu) / 2.0))
        elif op == ATC_BEST_FIT:
            left = (cpu - delta[CPU_ROW]) / 128000.0
            score = np.int64(100.0 * (1.0 - 0.5 * left - 0.5 * ((free - ask) / 8000.0)))
        elif op == ATC_PACKING:
            score = np.int64(_packing(n, gpu[0], gpu[1], ledger.gpu_free, ledger.gpu_count[n]))
        elif op == ATC_CLUSTERING:
            score = np.int64(_clustering(n, gpu[2], free, taken))
        row[n] += weight * score


@_inline
def _sum_labels(cpu, total, model, fgd, enough, below):
    """F_n(M); summed per label in the artifact's order, see :func:`placement.fragments.fragmentation`."""
    kinds, probability = fgd.kinds, fgd.probability
    q1 = q2 = q4 = xl = xr = na = 0.0
    for m in range(kinds.shape[0]):
        p = probability[m]
        count = kinds[m, 2]
        has_cpu = cpu >= kinds[m, 0]
        if count == 0:
            if has_cpu:
                xl += p * total
            else:
                xr += p * total
        elif not fgd.allowed[m, model]:
            na += p * total
        elif enough[kinds[m, 3]] >= count:
            if has_cpu:
                q2 += p * below[kinds[m, 3]]
            else:
                q4 += p * total
        elif has_cpu:
            q2 += p * total
        else:
            q1 += p * total
    return q1 + q2 + q4 + xl + xr + na


@_inline
def _free_share(n, ledger):
    """What the devices of a node have free for certain, in all."""
    total = 0
    for g in range(ledger.gpu_count[n]):
        total += ledger.gpu_free[n, g]
    return total


@_jit
def survey(n, ledger, fgd):
    """F_n(M) of a node as it is, computed once per touch."""
    if fgd.stamp[n] == ledger.last_touch[n]:
        return fgd.fragment[n]
    enough, below = fgd.enough[n], fgd.below[n]
    for k in range(fgd.millis.shape[0]):
        enough[k] = 0
        below[k] = 0
        for g in range(ledger.gpu_count[n]):
            share = ledger.gpu_free[n, g]
            if share >= fgd.millis[k]:
                enough[k] += 1
            else:
                below[k] += share
    cpu = ledger.offered[CPU_ROW, n] - ledger.taken[CPU_ROW, n]
    fgd.fragment[n] = _sum_labels(cpu, _free_share(n, ledger), fgd.model[n], fgd, enough, below)
    fgd.stamp[n] = ledger.last_touch[n]
    return fgd.fragment[n]


@_jit
def fragments_along(rows, signs, cpus, millis, masks, series, handle):
    """Apply binds (sign 1) and releases (−1) one by one to the ledger's columns; ``series`` gets ΣF_n(M) after each."""
    ledger, fgd = handle.ledger, handle.fgd
    total = 0.0
    num_nodes = ledger.gpu_count.shape[0]
    parts = np.zeros(num_nodes)
    for n in range(num_nodes):
        parts[n] = survey(n, ledger, fgd)
        total += parts[n]
    series[0] = total
    for i in range(rows.shape[0]):
        n = rows[i]
        ledger.taken[CPU_ROW, n] += signs[i] * cpus[i]
        for g in range(ledger.gpu_count[n]):
            if masks[i] >> g & 1:
                ledger.gpu_free[n, g] -= signs[i] * millis[i]
                ledger.taken[GPU_ROW, n] += signs[i] * millis[i]
        fgd.stamp[n] = -2
        part = survey(n, ledger, fgd)
        total += part - parts[n]
        parts[n] = part
        series[i + 1] = total


@_inline
def _squash(gain, thresholds):
    low, high = 0, thresholds.shape[0]
    while low < high:
        middle = (low + high) >> 1
        if thresholds[middle] <= gain:
            low = middle + 1
        else:
            high = middle
    return low


@_inline
def _fragment_without(n, share, milli, num, cpu, total, fgd):
    """F_n(M) after ``num`` devices with ``share`` free give ``milli`` each: the survey, adjusted."""
    enough, below, left = fgd.scratch[0], fgd.scratch[1], share - milli
    for k in range(fgd.millis.shape[0]):
        size = fgd.millis[k]
        more, lower = fgd.enough[n, k], fgd.below[n, k]
        if share >= size:
            if left < size:
                more -= num
                lower += num * left
        else:
            lower -= num * milli
        enough[k] = more
        below[k] = lower
    return _sum_labels(cpu, total - num * milli, fgd.model[n], fgd, enough, below)


@_jit
def fgd_best(n, milli, count, cpu_ask, ledger, fgd):
    """(score, device) of FGD; device is −1 for whole devices."""
    before = survey(n, ledger, fgd)
    cpu = ledger.offered[CPU_ROW, n] - ledger.taken[CPU_ROW, n] - cpu_ask
    total = _free_share(n, ledger)
    if milli == DEVICE_MILLI or count == 0:
        after = _fragment_without(n, DEVICE_MILLI, DEVICE_MILLI if count else 0, count, cpu, total, fgd)
        return _squash(before - after, fgd.thresholds), -1
    best, device = -1, -1
    for g in range(ledger.gpu_count[n]):
        share = ledger.gpu_free[n, g]
        if share < milli:
            continue
        repeated = False  # the sums see devices as a set: equal shares score alike, the first wins
        for h in range(g):
            if ledger.gpu_free[n, h] == share:
                repeated = True
                break
        if repeated:
            continue
        after = _fragment_without(n, share, milli, 1, cpu, total, fgd)
        score = _squash(before - after, fgd.thresholds)
        if score > best:
            best, device = score, g
    return best, device


@_jit
def add_fgd(rows, num, row, weight, delta, gpu, ledger, fgd):
    for i in range(num):
        n = rows[i]
        score, _device = fgd_best(n, gpu[0], gpu[1], delta[CPU_ROW], ledger, fgd)
        row[n] += weight * score


# ── ours ──────────────────────────────────────────────────────────────────────────────────────


@_inline
def _stranded(cpu, gpu, terms, t):
    total = 0
    for i in range(2, 6):
        idle = gpu * COST_UNIT - cpu * (terms[t, i] >> 12)
        if idle > 0:
            total += (terms[t, i] & MAX_WEIGHT_MILLI) * idle
    return total


@_jit
def add_stranded(rows, num, row, terms, t, delta, ask, ledger):
    offered, taken = ledger.offered, ledger.taken
    for i in range(num):
        n = rows[i]
        cpu = offered[CPU_ROW, n] - taken[CPU_ROW, n]
        gpu = offered[GPU_ROW, n] - taken[GPU_ROW, n]
        before = _stranded(cpu, gpu, terms, t)
        row[n] += terms[t, 1] * ((before - _stranded(cpu - delta[CPU_ROW], gpu - ask, terms, t)) // 1000)


@_inline
def _broken(n, count, whole_milli, ledger):
    if whole_milli == 0:
        return np.int64(0)
    whole = np.int64(0)
    for g in range(ledger.gpu_count[n]):
        whole += ledger.gpu_free[n, g] == DEVICE_MILLI
    return whole_milli * COST_UNIT * (whole * whole - (whole - count) * (whole - count)) // 8


@_inline
def _worth_best(n, milli, open_milli, factor, whole_milli, ledger, prices):
    best, device = NO_DEVICE, -1
    group = prices.group[n]
    opening = open_milli * COST_UNIT + _broken(n, 1, whole_milli, ledger)
    for g in range(ledger.gpu_count[n]):
        share = ledger.gpu_free[n, g]
        if share < milli:
            continue
        cost = factor * (prices.worth[group, share] - prices.worth[group, share - milli])
        if share == DEVICE_MILLI:
            cost += opening
        if -cost > best:
            best, device = -cost, g
    return best, device


@_jit
def add_worth(rows, num, row, terms, t, gpu, ledger, prices):
    milli, count = gpu[0], gpu[1]
    if count == 0:
        return
    for i in range(num):
        n = rows[i]
        if milli < DEVICE_MILLI:
            score, _device = _worth_best(n, milli, terms[t, 2], terms[t, 3], terms[t, 4], ledger, prices)
        else:
            score = -terms[t, 3] * count * prices.worth[prices.group[n], DEVICE_MILLI]
            score -= _broken(n, count, terms[t, 4], ledger)
        row[n] += terms[t, 1] * score


@_jit
def add_rank(rows, num, row, terms, t, ledger):
    for i in range(num):
        row[rows[i]] -= terms[t, 1] * terms[t, 2] * ledger.place[rows[i]]


# ── by predicted use and lifetime ─────────────────────────────────────────────────────────────


@_jit
def add_load_aware(rows, num, row, terms, t, delta, ledger, nodes):
    offered = ledger.offered
    asked_cpu, asked_memory = delta[CPU_ROW] * terms[t, 2] // 100, delta[MEMORY_ROW] * terms[t, 3] // 100
    for i in range(num):
        n = rows[i]
        cpu, memory = max(offered[CPU_ROW, n], 1), max(offered[MEMORY_ROW, n], 1)
        total = max(cpu - nodes[n, MEAN_CPU] - asked_cpu, 0) * 100 // cpu
        total += max(memory - nodes[n, MEAN_MEMORY] - asked_memory, 0) * 100 // memory
        row[n] += terms[t, 1] * (total // 2)


@_inline
def _beyond(upper, unknown, offered, safe_percent):
    room = max(offered - unknown, 0) // 100 * safe_percent
    return min(max(upper - room, 0), offered) * 1000 // offered


@_jit
def add_hot(rows, num, row, terms, t, own, ledger, nodes):
    offered = ledger.offered
    for i in range(num):
        n = rows[i]
        total = _beyond(
            nodes[n, UPPER_CPU] + own[UPPER_CPU],
            nodes[n, UNKNOWN_CPU] + own[UNKNOWN_CPU],
            max(offered[CPU_ROW, n], 1),
            terms[t, 2],
        )
        total += terms[t, 3] * _beyond(
            nodes[n, UPPER_MEMORY] + own[UPPER_MEMORY],
            nodes[n, UNKNOWN_MEMORY] + own[UNKNOWN_MEMORY],
            max(offered[MEMORY_ROW, n], 1),
            terms[t, 2],
        )
        row[n] -= terms[t, 1] * total


@_inline
def _log_minutes(seconds):
    value = (max(seconds, 0) + 60) * 16 // 60
    exponent = 0
    for step in (32, 16, 8, 4, 2, 1):
        if value >> (exponent + step - 1) >= 32:
            exponent += step
    return 16 * exponent + (value >> exponent) - 16


@_jit
def add_exit_time(rows, num, row, terms, t, own, nodes):
    for i in range(num):
        n = rows[i]
        longer = own[LIFE] - nodes[n, LIFE]
        step = terms[t, 4]
        cost = terms[t, 2] * (_log_minutes(longer) // step) + terms[t, 3] * (_log_minutes(-longer) // step)
        row[n] -= terms[t, 1] * (cost // 1000)


@_jit
def add_emptying(rows, num, row, weight, nodes, chances):
    last = chances.shape[0] - 1
    for i in range(num):
        n = rows[i]
        total = np.int64(0)
        for h in range(FIRST_STAY, FIRST_WINDOW):
            total += chances[min(nodes[n, h], last)]
        row[n] -= weight * total


@_jit
def admit_windows(rows, num, row, terms, t, own, ledger, nodes):
    offered = ledger.offered
    for i in range(num):
        n = rows[i]
        if ledger.taken[PODS_ROW, n] == 0:
            continue
        cpu, memory = np.int64(0), np.int64(0)
        for w in range(FIRST_WINDOW, own.shape[0], 2):
            cpu = max(cpu, nodes[n, w] + own[w])
            memory = max(memory, nodes[n, w + 1] + own[w + 1])
        cpu += nodes[n, UNKNOWN_CPU] + own[UNKNOWN_CPU]
        memory += nodes[n, UNKNOWN_MEMORY] + own[UNKNOWN_MEMORY]
        fits = cpu <= offered[CPU_ROW, n] // 100 * terms[t, 2]
        if not (fits and memory <= offered[MEMORY_ROW, n] // 100 * terms[t, 2]):
            row[n] = NOT_FEASIBLE


@_inline
def _percent(used, offered):
    return (200 * used + offered) // (2 * offered)


@_jit
def admit_below_thresholds(rows, num, row, terms, t, ledger, nodes):
    offered = ledger.offered
    for i in range(num):
        n = rows[i]
        cpu = _percent(nodes[n, MEAN_CPU] - nodes[n, UNKNOWN_CPU], max(offered[CPU_ROW, n], 1))
        memory = _percent(nodes[n, MEAN_MEMORY] - nodes[n, UNKNOWN_MEMORY], max(offered[MEMORY_ROW, n], 1))
        if cpu > terms[t, 2] or memory > terms[t, 3]:
            row[n] = NOT_FEASIBLE


@_jit
def add_outlook(c, rows, num, row, terms, delta, ledger, outlook):
    """The terms that read what is expected; who may exclude a node speaks last."""
    own, nodes = outlook.own[c], outlook.nodes
    for t in range(terms.shape[0]):
        op = terms[t, 0]
        if op == LOAD_AWARE:
            add_load_aware(rows, num, row, terms, t, delta, ledger, nodes)
        elif op == HOT:
            add_hot(rows, num, row, terms, t, own, ledger, nodes)
        elif op == EXIT_TIME:
            add_exit_time(rows, num, row, terms, t, own, nodes)
        elif op == EMPTYING:
            add_emptying(rows, num, row, terms[t, 1], nodes, outlook.chances)
    for t in range(terms.shape[0]):
        if terms[t, 0] == FITS_WINDOWS:
            admit_windows(rows, num, row, terms, t, own, ledger, nodes)
        elif terms[t, 0] == USAGE_THRESHOLDS:
            admit_below_thresholds(rows, num, row, terms, t, ledger, nodes)


# ── the whole of a decision ─────────────────────────────────────────────────────────────────────────


@_jit
def _refresh(c, start, clock, num_rows, handle):
    """Recompute the nodes of class ``c`` touched since ``start``; all of them if that is too long ago.

    Returns how many of them have room: they stand in front in ``cache.rows``; −1 if all nodes were recomputed.
    """
    cache, ledger = handle.cache, handle.ledger
    touched, last_touch, rows, terms = ledger.touched, ledger.last_touch, cache.rows, cache.terms
    ring = touched.shape[0]
    row, delta, gpu = cache.scores[c], cache.deltas[c], cache.gpus[c]
    num = 0
    is_whole = start < 0 or clock - start >= min(ring, num_rows)
    if is_whole:
        num = num_rows
        for n in range(num_rows):
            rows[n] = n
    else:
        for i in range(start, clock):
            n = touched[i & (ring - 1)]
            if last_touch[n] == i:
                rows[num] = n
                num += 1
    num = keep_feasible(num, row, delta, gpu, cache.permitted[c], rows, ledger)
    ask = gpu[0] * gpu[1]
    looks_ahead = False
    for t in range(terms.shape[0]):
        op = terms[t, 0]
        if op == LEFTOVER:
            add_leftover(rows, num, row, terms, t, delta, ask, ledger)
        elif op == ALIGNMENT:
            add_alignment(rows, num, row, terms, t, delta, ask, ledger)
        elif LEAST_ALLOCATED <= op <= BALANCED_AFTER:
            add_kube(rows, num, row, terms, t, delta, ledger)
        elif ATC_DOT_PRODUCT <= op <= ATC_CLUSTERING:
            add_atc(rows, num, row, terms, t, delta, gpu, ledger)
        elif op == ATC_FGD:
            add_fgd(rows, num, row, terms[t, 1], delta, gpu, ledger, handle.fgd)
        elif op == STRANDED:
            add_stranded(rows, num, row, terms, t, delta, ask, ledger)
        elif op == DEVICE_WORTH:
            add_worth(rows, num, row, terms, t, gpu, ledger, handle.prices)
        elif op == RANK:
            add_rank(rows, num, row, terms, t, ledger)
        looks_ahead |= op >= FIRST_OUTLOOK
    if looks_ahead:
        add_outlook(c, rows, num, row, terms, delta, ledger, handle.outlook)
    return -1 if is_whole else num


@_jit
def pick_devices(n, c, rule, draw, handle):
    """Bit mask of the devices for a pod that fits node ``n``."""
    cache, ledger = handle.cache, handle.ledger
    milli, count = cache.gpus[c, 0], cache.gpus[c, 1]
    num, gpu_free, terms = ledger.gpu_count[n], ledger.gpu_free, cache.terms
    one = np.int64(1)
    mask = np.int64(0)
    if count == 0:
        return mask
    if milli == DEVICE_MILLI:
        left = count
        for g in range(num):
            if left > 0 and gpu_free[n, g] == DEVICE_MILLI:
                mask |= one << g
                left -= 1
        return mask
    device = -1
    if rule == DEVICES_RANDOM:
        enough = 0
        for g in range(num):
            if gpu_free[n, g] >= milli:
                enough += 1
        skip = draw % enough
        for g in range(num):
            if gpu_free[n, g] >= milli:
                if skip == 0:
                    device = g
                skip -= 1
        return one << device
    if rule == DEVICES_SCORED:
        for t in range(terms.shape[0]):
            if terms[t, 0] == ATC_FGD:
                _score, device = fgd_best(n, milli, count, cache.deltas[c, CPU_ROW], ledger, handle.fgd)
                return one << device
        for t in range(terms.shape[0]):
            if terms[t, 0] == DEVICE_WORTH:
                _score, device = _worth_best(n, milli, terms[t, 2], terms[t, 3], terms[t, 4], ledger, handle.prices)
                return one << device
    tightest = DEVICE_MILLI + 1
    for g in range(num):
        if milli <= gpu_free[n, g] < tightest:
            tightest, device = gpu_free[n, g], g
    return one << device


@_jit
def _first_best(row, num_rows):
    """(score, index) of the first of the best: block by block, so that the compiler makes vector code of the maximum."""
    best, block = np.int64(NOT_FEASIBLE), 0
    for start in range(0, num_rows, BLOCK):
        highest = np.int64(NOT_FEASIBLE)
        scores = row[start : min(start + BLOCK, num_rows)]  # counting from 0 is what makes vector code
        for n in range(len(scores)):
            highest = max(highest, scores[n])
        if highest > best:
            best, block = highest, start
    node = block
    while row[node] != best:
        node += 1
    return best, node


@_jit
def _renew(c, start, clock, num_rows, handle):
    """Bring row ``c`` of the score cache up to date; (score, index) of the first of the best."""
    cache = handle.cache
    row, node = cache.scores[c], cache.best[c]
    before = row[node] if node >= 0 else np.int64(NOT_FEASIBLE)
    num = _refresh(c, start, clock, num_rows, handle)
    if num < 0 or node < 0 or row[node] < before:
        best, node = _first_best(row, num_rows)
    else:  # the best node is no worse than it was: only those that changed can be better
        best = before
        for i in range(num):
            n = cache.rows[i]
            if row[n] > best or (row[n] == best and n < node):
                best, node = row[n], n
    cache.best[c] = node
    return best, node


@_jit
def decide(c, draw, start, clock, num_rows, ties, rule, handle):
    """Bring row ``c`` of the score cache up to date, then (row, score, devices) of the best node."""
    row = handle.cache.scores[c]
    best, node = _renew(c, start, clock, num_rows, handle)
    if best == NOT_FEASIBLE:
        return -1, best, np.int64(0)
    if ties:
        equal = 0
        for n in range(node, num_rows):
            equal += row[n] == best
        skip = draw % equal
        draw //= equal
        while row[node] != best or skip > 0:
            skip -= row[node] == best
            node += 1
    return node, best, pick_devices(node, c, rule, draw, handle)


# ── entries: each unpacks the handle; None is pruned where it arrives as an argument ─────────


def entry(kernel: Any, num_integers: int, handle: Any) -> Any:
    """``kernel``'s machine code for so many integers and this kind of handle, as a function.

    A call of the kernel itself looks the types of all its arguments up, 0.7 of 1.3 µs.
    """
    return kernel.compile((types.int64,) * num_integers + (handle._numba_type_,))


@_jit
def come_to(slot, row, c, kin, since_s, handle):
    """See :func:`placement.outlook.come`."""
    come(handle.slots, slot, row, c, kin, since_s)


@_jit
def go_from(slot, handle):
    """See :func:`placement.outlook.go`."""
    go(handle.slots, slot)


@_jit
def add_all(handle):
    """See :func:`placement.outlook.add_up`."""
    add_up(handle.slots)


@_jit
def add_use(handle):
    """See :func:`placement.outlook.add_up_use`."""
    add_up_use(handle.slots)


@_jit
def add_lives(handle):
    """See :func:`placement.outlook.add_up_lives`."""
    add_up_lives(handle.slots)


def slot_entries(slots: Slots) -> Entries:
    """The changes of some slots, as functions that look no types up."""
    handle = make_slots(slots)
    come_in, go_out = entry(come_to, 5, handle), entry(go_from, 1, handle)
    everything, use, lives = (entry(kernel, 0, handle) for kernel in (add_all, add_use, add_lives))
    return Entries(
        lambda slot, row, c, kin, since_s: come_in(slot, row, c, kin, since_s, handle),
        lambda slot: go_out(slot, handle),
        lambda: everything(handle),
        lambda: use(handle),
        lambda: lives(handle),
    )


@_jit
def leaves_out(c, start, clock, num_rows, candidates, handle):
    """Whether a node where class ``c`` fits is none of ``candidates (N,)``; brings its row up to date."""
    _renew(c, start, clock, num_rows, handle)
    row = handle.cache.scores[c]
    for start in range(0, num_rows, BLOCK):
        scores, offered = row[start : min(start + BLOCK, num_rows)], candidates[start : start + BLOCK]
        missed = np.int64(0)
        for n in range(len(scores)):
            missed |= np.int64(scores[n] != NOT_FEASIBLE) & np.int64(not offered[n])
        if missed:
            return True
    return False


@_jit
def refresh(c, start, clock, num_rows, handle):
    """See :func:`_refresh`."""
    handle.cache.best[c] = -1  # whoever asks for the row does not ask who is best
    _refresh(c, start, clock, num_rows, handle)


@_inline
def _is_worth_a_look(scores, candidates, last_touch, since, bar):
    """Whether a block of nodes holds one above ``bar``, one that was turned away, or one that was touched."""
    highest, lowest, latest = np.int64(NOT_FEASIBLE), bar, np.int64(-1)
    for n in range(len(scores)):
        highest, lowest = max(highest, scores[n]), min(lowest, scores[n])
        latest = max(latest, last_touch[n])
    left_out = np.int64(0)
    for n in range(len(candidates)):
        left_out |= np.int64(not candidates[n])
    return highest > bar or lowest == NOT_FEASIBLE or latest >= since or left_out != 0


@_jit
def sort_out(scores, alive, candidates, chosen, known, last_touch, since, codes, todo, best, totals):
    """See :meth:`placement.program.Program.sort_out`; (how many of ``todo``, how many of ``best``) were written."""
    num_todo, num_best, last = 0, 0, len(best) - 1
    bar = np.int64(NOT_FEASIBLE)  # what a node must exceed to be one of the best
    codes[:] = 0
    for start in range(0, len(scores), BLOCK):
        if not _is_worth_a_look(
            scores[start : start + BLOCK],
            candidates[start : start + BLOCK],
            last_touch[start : start + BLOCK],
            since,
            bar,
        ):
            continue
        for n in range(start, min(start + BLOCK, len(scores))):
            if last_touch[n] >= since:
                known[n] = 0
            if not alive[n] or n == chosen:
                continue
            score = scores[n]
            if not candidates[n]:
                codes[n] = NOT_OFFERED
            elif score == NOT_FEASIBLE:
                codes[n] = known[n]
                if known[n] == 0:
                    todo[num_todo] = n
                    num_todo += 1
            elif score > bar:
                at = min(num_best, last)
                while at > 0 and totals[at - 1] < score:
                    best[at], totals[at] = best[at - 1], totals[at - 1]
                    at -= 1
                best[at], totals[at] = n, score
                num_best = min(num_best + 1, last + 1)
                if num_best > last:
                    bar = totals[last]
    return num_todo, num_best


@_jit
def spread_marks(scores, most, marks):
    """See :meth:`placement.strategy.Strategy.priorities`: marks 0 to ``most`` of ``scores (N,)`` to ``marks (N,)``."""
    low, high, best = np.int64(0), NOT_FEASIBLE, -1
    for n in range(len(scores)):
        score = scores[n]
        if score > NOT_FEASIBLE:
            if best < 0 or score < low:
                low = score
            if score > high:
                high, best = score, n
    span = max(high - low, 1)
    for n in range(len(scores)):
        marks[n] = 0
        if scores[n] > NOT_FEASIBLE:
            marks[n] = min(np.int64((scores[n] - low) / span * most), most - 1)
    if best >= 0:
        marks[best] = most
