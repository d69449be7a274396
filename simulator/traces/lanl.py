"""Reader for ``lanl-failures``: node failures and repairs at Los Alamos, 1995–2005 (Schroeder and Gibson, DSN'06).

Failures of one system are laid over a trace's fleet: recorded node k hits fleet node k modulo the fleet's size, and the
trace's first arrival is ``start_s`` after the system's first failure. Old HPC machines: use the shapes (clustering, long
repairs), not the absolute rates; ``speed`` compresses the clock where a trace is shorter than the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from placement.errors import ConfigError
from placement.nodes import NodeSpec
from simulator.traces.trace import NodeEvent, Rows

FILE = "LA-UR-05-7318-failure-data-1996-2005.csv.gz"
NEEDED = ("System", "nodenumz", "Prob Started", "Prob Fixed")


def read_failures(
    data: Path,
    fleet: Sequence[NodeSpec],
    *,
    system: int = 18,
    start_s: int = 0,
    first_s: int = 0,
    length_s: int,
    speed: float = 1.0,
    skip_bad_rows: bool = False,
) -> tuple[NodeEvent, ...]:
    """Failures and repairs of one system within ``length_s`` trace seconds from ``first_s`` on, on a fleet.

    Overlapping failures of one node are joined. ``start_s`` counts from the system's first failure, in recorded seconds.

    Raises
    ------
    TraceError : the file is missing or damaged. ConfigError : the system is unknown or the fleet is empty.
    """
    if not fleet:
        raise ConfigError("failures need a fleet to hit; the trace has no nodes")
    if speed <= 0 or length_s <= 0:
        raise ConfigError(f"failures: speed={speed} and length_s={length_s} must be > 0")
    rows = Rows(data / FILE, skip_bad_rows)
    outages: dict[str, list[tuple[int, int]]] = {}
    records = _records(rows, system)
    if not records:
        raise ConfigError(f"failures: system {system} has no records; systems 2–23 do, see the data's README")
    first = min(start for _, start, _ in records)
    for node, begin, end in records:
        at = int((begin - first - start_s) / speed)
        until = max(int((end - first - start_s) / speed), at + 1)
        if 0 <= at < length_s:
            outages.setdefault(fleet[node % len(fleet)].name, []).append((first_s + at, first_s + until))
    events: list[NodeEvent] = []
    for name, spans in outages.items():
        for at, until in _joined(spans):
            events += [NodeEvent(at, "fail", name), NodeEvent(until, "repair", name)]
    return tuple(sorted(events))


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for at, until in sorted(spans):
        if joined and at <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(until, joined[-1][1])
        else:
            joined.append((at, until))
    return joined


def _records(rows: Rows, system: int) -> list[tuple[int, int, int]]:
    """(node, started, fixed) of one system, in epoch seconds."""
    found = []
    for row in rows.table(NEEDED, "LA-UR-05-7318", "give the folder of the LANL failures", encoding="latin-1"):
        if row["System"].strip() != str(system):
            continue
        node = rows.integer(row["nodenumz"], "nodenumz")
        started, fixed = _clock(row["Prob Started"], rows), _clock(row["Prob Fixed"], rows)
        if node is None or started is None or fixed is None:
            continue
        if fixed < started:
            rows.bad(f"fixed {row['Prob Fixed']!r} before it started {row['Prob Started']!r}", "fix the row")
            continue
        found.append((node, started, fixed))
    return found


def _clock(text: str, rows: Rows) -> int | None:
    try:
        return int(datetime.strptime(text.strip(), "%m/%d/%Y %H:%M").replace(tzinfo=UTC).timestamp())
    except ValueError:
        rows.bad(f"time {text!r} is not M/D/YYYY H:MM", "fix the row")
        return None
