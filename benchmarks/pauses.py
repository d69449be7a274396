"""How long answers wait for what runs on their event loop now and then: checkpoints of the event log, new knowledge, and
what Prometheus says of all pods (its longest piece; in between others run).

``python -m benchmarks.pauses [--nodes 1000 5000] [--workloads 1000 2000]`` prints one line per kind and size: milliseconds
of this thread's own processor time (least and median of the rounds), how often it happens as the settings are, and the
share of answers that meet one, if questions come at any moment.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import Callable

from placement.knowledge import Knowledge
from placement.learning.baselines import Target
from placement.learning.forecasting import Forecaster
from placement.learning.prediction import ask
from placement.learning.usage import STEP_S
from placement.log import Event
from placement.log_lines import LineWriter, checkpoint_events
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from placement.state import ClusterState
from placement.strategies import strategy_named
from scheduler.engine import Engine
from scheduler.eventlog import NoLog
from scheduler.learning import prometheus
from scheduler.learning.usage_learner import UsageLearner
from scheduler.ledger import Ledger, Seen
from scheduler.metrics import Metrics
from scheduler.settings import LogSettings, Settings, UsageSettings
from scheduler.view import Reader

GIB = 2**30
PODS_A_NODE = 10
ROUNDS, READ_ROUNDS = 15, 5
CLASSES = 200
HOURS = 6
PODS_A_SECOND = 50.0
"""That come and go, to fill the event log."""


def cost_ms(work: Callable[[], object]) -> tuple[float, float]:
    """Least and median of the rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        work()
        found.append((time.thread_time() - began) * 1e3)
    return min(found), statistics.median(found)


class Sized(NoLog):
    """Counts the bytes of what would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0
        self._writer = LineWriter()
        self.append = self._count

    def _count(self, event: Event) -> None:
        self.num_bytes += len(self._writer.event(event))


def filled(num_nodes: int, events: NoLog) -> ClusterState:
    """A cluster with ten pods on every node."""
    state = ClusterState(events=events)
    for i in range(num_nodes):
        state.add_node(NodeSpec(f"node-{i}", ((CPU, 64_000), (MEMORY, 256 * GIB), ("pods", 110))))
    specs = [PodSpec(((CPU, 100 + i), (MEMORY, GIB))) for i in range(CLASSES)]
    for i in range(num_nodes * PODS_A_NODE):
        state.bind(f"uid-{i:08x}", specs[i % CLASSES], state.names[i % num_nodes])
    return state


def bytes_a_pod() -> float:
    """Of log lines for one pod that comes and goes."""
    sized = Sized()
    state = filled(100, sized)
    before, num = sized.num_bytes, 100 * PODS_A_NODE
    for i in range(num):
        state.release(f"uid-{i:08x}")
    return (sized.num_bytes - before) / num + before / num


def learned(num_workloads: int) -> tuple[Forecaster, int]:
    """A forecaster that has histories of all workloads, and its time."""
    made, now = Forecaster(Target(1)), 1_800_000_000 // 3600 * 3600
    asks = {f"w{i}": {CPU: 4000, MEMORY: GIB} for i in range(num_workloads)}
    for hour in range(HOURS):
        for _ in range(3600 // STEP_S):
            now += STEP_S
            for i, name in enumerate(asks):
                used = 500 + (i * 7 + hour * 13) % 900
                made.add(name, now, now, cpu_millicores=used, memory_bytes=GIB // 2)
        made.keep(asks)
        made.take(ask(made.rungs, made.questions(asks)))
        made.settle(now)
    return made, now


def published(made: Forecaster, now_s: int) -> None:
    """What the event loop does when forecasts changed: a new version of knowledge, with its digest, in the ledger."""
    new = made.renewed(Knowledge.neutral(), now_s)
    assert new is not None, "there are forecasts"
    ClusterState(events=NoLog()).learn(new)


class Said(prometheus.Prometheus):
    """One server that says the same of all pods, whatever it is asked."""

    def __init__(self, settings: UsageSettings, names: list[str]) -> None:
        super().__init__(settings, Metrics())
        found = [{"metric": {"namespace": "default", "pod": name}, "value": [time.time(), "0.25"]} for name in names]
        self._body = json.dumps({"status": "success", "data": {"result": found}}).encode()

    async def _send(self, path: str, form: dict[str, str]) -> list[prometheus._Series]:
        assert path == "query", form
        return await prometheus._result("", 200, self._body)


async def longest_ms(num_pods: int) -> tuple[float, float]:
    """Of the pieces in which what Prometheus says of now is taken in: least and median of the rounds."""
    ledger = Ledger(ClusterState(events=NoLog()), time.monotonic, Metrics())
    specs = [PodSpec(((CPU, 100 + i), (MEMORY, GIB)), owner=f"ReplicaSet/w{i}-7c9d8bf6c4") for i in range(CLASSES)]
    for i in range(num_pods):
        seen = Seen(f"uid-{i:08x}", f"w{i % CLASSES}-7c9d8bf6c4-{i:08x}", "default", 1, specs[i % CLASSES], "node")
        ledger.pods[seen.uid] = seen
    settings = UsageSettings(prometheus="http://prometheus", busy_share=1.0)
    engine = Engine(ledger, Reader(), strategy_named("best-fit"), Settings(), Metrics())
    said = Said(settings, [seen.name for seen in ledger.pods.values()])
    learner = UsageLearner(engine, settings, lambda: True, prometheus=said)
    longest = 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    asking, found = asyncio.create_task(others()), []
    for _ in range(READ_ROUNDS):
        await asyncio.sleep(0)
        longest = 0.0
        await learner._read_now(said)
        await asyncio.sleep(0)
        found.append(longest * 1e3)
    asking.cancel()
    return min(found), statistics.median(found)


def told(kind: str, size: int, cost: tuple[float, float], every_s: float) -> None:
    """One line."""
    least, median = cost
    share = median / 1e3 / every_s
    print(
        f"{kind} {size:6d}  {least:5.1f} {median:5.1f} ms  every {every_s:6.0f} s  {share:.4%} of answers", flush=True
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--workloads", type=int, nargs="+", default=[1000, 2000])
    options = parser.parse_args()
    every_s = LogSettings().segment_bytes / (bytes_a_pod() * PODS_A_SECOND)
    gc.disable()  # the service collects where nobody waits
    for num in options.nodes:
        state = filled(num, NoLog())
        told("checkpoint, nodes   ", num, cost_ms(lambda state=state: checkpoint_events(state, 1)), every_s)  # type: ignore[misc]
        told("use of now, nodes   ", num, asyncio.run(longest_ms(num * PODS_A_NODE)), UsageSettings().every_s)
    for num in options.workloads:
        forecaster, now = learned(num)
        cost = cost_ms(lambda made=forecaster, at=now: published(made, at))  # type: ignore[misc]
        told("forecasts, workloads", num, cost, UsageSettings().every_s)


if __name__ == "__main__":
    main()
