"""A strategy compiled against one ledger: cached rows of scores, of which only touched nodes are recomputed.

One row per pod class holds every node's score, or :data:`NOT_FEASIBLE`. The ledger notes which rows changed
(a ring of touches); before a class is asked again, only nodes touched since are evaluated. The arithmetic runs
either in compiled kernels (numba) or in NumPy; both agree to the last bit, and this cache is invisible in every
answer. A class that would exceed :data:`MAX_CACHED_SCORES` makes the cache start over.

Rules that depend on other pods (ports, affinity, spread) and kube-scheduler's relative scores change with every
bind everywhere, so they are not cached: they are columns computed at the decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from placement.columns import Columns, Demand
from placement.devices import DEVICE_RULES
from placement.knowledge import Knowledge
from placement.outlook import NUM_OUTLOOK
from placement.pods import PodSpec
from placement.residents import Residents
from placement.resources import DEVICE_MILLI, NOT_FEASIBLE, NOT_OFFERED, BoolArray, IntArray
from placement.scorers import (
    ADMITTING,
    FIRST_OUTLOOK,
    NUM_PARAMS,
    AtcFgd,
    DeviceWorth,
    Weighted,
    chances,
    sigmoid_thresholds,
)
from placement.soft import soft_score
from placement.state import TOUCH_RING, ClusterState

try:
    from placement import kernels
except ImportError:  # numba is an extra; everything works without it, slower
    kernels = None  # type: ignore[assignment]  # a module or nothing

MAX_CACHED_SCORES = 16_000_000
"""Scores kept per program (128 MB): 3,000 classes on 5,000 nodes."""
KEPT_CLASSES = 1024
"""Classes that outlive new knowledge of what is expected; of more, those that come no more would never be forgotten."""
FIRST_CLASSES = 256
"""Classes that there is room for at first; room that is not used yet takes no memory."""

MANY_TOUCHES = 32
"""Above, NumPy looks for rows that were touched twice; below, scoring one twice is cheaper than finding out."""

TIES = {"first": 0, "random": 1}


def has_compiled() -> bool:
    """Whether numba is installed, so that the compiled back end exists."""
    return kernels is not None


def deciding_kernel() -> Any:
    """What decides in the compiled back end; None without it."""
    return kernels and kernels.decide


def compiled_fragments(columns: Columns, num_cols: int) -> Any:
    """The compiled back end's view of FGD's target workload (:class:`placement.kernels.Fragments`)."""
    millis = np.unique(columns.kinds[:, 1])
    kinds = np.column_stack([columns.kinds, np.searchsorted(millis, columns.kinds[:, 1])])
    return kernels.Fragments(
        kinds=kinds,
        probability=columns.probability,
        allowed=columns.kind_allowed,
        model=columns.state.gpu_model,
        thresholds=sigmoid_thresholds(),
        millis=millis,
        enough=np.zeros((num_cols, len(millis)), np.int64),
        below=np.zeros((num_cols, len(millis)), np.int64),
        fragment=np.zeros(num_cols),
        stamp=np.full(num_cols, -1, np.int64),
        scratch=np.zeros((2, len(millis)), np.int64),
    )


CODE = np.uint16
CodeArray = NDArray[np.uint16]


@dataclass(slots=True)
class Known:
    """Why nodes were turned away when last somebody looked: ``codes (N,)``, true of nodes untouched since ``clock``."""

    codes: CodeArray
    clock: int


class Sorted(NamedTuple):
    """Nodes told apart: ``codes (N,)`` of why they were turned away, rows ``todo (n,)`` that were for a reason that is
    not known, and rows and scores of the best others, best and then lowest row first."""

    codes: CodeArray
    todo: IntArray
    best: list[int]
    totals: list[int]


class Compilable(Protocol):
    """What a program reads of the :class:`~placement.strategy.Strategy` that it is made of."""

    @property
    def devices(self) -> str:
        """A device rule, of :data:`placement.devices.DEVICE_RULES`."""

    @property
    def ties(self) -> str:
        """A tie-break, of :data:`TIES`."""

    @property
    def soft(self) -> bool:
        """Whether kube-scheduler's soft rules are added."""

    def terms(self, knowledge: Knowledge) -> tuple[Weighted, ...]:
        """What is added up, given what is known."""


class Program:
    """One strategy on one ledger. Made and kept by :class:`~placement.strategy.Strategy`."""

    def __init__(self, strategy: Compilable, state: ClusterState) -> None:
        self.strategy = strategy
        self.state = state
        self.ties = TIES[strategy.ties]
        self.device_rule = DEVICE_RULES[strategy.devices]
        self.is_compiled = kernels is not None and state.backend != "numpy"
        self.is_plain = self.is_compiled and not strategy.soft
        """Nothing but cached rows goes into a decision, unless rules about other pods do."""
        self.known = state.knowledge
        self.moved = -1
        self.residents: Residents | None = None
        self._reset()

    # ── keeping the cache in step with the ledger ─────────────────────────────────────────────

    def _reset(self) -> None:
        """Arrays moved, or knowledge changed: start over, if more changed than what is expected."""
        state, before = self.state, self.known
        known = self.known = state.knowledge
        self.epoch = state.epoch
        if self.moved != state.moved:
            self.moved, self.residents = state.moved, self._new_residents()
        elif known.prices is before.prices and known.workload is before.workload and len(self.demands) <= KEPT_CLASSES:
            self._expect_anew()
            return
        self._start_over()

    def _start_over(self) -> None:
        """Forget every class."""
        state = self.state
        self.num_changes = len(state.changed_rows)
        self._choose_terms()
        self.columns = Columns(state, self.known, self.residents)
        num_cols = state.is_alive.shape[0]
        self.max_classes = max(64, MAX_CACHED_SCORES // num_cols)
        self.class_of: dict[PodSpec, int] = {}
        self.plain_of: dict[PodSpec, int] = {}
        """Classes that no rule about other pods concerns, as of ``rules_epoch``, and that know of all changes of nodes: the fast
        way to a decision."""
        self.rules_epoch = state.rules.epoch
        self.demands: list[Demand] = []
        self.started: list[int] = []
        self.followed: list[int] = []
        """Per class, how many changes of nodes ``permitted`` knows of."""
        self._grow(min(FIRST_CLASSES, self.max_classes))

    def _new_residents(self) -> Residents:
        if self.is_compiled:
            return Residents(self.state, kernels.slot_entries)
        return Residents(self.state)

    def _expect_anew(self) -> None:
        """Only what is expected is known otherwise: classes and tables stay."""
        if self.reads_outlook:
            self.columns.residents.learn(self.known.forecasts, self.known.lifetimes)
            self.started = [-1] * len(self.started)

    def _expect(self, c: int, spec: PodSpec, start: int) -> None:
        """What is expected of nodes as of now, and of a class that is asked about for the first time since it changed."""
        self.columns.follow()
        if start < 0:
            self.own[c] = self.columns.outlook_of(spec)

    def _choose_terms(self) -> None:
        """What is added up may depend on what is known."""
        self.scorers = self.strategy.terms(self.state.knowledge)
        self.names = tuple(weighted.name for weighted in self.scorers)
        self.reads_outlook = any(w.scorer.opcode >= FIRST_OUTLOOK for w in self.scorers)
        self.admits = any(isinstance(w.scorer, ADMITTING) for w in self.scorers)
        """Whether a score may exclude a node."""
        self.summed = [(w.weight, w.scorer) for w in self.scorers if not isinstance(w.scorer, ADMITTING)]
        """What adds up to a score."""
        self.terms: IntArray = np.zeros((len(self.scorers), NUM_PARAMS), np.int64)
        for term, weighted in zip(self.terms, self.scorers, strict=True):
            numbers = (weighted.scorer.opcode, weighted.weight, *weighted.scorer.params())
            term[: len(numbers)] = numbers

    def _grow(self, num_classes: int) -> None:
        used = len(self.demands)
        num_lanes, num_cols = self.state.taken.shape
        scores: IntArray = np.empty((num_classes, num_cols), np.int64)  # written, and so given memory, class by class
        permitted: BoolArray = np.zeros((num_classes, num_cols), np.bool_)
        deltas: IntArray = np.zeros((num_classes, num_lanes), np.int64)
        gpus: IntArray = np.zeros((num_classes, 3), np.int64)
        own: IntArray = np.zeros((num_classes, NUM_OUTLOOK), np.int64)
        best: IntArray = np.full(num_classes, -1, np.int64)
        if used:
            own[:used] = self.own[:used]
            scores[:used], permitted[:used] = self.scores[:used], self.permitted[:used]
            deltas[:used], gpus[:used], best[:used] = self.deltas[:used], self.gpus[:used], self.best[:used]
        self.scores: IntArray = scores
        self.permitted: BoolArray = permitted
        self.deltas: IntArray = deltas
        self.gpus: IntArray = gpus
        self.own: IntArray = own
        self.best: IntArray = best
        if kernels is not None:  # the measure of fragmentation uses the handle, too
            self._hand_over()

    def _hand_over(self) -> None:
        """Bundle the arrays for the kernels; what a strategy does not need is of their type, too, and small."""
        state, columns = self.state, self.columns
        num_cols = state.is_alive.shape[0]
        ledger = kernels.Ledger(
            state.offered, state.taken, state.gpu_free, state.gpu_count, state.touched, state.last_touch, state.place
        )
        rows = np.zeros(num_cols, np.int64)
        cache = kernels.Cache(self.scores, self.permitted, self.deltas, self.gpus, self.terms, rows, self.best)
        prices = kernels.Prices(columns.worth, columns.group)
        fgd = compiled_fragments(columns, num_cols if AtcFgd.opcode in self.terms[:, 0] else 0)
        outlook = kernels.Outlook(columns.outlook, self.own, np.array(chances()))
        handle = self.handle = kernels.make_handle(cache, ledger, prices, fgd, outlook)
        self._decide = kernels.entry(kernels.decide, 7, handle)
        self._bring_up = kernels.entry(kernels.refresh, 4, handle)
        self._pick = kernels.entry(kernels.pick_devices, 4, handle)

    def _add_class(self, spec: PodSpec) -> int:
        state = self.state
        delta = state.delta(spec)
        if self.epoch != state.epoch:  # the class named a new resource
            self._reset()
        c = len(self.demands)
        if c >= self.max_classes:
            self._start_over()
            c = 0
        if c >= len(self.scores):
            self._grow(2 * len(self.scores))
        demand = Demand(spec, delta)
        self.class_of[spec] = c
        self.demands.append(demand)
        self.started.append(-1)
        self.scores[c] = NOT_FEASIBLE
        self.deltas[c] = delta
        self.gpus[c] = demand.milli, demand.count, demand.gpu_class
        self.permitted[c, : state.num_rows] = state.rules.static_mask(spec)
        self.followed.append(self.num_changes)
        return c

    def _follow_nodes(self) -> None:
        """Nodes were added, changed or removed since the last question; classes follow when they are asked about."""
        self.plain_of.clear()
        state, allowed = self.state, self.columns.kind_allowed
        for row in sorted(set(state.changed_rows[self.num_changes :])):
            node = state.nodes[row]
            if node is not None:
                self.columns.node_changed(row, node)
        if kernels is not None and self.columns.kind_allowed is not allowed:  # the table of device models grew
            self._hand_over()
        self.num_changes = len(state.changed_rows)

    def _class(self, spec: PodSpec) -> int:
        state = self.state
        if self.epoch != state.epoch:
            self._reset()
        if self.num_changes != len(state.changed_rows):
            self._follow_nodes()
        c = self.class_of.get(spec)
        if c is None:
            return self._add_class(spec)
        if self.followed[c] != self.num_changes:
            rows = np.array(sorted(set(state.changed_rows[self.followed[c] :])), np.int64)
            self.permitted[c, rows] = state.rules.static_mask(spec, rows)
            self.followed[c] = self.num_changes
        return c

    def demand(self, spec: PodSpec) -> Demand:
        """What a pod of this class takes."""
        c = self._class(spec)  # may start over with other lists
        return self.demands[c]

    def row(self, spec: PodSpec) -> IntArray:
        """``(N,)`` int64 scores of a class, brought up to date; a view of the cache, not to be kept."""
        c = self._class(spec)
        state, start = self.state, self.started[c]
        if start != state.clock:
            if not self.is_compiled:
                self._refresh(c, start)
            else:
                if self.reads_outlook:
                    self._expect(c, spec, start)
                self._bring_up(c, start, state.clock, state.num_rows, self.handle)
            self.started[c] = state.clock
        scores: IntArray = self.scores[c, : state.num_rows]
        return scores

    def _refresh(self, c: int, start: int) -> None:
        """The NumPy back end's scores of the nodes touched since ``start``; of all if that is too long ago."""
        state = self.state
        clock = state.clock
        if start < 0 or clock - start >= min(TOUCH_RING, state.num_rows):
            rows = np.arange(state.num_rows)
        else:
            ring = TOUCH_RING - 1
            first, last = start & ring, clock & ring
            touched = state.touched
            rows = touched[first:last] if first < last else np.concatenate([touched[first:], touched[:last]])
            if clock - start > MANY_TOUCHES:
                rows = rows.compress(state.last_touch.take(rows) == np.arange(start, clock))
        demand, scores = self.demands[c], self.scores[c]
        fits = self.fits(demand, rows)
        fits &= self.permitted[c].take(rows)
        scores[rows] = NOT_FEASIBLE
        chosen = rows.compress(fits)
        if len(chosen):
            scores[chosen] = self.evaluate(demand, chosen)

    def evaluate(self, demand: Demand, rows: IntArray) -> IntArray:
        """``(n,)`` int64: the NumPy back end's scores of rows with room, :data:`NOT_FEASIBLE` where a scorer excludes it."""
        columns = self.columns
        total = reduce(np.add, [weight * scorer.score(columns, demand, rows) for weight, scorer in self.summed])
        if self.admits:
            total[~self.admitted(demand, rows)] = NOT_FEASIBLE
        return total

    def fits(self, demand: Demand, rows: IntArray) -> BoolArray:
        """``(n,)`` bool: enough of every resource, and enough devices with enough free share."""
        fits: BoolArray = np.logical_and.reduce(self.columns.free(rows) >= demand.need, axis=1)
        if demand.count:
            enough = self.state.gpu_free.take(rows, axis=0) >= demand.milli
            if demand.count == 1:
                fits &= np.logical_or.reduce(enough, axis=1)
            else:
                fits &= np.add.reduce(enough, axis=1) >= demand.count
        return fits

    def admitted(self, demand: Demand, rows: IntArray) -> BoolArray:
        """``(n,)`` bool: no scorer excludes the node."""
        admitted: BoolArray = np.ones(len(rows), np.bool_)
        for weighted in self.scorers:
            if isinstance(weighted.scorer, ADMITTING):
                admitted &= weighted.scorer.score(self.columns, demand, rows) > NOT_FEASIBLE
        return admitted

    # ── answers ───────────────────────────────────────────────────────────────────────────────

    def _plain(self, spec: PodSpec) -> int:
        """The class of ``spec`` where cached rows alone decide about it, else −1."""
        state = self.state
        if (
            self.epoch != state.epoch
            or self.num_changes != len(state.changed_rows)
            or self.rules_epoch != state.rules.epoch
        ):
            self._class(spec)
            self.plain_of.clear()  # whom rules concern may have changed
            self.rules_epoch = state.rules.epoch
        c = self.plain_of.get(spec)
        if c is None:
            is_plain = not state.rules.is_relational(spec)
            number = self._class(spec)  # may start the cache over, so that nothing read before it holds
            c = self.plain_of[spec] = number if is_plain else -1
        return c

    def decide(self, spec: PodSpec, candidates: BoolArray | None, draw: int) -> tuple[int, int, int]:
        """(row, score, device mask) of the best node; row −1 if none fits."""
        state = self.state
        if candidates is None and self.is_plain:
            c = self._plain(spec)
            if c >= 0:
                started, clock = self.started, state.clock
                start, started[c] = started[c], clock
                if self.reads_outlook:
                    self._expect(c, spec, start)
                answer: tuple[int, int, int] = self._decide(
                    c, draw, start, clock, state.num_rows, self.ties, self.device_rule, self.handle
                )
                return answer
        scores = self.scores_among(spec, candidates)
        if not len(scores):
            return -1, NOT_FEASIBLE, 0
        row = int(scores.argmax())
        best = int(scores[row])
        if best == NOT_FEASIBLE:
            return -1, best, 0
        if self.ties:
            equal = np.flatnonzero(scores == best)
            row = int(equal[draw % len(equal)])
            draw //= len(equal)
        return row, best, self.devices(spec, row, draw)

    def leaves_out(self, spec: PodSpec, candidates: BoolArray) -> bool:
        """Whether a node where the pod may go is none of ``candidates (N,)``."""
        state = self.state
        c = self._plain(spec) if self.is_plain else -1
        if c < 0:
            return bool(((self.scores_among(spec, None) > NOT_FEASIBLE) & ~candidates).any())
        start, self.started[c] = self.started[c], state.clock
        if self.reads_outlook:
            self._expect(c, spec, start)
        answer: bool = kernels.leaves_out(c, start, state.clock, state.num_rows, candidates, self.handle)
        return answer

    def sort_out(self, scores: IntArray, candidates: BoolArray, chosen: int, known: Known, most: int) -> Sorted:
        """Tell the nodes of ``scores (N,)`` apart, in one pass: who was best, who was turned away, and why if that is
        ``known``. ``chosen`` is the row of the chosen node, which is none of them, or −1. See :class:`Sorted`.

        What is known of nodes that were touched since is forgotten.
        """
        state = self.state
        alive, touched = state.is_alive[: len(scores)], state.last_touch[: len(scores)]
        codes: CodeArray = np.empty(len(scores), CODE)
        if self.is_compiled:
            todo: IntArray = np.empty(len(scores), np.int64)
            best, totals = np.empty(most, np.int64), np.empty(most, np.int64)
            num, num_best = kernels.sort_out(
                scores, alive, candidates, chosen, known.codes, touched, known.clock, codes, todo, best, totals
            )
            return Sorted(codes, todo[:num], best[:num_best].tolist(), totals[:num_best].tolist())
        known.codes[touched >= known.clock] = 0
        fits = (scores > NOT_FEASIBLE) & candidates & alive
        codes[:] = np.where(candidates, known.codes, NOT_OFFERED)
        if chosen >= 0:
            fits[chosen] = False
            codes[chosen] = 0
        codes[fits | ~alive] = 0
        unknown = alive & candidates & (scores == NOT_FEASIBLE) & (codes == 0)
        if chosen >= 0:
            unknown[chosen] = False
        rows = np.flatnonzero(fits)
        first = rows[np.argsort(-scores[rows], kind="stable")[:most]]
        return Sorted(codes, np.flatnonzero(unknown), first.tolist(), scores[first].tolist())

    def scores_among(self, spec: PodSpec, candidates: BoolArray | None) -> IntArray:
        """``(N,)`` int64 with every rule and every score applied, relative ones among ``candidates``."""
        state = self.state
        scores = self.row(spec)
        mask = candidates
        if state.rules.is_relational(spec):
            relational = state.rules.relational_mask(spec)
            mask = relational if mask is None else mask & relational
        if mask is not None:
            scores = np.where(mask, scores, NOT_FEASIBLE)
        if self.strategy.soft:
            feasible = scores > NOT_FEASIBLE
            extra = soft_score(state.rules, spec, feasible)
            if extra is not None:
                scores = np.where(feasible, scores + extra, NOT_FEASIBLE)
        return scores

    def marks(self, scores: IntArray, most: int) -> IntArray:
        """``(N,)`` int64 marks 0 to ``most`` of ``scores (N,)``; see :meth:`placement.strategy.Strategy.priorities`."""
        marks: IntArray = np.zeros(len(scores), np.int64)
        if self.is_compiled:
            kernels.spread_marks(scores, most, marks)
            return marks
        feasible = scores > NOT_FEASIBLE
        if feasible.any():
            low, high = int(scores[feasible].min()), int(scores[feasible].max())
            shifted = np.where(feasible, scores - low, 0)
            marks = np.minimum((shifted / max(high - low, 1) * most).astype(np.int64), most - 1)
            marks[~feasible] = 0
            marks[int(np.where(feasible, scores, NOT_FEASIBLE).argmax())] = most
        return marks

    def devices(self, spec: PodSpec, row: int, draw: int) -> int:
        """Bit mask of the devices that a pod of this class takes on a node where it fits."""
        demand = self.demand(spec)
        if not demand.count:
            return 0
        if self.is_compiled:
            c = self.class_of[spec]
            return int(self._pick(row, c, self.device_rule, draw, self.handle))
        free = self.state.gpu_free[row, : self.state.gpu_count[row]].tolist()
        enough = [g for g, share in enumerate(free) if share >= demand.milli]
        if demand.milli == DEVICE_MILLI:
            return sum(1 << g for g in enough[: demand.count])
        if self.device_rule == DEVICE_RULES["random"]:
            return 1 << enough[draw % len(enough)]
        if self.device_rule == DEVICE_RULES["scored"]:
            scorers = [w.scorer for w in self.scorers if isinstance(w.scorer, AtcFgd | DeviceWorth)]
            scorers.sort(key=lambda scorer: not isinstance(scorer, AtcFgd))  # of two that price devices, fragmentation
            if scorers:
                return 1 << int(scorers[0].device_scores(self.columns, demand, np.array([row]))[0].argmax())
        return 1 << min(enough, key=free.__getitem__)

    def parts(self, spec: PodSpec, rows: IntArray) -> IntArray:
        """``(scorers, n)`` int64: weighted score parts, for explanations."""
        demand = self.demand(spec)
        return np.array(
            [w.weight * w.scorer.score(self.columns, demand, rows) for w in self.scorers], np.int64
        ).reshape(len(self.scorers), len(rows))
