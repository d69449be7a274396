"""Recorded usage as users have it at times: cut short, in other units, with rows that make no sense. All files are made up."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from placement.errors import ConfigError, PlacementError
from simulator.reproduce import packing as reproduce_packing
from simulator.traces.trace import TraceError
from simulator.traces.usage_readers import read_planetlab, read_usage
from tests.test_usage_readers import planetlab

NUM = 24
TIME = [datetime(2013, 8, 12, tzinfo=UTC) + timedelta(seconds=300 * (i + 1)) for i in range(NUM)]
SECONDS = [int(t.timestamp()) for t in TIME]
ROW = pl.int_range(pl.len())

Tables = dict[str, pl.DataFrame]

RND: Tables = {
    "usage.parquet": pl.DataFrame(
        {
            "vm": [1] * NUM + [2] * NUM,
            "time_s": SECONDS * 2,
            "cpu_usage_mhz": [500, 900] * NUM,
            "memory_usage_mib": [100] * 2 * NUM,
        }
    ),
    "provisioned.parquet": pl.DataFrame(
        {
            "vm": [1, 2],
            "time_s": [0, 0],
            "cpu_cores": [1, 2],
            "cpu_capacity_mhz": [2600, 5200],
            "memory_capacity_mib": [1024, 2048],
        }
    ),
}
SMALL: Tables = {
    "trace.parquet": pl.DataFrame(
        {"id": ["1"] * NUM, "timestamp": TIME, "duration": [300_000] * NUM, "cpu_usage": [100.0] * NUM}
    ),
    "meta.parquet": pl.DataFrame({"id": ["1"], "cpu_count": [2], "cpu_capacity": [5000.0]}),
}
LISA: Tables = {
    "week_tasks.parquet": pl.DataFrame(
        {
            "id": [1],
            "submission_time": [1_665_093_600_000],
            "duration": [30_000 * NUM],
            "cpu_count": [16],
            "cpu_capacity": [33_600.0],
        }
    ),
    "week_fragments.parquet": pl.DataFrame({"id": [1] * NUM, "duration": [30_000] * NUM, "cpu_usage": [100.0] * NUM}),
}
MINUTES = [(datetime(2023, 4, 2) + timedelta(minutes=i)).strftime("%Y.%m.%d-%H:%M:%S:000") for i in range(NUM)]
CONTAINER: Tables = {
    "c_12104_perf_event_log.csv.gz": pl.DataFrame({"TIMESTAMP": MINUTES, "CPU_USAGE_ACTUAL": [8.0] * NUM})
}
GENAI: Tables = {
    "pod_memory_util_anon.csv.gz": pl.DataFrame(
        {"value": [0.5] * NUM, "timestamp_anon": [57 * i for i in range(NUM)], "container_ip": ["a"] * NUM}
    )
}
ALL = {"rnd": RND, "small": SMALL, "lisa": LISA, "container": CONTAINER, "genai": GENAI}
MEASURED = {
    "rnd": ("usage.parquet", "cpu_usage_mhz"),
    "small": ("trace.parquet", "cpu_usage"),
    "lisa": ("week_fragments.parquet", "cpu_usage"),
    "container": ("c_12104_perf_event_log.csv.gz", "CPU_USAGE_ACTUAL"),
    "genai": ("pod_memory_util_anon.csv.gz", "value"),
}


def written(folder: Path, tables: Tables) -> Path:
    for name, table in tables.items():
        if name.endswith(".parquet"):
            table.write_parquet(folder / name)
        else:
            (folder / name).write_bytes(gzip.compress(table.write_csv().encode()))
    return folder


def changed(tables: Tables, file: str, column: str, value: pl.Expr) -> Tables:
    return {**tables, file: tables[file].with_columns(value.alias(column))}


def complaint(read: Callable[[], object]) -> str:
    with pytest.raises(TraceError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ALL)
def test_files_cut_short_or_altered_are_named_or_read_but_never_crash(tmp_path: Path, kind: str) -> None:
    written(tmp_path, ALL[kind])
    for name in ALL[kind]:
        file = tmp_path / name
        whole = file.read_bytes()
        for length in (0, 10, len(whole) // 2, len(whole) - 9):
            file.write_bytes(whole[:length])
            assert name in complaint(lambda: read_usage(tmp_path))
        for at in np.linspace(0, len(whole) - 1, 40).astype(int):
            altered = bytearray(whole)
            altered[at] ^= 0xFF
            file.write_bytes(bytes(altered))
            with suppress(PlacementError):
                read_usage(tmp_path)
        file.write_bytes(whole)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (pl.lit("x"), "row 1: {column} is 'x'; expected a number"),
        (pl.when(ROW == 3).then(float("inf")).otherwise(0.1), "inf"),
        (pl.when(ROW == 3).then(1e300).otherwise(0.1), "1e+300|infinite"),
        (pl.when(ROW == 3).then(-99.0).otherwise(0.1), "cannot be negative"),
        (pl.lit(float("nan")), "holds no samples|no workload has both"),
    ],
)
def test_values_that_are_no_usage_are_refused(tmp_path: Path, kind: str, value: pl.Expr, message: str) -> None:
    file, column = MEASURED[kind]
    said = complaint(lambda: read_usage(written(tmp_path, changed(ALL[kind], file, column, value))))
    assert any(part.format(column=column) in said for part in message.split("|")), said


@pytest.mark.parametrize("kind", ALL)
def test_missing_values_are_gaps_and_counted(tmp_path: Path, kind: str) -> None:
    file, column = MEASURED[kind]
    some = pl.when(ROW == 3).then(float("nan")).when(ROW == 5).then(None).otherwise(pl.col(column))
    series = read_usage(written(tmp_path, changed(ALL[kind], file, column, some)))
    assert dict(series.repairs)["samples without a value left as gaps"] == 2


@pytest.mark.parametrize("kind", ["rnd", "small", "container", "genai"])
def test_rows_that_come_twice_are_taken_once_and_counted(tmp_path: Path, kind: str) -> None:
    file, _ = MEASURED[kind]
    table = ALL[kind][file]
    once = read_usage(written(tmp_path, ALL[kind]))
    series = read_usage(written(tmp_path, {**ALL[kind], file: pl.concat([table, table])}))
    assert dict(series.repairs)["duplicate samples"] == table.height
    assert all(np.array_equal(series.usage[r], once.usage[r], equal_nan=True) for r in series.usage)


@pytest.mark.parametrize(
    ("kind", "file", "column", "value", "message"),
    [
        ("rnd", "usage.parquet", "time_s", pl.col("time_s").cast(pl.Int64) * 1000, "are the times in milliseconds?"),
        ("rnd", "usage.parquet", "time_s", pl.when(ROW == 3).then(0).otherwise(pl.col("time_s")), "the clock jumped"),
        ("rnd", "usage.parquet", "time_s", -pl.col("time_s"), "seconds since 1970"),
        ("rnd", "usage.parquet", "time_s", pl.when(ROW != 3).then(pl.col("time_s")), "row 4: time_s is missing"),
        ("rnd", "usage.parquet", "vm", pl.when(ROW != 3).then(pl.col("vm")), "row 4: vm is missing"),
        ("rnd", "usage.parquet", "memory_usage_mib", pl.col("memory_usage_mib") * 1024, "different units"),
        ("rnd", "provisioned.parquet", "cpu_capacity_mhz", pl.col("cpu_capacity_mhz") / 1000, "different units"),
        ("rnd", "provisioned.parquet", "cpu_cores", pl.lit(0), "none of the 2 VMs with samples has"),
        ("small", "meta.parquet", "cpu_capacity", pl.lit(0.0), "none of the 1 VMs has"),
        ("small", "trace.parquet", "duration", pl.lit(-300_000), "row 1: duration is -300000"),
        ("small", "trace.parquet", "timestamp", pl.lit(7), "expected a date and time"),
        ("lisa", "week_tasks.parquet", "submission_time", pl.lit(None), "row 1: submission_time is missing"),
        ("lisa", "week_tasks.parquet", "duration", pl.lit(30_000), "fragments of job 1 last longer than the job"),
        ("lisa", "week_fragments.parquet", "duration", pl.lit(0), "row 1: duration is 0"),
        ("container", "c_12104_perf_event_log.csv.gz", "CPU_USAGE_ACTUAL", pl.lit(800), "different units"),
        ("genai", "pod_memory_util_anon.csv.gz", "value", pl.col("value") * 100, "divide percent by 100"),
    ],
)
def test_mixed_units_clocks_and_keys_are_refused(
    tmp_path: Path, kind: str, file: str, column: str, value: pl.Expr, message: str
) -> None:
    folder = written(tmp_path, changed(ALL[kind], file, column, value))
    assert message in complaint(lambda: read_usage(folder))


@pytest.mark.parametrize(("kind", "file"), [("small", "meta.parquet"), ("lisa", "week_tasks.parquet")])
def test_a_machine_that_is_described_twice_is_refused(tmp_path: Path, kind: str, file: str) -> None:
    table = ALL[kind][file]
    folder = written(tmp_path, {**ALL[kind], file: pl.concat([table, table])})
    assert "id 1 appears twice" in complaint(lambda: read_usage(folder))


def test_a_planetlab_archive_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = planetlab(tmp_path, ["50"] * 288)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:length])
        assert "copy it again" in complaint(lambda: read_planetlab(tmp_path))
    planetlab(tmp_path, ["nan"] + ["50"] * 287)
    assert "something else than numbers" in complaint(lambda: read_planetlab(tmp_path))
    planetlab(tmp_path, ["0.5"] * 288)
    assert "multiply fractions by 100" in complaint(lambda: read_planetlab(tmp_path))
    path.rename(tmp_path / "20119999.tar.gz")
    assert "its name is no day" in complaint(lambda: read_planetlab(tmp_path))


def test_packing_of_planetlab_alone_needs_no_bitbrains_and_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "planetlab").mkdir()
    planetlab(tmp_path / "planetlab", ["50"] * 288)
    with pytest.raises(ConfigError, match="packing of PlanetLab needs 4 days; the folder has 1"):
        reproduce_packing.run(tmp_path, only=("planetlab-cpu",))
    (tmp_path / "planetlab").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"no folder planetlab in it \(it has elsewhere\)"):
        reproduce_packing.run(tmp_path, only=("planetlab-cpu",))


def test_packing_leaves_out_what_a_recording_is_too_short_for(tmp_path: Path) -> None:
    (tmp_path / "bitbrains-rnd").mkdir()
    written(tmp_path / "bitbrains-rnd", RND)
    (tmp_path / "planetlab").mkdir()
    for day in ("20110306", "20110309", "20110322", "20110303"):
        planetlab(tmp_path / "planetlab", ["50"] * 288).rename(tmp_path / "planetlab" / f"{day}.tar.gz")
    found = reproduce_packing.run(tmp_path)
    assert list(found["tasks"]) == ["planetlab-cpu"]
    assert set(found["omitted"]) == {"bitbrains-cpu", "bitbrains-cpu-memory"}
    assert "packing needs 69" in found["omitted"]["bitbrains-cpu"]
    (tmp_path / "bitbrains-rnd").rename(tmp_path / "elsewhere")
    assert "no folder bitbrains-rnd in it" in reproduce_packing.run(tmp_path)["omitted"]["bitbrains-cpu-memory"]
