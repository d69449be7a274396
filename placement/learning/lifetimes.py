"""Lifetimes of a cluster: what is known of each workload's pods, which rung says it, and whether the model may.

The same object learns in ``ullage serve`` and in a replay: pods that come and go in, questions out, answers in, knowledge
out; time is an argument. Rungs, best first:

- ``model``: boosted hazards and classes (:mod:`placement.learning.lifetime_model`), once they have done no worse than the history
  on outcomes of this cluster, and until they do (:class:`LossMonitor`; new workloads apart from known ones);
- ``history``: hazards of the workload, leaning on its size and on everyone (:mod:`placement.learning.survival`);
- ``population``: the same for a workload of which no pod has told anything: first pods of other workloads that nobody
  knew (of its size and gang, of its size, of any), its size and everyone;
- ``none``: nothing has ended or lived through anything yet.

A promise is what stood when a pod entered a part of life; what comes of it in that part judges both rungs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from placement import log
from placement.knowledge import Knowledge, Lifespan, Lifetimes, size_of
from placement.learning.drift import LossMonitor
from placement.learning.horizons import MOST_WORKLOADS
from placement.learning.lifetime_history import NUM_HAZARDS, Kin, LifeHistory, Running
from placement.learning.lifetime_model import LEAST_HAZARD, LifetimeModel, ask
from placement.learning.prediction import HISTORY, MODEL
from placement.learning.survival import lifespans
from placement.learning.usage import SingleArray
from placement.log import Event
from placement.pods import PodSpec

POPULATION = "population"
NONE = "none"
RUNGS = (MODEL, HISTORY, POPULATION, NONE)
"""Best first."""

DAY_S = 86_400
FRESH_S = 3600
"""Workloads are asked about when one of their pods came, went or passed a part of life, and at least so often."""
TOLD_S = 2 * DAY_S
"""So long after its last sign of life a workload's lifespans stay in knowledge, for the next run of a daily job."""
KEPT_S = 14 * DAY_S
"""So long they are remembered."""
JUMP_S = 6 * 3600
"""Longer between two rounds than this, and than three times the usual, is a clock that jumped or a machine that slept."""

Hazards = tuple[float, ...]


@dataclass(frozen=True)
class LifeQuestion:
    """Kin whose outlook may have changed."""

    kin: Kin
    rule: list[float]
    """What the history says: hazards of all parts of life."""
    features: SingleArray | None = None
    """For the model, where there is one."""


@dataclass(frozen=True)
class LifeAnswer:
    """Hazards by rung; without a model there is one."""

    kin: Kin
    rule: Hazards
    model: Hazards | None = None


def answer(model: LifetimeModel | None, questions: Sequence[LifeQuestion]) -> list[LifeAnswer]:
    """Ask the model; may run anywhere. An answer does not depend on which other questions are asked with it."""
    if model is None:
        return [LifeAnswer(q.kin, tuple(q.rule)) for q in questions]
    rows = [q.features for q in questions if q.features is not None]
    said = ask(model, rows, [q.rule for q in questions])
    return [LifeAnswer(q.kin, tuple(q.rule), tuple(mine)) for q, mine in zip(questions, said, strict=True)]


@dataclass
class _Known:
    """Kin that are followed."""

    kin: Kin
    """As of the last sign of life: priority and size of the gang may change."""
    last_s: int
    num_running: int = 0
    is_changed: bool = True
    asked_s: int = -1
    answer: LifeAnswer | None = None
    is_new: bool = True
    """When it was last asked about, no pod of the workload had told anything."""
    rung: str = ""
    lifespan: Lifespan | None = None


@dataclass
class _Trial:
    """Losses of both rungs on outcomes of one kin, part and round: pods of one batch are alike, and count once."""

    num: int = 0
    mine: float = 0.0
    rule: float = 0.0


@dataclass
class _Counts:
    """What did not go as it should."""

    falls: Counter[str] = field(default_factory=Counter)
    """By rung fallen to."""
    jumps: int = 0
    turned_away: int = 0
    """Pods of workloads beyond the limit: told by their size."""


class LifetimeForecaster:
    """See the module. ``begins_s`` is the Unix time of second 0 of the clock."""

    def __init__(
        self,
        model: LifetimeModel | None = None,
        *,
        max_workloads: int = MOST_WORKLOADS,
        every_s: float = 300,
        begins_s: int = 0,
    ) -> None:
        self.max_workloads = max_workloads
        self.every_s = every_s
        self.model = model
        self.history = LifeHistory(with_features=model is not None, on_outcome=self._judge, begins_s=begins_s)
        self.monitors = {True: LossMonitor(), False: LossMonitor()}
        """Of the model, by whether the workload was new."""
        self.counts = _Counts()
        self._known: dict[Kin, _Known] = {}
        self._sizes: dict[str, dict[tuple[int, int, int], int]] = {}
        """Workload → sizes of its pods, and when each was last seen."""
        self._promised: dict[str, tuple[LifeAnswer, bool]] = {}
        """By UID: what stood when the pod entered its part of life, and whether it was new."""
        self._trials: dict[tuple[Kin, int, bool], _Trial] = {}
        self._assumed: dict[str, PodSpec] = {}
        self._last_s: int | None = None
        self._told: Lifetimes | None = None
        """The latest."""
        self._unsure: set[str] = set()
        """Pods that may have ended at any time of a gap."""

    def use(self, model: LifetimeModel | None) -> None:
        """Another model from now on. It has to earn trust anew, unless it is the one before, fitted again: that goes on with
        what the one before has earned, and with its outcomes. Features are kept from the first model on.
        """
        is_refit = model is not None and self.model is not None and model.is_refit_of(self.model)
        self.model = model
        if not is_refit:
            self.monitors = {True: LossMonitor(), False: LossMonitor()}
            self._promised.clear()
            self._trials.clear()
        if model is not None:
            self.history.follow_features()
        for known in self._known.values():
            known.is_changed = True
            if known.answer is not None:
                known.answer = LifeAnswer(known.answer.kin, known.answer.rule)

    def __len__(self) -> int:
        return len(self._sizes)

    # ── pods ──────────────────────────────────────────────────────────────────────────────────

    def begin_round(self, now_s: int) -> None:
        """Before the news of a round: a gap in time in which nobody looked is taken out of all ages."""
        last, self._last_s = self._last_s, max(now_s, self._last_s or 0)
        if last is None or now_s - last <= max(JUMP_S, 3 * self.every_s):
            return
        self.counts.jumps += 1
        self._promised.clear()
        self._unsure = set(self.history.running)
        self.history.skip(now_s)

    def hear(self, event: Event) -> None:
        """An event of the ledger's log, in order: pods run from when they are bound until they are released, also while
        their node is gone and they may come back with it.

        Those that were there before the log began run since nobody knows when.
        """
        if event.kind == log.POD_ASSUMED:
            self._assumed[event.subject] = event.detail
        elif event.kind == log.POD_FOUND and event.subject in self.history.running:
            return  # it comes back with its node, and lived on
        elif event.kind in (log.POD_BOUND, log.POD_FOUND):
            spec = self._assumed.pop(event.subject, event.detail)
            if spec is not None:
                self.began(event.subject, spec, event.time_s, was_there=event.kind == log.POD_FOUND)
        elif event.kind == log.POD_FORGOTTEN:
            self._assumed.pop(event.subject, None)
        elif event.kind in (log.POD_RELEASED, log.POD_ENDED):
            self._assumed.pop(event.subject, None)
            self.ended(event.subject, event.time_s)

    def began(self, uid: str, spec: PodSpec, since_s: int, *, was_there: bool = False) -> None:
        """A pod runs since then, or, where it ``was_there``, for longer."""
        kin = Kin.of(spec)
        if kin.workload and kin.workload not in self._sizes and len(self._sizes) >= self.max_workloads:
            self.counts.turned_away += 1
            kin = Kin("", kin.size, kin.priority)
        self.history.pass_by(since_s)
        before = self.history.running.get(uid)
        if before is not None:
            self._sign(before.kin, since_s, -1)
            self._promised.pop(uid, None)
        self.history.began(uid, kin, since_s, was_there=was_there)
        self._sign(kin, since_s, 1)
        if kin.workload:
            self._sizes.setdefault(kin.workload, {})[kin.size] = since_s
        if not was_there:
            self._promise(uid, kin)

    def ended(self, uid: str, time_s: int) -> None:
        """A pod is gone; one that was never seen is ignored."""
        pod = self.history.running.get(uid)
        if pod is None:
            return
        if uid in self._unsure:
            self.history.drop(uid)
        else:
            self.history.ended(uid, time_s)
        self._sign(pod.kin, time_s, -1)
        self._promised.pop(uid, None)

    def _sign(self, kin: Kin, time_s: int, more: int = 0) -> None:
        """Kin and all of their size showed a sign of life; so many more of them run."""
        for one in _told_by(kin):
            known = self._known.get(one)
            if known is None:
                known = self._known[one] = _Known(one, time_s)
            known.kin, known.last_s, known.is_changed = one, max(known.last_s, time_s), True
            known.num_running += more

    def _promise(self, uid: str, kin: Kin) -> None:
        for one in _told_by(kin):
            known = self._known.get(one)
            if known is not None and known.answer is not None:
                if known.answer.model is not None:
                    self._promised[uid] = known.answer, known.is_new
                return

    def _judge(self, uid: str, pod: Running, ended: bool) -> None:
        """An outcome, before it is learned from. Nothing is promised to pods that were there: how old they are is not known."""
        promised, part = self._promised.pop(uid, None), pod.part
        if promised is not None:
            said, is_new = promised
            assert said.model is not None, "only what a model said is a promise"
            trial = self._trials.setdefault((pod.kin, part, is_new), _Trial())
            trial.num += 1
            trial.mine += loss(said.model[part], ended)
            trial.rule += loss(said.rule[part], ended)
        if ended:
            return
        self._sign(pod.kin, self.history.now_s)
        if not pod.was_there and part + 1 < NUM_HAZARDS:  # in the last part all end
            self._promise(uid, pod.kin)

    # ── lifetimes ─────────────────────────────────────────────────────────────────────────────

    def changed(self, now_s: int) -> list[Kin]:
        """Who is to be asked about; ends what the news of a round began."""
        self._unsure.clear()
        self.history.pass_by(now_s)
        self._forget(now_s)
        found = []
        for kin, known in self._known.items():
            if known.last_s < now_s - TOLD_S and not known.num_running:
                continue
            if known.is_changed or known.answer is None or now_s - known.asked_s >= FRESH_S:
                found.append(kin)
        return found

    def questions(self, kin: Iterable[Kin], now_s: int) -> list[LifeQuestion]:
        """What the history says of them, and what the model reads: with a model a tenth of a millisecond each."""
        found = []
        for one in kin:
            known, history = self._known[one], self.history
            known.is_changed, known.asked_s = False, now_s
            known.is_new = not history.knows(one)
            features = None if self.model is None else history.features(known.kin, now_s)
            found.append(LifeQuestion(one, history.hazards(known.kin, now_s), features))
        return found

    def take(self, answers: Iterable[LifeAnswer]) -> None:
        """Keep answers; whoever enters a part of life from now on is promised them."""
        for said in answers:
            known = self._known.get(said.kin)
            if known is not None:
                known.answer, known.lifespan = said, None

    def learn(self, now_s: int) -> None:
        """Ask at once about all that changed, and settle: a whole round but for the news."""
        self.take(answer(self.model, self.questions(self.changed(now_s), now_s)))
        self.settle()

    def settle(self) -> None:
        """Hold what was promised against what came of it."""
        for (_, _, is_new), trial in self._trials.items():
            monitor = self.monitors[is_new]
            falls = monitor.falls
            monitor.observe(trial.mine / trial.num, trial.rule / trial.num)
            if monitor.falls > falls:
                self.counts.falls[POPULATION if is_new else HISTORY] += 1
        self._trials.clear()

    def renewed(self, knowledge: Knowledge, now_s: int) -> Knowledge:
        """The next version of knowledge: ages are as seen from now, so there is always one."""
        return knowledge.but(lifetimes=self.lifetimes(now_s))

    def stale(self) -> list[Kin]:
        """Whose lifespans are to be spelt out anew: another answer, or another rung."""
        return [
            k
            for k, known in self._known.items()
            if known.answer and (not known.lifespan or known.rung != self._rung(known))
        ]

    def spell_out(self, stale: Sequence[Kin]) -> None:
        """Make lifespans of answers, by the rung that counts now: some twenty microseconds each."""
        rows = []
        for kin in stale:
            known = self._known[kin]
            assert known.answer is not None, "only what was answered is spelt out"
            known.rung = self._rung(known)
            model = known.answer.model if known.rung == MODEL else None
            rows.append(known.answer.rule if model is None else model)
        if rows:
            found = lifespans(np.array(rows), [self._known[kin].rung for kin in stale])
            for kin, lifespan in zip(stale, found, strict=True):
                lifespan.warm()
                self._known[kin].lifespan = lifespan

    def lifetimes(self, now_s: int) -> Lifetimes:
        """Every workload's lifespans now."""
        self.spell_out(self.stale())
        latest = {workload: max(sizes, key=lambda one: (sizes[one], one)) for workload, sizes in self._sizes.items()}
        of = {
            name: known.lifespan
            for kin, known in self._known.items()
            if known.lifespan is not None and (known.num_running or known.last_s >= now_s - TOLD_S)
            for name in self._names(kin, latest)
        }
        everyone = np.array([self.history.hazards(None, now_s)])
        (population,) = lifespans(everyone, [NONE if self.history.is_blank else POPULATION])
        told = Lifetimes(of, population, now_s)
        told.changes(self._told)
        self._told = told
        return told

    @property
    def source(self) -> str:
        """Model and rule behind the answers, for reports."""
        return "hazards" if self.model is None else f"hazards, {self.model.source}"

    def _rung(self, known: _Known) -> str:
        if known.answer is not None and known.answer.model is not None and self.monitors[known.is_new].trusted:
            return MODEL
        if not known.is_new:
            return HISTORY
        return NONE if self.history.is_blank else POPULATION

    def _names(self, kin: Kin, latest: Mapping[str, tuple[int, int, int]]) -> list[str]:
        """Under which kin are told: a workload's latest size stands for it, and others are told apart."""
        size = size_of(kin.size)
        if not kin.workload:
            return [size]
        if len(self._sizes[kin.workload]) == 1:
            return [kin.workload]
        return [f"{kin.workload} {size}", *[kin.workload] * (kin.size == latest[kin.workload])]

    def _forget(self, now_s: int) -> None:
        self._drop([k for k, known in self._known.items() if not known.num_running and known.last_s < now_s - KEPT_S])
        if len(self._sizes) >= self.max_workloads:
            self._drop(self._idle_longest(max(self.max_workloads // 10, 1)))

    def _idle_longest(self, most: int) -> list[Kin]:
        """Kin of the workloads that have had no pods for longest: jobs that ran once must not keep others out."""
        running: Counter[str] = Counter()
        last_s: dict[str, int] = {}
        for kin, known in self._known.items():
            running[kin.workload] += known.num_running
            last_s[kin.workload] = max(known.last_s, last_s.get(kin.workload, 0))
        idle = sorted((last_s[workload], workload) for workload in self._sizes if not running[workload])
        return [Kin(workload, size) for _, workload in idle[:most] for size in self._sizes[workload]]

    def _drop(self, old: Iterable[Kin]) -> None:
        for kin in old:
            del self._known[kin]
            self.history.forget_size(kin)
            sizes = self._sizes.get(kin.workload)
            if sizes is None:
                continue
            sizes.pop(kin.size, None)
            if not sizes:
                del self._sizes[kin.workload]
                self.history.forget(kin.workload)

    def by_rung(self) -> Counter[str]:
        """How many kin stand on each rung."""
        return Counter(known.rung for known in self._known.values() if known.lifespan is not None)


def _told_by(kin: Kin) -> tuple[Kin, ...]:
    """The kin, and all of their size."""
    return (kin, kin.alike) if kin.workload else (kin,)


def loss(hazard: float, ended: bool) -> float:
    """Logarithmic loss of a chance to end; what never happened may."""
    h = min(max(hazard, LEAST_HAZARD), 1 - LEAST_HAZARD)
    return -math.log(h if ended else 1 - h)
