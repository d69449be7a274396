"""Policies of a replay that tell the strategy how long pods live: learned from what was seen, or, as a bound, the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from placement.knowledge import AGES_S, Lifespan, Lifetimes, workload_of
from placement.learning.horizons import EVERY_WORKLOAD
from placement.learning.lifetime_model import LifetimeModel
from placement.learning.lifetimes import LifetimeForecaster
from placement.learning.survival import UNKNOWN, certain, lifespans
from placement.log import POD_BOUND, POD_FOUND
from placement.resources import IntArray

if TYPE_CHECKING:
    from simulator.replay import Replay


@dataclass
class LifetimeLearner:
    """Passes the replay's log on to :class:`placement.learning.lifetimes.LifetimeForecaster`, and swaps knowledge.

    The order of a round is that of ``ullage serve``: news, questions, answers, outcomes, knowledge.
    """

    every_s: int = 300
    model: LifetimeModel | None = None

    def __post_init__(self) -> None:
        self.forecaster = LifetimeForecaster(self.model, max_workloads=EVERY_WORKLOAD, every_s=self.every_s)
        self._read = 0

    def act(self, replay: Replay) -> None:
        """Catch up, then tell."""
        now, forecaster = replay.time_s, self.forecaster
        forecaster.history.begins_s = replay.trace.manifest.begins_s
        forecaster.begin_round(now)
        events, pods = replay.state.log.events, replay.trace.pods
        first_s = int(pods.arrival_s[0]) if len(pods) else 0
        for event in events[self._read :]:
            if event.kind == POD_BOUND and event.time_s <= first_s:  # who is there at first was there before
                event = structs.replace(event, kind=POD_FOUND)
            forecaster.hear(event)
        self._read = len(events)
        forecaster.learn(now)
        replay.state.learn(forecaster.renewed(replay.state.knowledge, now), time_s=now)


@dataclass
class TrueLifetimes:
    """The bound: every workload has one pod, and its lifetime is known when it arrives."""

    life_s: IntArray
    """``(P,)`` of each pod of the trace."""
    every_s: int = 300

    def __post_init__(self) -> None:
        self._known: dict[int, Lifespan] = {}
        self._told: dict[int, tuple[str, Lifespan]] = {}
        (self._everyone,) = lifespans(np.array([[UNKNOWN] * (len(AGES_S) - 1) + [1.0]]))

    def act(self, replay: Replay) -> None:
        """Tell of who is here and of who arrives before the next act."""
        now, pods = replay.time_s, replay.trace.pods
        low, high = np.searchsorted(pods.arrival_s, [now, now + self.every_s])
        chosen = {*range(int(low), int(high)), *(replay.pod_of[uid] for uid in replay.state.residents)}
        specs = replay.trace.specs
        for pod in chosen - self._told.keys():
            spec = specs[pods.spec[pod]]
            self._told[pod] = workload_of(spec.namespace, spec.owner), self._of(int(self.life_s[pod]))
        of = dict([self._told[pod] for pod in sorted(chosen)])
        lifetimes = Lifetimes(of, self._everyone, now)
        replay.state.learn(replay.state.knowledge.but(lifetimes=lifetimes), time_s=now)

    def _of(self, life_s: int) -> Lifespan:
        if life_s not in self._known:
            self._known[life_s] = certain(life_s)
        return self._known[life_s]
