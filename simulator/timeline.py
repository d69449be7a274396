"""What was seen along a replay: exact integrals over time, and a series of samples to draw.

Integrals (resource-seconds taken and offered, node-seconds per shape) are kept as integers and so do not depend
on how often anybody looks: a change of ``x`` at time ``t`` adds ``x·t`` to a moment, and what is there at the end times
the end less the moment is the integral. Samples are taken on a fixed grid of the measured window.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from placement.columns import Columns
from placement.fragments import FRAGMENT_CAUSES, fragments
from placement.knowledge import Knowledge, Workload
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU, DEVICE_MILLI, GPU_SHARE, MAX_AMOUNT, MEMORY, IntArray
from placement.state import CPU_ROW, GPU_ROW, MEMORY_ROW, PODS_ROW, ClusterState

MEASURED = (CPU, MEMORY, GPU_SHARE)
"""Resources that reports show; (millicores, bytes, milli-GPU)."""
MOST_SAMPLES = 4
"""A series has at most so many times the samples that were asked for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The cluster at one moment. Amounts in kube-scheduler's units."""

    time_s: int
    arrived_gpu_milli: int
    taken: tuple[int, int, int]
    """CPU, memory, GPU share of residents."""
    offered: tuple[int, int, int]
    num_nodes: int
    num_empty_nodes: int
    num_running: int
    num_arrived: int
    stranded_gpu_milli: int
    """Free GPU share on nodes with less free CPU than the smallest one-GPU pod asks for."""
    stranded_cpu: int
    """Free millicores on nodes whose memory is full (under 1 %)."""
    fragmented_gpu_milli: float
    """FGD's expected fragment, NaN where no workload is known."""


@dataclass
class Timeline:
    """Totals now, integrals since ``start_s``, samples so far."""

    state: ClusterState
    start_s: int
    end_s: int
    """When the last sample is expected: the end of the replay, or the last arrival."""
    samples: int
    specs: tuple[PodSpec, ...]
    classes: IntArray
    """``(P,)`` index into ``specs`` of each pod, in order of arrival."""
    workload: Workload | None = None
    """Target workload of the fragmentation measure (the whole trace's, known afterwards); no decision reads it."""
    time_s: int = 0
    series: list[Sample] = field(default_factory=list)
    node_s: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Node-seconds per (shape, spot); nodes without a shape count under their own names."""
    taken_s: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Resource-seconds taken, in the order of :data:`MEASURED`; known when the window is closed."""
    offered_s: list[int] = field(default_factory=lambda: [0, 0, 0])
    empty_node_s: int = 0
    fragment_causes: dict[str, float] = field(default_factory=dict)
    """Milli-GPU that are fragments at the last sample, by cause; empty where no GPU is offered."""
    peak: Counter[str] = field(default_factory=Counter)
    """Nodes per shape when there were most of them; nodes without a shape are left out."""

    def __post_init__(self) -> None:
        self.time_s = self._fleet_since_s = self.start_s
        self._taken = [0, 0, 0]
        self._moment = [0, 0, 0]
        self._empty_moment = 0
        self._offered = [0, 0, 0]
        self._alive: Counter[tuple[str, bool]] = Counter()
        self._of_shape: Counter[str] = Counter()
        self._num_alive = self._most_alive = 0
        self._priorities: Counter[int] = Counter()
        self.num_arrived = 0
        """Pods that have entered the queue so far."""
        gpus = np.array([spec.main_amounts[2] for spec in self.specs], np.int64)
        self._arrived_gpu = np.concatenate([[0], np.cumsum(gpus[self.classes])])
        whole = [spec.gpu is not None and spec.gpu.milli == DEVICE_MILLI for spec in self.specs]
        least = np.array([s.main_amounts[0] if w else MAX_AMOUNT for s, w in zip(self.specs, whole, strict=True)])
        self._need_cpu = np.concatenate([[MAX_AMOUNT], np.minimum.accumulate(least[self.classes])])
        self._num_running = 0
        self._num_empty = 0
        self._step = max((self.end_s - self.start_s) // max(self.samples, 1), 1)
        self.next_s = self.start_s + 1
        """When the next sample is due; the first shows what came in the first second."""
        self._columns: Columns | None = None
        """Of the device models that are there; made anew when a node has joined."""

    # ── changes ───────────────────────────────────────────────────────────────────────────────

    def placed(self, spec: PodSpec, row: int, time_s: int) -> None:
        """A pod started on a node (already in the ledger)."""
        since = time_s - self.start_s
        if since < 0:
            since = 0
        cpu, memory, gpu = spec.main_amounts
        taken, moment = self._taken, self._moment
        taken[0] += cpu
        taken[1] += memory
        taken[2] += gpu
        moment[0] += cpu * since
        moment[1] += memory * since
        moment[2] += gpu * since
        self._num_running += 1
        if len(self.state.residents_on[row]) == 1:
            self._num_empty -= 1
            self._empty_moment -= since
        if spec.priority:
            self._priorities[spec.priority] += 1

    def released(self, spec: PodSpec, row: int, time_s: int) -> None:
        """A pod left a node (already out of the ledger)."""
        since = time_s - self.start_s
        if since < 0:
            since = 0
        cpu, memory, gpu = spec.main_amounts
        taken, moment = self._taken, self._moment
        taken[0] -= cpu
        taken[1] -= memory
        taken[2] -= gpu
        moment[0] -= cpu * since
        moment[1] -= memory * since
        moment[2] -= gpu * since
        self._num_running -= 1
        if not self.state.residents_on[row]:
            self._num_empty += 1
            self._empty_moment += since
        if spec.priority:
            self._priorities[spec.priority] -= 1

    def node_up(self, node: NodeSpec, time_s: int) -> None:
        """A node joined, empty."""
        self._settle_fleet(time_s)
        self._columns = None
        for i, name in enumerate(MEASURED):
            self._offered[i] += node.amounts.get(name, 0)
        self._alive[node.shape or node.name, node.spot] += 1
        self._num_alive += 1
        self._num_empty += 1
        self._empty_moment += self._since(time_s)
        if node.shape:
            self._of_shape[node.shape] += 1
        if self._num_alive > self._most_alive:
            self._most_alive, self.peak = self._num_alive, +self._of_shape

    def node_down(self, node: NodeSpec, residents: list[PodSpec], time_s: int) -> None:
        """A node left, with what ran on it."""
        self._settle_fleet(time_s)
        since = self._since(time_s)
        for i, name in enumerate(MEASURED):
            self._offered[i] -= node.amounts.get(name, 0)
        self._alive[node.shape or node.name, node.spot] -= 1
        self._num_alive -= 1
        if node.shape:
            self._of_shape[node.shape] -= 1
        if not residents:
            self._num_empty -= 1
            self._empty_moment -= since
        for spec in residents:
            for i, amount in enumerate(spec.main_amounts):
                self._taken[i] -= amount
                self._moment[i] -= amount * since
            self._num_running -= 1
            if spec.priority:
                self._priorities[spec.priority] -= 1

    def has_lower(self, priority: int) -> bool:
        """Whether some resident has a lower priority, so that preemption is worth a look."""
        if priority > 0 and self._num_running > sum(self._priorities.values()):
            return True
        return any(num and p < priority for p, num in self._priorities.items())

    # ── time ──────────────────────────────────────────────────────────────────────────────────

    def advance(self, time_s: int) -> None:
        """Let time pass with the totals as they are: take the samples that are due. Needed from :attr:`next_s` on."""
        if not self.series:
            self._sample(self.start_s)
            self.next_s = self.start_s + self._step
        while self.next_s <= time_s:
            self._sample(self.next_s)
            if len(self.series) >= MOST_SAMPLES * max(self.samples, 1):
                self._thin()
            self.next_s += self._step

    def _thin(self) -> None:
        """The replay goes on for long after the last arrival: every other sample is enough."""
        self.series = self.series[::2]
        self._step *= 2
        self.next_s = self.series[-1].time_s

    def _since(self, time_s: int) -> int:
        return max(time_s - self.start_s, 0)

    def _settle_fleet(self, time_s: int) -> None:
        """Count what the fleet has offered since it last changed."""
        time_s = max(time_s, self.start_s)
        passed = time_s - self._fleet_since_s
        if not passed:
            return
        for i in range(3):
            self.offered_s[i] += passed * self._offered[i]
        for key, num in self._alive.items():
            self.node_s[key] += passed * num
        self._fleet_since_s = time_s

    def finish(self, time_s: int) -> None:
        """Close the window at ``time_s`` with a last sample."""
        if time_s >= self.next_s:
            self.advance(time_s)
        self._settle_fleet(time_s)
        self.time_s = max(time_s, self.start_s)
        since = self._since(time_s)
        self.taken_s = [now * since - moment for now, moment in zip(self._taken, self._moment, strict=True)]
        self.empty_node_s = self._num_empty * since - self._empty_moment
        self._sample(max(time_s, self.start_s))

    @property
    def measured_s(self) -> int:
        """Length of the measured window, once it is closed."""
        return self.time_s - self.start_s

    def _sample(self, time_s: int) -> None:
        state = self.state
        rows = np.flatnonzero(state.is_alive[: state.num_rows])
        cpu = (state.offered[CPU_ROW, rows] - state.taken[CPU_ROW, rows]).astype(np.int64)
        gpu = (state.offered[GPU_ROW, rows] - state.taken[GPU_ROW, rows]).astype(np.int64)
        memory_offered = state.offered[MEMORY_ROW, rows]
        is_full = (memory_offered - state.taken[MEMORY_ROW, rows]) * 100 < memory_offered
        fragmented = float("nan")
        if self.workload is not None and len(rows) and self._offered[2]:
            if self._columns is None:
                self._columns = Columns(state, Knowledge(workload=self.workload))
            by_cause = fragments(self._columns, cpu, state.gpu_free[rows], state.gpu_model[rows]).sum(axis=1)
            self.fragment_causes = dict(zip(FRAGMENT_CAUSES, by_cause.tolist(), strict=True))
            fragmented = float(by_cause.sum())
        self.series.append(
            Sample(
                time_s=time_s,
                arrived_gpu_milli=int(self._arrived_gpu[self.num_arrived]),
                taken=(self._taken[0], self._taken[1], self._taken[2]),
                offered=(self._offered[0], self._offered[1], self._offered[2]),
                num_nodes=len(rows),
                num_empty_nodes=int((state.taken[PODS_ROW, rows] == 0).sum()),
                num_running=self._num_running,
                num_arrived=self.num_arrived,
                stranded_gpu_milli=int(gpu[cpu < self._smallest_need()].sum()),
                stranded_cpu=int(cpu[is_full].sum()),
                fragmented_gpu_milli=fragmented,
            )
        )

    def _smallest_need(self) -> int:
        """Millicores of the least demanding pod seen that takes a whole device; 0 if none was seen."""
        least = int(self._need_cpu[self.num_arrived])
        return 0 if least == MAX_AMOUNT else least
