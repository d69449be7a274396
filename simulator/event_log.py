"""Writes a replay's event log in the format of the live service's, so that every tool for those reads it."""

from __future__ import annotations

from contextlib import suppress
from importlib import metadata
from pathlib import Path

from placement.errors import PlacementError
from placement.log import EventLog
from placement.log_lines import LineWriter
from placement.strategies import strategy_to_toml
from placement.strategy import Strategy


def write_log(folder: Path, events: EventLog, strategies: list[Strategy], *, begins_s: int = 0) -> None:
    """Write ``events`` as the only segment of ``folder``, which is made; their second 0 is the Unix time ``begins_s``.

    Raises
    ------
    PlacementError : the folder cannot be written.
    """
    writer = LineWriter()
    tomls = {strategy.digest: strategy_to_toml(strategy) for strategy in strategies}
    segment = folder / "000001.jsonl"
    part = segment.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(writer.header(version=metadata.version("ullage"), begins_unix_s=begins_s, strategies=tomls))
            file.writelines(writer.event(event) for event in events)
        part.replace(segment)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise PlacementError(f"log {folder}: cannot be written ({error.strerror}); choose another folder") from error
