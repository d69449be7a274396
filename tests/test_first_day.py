"""A model in a workload's first day: a rung of its own, that promises nothing before newcomers have shown how it does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placement.knowledge import Forecast
from placement.learning.baselines import Target
from placement.learning.forecasting import LEAST_OUTCOMES, Forecaster, rungs_below
from placement.learning.prediction import (
    HISTORY,
    LEAST,
    LEAST_YOUNG,
    MODEL,
    REQUEST,
    YOUNG,
    HistoryPredictor,
    Question,
    Rungs,
    ask,
)
from placement.learning.rightsize import recommend
from placement.learning.siblings import SIBLINGS
from placement.learning.usage import STEP_S, UsageHistory
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY

TARGET = Target(1)
GIB = 2**30
ASKS = {CPU: 4000, MEMORY: 8 * GIB}
HOUR_S = 3600


@dataclass(frozen=True)
class Guess(HistoryPredictor):
    """A model that says half of the largest sample of a day."""

    def shares(self, batch, resource):  # type: ignore[no-untyped-def]  # as the base
        found = super().shares(batch, resource)
        return None if found is None else found / 2


RUNGS = Rungs(
    ((MODEL, Guess(TARGET, dict.fromkeys((CPU, MEMORY), ("max24h", 1.0)))), *Rungs.of_history(TARGET).predictors),
    TARGET,
)


def played(forecaster: Forecaster, names: list[str], begin_h: int, hours: int, *, cpu: int = 1000) -> int:
    """Constant use from then on, asked about every hour."""
    asks = dict.fromkeys(names, ASKS)
    now = begin_h * HOUR_S
    for _ in range(hours):
        for _ in range(HOUR_S // STEP_S):
            now += STEP_S
            for name in names:
                forecaster.add(name, now, now, cpu_millicores=cpu, memory_bytes=GIB)
        forecaster.take(ask(forecaster.rungs, forecaster.questions(asks)))
        forecaster.settle(now)
    return now


def a_day_old(**more: object) -> Forecaster:
    """Somebody was measured for a day, so that who comes from hour 24 on is known to be new."""
    made = Forecaster(TARGET, rungs=RUNGS, **more)  # type: ignore[arg-type]  # of any option
    played(made, ["shop/Deployment/elder"], 0, 24)
    return made


def told(forecaster: Forecaster, name: str, now: int) -> Forecast:
    return forecaster.forecasts(now).of[name]


def newcomers(num: int, first: int = 0) -> list[str]:
    return [f"shop/Deployment/w{i}" for i in range(first, first + num)]


def test_a_model_is_asked_from_three_hours_on_and_says_so_by_another_name() -> None:
    answers = {}
    for steps in (LEAST_YOUNG - 1, LEAST_YOUNG, LEAST - 1, LEAST):
        history = UsageHistory("w")
        for step in range(1, steps + 1):
            history.add(step * STEP_S, cpu_millicores=1000, memory_bytes=GIB)
        snapshot = history.snapshot()
        assert snapshot is not None
        (answers[steps],) = ask(RUNGS, [Question("w", ASKS, snapshot, is_new=True)])
        assert YOUNG not in {n for p in ask(RUNGS, [Question("w", ASKS, snapshot)])[0].of.values() for n in p.uppers}
    assert answers[LEAST_YOUNG - 1].of[CPU].uppers == {}
    for steps in (LEAST_YOUNG, LEAST - 1):
        assert answers[steps].of[CPU].uppers.keys() == {YOUNG}
        assert np.isclose(answers[steps].of[CPU].uppers[YOUNG], 500, rtol=1e-3)
    assert answers[LEAST].of[CPU].uppers.keys() == {MODEL, HISTORY}
    history = UsageHistory("w")
    for step in range(1, LEAST):
        history.add(step * STEP_S, cpu_millicores=1000, memory_bytes=GIB)
    snapshot = history.snapshot()
    assert snapshot is not None
    assert ask(Rungs.of_history(TARGET), [Question("w", ASKS, snapshot, is_new=True)])[0].of[CPU].uppers == {}, (
        "without a model nothing is said"
    )


def test_it_takes_so_many_newcomers_to_promise_and_the_factor_is_theirs() -> None:
    for num, rung in ((LEAST_OUTCOMES - 1, REQUEST), (LEAST_OUTCOMES, YOUNG)):
        made = a_day_old()
        now = played(made, newcomers(num), 24, 12)
        found = told(made, newcomers(1)[0], now)
        assert found.rung == rung
        wanted = (4000, 8 * GIB) if rung == REQUEST else (1000, GIB)
        assert np.allclose((found.cpu, found.memory), wanted, rtol=1e-5)
    assert made.factor(YOUNG, CPU) is not None
    late = played(made, newcomers(3, first=100), 36, 4)
    assert told(made, newcomers(1, first=100)[0], late).rung == YOUNG, "who comes next is told at once"


def test_the_factor_of_newcomers_is_never_lowered() -> None:
    @dataclass(frozen=True)
    class Twice(HistoryPredictor):
        def shares(self, batch, resource):  # type: ignore[no-untyped-def]  # as the base
            found = super().shares(batch, resource)
            return None if found is None else np.minimum(found * 2, 1)

    predictor = Twice(TARGET, dict.fromkeys((CPU, MEMORY), ("max24h", 1.0)))
    made = Forecaster(TARGET, rungs=Rungs(((MODEL, predictor), *RUNGS.predictors[1:]), TARGET))
    played(made, ["shop/Deployment/elder"], 0, 24)
    now = played(made, newcomers(LEAST_OUTCOMES), 24, 12)
    assert made.factor(YOUNG, CPU) == 1
    assert told(made, newcomers(1)[0], now).cpu == 2000


def test_it_is_shut_when_its_promises_are_not_kept_and_with_the_model() -> None:
    made = a_day_old()
    names = newcomers(LEAST_OUTCOMES + 21)
    played(made, names, 24, 10)
    now = played(made, names, 34, 6, cpu=3900)
    assert not made.trusted(YOUNG)
    assert told(made, names[0], now).rung == REQUEST
    made = a_day_old()
    now = played(made, names, 24, 12)
    assert told(made, names[0], now).rung == YOUNG
    for _ in range(500):
        made.monitor.observe(f"{MODEL}/{CPU}", False)
    assert told(made, names[0], now).rung == REQUEST, "the same trees"
    made.use(RUNGS)
    assert made.factor(YOUNG, CPU) is None, "another model begins anew"


def test_siblings_answer_below_it_and_requests_are_kept() -> None:
    assert [rungs_below(rung) for rung in (MODEL, HISTORY, YOUNG, SIBLINGS, REQUEST)] == [0, 1, 2, 3, 4]
    made = a_day_old(siblings=True)
    now = played(made, newcomers(45), 24, 50)
    now = played(made, newcomers(1, first=200), now // HOUR_S, 4)
    found = told(made, newcomers(1, first=200)[0], now)
    assert found.rung == YOUNG
    spec = PodSpec(((CPU, 4000), (MEMORY, 8 * GIB)), namespace="shop", owner="Deployment/w200")
    (advice,) = recommend([(spec, 1)], made.forecasts(now))
    assert advice.why_kept == "less than a day of its own history"
    for resource in (CPU, MEMORY):
        for _ in range(500):
            made.monitor.observe(f"{YOUNG}/{resource}", False)
    assert told(made, newcomers(1, first=200)[0], now).rung == SIBLINGS


def test_who_was_there_when_the_history_begins_is_of_unknown_age_and_no_newcomer() -> None:
    """As at the start of a replay, or with a Prometheus that keeps little: old workloads that are first seen."""
    made = Forecaster(TARGET, rungs=RUNGS)
    now = played(made, newcomers(LEAST_OUTCOMES + 21), 0, 12)
    assert {f.rung for f in made.forecasts(now).of.values()} == {REQUEST}
    assert made.factor(YOUNG, CPU) is None, "they teach nothing of newcomers"
    now = played(made, newcomers(LEAST_OUTCOMES + 21, first=100), 12, 12)
    assert {f.rung for f in made.forecasts(now).of.values()} == {REQUEST}, "what runs once a day may be old, too"
    now = played(made, newcomers(LEAST_OUTCOMES, first=200), 24, 12)
    assert told(made, newcomers(1, first=200)[0], now).rung == YOUNG


def test_a_history_that_is_read_back_teaches_of_those_alone_who_came_later() -> None:
    """All samples come at once, as from Prometheus; nobody is asked about before."""
    made = Forecaster(TARGET, rungs=RUNGS)
    now = 60 * HOUR_S
    for names, begin_h in ((newcomers(60), 0), (newcomers(LEAST_OUTCOMES - 1, first=100), 30)):
        for name in names:
            for at in range(begin_h * HOUR_S + STEP_S, now + 1, STEP_S):
                made.add(name, at, now, cpu_millicores=1000, memory_bytes=GIB)
    made.take(ask(RUNGS, made.questions(dict.fromkeys((*newcomers(60), *newcomers(38, first=100)), ASKS))))
    made.settle(now)
    assert made.factor(YOUNG, CPU) is None, "those of the beginning would have been enough"
    late = newcomers(1, first=200)
    for at in range(40 * HOUR_S + STEP_S, now + 1, STEP_S):
        made.add(late[0], at, now, cpu_millicores=1000, memory_bytes=GIB)
    made.take(ask(RUNGS, made.questions(dict.fromkeys(late, ASKS))))
    made.settle(now)
    assert made.factor(YOUNG, CPU) is not None


def test_who_comes_back_is_no_newcomer() -> None:
    """A job of the weekend, say: its history was forgotten on Tuesday."""
    made = a_day_old()
    weekly, elder = newcomers(1), ["shop/Deployment/elder"]
    played(made, weekly, 24, 6)
    played(made, elder, 30, 60)
    made.keep(elder)
    assert len(made) == 1
    now = played(made, newcomers(LEAST_OUTCOMES, first=100), 90, 12)
    assert told(made, newcomers(1, first=100)[0], now).rung == YOUNG
    now = played(made, weekly, 102, 6)
    assert told(made, weekly[0], now).rung == REQUEST
    assert made._newcomers[YOUNG, CPU][weekly[0]] < 30 * HOUR_S, "it teaches nothing anew"


def test_what_is_remembered_of_the_forgotten_is_bounded() -> None:
    made = Forecaster(TARGET, rungs=RUNGS, max_workloads=3)
    for day in range(0, 40, 2):
        played(made, newcomers(2, first=day), day * 24, 1)
        made.keep(newcomers(2, first=day))
        assert len(made._forgotten) <= 3
    played(made, newcomers(1, first=900), 80 * 24, 1)
    made.keep([])
    assert not any(name in made._forgotten for name in newcomers(36)), "a month is long enough"
