"""One replay in numbers: what tables, charts and JSON show. Everything here is a plain value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from placement.nodes import NodeSpec
from placement.rates import HOURS_A_MONTH
from placement.resources import CPU, GPU_SHARE, MEMORY
from simulator.cost import PriceBook
from simulator.replay import Outcome
from simulator.traces.trace import Trace

SERIES_POINTS = 160


def measure(outcome: Outcome, trace: Trace, book: PriceBook) -> dict[str, Any]:
    """Metrics and series of one replay, JSON-ready; NaN becomes None."""
    timeline = outcome.timeline
    hours = timeline.measured_s / 3600
    fleet = {(node.shape or node.name, node.spot): node for node in trace.nodes}
    usd = {"on_demand": 0.0, "spot": 0.0}
    for (shape, spot), seconds in timeline.node_s.items():
        price = _price(book, shape, spot, fleet)
        usd["spot" if spot else "on_demand"] += price * seconds / 3600
    if not book.shapes or all(shape not in book.shapes for shape, _ in timeline.node_s):
        usd = _fleet_usd(trace, book, timeline.start_s, timeline.time_s)
    taken, offered = timeline.taken_s, timeline.offered_s
    last = timeline.series[-1]
    is_measured = trace.pods.arrival_s >= timeline.start_s
    waited = outcome.pending_s[(outcome.pending_s >= 0) & is_measured]
    row: dict[str, Any] = {
        "pods": outcome.num_pods,
        "placed": outcome.num_placed,
        "unplaced": outcome.unplaced,
        "unplaced_pods": list(outcome.unplaced_pods),
        "gpu_allocated_share": _share(taken[2], offered[2]),
        "cpu_allocated_share": _share(taken[0], offered[0]),
        "memory_allocated_share": _share(taken[1], offered[1]),
        "gpu_allocated_share_end": _share(last.taken[2], last.offered[2]),
        "cpu_allocated_share_end": _share(last.taken[0], last.offered[0]),
        "gpu_hours": taken[2] / 3.6e6,
        "core_hours": taken[0] / 3.6e6,
        "gib_hours": taken[1] / 2**30 / 3600,
        "fragmented_gpu_share_end": _share(last.fragmented_gpu_milli, last.offered[2]),
        "stranded_gpu_share_end": _share(last.stranded_gpu_milli, last.offered[2]),
        "stranded_cpu_share_end": _share(last.stranded_cpu, last.offered[0]),
        "empty_nodes_mean": timeline.empty_node_s / timeline.measured_s if timeline.measured_s else 0.0,
        "pending_s_p50": _percentile(waited, 50),
        "pending_s_p95": _percentile(waited, 95),
        "pending_s_p99": _percentile(waited, 99),
        "preemptions": outcome.num_preemptions,
        "evictions": outcome.num_evictions,
        "lost_pod_hours": outcome.lost_pod_s / 3600,
        "node_hours": sum(timeline.node_s.values()) / 3600,
        "usd_on_demand": usd["on_demand"],
        "usd_spot": usd["spot"],
        "usd": usd["on_demand"] + usd["spot"],
        "usd_per_month": (usd["on_demand"] + usd["spot"]) / hours * HOURS_A_MONTH if hours else None,
        "hours": hours,
    }
    return {
        "strategy": outcome.strategy,
        "strategy_digest": outcome.strategy_digest,
        "knowledge_digest": outcome.knowledge_digest,
        "trace": outcome.trace,
        "seed": outcome.seed,
        "delivery": outcome.delivery,
        "metrics": {key: _clean(value) for key, value in row.items()},
        "fragments": {
            cause: _clean(milli / last.offered[2])
            for cause, milli in timeline.fragment_causes.items()
            if milli and last.offered[2]
        },
        "series": _series(outcome),
        "peak_nodes": dict(sorted(timeline.peak.items())) if len(book.shapes) else {},
        "log_digest": outcome.log.digest(),
        "timing": {"wall_s": outcome.wall_s, "cpu_s": outcome.cpu_s, "decisions": outcome.num_decisions},
    }


def _price(book: PriceBook, shape: str, spot: bool, fleet: Mapping[tuple[str, bool], NodeSpec]) -> float:
    if shape in book.shapes:
        return book.shapes[shape].price(spot=spot)
    node = fleet.get((shape, spot))
    return book.usd_per_hour(node) if node is not None else 0.0


def _fleet_usd(trace: Trace, book: PriceBook, start_s: int, end_s: int) -> dict[str, float]:
    """A fixed fleet without shapes, at the rates of its parts: a node costs while it belongs to it, also while it is down."""
    paid_s = Counter({node.name: end_s - start_s for node in trace.nodes})
    gone: dict[str, int] = {}
    for event in sorted(trace.failures, key=lambda event: event.time_s):
        at = min(max(event.time_s, start_s), end_s)
        if event.kind in ("remove", "drain"):
            gone.setdefault(event.node, at)
        elif event.kind in ("add", "repair"):
            paid_s[event.node] -= at - gone.pop(event.node, at)
    for name, at in gone.items():
        paid_s[name] -= end_s - at
    usd = {"on_demand": 0.0, "spot": 0.0}
    for node in trace.nodes:
        usd["spot" if node.spot else "on_demand"] += book.usd_per_hour(node) * (paid_s[node.name] / 3600)
    return usd


def _share(part: float, whole: float) -> float | None:
    return None if not whole or math.isnan(part) else part / whole


def _percentile(values: np.ndarray, q: float) -> float | None:
    return float(np.percentile(values, q)) if len(values) else None


def _clean(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _series(outcome: Outcome) -> dict[str, list[Any]]:
    samples = outcome.timeline.series
    step = max(1, len(samples) // SERIES_POINTS)
    picked = samples[::step]
    start = outcome.timeline.start_s
    columns: dict[str, list[Any]] = {
        "time_s": [s.time_s - start for s in picked],
        "arrived_gpu_share": [_share(s.arrived_gpu_milli, s.offered[2]) for s in picked],
        "nodes": [s.num_nodes for s in picked],
        "empty_nodes": [s.num_empty_nodes for s in picked],
        "running": [s.num_running for s in picked],
        "arrived": [s.num_arrived for s in picked],
        "fragmented_gpu_share": [_share(s.fragmented_gpu_milli, s.offered[2]) for s in picked],
    }
    for i, name in enumerate((CPU, MEMORY, GPU_SHARE)):
        key = "gpu" if name == GPU_SHARE else name
        columns[f"{key}_share"] = [_share(s.taken[i], s.offered[i]) for s in picked]
    return {key: [_clean(v) for v in values] for key, values in columns.items()}
