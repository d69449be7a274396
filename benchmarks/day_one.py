"""The day-one recipe of forecasting, as a starting point: what the models of today are to be measured from.

One LightGBM quantile model per task, fitted to the difference between the target and one strong simple rule
(``init_score``); no stacking, no calibration, no second fit. Bitbrains: CPU, 70 % of the workloads, days up to 52,
stopped early on days 53–61, judged on the other workloads and days 62–90. PlanetLab: names 70/30, fitted on 0303 and
0306, stopped early on 0309, judged on 0322 and 0325. "Best" is the best rule as shipped, in hindsight, without ``max72`` and
``max28w``, which that recipe's study did not have; the best of all is given beside it. Prints one JSON line per task.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import lightgbm
import numpy as np

from placement.learning.baselines import P95, PEAK, Target, baselines_within
from placement.learning.usage import DAY, HOUR
from placement.resources import CPU, AnyArray, BoolArray, FloatArray
from simulator.learning.forecast_samples import STRIDE_H, Recording, Samples
from simulator.learning.stacking import pinball
from simulator.learning.training import thin
from simulator.reproduce.forecast_planetlab import PLANETLAB_TEST, PLANETLAB_TRAIN, Days
from simulator.traces.usage_readers import read_bitbrains_rnd, read_planetlab

LEVEL = 0.95
UNKNOWN_THEN = ("max72", "max28w")
BASES = {(1, PEAK): "max_24h", (1, P95): "p99_24h", (6, PEAK): "max_168h", (6, P95): "p99_24h", (24, PEAK): "max_168h"}
PARAMETERS = {
    "objective": "quantile",
    "alpha": LEVEL,
    "learning_rate": 0.05,
    "num_leaves": 63,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "num_threads": 1,
    "verbose": -1,
}


def fitted(samples: Samples, train: BoolArray, stop: BoolArray, test: BoolArray, base: str, rows: int) -> FloatArray:
    """Forecasts at ``test`` of one model that corrects the feature ``base``."""
    rng = np.random.default_rng(0)
    at = samples.schema.names.index(base)

    def start(rows: AnyArray) -> FloatArray:
        return np.nan_to_num(rows[:, at].astype(float), nan=1.0)

    def data(mask: BoolArray, most: int) -> lightgbm.Dataset:
        part = samples.pick(thin(mask, most, rng))
        return lightgbm.Dataset(part.rows, part.truth, weight=part.weight, init_score=start(part.rows))

    model = lightgbm.train(
        PARAMETERS | {"seed": 0},
        data(train, rows),
        300,
        valid_sets=[data(stop, rows // 5)],
        callbacks=[lightgbm.early_stopping(30, verbose=False)],
    )
    late = samples.rows[test]
    return np.clip(start(late) + np.asarray(model.predict(late), float), 0, 1)


def told(name: str, samples: Samples, test: BoolArray, forecast: FloatArray, rules: Mapping[str, AnyArray]) -> None:
    """Print one task."""
    truth, weight = samples.truth[test].astype(float), samples.weight[test]
    losses = {n: pinball(truth, values.astype(float), weight, LEVEL) for n, values in rules.items()}
    then = min((n for n in losses if n not in UNKNOWN_THEN), key=lambda n: losses[n])
    now = min(losses, key=lambda n: losses[n])
    loss = pinball(truth, forecast, weight, LEVEL)
    print(
        json.dumps(
            {
                "task": name,
                "model": round(loss, 4),
                "best_then": [then, round(losses[then], 4), round(loss / losses[then], 3)],
                "best_now": [now, round(losses[now], 4), round(loss / losses[now], 3)],
                "vs_vpa": round(loss / losses["vpa-p90"], 3),
                "coverage": round(float((samples.truth[test] <= forecast.astype(np.float32)).mean()), 3),
            }
        ),
        flush=True,
    )


def main() -> None:
    """Run every CPU task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=150_000)
    given = parser.parse_args()
    days = Days(read_planetlab(given.traces / "planetlab"))
    rng = np.random.default_rng(0)
    for target in (Target(h, s) for h in (1, 6) for s in (PEAK, P95)):
        samples, rules = days.samples(target), days.baselines(target)
        held = (rng.permutation(len(days.names)) % 10 < 3)[samples.workload]
        stamps = np.array(days.stamps)[samples.start_day]
        train = np.isin(stamps, PLANETLAB_TRAIN[:2]) & ~held
        stop = np.isin(stamps, PLANETLAB_TRAIN[2:]) & ~held
        test = np.isin(stamps, PLANETLAB_TEST) & held
        forecast = fitted(samples, train, stop, test, BASES[target.horizon_h, target.statistic], given.rows)
        told(f"planetlab-{target.name}", samples, test, forecast, {n: v[test] for n, v in rules.items()})
    series = read_bitbrains_rnd(given.traces / "bitbrains-rnd")
    recording = Recording(series, np.arange(28 * DAY, series.num_steps, HOUR))
    held_vm = rng.permutation(len(series.workloads)) % 10 < 3
    for target in (Target(h, s) for h in (1, 6, 24) for s in (PEAK, P95)):
        samples = recording.samples(CPU, target)
        held = held_vm[samples.workload]
        train = (samples.end_day <= 52) & ~held
        stop = (samples.start_day > 52) & (samples.end_day <= 61) & ~held
        test = (samples.start_day > 61) & (samples.hour % STRIDE_H == 0) & held
        base = BASES.get((target.horizon_h, target.statistic), "max_168h")
        forecast = fitted(samples, train, stop, test, base, given.rows)
        rivals = recording.baselines(CPU, target, samples.pick(test), baselines_within(28))
        told(f"bitbrains-cpu-{target.name}", samples, test, forecast, rivals)


if __name__ == "__main__":
    main()
