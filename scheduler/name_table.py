"""Names of nodes, thousands in a request, to rows of the ledger, and back to what answers are made of.

No Python object per node is made (:meth:`NameTable.rows_of`): names are compared as 8-byte windows against a table of the
nodes that we know, byte for byte exact, and the answer to ``prioritize`` is one gather of prepared fragments. With numba the
look-up is one compiled pass. What it does not find, or what does not look exactly as Go writes it, is read by
:mod:`scheduler.wire` the plain way.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress, count
from operator import ne
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from placement.resources import AnyArray, BoolArray, IntArray
from scheduler.name_groups import MAX_LENGTH, MIX, SHIFT, WORD, Group, Groups, columns_of, joined

wire_kernels: ModuleType | None
try:
    from scheduler import wire_kernels
except ImportError:  # numba is an extra; everything works without it, slower
    wire_kernels = None

MAX_PROBES = 32
UINT64 = np.uint64
_MIX = UINT64(MIX)
_SHIFT = UINT64(SHIFT)
_PREFIX: AnyArray = np.frombuffer(b'{"metadata":{"name":"', np.uint8)
_is_plain = re.compile(rb"[0-9A-Za-z._-]+").fullmatch
"""Whether the name's JSON is the name between quotes, whoever writes it."""
_encode = msgspec.json.Encoder().encode

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Parts(Sequence[memoryview]):
    """Parts of a request from ``starts (n,)`` to ``ends (n,)``, made when asked for."""

    body: memoryview
    starts: IntArray
    ends: IntArray

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, k: Any) -> Any:
        return self.body[int(self.starts[k]) : int(self.ends[k])]


def _words(names: Sequence[bytes], lengths: IntArray, num_words: int) -> Words:
    """``(W, N)`` windows of 8 bytes at offsets min(8k, length − 8)."""
    joined = np.frombuffer(b"".join(names), np.uint8)
    at_byte = np.ndarray((len(joined) - WORD + 1,), UINT64, joined, 0, (1,))
    starts = np.cumsum(lengths) - lengths
    return np.array([at_byte[starts + np.minimum(WORD * k, lengths - WORD)] for k in range(num_words)])


def _factor(k: int) -> Any:
    """What the k-th window is multiplied by, uint64."""
    return UINT64((MIX * (2 * k + 3)) & (2**64 - 1))


def _mixed(words: Iterable[Words], lengths: Words) -> Words:
    """``(n,)`` 64-bit hashes."""
    mixed = lengths * _MIX
    for k, word in enumerate(words):
        mixed += word * _factor(k)
    mixed ^= mixed >> _SHIFT
    mixed *= _MIX
    return mixed


def _hash(words: Iterable[Words], lengths: Words, size: int) -> Words:
    """``(n,)`` slots below the power of two ``size``."""
    slots: Words = _mixed(words, lengths) >> UINT64(64 - size.bit_length() + 1)
    return slots


def _plain_names(names: Iterable[tuple[int, str]]) -> list[tuple[int, bytes]]:
    """Rows and names that the fast ways can look up."""
    known = [(row, name.encode()) for row, name in names]
    if not _is_plain(b"".join([name for _, name in known])):  # one look is all that most clusters need
        known = [(row, name) for row, name in known if _is_plain(name)]
    return [(row, name) for row, name in known if WORD <= len(name) <= MAX_LENGTH]


def _fragment(quoted: bytes, width: int) -> bytes:
    """``{"Host":"…","Score":  0},``, at least ``width`` bytes."""
    return (b'{"Host":' + quoted + b',"Score": ').ljust(width - 3) + b"0},"


@dataclass
class NameTable:
    """The nodes of one moment of the ledger, prepared for the wire. ``names[row]`` is empty for a free row."""

    names: Sequence[str]
    row_of: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.row_of = {name: row for row, name in enumerate(self.names) if name}
        plain = _plain_names((row, name) for name, row in self.row_of.items())
        self._groups: Groups | None = None
        self._plain: list[bytes] = []
        if wire_kernels is not None:
            self._alike = {length: Group(*columns) for length, columns in columns_of(plain).items()}
            self._room: IntArray = np.empty(0, np.int64)
            self._join()
        else:
            self._rows = np.array([row for row, _ in plain], np.int64)
            self._plain = [name for _, name in plain]
            self._fixed: dict[int, AnyArray] = {}
            if plain:
                self._build()

    def _join(self) -> None:
        """Hand the groups over to the compiled look-up."""
        self._shortest = min(self._alike, default=0)
        self._groups = joined(self._alike)
        self._addresses = self._groups.addresses()

    def follow(self, names: Sequence[str]) -> NameTable:
        """The table of ``names``, of which few differ from those of this one, at the price of these few: it is this one,
        changed, but for its ``names``, or a new one. Questions that it has read before are of no use any more."""
        before, fresh = self.names, len(names) - len(self.names)
        rows = [*compress(count(), map(ne, before, names)), *range(len(before), len(names))]
        if self._groups is None or fresh < 0 or len(rows) > len(names) // 4:
            return NameTable(names)
        gone = {row for row in rows if row < len(before) and before[row]}
        for row in gone:
            del self.row_of[before[row]]
        self.row_of.update((names[row], row) for row in rows if names[row])
        self.names = names
        self._regroup(gone, [(row, names[row]) for row in rows if names[row]])
        self._rewrite(rows, fresh)
        return self

    def _regroup(self, gone: set[int], come: list[tuple[int, str]]) -> None:
        """Make the groups anew whose names have gone or come."""
        columns = columns_of(_plain_names(come))
        for length in [n for n, group in self._alike.items() if np.isin(group.rows, list(gone)).any()]:
            columns.setdefault(length, (np.zeros(0, np.int64), np.zeros((0, length), np.uint8)))
        for length, (rows, text) in columns.items():
            old = self._alike.get(length)
            new = Group(rows, text) if old is None else old.but(gone, rows, text)
            if new is None:
                del self._alike[length]
            else:
                self._alike[length] = new
        self._join()

    def _rewrite(self, rows: list[int], fresh: int) -> None:
        """Bring what answers are made of up to date, where it has been made."""
        made = self.__dict__
        if "quoted" in made:
            self.quoted += [b""] * fresh
            for row in rows:
                self.quoted[row] = _encode(self.names[row])
        if "fragments" in made:
            width = self.fragments.dtype.itemsize
            parts = [_fragment(self.quoted[row], width) for row in rows]
            if max(map(len, parts), default=0) > width:
                del self.fragments
            else:
                self.fragments = np.append(self.fragments, np.zeros(fresh, self.fragments.dtype))
                self.fragments[rows] = np.frombuffer(b"".join(parts), self.fragments.dtype)
        made.pop("text", None)

    def _build(self) -> None:
        self._num_words = (max(map(len, self._plain)) + WORD - 1) // WORD
        lengths = np.array([len(n) for n in self._plain], np.int64)
        self._words = _words(self._plain, lengths, self._num_words)
        self._lengths = lengths.astype(UINT64)
        self._size = 1 << max(8, (4 * len(self._plain)).bit_length())
        self._keys = self._telling_words()
        self._slots = self._slots_by(self._keys)

    def _slots_by(self, keys: tuple[int, ...]) -> AnyArray:
        """Linear-probing table of the entries, hashed by these windows; −1 is a free slot."""
        slots = [-1] * (self._size + max(len(self._plain), MAX_PROBES) + 1)  # ends in a free one, however names collide
        for i, slot in enumerate(_hash([self._words[k] for k in keys], self._lengths, self._size).tolist()):
            while slots[slot] >= 0:
                slot += 1
            slots[slot] = i
        return np.array(slots, np.int32)

    def _telling_words(self) -> tuple[int, ...]:
        """The fewest windows that tell all names apart (with their lengths), usually one or two."""
        columns = range(self._num_words)
        for keys in [(k,) for k in columns] + [(i, k) for k in columns for i in range(k)]:
            count = len(np.unique(_mixed([self._words[k] for k in keys], self._lengths)))
            if count == len(self._plain):
                return keys
        return tuple(columns)

    @cached_property
    def quoted(self) -> list[bytes]:
        """JSON strings of the names, by row."""
        return [_encode(name) for name in self.names]

    @cached_property
    def fragments(self) -> AnyArray:
        """``(N,)`` of fixed width: ``{"Host":"…","Score":  0},`` with room for two digits before ``},``."""
        width = len(_fragment(max(self.quoted, key=len, default=b""), 0))
        rows = b"".join([_fragment(name, width) for name in self.quoted] or [_fragment(b"", width)])
        return np.frombuffer(rows, np.dtype((np.void, width)))

    @cached_property
    def text(self) -> AnyArray:
        """``(N · width,)`` uint8: the bytes of ``fragments``."""
        return np.frombuffer(self.fragments.tobytes(), np.uint8)

    def rows_of(self, body: bytes | memoryview, begin: int, end: int) -> tuple[IntArray, BoolArray | None] | None:
        """Rows of ``"a","b",…`` in ``body[begin:end]`` as Go writes it, and maybe the same as a mask; None if any name
        needs the plain path."""
        if end - begin < WORD + 2:
            return None
        if wire_kernels is None or self._groups is None:
            rows = self._uniform(bytes(body[begin:end])) if self._plain else None
            return None if rows is None else (rows, None)
        asked = np.zeros(len(self.names), np.bool_)
        found = self._found((end - begin) // (self._shortest + 3) + 1)
        count = wire_kernels.rows_of(np.frombuffer(body, np.uint8), begin, end, self._addresses, found, asked)
        return None if count < 0 else (found[:count], asked)

    def _found(self, size: int) -> IntArray:
        """At least ``(size,)`` int64 to write to: the same as last time unless somebody still reads there, since fresh
        pages cost a quarter of the look-up."""
        held_here = 3  # by the table, by the name below, and by the question
        room = self._room
        if len(room) < size or sys.getrefcount(room) > held_here:
            room = self._room = np.empty(size + size // 8, np.int64)
        return room

    def items_of(self, body: memoryview, begin: int, end: int) -> tuple[IntArray, BoolArray, Parts] | None:
        """Rows of the Node objects in ``body[begin:end]``, the same as a mask, and the objects; None if anything needs
        the plain path."""
        if wire_kernels is None or self._groups is None:
            return None
        asked = np.zeros(len(self.names), np.bool_)
        starts, ends, found = np.empty((3, len(self.names)), np.int64)
        text = np.frombuffer(body, np.uint8)
        count = wire_kernels.items_of(text, begin, end, _PREFIX, self._addresses, starts, ends, found, asked)
        return None if count < 0 else (found[:count], asked, Parts(body, starts[:count], ends[:count]))

    def scores(self, rows: IntArray, marks: IntArray) -> bytes:
        """``[{"Host":"…","Score":  7},…]`` of ``rows (n,)`` that are known, at least one, with ``marks (N,)`` 0–10 by row."""
        fragments = self.fragments
        width = fragments.dtype.itemsize
        answer = np.empty(1 + len(rows) * width, np.uint8)
        answer[0] = ord("[")
        if wire_kernels is not None:
            wire_kernels.write_scores(self.text, width, rows, marks, answer, 1)
        else:
            np.take(fragments, rows, out=answer[1:].view(fragments.dtype), mode="clip")
            asked_marks = marks[rows]
            cells = answer[1:].reshape(len(rows), width)
            tens = asked_marks >= 10
            cells[:, width - 3] = np.where(tens, ord("0"), asked_marks + ord("0"))
            cells[tens, width - 4] = ord("1")
        answer[-1] = ord("]")
        return answer.data  # type: ignore[return-value]  # a memoryview is written as bytes are, without a copy

    def _uniform(self, region: bytes) -> IntArray | None:
        """Rows if every name is as long as the first; otherwise as :meth:`_mixed` finds them."""
        length = region.find(b'"', 1) - 1
        stride = length + 3
        count = (len(region) + 1) // stride if length >= WORD else 0
        if count * stride != len(region) + 1:
            return self._mixed(np.frombuffer(region, np.uint8))
        keys = [
            np.ndarray((count,), UINT64, region, 1 + min(WORD * k, length - WORD), (stride,)).copy() for k in self._keys
        ]
        found = self._find(keys, np.full(count, length, UINT64))
        if found is None or not self._of_length(length)[found].tobytes().startswith(region):
            return self._mixed(np.frombuffer(region, np.uint8))
        return self._rows[found]

    def _of_length(self, length: int) -> AnyArray:
        """``"name",`` of every name of that length, zeros for the others; fixed width."""
        table = self._fixed.get(length)
        if table is None:
            width = length + 3
            rows = [b'"' + name + b'",' if len(name) == length else bytes(width) for name in self._plain]
            table = self._fixed[length] = np.frombuffer(b"".join(rows), np.dtype((np.void, width)))
        return table

    def _mixed(self, buffer: AnyArray) -> IntArray | None:
        """Rows when lengths differ."""
        quotes = np.flatnonzero(buffer == 0x22)
        if len(quotes) % 2 or len(quotes) == 0 or quotes[0] != 0 or quotes[-1] != len(buffer) - 1:
            return None
        starts, ends = quotes[0::2] + 1, quotes[1::2]
        lengths = ends - starts
        if (starts[1:] - ends[:-1] != 3).any() or (buffer[ends[:-1] + 1] != 0x2C).any() or (lengths < WORD).any():
            return None
        at_byte = np.ndarray((len(buffer) - WORD + 1,), UINT64, buffer, 0, (1,))
        last = lengths - WORD
        words = [at_byte[starts + np.minimum(WORD * k, last)] for k in range(self._num_words)]
        found = self._find([words[k] for k in self._keys], lengths.astype(UINT64))
        if found is None or not all((self._words[k][found] == words[k]).all() for k in range(self._num_words)):
            return None
        return self._rows[found]

    def _find(self, keys: list[Words], lengths: Words) -> IntArray | None:
        """Entries whose length and telling windows are as asked; the caller compares the remaining bytes."""
        slots = _hash(keys, lengths, self._size).astype(np.int64)
        found = self._slots[slots].astype(np.int64)
        missing = np.flatnonzero(~self._is_same(found, keys, lengths))
        for probe in range(1, MAX_PROBES):
            if not len(missing):
                return found
            at = self._slots[slots[missing] + probe].astype(np.int64)
            if (at < 0).any():
                return None
            found[missing] = at
            missing = missing[~self._is_same(at, [w[missing] for w in keys], lengths[missing])]
        return None

    def _is_same(self, found: IntArray, keys: list[Words], lengths: Words) -> BoolArray:
        same: BoolArray = self._lengths[found] == lengths
        for k, key in zip(self._keys, keys, strict=True):
            same &= self._words[k][found] == key
        same &= found >= 0
        return same
