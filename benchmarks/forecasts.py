"""Cost of learning: CPU seconds to train every model, and CPU time of one prediction.

Training: the Bitbrains workloads, resampled with a seed to 500 workloads and cut to 60 days; all horizons and
statistics of both resources, features and calibration included, one thread. Prediction: what a decision pays for the
forecast of a class, which was made before (``read``), and what it would pay if it asked a model each time: one prepared row
through :class:`FastRow`, every trained model in turn (``predict``). CPU time is what is read, so that other work on the machine
does not count. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from placement.errors import ModelError
from placement.knowledge import Forecast, Forecasts
from placement.learning.boosted import QuantileModel, base_of, load, scale_free
from placement.learning.usage import DAY, SingleArray, UsageSeries
from placement.pods import PodSpec
from placement.resources import CPU
from scheduler.settings import UsageSettings
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


class FastRow:
    """Predicts one prepared row through LightGBM's single-row fast path, with no allocation.

    :meth:`load` divides a row by its base once, when the workload's features change. Not for concurrent use: one per thread.
    """

    def __init__(self, model: QuantileModel) -> None:
        from lightgbm.basic import _LIB

        self._model = model
        self._row = np.zeros(len(model.schema), np.float32)
        self._base = 1.0
        self._out = ctypes.c_double()
        self._length = ctypes.c_int64()
        self._fast = ctypes.c_void_p()
        handle = model.booster._handle if hasattr(model.booster, "_handle") else model.booster.handle
        status = _LIB.LGBM_BoosterPredictForMatSingleRowFastInit(
            handle,
            ctypes.c_int(0),
            ctypes.c_int(0),
            ctypes.c_int(model.booster.best_iteration or -1),
            ctypes.c_int(0),
            ctypes.c_int32(len(model.schema)),
            ctypes.c_char_p(b"num_threads=1"),
            ctypes.byref(self._fast),
        )
        if status != 0:
            raise ModelError(f"LightGBM refuses its fast path for {model.name}; use predict() of the model")
        self._call = _LIB.LGBM_BoosterPredictForMatSingleRowFast
        self._free = _LIB.LGBM_FastConfigFree
        self._arguments = (
            self._fast,
            self._row.ctypes.data_as(ctypes.c_void_p),
            ctypes.byref(self._length),
            ctypes.byref(self._out),
        )

    def load(self, row: SingleArray) -> None:
        """Prepare one (F,) row."""
        table = row[None, :]
        base = base_of(self._model.schema, table, self._model.base)
        self._row[:] = scale_free(self._model.schema, table, base, self._model.base)[0]
        self._base = float(base[0])

    def predict(self) -> float:
        """The share predicted for the loaded row."""
        self._call(*self._arguments)
        share = self._out.value * self._base
        return 0.0 if share < 0.0 else 1.0 if share > 1.0 else share

    def __del__(self) -> None:
        if getattr(self, "_fast", None):
            self._free(self._fast)


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


def reading_times_us(seed: int) -> tuple[float, float]:
    """(p50, p99) CPU microseconds of reading what stands of a class, of as many workloads as are followed at most."""
    num = UsageSettings().max_workloads
    told = Forecasts({f"shop/Deployment/w{i}": Forecast(1, 1, 1, 1) for i in range(num)})
    specs = [PodSpec(((CPU, 100),), namespace="shop", owner=f"Deployment/w{i}") for i in range(num)]
    times = []
    for i in np.random.default_rng(seed).integers(num, size=CALLS).tolist():
        begin = time.thread_time_ns()
        found = told.of_pod(specs[i])
        times.append((time.thread_time_ns() - begin) / 1000)
        assert found is not None, "told"
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
            progress=lambda done, total: print(
                f"{time.process_time() - begin:6.1f} CPU s  {done}/{total}", file=sys.stderr, flush=True
            ),
        )  # fmt: skip
        spent = time.process_time() - begin
        middle, high = prediction_times_us(Path(name), given.seed)
    read_middle, read_high = reading_times_us(given.seed)
    print(
        json.dumps(
            {
                "train_cpu_s": round(spent, 1),
                "tasks": len(trained),
                "predict_cpu_us_p50": round(middle, 2),
                "predict_cpu_us_p99": round(high, 2),
                "read_cpu_us_p50": round(read_middle, 2),
                "read_cpu_us_p99": round(read_high, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
