"""Decides live: which strategy is in force, what a pod's mode is, and what a decision leaves behind.

Everything that answers a caller (HTTP verbs, gRPC) asks here, so that all of them decide alike: same ledger, same
strategy, same log. It runs on the event loop only; nothing in it waits.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from placement import log as placement_log
from placement.gangs import is_tried_whole
from placement.log import Asked, Event
from placement.nodes import Taint
from placement.pods import PodSpec
from placement.resources import CPU, DOMAIN, MEMORY, NOT_FEASIBLE, STORAGE, BoolArray, IntArray
from placement.rules import is_tolerated
from placement.soft import wishes
from placement.specs import TOO_MANY_RULES
from placement.state import ClusterState
from placement.strategy import MAX_PRIORITY, Decision, Strategy
from scheduler.ledger import Ledger
from scheduler.metrics import Metrics
from scheduler.modes import Modes
from scheduler.name_table import NameTable
from scheduler.settings import Settings
from scheduler.wire import Question

if TYPE_CHECKING:
    from scheduler.view import Reader

NO_DEVICE = "ullage: no device with enough free GPU share"
UNRECORDED = "ullage: GPU devices may be those of running pods without ullage.dev/devices"
NO_ROOM = "ullage: not enough room beside pods already decided"
UNKNOWN_NODE = "ullage: node not in the view yet"
NOT_CHOSEN = "ullage: another node was chosen"
"""Reasons are constant: kube-scheduler counts equal ones and cuts the message at a kilobyte."""


class RowSet(Struct, frozen=True, gc=False):
    """Names of the candidates of one decision, kept cheaply: rows into the names of one moment."""

    names: Sequence[str]
    rows: IntArray

    def __iter__(self) -> Iterator[str]:
        return (self.names[row] for row in self.rows.tolist())


class Answered(Struct, frozen=True, gc=False):
    """What is known about one decision when its answer goes out; recorders make more of it, elsewhere."""

    decision_id: str
    wall_s: float
    """Unix time."""
    verb: str
    mode: str
    """Mode in which the pod was answered."""
    uid: str
    name: str
    namespace: str
    spec: PodSpec
    decision: Decision
    draw: int
    candidates: BoolArray
    """``(N,)`` bool over the ledger's rows at that version; not to be changed."""
    num_candidates: int
    duration_s: float
    outcome: str
    """``placed`` or ``rejected``."""


class Engine:
    """The live decider. ``ledger`` is the view."""

    def __init__(
        self,
        ledger: Ledger,
        reader: Reader,
        strategy: Strategy,
        settings: Settings,
        metrics: Metrics,
        *,
        fallback: Strategy | None = None,
    ) -> None:
        self.ledger = ledger
        self.reader = reader
        self.strategy = strategy
        self.fallback = fallback or strategy
        self.settings = settings
        self.metrics = metrics
        self.listeners: list[Callable[[Answered], None]] = []
        """Told about every decision, before its pod counts; must return at once and never raise."""
        self.modes = Modes(settings.mode)
        self.exempt = frozenset(settings.exempt_namespaces)
        self.is_leading: Callable[[], bool] = lambda: True
        self.is_synced: Callable[[], bool] = lambda: True
        self.may_give_devices: Callable[[], bool] = lambda: True
        """Whether every Binding of a process before this one has been seen, so that free devices are free."""
        self._draws = random.Random(settings.seed)
        self._ids = itertools.count(1)
        self._run = format(time.time_ns() // 1_000_000, "x")
        self._table = NameTable(())
        self._table_topology = -1
        self._taints: frozenset[Taint] = frozenset()
        self._taints_at = -1
        self._wishless: dict[PodSpec, bool] = {}
        """Whether a class has no wish that nobody models."""
        self._wishless_as_of: tuple[frozenset[Taint], Settings | None, int] = (self._taints, None, 0)
        """The nodes' taints and the settings of which that is true, and which classes the ledger remembers."""
        self._counters: dict[tuple[str, str], Any] = {}

    @property
    def state(self) -> ClusterState:
        """The ledger's columns."""
        return self.ledger.state

    @property
    def table(self) -> NameTable:
        """Names of the nodes now, prepared for the wire."""
        if self._table_topology != self.ledger.topology:
            self._table = self._table.follow(self.state.names.copy())
            self._table_topology = self.ledger.topology
        return self._table

    def why_not_serving(self) -> str:
        """Why answers would be neutral; empty when this replica serves."""
        if not self.is_synced():
            return "the view of the cluster is not complete yet"
        if not self.is_leading():
            return "another replica leads"
        return ""

    def in_force(self) -> Strategy:
        """The strategy, or the fallback while knowledge that it needs is missing."""
        needs = self.strategy.needs
        if not needs or all(getattr(self.state.knowledge, need) is not None for need in needs):
            return self.strategy
        return self.fallback

    def mode_of(self, namespace: str, spec: PodSpec | None = None) -> str:
        """How a pod is answered: ``decide`` falls to ``score`` where more than a place is asked for."""
        mode = "off" if namespace in self.exempt else self.modes.of(namespace)
        if mode == "decide" and spec is not None and (why := self._why_not_decided(spec)):
            self.metrics.fallback.labels(why).inc()
            return "score"
        return mode

    def _why_not_decided(self, spec: PodSpec) -> str:
        """What ``decide`` cannot do for a pod; empty when it can.

        Groups are tried whole: kube-scheduler takes back every place where one pod has none, and asks as if victims of a
        preemption had gone. It tells nobody, so room that was kept would be nobody's, and room that is asked about not free.
        """
        if is_tried_whole(spec):
            return "pod group"
        return "" if self._has_only_modelled_wishes(spec) else "soft wishes"

    def _has_only_modelled_wishes(self, spec: PodSpec) -> bool:
        """Whether nothing that the pod would like is lost when kube-scheduler does not score."""
        if TOO_MANY_RULES in spec.unmodelled:
            return False
        if self.in_force().soft:
            return True
        as_of = (self._soft_taints(), self.settings, self.state.moved)
        if as_of != self._wishless_as_of:
            self._wishless.clear()
            self._wishless_as_of = as_of
        known = self._wishless.get(spec)
        if known is None:
            known = self._wishless[spec] = not soft_wishes(spec, as_of[0]) - set(self.settings.ignored_wishes)
        return known

    def _soft_taints(self) -> frozenset[Taint]:
        """Every PreferNoSchedule taint in the cluster; the same object as long as they are the same."""
        if self._taints_at != self.ledger.node_changes:
            taints = self.state.rules.soft_taints()
            self._taints = self._taints if self._taints == taints else taints
            self._taints_at = self.ledger.node_changes
        return self._taints

    # ── decisions ─────────────────────────────────────────────────────────────────────────────

    def judged(self, spec: PodSpec, candidates: BoolArray) -> tuple[PodSpec, BoolArray]:
        """What of a class is ours to judge, and where. A node that kube-scheduler offers though it has none of a resource has
        it from somebody else: a device class gives it out, or kube-scheduler was told to ignore it. Where no other node has
        room, such resources are left to whom they belong."""
        asked = {n: a for n, a in spec.request if n not in (CPU, MEMORY, STORAGE) and not n.startswith(f"{DOMAIN}/")}
        if not asked:
            return spec, candidates
        state, nothing = self.state, np.zeros(len(candidates), np.int64)
        left, others = candidates, set[str]()
        for name, amount in asked.items():
            lane = state.lane(name)
            offered, taken = (state.offered[lane], state.taken[lane]) if lane >= 0 else (nothing, nothing)
            has_none = offered[: len(nothing)] == 0
            if (candidates & has_none).any():
                others.add(name)
                left = left & (has_none | ((offered - taken)[: len(nothing)] >= amount))
        if not others or (self.in_force().scores(state.snapshot(), spec, candidates) > NOT_FEASIBLE).any():
            return spec, candidates
        request = tuple((name, amount) for name, amount in spec.request if name not in others)
        return replace(spec, request=request, unmodelled=(*spec.unmodelled, *sorted(others - {*spec.unmodelled}))), left

    def decide(self, uid: str, spec: PodSpec, candidates: BoolArray, *, is_last: bool = True) -> tuple[Decision, int]:
        """Choose among ``candidates (N,)`` and log it; the decision and the draw that settled ties. That there is no room is
        no decision yet unless the question ``is_last``: it is asked once more."""
        strategy = self.in_force()
        draw = self._draws.getrandbits(62)
        offered = self._offered(strategy, spec, candidates)
        decision = strategy.decide(self.state.snapshot(), spec, None if offered is None else candidates, draw)
        row = self.state.row_of.get(self.ledger.target_for(uid, spec), -1) if self.ledger.targets else -1
        if row >= 0 and candidates[row] and decision.row != row:
            narrowed = self.mask(np.array([row]))
            wanted = strategy.decide(self.state.snapshot(), spec, narrowed, draw)
            if wanted.is_placed:  # the replacement of a pod that a plan moved goes where the plan wants it
                decision, offered = wanted, self._offered(strategy, spec, narrowed)
        if not (decision.is_placed or is_last):
            return decision, draw
        if strategy is not self.strategy:
            self.metrics.fallback.labels("no knowledge").inc()
        asked = Asked(strategy.digest, spec, draw, offered)
        self.state.log.append(
            Event(self.ledger.time_s, placement_log.DECISION, uid, decision.node, decision.devices, asked)
        )
        return decision, draw

    def _offered(self, strategy: Strategy, spec: PodSpec, candidates: BoolArray) -> RowSet | None:
        """None if the candidates leave out no node where the pod fits (then the question is "anywhere?")."""
        if not strategy.program(self.state).leaves_out(spec, candidates):
            return None
        return RowSet(self.table.names, np.flatnonzero(candidates))

    def marks(self, spec: PodSpec, candidates: BoolArray, decision: Decision) -> IntArray:
        """``(N,)`` int64 0–10: the decided node alone has the 10."""
        marks = self.in_force().priorities(self.state.snapshot(), spec, candidates)
        if decision.is_placed:
            marks[marks.argmax()] = MAX_PRIORITY - 1
            marks[decision.row] = MAX_PRIORITY
        return marks

    def mask(self, rows: IntArray) -> BoolArray:
        """``(N,)`` bool from rows; −1 is skipped."""
        mask = np.zeros(self.state.num_rows, np.bool_)
        mask[rows if len(rows) and rows.min() >= 0 else rows[rows >= 0]] = True
        return mask

    def candidates(self, question: Question) -> BoolArray:
        """``(N,)`` bool: the nodes that a request names."""
        return self.mask(question.rows) if question.asked is None else question.asked

    def has_devices(self, spec: PodSpec) -> BoolArray:
        """``(N,)`` bool: nodes with enough devices of an accepted model with enough free share."""
        state = self.state
        rows = state.num_rows
        if spec.gpu is None:
            return np.ones(rows, np.bool_)
        enough: BoolArray = (state.gpu_free[:rows] >= spec.gpu.milli).sum(axis=1) >= spec.gpu.count
        if spec.gpu.models:
            enough &= state.offers_models(spec.gpu)
        return enough

    def fits_without(self, spec: PodSpec, node: str, victims: Sequence[str]) -> bool:
        """Whether the pod's devices would be free on ``node`` once ``victims`` are gone."""
        state = self.state
        row = state.row_of.get(node)
        if spec.gpu is None or row is None:
            return row is not None
        if spec.gpu.models and state.nodes[row].gpu_model not in spec.gpu.models:  # type: ignore[union-attr]  # named row
            return False
        free = state.free_devices(row, set(victims))
        return sum(milli >= spec.gpu.milli for milli in free) >= spec.gpu.count

    # ── what is left behind ───────────────────────────────────────────────────────────────────

    def next_id(self) -> str:
        """An identifier of one decision, unique over restarts."""
        return f"{self._run}-{next(self._ids)}"

    def record(self, record: Answered) -> None:
        """Count it, and tell those who listen."""
        counter = self._counters.get((record.mode, record.outcome))
        if counter is None:
            counter = self.metrics.decisions.labels(record.mode, record.outcome)
            self._counters[record.mode, record.outcome] = counter
        counter.inc()
        for listener in self.listeners:
            listener(record)


def soft_wishes(spec: PodSpec, taints: frozenset[Taint] = frozenset()) -> set[str]:
    """Names (``settings.SOFT_WISHES``) of what the pod, or a node's owner, would like but does not demand.

    Only what somebody wrote counts; the default profile's own habits (spreading owned pods, image locality) are what
    ``decide`` is chosen to replace.
    """
    stated = set(wishes(spec))
    if any(not is_tolerated(taint, spec.node_rules.tolerations) for taint in taints):
        stated.add("prefer-no-schedule")
    return stated
