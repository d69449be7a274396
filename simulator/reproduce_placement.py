"""``ullage reproduce placement|adversaries``: strategies and overcommit on the joined recipe, with real use.

Every cell replays the same joined trace (:mod:`simulator.joined`) on an elastic fleet of one shape, with throttling and
kills (:mod:`simulator.usage_truth`). Nothing is fitted on the measured days: forecasts are calibrated while the replay
runs, on outcomes that lie behind it. Batch (a seeded third of the workloads) asks for reclaimed capacity only where that
mechanism is on; elsewhere it asks for its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from placement.resources import BoolArray, IntArray
from placement.strategies import STRATEGIES
from simulator.cost import PriceBook, shape
from simulator.fleet import Elastic
from simulator.joined import Join, join
from simulator.measures import measure
from simulator.output import API_VERSION, output_option, progress, render
from simulator.replay import Policy, Replay, ReplayOptions
from simulator.sources import open_trace
from simulator.trace import Trace, Usage
from simulator.usage_readers import read_usage
from simulator.usage_truth import Reclaiming, Rightsizing, UsageLearner, UsageTruth, on_reclaimed

DAY_S = 86_400
BUDGET = 0.01
"""Of node-time, at most so much over CPU capacity."""
SHAPE = shape("general-128", 128, 1024)
CELLS = (
    *((s, "none") for s in ("kube-default", "best-fit", "koordinator", "predicted", "ullage")),
    *((s, "rightsized") for s in ("best-fit", "koordinator", "predicted", "ullage")),
    *((s, "reclaimed") for s in ("best-fit", "predicted", "ullage")),
)


@dataclass(frozen=True)
class Setting:
    """What all cells share."""

    warmup_days: int = 4
    days: int = 12
    factor: float = 0.0
    """Factor that the learner starts from, as if fitted elsewhere; 0 = its own."""


def joined(data: Path, share: float, seed: int) -> Trace:
    """DLRM arrivals with Bitbrains usage from ``data`` (the folder of all recordings)."""
    arrivals = open_trace(f"alibaba-dlrm-2025:{data / 'alibaba-dlrm-2025'}")
    return join(arrivals, read_usage(data / "bitbrains-rnd"), Join(share=share, seed=seed))


def batch_on_reclaimed(trace: Trace, seed: int) -> Trace:
    """A third of the workloads, drawn with the seed, asks for reclaimed capacity."""
    owners = sorted({s.owner for s in trace.specs})
    batch = {o for o, x in zip(owners, np.random.default_rng([seed, 3]).random(len(owners)), strict=True) if x < 1 / 3}
    return trace.but(specs=tuple(on_reclaimed(s) if s.owner in batch else s for s in trace.specs))


def cell(trace: Trace, strategy: str, mechanism: str, setting: Setting, seed: int) -> dict[str, Any]:
    """One replay in numbers."""
    start = int(trace.pods.arrival_s[0])
    truth = UsageTruth(trace.usage, measured_from_s=start + setting.warmup_days * DAY_S)
    learner = UsageLearner(truth)
    if setting.factor:
        learner.factor = np.array([setting.factor, setting.factor])
    policies: list[Policy] = [truth, learner]
    if mechanism == "rightsized":
        policies.append(Rightsizing())
    reclaiming = Reclaiming(truth)
    if mechanism == "reclaimed":
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
    outcome = Replay(trace, STRATEGIES[strategy], options).run()
    metrics = measure(outcome, trace, PriceBook({SHAPE.name: SHAPE}))["metrics"]
    use = truth.summary()
    return {
        "strategy": strategy,
        "mechanism": mechanism,
        "nodes_mean": metrics["node_hours"] / metrics["hours"],
        "usd": metrics["usd"],
        "pods": metrics["pods"],
        "placed": metrics["placed"],
        "within_budget": use["over_cpu_guaranteed_share"] <= BUDGET,
        "reclaimed_evictions": reclaiming.evictions,
        **use,
        "rungs": learner.rungs,
        "factor": learner.factor.tolist(),
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
}
FOREIGN_FACTOR = 0.4
"""Of the daily maximum: a factor that would fit a cluster whose load falls."""


def attack(trace: Trace, name: str, setting: Setting, at_day: int, seed: int) -> dict[str, Any]:
    """`ullage` with right-sizing under one adversary; ``fell_after_s`` is when the rung fell after its start."""
    at_s = int(trace.pods.arrival_s[0]) + at_day * DAY_S
    liars = np.random.default_rng([seed, 7]).random(len(trace.specs)) < 0.1
    changed = ADVERSARIES[name](trace, liars, at_s)
    if name == "foreign-factor":
        setting = replace(setting, factor=FOREIGN_FACTOR)
    row = cell(changed, "ullage", "rightsized", setting, seed)
    falls = [t - at_s for t, rung, _ in row["rungs"] if rung == "request" and t >= at_s]
    return {"adversary": name, **row, "fell_after_s": falls[0] if falls else None}


def _shown(row: dict[str, Any], *first: str) -> dict[str, Any]:
    keys = (
        *("nodes_mean", "usd", "placed", "over_cpu_share", "over_cpu_guaranteed_share", "over_memory_share"),
        *("oom_kills", "throttled_core_hours", "reclaimed_core_hours", "within_budget"),
    )
    return {k: round(row[k], 5) if isinstance(row[k], float) else row[k] for k in (*first, *keys)}


def _options(command: Any) -> Any:
    for option in (
        click.option(
            "--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of recordings."
        ),
        click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.05, show_default=True),
        click.option("--days", type=click.IntRange(2), default=12, show_default=True),
        click.option("--warmup-days", type=click.IntRange(0), default=4, show_default=True),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("-q", "--quiet", is_flag=True),
        output_option,
    ):
        command = option(command)
    return command


@click.command("placement")
@_options
def placement_command(
    data: Path, share: float, days: int, warmup_days: int, seed: int, quiet: bool, output: str
) -> None:
    """Strategies with and without overcommit on the joined recipe: nodes, USD, violations, kills."""
    trace, rows = joined(data, share, seed), []
    with progress("replaying", quiet=quiet) as advance:
        for i, (strategy, mechanism) in enumerate(CELLS):
            rows.append(cell(trace, strategy, mechanism, Setting(warmup_days, days), seed))
            advance(i + 1, len(CELLS))
    result = {"trace": trace.digest, "budget": BUDGET, "seed": seed, "cells": rows}
    shown = [_shown(row, "strategy", "mechanism") for row in rows]
    click.echo(render({"apiVersion": API_VERSION, "kind": "Reproduction", **result}, shown, output))


@click.command("adversaries")
@_options
@click.option("--at-day", type=click.IntRange(0), default=6, show_default=True, help="When the change comes.")
def adversaries_command(
    data: Path, share: float, days: int, warmup_days: int, seed: int, quiet: bool, output: str, at_day: int
) -> None:
    """What breaks predictions, and whether the budget holds or the rung falls."""
    trace, rows = joined(data, share, seed), []
    with progress("replaying", quiet=quiet) as advance:
        for i, name in enumerate(ADVERSARIES):
            rows.append(attack(trace, name, Setting(warmup_days, days), at_day, seed))
            advance(i + 1, len(ADVERSARIES))
    result = {"trace": trace.digest, "budget": BUDGET, "seed": seed, "at_day": at_day, "cells": rows}
    shown = [{**_shown(row, "adversary"), "fell_after_s": row["fell_after_s"]} for row in rows]
    click.echo(render({"apiVersion": API_VERSION, "kind": "Reproduction", **result}, shown, output))


__all__ = ["adversaries_command", "placement_command"]
