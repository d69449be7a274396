"""``ullage shadow report``: what shadow mode would have changed, and how sure that is."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from placement.command_text import shown_command
from placement.errors import why
from placement.rates import RATES
from placement.whole_files import whole_file
from scheduler.cli.decisions import parse_time
from scheduler.cli.explain import RECORDS
from scheduler.errors import RecordError
from scheduler.settings import MODES

if TYPE_CHECKING:
    from scheduler.records import Query, RecordReader


HELP = "Only pods answered in this mode; log: records of `ullage decisions from-log`."


@click.group()
def shadow() -> None:
    """Compare what we would have done with what happened."""


@shadow.command()
@RECORDS
@click.option("--mode", type=click.Choice([*MODES, "log", "all"]), default="shadow", help=HELP)
@click.option("-n", "--namespace", default="", help="Only this namespace (default: all).")
@click.option("--since", default="0", help="Not before: -7d, or Unix seconds.")
@click.option(
    "--usd-per-core-hour",
    "core_usd",
    type=click.FloatRange(0),
    default=RATES.cpu,
    help="Of one core.",
)
@click.option(
    "--usd-per-gib-hour",
    "gib_usd",
    type=click.FloatRange(0),
    default=RATES.memory_gib,
    help="Of one GiB of memory.",
)
@click.option("--usd-per-gpu-hour", "gpu_usd", type=click.FloatRange(0), default=RATES.gpu, help="Of one GPU.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the bootstrap.")
@click.option("--report", type=click.Path(path_type=Path), help="Also write a self-contained HTML file.")
@click.option("-o", "--output", type=click.Choice(("text", "json", "html")), default="text", help="On standard output.")
def report(
    records: str,
    mode: str,
    namespace: str,
    since: str,
    core_usd: float,
    gib_usd: float,
    gpu_usd: float,
    seed: int,
    report: Path | None,
    output: str,
) -> None:
    """Agreement, nodes that could be empty, USD a month, each with its uncertainty."""
    from scheduler.records import Query, RecordReader
    from scheduler.shadow import NodePrices, compare, to_html, to_text

    query = Query(
        mode="" if mode == "all" else mode,
        namespace=namespace,
        since_s=parse_time(since, time.time()),
        newest_first=False,
    )
    with RecordReader(records) as reader:
        found = compare(reader, reader.find(query), NodePrices(core_usd, gib_usd, gpu_usd), seed)
        others = _modes(reader, query) if not found.records and mode != "all" else []
    if others:
        ways = " or ".join(f"--mode {other}" for other in others)
        click.echo(f"no decision was made in mode {mode}; those that match are seen with {ways}", err=True)
    command = shown_command(["ullage", *sys.argv[1:]])
    if report is not None:
        _write(report, to_html(found, command))
    if output == "json":
        click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        click.echo(to_html(found, command) if output == "html" else to_text(found), nl=False)


def _modes(reader: RecordReader, query: Query) -> list[str]:
    """Modes in which a decision that matches was made."""
    return [mode for mode in (*MODES, "log") if any(True for _ in reader.find(replace(query, mode=mode, limit=1)))]


def _write(path: Path, text: str) -> None:
    try:
        with whole_file(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(f"{path}: cannot be written ({why(error)}); check the folder and its free space") from error
