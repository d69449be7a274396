"""``ullage simulate``, ``compare`` and ``strategies``.

What replays is imported where it is called: help and shell completion are to answer at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from placement.command_text import shown_command
from placement.errors import PlacementError
from placement.learning.horizons import HORIZONS
from simulator.cli.options import BAD_ROWS, OUTPUT, QUIET, REPORT
from simulator.output import emit, progress, render, write_whole

if TYPE_CHECKING:
    from placement.strategy import Strategy
    from simulator.comparison import Comparison, Question

DEFAULT_STRATEGIES = ("kube-default", "most-allocated", "best-fit", "priced")
STRATEGIES_HELP = f"Name or TOML file; see `ullage strategies`; repeat. Default: {', '.join(DEFAULT_STRATEGIES)}."


def _question_options(command: Any) -> Any:
    options = (
        click.option("--seeds", type=click.IntRange(1, 100_000), default=1, help="How many seeds."),
        click.option("--first-seed", type=click.IntRange(0), default=0, help="Seeds count up from here."),
        click.option(
            "--delivery",
            "deliveries",
            multiple=True,
            default=("decide",),
            help="How a decision arrives: decide, score, stock, nominate, or decide with some loss of a live one: "
            "decide+sampling, +rounding, +ties, +rounding+ties, +in-tree; repeat.",
        ),
        click.option(
            "--load",
            "loads",
            type=click.FloatRange(0, 10, min_open=True),
            multiple=True,
            help="Resample to a steady state at this offered GPU load, anew for every seed; repeat.",
        ),
        click.option(
            "--lifetimes",
            type=click.FloatRange(0, min_open=True),
            default=20.0,
            help="With --load: length of the replay, in mean lifetimes.",
        ),
        click.option(
            "--fleet",
            type=click.Choice(["trace", "elastic", "peak"]),
            default="trace",
            help="The trace's nodes; bought as needed; or fixed at the most that best-fit bought.",
        ),
        click.option(
            "--prices", type=click.Path(dir_okay=False), default="", help="Price book: ours, or a file of OpenCost's."
        ),
        click.option(
            "--spot-share",
            type=click.FloatRange(0, 1),
            default=0.0,
            help="With --fleet elastic: of the nodes that it buys.",
        ),
        click.option("--interruptions", type=click.FloatRange(0), default=0.0, help="Spot interruptions a node-hour."),
        click.option(
            "--warmup",
            "warmup_s",
            type=click.IntRange(0),
            default=0,
            help="Seconds at the start in which cost, shares and waits are not measured; pods count from the start.",
        ),
        click.option(
            "--until",
            type=click.Choice(["arrivals", "empty"]),
            default="arrivals",
            help="Stop at the last arrival, or when the last pod has left.",
        ),
        click.option("--fill", is_flag=True, help="Ignore departures, drop what does not fit (the ATC'23 protocol)."),
        click.option(
            "--mechanism",
            type=click.Choice(["none", "rightsized", "reclaimed"]),
            default="none",
            help="How to overcommit, on traces with usage: lower requests, or sell unused capacity to batch.",
        ),
        click.option(
            "--keep-namespace",
            "keep_namespaces",
            multiple=True,
            help="Whose pods keep their requests under the mechanism, as Guaranteed pods do; repeat.",
        ),
        click.option(
            "--model",
            type=click.Path(file_okay=False),
            default="",
            help="Folder of `ullage train` to forecast usage and lifetimes with, or rule:NAME, a baseline of usage such as "
            "rule:vpa-p95; default: the largest sample of seven days.",
        ),
        click.option("--horizon", type=click.Choice(HORIZONS), default="6h-peak", help="Of usage."),
        click.option(
            "--learn-lifetimes",
            is_flag=True,
            help="Learn during the replay how long pods live, as `ullage serve` does, for strategies that read it; "
            "a --model that tells of lifetimes does so as well.",
        ),
        click.option(
            "--siblings", is_flag=True, help="Predict new owners in their first day from others who looked alike."
        ),
        BAD_ROWS,
        REPORT,
        QUIET,
        OUTPUT,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _question(traces: tuple[str, ...], strategies: tuple[str, ...], given: dict[str, Any]) -> Question:
    """The question of all options that are left; whatever is named twice counts once."""
    from simulator.comparison import Question

    first, number = given.pop("first_seed"), given.pop("seeds")
    named: dict[str, Any] = {
        key: tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value for key, value in given.items()
    }
    return Question(
        traces=tuple(dict.fromkeys(traces)),
        strategies=tuple(dict.fromkeys(strategies)),
        seeds=tuple(range(first, first + number)),
        **named,
    )


@click.command()
@click.argument("trace")
@click.option("-s", "--strategy", required=True, help="Name or TOML file; see `ullage strategies`.")
@click.option(
    "--log",
    type=click.Path(file_okay=False),
    default="",
    help="Folder for the event log of the first seed: `ullage decisions from-log` makes records for `explain` of it.",
)
@_question_options
def simulate(trace: str, strategy: str, log: str, output: str, report: Path | None, quiet: bool, **given: Any) -> None:
    """Replay TRACE with one strategy.

    TRACE is a .ullage file, `demo`, or READER:PATH[:OPTION] such as openb:DIR:default.
    """
    _run(_question((trace,), (strategy,), given), output, report, quiet, jobs=1, cache="", log=log)


@click.command("compare")
@click.argument("traces", nargs=-1, required=True)
@click.option("-s", "--strategy", "strategies", multiple=True, help=STRATEGIES_HELP)
@click.option("-j", "--jobs", type=click.IntRange(0), default=0, help="Processes; 0 = one per core.")
@click.option("--cache", default=".cache/ullage", help="Finished cells are kept here; empty = keep none.")
@_question_options
def compare(
    traces: tuple[str, ...],
    strategies: tuple[str, ...],
    jobs: int,
    cache: str,
    output: str,
    report: Path | None,
    quiet: bool,
    **given: Any,
) -> None:
    """Replay TRACES with several strategies and report the difference.

    A trace is a .ullage file, `demo`, or READER:PATH[:OPTION] such as openb:DIR:default. The same command,
    interrupted and run again, goes on where it stopped.
    """
    question = _question(traces, strategies or DEFAULT_STRATEGIES, given)
    _run(question, output, report, quiet, jobs=jobs, cache=cache)


def _run(
    question: Question, output: str, report: Path | None, quiet: bool, *, jobs: int, cache: str, log: str = ""
) -> None:
    from placement.program import deciding_kernel
    from simulator.compare import compare as run_compare

    if log and any(Path(log).glob("*")):
        raise PlacementError(f"log {log}: the folder is not empty; choose another")
    command = shown_command(["ullage", *sys.argv[1:]])
    with progress("replaying", quiet=quiet, kernel=deciding_kernel()) as advance:
        result = run_compare(
            question, jobs=jobs, keep=Path(cache) if cache else None, command=command, progress=advance, log=log
        )
    if report:
        write_report(result, report)
        click.echo(f"report: {report}", err=True)
    if log:
        click.echo(
            f"log: {log}; to ask why: ullage decisions from-log {quote(str(log))}, then ullage explain pod/NAME -n NS",
            err=True,
        )
    for line in learned_notes(result):
        click.echo(line, err=True)
    if output == "table":
        click.echo(result.headline + "\n")
        if question.until == "empty":
            for line in never_placed(result):
                click.echo(line, err=True)
    click.echo(render(result.document(), short_rows(result), output))


def short_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The table people read on a terminal; what was not measured stays empty."""
    rows = []
    is_usd = comparison.question.fleet == "elastic"
    for line in comparison.summary:
        rows.append(
            {
                "trace": line["trace"],
                "strategy": line["strategy"],
                "GPU %": _percent(line["gpu_allocated_share"]),
                "CPU %": _percent(line["cpu_allocated_share"]),
                "placed": int(line["placed"] or 0),
                "p95 wait s": _whole(line["pending_s_p95"]),
                "USD/month": _whole(line["usd_per_month"]),
            }
        )
        if len(comparison.question.seeds) > 1:
            rows[-1] |= {"sd": line["sd"]} if is_usd else {"sd %": _percent(line["sd"])}
        if comparison.question.spot_share or comparison.question.interruptions:
            rows[-1] |= {
                "USD on demand": _whole(line["usd_on_demand"]),
                "USD spot": _whole(line["usd_spot"]),
                "evicted": line["evictions"],
                "lost pod-h": line["lost_pod_hours"],
            }
        if line["over_cpu_share"] is not None:
            rows[-1] |= {
                "over CPU %": _percent(line["over_cpu_share"]),
                "OOM kills": line["oom_kills"],
                "throttled core-h": line["throttled_core_hours"],
            }
    return rows


def learned_notes(comparison: Comparison) -> list[str]:
    """What a reader must know of what was learned, or remembered, in the replays."""
    found = dict.fromkeys((row["trace"], note) for row in comparison.rows for note in row.get("learned_notes", ()))
    return [f"note: {trace}: {note}" for trace, note in found]


def never_placed(comparison: Comparison) -> list[str]:
    """Which pods never found a place although the replay ran until everything had ended, first seed."""
    from simulator.comparison import label

    lines = []
    for row in comparison.rows:
        if row["seed"] != comparison.question.seeds[0] or not row["metrics"]["unplaced"]:
            continue
        unplaced, named = row["metrics"]["unplaced"], row["metrics"].get("unplaced_pods", [])
        num = sum(unplaced.values())
        why = ", ".join(f"{count} × {reason}" for reason, count in sorted(unplaced.items(), key=lambda item: -item[1]))
        more = f" and {num - len(named)} more" if num > len(named) else ""
        lines.append(
            f"{row['trace']}, {label(comparison.question, row)}: never placed ({why}): {', '.join(named)}{more}"
        )
    return lines


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def write_report(comparison: Comparison, path: Path) -> None:
    """HTML at ``path``, JSON and Markdown beside it: whole, or not at all."""
    from simulator.report import to_html, to_markdown

    texts = {
        path: to_html(comparison),
        path.with_suffix(".json"): render(comparison.document(), [], "json") + "\n",
        path.with_suffix(".md"): to_markdown(comparison),
    }
    write_whole(texts)


@click.group(invoke_without_command=True)
@click.pass_context
def strategies(context: click.Context) -> None:
    """List, describe and show strategies."""
    if context.invoked_subcommand is None:
        context.invoke(list_strategies, output="table")


@strategies.command("list")
@OUTPUT
def list_strategies(output: str) -> None:
    """Every strategy that ships."""
    from placement.strategies import STRATEGIES

    rows = [
        {"name": s.name, "kind": s.kind, "ties": s.ties, "digest": s.digest, "description": s.description}
        for s in STRATEGIES.values()
    ]
    shown = [{key: cell for key, cell in row.items() if key != "digest"} for row in rows]
    emit("StrategyList", {"items": rows}, shown, output)
    if output == "table":
        click.echo("\nsee them at work: ullage compare TRACE -s kube-default -s priced -s ullage", err=True)


@strategies.command("describe")
@click.argument("strategy", metavar="NAME")
@OUTPUT
def describe(strategy: str, output: str) -> None:
    """What a strategy adds up, in words; exact weights and parameters with -o json."""
    from placement.strategies import strategy_named

    found = strategy_named(strategy)
    terms = _terms(found)
    if output == "table":
        click.echo("\n".join(_in_words(found, terms)))
        return
    document = {
        "name": found.name,
        "description": found.description,
        "scores": found.kind,
        "devices": found.devices,
        "ties": found.ties,
        "soft": found.soft,
        "reads": _read(found),
        "digest": found.digest,
        "terms": terms,
    }
    rows = [{key: value for key, value in term.items() if key != "parameters"} for term in terms]
    emit("Strategy", document, rows, output)


def _terms(strategy: Strategy) -> list[dict[str, Any]]:
    """Everything that a strategy adds up, and when."""

    has_cases = strategy.leaving or strategy.bare
    cases = (
        ("else" if has_cases else "always", strategy.scorers),
        ("once pods have been seen to leave", strategy.leaving),
        ("where none of the pods asks for a device", strategy.bare),
    )
    return [
        {
            "when": when,
            "weight": weighted.weight,
            "scorer": weighted.name,
            "adds": (type(weighted.scorer).__doc__ or "").strip().splitlines()[0].replace("``", "`"),
            "parameters": weighted.parameters,
        }
        for when, terms in cases
        for weighted in terms
    ]


def _in_words(strategy: Strategy, terms: list[dict[str, Any]]) -> list[str]:
    lines = [f"{strategy.name}: {strategy.description}", ""]
    when = terms[0]["when"]
    for term in terms:
        if term["when"] != when:
            when = term["when"]
            lines += ["", f"  {when}, instead:"]
        lines.append(f"  {readable_weight(term['weight'])} × {term['scorer']}: {term['adds']}")
    if any(readable_weight(term["weight"]).endswith("Mi") for term in terms):
        lines += ["", "  Mi = 2^20, what costs in fixed point count as one; -o json has the whole numbers"]
    soft = "added" if strategy.soft else "not added"
    lines += ["", f"  devices: {strategy.devices}; ties: {strategy.ties}; kube-scheduler's soft rules: {soft}"]
    if _read(strategy):
        lines.append(f"  reads what was learned: {', '.join(_read(strategy))}")
    return [*lines, f"  digest: {strategy.digest}"]


def _read(strategy: Strategy) -> list[str]:
    """What of all that is learned a strategy reads."""
    return [*strategy.needs, *["predicted use"] * strategy.reads_usage, *["lifetimes"] * strategy.reads_lifetimes]


def readable_weight(weight: int) -> str:
    """A weight with its sign; whole multiples of 2^20 as Kubernetes writes them, ``+640Mi``."""
    from placement.scorers import COST_UNIT

    return f"{weight // COST_UNIT:+,d}Mi" if weight and weight % COST_UNIT == 0 else f"{weight:+,d}"


@strategies.command("show")
@click.argument("strategy", metavar="NAME")
def show(strategy: str) -> None:
    """A strategy as TOML, to change and pass back with --strategy FILE.toml."""
    from placement.strategies import strategy_named, strategy_to_toml

    click.echo(strategy_to_toml(strategy_named(strategy)), nl=False)
