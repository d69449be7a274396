"""What is expected of nodes: what their pods will use, how long they will stay, node by node, as pods come and go.

Every resident has a slot in columns; the slots of a node are a list linked by indices. A pod that comes or goes changes the
entry of its node by its class's share, and looks at the node's other pods only for what is no sum: who stays longest, and
of each workload the likeliest to stay. New knowledge adds everyone up anew, in one loop over slots. All sums are of
integers, so the entries are the same whichever way they were reached.

The loops are compiled where numba is installed. :mod:`placement.kernels` makes them entries that take one argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from placement.knowledge import (
    AGES_S,
    HORIZONS_S,
    MORE_S,
    NUM_WINDOWS,
    Forecast,
    Forecasts,
    Lifespan,
    Lifetimes,
    names_of,
)
from placement.machine_code import compiled
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, IntArray
from placement.state import TOUCH_RING, ClusterState

MEAN_CPU, MEAN_MEMORY, UPPER_CPU, UPPER_MEMORY, UNKNOWN_CPU, UNKNOWN_MEMORY, LIFE, FIRST_STAY = range(8)
FIRST_WINDOW = FIRST_STAY + len(HORIZONS_S)
"""Entries of an outlook: one stay per horizon, then the windows, CPU and memory of each."""
NUM_OUTLOOK = FIRST_WINDOW + 2 * NUM_WINDOWS
NUM_AGES, NUM_HORIZONS = len(AGES_S), len(HORIZONS_S)

STAY_UNIT = 64
"""A stay is minus the binary logarithm of the chance to be gone within a horizon, in these parts: stays add up where
chances multiply."""
LEAST_CHANCE = 1 / 4096
STAYS: IntArray = np.array(
    [round(-math.log2(max(milli / 1000, LEAST_CHANCE)) * STAY_UNIT) for milli in range(1001)], np.int64
)
"""``(1001,)``: the stay of each chance in thousandths."""
NOWHERE = -1
NOW, IS_TOLD = range(2)
MIN_CLASSES = 1024
"""Above, classes without a pod are forgotten once they are half of all."""
FIRST_ROOM = 64


class Slots(NamedTuple):
    """Pods by slot ``(S,)``, what each class adds ``(C, …)``, and the nodes ``(N, …)``."""

    row: IntArray
    """:data:`NOWHERE` where the slot is free."""
    cls: IntArray
    kin: IntArray
    """Pods of a node with the same number are of one workload; below 0 each is alone."""
    since_s: IntArray
    end_s: IntArray
    """Expected, in seconds from now; 0 where no lifetimes are known."""
    stays: IntArray
    """``(S, horizons)``."""
    before: IntArray
    after: IntArray
    """Neighbours in the node's list, :data:`NOWHERE` at its ends."""
    own: IntArray
    """``(C, NUM_OUTLOOK)`` of one new pod of a class."""
    life_s: IntArray
    """``(C, ages)``: whole lifetimes."""
    left: IntArray
    """``(C, ages, horizons)``: stays."""
    first: IntArray
    """``(N,)``: where a node's list begins."""
    outlook: IntArray
    """``(N, NUM_OUTLOOK)``."""
    now: IntArray
    """``(2,)``: ledger time at which lifetimes were learned; 1 where there are any."""
    most: IntArray
    """``(horizons,)``: room to work in."""


@compiled
def _count(slots: Slots, slot: int, sign: int) -> None:
    """Add a slot's pod to its node's sums, or take it away."""
    entry, own = slots.outlook[slots.row[slot]], slots.own[slots.cls[slot]]
    for k in range(LIFE):
        entry[k] += sign * own[k]
    for k in range(FIRST_WINDOW, NUM_OUTLOOK):
        entry[k] += sign * own[k]


@compiled
def _stay(slots: Slots, slot: int, sign: int) -> None:
    """Count what the stays of a slot's pod are more than those of its workload's other pods on the node, which is all
    that they change there; ``slot`` itself is not in the node's list."""
    row, kin, most = slots.row[slot], slots.kin[slot], slots.most
    entry, stays = slots.outlook[row], slots.stays
    for h in range(NUM_HORIZONS):
        most[h] = 0
    other = slots.first[row] if kin >= 0 else NOWHERE
    while other != NOWHERE:
        if slots.kin[other] == kin:
            for h in range(NUM_HORIZONS):
                most[h] = max(most[h], stays[other, h])
        other = slots.after[other]
    for h in range(NUM_HORIZONS):
        entry[FIRST_STAY + h] += sign * max(stays[slot, h] - most[h], 0)


@compiled
def _arrive(slots: Slots, slot: int) -> None:
    """A pod is on its node from now on."""
    row = slots.row[slot]
    _count(slots, slot, 1)
    if slots.now[IS_TOLD]:
        c = slots.cls[slot]
        age_s = slots.now[NOW] - slots.since_s[slot]
        lived_s = max(age_s, 0)
        k = NUM_AGES - 1
        while lived_s < AGES_S[k]:
            k -= 1
        life_s = slots.life_s[c, k]
        if life_s <= lived_s:
            life_s = lived_s + max(lived_s // 2, MORE_S)
        slots.end_s[slot] = life_s - age_s
        for h in range(NUM_HORIZONS):
            slots.stays[slot, h] = slots.left[c, k, h]
        _stay(slots, slot, 1)
        slots.outlook[row, LIFE] = max(slots.outlook[row, LIFE], life_s - age_s)
    first = slots.first[row]
    slots.before[slot], slots.after[slot], slots.first[row] = NOWHERE, first, slot
    if first != NOWHERE:
        slots.before[first] = slot


@compiled
def come(slots: Slots, slot: int, row: int, c: int, kin: int, since_s: int) -> None:
    """A pod of class ``c`` came to a node and takes a slot."""
    slots.row[slot], slots.cls[slot], slots.kin[slot], slots.since_s[slot] = row, c, kin, since_s
    _arrive(slots, slot)


@compiled
def go(slots: Slots, slot: int) -> None:
    """The pod of a slot left its node."""
    row, before, after = slots.row[slot], slots.before[slot], slots.after[slot]
    if before == NOWHERE:
        slots.first[row] = after
    else:
        slots.after[before] = after
    if after != NOWHERE:
        slots.before[after] = before
    _count(slots, slot, -1)
    if slots.now[IS_TOLD]:
        _stay(slots, slot, -1)
        if slots.end_s[slot] == slots.outlook[row, LIFE]:
            longest_s = 0
            other = slots.first[row]
            while other != NOWHERE:
                longest_s = max(longest_s, slots.end_s[other])
                other = slots.after[other]
            slots.outlook[row, LIFE] = longest_s
    slots.row[slot] = NOWHERE


@compiled
def add_up(slots: Slots) -> None:
    """Every node from nothing."""
    slots.outlook[:] = 0
    slots.first[:] = NOWHERE
    for slot in range(slots.row.shape[0]):
        if slots.row[slot] != NOWHERE:
            _arrive(slots, slot)


class Entries(NamedTuple):
    """The three changes of :class:`Slots`, bound to some."""

    come: Callable[[int, int, int, int, int], object]
    """Slot, row, class, kin, since when."""
    go: Callable[[int], object]
    add_up: Callable[[], object]


def plain_entries(slots: Slots) -> Entries:
    """Without a handle."""
    return Entries(
        lambda slot, row, c, kin, since_s: come(slots, slot, row, c, kin, since_s),
        lambda slot: go(slots, slot),
        lambda: add_up(slots),
    )


class Residents:
    """The pods of one ledger and what they add up to by one state of knowledge.

    ``outlook (N, NUM_OUTLOOK)`` is, node by node, the sum over its pods of :meth:`outlook_of`, with lifetimes as of each
    pod's age, but for two: ``LIFE`` is how many seconds after lifetimes were learned the last of its pods is expected to be
    gone, 0 if it is empty, and of stays it is the largest of each workload's pods that is summed
    (:class:`placement.scorers.Emptying` says why).
    """

    def __init__(self, state: ClusterState, entries: Callable[[Slots], Entries] = plain_entries) -> None:
        self.state = state
        self._entries = entries
        self._forecasts: Forecasts | None = None
        self._lifetimes: Lifetimes | None = None
        self._clock = -1
        """Of the ledger, when it was last followed; below 0 nobody is known."""
        num_rows = state.is_alive.shape[0]
        self.outlook: IntArray = np.zeros((num_rows, NUM_OUTLOOK), np.int64)
        self._first: IntArray = np.full(num_rows, NOWHERE, np.int64)
        self._now: IntArray = np.zeros(2, np.int64)
        self._begin(FIRST_ROOM)

    def _begin(self, num_slots: int) -> None:
        """Know nobody, and have room for so many."""
        self._slot_of: dict[str, int] = {}
        self._class_of: dict[PodSpec, int] = {}
        self._specs: list[PodSpec] = []
        self._names: list[tuple[str, str, str]] = []
        """Of each class: what its lifetimes may be told under, the workload in the middle."""
        self._kin: list[int] = []
        self._workloads: dict[str, int] = {}
        self._use_told: list[Forecast | None] = []
        self._life_told: list[Lifespan | None] = []
        self._free: list[int] = []
        self._most = MIN_CLASSES
        self._make_room(Slots(*[np.zeros(0, np.int64)] * len(Slots._fields)), num_slots, FIRST_ROOM)

    def _make_room(self, old: Slots, num_slots: int, num_classes: int) -> None:
        """For so many pods and classes; what was there stays."""

        def grown(before: IntArray, *shape: int, fill: int = 0) -> IntArray:
            array: IntArray = np.full(shape, fill, np.int64)
            if before.size:
                array[: len(before)] = before
            return array

        self._free += range(num_slots - 1, len(old.row) - 1, -1)
        self._slots = Slots(
            row=grown(old.row, num_slots, fill=NOWHERE),
            cls=grown(old.cls, num_slots),
            kin=grown(old.kin, num_slots),
            since_s=grown(old.since_s, num_slots),
            end_s=grown(old.end_s, num_slots),
            stays=grown(old.stays, num_slots, NUM_HORIZONS),
            before=grown(old.before, num_slots),
            after=grown(old.after, num_slots),
            own=grown(old.own, num_classes, NUM_OUTLOOK),
            life_s=grown(old.life_s, num_classes, NUM_AGES),
            left=grown(old.left, num_classes, NUM_AGES, NUM_HORIZONS),
            first=self._first,
            outlook=self.outlook,
            now=self._now,
            most=np.zeros(NUM_HORIZONS, np.int64),
        )
        self._come, self._go, self._add_up = self._entries(self._slots)

    def learn(self, forecasts: Forecasts | None, lifetimes: Lifetimes | None) -> None:
        """Know something else: of classes, what is told otherwise than before, and of pods how old they are by now."""
        self._forecasts, self._lifetimes = forecasts, lifetimes
        self._now[:] = (0, 0) if lifetimes is None else (lifetimes.as_of_s, 1)
        self._tell(0)
        if self._clock >= 0:
            self._add_up()

    def follow(self) -> None:
        """Bring ``outlook`` up to date with the ledger: who came and who left since the last call."""
        state = self.state
        clock, start = state.clock, self._clock
        if start == clock:
            return
        self._clock = clock
        if start < 0 or clock - start >= TOUCH_RING or len(self._names) > self._most:
            self._look_up()
            return
        changes, slot_of = state.changes, self._slot_of
        for i in range(start, clock):
            resident = changes[i & (TOUCH_RING - 1)]
            if resident is None:
                continue
            slot = slot_of.pop(resident.uid, NOWHERE)
            if slot != NOWHERE:
                self._go(slot)
                self._free.append(slot)
                continue
            spec = resident.spec
            c = self._class_of.get(spec)
            if c is None:
                c = self._add_class(spec)
            if not self._free:
                self._make_room(self._slots, 2 * len(self._slots.row), len(self._slots.own))
            slot = slot_of[resident.uid] = self._free.pop()
            self._come(slot, resident.row, c, self._kin[c], resident.since_s)

    def _look_up(self) -> None:
        """Everyone who is there."""
        residents = self.state.residents
        num = len(residents)
        self._begin(max(2 * num, FIRST_ROOM))
        of = self._class_of
        classes = [of[r.spec] if r.spec in of else self._add_class(r.spec) for r in residents.values()]
        self._most = max(MIN_CLASSES, 2 * len(of))
        slots = self._slots
        slots.cls[:num] = classes
        slots.kin[:num] = np.array(self._kin, np.int64)[classes] if num else 0
        slots.row[:num] = np.fromiter(map(attrgetter("row"), residents.values()), np.int64, num)
        slots.since_s[:num] = np.fromiter(map(attrgetter("since_s"), residents.values()), np.int64, num)
        self._slot_of |= zip(residents, range(num), strict=True)
        del self._free[len(slots.row) - num :]
        self._add_up()

    # ── classes ───────────────────────────────────────────────────────────────────────────────

    def _add_class(self, spec: PodSpec) -> int:
        c = self._class_of[spec] = len(self._names)
        if c >= len(self._slots.own):
            self._make_room(self._slots, len(self._slots.row), 2 * c)
        names = names_of(spec)
        self._names.append(names)
        workloads = self._workloads
        self._kin.append(workloads.setdefault(names[1], len(workloads)) if names[1] else NOWHERE)
        self._specs.append(spec)
        self._use_told.append(None)
        self._life_told.append(None)
        self._write_use(c, None)
        self._tell(c)
        return c

    def _tell(self, first: int) -> None:
        """Look up what is known of the classes from ``first`` on, and write what is new."""
        forecasts: Mapping[str, Forecast] = {} if self._forecasts is None else self._forecasts.of
        used, names = self._use_told, self._names[first:]
        for c, (_, workload, _) in enumerate(names, first):
            forecast = forecasts.get(workload)
            if forecast is not used[c]:
                used[c] = forecast
                self._write_use(c, forecast)
        lifetimes, lived = self._lifetimes, self._life_told
        if lifetimes is None:
            lived[first:] = [None] * len(names)
            self._slots.own[first:, LIFE:FIRST_WINDOW] = 0
            return
        of, everyone = lifetimes.of.get, lifetimes.everyone
        now = [of(both) or of(workload) or of(size) or everyone for both, workload, size in names]
        living = [
            (c, one) for c, (one, before) in enumerate(zip(now, lived[first:], strict=True), first) if one is not before
        ]
        lived[first:] = now
        if living:
            self._write_life(living)

    def _write_use(self, c: int, forecast: Forecast | None) -> None:
        own = self._slots.own[c]
        if forecast is None:
            asked = self._specs[c].amount(CPU), self._specs[c].amount(MEMORY)
            own[:LIFE] = *asked, 0, 0, *asked
            own[FIRST_WINDOW:] = 0
            return
        upper = (forecast.cpu, forecast.memory)
        own[:LIFE] = forecast.mean_cpu, forecast.mean_memory, *upper, 0, 0
        own[FIRST_WINDOW:] = [x for window in forecast.windows or (upper,) * NUM_WINDOWS for x in window]

    def _write_life(self, of: list[tuple[int, Lifespan]]) -> None:
        classes = [c for c, _ in of]
        size = len(of), NUM_AGES, NUM_HORIZONS
        life_s = np.array([lifespan.life_s for _, lifespan in of], np.int64)
        gone = chain.from_iterable(row for _, lifespan in of for row in lifespan.gone_milli)
        left = STAYS[np.fromiter(gone, np.int64, math.prod(size))].reshape(size)
        slots = self._slots
        slots.life_s[classes], slots.left[classes] = life_s, left
        slots.own[classes, LIFE] = np.where(life_s[:, 0] > 0, life_s[:, 0], MORE_S)
        slots.own[classes, FIRST_STAY:FIRST_WINDOW] = left[:, 0]

    def outlook_of(self, spec: PodSpec) -> IntArray:
        """``(NUM_OUTLOOK,)`` int64 of one pod of a class that has just come, in millicores, bytes and seconds; a view.

        Mean use, upper use, request of a pod without a forecast (its mean, too), lifetime, stays, upper use by window.
        """
        c = self._class_of.get(spec)
        if c is None:
            c = self._add_class(spec)
        own: IntArray = self._slots.own[c]
        return own
