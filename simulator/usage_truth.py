"""What running pods really use, and what follows: throttling, kills, learning, and the two overcommit mechanisms.

Three policies of a replay (see :class:`simulator.replay.Policy`), each at its own interval:

:class:`UsageTruth` reads the recorded use of every running pod, throttles nodes over their CPU, kills on nodes over their
memory (:mod:`simulator.contention`) and keeps the records. :class:`UsageLearner` forecasts per workload from what was
measured, and swaps knowledge; it is the *history* rung with a factor that is calibrated on its own past outcomes.
:class:`Rightsizing` lowers requests of pods yet to come, and :class:`Reclaiming` sells what is asked for and not used;
both size with the very code that a cluster uses (:mod:`placement.rightsize`, :mod:`placement.reclaim`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from placement.knowledge import Forecast, Forecasts, workload_of
from placement.pods import PodSpec
from placement.prediction import CoverageMonitor
from placement.reclaim import (
    MIB,
    RECLAIMED_CPU,
    RECLAIMED_MEMORY,
    Load,
    Offer,
    ReclaimedPod,
    ReclaimPolicy,
    expected,
    is_reclaimed,
    offer,
    to_evict,
)
from placement.resources import CPU, MEMORY, FloatArray, IntArray
from placement.rightsize import recommend
from placement.state import CPU_ROW, MEMORY_ROW
from placement.usage import DAY, HOUR, STEP_S
from simulator.contention import LEAST_WEIGHT, share_cpu, to_kill

if TYPE_CHECKING:
    from simulator.replay import Replay
    from simulator.trace import Usage

RESTART_S = 30
WHOLE = 2**40
"""Seconds since a checkpoint that a Job never made: all its work is done again."""


class RecordedUse:
    """Use of pods by time, from a trace's usage table; a pod without a sample at hand uses its last, or nothing."""

    def __init__(self, usage: Usage) -> None:
        order = np.lexsort((usage.time_s, usage.pod))
        self.pod, self.time_s = usage.pod[order], usage.time_s[order]
        self.columns = np.stack([usage.cpu_millicores[order], usage.memory_bytes[order]]).astype(np.float64)
        self.span = int(self.time_s.max()) + 1 if len(order) else 1
        self.key = self.pod * self.span + self.time_s

    def at(self, pods: IntArray, time_s: int) -> FloatArray:
        """``(2, P)`` float64: millicores and bytes of the newest sample not after ``time_s``."""
        if not len(self.key):
            return np.zeros((2, len(pods)))
        found = np.searchsorted(self.key, pods * self.span + min(time_s, self.span - 1), side="right") - 1
        known = (found >= 0) & (self.pod[found] == pods)
        return np.where(known, self.columns[:, found], 0.0)


@dataclass
class UsageTruth:
    """Contention of every step, and its records."""

    usage: Usage
    measured_from_s: int = 0
    """Records begin here; before it, contention happens all the same."""
    every_s: int = STEP_S
    learner: UsageLearner | None = None
    """Sees what was measured in each step."""
    node_steps: int = 0
    over_cpu_steps: int = 0
    over_cpu_guaranteed_steps: int = 0
    """Node-steps in which pods that are not on reclaimed capacity wanted more CPU than the node has."""
    over_memory_steps: int = 0
    oom_kills: int = 0
    oom_kills_reclaimed: int = 0
    throttled_core_s: float = 0.0
    throttled_reclaimed_core_s: float = 0.0
    used_core_s: float = 0.0
    used_reclaimed_core_s: float = 0.0
    hot: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    """Node → steps over capacity, steps alive."""
    series: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(time, nodes, nodes over CPU, kills) of each step."""
    latest: tuple[list[str], IntArray, FloatArray] = field(
        default_factory=lambda: ([], np.zeros(0, np.int64), np.zeros((2, 0)))
    )
    """Of this step: pods, their rows, and what each got (millicores, bytes)."""

    def __post_init__(self) -> None:
        self.recorded = RecordedUse(self.usage)

    def act(self, replay: Replay) -> None:
        """One step."""
        state = replay.state
        residents = list(state.residents.values())
        uids = [r.uid for r in residents]
        row = np.array([r.row for r in residents], np.int64)
        want = self.recorded.at(np.array([replay.pod_of[u] for u in uids], np.int64), replay.time_s)
        sold = np.array([is_reclaimed(r.spec) for r in residents], np.bool_)
        asked = np.array([[r.spec.amount(CPU), r.spec.amount(MEMORY)] for r in residents], np.float64).reshape(-1, 2).T
        capacity = np.stack([state.offered[lane, : state.num_rows] for lane in (CPU_ROW, MEMORY_ROW)]).astype(
            np.float64
        )
        weight = np.maximum(asked[0], LEAST_WEIGHT)
        got = share_cpu(row, weight, want[0], capacity[0])
        priority = np.array([r.spec.priority for r in residents], np.int64) - sold
        killed = to_kill(row, want[1], asked[1], priority, capacity[1])
        self.latest = (uids, row, np.stack([got, want[1]]))
        if self.learner is not None:
            self.learner.observe(replay)
        if replay.time_s >= self.measured_from_s:
            self._record(replay, row, want, got, sold, killed, capacity)
        for i in np.flatnonzero(killed).tolist():
            work = WHOLE if residents[i].spec.owner.startswith("Job/") else 0
            replay.evict(uids[i], restart_s=RESTART_S, checkpoint_s=work)

    def _record(
        self,
        replay: Replay,
        row: IntArray,
        want: FloatArray,
        got: FloatArray,
        sold: Any,
        killed: Any,
        capacity: FloatArray,
    ) -> None:
        state = replay.state
        alive = state.is_alive[: state.num_rows]
        sums = [np.bincount(row, weights=w, minlength=len(alive)) for w in (want[0], want[0] * ~sold, want[1])]
        over = alive & (sums[0] > capacity[0])
        over_memory = alive & (sums[2] > capacity[1])
        self.node_steps += int(alive.sum())
        self.over_cpu_steps += int(over.sum())
        self.over_cpu_guaranteed_steps += int((alive & (sums[1] > capacity[0])).sum())
        self.over_memory_steps += int(over_memory.sum())
        self.oom_kills += int(killed.sum())
        self.oom_kills_reclaimed += int((killed & sold).sum())
        lost = (want[0] - got) * self.every_s / 1000
        used = got * self.every_s / 1000
        self.throttled_core_s += float(lost.sum())
        self.throttled_reclaimed_core_s += float(lost[sold].sum())
        self.used_core_s += float(used.sum())
        self.used_reclaimed_core_s += float(used[sold].sum())
        for r in np.flatnonzero(alive).tolist():
            tally = self.hot[state.name(r)]
            tally[0] += int(over[r] or over_memory[r])
            tally[1] += 1
        self.series.append((replay.time_s, int(alive.sum()), int(over.sum()), int(killed.sum())))

    def summary(self) -> dict[str, Any]:
        """JSON-ready; shares are of node-time."""
        steps = max(self.node_steps, 1)
        return {
            "over_cpu_share": self.over_cpu_steps / steps,
            "over_cpu_guaranteed_share": self.over_cpu_guaranteed_steps / steps,
            "over_memory_share": self.over_memory_steps / steps,
            "oom_kills": self.oom_kills,
            "oom_kills_reclaimed": self.oom_kills_reclaimed,
            "throttled_core_hours": self.throttled_core_s / 3600,
            "throttled_reclaimed_core_hours": self.throttled_reclaimed_core_s / 3600,
            "used_core_hours": self.used_core_s / 3600,
            "reclaimed_core_hours": self.used_reclaimed_core_s / 3600,
            "hottest_nodes": sorted(
                ((name, over / alive) for name, (over, alive) in self.hot.items() if over), key=lambda x: (-x[1], x[0])
            )[:20],
        }


@dataclass
class UsageLearner:
    """Forecasts of each workload: its largest sample of a day, times a factor fitted on past outcomes only."""

    truth: UsageTruth
    every_s: int = 3600
    quantile: float = 0.95
    horizon: int = 6 * HOUR
    least: int = 3 * HOUR
    """Samples without which a workload counts with its request."""
    factor: FloatArray = field(default_factory=lambda: np.array([1.5, 1.2]))
    is_trusted: bool = True
    rungs: list[tuple[int, str, float]] = field(default_factory=list)
    """(time, rung, coverage) at each change of rung."""

    def __post_init__(self) -> None:
        self.truth.learner = self
        self.monitor = CoverageMonitor()
        self._past: dict[str, dict[int, FloatArray]] = defaultdict(dict)
        self._open: list[tuple[int, dict[str, tuple[FloatArray, FloatArray]]]] = []
        self._ratios: list[FloatArray] = []
        self._last_s = -1

    def observe(self, replay: Replay) -> None:
        """Keep the largest pod of each workload of this step, as shares of its request."""
        uids, _row, got = self.truth.latest
        slot = replay.time_s // STEP_S
        for uid, cpu, memory in zip(uids, got[0].tolist(), got[1].tolist(), strict=True):
            spec = replay.trace.specs[replay.trace.pods.spec[replay.pod_of[uid]]]
            name = workload_of(spec.namespace, spec.owner)
            past = self._past[name]
            value = np.array([cpu, memory])
            past[slot] = np.maximum(past[slot], value) if slot in past else value

    def act(self, replay: Replay) -> None:
        """Judge what was promised, calibrate, forecast, and swap knowledge."""
        now = replay.time_s // STEP_S
        self._judge(now, replay.time_s)
        of, promised = {}, {}
        for name, past in self._past.items():
            for slot in [s for s in past if s <= now - DAY]:
                del past[slot]
            if len(past) < self.least:
                continue
            window = np.array(list(past.values()))
            peak = window.max(axis=0)
            upper = peak * self.factor
            promised[name] = (peak, upper)
            mean, spread = window.mean(axis=0), window.std(axis=0)
            cpu, memory = np.ceil(np.stack([upper, mean, spread])).astype(np.int64).T.tolist()
            of[name] = Forecast(cpu[0], memory[0], cpu[1], memory[1], cpu[2], memory[2], "history")
        if now * STEP_S % (self.horizon * STEP_S) < self.every_s:
            self._open.append((now, promised))
        found = Forecasts(of if self.is_trusted else {}, "6h-peak", "max24h, calibrated on past outcomes")
        replay.state.learn(replay.state.knowledge.but(forecasts=found), time_s=replay.time_s)

    def _judge(self, now: int, time_s: int) -> None:
        while self._open and self._open[0][0] + self.horizon <= now:
            start, promised = self._open.pop(0)
            for name, (peak, upper) in promised.items():
                past = self._past.get(name, {})
                after = [v for s, v in past.items() if start < s <= start + self.horizon]
                if not after:
                    continue
                truth = np.max(after, axis=0)
                self._ratios.append(truth / np.maximum(peak, 1.0))
                self.monitor.observe("history", bool((truth <= upper).all()))
        self._ratios = self._ratios[-4000:]
        if len(self._ratios) >= 200:
            self.factor = np.maximum(np.quantile(np.array(self._ratios), 1 - (1 - self.quantile) / 2, axis=0), 1.0)
        trusted = self.monitor.trusted("history")
        if trusted != self.is_trusted:
            self.is_trusted = trusted
            self.rungs.append((time_s, "history" if trusted else "request", self.monitor.coverage("history")))


@dataclass
class Rightsizing:
    """Lower the requests of pods that have not arrived yet, as an admission policy would, after every new forecast."""

    every_s: int = 3600
    kept_namespaces: frozenset[str] = frozenset()

    def act(self, replay: Replay) -> None:
        """Rewrite classes to come; who runs keeps what he asked for until he is placed anew."""
        forecasts = replay.state.knowledge.forecasts
        pods, specs = replay.trace.pods, replay.trace.specs
        lowered: dict[int, PodSpec] = {}
        for c, spec in enumerate(specs):
            if is_reclaimed(spec):
                continue
            (found,) = recommend([(spec, 1)], forecasts, kept_namespaces=self.kept_namespaces) or (None,)
            if found is not None:
                amounts = {**dict(spec.request), CPU: found.new_cpu, MEMORY: found.new_memory}
                lowered[c] = replace(spec, request=tuple(sorted((r, a) for r, a in amounts.items() if a)))
        for pod in range(replay.timeline.num_arrived, len(pods)):
            c = int(pods.spec[pod])
            replay.specs[pod] = lowered.get(c, specs[c])


@dataclass
class Reclaiming:
    """Offer on each node what others asked for and will not use; take it back when use rises."""

    truth: UsageTruth
    policy: ReclaimPolicy = field(default_factory=ReclaimPolicy)
    every_s: int = STEP_S
    evictions: int = 0
    offered_core_s: float = 0.0
    offers: dict[str, Offer] = field(default_factory=dict)

    def act(self, replay: Replay) -> None:
        """Size every node's offer, then evict who no longer fits."""
        state = replay.state
        forecasts = state.knowledge.forecasts
        use = dict(zip(self.truth.latest[0], self.truth.latest[2].T.tolist(), strict=True))
        for row, node in enumerate(list(state.nodes)):
            if node is None:
                continue
            here = list(state.residents_on[row].values())
            own = [r for r in here if not is_reclaimed(r.spec)]
            expects = np.array([expected(r.spec, forecasts) for r in own], np.int64).reshape(-1, 2)
            used = np.array([use.get(r.uid, (0.0, 0.0)) for r in own]).reshape(-1, 2).sum(axis=0)
            fresh = [e for r, e in zip(own, expects.tolist(), strict=True) if r.uid not in use]
            unmeasured = np.array(fresh, np.int64).reshape(-1, 2).sum(axis=0)
            cpu, memory = int(state.offered[CPU_ROW, row]), int(state.offered[MEMORY_ROW, row])
            load = Load(
                cpu, memory, *expects.sum(axis=0).tolist(), *used.astype(np.int64).tolist(), *unmeasured.tolist()
            )
            new = offer(load, self.offers.get(node.name, Offer()), self.policy) if own else Offer()
            self.offered_core_s += new.cpu_milli * self.every_s / 1000
            sold = [
                ReclaimedPod(r.uid, r.spec.amount(RECLAIMED_CPU), r.spec.amount(RECLAIMED_MEMORY), r.since_s)
                for r in here
                if is_reclaimed(r.spec)
            ]
            if new != self.offers.get(node.name, Offer()):
                self.offers[node.name] = new
                extended = {**node.amounts, RECLAIMED_CPU: new.cpu_milli, RECLAIMED_MEMORY: new.memory_mib}
                state.update_node(replace(node, allocatable=tuple(sorted(extended.items()))), time_s=replay.time_s)
                replay.wake(row)
            for uid in to_evict(sold, new):
                replay.evict(uid, restart_s=RESTART_S, checkpoint_s=0)
                self.evictions += 1


def on_reclaimed(spec: PodSpec) -> PodSpec:
    """The same pod, asking for reclaimed capacity instead of its own."""
    others = {r: a for r, a in spec.request if r not in (CPU, MEMORY)}
    amounts = {**others, RECLAIMED_CPU: spec.amount(CPU), RECLAIMED_MEMORY: -(-spec.amount(MEMORY) // MIB)}
    return replace(spec, request=tuple(sorted(amounts.items())), priority=-1)
