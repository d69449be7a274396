"""Cost of learning: CPU seconds to train every model, and CPU time of one prediction in the request path.

Training: the Bitbrains workloads, resampled with a seed to 500 workloads and cut to 60 days; all horizons and
statistics of both resources, features and calibration included, one thread. Prediction: one prepared row through
:class:`placement.learning.boosted.FastRow`, every trained model in turn. CPU time is what is read, so that other work on the
machine does not count. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from placement.learning.boosted import FastRow, load
from placement.learning.usage import DAY, UsageSeries
from simulator.learning.training import train
from simulator.traces.usage_readers import read_bitbrains_rnd

CALLS = 20_000
"""Per model. Each is timed by itself, so the cost of reading the clock counts too."""


def resampled(series: UsageSeries, count: int, days: int, seed: int) -> UsageSeries:
    """``count`` workloads drawn with replacement, cut to the first ``days``."""
    chosen = np.random.default_rng(seed).integers(len(series.workloads), size=count)
    return UsageSeries(
        f"{series.name}, {count} workloads x {days} days",
        tuple(f"{series.workloads[i]}-{k}" for k, i in enumerate(chosen)),
        series.start_s,
        {r: table[chosen, : days * DAY] for r, table in series.usage.items()},
        {r: amounts[chosen] for r, amounts in series.provisioned.items()},
    )


def prediction_times_us(folder: Path, seed: int) -> tuple[float, float]:
    """(p50, p99) CPU microseconds of a prediction, over all models of a folder, one reading per call."""
    rng = np.random.default_rng(seed)
    times = []
    for model in load(folder):
        fast = FastRow(model)
        rows = rng.random((64, len(model.schema)), dtype=np.float32)
        for k in range(CALLS):
            if k % 50 == 0:
                fast.load(rows[k // 50 % 64])
            begin = time.thread_time_ns()
            fast.predict()
            times.append((time.thread_time_ns() - begin) / 1000)
    return float(np.percentile(times, 50)), float(np.percentile(times, 99))


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--workloads", type=int, default=500)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    series = resampled(read_bitbrains_rnd(given.traces / "bitbrains-rnd"), given.workloads, given.days, given.seed)
    with tempfile.TemporaryDirectory() as name:
        begin = time.process_time()
        trained = train(
            series, Path(name), seed=given.seed,
            progress=lambda task, done, total: print(
                f"{time.process_time() - begin:6.1f} CPU s  {done}/{total} {task}", file=sys.stderr, flush=True
            ),
        )  # fmt: skip
        spent = time.process_time() - begin
        middle, high = prediction_times_us(Path(name), given.seed)
    print(
        json.dumps(
            {
                "train_cpu_s": round(spent, 1),
                "tasks": len(trained),
                "predict_cpu_us_p50": round(middle, 2),
                "predict_cpu_us_p99": round(high, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
