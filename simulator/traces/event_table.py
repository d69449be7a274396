"""The event log as a table: one row per event, for the native trace format and for export.

Columns: ``sequence time_s kind subject node devices detail``. Details are JSON, as :mod:`placement.log_lines` writes
them; a row of kind ``class`` before its first use holds a pod class, which later rows name by its number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from placement.log import Event
from placement.log_lines import LineReader, LineWriter

CLASS = "class"
COLUMNS = ("sequence", "time_s", "kind", "subject", "node", "devices", "detail")


def to_columns(events: Iterable[Event]) -> dict[str, list[Any]]:
    """Columns of equal length; ``sequence`` counts events and is −1 for rows of kind ``class``."""
    writer = LineWriter()
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for sequence, event in enumerate(events):
        for line in writer.event(event).splitlines():
            value = msgspec.json.decode(line)
            row: Sequence[Any]
            if isinstance(value, dict):
                row = (-1, event.time_s, CLASS, str(value["spec"]), "", 0, _text(value["is"]))
            else:
                row = (sequence, *value[:5], _text(value[5]))
            for name, cell in zip(COLUMNS, row, strict=True):
                columns[name].append(cell)
    return columns


def from_columns(columns: Mapping[str, Sequence[Any]]) -> tuple[Event, ...]:
    """The events of a table.

    Raises
    ------
    ConfigError : a row is damaged; it is named. KeyError : a column is missing.
    """
    rows = zip(*(columns[name] for name in COLUMNS), strict=True)
    return tuple(LineReader().events((_line(row) for row in rows), "events table"))


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _line(row: tuple[Any, ...]) -> bytes:
    _, time_s, kind, subject, node, devices, detail = row
    known = msgspec.Raw(detail.encode())
    value: Any = {"spec": int(subject), "is": known} if kind == CLASS else [time_s, kind, subject, node, devices, known]
    return msgspec.json.encode(value) + b"\n"
