"""Whom to evict for a pod of higher priority, as kube-scheduler picks.

``pkg/scheduler/framework/preemption`` and ``plugins/defaultpreemption`` of 1.36: on each candidate node all pods of lower
priority are taken off in thought; if the pod then fits, as many as possible are put back, the most important first and
those whose disruption budget would break before the others; the node whose victims hurt least wins.

Rules about other pods are judged with every resident in place, except that a victim's own ports and terms go with it
only when the node is asked again after the eviction: a node that such a rule excludes is not a candidate here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from placement.pods import PodSpec
from placement.resources import IntArray
from placement.state import NUM_DERIVED, ClusterState, Resident, device_indices

MIN_CANDIDATES_SHARE = 0.10
MIN_CANDIDATES = 100
"""``minCandidateNodesPercentage`` and ``minCandidateNodesAbsolute`` of DefaultPreemptionArgs."""
PRIORITY_SHIFT = 2**31
"""Added to each victim's priority in the sum, so that negative priorities do not make more victims look cheaper."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget: who it covers and how many more may go."""

    covered: frozenset[str]
    """UIDs."""
    allowed: int


@dataclass(frozen=True, slots=True)
class Preemption:
    """One node and who leaves it."""

    node: str
    victims: tuple[str, ...]
    """UIDs, most important first."""
    num_violations: int
    """Victims whose disruption budget breaks."""


def choose_victims(
    state: ClusterState,
    spec: PodSpec,
    *,
    offset: int = 0,
    budgets: Iterable[Budget] = (),
    at_least: int = MIN_CANDIDATES,
) -> Preemption | None:
    """The node to preempt on and its victims, or None if no eviction of lower priorities helps.

    Parameters
    ----------
    offset : where the search for candidates starts; kube-scheduler draws it at random.
    at_least : candidates that are compared where there are so many; more if each of these breaks a budget.
    """
    permitted = state.rules.static_mask(spec)[: state.num_rows]
    if state.rules.is_relational(spec):
        permitted = permitted & state.rules.relational_mask(spec)[: state.num_rows]
    rows = np.flatnonzero(permitted)
    if not len(rows):
        return None
    wanted = max(int(len(rows) * MIN_CANDIDATES_SHARE), at_least)
    covering = list(budgets)
    found: list[tuple[Preemption, list[Resident]]] = []
    is_gentle = False
    for row in np.roll(rows, -(offset % len(rows))).tolist():
        candidate = _victims_on(state, spec, row, covering)
        if candidate is not None:
            found.append(candidate)
            is_gentle |= not candidate[0].num_violations
            if is_gentle and len(found) >= wanted:
                break
    if not found:
        return None
    return min(found, key=_harm)[0]


def _importance(resident: Resident) -> tuple[int, int]:
    return -resident.spec.priority, resident.since_s


def _harm(candidate: tuple[Preemption, list[Resident]]) -> tuple[int, int, int, int, int]:
    """Less is better (``pickOneNodeForPreemption``)."""
    plan, victims = candidate
    highest = max(v.spec.priority for v in victims)
    return (
        plan.num_violations,
        highest,
        sum(v.spec.priority + PRIORITY_SHIFT for v in victims),
        len(victims),
        -min(v.since_s for v in victims if v.spec.priority == highest),
    )


def _victims_on(
    state: ClusterState, spec: PodSpec, row: int, budgets: list[Budget]
) -> tuple[Preemption, list[Resident]] | None:
    lower = [r for r in state.residents_on[row].values() if r.spec.priority < spec.priority]
    if not lower:
        return None
    room = _Room(state, spec, row)
    for resident in lower:
        room.remove(resident)
    if not room.fits():
        return None
    lower.sort(key=_importance)
    violating = _violating(lower, budgets)
    victims: list[Resident] = []
    for resident in [r for r in lower if r.uid in violating] + [r for r in lower if r.uid not in violating]:
        room.put_back(resident)
        if not room.fits():
            room.remove(resident)
            victims.append(resident)
    if not victims:
        return None
    broken = sum(v.uid in violating for v in victims)
    victims.sort(key=_importance)
    return Preemption(state.names[row], tuple(v.uid for v in victims), broken), victims


def _violating(pods: list[Resident], budgets: list[Budget]) -> set[str]:
    """Pods whose eviction, in this order, would break a budget (``filterPodsWithPDBViolation``)."""
    remaining = [budget.allowed for budget in budgets]
    broken: set[str] = set()
    for pod in pods:
        for i, budget in enumerate(budgets):
            if pod.uid in budget.covered:
                remaining[i] -= 1
                if remaining[i] < 0:
                    broken.add(pod.uid)
    return broken


class _Room:
    """One node's free lanes and devices while residents are taken off and put back in thought."""

    def __init__(self, state: ClusterState, spec: PodSpec, row: int) -> None:
        self.state = state
        self.spec = spec
        self.need: IntArray = state.delta(spec)
        self.free: IntArray = state.offered[:, row] - state.taken[:, row]
        self.row = row
        self.gone: set[str] = set()
        self.devices: IntArray = state.gpu_free[row].copy()

    def _move(self, resident: Resident, sign: int) -> None:
        self.free += sign * self.state.delta(resident.spec)
        gpu = resident.spec.gpu
        if gpu is not None:
            for index in device_indices(resident.devices):
                self.devices[index] += sign * gpu.milli
            if self.row in self.state.unrecorded:
                self.devices[:] = self.state.free_devices(self.row, self.gone)

    def remove(self, resident: Resident) -> None:
        self.gone.add(resident.uid)
        self._move(resident, 1)

    def put_back(self, resident: Resident) -> None:
        self.gone.discard(resident.uid)
        self._move(resident, -1)

    def fits(self) -> bool:
        need = self.need[NUM_DERIVED:]
        if ((need > 0) & (need > self.free[NUM_DERIVED:])).any():
            return False
        gpu = self.spec.gpu
        return gpu is None or int((self.devices >= gpu.milli).sum()) >= gpu.count
