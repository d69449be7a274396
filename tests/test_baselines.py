"""Baselines against naive re-computation, sample by sample."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement.errors import ConfigError
from placement.learning.baselines import BASELINES, PEAK, Target, baselines_within, forecast, oracle, tuned_scale
from placement.learning.histograms import VPA_CPU, histogram_percentiles
from placement.learning.usage import DAY, HOUR
from placement.learning.windows import P95, Past
from placement.resources import CPU, MEMORY
from simulator.learning.stacking import pinball

RNG = np.random.default_rng(3)
SHARE = np.clip(RNG.gamma(0.3, 0.3, (4, 30 * DAY)), 0, 1).astype(np.float32)
SHARE[1, 5 * DAY : 6 * DAY] = np.nan
SHARE[2, RNG.random(30 * DAY) < 0.1] = np.nan
SHARE[3, : 20 * DAY] = np.nan
CORES = np.array([1.0, 2.0, 4.0, 8.0])
ORIGINS = np.array([28 * DAY, 28 * DAY + 5 * HOUR, 29 * DAY])
PAST = Past(SHARE, ORIGINS, CORES)


def windows(hours: int) -> list[list[np.ndarray]]:
    """Finite samples of the last ``hours`` hours, per workload and origin."""
    return [[(w := row[o - hours * HOUR : o])[np.isfinite(w)] for o in ORIGINS] for row in SHARE]


def naive(hours: int, rule: Callable[[np.ndarray], float]) -> np.ndarray:
    return np.clip([[rule(w) if len(w) else 1.0 for w in row] for row in windows(hours)], 0, 1)


@pytest.mark.parametrize(
    ("name", "hours", "rule"),
    [
        ("max1h", 1, np.max),
        ("max24h", 24, np.max),
        ("max72", 72, np.max),
        ("max7d", 168, np.max),
        ("max14d", 336, np.max),
        ("p95_24h", 24, lambda w: np.percentile(w, 95)),
        ("p99_24h", 24, lambda w: np.percentile(w, 99)),
        ("p99_7d", 168, lambda w: np.percentile(w, 99)),
        ("p95_14d", 336, lambda w: np.percentile(w, 95)),
        ("nsigma-2-10h", 10, lambda w: w.mean() + 2 * w.std()),
        ("nsigma-3-24h", 24, lambda w: w.mean() + 3 * w.std()),
        ("nsigma-5-7d", 168, lambda w: w.mean() + 5 * w.std()),
        ("max-predictor", 10, lambda w: max(w.mean() + 5 * w.std(), np.percentile(w, 99))),
    ],
)
def test_a_history_rule_equals_its_definition_on_the_raw_samples(
    name: str, hours: int, rule: Callable[[np.ndarray], float]
) -> None:
    found = forecast(name, PAST, Target(6, PEAK))
    np.testing.assert_allclose(found, naive(hours, rule), atol=2e-5)


@pytest.mark.parametrize("target", [Target(1, PEAK), Target(6, P95), Target(24, PEAK)])
def test_seasonal_rules_and_the_worst_window_equal_their_definitions(target: Target) -> None:
    statistic = np.max if target.statistic == PEAK else lambda w: np.percentile(w, 95)
    length = target.horizon_h * HOUR

    def at(row: int, start: int) -> float:
        window = SHARE[row, start : start + length]
        seen = window[np.isfinite(window)]
        return float(statistic(seen)) if start >= 0 and len(seen) >= length * 2 / 3 else -np.inf

    def largest(row: int, starts: list[int]) -> float:
        value = max(at(row, s) for s in starts)
        return min(value, 1.0) if np.isfinite(value) else 1.0

    rules: dict[str, Callable[[int], list[int]]] = {
        "seasonal-d1": lambda o: [o - DAY],
        "dsp-max": lambda o: [o - d * DAY for d in range(1, 8)],
        "max28w": lambda o: [o - (k + 1) * length for k in range(28 * 24 // target.horizon_h)],
    }
    for name, starts in rules.items():
        wanted = [[largest(row, starts(int(o))) for o in ORIGINS] for row in range(4)]
        np.testing.assert_allclose(forecast(name, PAST, target), wanted, atol=2e-5, err_msg=name)


def test_the_vpa_histogram_returns_the_upper_edge_of_the_decayed_percentile() -> None:
    past = Past(SHARE[:2], ORIGINS, CORES[:2])
    found = histogram_percentiles(past, VPA_CPU, (90.0,))[0]
    for row in range(2):
        for column, origin in enumerate(ORIGINS):
            values = SHARE[row, :origin].astype(float) * CORES[row]
            weight = np.where(np.isfinite(values), 2.0 ** ((np.arange(origin) - origin) / DAY), 0)
            bucket = VPA_CPU.bucket(values)
            mass = np.bincount(bucket, weight)
            at = int(np.searchsorted(np.cumsum(mass), 0.9 * mass.sum()))
            edge = 0.01 * (1.05 ** (at + 1) - 1) / 0.05
            assert found[row, column] == pytest.approx(edge / CORES[row], rel=1e-5)


def decayed(row: int, origin: int, half_life_h: float, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Amounts recorded before an origin, and what each weighs."""
    at = np.flatnonzero(np.isfinite(SHARE[row, :origin]))
    return SHARE[row, at].astype(float) * unit, 2.0 ** ((at - origin) / (half_life_h * HOUR))


def reached(bucket: np.ndarray, weight: np.ndarray, level: float) -> int:
    return int(np.searchsorted(np.cumsum(np.bincount(bucket, weight)), level * weight.sum()))


@pytest.mark.parametrize(("resource", "half_life_h", "level"), [(CPU, 12, 0.95), (MEMORY, 24, 0.98)])
def test_koordinator_and_the_last_sample_equal_their_definitions_on_the_raw_samples(
    resource: str, half_life_h: float, level: float
) -> None:
    unit, first = (CORES, 0.025) if resource == CPU else (CORES * 2**30, 5 * 2.0**20)
    past, target = Past(SHARE, ORIGINS, unit, resource), Target(6, PEAK)
    found, last = forecast("koordinator", past, target), forecast("last", past, target)
    for row in range(4):
        for column, origin in enumerate(ORIGINS.tolist()):
            values, weight = decayed(row, origin, half_life_h, unit[row])
            bucket = np.where(values < first, 0, np.floor(np.log1p(values * 0.05 / first) / np.log(1.05))).astype(int)
            edge = first * (1.05 ** (reached(bucket, weight, level) + 1) - 1) / 0.05
            assert found[row, column] == pytest.approx(min(1.1 * edge / unit[row], 1), rel=1e-5)
            assert last[row, column] == pytest.approx(values[-1] / unit[row], rel=1e-6)


@pytest.mark.parametrize(("resource", "half_life_h", "level"), [(CPU, 12, 0.95), (MEMORY, 48, 0.98)])
def test_autopilot_weighs_400_bins_by_load_and_age(resource: str, half_life_h: float, level: float) -> None:
    found = forecast("autopilot-mw", Past(SHARE, ORIGINS, CORES, resource), Target(6, PEAK))
    for row in range(4):
        for column, origin in enumerate(ORIGINS.tolist()):
            share, weight = decayed(row, origin, half_life_h, 1.0)
            bucket = np.floor(share * 400).astype(int)
            edge = (reached(bucket, weight * (bucket + 1) / 400, level) + 1) / 400
            # a bin on the edge of the percentile may differ by rounding: one bin at most
            assert found[row, column] == pytest.approx(min(1.1 * edge, 1), abs=1.1 / 400 + 1e-6)


def test_autopilot_knows_a_workload_that_is_idle() -> None:
    """All of its load is in the first bin; without load there is no histogram by load, but one by bins."""
    idle = Past(np.zeros((1, DAY), np.float32), np.array([DAY]), np.ones(1))
    assert forecast("autopilot-mw", idle, Target(6, PEAK))[0, 0] == pytest.approx(1.1 / 400)


@pytest.mark.parametrize(("resource", "least"), [(CPU, 0.025), (MEMORY, 250e6)])
def test_vpa_has_floors_where_it_is_named_so(resource: str, least: float) -> None:
    given = np.array([2, 10, 0.5]) * least
    past = Past(np.array([[1e-4], [0.9], [0.5]], np.float32).repeat(DAY, axis=1), np.array([DAY]), given, resource)
    plain, floored = (forecast(f"vpa-p90{more}", past, Target(6, PEAK))[:, 0] for more in ("", "-floors"))
    assert plain[0] < floored[0] == pytest.approx(0.5)
    assert (floored[1], floored[2]) == (plain[1], 1.0), "never above the limit"


def test_vpa_memory_takes_one_peak_a_day() -> None:
    share = np.full((1, 10 * DAY), 0.1, np.float32)
    share[0, 9 * DAY + 7] = 0.8
    end, limit = np.array([10 * DAY]), np.array([2.0**34])
    assert forecast("vpa-p90", Past(share, end, limit, MEMORY), Target(6, PEAK))[0, 0] > 0.8
    calm = np.full((1, 10 * DAY), 0.1, np.float32)
    assert forecast("vpa-p90", Past(calm, end, limit, MEMORY), Target(6, PEAK))[0, 0] < 0.13


def test_koordinator_counts_the_request_while_a_workload_is_younger_than_a_day() -> None:
    share = np.full((2, 3 * DAY), 0.2, np.float32)
    share[1, : 3 * DAY - 23 * HOUR] = np.nan
    found = forecast("koordinator", Past(share, np.array([3 * DAY]), np.ones(2)), Target(6, PEAK))
    assert found[1, 0] == 1
    assert 0.2 < found[0, 0] < 0.3


def test_coach_looks_at_the_windows_of_the_day_that_the_target_touches() -> None:
    share = np.full((1, 9 * DAY), 0.1, np.float32)
    share[0, 6 * DAY + 13 * HOUR] = 0.9
    start = 300
    noon, night = (Past(share, np.array([8 * DAY + h * HOUR]), np.ones(1), start_s=start) for h in (12, 20))
    assert forecast("coach-6x4h", noon, Target(1, PEAK))[0, 0] == pytest.approx(0.9)
    assert forecast("coach-6x4h", night, Target(1, PEAK))[0, 0] == pytest.approx(0.1)


@pytest.mark.parametrize("name", list(BASELINES))
def test_no_baseline_reads_a_sample_at_or_after_its_origin(name: str) -> None:
    changed = SHARE.copy()
    changed[:, ORIGINS[0] :] = 0.77
    target = Target(6, P95)
    before = forecast(name, Past(SHARE, ORIGINS[:1], CORES), target)
    after = forecast(name, Past(changed, ORIGINS[:1], CORES), target)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", list(BASELINES))
def test_every_baseline_answers_the_request_without_history_and_stays_within_the_limit(name: str) -> None:
    empty = Past(np.full((1, 2 * DAY), np.nan, np.float32), np.array([2 * DAY]), np.ones(1))
    assert forecast(name, empty, Target(6, PEAK))[0, 0] == (np.float32(0.9) if name == "borg-phi" else 1)
    full = forecast(name, PAST, Target(6, PEAK))
    assert ((full >= 0) & (full <= 1)).all()


@pytest.mark.parametrize("name", list(BASELINES))
@pytest.mark.parametrize("target", [Target(1, PEAK), Target(24, P95)])
def test_every_baseline_answers_for_a_series_shorter_than_an_hour(name: str, target: Target) -> None:
    minutes = Past(np.full((2, 6), 0.25, np.float32), np.array([6]), np.ones(2))
    found = forecast(name, minutes, target)
    knows = name == "last" or name.startswith(("p95_", "p99_", "replay-", "max-predictor"))
    assert found == pytest.approx(0.25 if knows else 0.9 if name == "borg-phi" else 1)


def test_the_oracle_is_the_target_and_nan_where_too_little_was_recorded() -> None:
    found = oracle(PAST, Target(6, PEAK))
    assert found[0, 0] == SHARE[0, ORIGINS[0] : ORIGINS[0] + 6 * HOUR].max()
    late = oracle(Past(SHARE, np.array([30 * DAY - HOUR]), CORES), Target(6, PEAK))
    assert np.isnan(late).all()


def test_an_unknown_baseline_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no baseline is called 'max9'.*max72"):
        forecast("max9", PAST, Target(6, PEAK))


def test_a_day_of_history_leaves_out_what_needs_a_week() -> None:
    names = baselines_within(1)
    assert "max24h" in names
    assert not {"max7d", "max28w", "p99_7d", "seasonal-d1", "dsp-max", "coach-6x4h"} & set(names)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.floats(0.5, 0.99))
def test_the_tuned_scale_minimises_the_pinball_loss(seed: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    base, truth, weight = rng.gamma(1, 1, 200) + 0.01, rng.gamma(1, 1, 200), rng.integers(1, 9, 200).astype(float)
    scale = tuned_scale(base, truth, weight, level)
    best = pinball(truth, scale * base, weight, level)
    for other in (0.97 * scale, 1.03 * scale, 0.5 * scale, 2 * scale):
        assert best <= pinball(truth, other * base, weight, level) + 1e-9
