"""The workload learned while serving: what is here, and whether pods have been seen to leave."""

from __future__ import annotations

import asyncio
from pathlib import Path

from placement.pods import GpuRequest
from scheduler.learner import Learner
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
