"""Autoscalers that buy for all who wait together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from placement.errors import ConfigError
from placement.owners import HOSTNAME
from placement.pods import GpuRequest, HostPort, PodRules, PodSpec, PodTerm, Requirement, Spread
from placement.rates import Rates
from placement.strategies import STRATEGIES
from simulator.cost import PriceBook, shape
from simulator.fleet import Autoscaler, Elastic, Shape
from simulator.planning.buying import Buyer, autoscaler
from simulator.planning.replays import Question, replay_row
from simulator.replay import Replay, ReplayOptions
from simulator.traces.trace import Trace
from tests.test_policies import waves

SHAPES = (
    shape("small", 4, 16),
    shape("large", 16, 64),
    shape("memory", 16, 256),
    shape("gpu", 16, 64, gpus=2, model="T4"),
)
PURCHASES = ("default", "ffd", "planned", "foreseen")


def pod(cpu: int, gib: int, **more: object) -> PodSpec:
    return PodSpec(request=(("cpu", cpu), ("memory", gib << 30)), **more)  # type: ignore[arg-type]  # by name


def ordered(buys: str, pending: list[tuple[PodSpec, int]], shapes: tuple[Shape, ...] = SHAPES) -> list[str]:
    return sorted(node.shape for node, _ in autoscaler(Elastic(shapes, buys=buys)).order(pending, 0))


def usd(names: list[str]) -> float:
    prices = {s.name: s.usd_per_hour for s in SHAPES}
    return sum(prices[name] for name in names)


def test_pods_with_much_memory_get_nodes_with_much_memory() -> None:
    pending = [(pod(2000, 30), 14)]
    costs = {buys: usd(ordered(buys, pending)) for buys in PURCHASES}
    assert costs["planned"] <= costs["ffd"] < costs["default"]
    assert set(ordered("planned", pending)) == {"memory"}


@pytest.mark.parametrize("buys", ["ffd", "planned", "foreseen"])
def test_nodes_with_devices_are_bought_only_for_pods_that_ask_for_one(buys: str) -> None:
    assert "gpu" not in ordered(buys, [(pod(3000, 4), 9)])
    assert ordered(buys, [(pod(3000, 4, gpu=GpuRequest(1)), 4)]) == ["gpu", "gpu"]


APART = PodRules(anti_affinity=(PodTerm(HOSTNAME, (Requirement("app", "In", ("a",)),)),))


@pytest.mark.parametrize(
    ("rules", "nodes"),
    [
        (APART, 3),
        (PodRules(host_ports=(HostPort(80),)), 3),
        (PodRules(max_per_node=2), 2),
        (replace(APART, anti_affinity=(replace(APART.anti_affinity[0], topology_key="zone"),)), 1),
        (replace(APART, anti_affinity=(PodTerm(HOSTNAME, (Requirement("app", "In", ("b",)),)),)), 1),
    ],
)
@pytest.mark.parametrize("buys", PURCHASES)
def test_pods_that_share_no_node_are_bought_one_each(buys: str, rules: PodRules, nodes: int) -> None:
    """At once, and counted so on what is booting: the next scan buys nothing."""
    scaler = autoscaler(Elastic(SHAPES, buys=buys))
    pending = [(pod(1000, 4, labels=(("app", "a"),), pod_rules=rules), 3), (pod(500, 2), 1)]
    assert len(scaler.order(pending, 0)) == nodes
    assert scaler.order(pending, 10) == []


TOGETHER = PodRules(affinity=(PodTerm(HOSTNAME, (Requirement("app", "In", ("a",)),)),))
OTHERS = PodRules(affinity=(PodTerm(HOSTNAME, (Requirement("app", "In", ("b",)),)),))
ZONE = PodTerm("topology.kubernetes.io/zone", (Requirement("app", "In", ("a",)),))
SPREAD = Spread(ZONE.topology_key, 1, hard=True, selector=ZONE.selector)


@pytest.mark.parametrize(
    ("rules", "nodes", "placed"),
    [
        (TOGETHER, 1, 3),
        (OTHERS, 0, 0),
        (PodRules(affinity=(ZONE,)), 0, 0),
        (PodRules(anti_affinity=(ZONE,)), 2, 5),
        (PodRules(spread=(SPREAD,)), 0, 0),
        (PodRules(spread=(replace(SPREAD, topology_key=HOSTNAME),)), 2, 5),
    ],
)
@pytest.mark.parametrize("buys", PURCHASES)
def test_nobody_buys_again_and_again_for_pods_that_no_new_node_helps(
    buys: str, rules: PodRules, nodes: int, placed: int
) -> None:
    """A node holds three; nodes that are bought have a host name and no zone. Idle ones go after ten minutes."""
    spec = pod(1000, 4, labels=(("app", "a"),), pod_rules=rules)
    trace = Trace.of("tied", (), [(f"p{i}", spec, 0, 9_000) for i in range(5)])
    options = ReplayOptions(elastic=Elastic(SHAPES[:1], buys=buys), end_s=5_000)
    outcome = Replay(trace, STRATEGIES["best-fit"], options).run()
    assert (len(outcome.node_names), outcome.num_placed) == (nodes, placed)


@pytest.mark.parametrize(("limit", "rules"), [(1, PodRules()), (0, TOGETHER)])
@pytest.mark.parametrize("buys", PURCHASES)
def test_a_gang_that_bought_nodes_do_not_help_is_bought_for_more_and_more_seldom(
    buys: str, limit: int, rules: PodRules
) -> None:
    """Five pods of which a node holds three: one node is sold, or all must share one. Nodes go after ten minutes."""
    spec = pod(1000, 4, labels=(("app", "a"),), pod_rules=rules)
    trace = Trace.of("gang", (), [(f"p{i}", spec, 0, 90_000) for i in range(5)] + [("late", pod(1, 1), 86_000, 86_001)])
    trace = trace.but(pods=replace(trace.pods, gang=np.array([0] * 5 + [-1])))
    shapes = (replace(SHAPES[0], limit=limit),)

    def nodes(end_s: int) -> int:
        options = ReplayOptions(elastic=Elastic(shapes, buys=buys), end_s=end_s)
        return len(Replay(trace, STRATEGIES["best-fit"], options).run().node_names)

    day, hour = nodes(86_000), nodes(3_600)
    assert 0 < hour <= day <= 4 * hour


@pytest.mark.parametrize("buys", PURCHASES)
def test_a_gang_is_bought_for_while_nodes_of_others_go(buys: str) -> None:
    """Every five seconds, from before the gang comes until half an hour later, a node goes that has stood empty."""
    small, gpu = SHAPES[0], SHAPES[3]
    others = [(f"s{i}", pod(3000, 4), 0, 300 + 5 * i) for i in range(400)]
    gang = [(f"g{i}", pod(12_000, 30, gpu=GpuRequest(1)), 1_203, 5_000) for i in range(2)]
    trace = Trace.of("going", (), [*others, *gang])
    trace = trace.but(pods=replace(trace.pods, gang=np.array([-1] * len(others) + [0, 0])))
    replay = Replay(trace, STRATEGIES["best-fit"], ReplayOptions(elastic=Elastic((small, gpu), buys=buys)))
    replay.run()
    assert all(0 <= replay.placed_s[i] - 1_203 < 120 for i in (-2, -1))


@pytest.mark.parametrize("buys", ["ffd", "planned", "foreseen"])
def test_who_fits_on_what_is_booting_buys_nothing_and_who_fits_nowhere_neither(buys: str) -> None:
    scaler = autoscaler(Elastic(SHAPES, buys=buys))
    assert isinstance(scaler, Buyer)
    pending = [(pod(3000, 4), 8)]
    first = scaler.order(pending, 0)
    assert first
    assert scaler.order(pending, 10) == []
    assert scaler.order([(pod(99_000, 4), 3)], 20) == []


@pytest.mark.parametrize("buys", PURCHASES)
def test_limits_hold(buys: str) -> None:
    limited = tuple(Shape(s.name, s.allocatable, s.usd_per_hour, limit=2) for s in SHAPES[:2])
    bought = ordered(buys, [(pod(3000, 4), 6)], limited)
    assert bought
    assert max(bought.count("small"), bought.count("large")) <= 2


def test_purchases_in_replay_place_everybody_and_repeat() -> None:
    book = PriceBook({s.name: s for s in SHAPES}, Rates())
    for buys in PURCHASES:
        question = Question("best-fit", "none", buys=buys, end_s=20_000)
        row = replay_row(waves(), book, question)
        assert row["placed"] == 120
        assert row == replay_row(waves(), book, question)


def test_an_unknown_purchase_is_refused() -> None:
    with pytest.raises(ConfigError, match="'magic'"):
        Elastic(SHAPES, buys="magic")
    assert type(autoscaler(Elastic(SHAPES))) is Autoscaler


def test_who_is_to_come_decides_between_shapes_that_cost_those_who_wait_the_same() -> None:
    shapes = (shape("lean", 8, 16), shape("broad", 8, 64))
    lean, broad = (Shape(s.name, s.allocatable, 1.0) for s in shapes)
    pending, hungry = [(pod(3000, 4), 1)], pod(3000, 30)
    for order in ((lean, broad), (broad, lean)):
        scaler = autoscaler(Elastic(order, buys="foreseen"))
        assert [node.shape for node, _ in scaler.order(pending, 0, [(hungry, 1)])] == ["broad"]
    one = autoscaler(Elastic((lean, broad), buys="foreseen"))
    assert len(one.order(pending, 0, [(hungry, 40)])) == 1, "only for who waits"


def test_who_foresees_values_room_beside_pods_that_keep_apart() -> None:
    small, large = (Shape(s.name, s.allocatable, usd) for s, usd in zip(SHAPES, (1.0, 3.2), strict=False))
    pending = [(pod(3500, 4, labels=(("app", "a"),), pod_rules=APART), 8)]
    assert ordered("foreseen", pending, (small, large)) == ["large"] * 5 + ["small"] * 3, (
        "for the last three it is not worth it"
    )
    assert ordered("planned", pending, (small, large)) == ["small"] * 8


def test_a_buyer_that_foresees_sees_only_what_came_of_late() -> None:
    trace = waves()
    seen: list[tuple[int, int, int]] = []

    class Watched(Replay):
        def _came(self, settings: Elastic) -> list[tuple[PodSpec, int]]:
            came = super()._came(settings)
            arrivals = self.trace.pods.arrival_s
            late = arrivals > self.time_s - settings.foresees_s
            least, most = ((late & (arrivals < self.time_s + s)).sum() for s in (0, 1))
            seen.append((int(least), sum(num for _, num in came), int(most)))
            return came

    options = ReplayOptions(elastic=Elastic(SHAPES, buys="foreseen", foresees_s=60))
    Watched(trace, STRATEGIES["best-fit"], options).run()
    assert seen
    assert all(least <= came <= most for least, came, most in seen), "who comes in this second may not be here yet"
