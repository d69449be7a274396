"""The digest of knowledge: what it is made of, and what of that is made once."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from placement.knowledge import Forecast, Forecasts, Knowledge, Lifetimes
from placement.learning.lifetimes import LifetimeForecaster
from placement.learning.survival import NUM_PARTS, lifespans
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY


def _known() -> Knowledge:
    rng = np.random.default_rng(4)
    found = lifespans(np.column_stack([rng.uniform(0.05, 0.6, (4, NUM_PARTS - 1)), np.ones(4)]), ["history"] * 4)
    of = {f"default/Job/it's-{i}": Forecast(100 + i, 7, 5, 6, windows=((i, 1),) * 6) for i in (2, 0, 1)}
    lifetimes = Lifetimes({f"w{i}": found[i] for i in (2, 0, 1)}, found[3], 900)
    return Knowledge(3, forecasts=Forecasts(of, "6h-peak"), lifetimes=lifetimes)


def test_the_digest_is_of_all_that_is_known_and_of_nothing_that_was_made_of_it() -> None:
    known = _known()
    assert known.forecasts is not None
    assert known.lifetimes is not None
    parts = [
        "3|None",
        repr((sorted(known.forecasts.of.items()), "6h-peak")),
        "\n".join(
            [f"{n}|{x.life_s}{x.gone_milli}{x.rung}" for n, x in sorted(known.lifetimes.of.items())]
            + [known.lifetimes.everyone.text, "900"]
        ),
    ]
    assert known.digest == hashlib.sha256("".join(parts).encode()).hexdigest()[:12]
    assert replace(known, version=4).digest != known.digest


def test_texts_of_lifespans_are_there_before_a_digest_is_asked_for() -> None:
    forecaster = LifetimeForecaster()
    for i in range(20):
        forecaster.began(f"p{i}", PodSpec(((CPU, 100), (MEMORY, 100)), owner=f"Job/j{i}"), 10 * i)
    forecaster.ended("p0", 300)
    forecaster.learn(400)
    forecaster.spell_out(forecaster.stale())
    told = forecaster.lifetimes(400)
    assert len(told.of) >= 20
    assert all("text" in vars(lifespan) for lifespan in told.of.values())
