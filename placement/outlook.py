"""What is expected of nodes: what their pods will use, how long they will stay, node by node, as pods come and go.

Every resident has a slot in columns; the slots of a node are a list linked by indices, in which pods of one workload are
neighbours. A pod that comes or goes changes the entry of its node by its class's share, and looks at the node's other pods
only for what is no sum: who stays longest, and of each workload the likeliest to stay. New lifetimes change what is told
of all ages, so that part of the entries is made anew, in one loop over each node's list; use is added up anew only if a
class is said to use something else. All sums are of integers, so the entries are the same whichever way they were reached.

The loops are compiled where numba is installed. :mod:`placement.kernels` makes them entries that take one argument;
:mod:`placement.residents` keeps the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from placement.knowledge import AGES_S, HORIZONS_S, MORE_S, NUM_WINDOWS
from placement.machine_code import compiled
from placement.resources import IntArray

MEAN_CPU, MEAN_MEMORY, UPPER_CPU, UPPER_MEMORY, UNKNOWN_CPU, UNKNOWN_MEMORY, LIFE, FIRST_STAY = range(8)
FIRST_WINDOW = FIRST_STAY + len(HORIZONS_S)
"""Entries of an outlook: one stay per horizon, then the windows, CPU and memory of each."""
NUM_OUTLOOK = FIRST_WINDOW + 2 * NUM_WINDOWS
NUM_AGES, NUM_HORIZONS = len(AGES_S), len(HORIZONS_S)

STAY_UNIT = 64
"""A stay is minus the binary logarithm of the chance to be gone within a horizon, in these parts: stays add up where
chances multiply."""
NOWHERE = -1
NOW, IS_TOLD = range(2)


class Slots(NamedTuple):
    """Pods by slot ``(S,)``, what each class adds ``(C, …)``, lifespans ``(L, …)``, and the nodes ``(N, …)``."""

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
    told: IntArray
    """``(C,)``: the class's lifespan."""
    life_s: IntArray
    """``(L, ages)``: whole lifetimes."""
    left: IntArray
    """``(L, ages, horizons)``: stays."""
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
    """Add what a slot's pod uses to its node's sums, or take it away."""
    entry, own = slots.outlook[slots.row[slot]], slots.own[slots.cls[slot]]
    for k in range(LIFE):
        entry[k] += sign * own[k]
    for k in range(FIRST_WINDOW, NUM_OUTLOOK):
        entry[k] += sign * own[k]


@compiled
def _age(slots: Slots, slot: int) -> None:
    """Write what is told of a slot's pod at its age."""
    told = slots.told[slots.cls[slot]]
    age_s = slots.now[NOW] - slots.since_s[slot]
    lived_s = max(age_s, 0)
    k = NUM_AGES - 1
    while lived_s < AGES_S[k]:
        k -= 1
    life_s = slots.life_s[told, k]
    if life_s <= lived_s:
        life_s = lived_s + max(lived_s // 2, MORE_S)
    slots.end_s[slot] = life_s - age_s
    for h in range(NUM_HORIZONS):
        slots.stays[slot, h] = slots.left[told, k, h]


@compiled
def _stay(slots: Slots, slot: int, sign: int) -> None:
    """Count what the stays of a slot's pod are more than those of its workload's other pods on the node, which is all
    that they change there; those are its neighbours in the node's list."""
    kin, most, stays = slots.kin[slot], slots.most, slots.stays
    for h in range(NUM_HORIZONS):
        most[h] = 0
    if kin >= 0:
        other = slots.before[slot]
        while other != NOWHERE and slots.kin[other] == kin:
            for h in range(NUM_HORIZONS):
                most[h] = max(most[h], stays[other, h])
            other = slots.before[other]
        other = slots.after[slot]
        while other != NOWHERE and slots.kin[other] == kin:
            for h in range(NUM_HORIZONS):
                most[h] = max(most[h], stays[other, h])
            other = slots.after[other]
    entry = slots.outlook[slots.row[slot]]
    for h in range(NUM_HORIZONS):
        entry[FIRST_STAY + h] += sign * max(stays[slot, h] - most[h], 0)


@compiled
def _link(slots: Slots, slot: int) -> None:
    """Into its node's list: in front of its workload's other pods, or of all."""
    row, kin = slots.row[slot], slots.kin[slot]
    first = slots.first[row]
    at = first if kin >= 0 else NOWHERE
    while at != NOWHERE and slots.kin[at] != kin:
        at = slots.after[at]
    if at == NOWHERE:
        at = first
    before = slots.before[at] if at != NOWHERE else NOWHERE
    slots.before[slot], slots.after[slot] = before, at
    if at != NOWHERE:
        slots.before[at] = slot
    if before == NOWHERE:
        slots.first[row] = slot
    else:
        slots.after[before] = slot


@compiled
def come(slots: Slots, slot: int, row: int, c: int, kin: int, since_s: int) -> None:
    """A pod of class ``c`` came to a node and takes a slot."""
    slots.row[slot], slots.cls[slot], slots.kin[slot], slots.since_s[slot] = row, c, kin, since_s
    _link(slots, slot)
    _count(slots, slot, 1)
    if slots.now[IS_TOLD]:
        _age(slots, slot)
        _stay(slots, slot, 1)
        slots.outlook[row, LIFE] = max(slots.outlook[row, LIFE], slots.end_s[slot])


@compiled
def go(slots: Slots, slot: int) -> None:
    """The pod of a slot left its node."""
    row, before, after = slots.row[slot], slots.before[slot], slots.after[slot]
    _count(slots, slot, -1)
    if slots.now[IS_TOLD]:
        _stay(slots, slot, -1)
    if before == NOWHERE:
        slots.first[row] = after
    else:
        slots.after[before] = after
    if after != NOWHERE:
        slots.before[after] = before
    if slots.now[IS_TOLD] and slots.end_s[slot] == slots.outlook[row, LIFE]:
        longest_s = 0
        other = slots.first[row]
        while other != NOWHERE:
            longest_s = max(longest_s, slots.end_s[other])
            other = slots.after[other]
        slots.outlook[row, LIFE] = longest_s
    slots.row[slot] = NOWHERE


@compiled
def add_up_use(slots: Slots) -> None:
    """Every node's use from nothing."""
    slots.outlook[:, :LIFE] = 0
    slots.outlook[:, FIRST_WINDOW:] = 0
    for slot in range(slots.row.shape[0]):
        if slots.row[slot] != NOWHERE:
            _count(slots, slot, 1)


@compiled
def add_up_lives(slots: Slots) -> None:
    """Every node's lifetime and stays from nothing, as of now."""
    most, stays = slots.most, slots.stays
    slots.outlook[:, LIFE:FIRST_WINDOW] = 0
    if not slots.now[IS_TOLD]:
        return
    for row in range(slots.first.shape[0]):
        entry = slots.outlook[row]
        kin = NOWHERE
        slot = slots.first[row]
        while slot != NOWHERE:
            _age(slots, slot)
            entry[LIFE] = max(entry[LIFE], slots.end_s[slot])
            if kin < 0 or slots.kin[slot] != kin:  # of another workload than the one before
                kin = slots.kin[slot]
                for h in range(NUM_HORIZONS):
                    most[h] = 0
            for h in range(NUM_HORIZONS):
                if stays[slot, h] > most[h]:
                    entry[FIRST_STAY + h] += stays[slot, h] - most[h]
                    most[h] = stays[slot, h]
            slot = slots.after[slot]


@compiled
def add_up(slots: Slots) -> None:
    """Every list and every node from nothing."""
    slots.first[:] = NOWHERE
    for slot in range(slots.row.shape[0]):
        if slots.row[slot] != NOWHERE:
            _link(slots, slot)
    add_up_use(slots)
    add_up_lives(slots)


class Entries(NamedTuple):
    """The changes of :class:`Slots`, bound to some."""

    come: Callable[[int, int, int, int, int], object]
    """Slot, row, class, kin, since when."""
    go: Callable[[int], object]
    add_up: Callable[[], object]
    add_up_use: Callable[[], object]
    add_up_lives: Callable[[], object]


def plain_entries(slots: Slots) -> Entries:
    """Without a handle."""
    return Entries(*(partial(change, slots) for change in (come, go, add_up, add_up_use, add_up_lives)))
