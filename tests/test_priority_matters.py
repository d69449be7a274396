"""The reproduction of "Priority Matters": golden instances, the default scheduler, outcome classes."""

from __future__ import annotations

import hashlib
from itertools import starmap
from pathlib import Path

import numpy as np
import pytest

from placement.errors import ConfigError, PlacementError
from simulator.planning.instances import PriorityInstance, priority_instance
from simulator.reproduce import priority
from simulator.reproduce.default_scheduler import PROFILE, DefaultScheduler, default_placement
from simulator.reproduce.priority import Cell, grid, packing_of, read_seeds, reproduce, run_cell, run_instance, summary

GOLDEN_SEED = 484806185843093489


def test_the_generator_is_bit_exact() -> None:
    instance = priority_instance(GOLDEN_SEED, num_nodes=4, pods_per_node=4, num_priorities=1, util=0.95)
    assert instance.replicas.tolist() == [4, 2, 2, 4, 1, 3]
    assert instance.request[0].tolist() == [427, 391, 828, 151, 553, 671]
    assert instance.allocatable.tolist() == [1926, 2103397777]
    ranked = priority_instance(GOLDEN_SEED, num_nodes=4, pods_per_node=4, num_priorities=4, util=0.95)
    assert ranked.priority.tolist() == [3, 2, 2, 3, 3, 2]


def test_default_scores_follow_the_published_arithmetic() -> None:
    """By hand: node 0 empty, node 1 with one sibling; least allocated 75 and 50, balanced and spread on top."""
    both = np.array([1000, 1000])
    instance = PriorityInstance(1, 2, np.array([2]), np.array([[300], [200]]), np.array([1]), both)
    scheduler = DefaultScheduler(instance)
    scheduler.bind(0, 1)
    least = [(70 + 80) // 2, (40 + 60) // 2]
    balance_after = [int((1 - abs(0.3 - 0.2) / 2) * 100), int((1 - abs(0.6 - 0.4) / 2) * 100)]
    balance_before = [100, int((1 - abs(0.3 - 0.2) / 2) * 100)]
    balanced = [50 + int((50 + a - b) / 2) for a, b in zip(balance_after, balance_before, strict=True)]
    counts = [2, round(1 * np.log(4) + 2)]
    spread = [100 * (max(counts) + min(counts) - c) // max(counts) for c in counts]
    scores = PROFILE.scores(scheduler.state.snapshot(), scheduler.spec(1))
    assert scores.tolist() == [a + b + 2 * c for a, b, c in zip(least, balanced, spread, strict=True)]
    assert scheduler.equals(1).tolist() == [0]


def test_large_clusters_are_looked_at_in_part_and_in_turn() -> None:
    """Of 200 nodes that all fit, 100 are looked at (48 %, at least 100), then the next ones."""
    instance = priority_instance(GOLDEN_SEED, num_nodes=200, pods_per_node=1, num_priorities=1, util=0.9)
    scheduler = DefaultScheduler(instance)
    assert [set(scheduler.equals(0).tolist()) for _ in range(3)] == [{*range(100)}, {*range(100, 200)}, {*range(100)}]


def test_the_default_scheduler_preempts_for_the_more_important() -> None:
    for seed in range(6):
        instance = priority_instance(seed, num_nodes=4, pods_per_node=8, num_priorities=4, util=1.05)
        node_of = default_placement(instance)
        packing = packing_of(instance, node_of)
        assert packing.violations(node_of) == []
        counts = packing.counts(node_of)
        top = int(instance.replicas[instance.priority == instance.priority.max()].sum())
        assert counts[0] == top, "whoever matters most finds room"


def test_the_default_scheduler_is_the_published_one() -> None:
    """Where pods are, digested, over sizes and priorities; ties come from the instance's own stream."""
    digest = hashlib.sha256()
    for seed in range(GOLDEN_SEED, GOLDEN_SEED + 12):
        nodes, priorities = (4, 8, 16)[seed % 3], (1, 2, 4)[seed % 3]
        instance = priority_instance(seed, num_nodes=nodes, pods_per_node=8, num_priorities=priorities, util=1.05)
        digest.update(default_placement(instance).tobytes())
    assert digest.hexdigest()[:12] == "0f4ba591d1b4"


def test_two_threads_place_what_one_does() -> None:
    """Sixteen pods: whoever searches finds the same counts at once."""
    one, two = (run_cell(Cell(4, 4, 1, 1.0), [GOLDEN_SEED], 0.4, "cpu", n).outcomes[0] for n in (1, 2))
    assert one.outcome.startswith("better")
    assert two.outcome.startswith("better")
    assert one.extra_pods == two.extra_pods >= 1


def test_an_instance_is_improved_and_checked() -> None:
    outcome = run_instance(Cell(4, 4, 1, 1.0), GOLDEN_SEED, 0.2)
    assert outcome.outcome in ("better", "better_optimal")
    assert outcome.extra_pods >= 1
    assert outcome.final_s >= outcome.improved_s


def test_finished_cells_are_not_run_again(tmp_path: Path) -> None:
    cells = [Cell(4, 4, 1, 0.9), Cell(4, 4, 1, 1.05)]
    first = reproduce(cells, [GOLDEN_SEED], time_s=0.05, jobs=1, work_dir=tmp_path)
    seen: list[tuple[float, float]] = []
    second = reproduce(
        cells, [GOLDEN_SEED], time_s=0.05, jobs=1, work_dir=tmp_path, progress=lambda d, t: seen.append((d, t))
    )
    assert first == second
    assert seen == [(2, 2)]
    report = summary(first)
    assert report["instances"] == 2
    assert {"called", "improved", "failed", "proved", "no_call", "usage_gain_pp", "moves_per_pod"} <= report.keys()


def test_a_folder_that_cannot_be_made_is_said_before_a_cell_is_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(priority, "run_cell", lambda *_: pytest.fail("it was run"))
    monkeypatch.setattr(priority, "in_processes", lambda _jobs, work, tasks, **_: enumerate(starmap(work, tasks)))
    (tmp_path / "gone").symlink_to("nowhere/at/all")
    with pytest.raises(PlacementError, match="cannot be used"):
        reproduce([Cell(4, 4, 1, 0.9)], [GOLDEN_SEED], time_s=0.05, jobs=1, work_dir=tmp_path / "gone")


def test_the_published_grid_has_96_cells() -> None:
    assert len(grid()) == 96


def test_a_bad_seed_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "seeds.txt"
    path.write_text("12\nabc\n")
    with pytest.raises(ConfigError, match=r"line 2: 'abc' is not a seed"):
        read_seeds(path)


def test_a_seeds_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "seeds.txt"
    path.write_bytes(b"\xff\xfe12")
    with pytest.raises(ConfigError, match=r"seeds\.txt: .*can't decode byte 0xff.*one integer per line"):
        read_seeds(path)
