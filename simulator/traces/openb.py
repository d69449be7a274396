"""Reader for ``openb``: Alibaba's GPU cluster trace of 2023 (pods and nodes of the FGD paper, ATC'23)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from placement.errors import ConfigError
from placement.nodes import NodeSpec
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, DEVICE_MILLI, MEMORY, PODS
from simulator.traces.trace import NEVER, Manifest, Pods, Rows, Trace, TraceError

MAX_PODS = 1001
"""Pods per node in the paper's protocol."""
NODE_LISTS = {"gpu": "openb_node_list_gpu_node.csv", "all": "openb_node_list_all_node.csv"}


def read_openb(
    data: Path, *, variant: str = "default", nodes: str = "gpu", departures: bool = True, skip_bad_rows: bool = False
) -> Trace:
    """Read ``openb_pod_list_{variant}.csv`` with one of the node lists.

    Parameters
    ----------
    nodes : ``gpu`` (1,213 nodes, as in the paper) or ``all`` (1,523).
    departures : False leaves every pod running, and takes the file's order as arrival order.

    Raises
    ------
    TraceError : a file is missing, foreign or damaged.
    """
    listed = Rows(data / NODE_LISTS[nodes], skip_bad_rows)
    fleet = _nodes(listed)
    rows = Rows(data / f"openb_pod_list_{variant}.csv", skip_bad_rows)
    classes: dict[PodSpec, int] = {}
    names: list[str] = []
    spec_of: list[int] = []
    arrival: list[int] = []
    departure: list[int] = []
    for row in _read(rows, ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")):
        spec = _spec(row, rows)
        times = (len(names), NEVER) if not departures else _times(row, rows)
        if spec is None or times is None or not rows.is_first(row["name"], "name"):
            continue
        names.append(row["name"])
        spec_of.append(classes.setdefault(spec, len(classes)))
        arrival.append(times[0])
        departure.append(times[1])
    listed_pods = Pods.of(name=names, spec=spec_of, arrival_s=arrival, departure_s=departure)
    pods = listed_pods.pick(np.argsort(listed_pods.arrival_s, kind="stable"))
    notes = tuple(f"{n} bad rows{of} skipped" for n, of in ((rows.skipped, ""), (listed.skipped, " of nodes")) if n)
    trace = Trace(Manifest(f"openb-{variant}", "openb", notes=notes), tuple(classes), tuple(fleet), pods)
    trace.check()
    return trace


def _read(rows: Rows, needed: Iterable[str]) -> Iterator[dict[str, str]]:
    lists = [file.stem.removeprefix("openb_pod_list_") for file in rows.path.parent.glob("openb_pod_list_*.csv")]
    there = f"pod lists there: {', '.join(sorted(lists))}" if lists else "give the folder of the openb files"
    return rows.table(needed, "an openb file", there)


def _spec(row: dict[str, str], rows: Rows) -> PodSpec | None:
    cpu = rows.integer(row["cpu_milli"], "cpu_milli", most=10**9)
    memory = rows.integer(row["memory_mib"], "memory_mib", most=10**9)
    count = rows.integer(row["num_gpu"] or "0", "num_gpu", most=64)
    if cpu is None or memory is None or count is None:
        return None
    gpu = None
    if count:
        milli = DEVICE_MILLI if count > 1 else rows.integer(row["gpu_milli"], "gpu_milli", least=1, most=DEVICE_MILLI)
        if milli is None:
            return None
        try:
            gpu = GpuRequest(count, milli, tuple(m for m in (row.get("gpu_spec") or "").split("|") if m))
        except ConfigError as error:
            rows.bad(str(error), "fix the row")
            return None
    return PodSpec(((CPU, cpu), (MEMORY, memory << 20)), gpu)


def _times(row: dict[str, str], rows: Rows) -> tuple[int, int] | None:
    if "creation_time" not in row or "deletion_time" not in row:
        raise TraceError(f"trace {rows.path.name}: has no times; read it as openb:DIR:VARIANT,no-departures")
    arrival = rows.integer(row["creation_time"], "creation_time")
    departure = rows.integer(row["deletion_time"], "deletion_time")
    if arrival is None or departure is None:
        return None
    if departure < arrival:
        rows.bad(f"deletion_time={departure} precedes creation_time={arrival}", "fix the row")
        return None
    return arrival, departure


def _nodes(rows: Rows) -> list[NodeSpec]:
    fleet = []
    for row in _read(rows, ("sn", "cpu_milli", "memory_mib", "gpu", "model")):
        cpu = rows.integer(row["cpu_milli"], "cpu_milli", most=10**9)
        memory = rows.integer(row["memory_mib"], "memory_mib", most=10**9)
        gpus = rows.integer(row["gpu"], "gpu", most=62)
        if cpu is None or memory is None or gpus is None or not rows.is_first(row["sn"], "sn"):
            continue
        allocatable = ((CPU, cpu), (MEMORY, memory << 20), (PODS, MAX_PODS))
        fleet.append(NodeSpec(row["sn"], allocatable, num_gpus=gpus, gpu_model=row["model"] or ""))
    return sorted(fleet, key=lambda node: node.name)
