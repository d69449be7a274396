"""Readers of recorded usage: every data set becomes one :class:`placement.learning.usage.UsageSeries`.

Units are converted here and nowhere else: cores and bytes, NaN for gaps. What holds of every recording is checked where
samples are put on the grid (:mod:`simulator.traces.usage_grid`).
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from placement.errors import ConfigError, why
from placement.learning.facts import Facts
from placement.learning.usage import DAY, STEP_S, SingleArray, UsageSeries
from placement.resources import CPU, MEMORY
from simulator.traces.recorded import usage_of_trace
from simulator.traces.trace import Trace, TraceError
from simulator.traces.usage_grid import Repairs, checked, to_grid
from simulator.traces.usage_tables import load, require_unique, without_repeats

MIB = float(2**20)
MAX_CORES = 8.0
"""Bitbrains VMs with more are left out."""
MAX_GAP_S = 900
"""Of the thirty business VMs: an interval longer than this is a gap, not a sample."""
LIMIT_CORES = 16.0
"""Assumed of the container of cluster-trace-v2018."""


def _require(folder: Path, *names: str) -> list[Path]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder} lacks {', '.join(missing)}; give the data set's own folder")
    return [folder / name for name in names]


def read_bitbrains_rnd(folder: Path) -> UsageSeries:
    """GWA-T-12 Rnd: CPU and memory of up to 350 VMs over three months, against what was provisioned.

    Provisioned values flicker, so each VM gets its medians. VMs without capacity or with more than
    :data:`MAX_CORES` cores are dropped (10 of 350), as are samples of the other columns.
    """
    usage_path, given_path = _require(folder, "usage.parquet", "provisioned.parquet")
    usage = load(usage_path, keys=("vm", "time_s"), numbers=("vm", "time_s", "cpu_usage_mhz", "memory_usage_mib"))
    usage = usage.cast({"vm": pl.Int64})
    capacity = ("cpu_cores", "cpu_capacity_mhz", "memory_capacity_mib")
    given = load(given_path, keys=("vm",), numbers=("vm", *capacity)).cast({"vm": pl.Int64})
    given = given.group_by("vm").agg(
        pl.median("cpu_cores"), pl.median("cpu_capacity_mhz"), pl.median("memory_capacity_mib")
    )
    sane = (pl.col("cpu_cores") >= 1) & (pl.col("cpu_cores") <= MAX_CORES)
    sane &= (pl.col("cpu_capacity_mhz") > 0) & (pl.col("memory_capacity_mib") > 0)
    sane &= pl.col("cpu_capacity_mhz").is_finite() & pl.col("memory_capacity_mib").is_finite()
    kept = given.filter(sane).sort("vm").with_row_index("row")
    dropped = usage.join(kept, on="vm", how="anti")["vm"].n_unique()
    if dropped and not usage["vm"].is_in(given["vm"].implode()).any():
        raise TraceError(
            f"{given_path}: has none of the {dropped} VMs of {usage_path.name}; are the files of two recordings mixed up?"
        )
    if dropped and not kept.height:
        raise TraceError(f"{given_path}: none of the {dropped} VMs with samples has cores, capacity and memory above 0")
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
    """One PlanetLab day: 288 integer percentages for each slice, by name; one core provisioned by convention."""
    names, rows = [], []
    try:
        start = datetime.strptime(path.name[:8], "%Y%m%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise TraceError(f"{path}: its name is no day, expected such as 20110303.tar.gz") from error
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                handle = archive.extractfile(member) if member.isfile() else None
                if handle is not None:
                    names.append(Path(member.name).name)
                    rows.append(_percentages(path, member.name, handle.read()))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        reason = why(error).splitlines()[0]
        raise TraceError(f"{path} cannot be read as a .tar.gz of PlanetLab series ({reason}); copy it again") from error
    if not rows:
        raise TraceError(f"{path} holds no series; expected one file per slice with {DAY} integers")
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise TraceError(f"{path}: {twice[0]} appears twice; keep one file of each slice")
    order = sorted(range(len(names)), key=names.__getitem__)  # not the archive's: what is drawn of them depends on it
    names, table = [names[i] for i in order], np.stack([rows[i] for i in order])
    if table.max() <= 0.01 and (table * 100 % 1 != 0).any():
        raise TraceError(f"{path}: no value is above 1; CPU use is in percent here, multiply fractions by 100")
    groups = tuple(slice_of(name) for name in names)
    ones = np.ones(len(names))
    return UsageSeries(
        f"planetlab-{path.name[:8]}", tuple(names), int(start.timestamp()), {CPU: table}, {CPU: ones}, groups
    )


def _percentages(path: Path, member: str, text: bytes) -> SingleArray:
    try:
        values = np.array(text.split(), dtype=np.float64)
    except ValueError as error:
        raise TraceError(f"{path}: {member} holds something else than numbers") from error
    if np.isnan(values).any():
        raise TraceError(f"{path}: {member} holds something else than numbers")
    if len(values) != DAY:
        raise TraceError(f"{path}: {member} has {len(values)} values, a PlanetLab day has {DAY}")
    if values.min() < 0 or values.max() > 100:
        raise TraceError(
            f"{path}: {member} reaches from {values.min():g} to {values.max():g}; CPU use is in percent, 0 to 100"
        )
    return (values.astype(np.float32) / np.float32(100)).astype(np.float32)


def slice_of(name: str) -> str:
    """The owner: ``<site>_<slice>`` at the end of ``<host with underscores>_<site>_<slice>``."""
    return "_".join(name.rsplit("_", 2)[-2:])


def host_of(name: str) -> str:
    """The host part of a PlanetLab series' name."""
    return name.rsplit("_", 2)[0]


def planetlab_paths(folder: Path) -> list[Path]:
    """Files of the recorded days in ``folder``, oldest first."""
    return sorted(p for p in folder.glob("*.tar.gz") if re.fullmatch(r"\d{8}\.tar\.gz", p.name))


def read_planetlab(folder: Path) -> list[UsageSeries]:
    """Every recorded day in ``folder``, oldest first."""
    paths = planetlab_paths(folder)
    if not paths:
        raise ConfigError(f"{folder} holds no <day>.tar.gz; give the folder of the PlanetLab days")
    return [read_planetlab_day(path) for path in paths]


def joined_days(days: Sequence[UsageSeries]) -> UsageSeries:
    """PlanetLab days one after the other, the time between them closed; a slice is a namespace, a host a name in it."""
    workloads = tuple(sorted({name for day in days for name in day.workloads}))
    row = {name: i for i, name in enumerate(workloads)}
    table = np.full((len(workloads), len(days) * DAY), np.nan, np.float32)
    for number, day in enumerate(days):
        table[[row[name] for name in day.workloads], number * DAY : (number + 1) * DAY] = day.usage[CPU]
    owners = tuple(slice_of(name) for name in workloads)
    facts = tuple(Facts(owner, "Host", host_of(name)) for owner, name in zip(owners, workloads, strict=True))
    return UsageSeries(
        days[0].name if len(days) == 1 else f"planetlab, {len(days)} days", workloads, days[0].start_s, {CPU: table},
        {CPU: np.ones(len(workloads))}, owners, facts=facts,
    )  # fmt: skip


def _require_positive(path: Path, frame: pl.DataFrame, column: str) -> None:
    for at in frame.select((pl.col(column) <= 0).arg_true()).to_series().to_list()[:1]:
        raise TraceError(f"{path}, row {at + 1}: {column} is {frame[column][at]!r}; expected more than 0")


def read_bitbrains_small(folder: Path) -> UsageSeries:
    """Thirty business VMs over a month; an interval longer than :data:`MAX_GAP_S` is a gap, not a sample.

    Memory use was not recorded. A sample that covers several grid cells (up to the gap limit) fills them all.
    """
    meta_path, trace_path = _require(folder, "meta.parquet", "trace.parquet")
    meta = load(meta_path, keys=("id",), numbers=("cpu_count", "cpu_capacity")).cast({"id": pl.String})
    require_unique(meta_path, meta)
    trace = load(trace_path, keys=("id", "timestamp", "duration"), numbers=("duration", "cpu_usage"))
    if not trace["timestamp"].dtype.is_temporal():
        raise TraceError(f"{trace_path}: timestamp is of type {trace['timestamp'].dtype}; expected a date and time")
    _require_positive(trace_path, trace, "duration")
    number, meta = meta.height, meta.filter((pl.col("cpu_capacity") > 0) & (pl.col("cpu_count") > 0)).sort("id")
    if number and not meta.height:
        raise TraceError(f"{meta_path}: none of the {number} VMs has cores and capacity above 0")
    joined = (
        trace.cast({"id": pl.String})
        .filter(pl.col("duration") <= MAX_GAP_S * 1000)
        .join(meta.with_row_index("row"), on="id", how="inner", maintain_order="left")
    )
    cores = (joined["cpu_usage"] / joined["cpu_capacity"] * joined["cpu_count"]).to_numpy()
    end = joined["timestamp"].dt.epoch("s").to_numpy().astype(np.int64)
    times = np.maximum(1, np.round(joined["duration"].to_numpy() / (1000 * STEP_S))).astype(np.int64)
    row = np.repeat(joined["row"].to_numpy().astype(np.int64), times)
    back = np.concatenate([np.arange(n - 1, -1, -1) for n in times]) if len(times) else times
    series = to_grid(
        "bitbrains-small",
        row,
        np.repeat(end, times) - back * STEP_S,
        {CPU: np.repeat(cores, times)},
        workloads=tuple(f"vm-{vm}" for vm in meta["id"]),
        provisioned={CPU: meta["cpu_count"].to_numpy().astype(float)},
    )
    dropped = number - meta.height
    return (
        series if not dropped else replace(series, repairs=(*series.repairs, ("VMs without capacity dropped", dropped)))
    )


def read_surf_lisa(folder: Path) -> UsageSeries:
    """SURF Lisa jobs: 30 s fragments averaged to the grid; the position of a fragment is its only clock."""
    tasks_path, parts_path = _require(folder, "week_tasks.parquet", "week_fragments.parquet")
    sizes = ("cpu_count", "cpu_capacity")
    keys = ("id", "submission_time", "duration")
    tasks = load(tasks_path, keys=(*keys, *sizes), numbers=(*keys, *sizes))
    require_unique(tasks_path, tasks)
    _require_positive(tasks_path, tasks, "cpu_capacity")
    tasks = tasks.rename({"duration": "whole"}).sort("id").with_row_index("row")
    parts = load(parts_path, keys=("id", "duration"), numbers=("id", "duration", "cpu_usage"))
    _require_positive(parts_path, parts, "duration")
    joined = parts.join(tasks, on="id", how="inner", maintain_order="left").with_columns(
        end_ms=pl.col("submission_time") + pl.col("duration").cum_sum().over("id")
    )
    longer = joined.filter(pl.col("end_ms") > pl.col("submission_time") + pl.col("whole"))
    for job in longer["id"].head(1):
        raise TraceError(
            f"{parts_path}: the fragments of job {job} last longer than the job; they are doubled, or of other jobs"
        )
    joined, mended = _mended(parts_path, joined, "cpu_usage", joined["cpu_capacity"], "id", CPU)
    slot = -(-(pl.col("end_ms") // 1000) // STEP_S) * STEP_S
    mean = joined.with_columns(time_s=slot).group_by("row", "time_s", maintain_order=True).agg(pl.mean("cpu_usage"))
    mean = mean.join(tasks, on="row", maintain_order="left")
    series = to_grid(
        "surf-lisa",
        mean["row"].to_numpy().astype(np.int64),
        mean["time_s"].to_numpy().astype(np.int64),
        {CPU: (mean["cpu_usage"] / mean["cpu_capacity"] * mean["cpu_count"]).to_numpy()},
        workloads=tuple(f"job-{job}" for job in tasks["id"]),
        provisioned={CPU: tasks["cpu_count"].to_numpy().astype(float)},
    )
    return replace(series, repairs=(*series.repairs, *mended))


def _mended(
    path: Path, frame: pl.DataFrame, column: str, limit: pl.Series, name: str, resource: str
) -> tuple[pl.DataFrame, Repairs]:
    """The table with its samples checked one by one: an average over a step would hide what is wrong with them."""
    values = frame[column].cast(pl.Float64).to_numpy()
    given = limit.cast(pl.Float64).to_numpy()
    clean, repairs = checked(str(path), resource, values, given, np.arange(len(values)), frame[name].to_list())
    return frame.with_columns(pl.Series(column, clean)).filter(pl.col(column).is_not_nan()), repairs


def read_alibaba_2018_containers(folder: Path) -> UsageSeries:
    """One container of cluster-trace-v2018, minute samples averaged; its scale is VASim's, its limit assumed."""
    (path,) = _require(folder, "c_12104_perf_event_log.csv.gz")
    frame = load(path, keys=("TIMESTAMP",), numbers=("CPU_USAGE_ACTUAL",)).cast({"TIMESTAMP": pl.String})
    frame, repeats = without_repeats(frame, "TIMESTAMP")
    limit = pl.Series([LIMIT_CORES]).new_from_index(0, frame.height)
    frame, mended = _mended(path, frame, "CPU_USAGE_ACTUAL", limit, "TIMESTAMP", CPU)
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
    series = to_grid(
        "alibaba-2018-containers",
        np.zeros(mean.height, np.int64),
        mean["time_s"].to_numpy().astype(np.int64),
        {CPU: mean["cores"].to_numpy()},
        workloads=("c_12104",),
        provisioned={CPU: np.array([LIMIT_CORES])},
    )
    return replace(series, repairs=(*series.repairs, *repeats, *mended))


def read_alibaba_genai_2026(folder: Path) -> UsageSeries:
    """Memory use of inference containers, a fraction of an unpublished limit: 1 "byte" provisioned stands for it.

    Rows without a container id are dropped and counted. No CPU was recorded.
    """
    (path,) = _require(folder, "pod_memory_util_anon.csv.gz")
    frame = load(path, keys=("timestamp_anon",), numbers=("value", "timestamp_anon"), texts=("container_ip",))
    named = frame.filter(pl.col("container_ip").is_not_null() & (pl.col("container_ip") != ""))
    num_named = named.height
    named, repeats = without_repeats(named, "container_ip", "timestamp_anon")
    largest = float(np.nanmax(named["value"].to_numpy(), initial=0.0))
    if largest > 1.5:
        raise TraceError(f"{path}: values reach {largest:g}; memory use is a fraction 0–1 here, divide percent by 100")
    named, mended = _mended(
        path, named, "value", pl.Series([1.0]).new_from_index(0, named.height), "container_ip", MEMORY
    )
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
    lost = [("rows without a container dropped", frame.height - num_named)] if frame.height > num_named else []
    return replace(series, repairs=(*series.repairs, *repeats, *mended, *lost))


USAGE_READERS: dict[str, tuple[str, Callable[[Path], UsageSeries]]] = {
    "bitbrains-rnd": ("usage.parquet", read_bitbrains_rnd),
    "bitbrains-small": ("meta.parquet", read_bitbrains_small),
    "surf-lisa": ("week_fragments.parquet", read_surf_lisa),
    "alibaba-2018-containers": ("c_12104_perf_event_log.csv.gz", read_alibaba_2018_containers),
    "alibaba-genai-2026": ("pod_memory_util_anon.csv.gz", read_alibaba_genai_2026),
    "planetlab": ("*.tar.gz", lambda folder: joined_days(read_planetlab(folder))),
}
"""Kind → the files that tell a folder of it, and its reader; PlanetLab has one series per day (:func:`read_planetlab`)."""


def usage_kind(folder: Path) -> str | None:
    """Which of :data:`USAGE_READERS` reads this folder; None if none does."""
    return next((kind for kind, (sign, _) in USAGE_READERS.items() if any(folder.glob(sign))), None)


def read_usage(folder: Path) -> UsageSeries:
    """Read a usage folder, whose kind is told by the files in it, or a trace with usage (``.ullage``).

    Raises
    ------
    ConfigError : the folder is of no known kind, or lacks a file of its kind.
    TraceError : a file is damaged, or the trace has no usage.
    """
    if folder.suffix == ".ullage":
        return usage_of_trace(Trace.load(folder))
    kind = usage_kind(folder)
    if kind is not None:
        return USAGE_READERS[kind][1](folder)
    within = [name for name in USAGE_READERS if (folder / name).is_dir()]
    if within:
        raise ConfigError(f"{folder} holds several data sets; name one: {', '.join(str(folder / n) for n in within)}")
    raise ConfigError(
        f"{folder} is no usage data set that Ullage reads ({', '.join(USAGE_READERS)}); "
        f"a trace is a .ullage file, a service's log is named ullage-log:{folder}"
    )
