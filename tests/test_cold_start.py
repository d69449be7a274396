"""Cold start: what is known of a workload that has run for minutes, and what must not be."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from placement.errors import ModelError
from placement.learning.boosted import FitOptions
from placement.learning.siblings import NOISE, looks_of
from placement.learning.usage import DAY, HOUR, UsageSeries
from placement.resources import CPU
from simulator.learning.training import Effort
from simulator.reproduce.cold_samples import Population
from simulator.reproduce.cold_siblings import interval, judge_siblings
from simulator.reproduce.cold_start import MINUTES, one, run
from simulator.reproduce.neighbours import expected_of_others, mean_of_others, number_of_others
from simulator.reproduce.outcomes import Pairs, outcomes_of_others, pairs_of
from simulator.reproduce.seeds import pooled

NAMES = ("h1_net_site_a", "h2_net_site_a", "h1_net_site_b", "h3_com_site_c")
OWNERS = ("site_a", "site_a", "site_b", "site_c")
SHARE = np.random.default_rng(0).uniform(0, 0.5, (4, DAY)).astype(np.float32)
YESTERDAY = np.random.default_rng(1).uniform(0, 0.5, (4, DAY)).astype(np.float32)


def day(share: np.ndarray, stamp: str = "20110306") -> UsageSeries:
    return UsageSeries(f"planetlab-{stamp}", NAMES, 300, {CPU: share}, {CPU: np.ones(4)}, OWNERS)


def population(today: np.ndarray, yesterday: np.ndarray = YESTERDAY) -> Population:
    return Population([day(yesterday, "20110303"), day(today)])


def test_the_mean_of_others_leaves_the_member_itself_and_the_unknown_out() -> None:
    values = np.array([1.0, 3.0, 7.0, np.nan])
    keys = np.array([0, 0, 1, 0])
    found = mean_of_others(values, keys)
    assert found[:2].tolist() == [3, 1]
    assert np.isnan(found[2])
    assert found[3] == 2
    assert number_of_others(values, keys).tolist() == [1, 1, 0, 2]
    table = mean_of_others(np.stack([values, 10 * values], axis=1), keys)
    np.testing.assert_allclose(table[:, 1], 10 * found)


def test_owner_and_host_are_told_apart_by_the_crossed_model() -> None:
    rng = np.random.default_rng(2)
    owners, hosts = (codes.ravel() for codes in np.meshgrid(np.arange(40), np.arange(50)))
    by_owner, by_host = rng.normal(0, 1, 40), rng.normal(0, 0.5, 50)
    values = np.exp(-2 + by_owner[owners] + by_host[hosts] + rng.normal(0, 0.1, len(owners)))
    found = expected_of_others(values, owners, hosts)
    alone = mean_of_others(np.log(values), owners)
    assert np.corrcoef(np.log(found), np.log(values))[0, 1] > 0.98
    assert np.abs(np.log(found) - np.log(values)).mean() < 0.5 * np.abs(alone - np.log(values)).mean()


def test_the_crossed_model_does_not_look_at_the_workload_itself() -> None:
    owners, hosts = np.array([0, 0, 0, 1]), np.array([0, 1, 2, 3])
    values = np.array([0.2, 0.2, 0.2, 0.4])
    lonely = expected_of_others(values, owners, hosts)[3]
    values[3] = 0.4001
    assert expected_of_others(values, owners, hosts)[3] == pytest.approx(lonely, rel=1e-3)
    assert lonely < 0.3


@pytest.mark.parametrize("minutes", MINUTES)
def test_a_cold_sample_knows_nothing_of_its_future(minutes: int) -> None:
    length = minutes // 5
    changed = SHARE.copy()
    changed[:, 6 * HOUR + length :] = 0.9
    one, two = (population(share).cold(1, 6 * HOUR, length) for share in (SHARE, changed))
    np.testing.assert_array_equal(one.samples.rows, two.samples.rows)
    assert all((one.rules[name] == two.rules[name]).all() for name in one.rules)
    assert (two.samples.truth == np.float32(0.9)).all()


def test_a_cold_sample_knows_nothing_of_the_workloads_own_earlier_samples() -> None:
    today, yesterday = SHARE.copy(), YESTERDAY.copy()
    today[3, : 6 * HOUR] = 0.01
    yesterday[3] = 0.01
    changed = [population(SHARE), population(today, yesterday)]
    one, two = (p.cold(1, 6 * HOUR, 3).samples for p in changed)
    shared = {"population_p95", "population_mean", "anchor", "expected", "expected_now", "expected_earlier"}
    for i, name in enumerate(one.schema.names):
        if name not in shared:
            np.testing.assert_array_equal(one.rows[3, i], two.rows[3, i], err_msg=name)


def test_a_cold_sample_sees_its_few_samples_and_its_owners_others() -> None:
    found = population(SHARE).cold(1, 6 * HOUR, 3).samples
    column = found.schema.names.index
    mine = SHARE[0, 6 * HOUR : 6 * HOUR + 3]
    assert found.rows[0, column("own_max")] == mine.max()
    others = np.percentile(SHARE[1, 3 : 6 * HOUR + 3], 95)
    assert found.rows[0, column("owner_p95")] == pytest.approx(others, rel=1e-5)
    assert np.isnan(found.rows[2, column("owner_p95")])
    assert found.rows[2, column("host_now")] == pytest.approx(mine.mean(), rel=1e-5)
    earlier = np.percentile(YESTERDAY[1, 6 * HOUR + 3 : 12 * HOUR + 3], 95)
    assert found.rows[0, column("owner_earlier")] == pytest.approx(earlier, rel=1e-5)


def test_the_first_recorded_day_has_no_earlier_days() -> None:
    found = population(SHARE).cold(0, 6 * HOUR, 3).samples
    column = found.schema.names.index
    assert np.isnan(found.rows[:, column("owner_earlier")]).all()
    assert np.isnan(found.rows[:, column("expected_earlier")]).all()


def test_other_days_may_be_named_later_ones_too() -> None:
    later = Population([day(SHARE, "20110303"), day(YESTERDAY)])
    found, as_before = later.cold(0, 6 * HOUR, 3, [1]).samples, population(SHARE).cold(1, 6 * HOUR, 3).samples
    np.testing.assert_array_equal(found.rows, as_before.rows)


def pairs(name: np.ndarray, samples: np.ndarray, outcome: np.ndarray) -> Pairs:
    return Pairs(name, np.zeros(len(name), int), looks_of(samples), np.log(outcome + NOISE), np.ones(len(name)))


def test_outcomes_are_those_of_the_owners_others_that_looked_alike() -> None:
    owners = np.repeat([0, 1], 60)
    name = np.arange(120)
    busy = name % 2 == 1
    samples = np.where(busy, 0.3, 0.02)[:, None] * np.ones(3)
    outcome = np.select([~busy & (owners == 0), busy & (owners == 0), ~busy], [0.05, 0.4, 0.2], 0.8)
    found = outcomes_of_others(pairs(name, samples, outcome), name, looks_of(samples), owners)
    for look in ("peak", "mean", "growth"):
        np.testing.assert_allclose(found[f"outcome_{look}_q50"], outcome, rtol=0.25, err_msg=look)
    below, above = found["outcome_mean_q50"], found["outcome_mean_q95"]
    assert (below < above).all(), "the population is wider than the owner"
    np.testing.assert_allclose(
        found["outcome"], np.mean([found[f"outcome_{look}_q95"] for look in ("peak", "mean", "growth")], axis=0)
    )


def test_an_owner_without_others_is_given_the_populations_outcomes() -> None:
    owners = np.array([0, *[1] * 40])
    samples = np.full((41, 3), 0.1)
    outcome = np.where(owners == 0, 0.9, 0.2)
    found = outcomes_of_others(pairs(np.arange(41), samples, outcome), np.arange(1), looks_of(samples[:1]), owners)
    assert found["outcome_mean_q50"][0] == pytest.approx(0.2, rel=0.1), "its own pair is not looked at"


def test_without_pairs_no_outcome_is_known() -> None:
    none = pairs(np.zeros(0, int), np.zeros((0, 3)), np.zeros(0))
    found = outcomes_of_others(none, np.arange(2), looks_of(np.full((2, 3), 0.1)), np.zeros(2, int))
    assert all(np.isnan(value).all() for value in found.values())


def test_a_pair_is_of_every_whole_hour_that_leaves_room_for_its_outcome() -> None:
    found = pairs_of(SHARE, np.array([4, 5, 6, 7]), 3, 6 * HOUR)
    assert sorted(set(found.begin.tolist())) == list(range(0, 17 * HOUR + 1, HOUR))
    assert len(found) == 18 * 4
    first = np.percentile(SHARE[0, 3 : 3 + 6 * HOUR], 95)
    assert np.exp(found.outcome[0]) - NOISE == pytest.approx(first)
    assert np.exp(found.looks[0]) - NOISE == pytest.approx([f(SHARE[0, :3]) for f in (np.max, np.mean, np.std)])


def test_new_names_of_later_days_are_predicted_from_their_slice() -> None:
    rng = np.random.default_rng(3)
    share = rng.uniform(0.05, 0.3, (66, 1)) * rng.uniform(0.7, 1, (66, DAY))

    def day(stamp: str, first: int, last: int) -> UsageSeries:
        names = tuple(f"h{i}_x_{'a' if i < 64 else 'rare'}" for i in range(first, last))
        groups = tuple(f"x_{name.rsplit('_', 1)[-1]}" for name in names)
        table = share[first:last].astype(np.float32)
        return UsageSeries(f"planetlab-{stamp}", names, 0, {CPU: table}, {CPU: np.ones(len(names))}, groups)

    found = judge_siblings([day("1", 0, 20), day("2", 0, 62), day("3", 0, 66)])
    assert list(found) == ["planetlab-2", "planetlab-3"]
    second, last = found["planetlab-2"], found["planetlab-3"]
    assert second["forecasts"] == 42 * 18
    assert second["answered"] == 8 / 18, "outcomes of four hours are known eleven hours into the day"
    assert last["workloads"] == 4, "a slice that nobody knows is told by all others"
    assert last["forecasts"] == 4 * 18
    assert last["answered"] == 1
    for entry in (second, last):
        assert entry["coverage"] is not None
        assert entry["coverage"] >= 0.975
        assert entry["true"] is not None
        assert entry["promised"] is not None
        assert entry["ratio"] is not None
        assert entry["true"] < entry["promised"] < 0.4
        assert entry["ratio"] < 0.5
        assert entry["interval"][0] <= entry["coverage"] <= entry["interval"][1]
    assert list(last["first_hour"]) == ["15min", "30min", "45min", "60min"]
    assert all((of["forecasts"], of["answered"]) == (4, 1) for of in last["first_hour"].values())
    assert second["first_hour"]["60min"]["answered"] == 0
    nobody = judge_siblings([day("1", 0, 20), day("2", 0, 20)])["planetlab-2"]
    assert nobody["forecasts"] == 0
    assert nobody["coverage"] is None


def test_outcomes_of_one_name_are_alike_so_an_interval_draws_names() -> None:
    covered = np.arange(200) >= 10
    alone = interval(covered, [str(i) for i in range(200)])
    assert alone == pytest.approx([0.92, 0.98], abs=0.005)
    of_twenty = interval(covered, [str(i // 10) for i in range(200)])
    assert of_twenty == pytest.approx([0.85, 1.0], abs=0.001), "all misses are one name's"
    assert interval(np.ones(4, np.bool_), ["a", "a", "b", "b"]) == [1, 1]


def recorded(folder: Path, days: int, names: int) -> Path:
    """A folder of PlanetLab days, one archive each, of made-up use."""
    rng = np.random.default_rng(4)
    (folder / "planetlab").mkdir()
    for day in range(days):
        with tarfile.open(folder / "planetlab" / f"2011030{day + 1}.tar.gz", "w:gz") as archive:
            for i in range(names):
                body = "\n".join(str(percent) for percent in rng.integers(1, 40, DAY)).encode()
                entry = tarfile.TarInfo(f"2011030{day + 1}/h{i}_net_site_{'ab'[i % 2]}")
                entry.size = len(body)
                archive.addfile(entry, io.BytesIO(body))
    return folder


def test_a_length_that_leaves_too_few_samples_is_left_out_and_said(tmp_path: Path) -> None:
    """Eight names in four folds, two days: four names fit on one day, 18 starts of 15 minutes or 16 of 180."""
    data, said = recorded(tmp_path, 3, 8), list[tuple[str, int, int]]()

    def say(message: str, done: int = 0, total: int = 0, /) -> None:
        said.append((message, done, total))

    effort = Effort(1000, options=FitOptions(trees=2, leaves=3, min_leaf=34))
    found = run(data, effort=effort, minutes=(180, 15), progress=say)
    assert list(found["history"]) == ["15min"]
    assert list(found["omitted"]) == ["180min"]
    assert "64 samples are too few to fit 6h-p95 of cpu" in found["omitted"]["180min"]
    assert said[0] == ("seed 9, 180 minutes: left out", 1, 2)
    assert said[-1][1:] == (2, 2)
    with pytest.raises(ModelError, match="too few to fit"):
        run(data, effort=effort, minutes=(180,))


def test_a_later_test_day_is_judged_by_what_the_one_before_has_shown() -> None:
    """Use is level on the days that are fitted on first, and doubles every six hours on the two that are tested."""
    base = np.random.default_rng(5).uniform(0.01, 0.05, (8, 1))
    names = tuple(f"h{i}_net_site_{'ab'[i % 2]}" for i in range(8))

    def day(number: int, growth: np.ndarray) -> UsageSeries:
        table = (base * growth).astype(np.float32)
        groups = tuple(name[-6:] for name in names)
        return UsageSeries(f"planetlab-{number}", names, 0, {CPU: table}, {CPU: np.ones(8)}, groups)

    level, growing = np.ones(DAY), 2.0 ** (np.arange(DAY) / (6 * HOUR))
    days = [day(number, growth) for number, growth in enumerate([level, level, growing, growing])]
    effort = Effort(1000, options=FitOptions(trees=2, leaves=3, min_leaf=10))
    found = one(Population(days), 180, effort=effort, seed=0)
    once = found["fitted_once"]
    assert found["tuned_rules"]["last"] < 0.7 * once["tuned_rules"]["last"], "rivals are tuned anew as well"
    assert found["model"] != once["model"]
    assert found["samples"] == once["samples"] == 2 * 6 * 8


def test_several_seeds_are_one_report_with_its_spread() -> None:
    first = {"gap": 0.1, "best": "a", "held": True, "table": {"a": {"loss": 1.0, "is": "x"}}, "seed": 9}
    second = {"gap": 0.3, "best": "b", "held": False, "table": {"a": {"loss": 2.0, "is": "x"}}, "seed": 10}
    found = pooled([first, second], range(9, 11), ("gap", "table"))
    assert found["gap"] == pytest.approx(0.2)
    assert found["table"] == {"a": {"loss": 1.5, "is": "x"}}
    assert (found["best"], found["held"]) == (["a", "b"], [True, False])
    assert found["spread"] == {
        "gap": {"least": 0.1, "most": 0.3},
        "table": {"a": {"loss": {"least": 1.0, "most": 2.0}}},
    }
    assert found["by_seed"] == [first, second]
    assert (found["seed"], found["seeds"]) == (9, [9, 10])
    assert pooled([first], range(9, 10), ("gap",)) == {**first, "seeds": [9]}
