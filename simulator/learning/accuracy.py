"""``ullage evaluate``: how good a model is, beside every simple rival and the oracle, as JSON and one HTML page.

A model folder is judged on the last third of a recording. Rivals are shown as shipped and tuned (one scalar from the
days before). The reliability diagram asks of every level, not only of the one that was fitted: does the forecast,
scaled to that level on the past, cover that share of the days that follow?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from placement import pages
from placement.errors import ConfigError, ModelError
from placement.learning import boosted
from placement.learning.baselines import Target, baselines_within, tuned_scale
from placement.learning.features import CLOCK, schema_of
from placement.learning.forecasting import LEVEL
from placement.learning.prediction import LEAST
from placement.learning.spans import Span
from placement.learning.usage import DAY, HOUR, STEP_S, UsageSeries
from placement.resources import AnyArray, BoolArray, FloatArray
from simulator.charts import dot_chart, reliability_chart
from simulator.learning import lifetime_accuracy
from simulator.learning.forecast_samples import Recording, Samples
from simulator.learning.sight import Judged, Sight, digest_of, sight_of
from simulator.learning.stacking import pinball
from simulator.learning.training import Split, content_of, deployable_recording, predictions
from simulator.output import Progress, untold

NEXT = (
    "Next: `model` of the section `[usage]` of the settings has `ullage serve` forecast with it, and falls back to history "
    "by itself where the model stops holding. Without a model the largest sample of seven days answers."
)
RELIABILITY = (
    "Share of outcomes that stay within a forecast, for each level asked for: above the ideal line the model is "
    "cautious, below it promises too much."
)
LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
Report = dict[str, Any]


def scores(samples: Samples, forecast: AnyArray) -> dict[str, float]:
    """Pinball, coverage, slack and severity of a forecast in shares, weighted by cores except for the coverage.

    Coverage compares in single precision, as usage is kept: a constant workload is forecast at its level up to the
    rounding of a weighted sum, and that must not count as a miss.
    """
    truth, weight, value = samples.truth.astype(float), samples.weight, np.asarray(forecast, float)
    total = max(float((weight * truth).sum()), 1e-12)
    return {
        "pinball": pinball(truth, value, weight, LEVEL),
        "coverage": float((samples.truth <= value.astype(np.float32)).mean()),
        "slack": float((weight * np.maximum(value - truth, 0)).sum() / total),
        "severity": float((weight * np.maximum(truth - value, 0)).sum() / total),
    }


def reliability(
    past: Samples, past_forecast: FloatArray, late: Samples, late_forecast: FloatArray
) -> list[list[float]]:
    """[level, coverage] pairs: the forecast scaled to each level on the past, its coverage of what came later."""
    ratio = past.truth / np.maximum(past_forecast, 1e-6)
    later = late.truth / np.maximum(late_forecast, 1e-6)
    return [[level, float((later <= np.quantile(ratio, level)).mean())] for level in LEVELS]


def evaluate(series: UsageSeries, folder: Path, *, progress: Progress = untold) -> Report:
    """Judge the models of ``folder`` on the last third of a recording.

    Raises
    ------
    ModelError : damaged files, another schema, or no model for any resource that was recorded.
    ConfigError : the recording is too short.
    """
    card = boosted.load_card(folder)
    served, before = (
        [
            m
            for m in boosted.load(folder, lambda _, target: schema_of(target), judged=judged)
            if m.resource in series.usage
        ]
        for judged in (False, True)
    )
    tasks = sorted({(m.resource, m.target.horizon_h, m.target.statistic) for m in served})
    if not tasks:
        raise ModelError(f"{folder} has no model for {', '.join(series.usage)}; train one on such data")
    if not series.has_calendar and any(model.reads(CLOCK) for model in (*served, *before)):
        raise ConfigError(
            f"{series.name} does not say when it began, and the models of {folder} look at hours and weekdays: tell with "
            "--begins-at, or train them on a recording without a calendar"
        )
    try:
        trained_on, facts = card["data"], {task: _facts(card, *task) for task in tasks}
    except (KeyError, TypeError) as error:
        raise ModelError(f"{folder / boosted.CARD} lacks {error}; train again or restore the file") from error
    split = Split.of(series.num_days)
    recording = deployable_recording(series, split)
    sight = _sight(card, trained_on, series, split)
    novelty = novelty_of(series, card.get("judged_fitted_on" if sight.before_refit else "fitted_on", {}))
    report: Report = {"data": series.name, "model": trained_on, "level": LEVEL, "tasks": {}}
    report["judged"] = {"models": "before the refit" if sight.before_refit else "served", "note": sight.note}
    for number, (resource, horizon, statistic) in enumerate(tasks):
        target = Target(horizon, statistic)
        name = f"{resource}-{target.name}"
        progress(number, len(tasks))
        mine, then = ([m for m in of if m.resource == resource and m.target == target] for of in (served, before))
        entry = _task(
            recording, target, split, (then if sight.before_refit else mine, then if sight.knows_past and then else mine),
            _at(facts[resource, horizon, statistic], sight), novelty, sight.from_s,
        )  # fmt: skip
        if entry is not None:
            report["tasks"][name] = entry
    progress(len(tasks), len(tasks))
    if not report["tasks"]:
        wanted = ", ".join(f"{resource}-{Target(horizon, statistic).name}" for resource, horizon, statistic in tasks)
        raise ConfigError(
            f"{series.name}: {series.num_days:.2f} days are too short to judge {wanted} on the last third; give more"
        )
    return report


def _sight(card: Mapping[str, Any], trained_on: Mapping[str, Any], series: UsageSeries, split: Split) -> Sight:
    known = card.get("fitted_on", {}).get("workloads", "").split()
    data = Judged(
        series.name, content_of(series), series.has_calendar, series.start_s, split.judged_from_s(series), series.end_s,
        [digest_of(name) for name in series.workloads],
    )  # fmt: skip
    return sight_of(Span.of(card), str(trained_on.get("name", "")), known, data)


def _at(facts: Mapping[str, Any], sight: Sight) -> Mapping[str, Any]:
    """With the weights and the calibration of who is judged."""
    return {**facts, **facts.get("judged", {})} if sight.before_refit else facts


def _facts(card: Mapping[str, Any], resource: str, horizon_h: int, statistic: str) -> dict[str, Any]:
    """What the card says of a task."""
    of = card["tasks"][f"{resource}-{Target(horizon_h, statistic).name}"]
    found = {key: of[key] for key in ("baseline", "scale", "weights", "calibration")}
    return {**found, "judged": of.get("judged", {})}


def _task(
    recording: Recording,
    target: Target,
    split: Split,
    models: tuple[list[boosted.QuantileModel], list[boosted.QuantileModel]],
    card: Mapping[str, Any],
    novelty: Mapping[str, BoolArray],
    from_s: int,
) -> Report | None:
    """One task's table, of windows that begin from ``from_s`` on; None when the recording is too short for the horizon.

    ``models`` are those that are judged, and those that had not seen the days before, for the reliability diagram.
    """
    resource = models[0][0].resource
    samples = recording.samples(resource, target)
    _, tune_part, test_part = split.masks(samples, target.horizon_h)
    test_part &= recording.series.start_s + (samples.hour * HOUR - 1) * STEP_S >= from_s
    judged = split.judged(samples)
    past, late = samples.pick(tune_part & judged), samples.pick(test_part & judged)
    if not len(past) or not len(late):
        return None
    names = tuple(dict.fromkeys((*baselines_within(split.first_hour / 24), str(card["baseline"]))))
    before = recording.baselines(resource, target, past, names)
    after = recording.baselines(resource, target, late, names)
    rows, rivals = {}, {}
    for name in names:
        scale = tuned_scale(before[name].astype(float), past.truth.astype(float), past.weight, LEVEL)
        raw, scaled = scores(late, after[name]), np.minimum(after[name] * scale, 1)
        tuned = scores(late, scaled)
        rows[name] = {**raw, "tuned_pinball": tuned["pinball"], "tuned_coverage": tuned["coverage"]}
        rivals[name] = after[name] if raw["pinball"] < tuned["pinball"] else scaled
    best = rivals[best_rival(rows)]
    mixed = [
        _mixed(of, part, base[str(card["baseline"])], card)
        for of, part, base in ((models[1], past, before), (models[0], late, after))
    ]
    rows["model"] = scores(late, mixed[1])
    rows["oracle"] = scores(late, late.truth)
    return {
        "samples": len(late),
        "predictors": rows,
        "groups": {
            str(g): scores(late.pick(late.groups == g), mixed[1][late.groups == g]) for g in np.unique(late.groups)
        },
        "novelty": {
            name: {"samples": int(mask.sum()), **scores(late.pick(mask), mixed[1][mask])}
            | {"rival_pinball": scores(late.pick(mask), best[mask])["pinball"]}
            for name, mask in _masks(recording, resource, late, novelty).items()
            if mask.any()
        },
        "reliability": reliability(past, mixed[0], late, mixed[1]),
    }


NEW_OWNER = "unseen, of an unseen owner"


def novelty_of(series: UsageSeries, fitted_on: Mapping[str, str]) -> dict[str, BoolArray]:
    """Name → (N,) workloads: seen when the models were fitted, by name, or not; with owners, whether they were seen."""
    seen = _is_in(series.workloads, fitted_on.get("workloads", ""))
    if not series.facts:
        return {"seen": seen, "unseen": ~seen}
    owner = _is_in(series.groups, fitted_on.get("owners", ""))
    return {"seen": seen, "unseen": ~seen, "unseen, of a seen owner": ~seen & owner, NEW_OWNER: ~seen & ~owner}


def _is_in(names: Sequence[str], digests: str) -> BoolArray:
    known = set(digests.split())
    return np.array([digest_of(name) in known for name in names], bool)


def _masks(
    recording: Recording, resource: str, late: Samples, novelty: Mapping[str, BoolArray]
) -> dict[str, BoolArray]:
    """Name → (S,) samples of a kind of workload; apart from newcomers with less than a day (rung `young`)."""
    past = recording.pasts[resource]
    measured = np.cumsum(past.hour_count, axis=1)[late.workload, late.hour - 1]
    is_new = np.isfinite(past.share).argmax(axis=1) >= DAY
    is_young = (measured < LEAST) & is_new[late.workload]
    found = {name: mask[late.workload] for name, mask in novelty.items()}
    return found | {"unseen, after a day": found["unseen"] & ~is_young, "less than a day": is_young}


def _mixed(models: list[boosted.QuantileModel], part: Samples, base: AnyArray, card: Mapping[str, Any]) -> FloatArray:
    """The forecast as it is served: models and baseline mixed, calibrated, capped."""
    weights = np.array(card["weights"], float)
    baseline = np.minimum(base.astype(float) * float(card["scale"]), 1)
    mixed = weights @ predictions(models, part.rows) + max(0.0, 1 - float(weights.sum())) * baseline
    return np.asarray(np.clip(mixed * float(card["calibration"]), 0, 1), float)


def best_rival(predictors: Mapping[str, Mapping[str, float]]) -> str:
    """The rule with the least pinball loss, raw or tuned."""
    rules = {name: p for name, p in predictors.items() if "tuned_pinball" in p}
    return min(rules, key=lambda name: min(rules[name]["pinball"], rules[name]["tuned_pinball"]))


def table_rows(report: Report) -> list[dict[str, Any]]:
    """One row per task: the model, its best rival and the coverage, for a terminal."""
    rows = []
    for name, task in report["tasks"].items():
        best = best_rival(task["predictors"])
        least = min(task["predictors"][best]["pinball"], task["predictors"][best]["tuned_pinball"])
        mine, unseen = task["predictors"]["model"], task["novelty"].get("unseen")
        rows.append(
            {
                "task": name,
                "pinball": f"{mine['pinball']:.4f}",
                "best rival": best,
                "rival pinball": f"{least:.4f}",
                "ratio": f"{mine['pinball'] / least:.3f}" if least > 0 else "-",
                "coverage": f"{mine['coverage']:.3f}",
                "slack": f"{mine['slack']:.3f}",
                "unseen": f"{unseen['pinball']:.4f}" if unseen else "-",
                "rival, unseen": f"{unseen['rival_pinball']:.4f}" if unseen else "-",
            }
        )
    return rows


def html(report: Report, command: str = "") -> str:
    """The report as one self-contained page; ``command`` makes it again."""
    body = _overview(report) if report["tasks"] else []
    for i, (name, task) in enumerate(report["tasks"].items()):
        parts = (
            reliability_chart(
                f"Reliability of {name}", task["reliability"], x_label="level asked for", y_label="share covered"
            ),
            _predictors(task["predictors"], name),
            _groups("workloads", task["novelty"], name),
            _groups("group", task["groups"], name),
        )
        body.append(pages.section(name, *parts, lead=RELIABILITY, place=f"t{i}"))
    body += [lifetime_accuracy.section(report["lifetimes"])] if "lifetimes" in report else []
    title = f"Ullage · accuracy on {report['data']}"
    return pages.page(title, f"{headline(report)}.", body, command=command, next_step=NEXT)


def headline(report: Report) -> str:
    """On how many tasks the model is ahead of its best rival, and how far its promise holds, in words."""
    if not report["tasks"]:
        return lifetime_accuracy.headline(report["lifetimes"])
    rows, coverages = table_rows(report), [t["predictors"]["model"]["coverage"] for t in report["tasks"].values()]
    ahead = sum(float(row["pinball"]) < float(row["rival pinball"]) for row in rows)
    spread = sorted({f"{100 * share:.1f}" for share in (min(coverages), max(coverages))}, key=float)
    return (
        f"the model is ahead of its best rival on {ahead} of {len(rows)} tasks, "
        f"and covers {' to '.join(spread)} % of outcomes ({100 * report['level']:.0f} % promised)"
    )


def _overview(report: Report) -> list[str]:
    """The answer as a picture, the way to each task, and the answer in numbers."""
    rows = table_rows(report)
    lifetimes = [(lifetime_accuracy.PLACE, lifetime_accuracy.TITLE)] * ("lifetimes" in report)
    ratios = [(row["task"], [100 * float(row["ratio"])] if row["ratio"] != "-" else []) for row in rows]
    chart = dot_chart("Model against rival", ratios, x_label="pinball loss, % of the best rival's", mark_x=100)
    return [
        pages.contents([*((f"t{i}", row["task"]) for i, row in enumerate(rows)), *lifetimes]),
        pages.section(
            "At a glance",
            f'<div class="card">{chart}</div>',
            pages.table(tuple(rows[0]), [tuple(row.values()) for row in rows], label="task"),
            _intro(report),
            lead="Left of the dashed line the model loses less than its best rival: of all simple rules, raw and tuned, the "
            "one that turned out best.",
        ),
    ]


def _intro(report: Report) -> str:
    trained, note = report["model"], report.get("judged", {}).get("note", "")
    return (
        f'<p class="lead">Models trained on {escape(str(trained["name"]))} ({trained["workloads"]} workloads, '
        f"{trained['days']:g} days), judged on the last third of the recording at the {100 * report['level']:.0f} % quantile. "
        "Pinball loss is divided by the mean of the truth; slack is what is reserved and not used, severity what is "
        "used and not reserved, both as shares of use. Tuned: one scalar from the days before.</p>"
        + f'<p class="lead">{escape(note)}.</p>'
        * bool(note)
    )


def _predictors(table: Mapping[str, Mapping[str, float]], task: str) -> str:
    order = sorted(table, key=lambda n: min(table[n]["pinball"], table[n].get("tuned_pinball", 9e9)))
    columns = ("pinball", "tuned_pinball", "coverage", "tuned_coverage", "slack", "severity")
    rows = [
        [lifetime_accuracy.marked(name), *(f"{table[name][c]:.4f}" if c in table[name] else "" for c in columns)]
        for name in order
    ]
    return lifetime_accuracy.sheet("predictor", columns, rows, of=task)


def _groups(what: str, groups: Mapping[str, Mapping[str, float]], task: str) -> str:
    if len(groups) < 2 or len(groups) > 40:
        return ""
    columns = [
        c for c in ("pinball", "rival_pinball", "coverage", "slack", "samples") if c in next(iter(groups.values()))
    ]
    rows = [
        [name, *(f"{entry[c]:{',d' if c == 'samples' else '.4f'}}" for c in columns)] for name, entry in groups.items()
    ]
    return lifetime_accuracy.sheet(what, columns, rows, of=task)
