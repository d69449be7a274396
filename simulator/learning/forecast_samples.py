"""Forecast samples: recorded usage turned into rows that a model can be fitted and judged on.

A sample is one workload at one hour: its features, the target that came true, its weight (cores), who it is and
when it ended. Gaps in the recent past or in the target drop the sample; nothing is imputed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from placement.learning.baselines import BASELINES, Target, forecasts, oracle
from placement.learning.features import (
    CLOCK,
    Context,
    FeatureSchema,
    FeatureTable,
    common_features,
    kin_features,
    side_by_side,
    target_features,
)
from placement.learning.kin import LAG_H, codes_of, from_kin, own_facts, standing
from placement.learning.usage import DAY, HOUR, SingleArray, UsageSeries
from placement.learning.windows import Past, trailing_max, trailing_sum
from placement.resources import CPU, MEMORY, AnyArray, BoolArray, FloatArray, IntArray

MIN_RECORDED = 0.5
"""A sample needs this share of its last 24 h (or of the series so far) recorded."""

STRIDE_H = 5
"""Forecasts are judged every five hours: coprime with 24, so that every hour of the day is met."""


LEAST_BURST = 1e-3
"""Shares below this are noise."""
AT_ONCE = 4096
"""Rows that are gathered before the next table: they stay in the cache."""


@dataclass(frozen=True)
class Rows:
    """(S, F) features, gathered where they are read: of most samples nobody asks more than what they are drawn by.

    ``tables`` are (M, F) each, side by side; ``place`` (S,) is each sample's row of them.
    """

    tables: tuple[SingleArray, ...] = field(repr=False)
    place: IntArray = field(repr=False)

    @classmethod
    def of(cls, table: SingleArray) -> Rows:
        """A table as it is."""
        return cls((table,), np.arange(len(table)))

    def pick(self, mask: BoolArray | IntArray) -> Rows:
        """Of some of the samples."""
        return Rows(self.tables, self.place[mask])

    @cached_property
    def gathered(self) -> SingleArray:
        """(S, F) all of them."""
        rows = np.empty((len(self.place), sum(table.shape[1] for table in self.tables)), np.float32)
        first = 0
        for table in self.tables:
            columns = slice(first, first + table.shape[1])
            for begin in range(0, len(rows), AT_ONCE):
                rows[begin : begin + AT_ONCE, columns] = table[self.place[begin : begin + AT_ONCE]]
            first = columns.stop
        return rows

    def columns(self, numbers: Sequence[int]) -> SingleArray:
        """(S, len(numbers)) some of the features."""
        where = [(table, column) for table in self.tables for column in range(table.shape[1])]
        return np.stack([table[self.place, column] for table, column in (where[n] for n in numbers)], axis=1)


@dataclass(frozen=True)
class Samples:
    """``S`` samples of one task, flat.

    ``rows`` (S, F) float32 features; ``truth`` (S,) share; ``weight`` (S,) cores; ``workload`` (S,) index;
    ``hour`` (S,) whole hours from the series' start to the origin; ``start_day`` and ``end_day`` (S,) day (0-based)
    of the origin and of the target's last sample; ``groups`` (S,) names for calibration.
    """

    schema: FeatureSchema
    features: Rows = field(repr=False)
    truth: SingleArray = field(repr=False)
    weight: FloatArray = field(repr=False)
    workload: IntArray = field(repr=False)
    hour: IntArray = field(repr=False)
    start_day: IntArray = field(repr=False)
    end_day: IntArray = field(repr=False)
    groups: AnyArray = field(repr=False)

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def rows(self) -> SingleArray:
        """See above."""
        return self.features.gathered

    def pick(self, mask: BoolArray | IntArray) -> Samples:
        """Some of the samples."""
        return Samples(
            self.schema,
            self.features.pick(mask),
            self.truth[mask],
            self.weight[mask],
            self.workload[mask],
            self.hour[mask],
            self.start_day[mask],
            self.end_day[mask],
            self.groups[mask],
        )


def concatenate(parts: Sequence[Samples]) -> Samples:
    """Samples of several recordings, whose workload indices and days are already distinct."""
    names = ("truth", "weight", "workload", "hour", "start_day", "end_day", "groups")
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
    tables = parts[0].features.tables
    if all(part.features.tables is tables for part in parts):
        features = Rows(tables, np.concatenate([part.features.place for part in parts]))
    else:
        features = Rows.of(np.concatenate([part.rows for part in parts]))
    return Samples(parts[0].schema, features, *columns)


class Recording:
    """One usage series prepared for many tasks: pasts, context and common features are computed once.

    Shares are cut at 1: a limit cannot be exceeded, what the recording shows above it (a few per cent on
    Bitbrains) is measurement error.
    """

    def __init__(self, series: UsageSeries, origins: IntArray, *, as_live: bool = False) -> None:
        self.series = series
        self.as_live = as_live
        """As a row is served: without what the cluster does, with what its kin tell; and without a clock that only this
        recording has."""
        self.origins = origins
        self.shares = {r: np.minimum(series.share(r), np.float32(1)) for r in series.usage}
        self.pasts = {r: self.past(r, origins) for r in self.shares}
        self._common: dict[str, FeatureTable] = {}
        self._baselines: dict[tuple[str, str], tuple[IntArray, SingleArray]] = {}
        """By resource and name: the hours of a table that does not depend on the target, and the table."""

    def past(self, resource: str, origins: IntArray) -> Past:
        """The past of one resource at the given origins."""
        return Past(self.shares[resource], origins, self.series.provisioned[resource], resource, self.series.start_s)

    @cached_property
    def cores(self) -> FloatArray:
        """(N,) cores provisioned; 1 where the recording has no CPU."""
        given = self.series.provisioned.get(CPU)
        return np.ones(len(self.series.workloads)) if given is None else given

    def context(self, resource: str) -> Context:
        """Neighbours of a resource: the other one, the requests."""
        other = MEMORY if resource == CPU else CPU
        memory = self.series.provisioned.get(MEMORY, np.full(len(self.series.workloads), np.nan))
        return Context(self.cores, memory / 2**30, self.pasts.get(other))

    def common(self, resource: str) -> FeatureTable:
        """Features shared by all targets of a resource, cached."""
        if resource not in self._common:
            table = common_features(self.pasts[resource], self.context(resource))
            if self.as_live and not self.series.has_calendar:
                table.values[:, :, [table.schema.names.index(name) for name in CLOCK]] = np.nan
            self._common[resource] = table
        return self._common[resource]

    def features(self, resource: str, target: Target) -> FeatureTable:
        """(N, O, F) all features of a task."""
        return side_by_side(self.common(resource), target_features(self.pasts[resource], target))

    def kin(self, resource: str, target: Target) -> FeatureTable:
        """(N, O, K) what other workloads tell, as of :data:`LAG_H` hours before each origin."""
        past, facts = self.pasts[resource], self.series.facts
        if not any(any(f.keys()) for f in facts):
            return kin_features(past, None)
        earlier = past.at(past.origins - LAG_H * HOUR)
        return kin_features(past, from_kin(codes_of(facts), own_facts(facts), standing(earlier, target)))

    def samples(self, resource: str, target: Target, *, first_day: int = 0) -> Samples:
        """All usable samples of a task."""
        past = self.pasts[resource]
        common, own = self.common(resource), target_features(past, target)
        tables = [common, own, self.kin(resource, target)] if self.as_live else [common, cluster_features(past), own]
        truth = oracle(past, target)
        recorded = common.values[:, :, common.schema.names.index("recorded_24h")]
        possible = np.minimum(self.origins / DAY, 1)[None, :]
        usable = np.isfinite(truth) & (recorded >= MIN_RECORDED * possible)
        row, column = np.nonzero(usable)
        groups = np.array(self.series.groups or [""] * len(self.series.workloads))
        origin = self.origins[column]
        return Samples(
            FeatureSchema(tuple(name for table in tables for name in table.schema.names)),
            Rows(tuple(table.values.reshape(-1, len(table.schema)) for table in tables), np.flatnonzero(usable)),
            truth[usable],
            self.cores[row],
            row,
            origin // HOUR,
            origin // DAY + first_day,
            (origin + target.horizon_h * HOUR - 1) // DAY + first_day,
            groups[row],
        )

    def baselines(
        self, resource: str, target: Target, samples: Samples, names: Iterable[str]
    ) -> Mapping[str, SingleArray]:
        """Name → (S,) forecast of each baseline at the given samples; those that ignore the target are cached."""
        hours = np.unique(samples.hour)
        phase = self.origins[0] % HOUR if len(self.origins) else 0
        column, names = np.searchsorted(hours, samples.hour), tuple(names)
        wanted = [name for name in names if not self._is_known(resource, name, hours)]
        made = forecasts(wanted, self.pasts[resource].at(hours * HOUR + phase), target)
        self._baselines |= {(resource, n): (hours, t) for n, t in made.items() if not BASELINES[n].reads_target}
        out = {}
        for name in names:
            known, table = (hours, made[name]) if name in made else self._baselines[resource, name]
            out[name] = table[samples.workload, np.searchsorted(known, hours)[column]]
        return out

    def _is_known(self, resource: str, name: str, hours: IntArray) -> bool:
        return (resource, name) in self._baselines and bool(np.isin(hours, self._baselines[resource, name][0]).all())


def cluster_features(past: Past) -> FeatureTable:
    """(N, O, 8) what all workloads did together, the same for each: their mean share, and the share of them that burst (above
    half of their week's maximum), in the hour before each origin, the day before it, and an hour a day and a week ago."""
    mean = past.hour_sum.sum(axis=0) / np.maximum(past.hour_count.sum(axis=0), 1)
    is_burst = (past.hour_max > 0.5 * trailing_max(past.hour_max, 168)) & (past.hour_max > LEAST_BURST)
    burst = is_burst.sum(axis=0) / np.maximum(np.isfinite(past.hour_max).sum(axis=0), 1)
    columns = {}
    for name, by_hour in (("cluster_mean", mean), ("cluster_burst", burst)):
        row = by_hour[None].astype(np.float32)
        columns[f"{name}_1h"] = past.before(row)
        columns[f"{name}_24h"] = past.before(trailing_sum(row.astype(float), 24) / 24)
        columns[f"{name}_day_ago"] = past.before(row, 24)
        columns[f"{name}_week_ago"] = past.before(row, 168)
    values = np.stack([column[0] for column in columns.values()], axis=1)
    return FeatureTable(FeatureSchema(tuple(columns)), np.tile(values, (len(past.share), 1, 1)))


def draw(importance: FloatArray, most: int, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
    """At most ``most`` indices, ascending, and the factor that each one's weight must be multiplied by.

    Drawn with replacement in proportion to the root of ``importance`` (all > 0): sums of weighted terms stay right on
    average, and what counts more is seen more often, so that they scatter less than with as many drawn evenly.
    """
    if len(importance) <= most:
        return np.arange(len(importance)), np.ones(len(importance))
    chance = np.sqrt(importance)
    chance /= chance.sum()
    index, times = np.unique(rng.choice(len(chance), most, p=chance), return_counts=True)
    return index, times / (most * chance[index])


def folds_of(count: int, num: int, seed: int) -> IntArray:
    """(count,) fold of each workload, balanced, from a seed."""
    return np.random.default_rng(seed).permutation(count) % num
