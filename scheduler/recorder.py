"""Takes decision records, live and from an event log, without standing in the way of an answer.

Once a decision's answer is on its way, before anything else is asked, one pass over the nodes notes who was second
best and why the others were turned away, in codes. A thread of its own makes a record of that and writes it. The queue
is bounded: what does not fit is dropped and counted, and while it is more than half full reasons are left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from placement import log as placement_log
from placement.errors import ConfigError
from placement.knowledge import Forecasts
from placement.log import Asked, Event, EventLog
from placement.nodes import NodeSpec
from placement.playback import apply, offered
from placement.pods import PodSpec
from placement.rejections import MAX_KNOWN, Rejections, Standing
from placement.resources import CPU, MEMORY, NOT_FEASIBLE, BoolArray, IntArray
from placement.state import TOUCH_RING, ClusterState
from placement.strategy import Decision, Strategy
from scheduler.clocks import calm_s
from scheduler.engine import Answered, Engine
from scheduler.ledger import Seen
from scheduler.metrics import Metrics
from scheduler.quiet import Quiet
from scheduler.records import IDLE, Bound, Fleet, Record, RecordStore, pack
from scheduler.settings import RecordSettings

log = logging.getLogger(__name__)

TOP = 5
"""Candidates whose score parts are kept, the chosen one and the runner-up among them."""
DAEMON = "DaemonSet/"
"""Owners whose pods do not keep a node from being idle."""
PAUSE_S = 0.1
PRUNE_EVERY_S = 60.0
BATCH = 1000
"""Records of an event log that are written at once."""


def requested(spec: PodSpec) -> dict[str, Any]:
    """What a pod asked for, in plain values."""
    asked: dict[str, Any] = dict(spec.amounts)
    if spec.gpu is not None:
        asked["gpu"] = {"count": spec.gpu.count, "milli": spec.gpu.milli, "models": list(spec.gpu.models)}
    if spec.owner:
        asked["owner"] = spec.owner
    if spec.priority:
        asked["priority"] = spec.priority
    return asked


class Top(Struct, frozen=True, gc=False):
    """The best nodes for a pod, the chosen one first. Nothing here changes when the ledger does."""

    names: tuple[str, ...]
    """Of the scorers."""
    nodes: list[NodeSpec | None]
    totals: list[int]
    parts: IntArray | None
    """``(scorers, n)`` int64, weighted score parts; None if the totals are the only scorer's."""

    def entries(self) -> list[dict[str, Any]]:
        """Node, score, and parts by scorer."""
        columns = [[total] for total in self.totals] if self.parts is None else self.parts.T.tolist()
        return [
            {"node": node.name, "score": total, "parts": dict(zip(self.names, parts, strict=True))}
            for node, total, parts in zip(self.nodes, self.totals, columns, strict=True)
            if node is not None
        ]


def top_of(strategy: Strategy, state: ClusterState, spec: PodSpec, rows: list[int], totals: list[int]) -> Top:
    """What a record says of ``rows``, whose scores are ``totals``."""
    parts, program = None, strategy.program(state)
    if rows and (strategy.soft or len(program.scorers) > 1):
        parts = program.parts(spec, np.array(rows, np.int64))
    return Top(program.names, [state.nodes[row] for row in rows], totals, parts)


def runner_up(entries: Sequence[dict[str, Any]], node: str) -> str:
    """Name of the best candidate besides ``node``, empty for none."""
    return next((entry["node"] for entry in entries if entry["node"] != node), "")


class Taken(Struct, gc=False):
    """A decision and what its moment showed; nothing here changes when the ledger does."""

    answered: Answered
    strategy: Strategy
    top: Top
    forecasts: Forecasts | None
    standing: Standing | None = None
    idle: BoolArray | None = None
    """``(N,)`` bool: nodes that held nothing but daemons."""
    nodes: Fleet | None = None
    is_exact: bool = False
    """Whether the ledger was as the decision saw it."""

    def record(self, last: dict[int, Masks] | None = None) -> Record:
        """All of it, written out; ``last`` remembers masks by class, which mostly are what they were the last time."""
        record = record_of(self.answered, self.strategy, self.forecasts)
        record.top = self.top.entries()
        record.runner_up = runner_up(record.top, record.node)
        record.is_exact = self.is_exact
        record.nodes = self.nodes
        if self.standing is None or self.idle is None:
            return record
        last = {} if last is None else last
        key = id(self.standing.texts)
        masks = last.get(key)
        if masks is None or not masks.are_of(self.standing, self.idle):
            if len(last) >= MAX_KNOWN:
                last.clear()
            masks = last[key] = Masks.of(self.standing, self.idle)
        record.masks, record.reasons, record.packed = masks.masks, masks.reasons, masks.packed
        return record


class Masks(NamedTuple):
    """What a record says of nodes, once for all decisions to which they stood alike."""

    standing: Standing
    idle: BoolArray
    masks: dict[str, BoolArray]
    reasons: dict[str, int]
    packed: bytes

    @classmethod
    def of(cls, standing: Standing, idle: BoolArray) -> Masks:
        """Written out."""
        masks = standing.masks()
        reasons = {reason: int(np.count_nonzero(mask)) for reason, mask in masks.items()}
        masks[IDLE] = idle
        return cls(standing, idle, masks, reasons, pack(masks))

    def are_of(self, standing: Standing, idle: BoolArray) -> bool:
        """Whether nodes stand as they did."""
        is_same = self.standing.texts is standing.texts and self.idle is idle
        return is_same and np.array_equal(self.standing.codes, standing.codes)


def take(
    answered: Answered, strategy: Strategy, state: ClusterState, known: Rejections, candidates: BoolArray | None
) -> Taken:
    """The chosen node and the best others with their parts, and reasons, of a ledger that does not count the pod yet."""
    decision, spec = answered.decision, answered.spec
    top, standing = best_of(strategy, state, spec, candidates, decision, known)
    is_exact = state.version == decision.version
    return Taken(answered, strategy, top, state.knowledge.forecasts, standing, is_exact=is_exact)


def best_of(
    strategy: Strategy,
    state: ClusterState,
    spec: PodSpec,
    candidates: BoolArray | None,
    decision: Decision,
    known: Rejections | None = None,
) -> tuple[Top, Standing]:
    """The chosen node and the best others, and why the rest was turned away; ``known`` remembers that between calls."""
    known = Rejections() if known is None else known
    standing = known.of(strategy, state.snapshot(), spec, candidates, chosen=decision.row, most=TOP - 1)
    rows, totals = standing.best, standing.totals
    if decision.is_placed:
        rows, totals = [decision.row, *rows], [decision.score, *totals]
    return top_of(strategy, state, spec, rows, totals), standing


def is_idle(state: ClusterState, row: int) -> bool:
    """Whether a node holds nothing but daemons."""
    for resident in state.residents_on[row].values():
        if not resident.spec.owner.startswith(DAEMON):
            return False
    return bool(state.is_alive[row])


class IdleNodes:
    """Which nodes hold nothing but daemons, kept up to date from the ledger's ring of touches."""

    def __init__(self) -> None:
        self._idle: BoolArray = np.zeros(0, np.bool_)
        self._clock = 0

    def mask(self, state: ClusterState) -> BoolArray:
        """``(N,)`` bool. It never changes: another one is made when a node does."""
        missed = range(self._clock, state.clock)
        self._clock = state.clock
        if len(missed) > min(TOUCH_RING // 2, state.num_rows):
            self._idle = np.array([is_idle(state, row) for row in range(state.num_rows)], np.bool_)
            return self._idle
        if len(self._idle) != state.num_rows:  # rows are only ever added, and touched then
            self._idle = np.append(self._idle, np.zeros(state.num_rows - len(self._idle), np.bool_))
        fresh = None
        for clock in missed:
            row = int(state.touched[clock & (TOUCH_RING - 1)])
            now = is_idle(state, row)
            if now != (self._idle if fresh is None else fresh)[row]:
                fresh = self._idle.copy() if fresh is None else fresh
                fresh[row] = now
        if fresh is not None:
            self._idle = fresh
        return self._idle


class Recorder:
    """Takes records on the event loop and writes them in a thread of its own.

    :meth:`attach` begins, and then a decision is offered before the ledger counts its pod. Nothing here raises
    towards the caller. The thread writes one record at a time, in moments that are ``quiet``.
    """

    def __init__(self, settings: RecordSettings, metrics: Metrics, quiet: Quiet | None = None) -> None:
        self.settings = settings
        self.metrics = metrics
        self._pace = (quiet or Quiet()).pace()
        self.store = RecordStore(Path(settings.path), settings)
        self.store.on_final = self._final
        self._queue: deque[Taken | Fleet | Seen] = deque()
        self._stop = threading.Event()
        self._engine: Engine | None = None
        self._idle = IdleNodes()
        self._known = Rejections()
        self._fleet: tuple[int, Fleet | None] = (-1, None)
        self._thread = threading.Thread(target=self._write, name="records", daemon=True)

    def attach(self, engine: Engine) -> None:
        """Begin: ``engine`` tells about decisions, its ledger about what became of pods."""
        self._engine = engine
        engine.listeners.append(self.offer)
        engine.ledger.on_bound = self.bound
        self._thread.start()

    def offer(self, answered: Answered) -> None:
        """Keep the decision if there is room, else count it as dropped."""
        if len(self._queue) >= self.settings.queue:
            self.metrics.records_dropped.inc()
            return
        try:
            self._offer(answered)
        except Exception as error:  # a record is never worth an answer
            self.metrics.records_dropped.inc()
            about = {"decision_id": answered.decision_id, "pod": f"{answered.namespace}/{answered.name}"}
            log.error("decision record lost", exc_info=error, extra=about)

    def _offer(self, answered: Answered) -> None:
        assert self._engine is not None, "attach() comes first"
        engine, decision = self._engine, answered.decision
        state = engine.state
        seen = engine.ledger.pods.get(answered.uid)
        if seen is not None and seen.node:
            return  # somebody probes with a pod that is bound already: no decision
        strategy = engine.strategy if decision.strategy == engine.strategy.digest else engine.fallback
        if len(self._queue) > self.settings.queue // 2 or len(answered.candidates) != state.num_rows:
            rows, totals = ([decision.row], [decision.score]) if decision.is_placed else ([], [])
            top = top_of(strategy, state, answered.spec, rows, totals)
            self._queue.append(Taken(answered, strategy, top, state.knowledge.forecasts))
            return
        taken = take(answered, strategy, state, self._known, answered.candidates)
        taken.idle = self._idle.mask(state)
        taken.nodes = self._nodes(state, engine.ledger.node_changes)
        self._queue.append(taken)

    def _nodes(self, state: ClusterState, changes: int) -> Fleet | None:
        """The nodes now, queued before the first record that is about them. Most changes, as of labels and taints, leave
        what is written of nodes as it was."""
        before, fleet = self._fleet
        if before != changes:
            now = Fleet.of(state)
            if fleet is None or not fleet.is_same(now):
                fleet = now
                self._queue.append(fleet)
            self._fleet = (changes, fleet)
        return fleet

    def bound(self, seen: Seen) -> None:
        """The API shows a pod on a node."""
        if len(self._queue) < self.settings.queue:
            self._queue.append(seen)

    def _final(self, mode: str, agrees: bool) -> None:
        self.metrics.outcomes.labels(mode, "as chosen" if agrees else "elsewhere").inc()

    def _write(self) -> None:
        pruned_s = time.monotonic()
        last: dict[int, Masks] = {}
        self.store.open()
        while not (self._stop.wait(PAUSE_S) and not self._queue):
            batch = [self._queue.popleft() for _ in range(len(self._queue))]
            if batch and not self._is_written(batch, last):
                self.metrics.records_dropped.inc(sum(isinstance(item, Taken) for item in batch))
            if time.monotonic() - pruned_s > PRUNE_EVERY_S:
                pruned_s = time.monotonic()
                self.store.prune(calm_s(), time.time())
        self.store.close()

    def _is_written(self, batch: list[Taken | Fleet | Seen], last: dict[int, Masks]) -> bool:
        try:
            return self.store.write(self._written_out(item, last) for item in batch)
        except Exception as error:  # what cannot be written out takes its batch along, not all that come after
            log.error("decision records lost", exc_info=error)
            return False

    def _written_out(self, item: Taken | Fleet | Seen, last: dict[int, Masks]) -> Record | Fleet | Seen:
        """Once nobody waits for an answer, or at once where records would be lost otherwise."""
        if len(self._queue) < self.settings.queue // 4 and not self._stop.is_set():
            self._pace.step()
        return item.record(last) if isinstance(item, Taken) else item

    def close(self) -> None:
        """Write what is queued and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)


def record_of(answered: Answered, strategy: Strategy, forecasts: Forecasts | None) -> Record:
    """The part of a record that asks nothing of the ledger."""
    decision, asked = answered.decision, requested(answered.spec)
    use = {k: v for k, v in asked.items() if isinstance(v, int) and k != "priority"}
    forecast = None if forecasts is None else forecasts.of_pod(answered.spec)
    if forecast is not None:
        use |= {CPU: forecast.cpu, MEMORY: forecast.memory}
    return Record(
        id=answered.decision_id,
        asked_s=answered.wall_s,
        uid=answered.uid,
        name=answered.name,
        namespace=answered.namespace,
        verb=answered.verb,
        mode=answered.mode,
        outcome=answered.outcome,
        node=decision.node,
        devices=decision.devices,
        score=decision.score,
        runner_up="",
        num_candidates=answered.num_candidates,
        duration_s=answered.duration_s,
        draw=answered.draw,
        version=decision.version,
        strategy=strategy.name,
        strategy_digest=decision.strategy,
        knowledge=decision.knowledge,
        request=asked,
        prediction=use,
        prediction_source="request" if forecast is None else forecast.rung,
        top=[],
        reasons={},
    )


# ── from a log ────────────────────────────────────────────────────────────────────────────────


def record_log(
    events: Iterable[Event],
    strategies: Sequence[Strategy],
    store: RecordStore,
    *,
    epoch_s: float = 0.0,
    progress: Callable[[int], None] = lambda number: None,
) -> int:
    """Write a record for every decision of an event log, live or simulated; how many.

    They take the place of those of another log, all in one transaction, or none do. Times are the log's seconds plus
    ``epoch_s``. What became of a pod is its next binding in the log. ``progress`` is told now and then how many events have
    been read.

    Raises
    ------
    ConfigError : a strategy is missing, or the file is a service's. RecordError : the file cannot be written.
    """
    written = 0

    def counted() -> Iterator[Record | Fleet | Bound]:
        nonlocal written
        for item in _items(events, strategies, epoch_s, progress):
            written += isinstance(item, Record)
            yield item

    store.put_log(counted())
    return written


def _items(
    events: Iterable[Event], strategies: Sequence[Strategy], epoch_s: float, progress: Callable[[int], None]
) -> Iterator[Record | Fleet | Bound]:
    """What the store is given, in order."""
    by_digest = {strategy.digest: strategy for strategy in strategies}
    state, idle, known = ClusterState(events=EventLog()), IdleNodes(), Rejections()
    fleet, is_new = "", True
    for number, event in enumerate(events):
        if event.kind == placement_log.DECISION:
            record = _replayed(event, number, by_digest, state, idle, known)
            record.asked_s += epoch_s
            if is_new:
                nodes = Fleet.of(state)
                fleet, is_new = nodes.packed[0], False
                yield nodes
            record.fleet = fleet
            yield record
        else:
            apply(state, event)
            is_new = is_new or event.kind.startswith("node_")
            if event.kind == placement_log.POD_BOUND:
                where = state.names[state.residents[event.subject].row]
                yield Bound(event.subject, where, event.time_s + epoch_s)
        if (number + 1) % BATCH == 0:
            progress(number + 1)


def _replayed(
    event: Event, number: int, by_digest: dict[str, Strategy], state: ClusterState, idle: IdleNodes, known: Rejections
) -> Record:
    asked: Asked = event.detail
    strategy = by_digest.get(asked.strategy)
    if strategy is None:
        raise ConfigError(f"event {number}: strategy {asked.strategy} is not at hand; give its TOML with --strategy")
    row = state.row_of.get(event.node, -1)
    candidates = offered(state, asked)
    knowledge = state.knowledge.digest
    score = int(strategy.scores(state.snapshot(), asked.spec, candidates)[row]) if row >= 0 else NOT_FEASIBLE
    decision = Decision(row, event.node, event.devices, score, state.version, strategy.digest, knowledge)
    outcome = "placed" if row >= 0 else "rejected"
    answered = Answered(
        decision_id=f"log-{number}",
        wall_s=float(event.time_s),
        verb="decide",
        mode="log",
        uid=event.subject,
        name=event.subject,
        namespace=asked.spec.namespace,
        spec=asked.spec,
        decision=decision,
        draw=asked.draw,
        candidates=np.ones(state.num_rows, np.bool_) if candidates is None else candidates,
        num_candidates=len(state.row_of) if candidates is None else int(candidates.sum()),
        duration_s=0.0,
        outcome=outcome,
    )
    taken = take(answered, strategy, state, known, candidates)
    taken.idle = idle.mask(state)
    return taken.record()
