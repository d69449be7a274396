"""What features of kin are worth: models of ``ullage train`` with and without the facts of workloads, on the same split.

PlanetLab's days (a slice is a namespace, a host a name in it) or a made-up recording with owners and images; without, the
same recording with nothing known of its workloads, judged in the same groups. Prints one JSON line per seed and task.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from placement.learning.baselines import P95, PEAK, Target
from placement.learning.facts import Facts
from placement.learning.usage import DAY, HOUR, UsageSeries
from placement.resources import CPU, MEMORY
from simulator.learning.accuracy import best_rival, evaluate
from simulator.learning.training import train
from simulator.traces.usage_readers import read_usage

TARGETS = (Target(1, PEAK), Target(1, P95), Target(6, PEAK), Target(6, P95))


def made_up(seed: int) -> UsageSeries:
    """Workloads whose level is half their namespace's, half their image's, with bursts and a daily rhythm of their own."""
    rng = np.random.default_rng(seed)
    namespaces, images, per_namespace, days = 24, 8, 10, 21
    num, steps = namespaces * per_namespace, days * DAY
    namespace, image = np.arange(num) // per_namespace, rng.integers(0, images, num)
    level = rng.normal(0, 0.5, namespaces)[namespace] + rng.normal(0, 0.5, images)[image] + rng.normal(0, 0.4, num)
    hour = np.arange(steps) % DAY / HOUR
    rhythm = 1 + 0.4 * np.sin(2 * np.pi * (hour[None, :] - rng.uniform(0, 24, namespaces)[namespace, None]) / 24)
    begins = rng.random((num, days * 24)) < 0.02
    burst = (1 + begins * rng.pareto(2.0, begins.shape)).repeat(HOUR, axis=1)
    cpu = np.clip(0.1 * np.exp(level)[:, None] * rhythm * burst * rng.gamma(20, 1 / 20, (num, steps)), 0, 1)
    memory = np.clip(0.25 * np.exp(0.5 * level)[:, None] * (1 + 0.1 * (burst > 1)), 0, 1)
    late = rng.random(num) < 0.3
    first = (rng.uniform(0.3, 0.75, num) * late * steps).astype(np.int64)
    for table in (cpu, memory):
        table[np.arange(steps)[None, :] < first[:, None]] = np.nan
    facts = tuple(
        Facts(f"team-{n}", "Deployment", f"app{i}-x", (f"registry/base-{m}",), False, 0)
        for i, (n, m) in enumerate(zip(namespace.tolist(), image.tolist(), strict=True))
    )
    cores, memory_bytes = rng.choice([1.0, 2.0, 4.0, 8.0], num), rng.choice([2.0, 4.0, 8.0], num) * 2**30
    usage = {
        CPU: (cpu * cores[:, None]).astype(np.float32),
        MEMORY: (memory * memory_bytes[:, None]).astype(np.float32),
    }
    return UsageSeries(
        f"made-up-{seed}", tuple(f"{f.namespace}/{f.kind}/{f.name}" for f in facts), 0, usage,
        {CPU: cores, MEMORY: memory_bytes}, tuple(f"{f.namespace}/{f.kind}" for f in facts), facts=facts,
    )  # fmt: skip


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--usage", type=Path, help="a folder or recording with owners")
    source.add_argument("--made-up", action="store_true")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--horizon", nargs="+", default=[t.name for t in TARGETS])
    given = parser.parse_args()
    for seed in given.seed:
        series = made_up(seed) if given.made_up else read_usage(given.usage)
        unknown = replace(series, facts=(Facts(),) * len(series.workloads))
        found = {}
        for name, known in (("with", series), ("without", unknown)):
            with tempfile.TemporaryDirectory() as folder:
                begin = time.process_time()
                train(known, Path(folder), seed=seed, targets=[t for t in TARGETS if t.name in given.horizon])
                found[name] = evaluate(known, Path(folder))["tasks"], time.process_time() - begin
        for task, entry in found["with"][0].items():
            groups = {
                group: {
                    "samples": values["samples"],
                    "rival": round(values["rival_pinball"], 4),
                    **{
                        name: [round(tasks[task]["novelty"][group][key], 4) for key in ("pinball", "coverage")]
                        for name, (tasks, _) in found.items()
                    },
                }
                for group, values in entry["novelty"].items()
            }
            spent = {name: round(cpu_s, 1) for name, (_, cpu_s) in found.items()}
            row = {
                "seed": seed,
                "task": task,
                "rival": best_rival(entry["predictors"]),
                "cpu_s": spent,
                "groups": groups,
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
