"""Simple predictors of a workload's next hours: what Kubernetes tools ship, and what research compares with.

Each is exact, vectorised over workloads and forecast origins, and works on shares of the provisioned amount
(its cap). A learned model is worth having only where it beats all of these, tuned; :func:`tuned_scale` fits the
one scalar that "tuned" means, on a preceding period.

Definitions and sources: VPA recommender (decaying histogram, p90, +15 %), Koordinator (12 h / 24 h half-life,
p95 / p98, +10 %, request while younger than a day), KRR (p95 over 14 days), Crane (p99 over 7 days; maximum over
the same phase of 7 days), Autopilot (EuroSys'20: load-adjusted histogram), N-sigma, RC-like and max predictors
(EuroSys'21), Coach (ASPLOS'25: six windows of 4 h). VPA's floors of 25 m and 250 MB a pod stand apart (``vpa-p90-floors``):
with them it does worse, and a rival is to be met at its best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np

from placement.errors import ConfigError
from placement.learning.histograms import (
    KOORDINATOR_CPU,
    KOORDINATOR_MEMORY,
    VPA_CPU,
    VPA_MEMORY,
    HistogramSpec,
    daily_peak_percentiles,
    histogram_percentiles,
)
from placement.learning.usage import DAY, HISTORY_DAYS, HOUR, SingleArray
from placement.learning.windows import P95, PEAK, Past, in_parts, trailing_max, trailing_sum, window_percentiles
from placement.resources import CPU, MEMORY, FloatArray


@dataclass(frozen=True)
class Target:
    """What is predicted: a statistic of the next ``horizon_h`` hours."""

    horizon_h: int
    statistic: str = PEAK

    @property
    def name(self) -> str:
        """Such as ``6h-peak``."""
        return f"{self.horizon_h}h-{self.statistic}"


Predictor = Callable[[Past, Target], SingleArray]
"""(N, O) forecast in shares, NaN where it has no history; see :func:`forecast`, which fills and caps."""


def request(past: Past, target: Target) -> SingleArray:
    """The provisioned amount itself."""
    return np.ones((len(past.share), len(past.origins)), np.float32)


def borg_phi(past: Past, target: Target) -> SingleArray:
    """A fixed share of the request (Borg's default, φ = 0.9)."""
    return np.full((len(past.share), len(past.origins)), 0.9, np.float32)


def last(past: Past, target: Target) -> SingleArray:
    """The last sample; within a gap, the last one recorded."""
    seen = np.isfinite(past.share)
    latest = np.maximum.accumulate(np.where(seen, np.arange(past.share.shape[1]), -1), axis=1)
    at = latest[:, np.maximum(past.origins - 1, 0)]
    value = np.take_along_axis(past.share, np.maximum(at, 0), axis=1)
    return np.where((at >= 0) & (past.origins > 0), value, np.nan).astype(np.float32)


def trailing_peak(past: Past, target: Target, *, hours: int) -> SingleArray:
    """Largest sample of the last ``hours`` hours."""
    return past.before(trailing_max(past.hour_max, hours))


PERCENTS = (95.0, 99.0)
"""That rules ask of a window."""


def percentile(past: Past, target: Target, *, percent: float, hours: int) -> SingleArray:
    """Exact percentile of the last ``hours`` hours, one of :data:`PERCENTS`."""
    tables = past.once(
        ("percentiles", hours), lambda: window_percentiles(past.share, past.origins, hours * HOUR, PERCENTS)
    )
    found: SingleArray = tables[PERCENTS.index(percent)]
    return found


def mean_and_deviation(past: Past, hours: int) -> tuple[SingleArray, SingleArray]:
    """(N, O) mean and population standard deviation of the last ``hours`` hours; NaN where nothing was recorded."""
    return past.once(("mean and deviation", hours), lambda: _mean_and_deviation(past, hours))


def _mean_and_deviation(past: Past, hours: int) -> tuple[SingleArray, SingleArray]:
    count = trailing_sum(past.hour_count, hours)
    with np.errstate(all="ignore"):
        mean = trailing_sum(past.hour_sum, hours) / np.where(count > 0, count, np.nan)
        variance = trailing_sum(past.hour_squares, hours) / count - mean**2
    return past.before(mean), past.before(np.sqrt(np.maximum(variance, 0)))


def n_sigma(past: Past, target: Target, *, n: float, hours: int) -> SingleArray:
    """Mean plus ``n`` standard deviations of the last ``hours`` hours (EuroSys'21)."""
    mean, deviation = mean_and_deviation(past, hours)
    return mean + np.float32(n) * deviation


def max_predictor(past: Past, target: Target) -> SingleArray:
    """EuroSys'21: the larger of N-sigma (5, 10 h) and RC-like (p99, 10 h)."""
    return np.fmax(n_sigma(past, target, n=5, hours=10), percentile(past, target, percent=99, hours=10))


VPA_FLOORS = {CPU: 0.025, MEMORY: 250e6}
"""Cores and bytes of a pod below which VPA recommends nothing (``pod-recommendation-min-*``)."""


def vpa(past: Past, target: Target, *, percent: float, floors: bool = False) -> SingleArray:
    """VPA's recommender: decayed percentile of samples (CPU) or daily peaks (memory), plus 15 %."""
    percents = (90.0, 95.0)
    if past.resource == CPU:
        tables = past.once("vpa", lambda: histogram_percentiles(past, VPA_CPU, percents))
    else:
        tables = past.once("vpa", lambda: daily_peak_percentiles(past, VPA_MEMORY, percents))
    found: SingleArray = np.asarray(1.15 * tables[percents.index(percent)], np.float32)
    least = VPA_FLOORS[past.resource] / past.provisioned if floors else np.zeros(len(past.share))
    return np.maximum(found, least[:, None].astype(np.float32))


def koordinator(past: Past, target: Target) -> SingleArray:
    """Koordinator's peak predictor: p95 CPU or p98 memory, plus 10 %; the request while younger than a day."""
    spec, percent = (KOORDINATOR_CPU, 95.0) if past.resource == CPU else (KOORDINATOR_MEMORY, 98.0)
    value = 1.1 * histogram_percentiles(past, spec, (percent,))[0]
    young = age_hours(past) < 24
    return np.where(young, np.float32(1), value)


def autopilot(past: Past, target: Target) -> SingleArray:
    """Autopilot's moving window: load-adjusted p95 (CPU, 12 h) or p98 (memory, 48 h) of 400 bins, plus 10 %."""
    half_life, percent = (12.0, 95.0) if past.resource == CPU else (48.0, 98.0)
    linear = HistogramSpec(1 / 400, 1.0, 1.05, half_life)
    in_shares = Past(past.share, past.origins, np.ones(len(past.share)), past.resource, past.start_s)
    return np.asarray(1.1 * histogram_percentiles(in_shares, linear, (percent,), by_value=True)[0], np.float32)


def seasonal(past: Past, target: Target, *, days: int) -> SingleArray:
    """The same window on each of the last ``days`` days: the largest value (1 = yesterday)."""
    return _largest_window(past, target, days, 24)


def worst_window(past: Past, target: Target, *, days: int) -> SingleArray:
    """The largest window of the target's own length over the last ``days`` days, windows end to end at the origin."""
    return _largest_window(past, target, days * 24 // target.horizon_h, target.horizon_h)


def _largest_window(past: Past, target: Target, num: int, every_h: int) -> SingleArray:
    """Largest of the last ``num`` windows that begin a whole number of ``every_h`` hours before the origin."""
    table = past.statistic(target.horizon_h, target.statistic)
    return past.before(trailing_max(np.where(np.isnan(table), -np.inf, table), num, every_h), every_h)


SLOT_H = 4
"""Length of Coach's windows of the day."""


def coach(past: Past, target: Target) -> SingleArray:
    """Coach: the largest, over a week, of each 4 h window of the day that the target touches."""
    table = past.statistic(SLOT_H, target.statistic)
    into = past.end_s // 3600 % SLOT_H
    slots = [k * SLOT_H - into for k in range((target.horizon_h + SLOT_H - 1) // SLOT_H + 1)]
    out = np.full((len(table), len(past.hours)), -np.inf, np.float32)
    for slot in slots:
        touched = slot < target.horizon_h
        for day in range(1, 8):
            at = past.hours + slot - 24 * day
            known = touched & (at >= 0) & (at + SLOT_H <= past.hours)
            out[:, known] = np.fmax(out[:, known], table[:, at[known]])
    return np.where(np.isfinite(out), out, np.float32(np.nan))


def oracle(past: Past, target: Target) -> SingleArray:
    """The truth: the target itself, NaN where too little of it was recorded."""
    table = past.statistic(target.horizon_h, target.statistic)
    out = np.full((len(table), len(past.origins)), np.nan, np.float32)
    inside = past.hours < table.shape[1]
    out[:, inside] = table[:, past.hours[inside]]
    return out


def age_hours(past: Past) -> SingleArray:
    """(N, O) hours since each workload's first sample; negative before it."""
    seen = np.isfinite(past.share)
    first = np.where(seen.any(axis=1), seen.argmax(axis=1), past.share.shape[1])
    return np.asarray((past.origins[None, :] - first[:, None]) / HOUR, np.float32)


@dataclass(frozen=True)
class Baseline:
    """A named predictor and the days of history without which it is not itself."""

    name: str
    predict: Predictor
    needs_days: float = 1.0
    reads_target: bool = False
    """False when the forecast is the same for every horizon and statistic."""
    looks_back_days: int = 0
    """How far it looks, where that is further than it needs: histograms fade and have no end."""

    @property
    def reads_days(self) -> int:
        """Days of history that its forecast depends on, at least one."""
        return max(1, ceil(self.needs_days), self.looks_back_days)


def _entries() -> Iterable[Baseline]:
    yield Baseline("request", request, 0)
    yield Baseline("borg-phi", borg_phi, 0)
    yield Baseline("last", last, 0)
    for name, hours in (("max1h", 1), ("max24h", 24), ("max72", 72), ("max7d", 168), ("max14d", 336)):
        yield Baseline(name, partial(trailing_peak, hours=hours), hours / 24)
    for name, percent, hours in (("p95_24h", 95, 24), ("p99_24h", 99, 24), ("p99_7d", 99, 168), ("p95_14d", 95, 336)):
        yield Baseline(name, partial(percentile, percent=percent, hours=hours), hours / 24)
    for n in (2, 3, 5):
        for name, hours in (("10h", 10), ("24h", 24), ("7d", 168)):
            yield Baseline(f"nsigma-{n}-{name}", partial(n_sigma, n=n, hours=hours), hours / 24)
    yield Baseline("max-predictor", max_predictor)
    yield Baseline("vpa-p90", partial(vpa, percent=90.0), looks_back_days=HISTORY_DAYS)
    yield Baseline("vpa-p95", partial(vpa, percent=95.0), looks_back_days=HISTORY_DAYS)
    yield Baseline("vpa-p90-floors", partial(vpa, percent=90.0, floors=True), looks_back_days=HISTORY_DAYS)
    yield Baseline("vpa-p95-floors", partial(vpa, percent=95.0, floors=True), looks_back_days=HISTORY_DAYS)
    yield Baseline("koordinator", koordinator, looks_back_days=HISTORY_DAYS)
    yield Baseline("seasonal-d1", partial(seasonal, days=1), 2, True)
    yield Baseline("dsp-max", partial(seasonal, days=7), 7, True)
    yield Baseline("max28w", partial(worst_window, days=28), 28, True)
    yield Baseline("autopilot-mw", autopilot, looks_back_days=HISTORY_DAYS)
    yield Baseline("replay-p99-7d", partial(percentile, percent=99, hours=168), 7)
    yield Baseline("coach-6x4h", coach, 7, True, 8)


BASELINES: dict[str, Baseline] = {entry.name: entry for entry in _entries()}
"""Every baseline by name. ``replay-p99-7d`` of a single workload is its own p99; it differs on co-located sets."""


def baselines_within(days: float) -> tuple[str, ...]:
    """Names of the baselines that ``days`` of history suffice for."""
    return tuple(name for name, entry in BASELINES.items() if entry.needs_days <= days)


def forecasts(names: Sequence[str], past: Past, target: Target) -> dict[str, SingleArray]:
    """Name → (N, O) forecast of each baseline in shares, the request where it has no history, capped to the limit.

    Raises
    ------
    ConfigError : no baseline has this name.
    """
    unknown = next((name for name in names if name not in BASELINES), None)
    if unknown is not None:
        raise ConfigError(f"no baseline is called {unknown!r}; the names are {', '.join(BASELINES)}, oracle")
    out = {name: np.empty((len(past.share), len(past.origins)), np.float32) for name in names}
    for rows in in_parts(len(past.share)):
        part = past.of(rows)
        for name, table in out.items():
            value = BASELINES[name].predict(part, target)
            table[rows] = np.clip(np.where(np.isfinite(value), value, np.float32(1)), 0, 1)
    return out


def forecast(name: str, past: Past, target: Target) -> SingleArray:
    """(N, O) forecast of one baseline; see :func:`forecasts`.

    Raises
    ------
    ConfigError : no baseline has this name.
    """
    return forecasts((name,), past, target)[name]


def tuned_scale(base: FloatArray, truth: FloatArray, weight: FloatArray, level: float) -> float:
    """The scalar ``c`` that minimises the weighted pinball loss of ``c × base`` at ``level``.

    It is the ``level`` quantile of ``truth / base`` weighted by ``weight × base``. All arrays flat and finite.
    """
    usable = base > 0
    if not usable.any():
        return 1.0
    return weighted_quantile(truth[usable] / base[usable], weight[usable] * base[usable], level)


def weighted_quantile(values: FloatArray, weight: FloatArray, level: float) -> float:
    """Smallest value whose cumulated weight reaches ``level`` of the total."""
    order = np.argsort(values, kind="stable")
    running = np.cumsum(weight[order])
    at = int(np.searchsorted(running, level * running[-1]))
    return float(values[order[min(at, len(order) - 1)]])


__all__ = [
    "BASELINES",
    "DAY",
    "P95",
    "PEAK",
    "Baseline",
    "Past",
    "Target",
    "baselines_within",
    "forecast",
    "forecasts",
    "oracle",
]
