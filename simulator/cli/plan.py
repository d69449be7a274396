"""Commands about plans: `ullage reproduce priority-matters`, `ullage plan …`, `ullage snapshot`.

Thin: each command reads its input, calls a pure planner with a clock, and prints. Standard output is data, progress
goes to standard error. Nothing here changes a cluster.
"""

from __future__ import annotations

import functools
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from placement.errors import ConfigError
from placement.planning.plans import Plan
from simulator.output import data_only, output_option, progress, render, write_whole

if TYPE_CHECKING:
    from placement.planning.snapshots import SnapshotFile
    from simulator.cost import PriceBook
    from simulator.planning.worker import Request
    from simulator.traces.trace import Trace


def numbers(kind: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """Callback that reads a comma-separated list."""

    def read(_context: click.Context, parameter: click.Parameter, text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is not a comma-separated list of numbers", param=parameter) from error

    return read


def seconds(_context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Callback that reads a span of time: ``24h``, ``30m``, ``7d``, or seconds."""
    if text is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:], 0)
    try:
        found = round(float(text[:-1]) * unit) if unit else int(text)
    except (ValueError, OverflowError):
        found = 0
    if not 0 < found < 10**10:
        raise click.BadParameter(
            f"{text!r} is no span of time; write it like 24h, 30m, 7d, or seconds", param=parameter
        )
    return found


@click.command("priority-matters")
@click.option("--seeds-file", type=click.Path(path_type=Path), required=True, help="One seed per line.")
@click.option("--seeds", "num_seeds", type=click.IntRange(min=1), help="Only the first so many seeds.")
@click.option("--time", "time_s", type=float, default=1.0, show_default=True, help="Seconds per instance.")
@click.option("--nodes", default="4,8,16,32", show_default=True, callback=numbers(int), help="Cluster sizes.")
@click.option("--pods-per-node", default="4,8", show_default=True, callback=numbers(int), help="Pods ÷ nodes.")
@click.option("--priorities", default="1,2,4", show_default=True, callback=numbers(int), help="Number of tiers.")
@click.option(
    "--util",
    default="0.90,0.95,1.00,1.05",
    show_default=True,
    callback=numbers(float),
    help="What pods ask for over what nodes offer.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option(
    "--threads", type=click.IntRange(1, 2), default=2, show_default=True, help="Threads of each plan, so cores per job."
)
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="What --time is measured by; cpu, on a machine that has other work to do, is that of each thread.",
)
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path),
    default=Path("priority-matters"),
    show_default=True,
    help="Finished cells are kept here; the same command takes up again after an interruption.",
)
@output_option
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


# ── ullage plan ───────────────────────────────────────────────────────────────────────────────────────────────


GUESSED = "OpenCost's default rates, not by what you pay; --prices FILE tells that"
LIVE_HELP = "Read the cluster through the API."
KUBECONFIG_HELP = "With --live. Default: $KUBECONFIG, ~/.kube/config, then the pod's service account."


def _common(function: Callable[..., None]) -> Callable[..., None]:
    """Where the cluster comes from, and options that every plan has; they arrive as one :class:`_Given`."""
    options = (
        click.argument("trace", required=False),
        click.option("--snapshot", type=click.Path(path_type=Path), help="File from `ullage snapshot`."),
        click.option("--live", is_flag=True, help=LIVE_HELP),
        click.option("--kubeconfig", help=KUBECONFIG_HELP),
        click.option("--context", help="Of the kubeconfig; with --live."),
        click.option(
            "--at", "at_s", type=click.IntRange(0), help="Of TRACE: second of its clock. Default: its last arrival."
        ),
        click.option(
            "-s", "--strategy", default="best-fit", show_default=True, help="Of TRACE: replays it up to then."
        ),
        click.option("--time", "time_s", type=float, default=10.0, show_default=True, help="Seconds to plan."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random."),
        click.option(
            "--report",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Also write a picture of the plan (HTML).",
        ),
        output_option,
    )

    @functools.wraps(function)
    def gathered(**options: Any) -> None:
        from simulator.cli.simulate import check_writable

        given = _Given(**{field.name: options.pop(field.name) for field in fields(_Given)})
        if given.report is not None:
            check_writable(given.report)
        function(given, **options)

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

    def cluster(self) -> SnapshotFile:
        """The snapshot to plan on."""
        if (self.trace is not None) + (self.snapshot is not None) + self.live != 1:
            raise ConfigError("give one of TRACE, --snapshot FILE and --live: where the cluster comes from")
        if self.live:
            return live_cluster().snapshot(self.kubeconfig, self.context)
        if self.snapshot is not None:
            from simulator.planning.snapshots import read_snapshot

            return read_snapshot(self.snapshot)
        from simulator.planning.trace_snapshot import snapshot_of_trace
        from simulator.traces.sources import open_trace

        trace = open_trace(str(self.trace))
        with progress("replaying TRACE") as advance:
            return snapshot_of_trace(trace, strategy=self.strategy, at_s=self.at_s, seed=self.seed, progress=advance)

    def prices(self) -> PriceBook:
        """The price book where none is given: what TRACE says is for sale, else what ships."""
        from simulator.cost import DEFAULT_BOOK, book_of_trace
        from simulator.traces.sources import open_trace

        return DEFAULT_BOOK if self.trace is None else book_of_trace(open_trace(self.trace))


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


@click.group()
def plan() -> None:
    """Plans with a stated bound, of a trace, a snapshot or the live cluster.

    Nothing is changed: every plan is a proposal, and `plan apply` says what it would do until told `--yes`.
    """


@plan.command()
@_common
def rescue(given: _Given) -> None:
    """Place more, and more important, pending pods by moving or evicting few running ones."""
    _run(_request("rescue", given), given)


@plan.command()
@_common
def batch(given: _Given) -> None:
    """Place all pending pods at once; gangs all or none; then most soft wishes met; then strand least."""
    _run(_request("batch", given), given)


@plan.command()
@_common
@click.option("--max-moves", type=click.IntRange(min=0), help="Most pods to move; no limit when absent.")
@click.option("--max-nodes", type=click.IntRange(min=0), help="Most nodes to empty; no limit when absent.")
@click.option("--prices", type=click.Path(path_type=Path), help="Price book (CSV); OpenCost's rates when absent.")
@click.option("--no-prices", is_flag=True, help="Count nodes, not USD.")
@click.option(
    "--usd-per-move", type=click.FloatRange(0), default=0.0, help="What one move costs, for the payback time."
)
@click.option(
    "--interruptions", type=click.FloatRange(0), default=0.0, show_default=True, help="Of a spot node, per hour."
)
@click.option(
    "--usd-per-interruption", type=click.FloatRange(0), default=0.0, show_default=True, help="What one costs you."
)
@click.option(
    "--usd-per-pod-interrupted",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
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
    from simulator.cost import read_price_book

    book = given.prices() if prices is None else read_price_book(prices)
    request = _request("consolidate", given)
    nodes = request.snapshot.nodes
    usd = None if no_prices else {node.name: book.usd_per_hour(node) for node in nodes}
    guessed = sum(map(book.is_guessed, nodes)) if usd else 0
    if guessed:
        click.echo(f"note: USD of {guessed} of {len(nodes)} nodes by {GUESSED}", err=True)
    request = _changed(request, usd_per_hour=usd, max_moves=max_moves, max_nodes=max_nodes, usd_per_move=usd_per_move)
    risk = {
        "interruptions_per_hour": interruptions,
        "usd_per_interruption": usd_per_interruption,
        "usd_per_pod_interrupted": usd_per_pod_interrupted,
    }
    _run(_changed(request, **risk), given)


@plan.command()
@_common
@click.option(
    "--prices", type=click.Path(path_type=Path), help="Price book (CSV); when absent TRACE's, else the one that ships."
)
@click.option("--spot", is_flag=True, help="Offer shapes at their spot price as well.")
@click.option(
    "--interruptions", type=click.FloatRange(0), default=0.0, show_default=True, help="Of a spot node, per hour."
)
@click.option(
    "--usd-per-interruption", type=click.FloatRange(0), default=0.0, show_default=True, help="What one costs you."
)
@click.option(
    "--ahead", "ahead_s", callback=seconds, metavar="SPAN", help="Also for the demand expected within it, such as 24h."
)
@click.option(
    "--quantile",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="With --ahead: of the demand to prepare for.",
)
@click.option(
    "--history", help="With --ahead: what pods came and went. A trace of `ullage record`, or ullage-log:FILE."
)
@click.option(
    "-p", "--prometheus", help="With --live and --ahead: take the history from here, such as http://host:9090."
)
@click.option(
    "--days", type=click.FloatRange(0.01, 400), default=28, show_default=True, help="With --ahead: days of history."
)
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
    from simulator.cost import DEFAULT_BOOK, read_price_book
    from simulator.planning.foresight import history_of
    from simulator.planning.selling import for_sale

    book = given.prices() if prices is None else read_price_book(prices)
    if hours_of_use and not any(reserved.usd_per_hour for reserved in book.reservations.values()):
        raise ConfigError(
            "--hours-of-use decides whether a reservation pays, and nothing is for sale reserved; "
            "give --prices with reserved_usd_per_hour, or leave it out"
        )
    past = _past(given, ahead_s, history, prometheus, days)
    request = _request("purchase", given)
    if book is DEFAULT_BOOK:
        click.echo(f"note: USD of the shapes that ship, by {GUESSED}", err=True)
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
    _run(request, given)


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


def _request(kind: str, given: _Given) -> Request:
    from simulator.planning.worker import Request

    if not given.time_s > 0:
        raise ConfigError(f"--time {given.time_s:g} leaves nothing to plan in; give more than 0 seconds")
    return Request(kind, given.cluster(), given.time_s, given.seed)


def _changed(request: Request, **changes: object) -> Request:
    import msgspec

    return msgspec.structs.replace(request, **changes)


def _run(request: Request, given: _Given) -> None:
    """Plan in a worker; Ctrl-C asks for the best plan so far."""
    from placement.planning.snapshots import cluster_of
    from simulator.planning.page import page
    from simulator.planning.worker import Planner

    planner = Planner(request)
    try:
        with progress("planning", is_time=True) as advance:
            made = planner.result(lambda elapsed_s: advance(min(elapsed_s, given.time_s), given.time_s))
    except KeyboardInterrupt:
        planner.cancel()
        made = planner.result()
    finally:
        planner.close()
    if given.report is not None:
        before = cluster_of(request.snapshot, request.usd_per_hour)
        command = shlex.join(["ullage", *sys.argv[1:]])
        write_whole({given.report: page(before, made, sold=request.shapes, command=command)})
        click.echo(f"report: {given.report}", err=True)
    _print(made, given.output)


def _print(made: Plan, output: str) -> None:
    from placement.planning.make import plan_document
    from simulator.planning.page import brief, headline, step_rows, target, wishes

    rows = [
        {"step": i, "action": str(s.action), "pod": s.name or s.pod, "from": s.source, "to": target(s)}
        for i, s in enumerate(made.steps, 1)
    ]
    if output in ("table", "markdown", "csv"):
        is_data = output == "csv"  # then words are for people, apart
        for line in (headline(made), wishes(made), *(f"- {reason}" for reason in brief(made.reasons))):
            if line:
                click.echo(line, err=is_data)
        if not is_data:
            click.echo()
    if output == "csv" and not rows:
        click.echo("step,action,pod,from,to")
    elif rows or output in ("json", "yaml"):
        if output in ("table", "markdown"):
            what = "shape" if made.kind == "purchase" else "pod"
            rows = [{what if key == "pod" else key: cell for key, cell in row.items()} for row in step_rows(made)]
        click.echo(render(plan_document(made), rows, output))


@click.command()
@click.argument("objects", type=click.File("rb"), required=False)
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), required=True, help="Snapshot file to write.")
@click.option("--live", is_flag=True, help=LIVE_HELP)
@click.option("--kubeconfig", help=KUBECONFIG_HELP)
@click.option("--context", help="Of the kubeconfig; with --live.")
def snapshot(objects: Any, path: Path, live: bool, kubeconfig: str | None, context: str | None) -> None:
    """Save a cluster's state to a file, with --live or from kubectl.

    kubectl get nodes,pods,namespaces,pdb -A -o json | ullage snapshot - -f FILE
    """
    from placement.planning.snapshots import snapshot_of_objects
    from simulator.planning.snapshots import write_snapshot

    if (objects is not None) == live:
        raise ConfigError("give either --live or a file of objects (- = standard input)")
    taken = live_cluster().snapshot(kubeconfig, context) if live else snapshot_of_objects(objects.read())
    write_snapshot(taken, path)
    pending = sum(not pod.node for pod in taken.pods)
    click.echo(f"{path}: {len(taken.nodes)} nodes, {len(taken.pods)} pods, {pending} of them pending", err=True)


@plan.command("bench")
@click.argument(
    "what",
    type=click.Choice(
        [
            "batch",
            "batch-rules",
            "batch-wishes",
            "batch-company",
            "batch-priorities",
            "consolidate",
            "consolidate-unlimited",
            "consolidate-spot",
            "purchase",
        ]
    ),
)
@click.option("--instances", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first; the next follow.")
@click.option("--time", "time_s", type=float, default=10.0, show_default=True, help="Seconds per plan.")
@click.option(
    "--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True, help="What --time is measured by."
)
@output_option
def bench_command(what: str, instances: int, seed: int, time_s: float, clock: str, output: str) -> None:
    """Plans on committed instances: value, certified gap, and the rival beside them."""
    from simulator.planning.bench import bench

    with data_only(), progress("plans") as advance:
        rows = bench(what, instances, time_s, advance, clock=clock, first_seed=seed)
    document = {"apiVersion": "ullage.dev/v1", "kind": "PlanBench", "bench": what, "time_s": time_s, "rows": rows}
    click.echo(render(document, rows, output))


# ── plans over traces ─────────────────────────────────────────────────────────────────────────────────────────


@plan.command()
@click.argument("trace")
@click.option(
    "--prices", type=click.Path(path_type=Path), help="Price book (CSV); when absent TRACE's, else the one that ships."
)
@click.option("--time", "time_s", type=float, default=20.0, show_default=True, help="Seconds to plan.")
@click.option("--fill", is_flag=True, help="Ignore departures: all pods of the trace at once.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")
@output_option
def fleet(trace: str, prices: Path | None, time_s: float, fill: bool, seed: int, output: str) -> None:
    """Cheapest fixed fleet that holds TRACE at its peak, with a certified gap and USD a month."""
    import time

    from placement.planning.plans import Deadline
    from simulator.cost import book_of_trace, read_price_book
    from simulator.planning.peak_fleet import fleet_row, without_departures
    from simulator.traces.sources import open_trace

    with data_only(), progress("planning", is_time=True) as advance:
        read = open_trace(trace)
        book = book_of_trace(read) if prices is None else read_price_book(prices)
        start = time.perf_counter()

        def clock() -> float:
            """The time; who looks at it moves the bar."""
            now = time.perf_counter()
            advance(min(now - start, time_s), time_s)
            return now

        row = fleet_row(without_departures(read) if fill else read, book, Deadline(time_s, clock), seed=seed)
    click.echo(render({"apiVersion": "ullage.dev/v1", "kind": "PlanFleet", **row}, [row], output))


@plan.command()
@click.argument("trace")
@click.option("--ahead", "ahead_s", callback=seconds, metavar="SPAN", default="6h", show_default=True, help="How far.")
@click.option(
    "--quantile",
    "quantiles",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    default=(0.5, 0.9),
    show_default=True,
    help="Of the demand; repeat.",
)
@click.option(
    "--every", "every_s", callback=seconds, metavar="SPAN", default="1h", show_default=True, help="A forecast."
)
@click.option(
    "--since", "since_s", callback=seconds, metavar="SPAN", default="1d", help="First forecast, after the start."
)
@click.option(
    "--until", "until_s", callback=seconds, metavar="SPAN", help="Its time ahead ends then. Default: the end."
)
@click.option("--days", type=click.FloatRange(0.01, 400), default=28, show_default=True, help="Of history.")
@output_option
def expect(
    trace: str,
    ahead_s: int,
    quantiles: tuple[float, ...],
    every_s: int,
    since_s: int,
    until_s: int | None,
    days: float,
    output: str,
) -> None:
    """How well a purchase foresees demand: on TRACE's past, judged by its later hours, beside simple rules."""
    from simulator.planning.foresight import Judging, judged
    from simulator.traces.sources import open_trace

    rows = []
    with data_only(), progress("forecasts") as advance:
        read = open_trace(trace)
        if len(read.pods):
            until_s = until_s or int(read.pods.arrival_s.max() - read.pods.arrival_s.min())
        for quantile in quantiles:
            rows += judged(read, Judging(ahead_s, quantile, every_s, since_s, until_s or 0, days), advance)
    click.echo(render({"apiVersion": "ullage.dev/v1", "kind": "PlanExpect", "rows": rows}, rows, output))


@plan.command("replay")
@click.argument("trace")
@click.option(
    "-s",
    "--strategy",
    "strategies",
    multiple=True,
    default=("planned",),
    show_default=True,
    help="What places; repeat.",
)
@click.option(
    "--policy",
    "policies",
    type=click.Choice(["none", "planned", "karpenter-prefix", "descheduler"]),
    multiple=True,
    default=("planned",),
    show_default=True,
    help="What consolidates; one for each strategy, or one for all.",
)
@click.option(
    "--prices", type=click.Path(path_type=Path), help="Price book (CSV); when absent TRACE's, else the one that ships."
)
@click.option(
    "--every", "every_s", type=click.IntRange(1), default=3600, show_default=True, help="Seconds between acts."
)
@click.option("--moves-share", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Budget per act.")
@click.option(
    "--history",
    "history_s",
    type=click.IntRange(0),
    default=7200,
    show_default=True,
    help="Seconds of the past from which `planned` expects demand; 0 = it expects nothing.",
)
@click.option(
    "--least-saved",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of an interval for which a node's room must likely not be missed.",
)
@click.option(
    "--buys",
    type=click.Choice(["default", "ffd", "planned", "foreseen"]),
    default="default",
    show_default=True,
    help="How the fleet buys: cheapest shape per core, Karpenter's first-fit decreasing, a plan for all who wait, or "
    "node by node for those and for who is to come.",
)
@click.option(
    "--foresees",
    "foresees_s",
    type=click.IntRange(0),
    default=300,
    show_default=True,
    help="With `--buys foreseen`: as many pods as came in the last so many seconds are expected.",
)
@click.option(
    "--restart", "restart_s", type=click.IntRange(0), default=60, show_default=True, help="Seconds a moved pod is down."
)
@click.option(
    "--checkpoint",
    "checkpoint_s",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seconds between checkpoints: a moved pod does at most so much of its work again; 0 = none.",
)
@click.option("--since", "since_s", type=click.IntRange(0), default=0, help="Begin so many seconds into the trace.")
@click.option("--until", "end_s", type=click.IntRange(1), help="Stop so many seconds after the first arrival.")
@click.option(
    "--judge",
    "act",
    type=click.IntRange(0),
    help="Instead: what this act promised, and what it saved; 0 = each act until --until.",
)
@click.option(
    "--span",
    "span_s",
    type=click.IntRange(1),
    help="With --judge ACT: seconds it is judged over; an interval when absent.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")
@output_option
def replay_command(
    trace: str,
    strategies: tuple[str, ...],
    policies: tuple[str, ...],
    prices: Path | None,
    act: int | None,
    span_s: int | None,
    output: str,
    end_s: int | None,
    **given: Any,
) -> None:
    """Replay TRACE on an elastic fleet with a strategy and a consolidation policy: USD, evictions, waiting."""
    from simulator.cost import book_of_trace, read_price_book
    from simulator.planning.peak_fleet import within
    from simulator.planning.replays import Question, judge, judge_all, replay_row
    from simulator.traces.sources import open_trace

    if len(policies) not in (1, len(strategies)):
        raise ConfigError(
            f"{len(strategies)} strategies and {len(policies)} policies; give one policy, or one for each"
        )
    read = open_trace(trace)
    book = book_of_trace(read) if prices is None else read_price_book(prices)
    read, ignored = within(read, list(book.shapes.values()))
    rows = []
    pairs = list(dict.fromkeys(zip(strategies, policies * (len(strategies) if len(policies) == 1 else 1), strict=True)))
    with data_only(), progress("replays") as advance:
        for done, (strategy, policy) in enumerate(pairs, 1):
            question = Question(strategy, policy, end_s=end_s or -1, **given)
            if act is None:
                rows.append(replay_row(read, book, question))
            elif act:
                rows.append(judge(read, book, question, act, span_s or question.every_s))
            else:
                rows += judge_all(read, book, question)
            advance(done, len(pairs))
    document = {"apiVersion": "ullage.dev/v1", "kind": "PlanReplay", "ignored": list(ignored), "rows": rows}
    click.echo(render(document, rows, output))
