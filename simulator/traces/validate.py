"""Checks over a trace, each with a code: what is wrong, where, and how to fix it.

A replay refuses what it could make no sense of (T014–T017 tell all of it, not just the first); the other rules find what
would make it mislead. Mechanical ones can be fixed (``--fix``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import msgspec
import numpy as np

from placement.nodes import NodeSpec
from placement.owners import HOSTNAME
from placement.pods import PodSpec
from placement.resources import CPU, GPU_SHARE, MEMORY, BoolArray, IntArray
from simulator.traces.trace import KINDS, NEVER, Pods, Trace, Usage


@dataclass(frozen=True)
class Finding:
    """One thing found."""

    code: str
    severity: str
    where: str
    message: str
    fix: str


Check = Callable[[Trace], list[tuple[str, str]]]


@dataclass(frozen=True)
class Rule:
    """One check. ``repair`` gives a fixed trace where that is mechanical."""

    code: str
    severity: str
    title: str
    fix: str
    check: Check
    repair: Callable[[Trace], Trace] | None = None


def _pods(trace: Trace, chosen: BoolArray, what: str) -> list[tuple[str, str]]:
    """That some pods ``(P,)`` do what they should not, if any does; the first by name."""
    rows = np.flatnonzero(chosen)
    names = ", ".join(str(trace.pods.name[i]) for i in rows[:3])
    return [("pods", f"{len(rows)} pods {what}: {names}{' …' if len(rows) > 3 else ''}")] if len(rows) else []


def _no_pods(trace: Trace) -> list[tuple[str, str]]:
    return [] if len(trace.pods) else [("pods", "the trace has no pods")]


def _zero_life(trace: Trace) -> list[tuple[str, str]]:
    return _pods(trace, _ends_at_once(trace.pods), "end the second they arrive")


def _ends_at_once(pods: Pods) -> BoolArray:
    return (pods.departure_s != NEVER) & (pods.departure_s == pods.arrival_s)


def _stretch(trace: Trace) -> Trace:
    pods = trace.pods
    return trace.but(pods=replace(pods, departure_s=pods.departure_s + _ends_at_once(pods)))


def _asks_nothing(trace: Trace) -> list[tuple[str, str]]:
    empty = np.array([not any(a for _, a in s.request) and s.gpu is None for s in trace.specs], np.bool_)
    return _pods(trace, empty[trace.pods.spec], "ask for nothing")


def _absurd(trace: Trace) -> list[tuple[str, str]]:
    found = []
    for i, spec in enumerate(trace.specs):
        if spec.amount(CPU) > 4_096_000:
            found.append((f"specs[{i}]", f"asks for {spec.amount(CPU) / 1000:g} cores"))
        if 0 < spec.amount(MEMORY) < 2**20:
            found.append((f"specs[{i}]", f"asks for {spec.amount(MEMORY)} bytes of memory: MiB taken for bytes?"))
        if spec.amount(MEMORY) > 2**46:
            found.append((f"specs[{i}]", f"asks for {spec.amount(MEMORY) / 2**40:.0f} TiB of memory"))
    return found


def _holds(trace: Trace, spec: PodSpec) -> bool:
    return any(
        all(node.amounts.get(name, 0) >= amount for name, amount in spec.amounts.items())
        and (spec.gpu is None or node.num_gpus >= spec.gpu.count)
        for node in trace.nodes
    )


def _never_fits(trace: Trace) -> list[tuple[str, str]]:
    if not trace.nodes:
        return []
    return [
        (f"specs[{i}]", f"fits no node of the fleet even when it is empty (asks for {dict(spec.amounts)})")
        for i, spec in enumerate(trace.specs)
        if not _holds(trace, spec)
    ]


def _unknown_model(trace: Trace) -> list[tuple[str, str]]:
    models = {node.gpu_model for node in trace.nodes}
    return [
        (f"specs[{i}]", f"accepts only {'|'.join(spec.gpu.models)}, which no node has")
        for i, spec in enumerate(trace.specs)
        if trace.nodes and spec.gpu is not None and spec.gpu.models and not models & set(spec.gpu.models)
    ]


def _no_fleet(trace: Trace) -> list[tuple[str, str]]:
    return [] if trace.nodes else [("nodes", "there is no fixed fleet")]


def _stranger(trace: Trace) -> list[tuple[str, str]]:
    known = {node.name for node in trace.nodes}
    strange = sorted({e.node for e in trace.failures} - known)
    return [("failures", f"name {len(strange)} nodes that are not there: {', '.join(strange[:3])}")] if strange else []


def _drop_strangers(trace: Trace) -> Trace:
    known = {node.name for node in trace.nodes}
    return trace.but(failures=tuple(e for e in trace.failures if e.node in known))


def _foreign_kind(trace: Trace) -> list[tuple[str, str]]:
    kinds = sorted({e.kind for e in trace.failures} - {*KINDS})
    return [("failures", f"say what is none of {', '.join(KINDS)}: {', '.join(kinds[:3])}")] if kinds else []


def _drop_foreign(trace: Trace) -> Trace:
    return trace.but(failures=tuple(e for e in trace.failures if e.kind in KINDS))


def _disorder(trace: Trace) -> list[tuple[str, str]]:
    times = [e.time_s for e in trace.failures]
    return [("failures", "are not in order of time")] if times != sorted(times) else []


def _sort_failures(trace: Trace) -> Trace:
    ordered = sorted(trace.failures, key=lambda event: event.time_s)  # within a second as they happened
    return trace.but(failures=tuple(ordered))


def _empty_load(trace: Trace) -> list[tuple[str, str]]:
    pods = trace.pods
    ends = pods.departure_s != NEVER
    if not trace.nodes or not len(pods) or not ends.any():
        return []
    offered = sum(n.amounts.get(CPU, 0) for n in trace.nodes)
    asked = np.array([s.amount(CPU) for s in trace.specs], np.float64)[pods.spec]
    span = max(int(pods.arrival_s[-1] - pods.arrival_s[0]), 1)
    load = float((asked * (pods.departure_s - pods.arrival_s))[ends].sum()) / span / max(offered, 1)
    return [("pods", f"the mean load is {100 * load:.2f} % of the fleet's CPU")] if load < 0.02 else []


def _small_gangs(trace: Trace) -> list[tuple[str, str]]:
    alone = [g for g, n in Counter(trace.pods.gang.tolist()).items() if g >= 0 and n == 1]
    return [("pods", f"{len(alone)} gangs have one member")] if alone else []


def _disband(trace: Trace) -> Trace:
    pods = trace.pods
    counts = Counter(pods.gang.tolist())
    gang = np.array([g if counts[g] > 1 else -1 for g in pods.gang.tolist()], np.int64)
    return trace.but(pods=replace(pods, gang=gang))


def _bad_usage(trace: Trace) -> list[tuple[str, str]]:
    usage = trace.usage
    found = []
    if len(usage.pod) and (usage.pod.min() < 0 or usage.pod.max() >= len(trace.pods)):
        found.append(("usage", "names pods that are not there"))
    if usage.impossible.any():
        found.append(("usage", "has negative samples or times, or rows that hold nothing"))
    return found


def _gpu_totals(trace: Trace) -> list[tuple[str, str]]:
    return [
        (f"specs[{i}]", f"asks for {GPU_SHARE} as a plain resource; GPU shares belong in the GPU request")
        for i, spec in enumerate(trace.specs)
        if any(name == GPU_SHARE for name, _ in spec.request)
    ]


def take(trace: Trace, rows: IntArray) -> Trace:
    """The trace with the pods of ``rows`` alone, in that order; their usage stays with them."""
    pods, usage = trace.pods, trace.usage
    new_row = np.full(len(pods), -1, np.int64)
    new_row[rows] = np.arange(len(rows))
    known = (usage.pod >= 0) & (usage.pod < len(pods))
    kept = np.flatnonzero(known)
    kept = kept[new_row[usage.pod[kept]] >= 0]
    columns = (new_row[usage.pod[kept]], usage.time_s[kept], usage.cpu_millicores[kept], usage.memory_bytes[kept])
    return trace.but(pods=pods.pick(rows), usage=Usage(*columns))


def _early(pods: Pods) -> BoolArray:
    return (pods.departure_s != NEVER) & (pods.departure_s < pods.arrival_s)


def _ends_early(trace: Trace) -> list[tuple[str, str]]:
    return _pods(trace, _early(trace.pods), "depart before they arrive")


def _drop_early(trace: Trace) -> Trace:
    return take(trace, np.flatnonzero(~_early(trace.pods)))


def _twice(trace: Trace) -> list[tuple[str, str]]:
    found = []
    for where, names in (("pods", trace.pods.name.tolist()), ("nodes", [n.name for n in trace.nodes])):
        again = [name for name, count in Counter(names).items() if count > 1]
        if again:
            found.append((where, f"{len(again)} names appear more than once: {', '.join(again[:3])}"))
    return found


def _unique(names: list[str]) -> list[str]:
    """Names with ``.2``, ``.3`` … behind those that came before."""
    taken, made = set(names), []
    count: Counter[str] = Counter()
    for name in names:
        count[name] += 1
        new = name
        while count[name] > 1 and new in taken:
            new = f"{name}.{count[name]}"
            count[name] += new in taken
        taken.add(new)
        made.append(new)
    return made


def _rename(trace: Trace) -> Trace:
    names = np.array(_unique(trace.pods.name.tolist()), object)
    nodes = zip(trace.nodes, _unique([n.name for n in trace.nodes]), strict=True)
    fleet = tuple(_renamed(node, name) for node, name in nodes)
    return trace.but(pods=replace(trace.pods, name=names), nodes=fleet)


def _renamed(node: NodeSpec, name: str) -> NodeSpec:
    """A node of another name; a label that says the name, by which pods keep apart, goes with it."""
    labels = tuple((k, name if (k, v) == (HOSTNAME, node.name) else v) for k, v in node.labels)
    return replace(node, name=name, labels=labels)


def _unsorted(trace: Trace) -> list[tuple[str, str]]:
    late = int((np.diff(trace.pods.arrival_s) < 0).sum())
    return [("pods", f"{late} pods arrive before the row above them")] if late else []


def _sort_pods(trace: Trace) -> Trace:
    return take(trace, np.argsort(trace.pods.arrival_s, kind="stable"))


def _before_zero(trace: Trace) -> list[tuple[str, str]]:
    return _pods(trace, trace.pods.arrival_s < 0, "arrive before second 0")


def _begin_earlier(trace: Trace) -> Trace:
    """Every clock of the trace moved on, so that the earliest arrival is at second 0."""
    pods, usage, manifest = trace.pods, trace.usage, trace.manifest
    by = -int(pods.arrival_s.min())
    departure = np.where(pods.departure_s == NEVER, NEVER, pods.departure_s + by)
    begins_s = manifest.begins_s - by if manifest.begins_s else 0
    return trace.but(
        manifest=replace(manifest, begins_s=begins_s),
        pods=replace(pods, arrival_s=pods.arrival_s + by, departure_s=departure),
        failures=tuple(e._replace(time_s=e.time_s + by) for e in trace.failures),
        usage=replace(usage, time_s=usage.time_s + by),
        events=tuple(msgspec.structs.replace(e, time_s=e.time_s + by) for e in trace.events),
    )


def _no_class(trace: Trace) -> list[tuple[str, str]]:
    spec = trace.pods.spec
    return _pods(trace, (spec < 0) | (spec >= len(trace.specs)), "name a class that is not there")


def _empty_nodes(trace: Trace) -> list[tuple[str, str]]:
    found = []
    for node in trace.nodes:
        if not node.amounts.get(CPU) or not node.amounts.get(MEMORY):
            found.append((f"node {node.name}", "offers no CPU or no memory"))
        elif 0 < node.amounts[MEMORY] < 2**20:
            found.append((f"node {node.name}", f"offers {node.amounts[MEMORY]} bytes of memory: MiB taken for bytes?"))
        if node.gpu_model and not node.num_gpus:
            found.append((f"node {node.name}", f"has device model {node.gpu_model!r} and no devices"))
    return found


def _no_price(trace: Trace) -> list[tuple[str, str]]:
    known = {shape.name for shape in trace.prices}
    strange = sorted({node.shape for node in trace.nodes if node.shape} - known)
    return [("nodes", f"shapes with no price: {', '.join(strange[:3])}")] if known and strange else []


def _log_disorder(trace: Trace) -> list[tuple[str, str]]:
    times = [event.time_s for event in trace.events]
    back = sum(b < a for a, b in pairwise(times))
    return [("events", f"time runs backwards {back} times")] if back else []


STRUCTURE = (
    Rule("T014", "error", "A pod departs before it arrives", "--fix leaves it out", _ends_early, _drop_early),
    Rule("T015", "error", "A name used twice", "--fix puts .2, .3 … behind the later ones", _twice, _rename),
    Rule("T016", "error", "Pods not in order of arrival", "--fix sorts them", _unsorted, _sort_pods),
    Rule("T017", "error", "A pod of no class", "files of two traces are mixed up: convert again", _no_class),
    Rule(
        "T021",
        "error",
        "A pod arrives before second 0",
        "--fix begins the clock with the first of them",
        _before_zero,
        _begin_earlier,
    ),
)
"""What loading refuses. While one of these stands and cannot be fixed, the other rules cannot look."""
_ALL = (
    Rule("T001", "error", "No pods", "check the reader and its options", _no_pods),
    Rule("T002", "warning", "A pod ends as it arrives", "--fix lets it run one second", _zero_life, _stretch),
    Rule(
        "T003",
        "warning",
        "A pod asks for nothing",
        "fill in requests; such pods only count towards pod limits",
        _asks_nothing,
    ),
    Rule("T004", "error", "An absurd request", "check the unit: millicores and bytes", _absurd),
    Rule(
        "T005",
        "warning",
        "A class fits no node",
        "add a node that holds it, or expect it to wait for ever",
        _never_fits,
    ),
    Rule(
        "T006",
        "warning",
        "A device model that no node has",
        "correct the model's name, or add such a node",
        _unknown_model,
    ),
    Rule("T007", "info", "No fixed fleet", "replay with --fleet elastic, or add nodes", _no_fleet),
    Rule("T008", "error", "A failure of an unknown node", "--fix drops it", _stranger, _drop_strangers),
    Rule("T009", "error", "Failures out of order", "--fix sorts them", _disorder, _sort_failures),
    Rule(
        "T010",
        "info",
        "An almost empty cluster",
        "use --fill, or take fewer nodes: nothing will differ otherwise",
        _empty_load,
    ),
    Rule("T011", "info", "A gang of one", "--fix disbands it", _small_gangs, _disband),
    Rule("T012", "error", "Usage that cannot be", "make the usage table again", _bad_usage),
    Rule("T013", "error", "GPU shares as a plain resource", "move them into the GPU request", _gpu_totals),
    *STRUCTURE,
    Rule("T018", "warning", "A node that offers nothing", "check the unit, or take the node out", _empty_nodes),
    Rule("T019", "warning", "A shape with no price", "add it to the price book, or clear the node's shape", _no_price),
    Rule("T022", "error", "A change of a node that is none", "--fix leaves it out", _foreign_kind, _drop_foreign),
    Rule("T020", "error", "An event log that runs backwards", "take the log from its source again", _log_disorder),
)
RULES = tuple(sorted(_ALL, key=lambda rule: rule.code))
"""Every check, in order of code."""


def validate(trace: Trace) -> list[Finding]:
    """Everything found, by code."""
    rules = STRUCTURE if _no_class(trace) else RULES
    return [
        Finding(rule.code, rule.severity, where, message, rule.fix)
        for rule in rules
        for where, message in rule.check(trace)
    ]


def fixed(trace: Trace) -> tuple[Trace, list[str]]:
    """The trace with every mechanical repair made, and the codes that were."""
    codes = []
    for rule in STRUCTURE if _no_class(trace) else (*STRUCTURE, *RULES):
        if rule.repair is not None and rule.check(trace):
            trace = rule.repair(trace)
            codes.append(rule.code)
    return trace, codes


__all__ = ["RULES", "STRUCTURE", "Finding", "Rule", "fixed", "take", "validate"]
