"""``ullage reproduce``: published results repeated, ours beside them, one sub-command each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from placement.command_text import shown_command
from placement.errors import ConfigError, nearest
from simulator.cli.options import OUTPUT, QUIET, REPORT
from simulator.cli.reproduce_learning import (
    reproduce_cold_start,
    reproduce_eurosys21,
    reproduce_forecast,
    reproduce_lifetimes,
    reproduce_packing,
)
from simulator.cli.reproduce_priority import reproduce_priority_matters
from simulator.cli.reproduce_replays import adversaries_command, empty_nodes_command, placement_command
from simulator.output import emit, progress, write_whole


@click.group()
def reproduce() -> None:
    """Repeat published results and hold ours against them."""


@reproduce.command("fgd-atc23")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of the openb trace.")
@REPORT
@click.option("-j", "--jobs", type=click.IntRange(0), default=0, help="Processes; 0 = one per core.")
@click.option(
    "--node-order",
    type=click.Choice(["published", "reversed", "random", "ratio-up", "ratio-down"]),
    default="published",
    help="Tie-break order of the nodes; ratio = cores per GPU.",
)
@click.option(
    "--delivery",
    default="decide",
    help="How decisions arrive, as for `ullage compare`.",
)
@click.option("--variant", "only", multiple=True, help="Only these pod lists; repeat. Default: all that are there.")
@click.option("--policy", "policies", multiple=True, help="Only these policies; repeat. Default: all seven.")
@QUIET
@OUTPUT
def fgd_atc23(
    data: Path,
    report: Path | None,
    jobs: int,
    node_order: str,
    delivery: str,
    only: tuple[str, ...],
    policies: tuple[str, ...],
    quiet: bool,
    output: str,
) -> None:
    """The FGD paper (USENIX ATC'23): 350 deterministic experiments equal to the published tables, and `priced` beside them."""
    from simulator.delivery import delivery_named
    from simulator.reproduce.fgd import POLICIES, Setting, run

    for policy in policies:
        if policy not in POLICIES:
            raise ConfigError(f"unknown policy {policy!r}; {nearest(policy, list(POLICIES))}")

    delivery_named(delivery)
    with progress("replaying", quiet=quiet) as advance:
        chosen = policies or tuple(POLICIES)
        result = run(data, jobs=jobs, setting=Setting(node_order, delivery, chosen), only=only, progress=advance)
    rows: list[dict[str, Any]] = [
        {"trace": trace, **{p: found[p]["130"] for p in chosen}} for trace, found in result["results"].items()
    ]
    if report is not None:
        from simulator.reproduce.fgd_page import report as page

        write_whole({report: page(result, shown_command(["ullage", *sys.argv[1:]]))})
        click.echo(f"report: {report}", err=True)
    if output == "table":
        from simulator.reproduce.fgd_page import headline

        click.echo(f"{headline(result)}\nGPU allocation, %, when 130 % has been asked for, mean of 10 seeds:\n")
    emit("Reproduction", result, rows, output)


for _command in (
    reproduce_forecast,
    reproduce_eurosys21,
    reproduce_packing,
    reproduce_lifetimes,
    reproduce_cold_start,
    empty_nodes_command,
    placement_command,
    adversaries_command,
    reproduce_priority_matters,
):
    reproduce.add_command(_command)
