"""``ullage reproduce placement``: strategies and overcommit on the joined recipe, with real use.

Every cell replays the same joined trace (:mod:`simulator.traces.joined`) on an elastic fleet of one shape, with throttling and
kills (:mod:`simulator.usage.usage_truth`), and with every workload rolled out once a week, as deployments are; that is when an
admission policy can lower what runs already. Nothing is fitted on the measured weeks: forecasts and knobs come from what
lies behind the moment at which they are used. Batch (a seeded third of the workloads) asks for reclaimed capacity only
where that mechanism is on; elsewhere it asks for its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from placement.errors import ConfigError
from placement.learning.prediction import card_of, load_rungs, target_of
from placement.learning.siblings import SIBLINGS
from placement.resources import CPU, MEMORY
from placement.strategies import STRATEGIES
from simulator.cost import PriceBook, shape
from simulator.fleet import Elastic
from simulator.kept import code_version, kept
from simulator.measures import measure
from simulator.output import Progress
from simulator.replay import Policy, Replay, ReplayOptions
from simulator.reproduce.data_sets import data_set
from simulator.traces.joined import Join, join
from simulator.traces.sources import open_trace
from simulator.traces.trace import Trace
from simulator.traces.usage_readers import read_usage
from simulator.usage.lifetime_learner import LifetimeLearner
from simulator.usage.reclaiming import Reclaiming, batch_on_reclaimed
from simulator.usage.rightsizing import Restoring, Rightsizing
from simulator.usage.rollouts import Rollouts
from simulator.usage.usage_learner import HORIZON, UsageLearner
from simulator.usage.usage_truth import UsageTruth

DAY_S = 86_400
BUDGET = 0.01
"""Of node-time, at most so much over CPU capacity."""
SHAPE = shape("general-128", 128, 1024)


@dataclass(frozen=True)
class Cell:
    """A strategy, the mechanism that lets it overcommit, and what that mechanism is sized by."""

    strategy: str
    mechanism: str = "none"
    sized_by: str = ""
    """`rightsized`: see :class:`Rightsizing`; `reclaimed`: ``forecast``, or ``request`` (only what nobody asked for)."""
    scale: float = 1.0
    """One more factor on right-sized CPU, for the frontier."""

    @property
    def name(self) -> str:
        """For tables and charts."""
        by = f" by {self.sized_by}" if self.sized_by else ""
        return self.strategy if self.mechanism == "none" else f"{self.strategy}, {self.mechanism}{by}"


CELLS = (
    *(Cell(s) for s in ("kube-default", "best-fit", "koordinator", "predicted", "coach-6x4h", "ullage")),
    Cell("best-fit", "rightsized", "vpa"),
    Cell("best-fit", "rightsized", "vpa-tuned"),
    Cell("best-fit", "rightsized", "packed"),
    Cell("koordinator", "rightsized", "vpa-tuned"),
    Cell("predicted", "rightsized", "packed"),
    Cell("coach-6x4h", "rightsized", "forecast"),
    Cell("ullage", "rightsized", "vpa"),
    Cell("ullage", "rightsized", "forecast"),
    Cell("ullage", "rightsized", "packed"),
    Cell("best-fit", "reclaimed", "request"),
    Cell("best-fit", "reclaimed", "forecast"),
    Cell("koordinator", "reclaimed", "forecast"),
    Cell("predicted", "reclaimed", "forecast"),
    Cell("coach-6x4h", "reclaimed", "forecast"),
    Cell("ullage", "reclaimed", "forecast"),
)
FRONTIER = tuple(
    Cell(strategy, "rightsized", sized_by, scale)
    for strategy, sized_by in (("best-fit", "vpa-tuned"), ("best-fit", "packed"), ("ullage", "packed"))
    for scale in (0.6, 0.8, 1.25, 1.6)
)
"""Beside those of :data:`CELLS`, on the first seed."""


@dataclass(frozen=True)
class Setting:
    """What all cells share."""

    warmup_days: int = 15
    """A week to learn in, a week in which every workload is rolled out once, and one day."""
    days: int = 29
    rollout_hours: int = 168
    """Every workload is rolled out once in so many hours."""
    factor: float = 0.0
    """Factor that stands until the learner has outcomes, as if fitted elsewhere; 0 = none."""
    model: str = ""
    """Folder of ``ullage train`` to forecast with; empty = the history alone."""
    horizon: str = HORIZON.name
    """What is forecast."""
    siblings: bool = False
    """Whether newcomers are told by who looked alike."""

    def __post_init__(self) -> None:
        if self.days <= self.warmup_days:
            raise ConfigError(f"--warmup-days {self.warmup_days} of --days {self.days} leaves nothing to measure")


def joined(data: Path, share: float, seed: int) -> Trace:
    """DLRM arrivals that fit the shape, with Bitbrains usage, from ``data`` (the folder of all recordings)."""
    arrivals = open_trace(f"alibaba-dlrm-2025:{data_set(data, 'alibaba-dlrm-2025')}")
    most = SHAPE.node("").amounts
    small = np.array([all(s.amount(r) <= most[r] for r in (CPU, MEMORY)) for s in arrivals.specs])
    pods = arrivals.pods
    kept = np.flatnonzero(small[pods.spec])
    if not len(kept):
        raise ConfigError(f"none of the {len(pods)} instances of {arrivals.manifest.name} fits {SHAPE.name}")
    arrivals = arrivals.but(pods=pods.pick(kept))
    found = join(arrivals, read_usage(data_set(data, "bitbrains-rnd")), Join(share=share, seed=seed))
    if not len(found.pods):
        raise ConfigError(f"--share {share:g} of {len(kept)} instances leaves none on seed {seed}; give more")
    return found


def run_cell(trace: Trace, cell: Cell, setting: Setting, seed: int) -> dict[str, Any]:
    """One replay in numbers."""
    start = int(trace.pods.arrival_s[0])
    measured_s = start + setting.warmup_days * DAY_S
    truth = UsageTruth(trace.usage, measured_from_s=measured_s)
    parts = STRATEGIES[cell.strategy].reads_parts
    rungs = load_rungs(setting.model, target_of(setting.horizon), parts=parts)
    learner = UsageLearner(truth, rungs, budget=BUDGET, factor=setting.factor, siblings=setting.siblings)
    policies: list[Policy] = [truth]
    if cell.sized_by != "request":
        policies.append(learner)
    if cell.strategy == "ullage":
        policies.append(LifetimeLearner(every_s=3600))
    rightsizing = None
    if cell.mechanism == "rightsized":
        rightsizing = Rightsizing(
            learner,
            cell.sized_by,
            cell.scale,
            node_cpu=SHAPE.node("").amounts[CPU],
            node_memory=SHAPE.node("").amounts[MEMORY],
            budget=BUDGET,
            tuned_at_s=start + 7 * DAY_S,
        )
        policies += [rightsizing, Restoring(rightsizing)]
    policies.append(Rollouts(seed, setting.rollout_hours))
    reclaiming = Reclaiming(truth)
    if cell.mechanism == "reclaimed":
        trace = batch_on_reclaimed(trace, seed)
        policies.append(reclaiming)
    options = ReplayOptions(
        seed=seed,
        elastic=Elastic((SHAPE,)),
        policies=tuple(policies),
        warmup_s=setting.warmup_days * DAY_S,
        end_s=start + setting.days * DAY_S,
        log=False,
    )
    outcome = Replay(trace, STRATEGIES[cell.strategy], options).run()
    metrics = measure(outcome, trace, PriceBook({SHAPE.name: SHAPE}))["metrics"]
    use = truth.summary()
    return {
        **asdict(cell),
        "seed": seed,
        "nodes_mean": metrics["node_hours"] / metrics["hours"],
        "usd": metrics["usd"],
        "pods": metrics["pods"],
        "placed": metrics["placed"],
        "within_budget": use["over_cpu_guaranteed_share"] <= BUDGET,
        "reclaimed_evictions": reclaiming.evictions,
        **use,
        "rungs": learner.fallen,
        "factor": [learner.forecaster.factor(learner.forecaster.rung, r) for r in (CPU, MEMORY)],
        "newcomers": learner.forecaster.num_newcomers(SIBLINGS, CPU),
        "newcomers_factor": [learner.forecaster.factor(SIBLINGS, r) for r in (CPU, MEMORY)],
        "newcomers_coverage": [learner.forecaster.coverage(SIBLINGS, r) for r in (CPU, MEMORY)],
        "restored": 0 if rightsizing is None else rightsizing.restored,
        "knobs": [] if rightsizing is None else rightsizing.knobs,
        "cpu_s": outcome.cpu_s,
    }


KEYS = (
    *("nodes_mean", "usd", "placed", "over_cpu_share", "over_cpu_guaranteed_share", "over_memory_share"),
    *("oom_kills", "throttled_core_hours", "reclaimed_core_hours", "reclaimed_evictions", "within_budget"),
)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds of each cell, with the range of nodes and of node-time over CPU, and USD against plain best fit."""
    base = {r["seed"]: r["usd"] for r in rows if (r["strategy"], r["mechanism"]) == ("best-fit", "none")}
    table = []
    for cell in dict.fromkeys(Cell(r["strategy"], r["mechanism"], r["sized_by"], r["scale"]) for r in rows):
        mine = [r for r in rows if all(r[k] == v for k, v in asdict(cell).items())]
        over = [r["over_cpu_guaranteed_share"] for r in mine]
        line: dict[str, Any] = {"cell": cell.name, "scale": cell.scale, "seeds": len(mine)}
        line |= {k: float(np.mean([r[k] for r in mine])) for k in KEYS[:-1]}
        line |= {"nodes_low": min(r["nodes_mean"] for r in mine), "nodes_high": max(r["nodes_mean"] for r in mine)}
        line |= {"over_low": min(over), "over_high": max(over), "within_budget": max(over) <= BUDGET}
        line["over_worst_day"] = max(r["over_cpu_worst_day"] for r in mine)
        line["usd_to_best_fit"] = float(
            np.mean([r["usd"] / base[r["seed"]] for r in mine if r["seed"] in base] or [np.nan])
        )
        table.append(line)
    return table


def run(
    data: Path, share: float, setting: Setting, *, seeds: int, cache: Path | None, progress: Progress
) -> dict[str, Any]:
    """Every cell on ``seeds`` seeds from 0 on; the JSON report. ``cache`` keeps finished cells; ``progress`` gets done and total.

    Raises
    ------
    ConfigError : the model looks at what the joined recipe does not have, or nothing is left to replay.
    """
    rows: list[dict[str, Any]] = []
    total = seeds * len(CELLS) + len(FRONTIER)
    digests = []
    if load_rungs(setting.model, HORIZON).reads_clock:  # a mistake shows at once
        raise ConfigError(
            f"model {setting.model}: looks at hours and weekdays, which the joined recipe does not have; "
            "give one that was trained on a recording without a calendar, such as `ullage trace join` makes"
        )
    card = f"-{hashlib.sha256(card_of(setting.model)).hexdigest()[:12]}" if setting.model else ""
    for seed in range(seeds):
        trace = joined(data, share, seed)
        digests.append(trace.digest)
        for cell in (*CELLS, *FRONTIER) if seed == 0 else CELLS:
            name = f"{cell.name}-{cell.scale}-{setting.warmup_days}-{setting.days}-{seed}{card}"
            key = f"{code_version()}-{trace.digest}-{name}".replace(" ", "_")
            rows.append(kept(cache, key, partial(run_cell, trace, cell, setting, seed)))
            progress(len(rows), total)
    return {"traces": digests, "budget": BUDGET, "seeds": seeds, "summary": summary(rows), "cells": rows}
