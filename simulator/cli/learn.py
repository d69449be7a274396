"""Commands about learning: ``ullage train``, ``evaluate``, ``reproduce forecast|eurosys21|packing|lifetimes``."""

from __future__ import annotations

import difflib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from placement.command_text import shown_command
from placement.errors import ConfigError, nearest
from simulator.cli.options import BEGINS, DATA, OUTPUT, QUIET, REPORT, SEED
from simulator.output import FORMATS, check_folder, emit, progress, write_whole

if TYPE_CHECKING:
    from placement.learning.baselines import Target
    from simulator.reproduce.parts import Progress


class LearnTrace(click.Path):
    """A folder of recorded usage, or a trace as everywhere one is named: ``.ullage``, ``demo``, ``READER:PATH``."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """The text as it is, once the path in it exists."""
        from simulator.traces.sources import READERS

        reader, _, rest = str(value).partition(":")
        path = rest.partition(":")[0] if rest and reader in READERS else value
        if value != "demo":
            super().convert(path, param, context)
        return str(value)


LEARN = LearnTrace(exists=True)
FOLDER = click.Path(file_okay=False, path_type=Path)
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


def _target(text: str) -> Target:
    from placement.learning.baselines import Target

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


def lifetime_rows(ages: Mapping[str, Any]) -> list[dict[str, str]]:
    """Lifetimes for a terminal."""
    from simulator.learning.lifetime_accuracy import rows_of

    return rows_of(ages)


@click.command()
@click.argument("trace", type=LEARN)
@click.option("-m", "--model", type=FOLDER, help="Folder to write; `-o MODEL` does as well.  [required]")
@SEED
@click.option(
    "--horizon", "horizons", multiple=True, help="Such as 6h-peak; repeat. Default: 1, 6 and 24 h, peak and p95."
)
@click.option("--rows", type=click.IntRange(1000), default=30_000, help="Samples per model.")
@click.option(
    "--refit/--no-refit",
    default=True,
    help="Serve models that were fitted again on all of TRACE, after they were judged; or those that were judged.",
)
@BEGINS
@QUIET
@click.option(
    "-o",
    "--output",
    metavar=f"[{'|'.join(FORMATS)}|MODEL]",
    default="table",
    help="Format on standard output; anything else is the folder to write.",
)
def train(
    trace: str,
    model: Path | None,
    seed: int,
    horizons: tuple[str, ...],
    rows: int,
    refit: bool,
    begins_s: int | None,
    quiet: bool,
    output: str,
) -> None:
    """Learn from TRACE what workloads use, how long pods live, or both, and write models with a card.

    TRACE is a folder of recorded usage, a file of `ullage record`, or a trace with arrivals and ends as for `ullage simulate`.
    """
    from simulator.learning.recordings import read_learnable
    from simulator.learning.recordings import train as run_training
    from simulator.learning.training import Effort

    model, output = _folder_and_format(model, output)
    check_folder(model)
    targets = [_target(text) for text in horizons]
    source = read_learnable(trace, begins_s)
    for what, count in () if source.usage is None else source.usage.repairs:
        click.echo(f"note: {what}: {count}", err=True)
    with progress(f"training on {source.name}", quiet=quiet) as advance:
        learned = run_training(
            source, model, seed=seed, effort=Effort(rows, max(2000, rows // 4), by_weight=True), targets=targets,
            created_s=int(time.time()), progress=advance,
            refit=refit,
        )  # fmt: skip
    for note in learned.notes:
        click.echo(f"note: {note}", err=True)
    if refit:
        click.echo("note: figures are of before the last fit; what is served was then fitted on all of it", err=True)
    click.echo(f"model: {model}; judge it with: ullage evaluate {trace} -m {model} --report accuracy.html", err=True)
    for verdict in learned.verdicts:
        click.echo(f"{'warning' if verdict.is_behind else 'note'}: {verdict.words}", err=True)
    table = [
        {
            "task": t.name,
            "baseline": t.baseline,
            "scale": f"{t.scale:.3f}",
            "weight of model": f"{sum(t.served.weights):.2f}",
            "calibration": f"{t.served.calibration:.3f}",
            **{k: f"{v:.4f}" for k, v in t.metrics.items() if k.endswith("unseen")},
        }
        for t in learned.usage
    ]
    document = json.loads((model / "card.json").read_text(encoding="utf-8"))
    lives = [] if learned.lifetimes is None else lifetime_rows(learned.lifetimes.section["metrics"])
    _emit_both("ModelCard", document, table, lives, output)


def _emit_both(
    kind: str,
    document: Mapping[str, Any],
    usage: list[dict[str, Any]],
    lifetimes: list[dict[str, str]],
    output: str,
) -> None:
    """Two tables, where both were learned; one document, and one of CSV with the columns of both."""
    if output == "csv" and usage and lifetimes:
        columns = dict.fromkeys((*usage[0], *lifetimes[0]), "")
        emit(kind, document, [{**columns, **row} for row in (*usage, *lifetimes)], output)
        return
    if usage or not lifetimes:
        emit(kind, document, usage, output)
    if lifetimes and (output not in ("json", "yaml") or not usage):
        click.echo("\n" * bool(usage), nl=False)
        emit(kind, document, lifetimes, output)


@click.command()
@click.argument("trace", type=LEARN)
@click.option(
    "-m",
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of `ullage train`.",
)
@REPORT
@BEGINS
@QUIET
@OUTPUT
def evaluate(trace: str, model: Path, report: Path | None, begins_s: int | None, quiet: bool, output: str) -> None:
    """Judge a model on the last third of TRACE (as for `ullage train`), beside every rival and the oracle.

    Nothing is judged that a model was fitted on: on the recording that it was trained on those are judged that were
    not yet fitted again, else only what came later.
    """
    from simulator.learning.accuracy import headline, html, table_rows
    from simulator.learning.recordings import evaluate as judge
    from simulator.learning.recordings import read_learnable

    source = read_learnable(trace, begins_s)
    with progress(f"evaluating on {source.name}", quiet=quiet) as advance:
        result = judge(source, model, progress=advance)
    for note in result.get("notes", ()):
        click.echo(f"note: {note}", err=True)
    if report is not None:
        write_whole({report: html(result, shown_command(["ullage", *sys.argv[1:]]))})
        click.echo(f"report: {report}", err=True)
    lives = lifetime_rows(result["lifetimes"]["ages"]) if "lifetimes" in result else []
    if output == "table":
        said = headline(result)
        click.echo(f"{said[:1].upper()}{said[1:]}.\n")
    _emit_both("Accuracy", result, table_rows(result), lives, output)


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
