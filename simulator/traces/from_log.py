"""A service's own event log as a trace: what arrived and left, on which nodes, to be replayed under other strategies.

A pod arrives when it is first asked about or first counted. It lives from when it is bound until it is released, and
leaves so long after its arrival: how long it waited is no part of its life. Pods that ran before the log began are there
from the first moment of the trace on, which says so to whoever learns lifetimes. Nodes that join or go later are recorded
events. What was chosen is not taken over: that, and who waits, is for the replay to decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from placement import log
from placement.log import Event
from placement.log_lines import HOLE
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from simulator.traces.trace import NEVER, NodeEvent, Trace, TraceError


def trace_of(events: Iterable[Event], name: str, *, begins_s: int = 0) -> Trace:
    """The trace behind a log whose second 0 is the Unix time ``begins_s``.

    Raises
    ------
    TraceError : the log holds no pod or no node.
    """
    nodes: dict[str, NodeSpec] = {}
    changes: list[NodeEvent] = []
    specs: dict[str, PodSpec] = {}
    arrivals: dict[str, int] = {}
    departures: dict[str, int] = {}
    bound: dict[str, int] = {}
    found: set[str] = set()
    begin_s: int | None = None
    for event in events:
        subject = event.subject
        begin_s = event.time_s if begin_s is None else begin_s
        if event.kind in (log.NODE_ADDED, log.NODE_REMOVED) and subject.startswith(HOLE):
            continue  # no node ever had that name
        if event.kind == log.NODE_ADDED:
            if subject in nodes or arrivals:
                changes.append(NodeEvent(event.time_s, "add", subject))
            nodes.setdefault(subject, event.detail)
        elif event.kind == log.NODE_REMOVED:
            changes.append(NodeEvent(event.time_s, "remove", subject))
        elif event.kind in (log.POD_ASSUMED, log.POD_BOUND, log.POD_FOUND, log.DECISION):
            spec = event.detail.spec if event.kind == log.DECISION else event.detail
            if spec is not None:
                specs.setdefault(subject, spec.anew)
                arrivals.setdefault(subject, max(event.time_s, begin_s))
                if event.kind == log.POD_FOUND and subject not in bound:  # else it comes back with its node
                    found.add(subject)
            if event.kind in (log.POD_BOUND, log.POD_FOUND):
                bound.setdefault(subject, event.time_s)
                departures.pop(subject, None)
        elif event.kind in (log.POD_RELEASED, log.POD_ENDED):
            departures[subject] = event.time_s
    if not specs or not nodes:
        raise TraceError(f"log {name}: holds {len(nodes)} nodes and {len(specs)} pods; a trace needs both")
    first = min(arrivals.values())
    pods = []
    for uid, at in arrivals.items():
        arrival = first if uid in found else at
        left = departures.get(uid, NEVER)
        waited = 0 if uid in found else bound.get(uid, at) - at
        pods.append((uid, specs[uid], arrival, left if left == NEVER else left - waited))
    late = _joined_late(nodes, changes)
    failures = [NodeEvent(first, "remove", node) for node in late] + changes
    trace = Trace.of(name, nodes.values(), pods, failures=failures)
    return trace.but(manifest=replace(trace.manifest, begins_s=begins_s))


def _joined_late(nodes: dict[str, NodeSpec], changes: list[NodeEvent]) -> list[str]:
    """Nodes whose first change is that they join: they are not there at the beginning."""
    first = {change.node: change.kind for change in reversed(changes)}
    return [node for node in nodes if first.get(node) == "add"]
