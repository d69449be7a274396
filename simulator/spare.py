"""Who would find room as things are, before an autoscaler buys for those who would not.

A pod in back-off has not been tried since room came. cluster-autoscaler asks where such pods would go on the nodes that
are there (``filter_out_schedulable``) and counts only the others as unschedulable; so does :class:`Spare`, for classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

import numpy as np

from placement.pods import GpuRequest, PodSpec
from placement.resources import NOT_FEASIBLE, IntArray
from placement.state import NUM_DERIVED, Snapshot
from placement.strategy import Strategy
from simulator.gangs import Unit, classes_of
from simulator.pending import Pending


def without_room(pending: Pending, snapshot: Snapshot, strategy: Strategy, later: Container[Unit]) -> Counter[PodSpec]:
    """How many pods of each class wait and would find no node as things are; nothing is bought yet for who is in ``later``."""
    spare: Spare | None = None
    wanted = Counter[PodSpec]()
    for unit, waiting in pending.by_urgency():
        num = len(waiting.pods)
        if waiting.seen < pending.rooms:  # they have not been tried since something changed
            spare = spare or Spare(snapshot, strategy)
            num -= spare.takes(unit, num)
        for spec, each in classes_of(unit).items() if num and unit not in later else ():
            wanted[spec] += _for_new_nodes(snapshot, spec, each * num)
    return +wanted


def _for_new_nodes(snapshot: Snapshot, spec: PodSpec, num: int) -> int:
    """How many of ``num`` pods of a class new nodes are for: where required affinity ties them to a node, the first alone,
    and none once somebody is there whom they must join."""
    if not spec.pod_rules.affinity:
        return num
    return 0 if snapshot.state.rules.company(spec).any() else 1


class Spare:
    """What is free on the nodes that are there; pods take of it in thought, and nothing of the ledger changes."""

    def __init__(self, snapshot: Snapshot, strategy: Strategy) -> None:
        self._snapshot = snapshot
        self._strategy = strategy
        self._free: IntArray = np.asarray(snapshot.offered[NUM_DERIVED:] - snapshot.taken[NUM_DERIVED:], np.int64)
        self._devices: IntArray = snapshot.gpu_free.astype(np.int64)

    def takes(self, unit: Unit, num: int) -> int:
        """How many of ``num`` pods of a class, or gangs of one make-up, would find room; it is theirs from now on."""
        if isinstance(unit, PodSpec):
            return self._pods(unit, num)
        return next((done for done in range(num) if not self._gang(unit)), num)

    def _gang(self, unit: tuple[PodSpec, ...]) -> bool:
        """Room for all pods of one gang; else nothing is taken."""
        before = self._free.copy(), self._devices.copy()
        if all(self._pods(spec, num) == num for spec, num in classes_of(unit).items()):
            return True
        self._free, self._devices = before
        return False

    def _pods(self, spec: PodSpec, num: int) -> int:
        """First fit on the nodes that the strategy allows; pods with rules about others count one to a node."""
        state = self._snapshot.state
        need = state.delta(spec)[NUM_DERIVED:]
        lanes = np.flatnonzero(need)
        most = 1 if state.rules.is_relational(spec) else num
        found = 0
        for row in np.flatnonzero(self._strategy.scores(self._snapshot, spec) > NOT_FEASIBLE).tolist():
            fits = min(int((self._free[lanes, row] // need[lanes]).min(initial=most)), num - found)
            if spec.gpu is not None:
                fits = _take(self._devices[row], spec.gpu, fits)
            self._free[lanes, row] -= fits * need[lanes]
            found += fits
            if found == num:
                break
        return found


def _take(free: IntArray, gpu: GpuRequest, num: int) -> int:
    """How many of ``num`` requests the devices of a node ``(G,)`` hold, tightest first; what they hold is taken."""
    for done in range(num):
        enough = np.flatnonzero(free >= gpu.milli)
        if len(enough) < gpu.count:
            return done
        free[enough[np.argsort(free[enough], kind="stable")[: gpu.count]]] -= gpu.milli
    return num
