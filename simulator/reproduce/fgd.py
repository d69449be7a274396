"""``ullage reproduce fgd-atc23``: the FGD paper's published runs, to the last digit, and `priced` beside them.

Weng et al., *Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent*,
USENIX ATC'23. Protocol: pods arrive one by one in a recorded order until 130 % of the GPUs have been asked for;
a pod that fits nowhere is dropped; nobody leaves. The target workload (FGD's typical pods, and the distribution
from which `priced` computes its prices) is the whole pod list, known in advance, for both alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import polars as pl

from placement.errors import ConfigError, why
from placement.knowledge import Knowledge, Workload
from placement.prices import device_prices
from placement.resources import GPU_SHARE, FloatArray
from placement.strategies import STRATEGIES
from simulator.delivery import delivery_named
from simulator.output import Progress, untold
from simulator.replay import Outcome, Replay, ReplayOptions
from simulator.reproduce.fragmentation import fragmentation_along
from simulator.traces.openb import read_openb
from simulator.traces.trace import Pods, Trace, TraceError
from simulator.workers import in_processes

SEEDS = tuple(range(42, 52))
POLICIES = {
    "random": "01-Random",
    "dotprod": "02-DotProd",
    "clustering": "03-GpuClustering",
    "packing": "04-GpuPacking",
    "bestfit": "05-BestFit",
    "fgd": "06-FGD",
    "priced": "",
}
"""Our key → the name in the published tables; `priced` is ours."""
POINTS = 131
"""Published columns: allocation when 0…130 % of the GPUs have been asked for."""
REPORTED = ("100", "130")


@dataclass(frozen=True)
class Curves:
    """One experiment: percent of the cluster's GPUs at each of the 131 points, NaN where nothing arrived."""

    allocation: FloatArray
    fragmentation: FloatArray
    decisions: int


@dataclass(frozen=True)
class Setting:
    """What is replayed, and how it departs from the paper."""

    order: str = "published"
    """Of the nodes, for ties: see :meth:`Protocol.for_seed`."""
    delivery: str = "decide"
    policies: tuple[str, ...] = tuple(POLICIES)

    @property
    def is_published(self) -> bool:
        """Whether the published tables are the answer."""
        return self.order == "published" and self.delivery == "decide"


@dataclass(frozen=True)
class Protocol:
    """One variant's inputs: base trace, arrival orders and node orders per seed."""

    variant: str
    trace: Trace
    arrivals: pl.DataFrame
    node_orders: pl.DataFrame
    knowledge: Knowledge

    @classmethod
    def load(cls, data: Path, variant: str) -> Protocol:
        """Read a variant and learn what the protocol grants: the distribution of the whole pod list."""
        trace = read_openb(data, variant=variant, departures=False)
        counts = np.bincount(trace.pods.spec, minlength=len(trace.specs))
        workload = Workload.of(trace.specs, counts.tolist())
        knowledge = Knowledge(0, workload, device_prices(workload, trace.nodes))
        folder = data / "fgd-atc23"
        return cls(
            variant,
            trace,
            _parquet(folder / f"arrivals_{variant}.parquet"),
            _parquet(folder / f"node_order_{variant}.parquet"),
            knowledge,
        )

    def _check_whole(self, names: list[str], class_of: dict[str, int]) -> None:
        """The protocol leaves pods out only of a list that asks for more than it lets arrive."""
        missing = len(class_of.keys() - set(names))
        asked = sum(self.trace.specs[c].amount(GPU_SHARE) for c in class_of.values())
        total = sum(node.amounts.get(GPU_SHARE, 0) for node in self.trace.nodes)
        if missing and 100 * asked < (POINTS - 1) * total:
            raise TraceError(
                f"orders of {self.variant}: {missing} of {len(class_of)} pods of the list never arrive; "
                "files of two variants are mixed up, or one is cut short"
            )

    def for_seed(self, seed: int, order: str = "published") -> Trace:
        """The trace as that run saw it: pods in arrival order, nodes in tie-break order.

        ``order`` of nodes: published, ``reversed``, ``random``, ``ratio-up`` or ``ratio-down`` (cores per GPU).
        """
        names = self.arrivals.filter(pl.col("seed") == seed).sort("position")["pod_name"].to_list()
        ranked = self.node_orders.filter(pl.col("seed") == seed).sort("rank")["node_name"].to_list()
        node_of = {node.name: node for node in self.trace.nodes}
        class_of = dict(zip(list(self.trace.pods.name), self.trace.pods.spec.tolist(), strict=True))
        unknown = [n for n in ranked if n not in node_of] + [n for n in names if n not in class_of]
        if unknown or not names:
            what = f"names {unknown[0]!r}, which the trace lacks" if unknown else f"has no rows for seed {seed}"
            raise TraceError(f"orders of {self.variant}: {what}; files of two variants are mixed up")
        self._check_whole(names, class_of)
        nodes = reorder([node_of[name] for name in ranked], order, seed)
        num = len(names)
        pods = Pods.of(
            name=np.array([f"{name}#{i}" for i, name in enumerate(names)], object),
            spec=np.array([class_of[name] for name in names], np.int32),
            arrival_s=np.arange(num, dtype=np.int64),
            departure_s=np.full(num, -1, np.int64),
        )
        return self.trace.but(nodes=tuple(nodes), pods=pods)


def reorder(nodes: list[Any], order: str, seed: int) -> list[Any]:
    """Nodes in another order, to see how far a strategy leans on it."""
    if order == "reversed":
        return nodes[::-1]
    if order == "random":
        return [nodes[i] for i in np.random.default_rng([seed, 0x0DE5]).permutation(len(nodes))]
    if order in ("ratio-up", "ratio-down"):
        ranked = sorted(nodes, key=lambda n: n.amounts["cpu"] / max(n.num_gpus, 1))
        return ranked if order == "ratio-up" else ranked[::-1]
    return nodes


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise TraceError(f"{path}: cannot be read ({why(error)}); it belongs beside the pod lists") from error


def experiment(
    protocol: Protocol, policy: str, seed: int, *, trace: Trace | None = None, delivery: str = "decide"
) -> Curves:
    """Replay one (policy, seed) and measure it as the published tables do."""
    trace = protocol.for_seed(seed) if trace is None else trace
    strategy = STRATEGIES["priced" if policy == "priced" else f"atc23-{policy}"]
    options = ReplayOptions(
        seed=seed,
        retries=False,
        departures=False,
        preemption=False,
        knowledge=protocol.knowledge,
        samples=1,
        delivery=delivery_named(delivery),
        checks=delivery != "decide",  # else the published tables are the check
    )
    outcome = Replay(trace, strategy, options).run()
    return curves(trace, outcome, protocol.knowledge)


def curves(trace: Trace, outcome: Outcome, knowledge: Knowledge) -> Curves:
    """Allocation and fragmentation when k % of the GPUs have been asked for, k = 0…130.

    A point is the mean over arrivals whose running total rounds (half to even) to k; if there is none, over those
    within one of k. Values are rounded to two decimals before and after, as in the published files.
    """
    asked = np.array([spec.amount(GPU_SHARE) for spec in trace.specs], np.int64)[trace.pods.spec]
    total = sum(node.amounts.get(GPU_SHARE, 0) for node in trace.nodes)
    placed = outcome.node_of >= 0
    arrived = np.rint(100 * np.cumsum(asked) / total)
    allocated = np.cumsum(np.where(placed, asked, 0))
    series = fragmentation_along(outcome.log, knowledge)
    fragment = series[np.cumsum(placed)]
    return Curves(
        allocation=_points(arrived, np.round(100 * allocated / total, 2)),
        fragmentation=_points(arrived, np.round(100 * fragment / total, 2)),
        decisions=outcome.num_decisions,
    )


def _points(arrived: FloatArray, values: FloatArray) -> FloatArray:
    points = np.full(POINTS, np.nan)
    for k in range(POINTS):
        inside = arrived == k
        if not inside.any():
            inside = np.abs(arrived - k) <= 1
        if inside.any():
            points[k] = np.round(values[inside].mean(), 2)  # scales, then half to even, as pandas does
    return points


def published(data: Path, what: str) -> dict[tuple[str, str, int], FloatArray]:
    """The authors' table, by (variant, policy key, seed)."""
    path = data / "fgd-atc23" / f"published_{what}_pct.csv.gz"
    try:
        table = pl.read_csv(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise TraceError(
            f"{path}: cannot be read ({why(error)}); the published results belong beside the traces"
        ) from error
    keys = {name: key for key, name in POLICIES.items() if name}
    columns = [str(k) for k in range(POINTS)]
    return {
        (row["workload"].removeprefix("openb_pod_list_"), keys[row["sc_policy"]], row["seed"]): np.array(
            [row[c] for c in columns], np.float64
        )
        for row in table.iter_rows(named=True)
        if row["sc_policy"] in keys
    }


def variants(data: Path) -> list[str]:
    """Every pod list that has its arrival orders."""
    if not data.is_dir():
        raise ConfigError(f"{data}: no such folder; give the one that holds openb_pod_list_*.csv")
    found = sorted(
        path.stem.removeprefix("openb_pod_list_")
        for path in data.glob("openb_pod_list_*.csv")
        if (data / "fgd-atc23" / f"arrivals_{path.stem.removeprefix('openb_pod_list_')}.parquet").is_file()
    )
    if not found:
        meant = f"; give --data {data / 'openb'}" if (data / "openb").is_dir() else ", so there is nothing to replay"
        raise ConfigError(f"{data}: holds no openb_pod_list_X.csv with fgd-atc23/arrivals_X.parquet{meant}")
    return found


_loaded: dict[tuple[str, str], Protocol] = {}


def _job(data: str, variant: str, seed: int, setting: Setting) -> tuple[str, int, dict[str, Curves], float]:
    started = process_time()
    key = (data, variant)
    if key not in _loaded:
        _loaded[key] = Protocol.load(Path(data), variant)
    protocol = _loaded[key]
    trace = protocol.for_seed(seed, setting.order)
    result = {
        policy: experiment(protocol, policy, seed, trace=trace, delivery=setting.delivery)
        for policy in setting.policies
    }
    return variant, seed, result, process_time() - started


def _jobs(tasks: list[tuple[str, str, int, Setting]], jobs: int) -> Iterator[tuple[str, int, dict[str, Curves], float]]:
    if jobs == 1:
        yield from (_job(*task) for task in tasks)
        return
    yield from (done for _, done in in_processes(jobs, _job, tasks))


def run(
    data: Path,
    *,
    jobs: int = 0,
    setting: Setting = Setting(),
    only: tuple[str, ...] = (),
    progress: Progress = untold,
) -> dict[str, Any]:
    """All experiments, compared with the published tables.

    Returns
    -------
    dict with ``experiments``, ``exact`` (deterministic experiments equal at all points), ``deterministic``,
    ``mismatches`` (list), ``random_max_abs_diff`` (points, over trace means), ``results.{trace}.{policy}.{100,130}``
    (mean over seeds, percent of GPUs), ``priced`` (``pairs``, ``wins``, ``min_gain``), ``wall_s``, ``cpu_s``.
    """
    started = perf_counter()
    chosen = [variant for variant in variants(data) if not only or variant in only]
    if not chosen:
        raise ConfigError(f"{data}: holds none of {', '.join(only)}; it has {', '.join(variants(data))}")
    tasks = [(str(data), variant, seed, setting) for variant in chosen for seed in SEEDS]
    # From both ends, so that two workers seldom load the same variant.
    tasks = [tasks[i // 2] if i % 2 == 0 else tasks[-1 - i // 2] for i in range(len(tasks))]
    allocation, fragments = published(data, "allocation"), published(data, "fragmentation")
    done: dict[tuple[str, str, int], Curves] = {}
    cpu_s = 0.0
    for i, (variant, seed, result, seconds) in enumerate(_jobs(tasks, jobs or os.cpu_count() or 1)):
        cpu_s += seconds
        done.update({(variant, policy, seed): curve for policy, curve in result.items()})
        progress(i + 1, len(tasks))
    mismatches = []
    deterministic = 0
    for key in sorted(done):
        if key not in allocation or key[1] == "random" or not setting.is_published:
            continue
        deterministic += 1
        if (problem := differs(done[key], allocation[key], fragments[key])) is not None:
            mismatches.append({"trace": key[0], "policy": key[1], "seed": key[2], **problem})
    return {
        "experiments": len(done),
        "deterministic": deterministic,
        "exact": deterministic - len(mismatches),
        "mismatches": mismatches,
        "random_max_abs_diff": _random_difference(done, allocation),
        "results": summary(done),
        "priced": _wins(done),
        "decisions": sum(c.decisions for c in done.values()),
        "node_order": setting.order,
        "delivery": setting.delivery,
        "curves": {
            f"{v}/{p}": [_finite(x) for x in np.mean([done[v, p, s].allocation for s in SEEDS], axis=0)]
            for v, p in sorted({(v, p) for v, p, _ in done})
        },
        "wall_s": round(perf_counter() - started, 2),
        "cpu_s": round(cpu_s, 2),
    }


def differs(ours: Curves, allocation: FloatArray, fragments: FloatArray) -> dict[str, Any] | None:
    """The first point where an experiment is not the published one, or None."""
    wrong = np.flatnonzero(~np.isclose(ours.allocation, allocation, rtol=0, atol=1e-9, equal_nan=True))
    if len(wrong):
        k = int(wrong[0])
        return {"what": "allocation", "point": k, **_both(ours.allocation[k], allocation[k])}
    wrong = np.flatnonzero(~np.isclose(ours.fragmentation, fragments, rtol=0, atol=0.01 + 1e-9, equal_nan=True))
    if len(wrong):
        k = int(wrong[0])
        return {"what": "fragmentation", "point": k, **_both(ours.fragmentation[k], fragments[k])}
    return None


def _both(ours: float, theirs: float) -> dict[str, float | None]:
    return {"ours": _finite(ours), "published": _finite(theirs)}


def _finite(value: float) -> float | None:
    """Rounded; None where nothing arrived at that point."""
    return round(float(value), 3) if np.isfinite(value) else None


def _mean(done: dict[tuple[str, str, int], Curves], variant: str, policy: str, point: str) -> float:
    return float(np.mean([done[variant, policy, seed].allocation[int(point)] for seed in SEEDS]))


def summary(done: dict[tuple[str, str, int], Curves]) -> dict[str, Any]:
    """Mean and spread over seeds per trace and policy at 100 and 130 %."""
    results: dict[str, Any] = {}
    for variant in sorted({key[0] for key in done}):
        results[variant] = {}
        for policy in POLICIES:
            if (variant, policy, SEEDS[0]) not in done:
                continue
            values = {p: [float(done[variant, policy, s].allocation[int(p)]) for s in SEEDS] for p in REPORTED}
            results[variant][policy] = {p: _finite(float(np.mean(v))) for p, v in values.items()}
            results[variant][policy]["sd_130"] = _finite(float(np.std(values["130"], ddof=1)))
    return results


def _wins(done: dict[tuple[str, str, int], Curves]) -> dict[str, Any]:
    gains = [
        float(done[v, "priced", s].allocation[130] - done[v, "fgd", s].allocation[130])
        for v, p, s in sorted(done)
        if p == "priced" and (v, "fgd", s) in done
    ]
    return {
        "pairs": len(gains),
        "wins": sum(g > 0 for g in gains),
        "min_gain": round(min(gains), 3) if gains else None,
        "mean_gain": round(float(np.mean(gains)), 3) if gains else None,
    }


def _random_difference(
    done: dict[tuple[str, str, int], Curves], allocation: dict[tuple[str, str, int], FloatArray]
) -> float:
    worst = 0.0
    for variant in {key[0] for key in done if key[1] == "random"}:
        for point in REPORTED:
            theirs = [
                allocation[variant, "random", s][int(point)] for s in SEEDS if (variant, "random", s) in allocation
            ]
            if theirs:
                worst = max(worst, abs(_mean(done, variant, "random", point) - float(np.mean(theirs))))
    return round(worst, 3)
