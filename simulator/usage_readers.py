"""Readers of recorded usage: every data set becomes one :class:`placement.usage.UsageSeries`.

Units are converted here and nowhere else: cores and bytes, five-minute grid, NaN for gaps. What a data set is
known to do wrong (duplicates, rows out of order, tiny negative values) is mended and counted; what would
poison training (a unit mix-up, an impossible value, a series without a single sample) is refused by name.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from placement.errors import why
from placement.facts import Facts
from placement.resources import CPU, MEMORY, FloatArray, IntArray
from placement.usage import DAY, STEP_S, SingleArray, UsageSeries
from simulator.trace import Trace, TraceError

MIB = float(2**20)

MAX_SHARE = 4.0
"""A workload whose mean use is above this many times what it was given was read in a wrong unit."""

MAX_NEGATIVE = 1e-3
"""Negative values down to this share of the provisioned amount are noise around zero, not errors."""

Amounts = Mapping[str, FloatArray]


def _require(folder: Path, *names: str) -> list[Path]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise TraceError(f"{folder} lacks {', '.join(missing)}; give the data set's own folder")
    return [folder / name for name in names]


def _columns(path: Path, frame: pl.DataFrame, wanted: tuple[str, ...]) -> pl.DataFrame:
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise TraceError(
            f"{path} has no column {', '.join(missing)} (it has {', '.join(frame.columns)}); is it another format?"
        )
    return frame.select(wanted)


def to_grid(
    name: str, index: IntArray, time_s: IntArray, values: Amounts, *, workloads: tuple[str, ...], provisioned: Amounts
) -> UsageSeries:
    """Put samples on the regular grid and check them.

    Parameters
    ----------
    index : (S,) row of each sample in ``workloads``.
    time_s : (S,) end of each sample; rounded up to the grid.
    values : per resource (S,) float64, cores or bytes; NaN = not measured.
    provisioned : per resource (N,).

    Raises
    ------
    TraceError : nothing to read, negative or infinite values, or values in a wrong unit.
    """
    if not len(index):
        raise TraceError(f"{name} holds no samples; nothing can be learned from it")
    slot = -(-time_s // STEP_S)
    first = int(slot.min())
    width = int(slot.max()) - first + 1
    if width > 20 * 366 * DAY:
        raise TraceError(
            f"{name} spans {width // DAY} days; a timestamp is in milliseconds or the clock jumped, check the times"
        )
    cell = index.astype(np.int64) * width + (slot - first)
    repairs = _count_disorder(index, cell)
    usage: dict[str, SingleArray] = {}
    for resource, column in values.items():
        clean, negatives = _checked(name, resource, column, provisioned[resource][index], index, workloads)
        if negatives:
            repairs.append((f"tiny negative {resource} samples set to 0", negatives))
        table = np.full(len(workloads) * width, np.nan, np.float32)
        table[cell] = clean
        usage[resource] = table.reshape(len(workloads), width)
    series = UsageSeries(name, workloads, first * STEP_S, usage, dict(provisioned), repairs=tuple(repairs))
    _check_units(series)
    return _drop_empty(series)


def _count_disorder(index: IntArray, cell: IntArray) -> list[tuple[str, int]]:
    """Samples out of order within a workload and samples that share a grid cell (the last one stays)."""
    same = index[1:] == index[:-1]
    disorder = int((same & (cell[1:] < cell[:-1])).sum())
    seen = np.zeros(int(cell.max()) + 1, bool)
    seen[cell] = True
    duplicates = len(cell) - int(seen.sum())
    return [(what, n) for what, n in (("samples out of order", disorder), ("duplicate samples", duplicates)) if n]


def _checked(
    name: str, resource: str, column: FloatArray, limit: FloatArray, index: IntArray, workloads: tuple[str, ...]
) -> tuple[FloatArray, int]:
    infinite = np.isinf(column)
    if infinite.any():
        worst = workloads[int(index[int(np.argmax(infinite))])]
        raise TraceError(f"{name}: {resource} of {worst} is infinite; remove the row or its workload")
    negative = column < 0
    if (negative & (column < -MAX_NEGATIVE * limit)).any():
        at = int(np.nanargmin(column))
        raise TraceError(
            f"{name}: {resource} of {workloads[int(index[at])]} is {column[at]:g}; usage cannot be negative "
            "(a counter reset read as a rate?), remove these rows"
        )
    return np.where(negative, 0.0, column), int(negative.sum())


def _check_units(series: UsageSeries) -> None:
    """Refuse a table whose typical use is far above what was provisioned: percent, MHz, MiB for MB …"""
    for resource, table in series.usage.items():
        count = np.maximum(np.isfinite(table).sum(axis=1), 1)
        typical = np.nansum(table, axis=1, dtype=float) / count / np.maximum(series.provisioned[resource], 1e-9)
        wrong = int((typical > MAX_SHARE).sum())
        if wrong > max(1, 0.02 * len(typical)):
            worst = int(np.argmax(typical))
            raise TraceError(
                f"{series.name}: {wrong} of {len(typical)} workloads use more than {MAX_SHARE:g} times the {resource} "
                f"they were given ({series.workloads[worst]}: {typical[worst]:.3g} times); the columns are in "
                "different units (percent, MHz or cores; MB or MiB), convert one of them"
            )


def _drop_empty(series: UsageSeries) -> UsageSeries:
    alive = np.ones(len(series.workloads), bool)
    for resource, table in series.usage.items():
        alive &= np.isfinite(table).any(axis=1) & (series.provisioned[resource] > 0)
    if alive.all():
        return series
    if not alive.any():
        raise TraceError(f"{series.name}: no workload has both samples and a provisioned amount")
    kept = series.pick(alive)
    return replace(
        kept, repairs=(*series.repairs, ("workloads without samples or capacity dropped", int((~alive).sum())))
    )


def read_bitbrains_rnd(folder: Path, *, max_cores: float = 8.0) -> UsageSeries:
    """GWA-T-12 Rnd: CPU and memory of up to 350 VMs over three months, against what was provisioned.

    Provisioned values flicker, so each VM gets its medians. VMs without capacity or with more than
    ``max_cores`` cores are dropped (10 of 350), as are samples of the other columns.
    """
    usage_path, given_path = _require(folder, "usage.parquet", "provisioned.parquet")
    usage = _columns(usage_path, pl.read_parquet(usage_path), ("vm", "time_s", "cpu_usage_mhz", "memory_usage_mib"))
    given = _columns(
        given_path,
        pl.read_parquet(given_path),
        ("vm", "time_s", "cpu_cores", "cpu_capacity_mhz", "memory_capacity_mib"),
    )
    given = given.group_by("vm").agg(
        pl.median("cpu_cores"), pl.median("cpu_capacity_mhz"), pl.median("memory_capacity_mib")
    )
    sane = (pl.col("cpu_cores") >= 1) & (pl.col("cpu_cores") <= max_cores) & (pl.col("cpu_capacity_mhz") > 0)
    kept = given.filter(sane & (pl.col("memory_capacity_mib") > 0)).sort("vm").with_row_index("row")
    dropped = usage["vm"].n_unique() - kept.height
    joined = usage.join(kept, on="vm", how="inner", maintain_order="left")
    cores = joined["cpu_usage_mhz"] / joined["cpu_capacity_mhz"] * joined["cpu_cores"]
    series = to_grid(
        "bitbrains-rnd",
        joined["row"].to_numpy().astype(np.int64),
        joined["time_s"].to_numpy().astype(np.int64),
        {CPU: cores.to_numpy(), MEMORY: joined["memory_usage_mib"].to_numpy() * MIB},
        workloads=tuple(f"vm-{vm}" for vm in kept["vm"]),
        provisioned={
            CPU: kept["cpu_cores"].to_numpy().astype(float),
            MEMORY: kept["memory_capacity_mib"].to_numpy() * MIB,
        },
    )
    extra = (("VMs without capacity or with too many cores dropped", dropped),) if dropped else ()
    return replace(
        series, groups=tuple(f"{c:g}-core" for c in series.provisioned[CPU]), repairs=(*series.repairs, *extra)
    )


def read_planetlab_day(path: Path) -> UsageSeries:
    """One PlanetLab day: 288 integer percentages for each slice; one core provisioned by convention."""
    names, rows = [], []
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                handle = archive.extractfile(member) if member.isfile() else None
                if handle is not None:
                    names.append(Path(member.name).name)
                    rows.append(_percentages(path, member.name, handle.read()))
    except (tarfile.TarError, OSError) as error:
        raise TraceError(f"{path} cannot be read as a .tar.gz of PlanetLab series: {why(error)}") from error
    if not rows:
        raise TraceError(f"{path} holds no series; expected one file per slice with {DAY} integers")
    start = datetime.strptime(path.name[:8], "%Y%m%d").replace(tzinfo=UTC)
    table = np.stack(rows)
    groups = tuple(_slice_of(name) for name in names)
    ones = np.ones(len(names))
    return UsageSeries(
        f"planetlab-{path.name[:8]}", tuple(names), int(start.timestamp()), {CPU: table}, {CPU: ones}, groups
    )


def _percentages(path: Path, member: str, text: bytes) -> SingleArray:
    try:
        values = np.array(text.split(), dtype=np.float32)
    except ValueError as error:
        raise TraceError(f"{path}: {member} holds something else than numbers") from error
    if len(values) != DAY:
        raise TraceError(f"{path}: {member} has {len(values)} values, a PlanetLab day has {DAY}")
    if values.min() < 0 or values.max() > 100:
        raise TraceError(
            f"{path}: {member} reaches from {values.min():g} to {values.max():g}; CPU use is in percent, 0 to 100"
        )
    return (values / np.float32(100)).astype(np.float32)


def _slice_of(name: str) -> str:
    """The owner: ``<site>_<slice>`` at the end of ``<host with underscores>_<site>_<slice>``."""
    return "_".join(name.rsplit("_", 2)[-2:])


def host_of(name: str) -> str:
    """The host part of a PlanetLab series' name."""
    return name.rsplit("_", 2)[0]


def read_planetlab(folder: Path) -> list[UsageSeries]:
    """Every recorded day in ``folder``, oldest first."""
    paths = sorted(p for p in folder.glob("*.tar.gz") if re.fullmatch(r"\d{8}\.tar\.gz", p.name))
    if not paths:
        raise TraceError(f"{folder} holds no <day>.tar.gz; give the folder of the PlanetLab days")
    return [read_planetlab_day(path) for path in paths]


def joined_days(days: Sequence[UsageSeries]) -> UsageSeries:
    """PlanetLab days one after the other, the time between them closed; a slice is a namespace, a host a name in it."""
    workloads = tuple(sorted({name for day in days for name in day.workloads}))
    row = {name: i for i, name in enumerate(workloads)}
    table = np.full((len(workloads), len(days) * DAY), np.nan, np.float32)
    for number, day in enumerate(days):
        table[[row[name] for name in day.workloads], number * DAY : (number + 1) * DAY] = day.usage[CPU]
    owners = tuple(_slice_of(name) for name in workloads)
    facts = tuple(Facts(owner, "Host", host_of(name)) for owner, name in zip(owners, workloads, strict=True))
    return UsageSeries(
        days[0].name if len(days) == 1 else f"planetlab, {len(days)} days", workloads, days[0].start_s, {CPU: table},
        {CPU: np.ones(len(workloads))}, owners, facts=facts,
    )  # fmt: skip


def read_bitbrains_small(folder: Path, *, max_gap_s: int = 900) -> UsageSeries:
    """Thirty business VMs over a month; an interval longer than ``max_gap_s`` is a gap, not a sample.

    Memory use was not recorded. A sample that covers several grid cells (up to the gap limit) fills them all.
    """
    meta_path, trace_path = _require(folder, "meta.parquet", "trace.parquet")
    meta = (
        _columns(meta_path, pl.read_parquet(meta_path), ("id", "cpu_count", "cpu_capacity"))
        .sort("id")
        .with_row_index("row")
    )
    trace = _columns(trace_path, pl.read_parquet(trace_path), ("id", "timestamp", "duration", "cpu_usage"))
    joined = trace.filter(pl.col("duration") <= max_gap_s * 1000).join(
        meta, on="id", how="inner", maintain_order="left"
    )
    cores = (joined["cpu_usage"] / joined["cpu_capacity"] * joined["cpu_count"]).to_numpy()
    end = joined["timestamp"].dt.epoch("s").to_numpy().astype(np.int64)
    times = np.maximum(1, np.round(joined["duration"].to_numpy() / (1000 * STEP_S))).astype(np.int64)
    row = np.repeat(joined["row"].to_numpy().astype(np.int64), times)
    back = np.concatenate([np.arange(n - 1, -1, -1) for n in times]) if len(times) else times
    return to_grid(
        "bitbrains-small",
        row,
        np.repeat(end, times) - back * STEP_S,
        {CPU: np.repeat(cores, times)},
        workloads=tuple(f"vm-{vm}" for vm in meta["id"]),
        provisioned={CPU: meta["cpu_count"].to_numpy().astype(float)},
    )


def read_surf_lisa(folder: Path) -> UsageSeries:
    """SURF Lisa jobs: 30 s fragments averaged to the grid; the position of a fragment is its only clock."""
    tasks_path, parts_path = _require(folder, "week_tasks.parquet", "week_fragments.parquet")
    tasks = _columns(tasks_path, pl.read_parquet(tasks_path), ("id", "submission_time", "cpu_count", "cpu_capacity"))
    tasks = tasks.sort("id").with_row_index("row")
    parts = _columns(parts_path, pl.read_parquet(parts_path), ("id", "duration", "cpu_usage"))
    joined = parts.join(tasks, on="id", how="inner", maintain_order="left").with_columns(
        end_ms=pl.col("submission_time") + pl.col("duration").cum_sum().over("id")
    )
    slot = -(-(pl.col("end_ms") // 1000) // STEP_S) * STEP_S
    mean = joined.with_columns(time_s=slot).group_by("row", "time_s", maintain_order=True).agg(pl.mean("cpu_usage"))
    mean = mean.join(tasks, on="row", maintain_order="left")
    return to_grid(
        "surf-lisa",
        mean["row"].to_numpy().astype(np.int64),
        mean["time_s"].to_numpy().astype(np.int64),
        {CPU: (mean["cpu_usage"] / mean["cpu_capacity"] * mean["cpu_count"]).to_numpy()},
        workloads=tuple(f"job-{job}" for job in tasks["id"]),
        provisioned={CPU: tasks["cpu_count"].to_numpy().astype(float)},
    )


def read_alibaba_2018_containers(folder: Path, *, limit_cores: float = 16.0) -> UsageSeries:
    """One container of cluster-trace-v2018, minute samples averaged; its scale is VASim's, its limit assumed."""
    (path,) = _require(folder, "c_12104_perf_event_log.csv.gz")
    frame = _columns(path, pl.read_csv(path), ("TIMESTAMP", "CPU_USAGE_ACTUAL"))
    try:
        time = frame["TIMESTAMP"].str.head(19).str.strptime(pl.Datetime("ms"), "%Y.%m.%d-%H:%M:%S")
    except pl.exceptions.PolarsError as error:
        raise TraceError(f"{path}: a TIMESTAMP does not read as 2023.04.02-00:09:00:000") from error
    end = -(-time.dt.epoch("s").to_numpy() // STEP_S) * STEP_S
    mean = (
        pl.DataFrame({"time_s": end, "cores": frame["CPU_USAGE_ACTUAL"]})
        .group_by("time_s")
        .agg(pl.mean("cores"))
        .sort("time_s")
    )
    return to_grid(
        "alibaba-2018-containers",
        np.zeros(mean.height, np.int64),
        mean["time_s"].to_numpy().astype(np.int64),
        {CPU: mean["cores"].to_numpy()},
        workloads=("c_12104",),
        provisioned={CPU: np.array([limit_cores])},
    )


def read_alibaba_genai_2026(folder: Path) -> UsageSeries:
    """Memory use of inference containers, a fraction of an unpublished limit: 1 "byte" provisioned stands for it.

    Rows without a container id are dropped and counted. No CPU was recorded.
    """
    (path,) = _require(folder, "pod_memory_util_anon.csv.gz")
    frame = _columns(path, pl.read_csv(path), ("value", "timestamp_anon", "container_ip"))
    named = frame.filter(pl.col("container_ip").is_not_null() & (pl.col("container_ip") != ""))
    largest = float(np.max(named["value"].to_numpy(), initial=0.0))
    if largest > 1.5:
        raise TraceError(f"{path}: values reach {largest:g}; memory use is a fraction 0–1 here, divide percent by 100")
    ids = named["container_ip"].unique().sort()
    rows = pl.DataFrame({"container_ip": ids}).with_row_index("row")
    end = (-(-pl.col("timestamp_anon").cast(pl.Int64) // STEP_S) * STEP_S).alias("time_s")
    peak = named.with_columns(end).group_by("container_ip", "time_s").agg(pl.max("value")).join(rows, on="container_ip")
    peak = peak.sort("row", "time_s")
    series = to_grid(
        "alibaba-genai-2026",
        peak["row"].to_numpy().astype(np.int64),
        peak["time_s"].to_numpy().astype(np.int64),
        {MEMORY: peak["value"].to_numpy()},
        workloads=tuple(str(i) for i in ids.to_list()),
        provisioned={MEMORY: np.ones(len(ids))},
    )
    lost = frame.height - named.height
    return replace(series, repairs=(*series.repairs, ("rows without a container dropped", lost))) if lost else series


USAGE_READERS: dict[str, Callable[[Path], UsageSeries]] = {
    "bitbrains-rnd": read_bitbrains_rnd,
    "bitbrains-small": read_bitbrains_small,
    "surf-lisa": read_surf_lisa,
    "alibaba-2018-containers": read_alibaba_2018_containers,
    "alibaba-genai-2026": read_alibaba_genai_2026,
}
"""Readers that yield one series; PlanetLab has one per day (:func:`read_planetlab`), or :func:`joined_days`."""


def read_usage(folder: Path) -> UsageSeries:
    """Read a usage folder, whose kind is told by the files in it, or a trace with usage (``.ullage``).

    Raises
    ------
    TraceError : the folder is of no known kind, or the trace has no usage.
    """
    if folder.suffix == ".ullage":
        from simulator.recorded import usage_of_trace  # that module reads tables with this one

        return usage_of_trace(Trace.load(folder))
    signs = {
        "bitbrains-rnd": "usage.parquet",
        "bitbrains-small": "meta.parquet",
        "surf-lisa": "week_fragments.parquet",
        "alibaba-2018-containers": "c_12104_perf_event_log.csv.gz",
        "alibaba-genai-2026": "pod_memory_util_anon.csv.gz",
    }
    for name, sign in signs.items():
        if (folder / sign).is_file():
            return USAGE_READERS[name](folder)
    if next(folder.glob("*.tar.gz"), None) is not None:
        return joined_days(read_planetlab(folder))
    known = ", ".join((*USAGE_READERS, "planetlab"))
    raise TraceError(
        f"{folder} is no usage data set that Ullage reads ({known}); "
        f"a trace is a .ullage file, a service's log is named ullage-log:{folder}"
    )
