"""The live event log on disk: lines of :mod:`placement.log_lines` in segments, written by a thread of its own.

The hot path appends to a queue and goes on. A full or broken disk never stops serving: events are then counted as
lost, the file says so, and a checkpoint makes what follows whole again; what came in between is not written, for it may
speak of what was lost. A finished segment is compressed; every segment begins with a checkpoint, so the oldest can go.
"""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import threading
import time
from collections import deque
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO, NamedTuple

from placement.errors import ConfigError, why
from placement.log import Event, EventLog
from placement.log_lines import LineWriter, checkpoint_events
from placement.state import ClusterState
from placement.strategies import strategy_to_toml
from placement.strategy import Strategy
from placement.whole_files import require_folder
from scheduler.metrics import Metrics
from scheduler.quiet import Quiet
from scheduler.settings import LogSettings

log = logging.getLogger(__name__)

PAUSE_S = 0.05
RETRY_S = 5.0
LATER_S = 60.0
"""A segment that was written this much after now was written while the clock was ahead; files of other machines may differ a
little."""


class _Checkpoint(NamedTuple):
    """The ledger of one moment; it ``heals`` a log that lost events before it."""

    events: list[Event]
    heals: bool


class NoLog(EventLog):
    """Keeps nothing: a process that runs for months must not collect its past in memory."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.append = lambda event: None

    def close(self) -> None:
        """Nothing to close."""


class DiskLog(EventLog):
    """Writes the log of one run below ``settings.folder``."""

    __slots__ = (
        "_begins_s", "_discarded", "_dropped", "_file", "_is_broken", "_is_torn", "_metrics", "_pace", "_queue", "_segment",
        "_settings", "_size", "_state", "_stop", "_strategies", "_thread", "_told", "_unflushed", "_version", "_wants", "_writer",
        "folder",
    )  # fmt: skip

    def __init__(self, settings: LogSettings, metrics: Metrics, version: str, quiet: Quiet | None = None) -> None:
        super().__init__()
        self.append = self._put
        self._settings = settings
        self._metrics = metrics
        self._version = version
        self._pace = (quiet or Quiet()).pace()
        self._queue: deque[Event | _Checkpoint] = deque()
        self._state: ClusterState | None = None
        self._begins_s = 0
        self._strategies: dict[str, str] = {}
        self._writer = LineWriter()
        self._file: BinaryIO | None = None
        self._segment = 0
        self._size = 0
        self._dropped = 0
        """Events that found the queue full, or came before it was whole again; the event loop alone counts here."""
        self._discarded = 0
        """Events that were taken and not written; the thread alone counts here."""
        self._unflushed = 0
        """Events that were written and may not be on the disk yet."""
        self._told = 0
        """Of both, those that the file says were lost."""
        self._wants = False
        """The thread wants a checkpoint."""
        self._is_broken = False
        """The thread could not write, and has had no checkpoint since."""
        self._is_torn = False
        """The queue was full, and no checkpoint followed yet."""
        self._stop = threading.Event()
        self.folder = Path(settings.folder)
        """The run's own folder in that, once something is written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            require_folder(self.folder)
        except OSError as error:
            raise ConfigError(
                f"log.folder {settings.folder}: cannot be written ({why(error)}); choose another folder"
            ) from error
        self._thread = threading.Thread(target=self._run, name="event-log", daemon=True)

    def attach(self, state: ClusterState, strategies: list[Strategy], *, begins_unix_s: int) -> None:
        """Begin to write; checkpoints are taken of ``state``, whose second 0 is the Unix time ``begins_unix_s``."""
        self._state, self._begins_s = state, begins_unix_s
        self._strategies = {s.digest: strategy_to_toml(s) for s in strategies}
        self._thread.start()

    # ── the event loop's side ─────────────────────────────────────────────────────────────────

    def _put(self, event: Event) -> None:
        if self._is_torn or len(self._queue) >= self._settings.queue:
            self._dropped += 1
            self._metrics.log_dropped.inc()
            self._is_torn = True
            if self._state is None or len(self._queue) > self._settings.queue // 2:
                return
        else:
            self._queue.append(event)
        if (self._wants or self._is_torn) and self._state is not None:
            # The ledger appends after it changed, so the checkpoint holds this event's effect and follows it.
            checkpoint = _Checkpoint(checkpoint_events(self._state, event.time_s), heals=self._is_torn)
            self._wants = self._is_torn = False
            self._queue.append(checkpoint)

    def close(self) -> None:
        """Write what is queued and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    # ── the thread's side ─────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while True:
            try:
                self._drain()
                if self._stop.wait(PAUSE_S) and not self._queue:
                    if self._file is not None:
                        self._file.close()
                    return
            except OSError as error:
                self._broken(error)
                if self._stop.wait(RETRY_S):
                    self._lose_queue()
                    log.warning(
                        "event log ends with events lost", extra={"lost": self._dropped + self._discarded - self._told}
                    )
                    return

    def _lose(self, number: int) -> None:
        self._discarded += number
        self._metrics.log_dropped.inc(number)

    def _lose_queue(self) -> None:
        self._lose(sum(isinstance(item, Event) for item in self._queue))
        self._queue.clear()

    def _broken(self, error: OSError) -> None:
        log.warning("event log cannot be written", extra={"folder": str(self.folder), "error": str(error)})
        self._lose(self._unflushed + 1)
        self._unflushed = 0
        self._lose_queue()
        if self._file is not None:
            try:
                self._file.close()
            except OSError as again:
                log.info("segment left unfinished", extra={"error": str(again)})
            self._file = None
        with suppress(OSError):  # a disk that is full for days would be left with as many files as looks
            if self._is_broken or not self._path.stat().st_size:
                self._path.unlink()
        self._wants = self._is_broken = True

    def _drain(self) -> None:
        written = 0
        while self._queue:
            if len(self._queue) < self._settings.queue // 4 and not self._stop.is_set():
                self._pace.step()
            item = self._queue.popleft()
            if isinstance(item, _Checkpoint):
                self._rotate(item)
                continue
            if self._is_broken:
                self._lose(1)
                continue
            if self._file is None:
                self._open()
            self._write(self._writer.event(item))
            written += 1
            self._unflushed += 1
        if self._file is not None:
            self._flush(told=self._mark_lost() if self._dropped + self._discarded > self._told else 0)
            self._metrics.log_events.inc(written)
        if self._size > self._settings.segment_bytes:
            self._wants = True
            self._size = 0

    def _write(self, line: bytes) -> None:
        assert self._file is not None, "a segment is open"
        self._file.write(line)
        self._size += len(line)

    def _mark_lost(self) -> int:
        """Write how many events were lost that no file tells of yet; how many that is."""
        lost = self._dropped + self._discarded - self._told
        self._write(self._writer.mark(lost=lost))
        return lost

    def _flush(self, *, told: int) -> None:
        """Put on the disk what was written; it tells of so many lost events more."""
        assert self._file is not None, "a segment is open"
        self._file.flush()
        self._unflushed = 0
        self._told += told

    @property
    def _path(self) -> Path:
        return self.folder / f"{self._segment:06d}.jsonl"

    def _open(self) -> None:
        if not self._segment:
            self.folder = _new_run(Path(self._settings.folder))
        self._segment += 1
        self._size = 0
        self._writer = LineWriter()
        path = self._path
        self.folder.mkdir(parents=True, exist_ok=True)  # who makes room may have taken it away
        self._file = path.open("wb")
        _retain(Path(self._settings.folder), self._settings.max_bytes, path)
        self._write(
            self._writer.header(version=self._version, begins_unix_s=self._begins_s, strategies=self._strategies)
        )

    def _rotate(self, checkpoint: _Checkpoint) -> None:
        if self._file is not None:
            self._file.close()
            self._file, self._unflushed = None, 0
            _compress(self._path)
        heals = checkpoint.heals or self._is_broken
        self._is_broken = True  # a segment is of no use before its checkpoint is whole
        self._open()
        told = self._mark_lost() if heals else 0
        self._write(self._writer.mark(checkpoint="begin"))
        for event in checkpoint.events:
            self._write(self._writer.event(event))
        self._write(self._writer.mark(checkpoint="end"))
        self._flush(told=told)
        self._is_broken = False


def _new_run(folder: Path) -> Path:
    """A folder that no other run has, whoever begins in the same second: in containers everybody is process 1."""
    name = time.strftime("run-%Y%m%dT%H%M%S", time.gmtime()) + f"-{os.getpid()}"
    for number in count():
        run = folder / (f"{name}-{number}" if number else name)
        with suppress(FileExistsError):
            run.mkdir(parents=True)
            break
    return run


def _compress(path: Path) -> None:
    """Put the compressed segment in place of the plain one, which stands until then."""
    packed = Path(f"{path}.gz")
    try:
        with path.open("rb") as source, gzip.open(packed, "wb", compresslevel=3) as target:
            shutil.copyfileobj(source, target)
    except OSError:
        packed.unlink(missing_ok=True)
        raise
    path.unlink()


def _retain(folder: Path, max_bytes: int, current: Path) -> None:
    """Delete the oldest segments but ``current`` until the folder is small enough; the last ones of runs that ended are
    not compressed. Those from after now, by a clock that was ahead, go first: they would never be the oldest."""
    found, now_s = [], time.time()
    for path in folder.glob("run-*/*.jsonl*"):
        with suppress(FileNotFoundError):  # somebody else made room
            status = path.stat()
            found.append((status.st_mtime <= now_s + LATER_S, status.st_mtime, status.st_size, path))
    total = sum(size for _, _, size, _ in found)
    for _, _, size, path in sorted(found):
        if total <= max_bytes:
            return
        if path == current:
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("old segment cannot be deleted", extra={"path": str(path), "error": str(error)})
            continue
        total -= size
        with suppress(OSError):  # others are left
            path.parent.rmdir()
