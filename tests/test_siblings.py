"""Cold start: a new owner is predicted from its siblings, never below what it used, and only while that holds."""

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.knowledge import Forecast, Forecasts
from placement.learning.baselines import Target
from placement.learning.forecasting import EACH, LEAST_OUTCOMES, Forecaster, rungs_below
from placement.learning.prediction import HISTORY, MODEL, REQUEST, Answers, Prediction, Rungs, ask
from placement.learning.rightsize import recommend
from placement.learning.siblings import LEAST_HOURS, LEAST_SIBLINGS, SIBLINGS, Siblings, group_of
from placement.learning.usage import STEP_S
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY

GIB = 2**30
ASKED = {CPU: 4000, MEMORY: 4 * GIB}
HOUR_S = 3600
NEW = "shop/Deployment/new"


def answer(workload: str, cpu: float, asked: int = 4000) -> Answers:
    return Answers(workload, {CPU: asked}, 0, {CPU: Prediction({HISTORY: cpu}, cpu / 2, cpu / 10)})


def siblings(shares: list[float]) -> Siblings:
    made = Siblings(EACH)
    made.renew(answer(f"shop/Deployment/w{i}", share * 4000) for i, share in enumerate(shares))
    return made


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]), min_size=1, max_size=45))
def test_a_workload_is_predicted_from_the_others_alone(shares: list[float]) -> None:
    made = siblings(shares)
    for i in range(len(shares)):
        others = sorted(shares[:i] + shares[i + 1 :])
        found = made.predict(f"shop/Deployment/w{i}", {CPU: 1000}, {})
        if len(others) < LEAST_SIBLINGS:
            assert not found
            continue
        assert found[CPU].uppers[SIBLINGS] == pytest.approx(1000 * others[ceil(0.95 * len(others)) - 1])
        assert found[CPU].mean == pytest.approx(500 * np.mean(others))
        assert found[CPU].deviation == pytest.approx(100 * np.mean(others))


def test_siblings_are_of_one_namespace_and_kind_and_shares_end_at_the_request() -> None:
    made = siblings([0.1, 0.2, 0.3, 7.0])
    assert made.predict(NEW, ASKED, {})[CPU].uppers == {SIBLINGS: 4000}
    assert not made.predict("shop/StatefulSet/new", ASKED, {})
    assert not made.predict("bank/Deployment/new", ASKED, {})
    assert not made.predict(NEW, {CPU: 0}, {})
    assert group_of(NEW) == "shop/Deployment"


def test_nobody_is_said_to_use_less_than_it_did() -> None:
    made = siblings([0.1] * 5)
    assert made.predict(NEW, ASKED, {CPU: 100})[CPU].uppers == {SIBLINGS: 400}
    assert made.predict(NEW, ASKED, {CPU: 2500})[CPU].uppers == {SIBLINGS: 2500}


def taught(ratios: list[float], hours: int = LEAST_HOURS) -> Siblings:
    made = Siblings(EACH)
    for i, ratio in enumerate(ratios):
        for hour in range(hours):
            made.learn(f"w{i}", CPU, hour * HOUR_S, ratio if hour == 3 else 0.1)
    made.settle()
    return made


def test_the_factor_counts_workloads_not_hours_and_is_never_below_one() -> None:
    ratios = [1 + i / 100 for i in range(LEAST_OUTCOMES)]
    assert taught(ratios).factor(CPU) == ratios[-1]
    assert taught([0.2] * LEAST_OUTCOMES).factor(CPU) == 1
    assert taught(ratios[1:]).factor(CPU) is None, "one workload too few"
    assert taught(ratios, LEAST_HOURS - 1).factor(CPU) is None, "too little of a day"
    assert taught(ratios).factor(MEMORY) is None


def test_outcomes_older_than_a_day_are_forgotten() -> None:
    made = taught([5.0] * LEAST_OUTCOMES)
    for i in range(LEAST_OUTCOMES):
        for hour in range(24, 48):
            made.learn(f"w{i}", CPU, hour * HOUR_S, 1.5)
    made.settle()
    assert made.factor(CPU) == 1.5


def test_new_workloads_stay_below_what_is_said_as_often_as_is_promised() -> None:
    """Levels of workloads are lognormal; hours of one workload vary less than workloads do."""
    rng = np.random.default_rng(6)
    covered = []
    for _ in range(150):
        levels = np.minimum(0.2 * np.exp(rng.normal(0, 0.5, 61)), 0.9)
        made = siblings(levels[:60].tolist())
        for i, level in enumerate(levels[:60]):
            said = made.predict(f"shop/Deployment/w{i}", ASKED, {})[CPU].uppers[SIBLINGS]
            for hour in range(24):
                made.learn(f"shop/Deployment/w{i}", CPU, hour * HOUR_S, 4000 * level * rng.uniform(0.7, 1) / said)
        made.settle()
        factor = made.factor(CPU)
        assert factor is not None
        promised = made.predict(NEW, ASKED, {})[CPU].uppers[SIBLINGS] * factor
        covered += (4000 * levels[60] * rng.uniform(0.7, 1, 20) <= promised).tolist()
    assert np.mean(covered) >= EACH - 0.01


# ── in the forecaster ─────────────────────────────────────────────────────────────────────────


class Cluster:
    """Forty-two workloads that use a tenth to four tenths of their request, and how they are looked at hourly."""

    def __init__(self, *, siblings: bool = True) -> None:
        self.made = Forecaster(Target(1), siblings=siblings)
        self.cpu = {f"shop/Deployment/w{i}": 400 + 30 * i for i in range(42)}
        self.now_s = 0

    def pass_hours(self, hours: int) -> None:
        for _ in range(hours):
            for _ in range(12):
                self.now_s += STEP_S
                for name, cpu in self.cpu.items():
                    self.made.add(name, self.now_s, self.now_s, cpu_millicores=cpu, memory_bytes=GIB)
            self.look()

    def look(self) -> None:
        self.made.take(ask(self.made.rungs, self.made.questions(dict.fromkeys(self.cpu, ASKED))))
        self.made.settle(self.now_s)

    def new(self) -> Forecast:
        return self.made.forecasts(self.now_s).of[NEW]


def test_a_new_owner_is_predicted_from_its_siblings_until_it_has_a_day_of_its_own() -> None:
    cluster = Cluster()
    cluster.pass_hours(28)
    cluster.cpu[NEW] = 100
    cluster.pass_hours(1)
    assert cluster.new().rung == REQUEST, "siblings were not tried for long enough"
    cluster.pass_hours(18)
    found = cluster.new()
    assert found.rung == SIBLINGS
    assert found.memory == pytest.approx(GIB, rel=1e-5)
    assert cluster.cpu["shop/Deployment/w39"] <= found.cpu < 2000 < ASKED[CPU]
    assert found.mean_cpu <= found.cpu
    assert {f.rung for n, f in cluster.made.forecasts(cluster.now_s).of.items() if n != NEW} == {HISTORY}
    cluster.cpu[NEW] = 3000
    cluster.pass_hours(1)
    assert cluster.new().cpu >= 3000, "more than its siblings, as soon as it was seen"
    cluster.pass_hours(4)
    assert cluster.new().rung == HISTORY


def test_siblings_are_not_asked_unless_switched_on() -> None:
    cluster = Cluster(siblings=False)
    cluster.pass_hours(46)
    cluster.cpu[NEW] = 100
    cluster.pass_hours(1)
    assert cluster.new().rung == REQUEST
    parts = Forecaster(Target(1), rungs=Rungs.of_history(Target(1), parts=True), siblings=True)
    assert parts.siblings is None


def test_new_owners_that_use_more_than_was_said_shut_the_rung() -> None:
    cluster = Cluster()
    cluster.pass_hours(46)
    cluster.cpu[NEW] = 100
    cluster.pass_hours(1)
    assert cluster.new().rung == SIBLINGS
    for _ in range(100):
        cluster.made.monitor.observe(f"{SIBLINGS}/{CPU}", False)
    assert cluster.new().rung == REQUEST
    assert cluster.made.trusted(HISTORY), "the others are not concerned"


def test_promises_to_new_owners_are_held_against_what_came_of_them() -> None:
    cluster = Cluster()
    cluster.pass_hours(46)
    cluster.cpu[NEW] = 100
    cluster.pass_hours(1)
    assert cluster.made.coverage(SIBLINGS, CPU) == 1
    cluster.cpu[NEW] = 3900
    cluster.pass_hours(2)
    assert cluster.made.coverage(SIBLINGS, CPU) == 0, "100, then 3900"
    cluster.pass_hours(1)
    assert cluster.made.coverage(SIBLINGS, CPU) == 0.5


@pytest.mark.parametrize("how", ["drift of the history", "crowding", "no news"])
def test_siblings_fall_with_what_they_stand_on(how: str) -> None:
    cluster = Cluster()
    cluster.pass_hours(46)
    cluster.cpu[NEW] = 100
    cluster.pass_hours(1)
    now_s = cluster.now_s
    if how == "drift of the history":
        for _ in range(500):
            cluster.made.monitor.observe(f"{HISTORY}/{CPU}", False)
    elif how == "crowding":
        cluster.made.crowding.is_crowded = True
    else:
        now_s += 6 * HOUR_S
    found = cluster.made.forecasts(now_s).of[NEW]
    assert (found.rung, found.cpu, found.memory) == (REQUEST, ASKED[CPU], ASKED[MEMORY])


def test_new_rungs_are_tried_anew() -> None:
    cluster = Cluster()
    cluster.pass_hours(46)
    cluster.made.use(Rungs.of_history(Target(1)))
    assert cluster.made.factor(SIBLINGS, CPU) is None


def test_requests_are_not_lowered_by_what_siblings_tell() -> None:
    spec = PodSpec(((CPU, 4000), (MEMORY, 4 * GIB)), namespace="shop", owner="Deployment/new")
    told = Forecasts({NEW: Forecast(400, GIB, 200, GIB, rung=SIBLINGS)})
    (found,) = recommend([(spec, 3)], told)
    assert (found.new_cpu, found.new_memory) == (4000, 4 * GIB)
    assert found.why_kept == "less than a day of its own history"


def test_rungs_are_in_order() -> None:
    assert sorted([REQUEST, SIBLINGS, HISTORY, MODEL], key=rungs_below) == [MODEL, HISTORY, SIBLINGS, REQUEST]
