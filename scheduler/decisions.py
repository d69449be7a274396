"""Lists of decision records: one flat row each, for tables, CSV, and Parquet."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from placement.errors import ConfigError, why
from placement.whole_files import whole_file
from scheduler.errors import RecordError
from scheduler.explain import when
from scheduler.records import Record

SHOWN = ("at", "pod", "mode", "outcome", "node", "devices", "final_node", "agrees", "strategy", "id")
"""Columns of the table for people."""
GROUP = 10_000
"""Records of a row group; more are never in memory, for a store has a million, and the service may run beside."""


def flat(record: Record) -> dict[str, Any]:
    """One row of plain values."""
    request = record.request
    reasons = record.reasons
    return {
        "id": record.id,
        "at": when(record.asked_s),
        "asked_s": record.asked_s,
        "pod": f"{record.namespace}/{record.name}",
        "namespace": record.namespace,
        "name": record.name,
        "uid": record.uid,
        "verb": record.verb,
        "mode": record.mode,
        "outcome": record.outcome,
        "node": record.node,
        "devices": ",".join(map(str, record.device_indices)),
        "score": record.score if record.node else None,
        "runner_up": record.runner_up,
        "final_node": record.final_node,
        "final_s": record.final_s,
        "agrees": record.agrees,
        "num_candidates": record.num_candidates,
        "main_reason": max(reasons, key=lambda r: reasons[r]) if reasons else "",
        "duration_s": record.duration_s,
        "strategy": record.strategy,
        "strategy_digest": record.strategy_digest,
        "knowledge": record.knowledge,
        "version": record.version,
        "prediction_source": record.prediction_source,
        "request_cpu_millicores": int(request.get("cpu", 0)),
        "request_memory_bytes": int(request.get("memory", 0)),
        "request_gpu_milli": int(request.get("ullage.dev/gpu-milli", 0)),
        "owner": request.get("owner", ""),
    }


def write_parquet(records: Iterable[Record], path: Path) -> int:
    """Write all records as one Parquet file, some at a time; how many.

    Raises
    ------
    ConfigError : pyarrow is not installed, or the file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ConfigError('Parquet needs pyarrow, which this install lacks; pip install "ullage[sim]"') from error
    floats, booleans = {"asked_s", "final_s", "duration_s"}, {"agrees"}
    integers = {"score", "num_candidates", "version"} | {f"request_{k}" for k in ("cpu_millicores", "gpu_milli")}
    integers |= {"request_memory_bytes"}
    found, number = iter(records), 0
    rows = [flat(record) for record in islice(found, GROUP)]
    names = list(rows[0]) if rows else ["id", "asked_s"]
    kind = {n: pa.float64() for n in floats} | {n: pa.bool_() for n in booleans} | {n: pa.int64() for n in integers}
    schema = pa.schema([(name, kind.get(name, pa.string())) for name in names])
    try:
        with whole_file(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as file:
            while rows:
                file.write_table(pa.Table.from_pylist(rows, schema))
                number += len(rows)
                rows = [flat(record) for record in islice(found, GROUP)]
    except OSError as error:
        raise RecordError(f"{path}: cannot be written ({why(error)}); check the folder and its free space") from error
    return number
