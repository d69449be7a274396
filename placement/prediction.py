"""What a workload will use: one immutable answer, always with the rung that it stands on.

Three rungs: a fitted ``model``, the tuned best baseline of the ``history``, the ``request``. A rung that has no
data, or is not trusted at the moment (its coverage left the band), passes to the next; the request always answers.
Old data widens an answer towards the request: no news is not good news.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from placement import boosted
from placement.baselines import Target, forecast
from placement.errors import ModelError
from placement.features import Context, featurize, schema_of
from placement.resources import CPU, MEMORY
from placement.stacking import Calibration
from placement.usage import HOUR, STEP_S, HistorySnapshot, SingleArray
from placement.windows import Past

MODEL = "model"
HISTORY = "history"
REQUEST = "request"
"""Rungs, best first."""

FRESH_S = 900
STALE_S = 6 * 3600
"""History younger than ``FRESH_S`` is used as it is; from ``STALE_S`` on it is not used at all."""

LEARNED = (CPU, MEMORY)


@dataclass(frozen=True, slots=True)
class Amount:
    """One resource in its ledger unit: mean, standard deviation, and the upper quantile that is placed by."""

    mean: int
    deviation: int
    upper: int
    level: float = 0.95


@dataclass(frozen=True)
class Prediction:
    """Usage of one workload over ``target``'s window, by resource."""

    workload: str
    target: Target
    amounts: Mapping[str, Amount]
    rung: str
    age_s: int = 0
    """How old the newest sample behind it is."""

    def upper(self, resource: str, otherwise: int = 0) -> int:
        """The upper quantile of a resource, ``otherwise`` where it is not predicted."""
        amount = self.amounts.get(resource)
        return otherwise if amount is None else amount.upper


class Predictor(Protocol):
    """Anything that predicts; None means "not me": the next rung is asked."""

    def predict(
        self, workload: str, requested: Mapping[str, int], history: HistorySnapshot | None, now_s: int
    ) -> Prediction | None:
        """Usage of a workload that asked for ``requested`` (integer units) and did ``history`` so far."""
        ...


@dataclass(frozen=True)
class RequestPredictor:
    """The last rung: a workload uses what it asked for."""

    target: Target

    def predict(
        self, workload: str, requested: Mapping[str, int], history: HistorySnapshot | None, now_s: int
    ) -> Prediction | None:
        """See :class:`Predictor`; never None."""
        amounts = {r: Amount(requested[r], 0, requested[r], 1.0) for r in LEARNED if r in requested}
        return Prediction(workload, self.target, amounts, REQUEST)


def past_of(history: HistorySnapshot, resource: str, requested: int) -> Past:
    """The past of one live workload, its only origin the end of the history; ``requested`` in the ledger's unit.

    Provisioned amounts are in cores and bytes there, as in training: histograms have absolute buckets.
    """
    share = np.minimum(history.share(resource, requested), np.float32(1))
    pad = -share.shape[1] % HOUR
    share = np.concatenate([np.full((1, pad), np.nan, np.float32), share], axis=1)
    start = history.end_s - (share.shape[1] - 1) * STEP_S
    unit = 1000 if resource == CPU else 1
    return Past(share, np.array([share.shape[1]]), np.array([max(requested, 1) / unit]), resource, start)


def _moments(past: Past) -> tuple[float, float]:
    day = past.share[0, -24 * HOUR :]
    seen = day[np.isfinite(day)]
    return (float(seen.mean()), float(seen.std())) if len(seen) else (1.0, 0.0)


def _usable(history: HistorySnapshot | None, resource: str, now_s: int) -> HistorySnapshot | None:
    if history is None or now_s - history.end_s > STALE_S:
        return None
    return history if bool((history.samples[resource] >= 0).any()) else None


def _widened(upper: float, age_s: int) -> float:
    """Share moved towards 1 in proportion to how stale the history is."""
    old = min(1.0, max(0.0, (age_s - FRESH_S) / (STALE_S - FRESH_S)))
    return min(1.0, max(0.0, upper + (1 - upper) * old))


class _FromHistory:
    """Common frame of the two rungs that read history: per resource a share, scaled to the request."""

    target: Target
    rung: str

    def share(self, past: Past, other: Past | None, requested: Mapping[str, int]) -> float | None:
        """Upper quantile as a share of the request, None without a forecast for this resource."""
        raise NotImplementedError

    def predict(
        self, workload: str, requested: Mapping[str, int], history: HistorySnapshot | None, now_s: int
    ) -> Prediction | None:
        """See :class:`Predictor`. A resource without history keeps its request."""
        amounts, answered = {}, False
        for resource in LEARNED:
            asked = requested.get(resource, 0)
            usable = _usable(history, resource, now_s)
            if resource not in requested:
                continue
            share = None
            if usable is not None and asked > 0:
                past = past_of(usable, resource, asked)
                share = self.share(past, self._other(usable, resource, requested), requested)
            if share is None or usable is None:
                amounts[resource] = Amount(asked, 0, asked, 1.0)
                continue
            answered = True
            mean, deviation = _moments(past)
            upper = _widened(share, now_s - usable.end_s)
            amounts[resource] = Amount(round(mean * asked), round(deviation * asked), int(np.ceil(upper * asked)))
        if not answered or history is None:
            return None
        return Prediction(workload, self.target, amounts, self.rung, now_s - history.end_s)

    @staticmethod
    def _other(history: HistorySnapshot, resource: str, requested: Mapping[str, int]) -> Past | None:
        other = MEMORY if resource == CPU else CPU
        if requested.get(other, 0) <= 0 or not bool((history.samples[other] >= 0).any()):
            return None
        return past_of(history, other, requested[other])


@dataclass(frozen=True)
class HistoryPredictor(_FromHistory):
    """The middle rung: one baseline per resource, times its tuned scale."""

    target: Target
    names: Mapping[str, tuple[str, float]]
    """Resource → (baseline name, scale)."""
    rung: str = HISTORY

    def share(self, past: Past, other: Past | None, requested: Mapping[str, int]) -> float | None:
        """See :class:`_FromHistory`."""
        if past.resource not in self.names:
            return None
        name, scale = self.names[past.resource]
        return float(forecast(name, past, self.target)[0, 0]) * scale


@dataclass(frozen=True)
class ModelPredictor(_FromHistory):
    """The best rung: fitted quantile models, averaged per resource, mixed with the baseline, calibrated."""

    target: Target
    models: Mapping[str, Sequence[boosted.QuantileModel]] = field(repr=False)
    weights: Mapping[str, Sequence[float]]
    """Resource → weights of its models; what is missing to 1 goes to the history rung's baseline."""
    calibration: Mapping[str, Calibration]
    history: HistoryPredictor
    rung: str = MODEL

    def share(self, past: Past, other: Past | None, requested: Mapping[str, int]) -> float | None:
        """See :class:`_FromHistory`."""
        models = self.models.get(past.resource, ())
        baseline = self.history.share(past, other, requested)
        if not models or baseline is None or past.share.shape[1] < HOUR:
            return None
        rows = self.features(past, other, requested)
        weights = self.weights[past.resource]
        learned = sum(w * float(m.predict(rows)[0]) for w, m in zip(weights, models, strict=True))
        mixed = np.array([learned + max(0.0, 1 - sum(weights)) * baseline], np.float32)
        return float(self.calibration[past.resource].apply(mixed, np.array([""]))[0])

    def features(self, past: Past, other: Past | None, requested: Mapping[str, int]) -> SingleArray:
        """(1, F) features of one live workload."""
        memory = requested.get(MEMORY, 0) / 2**30 if MEMORY in requested else np.nan
        context = Context(np.array([requested.get(CPU, 1000) / 1000]), np.array([memory]), other)
        return np.asarray(featurize(past, self.target, context).values[:, 0, :], np.float32)


@dataclass(frozen=True)
class _Changed:
    """A predictor whose answers are changed afterwards."""

    inner: Predictor
    change: Callable[[Prediction, Mapping[str, int]], Prediction]

    def predict(
        self, workload: str, requested: Mapping[str, int], history: HistorySnapshot | None, now_s: int
    ) -> Prediction | None:
        """See :class:`Predictor`."""
        answer = self.inner.predict(workload, requested, history, now_s)
        return None if answer is None else self.change(answer, requested)


def with_margin(inner: Predictor, factor: float) -> Predictor:
    """Upper quantiles times ``factor``."""

    def widen(answer: Prediction, requested: Mapping[str, int]) -> Prediction:
        amounts = {r: replace(a, upper=int(np.ceil(a.upper * factor))) for r, a in answer.amounts.items()}
        return replace(answer, amounts=amounts)

    return _Changed(inner, widen)


def capped_at_request(inner: Predictor) -> Predictor:
    """Upper quantiles and means never above what was asked for."""

    def cap(answer: Prediction, requested: Mapping[str, int]) -> Prediction:
        amounts = {
            r: replace(a, upper=min(a.upper, requested[r]), mean=min(a.mean, requested[r]))
            for r, a in answer.amounts.items()
        }
        return replace(answer, amounts=amounts)

    return _Changed(inner, cap)


@dataclass(frozen=True)
class Ladder:
    """Rungs in order; the first that is trusted and has an answer gives it."""

    rungs: tuple[tuple[str, Predictor], ...]
    last: RequestPredictor
    trusted: Callable[[str], bool] = field(default=lambda rung: True, repr=False)

    def predict(
        self, workload: str, requested: Mapping[str, int], history: HistorySnapshot | None, now_s: int
    ) -> Prediction:
        """See :class:`Predictor`; never None."""
        for name, rung in self.rungs:
            answer = rung.predict(workload, requested, history, now_s) if self.trusted(name) else None
            if answer is not None:
                return answer
        answer = self.last.predict(workload, requested, history, now_s)
        assert answer is not None
        return answer


def with_fallback(
    *rungs: tuple[str, Predictor], target: Target, trusted: Callable[[str], bool] = lambda rung: True
) -> Ladder:
    """A ladder of named rungs that ends in the request; ``trusted`` may shut a rung (see :class:`CoverageMonitor`)."""
    return Ladder(tuple(rungs), RequestPredictor(target), trusted)


class CoverageMonitor:
    """Drift detection: how often the truth stayed under a rung's upper quantile of late.

    A rung is trusted until ``least`` outcomes are known, then as long as its coverage over the last ``window``
    outcomes is at least ``floor``; it is trusted again from ``floor + recover`` on, so that it does not flap.
    """

    def __init__(self, *, floor: float = 0.90, recover: float = 0.02, window: int = 500, least: int = 100) -> None:
        self._floor, self._recover, self._least, self._window = floor, recover, least, window
        self._outcomes: dict[str, deque[bool]] = {}
        self._shut: set[str] = set()
        self.falls = 0

    def observe(self, rung: str, covered: bool) -> None:
        """One outcome: was the usage at or below the rung's upper quantile?"""
        outcomes = self._outcomes.setdefault(rung, deque(maxlen=self._window))
        outcomes.append(covered)
        coverage = self.coverage(rung)
        if len(outcomes) < self._least:
            return
        if rung not in self._shut and coverage < self._floor:
            self._shut.add(rung)
            self.falls += 1
        elif rung in self._shut and coverage >= self._floor + self._recover:
            self._shut.discard(rung)

    def coverage(self, rung: str) -> float:
        """Share of the remembered outcomes that were covered; 1 before the first."""
        outcomes = self._outcomes.get(rung)
        return sum(outcomes) / len(outcomes) if outcomes else 1.0

    def trusted(self, rung: str) -> bool:
        """Whether this rung may answer."""
        return rung not in self._shut


def load_predictor(folder: Path, target: Target) -> tuple[ModelPredictor, HistoryPredictor]:
    """The model and history rungs of a folder written by ``ullage train``, for one target.

    Raises
    ------
    ModelError : a damaged file, another schema, or no model for this target.
    """
    card = boosted.load_card(folder)
    models: dict[str, list[boosted.QuantileModel]] = {}
    for model in boosted.load(folder, lambda resource, wanted: schema_of(wanted)):
        if model.target == target:
            models.setdefault(model.resource, []).append(model)
    if not models:
        raise ModelError(f"{folder} holds no model for {target.name}; train one or choose another horizon")
    try:
        tasks = {resource: card["tasks"][f"{resource}-{target.name}"] for resource in models}
        history = HistoryPredictor(target, {r: (str(t["baseline"]), float(t["scale"])) for r, t in tasks.items()})
        weights = {r: tuple(float(w) for w in t["weights"]) for r, t in tasks.items()}
        factors = {r: Calibration(float(t["calibration"]), {}) for r, t in tasks.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / boosted.CARD} lacks {error} for {target.name}; train again") from error
    return ModelPredictor(target, models, weights, factors, history), history
