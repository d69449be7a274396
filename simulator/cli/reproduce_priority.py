"""``ullage reproduce priority-matters``: rescue plans on published instances."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from placement.errors import ConfigError
from simulator.cli.options import OUTPUT
from simulator.output import progress, render


def numbers(kind: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """Callback that reads a comma-separated list."""

    def read(_context: click.Context, parameter: click.Parameter, text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is not a comma-separated list of numbers", param=parameter) from error

    return read


@click.command("priority-matters")
@click.option("--seeds-file", type=click.Path(path_type=Path), required=True, help="One seed per line.")
@click.option("--seeds", "num_seeds", type=click.IntRange(min=1), help="Only the first so many seeds.")
@click.option("--time", "time_s", type=float, default=1.0, help="Seconds per instance.")
@click.option("--nodes", default="4,8,16,32", callback=numbers(int), help="Cluster sizes.")
@click.option("--pods-per-node", default="4,8", callback=numbers(int), help="Pods ÷ nodes.")
@click.option("--priorities", default="1,2,4", callback=numbers(int), help="Number of tiers.")
@click.option(
    "--util",
    default="0.90,0.95,1.00,1.05",
    callback=numbers(float),
    help="What pods ask for over what nodes offer.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Processes.")
@click.option("--threads", type=click.IntRange(1, 2), default=2, help="Threads of each plan, so cores per job.")
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    help="What --time is measured by; cpu, on a machine that has other work to do, is that of each thread.",
)
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path),
    default=Path(".cache/ullage"),
    help="Finished cells are kept here; the same command, of the same code, takes up again after an interruption.",
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
    threads: int,
    clock: str,
    work_dir: Path,
    output: str,
) -> None:
    """Rescue plans on the instances of "Priority Matters" (arXiv 2511.08373), with its outcome classes."""
    from simulator.reproduce import priority as reproduce_priority

    if min(*nodes, *pods_per_node, *priorities, 1) < 1 or not all(0 < share < math.inf for share in util):
        raise ConfigError("nodes, pods per node and priorities start at 1, and util is a number above 0")
    seeds = reproduce_priority.read_seeds(seeds_file)[:num_seeds]
    with progress("cells") as advance:
        results = reproduce_priority.reproduce(
            reproduce_priority.grid(nodes, pods_per_node, priorities, util),
            seeds,
            time_s=time_s,
            jobs=jobs,
            work_dir=work_dir,
            clock=clock,
            threads=threads,
            progress=advance,
        )
    document = reproduce_priority.summary(results)
    keys = ["instances", "no_call", "called", "improved", "default_optimal", "failed", "proved", "improved_within_50ms"]
    keys += ["usage_gain_pp", "moves_per_pod"]
    cells: list[dict[str, Any]] = document["cells"]  # type: ignore[assignment]  # a list of rows, built above
    where = ["nodes", "pods_per_node", "priorities", "util"]
    rows = [{key: cell[key] for key in where + keys} for cell in cells]
    total = {"nodes": "all", "pods_per_node": "", "priorities": "", "util": ""}
    click.echo(render(document, [*rows, {**total, **{key: document[key] for key in keys}}], output))
