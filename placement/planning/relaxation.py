"""Which nodes to empty: an integer program with a binary per node, small enough to be solved to optimality.

Its rows are the move budget and the room of nodes that stay (:mod:`placement.planning.room_rows`). Whatever really fits
satisfies them, so the optimum bounds every plan; the choice itself need not pack.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from placement.planning.fleet import CENT, Fleet
from placement.planning.plans import Deadline
from placement.planning.room_rows import RoomRows
from placement.planning.solver import INFINITY, Answer, Limits, Model, Status, solve_linear
from placement.resources import BoolArray, FloatArray, IntArray

MIN_SOLVE_S = 0.05
PROOF_GAP = 1e-6
"""How exactly what bounds a plan is solved."""
COUNTED_SHARE, EASIEST_SHARE, EASIEST_GAP = 0.5, 0.3, 0.02
"""Of a relaxation's time, for the numbers of nodes and for the easiest choice, and how exactly the latter is solved."""
CUTS = 6
"""Rows that :meth:`Relaxation.separate` adds at most."""


class Relaxation:
    """Binary per node; ``rows`` say what room displaced pods need at least."""

    def __init__(self, fleet: Fleet, max_moves: int | None, *, seed: int = 0) -> None:
        self._fleet = fleet
        self._max_moves = max_moves
        self._seed = seed
        self.rows = RoomRows(fleet)
        self._may_go = (fleet.deletable & _each_pod_fits_elsewhere(fleet)).astype(np.float64)
        self._usd = np.round(fleet.usd_per_hour * CENT)
        self._price_of = np.unique(self._usd, return_inverse=True)[1].ravel()

    def separate(self, deadline: Deadline) -> None:
        """Add prices at which the choice of the relaxation is too dear for the nodes that would stay.

        Room of one kind may be short where some classes run and another kind elsewhere, and still all is enough in sum.
        """
        if not self.rows.has_few_pools:
            return
        for _ in range(CUTS):
            answer = solve_linear(self._model(0.0), self._limits(deadline, PROOF_GAP), relax=True)
            if answer.status != Status.OPTIMAL or deadline.is_over:
                return
            price = self.rows.overfull(answer.x, self._limits(deadline, PROOF_GAP))
            if price is None:
                return
            self.rows.add(price, deadline)

    def solve(self, margin: float, deadline: Deadline, gap_share: float) -> Answer:
        """Best set of nodes to delete when ``margin`` of the room must stay free; of those equally good an easy one to pack.

        What is saved depends on the numbers of nodes of each price alone. The program of these numbers is solved in a tenth
        of a second, and loses little, where that of whole nodes takes longer than there is; its bound is a row of the latter.
        """
        model, limits = self._model(margin), self._limits(deadline, gap_share)
        relaxed = solve_linear(model, limits, relax=True)
        if relaxed.status != Status.OPTIMAL:
            return relaxed
        best, bound = self._choice(np.floor(relaxed.x + 1e-9)), relaxed.value  # deleting fewer nodes never breaks a row
        if self._max_moves is None:
            counted_limits = self._limits(deadline.part(COUNTED_SHARE), PROOF_GAP)
            counted = solve_linear(self._model(margin, counted=True), counted_limits)
            bound = min(bound, counted.bound)
            best = self._easiest(counted, margin, deadline, best)
            if best.value >= bound * (1 - gap_share):
                return replace(best, bound=max(bound, best.value))
            model.add_row(np.arange(len(best.x)), self._usd / CENT, upper=bound / CENT * (1 + 1e-9))
            limits = self._limits(deadline, gap_share)
        answer = solve_linear(model, limits, hint=best.x)
        if answer.has_solution and answer.value >= best.value:
            best = answer if self._max_moves is not None else self._easiest(answer, margin, deadline, best)
        return replace(best, bound=max(min(bound, answer.bound), best.value))

    def _choice(self, gone: FloatArray) -> Answer:
        return Answer(Status.FEASIBLE, gone, float(self._usd @ gone), INFINITY)

    def _easiest(self, like: Answer, margin: float, deadline: Deadline, least: Answer) -> Answer:
        """As many nodes of each price as in ``like``, with most room left; ``least`` where no whole nodes do better than it."""
        if not like.has_solution:
            return least
        nodes = np.arange(len(self._usd))
        numbers = np.round(np.bincount(self._price_of, like.x[nodes])).astype(np.int64)
        limits = self._limits(deadline.part(EASIEST_SHARE), EASIEST_GAP)
        answer = solve_linear(self._model(margin, numbers=numbers), limits)
        found = self._choice(np.round(answer.x[nodes])) if answer.has_solution else least
        return found if found.value >= least.value else least

    def _model(self, margin: float, *, counted: bool = False, numbers: IntArray | None = None) -> Model:
        """The nodes that go are the first columns; ``margin`` of the room must stay free.

        With ``counted``, parts of nodes may go, but whole numbers of those of each price. With ``numbers`` so many of each
        price go, and the objective is the room that is left in the row that has least.
        """
        fleet, model = self._fleet, Model()
        y = model.add_columns(self._may_go, objective=self._usd if numbers is None else 0.0, integer=not counted)
        spare = np.zeros(0, np.int64)
        if numbers is not None:
            spare = model.add_columns(np.ones(1), objective=1.0, integer=False)
        if self._max_moves is not None:
            model.add_row(y, fleet.pods, upper=float(self._max_moves))
        for price, whole in zip(self.rows.prices, self.rows.rooms, strict=True):
            room = whole * (1.0 - margin)
            scale = max(float(room.sum()), 1.0)
            values = np.append((price @ fleet.count + room) / scale, np.ones(len(spare)))
            model.add_row(np.append(y, spare), values, upper=float(room.sum()) / scale)
        for k in range(int(self._price_of.max()) + 1):
            same = y[self._price_of == k]
            if numbers is not None:
                model.add_row(same, 1.0, lower=float(numbers[k]), upper=float(numbers[k]))
            elif counted:
                columns = np.append(same, model.add_columns(np.array([len(same)])))
                model.add_row(columns, np.append(np.ones(len(same)), -1.0), lower=0.0, upper=0.0)
        return model

    def _limits(self, deadline: Deadline, gap_share: float) -> Limits:
        time_s = 0.0 if deadline.cancelled() else deadline.left_s
        return Limits(max(time_s, MIN_SOLVE_S), self._seed, gap_share=gap_share, work=deadline.work)


def _each_pod_fits_elsewhere(fleet: Fleet) -> BoolArray:
    """``(N,)``: every class of the node fits somewhere else, looked at alone."""
    ok = np.ones(fleet.free.shape[1], np.bool_)
    for c in range(len(fleet.count)):
        fits = (fleet.free >= fleet.request[:, c, None]).all(axis=0) & fleet.allowed[c]
        total = int(fits.sum())
        ok &= (fleet.count[c] == 0) | (total - fits > 0)
    return ok
