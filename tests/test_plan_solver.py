"""Batches in worker processes: small on the way, checked, and never later than the time limit for want of a processor."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from placement.planning.batch import Batch
from placement.planning.batches import as_placed, at_once, place_batch
from placement.planning.best_fit import best_fit
from placement.planning.plans import Deadline, Ending
from scheduler.planning.solver import Sent, Solver, SolverError, Sparse, first

pytestmark = pytest.mark.timeout(90)


def batch(classes: int = 6, nodes: int = 40, *, limit: int | None = None) -> Batch:
    """Pods of several sizes on nodes of two shapes; some nodes are closed to some classes."""
    rng = np.random.default_rng(5)
    request = rng.integers(1, 9, (2, classes)).astype(np.int64)
    count = rng.integers(1, 12, classes).astype(np.int64)
    size = np.where(np.arange(nodes) % 2, 32, 48).astype(np.int64)
    allocatable = np.stack([size, size])
    free = allocatable - rng.integers(0, 20, (2, nodes))
    most = np.where(rng.random((classes, nodes)) < 0.8, count[:, None], 0)
    if limit is not None:
        most = np.minimum(most, limit)
    return Batch(request, count, free, allocatable, most, np.full(classes, -1), np.zeros(nodes, np.int64))


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("wish", [None, 700])
def test_what_is_sent_comes_out_as_it_was(limit: int | None, wish: int | None) -> None:
    made = batch(limit=limit)
    made = made if wish is None else replace(made, wish=np.where(made.most % 2, wish, 0))
    back = pickle.loads(pickle.dumps(Sent.of(made))).unpack()
    for name in ("request", "count", "free", "allocatable", "most", "gang", "zone_of", "wish"):
        assert np.array_equal(getattr(back, name), getattr(made, name)), name
    placed = best_fit(made)
    assert np.array_equal(pickle.loads(pickle.dumps(Sparse.of(placed))).unpack(), placed)


def test_a_batch_for_thousands_of_nodes_is_small_on_its_way() -> None:
    assert len(pickle.dumps(Sent.of(batch(64, 5000)))) < 400_000


def test_a_first_placement_has_true_bounds() -> None:
    made = batch()
    greedy = as_placed(made, best_fit(made), Ending.DEADLINE)
    best = place_batch(made, Deadline(5.0, iter(np.linspace(0, 4.9, 10**6)).__next__))
    assert greedy.count <= best.count <= greedy.most
    assert best.count > greedy.count or greedy.stranding_bound <= best.stranding <= greedy.stranding + 1e-12
    nothing = Batch(made.request * 1000, made.count, made.free, made.allocatable, made.most, made.gang, made.zone_of)
    assert as_placed(nothing, best_fit(nothing), Ending.DEADLINE).count == 0


def test_a_placement_that_breaks_a_rule_is_not_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("placement.planning.batches.best_fit", lambda b: b.most + 1)
    with pytest.raises(SolverError, match="failed its check"):
        first(Sent.of(batch()))


def test_points_that_are_claimed_and_not_met_are_not_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    made = replace(batch(), wish=batch().most)
    assert first(Sent.of(made))[0].wishes_met > 0
    monkeypatch.setattr(
        "scheduler.planning.solver.at_once",
        lambda batch: replace(at_once(batch), wishes_met=made.wishes_possible + 1),
    )
    with pytest.raises(SolverError, match="points of wishes are claimed"):
        first(Sent.of(made))


async def test_it_improves_and_outlives_workers_that_are_killed() -> None:
    solver = Solver()
    made = batch(12, 20)
    try:
        found = await solver.solve(made, 20.0, 0)
        greedy = as_placed(made, best_fit(made), Ending.DEADLINE)
        assert made.violations(found.placed) == []
        assert (found.count, -found.stranding) >= (greedy.count, -greedy.stranding)
        for worker in (solver._first, solver._improver):
            assert worker._pool is not None
            for pid in list(worker._pool._processes or ()):
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(SolverError, match="died") if worker is solver._first else nullcontext():
                await solver.solve(made, 20.0, 1)
            again = await solver.solve(made, 20.0, 2)
            assert made.violations(again.placed) == []
    finally:
        solver.close()


@pytest.mark.parametrize("name", ["_first", "_improver"])
async def test_a_worker_that_is_known_to_be_dead_is_a_failed_batch_or_no_better_one_and_no_more(name: str) -> None:
    """Its pool refuses work at once then, which is not a death while it works."""
    solver = Solver()
    made = batch(12, 20)
    try:
        await solver.solve(made, 20.0, 0)
        pool = getattr(solver, name)._pool
        for pid in list(pool._processes):
            os.kill(pid, signal.SIGKILL)
        while not pool._broken:
            await asyncio.sleep(0.01)
        if name == "_first":
            with pytest.raises(SolverError, match="died"):
                await solver.solve(made, 20.0, 1)
        else:
            greedy = as_placed(made, best_fit(made), Ending.DEADLINE)
            assert np.array_equal((await solver.solve(made, 20.0, 1)).placed, greedy.placed)
        assert made.violations((await solver.solve(made, 20.0, 2)).placed) == []
    finally:
        solver.close()


def no_memory(*_: object) -> None:
    raise MemoryError("Unable to allocate 9 GiB for an array")


async def test_where_the_improver_finds_no_memory_the_first_placement_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.planning.solver.improve", no_memory)
    solver, made = Solver(), batch(12, 20)
    try:
        found = await solver.solve(made, 20.0, 0)
        assert np.array_equal(found.placed, as_placed(made, best_fit(made), Ending.DEADLINE).placed)
    finally:
        solver.close()


async def test_an_improver_that_gets_no_processor_holds_nobody_up() -> None:
    solver = Solver()
    made = batch(12, 20)
    try:
        await solver.solve(made, 20.0, 0)
        assert solver._improver._pool is not None
        pids = list(solver._improver._pool._processes or ())
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        greedy = as_placed(made, best_fit(made), Ending.DEADLINE)
        for seed in (1, 2):
            found = await solver.solve(made, 0.05, seed)
            assert np.array_equal(found.placed, greedy.placed)
            assert found.ending == Ending.DEADLINE
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        while solver._improver.is_busy:
            await asyncio.sleep(0.05)
        assert (await solver.solve(made, 20.0, 3)).stranding <= greedy.stranding
    finally:
        solver.close()
