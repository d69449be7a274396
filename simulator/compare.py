"""Several strategies on several traces: cells in parallel processes, each kept as soon as it is finished.

A cell is one (trace, strategy, delivery, seed). Its result is a small JSON, stored under a key that names everything it
depends on (digests of trace and strategy, options, version), so the same command takes up where it was interrupted and
never mixes results of different inputs. Numbers depend on none of that: not on ``jobs``, not on the order of finishing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from placement.errors import ConfigError, PlacementError
from placement.knowledge import workload_of
from placement.learning.boosted import load_card
from placement.learning.horizons import MOST_WORKLOADS
from placement.learning.lifetime_model import SECTION, load_lifetimes
from placement.learning.prediction import RULE_PREFIX, Rungs, card_of, load_rungs, target_of
from placement.learning.spans import Span
from placement.rates import RATES
from placement.strategies import STRATEGIES, strategy_named
from placement.strategy import Strategy
from simulator.cost import DEFAULT_BOOK, HOURS_A_MONTH, PriceBook, book_for
from simulator.delivery import delivery_named, delivery_of
from simulator.event_log import write_log
from simulator.fleet import Elastic
from simulator.kept import code_version, kept
from simulator.measures import SERIES_POINTS, measure
from simulator.replay import Interruptions, Policy, Replay, ReplayOptions
from simulator.traces.churn import Churn, resample
from simulator.traces.sources import open_trace
from simulator.traces.trace import Trace
from simulator.usage.lifetime_learner import LifetimeLearner
from simulator.usage.mechanisms import use_policies
from simulator.usage.reclaiming import batch_on_reclaimed
from simulator.usage.usage_learner import UsageLearner
from simulator.workers import in_processes

Row = dict[str, Any]
Within = Callable[[float], None]
"""Called with the share of one cell that is done."""


@dataclass(frozen=True)
class Question:
    """What to compare; everything that numbers depend on."""

    traces: tuple[str, ...]
    strategies: tuple[str, ...]
    deliveries: tuple[str, ...] = ("decide",)
    seeds: tuple[int, ...] = (0,)
    loads: tuple[float, ...] = ()
    """Resample each trace to a steady state at these offered GPU loads, anew for every seed; empty = as it is."""
    lifetimes: float = 20.0
    """Length of resampled traces, in mean lifetimes."""
    fleet: str = "trace"
    """``trace`` = the trace's own nodes, ``elastic`` = buy from the price book, ``peak`` = the most nodes that
    `best-fit` had at once on the elastic fleet, all the time."""
    prices: str = ""
    """Price book CSV; empty = the default catalogue."""
    spot_share: float = 0.0
    interruptions: float = 0.0
    """Spot nodes taken back per node-hour."""
    warmup_s: int = 0
    until: str = "arrivals"
    """``arrivals`` = measure to the last arrival, ``empty`` = until everything has ended."""
    fill: bool = False
    """Nobody leaves and nobody waits: admit until full."""
    skip_bad_rows: bool = False
    mechanism: str = "none"
    """How a replay with recorded usage overcommits; see :data:`simulator.usage.mechanisms.MECHANISMS`."""
    keep_namespaces: tuple[str, ...] = ()
    """Whose pods keep their requests under a mechanism, as those of marked namespaces do in a cluster."""
    model: str = ""
    """Folder of ``ullage train`` that forecasts of usage come from, as in ``ullage serve``; empty = the history alone."""
    horizon: str = "6h-peak"
    """What is forecast of usage: window and statistic."""
    siblings: bool = False
    """Whether newcomers are predicted in their first day from others who looked alike."""
    learn_lifetimes: bool = False
    """Whether strategies that read lifetimes learn them during the replay, as in ``ullage serve``; a model that tells of
    lifetimes switches it on."""


@dataclass(frozen=True)
class Cell:
    """One replay."""

    question: Question
    trace: str
    strategy: str
    delivery: str
    seed: int
    load: float = 0.0
    """Offered load of the resampled trace; 0 = the trace as it is."""
    nodes: tuple[tuple[str, int], ...] = ()
    """A fixed fleet: how many nodes of each shape; empty = the trace's own, or elastic."""
    log: str = ""
    """Folder for the event log; empty keeps none."""


@lru_cache(maxsize=2)
def _trace(text: str, skip: bool) -> Trace:
    return open_trace(text, skip_bad_rows=skip)


@lru_cache(maxsize=2)
def _steady(text: str, skip: bool, churn: Churn) -> Trace:
    return resample(_trace(text, skip), churn)


def trace_of(cell: Cell) -> Trace:
    """What a cell replays."""
    question = cell.question
    if cell.load:
        trace = _steady(cell.trace, question.skip_bad_rows, Churn(cell.load, question.lifetimes, cell.seed))
    else:
        trace = _trace(cell.trace, question.skip_bad_rows)
    if question.fleet == "trace":
        return trace
    shapes = book_of(question, trace).shapes
    return trace.but(nodes=tuple(shapes[name].node(f"{name}-{i:05d}") for name, num in cell.nodes for i in range(num)))


def book_of(question: Question, trace: Trace | None = None) -> PriceBook:
    """The price book: a file, else what the trace says, else the default catalogue for elastic fleets, else plain rates."""
    book = book_for(trace, Path(question.prices) if question.prices else None)
    return PriceBook({}, RATES) if book is DEFAULT_BOOK and question.fleet == "trace" else book


def options_of(question: Question, cell: Cell, trace: Trace) -> ReplayOptions:
    """How a cell is replayed."""
    book = book_of(question, trace)
    elastic = (
        Elastic(tuple(book.shapes.values()), spot_share=question.spot_share) if question.fleet == "elastic" else None
    )
    first, last = (int(trace.pods.arrival_s[0]), int(trace.pods.arrival_s[-1])) if len(trace.pods) else (0, 0)
    if question.warmup_s and question.until == "arrivals" and question.warmup_s >= last - first:
        raise ConfigError(
            f"trace {trace.manifest.name}: --warmup {question.warmup_s} leaves nothing to measure: its arrivals span "
            f"{last - first:,} s; give less, or --until empty"
        )
    return ReplayOptions(
        seed=cell.seed,
        delivery=delivery_named(delivery_of(cell.strategy, cell.delivery)),
        retries=not question.fill,
        departures=not question.fill,
        elastic=elastic,
        warmup_s=question.warmup_s,
        end_s=last if question.until == "arrivals" else -1,
        spot=Interruptions(per_node_hour=question.interruptions, return_s=600),
        log=bool(cell.log),
        samples=SERIES_POINTS,
    )


def rungs_of(cell: Cell) -> Rungs:
    """Who predicts usage in a cell.

    Raises
    ------
    ModelError : the model cannot be used.
    """
    question = cell.question
    parts = strategy_named(cell.strategy).reads_parts
    return load_rungs(question.model, target_of(question.horizon), parts=parts)


def lifetime_policies(question: Question) -> tuple[Policy, ...]:
    """What learns lifetimes in a cell, if anything does.

    Raises
    ------
    ModelError : the model cannot be used.
    """
    has_folder = question.model and not question.model.startswith(RULE_PREFIX)
    model = load_lifetimes(Path(question.model)) if has_folder else None
    if model is None and not question.learn_lifetimes:
        return ()
    return (LifetimeLearner(model=model),)


def run_cell(cell: Cell, within: Within | None = None) -> Row:
    """Replay one cell and measure it."""
    question = cell.question
    trace = trace_of(cell)
    options = options_of(question, cell, trace)
    truth = None
    if question.mechanism != "none" or (len(trace.usage.pod) and not cell.load):
        start_s = int(trace.pods.arrival_s[0]) if len(trace.pods) else 0
        kept = frozenset(question.keep_namespaces)
        truth, policies = use_policies(
            trace,
            question.mechanism,
            start_s + question.warmup_s,
            rungs_of(cell),
            siblings=question.siblings,
            kept_namespaces=kept,
        )
        options = replace(options, policies=policies)
        if question.mechanism == "reclaimed":
            trace = batch_on_reclaimed(trace, cell.seed, kept)
    strategy = strategy_named(cell.strategy)
    if strategy.reads_lifetimes:
        options = replace(options, policies=(*options.policies, *lifetime_policies(question)))
    outcome = Replay(trace, strategy, options).run(
        None if within is None else lambda done, total: within(done / max(total, 1))
    )
    if cell.log:
        write_log(Path(cell.log), outcome.log, [strategy], begins_s=trace.manifest.begins_s)
    result = measure(outcome, trace, book_of(question, trace))
    if truth is not None:
        use = truth.summary()
        result["metrics"] |= {key: use[key] for key in USE}
        result["use"] = {**use, **truth.charts()}
    learned = [*_notes(question, trace, options), *_nothing_read(strategy, options)]
    return {
        **result,
        "strategy_description": strategy.description,
        "trace_digest": trace.digest,
        "trace_notes": [*trace.manifest.notes, *learned],
        "learned_notes": learned,
    }


def _notes(question: Question, trace: Trace, options: ReplayOptions) -> list[str]:
    """What a reader must know of what was learned while the trace was replayed."""
    notes = [] if len(trace.pods) else ["holds no pods, so nothing was replayed"]
    learns = any(isinstance(policy, UsageLearner | LifetimeLearner) for policy in options.policies)
    num = len({workload_of(spec.namespace, spec.owner) for spec in trace.specs} - {""})
    if learns and num > MOST_WORKLOADS:
        notes.append(
            f"{num:,} workloads were learned of; `ullage serve` keeps usage.max_workloads, {MOST_WORKLOADS:,} unless set"
        )
    if question.model and not question.model.startswith(RULE_PREFIX):
        card = load_card(Path(question.model))
        lives, usage = Span.of(card.get(SECTION) or {}), Span.of(card)
        if lives is not None and lives.digest == trace.digest:
            notes.append("the model's lifetimes were fitted on this trace: what it says here is partly remembered")
        begins_s = trace.manifest.begins_s
        end_s = begins_s + int(trace.usage.time_s.max(initial=0))
        if learns and usage is not None and usage.calendar and usage.from_s < end_s and begins_s < usage.judged_s:
            until = datetime.fromtimestamp(usage.judged_s, UTC)
            notes.append(
                f"the model learned from this time: of usage it says nothing before {until:%Y-%m-%d %H:%M} UTC"
            )
        reads_clock = any(isinstance(p, UsageLearner) and p.rungs.reads_clock for p in options.policies)
        if reads_clock and not trace.manifest.has_calendar:
            notes.append(
                "the model looks at hours and weekdays, and this trace does not say when it began: of usage it says nothing "
                "here; tell with `ullage trace convert --begins-at`"
            )
        is_timeless = usage is not None and not usage.calendar and not trace.manifest.has_calendar
        if learns and is_timeless and (card.get("data") or {}).get("name") == trace.manifest.name:
            notes.append(
                "the model learned usage from a recording of this name that does not say when it began: what it says "
                "here may be remembered; convert it with --begins-at and train again"
            )
    return notes


def _nothing_read(strategy: Strategy, options: ReplayOptions) -> list[str]:
    """What a strategy would have read that nobody learned in this replay."""
    notes = []
    if strategy.reads_usage and not any(isinstance(policy, UsageLearner) for policy in options.policies):
        notes.append(f"{strategy.name} reads predicted use, of which there is none here (no usage): requests counted")
    if strategy.reads_lifetimes and not any(isinstance(policy, LifetimeLearner) for policy in options.policies):
        notes.append(f"{strategy.name} reads lifetimes, which nobody learned: --learn-lifetimes does, or a --model")
    return notes


def _refuse_idle(question: Question) -> None:
    """Complain about options that would change nothing, for reasons that lie in strategies and traces."""
    strategies = [strategy_named(strategy) for strategy in question.strategies]
    named, reads_lifetimes = ", ".join(question.strategies), any(strategy.reads_lifetimes for strategy in strategies)
    if question.learn_lifetimes and not reads_lifetimes:
        readers = ", ".join(name for name, strategy in STRATEGIES.items() if strategy.reads_lifetimes)
        raise ConfigError(
            f"lifetimes are to be learned (--learn-lifetimes), but {named} would not read them; "
            f"choose one of {readers}, or leave the option out"
        )
    tells_lifetimes = reads_lifetimes and not question.model.startswith(RULE_PREFIX)
    asked = {
        "--model": question.model != Question.model and not tells_lifetimes,
        "--horizon": question.horizon != Question.horizon,
        "--siblings": question.siblings,
    }
    idle = " and ".join(option for option, is_asked in asked.items() if is_asked)
    if idle and question.mechanism == "none":
        if not any(strategy.reads_usage for strategy in strategies):
            readers = ", ".join(name for name, strategy in STRATEGIES.items() if strategy.reads_usage)
            raise ConfigError(
                f"{idle} shape forecasts of usage, which {named} would not read; "
                f"choose one of {readers}, give a --mechanism, or leave them out"
            )
        if question.loads or not any(len(trace.usage.pod) for trace in _traces(question)):
            why = "resampled traces (--load) have no usage" if question.loads else "no trace records usage"
            raise ConfigError(f"{idle} shape forecasts of usage, and {why}; leave them out")
    if question.keep_namespaces and question.mechanism == "none":
        raise ConfigError(
            "--keep-namespace says whose requests a mechanism may not touch; give a --mechanism, or leave it out"
        )
    if question.interruptions and not _has_spot(question):
        raise ConfigError(
            "--interruptions take spot nodes back, and there is none; "
            "give --fleet elastic and --spot-share, or a trace with spot nodes"
        )


def _traces(question: Question) -> Iterator[Trace]:
    return (_trace(text, question.skip_bad_rows) for text in question.traces)


def _has_spot(question: Question) -> bool:
    if question.fleet == "elastic":
        return question.spot_share > 0
    return question.fleet == "trace" and any(node.spot for trace in _traces(question) for node in trace.nodes)


def cells_of(question: Question) -> list[Cell]:
    """Every cell, in a fixed order. Traces are looked at and strategies resolved first, so mistakes show at once."""
    _refuse_idle(question)
    for delivery in question.deliveries:
        delivery_named(delivery)
    book_of(question)
    load_rungs(question.model, target_of(question.horizon))
    lifetime_policies(question)
    return [
        Cell(question, trace, strategy, delivery, seed, load)
        for trace in question.traces
        for load in question.loads or (0.0,)
        for strategy in question.strategies
        for delivery in question.deliveries
        for seed in question.seeds
    ]


def _key(cell: Cell) -> str:
    question = replace(cell.question, traces=(), strategies=(), deliveries=(), seeds=(), loads=())
    trace = trace_of(cell)
    prices = Path(cell.question.prices).read_bytes() if cell.question.prices else b""
    prices += card_of(cell.question.model)
    strategy = strategy_named(cell.strategy)
    said = (strategy.digest, strategy.needs, strategy.description)  # the digest is silent on the other two
    parts = (code_version(), trace.manifest, trace.digest, said, cell.delivery)
    return hashlib.sha256(f"{parts}|{cell.seed}|{question}".encode() + prices).hexdigest()[:32]


def _run_and_keep(cell: Cell, keep: str, within: Within | None = None) -> Row:
    return kept(Path(keep) if keep else None, _key(cell) if keep else "", lambda: run_cell(cell, within))


def run_cells(
    cells: Sequence[Cell], *, jobs: int, keep: Path | None, progress: Callable[[float, int], None] | None = None
) -> Iterator[tuple[int, Row]]:
    """(index, result) as cells finish. ``progress`` hears of parts of a cell where cells run one by one."""
    folder = ""
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlacementError(f"cache {keep}: cannot be made ({error.strerror}); choose another --cache") from error
        folder = str(keep)
    if jobs == 1 or len(cells) == 1:
        for i, cell in enumerate(cells):

            def within(share: float, before: int = i) -> None:
                if progress is not None:
                    progress(before + share, len(cells))

            yield i, _run_and_keep(cell, folder, within)
        return
    yield from in_processes(jobs, _run_and_keep, [(cell, folder) for cell in cells])


def with_peak_fleets(cells: Sequence[Cell], *, jobs: int, keep: Path | None) -> list[Cell]:
    """Give each cell the fleet that `best-fit` needed at its peak on the elastic one (first delivery and seed)."""
    first: dict[tuple[str, float], Cell] = {}
    for cell in cells:
        elastic = replace(cell.question, fleet="elastic")
        first.setdefault((cell.trace, cell.load), replace(cell, question=elastic, strategy="best-fit"))
    rows = dict(run_cells(list(first.values()), jobs=jobs, keep=keep))
    fleets = {key: tuple(sorted(rows[i]["peak_nodes"].items())) for i, key in enumerate(first)}
    return [replace(cell, nodes=fleets[cell.trace, cell.load]) for cell in cells]


@dataclass(frozen=True)
class Comparison:
    """The answer: every cell, and what they say together."""

    question: Question
    rows: list[Row]
    command: str = ""
    metric: str = ""
    headline: str = ""
    summary: list[Row] = field(default_factory=list)


def compare(
    question: Question,
    *,
    jobs: int = 0,
    keep: Path | None = None,
    command: str = "",
    progress: Callable[[float, int], None] | None = None,
    log: str = "",
) -> Comparison:
    """Run every cell and sum up; the first one's event log goes to the folder ``log``, unless it is empty."""
    jobs = jobs or os.cpu_count() or 1
    cells = cells_of(question)
    if question.fleet == "peak":
        cells = with_peak_fleets(cells, jobs=jobs, keep=keep)
    cells[0] = replace(cells[0], log=log)
    rows: list[Row | None] = [None] * len(cells)
    for done, (i, row) in enumerate(run_cells(cells, jobs=jobs, keep=keep, progress=progress), start=1):
        rows[i] = row
        if progress is not None:
            progress(done, len(cells))
    complete = told_apart(cells, [row for row in rows if row is not None])
    metric = primary_metric(question, complete)
    return Comparison(question, complete, command, metric, headline(question, complete), summarise(question, complete))


def told_apart(cells: Sequence[Cell], rows: Sequence[Row]) -> list[Row]:
    """Rows in which two traces, or two strategies, of one name (a slice, a changed copy) also say what was given."""
    given: dict[tuple[str, str], set[str]] = {}
    for cell, row in zip(cells, rows, strict=True):
        given.setdefault(("trace", row["trace"]), set()).add(cell.trace)
        given.setdefault(("strategy", row["strategy"]), set()).add(cell.strategy)

    def name(kind: str, row: Row, source: str) -> str:
        plain = str(row[kind])
        return f"{plain} ({source})" if len(given[kind, plain]) > 1 and source != plain else plain

    return [
        {**row, "trace": name("trace", row, cell.trace), "strategy": name("strategy", row, cell.strategy)}
        for cell, row in zip(cells, rows, strict=True)
    ]


USE = ("over_cpu_share", "over_memory_share", "oom_kills", "throttled_core_hours", "reclaimed_core_hours")
"""Metrics of replays with real use; throttled work is apart from USD."""
LOWER_IS_BETTER = {"usd_per_month", "pending_s_p95", "node_hours", "usd"}
SHOWN = (
    "gpu_allocated_share",
    "cpu_allocated_share",
    "memory_allocated_share",
    "gpu_hours",
    "fragmented_gpu_share_end",
    "stranded_gpu_share_end",
    "stranded_cpu_share_end",
    "empty_nodes_mean",
    "pending_s_p50",
    "pending_s_p95",
    "pending_s_p99",
    "placed",
    "preemptions",
    "evictions",
    "lost_pod_hours",
    "node_hours",
    "usd_on_demand",
    "usd_spot",
    "usd_per_month",
    *USE,
)


def primary_metric(question: Question, rows: Sequence[Row]) -> str:
    """What decides, of the rows of one trace: USD on an elastic fleet, else the share of GPUs (or cores) allocated."""
    if question.fleet == "elastic":
        return "usd_per_month"
    if any(row["metrics"]["gpu_allocated_share"] for row in rows):
        return "gpu_allocated_share_end" if question.fill else "gpu_allocated_share"
    return "cpu_allocated_share_end" if question.fill else "cpu_allocated_share"


def label(question: Question, row: Row) -> str:
    """A cell's strategy, with its delivery where several are compared."""
    return f"{row['strategy']} ({row['delivery']})" if len(question.deliveries) > 1 else str(row["strategy"])


def values_of(question: Question, rows: Sequence[Row], trace: str, name: str, metric: str) -> list[float]:
    """A metric over seeds, in order of seeds; cells without the metric are left out."""
    found = [r for r in rows if r["trace"] == trace and label(question, r) == name]
    found.sort(key=lambda r: r["seed"])
    return [float(r["metrics"][metric]) for r in found if r["metrics"].get(metric) is not None]


def labels(question: Question, rows: Sequence[Row]) -> list[str]:
    """Compared things, in the order asked."""
    return list(dict.fromkeys(label(question, row) for row in rows))


def summarise(question: Question, rows: Sequence[Row]) -> list[Row]:
    """One row per trace and strategy: mean of each shown metric over seeds, and the spread of the trace's primary one."""
    overall = primary_metric(question, rows)
    table: list[Row] = []
    for trace in dict.fromkeys(row["trace"] for row in rows):
        metric = primary_metric(question, [row for row in rows if row["trace"] == trace])
        for name in labels(question, rows):
            line: Row = {"trace": trace, "strategy": name}
            for key in dict.fromkeys((overall, metric, *SHOWN)):
                values = values_of(question, rows, trace, name, key)
                line[key] = round(float(np.mean(values)), 6) if values else None
            main = values_of(question, rows, trace, name, metric)
            line["metric"] = metric
            line["sd"] = round(float(np.std(main, ddof=1)), 6) if len(main) > 1 else 0.0
            line["min"], line["max"] = (round(min(main), 6), round(max(main), 6)) if main else (None, None)
            table.append(line)
    return table


def headline(question: Question, rows: Sequence[Row]) -> str:
    """The result in a sentence for each trace: who wins, by how much, worth what, how often."""
    found = []
    for trace in dict.fromkeys(row["trace"] for row in rows):
        here = [row for row in rows if row["trace"] == trace]
        metric = primary_metric(question, here)
        values = {name: values_of(question, here, trace, name, metric) for name in labels(question, here)}
        if len(values) < 2:
            found.append(_alone(question, here, trace, next(iter(values))))
        elif not all(values.values()):
            found.append(f"On {trace}, no time was measured.")
        else:
            found.append(_winner(question, here, trace, metric, values))
    return " ".join(found)


def _alone(question: Question, rows: Sequence[Row], trace: str, name: str) -> str:
    """What one strategy did."""

    def mean(metric: str) -> float | None:
        values = values_of(question, rows, trace, name, metric)
        return float(np.mean(values)) if values else None

    metric = primary_metric(replace(question, fleet="trace"), rows)
    said = [f"{name} places {mean('placed') or 0:,.0f} of {mean('pods') or 0:,.0f} pods"]
    share = mean(metric)
    if share is not None:
        said.append(f"allocates {100 * share:.2f} % of the {'GPUs' if metric.startswith('gpu') else 'CPU'}")
    usd = mean("usd_per_month")
    if usd is not None:
        said.append(f"costs {usd:,.0f} USD a month")
    return f"On {trace}, {_listed(said)}."


def _winner(question: Question, rows: Sequence[Row], trace: str, metric: str, values: dict[str, list[float]]) -> str:
    """Who is best, or who is level."""
    is_usd = metric in LOWER_IS_BETTER
    means = {name: float(np.mean(found)) for name, found in values.items()}
    best, second = sorted(means, key=lambda name: means[name] if is_usd else -means[name])[:2]
    what = "GPUs" if metric.startswith("gpu") else "CPU"

    def said(mean: float) -> str:
        return f"{mean:,.0f} USD a month" if is_usd else f"{100 * mean:.2f} % of the {what} allocated"

    level = [name for name in means if said(means[name]) == said(means[best])]
    if len(level) > 1:
        them = f"all {len(level)} strategies" if len(level) == len(means) > 2 else _listed(level)
        apart = "" if is_usd else _apart(question, rows, trace, level)
        return f"On {trace}, {them} are level: {said(means[best])}{apart}."
    pairs = list(zip(values[best], values[second], strict=True))
    wins = sum((a < b) if is_usd else (a > b) for a, b in pairs)
    often = f"on {wins} of {len(pairs)} seeds" if len(pairs) > 1 else "on the one seed"
    gain = abs(means[best] - means[second])
    if not is_usd:
        worth = _worth(rows, trace, metric, gain)
        return f"On {trace}, {best} allocates {100 * gain:.2f} points more {what[:3]} than {second}{worth}, {often}."
    placed = {name: float(np.mean(values_of(question, rows, trace, name, "placed"))) for name in (best, second)}
    fewer = placed[second] - placed[best]
    but = f", but places {fewer:,.1f} fewer pods".replace(".0 ", " ") if fewer > 0 else ""
    share = f" ({100 * gain / means[second]:.1f} %)" if means[second] else ""
    return f"On {trace}, {best} costs {gain:,.0f} USD a month{share} less than {second}, {often}{but}."


def _apart(question: Question, rows: Sequence[Row], trace: str, level: Sequence[str]) -> str:
    """What tells strategies apart that allocated alike: pods that found no place, else nodes that nobody needed."""
    for metric, words in (
        ("placed", "; {most} places {high} pods, {least} {low}"),
        ("empty_nodes_mean", "; {most} leaves {high} nodes empty, {least} {low}"),
    ):
        found = {name: values_of(question, rows, trace, name, metric) for name in level}
        means = {name: round(float(np.mean(values)), 1) for name, values in found.items() if values}
        if len(set(means.values())) > 1:
            most, least = (pick(means, key=lambda name: means[name]) for pick in (max, min))
            high, low = (f"{means[name]:,.1f}".removesuffix(".0") for name in (most, least))
            return words.format(most=most, least=least, high=high, low=low)
    return ""


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _worth(rows: Sequence[Row], trace: str, metric: str, gain: float) -> str:
    """What a share of the fleet costs a month."""
    found = next(r["metrics"] for r in rows if r["trace"] == trace)
    hours, share = found["hours"], found["gpu_allocated_share" if metric.startswith("gpu") else "cpu_allocated_share"]
    if not hours or not share:
        return ""
    if metric.startswith("gpu"):
        fleet = found["gpu_hours"] / share / hours * RATES.gpu
    else:
        fleet = found["core_hours"] / share / hours * RATES.cpu
    return f", worth {gain * fleet * HOURS_A_MONTH:,.0f} USD a month"


def document(comparison: Comparison) -> Row:
    """The whole comparison as JSON; everything that may differ between equal runs is in ``timing`` and ``command``."""
    cells = [{k: v for k, v in row.items() if k != "timing"} for row in comparison.rows]
    return {
        "apiVersion": "ullage.dev/v1",
        "kind": "Comparison",
        "headline": comparison.headline,
        "metric": comparison.metric,
        "summary": comparison.summary,
        "question": dict(vars(comparison.question)),
        "versions": {name: metadata.version(name) for name in ("ullage", "numpy")},
        "cells": cells,
        "command": comparison.command,
        "timing": [row["timing"] for row in comparison.rows],
    }
