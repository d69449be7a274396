"""How the siblings rung does on recorded owners: the PlanetLab days, one after the other, through the deployed forecaster.

A workload is a slice on a host, its siblings are the same slice elsewhere (its "namespace"), and it asks for the whole
machine. The days were not recorded one after the other; only names that no earlier day had are judged, within their first day.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from placement.learning.baselines import Target
from placement.learning.forecasting import LEVEL, Forecaster
from placement.learning.horizons import EVERY_WORKLOAD
from placement.learning.prediction import ask
from placement.learning.siblings import SIBLINGS
from placement.learning.stacking import pinball
from placement.learning.usage import DAY, HOUR, STEP_S, UsageSeries
from placement.resources import CPU
from simulator.reproduce.forecast_judging import ratio
from simulator.traces.usage_readers import host_of

TARGET = Target(6)
ASKED = {CPU: 1000}


def judge_siblings(days: Sequence[UsageSeries]) -> dict[str, dict[str, float | None]]:
    """By day after the first: what was said of its new names every hour, and what came of it in the next six.

    ``forecasts`` are new names × hours, ``answered`` the share of them on the siblings rung, and of those (None without
    any) ``coverage``, mean ``promised`` and mean ``true`` peak as shares of the request, pinball loss of what was said
    and of the request, and their ``ratio``; ``workloads`` is how many names were answered at all.
    """
    forecaster = Forecaster(TARGET, max_workloads=EVERY_WORKLOAD, siblings=True)
    seen: set[str] = set()
    found: dict[str, dict[str, float | None]] = {}
    for number, day in enumerate(days):
        names = [f"{group}/Host/{host_of(name)}" for name, group in zip(day.workloads, day.groups, strict=True)]
        new = {name: row for row, name in enumerate(names) if name not in seen}
        said = played(forecaster, number * DAY, names, new if seen else {}, np.rint(day.share(CPU) * 1000))
        if seen:
            found[day.name] = summary(said, SIBLINGS)
        seen.update(names)
    return found


def played(
    forecaster: Forecaster, begin: int, names: Sequence[str], new: dict[str, int], millicores: Any
) -> list[tuple[str, str, int, float]]:
    """One day: (name, rung, promised, truth) of each new name and hour."""
    asked = dict.fromkeys(names, ASKED)
    said = []
    for step in range(DAY):
        now_s = (begin + step + 1) * STEP_S
        for name, value in zip(names, millicores[:, step].tolist(), strict=True):
            forecaster.add(name, now_s, now_s, cpu_millicores=int(value))
        if (step + 1) % HOUR:
            continue
        forecaster.keep(asked)
        while questions := forecaster.questions(asked):
            forecaster.take(ask(forecaster.rungs, questions))
        forecaster.settle(now_s)
        ahead = millicores[:, step + 1 : step + 1 + TARGET.horizon_h * HOUR]
        if new and ahead.shape[1] == TARGET.horizon_h * HOUR:
            forecasts = forecaster.forecasts(now_s).of
            said += [(n, forecasts[n].rung, forecasts[n].cpu, float(ahead[row].max())) for n, row in new.items()]
    return said


def summary(said: Sequence[tuple[str, str, int, float]], rung: str) -> dict[str, float | None]:
    """Of what was said on a rung, as :func:`judge_siblings` tells it."""
    told = [(name, promised, truth) for name, on, promised, truth in said if on == rung]
    promised, truth = (np.array([row[column] for row in told], float) / ASKED[CPU] for column in (1, 2))
    counts: dict[str, float | None] = {
        "forecasts": len(said),
        "answered": len(told) / max(len(said), 1),
        "workloads": len({name for name, _, _ in told}),
    }
    if not told:
        return counts | dict.fromkeys(("coverage", "promised", "true", "pinball", "request_pinball", "ratio"))
    even = np.ones(len(told))
    loss, asked = (pinball(truth, values, even, LEVEL) for values in (promised, even))
    return counts | {
        "coverage": float((truth <= promised).mean()),
        "promised": float(promised.mean()),
        "true": float(truth.mean()),
        "pinball": loss,
        "request_pinball": asked,
        "ratio": ratio(loss, asked),
    }
