"""When predictions are shut and when they open again, to the outcome and to the five minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placement.learning.drift import (
    FLOOR,
    FULL,
    LEAST,
    LONGEST,
    MARGIN_NATS,
    RECOVER,
    WEEK,
    WINDOW,
    CoverageMonitor,
    Crowding,
    LossMonitor,
    is_full,
)
from placement.learning.usage import DAY, STEP_S

RUNG = "history/cpu"


def test_a_rung_is_judged_once_enough_is_known() -> None:
    monitor = CoverageMonitor()
    assert (monitor.coverage(RUNG), monitor.trusted(RUNG)) == (1.0, True)
    for known in range(1, LEAST + 1):
        monitor.observe(RUNG, False)
        assert monitor.trusted(RUNG) == (known < LEAST)
    assert (monitor.falls, monitor.coverage(RUNG), monitor.coverage("model/cpu")) == (1, 0.0, 1.0)
    assert monitor.trusted("model/cpu"), "each is judged for itself"


def test_a_rung_is_shut_below_the_floor_and_opens_a_margin_above_it() -> None:
    monitor = CoverageMonitor()
    misses = round((1 - FLOOR) * LEAST)
    for covered in [True] * (LEAST - misses) + [False] * misses:
        monitor.observe(RUNG, covered)
    assert monitor.coverage(RUNG) == FLOOR
    assert monitor.trusted(RUNG), "at the floor"
    monitor.observe(RUNG, False)
    assert not monitor.trusted(RUNG)
    num, kept = LEAST + 1, LEAST - misses
    while not monitor.trusted(RUNG):
        assert kept / num < FLOOR + RECOVER
        monitor.observe(RUNG, True)
        num, kept = num + 1, kept + 1
    assert kept / num >= FLOOR + RECOVER
    assert monitor.falls == 1
    while monitor.trusted(RUNG):
        monitor.observe(RUNG, False)
    assert monitor.falls == 2


def test_a_rung_opens_at_the_margin_itself() -> None:
    monitor = CoverageMonitor()
    for covered in [False] * LEAST + [True] * (round((FLOOR + RECOVER) * WINDOW) - 1):
        monitor.observe(RUNG, covered)
    assert not monitor.trusted(RUNG)
    monitor.observe(RUNG, True)
    assert monitor.coverage(RUNG) == FLOOR + RECOVER
    assert monitor.trusted(RUNG)


def test_outcomes_of_long_ago_do_not_count() -> None:
    monitor = CoverageMonitor()
    for covered in [False] * WINDOW + [True] * (WINDOW - 1):
        monitor.observe(RUNG, covered)
    assert monitor.coverage(RUNG) == 1 - 1 / WINDOW
    monitor.observe(RUNG, True)
    assert monitor.coverage(RUNG) == 1.0


class Cluster:
    """Looks at 200 nodes every five minutes."""

    def __init__(self) -> None:
        self.crowding = Crowding(0.01)
        self.slot = 0

    def pass_slots(self, num: int, full: int) -> None:
        for _ in range(num):
            self.crowding.look(self.slot * STEP_S, full, 200)
            self.crowding.settle()
            self.slot += 1

    def pass_until(self, is_crowded: bool, full: int) -> int:
        """When it was so."""
        while self.crowding.is_crowded != is_crowded:
            self.pass_slots(1, full)
        return self.slot - 1


def test_nodes_are_crowded_above_the_budget_and_no_more_at_half_of_it_a_day_later() -> None:
    cluster = Cluster()
    cluster.pass_slots(2 * DAY, 2)
    assert cluster.crowding.share == 0.01
    assert not cluster.crowding.is_crowded, "at the budget"
    cluster.pass_slots(1, 3)
    assert cluster.crowding.is_crowded
    fell = cluster.slot - 1
    assert cluster.pass_until(False, 1) - fell == DAY, "half of the budget, a day after"
    assert cluster.crowding.share == 0.005


def test_nodes_above_half_of_the_budget_stay_crowded() -> None:
    cluster = Cluster()
    cluster.pass_until(True, 3)
    cluster.pass_slots(3 * DAY, 1)
    assert not cluster.crowding.is_crowded
    cluster.pass_until(True, 3)
    for _ in range(9):
        cluster.pass_slots(DAY - 1, 1)
        cluster.pass_slots(1, 2)
        assert cluster.crowding.is_crowded


@pytest.mark.parametrize(("calm", "days"), [(WEEK - 1, 2), (WEEK, 1)])
def test_who_is_crowded_again_within_a_week_is_shut_for_twice_as_long(calm: int, days: int) -> None:
    cluster = Cluster()
    fell = cluster.pass_until(True, 200)
    assert cluster.pass_until(False, 0) - fell == DAY
    # A burst is above the budget once three of 288 looks saw all nodes full; the first two are of the calm time.
    cluster.pass_slots(calm - 3, 0)
    fell = cluster.pass_until(True, 200)
    assert cluster.pass_until(False, 0) - fell == days * DAY


def test_it_is_never_shut_for_longer_than_eight_days() -> None:
    cluster = Cluster()
    shut = []
    for _ in range(6):
        fell = cluster.pass_until(True, 200)
        shut.append((cluster.pass_until(False, 0) - fell) // DAY)
    assert shut == [1, 2, 4, 8, 8, 8]
    assert max(shut) == LONGEST


def test_looks_within_five_minutes_count_once_by_the_worst_and_a_day_without_any_as_calm() -> None:
    crowding = Crowding(0.01)
    assert crowding.share == 0.0
    crowding.settle()
    for full, nodes in ((0, 4), (3, 5), (1, 6), (2, 1)):
        crowding.look(10 * STEP_S + full, full, nodes)
    assert crowding.share == 3 / (6 * DAY)
    crowding.look((10 + DAY - 1) * STEP_S, 1, 2)
    assert crowding.share == 4 / (6 + 2 + (DAY - 2) * 2)
    crowding.look((10 + DAY) * STEP_S, 1, 2)
    assert crowding.share == 2 / (2 * DAY), "a day later the first is forgotten"


def test_what_is_recalled_of_the_last_day_comes_before_what_was_seen() -> None:
    used = np.zeros((3, DAY), np.int64)
    offered = np.array([1000, 2000, 0])
    used[0, [0, 100, -2, -1]] = 990
    used[1, [100, -2]] = [1979, 1980]
    crowding = Crowding(0.5)
    crowding.recall(DAY * STEP_S, used, offered)
    assert crowding.share == (4 + 1) / (3 * DAY)
    seen = Crowding(0.5)
    seen.look(DAY * STEP_S, 3, 3)
    seen.recall(DAY * STEP_S, used, offered)
    assert seen.share == (3 + 3 + 1) / (3 * DAY), "not of the slot that was looked at"
    seen.recall(DAY * STEP_S, used, offered)
    assert seen.share == (3 + 3 + 1) / (3 * DAY), "nor twice"


def test_the_future_is_forgotten_when_the_clock_goes_back() -> None:
    crowding = Crowding(0.01)
    for slot in (5, 6, 7):
        crowding.look(slot * STEP_S, 1, 1)
    crowding.rewind(6 * STEP_S)
    assert crowding.share == 2 / DAY, "now is no future"


def test_a_clock_that_was_ahead_neither_keeps_nodes_crowded_nor_counts_as_a_week_of_calm() -> None:
    cluster = Cluster()
    cluster.slot = 50 * DAY
    cluster.pass_until(True, 200)
    cluster.slot = 10 * DAY
    cluster.crowding.rewind(cluster.slot * STEP_S)
    assert cluster.pass_until(False, 0) == 11 * DAY
    cluster.slot = 5 * DAY
    cluster.crowding.rewind(cluster.slot * STEP_S)
    cluster.pass_slots(WEEK, 0)
    fell = cluster.pass_until(True, 200)
    assert cluster.pass_until(False, 0) - fell == DAY, "a week after it was set back all is forgiven"


def test_a_model_may_do_worse_by_the_margin_and_not_by_more() -> None:
    monitor = LossMonitor()
    for _ in range(LEAST):
        monitor.observe(0.5, 0.5)
    for worse in (0.0, MARGIN_NATS):
        for _ in range(WINDOW):
            monitor.observe(0.5 + worse, 0.5)
        assert monitor.trusted
    monitor.observe(0.521, 0.5)
    assert not monitor.trusted


def test_the_page_on_models_has_these_numbers() -> None:
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    opens = f"{100 * (FLOOR + RECOVER):.0f} %"
    assert f"fewer than {100 * FLOOR:.0f} % of a rung's last {WINDOW} outcomes ({LEAST} at least)" in page
    assert f"it opens again at {opens}" in page
    margin = f"{MARGIN_NATS:g}".removeprefix("0")
    assert f"no worse than the history over {LEAST} outcomes, and is shut when it is worse by {margin} nats" in page
    assert f"nats over the last {WINDOW}" in page
    assert f"({100 * FULL:.0f} % used by pods that are not on reclaimed capacity)" in page
    assert f"twice as long, up to {({8: 'eight'})[LONGEST]} days, each time" in page
    assert WEEK == 7 * DAY
    assert "happens again within a week" in page


@pytest.mark.parametrize(
    ("used", "offered", "full"), [(990, 1000, True), (989.9, 1000, False), (0, 0, False), (5, 0, False)]
)
def test_a_node_is_used_up_at_99_percent_of_what_it_has(used: float, offered: float, full: bool) -> None:
    assert is_full(used, offered) == full
