"""A decider without a cluster: ledger, engine and recorder over three nodes, asked as the extender asks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np

from placement.log import EventLog
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.state import ClusterState
from placement.strategies import strategy_named
from scheduler.api import Who
from scheduler.engine import Answered, Engine
from scheduler.ledger import Ledger, Seen
from scheduler.metrics import Metrics
from scheduler.recorder import Recorder
from scheduler.settings import RecordSettings, Settings
from scheduler.view import Reader

GIB = 2**30


def cpu_pod(cores: float, **more: Any) -> PodSpec:
    return PodSpec((("cpu", int(cores * 1000)), ("memory", GIB)), namespace="shop", **more)


class Live:
    """An engine over three nodes, with a recorder."""

    def __init__(self, path: Path, **records: Any) -> None:
        self.metrics = Metrics()
        self.events = EventLog()
        self.state = ClusterState(events=self.events)
        self.ledger = Ledger(self.state, lambda: 0.0, self.metrics)
        for i, cores in enumerate((4, 8, 16)):
            node = NodeSpec(f"n{i}", (("cpu", cores * 1000), ("memory", 64 * GIB)), num_gpus=i)
            self.ledger.see_node(node)
        strategy = strategy_named("best-fit")
        self.recorder = Recorder(RecordSettings(path=str(path), **records), self.metrics)
        self.engine = Engine(self.ledger, Reader(), strategy, Settings(mode="decide"), self.metrics)
        self.recorder.attach(self.engine)

    def ask(self, name: str, spec: PodSpec, allowed: tuple[int, ...] = (0, 1, 2)) -> Answered:
        """Decide as the extender does: decide, record, assume."""
        candidates = self.engine.mask(np.array(allowed))
        decision, draw = self.engine.decide(f"uid-{name}", spec, candidates)
        answered = Answered(
            decision_id=self.engine.next_id(),
            wall_s=time.time(),
            verb="filter",
            mode="decide",
            uid=f"uid-{name}",
            name=name,
            namespace="shop",
            spec=spec,
            decision=decision,
            draw=draw,
            candidates=candidates,
            num_candidates=len(allowed),
            duration_s=0.001,
            outcome="placed" if decision.is_placed else "rejected",
        )
        self.engine.record(answered)
        if decision.is_placed:
            self.ledger.assume(Who(answered.uid, "shop", name), spec, decision.node, decision.devices)
        return answered

    def bound(self, answered: Answered, node: str) -> None:
        """The watch shows the pod on a node."""
        self.recorder.bound(Seen(answered.uid, answered.name, "shop", 1, answered.spec, node))


class Turns:
    """How often others could run on the event loop, from begin to end of a block."""

    def __init__(self) -> None:
        self.number = 0

    async def _count(self) -> None:
        while True:
            self.number += 1
            await asyncio.sleep(0)

    async def __aenter__(self) -> Turns:
        self._counting = asyncio.create_task(self._count())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._counting.cancel()
