"""What workloads will use: every rung's answer to many histories at once, and how it would have done before.

Three rungs: a fitted ``model``, a simple rule on the ``history``, the ``request``. :func:`ask` is a pure function of
immutable values, so that it may run on another thread or in another process; which rung counts, and with which factor,
is decided by :class:`placement.learning.forecasting.Forecaster` from the outcomes that come along with the answers.

Everything is in shares of the larger of what a workload asks for and the most that it used: within the request that is
the share that models were fitted on, and beyond it nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from placement.errors import ModelError, nearest
from placement.knowledge import NUM_WINDOWS
from placement.learning import boosted
from placement.learning.baselines import BASELINES, Target, forecast, oracle
from placement.learning.features import CLOCK, Context, featurize, schema_of
from placement.learning.kin import NAMES as KIN
from placement.learning.kin import standing
from placement.learning.lifetime_model import SECTION
from placement.learning.siblings import LENGTHS, UNSEEN, cells_at
from placement.learning.spans import JUDGED, NOBODY, SERVED, Span
from placement.learning.usage import CALENDAR_FROM_S, DAY, HISTORY_DAYS, HOUR, STEP_S, PastUsage, SingleArray
from placement.learning.windows import Past
from placement.resources import CPU, MEMORY, BoolArray, FloatArray, IntArray

MODEL = "model"
HISTORY = "history"
YOUNG = "young"
"""A model's answer about a newcomer, who has less than a day of samples: outcomes of its own, and below the history."""
REQUEST = "request"
"""Rungs, best first."""

LEARNED = (CPU, MEMORY)
Requests = Mapping[str, int]

RULE = "max7d"
"""The simple rule where no model card names a better one."""
RULE_PREFIX = "rule:"
"""Before the name of a baseline, where a model folder is asked for."""
LEAST = DAY
"""Samples without which a workload counts with its request, as it does in Koordinator: a few hours tell little of a day."""
LEAST_YOUNG = 3 * HOUR
"""Samples without which a model is not asked either: in the first two hours its answers fell short too often."""
OUTCOME_DAYS = 10
"""Outcomes older than this count no more."""
PARTS_DAYS = 7
"""Behind the parts of the day (Coach, ASPLOS'25)."""


def target_of(horizon: str) -> Target:
    """``6h-peak`` as a target."""
    hours, _, statistic = horizon.partition("h-")
    return Target(int(hours), statistic)


@dataclass(frozen=True)
class Batch:
    """Workloads whose histories end together."""

    past: Mapping[str, Past]
    """Resource → ``(N, T)`` shares of :attr:`scale`, with the origins that are asked about."""
    scale: Mapping[str, FloatArray]
    """Resource → ``(N,)`` millicores or bytes that a share of 1 stands for."""
    asked: Mapping[str, IntArray]
    """Resource → ``(N,)`` requests in the ledger's unit, 0 where none."""
    kin: SingleArray
    """``(N, O, R, K)`` what its kin tell of each workload, at the origins (:data:`placement.learning.kin.NAMES`)."""

    def at(self, origins: IntArray, kin: SingleArray) -> Batch:
        """The same at other moments."""
        return replace(self, past={r: past.at(origins) for r, past in self.past.items()}, kin=kin)


class Predictor(Protocol):
    """Anything that predicts from histories."""

    @property
    def tries(self) -> tuple[int, int]:
        """Hours between the moments of the past on which it is tried, and how many at most.

        The hours are no divisor of a day, so that the moments fall on different times of it.
        """

    @property
    def days(self) -> int:
        """How much of the past it reads."""

    @property
    def reads_kin(self) -> bool:
        """Whether it wants to know what other workloads tell."""

    @property
    def reads_clock(self) -> bool:
        """Whether it says nothing by a clock without a calendar."""

    def shares(self, batch: Batch, resource: str) -> SingleArray | None:
        """``(N, O)`` upper quantile of the target's statistic after each origin; None = not this resource."""


@dataclass(frozen=True)
class HistoryPredictor:
    """The middle rung: one baseline per resource, times its tuned scale."""

    target: Target
    names: Mapping[str, tuple[str, float]]
    """Resource → (baseline name, scale)."""
    tries: tuple[int, int] = (5, 48)
    reads_kin: bool = False
    reads_clock: bool = False

    @classmethod
    def plain(cls, target: Target) -> HistoryPredictor:
        """:data:`RULE` for both resources."""
        return cls(target, dict.fromkeys(LEARNED, (RULE, 1.0)))

    @property
    def days(self) -> int:
        """See :class:`Predictor`."""
        return max(BASELINES[name].reads_days for name, _ in self.names.values())

    def shares(self, batch: Batch, resource: str) -> SingleArray | None:
        """See :class:`Predictor`."""
        if resource not in self.names:
            return None
        name, scale = self.names[resource]
        return np.minimum(forecast(name, batch.past[resource], self.target) * np.float32(scale), np.float32(1))


Models = Mapping[str, Sequence[boosted.QuantileModel]]


@dataclass(frozen=True)
class ModelPredictor:
    """The best rung: fitted quantile models, averaged per resource, mixed with the baseline, calibrated.

    Asked about a moment from which they learned, the ``judged`` models answer in their place, which had not; where even
    those had, nobody does. So a model is tried honestly on the past that it was trained on. Nor does one that looks at hour
    and weekday answer by a clock that has no calendar (:data:`placement.learning.usage.CALENDAR_FROM_S`): trees that never missed
    the hour take a missing one for midnight.
    """

    target: Target
    models: Models = field(repr=False)
    weights: Mapping[str, Sequence[float]]
    """Resource → weights of its models; what is missing to 1 goes to the history rung's baseline."""
    factors: Mapping[str, float]
    """Resource → what the mix is multiplied by, so that it covered what it should (split conformal prediction)."""
    history: HistoryPredictor
    judged: Models = field(default_factory=dict, repr=False)
    """The same before they were fitted again on everything; empty where they were not."""
    span: Span | None = None
    """What they learned from; None where its time is not known."""
    days: int = HISTORY_DAYS
    tries: tuple[int, int] = (7, 12)
    """Features of one moment cost a thousand times as much as a rule."""

    @cached_property
    def reads_kin(self) -> bool:
        """Whether a tree looks at others: models of recordings without owners do not."""
        return any(model.reads(KIN) for of in (self.models, self.judged) for models in of.values() for model in models)

    @cached_property
    def reads_clock(self) -> bool:
        """Whether a tree looks at hour or weekday: models of recordings without a calendar do not."""
        return any(
            model.reads(CLOCK) for of in (self.models, self.judged) for models in of.values() for model in models
        )

    def who(self, times_s: IntArray) -> IntArray:
        """Who may be asked about windows that begin then (any shape): see :meth:`placement.learning.spans.Span.who`."""
        found = np.full(times_s.shape, SERVED) if self.span is None else self.span.who(times_s)
        if not self.reads_clock:
            return found
        known: IntArray = np.where(times_s < CALENDAR_FROM_S, NOBODY, found)
        return known

    def shares(self, batch: Batch, resource: str) -> SingleArray | None:
        """See :class:`Predictor`; NaN where nobody may answer."""
        baseline = self.history.shares(batch, resource)
        if not self.models.get(resource) or baseline is None:
            return None
        who = self.who(batch.past[resource].end_s)
        if who.max(initial=NOBODY) == NOBODY:
            return np.full(baseline.shape, np.nan, np.float32)
        rows = self.features(batch, resource)
        if who.min() == SERVED:
            return self._mixed(self.models, resource, rows, baseline)
        found = np.full(baseline.shape, np.nan, np.float32)
        for models, at in ((self.models, who == SERVED), (self.judged or self.models, who == JUDGED)):
            if at.any():
                found[:, at] = self._mixed(models, resource, rows[:, at], baseline[:, at])
        return found

    def _mixed(self, models: Models, resource: str, rows: SingleArray, baseline: SingleArray) -> SingleArray:
        """``(N, O)`` for ``(N, O, F)`` features."""
        shape, weights = rows.shape[:2], self.weights[resource]
        flat = rows.reshape(shape[0] * shape[1], -1)
        mixed = max(0.0, 1 - sum(weights)) * baseline.reshape(-1).astype(np.float64)
        for weight, model in zip(weights, models[resource], strict=True):
            mixed += weight * model.predict(flat)
        return np.clip(mixed.astype(np.float32) * self.factors[resource], 0, 1).reshape(shape)

    def features(self, batch: Batch, resource: str) -> SingleArray:
        """``(N, O, F)`` features."""
        other = batch.past.get(MEMORY if resource == CPU else CPU)
        kin = batch.kin[:, :, LEARNED.index(resource)] if self.reads_kin else None
        asked = {name: np.where(amounts > 0, amounts, np.nan) for name, amounts in batch.asked.items()}
        context = Context(asked[CPU] / 1000, asked[MEMORY] / 2**30, other)
        return featurize(batch.past[resource], self.target, context, kin).values


@dataclass(frozen=True)
class Rungs:
    """Who predicts, best first, and where it came from."""

    predictors: tuple[tuple[str, Predictor], ...]
    target: Target
    source: str = "history"
    parts: bool = False
    """Whether parts of the day are forecast as well, from the history."""

    @classmethod
    def of_history(cls, target: Target, *, parts: bool = False) -> Rungs:
        """Without a model."""
        return cls(((HISTORY, HistoryPredictor.plain(target)),), target, parts=parts)

    @cached_property
    def days(self) -> int:
        """How much of the past is read."""
        return max(1, *(p.days for _, p in self.predictors), PARTS_DAYS * self.parts)

    @cached_property
    def reads_kin(self) -> bool:
        """Whether workloads have to tell of each other."""
        return any(p.reads_kin for _, p in self.predictors)

    @cached_property
    def reads_clock(self) -> bool:
        """Whether one of them says nothing by a clock without a calendar."""
        return any(p.reads_clock for _, p in self.predictors)

    @cached_property
    def moments_h(self) -> tuple[int, ...]:
        """How many hours before the end of a history a predictor that reads kin is tried."""
        return tuple(sorted({h for _, p in self.predictors if p.reads_kin for h in _moments_h(p, self.target)}))


def load_rungs(folder: str, target: Target, *, parts: bool = False) -> Rungs:
    """The rungs of a model folder; of the history alone where ``folder`` is empty, or where ``parts`` are wanted.

    ``rule:NAME`` instead of a folder makes a baseline the rule of the history rung. Coach is a rule on the history,
    too: its strategy reads what the same part of the day brought, and no model.

    Raises
    ------
    ModelError : damaged, of another schema, without this target, no such baseline, or LightGBM is not installed.
    """
    if folder.startswith(RULE_PREFIX):
        name = folder.removeprefix(RULE_PREFIX)
        if name not in BASELINES:
            raise ModelError(f"{folder}: no baseline is called {name!r}; {nearest(name, list(BASELINES))}")
        rule = HistoryPredictor(target, dict.fromkeys(LEARNED, (name, 1.0)))
        return Rungs(((HISTORY, rule),), target, folder, parts)
    if not folder or parts or _tells_no_usage(Path(folder)):
        return Rungs.of_history(target, parts=parts)
    model, history = load_predictor(Path(folder), target)
    return Rungs(((MODEL, model), (HISTORY, history)), target, f"model {Path(folder).name}")


def _tells_no_usage(folder: Path) -> bool:
    """Whether a folder holds lifetimes alone: a recording without usage was learned from."""
    card = boosted.load_card(folder)
    return SECTION in card and card.get("models") == []


def card_of(model: str) -> bytes:
    """What tells one model from another: the card of its folder, or the rule's name; empty for none."""
    return (Path(model) / boosted.CARD).read_bytes() if model and not model.startswith(RULE_PREFIX) else model.encode()


def load_predictor(folder: Path, target: Target) -> tuple[ModelPredictor, HistoryPredictor]:
    """The model and history rungs of a folder written by ``ullage train``, for one target.

    Raises
    ------
    ModelError : a damaged file, another schema, or no model for this target.
    """
    card = boosted.load_card(folder)
    models, judged = (_by_resource(folder, target, judged=judged) for judged in (False, True))
    if not models:
        raise ModelError(f"{folder} holds no model for {target.name}; train one or choose another horizon")
    try:
        tasks = {resource: card["tasks"][f"{resource}-{target.name}"] for resource in models}
        history = HistoryPredictor(target, {r: (str(t["baseline"]), float(t["scale"])) for r, t in tasks.items()})
        weights = {r: tuple(float(w) for w in t["weights"]) for r, t in tasks.items()}
        factors = {r: float(t["calibration"]) for r, t in tasks.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / boosted.CARD} lacks {error} for {target.name}; train again") from error
    span = Span.of(card)
    known = span if span is not None and span.calendar else None
    return ModelPredictor(target, models, weights, factors, history, judged, known), history


def _by_resource(folder: Path, target: Target, *, judged: bool) -> dict[str, list[boosted.QuantileModel]]:
    found: dict[str, list[boosted.QuantileModel]] = {}
    for model in boosted.load(folder, lambda _, wanted: schema_of(wanted), judged=judged):
        if model.target == target:
            found.setdefault(model.resource, []).append(model)
    return found


# ── questions and answers ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Question:
    """A workload whose history changed."""

    workload: str
    requested: Requests
    history: PastUsage
    judges: bool = False
    """Whether the answers are tried on the past as well."""
    kin: SingleArray | None = None
    """``(1 + M, R, K)`` what its kin tell, now and at :attr:`Rungs.moments_h` (these only where it is tried)."""
    stands: bool = False
    """Only how it stood is asked, now and then: for others to be told of it."""
    is_new: bool = False
    """Whether it is known to have begun when its history does: else nothing is said of its first day, then or now."""
    looks: bool = False
    """Whether it is asked what it looks like, and if it judges, what came of such looks: for newcomers to be told by."""


@dataclass(frozen=True)
class Prediction:
    """One resource in its ledger unit: what every rung says, before the forecaster's factor, and what is usual."""

    uppers: Mapping[str, float]
    """Rung → upper quantile."""
    mean: float
    """Of the last day."""
    ordinary: float = 0.0
    """95th percentile of the last week; like :attr:`parts` only where parts of the day are wanted."""
    parts: tuple[float, ...] = ()
    """Largest sample of the last week in each part of the day; NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Truth ÷ upper quantile of one rung and resource, for the window after ``made_s``."""

    rung: str
    resource: str
    made_s: int
    ratio: float


Cells = Mapping[str, tuple[int, ...]]
"""By resource: what a workload looked like, by the last minutes (:func:`placement.learning.siblings.cells_at`)."""


def is_seen(cells: Cells) -> bool:
    """Whether there is any look."""
    return any(max(of) > UNSEEN for of in cells.values())


@dataclass(frozen=True, slots=True)
class Pair:
    """What a workload looked like at a moment of the past, and what came of it."""

    made_s: int
    cells: Cells
    outcome: Mapping[str, float]
    """By resource, in its ledger unit."""
    used: Mapping[str, float]
    """The most until then."""
    is_young: bool
    """Whether it was a newcomer in its first day."""


@dataclass(frozen=True)
class Answers:
    """What is said about a question, as of the end of the history."""

    workload: str
    requested: Requests
    end_s: int
    of: Mapping[str, Prediction]
    """By resource; one without a sample is missing, one with too few has no uppers, but for newcomers."""
    tried: tuple[Ratio, ...] = ()
    """On the past, where that was asked."""
    cells: Cells = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    """Of the past, where that was asked."""
    is_new: bool = False
    """As asked."""
    stood: tuple[tuple[int, SingleArray], ...] = field(default=(), compare=False)
    """Time and ``(R, LEVELS)`` of its standings, where rungs read kin; a question that ``stands`` gets nothing else."""


def ask(rungs: Rungs, questions: Iterable[Question]) -> list[Answers]:
    """Ask every rung; may run anywhere. A model takes four milliseconds a workload, so not on an event loop.

    An answer does not depend on which other questions are asked with it.
    """
    listed = list(questions)
    groups: dict[tuple[int, bool, bool, int], list[Question]] = {}
    for question in listed:
        looks_back = question.judges or question.stands
        days = min(rungs.days + OUTCOME_DAYS * looks_back, -(-len(question.history.samples[CPU]) // DAY))
        groups.setdefault((question.history.end_s, question.stands, question.judges, days), []).append(question)
    answers = [
        _stand(rungs, group, days) if stands else _ask_batch(rungs, group, judges, days)
        for (_, stands, judges, days), group in groups.items()
    ]
    found = {answer.workload: answer for part in answers for answer in part}
    return [found[q.workload] for q in listed]


def batch_of(questions: Sequence[Question], steps: int) -> Batch:
    """Histories with one end as a table of the last ``steps`` samples (whole hours), asked about the present."""
    past, scale, every = {}, {}, {}
    start = questions[0].history.end_s - (steps - 1) * STEP_S
    for resource in LEARNED:
        table = np.full((len(questions), steps), -1, np.int64)
        for row, question in zip(table, questions, strict=True):
            samples = question.history.samples[resource][-steps:]
            row[steps - len(samples) :] = samples
        asked = np.array([q.requested.get(resource, 0) for q in questions], np.int64)
        unit = np.maximum(np.maximum(asked, table.max(axis=1)), 1).astype(np.float64)
        share = table.astype(np.float32)
        share[table < 0] = np.nan
        share = np.minimum(share / unit[:, None].astype(np.float32), np.float32(1))
        # Histograms have absolute buckets: in cores and bytes, as in training.
        past[resource] = Past(share, np.array([steps]), unit / (1000 if resource == CPU else 1), resource, start)
        scale[resource], every[resource] = unit, asked
    kin = np.full((len(questions), 1, len(LEARNED), len(KIN)), np.nan, np.float32)
    for told, question in zip(kin, questions, strict=True):
        if question.kin is not None:
            told[0] = question.kin[0]
    return Batch(past, scale, every, kin)


def _stand(rungs: Rungs, questions: Sequence[Question], days: int) -> list[Answers]:
    """How workloads stood at each moment at which models will be tried, and stand now."""
    batch, end_s = batch_of(questions, days * DAY), questions[0].history.end_s
    hours = [h for h in (0, *rungs.moments_h) if h < days * 24]
    stood = _standings(batch.at(days * DAY - np.array(hours[::-1], np.int64) * HOUR, batch.kin), rungs.target)
    times = [end_s - h * 3600 for h in hours[::-1]]
    return [
        Answers(q.workload, q.requested, end_s, {}, stood=tuple(zip(times, rows, strict=True)))
        for q, rows in zip(questions, stood, strict=True)
    ]


def _standings(batch: Batch, target: Target) -> SingleArray:
    """``(N, O, R, LEVELS)``."""
    return np.stack([standing(batch.past[resource], target) for resource in LEARNED], axis=2)


def _ask_batch(rungs: Rungs, questions: Sequence[Question], judges: bool, days: int) -> list[Answers]:
    """Histories of as many days only: sums of floats depend on where they begin, and so, else, on who is asked with whom."""
    batch = batch_of(questions, days * DAY)
    end_s = questions[0].history.end_s
    of: list[dict[str, Prediction]] = [{} for _ in questions]
    is_new: BoolArray = np.array([q.is_new for q in questions])
    for resource in LEARNED:
        past, scale = batch.past[resource], batch.scale[resource]
        usual = _usual(past.share, scale, rungs.parts, end_s)
        uppers = {name: _uppers(predictor, batch, resource) for name, predictor in rungs.predictors}
        for i in np.flatnonzero(_is_known(past)[:, 0]).tolist():
            said = {n: float(u[i, 0] * scale[i]) for n, u in uppers.items() if u is not None and np.isfinite(u[i, 0])}
            of[i][resource] = Prediction(said, *usual[i])
        young = uppers.get(MODEL)
        for i in np.flatnonzero(_is_begun(past)[:, 0]).tolist():
            of[i][resource] = Prediction({}, *usual[i])
        if young is not None:
            for i in np.flatnonzero(_is_young(past)[:, 0] & is_new & np.isfinite(young[:, 0])).tolist():
                of[i][resource] = Prediction({YOUNG: float(young[i, 0] * scale[i])}, *usual[i])
    looks: list[Cells] = [{}] * len(questions)
    pairs: list[tuple[Pair, ...]] = [()] * len(questions)
    if any(q.looks for q in questions):
        looks = [cells for (cells,) in _cells(batch, batch.past[CPU].origins)]
        pairs = _pairs(rungs, batch, end_s, is_new) if judges else pairs
    ratios = _ratios(rungs, batch, _told(rungs, questions), end_s, is_new) if judges else [()] * len(questions)
    stood: list[tuple[tuple[int, SingleArray], ...]] = [()] * len(questions)
    if rungs.reads_kin:
        stood = [((end_s, rows[0]),) for rows in _standings(batch, rungs.target)]
    return [
        Answers(q.workload, q.requested, end_s, predictions, tried, cells, seen, q.is_new, now)
        for q, predictions, tried, cells, seen, now in zip(questions, of, ratios, looks, pairs, stood, strict=True)
    ]


def _cells(batch: Batch, origins: IntArray) -> list[list[Cells]]:
    """By workload and origin."""
    first = max(int(origins[0]) - max(LENGTHS), 0) if len(origins) else 0
    of = []
    for resource in LEARNED:
        asked = batch.asked[resource]
        unit = batch.scale[resource] / np.where(asked > 0, asked, np.nan)
        share = (batch.past[resource].share[:, first:] * unit[:, None]).astype(np.float32)
        of.append(cells_at(share, origins - first).tolist())
    return [
        [dict(zip(LEARNED, map(tuple, at), strict=True)) for at in zip(*one, strict=True)]
        for one in zip(*of, strict=True)
    ]


def _pairs(rungs: Rungs, batch: Batch, end_s: int, is_new: BoolArray) -> list[tuple[Pair, ...]]:
    """What every workload looked like at moments of the past, and what came of it: every hour of a newcomer's first day."""
    steps, history = batch.past[CPU].share.shape[1], rungs.predictors[-1][1]
    moments = _moments_h(history, rungs.target)
    every = range(rungs.target.horizon_h, OUTCOME_DAYS * 24) if is_new.any() else moments
    hours = [h for h in every if h * HOUR < steps][::-1]
    origins = steps - np.array(hours, np.int64) * HOUR
    then = {resource: past.at(origins) for resource, past in batch.past.items()}
    outcome, used = {}, {}
    for resource, past in then.items():
        unit = batch.scale[resource][:, None]
        outcome[resource] = oracle(past, rungs.target) * unit
        used[resource] = np.fmax.accumulate(past.share, axis=1)[:, origins - 1] * unit
    is_young = is_new[:, None] & np.any([_is_begun(past) for past in then.values()], axis=0)
    is_young &= ~np.any([_is_known(past) for past in then.values()], axis=0)
    is_told = is_young | np.isin(hours, moments)
    return [
        tuple(
            Pair(
                end_s - h * 3600,
                cells,
                {resource: float(table[i, o]) for resource, table in outcome.items()},
                {resource: float(table[i, o]) for resource, table in used.items()},
                bool(is_young[i, o]),
            )
            for o, (h, cells) in enumerate(zip(hours, of, strict=True))
            if is_told[i, o] and is_seen(cells)
        )
        for i, of in enumerate(_cells(batch, origins))
    ]


def _told(rungs: Rungs, questions: Sequence[Question]) -> SingleArray:
    """``(N, M, R, K)`` what kin told at :attr:`Rungs.moments_h`."""
    told = np.full((len(questions), len(rungs.moments_h), len(LEARNED), len(KIN)), np.nan, np.float32)
    for row, question in zip(told, questions, strict=True):
        if question.kin is not None and len(question.kin) > 1:
            row[:] = question.kin[1:]
    return told


def _is_known(past: Past) -> BoolArray:
    """``(N, O)``: whether there are samples enough before each origin."""
    known: BoolArray = _measured(past) >= LEAST
    return known


def _is_begun(past: Past) -> BoolArray:
    """``(N, O)``: whether there is something, but less than that."""
    measured = _measured(past)
    begun: BoolArray = (measured > 0) & (measured < LEAST)
    return begun


def _is_young(past: Past) -> BoolArray:
    """``(N, O)``: whether there is less, but enough to ask a model."""
    measured = _measured(past)
    young: BoolArray = (measured < LEAST) & (measured >= LEAST_YOUNG)
    return young


def _measured(past: Past) -> FloatArray:
    return np.asarray(np.cumsum(past.hour_count, axis=1)[:, past.hours - 1])


def _uppers(predictor: Predictor, batch: Batch, resource: str) -> SingleArray | None:
    share = predictor.shares(batch, resource)
    return None if share is None else np.maximum(share, np.float32(boosted.FLOOR))


def _moments_h(predictor: Predictor, target: Target) -> Sequence[int]:
    """Hours before the end of a history at which a predictor is tried on it."""
    every_h, most = predictor.tries
    return range(target.horizon_h, OUTCOME_DAYS * 24, every_h)[:most]


def _ratios(rungs: Rungs, batch: Batch, told: SingleArray, end_s: int, is_new: BoolArray) -> list[tuple[Ratio, ...]]:
    """How every rung would have done at past moments, by workload."""
    found: list[list[Ratio]] = [[] for _ in is_new]
    for name, predictor in rungs.predictors:
        steps = batch.past[CPU].share.shape[1]
        hours = [h for h in _moments_h(predictor, rungs.target) if h * HOUR < steps][::-1]
        at = [rungs.moments_h.index(h) for h in hours] if predictor.reads_kin else []
        then = batch.at(steps - np.array(hours, np.int64) * HOUR, told[:, at])
        for resource in LEARNED:
            past = then.past[resource]
            upper = _uppers(predictor, then, resource)
            if upper is None:
                continue
            ratio = oracle(past, rungs.target) / upper
            made_s = end_s - (steps - past.origins) * STEP_S
            for rung, mask in ((name, _is_known(past)), (YOUNG, _is_young(past) & is_new[:, None]))[
                : 1 + (name == MODEL)
            ]:
                for i, o in zip(*np.nonzero(mask & np.isfinite(ratio)), strict=True):
                    found[i].append(Ratio(rung, resource, int(made_s[o]), float(ratio[i, o])))
    return [tuple(ratios) for ratios in found]


Usual = tuple[float, float, tuple[float, ...]]


def _usual(share: SingleArray, scale: FloatArray, parts: bool, end_s: int) -> list[Usual]:
    """Of each workload the mean of the last day; with ``parts``, P95 and parts of the day of a week."""
    day = share[:, -DAY:]
    count = np.isfinite(day).sum(axis=1)
    total = np.nansum(day, axis=1, dtype=np.float64)
    mean = np.where(count, total / np.maximum(count, 1), 1.0) * scale
    if not parts:
        return [(m, 0.0, ()) for m in mean.tolist()]
    week = share[:, -PARTS_DAYS * DAY :]
    part = (end_s // STEP_S - np.arange(week.shape[1])[::-1]) % DAY // (DAY // NUM_WINDOWS)
    known = np.where(np.isnan(week), -1.0, week)
    most = np.stack([known[:, part == p].max(axis=1, initial=-1.0) for p in range(NUM_WINDOWS)], axis=1)
    largest = np.where(most < 0, np.nan, most * scale[:, None])
    ordinary = percentiles(week, 0.95) * scale
    return [(m, o, tuple(p)) for m, o, p in zip(mean.tolist(), ordinary.tolist(), largest.tolist(), strict=True)]


def percentiles(past: SingleArray, share: float) -> FloatArray:
    """Along the last axis, of what is not NaN: the sample at rank ``share``, rounded up; 0 where there is none."""
    order = np.sort(past, axis=-1)  # NaN come last
    last = np.isfinite(past).sum(axis=-1, keepdims=True) - 1
    rank = np.ceil(share * np.maximum(last, 0)).astype(np.int64)
    found = np.take_along_axis(order, rank, axis=-1).astype(np.float64)
    return np.where(last >= 0, found, 0.0)[..., 0]
