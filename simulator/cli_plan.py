"""Commands about plans: `ullage reproduce priority-matters`, `ullage plan …`, `ullage snapshot`.

Thin: each command reads its input, calls a pure planner with a clock, and prints. Standard output is data, progress
goes to standard error. Nothing here changes a cluster.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from placement.errors import ConfigError

OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml", "markdown"]),
    default="table",
    show_default=True,
    help="How to print the result.",
)


def numbers(kind: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """Callback that reads a comma-separated list."""

    def read(_context: click.Context, parameter: click.Parameter, text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is not a comma-separated list of numbers", param=parameter) from error

    return read


def show(document: dict[str, Any], rows: Sequence[dict[str, Any]], output: str, *, title: str = "") -> None:
    """Print ``document`` as JSON or YAML, or ``rows`` as a table or Markdown."""
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)
    elif output == "markdown":
        click.echo(markdown(rows))
    else:
        _table(rows, title)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """GitHub table of rows with equal keys."""
    if not rows:
        return ""
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in keys) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[dict[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for key in rows[0] if rows else ():
        table.add_column(key, justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console().print(table)


class _Progress:
    """Cells done, rate and time left, on standard error while that is a terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._start = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._first is None:
            self._first = done
        if not sys.stderr.isatty():
            return
        new = done - self._first
        spent = time.monotonic() - self._start
        left = f", {spent / new * (total - done):.0f} s left" if new else ""
        click.echo(f"\r{done}/{total} {self._what}{left}   ", err=True, nl=done == total)


@click.command("priority-matters")
@click.option("--seeds-file", type=click.Path(path_type=Path), required=True, help="One seed per line.")
@click.option("--seeds", "num_seeds", type=click.IntRange(min=1), help="Only the first so many seeds.")
@click.option("--time", "time_s", type=float, default=1.0, show_default=True, help="Seconds per instance.")
@click.option("--nodes", default="4,8,16,32", show_default=True, callback=numbers(int), help="Cluster sizes.")
@click.option("--pods-per-node", default="4,8", show_default=True, callback=numbers(int))
@click.option("--priorities", default="1,2,4", show_default=True, callback=numbers(int))
@click.option("--util", default="0.90,0.95,1.00,1.05", show_default=True, callback=numbers(float))
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Processes, one thread each.")
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="What --time is measured by; cpu on a machine that has other work to do.",
)
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path),
    default=Path("priority-matters"),
    show_default=True,
    help="Finished cells are kept here; the same command takes up again after an interruption.",
)
@OUTPUT
def reproduce_priority_matters(
    seeds_file: Path,
    num_seeds: int | None,
    time_s: float,
    nodes: tuple[int, ...],
    pods_per_node: tuple[int, ...],
    priorities: tuple[int, ...],
    util: tuple[float, ...],
    jobs: int,
    clock: str,
    work_dir: Path,
    output: str,
) -> None:
    """Rescue plans on the instances of "Priority Matters" (arXiv 2511.08373), with its outcome classes."""
    from simulator import reproduce_priority

    if min(*nodes, *pods_per_node, *priorities, 1) < 1 or min(util) <= 0:
        raise ConfigError("nodes, pods per node and priorities start at 1, and util is above 0")
    results = reproduce_priority.reproduce(
        reproduce_priority.grid(nodes, pods_per_node, priorities, util),
        reproduce_priority.read_seeds(seeds_file)[:num_seeds],
        time_s=time_s,
        jobs=jobs,
        work_dir=work_dir,
        clock=clock,
        progress=_Progress("cells"),
    )
    document = reproduce_priority.summary(results)
    keys = ["instances", "no_call", "called", "improved", "default_optimal", "failed", "proved", "improved_within_50ms"]
    keys += ["usage_gain_pp", "moves_per_pod"]
    cells: list[dict[str, Any]] = document["cells"]  # type: ignore[assignment]  # a list of rows, built above
    where = ["nodes", "pods_per_node", "priorities", "util"]
    rows = [{key: cell[key] for key in where + keys} for cell in cells]
    total = {"nodes": "all", "pods_per_node": "", "priorities": "", "util": ""}
    show(document, [*rows, {**total, **{key: document[key] for key in keys}}], output, title="Priority Matters")
