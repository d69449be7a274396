"""What a forecast may see of a series, and sliding windows over it.

A :class:`Past` holds the series of many workloads and the moments at which forecasts are made. Predictors and
features share its hourly blocks, so that a window's maximum, sum or percentile is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from placement.errors import ConfigError
from placement.learning import sliding
from placement.learning.usage import HOUR, STEP_S, SingleArray
from placement.resources import CPU, FloatArray, IntArray

T = TypeVar("T")

PEAK = "peak"
P95 = "p95"
"""Statistics of a window that are predicted: its largest sample, its 95th percentile."""


SLIDE_FROM = 45
"""A window this many times longer than its step is cheaper to slide than to sort anew (measured)."""

CHUNK = 4_000_000
"""Samples that are sorted at a time."""


HOURLY = ("blocks", "hour_max", "hour_count", "hour_sum", "hour_squares")
"""Tables of a past that depend on its phase alone, not on its origins."""


@dataclass(frozen=True)
class Past:
    """What every predictor may read: a forecast at origin ``o`` sees samples ``[0, o)`` only.

    ``share`` is ``(N, T)`` float32, NaN for gaps. ``origins`` are sample indices, ``(O,)``, ascending, all in the
    same phase of the hour (a live forecast has one origin, the end). ``provisioned`` is ``(N,)`` in cores or bytes.
    """

    share: SingleArray
    origins: IntArray
    provisioned: FloatArray
    resource: str = CPU
    start_s: int = 0

    def __post_init__(self) -> None:
        if len(self.origins) and len(np.unique(self.origins % HOUR)) > 1:
            raise ConfigError("forecast origins must be whole hours apart; thin them to one phase of the hour")

    def at(self, origins: IntArray) -> Past:
        """The same series at other origins; hourly tables already made are shared where the phase is the same."""
        other = Past(self.share, origins, self.provisioned, self.resource, self.start_s)
        if len(origins) and len(self.origins) and other.phase == self.phase:
            shared = (*HOURLY, "_statistics")
            other.__dict__.update({name: getattr(self, name) for name in shared})
        return other

    def of(self, rows: slice) -> Past:
        """The past of some of the workloads, with their rows of the hourly tables."""
        if rows.stop - rows.start == len(self.share):
            return self
        part = Past(self.share[rows], self.origins, self.provisioned[rows], self.resource, self.start_s)
        part.__dict__.update({name: getattr(self, name)[rows] for name in HOURLY})
        part._statistics.update({key: table[rows] for key, table in self._statistics.items()})
        return part

    def before(self, table: SingleArray | FloatArray, lag_h: int = 1) -> SingleArray:
        """(N, O) entry of an (N, B) hourly table ``lag_h`` hours before each origin (1 = the hour that ends there), else NaN."""
        at = self.hours - lag_h
        first = int(np.searchsorted(at, 0))
        out = np.full((len(table), len(at)), np.nan, np.float32)
        out[:, first:] = table[:, at[first:]]
        return out

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returns, made once for this past: several rules read the same histogram or window."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    @cached_property
    def _made(self) -> dict[Hashable, Any]:
        return {}

    @cached_property
    def _statistics(self) -> dict[tuple[int, str], SingleArray]:
        return {}

    @cached_property
    def phase(self) -> int:
        """Samples before the first whole hour, counted back from the origins."""
        return int(self.origins[0]) % HOUR if len(self.origins) else 0

    @cached_property
    def hours(self) -> IntArray:
        """(O,) origins as indices of hourly blocks: block ``h`` holds the samples of hour ``h``."""
        return (self.origins - self.phase) // HOUR

    @cached_property
    def blocks(self) -> SingleArray:
        """(N, B, 12) the series cut into hours that end at the origins, samples before ``phase`` left out."""
        body = self.share[:, self.phase :]
        num = body.shape[1] // HOUR
        return body[:, : num * HOUR].reshape(len(body), num, HOUR)

    @cached_property
    def hour_max(self) -> SingleArray:
        """(N, B) largest sample of each hour, -inf where the hour is a gap."""
        largest = np.where(np.isnan(self.blocks), -np.inf, self.blocks).max(axis=2)
        return np.asarray(largest, np.float32)

    @cached_property
    def hour_count(self) -> FloatArray:
        """(N, B) samples present in each hour."""
        return np.asarray(np.isfinite(self.blocks).sum(axis=2), float)

    @cached_property
    def hour_sum(self) -> FloatArray:
        """(N, B) sum of each hour's samples."""
        return np.asarray(np.nansum(self.blocks, axis=2, dtype=float), float)

    @cached_property
    def hour_squares(self) -> FloatArray:
        """(N, B) sum of squares of each hour's samples."""
        return np.asarray(np.nansum(np.square(self.blocks, dtype=float), axis=2), float)

    @cached_property
    def end_s(self) -> IntArray:
        """(O,) clock at each origin."""
        return self.start_s + (self.origins - 1) * STEP_S

    def statistic(self, horizon_h: int, kind: str) -> SingleArray:
        """(N, B) statistic of the window of ``horizon_h`` hours that starts at each hourly block.

        NaN where less than two thirds of the window was recorded, or where it leaves the series.
        """
        key = (horizon_h, kind)
        if key not in self._statistics:
            self._statistics[key] = window_statistic(self.blocks, self.hour_max, self.hour_count, horizon_h, kind)
        return self._statistics[key]


AT_ONCE = 16
"""Workloads of which features or forecasts are made at once: all that is between a series and them stays in the cache."""


def in_parts(num: int) -> Iterator[slice]:
    """Rows ``0`` to ``num``, so many at once; one empty part of nothing."""
    return (slice(first, min(first + AT_ONCE, num)) for first in range(0, max(num, 1), AT_ONCE))


def window_statistic(
    blocks: SingleArray, hour_max: SingleArray, hour_count: FloatArray, horizon_h: int, kind: str
) -> SingleArray:
    """See :meth:`Past.statistic`."""
    num = blocks.shape[1]
    out = np.full((len(blocks), num), np.nan, np.float32)
    if num < horizon_h:
        return out
    if kind == PEAK:
        out[:, : num - horizon_h + 1] = trailing_max(hour_max, horizon_h)[:, horizon_h - 1 :]
    else:
        flat = np.ascontiguousarray(blocks.reshape(len(blocks), -1))
        ends = np.arange(horizon_h, num + 1) * HOUR
        out[:, : num - horizon_h + 1] = window_percentiles(flat, ends, horizon_h * HOUR, (95.0,))[0]
    seen = trailing_sum(hour_count, horizon_h)[:, horizon_h - 1 :]
    out[:, : num - horizon_h + 1][seen < horizon_h * HOUR * 2 / 3] = np.nan
    return out


def trailing_max(values: SingleArray, width: int, stride: int = 1) -> SingleArray:
    """(N, B) maximum of the ``width`` entries, ``stride`` apart, that end at each entry (fewer at the start)."""
    out = values.copy()
    have = 1
    while have < width:
        step = min(have, width - have)
        shift = step * stride
        if shift < out.shape[1]:
            out[:, shift:] = np.maximum(out[:, shift:], out[:, :-shift])
        have += step
    return out


def trailing_sum(values: FloatArray, width: int) -> FloatArray:
    """(N, B) sum of the ``width`` entries that end at each entry (fewer at the start)."""
    total = np.cumsum(values, axis=1)
    out = total.copy()
    out[:, width:] -= total[:, :-width]
    return out


def window_percentiles(share: SingleArray, ends: IntArray, width: int, percents: tuple[float, ...]) -> SingleArray:
    """(P, N, O) exact percentiles (linear between order statistics) of ``share[:, end - width : end]``, gaps left out.

    NaN where the window holds nothing, as it does where an end is not after the start of the series. Windows that move
    little stay sorted as they slide (with numba); others are sorted.
    """
    ends = np.maximum(ends, 0)
    if len(ends) and int(ends.max()) > share.shape[1]:
        raise IndexError(f"a window ends at {int(ends.max())}, the series has {share.shape[1]} samples")
    out = np.full((len(percents), len(share), len(ends)), np.nan, np.float32)
    step = float(np.abs(np.diff(ends)).mean()) if len(ends) > 1 else width
    if sliding.HAS_NUMBA and width > SLIDE_FROM * step:
        fractions = np.array([percent / 100 for percent in percents])
        sliding.window_percentiles(np.ascontiguousarray(share, np.float32), ends, width, fractions, out)
        return out
    return _sorted_windows(share, ends, width, percents, out)


def _sorted_windows(
    share: SingleArray, ends: IntArray, width: int, percents: tuple[float, ...], out: SingleArray
) -> SingleArray:
    """The same by sorting every window."""
    per_batch = max(1, CHUNK // max(width, 1))
    for row, series in enumerate(share):
        padded = np.concatenate([np.full(width, np.nan, np.float32), series])
        windows = np.lib.stride_tricks.sliding_window_view(padded, width)
        for first in range(0, len(ends), per_batch):
            batch = ends[first : first + per_batch]
            ordered = windows[batch]
            ordered.sort(axis=1)
            _pick(out[:, row, first : first + per_batch], ordered, percents)
    return out


def _pick(out: SingleArray, ordered: SingleArray, percents: tuple[float, ...]) -> None:
    last = ordered.shape[1] - 1
    if np.isfinite(ordered[:, last]).all():  # no gap in any window: the same two columns of all
        for i, percent in enumerate(percents):
            position = last * (percent / 100)
            part = np.float32(position - int(position))
            out[i] = ordered[:, int(position)] * (1 - part) + ordered[:, min(int(position) + 1, last)] * part
        return
    count = np.isfinite(ordered).sum(axis=1)
    rows = np.arange(len(ordered))
    for i, percent in enumerate(percents):
        position = np.maximum(count - 1, 0) * (percent / 100)
        low = position.astype(np.int64)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        part = (position - low).astype(np.float32)
        out[i] = ordered[rows, low] * (1 - part) + ordered[rows, high] * part
