"""Training, judging and the reproductions' arithmetic, on made-up series."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from placement.errors import ConfigError, ModelError, PlacementError
from placement.learning import boosted
from placement.learning.baselines import P95, PEAK, Target
from placement.learning.features import FeatureSchema
from placement.learning.usage import DAY, HOUR, UsageSeries
from placement.resources import CPU, FloatArray
from simulator.learning.accuracy import best_rival, evaluate, headline, html, table_rows
from simulator.learning.forecast_samples import Recording, Rows, Samples, concatenate, folds_of
from simulator.learning.recordings import Learnable
from simulator.learning.recordings import train as train_recording
from simulator.learning.stacking import conformal
from simulator.learning.training import Effort, Split, train, verdict
from simulator.reproduce.eurosys import (
    BUDGET,
    adaptive_knob,
    filled,
    group_by_cores,
    outcome,
    over_by_day,
    own_factors,
    reactive,
    upper_bound,
)
from simulator.reproduce.forecast import coverage_intervals
from simulator.reproduce.forecast_bitbrains import generations
from simulator.reproduce.forecast_judging import (
    Bands,
    Calibration,
    TaskResult,
    applied,
    between,
    calibrate,
    level_now,
    stack_on,
)
from simulator.reproduce.forecast_planetlab import hourly
from simulator.reproduce.joint_packing import SAME_KIND, Replay, balanced, joint_need, kind_weight, plans
from simulator.reproduce.packing import Epoch, Replayed, first_fit, overloaded, pack, spread, weekday_of


def made_up(num: int = 24, days: int = 10, seed: int = 0) -> UsageSeries:
    rng = np.random.default_rng(seed)
    hour = (np.arange(days * DAY) % DAY) // HOUR
    phase = rng.integers(0, 24, num)
    base = np.where(hour[None, :] == phase[:, None], 0.6, 0.1) * rng.uniform(0.5, 1.5, (num, 1))
    share = np.clip(base * rng.gamma(20, 1 / 20, base.shape), 0, 1).astype(np.float32)
    share[0, : days * DAY // 2] = np.nan
    names = tuple(f"w{i}" for i in range(num))
    return UsageSeries("made-up", names, 0, {CPU: share * 2}, {CPU: np.full(num, 2.0)}, ("a", "b") * (num // 2))


def test_samples_never_reach_into_the_next_part_and_skip_gaps() -> None:
    series = made_up()
    split = Split.of(series.num_days)
    recording = Recording(series, np.arange(3 * DAY, series.num_steps, HOUR))
    samples = recording.samples(CPU, Target(6, PEAK))
    fit, calibration, test = split.masks(samples, 6)
    assert not (fit & calibration).any()
    assert not (calibration & test).any()
    assert ((samples.hour[fit] + 6) / 24 <= split.last_fit).all()
    assert samples.hour[samples.workload == 0].min() >= 5 * 24
    assert np.isfinite(samples.truth).all()


def test_a_recording_of_an_hour_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="cannot be split by time"):
        Split.of(1 / 24)


def test_folds_are_balanced_and_repeatable() -> None:
    folds = folds_of(10, 4, 3)
    assert sorted(np.bincount(folds).tolist()) == [2, 2, 3, 3]
    assert (folds == folds_of(10, 4, 3)).all()


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and v.startswith("http")]


def test_a_trained_model_is_judged_beside_every_rival_and_the_oracle(tmp_path: Path) -> None:
    series = made_up()
    train(series, tmp_path, seed=2, effort=Effort(3000, 800), targets=[Target(6, PEAK)])
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["data"]["workloads"] == 24
    assert card["tasks"]["cpu-6h-peak"]["coverage_unseen"] > 0.8
    report = evaluate(series, tmp_path)
    table = report["tasks"]["cpu-6h-peak"]["predictors"]
    assert table["oracle"]["pinball"] == 0
    assert table["model"]["pinball"] < 0.7 * table["vpa-p90"]["pinball"]
    assert {"request", "max24h", "nsigma-5-24h", "koordinator"} <= set(table)
    levels = [point[1] for point in report["tasks"]["cpu-6h-peak"]["reliability"]]
    assert levels == sorted(levels)
    (row,) = table_rows(report)
    assert row["task"] == "cpu-6h-peak"
    short = UsageSeries("short", series.workloads, 0, {CPU: series.usage[CPU][:, : DAY + 12]}, series.provisioned)
    with pytest.raises(ConfigError, match=r"short: 1\.04 days are too short to judge cpu-6h-peak on the last third"):
        evaluate(short, tmp_path)
    for part in ("data", "tasks"):
        (tmp_path / "card.json").write_text(boosted.card_text({k: v for k, v in card.items() if k != part}))
        with pytest.raises(ModelError, match=rf"card\.json lacks '{part}'; train again or restore the file"):
            evaluate(series, tmp_path)
    page = html(report, "ullage evaluate <x>")
    links = _Links()
    links.feed(page)
    assert not links.outside
    assert page.index("<svg") < page.index("<table")
    assert f"cpu-6h-peak {100 * float(row['ratio']):,.2f} (" in page, (
        "the first picture holds the model against its rival"
    )
    assert "<code>ullage evaluate &lt;x&gt;</code>" in page
    assert page.count("<h2") == page.count('<section aria-label="') == 2, "each part is a landmark with a name"


def test_training_says_where_a_rule_does_better_as_evaluate_does(tmp_path: Path) -> None:
    """Regular workloads, and three days of others that are calm but on the day that judges."""
    share = np.random.default_rng(5).uniform(0.05, 0.06, (24, 3 * DAY)).astype(np.float32)
    share[:, 2 * DAY :] *= np.random.default_rng(6).uniform(1, 16, (24, DAY)).astype(np.float32)
    names = tuple(f"w{i}" for i in range(24))
    wild = UsageSeries("wild", names, 0, {CPU: share}, {CPU: np.ones(24)})
    found = []
    for name, series in (("regular", made_up()), ("wild", wild)):
        folder = tmp_path / name
        trained = train(series, folder, seed=2, effort=Effort(3000, 800), targets=[Target(1, PEAK)])
        (task,) = trained
        report = evaluate(series, folder)
        predictors = report["tasks"][task.name]["predictors"]
        best = predictors[task.best_rule]
        assert task.best_rule == best_rival(predictors)
        assert task.metrics["pinball"] == pytest.approx(predictors["model"]["pinball"])
        assert task.metrics["best_rule_pinball"] == pytest.approx(min(best["pinball"], best["tuned_pinball"]))
        said = json.loads((folder / "card.json").read_text())["verdict"]
        assert said == verdict(series, trained).words
        assert verdict(series, trained).is_behind == task.loses
        assert said.startswith(f"the model is ahead of the best rule on {int(not task.loses)} of 1 tasks")
        assert f"on {int(not task.loses)} of 1 tasks" in headline(report)
        found.append((task.loses, said))
    (regular, calm), (lost, warned) = found
    assert not regular
    assert calm == "the model is ahead of the best rule on 1 of 1 tasks"
    assert lost
    assert re.search(r"behind on cpu-1h-peak \(\d+\.\d{3} x the loss of [\w-]+\): .* than these 3 and 24$", warned)


def test_a_recording_of_one_workload_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 1 workload, too few to leave some out for judging"):
        train(made_up(num=1), tmp_path, targets=[Target(1)])
    assert not list(tmp_path.iterdir())


def test_horizons_that_a_recording_is_too_short_for_are_said_and_alone_refused(tmp_path: Path) -> None:
    series = made_up(days=4)
    quick = Effort(1000, 300)
    learned = train_recording(Learnable("r", series), tmp_path / "m", seed=0, effort=quick)
    assert [t.target.name for t in learned.usage] == ["1h-peak", "1h-p95"]
    hours, *few, short = learned.notes
    assert hours.startswith("r: does not say when it began, so models do not look at hours and weekdays")
    assert short == "not learned: made-up: its 4 days are too few for 24h-peak, 24h-p95; record 13"
    assert [words.startswith("not learned: only 92 samples of cpu 6h-p") for words in few] == [True, True]
    assert all("record 5 days, or more workloads" in words for words in few), "what is advised is enough"
    assert set(json.loads((tmp_path / "m" / "card.json").read_text())["tasks"]) == {"cpu-1h-peak", "cpu-1h-p95"}
    with pytest.raises(ConfigError, match="its 4 days are too few for 48h-peak"):
        train_recording(Learnable("r", series), tmp_path / "n", seed=0, effort=quick, targets=[Target(48)])
    assert not (tmp_path / "n").exists()


def test_a_recording_full_of_gaps_is_said_to_be_that(tmp_path: Path) -> None:
    series = made_up(days=4)
    rng = np.random.default_rng(0)
    holes = {r: np.where(rng.random(t.shape) < 0.6, np.float32(np.nan), t) for r, t in series.usage.items()}
    with pytest.raises(
        PlacementError, match=r"\(61 % of made-up is missing; windows of which a third is are left out\)"
    ):
        train_recording(Learnable("r", replace(series, usage=holes)), tmp_path, seed=0, effort=Effort(1000, 300))


def test_generations_never_fit_on_what_they_are_used_for_and_follow_each_other() -> None:
    found = generations(91)
    assert [g.last_fit for g in found] == [52, 61, 76]
    assert all(g.last_fit < g.last_use for g in found)
    assert [g.last_use for g in found] == [61, 76, 90]
    assert [(g.last_fit, g.last_use) for g in generations(70)] == [(52, 61), (61, 69)]
    with pytest.raises(ConfigError, match="needs more than 62"):
        generations(62)


def test_simultaneous_intervals_hold_the_truth_more_widely_than_single_ones() -> None:
    rng = np.random.default_rng(0)
    workload = np.repeat(np.arange(60), 50)

    def result(name: str) -> TaskResult:
        truth = rng.uniform(0, 1, len(workload))
        day = np.arange(len(workload)) % 3
        return TaskResult(
            name, np.full(len(workload), 0.95), truth, np.ones(len(workload)), workload, day, {}, {}, {}, 0.0
        )

    one = coverage_intervals([result("bitbrains-cpu-1h-peak")], seed=1)[0]
    family = [result(f"bitbrains-cpu-{h}h-peak") for h in range(12)]
    many = coverage_intervals(family, seed=1)
    assert all(low < 0.95 < high for low, high in many)
    assert np.mean([high - low for low, high in many]) > one[1] - one[0]


def test_intervals_by_day_widen_when_days_differ_as_a_whole() -> None:
    rng = np.random.default_rng(3)
    workload, day = np.repeat(np.arange(200), 20), np.tile(np.arange(20), 200)
    forecast, weight = np.full(len(day), 0.95), np.ones(len(day))

    def widths(truth: FloatArray) -> tuple[float, float]:
        result = TaskResult("bitbrains-cpu-1h-peak", forecast, truth, weight, workload, day, {}, {}, {}, 0.0)
        found = [coverage_intervals([result], seed=1, by_day=by_day)[0] for by_day in (False, True)]
        return found[0][1] - found[0][0], found[1][1] - found[1][0]

    alike = widths(rng.uniform(0, 1, len(day)))
    apart = widths(np.clip(rng.uniform(0, 1, len(day)) + rng.normal(0, 0.1, 20)[day], 0, 1))
    assert apart[1] > 2 * apart[0]
    assert apart[1] / apart[0] > 1.5 * alike[1] / alike[0]


def test_a_knob_fitted_on_the_past_leaves_the_budget_of_violations() -> None:
    rng = np.random.default_rng(1)
    truth, prediction = rng.uniform(0.2, 0.4, 5000), rng.uniform(0.2, 0.4, 5000)
    scaled = prediction * conformal(prediction, truth, 1 - BUDGET)
    found = outcome(truth, scaled)
    assert 0.8 * BUDGET <= found["violations"] <= BUDGET
    assert outcome(truth, truth)["violations"] == 0
    assert outcome(truth, truth / 2)["severity"] == pytest.approx(0.5)


def test_random_groups_never_exceed_their_size_and_hold_a_workload_once() -> None:
    cores = np.random.default_rng(0).choice([1.0, 2.0, 4.0, 8.0], 100)
    groups = group_by_cores(cores, np.random.default_rng(1))
    members = np.concatenate(groups)
    assert len(members) == len(set(members.tolist()))
    assert all(cores[g].sum() <= 64 for g in groups)


def test_short_gaps_are_carried_and_long_ones_are_zero() -> None:
    row = np.array([[1.0, np.nan, np.nan, 2.0, *[np.nan] * 20]], np.float32)
    found = filled(row)[0]
    assert found[:4].tolist() == [1, 1, 1, 2]
    assert found[4:16].tolist() == [2] * HOUR
    assert not found[16:].any()


def test_packing_respects_the_knobs_and_counts_overload() -> None:
    reserved = np.array([[20.0, 16.0, 12.0, 10.0]]) / 32
    node_of = first_fit(reserved, reserved[0], None, 1.0)
    assert node_of.tolist() == [0, 1, 0, 1]
    assert first_fit(reserved * 2, reserved[0], None, 1.0).max() == 3
    usage = np.tile(reserved[:, :, None], (1, 1, 4)).astype(np.float32)
    usage[0, 0, 0] = 25 / 32
    found = overloaded(node_of, usage)
    assert (found.nodes, found.over, found.samples) == (2, 1, 8)
    assert found.excess == pytest.approx(5 / 32)
    both = np.concatenate([usage, usage])
    assert overloaded(node_of, both).over == 1


def test_every_resource_must_fit() -> None:
    reserved = np.array([[0.2, 0.2, 0.2], [0.6, 0.6, 0.3]])
    assert first_fit(reserved, reserved[0], None, 1.0).tolist() == [0, 1, 0]


def test_a_rule_is_spread_over_the_fewest_nodes_that_hold_its_sums() -> None:
    reserved = np.array([[0.5, 0.4, 0.3, 0.3, 0.2], [0.1, 0.1, 0.1, 0.7, 0.1]])
    node_of, fullest = spread(reserved, 2)
    assert node_of.tolist() == [1, 0, 1, 0, 0], ".7 of memory first"
    assert fullest == pytest.approx(0.9)
    epoch = Epoch(0, np.zeros((2, 5, 0), np.float32), np.zeros((2, 5, 4), np.float32), {"rule": reserved})
    for knob, nodes in ((0.5, 1), (1.0, 2), (1.4, 3), (9.0, 5)):
        assert pack("spread+rule", epoch, knob).nodes == nodes
        assert nodes == 5 or knob * spread(reserved, nodes)[1] <= 1
        assert nodes == 1 or knob * spread(reserved, nodes - 1)[1] > 1


def test_a_replayed_set_is_packed_by_its_sum_not_by_the_sum_of_its_peaks() -> None:
    series = np.full((1, 2, 100), 0.05, np.float32)
    series[0, 0, :50], series[0, 1, 50:] = 0.9, 0.9
    order = np.array([0.9, 0.9])
    assert first_fit(None, order, Replayed(series), 1.0).max() == 0
    assert first_fit(None, order, Replayed(series), 1.1).max() == 1
    together = np.repeat(series[:, :1], 2, axis=1)
    assert first_fit(None, order, Replayed(together), 1.0).max() == 1
    assert first_fit(None, order, Replayed(series, None), 0.0).max() == 0
    assert first_fit(None, order, Replayed(together, None), 3.0).max() == 1


def test_balanced_nodes_part_what_bursts_together() -> None:
    history = np.full((1, 4, 2 * DAY), 0.01, np.float32)
    history[0, :2, :DAY], history[0, 2:, DAY:] = 0.4, 0.4
    replay = Replay.of(history)
    node_of = balanced(replay, 2, 24.0)
    assert node_of[0] != node_of[1]
    assert node_of[2] != node_of[3]
    need = joint_need(replay, node_of, 2)
    assert need.shape == (2, 1)
    assert (need < joint_need(replay, np.array([0, 0, 1, 1]), 2).max()).all()
    found = plans(replay, fewest=0.5, most=2.0)
    assert [plan.nodes for plan in found] == [1, 2]
    assert found[-1].need <= 0.5 < found[0].need


def test_a_weekend_is_packed_by_weekends() -> None:
    monday, saturday = 0, 5
    assert weekday_of(1_372_629_600) == monday  # 2013-07-01, midnight in Amsterdam
    ages = np.array([1.0, 23.9, 24.1, 60.0, 100.0])
    assert kind_weight(ages, saturday).tolist() == [1, 1, 1, 1, 1]
    assert kind_weight(ages, monday).tolist() == [1, 1, 1, SAME_KIND, SAME_KIND]
    history = np.full((1, 2, 14 * DAY), 0.02, np.float32)
    for back in (3, 4, 10, 11):
        history[0, :, (14 - back) * DAY : (15 - back) * DAY] = 0.2  # the weekends before a Wednesday
    alone = np.zeros(2, np.int64)
    plain, wednesday = (float(joint_need(Replay.of(history, day), alone, 1)[0, 0]) for day in (None, 2))
    assert wednesday < 0.5 * plain
    assert plain == pytest.approx(0.4)


def test_an_outage_of_the_recorder_is_no_idle_time() -> None:
    history = np.full((1, 2, 14 * DAY), 0.2, np.float32)
    alone = np.zeros(2, np.int64)
    whole = joint_need(Replay.of(history), alone, 1)
    history[0, :, -2 * DAY :] = 0
    assert joint_need(Replay.of(history), alone, 1) == pytest.approx(whole)
    assert (joint_need(Replay.of(0 * history), alone, 1) < 0.01).all()


def test_violations_are_bounded_by_drawing_days_not_samples() -> None:
    steady = np.array([[1.0], [1.0], [1.0], [1.0]])
    burst = np.array([[4.0], [0.0], [0.0], [0.0]])
    count = np.full(4, 100.0)
    assert upper_bound(steady, count)[0] == pytest.approx(0.01)
    assert upper_bound(burst, count)[0] >= 0.02


def test_a_node_that_often_exceeds_gets_a_larger_factor_from_its_known_past_only() -> None:
    day = np.repeat(np.arange(20), 20)
    node = np.tile(np.repeat([0, 1], 10), 20)
    ratio = np.where(node == 0, 1.2, 0.8) * np.random.default_rng(4).uniform(0.99, 1.01, len(day))
    found = own_factors(ratio, node, day, day + 1)
    late = day == 19
    assert found[late & (node == 0)].min() >= 1 > found[late & (node == 1)].max()
    assert (found[day < 8] == 1).all()
    changed = ratio.copy()
    changed[day >= 18] = 9
    assert (own_factors(changed, node, day, day + 1)[day <= 19] == found[day <= 19]).all()


def test_the_adaptive_knob_rises_after_overspending_and_falls_after_quiet_days() -> None:
    rng = np.random.default_rng(0)
    day = np.repeat(np.arange(30), 200)
    ratio = rng.normal(1, 0.1, len(day))
    plain = adaptive_knob(*over_by_day(ratio[day < 8], day[day < 8]))
    worse = ratio + np.where(day >= 15, 0.02 * (day - 14), 0)
    better = ratio - np.where(day >= 15, 0.02 * (day - 14), 0)
    assert adaptive_knob(*over_by_day(worse, day)) > plain > adaptive_knob(*over_by_day(better, day))


def test_what_is_renewed_seldom_reacts_late_and_what_looks_back_for_longer_sells_less() -> None:
    usage = np.full((1, 4 * DAY), 1.0, np.float32)
    usage[0, 3 * DAY + 6 :] = 4
    limits, before, test = np.array([10.0]), slice(0, 2 * DAY), slice(2 * DAY, 4 * DAY)
    at_once = reactive(usage, limits, test, before)
    seldom = reactive(usage, limits, test, before, every=24)
    assert at_once["margin"] == seldom["margin"] == 1.05
    assert at_once["violations"] == pytest.approx(1 / (2 * DAY - 1))
    assert seldom["violations"] == pytest.approx(
        19 / (2 * DAY - 1)
    )  # from the seventh sample of two hours to their end
    usage[0, 3 * DAY + 7 :] = 1
    looks = [reactive(usage, limits, test, before, look=look)["savings"] for look in (12, DAY)]
    assert looks[0] > looks[1]


def test_the_commands_train_and_evaluate_from_a_folder_and_refuse_a_bad_horizon(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    import polars as pl

    from simulator.cli.learn import evaluate as evaluate_command
    from simulator.cli.learn import train as train_command

    series = made_up(12, 7)
    share = series.share(CPU)
    rows = [
        (vm, (t + 1) * 300, float(v)) for vm, line in enumerate(share) for t, v in enumerate(line) if np.isfinite(v)
    ]
    vm, time_s, value = zip(*rows, strict=True)
    use = {"vm": vm, "time_s": time_s, "cpu_usage_mhz": [int(v * 5000) for v in value]}
    pl.DataFrame({**use, "memory_usage_mib": [100] * len(vm)}).write_parquet(tmp_path / "usage.parquet")
    ids = list(range(12))
    given = {"vm": ids, "time_s": [300] * 12, "cpu_cores": [2] * 12, "cpu_capacity_mhz": [5000] * 12}
    pl.DataFrame({**given, "memory_capacity_mib": [400] * 12}).write_parquet(tmp_path / "provisioned.parquet")
    model, page = str(tmp_path / "the model"), tmp_path / "report.html"
    command = [str(tmp_path), "-m", model, "--horizon", "1h-peak", "--rows", "1000", "-q", "-o", "json"]
    done = CliRunner().invoke(train_command, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["tasks"].keys() == {"cpu-1h-peak", "memory-1h-peak"}
    assert f"ullage evaluate {tmp_path} -m '{model}' --report" in done.stderr, "it can be typed as it stands"
    said = json.loads(done.stdout)["verdict"]
    assert done.stderr.splitlines()[-1] == f"{'warning' if 'behind' in said else 'note'}: {said}"
    judged = CliRunner().invoke(evaluate_command, [str(tmp_path), "-m", model, "--report", str(page), "-q"])
    assert judged.exit_code == 0, judged.output
    assert "cpu-1h-peak" in judged.stdout
    assert page.read_text().startswith("<!doctype html>")
    early = CliRunner().invoke(evaluate_command, [str(tmp_path), "-m", model, "--report", f"{page}/r.html", "-q"])
    assert "is no folder" in str(early.exception)
    wrong = CliRunner().invoke(train_command, [str(tmp_path), "-m", model, "--horizon", "soon", "-q"])
    assert isinstance(wrong.exception, ConfigError)
    in_short = [str(tmp_path), "-o", str(tmp_path / "other"), "--horizon", "1h-peak", "--rows", "1000", "-q"]
    assert CliRunner().invoke(train_command, in_short).exit_code == 0
    assert (tmp_path / "other" / "card.json").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "Missing option '-m'"),
        (["-o", "jsn"], "did you mean 'json'?"),
        (["-m", "model", "-o", "other"], "--model names the folder already"),
        (["-o", __file__], "is a file"),
    ],
)
def test_training_says_what_an_output_means_before_it_reads(tmp_path: Path, given: list[str], says: str) -> None:
    from simulator.cli.learn import train as train_command

    refused = CliRunner().invoke(train_command, [str(tmp_path), *given])
    assert refused.exit_code == 2
    assert says in " ".join(refused.output.split())


def test_rows_are_those_of_their_tables_however_they_are_picked() -> None:
    rng = np.random.default_rng(1)
    tables = tuple(rng.random((9000, width), np.float32) for width in (3, 1, 5))
    whole = Rows(tables, rng.integers(9000, size=7000))
    wanted = np.concatenate(tables, axis=1)[whole.place]
    np.testing.assert_array_equal(whole.gathered, wanted)
    np.testing.assert_array_equal(whole.columns([8, 0, 3]), wanted[:, [8, 0, 3]])
    some, mask = rng.integers(7000, size=50), rng.random(50) < 0.5
    np.testing.assert_array_equal(whole.pick(some).pick(mask).gathered, wanted[some][mask])
    np.testing.assert_array_equal(Rows.of(wanted).gathered, wanted)


def test_joined_samples_have_the_rows_of_each() -> None:
    index = np.arange(5)
    table = np.random.default_rng(2).random((5, 2), np.float32)
    one = replace(judged(index / 5, index), features=Rows.of(table))
    parts = [one.pick(index[3:]), one.pick(index[:2])]
    other = replace(one, features=Rows.of(table + 1))
    np.testing.assert_array_equal(concatenate(parts).rows, table[[3, 4, 0, 1]])
    np.testing.assert_array_equal(concatenate([*parts, other]).rows, np.concatenate([table[[3, 4, 0, 1]], table + 1]))


def judged(truth: np.ndarray, hour: np.ndarray) -> Samples:
    day = hour // 24
    return Samples(
        FeatureSchema(("x",)), Rows.of(np.zeros((len(truth), 1), np.float32)), truth.astype(np.float32), np.ones(len(truth)),
        hour, hour, day, day, np.full(len(truth), "g"),
    )  # fmt: skip


def test_a_stack_follows_its_prior_after_a_day_and_its_data_after_months() -> None:
    rng = np.random.default_rng(0)
    weights = {}
    for days in (1, 90):
        hour = np.repeat(np.arange(days) * 24, 100)
        truth = rng.uniform(0.1, 0.3, len(hour))
        parts = np.stack([np.full(len(hour), 0.9), truth, np.full(len(hour), 0.8)])
        known = np.ones(len(hour), bool)
        weights[days] = stack_on(judged(truth, hour), parts, known, 1)
        assert weights[days].sum() == pytest.approx(1)
        assert weights[days].min() >= 0
        np.testing.assert_allclose(stack_on(judged(truth, hour), parts, ~known, 1), [0.9, 0.05, 0.05])
    assert weights[90][1] > weights[1][1] > 0.05
    assert weights[90][1] > 0.97


def test_factors_renewed_through_a_day_follow_it_and_know_no_window_that_is_not_over() -> None:
    rng = np.random.default_rng(8)
    day, hour, name = (axis.ravel() for axis in np.meshgrid((0, 1), np.arange(18), np.arange(400), indexing="ij"))
    truth = rng.uniform(0, 0.5, len(day)) * np.where(day == 1, 1.3, 1.0)
    forecast, target, later = np.full(len(day), 0.475), Target(6, P95), (day == 1) & (hour > 5)

    def given(truth: FloatArray) -> FloatArray:
        samples = replace(judged(truth, hour), start_day=day)
        found = np.full(len(day), np.nan)
        for now, bands, factors in hourly(samples, forecast, name > 50, target, (1,), 0):
            found[now] = applied(factors, bands, forecast[now], samples.weight[now])
        return found

    once, twice = given(truth), given(np.where(later, 0.01, truth))
    assert np.isnan(once[day == 0]).all()
    np.testing.assert_array_equal(once[(day == 1) & (hour < 12)], twice[(day == 1) & (hour < 12)])
    assert (twice[(day == 1) & (hour == 17)] < once[(day == 1) & (hour == 17)]).all()
    covered = truth <= once
    assert covered[(day == 1) & (hour < 6)].mean() < 0.80
    assert covered[(day == 1) & (hour > 14)].mean() == pytest.approx(0.95, abs=0.02)


def test_bands_hold_equally_many_and_each_gets_a_factor_of_its_own() -> None:
    rng = np.random.default_rng(5)
    forecast = rng.uniform(0.05, 0.4, 10_000)
    busy = forecast > np.quantile(forecast, 0.8)
    truth = forecast * np.where(busy, 1.5, 0.8) * rng.uniform(0.9, 1, 10_000)
    samples, known = judged(truth, np.zeros(10_000, np.int64)), np.arange(10_000) < 8_000
    bands = Bands.of(samples, forecast, known)
    names, counts = np.unique(bands.names(forecast[known], samples.weight[known]), return_counts=True)
    assert list(names) == ["0", "1", "2", "3", "4"]
    assert counts.max() - counts.min() <= 1
    found = calibrate(samples, forecast, known, bands, shrink=0)
    later = applied(found, bands, forecast[~known], samples.weight[~known])
    covered = truth[~known] <= later
    assert covered[busy[~known]].mean() == pytest.approx(0.95, abs=0.03)
    assert covered[~busy[~known]].mean() == pytest.approx(0.95, abs=0.03)
    for_all = calibrate(samples, forecast, known, Bands(np.zeros(0)), shrink=0.2)
    assert for_all.of.keys() == {"0"}
    assert found.of["0"] < for_all.for_all
    half = calibrate(samples, forecast, known, bands, shrink=0.5)
    assert half.of["4"] == pytest.approx((found.of["4"] * found.for_all) ** 0.5)
    assert calibrate(samples, forecast, np.arange(10_000) < 1_000, bands, shrink=0).of == {}, "too few of each"


def test_calibrations_are_mixed_on_the_log_scale() -> None:
    one, other = Calibration(1.0, {"a": 4.0}), Calibration(4.0, {"b": 1.0})
    found = between(one, other, 0.5)
    assert found == Calibration(2.0, {"a": 4.0, "b": 1.0})
    assert between(one, other, 0.0) == Calibration(1.0, {"a": 4.0, "b": 1.0})


def test_the_level_rises_while_forecasts_fall_short_and_counts_only_what_was_given() -> None:
    truth = np.linspace(0.1, 0.5, 200)
    samples = judged(truth, np.repeat(np.arange(10) * 24, 20))
    known = np.ones(200, bool)
    given = np.where(np.arange(200) < 100, 0.05, np.nan)
    assert level_now(samples, given, known, 5) == pytest.approx(0.985)
    assert level_now(samples, np.full(200, 1.0), known, 2) == pytest.approx(0.94)
    assert level_now(samples, given, ~known, 5) == 0.95
    assert level_now(samples, np.full(200, np.nan), known, 5) == 0.95


def test_a_constant_workload_forecast_at_its_level_is_covered_whatever_the_rounding() -> None:
    from simulator.learning.accuracy import scores

    truth = np.random.default_rng(3).uniform(0.01, 0.9, 500).astype(np.float32)
    index = np.arange(500)
    samples = Samples(
        FeatureSchema(("x",)), Rows.of(np.zeros((500, 1), np.float32)), truth, np.ones(500), index, index, index, index,
        np.full(500, "g"),
    )  # fmt: skip
    forecast = np.nextafter(truth.astype(float), 0)
    assert (truth > forecast).any()
    assert scores(samples, forecast)["coverage"] == 1
    assert scores(samples, forecast * 0.999)["coverage"] == 0
