"""A clock that was ahead and is set back, and times that make no sense: nothing of the future stands, nothing grows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placement.learning.baselines import Target
from placement.learning.drift import Crowding
from placement.learning.facts import Facts
from placement.learning.forecasting import Forecaster
from placement.learning.kin import LEVELS, Standings
from placement.learning.prediction import HISTORY, ask
from placement.learning.usage import DAY, STEP_S, UsageHistory
from placement.resources import CPU, MEMORY
from scheduler.learning.telemetry import Sample, Subject, UsageStore
from scheduler.metrics import Metrics
from tests.live_engine import Live
from tests.test_prometheus import NOW, Clock, fake_prometheus, forecast, learner_of, reader, web_pod

GIB = 2**30
DAY_S = 86_400
ASKS = {"w": {CPU: 4000, MEMORY: GIB}}


def test_a_sample_of_1970_begins_no_history() -> None:
    history = UsageHistory("w")
    assert not history.add(0, cpu_millicores=1, now_s=NOW)
    assert history.add(NOW, cpu_millicores=1, now_s=NOW)
    snapshot = history.snapshot()
    assert snapshot is not None
    assert snapshot.first_s == snapshot.end_s
    assert history.refused == 1


@pytest.mark.parametrize("ahead_days", [0.1, 2, 400])
def test_a_history_set_back_ends_now_and_takes_what_comes(ahead_days: float) -> None:
    ahead_s = int(ahead_days * DAY_S)
    history = UsageHistory("w", days=3)
    for at in (*range(NOW, NOW + 3600, STEP_S), NOW + ahead_s):
        assert history.add(at, cpu_millicores=5)
    now = NOW + 3300
    history.rewind(now)
    assert history.add(now, cpu_millicores=7, now_s=now)
    snapshot = history.snapshot()
    assert snapshot is not None
    assert now <= snapshot.end_s <= now + 2 * STEP_S
    kept = snapshot.samples[CPU]
    assert kept[kept >= 0].tolist() == [*[5] * (11 if ahead_days < 3 else 0), 7]


def test_a_history_of_the_future_alone_is_none() -> None:
    history = UsageHistory("w", days=3)
    history.add(NOW + 9 * DAY_S, cpu_millicores=5)
    history.rewind(NOW)
    assert history.snapshot() is None


def played(made: Forecaster, begin_s: int, hours: int, cpu: int) -> int:
    now = begin_s
    for _ in range(hours):
        for _ in range(12):
            now += STEP_S
            made.add("w", now, now, cpu_millicores=cpu, memory_bytes=GIB // 2)
            made.crowding.look(now, 0, 1)
        made.take(ask(made.rungs, made.questions(ASKS)))
        made.settle(now)
    return now


@pytest.mark.parametrize("ahead_days", [2, 400])
def test_a_forecaster_goes_on_when_its_clock_is_set_back(ahead_days: int) -> None:
    made = Forecaster(Target(1))
    begin = NOW // 3600 * 3600
    now = played(made, begin, 40, 1000)
    played(made, now + ahead_days * DAY_S, 40, 1000)
    late = played(made, now, 70, 1000)
    found = made.forecasts(late).of["w"]
    assert (found.rung, found.cpu) == (HISTORY, 1000)
    assert len(made._promises) <= 2, "each is judged an hour later"
    assert len(made.crowding._looks) <= DAY
    assert {made_s // 3600 * 3600 <= late for made_s in (p.made_s for p in made._promises)} == {True}
    hours = [hour for outcomes in made._outcomes.values() for hour in outcomes._by_hour]
    assert max(hours) <= late // 3600
    far = made.forecasts(late + 7 * 3600).of["w"]
    assert (far.rung, far.cpu) == ("request", 4000), "without news it ages, as ever"


def test_crowding_set_back_forgets_the_future_and_keeps_the_past() -> None:
    crowding = Crowding(0.01)
    crowding.look(NOW, 1, 4)
    for step in range(12):
        crowding.look(NOW + 300 * DAY_S + step * STEP_S, 4, 4)
    crowding.settle()
    assert crowding.is_crowded
    crowding.rewind(NOW)
    for step in range(3 * DAY):
        crowding.look(NOW + step * STEP_S, 0, 4)
        crowding.settle()
        assert len(crowding._looks) <= DAY
    assert not crowding.is_crowded, "a day of calm ends it, not a year"


def test_kin_set_back_hear_what_is_said_now() -> None:
    standings = Standings(1)
    standings.meet({name: Facts("shop", "Deployment", name) for name in "ab"})
    for at, value in ((NOW + 90 * DAY_S, 0.9), (NOW, 0.1)):
        for name in "ab":
            standings.add(name, at, np.full((1, len(LEVELS)), value, np.float32))
        standings.rewind(NOW)
    assert standings.features(NOW)[standings.row("a"), 0, 0] == pytest.approx(0.1)


async def test_a_sample_from_before_the_clock_was_set_back_keeps_no_subject_out() -> None:
    clock = [float(NOW)]
    store = UsageStore(10, Metrics(), lambda: clock[0])
    pod = Subject("pod", "uid")
    clock[0] += DAY_S
    assert await store.put(Sample(pod, clock[0], cpu_millicores=1)) == "accepted"
    clock[0] = NOW
    assert await store.put(Sample(pod, clock[0], cpu_millicores=2)) == "accepted"
    assert await store.put(Sample(pod, clock[0] - 60, cpu_millicores=3)) == "stale"


async def test_prometheus_is_read_on_when_the_clock_is_set_back(tmp_path: Path) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    real = float(NOW)
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.pods = {"web-1": lambda t: 1.0 if t <= real else float("nan")}
        learner = learner_of(live, clock, client)
        await learner.turn()
        clock.now += 30 * DAY_S  # of this time nothing is known to Prometheus, and the ring forgets what it held
        await learner.turn()
        real = clock.now = NOW + 3600.0
        await learner.turn()
        assert (forecast(live).rung, forecast(live).cpu) == (HISTORY, 1000)
        fake.pods = {"web-1": lambda t: 3.0}
        clock.now += 1200
        await learner.turn()
        assert forecast(live).cpu == 3000, "what was used meanwhile is read"


async def test_an_empty_answer_is_asked_for_again(tmp_path: Path) -> None:
    """A server that answers, and has nothing: behind a querier whose stores are away, say."""
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.pods = {"web-1": lambda t: 1.0}
        learner = learner_of(live, clock, client)
        await learner.turn()
        pods, fake.pods = {"web-1": lambda t: 3.0 if t <= NOW + 1200 else 1.0}, {}
        clock.now += 1800
        await learner.turn()
        fake.pods = pods
        clock.now += 600
        await learner.turn()
        assert forecast(live).cpu == 3000


async def test_a_sample_that_came_late_is_read_again(tmp_path: Path) -> None:
    """Written from afar: when a step is read first, its last minutes are not there yet."""
    live, clock = Live(tmp_path / "r.db"), Clock()
    web_pod(live, "web-1")
    async with fake_prometheus() as fake, reader(fake) as client:
        fake.pods = {"web-1": lambda t: 1.0}
        learner = learner_of(live, clock, client)
        clock.now += 100
        await learner.turn()
        newest = learner._read_to_s
        fake.pods = {"web-1": lambda t: 3.0 if t == newest else 1.0}
        num = len(fake.forms)
        clock.now += 60
        await learner.turn()
        assert not any("start" in form for form in fake.forms[num:]), "nothing is read before there is a new step"
        clock.now += 300
        await learner.turn()
        assert forecast(live).cpu == 3000
        assert sum("start" in form for form in fake.forms[num:]) == 2, "one range of each resource"
