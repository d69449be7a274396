"""Decision records: what was asked, what was chosen and why, and what became of it. Kept in SQLite, for `explain`.

Kubernetes itself forgets all of this, and annotations are the wrong place for it (they travel with every watch
event). This is the file and its reading; :mod:`scheduler.recorder` takes records. Retention is by age and by size.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from placement.errors import ConfigError, why
from placement.resources import CPU, MEMORY, BoolArray, IntArray
from placement.state import ClusterState, device_indices
from scheduler.errors import RecordError
from scheduler.settings import RecordSettings

if TYPE_CHECKING:
    from scheduler.ledger import Seen

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode

FORMAT = 1
IDLE = ""
"""Key of the mask of nodes that held nothing but daemons."""
PRUNE_SHARE = 0.1
"""Of the records that go at once when the file is too large."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT);
INSERT OR IGNORE INTO meta VALUES ('format', '{FORMAT}');
CREATE TABLE IF NOT EXISTS fleets (digest TEXT PRIMARY KEY, nodes BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS records (
  id TEXT PRIMARY KEY, asked_s REAL NOT NULL, uid TEXT NOT NULL, name TEXT NOT NULL, namespace TEXT NOT NULL,
  verb TEXT, mode TEXT, outcome TEXT, node TEXT, devices INTEGER, score INTEGER, runner_up TEXT,
  num_candidates INTEGER, duration_s REAL, draw INTEGER, version INTEGER,
  strategy TEXT, strategy_digest TEXT, knowledge TEXT,
  request TEXT, prediction TEXT, prediction_source TEXT, top TEXT, reasons TEXT,
  fleet TEXT, masks BLOB, is_exact INTEGER,
  final_node TEXT, final_s REAL
);
CREATE INDEX IF NOT EXISTS by_pod ON records (namespace, name, asked_s);
CREATE INDEX IF NOT EXISTS by_uid ON records (uid);
CREATE INDEX IF NOT EXISTS by_time ON records (asked_s);
CREATE INDEX IF NOT EXISTS by_fleet ON records (fleet);
"""

_FINAL = (
    "UPDATE records SET final_node = ?, final_s = ? WHERE uid = ? AND final_node IS NULL RETURNING asked_s, mode, node"
)
_UNUSED = "DELETE FROM fleets WHERE NOT EXISTS (SELECT 1 FROM records WHERE fleet = digest)"
_FUTURE = "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE asked_s > ? ORDER BY asked_s DESC LIMIT ?)"
_OLDEST = "DELETE FROM records WHERE id IN (SELECT id FROM records ORDER BY asked_s LIMIT ?)"


@dataclass(frozen=True, eq=False)
class Fleet:
    """The nodes of one moment by row; empty names are rows of removed nodes. Columns are ``(N,)`` int64."""

    names: tuple[str, ...]
    cpu: IntArray
    """Millicores allocatable."""
    memory: IntArray
    """Bytes allocatable."""
    gpus: IntArray

    @classmethod
    def of(cls, state: ClusterState) -> Fleet:
        """Of a ledger, now."""
        cpu, memory = (state.offered[state.lane(name), : state.num_rows].copy() for name in (CPU, MEMORY))
        return cls(tuple(state.names), cpu, memory, state.gpu_count[: state.num_rows].copy())

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each node."""
        return {name: row for row, name in enumerate(self.names) if name}

    def is_same(self, other: Fleet) -> bool:
        """Whether both say the same of all nodes."""
        columns = ((self.cpu, other.cpu), (self.memory, other.memory), (self.gpus, other.gpus))
        return self.names == other.names and all(np.array_equal(a, b) for a, b in columns)

    @cached_property
    def packed(self) -> tuple[str, bytes]:
        """Digest, and compressed bytes; milliseconds for thousands of nodes, once."""
        text = _encode([self.names, *(column.tolist() for column in (self.cpu, self.memory, self.gpus))])
        return hashlib.sha256(text).hexdigest()[:16], zlib.compress(text, 1)

    @classmethod
    def unpacked(cls, data: bytes) -> Fleet:
        """From the bytes of :attr:`packed`."""
        names, *columns = json.loads(zlib.decompress(data))
        return cls(tuple(names), *(np.array(column, np.int64) for column in columns))


def pack(masks: dict[str, BoolArray]) -> bytes:
    """Masks as the table holds them."""
    bits = {reason: np.packbits(mask).tobytes().hex() for reason, mask in masks.items()}
    return zlib.compress(_encode(bits), 1)


class Bound(NamedTuple):
    """Where a pod went, at what Unix time: from a log, which knows it."""

    uid: str
    node: str
    time_s: float


@dataclass
class Record:
    """One decision, complete; field names are the table's columns."""

    id: str
    asked_s: float
    """Unix time."""
    uid: str
    name: str
    namespace: str
    verb: str
    mode: str
    outcome: str
    """``placed`` or ``rejected``."""
    node: str
    devices: int
    """Bit mask."""
    score: int
    runner_up: str
    num_candidates: int
    duration_s: float
    draw: int
    version: int
    strategy: str
    strategy_digest: str
    knowledge: str
    request: dict[str, Any]
    prediction: dict[str, Any]
    """Use by resource that the forecast is not to exceed, in the resource's unit; of what none is made, what was asked for."""
    prediction_source: str
    """The rung that the forecast stands on; ``request`` = nothing learned."""
    top: list[dict[str, Any]]
    """Best candidates, best first: node, score, parts by scorer."""
    reasons: dict[str, int]
    """Nodes turned away, by reason."""
    fleet: str = ""
    """Digest of the nodes that the masks are about."""
    masks: dict[str, BoolArray] = field(default_factory=dict, repr=False)
    """``(N,)`` bool over the fleet's rows: reason → nodes; :data:`IDLE` → idle nodes."""
    packed: bytes = field(default=b"", repr=False, compare=False)
    """Before it is written: the masks as :func:`pack` makes them, where the writer knows that already."""
    is_exact: bool = True
    """Whether reasons and other candidates were read before the ledger changed again."""
    final_node: str | None = None
    """Where the pod was bound at last; None = not seen yet."""
    final_s: float | None = None
    nodes: Fleet | None = field(default=None, repr=False, compare=False)
    """Before it is written: the nodes whose digest ``fleet`` will be, so that the writer takes it and nobody waits."""

    def row(self) -> tuple[Any, ...]:
        """Values in the order of the columns."""
        if self.nodes is not None:
            self.fleet = self.nodes.packed[0]
        values = {c: getattr(self, c) for c in _COLUMNS}
        for key in ("request", "prediction", "top", "reasons"):
            values[key] = _encode(values[key]).decode()
        values["masks"] = self.packed or pack(self.masks)
        values["is_exact"] = int(self.is_exact)
        return tuple(values.values())

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Record:
        """From a row of the table."""
        values = dict(zip(_COLUMNS, row, strict=True))
        for key in ("request", "prediction", "top", "reasons"):
            values[key] = json.loads(values[key])
        bits = json.loads(zlib.decompress(values["masks"]))
        values["masks"] = {
            reason: np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)).astype(np.bool_)
            for reason, text in bits.items()
        }
        values["is_exact"] = bool(values["is_exact"])
        return cls(**values)

    @property
    def device_indices(self) -> list[int]:
        """Devices by index."""
        return list(device_indices(self.devices))

    @property
    def agrees(self) -> bool | None:
        """Whether the pod ended up where we said; None while nobody knows or we had no place."""
        return None if self.final_node is None or not self.node else self.final_node == self.node

    def why_not(self, fleet: Fleet, node: str) -> str:
        """The reason a node was turned away, empty if it was not; as far as the record knows."""
        row = fleet.row_of[node]
        return next((r for r, mask in self.masks.items() if r != IDLE and row < len(mask) and mask[row]), "")

    def was_idle(self, fleet: Fleet, node: str) -> bool | None:
        """Whether a node held nothing but daemons then; None if the record does not know."""
        mask, row = self.masks.get(IDLE), fleet.row_of.get(node)
        return None if mask is None or row is None or row >= len(mask) else bool(mask[row])


_COLUMNS = tuple(f.name for f in fields(Record) if f.name not in ("nodes", "packed"))
_INSERT = f"INSERT OR REPLACE INTO records ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


class RecordStore:
    """Writes the file. One thread uses it; every failure is a return value, because a full disk must stop nothing."""

    def __init__(self, path: Path, settings: RecordSettings | None = None) -> None:
        self.path = path
        self.settings = settings or RecordSettings()
        self.on_final: Callable[[str, bool], None] = lambda mode, agrees: None
        """Told, once for each pod that was bound, in which mode we last chose a node for it and whether it is there."""
        self._database: sqlite3.Connection | None = None
        self._fleets: set[str] = set()
        """Digests that are in the file for certain."""
        self._has_failed = False
        self._inode = 0

    def open(self) -> bool:
        """Open or create; False (and one warning) if that is not possible now."""
        return self._tried(self._open)

    def _open(self) -> None:
        """A file that was deleted, to make room, is begun anew: what is written to it would be nowhere."""
        if self._database is not None and self._found() == self._inode:
            return
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, timeout=5, check_same_thread=False)
        database.execute("PRAGMA auto_vacuum=INCREMENTAL")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(_SCHEMA)
        self._database, self._inode = database, self._found()
        self._fleets.clear()

    def _found(self) -> int:
        """Which file is there, 0 for none."""
        try:
            return self.path.stat().st_ino
        except OSError:
            return 0

    def _tried(self, act: Callable[[], None]) -> bool:
        """Whether it could be done; if not, that is said once, and so is that it can be done again."""
        try:
            act()
        except (OSError, sqlite3.Error) as error:
            self._failed(error)
            return False
        if self._has_failed:
            log.info("records are written again", extra={"path": str(self.path)})
        self._has_failed = False
        return True

    def _failed(self, error: Exception) -> None:
        """Hold no file that failed: a volume is only repaired once nobody has any of it open, and then is another one."""
        if not self._has_failed:
            log.warning("records cannot be written", extra={"path": str(self.path), "error": str(error)})
        self._has_failed = True
        with suppress(sqlite3.Error):
            self.close()

    def write(self, batch: Iterable[Record | Fleet | Seen | Bound]) -> bool:
        """Write one batch in one transaction; False (and one warning) if it is lost. A pod that is ``Seen`` was bound just now.

        Items may be made as they are asked for: the interpreter is given back between any two.
        """
        return self._tried(lambda: self._write(batch))

    def put_log(self, batch: Iterable[Record | Fleet | Bound]) -> None:
        """Write the records of a log in place of those of another, of which pods and decisions may have the same names.

        Raises
        ------
        ConfigError : there are decisions of a service. RecordError : it cannot be written, and nothing of it was.
        """
        try:
            self._open()
            assert self._database is not None, "it is open"
            if self._database.execute("SELECT 1 FROM records WHERE mode != 'log' LIMIT 1").fetchone():
                raise ConfigError(f"records {self.path}: holds decisions of a service; give another file")
            self._database.execute("DELETE FROM records")
            self._database.execute("DELETE FROM fleets")
            self._write(batch)
        except (OSError, sqlite3.Error) as error:
            raise RecordError(
                f"records {self.path}: cannot be written ({why(error)}); check the folder's rights and free space"
            ) from error

    def _write(self, batch: Iterable[Record | Fleet | Seen | Bound]) -> None:
        self._open()
        assert self._database is not None, "it is open"
        try:
            with self._database as database:
                for item in batch:
                    if isinstance(item, Record):
                        if item.nodes is not None:
                            self._put_fleet(database, item.nodes)
                        database.execute(_INSERT, item.row())
                    elif isinstance(item, Fleet):
                        self._put_fleet(database, item)
                    else:
                        bound_s = item.time_s if isinstance(item, Bound) else time.time()
                        rows = database.execute(_FINAL, (item.node, bound_s, item.uid)).fetchall()
                        _, mode, node = max(rows, default=(0.0, "", ""))
                        if node:
                            self.on_final(mode, node == item.node)
        except Exception:
            self._fleets.clear()
            raise

    def _put_fleet(self, database: sqlite3.Connection, fleet: Fleet) -> None:
        digest, nodes = fleet.packed
        if digest not in self._fleets:
            database.execute("INSERT OR IGNORE INTO fleets VALUES (?, ?)", (digest, nodes))
            self._fleets.add(digest)

    def prune(self, now_s: float, clock_s: float) -> int:
        """Delete what is too old by ``now_s``, and the oldest while the file is too large; how many went. Before those, what is
        from after ``clock_s``, the Unix time as records carry it: the clock was ahead, and none of it would grow old."""
        if self._database is None:
            return 0
        oldest_s = now_s - self.settings.max_age_days * 86_400
        try:
            with self._database as database:
                self._fleets.clear()
                gone = database.execute("DELETE FROM records WHERE asked_s < ?", (oldest_s,)).rowcount
                database.execute(_UNUSED)
                while self._bytes() > self.settings.max_bytes:
                    count = database.execute("SELECT count(*) FROM records").fetchone()[0]
                    if not count:
                        break
                    number = max(1, int(count * PRUNE_SHARE))
                    future = database.execute(_FUTURE, (clock_s, number)).rowcount
                    gone += future or database.execute(_OLDEST, (number,)).rowcount
                    database.execute(_UNUSED)  # nodes may be most of the file, where they come and go
            self._database.execute("PRAGMA incremental_vacuum").fetchall()
        except sqlite3.Error as error:
            self._failed(error)
            return 0
        return int(gone)

    def _bytes(self) -> int:
        """Bytes in use: pages that are not free."""
        assert self._database is not None
        pages, free, size = (
            self._database.execute(f"PRAGMA {p}").fetchone()[0] for p in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        if self._database is not None:
            database, self._database = self._database, None
            database.close()


@dataclass(frozen=True)
class Query:
    """Which records; empty fields do not matter."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    id: str = ""
    node: str = ""
    mode: str = ""
    outcome: str = ""
    agrees: bool | None = None
    since_s: float = 0.0
    until_s: float = float("inf")
    limit: int = -1
    newest_first: bool = True

    def sql(self) -> tuple[str, list[Any]]:
        """WHERE, ORDER and LIMIT, with their values."""
        wheres, values = ["asked_s >= ?", "asked_s <= ?"], [self.since_s, self.until_s]
        terms: list[Any] = values
        for column in ("name", "namespace", "uid", "id", "node", "mode", "outcome"):
            if getattr(self, column):
                wheres.append(f"{column} = ?")
                terms.append(getattr(self, column))
        if self.agrees is not None:
            wheres.append(f"final_node IS NOT NULL AND node != '' AND final_node {'=' if self.agrees else '!='} node")
        order = "DESC" if self.newest_first else "ASC"
        terms.append(self.limit)
        return f"WHERE {' AND '.join(wheres)} ORDER BY asked_s {order}, rowid {order} LIMIT ?", terms


class RecordReader:
    """Reads a file of records, also one that is being written."""

    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            what = "is no file" if Path(path).exists() else "no such file"
            raise ConfigError(
                f"records {path}: {what}; `ullage serve --records FILE` writes one, --records FILE names it"
            )
        try:
            self._database = sqlite3.connect(f"file:{Path(path).absolute()}?mode=ro", uri=True, timeout=5)
            row = self._database.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        except sqlite3.Error as error:
            raise ConfigError(f"records {path}: is no file of decision records ({error})") from error
        if row is None or row[0] != str(FORMAT):
            found = row[0] if row else "unknown"
            raise ConfigError(f"records {path}: format {found}, this release reads {FORMAT}; use the one that wrote it")
        self.path = path
        self._last: tuple[str, Fleet | None] = ("", None)
        """Nodes that were asked for, by their digest: neighbouring records are about the same ones."""

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def find(self, query: Query) -> Iterator[Record]:
        """Matching records, one by one."""
        where, values = query.sql()
        try:
            for row in self._database.execute(f"SELECT {', '.join(_COLUMNS)} FROM records {where}", values):
                yield Record.of_row(row)
        except (sqlite3.Error, zlib.error, ValueError, TypeError) as error:
            raise RecordError(f"records {self.path}: damaged ({error}); keep the file and begin a new one") from error

    def fleet(self, digest: str) -> Fleet | None:
        """The nodes that a record's masks are about, None if the record kept none."""
        if digest and digest != self._last[0]:
            row = self._database.execute("SELECT nodes FROM fleets WHERE digest = ?", (digest,)).fetchone()
            self._last = digest, None if row is None else Fleet.unpacked(row[0])
        return self._last[1] if digest else None

    def count(self) -> int:
        """How many records there are."""
        return int(self._database.execute("SELECT count(*) FROM records").fetchone()[0])
