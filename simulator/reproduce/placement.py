"""``ullage reproduce placement|adversaries``: strategies and overcommit on the joined recipe, with real use.

Every cell replays the same joined trace (:mod:`simulator.traces.joined`) on an elastic fleet of one shape, with throttling and
kills (:mod:`simulator.usage.usage_truth`), and with every workload rolled out once a week, as deployments are; that is when an
admission policy can lower what runs already. Nothing is fitted on the measured weeks: forecasts and knobs come from what
lies behind the moment at which they are used. Batch (a seeded third of the workloads) asks for reclaimed capacity only
where that mechanism is on; elsewhere it asks for its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from placement.errors import ConfigError
from placement.learning.prediction import card_of, load_rungs, target_of
from placement.resources import CPU, MEMORY, BoolArray, IntArray
from placement.strategies import STRATEGIES
from simulator.cost import PriceBook, shape
from simulator.fleet import Elastic
from simulator.kept import code_version, kept
from simulator.learning.training import train
from simulator.measures import measure
from simulator.output import API_VERSION, check_folder, progress, render, write_whole
from simulator.replay import Policy, Replay, ReplayOptions
from simulator.reproduce.data_sets import data_set
from simulator.traces.joined import Join, join
from simulator.traces.sources import open_trace
from simulator.traces.trace import Pods, Trace, Usage
from simulator.traces.usage_readers import read_planetlab, read_usage
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
    fitting = Pods.of(
        name=pods.name[kept],
        spec=pods.spec[kept],
        arrival_s=pods.arrival_s[kept],
        departure_s=pods.departure_s[kept],
    )
    arrivals = arrivals.but(pods=fitting)
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
    learner = UsageLearner(truth, rungs, budget=BUDGET, factor=setting.factor)
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
        policies.append(rightsizing)
        if not cell.sized_by.startswith("vpa"):
            policies.append(Restoring(rightsizing))
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
        "restored": 0 if rightsizing is None else rightsizing.restored,
        "knobs": [] if rightsizing is None else rightsizing.knobs,
        "cpu_s": outcome.cpu_s,
    }


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


KEYS = (
    *("nodes_mean", "usd", "placed", "over_cpu_share", "over_cpu_guaranteed_share", "over_memory_share"),
    *("oom_kills", "throttled_core_hours", "reclaimed_core_hours", "reclaimed_evictions", "within_budget"),
)


def _shown(row: dict[str, Any], *first: str) -> dict[str, Any]:
    return {k: round(row[k], 5) if isinstance(row[k], float) else row[k] for k in (*first, *KEYS)}


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
        line["usd_to_best_fit"] = float(
            np.mean([r["usd"] / base[r["seed"]] for r in mine if r["seed"] in base] or [np.nan])
        )
        table.append(line)
    return table


def compare_strategies(
    data: Path,
    share: float,
    days: int,
    warmup_days: int,
    cache: Path | None,
    quiet: bool,
    output: str,
    seeds: int,
    page: Path | None,
    model: str,
) -> None:
    """Strategies with and without overcommit on the joined recipe: nodes, USD, violations, kills."""
    rows: list[dict[str, Any]] = []
    setting, total = Setting(warmup_days, days, model=model), seeds * len(CELLS) + len(FRONTIER)
    digests = []
    if page is not None:
        check_folder(page.parent, "report")
    if load_rungs(model, HORIZON).reads_clock:  # a mistake shows at once
        raise ConfigError(
            f"model {model}: looks at hours and weekdays, which the joined recipe does not have; "
            "give one that was trained on a recording without a calendar, such as `ullage trace join` makes"
        )
    card = f"-{hashlib.sha256(card_of(model)).hexdigest()[:12]}" if model else ""
    with progress("replaying", quiet=quiet) as advance:
        for seed in range(seeds):
            trace = joined(data, share, seed)
            digests.append(trace.digest)
            for cell in (*CELLS, *FRONTIER) if seed == 0 else CELLS:
                key = f"{code_version()}-{trace.digest}-{cell.name}-{cell.scale}-{warmup_days}-{days}-{seed}{card}".replace(
                    " ", "_"
                )
                rows.append(kept(cache, key, lambda t=trace, c=cell, s=seed: run_cell(t, c, setting, s)))  # type: ignore[misc]
                advance(len(rows), total)
    if page is not None:
        from simulator.reproduce.placement_page import report

        write_whole({page: report(rows)})
    table = summary(rows)
    result = {"traces": digests, "budget": BUDGET, "seeds": seeds, "summary": table, "cells": rows}
    shown = [{k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()} for line in table]
    click.echo(render({"apiVersion": API_VERSION, "kind": "Reproduction", **result}, shown, output))


def attack_all(
    data: Path,
    share: float,
    days: int,
    warmup_days: int,
    cache: Path | None,
    quiet: bool,
    output: str,
    seed: int,
    seeds: int,
    at_day: int | None,
) -> None:
    """What breaks predictions, and whether the budget holds or the rung falls."""
    rows: list[dict[str, Any]] = []
    digests = []
    setting = Setting(warmup_days, days)
    if at_day is None:
        at_day = min(days - 1, warmup_days + max(1, (days - warmup_days) // 4))
    if at_day >= days:
        raise ConfigError(f"--at-day {at_day}: the replay is over by then; --days {days} must be more")
    data_set(data, "planetlab")  # a mistake shows at once
    with TemporaryDirectory() as folder, progress("replaying", quiet=quiet) as advance:

        def foreign() -> Path:
            foreign_model(data, Path(folder))
            return Path(folder)

        for number in range(seed, seed + seeds):
            trace = joined(data, share, number)
            digests.append(trace.digest)
            for name in ADVERSARIES:
                key = f"{code_version()}-{trace.digest}-adversary-{name}-{at_day}-{warmup_days}-{days}-{number}"
                made = partial(attack, trace, name, setting, at_day, number, foreign)
                rows.append(kept(cache, key, made))
                advance(len(rows), seeds * len(ADVERSARIES))
    result = {"trace": digests[0], "traces": digests, "budget": BUDGET, "seed": seed, "seeds": seeds, "at_day": at_day}
    shown = [_shown(row, *ATTACKED) for row in rows] if seeds == 1 else attacks(rows)
    document = {"apiVersion": API_VERSION, "kind": "Reproduction", **result, "summary": attacks(rows), "cells": rows}
    click.echo(render(document, shown, output))


ATTACKED = ("adversary", "was_open", "fell_after_s", "over_without_mechanism", "kills_without_mechanism")


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
            "fell": len(falls),
            "fell_after_s_most": max(falls, default=None),
            "oom_kills": sum(row["oom_kills"] for row in mine),
            "usd_to_best_fit": float(np.mean([row["usd"] / row["usd_without_mechanism"] for row in mine])),
        }
        table.append(line)
    return table


__all__ = ["attack_all", "compare_strategies"]
