"""``ullage decisions``: list, filter and export records; make them from an event log."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import time
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from placement.errors import ConfigError
from scheduler.cli.cluster import QUIET
from scheduler.cli.explain import RECORDS
from scheduler.cli.progress import now_and_then, steps
from scheduler.settings import MODES

if TYPE_CHECKING:
    from scheduler.records import Query

_AGO_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_time(text: str, now_s: float) -> float:
    """Unix seconds of ``-2h``, ``now`` or a number.

    Raises
    ------
    ConfigError : it is none of them.
    """
    match = re.fullmatch(r"-(\d+(?:\.\d+)?)([smhd])", text)
    if match:
        return now_s - float(match[1]) * _AGO_S[match[2]]
    if text == "now":
        return now_s
    with suppress(ValueError):
        if math.isfinite(time_s := float(text)):
            return time_s
    raise ConfigError(f"time {text!r}: write it like -2h, -30m, -7d, now, or Unix seconds")


@click.group()
def decisions() -> None:
    """List, filter and export recorded decisions."""


def _filters(command: Any) -> Any:
    """Options that choose records."""
    for option in (
        click.option("-n", "--namespace", default="", help="Only this namespace (default: all)."),
        click.option("--node", default="", help="Only decisions for this node."),
        click.option("--mode", type=click.Choice([*MODES, "log"]), help="Only pods answered in this mode."),
        click.option("--outcome", type=click.Choice(["placed", "rejected"]), help="Only these."),
        click.option("--agrees/--differs", default=None, help="Only pods that ended up where we said, or elsewhere."),
        click.option("--since", default="0", help="Not before: -2h, or Unix seconds."),
        click.option("--until", default="now", help="Not after."),
        RECORDS,
    ):
        command = option(command)
    return command


def _query(options: dict[str, Any], limit: int = -1) -> Query:
    from scheduler.records import Query

    now_s = time.time()
    until = float("inf") if options["until"] == "now" else parse_time(options["until"], now_s)
    return Query(
        namespace=options["namespace"],
        node=options["node"],
        mode=options["mode"] or "",
        outcome=options["outcome"] or "",
        agrees=options["agrees"],
        since_s=parse_time(options["since"], now_s),
        until_s=until,
        limit=limit,
    )


@decisions.command("list")
@_filters
@click.option("--limit", type=click.IntRange(1), default=50, help="Newest so many.")
@click.option("--no-headers", is_flag=True, help="Without the line of headings.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "wide", "json", "yaml", "csv"]), default="table", help="Format."
)
def list_decisions(limit: int, no_headers: bool, output: str, **options: Any) -> None:
    """The newest decisions that match."""
    from scheduler.decisions import SHOWN, flat
    from scheduler.records import RecordReader

    with RecordReader(options["records"]) as reader:
        rows = [flat(record) for record in reader.find(_query(options, limit))]
    if not rows:
        click.echo("no decision matches; leave filters out one by one, or look further back with --since", err=True)
    body = {"apiVersion": "ullage.dev/v1", "kind": "DecisionList", "items": rows}
    if output == "json":
        click.echo(json.dumps(body, indent=2, ensure_ascii=False))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(body, sort_keys=False, allow_unicode=True), nl=False)
    elif output == "csv":
        click.echo(_csv(rows, SHOWN, no_headers), nl=False)
    else:
        columns = SHOWN if output == "table" or not rows else tuple(rows[0])
        click.echo(_table(rows, columns, no_headers), nl=False)


def _csv(rows: list[dict[str, Any]], shown: tuple[str, ...], no_headers: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else list(shown), lineterminator="\n")
    if not no_headers:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...], no_headers: bool) -> str:
    words = [[_cell(row[c]) for c in columns] for row in rows]
    lines = words if no_headers else [[c.upper() for c in columns], *words]
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(len(columns))]
    return "".join("  ".join(w.ljust(n) for w, n in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


@decisions.command()
@click.argument("target", type=click.Path(path_type=Path))
@_filters
def export(target: Path, **options: Any) -> None:
    """Write all matching decisions to TARGET as Parquet."""
    from scheduler.decisions import write_parquet
    from scheduler.records import RecordReader

    if target.suffix in (".csv", ".json", ".yaml"):
        kind = target.suffix[1:]
        raise ConfigError(
            f"{target}: Parquet is written, not {kind}; for that: ullage decisions list -o {kind} --limit N"
        )
    with RecordReader(options["records"]) as reader:
        number = write_parquet(reader.find(_query(options)), target)
    click.echo(f"{number:,} decisions written to {target}", err=True)


@decisions.command("from-log")
@click.argument("log", type=click.Path(exists=True, path_type=Path))
@click.option("--strategy", "tomls", multiple=True, type=click.Path(exists=True, path_type=Path), help="More TOMLs.")
@click.option("--epoch", "epoch_s", type=float, help="Unix time of the log's second 0; default: what the log says.")
@QUIET
@RECORDS
def from_log(log: Path, tomls: tuple[Path, ...], epoch_s: float | None, quiet: bool, records: str) -> None:
    """Make records from an event log (folder or bundle), of a live run or a replay, so that `explain` works on it.

    They take the place of those of another log.
    """
    from placement.log_lines import begin_of, read_log
    from placement.strategies import STRATEGIES, strategy_from_toml
    from scheduler.cli.bundle import strategies_of
    from scheduler.recorder import record_log
    from scheduler.records import RecordStore

    header, events, lost = read_log(log)
    if lost:
        click.echo(f"note: the log lost {lost:,} events, and with them decisions and what became of pods", err=True)
    known = [*strategies_of(header), *STRATEGIES.values(), *(strategy_from_toml(path) for path in tomls)]
    target = Path(records)
    is_new, written = not target.exists(), False
    store = RecordStore(target)
    try:
        start_s = begin_of(header, events.events) if epoch_s is None else epoch_s
        tell = now_and_then(steps(quiet=quiet), len(events))
        number = record_log(events, known, store, epoch_s=start_s, progress=tell)
        written = True
    finally:
        store.close()
        if is_new and not written:
            for end in ("", "-wal", "-shm"):
                target.with_name(target.name + end).unlink(missing_ok=True)
    click.echo(
        f"{number:,} decisions written to {records}; "
        f"ask about a pod: ullage explain pod/NAME -n NS --records {quote(records)}",
        err=True,
    )
