"""What is in a trace, as facts for machines and rows for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from placement.knowledge import Workload
from placement.pods import NodeRules, PodRules, PodSpec, Toleration
from placement.resources import CPU, GPU_SHARE, MEMORY, IntArray, format_amount
from simulator.traces.trace import NEVER, Trace

QUANTILES = (10, 50, 90, 99)
ADMITTED = tuple(
    Toleration(f"node.kubernetes.io/{what}", "Exists", "", "NoExecute") for what in ("not-ready", "unreachable")
)
"""What admission has every pod tolerate: of a recorded cluster else all pods would have rules."""


def facts_of(trace: Trace) -> dict[str, Any]:
    """Facts by section, in JSON's types; amounts in millicores, bytes and counts."""
    pods, manifest = trace.pods, trace.manifest
    ends = pods.departure_s != NEVER
    lifetimes = (pods.departure_s - pods.arrival_s)[ends]
    per_class = np.bincount(pods.spec, minlength=len(trace.specs))
    return {
        "name": manifest.name,
        "source": manifest.source,
        "seed": manifest.seed,
        "digest": trace.digest,
        "format_version": manifest.format_version,
        "begins_s": manifest.begins_s or None,
        "pods": _pods(trace, per_class),
        "arrivals": _arrivals(pods.arrival_s),
        "lifetime_s": {f"p{q}": int(np.percentile(lifetimes, q)) if len(lifetimes) else None for q in QUANTILES},
        "never_end": int((~ends).sum()),
        "fleet": {
            "nodes": len(trace.nodes),
            "models": dict(Counter(n.gpu_model for n in trace.nodes if n.num_gpus).most_common()),
            "events": len(trace.failures),
            "shapes_priced": len(trace.prices),
        },
        "resources": _resources(trace, per_class),
        "usage_samples": len(trace.usage.pod),
        "log_events": len(trace.events),
        "notes": list(manifest.notes),
    }


def _pods(trace: Trace, per_class: IntArray) -> dict[str, int]:
    def count(test: Any) -> int:
        return int(sum(n for spec, n in zip(trace.specs, per_class.tolist(), strict=True) if test(spec)))

    gang = trace.pods.gang
    return {
        "count": len(trace.pods),
        "classes": len(trace.specs),
        "owners": len({(s.namespace, s.owner) for s in trace.specs if s.owner}),
        "namespaces": len({s.namespace for s in trace.specs}),
        "gangs": len(set(gang[gang >= 0].tolist())),
        "without_gpu": count(lambda s: s.gpu is None),
        "gpu_share": count(lambda s: s.gpu is not None and s.gpu.total_milli < 1000),
        "one_gpu": count(lambda s: s.gpu is not None and s.gpu.total_milli == 1000),
        "several_gpus": count(lambda s: s.gpu is not None and s.gpu.count > 1),
        "naming_models": count(lambda s: s.gpu is not None and bool(s.gpu.models)),
        "with_rules": count(_has_rules),
    }


def _has_rules(spec: PodSpec) -> bool:
    own = tuple(t for t in spec.node_rules.tolerations if t not in ADMITTED)
    return replace(spec.node_rules, tolerations=own) != NodeRules() or spec.pod_rules != PodRules()


def _arrivals(arrival_s: IntArray) -> dict[str, float | int | None]:
    if not len(arrival_s):
        return {"first_s": None, "last_s": None, "per_hour": None}
    first, last = int(arrival_s[0]), int(arrival_s[-1])
    per_hour = round(3600 * len(arrival_s) / (last - first), 1) if last > first else None
    return {"first_s": first, "last_s": last, "per_hour": per_hour}


def _resources(trace: Trace, per_class: IntArray) -> dict[str, dict[str, float | int | None]]:
    """Per resource: offered by the fleet, asked by all pods, and asked at once on average (as a share of offered)."""
    pods = trace.pods
    end = int(pods.arrival_s[-1]) if len(pods) else 0
    stop = np.where(pods.departure_s == NEVER, end, np.minimum(pods.departure_s, end))
    held_s = np.bincount(pods.spec, np.maximum(stop - pods.arrival_s, 0), minlength=len(trace.specs))
    span = max(end - int(pods.arrival_s[0]), 1) if len(pods) else 1
    names = sorted({n for s in trace.specs for n in s.amounts} - {CPU, MEMORY, GPU_SHARE})
    found: dict[str, dict[str, float | int | None]] = {}
    for name in (CPU, MEMORY, GPU_SHARE, *names):
        amount = np.array([s.amount(name) for s in trace.specs], np.float64)
        offered = sum(n.amounts.get(name, 0) for n in trace.nodes)
        at_once = float(amount @ held_s) / span
        found[name] = {
            "offered": offered,
            "asked_in_all": int(amount @ per_class),
            "asked_at_once_mean": round(at_once),
            "load_share": round(at_once / offered, 4) if offered else None,
        }
    return found


def rows_of(facts: dict[str, Any]) -> list[dict[str, str]]:
    """Two columns to read from top to bottom."""
    pods, arrivals, life, fleet = facts["pods"], facts["arrivals"], facts["lifetime_s"], facts["fleet"]
    lines = {
        "trace": f"{facts['name']} (from {facts['source'] or 'elsewhere'}, digest {facts['digest']})",
        "began": _began(facts["begins_s"]),
        "pods": f"{pods['count']:,} of {pods['classes']:,} classes, {pods['owners']:,} owners, {pods['gangs']:,} gangs",
        "GPU": f"{pods['without_gpu']:,} pods without, {pods['gpu_share']:,} a share, {pods['one_gpu']:,} one, "
        f"{pods['several_gpus']:,} several; {pods['naming_models']:,} name models",
        "rules": f"{pods['with_rules']:,} pods select nodes, tolerate taints, take host ports, or speak of other pods",
        "arrivals": _when(arrivals),
        "lifetimes": ", ".join(f"{q} {duration(s)}" for q, s in life.items() if s is not None) or "none ended",
        "never end": f"{facts['never_end']:,} pods",
        "fleet": f"{fleet['nodes']:,} nodes" if fleet["nodes"] else "none: replay with --fleet elastic",
    }
    if fleet["models"]:
        lines["device models"] = ", ".join(f"{model or 'any'} on {n}" for model, n in fleet["models"].items())
    for name, amounts in facts["resources"].items():
        if amounts["asked_in_all"] or amounts["offered"]:
            lines[name] = _amounts(name, amounts)
    for key, what in (("usage_samples", "usage samples"), ("log_events", "log events")):
        if facts[key]:
            lines[what] = f"{facts[key]:,}"
    if fleet["events"]:
        lines["node events"] = f"{fleet['events']:,}"
    lines |= {f"note {i}": note for i, note in enumerate(facts["notes"], start=1)}
    return [{"what": what, "value": value} for what, value in lines.items()]


def _began(begins_s: int | None) -> str:
    if begins_s is None:
        return "not known, so models learn no hours of the day; `ullage trace convert --begins-at` tells it"
    return f"{datetime.fromtimestamp(begins_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _when(arrivals: dict[str, Any]) -> str:
    if arrivals["first_s"] is None:
        return "none"
    if arrivals["per_hour"] is None:
        return f"all in second {arrivals['first_s']:,}"
    span = duration(arrivals["last_s"] - arrivals["first_s"])
    return f"{arrivals['per_hour']:,} an hour over {span}, from second {arrivals['first_s']:,}"


def _amounts(name: str, amounts: dict[str, Any]) -> str:
    at_once = f"{format_amount(amounts['asked_at_once_mean'], name)} asked at once on average"
    if amounts["load_share"] is None:
        return at_once
    return f"{at_once}, {100 * amounts['load_share']:.1f} % of {format_amount(amounts['offered'], name)}"


def duration(seconds: float | None) -> str:
    """Seconds in the largest unit that keeps them above one."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def workload_of(trace: Trace) -> Workload:
    """How much of each kind a cluster with this trace's pods holds: pods, or pod-minutes where pods leave."""
    pods = trace.pods
    leaving = bool((pods.departure_s != NEVER).any())
    end_s = int(max(pods.arrival_s.max(initial=0), pods.departure_s.max(initial=0)))
    stays = np.where(pods.departure_s == NEVER, end_s, pods.departure_s) - pods.arrival_s
    weights = stays // 60 + 1 if leaving else np.ones(len(pods), np.int64)
    counts = np.zeros(len(trace.specs), np.int64)
    np.add.at(counts, pods.spec, weights)
    return Workload.of(trace.specs, counts.tolist(), leaving=leaving)
