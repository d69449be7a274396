"""What nodes may expect, reached change by change, is what it is from nothing; and so are decisions."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from placement import machine_code, outlook
from placement.errors import ConfigError
from placement.knowledge import (
    AGES_S,
    HORIZONS_S,
    MOST_S,
    Forecast,
    Forecasts,
    Knowledge,
    Lifespan,
    Lifetimes,
    names_of,
    unpacked,
    workload_of,
)
from placement.nodes import NodeSpec
from placement.outlook import NUM_OUTLOOK, UPPER_CPU, UPPER_MEMORY, Entries, Slots
from placement.pods import PodSpec
from placement.program import has_compiled
from placement.residents import MOST_USE, Residents
from placement.resources import CPU, MAX_AMOUNT, MEMORY, PODS
from placement.state import ClusterState
from placement.strategies import STRATEGIES
from simulator.replay import Policy, Replay, ReplayOptions
from simulator.traces.trace import Trace
from simulator.usage.lifetime_learner import LifetimeLearner

GIB = 2**30
NUM_NODES = 5


def _spec(owner: str, cpu: int = 1000) -> PodSpec:
    return PodSpec(((CPU, cpu), (MEMORY, GIB)), owner=owner)


def _node(number: int, cpu: int = 10**6) -> NodeSpec:
    return NodeSpec(f"n{number}", ((CPU, cpu), (MEMORY, 10**5 * GIB), (PODS, 10**4)))


def _state(num: int = NUM_NODES) -> ClusterState:
    state = ClusterState(knowledge=Knowledge.neutral())
    for number in range(num):
        state.add_node(_node(number))
    return state


def _lifespan(rng: np.random.Generator) -> Lifespan:
    gone = np.sort(rng.integers(0, 1001, (len(AGES_S), len(HORIZONS_S))), axis=1).tolist()
    return Lifespan(tuple(rng.integers(0, 10**5, len(AGES_S)).tolist()), tuple(map(tuple, gone)))


def interpreted() -> Callable[[Slots], Entries]:
    """The loops as they are without numba."""
    spec = importlib.util.spec_from_file_location("interpreted_outlook", Path(outlook.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_code, "HAS_NUMBA", False)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    assert not hasattr(module.come, "py_func")
    entries: Callable[[Slots], Entries] = module.plain_entries
    return entries


def entries_of(kind: str) -> Callable[[Slots], Entries]:
    """Of a back end."""
    if kind == "interpreted":
        return interpreted()
    if kind == "plain":
        return outlook.plain_entries
    if not has_compiled():
        pytest.skip("numba is not installed")
    from placement.kernels import slot_entries

    return slot_entries


@dataclass
class World:
    """Pods come and go, knowledge changes in every way it can."""

    seed: int

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.state = _state()
        owners = [f"StatefulSet/w{i}" if i % 7 else "" for i in range(60)]
        self.specs = [_spec(owner, 100 * (1 + (i + i // 60) % 5)) for i, owner in enumerate(owners * 3)]
        self.names = sorted({name for spec in self.specs for name in names_of(spec)})
        self.lives: dict[str, Lifespan] = {}
        self.uses: dict[str, Forecast] = {}
        self.now_s = 0

    def move(self) -> None:
        """One pod comes, goes or is updated."""
        rng, state = self.rng, self.state
        uid = f"p{int(rng.integers(0, 150))}"
        spec = self.specs[int(rng.integers(0, len(self.specs)))]
        self.now_s += int(rng.integers(0, 400))
        if uid not in state.residents:
            state.bind(uid, spec, f"n{int(rng.integers(0, NUM_NODES))}", time_s=self.now_s)
        elif rng.random() < 0.2:
            state.update_pod(uid, spec, time_s=self.now_s)
        else:
            state.release(uid, time_s=self.now_s)

    def learn(self) -> None:
        """A version that repeats most of the one before."""
        rng = self.rng
        names, knowledge = self.names, self.state.knowledge
        for name in rng.choice(names, len(names) // 8, replace=False).tolist():
            if name in self.lives and rng.random() < 0.3:
                del self.lives[name]
            elif name:
                self.lives[name] = _lifespan(rng)
        for name in rng.choice(names, 3, replace=False).tolist():
            self.uses[name] = Forecast(*rng.integers(0, 9999, 4).tolist(), rung="history")
        lifetimes = Lifetimes(dict(self.lives), _lifespan(rng), self.now_s)
        if rng.random() < 0.7:  # who learned it asked already
            lifetimes.changes(knowledge.lifetimes)
        forecasts = knowledge.forecasts if rng.random() < 0.5 else Forecasts(dict(self.uses))
        new = Knowledge(knowledge.version + 1, knowledge.workload, knowledge.prices, forecasts, lifetimes)
        if rng.random() < 0.1:
            new = Knowledge(new.version, new.workload, new.prices)
        self.state.learn(new, time_s=self.now_s)

    def fresh(self) -> Residents:
        """From nothing."""
        residents = Residents(self.state)
        residents.learn(self.state.knowledge.forecasts, self.state.knowledge.lifetimes)
        residents.follow()
        return residents


@pytest.mark.parametrize("kind", ["kernels", "plain", "interpreted"])
@pytest.mark.parametrize("seed", range(4))
def test_the_outlook_reached_by_changes_is_the_one_from_nothing(kind: str, seed: int) -> None:
    world = World(seed)
    state, rng = world.state, world.rng
    residents = Residents(state, entries_of(kind))
    checked = told = 0
    for _ in range(60):
        for _ in range(int(rng.integers(0, 3))):  # some versions nobody has looked at
            world.learn()
            if rng.random() < 0.5:
                residents.learn(state.knowledge.forecasts, state.knowledge.lifetimes)
        for _ in range(int(rng.integers(0, 8))):
            world.move()
        residents.learn(state.knowledge.forecasts, state.knowledge.lifetimes)
        residents.follow()
        fresh = world.fresh()
        assert (residents.outlook == fresh.outlook).all()
        for spec in world.specs[:60]:
            assert (residents.outlook_of(spec) == fresh.outlook_of(spec)).all()
        checked += len(state.residents)
        told += state.knowledge.lifetimes is not None
    assert checked > 1000
    assert told > 30


def test_classes_that_are_forgotten_and_columns_that_grow_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("placement.residents.MIN_CLASSES", 40)
    monkeypatch.setattr("placement.residents.FIRST_ROOM", 2)
    world = World(9)
    residents, looked_up = Residents(world.state), 0
    for step in range(300):
        if step % 20 == 0:
            world.learn()
            residents.learn(world.state.knowledge.forecasts, world.state.knowledge.lifetimes)
        world.move()
        before = len(residents._names)
        residents.follow()
        looked_up += len(residents._names) < before
        assert (residents.outlook == world.fresh().outlook).all()
    assert looked_up > 1


@dataclass
class StartOver:
    """Forgets all that a strategy has cached, at every version."""

    every_s: int = 300

    def act(self, replay: Replay) -> None:
        """Forget."""
        replay.state.programs.clear()


@pytest.mark.parametrize("strategy", ["nilas", "emptying", "ullage"])
@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_decisions_while_lifetimes_change_are_those_of_a_strategy_that_starts_over(strategy: str, backend: str) -> None:
    rng = np.random.default_rng(3)
    pods, clock = [], 0
    for i in range(240):
        clock += int(rng.exponential(60))
        life = int(rng.lognormal(7, 1.5)) + 1
        workload = int(rng.integers(0, 40))
        pods.append((f"p{i}", _spec(f"StatefulSet/w{workload}", 500 * (1 + (workload + i) % 3)), clock, clock + life))
    trace = Trace.of("t", [_node(i, cpu=16_000) for i in range(12)], pods)

    def outcome(*policies: Policy) -> list[int]:
        options = ReplayOptions(knowledge=Knowledge.neutral(), backend=backend, policies=(LifetimeLearner(), *policies))
        replayed = Replay(trace, STRATEGIES[strategy], options).run()
        return [int(x) for x in replayed.node_of]

    found = outcome()
    assert found == outcome(StartOver())
    assert len(set(found)) > 3


def test_a_version_says_what_it_tells_otherwise_and_for_whom_it_was_asked() -> None:
    rng = np.random.default_rng(1)
    a, b, c, d = (_lifespan(rng) for _ in range(4))
    first = Lifetimes({"x": a, "y": b, "z": c}, a)
    second = Lifetimes({"x": a, "y": c, "new": d}, b)
    changes = second.changes(first)
    assert changes.names == ["y", "new"]
    assert changes.moved == ["new", "z"]
    assert (changes.numbers == unpacked([b, c, d])).all()
    assert second.changes(first) is changes
    other = Lifetimes({"x": d, "y": c, "new": d}, a)
    assert second.changes(other).names == ["x"], "kept is what was said against another version"
    assert second.changes(None).moved == ["x", "y", "new"]


def test_lifespans_beyond_reason_are_refused() -> None:
    gone = ((0,) * len(HORIZONS_S),) * len(AGES_S)
    assert Lifespan((MOST_S,) * len(AGES_S), gone).packed
    for life_s in (-1, MOST_S + 1, 2**64):
        with pytest.raises(ConfigError, match="lifetimes"):
            Lifespan((life_s,) * len(AGES_S), gone)


@pytest.mark.parametrize("amount", [MAX_AMOUNT - 1, 2**63, 2**70])
def test_sums_of_absurd_amounts_stay_inside_int64(amount: int) -> None:
    """Pods that are bound by hand may ask for anything, and so may forecasts in somebody's log."""
    told = PodSpec(((CPU, 1), (MEMORY, 1)), owner="StatefulSet/told")
    asks = PodSpec(((CPU, MAX_AMOUNT - 1), (MEMORY, MAX_AMOUNT - 1)))
    state = _state(2)
    forecast = Forecast(amount, amount, amount, amount, rung="history", windows=((amount, amount),) * 6)
    name = workload_of(told.namespace, told.owner)
    state.learn(state.knowledge.but(forecasts=Forecasts({name: forecast})))
    for i in range(100):
        state.bind(f"t{i}", told, "n0")
    for i in range(100):
        state.bind(f"a{i}", asks, "n0")
    residents = Residents(state)
    residents.learn(state.knowledge.forecasts, None)
    residents.follow()
    entry = residents.outlook[0]
    assert entry.shape == (NUM_OUTLOOK,)
    assert (entry >= 0).all()
    assert entry[UPPER_CPU] == entry[UPPER_MEMORY] == 100 * MOST_USE
    for i in range(100):
        state.release(f"t{i}")
        state.release(f"a{i}")
    residents.follow()
    assert not residents.outlook.any()
    pod = _spec("StatefulSet/new")
    for strategy in ("predicted", "koordinator", "coach-6x4h"):
        state.bind("hot", told, "n0")
        decision = STRATEGIES[strategy].decide(state.snapshot(), pod)
        assert decision.node != "n0", f"{strategy} puts nothing on the node that is said to be full"
        state.release("hot")
