"""Reader for ``alibaba-dlrm-2025``: inference instances with CPU, memory, GPU, disk and RDMA (Yang et al., NSDI'25).

CN (CPU node) and HN (GPU node) instances of one application; ``max_instance_per_node`` is a hard rule of ours. Instances
without a creation time exist from the start; those without a deletion time never end.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from placement.errors import ConfigError
from placement.pods import GpuRequest, PodRules, PodSpec
from placement.resources import CPU, MEMORY, STORAGE
from simulator.traces.trace import NEVER, Manifest, Pods, Rows, Trace, TraceError

RDMA = "ullage.dev/rdma-percent"
FILE = "disaggregated_DLRM_trace.csv.gz"
NEEDED = (
    *("instance_sn", "role", "app_name", "cpu_request", "memory_request", "gpu_request"),
    *("max_instance_per_node", "creation_time", "deletion_time"),
)


def read_dlrm(data: Path, *, skip_bad_rows: bool = False) -> Trace:
    """Every instance, by creation.

    Raises
    ------
    TraceError : the file is missing, cut short or damaged.
    """
    rows = Rows(data / FILE, skip_bad_rows)
    found: list[tuple[int, int, str, PodSpec]] = []
    for row in rows.table(NEEDED, "the DLRM trace", "give the folder of the DLRM trace"):
        spec = _spec(row, rows)
        arrival = _time(row["creation_time"], 0, rows)
        departure = _time(row["deletion_time"], NEVER, rows)
        if spec is None or arrival is None or departure is None or not rows.is_first(row["instance_sn"], "instance_sn"):
            continue
        if departure != NEVER and departure < arrival:
            rows.bad(f"deletion_time={departure} precedes creation_time={arrival}", "fix the row")
            continue
        found.append((arrival, departure, row["instance_sn"], spec))
    if not found:
        raise TraceError(f"trace {FILE}: holds no instance; copy it again")
    found.sort(key=lambda item: item[0])
    classes = {spec: i for i, spec in enumerate(dict.fromkeys(item[3] for item in found))}
    pods = Pods.of(
        name=[item[2] for item in found],
        spec=[classes[item[3]] for item in found],
        arrival_s=[item[0] for item in found],
        departure_s=[item[1] for item in found],
    )
    notes = (f"{rows.skipped} bad rows skipped",) if rows.skipped else ()
    trace = Trace(Manifest("dlrm", "alibaba-dlrm-2025", notes=notes), tuple(classes), (), pods)
    trace.check()
    return trace


def _time(text: str | None, default: int, rows: Rows) -> int | None:
    return default if text in (None, "") else rows.integer(text, "time")


def _spec(row: dict[str, str], rows: Rows) -> PodSpec | None:
    amounts: dict[str, int] = {}
    for column, name, unit in (
        ("cpu_request", CPU, 1000),
        ("memory_request", MEMORY, 2**30),
        ("disk_request", STORAGE, 2**30),
        ("rdma_request", RDMA, 1),
    ):
        text = row.get(column)
        try:
            amount = float(text) if text not in (None, "") else 0.0
        except ValueError:
            amount = -1.0
        if not 0 <= amount < 1e7:  # also false for NaN
            rows.bad(f"{column}={text!r} is not a number >= 0", "fix the row")
            return None
        amounts[name] = int(np.ceil(amount * unit))
    gpus = rows.integer(row["gpu_request"] or "0", "gpu_request", most=64)
    limit = rows.integer(row["max_instance_per_node"] or "-1", "max_instance_per_node", least=-1, most=10**6)
    if gpus is None or limit is None:
        return None
    try:
        gpu = GpuRequest(gpus) if gpus else None
    except ConfigError as error:
        rows.bad(str(error), "fix the row")
        return None
    return PodSpec(
        tuple(sorted((n, a) for n, a in amounts.items() if a)),
        gpu,
        owner=f"Application/{row['app_name']}",
        labels=(("app", row["app_name"]), ("role", row["role"])),
        pod_rules=PodRules(max_per_node=max(limit, 0)),
    )
