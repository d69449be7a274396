"""How the siblings rung does on recorded owners: the PlanetLab days, one after the other, through the deployed forecaster.

A workload is a slice on a host, its siblings are the same slice elsewhere (its "namespace"), and it asks for the whole
machine. The days were not recorded one after the other; only names that no earlier day had are judged, within their first
day, from the moment on at which they are first told, a quarter of an hour after they came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from placement.learning.baselines import Target
from placement.learning.forecasting import LEVEL, Forecaster
from placement.learning.horizons import EVERY_WORKLOAD
from placement.learning.prediction import ask
from placement.learning.siblings import LENGTHS, SIBLINGS
from placement.learning.usage import DAY, HOUR, STEP_S, UsageSeries
from placement.resources import CPU, BoolArray, IntArray
from simulator.learning.stacking import pinball
from simulator.reproduce.forecast_judging import ratio
from simulator.traces.usage_readers import host_of

TARGET = Target(6)
ASKED = {CPU: 1000}
QUARTER = LENGTHS[0]
"""Samples after which a newcomer is told of; promises are an hour apart from there."""
DRAWS = 2000
"""Of workloads, for an interval."""


@dataclass(frozen=True, slots=True)
class Said:
    """What was said of a new name, and what came of it."""

    name: str
    step: int
    """Samples that it had by then."""
    rung: str
    promised: int
    truth: float


def judge_siblings(days: Sequence[UsageSeries]) -> dict[str, dict[str, Any]]:
    """By day after the first: what was said of its new names once an hour, and what came of it in the next six.

    ``forecasts`` are new names × hours, ``answered`` the share of them on the siblings rung, and of those (None without
    any) ``coverage``, mean ``promised`` and mean ``true`` peak as shares of the request, pinball loss of what was said
    and of the request, and their ``ratio``; ``workloads`` is how many names were answered at all. ``interval`` and
    ``interval_of_slices`` are of the coverage, 95 %, names and whole slices drawn anew. ``first_hour`` is the same of
    every quarter of the first hour, by minute.
    """
    forecaster = Forecaster(TARGET, max_workloads=EVERY_WORKLOAD, siblings=True)
    seen: set[str] = set()
    found: dict[str, dict[str, Any]] = {}
    for number, day in enumerate(days):
        names = [f"{group}/Host/{host_of(name)}" for name, group in zip(day.workloads, day.groups, strict=True)]
        new = {name: row for row, name in enumerate(names) if name not in seen}
        said = played(forecaster, number * DAY, names, new if seen else {}, np.rint(day.share(CPU) * 1000))
        if seen:
            hourly = [one for one in said if one.step % HOUR == QUARTER]
            early = {step: [one for one in said if one.step == step] for step in range(QUARTER, HOUR + 1, QUARTER)}
            found[day.name] = summary(hourly, SIBLINGS) | {
                "first_hour": {f"{step * STEP_S // 60}min": summary(of, SIBLINGS) for step, of in early.items()}
            }
        seen.update(names)
    return found


def played(
    forecaster: Forecaster, begin: int, names: Sequence[str], new: Mapping[str, int], millicores: Any
) -> list[Said]:
    """One day: every new name by quarters of its first hour, then every hour."""
    asked = dict.fromkeys(names, ASKED)
    said = []
    for step in range(1, DAY + 1):
        now_s = (begin + step) * STEP_S
        for name, value in zip(names, millicores[:, step - 1].tolist(), strict=True):
            forecaster.add(name, now_s, now_s, cpu_millicores=int(value))
        if step % HOUR != QUARTER and (step > HOUR or step % QUARTER):
            continue
        forecaster.keep(asked)
        while questions := forecaster.questions(asked):
            forecaster.take(ask(forecaster.rungs, questions))
        forecaster.settle(now_s)
        ahead = millicores[:, step : step + TARGET.horizon_h * HOUR]
        if new and ahead.shape[1] == TARGET.horizon_h * HOUR:
            forecasts = forecaster.forecasts(now_s).of
            said += [
                Said(n, step, forecasts[n].rung, forecasts[n].cpu, float(ahead[row].max())) for n, row in new.items()
            ]
    return said


def summary(said: Sequence[Said], rung: str) -> dict[str, Any]:
    """Of what was said on a rung, as :func:`judge_siblings` tells it."""
    told = [one for one in said if one.rung == rung]
    promised = np.array([one.promised for one in told], float) / ASKED[CPU]
    truth = np.array([one.truth for one in told], float) / ASKED[CPU]
    counts: dict[str, Any] = {
        "forecasts": len(said),
        "answered": len(told) / max(len(said), 1),
        "workloads": len({one.name for one in told}),
    }
    if not told:
        return counts | dict.fromkeys(
            ("coverage", "interval", "interval_of_slices", "promised", "true", "pinball", "request_pinball", "ratio")
        )
    even = np.ones(len(told))
    loss, asked = (pinball(truth, values, even, LEVEL) for values in (promised, even))
    covered = truth <= promised
    return counts | {
        "coverage": float(covered.mean()),
        "interval": interval(covered, [one.name for one in told]),
        "interval_of_slices": interval(covered, [one.name.split("/", 1)[0] for one in told]),
        "promised": float(promised.mean()),
        "true": float(truth.mean()),
        "pinball": loss,
        "request_pinball": asked,
        "ratio": ratio(loss, asked),
    }


def interval(covered: BoolArray, drawn: Sequence[str]) -> list[float]:
    """95 % of a coverage, whole clusters of outcomes ``drawn`` by name: those of one are alike."""
    names, cluster = np.unique(np.array(drawn), return_inverse=True)
    hits, total = np.bincount(cluster, covered), np.bincount(cluster)
    times: IntArray = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
    low, high = np.quantile(times @ hits / (times @ total), (0.025, 0.975))
    return [float(low), float(high)]
