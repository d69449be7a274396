"""Right-sizing in a replay: requests of pods to come are lowered, and given back where that went too far.

Sizes come from the very code that ``ullage rightsize`` uses (:mod:`placement.learning.rightsize`,
:mod:`placement.learning.packed`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from placement.errors import ConfigError
from placement.knowledge import Forecasts
from placement.learning.packed import DAYS, Sizes, least_scale, to_restore
from placement.learning.reclaim import is_reclaimed
from placement.learning.rightsize import RightsizePolicy, recommend
from placement.learning.usage import STEP_S, SingleArray
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, FloatArray
from placement.state import CPU_ROW
from simulator.usage.usage_learner import UsageLearner
from simulator.usage.usage_truth import RESTART_S

if TYPE_CHECKING:
    from simulator.replay import Replay

SIZERS = ("forecast", "vpa", "vpa-tuned", "packed")


@dataclass
class Rightsizing:
    """Lower the requests of pods that arrive or restart, as an admission policy would, after every new forecast.

    ``forecast`` sizes as `ullage rightsize` does: the upper quantile of the peak, with a margin. ``vpa`` is the simple
    rival: the 90th percentile of CPU plus 15 %; ``vpa-tuned`` scales that by one number, found once. ``packed`` scales
    the 95th percentile of CPU by one number per day, the least with which pods here, packed at random by such requests,
    would have kept the budget over the past days: what counts is the node, not the pod (``vpa-tuned`` finds its number
    in the same way). None asks for less CPU than the mean. Memory is the largest sample plus 15 %, for ``packed`` times
    the learner's factor instead. ``scale`` is one more factor on CPU, to draw a
    frontier with. One guard for all: while the learner's rung is shut, each sizes by the request.
    """

    learner: UsageLearner
    sizer: str = "forecast"
    scale: float = 1.0
    node_cpu: int = 128_000
    """Millicores of a node."""
    node_memory: int = 1024 << 30
    budget: float = 0.01
    tuned_at_s: int = 0
    """Until then ``vpa-tuned`` gathers the past from which its number is found."""
    every_s: int = 3600
    kept_namespaces: frozenset[str] = frozenset()
    restored: int = 0
    """Pods restarted at their request after the rung had fallen."""
    knobs: list[tuple[int, float]] = field(default_factory=list)
    """(time, scale found) of ``packed``."""
    lowered: dict[int, PodSpec] = field(default_factory=dict)
    """Class → what its pods ask for at the moment."""

    def __post_init__(self) -> None:
        if self.sizer not in SIZERS:
            raise ConfigError(f"sizer {self.sizer!r} is not one of {', '.join(SIZERS)}")

    def act(self, replay: Replay) -> None:
        """Rewrite classes; who runs keeps what he asked for until he is placed anew."""
        forecasts, policy = self._sizes(replay)
        specs = replay.trace.specs
        changed: dict[int, PodSpec] = {}
        for c, spec in enumerate(specs):
            if is_reclaimed(spec):
                continue
            (found,) = recommend([(spec, 1)], forecasts, kept_namespaces=self.kept_namespaces, policy=policy) or (None,)
            now = self.lowered.get(c, spec)
            if found is None or (
                _alike(found.new_cpu, now.amount(CPU)) and _alike(found.new_memory, now.amount(MEMORY))
            ):
                continue
            amounts = {**dict(spec.request), CPU: found.new_cpu, MEMORY: found.new_memory}
            self.lowered[c] = changed[c] = replace(spec, request=tuple(sorted((r, a) for r, a in amounts.items() if a)))
        if changed:
            pods = replay.trace.pods.spec
            for pod in np.flatnonzero(np.isin(pods, list(changed))).tolist():
                replay.specs[pod] = changed[int(pods[pod])]

    def restore(self, replay: Replay) -> None:
        """On nodes over their CPU, restart at their request the lowered pods that use most."""
        truth, state = self.learner.truth, replay.state
        here, use = truth.here, truth.latest[0]
        for row in np.flatnonzero(truth.over_now).tolist():
            inside = {
                uid: i
                for i in np.flatnonzero(here.row == row).tolist()
                if (uid := here.uids[i]) in state.residents and state.residents[uid].row == row
            }
            lowered = [
                uid
                for uid, i in inside.items()
                if state.residents[uid].spec.amount(CPU) < replay.specs[here.pod[i]].amount(CPU)
            ]
            used = {uid: float(use[i]) for uid, i in inside.items()}
            for uid in to_restore(used, lowered, float(state.offered[CPU_ROW, row])):
                self.restored += replay.evict(uid, restart_s=RESTART_S, checkpoint_s=0)

    def _sizes(self, replay: Replay) -> tuple[Forecasts | None, RightsizePolicy]:
        """Forecasts for :func:`placement.learning.rightsize.recommend`, and how it is to read them."""
        forecaster = self.learner.forecaster
        if not self.learner.promises:
            return None, RightsizePolicy()
        if self.sizer == "forecast":
            return replay.state.knowledge.forecasts, RightsizePolicy()
        names, pasts = forecaster.pasts(self.learner.clock_s(replay), DAYS)
        if not names or (self.sizer == "vpa-tuned" and replay.time_s < self.tuned_at_s):
            return None, RightsizePolicy()
        is_packed = self.sizer == "packed"
        margin = forecaster.factor(forecaster.rung, MEMORY) if is_packed else None
        sizes = Sizes.of(pasts, percentile=0.95 if is_packed else 0.90, memory_margin=margin or 1.15)
        scale = 1.15
        if self.sizer != "vpa":
            if not self.knobs or (is_packed and replay.time_s >= self.knobs[-1][0] + 86_400):
                self.knobs.append((replay.time_s, self._knob(replay, names, pasts, sizes)))
            scale = self.knobs[-1][1]
        return sizes.forecasts(names, scale * self.scale, self.sizer), RightsizePolicy(margin=1.0)

    def _knob(self, replay: Replay, names: list[str], pasts: SingleArray, sizes: Sizes) -> float:
        learner, here = self.learner, self.learner.truth.here
        place = {name: i for i, name in enumerate(names)}
        row_of = np.array([place.get(name, -1) for name in learner.workloads] + [-1])
        of_pod = row_of[learner.workload_of_pods(here.pod)]
        pods = np.flatnonzero(of_pod >= 0)
        specs, classes = replay.trace.specs, replay.trace.pods.spec[here.pod[pods]]
        asked: FloatArray = np.array([specs[c].main_amounts[:2] for c in classes.tolist()], np.float64).reshape(-1, 2).T
        node = self.node_cpu, self.node_memory
        return least_scale(pasts, sizes, of_pod[pods], asked, node, self.budget, len(self.knobs))


def _alike(new: int, old: int) -> bool:
    return abs(new - old) <= 0.05 * old


@dataclass
class Restoring:
    """While the rung is shut, give right-sized pods on crowded nodes their request back, step by step."""

    rightsizing: Rightsizing
    every_s: int = STEP_S

    def act(self, replay: Replay) -> None:
        """One step."""
        if not self.rightsizing.learner.promises:
            self.rightsizing.restore(replay)
