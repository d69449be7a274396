"""Names of nodes as the compiled look-up wants them: by length, and only what tells names of one length apart.

Names of one cluster are alike. What all names of one length share is compared once with a template, under a mask;
the bytes that vary lie in a few windows of 8, and only those are hashed, stored and compared. So a name costs two
look-ups in tables that stay in the processor's caches, and still every byte of it is compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from placement.resources import AnyArray, IntArray

WORD = 8
"""Bytes of a window."""
MAX_LENGTH = 255
MIX = 0x9E3779B97F4A7C15
SHIFT = 29
NUM_FIELDS = 7
"""Of a group: bytes of a quoted name, where its template begins, number of windows, where their offsets begin, bits of
the hash that are not of the slot, where its slots and where its entries begin."""


class Groups(NamedTuple):
    """Names by length; a group is as many fields of ``fields`` as :data:`NUM_FIELDS`."""

    of_length: IntArray
    """``(MAX_LENGTH + 1,)`` int64: the group, −1 for none."""
    fields: IntArray
    windows: IntArray
    """Offsets from the opening quote, int64."""
    templates: NDArray[np.uint8]
    """Of every group: the quoted bytes, then the mask, 255 where all names have that byte."""
    slots: NDArray[np.int32]
    """Of every group: a linear-probing table of its entries that ends in a free slot, −1."""
    entries: NDArray[np.uint64]
    """Of every entry: its row, then its windows."""

    def addresses(self) -> IntArray:
        """``(6,)`` int64: where these arrays lie; they must be held as long as anybody reads there."""
        return np.array([array.ctypes.data for array in self], np.int64)


def grouped(names: Iterable[tuple[int, bytes]]) -> Groups:
    """``(row, name)`` of names of 8 to :data:`MAX_LENGTH` bytes that are different."""
    by_length: dict[int, list[tuple[int, bytes]]] = {}
    for row, name in names:
        by_length.setdefault(len(name), []).append((row, name))
    of_length = np.full(MAX_LENGTH + 1, -1, np.int64)
    fields: list[int] = []
    windows: list[int] = [0]
    templates, slots, entries = [np.zeros(0, np.uint8)], [np.zeros(0, np.int32)], [np.zeros(0, np.uint64)]
    sizes = [0, 0, 0]
    for number, (length, members) in enumerate(sorted(by_length.items())):
        text = np.frombuffer(b"".join([name for _, name in members]), np.uint8).reshape(-1, length)
        is_shared = (text == text[0]).all(axis=0)
        offsets = _covering(np.flatnonzero(~is_shared).tolist(), length)
        words = np.zeros((len(offsets), len(members)), np.uint64)
        for word, k in zip(words, offsets, strict=True):
            word[:] = np.ascontiguousarray(text[:, k : k + WORD]).view(np.uint64)[:, 0]
        bits = max(4, (2 * len(members)).bit_length())
        of_length[length] = number
        fields += [length + 2, sizes[0], len(offsets), len(windows), 64 - bits, sizes[1], sizes[2]]
        windows += [k + 1 for k in offsets]
        templates.append(np.concatenate([_quoted(text[0], 0x22), _quoted(np.where(is_shared, 255, 0), 255)]))
        slots.append(_slots(words, bits))
        rows = np.array([[row for row, _ in members]], np.uint64)
        entries.append(np.concatenate([rows, words]).T.ravel())
        sizes = [sizes[0] + len(templates[-1]), sizes[1] + len(slots[-1]), sizes[2] + len(entries[-1])]
    joined = (np.concatenate(templates), np.concatenate(slots), np.concatenate(entries))
    fields = fields or [0] * NUM_FIELDS  # there is always one to look at
    return Groups(of_length, np.array(fields, np.int64), np.array(windows, np.int64), *joined)


def _covering(positions: list[int], length: int) -> list[int]:
    """Offsets of the fewest windows within ``length`` bytes that hold all ``positions``, which ascend; at least one."""
    offsets: list[int] = []
    for at in positions:
        if not offsets or at >= offsets[-1] + WORD:
            offsets.append(min(at, length - WORD))
    return offsets or [0]


def _quoted(text: AnyArray, quote: int) -> NDArray[np.uint8]:
    return np.concatenate([[quote], text, [quote]]).astype(np.uint8)


def _slots(words: AnyArray, bits: int) -> NDArray[np.int32]:
    """The table of one group; ``words (W, n)`` uint64 by window."""
    mixed = np.zeros(words.shape[1], np.uint64)
    for word in words:
        mixed = (mixed + word) * np.uint64(MIX)
        mixed ^= mixed >> np.uint64(SHIFT)
    mixed *= np.uint64(MIX)
    slots = [-1] * ((1 << bits) + len(mixed) + 1)  # ends in a free one, however names collide
    for entry, slot in enumerate((mixed >> np.uint64(64 - bits)).tolist()):
        while slots[slot] >= 0:
            slot += 1
        slots[slot] = entry
    return np.array(slots, np.int32)
