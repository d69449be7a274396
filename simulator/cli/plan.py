"""Plans of a cluster: `ullage plan rescue`, `batch`, `consolidate`, `purchase`, and `ullage snapshot`.

Thin: each command reads its input, calls a pure planner with a clock, and prints. Standard output is data, progress
goes to standard error. Nothing here changes a cluster.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from placement.command_text import shown_command
from placement.errors import ConfigError, why
from placement.planning.plans import Plan
from simulator.cli import plan_traces
from simulator.cli.options import OUTPUT, PRICES, REPORT, SEED, moment, seconds
from simulator.output import progress, render, write_whole

if TYPE_CHECKING:
    from placement.planning.snapshots import SnapshotFile
    from simulator.cost import PriceBook
    from simulator.planning.worker import Request
    from simulator.traces.trace import Trace


GUESSED = "OpenCost's default rates, not by what you pay; --prices FILE tells that"
NAMED = 10
"""Pods that a note names; of the others it says how many."""
LIVE_HELP = "Read the cluster through the API."
KUBECONFIG_HELP = "With --live. Default: $KUBECONFIG, ~/.kube/config, then the pod's service account."


def _common(function: Callable[..., None]) -> Callable[..., None]:
    """Where the cluster comes from, and options that every plan has; they arrive as one :class:`_Given`."""
    options = (
        click.argument("trace", required=False),
        click.option(
            "--snapshot",
            type=click.Path(path_type=Path),
            help="File from `ullage snapshot`; one of TRACE, this and --live is needed.",
        ),
        click.option("--live", is_flag=True, help=LIVE_HELP),
        click.option("--kubeconfig", help=KUBECONFIG_HELP),
        click.option("--context", help="Of the kubeconfig; with --live."),
        click.option(
            "--at",
            "at_s",
            metavar="SPAN",
            callback=moment,
            help="Of TRACE: time of its clock, such as 12h, or seconds. Default: its last arrival.",
        ),
        click.option("-s", "--strategy", default="best-fit", help="Of TRACE: replays it up to then."),
        click.option("--time", "time_s", type=float, default=10.0, help="Seconds to plan."),
        SEED,
        REPORT,
        OUTPUT,
    )

    @functools.wraps(function)
    def gathered(**options: Any) -> None:
        given = {field.name: options.pop(field.name) for field in fields(_Given) if field.name in options}
        function(_Given(**given), **options)

    for option in reversed(options):
        gathered = option(gathered)
    return gathered


@dataclass(frozen=True)
class _Given:
    """Options of every plan."""

    trace: str | None
    snapshot: Path | None
    live: bool
    kubeconfig: str | None
    context: str | None
    at_s: int | None
    strategy: str
    time_s: float
    seed: int
    report: Path | None
    output: str
    manifests: tuple[str, ...] = ()

    def cluster(self) -> SnapshotFile:
        """The snapshot to plan on."""
        if (self.trace is not None) + (self.snapshot is not None) + self.live != 1:
            raise ConfigError("give one of TRACE, --snapshot FILE and --live: where the cluster comes from")
        if self.live:
            return live_cluster().snapshot(self.kubeconfig, self.context)
        if self.snapshot is not None:
            from simulator.planning.snapshots import read_snapshot

            return read_snapshot(self.snapshot)
        from placement.program import deciding_kernel
        from simulator.planning.trace_snapshot import snapshot_of_trace
        from simulator.traces.sources import open_trace

        trace = open_trace(str(self.trace))
        with progress(f"replaying {trace.manifest.name}", kernel=deciding_kernel()) as advance:
            return snapshot_of_trace(trace, strategy=self.strategy, at_s=self.at_s, seed=self.seed, progress=advance)

    def book(self, prices: Path | None) -> PriceBook:
        """The price book that is given, else what TRACE says is for sale, else what ships."""
        from simulator.cost import book_for
        from simulator.traces.sources import open_trace

        return book_for(None if prices or self.trace is None else open_trace(self.trace), prices)


class Live(Protocol):
    """The live cluster. Only the live side knows the API; the command line hands it over as the context's object."""

    def snapshot(self, kubeconfig: str | None, context: str | None) -> SnapshotFile:
        """The cluster now."""

    def recording(self, kubeconfig: str | None, context: str | None, prometheus: str, days: float) -> Trace:
        """What the cluster's pods did in the last days."""


def live_cluster() -> Live:
    """The live cluster, where this command line has one."""
    live: Live | None = click.get_current_context().obj
    if live is None:
        raise ConfigError("this command line cannot read a cluster; use `ullage`, or a file from `ullage snapshot`")
    return live


WITH = click.option(
    "--with",
    "manifests",
    type=click.Path(dir_okay=False, allow_dash=True),
    multiple=True,
    metavar="FILE",
    help="Count the pods that this manifest would make as waiting, too (- = standard input). Repeatable.",
)
"""What if these were applied?"""


@click.group()
def plan() -> None:
    """Plans with a stated bound, of a trace, a snapshot or the live cluster.

    Nothing is changed: every plan is a proposal, and `plan apply` says what it would do until told `--yes`.
    """


for command in plan_traces.COMMANDS:
    plan.add_command(command)


@plan.command()
@_common
@WITH
def rescue(given: _Given) -> None:
    """Place more, and more important, pending pods by moving or evicting few running ones."""
    request, notes = _request("rescue", given)
    _run(request, given, *notes)


@plan.command()
@_common
@WITH
def batch(given: _Given) -> None:
    """Place all pending pods at once; gangs all or none; then most soft wishes met; then strand least."""
    request, notes = _request("batch", given)
    _run(request, given, *notes)


@plan.command()
@_common
@click.option("--max-moves", type=click.IntRange(min=0), help="Most pods to move; no limit when absent.")
@click.option("--max-nodes", type=click.IntRange(min=0), help="Most nodes to empty; no limit when absent.")
@click.option("--prices", type=click.Path(path_type=Path), help="Price book (CSV); OpenCost's rates when absent.")
@click.option("--no-prices", is_flag=True, help="Count nodes, not USD.")
@click.option(
    "--usd-per-move", type=click.FloatRange(0), default=0.0, help="What one move costs, for the payback time."
)
@click.option("--interruptions", type=click.FloatRange(0), default=0.0, help="Of a spot node, per hour.")
@click.option("--usd-per-interruption", type=click.FloatRange(0), default=0.0, help="What one costs you.")
@click.option(
    "--usd-per-pod-interrupted",
    type=click.FloatRange(0),
    default=0.0,
    help="And for each pod on it.",
)
def consolidate(
    given: _Given,
    max_moves: int | None,
    max_nodes: int | None,
    prices: Path | None,
    no_prices: bool,
    usd_per_move: float,
    interruptions: float,
    usd_per_interruption: float,
    usd_per_pod_interrupted: float,
) -> None:
    """Empty nodes within a budget of moves, so that the fleet costs least; spot nodes with what interruptions cost."""
    book = given.book(prices)
    request, _ = _request("consolidate", given)
    nodes = request.snapshot.nodes
    usd = None if no_prices else {node.name: book.usd_per_hour(node) for node in nodes}
    guessed = sum(map(book.is_guessed, nodes)) if usd else 0
    notes = [f"USD of {guessed} of {len(nodes)} nodes by {GUESSED}"] if guessed else []
    request = _changed(request, usd_per_hour=usd, max_moves=max_moves, max_nodes=max_nodes, usd_per_move=usd_per_move)
    risk = {
        "interruptions_per_hour": interruptions,
        "usd_per_interruption": usd_per_interruption,
        "usd_per_pod_interrupted": usd_per_pod_interrupted,
    }
    _run(_changed(request, **risk), given, *notes)


@plan.command()
@_common
@WITH
@PRICES
@click.option("--spot", is_flag=True, help="Offer shapes at their spot price as well.")
@click.option("--interruptions", type=click.FloatRange(0), default=0.0, help="Of a spot node, per hour.")
@click.option("--usd-per-interruption", type=click.FloatRange(0), default=0.0, help="What one costs you.")
@click.option(
    "--ahead", "ahead_s", callback=seconds, metavar="SPAN", help="Also for the demand expected within it, such as 24h."
)
@click.option(
    "--quantile",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    help="With --ahead: of the demand to prepare for.",
)
@click.option(
    "--history", help="With --ahead: what pods came and went. A trace of `ullage record`, or ullage-log:FILE."
)
@click.option(
    "-p", "--prometheus", help="With --live and --ahead: take the history from here, such as http://host:9090."
)
@click.option("--days", type=click.FloatRange(0.01, 400), default=28, help="With --ahead: days of history.")
@click.option(
    "--hours-of-use", type=click.FloatRange(0, min_open=True),
    help="For how long pods will run; the longest term of a reservation when absent.",
)  # fmt: skip
def purchase(
    given: _Given,
    prices: Path | None,
    spot: bool,
    interruptions: float,
    usd_per_interruption: float,
    ahead_s: int | None,
    quantile: float,
    history: str | None,
    prometheus: str | None,
    days: float,
    hours_of_use: float | None,
) -> None:
    """Cheapest node shapes to add for the pending pods, with --ahead for those to be expected as well.

    Pods that fit on the nodes that are there need no other; the plan says how many. A spot node counts with what
    interruptions cost, a reserved one with its whole term.
    """
    from placement.planning.foresight import foresee, worth_of
    from placement.planning.interruptions import usd_at_risk
    from simulator.cost import DEFAULT_BOOK
    from simulator.planning.foresight import history_of
    from simulator.planning.selling import for_sale

    book = given.book(prices)
    if hours_of_use and not any(reserved.usd_per_hour for reserved in book.reservations.values()):
        raise ConfigError(
            "--hours-of-use decides whether a reservation pays, and nothing is for sale reserved; "
            "give --prices with reserved_usd_per_hour, or leave it out"
        )
    past = _past(given, ahead_s, history, prometheus, days)
    request, notes = _request("purchase", given)
    if book is DEFAULT_BOOK:
        notes = *notes, f"USD of the shapes that ship, by {GUESSED}"
    shapes = for_sale(book, request.snapshot.nodes, spot=spot, risk=usd_at_risk(interruptions, usd_per_interruption))
    request = _changed(request, shapes=shapes, hours_of_use=hours_of_use)
    if past is not None and ahead_s is not None:
        trace, now_s, owner = past
        known = history_of(trace, now_s, worth_of(trace.specs, book.rates), days=days)
        seen = foresee(known, trace.specs, ahead_s, quantile, owner=owner)
        request = _changed(request, growth=seen.growth, foresight=seen.words)
    elif ahead_s is not None:
        said = (
            "no history, so nothing is expected: only pending pods count; give --history, or --prometheus with --live"
        )
        request = _changed(request, foresight=(said,))
    _run(request, given, *notes)


def _past(
    given: _Given, ahead_s: int | None, history: str | None, prometheus: str | None, days: float
) -> tuple[Trace, int, str] | None:
    """Where pods came and went, until when that is known, and whose bare pods are; None when nothing tells."""
    from simulator.planning.foresight import last_seen
    from simulator.traces.sources import open_trace

    if ahead_s is None:
        return None
    if history and (prometheus or given.trace):
        raise ConfigError("give one history: TRACE's own, --history or --prometheus")
    if prometheus:
        recorded = live_cluster().recording(given.kubeconfig, given.context, prometheus, days)
        return recorded, last_seen(recorded), ""
    if history:
        trace = open_trace(history)
        return trace, last_seen(trace), ""
    if given.trace is None:
        return None
    trace = open_trace(given.trace)
    at_s = given.at_s if given.at_s is not None else int(trace.pods.arrival_s.max(initial=0))
    return trace, at_s, f"Trace/{trace.manifest.name}"


def _request(kind: str, given: _Given) -> tuple[Request, tuple[str, ...]]:
    """What to plan, and what to say of the manifests whose pods count."""
    from simulator.planning.manifests import with_manifests
    from simulator.planning.worker import Request

    if not given.time_s > 0:
        raise ConfigError(f"--time {given.time_s:g} leaves nothing to plan in; give more than 0 seconds")
    files = [("standard input" if path == "-" else path, _read("manifest", path)) for path in given.manifests]
    cluster, notes = with_manifests(given.cluster(), files)
    return Request(kind, cluster, given.time_s, given.seed), notes


def _changed(request: Request, **changes: object) -> Request:
    import msgspec

    return msgspec.structs.replace(request, **changes)


def _run(request: Request, given: _Given, *notes: str) -> None:
    """Plan in a worker; Ctrl-C asks for the best plan so far. ``notes`` are said with the plan, wherever that goes."""
    from placement.planning.chains import fits
    from placement.planning.cluster import NO_ROOM, NOWHERE
    from placement.planning.snapshots import cluster_of
    from simulator.planning.page import page
    from simulator.planning.worker import Planner

    planner = Planner(request)
    try:
        with progress("planning", is_time=True, kernel=fits) as advance:
            made = planner.result(lambda elapsed_s: advance(min(elapsed_s, given.time_s), given.time_s))
    except KeyboardInterrupt:
        planner.cancel()
        made = planner.result()
    finally:
        planner.close()
    made = replace(made, reasons=(*made.reasons, *notes))
    if given.report is not None:
        before = cluster_of(request.snapshot, request.usd_per_hour)
        command = shown_command(["ullage", *sys.argv[1:]])
        write_whole({given.report: page(before, made, sold=request.shapes, command=command)})
        click.echo(f"report: {given.report}", err=True)
    _print(made, given.output)
    if given.output != "table":
        return
    lacks_room = any(NO_ROOM in reason for reason in made.reasons)
    helps = ["ullage plan rescue makes room"] * lacks_room
    helps += ["ullage plan purchase says what to buy"] * (
        lacks_room or any(NOWHERE in reason for reason in made.reasons)
    )
    if made.kind == "batch" and helps:
        click.echo(f"\nfor the rest: {', '.join(helps)}", err=True)
    if given.manifests:
        click.echo("\nnothing was changed; to act on it: apply the manifests, then plan again without --with", err=True)
    elif given.trace is None and made.steps and made.kind != "purchase":
        click.echo(
            "\nnothing was changed; to act on it: the same with -o json > plan.json, then ullage plan apply plan.json",
            err=True,
        )


def _print(made: Plan, output: str) -> None:
    from placement.planning.make import plan_document
    from simulator.planning.page import brief, further, headline, step_rows, target

    rows = [
        {"step": i, "action": str(s.action), "pod": s.name or s.pod, "from": s.source, "to": target(s)}
        for i, s in enumerate(made.steps, 1)
    ]
    if output in ("table", "markdown", "csv"):
        is_data = output == "csv"  # then words are for people, apart
        for line in (headline(made), further(made), *(f"- {reason}" for reason in brief(made.reasons))):
            if line:
                click.echo(line, err=is_data)
        if not is_data:
            click.echo()
    if output == "csv" and not rows:
        click.echo("step,action,pod,from,to")
    elif rows or output in ("json", "yaml"):
        if output in ("table", "markdown"):
            rows = step_rows(made)
        click.echo(render(plan_document(made), rows, output))


def _read(what: str, path: str) -> bytes:
    try:
        with click.open_file(path, "rb") as source:
            return bytes(source.read())
    except OSError as error:
        raise ConfigError(
            f"{what} {path}: cannot be read ({why(error)}); check the path, or pipe it in and give -"
        ) from error


@click.command()
@click.argument("objects", type=click.Path(dir_okay=False, allow_dash=True), required=False)
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), required=True, help="Snapshot file to write.")
@click.option("--live", is_flag=True, help=LIVE_HELP)
@click.option("--kubeconfig", help=KUBECONFIG_HELP)
@click.option("--context", help="Of the kubeconfig; with --live.")
def snapshot(objects: str | None, path: Path, live: bool, kubeconfig: str | None, context: str | None) -> None:
    """Save a cluster's state to a file, with --live or from what kubectl lists, to plan from it."""
    from placement.planning.snapshots import snapshot_of_objects
    from simulator.planning.snapshots import write_snapshot

    if (objects is not None) == live:
        raise ConfigError("give either --live or a file of objects (- = standard input); -f names the file to write")
    taken = (
        snapshot_of_objects(_read("objects", objects))
        if objects is not None
        else live_cluster().snapshot(kubeconfig, context)
    )
    write_snapshot(taken, path)
    pending = sum(not pod.node for pod in taken.pods)
    click.echo(f"{path}: {len(taken.nodes)} nodes, {len(taken.pods)} pods, {pending} of them pending", err=True)
    if not taken.namespaces:
        click.echo(
            "note: the list holds no Namespace, so it may lack disruption budgets as well; list namespaces,pdb too",
            err=True,
        )
    if gone := taken.left_out:
        named = ", ".join(gone[:NAMED]) + (f" and {len(gone) - NAMED} more" if len(gone) > NAMED else "")
        click.echo(f"note: left out: {len(gone)} pods on nodes that are not in the list: {named}", err=True)
