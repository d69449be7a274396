"""What a service shows of the table that newcomers are told by: how much is in it, how old it is, who has shown how it does."""

from __future__ import annotations

from math import isnan
from pathlib import Path

from placement.knowledge import Knowledge
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from scheduler.learning.telemetry import Sample, Subject, UsageStore
from scheduler.learning.usage_learner import UsageLearner
from scheduler.ledger import Seen
from scheduler.settings import UsageSettings
from tests.live_engine import GIB, Live
from tests.test_workload_limit import exposed

HOUR_S = 3600


async def test_a_service_says_how_much_siblings_know_and_how_old_it_is(tmp_path: Path) -> None:
    live, now = Live(tmp_path / "r.db"), [240.0 * HOUR_S]
    live.state.learn(Knowledge.neutral())
    settings = UsageSettings(horizon="1h-peak", siblings=True)
    learner = UsageLearner(live.engine, settings, lambda: True, clock=lambda: now[0])
    learner.store = UsageStore(100, live.metrics, lambda: now[0])

    def see(uid: str) -> None:
        spec = PodSpec(((CPU, 100), (MEMORY, GIB)), owner=f"StatefulSet/{uid}")
        live.ledger.see(Seen(uid, uid, "default", 1, spec, "n2"))

    async def pass_time(uids: list[str], hours: int) -> None:
        for _ in range(hours * 12):
            now[0] += 300
            for uid in uids:
                await learner.store.put(Sample(Subject("pod", uid), now[0], cpu_millicores=10, memory_bytes=GIB))  # type: ignore[union-attr]
            await learner.turn()

    see("elder")
    await pass_time(["elder"], 3)
    pairs = exposed(live.metrics, 'ullage_siblings_pairs{resource="cpu"}')
    assert pairs == 2, "one an hour from a quarter of an hour on, known an hour later"
    assert HOUR_S <= exposed(live.metrics, "ullage_siblings_age_seconds") <= 2 * HOUR_S
    await pass_time(["elder"], 22)
    see("late")
    await pass_time(["elder", "late"], 3)
    assert exposed(live.metrics, 'ullage_prediction_newcomers{resource="cpu",rung="siblings"}') == 1
    assert exposed(live.metrics, 'ullage_prediction_trusted{rung="siblings"}') == 1
    assert exposed(live.metrics, 'ullage_siblings_pairs{resource="cpu"}') > pairs


async def test_a_service_that_is_not_told_by_siblings_does_not_say_that_they_are_up_to_date(tmp_path: Path) -> None:
    live = Live(tmp_path / "r.db")
    UsageLearner(live.engine, UsageSettings(), lambda: True)
    assert isnan(exposed(live.metrics, "ullage_siblings_age_seconds"))
