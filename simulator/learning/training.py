"""Fitting of models on samples, fold by fold, with early stopping on later days.

Shared by ``ullage train`` and by the reproductions, so that what is measured is what is shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import ceil, gcd
from pathlib import Path

import numpy as np

from placement.errors import ConfigError, ModelError, PlacementError
from placement.learning import drift
from placement.learning.baselines import P95, PEAK, Target, baselines_within, tuned_scale
from placement.learning.boosted import FitOptions, QuantileModel, base_of, files_of, fit
from placement.learning.facts import FAMILIES
from placement.learning.features import FeatureSchema
from placement.learning.forecasting import LEVEL
from placement.learning.prediction import HISTORY
from placement.learning.spans import SPAN, Span
from placement.learning.usage import DAY, HISTORY_DAYS, HOUR, STEP_S, SingleArray, UsageSeries
from placement.resources import AnyArray, BoolArray, FloatArray, IntArray
from simulator.learning.forecast_samples import STRIDE_H, Recording, Samples, concatenate, draw, folds_of
from simulator.learning.sight import digest_of
from simulator.learning.stacking import conformal, pinball, stack
from simulator.output import Progress, untold, write_whole

MIN_TUNE = 100
"""Fewer calibration samples than this say nothing about a 95 % quantile."""

BASES: Mapping[tuple[int, str], tuple[str, ...]] = {
    (1, PEAK): ("max_24h", "max_6h", "max_lag1h"),
    (1, P95): ("p99_24h", "max_6h", "max_lag1h"),
    (6, PEAK): ("max_72h+window_p95_7d+coach-6x4h+max_168h", "window_p95_7d", "max_72h"),
    (6, P95): ("window_p95_7d", "decayed_p99_7d", "max_72h"),
    (24, PEAK): ("max_168h+max_336h+coach-6x4h+max28w", "max_168h", "max_336h+max28w+window_p95_28d+max_168h"),
    (24, P95): ("window_p95_7d+window_p95_28d+max28w+coach-6x4h", "window_p95_7d+max28w+same_max_7d+coach-6x4h"),
}
"""Which features models of a horizon and statistic take as their base; several are mixed. Chosen on days before 62.

Bases of short and of long memory stand side by side, a day ahead within one mean: which of them pays changes from month
to month, and a whole model with the wrong memory is dearer than a mean that holds both.
"""

SHORT_H = 1
"""Beyond this horizon neighbouring samples share most of their window: smaller trees, larger leaves, smaller steps."""


@dataclass(frozen=True)
class Effort:
    """How much work a fit may do."""

    rows: int = 50_000
    stop_rows: int = 12_000
    options: FitOptions = field(default_factory=FitOptions)
    by_weight: bool = False
    """Rows are drawn by the root of what they weigh in the loss instead of evenly."""


def bases_for(target: Target, limit: int = 3) -> tuple[str, ...]:
    """Bases of a target's statistic and (nearest configured) horizon."""
    nearest = min((h for h, s in BASES if s == target.statistic), key=lambda h: abs(h - target.horizon_h))
    return BASES[nearest, target.statistic][:limit]


def effort_for(target: Target, effort: Effort, num_samples: int) -> Effort:
    """The effort with trees that suit the horizon and the number of samples to fit on."""
    return effort if target.horizon_h <= SHORT_H else with_small_trees(effort, num_samples)


def with_small_trees(effort: Effort, num_samples: int) -> Effort:
    """Smaller trees, larger leaves and smaller steps, for samples that are fewer than they look."""
    options = effort.options
    small = replace(
        options,
        leaves=min(options.leaves, 15),
        min_leaf=max(options.min_leaf, min(300, num_samples // 100)),
        feature_share=min(options.feature_share, 0.3),
        learning_rate=min(options.learning_rate, 0.06),
    )
    return replace(effort, options=small)


def thin(mask: BoolArray, most: int, rng: np.random.Generator) -> IntArray:
    """At most ``most`` indices of a mask, ascending, drawn without replacement."""
    index = np.flatnonzero(mask)
    if len(index) > most:
        index = np.sort(rng.choice(index, most, replace=False))
    return index


def fit_bases(
    samples: Samples,
    *,
    resource: str,
    target: Target,
    train: BoolArray,
    stop: BoolArray | None,
    effort: Effort,
    seed: int,
    bases: tuple[str, ...],
    rounds: Sequence[int] = (),
) -> list[QuantileModel]:
    """One model per base on the samples ``train``; rounds are cut where the loss on ``stop`` stops falling, if given.

    ``rounds``, one number per base, takes the place of ``stop``: models of a later generation grow as many trees as
    the generation before them.
    """
    models = []
    for number, base in enumerate(bases):
        rng = np.random.default_rng([seed, number])
        index, factor = _drawn(samples, train, base, effort, rng)
        chosen = samples.pick(index)
        held = None if stop is None or rounds else samples.pick(thin(stop, effort.stop_rows, rng))
        options = replace(effort.options, seed=seed + number)
        model = fit(
            chosen.rows,
            chosen.truth,
            chosen.weight * factor,
            resource=resource,
            target=target,
            base=base,
            schema=samples.schema,
            options=replace(options, trees=rounds[number]) if rounds else options,
            held_out=(held.rows, held.truth, held.weight) if held else None,
        )
        models.append(model)
    return models


def _drawn(
    samples: Samples, mask: BoolArray, base: str, effort: Effort, rng: np.random.Generator
) -> tuple[IntArray, FloatArray]:
    """Indices of at most ``effort.rows`` samples of the mask, and factors for their weights."""
    if not effort.by_weight:
        index = thin(mask, effort.rows, rng)
        return index, np.ones(len(index))
    index = np.flatnonzero(mask)
    names = tuple(base.split("+"))
    columns = samples.features.pick(index).columns([samples.schema.names.index(name) for name in names])
    amount = samples.weight[index] * base_of(FeatureSchema(names), columns, base)
    drawn, factor = draw(amount, effort.rows, rng)
    return index[drawn], factor


def predictions(models: list[QuantileModel], rows: SingleArray) -> FloatArray:
    """(K, S) forecasts of several models, in shares."""
    return np.stack([model.predict(rows).astype(float) for model in models])


TARGETS = tuple(Target(h, s) for h in (1, 6, 24) for s in (PEAK, P95))
"""Horizons and statistics that are predicted."""


LONG_DAYS = 20.0
"""A recording with more days to fit on than this is judged every :data:`STRIDE_H` hours only."""

MANY_GAPS = 0.2
"""Of a recording: more is worth saying when too little is left of it."""
FIT_SHARE, TUNED_SHARE = 0.58, 0.68
"""Of a recording: where fitting ends, and where what was held back for calibration, or to choose a mixture of lifetimes,
ends. The rest judges. (The Bitbrains protocol: 52 and 61 of 90 days.)"""
COMPARED = 7_000
"""Samples on which all rules are held against the model: some thirty rules cost more than the model does."""
MIN_DAYS = 0.9
"""Least length of a recording that can be split into fit, calibration and test."""


@dataclass(frozen=True)
class Split:
    """Days (0-based): fit on samples that end by ``last_fit``, calibrate to ``last_calibration``, test after it."""

    first_hour: int
    last_fit: float
    last_calibration: float

    @classmethod
    def of(cls, num_days: float) -> Split:
        """The Bitbrains protocol (28 of history, fit to 52, calibrate to 61, test to 90) in proportion to the length.

        Raises
        ------
        ConfigError : the recording is too short.
        """
        if num_days < MIN_DAYS:
            raise ConfigError(f"a recording of {num_days:.2f} days cannot be split by time; give at least one day")
        first = min(HISTORY_DAYS * 24, int(num_days * 24 / 4))
        return cls(first, num_days * FIT_SHARE, num_days * TUNED_SHARE)

    def judged_from_s(self, series: UsageSeries) -> int:
        """When the first window may begin that is neither fitted nor calibrated on, by the recording's clock."""
        return series.start_s + (ceil(self.last_calibration * DAY) - 1) * STEP_S

    def judged(self, samples: Samples) -> BoolArray:
        """(S,) which samples are used to calibrate and judge: every fifth hour of a long recording, all of a short one."""
        mask: BoolArray = samples.hour % (STRIDE_H if self.last_fit > LONG_DAYS else 1) == 0
        return mask

    def compared(self, samples: Samples, num_workloads: int) -> BoolArray:
        """(S,) on which samples all rules are compared: some :data:`COMPARED`, whole hours, by turns at all times of day."""
        stride = STRIDE_H if self.last_fit > LONG_DAYS else 1
        hours = self.last_calibration / TUNED_SHARE * (1 - TUNED_SHARE) * 24
        every = ceil(num_workloads * hours / stride / COMPARED)
        while gcd(every, 24) > 1:
            every += 1
        mask: BoolArray = samples.hour % (every * stride) == 0
        return mask

    def masks(self, samples: Samples, horizon_h: int) -> tuple[BoolArray, BoolArray, BoolArray]:
        """(fit, calibration, test) masks over samples; a target never reaches into the next part."""
        start = samples.hour / 24
        end = start + horizon_h / 24
        fit_part = end <= self.last_fit
        calibration = (start >= self.last_fit) & (end <= self.last_calibration)
        return fit_part, calibration, start >= self.last_calibration


@dataclass(frozen=True)
class Trained:
    """A fitted task: what was judged on held-out workloads and later days, how it did, and what will be served."""

    resource: str
    target: Target
    judged: Mixture
    baseline: str
    scale: float
    metrics: Mapping[str, float]
    served: Mixture
    """Of trees fitted on everything, as many as before; what was judged itself where that is to be served.

    Weights and factor are from outcomes of the judged models on all days that those had not been fitted on.
    """
    best_rule: str
    """That turned out best on the days it was judged on, raw or tuned; empty where none were left."""

    @property
    def name(self) -> str:
        """As in the card."""
        return f"{self.resource}-{self.target.name}"

    @property
    def loses(self) -> bool:
        """Whether that rule did better than the model."""
        return bool(self.best_rule) and self.metrics["pinball"] > self.metrics["best_rule_pinball"]


@dataclass(frozen=True)
class Mixture:
    """Models, their weights (what is missing to one is the rule's), and the factor for what they say together."""

    models: tuple[QuantileModel, ...]
    weights: tuple[float, ...]
    calibration: float


def deployable_recording(series: UsageSeries, split: Split) -> Recording:
    """A recording at every hour after the first history, with what a live row has."""
    return Recording(series, np.arange(split.first_hour * HOUR, series.num_steps, HOUR), as_live=True)


HELD_OUT, HELD_GROUPS = 4, 8
"""One in so many workloads, and one in so many owners with all of theirs, is never fitted on."""


def held_out(series: UsageSeries, seed: int) -> BoolArray:
    """(N,) workloads that are never fitted on; whole owners among them where owners are known."""
    held = folds_of(len(series.workloads), HELD_OUT, seed) == 0
    if series.facts:
        names, owner = np.unique(np.array(series.groups), return_inverse=True)
        if len(names) >= HELD_GROUPS:
            held |= (folds_of(len(names), HELD_GROUPS, seed) == 0)[owner]
    return held


def train_task(
    recording: Recording,
    resource: str,
    target: Target,
    split: Split,
    *,
    effort: Effort,
    seed: int,
    held_out: BoolArray,
    refit: bool = True,
) -> Trained:
    """Fit, stack, calibrate and judge one task, then fit it again on everything if ``refit``.

    Workloads with ``held_out`` true are not fitted on before that.
    """
    samples = recording.samples(resource, target)
    fit_part, calibration, test = split.masks(samples, target.horizon_h)
    held = held_out[samples.workload]
    models = fit_bases(
        samples,
        resource=resource,
        target=target,
        train=fit_part & ~held,
        stop=calibration & ~held,
        effort=effort_for(target, effort, int((fit_part & ~held).sum())),
        seed=seed,
        bases=bases_for(target, 1),
    )
    # Calibration and test lie in the days after the fit: forecasts are made once for all of them.
    after = np.flatnonzero((samples.hour / 24 >= split.last_fit) & split.judged(samples))
    since, is_tune, is_late = samples.pick(after), calibration[after], test[after]
    tune, late = since.pick(is_tune), since.pick(is_late)
    if len(tune) < MIN_TUNE:
        days = ceil(enough_days(target.horizon_h, len(recording.series.workloads)))
        raise ConfigError(
            f"only {len(tune)} samples of {resource} {target.name} fall into the calibration days, {MIN_TUNE} are needed: the "
            f"recording is too short or too full of gaps; record {days} days, or more workloads, or take a shorter --horizon"
        )
    is_compared = split.compared(late, len(recording.series.workloads))
    rules = _Rules.of(recording, resource, target, tune, late.pick(is_compared), split)
    raw = recording.baselines(resource, target, since, (rules.chosen,))[rules.chosen].astype(float)
    parts = np.concatenate([predictions(models, since.rows), np.minimum(raw * rules.scale, 1)[None, :]])
    mixed = _mixture(models, parts[:, is_tune], tune)
    metrics: dict[str, float] = {}
    if len(late):
        said = np.clip(np.array([*mixed.weights, 1 - sum(mixed.weights)]) @ parts[:, is_late] * mixed.calibration, 0, 1)
        metrics = _metrics(late, said, parts[-1, is_late], held_out[late.workload])
    if is_compared.any():
        metrics |= {"pinball": _loss(late.pick(is_compared), said[is_compared]), "best_rule_pinball": rules.best_loss}
    served = mixed
    if refit:
        coarse = replace(effort, options=replace(effort.options, bin_rows=BIN_ROWS))
        again = fit_bases(
            samples, resource=resource, target=target, train=np.ones(len(samples), np.bool_), stop=None,
            effort=effort_for(target, coarse, len(samples)), seed=seed, bases=bases_for(target, 1),
            rounds=[model.rounds for model in models],
        )  # fmt: skip
        served = replace(_mixture(models, parts, since), models=tuple(again))
    return Trained(resource, target, mixed, rules.chosen, rules.scale, metrics, served, rules.best)


BIN_ROWS = 8_000
"""By which the last fit finds the limits of its bins: it costs half as much then."""


def _mixture(models: list[QuantileModel], parts: FloatArray, samples: Samples) -> Mixture:
    """Weights and factor that suit (K, S) forecasts of models and rule, by what came of them."""
    truth = samples.truth.astype(float)
    weights = stack(parts, truth, samples.weight, LEVEL)
    factor = conformal(weights @ parts, truth, LEVEL)
    return Mixture(tuple(models), tuple(float(w) for w in weights[:-1]), factor)


@dataclass(frozen=True)
class _Rules:
    """How simple rules did on one task."""

    chosen: str
    """By the calibration days, tuned."""
    scale: float
    best: str
    """Of later days, as shipped or tuned; empty where none are left."""
    best_loss: float

    @classmethod
    def of(
        cls, recording: Recording, resource: str, target: Target, tune: Samples, late: Samples, split: Split
    ) -> _Rules:
        both, names = concatenate([tune, late]), baselines_within(split.first_hour / 24)
        truth, weight, num = tune.truth.astype(float), tune.weight, len(tune)
        scales, before, after = dict[str, float](), dict[str, float](), dict[str, float]()
        for name, values in recording.baselines(resource, target, both, names).items():
            raw = values.astype(float)
            scales[name] = tuned_scale(raw[:num], truth, weight, LEVEL)
            tuned = np.minimum(raw * scales[name], 1)
            before[name] = _loss(tune, tuned[:num])
            after[name] = min(_loss(late, raw[num:]), _loss(late, tuned[num:])) if len(late) else 0.0
        chosen = min(before, key=lambda name: before[name])
        best = min(after, key=lambda name: after[name]) if len(late) else ""
        return cls(chosen, scales[chosen], best, after.get(best, 0.0))


def _loss(samples: Samples, forecast: AnyArray) -> float:
    return pinball(samples.truth.astype(float), forecast.astype(float), samples.weight, LEVEL)


def _metrics(late: Samples, model: FloatArray, rival: FloatArray, held: BoolArray) -> dict[str, float]:
    out = {}
    for name, mask in (("unseen", held), ("seen", ~held)):
        if mask.any():
            truth, weight = late.truth[mask].astype(float), late.weight[mask]
            out[f"pinball_{name}"] = pinball(truth, model[mask], weight, LEVEL)
            out[f"baseline_pinball_{name}"] = pinball(truth, rival[mask], weight, LEVEL)
            out[f"coverage_{name}"] = float((late.truth[mask] <= model[mask].astype(np.float32)).mean())
    return out


def longest_h(num_days: float) -> float:
    """The longest horizon that a recording can judge: one and a half times as much of it is left for that."""
    return max(1.0, num_days * 24 * (1 - TUNED_SHARE) / 1.5)


def enough_days(horizon_h: int, num_workloads: int) -> float:
    """Days of recording that hold windows of a horizon to judge by, and enough of them to calibrate by.

    >>> [round(enough_days(horizon_h, 24)) for horizon_h in (1, 6, 24)]
    [2, 5, 12]
    """
    judged_h = 1.5 * horizon_h / (1 - TUNED_SHARE)
    calibrated_h = (horizon_h + ceil(MIN_TUNE / num_workloads)) / (TUNED_SHARE - FIT_SHARE)
    return max(judged_h, calibrated_h) / 24


def too_long(series: UsageSeries, targets: Sequence[Target] = ()) -> str:
    """What to say of the horizons that a recording is too short for; empty when there are none.

    >>> too_long(UsageSeries("r", ("w",), 0, {"cpu": np.zeros((1, 3 * DAY), np.float32)}, {"cpu": np.ones(1)}))
    'r: its 3 days are too few for 24h-peak, 24h-p95; record 52'
    """
    missed = [t for t in (targets or TARGETS) if t.horizon_h > longest_h(series.num_days)]
    if not missed:
        return ""
    days = ceil(enough_days(max(t.horizon_h for t in missed), len(series.workloads)))
    named = ", ".join(t.name for t in missed)
    return f"{series.name}: its {series.num_days:.3g} days are too few for {named}; record {days}"


def gaps(series: UsageSeries) -> str:
    """What to add to a complaint about too few samples, where much of a recording is missing."""
    missing = 1 - min(float(np.isfinite(table).mean()) for table in series.usage.values())
    if missing < MANY_GAPS:
        return ""
    return f" ({100 * missing:.0f} % of {series.name} is missing; windows of which a third is are left out)"


def train(
    series: UsageSeries,
    folder: Path,
    *,
    seed: int = 0,
    effort: Effort | None = None,
    targets: Sequence[Target] = (),
    created_s: int = 0,
    progress: Progress = untold,
    note: Callable[[str], None] = lambda words: None,
    more: Mapping[str, object] | None = None,
    files: Mapping[str, str] | None = None,
    refit: bool = True,
) -> list[Trained]:
    """Fit every resource and target of a recording, then write models with their card to ``folder``, with ``more`` in the
    card and other ``files`` (name → text) beside it. With ``refit`` models that were fitted again on everything are
    served, and those that were judged stand beside them. A target of which there is too little of any resource is left
    out, and ``note`` is told.

    Raises
    ------
    ConfigError : the recording is too short, or has too few workloads. ModelError : too few samples to fit any target.
    """
    split = Split.of(series.num_days)
    recording = deployable_recording(series, split)
    held = held_out(series, seed)
    if held.all():
        raise ConfigError(
            f"{series.name} has {len(held)} workload{'s' * (len(held) > 1)}, too few to leave some out for judging; give more"
        )
    wanted = [t for t in (targets or TARGETS) if t.horizon_h <= longest_h(series.num_days)]
    if not wanted:
        raise ConfigError(too_long(series, targets))
    tasks = [(resource, target) for resource in series.usage for target in wanted]
    found: dict[tuple[str, Target], Trained] = {}
    failed: dict[Target, PlacementError] = {}
    effort = effort or Effort(30_000, by_weight=True)
    for number, (resource, target) in enumerate(tasks):
        progress(number, len(tasks))
        if target in failed:
            continue
        try:
            found[resource, target] = train_task(
                recording, resource, target, split, effort=effort, seed=seed, held_out=held, refit=refit
            )
        except (ConfigError, ModelError) as error:
            failed[target] = error
    trained = [one for (_, target), one in found.items() if target not in failed]
    if not trained:
        raise next(iter(failed.values()))
    for complaint in failed.values():
        note(f"not learned: {complaint}")
    progress(len(tasks), len(tasks))
    card = {**model_card(series, split, trained, held, seed=seed, created_s=created_s, refit=refit), **(more or {})}
    judged = [m for t in trained for m in t.judged.models] if refit else []
    write_model([m for t in trained for m in t.served.models], folder, card, files or {}, judged)
    return trained


def write_model(
    models: Sequence[QuantileModel],
    folder: Path,
    card: Mapping[str, object],
    files: Mapping[str, str],
    judged: Sequence[QuantileModel] = (),
) -> None:
    """Write a model folder whole; the card last, since its time tells a service that there is a new model.

    Raises
    ------
    PlacementError : it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole({folder / name: text for name, text in {**files, **files_of(models, card, judged)}.items()}, "model")


def _was_there(series: UsageSeries, end_day: float) -> BoolArray:
    """(N,) workloads that have samples before that day."""
    end = int(end_day * DAY)
    here: BoolArray = np.any([np.isfinite(table[:, :end]).any(axis=1) for table in series.usage.values()], axis=0)
    return here


def fitted_on(series: UsageSeries, mask: BoolArray) -> dict[str, str]:
    """Digests of the workloads, and of the owners where they are known, that models have been fitted on."""
    rows = np.flatnonzero(mask)
    groups = sorted({digest_of(series.groups[i]) for i in rows}) if series.facts else []
    return {"workloads": " ".join(digest_of(series.workloads[i]) for i in rows), "owners": " ".join(groups)}


def content_of(series: UsageSeries) -> str:
    """Digest of what was recorded, whatever it is called: 16 hexadecimal digits."""
    found = sha256("\n".join((*series.workloads, *series.usage)).encode())
    for resource, table in series.usage.items():
        found.update(np.ascontiguousarray(table).data)
        found.update(np.ascontiguousarray(series.provisioned[resource]).data)
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class Verdict:
    """How models did beside the best simple rules, in words."""

    words: str
    is_behind: bool = False
    """Somewhere."""


def verdict(series: UsageSeries, trained: Sequence[Trained]) -> Verdict:
    """How models did beside the best rules, as ``ullage evaluate`` of the recording says it, and what follows, in words."""
    judged, lost = [t for t in trained if t.best_rule], [t for t in trained if t.loses]
    said = f"the model is ahead of the best rule on {len(judged) - len(lost)} of {len(judged)} tasks"
    if len(judged) < len(trained):
        said += f"; no day was left to judge {', '.join(t.name for t in trained if not t.best_rule)}"
    if not lost:
        return Verdict(said)
    losses = ", ".join(f"{t.name} ({_times(t)} x the loss of {t.best_rule})" for t in lost)
    return Verdict(
        f"{said}, and behind on {losses}: for these leave usage.model out (the largest sample of seven days answers then), "
        f"and train again on more days or workloads than these {series.num_days:.3g} and {len(series.workloads)}",
        is_behind=True,
    )


def _times(task: Trained) -> str:
    rule = task.metrics["best_rule_pinball"]
    return f"{task.metrics['pinball'] / rule:.3f}" if rule else "any number"


def span_of(series: UsageSeries, split: Split, *, refit: bool) -> Span:
    """What models of a recording learn from."""
    judged_s = split.judged_from_s(series)
    to_s = series.end_s if refit else judged_s
    return Span(series.start_s, judged_s, to_s, content_of(series), series.has_calendar)


BEFORE_REFIT = (
    "The figures are of the models in judged-*, which had not seen the newest part of the recording. "
    "What is served has the same number of trees, fitted again on all of it; no figure of that can be had from this "
    "recording."
)
AS_SERVED = "The figures are of the models that are served, on workloads and days that they had not seen."


def model_card(
    series: UsageSeries,
    split: Split,
    trained: Sequence[Trained],
    held: BoolArray,
    *,
    seed: int,
    created_s: int,
    refit: bool = True,
) -> dict[str, object]:
    """What a person must know before trusting the models."""
    known = zip(FAMILIES, zip(*(f.keys() for f in series.facts), strict=True), strict=False)
    before = fitted_on(series, ~held & _was_there(series, split.last_fit))
    return {
        "data": {
            "name": series.name,
            "workloads": len(series.workloads),
            "days": round(series.num_days, 2),
            "resources": list(series.usage),
            "repairs": [list(entry) for entry in series.repairs],
            "facts": {family: sum(map(bool, keys)) for family, keys in known},
            "split_days": [round(split.first_hour / 24, 2), round(split.last_fit, 2), round(split.last_calibration, 2)],
        },
        "figures": BEFORE_REFIT if refit else AS_SERVED,
        "verdict": verdict(series, trained).words,
        SPAN: span_of(series, split, refit=refit).card,
        "fitted_on": fitted_on(series, np.ones(len(held), np.bool_)) if refit else before,
        "judged_fitted_on": before,
        "created_s": created_s,
        "seed": seed,
        "level": LEVEL,
        "drift": {"coverage_floor": drift.FLOOR, "window": drift.WINDOW, "falls_to": HISTORY},
        "tasks": {
            t.name: {
                "weights": list(t.served.weights),
                "calibration": t.served.calibration,
                "judged": {"weights": list(t.judged.weights), "calibration": t.judged.calibration},
                "baseline": t.baseline,
                "scale": t.scale,
                "trees": [int(m.booster.num_trees()) for m in t.served.models],
                "best_rule": t.best_rule,
                **t.metrics,
            }
            for t in trained
        },
    }
