"""A recorded cluster as a trace, and the usage in a trace as a table to learn from.

A trace counts seconds from its beginning. A recording's beginning is put at the start of a week (Thursday 00:00 UTC,
as Unix time counts weeks), so that hour and weekday, which the models look at, are those of the live clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from placement.knowledge import workload_of
from placement.learning.facts import facts_of
from placement.learning.siblings import group_of
from placement.learning.usage import STEP_S, UsageSeries
from placement.recording import Recording
from placement.resources import CPU, MEMORY, IntArray
from simulator.traces.trace import NEVER, Manifest, Pods, Trace, TraceError, Usage
from simulator.traces.usage_grid import disorder, to_grid

WEEK_S = 7 * 86_400


def trace_of_recording(recording: Recording) -> Trace:
    """The trace of a recording: pods by arrival, with their usage.

    Raises
    ------
    TraceError : it has no pods or no nodes.
    """
    if not recording.pods or not recording.nodes:
        raise TraceError(
            f"recording {recording.name}: holds {len(recording.nodes)} nodes and {len(recording.pods)} pods; "
            "a trace needs both"
        )
    first = recording.first_s
    origin = first // WEEK_S * WEEK_S
    pods = sorted(recording.pods, key=lambda p: max(p.arrival_s, first))
    classes = {spec: i for i, spec in enumerate(dict.fromkeys(p.spec for p in pods))}
    arrivals = np.array([max(p.arrival_s, first) - origin for p in pods], np.int64)
    leaves = [NEVER if p.departure_s < 0 else max(p.departure_s - origin, 0) for p in pods]
    columns = Pods.of(
        name=np.array([p.name for p in pods], object),
        spec=np.array([classes[p.spec] for p in pods], np.int64),
        arrival_s=arrivals,
        departure_s=np.maximum(np.array(leaves, np.int64), np.where(np.array(leaves) == NEVER, NEVER, arrivals)),
    )
    usage = Usage(
        np.repeat(np.arange(len(pods)), [len(p.time_s) for p in pods]).astype(np.int64),
        np.concatenate([p.time_s for p in pods]).astype(np.int64) - origin,
        np.concatenate([p.cpu_millicores for p in pods]).astype(np.int64),
        np.concatenate([p.memory_bytes for p in pods]).astype(np.int64),
    )
    notes = (f"second 0 is unix time {origin}", *recording.notes)
    manifest = Manifest(recording.name, "ullage record", notes=notes, begins_s=origin)
    trace = Trace(manifest, tuple(classes), recording.nodes, columns, usage=usage)
    trace.check()
    return trace


@dataclass(frozen=True)
class _Members:
    """Workload of each pod (−1: a bare pod, or one that asks for nothing), and the workloads' names and requests."""

    workload: IntArray
    names: tuple[str, ...]
    cpu: IntArray
    memory: IntArray


def _members(trace: Trace) -> _Members:
    rows: dict[str, int] = {}
    asked: list[list[int]] = []
    of_class = []
    for spec in trace.specs:
        name = workload_of(spec.namespace, spec.owner)
        if not name or not spec.amount(CPU) or not spec.amount(MEMORY):
            of_class.append(-1)
            continue
        row = rows.setdefault(name, len(rows))
        if row == len(asked):
            asked.append([0, 0])
        asked[row] = [max(asked[row][0], spec.amount(CPU)), max(asked[row][1], spec.amount(MEMORY))]
        of_class.append(row)
    table: IntArray = np.array(asked, np.int64).reshape(-1, 2)
    return _Members(np.array(of_class, np.int64)[trace.pods.spec], tuple(rows), table[:, 0], table[:, 1])


def usage_of_trace(trace: Trace) -> UsageSeries:
    """Usage by workload as the live side keeps it: per five minutes the largest of the workload's pods.

    By Unix time where the trace says when it began, else by the trace's own clock.

    Raises
    ------
    TraceError : the trace has no usage of workloads that ask for CPU and memory, or impossible values.
    """
    members, usage, name = _members(trace), trace.usage, trace.manifest.name
    workload = members.workload[usage.pod] if len(usage.pod) else np.zeros(0, np.int64)
    known = workload >= 0
    if not known.any():
        raise TraceError(
            f"trace {name}: has no usage of pods that have an owner and ask for CPU and memory; "
            "record one with `ullage record`, or make one up with `ullage trace synth --usage`"
        )
    slot = -(-(usage.time_s[known] + trace.manifest.begins_s) // STEP_S)
    keys, inverse = np.unique(np.stack([workload[known], slot]), axis=1, return_inverse=True)
    values = {}
    for resource, column, unit in (
        (CPU, usage.cpu_millicores[known], 1000.0),
        (MEMORY, usage.memory_bytes[known], 1.0),
    ):
        largest = np.full(keys.shape[1], -1, np.int64)
        np.maximum.at(largest, inverse.ravel(), column)
        values[resource] = np.where(largest < 0, np.nan, largest / unit)
    provisioned = {CPU: members.cpu / 1000.0, MEMORY: members.memory.astype(float)}
    pod, time_s = usage.pod[known], usage.time_s[known]
    repairs = disorder(pod, pod * (int(time_s.max()) + 1) + time_s)
    series = to_grid(name, keys[0], keys[1] * STEP_S, values, workloads=members.names, provisioned=provisioned)
    facts = facts_of(trace.specs)
    groups = tuple(group_of(workload) for workload in series.workloads)
    return replace(
        series,
        groups=groups,
        facts=tuple(facts[workload] for workload in series.workloads),
        repairs=(*repairs, *series.repairs),
    )
