"""``ullage reproduce empty-nodes`` on made-up arrivals: what is drawn, what is counted, and on which fleet."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from placement.errors import ConfigError
from placement.pods import GpuRequest, PodRules, PodSpec
from placement.resources import CPU, MEMORY
from placement.strategies import STRATEGIES
from simulator.cli.reproduce_replays import empty_nodes_command
from simulator.replay import Replay, ReplayOptions
from simulator.reproduce import emptying as em
from simulator.reproduce.emptying import (
    CELLS,
    SET_UPS,
    Days,
    applications,
    batches,
    cell,
    drawn,
    judged,
    most_occupied,
    needed,
    window,
)
from simulator.traces.trace import NEVER, Pods, Trace
from simulator.usage.lifetime_learner import LifetimeLearner

GIB = 2**30
DAYS = Days(129_600, 10_000_000)


def fleet(num_nodes: int) -> em.Fleet:
    return em.ARRIVALS["azure"].fleet(64, num_nodes)


def made(num: int = 300) -> Trace:
    """Pairs, of which one in five stays for long."""
    rng = np.random.default_rng(1)
    sizes = [PodSpec(((CPU, cores * 1000), (MEMORY, 2 * cores * GIB))) for cores in (2, 8, 16)]
    arrival = np.repeat(np.arange(num // 2) * 1800, 2)
    pods = Pods.of(
        name=np.array([f"p{i}" for i in range(num)], object),
        spec=rng.integers(0, 3, num),
        arrival_s=arrival,
        departure_s=arrival + np.where(np.arange(num) % 5, rng.integers(600, 9000, num), 60_000),
        gang=np.arange(num) // 2,
    )
    return Trace.of("t", [], [(str(i), size, 0, 10) for i, size in enumerate(sizes)]).but(pods=pods)


@pytest.fixture(scope="module")
def pods() -> em.Pods:
    azure = replace(em.ARRIVALS["azure"], judged=DAYS, every_s=600)
    return em.gathered(made(), azure, 1, 0, tuning=False)


def test_batches_of_equal_make_up_have_one_owner_for_each_size() -> None:
    trace = made()
    kept, alone = (drawn(trace, batches(trace), 1, 0, alone=alone) for alone in (False, True))
    pairs = {tuple(sorted(pair)) for pair in trace.pods.spec.reshape(-1, 2).tolist()}
    assert len({spec.owner for spec in kept.specs}) == sum(len(set(pair)) for pair in pairs)
    assert len({spec.owner for spec in alone.specs}) == len(trace.pods)
    half = drawn(trace, batches(trace), 0.5, 0)
    names = set(half.pods.name.tolist())
    assert 0 < len(names) < len(trace.pods)
    assert all((f"p{2 * i}" in names) == (f"p{2 * i + 1}" in names) for i in range(150))


def test_applications_own_their_instances_and_those_with_a_gpu_are_left_out() -> None:
    limited = PodRules(max_per_node=2)
    classes = [
        PodSpec(((CPU, 1000),), owner="Application/a", pod_rules=limited),
        PodSpec(((CPU, 1000),), GpuRequest(1), owner="Application/a"),
        PodSpec(((CPU, 2000),), owner="Application/b"),
    ]
    trace = Trace.of("t", [], [(str(i), spec, i, 10) for i, spec in enumerate([*classes, classes[0]])])
    kept = drawn(trace, applications(trace), 1, 0)
    assert kept.pods.name.tolist() == ["0", "2", "3"]
    assert len(kept.specs) == 2
    assert {spec.pod_rules.max_per_node for spec in kept.specs} == {0}


def test_a_share_that_leaves_nobody_is_refused() -> None:
    trace = made()
    with pytest.raises(ConfigError, match=r"of 0 pods that are replayed none arrives after the first 1\.5 days"):
        window(drawn(trace, batches(trace), 1e-9, 0), DAYS)


@pytest.mark.parametrize(
    ("strategy", "lifetimes"),
    [("best-fit", "none"), ("nilas", "learned"), ("ullage", "learned"), ("exit-times", "true")],
)
def test_what_is_occupied_does_not_depend_on_how_many_nodes_are_left(
    strategy: str, lifetimes: str, pods: em.Pods
) -> None:
    few, many = (cell(pods, strategy, lifetimes, fleet(num)) for num in (12, 40))
    for key in ("most_occupied_nodes", "waited", "pods"):
        assert few[key] == many[key]
    assert few["occupied_nodes"] == pytest.approx(many["occupied_nodes"], abs=1e-6)
    least = needed(pods.owned, fleet(110), DAYS)
    assert 0 < least.mean < few["occupied_nodes"] < few["most_occupied_nodes"] < 12
    assert least.most <= few["most_occupied_nodes"]
    assert few["waited"] == 0


def test_the_least_fleet_is_one_on_which_nobody_waits_and_on_one_node_less_somebody_does(pods: em.Pods) -> None:
    most = cell(pods, "best-fit", "none", fleet(40))["most_occupied_nodes"]
    enough, less = (cell(pods, "best-fit", "none", fleet(num))["waited"] for num in (most, most - 1))
    assert enough == 0 < less


@pytest.mark.parametrize("strategy", ["nilas", "ullage"])
def test_what_was_learned_with_best_fit_is_what_each_strategy_would_have_learned(strategy: str, pods: em.Pods) -> None:
    told = cell(pods, strategy, "learned", fleet(12))
    trace = pods.owned.but(nodes=fleet(12).nodes())
    own = em.Recorder(LifetimeLearner(pods.every_s))
    end_s = window(trace, DAYS)[1]
    options = ReplayOptions(policies=(own,), warmup_s=DAYS.warm_up_s, end_s=end_s)
    outcome = Replay(trace, STRATEGIES[strategy], options).run()
    assert [known.lifetimes for known in own.versions] == list(pods.lifetimes)
    assert 12 - outcome.timeline.empty_node_s / outcome.timeline.measured_s == pytest.approx(
        told["occupied_nodes"], abs=1e-6
    )


def test_told_alike_a_strategy_goes_by_ages_and_not_by_what_was_learned(pods: em.Pods) -> None:
    forgotten = pods._replace(lifetimes=[None] * len(pods.lifetimes))
    found = [cell(which, "ullage", "alike", fleet(12))["occupied_nodes"] for which in (pods, forgotten)]
    assert found[0] == found[1]
    assert found[0] != cell(pods, "best-fit", "none", fleet(12))["occupied_nodes"]


def test_nodes_that_are_occupied_at_once_are_counted_one_by_one() -> None:
    trace = made().but(nodes=fleet(40).nodes())
    pods = trace.pods
    brief = pods.of(
        name=pods.name,
        spec=pods.spec,
        arrival_s=pods.arrival_s,
        departure_s=np.where(np.arange(len(pods)) % 7, pods.departure_s, pods.arrival_s),
    )
    trace = trace.but(pods=brief)
    end_s = int(pods.arrival_s[-1])
    outcome = Replay(trace, STRATEGIES["first-fit"], ReplayOptions(end_s=end_s, warmup_s=3600)).run()
    moments = [
        len(set(outcome.node_of[(pods.arrival_s <= t) & ((brief.departure_s > t) | (pods.arrival_s == t))].tolist()))
        for t in set(pods.arrival_s.tolist())
    ]
    assert most_occupied(outcome, trace, end_s) == max(moments) > 3


def test_no_fewer_nodes_can_be_occupied_than_requests_need() -> None:
    big, small = (PodSpec(((CPU, cpu), (MEMORY, GIB)), owner=name) for name, cpu in (("big", 64_000), ("small", 1000)))
    warm_up_s = DAYS.warm_up_s
    pods = Pods.of(
        name=np.array(["a", "b", "c", "end"], object),
        spec=np.array([0, 1, 1, 1]),
        arrival_s=np.array([0, 0, warm_up_s + 500, warm_up_s + 1000]),
        departure_s=np.array([warm_up_s + 300, NEVER, warm_up_s + 900, NEVER]),
    )
    trace = Trace.of("t", [], [("x", big, 0, 10), ("y", small, 0, 10)]).but(pods=pods)
    assert trace.specs == (big, small)
    found = needed(trace, fleet(110), DAYS)
    assert found.mean == pytest.approx((2 * 300 + 1 * 700) / 1000)
    assert found.most == 2


def test_points_are_shares_of_the_least_fleet_on_which_nobody_waits_whoever_decides() -> None:
    rows = [
        {
            "strategy": strategy,
            "lifetimes": lifetimes,
            "seed": seed,
            "occupied_nodes": 6.0 + seed - (strategy == "ullage") * (1 + seed),
            "most_occupied_nodes": 10 if strategy == "exit-times" else 8,
            "waited": 0,
            "pods": 5,
        }
        for strategy, lifetimes in CELLS
        for seed in (0, 1)
    ]
    found = judged(rows, {0: 4.5, 1: 5.0}, None)
    ours = next(row for row in found["cells"] if (row["strategy"], row["lifetimes"]) == ("ullage", "learned"))
    assert found["nodes"] == 10
    assert found["most_points"] == pytest.approx(17.5)
    assert (ours["points"], ours["points_low"], ours["points_high"]) == (15, 10, 20)
    assert ours["empty_share"] == 0.5
    assert ours["freed_of_occupied"] == pytest.approx((1 / 6 + 2 / 7) / 2)
    assert judged(rows, {0: 4.5, 1: 5.0}, 20)["most_points"] == pytest.approx(8.75)


def _asked(*words: str) -> Result:
    return CliRunner().invoke(empty_nodes_command, [*words, "-q", "-o", "json"])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two days of pairs of VMs, as Azure's are recorded."""
    folder = tmp_path / "azure-v1-vms"
    folder.mkdir()
    (folder / "flav_map.txt").write_text("2,4 a\n8,16 b\n")
    (folder / "v1.interval_map.txt").write_text("3000 1\n40000 2\n")
    times = range(0, 180_000, 900)
    for name, tokens in (("v1.dev", ("a,a,|", "b,a,|")), ("v1.dev.c2100000", ("U1,U1,|", "U2,U1,|"))):
        lines = [f"{t} {tokens[i % 3 == 0]}" for i, t in enumerate(times)]
        with gzip.open(folder / f"{name}.txt.gz", "wt") as file:
            file.write("\n".join(lines) + "\n")
    return tmp_path


def test_set_ups_are_judged_cell_by_cell_and_what_has_no_recording_is_named(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(em, "CELLS", (("best-fit", "none"), ("exit-times", "true")))
    run = _asked(
        "--data", str(recording), "--share", "1", "--seeds", "1", "--set-up", "azure-32", "--set-up", "dlrm-208"
    )
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert list(found["set_ups"]) == ["azure-32"]
    assert "there is no folder alibaba-dlrm-2025" in found["omitted"]["dlrm-208"]
    assert "left out: dlrm-208" in run.stderr
    set_up = found["set_ups"]["azure-32"]
    assert [row["strategy"] for row in set_up["cells"]] == ["best-fit", "exit-times"]
    assert set_up["cells"][0]["points"] == 0 <= set_up["most_points"]
    assert set_up["nodes"] == max(row["most_occupied_nodes"] for row in set_up["rows"])
    assert all(row["waited"] == 0 for row in set_up["rows"])
    small = _asked("--data", str(recording), "--share", "1", "--seeds", "1", "--set-up", "azure-32", "--nodes", "1")
    assert "--nodes 1: azure-32 needs" in str(small.exception)


def test_a_set_up_that_is_unknown_is_refused_before_the_work(tmp_path: Path) -> None:
    run = _asked("--data", str(tmp_path), "--set-up", "azure-65")
    assert "--set-up azure-65: there is none of that name; " in str(run.exception)
    assert set(SET_UPS) == {"azure-32", "azure-64", "azure-128", "dlrm-208", "dlrm-416"}
