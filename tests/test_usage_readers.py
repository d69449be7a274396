"""Readers of recorded usage: made-up files in the published layouts, and the recorded ones where present."""

import gzip
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from placement.errors import ConfigError
from placement.learning.usage import DAY, UsageSeries
from placement.resources import CPU, MEMORY
from simulator.traces.sources import open_trace
from simulator.traces.trace import TraceError
from simulator.traces.usage_grid import to_grid
from simulator.traces.usage_readers import (
    joined_days,
    read_bitbrains_rnd,
    read_planetlab,
    read_planetlab_day,
    read_usage,
)

ONE = {CPU: np.array([4.0])}


def grid(time_s: list[int], values: list[float]) -> UsageSeries:
    index = np.zeros(len(time_s), np.int64)
    return to_grid("made-up", index, np.array(time_s), {CPU: np.array(values)}, workloads=("w",), provisioned=ONE)


def bitbrains(folder: Path, *, mhz: float = 2000.0, rows: int = 3) -> Path:
    time = [300 * (i + 1) for i in range(rows)]
    use = {"vm": [1] * rows, "time_s": time, "cpu_usage_mhz": [mhz] * rows, "memory_usage_mib": [512] * rows}
    pl.DataFrame(use).write_parquet(folder / "usage.parquet")
    given = {"vm": [1], "time_s": [300], "cpu_cores": [4], "cpu_capacity_mhz": [8000], "memory_capacity_mib": [2048]}
    pl.DataFrame(given).write_parquet(folder / "provisioned.parquet")
    return folder


def planetlab(folder: Path, lines: list[str], names: Sequence[str] = ("host_uni_slice",)) -> Path:
    """A day of slices of these names, in this order; all have the same ``lines``, but for the first: its host's number."""
    path = folder / "20110303.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            number = name.partition("_")[0].removeprefix("host")
            body = "\n".join([number, *lines[1:]] if number else lines).encode()
            entry = tarfile.TarInfo(f"20110303/{name}")
            entry.size = len(body)
            archive.addfile(entry, BytesIO(body))
    return path


def test_a_planetlab_day_is_the_same_in_whatever_order_it_was_packed(tmp_path: Path) -> None:
    packed = ["host7_uni_b", "host3_uni_a", "host5_org_a"]
    days = [read_planetlab_day(planetlab(tmp_path, ["50"] * DAY, names)) for names in (packed, sorted(packed))]
    for day in days:
        assert day.workloads == ("host3_uni_a", "host5_org_a", "host7_uni_b")
        assert day.groups == ("uni_a", "org_a", "uni_b")
        assert day.usage[CPU][:, 0].tolist() == pytest.approx([0.03, 0.05, 0.07])


def test_mhz_and_mib_become_cores_and_bytes(tmp_path: Path) -> None:
    series = read_bitbrains_rnd(bitbrains(tmp_path))
    assert series.usage[CPU][0].tolist() == [1.0, 1.0, 1.0]
    assert series.usage[MEMORY][0, 0] == 2**29
    assert series.share(MEMORY)[0, 0] == 0.25
    assert series.groups == ("4-core",)


def test_each_vm_of_bitbrains_has_the_medians_of_what_it_was_given_and_odd_ones_are_left_out(tmp_path: Path) -> None:
    pl.DataFrame(
        {"vm": [1, 2, 3, 4, 5], "time_s": [300] * 5, "cpu_usage_mhz": [1000.0] * 5, "memory_usage_mib": [256.0] * 5}
    ).write_parquet(tmp_path / "usage.parquet")
    given = [
        (1, 2, 4000.0, 512.0), (1, 2, 4000.0, 512.0), (1, 8, 9000.0, 9999.0),
        (2, 8, 16_000.0, 1024.0), (3, 9, 16_000.0, 1024.0), (4, 0, 4000.0, 1024.0), (5, 1, 4000.0, 0.0),
    ]  # fmt: skip
    names = ["vm", "cpu_cores", "cpu_capacity_mhz", "memory_capacity_mib"]
    pl.DataFrame(given, schema=names, orient="row").write_parquet(tmp_path / "provisioned.parquet")
    series = read_bitbrains_rnd(tmp_path)
    assert series.workloads == ("vm-1", "vm-2")
    assert series.provisioned[CPU].tolist() == [2, 8]
    assert series.provisioned[MEMORY].tolist() == [512 * 2**20, 2**30]
    assert series.usage[CPU].ravel().tolist() == [0.5, 0.5]
    assert series.groups == ("2-core", "8-core")
    assert dict(series.repairs) == {"VMs without capacity or with too many cores dropped": 3}
    infinite = [(1, 2, 4000.0, 512.0), (2, 8, np.inf, 1024.0)]
    pl.DataFrame(infinite, schema=names, orient="row").write_parquet(tmp_path / "provisioned.parquet")
    assert read_bitbrains_rnd(tmp_path).workloads == ("vm-1",)


def test_an_interval_of_bitbrains_small_fills_all_its_steps_and_a_long_one_is_a_gap(tmp_path: Path) -> None:
    pl.DataFrame({"id": ["b", "a"], "cpu_count": [2, 1], "cpu_capacity": [5000.0, 0.0]}).write_parquet(
        tmp_path / "meta.parquet"
    )
    start = datetime(2013, 8, 12, tzinfo=UTC)
    minutes = [5, 15, 30, 40]
    pl.DataFrame(
        {
            "id": ["b"] * 4 + ["a"],
            "timestamp": [start + timedelta(minutes=m) for m in (*minutes, 5)],
            "duration": [300_000, 600_000, 900_001, 440_000, 300_000],
            "cpu_usage": [500.0, 1000.0, 1500.0, 2500.0, 1.0],
        }
    ).write_parquet(tmp_path / "trace.parquet")
    series = read_usage(tmp_path)
    assert series.workloads == ("vm-b",)
    assert series.start_s == int(start.timestamp()) + 300
    found = np.nan_to_num(series.usage[CPU][0], nan=-1).round(4).tolist()
    assert found == pytest.approx([0.2, 0.4, 0.4, -1, -1, -1, -1, 1.0])
    assert dict(series.repairs) == {"VMs without capacity dropped": 1}


def test_fragments_of_surf_lisa_follow_one_another_from_when_the_job_came_and_are_averaged(tmp_path: Path) -> None:
    begin_s = 1_665_093_600
    pl.DataFrame(
        {
            "id": [1, 2],
            "submission_time": [begin_s * 1000, (begin_s + 300) * 1000],
            "duration": [450_000, 150_000],
            "cpu_count": [16, 4],
            "cpu_capacity": [32_000.0, 4000.0],
        }
    ).write_parquet(tmp_path / "week_tasks.parquet")
    parts = [(1, 150_000, 1000.0), (2, 150_000, 4000.0), (1, 150_000, 3000.0), (1, 150_000, 8000.0)]
    pl.DataFrame(parts, schema=["id", "duration", "cpu_usage"], orient="row").write_parquet(
        tmp_path / "week_fragments.parquet"
    )
    series = read_usage(tmp_path)
    assert (series.workloads, series.start_s) == (("job-1", "job-2"), begin_s + 300)
    assert np.nan_to_num(series.usage[CPU], nan=-1).tolist() == [[1.0, 4.0], [-1, 4.0]]


def test_minutes_of_a_container_are_averaged_into_the_step_that_they_end_in(tmp_path: Path) -> None:
    rows = ["TIMESTAMP,CPU_USAGE_ACTUAL"]
    rows += [f"2023.04.02-00:0{m}:00:000,{cores}" for m, cores in ((0, 9), (1, 2), (5, 4), (6, 8))]
    (tmp_path / "c_12104_perf_event_log.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    series = read_usage(tmp_path)
    assert series.start_s == int(datetime(2023, 4, 2, tzinfo=UTC).timestamp())
    assert series.usage[CPU].tolist() == [[9.0, 3.0, 8.0]]
    assert series.provisioned[CPU].tolist() == [16.0]


def test_memory_of_inference_containers_is_the_largest_in_each_step(tmp_path: Path) -> None:
    rows = ["value,timestamp_anon,container_ip", ",1,b", "0.25,57,a", "0.75,300,a", "0.5,301,a", "0.5,10,", "0.5,10,"]
    (tmp_path / "pod_memory_util_anon.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    series = read_usage(tmp_path)
    assert (series.workloads, series.start_s) == (("a",), 300)
    assert series.usage[MEMORY].tolist() == [[0.75, 0.5]]
    assert dict(series.repairs) == {
        "samples without a value left as gaps": 1,
        "rows without a container dropped": 2,
    }


def test_a_gap_stays_a_gap() -> None:
    series = grid([300, 1200], [1.0, 2.0])
    assert np.isnan(series.usage[CPU][0, 1:3]).all()


def test_a_sample_is_of_the_step_that_ends_with_it_or_after_it() -> None:
    series = grid([300, 301, 899], [1.0, 2.0, 3.0])
    assert (series.start_s, series.usage[CPU][0].tolist()) == (300, [1.0, 2.0, 3.0])


def test_four_weeks_of_silence_and_hourly_samples_are_no_series_any_more() -> None:
    silent_s = 28 * 86_400
    grid([300, 600, 900, 900 + silent_s], [1.0] * 4)
    with pytest.raises(TraceError, match="nothing was recorded for 28 days after second 900"):
        grid([300, 600, 900, 1200 + silent_s], [1.0] * 4)
    grid([3600, 7200], [1.0] * 2)
    with pytest.raises(TraceError, match="typically 3900 s apart"):
        grid([3600, 7500], [1.0] * 2)


def test_disorder_and_duplicates_are_mended_and_counted() -> None:
    series = grid([600, 300, 300], [1.0, 2.0, 3.0])
    assert series.usage[CPU][0].tolist() == [3.0, 1.0]
    assert dict(series.repairs) == {"samples out of order": 1, "duplicate samples": 1}


def test_a_tiny_negative_value_is_zero_and_a_real_one_is_refused() -> None:
    series = grid([300, 600], [-1e-4, 1.0])
    assert series.usage[CPU][0, 0] == 0
    with pytest.raises(TraceError, match="cpu of w is -2; usage cannot be negative"):
        grid([300, 600], [1.0, -2.0])


def test_an_infinite_value_an_empty_recording_and_a_clock_in_milliseconds_are_refused() -> None:
    with pytest.raises(TraceError, match="infinite"):
        grid([300], [np.inf])
    with pytest.raises(TraceError, match="holds no samples"):
        grid([], [])
    with pytest.raises(TraceError, match="the clock jumped, or a timestamp is in milliseconds"):
        grid([300, 300_000_000_000], [1.0, 1.0])


def test_percentages_read_as_cores_are_recognised() -> None:
    many = np.arange(10)
    with pytest.raises(TraceError, match="different units"):
        to_grid(
            "made-up", many, np.full(10, 300), {CPU: np.full(10, 63.0)},
            workloads=tuple(map(str, many)), provisioned={CPU: np.full(10, 2.0)},
        )  # fmt: skip


def of_many(cores: Sequence[float], given: Sequence[float]) -> UsageSeries:
    """One sample of each workload."""
    names = tuple(f"w{i}" for i in range(len(cores)))
    at = np.arange(len(cores))
    return to_grid(
        "made-up",
        at,
        np.full(len(cores), 300),
        {CPU: np.array(cores)},
        workloads=names,
        provisioned={CPU: np.array(given)},
    )


@pytest.mark.parametrize(("num", "most"), [(1, 0), (2, 1), (50, 1), (99, 1), (100, 2), (150, 3)])
def test_two_in_a_hundred_and_one_in_any_case_may_use_far_more_than_they_were_given(num: int, most: int) -> None:
    for wrong in range(1, 4):
        cores = [1.0] * (num - wrong) + [4.01 + i for i in range(wrong)]
        if wrong <= most:
            assert len(of_many(cores, [1.0] * num).workloads) == num
        elif wrong <= num:
            told = rf"{wrong} of {num} workloads use more than 4 times .* \(w{num - 1}: {cores[-1]:.3g} times\)"
            with pytest.raises(TraceError, match=told):
                of_many(cores, [1.0] * num)
    assert of_many([4.0], [1.0]).usage[CPU].tolist() == [[4.0]], "four times is not above four times"


def test_whose_size_is_unknown_is_not_named_for_what_another_uses() -> None:
    with pytest.raises(TraceError, match=r"2 of 3 workloads use more than 4 times .* \(w2: 9 times\)"):
        of_many([1.0, 8.0, 9.0], [np.nan, 1.0, 1.0])


def test_what_is_typical_is_the_mean_of_what_was_measured() -> None:
    with pytest.raises(TraceError, match=r"w: 5 times"):
        grid([300, 600, 900], [20.0, np.nan, np.nan])
    assert grid([300, 600, 900], [20.0, 0.0, 0.0]).num_steps == 3


def test_workloads_of_no_or_no_known_size_are_dropped_and_counted() -> None:
    series = of_many([1.0, 1.0, 1.0, 1.0, np.nan], [2.0, 0.0, np.nan, np.inf, 2.0])
    assert series.workloads == ("w0",)
    assert dict(series.repairs)["workloads without samples or capacity dropped"] == 4
    with pytest.raises(TraceError, match="no workload has both samples and a provisioned amount"):
        of_many([1.0], [np.nan])


def test_noise_below_zero_is_a_thousandth_of_the_size_and_nothing_where_that_is_unknown() -> None:
    series = of_many([-0.002, 1.0], [2.0, 2.0])
    assert series.usage[CPU].tolist() == [[0.0], [1.0]]
    assert dict(series.repairs) == {"tiny negative cpu samples set to 0": 1}
    for cores, given in ((-0.0021, 2.0), (-1e-9, np.nan)):
        with pytest.raises(TraceError, match=f"cpu of w1 is {cores:g}; usage cannot be negative"):
            of_many([np.nan, cores, -1e-12, 1.0], [2.0, given, 2.0, 2.0])


def test_a_single_sample_that_no_pod_can_use_is_refused(tmp_path: Path) -> None:
    use = pl.read_parquet(bitbrains(tmp_path) / "usage.parquet")
    absurd = pl.when(pl.int_range(pl.len()) == 1).then(2.0**31).otherwise(512.0)
    use.with_columns(memory_usage_mib=absurd).write_parquet(tmp_path / "usage.parquet")
    with pytest.raises(TraceError, match=r"memory of vm-1 reaches 2\.2518e\+15, more than a pod can use"):
        read_bitbrains_rnd(tmp_path)
    use.with_columns(memory_usage_mib=absurd / 2).write_parquet(tmp_path / "usage.parquet")
    with pytest.raises(TraceError, match="different units"):
        read_bitbrains_rnd(tmp_path)


def test_use_that_is_next_to_nothing_is_in_another_unit(tmp_path: Path) -> None:
    use = pl.read_parquet(bitbrains(tmp_path) / "usage.parquet")
    use.with_columns(memory_usage_mib=pl.lit(512 / 2**20)).write_parquet(tmp_path / "usage.parquet")
    with pytest.raises(TraceError, match=r"memory is below 0\.001 of what was given throughout; .* bytes or MiB"):
        read_bitbrains_rnd(tmp_path)
    some = pl.when(pl.int_range(pl.len()) == 1).then(2.5).otherwise(0)
    use.with_columns(memory_usage_mib=some).write_parquet(tmp_path / "usage.parquet")
    assert read_bitbrains_rnd(tmp_path).num_steps == 3, "idle, but for once"


def test_a_workload_without_a_single_sample_is_dropped_and_counted() -> None:
    series = to_grid(
        "made-up", np.array([0]), np.array([300]), {CPU: np.array([1.0])},
        workloads=("a", "b"), provisioned={CPU: np.array([2.0, 2.0])},
    )  # fmt: skip
    assert series.workloads == ("a",)
    assert dict(series.repairs) == {"workloads without samples or capacity dropped": 1}


def test_use_that_is_zero_throughout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cpu is 0 throughout"):
        read_bitbrains_rnd(bitbrains(tmp_path, mhz=0.0))


def test_a_folder_of_data_sets_names_them(tmp_path: Path) -> None:
    (tmp_path / "bitbrains-rnd").mkdir()
    (tmp_path / "planetlab").mkdir()
    with pytest.raises(ConfigError, match=f"name one: {tmp_path}/bitbrains-rnd, {tmp_path}/planetlab"):
        read_usage(tmp_path)


def test_a_folder_of_usage_is_no_trace_and_says_what_reads_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recorded usage \(bitbrains-rnd\), in which no pod arrives; `ullage train`"):
        open_trace(str(bitbrains(tmp_path)))


def test_files_of_two_recordings_are_told_apart(tmp_path: Path) -> None:
    usage = pl.read_parquet(bitbrains(tmp_path) / "usage.parquet")
    usage.with_columns(vm=pl.lit(2)).write_parquet(tmp_path / "usage.parquet")
    with pytest.raises(TraceError, match=r"has none of the 1 VMs of usage\.parquet"):
        read_bitbrains_rnd(tmp_path)


def test_a_missing_file_and_a_missing_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks usage\.parquet"):
        read_bitbrains_rnd(tmp_path)
    with pytest.raises(ConfigError, match=r"holds no <day>\.tar\.gz"):
        read_planetlab(tmp_path)
    bitbrains(tmp_path)
    pl.DataFrame({"vm": [1]}).write_parquet(tmp_path / "usage.parquet")
    with pytest.raises(TraceError, match="no column time_s"):
        read_bitbrains_rnd(tmp_path)
    (tmp_path / "usage.parquet").unlink()
    with pytest.raises(ConfigError, match="no usage data set that Ullage reads"):
        read_usage(tmp_path)


def test_a_planetlab_day_becomes_shares_of_one_core(tmp_path: Path) -> None:
    series = read_planetlab_day(planetlab(tmp_path, ["50"] * DAY))
    assert series.share(CPU).shape == (1, DAY)
    assert (series.share(CPU) == 0.5).all()
    assert series.groups == ("uni_slice",)
    assert series.start_s == int(datetime(2011, 3, 3, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("lines", "message"),
    [(["50"] * 10, "has 10 values"), (["x"] * DAY, "something else than numbers"), (["150"] * DAY, "0 to 100")],
)
def test_a_damaged_planetlab_series_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_planetlab(planetlab(tmp_path, lines).parent)


def test_planetlab_days_are_joined_with_slices_as_namespaces(tmp_path: Path) -> None:
    first = read_planetlab_day(planetlab(tmp_path, ["50"] * DAY))
    table = np.repeat(np.array([[0.25], [0.75]], np.float32), DAY, axis=1)
    names = (*first.workloads, "host_b_uni_slice")
    joined = joined_days([first, replace(first, workloads=names, usage={CPU: table}, provisioned={CPU: np.ones(2)})])
    assert joined.num_days == 2
    assert joined.groups == ("uni_slice",) * 2
    assert {(f.namespace, f.kind) for f in joined.facts} == {("uni_slice", "Host")}
    new = joined.workloads.index("host_b_uni_slice")
    assert joined.facts[new].name == "host_b"
    assert np.isnan(joined.usage[CPU][new, :DAY]).all()
    assert (joined.usage[CPU][new, DAY:] == 0.75).all()
    assert joined.usage[CPU][1 - new].tolist() == [0.5] * DAY + [0.25] * DAY
    assert joined.pick([new]).facts == (joined.facts[new],)


@pytest.mark.traces
@pytest.mark.parametrize(
    ("name", "workloads", "mean"),
    [("bitbrains-small", 30, 0.116), ("surf-lisa", 2037, 0.705), ("alibaba-genai-2026", 140, 0.474)],
)
def test_recorded_usage_has_the_published_size_and_mean(traces: Path, name: str, workloads: int, mean: float) -> None:
    series = read_usage(traces / name)
    resource = next(iter(series.usage))
    assert len(series.workloads) == workloads
    assert float(np.nanmean(series.share(resource))) == pytest.approx(mean, abs=0.02)


@pytest.mark.traces
def test_recorded_planetlab_days_have_the_published_counts(traces: Path) -> None:
    assert [len(day.workloads) for day in read_planetlab(traces / "planetlab")] == [1052, 898, 1061, 1516, 1078]
