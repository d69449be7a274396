"""The forecasting proof: nothing is used before it was known, and results can be kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from placement.errors import ConfigError, PlacementError
from placement.learning.baselines import P95, PEAK, Target
from placement.learning.boosted import FitOptions
from placement.learning.usage import DAY, HOUR, UsageSeries
from placement.resources import CPU
from simulator.cli.reproduce_learning import _say
from simulator.learning.forecast_samples import STRIDE_H, Recording, draw
from simulator.learning.training import Effort
from simulator.reproduce import forecast
from simulator.reproduce.forecast import report, run
from simulator.reproduce.forecast_bitbrains import FIRST_FIT_DAY, LAST_CALIBRATION_DAY, bitbrains_task
from simulator.reproduce.forecast_judging import TaskResult
from simulator.reproduce.forecast_planetlab import PLANETLAB_TEST, PLANETLAB_TRAIN, Days, planetlab_task, split_days
from simulator.reproduce.parts import silent

TINY = Effort(600, 300, FitOptions(trees=5, leaves=4, min_leaf=20))
STAMPS = (*PLANETLAB_TRAIN, *PLANETLAB_TEST)


def planetlab_day(stamp: str, share: np.ndarray) -> UsageSeries:
    names = tuple(f"h{i % 8}_net_site_o{i % 5}" for i in range(len(share)))
    names = tuple(f"h{i}_{name}" for i, name in enumerate(names))
    owners = tuple("_".join(name.rsplit("_", 2)[-2:]) for name in names)
    return UsageSeries(f"planetlab-{stamp}", names, 300, {CPU: share}, {CPU: np.ones(len(share))}, owners)


def planetlab_shares() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    level = rng.uniform(0.05, 0.4, (40, 1))
    return [np.clip(level * rng.gamma(4, 0.25, (40, DAY)), 0.01, 1).astype(np.float32) for _ in STAMPS]


def planetlab_result(shares: list[np.ndarray]) -> TaskResult:
    days = Days([planetlab_day(stamp, share) for stamp, share in zip(STAMPS, shares, strict=True)])
    return planetlab_task(days, Target(1, P95), effort=TINY, seed=1, progress=silent)


def test_a_planetlab_forecast_uses_nothing_that_happens_after_it() -> None:
    shares = planetlab_shares()
    one = planetlab_result(shares)
    changed = [share.copy() for share in shares]
    noon = 12 * HOUR
    changed[-1][:, noon:] = 0.97
    two = planetlab_result(changed)
    hours = np.arange(2, 24)
    per_day = len(hours) * 40
    last = np.tile(hours, 40)
    assert len(one.model) == 2 * per_day
    np.testing.assert_array_equal(one.model[:per_day], two.model[:per_day])
    before = last * HOUR <= noon
    np.testing.assert_array_equal(one.model[per_day:][before], two.model[per_day:][before])
    assert not np.array_equal(one.model[per_day:][~before], two.model[per_day:][~before])


def test_planetlab_of_other_days_is_split_as_the_protocols_are() -> None:
    others = ["20110403", "20110409", "20110411", "20110412", "20110420"]
    assert split_days(others) == ([0, 1, 2], [3, 4])
    assert split_days(list(STAMPS)) == ([0, 1, 2], [3, 4])
    assert split_days(sorted([*STAMPS, *others])) == ([0, 1, 2], [3, 4]), "the protocol's days, where they are there"
    with pytest.raises(ConfigError, match="needs 3 days"):
        split_days(others[:2])
    shares = planetlab_shares()[:3]
    days = Days([planetlab_day(stamp, share) for stamp, share in zip(others[:3], shares, strict=True)])
    found = planetlab_task(days, Target(1, P95), effort=TINY, seed=1, progress=silent)
    assert set(found.day) == {2}


def test_planetlab_names_need_no_owner_and_no_host() -> None:
    day = planetlab_day(STAMPS[0], planetlab_shares()[0][:4])
    odd = replace(day, workloads=("plain", "_", "we ird_x", "host_uni_slice"))
    assert len(Days([odd]).samples(Target(1, P95))) == len(Days([day]).samples(Target(1, P95)))


def test_planetlab_features_of_others_leave_the_workload_and_its_future_out() -> None:
    shares = planetlab_shares()
    target = Target(1, P95)
    one = Days([planetlab_day(s, x) for s, x in zip(STAMPS[:2], shares[:2], strict=True)]).samples(target)
    changed = [share.copy() for share in shares[:2]]
    changed[0][7] = 0.9
    two = Days([planetlab_day(s, x) for s, x in zip(STAMPS[:2], changed, strict=True)]).samples(target)
    mine = (one.workload == one.workload[7 * 22]) & (one.start_day == 1)
    assert mine.sum() == 22
    cluster = np.array([name.startswith("cluster_") for name in one.schema.names])
    np.testing.assert_array_equal(one.rows[mine][:, ~cluster], two.rows[mine][:, ~cluster])
    assert "owner_p95_24h" in one.schema.names
    assert "host_same_window_earlier" in one.schema.names


def bitbrains_result(share: np.ndarray, target: Target) -> tuple[Recording, TaskResult]:
    count = len(share)
    series = UsageSeries(
        "bitbrains-rnd", tuple(f"vm-{i}" for i in range(count)), 300, {CPU: share}, {CPU: np.full(count, 2.0)},
        tuple("2-core" for _ in range(count)),
    )  # fmt: skip
    recording = Recording(series, np.arange(FIRST_FIT_DAY * DAY, series.num_steps, HOUR))
    return recording, bitbrains_task(recording, CPU, target, effort=TINY, seed=1, progress=silent)


def test_a_bitbrains_forecast_uses_nothing_that_happens_after_it() -> None:
    rng = np.random.default_rng(0)
    days, change = 78, 74
    share = np.clip(rng.gamma(3, 0.05, (8, days * DAY)), 0.01, 1).astype(np.float32) * 2
    target = Target(6, PEAK)
    recording, one = bitbrains_result(share, target)
    later = share.copy()
    later[:, change * DAY :] = 1.9
    _, two = bitbrains_result(later, target)
    samples = recording.samples(CPU, target)
    hour = samples.hour[(samples.start_day > LAST_CALIBRATION_DAY) & (samples.hour % STRIDE_H == 0)]
    before = hour <= change * 24
    assert 0.5 < before.mean() < 1
    np.testing.assert_array_equal(one.model[before], two.model[before])
    assert not np.array_equal(one.model[~before], two.model[~before])
    assert one.seen is not None
    entry = report([one], 1)["tasks"]["bitbrains-cpu-6h-peak"]
    assert entry["ratio"] == pytest.approx(entry["model"] / entry["best_baseline"])
    assert entry["coverage_low"] <= entry["coverage"] <= entry["coverage_high"]
    assert entry["best_baseline"] <= min(e["raw"] for e in entry["baselines"].values())


def usage(count: int, days: int = 66) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.clip(rng.gamma(3, 0.05, (count, days * DAY)), 0.01, 1).astype(np.float32) * 2


@pytest.mark.parametrize("kind", ["constant", "zero", "gaps", "no calibration"])
def test_a_strange_recording_is_judged_or_says_why_not(kind: str) -> None:
    share = usage(8)
    if kind == "constant":
        share[:] = 0.3
    elif kind == "zero":
        share[:] = 0
    elif kind == "gaps":
        share[0, 20 * DAY : 40 * DAY] = np.nan
        share[1, : 60 * DAY] = np.nan
        share[2, 30 * DAY :] = np.nan
        share[3] = np.nan
    else:
        share[:, 53 * DAY : 62 * DAY] = np.nan
    found = bitbrains_result(share, Target(6, P95))[1]
    entry = report([found], 1)["tasks"]["bitbrains-cpu-6h-p95"]
    assert np.isfinite([entry["model"], entry["ratio"], entry["vs_vpa"]]).all()
    assert 0 <= entry["coverage_low"] <= entry["coverage"] <= entry["coverage_high"] <= 1
    if kind in ("constant", "zero"):
        assert entry["coverage"] == 1
        assert entry["ratio"] == pytest.approx(1, abs=0.1)


def test_too_few_workloads_and_a_test_without_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 workloads are too few"):
        bitbrains_result(usage(3), Target(6, PEAK))
    share = usage(4)
    share[:, 61 * DAY :] = np.nan
    with pytest.raises(ConfigError, match="no usable sample after day 61"):
        bitbrains_result(share, Target(6, PEAK))
    few = [share[:3] for share in planetlab_shares()]
    with pytest.raises(ConfigError, match="planetlab-1h-p95: 3 workloads are too few"):
        planetlab_result(few)


def bitbrains_folder(folder: Path, share: np.ndarray) -> Path:
    """In the layout of the shared recordings; memory is used like CPU."""
    vm, step = (index.ravel() for index in np.indices(share.shape))
    used = share.ravel() / 2
    given = {"vm": np.arange(len(share)), "cpu_cores": 2, "cpu_capacity_mhz": 5000.0, "memory_capacity_mib": 2048.0}
    (folder / "bitbrains-rnd").mkdir(parents=True)
    tables: dict[str, dict[str, Any]] = {
        "usage": {"vm": vm, "time_s": 300 * step, "cpu_usage_mhz": used * 5000, "memory_usage_mib": used * 2048},
        "provisioned": {
            name: np.full(len(share), value) if np.isscalar(value) else value for name, value in given.items()
        },
    }
    for name, table in tables.items():
        pl.DataFrame(table).write_parquet(folder / "bitbrains-rnd" / f"{name}.parquet")
    return folder


def test_a_task_that_the_data_are_too_short_for_is_left_out_and_said(tmp_path: Path) -> None:
    """Of 63 days one is left to judge on: a window of a day does not begin in it at an hour that is judged."""
    data = bitbrains_folder(tmp_path, usage(6, days=63))
    found = run(data, seed=1, effort=TINY, only=("cpu-6h-p95", "cpu-24h-p95"))
    assert list(found["tasks"]) == ["bitbrains-cpu-6h-p95"]
    assert np.isfinite([found["geomean"], found["worst"], found["vs_vpa"], found["vs_vpa_floors"]]).all()
    assert "63 days for a window of 24 h" in found["omitted"]["bitbrains-cpu-24h-p95"]
    with pytest.raises(ConfigError, match="ends too soon after it"):
        run(data, seed=1, effort=TINY, only=("cpu-24h-p95",))


def test_a_data_set_that_is_not_there_leaves_its_tasks_out_and_is_read_no_second_time(tmp_path: Path) -> None:
    data, said = bitbrains_folder(tmp_path, usage(6, days=63)), list[tuple[str, int, int]]()

    def say(message: str, done: int = 0, total: int = 0, /) -> None:
        said.append((message, done, total))

    found = run(data, seed=1, effort=TINY, only=("planetlab-1h", "cpu-6h-p95"))
    assert list(found["tasks"]) == ["bitbrains-cpu-6h-p95"]
    assert set(found["omitted"]) == {"planetlab-1h-peak", "planetlab-1h-p95"}
    assert "no folder planetlab in it (it has bitbrains-rnd); give the folder that holds planetlab/" in str(
        found["omitted"]["planetlab-1h-p95"]
    )
    with pytest.raises(ConfigError, match=f"give its parent, {tmp_path}"):
        run(data / "bitbrains-rnd", only=("bitbrains",))
    (tmp_path / "short").mkdir()
    with pytest.raises(ConfigError, match="the Bitbrains recording has 8 days"):
        run(bitbrains_folder(tmp_path / "short", usage(6, days=8)), only=("bitbrains",), progress=say)
    assert said.count(("read 6 Bitbrains workloads", 0, 0)) == 1
    assert said.count(("bitbrains-cpu-1h-peak is left out", 1, 12)) == 1


def test_long_work_says_how_much_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 10.0, 20.0, 21.0, 23.0])
    say = _say(False, lambda: next(times))
    say("read")
    for message, done, total in (("a", 1, 3), ("b", 2, 3), ("c", 3, 3), ("d", 1, 2)):
        say(message, done, total)
    assert capsys.readouterr().err.splitlines() == [
        "    1.0 s  read",
        "   10.0 s  a (1 of 3), about 20 s left",
        "   20.0 s  b (2 of 3), about 10 s left",
        "   21.0 s  c (3 of 3)",
        "   23.0 s  d (1 of 2), about 2 s left",
    ]


def test_rows_drawn_by_what_they_count_keep_weighted_sums_right() -> None:
    rng = np.random.default_rng(4)
    importance = rng.pareto(1.5, 50_000) + 0.01
    totals = []
    for seed in range(20):
        index, factor = draw(importance, 5_000, np.random.default_rng(seed))
        assert len(index) == len(np.unique(index)) <= 5_000
        totals.append(float((importance[index] * factor).sum()))
    assert np.mean(totals) == pytest.approx(importance.sum(), rel=0.02)
    index, factor = draw(importance[:10], 10, rng)
    assert list(index) == list(range(10))
    assert (factor == 1).all()


def test_a_kept_result_is_taken_again_but_not_of_other_data_seed_effort_or_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, only = bitbrains_folder(tmp_path, usage(6, days=63)), ("cpu-6h-p95",)
    first = run(data, seed=1, effort=TINY, only=only)
    assert run(data, seed=1, effort=TINY, only=only, keep=tmp_path / "kept") == first

    def again(*_args: Any, **_more: Any) -> TaskResult:
        raise ConfigError("it is made again")

    monkeypatch.setattr(forecast, "bitbrains_task", again)
    assert run(data, seed=1, effort=TINY, only=only, keep=tmp_path / "kept") == first
    with pytest.raises(ConfigError, match="it is made again"):
        run(data, seed=2, effort=TINY, only=only, keep=tmp_path / "kept")
    with pytest.raises(ConfigError, match="it is made again"):
        run(data, seed=1, effort=replace(TINY, rows=500), only=only, keep=tmp_path / "kept")
    with monkeypatch.context() as newer:
        newer.setattr(forecast, "code_version", lambda: "a later one")
        with pytest.raises(ConfigError, match="it is made again"):
            run(data, seed=1, effort=TINY, only=only, keep=tmp_path / "kept")
    (data / "bitbrains-rnd" / "more.parquet").write_bytes(b"one")
    with pytest.raises(ConfigError, match="it is made again"):
        run(data, seed=1, effort=TINY, only=only, keep=tmp_path / "kept")


def test_an_unknown_task_and_a_folder_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task matches soon"):
        run(tmp_path, only=("soon",))
    (tmp_path / "file").write_text("")
    with pytest.raises(PlacementError, match="choose another folder"):
        run(tmp_path, keep=tmp_path / "file")
