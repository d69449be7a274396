"""Arrivals and requests of one recording, usage of another: the seeded recipe behind ``ullage trace join``.

No public trace joins arrivals, varied requests and usage over time. Here arrivals, lifetimes, owners and requests come
from a trace (DLRM, Azure), usage from machines that were recorded for weeks (Bitbrains), matched by size:

1. ``share`` of the pods is kept, drawn with the seed; devices, disk and network requests are dropped.
2. Pods of one owner and one request are split, by arrival, into workloads of at most ``replicas`` pods.
3. Workloads and recorded machines are both ranked by CPU; a workload at quantile q is given a machine drawn among those
   within ``spread`` of q.
4. At absolute time t a pod uses the machine's share of what it was provisioned with, at t, times its own request.
   Replicas of a workload share the machine, so they burst together, as replicas behind one load balancer do.

Where the machine has a gap, the pod has no sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from placement.errors import ConfigError
from placement.learning.usage import DAY, STEP_S, UsageSeries
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, AnyArray, IntArray
from simulator.traces.trace import NEVER, Manifest, Pods, Trace, Usage


@dataclass(frozen=True)
class Join:
    """The recipe's numbers; equal numbers and inputs give equal bytes."""

    share: float = 0.05
    replicas: int = 8
    spread: float = 0.05
    from_day: float = 1.0
    """Day of the usage recording that falls on the trace's first second."""
    scale: float = 1.0
    """Usage times this; never above the request."""
    seed: int = 0


def join(arrivals: Trace, series: UsageSeries, recipe: Join | None = None) -> Trace:
    """A trace with usage.

    Raises
    ------
    ConfigError : the series lacks CPU or memory, or starts after its end.
    """
    recipe = recipe or Join()
    missing = [r for r in (CPU, MEMORY) if r not in series.usage]
    if missing:
        raise ConfigError(f"usage of {series.name} has no {missing[0]}; join with a recording that has CPU and memory")
    first = int(recipe.from_day * DAY)
    if not 0 <= first < series.num_steps:
        raise ConfigError(f"from-day {recipe.from_day} is outside of {series.name} ({series.num_days:.0f} days)")
    rng = np.random.default_rng([recipe.seed, 0x701])
    kept = np.flatnonzero(rng.random(len(arrivals.pods)) < recipe.share)
    specs = _workloads(arrivals, kept, recipe.replicas)
    classes = {spec: i for i, spec in enumerate(dict.fromkeys(specs))}
    pods = Pods.of(
        name=arrivals.pods.name[kept],
        spec=np.array([classes[s] for s in specs], np.int64),
        arrival_s=arrivals.pods.arrival_s[kept],
        departure_s=arrivals.pods.departure_s[kept],
    )
    machines = _machines(list(classes), series, recipe, rng)
    usage = _usage(tuple(classes), pods, machines, series, first, recipe.scale)
    notes = (
        *arrivals.manifest.notes,
        f"joined with usage of {series.name}: {recipe}",
        f"{len(kept)} of {len(arrivals.pods)} pods; devices dropped",
    )
    name = f"{arrivals.manifest.name}+{series.name}"
    trace = Trace(Manifest(name, "join", recipe.seed, notes), tuple(classes), (), pods, usage=usage)
    trace.check()
    return trace


def _workloads(arrivals: Trace, kept: IntArray, replicas: int) -> list[PodSpec]:
    """Each kept pod's class: CPU, memory and rules of its own, the owner split into workloads."""
    seen: dict[int, int] = {}
    specs = []
    for c in arrivals.pods.spec[kept].tolist():
        seen[c] = seen.get(c, -1) + 1
        spec = arrivals.specs[c]
        request = tuple(sorted((r, spec.amount(r)) for r in (CPU, MEMORY) if spec.amount(r)))
        kind, _, owner = (spec.owner or "Workload/pod").partition("/")
        specs.append(replace(spec, request=request, gpu=None, owner=f"{kind}/{owner}.{c}.{seen[c] // replicas}"))
    return specs


def _machines(classes: list[PodSpec], series: UsageSeries, recipe: Join, rng: np.random.Generator) -> IntArray:
    """``(classes,)``: the recorded machine of each workload, by size."""
    workloads = sorted({c.owner for c in classes})
    size = {c.owner: c.amount(CPU) for c in classes}
    order = np.argsort(np.array([size[w] for w in workloads], np.int64), kind="stable")
    provisioned = np.argsort(series.provisioned[CPU], kind="stable")
    quantile = np.empty(len(workloads))
    quantile[order] = (np.arange(len(workloads)) + 0.5) / max(len(workloads), 1)
    drawn = np.clip(quantile + rng.uniform(-recipe.spread, recipe.spread, len(workloads)), 0, 1 - 1e-9)
    machine = dict(zip(workloads, provisioned[(drawn * len(provisioned)).astype(np.int64)].tolist(), strict=True))
    return np.array([machine[c.owner] for c in classes], np.int64)


def _usage(
    specs: tuple[PodSpec, ...], pods: Pods, machines: IntArray, series: UsageSeries, first: int, scale: float
) -> Usage:
    """One row per pod and sample, pods in order; times on the grid."""
    last_s = int(pods.arrival_s[-1]) if len(pods) else 0
    share = {r: np.clip(series.share(r) * scale, 0, 1) for r in (CPU, MEMORY)}
    parts: list[tuple[AnyArray, ...]] = []
    for i, (c, start, end) in enumerate(
        zip(pods.spec.tolist(), pods.arrival_s.tolist(), pods.departure_s.tolist(), strict=True)
    ):
        low, high = start // STEP_S, (last_s if end == NEVER else end) // STEP_S + 2
        steps = np.arange(low, min(high, series.num_steps - first))
        cpu, memory = (share[r][machines[c], first + steps] for r in (CPU, MEMORY))
        known = np.isfinite(cpu) & np.isfinite(memory)
        parts.append(
            (
                np.full(int(known.sum()), i, np.int64),
                steps[known] * STEP_S,
                np.rint(cpu[known].astype(np.float64) * specs[c].amount(CPU)).astype(np.int64),
                np.rint(memory[known].astype(np.float64) * specs[c].amount(MEMORY)).astype(np.int64),
            )
        )
    if not parts:
        return Usage.empty()
    return Usage(*(np.concatenate(column) for column in zip(*parts, strict=True)))
