"""``ullage reproduce empty-nodes``: how many nodes stay empty, with lifetimes learned and with the true ones.

Recorded arrivals on nodes of one size, and enough of them for nobody to wait, so that what differs between strategies
is only how much of the node-time is empty: what can be drained, switched off, or given to who needs a whole node. A rule
that opens a node only where no other has room decides alike on every such fleet; one replay on many nodes tells what it
occupies, on average and at most. A set-up's fleet is the least on which nobody waits, whoever decides.

Set-ups are arrivals by sizes of nodes. Azure: a seeded share of the batches, a batch's make-up as owner, on nodes of two,
four and eight times the largest VM. DLRM: a seeded share of the applications, their CPU instances, on nodes of the shape
that its recorded clusters get elsewhere (``dlrm-shapes.csv``), and of twice that. Lifetimes are learned while the replay
runs, from pods that ended or ran on before the decision; the days before those that count only warm up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from placement.errors import ConfigError
from placement.knowledge import AGES_S, Knowledge, Lifetimes
from placement.learning.survival import lifespans
from placement.nodes import NodeSpec
from placement.pods import PodRules, PodSpec
from placement.rates import RATES
from placement.resources import CPU, MEMORY, PODS, STORAGE, IntArray
from placement.scorers import SHARE, ExitTime, Leftover, Weighted
from placement.strategies import STRATEGIES
from placement.strategy import Strategy
from simulator.cost import PriceBook
from simulator.measures import measure
from simulator.output import Progress
from simulator.replay import Outcome, Policy, Replay, ReplayOptions
from simulator.reproduce.data_sets import data_set
from simulator.traces.azure import read_azure
from simulator.traces.dlrm import RDMA, read_dlrm
from simulator.traces.trace import NEVER, Trace
from simulator.usage.lifetime_learner import LifetimeLearner, TrueLifetimes

DAY_S = 86_400
CELLS = (
    ("best-fit", "none"),
    *((name, "learned") for name in ("nilas", "ullage")),
    ("ullage", "alike"),
    *((name, "true") for name in ("nilas", "ullage", "exit-times")),
)
ALIKE = 0.3
"""Chance that any pod ends in any part of life, where nothing is learned: what is known is its age and who came with it."""
BOUND = Strategy(
    "exit-times",
    (Weighted(ExitTime(early=100), SHARE), Weighted(Leftover(), -1)),
    description="only for certain lifetimes: prolong least, and do not waste room that is free for long",
)
"""The best that we found for lifetimes that are known; with learned ones it does harm."""


@dataclass(frozen=True)
class Fleet:
    """Equal nodes."""

    num_nodes: int
    amounts: tuple[tuple[str, int], ...]

    def nodes(self) -> tuple[NodeSpec, ...]:
        """As specs."""
        return tuple(NodeSpec(f"node-{i:04d}", self.amounts) for i in range(self.num_nodes))


class Owned(NamedTuple):
    """Of each pod ``(P,)``: what a seed draws it with, −1 for pods that are left out; and its owner."""

    drawn: IntArray
    owner: Sequence[object]


def batches(trace: Trace) -> Owned:
    """Batches are drawn, and those of equal make-up have one owner for each size of VM."""
    pods = trace.pods
    make_up = pods.make_ups()
    return Owned(
        pods.gang, [(spec, make_up[gang]) for gang, spec in zip(pods.gang.tolist(), pods.spec.tolist(), strict=True)]
    )


def applications(trace: Trace) -> Owned:
    """Applications are drawn, and own their instances; those with a GPU live on other nodes and are left out."""
    owners = {name: i for i, name in enumerate(dict.fromkeys(spec.owner for spec in trace.specs))}
    number = np.array([-1 if spec.gpu else owners[spec.owner] for spec in trace.specs], np.int64)
    return Owned(number[trace.pods.spec], [trace.specs[spec].owner for spec in trace.pods.spec.tolist()])


class Days(NamedTuple):
    """Since the first arrival."""

    warm_up_s: int
    end_s: int
    """The last arrival, if that is earlier."""


@dataclass(frozen=True)
class Arrivals:
    """A recording, who owns its pods, and what they are placed on."""

    folder: str
    read: Callable[[Path], Trace]
    owned: Callable[[Trace], Owned]
    share: float
    """Of what is drawn."""
    cores: tuple[int, ...]
    """Sizes of nodes."""
    per_core: tuple[tuple[str, float], ...]
    """What nodes offer besides."""
    tuning: Days
    judged: Days
    every_s: int
    """Lifetimes are told anew. Between two such moments nodes do not age, so this is short beside the lives that matter."""

    def fleet(self, cores: int, num_nodes: int) -> Fleet:
        """Of so many nodes of one size."""
        others = tuple((name, int(cores * amount)) for name, amount in self.per_core)
        return Fleet(num_nodes, ((CPU, cores * 1000), *others, (PODS, 250)))


ARRIVALS = {
    "azure": Arrivals(
        folder="azure-v1-vms",
        read=read_azure,
        owned=batches,
        share=0.1,
        cores=(32, 64, 128),
        per_core=((MEMORY, 4 << 30),),
        tuning=Days(64_800, 129_600),
        judged=Days(129_600, 30 * DAY_S),
        every_s=300,
    ),
    "dlrm": Arrivals(
        folder="alibaba-dlrm-2025",
        read=read_dlrm,
        owned=applications,
        share=0.5,
        cores=(208, 416),
        per_core=((MEMORY, (1152 << 30) / 208), (STORAGE, (4 << 40) / 208), (RDMA, 100 / 208)),
        tuning=Days(669_600, 1_338_000),
        judged=Days(1_338_000, 90 * DAY_S),
        every_s=1800,
    ),
}
"""Days: Azure from three quarters of the second day on and from half past the second; DLRM its second quarter and second half."""
SET_UPS = {f"{name}-{cores}": (name, cores) for name, arrivals in ARRIVALS.items() for cores in arrivals.cores}


def drawn(trace: Trace, owned: Owned, share: float, seed: int, *, alone: bool = False) -> Trace:
    """A seeded share of what is drawn; every pod has its owner, or one for itself (``alone``). Limits of pods of an owner
    on a node are left out, because they would hold for owners only."""
    pods = trace.pods
    chosen = np.random.default_rng([seed, 0xE4]).random(int(owned.drawn.max()) + 1) < share
    kept = np.flatnonzero(chosen[owned.drawn] & (owned.drawn >= 0))
    numbers: dict[object, int] = {}
    specs: list[PodSpec] = []
    for pod in kept.tolist():
        number = pod if alone else numbers.setdefault(owned.owner[pod], len(numbers))
        spec = trace.specs[int(pods.spec[pod])]
        specs.append(replace(spec, owner=f"Owner/{number}", pod_rules=PodRules()))
    classes = {spec: i for i, spec in enumerate(dict.fromkeys(specs))}
    made = pods.of(
        name=pods.name[kept],
        spec=np.array([classes[s] for s in specs], np.int64),
        arrival_s=pods.arrival_s[kept],
        departure_s=pods.departure_s[kept],
    )
    return trace.but(specs=tuple(classes), pods=made)


def window(trace: Trace, days: Days) -> tuple[int, int]:
    """From when to when node-time counts.

    Raises
    ------
    ConfigError : nobody arrives then.
    """
    arrival_s = trace.pods.arrival_s
    if not len(arrival_s) or arrival_s[-1] - arrival_s[0] <= days.warm_up_s:
        raise ConfigError(
            f"of {len(arrival_s)} pods that are replayed none arrives after the first {days.warm_up_s / DAY_S:g} days, which "
            "only warm up; give more with --share"
        )
    first_s = int(arrival_s[0])
    return first_s + days.warm_up_s, min(first_s + days.end_s, int(arrival_s[-1]))


class Needed(NamedTuple):
    """Nodes that no rule can do without."""

    mean: float
    most: int


def needed(trace: Trace, fleet: Fleet, days: Days) -> Needed:
    """Requests divided by what a node offers, rounded up at every moment (each resource apart, the largest counts), as if
    pods could be cut and moved for nothing: the mean over the days that count, and the most of all."""
    pods = trace.pods
    start_s, end_s = window(trace, days)
    ends = np.where(pods.departure_s == NEVER, end_s, pods.departure_s)
    times_s = np.concatenate([pods.arrival_s, ends])
    order = np.argsort(times_s, kind="stable")
    until_s = np.clip(np.append(times_s[order], end_s), start_s, end_s)
    nodes = np.zeros(len(order), np.int64)
    for resource, offered in fleet.amounts:
        asked = np.array([1 if resource == PODS else spec.amount(resource) for spec in trace.specs], np.int64)[
            pods.spec
        ]
        nodes = np.maximum(nodes, -(-np.cumsum(np.concatenate([asked, -asked])[order]) // offered))
    return Needed(
        float((nodes * np.diff(until_s)).sum()) / (end_s - start_s), int(nodes[times_s[order] <= end_s].max())
    )


def most_occupied(outcome: Outcome, trace: Trace, end_s: int) -> int:
    """Nodes that were occupied at once, of a replay in which nobody moved."""
    pods = trace.pods
    held: Counter[int] = Counter()
    most = 0
    here = np.flatnonzero(pods.arrival_s <= end_s)
    gone = here[pods.departure_s[here] != NEVER]
    times_s = np.concatenate([pods.departure_s[gone], pods.arrival_s[here]])
    comes = np.repeat([False, True], [len(gone), len(here)])
    # who arrives and leaves in the same second leaves afterwards
    late = ~comes & np.concatenate([pods.departure_s[gone] <= pods.arrival_s[gone], np.zeros(len(here), np.bool_)])
    for i in np.lexsort((comes + 2 * late, times_s)).tolist():
        node = int(outcome.node_of[gone[i] if i < len(gone) else here[i - len(gone)]])
        held[node] += 1 if comes[i] else -1
        if not held[node]:
            del held[node]
        most = max(most, len(held))
    return most


@dataclass
class Recorder:
    """Learns lifetimes and keeps every version of knowledge."""

    learner: LifetimeLearner = field(default_factory=LifetimeLearner)
    versions: list[Knowledge] = field(default_factory=list)

    @property
    def every_s(self) -> int:
        """Seconds between two versions."""
        return self.learner.every_s

    def act(self, replay: Replay) -> None:
        """Learn."""
        self.learner.act(replay)
        self.versions.append(replay.state.knowledge)


@dataclass
class Told:
    """Tells again what was learned in a replay of the same pods: where nobody waits, that does not depend on who decides."""

    versions: Iterator[Lifetimes | None]
    every_s: int

    def act(self, replay: Replay) -> None:
        """Tell the next version."""
        replay.state.learn(replay.state.knowledge.but(lifetimes=next(self.versions)), time_s=replay.time_s)


@dataclass
class Alike:
    """Tells the same of every pod (:data:`ALIKE`)."""

    every_s: int

    def act(self, replay: Replay) -> None:
        """Tell it as of now."""
        (everyone,) = lifespans(np.array([[ALIKE] * (len(AGES_S) - 1) + [1.0]]))
        alike = Lifetimes({}, everyone, replay.time_s)
        replay.state.learn(replay.state.knowledge.but(lifetimes=alike), time_s=replay.time_s)


class Pods(NamedTuple):
    """What all cells of one seed have in common."""

    owned: Trace
    alone: Trace
    """The same pods, each with an owner of its own."""
    days: Days
    every_s: int
    """Lifetimes are told anew."""
    lifetimes: Sequence[Lifetimes | None]
    """As learned at each such moment."""
    seed: int


def gathered(recorded: Trace, arrivals: Arrivals, share: float, seed: int, *, tuning: bool) -> Pods:
    """One seed's pods, and what is learned of them as they come and go."""
    owned, days = arrivals.owned(recorded), arrivals.tuning if tuning else arrivals.judged
    traces = [drawn(recorded, owned, share, seed, alone=alone) for alone in (False, True)]
    pods = Pods(traces[0], traces[1], days, arrivals.every_s, (), seed)
    cores = max(arrivals.cores)
    fleet = arrivals.fleet(cores, 4 * needed(pods.owned, arrivals.fleet(cores, 1), days).most + 4)
    recorder = Recorder(LifetimeLearner(arrivals.every_s))
    _replay(pods.owned.but(nodes=fleet.nodes()), STRATEGIES["best-fit"], pods, recorder)
    return pods._replace(lifetimes=[known.lifetimes for known in recorder.versions])


def _replay(trace: Trace, strategy: Strategy, pods: Pods, *policies: Policy) -> Outcome:
    end_s = window(trace, pods.days)[1]
    options = ReplayOptions(seed=pods.seed, policies=policies, warmup_s=pods.days.warm_up_s, end_s=end_s, log=False)
    return Replay(trace, strategy, options).run()


def cell(pods: Pods, strategy: str, lifetimes: str, fleet: Fleet) -> dict[str, Any]:
    """One replay in numbers."""
    used = (pods.alone if lifetimes == "true" else pods.owned).but(nodes=fleet.nodes())
    start_s, end_s = window(used, pods.days)
    policies: tuple[Policy, ...] = ()
    if lifetimes == "learned":
        policies = (Told(iter(pods.lifetimes), pods.every_s),)
    elif lifetimes == "alike":
        policies = (Alike(pods.every_s),)
    elif lifetimes == "true":
        arrival, departure = used.pods.arrival_s, used.pods.departure_s
        endless_s = 2 * (end_s - int(arrival[0]))  # the replay is over before they are
        policies = (TrueLifetimes(np.where(departure == NEVER, endless_s, departure - arrival), pods.every_s),)
    outcome = _replay(used, {**STRATEGIES, BOUND.name: BOUND}[strategy], pods, *policies)
    metrics = measure(outcome, used, PriceBook({}, RATES))["metrics"]
    here = used.pods.arrival_s <= end_s
    return {
        "strategy": strategy,
        "lifetimes": lifetimes,
        "seed": pods.seed,
        "occupied_nodes": fleet.num_nodes - metrics["empty_nodes_mean"],
        "most_occupied_nodes": most_occupied(outcome, used, end_s),
        "waited": int((outcome.pending_s[here] != 0).sum()),
        "pods": int(here.sum()),
        "days": (end_s - start_s) / DAY_S,
        "cpu_s": outcome.cpu_s,
    }


def one(pods: Pods, arrivals: Arrivals, cores: int) -> Iterator[dict[str, Any]]:
    """Every cell of a set-up on one seed, on so many nodes that one is always empty."""
    num_nodes = 2 * needed(pods.owned, arrivals.fleet(cores, 1), pods.days).most + 4
    for strategy, lifetimes in CELLS:
        row = cell(pods, strategy, lifetimes, arrivals.fleet(cores, num_nodes))
        while row["most_occupied_nodes"] == num_nodes:
            num_nodes *= 2
            row = cell(pods, strategy, lifetimes, arrivals.fleet(cores, num_nodes))
        yield row


def judged(rows: Sequence[dict[str, Any]], needs: dict[int, float], num_nodes: int | None) -> dict[str, Any]:
    """A set-up: the points of node-time that each cell leaves empty beyond best fit, on the least fleet on which nobody
    waits or on one that is given; ``needs`` by seed."""
    fleets = {
        seed: num_nodes or max(row["most_occupied_nodes"] for row in rows if row["seed"] == seed) for seed in needs
    }
    base = {row["seed"]: row["occupied_nodes"] for row in rows if row["strategy"] == "best-fit"}
    cells = []
    for strategy, lifetimes in CELLS:
        mine = [row for row in rows if (row["strategy"], row["lifetimes"]) == (strategy, lifetimes)]
        freed = {row["seed"]: base[row["seed"]] - row["occupied_nodes"] for row in mine}
        points = [100 * freed[seed] / fleets[seed] for seed in freed]
        cells.append(
            {
                "strategy": strategy,
                "lifetimes": lifetimes,
                "empty_share": float(np.mean([1 - row["occupied_nodes"] / fleets[row["seed"]] for row in mine])),
                "points": float(np.mean(points)),
                "points_low": min(points),
                "points_high": max(points),
                "freed_of_occupied": float(np.mean([freed[seed] / base[seed] for seed in freed])),
                "waited": sum(row["waited"] for row in mine),
            }
        )
    return {
        "nodes": float(np.mean(list(fleets.values()))),
        "pods": float(np.mean([row["pods"] for row in rows])),
        "most_points": float(np.mean([100 * (base[seed] - needs[seed]) / fleets[seed] for seed in needs])),
        "cells": cells,
        "rows": list(rows),
    }


def run(
    data: Path,
    names: Sequence[str],
    seeds: range,
    advance: Progress,
    *,
    tuning: bool = False,
    share: float | None = None,
    num_nodes: int | None = None,
) -> dict[str, Any]:
    """Every cell of each set-up on every seed; the JSON report. Set-ups whose recording is absent are left out, and
    ``omitted`` says why.

    Raises
    ------
    TraceError : a recording is damaged. ConfigError : there is none, a share leaves nobody, or a fleet is too small.
    """
    found, omitted = dict[str, Any](), dict[str, ConfigError]()
    done = 0
    for source, arrivals in ARRIVALS.items():
        mine = [name for name in names if SET_UPS[name][0] == source]
        if not mine:
            continue
        try:
            trace = arrivals.read(data_set(data, arrivals.folder))
        except ConfigError as error:
            omitted |= dict.fromkeys(mine, error)
            continue
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in mine}
        needs: dict[str, dict[int, float]] = {name: {} for name in mine}
        for seed in seeds:
            pods = gathered(trace, arrivals, share or arrivals.share, seed, tuning=tuning)
            for name in mine:
                cores = SET_UPS[name][1]
                needs[name][seed] = needed(pods.owned, arrivals.fleet(cores, 1), pods.days).mean
                for row in one(pods, arrivals, cores):
                    if num_nodes and row["most_occupied_nodes"] > num_nodes:
                        least = row["most_occupied_nodes"]
                        raise ConfigError(
                            f"--nodes {num_nodes}: {name} needs {least} on seed {seed}, or pods wait; give more"
                        )
                    rows[name].append(row)
                    done += 1
                    advance(done, len(names) * len(seeds) * len(CELLS))
        found |= {name: judged(rows[name], needs[name], num_nodes) for name in mine}
    if not found:
        raise next(iter(omitted.values()))
    return {
        "days": "tuning" if tuning else "judged",
        "share": {name: share or arrivals.share for name, arrivals in ARRIVALS.items()},
        "seeds": len(seeds),
        "first_seed": seeds.start,
        "set_ups": found,
        "omitted": {name: str(error) for name, error in omitted.items()},
    }
