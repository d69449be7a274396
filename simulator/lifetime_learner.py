"""Policies of a replay that tell the strategy how long pods live: learned from what was seen, or, as a bound, the truth."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from placement import log
from placement.knowledge import AGES_S, Lifespan, Lifetimes, workload_of
from placement.pods import PodSpec
from placement.resources import IntArray
from placement.survival import UNKNOWN, Survival, certain, lifespans, part_of

if TYPE_CHECKING:
    from simulator.replay import Replay

KEEP = (0.95, 0.99, 0.999)
"""Of outcomes of a workload, of a size, of all."""
FRESH_S = 3600
"""A lifespan is computed anew when its workload had an outcome, and at least so often."""

Keys = tuple[Hashable, ...]


def keys_of(spec: PodSpec) -> Keys:
    """A class's workload, its size, and everyone."""
    return workload_of(spec.namespace, spec.owner), spec.main_amounts, "all"


@dataclass
class LifetimeLearner:
    """Follows the replay's log; swaps in lifespans of the workloads that are here or arrive before the next act.

    Those that arrive later would be told the same by what is known now and are left out to save time only; nothing that
    happens after the moment enters.
    """

    every_s: int = 300
    keys: Callable[[PodSpec], Keys] = keys_of
    survival: Survival = field(default_factory=lambda: Survival(KEEP))

    def __post_init__(self) -> None:
        self._read = 0
        self._running: dict[str, tuple[Keys, int]] = {}
        self._passing: list[tuple[int, str, int, int]] = []
        self._known: dict[str, tuple[int, Lifespan]] = {}

    def act(self, replay: Replay) -> None:
        """Catch up, then tell."""
        now = replay.time_s
        events = replay.state.log.events
        for event in events[self._read :]:
            self._pass(event.time_s)
            if event.kind == log.POD_BOUND:
                self._running[event.subject] = (self.keys(event.detail), event.time_s)
                heapq.heappush(self._passing, (event.time_s + AGES_S[1], event.subject, event.time_s, 0))
            elif event.kind == log.POD_RELEASED and event.subject in self._running:
                keys, since = self._running.pop(event.subject)
                self._learn(keys, part_of(max(event.time_s - since, 1)), ended=True)
        self._read = len(events)
        self._pass(now)
        self._tell(replay, now)

    def _pass(self, now: int) -> None:
        """Who has lived through a part of life by now."""
        while self._passing and self._passing[0][0] < now:
            _at, uid, since, part = heapq.heappop(self._passing)
            found = self._running.get(uid)
            if found is None or found[1] != since:
                continue
            self._learn(found[0], part, ended=False)
            if part + 2 < len(AGES_S):
                heapq.heappush(self._passing, (since + AGES_S[part + 2], uid, since, part + 1))

    def _learn(self, keys: Keys, part: int, *, ended: bool) -> None:
        self.survival.outcome(keys, part, ended=ended)
        self._known.pop(str(keys[0]), None)

    def _tell(self, replay: Replay, now: int) -> None:
        wanted: dict[str, Keys] = {}
        for keys, _ in self._running.values():
            wanted[str(keys[0])] = keys
        for spec in arriving(replay, now, self.every_s):
            keys = self.keys(spec)
            wanted[str(keys[0])] = keys
        fresh = [n for n in wanted if n not in self._known or now - self._known[n][0] >= FRESH_S]
        blank = ("", "", "all")
        rows = np.array([self.survival.hazards(wanted[n]) for n in fresh] + [self.survival.hazards(blank)])
        *found, everyone = lifespans(rows)
        for name, one in zip(fresh, found, strict=True):
            self._known[name] = (now, one)
        of = {name: self._known[name][1] for name in wanted if name}
        replay.state.learn(replay.state.knowledge.but(lifetimes=Lifetimes(of, everyone, now, "hazards")), time_s=now)


def arriving(replay: Replay, now: int, every_s: int) -> set[PodSpec]:
    """Classes that arrive from now on and before the next act."""
    pods = replay.trace.pods
    low, high = np.searchsorted(pods.arrival_s, [now, now + every_s])
    return {replay.trace.specs[c] for c in np.unique(pods.spec[low:high]).tolist()}


@dataclass
class TrueLifetimes:
    """The bound: every workload has one pod, and its lifetime is known when it arrives."""

    life_s: IntArray
    """``(P,)`` of each pod of the trace."""
    every_s: int = 300

    def __post_init__(self) -> None:
        self._known: dict[int, Lifespan] = {}

    def act(self, replay: Replay) -> None:
        """Tell of who is here and of who arrives before the next act."""
        now, pods = replay.time_s, replay.trace.pods
        low, high = np.searchsorted(pods.arrival_s, [now, now + self.every_s])
        chosen = {*range(int(low), int(high)), *(replay.pod_of[uid] for uid in replay.state.residents)}
        specs = replay.trace.specs
        of = {}
        for pod in sorted(chosen):
            spec = specs[pods.spec[pod]]
            of[workload_of(spec.namespace, spec.owner)] = self._of(int(self.life_s[pod]))
        (everyone,) = lifespans(np.array([[UNKNOWN] * (len(AGES_S) - 1) + [1.0]]))
        replay.state.learn(replay.state.knowledge.but(lifetimes=Lifetimes(of, everyone, now, "truth")), time_s=now)

    def _of(self, life_s: int) -> Lifespan:
        if life_s not in self._known:
            self._known[life_s] = certain(life_s)
        return self._known[life_s]
