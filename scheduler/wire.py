"""The extender contract on the wire: bytes in, rows of the ledger out, and back.

kube-scheduler sends Go structs without JSON tags, so names are capitalised, but other callers may use any case;
what we send is always capitalised, with integer scores. Nothing here decides anything.

The common request carries thousands of node names. For those no Python object per node is made (``rows_of``):
names are compared as 8-byte windows against a table of the nodes that we know, byte for byte exact, and the
answer to ``prioritize`` is one gather of prepared fragments. Whatever does not look exactly as Go writes it
takes the plain path through msgspec, with the same result. With numba the look-up is one compiled pass.
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
from msgspec import Raw, Struct
from numpy.typing import NDArray

from placement.errors import UNREADABLE
from placement.resources import AnyArray, BoolArray, IntArray
from scheduler.errors import WireError
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
_NAMES_KEY = b'"NodeNames":['
_NAMES_END = b"]}"
_ITEMS_KEY = b'"Nodes":{"metadata":{},"items":['
_ITEMS_END = b']},"NodeNames":null}'
USUAL_POD = 1 << 14
"""Bytes of a request that usually hold its pod, which comes before the names."""
LARGE_POD = 1 << 23
"""Bytes that hold it always: etcd takes no object of two megabytes."""
MAX_NAMES_BYTES = 1 << 24
"""Of a list of names: room for 60,000 of the longest. Names that are not known become objects, which takes long."""
MAX_ITEMS = 1 << 17
"""Members, nodes and victims of one request: 25 times what Kubernetes is tested with. Each becomes an object."""
_NAME_FIRST = b'{"metadata":{"name":"'
_PREFIX: AnyArray = np.frombuffer(_NAME_FIRST, np.uint8)
_is_plain = re.compile(rb"[0-9A-Za-z._-]+").fullmatch
"""Whether the name's JSON is the name between quotes, whoever writes it."""

Words = NDArray[np.uint64]


# ── what a request says of its pod ────────────────────────────────────────────────────────────


class Meta(Struct):
    """The part of a pod's metadata that tells who it is."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""


class Head(Struct):
    """A pod of which everything but its identity is skipped."""

    metadata: Meta = msgspec.field(default_factory=Meta)


class _Front(Struct):
    """A request as Go begins it, without its nodes."""

    Pod: Head
    Nodes: Raw = Raw(b"null")


class _PodOnly(Struct):
    Pod: Raw


class _RawList(Struct):
    items: list[Raw] | None = None


class _Full(Struct):
    """A request with Node objects as Go writes it."""

    Pod: Raw
    Nodes: _RawList
    NodeNames: Raw = Raw(b"null")


class _Budget:
    """How many more objects the request that is being read may become; asked by the decoder on its way."""

    left = MAX_ITEMS

    def take(self) -> None:
        """One more. Raises ValueError, which ends the decoding at once."""
        self.left -= 1
        if self.left < 0:
            raise ValueError(TOO_MANY)


_budget = _Budget()
TOO_MANY = f"the request has more than {MAX_ITEMS} members, nodes and victims, more than any cluster's"


class _Key(str):
    """A member's name, counted."""


def _counted(_kind: type, name: str) -> _Key:
    _budget.take()
    return _Key(name)


class _Name(Struct, gc=False):
    name: str = ""


class _Item(Struct, gc=False):
    """A Node of which only the name is kept, or a victim."""

    metadata: _Name = msgspec.field(default_factory=_Name)

    def __post_init__(self) -> None:
        _budget.take()


class _ItemList(Struct):
    items: list[_Item] | None = None


class _FullItems(Struct):
    Nodes: _ItemList


_decode_object = msgspec.json.Decoder(dict[_Key, Raw], dec_hook=_counted).decode
_decode_victims = msgspec.json.Decoder(dict[_Key, Raw] | None, dec_hook=_counted).decode
_decode_pod = msgspec.json.Decoder(_PodOnly).decode
_decode_front = msgspec.json.Decoder(_Front).decode
_decode_head = msgspec.json.Decoder(Head).decode
_decode_names = msgspec.json.Decoder(list[str] | None).decode
_decode_items = msgspec.json.Decoder(list[_Item] | None).decode
_decode_item_list = msgspec.json.Decoder(_ItemList | None).decode
_decode_full_items = msgspec.json.Decoder(_FullItems).decode
_decode_full = msgspec.json.Decoder(_Full).decode
_decode_raw_nodes = msgspec.json.Decoder(_RawList | None).decode
_decode_raws = msgspec.json.Decoder(list[Raw] | None).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_int = msgspec.json.Decoder(int).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Question:
    """One ``filter`` or ``prioritize`` request."""

    head: Meta
    rows: IntArray
    """``(n,)`` int64: ledger rows in the order asked, −1 for a node that we do not know."""
    names: list[str] | None = None
    """The names as sent; None on the fast path, where every row is known."""
    asked: BoolArray | None = None
    """``(N,)`` bool over the ledger's rows, if the look-up made it on its way."""
    plain_pod: Raw | None = None
    front: bytes = b""
    """Fast path: what stands before the names, as one JSON object."""
    body: bytes | memoryview = b""
    """Fast path: the request as sent, of which ``region`` is a part."""
    begin: int = 0
    """Fast path: where in ``body`` the first name begins, at its quote."""
    nodes: Sequence[Raw | memoryview] | None = None
    """The Node objects as sent, in the order of ``rows``, when the caller keeps no node cache of its own."""

    @property
    def pod(self) -> Raw:
        """The pod as it was sent."""
        return _decode_pod(self.front).Pod if self.plain_pod is None else self.plain_pod

    @property
    def region(self) -> bytes:
        """Fast path: the names between the brackets, as sent."""
        return bytes(self.body[self.begin : len(self.body) - 2])


@dataclass(frozen=True, slots=True)
class _Parts(Sequence[memoryview]):
    """Parts of a request from ``starts (n,)`` to ``ends (n,)``, made when asked for."""

    body: memoryview
    starts: IntArray
    ends: IntArray

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, k: Any) -> Any:
        return self.body[int(self.starts[k]) : int(self.ends[k])]


@dataclass(frozen=True, slots=True)
class Binding:
    """A ``bind`` request."""

    name: str
    namespace: str
    uid: str
    node: str


@dataclass(frozen=True, slots=True)
class Victims:
    """Whom preemption would evict from one node."""

    node: str
    uids: tuple[str, ...]
    num_pdb_violations: int


@dataclass(frozen=True, slots=True)
class Preemption:
    """A ``preempt`` request, either form."""

    pod: Raw
    head: Meta
    victims: tuple[Victims, ...]


# ── names to rows ─────────────────────────────────────────────────────────────────────────────


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

    def items_of(self, body: memoryview, begin: int, end: int) -> tuple[IntArray, BoolArray, _Parts] | None:
        """Rows of the Node objects in ``body[begin:end]``, the same as a mask, and the objects; None if anything needs
        the plain path."""
        if wire_kernels is None or self._groups is None:
            return None
        asked = np.zeros(len(self.names), np.bool_)
        starts, ends, found = np.empty((3, len(self.names)), np.int64)
        text = np.frombuffer(body, np.uint8)
        count = wire_kernels.items_of(text, begin, end, _PREFIX, self._addresses, starts, ends, found, asked)
        return None if count < 0 else (found[:count], asked, _Parts(body, starts[:count], ends[:count]))

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


# ── requests ──────────────────────────────────────────────────────────────────────────────────


def read_question(body: bytes | memoryview, table: NameTable) -> Question:
    """Decode ``ExtenderArgs`` without copying it: the question is about ``body`` and lives as long.

    Raises
    ------
    WireError : the body is not JSON, or not of that shape.
    """
    view = memoryview(body)
    _budget.left = MAX_ITEMS
    return _read_fast(view, table) or _read_items(view, table) or _read_full(body, table) or _read_plain(body, table)


def _front(body: memoryview, key: bytes) -> tuple[bytes, int] | None:
    """What stands before ``key`` as one JSON object, and where what it names begins; None if it is not there."""
    size = USUAL_POD
    while size <= LARGE_POD:
        front = bytes(body[:size])
        start = front.rfind(key[-1:]) + 1 - len(key)  # one byte is found at once, and no name has a bracket
        if start < 0 or not front.startswith(key, start):
            start = front.find(key)
        if start >= 0:
            return front[:start].rstrip(b" ,") + b"}", start + len(key)
        if size >= len(body):
            return None
        size *= 8
    return None


def _decoded_front(front: bytes) -> _Front | None:
    try:
        return _decode_front(front)
    except UNREADABLE:
        return None


def _read_fast(body: memoryview, table: NameTable) -> Question | None:
    """The form that Go writes with ``nodeCacheCapable: true`` and only known names; None for anything else."""
    found = _front(body, _NAMES_KEY) if body[-len(_NAMES_END) :] == _NAMES_END else None
    args = None if found is None else _decoded_front(found[0])
    if found is None or args is None or not _is_null(args.Nodes):
        return None
    front, begin = found
    rows = table.rows_of(body, begin, len(body) - len(_NAMES_END))
    if rows is None:
        return None
    return Question(args.Pod.metadata, rows[0], asked=rows[1], front=front, body=body, begin=begin)


def _read_items(body: memoryview, table: NameTable) -> Question | None:
    """The form that Go writes with Node objects and only known nodes; None for anything else. Objects are given back
    as they came, and what is in them is not looked at."""
    found = _front(body, _ITEMS_KEY) if body[-len(_ITEMS_END) :] == _ITEMS_END else None
    args = None if found is None else _decoded_front(found[0])
    if found is None or args is None:
        return None
    items = table.items_of(body, found[1], len(body) - len(_ITEMS_END))
    if items is None:
        return None
    return Question(args.Pod.metadata, items[0], asked=items[1], front=found[0], nodes=items[2])


def _fields(body: bytes | memoryview | Raw) -> dict[str, Raw]:
    """Top-level members by lower-cased name, not decoded and not copied."""
    try:
        return {key.lower(): value for key, value in _decode_object(body).items()}
    except UNREADABLE as error:
        raise _refused("the body is not a JSON object", error) from error


def _refused(what: str, error: Exception) -> WireError:
    """Why a body is not read: it holds too much, or not what it should."""
    return WireError(TOO_MANY, 413) if _budget.left < 0 else WireError(f"{what}: {error}")


_NULL = Raw(b"null")
_EMPTY = Raw(b'""')
_ZERO = Raw(b"0")


def _is_null(raw: Raw) -> bool:
    view = memoryview(raw)
    return len(view) == 4 and bytes(view) == b"null"


def _decoded(decode: Any, raw: Raw, what: str) -> Any:
    try:
        return decode(raw)
    except UNREADABLE as error:
        raise _refused(f"{what} cannot be read", error) from error


def _pod(fields: dict[str, Raw]) -> tuple[Raw, Meta]:
    pod = fields.get("pod", _NULL)
    if _is_null(pod):
        raise WireError("the request names no Pod; kube-scheduler always sends one")
    head: Head = _decoded(_decode_head, pod, "Pod.metadata")
    return pod, head.metadata


def _read_plain(body: bytes | memoryview, table: NameTable) -> Question:
    fields = _fields(body)
    pod, head = _pod(fields)
    listed_names = fields.get("nodenames", _NULL)
    if len(memoryview(listed_names)) > MAX_NAMES_BYTES:
        raise WireError(f"NodeNames exceeds {MAX_NAMES_BYTES} bytes, more than any cluster's names", 413)
    names: list[str] | None = _decoded(_decode_names, listed_names, "NodeNames")
    nodes = fields.get("nodes", _NULL)
    items = None
    if names is None and not _is_null(nodes):
        named: _ItemList | None = _decoded(_decode_item_list, nodes, "Nodes")
        names = _names_in(named)
        items = _decode_raw_nodes(nodes).items or [] if names else []
    names = names or []
    return Question(head, _rows_of(names, table), names, plain_pod=pod, nodes=items)


def _rows_of(names: list[str], table: NameTable) -> IntArray:
    return np.array([table.row_of.get(name, -1) for name in names], np.int64)


def _read_full(body: bytes | memoryview, table: NameTable) -> Question | None:
    """Node objects as Go writes them, in one pass over what may be tens of megabytes; None for anything else."""
    try:
        names = _names_in(_decode_full_items(body).Nodes)  # counts them before each becomes an object to give back
        args: _Full = _decode_full(body)
    except UNREADABLE as error:
        if _budget.left < 0:
            raise _refused("the body", error) from error
        return None
    items = args.Nodes.items
    if items is None or not _is_null(args.NodeNames):
        return None
    head: Head = _decoded(_decode_head, args.Pod, "Pod.metadata")
    return Question(head.metadata, _rows_of(names, table), names, plain_pod=args.Pod, nodes=items)


def _names_in(listed: _ItemList | None) -> list[str]:
    return [] if listed is None or listed.items is None else [item.metadata.name for item in listed.items]


def read_binding(body: bytes | memoryview) -> Binding:
    """Decode ``ExtenderBindingArgs``; every field is needed."""
    _budget.left = MAX_ITEMS
    fields = _fields(body)
    values = {}
    for key in ("podname", "podnamespace", "poduid", "node"):
        value = _decoded(_decode_text, fields.get(key, _EMPTY), key)
        if not value:
            raise WireError(f"the bind request has no {key}; all of PodName, PodNamespace, PodUID and Node are needed")
        values[key] = value
    return Binding(values["podname"], values["podnamespace"], values["poduid"], values["node"])


def read_preemption(body: bytes | memoryview) -> Preemption:
    """Decode ``ExtenderPreemptionArgs``, full or meta form."""
    _budget.left = MAX_ITEMS
    fields = _fields(body)
    pod, head = _pod(fields)
    meta = fields.get("nodenametometavictims", _NULL)
    full = fields.get("nodenametovictims", _NULL)
    is_meta = not _is_null(meta)
    by_node = _decoded(_decode_victims, meta if is_meta else full, "victims") or {}
    victims = tuple(_victims(node, raw, is_meta=is_meta) for node, raw in by_node.items())
    return Preemption(pod, head, victims)


def _victims(node: str, raw: Raw, *, is_meta: bool) -> Victims:
    fields = _fields(raw)
    listed = fields.get("pods", _NULL)
    _decoded(_decode_items, listed, f"victims of {node}")  # counts them
    pods = _decoded(_decode_raws, listed, f"victims of {node}") or ()
    if is_meta:
        uids = [_decoded(_decode_text, _fields(p).get("uid", _EMPTY), "UID") for p in pods]
    else:
        uids = [_decoded(_decode_head, p, "victim").metadata.uid for p in pods]
    number = _decoded(_decode_int, fields.get("numpdbviolations", _ZERO), "NumPDBViolations")
    return Victims(str(node), tuple(uids), number)


# ── answers ───────────────────────────────────────────────────────────────────────────────────


def _names(question: Question, table: NameTable, keep: BoolArray) -> list[bytes]:
    """JSON strings of the asked names where ``keep``."""
    if question.names is None:
        quoted = table.quoted
        return [quoted[row] for row in question.rows[keep].tolist()]
    return [_encode(name) for name, kept in zip(question.names, keep.tolist(), strict=True) if kept]


def filter_all(question: Question) -> bytes:
    """Every node passes: the answer that changes nothing."""
    if question.nodes is not None:
        return _some_nodes(question.nodes, b'"FailedNodes":{},"FailedAndUnresolvableNodes":{},"Error":""}')
    names = question.region if question.names is None else _encode(question.names)[1:-1]
    return b'{"Nodes":null,"NodeNames":[' + names + b'],"FailedNodes":{},"FailedAndUnresolvableNodes":{},"Error":""}'


def filter_some(
    question: Question, table: NameTable, passes: BoolArray, reasons: Sequence[tuple[str, BoolArray]] = ()
) -> bytes:
    """The nodes in ``passes (n,)`` pass; each other node stands in FailedNodes with the first reason that holds."""
    failed: list[bytes] = []
    left = ~passes
    for reason, holds in reasons:
        tail = b":" + _encode(reason)
        failed += [name + tail for name in _names(question, table, left & holds)]
        left = left & ~holds
    body = b'"FailedNodes":{' + b",".join(failed) + b'},"FailedAndUnresolvableNodes":{},"Error":""}'
    if question.nodes is None:
        return b'{"Nodes":null,"NodeNames":[' + b",".join(_names(question, table, passes)) + b"]," + body
    return _some_nodes([question.nodes[i] for i in np.flatnonzero(passes).tolist()], body)


def _some_nodes(nodes: Sequence[Raw | memoryview], rest: bytes) -> bytes:
    """An answer with Node objects; one join, for they may be tens of megabytes."""
    if not nodes:
        return b'{"Nodes":{"metadata":{},"items":[]},"NodeNames":null,' + rest
    first, *others = (memoryview(node) for node in nodes)
    parts = (b'{"Nodes":{"metadata":{},"items":[', first, *(part for node in others for part in (b",", node)))
    return b"".join((*parts, b']},"NodeNames":null,', rest))


def filter_one(question: Question, table: NameTable, row: int) -> bytes:
    """The asked node of ledger row ``row`` passes; the others are left out without a word."""
    if question.names is not None or question.nodes is not None:
        return filter_some(question, table, question.rows == row)
    tail = b'],"FailedNodes":{},"FailedAndUnresolvableNodes":{},"Error":""}'
    return b'{"Nodes":null,"NodeNames":[' + _encode(table.names[row]) + tail


def filter_error(message: str) -> bytes:
    """The pod's scheduling cycle fails with ``message`` (unless the stanza is ``ignorable``)."""
    return (
        b'{"Nodes":null,"NodeNames":null,"FailedNodes":{},"FailedAndUnresolvableNodes":{},"Error":'
        + _encode(message)
        + b"}"
    )


def priorities(question: Question, table: NameTable, marks: IntArray) -> bytes:
    """Marks 0–10 for every node asked for, in the order asked: ``marks (N,)`` int64 by ledger row, 0 for a stranger."""
    count = len(question.rows)
    if not count:
        return b"[]"
    if question.names is not None:
        asked = [int(marks[row]) if row >= 0 else 0 for row in question.rows.tolist()]
        pairs = zip(question.names, asked, strict=True)
        return b"[" + b",".join([b'{"Host":%b,"Score":%d}' % (_encode(name), mark) for name, mark in pairs]) + b"]"
    fragments = table.fragments
    width = fragments.dtype.itemsize
    answer = np.empty(1 + count * width, np.uint8)
    answer[0] = ord("[")
    if wire_kernels is not None:
        wire_kernels.write_scores(table.text, width, question.rows, marks, answer, 1)
    else:
        np.take(fragments, question.rows, out=answer[1:].view(fragments.dtype), mode="clip")
        asked_marks = marks[question.rows]
        cells = answer[1:].reshape(count, width)
        tens = asked_marks >= 10
        cells[:, width - 3] = np.where(tens, ord("0"), asked_marks + ord("0"))
        cells[tens, width - 4] = ord("1")
    answer[-1] = ord("]")
    return answer.data  # type: ignore[return-value]  # a memoryview is written as bytes are, without a copy


def neutral_priorities(question: Question, table: NameTable) -> bytes:
    """The same mark for every node: no voice."""
    return priorities(question, table, np.zeros(len(table.names), np.int64))


def bind_answer(error: str = "") -> bytes:
    """``ExtenderBindingResult``."""
    return b'{"Error":' + _encode(error) + b"}"


def preempt_answer(victims: Iterable[Victims]) -> bytes:
    """``ExtenderPreemptionResult``, always the meta form. A node without victims is left out (it would be an error)."""
    by_node = {
        v.node: {"Pods": [{"UID": uid} for uid in v.uids], "NumPDBViolations": v.num_pdb_violations}
        for v in victims
        if v.uids
    }
    return _encode({"NodeNameToMetaVictims": by_node})
