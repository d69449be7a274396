"""What the models see: one vector per workload and moment, made from its past alone.

The same code computes a training table of many workloads and hours and a single live row, so there is one
meaning of each feature. All amounts are shares of what was provisioned, which makes a small and a large
workload comparable; :class:`FeatureSchema` names and orders them, and its hash is stored in every model file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

import numpy as np

from placement.learning.baselines import SLOT_H, Target, age_hours, forecast, mean_and_deviation
from placement.learning.histograms import VPA_CPU, VPA_MEMORY, HistogramSpec, histogram_percentiles
from placement.learning.kin import NAMES as KIN_NAMES
from placement.learning.usage import HOUR, SingleArray
from placement.learning.windows import Past, in_parts, trailing_max, trailing_sum, window_percentiles
from placement.resources import CPU, BoolArray, FloatArray, IntArray

MAX_HOURS = (3, 6, 12, 24, 48, 72, 168, 336, 672)
MEAN_HOURS = (3, 6, 12, 24, 72, 168, 336, 672)
DEVIATION_HOURS = (3, 10, 24, 72, 168, 672)
LAG_HOURS = 6

NOT_SHARES = (
    "hours_above",
    "since_",
    "recorded_",
    "age_h",
    "weekday",
    "cores",
    "memory_gib",
    "other_",
    "cluster_",
    "siblings_",
    "others_",
    "guaranteed",
    "priority",
)
"""Prefixes of the features that are no share of the workload's own resource and must not be rescaled."""

CLOCK = ("hour", "weekday")
"""Features that a recording without a calendar cannot tell."""

Table = tuple[str, SingleArray]


@dataclass(frozen=True)
class FeatureSchema:
    """Names of the features, in order, and a hash that a model file must carry."""

    names: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the names."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:16]

    @cached_property
    def is_share(self) -> BoolArray:
        """(F,) which features are shares of the predicted resource."""
        return np.array([name != "hour" and not name.startswith(NOT_SHARES) for name in self.names])

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Context:
    """What a forecast may know beside the workload's own series of one resource.

    ``other`` is the same workloads' past in the other resource (None when it is not measured); ``cores`` and
    ``memory_gib`` are (N,) requests. What is not known becomes NaN, so the schema is the same everywhere.
    """

    cores: FloatArray
    memory_gib: FloatArray
    other: Past | None = None

    def of(self, rows: slice) -> Context:
        """Of some of the workloads."""
        return replace(
            self,
            cores=self.cores[rows],
            memory_gib=self.memory_gib[rows],
            other=None if self.other is None else self.other.of(rows),
        )


@dataclass(frozen=True)
class FeatureTable:
    """(N, O, F) float32 features of one target with their schema."""

    schema: FeatureSchema
    values: SingleArray = field(repr=False)


def featurize(past: Past, target: Target, context: Context, kin: SingleArray | None = None) -> FeatureTable:
    """(N, O, F) features of every workload at every origin, from samples before the origin only; ``kin`` as in
    :func:`kin_features`."""
    own = side_by_side(common_features(past, context), target_features(past, target))
    return side_by_side(own, kin_features(past, kin))


def common_features(past: Past, context: Context) -> FeatureTable:
    """Features that do not depend on the target: levels, spread, percentiles, bursts, clock, neighbours."""

    def tables(part: Past, rows: slice) -> Iterator[Table]:
        own = (make(part) for make in (_recent, _rolling, _distribution, _bursts, _days))
        return chain(*own, _near(part, context.of(rows)))

    return _table(past, tables)


def target_features(past: Past, target: Target) -> FeatureTable:
    """Features of the target's own window: the same window on earlier days, its recent values and quantiles."""
    for hours in (target.horizon_h, SLOT_H):
        past.statistic(hours, target.statistic)  # of all workloads at once: other tasks and rules read it too
    return _table(past, lambda part, rows: _windows(part, target))


def kin_features(past: Past, kin: SingleArray | None) -> FeatureTable:
    """Features made of other workloads' usage, and of what is known of the workload beside its own: (N, O, K), what
    :mod:`placement.learning.kin` tells, or None."""
    shape = (len(past.share), len(past.origins), len(KIN_NAMES))
    return FeatureTable(FeatureSchema(KIN_NAMES), np.full(shape, np.nan, np.float32) if kin is None else kin)


def side_by_side(left: FeatureTable, right: FeatureTable) -> FeatureTable:
    """One table of both tables' features."""
    schema = FeatureSchema((*left.schema.names, *right.schema.names))
    return FeatureTable(schema, np.concatenate([left.values, right.values], axis=2))


def _table(past: Past, tables: Callable[[Past, slice], Iterable[Table]]) -> FeatureTable:
    """What ``tables`` makes of a few workloads at a time, side by side; NaN for what is not finite."""
    names: tuple[str, ...] = ()
    values = np.empty((len(past.share), len(past.origins), 0), np.float32)
    for rows in in_parts(len(past.share)):
        part = past.of(rows)
        names, columns = zip(*tables(part, rows), strict=True)
        if not rows.start:
            values = np.empty((*values.shape[:2], len(names)), np.float32)
        shape = (len(part.share), len(past.origins))
        whole = np.stack([np.broadcast_to(column, shape) for column in columns], dtype=np.float32)
        whole[~np.isfinite(whole)] = np.nan
        values[rows] = whole.transpose(1, 2, 0)  # by one copy: features one by one would each touch the whole of it
    return FeatureTable(FeatureSchema(names), values)


def schema_of(target: Target) -> FeatureSchema:
    """The schema that this build computes for a target."""
    past = Past(np.zeros((1, HOUR), np.float32), np.array([HOUR]), np.ones(1))
    return featurize(past, target, Context(np.ones(1), np.ones(1))).schema


def _hour_mean(past: Past) -> FloatArray:
    with np.errstate(all="ignore"):
        mean: FloatArray = past.hour_sum / np.where(past.hour_count > 0, past.hour_count, np.nan)
    return mean


def _recent(past: Past) -> Iterator[Table]:
    mean = _hour_mean(past)
    for lag in range(1, LAG_HOURS + 1):
        yield f"max_lag{lag}h", past.before(past.hour_max, lag)
        yield f"mean_lag{lag}h", past.before(mean, lag)
    samples = past.blocks
    for k in (1, 2, 3):
        yield f"sample_lag{k}", past.before(samples[:, :, HOUR - k])
    yield "min_lag1h", past.before(np.fmin.reduce(samples, axis=2))
    yield "half_hour_max", past.before(np.fmax.reduce(samples[:, :, HOUR // 2 :], axis=2))
    yield "deviation_1h", mean_and_deviation(past, 1)[1]


def _rolling(past: Past) -> Iterator[Table]:
    for hours in MAX_HOURS:
        yield f"max_{hours}h", past.before(trailing_max(past.hour_max, hours))
    for hours in MEAN_HOURS:
        yield f"mean_{hours}h", mean_and_deviation(past, hours)[0]
    for hours in DEVIATION_HOURS:
        yield f"deviation_{hours}h", mean_and_deviation(past, hours)[1]
    count = past.before(trailing_sum(past.hour_count, 24))
    yield "recorded_24h", count / np.float32(24 * HOUR)
    yield "age_h", np.minimum(age_hours(past), 672)


def _distribution(past: Past) -> Iterator[Table]:
    day = window_percentiles(past.share, past.origins, 24 * HOUR, (10.0, 50.0, 90.0, 95.0, 99.0))
    for percent, table in zip((10, 50, 90, 95, 99), day, strict=True):
        yield f"p{percent}_24h", table
    hourly = np.where(np.isfinite(past.hour_max), past.hour_max, np.nan).astype(np.float32)
    for name, hours, percents in (("72h", 72, (50.0, 90.0)), ("7d", 168, (50.0, 75.0, 90.0, 95.0, 98.0))):
        for level, table in zip(percents, window_percentiles(hourly, past.hours, hours, percents), strict=True):
            yield f"hour_max_p{level:g}_{name}", table
    percents = (50.0, 75.0, 90.0, 95.0, 98.0)
    for level, table in zip(percents, window_percentiles(hourly, past.hours, 672, percents), strict=True):
        yield f"hour_max_p{level:g}_28d", table
    linear = HistogramSpec(1 / 200, 1.0, 1.05, 24.0 * 7)
    unit = Past(past.share, past.origins, np.ones(len(past.share)), past.resource, past.start_s)
    amounts = VPA_CPU if past.resource == CPU else VPA_MEMORY
    for percent, table in zip((90, 95, 99), histogram_percentiles(past, amounts, (90.0, 95.0, 99.0)), strict=True):
        yield f"decayed_p{percent}_24h", table
    for percent, table in zip((95, 99), histogram_percentiles(unit, linear, (95.0, 99.0)), strict=True):
        yield f"decayed_p{percent}_7d", table


def _bursts(past: Past) -> Iterator[Table]:
    """How often and how long ago a workload was near its own maximum."""
    month = trailing_max(past.hour_max, 672)
    for part in (0.5, 0.8):
        high = (past.hour_max > np.float32(part) * month) & np.isfinite(past.hour_max)
        for hours in (24, 168, 672):
            yield f"hours_above_{part}_{hours}h", past.before(trailing_sum(high.astype(float), hours))
        latest = np.maximum.accumulate(np.where(high, np.arange(high.shape[1]), -10_000), axis=1)
        yield f"since_above_{part}", np.minimum(past.hours[None, :] - past.before(latest), 1000)


def _days(past: Past) -> Iterator[Table]:
    """Order statistics of the maxima of the last 7, 14 and 28 days, each day ending at the origin; the clock."""
    day_max = trailing_max(past.hour_max, 24)
    table = np.stack([past.before(day_max, 1 + 24 * k) for k in range(28)])
    table[~np.isfinite(table)] = np.nan
    for days in (7, 14, 28):
        ordered = np.sort(np.where(np.isnan(table[:days]), -np.inf, table[:days]), axis=0)[::-1]
        for rank in dict.fromkeys((2, 3, days // 2)):
            yield f"day_max_rank{rank}_of_{days}", ordered[rank - 1]
    hour = (past.end_s // 3600) % 24
    weekday = (past.end_s // 86400 + 3) % 7
    yield "hour", hour[None, :].astype(np.float32)
    yield "weekday", weekday[None, :].astype(np.float32)


def _near(past: Past, context: Context) -> Iterator[Table]:
    yield "cores", context.cores[:, None].astype(np.float32)
    yield "memory_gib", context.memory_gib[:, None].astype(np.float32)
    nothing = np.full((1, 1), np.nan, np.float32)
    other = context.other
    mean, deviation = mean_and_deviation(other, 24) if other is not None else (nothing, nothing)
    yield "other_max_1h", past.before(other.hour_max) if other is not None else nothing
    yield "other_mean_24h", mean
    yield "other_deviation_24h", deviation
    yield "other_max_7d", past.before(trailing_max(other.hour_max, 168)) if other is not None else nothing


def _windows(past: Past, target: Target) -> Iterator[Table]:
    horizon = target.horizon_h
    table = past.statistic(horizon, target.statistic)
    same = {d: _shifted(past, table, 24 * d) for d in (*range(1, 8), 14, 21, 28)}
    for day, values in same.items():
        yield f"same_{day}d_ago", values
    week = np.stack([same[d] for d in range(1, 8)])
    ordered = np.sort(np.where(np.isnan(week), -np.inf, week), axis=0)[::-1]
    yield "same_max_7d", ordered[0]
    yield "same_second_7d", ordered[1]
    yield "same_median_7d", ordered[3]
    yield "same_max_4w", np.fmax.reduce([same[7], same[14], same[21], same[28]])
    for d in (1, 7):
        yield f"before_same_{d}d_ago", _shifted(past, table, 24 * d + horizon)
        if 24 * d - horizon >= horizon:
            yield f"after_same_{d}d_ago", _shifted(past, table, 24 * d - horizon)
    for k in (1, 2, 3):
        yield f"window_{k}_before", _shifted(past, table, horizon * k)
    yield from _window_quantiles(past, table, horizon)
    for name in ("max28w", "coach-6x4h"):
        yield name, forecast(name, past, target)


def _window_quantiles(past: Past, table: SingleArray, horizon: int) -> Iterator[Table]:
    """Quantiles of the target's statistic over all hourly windows of the last 3, 7 and 28 days."""
    complete = past.hours - horizon + 1
    for name, hours in (("3d", 72), ("7d", 168), ("28d", 672)):
        percents = (50.0, 80.0, 90.0, 95.0)
        for percent, values in zip(percents, window_percentiles(table, complete, hours, percents), strict=True):
            yield f"window_p{percent:g}_{name}", values


def _shifted(past: Past, table: SingleArray, shift: int) -> SingleArray:
    at: IntArray = past.hours - shift
    out = np.full((len(table), len(at)), np.nan, np.float32)
    known = (at >= 0) & (at < table.shape[1])
    out[:, known] = table[:, at[known]]
    return out
