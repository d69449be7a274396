"""What rungs say of histories that are idle, short of samples, or of one resource alone, and how they are tried on them."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import pytest

from placement.learning.baselines import BASELINES, PEAK, Target
from placement.learning.boosted import CARD, FORMAT, card_text
from placement.learning.forecasting import Forecaster
from placement.learning.lifetime_model import SECTION
from placement.learning.prediction import (
    HISTORY,
    Answers,
    HistoryPredictor,
    Question,
    Rungs,
    ask,
    load_rungs,
    percentiles,
)
from placement.learning.usage import DAY, STEP_S, UsageHistory
from placement.resources import CPU, MEMORY

TARGET = Target(6, PEAK)
GIB = 2**30
ASKS = {CPU: 4000, MEMORY: 8 * GIB}
NOW = 1_790_000_000 // 86_400 * 86_400


def said(rungs: Rungs, cpu: list[int], memory: list[int], *, judges: bool = False) -> Answers:
    """Asked at the end of these samples, one every five minutes; −1 is none."""
    past = UsageHistory("w")
    for step, (millicores, amount) in enumerate(zip(cpu, memory, strict=True), 1):
        past.add(NOW + step * STEP_S, cpu_millicores=millicores, memory_bytes=amount)
    snapshot = past.snapshot()
    assert snapshot is not None
    (found,) = ask(rungs, [Question("w", ASKS, snapshot, judges)])
    return found


@pytest.mark.parametrize(("most", "wanted"), [(1000, 1500), (3600, 4000), (4400, 4400)])
def test_a_rule_says_as_much_as_its_scale_up_to_the_request_and_nothing_of_other_resources(
    most: int, wanted: int
) -> None:
    """As where it was tuned; who used more than he asked for is said to use as much."""
    rule = HistoryPredictor(TARGET, {CPU: ("max7d", 1.5)})
    found = said(Rungs(((HISTORY, rule),), TARGET), [most] * 2 * DAY, [GIB] * 2 * DAY)
    assert found.of[CPU].uppers == {HISTORY: pytest.approx(wanted)}
    assert found.of[MEMORY].uppers == {}


@pytest.mark.parametrize("name", sorted(BASELINES.keys() - {"request", "borg-phi"}))
def test_every_rule_on_the_past_says_of_steady_use_what_it_is_but_for_the_width_of_its_buckets(name: str) -> None:
    found = said(load_rungs(f"rule:{name}", TARGET), [1000] * 9 * DAY, [2 * GIB] * 9 * DAY)
    assert 1000 <= found.of[CPU].uppers[HISTORY] * (1 + 1e-6) <= 1400
    assert 2 <= found.of[MEMORY].uppers[HISTORY] * (1 + 1e-6) / GIB <= 2.8


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_a_rule_reads_as_much_of_the_past_as_its_answer_depends_on(name: str) -> None:
    """VPA's histogram of memory has peaks of eight days, say: of one day it would say half as much."""
    rng, past = np.random.default_rng(5), UsageHistory("w")
    for step, share in enumerate(rng.gamma(0.3, 0.1, 27 * DAY + 84).clip(0, 1), 1):
        past.add(NOW + step * STEP_S, cpu_millicores=int(4000 * share), memory_bytes=int(8 * GIB * share))
    snapshot = past.snapshot()
    assert snapshot is not None
    names, question = {CPU: (name, 1.0), MEMORY: (name, 1.0)}, Question("w", ASKS, snapshot)

    @dataclass(frozen=True)
    class Whole(HistoryPredictor):
        days = 28

    as_served, of_all = (
        ask(Rungs(((HISTORY, one(TARGET, names)),), TARGET), [question])[0] for one in (HistoryPredictor, Whole)
    )
    for resource in ASKS:
        assert as_served.of[resource].uppers[HISTORY] == pytest.approx(of_all.of[resource].uppers[HISTORY], rel=1e-5)


def test_an_idle_workload_is_said_to_use_a_thousandth_so_that_ratios_mean_something() -> None:
    found = said(Rungs.of_history(TARGET), [0] * 2 * DAY + [800], [0] * 2 * DAY + [-1], judges=True)
    assert found.of[MEMORY].uppers == {HISTORY: pytest.approx(0.001 * 8 * GIB, rel=1e-5)}
    last = max((r for r in found.tried if r.resource == CPU), key=lambda r: r.made_s)
    assert last.ratio == pytest.approx(800 / 4, rel=1e-4)


def test_rungs_are_tried_at_whole_hours_before_the_end_and_only_where_it_is_known_what_came() -> None:
    cpu = [1000] * 2 * DAY + [-1] * DAY + [1000] * DAY
    found = said(Rungs.of_history(TARGET), cpu, [GIB] * 4 * DAY, judges=True)
    assert all(isfinite(ratio.ratio) for ratio in found.tried)
    ages = {resource: {found.end_s - r.made_s for r in found.tried if r.resource == resource} for resource in ASKS}
    assert min(ages[CPU]) == min(ages[MEMORY]) == 6 * 3600
    assert all((age - 6 * 3600) % (5 * 3600) == 0 for age in ages[CPU] | ages[MEMORY])
    nothing_came = [age for age in ages[MEMORY] if 30 * 3600 <= age <= 48 * 3600]
    assert nothing_came
    assert not ages[CPU] & set(nothing_came)


def test_where_a_resource_was_not_measured_for_a_day_its_mean_is_the_request() -> None:
    cpu = [1000] * 2 * DAY + [-1] * (DAY + 12)
    found = said(Rungs.of_history(TARGET), cpu, [GIB] * len(cpu))
    assert found.of[CPU].mean == 4000
    assert found.of[MEMORY].mean == pytest.approx(GIB)


def test_the_sample_at_a_rank_is_that_above_it_and_none_is_nothing() -> None:
    table = np.array([[4, np.nan, 1, 3, 2], [np.nan] * 5], np.float32)
    assert [percentiles(table, share).tolist() for share in (0, 0.5, 0.67, 1)] == [[1, 0], [3, 0], [4, 0], [4, 0]]


def test_a_folder_of_lifetimes_alone_leaves_usage_to_the_history(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text(card_text({"format": FORMAT, "models": [], SECTION: {}}))
    assert load_rungs(str(tmp_path), TARGET).source == "history"


def test_parts_of_the_day_are_told_from_the_history_whatever_model_there_is(tmp_path: Path) -> None:
    rungs = load_rungs(str(tmp_path / "whatever"), TARGET, parts=True)
    assert [name for name, _ in rungs.predictors] == [HISTORY]
    assert rungs.days >= 7
    made = Forecaster(TARGET, rungs=rungs, factor=1.0)
    for at in range(NOW + STEP_S, NOW + 2 * 86_400, STEP_S):
        made.add("w", at, at, cpu_millicores=1000, memory_bytes=GIB)
    made.take(ask(rungs, made.questions({"w": ASKS})))
    assert made.forecasts(NOW + 2 * 86_400).of["w"].windows
