"""Decisions a second through ``Strategy.decide`` inside ``Replay``, per second of one core's time.

    python -m benchmarks.decisions --traces ../shared/traces

replays the FGD paper's `default` (1,213 nodes, seed 42) if the recorded traces are there, else a made-up trace, and prints
the median of five runs per strategy and back end, and each as a ratio to `first-fit`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

from placement.knowledge import Knowledge, Workload
from placement.prices import device_prices
from placement.program import has_compiled
from placement.strategies import STRATEGIES
from simulator.replay import Replay, ReplayOptions
from simulator.reproduce_fgd import Protocol
from simulator.synth import Recipe, synthesise

CASES = (
    ("first-fit", "auto"),
    ("best-fit", "auto"),
    ("best-fit", "numpy"),
    ("atc23-fgd", "auto"),
    ("priced", "auto"),
    ("kube-default", "auto"),
)


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
    for _ in range(arguments.runs + 1):
        for strategy, backend in CASES:
            if backend == "auto" and not has_compiled():
                continue
            options = ReplayOptions(
                retries=False, departures=False, knowledge=knowledge, backend=backend, samples=1, checks=False
            )
            outcome = Replay(trace, STRATEGIES[strategy], options).run()
            rates.setdefault(f"{strategy}/{backend}", []).append(outcome.decisions_per_s)
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
