"""Compiled loops over sliding windows: exact percentiles from a window kept in order, and decaying histograms.

Sorting every window anew costs most of what features cost. Here a window is kept sorted while it slides: what enters
and what leaves moves only the values between them. A histogram is one short row per workload that fades, fills and is
read. Both say the same, to the last bit, as the NumPy functions that call them (:mod:`placement.learning.windows`,
:mod:`placement.learning.histograms`), which answer where numba is not installed.
"""

from __future__ import annotations

import numpy as np

from placement.learning.usage import SingleArray
from placement.machine_code import HAS_NUMBA as HAS_NUMBA
from placement.machine_code import compiled
from placement.resources import FloatArray, IntArray


@compiled
def place_of(ordered: SingleArray, count: int, value: float) -> int:
    """First position of the ``count`` ordered values that is not below ``value``."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def close_up(ordered: SingleArray, gone: int, stop: int) -> None:
    """What stands after ``gone``, as far as ``stop``, moves down by one.

    Here and below positions are unsigned: of a signed one it is asked at each step whether it counts from the end, and
    the loop moves one value at a time.
    """
    for i in range(np.uint64(gone), np.uint64(stop)):
        ordered[i] = ordered[i + np.uint64(1)]


@compiled
def make_room(ordered: SingleArray, at: int, stop: int) -> None:
    """What stands from ``at`` on moves up by one, over what stood at ``stop``."""
    for k in range(np.uint64(stop - at)):
        i = np.uint64(stop) - k
        ordered[i] = ordered[i - np.uint64(1)]


@compiled
def insert(ordered: SingleArray, count: int, value: float) -> int:
    at = place_of(ordered, count, value)
    make_room(ordered, at, count)
    ordered[at] = value
    return count + 1


@compiled
def remove(ordered: SingleArray, count: int, value: float) -> int:
    close_up(ordered, place_of(ordered, count, value), count - 1)
    return count - 1


@compiled
def replace(ordered: SingleArray, count: int, old: float, new: float) -> None:
    """One value leaves and one enters: only what lies between them moves."""
    gone, come = place_of(ordered, count, old), place_of(ordered, count, new)
    if come > gone:
        come -= 1
        close_up(ordered, gone, come)
    else:
        make_room(ordered, come, gone)
    ordered[come] = new


@compiled
def slide(ordered: SingleArray, count: int, series: SingleArray, old: tuple[int, int], new: tuple[int, int]) -> int:
    """Move the window from ``old`` to ``new`` (start, stop), both edges forward; how many values it holds."""
    leaving, entering = old[0], old[1]
    while leaving < new[0] or entering < new[1]:
        gone = series[leaving] if leaving < new[0] else np.float32(np.nan)
        come = series[entering] if entering < new[1] else np.float32(np.nan)
        if np.isfinite(gone) and np.isfinite(come):
            replace(ordered, count, gone, come)
        elif np.isfinite(gone):
            count = remove(ordered, count, gone)
        elif np.isfinite(come):
            count = insert(ordered, count, come)
        leaving = min(leaving + 1, new[0])
        entering = min(entering + 1, new[1])
    return count


@compiled
def window_percentiles(table: SingleArray, ends: IntArray, width: int, fractions: FloatArray, out: SingleArray) -> None:
    """Fill ``out`` (P, N, O): percentiles, linear between order statistics, of ``table[:, end - width : end]``."""
    ordered = np.empty(width + 1, np.float32)
    for row in range(table.shape[0]):
        series = table[row]
        start = stop = count = 0
        for o in range(len(ends)):
            new_stop = max(ends[o], 0)
            new_start = max(new_stop - width, 0)
            if new_stop < stop or new_start < start or 2 * (new_stop - stop) > width:
                start, stop, count = new_start, new_start, 0  # little of what it holds would stay
            count = slide(ordered, count, series, (start, stop), (new_start, new_stop))
            start, stop = new_start, new_stop
            if count == 0:
                continue
            for p in range(len(fractions)):
                position = (count - 1) * fractions[p]
                low = int(position)
                part = np.float32(position - low)
                high = min(low + 1, count - 1)
                out[p, row, o] = ordered[low] * (np.float32(1) - part) + ordered[high] * part


@compiled
def decayed_percentiles(
    bucket: IntArray, weight: FloatArray, wanted: IntArray, decay: float, levels: FloatArray,
    edges: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """Fill ``out`` (P, N, O) with upper edges of a histogram that fades by ``decay`` every block.

    ``bucket`` and ``weight`` are (N, B, S); ``wanted`` (B + 1,) the column of ``out`` for the state before a block,
    or -1; ``levels`` (P,) shares of the mass.
    """
    blocks, per_block = bucket.shape[1], bucket.shape[2]
    mass = np.zeros(len(edges))
    new = np.zeros(len(edges))
    running = np.zeros(len(edges))
    for row in range(bucket.shape[0]):
        mass[:] = 0.0
        for block in range(blocks + 1):
            column = wanted[block]
            if column >= 0:
                total = 0.0
                for k in range(len(mass)):
                    total += mass[k]
                    running[k] = total
                for p in range(len(levels)):
                    at = min(place_of(running, len(mass), levels[p] * total), len(mass) - 1)
                    out[p, row, column] = edges[at] if total > 0 else np.nan
            if block == blocks:
                break
            new[:] = 0.0
            for s in range(per_block):
                new[bucket[row, block, s]] += weight[row, block, s]
            for k in range(len(mass)):
                mass[k] = mass[k] * decay + new[k]
