"""The usage learner without Prometheus: what counts as crowded, kills, questions that got no answer, and what it says once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from placement.learning.prediction import Answers, Question
from placement.learning.reclaim import RECLAIMED_CPU
from placement.learning.usage import STEP_S
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from scheduler.learning.predict_worker import OnThread, Source, WorkerLostError
from scheduler.learning.telemetry import Sample, Subject, UsageStore
from scheduler.learning.usage_learner import PER_VISIT, Current, UsageLearner
from scheduler.ledger import Seen
from tests.live_engine import GIB, Live
from tests.test_prometheus import NOW, Clock, learner_of


def see(live: Live, name: str, spec: PodSpec, version: int = 1, **more: Any) -> None:
    live.ledger.see(Seen(f"uid-{name}", name, "shop", version, spec, "n1", **more))


def owned(number: int, cores: float = 0.1, gib: int = 1) -> PodSpec:
    amounts = ((CPU, int(cores * 1000)), (MEMORY, gib * GIB))
    return PodSpec(amounts, namespace="shop", owner=f"StatefulSet/w{number}")


@pytest.mark.parametrize(
    ("spec", "age_s", "full"),
    [
        (PodSpec(((CPU, 1000),), namespace="shop"), 0, True),
        (PodSpec(((RECLAIMED_CPU, 1000),), namespace="shop"), 0, False),
        (PodSpec(((CPU, 1000),), namespace="shop"), STEP_S + 1, False),
    ],
    ids=["used up", "by reclaimed pods", "some time ago"],
)
async def test_a_node_is_used_up_by_what_pods_with_requests_use_now(
    tmp_path: Path, spec: PodSpec, age_s: int, full: bool
) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    learner = learner_of(live, clock, None)
    see(live, "p", spec)
    see(live, "idle", PodSpec(((CPU, 1000),), namespace="shop"))
    learner.current["uid-p"] = Current(clock.now - age_s, 8000, GIB)
    learner.current["uid-idle"] = Current(clock.now, 0, GIB)
    await learner.turn()
    assert (learner.forecaster.crowding.share > 0) is full


async def test_a_kill_counts_as_the_larger_of_what_was_asked_for_and_used(tmp_path: Path) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    learner = learner_of(live, clock, None, horizon="1h-peak")
    learner.store = UsageStore(10_000, live.metrics, clock)
    for _ in range(26 * 12):
        clock.now += STEP_S
        for number, used in ((1, 0.5), (2, 3)):
            see(live, f"w{number}", owned(number), 1)
            pod = Subject("pod", f"uid-w{number}")
            await learner.store.put(Sample(pod, clock.now, cpu_millicores=50, memory_bytes=used * GIB))
        await learner.turn()
    for number in (1, 2):
        see(live, f"w{number}", owned(number), 2, oom_s=int(clock.now))
    await learner.turn()
    table = learner.forecaster.pasts(clock.now, 1)
    most = {name: memory.max() / GIB for name, (_, memory) in zip(*table, strict=True)}
    assert most["shop/StatefulSet/w1"] == pytest.approx(1.2, rel=0.01), "of its request"
    assert most["shop/StatefulSet/w2"] == pytest.approx(3.6, rel=0.01), "of what it used"


class Flaky(OnThread):
    """Is lost on some visits."""

    def __init__(self, *lost: int) -> None:
        self.lost, self.visits, self.asked = lost, 0, list[str]()

    async def answers(self, source: Source, questions: list[Question]) -> list[Answers]:
        self.visits += 1
        if self.visits in self.lost:
            raise WorkerLostError("died")
        self.asked += [question.workload for question in questions]
        return await super().answers(source, questions)


def fed(live: Live, clock: Clock, learner: UsageLearner, num: int) -> None:
    for number in range(num):
        see(live, f"w{number}", owned(number))
        for at in range(NOW, NOW + 30 * STEP_S, STEP_S):
            learner.forecaster.add(f"shop/StatefulSet/w{number}", at, at, cpu_millicores=50, memory_bytes=GIB)
    clock.now = NOW + 30.0 * STEP_S


async def test_questions_that_got_no_answer_are_asked_in_the_next_round_and_no_others(tmp_path: Path) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    learner = learner_of(live, clock, None)
    learner.asker = asker = Flaky(4 + 2)
    num = 3 * PER_VISIT + 1
    fed(live, clock, learner, num)
    await learner.turn()
    assert len(asker.asked) == num
    asker.asked.clear()
    clock.now += STEP_S
    for number in range(num):
        at = int(clock.now)
        learner.forecaster.add(f"shop/StatefulSet/w{number}", at, at, cpu_millicores=60, memory_bytes=GIB)
    await learner.turn()
    assert asker.visits == 4 + 2, "whoever was lost is not asked on"
    assert len(asker.asked) == PER_VISIT
    assert 'ullage_fallback_total{reason="prediction worker"} 1.0' in live.metrics.expose().decode()
    await learner.turn()
    assert sorted(asker.asked) == sorted(f"shop/StatefulSet/w{i}" for i in range(num)), "each once"
    await learner.turn()
    assert len(asker.asked) == num


async def test_who_finds_no_place_is_said_once_and_that_there_is_place_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    learner = learner_of(live, clock, None, max_workloads=3)
    fed(live, clock, learner, 5)
    with caplog.at_level(logging.INFO, "scheduler.learning.usage_learner"):
        for _ in range(3):
            await learner.turn()
        assert sum("max_workloads" in record.message for record in caplog.records) == 1
        for number in (3, 4):
            live.ledger.lose(f"uid-w{number}")
        for _ in range(3):
            await learner.turn()
    assert [r.message for r in caplog.records].count("every workload has a place again") == 1


async def test_samples_of_nodes_and_devices_are_no_pods_that_nobody_knows(tmp_path: Path) -> None:
    live, clock = Live(tmp_path / "r.db"), Clock()
    learner = learner_of(live, clock, None)
    learner.store = UsageStore(10, live.metrics, clock)
    see(live, "p", owned(1))
    await learner.store.put(Sample(Subject("node", "n1"), clock.now, cpu_millicores=5))
    await learner.store.put(Sample(Subject("device", "n1", "0"), clock.now, gpu_share=0.5))
    await learner.store.put(Sample(Subject("pod", "uid-p"), clock.now, gpu_share=0.5))
    await learner.turn()
    assert 'reason="pod unknown"' not in live.metrics.expose().decode()
    assert not learner.current
    await learner.store.put(Sample(Subject("pod", "shop/p"), clock.now, cpu_millicores=5.4))
    await learner.turn()
    assert learner.current == {"uid-p": Current(clock.now, 5, None)}
