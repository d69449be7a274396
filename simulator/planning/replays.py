"""Policies in replay: what one does to a trace on an elastic fleet, and what its acts promised and saved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from placement.errors import ConfigError
from placement.planning.gathering import Terms
from placement.strategies import strategy_named
from simulator.cost import PriceBook
from simulator.delivery import delivery_named, delivery_of
from simulator.fleet import Elastic
from simulator.measures import measure
from simulator.planning.bench import Row
from simulator.planning.policies import Consolidation, Promise
from simulator.replay import Outcome, Replay, ReplayOptions
from simulator.timeline import Timeline
from simulator.traces.trace import NEVER, Trace


def since(trace: Trace, seconds: int) -> Trace:
    """The trace from so many seconds after its first arrival; who runs then arrives at once."""
    pods = trace.pods
    start_s = int(pods.arrival_s[0]) + seconds if len(pods) else seconds
    kept = np.flatnonzero((pods.departure_s == NEVER) | (pods.departure_s > start_s))
    rest = pods.pick(kept)
    rest = replace(rest, arrival_s=np.maximum(rest.arrival_s, start_s))
    return trace.but(pods=rest)


@dataclass(frozen=True)
class Question:
    """One replay on an elastic fleet; times in seconds."""

    strategy: str
    policy: str
    delivery: str = "decide"
    gate_deadline_s: int = int(Terms.gate_deadline_s)
    """Of delivery `nominate`."""
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
    delivery = delivery_named(delivery_of(question.strategy, question.delivery))
    if delivery.gate is not None:
        delivery = replace(delivery, gate=replace(delivery.gate, gate_deadline_s=question.gate_deadline_s))
    options = ReplayOptions(
        seed=question.seed,
        delivery=delivery,
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
