"""Plans over whole traces: the cheapest fleet for a trace's peak, and policies in replay against doing nothing.

A recorded pod may ask for things that no shape of a price book lists (local disk, shares of a network card). Such
requests are left out on both sides, and every row says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from placement.devices import DEVICE_UNITS, device_units
from placement.errors import ConfigError
from placement.planning import purchase
from placement.planning.foresight import worth_of
from placement.planning.plans import Deadline
from placement.pods import PodSpec
from placement.resources import PODS, FloatArray, IntArray
from placement.strategies import strategy_named
from simulator.cost import HOURS_A_MONTH, PriceBook
from simulator.delivery import delivery_named, delivery_of
from simulator.fleet import Elastic, Shape
from simulator.measures import measure
from simulator.planning.plan_bench import Row
from simulator.planning.policies import Consolidation, Promise
from simulator.replay import Outcome, Replay, ReplayOptions
from simulator.timeline import Timeline
from simulator.traces.trace import Pods, Trace

NEVER = -1


def within(trace: Trace, shapes: Sequence[Shape]) -> tuple[Trace, tuple[str, ...]]:
    """The trace without requests for what no shape offers, and the names of those resources."""
    offered = {name for shape in shapes for name, _ in shape.allocatable}
    foreign = {name for spec in trace.specs for name, amount in spec.request if amount and name not in offered}
    if not foreign:
        return trace, ()
    specs = [
        replace(spec, request=tuple(item for item in spec.request if item[0] not in foreign)) for spec in trace.specs
    ]
    index: dict[PodSpec, int] = {}
    number = np.array([index.setdefault(spec, len(index)) for spec in specs], np.int64)
    return trace.but(specs=tuple(index), pods=replace(trace.pods, spec=number[trace.pods.spec])), tuple(sorted(foreign))


def since(trace: Trace, seconds: int) -> Trace:
    """The trace from so many seconds after its first arrival; who runs then arrives at once."""
    pods = trace.pods
    start_s = int(pods.arrival_s[0]) + seconds if len(pods) else seconds
    kept = np.flatnonzero((pods.departure_s == NEVER) | (pods.departure_s > start_s))
    rest = Pods(*(column[kept] for column in (pods.name, pods.spec, pods.arrival_s, pods.departure_s, pods.gang)))
    rest = replace(rest, arrival_s=np.maximum(rest.arrival_s, start_s))
    return trace.but(pods=rest)


def without_departures(trace: Trace) -> Trace:
    """The trace with pods that stay for ever."""
    return trace.but(pods=replace(trace.pods, departure_s=np.full_like(trace.pods.departure_s, NEVER)))


def peak(trace: Trace, book: PriceBook) -> tuple[IntArray, int]:
    """Pods per class ``(S,)`` that want to run at the moment when they would cost most at the book's rates, and when."""
    worth = worth_of(trace.specs, book.rates)
    pods = trace.pods
    ends = pods.departure_s != NEVER
    time_s = np.concatenate([pods.departure_s[ends], pods.arrival_s])
    change = np.concatenate([-worth[pods.spec[ends]], worth[pods.spec]])
    order = np.argsort(time_s, kind="stable")  # who leaves in the same second has left
    when = int(time_s[order][int(np.argmax(np.cumsum(change[order])))])
    runs = (pods.arrival_s <= when) & (~ends | (pods.departure_s > when))
    return np.bincount(pods.spec[runs], minlength=len(trace.specs)).astype(np.int64), when


def demand_of(
    trace: Trace, count: IntArray, shapes: Sequence[Shape]
) -> tuple[purchase.Demand, list[purchase.Shape], FloatArray]:
    """The purchase model of ``count`` pods per class: demand, shapes, and exact device shares ``(C,)``."""
    names = sorted({name for shape in shapes for name, _ in shape.allocatable} - {PODS})
    request = [[spec.amount(name) for spec in trace.specs] for name in names]
    request += [[1] * len(trace.specs), [device_units(spec.gpu) for spec in trace.specs]]
    for_sale = []
    for shape in shapes:
        amounts = dict(shape.allocatable)
        capacity = [*(amounts.get(name, 0) for name in (*names, PODS)), DEVICE_UNITS * shape.num_gpus]
        limit = shape.limit or None
        for_sale.append(purchase.Shape(shape.name, np.array(capacity, np.int64), shape.usd_per_hour, limit))
    allowed = np.array(
        [
            [not (spec.gpu and spec.gpu.models) or shape.gpu_model in spec.gpu.models for shape in shapes]
            for spec in trace.specs
        ],
        np.bool_,
    )
    exact = [spec.gpu.count * spec.gpu.milli * DEVICE_UNITS / 1000 if spec.gpu else 0.0 for spec in trace.specs]
    return purchase.Demand(np.array(request, np.int64), count, allowed), for_sale, np.array(exact)


def fleet_row(trace: Trace, book: PriceBook, deadline: Deadline, *, seed: int = 0) -> Row:
    """Cheapest fixed fleet that holds the trace's peak, against multi-type first-fit decreasing."""
    if not book.shapes:
        raise ConfigError("the price book sells no shape; give one with at least one row")
    if not len(trace.pods):
        raise ConfigError(f"trace {trace.manifest.name}: holds no pods, so it needs no fleet; check the trace")
    shapes = list(book.shapes.values())
    trace, ignored = within(trace, shapes)
    count, when = peak(trace, book)
    demand, for_sale, exact = demand_of(trace, count, shapes)
    misfits = purchase.unplaceable(demand, for_sale)
    left_out = int(count[misfits].sum())
    demand.count[misfits] = 0
    rival = purchase.first_fit_decreasing(demand, for_sale)
    assert rival is not None, "classes that fit nowhere were left out"
    bought = purchase.buy(demand, for_sale, deadline, seed=seed)
    wrong = purchase.violations(demand, for_sale, bought)
    assert not wrong, f"the fleet failed its check: {wrong[0]}"
    shared = replace(demand, request=np.concatenate([demand.request[:-1], np.floor(exact)[None].astype(np.int64)]))
    bound = min(bought.bound, purchase.fluid_bound(shared, for_sale)) if exact.any() else bought.bound
    nodes = bought.nodes(len(for_sale))
    return {
        "trace": trace.manifest.name,
        "peak_s": when,
        "pods": int(demand.count.sum()),
        "left_out": left_out,
        "ignored": " ".join(ignored),
        "usd_per_hour": bought.cost,
        "usd_per_month": bought.cost * HOURS_A_MONTH,
        "bound_usd_per_month": bound * HOURS_A_MONTH,
        "gap_percent": 100 * (bought.cost / bound - 1) if bound > 0 else None,
        "ffd_usd_per_month": rival.cost * HOURS_A_MONTH,
        "saving_percent": 100 * (1 - bought.cost / rival.cost) if rival.cost else None,
        "nodes": " ".join(f"{n}x{shape.name}" for n, shape in zip(nodes, for_sale, strict=True) if n),
        "ending": str(bought.ending),
    }


# ── policies in replay ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Question:
    """One replay on an elastic fleet; times in seconds."""

    strategy: str
    policy: str
    delivery: str = "decide"
    every_s: int = 3600
    moves_share: float = 0.1
    history_s: int = 0
    least_saved: float = 0.0
    since_s: int = 0
    buys: str = "default"
    foresees_s: int = 300
    restart_s: int = 60
    checkpoint_s: int = 0
    end_s: int = NEVER
    seed: int = 0


@dataclass
class Meter:
    """USD so far, read each ``every_s``; changes nothing."""

    book: PriceBook
    every_s: int
    usd: list[float] = field(default_factory=list)

    def act(self, replay: Replay) -> None:
        """Read it."""
        self.usd.append(spent(replay.timeline, replay.time_s, self.book))


def spent(timeline: Timeline, time_s: int, book: PriceBook) -> float:
    """USD for the nodes of an elastic fleet up to now."""
    shapes = book.shapes
    return sum(s / 3600 * shapes[name].price(spot=spot) for (name, spot), s in timeline.node_seconds(time_s).items())


def replay_row(trace: Trace, book: PriceBook, question: Question) -> Row:
    """What a policy does to a trace."""
    trace = _begun(trace, question)
    outcome, promises = _replay(trace, book, question)
    metrics = measure(outcome, trace, book)["metrics"]
    waited = outcome.pending_s[outcome.pending_s >= 0]
    return {
        "strategy": question.strategy,
        "delivery": outcome.delivery,
        "policy": question.policy,
        "buys": question.buys,
        "usd": metrics["usd"],
        "evictions": metrics["evictions"],
        "lost_pod_hours": metrics["lost_pod_hours"],
        "wait_s_mean": float(waited.mean()) if len(waited) else 0.0,
        "placed": metrics["placed"],
        "acts": len(promises),
        "nodes_deleted": sum(p.deleted for p in promises),
        "promised_usd_per_hour": sum(p.usd_per_hour for p in promises),
        "deleted_usd_per_hour": sum(p.price for p in promises),
    }


def _begun(trace: Trace, question: Question) -> Trace:
    return since(trace, question.since_s) if question.since_s else trace


def _replay(
    trace: Trace, book: PriceBook, question: Question, last_act: int | None = None, meter: Meter | None = None
) -> tuple[Outcome, list[Promise]]:
    """One replay in which no more than ``last_act`` acts happen, and what was promised in it."""
    policy = None
    if question.policy != "none":
        policy = Consolidation(
            question.policy,
            book,
            every_s=question.every_s,
            moves_share=question.moves_share,
            restart_s=question.restart_s,
            checkpoint_s=question.checkpoint_s,
            history_s=question.history_s,
            least_saved=question.least_saved,
            last_act=last_act,
        )
    start_s = int(trace.pods.arrival_s[0]) if len(trace.pods) else 0
    options = ReplayOptions(
        seed=question.seed,
        delivery=delivery_named(delivery_of(question.strategy, question.delivery)),
        elastic=Elastic(tuple(book.shapes.values()), buys=question.buys, foresees_s=question.foresees_s),
        end_s=NEVER if question.end_s == NEVER else start_s + question.end_s,
        policies=tuple(p for p in (meter, policy) if p is not None),
        log=False,
    )
    outcome = Replay(trace, strategy_named(question.strategy), options).run()
    return outcome, [] if policy is None else policy.promises


def judge(trace: Trace, book: PriceBook, question: Question, act: int, span_s: int) -> Row:
    """What act number ``act`` promised, and what it saved in the ``span_s`` seconds after it.

    Two replays that differ in this one act: with it, and without it and all later ones.
    """
    if not 0 < span_s <= question.every_s:
        raise ConfigError(f"an act can be judged over 1 to {question.every_s} s, until the next one; got {span_s}")
    until = replace(question, end_s=act * question.every_s + span_s)
    trace = _begun(trace, question)
    without, _ = _replay(trace, book, until, act - 1)
    with_act, promises = _replay(trace, book, until, act)
    usd = [spent(outcome.timeline, outcome.timeline.time_s, book) for outcome in (without, with_act)]
    return _judged(trace, act, span_s, promises, usd[0] - usd[1], question)


def judge_all(trace: Trace, book: PriceBook, question: Question) -> list[Row]:
    """Each act of a replay, judged over the interval after it as :func:`judge` does, in one replay more than acts."""
    if question.end_s == NEVER:
        raise ConfigError("judging every act needs an end; give the second to stop at (--until)")
    trace, every_s = _begun(trace, question), question.every_s
    rows: list[Row] = []
    before: Meter | None = None
    for act in range(question.end_s // every_s):
        meter = Meter(book, every_s)
        _, promises = _replay(trace, book, replace(question, end_s=(act + 2) * every_s), act, meter)
        if before is not None:
            rows.append(_judged(trace, act, every_s, promises, before.usd[act] - meter.usd[act], question))
        before = meter
    return rows


def _judged(trace: Trace, act: int, span_s: int, promises: list[Promise], saved_usd: float, question: Question) -> Row:
    start_s = int(trace.pods.arrival_s[0])
    mine = [p for p in promises if p.time_s == start_s + act * question.every_s]
    promised, realised = sum(p.usd_per_hour for p in mine), saved_usd / span_s * 3600
    ends = [(p.low, p.high) for p in mine if p.low is not None and p.high is not None]
    low, high = (sum(e[0] for e in ends), sum(e[1] for e in ends)) if ends else (None, None)
    return {
        "act": act,
        "span_s": span_s,
        "nodes_deleted": sum(p.deleted for p in mine),
        "evictions": sum(p.moves for p in mine),
        "deleted_usd_per_hour": sum(p.price for p in mine),
        "promised_usd_per_hour": promised,
        "promised_low": low,
        "promised_high": high,
        "realised_usd_per_hour": realised,
        "within": None if low is None or high is None else low <= realised <= high,
        "realised_share": realised / promised if promised else None,
    }
