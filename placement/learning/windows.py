"""What a forecast may see of a series, and sliding windows over it.

A :class:`Past` holds the series of many workloads and the moments at which forecasts are made. Predictors and
features share its hourly blocks, so that a window's maximum, sum or percentile is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from placement.errors import ConfigError
from placement.learning import sliding
from placement.learning.usage import HOUR, STEP_S, SingleArray
from placement.resources import CPU, FloatArray, IntArray

PEAK = "peak"
P95 = "p95"
"""Statistics of a window that are predicted: its largest sample, its 95th percentile."""


SLIDE_FROM = 45
"""A window this many times longer than its step is cheaper to slide than to sort anew (measured)."""


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
            shared = ("blocks", "hour_max", "hour_count", "hour_sum", "hour_squares", "_statistics")
            other.__dict__.update({name: getattr(self, name) for name in shared})
        return other

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


def trailing_max(values: SingleArray, width: int) -> SingleArray:
    """(N, B) maximum of the ``width`` entries that end at each entry (fewer at the start)."""
    out = values.copy()
    have = 1
    while have < width:
        step = min(have, width - have)
        out[:, step:] = np.maximum(out[:, step:], out[:, :-step].copy()) if step < out.shape[1] else out[:, step:]
        have += step
    return out


def trailing_sum(values: FloatArray, width: int) -> FloatArray:
    """(N, B) sum of the ``width`` entries that end at each entry (fewer at the start)."""
    total = np.cumsum(values, axis=1)
    out = total.copy()
    out[:, width:] -= total[:, :-width]
    return out


def window_percentiles(
    share: SingleArray, ends: IntArray, width: int, percents: tuple[float, ...], *, chunk: int = 4_000_000
) -> SingleArray:
    """(P, N, O) exact percentiles (linear between order statistics) of ``share[:, end - width : end]``, gaps left out.

    NaN where the window holds nothing, as it does where an end is not after the start of the series. Windows that move
    little stay sorted as they slide (with numba); others are sorted in chunks of about ``chunk`` samples.
    """
    ends = np.maximum(ends, 0)
    if len(ends) and int(ends.max()) > share.shape[1]:
        raise IndexError(f"a window ends at {int(ends.max())}, the series has {share.shape[1]} samples")
    out = np.full((len(percents), len(share), len(ends)), np.nan, np.float32)
    step = int(np.median(np.diff(ends))) if len(ends) > 1 else width
    if sliding.HAS_NUMBA and width > SLIDE_FROM * step:
        fractions = np.array([percent / 100 for percent in percents])
        sliding.window_percentiles(np.ascontiguousarray(share, np.float32), ends, width, fractions, out)
        return out
    return _sorted_windows(share, ends, width, percents, out, chunk)


def _sorted_windows(
    share: SingleArray, ends: IntArray, width: int, percents: tuple[float, ...], out: SingleArray, chunk: int
) -> SingleArray:
    """The same by sorting every window."""
    per_batch = max(1, chunk // max(width, 1))
    for row, series in enumerate(share):
        padded = np.concatenate([np.full(width, np.nan, np.float32), series])
        windows = np.lib.stride_tricks.sliding_window_view(padded, width)
        for first in range(0, len(ends), per_batch):
            batch = ends[first : first + per_batch]
            ordered = np.sort(windows[batch], axis=1)
            _pick(out[:, row, first : first + per_batch], ordered, percents)
    return out


def _pick(out: SingleArray, ordered: SingleArray, percents: tuple[float, ...]) -> None:
    count = np.isfinite(ordered).sum(axis=1)
    rows = np.arange(len(ordered))
    for i, percent in enumerate(percents):
        position = np.maximum(count - 1, 0) * (percent / 100)
        low = position.astype(np.int64)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        part = (position - low).astype(np.float32)
        out[i] = ordered[rows, low] * (1 - part) + ordered[rows, high] * part
