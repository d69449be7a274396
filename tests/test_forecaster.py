"""What a forecaster asks, promises, keeps and forgets as workloads, requests, rungs and its clock change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from placement.learning.baselines import PEAK, Target
from placement.learning.forecasting import Forecaster, asked_of
from placement.learning.prediction import HISTORY, MODEL, Batch, HistoryPredictor, Question, Rungs, ask
from placement.learning.usage import STEP_S, SingleArray
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY

DAY_S, HOUR_S, GIB = 86_400, 3600, 2**30
NOW = 1_790_000_000 // DAY_S * DAY_S
TARGET = Target(1, PEAK)
ASKS = {CPU: 4000, MEMORY: 8 * GIB}


def fill(made: Forecaster, begin_s: int, end_s: int, cpu: Mapping[str, int]) -> None:
    for at in range(begin_s + STEP_S, end_s + 1, STEP_S):
        for workload, millicores in cpu.items():
            made.add(workload, at, at, cpu_millicores=millicores, memory_bytes=2 * GIB)


def asked(made: Forecaster, *workloads: str) -> list[Question]:
    """All that is asked, and answered."""
    found = []
    while questions := made.questions(dict.fromkeys(workloads, ASKS)):
        found += questions
        made.take(ask(made.rungs, questions))
    return found


def test_a_workload_asks_for_the_most_that_a_class_of_its_pods_does() -> None:
    small = PodSpec(((CPU, 500), (MEMORY, 2 * GIB)), namespace="shop", owner="ReplicaSet/web-7c9d8bf6c4")
    large = PodSpec(((CPU, 900), (MEMORY, GIB)), namespace="shop", owner="ReplicaSet/web-5d5d8bf6c4")
    expected = {"shop/Deployment/web": {CPU: 900, MEMORY: 2 * GIB}}
    assert asked_of([small, large, PodSpec(((CPU, 1),))]) == asked_of([large, small]) == expected


def test_a_workload_is_asked_about_when_its_history_or_its_request_changed_and_tried_on_the_past_once() -> None:
    made = Forecaster(TARGET)
    fill(made, NOW, NOW + DAY_S, {"w": 1000})
    assert [q.judges for q in asked(made, "w")] == [True]
    assert asked(made, "w") == []
    fill(made, NOW + DAY_S, NOW + DAY_S + STEP_S, {"w": 1000})
    assert [q.judges for q in asked(made, "w")] == [False]
    more = ASKS | {CPU: 6000}
    assert [q.requested for q in made.questions({"w": more})] == [more]


def test_there_is_one_promise_an_hour_however_often_is_asked() -> None:
    made = Forecaster(TARGET)
    fill(made, NOW, NOW + DAY_S, {"w": 1000})
    for at in range(NOW + DAY_S, NOW + DAY_S + 3 * HOUR_S, STEP_S):
        fill(made, at, at + STEP_S, {"w": 1000})
        asked(made, "w")
    fill(made, NOW + DAY_S + 3 * HOUR_S, NOW + DAY_S + 5 * HOUR_S, {"w": 1000})
    assert made.settle(NOW + DAY_S + 5 * HOUR_S) == 3 * 2, "three hours, two resources"


def test_new_rungs_are_asked_anew_and_answer_for_nothing_that_others_said() -> None:
    made = Forecaster(TARGET)
    then = NOW + 12 * DAY_S
    fill(made, NOW, then, {"w": 1000})
    asked(made, "w")
    made.settle(then)
    fill(made, then, then + HOUR_S, {"w": 1000})
    asked(made, "w")
    fill(made, then + HOUR_S, then + 3 * HOUR_S, {"w": 3000})
    asked(made, "w")
    assert made.settle(then + 3 * HOUR_S) == 2 * 2
    for _ in range(200):
        made.monitor.observe(f"{HISTORY}/{CPU}", False)
    assert made.factor(HISTORY, CPU) is not None
    assert made.scores
    assert not made.trusted(HISTORY)
    made.use(Rungs.of_history(TARGET))
    assert made.trusted(HISTORY)
    assert not made.scores
    assert made.factor(HISTORY, CPU) is None
    assert not made.forecasts(then + 3 * HOUR_S).of, "nobody has answered"
    end_s = then + 5 * HOUR_S
    fill(made, then + 3 * HOUR_S, end_s, {"w": 1000})
    assert made.settle(end_s) == 0, "the promise of two hours ago was not theirs"
    assert [q.judges for q in asked(made, "w")] == [True]
    made.use(Rungs.of_history(TARGET))
    asked(made, "w")
    fill(made, end_s, end_s + 2 * HOUR_S, {"w": 1000})
    assert made.settle(end_s + 2 * HOUR_S) == 2, "they promise at once, whatever others promised within the hour"


def test_who_is_here_is_kept_however_long_it_is_not_measured() -> None:
    made = Forecaster(TARGET)
    fill(made, NOW, NOW + DAY_S, {"here": 1000, "gone": 1000})
    fill(made, NOW + DAY_S, NOW + 3 * DAY_S, {"other": 1000})
    made.keep(["here", "other"])
    assert [q.workload for q in asked(made, "here", "gone", "other")] == ["here", "other"]


@pytest.mark.parametrize(("away_days", "is_new"), [(20, False), (29, True)])
def test_a_workload_that_comes_back_within_four_weeks_is_no_newcomer(away_days: int, is_new: bool) -> None:
    made = Forecaster(TARGET)
    fill(made, NOW, NOW + DAY_S, {"w": 1000, "other": 1000})
    back_s = NOW + (1 + away_days) * DAY_S
    fill(made, back_s - 25 * HOUR_S, back_s, {"other": 1000})
    made.keep(["other"])
    made.keep(["other"])
    fill(made, back_s, back_s + 4 * HOUR_S, {"w": 1000})
    assert [q.is_new for q in asked(made, "w")] == [is_new]


@pytest.mark.parametrize(("hours", "is_new"), [(0, True), (2, False), (30, False)])
def test_who_was_here_for_hours_before_it_was_measured_is_no_newcomer(hours: int, is_new: bool) -> None:
    """Its node was not scraped, or all histories had an owner."""
    made = Forecaster(TARGET)
    fill(made, NOW, NOW + 2 * DAY_S, {"other": 1000})
    for hour in range(hours + 1):
        then = NOW + 2 * DAY_S + hour * HOUR_S
        made.keep(["other", "w"])
        made.settle(then)
        fill(made, then, then + HOUR_S, {"other": 1000})
    fill(made, then, then + 4 * HOUR_S, {"w": 1000})
    made.keep(["other", "w"])
    assert [q.is_new for q in asked(made, "w")] == [is_new]


def test_a_clock_that_was_ahead_makes_no_newcomer_of_who_is_here_unmeasured() -> None:
    made = Forecaster(TARGET)
    fill(made, NOW, NOW + 3 * DAY_S, {"other": 1000})
    made.keep(["w"])
    made.settle(NOW + 3 * DAY_S)
    fill(made, NOW + DAY_S, NOW + DAY_S + 6 * HOUR_S, {"other": 1000})
    made.keep(["w"])
    made.settle(NOW + DAY_S)
    fill(made, NOW + DAY_S + 6 * HOUR_S, NOW + DAY_S + 9 * HOUR_S, {"w": 1000})
    assert [q.is_new for q in asked(made, "w")] == [False]


@dataclass
class Kin:
    """A model that says what kin tell."""

    tries: tuple[int, int] = (7, 12)
    days: int = 1
    reads_kin: bool = True
    reads_clock: bool = False

    def shares(self, batch: Batch, resource: str) -> SingleArray | None:
        return np.full(batch.kin.shape[:2], 0.5, np.float32)


def test_what_kin_told_of_the_future_is_forgotten_when_the_clock_is_set_back() -> None:
    use = {"shop/Deployment/a": 1000, "shop/Deployment/b": 2000, "shop/Deployment/c": 3000}
    told = []
    for ahead_days in (0, 3):
        made = Forecaster(
            TARGET, rungs=Rungs(((MODEL, Kin()), (HISTORY, HistoryPredictor.plain(TARGET))), TARGET, "kin")
        )
        fill(made, NOW, NOW + 2 * DAY_S, use)
        asked(made, *use)
        if ahead_days:
            ahead_s = NOW + (2 + ahead_days) * DAY_S
            fill(made, ahead_s, ahead_s + DAY_S, dict.fromkeys(use, 4000))
            asked(made, *use)
        fill(made, NOW + 2 * DAY_S, NOW + 2 * DAY_S + HOUR_S, use)
        questions = asked(made, *use)
        if ahead_days:
            assert [q.stands for q in questions] == [True] * 3 + [False] * 3
            assert all(q.judges for q in questions[3:])
        told.append({q.workload: q.kin for q in questions if not q.stands})
    for workload, kin in told[0].items():
        again = told[1][workload]
        assert kin is not None
        assert again is not None
        assert np.array_equal(kin[0], again[0], equal_nan=True)
        assert not np.isnan(kin[0]).all()
