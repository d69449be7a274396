"""The reclaim controller against an API server: what it offers, when it evicts, and that dry changes nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from placement.knowledge import Forecast, Forecasts
from placement.learning.reclaim import RECLAIMED_CPU, RECLAIMED_MEMORY
from placement.nodes import NamespaceSpec, NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from scheduler.errors import ApiError
from scheduler.learning.reclaimer import AT_ONCE, KEEP_LABEL, Reclaimer
from scheduler.learning.usage_learner import Current
from scheduler.ledger import Seen
from scheduler.settings import ReclaimSettings
from tests.live_engine import GIB, Live

MARKED = (("ullage.dev/reclaim", "enabled"),)
WEB = PodSpec(((CPU, 8000), (MEMORY, 16 * GIB)), namespace="shop", owner="ReplicaSet/web-7c9d8bf6c4")
SAYS = Forecasts({"shop/Deployment/web": Forecast(1000, 2 * GIB, 500, GIB, rung="model")}, "6h-peak")


class Node:
    """One marked node with two web pods, and what the controller asked of the API."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.live = Live(folder / "r.db")
        self.calls: list[tuple[str, str]] = []
        self.offers = (0, 0)
        self.refuses = False
        self.current: dict[str, Current] = {}
        self.show(0, 0)
        for i in range(2):
            self.live.ledger.see(Seen(f"web-{i}", f"web-{i}", "shop", 1, WEB, "big"))
        self.live.state.learn(self.live.state.knowledge.but(forecasts=SAYS))
        chosen = {"mode": "on", "growth_share": 1.0} | settings
        self.controller = Reclaimer(self.live.engine, self, ReclaimSettings(**chosen), self.current, lambda: 1000.0)  # type: ignore[arg-type]  # only call() is used

    def show(self, cpu_milli: int, memory_mib: int, *, marked: bool = True) -> None:
        """The watch shows the node with this offer."""
        amounts = ((CPU, 20_000), (MEMORY, 64 * GIB), (RECLAIMED_CPU, cpu_milli), (RECLAIMED_MEMORY, memory_mib))
        self.live.ledger.see_node(NodeSpec("big", tuple(sorted(amounts)), labels=MARKED if marked else ()))

    async def call(self, method: str, path: str, body: Any = None, **_: Any) -> bytes:
        """The API: takes the offer over, or refuses."""
        self.calls.append((method, path))
        if self.refuses:
            raise ApiError("no right", 403)
        if method == "PATCH":
            amounts = body["status"]["allocatable"]
            self.offers = int(amounts[RECLAIMED_CPU]), int(amounts[RECLAIMED_MEMORY])
            self.show(*self.offers)
        return b""

    def batch(self, name: str, milli: int, since: int = 1) -> None:
        """A pod on reclaimed capacity."""
        spec = PodSpec(((RECLAIMED_CPU, milli),), namespace="batch")
        self.live.ledger.see(Seen(name, name, "batch", since, spec, "big"))


async def test_the_offer_is_what_prediction_leaves_and_unmarked_nodes_are_left_alone(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.controller.turn()
    assert node.offers[0] == int((20_000 * 0.9 - 2 * 1000) * 0.9) // 100 * 100
    assert {path for _, path in node.calls} == {"/api/v1/nodes/big/status"}
    node.calls.clear()
    await node.controller.turn()
    assert node.calls == [], "an offer that stands is not patched again"


async def test_a_node_that_is_marked_no_longer_offers_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.controller.turn()
    assert node.offers[0] > 0
    node.batch("runs", 5000)
    node.show(*node.offers, marked=False)
    node.calls.clear()
    await node.controller.turn()
    assert node.offers == (0, 0)
    assert len([path for _, path in node.calls if "eviction" in path]) == 1
    node.live.ledger.lose("runs")
    node.show(0, 0, marked=False)
    node.calls.clear()
    await node.controller.turn()
    assert node.calls == []


async def test_what_is_remembered_of_nodes_that_are_gone_does_not_grow(tmp_path: Path) -> None:
    node = Node(tmp_path, mode="dry")
    for i in range(5):
        name = f"spot-{i}"
        node.live.ledger.see_node(NodeSpec(name, ((CPU, 20_000), (MEMORY, 64 * GIB)), labels=MARKED))
        await node.controller.turn()
        node.live.ledger.lose_node(name)
    await node.controller.turn()
    assert set(node.controller._dry) == {"big"}


async def test_others_are_served_while_many_nodes_are_looked_at(tmp_path: Path) -> None:
    node = Node(tmp_path)
    for i in range(2 * AT_ONCE):
        node.live.ledger.see_node(NodeSpec(f"n{i}", ((CPU, 20_000), (MEMORY, 64 * GIB)), labels=MARKED))

    async def goes() -> None:
        node.live.ledger.lose_node(f"n{2 * AT_ONCE - 1}")

    other = asyncio.create_task(goes())
    await node.controller.turn()
    assert other.done()
    patched = {path.split("/")[4] for _, path in node.calls}
    assert patched == {"big", *(f"n{i}" for i in range(2 * AT_ONCE - 1))}, "a node that went meanwhile is not patched"


async def test_a_slow_api_delays_offers_that_grow_and_none_that_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call takes longer than the time between two looks; the node whose pods want their own back is the last one."""
    node = Node(tmp_path)
    offers = ((RECLAIMED_CPU, 8000), (RECLAIMED_MEMORY, 1024))
    for name, amounts in (("sold", offers), ("a", ()), ("b", ())):
        listed = tuple(sorted(((CPU, 20_000), (MEMORY, 64 * GIB), *amounts)))
        node.live.ledger.see_node(NodeSpec(name, listed, labels=MARKED))
    for name in ("web-2", "web-3"):
        node.live.ledger.see(Seen(name, name, "shop", 1, WEB, "sold"))
        node.current[name] = Current(990.0, 8000, GIB)
    node.live.ledger.see(Seen("batch", "batch", "batch", 1, PodSpec(((RECLAIMED_CPU, 8000),)), "sold"))
    now_s = 0.0

    async def slow(method: str, path: str, _body: Any = None, **_: Any) -> bytes:
        nonlocal now_s
        now_s += 11.0
        node.calls.append((method, path))
        return b""

    monkeypatch.setattr(node, "call", slow)
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    await node.controller.turn()
    taken = "/api/v1/nodes/sold/status", "/api/v1/namespaces/batch/pods/batch/eviction"
    assert [path for _, path in node.calls] == [*taken], "the next look is due: what grows is looked at anew"
    node.live.ledger.lose("batch")
    node.live.ledger.lose_node("sold")
    node.calls.clear()
    await node.controller.turn()
    assert len(node.calls) == 1


async def test_a_measurement_of_the_future_is_not_the_present(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.current |= {f"web-{i}": Current(5000.0, 9000, GIB) for i in range(2)}
    await node.controller.turn()
    assert node.offers[0] > 10_000, "it would stand until the clock has caught up"


async def test_present_use_counts_before_prediction_does(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.current |= {f"web-{i}": Current(990.0, 7000, 2 * GIB) for i in range(2)}
    await node.controller.turn()
    assert node.offers[0] == int((18_000 - 14_000 * 1.15) * 0.9) // 100 * 100
    node.current |= {f"web-{i}": Current(100.0, 7000, 2 * GIB) for i in range(2)}
    await node.controller.turn()
    assert node.offers[0] > 10_000, "an old measurement is not the present"


async def test_reclaimed_pods_leave_when_usage_rises_and_only_as_many_as_needed(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.controller.turn()
    node.batch("first", 5000)
    node.batch("second", 5000)
    await node.controller.turn()
    assert not any("eviction" in path for _, path in node.calls)
    node.current |= {f"web-{i}": Current(1000.0, 4500, GIB) for i in range(2)}
    await node.controller.turn()
    assert len([path for _, path in node.calls if "eviction" in path]) == 1


async def test_a_slow_growth_after_a_restart_evicts_nobody(tmp_path: Path) -> None:
    node = Node(tmp_path, growth_share=0.01)
    node.batch("runs", 9000)
    await node.controller.turn()
    assert node.offers[0] == 200
    assert not any("eviction" in path for _, path in node.calls)


async def test_marked_namespaces_keep_their_requests(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.live.ledger.see_namespace(NamespaceSpec("shop", ((KEEP_LABEL, ""),)))
    await node.controller.turn()
    assert node.offers[0] == int((18_000 - 16_000) * 0.9)


async def test_dry_changes_nothing_and_says_what_it_would(tmp_path: Path) -> None:
    node = Node(tmp_path, mode="dry")
    await node.controller.turn()
    assert node.calls == []
    assert 'ullage_reclaimed{resource="cpu",what="offered"} 14.4' in node.live.metrics.expose().decode()


async def test_a_refusal_is_counted_and_tried_again(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.refuses = True
    await node.controller.turn()
    await node.controller.turn()
    text = node.live.metrics.expose().decode()
    assert 'ullage_reclaim_actions_total{outcome="refused",what="patch"} 2.0' in text


async def test_withdrawing_takes_everything_back(tmp_path: Path) -> None:
    node = Node(tmp_path, mode="withdraw")
    node.show(9000, 1024)
    node.batch("runs", 9000)
    await node.controller.turn()
    assert node.offers == (0, 0)
    assert any("eviction" in path for _, path in node.calls)


async def test_after_the_kill_switch_or_without_the_lead_nothing_is_offered_and_nobody_evicted(tmp_path: Path) -> None:
    node = Node(tmp_path, mode="withdraw")
    node.show(9000, 1024)
    node.batch("one", 4000)
    node.batch("two", 5000)
    modes, call = node.live.engine.modes, node.call
    modes.is_killed = True
    await node.controller.turn()
    assert node.calls == []

    async def killed_meanwhile(method: str, path: str, body: Any = None, **_: Any) -> bytes:
        if "eviction" in path:
            modes.is_killed = True
        return await call(method, path, body)

    modes.is_killed = False
    node.call = killed_meanwhile  # type: ignore[method-assign]
    await node.controller.turn()
    assert len([path for _, path in node.calls if "eviction" in path]) == 1
    modes.is_killed = False
    node.live.engine.is_leading = lambda: False
    node.calls.clear()
    await node.controller.turn()
    assert node.calls == []
    node.live.engine.is_leading = lambda: True
    await node.controller.turn()
    assert node.calls


async def test_a_node_whose_label_says_something_else_offers_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    amounts = ((CPU, 20_000), (MEMORY, 64 * GIB))
    node.live.ledger.see_node(NodeSpec("big", amounts, labels=(("ullage.dev/reclaim", "disabled"),)))
    await node.controller.turn()
    assert node.calls == []


async def test_what_reclaimed_pods_use_takes_nothing_from_the_offer(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.current |= {f"web-{i}": Current(1000.0, 900, GIB) for i in range(2)}
    await node.controller.turn()
    before = node.offers
    node.batch("runs", 9000)
    node.current["runs"] = Current(1000.0, 9000, 20 * GIB)
    await node.controller.turn()
    assert node.offers == before
    assert not any("eviction" in path for _, path in node.calls)


async def test_beside_present_use_a_pod_that_is_not_measured_counts_as_predicted(tmp_path: Path) -> None:
    offers = []
    for use in (0, None):
        (tmp_path / str(use)).mkdir()
        node = Node(tmp_path / str(use))
        node.current["web-0"] = Current(1000.0, 9000, GIB)
        if use is not None:
            node.current["web-1"] = Current(1000.0, use, GIB)
        await node.controller.turn()
        offers.append(node.offers[0])
    assert offers[0] - offers[1] >= 900, "a core is predicted"


async def test_a_pod_that_is_gone_already_is_evicted_and_where_none_may_be_none_is(tmp_path: Path) -> None:
    node = Node(tmp_path, mode="withdraw", evicts=False)
    node.show(9000, 1024)
    node.batch("runs", 9000)
    await node.controller.turn()
    assert node.offers == (0, 0)
    assert not any("eviction" in path for _, path in node.calls)
    call = node.call

    async def gone(method: str, path: str, body: Any = None, **_: Any) -> bytes:
        if "eviction" in path:
            raise ApiError("no such pod", 404)
        return await call(method, path, body)

    node.call = gone  # type: ignore[method-assign]
    node.controller.settings = ReclaimSettings(mode="withdraw")
    await node.controller.turn()
    assert 'ullage_reclaim_actions_total{outcome="done",what="evict"} 1.0' in node.live.metrics.expose().decode()


async def test_a_refusal_is_said_once_until_it_goes_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = Node(tmp_path)
    for refuses in (True, True, False, True, True):
        node.refuses = refuses
        node.show(0, 0)
        await node.controller.turn()
    assert sum("was refused" in record.message for record in caplog.records) == 2
