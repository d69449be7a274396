"""Decisions a second through ``Strategy.decide`` inside ``Replay``, per second of one core's time.

    python -m benchmarks.decisions --traces ../shared/traces

replays the FGD paper's `default` (1,213 nodes, seed 42) if the recorded traces are there, else a made-up trace, and prints
the median of five runs per strategy and back end, and each as a ratio to `first-fit`. Strategies that read
predictions are given a made-up forecast of every class (a seeded share of what it asks for) and, for comparison, none.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from placement.knowledge import Forecast, Forecasts, Knowledge, Workload, workload_of
from placement.prices import device_prices
from placement.program import has_compiled
from placement.resources import CPU, MEMORY
from placement.strategies import STRATEGIES
from simulator.replay import Replay, ReplayOptions
from simulator.reproduce.fgd import Protocol
from simulator.traces.synth import Recipe, synthesise
from simulator.traces.trace import Trace

CASES = (
    ("first-fit", "auto"),
    ("best-fit", "auto"),
    ("best-fit", "numpy"),
    ("atc23-fgd", "auto"),
    ("priced", "auto"),
    ("kube-default", "auto"),
    ("ullage", "auto"),
)
PREDICTED = ("koordinator", "predicted", "coach-6x4h", "ullage")
"""Strategies that are measured once more with forecasts, compiled."""


def with_forecasts(trace: Trace, knowledge: Knowledge, seed: int) -> tuple[Trace, Knowledge]:
    """The trace with an owner for each class, and the knowledge with a forecast for each owner."""
    rng = np.random.default_rng(seed)
    specs = tuple(replace(spec, owner=f"StatefulSet/class-{i}") for i, spec in enumerate(trace.specs))
    of = {}
    for spec in specs:
        cpu, memory = (
            int(spec.amount(r) * share) for r, share in zip((CPU, MEMORY), rng.uniform(0.1, 0.9, 2), strict=True)
        )
        of[workload_of(spec.namespace, spec.owner)] = Forecast(cpu, memory, cpu // 2, memory // 2, cpu // 8, 0, "model")
    return replace(trace, specs=specs), replace(knowledge, forecasts=Forecasts(of, "6h-peak", "made up"))


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"))
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    if (arguments.traces / "openb").is_dir():
        protocol = Protocol.load(arguments.traces / "openb", "default")
        trace, knowledge, name = protocol.for_seed(42), protocol.knowledge, "openb default, seed 42"
    else:
        trace, name = synthesise(Recipe(rules=False)), "made up"
        workload = Workload.of(trace.specs, [1] * len(trace.specs))
        knowledge = Knowledge(0, workload, device_prices(workload, trace.nodes))
    rates: dict[str, list[float]] = {}
    predicted = with_forecasts(trace, knowledge, 0)
    cases = [(f"{strategy}/{backend}", strategy, backend, (trace, knowledge)) for strategy, backend in CASES]
    if knowledge.workload is not None:
        leaving = replace(knowledge, workload=replace(knowledge.workload, leaving=True))
        cases.append(("priced+leaving/auto", "priced", "auto", (trace, leaving)))
    cases += [(f"{strategy}+forecasts/auto", strategy, "auto", predicted) for strategy in PREDICTED]
    for _ in range(arguments.runs + 1):
        for case, strategy, backend, (pods, known) in cases:
            if backend == "auto" and not has_compiled():
                continue
            options = ReplayOptions(
                retries=False, departures=False, knowledge=known, backend=backend, samples=1, checks=False
            )
            outcome = Replay(pods, STRATEGIES[strategy], options).run()
            rates.setdefault(case, []).append(outcome.decisions_per_s)
    medians = {case: round(median(found[1:])) for case, found in rates.items()}  # the first run compiles
    floor = medians.get("first-fit/auto") or next(iter(medians.values()))
    print(
        json.dumps(
            {
                "trace": name,
                "nodes": len(trace.nodes),
                "decisions_per_s": medians,
                "ratio_to_first_fit": {case: round(rate / floor, 3) for case, rate in medians.items()},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
