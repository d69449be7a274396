"""What is deployed is what is simulated: equal usage gives equal knowledge, version by version, live and in a replay."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from placement.errors import ModelError
from placement.knowledge import Knowledge
from placement.learning.baselines import Target
from placement.learning.forecasting import Forecaster
from placement.learning.prediction import MODEL, HistoryPredictor, Rungs, ask, load_rungs
from placement.learning.prediction import Question as Asked
from placement.learning.usage import DAY, STEP_S, UsageHistory, UsageSeries
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, PODS
from placement.strategies import STRATEGIES, strategy_named
from scheduler.learning.telemetry import Sample, Subject, UsageStore
from scheduler.learning.usage_learner import UsageLearner as LiveLearner
from scheduler.ledger import Seen
from scheduler.settings import UsageSettings
from simulator.compare import cells_of, compare, rungs_of
from simulator.comparison import Question
from simulator.learning.training import Effort, train
from simulator.replay import Replay, ReplayOptions
from simulator.reproduce.adversaries import attack
from simulator.reproduce.placement import Setting
from simulator.traces.trace import Trace, Usage
from simulator.usage.usage_learner import UsageLearner
from simulator.usage.usage_truth import UsageTruth
from tests.live_engine import Live
from tests.test_kin import owned

GIB = 2**30
TARGET = Target(1)
HOURS = 33


@dataclass
class Look:
    """Keeps, after each step of a replay, what every pod got and what is known."""

    truth: UsageTruth
    every_s: int = STEP_S
    got: dict[int, dict[str, tuple[float, float]]] = field(default_factory=dict)
    known: dict[int, Knowledge] = field(default_factory=dict)

    def act(self, replay: Replay) -> None:
        columns = zip(self.truth.here.uids, self.truth.latest.T.tolist(), strict=True)
        self.got[replay.time_s] = {uid: (cpu, memory) for uid, (cpu, memory) in columns}
        self.known[replay.time_s] = replay.state.knowledge


def busy_trace(num: int, *, burst: bool = True) -> Trace:
    """A pod for each of ``num`` workloads on two nodes; a burst in which nodes run out of CPU, and uneven load all along."""
    nodes = [NodeSpec(f"n{i}", ((CPU, 1650 * num), (MEMORY, 64 * GIB), (PODS, 110))) for i in range(2)]
    specs = [PodSpec(((CPU, 3000), (MEMORY, 4 * GIB)), owner=f"StatefulSet/db{i}") for i in range(num)]
    made = Trace.of("t", nodes, [(f"p{i}", s, 0, (HOURS + 1) * 3600) for i, s in enumerate(specs)])
    rng = np.random.default_rng(5)
    steps = HOURS * 12 + 1
    level = rng.uniform(100, 1500, num)[:, None] * (1 + 0.5 * (np.arange(steps) // 12 % 5 == 2))
    cpu = level * rng.uniform(0.6, 1.0, (num, steps))
    if burst:
        cpu[:, 31 * 12 : 32 * 12] = 3800
    memory = rng.uniform(0.5, 2.5, num)[:, None] * GIB * rng.uniform(0.95, 1.0, (num, steps))
    pod, step = np.repeat(np.arange(num), steps), np.tile(np.arange(steps), num)
    return made.but(
        usage=Usage(pod, step * STEP_S, np.rint(cpu).astype(int).ravel(), np.rint(memory).astype(int).ravel())
    )


def growing_trace(num: int, late: int, late_h: int, hours: int) -> Trace:
    """``num`` workloads on one node, and ``late`` more of them (the last) that come after ``late_h`` hours."""
    node = NodeSpec("n0", ((CPU, 4000 * (num + late)), (MEMORY, 512 * GIB), (PODS, 110)))
    specs = [PodSpec(((CPU, 3000), (MEMORY, 4 * GIB)), owner=f"StatefulSet/db{i}") for i in range(num + late)]
    begins = [0 if i < num else late_h * 3600 for i in range(num + late)]
    pods = [(f"p{i}", s, begin, (hours + 1) * 3600) for i, (s, begin) in enumerate(zip(specs, begins, strict=True))]
    rng = np.random.default_rng(8)
    pod, step, cpu, memory = [], [], [], []
    for i, begin in enumerate(begins):
        steps = np.arange(begin // STEP_S, hours * 12 + 1)
        pod.append(np.full(len(steps), i))
        step.append(steps * STEP_S)
        cpu.append(np.rint(rng.uniform(100, 900) * rng.uniform(0.6, 1.0, len(steps))).astype(int))
        memory.append(np.full(len(steps), GIB + i))
    table = (np.concatenate(part) for part in (pod, step, cpu, memory))
    return Trace.of("t", [node], pods).but(usage=Usage(*table))


def replayed(
    trace: Trace, strategy: str, rungs: Rungs, every_s: int, *, hours: int = HOURS, siblings: bool = False
) -> tuple[Look, Replay]:
    truth = UsageTruth(trace.usage)
    look = Look(truth)
    policies = (truth, UsageLearner(truth, rungs, every_s=every_s, siblings=siblings), look)
    replay = Replay(trace, STRATEGIES[strategy], ReplayOptions(policies=policies, end_s=hours * 3600))
    replay.run()
    return look, replay


async def served(
    trace: Trace,
    look: Look,
    replay: Replay,
    path: Path,
    strategy: str,
    model: str,
    every_s: int,
    siblings: bool = False,
) -> dict[int, Knowledge]:
    """The same pods where the replay put them, and what they got, by the Telemetry stream on a clock of our own."""
    now = [0.0]
    live = Live(path)
    live.state.learn(Knowledge.neutral())
    for name in ("n0", "n1", "n2"):
        live.ledger.lose_node(name)
    for node in trace.nodes:
        live.ledger.see_node(node)
    live.engine.strategy = strategy_named(strategy)
    settings = UsageSettings(model=model, horizon=TARGET.name, siblings=siblings)
    learner = LiveLearner(live.engine, settings, lambda: True, clock=lambda: now[0])
    learner.store = UsageStore(10_000, live.metrics, lambda: now[0])
    known = {}
    for time_s, got in look.got.items():
        now[0] = float(time_s)
        if every_s > STEP_S and time_s % every_s == 0:
            await learner.turn()  # in a replay what is rarer comes first
        for uid, (cpu, memory) in got.items():
            if uid not in live.ledger.pods:
                pod = replay.pod_of[uid]
                spec = trace.specs[trace.pods.spec[pod]]
                live.ledger.see(Seen(uid, uid, spec.namespace, 1, spec, replay.node_names[replay.node_of[pod]]))
            await learner.store.put(Sample(Subject("pod", uid), now[0], cpu_millicores=cpu, memory_bytes=memory))
        if every_s == STEP_S:
            await learner.turn()
        known[time_s] = live.state.knowledge
    return known


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the 1 h peak of both resources, from made-up workloads with a daily burst."""
    rng = np.random.default_rng(4)
    steps = np.arange(12 * DAY)
    bursts = [(steps % DAY) // 12 == hour for hour in rng.integers(0, 24, 16)]
    share = np.stack([np.where(b, x * 1.8, x * 0.3) for b, x in zip(bursts, rng.uniform(0.1, 0.5, 16), strict=True)])
    share = (share * rng.uniform(0.8, 1.1, share.shape)).astype(np.float32)
    names = tuple(f"w{i}" for i in range(16))
    given = {CPU: np.full(16, 4.0), MEMORY: np.full(16, 8.0 * GIB)}
    usage = {CPU: share * np.float32(4), MEMORY: share * np.float32(8 * GIB)}
    folder = tmp_path_factory.mktemp("model")
    train(UsageSeries("made-up", names, 0, usage, given), folder, seed=1, effort=Effort(2500, 800), targets=[TARGET])
    return str(folder)


@pytest.mark.parametrize(("strategy", "with_model"), [("predicted", False), ("coach-6x4h", False), ("predicted", True)])
async def test_serve_and_replay_know_the_same_at_every_step(
    tmp_path: Path, model: str, strategy: str, with_model: bool
) -> None:
    folder = model if with_model else ""
    every_s = 3600 if with_model else STEP_S  # a model takes its time
    trace = busy_trace(24, burst=not with_model)
    parts = STRATEGIES[strategy].reads_parts
    look, replay = replayed(trace, strategy, load_rungs(folder, TARGET, parts=parts), every_s)
    known = await served(trace, look, replay, tmp_path / "r.db", strategy, folder, every_s)
    assert [k.version for k in known.values()] == [k.version for k in look.known.values()]
    assert [k.digest for k in known.values()] == [k.digest for k in look.known.values()]
    assert known.keys() == look.known.keys()
    forecasts = [k.forecasts.of if k.forecasts is not None else {} for k in known.values()]
    rungs = [{f.rung for f in of.values()} for of in forecasts]
    best = "model" if with_model else "history"
    assert rungs[24 * 12 - 1] == {"request"}
    assert rungs[30 * 12] == {best}, "there are outcomes to promise with"
    if not with_model:
        assert rungs[32 * 12] == {"request"}, "nodes ran out of CPU"
    assert any(f.windows for f in forecasts[30 * 12].values()) == parts


async def test_serve_and_replay_know_the_same_of_owners_that_are_new(tmp_path: Path) -> None:
    hours, every_s = 37, 3600
    trace = growing_trace(12, 42, 27, hours)
    look, replay = replayed(trace, "predicted", load_rungs("", TARGET), every_s, hours=hours, siblings=True)
    known = await served(trace, look, replay, tmp_path / "r.db", "predicted", "", every_s, siblings=True)
    assert [k.digest for k in known.values()] == [k.digest for k in look.known.values()]
    last = known[max(known)].forecasts
    assert last is not None
    assert {n: f.rung for n, f in last.of.items() if f.rung != "history"} == {
        f"default/StatefulSet/db{i}": "siblings" for i in range(12, 54)
    }
    assert {f.cpu < 3000 for f in last.of.values()} == {True}


@pytest.mark.parametrize(("late_h", "rung"), [(25, "young"), (12, "request")])
async def test_serve_and_replay_agree_who_is_a_newcomer(tmp_path: Path, model: str, late_h: int, rung: str) -> None:
    """Who comes after a day in which others were measured; before, nobody knows."""
    hours = late_h + 10
    trace = growing_trace(3, 41, late_h, hours)
    look, replay = replayed(trace, "predicted", load_rungs(model, TARGET), 3600, hours=hours)
    known = await served(trace, look, replay, tmp_path / "r.db", "predicted", model, 3600)
    assert [k.digest for k in known.values()] == [k.digest for k in look.known.values()]
    last = known[max(known)].forecasts
    assert last is not None
    assert {last.of[f"default/StatefulSet/db{i}"].rung for i in range(3, 44)} == {rung}


@pytest.fixture(scope="module")
def kin_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of workloads whose bursts are as high as their namespace has them that day."""
    folder = tmp_path_factory.mktemp("kin")
    train(owned(), folder, seed=1, effort=Effort(4000, 1500), targets=[TARGET])
    return str(folder)


async def test_serve_and_replay_tell_models_the_same_of_namespaces_names_and_images(
    tmp_path: Path, kin_model: str
) -> None:
    plain = busy_trace(24, burst=False)
    specs = tuple(
        replace(s, namespace=f"ns{i % 3}", owner=f"Deployment/app-{i}", images=(f"shop/{i % 4}:{i}",), guaranteed=i < 9)
        for i, s in enumerate(plain.specs)
    )
    trace = replace(plain, specs=specs)
    rungs = load_rungs(kin_model, TARGET)
    assert rungs.reads_kin
    look, replay = replayed(trace, "predicted", rungs, 3600)
    known = await served(trace, look, replay, tmp_path / "r.db", "predicted", kin_model, 3600)
    assert [k.digest for k in known.values()] == [k.digest for k in look.known.values()]
    last = known[30 * 3600].forecasts
    assert last is not None
    assert {f.rung for f in last.of.values()} == {"model"}
    apart = replace(trace, specs=tuple(replace(s, namespace=f"n{i}", owner=f"Job/{i}-x") for i, s in enumerate(specs)))
    other, _ = replayed(apart, "predicted", rungs, 3600)
    told = other.known[30 * 3600].forecasts
    assert told is not None
    assert [f.cpu for f in told.of.values()] != [f.cpu for f in last.of.values()], "what they are told matters"


def test_an_answer_does_not_depend_on_what_else_is_asked(model: str) -> None:
    rng = np.random.default_rng(3)
    questions = []
    for number, (days, late) in enumerate(((3, 0), (12, 0), (28, 0), (28, 7))):
        history = UsageHistory(f"w{number}")
        for slot in range(1, days * DAY + 1 + late):
            history.add(slot * STEP_S, cpu_millicores=int(rng.integers(10, 4500)), memory_bytes=int(rng.integers(GIB)))
        snapshot = history.snapshot()
        assert snapshot is not None
        questions += [Asked(f"w{number}", {CPU: 4000, MEMORY: GIB}, snapshot, judges=number != 1)]
    rungs = load_rungs(model, TARGET)
    together = ask(rungs, questions)
    assert [a.workload for a in together] == ["w0", "w1", "w2", "w3"]
    assert together == [answer for question in questions for answer in ask(rungs, [question])]
    assert set(together[0].of[CPU].uppers) == {"model", "history"}
    assert bool(together[0].tried)
    assert not together[1].tried


def test_a_model_that_promises_too_little_is_corrected_by_how_it_would_have_done() -> None:
    """A model from elsewhere that says half of every peak: tried on the past, before anything is promised by it."""

    @dataclass(frozen=True)
    class Half(HistoryPredictor):
        def shares(self, batch, resource):  # type: ignore[no-untyped-def]  # as the base
            found = super().shares(batch, resource)
            return None if found is None else found / 2

    target = Target(6)
    rungs = Rungs(((MODEL, Half(target, {CPU: ("max24h", 1.0)})), *Rungs.of_history(target).predictors), target)
    forecaster = Forecaster(target, rungs=rungs)
    end_s = 12 * 86_400
    asks = {f"w{i}": {CPU: 4000, MEMORY: GIB} for i in range(5)}
    for name in asks:
        for at in range(STEP_S, end_s + 1, STEP_S):
            forecaster.add(name, at, end_s, cpu_millicores=1000, memory_bytes=GIB // 2)
    forecaster.take(ask(rungs, forecaster.questions(asks)))
    forecaster.settle(end_s)
    assert forecaster.factor(MODEL, CPU) == pytest.approx(2)
    found = forecaster.forecasts(end_s).of["w0"]
    assert (found.rung, found.cpu) == (MODEL, 1000)
    assert found.memory == GIB, "the model does not tell of memory"


def test_a_comparison_forecasts_with_a_model_and_says_at_once_if_it_cannot(tmp_path: Path, model: str) -> None:
    trace = str(tmp_path / "busy.ullage")
    busy_trace(8).save(tmp_path / "busy.ullage")
    question = Question((trace,), ("predicted", "coach-6x4h"), model=model, horizon=TARGET.name, until="empty")
    by_trees, by_parts = (rungs_of(cell) for cell in cells_of(question))
    assert [name for name, _ in by_trees.predictors] == ["model", "history"]
    assert [name for name, _ in by_parts.predictors] == ["history"]
    assert by_parts.parts
    result = compare(question, jobs=1)
    assert all(row["metrics"]["over_cpu_share"] > 0 for row in result.rows)
    with pytest.raises(ModelError, match="no model for 6h-peak"):
        compare(replace(question, horizon="6h-peak"), jobs=1)


def test_trees_of_another_cluster_are_corrected_before_they_count(model: str) -> None:
    setting = Setting(warmup_days=0, days=2, rollout_hours=5)
    row = attack(busy_trace(12), "foreign-model", setting, 0, 0, lambda: Path(model))
    assert row["rungs"][0][1] == "model"
    assert row["rungs"][0][0] >= 29 * 3600, "a day, and outcomes of four hours"
    assert all(factor > 0 for factor in row["factor"] if factor is not None)
