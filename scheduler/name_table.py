"""Names of nodes, thousands in a request, to rows of the ledger, and back to what answers are made of.

With numba no Python object per node is made (:meth:`NameTable.rows_of`): the look-up is one compiled pass that compares names
as 8-byte windows against a table of the nodes that we know, byte for byte exact. Without it a dictionary does. The answer to
``prioritize`` is one gather of prepared fragments. What is not known, or does not look exactly as Go writes it, is read by
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

from placement.errors import UNREADABLE
from placement.resources import AnyArray, BoolArray, IntArray
from scheduler.name_groups import MAX_LENGTH, WORD, Group, Groups, columns_of, joined

wire_kernels: ModuleType | None
try:
    from scheduler import wire_kernels
except ImportError:  # numba is an extra; everything works without it, slower
    wire_kernels = None

MAX_NAMES_BYTES = 1 << 24
"""Of a list of names: room for 60,000 of the longest. Where each becomes an object, more would take long."""
_PREFIX: AnyArray = np.frombuffer(b'{"metadata":{"name":"', np.uint8)
_is_plain = re.compile(rb"[0-9A-Za-z._-]+").fullmatch
"""Whether the name's JSON is the name between quotes, whoever writes it."""
_encode = msgspec.json.Encoder().encode
_decode_names = msgspec.json.Decoder(list[str]).decode


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
        self._groups: Groups | None = None
        if wire_kernels is not None:
            plain = _plain_names((row, name) for name, row in self.row_of.items())
            self._alike = {length: Group(*columns) for length, columns in columns_of(plain).items()}
            self._room: IntArray = np.empty(0, np.int64)
            self._join()

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
        """Rows of ``"a","b",…`` in ``body[begin:end]``, and maybe the same as a mask; None if any name needs the plain path."""
        if end - begin < WORD + 2:
            return None
        if wire_kernels is None or self._groups is None:
            rows = self._by_name(bytes(body[begin:end]))
            return None if rows is None else (rows, None)
        asked = np.zeros(len(self.names), np.bool_)
        found = self._found((end - begin) // (self._shortest + 3) + 1)
        count = wire_kernels.rows_of(np.frombuffer(body, np.uint8), begin, end, self._addresses, found, asked)
        return None if count < 0 else (found[:count], asked)

    def _by_name(self, listed: bytes) -> IntArray | None:
        """Rows without the compiled look-up; None if a name is not known."""
        if len(listed) > MAX_NAMES_BYTES:
            return None
        try:
            return np.array([*map(self.row_of.__getitem__, _decode_names(b"[" + listed + b"]"))], np.int64)
        except (*UNREADABLE, KeyError):
            return None

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
