"""Several strategies on several traces: cells in parallel processes, each kept as soon as it is finished.

A cell is one (trace, strategy, delivery, seed). Its result is a small JSON, stored under a key that names everything it
depends on (digests of trace and strategy, options, version), so the same command takes up where it was interrupted and
never mixes results of different inputs. Numbers depend on none of that: not on ``jobs``, not on the order of finishing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path

from placement.errors import ConfigError
from placement.knowledge import workload_of
from placement.learning.boosted import load_card
from placement.learning.horizons import MOST_WORKLOADS
from placement.learning.lifetime_model import SECTION, load_lifetimes
from placement.learning.prediction import RULE_PREFIX, Rungs, card_of, load_rungs, target_of
from placement.learning.spans import Span
from placement.rates import RATES
from placement.strategies import STRATEGIES, strategy_named
from placement.strategy import Strategy
from simulator.comparison import USE, Comparison, Question, Row
from simulator.cost import DEFAULT_BOOK, PriceBook, book_for
from simulator.delivery import delivery_named, delivery_of
from simulator.event_log import write_log
from simulator.fleet import Elastic
from simulator.kept import code_version, kept
from simulator.measures import SERIES_POINTS, measure
from simulator.output import Progress, untold
from simulator.replay import Interruptions, Policy, Replay, ReplayOptions
from simulator.traces.churn import Churn, resample
from simulator.traces.sources import open_trace
from simulator.traces.trace import Trace
from simulator.usage.lifetime_learner import LifetimeLearner
from simulator.usage.mechanisms import use_policies
from simulator.usage.reclaiming import batch_on_reclaimed
from simulator.usage.usage_learner import UsageLearner
from simulator.workers import in_processes


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


def run_cell(cell: Cell, progress: Progress = untold) -> Row:
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
    outcome = Replay(trace, strategy, options).run(progress)
    if cell.log:
        begins_s = trace.manifest.begins_s
        write_log(Path(cell.log), outcome.log, [strategy], begins_s=begins_s, delivery=options.delivery)
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


def _run_and_keep(cell: Cell, keep: Path | None, progress: Progress = untold) -> Row:
    return kept(keep, "" if keep is None else _key(cell), partial(run_cell, cell, progress))


def run_cells(
    cells: Sequence[Cell], *, jobs: int, keep: Path | None, progress: Progress = untold
) -> Iterator[tuple[int, Row]]:
    """(index, result) as cells finish. ``progress`` hears of parts of a cell where cells run one by one."""
    if jobs == 1 or len(cells) == 1:
        for i, cell in enumerate(cells):

            def within(done: float, total: float, before: int = i) -> None:
                progress(before + done / max(total, 1), len(cells))

            yield i, _run_and_keep(cell, keep, within)
        return
    yield from in_processes(jobs, _run_and_keep, [(cell, keep) for cell in cells])


def with_peak_fleets(cells: Sequence[Cell], *, jobs: int, keep: Path | None) -> list[Cell]:
    """Give each cell the fleet that `best-fit` needed at its peak on the elastic one (first delivery and seed)."""
    first: dict[tuple[str, float], Cell] = {}
    for cell in cells:
        elastic = replace(cell.question, fleet="elastic")
        first.setdefault((cell.trace, cell.load), replace(cell, question=elastic, strategy="best-fit"))
    rows = dict(run_cells(list(first.values()), jobs=jobs, keep=keep))
    fleets = {key: tuple(sorted(rows[i]["peak_nodes"].items())) for i, key in enumerate(first)}
    return [replace(cell, nodes=fleets[cell.trace, cell.load]) for cell in cells]


def compare(
    question: Question,
    *,
    jobs: int = 0,
    keep: Path | None = None,
    command: str = "",
    progress: Progress = untold,
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
        progress(done, len(cells))
    return Comparison(question, told_apart(cells, [row for row in rows if row is not None]), command)


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
