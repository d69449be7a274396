"""Commands about learning: ``ullage train`` and ``evaluate``."""

from __future__ import annotations

import difflib
import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from placement.command_text import shown_command
from placement.errors import ConfigError
from simulator.cli.options import BEGINS, OUTPUT, QUIET, REPORT, SEED
from simulator.output import FORMATS, check_folder, emit, progress, write_whole

if TYPE_CHECKING:
    from placement.learning.baselines import Target


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
    from simulator.workers import require

    model, output = _folder_and_format(model, output)
    check_folder(model)
    require("lightgbm")
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
    judging = shlex.join(["ullage", "evaluate", trace, "-m", str(model), "--report", "accuracy.html"])
    click.echo(f"model: {model}; judge it with: {judging}", err=True)
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
