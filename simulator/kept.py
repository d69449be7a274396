"""Finished cells of long commands: kept as soon as they are there, so that the same command goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from placement.errors import PlacementError, why
from placement.whole_files import whole_file

FORMAT = 12
"""Counts up whenever equal questions are answered otherwise than before, so that older cells are computed again."""


def code_version() -> str:
    """What a cell's key must name besides its question: equal ones answer alike."""
    return f"{FORMAT}-{metadata.version('ullage')}"


def kept(folder: Path | None, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives, or what an earlier run left under ``key``; as JSON keeps it. None as folder keeps nothing.

    Raises
    ------
    PlacementError : the folder cannot be read or written.
    """
    if folder is None:
        return dict(json.loads(json.dumps(make())))
    path = folder / f"{key}.json"
    try:
        if (left := _left(path)) is not None:
            return left
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlacementError(f"cache {folder}: cannot be used ({why(error)}); choose another --cache") from error
    row = make()
    try:
        with whole_file(path) as part:
            part.write_text(json.dumps(row), encoding="utf-8")
    except OSError as error:
        raise PlacementError(f"cache {folder}: cannot be written ({why(error)}); choose another --cache") from error
    return dict(json.loads(json.dumps(row)))


def _left(path: Path) -> dict[str, Any] | None:
    """What an earlier run left, if it is whole. Others may use the folder at the same time."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # cut short by a crash: compute it again
        path.unlink(missing_ok=True)
        return None
