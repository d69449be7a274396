"""Samples of use on the regular grid of five minutes, checked: what learning reads.

What is known to go wrong (duplicates, samples out of order, tiny negative values) is mended and counted; what would poison
training (a unit mix-up, an impossible value, a series without a single sample) is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from placement.learning.usage import HISTORY_DAYS, MOST_USED, STEP_S, SingleArray, UsageSeries
from placement.resources import FloatArray, IntArray
from simulator.traces.trace import TraceError

MAX_SHARE = 4.0
"""A workload whose mean use is above this many times what it was given was read in a wrong unit."""

LEAST_SHARE = 1e-3
"""Of what was given: where no sample of any workload is above it, use was read in a wrong unit, or is something else."""

MAX_NEGATIVE = 1e-3
"""Negative values down to this share of the provisioned amount are noise around zero, not errors."""

MOST_APART_S = 3600
"""Samples that are typically further apart than this make no series of five-minute steps."""

MOST_SILENT_DAYS = HISTORY_DAYS
"""A time in which nobody was recorded for longer than this is a jump of the clock: no forecast looks further back."""

Amounts = Mapping[str, FloatArray]
Repairs = list[tuple[str, int]]


def to_grid(
    name: str, index: IntArray, time_s: IntArray, values: Amounts, *, workloads: tuple[str, ...], provisioned: Amounts
) -> UsageSeries:
    """Put samples on the regular grid and check them.

    Parameters
    ----------
    index : (S,) row of each sample in ``workloads``.
    time_s : (S,) end of each sample; rounded up to the grid.
    values : per resource (S,) float64, cores or bytes; NaN = not measured.
    provisioned : per resource (N,).

    Raises
    ------
    TraceError : nothing to read, negative or infinite values, or values in a wrong unit.
    """
    if not len(index):
        raise TraceError(f"{name} holds no samples; nothing can be learned from it")
    slot = -(-time_s // STEP_S)
    _check_times(name, slot)
    first = int(slot.min())
    width = int(slot.max()) - first + 1
    cell = index.astype(np.int64) * width + (slot - first)
    repairs = disorder(index, cell)
    usage: dict[str, SingleArray] = {}
    for resource, column in values.items():
        clean, mended = checked(name, resource, column, provisioned[resource][index], index, workloads)
        repairs += mended
        table = np.full(len(workloads) * width, np.nan, np.float32)
        table[cell] = clean  # of samples that share a cell the last one stays
        usage[resource] = table.reshape(len(workloads), width)
    series = UsageSeries(name, workloads, first * STEP_S, usage, dict(provisioned), repairs=tuple(repairs))
    _check_units(series)
    return _drop_empty(series)


def _check_times(name: str, slot: IntArray) -> None:
    """Refuse a clock that jumped, or that counts something else than seconds."""
    steps = np.unique(slot)
    apart = np.diff(steps) * STEP_S
    if steps[0] < 0:
        raise TraceError(
            f"{name}: a sample is at second {int(steps[0]) * STEP_S}; times are seconds since 1970, or since 0"
        )
    if len(apart) and apart.max() > MOST_SILENT_DAYS * 86_400:
        at = int(steps[int(apart.argmax())]) * STEP_S
        raise TraceError(
            f"{name}: nothing was recorded for {apart.max() / 86_400:.0f} days after second {at}; the clock jumped, or a "
            "timestamp is in milliseconds: correct these rows or remove them"
        )
    if len(apart) and np.median(apart) > MOST_APART_S:
        raise TraceError(
            f"{name}: samples are typically {np.median(apart):.0f} s apart; five-minute samples are needed (are the times "
            "in milliseconds?)"
        )


def disorder(index: IntArray, cell: IntArray) -> Repairs:
    """Samples that come before the one above them of the same ``index``, and samples of which another has the ``cell``."""
    back = int(((index[1:] == index[:-1]) & (cell[1:] < cell[:-1])).sum())
    ordered = np.sort(cell)  # np.unique takes twenty times as long
    duplicates = int((ordered[1:] == ordered[:-1]).sum())
    return [(what, n) for what, n in (("samples out of order", back), ("duplicate samples", duplicates)) if n]


def checked(
    name: str, resource: str, column: FloatArray, limit: FloatArray, index: IntArray, workloads: Sequence[object]
) -> tuple[FloatArray, Repairs]:
    """(S,) the samples without noise below zero, and what was mended; NaN where nothing was measured.

    Raises
    ------
    TraceError : an infinite value, or one that is clearly negative.
    """
    infinite = np.abs(column) > np.finfo(np.float32).max
    if infinite.any():
        worst = workloads[int(index[int(np.argmax(infinite))])]
        raise TraceError(f"{name}: {resource} of {worst} is infinite; remove the row or its workload")
    limit = np.where(np.isfinite(limit), limit, 0.0)
    negative = column < 0
    if (negative & (column < -MAX_NEGATIVE * limit)).any():
        at = int(np.nanargmin(column))
        raise TraceError(
            f"{name}: {resource} of {workloads[int(index[at])]} is {column[at]:g}; usage cannot be negative "
            "(a counter reset read as a rate?), remove these rows"
        )
    counts = (
        ("samples without a value left as gaps", np.isnan(column)),
        (f"tiny negative {resource} samples set to 0", negative),
    )
    return np.where(negative, 0.0, column), [(what, int(mask.sum())) for what, mask in counts if mask.any()]


def _check_units(series: UsageSeries) -> None:
    """Refuse a table whose use is far above what was provisioned, or next to nothing: percent, MHz, cores, MiB for bytes …"""
    for resource, table in series.usage.items():
        given = np.maximum(series.provisioned[resource], 1e-9)
        most = np.fmax.reduce(table, axis=1, initial=-1)
        if most.max() > MOST_USED[resource]:
            raise TraceError(
                f"{series.name}: {resource} of {series.workloads[int(most.argmax())]} reaches {most.max():g}, more than a "
                "pod can use; remove the row, or convert its unit"
            )
        largest = float((most / given).max())
        if 0 <= largest < LEAST_SHARE:
            raise TraceError(
                f"{series.name}: {resource} is {f'below {LEAST_SHARE:g} of what was given' if largest else '0'} throughout; "
                "is it the right column, in the right unit (cores or millicores, bytes or MiB), and the right data?"
            )
        count = np.maximum(np.isfinite(table).sum(axis=1), 1)
        typical = np.nansum(table, axis=1, dtype=float) / count / given
        wrong = int((typical > MAX_SHARE).sum())
        if wrong == len(typical) or wrong > max(1, 0.02 * len(typical)):
            worst = int(np.nanargmax(typical))
            raise TraceError(
                f"{series.name}: {wrong} of {len(typical)} workloads use more than {MAX_SHARE:g} times the {resource} "
                f"they were given ({series.workloads[worst]}: {typical[worst]:.3g} times); the columns are in "
                "different units (percent, MHz or cores; MB or MiB), convert one of them"
            )


def _drop_empty(series: UsageSeries) -> UsageSeries:
    alive = np.ones(len(series.workloads), bool)
    for resource, table in series.usage.items():
        given = series.provisioned[resource]
        alive &= np.isfinite(table).any(axis=1) & (given > 0) & np.isfinite(given)
    if alive.all():
        return series
    if not alive.any():
        raise TraceError(f"{series.name}: no workload has both samples and a provisioned amount")
    kept = series.pick(alive)
    return replace(
        kept, repairs=(*series.repairs, ("workloads without samples or capacity dropped", int((~alive).sum())))
    )
