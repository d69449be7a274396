"""The workload learned while serving: what is here, and whether pods have been seen to leave."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from placement.errors import ConfigError
from placement.knowledge import Workload
from placement.nodes import NodeSpec
from placement.pods import GpuRequest, PodSpec
from placement.strategies import strategy_named
from scheduler.learning.learner import NO_DEVICES, Learner
from scheduler.ledger import Seen
from tests.live_engine import Live, cpu_pod


def test_that_pods_leave_is_learned_when_a_class_becomes_fewer_and_not_forgotten(tmp_path: Path) -> None:
    live = Live(tmp_path / "records")
    learner = Learner(live.engine, 60, lambda: True)
    pods = live.ledger.pods

    def learn() -> bool:
        asyncio.run(learner.learn())
        workload = live.state.knowledge.workload
        assert workload is not None
        return workload.leaving

    for i in range(4):
        pods[f"web-{i}"] = Seen(f"web-{i}", f"web-{i}", "shop", i, cpu_pod(1))
    assert not learn()
    pods["job"] = Seen("job", "job", "shop", 9, cpu_pod(2, gpu=GpuRequest(1, 500)))
    assert not learn(), "more came, none went"
    del pods["job"]
    assert learn()
    pods["job"] = Seen("job", "job", "shop", 10, cpu_pod(2, gpu=GpuRequest(1, 500)))
    assert learn()


def test_jobs_one_after_the_other_weigh_as_the_one_that_is_here(tmp_path: Path) -> None:
    """Each has labels of its own, and so a class of its own."""
    live = Live(tmp_path / "records")
    learner = Learner(live.engine, 600, lambda: True)
    live.ledger.pods["web"] = Seen("web", "web", "shop", 1, cpu_pod(2))
    for number in range(20):
        job = replace(cpu_pod(1), labels=(("job-name", f"nightly-{number}"),))
        live.ledger.pods["job"] = Seen("job", "job", "shop", number, job)
        asyncio.run(learner.learn())
    workload = live.state.knowledge.workload
    assert workload is not None
    assert dict(zip([kind.cpu for kind in workload.kinds], workload.counts, strict=True)) == {1000: 100, 2000: 100}
    assert workload.leaving, "nineteen have left"


def test_a_kind_that_is_gone_counts_less_and_less(tmp_path: Path) -> None:
    live = Live(tmp_path / "records")
    learner, pods = Learner(live.engine, 86_400, lambda: True), live.ledger.pods
    pods["web"] = Seen("web", "web", "shop", 1, cpu_pod(2))
    pods["job"] = Seen("job", "job", "shop", 1, cpu_pod(1))
    counts = []
    for _ in range(9):
        asyncio.run(learner.learn())
        workload = live.state.knowledge.workload
        assert workload is not None
        counts.append(workload.counts)
        pods.pop("job", None)
    assert counts == [(100, 100), (50, 100), (25, 100), (12, 100), (6, 100), (3, 100), (1, 100), (100,), (100,)]


def test_a_pod_that_is_being_deleted_counts_once_and_as_it_did(tmp_path: Path) -> None:
    live = Live(tmp_path / "records")
    learner = Learner(live.engine, 60, lambda: True)
    for name in ("a", "b"):
        live.ledger.pods[name] = Seen(name, name, "shop", 1, cpu_pod(1))
    asyncio.run(learner.learn())
    before = live.state.knowledge.workload
    live.ledger.pods["b"] = Seen("b", "b", "shop", 2, cpu_pod(1, leaving=True))
    asyncio.run(learner.learn())
    assert live.state.knowledge.workload == before


def test_without_gpus_the_strategy_decides_and_not_the_fallback(tmp_path: Path) -> None:
    """As in a replay; it would else never read forecasts and lifetimes on a cluster of CPUs."""
    live = Live(tmp_path / "records")
    live.engine.strategy = strategy_named("ullage")
    learner = Learner(live.engine, 60, lambda: True)
    for name in ("n1", "n2"):
        live.state.remove_node(name)
    for i, name in enumerate(("web", "db")):
        assert live.engine.in_force().name == ("best-fit" if not i else "ullage")
        live.ledger.pods[name] = Seen(name, name, "shop", i, cpu_pod(i + 1))
        asyncio.run(learner.learn())
    assert live.state.knowledge.prices is NO_DEVICES
    live.state.add_node(NodeSpec("t4", (("cpu", 8000), ("memory", 1 << 34)), num_gpus=1, gpu_model="T4"))
    live.ledger.pods["job"] = Seen("job", "job", "shop", 9, cpu_pod(2, gpu=GpuRequest(1, 500)))
    asyncio.run(learner.learn())
    prices = live.state.knowledge.prices
    assert prices is not None
    assert "T4" in {group[0] for group in prices.groups}
    live.state.remove_node("t4")
    asyncio.run(learner.learn())
    assert live.state.knowledge.prices is prices, "what was learned stays while nobody offers one"


def test_pods_that_ask_for_absurd_amounts_take_no_prices_from_the_others(tmp_path: Path) -> None:
    """The linear program would have no optimum that its solver finds."""
    live = Live(tmp_path / "records")
    live.engine.strategy = strategy_named("ullage")
    for name in ("n1", "n2"):
        live.state.remove_node(name)
    live.state.add_node(NodeSpec("a", (("cpu", 64_000), ("memory", 1 << 38)), num_gpus=8, gpu_model="A"))
    pods = live.ledger.pods
    absurd = PodSpec((("cpu", 2**40), ("memory", 1)), namespace="shop", gpu=GpuRequest(1, 3))
    pods["absurd"] = Seen("absurd", "absurd", "shop", 2, absurd)
    asyncio.run(Learner(live.engine, 60, lambda: True).learn())
    assert live.state.knowledge.prices is NO_DEVICES, "nobody asks for what is there"
    pods["tiny"] = Seen("tiny", "tiny", "shop", 1, cpu_pod(1, gpu=GpuRequest(1, 1)))
    asyncio.run(Learner(live.engine, 60, lambda: True).learn())
    prices = live.state.knowledge.prices
    assert prices is not None
    assert [group[0] for group in prices.groups] == ["A"]
    assert live.engine.in_force().name == "ullage"


def test_where_the_solver_finds_no_prices_the_fallback_decides_and_nobody_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise ConfigError("the packing LP has no optimum")

    live = Live(tmp_path / "records")
    live.engine.strategy = strategy_named("ullage")
    live.state.add_node(NodeSpec("a", (("cpu", 64_000), ("memory", 1 << 38)), num_gpus=8, gpu_model="A"))
    live.ledger.pods["tiny"] = Seen("tiny", "tiny", "shop", 1, cpu_pod(1, gpu=GpuRequest(1, 1)))
    with monkeypatch.context() as patch:
        patch.setattr("scheduler.learning.learner.device_prices", failing)
        asyncio.run(Learner(live.engine, 60, lambda: True).learn())
    assert live.state.knowledge.prices is None
    assert live.engine.in_force().name == "best-fit"
    asyncio.run(Learner(live.engine, 60, lambda: True).learn())
    assert live.engine.in_force().name == "ullage"


def test_a_workload_that_was_given_may_name_kinds_of_which_there_are_none(tmp_path: Path) -> None:
    live = Live(tmp_path / "records")
    seen = Workload.of([cpu_pod(1), cpu_pod(1, gpu=GpuRequest(1, 500))], [1, 1])
    given = replace(seen, counts=tuple(0 if kind.count else 3 for kind in seen.kinds))
    asyncio.run(Learner(live.engine, 0, lambda: True, given).learn())
    assert live.state.knowledge.workload == given
    assert live.state.knowledge.prices is NO_DEVICES


def test_prices_follow_the_nodes_although_the_same_pods_are_here(tmp_path: Path) -> None:
    live = Live(tmp_path / "records")
    learner = Learner(live.engine, 60, lambda: True)
    live.ledger.pods["job"] = Seen("job", "job", "shop", 1, cpu_pod(2, gpu=GpuRequest(1, 500)))

    def learn() -> tuple[str, set[str]]:
        asyncio.run(learner.learn())
        prices = live.state.knowledge.prices
        assert prices is not None
        return live.state.knowledge.digest, {group[0] for group in prices.groups}

    room = (("cpu", 8000), ("memory", 1 << 34), ("pods", 10))
    before, models = learn()
    assert not models & {"T4", "A100"}
    live.state.add_node(NodeSpec("t4", room, num_gpus=1, gpu_model="T4"))
    first, models = learn()
    assert models >= {"T4"}
    assert learn()[0] == first, "nothing changed, nothing is learned"
    live.state.add_node(NodeSpec("a", room, num_gpus=2, gpu_model="A100"))
    second, models = learn()
    assert models >= {"T4", "A100"}
    live.state.remove_node("t4")
    third, models = learn()
    assert "A100" in models
    assert "T4" not in models
    live.state.add_node(NodeSpec("cpu", room))
    assert learn()[0] == third, "a node without devices has no price"
    assert len({before, first, second, third}) == 4
