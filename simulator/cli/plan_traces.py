"""Plans over traces and instances: `ullage plan bench`, `fleet`, `expect` and `replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from placement.errors import ConfigError
from simulator.cli.options import OUTPUT, PRICES, SEED, seconds
from simulator.output import emit, progress


@click.command("bench")
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
@click.option("--instances", type=click.IntRange(min=1), default=20, help="How many.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the first; the next follow.")
@click.option("--time", "time_s", type=float, default=10.0, help="Seconds per plan.")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", help="What --time is measured by.")
@OUTPUT
def bench_command(what: str, instances: int, seed: int, time_s: float, clock: str, output: str) -> None:
    """Plans on committed instances: value, certified gap, and the rival beside them."""
    from simulator.planning.bench import bench

    with progress("plans") as advance:
        rows = bench(what, instances, time_s, advance, clock=clock, first_seed=seed)
    emit("PlanBench", {"bench": what, "time_s": time_s, "rows": rows}, rows, output)


@click.command()
@click.argument("trace")
@PRICES
@click.option("--time", "time_s", type=float, default=20.0, help="Seconds to plan.")
@click.option("--fill", is_flag=True, help="Ignore departures: all pods of the trace at once.")
@SEED
@OUTPUT
def fleet(trace: str, prices: Path | None, time_s: float, fill: bool, seed: int, output: str) -> None:
    """Cheapest fixed fleet that holds TRACE at its peak, with a certified gap and USD a month."""
    import time

    from placement.planning import patterns
    from placement.planning.plans import Deadline
    from simulator.cost import book_for
    from simulator.planning.peak_fleet import fleet_row, without_departures
    from simulator.traces.sources import open_trace

    with progress("planning", is_time=True) as advance:
        read = open_trace(trace)
        book = book_for(read, prices)
        patterns.warm_up()
        start = time.perf_counter()

        def clock() -> float:
            """The time; who looks at it moves the bar."""
            now = time.perf_counter()
            advance(min(now - start, time_s), time_s)
            return now

        row = fleet_row(without_departures(read) if fill else read, book, Deadline(time_s, clock), seed=seed)
    emit("PlanFleet", row, [row], output)


@click.command()
@click.argument("trace")
@click.option(
    "--ahead", "ahead_s", callback=seconds, metavar="SPAN", default="6h", help="How far ahead each forecast looks."
)
@click.option(
    "--quantile",
    "quantiles",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    default=(0.5, 0.9),
    help="Of the demand; repeat.",
)
@click.option("--every", "every_s", callback=seconds, metavar="SPAN", default="1h", help="Time between two forecasts.")
@click.option(
    "--since", "since_s", callback=seconds, metavar="SPAN", default="1d", help="First forecast, after the start."
)
@click.option(
    "--until", "until_s", callback=seconds, metavar="SPAN", help="Its time ahead ends then. Default: the end."
)
@click.option("--days", type=click.FloatRange(0.01, 400), default=28, help="Of history.")
@OUTPUT
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
    with progress("forecasts") as advance:
        read = open_trace(trace)
        if len(read.pods):
            until_s = until_s or int(read.pods.arrival_s.max() - read.pods.arrival_s.min())
        for quantile in quantiles:
            rows += judged(read, Judging(ahead_s, quantile, every_s, since_s, until_s or 0, days), advance)
    emit("PlanExpect", {"rows": rows}, rows, output)


@click.command("replay")
@click.argument("trace")
@click.option(
    "-s",
    "--strategy",
    "strategies",
    multiple=True,
    default=("planned",),
    help="What places; repeat.",
)
@click.option(
    "--policy",
    "policies",
    type=click.Choice(["none", "planned", "karpenter-prefix", "descheduler"]),
    multiple=True,
    default=("planned",),
    help="What consolidates; one for each strategy, or one for all.",
)
@PRICES
@click.option("--every", "every_s", type=click.IntRange(1), default=3600, help="Seconds between acts.")
@click.option("--moves-share", type=click.FloatRange(0, 1), default=0.1, help="Budget per act.")
@click.option(
    "--history",
    "history_s",
    type=click.IntRange(0),
    default=7200,
    help="Seconds of the past from which `planned` expects demand; 0 = it expects nothing.",
)
@click.option(
    "--least-saved",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of an interval for which a node's room must likely not be missed.",
)
@click.option(
    "--buys",
    type=click.Choice(["default", "ffd", "planned", "foreseen"]),
    default="default",
    help="How the fleet buys: cheapest shape per core, Karpenter's first-fit decreasing, a plan for all who wait, or "
    "node by node for those and for who is to come.",
)
@click.option(
    "--foresees",
    "foresees_s",
    type=click.IntRange(0),
    default=300,
    help="With `--buys foreseen`: as many pods as came in the last so many seconds are expected.",
)
@click.option("--restart", "restart_s", type=click.IntRange(0), default=60, help="Seconds a moved pod is down.")
@click.option(
    "--checkpoint",
    "checkpoint_s",
    type=click.IntRange(0),
    default=0,
    help="Seconds between checkpoints: a moved pod does at most so much of its work again; 0 = none.",
)
@click.option(
    "--gate-deadline",
    "gate_deadline_s",
    type=click.IntRange(1),
    default=60,
    help="Of strategy `planned`: seconds after which a pod that no batch had a place for goes on without a plan.",
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
@SEED
@OUTPUT
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
    from placement.program import deciding_kernel
    from simulator.cost import book_for
    from simulator.planning.peak_fleet import within
    from simulator.planning.replays import Question, judge, judge_all, replay_row
    from simulator.traces.sources import open_trace

    if len(policies) not in (1, len(strategies)):
        raise ConfigError(
            f"{len(strategies)} strategies and {len(policies)} policies; give one policy, or one for each"
        )
    read = open_trace(trace)
    book = book_for(read, prices)
    read, ignored = within(read, list(book.shapes.values()))
    rows = []
    pairs = list(dict.fromkeys(zip(strategies, policies * (len(strategies) if len(policies) == 1 else 1), strict=True)))
    with progress("replays", kernel=deciding_kernel()) as advance:
        for done, (strategy, policy) in enumerate(pairs, 1):
            question = Question(strategy, policy, end_s=end_s or -1, **given)
            if act is None:
                rows.append(replay_row(read, book, question))
            elif act:
                rows.append(judge(read, book, question, act, span_s or question.every_s))
            else:
                rows += judge_all(read, book, question)
            advance(done, len(pairs))
    emit("PlanReplay", {"ignored": list(ignored), "rows": rows}, rows, output)


COMMANDS = (bench_command, fleet, expect, replay_command)
