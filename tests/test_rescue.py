"""Rescue: always valid, never worse, optimal where it says so, and its bound never below what brute force finds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.errors import ConfigError
from placement.planning import repair as repair_module
from placement.planning import rescue
from placement.planning.bounds import PatternBound, counting_bound
from placement.planning.plans import Deadline, WorkClock
from placement.planning.repair import Packing, Search, Settling, keep_siblings, repair
from placement.planning.rescue import pack, relabel
from placement.resources import IntArray


def ticking(step_s: float = 0.01) -> Callable[[], float]:
    """A clock that moves when it is looked at, so that limits are repeatable."""
    now = itertools.count()
    return lambda: next(now) * step_s


@st.composite
def packings(draw: st.DrawFn) -> Packing:
    """At most six pods of at most three classes on at most three nodes, two resources."""
    num_classes = draw(st.integers(1, 3))
    num_nodes = draw(st.integers(1, 3))
    small = st.integers(0, 5)
    request = np.array([[draw(small) for _ in range(num_classes)] for _ in range(2)])
    class_of = np.array([draw(st.integers(0, num_classes - 1)) for _ in range(draw(st.integers(1, 6)))])
    tier = np.array([draw(st.integers(0, 2)) for _ in range(num_classes)])
    free = np.array([[draw(st.integers(0, 9)) for _ in range(num_nodes)] for _ in range(2)])
    allowed = np.array([[draw(st.integers(0, 3)) > 0 for _ in range(num_nodes)] for _ in range(num_classes)])
    node_of = np.full(len(class_of), -1)
    left = free.copy()
    for p, c in enumerate(class_of):  # some pods run already, where they fit
        n = draw(st.integers(-1, num_nodes - 1))
        if n >= 0 and allowed[c, n] and (left[:, n] >= request[:, c]).all():
            node_of[p] = n
            left[:, n] -= request[:, c]
    evictable = np.array([draw(st.booleans()) for _ in class_of])
    return Packing(request, class_of, tier, free, allowed, node_of, evictable)


def placements(packing: Packing) -> Iterator[IntArray]:
    """All that are valid."""
    choices = itertools.product(range(-1, packing.num_nodes), repeat=len(packing.class_of))
    return (node_of for node_of in map(np.array, choices) if not packing.violations(node_of))


def best_counts(packing: Packing) -> tuple[int, ...]:
    """By trying everything."""
    return max(packing.counts(node_of) for node_of in placements(packing))


def fewest_displaced(packing: Packing, counts: tuple[int, ...]) -> int:
    """By trying everything."""
    return min(packing.num_displaced(node_of) for node_of in placements(packing) if packing.counts(node_of) == counts)


@settings(max_examples=200, deadline=None)
@given(packings())
def test_repair_is_valid_and_never_places_less(packing: Packing) -> None:
    node_of = repair(packing)
    assert packing.violations(node_of) == []
    assert packing.counts(node_of) >= packing.counts(packing.node_of)


@pytest.fixture(scope="module")
def beside() -> Iterator[Executor]:
    """One thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


class AtOnce(Executor):
    """Does what is submitted at once, in this thread."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


@pytest.mark.parametrize("threads", [1, 2])
@settings(max_examples=80, deadline=None)
@given(packings())
def test_a_plan_is_valid_and_what_it_calls_optimal_is(beside: Executor, threads: int, packing: Packing) -> None:
    packed = pack(packing, Deadline(0.3, ticking()), beside=beside if threads == 2 else None)
    assert packing.violations(packed.node_of) == []
    assert packed.counts == packing.counts(packed.node_of)
    assert packed.counts >= packing.counts(packing.node_of)
    best = best_counts(packing)
    assert packed.counts <= best
    if packed.is_proved:
        assert packed.counts == best
    assert packed.fewest <= fewest_displaced(packing, packed.counts) <= packing.num_displaced(packed.node_of)


@settings(max_examples=80, deadline=None)
@given(packings())
def test_a_plan_with_time_displaces_as_few_as_any_and_proves_it(packing: Packing) -> None:
    packed = pack(packing, Deadline(4.0, WorkClock()))
    assert packed.fewest == packing.num_displaced(packed.node_of) == fewest_displaced(packing, packed.counts)


@settings(max_examples=80, deadline=None)
@given(packings())
def test_bounds_are_never_below_the_best_placement(packing: Packing) -> None:
    best = best_counts(packing)
    for stage in range(len(best)):
        assert counting_bound(packing, best, stage) >= best[stage]
    held = packing.node_of
    bound = PatternBound(packing, held, 0)
    bound.improve(Deadline(0.2, ticking()))
    assert bound.most >= best[0]


@settings(max_examples=100, deadline=None)
@given(packings())
def test_settling_and_relabelling_keep_the_counts_and_do_not_displace_more(packing: Packing) -> None:
    placed = repair(packing)
    moved = relabel(packing, keep_siblings(packing, placed))
    assert packing.violations(moved) == []
    assert packing.num_displaced(moved) <= packing.num_displaced(placed)
    settling = Settling(packing, moved)
    settling.run(rounds=300, temperature=0.5)
    assert packing.violations(settling.best) == []
    assert packing.counts(settling.best) >= packing.counts(placed)


def identical_nodes(seed: int) -> Packing:
    """Forty pods on eight equal nodes, a quarter of them pending."""
    random = np.random.default_rng(seed)
    request = random.integers(10, 60, (2, 15))
    class_of = np.arange(40) % 15
    node_of = np.full(40, -1)
    free = np.full((2, 8), 190)
    left = free.copy()
    for p in range(30):
        n = int(np.argmax(left.min(axis=0)))
        if (left[:, n] >= request[:, class_of[p]]).all():
            node_of[p] = n
            left[:, n] -= request[:, class_of[p]]
    return Packing(request, class_of, np.arange(15) % 3, free, np.ones((15, 8), bool), node_of, np.ones(40, bool))


def test_the_same_seed_gives_the_same_plan() -> None:
    one, two = (pack(identical_nodes(3), Deadline(0.5, ticking()), seed=7) for _ in range(2))
    assert (one.node_of == two.node_of).all()
    assert one.milestones == two.milestones


def test_a_limit_of_work_ends_a_rescue_after_as_much_work_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[tuple[str, int]] = []

    def counted(kind: type[Search] | type[Settling]) -> None:
        run = kind.run

        def noted(self: Any, *words: Any, **more: Any) -> Any:
            rounds.append((kind.__name__, more["rounds"]))
            return run(self, *words, **more)

        monkeypatch.setattr(kind, "run", noted)

    counted(Search)
    counted(Settling)
    monkeypatch.setattr(rescue, "MOST_PAIRS", 0)  # it would prove that nothing is better, and end
    ways = []
    for limit_s in (0.1, 0.1, 0.3):
        clock = WorkClock()
        packed = pack(identical_nodes(4), Deadline(limit_s, clock), seed=7)
        assert limit_s < clock.done_s < 1.2 * limit_s
        ways.append((packed.node_of.tolist(), tuple(rounds)))
        rounds.clear()
    assert ways[0] == ways[1]
    settled = [sum(n for kind, n in done if kind == "Settling") for _, done in ways]
    assert 0 < settled[0] * repair_module.SETTLE_ROUND_S <= 0.11
    assert settled[2] > 2 * settled[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_cancelled_plan_is_still_valid(beside: Executor, threads: int) -> None:
    packing = identical_nodes(4)
    deadline = Deadline(10.0, ticking(), cancelled=lambda: True)
    packed = pack(packing, deadline, beside=beside if threads == 2 else None)
    assert packing.violations(packed.node_of) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_a_plan_whose_time_is_over_after_repair_is_that_repair(beside: Executor, threads: int) -> None:
    packing = identical_nodes(1)
    packed = pack(packing, Deadline(0.5, ticking(1.0)), beside=beside if threads == 2 else None)
    assert packed.counts == packing.counts(repair(packing))
    assert packed.is_proved, "all pods have a place, which needs no time to see"
    assert packing.violations(packed.node_of) == []


def test_what_is_counted_beside_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the caller has no time to search; the other has placed one pod more."""
    monkeypatch.setattr(rescue, "SEARCH_SHARE_BEFORE", 1e-9)
    packing = identical_nodes(0)
    packed = pack(packing, Deadline(0.2, ticking()), beside=AtOnce())
    assert packed.counts == pack(packing, Deadline(0.2, ticking())).counts > packing.counts(repair(packing))
    assert packing.violations(packed.node_of) == []
    assert packed.milestones[-1].counts == packed.counts
    assert packed.is_proved


def test_a_thread_that_fails_fails_the_plan(beside: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(rescue, "_prove", fail)
    with pytest.raises(ZeroDivisionError):
        pack(identical_nodes(3), Deadline(0.5, ticking()), beside=beside)
    assert beside.submit(int).result(timeout=60) == 0, "the thread is free again"


def of_many_and_one_pair(packing: Packing, placed: IntArray, seed: int) -> tuple[Settling, Settling]:
    many = Settling(packing, placed, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repair_module, "DEAD_PAIRS", 1)
        return many, Settling(packing, placed, seed=seed)


@settings(max_examples=60, deadline=None)
@given(packings(), st.integers(0, 5))
def test_remembering_pairs_that_cannot_be_split_changes_nothing(packing: Packing, seed: int) -> None:
    """Annealing draws no chance for such pairs, so it does the same with a memory of one pair and of many."""
    placed = repair(packing)
    many, one = of_many_and_one_pair(packing, placed, seed)
    for temperature in (0.5, 0.3, 0.1):
        for settling in (many, one):
            settling.run(rounds=40, temperature=temperature)
            assert settling.displaced == packing.num_displaced(settling.best)
        assert (many.best == one.best).all()


def test_splits_are_remembered_where_many_pods_meet() -> None:
    """The same where nodes hold five pods each, and every pod that runs starts on the wrong one."""
    packing = identical_nodes(5)
    placed = np.where(packing.node_of >= 0, (packing.node_of + 1) % packing.num_nodes, -1)
    many, one = of_many_and_one_pair(packing, placed, 1)
    for settling in (many, one):
        settling.run(rounds=3000, temperature=0.3)
        settling.run(rounds=3000, temperature=0.15)
    assert (many.best == one.best).all()
    assert many.displaced == packing.num_displaced(many.best) < packing.num_displaced(placed)


def test_search_reaches_a_perfect_packing_that_greedy_misses() -> None:
    """Three nodes of ten must take 6+4, 7+3 and 5+5; best fit in any order of size leaves somebody out."""
    request = np.array([[6, 4, 7, 3, 5, 5]])
    packing = Packing(
        request,
        np.arange(6),
        np.zeros(6, np.int64),
        np.full((1, 3), 10),
        np.ones((6, 3), bool),
        np.full(6, -1),
        np.ones(6, bool),
    )
    search = Search(packing, packing.node_of)
    assert search.run(np.zeros(1, np.int64), rounds=5000)
    assert (search.best >= 0).all()


def test_an_overfull_node_is_refused_with_its_number() -> None:
    none, yes = np.zeros(1, np.int64), np.ones((1, 1), np.bool_)
    with pytest.raises(ConfigError, match="node number 0 is overfull"):
        Packing(np.array([[5]]), none, none, np.array([[3]]), yes, none, yes[0])


def test_a_time_limit_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves nothing to plan in"):
        Deadline(0.0, ticking())
