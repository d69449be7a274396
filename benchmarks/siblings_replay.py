"""What rung `siblings` is worth where pods are placed: the joined recipe replayed with and without it.

More pods than in ``ullage reproduce placement``, so that newcomers enough come for the rung to speak. Right-sizing keeps
the requests of newcomers anyway; what the rung can change is where `predicted` puts pods, and how much unused capacity
is lent. Prints one JSON line per seed, mechanism and rung.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from simulator.reproduce.placement import Cell, Setting, joined, run_cell

CELLS = (Cell("predicted"), Cell("predicted", "reclaimed", "forecast"))
TOLD = (
    *("seed", "nodes_mean", "usd", "pods", "placed", "over_cpu_guaranteed_share", "over_memory_share", "oom_kills"),
    *(
        "throttled_core_hours",
        "reclaimed_core_hours",
        "reclaimed_evictions",
        "newcomers",
        "newcomers_factor",
        "newcomers_coverage",
        "cpu_s",
    ),
)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.1, help="of the pods")
    parser.add_argument("--days", type=int, default=22)
    parser.add_argument("--warmup-days", type=int, default=12)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    for seed in given.seed:
        trace = joined(given.traces, given.share, seed)
        for cell in CELLS:
            for siblings in (False, True):
                row = run_cell(trace, cell, Setting(given.warmup_days, given.days, siblings=siblings), seed)
                print(json.dumps({"cell": cell.name, "siblings": siblings, **{k: row[k] for k in TOLD}}), flush=True)


if __name__ == "__main__":
    main()
