"""Policies in a replay: planned windows, consolidation at intervals, the cost of moves."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from placement.errors import ConfigError
from placement.nodes import NodeSpec
from placement.planning.gathering import Terms
from placement.pods import PodSpec
from placement.rates import Rates
from placement.strategies import strategy_named
from simulator.cost import PriceBook, shape
from simulator.delivery import DELIVERIES, Delivery
from simulator.fleet import Elastic
from simulator.measures import measure
from simulator.planning.policies import Consolidation, Promise
from simulator.replay import Replay, ReplayOptions
from simulator.traces.trace import Trace

BOOK = PriceBook({s.name: s for s in (shape("small", 4, 16), shape("large", 16, 64))}, Rates())
HOUR_S = 3600


def waves(num: int = 120, seed: int = 3) -> Trace:
    """Pods that come in the first hour; most leave in the second, and few nodes would do for the rest."""
    rng = np.random.default_rng(seed)
    specs = tuple(
        PodSpec(request=(("cpu", cpu), ("memory", gib << 30)), owner=f"ReplicaSet/default/{cpu}")
        for cpu, gib in ((250, 1), (500, 1), (1000, 4), (2000, 4))
    )
    arrival = np.sort(rng.integers(0, HOUR_S, num))
    stays = rng.random(num) < 0.25
    departure = np.where(stays, 8 * HOUR_S, arrival + rng.integers(HOUR_S // 2, 2 * HOUR_S, num))
    rows = zip(arrival.tolist(), departure.tolist(), rng.integers(len(specs), size=num).tolist(), strict=True)
    return Trace.of("waves", (), [(f"p{i:03d}", specs[c], a, d) for i, (a, d, c) in enumerate(rows)])


def run(policy: Consolidation | None, delivery: str = "decide", strategy: str = "kube-default") -> dict[str, float]:
    options = ReplayOptions(
        elastic=Elastic(tuple(BOOK.shapes.values())),
        end_s=6 * HOUR_S,
        delivery=DELIVERIES[delivery],
        policies=() if policy is None else (policy,),
    )
    trace = waves()
    metrics: dict[str, float] = measure(Replay(trace, strategy_named(strategy), options).run(), trace, BOOK)["metrics"]
    return metrics


@pytest.mark.parametrize("kind", ["planned", "karpenter-prefix"])
def test_consolidation_saves_money_and_loses_no_pod(kind: str) -> None:
    policy = Consolidation(kind, BOOK, moves_share=1.0)
    without, with_policy = run(None), run(policy)
    assert with_policy["usd"] < without["usd"]
    assert with_policy["placed"] == without["placed"] == 120
    moves = sum(p.moves for p in policy.promises)
    assert with_policy["evictions"] == moves > 0
    assert sum(p.refused for p in policy.promises) == 0
    bounds = [p.bound for p in policy.promises]
    assert bounds
    if kind == "karpenter-prefix":
        assert set(bounds) == {None}, "nothing is proved of the prefix search"
    else:
        assert all(b is not None and p.usd_per_hour <= b + 1e-9 for p, b in zip(policy.promises, bounds, strict=True))


def test_a_descheduler_empties_nodes_under_the_threshold_for_a_scheduler_that_packs() -> None:
    policy = Consolidation("descheduler", BOOK, moves_share=1.0, every_s=600)
    without, with_policy = run(None, strategy="most-allocated"), run(policy, strategy="most-allocated")
    assert with_policy["evictions"] == sum(p.moves for p in policy.promises) > 0
    assert with_policy["usd"] <= without["usd"]
    assert with_policy["placed"] == 120


def test_planned_consolidation_costs_no_more_than_the_prefix_search() -> None:
    costs = {k: run(Consolidation(k, BOOK, moves_share=0.2))["usd"] for k in ("planned", "karpenter-prefix")}
    assert costs["planned"] <= costs["karpenter-prefix"]


def test_a_move_costs_its_restart_and_the_work_since_the_checkpoint() -> None:
    service = Consolidation("planned", BOOK, moves_share=1.0, restart_s=60)
    job = replace(service, checkpoint_s=10**6, promises=[])
    lost = [run(policy)["lost_pod_hours"] for policy in (service, job)]
    moves = sum(p.moves for p in service.promises)
    assert lost[0] == pytest.approx(moves * 60 / HOUR_S, abs=1e-5)
    assert lost[1] > lost[0]


def test_a_policy_that_has_used_its_acts_changes_nothing() -> None:
    policy = Consolidation("planned", BOOK, last_act=0)
    assert run(policy) == run(None)
    assert policy.promises == []


def test_pods_of_a_window_are_planned_together_and_all_placed() -> None:
    one_by_one, planned = run(None, strategy="best-fit"), run(None, "nominate", "best-fit")
    assert planned["placed"] == one_by_one["placed"] == 120
    assert planned["usd"] <= one_by_one["usd"] * 1.05
    assert planned["pending_s_p50"] >= 1  # a window takes its time


def test_a_window_is_closed_after_ten_seconds_or_when_nobody_came_for_five() -> None:
    """As the nominator closes its batches (``tests/test_nominator.py``)."""
    spec = PodSpec(request=(("cpu", 100),), owner="ReplicaSet/default/a")
    node = NodeSpec("n", (("cpu", 64_000), ("memory", 2**40), ("pods", 110)))
    came = (0, 4, 20, 24, 28, 35, 40)
    trace = Trace.of("bursts", (node,), [(f"p{i}", spec, at, 1000) for i, at in enumerate(came)])
    gated = Delivery("nominate", gate=Terms(window_s=10))
    replay = Replay(trace, strategy_named("best-fit"), ReplayOptions(delivery=gated))
    replay.run()
    assert [replay.placed_s[pod] for pod in range(len(came))] == [9, 9, 30, 30, 30, 40, 45]


def test_room_that_is_likely_to_be_missed_stays() -> None:
    bare = Consolidation("planned", BOOK, moves_share=1.0, history_s=6 * HOUR_S)
    kept = Consolidation("planned", BOOK, moves_share=1.0, history_s=6 * HOUR_S, least_saved=1.0)
    assert run(kept)["node_hours"] > run(bare)["node_hours"]


def test_a_plan_promises_no_more_than_the_price_of_what_goes() -> None:
    policy = Consolidation("planned", BOOK, moves_share=1.0, history_s=6 * HOUR_S)
    run(policy)
    assert policy.promises
    for promise in policy.promises:
        assert promise.usd_per_hour <= promise.price + 1e-9
        assert promise.bound is not None
        assert promise.usd_per_hour <= promise.bound + 1e-9


class Racing:
    """A wall clock that jumps ten seconds at every look, as on a machine with other work to do."""

    def __init__(self) -> None:
        self.now_s = 1e6

    def __call__(self) -> float:
        self.now_s += 10.0
        return self.now_s


@pytest.mark.parametrize("delivery", ["decide", "nominate"])
def test_a_replay_repeats_whatever_else_the_machine_does(delivery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def once() -> tuple[dict[str, float], list[Promise]]:
        policy = Consolidation("planned", BOOK, moves_share=1.0, every_s=900, history_s=2 * HOUR_S)
        return run(policy, delivery), policy.promises

    idle = once()
    for name in ("perf_counter", "monotonic", "time", "process_time"):
        monkeypatch.setattr(time, name, Racing())
    assert once() == idle
    assert idle[1]


def test_nodes_that_stay_because_a_move_was_refused_are_not_counted_as_gone() -> None:
    class Firm(Replay):
        def migrate(self, uid: str, row: int, *, restart_s: int, checkpoint_s: int) -> bool:
            return False

    policy = Consolidation("planned", BOOK, moves_share=1.0)
    options = ReplayOptions(elastic=Elastic(tuple(BOOK.shapes.values())), end_s=6 * HOUR_S, policies=(policy,))
    Firm(waves(), strategy_named("kube-default"), options).run()
    assert sum(p.refused for p in policy.promises) > 0
    assert {(p.deleted, p.price, p.moves) for p in policy.promises} == {(0, 0.0, 0)}


def test_consolidation_of_a_fixed_fleet_is_refused_with_the_way_out() -> None:
    trace = waves().but(nodes=tuple(BOOK.shapes["large"].node(f"n{i}") for i in range(9)))
    options = ReplayOptions(policies=(Consolidation("planned", BOOK),))
    with pytest.raises(ConfigError, match="elastic fleet"):
        Replay(trace, strategy_named("best-fit"), options).run()


def test_unknown_policies_and_intervals_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown policy 'magic'"):
        Consolidation("magic", BOOK)
    with pytest.raises(ConfigError, match="at least one second"):
        Consolidation("planned", BOOK, every_s=0)
