"""The PlanetLab tasks: names never seen, days later; history is what the day has shown so far.

Names in four folds, fitted on 0303, 0306 and 0309, tested on 0322 and 0325. Weights, rounds and the first factors come
from models that left 0309 out. On a test day the factors are renewed every hour, from the recorded day before at about
that hour and from what has come true on the day itself, which soon counts for more. Beside its own day so far a workload
is known by its neighbours: what the other names of its owner (slice) and host did up to now, and in the same window on
earlier recorded days. Its *own* earlier days are not looked at, by the models as little as by the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from placement.errors import ConfigError
from placement.learning.baselines import Target, baselines_within, oracle
from placement.learning.features import FeatureSchema
from placement.learning.forecasting import LEVEL
from placement.learning.usage import DAY, HOUR, SingleArray, UsageSeries
from placement.resources import CPU, AnyArray, BoolArray, FloatArray, IntArray
from simulator.learning.forecast_samples import Recording, Rows, Samples, concatenate, folds_of
from simulator.learning.stacking import pinball
from simulator.learning.training import Effort, fit_bases, predictions, with_small_trees
from simulator.reproduce.forecast_judging import (
    FOLDS,
    STACKED_BASELINES,
    TWINS,
    Bands,
    Calibration,
    TaskResult,
    applied,
    between,
    calibrate,
    level_now,
    require_folds,
    rival_losses,
    stack_on,
)
from simulator.reproduce.neighbours import codes_of, mean_of_others
from simulator.reproduce.parts import Progress
from simulator.traces.usage_readers import host_of, slice_of

PLANETLAB_TRAIN = ("20110303", "20110306", "20110309")
PLANETLAB_TEST = ("20110322", "20110325")
LEAST_DAYS = 3
BASES = ("max_24h", "p99_24h")
MOST_ROWS = 40_000
DAY_BEFORE_HOURS = 3.0
"""Hours of outcomes of the day itself that weigh as much as the whole recorded day before: days differ as a whole."""
DAY_BEFORE_HOURS_OF = {"6h-p95": 1.0}
"""The same by target where days differ more: coverage by day has a standard deviation of .012 there on 0303–0309 (.007 for
the peak), one hour's outcomes an error of about .015, so an hour is worth as much as the difference of two days."""
NEAR_HOURS = 2
"""The day before counts at about the same hour: early in the day, with little history, models fall short more."""
SHRINK = 0.5
"""How far a band's factor is drawn to the one for all: it comes from few hours."""
SHARED = ("max_lag1h", "mean_lag1h", "p50_24h", "p95_24h", "max_24h", "deviation_24h", "window_p95_28d")
"""Features of which the mean over the owner's and the host's other workloads is a feature too."""


def split_days(stamps: Sequence[str]) -> tuple[list[int], list[int]]:
    """Numbers of the days, oldest first, that are fitted on and that are tested.

    They are the protocol's where two of its first and one of its later days are there; else the first three fifths of what
    is there, and the rest.

    Raises
    ------
    ConfigError : fewer than three days.

    >>> split_days(["20110303", "20110306", "20110325", "20110403"]), split_days(["20110403", "20110409", "20110420"])
    (([0, 1], [2]), ([0, 1], [2]))
    """
    train = [i for i, stamp in enumerate(stamps) if stamp in PLANETLAB_TRAIN]
    test = [i for i, stamp in enumerate(stamps) if stamp in PLANETLAB_TEST]
    if len(train) >= 2 and test:
        return train, test
    if len(stamps) < LEAST_DAYS:
        raise ConfigError(
            f"PlanetLab needs {LEAST_DAYS} days, two to fit on and one to test; the folder has {', '.join(stamps)}"
        )
    first = max(2, len(stamps) * 3 // 5)
    return list(range(first)), list(range(first, len(stamps)))


@dataclass
class Days:
    """The recorded days, prepared once for all tasks."""

    series: Sequence[UsageSeries]
    recordings: list[Recording] = field(init=False)
    stamps: list[str] = field(init=False)
    names: list[str] = field(init=False)
    index: list[IntArray] = field(init=False)
    """Per day, the number of each of its workloads in ``names``."""

    def __post_init__(self) -> None:
        origins = np.arange(2 * HOUR, DAY, HOUR)
        self.recordings = [Recording(day, origins) for day in self.series]
        self.stamps = [day.name.rsplit("-", 1)[-1] for day in self.series]
        self.names = sorted({name for day in self.series for name in day.workloads})
        number = {name: i for i, name in enumerate(self.names)}
        self.index = [np.array([number[name] for name in day.workloads]) for day in self.series]
        self.owners = codes_of([slice_of(name) for name in self.names])
        self.hosts = codes_of([host_of(name) for name in self.names])

    def samples(self, target: Target) -> Samples:
        """Samples of all days; ``workload`` counts names, the same over days, ``start_day`` the files."""
        return concatenate([self._day(i, target) for i in range(len(self.series))])

    def _day(self, day: int, target: Target) -> Samples:
        recording, lookup = self.recordings[day], self.index[day]
        part = recording.samples(CPU, target, first_day=day)
        names, tables = zip(*self._neighbours(day, target), strict=True)
        column = np.searchsorted(recording.origins // HOUR, part.hour)
        extra = np.stack([table[part.workload, column] for table in tables], axis=1).astype(np.float32)
        return replace(
            part,
            schema=FeatureSchema((*part.schema.names, *names)),
            features=Rows.of(np.concatenate([part.rows, extra], axis=1)),
            workload=lookup[part.workload],
            groups=np.full(len(part), self.stamps[day], dtype=object),
        )

    def _neighbours(self, day: int, target: Target) -> Iterator[tuple[str, AnyArray]]:
        """(name, (N, O) table) of each feature made of other names; samples before the origin or of earlier days."""
        recording, lookup = self.recordings[day], self.index[day]
        table = recording.features(CPU, target)
        earlier = self._earlier(day, target)
        for what, keys in (("owner", self.owners), ("host", self.hosts)):
            for name in SHARED:
                values = table.values[:, :, table.schema.names.index(name)]
                yield f"{what}_{name}", mean_of_others(values, keys[lookup])
            same = mean_of_others(earlier, keys)[lookup]
            yield f"{what}_same_window_earlier", same
            whole = mean_of_others(_mean(earlier, axis=1), keys)[lookup]
            yield f"{what}_any_window_earlier", np.broadcast_to(whole[:, None], same.shape)

    def _earlier(self, day: int, target: Target) -> FloatArray:
        """(names, O) the target in the same window of the day, averaged over earlier recorded days."""
        tables = []
        for before in range(day):
            values = np.full((len(self.names), len(self.recordings[before].origins)), np.nan)
            values[self.index[before]] = oracle(self.recordings[before].pasts[CPU], target)
            tables.append(values)
        shape = (len(self.names), len(self.recordings[day].origins))
        return _mean(np.stack(tables), axis=0) if tables else np.full(shape, np.nan)

    def baselines(self, target: Target) -> dict[str, SingleArray]:
        """Name → (S,) forecast of every baseline that a day of history suffices for."""
        names = baselines_within(1)
        found: dict[str, list[SingleArray]] = {name: [] for name in names}
        for recording in self.recordings:
            local = recording.samples(CPU, target)
            for name, values in recording.baselines(CPU, target, local, names).items():
                found[name].append(values)
        return {name: np.concatenate(values) for name, values in found.items()}


def _mean(values: FloatArray, *, axis: int) -> FloatArray:
    """Mean of what is finite; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    out: FloatArray = np.where(count > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)
    return out


def planetlab_task(days: Days, target: Target, *, effort: Effort, seed: int, progress: Progress) -> TaskResult:
    """One task.

    Raises
    ------
    ConfigError : too few days are in the folder, or too few names.
    """
    train_days, test_days = split_days(days.stamps)
    require_folds(f"planetlab-{target.name}", len(days.names))
    samples, tables = days.samples(target), days.baselines(target)
    fold = folds_of(len(days.names), FOLDS, seed)[samples.workload]
    test, past = np.isin(samples.start_day, test_days), np.isin(samples.start_day, train_days)
    held = samples.start_day == train_days[-1]
    raw, tuned, scales = rival_losses(samples, tables, test, past, fold)
    extra = _leaders(samples, tables, past)
    calibrating = _fitted(samples, fold, past & ~held, held, held, target, effort, seed, {})
    final = _fitted(samples, fold, past, held, test, target, effort, seed + 100, calibrating.rounds)
    progress(f"planetlab-{target.name}: fitted")
    out, plain, seen = (np.full(len(samples), np.nan) for _ in range(3))
    for k in range(FOLDS):
        others, mine = fold != k, fold == k
        weights = stack_on(samples, np.concatenate([calibrating.unseen, extra]), held & others, len(calibrating.unseen))
        mixed = weights @ np.concatenate([np.where(held, calibrating.unseen, final.unseen), extra])
        known = weights @ np.concatenate([final.seen, extra])
        for now, bands, calibration in hourly(samples, mixed, others, target, test_days, train_days[-1]):
            here = now & mine
            plain[here] = np.clip(mixed[here], 0, 1)
            out[here] = applied(calibration, bands, mixed[here], samples.weight[here])
            seen[here] = applied(calibration, bands, known[here], samples.weight[here])
    truth, weight = samples.truth[test].astype(float), samples.weight[test]
    return TaskResult(
        f"planetlab-{target.name}", out[test], truth, weight, samples.workload[test], samples.start_day[test],
        raw, tuned, scales,
        pinball(truth, plain[test], weight, LEVEL), pinball(truth, seen[test], weight, LEVEL),
    )  # fmt: skip


def _leaders(samples: Samples, tables: Mapping[str, SingleArray], past: BoolArray) -> FloatArray:
    """(R, S) forecasts of the rules that did best on the days that models are fitted on."""
    truth, weight = samples.truth[past].astype(float), samples.weight[past]
    rules = {name: values for name, values in tables.items() if name not in TWINS}
    loss = {name: pinball(truth, values[past].astype(float), weight, LEVEL) for name, values in rules.items()}
    return np.stack([tables[n].astype(float) for n in sorted(loss, key=lambda n: loss[n])[:STACKED_BASELINES]])


def hourly(
    samples: Samples, mixed: FloatArray, others: BoolArray, target: Target, test_days: Sequence[int], last_day: int
) -> Iterator[tuple[BoolArray, Bands, Calibration]]:
    """Mask of each test hour's samples and the factors for them, from other names' outcomes known at that hour."""
    given = np.full(len(samples), np.nan)
    for day, before in zip(test_days, (last_day, *test_days), strict=False):
        today, yesterday = samples.start_day == day, others & (samples.start_day == before)
        bands = Bands.of(samples, mixed, yesterday)
        for hour in np.unique(samples.hour[today]):
            done = others & today & (samples.hour + target.horizon_h <= hour)
            windows = len(np.unique(samples.hour[done])) / target.horizon_h
            level = level_now(samples, given, done, windows)
            near = np.abs(samples.hour - hour) <= NEAR_HOURS
            calibration = calibrate(samples, mixed, yesterday & near, bands, shrink=SHRINK)
            if windows > 0:
                known_hours = windows * target.horizon_h
                share = known_hours / (known_hours + DAY_BEFORE_HOURS_OF.get(target.name, DAY_BEFORE_HOURS))
                own = calibrate(samples, mixed, done, bands, level=level, shrink=SHRINK)
                calibration = between(calibration, own, share)
            now = today & (samples.hour == hour)
            given[now] = applied(calibration, bands, mixed[now], samples.weight[now])
            yield now, bands, calibration


@dataclass(frozen=True)
class _Fitted:
    """(K, S) forecasts of models that never saw the workload, and of models that did; rounds by fold and model."""

    unseen: FloatArray
    seen: FloatArray
    rounds: Mapping[int, Sequence[int]]


def _fitted(
    samples: Samples,
    fold: IntArray,
    train: BoolArray,
    stop: BoolArray,
    use: BoolArray,
    target: Target,
    effort: Effort,
    seed: int,
    rounds: Mapping[int, Sequence[int]],
) -> _Fitted:
    """Fit on ``train`` fold by fold and forecast ``use``. ``rounds``: as many as before; else stopped by ``stop``."""
    unseen, seen = (np.full((len(BASES), len(samples)), np.nan) for _ in range(2))
    grown: dict[int, Sequence[int]] = {}
    for k in range(FOLDS):
        models = fit_bases(
            samples,
            resource=CPU,
            target=target,
            train=train & (fold != k),
            stop=stop & (fold != k),
            effort=replace(with_small_trees(effort, int(train.sum())), rows=min(effort.rows, MOST_ROWS)),
            seed=seed + 10 * k,
            bases=BASES,
            rounds=rounds.get(k, ()),
        )
        grown[k] = [model.rounds for model in models]
        for table, those in ((unseen, fold == k), (seen, fold == (k + 1) % FOLDS)):
            table[:, use & those] = predictions(models, samples.rows[use & those])
    return _Fitted(unseen, seen, grown)
