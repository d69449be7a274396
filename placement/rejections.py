"""Why nodes were turned away, as masks: for recorders, which want it in about a hundred microseconds at 5,000 nodes.

What a pod waits for is told in one reason (:func:`main_reason`), for counting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct

from placement.pods import PodSpec
from placement.program import CODE, CodeArray, Known, Program
from placement.resources import PODS, BoolArray, IntArray
from placement.state import NUM_DERIVED, ClusterState, Snapshot
from placement.strategy import Strategy

NOT_OFFERED = "not offered by the caller"
MAX_KNOWN = 1000
"""Classes remembered; beyond it remembering starts over."""
MAX_TEXTS = 10_000
"""Reasons remembered of one class; beyond it remembering starts over."""
MAX_NAMED = 62
"""Resources of which some node has too little that a reason tells apart: each takes a bit of an int64."""
NO_DEVICE = "no device with enough free share"
PREDICTED_FULL = "predicted use exceeds what the strategy allows on the node"
UNRECORDED = "devices may be those of running pods without the annotation ullage.dev/devices"


def rejections(
    strategy: Strategy, snapshot: Snapshot, spec: PodSpec, candidates: BoolArray | None = None, *, chosen: int = -1
) -> dict[str, BoolArray]:
    """Reason → ``(N,)`` bool: every live node that the pod may not use, under the first rule that it breaks.

    The masks are disjoint; rows of removed nodes are in none, nor is ``chosen``, where the pod may be counted already.
    """
    return Rejections().of(strategy, snapshot, spec, candidates, chosen=chosen).masks()


class Standing(Struct, frozen=True, gc=False):
    """How the nodes of one moment stood to one pod. Stays true when the ledger changes; any thread may read it."""

    codes: CodeArray
    """``(N,)``: 0 for a node that the pod may use and for no node, else the reason ``texts[code − 1]``."""
    texts: Sequence[str]
    best: list[int]
    """Rows of the best nodes besides the chosen one, best and then lowest row first."""
    totals: list[int]
    """Their scores."""

    def masks(self) -> dict[str, BoolArray]:
        """Reason → ``(N,)`` bool."""
        counts = np.bincount(self.codes)
        return {self.texts[code - 1]: self.codes == code for code in np.flatnonzero(counts).tolist() if code}


@dataclass(slots=True)
class _Class(Known):
    """What is known of one class of pods. Texts are only ever appended: a :class:`Standing` shares them."""

    texts: list[str]

    def code_of(self, text: str) -> int:
        """Of a reason, new or not."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


class Rejections:
    """Remembers, class by class, why nodes were turned away: mostly the same nodes as last time, for the same reason."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, PodSpec], _Class] = {}
        self._as_of = (0, 0)
        """Epoch, and number of changes of nodes, of which all that is true."""

    def of(
        self,
        strategy: Strategy,
        snapshot: Snapshot,
        spec: PodSpec,
        candidates: BoolArray | None,
        *,
        chosen: int,
        most: int = 1,
    ) -> Standing:
        """As :func:`rejections`, and at most ``most`` of the best nodes besides ``chosen``."""
        state = snapshot.state
        program = strategy.program(state)
        is_relational = state.rules.is_relational(spec)
        relative = is_relational or strategy.soft
        scores = program.scores_among(spec, candidates) if relative else program.row(spec)
        known = self._class(strategy, state, spec)
        if is_relational:  # a bind anywhere may have changed the reason
            known.clock = 0
        everyone = np.ones(len(scores), np.bool_) if candidates is None else candidates
        codes, todo, best, totals = program.sort_out(scores, everyone, chosen, known, most)
        known.clock = 0 if is_relational else state.clock
        if len(todo):
            for reason, rows in _reasons(strategy, state, spec, todo):
                codes[rows] = known.codes[rows] = known.code_of(reason)
        return Standing(codes, known.texts, best, totals)

    def _class(self, strategy: Strategy, state: ClusterState, spec: PodSpec) -> _Class:
        as_of = (state.epoch, len(state.changed_rows))
        if as_of != self._as_of:
            self._known.clear()
            self._as_of = as_of
        known = self._known.get((strategy.digest, spec))
        if known is None or len(known.texts) >= MAX_TEXTS:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            known = self._known[strategy.digest, spec] = _Class(np.zeros(state.num_rows, CODE), 0, [NOT_OFFERED])
        return known


def main_reason(snapshot: Snapshot, strategy: Strategy, spec: PodSpec) -> str:
    """The one rule that keeps a pod off most nodes: vectorised, for counting rather than explaining."""
    state = snapshot.state
    program = strategy.program(state)
    num = state.num_rows
    alive = state.is_alive[:num]
    if not alive.any():
        return "no node"
    permitted = state.rules.static_mask(spec)  # of nodes that are there
    demand = program.demand(spec)

    def count(broken: BoolArray) -> int:
        return int(np.count_nonzero(broken & permitted))

    tally = {"a node rule (selector, taint, device model)": int(np.count_nonzero(alive > permitted))}
    for lane in np.flatnonzero(demand.delta[NUM_DERIVED:] > 0) + NUM_DERIVED:
        name = state.resources[lane - NUM_DERIVED]
        tally["Too many pods" if name == PODS else f"Insufficient {name}"] = count(
            state.taken[lane, :num] + demand.delta[lane] > state.offered[lane, :num]
        )
    if demand.count:
        enough = state.gpu_free[:num] >= demand.milli
        tally[NO_DEVICE] = count(np.count_nonzero(enough, axis=1) < demand.count)
    if program.admits:
        tally[PREDICTED_FULL] = count(~program.admitted(demand, np.arange(num)))
    if state.rules.is_relational(spec):
        tally["a rule about other pods (ports, affinity, spread)"] = count(~state.rules.relational_mask(spec))
    return max(tally.items(), key=lambda item: item[1])[0]


def _reasons(strategy: Strategy, state: ClusterState, spec: PodSpec, rows: IntArray) -> list[tuple[str, IntArray]]:
    """The first rule that each of ``rows (n,)`` breaks, and the rows that break it."""
    program = strategy.program(state)
    broken = [(text, ~holds) for text, holds in state.rules.permissions(spec, rows)]
    broken += _short(program, spec, rows)
    if program.admits:
        demand = program.demand(spec)
        broken.append((PREDICTED_FULL, program.fits(demand, rows) & ~program.admitted(demand, rows)))
    if state.unrecorded:
        broken.append((UNRECORDED, state.hides_devices(spec)[rows]))
    broken.append((NO_DEVICE, np.ones(len(rows), np.bool_)))
    grouped = []
    left = np.ones(len(rows), np.bool_)
    for reason, breaks in broken:
        hit = left & breaks
        if hit.any():
            grouped.append((reason, rows[hit]))
            left &= ~hit
    return grouped


def _short(program: Program, spec: PodSpec, rows: IntArray) -> list[tuple[str, BoolArray]]:
    """Which of ``rows (n,)`` lack resources; those that lack the same ones stand together."""
    lacks = (program.columns.free(rows) < program.demand(spec).need)[:, NUM_DERIVED:]
    lacking = np.flatnonzero(lacks.any(axis=0))[:MAX_NAMED]
    numbers = lacks[:, lacking] @ (1 << np.arange(len(lacking)))
    resources = [program.state.resources[i] for i in lacking.tolist()]
    grouped = []
    for number in sorted(set(numbers.tolist())):
        names = [name for bit, name in enumerate(resources) if number >> bit & 1]
        reason = "Too many pods" if names == [PODS] else f"Insufficient {', '.join(names)}"
        if names:
            grouped.append((reason, numbers == number))
    return grouped
