"""What running pods really use, and what follows: throttling, kills, learning, and the two overcommit mechanisms.

Three policies of a replay (see :class:`simulator.replay.Policy`), each at its own interval:

:class:`UsageTruth` reads the recorded use of every running pod, throttles nodes over their CPU, kills on nodes over their
memory (:mod:`simulator.contention`) and keeps the records. :class:`UsageLearner` forecasts per workload from what was
measured, and swaps knowledge; it is the *history* rung with a factor that is calibrated on its own past outcomes.
:class:`Rightsizing` lowers requests of pods yet to come, and :class:`Reclaiming` sells what is asked for and not used;
both size with the very code that a cluster uses (:mod:`placement.rightsize`, :mod:`placement.reclaim`).
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from placement.errors import ConfigError
from placement.knowledge import NUM_WINDOWS, Forecast, Forecasts, workload_of
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
from placement.resources import CPU, MEMORY, BoolArray, FloatArray, IntArray
from placement.rightsize import RightsizePolicy, recommend
from placement.state import CPU_ROW, MEMORY_ROW
from placement.usage import DAY, HOUR, STEP_S, SingleArray
from simulator.contention import LEAST_WEIGHT, share_cpu, to_kill

if TYPE_CHECKING:
    from simulator.replay import Policy, Replay
    from simulator.trace import Trace, Usage

RESTART_S = 30
LOADS_EVERY_S = 3600
CHART_POINTS, MAP_COLUMNS, MAP_ROWS = 160, 96, 30
LEAST_OUTCOMES = 200
"""Outcomes of earlier forecasts, without which no factor is fitted."""
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


@dataclass(frozen=True)
class Here:
    """Who runs where, as columns; made anew only when somebody came or went."""

    uids: list[str]
    pod: IntArray
    """Index into the trace."""
    row: IntArray
    request: FloatArray
    """``(2, P)`` millicores and bytes."""
    priority: IntArray
    sold: BoolArray
    """Whether it runs on reclaimed capacity."""
    names: list[str]
    """Node names by row."""

    @classmethod
    def of(cls, replay: Replay) -> Here:
        """The present moment."""
        state = replay.state
        residents = list(state.residents.values())
        sold = np.array([is_reclaimed(r.spec) for r in residents], np.bool_)
        return cls(
            uids=[r.uid for r in residents],
            pod=np.array([replay.pod_of[r.uid] for r in residents], np.int64),
            row=np.array([r.row for r in residents], np.int64),
            request=np.array([r.spec.main_amounts[:2] for r in residents], np.float64).reshape(-1, 2).T,
            priority=np.array([r.spec.priority for r in residents], np.int64) - sold,
            sold=sold,
            names=[state.name(row) for row in range(state.num_rows)],
        )


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
    series: list[tuple[int, int, int, int, float]] = field(default_factory=list)
    """(time, nodes, nodes over CPU, kills, cores throttled) of each step."""
    loads: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Every :data:`LOADS_EVERY_S`: time, and by node the share of its CPU that its pods want; nodes without pods apart."""
    latest: FloatArray = field(default_factory=lambda: np.zeros((2, 0)))
    """``(2, P)``: what each pod of :attr:`here` got in this step, millicores and bytes."""

    over_now: BoolArray = field(default_factory=lambda: np.zeros(0, np.bool_))
    """``(N,)`` nodes whose guaranteed pods want more CPU than there is, in this step."""

    def __post_init__(self) -> None:
        self.recorded = RecordedUse(self.usage)
        self.here = Here(
            [], *(np.zeros(0, np.int64),) * 2, np.zeros((2, 0)), np.zeros(0, np.int64), np.zeros(0, bool), []
        )
        self._clock = -1
        self._recent: deque[tuple[int, int]] = deque(maxlen=DAY)

    @property
    def over_share_of_a_day(self) -> float:
        """Node-time in which guaranteed pods wanted more CPU than there is, of the last day."""
        return sum(over for over, _ in self._recent) / max(sum(alive for _, alive in self._recent), 1)

    def act(self, replay: Replay) -> None:
        """One step."""
        state = replay.state
        if self._clock != state.clock:
            self.here, self._clock = Here.of(replay), state.clock
        here = self.here
        want = self.recorded.at(here.pod, replay.time_s)
        lanes = [state.offered[lane, : state.num_rows].astype(np.float64) for lane in (CPU_ROW, MEMORY_ROW)]
        capacity = np.stack(lanes)
        got = share_cpu(here.row, np.maximum(here.request[0], LEAST_WEIGHT), want[0], capacity[0])
        killed = to_kill(here.row, want[1], here.request[1], here.priority, capacity[1])
        self.latest = np.stack([got, want[1]])
        if self.learner is not None:
            self.learner.observe(replay, killed)
        guaranteed = np.bincount(here.row, weights=want[0] * ~here.sold, minlength=capacity.shape[1])
        self.over_now = state.is_alive[: capacity.shape[1]] & (guaranteed > capacity[0])
        self._recent.append((int(self.over_now.sum()), int(state.is_alive[: capacity.shape[1]].sum())))
        if replay.time_s >= self.measured_from_s:
            self._record(replay, want, got, killed, capacity)
        for i in np.flatnonzero(killed).tolist():
            uid = here.uids[i]
            work = WHOLE if state.residents[uid].spec.owner.startswith("Job/") else 0
            replay.evict(uid, restart_s=RESTART_S, checkpoint_s=work)

    def _record(
        self, replay: Replay, want: FloatArray, got: FloatArray, killed: BoolArray, capacity: FloatArray
    ) -> None:
        here, sold = self.here, self.here.sold
        alive = replay.state.is_alive[: capacity.shape[1]]
        sums = [np.bincount(here.row, weights=w, minlength=len(alive)) for w in want]
        over = alive & (sums[0] > capacity[0])
        over_memory = alive & (sums[1] > capacity[1])
        self.node_steps += int(alive.sum())
        self.over_cpu_steps += int(over.sum())
        self.over_cpu_guaranteed_steps += int(self.over_now.sum())
        self.over_memory_steps += int(over_memory.sum())
        self.oom_kills += int(killed.sum())
        self.oom_kills_reclaimed += int((killed & sold).sum())
        lost = (want[0] - got) * self.every_s / 1000
        used = got * self.every_s / 1000
        self.throttled_core_s += float(lost.sum())
        self.throttled_reclaimed_core_s += float(lost[sold].sum())
        self.used_core_s += float(used.sum())
        self.used_reclaimed_core_s += float(used[sold].sum())
        for r in np.flatnonzero(over | over_memory).tolist():
            self.hot[here.names[r]][0] += 1
        for r in np.flatnonzero(alive).tolist():
            self.hot[here.names[r]][1] += 1
        cores = float(lost.sum()) / self.every_s
        self.series.append((replay.time_s, int(alive.sum()), int(over.sum()), int(killed.sum()), cores))
        if not self.loads or replay.time_s >= self.loads[-1][0] + LOADS_EVERY_S:
            rows = np.flatnonzero(alive & (np.bincount(here.row, minlength=len(alive)) > 0)).tolist()
            shares = {here.names[r]: float(sums[0][r] / max(capacity[0, r], 1.0)) for r in rows}
            self.loads.append((replay.time_s, shares))

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

    def charts(self) -> dict[str, Any]:
        """JSON-ready series and hot-node map for the report; seconds since records began."""
        size = max(1, -(-len(self.series) // CHART_POINTS))
        groups = [self.series[i : i + size] for i in range(0, len(self.series), size)]
        times = self.loads[:: max(1, -(-len(self.loads) // MAP_COLUMNS))]
        most: dict[str, float] = {}
        for _, shares in self.loads:
            for name, share in shares.items():
                most[name] = max(share, most.get(name, 0.0))
        hottest = sorted(most, key=lambda n: (-most[n], n))[:MAP_ROWS]
        return {
            "time_s": [g[0][0] - self.measured_from_s for g in groups],
            "over_cpu_share": [sum(s[2] for s in g) / max(sum(s[1] for s in g), 1) for g in groups],
            "oom_kills": [sum(s[3] for s in g) for g in groups],
            "throttled_cores": [round(sum(s[4] for s in g) / len(g), 3) for g in groups],
            "map": {
                "time_s": [t - self.measured_from_s for t, _ in times],
                "nodes": hottest,
                "cpu_share": [[None if n not in s else round(s[n], 3) for _, s in times] for n in hottest],
            },
        }


@dataclass
class UsageLearner:
    """Forecasts of each workload from its own past: largest samples, times factors fitted on past outcomes only.

    The base is the largest sample of the last :attr:`base_days`; two factors, one per resource, are set so that the
    promised share of what became of earlier forecasts would have been covered. Before :data:`LEAST_OUTCOMES` are known
    nothing is promised and requests stand, as they do once coverage leaves its band (:class:`CoverageMonitor`), and once
    nodes were over their CPU for more than ``budget`` of the last day, until it is less than half of that: workloads may
    all keep below their own peaks and yet be too much together.
    """

    truth: UsageTruth
    every_s: int = 3600
    quantile: float = 0.95
    horizon: int = 6 * HOUR
    base_days: int = 7
    least: int = 3 * HOUR
    """Samples without which a workload counts with its request."""
    factor: FloatArray = field(default_factory=lambda: np.array([1.0, 1.0]))
    is_calibrated: bool = False
    """Whether ``factor`` may be promised with; true from the start for a factor that was fitted elsewhere."""
    is_trusted: bool = True
    budget: float = 0.01
    coach: bool = False
    """Forecast as Coach does: the 95th percentile to be guaranteed, the maximum of each part of the day beside it."""
    rungs: list[tuple[int, str, float, float]] = field(default_factory=list)
    """(time, rung, coverage, node-time over CPU in the last day) at each change of rung."""

    def __post_init__(self) -> None:
        self.truth.learner = self
        self.monitor = CoverageMonitor()
        self.workloads: list[str] = []
        self._of_class: IntArray = np.zeros(0, np.int64)
        self._class_of_pod: IntArray = np.zeros(0, np.int64)
        self.past: SingleArray = np.zeros((0, 2, 0), np.float32)
        """``(W, 2, slots)``: the largest pod of each workload by step, millicores and bytes, in a ring; NaN = none."""
        self._open: list[tuple[int, IntArray, FloatArray, FloatArray]] = []
        self._ratios: list[FloatArray] = []
        self._is_over = False

    @property
    def promises(self) -> bool:
        """Whether forecasts are in force."""
        return self.is_calibrated and self.is_trusted

    @property
    def known(self) -> IntArray:
        """Workloads with :attr:`least` samples or more."""
        return np.flatnonzero(np.isfinite(self.past[:, 0]).sum(axis=1) >= self.least)

    def _begin(self, replay: Replay) -> None:
        specs = replay.trace.specs
        names = [workload_of(s.namespace, s.owner) for s in specs]
        self.workloads = sorted({name for name in names if name})
        index = {name: i for i, name in enumerate(self.workloads)}
        self._of_class = np.array([index.get(name, -1) for name in names], np.int64)
        self._class_of_pod = replay.trace.pods.spec
        self.past = np.full((len(self.workloads), 2, self.base_days * DAY), np.nan, np.float32)

    def observe(self, replay: Replay, killed: BoolArray) -> None:
        """Keep the largest pod of each workload of this step; a kill counts as VPA counts it: 1.2 times, +100 MiB."""
        if self._class_of_pod is not replay.trace.pods.spec:
            self._begin(replay)
        got = self.truth.latest.copy()
        got[1] = np.where(killed, np.maximum(1.2 * got[1], got[1] + 100 * MIB), got[1])
        workload = self.workload_of_pods(self.truth.here.pod)
        named = workload >= 0
        most = np.full((len(self.workloads), 2), -1.0)
        np.maximum.at(most, workload[named], got.T[named])
        self.past[:, :, replay.time_s // STEP_S % self.past.shape[2]] = np.where(most < 0, np.nan, most)

    def workload_of_pods(self, pods: IntArray) -> IntArray:
        """Index into ``workloads`` of pods of the trace; −1 for bare ones."""
        found: IntArray = self._of_class[self._class_of_pod[pods]]
        return found

    def ordered(self, now: int, slots: int) -> SingleArray:
        """``(W, 2, slots)`` the latest samples, oldest first; ``now`` is the last one's step."""
        size = self.past.shape[2]
        return self.past[:, :, np.arange(now - min(slots, size) + 1, now + 1) % size]

    def act(self, replay: Replay) -> None:
        """Judge what was promised, calibrate, forecast, and swap knowledge."""
        if self._class_of_pod is not replay.trace.pods.spec:
            self._begin(replay)
        now = replay.time_s // STEP_S
        self._judge(now, replay.time_s)
        known = self.known
        past = self.past[known]
        peak = np.nanmax(past, axis=2).astype(np.float64) if len(known) else np.zeros((0, 2))
        upper = peak * self.factor
        if now * STEP_S % (self.horizon * STEP_S) < self.every_s:
            self._open.append((now, known, peak, upper))
        of = self._forecasts(now, known, past, upper) if self.promises else {}
        found = Forecasts(of, "6h-peak", f"max{self.base_days}d, calibrated on past outcomes")
        replay.state.learn(replay.state.knowledge.but(forecasts=found), time_s=replay.time_s)

    def _forecasts(self, now: int, known: IntArray, past: SingleArray, upper: FloatArray) -> dict[str, Forecast]:
        if not len(known):
            return {}
        windows: list[tuple[tuple[int, int], ...]] = [()] * len(known)
        if self.coach:
            part = DAY // NUM_WINDOWS
            # The ring's length is whole days, so its places are times of day.
            day = np.arange(past.shape[2]) % DAY // part
            with np.errstate(all="ignore"):
                most = np.stack(
                    [np.nanmax(past[:, :, day == w], axis=2, initial=-1.0) for w in range(NUM_WINDOWS)], axis=1
                )
            most = np.where(most < 0, upper[:, None] / self.factor, most) * self.factor
            windows = [tuple((int(c), int(m)) for c, m in np.ceil(row).tolist()) for row in most]
            upper = percentiles(past, 0.95) * self.factor
        mean, spread = np.nanmean(past, axis=2), np.nanstd(past, axis=2)
        table = np.ceil(np.concatenate([upper, mean, spread], axis=1)).astype(np.int64).tolist()
        return {
            self.workloads[w]: Forecast(n[0], n[1], n[2], n[3], n[4], n[5], rung="history", windows=parts)
            for w, n, parts in zip(known.tolist(), table, windows, strict=True)
        }

    def _judge(self, now: int, time_s: int) -> None:
        while self._open and self._open[0][0] + self.horizon <= now:
            start, workload, peak, upper = self._open.pop(0)
            after = self.ordered(start + self.horizon, self.horizon)[workload]
            lived = np.isfinite(after[:, 0]).any(axis=1)
            truth = np.nanmax(after[lived], axis=2) if lived.any() else np.zeros((0, 2))
            self._ratios.append(truth / np.maximum(peak[lived], 1.0))
            if self.is_calibrated:
                below: BoolArray = truth <= upper[lived] * (1 + 1e-6)
                for covered in np.logical_and.reduce(below, axis=1).tolist():
                    self.monitor.observe("history", covered)
        self._ratios = self._ratios[-28:]
        outcomes = np.concatenate(self._ratios) if self._ratios else np.zeros((0, 2))
        if len(outcomes) >= LEAST_OUTCOMES:
            self.factor = np.maximum(np.quantile(outcomes, 1 - (1 - self.quantile) / 2, axis=0), 1.0)
            self.is_calibrated = True
        over = self.truth.over_share_of_a_day
        self._is_over = over > self.budget / 2 if self._is_over else over > self.budget
        trusted = self.monitor.trusted("history") and not self._is_over
        if trusted != self.is_trusted:
            self.is_trusted = trusted
            self.rungs.append((time_s, "history" if trusted else "request", self.monitor.coverage("history"), over))


def percentiles(past: SingleArray, share: float) -> FloatArray:
    """Along the last axis, of what is not NaN (at least one number): the sample at rank ``share``, rounded up."""
    order = np.sort(past, axis=-1)  # NaN come last
    last = np.isfinite(past).sum(axis=-1, keepdims=True) - 1
    rank = np.ceil(share * last).astype(np.int64)
    return np.take_along_axis(order, rank, axis=-1)[..., 0].astype(np.float64)


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
    frontier with. ``packed`` follows the learner's rung and falls to the request with it.
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
        """On nodes over their CPU, restart at their request the lowered pods that use most.

        As many as it takes for the rest to use :data:`CALM` of the node; VPA's updater evicts likewise.
        """
        truth, state = self.learner.truth, replay.state
        here, use = truth.here, truth.latest[0]
        for row in np.flatnonzero(truth.over_now).tolist():
            inside = np.flatnonzero(here.row == row)
            spare = float(use[inside].sum()) - CALM * float(state.offered[CPU_ROW, row])
            for i in inside[np.argsort(-use[inside], kind="stable")].tolist():
                uid = here.uids[i]
                resident = state.residents.get(uid)
                if spare <= 0 or resident is None or resident.row != row:
                    break
                if resident.spec.amount(CPU) < replay.specs[here.pod[i]].amount(CPU):
                    replay.evict(uid, restart_s=RESTART_S, checkpoint_s=0)
                    self.restored += 1
                    spare -= float(use[i])

    def _sizes(self, replay: Replay) -> tuple[Forecasts | None, RightsizePolicy]:
        learner = self.learner
        if self.sizer == "forecast":
            return replay.state.knowledge.forecasts, RightsizePolicy()
        if not len(learner.past) or (self.sizer == "packed" and not learner.promises):
            return None, RightsizePolicy()
        known = learner.known
        past = learner.past[known]
        if not len(known):
            return None, RightsizePolicy()
        if self.sizer == "vpa-tuned" and replay.time_s < self.tuned_at_s:
            return None, RightsizePolicy()
        cpu = percentiles(past[:, 0], 0.95 if self.sizer == "packed" else 0.90)
        least = np.nanmean(past[:, 0], axis=1).astype(np.float64)
        margin = learner.factor[1] if self.sizer == "packed" else 1.15
        memory = margin * np.nanmax(past[:, 1], axis=1).astype(np.float64)
        scale = 1.15 * self.scale
        if self.sizer in ("packed", "vpa-tuned"):
            is_due = not self.knobs or (self.sizer == "packed" and replay.time_s >= self.knobs[-1][0] + 86_400)
            if is_due:
                self.knobs.append((replay.time_s, self._packed(replay, known, (cpu, least, memory))))
            scale = self.knobs[-1][1] * self.scale
        sizes = np.ceil(np.stack([np.maximum(cpu * scale, least), memory], axis=1)).astype(np.int64).tolist()
        found = {
            learner.workloads[w]: Forecast(c, m, c, m, rung="history")
            for w, (c, m) in zip(known.tolist(), sizes, strict=True)
        }
        return Forecasts(found, self.sizer), RightsizePolicy(margin=1.0)

    def _packed(self, replay: Replay, known: IntArray, sizes: tuple[FloatArray, FloatArray, FloatArray]) -> float:
        """Least scale of CPU with which the pods here would have kept :data:`AIM` of the budget, packed at random.

        ``sizes`` are CPU, the least CPU, and memory of each known workload's pods; none asks for more than it does.
        """
        learner, here = self.learner, self.learner.truth.here
        place = np.full(len(learner.workloads) + 1, -1)
        place[known] = np.arange(len(known))
        of_pod = place[learner.workload_of_pods(here.pod)]
        pods = np.flatnonzero(of_pod >= 0)
        if not len(pods):
            return SCALES[-1]
        specs, classes = replay.trace.specs, replay.trace.pods.spec[here.pod[pods]]
        asked = np.array([specs[c].main_amounts[:2] for c in classes.tolist()], np.float64).T
        use = np.nan_to_num(learner.past[known][:, 0, ::2])[of_pod[pods]]
        cpu, least, memory = (column[of_pod[pods]] for column in sizes)
        rng = np.random.default_rng([len(self.knobs), 0xAC])
        orders = [rng.permutation(len(pods)) for _ in range(4)]
        best = SCALES[-1]
        for scale in reversed(SCALES):
            size = np.minimum(np.maximum(cpu * scale, least), asked[0])
            shares = np.stack([size / self.node_cpu, np.minimum(memory, asked[1]) / self.node_memory])
            if np.mean([_over(use[o], shares[:, o], self.node_cpu) for o in orders]) > AIM * self.budget:
                break
            best = scale
        return best


SCALES = tuple(float(x) for x in np.round(np.geomspace(0.3, 4.0, 20), 3))
CALM = 0.8
AIM = 0.4
"""Of the budget that is aimed at on past days: those to come are worse."""


def _over(use: SingleArray, shares: FloatArray, capacity: int) -> float:
    """Share of (node, step) over ``capacity`` when pods fill one node after the other.

    ``use`` is ``(P, T)`` millicores, ``shares`` is ``(2, P)`` of a node's CPU and memory that each pod asks for.
    """
    first, cpu, memory = [0], 0.0, 0.0
    for i, (c, m) in enumerate(shares.T.tolist()):
        if i and (cpu + c > 1 or memory + m > 1):
            first.append(i)
            cpu = memory = 0.0
        cpu, memory = cpu + c, memory + m
    return float((np.add.reduceat(use, first, axis=0) > capacity).mean())


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


@dataclass
class Rollouts:
    """Each workload is rolled out once a week, at an hour drawn with the seed: its pods restart one after the other."""

    seed: int = 0
    hours: int = 168
    every_s: int = 3600

    def act(self, replay: Replay) -> None:
        """Restart what is due in this hour."""
        hour = replay.time_s // self.every_s % self.hours
        owners = {name: i for i, name in enumerate(sorted({s.owner for s in replay.trace.specs}))}
        due = np.random.default_rng([self.seed, 0x2011]).integers(0, self.hours, len(owners)) == hour
        for uid in [r.uid for r in replay.state.residents.values() if due[owners[r.spec.owner]]]:
            replay.evict(uid, restart_s=RESTART_S, checkpoint_s=0)


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
        state, truth = replay.state, self.truth
        use = dict(zip(truth.here.uids, truth.latest.T.tolist(), strict=True))
        here = Here.of(replay)
        own = ~here.sold
        expects = self._expected(replay, here)
        measured = np.array([use.get(uid, (-1.0, -1.0)) for uid in here.uids]).reshape(-1, 2).T
        fresh = measured[0] < 0
        num = state.num_rows

        def by_node(values: FloatArray, who: BoolArray) -> IntArray:
            """(2, N) sums over some pods."""
            return np.stack([np.bincount(here.row[who], weights=v[who], minlength=num) for v in values]).astype(
                np.int64
            )

        sums = np.concatenate([by_node(expects, own), by_node(measured, own & ~fresh), by_node(expects, own & fresh)])
        occupied = np.bincount(here.row[own], minlength=num) > 0
        sold: dict[int, list[ReclaimedPod]] = defaultdict(list)
        for i in np.flatnonzero(here.sold).tolist():
            r = state.residents[here.uids[i]]
            sold[r.row].append(
                ReclaimedPod(r.uid, r.spec.amount(RECLAIMED_CPU), r.spec.amount(RECLAIMED_MEMORY), r.since_s)
            )
        for row, node in enumerate(list(state.nodes)):
            if node is None:
                continue
            before = self.offers.get(node.name, Offer())
            load = Load(int(state.offered[CPU_ROW, row]), int(state.offered[MEMORY_ROW, row]), *sums[:, row].tolist())
            new = offer(load, before, self.policy) if occupied[row] else Offer()
            self.offered_core_s += new.cpu_milli * self.every_s / 1000
            if new != before:
                self.offers[node.name] = new
                extended = {**node.amounts, RECLAIMED_CPU: new.cpu_milli, RECLAIMED_MEMORY: new.memory_mib}
                state.update_node(replace(node, allocatable=tuple(sorted(extended.items()))), time_s=replay.time_s)
                replay.wake(row)
            for uid in to_evict(sold[row], new):
                replay.evict(uid, restart_s=RESTART_S, checkpoint_s=0)
                self.evictions += 1

    def _expected(self, replay: Replay, here: Here) -> FloatArray:
        """``(2, P)``: what each pod is expected to use at most."""
        forecasts = replay.state.knowledge.forecasts
        known: dict[PodSpec, tuple[int, int]] = {}
        found = []
        for uid in here.uids:
            spec = replay.state.residents[uid].spec
            if spec not in known:
                known[spec] = expected(spec, forecasts)
            found.append(known[spec])
        return np.array(found, np.float64).reshape(-1, 2).T


MECHANISMS = ("none", "rightsized", "reclaimed")
"""How a replay may overcommit: not at all, by lower requests, by capacity that is sold a second time."""


def use_policies(trace: Trace, mechanism: str, measured_from_s: int) -> tuple[UsageTruth, tuple[Policy, ...]]:
    """Real use, what is learned from it, and the mechanism that overcommits, for a trace with usage.

    Raises
    ------
    ConfigError : no such mechanism, or the trace has no usage.
    """
    if mechanism not in MECHANISMS:
        raise ConfigError(f"mechanism {mechanism!r} is not one of {', '.join(MECHANISMS)}")
    if not len(trace.usage.pod):
        raise ConfigError(
            f"trace {trace.manifest.name} records no usage; join it with a recording first: ullage trace join"
        )
    truth = UsageTruth(trace.usage, measured_from_s=measured_from_s)
    learner = UsageLearner(truth)
    rightsizing = Rightsizing(learner)
    more: dict[str, tuple[Policy, ...]] = {
        "rightsized": (rightsizing, Restoring(rightsizing)),
        "reclaimed": (Reclaiming(truth),),
    }
    return truth, (truth, learner, *more.get(mechanism, ()))


def batch_on_reclaimed(trace: Trace, seed: int) -> Trace:
    """A third of the workloads, drawn with the seed, asks for reclaimed capacity."""
    owners = sorted({s.owner for s in trace.specs})
    batch = {o for o, x in zip(owners, np.random.default_rng([seed, 3]).random(len(owners)), strict=True) if x < 1 / 3}
    return trace.but(specs=tuple(on_reclaimed(s) if s.owner in batch else s for s in trace.specs))


def on_reclaimed(spec: PodSpec) -> PodSpec:
    """The same pod, asking for reclaimed capacity instead of its own."""
    others = {r: a for r, a in spec.request if r not in (CPU, MEMORY)}
    amounts = {**others, RECLAIMED_CPU: spec.amount(CPU), RECLAIMED_MEMORY: -(-spec.amount(MEMORY) // MIB)}
    return replace(spec, request=tuple(sorted(amounts.items())), priority=-1)
