"""Features: one meaning when fitted and when served, and nothing from the future."""

from dataclasses import replace

import numpy as np
import pytest

from placement.learning import windows
from placement.learning.baselines import BASELINES, PEAK, Target, forecast, forecasts
from placement.learning.features import Context, FeatureSchema, featurize, schema_of, side_by_side
from placement.learning.usage import DAY, HOUR
from placement.learning.windows import P95, Past
from placement.resources import CPU, MEMORY
from simulator.learning.forecast_samples import cluster_features

RNG = np.random.default_rng(8)
SHARE = np.clip(RNG.gamma(0.4, 0.3, (3, 31 * DAY)), 0, 1).astype(np.float32)
SHARE[1, RNG.random(31 * DAY) < 0.05] = np.nan


def context(past: Past, num: int = 3) -> Context:
    other = Past(past.share[::-1].copy(), past.origins, np.ones(num))
    return Context(np.full(num, 2.0), np.full(num, 4.0), other)


@pytest.mark.parametrize("target", [Target(1, PEAK), Target(6, P95), Target(24, PEAK)])
@pytest.mark.parametrize("origin", [2 * HOUR, 3 * DAY + 5 * HOUR, 29 * DAY])
def test_no_feature_reads_a_sample_at_or_after_its_origin(target: Target, origin: int) -> None:
    changed = SHARE.copy()
    changed[:, origin:] = RNG.uniform(0, 1, changed[:, origin:].shape)
    origins = np.array([origin])
    tables = []
    for share in (SHARE, changed):
        past = Past(share, origins, np.ones(3))
        tables.append(side_by_side(featurize(past, target, context(past)), cluster_features(past)).values)
    np.testing.assert_array_equal(tables[0], tables[1])


def test_the_schema_does_not_depend_on_what_is_known_beside_the_series() -> None:
    past = Past(SHARE, np.array([29 * DAY]), np.ones(3))
    for target in (Target(1, PEAK), Target(6, P95), Target(24, PEAK)):
        schema = featurize(past, target, context(past)).schema
        assert len(schema) > 100
        assert schema.digest == schema_of(target).digest
    assert schema_of(Target(1, PEAK)).digest != schema_of(Target(24, PEAK)).digest


def test_a_single_row_equals_its_row_of_a_large_table() -> None:
    target = Target(6, PEAK)
    many = Past(SHARE, np.arange(29 * DAY, 31 * DAY, 11 * HOUR), np.ones(3))
    bare = Context(np.full(3, 2.0), np.full(3, 4.0))
    table = featurize(many, target, bare).values
    origin = int(many.origins[2])
    one = Past(SHARE[1:2, :origin], np.array([origin]), np.ones(1))
    row = featurize(one, target, Context(np.full(1, 2.0), np.full(1, 4.0))).values[0, 0]
    np.testing.assert_allclose(row, table[1, 2], rtol=1e-4, atol=1e-5)


def test_features_and_forecasts_of_many_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    target, origins = Target(6, P95), np.arange(DAY, 31 * DAY, 17 * HOUR)
    made = []
    for at_once in (1, 2, 3):
        monkeypatch.setattr(windows, "AT_ONCE", at_once)
        past = Past(SHARE, origins, np.array([1.0, 3.0, 40.0]))
        near = replace(context(past), cores=np.array([1.0, 3.0, 40.0]), memory_gib=np.array([5.0, 6.0, np.nan]))
        told = forecasts(tuple(BASELINES), past, target)
        alone = {name: forecast(name, Past(SHARE, origins, past.provisioned), target) for name in BASELINES}
        made.append([featurize(past, target, near).values, *told.values(), *alone.values()])
    for others in made[1:]:
        for mine, theirs in zip(made[0], others, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    num = len(BASELINES)
    for together, alone_too in zip(made[0][1 : num + 1], made[0][num + 1 :], strict=True):
        np.testing.assert_array_equal(together, alone_too)


def test_shares_scale_with_the_workload_and_the_rest_does_not() -> None:
    target = Target(6, PEAK)
    origins = np.array([29 * DAY])
    bare = Context(np.full(3, 2.0), np.full(3, 4.0))
    half, full = (featurize(Past(SHARE * np.float32(k), origins, np.ones(3)), target, bare) for k in (0.5, 1.0))
    schema = full.schema
    exact = [
        i
        for i, name in enumerate(schema.names)
        if schema.is_share[i] and not name.startswith("decayed_") and np.isfinite(full.values[0, 0, i])
    ]
    np.testing.assert_allclose(half.values[:, :, exact] * 2, full.values[:, :, exact], rtol=1e-3, atol=1e-5)
    fixed = [schema.names.index(n) for n in ("hour", "weekday", "cores", "memory_gib", "age_h")]
    np.testing.assert_array_equal(half.values[:, :, fixed], full.values[:, :, fixed])


@pytest.mark.parametrize(("resource", "provisioned"), [(CPU, 4.0), (MEMORY, 8 * 2.0**30)])
def test_steady_use_has_its_own_level_in_every_histogram(resource: str, provisioned: float) -> None:
    past = Past(np.full((1, 9 * DAY), 0.25, np.float32), np.array([9 * DAY]), np.full(1, provisioned), resource)
    table = featurize(past, Target(6, PEAK), Context(np.ones(1), np.ones(1)))
    decayed = [value for name, value in zip(table.schema.names, table.values[0, 0], strict=True) if "decayed_" in name]
    assert len(decayed) == 5
    assert all(0.25 <= value <= 0.25 * 1.1 for value in decayed), decayed


def test_the_digest_tells_order_and_names_apart() -> None:
    digests = {FeatureSchema(names).digest for names in (("a", "b"), ("b", "a"), ("ab",))}
    assert len(digests) == 3
