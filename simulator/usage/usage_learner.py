"""Forecasts in a replay: what was measured goes to the very learner that serves live, at virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from placement.knowledge import workload_of
from placement.learning.baselines import Target
from placement.learning.drift import FULL
from placement.learning.facts import facts_of
from placement.learning.forecasting import Forecaster, asked_of
from placement.learning.horizons import EVERY_WORKLOAD
from placement.learning.prediction import HISTORY, REQUEST, Rungs, ask
from placement.resources import BoolArray, IntArray
from placement.state import CPU_ROW
from simulator.usage.usage_truth import UsageTruth

if TYPE_CHECKING:
    from simulator.replay import Replay

HORIZON = Target(6)


@dataclass
class UsageLearner:
    """Feeds :class:`placement.learning.forecasting.Forecaster` with what every pod got, and swaps knowledge.

    What a pod wanted beyond that cannot be measured on a real node, and is not used here either.
    """

    truth: UsageTruth
    rungs: Rungs = field(default_factory=lambda: Rungs.of_history(HORIZON))
    every_s: int = 3600
    budget: float = 0.01
    factor: float = 0.0
    """Factor that stands until there are outcomes, as if fitted elsewhere; 0 = none."""
    siblings: bool = False
    """Whether newcomers are predicted in their first day from others who looked alike."""
    fallen: list[tuple[int, str, float, float]] = field(default_factory=list)
    """(time, rung, coverage of the history rung, node-time short of CPU in the last day) at each change of rung."""

    def __post_init__(self) -> None:
        self.truth.learner = self
        self.forecaster = Forecaster(
            self.rungs.target,
            rungs=self.rungs,
            max_workloads=EVERY_WORKLOAD,
            budget=self.budget,
            factor=self.factor,
            siblings=self.siblings,
        )
        self.workloads: list[str] = []
        self._of_class: IntArray = np.zeros(0, np.int64)
        self._class_of_pod: IntArray = np.zeros(0, np.int64)

    @property
    def promises(self) -> bool:
        """Whether forecasts are in force."""
        return self.forecaster.rung != REQUEST

    @staticmethod
    def clock_s(replay: Replay) -> int:
        """The forecaster's time: that of the calendar, where the trace says when it began."""
        return replay.time_s + replay.trace.manifest.begins_s

    def _begin(self, replay: Replay) -> None:
        names = [workload_of(s.namespace, s.owner) for s in replay.trace.specs]
        self.workloads = sorted({name for name in names if name})
        index = {name: i for i, name in enumerate(self.workloads)}
        self._of_class = np.array([index.get(name, -1) for name in names], np.int64)
        self._class_of_pod = replay.trace.pods.spec

    def observe(self, replay: Replay, killed: BoolArray) -> None:
        """Pass on the largest pod of each workload of this step, every kill, and how many nodes are used up."""
        if self._class_of_pod is not replay.trace.pods.spec:
            self._begin(replay)
        now, here, got = self.clock_s(replay), self.truth.here, self.truth.latest
        workload = self.workload_of_pods(here.pod)
        named = workload >= 0
        most = np.full((len(self.workloads), 2), -1, np.int64)
        np.maximum.at(most, workload[named], np.rint(got.T[named]).astype(np.int64))
        rows = np.flatnonzero(most[:, 0] >= 0)
        for w, (cpu, memory) in zip(rows.tolist(), most[rows].tolist(), strict=True):
            self.forecaster.add(self.workloads[w], now, now, cpu_millicores=cpu, memory_bytes=memory)
        for i in np.flatnonzero(killed & named).tolist():
            memory = int(max(got[1, i], here.request[1, i]))
            self.forecaster.add_oom(self.workloads[workload[i]], now, now, memory)
        state = replay.state
        alive = state.is_alive[: state.num_rows]
        used = np.bincount(here.row, weights=got[0] * ~here.sold, minlength=state.num_rows)
        offered = state.offered[CPU_ROW, : state.num_rows]
        full = alive & (used >= FULL * offered) & (offered > 0)
        self.forecaster.crowding.look(now, int(full.sum()), int(alive.sum()))

    def workload_of_pods(self, pods: IntArray) -> IntArray:
        """Index into ``workloads`` of pods of the trace; −1 for bare ones."""
        found: IntArray = self._of_class[self._class_of_pod[pods]]
        return found

    def act(self, replay: Replay) -> None:
        """Ask, judge what was promised, and swap knowledge: the order in which ``ullage serve`` does it."""
        now, state, forecaster = self.clock_s(replay), replay.state, self.forecaster
        before = forecaster.rung
        specs = {r.spec for r in state.residents.values()}
        asked, facts = asked_of(specs), facts_of(specs) if forecaster.rungs.reads_kin else None
        forecaster.keep(asked)
        while questions := forecaster.questions(asked, facts):
            forecaster.take(ask(forecaster.rungs, questions))
        forecaster.settle(now)
        known = forecaster.renewed(state.knowledge, now)
        if known is not None:
            state.learn(known, time_s=replay.time_s)
        if forecaster.rung != before:
            coverage = min(forecaster.coverage(HISTORY, resource) for resource in ("cpu", "memory"))
            self.fallen.append((replay.time_s, forecaster.rung, coverage, forecaster.crowding.share))
