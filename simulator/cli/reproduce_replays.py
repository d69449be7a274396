"""``ullage reproduce placement``, ``adversaries`` and ``empty-nodes``: replays on joined and recorded traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from placement.errors import ConfigError, nearest
from simulator.cli.options import DATA, OUTPUT, QUIET, REPORT
from simulator.cli.reproduce_learning import note_omitted
from simulator.output import emit, progress, write_whole


@click.command("empty-nodes")
@DATA
@click.option(
    "--set-up",
    "set_ups",
    multiple=True,
    help="Arrivals and cores of a node: azure-32, azure-64, …; again for more.  [default: all]",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    help="Of what is replayed.  [default: .1 of Azure's batches, .5 of DLRM's applications]",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="The first seed.")
@click.option("--seeds", type=click.IntRange(1), default=3, help="How many seeds, from --seed on.")
@click.option("--nodes", type=click.IntRange(1), help="Size of the fleets.  [default: the least on which nobody waits]")
@click.option("--tuning", is_flag=True, help="The days before those that are judged.")
@QUIET
@OUTPUT
def empty_nodes_command(
    data: Path,
    set_ups: tuple[str, ...],
    share: float | None,
    seed: int,
    seeds: int,
    nodes: int | None,
    tuning: bool,
    quiet: bool,
    output: str,
) -> None:
    """Node-time that stays empty where nobody waits, by lifetimes: learned, and the true ones as the bound."""
    from simulator.reproduce.emptying import SET_UPS, run

    for name in set_ups:
        if name not in SET_UPS:
            raise ConfigError(f"--set-up {name}: there is none of that name; {nearest(name, list(SET_UPS))}")
    asked = [name for name in SET_UPS if name in set_ups or not set_ups]
    with progress("replaying", quiet=quiet) as advance:
        result = run(data, asked, range(seed, seed + seeds), advance, tuning=tuning, share=share, num_nodes=nodes)
    note_omitted(result["omitted"])
    shown = [
        {"set_up": name, "nodes": found["nodes"], "most_points": found["most_points"], **row}
        for name, found in result["set_ups"].items()
        for row in found["cells"]
    ]
    _emit(result, shown, output)


def _emit(result: dict[str, Any], rows: list[dict[str, Any]], output: str) -> None:
    shown = [{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    emit("Reproduction", result, shown, output)


def _options(command: Any) -> Any:
    for option in (
        DATA,
        click.option(
            "--share",
            type=click.FloatRange(0, 1, min_open=True),
            default=0.02,
            help="Of the arrivals that are replayed.",
        ),
        click.option("--days", type=click.IntRange(2), default=29, help="Length of a replay."),
        click.option("--warmup-days", type=click.IntRange(0), default=15, help="Days that are not measured."),
        click.option(
            "--cache", type=click.Path(path_type=Path), help="Keeps finished cells, to go on after an interruption."
        ),
        QUIET,
        OUTPUT,
    ):
        command = option(command)
    return command


@click.command("placement")
@_options
@click.option("--seeds", type=click.IntRange(1), default=3, help="How many seeds, from 0 on.")
@REPORT
@click.option("--model", type=click.Path(file_okay=False), default="", help="Folder of `ullage train`, or rule:NAME.")
def placement_command(
    data: Path,
    share: float,
    days: int,
    warmup_days: int,
    cache: Path | None,
    quiet: bool,
    output: str,
    seeds: int,
    report: Path | None,
    model: str,
) -> None:
    """Strategies with and without overcommit on the joined recipe: nodes, USD, violations, kills."""
    from simulator.reproduce import placement_page
    from simulator.reproduce.placement import Setting, run

    setting = Setting(warmup_days, days, model=model)
    with progress("replaying", quiet=quiet) as advance:
        result = run(data, share, setting, seeds=seeds, cache=cache, progress=advance)
    if report is not None:
        write_whole({report: placement_page.report(result["cells"])})
    _emit(result, result["summary"], output)


@click.command("adversaries")
@_options
@click.option("--seed", type=click.IntRange(0), default=0, help="Of everything random; the first one.")
@click.option("--seeds", type=click.IntRange(1), default=1, help="How many seeds, from --seed on.")
@click.option(
    "--at-day",
    type=click.IntRange(0),
    help="When the change comes. Default: a quarter of what is measured is before it.",
)
def adversaries_command(
    data: Path,
    share: float,
    days: int,
    warmup_days: int,
    cache: Path | None,
    quiet: bool,
    output: str,
    seed: int,
    seeds: int,
    at_day: int | None,
) -> None:
    """What breaks predictions, and whether the budget holds or the rung falls."""
    from simulator.reproduce.adversaries import run, shown
    from simulator.reproduce.placement import Setting

    setting = Setting(warmup_days, days)
    if at_day is None:
        at_day = min(days - 1, warmup_days + max(1, (days - warmup_days) // 4))
    with progress("replaying", quiet=quiet) as advance:
        result = run(data, share, setting, range(seed, seed + seeds), at_day=at_day, cache=cache, progress=advance)
    _emit(result, [shown(row) for row in result["cells"]] if seeds == 1 else result["summary"], output)
