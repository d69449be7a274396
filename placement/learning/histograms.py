"""Decaying histograms: the estimators of VPA, Koordinator, Crane and Autopilot.

Exponential buckets; a sample's weight halves every half-life; a percentile returns the upper edge of its
bucket (``vertical-pod-autoscaler/pkg/recommender/util``). All workloads and hours are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from placement.learning import sliding
from placement.learning.usage import SingleArray
from placement.learning.windows import Past, trailing_max
from placement.resources import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class HistogramSpec:
    """A decaying histogram: buckets from ``first``, each ``growth`` times the last (1 = linear); weights halve
    every ``half_life_h`` hours."""

    first: float
    growth: float
    largest: float
    half_life_h: float

    @cached_property
    def num_buckets(self) -> int:
        """Buckets up to ``largest``, VPA's formula."""
        if self.growth == 1:
            return int(np.ceil(self.largest / self.first))
        return int(np.ceil(np.log(self.largest * (self.growth - 1) / self.first + 1) / np.log(self.growth))) + 1

    def bucket(self, values: FloatArray) -> IntArray:
        """Index of the bucket of each value; NaN maps to 0 and must be masked."""
        index = np.fmax(values, self.first)
        if self.growth == 1:
            index /= self.first
        else:
            index *= self.growth - 1
            index /= self.first
            index += 1
            np.log(index, out=index)
            index /= np.log(self.growth)
        np.minimum(index, self.num_buckets - 1, out=index)
        index[~(values >= self.first)] = 0
        return index.astype(np.int64)

    @cached_property
    def upper_edges(self) -> FloatArray:
        """(K,) end of each bucket: what a percentile returns."""
        if self.growth == 1:
            return np.asarray(self.first * np.arange(1, self.num_buckets + 1), float)
        starts = self.first * (self.growth ** np.arange(self.num_buckets + 1) - 1) / (self.growth - 1)
        return np.asarray(starts[1:], float)


PEAK_DAYS = 8
"""How many days of peaks VPA keeps of memory."""

VPA_CPU = HistogramSpec(0.01, 1.05, 1000.0, 24.0)
VPA_MEMORY = HistogramSpec(1e7, 1.05, 1e12, 24.0)
KOORDINATOR_CPU = HistogramSpec(0.025, 1.05, 1024.0, 12.0)
KOORDINATOR_MEMORY = HistogramSpec(5.0 * 2**20, 1.05, 2.0**40, 24.0)


def histogram_percentiles(
    past: Past, spec: HistogramSpec, percents: tuple[float, ...], *, by_value: bool = False
) -> SingleArray:
    """(P, N, O) percentiles of a decaying histogram of all samples, in shares; the bucket's upper edge.

    ``by_value`` weighs each sample by the upper edge of its bucket as well (Autopilot's load-adjusted histogram).
    """
    amounts = past.blocks * past.provisioned[:, None, None]
    return _decayed(past, spec, amounts, np.isfinite(past.blocks), percents, by_value)


def daily_peak_percentiles(past: Past, spec: HistogramSpec, percents: tuple[float, ...]) -> SingleArray:
    """(P, N, O) VPA's memory: percentiles of the peaks of the last :data:`PEAK_DAYS` days before each origin."""
    day_max = trailing_max(past.hour_max, 24)
    out = np.full((len(percents), len(past.share), len(past.origins)), np.nan, np.float32)
    weight = 2.0 ** (-np.arange(PEAK_DAYS) * 24 / spec.half_life_h)
    for o, hour in enumerate(past.hours):
        ends = hour - 1 - 24 * np.arange(PEAK_DAYS)
        ends = ends[ends >= 0]
        peaks = day_max[:, ends] * past.provisioned[:, None] if len(ends) else np.full((len(past.share), 1), -np.inf)
        present = np.isfinite(peaks)
        order = np.argsort(np.where(present, peaks, np.inf), axis=1)
        ranked = np.take_along_axis(np.where(present, weight[: peaks.shape[1]], 0.0), order, axis=1)
        running = np.cumsum(ranked, axis=1)
        for p, percent in enumerate(percents):
            at = (running < percent / 100 * running[:, -1:] - 1e-12).sum(axis=1)
            value = np.take_along_axis(np.take_along_axis(peaks, order, axis=1), at[:, None], axis=1)[:, 0]
            edge = spec.upper_edges[spec.bucket(np.where(np.isfinite(value), value, 0.0))] / past.provisioned
            out[p, :, o] = np.where(running[:, -1] > 0, edge, np.nan)
    return out


def _decayed(
    past: Past,
    spec: HistogramSpec,
    amounts: FloatArray,
    present: BoolArray,
    percents: tuple[float, ...],
    by_value: bool,
) -> SingleArray:
    num, blocks, per_hour = amounts.shape
    size = spec.num_buckets
    largest = int(spec.bucket(np.array([float(np.nanmax(amounts, initial=spec.first))]))[0]) + 1
    size = min(size, largest)
    if sliding.HAS_NUMBA:
        return _compiled(past, spec, amounts, present, percents, by_value, size)
    within = 2.0 ** (-(per_hour - 1 - np.arange(per_hour)) / per_hour / spec.half_life_h)
    decay = 2.0 ** (-1.0 / spec.half_life_h)
    mass = np.zeros((num, size))
    wanted = {int(h): o for o, h in enumerate(past.hours)}
    out = np.full((len(percents), num, len(past.origins)), np.nan, np.float32)
    offset = np.arange(num)[:, None] * size
    for hour in range(blocks + 1):
        if hour in wanted:
            out[:, :, wanted[hour]] = _percentiles_of_mass(mass, spec, percents) / past.provisioned
        if hour == blocks:
            break
        weight = np.where(present[:, hour], within, 0.0)
        bucket = spec.bucket(amounts[:, hour])
        if by_value:
            weight = weight * spec.upper_edges[bucket]
        index = bucket + offset
        mass = mass * decay + np.bincount(index.ravel(), weight.ravel(), num * size).reshape(num, size)
    return out


def _compiled(
    past: Past, spec: HistogramSpec, amounts: FloatArray, present: BoolArray, percents: tuple[float, ...],
    by_value: bool, size: int,
) -> SingleArray:  # fmt: skip
    """The same in a compiled loop."""
    per_hour = amounts.shape[2]
    within = 2.0 ** (-(per_hour - 1 - np.arange(per_hour)) / per_hour / spec.half_life_h)
    weight, bucket = np.where(present, within, 0.0), spec.bucket(amounts)
    if by_value:
        weight = weight * spec.upper_edges[bucket]
    wanted = np.full(amounts.shape[1] + 1, -1, np.int64)
    inside = (past.hours >= 0) & (past.hours <= amounts.shape[1])
    wanted[past.hours[inside]] = np.flatnonzero(inside)
    found = np.full((len(percents), len(amounts), len(past.origins)), np.nan)
    levels = np.array([percent / 100 for percent in percents])
    decay = 2.0 ** (-1.0 / spec.half_life_h)
    sliding.decayed_percentiles(bucket, weight, wanted, decay, levels, spec.upper_edges[:size], found)
    return np.asarray(found / past.provisioned[None, :, None], np.float32)


def _percentiles_of_mass(mass: FloatArray, spec: HistogramSpec, percents: tuple[float, ...]) -> FloatArray:
    running = np.cumsum(mass, axis=1)
    total = running[:, -1]
    out = np.full((len(percents), len(mass)), np.nan)
    for i, percent in enumerate(percents):
        at = np.minimum((running < (percent / 100 * total)[:, None]).sum(axis=1), mass.shape[1] - 1)
        out[i] = np.where(total > 0, spec.upper_edges[at], np.nan)
    return out
