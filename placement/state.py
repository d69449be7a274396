"""The ledger: what every node offers, what its residents take, device by device.

:class:`ClusterState` is the only code that writes to columns, and each change is one event in the log.
Everything handed out is a read-only view (:class:`Snapshot`), valid until the next change.

Layout, chosen so that a bind is one vector addition and a release its exact inverse: ``taken`` and
``offered`` are ``(L, N)`` int64 with one row per quantity; the first rows are derived counts that no filter
bounds (:data:`SCORED_CPU` …), the rest is the resource axis, which grows when a new resource appears.
``gpu_free`` is ``(N, G)`` int64, free thousandths per device; beside pods that run on devices of which nobody
recorded which, what is free for certain (:func:`placement.devices.sure_of`). Node rows are stable; a removed node
leaves a free row that the next node takes, lowest first, so equal event sequences give equal rows.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Container, Iterable
from typing import Any

import msgspec
import numpy as np

from placement import log
from placement.devices import sure_of
from placement.errors import StateError
from placement.knowledge import Knowledge
from placement.log import Event, EventLog
from placement.nodes import NamespaceSpec, NodeSpec
from placement.pods import GpuRequest, PodSpec
from placement.resources import (
    BASE_RESOURCES,
    CPU,
    DEVICE_MILLI,
    MAX_DEVICES,
    MOST_COUNTED,
    AnyArray,
    BoolArray,
    IntArray,
    whole_number,
)
from placement.rules import RuleIndex

SCORED_CPU = 0
SCORED_MEMORY = 1
GPU_CLASSES = 2
"""First of five rows that count residents by GPU class: shared, 1, 2, 4, 8 (more counts as 8)."""
NUM_GPU_CLASSES = 5
NUM_DERIVED = GPU_CLASSES + NUM_GPU_CLASSES
CPU_ROW, MEMORY_ROW, PODS_ROW, GPU_ROW = range(NUM_DERIVED, NUM_DERIVED + len(BASE_RESOURCES))

PLACES = 1 << 20
MIN_CLASSES_BYTES = 1 << 25
"""Above, classes of which something is remembered are forgotten, here and in all that follows the ledger: eleven thousand
plain ones, and few of those that say as much as a pod has room for."""
MAX_CHANGED = 1 << 17
"""Length of the list of changed nodes; beyond it everything cached starts over."""
TOUCH_RING = 1 << 16
"""Length of the ring of touched rows; a reader that is further behind refreshes everything."""


class Resident(msgspec.Struct, frozen=True, gc=False):
    """A pod on a node, as the ledger counts it."""

    uid: str
    spec: PodSpec
    row: int
    devices: int
    """Bit mask of device indices."""
    since_s: int
    is_bound: bool
    """False while only assumed: decided, not yet confirmed."""


def _bits(mask: int) -> tuple[int, ...]:
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


_INDICES = tuple(_bits(mask) for mask in range(256))


def device_indices(mask: int) -> tuple[int, ...]:
    """Indices of the set bits, ascending."""
    return _INDICES[mask] if mask < 256 else _bits(mask)


def devices_text(mask: int) -> str:
    """A device mask as the annotation's text.

    >>> devices_text(0b1001)
    '0,3'
    """
    return ",".join(str(i) for i in device_indices(mask))


def devices_mask(text: str) -> int:
    """Bit mask of the annotation's comma-separated indices; 0 if it is not one.

    >>> devices_mask("0,3")
    9
    """
    mask = 0
    for part in text.split(","):
        if part.strip():
            index = whole_number(part.strip())
            if index is None or index >= MAX_DEVICES:
                return 0
            mask |= 1 << index
    return mask


def gpu_class(spec: PodSpec) -> int:
    """0 shared, 1…4 for 1, 2, 4, 8 or more devices, -1 for no GPU."""
    if spec.gpu is None:
        return -1
    if spec.gpu.milli < DEVICE_MILLI:
        return 0
    return min(spec.gpu.count.bit_length(), NUM_GPU_CLASSES - 1)


def place_of(name: str) -> int:
    """A node's place in an order of its own, 0…2^20 − 1: whoever lists nodes, and how, has no say in it."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") * PLACES >> 32


def _read_once(node: NodeSpec) -> tuple[object, ...]:
    """What caches derive from a node: all but amounts, which they read in the columns, and images."""
    devices = node.num_gpus, node.gpu_model, node.amounts.get(CPU, 0)
    return node.labels, node.taints, node.unschedulable, devices


class ClusterState:
    """The ledger of one cluster, live or simulated.

    All times are integer seconds of the caller's epoch. Methods raise :class:`StateError` on a change that
    contradicts the ledger and leave it untouched.
    """

    def __init__(
        self, *, events: EventLog | None = None, knowledge: Knowledge | None = None, backend: str = "auto"
    ) -> None:
        self.backend = backend
        """``auto`` (compiled where numba is installed) or ``numpy``; the answers are the same."""
        self.log = EventLog() if events is None else events
        self.knowledge = Knowledge() if knowledge is None else knowledge
        self.resources: list[str] = list(BASE_RESOURCES)
        self.row_of_resource = {name: NUM_DERIVED + i for i, name in enumerate(BASE_RESOURCES)}
        self.models: dict[str, int] = {"": 0}
        self.rules = RuleIndex()
        self.nodes = self.rules.nodes
        self.namespaces = self.rules.namespaces
        self.names: list[str] = []
        """Node name by row, empty where there is none."""
        self.row_of: dict[str, int] = {}
        self.residents: dict[str, Resident] = {}
        self.residents_on: list[dict[str, Resident]] = []
        self.unrecorded: dict[int, dict[str, GpuRequest]] = {}
        """Row → what pods ask for that are bound there, on devices of which nobody recorded which."""
        self.version = 0
        self.epoch = 0
        """Grows when arrays move or knowledge changes; then everything cached is stale."""
        self.moved = 0
        """Grows when arrays move, or changes of nodes or classes are forgotten."""
        self.changed_rows: list[int] = []
        """Rows whose node was added, removed, or changed in what a score or rule reads, in order."""
        self.num_rows = 0
        self.clock = 0
        """Number of touches so far; a whole ring more whenever changes are forgotten."""
        self.programs: dict[str, Any] = {}
        """Compiled strategies by digest: a cache, invisible in every answer."""
        self._free_rows: list[int] = []
        self._deltas: dict[PodSpec, IntArray] = {}
        self._classes_bytes = 0
        """Of all classes that came into ``_deltas`` since classes were forgotten."""
        self._most_bytes = MIN_CLASSES_BYTES
        self.touched: IntArray = np.zeros(TOUCH_RING, np.int64)
        self._touched = memoryview(self.touched)  # type: ignore[arg-type]  # arrays are buffers
        self.changes: list[Resident | None] = [None] * TOUCH_RING
        """Beside ``touched``: who came or left with a touch, by turns; None where a node changed."""
        self._allocate(num_lanes=NUM_DERIVED + len(BASE_RESOURCES), num_rows=64, num_gpus=1)

    # ── arrays ────────────────────────────────────────────────────────────────────────────────

    def _allocate(self, *, num_lanes: int, num_rows: int, num_gpus: int) -> None:
        """(Re)create every column at the given size, keeping what is there."""

        def grown(old: AnyArray | None, shape: tuple[int, ...], dtype: type) -> AnyArray:
            new: AnyArray = np.zeros(shape, dtype)
            if old is not None:
                new[tuple(slice(0, n) for n in old.shape)] = old
            return new

        get = self.__dict__.get
        # (L, N) with a node's lanes side by side in memory: a bind writes, and a kernel reads, one node's lanes.
        self._offered_rows = grown(get("_offered_rows"), (num_rows, num_lanes), np.int64)
        self._taken_rows = grown(get("_taken_rows"), (num_rows, num_lanes), np.int64)
        self.offered: IntArray = self._offered_rows.T
        self.taken: IntArray = self._taken_rows.T
        self.gpu_free: IntArray = grown(get("gpu_free"), (num_rows, num_gpus), np.int64)
        self._gpu_known: IntArray = grown(get("_gpu_known"), (num_rows, num_gpus), np.int64)
        """Beside ``gpu_free``, for rows in ``unrecorded`` alone: what is free but for the pods that may lie anywhere."""
        self.gpu_count: IntArray = grown(get("gpu_count"), (num_rows,), np.int64)
        self.gpu_model: IntArray = grown(get("gpu_model"), (num_rows,), np.int64)
        self.is_alive: BoolArray = grown(get("is_alive"), (num_rows,), np.bool_)
        self.last_touch: IntArray = grown(get("last_touch"), (num_rows,), np.int64)
        self.place: IntArray = grown(get("place"), (num_rows,), np.int64)
        # Single cells are read and written through these: half the price of an array's own indexing.
        self._taken_of: list[IntArray] = list(self._taken_rows)
        self._share_of = [memoryview(free) for free in self.gpu_free]
        self._last_touch = memoryview(self.last_touch)  # type: ignore[arg-type]  # as above
        self.epoch += 1
        self.moved += 1

    def _ensure_lanes(self, names: Iterable[str]) -> None:
        new = [name for name in names if name not in self.row_of_resource]
        if not new:
            return
        for name in sorted(new):
            self.row_of_resource[name] = NUM_DERIVED + len(self.resources)
            self.resources.append(name)
        self._deltas.clear()
        self._allocate(
            num_lanes=NUM_DERIVED + len(self.resources),
            num_rows=self.offered.shape[1],
            num_gpus=self.gpu_free.shape[1],
        )

    def delta(self, spec: PodSpec) -> IntArray:
        """``(L,)`` int64: what one pod of this class adds to its node's column."""
        delta = self._deltas.get(spec)
        if delta is None:
            self._ensure_lanes(spec.amounts)
            self._classes_bytes += spec.held_bytes
            if self._classes_bytes > self._most_bytes:
                self._forget_classes()
            delta = np.zeros(self.taken.shape[0], np.int64)
            for name, amount in spec.amounts.items():
                delta[self.row_of_resource[name]] = min(amount, MOST_COUNTED)
            delta[PODS_ROW] = 1
            delta[SCORED_CPU] = min(spec.scored_cpu, MOST_COUNTED)
            delta[SCORED_MEMORY] = min(spec.scored_memory, MOST_COUNTED)
            if (kind := gpu_class(spec)) >= 0:
                delta[GPU_CLASSES + kind] = 1
            delta.flags.writeable = False
            self._deltas[spec] = delta
        return delta

    def _forget_classes(self) -> None:
        """Remember nothing of classes, nor who came and left: whoever follows the ledger looks at all of it anew. Classes of
        pods that are here will be met again, so there is to be room for as many others."""
        self._deltas.clear()
        self.rules.forget_idle()
        self.changes = [None] * TOUCH_RING
        self.clock += TOUCH_RING
        self.epoch += 1
        self.moved += 1
        here = sum(spec.held_bytes for spec, _ in self.rules.homes())
        self._classes_bytes, self._most_bytes = 0, max(MIN_CLASSES_BYTES, 2 * here)

    def _touch(self, row: int, resident: Resident | None = None) -> None:
        clock = self.clock
        at = clock & (TOUCH_RING - 1)
        self._touched[at] = row
        self.changes[at] = resident
        self._last_touch[row] = clock
        self.clock = clock + 1
        self.version += 1

    # ── nodes ─────────────────────────────────────────────────────────────────────────────────

    def add_node(self, node: NodeSpec, *, time_s: int = 0) -> int:
        """Row of the new node."""
        if node.name in self.row_of:
            raise StateError(f"node {node.name} is already in the ledger; update it or remove it first")
        row = heapq.heappop(self._free_rows) if self._free_rows else self.num_rows
        self._make_room(row, node)
        self.num_rows = max(self.num_rows, row + 1)
        if row == len(self.names):
            self.names.append(node.name)
            self.residents_on.append({})
        self.names[row] = node.name
        self.row_of[node.name] = row
        self.gpu_free[row, : node.num_gpus] = DEVICE_MILLI
        self._offer(row, node)
        self._changed(row)
        self.log.append(Event(time_s, log.NODE_ADDED, node.name, detail=node))
        return row

    def _make_room(self, row: int, node: NodeSpec) -> None:
        self._ensure_lanes(node.amounts)
        num_rows, num_gpus = self.gpu_free.shape
        if row >= num_rows or node.num_gpus > num_gpus:
            rows = max(num_rows, 2 * (row + 1)) if row >= num_rows else num_rows
            self._allocate(num_lanes=self.offered.shape[0], num_rows=rows, num_gpus=max(num_gpus, node.num_gpus))

    def _offer(self, row: int, node: NodeSpec) -> None:
        """Write what a node offers; residents' columns stay."""
        for name, amount in node.amounts.items():
            self.offered[self.row_of_resource[name], row] = min(amount, MOST_COUNTED - 1)
        self.gpu_count[row] = node.num_gpus
        self.place[row] = place_of(node.name)
        self.gpu_model[row] = self.models.setdefault(node.gpu_model, len(self.models))
        self.is_alive[row] = True
        self.rules.add_node(row, node)
        self._touch(row)

    def _changed(self, row: int) -> None:
        if len(self.changed_rows) >= MAX_CHANGED:
            self.changed_rows.clear()
            self.epoch += 1
            self.moved += 1
        self.changed_rows.append(row)

    def _withdraw(self, row: int) -> None:
        self.offered[:, row] = 0
        self.is_alive[row] = False
        self.rules.remove_node(row)

    def update_node(self, node: NodeSpec, *, time_s: int = 0) -> None:
        """Labels, taints, allocatable or devices changed; residents stay, even if they no longer fit."""
        row = self._row(node.name)
        old = self.nodes[row]
        assert old is not None, "a named row holds a node"
        self._make_room(row, node)
        self._withdraw(row)
        if node.num_gpus != old.num_gpus:
            self.gpu_free[row, old.num_gpus : node.num_gpus] += DEVICE_MILLI
            self.gpu_free[row, node.num_gpus : old.num_gpus] -= DEVICE_MILLI
        self._offer(row, node)
        if _read_once(node) != _read_once(old):
            self._changed(row)
        if row in self.unrecorded:
            self._keep_off(row)
        self.log.append(Event(time_s, log.NODE_UPDATED, node.name, detail=node))

    def remove_node(self, name: str, *, time_s: int = 0) -> list[Resident]:
        """Take the node and its residents out; returns those residents, oldest first."""
        row = self._row(name)
        evicted = list(self.residents_on[row].values())
        for resident in evicted:
            self.release(resident.uid, time_s=time_s)
        self._withdraw(row)
        self.gpu_free[row] = 0
        self.gpu_count[row] = 0
        self.names[row] = ""
        del self.row_of[name]
        heapq.heappush(self._free_rows, row)
        self._changed(row)
        self._touch(row)
        self.log.append(Event(time_s, log.NODE_REMOVED, name))
        return evicted

    def set_namespace(self, namespace: NamespaceSpec, *, time_s: int = 0) -> None:
        """Labels of a namespace, which inter-pod terms may select by. One without labels is as one that is gone."""
        self.rules.set_namespace(namespace)
        self.version += 1
        self.log.append(Event(time_s, log.NAMESPACE, namespace.name, detail=namespace))

    def _row(self, name: str) -> int:
        try:
            return self.row_of[name]
        except KeyError:
            raise StateError(f"node {name} is not in the ledger; add it before anything lands on it") from None

    # ── pods ──────────────────────────────────────────────────────────────────────────────────

    def assume(self, uid: str, spec: PodSpec, node_name: str, devices: int = 0, *, time_s: int = 0) -> None:
        """Count a decided pod at once, before the API confirms it."""
        self._admit(Resident(uid, spec, self._row(node_name), devices, time_s, False))
        self.log.append(Event(time_s, log.POD_ASSUMED, uid, node_name, devices, spec))

    def confirm(self, uid: str, *, time_s: int = 0) -> None:
        """The API shows the pod on the node that was assumed."""
        old = self._resident(uid)
        if not old.is_bound:
            new = Resident(uid, old.spec, old.row, old.devices, old.since_s, True)
            self.residents[uid] = new
            self.residents_on[old.row][uid] = new
            if old.spec.gpu is not None and (not old.devices or old.row in self.unrecorded):
                if not old.devices:
                    self._hide(new, old.spec.gpu)
                self._keep_off(old.row)
                self._touch(old.row)
            self.log.append(Event(time_s, log.POD_BOUND, uid, self.names[old.row], old.devices))

    def bind(
        self, uid: str, spec: PodSpec, node_name: str, devices: int = 0, *, time_s: int = 0, was_there: bool = False
    ) -> None:
        """A pod is on a node for certain (assume and confirm in one); ``was_there``: since nobody knows when."""
        self._admit(Resident(uid, spec, self._row(node_name), devices, time_s, True))
        kind = log.POD_FOUND if was_there else log.POD_BOUND
        self.log.append(Event(time_s, kind, uid, node_name, devices, spec))

    def update_pod(self, uid: str, spec: PodSpec, devices: int = 0, *, time_s: int = 0) -> None:
        """A pod is of another class, or has other devices, than was known (labels edited, resized in place, devices recorded
        late). It stays where it is, and its life goes on."""
        old = self._resident(uid)
        new = Resident(uid, spec, old.row, devices, old.since_s, old.is_bound)
        self._discount(old)
        self.residents[uid] = new
        self.residents_on[old.row][uid] = new
        self._count(new)
        if old.row in self.unrecorded:
            self._keep_off(old.row)
        self.log.append(Event(time_s, log.POD_UPDATED, uid, self.names[old.row], devices, spec))

    def forget(self, uid: str, *, time_s: int = 0) -> None:
        """An assumed pod did not arrive (deadline, deletion, bound elsewhere)."""
        if self._resident(uid).is_bound:
            raise StateError(f"pod {uid} is bound, not assumed; release it when the API says that it ended")
        self._dismiss(uid)
        self.log.append(Event(time_s, log.POD_FORGOTTEN, uid))

    def release(self, uid: str, *, time_s: int = 0) -> Resident:
        """The pod ended or was deleted; returns what it was."""
        resident = self._dismiss(uid)
        self.log.append(Event(time_s, log.POD_RELEASED, uid))
        return resident

    def strand(self, uid: str, *, time_s: int = 0) -> None:
        """The pod's node is about to go, and whether the pod ends with it nobody knows yet."""
        resident = self._dismiss(uid)
        self.log.append(Event(time_s, log.POD_STRANDED, uid, self.names[resident.row]))

    def _resident(self, uid: str) -> Resident:
        try:
            return self.residents[uid]
        except KeyError:
            raise StateError(f"pod {uid} is not in the ledger; it was never placed, or has already ended") from None

    def _admit(self, resident: Resident) -> None:
        uid = resident.uid
        if uid in self.residents:
            raise StateError(f"pod {uid} is already in the ledger on {self.names[self.residents[uid].row]}")
        self.residents[uid] = resident
        self.residents_on[resident.row][uid] = resident
        self._count(resident)

    def _count(self, resident: Resident) -> None:
        spec, row = resident.spec, resident.row
        delta = self._deltas.get(spec)
        if delta is None:
            delta = self.delta(spec)
        taken = self._taken_of[row]
        taken += delta
        if resident.devices:
            assert spec.gpu is not None, "devices are taken by pods that ask for a GPU"
            if (most := resident.devices.bit_length()) > self.gpu_free.shape[1]:  # none offers as many at the moment
                self._allocate(num_lanes=self.offered.shape[0], num_rows=self.offered.shape[1], num_gpus=most)
            free, milli = self._share_of[row], spec.gpu.milli
            for index in device_indices(resident.devices):
                free[index] -= milli
            if row in self.unrecorded:
                self._keep_off(row)
        elif spec.gpu is not None and resident.is_bound:
            self._hide(resident, spec.gpu)
            self._keep_off(row)
        self.rules.bind(spec, row)
        self._touch(row, resident)

    def _dismiss(self, uid: str) -> Resident:
        resident = self._resident(uid)
        del self.residents[uid]
        del self.residents_on[resident.row][uid]
        self._discount(resident)
        return resident

    def _discount(self, resident: Resident) -> None:
        row, spec = resident.row, resident.spec
        delta = self.delta(spec)
        taken = self._taken_of[row]
        taken -= delta
        if resident.devices:
            assert spec.gpu is not None, "devices are taken by pods that ask for a GPU"
            free, milli = self._share_of[row], spec.gpu.milli
            for index in device_indices(resident.devices):
                free[index] += milli
            if row in self.unrecorded:
                self._keep_off(row)
        elif spec.gpu is not None and resident.is_bound:
            hidden = self.unrecorded[row]
            del hidden[resident.uid]
            if not hidden:
                del self.unrecorded[row]
            self._keep_off(row)
        self.rules.release(spec, row)
        self._touch(row, resident)

    # ── devices that nobody recorded ──────────────────────────────────────────────────────────

    def _hide(self, resident: Resident, gpu: GpuRequest) -> None:
        self.unrecorded.setdefault(resident.row, {})[resident.uid] = gpu

    def _keep_off(self, row: int) -> None:
        """Write what is free for certain of a node's devices."""
        share = self._share_of[row]
        for index, free in enumerate(self.free_devices(row)):
            share[index] = free
        if row in self.unrecorded:
            self._gpu_known[row] = self.free_devices(row, self.unrecorded[row])

    def free_devices(self, row: int, without: Container[str] = ()) -> list[int]:
        """Thousandths that are free for certain of each device of a node, once the pods ``without`` (UIDs) are gone.

        Assumed pods take what they were given and prove nothing: where one is not bound yet, somebody else may lie.
        """
        left = [DEVICE_MILLI if index < self.gpu_count[row] else 0 for index in range(self.gpu_free.shape[1])]
        assumed = [0] * len(left)
        for uid, resident in self.residents_on[row].items():
            gpu = resident.spec.gpu
            if gpu is not None and uid not in without:
                for index in device_indices(resident.devices):
                    if resident.is_bound:
                        left[index] -= gpu.milli
                    else:
                        assumed[index] += gpu.milli
        hidden = [gpu for uid, gpu in self.unrecorded.get(row, {}).items() if uid not in without]
        return [free - taken for free, taken in zip(sure_of(left, hidden), assumed, strict=True)]

    def hides_devices(self, spec: PodSpec) -> BoolArray:
        """``(N,)`` bool: nodes where devices would be free for a class, were it not for pods that may lie on them."""
        hides: BoolArray = np.zeros(self.num_rows, np.bool_)
        if spec.gpu is None or not self.unrecorded:
            return hides
        milli, count = spec.gpu.milli, spec.gpu.count
        rows = np.fromiter(self.unrecorded, np.int64, len(self.unrecorded))
        would = (self._gpu_known[rows] >= milli).sum(axis=1) >= count
        hides[rows] = would & ((self.gpu_free[rows] >= milli).sum(axis=1) < count)
        if spec.gpu.models:
            hides &= self.offers_models(spec.gpu)
        return hides

    def offers_models(self, gpu: GpuRequest) -> BoolArray:
        """``(N,)`` bool: nodes whose devices are of a model that is accepted."""
        accepted = [i for model, i in self.models.items() if not gpu.models or model in gpu.models]
        return np.isin(self.gpu_model[: self.num_rows], accepted)

    # ── knowledge and views ───────────────────────────────────────────────────────────────────

    def learn(self, knowledge: Knowledge, *, time_s: int = 0) -> None:
        """Swap in a new version of everything learned; the only way it ever changes."""
        self.knowledge = knowledge
        self.version += 1
        self.epoch += 1
        self.log.append(Event(time_s, log.KNOWLEDGE, knowledge.digest, detail=knowledge))

    def lane(self, resource: str) -> int:
        """Row of a resource in ``offered`` and ``taken``; -1 if no node or pod ever named it."""
        return self.row_of_resource.get(resource, -1)

    def snapshot(self) -> Snapshot:
        """What a decision may see, now."""
        return Snapshot(self)


class Snapshot:
    """Read-only view of the ledger, valid until its next change (the ledger's ``version`` tells).

    Views alias the ledger's memory, so making one copies nothing.
    """

    __slots__ = ("state",)

    def __init__(self, state: ClusterState) -> None:
        self.state = state

    def _view(self, array: AnyArray) -> AnyArray:
        view = array.view()
        view.flags.writeable = False
        return view

    @property
    def offered(self) -> IntArray:
        """``(L, N)`` int64: allocatable per quantity and node."""
        return self._view(self.state.offered[:, : self.state.num_rows])

    @property
    def taken(self) -> IntArray:
        """``(L, N)`` int64: what residents take."""
        return self._view(self.state.taken[:, : self.state.num_rows])

    @property
    def gpu_free(self) -> IntArray:
        """``(N, G)`` int64: free thousandths per device."""
        return self._view(self.state.gpu_free[: self.state.num_rows])

    @property
    def is_alive(self) -> BoolArray:
        """``(N,)`` bool: rows that hold a node."""
        return self._view(self.state.is_alive[: self.state.num_rows])
