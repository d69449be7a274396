"""Commands about learning: ``ullage train``, ``evaluate``, ``reproduce forecast|eurosys21|packing|lifetimes``."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from placement.baselines import Target
from placement.errors import ConfigError
from placement.strategies import nearest
from simulator.output import API_VERSION, FORMATS, output_option, progress, render, write_whole

DATA = click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of recorded traces.",
)


class UsageTrace(click.Path):
    """A folder of recorded usage, a ``.ullage`` file, or ``demo``, as everywhere a trace is named."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """The path that is meant."""
        if value == "demo":
            from simulator.sources import DEMO

            return DEMO
        return super().convert(value, param, context)


USAGE = UsageTrace(exists=True, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
SEEDS = click.option(
    "--seeds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many seeds, from --seed on: figures are means, `spread` holds least and most.",
)
QUIET = click.option("-q", "--quiet", is_flag=True, help="No progress.")


def _say(quiet: bool) -> Callable[[str], None]:
    start = time.monotonic()

    def say(message: str) -> None:
        if not quiet:
            click.echo(f"{time.monotonic() - start:7.1f} s  {message}", err=True)

    return say


def _target(text: str) -> Target:
    hours, _, statistic = text.partition("-")
    if not hours.endswith("h") or not hours[:-1].isdigit() or statistic not in ("peak", "p95") or int(hours[:-1]) < 1:
        raise ConfigError(f"horizon {text!r} is not understood; write 1h-peak, 6h-p95, 24h-peak …")
    return Target(int(hours[:-1]), statistic)


def _folder_and_format(model: Path | None, output: str) -> tuple[Path, str]:
    """``-o`` names a format, or else the model folder, if ``--model`` does not."""
    if output in FORMATS:
        if model is None:
            raise click.UsageError("Missing option '-m' / '--model': the folder to write.")
        return model, output
    if model is not None:
        raise click.UsageError(
            f"-o {output!r} is no format ({', '.join(FORMATS)}), and --model names the folder already."
        )
    close = difflib.get_close_matches(output, FORMATS, 1, 0.7)
    if close:
        raise click.UsageError(f"-o {output!r}: did you mean {close[0]!r}? A folder of that name is ./{output}.")
    return FOLDER.convert(output, None, None), "table"


def _emit(kind: str, document: Mapping[str, Any], rows: list[dict[str, Any]], output: str) -> None:
    click.echo(render({"apiVersion": API_VERSION, "kind": kind, **document}, rows, output))


@click.command()
@click.argument("trace", type=USAGE)
@click.option("-m", "--model", type=FOLDER, help="Folder to write; `-o MODEL` does as well.  [required]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option(
    "--horizon", "horizons", multiple=True, help="Such as 6h-peak; repeat. Default: 1, 6 and 24 h, peak and p95."
)
@click.option("--rows", type=click.IntRange(1000), default=30_000, show_default=True, help="Samples per model.")
@QUIET
@click.option(
    "-o",
    "--output",
    metavar=f"[{'|'.join(FORMATS)}|MODEL]",
    default="table",
    show_default=True,
    help="Format on standard output; anything else is the folder to write.",
)
def train(
    trace: Path, model: Path | None, seed: int, horizons: tuple[str, ...], rows: int, quiet: bool, output: str
) -> None:
    """Learn usage from TRACE, a folder of recorded usage or a file of `ullage record`, and write models with a card."""
    from simulator.training import Effort
    from simulator.training import train as run_training
    from simulator.usage_readers import read_usage

    model, output = _folder_and_format(model, output)
    targets = [_target(text) for text in horizons]
    series = read_usage(trace)
    for what, count in series.repairs:
        click.echo(f"note: {what}: {count}", err=True)
    with progress(f"training on {series.name}", quiet=quiet) as advance:
        trained = run_training(
            series, model, seed=seed, effort=Effort(rows, max(2000, rows // 4), by_weight=True), targets=targets,
            created_s=int(time.time()), progress=lambda _name, done, total: advance(done, total),
        )  # fmt: skip
    table = [
        {
            "task": f"{t.resource}-{t.target.name}",
            "baseline": t.baseline,
            "scale": f"{t.scale:.3f}",
            "weight of model": f"{sum(t.weights):.2f}",
            "calibration": f"{t.calibration:.3f}",
            **{k: f"{v:.4f}" for k, v in t.metrics.items() if k.endswith("unseen")},
        }
        for t in trained
    ]
    document = json.loads((model / "card.json").read_text(encoding="utf-8"))
    _emit("ModelCard", document, table, output)


@click.command()
@click.argument("trace", type=USAGE)
@click.option(
    "-m",
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of `ullage train`.",
)
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML report here.")
@QUIET
@output_option
def evaluate(trace: Path, model: Path, report: Path | None, quiet: bool, output: str) -> None:
    """Judge a model on the last third of TRACE (a usage folder, or of `ullage record`), beside every rival and the oracle."""
    from simulator.accuracy import evaluate as judge
    from simulator.accuracy import html, table_rows
    from simulator.cli import check_writable
    from simulator.usage_readers import read_usage

    if report is not None:
        check_writable(report)
    series = read_usage(trace)
    with progress(f"evaluating on {series.name}", quiet=quiet) as advance:
        result = judge(series, model, progress=lambda _name, done, total: advance(done, total))
    if report is not None:
        write_whole({report: html(result)})
        click.echo(f"report: {report}", err=True)
    _emit("Accuracy", result, table_rows(result), output)


@click.command("forecast")
@DATA
@click.option("--seed", type=int, default=7, show_default=True, help="Of everything random.")
@click.option("--only", multiple=True, help="Only tasks whose name contains this; repeat.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Leave each task's result here, and take those that are there (same data, code and seed).",
)
@QUIET
@output_option
def reproduce_forecast(
    data: Path, seed: int, only: tuple[str, ...], keep: Path | None, quiet: bool, output: str
) -> None:
    """Learned 95 % quantiles against every baseline, on unseen workloads and later days."""
    from simulator.reproduce_forecast import run

    result = run(data, seed=seed, only=only, keep=keep, progress=_say(quiet))
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
    _emit("Reproduction", result, rows, output)
    if output == "table":
        click.echo(f"\ngeomean {result['geomean']:.3f}  worst {result['worst']:.3f}  vs VPA {result['vs_vpa']:.3f}")


@click.command("eurosys21")
@DATA
@click.option("--seed", type=int, default=11, show_default=True, help="Of everything random.")
@SEEDS
@QUIET
@output_option
def reproduce_eurosys21(data: Path, seed: int, seeds: int, quiet: bool, output: str) -> None:
    """Node peaks over 24 h: savings at 1 % violations (EuroSys'21), ours, and reclaimable capacity."""
    from simulator.reproduce_eurosys import run

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
    _emit("Reproduction", result, rows, output)
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
@click.option("--seed", type=int, default=3, show_default=True, help="Of everything random.")
@click.option("--draws", type=click.IntRange(0), default=0, help="Repeat on this many draws of four fifths of the VMs.")
@click.option(
    "--only", multiple=True, metavar="TASK", help="bitbrains-cpu, bitbrains-cpu-memory or planetlab-cpu; repeat."
)
@QUIET
@output_option
def reproduce_packing(data: Path, seed: int, draws: int, only: tuple[str, ...], quiet: bool, output: str) -> None:
    """Nodes needed at no more than 1 % overloaded node-time: requests, tuned baselines, ours, the oracle."""
    from simulator.reproduce_packing import TASKS, run

    for task in only:
        if task not in TASKS:
            raise ConfigError(f"unknown task {task!r}; {nearest(task, list(TASKS))}")
    result = run(data, seed=seed, draws=draws, only=only, progress=_say(quiet))
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
    _emit("Reproduction", result, rows, output)
    if output == "table":
        for task, found in result["tasks"].items():
            click.echo(f"{task}: {found['gap_closed']:.1%} of the gap from {found['best_history']} to the oracle")


@click.command("lifetimes")
@DATA
@click.option("--seed", type=int, default=5, show_default=True, help="Of everything random.")
@QUIET
@output_option
def reproduce_lifetimes(data: Path, seed: int, quiet: bool, output: str) -> None:
    """Class of lifetime at arrival by owner, against simple owner and sibling rules."""
    from simulator.reproduce_lifetimes import run

    result = run(data, seed=seed, progress=_say(quiet))
    rows = []
    for trace in ("dlrm", "azure"):
        for name, entry in {"ullage": result[trace]["model"], **result[trace]["rules"]}.items():
            rows.append(
                {
                    "trace": trace,
                    "rule": name,
                    "accuracy": f"{entry['accuracy']:.3f}",
                    "C-index": f"{entry['c_index']:.3f}",
                }
            )
    _emit("Reproduction", result, rows, output)


@click.command("cold-start")
@DATA
@click.option("--seed", type=int, default=9, show_default=True, help="Of everything random.")
@SEEDS
@QUIET
@output_option
def reproduce_cold_start(data: Path, seed: int, seeds: int, quiet: bool, output: str) -> None:
    """The next six hours after 15, 60 and 180 minutes of history, against tuned simple rules."""
    from simulator.reproduce_cold_start import run

    result = run(data, seed=seed, seeds=seeds, progress=_say(quiet))
    spread = result.get("spread", {}).get("history", {})
    rows = [
        {
            "history": name,
            "model": f"{entry['model']:.4f}",
            "best rule": _texts(entry["best_rule"]),
            "its pinball": f"{entry['best_rule_pinball']:.4f}",
            "ratio": f"{entry['ratio']:.3f}",
            "coverage": f"{entry['coverage']:.3f}",
            **{
                f"{key}, seeds": f"{spread[name][key]['least']:.3f}–{spread[name][key]['most']:.3f}"
                for key in ("ratio", "coverage")
                if name in spread
            },
        }
        for name, entry in result["history"].items()
    ]
    rows += [
        {
            "history": f"siblings, {name}",
            "model": f"{entry['pinball']:.4f}",
            "best rule": "request",
            "its pinball": f"{entry['request_pinball']:.4f}",
            "ratio": f"{entry['ratio']:.3f}",
            "coverage": f"{entry['coverage']:.3f}",
        }
        for name, entry in result["siblings"].items()
        if entry["workloads"]
    ]
    _emit("Reproduction", result, rows, output)
