"""Writes a replay's event log in the format of the live service's, so that every tool for those reads it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from placement.errors import PlacementError
from placement.log import EventLog
from placement.log_lines import LineWriter
from placement.strategies import strategy_to_toml
from placement.strategy import Strategy
from placement.whole_files import whole_file
from simulator.delivery import Delivery


def write_log(
    folder: Path,
    events: EventLog,
    strategies: list[Strategy],
    *,
    begins_s: int,
    delivery: Delivery,
) -> None:
    """Write ``events`` as the only segment of ``folder``, which is made; their second 0 is the Unix time ``begins_s``.

    A ``delivery`` that loses something is named in the header: its decisions are not the strategies' alone.

    Raises
    ------
    PlacementError : the folder cannot be written.
    """
    writer = LineWriter()
    tomls = {strategy.digest: strategy_to_toml(strategy) for strategy in strategies}
    segment = folder / "000001.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(segment) as part, part.open("wb") as file:
            facts = {} if delivery.is_exact else {"delivery": delivery.name}
            version = metadata.version("ullage")
            file.write(writer.header(version=version, begins_unix_s=begins_s, strategies=tomls, **facts))
            file.writelines(writer.event(event) for event in events)
    except OSError as error:
        raise PlacementError(f"log {folder}: cannot be written ({error.strerror}); choose another folder") from error
