"""Lifespans from outcomes, and what strategies make of lifespans and of usage by part of the day."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.columns import Columns
from placement.errors import ConfigError
from placement.knowledge import (
    AGES_S,
    HORIZONS_S,
    MORE_S,
    Forecast,
    Forecasts,
    Knowledge,
    Lifespan,
    Lifetimes,
    workload_of,
)
from placement.learning.survival import (
    CLASS_STARTS,
    NUM_PARTS,
    Survival,
    certain,
    class_shares,
    lifespans,
    part_of,
    part_shares,
    with_classes,
)
from placement.nodes import NodeSpec
from placement.outlook import FIRST_STAY, FIRST_WINDOW, LIFE, NUM_OUTLOOK
from placement.pods import PodSpec
from placement.rejections import PREDICTED_FULL, main_reason, rejections
from placement.resources import CPU, MEMORY, PODS
from placement.state import ClusterState
from placement.strategies import STRATEGIES
from simulator.replay import Replay, ReplayOptions
from simulator.traces.trace import Trace
from simulator.usage.lifetime_learner import LifetimeLearner, TrueLifetimes

GIB = 2**30
HOUR_S = 3600


def _spec(name: str, cpu: int = 1000) -> PodSpec:
    return PodSpec(((CPU, cpu), (MEMORY, GIB)), owner=f"StatefulSet/{name}")


def _nodes(num: int, cpu: int = 8000) -> list[NodeSpec]:
    return [NodeSpec(f"n{i}", ((CPU, cpu), (MEMORY, 64 * GIB), (PODS, 110))) for i in range(num)]


def test_parts_of_life_are_closed_above() -> None:
    assert [part_of(x) for x in (1, 300, 301, 900, 86_400, 86_401, 259_200, 10**9)] == [0, 0, 1, 1, 5, 6, 6, 7]


def test_a_key_with_many_outcomes_speaks_for_itself_and_one_without_leans_on_the_general() -> None:
    survival = Survival((0.99, 0.999))
    for _ in range(200):
        survival.outcome(("short", "all"), 0, ended=True)
        survival.outcome(("long", "all"), 0, ended=False)
    short, long, new = (survival.hazards((name, "all"), 0)[0] for name in ("short", "long", "new"))
    assert short > 0.95
    assert long < 0.05
    assert new == pytest.approx(0.5, abs=0.05)


def test_pods_that_still_run_are_not_left_out_of_the_hazards() -> None:
    """Of a hundred that came together ten have ended at once: to count these alone would say that all end soon."""
    survival = Survival((0.999,))
    for _ in range(100):
        survival.enter(("a",), 2, 0)
    for _ in range(10):
        survival.leave(("a",), 2, 0)
        survival.outcome(("a",), 2, ended=True)
    assert survival.hazards(("a",), 1)[2] > 0.75, "none of the others has lived through any of it"
    later = survival.hazards(("a",), 2600)[2]
    assert 0.1 < later < 0.15
    weight = np.mean([0.999**i for i in range(10)])
    assert survival.seen(0, "a", 2600)[2] == pytest.approx(weight * (10 + 90 * 2600 / 2700))
    assert survival.seen(0, "b", 2600) == [0.0] * (NUM_PARTS - 1)


def test_many_that_run_do_not_drown_what_is_remembered() -> None:
    survival = Survival((0.9,))
    for _ in range(1000):
        survival.outcome(("a",), 1, ended=True)
    for _ in range(500):
        survival.enter(("a",), 1, 0)
    assert survival.hazards(("a",), 300)[1] > 0.6


def test_shares_of_classes_add_up_the_parts_of_life() -> None:
    shares = class_shares(np.array([[0.5, 0.5, 0.5, 0.0, 0.0, 0.5, 0.5, 1.0], [0.0] * 8]))
    np.testing.assert_allclose(shares, np.array([[0.75, 0.125, 0.0625, 0.0625], [0, 0, 0, 1]]))


@given(
    st.lists(st.floats(0.005, 0.995), min_size=NUM_PARTS - 1, max_size=NUM_PARTS - 1),
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
)
def test_other_shares_of_classes_leave_the_parts_within_a_class_as_they_were(
    hazards: list[float], raw: list[float]
) -> None:
    before, shares = np.array([hazards]), np.array([raw]) / sum(raw)
    after = with_classes(before, shares)
    assert (after >= 0).all()
    assert (after <= 1 + 1e-12).all()
    np.testing.assert_allclose(class_shares(after), shares, atol=1e-9)
    old, new = part_shares(before)[0], part_shares(after)[0]
    for first, last in pairwise((*CLASS_STARTS, NUM_PARTS)):
        np.testing.assert_allclose(
            new[first:last] * old[first:last].sum(), old[first:last] * new[first:last].sum(), atol=1e-9
        )


@given(st.lists(st.floats(0, 1), min_size=NUM_PARTS - 1, max_size=NUM_PARTS - 1))
def test_a_lifespan_grows_with_age_and_chances_with_the_horizon(hazards: list[float]) -> None:
    (found,) = lifespans(np.array([[*hazards, 1.0]]))
    assert all(a <= b + 1 for a, b in zip(found.life_s, found.life_s[1:], strict=False))
    assert all(list(row) == sorted(row) for row in found.gone_milli)


def test_what_is_no_lifespan_is_refused() -> None:
    with pytest.raises(ConfigError, match="8 ages and 4 horizons"):
        Lifespan((1, 2), ((1,),))
    with pytest.raises(ConfigError, match="outside of 0 to 1000"):
        Lifespan((1,) * len(AGES_S), ((1001,) * len(HORIZONS_S),) * len(AGES_S))
    with pytest.raises(ConfigError, match="has 2 windows"):
        Forecast(1, 1, 1, 1, windows=((1, 1), (1, 1)))


@pytest.mark.parametrize("strategy", ["nilas", "emptying", "ullage"])
def test_a_long_pod_goes_to_the_node_that_stays_occupied_anyhow(strategy: str) -> None:
    lives = {
        f"default/StatefulSet/{name}": certain(s) for name, s in (("soon", 600), ("days", 200_000), ("new", 90_000))
    }
    knowledge = Knowledge.neutral().but(lifetimes=Lifetimes(lives, certain(3600)))
    state = ClusterState(knowledge=knowledge)
    for node in _nodes(2):
        state.add_node(node)
    state.bind("a", _spec("soon", 4000), "n0")
    state.bind("b", _spec("days", 1000), "n1")
    decide = STRATEGIES[strategy].decide
    assert STRATEGIES["best-fit"].decide(state.snapshot(), _spec("new")).node == "n0"
    assert decide(state.snapshot(), _spec("new")).node == "n1"


def test_what_outlived_its_prediction_is_expected_to_go_on() -> None:
    lives = {f"default/StatefulSet/{name}": certain(s) for name, s in (("soon", 600), ("days", 200_000))}
    state = ClusterState(knowledge=Knowledge.neutral())
    for node in _nodes(2):
        state.add_node(node)
    state.bind("a", _spec("soon", 4000), "n0")
    state.bind("b", _spec("days", 1000), "n1")
    state.learn(state.knowledge.but(lifetimes=Lifetimes(lives, certain(3600), as_of_s=199_990)), time_s=199_990)
    assert STRATEGIES["nilas"].decide(state.snapshot(), _spec("soon")).node == "n0"


@pytest.mark.parametrize("strategy", ["emptying", "ullage"])
def test_pods_of_one_workload_go_together_and_those_of_many_do_not(strategy: str) -> None:
    """Six pods of a batch empty their node as soon as one of them does; three of as many workloads leave one by one."""
    half = Lifespan((3600,) * len(AGES_S), ((500,) * len(HORIZONS_S),) * len(AGES_S))
    state = ClusterState(knowledge=Knowledge.neutral().but(lifetimes=Lifetimes({}, half)))
    for node in _nodes(3):
        state.add_node(node)
    for i in range(6):
        state.bind(f"batch-{i}", _spec("batch", 800), "n0")
    for i in range(3):
        state.bind(f"alone-{i}", _spec(f"w{i}", 200), "n1")
    decide = STRATEGIES[strategy].decide
    assert STRATEGIES["best-fit"].decide(state.snapshot(), _spec("new")).node == "n0"
    assert decide(state.snapshot(), _spec("new")).node == "n1", "less likely to be empty soon"
    for i in range(3):
        state.release(f"alone-{i}")
    assert decide(state.snapshot(), _spec("new")).node == "n0", "nor is a node opened that is not needed"


def test_coach_admits_by_part_of_the_day_and_says_so() -> None:
    day, night = ((4000, GIB),) * 3 + ((500, GIB),) * 3, ((500, GIB),) * 3 + ((4000, GIB),) * 3
    of = {
        f"default/StatefulSet/{name}": Forecast(500, GIB, 400, GIB, rung="history", windows=w)
        for name, w in (("day", day), ("night", night))
    }
    state = ClusterState(knowledge=Knowledge.neutral().but(forecasts=Forecasts(of)))
    (node,) = _nodes(1, cpu=6000)
    state.add_node(node)
    coach = STRATEGIES["coach-6x4h"]
    state.bind("a", _spec("day", 500), "n0")
    assert coach.decide(state.snapshot(), _spec("night", 500)).node == "n0"
    assert not coach.decide(state.snapshot(), _spec("day", 500)).is_placed, "8 cores by day do not fit into 6"
    assert main_reason(state.snapshot(), coach, _spec("day", 500)) == PREDICTED_FULL
    assert list(rejections(coach, state.snapshot(), _spec("day", 500))) == [PREDICTED_FULL]


@pytest.mark.parametrize("used", [(5300, 0), (0, 62 * GIB)])
def test_koordinator_leaves_out_nodes_above_its_thresholds(used: tuple[int, int]) -> None:
    of = {"default/StatefulSet/busy": Forecast(8000, 64 * GIB, *used, rung="history")}
    state = ClusterState(knowledge=Knowledge.neutral().but(forecasts=Forecasts(of)))
    (node,) = _nodes(1, cpu=8000)
    state.add_node(node)
    rule, pod = STRATEGIES["koordinator"], _spec("unknown", 1000)
    state.bind("a", pod, "n0")
    assert rule.decide(state.snapshot(), pod).node == "n0", "a pod that was not measured counts nothing"
    state.bind("b", _spec("busy", 500), "n0")
    assert not rule.decide(state.snapshot(), pod).is_placed, "over 65 % of CPU or 95 % of memory"
    assert list(rejections(rule, state.snapshot(), pod)) == [PREDICTED_FULL]
    idle = Forecasts({"default/StatefulSet/busy": Forecast(8000, 64 * GIB, 5200, 60 * GIB, rung="history")})
    state.learn(state.knowledge.but(forecasts=idle))
    assert rule.decide(state.snapshot(), pod).node == "n0"


def _trace(num: int, life_s: int, later_life_s: int) -> Trace:
    """Pods of one workload, one every ten minutes; those of the second half live differently."""
    pods = [(f"p{i}", _spec("w"), 600 * i, 600 * i + (life_s if i < num // 2 else later_life_s)) for i in range(num)]
    return Trace.of("t", _nodes(3, cpu=64_000), pods)


def _told(trace: Trace, end_s: int) -> Lifetimes:
    replay = Replay(trace, STRATEGIES["nilas"], ReplayOptions(policies=(LifetimeLearner(),), end_s=end_s))
    replay.run()
    assert replay.state.knowledge.lifetimes is not None
    return replay.state.knowledge.lifetimes


def test_a_replay_learns_lifetimes_from_what_was_seen_and_from_nothing_later() -> None:
    middle = 600 * 30
    one, two = _told(_trace(60, 600, 600), middle), _told(_trace(60, 600, 80_000), middle)
    assert one == two
    assert 300 < one.of_pod(_spec("w")).life_s[0] < 1500
    longer = _told(_trace(60, 600, 80_000), 600 * 59)
    assert longer.of_pod(_spec("w")).life_s[0] > 2 * one.of_pod(_spec("w")).life_s[0]


def test_true_lifetimes_are_those_of_the_trace() -> None:
    trace = Trace.of("t", _nodes(2), [("a", _spec("x"), 0, 5000), ("b", _spec("y"), 300, 700)])
    replay = Replay(
        trace, STRATEGIES["nilas"], ReplayOptions(policies=(TrueLifetimes(np.array([5000, 400])),), end_s=600)
    )
    replay.run()
    assert replay.state.knowledge.lifetimes is not None
    assert replay.state.knowledge.lifetimes.of_pod(_spec("x")) == certain(5000)
    assert replay.state.knowledge.lifetimes.of_pod(_spec("y")) == certain(400)


def test_true_lifetimes_tell_of_who_is_here_and_of_who_comes_before_the_next_act() -> None:
    pods = [("a", _spec("stays"), 0, 5000), ("b", _spec("gone"), 0, 200), ("c", _spec("now"), 600, 5000)]
    pods += [("d", _spec("soon"), 899, 5000), ("e", _spec("later"), 900, 5000)]
    lives = np.array([end - begin for _, _, begin, end in pods])
    replay = Replay(
        Trace.of("t", _nodes(2), pods), STRATEGIES["nilas"], ReplayOptions(policies=(TrueLifetimes(lives),), end_s=600)
    )
    replay.run()
    told = replay.state.knowledge.lifetimes
    assert told is not None
    assert set(told.of) == {f"default/StatefulSet/{name}" for name in ("stays", "now", "soon")}
    assert (told.as_of_s, told.of_pod(_spec("now")), told.of_pod(_spec("later")).gone_milli[0]) == (
        600, certain(4400), told.everyone.gone_milli[0],
    )  # fmt: skip


@pytest.mark.parametrize("first_s", [0, 1000])
def test_at_what_age_those_end_who_were_there_at_first_is_nobodys_to_learn(first_s: int) -> None:
    found = []
    for after_s in (0, 1):
        pods = [("stays", _spec("other"), first_s, 90_000)]
        pods += [(f"p{i}", _spec("w"), first_s + after_s, first_s + 900) for i in range(6)]
        told = _told(Trace.of("t", _nodes(3, cpu=64_000), pods), first_s + 3600)
        found.append(told.of_pod(_spec("w")).life_s[0])
    there, came = found
    assert came < 1500
    assert there > 2 * came


def test_a_pod_that_went_and_came_again_counts_as_of_its_return() -> None:
    half = lifespans(np.array([[0.5] * (NUM_PARTS - 1) + [1.0]]))[0]
    state = ClusterState(knowledge=Knowledge.neutral().but(lifetimes=Lifetimes({}, half, as_of_s=5000)))
    (node,) = _nodes(1)
    state.add_node(node)
    for uid in ("a", "b"):
        state.bind(uid, _spec("w"), "n0", time_s=0)
    columns = Columns(state)
    columns.follow()
    state.release("a", time_s=4990)
    columns.follow()
    state.bind("a", _spec("w"), "n0", time_s=4995)
    state.release("b", time_s=4995)
    state.bind("b", _spec("w"), "n0", time_s=4999)
    columns.follow()
    fresh = Columns(state)
    fresh.follow()
    assert (columns.outlook == fresh.outlook).all()
    assert columns.outlook[0, LIFE] == half.life_s[0] + 4999 - 5000


def outlook_by_definition(state: ClusterState) -> list[list[int]]:
    """Of each node, pod by pod, as :class:`placement.residents.Residents` says."""
    known = state.knowledge
    assert known.lifetimes is not None
    found = []
    for residents in state.residents_on:
        entry, kin = [0] * NUM_OUTLOOK, dict[Any, Any]()
        for resident in residents.values():
            spec, age_s = resident.spec, known.lifetimes.as_of_s - resident.since_s
            workload = workload_of(spec.namespace, spec.owner)
            forecast = known.forecasts.of.get(workload) if known.forecasts is not None else None
            if forecast is None:
                asked = [spec.amount(CPU), spec.amount(MEMORY)]
                use, windows = [*asked, 0, 0, *asked], [0] * 12
            else:
                upper = (forecast.cpu, forecast.memory)
                use = [forecast.mean_cpu, forecast.mean_memory, *upper, 0, 0]
                windows = [x for window in forecast.windows or [upper] * 6 for x in window]
            told, k = known.lifetimes.of_pod(spec), bisect_right(AGES_S, max(age_s, 0)) - 1
            life_s, gone = told.life_s[k], told.gone_milli[k]
            if life_s <= age_s:
                life_s = age_s + max(age_s // 2, MORE_S)
            stays = [round(-64 * math.log2(max(milli / 1000, 1 / 4096))) for milli in gone]
            kin.setdefault(workload or resident.uid, []).append(stays)
            for k, share in [*enumerate(use), *enumerate(windows, FIRST_WINDOW)]:
                entry[k] += share
            entry[LIFE] = max(entry[LIFE], life_s - age_s)
        for stays in kin.values():
            for h, most in enumerate(map(max, zip(*stays, strict=True)), FIRST_STAY):
                entry[h] += most
        found.append(entry)
    return found


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_the_outlook_of_a_node_is_what_its_pods_add_up_to_by_definition(backend: str) -> None:
    rng = np.random.default_rng(5)
    specs = [_spec(f"w{i % 70}" if i % 9 else "", 100 + i) for i in range(150)]
    state = ClusterState(backend=backend, knowledge=Knowledge.neutral())
    for node in _nodes(4, cpu=10**6):
        state.add_node(node)
    strategy = STRATEGIES["ullage"]
    checked = 0
    for step in range(400):
        if step % 50 == 0:
            names = [workload_of(s.namespace, s.owner) for s in specs]
            rows = rng.uniform(0, 0.9, (len(names), NUM_PARTS - 1))
            told = lifespans(np.column_stack([rows, np.ones(len(rows))]))
            upper = rng.integers(0, 999, (len(names), 2)).tolist()
            forecasts = Forecasts(
                {name: Forecast(a, b, a // 2, b // 2) for name, (a, b) in zip(names, upper, strict=True) if a % 3}
            )
            lives = {name: one for name, one in zip(names, told, strict=True) if name and rng.random() < 0.7}
            known = state.knowledge.but(forecasts=forecasts, lifetimes=Lifetimes(lives, told[0], 40 * step))
            state.learn(known, time_s=40 * step)
        for _ in range(int(rng.integers(1, 4))):  # some decisions see one change, others many
            here = list(state.residents)
            uid = f"p{int(rng.integers(0, 250))}"
            if uid in state.residents:
                state.release(uid, time_s=40 * step)
            else:
                state.bind(
                    uid, specs[int(rng.integers(0, len(specs)))], f"n{int(rng.integers(0, 4))}", time_s=40 * step
                )
            if here and rng.random() < 0.1 and here[0] in state.residents:
                state.update_pod(here[0], specs[step % len(specs)], time_s=40 * step)
        strategy.decide(state.snapshot(), specs[step % len(specs)])
        if step % 7 == 0:
            columns = strategy.program(state).columns
            assert columns.outlook[:4].tolist() == outlook_by_definition(state)
            checked += len(state.residents)
    assert checked > 5000
