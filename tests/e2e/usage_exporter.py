"""A small exporter that replays a usage trace as cAdvisor and kube-state-metrics would show it.

``python usage_exporter.py CONFIG PORT`` serves ``/metrics``; :func:`openmetrics` writes the same counters as text for
``promtool tsdb create-blocks-from openmetrics``, so that a fresh Prometheus has days of past. Both read one table, so
the counters go on where the blocks end. A file ``CONFIG.scale`` with a number multiplies live CPU from then on, and
``CONFIG.reset`` makes the counters begin anew, as a restarted kubelet does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STEP_S = 300
CPU = "container_cpu_usage_seconds_total"
MEMORY = "container_memory_working_set_bytes"
OWNER = "kube_pod_owner"


@dataclass
class Played:
    """One pod: cores and bytes per five minutes from ``start_s``; the series begins again at its end."""

    namespace: str
    pod: str
    owner_kind: str
    owner_name: str
    start_s: int
    cores: list[float]
    memory: list[float]

    def __post_init__(self) -> None:
        self.sums = [0.0]
        for value in self.cores:
            self.sums.append(self.sums[-1] + value * STEP_S)

    def cpu_seconds(self, now_s: float) -> float:
        """The counter: CPU seconds since ``start_s``."""
        whole, rest = divmod(max(now_s - self.start_s, 0.0), STEP_S)
        rounds, index = divmod(int(whole), len(self.cores))
        return rounds * self.sums[-1] + self.sums[index] + self.cores[index] * rest

    def memory_bytes(self, now_s: float) -> float:
        """The gauge."""
        return self.memory[int((now_s - self.start_s) // STEP_S) % len(self.memory)]

    def lines(self, now_s: float, cpu: float | None = None) -> Iterator[tuple[str, str, float]]:
        """(metric, labels, value) at a moment."""
        who = f'namespace="{self.namespace}",pod="{self.pod}"'
        container = f'container="c",image="x",{who}'
        yield CPU, container, self.cpu_seconds(now_s) if cpu is None else cpu
        yield MEMORY, container, self.memory_bytes(now_s)
        yield (
            OWNER,
            f'{who},owner_kind="{self.owner_kind}",owner_name="{self.owner_name}",owner_is_controller="true"',
            1.0,
        )


def read(path: Path) -> list[Played]:
    """Pods of a configuration."""
    return [Played(**entry) for entry in json.loads(path.read_text())]


def openmetrics(pods: list[Played], start_s: int, end_s: int, step_s: int, target: Path) -> None:
    """The past as OpenMetrics text, one metric family after the other."""
    with target.open("w") as file:
        for number, (metric, kind) in enumerate(((CPU, "counter"), (MEMORY, "gauge"), (OWNER, "gauge"))):
            file.write(f"# TYPE {metric.removesuffix('_total')} {kind}\n")
            for pod in pods:
                for now_s in range(start_s, end_s, step_s):
                    _, labels, value = list(pod.lines(now_s))[number]
                    file.write(f'{metric}{{{labels},instance="exporter",job="usage"}} {value} {now_s}\n')
        file.write("# EOF\n")


class Counters:
    """The live counters: those of the table, scaled and reset as told."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.pods = read(config)
        now_s = time.time()
        self.shown = {id(pod): pod.cpu_seconds(now_s) for pod in self.pods}
        self.before = dict(self.shown)

    def text(self) -> str:
        """The exposition at this moment."""
        now_s = time.time()
        scale = Path(f"{self.config}.scale")
        factor = float(scale.read_text()) if scale.exists() else 1.0
        reset = Path(f"{self.config}.reset")
        if reset.exists():
            reset.unlink()
            self.shown = dict.fromkeys(self.shown, 0.0)
        found = []
        for pod in self.pods:
            played = pod.cpu_seconds(now_s)
            self.shown[id(pod)] += (played - self.before[id(pod)]) * factor
            self.before[id(pod)] = played
            found += [f"{m}{{{labels}}} {v}" for m, labels, v in pod.lines(now_s, self.shown[id(pod)])]
        return "\n".join(found) + "\n"


def main() -> None:
    """Serve until ended."""
    counters = Counters(Path(sys.argv[1]))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = counters.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Prometheus asks every second; that is no news."""

    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()


if __name__ == "__main__":
    main()
