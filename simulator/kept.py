"""Finished cells of long commands: kept as soon as they are there, so that the same command goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from placement.errors import PlacementError, why
from placement.whole_files import whole_file

ROOT = Path(__file__).parent.parent


@cache
def code_version() -> str:
    """What a cell's key must name besides its question: a digest of the code that answers, so that equal ones answer alike."""
    digest = hashlib.sha256()
    for package in ("placement", "simulator"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def kept(folder: Path | None, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives, or what an earlier run left under ``key``; as JSON keeps it. None as folder keeps nothing.

    Raises
    ------
    PlacementError : the folder cannot be read or written.
    """
    if folder is None:
        return dict(json.loads(json.dumps(make())))
    if (found := left(folder, key)) is not None:
        return found
    with _named(folder, "used"):
        folder.mkdir(parents=True, exist_ok=True)
    row = json.dumps(make())
    with _named(folder, "written"), whole_file(folder / f"{key}.json") as part:
        part.write_text(row, encoding="utf-8")
    return dict(json.loads(row))


def left(folder: Path, key: str) -> dict[str, Any] | None:
    """What an earlier run left under ``key``; None where it is not there, or was cut short by a crash.

    Raises
    ------
    PlacementError : the folder cannot be read.
    """
    with _named(folder, "used"):
        try:
            return dict(json.loads((folder / f"{key}.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None


@contextmanager
def _named(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PlacementError(f"cache {folder}: cannot be {what} ({why(error)}); choose another folder") from error
