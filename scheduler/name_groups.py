"""Names of nodes as the compiled look-up wants them: by length, and only what tells names of one length apart.

Names of one cluster are alike. What all names of one length share is compared once with a template, under a mask;
the bytes that vary lie in a few windows of 8, and only those are hashed, stored and compared. The table is made so that
every name has a place of its own ("hash and displace": Belazzougui, Botelho, Dietzfelbinger, ESA 2009): a name costs one
look-up in a table that stays in the processor's caches, nothing is tried twice, and still every byte of it is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from placement.machine_code import compiled
from placement.resources import AnyArray, BoolArray, IntArray

WORD = 8
"""Bytes of a window."""
MAX_LENGTH = 255
MIX = 0x9E3779B97F4A7C15
SHIFT = 29
NUM_FIELDS = 8
"""Of a group: bytes of a quoted name, where its template begins, number of windows, where their offsets begin, bits of
the hash that are not of the bucket, where its buckets begin, bits that are not of the place, where its places begin."""
FULL = 0.95
"""Largest share of the places that is taken."""
MAX_SHIFT = 1 << 14
"""A bucket's shift is a number below; usually a thousand are enough. If none of them will do, the table grows."""
NO_ROW = np.uint64(2**64 - 1)
"""At a free place, and for its windows: no name in UTF-8 has such bytes."""
MAX_GROWTH = 2
"""Times that it grows; names that still find no place, which somebody must have chosen for that, are not in it."""


class Groups(NamedTuple):
    """Names by length; a group is as many fields of ``fields`` as :data:`NUM_FIELDS`."""

    of_length: IntArray
    """``(MAX_LENGTH + 1,)`` int64: the group, −1 for none."""
    fields: IntArray
    windows: IntArray
    """Offsets from the opening quote, int64."""
    templates: NDArray[np.uint8]
    """Of every group: the quoted bytes, then the mask, 255 where all names have that byte."""
    shifts: NDArray[np.uint16]
    """Of every group: by bucket, what leads its names to places of their own."""
    entries: NDArray[np.uint64]
    """Of every place: row of the name there, −1 for none, then its windows."""

    def addresses(self) -> IntArray:
        """``(6,)`` int64: where these arrays lie; they must be held as long as anybody reads there."""
        return np.array([array.ctypes.data for array in self], np.int64)


class Group:
    """Names of one length, and what the look-up needs of them; follows names that come and go.

    ``rows (n,)`` int64 and ``text (n, length)`` uint8 are the names: of 8 to :data:`MAX_LENGTH` bytes, all different, at
    least one. The table has 2^``growth`` times the places that it needs: more of them where others are to come.
    """

    def __init__(self, rows: IntArray, text: NDArray[np.uint8], growth: int = 0) -> None:
        self.rows, self.text = rows, text
        self._is_shared: BoolArray = (text == text[0]).all(axis=0)
        self.windows = _covering(np.flatnonzero(~self._is_shared).tolist(), text.shape[1])
        """Offsets from the first byte."""
        mask = np.where(self._is_shared, 255, 0)
        self.template = np.concatenate([_quoted(text[0], 0x22), _quoted(mask, 255)])
        self._mixed = mix(self._words(text))
        self.shifts, self.place_bits, self._places, self._is_free = _table(self._mixed, growth)
        self.entries: NDArray[np.uint64] = np.full((1 << self.place_bits, len(self.windows) + 1), NO_ROW)
        self._enter(np.arange(len(rows)))

    def _words(self, text: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """``(W, n)``: what tells names apart."""
        parts = [np.ascontiguousarray(text[:, k : k + WORD]).view(np.uint64)[:, 0] for k in self.windows]
        return np.array(parts, np.uint64)

    def _enter(self, names: IntArray) -> None:
        """Write down those of some names that have a place."""
        names = names[self._places[names] >= 0]
        self.entries[self._places[names], 0] = self.rows[names]
        self.entries[self._places[names], 1:] = self._words(self.text[names]).T

    def but(self, gone: Collection[int], rows: IntArray, text: NDArray[np.uint8]) -> Group | None:
        """Without the names of some rows, and with others: this group, or one made anew where new names differ in more
        than the old ones do, or find no place; None if none is left."""
        if gone:
            self._lose(np.isin(self.rows, np.array(list(gone), np.int64)))
        first = len(self.rows)
        self.rows, self.text = np.concatenate([self.rows, rows]), np.concatenate([self.text, text])
        if not first:
            return Group(rows, text) if len(rows) else None
        shared = self.template[1 : 1 + text.shape[1]]
        differs = bool((text != shared)[:, self._is_shared].any())
        return Group(self.rows, self.text, 1) if differs or not self._place(first) else self

    def _lose(self, is_gone: BoolArray) -> None:
        places = self._places[is_gone]
        places = places[places >= 0]
        self.entries[places] = NO_ROW
        self._is_free[places] = True
        stays = ~is_gone
        self.rows, self.text = self.rows[stays], self.text[stays]
        self._mixed, self._places = self._mixed[stays], self._places[stays]

    def _place(self, first: int) -> bool:
        """Find names from ``first`` on a place, moving those of their buckets; whether all have one."""
        self._mixed = np.append(self._mixed, mix(self._words(self.text[first:])))
        self._places = np.append(self._places, np.full(len(self.rows) - first, -1))
        buckets = _buckets(self._mixed, len(self.shifts))
        moved = np.flatnonzero(np.isin(buckets, buckets[first:]))
        held = self._places[moved]
        held = held[held >= 0]
        self._is_free[held] = True
        self.entries[held] = NO_ROW
        unused = np.uint64(64 - self.place_bits)
        order = moved[np.argsort(buckets[moved], kind="stable")]
        is_complete = displace(self._mixed, buckets, order, unused, self._is_free, self.shifts, self._places)
        self._enter(moved)
        return bool(is_complete)


def columns_of(names: Iterable[tuple[int, bytes]]) -> dict[int, tuple[IntArray, NDArray[np.uint8]]]:
    """Length → rows and names ``(n, length)`` of that length."""
    by_length: dict[int, list[tuple[int, bytes]]] = {}
    for row, name in names:
        by_length.setdefault(len(name), []).append((row, name))
    return {
        length: (
            np.array([row for row, _ in members], np.int64),
            np.frombuffer(b"".join([name for _, name in members]), np.uint8).reshape(-1, length),
        )
        for length, members in by_length.items()
    }


def joined(groups: Mapping[int, Group]) -> Groups:
    """All groups by the length of their names."""
    of_length = np.full(MAX_LENGTH + 1, -1, np.int64)
    fields: list[int] = []
    windows: list[int] = [0]
    templates, shifts, entries = [np.zeros(0, np.uint8)], [np.zeros(0, np.uint16)], [np.zeros(0, np.uint64)]
    sizes = [0, 0, 0]
    for number, (length, group) in enumerate(sorted(groups.items())):
        of_length[length] = number
        fields += [length + 2, sizes[0], len(group.windows), len(windows), _unused_bits(len(group.shifts)), sizes[1]]
        fields += [64 - group.place_bits, sizes[2]]
        windows += [k + 1 for k in group.windows]
        templates.append(group.template)
        shifts.append(group.shifts)
        entries.append(group.entries.ravel())
        sizes = [sizes[0] + len(templates[-1]), sizes[1] + len(shifts[-1]), sizes[2] + len(entries[-1])]
    parts = (np.concatenate(templates), np.concatenate(shifts), np.concatenate(entries))
    fields = fields or [0] * NUM_FIELDS  # there is always one to look at
    return Groups(of_length, np.array(fields, np.int64), np.array(windows, np.int64), *parts)


def _covering(positions: list[int], length: int) -> list[int]:
    """Offsets of the fewest windows within ``length`` bytes that hold all ``positions``, which ascend; at least one."""
    offsets: list[int] = []
    for at in positions:
        if not offsets or at >= offsets[-1] + WORD:
            offsets.append(min(at, length - WORD))
    return offsets or [0]


def _quoted(text: AnyArray, quote: int) -> NDArray[np.uint8]:
    return np.concatenate([[quote], text, [quote]]).astype(np.uint8)


def _unused_bits(size: int) -> int:
    """Of a 64-bit hash, for a number below the power of two ``size``."""
    return 65 - size.bit_length()


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """``(n,)`` hashes; ``words (W, n)`` by window."""
    mixed = np.zeros(words.shape[1], np.uint64)
    for word in words:
        mixed = (mixed + word) * np.uint64(MIX)
        mixed ^= mixed >> np.uint64(SHIFT)
    mixed *= np.uint64(MIX)
    return mixed


def _buckets(mixed: NDArray[np.uint64], number: int) -> IntArray:
    return (mixed >> np.uint64(_unused_bits(number))).astype(np.int64)


def _table(mixed: NDArray[np.uint64], more: int = 0) -> tuple[NDArray[np.uint16], int, IntArray, BoolArray]:
    """Shifts of the buckets, bits of a place, the place of every name, −1 for none, and which places are free; ``more``
    bits than are needed."""
    bits = max(4, int(len(mixed) / FULL).bit_length()) + more
    num_buckets = 1 << (bits - 2)
    buckets = _buckets(mixed, num_buckets)
    sizes = np.bincount(buckets, minlength=num_buckets)
    order = np.lexsort((buckets, -sizes[buckets]))  # large buckets first, while there is room
    for growth in range(MAX_GROWTH + 1):
        shifts, places = np.zeros(num_buckets, np.uint16), np.full(len(mixed), -1, np.int64)
        is_free = np.ones(1 << (bits + growth), np.bool_)
        if displace(mixed, buckets, order, np.uint64(64 - bits - growth), is_free, shifts, places):
            break
    return shifts, bits + growth, places, is_free


@compiled
def displace(
    mixed: AnyArray,
    buckets: IntArray,
    order: IntArray,
    unused: Any,
    is_free: BoolArray,
    shifts: NDArray[np.uint16],
    places: IntArray,
) -> bool:
    """Find every bucket a shift that leads its names to ``places (n,)`` of their own; whether there is one for each.

    ``mixed (n,)`` uint64 and ``buckets (n,)`` int64 by name; ``order (n,)`` names, those of a bucket side by side.
    """
    start, num, is_complete = 0, len(order), True
    while start < num:
        bucket, end = buckets[order[start]], start
        while end < num and buckets[order[end]] == bucket:
            end += 1
        shift, placed = -1, start
        while placed < end and shift < MAX_SHIFT - 1:
            shift += 1
            for name in order[start:placed]:
                is_free[places[name]] = True
            placed = start
            while placed < end:
                name = order[placed]
                place = np.int64(((mixed[name] ^ np.uint64(shift)) * np.uint64(MIX)) >> unused)
                if not is_free[place]:
                    break
                is_free[place] = False
                places[name] = place
                placed += 1
        if placed < end:
            for name in order[start:placed]:
                is_free[places[name]] = True
            places[order[start:end]] = -1
            is_complete = False
        shifts[bucket] = shift
        start = end
    return is_complete
