"""Forecasts of a cluster: keeps the past of each workload, and decides which rung counts, and with which factor.

The same object learns in ``ullage serve`` and in a replay: samples in, questions out, answers in, knowledge out; time
is an argument. The expensive part, asking the rungs, is :func:`placement.learning.prediction.ask`. Here is what
follows from outcomes:

- a *factor* per rung and resource, so that CPU and memory together would have stayed below what was said in
  :data:`LEVEL` of the cases; before there are outcomes enough a rung promises nothing and the next one answers;
- *drift*: a rung whose promises are kept too seldom is shut until they are kept again (:class:`CoverageMonitor`);
- *crowding*: when nodes were short of CPU for more than a budget's share of the last day, every rung is shut until
  it is less than half of that: workloads may all keep below their own peaks and yet be too much together;
- *age*: without news an answer moves towards the request;
- *the first day*: a model's answers about newcomers, who have no day of history, are a rung of their own, which promises
  nothing before :data:`LEAST_OUTCOMES` of them have shown here how far they come true. A newcomer is who was first measured
  after a whole day in each hour of which others were: of all others nobody knows how old they are;
- *cold start*: with ``siblings``, newcomers are told by what others came to need who had looked alike
  (:mod:`placement.learning.siblings`); it promises nothing before as many of them have shown how far that comes true.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import merge
from math import ceil, inf, isnan, sqrt

import numpy as np

from placement.knowledge import Forecast, Forecasts, Knowledge, workload_of
from placement.learning.baselines import PEAK, Target
from placement.learning.drift import CoverageMonitor, Crowding
from placement.learning.facts import Facts
from placement.learning.horizons import MOST_WORKLOADS
from placement.learning.kin import Standings
from placement.learning.prediction import (
    HISTORY,
    LEARNED,
    LEAST,
    MODEL,
    OUTCOME_DAYS,
    REQUEST,
    YOUNG,
    Answers,
    Cells,
    Pair,
    Prediction,
    Question,
    Ratio,
    Requests,
    Rungs,
    is_seen,
)
from placement.learning.siblings import SIBLINGS, Siblings
from placement.learning.usage import DAY, HISTORY_DAYS, STEP_S, PastUsage, SingleArray, UsageHistory
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, FloatArray

LEVEL = 0.95
"""Promised share of windows in which neither CPU nor memory exceeds its upper quantile."""
EACH = 1 - (1 - LEVEL) / 2
"""The share for each resource, so that it holds for both."""
LEAST_OUTCOMES = 39
"""With fewer, no factor covers :data:`EACH`: ``ceil((n + 1) * EACH) <= n`` (split conformal prediction)."""
LEAST_MOMENTS = 4
"""The outcomes of one moment are alike; there must be so many."""
MIN_RECORDED = 0.5
"""An outcome counts only if this share of its window was measured."""
REMEMBERED = 500
"""Outcomes per rung and resource behind the error that is reported."""
ROUND = 0.01
"""Smaller changes of an upper quantile, as a share of the request, are not worth a new version of knowledge."""
EXACT = 1e-6
"""Forecasts are made in single precision."""
OF_NEWCOMERS = (YOUNG, SIBLINGS)
"""Rungs that answer in the first day alone, and learn from that of others."""
RECALLED_AT_ONCE = 20
"""Looks of first days that are recalled before others may run: one or two milliseconds."""
DAY_S, HOUR_S = 86_400, 3600


def asked_of(specs: Iterable[PodSpec]) -> dict[str, dict[str, int]]:
    """What a pod of each workload asks for: the largest of the given classes."""
    found: dict[str, dict[str, int]] = {}
    for spec in specs:
        workload = workload_of(spec.namespace, spec.owner)
        if workload:
            asks = found.setdefault(workload, dict.fromkeys(LEARNED, 0))
            for resource in LEARNED:
                asks[resource] = max(asks[resource], spec.amount(resource))
    return found


@dataclass(frozen=True, slots=True)
class _Promise:
    """What was said for the window after ``made_s``."""

    workload: str
    made_s: int
    of: Mapping[str, Prediction]
    factors: Mapping[tuple[str, str], float]
    """Those in force then; a rung without one promised nothing."""
    requested: Requests
    cells: Cells
    """What it looked like."""


@dataclass
class _Known:
    """One workload."""

    history: UsageHistory
    last_s: float = -1.0
    """Newest sign of its usage."""
    is_changed: bool = False
    is_tried: bool = False
    """Whether the rungs were tried on its past."""
    promised_s: int = -1
    answers: Answers | None = None
    has_stood: bool = False
    """Whether others can be told how it stood on the past."""
    is_back: bool = False
    """Whether it was known before and forgotten: its history does not tell when it began."""
    here_s: float = inf
    """Since when it was seen to be here without being measured."""
    used: Mapping[str, int] = field(default_factory=dict)
    """The most of each resource when it was last asked about; only while that is all there is."""


@dataclass
class _Score:
    """Pinball loss and usage of the last outcomes of one rung and resource."""

    outcomes: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def error(self) -> float:
        """Mean loss over mean usage; NaN before the first outcome."""
        usage = sum(u for _, u in self.outcomes)
        return sum(loss for loss, _ in self.outcomes) / usage if usage else float("nan")


class _Outcomes:
    """Ratios of truth to what was said, of the last :data:`OUTCOME_DAYS`, and the factor that follows from them.

    It is one of the largest ratios, so only as many of those as may matter are looked at for each new outcome; all of
    them are when an hour is forgotten.
    """

    def __init__(self) -> None:
        self._by_hour: dict[int, array[float]] = {}
        self._num = 0
        self._new: array[float] = array("d")
        self._largest: FloatArray | None = None
        """At least :attr:`_room` of them, but for those in ``_new``; None = to be gathered."""
        self._room = 0
        self._level = 0.0
        self._quantile: float | None = None

    def add(self, made_s: int, ratio: float) -> None:
        """One outcome."""
        self._by_hour.setdefault(made_s // HOUR_S, array("d")).append(ratio)
        self._new.append(ratio)
        self._num += 1

    def settle(self, now_s: float, level: float) -> None:
        """Forget what is old, and fit."""
        oldest = (now_s - OUTCOME_DAYS * DAY_S) // HOUR_S
        old = [hour for hour in self._by_hour if hour < oldest]
        for hour in old:
            self._num -= len(self._by_hour.pop(hour))
            self._largest = None
        if not (self._new or old or level != self._level):
            return
        self._level = level
        rank = min(ceil((self._num + 1) * level), self._num)
        place = self._num - rank + 1
        if self._largest is None or place > self._room:
            self._room = 2 * place
            every = np.concatenate([np.zeros(0), *(np.frombuffer(of) for of in self._by_hour.values())])
            kept = min(self._room, len(every))
            self._largest = np.partition(every, len(every) - kept)[len(every) - kept :] if kept else every
        else:
            self._largest = np.concatenate([self._largest, np.frombuffer(self._new)])
        self._new = array("d")
        self._quantile = None
        if self._num >= LEAST_OUTCOMES and len(self._by_hour) >= LEAST_MOMENTS:
            at = len(self._largest) - place
            self._quantile = float(np.partition(self._largest, at)[at])

    @property
    def quantile(self) -> float | None:
        """The ratio that ``level`` of the outcomes stay below; None while there are too few."""
        return self._quantile


class Forecaster:
    """See the module. ``fresh_s`` and ``stale_s`` bound the ageing of a forecast towards the request."""

    def __init__(
        self,
        target: Target,
        *,
        rungs: Rungs | None = None,
        fresh_s: float = 900,
        stale_s: float = 6 * 3600,
        max_workloads: int = MOST_WORKLOADS,
        budget: float = 0.01,
        factor: float = 0.0,
        siblings: bool = False,
    ) -> None:
        self.rungs = rungs or Rungs.of_history(target)
        self.siblings = Siblings(LEARNED) if siblings and not self.rungs.parts else None
        """They tell nothing of parts of the day."""
        self.target = target
        self.fresh_s, self.stale_s, self.max_workloads = fresh_s, stale_s, max_workloads
        self.first_factor = factor
        """Stands until there are outcomes, as if fitted elsewhere; 0 = none."""
        self.monitor = CoverageMonitor()
        self.crowding = Crowding(budget)
        self.scores: dict[tuple[str, str], _Score] = {}
        self.num_refused = 0
        """Samples that histories refused (from the future, too old, negative)."""
        self.num_turned_away = 0
        """Samples of workloads beyond ``max_workloads``."""
        self.num_left_out = 0
        """Workloads that are here and found no place when it was last asked who is."""
        self.standings = Standings(len(LEARNED))
        """What workloads tell of each other, where rungs read it."""
        self._known: dict[str, _Known] = {}
        self._now_s = 0.0
        self._hours: set[int] = set()
        """Those in which anybody was measured, as long as histories reach."""
        self._forgotten: dict[str, float] = {}
        """When those were last measured that are gone, in the order in which they were forgotten."""
        self._unmeasured: dict[str, float] = {}
        """Since when those are here that nobody measured yet."""
        self._promises: deque[_Promise] = deque()
        self._outcomes: dict[tuple[str, str], _Outcomes] = {}
        self._newcomers: dict[tuple[str, str], dict[str, int]] = {}
        """By rung and resource: of whom outcomes of their first day are remembered, and when the last one began."""
        self._recalled: list[tuple[str, Requests, Pair]] = []
        """First days that were read back, to be held against the siblings once all of them are."""

    def use(self, rungs: Rungs) -> None:
        """New rungs (a model was loaded, or lost): every answer is asked again, outcomes start anew."""
        self.rungs = rungs
        self.monitor = CoverageMonitor()
        self.scores.clear()
        self._promises.clear()
        self._forget_outcomes()
        if rungs.parts:
            self.siblings = None
        for known in self._known.values():
            known.is_changed = True
            known.is_tried = False
            known.promised_s = -1
            known.answers = None

    def _forget_outcomes(self) -> None:
        """All that is learned anew when every workload is tried on its past."""
        self._outcomes.clear()
        self._newcomers.clear()
        self._recalled.clear()
        if self.siblings is not None:
            self.siblings = Siblings(LEARNED)

    def __len__(self) -> int:
        return len(self._known)

    # ── samples ───────────────────────────────────────────────────────────────────────────────

    def add(self, workload: str, time_s: int, now_s: int, *, cpu_millicores: int = -1, memory_bytes: int = -1) -> bool:
        """One sample of one pod; the largest of a workload's pods stays per five minutes. True when taken."""
        self._look_at_clock(now_s)
        known = self._of(workload)
        if known is None:
            return False
        taken = known.history.add(time_s, cpu_millicores=cpu_millicores, memory_bytes=memory_bytes, now_s=now_s)
        return self._taken(known, time_s, taken)

    def add_oom(self, workload: str, time_s: int, now_s: int, memory_bytes: int) -> bool:
        """A pod was killed for want of memory while it used, or asked for, ``memory_bytes``. True when taken."""
        known = self._of(workload)
        if known is None:
            return False
        return self._taken(known, time_s, known.history.add_oom(time_s, memory_bytes, now_s=now_s))

    def _look_at_clock(self, now_s: float) -> None:
        """When it was set back, nothing of the time after now may stand: it would count as the newest for as long. What was
        forgotten as too old is learned anew from the histories."""
        if now_s < self._now_s - STEP_S:
            for known in self._known.values():
                known.history.rewind(int(now_s))
                known.last_s, known.promised_s = min(known.last_s, now_s), min(known.promised_s, int(now_s))
                known.is_changed, known.is_tried, known.has_stood = True, False, False
            self._forget_outcomes()
            self._promises = deque(promise for promise in self._promises if promise.made_s <= now_s)
            self._hours = {hour for hour in self._hours if hour <= now_s // HOUR_S}
            self.standings.rewind(now_s)
            self.crowding.rewind(now_s)
        self._now_s = now_s

    def _of(self, workload: str) -> _Known | None:
        known = self._known.get(workload)
        if known is None:
            if len(self._known) >= self.max_workloads:
                self.num_turned_away += 1
                return None
            is_back = self._forgotten.pop(workload, None) is not None
            known = self._known[workload] = _Known(
                UsageHistory(workload, days=HISTORY_DAYS), is_back=is_back, here_s=self._unmeasured.pop(workload, inf)
            )
        return known

    def _taken(self, known: _Known, time_s: int, is_taken: bool) -> bool:
        if not is_taken:
            self.num_refused += 1
            return False
        known.is_changed = True
        known.last_s = max(known.last_s, time_s)
        self._hours.add(time_s // HOUR_S)
        return True

    def _is_new(self, known: _Known, history: PastUsage) -> bool:
        """Whether a workload began when its history does: it would have been measured in the day before, as others were.

        What runs once a day would; after a gap in measuring nobody knows who came in it. Who was here for an hour before,
        on a node that was not measured or without a place among the histories, is older.
        """
        first = history.first_s // HOUR_S
        if known.is_back or history.first_s > known.here_s + HOUR_S:
            return False
        return self._hours.issuperset(range(first - DAY_S // HOUR_S, first))

    def seen(self, workload: str, time_s: float) -> None:
        """The workload was measured just now, whatever the sample: its forecast is as fresh as that."""
        known = self._known.get(workload)
        if known is not None:
            known.last_s = max(known.last_s, time_s)

    def keep(self, workloads: Iterable[str]) -> None:
        """Forget workloads that are neither here nor measured within a day; the rest stay.

        When all places are taken, who comes later is left out until one is free.
        """
        kept = set(workloads)
        self._unmeasured = {n: self._unmeasured.get(n, inf) for n in kept if n not in self._known}
        newest = max((k.last_s for k in self._known.values()), default=0.0)
        for name in [n for n, k in self._known.items() if n not in kept and newest - k.last_s > DAY_S]:
            self._forgotten[name] = self._known.pop(name).last_s
            if self.siblings is not None:
                self.siblings.forget(name)
        while self._forgotten and (
            len(self._forgotten) > self.max_workloads
            or newest - next(iter(self._forgotten.values())) > HISTORY_DAYS * DAY_S
        ):
            del self._forgotten[next(iter(self._forgotten))]
        oldest = newest // HOUR_S - (HISTORY_DAYS + 1) * 24
        self._hours = {hour for hour in self._hours if hour >= oldest}
        is_full = len(self._known) >= self.max_workloads
        self.num_left_out = len(kept - self._known.keys()) if is_full else 0
        self.standings.keep(self._known)

    def pasts(self, now_s: float, days: int) -> tuple[list[str], SingleArray]:
        """Workloads with samples enough, and ``(W, 2, days * DAY)`` their CPU and memory up to now, NaN for gaps."""
        end = int(now_s) // STEP_S
        names, tables = [], []
        for name, known in self._known.items():
            table = np.stack([known.history.latest(resource, end, days * DAY) for resource in LEARNED])
            if (table[0] >= 0).sum() >= LEAST:
                names.append(name)
                tables.append(table)
        found = np.array(tables, np.float32).reshape(len(names), len(LEARNED), days * DAY)
        found[found < 0] = np.nan
        return names, found

    # ── forecasts ─────────────────────────────────────────────────────────────────────────────

    def questions(self, requested: Mapping[str, Requests], facts: Mapping[str, Facts] | None = None) -> list[Question]:
        """Workloads to be asked about: their history changed, or what they ask for.

        Ask, :meth:`take` and call again until there are none: where rungs read kin, a workload that is new is first asked
        only how it stood on the past, so that all can be told of all when they are tried on it.

        Parameters
        ----------
        facts : beside the workloads' names, which tell namespace and owner.
        """
        found = []
        for workload, asks in requested.items():
            known = self._known.get(workload)
            if known is None:
                continue
            is_stale = known.answers is None or known.answers.requested != asks
            history = known.history.snapshot() if known.is_changed or is_stale else None
            if history is not None:
                known.is_changed = False
                if self.siblings is not None:
                    known.used = {r: int(samples.max(initial=0)) for r, samples in history.samples.items()}
                stands = self.rungs.reads_kin and not known.has_stood
                judges = not known.is_tried and not stands
                is_new = self._is_new(known, history)
                looks = self.siblings is not None
                question = Question(workload, dict(asks), history, judges, stands=stands, is_new=is_new, looks=looks)
                found.append(question)
        return self._told(found, facts or {}) if self.rungs.reads_kin else found

    def _told(self, questions: list[Question], facts: Mapping[str, Facts]) -> list[Question]:
        """Questions with what kin tell of the workload, by the time of its newest sample."""
        standings = self.standings
        standings.meet({q.workload: facts.get(q.workload) or Facts.of_workload(q.workload) for q in questions})
        at: dict[int, SingleArray] = {}
        found = []
        for question in questions:
            if not question.stands:
                hours = (0, *self.rungs.moments_h) if question.judges else (0,)
                times = [question.history.end_s - h * HOUR_S for h in hours]
                at |= {time_s: standings.features(time_s) for time_s in times if time_s not in at}
                row = standings.row(question.workload)
                question = replace(question, kin=np.stack([at[time_s][row] for time_s in times]))
            found.append(question)
        return found

    def ask_again(self, workloads: Iterable[str]) -> None:
        """Questions that got no answer are asked next time."""
        for workload in workloads:
            known = self._known.get(workload)
            if known is not None:
                known.is_changed = True

    def take(self, answers: Iterable[Answers]) -> None:
        """Keep answers; each is also a promise, at most one an hour and workload."""
        factors = {key: f for key in self._outcomes for f in (self.factor(*key),) if f is not None}
        for answer in answers:
            known = self._known.get(answer.workload)
            if known is None:
                continue
            for time_s, values in answer.stood:
                self.standings.add(answer.workload, time_s, values)
            if self.rungs.reads_kin and not known.has_stood:
                known.has_stood = known.is_changed = True
                continue
            known.answers, known.is_tried = self._with_siblings(known, answer), True
            for tried in answer.tried:
                self._learn(tried, answer.workload)
            if self.siblings is not None:
                for pair in answer.pairs:
                    if pair.is_young:
                        self._recalled.append((answer.workload, answer.requested, pair))
                    else:
                        self._teach(answer.workload, answer.requested, pair)
            said = known.answers.of
            is_told = any(p.uppers for p in said.values()) or is_seen(answer.cells)
            if is_told and answer.end_s >= known.promised_s + HOUR_S:
                known.promised_s = answer.end_s
                promise = _Promise(answer.workload, answer.end_s, said, factors, answer.requested, answer.cells)
                self._promises.append(promise)

    def _with_siblings(self, known: _Known, answer: Answers) -> Answers:
        """The same; of a newcomer also what its siblings say."""
        if self.siblings is None or not answer.is_new or _has_history(answer):
            return answer
        of = {}
        for resource, said in answer.of.items():
            asked, used = answer.requested.get(resource, 0), known.used.get(resource, 0)
            upper = self.siblings.predict(answer.workload, resource, answer.cells[resource], asked, used)
            of[resource] = said if upper is None else replace(said, uppers={**said.uppers, SIBLINGS: upper})
        return replace(answer, of=of)

    def _learn(self, outcome: Ratio, workload: str) -> None:
        key = outcome.rung, outcome.resource
        self._outcomes.setdefault(key, _Outcomes()).add(outcome.made_s, outcome.ratio)
        if outcome.rung in OF_NEWCOMERS:
            newcomers = self._newcomers.setdefault(key, {})
            newcomers[workload] = max(outcome.made_s, newcomers.get(workload, 0))

    def renewed(self, knowledge: Knowledge, now_s: float) -> Knowledge | None:
        """The next version of knowledge, None if no forecast changed."""
        new = self.forecasts(now_s, knowledge.forecasts)
        if knowledge.forecasts == new or (not new.of and knowledge.forecasts is None):
            return None
        return knowledge.but(forecasts=new)

    def forecasts(self, now_s: float, old: Forecasts | None = None) -> Forecasts:
        """Every workload's forecast now. What hardly changed stays as it was in ``old``."""
        found: dict[str, Forecast] = {}
        before: Mapping[str, Forecast] = old.of if old is not None else {}
        for workload, known in self._known.items():
            if known.answers is None:
                continue
            new = self._forecast(known, known.answers, now_s)
            kept = before.get(workload)
            found[workload] = new if kept is None else _kept(kept, new, known.answers.requested)
        return Forecasts(found, self.target.name)

    def _forecast(self, known: _Known, answers: Answers, now_s: float) -> Forecast:
        age_s = max(0.0, now_s - known.last_s)
        asked = answers.requested
        of = answers.of
        rung = self._rung_of(of) if age_s < self.stale_s else REQUEST
        old = min(1.0, max(0.0, (age_s - self.fresh_s) / (self.stale_s - self.fresh_s)))
        uppers, means, parts = [], [], []
        for resource in LEARNED:
            wants = asked.get(resource, 0)
            said, factor = of.get(resource), self.factor(rung, resource)
            if said is None or factor is None or rung not in said.uppers:
                uppers.append(wants)
                means.append(wants)
                parts.append([wants] * len(next((p.parts for p in of.values()), ())))
                continue
            upper = said.uppers[rung]
            # With parts of the day the upper quantile is what is guaranteed, and the parts are the peaks.
            guaranteed = _aged(_limited(said.ordinary if said.parts else upper, factor, wants), wants, old)
            uppers.append(guaranteed)
            means.append(min(round(said.mean), guaranteed))
            parts.append([_aged(_limited(upper if isnan(p) else p, factor, wants), wants, old) for p in said.parts])
        windows = tuple((c, m) for c, m in zip(*parts, strict=True)) if rung != REQUEST else ()
        (cpu, memory), (mean_cpu, mean_memory) = uppers, means
        coarse_s = int(age_s) // STEP_S * STEP_S
        return Forecast(cpu, memory, mean_cpu, mean_memory, rung, coarse_s, windows)

    def oldest_s(self, now_s: float) -> float:
        """Age of the oldest usage behind a forecast that does not stand on the request; 0 without any."""
        ages = [now_s - k.last_s for k in self._known.values() if k.answers is not None]
        return max((age for age in ages if age < self.stale_s), default=0.0)

    # ── rungs ─────────────────────────────────────────────────────────────────────────────────

    def factor(self, rung: str, resource: str) -> float | None:
        """By which a rung's answers are multiplied; None while it has no outcomes to promise with.

        A rule on the largest samples is never lowered: below the peaks of the past it would promise that they do not
        come back. Nor is what is said of newcomers.
        """
        outcomes = self._outcomes.get((rung, resource))
        found = None if outcomes is None else outcomes.quantile
        if rung in OF_NEWCOMERS:
            enough = found is not None and self.num_newcomers(rung, resource) >= LEAST_OUTCOMES
            return max(found, 1.0) if found is not None and enough else None
        if found is None:
            return self.first_factor if self.first_factor and rung != REQUEST else None
        return max(found, 1.0) if rung == HISTORY else found

    def _level(self, rung: str, resource: str) -> float:
        """Of outcomes that shall stay below what is said.

        A newcomer is one draw from the workloads, not from their hours: of so few workloads the share is not known better
        than to a standard error. It is added for siblings, which fell short without; the model's answers did not.
        """
        num = self.num_newcomers(rung, resource) if rung == SIBLINGS else 0
        return min(EACH + sqrt(EACH * (1 - EACH) / num), 1.0) if num else EACH

    def num_newcomers(self, rung: str, resource: str) -> int:
        """Of how many the outcomes of their first day are remembered."""
        return len(self._newcomers.get((rung, resource), ()))

    def trusted(self, rung: str) -> bool:
        """Whether a rung's coverage is in its band, for every resource, and nodes are not crowded."""
        return not self.crowding.is_crowded and all(self.monitor.trusted(f"{rung}/{r}") for r in LEARNED)

    @property
    def rung(self) -> str:
        """The best rung that may answer now."""
        usable = (n for n, _ in self.rungs.predictors if self.trusted(n) and any(self.factor(n, r) for r in LEARNED))
        return next(usable, REQUEST)

    def _rung_of(self, of: Mapping[str, Prediction]) -> str:
        # Newcomers are told by the model, siblings are known by their histories.
        names = [name for name, _ in self.rungs.predictors]
        names += [YOUNG] * self.trusted(MODEL) + [SIBLINGS] * self.trusted(HISTORY)
        for name in names:
            if self.trusted(name) and any(
                name in p.uppers and self.factor(name, resource) is not None for resource, p in of.items()
            ):
                return name
        return REQUEST

    def coverage(self, rung: str, resource: str) -> float:
        """Share of the remembered outcomes that were covered; 1 before the first."""
        return self.monitor.coverage(f"{rung}/{resource}")

    # ── outcomes ──────────────────────────────────────────────────────────────────────────────

    def settle(self, now_s: float) -> int:
        """Hold promises whose window has passed against what was measured, and fit; how many were judged."""
        self._look_at_clock(now_s)
        for _ in self.recall():
            pass
        judged = 0
        while self._promises and self._promises[0].made_s + self.target.horizon_h * HOUR_S <= now_s - STEP_S:
            judged += self._judge(self._promises.popleft())
        oldest_s = now_s - OUTCOME_DAYS * DAY_S
        for key, newcomers in self._newcomers.items():
            self._newcomers[key] = {name: at for name, at in newcomers.items() if at >= oldest_s}
        for key, outcomes in self._outcomes.items():
            outcomes.settle(now_s, self._level(*key))
        self.crowding.settle()
        self._unmeasured = {name: min(since_s, now_s) for name, since_s in self._unmeasured.items()}
        return judged

    def recall(self) -> Iterator[None]:
        """Hold first days that were read back against what others who looked alike came to need.

        Each hour of them knows what came of other newcomers by then: what surprised at that time is a surprise again.
        :meth:`settle` does it, at once; where others wait, go through this before, and let them run whenever it yields.
        """
        recalled, self._recalled = self._recalled, []
        if not recalled:
            return
        recalled.sort(key=lambda one: one[2].made_s)
        window_s = self.target.horizon_h * HOUR_S
        looks = ((pair.made_s, True, at) for at, (_, _, pair) in enumerate(recalled))
        ends = ((pair.made_s + window_s, False, at) for at, (_, _, pair) in enumerate(recalled))
        for number, (_, is_look, at) in enumerate(merge(looks, ends), 1):
            (self._remember if is_look else self._teach)(*recalled[at])
            if number % RECALLED_AT_ONCE == 0:
                yield
        # Who was asked before all pairs were read back was told by the few that were there.
        for number, known in enumerate(list(self._known.values()), 1):
            known.answers = known.answers and self._with_siblings(known, known.answers)
            if number % RECALLED_AT_ONCE == 0:
                yield

    def _remember(self, workload: str, requested: Requests, pair: Pair) -> None:
        """What siblings would have said of a look, beside what came of it."""
        if self.siblings is None:
            return
        for resource, truth in pair.outcome.items():
            asked, used = requested.get(resource, 0), pair.used[resource]
            said = self.siblings.predict(workload, resource, pair.cells[resource], asked, used)
            if said is not None and not isnan(truth):
                self._learn(Ratio(SIBLINGS, resource, pair.made_s, truth / said), workload)

    def _teach(self, workload: str, requested: Requests, pair: Pair) -> None:
        if self.siblings is not None:
            self.siblings.learn(workload, pair.made_s, pair.cells, pair.outcome, requested)

    def _judge(self, promise: _Promise) -> int:
        known = self._known.get(promise.workload)
        if known is None:
            return 0
        length = self.target.horizon_h * HOUR_S // STEP_S
        outcome: dict[str, float] = {}
        for resource, said in promise.of.items():
            seen = known.history.window(resource, promise.made_s, length)
            if len(seen) < MIN_RECORDED * length:
                continue
            truth = float(seen.max() if self.target.statistic == PEAK else np.percentile(seen, 95))
            wants = promise.requested.get(resource, 0)
            outcome[resource] = truth
            for rung, upper in said.uppers.items():
                self._learn(Ratio(rung, resource, promise.made_s, truth / max(upper, 1.0)), promise.workload)
                factor = promise.factors.get((rung, resource))
                if factor is None:
                    continue
                promised = _limited(upper, factor, wants)
                self.monitor.observe(f"{rung}/{resource}", truth * (1 - 3 * EXACT) <= promised)
                loss = max(LEVEL * (truth - promised), (LEVEL - 1) * (truth - promised))
                self.scores.setdefault((rung, resource), _Score()).outcomes.append((loss, truth))
        if self.siblings is not None:
            self.siblings.learn(promise.workload, promise.made_s, promise.cells, outcome, promise.requested)
        return len(outcome)


def _has_history(answers: Answers) -> bool:
    """Whether a resource was measured for long enough."""
    return any(HISTORY in said.uppers for said in answers.of.values())


def _limited(upper: float, factor: float, asked: int) -> int:
    """An answer times its factor, at most the request; who was seen above his request is not held to it."""
    found = upper * factor * (1 - EXACT)
    return ceil(min(found, asked) if upper <= asked else found)


def _aged(upper: int, asked: int, old: float) -> int:
    return upper + ceil(max(asked - upper, 0) * old)


def _is_like(old: Forecast, new: Forecast, requested: Requests) -> bool:
    """Whether a new forecast says the same, but for less than :data:`ROUND` of the request."""
    if old.rung != new.rung or len(old.windows) != len(new.windows) or abs(new.age_s - old.age_s) > HOUR_S:
        return False
    pairs = zip(((old.cpu, old.memory), *old.windows), ((new.cpu, new.memory), *new.windows), strict=True)
    slack = [ROUND * requested.get(resource, 0) for resource in (CPU, MEMORY)]
    return all(abs(a - b) <= s for one, other in pairs for a, b, s in zip(one, other, slack, strict=True))


def _kept(old: Forecast, new: Forecast, requested: Requests) -> Forecast:
    """``old`` where ``new`` says the same, with what is new of means that moved by themselves; else ``new``."""
    if not _is_like(old, new, requested):
        return new
    moved = abs(new.mean_cpu - old.mean_cpu), abs(new.mean_memory - old.mean_memory)
    if all(by <= ROUND * requested.get(resource, 0) for by, resource in zip(moved, (CPU, MEMORY), strict=True)):
        return old
    return replace(old, mean_cpu=min(new.mean_cpu, old.cpu), mean_memory=min(new.mean_memory, old.memory))


def rungs_below(rung: str) -> int:
    """0 for a model, 1 for history, 2 for newcomers by the model, 3 for siblings, 4 for the request: how far it has fallen."""
    return (MODEL, HISTORY, YOUNG, SIBLINGS, REQUEST).index(rung)
