"""Takes decision records, live and from an event log, without standing in the way of an answer.

On the event loop a decision leaves a few numbers and its chosen node's score parts. After the answer has gone out,
the reasons of the other nodes are taken as bit masks over rows (a fraction of a millisecond at 5,000 nodes), and a
thread of its own writes. The queue is bounded: what does not fit is dropped and counted, and while it is more than
half full reasons are left out.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from placement import log as placement_log
from placement.errors import ConfigError
from placement.log import Asked, Event, EventLog
from placement.playback import apply
from placement.pods import PodSpec
from placement.program import NOT_FEASIBLE
from placement.rejections import Rejections
from placement.resources import BoolArray, IntArray
from placement.state import TOUCH_RING, ClusterState
from placement.strategy import Decision, Strategy, scorer_name
from scheduler.errors import RecordError
from scheduler.records import IDLE, Fleet, Record, RecordStore
from scheduler.settings import RecordSettings

if TYPE_CHECKING:
    from scheduler.engine import Answered, Engine
    from scheduler.ledger import Seen
    from scheduler.metrics import Metrics

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


def parts_of(
    strategy: Strategy, state: ClusterState, spec: PodSpec, rows: IntArray, totals: Sequence[int] = ()
) -> list[dict[str, int]]:
    """Weighted score parts by scorer, one table per row; higher is better. ``totals`` are the rows' scores, if known."""
    if not len(rows):
        return []
    names = [scorer_name(w.scorer) for w in strategy.scorers]
    if len(names) == 1 and not strategy.soft and totals:
        return [{names[0]: total} for total in totals]
    parts = strategy.program(state).parts(spec, rows)
    return [{name: int(parts[i, j]) for i, name in enumerate(names)} for j in range(len(rows))]


def take(
    strategy: Strategy,
    state: ClusterState,
    spec: PodSpec,
    candidates: BoolArray | None,
    decision: Decision,
    chosen: dict[str, Any] | None = None,
    known: Rejections | None = None,
) -> tuple[list[dict[str, Any]], dict[str, BoolArray]]:
    """Best candidates with their parts, and the masks of a :class:`Record`.

    ``chosen`` is the chosen node's entry if the ledger already counts the pod there, else None; ``known`` are reasons
    found before, of the same ledger.
    """
    scores = strategy.scores(state.snapshot(), spec, candidates)
    if decision.row >= 0:
        scores[decision.row] = NOT_FEASIBLE
    best, totals = _best(scores, TOP - 1)
    others = [
        {"node": state.name(row), "score": total, "parts": parts}
        for row, total, parts in zip(
            best, totals, parts_of(strategy, state, spec, np.array(best, np.int64), totals), strict=True
        )
    ]
    known = Rejections() if known is None else known
    masks = known.of(strategy, state.snapshot(), spec, candidates, chosen=decision.row)
    return ([] if chosen is None else [chosen]) + others, masks


def _best(scores: IntArray, count: int) -> tuple[list[int], list[int]]:
    """Rows and scores of the best feasible nodes, best and then lowest row first; ``scores (N,)`` is used up."""
    rows: list[int] = []
    totals: list[int] = []
    while len(scores) and len(rows) < count:
        row = int(scores.argmax())
        total = int(scores[row])
        if total == NOT_FEASIBLE:
            break
        rows.append(row)
        totals.append(total)
        scores[row] = NOT_FEASIBLE
    return rows, totals


def is_idle(state: ClusterState, row: int) -> bool:
    """Whether a node holds nothing but daemons."""
    return bool(state.is_alive[row]) and all(r.spec.owner.startswith(DAEMON) for r in state.residents_on[row].values())


class IdleNodes:
    """Which nodes hold nothing but daemons, kept up to date from the ledger's ring of touches."""

    def __init__(self) -> None:
        self._idle: BoolArray = np.zeros(0, np.bool_)
        self._clock = 0

    def mask(self, state: ClusterState) -> BoolArray:
        """``(N,)`` bool, a copy."""
        missed = state.clock - self._clock
        if missed > TOUCH_RING // 2 or len(self._idle) != state.num_rows:
            self._idle = np.zeros(state.num_rows, np.bool_)
            rows: Iterable[int] = range(state.num_rows)
        else:
            ring = np.arange(self._clock, state.clock) & (TOUCH_RING - 1)
            rows = np.unique(state.touched[ring]).tolist()
        for row in rows:
            self._idle[row] = is_idle(state, row)
        self._clock = state.clock
        return self._idle.copy()


@dataclass
class _Pending:
    """A decision whose reasons are still to be taken."""

    record: Record
    spec: PodSpec
    candidates: BoolArray | None
    decision: Decision
    was_idle: bool
    """Whether the chosen node held nothing but daemons."""


class Recorder:
    """Takes records on the event loop and writes them in a thread of its own. Give it to the engine.

    ``attach`` comes before the first ``offer``. Nothing here raises towards the caller.
    """

    def __init__(self, settings: RecordSettings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.store = RecordStore(Path(settings.path), settings)
        self._queue: deque[Record | Fleet | Seen] = deque()
        self._stop = threading.Event()
        self._engine: Engine | None = None
        self._idle = IdleNodes()
        self._known = Rejections()
        self._fleet: tuple[int, Fleet | None] = (-1, None)
        self._thread = threading.Thread(target=self._write, name="records", daemon=True)

    def attach(self, engine: Engine) -> None:
        """Begin: ``engine`` tells about decisions, its ledger about what became of pods."""
        self._engine = engine
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
            log.error("decision record lost", exc_info=error, extra={"decision_id": answered.decision_id})

    def _offer(self, answered: Answered) -> None:
        assert self._engine is not None, "attach() comes first"
        engine, decision = self._engine, answered.decision
        seen = engine.ledger.pods.get(answered.uid)
        if seen is not None and seen.node:
            return  # somebody probes with a pod that is bound already: no decision
        strategy = engine.strategy if decision.strategy == engine.strategy.digest else engine.fallback
        record = record_of(answered, strategy)
        if decision.is_placed:
            row = np.array([decision.row], np.int64)
            parts = parts_of(strategy, engine.state, answered.spec, row, (decision.score,))
            record.top = [{"node": decision.node, "score": decision.score, "parts": parts[0]}]
        if len(self._queue) > self.settings.queue // 2:
            record.is_exact = False
            self._queue.append(record)
            return
        was_idle = decision.is_placed and is_idle(engine.state, decision.row)
        pending = _Pending(record, answered.spec, answered.candidates, decision, was_idle)
        try:
            asyncio.get_running_loop().call_soon(self._finish, pending, strategy)
        except RuntimeError:  # no loop: nobody waits for an answer
            self._finish(pending, strategy)

    def _finish(self, pending: _Pending, strategy: Strategy) -> None:
        """After the answer has gone out: other candidates, reasons, idle nodes."""
        assert self._engine is not None
        record, state = pending.record, self._engine.state
        try:
            record.is_exact = state.version - pending.decision.version <= 1  # the pod itself
            if pending.candidates is None or len(pending.candidates) == state.num_rows:
                chosen = record.top[0] if record.top else None
                record.top, record.masks = take(
                    strategy, state, pending.spec, pending.candidates, pending.decision, chosen, self._known
                )
                self._complete(pending, state)
        except Exception as error:
            log.error("reasons of a decision lost", exc_info=error, extra={"decision_id": record.id})
        self._queue.append(record)

    def _complete(self, pending: _Pending, state: ClusterState) -> None:
        assert self._engine is not None
        finish(pending.record, self._idle.mask(state), pending.decision.row, pending.was_idle)
        changes = self._engine.ledger.node_changes
        if self._fleet[0] != changes:
            fleet = Fleet.of(state)
            self._fleet = (changes, fleet)
            self._queue.append(fleet)
        pending.record.nodes = self._fleet[1]

    def bound(self, seen: Seen) -> None:
        """The API shows a pod on a node."""
        if len(self._queue) < self.settings.queue:
            self._queue.append(seen)

    def _write(self) -> None:
        pruned_s = time.monotonic()
        self.store.open()
        while not (self._stop.wait(PAUSE_S) and not self._queue):
            batch = [self._queue.popleft() for _ in range(len(self._queue))]
            if batch and not self.store.write(batch):
                self.metrics.records_dropped.inc(len(batch))
            if time.monotonic() - pruned_s > PRUNE_EVERY_S:
                pruned_s = time.monotonic()
                self.store.prune(time.time())
        self.store.close()

    def close(self) -> None:
        """Write what is queued and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)


def finish(record: Record, idle: BoolArray, row: int, was_idle: bool) -> None:
    """Fill in what follows from the masks and the best candidates; ``row`` is the chosen node's, −1 for none."""
    record.reasons = {reason: int(np.count_nonzero(mask)) for reason, mask in record.masks.items()}
    others = [entry["node"] for entry in record.top if entry["node"] != record.node]
    record.runner_up = others[0] if others else ""
    if row >= 0:
        idle[row] = was_idle
    record.masks[IDLE] = idle


def record_of(answered: Answered, strategy: Strategy) -> Record:
    """The part of a record that costs nothing."""
    decision, asked = answered.decision, requested(answered.spec)
    use = {k: v for k, v in asked.items() if isinstance(v, int) and k != "priority"}
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
        prediction_source="request",
        top=[],
        reasons={},
    )


# ── from a log ────────────────────────────────────────────────────────────────────────────────


def record_log(
    events: Iterable[Event], strategies: Sequence[Strategy], store: RecordStore, *, epoch_s: float = 0.0
) -> int:
    """Write a record for every decision of an event log, live or simulated; how many.

    Times are the log's seconds plus ``epoch_s``. What became of a pod is its next binding in the log.

    Raises
    ------
    ConfigError : a strategy is missing, or the file cannot be written.
    """
    by_digest = {strategy.digest: strategy for strategy in strategies}
    state, idle = ClusterState(events=EventLog()), IdleNodes()
    batch: list[Record | Fleet | Seen] = []
    written, fleet, is_new = 0, "", True
    for number, event in enumerate(events):
        if event.kind == placement_log.DECISION:
            record = _replayed(event, number, by_digest, state, idle)
            record.asked_s += epoch_s
            if is_new:
                nodes = Fleet.of(state)
                fleet, is_new = nodes.packed()[0], False
                batch.append(nodes)
            record.fleet = fleet
            batch.append(record)
            written += 1
        else:
            apply(state, event)
            is_new = is_new or event.kind.startswith("node_")
            if event.kind == placement_log.POD_BOUND:
                batch.append(_seen(event, state))
        if len(batch) >= BATCH:
            _flush(store, batch)
    _flush(store, batch)
    return written


def _flush(store: RecordStore, batch: list[Record | Fleet | Seen]) -> None:
    if batch and not store.write(batch):
        raise RecordError(f"records {store.path}: cannot be written; check the folder's rights and free space")
    batch.clear()


def _seen(event: Event, state: ClusterState) -> Seen:
    from scheduler.ledger import Seen

    resident = state.residents[event.subject]
    return Seen(event.subject, "", "", 0, resident.spec, state.name(resident.row), resident.devices)


def _replayed(
    event: Event, number: int, by_digest: dict[str, Strategy], state: ClusterState, idle: IdleNodes
) -> Record:
    from scheduler.engine import Answered

    asked: Asked = event.detail
    strategy = by_digest.get(asked.strategy)
    if strategy is None:
        raise ConfigError(f"event {number}: strategy {asked.strategy} is not at hand; give its TOML with --strategy")
    row = state.row_of.get(event.node, -1)
    candidates = None
    if asked.candidates is not None:
        candidates = np.zeros(state.num_rows, np.bool_)
        candidates[[state.row_of[name] for name in names_of(asked)]] = True
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
    record = record_of(answered, strategy)
    chosen = None
    if row >= 0:
        parts = parts_of(strategy, state, asked.spec, np.array([row], np.int64))
        chosen = {"node": event.node, "score": score, "parts": parts[0]}
    record.top, record.masks = take(strategy, state, asked.spec, candidates, decision, chosen)
    finish(record, idle.mask(state), row, row >= 0 and is_idle(state, row))
    return record


def names_of(asked: Asked) -> tuple[str, ...]:
    """Candidates by name: the live engine keeps them as rows of one moment."""
    names: Any = asked.candidates
    return tuple(names.to_names()) if hasattr(names, "to_names") else tuple(names)
