"""Start to ready, and memory, of ``ullage serve`` beside a large cluster: 5,000 nodes and 50,000 pods by default.

The API is a process that serves prepared pages (objects of 12 KB and 3 KB, as real ones are), so that what is measured
is us. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.planner_beside import Api, Still, encoded, kubeconfig, page
from benchmarks.verbs import node_object, pod
from tests.e2e.control_plane import free_port


def node(number: int) -> dict[str, Any]:
    """A node of about 11 KB."""
    body = node_object(f"node-{number:05d}.example.internal")
    body["metadata"] |= {"uid": f"n{number}", "resourceVersion": str(number + 1)}
    body["status"]["allocatable"] = {"cpu": "32", "memory": "128Gi", "pods": "110"}
    return body


def bound_pod(number: int, num_nodes: int) -> dict[str, Any]:
    """A running pod of about 5 KB, one of some hundred classes."""
    body = pod(f"u{number}")
    body["metadata"] |= {
        "name": f"pod-{number}",
        "resourceVersion": str(number + 1),
        "labels": {"app": f"a{number % 300}"},
    }
    body["spec"]["nodeName"] = f"node-{number % num_nodes:05d}.example.internal"
    body["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}] * 4}
    return body


def serve_api(port: int, num_nodes: int, num_pods: int) -> None:
    """Process: lists in pages, watches that stay silent."""
    nodes = (node(i) for i in range(num_nodes))
    pods = (bound_pod(i, num_nodes) for i in range(num_pods))
    lists = {"/api/v1/nodes": nodes, "/api/v1/pods": pods}
    world = Still({path: {one["metadata"]["name"]: encoded(one) for one in found} for path, found in lists.items()})

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Api(world), "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(run())


def memory_mb(pid: int, key: str) -> float:
    """``VmRSS`` or ``VmHWM`` of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return round(int(status.split(f"{key}:")[1].split()[0]) / 1024, 1)


def main() -> None:
    """Start, wait, look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=50_000)
    parser.add_argument("--strategy", default="best-fit")
    options = parser.parse_args()
    api_port, port = free_port(), free_port()
    api = multiprocessing.Process(target=serve_api, args=(api_port, options.nodes, options.pods), daemon=True)
    api.start()
    with tempfile.TemporaryDirectory() as folder:
        path = kubeconfig(Path(folder), api_port)
        while not page(api_port, "/version"):
            time.sleep(0.5)
        began = time.monotonic()
        command = [sys.executable, "-m", "scheduler", "serve", "--kubeconfig", str(path), "--host", "127.0.0.1"]
        process = subprocess.Popen(
            [*command, "--port", str(port), "--strategy", options.strategy, "--log-level", "error"]
        )
        try:
            while page(port, "/readyz") != "ok":
                if process.poll() is not None:
                    raise SystemExit("ullage serve ended")
                time.sleep(0.05)
            line = {
                "nodes": options.nodes,
                "pods": options.pods,
                "ready_s": round(time.monotonic() - began, 2),
                "rss_mb": memory_mb(process.pid, "VmRSS"),
                "peak_mb": memory_mb(process.pid, "VmHWM"),
            }
            sys.stdout.write(json.dumps(line) + "\n")
        finally:
            process.terminate()
            process.wait()
            api.terminate()


if __name__ == "__main__":
    main()
