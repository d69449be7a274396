"""Policies in replay: what one does to a trace on an elastic fleet, and what its acts promised and saved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from placement.errors import ConfigError
from placement.log import NODE_ADDED, NODE_REMOVED, EventLog
from placement.planning.gathering import Terms
from placement.strategies import strategy_named
from simulator.cost import PriceBook
from simulator.delivery import delivery_named, delivery_of
from simulator.fleet import Elastic
from simulator.measures import measure
from simulator.planning.bench import Row
from simulator.planning.policies import Consolidation, Promise
from simulator.replay import Outcome, Replay, ReplayOptions
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


class Stay(NamedTuple):
    """A node of an elastic fleet: seconds it was there, and its price."""

    begin_s: int
    end_s: int
    usd_per_hour: float

    def usd(self, begin_s: int, end_s: int) -> float:
        """What it cost between two seconds."""
        return max(0, min(self.end_s, end_s) - max(self.begin_s, begin_s)) / 3600 * self.usd_per_hour


def stays(log: EventLog, end_s: int, book: PriceBook) -> dict[str, Stay]:
    """Every node that a replay up to ``end_s`` bought, by name."""
    found: dict[str, Stay] = {}
    for event in log:
        if event.kind == NODE_ADDED:
            found[event.subject] = Stay(event.time_s, end_s, book.usd_per_hour(event.detail))
        elif event.kind == NODE_REMOVED:
            found[event.subject] = found[event.subject]._replace(end_s=event.time_s)
    return found


class Saved(NamedTuple):
    """USD that an act saved in the time after it, which is ``stayed`` − ``others`` − ``again``, by where that came from."""

    stayed: float
    """What the nodes that went cost where they were left."""
    others: float
    """What other nodes that were there cost more: for the pods that moved there, and as others filled them."""
    again: float
    """What nodes that came later cost more."""

    @property
    def usd(self) -> float:
        """All of it."""
        return self.stayed - self.others - self.again


def saved(without: dict[str, Stay], with_act: dict[str, Stay], begin_s: int, end_s: int) -> Saved:
    """What an act at ``begin_s`` saved until ``end_s``, by the nodes of two replays that differ in it and all after it."""
    there = {name for name, stay in without.items() if stay.begin_s <= begin_s < stay.end_s}
    gone = {name for name in there if with_act[name].end_s == begin_s}

    def usd(nodes: dict[str, Stay], names: Iterable[str]) -> float:
        return sum(nodes[name].usd(begin_s, end_s) for name in names)

    kept = there - gone
    return Saved(
        usd(without, gone),
        usd(with_act, kept) - usd(without, kept),
        usd(with_act, with_act.keys() - there) - usd(without, without.keys() - there),
    )


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
    trace: Trace, book: PriceBook, question: Question, last_act: int | None = None
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
        policies=() if policy is None else (policy,),
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
    without, _ = _nodes(trace, book, until, act - 1)
    with_act, promises = _nodes(trace, book, until, act)
    return _judged(trace, act, span_s, promises, (without, with_act), question)


def judge_all(trace: Trace, book: PriceBook, question: Question) -> list[Row]:
    """Each act of a replay, judged over the interval after it as :func:`judge` does, in one replay more than acts."""
    if question.end_s == NEVER:
        raise ConfigError("judging every act needs an end; give the second to stop at (--until)")
    trace, every_s = _begun(trace, question), question.every_s
    rows: list[Row] = []
    before: dict[str, Stay] | None = None
    for act in range(question.end_s // every_s):
        nodes, promises = _nodes(trace, book, replace(question, end_s=(act + 2) * every_s), act)
        if before is not None:
            rows.append(_judged(trace, act, every_s, promises, (before, nodes), question))
        before = nodes
    return rows


def _nodes(trace: Trace, book: PriceBook, question: Question, last_act: int) -> tuple[dict[str, Stay], list[Promise]]:
    outcome, promises = _replay(trace, book, question, last_act)
    return stays(outcome.log, outcome.timeline.time_s, book), promises


def _judged(
    trace: Trace,
    act: int,
    span_s: int,
    promises: list[Promise],
    nodes: tuple[dict[str, Stay], dict[str, Stay]],
    question: Question,
) -> Row:
    """``nodes`` of the replay without the act, and with it."""
    begin_s = int(trace.pods.arrival_s[0]) + act * question.every_s
    mine = [p for p in promises if p.time_s == begin_s]
    found = Saved(*(usd / span_s * 3600 for usd in saved(*nodes, begin_s, begin_s + span_s)))
    expected = [p.expected for p in mine]
    promised, realised = sum(e.saved for e in expected), found.usd
    ends = [(e.low, e.high) for e in expected if e.low is not None and e.high is not None]
    low, high = (sum(e[0] for e in ends), sum(e[1] for e in ends)) if ends else (None, None)
    return {
        "act": act,
        "span_s": span_s,
        "nodes_deleted": sum(p.deleted for p in mine),
        "evictions": sum(p.moves for p in mine),
        "moves_refused": sum(p.refused for p in mine),
        "deleted_usd_per_hour": sum(p.price for p in mine),
        "promised_usd_per_hour": promised,
        "promised_low": low,
        "promised_high": high,
        "realised_usd_per_hour": realised,
        "within": None if low is None or high is None else low <= realised <= high,
        "realised_share": realised / promised if promised else None,
        "expected_stays": sum(e.stays for e in expected),
        "expected_moves": sum(e.moves for e in expected),
        "expected_again": sum(e.again for e in expected),
        "stayed": found.stayed,
        "others": found.others,
        "again": found.again,
    }
