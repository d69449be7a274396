"""Lifetimes learned while serving: from what the ledger shows at each look, into decisions that replay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from placement.log import DECISION, KNOWLEDGE, Asked, Event
from placement.log_lines import LineReader, LineWriter
from placement.playback import verify
from placement.strategies import STRATEGIES
from scheduler.learning.lifetime_learner import LifetimeLearner
from tests.live_engine import Live, cpu_pod

JOB, SERVICE = cpu_pod(1, owner="Job/batch"), cpu_pod(1, owner="StatefulSet/web")


async def test_jobs_that_end_and_services_that_stay_are_told_apart_and_decisions_replay(tmp_path: Path) -> None:
    live = Live(tmp_path / "records")
    live.engine.strategy = STRATEGIES["nilas"]
    now = 0
    live.ledger.clock = lambda: float(now)
    learner = LifetimeLearner(live.engine, 300, lambda: True)
    assert learner.is_needed
    state = live.state
    for i in range(4):
        state.bind(f"web-{i}", SERVICE, "n2", time_s=0)
    for round_ in range(40):
        now = 300 * round_
        if round_ >= 2:
            state.release(f"job-{round_ - 2}", time_s=now)
        state.bind(f"job-{round_}", JOB, "n1", time_s=now)
        await learner.turn()
    lifetimes = state.knowledge.lifetimes
    assert lifetimes is not None
    assert 300 < lifetimes.of_pod(JOB).life_s[0] < 1200
    assert lifetimes.of_pod(SERVICE).life_s[0] > 3 * lifetimes.of_pod(JOB).life_s[0]
    decision = STRATEGIES["nilas"].decide(state.snapshot(), SERVICE, None, 0)
    assert decision.node == "n2", "where services stay anyhow"
    asked = Asked(decision.strategy, SERVICE, 0, None)
    state.log.append(Event(now, DECISION, "web-9", decision.node, decision.devices, asked))
    writer, reader = LineWriter(), LineReader()
    lines = b"".join([writer.header(), *(writer.event(event) for event in state.log)]).splitlines(keepends=True)
    again = [event for event in reader.events(lines, "memory") if event.kind == KNOWLEDGE]
    assert again[-1].detail.digest == state.knowledge.digest == again[-1].subject
    assert list(verify(state.log, [STRATEGIES["nilas"]])) == []


async def test_it_looks_every_so_often_and_tells_once_the_ledger_is_complete(tmp_path: Path) -> None:
    live = Live(tmp_path / "records")
    live.engine.strategy = STRATEGIES["nilas"]
    complete = False
    learner = LifetimeLearner(live.engine, 0.001, lambda: complete)
    running = asyncio.create_task(learner.run())
    for i in range(60):
        live.state.bind(f"web-{i}", SERVICE, "n2")
    while len(learner.forecaster.history.running) < 60:
        await asyncio.sleep(0.001)
    assert live.state.knowledge.lifetimes is None
    complete = True
    while live.state.knowledge.lifetimes is None:
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_strategies_that_read_no_lifetimes_are_left_alone(tmp_path: Path) -> None:
    assert not LifetimeLearner(Live(tmp_path / "records").engine, 300, lambda: True).is_needed
