"""``ullage reproduce forecast|eurosys21|packing|lifetimes|cold-start``: what is learned, held against the best rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from placement.errors import ConfigError, nearest
from simulator.cli.options import DATA, OUTPUT, QUIET
from simulator.output import emit

if TYPE_CHECKING:
    from simulator.reproduce.parts import Progress

SEEDS = click.option(
    "--seeds",
    type=click.IntRange(1),
    default=1,
    help="How many seeds, from --seed on: figures are means, `spread` holds least and most.",
)


def _say(quiet: bool, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Prints messages with the time so far; where they end a part, how many are done, and the time left too."""
    start = began = last = clock()
    whole = 0

    def say(message: str, done: int = 0, total: int = 0, /) -> None:
        nonlocal began, last, whole
        now = clock()
        if total:
            if total != whole or done == 1:
                whole, began = total, last
            message += f" ({done} of {total})"
            if done < total:
                message += f", about {(now - began) / done * (total - done):.0f} s left"
            last = now
        if not quiet:
            click.echo(f"{now - start:7.1f} s  {message}", err=True)

    return say


def note_omitted(omitted: Mapping[str, str]) -> None:
    """Say what is left out, and why; what has one cause is told together."""
    for why in dict.fromkeys(omitted.values()):
        names = [name for name, cause in omitted.items() if cause == why]
        click.echo(f"note: left out: {', '.join(names)}: {why}", err=True)


@click.command("forecast")
@DATA
@click.option("--seed", type=click.IntRange(0), default=7, help="Of everything random.")
@click.option("--only", multiple=True, help="Only tasks whose name contains this; repeat.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Leave each task's result here, and take those that are there (same data, version and seed).",
)
@QUIET
@OUTPUT
def reproduce_forecast(
    data: Path, seed: int, only: tuple[str, ...], keep: Path | None, quiet: bool, output: str
) -> None:
    """Learned 95 % quantiles against every baseline, on unseen workloads and later days."""
    from simulator.reproduce.forecast import run

    result = run(data, seed=seed, only=only, keep=keep, progress=_say(quiet))
    note_omitted(result["omitted"])
    rows = [
        {
            "task": name,
            "model": f"{t['model']:.4f}",
            "best baseline": t["best_baseline_name"],
            "its pinball": f"{t['best_baseline']:.4f}",
            "ratio": f"{t['ratio']:.3f}",
            "coverage": f"{t['coverage']:.3f}",
            "interval": f"{t['coverage_low']:.3f}–{t['coverage_high']:.3f}",
        }
        for name, t in result["tasks"].items()
    ]
    emit("Reproduction", result, rows, output)
    if output == "table":
        click.echo(
            f"\ngeomean {result['geomean']:.3f}  worst {result['worst']:.3f}  vs VPA {result['vs_vpa']:.3f} "
            f"(with its floors {result['vs_vpa_floors']:.3f})"
        )


@click.command("eurosys21")
@DATA
@click.option("--seed", type=click.IntRange(0), default=11, help="Of everything random.")
@SEEDS
@QUIET
@OUTPUT
def reproduce_eurosys21(data: Path, seed: int, seeds: int, quiet: bool, output: str) -> None:
    """Node peaks over 24 h: savings at 1 % violations (EuroSys'21), ours, and reclaimable capacity."""
    from simulator.reproduce.eurosys import run

    result = run(data, seed=seed, seeds=seeds, progress=_say(quiet))
    violations = result["violations"]
    rows = [
        {
            "predictor": name,
            "savings at 1 %": f"{value:.3f}",
            "violations, knob from the past": f"{violations[name]:.4f}",
        }
        for name, value in sorted(result["savings_at_1pct"].items(), key=lambda item: -item[1])
    ]
    emit("Reproduction", result, rows, output)
    if output == "table":
        click.echo(f"\ngap closed from {_texts(result['best_history'])} to the oracle: {_with_spread(result)}")


def _texts(value: str | list[str]) -> str:
    """A text, or those of several seeds."""
    return value if isinstance(value, str) else ", ".join(dict.fromkeys(value))


def _with_spread(result: Mapping[str, Any]) -> str:
    spread = result.get("spread", {}).get("gap_closed")
    mean = f"{result['gap_closed']:.1%}"
    return f"{mean} (seeds: {spread['least']:.1%} to {spread['most']:.1%})" if spread else mean


@click.command("packing")
@DATA
@click.option("--seed", type=click.IntRange(0), default=3, help="Of everything random.")
@click.option("--draws", type=click.IntRange(0), default=0, help="Repeat on this many draws of four fifths of the VMs.")
@click.option(
    "--only", multiple=True, metavar="TASK", help="bitbrains-cpu, bitbrains-cpu-memory or planetlab-cpu; repeat."
)
@QUIET
@OUTPUT
def reproduce_packing(data: Path, seed: int, draws: int, only: tuple[str, ...], quiet: bool, output: str) -> None:
    """Nodes needed at no more than 1 % overloaded node-time: requests, tuned baselines, ours, the oracle."""
    from simulator.reproduce.packing import TASKS, run

    for task in only:
        if task not in TASKS:
            raise ConfigError(f"unknown task {task!r}; {nearest(task, list(TASKS))}")
    result = run(data, seed=seed, draws=draws, only=only, progress=_say(quiet))
    note_omitted(result["omitted"])
    rows = [
        {
            "task": task,
            "policy": n,
            "knob": f"{e['knob']:.2f}",
            "nodes": f"{e['nodes']:.2f}",
            "violations": f"{e['violations']:.4f}",
        }
        for task, found in result["tasks"].items()
        for n, e in found["policies"].items()
    ]
    emit("Reproduction", result, rows, output)
    if output == "table":
        for task, found in result["tasks"].items():
            click.echo(f"{task}: {found['gap_closed']:.1%} of the gap from {found['best_history']} to the oracle")


@click.command("lifetimes")
@DATA
@click.option("--seed", type=click.IntRange(0), default=5, help="Of everything random.")
@QUIET
@OUTPUT
def reproduce_lifetimes(data: Path, seed: int, quiet: bool, output: str) -> None:
    """Class of lifetime at arrival by owner, against simple owner and sibling rules."""
    from simulator.reproduce.lifetimes import run

    result = run(data, seed=seed, progress=_say(quiet))
    note_omitted(result["omitted"])
    rows = []
    for trace in (name for name in ("dlrm", "azure") if name in result):
        ours = {"ullage": "model", "without the guard": "unguarded", "its hazards": "hazards", "history": "history"}
        named = {name: result[trace][key] for name, key in ours.items()}
        for name, entry in {**named, **result[trace]["rules"]}.items():
            rows.append(
                {
                    "trace": trace,
                    "rule": name,
                    "accuracy": f"{entry['accuracy']:.3f}",
                    "C-index": f"{entry['c_index']:.3f}",
                }
            )
    emit("Reproduction", result, rows, output)


@click.command("cold-start")
@DATA
@click.option("--seed", type=click.IntRange(0), default=9, help="Of everything random.")
@SEEDS
@QUIET
@OUTPUT
def reproduce_cold_start(data: Path, seed: int, seeds: int, quiet: bool, output: str) -> None:
    """The next six hours after 15, 60 and 180 minutes of history, against tuned simple rules."""
    from simulator.reproduce.cold_start import run

    result = run(data, seed=seed, seeds=seeds, progress=_say(quiet))
    note_omitted(result["omitted"])
    spread = result.get("spread", {}).get("history", {})
    rows = [
        {
            "history": name,
            "model": f"{entry['model']:.4f}",
            "best rule": _texts(entry["best_rule"]),
            "its pinball": f"{entry['best_rule_pinball']:.4f}",
            "ratio": f"{entry['ratio']:.3f}",
            "fitted once": f"{entry['fitted_once']['ratio']:.3f}",
            "to own and owner": f"{entry['ratio_to_mixed_rule']:.3f}",
            "coverage": f"{entry['coverage']:.3f}",
            **{
                f"{key}, seeds": f"{spread[name][key]['least']:.3f}–{spread[name][key]['most']:.3f}"
                for key in ("ratio", "coverage")
                if name in spread
            },
        }
        for name, entry in result["history"].items()
    ]
    siblings = dict(result["siblings"])
    siblings |= {
        f"{day}, {at}": of for day, entry in result["siblings"].items() for at, of in entry["first_hour"].items()
    }
    rows += [
        {
            "history": f"siblings, {name}",
            "model": f"{entry['pinball']:.4f}",
            "best rule": "request",
            "its pinball": f"{entry['request_pinball']:.4f}",
            "ratio": f"{entry['ratio']:.3f}",
            "fitted once": "",
            "to own and owner": "",
            "coverage": f"{entry['coverage']:.3f}",
        }
        for name, entry in sorted(siblings.items())
        if entry["workloads"]
    ]
    emit("Reproduction", result, rows, output)
