"""``ullage trace``: look at, check, convert, cut and make traces."""

from __future__ import annotations

import difflib
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from placement.errors import ConfigError, nearest
from simulator.cli.options import BAD_ROWS, BEGINS, OUTPUT, SEED, moment
from simulator.output import emit, write_whole
from simulator.traces.churn import Churn, resample
from simulator.traces.lanl import read_failures
from simulator.traces.sources import BUNDLED, open_trace, trace_of_service
from simulator.traces.synth import Recipe, synthesise
from simulator.traces.trace import Trace, check_begin
from simulator.traces.trace_facts import facts_of, rows_of, workload_of
from simulator.traces.validate import RULES, fixed, take, validate


def _no_bundled(_context: click.Context, _argument: click.Parameter, target: Path) -> Path:
    """The file to write; not one that every command would take for the bundled trace."""
    if str(target) == BUNDLED:
        raise click.BadParameter(f"`{target}` is the bundled trace's name; call the file {target}.ullage.")
    return target


SOURCE = click.argument("source", metavar="TRACE")
TARGET = click.argument("target", type=click.Path(dir_okay=False, path_type=Path), callback=_no_bundled)


class _Commands(click.Group):
    """Says how to look at a trace where one was named instead of a command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it."""
        word = args[0]
        if word not in self.commands and not ctx.resilient_parsing:
            is_near = difflib.get_close_matches(word, [*self.commands, BUNDLED], 1) == [BUNDLED]
            named = BUNDLED if is_near else word if ":" in word or Path(word).is_file() else ""
            if named:
                raise click.UsageError(f"No such command '{word}'. To look at a trace: ullage trace info {named}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands)
def trace() -> None:
    """Make, check, convert and look at traces.

    TRACE is a .ullage file, `demo`, or READER:PATH[:OPTION], such as openb:DIR:default.
    """


@trace.command()
@SOURCE
@click.option(
    "--workload",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write its workload here, for `ullage serve --workload`.",
)
@BAD_ROWS
@OUTPUT
def info(source: str, workload: Path | None, skip_bad_rows: bool, output: str) -> None:
    """What is in a trace."""
    found = open_trace(source, skip_bad_rows=skip_bad_rows)
    if workload is not None:
        write_whole(
            {workload: msgspec.json.format(msgspec.json.encode(workload_of(found))).decode() + "\n"}, "workload"
        )
        click.echo(f"wrote {workload}", err=True)
    facts = facts_of(found)
    emit("TraceInfo", facts, rows_of(facts), output)


@trace.command("validate")
@click.argument("source", metavar="TRACE|explain")
@click.argument(
    "code",
    required=False,
    shell_complete=lambda _context, _code, begun: [r.code for r in RULES if r.code.startswith(begun.upper())],
)
@click.option("--fix", "fix_to", type=click.Path(dir_okay=False, path_type=Path), help="Write a mended copy here.")
@BAD_ROWS
@OUTPUT
def validate_trace(source: str, code: str | None, fix_to: Path | None, skip_bad_rows: bool, output: str) -> None:
    """Check a trace by coded rules (exit 1 if an error is found), or `validate explain CODE` (without CODE: all of them)."""
    if source == "explain":
        click.echo(explain_rule(code) if code else "\n".join(f"{r.code}  {r.severity:8} {r.title}" for r in RULES))
        return
    if code is not None:
        raise click.UsageError(f"one trace at a time; what is {code!r}?")
    found = open_trace(source, skip_bad_rows=skip_bad_rows, check=False)
    if fix_to is not None:
        found, codes = fixed(found)
        found.save(fix_to)
        click.echo(f"mended {', '.join(codes) or 'nothing'}; wrote {fix_to}", err=True)
    findings = validate(found)
    rows = [asdict(finding) for finding in findings]
    if not rows:
        click.echo(f"no findings ({len(RULES)} rules)", err=True)
    if rows or output != "table":
        emit("Findings", {"findings": rows}, rows, output)
    if any(finding.severity == "error" for finding in findings):
        raise click.exceptions.Exit(1)


def explain_rule(code: str) -> str:
    """What a code means and how to mend it."""
    rule = next((r for r in RULES if r.code == code.upper()), None)
    if rule is None:
        raise ConfigError(f"unknown code {code!r}; {nearest(code.upper(), [r.code for r in RULES])}")
    mends = "yes" if rule.repair is not None else "no"
    return f"{rule.code} ({rule.severity}): {rule.title}\nWhat to do: {rule.fix}\nMended by --fix: {mends}"


@trace.command()
@SOURCE
@TARGET
@click.option("--prices", type=click.Path(path_type=Path), help="Price book CSV to keep in the trace.")
@BEGINS
@BAD_ROWS
def convert(source: str, target: Path, prices: Path | None, begins_s: int | None, skip_bad_rows: bool) -> None:
    """Write any trace in the native format."""
    found = open_trace(source, skip_bad_rows=skip_bad_rows)
    if begins_s is not None:
        check_begin(found.manifest.name, found.manifest.has_calendar)
        found = found.but(manifest=replace(found.manifest, begins_s=begins_s))
    if prices is not None:
        from simulator.cost import PriceBook, read_price_book

        book = read_price_book(prices)
        found = found.but(prices=tuple(book.shapes.values()))
        if replace(book, shapes={}) != PriceBook():
            click.echo(
                "note: a trace keeps shapes for sale, and neither rates, prices of other instance types nor reservations; "
                "give --prices to each command that is to know them",
                err=True,
            )
    found.save(target)
    click.echo(f"wrote {target}: {len(found.pods):,} pods, {len(found.nodes):,} nodes, digest {found.digest}", err=True)


@trace.command("from-log")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@TARGET
def from_log(source: Path, target: Path) -> None:
    """Make a trace of what happened live. SOURCE is the service's log folder or a bundle."""
    found = trace_of_service(source).but(events=())
    found.save(target)
    notes = "; ".join(found.manifest.notes)
    click.echo(f"wrote {target}: {len(found.pods):,} pods, {len(found.nodes):,} nodes; {notes}", err=True)


@trace.command("slice")
@SOURCE
@TARGET
@click.option(
    "--from", "from_s", metavar="SPAN", callback=moment, default="0", help="First arrival, such as 6h, or seconds."
)
@click.option("--to", "to_s", metavar="SPAN", callback=moment, help="Last arrival, exclusive, such as 12h, or seconds.")
@click.option("--pods", "num_pods", type=click.IntRange(1), help="At most so many pods, from the start.")
@click.option("--nodes", "num_nodes", type=click.IntRange(1), help="At most so many nodes, from the start.")
@BAD_ROWS
def slice_trace(
    source: str,
    target: Path,
    from_s: int,
    to_s: int | None,
    num_pods: int | None,
    num_nodes: int | None,
    skip_bad_rows: bool,
) -> None:
    """Cut a trace by time, pods and nodes."""
    whole = open_trace(source, skip_bad_rows=skip_bad_rows)
    found = cut(whole, from_s, to_s, num_pods, num_nodes)
    if not len(found.pods):
        first, last = (int(whole.pods.arrival_s[i]) for i in (0, -1)) if len(whole.pods) else (0, 0)
        until = "" if to_s is None else f" and before second {to_s:,}"
        raise ConfigError(
            f"trace {source}: no pod arrives from second {from_s:,} on{until}; arrivals are in seconds {first:,} to {last:,}"
        )
    found.save(target)
    click.echo(f"wrote {target}: {len(found.pods):,} pods, {len(found.nodes):,} nodes", err=True)


def cut(found: Trace, from_s: int, to_s: int | None, num_pods: int | None, num_nodes: int | None) -> Trace:
    """The part of a trace that arrives in ``[from_s, to_s)``, at most so many pods and nodes; with the classes of its pods."""
    pods = found.pods
    keep = pods.arrival_s >= from_s
    if to_s is not None:
        keep &= pods.arrival_s < to_s
    rows = np.flatnonzero(keep)[:num_pods]
    nodes = found.nodes[:num_nodes]
    names = {node.name for node in nodes}
    notes = (*found.manifest.notes, f"cut: {len(rows)} of {len(pods)} pods, {len(nodes)} of {len(found.nodes)} nodes")
    part = take(found, rows)
    classes, spec = np.unique(part.pods.spec, return_inverse=True)
    return part.but(
        manifest=replace(found.manifest, notes=notes),
        specs=tuple(found.specs[c] for c in classes),
        nodes=nodes,
        pods=replace(part.pods, spec=spec),
        failures=tuple(e for e in found.failures if e.node in names),
        events=(),
    )


@trace.command()
@SOURCE
@TARGET
@click.option("--load", type=click.FloatRange(0, 10, min_open=True), default=1.0, help="Offered GPU load.")
@click.option(
    "--lifetimes",
    type=click.FloatRange(0, min_open=True),
    default=20.0,
    help="Length, in mean lifetimes.",
)
@SEED
def churn(source: str, target: Path, load: float, lifetimes: float, seed: int) -> None:
    """Resample a trace's (request, lifetime) pairs to a steady state at a given load; it starts full."""
    made = resample(open_trace(source), Churn(load=load, mean_lifetimes=lifetimes, seed=seed))
    made.save(target)
    click.echo(f"wrote {target}: {len(made.pods):,} pods, {made.manifest.notes[1]}", err=True)


@trace.command()
@SOURCE
@TARGET
@click.option("--lanl", type=click.Path(path_type=Path), required=True, help="Folder of the lanl-failures data.")
@click.option("--system", type=int, default=18, help="Which of the recorded systems.")
@click.option("--from", "start_s", type=int, default=0, help="Recorded seconds after the system's first failure.")
@click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    help="Recorded seconds per second of the trace.",
)
@BAD_ROWS
def fail(source: str, target: Path, lanl: Path, system: int, start_s: int, speed: float, skip_bad_rows: bool) -> None:
    """Lay recorded node failures over a trace's fleet."""
    found = open_trace(source, skip_bad_rows=skip_bad_rows)
    if not len(found.pods):
        raise ConfigError(f"trace {source}: holds no pods, so failures would befall nobody; check the trace")
    first, last = int(found.pods.arrival_s[0]), int(found.pods.arrival_s[-1])
    eventful = {event.node for event in found.failures}
    quiet = [node for node in found.nodes if node.name not in eventful]
    if found.nodes and not quiet:
        raise ConfigError(
            f"trace {source}: every node has events of its own, so none is left to fail; give another trace"
        )
    recorded = read_failures(
        lanl,
        quiet,
        system=system,
        start_s=start_s,
        first_s=first,
        length_s=max(last, int(found.pods.departure_s.max())) - first + 1,
        speed=speed,
        skip_bad_rows=skip_bad_rows,
    )
    both = [*found.failures, *recorded]
    events = tuple(sorted(both, key=lambda event: event.time_s))  # within a second as they happened
    found.but(failures=events).save(target)
    kept = f", beside {len(found.failures)} events that the trace had, on other nodes" if eventful else ""
    click.echo(f"wrote {target}: {len(recorded):,} failures and repairs{kept}", err=True)


@trace.command("join")
@click.argument("source", metavar="ARRIVALS")
@click.argument("usage", type=click.Path(exists=True, path_type=Path))
@TARGET
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.05, help="Part of the pods to keep.")
@click.option("--replicas", type=click.IntRange(1), default=8, help="Most pods of one workload.")
@click.option("--from-day", type=click.FloatRange(0), default=1.0, help="Day of the usage recording to begin with.")
@click.option("--scale", type=click.FloatRange(0, min_open=True), default=1.0, help="Factor for all usage.")
@SEED
@BAD_ROWS
def join_usage(
    source: str,
    usage: Path,
    target: Path,
    share: float,
    replicas: int,
    from_day: float,
    scale: float,
    seed: int,
    skip_bad_rows: bool,
) -> None:
    """Give ARRIVALS the recorded USAGE of machines of the same size rank; docs/results-learning.md states the recipe."""
    from simulator.traces.joined import Join, join
    from simulator.traces.usage_readers import read_usage

    recipe = Join(share=share, replicas=replicas, from_day=from_day, scale=scale, seed=seed)
    arrivals = open_trace(source, skip_bad_rows=skip_bad_rows)
    made = join(arrivals, read_usage(usage), recipe)
    if not len(made.pods):
        raise ConfigError(
            f"trace {source}: --share {share:g} of {len(arrivals.pods)} pods leaves none; give a larger share"
        )
    made.save(target)
    click.echo(
        f"wrote {target}: {len(made.pods):,} pods, {len(made.usage.pod):,} samples, digest {made.digest}", err=True
    )


def _recipe_options(command: Any) -> Any:
    for field in reversed(fields(Recipe)):
        flag = "--" + field.name.replace("_", "-")
        default: Any = field.default
        name = f"{flag}/--no-{flag[2:]}" if isinstance(default, bool) else flag
        help_text = field.metadata["help"]
        kind = click.IntRange(0) if name == "--seed" else type(default)
        command = click.option(name, type=kind, default=default, help=help_text)(command)
    return command


@trace.command()
@TARGET
@click.option("--name", default="", help="Name of the trace; default synth-SEED.")
@_recipe_options
def synth(target: Path, name: str, **recipe: Any) -> None:
    """Make a trace up from a seed: owners, daily rhythm, heavy tails, gangs, rules, GPU shares."""
    made = synthesise(Recipe(**recipe))
    if name:
        made = made.but(manifest=replace(made.manifest, name=name))
    made.save(target)
    click.echo(f"wrote {target}: {len(made.pods):,} pods, {len(made.nodes):,} nodes, digest {made.digest}", err=True)
