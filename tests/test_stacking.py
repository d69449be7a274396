"""Stacking and conformal calibration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.learning.stacking import conformal, pinball, stack


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_stack_is_convex_and_about_as_good_as_its_best_part(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.gamma(2, 0.1, 2000)
    parts = np.stack([np.full(2000, np.quantile(truth, q)) for q in (0.5, 0.95, 1.0)])
    weight = np.ones(2000)
    weights = stack(parts, truth, weight, 0.95)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    best = min(pinball(truth, part, weight, 0.95) for part in parts)
    assert pinball(truth, weights @ parts, weight, 0.95) <= 1.03 * best


def test_a_calibrated_forecast_covers_its_level_on_fresh_data_of_the_same_kind() -> None:
    rng = np.random.default_rng(0)
    forecast = rng.uniform(0.1, 0.4, 20_000)
    truth = forecast * rng.lognormal(0.2, 0.4, 20_000)
    covered = truth[10_000:] <= conformal(forecast[:10_000], truth[:10_000], 0.95) * forecast[10_000:]
    assert covered.mean() == pytest.approx(0.95, abs=0.01)


def test_a_stack_leaves_a_bad_part_and_is_drawn_to_its_prior_by_the_pull() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(0.1, 0.3, 3000)
    parts = np.stack([truth, np.full(3000, 0.9), np.full(3000, 0.8)])
    prior = np.array([0.1, 0.6, 0.3])
    free = stack(parts, truth, np.ones(3000), 0.95, prior=prior, rounds=200, rate=80.0, burn_in=100)
    bound = stack(parts, truth, np.ones(3000), 0.95, prior=prior, pull=1.0, rounds=200, rate=5.0, burn_in=100)
    assert free[0] > 0.98
    assert 0.1 < bound[0] < 0.5
    assert free.sum() == pytest.approx(1)
    assert bound.sum() == pytest.approx(1)


def test_without_outcomes_nothing_is_calibrated() -> None:
    nothing = np.zeros(0)
    assert conformal(nothing, nothing, 0.95) == 1
