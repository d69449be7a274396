"""What the API shows and what we decided, brought together in one :class:`ClusterState`.

The ledger of ``placement`` counts; this says what to count. A decided pod is *assumed* at once; the watch then
*confirms* it, or shows that it went elsewhere or is gone, and then it is forgotten. Everything is keyed by UID,
and every method may be called again with the same or an older observation without effect, so the order in which
events arrive, arrive twice or get lost until the next list does not matter:

* an observation older than the one we hold is ignored (resource versions);
* a UID that ended never comes back (tombstones; UIDs are never used twice);
* devices of a bound pod are those that we gave it, or those first seen on it: its owner may edit annotations, and an
  edit moves nobody to another device. A bound pod on devices that nobody recorded may be on any of its node's;
* a bound pod whose node is not known yet waits for it, and is counted when the node appears.

No I/O here and one clock, which is an argument: a property test drives this with random histories.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from msgspec import Struct, structs

from placement.log import POD_ENDED, Event
from placement.nodes import NamespaceSpec, NodeSpec
from placement.owners import template_of
from placement.pods import PodSpec
from placement.resources import DEVICE_MILLI
from placement.state import ClusterState, device_indices
from scheduler.api import Who
from scheduler.metrics import Metrics

log = logging.getLogger(__name__)

MAX_TOMBSTONES = 200_000
TARGET_S = 300.0
"""A replacement that has not come by then goes where any pod goes."""


class Seen(Struct, frozen=True, gc=False):
    """A pod as the API showed it. ``version`` orders observations of one pod; 0 = unknown, always believed."""

    uid: str
    name: str
    namespace: str
    version: int
    spec: PodSpec
    node: str = ""
    devices: int = 0
    """Bit mask from the annotation; 0 without one."""
    has_ended: bool = False
    """Succeeded or Failed: it holds nothing any more."""
    is_gated: bool = False
    """Our scheduling gate alone keeps it, and it is not being deleted."""
    is_held: bool = False
    """Scheduling gates of others keep it."""
    planned: str = ""
    """Node that a plan of ours nominated, by our annotation."""
    planned_at: str = ""
    """When that was, or was last said to hold still, as the annotation writes it."""
    planned_devices: int = 0
    """Bit mask of the devices that the plan keeps for it there; 0 for a pod that asks for none, whatever it says."""
    nominated: str = ""
    """``status.nominatedNodeName``, whoever wrote it."""
    target: str = ""
    """Node where a plan wants its replacement, by our annotation."""
    oom_s: int = 0
    """When one of its containers was last killed for want of memory, unix time; 0 = never."""

    @property
    def who(self) -> Who:
        """It, and no other of its name."""
        return Who(self.uid, self.namespace, self.name)

    @property
    def is_replaced(self) -> bool:
        """A plan evicted it, and its replacement may come."""
        return self.spec.leaving and bool(self.target)


class Reservation(Struct, gc=False):
    """A pod that was decided and is not yet seen bound."""

    uid: str
    name: str
    namespace: str
    node: str
    devices: int
    since_s: float
    """Of the ledger's clock: when it was made, or when the last Binding was sent."""
    is_guess: bool = False
    """Not decided, only likely (``score``): it may end elsewhere without anything being wrong."""
    is_binding: bool = False
    """A Binding was sent and its outcome is not known: only the API may end this."""
    is_accepted: bool = False
    """The API took our Binding: where the pod is, and on which devices, we know better than its annotations."""
    is_nominated: bool = False
    """It stands as a nomination of ours in the API, whoever wrote that: it ends when that does."""
    decision_id: str = ""
    """Of the decision; empty where a plan or a Binding counted the pod."""

    @property
    def about(self) -> dict[str, str]:
        """For log lines."""
        pod = {"pod": f"{self.namespace}/{self.name}"}
        return pod | ({"decision_id": self.decision_id} if self.decision_id else {})


@dataclass(slots=True)
class Target:
    """Where a plan wants the replacement of an evicted pod."""

    node: str
    since_s: float
    """Of the ledger's clock."""
    taken_by: str = ""
    """UID of the pod that was told; empty = nobody yet."""


class Ledger:
    """The one writer of the live :class:`ClusterState`.

    ``clock`` gives seconds that never run backwards; they also stamp the log.
    """

    def __init__(self, state: ClusterState, clock: Callable[[], float], metrics: Metrics) -> None:
        self.state = state
        self.clock = clock
        self.metrics = metrics
        self.pods: dict[str, Seen] = {}
        """Live pods by UID, pending ones included."""
        self.gated: dict[str, Seen] = {}
        """Those that carry our scheduling gate."""
        self.planned: dict[str, Seen] = {}
        """Those that a plan of ours nominated and that are not bound yet."""
        self.reservations: dict[str, Reservation] = {}
        self.topology = 0
        """Grows when a node comes or goes; prepared tables of names are stale then."""
        self.node_changes = 0
        """Grows with every change of any node."""
        self.is_complete: Callable[[], bool] = lambda: True
        """Whether all that was there at the start has been seen; a pod that is bound before that is older than its event."""
        self.on_bound: Callable[[Seen], None] = lambda seen: None
        """Told when a pod is first seen on a node."""
        self.on_oom: Callable[[Seen], None] = lambda seen: None
        """Told when a pod was killed for want of memory, once each time."""
        self.targets: dict[tuple[str, str, str], dict[str, Target]] = {}
        """Template (namespace, owner, hash) → UID of an evicted pod → where its replacement belongs."""
        self._waiting: dict[str, dict[str, bool]] = {}
        """Node that is not known → pods on it, and whether they ran there before it went."""
        self._tombstones: dict[str, None] = {}
        self._adrift: dict[str, tuple[Reservation, PodSpec]] = {}
        """UID → what was being bound to a node when that went: the Binding may take effect, and the node come back."""
        self._disbelieved: dict[str, int] = {}
        """UID of a bound pod → devices that its annotation names, and that it was not given."""

    @property
    def time_s(self) -> int:
        """Now, for the log."""
        return int(self.clock())

    # ── nodes and namespaces ──────────────────────────────────────────────────────────────────

    def see_node(self, node: NodeSpec) -> None:
        """A node exists, as given."""
        row = self.state.row_of.get(node.name)
        if row is None:
            self.state.add_node(node, time_s=self.time_s)
            self.topology += 1
            self.node_changes += 1
            for uid, has_run in sorted(self._waiting.pop(node.name, {}).items()):
                self._settle(self.pods[uid], has_run=has_run)
            for held, spec in list(self._adrift.values()):
                if held.node == node.name:
                    self._take_up(held, spec)
            for seen in [s for s in self.planned.values() if s.planned == node.name]:
                self._follow_nomination(seen)
        elif (old := self.state.nodes[row]) is not None and old != node:
            self.state.update_node(node, time_s=self.time_s)
            self.node_changes += 1
            if node.num_gpus > old.num_gpus:
                self._recount_devices(row)

    def _recount_devices(self, row: int) -> None:
        """A node has devices that it had not, or not at the moment: those in use were in use all the time. A kubelet says
        that there are none until the device plugin has started anew, and one that is broken is missing until it is mended.
        """
        for uid in list(self.state.residents_on[row]):
            seen = self.pods.get(uid)
            if seen is not None and seen.node:
                self._settle(seen)

    def lose_node(self, name: str) -> None:
        """A node is gone. Its pods wait: the API still lists them for a while, and it may come back."""
        row = self.state.row_of.get(name)
        if row is None:
            return
        for uid in list(self.state.residents_on[row]):
            seen = self.pods.get(uid)
            if seen is not None and seen.node == name:
                self.state.strand(uid, time_s=self.time_s)
                self._waiting.setdefault(name, {})[uid] = True
        for resident in self.state.remove_node(name, time_s=self.time_s):
            held = self.reservations.get(resident.uid)
            if held is not None and held.is_binding:
                self._adrift[held.uid] = held, resident.spec
            self._end_reservation(resident.uid, "node gone")
        self.topology += 1
        self.node_changes += 1

    def _take_up(self, held: Reservation, spec: PodSpec) -> None:
        """The node is back of a Binding that may still take effect, if it was not refused meanwhile: the devices are as taken
        as they were. Whether the pod is still nominated, what is seen of it says."""
        del self._adrift[held.uid]
        if held.is_binding and held.uid not in self.state.residents:
            held.is_nominated = False
            self.state.assume(held.uid, spec, held.node, held.devices, time_s=self.time_s)
            self.reservations[held.uid] = held

    def see_namespace(self, namespace: NamespaceSpec) -> None:
        """A namespace and its labels."""
        if self.state.namespaces.get(namespace.name, NamespaceSpec(namespace.name, ())) != namespace:
            self.state.set_namespace(namespace, time_s=self.time_s)

    def lose_namespace(self, name: str) -> None:
        """A namespace is gone; of those that come and go by the thousand nothing is kept."""
        self.see_namespace(NamespaceSpec(name, ()))

    # ── pods, as the API shows them ───────────────────────────────────────────────────────────

    def see(self, seen: Seen) -> None:
        """An observation of a pod, in any order, any number of times."""
        if seen.uid in self._tombstones:
            return
        old = self.pods.get(seen.uid)
        if old is not None:
            if seen == old or 0 < seen.version < old.version:
                return
            if old.spec is not seen.spec and old.spec == seen.spec:
                seen = structs.replace(seen, spec=old.spec)
        if seen.node:
            self._adrift.pop(seen.uid, None)
            if seen.spec.gpu is not None:
                seen = self._as_given(seen, old)
        if seen.oom_s > (0 if old is None else old.oom_s):
            self.on_oom(seen)
        if seen.has_ended:
            self.lose(seen.uid)
            return
        self.pods[seen.uid] = seen
        self._index(seen)
        if seen.is_replaced and not (old is not None and old.is_replaced):
            self._expect(seen)
        if old is not None and old.node and old.node != seen.node:
            self._wait_no_longer(seen.uid, old.node)
        if seen.node:
            self._settle(seen)
            if old is None or not old.node:
                self._met(seen)
                self.on_bound(seen)
        elif seen.planned or (old is not None and old.planned):
            self._follow_nomination(seen)

    def _follow_nomination(self, seen: Seen) -> None:
        """A nomination of ours keeps room as long as it stands; another process may have written it.

        Where the devices that it names are not free (any more), room is kept without them: kube-scheduler counts the pod on
        that node all the same, and who is given these devices keeps them. Once they are free it has them; else, when the pod
        is asked about or bound, devices are chosen anew.
        """
        held = self.reservations.get(seen.uid)
        if held is not None and held.is_nominated and (seen.planned != held.node or seen.nominated != held.node):
            held.is_nominated = False
            self.forget(seen.uid, "nomination ended")
            held = self.reservations.get(seen.uid)
        if not seen.planned or seen.nominated != seen.planned:
            return
        if held is not None and self._can_have_its_devices(held, seen):
            self.forget(seen.uid, "devices free again")
            held = None
        if held is None:
            held = self._hold_nominated(seen)
        if held is not None and held.node == seen.planned:
            held.is_nominated = True
        expected = self._expected(seen.spec)
        if not any(target.taken_by == seen.uid for target in expected.values()):
            aimed = next((t for t in expected.values() if t.node == seen.planned and not t.taken_by), None)
            if aimed is not None:
                aimed.taken_by = seen.uid

    def _can_have_its_devices(self, held: Reservation, seen: Seen) -> bool:
        """Whether a nomination that keeps room alone could keep its devices as well."""
        is_without = held.is_nominated and not held.devices and not held.is_binding and seen.planned_devices > 0
        return is_without and self._are_free(seen.spec, self.state.row_of[held.node], seen.planned_devices)

    def _hold_nominated(self, seen: Seen) -> Reservation | None:
        row = self.state.row_of.get(seen.planned)
        if row is None or seen.uid in self.state.residents:
            return None
        devices = seen.planned_devices
        if not self._are_free(seen.spec, row, devices):
            self._conflict("planned devices taken", seen)
            devices = 0
        return self._count(seen.who, seen.spec, seen.planned, devices)

    def _index(self, seen: Seen) -> None:
        """Keep the planner's two lists."""
        for index, belongs in ((self.gated, seen.is_gated), (self.planned, seen.planned)):
            if belongs and not seen.node:
                index[seen.uid] = seen
            else:
                index.pop(seen.uid, None)

    def lose(self, uid: str) -> None:
        """The pod ended or was deleted; it will not come back under this UID."""
        self._bury(uid)
        self._disbelieved.pop(uid, None)
        self._adrift.pop(uid, None)
        self.gated.pop(uid, None)
        self.planned.pop(uid, None)
        seen = self.pods.pop(uid, None)
        if seen is not None:
            if self._wait_no_longer(uid, seen.node):
                self.state.log.append(Event(self.time_s, POD_ENDED, uid))
            for target in self._expected(seen.spec).values():
                if target.taken_by == uid:
                    target.taken_by = ""
            if seen.target and not seen.spec.leaving:  # else its replacement is expected already, or has come
                self._expect(seen)
        self._drop(uid, "deleted")

    def deny(self, uid: str) -> None:
        """The API has no such pod under the name by which it is known here. One that was seen is gone; of one that was not
        nothing is kept, and nothing is known: its name is what a caller said, and the watch may only be late."""
        if uid in self.pods:
            self.lose(uid)
        else:
            self._adrift.pop(uid, None)
            self._drop(uid, "deleted")

    def _wait_no_longer(self, uid: str, node: str) -> bool:
        """Whether it had run on that node before the node went."""
        waiting = self._waiting.get(node, {})
        has_run = waiting.pop(uid, False)
        if not waiting:
            self._waiting.pop(node, None)
        return has_run

    def _bury(self, uid: str) -> None:
        self._tombstones[uid] = None
        if len(self._tombstones) > MAX_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]

    def _as_given(self, seen: Seen, old: Seen | None) -> Seen:
        """A bound pod with the devices that it was given, whatever its annotation says since."""
        held = self.reservations.get(seen.uid)
        if old is not None and old.node == seen.node:
            devices = old.devices
        elif held is not None and held.is_accepted and held.node == seen.node:
            devices = held.devices
        else:
            return seen
        if seen.devices == devices:
            self._disbelieved.pop(seen.uid, None)
            return seen
        if self._disbelieved.get(seen.uid) != seen.devices:
            self._disbelieved[seen.uid] = seen.devices
            self._conflict("devices changed", seen)
        return structs.replace(seen, devices=devices)

    def _settle(self, seen: Seen, *, has_run: bool = False) -> None:
        """Make the columns say what the API says of a bound pod; one that ``has_run`` is not new on its node."""
        uid, state = seen.uid, self.state
        row = state.row_of.get(seen.node)
        resident = state.residents.get(uid)
        is_there = resident is not None and resident.is_bound and resident.row == row
        if resident is not None and is_there and resident.devices == seen.devices and seen.spec.gpu is not None:
            devices = resident.devices  # its node may say at the moment that it has none
        else:
            devices = 0 if row is None else self._devices(seen, row)
        if resident is not None:
            is_same = resident.devices == devices and resident.spec == seen.spec
            if resident.row == row and (resident.is_bound or is_same):
                if not is_same:
                    state.update_pod(uid, seen.spec, devices, time_s=self.time_s)
                elif not resident.is_bound:
                    self._end_reservation(uid, "confirmed")
                    state.confirm(uid, time_s=self.time_s)
                return
            held = self.reservations.get(uid)
            if resident.row != row and held is not None and not held.is_guess:
                self._conflict("bound elsewhere", seen)
            self._drop(uid, "confirmed" if resident.row == row else "bound elsewhere")
        if row is None:
            self._waiting.setdefault(seen.node, {}).setdefault(uid, False)
            return
        was_there = has_run or not self.is_complete()
        state.bind(uid, seen.spec, seen.node, devices, time_s=self.time_s, was_there=was_there)

    def _devices(self, seen: Seen, row: int) -> int:
        """The annotation's devices; 0 = nobody knows which, also where the node does not have them or they are not as many
        as the pod asks for."""
        if seen.spec.gpu is None:
            return 0
        if not seen.devices:
            self._conflict("devices unrecorded", seen)
        elif seen.devices >> int(self.state.gpu_count[row]) or seen.devices.bit_count() != seen.spec.gpu.count:
            self._conflict("devices impossible", seen)
        else:
            return seen.devices
        return 0

    def devices_given_twice(self) -> int:
        """Devices of which bound pods hold more than there is."""
        state, found = self.state, 0
        for row in np.flatnonzero((state.gpu_free < 0).any(axis=1)).tolist():
            held = Counter[int]()
            for resident in state.residents_on[row].values():
                if resident.is_bound and resident.spec.gpu is not None:
                    held.update(dict.fromkeys(device_indices(resident.devices), resident.spec.gpu.milli))
            found += sum(milli > DEVICE_MILLI for milli in held.values())
        return found

    def _conflict(self, what: str, seen: Seen) -> None:
        self.metrics.conflicts.labels(what).inc()
        held = self.reservations.get(seen.uid)
        about = {"pod": f"{seen.namespace}/{seen.name}"} if held is None else held.about
        log.warning("ledger differs from the API", extra={"what": what, "node": seen.node or seen.planned, **about})

    # ── replacements of pods that a plan evicted ──────────────────────────────────────────────

    def _expect(self, seen: Seen) -> None:
        if seen.spec.owner:
            self._forget_targets()
            expected = self.targets.setdefault(template_of(seen.spec), {})
            expected.setdefault(seen.uid, Target(seen.target, self.clock()))

    def _expected(self, spec: PodSpec) -> dict[str, Target]:
        """UID of an evicted pod of this template → where its replacement belongs."""
        return self.targets.get(template_of(spec), {}) if self.targets else {}

    def _met(self, seen: Seen) -> None:
        """A pod was bound: a target that it was told, or that it met by somebody else's doing, is met."""
        expected = self._expected(seen.spec)
        told = [uid for uid, t in expected.items() if t.taken_by == seen.uid]
        met = told or [uid for uid, t in expected.items() if t.node == seen.node and not t.taken_by]
        for uid in met[:1]:
            del expected[uid]
            if not expected:
                del self.targets[template_of(seen.spec)]

    def _forget_targets(self) -> None:
        """Those that nobody came for in time."""
        limit_s = self.clock() - TARGET_S
        for template, expected in list(self.targets.items()):
            for uid in [u for u, t in expected.items() if t.since_s < limit_s]:
                del expected[uid]
            if not expected:
                del self.targets[template]

    def target_for(self, uid: str, spec: PodSpec) -> str:
        """Node where a plan wants this pod, as the replacement of one that it evicted; empty if no plan cares, or its node is
        gone."""
        if not self._expected(spec):
            return ""
        self._forget_targets()
        there = [target for target in self._expected(spec).values() if target.node in self.state.row_of]
        mine = next((t for t in there if t.taken_by == uid), None)
        free = mine or next((t for t in there if not t.taken_by), None)
        if free is None:
            return ""
        free.taken_by = uid
        return free.node

    # ── what we decided ───────────────────────────────────────────────────────────────────────

    def is_gone(self, uid: str) -> bool:
        """Whether the pod is known to have ended."""
        return uid in self._tombstones

    def is_settled(self, uid: str) -> bool:
        """Whether the pod is seen on a node, or known to have ended: nothing is left to decide."""
        seen = self.pods.get(uid)
        return self.is_gone(uid) or (seen is not None and bool(seen.node))

    def assume(
        self,
        who: Who,
        spec: PodSpec,
        node: str,
        devices: int,
        *,
        is_guess: bool = False,
        decision_id: str = "",
    ) -> bool:
        """Count a decided pod; False if it is bound or gone and nothing is to be counted, or if
        ``devices`` are not what it asks for, or not free: none is ever given twice."""
        uid = who.uid
        if uid in self._tombstones or uid in self.state.residents or node not in self.state.row_of:
            return False
        if not self._are_free(spec, self.state.row_of[node], devices):
            return False
        self._count(who, spec, node, devices, is_guess=is_guess, decision_id=decision_id)
        return True

    def _count(
        self,
        who: Who,
        spec: PodSpec,
        node: str,
        devices: int,
        *,
        is_guess: bool = False,
        decision_id: str = "",
    ) -> Reservation:
        self.state.assume(who.uid, spec, node, devices, time_s=self.time_s)
        held = self.reservations[who.uid] = Reservation(
            who.uid, who.name, who.namespace, node, devices, self.clock(), is_guess, decision_id=decision_id
        )
        return held

    def _are_free(self, spec: PodSpec, row: int, devices: int) -> bool:
        """Whether these are as many devices as a class asks for, each with room."""
        if spec.gpu is None or not devices:
            return spec.gpu is None and not devices
        free, number = self.state.gpu_free[row], int(self.state.gpu_count[row])
        return devices.bit_count() == spec.gpu.count and all(
            g < number and free[g] >= spec.gpu.milli for g in device_indices(devices)
        )

    def keeps_devices(self, held: Reservation) -> bool:
        """Whether a reservation has the devices that its pod asks for, the node still has them, and nobody else was seen on
        them meanwhile."""
        if not held.devices and self.state.residents[held.uid].spec.gpu is not None:
            return False
        free = self.state.gpu_free[self.state.row_of[held.node]]
        return all(free[g] >= 0 for g in device_indices(held.devices))

    def forget(self, uid: str, how: str) -> None:
        """End a reservation; nothing happens if there is none, if the pod is seen bound, or while a Binding of it may still
        take effect."""
        held = self.reservations.get(uid)
        if held is not None and not held.is_binding:
            self._drop(uid, how)

    def _drop(self, uid: str, how: str) -> None:
        """Take the pod out of the columns, whatever it is."""
        self._end_reservation(uid, how)
        resident = self.state.residents.get(uid)
        if resident is None:
            return
        if resident.is_bound:
            self.state.release(uid, time_s=self.time_s)
        else:
            self.state.forget(uid, time_s=self.time_s)

    def _end_reservation(self, uid: str, how: str) -> None:
        if self.reservations.pop(uid, None) is not None:
            self.metrics.reservation_ends.labels(how).inc()

    def overdue(self, timeout_s: float) -> list[Reservation]:
        """Reservations older than ``timeout_s``, oldest first: to be looked up in the API. Nominations are followed, but one
        whose Binding got no answer is looked up, too."""
        limit = self.clock() - timeout_s
        return [r for r in self.reservations.values() if r.since_s <= limit and (r.is_binding or not r.is_nominated)]
