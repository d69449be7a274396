"""The event log as lines of JSON, for disks and bug reports; any build can read it back.

A pod class is written before it is first named, by a number from then on; candidates are a bitmap of rows. Rows need not be
stored: the ledger gives the lowest free row to each new node, so a reader that follows node events knows them. A
file may begin with a checkpoint, events that rebuild the ledger of that moment, so that older files can go. After events
were lost, a reader goes from what it knows to the next checkpoint; what happened in between seems to happen then.

::

    {"ullage_log": 4, …}                         header: version, Unix time of second 0, strategies as TOML by digest,
                                                 and a replay's delivery that loses something
    {"spec": 7, "is": {…}}                       pod class 7
    [time_s, kind, subject, node, devices, …]    one event, as in placement.log
    {"checkpoint": "begin" | "end"}
    {"lost": 12}                                 events that the disk could not take
"""

from __future__ import annotations

import gzip
import heapq
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec
import numpy as np

from placement import log
from placement.errors import UNREADABLE, ConfigError, why
from placement.knowledge import Knowledge
from placement.log import Asked, Event, EventLog
from placement.nodes import NamespaceSpec, NodeSpec
from placement.pods import PodSpec
from placement.resources import IntArray
from placement.state import ClusterState

FORMAT, READS = 4, (1, 2, 3, 4)
"""Format 1 has no ``pod_found``: pods that ran when the log began are said to be bound then. Formats 1 and 2 have no
``pod_updated``: a pod whose class changes is said to be released, and bound anew. Formats 1 to 3 have no ``pod_stranded``:
pods whose node goes are said to be released."""

HOLE = "removed/"
"""Begins what a checkpoint calls a row without a node; no node of Kubernetes has a slash in its name."""


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"{type(value).__name__} cannot stand in a log")


def _rich(kind: type, value: Any) -> Any:
    return np.array(value, np.int64) if "ndarray" in str(kind) else value


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_DETAILS: dict[str, type] = {
    log.NODE_ADDED: NodeSpec,
    log.NODE_UPDATED: NodeSpec,
    log.NAMESPACE: NamespaceSpec,
    log.KNOWLEDGE: Knowledge,
}
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_EVENT = tuple[Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)], str, str, str, _Number, Any]
_ASKED = tuple[str, int, _Number, str | list[str] | None]


class LineWriter:
    """Turns events into lines, in order. One per file."""

    def __init__(self) -> None:
        self._numbers: WeakKeyDictionary[PodSpec, int] = WeakKeyDictionary()
        """Of classes that somebody has: one that comes again later is told again, under another number."""
        self._next = count()

    def header(self, **facts: Any) -> bytes:
        """First line of a file."""
        return _encoder.encode({"ullage_log": FORMAT, **facts}) + b"\n"

    def _spec(self, spec: PodSpec, lines: list[bytes]) -> int:
        number = self._numbers.get(spec)
        if number is None:
            number = self._numbers[spec] = next(self._next)
            lines.append(_encoder.encode({"spec": number, "is": spec}))
        return number

    def event(self, event: Event) -> bytes:
        """The line of one event, after the line of its pod class if that is new."""
        lines: list[bytes] = []
        detail: Any = event.detail
        if isinstance(detail, PodSpec):
            detail = self._spec(detail, lines)
        elif isinstance(detail, Asked):
            offered = _offered(detail.candidates)
            detail = [detail.strategy, self._spec(detail.spec, lines), detail.draw, offered]
        lines.append(_encoder.encode([event.time_s, event.kind, event.subject, event.node, event.devices, detail]))
        return b"\n".join(lines) + b"\n"

    def mark(self, **what: Any) -> bytes:
        """A line that is no event: ``checkpoint`` or ``lost``."""
        return _encoder.encode(what) + b"\n"


def _offered(candidates: Any) -> Any:
    """None, names, or a bitmap of rows in hexadecimal where the candidates came with their rows."""
    rows: IntArray | None = getattr(candidates, "rows", None)
    if rows is None:
        return candidates
    bits = np.zeros(int(rows.max(initial=-1)) + 1, np.bool_)
    bits[rows] = True
    return np.packbits(bits, bitorder="little").tobytes().hex()


def begin_of(header: Mapping[str, Any], events: Sequence[Event]) -> int:
    """Unix time of second 0 of a log, 0 if it does not say.

    Every segment of a run says the same (``begins_unix_s``). Older logs say when the segment was opened, under the name of
    the run's start (``started_unix_s``): that is when its first event happened.
    """
    if "begins_unix_s" in header:
        return int(header["begins_unix_s"])
    opened_s = header.get("started_unix_s")
    return int(opened_s) - events[0].time_s if opened_s and events else 0


def checkpoint_events(state: ClusterState, time_s: int) -> list[Event]:
    """Events that rebuild ``state`` row by row: free rows are made, with names that begin with :data:`HOLE`, and given back.
    Pods come when they came, so that they are as old as they are."""
    events = [Event(time_s, log.NAMESPACE, name, detail=spec) for name, spec in state.namespaces.items()]
    holes = []
    for row in range(state.num_rows):
        node = state.nodes[row]
        if node is None:
            node = NodeSpec(f"{HOLE}{row}", ())
            holes.append(node.name)
        events.append(Event(time_s, log.NODE_ADDED, node.name, detail=node))
    events += [Event(time_s, log.NODE_REMOVED, name) for name in holes]
    for resident in state.residents.values():
        kind = log.POD_FOUND if resident.is_bound else log.POD_ASSUMED
        where, devices = state.names[resident.row], resident.devices
        events.append(Event(resident.since_s, kind, resident.uid, where, devices, resident.spec))
    if state.knowledge.version:
        events.append(Event(time_s, log.KNOWLEDGE, state.knowledge.digest, detail=state.knowledge))
    return events


class _Pod(NamedTuple):
    """Where a pod is, as events said."""

    node: str
    devices: int
    spec: PodSpec
    is_bound: bool


class _Known:
    """What events said is there."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.time_s = 0
        self.nodes: dict[str, NodeSpec] = {}
        self.pods: dict[str, _Pod] = {}
        self.namespaces: dict[str, NamespaceSpec] = {}
        for event in events:
            self.follow(event)

    def follow(self, event: Event) -> None:
        """One more event."""
        kind, subject, detail = event.kind, event.subject, event.detail
        self.time_s = max(self.time_s, event.time_s)
        if kind in (log.NODE_ADDED, log.NODE_UPDATED):
            self.nodes[subject] = detail
        elif kind == log.NODE_REMOVED:
            self.nodes.pop(subject, None)
        elif kind == log.NAMESPACE:
            self.namespaces[subject] = detail
        elif kind in (log.POD_RELEASED, log.POD_FORGOTTEN, log.POD_STRANDED):
            self.pods.pop(subject, None)
        elif kind == log.POD_UPDATED and subject in self.pods:
            self.pods[subject] = self.pods[subject]._replace(devices=event.devices, spec=detail)
        elif kind == log.POD_BOUND and detail is None and subject in self.pods:
            self.pods[subject] = self.pods[subject]._replace(is_bound=True)
        elif kind in (log.POD_ASSUMED, log.POD_BOUND, log.POD_FOUND) and detail is not None:
            self.pods[subject] = _Pod(event.node, event.devices, detail, kind != log.POD_ASSUMED)

    def until(self, checkpoint: Sequence[Event]) -> Iterator[Event]:
        """Events that lead from here to the ledger of a checkpoint."""
        there = _Known(checkpoint)
        time_s = there.time_s if checkpoint else self.time_s
        stay = {uid for uid, pod in self.pods.items() if uid in there.pods and there.pods[uid].node == pod.node}
        for uid in self.pods.keys() - stay:
            yield Event(time_s, log.POD_RELEASED if self.pods[uid].is_bound else log.POD_FORGOTTEN, uid)
        for name in self.nodes.keys() - there.nodes.keys():
            yield Event(time_s, log.NODE_REMOVED, name)
        for name, node in there.nodes.items():
            if self.nodes.get(name) != node:
                kind = log.NODE_UPDATED if name in self.nodes else log.NODE_ADDED
                yield Event(time_s, kind, name, detail=node)
        for name in self.namespaces.keys() | there.namespaces.keys():
            namespace = there.namespaces.get(name, NamespaceSpec(name, ()))
            if self.namespaces.get(name) != namespace:
                yield Event(time_s, log.NAMESPACE, name, detail=namespace)
        for uid, pod in there.pods.items():
            old = self.pods[uid] if uid in stay else None
            if old is None:
                kind = log.POD_FOUND if pod.is_bound else log.POD_ASSUMED
                yield Event(time_s, kind, uid, pod.node, pod.devices, pod.spec)
                continue
            if old[:3] != pod[:3]:
                yield Event(time_s, log.POD_UPDATED, uid, pod.node, pod.devices, pod.spec)
            if pod.is_bound and not old.is_bound:
                yield Event(time_s, log.POD_BOUND, uid, pod.node, pod.devices)
        yield from (event for event in checkpoint if event.kind == log.KNOWLEDGE)


class LineReader:
    """Turns lines back into events. Feed the files of one run in order; ``header`` is the first one's."""

    def __init__(self) -> None:
        self.header: dict[str, Any] = {}
        self.num_lost = 0
        self._specs: dict[int, PodSpec] = {}
        self._known = _Known()
        self._checkpoint: list[Event] | None = None
        """The one that is being read, if it is."""
        self._is_torn = False
        """Events were lost since the last checkpoint."""
        self._has_started = False
        self._forget_rows()

    def _forget_rows(self) -> None:
        self._names: list[str] = []
        self._free: list[int] = []
        self._row_of: dict[str, int] = {}

    def events(self, lines: Iterable[bytes], source: str) -> Iterator[Event]:
        """Events of one file.

        Raises
        ------
        ConfigError : a line is damaged or of another format; ``source`` and line number are named. A last line
            without its end (the process was killed) is left out.
        """
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                value = msgspec.json.decode(line, type=list[Any] | dict[str, Any])
                if isinstance(value, dict):
                    found = self._mark(value, source)
                elif self._checkpoint is not None:
                    self._checkpoint.append(self._event(value))
                    continue
                else:
                    found = [self._event(value)]
                    self._follow_rows(found[0])
            except (*UNREADABLE, KeyError, IndexError, OverflowError, ValueError, TypeError) as error:
                raise ConfigError(
                    f"log {source}, line {number}: damaged ({error}); use another copy of the file"
                ) from error
            for event in found:
                self._has_started = True
                self._known.follow(event)
                yield event

    def _mark(self, value: dict[str, Any], source: str) -> list[Event]:
        """What a line that is no event tells: events after the end of a checkpoint, else nothing."""
        if "spec" in value:
            self._specs[value["spec"]] = msgspec.convert(value["is"], PodSpec)
        elif "lost" in value:
            self.num_lost += int(value["lost"])
            self._is_torn = True
        elif "checkpoint" in value:
            checkpoint = self._checkpoint
            self._checkpoint = [] if value["checkpoint"] == "begin" else None
            return [] if checkpoint is None else self._taken(checkpoint)
        elif value.get("ullage_log") not in READS:
            raise ConfigError(
                f"log {source}: format {value.get('ullage_log')!r}, this build reads {', '.join(map(str, READS))}; "
                "use the ullage version that its header names"
            )
        else:
            self._specs.clear()
            self._checkpoint = None
            self.header = self.header or value
        return []

    def _taken(self, checkpoint: list[Event]) -> list[Event]:
        """What a checkpoint tells: all at the beginning, what was lost after a loss, else nothing new."""
        if self._has_started and not self._is_torn:
            return []
        found = list(self._known.until(checkpoint)) if self._has_started else checkpoint
        self._is_torn = False
        self._forget_rows()
        for event in checkpoint:
            self._follow_rows(event)
        return found

    def _event(self, value: list[Any]) -> Event:
        time_s, kind, subject, node, devices, detail = msgspec.convert(value, _EVENT)
        if kind == log.DECISION:
            strategy, spec, draw, offered = msgspec.convert(detail, _ASKED)
            detail = Asked(strategy, self._specs[spec], draw, self._candidates(offered))
        elif kind in (log.POD_ASSUMED, log.POD_FOUND, log.POD_UPDATED) or (
            kind == log.POD_BOUND and detail is not None
        ):
            detail = self._specs[detail]
            if devices and detail.gpu is None:
                raise ValueError("devices of a pod that asks for none")
        elif detail is not None or kind in _DETAILS:
            detail = msgspec.convert(detail, _DETAILS[kind], dec_hook=_rich)
        return Event(time_s, kind, subject, node, devices, detail)

    def _candidates(self, offered: Any) -> tuple[str, ...] | None:
        if isinstance(offered, str):
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(offered), np.uint8), bitorder="little")
            return tuple(self._names[row] for row in np.flatnonzero(bits).tolist())
        return None if offered is None else tuple(offered)

    def _follow_rows(self, event: Event) -> None:
        """Give rows as the ledger does: the lowest free one."""
        if event.kind == log.NODE_ADDED:
            row = heapq.heappop(self._free) if self._free else len(self._names)
            if row == len(self._names):
                self._names.append("")
            self._names[row] = event.subject
            self._row_of[event.subject] = row
        elif event.kind == log.NODE_REMOVED:
            heapq.heappush(self._free, self._row_of.pop(event.subject))


def segments(folder: Path) -> list[Path]:
    """Segments of the newest run in ``folder`` that has any (one that never saw the cluster has none), or of ``folder``
    itself if it is a run.

    A compressed one beside the plain one is not finished, or is to replace it: the plain one is whole.

    Raises
    ------
    ConfigError : there is no log there.
    """
    for run in sorted(folder.glob("run-*"), reverse=True) or [folder]:
        plain = list(run.glob("*.jsonl"))
        if files := sorted((*plain, *(path for path in run.glob("*.jsonl.gz") if path.with_suffix("") not in plain))):
            return files
    raise ConfigError(f"log {folder}: holds no segments (*.jsonl, *.jsonl.gz); give log.folder of `ullage serve`")


def read_log(source: Path) -> tuple[dict[str, Any], EventLog, int]:
    """Header, events and number of lost events of a run: its folder, a folder of runs, or a bundle.

    Raises
    ------
    ConfigError : no log, or a damaged one.
    """
    if source.is_dir():
        return _read_segments(segments(source))
    try:
        with tempfile.TemporaryDirectory() as folder, tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
            return _read_segments(segments(Path(folder) / "log"))
    except tarfile.ReadError as error:
        raise ConfigError(f"bundle {source}: is no archive, or cut short; use a file of `ullage bundle`") from error
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise ConfigError(f"bundle {source}: cannot be read ({why(error)}); use a file of `ullage bundle`") from error


def _read_segments(files: list[Path]) -> tuple[dict[str, Any], EventLog, int]:
    reader = LineReader()
    events = EventLog()
    for path in files:
        for event in reader.events(_lines(path), str(path)):
            events.append(event)
    return reader.header, events, reader.num_lost


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"log {path}: cannot be read ({why(error)}); use another copy") from error
