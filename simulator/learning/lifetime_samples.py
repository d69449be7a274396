"""Moments of pods' lives, to fit lifetimes on and to judge them: what was known then, what rules said, what came of it.

A trace is told to :class:`placement.learning.lifetime_history.LifeHistory` in order of time, as a service would hear of it, and
pods are described when they arrive and when they have reached certain ages. Nothing that happens later enters.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from placement.errors import ConfigError
from placement.knowledge import AGES_S
from placement.learning.boosted import HazardRows
from placement.learning.lifetime_history import LEVELS, NUM_HAZARDS, Kin, LifeHistory, feature_names
from placement.learning.lifetime_model import log_odds, rows_of
from placement.learning.lineage import LIMITS_S, class_of
from placement.learning.survival import class_shares
from placement.learning.usage import SingleArray
from placement.pods import PodSpec
from placement.resources import BoolArray, FloatArray, IntArray
from simulator.learning.sibling_rules import RULES, SiblingBursts, answers
from simulator.output import Progress, untold
from simulator.traces.trace import NEVER, Trace

FIT_AGES_S = (0, 900, 3600, 14_400, 86_400)
"""Ages at which lives are described to be learned from."""
JUDGED_AGES_S = (0, 900, 3600)
HELD_OUT = 4
"""One owner in so many is never fitted on."""
HOUR_COLUMN = feature_names().index("hour")
LEAST_LIVED = 0.05
"""Of a part of life: who has lived through less of it when the recording stops is left out."""
HALF_LIFE_S = 7 * 86_400.0
"""What lies so far back counts half in what is learned."""


@dataclass(frozen=True)
class LifeSamples:
    """S moments of lives."""

    features: SingleArray = field(repr=False)
    """(S, F)."""
    rule: FloatArray = field(repr=False)
    """(S, NUM_HAZARDS) by the history rung."""
    age_s: IntArray = field(repr=False)
    """One of :data:`FIT_AGES_S`."""
    moment_s: FloatArray = field(repr=False)
    lifetime_s: FloatArray = field(repr=False)
    """Until the end, or until the recording stopped."""
    is_ended: BoolArray = field(repr=False)
    held_out: BoolArray = field(repr=False)
    """The owner is never fitted on; false for bare pods."""
    is_new: BoolArray = field(repr=False)
    """No pod of the owner had told anything by then."""
    rules: dict[str, FloatArray] = field(repr=False)
    """Name → (S, 4) shares of the classes, at arrival or as of the age."""

    def __len__(self) -> int:
        return len(self.moment_s)

    @property
    def arrival_s(self) -> FloatArray:
        """(S,)."""
        return self.moment_s - self.age_s

    @property
    def label(self) -> IntArray:
        """(S,) class of lifetime, −1 where the recording stopped too early to tell."""
        found = np.array([class_of(x) for x in self.lifetime_s], np.int64)
        return np.where(~self.is_ended & (self.lifetime_s <= LIMITS_S[-1]), -1, found)

    def pick(self, mask: BoolArray | IntArray) -> LifeSamples:
        """Some of them."""
        table = {k: v[mask] for k, v in vars(self).items() if k != "rules"}
        return LifeSamples(**table, rules={name: shares[mask] for name, shares in self.rules.items()})

    def without_held_out(self) -> LifeSamples:
        """The same where nobody else is left to fit on."""
        return replace(self, held_out=np.zeros(len(self), np.bool_))

    def without_hours(self) -> LifeSamples:
        """The same where the hour of the day is not known."""
        features = self.features.copy()
        features[:, HOUR_COLUMN] = np.nan
        return replace(self, features=features)

    def as_known_at(self, now_s: float) -> LifeSamples:
        """The same, who ended later still running."""
        age = now_s - self.arrival_s
        return replace(
            self, lifetime_s=np.minimum(self.lifetime_s, age), is_ended=self.is_ended & (self.lifetime_s <= age)
        )

    def parts_of_lives(self, until_s: float) -> HazardRows:
        """A row for each part of life that a pod lived through, wholly or partly, as known at ``until_s``.

        The part in which a pod was when nobody looked any more counts with the share of it that it had lived through.
        """
        age = np.minimum(self.lifetime_s, until_s - self.arrival_s)
        ended = self.is_ended & (self.lifetime_s <= until_s - self.arrival_s)
        index, parts, labels, weights = [], [], [], []
        for k in range(NUM_HAZARDS):
            low, high = AGES_S[k], AGES_S[k + 1]
            entered = (self.age_s <= low) & (age > low)
            lived = np.clip((age - low) / (high - low), 0, 1)
            died = ended & (age <= high)
            kept = entered & (died | (lived >= LEAST_LIVED))
            index.append(np.flatnonzero(kept))
            parts.append(np.full(int(kept.sum()), float(k)))
            labels.append(died[kept].astype(float))
            weights.append(np.where(died, 1.0, lived)[kept])
        chosen, part = np.concatenate(index), np.concatenate(parts)
        rule = self.rule[chosen, part.astype(np.int64)]
        recent = 0.5 ** ((until_s - self.moment_s[chosen]) / HALF_LIFE_S)
        return HazardRows(
            rows_of(self.features[chosen], part, rule),
            np.concatenate(labels),
            np.concatenate(weights) * recent,
            log_odds(rule),
        )


@dataclass(frozen=True)
class Draw:
    """Which lives are described: at most ``most`` moments per age that begin in ``[from_s, to_s)``, drawn by a seed."""

    from_s: float
    to_s: float
    most: int
    ages_s: Sequence[int] = FIT_AGES_S


def with_owners(trace: Trace) -> Trace:
    """The trace with owners. Where pods have none and come in batches, batches of equal make-up are of one owner.

    Raises
    ------
    ConfigError : no pods, or none that ends.
    """
    pods, name = trace.pods, trace.manifest.name
    if not len(pods):
        raise ConfigError(f"trace {name} has no pods; lifetimes cannot be learned from it")
    if not (pods.departure_s != NEVER).any():
        raise ConfigError(f"trace {name}: no pod ends, so nothing tells how long pods live; give a longer recording")
    if any(spec.owner for spec in trace.specs) or not (pods.gang >= 0).any():
        return trace
    numbers: dict[tuple[tuple[int, int], ...], int] = {}
    batches = {gang: of for gang, of in pods.make_ups().items() if gang >= 0}
    size = {gang: sum(number for _, number in of) for gang, of in batches.items()}
    owner = {gang: numbers.setdefault(of, len(numbers)) for gang, of in batches.items()}
    found: dict[tuple[int, int], int] = {}
    specs: list[PodSpec] = []
    classes = np.zeros(len(pods), np.int64)
    for i, (gang, spec) in enumerate(zip(pods.gang.tolist(), pods.spec.tolist(), strict=True)):
        key = (spec, owner.get(gang, -1))
        if key not in found:
            found[key] = len(specs)
            specs.append(
                replace(trace.specs[spec], owner=f"Batch/{key[1]}" if key[1] >= 0 else "", gang_size=size.get(gang, 0))
            )
        classes[i] = found[key]
    return trace.but(specs=tuple(specs), pods=replace(pods, spec=classes))


def span_of(trace: Trace) -> tuple[float, float]:
    """First arrival, and when the recording stopped."""
    pods = trace.pods
    last = max(int(pods.arrival_s.max()), int(pods.departure_s.max(initial=0)))
    return float(pods.arrival_s.min()), float(last)


def is_held_out(workload: str, seed: int) -> bool:
    """Whether an owner is kept apart; the same in training and whenever the model is judged."""
    return bool(workload) and zlib.crc32(f"{seed}/{workload}".encode()) % HELD_OUT == 0


@dataclass
class _Told:
    """Columns as they grow."""

    features: list[SingleArray] = field(default_factory=list)
    rule: list[list[float]] = field(default_factory=list)
    rows: list[tuple[int, float, int]] = field(default_factory=list)
    """(age, moment, pod)."""
    is_new: list[bool] = field(default_factory=list)
    rules: dict[str, list[tuple[float, ...]]] = field(default_factory=lambda: {name: [] for name in RULES})
    everyone: list[list[float]] = field(default_factory=list)


class _Teller:
    """Tells a trace to a history, and writes down what is known at the moments that were drawn."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.kin = [Kin.of(spec) for spec in trace.specs]
        self.history = LifeHistory(with_features=True, begins_s=trace.manifest.begins_s)
        self.bursts = SiblingBursts(len(LEVELS))
        self.told = _Told()
        self.ends: list[tuple[int, int]] = []
        self.moments: list[tuple[int, int, int]] = []

    def run(self, drawn: dict[int, list[int]], progress: Progress) -> None:
        """``drawn``: pod → ages at which it is described, if it lives so long."""
        pods = self.trace.pods
        arrival = pods.arrival_s.tolist()
        departure, spec = pods.departure_s.tolist(), pods.spec.tolist()
        last = max(drawn, default=-1)
        for first, after in _moments(arrival):
            now = arrival[first]
            self._go_on(now)
            self.history.pass_by(now)
            for i in range(first, after):
                for age in drawn.get(i, ()):
                    if age:
                        heapq.heappush(self.moments, (now + age, i, age))
                    else:
                        self._describe(i, 0, now)
            for i in range(first, after):
                was_there = first == 0  # who is there at first
                self.history.began(str(i), self.kin[spec[i]], now, was_there=was_there)
                if not was_there:
                    self.bursts.arrive(self.kin[spec[i]].values, now)
                if departure[i] != NEVER:
                    heapq.heappush(self.ends, (max(departure[i], now + 1), i))
            if first >= last and not self.moments:
                break
            if first % 512 == 0:
                progress(first, len(arrival))
        self._go_on(int(span_of(self.trace)[1]) + 1)

    def _go_on(self, now: int) -> None:
        """Ends and moments up to now, in order; who ends at a moment has ended."""
        while self.moments and self.moments[0][0] <= now:
            moment, pod, age = heapq.heappop(self.moments)
            self._end_until(moment)
            if str(pod) in self.history.running:
                self.history.pass_by(moment)
                self._describe(pod, age, moment)
        self._end_until(now)

    def _end_until(self, now: int) -> None:
        while self.ends and self.ends[0][0] <= now:
            end, pod = heapq.heappop(self.ends)
            here = self.history.running[str(pod)]
            if not here.was_there:
                self.bursts.end(here.kin.values, here.arrived_s, end)
            self.history.ended(str(pod), end)

    def _describe(self, pod: int, age: int, now: int) -> None:
        kin, told, history = self.kin[self.trace.pods.spec[pod]], self.told, self.history
        told.features.append(history.features(kin, now))
        told.rule.append(history.hazards(kin, now)[:NUM_HAZARDS])
        told.everyone.append(history.hazards(None, now)[:NUM_HAZARDS])
        told.rows.append((age, float(now), pod))
        told.is_new.append(not history.knows(kin))
        assert history.lineage is not None, "with features"
        for name, said in answers(history.lineage, self.bursts, kin.values, float(now), age).items():
            told.rules[name].append(said or ())


def _moments(arrival: list[int]) -> Iterator[tuple[int, int]]:
    """(first pod, one after the last) of each moment at which pods arrive."""
    first = 0
    for i in range(1, len(arrival) + 1):
        if i == len(arrival) or arrival[i] != arrival[first]:
            yield first, i
            first = i


def samples_of(trace: Trace, draws: Sequence[Draw], *, seed: int, progress: Progress = untold) -> LifeSamples:
    """Moments of lives in order of time, of a trace with owners.

    Raises
    ------
    ConfigError : none was drawn.
    """
    rng = np.random.default_rng([seed, 0x11FE])
    pods, first = trace.pods, int(trace.pods.arrival_s[0])
    drawn: dict[int, list[int]] = {}
    for draw in draws:
        for age in draw.ages_s:
            moment = pods.arrival_s + age
            lives = (pods.departure_s == NEVER) | (pods.departure_s > moment)
            lives &= pods.arrival_s > first  # who was there when the recording began is older than it seems
            chosen = np.flatnonzero((moment >= draw.from_s) & (moment < draw.to_s) & lives)
            if len(chosen) > draw.most:
                chosen = np.sort(rng.choice(chosen, draw.most, replace=False))
            for pod in chosen.tolist():
                drawn.setdefault(pod, []).append(age)
    return described(trace, drawn, seed=seed, progress=progress)


def described(trace: Trace, drawn: dict[int, list[int]], *, seed: int, progress: Progress = untold) -> LifeSamples:
    """Moments of lives in order of time: ``drawn`` names pods, and the ages at which they are described.

    Raises
    ------
    ConfigError : there are none.
    """
    if not drawn:
        raise ConfigError(f"trace {trace.manifest.name}: no pod arrives in the part that is judged; give a longer one")
    teller = _Teller(trace)
    teller.run(drawn, progress)
    return _table(trace, teller, seed)


def _table(trace: Trace, teller: _Teller, seed: int) -> LifeSamples:
    pods, told = trace.pods, teller.told
    age, moment, pod = (np.array(column) for column in zip(*told.rows, strict=True))
    ended = pods.departure_s[pod] != NEVER
    life = np.where(ended, pods.departure_s[pod], span_of(trace)[1]) - pods.arrival_s[pod]
    everyone = class_shares(np.array(told.everyone))
    rules = {
        name: np.array([shares or tuple(other) for shares, other in zip(said, everyone.tolist(), strict=True)])
        for name, said in told.rules.items()
    }
    rule = np.array(told.rule)
    held = np.array([is_held_out(kin.workload, seed) for kin in teller.kin])
    return LifeSamples(
        features=np.stack(told.features),
        rule=rule,
        age_s=age.astype(np.int64),
        moment_s=moment.astype(float),
        lifetime_s=np.maximum(life, 1).astype(float),
        is_ended=ended,
        held_out=held[pods.spec[pod]],
        is_new=np.array(told.is_new),
        rules={**rules, "population": everyone, "history": class_shares(rule)},
    )
