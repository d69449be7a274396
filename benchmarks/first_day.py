"""What answers best in a workload's first day: a model, its siblings, or its request, through the deployed forecaster.

The first three PlanetLab days one after the other (the others are for tests), in a seeded part of the slices. Trees are
fitted on the first day; from then on they are loaded as ``ullage serve`` loads a folder, so that nothing of that day
counts for them; newcomers of the second day give the factor, names that no earlier day had are judged on the third,
every hour from a quarter of an hour on, by the peak of the next six. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from placement.learning.boosted import QuantileModel
from placement.learning.forecasting import Forecaster
from placement.learning.horizons import EVERY_WORKLOAD
from placement.learning.prediction import HISTORY, MODEL, REQUEST, YOUNG, HistoryPredictor, ModelPredictor, Rungs
from placement.learning.siblings import SIBLINGS
from placement.learning.spans import Span
from placement.learning.usage import DAY, HOUR, STEP_S, UsageSeries
from placement.resources import CPU
from simulator.learning.forecast_samples import Recording, folds_of
from simulator.learning.training import Effort, bases_for, effort_for, fit_bases
from simulator.reproduce.cold_siblings import ASKED, QUARTER, TARGET, Said, played, summary
from simulator.traces.usage_readers import host_of, joined_days, read_planetlab

DAYS = 3
FIRST_H = (0, 1, 3, 6, 12, 24)
"""Hours of the first day at which it is cut to tell how good answers are."""


def trees_of(day: UsageSeries, seed: int) -> list[QuantileModel]:
    """Fitted on three quarters of a day's names, stopped by the others."""
    series = joined_days([day])
    recording = Recording(series, np.arange(HOUR, series.num_steps, HOUR), as_live=True)
    samples = recording.samples(CPU, TARGET)
    held = (folds_of(len(series.workloads), 4, seed) == 0)[samples.workload]
    effort = effort_for(TARGET, Effort(30_000, by_weight=True), int((~held).sum()))
    return fit_bases(
        samples,
        resource=CPU,
        target=TARGET,
        train=~held,
        stop=held,
        effort=effort,
        seed=seed,
        bases=bases_for(TARGET, 1),
    )


def rungs_of(models: list[QuantileModel], begin_s: int) -> Rungs:
    """As loaded from a folder whose recording is of the day that begins then."""
    history = HistoryPredictor.plain(TARGET)
    end_s = begin_s + DAY * STEP_S
    span = Span(begin_s, end_s, end_s, "")
    model = ModelPredictor(TARGET, {CPU: models}, {CPU: (1.0,)}, {CPU: 1.0}, history, span=span)
    return Rungs(((MODEL, model), (HISTORY, history)), TARGET)


def part_of(day: UsageSeries, share: float, seed: int) -> UsageSeries:
    """A seeded share of the slices, the same on every day."""
    return day.pick(np.array([zlib.crc32(f"{seed}/{group}".encode()) % 1000 < 1000 * share for group in day.groups]))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.3, help="of the slices")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    whole = read_planetlab(given.traces / "planetlab")[:DAYS]
    models = trees_of(whole[0], given.seed)
    days = [part_of(day, given.share, given.seed) for day in whole]
    begin = whole[0].start_s // STEP_S
    found: dict[str, object] = {"names": [len(day.workloads) for day in days], "trees": models[0].rounds}
    for rung, siblings in ((YOUNG, False), (SIBLINGS, True)):
        forecaster = Forecaster(TARGET, max_workloads=EVERY_WORKLOAD, siblings=siblings)
        seen: set[str] = set()
        said: list[Said] = []
        for number, day in enumerate(days):
            if number == 1 and rung == YOUNG:
                forecaster.use(rungs_of(models, begin * STEP_S))
            names = [f"{group}/Host/{host_of(name)}" for name, group in zip(day.workloads, day.groups, strict=True)]
            new = {name: row for row, name in enumerate(names) if name not in seen and number == DAYS - 1}
            said = played(forecaster, begin + number * DAY, names, new, np.rint(day.share(CPU) * ASKED[CPU]))
            seen.update(names)
        said = [one for one in said if one.step % HOUR == QUARTER]
        found[rung] = {
            **summary(said, rung),
            "on": {on: sum(one.rung == on for one in said) for on in (MODEL, HISTORY, YOUNG, SIBLINGS, REQUEST)},
            "all": summary([replace(one, rung=rung) for one in said], rung),
            "factor": forecaster.factor(rung, CPU),
            "by_hour": {
                f"{low}-{high}": summary([one for one in said if low * HOUR <= one.step < high * HOUR], rung)
                for low, high in pairwise(FIRST_H)
            },
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
