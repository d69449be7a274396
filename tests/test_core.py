"""Properties of the placement core: ledger, rules, strategies, back ends, log."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from placement.columns import Columns
from placement.errors import ConfigError, StateError
from placement.knowledge import (
    AGES_S,
    HORIZONS_S,
    DevicePrices,
    Forecast,
    Forecasts,
    Knowledge,
    Lifespan,
    Lifetimes,
    Workload,
    workload_of,
)
from placement.log import DECISION, Asked, Event
from placement.nodes import NodeSpec
from placement.playback import rebuild, verify
from placement.pods import GpuRequest, PodSpec
from placement.program import has_compiled
from placement.rejections import Rejections, main_reason, rejections
from placement.resources import CPU, MEMORY, NOT_FEASIBLE, PODS, format_amount, parse_quantity
from placement.scorers import COST_UNIT, BalancedAfter, BalancedAllocation, Weighted, sigmoid_thresholds
from placement.state import ClusterState
from placement.strategies import STRATEGIES, strategy_from_toml, strategy_named, strategy_to_toml
from placement.strategy import Strategy
from tests.generators import fleets, node_specs, pod_specs
from tests.slow_reasons import reasons
from tests.slow_rules import On, may_go

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def knowledge_of(specs: list[PodSpec]) -> Knowledge:
    worth = np.linspace(0, 1000 * COST_UNIT, 1001).astype(np.int64)[None] ** 1
    worth[0, 500:] += 37 * COST_UNIT
    return Knowledge(1, Workload.of(specs, [1 + i for i in range(len(specs))]), DevicePrices((("A", 2, 4000),), worth))


def state_of(nodes: list[NodeSpec], specs: list[PodSpec], backend: str = "auto") -> ClusterState:
    state = ClusterState(knowledge=knowledge_of(specs), backend=backend)
    for node in nodes:
        state.add_node(node)
    return state


def fill(state: ClusterState, specs: list[PodSpec], strategy: str, seed: int) -> list[On]:
    """Place pods one by one; returns what lies where."""
    rng = np.random.default_rng(seed)
    chosen = STRATEGIES[strategy]
    placed = []
    for i, spec in enumerate(specs):
        draw = int(rng.integers(0, 2**62))
        decision = chosen.decide(state.snapshot(), spec, None, draw)
        state.log.append(
            Event(i, DECISION, str(i), decision.node, decision.devices, Asked(decision.strategy, spec, draw, None))
        )
        if decision.is_placed:
            state.bind(str(i), spec, decision.node, decision.devices, time_s=i)
            node = state.nodes[decision.row]
            assert node is not None
            placed.append(On(spec, node, decision.devices))
    return placed


@quick
@given(
    fleets(), st.lists(pod_specs(), min_size=1, max_size=12), st.sampled_from(sorted(STRATEGIES)), st.integers(0, 99)
)
def test_every_placement_keeps_every_hard_rule_and_every_refusal_is_right(
    nodes: list[NodeSpec], specs: list[PodSpec], strategy: str, seed: int
) -> None:
    state = state_of(nodes, specs)
    rng = np.random.default_rng(seed)
    placed: list[On] = []
    for i, spec in enumerate(specs):
        allowed = {n.name for n in nodes if may_go(spec, n, nodes, placed)}
        scores = STRATEGIES[strategy].scores(state.snapshot(), spec)
        assert {state.names[int(r)] for r in np.flatnonzero(scores > NOT_FEASIBLE)} == allowed
        decision = STRATEGIES[strategy].decide(state.snapshot(), spec, None, int(rng.integers(0, 2**62)))
        assert decision.is_placed == bool(allowed)
        if decision.is_placed:
            assert decision.node in allowed
            state.bind(str(i), spec, decision.node, decision.devices)
            placed.append(On(spec, nodes[state.row_of[decision.node]], decision.devices))


@quick
@given(fleets(), st.lists(pod_specs(), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_bind_and_release_restore_every_column(nodes: list[NodeSpec], specs: list[PodSpec], random: object) -> None:
    state = state_of(nodes, specs)
    for spec in specs:
        state.delta(spec)
        state.rules.is_relational(spec) and state.rules.relational_mask(spec)
    before = state.taken.copy(), state.gpu_free.copy()
    fill(state, specs, "best-fit", 0)
    uids = list(state.residents)
    random.shuffle(uids)  # type: ignore[attr-defined]  # Hypothesis's random
    for uid in uids:
        state.release(uid)
    assert (state.taken == before[0]).all()
    assert (state.gpu_free == before[1]).all()
    counters = [*state.rules._counters.values(), *state.rules._carried.values(), *state.rules._ports.values()]
    assert not any(counter.any() for counter in counters)


@pytest.mark.skipif(not has_compiled(), reason="numba is not installed")
@quick
@given(
    fleets(),
    st.lists(pod_specs(rules=False), min_size=1, max_size=14),
    st.sampled_from(sorted(STRATEGIES)),
    st.integers(0, 99),
)
def test_both_back_ends_score_and_decide_alike(
    nodes: list[NodeSpec], specs: list[PodSpec], strategy: str, seed: int
) -> None:
    compiled, plain = state_of(nodes, specs), state_of(nodes, specs, "numpy")
    rng = np.random.default_rng(seed)
    for i, spec in enumerate(specs):
        draw = int(rng.integers(0, 2**62))
        one = STRATEGIES[strategy].decide(compiled.snapshot(), spec, None, draw)
        two = STRATEGIES[strategy].decide(plain.snapshot(), spec, None, draw)
        assert one == two
        scores = [STRATEGIES[strategy].scores(s.snapshot(), spec) for s in (compiled, plain)]
        marks = [STRATEGIES[strategy].priorities(s.snapshot(), spec) for s in (compiled, plain)]
        assert (marks[0] == marks[1]).all()
        assert (scores[0] == scores[1]).all()
        if one.is_placed:
            for state in (compiled, plain):
                state.bind(str(i), spec, one.node, one.devices)


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_every_class_hears_of_a_changed_node_whoever_asks_first(backend: str) -> None:
    state, strategy = ClusterState(backend=backend), STRATEGIES["best-fit"]
    small, large = (NodeSpec(f"n{i}", ((CPU, 4000 * (i + 1)), (PODS, 9))) for i in range(2))
    one, two = (PodSpec(((CPU, milli),)) for milli in (500, 700))

    def home(spec: PodSpec) -> str:
        return strategy.decide(state.snapshot(), spec).node

    state.add_node(small)
    state.add_node(large)
    assert (home(one), home(two)) == ("n0", "n0")
    state.update_node(replace(small, unschedulable=True))
    assert strategy.scores(state.snapshot(), one).argmax() == 1
    assert home(two) == "n1"
    state.update_node(small)
    assert strategy.scores(state.snapshot(), two).argmax() == 0
    assert home(one) == "n0"
    state.remove_node("n0")
    assert strategy.scores(state.snapshot(), two).argmax() == 1
    state.add_node(small)
    assert strategy.scores(state.snapshot(), two).argmax() == 0
    assert home(one) == "n0"
    assert strategy.scores(state.snapshot(), one).argmax() == 0


@pytest.mark.skipif(not has_compiled(), reason="numba is not installed")
@quick
@given(
    fleets(),
    st.lists(pod_specs(), min_size=2, max_size=6),
    st.lists(st.tuples(st.sampled_from("abcdefg"), node_specs(), st.integers(0, 2**20)), max_size=16),
    st.sampled_from(sorted(STRATEGIES)),
)
def test_both_back_ends_agree_while_nodes_come_go_and_change(
    nodes: list[NodeSpec], specs: list[PodSpec], changes: list[tuple[str, NodeSpec, int]], strategy: str
) -> None:
    """Asked in any order, about any nodes, with pods that others put where they do not fit, on devices that nobody recorded."""
    states, chosen = [state_of(nodes, specs), state_of(nodes, specs, "numpy")], STRATEGIES[strategy]
    for step, (what, node, number) in enumerate(changes):
        names = sorted(states[0].row_of)
        spec, name = specs[number % len(specs)], names[number % len(names)] if names else ""
        said = []
        for state in states:
            if what == "a" and name:
                state.update_node(replace(node, name=name), time_s=step)
            elif what == "b" and name:
                state.remove_node(name, time_s=step)
            elif what == "c":
                state.add_node(replace(node, name=f"new-{step}"), time_s=step)
            elif what == "d" and name:
                state.bind(str(step), spec, name, time_s=step)
            elif what == "e" and state.residents:
                state.release(min(state.residents), time_s=step)
            candidates = np.array([number >> row & 1 for row in range(state.num_rows)], np.bool_)
            scores = (
                [chosen.scores(state.snapshot(), spec, among) for among in (None, candidates)] if number % 3 else []
            )
            decisions = [
                chosen.decide(state.snapshot(), s, among, number) for s in specs for among in (None, candidates)
            ]
            leaves_out = [chosen.program(state).leaves_out(s, candidates) for s in specs]
            said.append(([s.tolist() for s in scores], decisions, leaves_out))
        assert said[0] == said[1]


@pytest.mark.skipif(not has_compiled(), reason="numba is not installed")
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_both_back_ends_agree_where_devices_are_not_recorded_or_gone(strategy: str) -> None:
    """What a node's devices have free for certain is less than what its pods have left of it."""
    asks: list[GpuRequest | None] = [None, GpuRequest(1, 150), GpuRequest(1, 600), GpuRequest(1), GpuRequest(2)]
    specs = [PodSpec(((CPU, 500 + 300 * i),), gpu=gpu) for i, gpu in enumerate(asks)]
    nodes = [NodeSpec(f"n{i}", ((CPU, 4000 + 1000 * i), (PODS, 50)), num_gpus=8, gpu_model="A") for i in range(3)]
    said = []
    for state in (state_of(nodes, specs), state_of(nodes, specs, "numpy")):
        state.bind("hidden", specs[2], "n0")
        state.bind("known", specs[1], "n0", 0b100)
        state.bind("lost", specs[4], "n1", 0b11000000)
        state.update_node(replace(nodes[1], num_gpus=4))
        chosen = STRATEGIES[strategy]
        scores = [chosen.scores(state.snapshot(), spec).tolist() for spec in specs]
        said.append((scores, [chosen.decide(state.snapshot(), spec, None, 7) for spec in specs]))
    assert said[0] == said[1]


def outlooks_of(specs: list[PodSpec], seed: int, as_of_s: int) -> tuple[Forecasts, Lifetimes]:
    """Made-up forecasts of most workloads, with and without windows, and lifetimes of some."""
    rng = np.random.default_rng(seed)
    forecasts, lives = {}, {}
    for name in sorted({workload_of(s.namespace, s.owner) for s in specs}):
        upper = (int(rng.integers(0, 9000)), int(rng.integers(0, 40)) << 30)
        windows = (
            tuple((int(rng.integers(0, upper[0] + 1)), upper[1] // 2) for _ in range(6)) if rng.random() < 0.5 else ()
        )
        if rng.random() < 0.8:
            forecasts[name] = Forecast(*upper, upper[0] // 3, upper[1] // 3, rung="history", windows=windows)
        if rng.random() < 0.6:
            lives[name] = lifespan(rng)
    return Forecasts(forecasts), Lifetimes(lives, lifespan(rng), as_of_s)


def lifespan(rng: np.random.Generator) -> Lifespan:
    """Any lifespan."""
    gone = rng.integers(0, 1001, (len(AGES_S), len(HORIZONS_S))).tolist()
    return Lifespan(tuple(rng.integers(0, 400_000, len(AGES_S)).tolist()), tuple(tuple(row) for row in gone))


@pytest.mark.skipif(not has_compiled(), reason="numba is not installed")
@quick
@given(
    fleets(),
    st.lists(pod_specs(rules=False), min_size=2, max_size=14),
    st.sampled_from(["koordinator", "predicted", "coach-6x4h", "nilas", "emptying", "ullage", "priced"]),
    st.integers(0, 99),
)
def test_both_back_ends_read_the_same_outlook_while_knowledge_and_residents_change(
    nodes: list[NodeSpec], specs: list[PodSpec], strategy: str, seed: int
) -> None:
    states = [state_of(nodes, specs), state_of(nodes, specs, "numpy")]
    rng = np.random.default_rng(seed)
    chosen, known = STRATEGIES[strategy], Rejections()
    for i, spec in enumerate(specs):
        time_s = 1000 * i
        if i % 3 == 0:
            forecasts, lifetimes = outlooks_of(specs, seed + i, time_s)
            workload = Workload.of(specs, [1 + i for i in range(len(specs))], leaving=i % 2 == 1)
            for state in states:
                known_now = state.knowledge.but(forecasts=forecasts, lifetimes=lifetimes, workload=workload)
                state.learn(known_now, time_s=time_s)
        scores = [chosen.scores(s.snapshot(), spec) for s in states]
        assert (scores[0] == scores[1]).all()
        one, two = (chosen.decide(s.snapshot(), spec, None, 5) for s in states)
        assert one == two
        rejected = rejections(chosen, states[0].snapshot(), spec)
        for asked in {spec, specs[0]}:
            again = known.of(chosen, states[0].snapshot(), asked, None, chosen=-1).masks()
            fresh = rejections(chosen, states[0].snapshot(), asked)
            assert {reason: mask.tolist() for reason, mask in again.items()} == {
                reason: mask.tolist() for reason, mask in fresh.items()
            }
        assert reasons(states[0], chosen, spec) == {
            reason: {states[0].names[int(row)] for row in np.flatnonzero(mask)} for reason, mask in rejected.items()
        }
        for state in states:
            anew = Columns(state)
            anew.follow()
            kept = chosen.program(state).columns
            kept.follow()
            assert (kept.outlook[: state.num_rows] == anew.outlook[: state.num_rows]).all()
        gone = f"{int(rng.integers(0, i + 1))}"
        for state in states:
            if one.is_placed:
                state.bind(str(i), spec, one.node, one.devices, time_s=time_s)
            if gone in state.residents:
                state.release(gone, time_s=time_s)


@quick
@given(
    fleets(), st.lists(pod_specs(), min_size=1, max_size=10), st.sampled_from(sorted(STRATEGIES)), st.integers(0, 99)
)
def test_replaying_the_log_reproduces_state_and_decisions(
    nodes: list[NodeSpec], specs: list[PodSpec], strategy: str, seed: int
) -> None:
    state = ClusterState()
    for node in nodes:
        state.add_node(node)
    state.learn(knowledge_of(specs))
    fill(state, specs, strategy, seed)
    for uid in list(state.residents)[::2]:
        state.release(uid)
    fill(state, [], strategy, seed)
    again = rebuild(state.log)
    assert (again.taken[:, : again.num_rows] == state.taken[:, : state.num_rows]).all()
    assert list(again.residents) == list(state.residents)
    assert list(verify(state.log, STRATEGIES.values())) == []


def test_verify_notices_a_changed_choice() -> None:
    state = ClusterState()
    spec = PodSpec((("cpu", 1000),))
    for i in range(2):
        state.add_node(NodeSpec(f"n{i}", (("cpu", 4000),)))
    strategy = STRATEGIES["first-fit"]
    state.log.append(Event(0, DECISION, "p", "n1", 0, Asked(strategy.digest, spec, 0, None)))
    (difference,) = verify(state.log, [strategy])
    assert difference.repeated == ("n0", 0)
    with pytest.raises(StateError, match="not at hand"):
        list(verify(state.log, []))


@quick
@given(
    fleets(),
    st.lists(pod_specs(rules=False), min_size=2, max_size=8),
    st.sampled_from([n for n, s in STRATEGIES.items() if s.kind == "absolute" and s.ties == "first"]),
    st.data(),
)
def test_dropping_losers_does_not_change_the_winner_of_an_absolute_strategy(
    nodes: list[NodeSpec], specs: list[PodSpec], strategy: str, data: st.DataObject
) -> None:
    state = state_of(nodes, specs)
    fill(state, specs[:-1], strategy, 0)
    snapshot, spec = state.snapshot(), specs[-1]
    winner = STRATEGIES[strategy].decide(snapshot, spec)
    if winner.is_placed:
        keep = np.array([data.draw(st.booleans()) or row == winner.row for row in range(state.num_rows)])
        assert STRATEGIES[strategy].decide(snapshot, spec, keep).row == winner.row


@quick
@given(fleets(), st.lists(pod_specs(), min_size=1, max_size=6))
def test_marks_have_exactly_one_ten_and_name_the_best(nodes: list[NodeSpec], specs: list[PodSpec]) -> None:
    state = state_of(nodes, specs)
    for spec in specs:
        marks = STRATEGIES["best-fit"].priorities(state.snapshot(), spec)
        decision = STRATEGIES["best-fit"].decide(state.snapshot(), spec)
        assert marks.min() >= 0
        assert marks.dtype == np.int64
        if decision.is_placed:
            assert (marks == 10).sum() == 1
            assert marks[decision.row] == 10


@quick
@given(fleets(), st.lists(pod_specs(), min_size=1, max_size=8), st.integers(0, 6))
def test_nodes_may_come_and_go_without_a_stale_score(nodes: list[NodeSpec], specs: list[PodSpec], gone: int) -> None:
    state = state_of(nodes, specs)
    fill(state, specs, "best-fit", 1)
    name = nodes[gone % len(nodes)].name
    state.remove_node(name)
    for spec in specs:
        assert STRATEGIES["best-fit"].decide(state.snapshot(), spec).node != name
    state.add_node(nodes[gone % len(nodes)])
    fresh = ClusterState(knowledge=state.knowledge)
    for row in range(state.num_rows):
        node = state.nodes[row]
        assert node is not None
        fresh.add_node(node)
    for resident in state.residents.values():
        fresh.bind(resident.uid, resident.spec, state.names[resident.row], resident.devices)
    for spec in specs:
        one, two = (STRATEGIES["best-fit"].scores(s.snapshot(), spec) for s in (state, fresh))
        assert (one == two).all()


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_balanced_allocation_is_what_a_pod_changes_and_up_to_1_35_what_it_leaves(backend: str) -> None:
    state = ClusterState(backend=backend)
    for name in ("half", "empty"):
        state.add_node(NodeSpec(name, ((CPU, 10_000), (MEMORY, 10 << 30), (PODS, 9))))
    state.bind("there", PodSpec(((MEMORY, 5 << 30),)), "half")
    pod = PodSpec(((CPU, 3_000),))
    found = {}
    for scorer in (BalancedAllocation(), BalancedAfter()):
        strategy = Strategy(type(scorer).__name__, (Weighted(scorer),))
        found[strategy.name] = strategy.scores(state.snapshot(), pod).tolist()
        assert not strategy.scores(state.snapshot(), PodSpec(())).any(), "the plug-in skips pods that ask for nothing"
    assert found == {
        "BalancedAllocation": [50 + (50 + 90 - 75) // 2, 50 + (50 + 85 - 100) // 2],
        "BalancedAfter": [90, 85],
    }


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_survives_its_own_toml(name: str, tmp_path: object) -> None:
    path = tmp_path / "s.toml"  # type: ignore[operator]  # a Path
    path.write_text(strategy_to_toml(STRATEGIES[name]))
    assert strategy_from_toml(path).digest == STRATEGIES[name].digest


@given(text=st.text(max_size=20))
@example(text='packs "well",\r\nC:\\temp\x7f\x00')
def test_whatever_a_strategy_is_called_its_toml_can_be_read(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    strategy = replace(STRATEGIES["priced"], name=text, description=text)
    path = tmp_path_factory.mktemp("own") / "s.toml"
    path.write_text(strategy_to_toml(strategy), encoding="utf-8", newline="")
    again = strategy_from_toml(path)
    assert (again, again.description) == (strategy, text)


def test_a_file_whose_name_is_no_text_names_a_strategy_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xffown.toml")
    path.write_text("[scorers.leftover]\n")
    assert strategy_from_toml(path).name == "?own"


@pytest.mark.parametrize("needs", ['["luck"]', "[[1]]", '"prices"', "3"])
def test_a_strategy_needs_what_there_is(needs: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f"needs = {needs}\n[scorers.leftover]\n")
    with pytest.raises(ConfigError, match="needs"):
        strategy_from_toml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leftover]\nreference_cpu = 0", "reference_cpu is 0, must be at least 1"),
        ("alignment]\nreference_memory_mib = -1", "reference_memory_mib is -1, must be at least 1"),
        ("requested-to-capacity]\nlow_percent = 100", "high_percent is 100, must be above low_percent, which is 100"),
        ("stranded]\nmillicores_per_gpu = [0, 1, 2, 3]", "each must be at least 1"),
        ("stranded]\nweights_milli = [80, 30, 5000, 10]", "each must be 0 to 4095"),
        ("stranded]\nweights_milli = [80]", "four weights"),
        ("exit-time]\nstep = 0", "step is 0, must be at least 1"),
        ("rank]\nweight = 99999999999999999999", "must be like 1"),
    ],
)
def test_a_parameter_that_no_score_can_be_computed_with_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f"[scorers.{text}\n")
    with pytest.raises(ConfigError, match=message):
        strategy_from_toml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae = 'x'", "did you mean 'name'"),
        ("[scorers.strandd]", "did you mean 'stranded'"),
        ("[scorers.rank]\nspan_mili = 3", "did you mean 'span_milli'"),
        ("[scorers.rank]\nspan_milli = 'x'", "must be like 800"),
        ("x = [", "is not TOML"),
        ("x = " + 5000 * "[", "cannot be read"),
        ("ties = 'first'", "has no"),
    ],
)
def test_a_typo_in_a_toml_names_the_nearest_valid_key(text: str, message: str, tmp_path: object) -> None:
    path = tmp_path / "s.toml"  # type: ignore[operator]  # a Path
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        strategy_from_toml(path)


def test_an_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'best-fit'"):
        strategy_named("bestfit")


def test_a_strategy_in_a_file_of_another_kind_is_told_what_it_ends_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("")
    for name in ("mine.yaml", "there/mine"):
        with pytest.raises(ConfigError, match=r"a strategy's file ends in \.toml"):
            strategy_named(name)


def test_a_strategy_without_its_knowledge_says_what_it_needs() -> None:
    state = ClusterState()
    state.add_node(NodeSpec("n", (("cpu", 1000),)))
    with pytest.raises(ConfigError, match="needs prices"):
        STRATEGIES["priced"].decide(state.snapshot(), PodSpec((("cpu", 1),)))


def test_a_pod_is_never_bound_twice() -> None:
    state = ClusterState()
    state.add_node(NodeSpec("n", (("cpu", 4000),)))
    spec = PodSpec((("cpu", 1000),))
    state.assume("u", spec, "n")
    with pytest.raises(StateError, match="already in the ledger"):
        state.bind("u", spec, "n")
    state.confirm("u")
    with pytest.raises(StateError, match="is bound, not assumed"):
        state.forget("u")
    state.release("u")
    with pytest.raises(StateError, match="not in the ledger"):
        state.release("u")
    with pytest.raises(StateError, match="node x is not in the ledger"):
        state.bind("u", spec, "x")


def test_counting_thresholds_equals_the_sigmoid_formula() -> None:
    rng = np.random.default_rng(0)
    gains = np.concatenate([rng.normal(0, 3000, 20_000), rng.normal(0, 1e-12, 2000), [0.0, 8000.0, -8000.0]])
    formula = (100 / (1 + np.exp(-gains / 1000))).astype(np.int64)
    counted = np.searchsorted(sigmoid_thresholds(), gains, side="right")
    assert (counted == formula).all()


@pytest.mark.parametrize(
    ("text", "resource", "offered", "amount"),
    [
        ("500m", "cpu", False, 500),
        ("1.0001", "cpu", False, 1001),
        ("1.0001", "cpu", True, 1000),
        ("1Gi", "memory", False, 2**30),
        ("1e3", "memory", False, 1000),
        ("100m", "memory", False, 1),
        ("5", "nvidia.com/gpu", False, 5),
    ],
)
def test_quantities_round_against_us(text: str, resource: str, offered: bool, amount: int) -> None:
    assert parse_quantity(text, resource, offered=offered) == amount


@pytest.mark.parametrize("text", ["", "x", "1Q", "-1", "1e40", "--1", "1 Gi", "0." + 10**6 * "0" + "1"])
def test_an_impossible_quantity_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="quantity") as caught:
        parse_quantity(text, "memory")
    assert len(str(caught.value)) < 300


def test_amounts_read_as_people_write_them() -> None:
    assert format_amount(1500, "cpu") == "1.5 cores"
    assert format_amount(2**30, "memory") == "1 GiB"
    assert format_amount(26_510 * 2**30, "memory") == "26,510 GiB"
    assert format_amount(-1_500_000, "cpu") == "-1,500 cores"


@pytest.mark.parametrize(("count", "milli"), [(0, 1000), (1, 0), (1, 1001), (2, 500)])
def test_an_impossible_gpu_request_is_refused(count: int, milli: int) -> None:
    with pytest.raises(ConfigError, match="GPU request"):
        GpuRequest(count, milli)


def test_any_number_of_device_models_is_told_apart() -> None:
    gpus = GpuRequest(1, 1000, ("model-150",))
    wants = PodSpec(((CPU, 1000),), gpu=gpus)
    knowledge = Knowledge(0, Workload.of([wants], [1]))
    for backend in ("auto", "numpy"):
        state = ClusterState(backend=backend, knowledge=knowledge)
        strategy = STRATEGIES["atc23-fgd"]
        for i in range(200):
            state.add_node(NodeSpec(f"n{i}", ((CPU, 4000), (PODS, 9)), num_gpus=1, gpu_model=f"model-{i}"))
            if i == 0:
                assert not strategy.decide(state.snapshot(), wants).is_placed
        assert strategy.decide(state.snapshot(), wants).node == "n150"


def test_priced_does_not_care_how_nodes_are_listed() -> None:
    """The order of its explicit first fit comes from names, so an adversary who sorts the list changes nothing."""
    nodes = [NodeSpec(f"n{i}", ((CPU, 8000), (PODS, 20)), num_gpus=2, gpu_model="A") for i in range(12)]
    specs = [PodSpec(((CPU, 1000 * (1 + i % 3)),), gpu=GpuRequest(1, 300 + 100 * (i % 4))) for i in range(24)]
    chosen = []
    for order in (nodes, nodes[::-1], nodes[6:] + nodes[:6]):
        state = state_of(order, specs)
        chosen.append([(on.node.name, on.devices) for on in fill(state, specs, "priced", 1)])
    assert chosen[0] == chosen[1] == chosen[2]
    assert len({name for name, _ in chosen[0]}) > 1


def test_terms_follow_whether_pods_leave_and_survive_a_toml(tmp_path: Path) -> None:
    priced, steady = STRATEGIES["priced"], STRATEGIES["priced-steady"]
    specs = [PodSpec((("cpu", 1000),), GpuRequest(1, 500))]
    staying, leaving = (Knowledge(1, Workload.of(specs, [1], leaving=it)) for it in (False, True))
    assert priced.terms(Knowledge()) == priced.terms(staying) == priced.scorers
    assert priced.terms(leaving) == steady.scorers == steady.terms(staying)
    assert staying.digest != leaving.digest
    path = tmp_path / "mine.toml"
    path.write_text(strategy_to_toml(priced))
    assert (
        strategy_from_toml(path).digest
        == priced.digest
        != replace(priced, bare=()).digest
        != replace(priced, leaving=()).digest
    )
    path.write_text(strategy_to_toml(priced).replace("leaving.rank", "leaving.rnak"))
    with pytest.raises(ConfigError, match="unknown scorer 'rnak'; did you mean 'rank'"):
        strategy_from_toml(path)


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_where_no_pod_asks_for_a_device_priced_is_best_fit(backend: str) -> None:
    big, small = PodSpec((("cpu", 5000),)), PodSpec((("cpu", 2000),))
    known = Knowledge.neutral().but(workload=Workload.of([big, small], [1, 1]))
    state = ClusterState(knowledge=known, backend=backend)
    for i in range(6):
        state.add_node(NodeSpec(f"n{i}", (("cpu", 8000), ("memory", 2**34)), num_gpus=i % 2))
    for i, spec in enumerate((big, small, small, big, small, big)):
        priced, best = (STRATEGIES[name].decide(state.snapshot(), spec) for name in ("priced", "best-fit"))
        assert (priced.row, priced.score) == (best.row, best.score)
        state.bind(str(i), spec, best.node)


def test_why_a_pod_waits_is_its_own_reason_also_when_something_was_just_learned() -> None:
    """What was remembered of classes starts over then, under other numbers."""
    state, best = ClusterState(), STRATEGIES["best-fit"]
    state.add_node(NodeSpec("n0", (("cpu", 1000), ("memory", 1000), ("pods", 10))))
    cpu, memory = PodSpec((("cpu", 5000),)), PodSpec((("memory", 5000),))
    assert main_reason(state.snapshot(), best, cpu) == "Insufficient cpu"
    state.learn(state.knowledge.but(workload=Workload.of([cpu], [1])))
    assert main_reason(state.snapshot(), best, memory) == "Insufficient memory"


def test_of_many_resources_those_that_are_lacking_are_named() -> None:
    state, best = ClusterState(), STRATEGIES["best-fit"]
    state.add_node(NodeSpec("n", tuple((f"example.com/{number:02}", 1) for number in range(80))))
    reasons = rejections(best, state.snapshot(), PodSpec((("example.com/59", 2), ("example.com/75", 2))))
    assert list(reasons) == ["Insufficient example.com/59, example.com/75"]


def test_a_class_is_found_in_another_process() -> None:
    spec = PodSpec((("cpu", 1000),), namespace="shop")
    assert spec in {spec}  # its hash is kept
    look = (
        "import pickle, sys; from placement.pods import PodSpec; spec = pickle.load(sys.stdin.buffer); "
        "print(spec in {PodSpec((('cpu', 1000),), namespace='shop')})"
    )
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", look],
            input=pickle.dumps(spec),
            capture_output=True,
            check=True,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert run.stdout.split() == [b"True"]
