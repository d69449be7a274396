"""When predictions are not to be trusted: their promises are broken too often, or nodes are crowded all the same."""

from __future__ import annotations

from collections import deque
from math import inf

from placement.learning.usage import DAY, STEP_S
from placement.resources import IntArray

WEEK = 7 * DAY
MILLION = 10**6
LONGEST = 8
WINDOW, LEAST = 500, 100
"""Of monitors: how many of the last outcomes count, and how few are too few to judge by."""
FLOOR, RECOVER = 0.90, 0.02
"""Least coverage of a rung that is trusted, and how much above that trust comes back."""
MARGIN_NATS = 0.02
"""By how much a learned answer may do worse than the rule before it is shut."""
FULL = 0.99
"""A node whose pods use this share of its CPU has none left: what they wanted beyond it cannot be measured."""


class CoverageMonitor:
    """Drift detection: how often the truth stayed under a rung's upper quantile of late.

    A rung is trusted until :data:`LEAST` outcomes are known, then as long as its coverage over the last :data:`WINDOW`
    outcomes is at least :data:`FLOOR`; it is trusted again :data:`RECOVER` above that, so that it does not flap.
    """

    def __init__(self) -> None:
        self._outcomes: dict[str, deque[bool]] = {}
        self._shut: set[str] = set()
        self.falls = 0

    def observe(self, rung: str, covered: bool) -> None:
        """One outcome: was the usage at or below the rung's upper quantile?"""
        outcomes = self._outcomes.setdefault(rung, deque(maxlen=WINDOW))
        outcomes.append(covered)
        if len(outcomes) < LEAST:
            return
        coverage = self.coverage(rung)
        if rung not in self._shut and coverage < FLOOR:
            self._shut.add(rung)
            self.falls += 1
        elif rung in self._shut and coverage >= FLOOR + RECOVER:
            self._shut.discard(rung)

    def coverage(self, rung: str) -> float:
        """Share of the remembered outcomes that were covered; 1 before the first."""
        outcomes = self._outcomes.get(rung)
        return sum(outcomes) / len(outcomes) if outcomes else 1.0

    def trusted(self, rung: str) -> bool:
        """Whether this rung may answer."""
        return rung not in self._shut


class LossMonitor:
    """Whether a learned answer does no worse than the rule that answers without it, by the logarithmic loss of both.

    It has to earn trust: :data:`LEAST` outcomes on which its mean loss is at most the rule's. It loses it when, over the
    last :data:`WINDOW` outcomes, it is worse by more than :data:`MARGIN_NATS`, and earns it again as before.
    """

    def __init__(self) -> None:
        self._losses: deque[tuple[int, int]] = deque()
        """In millionths: sums of integers stay exact, whatever comes and goes."""
        self._mine = self._rule = 0
        self.trusted = False
        self.falls = 0

    def observe(self, mine: float, rule: float) -> None:
        """The losses on one outcome."""
        if len(self._losses) == WINDOW:
            old_mine, old_rule = self._losses.popleft()
            self._mine, self._rule = self._mine - old_mine, self._rule - old_rule
        new = round(mine * MILLION), round(rule * MILLION)
        self._losses.append(new)
        self._mine, self._rule = self._mine + new[0], self._rule + new[1]
        if len(self._losses) < LEAST:
            return
        ours, theirs = self.losses
        if self.trusted and ours > theirs + MARGIN_NATS:
            self.trusted = False
            self.falls += 1
        elif not self.trusted and ours <= theirs:
            self.trusted = True

    @property
    def losses(self) -> tuple[float, float]:
        """Mean losses, ours and the rule's; NaN before the first outcome."""
        num = len(self._losses)
        if not num:
            return float("nan"), float("nan")
        return self._mine / num / MILLION, self._rule / num / MILLION


class Crowding:
    """Share of the last day's node-time in which a node's CPU was used up; above ``budget`` nodes are crowded.

    They are until it is at most half of that and a day has passed; twice as long each time that they are crowded again
    within a week, at most :data:`LONGEST` days. Several looks within five minutes count once, by the worst of them.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.is_crowded = False
        self._looks: deque[tuple[int, int, int]] = deque()
        """(slot, nodes used up, nodes), oldest first."""
        self._days, self._fell, self._rose = 1, 0, -WEEK

    def look(self, time_s: float, num_full: int, num_nodes: int) -> None:
        """So many of the nodes are used up at this moment; times never go back but after :meth:`rewind`."""
        slot = int(time_s) // STEP_S
        if self._looks and self._looks[-1][0] == slot:
            _, full, nodes = self._looks.pop()
            num_full, num_nodes = max(num_full, full), max(num_nodes, nodes)
        self._looks.append((slot, num_full, num_nodes))
        while self._looks[0][0] <= slot - DAY:
            self._looks.popleft()

    def recall(self, end_s: int, used: IntArray, offered: IntArray) -> None:
        """What pods used on each node in the last day, before anybody looked.

        Parameters
        ----------
        used : ``(N, DAY)`` millicores, the last of them in the five minutes that end at ``end_s``.
        offered : ``(N,)`` millicores.
        """
        last, first = end_s // STEP_S, self._looks[0][0] if self._looks else inf
        full = ((used >= FULL * offered[:, None]) & (offered[:, None] > 0)).sum(axis=0)
        for back, num_full in enumerate(full[::-1].tolist()):
            if last - back < first:
                self._looks.appendleft((last - back, num_full, len(offered)))

    def rewind(self, now_s: float) -> None:
        """Forget what was noted of the time after now: the clock was ahead."""
        slot = int(now_s) // STEP_S
        while self._looks and self._looks[-1][0] > slot:
            self._looks.pop()
        self._fell, self._rose = min(self._fell, slot), min(self._rose, slot)

    def settle(self) -> None:
        """Decide anew."""
        if not self._looks:
            return
        slot, share = self._looks[-1][0], self.share
        if not self.is_crowded and share > self.budget:
            self._days = min(2 * self._days, LONGEST) if slot - self._rose < WEEK else 1
            self.is_crowded, self._fell = True, slot
        elif self.is_crowded and share <= self.budget / 2 and slot - self._fell >= self._days * DAY:
            self.is_crowded, self._rose = False, slot

    @property
    def share(self) -> float:
        """Of the last day; nodes count as calm in the parts of it that nobody looked at."""
        if not self._looks:
            return 0.0
        nodes = sum(nodes for _, _, nodes in self._looks) + (DAY - len(self._looks)) * self._looks[-1][2]
        return sum(full for _, full, _ in self._looks) / max(nodes, 1)


def is_full(used_millicores: float, offered_millicores: float) -> bool:
    """Whether a node's CPU is used up."""
    return used_millicores >= FULL * offered_millicores > 0
