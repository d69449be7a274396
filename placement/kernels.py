"""The compiled twin of :mod:`placement.scorers`: one pod class, one node, machine code.

Importing this module needs numba; :mod:`placement.program` does so only if it is there, and answers with NumPy
otherwise. Every function mirrors a scorer operation for operation; a property test holds the two equal to the
last bit. No ``fastmath``: it would reorder floating-point sums that the ATC'23 definitions fix.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from placement.scorers import COST_UNIT, MIB, SHARE
from placement.state import CPU_ROW, GPU_CLASSES, MEMORY_ROW, NUM_DERIVED, NUM_GPU_CLASSES, SCORED_CPU, SCORED_MEMORY

NOT_FEASIBLE = -(2**62)
TIES_FIRST = 0
TIES_RANDOM = 1
DEVICES_TIGHTEST = 0
DEVICES_RANDOM = 1
DEVICES_SCORED = 2
FULL = 1000
NO_DEVICE = -(2**61)

_jit = njit(cache=True, nogil=True)
_inline = njit(cache=True, nogil=True, inline="always")


@_jit
def fragment(cpu, free, model, kinds, probability, allowed):
    """F_n(M) of one node state; see ``scorers.fragmentation``."""
    total = 0
    for g in range(free.shape[0]):
        total += free[g]
    q1 = q2 = q4 = xl = xr = na = 0.0
    last_milli = -1
    enough = 0
    below = 0
    for m in range(kinds.shape[0]):
        p = probability[m]
        count = kinds[m, 2]
        has_cpu = cpu >= kinds[m, 0]
        if count == 0:
            if has_cpu:
                xl += p * total
            else:
                xr += p * total
            continue
        if not allowed[m, model]:
            na += p * total
            continue
        milli = kinds[m, 1]
        if milli != last_milli:
            last_milli = milli
            enough = 0
            below = 0
            for g in range(free.shape[0]):
                share = free[g]
                if share >= milli:
                    enough += 1
                else:
                    below += share
        if enough >= count:
            if has_cpu:
                q2 += p * below
            else:
                q4 += p * total
        elif has_cpu:
            q2 += p * total
        else:
            q1 += p * total
    return q1 + q2 + q4 + xl + xr + na


@_jit
def total_fragment(rows, offered, taken, gpu_free, gpu_count, gpu_model, kinds, probability, allowed):
    """F_n(M) for each of ``rows``; float64."""
    result = np.empty(rows.shape[0])
    for i in range(rows.shape[0]):
        n = rows[i]
        free = gpu_free[n, : gpu_count[n]]
        result[i] = fragment(
            offered[CPU_ROW, n] - taken[CPU_ROW, n], free, gpu_model[n], kinds, probability, allowed
        )
    return result


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


@_jit
def fgd_best(n, milli, count, cpu_ask, offered, taken, gpu_free, gpu_count, gpu_model, kinds, probability, allowed, thresholds):
    """(score, device) of FGD; device is −1 for whole devices."""
    cpu = offered[CPU_ROW, n] - taken[CPU_ROW, n]
    num = gpu_count[n]
    model = gpu_model[n]
    free = gpu_free[n, :num].copy()
    before = fragment(cpu, free, model, kinds, probability, allowed)
    if milli == FULL or count == 0:
        left = count
        for g in range(num):
            if left > 0 and free[g] == FULL:
                free[g] = 0
                left -= 1
        gain = before - fragment(cpu - cpu_ask, free, model, kinds, probability, allowed)
        return _squash(gain, thresholds), -1
    best, device = -1, -1
    for g in range(num):
        share = free[g]
        if share < milli:
            continue
        repeated = False  # the sums run over devices as a set: equal shares score alike
        for h in range(g):
            if free[h] == share:
                repeated = True
                break
        if repeated:
            continue
        free[g] = share - milli
        gain = before - fragment(cpu - cpu_ask, free, model, kinds, probability, allowed)
        free[g] = share
        score = _squash(gain, thresholds)
        if score > best:
            best, device = score, g
    return best, device


@_inline
def _worth_best(n, milli, open_milli, factor, gpu_free, gpu_count, worth, group):
    best, device = NO_DEVICE, -1
    table = worth[group[n]]
    for g in range(gpu_count[n]):
        share = gpu_free[n, g]
        if share < milli:
            continue
        cost = factor * (table[share] - table[share - milli])
        if share == FULL:
            cost += open_milli * COST_UNIT
        if -cost > best:
            best, device = -cost, g
    return best, device


@_inline
def _stranded(cpu, gpu, term):
    total = 0
    for i in range(2, 6):
        idle = gpu * COST_UNIT - cpu * (term[i] >> 12)
        if idle > 0:
            total += (term[i] & 0xFFF) * idle
    return total


@_inline
def _kube_share(used, offered, most):
    if used > offered:
        used = offered
    return (used if most else offered - used) * 100 // offered


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
def _shape(percent, term):
    if percent < term[2]:
        return term[3]
    if percent >= term[4]:
        return term[5]
    product = (term[5] - term[3]) * (percent - term[2])
    width = term[4] - term[2]
    return term[3] + (product // width if product >= 0 else -((-product) // width))


@_inline
def _requested_to_capacity(n, delta, offered, taken, term):
    total, weight = 0, 0
    for i in range(2):
        scored = SCORED_CPU if i == 0 else SCORED_MEMORY
        capacity = offered[CPU_ROW if i == 0 else MEMORY_ROW, n]
        if capacity == 0:
            continue
        used = taken[scored, n] + delta[scored]
        score = _shape(100 if used > capacity else used * 100 // capacity, term)
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
def _balanced(n, delta, offered, taken):
    if delta[CPU_ROW] == 0 and delta[MEMORY_ROW] == 0:
        return np.int64(0)
    cpu, memory = taken[CPU_ROW, n], taken[MEMORY_ROW, n]
    before = _balance(cpu, offered[CPU_ROW, n], memory, offered[MEMORY_ROW, n])
    after = _balance(cpu + delta[CPU_ROW], offered[CPU_ROW, n], memory + delta[MEMORY_ROW], offered[MEMORY_ROW, n])
    return 50 + (50 + after - before) // 2


@_inline
def _packing(n, milli, count, gpu_free, num):
    if count == 0:
        return 0
    whole = 0
    tightest = FULL + 1
    for g in range(num):
        share = gpu_free[n, g]
        if share == FULL:
            whole += 1
        if milli <= share < tightest:
            tightest = share
    if whole == num:
        return max(33 - num, num)
    if milli == FULL:
        return max(50 - count, 33)
    return 49 if tightest == FULL else max(100 - tightest // 10 // 10, 50)


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
def evaluate(
    n, delta, gpu, is_allowed, terms, offered, taken, gpu_free, gpu_count, gpu_model, group, worth, kinds, probability,
    allowed, thresholds, num_rows,
):
    """Score of one node for one class, :data:`NOT_FEASIBLE` where it does not fit."""
    if not is_allowed:
        return NOT_FEASIBLE
    for lane in range(NUM_DERIVED, delta.shape[0]):
        if delta[lane] > 0 and taken[lane, n] + delta[lane] > offered[lane, n]:
            return NOT_FEASIBLE
    milli, count, kind = gpu[0], gpu[1], gpu[2]
    num = gpu_count[n]
    free_gpu, enough = 0, 0
    for g in range(num):
        share = gpu_free[n, g]
        free_gpu += share
        if share >= milli:
            enough += 1
    if count > 0 and enough < count:
        return NOT_FEASIBLE
    cpu = offered[CPU_ROW, n] - taken[CPU_ROW, n]
    memory = offered[MEMORY_ROW, n] - taken[MEMORY_ROW, n]
    ask = milli * count
    total = np.int64(0)
    for t in range(terms.shape[0]):
        term = terms[t]
        op, weight = term[0], term[1]
        score = np.int64(0)
        if op == 1:
            score = (
                (cpu - delta[CPU_ROW]) * SHARE // term[2]
                + ((memory - delta[MEMORY_ROW]) >> MIB) * SHARE // term[3]
                + (free_gpu - ask) * SHARE // term[4]
            )
        elif op == 2:
            score = (
                (cpu * SHARE // term[2]) * (delta[CPU_ROW] * SHARE // term[2])
                + ((memory >> MIB) * SHARE // term[3]) * ((delta[MEMORY_ROW] >> MIB) * SHARE // term[3])
                + (free_gpu * SHARE // term[4]) * (ask * SHARE // term[4])
            ) >> 20
        elif op == 3:
            score = _kube_mean(n, delta, offered, taken, False)
        elif op == 4:
            score = _kube_mean(n, delta, offered, taken, True)
        elif op == 5:
            score = _requested_to_capacity(n, delta, offered, taken, term)
        elif op == 6:
            score = _balanced(n, delta, offered, taken)
        elif op == 10:
            dot = cpu / 128000.0 * (delta[CPU_ROW] / 128000.0) + free_gpu / 8000.0 * (ask / 8000.0)
            score = np.int64(100.0 * (1.0 - dot / 2.0))
        elif op == 11:
            left = (cpu - delta[CPU_ROW]) / 128000.0
            score = np.int64(100.0 * (1.0 - 0.5 * left - 0.5 * ((free_gpu - ask) / 8000.0)))
        elif op == 12:
            score = np.int64(_packing(n, milli, count, gpu_free, num))
        elif op == 13:
            score = np.int64(_clustering(n, kind, free_gpu, taken))
        elif op == 14:
            score, _device = fgd_best(
                n, milli, count, delta[CPU_ROW], offered, taken, gpu_free, gpu_count, gpu_model, kinds, probability,
                allowed, thresholds,
            )
        elif op == 20:
            score = (_stranded(cpu, free_gpu, term) - _stranded(cpu - delta[CPU_ROW], free_gpu - ask, term)) // 1000
        elif op == 21:
            if count > 0 and milli < FULL:
                score, _device = _worth_best(n, milli, term[2], term[3], gpu_free, gpu_count, worth, group)
            elif count > 0:
                score = -term[3] * count * worth[group[n], FULL]
        elif op == 22:
            score = -(term[2] * COST_UNIT * n // max(num_rows, 1))
        total += weight * score
    return total


@_jit
def pick_devices(
    n, delta, gpu, rule, draw, terms, offered, taken, gpu_free, gpu_count, gpu_model, group, worth, kinds, probability,
    allowed, thresholds,
):
    """Bit mask of the devices for a pod that fits node ``n``."""
    milli, count = gpu[0], gpu[1]
    if count == 0:
        return np.int64(0)
    num = gpu_count[n]
    one = np.int64(1)
    if milli == FULL:
        mask, left = np.int64(0), count
        for g in range(num):
            if left > 0 and gpu_free[n, g] == FULL:
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
                    break
                skip -= 1
        return one << device
    if rule == DEVICES_SCORED:
        for t in range(terms.shape[0]):
            if terms[t, 0] == 14:
                _score, device = fgd_best(
                    n, milli, count, delta[CPU_ROW], offered, taken, gpu_free, gpu_count, gpu_model, kinds,
                    probability, allowed, thresholds,
                )
                return one << device
            if terms[t, 0] == 21:
                _score, device = _worth_best(
                    n, milli, terms[t, 2], terms[t, 3], gpu_free, gpu_count, worth, group
                )
                return one << device
    tightest = FULL + 1
    for g in range(num):
        if milli <= gpu_free[n, g] < tightest:
            tightest, device = gpu_free[n, g], g
    return one << device


@_jit
def decide(
    c, draw, start, clock, num_rows, ties, rule, scores, permitted, deltas, gpus, touched, last_touch, terms, offered,
    taken, gpu_free, gpu_count, gpu_model, group, worth, kinds, probability, allowed, thresholds,
):
    """Bring row ``c`` of the score cache up to date, then (row, score, devices) of the best node."""
    refresh(
        c, start, clock, num_rows, scores, permitted, deltas, gpus, touched, last_touch, terms, offered, taken,
        gpu_free, gpu_count, gpu_model, group, worth, kinds, probability, allowed, thresholds,
    )
    row = scores[c]
    best = np.int64(NOT_FEASIBLE)
    node = -1
    for n in range(num_rows):
        if row[n] > best:
            best, node = row[n], n
    if node < 0:
        return -1, best, np.int64(0)
    if ties == TIES_RANDOM:
        equal = 0
        for n in range(node, num_rows):
            if row[n] == best:
                equal += 1
        skip = draw % equal
        for n in range(node, num_rows):
            if row[n] == best:
                if skip == 0:
                    node = n
                    break
                skip -= 1
        draw //= equal
    devices = pick_devices(
        node, deltas[c], gpus[c], rule, draw, terms, offered, taken, gpu_free, gpu_count, gpu_model, group, worth,
        kinds, probability, allowed, thresholds,
    )
    return node, best, devices


@_jit
def refresh(
    c, start, clock, num_rows, scores, permitted, deltas, gpus, touched, last_touch, terms, offered, taken, gpu_free,
    gpu_count, gpu_model, group, worth, kinds, probability, allowed, thresholds,
):
    """Recompute the nodes of class ``c`` touched since ``start``; all of them if that is too long ago."""
    ring = touched.shape[0]
    row, delta, gpu, ok = scores[c], deltas[c], gpus[c], permitted[c]
    if start < 0 or clock - start >= min(ring, num_rows):
        for n in range(num_rows):
            row[n] = evaluate(
                n, delta, gpu, ok[n], terms, offered, taken, gpu_free, gpu_count, gpu_model, group, worth, kinds,
                probability, allowed, thresholds, num_rows,
            )
        return
    for i in range(start, clock):
        n = touched[i & (ring - 1)]
        if last_touch[n] == i:
            row[n] = evaluate(
                n, delta, gpu, ok[n], terms, offered, taken, gpu_free, gpu_count, gpu_model, group, worth, kinds,
                probability, allowed, thresholds, num_rows,
            )
