"""Consolidation: which nodes to empty within a budget of moves, so that the fleet costs least.

A node may go when every pod on it can run elsewhere. The plan deletes nodes and sends their pods to nodes that stay;
pods of nodes that stay are not touched, so every step is feasible by itself in any order: first the pods of one node
move, then the node goes.

Bound and choice come from one relaxation (:mod:`placement.planning.relaxation`), whose optimum bounds every plan. The
choice is then packed (:mod:`placement.planning.displaced`). Where that fails, the room of each node is first cut down to
what whole pods can use of it. With a budget, room is then held back and the relaxation solved again. Without one, rows are
added for prices at which the choice is too dear, and what is left waiting is repacked; nodes come back for the last
pods, and are exchanged (:mod:`placement.planning.exchanges`). On small clusters CP-SAT closes the last gap on the exact
model (:mod:`placement.planning.class_flow`). No plan is worse than the rival's (:mod:`placement.planning.prefix_search`).
"""

from __future__ import annotations

import numpy as np

from placement.errors import ConfigError
from placement.planning.class_flow import EXACT_CELLS, exactly
from placement.planning.displaced import pack, packed
from placement.planning.exchanges import exchanged, repacked
from placement.planning.fleet import CENT, Consolidated, Emptied, Fleet
from placement.planning.plans import ROUNDING, Deadline, Ending
from placement.planning.prefix_search import prefix_search
from placement.planning.relaxation import PROOF_GAP, Relaxation
from placement.planning.repacking import Repacking
from placement.planning.solver import Answer
from placement.resources import BoolArray

BEGIN_SHARE, SHARPEN_SHARE = 0.05, 0.3
"""Of the time, for the first choice, and for the rows of a second."""
AGAIN_SHARE = 0.8
"""Of what is left, for the first choice once more where it packed and was not proved the best."""
MARGINS = (0.0, 0.01, 0.03, 0.08, 0.2, 0.6)
"""Shares of room that are held back when a choice does not pack."""
CHOICE_SHARE, CHOICE_GAP = 0.05, 1e-4
"""Of the time, for such a choice, and how exactly it is made: it may not pack anyway."""
REFINEMENTS, REFINEMENT_SHARE = 6, 0.1
ADD_FAILURES, ADD_SHARE = 100, 0.05
FIRST_PACK_SHARE, FIRST_CHOICE_SHARE, FIRST_CHOICE_GAP = 0.2, 0.15, 5e-4
"""Without a budget all depends on the choice after the rows are sharpened, hardly anything on that before."""
ATTEMPTS, ATTEMPT_MARGIN = 12, 0.006
"""Choices that are repacked, and the share of room that the second holds back."""
TRIALS = 20
"""Exchanges that may fail in a row."""
CUT_CELLS, CUT_SHARE = 25_000, 0.25
"""Classes × nodes up to which choices that do not pack are cut off, and the share of the time that each may take."""
BEFORE_EXACT_SHARE = 0.9
EXACT_GAP = 1e-9
"""Share of the bound that plans on whole numbers may miss of it and be proved best."""
MOST_ROUNDING = 1e-3
"""Share of the bound that prices may lose to rounding before nothing counts as proved."""


def consolidate(fleet: Fleet, deadline: Deadline, *, max_moves: int | None = None, seed: int = 0) -> Consolidated:
    """Cheapest fleet within ``max_moves`` (None = any number) that the deadline allows; deleting nothing is valid."""
    if max_moves is not None and max_moves < 0:
        raise ConfigError(f"a budget of {max_moves} moves is not possible; give 0 or more, or none for no limit")
    return _Consolidation(fleet, max_moves, deadline, seed).run()


class _Consolidation:
    """What is asked for, the best plan so far, and the most USD an hour that any plan saves."""

    def __init__(self, fleet: Fleet, max_moves: int | None, deadline: Deadline, seed: int) -> None:
        self.fleet = fleet
        self.max_moves = max_moves
        self.deadline = deadline
        self.seed = seed
        self.relaxed = Relaxation(fleet, max_moves, seed=seed)
        self.best = prefix_search(fleet, max_moves=max_moves)
        self.bound = float(fleet.usd_per_hour[fleet.deletable].sum())

    def run(self) -> Consolidated:
        """From a first choice to a proof, as far as time allows."""
        has_budget, deadline = self.max_moves is not None, self.deadline
        answer = self._choose(0.0, deadline.part(BEGIN_SHARE), PROOF_GAP)
        part = deadline if has_budget else deadline.part(FIRST_PACK_SHARE)
        plan, whole = packed(self.fleet, answer, part, self.seed, give_back=False)
        self._offer(plan)
        if whole and has_budget:
            self._choose_again()
        elif has_budget:
            whole = self._hold_room_back()
        elif not whole:
            self._repack(answer)
        if whole or has_budget:
            self._add_nodes()
        self._note()
        return self._proved()

    def _offer(self, plan: Emptied) -> bool:
        """Keep a plan that is the best so far."""
        is_better = plan.usd_per_hour > self.best.usd_per_hour
        self.best = plan if is_better else self.best
        return is_better

    def _note(self) -> None:
        self.deadline.note(self.best.usd_per_hour, max(self.bound, self.best.usd_per_hour))

    def _choose(self, margin: float, deadline: Deadline, gap_share: float) -> Answer:
        """Nodes to empty so that ``margin`` of the room stays free; bounds every plan where that is nothing."""
        answer = self.relaxed.solve(margin, deadline, gap_share)
        if margin == 0.0:
            self.bound = min(self.bound, answer.bound / CENT)
        return answer

    # ── within a budget ───────────────────────────────────────────────────────────────────────

    def _choose_again(self) -> None:
        """The choice once more with the time that is left, where a slow machine or a hard program cut the first short."""
        if self.deadline.is_over or self.best.usd_per_hour >= self.bound * (1 - PROOF_GAP):
            return
        answer = self._choose(0.0, self.deadline.part(AGAIN_SHARE), PROOF_GAP)
        plan, _ = packed(self.fleet, answer, self.deadline, self.seed)
        self._offer(plan)

    def _hold_room_back(self) -> bool:
        """Choices that leave more and more room, until one packs whole; then less again, as far as that packs."""
        self.relaxed.rows.sharpen(self.deadline.part(SHARPEN_SHARE))
        failed, whole = 0.0, False
        for margin in MARGINS:
            answer = self._choose(margin, self.deadline.part(CHOICE_SHARE), CHOICE_GAP)
            plan, whole = packed(self.fleet, answer, self.deadline, self.seed)
            self._offer(plan)
            self._note()
            if whole or self.deadline.is_over:
                break
            failed = margin
        if margin > 0.0:
            self._refine(failed, margin)
        return whole

    def _refine(self, low: float, high: float) -> None:
        """Bisect the margin between the last choice that did not pack and the first that did."""
        for _ in range(REFINEMENTS):
            if self.deadline.is_over:
                break
            middle = (low + high) / 2
            answer = self._choose(middle, self.deadline.part(REFINEMENT_SHARE), CHOICE_GAP)
            plan, whole = packed(self.fleet, answer, self.deadline, self.seed)
            low, high = (low, middle) if whole else (middle, high)
            self._offer(plan)

    def _add_nodes(self) -> None:
        """Delete further nodes one by one, dearest per pod first, as long as they pack."""
        fleet = self.fleet
        budget = np.inf if self.max_moves is None else self.max_moves
        failures = 0
        for n in np.argsort(-fleet.usd_per_hour / np.maximum(fleet.pods, 1), kind="stable"):
            if self.deadline.is_over or failures >= ADD_FAILURES:
                break
            if self.best.deleted[n] or not fleet.deletable[n] or self.best.moves + fleet.pods[n] > budget:
                continue
            deleted = self.best.deleted.copy()
            deleted[n] = True
            arrivals, waiting = pack(fleet, deleted, self.deadline.part(ADD_SHARE), self.seed)
            if waiting.any():
                failures += 1
            else:
                self.best = Emptied.of(fleet, deleted, arrivals)

    # ── without a budget ──────────────────────────────────────────────────────────────────────

    def _repack(self, answer: Answer) -> None:
        """Without a budget all room counts: a choice of sharper rows, repacked until its pods fit, then better nodes."""
        relaxed, deadline = self.relaxed, self.deadline
        if not deadline.is_late:
            relaxed.rows.sharpen(deadline.part(SHARPEN_SHARE))
            relaxed.separate(deadline.part(SHARPEN_SHARE))
            answer = self._choose(0.0, deadline.part(FIRST_CHOICE_SHARE), FIRST_CHOICE_GAP)
        if answer.has_solution:
            is_small = self.fleet.count.size <= EXACT_CELLS
            self._attempt(answer.x > 0.5, deadline.part(BEFORE_EXACT_SHARE) if is_small else deadline)

    def _attempt(self, gone: BoolArray, deadline: Deadline) -> None:
        """Repack choice after choice, from ``gone`` on.

        When exchanges of nodes no longer gain, another choice is tried. Where a node had to come back, the last one is cut
        off, if it can be proved on a small cluster that its pods do not fit, and the bound may fall; else more room is held
        back. Where none had, less is.
        """
        fleet, rows = self.fleet, self.relaxed.rows
        low, high, margin = 0.0, 2 * ATTEMPT_MARGIN, 0.0
        for attempt in range(ATTEMPTS):
            now = repacked(fleet, gone, rows.price, deadline, self.seed + attempt, must=attempt == 0)
            packed_whole = now is not None and bool((now.gone == gone).all())
            if now is not None:
                self._exchange(now, deadline)
            if deadline.is_over or self.best.usd_per_hour >= self.bound * (1 - PROOF_GAP):
                break
            is_cut = False
            if packed_whole:
                high = margin
            elif margin == 0.0 and fleet.count.size <= CUT_CELLS and rows.cut(gone, deadline.part(CUT_SHARE)):
                is_cut = True
            else:
                low = max(margin, rows.spare(gone))
            margin = margin if is_cut else (low + high) / 2
            answer = self._choose(margin, deadline.part(FIRST_CHOICE_SHARE), FIRST_CHOICE_GAP)
            if not answer.has_solution:
                break
            gone = answer.x > 0.5

    def _exchange(self, now: Repacking, deadline: Deadline) -> None:
        """Better nodes for some that go, one exchange after the other, until too many in a row gain nothing."""
        failures = 0
        while True:
            if self._offer(Emptied.of(self.fleet, now.gone, now.arrivals)):
                self._note()
            if deadline.is_over or failures >= TRIALS:
                return
            trial = exchanged(self.fleet, now, deadline)
            now, failures = (now, failures + 1) if trial is None else (trial, 0)

    # ── the proof ─────────────────────────────────────────────────────────────────────────────

    def _proved(self) -> Consolidated:
        """The best plan with its bound and how planning ended; on small clusters the exact model may better both."""
        fleet, deadline = self.fleet, self.deadline
        slack = PROOF_GAP if self.max_moves is None or self._is_best_in_whole_prices() else EXACT_GAP
        is_open = self.best.usd_per_hour < self.bound * (1 - slack)
        if fleet.count.size <= EXACT_CELLS and is_open and not deadline.is_over:
            self.best, most = exactly(fleet, self.best, self.max_moves, deadline, self.seed)
            self.bound = min(self.bound, most)
            slack = PROOF_GAP if self._is_best_in_whole_prices() else slack
        usd, bound = self.best.usd_per_hour, max(self.bound, self.best.usd_per_hour) + 0.0  # no negative zero
        most = _with_small_change(fleet, bound)
        is_proved = most <= bound * (1 + MOST_ROUNDING) and (bound <= 0 or (bound - usd) / bound <= slack)
        return Consolidated.proved(self.best, max(most, usd), Ending.OPTIMAL if is_proved else deadline.ending)

    def _is_best_in_whole_prices(self) -> bool:
        """Whether the plan reaches the bound at the prices of the programs: what is left between them is rounding then."""
        usd = float(np.round(self.fleet.usd_per_hour[self.best.deleted] * CENT).sum()) / CENT
        return usd >= self.bound * (1 - EXACT_GAP)


def _with_small_change(fleet: Fleet, bound: float) -> float:
    """The most USD an hour that plans save which save no more than ``bound`` at prices in whole millionths."""
    usd = fleet.usd_per_hour[fleet.deletable]
    whole = np.round(usd * CENT) / CENT
    lost = np.where(usd - whole > ROUNDING / CENT, usd - whole, 0.0)
    if (lost[whole == 0.0] > 0.0).any():
        most = bound + float(lost.sum())
    else:
        most = bound * (1.0 + float((lost / np.maximum(whole, 1 / CENT)).max(initial=0.0)))
    return min(most, float(usd.sum()))
