"""How long a pod will live: what its owner's earlier pods tell at the moment it arrives.

A pod's owner (ReplicaSet, Job, application, deployment batch) is the one thing that says anything about its
lifetime. :class:`Lineage` keeps, per owner and per coarser kin, what is known *now*: lifetimes of those that ended,
ages of those that still run. Simple rules answer with shares of the four classes of lifetime of Resource Central (SOSP'17).
The features of :mod:`placement.learning.lifetime_history`, and so of the models of ``ullage train``, are those of a lineage.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from placement.errors import ConfigError
from placement.learning.by_level import ByLevel

LIMITS_S = (900, 3600, 86_400)
"""Upper limits of the classes: to 15 minutes, to an hour, to a day, longer."""

NUM_CLASSES = len(LIMITS_S) + 1
TYPICAL_S = (300.0, 1800.0, 14_400.0, 259_200.0)
"""A middle of each class, for expectations."""

KEPT = 16
"""Ended lifetimes remembered per key."""
BURSTS = 4
"""Bursts of arrivals remembered per key: a batch of fifty pods is one of them."""
BURST_S = 60
"""Pods that arrive so shortly after the first of a burst belong to it: a cluster binds a batch one by one."""


def class_of(lifetime_s: float) -> int:
    """Class of a lifetime."""
    return next((i for i, limit in enumerate(LIMITS_S) if lifetime_s <= limit), NUM_CLASSES - 1)


@dataclass
class _Kin:
    """What is known of the pods that share a key."""

    ended: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    classes: list[float] = field(default_factory=lambda: [0.0] * NUM_CLASSES)
    recent: deque[list[float]] = field(default_factory=lambda: deque(maxlen=KEPT))
    """[arrival, end or -1] of the latest arrivals: unlike ``ended``, not biased towards short lives."""
    bursts: deque[list[float]] = field(default_factory=lambda: deque(maxlen=BURSTS))
    """[first arrival, pods, ended pods, sum of their logarithmic lifetimes] of the latest bursts."""
    running: int = 0
    started_sum: float = 0.0
    last_arrival_s: float = -1.0
    last_end_s: float = -1.0
    arrivals: int = 0


MISSING = float("nan")
KIN_FEATURES = (
    "ended", "mean_log", "deviation_log", "last_log", "second_log", "median_log",
    *(f"class_{i}" for i in range(NUM_CLASSES)),
    *(f"passes_{limit}s" for limit in LIMITS_S), *(f"at_risk_{limit}s" for limit in LIMITS_S),
    "previous_log", "previous_runs", "just_arrived", "just_ended",
    "running", "running_mean_age_log", "since_arrival_log", "since_end_log", "arrivals",
    *(f"burst_{i}_{what}" for i in range(BURSTS) for what in ("age_log", "pods", "ended_share", "life_log")),
)  # fmt: skip
FORGET = 0.93
"""A class count is multiplied by this at each newly ended kin: about the last 14 count."""


class Lineage:
    """Streaming history of pods by several keys, from the most particular (owner) to the most general.

    Call :meth:`describe` before :meth:`arrive`: the answer must not contain the pod itself. Times never go back. A value
    of None at a level is nobody's: nothing is kept under it, and nothing is known.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        self._kin = ByLevel(len(keys), _Kin)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of what :meth:`describe` returns."""
        return tuple(f"{key}:{name}" for key in self.keys for name in KIN_FEATURES)

    def describe(self, values: Sequence[Hashable], now_s: float) -> list[float]:
        """Features of a pod whose keys have ``values``, from what is known at ``now_s``."""
        out: list[float] = []
        for kin in self._kin.find_each(values):
            out.extend(_features(kin, now_s))
        return out

    def arrive(self, values: Sequence[Hashable], now_s: float) -> None:
        """A pod arrived."""
        for kin in self._kin.meet_each(values):
            if kin is None:
                continue
            kin.running += 1
            kin.arrivals += 1
            kin.started_sum += now_s
            kin.last_arrival_s = now_s
            kin.recent.append([now_s, -1.0])
            if kin.bursts and now_s - kin.bursts[-1][0] < BURST_S:
                kin.bursts[-1][1] += 1
            else:
                kin.bursts.append([now_s, 1.0, 0.0, 0.0])

    def end(self, values: Sequence[Hashable], started_s: float, now_s: float) -> None:
        """A pod that arrived at ``started_s`` ended."""
        lifetime = max(now_s - started_s, 1.0)
        for kin in self._of_running(values):
            kin.running -= 1
            kin.started_sum -= started_s
            kin.last_end_s = now_s
            _close(kin.recent, started_s, now_s)
            for burst in kin.bursts:
                if 0 <= started_s - burst[0] < BURST_S:
                    burst[2] += 1
                    burst[3] += math.log(lifetime)
            kin.ended.append(math.log(lifetime))
            kin.classes = [c * FORGET for c in kin.classes]
            kin.classes[class_of(lifetime)] += 1

    def find(self, values: Sequence[Hashable], now_s: float) -> None:
        """A pod is there, and nobody knows since when: it runs, and tells nothing of arrivals or lifetimes."""
        for kin in self._kin.meet_each(values):
            if kin is not None:
                kin.running += 1
                kin.started_sum += now_s

    def lose(self, values: Sequence[Hashable], found_s: float) -> None:
        """A pod that was found at ``found_s`` is gone."""
        for kin in self._of_running(values):
            kin.running -= 1
            kin.started_sum -= found_s

    def withdraw(self, values: Sequence[Hashable], started_s: float) -> None:
        """A pod that arrived at ``started_s`` is gone, and nobody knows since when: as if it had never been."""
        for kin in self._of_running(values):
            kin.running -= 1
            kin.started_sum -= started_s
            open_now = next((entry for entry in kin.recent if entry[0] == started_s and entry[1] < 0), None)
            if open_now is not None:
                kin.recent.remove(open_now)
            for burst in [b for b in kin.bursts if 0 <= started_s - b[0] < BURST_S]:
                burst[1] -= 1
                if not burst[1]:
                    kin.bursts.remove(burst)

    def _of_running(self, values: Sequence[Hashable]) -> Iterator[_Kin]:
        for kin, value in zip(self._kin.find_each(values), values, strict=True):
            if value is None:
                continue
            if kin is None or kin.running <= 0:
                raise ConfigError(f"a pod of {value!r} ended that never arrived; report arrivals first")
            yield kin

    def forget(self, level: int, value: Hashable) -> None:
        """What is known of a key, at a level of :attr:`keys`; none of its pods may run."""
        self._kin.forget(level, value)

    def rule(self, name: str, values: Sequence[Hashable], now_s: float) -> tuple[float, ...] | None:
        """Shares of the classes by a simple rule on the most particular key that has an ended pod: ``last``, ``majority`` or
        ``mean``.

        ``survival`` is Kaplan and Meier's estimate over the latest arrivals, running ones included.
        """
        for kin in self._kin.find_each(values):
            if kin is not None and kin.ended:
                return _survival_rule(kin, now_s) if name == "survival" else _rule(name, kin)
        return None


def _close(recent: deque[list[float]], started_s: float, now_s: float) -> None:
    for entry in recent:
        if entry[0] == started_s and entry[1] < 0:
            entry[1] = now_s
            return


def _passes(kin: _Kin, now_s: float) -> tuple[list[float], list[float]]:
    """Per class limit: share of the recent arrivals at risk that outlived it, and how many were at risk."""
    shares, at_risk = [], []
    low = 0.0
    for limit in LIMITS_S:
        passed = fell = 0
        for start, end in kin.recent:
            life = (end if end >= 0 else now_s) - start
            if life > limit:
                passed += 1
            elif end >= 0 and life > low:
                fell += 1
        shares.append(passed / (passed + fell) if passed + fell else MISSING)
        at_risk.append(float(passed + fell))
        low = limit
    return shares, at_risk


def _survival_rule(kin: _Kin, now_s: float) -> tuple[float, ...]:
    shares, _ = _passes(kin, now_s)
    alive, out = 1.0, []
    for share in shares:
        passing = 0.5 if math.isnan(share) else share
        out.append(alive * (1 - passing))
        alive *= passing
    return (*out, alive)


def _latest(kin: _Kin, now_s: float) -> list[float]:
    """The pod that arrived last: log of its life so far, whether it runs; arrivals and ends of the last ten minutes."""
    if not kin.recent:
        return [MISSING, MISSING, 0.0, 0.0]
    start, end = kin.recent[-1]
    arrived = sum(now_s - entry[0] <= 600 for entry in kin.recent)
    ended = sum(entry[1] >= 0 and now_s - entry[1] <= 600 for entry in kin.recent)
    return [math.log1p((end if end >= 0 else now_s) - start), float(end < 0), float(arrived), float(ended)]


def _bursts(kin: _Kin, now_s: float) -> list[float]:
    """Of the latest bursts, newest first: their age, how many came, how many ended, how long those lived."""
    out: list[float] = []
    for start, pods, ended, life in reversed(kin.bursts):
        out += [math.log1p(now_s - start), pods, ended / pods, life / ended if ended else MISSING]
    return out + [MISSING] * (4 * (BURSTS - len(kin.bursts)))


def _rule(name: str, kin: _Kin) -> tuple[float, ...]:
    if name == "majority":
        total = sum(kin.classes)
        return tuple(c / total for c in kin.classes)
    log = kin.ended[-1] if name == "last" else sum(kin.ended) / len(kin.ended)
    one = class_of(math.exp(log))
    return tuple(1.0 if i == one else 0.0 for i in range(NUM_CLASSES))


def _features(kin: _Kin | None, now_s: float) -> list[float]:
    if kin is None:
        empty = [MISSING] * len(LIMITS_S)
        return [
            0.0,
            *[MISSING] * (5 + NUM_CLASSES),
            *empty,
            *empty,
            MISSING,
            MISSING,
            0.0,
            0.0,
            0.0,
            MISSING,
            MISSING,
            MISSING,
            0.0,
            *[MISSING] * (4 * BURSTS),
        ]
    logs = list(kin.ended)
    shape = [MISSING] * 5
    if logs:
        mean = sum(logs) / len(logs)
        spread = math.sqrt(sum((x - mean) ** 2 for x in logs) / len(logs))
        shape = [mean, spread, logs[-1], logs[-2] if len(logs) > 1 else MISSING, sorted(logs)[len(logs) // 2]]
    total = sum(kin.classes)
    shares = [c / total if total else MISSING for c in kin.classes]
    age = math.log1p(max(now_s - kin.started_sum / kin.running, 0.0)) if kin.running else MISSING
    arrival = math.log1p(now_s - kin.last_arrival_s) if kin.last_arrival_s >= 0 else MISSING
    ended = math.log1p(now_s - kin.last_end_s) if kin.last_end_s >= 0 else MISSING
    recent = [*(x for part in _passes(kin, now_s) for x in part), *_latest(kin, now_s)]
    counts = [float(kin.running), age, arrival, ended, float(kin.arrivals)]
    return [float(len(logs)), *shape, *shares, *recent, *counts, *_bursts(kin, now_s)]
