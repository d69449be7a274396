"""Policies of a replay that tell the strategy how long pods live: learned from what was seen, or, as a bound, the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from placement import log
from placement.knowledge import AGES_S, Lifespan, Lifetimes, workload_of
from placement.pods import PodSpec
from placement.resources import IntArray
from placement.survival import UNKNOWN, LifeHistory, certain, lifespans

if TYPE_CHECKING:
    from simulator.replay import Replay


@dataclass
class LifetimeLearner:
    """Follows the replay's log; swaps in lifespans of the workloads that are here or arrive before the next act.

    Those that arrive later would be told the same by what is known now and are left out to save time only; nothing that
    happens after the moment enters.
    """

    every_s: int = 300
    history: LifeHistory = field(default_factory=LifeHistory)

    def __post_init__(self) -> None:
        self._read = 0

    def act(self, replay: Replay) -> None:
        """Catch up, then tell."""
        now, history = replay.time_s, self.history
        events = replay.state.log.events
        for event in events[self._read :]:
            if event.kind == log.POD_BOUND:
                history.pass_by(event.time_s)
                history.began(event.subject, event.detail, event.time_s)
            elif event.kind == log.POD_RELEASED:
                history.ended(event.subject, event.time_s)
        self._read = len(events)
        history.pass_by(now)
        known = history.lifetimes(arriving(replay, now, self.every_s), now)
        replay.state.learn(replay.state.knowledge.but(lifetimes=known), time_s=now)


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
