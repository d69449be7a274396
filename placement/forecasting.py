"""Forecasts of a living cluster: keeps the past of each workload, predicts on change, remembers how it came out.

The expensive part, asking the rungs about a history, is a pure function of immutable values (:class:`Question`), so
that it may run on another thread. The cheap part is here: ageing a stored answer when no news comes, and holding
every rung's promise against what happened, the shut rungs' too, so that they can rise again. Time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from placement.baselines import PEAK, Target
from placement.knowledge import Forecast, Forecasts
from placement.prediction import (
    HISTORY,
    LEARNED,
    MODEL,
    REQUEST,
    CoverageMonitor,
    HistoryPredictor,
    Prediction,
    Predictor,
)
from placement.resources import CPU, MEMORY
from placement.usage import HISTORY_DAYS, STEP_S, HistorySnapshot, UsageHistory

LEVEL = 0.95
MIN_RECORDED = 0.5
"""An outcome counts only if this share of its window was measured."""
REMEMBERED = 500
"""Outcomes per rung and resource behind the error that is reported."""
ROUND = 0.01
"""Smaller changes of an upper quantile, as a share of the request, are not worth a new version of knowledge."""

Requests = Mapping[str, int]


@dataclass(frozen=True)
class Rungs:
    """Who predicts, best first, and where it came from."""

    predictors: tuple[tuple[str, Predictor], ...]
    target: Target
    source: str = "history"

    @classmethod
    def of_history(cls, target: Target) -> Rungs:
        """Without a model: the largest sample of the last day, or of three days for day-long windows."""
        rule = "max24h" if target.horizon_h < 24 else "max72"
        return cls(((HISTORY, HistoryPredictor(target, {CPU: (rule, 1.0), MEMORY: (rule, 1.0)})),), target)


@dataclass(frozen=True)
class Question:
    """A workload whose history changed."""

    workload: str
    requested: Requests
    history: HistorySnapshot


@dataclass(frozen=True)
class Answers:
    """What every rung said about a question, as of the end of the history."""

    workload: str
    requested: Requests
    end_s: int
    by_rung: Mapping[str, Prediction]


def ask(rungs: Rungs, question: Question) -> Answers:
    """Ask every rung; may run anywhere. A model answers in some ten milliseconds, so not on an event loop."""
    history, end_s = question.history, question.history.end_s
    said = {}
    for name, rung in rungs.predictors:
        answer = rung.predict(question.workload, question.requested, history, end_s)
        if answer is not None:
            said[name] = answer
    return Answers(question.workload, question.requested, end_s, said)


@dataclass(frozen=True, slots=True)
class _Promise:
    """What a rung promised for the window after ``made_s``."""

    workload: str
    made_s: int
    by_rung: Mapping[str, Mapping[str, int]]
    requested: Requests


@dataclass
class _Known:
    """One workload."""

    history: UsageHistory
    last_s: float = -1.0
    """Newest sign of its usage, unix time."""
    is_changed: bool = False
    promised_s: int = -1
    answers: Answers | None = None


@dataclass
class _Score:
    """Pinball loss and usage of the last outcomes of one rung and resource."""

    outcomes: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def error(self) -> float:
        """Mean loss over mean usage; NaN before the first outcome."""
        usage = sum(u for _, u in self.outcomes)
        return sum(loss for loss, _ in self.outcomes) / usage if usage else float("nan")


class Forecaster:
    """See the module. ``fresh_s`` and ``stale_s`` bound the ageing of a forecast towards the request."""

    def __init__(
        self, target: Target, *, fresh_s: float = 900, stale_s: float = 6 * 3600, max_workloads: int = 2000
    ) -> None:
        self.rungs = Rungs.of_history(target)
        self.target = target
        self.fresh_s, self.stale_s, self.max_workloads = fresh_s, stale_s, max_workloads
        self.monitor = CoverageMonitor()
        self.scores: dict[tuple[str, str], _Score] = {}
        self.num_refused = 0
        """Samples that histories refused (from the future, too old, negative)."""
        self.num_turned_away = 0
        """Samples of workloads beyond ``max_workloads``."""
        self._known: dict[str, _Known] = {}
        self._promises: deque[_Promise] = deque()

    def use(self, rungs: Rungs) -> None:
        """New rungs (a model was loaded, or lost): every answer is asked again, outcomes start anew."""
        self.rungs = rungs
        self.monitor = CoverageMonitor()
        self.scores.clear()
        self._promises.clear()
        for known in self._known.values():
            known.is_changed = True
            known.promised_s = -1
            known.answers = None

    def __len__(self) -> int:
        return len(self._known)

    # ── samples ───────────────────────────────────────────────────────────────────────────────

    def add(self, workload: str, time_s: int, now_s: int, *, cpu_millicores: int = -1, memory_bytes: int = -1) -> bool:
        """One sample of one pod; the largest of a workload's pods stays per five minutes. True when taken."""
        known = self._known.get(workload)
        if known is None:
            if len(self._known) >= self.max_workloads:
                self.num_turned_away += 1
                return False
            known = self._known[workload] = _Known(UsageHistory(workload, days=HISTORY_DAYS))
        taken = known.history.add(time_s, cpu_millicores=cpu_millicores, memory_bytes=memory_bytes, now_s=now_s)
        if not taken:
            self.num_refused += 1
            return False
        known.is_changed = True
        known.last_s = max(known.last_s, time_s)
        return True

    def seen(self, workload: str, time_s: float) -> None:
        """The workload was measured just now, whatever the sample: its forecast is as fresh as that."""
        known = self._known.get(workload)
        if known is not None:
            known.last_s = max(known.last_s, time_s)

    def keep(self, workloads: Iterable[str]) -> None:
        """Forget workloads that are neither here nor measured within the stale limit; the rest stay."""
        kept = set(workloads)
        newest = max((k.last_s for k in self._known.values()), default=0.0)
        for name in [n for n, k in self._known.items() if n not in kept and newest - k.last_s > 86_400]:
            del self._known[name]

    # ── forecasts ─────────────────────────────────────────────────────────────────────────────

    def questions(self, requested: Mapping[str, Requests]) -> list[Question]:
        """Workloads to be asked about: their history changed, or what they ask for."""
        found = []
        for workload, asks in requested.items():
            known = self._known.get(workload)
            if known is None:
                continue
            is_stale = known.answers is None or known.answers.requested != asks
            history = known.history.snapshot() if known.is_changed or is_stale else None
            if history is not None:
                known.is_changed = False
                found.append(Question(workload, dict(asks), history))
        return found

    def ask_again(self, workloads: Iterable[str]) -> None:
        """Questions that got no answer are asked next time."""
        for workload in workloads:
            known = self._known.get(workload)
            if known is not None:
                known.is_changed = True

    def take(self, answers: Iterable[Answers]) -> None:
        """Keep answers; each is also a promise, at most one an hour and workload."""
        for answer in answers:
            known = self._known.get(answer.workload)
            if known is None:
                continue
            known.answers = answer
            if answer.by_rung and answer.end_s >= known.promised_s + 3600:
                known.promised_s = answer.end_s
                uppers = {n: {r: a.upper for r, a in p.amounts.items()} for n, p in answer.by_rung.items()}
                self._promises.append(_Promise(answer.workload, answer.end_s, uppers, answer.requested))

    def forecasts(self, now_s: float, old: Forecasts | None = None) -> Forecasts:
        """Every workload's forecast now. What hardly changed stays as it was in ``old``."""
        found: dict[str, Forecast] = {}
        before: Mapping[str, Forecast] = old.of if old is not None else {}
        for workload, known in self._known.items():
            if known.answers is None:
                continue
            new = self._forecast(known, known.answers, now_s)
            kept = before.get(workload)
            found[workload] = kept if kept is not None and _is_like(kept, new, known.answers.requested) else new
        return Forecasts(found, self.target.name, self.rungs.source)

    def _forecast(self, known: _Known, answers: Answers, now_s: float) -> Forecast:
        age_s = max(0.0, now_s - known.last_s)
        requested = answers.requested
        chosen = None
        if age_s < self.stale_s:
            chosen = next(
                (answers.by_rung[n] for n, _ in self.rungs.predictors if n in answers.by_rung and self.trusted(n)), None
            )
        if chosen is None:
            cpu, memory = requested.get(CPU, 0), requested.get(MEMORY, 0)
            return Forecast(cpu, memory, cpu, memory, 0, 0, REQUEST, _coarse(age_s))
        old = min(1.0, max(0.0, (age_s - self.fresh_s) / (self.stale_s - self.fresh_s)))
        uppers = {}
        for resource in LEARNED:
            asked = requested.get(resource, 0)
            upper = min(chosen.upper(resource, asked), asked)
            uppers[resource] = upper + int(np.ceil((asked - upper) * old))
        cpu_amount, memory_amount = chosen.amounts.get(CPU), chosen.amounts.get(MEMORY)
        return Forecast(
            uppers[CPU],
            uppers[MEMORY],
            min(cpu_amount.mean, uppers[CPU]) if cpu_amount else 0,
            min(memory_amount.mean, uppers[MEMORY]) if memory_amount else 0,
            cpu_amount.deviation if cpu_amount else 0,
            memory_amount.deviation if memory_amount else 0,
            chosen.rung,
            _coarse(age_s),
        )

    def oldest_s(self, now_s: float) -> float:
        """Age of the oldest usage behind a forecast that does not stand on the request; 0 without any."""
        ages = [now_s - k.last_s for k in self._known.values() if k.answers is not None]
        return max((age for age in ages if age < self.stale_s), default=0.0)

    # ── outcomes ──────────────────────────────────────────────────────────────────────────────

    def trusted(self, rung: str) -> bool:
        """Whether a rung's coverage is in its band, for every resource."""
        return all(self.monitor.trusted(f"{rung}/{resource}") for resource in LEARNED)

    def coverage(self, rung: str, resource: str) -> float:
        """Share of the remembered outcomes that were covered; 1 before the first."""
        return self.monitor.coverage(f"{rung}/{resource}")

    def settle(self, now_s: float) -> int:
        """Hold promises whose window has passed against what was measured; how many were judged."""
        judged = 0
        while self._promises and self._promises[0].made_s + self.target.horizon_h * 3600 <= now_s - STEP_S:
            judged += self._judge(self._promises.popleft())
        return judged

    def _judge(self, promise: _Promise) -> int:
        known = self._known.get(promise.workload)
        history = known.history.snapshot() if known is not None else None
        if history is None:
            return 0
        first = (promise.made_s + STEP_S - (history.end_s - STEP_S * (len(history.samples[CPU]) - 1))) // STEP_S
        length = self.target.horizon_h * 3600 // STEP_S
        judged = 0
        for resource in LEARNED:
            window = history.samples[resource][max(first, 0) : max(first + length, 0)]
            seen = window[window >= 0]
            asked = promise.requested.get(resource, 0)
            if asked <= 0 or len(seen) < MIN_RECORDED * length:
                continue
            truth = min(float(seen.max() if self.target.statistic == PEAK else np.percentile(seen, 95)), float(asked))
            for rung, uppers in promise.by_rung.items():
                upper = uppers.get(resource, asked)
                self.monitor.observe(f"{rung}/{resource}", truth <= upper)
                loss = max(LEVEL * (truth - upper), (LEVEL - 1) * (truth - upper))
                self.scores.setdefault((rung, resource), _Score()).outcomes.append((loss, truth))
            judged += 1
        return judged


def _coarse(age_s: float) -> int:
    """Ages in steps of five minutes: a second more is not news."""
    return int(age_s) // STEP_S * STEP_S


def _is_like(old: Forecast, new: Forecast, requested: Requests) -> bool:
    """Whether a new forecast says the same, but for less than :data:`ROUND` of the request."""
    if old.rung != new.rung:
        return False
    near_cpu = abs(old.cpu - new.cpu) <= ROUND * requested.get(CPU, 0)
    near_memory = abs(old.memory - new.memory) <= ROUND * requested.get(MEMORY, 0)
    return near_cpu and near_memory and abs(new.age_s - old.age_s) <= 3600


def rungs_below(rung: str) -> int:
    """0 for a model, 1 for history, 2 for the request: how far a forecast has fallen."""
    return (MODEL, HISTORY, REQUEST).index(rung)
