"""Pods per second through a real kube-scheduler: with us, with an extender that does nothing, and without any.

``python benchmarks/throughput.py [--nodes 1000 5000] [--pods 600] [--rounds 3]`` builds the control plane of
``tests/e2e``, then runs every way in turn, several rounds, on the same cluster, and prints medians and ratios. The
do-nothing extender decodes the request with ``json`` and answers with the first node (as ``decide`` does), or with
all of them and equal scores (as ``score`` does).

``ullage serve`` runs only while it is measured: beside the others it would follow the watch, at their cost. What it does in
its first seconds is not a pod's, so it is given some to settle.

Beside the rates it prints the CPU milliseconds that every process spent per pod, from the first to the last binding:
where all cores are busy these say where the rate comes from, and they do not suffer from noise as it does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.verbs import cpu_s
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, PODS
from tests.e2e.control_plane import ControlPlane, Ullage, free_port
from tests.e2e.drive import PODS as POD_PATH
from tests.e2e.drive import Cluster, cluster_of, pod_json

GIB = 2**30
SETTLE_S = 6.0
"""After the start of ``ullage serve``."""
POD = PodSpec(request=((CPU, 500), (MEMORY, GIB)))


class DoNothing(asyncio.Protocol):
    """The cheapest extender that Python's own JSON allows."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.data = bytearray()

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        at = self.data.find(b"Content-Length: ")
        need = end + 4 + int(self.data[at + 16 : self.data.find(b"\r\n", at)])
        if len(self.data) < need:
            return
        path = bytes(self.data).split(b" ", 2)[1]
        names = json.loads(self.data[end + 4 : need])["NodeNames"] or []
        if path == b"/one/filter":
            answer: Any = {"NodeNames": names[:1], "FailedNodes": {}, "Error": ""}
        elif path == b"/all/filter":
            answer = {"NodeNames": names, "FailedNodes": {}, "Error": ""}
        else:
            answer = [{"Host": name, "Score": 0} for name in names]
        body = json.dumps(answer).encode()
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.data.clear()


def serve_nothing(port: int) -> None:
    """Process."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(DoNothing, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(run())


def stanza(url: str, *, prioritizes: bool) -> list[dict[str, Any]]:
    """One extender for all pods."""
    common = {"urlPrefix": url, "filterVerb": "filter", "httpTimeout": "5s", "nodeCacheCapable": True, "weight": 5}
    return [{**common, "prioritizeVerb": "prioritize"} if prioritizes else common]


async def run_once(
    cluster: Cluster, plane: ControlPlane, extenders: list[dict[str, Any]], num_pods: int, nothing: int
) -> tuple[float, dict[str, float]]:
    """Pods per second from the first to the last binding, and CPU milliseconds per pod by process; ``nothing`` is the
    do-nothing extender's."""
    plane.start_scheduler(extenders)
    await asyncio.sleep(4)
    pids = {name: process.pid for name, process in plane.processes.items()}
    pids |= {"do-nothing": nothing, "client": os.getpid()}
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    began = time.monotonic()
    await cluster.many((("POST", POD_PATH, pod_json(f"p{i:05d}", POD)) for i in range(num_pods)), width=16)
    await cluster.until(lambda: len(cluster.pods) == num_pods and cluster.all_bound(), 300, "all bound")
    rate = num_pods / (time.monotonic() - began)
    spent = {name: 1e3 * (cpu_s(pid) - before[name]) / num_pods for name, pid in pids.items()}
    plane.end("kube-scheduler")
    await cluster.many(("DELETE", f"{POD_PATH}/{name}?gracePeriodSeconds=0") for name in list(cluster.pods))
    await cluster.until(lambda: not cluster.pods, 120, "all deleted")
    return rate, spent


async def measure(num_nodes: int, num_pods: int, rounds: int, modes: list[str]) -> dict[str, Any]:
    """Medians and ratios for one size of cluster."""
    with tempfile.TemporaryDirectory() as folder:
        plane = ControlPlane(Path(folder))
        port = free_port()
        nothing = multiprocessing.Process(target=serve_nothing, args=(port,), daemon=True)
        try:
            plane.start()
            nothing.start()
            ullage = Ullage(plane)
            async with cluster_of(plane) as cluster:
                offer = ((CPU, 32_000), (MEMORY, 128 * GIB), (PODS, 110))
                await cluster.add_nodes(NodeSpec(f"node-{i:05d}.example.internal", offer) for i in range(num_nodes))
                ways = {
                    "stock": [],
                    "nothing-decide": stanza(f"http://127.0.0.1:{port}/one", prioritizes=False),
                    "ullage-decide": stanza(f"http://127.0.0.1:{ullage.port}/v1", prioritizes=False),
                    "nothing-score": stanza(f"http://127.0.0.1:{port}/all", prioritizes=True),
                    "ullage-score": stanza(f"http://127.0.0.1:{ullage.port}/v1", prioritizes=True),
                }
                ways = {way: found for way, found in ways.items() if way.rpartition("-")[2] in ("stock", *modes)}
                rates: dict[str, list[float]] = {way: [] for way in ways}
                spent: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
                for _ in range(rounds):
                    for way, extenders in ways.items():
                        if way.startswith("ullage"):
                            ullage.settings["mode"] = way.rpartition("-")[2]
                            await asyncio.to_thread(ullage.start)
                            await asyncio.sleep(SETTLE_S)
                        rate, cpu = await run_once(cluster, plane, extenders, num_pods, nothing.pid or 0)
                        await asyncio.to_thread(ullage.end)
                        rates[way].append(rate)
                        spent[way].append(cpu)
                        sys.stderr.write(
                            f"{num_nodes} nodes, {way}: {rate:.1f} pods/s, CPU {sum(cpu.values()):.1f} ms\n"
                        )
        finally:
            if (
                nothing.pid is not None
            ):  # first: it was forked, so it holds open what tells the guard of the plane to end
                nothing.terminate()
                nothing.join()
            plane.stop()
    pods_per_s = {way: round(statistics.median(found), 1) for way, found in rates.items()}
    ratios = {
        mode: round(
            statistics.median(u / n for u, n in zip(rates[f"ullage-{mode}"], rates[f"nothing-{mode}"], strict=True)), 3
        )
        for mode in modes
    }
    cpu_ms = {
        way: {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]}
        for way, found in spent.items()
    }
    return {
        "nodes": num_nodes, "pods": num_pods, "rounds": rounds, "pods_per_s": pods_per_s, "over_nothing": ratios,
        "cpu_ms_per_pod": cpu_ms,
    }  # fmt: skip


def main() -> None:
    """Print one JSON line per size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1000, 5000])
    parser.add_argument("--pods", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", nargs="*", default=["decide", "score"], choices=["decide", "score"])
    options = parser.parse_args()
    for num_nodes in options.nodes:
        line = asyncio.run(measure(num_nodes, options.pods, options.rounds, options.modes))
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
