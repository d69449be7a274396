"""A wall clock that jumps: what is old stays as old as it is, and who slept knows it."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from placement.errors import ConfigError
from scheduler import clocks, recorder
from scheduler.eventlog import _retain
from scheduler.gates import GATE, NODE_ANNOTATION, TIME_ANNOTATION, timestamp
from scheduler.planning.planner import Planner
from scheduler.planning.planner_process import Order
from scheduler.planning.sweeper import sweep
from scheduler.records import Query, RecordReader, RecordStore
from scheduler.settings import RecordSettings
from tests.api_server import ApiServer, api_server, client_of, pod_object
from tests.live_engine import Live, cpu_pod
from tests.test_records import _sample

DAY_S = 86_400
NOW_S = 2_000_000_000


class Wall:
    """The wall clock, which may jump."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead_s)


def test_a_jump_ahead_ages_nothing_and_one_back_makes_nothing_younger_than_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall = Wall(monkeypatch)
    before = clocks.calm_s()
    wall.ahead_s = 30 * DAY_S
    assert 0 <= clocks.calm_s() - before < DAY_S
    wall.ahead_s = -30 * DAY_S
    assert clocks.calm_s() == pytest.approx(time.time(), abs=60)


def names(path: Path) -> set[str]:
    """Of the pods of which there is a record; none while there is no file."""
    try:
        with RecordReader(str(path)) as reader:
            return {record.name for record in reader.find(Query())}
    except ConfigError:
        return set()


def test_a_planner_that_slept_waits_for_its_next_order(monkeypatch: pytest.MonkeyPatch) -> None:
    planning: Any = SimpleNamespace(order=Order(100.0))
    for now_s, plans in ((99.0, True), (101.0, False)):
        monkeypatch.setattr("scheduler.planning.planner.boot_s", lambda at=now_s: at)
        assert Planner._is_ordered.__get__(planning) is plans


def test_records_outlive_a_clock_that_jumps_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "PRUNE_EVERY_S", 0.0)
    wall = Wall(monkeypatch)
    live = Live(tmp_path / "r.db", max_age_days=14)
    live.ask("before", cpu_pod(1))
    while not names(tmp_path / "r.db"):
        time.sleep(0.02)
    wall.ahead_s = 30 * DAY_S
    live.ask("after", cpu_pod(1))
    live.recorder.close()
    assert names(tmp_path / "r.db") == {"before", "after"}


def test_records_of_a_clock_that_was_ahead_make_room_first(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "r.db", RecordSettings(max_age_days=400, max_bytes=2**20))
    ahead = 365 * DAY_S
    store.write([_sample(i, NOW_S + ahead + i) for i in range(4000)])
    store.write([_sample(i, NOW_S - 10_000 + i) for i in range(4000, 5000)])
    assert store.prune(NOW_S, NOW_S) > 0
    store.close()
    with RecordReader(str(tmp_path / "r.db")) as reader:
        assert sum(record.asked_s < NOW_S for record in reader.find(Query())) == 1000


def test_segments_of_a_clock_that_was_ahead_make_room_first(tmp_path: Path) -> None:
    run = tmp_path / "run-1"
    run.mkdir()
    for number, day in enumerate((-3, -2, 300, 301, -1, 0)):
        path = run / f"{number:06d}.jsonl"
        path.write_bytes(b"x" * 100)
        os.utime(path, (time.time() + day * DAY_S,) * 2)
    _retain(tmp_path, 400, run / "000005.jsonl")
    assert sorted(path.name[:6] for path in run.iterdir()) == ["000000", "000001", "000004", "000005"]


def waits(api: ApiServer, *, planned_s: int = 0) -> None:
    """A pod that was made half a minute ago, gated, or planned at some time."""
    marks = {NODE_ANNOTATION: "n", TIME_ANNOTATION: timestamp(planned_s)} if planned_s else {}
    body = pod_object("p", creationTimestamp=timestamp(NOW_S - 30), annotations=marks)
    if planned_s:
        body["status"]["nominatedNodeName"] = "n"
    else:
        body["spec"]["schedulingGates"] = [{"name": GATE}]
    api.put("pods", body)


async def test_a_sweep_goes_by_the_clock_of_the_api_server(tmp_path: Path) -> None:
    """Ours is years off here."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        waits(api)
        for late_s, lifted in ((0, 0), (40, 1)):
            api.date = format_datetime(datetime.fromtimestamp(NOW_S + late_s, UTC), usegmt=True)
            swept = await sweep(client, client.server_s, deadline_s=60, gang_deadline_s=600)
            assert (swept.seen, swept.lifted) == (1, lifted)
        api.date = "soon"
        await client.call("GET", "/version")
        assert client.server_s() == pytest.approx(time.time(), abs=60)


async def test_a_nomination_by_a_clock_that_was_ahead_is_as_old_as_its_pod(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        waits(api, planned_s=NOW_S + DAY_S)
        for late_s, cleared in ((0, 0), (40, 1)):
            swept = await sweep(client, lambda late=late_s: NOW_S + late, deadline_s=60, gang_deadline_s=600)
            assert (swept.seen, swept.cleared) == (1, cleared)
