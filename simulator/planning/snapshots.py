"""Snapshot files: a versioned JSON of one cluster at one moment; a bug report about a plan is such a file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from placement.errors import UNREADABLE, ConfigError
from placement.planning.snapshots import KIND, VERSION, SnapshotError, SnapshotFile
from simulator.output import write_whole


class _Header(msgspec.Struct):
    kind: str = ""
    version: int = 0


def read_snapshot(path: Path) -> SnapshotFile:
    """The snapshot in a file, checked."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"snapshot {path}: no such file; check the path") from error
    except OSError as error:
        raise SnapshotError(f"snapshot {path}: {error.strerror}; check its rights") from error
    try:
        header = msgspec.json.decode(data, type=_Header)
        if header.kind != KIND:
            raise SnapshotError(
                f"snapshot {path}: kind is {header.kind or 'missing'}, not {KIND}; make one with `ullage snapshot`"
            )
        if header.version != VERSION:
            raise SnapshotError(
                f"snapshot {path}: version {header.version} is not the version {VERSION} of this build; take a new "
                "snapshot with this build, or read it with the build that wrote it"
            )
        return msgspec.json.decode(data, type=SnapshotFile)
    except (*UNREADABLE, ConfigError) as error:
        raise SnapshotError(f"snapshot {path}: {error}; it is damaged or was edited, take a new one") from error


def write_snapshot(snapshot: SnapshotFile, path: Path) -> None:
    """Write the whole file, or nothing.

    Raises
    ------
    PlacementError : it cannot be written.
    """
    write_whole({path: msgspec.json.encode(snapshot).decode()}, "snapshot")
