"""``ullage reproduce eurosys21``: node peaks, the predictors and metrics of "Take it to the limit" (EuroSys'21).

Workloads are grouped at random into nodes of 64 cores of limits. At every hour a predictor says the node's peak of the
next 24 h; a violation is a prediction below the peak that came (the oracle PO), severity is by how much, savings are
1 − prediction / limits. Every predictor is scaled by one knob: in hindsight to exactly 1 % violations (its frontier,
which flatters it), and from the past alone (which is what can be deployed), renewed daily: *cautious* (the upper bound
of a bootstrap over days stays within the budget: bursts are shared, so days are what is drawn, not samples) and
*adaptive* (the share of the budget that is aimed at follows the violations that have become known).

No constant here was chosen by what happened on the test days: mixture and safety rule were compared on days 40–61 only.

Beside prediction stands *reaction*: what the guaranteed pods do not use now is sold as reclaimable capacity and taken
back within one sample (five minutes) when they need it. It is judged by node and sample, which is milder than by the peak
of a day; so the day's largest sample, renewed as seldom as predictions are, is judged in that way too (*held*).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from placement.errors import ConfigError
from placement.learning.baselines import PEAK, Target, forecast
from placement.learning.boosted import FitOptions
from placement.learning.features import FeatureSchema
from placement.learning.usage import DAY, HOUR, SingleArray, UsageSeries
from placement.learning.windows import trailing_max, window_percentiles
from placement.resources import CPU, BoolArray, FloatArray, IntArray
from simulator.learning.forecast_samples import Recording, Rows, Samples, concatenate, folds_of
from simulator.learning.stacking import conformal
from simulator.learning.training import Effort, fit_bases, predictions
from simulator.reproduce.data_sets import data_set
from simulator.reproduce.parts import Progress, silent
from simulator.reproduce.seeds import pooled
from simulator.traces.usage_readers import read_bitbrains_rnd

NODE_CORES = 64.0
TARGET = Target(24, PEAK)
BUDGET = 0.01
CONFIDENCE = 90.0
"""Per cent of the bootstrap's draws of past days in which a cautious knob holds the budget."""
DRAWS = 400
ADAPTATION = 0.05
"""How far the adaptive aim moves in a day, per budget's worth of violations too few or too many."""
LEAD_DAYS = 7
"""Known days before the adaptive aim begins to move."""
KNOB_GRID = np.exp(np.arange(-0.7, 1.5, 0.01))
REFIT_DAYS = (40, 52, 62, 76)
"""Node models are fitted on the days to each of these and forecast the days after it, to the next."""
STOP_DAYS = 5
FIRST_TEST_DAY = 62
HISTORY = (
    "max24h",
    "max72",
    "max7d",
    "max14d",
    "max28w",
    "p99_24h",
    "p99_7d",
    "nsigma-5-24h",
    "nsigma-5-7d",
    "dsp-max",
)
"""Node-level history baselines: the same rules applied to the summed usage (replay of the co-located set)."""
BASES = ("max_168h", "max_672h")
CANDIDATES = ("learned", "rules", "rules+learned", "rules, by node", "rules+learned, by node")
"""Ours is one of these: the one that saves most within the budget on the rehearsal days, which precede the test."""
FIRST_REHEARSAL_DAY = 49
NODE_PERCENT = 95.0
NODE_SHRINK = 0.5
NODE_DAYS = 7
"""A node's own factor: this percentile of its past truth ÷ prediction over everybody's, drawn towards 1; from so many
days of its past on."""
TRAIN_GROUPINGS = 10
TEST_GROUPINGS = 5
ORIGIN_EVERY = 2 * HOUR
"""Samples from one prediction to the next."""
LONGEST_GAP = HOUR
"""Samples: a workload that is silent for longer is not there."""
HEADLINE = (
    "savings_at_1pct", "violations", "gap_closed", "gap_closed_deployed", "gap_closed_adaptive", "violations_adaptive",
    "gap_closed_hindsight", "reactive", "held",
)  # fmt: skip
"""Of these the spread over seeds is reported."""
LEAST_GAP = 1e-6
"""Savings below which there is nothing to close: shares are of single precision."""
MARGINS = (1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4, 1.5, 1.6, 1.8, 2.0)


def group_by_cores(cores: FloatArray, rng: np.random.Generator) -> list[IntArray]:
    """Random groups of workloads, filled in random order up to :data:`NODE_CORES`; a last unfilled one is dropped."""
    groups: list[IntArray] = []
    current: list[int] = []
    used = 0.0
    for workload in rng.permutation(len(cores)):
        if used + cores[workload] > NODE_CORES:
            groups.append(np.array(current, dtype=np.int64))
            current, used = [], 0.0
        current.append(int(workload))
        used += float(cores[workload])
    if used > 0.9 * NODE_CORES or not groups:
        groups.append(np.array(current, dtype=np.int64))
    return groups


def filled(usage: SingleArray) -> SingleArray:
    """(N, T) usage with gaps up to :data:`LONGEST_GAP` carried forward, longer ones 0 (the workload is not there)."""
    seen = np.isfinite(usage)
    at = np.maximum.accumulate(np.where(seen, np.arange(usage.shape[1]), -LONGEST_GAP - 1), axis=1)
    near = np.arange(usage.shape[1]) - at <= LONGEST_GAP
    values = np.take_along_axis(np.nan_to_num(usage), np.maximum(at, 0), axis=1)
    return np.where(near & (at >= 0), values, np.float32(0)).astype(np.float32)


def nodes_of(series: UsageSeries, usage: SingleArray, groups: list[IntArray]) -> UsageSeries:
    """The summed usage of each group as a workload of its own."""
    table = np.stack([usage[g].sum(axis=0) for g in groups]).astype(np.float32)
    limits = np.array([series.provisioned[CPU][g].sum() for g in groups])
    names = tuple(f"node-{i}" for i in range(len(groups)))
    return UsageSeries(f"{series.name} in groups", names, series.start_s, {CPU: table}, {CPU: limits})


@dataclass(frozen=True)
class Members:
    """Per-workload history tables, (N, O) cores at the origins, that are summed over a node's members."""

    tables: Mapping[str, SingleArray] = field(repr=False)

    @classmethod
    def of(cls, series: UsageSeries, usage: SingleArray, origins: IntArray) -> Members:
        """Maxima and percentiles of every workload."""
        blocks = usage.reshape(len(usage), -1, HOUR).max(axis=2)
        hours = origins // HOUR - 1
        tables = {f"sum_max_{h}h": trailing_max(blocks, h)[:, hours] for h in (24, 72, 168, 672)}
        for hours_back in (10, 24):
            tables[f"sum_p99_{hours_back}h"] = window_percentiles(usage, origins, hours_back * HOUR, (99.0,))[0]
        return cls(tables)

    def summed(self, groups: list[IntArray], limits: FloatArray) -> dict[str, SingleArray]:
        """(G, O) sums over each group's members as a share of its limits."""
        return {
            name: (np.stack([table[g].sum(axis=0) for g in groups]) / limits[:, None]).astype(np.float32)
            for name, table in self.tables.items()
        }


@dataclass(frozen=True)
class NodeSamples:
    """Samples of one grouping and the forecasts of the history rules at them."""

    samples: Samples
    rivals: Mapping[str, FloatArray]


def node_samples(
    series: UsageSeries,
    usage: SingleArray,
    members: Members,
    groups: list[IntArray],
    origins: IntArray,
    *,
    rivals: bool,
) -> NodeSamples:
    """Features, truth and (where wanted) every rival of a grouping."""
    nodes = nodes_of(series, usage, groups)
    recording = Recording(nodes, origins)
    samples = recording.samples(CPU, TARGET)
    column = np.searchsorted(origins // HOUR, samples.hour)
    sums = {n: t[samples.workload, column] for n, t in members.summed(groups, nodes.provisioned[CPU]).items()}
    extended = _extended(samples, sums)
    if not rivals:
        return NodeSamples(extended, {})
    past = recording.pasts[CPU]
    tables = {name: forecast(name, past, TARGET)[samples.workload, column].astype(float) for name in HISTORY}
    return NodeSamples(extended, {**tables, **_published(recording, samples, column, sums)})


def _extended(samples: Samples, extra: Mapping[str, SingleArray]) -> Samples:
    schema = FeatureSchema((*samples.schema.names, *extra))
    rows = np.concatenate([samples.rows, np.stack(list(extra.values()), axis=1)], axis=1)
    return Samples(
        schema, Rows.of(rows), samples.truth, samples.weight, samples.workload, samples.hour, samples.start_day,
        samples.end_day, samples.groups,
    )  # fmt: skip


def _published(
    recording: Recording, samples: Samples, column: IntArray, sums: Mapping[str, SingleArray]
) -> dict[str, FloatArray]:
    """EuroSys'21: borg-default, RC-like, N-sigma and the max predictor, as published (10 h) and with 24 h."""
    past = recording.pasts[CPU]
    out = {"borg-phi": np.full(len(samples), 0.9)}
    for hours in (10, 24):
        rc_like = np.minimum(sums[f"sum_p99_{hours}h"].astype(float), 1)
        sigma = forecast(f"nsigma-5-{hours}h", past, TARGET)[samples.workload, column].astype(float)
        out[f"rc-like-{hours}h"] = rc_like
        out[f"nsigma-5-{hours}h"] = sigma
        out["max-predictor" if hours == 10 else "max-predictor-24h"] = np.maximum(rc_like, sigma)
    out["sum-max7d"] = np.minimum(sums["sum_max_168h"].astype(float), 1)
    return out


def outcome(truth: FloatArray, prediction: FloatArray) -> dict[str, float]:
    """EuroSys'21's three metrics of a prediction in shares of the limits."""
    low = prediction < truth
    depth = (truth - prediction)[low] / np.maximum(truth[low], 1e-9)
    return {
        "violations": float(low.mean()),
        "severity": float(depth.mean()) if low.any() else 0.0,
        "savings": float(1 - prediction.mean()),
    }


def over_by_day(ratio: FloatArray, day: IntArray) -> tuple[FloatArray, FloatArray]:
    """((D, K), (D,)) predictions below the truth under each knob of :data:`KNOB_GRID`, and predictions, by day."""
    days = np.unique(day)
    over = np.zeros((len(days), len(KNOB_GRID)))
    count = np.zeros(len(days))
    for i, today in enumerate(days):
        mine = np.sort(ratio[day == today])
        over[i] = len(mine) - np.searchsorted(mine, KNOB_GRID, side="right")
        count[i] = len(mine)
    return over, count


def upper_bound(over: FloatArray, count: FloatArray | None = None) -> FloatArray:
    """(K,) bound on the violation rate that :data:`CONFIDENCE` % of the draws of whole days (D, K) stay under."""
    days = len(over)
    weight = np.ones(days) if count is None else count
    drawn = np.random.default_rng(0).multinomial(days, np.full(days, 1 / days), DRAWS).astype(float)
    rate = (drawn @ over) / np.maximum(drawn @ weight, 1)[:, None]
    return np.asarray(np.percentile(rate, CONFIDENCE, axis=0))


def adaptive_knob(over: FloatArray, count: FloatArray) -> float:
    """Knob after the aim has followed each known day's violations (adaptive conformal inference, by day).

    Day after day from the :data:`LEAD_DAYS`-th on: the knob that would have kept the days before it within ``aim`` × budget
    is held against the day, and the aim rises or falls by what was left of the budget or overspent.
    """
    aim = 1.0
    for i in range(LEAD_DAYS, len(count)):
        knob = int(np.searchsorted(KNOB_GRID, _aimed(over[:i], count[:i], aim)))
        rate = over[i, min(knob, len(KNOB_GRID) - 1)] / count[i]
        aim = float(np.clip(aim + ADAPTATION * (1 - rate / BUDGET), 0.02, 3))
    return _aimed(over, count, aim)


def _aimed(over: FloatArray, count: FloatArray, aim: float) -> float:
    return _least(over.sum(axis=0) <= aim * BUDGET * count.sum())


def _least(holds: BoolArray) -> float:
    return float(KNOB_GRID[int(np.argmax(holds))] if holds.any() else KNOB_GRID[-1])


def judge(
    truth: FloatArray, prediction: FloatArray, day: IntArray, end_day: IntArray, test: BoolArray
) -> dict[str, float]:
    """Metrics on the test: as it is, at exactly 1 % in hindsight, and with knobs renewed daily from the past."""
    hindsight = np.minimum(prediction * conformal(prediction[test], truth[test], 1 - BUDGET), 1)
    ratio = truth / np.maximum(prediction, 1e-6)
    cautious, adaptive = prediction.copy(), prediction.copy()
    for today in np.unique(day[test]):
        known = end_day < today
        over, count = over_by_day(ratio[known], day[known])
        now = day == today
        cautious[now] = np.minimum(prediction[now] * _least(upper_bound(over, count) <= BUDGET), 1)
        adaptive[now] = np.minimum(prediction[now] * adaptive_knob(over, count), 1)
    return {
        **{f"raw_{k}": v for k, v in outcome(truth[test], prediction[test]).items()},
        "hindsight_savings": outcome(truth[test], hindsight[test])["savings"],
        "hindsight_violations": outcome(truth[test], hindsight[test])["violations"],
        **outcome(truth[test], cautious[test]),
        **{f"adaptive_{k}": v for k, v in outcome(truth[test], adaptive[test]).items()},
    }


def _learned(train: Samples, judged: Samples, effort: Effort, seed: int, progress: Progress) -> FloatArray:
    """(S,) mean forecast of the node models, each time from models fitted on the days to the last refit only."""
    out = np.full(len(judged), np.nan)
    for number, last in enumerate(REFIT_DAYS):
        until = REFIT_DAYS[number + 1] if number + 1 < len(REFIT_DAYS) else 10_000
        models = fit_bases(
            train,
            resource=CPU,
            target=TARGET,
            train=train.end_day <= last - STOP_DAYS,
            stop=(train.start_day > last - STOP_DAYS) & (train.end_day <= last),
            effort=effort,
            seed=seed + 10 * number,
            bases=BASES,
        )
        now = (judged.start_day > last) & (judged.start_day <= until)
        if now.any():
            out[now] = predictions(models, judged.rows[now]).mean(axis=0)
        progress(f"node models fitted on days to {last}")
    return out


def evaluate(
    series: UsageSeries, usage: SingleArray, members: Members, origins: IntArray,
    train_rows: IntArray, test_rows: IntArray, *, effort: Effort, seed: int, progress: Progress,
) -> tuple[Samples, dict[str, FloatArray]]:  # fmt: skip
    """Judged samples of nodes made of ``test_rows`` and all forecasts, the learned one fitted on ``train_rows``."""
    rng = np.random.default_rng(seed)
    cores = series.provisioned[CPU]

    def grouped(rows: IntArray, times: int, *, rivals: bool) -> list[NodeSamples]:
        out = []
        for _ in range(times):
            groups = [rows[g] for g in group_by_cores(cores[rows], rng)]
            out.append(node_samples(series, usage, members, groups, origins, rivals=rivals))
        return out

    train = concatenate([part.samples for part in grouped(train_rows, TRAIN_GROUPINGS, rivals=False)])
    parts = grouped(test_rows, TEST_GROUPINGS, rivals=True)
    judged = concatenate([part.samples for part in parts])
    forecasts = {name: np.concatenate([part.rivals[name] for part in parts]) for name in parts[0].rivals}
    late = judged.start_day > REFIT_DAYS[0]
    ours = np.full(len(judged), np.nan)
    ours[late] = _learned(train, judged.pick(late), effort, seed, progress)
    forecasts["learned"] = ours
    forecasts["rules"] = np.sqrt(forecasts["max28w"] * forecasts["sum-max7d"])
    forecasts["rules+learned"] = np.cbrt(ours * forecasts["max28w"] * forecasts["sum-max7d"])
    late_judged = judged.pick(late)
    out = {name: values[late] for name, values in forecasts.items()}
    node = np.concatenate([1000 * number + part.samples.workload for number, part in enumerate(parts)])[late]
    for name in ("rules", "rules+learned"):
        ratio = late_judged.truth / np.maximum(out[name], 1e-6)
        out[f"{name}, by node"] = out[name] * own_factors(ratio, node, late_judged.start_day, late_judged.end_day)
    return late_judged, out


def own_factors(ratio: FloatArray, node: IntArray, day: IntArray, end_day: IntArray) -> FloatArray:
    """(S,) each node's own factor on each day, from what was known before that day (calibration by group, shrunk)."""
    out = np.ones(len(ratio))
    for today in np.unique(day):
        known = end_day < today
        if len(np.unique(day[known])) < NODE_DAYS:
            continue
        everyone = np.percentile(ratio[known], NODE_PERCENT)
        for one in np.unique(node):
            past = ratio[known & (node == one)]
            if len(past):
                own = float(np.percentile(past, NODE_PERCENT) / everyone)
                out[(day == today) & (node == one)] = own**NODE_SHRINK
    return out


def reactive(
    usage: SingleArray, limits: FloatArray, test: slice, tune: slice, *, look: int = HOUR, every: int = 1
) -> dict[str, float]:
    """Sell what guaranteed pods do not use; a sample later it is taken back.

    Every ``every`` samples the node offers ``limits − margin × (max of the last look samples)``; a violation is a sample where
    guaranteed use plus what was sold a sample ago exceeds the limits. The margin is the least that is cautious (see
    :func:`upper_bound`) on the ``tune`` days. Reclaimed work is throttled in a sample whose offer fell below what was
    sold, and evicted where the offer fell below half of it.
    """
    peak = trailing_max(usage, look)[:, np.arange(usage.shape[1]) // every * every]
    bound = upper_bound(np.stack([_over_by_day(usage, peak, limits, m, tune) for m in MARGINS], axis=1))
    chosen = MARGINS[int(np.argmax(bound <= BUDGET))] if (bound <= BUDGET).any() else MARGINS[-1]
    return {"margin": chosen, "taken_back_within_s": 300.0 * every, **_reaction(usage, peak, limits, chosen, test)}


def _over_by_day(usage: SingleArray, peak: SingleArray, limits: FloatArray, margin: float, part: slice) -> FloatArray:
    """(D,) share of node-samples over the limits on each whole day of a span."""
    days = range(part.start, part.stop - DAY + 1, DAY)
    return np.array([_reaction(usage, peak, limits, margin, slice(d, d + DAY))["violations"] for d in days])


def _reaction(
    usage: SingleArray, peak: SingleArray, limits: FloatArray, margin: float, part: slice
) -> dict[str, float]:
    offer = np.maximum(limits[:, None] - margin * peak, 0)
    sold, now = offer[:, part][:, :-1], offer[:, part][:, 1:]
    used = usage[:, part][:, 1:]
    over = used + sold > limits[:, None] + 1e-6
    taken = np.maximum(sold - now, 0)
    halved = now < 0.5 * sold
    hours = 300 / 3600
    return {
        "violations": float(over.mean()),
        "savings": float((sold / limits[:, None]).mean()),
        "sold_core_hours": float(sold.sum() * hours),
        "throttled_core_hours": float(taken.sum() * hours),
        "evictions_per_node_day": float(halved.sum() / (len(limits) * used.shape[1] / DAY)),
    }


def run(
    data: Path,
    *,
    seed: int = 11,
    seeds: int = 1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The whole reproduction on a folder of traces; the JSON report.

    With several ``seeds``, from ``seed`` on, every figure is their mean (see :mod:`simulator.reproduce.seeds`).

    Raises
    ------
    TraceError : Bitbrains is missing or unreadable. ConfigError : it is too short.
    """
    series = read_bitbrains_rnd(data_set(data, "bitbrains-rnd"))
    if series.num_days < REFIT_DAYS[-1] + 3:
        raise ConfigError(
            f"the Bitbrains recording has {series.num_days:.0f} days; this protocol needs {REFIT_DAYS[-1] + 3}"
        )
    effort = Effort(40_000, 12_000, FitOptions(level=0.98, min_leaf=60))
    cut = series.num_steps // HOUR * HOUR
    usage = filled(np.minimum(series.usage[CPU], series.provisioned[CPU][:, None]).astype(np.float32)[:, :cut])
    origins = np.arange(28 * DAY, cut - 24 * HOUR + 1, ORIGIN_EVERY)
    members = Members.of(series, usage, origins)
    reports = []
    for number in range(seed, seed + seeds):
        reports.append(_one(series, usage, members, origins, effort=effort, seed=number, progress=progress))
        progress(f"seed {number}: {reports[-1]['gap_closed']:.1%} of the gap", len(reports), seeds)
    return pooled(reports, range(seed, seed + seeds), HEADLINE)


def _one(
    series: UsageSeries, usage: SingleArray, members: Members, origins: IntArray,
    *, effort: Effort, seed: int, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """The report of one seed: of groupings, folds and models."""
    everyone = np.arange(len(series.workloads))
    tables = {}
    judged, forecasts = evaluate(
        series, usage, members, origins, everyone, everyone, effort=effort, seed=seed, progress=progress
    )
    tables["seen workloads, later days"] = _table(judged, forecasts)
    fold = folds_of(len(everyone), 2, seed)
    halves = [
        evaluate(
            series, usage, members, origins, everyone[fold != k], everyone[fold == k],
            effort=effort, seed=seed + k, progress=progress,
        )
        for k in (0, 1)
    ]  # fmt: skip
    both = concatenate([half[0] for half in halves])
    joined = {name: np.concatenate([half[1][name] for half in halves]) for name in halves[0][1]}
    tables["unseen workloads, later days"] = _table(both, joined)
    groups = group_by_cores(series.provisioned[CPU], np.random.default_rng(seed))
    nodes = nodes_of(series, usage, groups)
    span = slice(FIRST_TEST_DAY * DAY, usage.shape[1])
    before = slice(28 * DAY, FIRST_TEST_DAY * DAY)
    used, limits = nodes.usage[CPU], nodes.provisioned[CPU]
    reaction = reactive(used, limits, span, before)
    held = reactive(used, limits, span, before, look=DAY, every=ORIGIN_EVERY)
    return _report(tables, reaction, held, seed)


def _table(judged: Samples, forecasts: Mapping[str, FloatArray]) -> dict[str, dict[str, Any]]:
    """Metrics of every predictor in the test, and of ours: the candidate that did best in the rehearsal."""
    truth = judged.truth.astype(float)
    test = judged.start_day >= FIRST_TEST_DAY
    rehearsal = (judged.start_day >= FIRST_REHEARSAL_DAY) & (judged.end_day < FIRST_TEST_DAY)

    def on(mask: BoolArray, name: str) -> dict[str, float]:
        return judge(truth, forecasts[name], judged.start_day, judged.end_day, mask)

    out: dict[str, dict[str, Any]] = {name: dict(on(test, name)) for name in forecasts}
    rehearsed = {name: on(rehearsal, name) for name in CANDIDATES}
    chosen = max(CANDIDATES, key=lambda n: (rehearsed[n]["violations"] <= BUDGET, rehearsed[n]["savings"]))
    for name in CANDIDATES:
        out[name] |= {f"rehearsal_{k}": rehearsed[name][k] for k in ("savings", "violations", "hindsight_savings")}
    out["ullage"] = {**out[chosen], "is": chosen}
    perfect = outcome(truth[test], truth[test])
    out["oracle"] = {
        **perfect, "hindsight_savings": perfect["savings"], "hindsight_violations": 0.0,
        "adaptive_savings": perfect["savings"], "adaptive_violations": 0.0,
    }  # fmt: skip
    return out


def gap_closed(ours: float, rival: float, oracle: float) -> float:
    """Share of the savings between a rival and the oracle; 0 where the rival leaves none (constant usage, or 1 % of
    violations bought more than the oracle, which has none).

    >>> gap_closed(0.75, 0.5, 1.0), gap_closed(0.9, 1.0, 1.0)
    (0.5, 0.0)
    """
    return (ours - rival) / (oracle - rival) if oracle - rival > LEAST_GAP else 0.0


def _report(
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]],
    reaction: Mapping[str, float],
    held: Mapping[str, float],
    seed: int,
) -> dict[str, Any]:
    main = tables["unseen workloads, later days"]
    history = {n: v["hindsight_savings"] for n, v in main.items() if n not in (*CANDIDATES, "ullage", "oracle")}
    best = max(history, key=lambda n: history[n])
    ours, most = main["ullage"], main["oracle"]["savings"]
    rival = max(history, key=lambda n: (-max(main[n]["violations"], BUDGET), main[n]["savings"]))
    return {
        "savings_at_1pct": {
            n: v["savings" if n in (*CANDIDATES, "ullage") else "hindsight_savings"] for n, v in main.items()
        },
        "violations": {n: v["violations"] for n, v in main.items()},
        "ullage_is": main["ullage"]["is"],
        "best_history": best,
        "gap_closed": gap_closed(ours["savings"], history[best], most),
        "budget_held": ours["violations"] <= BUDGET,
        "best_deployed_history": rival,
        "gap_closed_deployed": gap_closed(ours["savings"], main[rival]["savings"], most),
        "gap_closed_adaptive": gap_closed(ours["adaptive_savings"], history[best], most),
        "violations_adaptive": ours["adaptive_violations"],
        "gap_closed_hindsight": gap_closed(ours["hindsight_savings"], history[best], most),
        "reactive": dict(reaction),
        "held": dict(held),
        "tables": {name: {n: dict(v) for n, v in table.items()} for name, table in tables.items()},
        "seed": seed,
        "note": "gap_closed: ullage with the knob from the past alone, the best history at exactly 1 % in hindsight; "
        "gap_closed_deployed: both with the knob from the past, the best history among those that held the budget (if none "
        "did, the one that came nearest)",
    }
