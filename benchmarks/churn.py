"""What a decision costs right after the cluster has changed, and what the change itself costs, on one thread.

``python -m benchmarks.churn [--nodes 1000 5000 15000] [--events …]`` puts the real engine, ledger, records and event log
over a synthetic cluster, gives its sinks one object as the watch does, and asks ``filter`` in ``decide`` about a pod of a
known class. Everything that the loop does is timed, the answer's aftermath too, without sockets. ``quiet`` is the floor:
the same question with nothing before it. Prints one line per kind of event and size; milliseconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from msgspec import Raw

from benchmarks.verbs import GIB, names, quantile
from placement.knowledge import Workload
from placement.owners import HOSTNAME, ZONE
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from placement.state import ClusterState
from placement.strategies import strategy_named
from scheduler.binder import Binder
from scheduler.engine import Engine
from scheduler.eventlog import DiskLog
from scheduler.extender import Extender
from scheduler.ledger import Ledger
from scheduler.metrics import Metrics
from scheduler.quiet import Quiet
from scheduler.recorder import Recorder
from scheduler.server import Request, Response
from scheduler.settings import HttpSettings, LogSettings, RecordSettings, Settings
from scheduler.view import Reader, sinks
from scheduler.warmup import warm_up

NUM_CLASSES = 300
OUTAGE = 1000
"""Nodes that a zone's failure taints at once."""
PAUSE_S = 0.002
"""Before a question: kube-scheduler's own work gives threads that write as much."""
NUM_IMAGES = 40
"""Of a node, each of some hundred bytes in its object."""
REQUESTS = [{"cpu": f"{100 * (1 + i % 8)}m", "memory": f"{256 * (1 + i % 5)}Mi"} for i in range(40)]


def node_object(name: str, number: int, **changes: Any) -> dict[str, Any]:
    """A Node of about 6 KB."""
    labels = {HOSTNAME: name, ZONE: f"zone-{number % 3}", "pool": f"p{number % 20}", **changes.get("labels", {})}
    images = [
        {"names": [f"registry.local/team/image-{i}@sha256:{'0' * 64}"], "sizeBytes": 10**8} for i in range(NUM_IMAGES)
    ]
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": changes.get("taints", [])},
        "status": {
            "images": images,
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": str(changes.get("beat", 0))}],
            "allocatable": {"cpu": str(changes.get("cpu", 32)), "memory": "128Gi", "pods": "110"},
        },
    }


def pod_object(number: int, app: str, node: str = "", *, job: str = "") -> dict[str, Any]:
    """A pod of one of some hundred classes; one of a ``job`` keeps away from its own kind, so that its rules are new."""
    labels = {"job-name": job} if job else {"app": app}
    spec: dict[str, Any] = {
        "containers": [
            {
                "name": "main",
                "image": f"registry.local/{app}:1",
                "resources": {"requests": REQUESTS[int(app.rpartition("-")[2]) % 40]},
            }
        ]
    }
    if job:
        term = {"topologyKey": HOSTNAME, "labelSelector": {"matchLabels": labels}}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    if node:
        spec["nodeName"] = node
    return {
        "metadata": {
            "name": f"pod-{number}",
            "namespace": "default",
            "uid": f"u{number:011d}",
            "resourceVersion": "1",
            "labels": labels,
        },
        "spec": spec,
        "status": {"phase": "Running" if node else "Pending"},
    }


class Cluster:
    """One service without sockets, beside a cluster that we make up."""

    def __init__(self, folder: str, num_nodes: int, num_pods: int, strategy: str) -> None:
        settings = Settings(mode="decide", http=HttpSettings(host="127.0.0.1", port=0, deadline_ms=60_000))
        self.rng = random.Random(1)
        metrics, self.quiet = Metrics(), Quiet(is_ours=True)
        events = DiskLog(LogSettings(folder=folder), metrics, "bench", self.quiet)
        self.ledger = Ledger(ClusterState(events=events), time.monotonic, metrics)
        reader = Reader()
        self.recorder = recorder = Recorder(RecordSettings(path=f"{folder}/records.db"), metrics, self.quiet)
        self.engine = Engine(self.ledger, reader, strategy_named(strategy), settings, metrics)
        self.sink = {sink.kind: sink for sink in sinks(self.ledger, self.engine.modes, reader)}
        self.names = names(num_nodes)
        self.numbers = itertools.count()
        began = time.perf_counter()
        for i, name in enumerate(self.names):
            self.put("nodes", node_object(name, i))
        for _ in range(num_pods):
            number = next(self.numbers)
            self.put("pods", pod_object(number, f"app-{number % NUM_CLASSES}", self.names[number % num_nodes]))
        self.loaded_s = time.perf_counter() - began
        recorder.attach(self.engine)
        events.attach(self.ledger.state, [self.engine.strategy], begins_unix_s=int(time.time()))
        warm_up((self.engine.strategy,))
        self.quiet.calm()
        self.extender = Extender(self.engine, Binder(self.engine, None), version="bench")  # type: ignore[arg-type]  # no API here

    def put(self, kind: str, item: dict[str, Any]) -> float:
        """Seconds that an object takes."""
        raw = Raw(json.dumps(item).encode())
        began = time.perf_counter()
        self.sink[kind].put(raw)
        return time.perf_counter() - began

    def drop(self, kind: str, item: dict[str, Any]) -> float:
        """Seconds that an object's end takes."""
        raw = Raw(json.dumps(item).encode())
        began = time.perf_counter()
        self.sink[kind].drop(raw)
        return time.perf_counter() - began

    def ask(self, app: str = "", job: str = "") -> float:
        """Seconds until all about a question about a new pod is done; the pod goes again, untimed."""
        number = next(self.numbers)
        item = pod_object(number, app or f"app-{self.rng.randrange(NUM_CLASSES)}", job=job)
        self.put("pods", item)
        body = json.dumps({"Pod": item, "Nodes": None, "NodeNames": self.names}, separators=(",", ":")).encode()
        view = memoryview(bytearray(body))
        time.sleep(PAUSE_S)
        self.quiet.asked()
        began = time.perf_counter()
        answer = self.extender.handle(Request("POST", "/v1/filter", view, began))
        assert isinstance(answer, Response), "a question is answered at once"
        if answer.after is not None:
            answer.after()
        took = time.perf_counter() - began
        self.quiet.answered()
        if b'"Error":""' not in bytes(answer.body[-12:]):
            raise SystemExit(f"unexpected answer: {bytes(answer.body[:200])!r}")
        self.drop("pods", item)
        return took


def pick(cluster: Cluster) -> tuple[str, int]:
    """Any node: its name and number."""
    number = cluster.rng.randrange(len(cluster.names))
    return cluster.names[number], number


def heartbeat(cluster: Cluster, turn: int) -> float:
    """A kubelet says that its node lives."""
    name, number = pick(cluster)
    return cluster.put("nodes", node_object(name, number, beat=turn + 1))


def label(cluster: Cluster, turn: int) -> float:
    """A controller labels a node."""
    name, number = pick(cluster)
    return cluster.put("nodes", node_object(name, number, labels={"turn": str(turn)}))


def taint(cluster: Cluster, turn: int) -> float:
    """A controller taints a node."""
    name, number = pick(cluster)
    return cluster.put(
        "nodes", node_object(name, number, taints=[{"key": "gone", "value": str(turn), "effect": "NoSchedule"}])
    )


def amounts(cluster: Cluster, turn: int) -> float:
    """A node offers another amount."""
    name, number = pick(cluster)
    return cluster.put("nodes", node_object(name, number, cpu=31 - turn % 7))


def add_node(cluster: Cluster, turn: int) -> float:
    """An autoscaler's node comes."""
    taken = len(cluster.names)
    name = f"ip-10-{200 + turn // 250:03d}-{turn % 250:03d}-{turn % 250:03d}.eu-north-1.compute.internal"
    cluster.names.append(name)
    return cluster.put("nodes", node_object(name, taken))


def lose_node(cluster: Cluster, turn: int) -> float:
    """A spot node goes."""
    name, number = pick(cluster)
    cluster.names.remove(name)
    return cluster.drop("nodes", node_object(name, number))


def outage(cluster: Cluster, turn: int) -> float:
    """A zone is lost: its nodes are tainted, all at once."""
    taints = [{"key": "node.kubernetes.io/unreachable", "value": str(turn), "effect": "NoExecute"}]
    return sum(cluster.put("nodes", node_object(n, i, taints=taints)) for i, n in enumerate(cluster.names[:OUTAGE]))


def learn(cluster: Cluster, turn: int) -> float:
    """Something was learned."""
    state = cluster.ledger.state
    workload = Workload.of([PodSpec(request=((CPU, 100 + turn), (MEMORY, GIB)))], [1])
    began = time.perf_counter()
    state.learn(state.knowledge.but(workload=workload))
    return time.perf_counter() - began


def nothing(cluster: Cluster, turn: int) -> float:
    """The floor, and what the question itself brings."""
    return 0.0


EVENTS: dict[str, Callable[[Cluster, int], float]] = {
    "quiet": nothing, "heartbeat": heartbeat, "label": label, "taint": taint, "amounts": amounts,
    "outage": outage, "learn": learn, "new class": nothing, "new selector": nothing, "add": add_node, "lose": lose_node,
}  # fmt: skip


def measure(cluster: Cluster, event: str, turns: int) -> dict[str, Any]:
    """Let an event happen and ask one question, ``turns`` times."""
    happens, asked = [], []
    for turn in range(turns):
        cluster.ask()
        happens.append(EVENTS[event](cluster, turn))
        if event == "new class":
            asked.append(cluster.ask(app=f"fresh-{1000 + turn}"))
        elif event == "new selector":
            asked.append(cluster.ask(job=f"job-{turn}"))
        else:
            asked.append(cluster.ask())
        cluster.quiet.rest()
    row: dict[str, Any] = {"event": event, "nodes": len(cluster.names), "turns": turns}
    for what, times in (("event", happens), ("decision", asked)):
        row |= {
            f"{what}_p50": round(1e3 * quantile(times, 0.5), 3),
            f"{what}_p99": round(1e3 * quantile(times, 0.99), 3),
            f"{what}_max": round(1e3 * max(times), 3),
        }
    return row


def main() -> None:
    """Print one JSON line per kind of event and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1000, 5000, 15000])
    parser.add_argument("--pods-per-node", type=int, default=8)
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--strategy", default="best-fit")
    parser.add_argument("--events", nargs="*", default=list(EVENTS))
    options = parser.parse_args()
    for num_nodes in options.nodes:
        with tempfile.TemporaryDirectory() as folder:
            cluster = Cluster(folder, num_nodes, options.pods_per_node * num_nodes, options.strategy)
            for _ in range(2 * NUM_CLASSES):
                cluster.ask()
            for event in options.events:
                turns = 3 if event == "outage" else 10 if event == "learn" else options.turns
                sys.stdout.write(json.dumps(measure(cluster, event, turns)) + "\n")
                sys.stdout.flush()
            cluster.recorder.close()


if __name__ == "__main__":
    main()
