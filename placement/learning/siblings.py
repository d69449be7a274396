"""Cold start: what its siblings tell of a workload that has not yet a day of history of its own.

Pods of one workload share one history, whatever ReplicaSet or Job they came from (:func:`placement.knowledge.workload_of`),
so only a new *owner* is cold. Its siblings are the other workloads of its namespace whose owners are of the same kind.
What is said is a high share of the request that they used, and never less than what the workload itself used so far.

The factor comes from workloads that were left out: each one with a history is predicted from its siblings, too, and that
is held against what it then used. A new workload is one draw from the *workloads*, not from the hours of those that are
here, so each counts once, with its largest ratio of the last day (two-layer conformal prediction: Dunn, Wasserman and
Ramdas, JASA 2022, subsample one outcome per group; the largest of a day covers no less, at any time of it).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil

from placement.learning.prediction import HISTORY, LEARNED, Answers, Prediction, Requests

SIBLINGS = "siblings"
"""The rung: below ``history``, above ``request``."""
LEAST_SIBLINGS = 4
"""With fewer others nothing is said."""
HIGH = 0.95
"""Rank of the share among the siblings' that is said; with fewer than twenty it is their largest."""
LEAST_HOURS = 20
"""Different hours in which the day's promises were made: nights alone do not tell of mornings."""
DAY_H, HOUR_S = 24, 3600


def group_of(workload: str) -> str:
    """Whose siblings a workload (``namespace/Kind/name``) has.

    >>> group_of("shop/Deployment/web")
    'shop/Deployment'
    """
    return "/".join(workload.split("/", 2)[:2])


@dataclass
class _Group:
    """Shares of the request of the workloads of one group and resource."""

    uppers: list[float] = field(default_factory=list)
    """Sorted."""
    mean: float = 0.0
    deviation: float = 0.0
    """Sums."""


class _Outcomes:
    """The last day's largest ratio of each workload, for one resource; work is done once an hour."""

    def __init__(self) -> None:
        self.is_new = False
        self.hours: dict[int, dict[str, float]] = {}
        """Hour of the promise → workload → largest ratio."""
        self._worst: dict[str, float] = {}

    def add(self, workload: str, hour: int, ratio: float) -> None:
        """One outcome."""
        if hour not in self.hours:
            self.hours[hour] = {}
            self._forget()
        of = self.hours.get(hour)
        if of is None:
            return  # older than a day
        self.is_new = True
        of[workload] = max(ratio, of.get(workload, 0.0))
        self._worst[workload] = max(ratio, self._worst.get(workload, 0.0))

    def rewind(self, hour: int) -> None:
        """Forget what came after it."""
        self.hours = {h: of for h, of in self.hours.items() if h <= hour}
        self._forget()
        self.is_new = True

    def _forget(self) -> None:
        oldest = max(self.hours, default=0) - DAY_H
        self.hours = {hour: of for hour, of in self.hours.items() if hour > oldest}
        self._worst = {}
        for of in self.hours.values():
            for workload, ratio in of.items():
                self._worst[workload] = max(ratio, self._worst.get(workload, 0.0))

    def worst(self) -> list[float]:
        """Of each workload, sorted."""
        self.is_new = False
        return sorted(self._worst.values())


_Share = tuple[float, float, float]


class Siblings:
    """See the module. One per :class:`placement.learning.forecasting.Forecaster`.

    ``level`` is the share of new workloads whose use shall stay below what is said, for each resource; with fewer
    workloads than a factor for it takes, there is none.
    """

    def __init__(self, level: float) -> None:
        self.level = level
        self._shares: dict[tuple[str, str], _Share] = {}
        self._groups: dict[tuple[str, str], _Group] = {}
        self._outcomes = {resource: _Outcomes() for resource in LEARNED}
        self._factors: dict[str, float | None] = dict.fromkeys(LEARNED)

    # ── what is said ──────────────────────────────────────────────────────────────────────────

    def renew(self, answers: Iterable[Answers]) -> None:
        """Take what the history rung says of every workload, as shares of what it asks for."""
        self._shares, self._groups = {}, {}
        for answer in answers:
            for resource, said in answer.of.items():
                asked, upper = answer.requested.get(resource, 0), said.uppers.get(HISTORY)
                if asked <= 0 or upper is None:
                    continue
                found = min(upper / asked, 1.0), min(said.mean / asked, 1.0), min(said.deviation / asked, 1.0)
                self._shares[answer.workload, resource] = found
                group = self._groups.setdefault((group_of(answer.workload), resource), _Group())
                group.uppers.append(found[0])
                group.mean += found[1]
                group.deviation += found[2]
        for group in self._groups.values():
            group.uppers.sort()

    def predict(self, workload: str, requested: Requests, used: Mapping[str, int]) -> dict[str, Prediction]:
        """By resource, before the factor; nothing where there are too few others, or nothing is asked for.

        Parameters
        ----------
        used : the most that the workload used itself, in ledger units; it is never said to use less.
        """
        found = {}
        for resource in LEARNED:
            asked, group = requested.get(resource, 0), self._groups.get((group_of(workload), resource))
            if asked <= 0 or group is None:
                continue
            own = self._shares.get((workload, resource))
            others = len(group.uppers) - (own is not None)
            if others < LEAST_SIBLINGS:
                continue
            rank = ceil(HIGH * others) - 1
            mean, deviation = group.mean, group.deviation
            if own is not None:
                rank += rank >= bisect_left(group.uppers, own[0])
                mean, deviation = mean - own[1], deviation - own[2]
            upper = max(group.uppers[rank] * asked, used.get(resource, 0), 1.0)
            found[resource] = Prediction({SIBLINGS: upper}, mean / others * asked, max(deviation, 0) / others * asked)
        return found

    # ── outcomes ──────────────────────────────────────────────────────────────────────────────

    def learn(self, workload: str, resource: str, made_s: int, ratio: float) -> None:
        """Truth ÷ what was said for the window after ``made_s``."""
        self._outcomes[resource].add(workload, made_s // HOUR_S, ratio)

    def rewind(self, now_s: float) -> None:
        """Forget what was noted of the time after now: the clock was ahead."""
        for outcomes in self._outcomes.values():
            outcomes.rewind(int(now_s) // HOUR_S)

    def settle(self) -> None:
        """Forget all but the last day of outcomes, and fit."""
        for resource, outcomes in self._outcomes.items():
            if not outcomes.is_new:
                continue
            worst = outcomes.worst()
            rank = ceil((len(worst) + 1) * self.level)
            enough = rank <= len(worst) and len(outcomes.hours) >= LEAST_HOURS
            self._factors[resource] = max(worst[rank - 1], 1.0) if enough else None

    def factor(self, resource: str) -> float | None:
        """What is said is multiplied by it, never lowered; None while too few workloads were left out."""
        return self._factors[resource]
