"""What running pods really use, and what follows on their nodes: throttling, kills and their records.

A policy of a replay (see :class:`simulator.replay.Policy`): every five minutes it reads the recorded use of every running
pod, throttles nodes over their CPU, kills on nodes over their memory (:mod:`simulator.usage.contention`). Who learns from it, and
what overcommits, are policies of their own (:mod:`simulator.usage.usage_learner`, :mod:`simulator.usage.mechanisms`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from placement.learning.reclaim import is_reclaimed
from placement.learning.usage import STEP_S
from placement.resources import BoolArray, FloatArray, IntArray
from placement.state import CPU_ROW, MEMORY_ROW
from simulator.usage.contention import LEAST_WEIGHT, share_cpu, to_kill

if TYPE_CHECKING:
    from simulator.replay import Replay
    from simulator.traces.trace import Usage

RESTART_S = 30
DAY_S = 86_400
LOADS_EVERY_S = 3600
CHART_POINTS, MAP_COLUMNS, MAP_ROWS = 160, 96, 30
WHOLE = 2**40
"""Seconds since a checkpoint that a Job never made: all its work is done again."""


class RecordedUse:
    """Use of pods by time, from a trace's usage table; a pod without a sample at hand uses its last, or nothing.

    Each resource by itself: a rate takes two samples, so a young pod's memory is known before its CPU.
    """

    def __init__(self, usage: Usage) -> None:
        order = np.lexsort((usage.time_s, usage.pod))
        self.pod, self.time_s = usage.pod[order], usage.time_s[order]
        self.columns = np.stack([self._filled(c[order]) for c in (usage.cpu_millicores, usage.memory_bytes)])
        self.span = int(self.time_s.max()) + 1 if len(order) else 1
        self.key = self.pod * self.span + self.time_s

    def _filled(self, column: IntArray) -> FloatArray:
        """``(S,)`` float64: what was measured at each row, or before of the same pod; 0 where nothing was."""
        last = np.maximum.accumulate(np.where(column >= 0, np.arange(len(column)), -1))
        known = (last >= 0) & (self.pod[last] == self.pod)
        return np.where(known, column[last], 0).astype(np.float64)

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
            names=[state.names[row] for row in range(state.num_rows)],
        )


class Observer(Protocol):
    """Who is told what was measured."""

    def observe(self, replay: Replay, killed: BoolArray) -> None:
        """Of one step: what pods got is in :attr:`UsageTruth.latest`; ``killed (P,)`` lost their memory."""


@dataclass
class UsageTruth:
    """Contention of every step, and its records."""

    usage: Usage
    measured_from_s: int = 0
    """Records begin here; before it, contention happens all the same."""
    every_s: int = STEP_S
    learner: Observer | None = None
    """Sees what was measured in each step."""
    node_steps: int = 0
    over_cpu_steps: int = 0
    over_cpu_guaranteed_steps: int = 0
    """Node-steps in which pods that are not on reclaimed capacity wanted more CPU than the node has."""
    days: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    """Day since records began → node-steps over CPU by such pods, all node-steps, steps."""
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
        guaranteed = np.bincount(here.row, weights=want[0] * ~here.sold, minlength=capacity.shape[1])
        self.over_now = state.is_alive[: capacity.shape[1]] & (guaranteed > capacity[0])
        if self.learner is not None:
            self.learner.observe(replay, killed)
        if replay.time_s >= self.measured_from_s:
            self._record(replay, want, got, killed, capacity)
        for i in np.flatnonzero(killed).tolist():
            work = WHOLE if replay.specs[here.pod[i]].owner.startswith("Job/") else 0
            replay.evict(here.uids[i], restart_s=RESTART_S, checkpoint_s=work)

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
        day = self.days[(replay.time_s - self.measured_from_s) // DAY_S]
        day[0] += int(self.over_now.sum())
        day[1] += int(alive.sum())
        day[2] += 1
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
        """JSON-ready; shares are of node-time; ``over_cpu_worst_day`` is by guaranteed pods, of whole days."""
        steps = max(self.node_steps, 1)
        by_guaranteed = self.over_cpu_guaranteed_steps / steps
        whole = [over / max(alive, 1) for over, alive, num in self.days.values() if num >= DAY_S // self.every_s]
        return {
            "over_cpu_share": self.over_cpu_steps / steps,
            "over_cpu_guaranteed_share": by_guaranteed,
            "over_cpu_worst_day": max(whole, default=by_guaranteed),
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
