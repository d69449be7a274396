"""Reproduce "Priority Matters" (arXiv 2511.08373): its instances, its outcome classes, our planner.

Each instance is a seed in a cell of the published grid. The default scheduler places the pods; when some
stay pending, the planner is *called*, and the outcome is one of the published classes:

* ``no_call``: the default placed everything;
* ``default_optimal``: the default's counts per priority are proved best;
* ``better`` and ``better_optimal``: more pods placed, compared lexicographically from the highest priority down;
* ``failed``: neither better, nor proved that nothing better exists.

Cells are spread over processes, and each finished cell is kept in the work folder, so that the same command takes
up again where it was interrupted.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from placement.errors import ConfigError, why
from placement.planning import patterns
from placement.planning.bounds import PatternBound, class_counts
from placement.planning.fullness import all_fit
from placement.planning.plans import Deadline
from placement.planning.repair import Packing, Search, Settling, repair
from placement.planning.rescue import Packed, pack
from placement.resources import IntArray
from simulator.kept import code_version, kept, left
from simulator.output import Progress, untold
from simulator.planning.instances import PriorityInstance, priority_instance
from simulator.reproduce.default_scheduler import default_placement, placed_share
from simulator.workers import in_processes, require

GRID_NODES = (4, 8, 16, 32)
GRID_PODS_PER_NODE = (4, 8)
GRID_PRIORITIES = (1, 2, 4)
GRID_UTIL = (0.90, 0.95, 1.00, 1.05)
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}
"""``cpu`` counts what the planner computes, for machines that have other work to do. It is the time of a thread: where
two plan, each has its second, as it would on a core of its own."""
SOON_S = 0.05
"""The published goal: improvements found within 50 ms."""


class Cell(msgspec.Struct, frozen=True):
    """One cell of the grid."""

    nodes: int
    pods_per_node: int
    priorities: int
    util: float


class RescueTried(msgspec.Struct, frozen=True):
    """What happened to one instance. Gains are percentage points of what all nodes offer."""

    seed: int
    outcome: str
    extra_pods: int = 0
    moves: int = 0
    evictions: int = 0
    cpu_gain_pp: float = 0.0
    memory_gain_pp: float = 0.0
    improved_s: float = 0.0
    """Until the first placement better than the default's; 0 when there was none."""
    final_s: float = 0.0
    """Until the counts that were returned were found."""


class CellResult(msgspec.Struct, frozen=True):
    """A finished cell, as it is kept in the work folder."""

    cell: Cell
    time_s: float
    clock: str
    outcomes: tuple[RescueTried, ...]


def grid(
    nodes: Sequence[int] = GRID_NODES,
    pods_per_node: Sequence[int] = GRID_PODS_PER_NODE,
    priorities: Sequence[int] = GRID_PRIORITIES,
    util: Sequence[float] = GRID_UTIL,
) -> list[Cell]:
    """Cells in the published order."""
    return [Cell(*cell) for cell in itertools.product(nodes, pods_per_node, priorities, util)]


def read_seeds(path: Path) -> list[int]:
    """One seed per line."""
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"seeds file {path}: {why(error)}; pass a file with one integer per line") from error
    seeds = []
    for number, line in enumerate(lines, 1):
        if not line.isdigit() or int(line) >= 2**128:
            raise ConfigError(
                f"seeds file {path}, line {number}: {line!r} is not a seed; write integers from 0 to 2^128"
            )
        seeds.append(int(line))
    if not seeds:
        raise ConfigError(f"seeds file {path} is empty; write one integer per line")
    return seeds


def packing_of(instance: PriorityInstance, node_of: IntArray) -> Packing:
    """The instance after the default scheduler, as columns: everything may be moved, or evicted for more."""
    num_sets = len(instance.replicas)
    return Packing(
        request=instance.request,
        class_of=np.repeat(np.arange(num_sets), instance.replicas),
        tier=instance.priority,
        free=np.repeat(instance.allocatable[:, None], instance.num_nodes, axis=1),
        allowed=np.ones((num_sets, instance.num_nodes), np.bool_),
        node_of=node_of,
        evictable=np.ones(instance.num_pods, np.bool_),
    )


def run_instance(
    cell: Cell, seed: int, time_s: float, clock: str = "wall", beside: Executor | None = None
) -> RescueTried:
    """One seed of one cell, from generator to outcome; times are of ``clock`` in this thread."""
    instance = priority_instance(
        seed,
        num_nodes=cell.nodes,
        pods_per_node=cell.pods_per_node,
        num_priorities=cell.priorities,
        util=cell.util,
    )
    default = default_placement(instance)
    if (default >= 0).all():
        return RescueTried(seed, "no_call")
    packing = packing_of(instance, default)
    packed = pack(packing, Deadline(time_s, CLOCKS[clock]), seed=seed % 2**32, beside=beside)
    wrong = packing.violations(packed.node_of)
    assert not wrong, f"seed {seed}: {wrong[0]}"
    before, after = placed_share(instance, default), placed_share(instance, packed.node_of)
    return RescueTried(
        seed,
        _classify(packing, packed),
        extra_pods=sum(packed.counts) - sum(packing.counts(default)),
        moves=packing.num_moves(packed.node_of),
        evictions=packing.num_evictions(packed.node_of),
        cpu_gain_pp=100.0 * float(after[0] - before[0]),
        memory_gain_pp=100.0 * float(after[1] - before[1]),
        improved_s=next((m.time_s for m in packed.milestones if m.counts > packing.counts(default)), 0.0),
        final_s=packed.milestones[-1].time_s,
    )


def _classify(packing: Packing, packed: Packed) -> str:
    if packed.counts > packing.counts(packing.node_of):
        return "better_optimal" if packed.is_proved else "better"
    return "default_optimal" if packed.is_proved else "failed"


def warm_up() -> None:
    """Compile the kernels, so that no instance pays for it."""
    instance = priority_instance(1, num_nodes=4, pods_per_node=4, num_priorities=2, util=1.0)
    packing = packing_of(instance, np.full(instance.num_pods, -1, np.int64))
    count = class_counts(packing)
    all_fit(packing.request, count, packing.free[:, 0], packing.num_nodes)
    best = repair(packing)
    Search(packing, best).run(np.zeros(len(packing.tiers), np.int64), rounds=1)
    Settling(packing_of(instance, best), best).run(rounds=1, temperature=0.1)
    PatternBound(packing, best, 0).improve(Deadline(0.2, time.perf_counter))
    patterns.warm_up()  # a tight bound asks for none


def run_cell(cell: Cell, seeds: Sequence[int], time_s: float, clock: str, threads: int = 1) -> CellResult:
    """All seeds of a cell, one after the other, on one thread or two."""
    with ThreadPoolExecutor(1) as pool:
        beside = pool if threads > 1 else None
        return CellResult(cell, time_s, clock, tuple(run_instance(cell, s, time_s, clock, beside) for s in seeds))


def reproduce(
    cells: Sequence[Cell],
    seeds: Sequence[int],
    *,
    time_s: float,
    jobs: int,
    work_dir: Path,
    clock: str = "wall",
    threads: int = 1,
    progress: Progress = untold,
) -> list[CellResult]:
    """All cells, in parallel processes; what the work folder already has is not run again."""
    if not time_s > 0:
        raise ConfigError(f"time limit {time_s} s leaves nothing to plan in; give more than 0 seconds")
    question = repr((code_version(), list(seeds), time_s, clock, threads))
    digest = hashlib.blake2b(question.encode(), digest_size=6).hexdigest()
    folder = work_dir / f"priority-matters-{digest}"
    found = {cell: left(folder, _key(cell)) for cell in cells}
    done = {cell: msgspec.convert(row, CellResult) for cell, row in found.items() if row is not None}
    missing = [cell for cell in cells if cell not in done]
    progress(len(done), len(cells))
    if missing:
        require("ortools")
        tasks = [(cell, seeds, time_s, clock, threads) for cell in missing]
        for _, result in in_processes(jobs, partial(_run_and_keep, folder), tasks, begin=warm_up):
            done[result.cell] = result
            progress(len(done), len(cells))
    return [done[cell] for cell in cells]


def _run_and_keep(folder: Path, cell: Cell, *setting: Any) -> CellResult:
    return msgspec.convert(kept(folder, _key(cell), lambda: msgspec.to_builtins(run_cell(cell, *setting))), CellResult)


def _key(cell: Cell) -> str:
    return f"{cell.nodes}x{cell.pods_per_node}-{cell.priorities}-{cell.util:.2f}"


def summary(results: Sequence[CellResult]) -> dict[str, object]:
    """The report: counts per cell, and the same summed over all cells."""
    cells = [{**msgspec.to_builtins(r.cell), **_counts(r.outcomes)} for r in results]
    return {
        "apiVersion": "ullage.dev/v1",
        "kind": "PriorityMatters",
        "time_s": results[0].time_s if results else 0.0,
        "clock": results[0].clock if results else "",
        "cells": cells,
        **_counts([o for r in results for o in r.outcomes]),
    }


def _counts(outcomes: Sequence[RescueTried]) -> dict[str, float]:
    def number(*kinds: str) -> int:
        return sum(o.outcome in kinds for o in outcomes)

    called = [o for o in outcomes if o.outcome != "no_call"]
    better = [o for o in called if o.outcome.startswith("better")]
    extra = sum(o.extra_pods for o in better)
    soon = sum(o.improved_s <= SOON_S for o in better)

    def mean(values: list[float]) -> float:
        return round(float(np.mean(values)), 4) if values else 0.0

    return {
        "instances": len(outcomes),
        "no_call": number("no_call"),
        "called": len(called),
        "improved": len(better),
        "default_optimal": number("default_optimal"),
        "failed": number("failed"),
        "proved": number("better_optimal", "default_optimal"),
        "improved_within_50ms": soon,
        "extra_pods": extra,
        "moves": sum(o.moves for o in better),
        "evictions": sum(o.evictions for o in better),
        "moves_per_pod": round(sum(o.moves for o in better) / extra, 4) if extra else 0.0,
        "usage_gain_pp": mean([o.cpu_gain_pp for o in called]),
        "memory_gain_pp": mean([o.memory_gain_pp for o in called]),
        "mean_final_s": mean([o.final_s for o in called]),
        "max_final_s": round(max((o.final_s for o in called), default=0.0), 4),
    }
