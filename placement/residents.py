"""The pods of one ledger, and what nodes may expect of them by one state of knowledge: the columns of
:mod:`placement.outlook`, kept in step with both.

Knowledge repeats most of the version before: what is the very same object says the same. So of a new version only what is
another object is read, into a row of its own that all classes which are told by it share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import repeat
from operator import attrgetter

import numpy as np

from placement.knowledge import MORE_S, NUM_WINDOWS, Forecast, Forecasts, Lifespan, Lifetimes, names_of, unpacked
from placement.outlook import (
    FIRST_STAY,
    FIRST_WINDOW,
    LIFE,
    NOWHERE,
    NUM_AGES,
    NUM_HORIZONS,
    NUM_OUTLOOK,
    STAY_UNIT,
    Entries,
    Slots,
    plain_entries,
)
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, IntArray
from placement.state import TOUCH_RING, ClusterState

LEAST_CHANCE = 1 / 4096
STAYS: IntArray = np.array(
    [round(-math.log2(max(milli / 1000, LEAST_CHANCE)) * STAY_UNIT) for milli in range(1001)], np.int64
)
"""``(1001,)``: the stay of each chance in thousandths."""
MOST_USE = 1 << 48
"""No pod counts with more millicores or bytes (256 TiB): so sums over 32,000 pods of a node stay inside int64."""
NO_FORECASTS: Mapping[str, Forecast] = {}
NO_LIFE = (0,) * (FIRST_WINDOW - LIFE)
EVERYONE, NOBODY = range(2)
"""Rows of the lifespan of pods of whom nothing else is known, and of lifespans that no class is told by."""
MIN_CLASSES = 1024
"""Above, classes without a pod are forgotten once they are half of all."""
FIRST_ROOM = 64


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
        self._forecasts = NO_FORECASTS
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
        self._named: dict[str, list[int]] = {}
        """Classes by each of those names."""
        self._life_row: dict[str, int] = {}
        """Rows of the lifespans that some class is told by."""
        self._unread: list[tuple[int, Lifespan]] = []
        """Of those rows, what is not written yet."""
        self._kin: list[int] = []
        self._workloads: dict[str, int] = {}
        self._use_told: list[Forecast | None] = []
        self._free: list[int] = []
        self._most = MIN_CLASSES
        empty = Slots(*[np.zeros(0, np.int64)] * len(Slots._fields))
        self._make_room(empty, num_slots=num_slots, num_classes=FIRST_ROOM, num_lives=FIRST_ROOM)
        if self._lifetimes is not None:
            self._unread.append((EVERYONE, self._lifetimes.everyone))

    def _make_room(self, old: Slots, *, num_slots: int = 0, num_classes: int = 0, num_lives: int = 0) -> None:
        """For so many pods, classes and lifespans at least; what was there stays."""
        num_slots = max(num_slots, len(old.row))
        num_classes, num_lives = max(num_classes, len(old.own)), max(num_lives, len(old.life_s))

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
            told=grown(old.told, num_classes),
            life_s=grown(old.life_s, num_lives, NUM_AGES),
            left=grown(old.left, num_lives, NUM_AGES, NUM_HORIZONS),
            first=self._first,
            outlook=self.outlook,
            now=self._now,
            most=np.zeros(NUM_HORIZONS, np.int64),
        )
        self._come, self._go, self._add_up, self._add_up_use, self._add_up_lives = self._entries(self._slots)

    def learn(self, forecasts: Forecasts | None, lifetimes: Lifetimes | None) -> None:
        """Know something else: of classes, what is told otherwise than before, and of pods how old they are by now."""
        uses_otherwise = self._hear_of_use(NO_FORECASTS if forecasts is None else forecasts.of)
        lives_otherwise = lifetimes is not self._lifetimes
        if lives_otherwise:
            self._hear_of_lives(lifetimes)
            self._now[:] = (0, 0) if lifetimes is None else (lifetimes.as_of_s, 1)
        if self._clock < 0:
            return
        if uses_otherwise:
            self._add_up_use()
        if lives_otherwise:
            self._add_up_lives()

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
            c = self._class(resident.spec)
            if not self._free:
                self._make_room(self._slots, num_slots=2 * len(self._slots.row))
            slot = slot_of[resident.uid] = self._free.pop()
            self._come(slot, resident.row, c, self._kin[c], resident.since_s)

    def _look_up(self) -> None:
        """Everyone who is there."""
        residents = self.state.residents
        num = len(residents)
        self._begin(max(2 * num, FIRST_ROOM))
        of = self._class_of
        classes = [of[r.spec] if r.spec in of else self._add_class(r.spec) for r in residents.values()]
        self._read()
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

    def _class(self, spec: PodSpec) -> int:
        c = self._class_of.get(spec)
        if c is None:
            c = self._add_class(spec)
            self._read()
        return c

    def _add_class(self, spec: PodSpec) -> int:
        """A new class; its lifespan is not read yet."""
        c = self._class_of[spec] = len(self._names)
        if c >= len(self._slots.own):
            self._make_room(self._slots, num_classes=2 * c)
        names = names_of(spec)
        self._names.append(names)
        for name in names:
            self._named.setdefault(name, []).append(c)
        workload, workloads = names[1], self._workloads
        self._kin.append(workloads.setdefault(workload, len(workloads)) if workload else NOWHERE)
        self._specs.append(spec)
        self._use_told.append(None)
        self._write_use(c, self._forecasts.get(workload))
        self._find_life(c)
        return c

    def outlook_of(self, spec: PodSpec) -> IntArray:
        """``(NUM_OUTLOOK,)`` int64 of one pod of a class that has just come, in millicores, bytes and seconds; a view.

        Mean use, upper use, request of a pod without a forecast (its mean, too), lifetime, stays, upper use by window.
        """
        c = self._class(spec)
        slots = self._slots
        own: IntArray = slots.own[c]
        if self._lifetimes is None:
            own[LIFE:FIRST_WINDOW] = 0
        else:
            told = slots.told[c]
            own[LIFE] = slots.life_s[told, 0] or MORE_S
            own[FIRST_STAY:FIRST_WINDOW] = slots.left[told, 0]
        return own

    # ── use ───────────────────────────────────────────────────────────────────────────────────

    def _hear_of_use(self, forecasts: Mapping[str, Forecast]) -> bool:
        """Whether a class is said to use something else."""
        if forecasts is self._forecasts:
            return False
        self._forecasts = forecasts
        found = False
        for c, (_, workload, _) in enumerate(self._names):
            forecast = forecasts.get(workload)
            if forecast is not self._use_told[c]:
                self._write_use(c, forecast)
                found = True
        return found

    def _write_use(self, c: int, forecast: Forecast | None) -> None:
        self._use_told[c] = forecast
        if forecast is None:
            asked = self._specs[c].amount(CPU), self._specs[c].amount(MEMORY)
            use, windows = (*asked, 0, 0, *asked), (0,) * (2 * NUM_WINDOWS)
        else:
            upper = (forecast.cpu, forecast.memory)
            use = (forecast.mean_cpu, forecast.mean_memory, *upper, 0, 0)
            windows = tuple(x for window in forecast.windows or (upper,) * NUM_WINDOWS for x in window)
        self._slots.own[c] = [min(amount, MOST_USE) for amount in (*use, *NO_LIFE, *windows)]

    # ── lives ─────────────────────────────────────────────────────────────────────────────────

    def _hear_of_lives(self, lifetimes: Lifetimes | None) -> None:
        """Read the lifespans that are others than before, and find those of classes whose names came or went."""
        before, self._lifetimes = self._lifetimes, lifetimes
        if lifetimes is None:
            self._slots.told[:] = EVERYONE
            return
        changes = lifetimes.changes(before)
        self._write_lives([EVERYONE, *map(self._life_row.get, changes.names, repeat(NOBODY))], changes.numbers)
        for name in changes.moved:
            for c in self._named.get(name, ()):
                self._find_life(c)
        self._read()

    def _find_life(self, c: int) -> None:
        """What a class is told by now: the first of its names that is known."""
        rows, told = self._life_row, self._slots.told
        told[c] = EVERYONE
        if self._lifetimes is None:
            return
        for name in self._names[c]:
            one = self._lifetimes.of.get(name)
            if one is not None:
                row = rows.get(name)
                if row is None:
                    row = rows[name] = NOBODY + 1 + len(rows)
                    self._unread.append((row, one))
                told[c] = row
                return

    def _read(self) -> None:
        """Write the lifespans that are new to classes, all of them at once."""
        if self._unread:
            num_lives = len(self._slots.life_s)
            if NOBODY + len(self._life_row) >= num_lives:
                self._make_room(self._slots, num_lives=max(2 * num_lives, NOBODY + 1 + len(self._life_row)))
            self._write_lives([row for row, _ in self._unread], unpacked([one for _, one in self._unread]))
            self._unread.clear()

    def _write_lives(self, rows: list[int], numbers: IntArray) -> None:
        slots, at = self._slots, np.array(rows, np.int64)
        slots.life_s[at] = numbers[:, :NUM_AGES]
        slots.left[at] = STAYS[numbers[:, NUM_AGES:]].reshape(-1, NUM_AGES, NUM_HORIZONS)
