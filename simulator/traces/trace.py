"""What arrives, on what: one recorded or made-up workload, and the native file format.

A :class:`Trace` is immutable. Pods are columns, and each distinct class of pods is stored once. The native format is
a ``.ullage`` file (a zip; the folder that unpacks from it reads as well) with ``manifest.json`` and Parquet tables; it
is versioned, and written whole or not at all. ``docs/traces.md`` describes every table.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from placement.errors import ConfigError, PlacementError, why
from placement.learning.usage import CALENDAR_FROM_S
from placement.log import Event
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import AnyArray, BoolArray, IntArray
from placement.whole_files import whole_file
from simulator.fleet import Shape
from simulator.traces.event_table import from_columns, to_columns

FORMAT_VERSION = 1
NEVER = -1
"""Departure of a pod that outlives the trace."""


class TraceError(PlacementError):
    """A trace that cannot be read, or contradicts itself."""


@dataclass(frozen=True)
class Manifest:
    """Where a trace comes from."""

    name: str
    source: str = ""
    seed: int = 0
    notes: tuple[str, ...] = ()
    """What was derived, cut or made up, for reports."""
    format_version: int = FORMAT_VERSION
    begins_s: int = 0
    """Unix time of second 0, which tells the hour of the day; 0 where it is not known, as if traces began at midnight."""

    @property
    def has_calendar(self) -> bool:
        """Whether it is known when it began."""
        return self.begins_s >= CALENDAR_FROM_S


def check_begin(name: str, has_calendar: bool) -> None:
    """For a recording that is told when it began.

    Raises
    ------
    ConfigError : it says so itself.
    """
    if has_calendar:
        raise ConfigError(f"{name}: says itself when it began; leave out --begins-at")


@dataclass(frozen=True)
class Pods:
    """Pods as columns, by arrival. All ``(P,)``. Fields are columns of files, in this order."""

    name: AnyArray
    """Unique names (object)."""
    spec: IntArray
    """Index into the trace's classes."""
    arrival_s: IntArray
    departure_s: IntArray
    """:data:`NEVER` for pods that outlive the trace; a pod runs for ``departure − arrival`` from when it is placed."""
    gang: IntArray
    """Pods with equal gang ≥ 0 start together or not at all; −1 for none."""

    @classmethod
    def of(
        cls,
        *,
        name: ArrayLike,
        spec: ArrayLike,
        arrival_s: ArrayLike,
        departure_s: ArrayLike,
        gang: ArrayLike | None = None,
    ) -> Pods:
        """Columns of the right types; ``gang`` defaults to none."""
        names = np.asarray(name, object)
        numbers = (spec, arrival_s, departure_s, np.full(len(names), -1) if gang is None else gang)
        return cls(names, *(np.asarray(column, np.int64) for column in numbers))

    def __len__(self) -> int:
        return len(self.spec)

    def pick(self, rows: IntArray) -> Pods:
        """The pods of ``rows`` alone, in that order."""
        return Pods(*(column[rows] for column in vars(self).values()))

    def make_ups(self) -> dict[int, tuple[tuple[int, int], ...]]:
        """Gang → its classes, and how many pods of each; under −1 those of no gang."""
        members: dict[int, Counter[int]] = {}
        for gang, spec in zip(self.gang.tolist(), self.spec.tolist(), strict=True):
            members.setdefault(gang, Counter())[spec] += 1
        return {gang: tuple(sorted(counted.items())) for gang, counted in members.items()}


KINDS = ("fail", "repair", "add", "remove", "drain", "spot")
"""What may befall a node; it goes with all but ``repair`` and ``add``, which bring it back."""


class NodeEvent(NamedTuple):
    """A recorded change of the fleet, one of :data:`KINDS`."""

    time_s: int
    kind: str
    node: str


@dataclass(frozen=True)
class Usage:
    """What pods used: one row per pod and sample; −1 where one of the two was not measured. Fields are columns of files."""

    pod: IntArray
    """Index of the pod."""
    time_s: IntArray
    cpu_millicores: IntArray
    memory_bytes: IntArray

    @property
    def impossible(self) -> BoolArray:
        """``(S,)``: rows before second 0, with something below what not measured is written as, or nothing measured."""
        least, most = (f(self.cpu_millicores, self.memory_bytes) for f in (np.minimum, np.maximum))
        return np.asarray((self.time_s < 0) | (least < -1) | (most < 0))

    @classmethod
    def empty(cls) -> Usage:
        """No samples."""
        none = np.zeros(0, np.int64)
        return cls(none, none, none, none)


@dataclass(frozen=True)
class Trace:
    """One workload, its fleet, and what befell it."""

    manifest: Manifest
    specs: tuple[PodSpec, ...]
    nodes: tuple[NodeSpec, ...]
    """Fixed fleet; empty if the replay must buy nodes."""
    pods: Pods
    failures: tuple[NodeEvent, ...] = ()
    """What befell nodes, in order."""
    usage: Usage = field(default_factory=Usage.empty)
    prices: tuple[Shape, ...] = ()
    """Shapes for sale that belong to this workload; empty = the default price book."""
    events: tuple[Event, ...] = ()
    """The ordered log of what happened where the trace was recorded: changes and decisions."""

    @classmethod
    def of(
        cls,
        name: str,
        nodes: Iterable[NodeSpec],
        pods: Iterable[tuple[str, PodSpec, int, int]],
        *,
        failures: Iterable[NodeEvent] = (),
    ) -> Trace:
        """A trace from plain values: pods as (name, class, arrival, departure), in any order."""
        ordered = sorted(pods, key=lambda p: p[2])
        classes = {spec: i for i, spec in enumerate(dict.fromkeys(p[1] for p in ordered))}
        columns = Pods.of(
            name=[p[0] for p in ordered],
            spec=[classes[p[1]] for p in ordered],
            arrival_s=[p[2] for p in ordered],
            departure_s=[p[3] for p in ordered],
        )
        trace = cls(Manifest(name), tuple(classes), tuple(nodes), columns, tuple(failures))
        trace.check()
        return trace

    def but(self, **changes: Any) -> Trace:
        """The same with some fields replaced."""
        return replace(self, **changes)

    def check(self) -> None:
        """Refuse what no replay could make sense of.

        Raises
        ------
        TraceError : duplicate names, times that cannot be, a class out of range, arrivals out of order, a change of a
            node that is none, usage of pods that are not there or that cannot be.
        """
        self._check_pods()
        name, usage = self.manifest.name, self.usage
        foreign = next((event for event in self.failures if event.kind not in KINDS), None)
        if foreign is not None:
            raise TraceError(
                f"trace {name}: second {foreign.time_s} of node {foreign.node}: {foreign.kind!r} is none of "
                f"{', '.join(KINDS)}; correct it, or let `ullage trace validate --fix` leave it out"
            )
        wrong = (usage.pod < 0) | (usage.pod >= len(self.pods)) | usage.impossible
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise TraceError(
                f"trace {name}, usage row {row}: pod={usage.pod[row]}, time_s={usage.time_s[row]}, "
                f"cpu_millicores={usage.cpu_millicores[row]}, memory_bytes={usage.memory_bytes[row]} cannot be; "
                "make the usage table again"
            )

    def _check_pods(self) -> None:
        pods, name = self.pods, self.manifest.name
        lengths = {len(column) for column in vars(pods).values()}
        if len(lengths) > 1:
            raise TraceError(f"trace {name}: pod columns have {sorted(lengths)} rows; the file is damaged")
        before = np.flatnonzero(pods.arrival_s < 0)
        if len(before):
            row = int(before[0])
            raise TraceError(
                f"trace {name}, pod {pods.name[row]} (row {row}): arrival_s={pods.arrival_s[row]} is before second 0; "
                "let `ullage trace validate --fix` begin the clock with it"
            )
        early = np.flatnonzero((pods.departure_s != NEVER) & (pods.departure_s < pods.arrival_s))
        if len(early):
            row = int(early[0])
            raise TraceError(
                f"trace {name}, pod {pods.name[row]} (row {row}): departure_s={pods.departure_s[row]} precedes "
                f"arrival_s={pods.arrival_s[row]}; fix the row, or let `ullage trace validate --fix` leave it out"
            )
        if len(pods) and (pods.spec.min() < 0 or pods.spec.max() >= len(self.specs)):
            raise TraceError(f"trace {name}: a pod names a class that is not there; files of two traces are mixed up")
        if len(pods) > 1 and (np.diff(pods.arrival_s) < 0).any():
            raise TraceError(
                f"trace {name}: pods are not in order of arrival; `ullage trace validate --fix` sorts them"
            )
        for what, names in (("pod", list(pods.name)), ("node", [n.name for n in self.nodes])):
            if len(set(names)) != len(names):
                seen: set[str] = set()
                twice = next(n for n in names if n in seen or seen.add(n))  # type: ignore[func-returns-value]  # set.add
                raise TraceError(
                    f"trace {name}: {what} {twice!r} appears twice; `ullage trace validate --fix` renames it"
                )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the content, for report footers."""
        digest = hashlib.sha256()
        # Fields that came later leave digests as they were where they say nothing.
        specs = msgspec.json.encode(self.specs)
        for silent in (b',"gang_size":0', b',"gang":""', b',"leaving":false'):
            specs = specs.replace(silent, b"")
        digest.update(specs)
        for table in (self.nodes, self.failures):
            digest.update(msgspec.json.encode(table))
        pods = self.pods
        for column in (pods.spec, pods.arrival_s, pods.departure_s, pods.gang):
            digest.update(np.ascontiguousarray(column).tobytes())
        digest.update("\n".join(pods.name).encode())
        if len(self.usage.pod):
            for column in vars(self.usage).values():
                digest.update(np.ascontiguousarray(column).tobytes())
        if self.prices:
            digest.update(msgspec.json.encode(self.prices))
        for event in self.events:
            digest.update(repr((event.time_s, event.kind, event.subject, event.node, event.devices)).encode())
        return digest.hexdigest()[:16]

    # ── native format ─────────────────────────────────────────────────────────────────────────

    def save(self, path: Path) -> None:
        """Write a ``.ullage`` file: whole, or not at all.

        Raises
        ------
        TraceError : the place cannot be written (read-only, full).
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for part, data in self._parts():
                    archive.writestr(zipfile.ZipInfo(part, (1980, 1, 1, 0, 0, 0)), data)
        except OSError as error:
            raise TraceError(
                f"trace {path}: cannot be written ({error.strerror}); nothing was kept, choose another place"
            ) from error

    def _parts(self) -> Iterator[tuple[str, bytes]]:
        yield "manifest.json", msgspec.json.format(msgspec.json.encode(self.manifest))
        yield "specs.json", msgspec.json.encode(self.specs)
        yield "nodes.json", msgspec.json.encode(self.nodes)
        yield "failures.json", msgspec.json.encode(self.failures)
        if self.prices:
            yield "prices.json", msgspec.json.encode(self.prices)
        yield "pods.parquet", _parquet({**vars(self.pods), "name": list(self.pods.name)})
        yield "usage.parquet", _parquet(vars(self.usage))
        if self.events:
            yield "events.parquet", _parquet(to_columns(self.events))

    @classmethod
    def load(cls, path: Path, *, check: bool = True) -> Trace:
        """Read a ``.ullage`` file, or the folder that unpacks from one.

        ``check`` False lets a trace in that contradicts itself, for ``trace validate`` to tell all that is wrong with it.

        Raises
        ------
        ConfigError : it is not there. TraceError : truncated, not a trace, or of another format version.
        """
        parts = _parts_of(path)
        try:
            version = msgspec.json.decode(parts["manifest.json"])["format_version"]
            if version != FORMAT_VERSION:
                raise TraceError(
                    f"trace {path}: format version {version}, this release reads {FORMAT_VERSION}; "
                    "convert it with the release that wrote it, or upgrade ullage"
                )
            trace = cls._of_parts(parts)
        except TraceError:
            raise
        except (
            KeyError,
            TypeError,
            ValueError,
            msgspec.MsgspecError,
            pl.exceptions.PolarsError,
            PlacementError,
        ) as error:
            raise TraceError(f"trace {path}: is damaged ({type(error).__name__}: {error}); convert it again") from error
        if check:
            trace.check()
        return trace

    @classmethod
    def _of_parts(cls, parts: dict[str, bytes]) -> Trace:
        pods = _table(parts["pods.parquet"])
        events = parts.get("events.parquet")
        return cls(
            manifest=msgspec.json.decode(parts["manifest.json"], type=Manifest),
            specs=msgspec.json.decode(parts["specs.json"], type=tuple[PodSpec, ...]),
            nodes=msgspec.json.decode(parts["nodes.json"], type=tuple[NodeSpec, ...]),
            pods=Pods.of(name=pods.pop("name"), **{k: _integers(k, v) for k, v in pods.items()}),
            failures=msgspec.json.decode(parts["failures.json"], type=tuple[NodeEvent, ...]),
            usage=Usage(**{k: _integers(k, v) for k, v in _table(parts["usage.parquet"]).items()}),
            prices=msgspec.json.decode(parts.get("prices.json", b"[]"), type=tuple[Shape, ...]),
            events=() if events is None else from_columns({k: v.tolist() for k, v in _table(events).items()}),
        )


def _parts_of(path: Path) -> dict[str, bytes]:
    """File name → content."""
    try:
        if path.is_dir():
            return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()}
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except FileNotFoundError as error:
        raise ConfigError(f"trace {path}: no such file; give a path or `demo`") from error
    except OSError as error:
        raise TraceError(f"trace {path}: cannot be read ({why(error)}); check its rights, or copy it again") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        EOFError,
    ) as error:  # RuntimeError: encrypted, unknown packing
        raise TraceError(f"trace {path}: is not a .ullage file or is cut short ({error}); copy it again") from error


def _table(data: bytes) -> dict[str, AnyArray]:
    frame = pl.read_parquet(io.BytesIO(data))
    empty = [name for name in frame.columns if frame[name].null_count()]
    if empty:
        raise ValueError(f"column {empty[0]} has {frame[empty[0]].null_count()} empty cells")
    return {name: frame[name].to_numpy() for name in frame.columns}


def _integers(name: str, column: AnyArray) -> AnyArray:
    if column.dtype.kind not in "iu":
        raise ValueError(f"column {name} holds {column.dtype}, not integers")
    return column


def _parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


@dataclass
class Rows:
    """Where a reader stands: names the row in every complaint, and counts what it was told to skip."""

    path: Path
    skip: bool = False
    skipped: int = 0
    row: int = 0
    _names: set[str] = field(default_factory=set)

    def bad(self, what: str, fix: str) -> None:
        """A row that cannot be used: stop, or count it."""
        if not self.skip:
            raise TraceError(
                f"trace {self.path.name}, row {self.row}: {what}; {fix}, or leave it out "
                "(--bad-rows=skip of simulate, compare and trace)"
            )
        self.skipped += 1

    def integer(self, text: str | None, column: str, *, least: int = 0, most: int = 2**53) -> int | None:
        """The integer in a cell, or None after :meth:`bad`."""
        try:
            number = int(float(text)) if text not in (None, "") else None
        except (ValueError, OverflowError):
            number = None
        if number is None or not least <= number <= most:
            self.bad(f"{column}={text!r} is not a number between {least} and {most}", "fix the row")
            return None
        return number

    def is_first(self, name: str, column: str) -> bool:
        """Whether nothing of this name came before; False after :meth:`bad`."""
        if name in self._names:
            self.bad(f"{column}={name!r} appears twice", "keep one of the rows")
            return False
        self._names.add(name)
        return True

    def table(
        self, needed: Iterable[str], what: str, there: str, *, encoding: str = "utf-8"
    ) -> Iterator[dict[str, str]]:
        """Rows of a CSV, unpacked where its name ends in ``.gz``, as dicts, with :attr:`row` in step.

        Parameters
        ----------
        needed : columns that must be there. what : the file, for "is it …?". there : what to do where it is missing.

        Raises
        ------
        TraceError : missing, foreign or cut short; a row of too few or too many cells, unless told to skip.
        """
        try:
            with (gzip.open if self.path.suffix == ".gz" else open)(
                self.path, "rt", newline="", encoding=encoding
            ) as file:
                reader = csv.DictReader(file)
                missing = [name for name in needed if name not in (reader.fieldnames or ())]
                if missing:
                    raise TraceError(f"trace {self.path.name}: has no column {missing[0]}; is it {what}?")
                for self.row, row in enumerate(reader, start=2):
                    if None in row or None in row.values():
                        self.bad(
                            "has another number of cells than the header", "the file may be cut short: copy it again"
                        )
                        continue
                    yield row
        except FileNotFoundError as error:
            raise ConfigError(f"trace {self.path}: no such file; {there}") from error
        except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
            raise TraceError(f"trace {self.path}: cannot be read ({why(error)}); copy it again") from error
