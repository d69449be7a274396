"""``ullage reproduce empty-nodes``: how much of a fixed fleet stays empty, with lifetimes learned and with the true ones.

Azure arrivals (a seeded share of the batches), a batch's make-up as the owner, on a fleet of one shape that is large
enough for nobody to wait. Everyone places the same pods on the same nodes; what differs is how much of the node-time is
empty, which is what can be drained, switched off, or given to who needs a whole node. Lifetimes are learned while the
replay runs, from pods that ended or ran on before the decision; the first day and a half only warms up. A model
(``ullage train``) is fitted on all batches of that day and a half, as known at its end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from placement.errors import ConfigError
from placement.learning.lifetime_model import LifetimeModel
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.rates import RATES
from placement.resources import CPU, MEMORY, PODS
from placement.scorers import SHARE, ExitTime, Leftover
from placement.strategies import STRATEGIES
from placement.strategy import Strategy
from placement.weighted import Weighted
from simulator.cost import PriceBook
from simulator.learning.lifetime_training import train_lifetimes
from simulator.measures import measure
from simulator.replay import Policy, Replay, ReplayOptions
from simulator.reproduce.data_sets import data_set
from simulator.traces.azure import read_azure
from simulator.traces.trace import NEVER, Trace
from simulator.usage.lifetime_learner import LifetimeLearner, TrueLifetimes

WARMUP_S = 129_600
ENDLESS_S = 432_000
"""Of pods that still ran when the recording stopped: the replay ends before they do."""
CELLS = (
    *((name, "none") for name in ("kube-default", "best-fit")),
    *((name, "learned") for name in ("nilas", "emptying", "ullage")),
    *((name, "model") for name in ("nilas", "ullage")),
    *((name, "true") for name in ("nilas", "exit-times")),
)
BOUND = Strategy(
    "exit-times",
    (Weighted(ExitTime(early=100), SHARE), Weighted(Leftover(), -1)),
    description="only for certain lifetimes: prolong least, and do not waste room that is free for long",
)
"""The best that we found for lifetimes that are known; with learned ones it does harm."""


@dataclass(frozen=True)
class Fleet:
    """Equal nodes."""

    num_nodes: int = 110
    millicores: int = 64_000
    memory_gib: int = 256

    def nodes(self) -> tuple[NodeSpec, ...]:
        """As specs."""
        amounts = ((CPU, self.millicores), (MEMORY, self.memory_gib << 30), (PODS, 250))
        return tuple(NodeSpec(f"node-{i:04d}", amounts) for i in range(self.num_nodes))


def owned(trace: Trace, share: float, seed: int, *, alone: bool = False) -> Trace:
    """A seeded share of the batches; pods of batches of equal make-up share an owner, or each has its own (``alone``)."""
    pods = trace.pods
    members: dict[int, Counter[int]] = {}
    for gang, spec in zip(pods.gang.tolist(), pods.spec.tolist(), strict=True):
        members.setdefault(gang, Counter())[spec] += 1
    chosen = np.random.default_rng([seed, 0xE4]).random(int(pods.gang.max()) + 1) < share
    kept = np.flatnonzero(chosen[pods.gang])
    if not len(kept) or pods.arrival_s[kept[-1]] - pods.arrival_s[kept[0]] <= WARMUP_S:
        raise ConfigError(
            f"{len(kept)} of {len(pods)} VMs are replayed on seed {seed}, none after the first {WARMUP_S / 86_400:g} days, which "
            "only warm up; give more with --share"
        )
    numbers: dict[tuple[Any, ...], int] = {}
    specs: list[PodSpec] = []
    for pod in kept.tolist():
        c = int(pods.spec[pod])
        make_up = (c, *sorted(members[int(pods.gang[pod])].items()))
        number = pod if alone else numbers.setdefault(make_up, len(numbers))
        specs.append(replace(trace.specs[c], owner=f"Batch/{number}"))
    classes = {spec: i for i, spec in enumerate(dict.fromkeys(specs))}
    made = pods.of(
        name=pods.name[kept],
        spec=np.array([classes[s] for s in specs], np.int64),
        arrival_s=pods.arrival_s[kept],
        departure_s=pods.departure_s[kept],
    )
    return trace.but(specs=tuple(classes), pods=made)


def before_it_counts(trace: Trace) -> Trace:
    """What is known of a trace when the warm-up is over: who runs then has not ended."""
    pods = trace.pods
    now = int(pods.arrival_s[0]) + WARMUP_S
    here = np.flatnonzero(pods.arrival_s <= now)
    ends = pods.departure_s[here]
    made = pods.of(
        name=pods.name[here],
        spec=pods.spec[here],
        arrival_s=pods.arrival_s[here],
        departure_s=np.where(ends > now, NEVER, ends),
    )
    return trace.but(pods=made)


def most_empty(trace: Trace, fleet: Fleet) -> float:
    """Share of the node-time that counts which no rule can leave more of empty: requests divided by what nodes offer,
    rounded up at every moment (CPU and memory apart, the larger counts), as if pods could be cut and moved for nothing."""
    pods = trace.pods
    start_s, end_s = int(pods.arrival_s[0]) + WARMUP_S, int(pods.arrival_s[-1])
    ends = np.where(pods.departure_s == NEVER, end_s, pods.departure_s)
    times_s = np.concatenate([pods.arrival_s, ends])
    order = np.argsort(times_s, kind="stable")
    until_s = np.clip(np.append(times_s[order], end_s), start_s, end_s)
    needed = np.zeros(len(order), np.int64)
    for resource, offered in ((CPU, fleet.millicores), (MEMORY, fleet.memory_gib << 30)):
        asked = np.array([spec.amount(resource) for spec in trace.specs], np.int64)[pods.spec]
        needed = np.maximum(needed, -(-np.cumsum(np.concatenate([asked, -asked])[order]) // offered))
    return 1 - float((needed * np.diff(until_s)).sum()) / (end_s - start_s) / fleet.num_nodes


def cell(
    trace: Trace,
    alone: Trace,
    strategy: str,
    lifetimes: str,
    fleet: Fleet,
    seed: int,
    model: LifetimeModel | None = None,
) -> dict[str, Any]:
    """One replay in numbers."""
    used = (alone if lifetimes == "true" else trace).but(nodes=fleet.nodes())
    policies: tuple[Policy, ...] = ()
    learner = LifetimeLearner(model=model if lifetimes == "model" else None)
    if lifetimes in ("learned", "model"):
        policies = (learner,)
    elif lifetimes == "true":
        arrival, departure = used.pods.arrival_s, used.pods.departure_s
        policies = (TrueLifetimes(np.where(departure == NEVER, ENDLESS_S, departure - arrival)),)
    end_s = int(used.pods.arrival_s[-1])
    options = ReplayOptions(seed=seed, policies=policies, warmup_s=WARMUP_S, end_s=end_s, log=False)
    outcome = Replay(used, {**STRATEGIES, BOUND.name: BOUND}[strategy], options).run()
    metrics = measure(outcome, used, PriceBook({}, RATES))["metrics"]
    return {
        "strategy": strategy,
        "lifetimes": lifetimes,
        "seed": seed,
        "empty_share": metrics["empty_nodes_mean"] / fleet.num_nodes,
        "cpu_allocated_share": metrics["cpu_allocated_share"],
        "placed": metrics["placed"],
        "pods": metrics["pods"],
        "pending_s_p99": metrics["pending_s_p99"],
        "decisions": outcome.num_decisions,
        "rungs": dict(learner.forecaster.by_rung()),
        "cpu_s": outcome.cpu_s,
    }


def run(data: Path, fleet: Fleet, share: float, seeds: range, advance: Any) -> dict[str, Any]:
    """Every cell on every seed, and the points of node-time gained on `best-fit`; the JSON report.

    Raises
    ------
    TraceError : the trace is missing or damaged.
    """
    azure = read_azure(data_set(data, "azure-v1-vms"))
    model = train_lifetimes(before_it_counts(owned(azure, 1, 0))).model
    rows, bounds = [], []
    for seed in seeds:
        trace, alone = owned(azure, share, seed), owned(azure, share, seed, alone=True)
        bounds.append(most_empty(trace, fleet))
        for strategy, lifetimes in CELLS:
            rows.append(cell(trace, alone, strategy, lifetimes, fleet, seed, model))
            advance(len(rows), len(seeds) * len(CELLS))
    base = {r["seed"]: r["empty_share"] for r in rows if r["strategy"] == "best-fit"}
    summary = []
    for strategy, lifetimes in CELLS:
        mine = [r for r in rows if (r["strategy"], r["lifetimes"]) == (strategy, lifetimes)]
        points = [100 * (r["empty_share"] - base[r["seed"]]) for r in mine]
        summary.append(
            {
                "strategy": strategy,
                "lifetimes": lifetimes,
                "empty_share": float(np.mean([r["empty_share"] for r in mine])),
                "points": float(np.mean(points)),
                "points_low": min(points),
                "points_high": max(points),
                "pending_s_p99": max(r["pending_s_p99"] for r in mine),
                "unplaced": sum(r["pods"] - r["placed"] for r in mine),
            }
        )
    return {
        "fleet": vars(fleet),
        "share": share,
        "seeds": len(seeds),
        "first_seed": seeds.start,
        "most_empty_share": float(np.mean(bounds)),
        "most_points": 100 * (float(np.mean(bounds)) - float(np.mean(list(base.values())))),
        "summary": summary,
        "cells": rows,
    }
