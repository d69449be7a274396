"""``ullage reproduce adversaries``: what breaks predictions, and whether the budget holds or the rung falls.

Cells are those of ``ullage reproduce placement`` (:mod:`simulator.reproduce.placement`), on traces of which the use changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from placement.errors import ConfigError
from placement.learning.prediction import target_of
from placement.resources import BoolArray, IntArray
from simulator.kept import code_version, kept
from simulator.learning.training import train
from simulator.output import Progress
from simulator.reproduce.data_sets import data_set
from simulator.reproduce.placement import BUDGET, DAY_S, KEYS, Cell, Setting, joined, run_cell
from simulator.traces.trace import Trace, Usage
from simulator.traces.usage_readers import read_planetlab
from simulator.usage.usage_learner import HORIZON

Change = Callable[[Trace, BoolArray, int], Trace]


def _scaled(trace: Trace, cpu: Any, memory: Any) -> Trace:
    usage = trace.usage
    columns = [np.rint(c * f).astype(np.int64) for c, f in ((usage.cpu_millicores, cpu), (usage.memory_bytes, memory))]
    return trace.but(usage=Usage(usage.pod, usage.time_s, *columns))


def _requests(trace: Trace) -> IntArray:
    asked = np.array([s.main_amounts[:2] for s in trace.specs], np.int64)
    found: IntArray = asked[trace.pods.spec[trace.usage.pod]].T
    return found


def _regime(trace: Trace, liars: BoolArray, at_s: int) -> Trace:
    return _scaled(trace, np.where(trace.usage.time_s >= at_s, 3.0, 1.0), 1.0)


def _burst(trace: Trace, liars: BoolArray, at_s: int) -> Trace:
    usage, asked = trace.usage, _requests(trace)
    now = (usage.time_s >= at_s) & (usage.time_s < at_s + 3600)
    cpu = np.where(now, asked[0], usage.cpu_millicores)
    return trace.but(usage=replace(usage, cpu_millicores=cpu))


def _lying(trace: Trace, liars: BoolArray, at_s: int) -> Trace:
    usage, asked = trace.usage, _requests(trace)
    lies = liars[trace.pods.spec[usage.pod]]
    return trace.but(
        usage=Usage(
            usage.pod,
            usage.time_s,
            np.where(lies, 2 * asked[0], usage.cpu_millicores),
            np.where(lies, asked[1] * 3 // 2, usage.memory_bytes),
        )
    )


def _leaks(trace: Trace, liars: BoolArray, at_s: int) -> Trace:
    usage, asked = trace.usage, _requests(trace)
    age_days = (usage.time_s - trace.pods.arrival_s[usage.pod]) / DAY_S
    leaked = np.minimum(usage.memory_bytes + asked[1] * 0.25 * age_days, 1.5 * asked[1]).astype(np.int64)
    return trace.but(
        usage=replace(usage, memory_bytes=np.where(liars[trace.pods.spec[usage.pod]], leaked, usage.memory_bytes))
    )


def _foreign(trace: Trace, liars: BoolArray, at_s: int) -> Trace:
    return trace


ADVERSARIES: dict[str, Change] = {
    "none": _foreign,
    "regime-change": _regime,
    "burst-together": _burst,
    "lying-requests": _lying,
    "memory-leaks": _leaks,
    "foreign-factor": _foreign,
    "foreign-model": _foreign,
}
FOREIGN = "1h-peak"
"""What the trees from another cluster predict: its recordings are of a day each."""
FOREIGN_FACTOR = 0.4
"""Of the daily maximum: a factor that would fit a cluster whose load falls."""


def foreign_model(data: Path, folder: Path) -> None:
    """Trees from another kind of cluster: the CPU of PlanetLab's machines, first recorded day. They do not look at the
    hour, which the joined trace could not tell them."""
    day = replace(read_planetlab(data_set(data, "planetlab"))[0], start_s=0)
    train(day, folder, seed=0, targets=[target_of(FOREIGN)])


def attack(
    trace: Trace, name: str, setting: Setting, at_day: int, seed: int, foreign: Callable[[], Path] | None = None
) -> dict[str, Any]:
    """`ullage` with right-sizing under one adversary, and beside it `best-fit` without a mechanism.

    ``fell_after_s`` is when the rung fell after the attack began, ``was_open`` whether it was open before. ``foreign``
    makes the folder of the model for ``foreign-model``, which forecasts from the start, as in ``ullage serve``.
    """
    at_s = int(trace.pods.arrival_s[0]) + at_day * DAY_S
    liars = np.random.default_rng([seed, 7]).random(len(trace.specs)) < 0.1
    changed = ADVERSARIES[name](trace, liars, at_s)
    if name == "foreign-factor":
        setting = replace(setting, factor=FOREIGN_FACTOR)
        at_s = int(trace.pods.arrival_s[0])
    if name == "foreign-model" and foreign is not None:
        setting = replace(setting, model=str(foreign()), horizon=FOREIGN)
        at_s = int(trace.pods.arrival_s[0])
    row = run_cell(changed, Cell("ullage", "rightsized", "packed"), setting, seed)
    falls = [t - at_s for t, rung, *_ in row["rungs"] if rung == "request" and t >= at_s]
    plain = run_cell(changed, Cell("best-fit"), replace(setting, factor=0.0, model="", horizon=HORIZON.name), seed)
    return {
        "adversary": name,
        **row,
        "was_open": is_open([(t, rung) for t, rung, *_ in row["rungs"]], at_s, at_first=setting.factor > 0),
        "fell_after_s": falls[0] if falls else None,
        "over_without_mechanism": plain["over_cpu_guaranteed_share"],
        "kills_without_mechanism": plain["oom_kills"],
        "usd_without_mechanism": plain["usd"],
    }


def is_open(changes: Sequence[tuple[float, str]], at_s: float, *, at_first: bool) -> bool:
    """Whether forecasts were used just before then, by the changes of rung so far; without any, as ``at_first``.

    >>> is_open([(10.0, "history"), (20.0, "request")], 20.0, at_first=False), is_open([], 20.0, at_first=False)
    (True, False)
    """
    before = [rung for t, rung in changes if t < at_s]
    return before[-1] != "request" if before else at_first


ATTACKED = ("adversary", "was_open", "fell_after_s", "over_without_mechanism", "kills_without_mechanism")


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """What a terminal is shown of one adversary on one seed."""
    return {k: round(row[k], 5) if isinstance(row[k], float) else row[k] for k in (*ATTACKED, *KEYS)}


def attacks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each adversary over the seeds: node-time over CPU by guaranteed pods, when the rung fell, USD to `best-fit`."""
    table = []
    for name in dict.fromkeys(row["adversary"] for row in rows):
        mine = [row for row in rows if row["adversary"] == name]
        line: dict[str, Any] = {"adversary": name, "seeds": len(mine)}
        for key, column in (
            ("over", "over_cpu_guaranteed_share"),
            ("over_without_mechanism", "over_without_mechanism"),
        ):
            over = [row[column] for row in mine]
            line |= {key: float(np.mean(over)), f"{key}_low": min(over), f"{key}_high": max(over)}
        falls = [row["fell_after_s"] for row in mine if row["fell_after_s"] is not None]
        line |= {
            "within_budget": all(row["within_budget"] for row in mine),
            "over_worst_day": max(row["over_cpu_worst_day"] for row in mine),
            "fell": len(falls),
            "fell_after_s_most": max(falls, default=None),
            "oom_kills": sum(row["oom_kills"] for row in mine),
            "usd_to_best_fit": float(np.mean([row["usd"] / row["usd_without_mechanism"] for row in mine])),
        }
        table.append(line)
    return table


def run(
    data: Path,
    share: float,
    setting: Setting,
    seeds: range,
    *,
    at_day: int,
    cache: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """Every adversary from ``at_day`` on, on every seed; the JSON report. ``cache`` and ``progress`` as for the cells.

    Raises
    ------
    ConfigError : the replay is over by then, or a recording is missing.
    """
    if at_day >= setting.days:
        raise ConfigError(f"--at-day {at_day}: the replay is over by then; --days {setting.days} must be more")
    data_set(data, "planetlab")  # a mistake shows at once
    rows: list[dict[str, Any]] = []
    digests = []
    with TemporaryDirectory() as folder:

        def foreign() -> Path:
            foreign_model(data, Path(folder))
            return Path(folder)

        for seed in seeds:
            trace = joined(data, share, seed)
            digests.append(trace.digest)
            for name in ADVERSARIES:
                days = f"{at_day}-{setting.warmup_days}-{setting.days}"
                key = f"{code_version()}-{trace.digest}-adversary-{name}-{days}-{seed}"
                rows.append(kept(cache, key, partial(attack, trace, name, setting, at_day, seed, foreign)))
                progress(len(rows), len(seeds) * len(ADVERSARIES))
    told = {"trace": digests[0], "traces": digests, "budget": BUDGET, "seed": seeds.start, "seeds": len(seeds)}
    return {**told, "at_day": at_day, "summary": attacks(rows), "cells": rows}
