"""The autoscaler: what it buys for whom, against first fit one pod at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.errors import ConfigError
from placement.owners import HOSTNAME
from placement.pods import NodeRules, PodSpec
from placement.resources import CPU, MEMORY, PODS
from placement.strategies import STRATEGIES
from simulator.delivery import DELIVERIES
from simulator.fleet import Autoscaler, Elastic, Shape
from simulator.replay import Replay, ReplayOptions
from simulator.traces.trace import Trace


def sold(name: str, cores: int, gib: int, usd: float) -> Shape:
    amounts = ((CPU, cores * 1000), (MEMORY, gib), (PODS, 4))
    return Shape(name, amounts, usd, spot_usd_per_hour=usd / 4)


SHAPES = (
    sold("small", 2, 8, 3.0),
    replace(sold("large", 8, 16, 8.0), limit=2, boot_s=100),
    sold("dear", 8, 64, 20.0),
)
"""Per core: large, small, dear; large is limited."""


@st.composite
def pending(draw: st.DrawFn) -> list[tuple[PodSpec, int]]:
    """Classes, each in number; some fit no shape, or want a label that none has."""
    found = {}
    for _ in range(draw(st.integers(1, 4))):
        amounts = ((CPU, 1000 * draw(st.integers(0, 9))), (MEMORY, draw(st.integers(0, 65))))
        rules = NodeRules(node_selector=draw(st.sampled_from([(), (), (), (("kind", "small"),)])))
        found[PodSpec(amounts, node_rules=rules)] = draw(st.integers(1, 6))
    return list(found.items())


def holds(shape: Shape, spec: PodSpec) -> bool:
    offered = dict(shape.allocatable)
    fits = all(offered.get(name, 0) >= amount for name, amount in spec.amounts.items())
    return fits and not spec.node_rules.node_selector


def first_fit(waiting: list[tuple[PodSpec, int]]) -> list[str]:
    """Shapes bought, in order, when each pod takes the first node on its way with room, or the cheapest one per core."""
    cheapest = [SHAPES[1], SHAPES[0], SHAPES[2]]
    bought: list[tuple[Shape, dict[str, int]]] = []
    for spec, num in waiting:
        for _ in range(num):
            asks = {**spec.amounts, PODS: 1}
            able = (free for shape, free in bought if holds(shape, spec))
            node = next((free for free in able if all(free[r] >= a for r, a in asks.items() if a)), None)
            if node is None:
                left = (s for s in cheapest if not s.limit or sum(b is s for b, _ in bought) < s.limit)
                shape = next((s for s in left if holds(s, spec)), None)
                if shape is None:
                    break
                node = dict(shape.allocatable)
                bought.append((shape, node))
            for name, amount in asks.items():
                node[name] -= amount
    return [shape.name for shape, _ in bought]


@settings(deadline=None)
@given(pending())
def test_nodes_are_bought_as_first_fit_would_and_once_for_those_who_wait(waiting: list[tuple[PodSpec, int]]) -> None:
    scaler = Autoscaler(Elastic(SHAPES))
    orders = scaler.order(waiting, 1000)
    boots = {shape.name: shape.boot_s for shape in SHAPES}
    assert [node.shape for node, _ in orders] == first_fit(waiting)
    assert [ready_s for node, ready_s in orders] == [1000 + boots[node.shape] for node, _ in orders]
    assert len({node.name for node, _ in orders}) == len(orders)
    assert all(node.labels == ((HOSTNAME, node.name),) for node, _ in orders)
    assert scaler.order(waiting, 1059) == [], "all of it is on its way"


@pytest.mark.parametrize(("share", "num"), [(0.0, 0), (0.3, 3), (0.5, 5), (1.0, 10)])
def test_spot_nodes_are_evenly_spread_among_those_that_are_bought(share: float, num: int) -> None:
    scaler = Autoscaler(Elastic((SHAPES[0],), spot_share=share))
    pods = [(PodSpec(((CPU, 2000),)), 10)]
    spot = [node.spot for node, _ in scaler.order(pods, 0)]
    assert sum(spot) == num
    assert all(abs(sum(spot[:n]) - share * n) < 1 for n in range(11))
    unsold = replace(SHAPES[0], spot_usd_per_hour=0.0)
    assert not any(node.spot for node, _ in Autoscaler(Elastic((unsold,), spot_share=share)).order(pods, 0))


def test_a_node_that_has_come_is_not_on_its_way_any_more() -> None:
    scaler = Autoscaler(Elastic((SHAPES[0],)))
    pods = [(PodSpec(((CPU, 2000),)), 1)]
    assert [ready_s for _, ready_s in scaler.order(pods, 0)] == [60]
    assert scaler.order(pods, 59) == []
    assert [ready_s for _, ready_s in scaler.order(pods, 60)] == [120], "who waits still has no room on it"


def test_a_limit_counts_nodes_that_are_there_and_those_that_went_make_room() -> None:
    scaler = Autoscaler(Elastic((replace(SHAPES[0], limit=2),)))
    pods = [(PodSpec(((CPU, 2000),)), 5)]
    assert len(scaler.order(pods, 0)) == 2
    assert scaler.order(pods, 500) == []
    scaler.gone("small")
    assert len(scaler.order(pods, 500)) == 1


def test_a_shape_costs_what_it_is_sold_for() -> None:
    shape = Shape("s", ((CPU, 1000),), 2.0, spot_usd_per_hour=0.5)
    assert [shape.price(spot=spot) for spot in (False, True)] == [2.0, 0.5]
    assert replace(shape, spot_usd_per_hour=0.0).price(spot=True) == 2.0, "not sold as spot"


@pytest.mark.parametrize("usd", [-0.1, 1e6, float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["usd_per_hour", "spot_usd_per_hour"])
def test_a_price_that_cannot_be_is_refused(usd: float, which: str) -> None:
    with pytest.raises(ConfigError, match=f"shape small: {which} is"):
        replace(SHAPES[0], **{which: usd})  # type: ignore[arg-type]  # a field by its name


@pytest.mark.parametrize("settings_", [{"shapes": ()}, {"buys": "all"}, {"spot_share": -0.1}, {"spot_share": 1.1}])
def test_settings_of_an_autoscaler_that_cannot_be_are_refused(settings_: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Elastic(**{"shapes": SHAPES, **settings_})  # type: ignore[arg-type]  # settings by name


@pytest.mark.parametrize("delivery", sorted(DELIVERIES))
def test_a_fleet_that_has_bought_nothing_yet_is_no_obstacle_to_any_delivery(delivery: str) -> None:
    trace = Trace.of("t", (), [("p", PodSpec(((CPU, 1000),)), 0, 60), ("q", PodSpec(((CPU, 1000),)), 500, 560)])
    options = ReplayOptions(delivery=DELIVERIES[delivery], elastic=Elastic(SHAPES))
    assert Replay(trace, STRATEGIES["best-fit"], options).run().num_placed == 2
