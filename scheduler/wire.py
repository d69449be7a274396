"""The extender contract on the wire: bytes in, rows of the ledger out, and back.

kube-scheduler sends Go structs without JSON tags, so names are capitalised, but other callers may use any case;
what we send is always capitalised, with integer scores. Nothing here decides anything.

The common request carries thousands of node names, which are looked up as they stand (:mod:`scheduler.name_table`).
Whatever does not look exactly as Go writes it takes the plain path through msgspec, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw, Struct

from placement.errors import UNREADABLE
from placement.resources import BoolArray, IntArray
from scheduler.errors import WireError
from scheduler.name_table import MAX_NAMES_BYTES, NameTable

_NAMES_KEY = b'"NodeNames":['
_NAMES_END = b"]}"
_ITEMS_KEY = b'"Nodes":{"metadata":{},"items":['
_ITEMS_END = b']},"NodeNames":null}'
USUAL_POD = 1 << 14
"""Bytes of a request that usually hold its pod, which comes before the names."""
LARGE_POD = 1 << 23
"""Bytes that hold it always: etcd takes no object of two megabytes."""
MAX_ITEMS = 1 << 17
"""Members, nodes and victims of one request: 25 times what Kubernetes is tested with. Each becomes an object."""


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
    return table.scores(question.rows, marks)


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
