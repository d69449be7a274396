"""Cold start: what is known of a workload that has run for minutes."""

import numpy as np
import pytest

from placement.resources import CPU
from placement.usage import DAY, HOUR, UsageSeries
from simulator.reproduce_cold_start import MINUTES, cold_samples, group_mean

NAMES = ("h1_net_site_a", "h2_net_site_a", "h1_net_site_b", "h3_net_site_c")
OWNERS = ("site_a", "site_a", "site_b", "site_c")
SHARE = np.random.default_rng(0).uniform(0, 0.5, (4, DAY)).astype(np.float32)
NUMBER = {name: i for i, name in enumerate(NAMES)}


def day(share: np.ndarray) -> UsageSeries:
    return UsageSeries("planetlab-20110303", NAMES, 300, {CPU: share}, {CPU: np.ones(4)}, OWNERS)


def test_a_group_mean_leaves_the_member_itself_out() -> None:
    found = group_mean(np.array([1.0, 3.0, 7.0]), np.array([0, 0, 1]))
    assert found[:2].tolist() == [3, 1]
    assert np.isnan(found[2])


@pytest.mark.parametrize("minutes", MINUTES)
def test_a_cold_sample_knows_nothing_of_its_future(minutes: int) -> None:
    now = 6 * HOUR + minutes // 5
    changed = SHARE.copy()
    changed[:, now:] = 0.9
    one, two = (cold_samples(day(s), {"site_a": 0.3}, minutes, 6, NUMBER, 0) for s in (SHARE, changed))
    np.testing.assert_array_equal(one.samples.rows, two.samples.rows)
    assert all((one.rules[name] == two.rules[name]).all() for name in one.rules)
    assert (two.samples.truth == np.float32(0.9)).all()


def test_a_cold_sample_sees_its_few_samples_and_its_owners_others() -> None:
    found = cold_samples(day(SHARE), {"site_a": 0.3}, 15, 6, NUMBER, 0).samples
    column = found.schema.names.index
    mine = SHARE[0, 6 * HOUR : 6 * HOUR + 3]
    assert found.rows[0, column("max_24h")] == mine.max()
    others = np.percentile(SHARE[1, 3 : 6 * HOUR + 3], 95)
    assert found.rows[0, column("owner_p95")] == pytest.approx(others, rel=1e-5)
    assert np.isnan(found.rows[2, column("owner_p95")])
    assert found.rows[0, column("owner_earlier_p95")] == pytest.approx(0.3)
