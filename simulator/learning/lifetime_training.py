"""``ullage train`` on arrivals and ends: fit hazards, stop early, mix with the rule, and say how good it is.

Split by time like usage (58 % to fit, 10 % to stop and to mix, the rest to judge) and by owner (a quarter is never fitted
on). What is known of a life while fitting is what was known when that part of the recording ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from placement.errors import ConfigError, ModelError
from placement.knowledge import workload_of
from placement.learning import drift
from placement.learning.boosted import ClassTrees, FitOptions, HazardRows, fit_hazards
from placement.learning.lifetime_model import OWNERS, Classes, LifetimeModel, bounded, card_section, losses, row_names
from placement.learning.lineage import NUM_CLASSES
from placement.learning.prediction import HISTORY
from placement.learning.spans import SPAN, Span
from placement.learning.survival import class_shares
from placement.resources import BoolArray, FloatArray
from simulator.learning.lifetime_classes import YOUNGEST_S, grown
from simulator.learning.lifetime_samples import (
    JUDGED_AGES_S,
    Draw,
    LifeSamples,
    is_held_out,
    samples_of,
    span_of,
    with_owners,
)
from simulator.learning.lifetime_scores import Scores, at_age, gone_by, log_loss, reliability, scores
from simulator.learning.sight import digest_of
from simulator.learning.training import FIT_SHARE, TUNED_SHARE, Verdict
from simulator.output import Progress, untold
from simulator.traces.trace import NEVER, Trace

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the trees in the mixture."""
CLASS_SHARE = 0.5
"""Of the trees of classes and the owner's majority in what is said of the classes; the hazards have the rest."""
OWNER_SHARES = (0.0, 0.25)
"""Of the owner's majority: a part of :data:`CLASS_SHARE`, where that has less loss."""
MIN_S = 3600.0
"""Least length of a recording that tells of lifetimes."""
OPTIONS = FitOptions(trees=300, learning_rate=0.05, leaves=15, min_leaf=100, feature_share=0.3, patience=25)
DRIFT = {"window": drift.WINDOW, "least": drift.LEAST, "margin_nats": drift.MARGIN_NATS, "falls_to": HISTORY}
"""Of :class:`placement.learning.drift.LossMonitor`, for people who read the card."""
OURS = ("model", "oracle")
"""Predictors that are no rivals."""
AGES = {"0s": "at arrival", "900s": "after 15 minutes", "3600s": "after an hour"}
"""Those at which lifetimes are judged, in words."""


@dataclass(frozen=True)
class TrainedLifetimes:
    """Part of the card, name → text of files, and whether the judged model pays."""

    section: dict[str, Any]
    files: dict[str, str]
    verdict: Verdict


@dataclass(frozen=True)
class Bounds:
    """Seconds at which a recording begins, fitting ends, mixing ends, and it stops.

    Fitting and mixing end at shares of the time in which pods arrive; where few have arrived by then (an outlier long
    before the others), at shares of the pods.
    """

    first: float
    fit: float
    mix: float
    last: float

    @classmethod
    def of(cls, trace: Trace) -> Bounds:
        """Of a recording.

        Raises
        ------
        ConfigError : it is too short.
        """
        (first, last), arrives = span_of(trace), float(trace.pods.arrival_s.max())
        if arrives - first < MIN_S:
            raise ConfigError(
                f"trace {trace.manifest.name}: pods arrive within {arrives - first:.0f} s, which is too short to learn "
                "lifetimes from; give an hour at least"
            )
        fit, mix = (first + share * (arrives - first) for share in (FIT_SHARE, TUNED_SHARE))
        if (trace.pods.arrival_s <= fit).mean() < FIT_SHARE / 2:
            fit, mix = (float(np.quantile(trace.pods.arrival_s, share)) for share in (FIT_SHARE, TUNED_SHARE))
        return cls(first, fit, mix, last)


def train_lifetimes(
    trace: Trace,
    *,
    seed: int = 0,
    rows: int = 30_000,
    progress: Progress = untold,
    refit: bool = True,
) -> TrainedLifetimes:
    """Fit on a recording's arrivals and ends, judge, then fit again on all of it, if ``refit``.

    Trees do not look at the hour of a trace that does not say when it began.

    Raises
    ------
    ConfigError : no pods, none that ends, or too short. ModelError : too few lives to fit.
    """
    owned = with_owners(trace)
    bounds = Bounds.of(owned)
    draws = [
        Draw(bounds.first, bounds.fit, rows // 3),
        Draw(bounds.fit, bounds.mix, rows // 6),
        Draw(bounds.mix, bounds.last, rows // 6),
    ]
    samples = samples_of(owned, draws, seed=seed, progress=progress)
    if not owned.manifest.has_calendar:
        samples = samples.without_hours()
    early, late = samples.moment_s < bounds.fit, samples.moment_s >= bounds.mix
    data = data_of(owned, bounds, seed)
    if not (early & ~samples.held_out).any():
        samples, data = samples.without_held_out(), {**data, "held_out_owners": 0}
    held = samples.held_out
    learned, between = samples.pick(early & ~held), samples.pick(~early & ~late & ~held)
    later = samples.pick(late & np.isin(samples.age_s, JUDGED_AGES_S))
    judged = fitted(learned, bounds.fit, between, bounds.mix, seed)
    model = model_at(samples, bounds.last, most=len(samples), seed=seed) if refit else judged
    metrics = judge(judged, later, bounds.last, seed)
    found = verdict(metrics, len(learned))
    facts = {
        "data": data,
        "seed": seed,
        "trees": model.trees.rounds,
        "lives": {
            "fitted": len(learned),
            "mixed": len(between),
            "judged": len(later),
            "served": len(samples if refit else learned),
        },
        "drift": DRIFT,
        "figures": BEFORE_REFIT if refit else AS_SERVED,
        SPAN: span_of_lives(owned, bounds, refit=refit).card,
        OWNERS: known_of(owned),
        "metrics": metrics,
        "verdict": found.words,
    }
    section, files = card_section(model, facts, judged if refit else None)
    return TrainedLifetimes(section, files, found)


BEFORE_REFIT = (
    "The figures are of the model in judged-lifetimes.txt, which had not seen the newest part of the recording. What is "
    "served was fitted again on all of it; no figure of that can be had from this recording."
)
AS_SERVED = "The figures are of the model that is served, on later days and on owners that it had not seen."
KNOWN = 200
"""Owners that a card remembers, by which it is told whether a recording is of the same cluster."""


def span_of_lives(trace: Trace, bounds: Bounds, *, refit: bool) -> Span:
    """What a model of a recording with these bounds learns from."""
    begins_s = trace.manifest.begins_s
    first, mix, last = (begins_s + round(x) for x in (bounds.first, bounds.mix, bounds.last))
    return Span(first, mix, last if refit else mix, trace.digest, trace.manifest.has_calendar)


def known_of(trace: Trace) -> str:
    """Digests of owners: the least of them, so that recordings of one cluster have some in common."""
    owners = {workload_of(s.namespace, s.owner) for s in trace.specs} - {""}
    return " ".join(sorted(map(digest_of, owners))[:KNOWN])


def fitted(early: LifeSamples, fit_s: float, late: LifeSamples, mix_s: float, seed: int) -> LifetimeModel:
    """Trees of ``early`` lives as known at ``fit_s``, stopped and mixed by ``late`` ones as known at ``mix_s``.

    Raises
    ------
    ModelError : too few lives to fit.
    """
    stop = late.parts_of_lives(mix_s)
    trees = fit_hazards(early.parts_of_lives(fit_s), stop, row_names(), replace(OPTIONS, seed=seed))
    model = LifetimeModel(trees, best_share(LifetimeModel(trees, 1.0), stop))
    return with_classes(model, grown(early, fit_s, seed), late, mix_s)


def model_at(samples: LifeSamples, now_s: float, *, most: int, seed: int) -> LifetimeModel:
    """What a daily job would serve at a moment: of at most ``most`` moments until then, by what was known then.

    Rounds and mixtures are found as in :func:`train_lifetimes`, the newest lives apart; then trees are grown on all of
    them, of hazards in so many rounds.

    Raises
    ------
    ModelError : too few lives to fit.
    """
    known = np.flatnonzero(samples.moment_s <= now_s)
    if len(known) > most:
        known = np.sort(np.random.default_rng([seed, int(now_s)]).choice(known, most, replace=False))
    if not len(known):
        raise ModelError(f"no pod arrived until {now_s:.0f} s; give a longer recording")
    lives = samples.pick(known)
    begin = float(lives.moment_s.min())
    fit_s = begin + FIT_SHARE / TUNED_SHARE * (now_s - begin)
    if (lives.moment_s <= fit_s).mean() < FIT_SHARE / TUNED_SHARE / 2:
        fit_s = float(np.quantile(lives.moment_s, FIT_SHARE / TUNED_SHARE))
    is_early = lives.moment_s <= fit_s
    tried = fitted(lives.pick(is_early), fit_s, lives.pick(~is_early), now_s, seed)
    none = lives.pick(np.zeros(len(lives), np.bool_)).parts_of_lives(now_s)
    options = replace(OPTIONS, seed=seed, trees=max(tried.trees.rounds, 1))
    trees = fit_hazards(lives.parts_of_lives(now_s), none, row_names(), options)
    classes = grown(lives, now_s, seed)
    owner_share = OWNER_SHARES[0] if tried.classes is None else tried.classes.owner_share
    found = None if classes is None else Classes(classes, CLASS_SHARE - owner_share, owner_share)
    return LifetimeModel(trees, tried.share, tried.source, found)


def with_classes(model: LifetimeModel, trees: ClassTrees | None, late: LifeSamples, now_s: float) -> LifetimeModel:
    """With trees of classes, where there are any, and the owner's share that has the least loss on ``late`` arrivals."""
    if trees is None:
        return model
    arrivals = late.pick((late.age_s == 0) & (now_s - late.arrival_s >= YOUNGEST_S)).as_known_at(now_s)

    def mixed(owner_share: float) -> LifetimeModel:
        return replace(model, classes=Classes(trees, CLASS_SHARE - owner_share, owner_share))

    if not len(arrivals):
        return mixed(OWNER_SHARES[0])
    least, most = OWNER_SHARES[0], OWNER_SHARES[-1]
    low, high = (model_shares(mixed(share), arrivals) for share in (least, most))

    def loss(owner_share: float) -> float:
        part = (owner_share - least) / (most - least)
        return float(log_loss((1 - part) * low + part * high, arrivals.lifetime_s, arrivals.is_ended, 0).sum())

    return mixed(min(OWNER_SHARES, key=loss))


def best_share(trees_alone: LifetimeModel, rows: HazardRows) -> float:
    """Of the trees in the mixture with the least loss on rows that were not fitted on; 1 without any."""
    if not len(rows.rows):
        return 1.0
    rule = bounded(1 / (1 + np.exp(-rows.start)))
    mine = 1 / (1 + np.exp(-(rows.start + trees_alone.trees.scores(rows.rows))))

    def loss(share: float) -> float:
        return float((rows.weight * losses(share * mine + (1 - share) * rule, rows.ended > 0)).sum())

    return min(SHARES, key=loss)


def judge(model: LifetimeModel, samples: LifeSamples, until_s: float, seed: int) -> dict[str, Any]:
    """By age and by owner, and by class at each age: the model, every rule and the oracle. Empty where nobody arrived."""
    out: dict[str, Any] = {}
    for age in JUDGED_AGES_S:
        at = samples.pick(samples.age_s == age)
        groups: dict[str, BoolArray] = {
            "all": np.ones(len(at), np.bool_),
            "held_out_owners": at.held_out,
            "new_owners": at.is_new,
            "known_owners": ~at.is_new,
        }
        found = {
            name: predictors(model, at.pick(mask), until_s, age, seed) for name, mask in groups.items() if mask.any()
        }
        if found:
            shares = model_shares(model, at)
            chance = gone_by(shares, at.lifetime_s, at.is_ended, until_s - at.arrival_s, age)
            out[f"{age}s"] = {**found, "classes": classes(shares, at, age), "reliability": reliability(*chance)}
    return out


def predictors(model: LifetimeModel, samples: LifeSamples, until_s: float, age_s: int, seed: int) -> dict[str, Scores]:
    """Scores of the model, of every rule and of the oracle."""
    tables = {"model": model_shares(model, samples), **samples.rules, "oracle": oracle(samples)}
    return {name: scores(shares, samples, until_s, age_s, seed) for name, shares in tables.items()}


def classes(shares: FloatArray, samples: LifeSamples, age_s: int) -> list[dict[str, float | int | None]]:
    """Of each class: pods, the share of them that were told so, and the share of those told so that were."""
    label, kept = samples.label, at_age(shares, age_s)
    said = kept.argmax(axis=1)
    found: list[dict[str, float | int | None]] = []
    for c in range(NUM_CLASSES):
        own, told, both = label == c, (said == c) & (label >= 0), (label == c) & (said == c)
        found.append(
            {
                "pods": int(own.sum()),
                "found": float(both.sum() / own.sum()) if own.any() else None,
                "right": float(both.sum() / told.sum()) if told.any() else None,
            }
        )
    return found


def model_shares(model: LifetimeModel, samples: LifeSamples) -> FloatArray:
    """(S, 4) shares of the classes."""
    return class_shares(model.hazards(samples.features, samples.rule))


def oracle(samples: LifeSamples) -> FloatArray:
    """(S, 4) the class itself; the last one for who still runs."""
    return np.asarray(np.eye(NUM_CLASSES)[np.where(samples.label >= 0, samples.label, NUM_CLASSES - 1)], float)


def best_rule(table: dict[str, Scores], metric: str) -> tuple[str, float | None]:
    """Of the rules (the history rung among them) the best in hindsight, and its score."""
    sign = -1 if metric in ("accuracy", "c_index") else 1
    known = {n: float(s[metric] or 0) for n, s in table.items() if n not in OURS and s[metric] is not None}
    if not known:
        return "", None
    name = min(known, key=lambda n: (sign * known[n], n))
    return name, known[name]


def verdict(ages: dict[str, Any], num_fitted: int) -> Verdict:
    """How a model did beside the best rule at each age that :func:`judge` found lives of, and what follows, in words."""
    judged, lost = 0, []
    for age, entry in ages.items():
        mine, (rule, best) = entry["all"]["model"]["accuracy"], best_rule(entry["all"], "accuracy")
        if mine is None or best is None:
            continue
        judged += 1
        if mine < best:
            lost.append(f"{AGES[age]} ({100 * mine:.1f} % of classes are right, of {rule} {100 * best:.1f} %)")
    if not judged:
        return Verdict("no life was left to judge the lifetime model by")
    said = f"the lifetime model is ahead of the best rule at {judged - len(lost)} of {judged} ages"
    if not lost:
        return Verdict(said)
    return Verdict(
        f"{said}, and behind {', '.join(lost)}: live the history answers as long as it tells more, and more lives than "
        f"these {num_fitted:,} may help",
        is_behind=True,
    )


def data_of(trace: Trace, bounds: Bounds, seed: int) -> dict[str, Any]:
    """What a person must know of the recording."""
    owners = {workload_of(s.namespace, s.owner) for s in trace.specs} - {""}
    return {
        "name": trace.manifest.name,
        "pods": len(trace.pods),
        "ended": int((trace.pods.departure_s != NEVER).sum()),
        "owners": len(owners),
        "held_out_owners": sum(is_held_out(owner, seed) for owner in owners),
        "days": round((bounds.last - bounds.first) / 86_400, 3),
        "split_days": [round((x - bounds.first) / 86_400, 3) for x in (bounds.fit, bounds.mix)],
    }
